/* SPDX-License-Identifier: MIT */
/*
 * Driver of the linear layers of block-quantised weights: rows of inputs are rounded once, then come the products, part by
 * part. Rows go through in passes, which bounds the workspace; everything is cut by sizes alone.
 */
#include "linear_quant.h"

#include "../arena.h"
#include "../kernels/kernels.h"
#include "../view.h"
#include "parallel.h"

#define FA_QUANT_PASS 2048          /* most rows that are rounded before their products */
#define FA_QUANT_PASS_BYTES (16 << 20) /* of them, about */
#define FA_QUANT_PIECE (16 << 10)   /* inputs of a task of the first step */
#define FA_QUANT_NEAR (384 << 10)   /* bytes of weights of a task of many rows: they stay in L2 */
#define FA_QUANT_ROWS 512           /* most rows of a task */
#define FA_QUANT_ENOUGH 12          /* tasks that will do for any team worth having */
#define FA_QUANT_WORTH 1000000.0    /* products of a task that is worth handing out */
#define FA_QUANT_LEAST 8            /* below, the time goes by the weights read, as for so many rows */
#define FA_QUANT_UNIT 4             /* panels in multiples of what kernels take */

static int64_t fa_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t fa_least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t fa_blocks_of(int64_t k) { return fa_ceil_div(k, FA_QUANT_INPUTS); }

static int64_t panel_codes(int type, int64_t k) { return fa_blocks_of(k) * fa_quant_code_bytes(type); }
static int64_t panel_scales(int type, int64_t k) { return fa_blocks_of(k) * (fa_quant_scale_bytes(type) / 8); }

/* ---- panels ------------------------------------------------------------------------------------------------------- */

fa_status fa_quant_panel_bytes(int32_t type, int64_t k, int64_t *codes, int64_t *scales) {
    int64_t elements, bytes;
    *codes = *scales = 0;
    if (type == FA_Q2_K || type == FA_Q3_K || fa_block_size(type, &elements, &bytes) != FA_OK) return FA_ERR_VALUE;
    if (k < 0 || (elements > FA_QUANT_INPUTS && k % elements)) return FA_ERR_SHAPE;
    if (k > INT64_MAX / 1024) return FA_ERR_MEMORY;
    *codes = panel_codes(type, k);
    *scales = panel_scales(type, k);
    return FA_OK;
}

/* Whether a fp16 is NaN or infinite. */
static int is_wild(const uint8_t *p) { return (p[1] & 0x7c) == 0x7c; }

static int has_wild_scale(int type, const uint8_t *row, int64_t blocks, int64_t bytes) {
    if (type == FA_MXFP4) return 0; /* its scales are all finite */
    const int second = type == FA_Q4_1 || type == FA_Q5_1 || type == FA_Q4_K || type == FA_Q5_K ? 2 : 0;
    const int64_t at = type == FA_Q6_K ? 208 : 0;
    for (int64_t b = 0; b < blocks; b++, row += bytes)
        if (is_wild(row + at) || is_wild(row + at + second)) return 1;
    return 0;
}

typedef struct pack_job {
    const fa_quant_kernels *kernels;
    fa_quant_part part;
    const fa_view *blocks;
    int64_t k, per_task, elements, bytes;
    int64_t *bad; /* [tasks] a row, or -1 */
} pack_job;

static void pack_panels(const pack_job *job, int64_t first, int64_t end, int64_t *bad) {
    const int type = job->part.type;
    for (int64_t p = first; p < end; p++) {
        const uint8_t *rows[16];
        const int n = (int)fa_least(job->part.outputs - p * 16, 16);
        for (int i = 0; i < n; i++) {
            rows[i] = fa_row_at(job->blocks, p * 16 + i, 0, 0);
            if (*bad < 0 && has_wild_scale(type, rows[i], fa_ceil_div(job->k, job->elements), job->bytes)) *bad = p * 16 + i;
        }
        job->kernels->pack(job->part.codes + p * panel_codes(type, job->k), job->part.scales + p * panel_scales(type, job->k), type, rows, n,
                           fa_blocks_of(job->k));
    }
}

#define PACK_TASKS 64

static void pack_task(void *arg, int64_t task, int worker) {
    const pack_job *job = arg;
    const int64_t panels = fa_ceil_div(job->part.outputs, 16), first = task * job->per_task;
    (void)worker;
    pack_panels(job, first, fa_least(first + job->per_task, panels), &job->bad[task]);
}

