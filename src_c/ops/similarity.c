/* SPDX-License-Identifier: MIT */
/* Driver of the similarities: a few rows of one side are held as fp32, all rows of the other pass by in groups of 16. */
#include <string.h>

#include "../arena.h"
#include "../kernels/kernels.h"
#include "../view.h"
#include "parallel.h"

#define FA_SIMILAR_HELD (4 << 20)     /* bytes of rows held at a time, about */
#define FA_SIMILAR_HELD_ROWS 8192     /* and how many at most */
#define FA_SIMILAR_NEAR (512 << 10)   /* bytes of the held rows that a task takes: they stay in L2 while a group passes */
#define FA_SIMILAR_NEAR_ROWS 252      /* in whole tiles of 4 and 6 */
#define FA_SIMILAR_WORK (1 << 22)     /* multiply-adds of a task: some tens of microseconds */
#define FA_SIMILAR_STEP 4096          /* most rows of b of a task */
#define FA_SIMILAR_PAD 16             /* floats between copied rows, so that they spread over cache sets */

typedef struct fa_similar_plan {
    fa_view a, b;               /* a is held, b passes by: which is which changes no bit */
    ptrdiff_t os, oc;           /* of out in elements, for rows of a and of b */
    fa_metric metric;
    int64_t n, m, d;
    ptrdiff_t ld;               /* floats from one copied row to the next */
    int64_t held, near, step;   /* rows of a at a time, rows of a and of b of a task */
    int64_t nears, steps;       /* most tasks of the held rows side by side, and of b */
    int team;
    int copies;                 /* rows of b may have to be copied */
    float *rows, *sum, *part;   /* the held ones */
    float *scratch;             /* a group of copied rows for each worker */
} fa_similar_plan;

static int64_t fa_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

static int64_t fa_within(int64_t x, int64_t least, int64_t most) { return x < least ? least : x > most ? most : x; }

static fa_status fa_similar_prepare(const fa_ctx *ctx, const fa_view *out, const fa_view *a, const fa_view *b, fa_metric metric,
                                    fa_similar_plan *plan, fa_ctx *worth) {
    fa_status status = fa_check_view(a, 2, FA_FLOATS);
    if (status == FA_OK) status = fa_check_view(b, 2, FA_FLOATS);
    if (status == FA_OK) status = fa_check_f32(out, 2);
    if (status != FA_OK) return status;
    if (a->shape[1] != b->shape[1] || out->shape[0] != a->shape[0] || out->shape[1] != b->shape[0]) return FA_ERR_SHAPE;
    if (metric < FA_METRIC_DOT || metric > FA_METRIC_MANHATTAN) return FA_ERR_VALUE;
    /* one query on the right of many rows: the many pass by */
    const int turned = b->shape[0] < FA_SIMILAR_GROUP && b->shape[0] < a->shape[0];
    *plan = (fa_similar_plan){.a = turned ? *b : *a, .b = turned ? *a : *b, .metric = metric};
    plan->os = turned ? 1 : fa_estride(out, 0);
    plan->oc = turned ? fa_estride(out, 0) : 1;
    plan->n = plan->a.shape[0];
    plan->m = plan->b.shape[0];
    plan->d = plan->a.shape[1];
    if (plan->d > PTRDIFF_MAX / 256) return FA_ERR_MEMORY;
    plan->ld = fa_up(plan->d, 16) + FA_SIMILAR_PAD;
    const int64_t bytes = plan->ld * (int64_t)sizeof(float);
    plan->held = fa_within(fa_up(FA_SIMILAR_HELD / bytes, 16), 16, FA_SIMILAR_HELD_ROWS);
    if (plan->held > plan->n) plan->held = plan->n;
    plan->near = fa_within(FA_SIMILAR_NEAR / bytes / 12 * 12, 12, FA_SIMILAR_NEAR_ROWS);
    if (plan->near < plan->held) { /* pieces of one size: a small one would read b for little */
        const int64_t pieces = (plan->held + plan->near - 1) / plan->near;
        plan->near = fa_up((plan->held + pieces - 1) / pieces, 12);
    } else {
        plan->near = plan->held;
    }
    plan->step = fa_up(fa_within(FA_SIMILAR_WORK / ((plan->near + 1) * plan->ld), 1, FA_SIMILAR_STEP), FA_SIMILAR_GROUP);
    plan->nears = plan->near ? (plan->held + plan->near - 1) / plan->near : 0;
    plan->steps = (plan->m + plan->step - 1) / plan->step;
    plan->copies = metric == FA_METRIC_COSINE || plan->b.dtype != FA_F32;
    const double work = (double)plan->n * (double)plan->m * (double)plan->d;
    *worth = fa_ctx_for_work(ctx, work < 0x1p62 ? (int64_t)work : INT64_MAX);
    plan->team = fa_team_max(worth, plan->nears * plan->steps);
    return FA_OK;
}

