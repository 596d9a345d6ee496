/* SPDX-License-Identifier: MIT */
/*
 * From a row of logits to a token.
 *
 * A row is read once for the maxima of its blocks. The highest logit is looked up there, and so is a bound that at least k
 * of the logits reach: few blocks hold any of the best k. Without top_k every logit gets a weight; what stays is packed, in
 * ascending order of ids, after each step.
 */
#include "sample.h"

#define FA_LOG2E_DOUBLE 0x1.71547652b82fep+0

/* ---- penalties, biases, what may not come ------------------------------------------------------------------------ */

int fa_draw_counts(const fa_draw *draw) {
    return draw->n_tokens > 0 && (draw->repetition != 1 || draw->presence != 0 || draw->frequency != 0);
}

int fa_draw_changes(const fa_draw *draw) {
    return draw->given < 0 && (fa_draw_counts(draw) || fa_dry_window(draw) > 0 || draw->n_bias > 0 || draw->n_banned > 0 ||
                               draw->allowed || (draw->n_decay > 0 && draw->decay_steps > 0));
}

/* The count of an id has the ids seen at all in its lowest bit, and above it how often the answer has it. */
static void fa_penalise(float *x, int64_t n, const fa_draw *draw, uint32_t *counts) {
    const float repetition = (float)draw->repetition, presence = (float)draw->presence, frequency = (float)draw->frequency;
    for (int64_t i = 0; i < draw->n_tokens; i++)
        if (draw->tokens[i] < n) counts[draw->tokens[i]] = 0; /* the array is as long as the vocabulary, a text is not */
    for (int64_t i = 0; i < draw->n_tokens; i++) {
        if (draw->tokens[i] >= n) continue;
        uint32_t *count = &counts[draw->tokens[i]];
        *count |= 1;
        if (i >= draw->prompt && *count < UINT32_MAX - 2) *count += 2;
    }
    for (int64_t i = 0; i < draw->n_tokens; i++) {
        if (draw->tokens[i] >= n) continue;
        uint32_t *count = &counts[draw->tokens[i]];
        float t = x[draw->tokens[i]];
        if (*count && t > -__builtin_inff()) {
            if (repetition != 1.0f) t = fa_kept_finite(t < 0 ? t * repetition : t / repetition);
            if (*count > 1) {
                t = fa_kept_finite(t - frequency * (float)(*count >> 1));
                t = fa_kept_finite(t - presence);
            }
            x[draw->tokens[i]] = t;
        }
        *count = 0; /* once for each id */
    }
}

static void fa_decay(float *x, const fa_draw *draw) {
    const double power = fa_power(draw->decay, draw->decay_steps) - 1;
    const float more = (float)(power > FLT_MAX ? FLT_MAX : power);
    for (int64_t i = 0; i < draw->n_decay; i++) {
        float *t = &x[draw->decay_ids[i]];
        if (*t > -__builtin_inff()) *t = fa_kept_finite(*t + fa_kept_finite(__builtin_fabsf(*t) * more));
    }
}

static void fa_change(float *x, int64_t n, const fa_draw *draw, const fa_sample_space *space) {
    const float none = -__builtin_inff();
    for (int64_t i = 0; i < draw->n_bias; i++) {
        float *t = &x[draw->bias_ids[i]], bias = draw->bias[i];
        for (; i + 1 < draw->n_bias && draw->bias_ids[i + 1] == draw->bias_ids[i]; i++)
            bias = bias == none || draw->bias[i + 1] == none ? none : fa_kept_finite(bias + draw->bias[i + 1]);
        *t = *t == none || bias == none ? none : fa_kept_finite(*t + bias);
    }
    if (fa_draw_counts(draw)) fa_penalise(x, n, draw, space->counts);
    if (fa_dry_window(draw) > 0) fa_dry_penalise(x, n, draw, space->counts, space->repeats);
    for (int64_t i = 0; i < draw->n_banned; i++) x[draw->banned[i]] = none;
    if (draw->allowed)
        for (int64_t i = 0; i < n; i += 32) {
            const uint32_t word = draw->allowed[i / 32];
            const int64_t m = n - i < 32 ? n - i : 32;
            if (word == 0xffffffffu) continue;
            for (int64_t j = 0; j < m; j++)
                if (!(word >> j & 1)) x[i + j] = none;
        }
    if (draw->n_decay > 0 && draw->decay_steps > 0) fa_decay(x, draw);
}

