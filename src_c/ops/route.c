/* SPDX-License-Identifier: MIT */
/*
 * Which experts a row takes, and by what weights. A row is done by one thread from its logits alone, so nothing shows what
 * rows stand beside it; its sums go over the chosen in their order.
 */
#include <float.h>

#include "../arena.h"
#include "../kernels/kernels.h"
#include "../view.h"
#include "parallel.h"

#define TASK_COMPARISONS 32768 /* of a task, about: several microseconds */

/* What one worker needs for a row. */
typedef struct route_scratch {
    float *scores, *choice; /* [E] */
    float *best;            /* [most]: of the experts, or groups, that were found so far */
    int64_t *ids;           /* [most] */
    char *open;             /* [groups]: may its experts be chosen? */
} route_scratch;

typedef struct route_job {
    const fa_kernels *kernels;
    const fa_route_params *params;
    const fa_view *routes, *logits;
    int64_t experts, most, step; /* step: rows of a task */
    int by_scores;               /* experts are compared by scores, else by logits */
    int team;
    route_scratch all;           /* of all workers, one behind the other */
} route_job;

static void carve(fa_arena *arena, route_job *job) {
    const size_t team = (size_t)job->team, experts = (size_t)job->experts;
    job->all.scores = fa_arena_take(arena, team * experts, sizeof(float));
    job->all.choice = fa_arena_take(arena, team * experts, sizeof(float));
    job->all.best = fa_arena_take(arena, team * (size_t)job->most, sizeof(float));
    job->all.ids = fa_arena_take(arena, team * (size_t)job->most, sizeof(int64_t));
    job->all.open = fa_arena_take(arena, team * (size_t)job->params->groups, 1);
}

/* NaN comes first, so that it reaches the output. */
static int is_better(float a, float b) { return a > b || (a != a && b == b); }

/* Keeps the best `most` of what comes, of equals the first; how many there are now. */
static int64_t keep(float *best, int64_t *ids, int64_t count, int64_t most, float value, int64_t id) {
    if (count == most && !is_better(value, best[count - 1])) return count;
    int64_t at = count < most ? count++ : most - 1;
    for (; at > 0 && is_better(value, best[at - 1]); at--) {
        best[at] = best[at - 1];
        ids[at] = ids[at - 1];
    }
    best[at] = value;
    ids[at] = id;
    return count;
}

static void open_groups(const route_job *job, const float *values, const route_scratch *s) {
    const fa_route_params *p = job->params;
    const int64_t size = job->experts / p->groups;
    int64_t count = 0;
    for (int64_t g = 0; g < p->groups; g++) {
        float two[2];
        int64_t which[2], found = 0;
        for (int64_t e = g * size; e < (g + 1) * size; e++) found = keep(two, which, found, 2, values[e], e);
        count = keep(s->best, s->ids, count, p->top_groups, p->group_sum ? two[0] + two[1] : two[0], g);
    }
    for (int64_t g = 0; g < p->groups; g++) s->open[g] = 0;
    for (int64_t i = 0; i < count; i++) s->open[s->ids[i]] = 1;
}

/* The numbers of the row's experts go to s->ids. */
static void choose(const route_job *job, const float *values, const route_scratch *s) {
    const fa_route_params *p = job->params;
    const int64_t size = job->experts / p->groups;
    const int all = p->top_groups == p->groups;
    int64_t count = 0;
    if (!all) open_groups(job, values, s);
    for (int64_t g = 0; g < p->groups; g++) {
        if (!all && !s->open[g]) continue;
        for (int64_t e = g * size; e < (g + 1) * size; e++) count = keep(s->best, s->ids, count, p->top, values[e], e);
    }
}

static void softmax(const route_job *job, float *out, const float *x, int64_t n) {
    const fa_rows rows = {.out = out, .os = n, .x = x, .xs = n, .rows = 1, .h = n};
    job->kernels->rows.softmax(&rows);
}

static float canonical(float x) { return x == x ? x : __builtin_nanf(""); }

