/* SPDX-License-Identifier: MIT */
/* Driver of drawing: checks, one task a row, log probabilities of the raw logits. */
#include "../arena.h"
#include "../view.h"
#include "parallel.h"
#include "sample.h"

typedef struct fa_sample_plan {
    const fa_kernels *kernels;
    int64_t rows, n;
    int team;
    int changes, counts, random, weights; /* whether any draw has a use for it */
    fa_sample_space space;   /* of worker 0; those of others lie behind, by n_best, n_up */
    int64_t n_best, n_up, n_repeats;
} fa_sample_plan;

static int fa_ids_within(const int64_t *ids, int64_t count, int64_t n) {
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= n) return 0;
    return 1;
}

static int fa_dry_fits(const fa_dry *d) {
    if (!(d->multiplier >= 0 && d->multiplier <= FLT_MAX)) return 0;
    if (d->multiplier == 0) return 1;
    if (!(d->base >= 1 && d->base <= FLT_MAX) || d->allowed < 0 || d->last < 0 || d->n_heads < 0 || d->n_tails < 0) return 0;
    if ((d->n_heads && !(d->heads && d->ends)) || (d->n_tails && !d->tails)) return 0;
    for (int64_t i = 0; i < d->n_heads; i++)
        if (d->ends[i] < (i ? d->ends[i - 1] : 0) || d->ends[i] > d->n_tails || (i && d->heads[i] < d->heads[i - 1])) return 0;
    return 1;
}

static int fa_mirostat_fits(const fa_mirostat *m) {
    if (m->version == 0) return 1;
    return (m->version == 1 || m->version == 2) && m->target >= 0 && m->target <= 64 && m->rate >= 0 && m->rate <= 1 && m->most &&
           *m->most >= -DBL_MAX && *m->most <= DBL_MAX;
}

static int fa_draw_fits(const fa_draw *d, int64_t n) {
    if (!(d->temperature >= 0 && d->temperature <= DBL_MAX) || d->top_k < 0) return 0;
    if (!(d->top_p > 0 && d->top_p <= 1) || !(d->min_p >= 0 && d->min_p <= 1)) return 0;
    if (!(d->typical_p > 0 && d->typical_p <= 1)) return 0;
    if (!(d->epsilon == 0 || (d->epsilon >= DBL_MIN && d->epsilon <= 1)) || !(d->eta == 0 || (d->eta >= DBL_MIN && d->eta <= 1))) return 0;
    if (!(d->xtc_probability >= 0 && d->xtc_probability <= 1) || !(d->xtc_threshold >= 0 && d->xtc_threshold <= 1)) return 0;
    if (!fa_mirostat_fits(&d->mirostat) || !fa_dry_fits(&d->dry)) return 0;
    if (!(d->repetition >= FLT_MIN && d->repetition <= FLT_MAX)) return 0;
    if (!(d->presence >= -FLT_MAX && d->presence <= FLT_MAX) || !(d->frequency >= -FLT_MAX && d->frequency <= FLT_MAX)) return 0;
    if (d->n_tokens < 0 || d->prompt < 0 || d->prompt > d->n_tokens || (d->n_tokens && !d->tokens)) return 0;
    if ((fa_draw_counts(d) || fa_dry_window(d) > 0) && !fa_ids_within(d->tokens, d->n_tokens, INT64_MAX)) return 0;
    if (d->n_bias < 0 || d->n_banned < 0 || (d->n_bias && !(d->bias_ids && d->bias)) || (d->n_banned && !d->banned)) return 0;
    if (!fa_ids_within(d->bias_ids, d->n_bias, n) || !fa_ids_within(d->banned, d->n_banned, n)) return 0;
    for (int64_t i = 0; i < d->n_bias; i++)
        if ((i && d->bias_ids[i] < d->bias_ids[i - 1]) || !(d->bias[i] <= FLT_MAX)) return 0;
    if (d->n_decay < 0 || d->decay_steps < 0 || (d->n_decay && !(d->decay_ids && d->decay > 0 && d->decay <= FLT_MAX))) return 0;
    if (!fa_ids_within(d->decay_ids, d->n_decay, n)) return 0;
    for (int64_t i = 1; i < d->n_decay; i++)
        if (d->decay_ids[i] <= d->decay_ids[i - 1]) return 0;
    if (d->beam && !(d->given < 0 && d->logprobs >= 0 && d->score >= -FLT_MAX && d->score <= FLT_MAX)) return 0;
    return d->given >= -1 && d->given < n && d->logprobs >= -1;
}

