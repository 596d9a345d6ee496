/* SPDX-License-Identifier: MIT */
/*
 * Contracts of the similarity kernels: rows against rows, every pair of them.
 *
 * For every pair, in every kernel and on every ISA, 16 partial sums: sum l takes dimensions l, l + 16, ... in order, by
 *     dot, cosine    fma(x, y, sum)
 *     euclidean      fma(t, t, sum) with t = x - y
 *     manhattan      sum + |x - y|
 * They are joined by a tree, neighbours first: (0 + 1) + (2 + 3) and so on. Each step is symmetric, so x and y may change
 * places. Then
 *     dot            the sum
 *     cosine         (dot / sqrt(sx sy)) (px py), s the row's sum of squares and p its part, 1 but for rows shorter than
 *                    1e-12 (below). A row beside itself gives exactly 1.
 *     euclidean      0 - sqrt(sum)
 *     manhattan      0 - sum
 *
 * Squares that leave the range of floats. A row whose s is outside (2^-60, 2^60) is multiplied by a power of two that
 * brings its largest number near 1, in all sums of its; a row of zeros has s = 1 and p = 0; a row shorter than 1e-12 has
 * p = length / 1e-12; NaN and infinity stay and give NaN. A pair whose euclidean sum is outside (2^-60, inf) is summed
 * again with its differences multiplied likewise.
 */
#ifndef FA_KERNELS_SIMILARITY_H
#define FA_KERNELS_SIMILARITY_H

#include "../fastattn.h"

#define FA_SIMILAR_GROUP 16 /* rows of b that a tile takes */

/* Rows of a held in cache, beside FA_SIMILAR_GROUP rows of b. */
typedef struct fa_similar_tile {
    int metric;              /* fa_metric */
    const float *a;          /* [rows, d], zeros up to a multiple of 16, row stride as */
    ptrdiff_t as;
    int64_t rows, d;
    const float **b;         /* [FA_SIMILAR_GROUP] rows of d; those from n on are any rows that can be read. May be changed */
    int n;                   /* rows of b that count, at least 1 */
    const float *next;       /* [n_next, d] rows of b that come next, row stride next_stride, or NULL: only asked for */
    int n_next;
    ptrdiff_t next_stride;
    const float *a_sum, *a_part; /* [rows]; cosine only, from norms */
    float *scaled;           /* scratch [n, d], row stride ss; cosine only. The rows of b may lie in it, each in its own */
    ptrdiff_t ss;
    float *out;              /* [rows, n], strides os and oc in elements */
    ptrdiff_t os, oc;
} fa_similar_tile;

typedef struct fa_similar_kernels {
    void (*tile)(const fa_similar_tile *job);
    /* Sums of squares and parts of n rows of d, all of sum and part [FA_SIMILAR_GROUP] written. A row that has to be
     * multiplied is written to its row of scaled [n, d], row stride ss, where it may lie already, and its pointer then
     * points there. */
    void (*norms)(float *sum, float *part, const float **rows, int n, int64_t d, float *scaled, ptrdiff_t ss);
    /* x [n, h] (row stride xs) -> out [n, h] (row stride os): floor((x - least) / step) within 0..255, minus 128; with
     * step = (most - least) / 255, or 1 where that is 0. NaN counts as below the range. Each byte ^ flip. */
    void (*quantize)(int8_t *out, ptrdiff_t os, const float *x, ptrdiff_t xs, int64_t n, int64_t h, const float *least,
                     const float *most, uint8_t flip);
} fa_similar_kernels;

#endif
