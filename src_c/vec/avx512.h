/* SPDX-License-Identifier: MIT */
/* x86-64-v4: one zmm register, mask registers. */
#include <immintrin.h>

typedef __m512 v16f;
typedef __mmask16 vmask;

#define FA_FIRST(n) ((__mmask16)((1u << (n)) - 1u))

FA_INLINE v16f v_set1(float x) { return _mm512_set1_ps(x); }
FA_INLINE v16f v_zero(void) { return _mm512_setzero_ps(); }
FA_INLINE v16f v_load(const float *p) { return _mm512_loadu_ps(p); }
FA_INLINE void v_store(float *p, v16f a) { _mm512_storeu_ps(p, a); }
FA_INLINE v16f v_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps(FA_FIRST(n), p); }
FA_INLINE void v_store_n(float *p, v16f a, int n) { _mm512_mask_storeu_ps(p, FA_FIRST(n), a); }
FA_INLINE v16f v_iota(void) { return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }

FA_INLINE v16f v_add(v16f a, v16f b) { return _mm512_add_ps(a, b); }
FA_INLINE v16f v_sub(v16f a, v16f b) { return _mm512_sub_ps(a, b); }
FA_INLINE v16f v_mul(v16f a, v16f b) { return _mm512_mul_ps(a, b); }
FA_INLINE v16f v_div(v16f a, v16f b) { return _mm512_div_ps(a, b); }
FA_INLINE v16f v_fma(v16f a, v16f b, v16f c) { return _mm512_fmadd_ps(a, b, c); }
FA_INLINE v16f v_max(v16f a, v16f b) { return _mm512_max_ps(a, b); }
FA_INLINE v16f v_min(v16f a, v16f b) { return _mm512_min_ps(a, b); }
FA_INLINE v16f v_sqrt(v16f a) { return _mm512_sqrt_ps(a); }
FA_INLINE v16f v_abs(v16f a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
FA_INLINE v16f v_neg(v16f a) { return _mm512_xor_ps(_mm512_set1_ps(-0.0f), a); }
FA_INLINE v16f v_round(v16f a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FA_INLINE v16f v_pow2(v16f n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
FA_INLINE v16f v_step16(v16f r, const uint32_t *table) {
    __m512i u = _mm512_castps_si512(r), entry = _mm512_permutexvar_epi32(u, _mm512_loadu_si512(table));
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(u, 19), entry));
}
FA_INLINE v16f v_split(v16f a, v16f *exponent) {
    const __m512i base = _mm512_set1_epi32(0x3f3504f3);
    __m512i shifted = _mm512_sub_epi32(_mm512_castps_si512(a), base);
    *exponent = _mm512_cvtepi32_ps(_mm512_srai_epi32(shifted, 23));
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_and_si512(shifted, _mm512_set1_epi32(0x007fffff)), base));
}

FA_INLINE vmask m_lt(v16f a, v16f b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
FA_INLINE vmask m_le(v16f a, v16f b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
FA_INLINE vmask m_eq(v16f a, v16f b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
FA_INLINE vmask m_and(vmask a, vmask b) { return (vmask)(a & b); }
FA_INLINE vmask m_or(vmask a, vmask b) { return (vmask)(a | b); }
FA_INLINE vmask m_not(vmask a) { return (vmask)~a; }
FA_INLINE int m_any(vmask a) { return a != 0; }
FA_INLINE vmask m_from_bits(uint32_t bits) { return (vmask)bits; }
FA_INLINE vmask m_test(const uint32_t *words, uint32_t bit) {
    return _mm512_test_epi32_mask(_mm512_loadu_si512(words), _mm512_set1_epi32((int)bit));
}
FA_INLINE uint32_t m_truth16(const uint8_t *p) {
    __m128i zero = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)p), _mm_setzero_si128());
    return (uint32_t)_mm_movemask_epi8(zero) ^ 0xffffu;
}
FA_INLINE uint32_t m_bits(vmask a) { return a; }
FA_INLINE v16f v_select(vmask m, v16f yes, v16f no) { return _mm512_mask_blend_ps(m, no, yes); }