/* Runs tasks that put the first row with a number that is none into bad[task]; *row becomes the first of all. */
static fa_status run_checked(const fa_ctx *ctx, int64_t tasks, fa_task_fn run, void *job, int64_t *bad, int64_t *row) {
    for (int64_t i = 0; i < tasks; i++) bad[i] = -1;
    const fa_status status = fa_parallel_for(ctx, tasks, run, job);
    for (int64_t i = 0; status == FA_OK && i < tasks && *row < 0; i++) *row = bad[i];
    return status != FA_OK || *row < 0 ? status : FA_ERR_NAN;
}

static int part_is_there(const fa_quant_part *part) {
    return part->codes && part->scales && (uintptr_t)part->codes % FA_ALIGN == 0 && (uintptr_t)part->scales % 2 == 0;
}

fa_status fa_quant_pack(const fa_ctx *ctx, const fa_quant_part *part, const fa_view *blocks, int64_t k, int64_t *row) {
    int64_t codes, scales, bad[PACK_TASKS];
    pack_job job = {.kernels = &ctx->kernels->quant, .part = *part, .blocks = blocks, .k = k, .bad = bad};
    fa_status status = fa_quant_panel_bytes(part->type, k, &codes, &scales);
    *row = -1;
    if (status == FA_OK) status = fa_check_view(blocks, 2, FA_IS(FA_BOOL));
    if (status == FA_OK) status = fa_block_size(part->type, &job.elements, &job.bytes);
    if (status != FA_OK) return status;
    if (blocks->shape[0] != part->outputs || blocks->shape[1] != fa_ceil_div(k, job.elements) * job.bytes) return FA_ERR_SHAPE;
    if (part->outputs == 0 || k == 0) return FA_OK;
    if (!part_is_there(part)) return FA_ERR_WORKSPACE;
    const int64_t panels = fa_ceil_div(part->outputs, 16), least = 1 + (256 << 10) / (k * 16);
    job.per_task = fa_ceil_div(panels, PACK_TASKS);
    if (job.per_task < least) job.per_task = least;
    const int64_t tasks = fa_ceil_div(panels, job.per_task);
    return run_checked(ctx, tasks, pack_task, &job, bad, row);
}

typedef struct int4_job {
    const fa_quant_kernels *kernels;
    const fa_view *blocks, *weight;
    int64_t per_task;
    int64_t *bad;
} int4_job;

static void int4_task(void *arg, int64_t task, int worker) {
    const int4_job *job = arg;
    const int64_t end = fa_least((task + 1) * job->per_task, job->weight->shape[0]);
    (void)worker;
    for (int64_t row = task * job->per_task; row < end; row++)
        if (!job->kernels->int4(fa_row_at(job->blocks, row, 0, 0), fa_row_at(job->weight, row, 0, 0), job->weight->shape[1]) &&
            job->bad[task] < 0)
            job->bad[task] = row;
}

fa_status fa_quant_int4(const fa_ctx *ctx, const fa_view *blocks, const fa_view *weight, int64_t *row) {
    int64_t bad[PACK_TASKS];
    const int64_t n = weight->shape[0], k = weight->shape[1];
    int4_job job = {&ctx->kernels->quant, blocks, weight, 1, bad};
    fa_status status = fa_check_f32(weight, 2);
    *row = -1;
    if (status == FA_OK) status = fa_check_view(blocks, 2, FA_IS(FA_BOOL));
    if (status != FA_OK) return status;
    if (blocks->shape[0] != n || blocks->shape[1] != 20 * fa_blocks_of(k)) return FA_ERR_SHAPE;
    if (n == 0 || k == 0) return FA_OK;
    job.per_task = fa_ceil_div(n, PACK_TASKS);
    if (job.per_task < 1 + (16 << 10) / k) job.per_task = 1 + (16 << 10) / k;
    const int64_t tasks = fa_ceil_div(n, job.per_task);
    return run_checked(ctx, tasks, int4_task, &job, bad, row);
}

typedef struct unpack_job {
    const fa_quant_kernels *kernels;
    const fa_linear_weights *packed;
    const fa_view *out, *ids; /* ids NULL: outputs from the first on */
    int64_t first, step;
} unpack_job;

static int64_t id_at(const fa_view *ids, int64_t i) {
    const char *at = (const char *)ids->data + i * ids->stride[0];
    return ids->dtype == FA_I32 ? *(const int32_t *)at : *(const int64_t *)at;
}

