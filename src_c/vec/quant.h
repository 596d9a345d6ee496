/* SPDX-License-Identifier: MIT */
/*
 * Products of codes, the small integers of block-quantised weights, with inputs that are rounded to integers: exact sums of
 * 16 outputs over groups of 4 inputs. Inputs X are two planes of int8, X = 128 hi + lo, or one, X = hi.
 *
 * What multiplies, by instruction set:
 *
 *     scalar, neon    bytes: codes as s8
 *     avx512_vnni     bytes: codes as u8
 *     avx2, avx512    bytes: codes as u8 up to 15, of which the 16 products of a block that meet in a lane fit 16 bits
 *                     (16 * 15 * 127 = 30480); or words, all else: codes and X in 16 bits, a group of X as k0 k2 k1 k3
 *
 * `words` and `planes` are constants of the caller.
 *
 *   q_bytes(p)                64 codes of a panel as they lie, [16 outputs][4 inputs]
 *   q_low(a), q_high(a)       nibbles of them
 *   q_bit(a, b, i), q_pair(a, b, i)   a with bit i of b for its fifth bit, with bits i and i + 1 for its fifth and sixth
 *   q_look(a, table)          entries of a table of 16
 *   q_flip(a)                 of codes that lie with 128 added, what is multiplied here: FA_QUANT_UNSIGNED: as they lie
 *   q_codes_of(words, a)      codes as they are multiplied; q_put(words, p, c) stores them, q_codes_at(words, p) loads them
 *   q_start(n, s)             -(n << s) in all lanes
 *   q_begin(start)            a sum that is to become start + products
 *   q_inputs(words, x, g)     group g of the inputs of a block at x, of one plane
 *   q_dot(words, a, x, c)     a + products; q_dot_at(words, a, x, g, c) of group g at x
 *   q_fold(words, a, start)   the 16 sums
 *   q_powers(e)               scales of MXFP4
 *   q_place(bytes, words, at, t, planes)   16 integers X, low bits of t = X + 1.5 * 2^23, as inputs number `at` on of a block;
 *                             bytes and words where not NULL
 */
#ifndef FA_VEC_QUANT_H
#define FA_VEC_QUANT_H

#include "madd.h"
#include "vec.h"

#if defined(FA_VEC_AVX512)

typedef __m512i q_raw, q_sums, q_ints;
FA_INLINE q_raw q_bytes(const void *p) { return _mm512_loadu_si512(p); }
FA_INLINE q_raw q_low(q_raw a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
FA_INLINE q_raw q_high(q_raw a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15)); }
FA_INLINE q_raw fa_quant_shifted(q_raw b, const int i) { /* bit i of each byte becomes bit 4, whatever the other bits are */
    return i <= 4 ? _mm512_slli_epi16(b, (unsigned)(4 - i)) : _mm512_srli_epi16(b, (unsigned)(i - 4));
}
FA_INLINE q_raw q_bit(q_raw a, q_raw b, const int i) {
    return _mm512_ternarylogic_epi32(a, fa_quant_shifted(b, i), _mm512_set1_epi8(16), 0xf8); /* a | (b & 16) */
}
FA_INLINE q_raw q_pair(q_raw a, q_raw b, const int i) {
    return _mm512_ternarylogic_epi32(a, fa_quant_shifted(b, i), _mm512_set1_epi8(48), 0xf8);
}
FA_INLINE q_ints q_none(void) { return _mm512_setzero_si512(); }
FA_INLINE q_ints q_start(int32_t n, const int shift) { return _mm512_slli_epi32(_mm512_set1_epi32(-n), (unsigned)shift); }
FA_INLINE q_ints q_add(q_ints a, q_ints b) { return _mm512_add_epi32(a, b); }
FA_INLINE q_ints q_times128(q_ints a) { return _mm512_slli_epi32(a, 7); }
FA_INLINE v16f q_float(q_ints a) { return _mm512_cvtepi32_ps(a); }
FA_INLINE q_raw fa_quant_table(const int8_t *table) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table));
}

