/* SPDX-License-Identifier: MIT */
/*
 * Products of small integers, exact: sums of 16 outputs over groups of 4 inputs, weights s8 in [-127, 127] as they lie in
 * a panel, [16][4], inputs q in [-127, 127] in the form this instruction set multiplies best:
 *
 *     scalar, neon    s8; neon_dot too
 *     avx2, avx512    s16, each group as k0 k2 k1 k3: two products of one word pair make a lane's sum
 *     avx512_vnni     u8, q + 128: what is too much is 128 times the sum of the weights
 *
 *   d_put(row, i, t)    16 inputs from the i-th on, i a multiple of 16; q + 128 is the low byte of each lane of t
 *   d_inputs(row, g)    group g of a row, d_weights(panel) the weights of a group
 *   d_step(a, x, w)     a + products; sums wrap, and are right in the end if the true sum fits
 *   d_total(a, sums)    16 sums; sums: of each output's weights
 *   d_opaque(&x)        an x of which the compiler knows nothing any more
 *
 * All loads and stores but those of d_inputs are of whole vectors.
 */
#ifndef FA_VEC_DOT_H
#define FA_VEC_DOT_H

#include "madd.h"
#include "vec.h"

#define FA_DOT_BIAS 0x1.8001p23f /* 1.5 * 2^23 + 128: a float of this size has its integral part in its low byte */

#if defined(FA_VEC_AVX512)

typedef __m512i d_sums;
FA_INLINE d_sums d_zero(void) { return _mm512_setzero_si512(); }
FA_INLINE d_sums d_add(d_sums a, d_sums b) { return _mm512_add_epi32(a, b); }
FA_INLINE v16f d_float(__m512i sums) { return _mm512_cvtepi32_ps(sums); }

#if defined(FA_VEC_VNNI)

#define FA_DOT_BYTES 1 /* of one input in a row */
typedef __m512i d_group, d_panel;
FA_INLINE void d_put(void *row, int64_t i, v16f t) {
    _mm_storeu_si128((__m128i *)((uint8_t *)row + i), _mm512_cvtepi32_epi8(_mm512_castps_si512(t)));
}
FA_INLINE d_group d_inputs(const void *row, int64_t g) {
    int32_t four;
    memcpy(&four, (const uint8_t *)row + 4 * g, 4);
    return _mm512_set1_epi32(four);
}
FA_INLINE d_panel d_weights(const int8_t *panel) { return _mm512_loadu_si512(panel); }
/* The intrinsic makes GCC 12 copy every sum through memory. */
FA_INLINE d_sums d_step(d_sums a, d_group x, d_panel w) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(a) : "v"(x), "v"(w));
    return a;
}
FA_INLINE v16f d_total(d_sums a, const int32_t *sums) {
    return d_float(_mm512_sub_epi32(a, _mm512_slli_epi32(_mm512_loadu_si512(sums), 7)));
}

#else

#define FA_DOT_BYTES 2
typedef struct { __m512i even, odd; } d_group, d_panel;
FA_INLINE void d_put(void *row, int64_t i, v16f t) {
    const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 8, 9, 4, 5, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1));
    __m512i q = _mm512_sub_epi32(_mm512_castps_si512(t), _mm512_castps_si512(_mm512_set1_ps(FA_DOT_BIAS)));
    q = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 1, 1, 1), _mm512_shuffle_epi8(q, order));
    _mm256_storeu_si256((__m256i *)((int16_t *)row + i), _mm512_castsi512_si256(q));
}
FA_INLINE d_group d_inputs(const void *row, int64_t g) {
    int32_t two[2];
    memcpy(two, (const int16_t *)row + 4 * g, 8);
    return (d_group){_mm512_set1_epi32(two[0]), _mm512_set1_epi32(two[1])};
}
FA_INLINE d_panel d_weights(const int8_t *panel) {
    const __m512i w = _mm512_loadu_si512(panel);
    return (d_panel){d_even_words(w), d_odd_words(w)};
}
/* Not d_madd_two: there are registers for the order GCC 12 likes, which is faster (184 to 139 GOP/s on Zen 4). */
FA_INLINE d_sums d_step(d_sums a, d_group x, d_panel w) {
    const __m512i both = _mm512_add_epi32(_mm512_madd_epi16(x.even, w.even), _mm512_madd_epi16(x.odd, w.odd));
    return _mm512_add_epi32(a, both);
}
FA_INLINE v16f d_total(d_sums a, const int32_t *sums) {
    (void)sums;
    return d_float(a);
}

#endif

#elif defined(FA_VEC_AVX2)