static void unpack_task(void *arg, int64_t task, int worker) {
    const unpack_job *job = arg;
    const int64_t k = job->out->shape[1], end = fa_least((task + 1) * job->step, job->out->shape[0]);
    (void)worker;
    for (int64_t i = task * job->step; i < end; i++) {
        int64_t output = job->ids ? id_at(job->ids, i) : job->first + i;
        const fa_quant_part *part = job->packed->parts;
        for (; output >= part->outputs; part++) output -= part->outputs;
        job->kernels->unpack(fa_row_at(job->out, i, 0, 0), part->codes + output / 16 * panel_codes(part->type, k),
                             part->scales + output / 16 * panel_scales(part->type, k), part->type, (int)(output % 16), k);
    }
}

static fa_status unpack_rows(const fa_ctx *ctx, unpack_job *job) {
    const int64_t work = job->out->shape[0] * job->out->shape[1];
    if (work == 0) return FA_OK;
    job->kernels = &ctx->kernels->quant;
    job->step = 1 + 8192 / job->out->shape[1];
    const fa_ctx worth = fa_ctx_for_work(ctx, 8 * work);
    return fa_parallel_for(&worth, fa_ceil_div(job->out->shape[0], job->step), unpack_task, job);
}

fa_status fa_quant_unpack(const fa_ctx *ctx, const fa_view *out, const fa_quant_part *part, int64_t first) {
    const fa_linear_weights packed = {.dtype = FA_QUANT, .planes = 1, .n_parts = 1, .parts = {*part}};
    unpack_job job = {.packed = &packed, .out = out, .first = first};
    int64_t codes, scales;
    fa_status status = fa_check_f32(out, 2);
    if (status == FA_OK) status = fa_quant_panel_bytes(part->type, out->shape[1], &codes, &scales);
    if (status != FA_OK) return status;
    if (first < 0 || first > part->outputs || out->shape[0] > part->outputs - first) return FA_ERR_VALUE;
    if (out->shape[0] > 0 && out->shape[1] > 0 && !part_is_there(part)) return FA_ERR_WORKSPACE;
    return unpack_rows(ctx, &job);
}

fa_status fa_quant_rows(const fa_ctx *ctx, const fa_view *out, const fa_linear_weights *packed, int64_t n, const fa_view *ids) {
    unpack_job job = {.packed = packed, .out = out, .ids = ids};
    const fa_status status = fa_check_f32(out, 2);
    if (status != FA_OK) return status;
    if (packed->dtype != FA_QUANT || (ids->dtype != FA_I32 && ids->dtype != FA_I64)) return FA_ERR_DTYPE;
    if (ids->ndim != 1 || ids->shape[0] != out->shape[0]) return FA_ERR_SHAPE;
    if (ids->stride[0] % fa_itemsize(ids->dtype)) return FA_ERR_STRIDE;
    if (!fa_quant_is_whole(packed, n, out->shape[1])) return FA_ERR_WORKSPACE;
    for (int64_t i = 0; i < out->shape[0]; i++)
        if ((uint64_t)id_at(ids, i) >= (uint64_t)n) return FA_ERR_VALUE;
    return unpack_rows(ctx, &job);
}

int fa_quant_is_whole(const fa_linear_weights *packed, int64_t n, int64_t k) {
    int64_t outputs = 0, codes, scales;
    if (packed->planes < 1 || packed->planes > 2 || packed->n_parts < 1 || packed->n_parts > FA_QUANT_PARTS) return 0;
    for (int i = 0; i < packed->n_parts; i++) {
        const fa_quant_part *part = &packed->parts[i];
        if (part->outputs < 1 || part->outputs > n - outputs || (part->outputs % 16 && i + 1 < packed->n_parts)) return 0;
        if (fa_quant_panel_bytes(part->type, k, &codes, &scales) != FA_OK || (k > 0 && !part_is_there(part))) return 0;
        outputs += part->outputs;
    }
    return outputs == n;
}

fa_linear_weights fa_quant_slice(const fa_linear_weights *packed, int64_t k, int64_t first, int64_t n) {
    fa_linear_weights one = *packed;
    fa_quant_part *part = &one.parts[0];
    part->codes += first / 16 * panel_codes(part->type, k);
    part->scales += first / 16 * panel_scales(part->type, k);
    part->outputs = n;
    return one;
}

/* ---- products ----------------------------------------------------------------------------------------------------- */

typedef struct quant_plan {
    int64_t m, n, k, blocks;    /* m: rows of the largest pass */
    int64_t row_step, rows;     /* rows of a task, number of row blocks */
    int64_t panel_step;         /* panels of a task */
    int64_t piece;              /* rows of a task of the first step */
    int team, many;             /* many: panels are unpacked */
    char *bytes, *words;        /* rounded rows of a pass; words where the ISA wants them for some types */
    fa_quant_inputs *inputs;
    uint8_t *wide;              /* of all workers */
    size_t wide_size;
} quant_plan;

