/* SPDX-License-Identifier: MIT */
/* Attention: cuts a call into tasks and hands rows and keys to the kernels. attention_job.h is the map. */
#include <float.h>
#include <math.h>

#include "../arena.h"
#include "../view.h"
#include "attention_job.h"
#include "parallel.h"

#define GROUP_WORK (1 << 20) /* multiply-adds a task should have at least, if its sequence has them */
#define COPY_FROM 2                /* tiles of one sequence that are worth copying rows that collide */
#define LONG_KEYS (2 * FA_KV_CHUNK)
#define FAR_BYTES (2 << 20)
#define FULL_CHUNK (640 << 10)   /* bytes of a chunk of K and V that leaves L2 no room for the rest */
#define FEW_TASKS 16               /* fewer tasks of tiles than this are cut along the keys as well */
#define SPLIT_FLOATS ((int64_t)1 << 24) /* unless their states would take more than this */

/* ---- tasks ----------------------------------------------------------------------------------------------------- */

static int64_t find_seq(const int64_t *start, int64_t n, int64_t task) {
    int64_t lo = 0, hi = n - 1;
    while (lo < hi) {
        int64_t mid = (lo + hi + 1) / 2;
        if (start[mid] <= task) lo = mid;
        else hi = mid - 1;
    }
    return lo;
}

static void attend_task(void *arg, int64_t task, int worker) {
    const attn_job *job = arg;
    const int64_t b = find_seq(job->task_start, job->n_seq, task);
    const attn_seq seq = attn_get_seq(job, b);
    task -= job->task_start[b];
    if (attn_decodes(job, b)) {
        const int64_t tasks = attn_decode_tasks(job, b);
        attn_decode_task(job, &seq, task / tasks, task % tasks, &job->scratch[worker]);
    } else {
        const int64_t tasks = attn_tile_tasks(job, b);
        attn_tile_task(job, &seq, task / tasks, task % tasks, &job->scratch[worker]);
    }
}

static void fresh_task(void *arg, int64_t task, int worker) {
    const attn_job *job = arg;
    const int64_t kv_head = task % job->kv_heads, piece = task / job->kv_heads, b = find_seq(job->fresh_pieces, job->n_seq, piece);
    const attn_seq seq = attn_get_seq(job, b);
    attn_fresh_task(job, &seq, kv_head, piece - job->fresh_pieces[b], &job->scratch[worker]);
}

static void merge_task(void *arg, int64_t task, int worker) {
    const attn_job *job = arg;
    const int64_t b = find_seq(job->merge_start, job->n_seq, task);
    const attn_seq seq = attn_get_seq(job, b);
    task -= job->merge_start[b];
    if (attn_decodes(job, b)) {
        attn_decode_merge(job, &seq, task, &job->scratch[worker]);
    } else {
        const int64_t tiles = attn_tile_merges(job, b);
        attn_tile_merge(job, &seq, task / tiles, task % tiles, &job->scratch[worker]);
    }
}

/* ---- the call -------------------------------------------------------------------------------------------------- */

