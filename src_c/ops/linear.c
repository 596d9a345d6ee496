/* SPDX-License-Identifier: MIT */
/* Drivers of the linear layers: packing, blocking, tasks. */
#include "../arena.h"
#include "../kernels/kernels.h"
#include "../view.h"
#include "linear_int8.h"
#include "linear_quant.h"
#include "parallel.h"

#define FA_LINEAR_PANELS 16      /* most panels of a task: 393 KB of weights stay in L2 for one chunk of inputs */
#define FA_LINEAR_ROWS 96        /* most rows of a task */
#define FA_LINEAR_HALF_ROWS 288  /* the same where each task widens its weights first */
#define FA_LINEAR_FAR (8 << 20)  /* bytes of weights that hardly stay in a shared L3 */
#define FA_LINEAR_ENOUGH 12      /* tasks that will do for any team worth having; more, smaller ones cost more reading */
#define FA_LINEAR_WORTH 120000.0 /* multiplications of a task that is worth handing to somebody who is awake: 2 us */
#define FA_LINEAR_AWAKE 1200000.0 /* multiplications of a product that is worth waking somebody */
#define FA_LINEAR_FEWEST 6       /* panels of a task, when cut smaller than the cache asks: each copy of A serves these */

fa_status fa_linear_packed_bytes(int32_t dtype, int64_t n, int64_t k, size_t *bytes) {
    if (n < 0 || k < 0) return FA_ERR_SHAPE;
    if (dtype == FA_I8) return fa_int8_packed_bytes(n, k, bytes);
    if (dtype != FA_F32 && dtype != FA_F16 && dtype != FA_BF16) return FA_ERR_DTYPE;
    const size_t item = (size_t)fa_itemsize(dtype);
    size_t size;
    if (n > INT64_MAX - 15 || __builtin_mul_overflow((size_t)((n + 15) / 16) * 16 * item, (size_t)k, &size) || size > PTRDIFF_MAX)
        return FA_ERR_MEMORY;
    *bytes = size;
    return FA_OK;
}

typedef struct fa_pack_job {
    const fa_kernels *kernels;
    char *packed;
    int dtype;
    const float *w;
    ptrdiff_t ws;
    int64_t n, k, per_task;
} fa_pack_job;

static void fa_pack_task(void *arg, int64_t task, int worker) {
    const fa_pack_job *job = arg;
    const int64_t panels = (job->n + 15) / 16;
    int64_t end = (task + 1) * job->per_task < panels ? (task + 1) * job->per_task : panels;
    (void)worker;
    for (int64_t p = task * job->per_task; p < end; p++) {
        int n = job->n - p * 16 < 16 ? (int)(job->n - p * 16) : 16;
        char *panel = job->packed + p * job->k * 16 * fa_itemsize(job->dtype);
        job->kernels->linear.pack(panel, job->dtype, job->w + p * 16 * job->ws, job->ws, n, job->k);
    }
}

/* Whether everything that the dtype has is there, and aligned. */
static int fa_linear_is_whole(const fa_linear_weights *packed, size_t bytes) {
    if (bytes > 0 && (!packed->panels || (uintptr_t)packed->panels % FA_ALIGN)) return 0;
    if (packed->dtype != FA_I8) return 1;
    return packed->scale && packed->sums && (uintptr_t)packed->scale % 4 == 0 && (uintptr_t)packed->sums % 4 == 0;
}

fa_status fa_linear_pack(const fa_ctx *ctx, const fa_linear_weights *packed, const fa_view *weight) {
    size_t bytes;
    fa_status status = fa_check_f32(weight, 2);
    if (status == FA_OK) status = fa_linear_packed_bytes(packed->dtype, weight->shape[0], weight->shape[1], &bytes);
    if (status != FA_OK) return status;
    if (weight->shape[0] == 0) return FA_OK;
    if (!fa_linear_is_whole(packed, bytes)) return FA_ERR_WORKSPACE;
    if (packed->dtype == FA_I8) return fa_int8_pack(ctx, packed, weight);
    if (bytes == 0) return FA_OK;
    fa_pack_job job = {.kernels = ctx->kernels, .packed = packed->panels, .dtype = packed->dtype, .w = weight->data,
                       .ws = fa_estride(weight, 0), .n = weight->shape[0], .k = weight->shape[1]};
    job.per_task = 1 + (64 << 10) / (job.k * 16);
    return fa_parallel_for(ctx, ((job.n + 15) / 16 + job.per_task - 1) / job.per_task, fa_pack_task, &job);
}

/* How a product is cut: by its sizes alone, so that the bits and the workspace's layout never depend on the threads. */
typedef struct fa_linear_plan {
    int64_t m, n, k;
    int32_t dtype;
    int64_t row_step, rows;     /* rows of a task, number of row blocks */
    int64_t panel_step, panels; /* panels of a task, number of panel blocks */
    int team;
    double work;                /* multiplications, of at least 4 rows: below, the time goes by the weights read */
    float *c, *a, *wide;        /* scratch of all workers; wide and, behind it, part only with weights of 16 bits */
    size_t c_size, a_size, wide_size, half_size; /* floats of each worker; half_size: of wide and part */
} fa_linear_plan;