static int64_t panel_step_for(int64_t panels, int64_t pieces) {
    const int64_t step = fa_ceil_div(fa_ceil_div(panels, pieces), FA_QUANT_UNIT) * FA_QUANT_UNIT;
    return step < FA_QUANT_UNIT ? FA_QUANT_UNIT : step;
}

/* By the sizes alone, as if all weights were of the widest type: then, while there are few tasks and each is worth it, more. */
static void cut(const fa_ctx *ctx, int64_t m, int64_t n, int64_t k, quant_plan *plan) {
    const fa_quant_kernels *kernels = &ctx->kernels->quant;
    const int64_t panels = fa_ceil_div(n, 16), blocks = fa_blocks_of(k), row_bytes = 1 + blocks * FA_QUANT_ROW_BYTES;
    const int64_t most = FA_QUANT_PASS_BYTES / row_bytes > 64 ? FA_QUANT_PASS_BYTES / row_bytes : 64;
    *plan = (quant_plan){.m = fa_least(m, fa_least(most, FA_QUANT_PASS)), .n = n, .k = k, .blocks = blocks};
    plan->many = plan->m > kernels->few_rows;
    plan->piece = 1 + FA_QUANT_PIECE / (blocks * FA_QUANT_INPUTS + 1);
    const int64_t near = plan->m <= 4 ? panels : FA_QUANT_NEAR / (1 + blocks * (plan->many ? kernels->wide_block : 576));
    const int64_t fit = near < FA_QUANT_UNIT ? FA_QUANT_UNIT : near;
    plan->panel_step = panel_step_for(panels, 1 + (panels - 1) / fit);
    plan->row_step = fa_ceil_div(plan->m, fa_ceil_div(plan->m, FA_QUANT_ROWS));
    const double work = (double)(plan->m < FA_QUANT_LEAST ? FA_QUANT_LEAST : plan->m) * (double)n * (double)k;
    for (;;) {
        const int64_t pieces = fa_ceil_div(panels, plan->panel_step);
        plan->rows = fa_ceil_div(plan->m, plan->row_step);
        const double tasks = (double)plan->rows * (double)pieces;
        if (tasks >= FA_QUANT_ENOUGH || work < FA_QUANT_WORTH * 2 * tasks) break;
        const int64_t fewer_panels = panel_step_for(panels, 2 * pieces), fewer_rows = (plan->row_step + 1) / 2;
        if (fewer_rows >= 128) plan->row_step = fewer_rows;
        else if (fewer_panels < plan->panel_step) plan->panel_step = fewer_panels;
        else if (fewer_rows >= 24) plan->row_step = fewer_rows;
        else break;
    }
    plan->panel_step = fa_least(plan->panel_step, panels);
    const int64_t first = fa_ceil_div(plan->m, plan->piece), second = plan->rows * (fa_ceil_div(panels, plan->panel_step) + FA_QUANT_PARTS - 1);
    plan->team = fa_team_max(ctx, first > second ? first : second);
}

static void carve(fa_arena *arena, const fa_ctx *ctx, quant_plan *plan) {
    const size_t row = (size_t)plan->blocks * FA_QUANT_ROW_BYTES;
    plan->bytes = fa_arena_take(arena, (size_t)plan->m, row);
    plan->words = fa_arena_take(arena, ctx->kernels->quant.words ? (size_t)plan->m : 0, row);
    plan->inputs = fa_arena_take(arena, (size_t)plan->m, (size_t)plan->blocks * sizeof(fa_quant_inputs));
    plan->wide_size = plan->many ? (size_t)(plan->panel_step * plan->blocks * ctx->kernels->quant.wide_block) : 0;
    plan->wide = fa_arena_take(arena, (size_t)plan->team, plan->wide_size);
}

fa_status fa_quant_workspace(const fa_ctx *ctx, int64_t m, int64_t n, int64_t k, size_t *bytes) {
    quant_plan plan;
    fa_arena arena = {NULL, 0, 0};
    *bytes = 0;
    if (m == 0 || n == 0) return FA_OK;
    if (n > INT64_MAX / 2 || k > INT64_MAX / 1024) return FA_ERR_MEMORY;
    cut(ctx, m, n, k, &plan);
    carve(&arena, ctx, &plan);
    if (arena.overflow) return FA_ERR_MEMORY;
    *bytes = arena.used;
    return FA_OK;
}

