/* SPDX-License-Identifier: MIT */
/*
 * Disentangled attention: of a head of a sequence, a unit, two products, a bias and an attention. A task is a block of rows
 * of a unit. A first round multiplies the keys of some units, as many as ROOM holds, by the position queries; a second one
 * takes blocks of queries through their product, the bias and the attention, in scratch of the worker. A block's products
 * are those with the relative embeddings its own distances reach: the others would not be read.
 */
#include "../arena.h"
#include "../kernels/kernels.h"
#include "../view.h"
#include "distances.h"
#include "parallel.h"

#define ROOM ((int64_t)1 << 20)        /* floats of the products of keys that are kept, if that is one unit at least */
#define WORKER_ROOM ((int64_t)1 << 17) /* floats of a block's products and bias: they stay in L2 */
#define MOST_ROWS 64
#define LEAST_ROWS 32
#define PANELS 16                      /* of one call of the kernel, as in linear.c */
#define MOST_FLOATS ((int64_t)1 << 56) /* of all products of a call */

typedef struct da_sequence {
    int64_t row, tokens;
    int64_t step, blocks;    /* rows of a block, blocks of a unit */
    int64_t task;            /* of its first block, among the tasks of the call */
    int64_t products;        /* where its first unit's products of keys begin, among those of the call */
    int32_t first, width;    /* the columns of its products: from a panel's first on, whole panels */
} da_sequence;

typedef struct da_job {
    fa_ctx ctx, alone;       /* of the call; of the attention within a task */
    const fa_view *out, *q, *k, *v;
    const fa_disentangled_params *params;
    int64_t heads, d;
    int64_t each;            /* floats of a head's panels */
    int64_t reach, tasks, products; /* the largest distance; of the call: tasks, floats of products of keys */
    int64_t most_unit, most_products, most_bias; /* floats: of a unit's products of keys, of a block's products and bias */
    size_t attention_bytes;
    int32_t *columns;        /* [2 * reach + 1] */
    da_sequence *sequences;  /* [n_seq] */
    float *kept;             /* products of keys of some units, the first of which begins at `base` among all */
    int64_t base, first_task;
    char *scratch;           /* of worker w at scratch + w * scratch_bytes */
    size_t scratch_bytes;
    int32_t failed;          /* fa_status of an operator inside a task */
} da_job;

/* A worker's. */
typedef struct da_scratch {
    float *products, *bias, *c, *a;
    void *attention;
} da_scratch;

