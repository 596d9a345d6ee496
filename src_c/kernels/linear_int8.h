/* SPDX-License-Identifier: MIT */
/*
 * Contracts of the linear kernels with int8 weights. They lie in panels of 16 outputs, [ceil(N/16)][ceil(K/4)][16][4],
 * zero beyond N and K, with a scale and the sum of its integers for each output, both zero beyond N.
 *
 * Weights and inputs are rotated first, the same way, so that no single input is much larger than the others (a few of a
 * layer norm's outputs usually are) and all share the rounding error alike: every whole block of 128 inputs, eight
 * vectors of 16 lanes, goes through three butterflies of vectors and three of neighbouring lanes, that is a Hadamard
 * transform of 64 inputs each, which makes all inputs together 8 times as long; those behind the last whole block are
 * multiplied by 8. Then, for a row x (of inputs, or of weights of one output):
 *
 *     top = max |x|;  q = round_even(x * (127 / top)) in [-127, 127];  scale = top / 127
 *
 * (rows with top beyond 2^64 or below 2^-64 are multiplied by 2^-64 or 2^64 before, their scale by the inverse after.
 * NaN or infinity anywhere in a row gives a scale of NaN.) Scales of weights contain the 1/64 that undoes the growth of
 * both. The output is, on every ISA,
 *
 *     act(fma((float)(exact sum of q_x q_w) * scale_w, scale_x, bias))
 *
 * with a bias of 0 where there is none.
 */
#ifndef FA_KERNELS_LINEAR_INT8_H
#define FA_KERNELS_LINEAR_INT8_H

#include "../fastattn.h"

#define FA_INT8_BLOCK 128 /* inputs rotated together */

/* A block of the output: rows times panels that fit the cache. */
typedef struct fa_int8_block {
    const void *x;         /* [rows] quantised rows of x_bytes each */
    ptrdiff_t x_bytes;
    const float *x_scale;  /* [rows] */
    int64_t rows, k;
    const int8_t *panels;  /* [n_panels][ceil(k/4)][16][4] */
    const float *scale;    /* [16 * n_panels] */
    const int32_t *sums;   /* [16 * n_panels] */
    int64_t n_panels;
    const float *bias;     /* [n] or NULL */
    float *out;            /* [rows, n], row stride os */
    ptrdiff_t os;          /* in elements */
    int64_t n;             /* outputs of this block, 16 * n_panels or fewer in the last */
    int act;               /* fa_activation */
} fa_int8_block;

typedef struct fa_int8_kernels {
    int input_bytes; /* of one input in a quantised row; rows have ceil(k/16) * 16 inputs */
    /* rows of w ([n, k], row stride ws, n <= 16) -> one panel, its 16 scales and sums */
    void (*pack)(int8_t *panel, float *scale, int32_t *sums, const float *w, ptrdiff_t ws, int n, int64_t k);
    /* One row of k inputs, quantised, at `to`; returns its scale. scratch: ceil(k/16) * 16 floats */
    float (*quantize)(void *to, const float *x, int64_t k, float *scratch);
    void (*block)(const fa_int8_block *block);
    /* rounds of independent products of this ISA; returns a value that depends on all of them, *ops the operations done */
    float (*rounds)(int64_t rounds, double *ops);
} fa_int8_kernels;

#endif
