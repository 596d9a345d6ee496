/* SPDX-License-Identifier: MIT */
/*
 * Feed-forward layers of which each row takes a few. Rows are sorted by expert, so each expert that anybody takes is two
 * products of as many rows as take it, of which the operators of linear layers decide how they are cut; what an expert
 * gives lies in the order of experts until each row adds up its own in the order of its routes. So a row's bits are those of
 * the row alone, and what lies between the two products is never larger than one expert's rows.
 *
 * Many rows are done in blocks, which bounds the workspace.
 */
#include <float.h>

#include "../arena.h"
#include "../kernels/kernels.h"
#include "../view.h"
#include "linear_quant.h"
#include "parallel.h"

#define BLOCK_ROWS 1024    /* rows that are sorted together: each block reads the experts' weights again */
#define SUM_ROWS 8         /* results added in one pass */
#define TASK_FLOATS 16384  /* read by one task of the sums, about */

typedef struct experts_job {
    const fa_kernels *kernels;
    const fa_experts_params *params;
    fa_view out, x, routes; /* of a block */
    int64_t most;           /* rows of the largest block */
    int64_t step;           /* rows of a task of the sums */
    int64_t *first;         /* [count + 1] where each expert's rows begin, among all */
    int64_t *row;           /* [rows * top] sorted by expert, and by row: which row */
    int64_t *place;         /* [rows][top] where among those the row's experts are */
    float *taken, *inner, *given; /* [rows][H] and [rows][2 inner] of one expert; [rows * top][H] of all */
} experts_job;

static void carve(fa_arena *arena, experts_job *job) {
    const size_t rows = (size_t)job->most, top = (size_t)job->params->top, width = (size_t)job->x.shape[1];
    size_t pairs = 0, inner = 0, given = 0;
    if (__builtin_mul_overflow(rows, top, &pairs) || __builtin_mul_overflow(pairs, width, &given) ||
        __builtin_mul_overflow(rows, 2 * (size_t)job->params->inner, &inner))
        arena->overflow = 1;
    job->first = fa_arena_take(arena, (size_t)job->params->count + 1, sizeof(int64_t));
    job->row = fa_arena_take(arena, pairs, sizeof(int64_t));
    job->place = fa_arena_take(arena, pairs, sizeof(int64_t));
    job->taken = fa_arena_take(arena, rows * width, sizeof(float));
    job->inner = fa_arena_take(arena, inner, sizeof(float));
    job->given = fa_arena_take(arena, given, sizeof(float));
}

static fa_view table(float *data, int64_t rows, int64_t width, int64_t stride) {
    return (fa_view){.data = data, .shape = {rows, width}, .stride = {stride * 4, 4}, .ndim = 2, .dtype = FA_F32};
}

/* ---- checks ---------------------------------------------------------------------------------------------------------- */

static fa_status check_bias(const fa_view *bias, int64_t count, int64_t outputs) {
    if (!bias) return FA_OK;
    const fa_status status = fa_check_f32(bias, 1);
    return status == FA_OK && bias->shape[0] != count * fa_expert_span(outputs) ? FA_ERR_SHAPE : status;
}

static int is_number(float x, float least) { return x >= least && x <= FLT_MAX; }

static fa_status check_params(const fa_experts_params *p, int64_t width) {
    if (p->count < 1 || p->count > FA_MOST_EXPERTS || p->top < 1 || p->top > p->count) return FA_ERR_VALUE;
    if (p->inner < 1 || p->inner > INT32_MAX || width > INT32_MAX) return FA_ERR_SHAPE;
    if (p->gate < FA_GATE_ACT || p->gate > FA_GATE_CLAMPED || p->act < FA_ACT_NONE || p->act > FA_ACT_SIGMOID) return FA_ERR_VALUE;
    if (p->gate == FA_GATE_CLAMPED && (!is_number(p->alpha, -FLT_MAX) || !is_number(p->limit, 0))) return FA_ERR_VALUE;
    if (!p->up || !p->down) return FA_ERR_VALUE;
    const fa_status status = check_bias(p->up_bias, p->count, 2 * p->inner);
    return status == FA_OK ? check_bias(p->down_bias, p->count, width) : status;
}

