/* SPDX-License-Identifier: MIT */
/*
 * Exact products of small integers as attention needs them, beside those of dot.h: weights of keys, 0..255, times values,
 * s8. 16 sums at a time.
 *
 * Lanes are queries (the tile):
 *   p_put(to, e)          weights of 4 keys, e[i] rounded to even, 16 lanes each -> FA_WEIGHT_BYTES at `to`
 *   p_take(from)          those again
 *   p_step(a, v, p)       a + products with the values v of these keys, 4 of FA_VALUE_BYTES each
 * Lanes are columns (decode):
 *   p_row(to, j, e)       weights of keys j..j+15 of a row, j a multiple of 16; FA_ROW_BYTES for a key
 *   p_keys(to, row, s, n) columns 0..15, the first n of them, of 4 rows of values s bytes apart, turned: FA_TURN_BYTES
 *   p_columns(a, to, row, g)  a + products with weights 4 g..4 g + 3 of a row
 *
 *   p_zero(), p_float(a)  sums of 0, and sums as floats
 *   k_start(sum)          what products with 16 rows of dot.h start with, a number for each row of this sum, 16 of them
 *   k_begin(start)        at `start`; k_float(a): what comes out, as floats
 *   k_count(a, bytes)     a + each lane's 4 integers of [16][4] s8; k_starts(start, a): k_start of each lane
 *   p_copy(to, from, n)   n integers s8 -> the form in which dot.h has inputs, zeros up to a multiple of 16
 *   p_values(to, from)    64 integers s8, [16][4] -> the form p_step reads values in
 *   p_bytes(to, t)        the integers q in -127..127 of t[i] = q + FA_BYTES_ROUND, i = 0..3 -> [16][4] s8
 *   p_quarters(e, by, n)  sum of e[j] by[j], j below n, a multiple of 4: of j = 0, 1, 2, 3 modulo 4 each by FMA, then (0 + 1) + (2 + 3)
 *   p_raise(p, r, x)      the float of bits p + (r << 23), of the bits of r; 0 where x is below -126 or NaN
 */
#ifndef FA_VEC_DOT_ATTENTION_H
#define FA_VEC_DOT_ATTENTION_H

#include "dot.h"

#define FA_BYTES_ROUND 0x1.0001p23f /* 2^23 + 128 */
#define FA_WEIGHT_ROUND 0x1.8p23f /* added to 0..255, leaves the integer in the low byte */

#if defined(FA_VEC_VNNI)
FA_INLINE int32_t k_start(int32_t sum) { return -128 * sum; } /* inputs are 128 too large */
FA_INLINE d_sums k_begin(const int32_t *start) { return _mm512_loadu_si512(start); }
FA_INLINE v16f k_float(d_sums a) { return d_float(a); }
#else
FA_INLINE int32_t k_start(int32_t sum) { return 0 * sum; }
FA_INLINE d_sums k_begin(const int32_t *start) { (void)start; return d_zero(); }
FA_INLINE v16f k_float(d_sums a) { return d_total(a, NULL); }
#endif

#if defined(FA_VEC_AVX512)

