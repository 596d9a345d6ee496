/* SPDX-License-Identifier: MIT */
/* Scores by relative position, gathered from products of content and position vectors (disentangled attention). */
#ifndef FA_KERNELS_RELATIVE_H
#define FA_KERNELS_RELATIVE_H

#include "../fastattn.h"

typedef struct fa_relative {
    float *out;         /* [rows, keys], row stride os */
    ptrdiff_t os;
    const float *c2p;   /* [rows, n], row stride cs: products of queries and position keys; or NULL */
    ptrdiff_t cs;
    const float *p2c;   /* [keys, n], row stride ps: products of keys and position queries; or NULL */
    ptrdiff_t ps;
    int32_t first;      /* column of the products' first element */
    const int64_t *q_at, *k_at; /* [rows], [keys]: positions */
    const int32_t *columns; /* the column of distance d = q_at - k_at at columns[d], d of either sign; all within first..first+n-1 */
    float scale;
    int64_t rows, keys;
} fa_relative;

typedef struct fa_relative_kernels {
    /* out[i][j] = (c2p[i][t] + p2c[j][t]) scale with t = columns[q_at[i] - k_at[j]] - first; one product or both; keys may be 0 */
    void (*gather)(const fa_relative *job);
} fa_relative_kernels;

#endif