/* ---- the best ---------------------------------------------------------------------------------------------------- */

/* The first of the highest. */
static int64_t fa_first(const float *x, int64_t n, const float *best, float max) {
    for (int64_t i = 0; i < n; i += FA_SAMPLE_BLOCK, best += FA_LANES) {
        int here = 0;
        for (int l = 0; l < FA_LANES; l++) here |= best[l] == max;
        if (!here) continue;
        for (int64_t j = i;; j++)
            if (x[j] == max) return j;
    }
    return -1; /* not reached: max is one of best */
}

static float fa_of_order(uint32_t order) {
    float x;
    const uint32_t bits = order & 0x80000000u ? order & 0x7fffffffu : ~order;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Of the n packed ids and logits, and weights where there are some, those within the cut stay. Like all that packs it has no
 * branches: which ones stay cannot be foretold. */
static int64_t fa_pack_cut(int64_t n, fa_cut cut, float *w, const fa_sample_space *space) {
    int64_t kept = 0, ties = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t order = fa_order(space->x[i]);
        const int tie = order == cut.order, out = (order < cut.order) | (tie & (ties >= cut.ties));
        space->ids[kept] = space->ids[i];
        space->x[kept] = space->x[i];
        if (w) w[kept] = w[i];
        ties += tie;
        kept += !out;
    }
    return kept;
}

void fa_left_above(fa_left *left, uint64_t units, double least, const fa_sample_space *space) {
    const int32_t *ids = left->ids;
    const float *x = left->x;
    float *w = space->w;
    int64_t kept = 0;
    for (int64_t i = 0; i < left->n; i++) {
        const int in = (fa_units(w[i]) > units) & ((double)w[i] >= least);
        space->ids[kept] = ids ? ids[i] : (int32_t)i;
        space->x[kept] = x[i];
        w[kept] = w[i];
        kept += in;
    }
    left->ids = space->ids, left->x = space->x, left->n = kept;
}

void fa_left_best(fa_left *left, int64_t k, const fa_sample_space *space) {
    const float *x = left->x;
    const int64_t n = left->n;
    const int64_t maxima = (n + FA_SAMPLE_BLOCK - 1) / FA_SAMPLE_BLOCK * FA_LANES;
    float least = -__builtin_inff();
    if (k <= maxima / 2) /* k maxima reach it, so k logits do */
        least = fa_of_order(fa_sample_cut(space->best, NULL, maxima, (uint64_t)k, space->x_left, NULL).order);
    int64_t m = 0;
    const float *best = space->best;
    for (int64_t i = 0; i < n; i += FA_SAMPLE_BLOCK, best += FA_LANES) {
        const int64_t end = n - i < FA_SAMPLE_BLOCK ? n : i + FA_SAMPLE_BLOCK;
        int here = 0;
        for (int l = 0; l < FA_LANES; l++) here |= best[l] >= least;
        if (!here) continue;
        for (int64_t j = i; j < end; j++) {
            space->ids[m] = (int32_t)j;
            space->x[m] = x[j];
            m += x[j] >= least;
        }
    }
    const fa_cut cut = fa_sample_cut(space->x, NULL, m, (uint64_t)k, space->x_left, NULL);
    fa_pack_cut(m, cut, NULL, space);
    left->ids = space->ids, left->x = space->x, left->n = k;
}

/* ---- drawing ----------------------------------------------------------------------------------------------------- */

/* log2(e) / temperature as a normal float, so that -inf times it is never NaN. */
static float fa_factor(double temperature) {
    const double c = FA_LOG2E_DOUBLE / temperature;
    return c > FLT_MAX ? FLT_MAX : c < FLT_MIN ? FLT_MIN : (float)c;
}