FA_INLINE void q_place(char *bytes, char *words, int at, v16f t, int planes) {
    const __m512i x = _mm512_sub_epi32(_mm512_castps_si512(t), _mm512_set1_epi32(0x4b400000));
    if (bytes && planes == 2) {
        const __m512i hi = _mm512_srai_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(64)), 7);
        _mm_storeu_si128((__m128i *)(bytes + at), _mm512_cvtepi32_epi8(hi));
        _mm_storeu_si128((__m128i *)(bytes + 32 + at), _mm512_cvtepi32_epi8(_mm512_sub_epi32(x, _mm512_slli_epi32(hi, 7))));
    } else if (bytes) {
        _mm_storeu_si128((__m128i *)(bytes + at), _mm512_cvtepi32_epi8(x));
    }
    if (words) {
        const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
        _mm256_storeu_si256((__m256i *)(words + 2 * at), _mm256_shuffle_epi8(_mm512_cvtepi32_epi16(x), order));
    }
}

#if defined(FA_VEC_VNNI)

#define FA_QUANT_UNSIGNED 1
#define FA_QUANT_WORDS 0
typedef __m512i q_codes, q_group;
FA_INLINE q_raw q_look(q_raw a, const int8_t *table) {
    return _mm512_shuffle_epi8(_mm512_xor_si512(fa_quant_table(table), _mm512_set1_epi8(-128)), a);
}
FA_INLINE q_raw q_flip(q_raw a) { return a; }
FA_INLINE q_codes q_codes_of(const int words, q_raw a) { (void)words; return a; }
FA_INLINE q_codes q_codes_at(const int words, const void *p) { (void)words; return _mm512_loadu_si512(p); }
FA_INLINE void q_put(const int words, void *p, q_codes c) { (void)words; _mm512_storeu_si512(p, c); }
FA_INLINE q_sums q_begin(q_ints start) { return start; }
FA_INLINE q_group q_inputs(const int words, const void *x, int g) {
    int32_t four;
    (void)words;
    memcpy(&four, (const char *)x + 4 * g, 4);
    return _mm512_set1_epi32(four);
}
/* The intrinsic makes GCC 12 copy every sum through memory. */
FA_INLINE q_sums q_dot(const int words, q_sums a, q_group x, q_codes c) {
    (void)words;
    __asm__("vpdpbusd %2, %1, %0" : "+v"(a) : "v"(c), "v"(x));
    return a;
}
FA_INLINE q_sums q_dot_at(const int words, q_sums a, const void *x, int g, q_codes c) {
    (void)words;
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(a) : "v"(c), "m"(*(const int32_t(*)[1])((const char *)x + 4 * g)));
    return a;
}
FA_INLINE q_ints q_fold(const int words, q_sums a, q_ints start) { (void)words, (void)start; return a; }

#else