static fa_status prepare(const fa_view *out, const fa_view *x, const fa_view *routes, const fa_experts_params *params,
                         experts_job *job) {
    fa_status status = fa_check_f32(out, 2);
    if (status == FA_OK) status = fa_check_f32(x, 2);
    if (status == FA_OK) status = fa_check_f32(routes, 2);
    if (status == FA_OK) status = check_params(params, x->shape[1]);
    if (status != FA_OK) return status;
    if (out->shape[0] != x->shape[0] || routes->shape[0] != x->shape[0]) return FA_ERR_SHAPE;
    if (out->shape[1] != x->shape[1] || routes->shape[1] != 2 * params->top) return FA_ERR_SHAPE;
    *job = (experts_job){.params = params, .out = *out, .x = *x, .routes = *routes};
    job->most = x->shape[0] < BLOCK_ROWS ? x->shape[0] : BLOCK_ROWS;
    job->step = 1 + TASK_FLOATS / (params->top * (x->shape[1] + 1));
    return FA_OK;
}

/* Looked at with all rows, before anything is written: numbers of experts, none twice in a row. */
static fa_status check_routes(const experts_job *job) {
    for (int64_t i = 0; i < job->routes.shape[0]; i++) {
        const float *row = fa_row_at(&job->routes, i, 0, 0);
        for (int64_t j = 0; j < job->params->top; j++) {
            if (!(row[j] >= 0.0f && row[j] < (float)job->params->count) || row[j] != (float)(int64_t)row[j]) return FA_ERR_VALUE;
            for (int64_t k = 0; k < j; k++)
                if (row[k] == row[j]) return FA_ERR_VALUE;
        }
    }
    return FA_OK;
}

/* ---- a block ----------------------------------------------------------------------------------------------------------- */

static int64_t expert_of(const experts_job *job, int64_t row, int64_t rank) {
    return (int64_t)((const float *)fa_row_at(&job->routes, row, 0, 0))[rank];
}

/* Stable: an expert's rows are in their order. */
static void sort(const experts_job *job) {
    const int64_t rows = job->x.shape[0], top = job->params->top, count = job->params->count;
    int64_t *first = job->first;
    for (int64_t e = 0; e <= count; e++) first[e] = 0;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < top; j++) first[expert_of(job, i, j) + 1]++;
    for (int64_t e = 0; e < count; e++) first[e + 1] += first[e];
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < top; j++) {
            const int64_t place = first[expert_of(job, i, j)]++; /* becomes where the next expert begins */
            job->place[i * top + j] = place;
            job->row[place] = i;
        }
    for (int64_t e = count; e > 0; e--) first[e] = first[e - 1];
    first[0] = 0;
}

static fa_status weights_of(const fa_linear_weights *all, int64_t expert, int64_t outputs, int64_t inputs, fa_linear_weights *one) {
    const int64_t span = fa_expert_span(outputs), at = expert * span;
    size_t bytes;
    if (all->dtype == FA_QUANT) {
        if (all->n_parts != 1) return FA_ERR_VALUE;
        *one = fa_quant_slice(all, inputs, at, outputs);
        return FA_OK;
    }
    const fa_status status = fa_linear_packed_bytes(all->dtype, span, inputs, &bytes);
    if (status != FA_OK) return status;
    *one = *all;
    one->panels = (char *)all->panels + (size_t)expert * bytes;
    if (all->scale) one->scale = all->scale + at;
    if (all->sums) one->sums = all->sums + at;
    return FA_OK;
}

static fa_status product(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_linear_weights *all, const fa_view *bias,
                         int64_t expert, void *ws, size_t ws_bytes) {
    const int64_t outputs = out->shape[1];
    fa_linear_weights one;
    const fa_status status = weights_of(all, expert, outputs, x->shape[1], &one);
    if (status != FA_OK) return status;
    fa_view own;
    if (bias) {
        own = *bias;
        own.data = (float *)bias->data + expert * fa_expert_span(outputs);
        own.shape[0] = outputs;
    }
    return fa_linear(ctx, out, x, &one, bias ? &own : NULL, FA_ACT_NONE, ws, ws_bytes);
}