static int64_t da_min(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t da_max(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- tasks ------------------------------------------------------------------------------------------------------- */

static size_t carve_scratch(const da_job *job, char *base, da_scratch *scratch) {
    const fa_linear_kernels *linear = &job->ctx.kernels->linear;
    const int64_t a = da_max((int64_t)linear->tile_rows * (FA_K_CHUNK + FA_LINEAR_PAD), job->d * FA_LINEAR_PASS);
    fa_arena arena = {base, 0, 0};
    scratch->products = fa_arena_take(&arena, job->params->c2p ? (size_t)job->most_products : 0, sizeof(float));
    scratch->bias = fa_arena_take(&arena, (size_t)job->most_bias, sizeof(float));
    scratch->c = fa_arena_take(&arena, MOST_ROWS * 16 * PANELS, sizeof(float));
    scratch->a = fa_arena_take(&arena, (size_t)a, sizeof(float));
    scratch->attention = fa_arena_take(&arena, job->attention_bytes, 1);
    return arena.overflow ? SIZE_MAX : arena.used;
}

typedef struct da_block {
    const da_sequence *seq;
    int64_t head, row, rows; /* its first row, counted from the sequence's, and how many */
    da_scratch scratch;
} da_block;

static da_block find_block(const da_job *job, int64_t task, int worker) {
    int64_t low = 0, high = job->params->n_seq - 1;
    task += job->first_task;
    while (low < high) {
        const int64_t middle = (low + high + 1) / 2;
        if (job->sequences[middle].task <= task) low = middle;
        else high = middle - 1;
    }
    const da_sequence *seq = &job->sequences[low];
    da_block block = {.seq = seq, .head = (task - seq->task) / seq->blocks, .row = (task - seq->task) % seq->blocks * seq->step};
    block.rows = da_min(seq->step, seq->tokens - block.row);
    carve_scratch(job, job->scratch + (size_t)worker * job->scratch_bytes, &block.scratch);
    return block;
}

static float *kept_products(const da_job *job, const da_block *block) {
    return job->kept + (block->seq->products - job->base + block->head * block->seq->tokens * block->seq->width);
}

/* Rows of x times a head's panels, those of the distances least..most, to these columns of out. */
static void multiply(const da_job *job, const da_block *block, const fa_view *x, const float *panels, int64_t least, int64_t most,
                     float *out) {
    const da_sequence *seq = block->seq;
    const int32_t *columns = job->columns + job->reach;
    const int64_t end = columns[most] / 16 + 1;
    panels += block->head * job->each;
    for (int64_t panel = columns[least] / 16; panel < end; panel += PANELS) {
        const int64_t n = da_min(PANELS, end - panel);
        const fa_linear_block part = {
            .x = fa_row_at(x, 0, block->head, seq->row + block->row), .xs = fa_estride(x, 2), .rows = block->rows, .k = job->d,
            .panels = panels + panel * job->d * 16, .dtype = FA_F32, .n_panels = n, .n = 16 * n,
            .out = out + (panel * 16 - seq->first), .os = seq->width, .act = FA_ACT_NONE,
            .c = block->scratch.c, .a = block->scratch.a,
        };
        job->ctx.kernels->linear.block(&part);
    }
}

static void key_task(void *arg, int64_t task, int worker) {
    const da_job *job = arg;
    const da_block block = find_block(job, task, worker);
    const da_sequence *seq = block.seq;
    const int64_t *at = job->params->positions + seq->row;
    const int64_t least = at[0] - at[block.row + block.rows - 1], most = at[seq->tokens - 1] - at[block.row];
    multiply(job, &block, job->k, job->params->p2c, least, most, kept_products(job, &block) + block.row * seq->width);
}

/* Rows of a head as fa_attention takes them, of arrays and of weights. */
static fa_view rows_of(const fa_view *x, int64_t head, int64_t row, int64_t rows) {
    fa_view view = *x;
    view.data = fa_row_at(x, 0, head, row);
    view.shape[1] = 1;
    view.shape[2] = rows;
    return view;
}

static fa_view bias_view(float *bias, int64_t rows, int64_t keys) {
    return (fa_view){.data = bias, .shape = {1, 1, rows, keys}, .stride = {0, 0, 4 * keys, 4}, .ndim = 4, .dtype = FA_F32};
}

static fa_attention_params attention_params(const da_job *job, const fa_view *bias) {
    return (fa_attention_params){.scale = job->params->scale, .window_left = -1, .window_right = -1, .mask = bias};
}

static void query_task(void *arg, int64_t task, int worker) {
    da_job *job = arg;
    const fa_disentangled_params *params = job->params;
    const da_block block = find_block(job, task, worker);
    const da_sequence *seq = block.seq;
    const int64_t *at = params->positions + seq->row;
    const fa_relative relative = {
        .out = block.scratch.bias, .os = seq->tokens, .c2p = params->c2p ? block.scratch.products : NULL, .cs = seq->width,
        .p2c = params->p2c ? kept_products(job, &block) : NULL, .ps = seq->width, .q_at = at + block.row, .k_at = at,
        .columns = job->columns + job->reach, .first = seq->first, .scale = params->scale, .rows = block.rows, .keys = seq->tokens,
    };
    if (params->c2p) {
        const int64_t least = at[block.row] - at[seq->tokens - 1], most = at[block.row + block.rows - 1] - at[0];
        multiply(job, &block, job->q, params->c2p, least, most, block.scratch.products);
    }
    job->ctx.kernels->relative.gather(&relative);
    if (fa_stopping(job->ctx.stop)) return;
    const fa_view bias = bias_view(block.scratch.bias, block.rows, seq->tokens);
    const fa_view out = rows_of(job->out, block.head, seq->row + block.row, block.rows);
    const fa_view q = rows_of(job->q, block.head, seq->row + block.row, block.rows);
    const fa_view k = rows_of(job->k, block.head, seq->row, seq->tokens), v = rows_of(job->v, block.head, seq->row, seq->tokens);
    const fa_attention_params options = attention_params(job, &bias);
    fa_view rows;
    if (params->weights) rows = rows_of(params->weights, block.head, seq->row + block.row, block.rows);
    const fa_view *weights = params->weights ? &rows : NULL;
    const fa_status status =
        fa_attention(&job->alone, &out, NULL, weights, &q, &k, &v, &options, block.scratch.attention, job->attention_bytes);
    if (status != FA_OK && status != FA_STOPPED) __atomic_store_n(&job->failed, (int32_t)status, __ATOMIC_RELAXED);
}

/* ---- the call ---------------------------------------------------------------------------------------------------- */

static fa_status check(const fa_view *out, const fa_view *q, const fa_view *k, const fa_view *v, const fa_disentangled_params *p) {
    const fa_view *all[4] = {q, out, k, v};
    for (int i = 0; i < 4; i++) {
        const fa_status status = fa_check_f32(all[i], 4);
        if (status != FA_OK) return status;
        for (int j = 0; j < 4; j++)
            if (all[i]->shape[j] != q->shape[j]) return FA_ERR_SHAPE;
    }
    if (q->shape[0] != 1 || q->shape[3] < 1 || q->shape[3] > FA_MAX_HEAD_DIM) return FA_ERR_SHAPE;
    if (p->n_seq < 0 || (p->n_seq > 0 && (!p->cu || !p->positions)) || (!p->c2p && !p->p2c)) return FA_ERR_VALUE;
    if (!(p->scale >= -FLT_MAX && p->scale <= FLT_MAX)) return FA_ERR_VALUE;
    if ((uintptr_t)p->c2p % FA_ALIGN || (uintptr_t)p->p2c % FA_ALIGN) return FA_ERR_WORKSPACE;
    fa_status status = fa_check_distances(p->span, p->max_distance);
    if (status == FA_OK && p->weights) status = fa_check_f32(p->weights, 4);
    if (status != FA_OK) return status;
    for (int j = 0; j < 3 && p->weights; j++)
        if (p->weights->shape[j] != q->shape[j]) return FA_ERR_SHAPE;
    for (int64_t b = 0; b < p->n_seq; b++) {
        if (p->cu[b] < 0 || p->cu[b + 1] < p->cu[b] || p->cu[b + 1] > q->shape[2]) return FA_ERR_VALUE;
        for (int64_t i = p->cu[b]; i < p->cu[b + 1]; i++)
            if (p->positions[i] < 0 || (i > p->cu[b] && p->positions[i] <= p->positions[i - 1])) return FA_ERR_VALUE;
        if (p->weights && p->weights->shape[3] < p->cu[b + 1] - p->cu[b]) return FA_ERR_SHAPE;
        if (p->cu[b] < p->cu[b + 1] && p->positions[p->cu[b + 1] - 1] - p->positions[p->cu[b]] > FA_MOST_REACH) return FA_ERR_MEMORY;
    }
    return FA_OK;
}

static da_sequence sequence_of(const fa_disentangled_params *p, int64_t b) {
    da_sequence seq = {.row = p->cu[b], .tokens = p->cu[b + 1] - p->cu[b]};
    if (seq.tokens == 0) return seq;
    const int64_t reach = p->positions[p->cu[b + 1] - 1] - p->positions[p->cu[b]];
    seq.first = fa_distance_column(-reach, p->span, p->max_distance) / 16 * 16;
    seq.width = (fa_distance_column(reach, p->span, p->max_distance) - seq.first) / 16 * 16 + 16;
    const int64_t rows = WORKER_ROOM / (seq.width + seq.tokens) / 16 * 16;
    seq.step = da_min(seq.tokens, rows > MOST_ROWS ? MOST_ROWS : rows < LEAST_ROWS ? LEAST_ROWS : rows);
    seq.blocks = (seq.tokens - 1) / seq.step + 1;
    return seq;
}

/* What the attention of a sequence's blocks needs: of a whole one and of the last. */
static fa_status attention_space(da_job *job, const da_sequence *seq) {
    for (int last = 0; last < 2; last++) {
        const int64_t rows = last ? (seq->tokens - 1) % seq->step + 1 : seq->step;
        const fa_view bias = bias_view(NULL, rows, seq->tokens);
        const fa_view out = rows_of(job->out, 0, seq->row, rows), q = rows_of(job->q, 0, seq->row, rows);
        const fa_view k = rows_of(job->k, 0, seq->row, seq->tokens), v = rows_of(job->v, 0, seq->row, seq->tokens);
        const fa_attention_params options = attention_params(job, &bias);
        fa_view row;
        if (job->params->weights) row = rows_of(job->params->weights, 0, seq->row, rows);
        const fa_view *weights = job->params->weights ? &row : NULL;
        size_t bytes;
        const fa_status status = fa_attention_workspace(&job->alone, &out, NULL, weights, &q, &k, &v, &options, &bytes);
        if (status != FA_OK) return status;
        if (bytes > job->attention_bytes) job->attention_bytes = bytes;
    }
    return FA_OK;
}

/* The sizes of all; sequences are written where there is a place for them. */
static fa_status measure(da_job *job) {
    const fa_disentangled_params *p = job->params;
    double work = 0;
    da_sequence before = {0};
    job->tasks = job->products = 0;
    for (int64_t b = 0; b < p->n_seq; b++) {
        da_sequence seq = sequence_of(p, b);
        seq.task = job->tasks;
        seq.products = job->products;
        if (job->sequences) job->sequences[b] = seq;
        if (seq.tokens == 0) continue;
        const int64_t unit = p->p2c ? seq.tokens * seq.width : 0;
        const int64_t reach = p->positions[p->cu[b + 1] - 1] - p->positions[p->cu[b]];
        if ((double)job->products + (double)job->heads * (double)unit > (double)MOST_FLOATS) return FA_ERR_MEMORY;
        job->tasks += job->heads * seq.blocks;
        job->products += job->heads * unit;
        job->reach = da_max(job->reach, reach);
        job->most_unit = da_max(job->most_unit, unit);
        job->most_products = da_max(job->most_products, seq.step * seq.width);
        job->most_bias = da_max(job->most_bias, seq.step * seq.tokens);
        work += (double)job->heads * (double)seq.tokens * (double)job->d * ((double)seq.width + 2 * (double)seq.tokens);
        if (job->sequences || (seq.tokens == before.tokens && seq.step == before.step)) continue; /* known */
        before = seq;
        const fa_status status = attention_space(job, &seq);
        if (status != FA_OK) return status;
    }
    job->ctx = fa_ctx_for_work(&job->ctx, work < 0x1p60 ? (int64_t)work : (int64_t)1 << 60);
    return FA_OK;
}

static fa_status prepare(da_job *job, const fa_ctx *ctx, const fa_view *out, const fa_view *q, const fa_view *k, const fa_view *v,
                         const fa_disentangled_params *params) {
    const fa_status status = check(out, q, k, v, params);
    if (status != FA_OK) return status;
    *job = (da_job){.ctx = *ctx, .alone = *ctx, .out = out, .q = q, .k = k, .v = v, .params = params};
    job->alone.num_threads = 1;
    job->heads = q->shape[1];
    job->d = q->shape[3];
    job->each = (2 * params->span + 15) / 16 * 16 * job->d;
    return measure(job);
}

static fa_status prepare_in_default_environment(da_job *job, const fa_ctx *ctx, const fa_view *out, const fa_view *q, const fa_view *k,
                                                const fa_view *v, const fa_disentangled_params *params) {
    fa_fpenv saved;
    fa_fpenv_enter(&saved);
    const fa_status status = prepare(job, ctx, out, q, k, v, params);
    fa_fpenv_leave(&saved);
    return status;
}

/* What is known of the sequences and their distances, for the tasks. */
static void fill(da_job *job) {
    fa_fpenv saved;
    fa_fpenv_enter(&saved);
    measure(job);
    fa_fill_columns(job->columns, job->reach, job->params->span, job->params->max_distance);
    fa_fpenv_leave(&saved);
}

static fa_status carve(fa_arena *arena, da_job *job) {
    const size_t workers = (size_t)fa_team_max(&job->ctx, job->tasks);
    const int64_t room = da_min(job->products, da_max(ROOM, job->most_unit));
    da_scratch scratch;
    job->scratch_bytes = carve_scratch(job, NULL, &scratch);
    job->columns = fa_arena_take(arena, 2 * (size_t)job->reach + 1, sizeof(int32_t));
    job->sequences = fa_arena_take(arena, (size_t)job->params->n_seq, sizeof(da_sequence));
    job->kept = fa_arena_take(arena, (size_t)room, sizeof(float));
    job->scratch = fa_arena_take(arena, workers, job->scratch_bytes);
    return arena->overflow || job->scratch_bytes == SIZE_MAX ? FA_ERR_MEMORY : FA_OK;
}

fa_status fa_disentangled_attention_workspace(const fa_ctx *ctx, const fa_view *out, const fa_view *q, const fa_view *k,
                                              const fa_view *v, const fa_disentangled_params *params, size_t *bytes) {
    da_job job;
    fa_arena arena = {0};
    *bytes = 0;
    fa_status status = prepare_in_default_environment(&job, ctx, out, q, k, v, params);
    if (status != FA_OK || job.tasks == 0) return status;
    status = carve(&arena, &job);
    if (status == FA_OK) *bytes = arena.used;
    return status;
}

/* Both rounds, for as many units as there is room for the products of. */
static fa_status run(da_job *job) {
    fa_status status = FA_OK;
    int64_t b = 0, head = 0;
    while (b < job->params->n_seq && status == FA_OK) {
        int64_t left = da_max(ROOM, job->most_unit), end = job->first_task = job->sequences[b].task + head * job->sequences[b].blocks;
        job->base = -1;
        for (; b < job->params->n_seq; b++, head = 0) {
            const da_sequence *seq = &job->sequences[b];
            const int64_t unit = job->params->p2c ? seq->tokens * seq->width : 0;
            const int64_t units = unit == 0 ? job->heads : da_min(job->heads - head, left / unit);
            if (job->base < 0) job->base = seq->products + head * unit;
            end = seq->task + (head + units) * seq->blocks;
            left -= units * unit;
            head += units;
            if (head < job->heads) break;
        }
        const int64_t tasks = end - job->first_task;
        if (job->params->p2c) status = fa_parallel_for(&job->ctx, tasks, key_task, job);
        if (status == FA_OK) status = fa_parallel_for(&job->ctx, tasks, query_task, job);
    }
    return status != FA_OK ? status : (fa_status)job->failed;
}

fa_status fa_disentangled_attention(const fa_ctx *ctx, const fa_view *out, const fa_view *q, const fa_view *k, const fa_view *v,
                                    const fa_disentangled_params *params, void *ws, size_t ws_bytes) {
    da_job job;
    fa_arena arena = {0};
    fa_status status = prepare_in_default_environment(&job, ctx, out, q, k, v, params);
    if (status != FA_OK || job.tasks == 0) return status;
    status = carve(&arena, &job);
    if (status != FA_OK) return status;
    if (!ws || ws_bytes < arena.used || (uintptr_t)ws % FA_ALIGN) return FA_ERR_WORKSPACE;
    arena = (fa_arena){.base = ws};
    carve(&arena, &job);
    fill(&job);
    fa_team_begin(&job.ctx);
    status = run(&job);
    fa_team_end();
    return status;
}