/* What the draws have a use for; the first one that is wrong, or -1. */
static __attribute__((noinline)) int64_t fa_sample_survey(const fa_draw *draws, fa_sample_plan *plan) {
    for (int64_t i = 0; i < plan->rows; i++) {
        if (!fa_draw_fits(&draws[i], plan->n)) return i;
        plan->changes |= draws[i].beam || fa_draw_changes(&draws[i]);
        const int64_t window = draws[i].given < 0 ? fa_dry_window(&draws[i]) : 0;
        plan->counts |= fa_draw_changes(&draws[i]) && (fa_draw_counts(&draws[i]) || window > 0);
        plan->n_repeats = window > plan->n_repeats ? window : plan->n_repeats;
        plan->random |= fa_draw_is_random(&draws[i]);
        plan->weights |= draws[i].logprobs >= 0;
    }
    return -1;
}

static fa_status fa_sample_prepare(const fa_ctx *ctx, const fa_view *logits, const fa_draw *draws, fa_sample_plan *plan,
                                   fa_ctx *worth, int64_t *bad) {
    *bad = -1;
    const fa_status status = fa_check_f32(logits, 2);
    if (status != FA_OK) return status;
    *plan = (fa_sample_plan){.kernels = ctx->kernels, .rows = logits->shape[0], .n = logits->shape[1]};
    if (plan->n < 1 || plan->n > FA_SAMPLE_MOST) return FA_ERR_SHAPE;
    fa_fpenv saved;
    fa_fpenv_enter(&saved); /* where denormals count as 0, a draw would be another one here than in its task */
    *bad = fa_sample_survey(draws, plan);
    fa_fpenv_leave(&saved);
    if (*bad >= 0) return FA_ERR_VALUE;
    plan->n_up = (plan->n + FA_LANES - 1) / FA_LANES * FA_LANES; /* workers do not share lines */
    plan->n_repeats = (plan->n_repeats + FA_LANES - 1) / FA_LANES * FA_LANES;
    plan->n_best = (plan->n + FA_SAMPLE_BLOCK - 1) / FA_SAMPLE_BLOCK * FA_LANES;
    const double work = (double)plan->rows * (double)plan->n * (plan->random || plan->weights ? 8 : 1);
    *worth = fa_ctx_for_work(ctx, work < 0x1p62 ? (int64_t)work : INT64_MAX);
    plan->team = fa_team_max(worth, plan->rows);
    return FA_OK;
}

static void fa_sample_carve(fa_arena *arena, fa_sample_plan *plan) {
    const size_t all = (size_t)plan->team * (size_t)plan->n_up;
    fa_sample_space *space = &plan->space;
    space->best = fa_arena_take(arena, (size_t)plan->team * (size_t)plan->n_best, sizeof(float));
    if (plan->changes) space->logits = fa_arena_take(arena, all, sizeof(float));
    if (plan->counts) space->counts = fa_arena_take(arena, all, sizeof(uint32_t));
    if (plan->n_repeats) space->repeats = fa_arena_take(arena, (size_t)plan->team * (size_t)plan->n_repeats, sizeof(int32_t));
    if (plan->random || plan->weights) space->w = fa_arena_take(arena, all, sizeof(float));
    if (!plan->random) return;
    space->x = fa_arena_take(arena, all, sizeof(float));
    space->ids = fa_arena_take(arena, all, sizeof(int32_t));
    space->x_left = fa_arena_take(arena, all, sizeof(float));
    space->w_left = fa_arena_take(arena, all, sizeof(float));
}

static fa_sample_space fa_sample_space_of(const fa_sample_plan *plan, int worker) {
    fa_sample_space space = plan->space;
    const ptrdiff_t at = (ptrdiff_t)plan->n_up * worker;
    space.best += (ptrdiff_t)plan->n_best * worker;
    if (space.logits) space.logits += at;
    if (space.counts) space.counts += at;
    if (space.repeats) space.repeats += (ptrdiff_t)plan->n_repeats * worker;
    if (space.w) space.w += at;
    if (space.x) space.x += at, space.ids += at, space.x_left += at, space.w_left += at;
    return space;
}

typedef struct fa_sample_job {
    fa_sample_plan plan;
    const fa_view *tokens, *logprobs, *top_ids, *top_logprobs, *logits;
    const fa_draw *draws;
} fa_sample_job;

static int64_t *fa_token_at(const fa_view *tokens, int64_t i) { return (int64_t *)((char *)tokens->data + i * tokens->stride[0]); }

/* The first m of row i, or of `changed` in its place. fa_top_k is the same order, and a row is more than it needs to be worth
 * the call. */
static void fa_sample_top(const fa_sample_job *job, int64_t i, const float *changed, int64_t m, float max, double log_sum) {
    fa_view best = *job->top_logprobs, index = *job->top_ids, scores = *job->logits;
    const fa_ctx alone = {.kernels = job->plan.kernels, .num_threads = 1};
    const int64_t k = best.shape[1];
    float *value = best.data = (char *)best.data + i * best.stride[0];
    int64_t *id = index.data = (char *)index.data + i * index.stride[0];
    scores.data = changed ? (void *)changed : (char *)scores.data + i * scores.stride[0];
    best.shape[0] = index.shape[0] = scores.shape[0] = 1;
    best.shape[1] = index.shape[1] = m;
    if (m > 0) fa_top_k(&alone, &best, &index, &scores, 0, 1);
    for (int64_t j = 0; j < m; j++) value[j] = (float)(((double)value[j] - (double)max) - log_sum);
    for (int64_t j = m; j < k; j++) value[j] = -__builtin_inff(), id[j] = -1;
}

