/* SPDX-License-Identifier: MIT */
/*
 * Part of fastattn.h, which includes it: states of a fixed size in place of keys and values. fa_linear_attention and
 * fa_short_conv take streams from a state to a state; fa_softplus, fa_scale_heads and fa_columns make what they take.
 */
#ifndef FA_STATES_H
#define FA_STATES_H

/* ---- linear attention ------------------------------------------------------------------------------------------ */

typedef enum fa_recurrence { FA_RULE_LINEAR = 0, FA_RULE_GATED = 1, FA_RULE_DELTA = 2, FA_RULE_GATED_DELTA = 3 } fa_recurrence;

typedef struct fa_linear_attention_params {
    float scale;
    int32_t rule;          /* fa_recurrence: bit 0, decay is needed; bit 1, beta is needed; each NULL otherwise */
    const fa_view *state;  /* (B, Hkv, Dk, Dv) before the first token, NULL: zeros */
    const fa_view *decay;  /* (B, T, Hkv, Dk) or (B, T, Hkv, 1), logarithms */
    const fa_view *beta;   /* (1, B, T, Hkv) or (1, B, T, 1) */
    const int64_t *cu;     /* [n_seq + 1], or NULL: ends of streams packed into the one row of a batch of 1 */
    int64_t n_seq;
    const int64_t *from, *to; /* of packed streams: [n_seq] the slot of `state` each begins with, -1 zeros, NULL all zeros; the
                            * slot of state_out it leaves its state in, each another, which may be its `from`; NULL with state_out */
} fa_linear_attention_params;

/* q (B, T, Hq, Dk), k (B, T, Hkv, Dk), v (B, T, Hkv, Dv) -> out (B, T, Hq, Dv), state_out (B, Hkv, Dk, Dv) fp32, which may
 * be params->state itself. q, k, v, out share one of FA_F32, FA_F16, FA_BF16; state, decay, beta may each be any of them.
 * Of packed streams q and k (1, T, H, Dk) may have fewer heads than v, of which each serves Hv / H neighbouring ones; state and
 * state_out are (slots, Hv, Dk, Dv), out has as many heads as v, or as q where that has more.
 * Token by token (kernels/recurrent.h): a stream that is cut anywhere gives the bits of one call. */
fa_status fa_linear_attention_workspace(const fa_ctx *ctx, const fa_view *out, const fa_view *state_out, const fa_view *q,
                                        const fa_view *k, const fa_view *v, const fa_linear_attention_params *params,
                                        size_t *bytes);
fa_status fa_linear_attention(const fa_ctx *ctx, const fa_view *out, const fa_view *state_out, const fa_view *q, const fa_view *k,
                              const fa_view *v, const fa_linear_attention_params *params, void *ws, size_t ws_bytes);

/* ---- short convolutions and what goes with states ---------------------------------------------------------------- */

typedef struct fa_short_conv_params {
    const fa_view *weight;    /* (size, C) fp32, dense, the oldest token's first; size 1 to FA_MAX_CONV */
    const fa_view *bias;      /* (C,) fp32 or NULL */
    fa_activation act;
    const int64_t *cu;        /* [n_seq + 1] ends of the sequences */
    int64_t n_seq;
    const fa_view *states;    /* (slots, (size - 1) C) fp32: the size - 1 rows before a sequence's next one, or NULL */
    const int64_t *from, *to; /* as of fa_linear_attention_params, `to` with states */
} fa_short_conv_params;

/* out[t][c] = act(sum over j of weight[j][c] x[t - size + 1 + j][c], j ascending, + bias[c]) of every sequence, where rows
 * before its first are those of its state: a sequence that is cut anywhere gives the bits of one call. out and x (T, C)
 * fp32, apart. */
fa_status fa_short_conv(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_short_conv_params *params);
/* out = clip(softplus(x + bias), low, high), times weight or, with `exponent`, times -exp(weight); bias and weight (C,) or
 * NULL; 0 <= low <= high, which may be infinite. out (R, C) may be x. */
fa_status fa_softplus(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *bias, const fa_view *weight,
                      int exponent, float low, float high);
/* out = x * y of the head: x (R, H * D), y (R, H); out may be x. */
fa_status fa_scale_heads(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *y);
/* out = x * weight, or with y fma(y, weight, x); weight (C,); out may be x or y. */
fa_status fa_columns(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *y, const fa_view *weight);

#endif