int64_t fa_left_draw(const fa_left *left, const fa_draw *draw, const fa_sample_space *space) {
    const float *w = space->w;
    const uint64_t all = fa_sum_units(w, left->n);
    const uint64_t place = (uint64_t)((unsigned __int128)fa_random_bits(draw, 0) * all >> 64);
    uint64_t sum = 0;
    int64_t i = 0;
    for (; i < left->n - 1; i++) { /* the sum of all is above `place`, so what is left then is the last */
        sum += fa_units(w[i]);
        if (sum > place) break;
    }
    return i;
}

static void fa_left_top_p(fa_left *left, double top_p, const fa_sample_space *space) {
    float *w = space->w;
    const uint64_t total = fa_sum_units(w, left->n), share = fa_share(top_p, total);
    /* those of at most this weight have, all together, less than what top_p leaves out */
    fa_left_above(left, (total - share) / (uint64_t)left->n, 0, space);
    const fa_cut cut = fa_sample_cut(space->x, w, left->n, share, space->x_left, space->w_left);
    left->n = fa_pack_cut(left->n, cut, w, space);
}

static int64_t fa_draw_one(const fa_sample_kernels *kernels, const fa_draw *draw, const float *x, int64_t n, float max,
                           const fa_sample_space *space) {
    fa_left left = {NULL, x, n, fa_factor(draw->temperature), max};
    if (draw->mirostat.version) return fa_mirostat_draw(kernels, draw, left, space);
    if (draw->top_k > 0 && draw->top_k < n) fa_left_best(&left, draw->top_k, space);
    kernels->weigh(space->w, left.x, left.n, max, left.c);
    if (draw->top_p < 1) fa_left_top_p(&left, draw->top_p, space);
    if (draw->min_p > 0) fa_left_above(&left, 0, draw->min_p, space);
    if (draw->typical_p < 1) fa_left_typical(&left, draw->typical_p, space);
    if (draw->epsilon > 0) fa_left_epsilon(&left, draw->epsilon, space);
    if (draw->eta > 0) fa_left_eta(&left, draw->eta, space);
    if (draw->xtc_probability > 0) fa_left_xtc(&left, draw, space);
    const int64_t i = fa_left_draw(&left, draw, space);
    return left.ids ? left.ids[i] : i;
}

/* A row's scores as continuations of a beam, and the best of them. */
static int64_t fa_sample_beam(const fa_sample_kernels *kernels, const fa_draw *draw, const float *logits, int64_t n,
                              float max, double log_sum, const fa_sample_space *space) {
    float *x = space->logits;
    for (int64_t i = 0; i < n; i++) x[i] = (float)(((double)logits[i] - (double)max) - log_sum);
    if (fa_draw_changes(draw)) fa_change(x, n, draw, space);
    for (int64_t i = 0; i < n; i++) x[i] += draw->score;
    kernels->scan(space->best, &max, x, n);
    return fa_first(x, n, space->best, max);
}

int64_t fa_sample_row(const fa_sample_kernels *kernels, const fa_draw *draw, const float *logits, int64_t n,
                      const fa_sample_space *space, double *log_sum, float *highest) {
    float max;
    if (kernels->scan(space->best, &max, logits, n)) return -1;
    if (max == -__builtin_inff()) return -2;
    if (draw->logprobs >= 0) {
        kernels->weigh(space->w, logits, n, max, fa_factor(1));
        *log_sum = fa_log((double)fa_sum_units(space->w, n) * 0x1p-42);
        *highest = max;
    }
    if (draw->given >= 0) return draw->given;
    if (draw->beam) return fa_sample_beam(kernels, draw, logits, n, max, *log_sum, space);
    if (fa_draw_changes(draw)) {
        memcpy(space->logits, logits, (size_t)n * sizeof *logits);
        fa_change(space->logits, n, draw, space);
        logits = space->logits;
        kernels->scan(space->best, &max, logits, n);
        if (max == -__builtin_inff()) return -2;
    }
    if (!fa_draw_is_random(draw)) return fa_first(logits, n, space->best, max);
    return fa_draw_one(kernels, draw, logits, n, max, space);
}