static void carve(fa_arena *arena, attn_job *job) {
    const int workers = fa_team_max(&job->ctx, attn_max(job->fresh_tasks, attn_max(job->total_tasks, job->total_merges)));
    const size_t n = (size_t)job->n_seq + 1, lanes = (size_t)job->lanes, group = (size_t)job->group;
    const size_t d = (size_t)job->d, dv = (size_t)job->dv, decode_rows = (size_t)job->kernels->decode_rows;
    const size_t scales = job->k->dtype == FA_I8 || job->integers ? FA_KV_CHUNK : 0;
    const size_t q_rows = job->q->dtype != FA_F32 ? lanes : job->sign < 0 && !job->integers ? decode_rows : 0;
    const size_t eights = job->integers ? 1 : 0, stored = job->integers && !job->fresh ? 1 : 0, floats = job->integers ? 0 : 1;
    const size_t fresh = (size_t)job->fresh_keys * (size_t)job->kv_heads;
    const size_t chunk_o = dv * lanes, decode_o = decode_rows * (size_t)job->dvp;
    job->task_start = fa_arena_take(arena, n, sizeof(int64_t));
    job->merge_start = fa_arena_take(arena, n, sizeof(int64_t));
    job->state_start = fa_arena_take(arena, n, sizeof(int64_t));
    job->bias_rows = fa_arena_take(arena, job->params->bias ? (size_t)(job->q_heads * attn_bias_width(job)) : 0, sizeof(float));
    job->partials = fa_arena_take(arena, (size_t)job->partial_floats, sizeof(float));
    job->fresh_start = fa_arena_take(arena, job->fresh ? n : 0, sizeof(int64_t));
    job->fresh_pieces = fa_arena_take(arena, job->fresh ? n : 0, sizeof(int64_t));
    job->fresh_k = fa_arena_take(arena, fresh / 16, eights ? (size_t)attn_panel_bytes(job) : 1);
    job->fresh_v = fa_arena_take(arena, fresh / 4, eights ? (size_t)attn_group_bytes(job) : 1);
    job->fresh_numbers = fa_arena_take(arena, 3 * fresh, sizeof(float));
    job->scratch = fa_arena_take(arena, (size_t)workers, sizeof(attn_scratch));
    for (int w = 0; w < workers; w++) {
        attn_scratch place;
        place.qt = fa_arena_take(arena, group * (d + eights * FA_TILE8_EXTRA) * lanes, sizeof(float));
        place.m = fa_arena_take(arena, group * lanes, sizeof(float));
        place.l = fa_arena_take(arena, group * lanes, sizeof(float));
        place.o = fa_arena_take(arena, group * dv * lanes, sizeof(float));
        place.sink = fa_arena_take(arena, job->params->sinks ? group * lanes : 0, sizeof(float));
        place.chunk_o = fa_arena_take(arena, chunk_o > decode_o ? chunk_o : decode_o, sizeof(float));
        place.s = fa_arena_take(arena, FA_KEY_BLOCK * lanes, sizeof(float));
        place.q_copy = fa_arena_take(arena, q_rows * d, sizeof(float));
        place.out_copy = fa_arena_take(arena, job->out->dtype != FA_F32 ? lanes * dv : 0, sizeof(float));
        place.k_copy = fa_arena_take(arena, job->copy && floats ? FA_KV_CHUNK * (d + 16) : 0, sizeof(float));
        place.v_copy = fa_arena_take(arena, job->copy && floats ? FA_KV_CHUNK * (dv + 16) : 0, sizeof(float));
        place.k_scale = fa_arena_take(arena, scales, sizeof(float));
        place.v_scale = fa_arena_take(arena, scales, sizeof(float));
        place.k8 = fa_arena_take(arena, stored * (FA_KV_CHUNK / 16), eights ? (size_t)attn_panel_bytes(job) : 1);
        place.v8 = fa_arena_take(arena, stored * (FA_KV_CHUNK / 4), eights ? (size_t)attn_group_bytes(job) : 1);
        place.numbers = fa_arena_take(arena, stored * 3 * FA_KV_CHUNK, sizeof(float));
        place.q8 = fa_arena_take(arena, stored * FA_DECODE_MAX, (size_t)FA_ROUNDED_BYTES(job->d));
        place.rows = fa_arena_take(arena, group, sizeof(attn_rows));
        place.jump_bias = fa_arena_take(arena, lanes * (size_t)job->jump_width, sizeof(float));
        place.jump_rows = fa_arena_take(arena, job->jump_width ? lanes : 0, sizeof(float *));
        place.jump_from = fa_arena_take(arena, job->jump_width ? lanes : 0, sizeof(int64_t));
        place.tiles = fa_arena_take(arena, group, sizeof(fa_attn_tile));
        if (arena->base) job->scratch[w] = place;
    }
}

/* Rows this far apart fall into so few sets of an L1 cache of 64 sets of 64 bytes that those of one step push each other
 * out (q, k and v of a model 1024 wide side by side). */
static int rows_collide(const fa_view *view) { return view->stride[2] % 2048 == 0 && view->stride[2] != 0; }

static void choose_form(attn_job *job) {
    const fa_attention_params *p = job->params;
    fa_attn_form *form = &job->form;
    form->c = fabsf(p->scale) * 0x1.715476p+0f;
    form->scale = fabsf(p->scale);
    form->softcap = p->softcap;
    form->inv_cap = p->softcap > 0.0f ? 1.0f / p->softcap : 0.0f;
    job->sign = p->scale < 0.0f ? -1.0f : 1.0f;
    form->formed = p->softcap > 0.0f || p->bias || p->alibi || (p->mask && p->mask->dtype == FA_F32) || !isnormal(form->c);
    if (form->formed) {
        form->scale = p->scale;
        form->c = 0x1.715476p+0f;
        job->sign = 1.0f;
    } else if (job->integers) { /* scores come in units of log2 */
        job->sign = p->scale * 0x1.715476p+0f;
        form->scale = 0x1.62e43p-1f;
        form->c = 1.0f;
    }
}