static int64_t fa_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* The step that cuts `total` into `pieces`, as a multiple of `unit`. */
static int64_t fa_linear_step(int64_t total, int64_t pieces, int64_t unit) {
    int64_t step = fa_ceil_div(fa_ceil_div(total, pieces), unit) * unit;
    return step < unit ? unit : step;
}

/* Panels in multiples of what the kernels take side by side, for tiles of the rows that this M is cut into. */
static int64_t fa_linear_unit(int64_t m) {
    const int64_t rows = fa_ceil_div(m, fa_ceil_div(m, FA_LINEAR_MAX_ROWS));
    return rows <= 3 ? 4 : rows == 4 ? 6 : rows <= 6 ? 4 : rows <= 8 ? 3 : 2;
}

/*
 * Largest blocks first; then, while there are few and each is worth it, more. Fewer panels cost copies of A, which is
 * near; fewer rows cost reading the weights again, which may come from memory: panels first, then rows, then panels.
 */
static void fa_linear_cut(const fa_ctx *ctx, fa_linear_plan *plan) {
    const int64_t panels = fa_ceil_div(plan->n, 16), unit = fa_linear_unit(plan->m > 0 ? plan->m : 1);
    plan->work = (double)(plan->m < 4 ? 4 : plan->m) * (double)plan->n * (double)plan->k;
    const int widened = plan->dtype != FA_F32 && ctx->kernels->linear.half_rows < FA_LINEAR_HALF_ROWS;
    const int64_t most_rows = widened ? FA_LINEAR_HALF_ROWS : FA_LINEAR_ROWS;
    int64_t row_pieces = fa_ceil_div(plan->m, most_rows), panel_pieces = fa_ceil_div(panels, FA_LINEAR_PANELS);
    plan->row_step = fa_linear_step(plan->m, row_pieces > 0 ? row_pieces : 1, FA_LINEAR_MAX_ROWS);
    plan->panel_step = fa_linear_step(panels, panel_pieces > 0 ? panel_pieces : 1, unit);
    for (;;) {
        plan->rows = fa_ceil_div(plan->m, plan->row_step);
        plan->panels = fa_ceil_div(panels, plan->panel_step);
        const double tasks = (double)plan->rows * (double)plan->panels;
        if (tasks < 1 || tasks >= FA_LINEAR_ENOUGH || plan->work < FA_LINEAR_WORTH * 2 * tasks) break;
        const int64_t fewer = fa_linear_step(panels, 2 * plan->panels, unit);
        const int splits = fewer < plan->panel_step;
        if (splits && fewer >= FA_LINEAR_PANELS / 2) plan->panel_step = fewer;
        else if (plan->row_step >= most_rows)
            plan->row_step = fa_linear_step(plan->m, 2 * plan->rows, FA_LINEAR_MAX_ROWS);
        else if (splits && fewer >= FA_LINEAR_FEWEST) plan->panel_step = fewer;
        else break;
    }
    plan->team = fa_team_max(ctx, plan->panels * plan->rows);
}

static void fa_linear_carve(fa_arena *arena, const fa_ctx *ctx, fa_linear_plan *plan) {
    const int rows = ctx->kernels->linear.tile_rows;
    plan->c_size = (size_t)(plan->row_step * plan->panel_step * 16);
    plan->a_size = (size_t)rows * (FA_K_CHUNK + FA_LINEAR_PAD);
    if (plan->a_size < (size_t)plan->k * FA_LINEAR_PASS) plan->a_size = (size_t)plan->k * FA_LINEAR_PASS;
    plan->c = fa_arena_take(arena, plan->c_size * (size_t)plan->team, sizeof(float));
    plan->a = fa_arena_take(arena, plan->a_size * (size_t)plan->team, sizeof(float));
    plan->wide_size = (size_t)(plan->panel_step * 16 * FA_K_CHUNK);
    plan->half_size = plan->dtype == FA_F32 || plan->row_step <= ctx->kernels->linear.half_rows ? 0 : plan->wide_size + plan->c_size;
    plan->wide = fa_arena_take(arena, plan->half_size * (size_t)plan->team, sizeof(float));
}

static fa_status fa_linear_prepare(const fa_ctx *ctx, const fa_view *out, const fa_view *x, int32_t dtype, fa_linear_plan *plan) {
    fa_status status = fa_check_f32(x, 2);
    if (status == FA_OK) status = fa_check_f32(out, 2);
    if (status != FA_OK) return status;
    if (out->shape[0] != x->shape[0]) return FA_ERR_SHAPE;
    plan->m = x->shape[0];
    plan->k = x->shape[1];
    plan->n = out->shape[1];
    plan->dtype = dtype;
    if (dtype == FA_QUANT) return FA_OK;
    size_t bytes;
    status = fa_linear_packed_bytes(dtype, plan->n, plan->k, &bytes);
    if (status == FA_OK && dtype != FA_I8) fa_linear_cut(ctx, plan);
    return status;
}

