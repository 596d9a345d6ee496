/* SPDX-License-Identifier: MIT */
/* Part of fastattn.h, which includes it: drawing tokens. */
#ifndef FA_DRAW_H
#define FA_DRAW_H

/*
 * How the token of a row is chosen. To the logits, in this order, each step rounded to fp32 and kept finite:
 *   bias        added, those of one id together
 *   repetition  each id of `tokens` once: negative logits times the penalty, others divided by it
 *   frequency   minus the penalty times how often the id is in the answer, tokens[prompt..]
 *   presence    minus the penalty, once for each id in the answer
 *   dry         minus a penalty that grows with the repetition that the id would make longer (fa_dry)
 *   banned, allowed   what may not come: -inf
 *   decay       plus its absolute value times decay^steps - 1, of decay_ids
 * A logit of -inf stays that. Then, with temperature 0, the highest one. Else a token has the weight
 * exp2((logit - highest) * (log2(e) / temperature)), and of all
 *   top_k       the first so many in the order of their logits, the highest first and of equals the lower id, stay;
 *   top_p       in that order, the fewest that have this share of the weight that is left, at least one;
 *   min_p       those of at least this weight;
 *   typical_p   in the order of how far their logits are from the mean logit, by weight, the nearest first, the fewest that
 *               have this share, and all that are as far as the last of them;
 *   epsilon     those of at least this probability, and the highest;
 *   eta         those of at least the probability min(eta, sqrt(eta) * exp(-entropy)), and the highest;
 *   xtc         with xtc_probability, and where several have at least the probability xtc_threshold: of these the one with
 *               the lowest logit, of equals the highest id, and all others.
 * A probability is the share of what is left by then. Mirostat takes the place of all of these (fa_mirostat).
 * Weights then are integers, in units of 2^-42 and to nearest even, so that no sum of them is rounded and none has an
 * order. u = 64 random bits: the token is the first, by id, with which the sum exceeds floor(u * sum of all / 2^64).
 * The bits are words 1 and 0 of Philox4x32-10 with the key `seed` and the counter (which, step, 0, 0), low words first; of
 * those with (which, step, 1, 0) the highest 53 over 2^53 are below xtc_probability, or xtc leaves out nothing. */

/* "Don't repeat yourself". Of the last `last` of `tokens`, those before each place repeat those at the end up to some length,
 * which does not reach across a breaker; the id in that place then is penalised by multiplier * base^(length - allowed), if
 * the length is at least `allowed`: for the greatest length, and unless it is a breaker of one token itself. Breaker i is
 * heads[i] and the tails from ends[i - 1], 0 for the first, to ends[i]. */
typedef struct fa_dry {
    double multiplier, base;       /* within FLT_MAX: from 0, 0: none; from 1 */
    int64_t allowed, last;         /* from 0 */
    const int64_t *heads, *ends;   /* [n_heads] ascending, both */
    const int64_t *tails;          /* [n_tails] */
    int64_t n_heads, n_tails;
} fa_dry;

/* Basu, Ramachandran, Keskar, Varshney, "Mirostat" (2020). The surprise of a token is -log2 of its probability. Version 2
 * keeps those of at most *most, or the highest alone; version 1 the best k, for which the logits of the best 100 fall like
 * those of a Zipf distribution whose surprise is *most. *most then changes by -rate * (surprise - target), where the
 * surprise is that of the token drawn, among those kept. */
typedef struct fa_mirostat {
    int32_t version;               /* 1 or 2; 0: none */
    double target, rate;           /* 0 to 64, 0 to 1 */
    double *most;                  /* finite; one of its own for each draw */
} fa_mirostat;

typedef struct fa_draw {
    uint64_t seed;
    uint32_t which, step;
    double temperature;            /* 0: the highest logit; else above 0, finite */
    int64_t top_k;                 /* 0: all */
    double top_p, min_p;           /* in (0, 1], 1: all; in [0, 1], 0: all */
    double typical_p;              /* in (0, 1], 1: all */
    double epsilon, eta;           /* 0, all, or 2^-1022 to 1 */
    double xtc_probability, xtc_threshold; /* in [0, 1], 0: never; in [0, 1] */
    fa_mirostat mirostat;
    double repetition;             /* 2^-126 to FLT_MAX, 1: none */
    double presence, frequency;    /* within +-FLT_MAX, 0: none */
    fa_dry dry;
    const int64_t *tokens;         /* [n_tokens] prompt and answer, read where there is a penalty; ids beyond the logits count */
    int64_t n_tokens, prompt;      /* for nothing, negative ones are refused */
    const int64_t *bias_ids;       /* [n_bias] ascending */
    const float *bias;             /* [n_bias] finite or -inf */
    int64_t n_bias;
    const int64_t *banned;         /* [n_banned] */
    int64_t n_banned;
    const uint32_t *allowed;       /* a bit for each id, low bits first, or NULL: all */
    const int64_t *decay_ids;      /* [n_decay] ascending strictly */
    int64_t n_decay, decay_steps;  /* from 0 */
    double decay;                  /* above 0, within FLT_MAX, where there are ids */
    int64_t given;                 /* >= 0: this is the token, for its log probability; nothing is drawn */
    int32_t logprobs;              /* how many of the best to tell beside the token's own log probability; -1: not even that */
    int32_t beam;                  /* whether this is a row of a beam search, and the score so far, finite */
    float score;
} fa_draw;

#define FA_SAMPLE_MOST ((int64_t)1 << 22) /* logits of a row: their weights fit 64 bits */

/* logits (N, V) fp32, V at least 1; draws [N] -> tokens (N,) int64. Of the raw logits, before anything above: logprobs (N,)
 * fp32 of the tokens, NULL if no row asks; top_ids (N, K) int64 and top_logprobs (N, K) fp32, both NULL or K within V: the
 * best of each row, of equals the lower id first. What a row did not ask for gets NaN, -1 and -inf.
 *
 * With `beam` the row's logits become their log probabilities, rounded to fp32, are changed as above, and `score` is added:
 * the token is the highest of these, top_ids and top_logprobs tell the best of them, -inf included. Such a row asks for log
 * probabilities, and none is given; what cuts and draws means nothing.
 *
 * A row with NaN or +inf gets the token -1, one without any that is allowed -2, and the rest of its outputs what was not
 * asked for gets; the others are done, and the status is that of the first such row, its number in *bad. With
 * FA_ERR_VALUE, when nothing was written, *bad is the row whose draw is wrong. */
fa_status fa_sample_workspace(const fa_ctx *ctx, const fa_view *logits, const fa_draw *draws, size_t *bytes);
fa_status fa_sample(const fa_ctx *ctx, const fa_view *tokens, const fa_view *logprobs, const fa_view *top_ids,
                    const fa_view *top_logprobs, const fa_view *logits, const fa_draw *draws, void *ws, size_t ws_bytes,
                    int64_t *bad);

#endif