/* Shapes decide the group: enough work for a task, and for long keys a few tiles that share a chunk. */
static void choose_tasks(attn_job *job) {
    int64_t max_keys = 0, max_rows = 0, tile_tasks = 0, split_floats = 0;
    for (int64_t b = 0; b < job->n_seq; b++) {
        max_keys = attn_max(max_keys, attn_keys(job, b));
        max_rows = attn_max(max_rows, attn_queries(job, b) * job->group_heads);
    }
    const int64_t tile_work = job->lanes * attn_min(1 << 30, attn_max(1, max_keys)) * (job->d + job->dv);
    job->group = (int)attn_min(ATTN_MAX_GROUP, attn_max(1, attn_ceil(GROUP_WORK, tile_work)));
    if (max_keys > LONG_KEYS) job->group = job->group > 4 ? job->group : 4;
    job->full_chunk = 4 * attn_min(FA_KV_CHUNK, max_keys) * (job->d + job->dv) > FULL_CHUNK;
    const int64_t tiles = attn_ceil(max_rows, job->lanes); /* of one sequence */
    if (job->fresh) job->copy = 0;
    else if (!attn_in_order(job)) job->copy = 2;
    else if ((rows_collide(job->k) || rows_collide(job->v)) && tiles >= COPY_FROM) job->copy = 1;
    if (job->copy) job->group = tiles >= 12 ? ATTN_MAX_GROUP : (int)attn_max(job->group, 4);
    for (int64_t b = 0; b < job->n_seq; b++) {
        if (attn_decodes(job, b)) continue;
        tile_tasks += job->kv_heads * attn_tile_tasks(job, b);
        job->split = 1;
        split_floats += job->kv_heads * attn_tile_floats(job, b);
        job->split = 0;
        if (tile_tasks >= FEW_TASKS || split_floats > SPLIT_FLOATS) return;
    }
    job->split = split_floats > 0;
}

/* Tasks, merges and floats of the states of sequence b, all KV heads. */
static void tasks_of(const attn_job *job, int64_t b, int64_t *tasks, int64_t *merges, int64_t *floats) {
    const int decodes = attn_decodes(job, b);
    *tasks = *merges = *floats = 0;
    if (attn_queries(job, b) * job->group_heads == 0) return;
    *tasks = job->kv_heads * (decodes ? attn_decode_tasks(job, b) : attn_tile_tasks(job, b));
    *merges = job->kv_heads * (decodes ? attn_decode_merges(job, b) : attn_tile_merges(job, b));
    *floats = job->kv_heads * (decodes ? attn_decode_floats(job, b) : attn_tile_floats(job, b));
}

/* Out of line: its arithmetic must stay between the switches of the floating-point environment. */
static __attribute__((noinline)) fa_status prepare(attn_job *job, const fa_ctx *ctx, const fa_view *out, const fa_view *lse,
                                                   const fa_view *weights, const fa_view *q, const fa_view *k, const fa_view *v,
                                                   const fa_attention_params *p) {
    const fa_status status = attn_check(out, lse, weights, q, k, v, p);
    if (status) return status;
    *job = (attn_job){.ctx = *ctx, .kernels = &ctx->kernels->attention, .convert = &ctx->kernels->convert, .out = out, .lse = lse,
                      .weights = weights, .q = q, .k = k, .v = v, .params = p, .n_seq = p->cu_q ? p->n_seq : q->shape[0],
                      .q_heads = q->shape[1], .kv_heads = k->shape[1], .group_heads = q->shape[1] / k->shape[1], .d = q->shape[3],
                      .dv = v->shape[3]};
    job->dvp = attn_ceil(job->dv, 16) * 16;
    if (p->integers) {
        job->integers = &ctx->kernels->attention_int8;
        job->kernels = &job->integers->attend;
        job->fresh = k->dtype != FA_I8;
    }
    job->lanes = 16 * job->kernels->tile_nv;
    if (p->bias) job->bias_reach = p->bias->shape[1] / 2;
    choose_form(job);
    if (!isfinite(job->form.inv_cap)) return FA_ERR_VALUE;
    choose_tasks(job);
    double bytes = 0, row_bytes = 0, work = 0;
    for (int64_t b = 0; b < job->n_seq; b++) {
        int64_t tasks, merges, floats;
        if (p->bias && attn_jumps(job, b))
            job->jump_width = attn_max(job->jump_width, attn_ceil(attn_min(FA_KV_CHUNK, attn_keys(job, b)), FA_KEY_BLOCK) * FA_KEY_BLOCK);
        const double rows = (double)(attn_queries(job, b) * job->group_heads);
        const double seen = (double)attn_min(attn_keys(job, b), attn_span_count(attn_seq_span(job, b)) * FA_KV_CHUNK);
        const double elements = seen * (double)job->kv_heads * (double)(job->d + job->dv);
        tasks_of(job, b, &tasks, &merges, &floats);
        if (job->fresh && tasks) {
            job->fresh_keys += attn_ceil(attn_keys(job, b), 16) * 16;
            job->fresh_tasks += attn_fresh_pieces(job, b) * job->kv_heads;
        }
        job->total_tasks += tasks;
        job->total_merges += merges;
        job->partial_floats += floats;
        work += rows * elements;
        row_bytes += rows * (double)job->kv_heads * (double)(job->d + job->dv) * (double)fa_itemsize(q->dtype);
        if (rows > 0) bytes += elements * (double)fa_itemsize(k->dtype);
    }
    job->far = bytes > FAR_BYTES;
    job->far_rows = row_bytes + bytes > FAR_BYTES;
    job->ctx = fa_ctx_for_work(ctx, work < 0x1p60 ? (int64_t)work : (int64_t)1 << 60);
    return FA_OK;
}