typedef struct gate_job {
    const fa_kernels *kernels;
    fa_rows rows;
    int64_t step;
} gate_job;

static void gate_task(void *arg, int64_t task, int worker) {
    const gate_job *job = arg;
    fa_rows rows = job->rows;
    const int64_t first = task * job->step;
    (void)worker;
    rows.out += first * rows.os;
    rows.x += first * rows.xs;
    rows.residual += first * rows.rs;
    rows.rows = rows.rows - first < job->step ? rows.rows - first : job->step;
    job->kernels->rows.gated_clamped(&rows);
}

static fa_status gate(const fa_ctx *ctx, const fa_experts_params *p, const fa_view *g, const fa_view *u) {
    if (p->gate == FA_GATE_ACT) return fa_gated(ctx, g, g, u, (fa_activation)p->act);
    const ptrdiff_t stride = fa_estride(g, 0);
    gate_job job = {ctx->kernels, {.out = g->data, .os = stride, .x = g->data, .xs = stride, .residual = u->data, .rs = stride,
                                   .eps = p->alpha, .limit = p->limit, .rows = g->shape[0], .h = p->inner},
                    1 + TASK_FLOATS / p->inner};
    return fa_parallel_for(ctx, (job.rows.rows - 1) / job.step + 1, gate_task, &job);
}

static fa_rows weighted(const experts_job *job, float *row, float weight) {
    return (fa_rows){.out = row, .x = row, .eps = weight, .rows = 1, .h = job->x.shape[1]};
}

static float weight_of(const experts_job *job, int64_t row, int64_t rank) {
    return ((const float *)fa_row_at(&job->routes, row, 0, 0))[job->params->top + rank];
}

typedef struct before_job {
    const experts_job *all;
    int64_t expert;
} before_job;

/* Rows that go into an expert, each times its weight there. */
static void before_task(void *arg, int64_t task, int worker) {
    const before_job *job = arg;
    const experts_job *all = job->all;
    const int64_t first = all->first[job->expert], end = all->first[job->expert + 1], from = first + task * all->step;
    (void)worker;
    for (int64_t i = from; i < end && i < from + all->step; i++) {
        const int64_t row = all->row[i];
        int64_t rank = 0;
        while (all->place[row * all->params->top + rank] != i) rank++;
        const fa_rows rows = weighted(all, all->taken + (i - first) * all->x.shape[1], weight_of(all, row, rank));
        all->kernels->rows.scale(&rows);
    }
}

/* All rows of one expert through it, one behind the other into job->given. */
static fa_status pass(const fa_ctx *ctx, const experts_job *job, int64_t expert, void *ws, size_t ws_bytes) {
    const fa_experts_params *p = job->params;
    const int64_t first = job->first[expert], rows = job->first[expert + 1] - first, width = job->x.shape[1];
    const fa_view taken = table(job->taken, rows, width, width), given = table(job->given + first * width, rows, width, width);
    const fa_view both = table(job->inner, rows, 2 * p->inner, 2 * p->inner);
    const fa_view g = table(job->inner, rows, p->inner, 2 * p->inner), u = table(job->inner + p->inner, rows, p->inner, 2 * p->inner);
    const fa_view index = {.data = job->row + first, .shape = {rows, 1}, .stride = {8, 8}, .ndim = 2, .dtype = FA_I64};
    fa_status status = fa_gather(ctx, &taken, &job->x, &index);
    before_job before = {job, expert};
    if (status == FA_OK && p->before) status = fa_parallel_for(ctx, (rows - 1) / job->step + 1, before_task, &before);
    if (status == FA_OK) status = product(ctx, &both, &taken, p->up, p->up_bias, expert, ws, ws_bytes);
    if (status == FA_OK) status = gate(ctx, p, &g, &u);
    return status == FA_OK ? product(ctx, &given, &g, p->down, p->down_bias, expert, ws, ws_bytes) : status;
}

