/* SPDX-License-Identifier: MIT */
/*
 * Multiply and add integers, on vectors as wide as the registers are (d_vec), where no instruction does both:
 *
 *   d_madd(sums, x, w)              sums + x0 w0 + x1 w1, of neighbouring 16-bit integers; 32-bit sums, which wrap
 *   d_madd_two(sums, x, w, y, v)    d_madd of x and w and of y and v; a little faster than one after the other
 *   d_madd_bytes(sums, u, s)        sums + u0 s0 + u1 s1, of neighbouring bytes, u without and s with sign; 16-bit sums,
 *                                   which wrap. The two products together saturate: u up to 127 is safe with every s
 *   d_even_words(bytes), d_odd_words(bytes)    bytes with sign 0, 2, 4, ... and 1, 3, 5, ... as 16-bit integers
 *
 * Instructions that belong together are one statement of assembly: from intrinsics GCC 12 computes all products of a tile
 * before it adds them, and has no registers for them.
 */
#ifndef FA_VEC_MADD_H
#define FA_VEC_MADD_H

#include "vec.h"

#if defined(FA_VEC_AVX512)
typedef __m512i d_vec;
#define D_WORDS(name) _mm512_##name##_epi16
#elif defined(FA_VEC_AVX2)
typedef __m256i d_vec;
#define D_WORDS(name) _mm256_##name##_epi16
#endif

#if defined(FA_VEC_AVX512) || defined(FA_VEC_AVX2)

/* "v": any vector register that the instruction set has. */
FA_INLINE d_vec d_madd(d_vec sums, d_vec x, d_vec w) {
    d_vec product;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+v"(sums), "=&v"(product) : "v"(x), "v"(w));
    return sums;
}
FA_INLINE d_vec d_madd_two(d_vec sums, d_vec x, d_vec w, d_vec y, d_vec v) {
    d_vec product, other;
    __asm__("vpmaddwd %4, %3, %1\n\tvpmaddwd %6, %5, %2\n\tvpaddd %1, %2, %1\n\tvpaddd %1, %0, %0"
            : "+v"(sums), "=&v"(product), "=&v"(other) : "v"(x), "v"(w), "v"(y), "v"(v));
    return sums;
}
FA_INLINE d_vec d_madd_bytes(d_vec sums, d_vec u, d_vec s) {
    d_vec product;
    __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+v"(sums), "=&v"(product) : "v"(u), "v"(s));
    return sums;
}
FA_INLINE d_vec d_even_words(d_vec bytes) { return D_WORDS(srai)(D_WORDS(slli)(bytes, 8), 8); }
FA_INLINE d_vec d_odd_words(d_vec bytes) { return D_WORDS(srai)(bytes, 8); }

#endif

#endif