static fa_status prepare_in_default_environment(attn_job *job, const fa_ctx *ctx, const fa_view *out, const fa_view *lse,
                                                const fa_view *weights, const fa_view *q, const fa_view *k, const fa_view *v,
                                                const fa_attention_params *params) {
    fa_fpenv saved;
    fa_fpenv_enter(&saved);
    fa_status status = prepare(job, ctx, out, lse, weights, q, k, v, params);
    fa_fpenv_leave(&saved);
    return status;
}

static void fill_starts(attn_job *job) {
    int64_t at[3] = {0}, keys = 0, pieces = 0;
    for (int64_t b = 0; b <= job->n_seq; b++) {
        int64_t tasks, merges, floats;
        job->task_start[b] = at[0];
        job->merge_start[b] = at[1];
        job->state_start[b] = at[2];
        if (job->fresh) job->fresh_start[b] = keys, job->fresh_pieces[b] = pieces;
        if (b == job->n_seq) return;
        tasks_of(job, b, &tasks, &merges, &floats);
        if (job->fresh && tasks) keys += attn_ceil(attn_keys(job, b), 16) * 16, pieces += attn_fresh_pieces(job, b);
        at[0] += tasks;
        at[1] += merges;
        at[2] += floats;
    }
}

fa_status fa_attention_workspace(const fa_ctx *ctx, const fa_view *out, const fa_view *lse, const fa_view *weights,
                                 const fa_view *q, const fa_view *k, const fa_view *v, const fa_attention_params *params,
                                 size_t *bytes) {
    attn_job job;
    fa_arena arena = {0};
    fa_status status = prepare_in_default_environment(&job, ctx, out, lse, weights, q, k, v, params);
    *bytes = 0;
    if (status || job.total_tasks == 0) return status;
    carve(&arena, &job);
    if (arena.overflow) return FA_ERR_MEMORY;
    *bytes = arena.used;
    return FA_OK;
}

fa_status fa_attention(const fa_ctx *ctx, const fa_view *out, const fa_view *lse, const fa_view *weights, const fa_view *q,
                       const fa_view *k, const fa_view *v, const fa_attention_params *params, void *ws, size_t ws_bytes) {
    attn_job job;
    fa_arena arena = {0};
    fa_status status = prepare_in_default_environment(&job, ctx, out, lse, weights, q, k, v, params);
    if (status) return status;
    if (job.total_tasks == 0) return FA_OK;
    carve(&arena, &job);
    if (arena.overflow) return FA_ERR_MEMORY;
    if (!ws || ws_bytes < arena.used || (uintptr_t)ws % FA_ALIGN) return FA_ERR_WORKSPACE;
    arena = (fa_arena){.base = ws};
    carve(&arena, &job);
    fill_starts(&job);
    attn_fill_bias(&job);
    status = fa_parallel_for(&job.ctx, job.fresh_tasks, fresh_task, &job);
    if (status == FA_OK) status = fa_parallel_for(&job.ctx, job.total_tasks, attend_task, &job);
    if (status == FA_OK) status = fa_parallel_for(&job.ctx, job.total_merges, merge_task, &job);
    return status;
}
