/* SPDX-License-Identifier: MIT */
/* The vector functions by themselves, so that tests can compare every ISA on every float. */
#ifndef FA_KERNELS_VMATH_H
#define FA_KERNELS_VMATH_H

#include "../fastattn.h"

typedef enum fa_vfn {
    FA_VFN_EXP2 = 0, FA_VFN_EXP2_NEG, FA_VFN_EXP, FA_VFN_LOG2, FA_VFN_TANH, FA_VFN_ERF, FA_VFN_SIGMOID, FA_VFN_GELU,
    FA_VFN_GELU_TANH, FA_VFN_SILU, FA_VFN_COUNT
} fa_vfn;

typedef struct fa_vmath_kernels {
    /* out[i] = fn(x[i]) for i < n; out may be x. */
    void (*map)(fa_vfn fn, float *out, const float *x, int64_t n);
    /* out [16][16] = transpose of x [16][16]; bits[16]: of row i, the lanes that are below 0; sum[16]: v_sum of row i */
    void (*lanes)(float *out, uint32_t *bits, float *sum, const float *x);
    /* rounds of independent FMAs; returns a value that depends on all of them, *flops the operations done */
    float (*fma_rounds)(int64_t rounds, double *flops);
    /* sum over n floats, n a multiple of 128, read as fast as memory gives them */
    float (*read)(const float *x, int64_t n);
} fa_vmath_kernels;

#endif
