/* SPDX-License-Identifier: MIT */
/* Contracts of the kernels that draw tokens: a row of logits in one pass, and the weights of what may be drawn. */
#ifndef FA_KERNELS_SAMPLE_H
#define FA_KERNELS_SAMPLE_H

#include "../fastattn.h"

#define FA_SAMPLE_BLOCK 256 /* logits that share FA_LANES maxima */

typedef struct fa_sample_kernels {
    /* best[16 b + l] = the largest of x[256 b + l], x[256 b + 16 + l], ... of block b, -inf where there is none, for every
     * block that begins below n; *max = the largest of all, of +0 and -0 either. Returns whether NaN or +inf is among
     * them: then best and max mean nothing. */
    int (*scan)(float *best, float *max, const float *x, int64_t n);
    /* w[i] = exp2((x[i] - max) * c), i < n; max finite, c normal and above 0, so never NaN for x below +inf */
    void (*weigh)(float *w, const float *x, int64_t n, float max, float c);
} fa_sample_kernels;

#endif