/* Each row's results, times their weights, added in the order of its routes. */
static void sum_task(void *arg, int64_t task, int worker) {
    const experts_job *job = arg;
    const int64_t first = task * job->step, left = job->x.shape[0] - first, width = job->x.shape[1], top = job->params->top;
    (void)worker;
    for (int64_t i = first; i < first + (left < job->step ? left : job->step); i++) {
        float *out = fa_row_at(&job->out, i, 0, 0);
        for (int64_t j = 0; j < top;) {
            const float *rows[SUM_ROWS];
            int n = 0;
            if (j > 0) rows[n++] = out;
            for (; n < SUM_ROWS && j < top; j++) {
                float *row = job->given + job->place[i * top + j] * width;
                const fa_rows one = weighted(job, row, weight_of(job, i, j));
                if (!job->params->before) job->kernels->rows.scale(&one);
                rows[n++] = row;
            }
            job->kernels->rows.sum(out, rows, n, width);
        }
    }
}

static fa_status run_block(const fa_ctx *ctx, experts_job *job, void *ws, size_t ws_bytes) {
    fa_status status = FA_OK;
    sort(job);
    for (int64_t e = 0; e < job->params->count && status == FA_OK; e++)
        if (job->first[e + 1] > job->first[e]) status = pass(ctx, job, e, ws, ws_bytes);
    if (status != FA_OK) return status;
    const fa_ctx worth = fa_ctx_for_work(ctx, job->x.shape[0] * job->params->top * job->x.shape[1]);
    return fa_parallel_for(&worth, (job->x.shape[0] - 1) / job->step + 1, sum_task, job);
}

/* ---- calls --------------------------------------------------------------------------------------------------------------- */

/* The most that a product of any number of rows up to `most` takes: one of few rows may want more than one of many. */
static fa_status most_of(const fa_ctx *ctx, int64_t most, int64_t outputs, int64_t inputs, int32_t dtype, size_t *bytes) {
    for (int64_t rows = 1; rows <= most; rows++) {
        const fa_view out = table(NULL, rows, outputs, outputs), x = table(NULL, rows, inputs, inputs);
        size_t size = 0;
        const fa_status status = fa_linear_workspace(ctx, &out, &x, dtype, &size);
        if (status != FA_OK) return status;
        if (size > *bytes) *bytes = size;
    }
    return FA_OK;
}

fa_status fa_experts_workspace(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *routes,
                               const fa_experts_params *params, size_t *bytes) {
    experts_job job;
    size_t products = 0;
    fa_status status = prepare(out, x, routes, params, &job);
    if (status == FA_OK) status = most_of(ctx, job.most, 2 * params->inner, x->shape[1], params->up->dtype, &products);
    if (status == FA_OK) status = most_of(ctx, job.most, x->shape[1], params->inner, params->down->dtype, &products);
    if (status != FA_OK) return status;
    fa_arena arena = {0};
    carve(&arena, &job);
    fa_arena_take(&arena, products, 1);
    if (arena.overflow) return FA_ERR_MEMORY;
    *bytes = arena.used;
    return FA_OK;
}

fa_status fa_experts(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *routes,
                     const fa_experts_params *params, void *ws, size_t ws_bytes) {
    experts_job job;
    fa_status status = prepare(out, x, routes, params, &job);
    if (status == FA_OK) status = check_routes(&job);
    if (status != FA_OK || x->shape[0] == 0 || x->shape[1] == 0) return status;
    fa_arena arena = {.base = ws};
    carve(&arena, &job);
    if (!ws || (uintptr_t)ws % FA_ALIGN || arena.overflow || arena.used > ws_bytes) return FA_ERR_WORKSPACE;
    job.kernels = ctx->kernels;
    for (int64_t at = 0; at < x->shape[0] && status == FA_OK; at += BLOCK_ROWS) {
        const int64_t rows = x->shape[0] - at < BLOCK_ROWS ? x->shape[0] - at : BLOCK_ROWS;
        fa_view *parts[] = {&job.out, &job.x, &job.routes};
        const fa_view *wholes[] = {out, x, routes};
        for (int i = 0; i < 3; i++) {
            parts[i]->data = fa_row_at(wholes[i], at, 0, 0);
            parts[i]->shape[0] = rows;
        }
        status = run_block(ctx, &job, (char *)ws + arena.used, ws_bytes - arena.used);
    }
    return status;
}