typedef __m512i p_sums, p_turned;
FA_INLINE p_sums p_zero(void) { return _mm512_setzero_si512(); }
FA_INLINE v16f p_float(p_sums a) { return _mm512_cvtepi32_ps(a); }
FA_INLINE v16f p_raise(v16f p, v16f r, v16f x) {
    const __mmask16 keep = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_GE_OQ);
    const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(r), 23);
    return _mm512_castsi512_ps(_mm512_maskz_add_epi32(keep, _mm512_castps_si512(p), n));
}
FA_INLINE __m512i fa_weight_bits(v16f e) { return _mm512_castps_si512(_mm512_add_ps(e, _mm512_set1_ps(0x1p23f))); }
/* 16 columns of 4 rows -> [16][4] */
FA_INLINE __m512i fa_turn16(const int8_t *row, ptrdiff_t s, int n) {
    __m128i a, b, c, d;
    if (n == 16) {
        a = _mm_loadu_si128((const __m128i *)row), b = _mm_loadu_si128((const __m128i *)(row + s));
        c = _mm_loadu_si128((const __m128i *)(row + 2 * s)), d = _mm_loadu_si128((const __m128i *)(row + 3 * s));
    } else {
        const __mmask16 some = (__mmask16)((1u << n) - 1u);
        a = _mm_maskz_loadu_epi8(some, row), b = _mm_maskz_loadu_epi8(some, row + s);
        c = _mm_maskz_loadu_epi8(some, row + 2 * s), d = _mm_maskz_loadu_epi8(some, row + 3 * s);
    }
    const __m128i lo = _mm_unpacklo_epi8(a, b), hi = _mm_unpackhi_epi8(a, b);
    const __m128i lo2 = _mm_unpacklo_epi8(c, d), hi2 = _mm_unpackhi_epi8(c, d);
    const __m256i first = _mm256_setr_m128i(_mm_unpacklo_epi16(lo, lo2), _mm_unpackhi_epi16(lo, lo2));
    const __m256i second = _mm256_setr_m128i(_mm_unpacklo_epi16(hi, hi2), _mm_unpackhi_epi16(hi, hi2));
    return _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
}

FA_INLINE void p_bytes(int8_t *to, const v16f t[4]) {
    __m512i x = _mm512_add_epi32(_mm512_slli_epi32(_mm512_castps_si512(t[3]), 8), _mm512_castps_si512(t[2]));
    x = _mm512_add_epi32(_mm512_slli_epi32(x, 8), _mm512_castps_si512(t[1]));
    x = _mm512_ternarylogic_epi32(_mm512_set1_epi32(255), _mm512_castps_si512(t[0]), _mm512_slli_epi32(x, 8), 0xca);
    _mm512_storeu_si512(to, _mm512_xor_si512(x, _mm512_set1_epi32((int)0x80808080u)));
}

#if defined(FA_VEC_VNNI)

#define FA_VALUE_BYTES 1
FA_INLINE void p_values(void *to, const int8_t *from) { memcpy(to, from, 64); }
#define FA_WEIGHT_BYTES 64
#define FA_ROW_BYTES 1
typedef __m512i p_weights;
FA_INLINE void p_put(void *to, const v16f e[4]) {
    __m512i t = _mm512_add_epi32(_mm512_slli_epi32(fa_weight_bits(e[3]), 8), fa_weight_bits(e[2]));
    t = _mm512_add_epi32(_mm512_slli_epi32(t, 8), fa_weight_bits(e[1]));
    t = _mm512_ternarylogic_epi32(_mm512_set1_epi32(255), fa_weight_bits(e[0]), _mm512_slli_epi32(t, 8), 0xca);
    _mm512_storeu_si512(to, t);
}
FA_INLINE p_weights p_take(const void *from) { return _mm512_loadu_si512(from); }
FA_INLINE p_sums p_step(p_sums a, const void *v, p_weights p) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(a) : "v"(p), "m"(*(const int32_t *)v));
    return a;
}
FA_INLINE void p_row(void *row, int64_t j, v16f e) {
    _mm_storeu_si128((__m128i *)((uint8_t *)row + j), _mm512_cvtepi32_epi8(fa_weight_bits(e)));
}
FA_INLINE p_sums p_columns(p_sums a, const void *row, int64_t g, __m512i turned) { return d_step(a, d_inputs(row, g), turned); }
FA_INLINE p_sums k_count(p_sums a, const int8_t *bytes) { return d_step(a, _mm512_set1_epi8(1), d_weights(bytes)); }
FA_INLINE void k_starts(int32_t *start, p_sums a) { _mm512_storeu_si512(start, _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(a, 7))); }
FA_INLINE void fa_copy16(void *to, int64_t i, __m128i x) {
    _mm_storeu_si128((__m128i *)((uint8_t *)to + i), _mm_xor_si128(x, _mm_set1_epi8(-128)));
}
FA_INLINE void fa_put_turned(void *to, __m512i t) { _mm512_storeu_si512(to, t); }