#define FA_DOT_BYTES 2
typedef struct { __m256i lo, hi; } d_sums;
typedef struct { __m256i even, odd; } d_group;
typedef const int8_t *d_panel; /* loaded and taken apart where it is used: four registers would not stay */
FA_INLINE d_sums d_zero(void) { return (d_sums){_mm256_setzero_si256(), _mm256_setzero_si256()}; }
FA_INLINE d_sums d_add(d_sums a, d_sums b) { return (d_sums){_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
FA_INLINE __m128i fa_dot_words(__m256 t) {
    const __m256i order = _mm256_setr_epi8(0, 1, 8, 9, 4, 5, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1,
                                           0, 1, 8, 9, 4, 5, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1);
    __m256i q = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_castps_si256(_mm256_set1_ps(FA_DOT_BIAS)));
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_shuffle_epi8(q, order), 0x08));
}
FA_INLINE void d_put(void *row, int64_t i, v16f t) {
    _mm_storeu_si128((__m128i *)((int16_t *)row + i), fa_dot_words(t.lo));
    _mm_storeu_si128((__m128i *)((int16_t *)row + i + 8), fa_dot_words(t.hi));
}
FA_INLINE __m256i fa_dot_pair(const void *row, int64_t p) {
    int32_t two;
    memcpy(&two, (const int16_t *)row + 2 * p, 4);
    return _mm256_set1_epi32(two);
}
/* One by one: both together GCC 12 loads as one integer and takes that apart. */
FA_INLINE d_group d_inputs(const void *row, int64_t g) {
    return (d_group){fa_dot_pair(row, 2 * g), fa_dot_pair(row, 2 * g + 1)};
}
FA_INLINE d_panel d_weights(const int8_t *panel) { return panel; }
FA_INLINE __m256i fa_dot_half(__m256i a, d_group x, const int8_t *half) {
    const __m256i w = _mm256_loadu_si256((const __m256i *)half);
    return d_madd_two(a, x.even, d_even_words(w), x.odd, d_odd_words(w));
}
FA_INLINE d_sums d_step(d_sums a, d_group x, d_panel w) {
    return (d_sums){fa_dot_half(a.lo, x, w), fa_dot_half(a.hi, x, w + 32)};
}
FA_INLINE v16f d_total(d_sums a, const int32_t *sums) {
    (void)sums;
    return (v16f){_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
}

#elif defined(FA_VEC_NEON)

#define FA_DOT_BYTES 1
typedef struct { int8x16_t q[4]; } d_panel;
#define FA_EACH _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)
FA_INLINE void d_put(void *row, int64_t i, v16f t) {
    const uint32x4_t bias = vreinterpretq_u32_f32(vdupq_n_f32(FA_DOT_BIAS));
    int16x4_t w[4];
    FA_EACH w[i] = vreinterpret_s16_u16(vmovn_u32(vsubq_u32(vreinterpretq_u32_f32(t.q[i]), bias)));
    const int8x8_t lo = vmovn_s16(vcombine_s16(w[0], w[1])), hi = vmovn_s16(vcombine_s16(w[2], w[3]));
    vst1q_s8((int8_t *)row + i, vcombine_s8(lo, hi));
}
FA_INLINE int32_t fa_dot_four(const void *row, int64_t g) {
    int32_t four;
    memcpy(&four, (const int8_t *)row + 4 * g, 4);
    return four;
}
FA_INLINE d_panel d_weights(const int8_t *panel) { d_panel w; FA_EACH w.q[i] = vld1q_s8(panel + 16 * i); return w; }

#if defined(FA_VEC_DOT)

typedef struct { int32x4_t q[4]; } d_sums;
typedef int8x16_t d_group; /* four times the same */
FA_INLINE d_sums d_zero(void) { d_sums a; FA_EACH a.q[i] = vdupq_n_s32(0); return a; }
FA_INLINE d_sums d_add(d_sums a, d_sums b) { FA_EACH a.q[i] = vaddq_s32(a.q[i], b.q[i]); return a; }
FA_INLINE d_group d_inputs(const void *row, int64_t g) { return vreinterpretq_s8_s32(vdupq_n_s32(fa_dot_four(row, g))); }
FA_INLINE d_sums d_step(d_sums a, d_group x, d_panel w) { FA_EACH a.q[i] = vdotq_s32(a.q[i], w.q[i], x); return a; }
FA_INLINE v16f d_total(d_sums a, const int32_t *sums) {
    v16f r;
    (void)sums;
    FA_EACH r.q[i] = vcvtq_f32_s32(a.q[i]);
    return r;
}

#else

typedef struct { int32x4_t q[8]; } d_sums; /* two lanes for each output: of inputs 0 and 1, and of 2 and 3 */
typedef int8x8_t d_group;                  /* twice the same */
FA_INLINE d_sums d_zero(void) {
    d_sums a;
    for (int i = 0; i < 8; i++) a.q[i] = vdupq_n_s32(0);
    return a;
}
FA_INLINE d_sums d_add(d_sums a, d_sums b) {
    for (int i = 0; i < 8; i++) a.q[i] = vaddq_s32(a.q[i], b.q[i]);
    return a;
}
FA_INLINE d_group d_inputs(const void *row, int64_t g) { return vreinterpret_s8_s32(vdup_n_s32(fa_dot_four(row, g))); }
FA_INLINE d_sums d_step(d_sums a, d_group x, d_panel w) {
    FA_EACH {
        a.q[2 * i] = vpadalq_s16(a.q[2 * i], vmull_s8(vget_low_s8(w.q[i]), x));
        a.q[2 * i + 1] = vpadalq_s16(a.q[2 * i + 1], vmull_s8(vget_high_s8(w.q[i]), x));
    }
    return a;
}
FA_INLINE v16f d_total(d_sums a, const int32_t *sums) {
    v16f r;
    (void)sums;
    FA_EACH r.q[i] = vcvtq_f32_s32(vpaddq_s32(a.q[2 * i], a.q[2 * i + 1]));
    return r;
}

#endif
#undef FA_EACH

#elif defined(FA_VEC_SCALAR)

#define FA_DOT_BYTES 1
typedef struct { int32_t i[16]; } d_sums;
typedef const int8_t *d_group, *d_panel;
FA_INLINE d_sums d_zero(void) { return (d_sums){{0}}; }
FA_INLINE d_sums d_add(d_sums a, d_sums b) {
    for (int i = 0; i < 16; i++) a.i[i] += b.i[i];
    return a;
}
FA_INLINE void d_put(void *row, int64_t i, v16f t) {
    for (int j = 0; j < 16; j++) ((int8_t *)row)[i + j] = (int8_t)(int32_t)(t.f[j] - FA_DOT_BIAS);
}
FA_INLINE d_group d_inputs(const void *row, int64_t g) { return (const int8_t *)row + 4 * g; }
FA_INLINE d_panel d_weights(const int8_t *panel) { return panel; }
FA_INLINE d_sums d_step(d_sums a, d_group x, d_panel w) {
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++) a.i[i] += x[j] * w[4 * i + j];
    return a;
}
FA_INLINE v16f d_total(d_sums a, const int32_t *sums) {
    v16f r;
    (void)sums;
    for (int i = 0; i < 16; i++) r.f[i] = (float)a.i[i];
    return r;
}