static void fa_similar_carve(fa_arena *arena, fa_similar_plan *plan) {
    plan->rows = fa_arena_take(arena, (size_t)(plan->held * plan->ld), sizeof(float));
    plan->sum = fa_arena_take(arena, (size_t)fa_up(plan->held, FA_SIMILAR_GROUP), sizeof(float));
    plan->part = fa_arena_take(arena, (size_t)fa_up(plan->held, FA_SIMILAR_GROUP), sizeof(float));
    plan->scratch = fa_arena_take(arena, plan->copies ? (size_t)plan->team * FA_SIMILAR_GROUP * (size_t)plan->ld : 0, sizeof(float));
}

fa_status fa_similarity_workspace(const fa_ctx *ctx, const fa_view *out, const fa_view *a, const fa_view *b, fa_metric metric,
                                  size_t *bytes) {
    fa_similar_plan plan;
    fa_ctx worth;
    fa_status status = fa_similar_prepare(ctx, out, a, b, metric, &plan, &worth);
    if (status != FA_OK) return status;
    fa_arena arena = {NULL, 0, 0};
    fa_similar_carve(&arena, &plan);
    if (arena.overflow) return FA_ERR_MEMORY;
    *bytes = arena.used;
    return FA_OK;
}

typedef struct fa_similar_job {
    fa_similar_plan plan;
    const fa_kernels *kernels;
    int64_t first, count; /* rows of a that are held */
    int64_t nears;        /* tasks side by side for them */
    float *out;           /* of row `first` */
} fa_similar_job;

static const char *fa_similar_row(const fa_view *view, int64_t i) { return (const char *)view->data + i * view->stride[0]; }

static int fa_similar_group(int64_t left) { return left < FA_SIMILAR_GROUP ? (int)left : FA_SIMILAR_GROUP; }

/* Copies a group of the rows to be held, with zeros up to the next one, and finds their norms. */
static void fa_similar_hold(void *arg, int64_t task, int worker) {
    const fa_similar_job *job = arg;
    const fa_similar_plan *plan = &job->plan;
    const int64_t at = task * FA_SIMILAR_GROUP;
    const int n = fa_similar_group(job->count - at);
    const float *rows[FA_SIMILAR_GROUP];
    float *to = plan->rows + at * plan->ld;
    (void)worker;
    for (int i = 0; i < n; i++) {
        rows[i] = to + i * plan->ld;
        job->kernels->convert.widen(to + i * plan->ld, fa_similar_row(&plan->a, job->first + at + i), plan->a.dtype, plan->d);
        memset(to + i * plan->ld + plan->d, 0, (size_t)(plan->ld - plan->d) * sizeof *to);
    }
    if (plan->metric == FA_METRIC_COSINE)
        job->kernels->similar.norms(plan->sum + at, plan->part + at, rows, n, plan->d, to, plan->ld);
}

/* Rows of b in groups beside some of the rows held. */
static void fa_similar_task(void *arg, int64_t task, int worker) {
    const fa_similar_job *job = arg;
    const fa_similar_plan *plan = &job->plan;
    const int64_t row = task % job->nears * plan->near, start = task / job->nears * plan->step;
    const int64_t end = plan->m - start < plan->step ? plan->m : start + plan->step;
    float *scratch = plan->copies ? plan->scratch + (size_t)worker * FA_SIMILAR_GROUP * (size_t)plan->ld : NULL;
    const float *rows[FA_SIMILAR_GROUP];
    fa_similar_tile tile = {
        .metric = (int)plan->metric, .a = plan->rows + row * plan->ld, .as = plan->ld, .d = plan->d,
        .rows = job->count - row < plan->near ? job->count - row : plan->near,
        .b = rows, .next_stride = fa_estride(&plan->b, 0), .a_sum = plan->sum + row, .a_part = plan->part + row,
        .scaled = scratch, .ss = plan->ld, .os = plan->os, .oc = plan->oc,
    };
    for (int64_t at = start; at < end; at += FA_SIMILAR_GROUP) {
        tile.n = fa_similar_group(end - at);
        for (int i = 0; i < FA_SIMILAR_GROUP; i++) {
            const int from = i < tile.n ? i : tile.n - 1;
            const char *source = fa_similar_row(&plan->b, at + from);
            rows[i] = plan->b.dtype == FA_F32 ? (const float *)source : scratch + from * plan->ld;
            if (plan->b.dtype != FA_F32 && i < tile.n) job->kernels->convert.widen(scratch + i * plan->ld, source, plan->b.dtype, plan->d);
        }
        tile.n_next = at + FA_SIMILAR_GROUP < end ? fa_similar_group(end - at - FA_SIMILAR_GROUP) : 0;
        tile.next = plan->b.dtype == FA_F32 && tile.n_next ? (const float *)fa_similar_row(&plan->b, at + FA_SIMILAR_GROUP) : NULL;
        tile.out = job->out + row * plan->os + at * plan->oc;
        job->kernels->similar.tile(&tile);
    }
}

