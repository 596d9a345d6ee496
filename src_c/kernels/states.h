/* SPDX-License-Identifier: MIT */
/* Contracts of the kernels beside states: short convolutions, and what makes the gates of linear attention. */
#ifndef FA_KERNELS_STATES_H
#define FA_KERNELS_STATES_H

#include "../fastattn.h"

/* All arrays fp32 with unit last stride, strides in elements. */
typedef struct fa_conv {
    float *out;          /* [tokens][h] */
    ptrdiff_t os;
    const float *x;      /* [tokens][h], apart from out */
    ptrdiff_t xs;
    const float *before; /* [size - 1][h] the rows before the first; NULL: zeros */
    ptrdiff_t bs;
    const float *weight; /* [size][h] */
    ptrdiff_t ws;
    const float *bias;   /* [h] or NULL */
    int act;             /* fa_activation */
    int size;            /* 1 to FA_MAX_CONV */
    int64_t tokens, h;
} fa_conv;

typedef struct fa_gates {
    float *out;           /* [rows][h], may be x or y */
    ptrdiff_t os;
    const float *x;       /* [rows][h] */
    ptrdiff_t xs;
    const float *y;       /* columns: [rows][h] or NULL; scale_heads: [rows][h / size] */
    ptrdiff_t ys;
    const float *bias;    /* softplus: [h] or NULL */
    const float *weight;  /* [h], or NULL for softplus */
    int exponent;         /* softplus: the factors are -exp(weight) */
    float low, high;
    int64_t rows, h, size; /* size: of a head */
} fa_gates;

typedef struct fa_state_kernels {
    /* s = 0; s = fma(weight[j], row of token t - size + 1 + j, s) for j ascending; out = act(s + bias) */
    void (*conv)(const fa_conv *job);
    /* p = max(u, 0) + log(1 + e^-|u|) with u = x + bias; p < low: low; p > high: high; out = p * factor */
    void (*softplus)(const fa_gates *job);
    void (*scale_heads)(const fa_gates *job); /* out = x * y of the head */
    void (*columns)(const fa_gates *job);     /* out = x * weight; fma(y, weight, x) */
} fa_state_kernels;

#endif