#else

#define FA_VALUE_BYTES 2
#define FA_WEIGHT_BYTES 128
#define FA_ROW_BYTES 2
typedef struct { __m512i p01, p23; } p_weights;
FA_INLINE __m512i fa_weight_pair(v16f a, v16f b) {
    return _mm512_mask_blend_epi16(0xaaaaaaaau, fa_weight_bits(a), _mm512_slli_epi32(fa_weight_bits(b), 16));
}
FA_INLINE void p_put(void *to, const v16f e[4]) {
    _mm512_storeu_si512(to, fa_weight_pair(e[0], e[1]));
    _mm512_storeu_si512((char *)to + 64, fa_weight_pair(e[2], e[3]));
}
FA_INLINE p_weights p_take(const void *from) {
    return (p_weights){_mm512_loadu_si512(from), _mm512_loadu_si512((const char *)from + 64)};
}
FA_INLINE p_sums p_step(p_sums a, const void *v, p_weights p) {
    int32_t two[2];
    memcpy(two, v, 8);
    const __m512i both = _mm512_add_epi32(_mm512_madd_epi16(_mm512_set1_epi32(two[0]), p.p01), _mm512_madd_epi16(_mm512_set1_epi32(two[1]), p.p23));
    return _mm512_add_epi32(a, both);
}
FA_INLINE void p_row(void *row, int64_t j, v16f e) { d_put(row, j, _mm512_add_ps(e, _mm512_set1_ps(FA_DOT_BIAS))); }
FA_INLINE void p_values(void *to, const int8_t *from) {
    for (int i = 0; i < 2; i++)
        _mm512_storeu_si512((char *)to + 64 * i, _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(from + 32 * i))));
}
FA_INLINE p_sums p_columns(p_sums a, const void *row, int64_t g, __m512i t) {
    const d_panel w = {_mm512_srai_epi16(_mm512_slli_epi16(t, 8), 8), _mm512_srai_epi16(t, 8)};
    return d_step(a, d_inputs(row, g), w);
}
FA_INLINE void fa_copy16(void *to, int64_t i, __m128i x) {
    const __m256i w = _mm256_cvtepi8_epi16(x);
    _mm256_storeu_si256((__m256i *)((int16_t *)to + i), _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(w, 0xd8), 0xd8));
}
FA_INLINE void fa_put_turned(void *to, __m512i t) {
    _mm512_storeu_si512(to, _mm512_cvtepi8_epi16(_mm512_castsi512_si256(t)));
    _mm512_storeu_si512((char *)to + 64, _mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64(t, 1)));
}

#endif

FA_INLINE void p_copy(void *to, const int8_t *from, int64_t n) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) fa_copy16(to, i, _mm_loadu_si128((const __m128i *)(from + i)));
    if (i < n) fa_copy16(to, i, _mm_maskz_loadu_epi8((__mmask16)((1u << (n - i)) - 1u), from + i));
}

#elif defined(FA_VEC_AVX2)