fa_status fa_similarity(const fa_ctx *ctx, const fa_view *out, const fa_view *a, const fa_view *b, fa_metric metric, void *ws,
                        size_t ws_bytes) {
    fa_similar_job job = {.kernels = ctx->kernels};
    fa_ctx worth;
    fa_status status = fa_similar_prepare(ctx, out, a, b, metric, &job.plan, &worth);
    if (status != FA_OK) return status;
    if (job.plan.n == 0 || job.plan.m == 0) return FA_OK;
    fa_arena arena = {ws, 0, 0};
    fa_similar_carve(&arena, &job.plan);
    if (!ws || (uintptr_t)ws % FA_ALIGN || arena.overflow || arena.used > ws_bytes) return FA_ERR_WORKSPACE;
    for (job.first = 0; job.first < job.plan.n; job.first += job.plan.held) {
        job.count = job.plan.n - job.first < job.plan.held ? job.plan.n - job.first : job.plan.held;
        job.nears = (job.count + job.plan.near - 1) / job.plan.near;
        job.out = (float *)out->data + job.first * job.plan.os;
        status = fa_parallel_for(&worth, (job.count + FA_SIMILAR_GROUP - 1) / FA_SIMILAR_GROUP, fa_similar_hold, &job);
        if (status == FA_OK) status = fa_parallel_for(&worth, job.nears * job.plan.steps, fa_similar_task, &job);
        if (status != FA_OK) return status;
    }
    return FA_OK;
}

/* ---- quantisation ------------------------------------------------------------------------------------------------ */

#define FA_QUANTIZE_TASK 16384 /* elements of one task, about */

typedef struct fa_quantize_job {
    const fa_kernels *kernels;
    const fa_view *out, *x, *ranges;
    int64_t step;
    uint8_t flip;
} fa_quantize_job;

static void fa_quantize_task(void *arg, int64_t task, int worker) {
    const fa_quantize_job *job = arg;
    const int64_t first = task * job->step, left = job->x->shape[0] - first;
    (void)worker;
    job->kernels->similar.quantize((int8_t *)job->out->data + first * job->out->stride[0], job->out->stride[0],
                                   (const float *)job->x->data + first * fa_estride(job->x, 0), fa_estride(job->x, 0),
                                   left < job->step ? left : job->step, job->x->shape[1], (const float *)job->ranges->data,
                                   (const float *)job->ranges->data + fa_estride(job->ranges, 0), job->flip);
}

fa_status fa_quantize_ranges(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *ranges, int32_t plain) {
    fa_status status = fa_check_f32(x, 2);
    if (status == FA_OK) status = fa_check_f32(ranges, 2);
    if (status == FA_OK) status = fa_check_view(out, 2, FA_IS(FA_I8));
    if (status != FA_OK) return status;
    const int64_t n = x->shape[0], h = x->shape[1];
    if (out->shape[0] != n || out->shape[1] != h || ranges->shape[0] != 2 || ranges->shape[1] != h) return FA_ERR_SHAPE;
    if (n == 0 || h == 0) return FA_OK;
    fa_quantize_job job = {ctx->kernels, out, x, ranges, h < FA_QUANTIZE_TASK ? FA_QUANTIZE_TASK / h : 1, plain ? 0x80 : 0};
    const fa_ctx worth = fa_ctx_for_work(ctx, n > INT64_MAX / 16 / h ? INT64_MAX : 16 * n * h);
    return fa_parallel_for(&worth, (n - 1) / job.step + 1, fa_quantize_task, &job);
}
