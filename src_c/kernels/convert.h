/* SPDX-License-Identifier: MIT */
/*
 * Between fp32 and the types things are stored in, one row of n elements at a time; n may be 0, `to` and `from` apart or
 * the same row of one size. Exact towards fp32; to nearest, ties to even, the other way.
 */
#ifndef FA_KERNELS_CONVERT_H
#define FA_KERNELS_CONVERT_H

#include "../fastattn.h"

typedef struct fa_convert_kernels {
    /* FA_F32 (a copy, bit for bit), FA_F16, FA_BF16 or FA_I8 -> fp32 */
    void (*widen)(float *to, const void *from, int dtype, int64_t n);
    /* fp32 -> FA_F32, FA_F16 or FA_BF16; NaN becomes the canonical one of the type: 0x7fc00000, 0x7e00, 0x7fc0 */
    void (*narrow)(void *to, int dtype, const float *from, int64_t n);
    /* Symmetric: returns scale = max|x| / 127; to[i] = round_even(x[i] / scale), in -127..127. A scale of 0 gives zeros.
     * NaN or infinity anywhere in the row: zeros and a scale of NaN, so that what is computed from the row is NaN. */
    float (*quantize)(int8_t *to, const float *from, int64_t n);
} fa_convert_kernels;

#endif
