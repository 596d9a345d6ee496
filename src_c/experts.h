/* SPDX-License-Identifier: MIT */
/*
 * Part of fastattn.h, which includes it: feed-forward layers of which each row takes a few. fa_route says which, and by what
 * weights; fa_experts does it.
 */
#ifndef FA_EXPERTS_H
#define FA_EXPERTS_H

typedef enum fa_route_score {
    FA_ROUTE_SOFTMAX = 0, /* exp(x - max) / sum, over all experts */
    FA_ROUTE_CHOSEN = 1,  /* the same over those that were chosen */
    FA_ROUTE_SIGMOID = 2
} fa_route_score;

typedef struct fa_route_params {
    int64_t top;        /* experts of a row, from 1 to all */
    int32_t score;      /* fa_route_score: what becomes of a row of logits x */
    int32_t normalize;  /* the scores of the chosen are divided by (their sum, in their order, + floor) */
    float floor;        /* at least 0 */
    float scale;        /* multiplies the weights at last */
    int64_t groups;     /* of experts, as many in each; 1: no groups */
    int64_t top_groups; /* only experts of so many groups are chosen, from 1 to all; they have at least `top` experts */
    int32_t group_sum;  /* a group counts as much as its best expert, or as its two best together */
    const fa_view *bias; /* (E,) fp32 that is added to scores where experts are chosen, and not to the weights; NULL: none */
} fa_route_params;

#define FA_MOST_EXPERTS 65536

/* logits (M, E) -> routes (M, 2 * top): numbers of experts, the best first, then their weights in that order. Experts are
 * compared by their logits; by their scores where there is a bias, or groups count as two. The lower number wins a tie,
 * and NaN wins over all else: it is not to vanish. */
fa_status fa_route_workspace(const fa_ctx *ctx, const fa_view *routes, const fa_view *logits, const fa_route_params *params,
                             size_t *bytes);
fa_status fa_route(const fa_ctx *ctx, const fa_view *routes, const fa_view *logits, const fa_route_params *params, void *ws,
                   size_t ws_bytes);

typedef enum fa_experts_gate {
    FA_GATE_ACT = 0,    /* act(g) u */
    FA_GATE_CLAMPED = 1 /* g' sigmoid(alpha g') (u' + 1) with g' = min(g, limit), u' = u within -limit..limit */
} fa_experts_gate;

/*
 * Weights of all experts lie one behind the other, each in whole panels: outputs e * span .. of expert e, where span is
 * fa_expert_span of how many it has; what is beyond those is not looked at.
 */
typedef struct fa_experts_params {
    int64_t count, inner, top;
    int32_t gate;  /* fa_experts_gate */
    int32_t act;   /* fa_activation */
    float alpha, limit;
    int32_t before; /* weights multiply what goes into an expert, and not what comes out */
    const fa_linear_weights *up, *down; /* [g | u] (2 * inner, H) and (H, inner) of each */
    const fa_view *up_bias, *down_bias; /* (count * span,) fp32, or NULL */
} fa_experts_params;

/* Outputs that an expert of n of them takes in weights and biases: whole panels at multiples of FA_ALIGN in every dtype. */
static inline int64_t fa_expert_span(int64_t n) { return (n + 31) / 32 * 32; }

/* x (M, H), routes (M, 2 * top) -> out (M, H) = sum over the row's experts, in the order of routes, of weight * down(gated(up(x))):
 * each product is that of fa_linear, each weighted one is rounded, then added. Experts that no row takes are not read. A number
 * in routes that is none of an expert, or twice in a row: FA_ERR_VALUE, nothing written. */
fa_status fa_experts_workspace(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *routes,
                               const fa_experts_params *params, size_t *bytes);
fa_status fa_experts(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *routes,
                     const fa_experts_params *params, void *ws, size_t ws_bytes);

#endif
