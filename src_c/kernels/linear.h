/* SPDX-License-Identifier: MIT */
/*
 * Contracts of the linear kernels. Weights lie in panels of 16 outputs, [ceil(N/16)][K][16], zero beyond N.
 *
 *             16 outputs
 *            +----------+
 *     K rows |  panel 0 |   panel 1 follows K * 16 floats later, and so on
 *            +----------+
 *
 * For every output element, in every kernel and on every ISA:
 *     p = 0; p = fma(x[k], w[k], p) for the k of one chunk of FA_K_CHUNK, ascending; the chunks' sums are added in
 *     order; then the bias; then the activation.
 *
 * Weights may be stored as fp16 or bf16 in the same panels: w is the widened value, so the bits are those of fp32 weights
 * of these values.
 */
#ifndef FA_KERNELS_LINEAR_H
#define FA_KERNELS_LINEAR_H

#include "../fastattn.h"

#define FA_LINEAR_MAX_ROWS 12 /* most rows of a tile on any ISA */
#define FA_LINEAR_PASS 16     /* most rows that a kernel may take in one tile */
#define FA_LINEAR_PAD 16      /* floats between the rows of the copied chunk of A, so that they spread over cache sets */

/* A block of the output: all rows of a task times panels that fit the cache. */
typedef struct fa_linear_block {
    const float *x;      /* [rows, k], row stride xs */
    ptrdiff_t xs;        /* in elements */
    int64_t rows, k;
    const void *panels;  /* [n_panels][k][16] of dtype */
    int dtype;           /* FA_F32, FA_F16 or FA_BF16 */
    int64_t n_panels;
    int far;             /* the layer's weights are more than caches hold: choose what reads memory best */
    const float *bias;   /* [n] or NULL */
    float *out;          /* [rows, n], row stride os */
    ptrdiff_t os;
    int64_t n;           /* outputs of this block, 16 * n_panels or fewer in the last */
    int act;             /* fa_activation */
    float *c;            /* scratch [rows][16 * n_panels] */
    float *a;            /* scratch [tile_rows][FA_K_CHUNK + FA_LINEAR_PAD], and [k][16] for up to FA_LINEAR_PASS rows */
    float *wide;         /* 16 bits, more than half_rows: scratch [n_panels][FA_K_CHUNK][16], a chunk of the weights widened */
    float *part;         /* likewise: scratch [rows][16 * n_panels] */
} fa_linear_block;

typedef struct fa_linear_kernels {
    int tile_rows; /* most rows of a tile on this ISA */
    int64_t half_rows; /* up to so many rows, weights of 16 bits need no scratch of their own */
    /* rows of w ([n, k], row stride ws, n <= 16) -> one panel [k][16] of dtype, zero from n on */
    void (*pack)(void *panel, int dtype, const float *w, ptrdiff_t ws, int n, int64_t k);
    void (*block)(const fa_linear_block *block);
} fa_linear_kernels;

#endif
