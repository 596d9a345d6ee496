/* SPDX-License-Identifier: MIT */
/*
 * v16f: one fixed vector of 16 floats on every ISA. Kernels are written over it once; the backend is chosen by the
 * stub that includes them (isa/<isa>.c defines FA_VEC_<NAME>).
 *
 * Every operation is IEEE single precision, one rounding, lane by lane, and gives the same bits in every backend:
 *   v_max(a, b)   a > b ? a : b          (so the second operand wins on NaN and on +-0)
 *   v_fma(a,b,c)  a * b + c, rounded once
 *   v_round(a)    nearest, ties to even; |a| < 2^22 or the result is unspecified (but no trap)
 *   v_pow2(n)     2^n for integral n in [-126, 127]
 *   v_step16(r, t) the float of bits (r << 19) + t[r & 15], modulo 2^32, where r are the bits of the lane (t [16])
 *   v_unzip(a, b, &even, &odd) parts 32 lanes a b into those of even and of odd number; v_zip puts them back
 * Masks (vmask) hold one truth value per lane. Loads and stores with a count n <= 16 touch exactly that many elements;
 * the lanes of such a load from n on are 0.
 *
 * Storage types: v_load_f16, v_load_bf16 and v_load_i8 are exact, denormals and infinities too (a signalling NaN of
 * fp16 becomes quiet, NaNs else keep their bits). v_store_f16 and v_store_bf16 round to nearest, ties to even, overflow
 * to infinity, keep denormals, and store every NaN as 0x7e00 and 0x7fc0. v_store_i8 takes integral lanes in [-128, 127].
 * v_part_bf16(words, i) and v_part_i8(words, i) widen element i of the 2 or 4 that share each word of 32 bits, little end first.
 */
#ifndef FA_VEC_H
#define FA_VEC_H

#include <stdint.h>
#include <string.h>

#include "../fastattn.h"

#if defined(FA_VEC_SCALAR) /* vectors are loops already: inlining all of them costs the compiler minutes and gains nothing */
#define FA_INLINE static inline __attribute__((unused))
#else
#define FA_INLINE static inline __attribute__((always_inline, unused))
#endif

#if defined(FA_VEC_AVX512)
#include "avx512.h"
#elif defined(FA_VEC_AVX2)
#include "avx2.h"
#elif defined(FA_VEC_NEON)
#include "neon.h"
#elif defined(FA_VEC_SCALAR)
#include "scalar.h"
#else
#error "define FA_VEC_AVX512, FA_VEC_AVX2, FA_VEC_NEON or FA_VEC_SCALAR"
#endif

/* Sum of the lanes by the one fixed tree: i + (i + 8), then 4, 2, 1. */
FA_INLINE float v_sum(v16f a) {
    float t[16];
    v_store(t, a);
    for (int step = 8; step >= 1; step /= 2)
        for (int i = 0; i < step; i++) t[i] = t[i] + t[i + step];
    return t[0];
}

/* Largest lane; meaningless if a lane is NaN. */
FA_INLINE float v_hmax(v16f a) {
#if defined(FA_VEC_AVX512)
    return _mm512_reduce_max_ps(a);
#else
    float t[16];
    v_store(t, a);
    for (int step = 8; step >= 1; step /= 2)
        for (int i = 0; i < step; i++) t[i] = t[i] > t[i + step] ? t[i] : t[i + step];
    return t[0];
#endif
}

FA_INLINE vmask m_nan(v16f a) { return m_not(m_eq(a, a)); }

/* NaNs leave the library as one pattern. */
FA_INLINE v16f v_canonical(v16f a) { return v_select(m_nan(a), v_set1(__builtin_nanf("")), a); }

#endif