#define FA_QUANT_UNSIGNED 0
#define FA_QUANT_WORDS 1
typedef struct { __m512i even, odd; } q_codes, q_group; /* bytes: even alone */
FA_INLINE q_raw q_look(q_raw a, const int8_t *table) { return _mm512_shuffle_epi8(fa_quant_table(table), a); }
FA_INLINE q_raw q_flip(q_raw a) { return _mm512_xor_si512(a, _mm512_set1_epi8(-128)); }
FA_INLINE q_codes q_codes_of(const int words, q_raw a) {
    return words ? (q_codes){d_even_words(a), d_odd_words(a)} : (q_codes){a, a};
}
FA_INLINE q_codes q_codes_at(const int words, const void *p) {
    const q_raw a = q_bytes(p);
    return (q_codes){a, words ? q_bytes((const char *)p + 64) : a};
}
FA_INLINE void q_put(const int words, void *p, q_codes c) {
    _mm512_storeu_si512(p, c.even);
    if (words) _mm512_storeu_si512((char *)p + 64, c.odd);
}
FA_INLINE q_sums q_begin(q_ints start) { (void)start; return _mm512_setzero_si512(); }
FA_INLINE __m512i fa_quant_four(const void *x, ptrdiff_t at) {
    int32_t four;
    memcpy(&four, (const char *)x + at, 4);
    return _mm512_set1_epi32(four);
}
/* One by one: both together GCC 12 loads as one integer and takes that apart. */
FA_INLINE q_group q_inputs(const int words, const void *x, int g) {
    if (!words) return (q_group){fa_quant_four(x, 4 * g), _mm512_setzero_si512()};
    return (q_group){fa_quant_four(x, 8 * g), fa_quant_four(x, 8 * g + 4)};
}
FA_INLINE q_sums q_dot(const int words, q_sums a, q_group x, q_codes c) {
    if (!words) return d_madd_bytes(a, c.even, x.even);
    return d_madd(d_madd(a, x.even, c.even), x.odd, c.odd);
}
FA_INLINE q_ints q_fold(const int words, q_sums a, q_ints start) {
    return _mm512_add_epi32(words ? a : _mm512_madd_epi16(a, _mm512_set1_epi16(1)), start);
}
FA_INLINE q_sums q_dot_at(const int words, q_sums a, const void *x, int g, q_codes c) { return q_dot(words, a, q_inputs(words, x, g), c); }

#endif

#elif defined(FA_VEC_AVX2)

