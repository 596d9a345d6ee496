/* SPDX-License-Identifier: MIT */
/* x86-64-v3: two ymm registers, masks as vectors of all-ones lanes. */
#include <immintrin.h>

typedef struct { __m256 lo, hi; } v16f;
typedef v16f vmask;

#define FA_V2(name, intrinsic) \
    FA_INLINE v16f name(v16f a, v16f b) { return (v16f){intrinsic(a.lo, b.lo), intrinsic(a.hi, b.hi)}; }
#define FA_CMP2(name, predicate) \
    FA_INLINE vmask name(v16f a, v16f b) { \
        return (vmask){_mm256_cmp_ps(a.lo, b.lo, predicate), _mm256_cmp_ps(a.hi, b.hi, predicate)}; \
    }

FA_INLINE v16f v_set1(float x) { return (v16f){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
FA_INLINE v16f v_zero(void) { return (v16f){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
FA_INLINE v16f v_load(const float *p) { return (v16f){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
FA_INLINE void v_store(float *p, v16f a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
/* lanes first..first+7 that are below n */
FA_INLINE __m256i fa_first8(int n, int first) {
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n - first), lane);
}
FA_INLINE v16f v_load_n(const float *p, int n) {
    return (v16f){_mm256_maskload_ps(p, fa_first8(n, 0)), _mm256_maskload_ps(p + 8, fa_first8(n, 8))};
}
FA_INLINE void v_store_n(float *p, v16f a, int n) {
    _mm256_maskstore_ps(p, fa_first8(n, 0), a.lo);
    _mm256_maskstore_ps(p + 8, fa_first8(n, 8), a.hi);
}
FA_INLINE v16f v_iota(void) {
    return (v16f){_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_ps(8, 9, 10, 11, 12, 13, 14, 15)};
}

FA_V2(v_add, _mm256_add_ps)
FA_V2(v_sub, _mm256_sub_ps)
FA_V2(v_mul, _mm256_mul_ps)
FA_V2(v_div, _mm256_div_ps)
FA_V2(v_max, _mm256_max_ps)
FA_V2(v_min, _mm256_min_ps)
FA_INLINE v16f v_fma(v16f a, v16f b, v16f c) {
    return (v16f){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
FA_INLINE v16f v_sqrt(v16f a) { return (v16f){_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
FA_INLINE v16f v_abs(v16f a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (v16f){_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
FA_INLINE v16f v_neg(v16f a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (v16f){_mm256_xor_ps(sign, a.lo), _mm256_xor_ps(sign, a.hi)};
}
FA_INLINE v16f v_round(v16f a) {
    return (v16f){_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                  _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
FA_INLINE __m256 fa_pow2_8(__m256 n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
FA_INLINE v16f v_pow2(v16f n) { return (v16f){fa_pow2_8(n.lo), fa_pow2_8(n.hi)}; }
FA_INLINE __m256 fa_step16_8(__m256 r, const uint32_t *table) {
    __m256i u = _mm256_castps_si256(r), upper = _mm256_slli_epi32(u, 28); /* bit 3 of the index is the sign */
    __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps((const float *)table), u);
    __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps((const float *)table + 8), u);
    __m256i entry = _mm256_castps_si256(_mm256_blendv_ps(low, high, _mm256_castsi256_ps(upper)));
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(u, 19), entry));
}
FA_INLINE v16f v_step16(v16f r, const uint32_t *table) { return (v16f){fa_step16_8(r.lo, table), fa_step16_8(r.hi, table)}; }
FA_INLINE __m256 fa_split8(__m256 a, __m256 *exponent) {
    const __m256i base = _mm256_set1_epi32(0x3f3504f3);
    __m256i shifted = _mm256_sub_epi32(_mm256_castps_si256(a), base);
    *exponent = _mm256_cvtepi32_ps(_mm256_srai_epi32(shifted, 23));
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_and_si256(shifted, _mm256_set1_epi32(0x007fffff)), base));
}
FA_INLINE v16f v_split(v16f a, v16f *exponent) {
    v16f r;
    r.lo = fa_split8(a.lo, &exponent->lo);
    r.hi = fa_split8(a.hi, &exponent->hi);
    return r;
}

FA_CMP2(m_lt, _CMP_LT_OQ)
FA_CMP2(m_le, _CMP_LE_OQ)
FA_CMP2(m_eq, _CMP_EQ_OQ)
FA_V2(m_and, _mm256_and_ps)
FA_V2(m_or, _mm256_or_ps)
FA_INLINE vmask m_not(vmask a) {
    const __m256 ones = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    return (vmask){_mm256_xor_ps(a.lo, ones), _mm256_xor_ps(a.hi, ones)};
}
FA_INLINE uint32_t m_truth16(const uint8_t *p) {
    __m128i zero = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)p), _mm_setzero_si128());
    return (uint32_t)_mm_movemask_epi8(zero) ^ 0xffffu;
}
FA_INLINE uint32_t m_bits(vmask a) {
    return (uint32_t)_mm256_movemask_ps(a.lo) | (uint32_t)_mm256_movemask_ps(a.hi) << 8;
}
FA_INLINE int m_any(vmask a) { return _mm256_movemask_ps(_mm256_or_ps(a.lo, a.hi)) != 0; }
FA_INLINE __m256 fa_bits8(uint32_t bits) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), bit), bit));
}
FA_INLINE vmask m_from_bits(uint32_t bits) { return (vmask){fa_bits8(bits), fa_bits8(bits >> 8)}; }
FA_INLINE __m256 fa_test8(const uint32_t *words, uint32_t bit) {
    __m256i b = _mm256_set1_epi32((int)bit);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_loadu_si256((const __m256i *)words), b), b));
}
FA_INLINE vmask m_test(const uint32_t *words, uint32_t bit) { return (vmask){fa_test8(words, bit), fa_test8(words + 8, bit)}; }
FA_INLINE v16f v_select(vmask m, v16f yes, v16f no) {
    return (v16f){_mm256_blendv_ps(no.lo, yes.lo, m.lo), _mm256_blendv_ps(no.hi, yes.hi, m.hi)};
}