#define FA_VALUE_BYTES 2
#define FA_WEIGHT_BYTES 128
#define FA_ROW_BYTES 2
typedef d_sums p_sums;
typedef struct { __m256i lo, hi; } p_turned;
typedef struct { __m256i lo01, hi01, lo23, hi23; } p_weights;
FA_INLINE p_sums p_zero(void) { return d_zero(); }
FA_INLINE v16f p_float(p_sums a) { return (v16f){_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
FA_INLINE __m256 fa_raise8(__m256 p, __m256 r, __m256 x) {
    const __m256i sum = _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(r), 23));
    return _mm256_and_ps(_mm256_castsi256_ps(sum), _mm256_cmp_ps(x, _mm256_set1_ps(-126.0f), _CMP_GE_OQ));
}
FA_INLINE v16f p_raise(v16f p, v16f r, v16f x) { return (v16f){fa_raise8(p.lo, r.lo, x.lo), fa_raise8(p.hi, r.hi, x.hi)}; }
FA_INLINE __m256i fa_weight_pair8(__m256 a, __m256 b) {
    const __m256 round = _mm256_set1_ps(FA_WEIGHT_ROUND);
    const __m256i low = _mm256_castps_si256(_mm256_add_ps(a, round)), high = _mm256_castps_si256(_mm256_add_ps(b, round));
    return _mm256_blend_epi16(low, _mm256_slli_epi32(high, 16), 0xaa);
}
FA_INLINE void p_put(void *to, const v16f e[4]) {
    __m256i *at = (__m256i *)to;
    _mm256_storeu_si256(at, fa_weight_pair8(e[0].lo, e[1].lo));
    _mm256_storeu_si256(at + 1, fa_weight_pair8(e[0].hi, e[1].hi));
    _mm256_storeu_si256(at + 2, fa_weight_pair8(e[2].lo, e[3].lo));
    _mm256_storeu_si256(at + 3, fa_weight_pair8(e[2].hi, e[3].hi));
}
FA_INLINE p_weights p_take(const void *from) {
    const __m256i *at = (const __m256i *)from;
    return (p_weights){_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1), _mm256_loadu_si256(at + 2), _mm256_loadu_si256(at + 3)};
}
FA_INLINE p_sums p_step(p_sums a, const void *v, p_weights p) {
    int32_t two[2];
    memcpy(two, v, 8);
    const __m256i v01 = _mm256_set1_epi32(two[0]), v23 = _mm256_set1_epi32(two[1]);
    a.lo = d_madd_two(a.lo, v01, p.lo01, v23, p.lo23);
    a.hi = d_madd_two(a.hi, v01, p.hi01, v23, p.hi23);
    return a;
}
FA_INLINE void p_row(void *row, int64_t j, v16f e) { d_put(row, j, v_add(e, v_set1(FA_DOT_BIAS))); }
FA_INLINE void p_values(void *to, const int8_t *from) {
    for (int i = 0; i < 4; i++)
        _mm256_storeu_si256((__m256i *)to + i, _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(from + 16 * i))));
}
FA_INLINE __m256i fa_bytes8(__m256 a, __m256 b, __m256 c, __m256 d) {
    const __m256i low = _mm256_set1_epi32(255);
    __m256i x = _mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(d), 8), _mm256_castps_si256(c));
    x = _mm256_add_epi32(_mm256_slli_epi32(x, 8), _mm256_castps_si256(b));
    x = _mm256_or_si256(_mm256_and_si256(low, _mm256_castps_si256(a)), _mm256_slli_epi32(x, 8));
    return _mm256_xor_si256(x, _mm256_set1_epi32((int)0x80808080u));
}
FA_INLINE void p_bytes(int8_t *to, const v16f t[4]) {
    _mm256_storeu_si256((__m256i *)to, fa_bytes8(t[0].lo, t[1].lo, t[2].lo, t[3].lo));
    _mm256_storeu_si256((__m256i *)(to + 32), fa_bytes8(t[0].hi, t[1].hi, t[2].hi, t[3].hi));
}
FA_INLINE __m128i fa_load_bytes(const int8_t *p, int n) {
    int8_t t[16] = {0};
    if (n == 16) return _mm_loadu_si128((const __m128i *)p);
    for (int i = 0; i < n; i++) t[i] = p[i];
    return _mm_loadu_si128((const __m128i *)t);
}
FA_INLINE p_turned fa_turn16(const int8_t *row, ptrdiff_t s, int n) {
    const __m128i a = fa_load_bytes(row, n), b = fa_load_bytes(row + s, n), c = fa_load_bytes(row + 2 * s, n), d = fa_load_bytes(row + 3 * s, n);
    const __m128i lo = _mm_unpacklo_epi8(a, b), hi = _mm_unpackhi_epi8(a, b);
    const __m128i lo2 = _mm_unpacklo_epi8(c, d), hi2 = _mm_unpackhi_epi8(c, d);
    return (p_turned){_mm256_setr_m128i(_mm_unpacklo_epi16(lo, lo2), _mm_unpackhi_epi16(lo, lo2)),
                     _mm256_setr_m128i(_mm_unpacklo_epi16(hi, hi2), _mm_unpackhi_epi16(hi, hi2))};
}
FA_INLINE p_sums p_columns(p_sums a, const void *row, int64_t g, p_turned t) {
    const d_group x = d_inputs(row, g);
    a.lo = d_madd_two(a.lo, x.even, d_even_words(t.lo), x.odd, d_odd_words(t.lo));
    a.hi = d_madd_two(a.hi, x.even, d_even_words(t.hi), x.odd, d_odd_words(t.hi));
    return a;
}
FA_INLINE void fa_put_turned(void *to, p_turned t) {
    __m256i *at = (__m256i *)to;
    _mm256_storeu_si256(at, _mm256_cvtepi8_epi16(_mm256_castsi256_si128(t.lo)));
    _mm256_storeu_si256(at + 1, _mm256_cvtepi8_epi16(_mm256_extracti128_si256(t.lo, 1)));
    _mm256_storeu_si256(at + 2, _mm256_cvtepi8_epi16(_mm256_castsi256_si128(t.hi)));
    _mm256_storeu_si256(at + 3, _mm256_cvtepi8_epi16(_mm256_extracti128_si256(t.hi, 1)));
}
FA_INLINE void p_copy(void *to, const int8_t *from, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
        const __m256i w = _mm256_cvtepi8_epi16(fa_load_bytes(from + i, n - i < 16 ? (int)(n - i) : 16));
        _mm256_storeu_si256((__m256i *)((int16_t *)to + i), _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(w, 0xd8), 0xd8));
    }
}

