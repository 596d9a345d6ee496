/* SPDX-License-Identifier: MIT */
/*
 * Driver of the linear layers with int8 weights: each row is rotated and rounded once, then come the products. Rows go
 * through in passes, which bounds the workspace; everything is cut by sizes alone.
 */
#include "linear_int8.h"

#include "../arena.h"
#include "../kernels/kernels.h"
#include "../view.h"
#include "parallel.h"

#define FA_INT8_PASS 2048             /* rows quantised before their products: they stay near */
#define FA_INT8_PIECE (32 << 10)      /* inputs of a task of the first step: about 5 us */
#define FA_INT8_BYTES (640 << 10)     /* weights of a task: they stay in L2 while the rows pass by */
#define FA_INT8_TASK_ROWS 192
#define FA_INT8_ROWS 8                /* most rows of a kernel's tile */
#define FA_INT8_ENOUGH 12             /* tasks that will do for any team worth having */
#define FA_INT8_WORTH 1500000.0       /* products of a task that is worth handing out: 7 us with VNNI */
#define FA_INT8_FEW 8                 /* below, the time goes by the weights read, as for so many rows */

fa_status fa_int8_packed_bytes(int64_t n, int64_t k, size_t *bytes) {
    if (k > FA_INT8_MOST_INPUTS) return FA_ERR_SHAPE;
    if (n > INT64_MAX - 15 || __builtin_mul_overflow((size_t)((n + 15) / 16) * 64, (size_t)((k + 3) / 4), bytes) ||
        *bytes > PTRDIFF_MAX)
        return FA_ERR_MEMORY;
    return FA_OK;
}

typedef struct fa_int8_pack_job {
    const fa_kernels *kernels;
    fa_linear_weights packed;
    const float *w;
    ptrdiff_t ws;
    int64_t n, k, per_task;
} fa_int8_pack_job;

static void fa_int8_pack_task(void *arg, int64_t task, int worker) {
    const fa_int8_pack_job *job = arg;
    const int64_t panels = (job->n + 15) / 16, first = task * job->per_task, last = first + job->per_task;
    (void)worker;
    for (int64_t p = first; p < last && p < panels; p++) {
        const int n = job->n - p * 16 < 16 ? (int)(job->n - p * 16) : 16;
        job->kernels->int8.pack((int8_t *)job->packed.panels + p * ((job->k + 3) / 4) * 64, job->packed.scale + p * 16,
                                job->packed.sums + p * 16, job->w + p * 16 * job->ws, job->ws, n, job->k);
    }
}

fa_status fa_int8_pack(const fa_ctx *ctx, const fa_linear_weights *packed, const fa_view *weight) {
    fa_int8_pack_job job = {ctx->kernels, *packed, weight->data, fa_estride(weight, 0), weight->shape[0], weight->shape[1], 1};
    job.per_task = 1 + (64 << 10) / ((job.k + 1) * 16);
    return fa_parallel_for(ctx, ((job.n + 15) / 16 + job.per_task - 1) / job.per_task, fa_int8_pack_task, &job);
}

typedef struct fa_int8_plan {
    int64_t m, n, k;            /* m: rows of the largest pass */
    int64_t row_step, rows;     /* rows of a task, number of row blocks */
    int64_t panel_step, panels; /* panels of a task, number of panel blocks */
    int64_t piece;              /* rows of a task of the first step */
    int64_t row_inputs;         /* inputs of a quantised row */
    int team;
    char *x;                    /* quantised rows of a pass */
    float *x_scale, *scratch;   /* their scales; scratch of all workers */
} fa_int8_plan;

static int64_t fa_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t fa_least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Rows of a tile, of those that m rows are cut into; and the multiple in which blocks have panels for such tiles. */
static int64_t fa_int8_height(int64_t m) { return m > 0 ? fa_ceil_div(m, fa_ceil_div(m, FA_INT8_ROWS)) : 1; }
static int64_t fa_int8_unit(int64_t m) { return fa_int8_height(m) > 6 ? 6 : 12; }