static void route_row(const route_job *job, int64_t row, const route_scratch *s) {
    const fa_route_params *p = job->params;
    const float *x = fa_row_at(job->logits, row, 0, 0), *bias = p->bias ? p->bias->data : NULL;
    float *ids = fa_row_at(job->routes, row, 0, 0), *weights = ids + p->top;
    const fa_rows sigmoid = {.out = s->scores, .x = x, .act = FA_ACT_SIGMOID, .rows = 1, .h = job->experts};
    if (p->score == FA_ROUTE_SOFTMAX) softmax(job, s->scores, x, job->experts);
    if (p->score == FA_ROUTE_SIGMOID) job->kernels->rows.activate(&sigmoid);
    const float *values = job->by_scores ? s->scores : x;
    if (bias) {
        for (int64_t e = 0; e < job->experts; e++) s->choice[e] = s->scores[e] + bias[e];
        values = s->choice;
    }
    choose(job, values, s);
    for (int64_t i = 0; i < p->top; i++) {
        ids[i] = (float)s->ids[i];
        weights[i] = p->score == FA_ROUTE_CHOSEN ? x[s->ids[i]] : s->scores[s->ids[i]];
    }
    if (p->score == FA_ROUTE_CHOSEN) softmax(job, weights, weights, p->top);
    float sum = 0.0f;
    for (int64_t i = 0; i < p->top; i++) sum += weights[i];
    sum += p->floor;
    for (int64_t i = 0; i < p->top; i++) {
        const float weight = p->normalize ? weights[i] / sum : weights[i];
        weights[i] = canonical(weight * p->scale);
    }
}

static void route_task(void *arg, int64_t task, int worker) {
    const route_job *job = arg;
    const int64_t first = task * job->step, left = job->logits->shape[0] - first;
    const route_scratch mine = {
        job->all.scores + worker * job->experts, job->all.choice + worker * job->experts, job->all.best + worker * job->most,
        job->all.ids + worker * job->most, job->all.open + worker * job->params->groups,
    };
    for (int64_t row = first; row < first + (left < job->step ? left : job->step); row++) route_row(job, row, &mine);
}

static int is_number(float x, float least) { return x >= least && x <= FLT_MAX; }

static fa_status check_params(const fa_route_params *p, int64_t experts) {
    if (experts < 1 || experts > FA_MOST_EXPERTS || p->top < 1 || p->top > experts) return FA_ERR_VALUE;
    if (p->score < FA_ROUTE_SOFTMAX || p->score > FA_ROUTE_SIGMOID) return FA_ERR_VALUE;
    if (p->groups < 1 || p->groups > experts || experts % p->groups) return FA_ERR_VALUE;
    if (p->top_groups < 1 || p->top_groups > p->groups || p->top > p->top_groups * (experts / p->groups)) return FA_ERR_VALUE;
    if (p->group_sum && experts / p->groups < 2) return FA_ERR_VALUE;
    if (p->score == FA_ROUTE_CHOSEN && (p->bias || p->group_sum)) return FA_ERR_VALUE; /* there are no scores to compare */
    if (!is_number(p->floor, 0) || !is_number(p->scale, -FLT_MAX)) return FA_ERR_VALUE;
    if (!p->bias) return FA_OK;
    const fa_status status = fa_check_f32(p->bias, 1);
    return status == FA_OK && p->bias->shape[0] != experts ? FA_ERR_SHAPE : status;
}

static fa_status prepare(const fa_ctx *ctx, const fa_view *routes, const fa_view *logits, const fa_route_params *params,
                         route_job *job) {
    fa_status status = fa_check_f32(routes, 2);
    if (status == FA_OK) status = fa_check_f32(logits, 2);
    if (status == FA_OK) status = check_params(params, logits->shape[1]);
    if (status != FA_OK) return status;
    if (routes->shape[0] != logits->shape[0] || routes->shape[1] != 2 * params->top) return FA_ERR_SHAPE;
    *job = (route_job){.kernels = ctx->kernels, .params = params, .routes = routes, .logits = logits, .experts = logits->shape[1]};
    job->by_scores = params->group_sum;
    job->most = params->top > params->top_groups ? params->top : params->top_groups;
    job->step = 1 + TASK_COMPARISONS / (job->experts * (2 + params->top));
    job->team = fa_team_max(ctx, logits->shape[0] / job->step + 1);
    return FA_OK;
}

fa_status fa_route_workspace(const fa_ctx *ctx, const fa_view *routes, const fa_view *logits, const fa_route_params *params,
                             size_t *bytes) {
    route_job job;
    const fa_status status = prepare(ctx, routes, logits, params, &job);
    if (status != FA_OK) return status;
    fa_arena arena = {0};
    carve(&arena, &job);
    if (arena.overflow) return FA_ERR_MEMORY;
    *bytes = arena.used;
    return FA_OK;
}

fa_status fa_route(const fa_ctx *ctx, const fa_view *routes, const fa_view *logits, const fa_route_params *params, void *ws,
                   size_t ws_bytes) {
    route_job job;
    const fa_status status = prepare(ctx, routes, logits, params, &job);
    if (status != FA_OK || logits->shape[0] == 0) return status;
    fa_arena arena = {.base = ws};
    carve(&arena, &job);
    if (!ws || (uintptr_t)ws % FA_ALIGN || arena.overflow || arena.used > ws_bytes) return FA_ERR_WORKSPACE;
    return fa_parallel_for(ctx, (logits->shape[0] - 1) / job.step + 1, route_task, &job);
}