#else /* scalar and neon: integers of 16 bits, a row of lanes for each key */

#define FA_VALUE_BYTES 2
#define FA_WEIGHT_BYTES 128
#define FA_ROW_BYTES 2
typedef const int16_t *p_weights;
typedef struct { int16_t column[4][16]; } p_turned;
FA_INLINE v16f p_raise(v16f p, v16f r, v16f x) {
    uint32_t a[16], b[16];
    memcpy(a, &p, 64);
    memcpy(b, &r, 64);
    for (int i = 0; i < 16; i++) a[i] += b[i] << 23;
    memcpy(&p, a, 64);
    return v_select(m_le(v_set1(-126.0f), x), p, v_zero());
}
FA_INLINE void p_row(void *row, int64_t j, v16f e) {
    uint32_t bits[16];
    e = v_add(e, v_set1(FA_WEIGHT_ROUND));
    memcpy(bits, &e, 64);
    for (int i = 0; i < 16; i++) ((int16_t *)row)[j + i] = (int16_t)(bits[i] & 0xffffu);
}
FA_INLINE void p_put(void *to, const v16f e[4]) {
    for (int i = 0; i < 4; i++) p_row(to, 16 * i, e[i]);
}
FA_INLINE void p_values(void *to, const int8_t *from) {
    for (int i = 0; i < 64; i++) ((int16_t *)to)[i] = from[i];
}
FA_INLINE void p_bytes(int8_t *to, const v16f t[4]) {
    uint32_t bits[4][16];
    memcpy(bits, t, sizeof bits);
    for (int l = 0; l < 16; l++)
        for (int i = 0; i < 4; i++) to[4 * l + i] = (int8_t)(uint8_t)((bits[i][l] & 255u) ^ 128u);
}
FA_INLINE p_weights p_take(const void *from) { return (const int16_t *)from; }
FA_INLINE p_turned fa_turn16(const int8_t *row, ptrdiff_t s, int n) {
    p_turned t;
    for (int i = 0; i < 4; i++)
        for (int c = 0; c < 16; c++) t.column[i][c] = c < n ? row[i * s + c] : 0;
    return t;
}
FA_INLINE void fa_put_turned(void *to, p_turned t) {
    for (int c = 0; c < 16; c++)
        for (int i = 0; i < 4; i++) ((int16_t *)to)[4 * c + i] = t.column[i][c];
}
FA_INLINE void p_copy(void *to, const int8_t *from, int64_t n) {
    memcpy(to, from, (size_t)n);
    memset((int8_t *)to + n, 0, (size_t)((n + 15) / 16 * 16 - n));
}