static void fa_sample_task(void *arg, int64_t i, int worker) {
    const fa_sample_job *job = arg;
    const fa_draw *draw = &job->draws[i];
    const fa_sample_space space = fa_sample_space_of(&job->plan, worker);
    const float *logits = (const float *)((const char *)job->logits->data + i * job->logits->stride[0]);
    double log_sum = 0;
    float max = 0, logprob = __builtin_nanf("");
    const int64_t token = fa_sample_row(&job->plan.kernels->sample, draw, logits, job->plan.n, &space, &log_sum, &max);
    const int32_t asked = token < 0 ? -1 : draw->logprobs;
    *fa_token_at(job->tokens, i) = token;
    if (asked >= 0) logprob = (float)(((double)logits[token] - (double)max) - log_sum);
    if (job->logprobs) *(float *)((char *)job->logprobs->data + i * job->logprobs->stride[0]) = logprob;
    if (!job->top_ids) return;
    if (draw->beam) fa_sample_top(job, i, space.logits, asked < 0 ? 0 : asked, 0, 0);
    else fa_sample_top(job, i, NULL, asked < 0 ? 0 : asked, max, log_sum);
}

static fa_status fa_check_outputs(const fa_sample_job *job) {
    const int64_t rows = job->plan.rows;
    fa_status status = fa_check_view(job->tokens, 1, FA_IS(FA_I64));
    if (status == FA_OK && job->logprobs) status = fa_check_f32(job->logprobs, 1);
    if (status == FA_OK && job->top_ids) status = fa_check_view(job->top_ids, 2, FA_IS(FA_I64));
    if (status == FA_OK && job->top_logprobs) status = fa_check_f32(job->top_logprobs, 2);
    if (status != FA_OK) return status;
    if (job->tokens->shape[0] != rows || (job->logprobs && job->logprobs->shape[0] != rows)) return FA_ERR_SHAPE;
    if (!job->top_ids != !job->top_logprobs || (job->plan.weights && !job->logprobs)) return FA_ERR_SHAPE;
    const int64_t k = job->top_ids ? job->top_ids->shape[1] : 0;
    if (job->top_ids && (job->top_ids->shape[0] != rows || job->top_logprobs->shape[0] != rows ||
                         job->top_logprobs->shape[1] != k || k > job->plan.n)) return FA_ERR_SHAPE;
    for (int64_t i = 0; i < rows; i++)
        if (job->draws[i].logprobs > k) return FA_ERR_SHAPE;
    return FA_OK;
}

fa_status fa_sample_workspace(const fa_ctx *ctx, const fa_view *logits, const fa_draw *draws, size_t *bytes) {
    fa_sample_plan plan;
    fa_ctx worth;
    int64_t bad;
    const fa_status status = fa_sample_prepare(ctx, logits, draws, &plan, &worth, &bad);
    if (status != FA_OK) return status;
    fa_arena arena = {NULL, 0, 0};
    fa_sample_carve(&arena, &plan);
    if (arena.overflow) return FA_ERR_MEMORY;
    *bytes = arena.used;
    return FA_OK;
}

fa_status fa_sample(const fa_ctx *ctx, const fa_view *tokens, const fa_view *logprobs, const fa_view *top_ids,
                    const fa_view *top_logprobs, const fa_view *logits, const fa_draw *draws, void *ws, size_t ws_bytes,
                    int64_t *bad) {
    fa_sample_job job = {.tokens = tokens, .logprobs = logprobs, .top_ids = top_ids, .top_logprobs = top_logprobs,
                         .logits = logits, .draws = draws};
    fa_ctx worth;
    fa_status status = fa_sample_prepare(ctx, logits, draws, &job.plan, &worth, bad);
    if (status == FA_OK) status = fa_check_outputs(&job);
    if (status != FA_OK || job.plan.rows == 0) return status;
    fa_arena arena = {ws, 0, 0};
    fa_sample_carve(&arena, &job.plan);
    if (!ws || (uintptr_t)ws % FA_ALIGN || arena.overflow || arena.used > ws_bytes) return FA_ERR_WORKSPACE;
    status = fa_parallel_for(&worth, job.plan.rows, fa_sample_task, &job);
    for (int64_t i = 0; status == FA_OK && i < job.plan.rows; i++)
        if (*fa_token_at(tokens, i) < 0) {
            *bad = i;
            return *fa_token_at(tokens, i) == -1 ? FA_ERR_NAN : FA_ERR_EMPTY;
        }
    return status;
}