#endif

FA_INLINE void d_opaque(d_group *x) { __asm__ volatile("" : : "r"(x) : "memory"); }

/* Magnitudes compare as integers, NaN above infinity: nothing gets lost on the way to the largest. */
FA_INLINE v16f d_largest(v16f a, v16f top) {
#if defined(FA_VEC_AVX512)
    const __m512i sign = _mm512_set1_epi32(0x7fffffff);
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(a), sign), _mm512_castps_si512(top)));
#elif defined(FA_VEC_AVX2)
    const __m256i sign = _mm256_set1_epi32(0x7fffffff);
    __m256i lo = _mm256_max_epi32(_mm256_and_si256(_mm256_castps_si256(a.lo), sign), _mm256_castps_si256(top.lo));
    __m256i hi = _mm256_max_epi32(_mm256_and_si256(_mm256_castps_si256(a.hi), sign), _mm256_castps_si256(top.hi));
    return (v16f){_mm256_castsi256_ps(lo), _mm256_castsi256_ps(hi)};
#else
    uint32_t x[16], y[16];
    memcpy(x, &a, 64), memcpy(y, &top, 64);
    for (int i = 0; i < 16; i++) y[i] = (x[i] & 0x7fffffff) > y[i] ? x[i] & 0x7fffffff : y[i];
    memcpy(&top, y, 64);
    return top;
#endif
}

/* The largest lane of those, as a float. */
FA_INLINE float d_top(v16f top) {
    int32_t most;
#if defined(FA_VEC_AVX512)
    most = _mm512_reduce_max_epi32(_mm512_castps_si512(top));
#else
    int32_t t[16];
    memcpy(t, &top, 64);
    most = t[0];
    for (int i = 1; i < 16; i++) most = t[i] > most ? t[i] : most;
#endif
    float value;
    memcpy(&value, &most, 4);
    return value;
}

#endif