/* The step that cuts panels into `pieces`, as a multiple of `unit`. */
static int64_t fa_int8_panel_step(int64_t panels, int64_t pieces, int64_t unit) {
    const int64_t step = fa_ceil_div(fa_ceil_div(panels, pieces), unit) * unit;
    return step < unit ? unit : step;
}

/* The same of m rows: whole tiles of equal height, so that no block is left with a row or two, for which it would read
 * all weights. */
static int64_t fa_int8_row_step(int64_t m, int64_t pieces) {
    const int64_t height = fa_int8_height(m);
    return m > 0 ? fa_ceil_div(fa_ceil_div(m, height), pieces) * height : 1;
}

/* As fa_linear_cut: largest blocks first; then, while there are few and each is worth it, more: panels, then rows. */
static void fa_int8_cut(const fa_ctx *ctx, int64_t m, int64_t n, int64_t k, fa_int8_plan *plan) {
    plan->m = fa_least(m, FA_INT8_PASS);
    const int64_t panels = fa_ceil_div(n, 16), groups = fa_ceil_div(k, 4), unit = fa_int8_unit(plan->m);
    const int64_t fit = groups > 0 ? FA_INT8_BYTES / (groups * 64) : panels;
    plan->n = n;
    plan->k = k;
    plan->row_inputs = fa_ceil_div(k, 16) * 16;
    plan->piece = 1 + FA_INT8_PIECE / (plan->row_inputs + 16);
    plan->row_step = fa_int8_row_step(plan->m, 1 + plan->m / (FA_INT8_TASK_ROWS + 1));
    plan->panel_step = fa_int8_panel_step(panels, 1 + panels / ((fit > unit ? fit : unit) + 1), unit);
    const double work = (double)(plan->m < FA_INT8_FEW ? FA_INT8_FEW : plan->m) * (double)n * (double)k;
    for (;;) {
        plan->rows = fa_ceil_div(plan->m, plan->row_step);
        plan->panels = fa_ceil_div(panels, plan->panel_step);
        const double tasks = (double)plan->rows * (double)plan->panels;
        if (tasks < 1 || tasks >= FA_INT8_ENOUGH || work < FA_INT8_WORTH * 2 * tasks) break;
        const int64_t fewer_panels = fa_int8_panel_step(panels, 2 * plan->panels, unit);
        const int64_t fewer_rows = fa_int8_row_step(plan->m, 2 * plan->rows);
        if (plan->row_step >= FA_INT8_TASK_ROWS / 2 && fewer_rows < plan->row_step) plan->row_step = fewer_rows;
        else if (fewer_panels < plan->panel_step) plan->panel_step = fewer_panels;
        else if (fewer_rows < plan->row_step) plan->row_step = fewer_rows;
        else break;
    }
    const int64_t pieces = fa_ceil_div(plan->m, plan->piece), tasks = plan->rows * plan->panels;
    plan->team = fa_team_max(ctx, pieces > tasks ? pieces : tasks);
}

static void fa_int8_carve(fa_arena *arena, const fa_ctx *ctx, fa_int8_plan *plan) {
    const size_t row = (size_t)plan->row_inputs;
    plan->x = fa_arena_take(arena, (size_t)plan->m, row * (size_t)ctx->kernels->int8.input_bytes);
    plan->x_scale = fa_arena_take(arena, (size_t)plan->m, sizeof(float));
    plan->scratch = fa_arena_take(arena, (row + 16) * (size_t)plan->team, sizeof(float));
}

fa_status fa_int8_workspace(const fa_ctx *ctx, int64_t m, int64_t n, int64_t k, size_t *bytes) {
    fa_int8_plan plan;
    fa_arena arena = {NULL, 0, 0};
    fa_int8_cut(ctx, m, n, k, &plan);
    fa_int8_carve(&arena, ctx, &plan);
    if (arena.overflow) return FA_ERR_MEMORY;
    *bytes = arena.used;
    return FA_OK;
}