fa_status fa_linear_workspace(const fa_ctx *ctx, const fa_view *out, const fa_view *x, int32_t dtype, size_t *bytes) {
    fa_linear_plan plan;
    fa_status status = fa_linear_prepare(ctx, out, x, dtype, &plan);
    if (status != FA_OK) return status;
    if (dtype == FA_I8) return fa_int8_workspace(ctx, plan.m, plan.n, plan.k, bytes);
    if (dtype == FA_QUANT) return fa_quant_workspace(ctx, plan.m, plan.n, plan.k, bytes);
    fa_arena arena = {NULL, 0, 0};
    fa_linear_carve(&arena, ctx, &plan);
    if (arena.overflow) return FA_ERR_MEMORY;
    *bytes = arena.used;
    return FA_OK;
}

typedef struct fa_linear_job {
    fa_linear_plan plan;
    const fa_kernels *kernels;
    const float *x, *bias;
    const char *packed;
    float *out;
    ptrdiff_t xs, os;
    int act;
} fa_linear_job;

static void fa_linear_task(void *arg, int64_t task, int worker) {
    const fa_linear_job *job = arg;
    const fa_linear_plan *plan = &job->plan;
    const int64_t row = task / plan->panels * plan->row_step, panel = task % plan->panels * plan->panel_step;
    const int64_t left = (plan->n + 15) / 16 - panel;
    fa_linear_block block = {
        .x = job->x + row * job->xs, .xs = job->xs, .k = plan->k,
        .rows = plan->m - row < plan->row_step ? plan->m - row : plan->row_step,
        .panels = job->packed + panel * plan->k * 16 * fa_itemsize(plan->dtype), .dtype = plan->dtype,
        .n_panels = left < plan->panel_step ? left : plan->panel_step,
        .far = plan->n * plan->k > FA_LINEAR_FAR / fa_itemsize(plan->dtype),
        .bias = job->bias ? job->bias + panel * 16 : NULL,
        .out = job->out + row * job->os + panel * 16, .os = job->os, .act = job->act,
        .c = plan->c + (size_t)worker * plan->c_size, .a = plan->a + (size_t)worker * plan->a_size,
        .wide = plan->half_size ? plan->wide + (size_t)worker * plan->half_size : NULL,
        .part = plan->half_size ? plan->wide + (size_t)worker * plan->half_size + plan->wide_size : NULL,
    };
    block.n = plan->n - panel * 16 < block.n_panels * 16 ? plan->n - panel * 16 : block.n_panels * 16;
    job->kernels->linear.block(&block);
}

fa_status fa_linear(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_linear_weights *packed, const fa_view *bias,
                    fa_activation act, void *ws, size_t ws_bytes) {
    fa_linear_job job;
    fa_status status = fa_linear_prepare(ctx, out, x, packed->dtype, &job.plan);
    if (status == FA_OK && bias) status = fa_check_f32(bias, 1);
    if (status != FA_OK) return status;
    if (bias && bias->shape[0] != job.plan.n) return FA_ERR_SHAPE;
    if (act < FA_ACT_NONE || act > FA_ACT_SIGMOID) return FA_ERR_VALUE;
    if (job.plan.m == 0 || job.plan.n == 0) return FA_OK;
    if (packed->dtype == FA_QUANT) {
        if (!fa_quant_is_whole(packed, job.plan.n, job.plan.k)) return FA_ERR_WORKSPACE;
        return fa_quant_linear(ctx, out, x, packed, bias, act, ws, ws_bytes);
    }
    if (!fa_linear_is_whole(packed, (size_t)job.plan.k)) return FA_ERR_WORKSPACE;
    if (packed->dtype == FA_I8) return fa_int8_linear(ctx, out, x, packed, bias, act, ws, ws_bytes);
    fa_arena arena = {ws, 0, 0};
    fa_linear_carve(&arena, ctx, &job.plan);
    if (!ws || (uintptr_t)ws % FA_ALIGN || arena.overflow || arena.used > ws_bytes) return FA_ERR_WORKSPACE;
    job.kernels = ctx->kernels;
    job.x = x->data;
    job.xs = fa_estride(x, 0);
    job.packed = packed->panels;
    job.bias = bias ? bias->data : NULL;
    job.out = out->data;
    job.os = fa_estride(out, 0);
    job.act = (int)act;
    fa_ctx worth = *ctx;
    worth.small = job.plan.work < FA_LINEAR_AWAKE;
    return fa_parallel_for(&worth, job.plan.rows * job.plan.panels, fa_linear_task, &job);
}