FA_INLINE void v_unzip(v16f a, v16f b, v16f *even, v16f *odd) {
    const __m512i first = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    *even = _mm512_permutex2var_ps(a, first, b);
    *odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(first, _mm512_set1_epi32(1)), b);
}
FA_INLINE void v_zip(v16f even, v16f odd, v16f *a, v16f *b) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    *a = _mm512_permutex2var_ps(even, low, odd);
    *b = _mm512_permutex2var_ps(even, _mm512_add_epi32(low, _mm512_set1_epi32(8)), odd);
}

FA_INLINE void v_transpose16(v16f r[16]) {
    __m512 t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* ---- storage types ------------------------------------------------------------------------------------------------ */

FA_INLINE v16f v_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
FA_INLINE v16f v_load_f16_n(const uint16_t *p, int n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(FA_FIRST(n), p)); }
FA_INLINE v16f fa_widen_bf16(__m256i h) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16)); }
FA_INLINE v16f v_load_bf16(const uint16_t *p) { return fa_widen_bf16(_mm256_loadu_si256((const __m256i *)p)); }
FA_INLINE v16f v_load_bf16_n(const uint16_t *p, int n) { return fa_widen_bf16(_mm256_maskz_loadu_epi16(FA_FIRST(n), p)); }
FA_INLINE v16f fa_widen_i8(__m128i b) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(b)); }
FA_INLINE v16f v_load_i8(const int8_t *p) { return fa_widen_i8(_mm_loadu_si128((const __m128i *)p)); }
FA_INLINE v16f v_load_i8_n(const int8_t *p, int n) { return fa_widen_i8(_mm_maskz_loadu_epi8(FA_FIRST(n), p)); }

FA_INLINE v16f fa_quiet(v16f a) { /* any NaN -> the one NaN, whose narrow forms are the canonical ones */
    return _mm512_mask_mov_ps(a, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), _mm512_set1_ps(__builtin_nanf("")));
}
FA_INLINE __m256i fa_narrow_f16(v16f a) { return _mm512_cvtps_ph(fa_quiet(a), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FA_INLINE void v_store_f16(uint16_t *p, v16f a) { _mm256_storeu_si256((__m256i *)p, fa_narrow_f16(a)); }
FA_INLINE void v_store_f16_n(uint16_t *p, v16f a, int n) { _mm256_mask_storeu_epi16(p, FA_FIRST(n), fa_narrow_f16(a)); }
/* Integer arithmetic: the bf16 instruction flushes denormals. */
FA_INLINE __m256i fa_narrow_bf16(v16f a) {
    __m512i u = _mm512_castps_si512(fa_quiet(a));
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16));
}
FA_INLINE void v_store_bf16(uint16_t *p, v16f a) { _mm256_storeu_si256((__m256i *)p, fa_narrow_bf16(a)); }
FA_INLINE void v_store_bf16_n(uint16_t *p, v16f a, int n) { _mm256_mask_storeu_epi16(p, FA_FIRST(n), fa_narrow_bf16(a)); }
FA_INLINE __m128i fa_narrow_i8(v16f a) { return _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)); }
FA_INLINE void v_store_i8(int8_t *p, v16f a) { _mm_storeu_si128((__m128i *)p, fa_narrow_i8(a)); }
FA_INLINE void v_store_i8_n(int8_t *p, v16f a, int n) { _mm_mask_storeu_epi8(p, FA_FIRST(n), fa_narrow_i8(a)); }

FA_INLINE v16f v_part_bf16(v16f words, int part) {
    __m512i w = _mm512_castps_si512(words);
    return _mm512_castsi512_ps(part ? _mm512_and_si512(w, _mm512_set1_epi32((int)0xffff0000)) : _mm512_slli_epi32(w, 16));
}
FA_INLINE v16f v_part_i8(v16f words, int part) {
    __m512i w = _mm512_castps_si512(words);
    if (part < 3) w = _mm512_sll_epi32(w, _mm_cvtsi32_si128(24 - 8 * part));
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(w, 24));
}

#undef FA_FIRST