/* One pass: rows from the first on. */
typedef struct quant_job {
    quant_plan plan;
    const fa_quant_kernels *kernels;
    const fa_linear_weights *packed;
    const float *x, *bias;
    float *out;
    ptrdiff_t xs, os;
    int64_t m; /* rows of this pass */
    int act, as_bytes, as_words;
} quant_job;

static void quantize_task(void *arg, int64_t task, int worker) {
    const quant_job *job = arg;
    const quant_plan *plan = &job->plan;
    const int64_t end = fa_least((task + 1) * plan->piece, job->m), row_bytes = plan->blocks * FA_QUANT_ROW_BYTES;
    (void)worker;
    for (int64_t row = task * plan->piece; row < end; row++)
        job->kernels->quantize(job->as_bytes ? plan->bytes + row * row_bytes : NULL, job->as_words ? plan->words + row * row_bytes : NULL,
                               plan->inputs + row * plan->blocks, job->x + row * job->xs, plan->k, job->packed->planes);
}

/* Panel blocks are the outer order: a worker finds the weights of its next task in its cache. */
static void product_task(void *arg, int64_t task, int worker) {
    const quant_job *job = arg;
    const quant_plan *plan = &job->plan;
    const int64_t rows = fa_ceil_div(job->m, plan->row_step), row = task % rows * plan->row_step;
    int64_t piece = task / rows, output = 0;
    const fa_quant_part *part = job->packed->parts;
    for (;; part++) {
        const int64_t pieces = fa_ceil_div(fa_ceil_div(part->outputs, 16), plan->panel_step);
        if (piece < pieces) break;
        piece -= pieces;
        output += part->outputs;
    }
    const int64_t panel = piece * plan->panel_step, row_bytes = plan->blocks * FA_QUANT_ROW_BYTES;
    output += panel * 16;
    fa_quant_block block = {
        .bytes = plan->bytes + row * row_bytes, .words = plan->words ? plan->words + row * row_bytes : NULL,
        .inputs = plan->inputs + row * plan->blocks, .rows = fa_least(job->m - row, plan->row_step), .blocks = plan->blocks,
        .type = part->type, .planes = job->packed->planes,
        .codes = part->codes + panel * panel_codes(part->type, plan->k),
        .scales = part->scales + panel * panel_scales(part->type, plan->k),
        .n_panels = fa_least(fa_ceil_div(part->outputs, 16) - panel, plan->panel_step),
        .bias = job->bias ? job->bias + output : NULL,
        .out = job->out + row * job->os + output, .os = job->os, .act = job->act,
        .wide = plan->wide_size ? plan->wide + (size_t)worker * plan->wide_size : NULL,
    };
    block.n = fa_least(part->outputs - panel * 16, block.n_panels * 16);
    job->kernels->block(&block);
}

fa_status fa_quant_linear(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_linear_weights *packed,
                          const fa_view *bias, fa_activation act, void *ws, size_t ws_bytes) {
    const int64_t m = x->shape[0];
    quant_job job = {.kernels = &ctx->kernels->quant, .packed = packed, .xs = fa_estride(x, 0), .os = fa_estride(out, 0),
                     .bias = bias ? bias->data : NULL, .act = (int)act};
    cut(ctx, m, out->shape[1], x->shape[1], &job.plan);
    fa_arena arena = {ws, 0, 0};
    carve(&arena, ctx, &job.plan);
    if (!ws || (uintptr_t)ws % FA_ALIGN || arena.overflow || arena.used > ws_bytes) return FA_ERR_WORKSPACE;
    int64_t pieces = 0;
    for (int i = 0; i < packed->n_parts; i++) {
        const fa_quant_part *part = &packed->parts[i];
        const int words = job.kernels->words && fa_quant_wants_words(part->type);
        job.as_words |= words;
        job.as_bytes |= !words;
        pieces += fa_ceil_div(fa_ceil_div(part->outputs, 16), job.plan.panel_step);
    }
    for (int64_t row = 0; row < m; row += job.plan.m) {
        job.m = fa_least(m - row, job.plan.m);
        job.x = (const float *)x->data + row * job.xs;
        job.out = (float *)out->data + row * job.os;
        fa_status status = fa_parallel_for(ctx, fa_ceil_div(job.m, job.plan.piece), quantize_task, &job);
        if (status == FA_OK) status = fa_parallel_for(ctx, fa_ceil_div(job.m, job.plan.row_step) * pieces, product_task, &job);
        if (status != FA_OK) return status;
    }
    return FA_OK;
}