/* One pass: rows from the first on. */
typedef struct fa_int8_job {
    fa_int8_plan plan;
    const fa_int8_kernels *kernels;
    const fa_linear_weights *packed;
    const float *x, *bias;
    float *out;
    ptrdiff_t xs, os;
    int64_t m; /* rows of this pass */
    int act;
} fa_int8_job;

static void fa_int8_quantize_task(void *arg, int64_t task, int worker) {
    const fa_int8_job *job = arg;
    const fa_int8_plan *plan = &job->plan;
    const int64_t row_bytes = plan->row_inputs * job->kernels->input_bytes;
    float *scratch = plan->scratch + worker * (plan->row_inputs + 16);
    const int64_t end = fa_least((task + 1) * plan->piece, job->m);
    for (int64_t row = task * plan->piece; row < end; row++)
        plan->x_scale[row] = job->kernels->quantize(plan->x + row * row_bytes, job->x + row * job->xs, plan->k, scratch);
}

/* Panel blocks are the outer order: a worker finds the weights of its next task in its cache. */
static void fa_int8_task(void *arg, int64_t task, int worker) {
    const fa_int8_job *job = arg;
    const fa_int8_plan *plan = &job->plan;
    const int64_t rows = fa_ceil_div(job->m, plan->row_step);
    const int64_t row = task % rows * plan->row_step, panel = task / rows * plan->panel_step;
    (void)worker;
    fa_int8_block block = {
        .x_bytes = plan->row_inputs * job->kernels->input_bytes,
        .x_scale = plan->x_scale + row,
        .rows = fa_least(job->m - row, plan->row_step), .k = plan->k,
        .panels = (const int8_t *)job->packed->panels + panel * fa_ceil_div(plan->k, 4) * 64,
        .scale = job->packed->scale + panel * 16, .sums = job->packed->sums + panel * 16,
        .n_panels = fa_least(fa_ceil_div(plan->n, 16) - panel, plan->panel_step),
        .bias = job->bias ? job->bias + panel * 16 : NULL,
        .out = job->out + row * job->os + panel * 16, .os = job->os, .act = job->act,
    };
    block.x = plan->x + row * block.x_bytes;
    block.n = fa_least(plan->n - panel * 16, block.n_panels * 16);
    job->kernels->block(&block);
}

fa_status fa_int8_linear(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_linear_weights *packed,
                         const fa_view *bias, fa_activation act, void *ws, size_t ws_bytes) {
    const int64_t m = x->shape[0];
    fa_int8_job job = {.kernels = &ctx->kernels->int8, .packed = packed, .xs = fa_estride(x, 0), .os = fa_estride(out, 0),
                       .bias = bias ? bias->data : NULL, .act = (int)act};
    fa_int8_cut(ctx, m, out->shape[1], x->shape[1], &job.plan);
    fa_arena arena = {ws, 0, 0};
    fa_int8_carve(&arena, ctx, &job.plan);
    if (!ws || (uintptr_t)ws % FA_ALIGN || arena.overflow || arena.used > ws_bytes) return FA_ERR_WORKSPACE;
    for (int64_t row = 0; row < m; row += job.plan.m) {
        job.m = fa_least(m - row, job.plan.m);
        job.x = (const float *)x->data + row * job.xs;
        job.out = (float *)out->data + row * job.os;
        fa_status status = fa_parallel_for(ctx, fa_ceil_div(job.m, job.plan.piece), fa_int8_quantize_task, &job);
        if (status == FA_OK)
            status = fa_parallel_for(ctx, fa_ceil_div(job.m, job.plan.row_step) * job.plan.panels, fa_int8_task, &job);
        if (status != FA_OK) return status;
    }
    return FA_OK;
}