FA_INLINE void fa_transpose8(__m256 r[8]) {
    __m256 t[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i] = t[i];
}

FA_INLINE __m256 fa_unzip8(__m256 a, __m256 b, int odd) {
    __m256 mixed = odd ? _mm256_shuffle_ps(a, b, 0xdd) : _mm256_shuffle_ps(a, b, 0x88);
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8));
}
FA_INLINE void v_unzip(v16f a, v16f b, v16f *even, v16f *odd) {
    *even = (v16f){fa_unzip8(a.lo, a.hi, 0), fa_unzip8(b.lo, b.hi, 0)};
    *odd = (v16f){fa_unzip8(a.lo, a.hi, 1), fa_unzip8(b.lo, b.hi, 1)};
}
FA_INLINE v16f fa_zip8(__m256 even, __m256 odd) {
    __m256 low = _mm256_unpacklo_ps(even, odd), high = _mm256_unpackhi_ps(even, odd);
    return (v16f){_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
}
FA_INLINE void v_zip(v16f even, v16f odd, v16f *a, v16f *b) {
    *a = fa_zip8(even.lo, odd.lo);
    *b = fa_zip8(even.hi, odd.hi);
}

FA_INLINE void v_transpose16(v16f r[16]) {
    __m256 q[8], s[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) q[i] = r[i].lo;
    fa_transpose8(q);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i].lo = q[i];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) q[i] = r[i].hi, s[i] = r[i + 8].lo;
    fa_transpose8(q);
    fa_transpose8(s);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i].hi = s[i], r[i + 8].lo = q[i];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) q[i] = r[i + 8].hi;
    fa_transpose8(q);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i + 8].hi = q[i];
}

/* ---- storage types ------------------------------------------------------------------------------------------------ */

FA_INLINE v16f v_load_f16(const uint16_t *p) {
    return (v16f){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
FA_INLINE __m256 fa_widen_bf16_8(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
FA_INLINE v16f v_load_bf16(const uint16_t *p) { return (v16f){fa_widen_bf16_8(p), fa_widen_bf16_8(p + 8)}; }
FA_INLINE __m256 fa_widen_i8_8(const int8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
FA_INLINE v16f v_load_i8(const int8_t *p) { return (v16f){fa_widen_i8_8(p), fa_widen_i8_8(p + 8)}; }

FA_INLINE __m256 fa_part_bf16_8(__m256 words, int part) {
    __m256i w = _mm256_castps_si256(words);
    return _mm256_castsi256_ps(part ? _mm256_and_si256(w, _mm256_set1_epi32((int)0xffff0000)) : _mm256_slli_epi32(w, 16));
}
FA_INLINE v16f v_part_bf16(v16f words, int part) { return (v16f){fa_part_bf16_8(words.lo, part), fa_part_bf16_8(words.hi, part)}; }
FA_INLINE __m256 fa_part_i8_8(__m256 words, int part) {
    __m256i w = _mm256_castps_si256(words);
    if (part < 3) w = _mm256_sll_epi32(w, _mm_cvtsi32_si128(24 - 8 * part));
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(w, 24));
}
FA_INLINE v16f v_part_i8(v16f words, int part) { return (v16f){fa_part_i8_8(words.lo, part), fa_part_i8_8(words.hi, part)}; }

FA_INLINE __m256 fa_quiet8(__m256 a) { /* any NaN -> the one NaN, whose narrow forms are the canonical ones */
    return _mm256_blendv_ps(a, _mm256_set1_ps(__builtin_nanf("")), _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}
FA_INLINE void v_store_f16(uint16_t *p, v16f a) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(fa_quiet8(a.lo), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(fa_quiet8(a.hi), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
FA_INLINE __m256i fa_narrow_bf16_8(__m256 a) {
    __m256i u = _mm256_castps_si256(fa_quiet8(a));
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
}
FA_INLINE void v_store_bf16(uint16_t *p, v16f a) {
    __m256i both = _mm256_packus_epi32(fa_narrow_bf16_8(a.lo), fa_narrow_bf16_8(a.hi));
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(both, 0xd8));
}
FA_INLINE void v_store_i8(int8_t *p, v16f a) {
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
    words = _mm256_permute4x64_epi64(words, 0xd8);
    _mm_storeu_si128((__m128i *)p, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

#include "stored_n.h"

#undef FA_V2
#undef FA_CMP2
