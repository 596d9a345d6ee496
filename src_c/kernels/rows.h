/* SPDX-License-Identifier: MIT */
/* Contracts of the kernels that work row by row. All arrays are fp32 with unit last stride; counts may be 0. */
#ifndef FA_KERNELS_ROWS_H
#define FA_KERNELS_ROWS_H

#include "../fastattn.h"

typedef struct fa_rows {
    float *out;          /* [rows, h], row stride os; may be x or residual */
    ptrdiff_t os;
    const float *x;      /* [rows, h], row stride xs */
    ptrdiff_t xs;
    const float *residual; /* [rows, h], row stride rs, or NULL; norms, and the second operand of gated and add */
    ptrdiff_t rs;
    const float *weight; /* [h]; norms only */
    const float *bias;   /* [h] or NULL; layer norm only */
    float eps;           /* norms and l2; the factor of scale, the bound of clamp, alpha of gated_clamped */
    float limit;         /* of gated_clamped */
    int act;             /* fa_activation; activate and gated only */
    int64_t rows, h;
} fa_rows;

typedef struct fa_row_kernels {
    void (*layer_norm)(const fa_rows *job);
    void (*rms_norm)(const fa_rows *job);
    void (*softmax)(const fa_rows *job);
    void (*activate)(const fa_rows *job);
    void (*l2_normalize)(const fa_rows *job);
    void (*gated)(const fa_rows *job); /* out = act(x) residual */
    void (*add)(const fa_rows *job);   /* out = x + residual */
    void (*scale)(const fa_rows *job); /* out = x eps */
    void (*clamp)(const fa_rows *job); /* out = max(-eps, min(x, eps)) */
    /* out [h] = rows[0] + rows[1] + ..., left to right; n >= 1; out may be one of them */
    void (*sum)(float *out, const float *const *rows, int n, int64_t h);
    /* x [n, h] (row stride xs) -> out [h]; n >= 1. The sum is divided by n, or with `root` by sqrt(n). */
    void (*mean)(float *out, const float *x, ptrdiff_t xs, int64_t n, int64_t h, int root);
    /* The weights are first, first + 1, ...; first >= 1. */
    void (*weighted_mean)(float *out, const float *x, ptrdiff_t xs, int64_t n, int64_t h, int64_t first);
    void (*max)(float *out, const float *x, ptrdiff_t xs, int64_t n, int64_t h);
    void (*gated_clamped)(const fa_rows *job); /* out = (g * sigmoid(eps * g)) * (u + 1), g = min(x, limit), u = residual in +-limit */
} fa_row_kernels;

#endif
