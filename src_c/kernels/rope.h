/* SPDX-License-Identifier: MIT */
/* Rotary position embedding of rows. */
#ifndef FA_KERNELS_ROPE_H
#define FA_KERNELS_ROPE_H

#include "../fastattn.h"

typedef struct fa_rope_rows {
    void *out;       /* [rows, d], os bytes between rows; may be x in the very same place */
    ptrdiff_t os;
    const void *x;   /* [rows, d], xs bytes between rows */
    ptrdiff_t xs;
    int dtype;       /* of x and out: FA_F32, FA_F16 or FA_BF16 */
    int interleaved; /* pairs are (2 i, 2 i + 1) instead of (i, i + half) */
    const float *cos, *sin; /* [.., half], cs and ss elements between rows */
    ptrdiff_t cs, ss;
    const int64_t *positions; /* [rows], ps bytes apart: the rows of cos and sin, or NULL: row i of x takes row i */
    ptrdiff_t ps;
    int64_t rows, half, d; /* 2 half <= d; what lies beyond is copied, bit for bit */
} fa_rope_rows;

typedef struct fa_rope_kernels {
    void (*rotate)(const fa_rope_rows *job);
} fa_rope_kernels;

#endif
