/* SPDX-License-Identifier: MIT */
/*
 * Contract of the recurrent kernel: linear attention, token by token, over some columns of one head's state.
 *
 *                 16 nv columns
 *                +-------------+
 *   d rows       |  state S    |    every column is a recurrence of its own: lanes and panels are columns
 *                +-------------+
 *
 * For each token, for each column c, in this order and with these roundings on every ISA:
 *     S[i] = S[i] * decay[i]                                 where there is a decay; the factors, not their logarithms
 *     r = 0; r = fma(S[i], k[i], r) for i ascending          where there is a beta
 *     u = beta * (v[c] - r), or v[c] without a beta
 *     S[i] = fma(k[i], u, S[i])
 *     o = 0; o = fma(q[i], S[i], o) for i ascending; out = scale * o, for each query head of the group
 * so tokens may be handed over in any portions. NaNs in out and in the state that is left are the canonical one.
 */
#ifndef FA_KERNELS_RECURRENT_H
#define FA_KERNELS_RECURRENT_H

#include "../fastattn.h"

#define FA_RECURRENT_AHEAD 4

/* Memory that will be wanted when this call is done: while token t is computed, `bytes` at at + t * token are asked for. */
typedef struct fa_recurrent_ahead {
    const char *at;
    ptrdiff_t token; /* in bytes */
    int64_t bytes;   /* 0: nothing */
    int write;
} fa_recurrent_ahead;

typedef struct fa_recurrent {
    const float *from;       /* [d][16 nv] the state before the first token; may be `state` */
    ptrdiff_t from_stride;   /* all strides in elements */
    float *state;            /* [d][16 nv] the state after the last token */
    ptrdiff_t state_stride;
    int64_t d;
    int nv;                  /* vectors of columns, 1 to columns(group) */
    int group;               /* query heads that read this state */
    int64_t tokens;          /* at least 1 */
    const float *q;          /* [tokens][group][d] */
    ptrdiff_t q_token, q_head;
    const float *k;          /* [tokens][d] */
    ptrdiff_t k_token;
    const float *v;          /* [tokens][16 nv] */
    ptrdiff_t v_token;
    const float *decay;      /* [tokens][d] factors; decay_row 1, or 0 for one factor a token; NULL: none */
    ptrdiff_t decay_token, decay_row;
    const float *beta;       /* [tokens]; NULL: v is written as it is */
    float *out;              /* [tokens][group][16 nv] */
    ptrdiff_t out_token, out_head;
    float scale;
    fa_recurrent_ahead ahead[FA_RECURRENT_AHEAD];
    int64_t ahead_tokens;    /* at most `tokens` */
    int64_t far_rows;        /* the state comes from memory: the first pass asks for `far_bytes` so many rows below */
    int64_t far_bytes;       /* 0: nothing */
} fa_recurrent;

typedef struct fa_recurrent_kernels {
    int (*columns)(int64_t group); /* most vectors of columns of a call */
    void (*run)(const fa_recurrent *job);
} fa_recurrent_kernels;

#endif
