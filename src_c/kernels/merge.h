/* SPDX-License-Identifier: MIT */
/* Partial attention results over disjoint keys become one. */
#ifndef FA_KERNELS_MERGE_H
#define FA_KERNELS_MERGE_H

#include "../fastattn.h"

typedef struct fa_merge_kernels {
    /* lse [n][16]: log-sum-exps of n sides for 16 rows -> the weights of the sides in place, -1 for an empty side;
     * total[16]: the log-sum-exp of all, -inf where every side is empty. */
    void (*weigh)(float *lse, float *total, int64_t n);
    /* out [d] = the weighted sum of sides [n][d] of one row, first to last; weight i at weights[16 i], -1: not read.
     * Zeros without any side. */
    void (*combine)(void *out, int dtype, const void *const *sides, const float *weights, int64_t n, int64_t d);
} fa_merge_kernels;

#endif