#if defined(FA_VEC_NEON)

typedef struct { int32x4_t q[4]; } p_sums;
#define FA_EACH _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)
FA_INLINE p_sums p_zero(void) { p_sums a; FA_EACH a.q[i] = vdupq_n_s32(0); return a; }
FA_INLINE v16f p_float(p_sums a) { v16f r; FA_EACH r.q[i] = vcvtq_f32_s32(a.q[i]); return r; }
#define FA_KEY(K) FA_EACH a.q[i] = vmlal_lane_s16(a.q[i], vld1_s16(from + 16 * (K) + 4 * i), by, K);
FA_INLINE p_sums p_step(p_sums a, const void *v, p_weights from) {
    const int16x4_t by = vld1_s16((const int16_t *)v);
    FA_KEY(0) FA_KEY(1) FA_KEY(2) FA_KEY(3)
    return a;
}
FA_INLINE p_sums p_columns(p_sums a, const void *row, int64_t g, p_turned turned) {
    const int16_t *from = turned.column[0];
    const int16x4_t by = vld1_s16((const int16_t *)row + 4 * g);
    FA_KEY(0) FA_KEY(1) FA_KEY(2) FA_KEY(3)
    return a;
}
#undef FA_KEY
#undef FA_EACH

#else

typedef d_sums p_sums;
FA_INLINE p_sums p_zero(void) { return d_zero(); }
FA_INLINE v16f p_float(p_sums a) { return d_total(a, NULL); }
FA_INLINE p_sums p_step(p_sums a, const void *v, p_weights p) {
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < 16; i++) a.i[i] += ((const int16_t *)v)[k] * p[16 * k + i];
    return a;
}
FA_INLINE p_sums p_columns(p_sums a, const void *row, int64_t g, p_turned turned) {
    return p_step(a, (const int16_t *)row + 4 * g, turned.column[0]);
}

#endif

#endif

#if !defined(FA_VEC_VNNI)
FA_INLINE p_sums k_count(p_sums a, const int8_t *bytes) {
    (void)bytes;
    return a;
}
FA_INLINE void k_starts(int32_t *start, p_sums a) {
    (void)a;
    memset(start, 0, 64);
}
#endif

#if defined(FA_VEC_AVX512) || defined(FA_VEC_AVX2)
FA_INLINE float p_quarters(const float *e, const float *by, int64_t n) {
    __m128 a = _mm_setzero_ps();
    for (int64_t j = 0; j < n; j += 4) a = _mm_fmadd_ps(_mm_loadu_ps(e + j), _mm_loadu_ps(by + j), a);
    a = _mm_add_ps(a, _mm_shuffle_ps(a, a, 0xb1));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehl_ps(a, a)));
}
#elif defined(FA_VEC_NEON)
FA_INLINE float p_quarters(const float *e, const float *by, int64_t n) {
    float32x4_t a = vdupq_n_f32(0.0f);
    for (int64_t j = 0; j < n; j += 4) a = vfmaq_f32(a, vld1q_f32(e + j), vld1q_f32(by + j));
    return (vgetq_lane_f32(a, 0) + vgetq_lane_f32(a, 1)) + (vgetq_lane_f32(a, 2) + vgetq_lane_f32(a, 3));
}
#else
FA_INLINE float p_quarters(const float *e, const float *by, int64_t n) {
    v16f sum = v_zero();
    float a[16];
    for (int64_t j = 0; j < n; j += 4) sum = v_fma(v_load_n(e + j, 4), v_load_n(by + j, 4), sum);
    v_store(a, sum);
    return (a[0] + a[1]) + (a[2] + a[3]);
}
#endif

#endif