#define FA_QUANT_UNSIGNED 0
#define FA_QUANT_WORDS 1
typedef struct { __m256i lo, hi; } q_raw, q_sums, q_ints;
typedef struct { __m256i even_lo, even_hi, odd_lo, odd_hi; } q_codes; /* bytes: even alone */
typedef struct { __m256i even, odd; } q_group;
#define FA_Q2(OP, ...) {OP(a.lo, ##__VA_ARGS__), OP(a.hi, ##__VA_ARGS__)}
FA_INLINE q_raw q_bytes(const void *p) {
    return (q_raw){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)p + 1)};
}
FA_INLINE q_raw q_low(q_raw a) { return (q_raw)FA_Q2(_mm256_and_si256, _mm256_set1_epi8(15)); }
FA_INLINE q_raw q_high(q_raw a) {
    a = (q_raw)FA_Q2(_mm256_srli_epi16, 4);
    return q_low(a);
}
FA_INLINE __m256i fa_quant_more(__m256i a, __m256i b, const int i, const char mask) {
    b = i <= 4 ? _mm256_slli_epi16(b, 4 - i) : _mm256_srli_epi16(b, i - 4);
    return _mm256_or_si256(a, _mm256_and_si256(b, _mm256_set1_epi8(mask)));
}
FA_INLINE q_raw q_bit(q_raw a, q_raw b, const int i) {
    return (q_raw){fa_quant_more(a.lo, b.lo, i, 16), fa_quant_more(a.hi, b.hi, i, 16)};
}
FA_INLINE q_raw q_pair(q_raw a, q_raw b, const int i) {
    return (q_raw){fa_quant_more(a.lo, b.lo, i, 48), fa_quant_more(a.hi, b.hi, i, 48)};
}
FA_INLINE q_raw q_look(q_raw a, const int8_t *table) {
    const __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
    return (q_raw){_mm256_shuffle_epi8(t, a.lo), _mm256_shuffle_epi8(t, a.hi)};
}
FA_INLINE q_raw q_flip(q_raw a) { return (q_raw)FA_Q2(_mm256_xor_si256, _mm256_set1_epi8(-128)); }
FA_INLINE q_codes q_codes_of(const int words, q_raw a) {
    if (!words) return (q_codes){a.lo, a.hi, a.lo, a.hi};
    return (q_codes){d_even_words(a.lo), d_even_words(a.hi), d_odd_words(a.lo), d_odd_words(a.hi)};
}
FA_INLINE q_codes q_codes_at(const int words, const void *p) {
    const q_raw a = q_bytes(p), b = words ? q_bytes((const char *)p + 64) : a;
    return (q_codes){a.lo, a.hi, b.lo, b.hi};
}
FA_INLINE void q_put(const int words, void *p, q_codes c) {
    __m256i *to = (__m256i *)p;
    _mm256_storeu_si256(to, c.even_lo), _mm256_storeu_si256(to + 1, c.even_hi);
    if (words) _mm256_storeu_si256(to + 2, c.odd_lo), _mm256_storeu_si256(to + 3, c.odd_hi);
}
FA_INLINE q_ints q_none(void) { return (q_ints){_mm256_setzero_si256(), _mm256_setzero_si256()}; }
FA_INLINE q_ints q_start(int32_t n, const int shift) {
    const __m256i t = _mm256_slli_epi32(_mm256_set1_epi32(-n), shift);
    return (q_ints){t, t};
}
FA_INLINE q_ints q_add(q_ints a, q_ints b) { return (q_ints){_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
FA_INLINE q_ints q_times128(q_ints a) { return (q_ints)FA_Q2(_mm256_slli_epi32, 7); }
FA_INLINE v16f q_float(q_ints a) { return (v16f){_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
FA_INLINE q_sums q_begin(q_ints start) { (void)start; return q_none(); }
FA_INLINE __m256i fa_quant_four(const void *x, ptrdiff_t at) {
    int32_t four;
    memcpy(&four, (const char *)x + at, 4);
    return _mm256_set1_epi32(four);
}
/* One by one: both together GCC 12 loads as one integer and takes that apart. */
FA_INLINE q_group q_inputs(const int words, const void *x, int g) {
    if (!words) return (q_group){fa_quant_four(x, 4 * g), _mm256_setzero_si256()};
    return (q_group){fa_quant_four(x, 8 * g), fa_quant_four(x, 8 * g + 4)};
}
FA_INLINE q_sums q_dot(const int words, q_sums a, q_group x, q_codes c) {
    if (!words) return (q_sums){d_madd_bytes(a.lo, c.even_lo, x.even), d_madd_bytes(a.hi, c.even_hi, x.even)};
    a.lo = d_madd_two(a.lo, x.even, c.even_lo, x.odd, c.odd_lo);
    a.hi = d_madd_two(a.hi, x.even, c.even_hi, x.odd, c.odd_hi);
    return a;
}
FA_INLINE q_sums q_dot_at(const int words, q_sums a, const void *x, int g, q_codes c) { return q_dot(words, a, q_inputs(words, x, g), c); }
FA_INLINE q_ints q_fold(const int words, q_sums a, q_ints start) {
    if (!words) a = (q_sums)FA_Q2(_mm256_madd_epi16, _mm256_set1_epi16(1));
    return q_add(a, start);
}
FA_INLINE __m128i fa_quant_narrow(__m256i words) {
    return _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}
FA_INLINE void q_place(char *bytes, char *words, int at, v16f t, int planes) {
    const __m256i bias = _mm256_set1_epi32(0x4b400000);
    const __m256i lo = _mm256_sub_epi32(_mm256_castps_si256(t.lo), bias), hi = _mm256_sub_epi32(_mm256_castps_si256(t.hi), bias);
    const __m256i x = _mm256_permute4x64_epi64(_mm256_packs_epi32(lo, hi), 0xd8);
    if (bytes && planes == 2) {
        const __m256i high = _mm256_srai_epi16(_mm256_add_epi16(x, _mm256_set1_epi16(64)), 7);
        _mm_storeu_si128((__m128i *)(bytes + at), fa_quant_narrow(high));
        _mm_storeu_si128((__m128i *)(bytes + 32 + at), fa_quant_narrow(_mm256_sub_epi16(x, _mm256_slli_epi16(high, 7))));
    } else if (bytes) {
        _mm_storeu_si128((__m128i *)(bytes + at), fa_quant_narrow(x));
    }
    if (words) {
        const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
        _mm256_storeu_si256((__m256i *)(words + 2 * at), _mm256_shuffle_epi8(x, order));
    }
}
#undef FA_Q2

#elif defined(FA_VEC_NEON)

#define FA_QUANT_UNSIGNED 0
#define FA_QUANT_WORDS 0
typedef struct { uint8x16_t q[4]; } q_raw;
typedef struct { int8x16_t q[4]; } q_codes;
typedef struct { int32x4_t q[4]; } q_ints;
#define FA_EACH _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)
FA_INLINE q_raw q_bytes(const void *p) { q_raw a; FA_EACH a.q[i] = vld1q_u8((const uint8_t *)p + 16 * i); return a; }
FA_INLINE q_raw q_low(q_raw a) { FA_EACH a.q[i] = vandq_u8(a.q[i], vdupq_n_u8(15)); return a; }
FA_INLINE q_raw q_high(q_raw a) { FA_EACH a.q[i] = vshrq_n_u8(a.q[i], 4); return a; }
FA_INLINE uint8x16_t fa_quant_more(uint8x16_t a, uint8x16_t b, int i, uint8_t mask) {
    return vorrq_u8(a, vandq_u8(vshlq_u8(b, vdupq_n_s8((int8_t)(4 - i))), vdupq_n_u8(mask)));
}
FA_INLINE q_raw q_bit(q_raw a, q_raw b, const int at) { FA_EACH a.q[i] = fa_quant_more(a.q[i], b.q[i], at, 16); return a; }
FA_INLINE q_raw q_pair(q_raw a, q_raw b, const int at) { FA_EACH a.q[i] = fa_quant_more(a.q[i], b.q[i], at, 48); return a; }
FA_INLINE q_raw q_look(q_raw a, const int8_t *table) {
    const uint8x16_t t = vreinterpretq_u8_s8(vld1q_s8(table));
    FA_EACH a.q[i] = vqtbl1q_u8(t, a.q[i]);
    return a;
}
FA_INLINE q_raw q_flip(q_raw a) { FA_EACH a.q[i] = veorq_u8(a.q[i], vdupq_n_u8(128)); return a; }
FA_INLINE q_codes q_codes_of(const int words, q_raw a) {
    q_codes c;
    (void)words;
    FA_EACH c.q[i] = vreinterpretq_s8_u8(a.q[i]);
    return c;
}
FA_INLINE q_codes q_codes_at(const int words, const void *p) { return q_codes_of(words, q_bytes(p)); }
FA_INLINE void q_put(const int words, void *p, q_codes c) { (void)words; FA_EACH vst1q_s8((int8_t *)p + 16 * i, c.q[i]); }
FA_INLINE q_ints q_none(void) { q_ints a; FA_EACH a.q[i] = vdupq_n_s32(0); return a; }
FA_INLINE q_ints q_start(int32_t n, const int shift) {
    q_ints a;
    FA_EACH a.q[i] = vshlq_s32(vdupq_n_s32(-n), vdupq_n_s32(shift));
    return a;
}
FA_INLINE q_ints q_add(q_ints a, q_ints b) { FA_EACH a.q[i] = vaddq_s32(a.q[i], b.q[i]); return a; }
FA_INLINE q_ints q_times128(q_ints a) { FA_EACH a.q[i] = vshlq_n_s32(a.q[i], 7); return a; }
FA_INLINE v16f q_float(q_ints a) { v16f r; FA_EACH r.q[i] = vcvtq_f32_s32(a.q[i]); return r; }

#if defined(FA_VEC_DOT)
typedef q_ints q_sums;
typedef int8x16_t q_group;
FA_INLINE q_sums q_begin(q_ints start) { return start; }
FA_INLINE q_group q_inputs(const int words, const void *x, int g) {
    int32_t four;
    (void)words;
    memcpy(&four, (const char *)x + 4 * g, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
FA_INLINE q_sums q_dot(const int words, q_sums a, q_group x, q_codes c) {
    (void)words;
    FA_EACH a.q[i] = vdotq_s32(a.q[i], c.q[i], x);
    return a;
}
FA_INLINE q_ints q_fold(const int words, q_sums a, q_ints start) { (void)words, (void)start; return a; }
#else
typedef struct { int32x4_t q[8]; } q_sums; /* two lanes for each output: of inputs 0 and 1, and of 2 and 3 */
typedef int8x8_t q_group;                  /* twice the same */
FA_INLINE q_sums q_begin(q_ints start) {
    q_sums a;
    (void)start;
    for (int i = 0; i < 8; i++) a.q[i] = vdupq_n_s32(0);
    return a;
}
FA_INLINE q_group q_inputs(const int words, const void *x, int g) {
    int32_t four;
    (void)words;
    memcpy(&four, (const char *)x + 4 * g, 4);
    return vreinterpret_s8_s32(vdup_n_s32(four));
}
FA_INLINE q_sums q_dot(const int words, q_sums a, q_group x, q_codes c) {
    (void)words;
    FA_EACH {
        a.q[2 * i] = vpadalq_s16(a.q[2 * i], vmull_s8(vget_low_s8(c.q[i]), x));
        a.q[2 * i + 1] = vpadalq_s16(a.q[2 * i + 1], vmull_s8(vget_high_s8(c.q[i]), x));
    }
    return a;
}
FA_INLINE q_ints q_fold(const int words, q_sums a, q_ints start) {
    (void)words;
    FA_EACH start.q[i] = vaddq_s32(vpaddq_s32(a.q[2 * i], a.q[2 * i + 1]), start.q[i]);
    return start;
}
#endif
FA_INLINE q_sums q_dot_at(const int words, q_sums a, const void *x, int g, q_codes c) { return q_dot(words, a, q_inputs(words, x, g), c); }
FA_INLINE void q_place(char *bytes, char *words, int at, v16f t, int planes) {
    const uint32x4_t bias = vdupq_n_u32(0x4b400000);
    int16x4_t w[4];
    (void)words;
    FA_EACH w[i] = vmovn_s32(vreinterpretq_s32_u32(vsubq_u32(vreinterpretq_u32_f32(t.q[i]), bias)));
    for (int i = 0; i < 2 && bytes; i++) {
        const int16x8_t x = vcombine_s16(w[2 * i], w[2 * i + 1]), high = vshrq_n_s16(vaddq_s16(x, vdupq_n_s16(64)), 7);
        vst1_s8((int8_t *)bytes + at + 8 * i, vmovn_s16(planes == 2 ? high : x));
        if (planes == 2) vst1_s8((int8_t *)bytes + 32 + at + 8 * i, vmovn_s16(vsubq_s16(x, vshlq_n_s16(high, 7))));
    }
}
#undef FA_EACH

#elif defined(FA_VEC_SCALAR)

#define FA_QUANT_UNSIGNED 0
#define FA_QUANT_WORDS 0
typedef struct { uint8_t b[64]; } q_raw;
typedef struct { int8_t b[64]; } q_codes;
typedef struct { int32_t i[16]; } q_sums, q_ints;
typedef const int8_t *q_group;
FA_INLINE q_raw q_bytes(const void *p) { q_raw a; memcpy(a.b, p, 64); return a; }
FA_INLINE q_raw q_low(q_raw a) { for (int i = 0; i < 64; i++) a.b[i] &= 15; return a; }
FA_INLINE q_raw q_high(q_raw a) { for (int i = 0; i < 64; i++) a.b[i] >>= 4; return a; }
FA_INLINE q_raw q_bit(q_raw a, q_raw b, int at) { for (int i = 0; i < 64; i++) a.b[i] |= (uint8_t)((b.b[i] >> at & 1) << 4); return a; }
FA_INLINE q_raw q_pair(q_raw a, q_raw b, int at) { for (int i = 0; i < 64; i++) a.b[i] |= (uint8_t)((b.b[i] >> at & 3) << 4); return a; }
FA_INLINE q_raw q_look(q_raw a, const int8_t *table) { for (int i = 0; i < 64; i++) a.b[i] = (uint8_t)table[a.b[i]]; return a; }
FA_INLINE q_raw q_flip(q_raw a) { for (int i = 0; i < 64; i++) a.b[i] ^= 128; return a; }
FA_INLINE q_codes q_codes_of(int words, q_raw a) { q_codes c; (void)words; memcpy(c.b, a.b, 64); return c; }
FA_INLINE q_codes q_codes_at(int words, const void *p) { return q_codes_of(words, q_bytes(p)); }
FA_INLINE void q_put(int words, void *p, q_codes c) { (void)words; memcpy(p, c.b, 64); }
FA_INLINE q_ints q_none(void) { return (q_ints){{0}}; }
FA_INLINE q_ints q_start(int32_t n, int shift) { q_ints a; for (int i = 0; i < 16; i++) a.i[i] = -n * (1 << shift); return a; }
FA_INLINE q_ints q_add(q_ints a, q_ints b) { for (int i = 0; i < 16; i++) a.i[i] += b.i[i]; return a; }
FA_INLINE q_ints q_times128(q_ints a) { for (int i = 0; i < 16; i++) a.i[i] *= 128; return a; }
FA_INLINE v16f q_float(q_ints a) { v16f r; for (int i = 0; i < 16; i++) r.f[i] = (float)a.i[i]; return r; }
FA_INLINE q_sums q_begin(q_ints start) { return start; }
FA_INLINE q_group q_inputs(int words, const void *x, int g) { (void)words; return (const int8_t *)x + 4 * g; }
FA_INLINE q_sums q_dot(int words, q_sums a, q_group x, q_codes c) {
    (void)words;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++) a.i[i] += x[j] * c.b[4 * i + j];
    return a;
}
FA_INLINE q_sums q_dot_at(int words, q_sums a, const void *x, int g, q_codes c) { return q_dot(words, a, q_inputs(words, x, g), c); }
FA_INLINE q_ints q_fold(int words, q_sums a, q_ints start) { (void)words, (void)start; return a; }

FA_INLINE void q_place(char *bytes, char *words, int at, v16f t, int planes) {
    (void)words;
    for (int i = 0; i < 16 && bytes; i++) {
        const int32_t x = (int32_t)(t.f[i] - 0x1.8p23f), high = (x + 64) >> 7;
        bytes[at + i] = (char)(planes == 2 ? high : x);
        if (planes == 2) bytes[32 + at + i] = (char)(x - 128 * high);
    }
}

#endif

/* 16 scales of 8 bits that are powers of two, 2^(e - 128). */
#if defined(FA_VEC_AVX512)
FA_INLINE v16f q_powers(const uint8_t *e) {
    const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)e));
    const __mmask16 none = _mm512_testn_epi32_mask(wide, wide);
    return v_mul(_mm512_castsi512_ps(_mm512_mask_mov_epi32(_mm512_slli_epi32(wide, 23), none, _mm512_set1_epi32(0x00400000))), v_set1(0.5f));
}
#elif defined(FA_VEC_AVX2)
FA_INLINE __m256 fa_quant_powers8(const uint8_t *e) {
    const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)e));
    const __m256i none = _mm256_and_si256(_mm256_cmpeq_epi32(wide, _mm256_setzero_si256()), _mm256_set1_epi32(0x00400000));
    return _mm256_castsi256_ps(_mm256_or_si256(_mm256_slli_epi32(wide, 23), none));
}
FA_INLINE v16f q_powers(const uint8_t *e) { return v_mul((v16f){fa_quant_powers8(e), fa_quant_powers8(e + 8)}, v_set1(0.5f)); }
#else
FA_INLINE v16f q_powers(const uint8_t *e) {
    uint32_t bits[16];
    float twice[16];
    for (int i = 0; i < 16; i++) bits[i] = e[i] ? (uint32_t)e[i] << 23 : 0x00400000u;
    memcpy(twice, bits, 64);
    return v_mul(v_load(twice), v_set1(0.5f));
}
#endif

#endif
