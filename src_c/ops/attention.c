/* SPDX-License-Identifier: MIT */
/*
 * Attention: cuts a call into tasks and hands rows and keys to the kernels.
 *
 * Rows that share keys, the G query heads of one KV head at all positions, form one list: row r is position r / G of
 * head r % G, so that neighbours have neighbouring positions and causal blocks are skipped together. A sequence with few
 * rows goes to the decode kernel, one task per KV chunk and KV head, partial states merged in chunk order by a second
 * round of tasks; any other goes to the tile kernel, one task per group of tiles.
 *
 * Tasks depend on shapes and lengths alone. Chunks are walked outside, tiles of the group inside, so that a chunk of K
 * and V (up to FA_KV_CHUNK keys) serves the group from L2.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "../arena.h"
#include "../fastattn.h"
#include "../kernels/kernels.h"
#include "../view.h"
#include "parallel.h"

#define MAX_GROUP 16              /* most tiles of a task */
#define GROUP_WORK (1 << 20)      /* multiply-adds a task should have at least, if its sequence has them */
#define LONG_KEYS (2 * FA_KV_CHUNK)
#define FAR_BYTES (2 << 20)
#define COUNT_MAX ((int64_t)1 << 46) /* of rows and of keys: no product of sizes below can leave 64 bits */
#define POSITION_MAX ((int64_t)1 << 46)

typedef struct attn_scratch { /* of one worker */
    float *qt, *m, *l, *o;    /* [group] tiles */
    float *chunk_o, *s;
    float *k_copy, *v_copy;   /* rows of a chunk, moved apart; NULL if K and V may be read in place */
    float *q_copy;            /* [decode rows][d] with the sign folded in */
} attn_scratch;

typedef struct attn_job {
    fa_ctx ctx;
    const fa_attn_kernels *kernels;
    const fa_view *out, *lse, *weights, *q, *k, *v;
    const fa_attention_params *params;
    fa_attn_form form;
    float sign;
    int64_t n_seq, q_heads, kv_heads, group_heads, d, dv, dvp;
    int lanes;             /* rows of a full tile */
    int group;             /* tiles of a task */
    int copy;
    int far;               /* K and V of the call do not fit into caches close to a core */
    int64_t total_tasks, total_merges, partial_floats;
    int64_t *task_start;   /* [n_seq + 1] */
    int64_t *merge_start;  /* [n_seq + 1] tasks of the second round */
    int64_t *state_start;  /* [n_seq + 1] offset of a sequence's partial states */
    float *partials;
    attn_scratch *scratch; /* [workers] */
} attn_job;

typedef struct attn_seq {
    int64_t index, rows, keys, offset;
    const float *q, *k, *v;
    float *out;
    int64_t q_row0; /* first row of the sequence in q, out, lse and weights */
} attn_seq;

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static int64_t seq_queries(const attn_job *job, int64_t b) {
    return job->params->cu_q ? job->params->cu_q[b + 1] - job->params->cu_q[b] : job->q->shape[2];
}

static int64_t seq_keys(const attn_job *job, int64_t b) {
    if (job->params->cu_k) return job->params->cu_k[b + 1] - job->params->cu_k[b];
    return job->params->kv_lengths ? job->params->kv_lengths[b] : job->k->shape[2];
}

static int seq_decodes(const attn_job *job, int64_t b) {
    int64_t rows = seq_queries(job, b) * job->group_heads;
    if (job->weights || job->ctx.force == FA_FORCE_TILE || rows > job->kernels->decode_rows) return 0;
    return 1;
}

static int64_t seq_chunks(const attn_job *job, int64_t b) { return max64(1, ceil_div(seq_keys(job, b), FA_KV_CHUNK)); }
static int64_t seq_tiles(const attn_job *job, int64_t b) { return ceil_div(seq_queries(job, b) * job->group_heads, job->lanes); }

/* One partial state: m at 0, l at 16, whether it holds anything at 31, o from 32. */
#define STATE_L 16
#define STATE_FLAG 31
#define STATE_O 32
_Static_assert(FA_DECODE_MAX < STATE_FLAG - STATE_L, "l and the flag share 16 floats");
static int64_t state_floats(const attn_job *job, int64_t rows) { return STATE_O + rows * job->dvp; }

static attn_seq get_seq(const attn_job *job, int64_t b) {
    const fa_attention_params *p = job->params;
    attn_seq seq = {.index = b, .rows = seq_queries(job, b) * job->group_heads, .keys = seq_keys(job, b)};
    int64_t batch = p->cu_q ? 0 : b;
    seq.q_row0 = p->cu_q ? p->cu_q[b] : 0;
    seq.offset = p->q_offset ? p->q_offset[b] : 0;
    int64_t k_row0 = p->cu_k ? p->cu_k[b] : 0;
    seq.q = (const float *)((const char *)job->q->data + batch * job->q->stride[0] + seq.q_row0 * job->q->stride[2]);
    seq.out = (float *)((char *)job->out->data + batch * job->out->stride[0] + seq.q_row0 * job->out->stride[2]);
    seq.k = (const float *)((const char *)job->k->data + batch * job->k->stride[0] + k_row0 * job->k->stride[2]);
    seq.v = (const float *)((const char *)job->v->data + batch * job->v->stride[0] + k_row0 * job->v->stride[2]);
    return seq;
}

/* Everything a kernel wants to know about rows r0..r0+n of a sequence's KV head. */
typedef struct attn_rows {
    const float *q[FA_TILE_MAX];
    float *out[FA_TILE_MAX], *lse[FA_TILE_MAX], *weights[FA_TILE_MAX];
    const uint8_t *mask_bool[FA_TILE_MAX];
    const float *mask_f32[FA_TILE_MAX];
    int64_t lo[FA_TILE_MAX], hi[FA_TILE_MAX];
    int64_t first, last; /* union of the rows' keys, empty if first > last */
} attn_rows;

static void get_rows(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t r0, int n, attn_rows *rows) {
    const fa_attention_params *p = job->params;
    const fa_view *mask = p->mask;
    int64_t batch = p->cu_q ? 0 : seq->index;
    rows->first = INT64_MAX;
    rows->last = -1;
    for (int i = 0; i < n; i++) {
        int64_t at = (r0 + i) / job->group_heads;
        int64_t head = kv_head * job->group_heads + (r0 + i) % job->group_heads;
        rows->q[i] = (const float *)((const char *)seq->q + head * job->q->stride[1] + at * job->q->stride[2]);
        rows->out[i] = (float *)((char *)seq->out + head * job->out->stride[1] + at * job->out->stride[2]);
        if (job->lse)
            rows->lse[i] = (float *)((char *)job->lse->data + batch * job->lse->stride[0] + head * job->lse->stride[1] +
                                     (seq->q_row0 + at) * job->lse->stride[2]);
        if (job->weights)
            rows->weights[i] = (float *)((char *)job->weights->data + batch * job->weights->stride[0] +
                                         head * job->weights->stride[1] + (seq->q_row0 + at) * job->weights->stride[2]);
        if (mask) {
            const char *row = (const char *)mask->data + batch * mask->stride[0] + head * mask->stride[1] + at * mask->stride[2];
            rows->mask_bool[i] = (const uint8_t *)row;
            rows->mask_f32[i] = (const float *)row;
        }
        int64_t position = seq->offset + at;
        int64_t lo = 0, hi = seq->keys - 1;
        if (p->causal) hi = min64(hi, position);
        if (p->window_right >= 0) hi = min64(hi, position + p->window_right);
        if (p->window_left >= 0) lo = max64(lo, position - p->window_left);
        rows->lo[i] = lo;
        rows->hi[i] = hi;
        if (lo <= hi) {
            rows->first = min64(rows->first, lo);
            rows->last = max64(rows->last, hi);
        }
    }
}

/* The part of a chunk description that does not depend on the chunk. */
static fa_attn_chunk get_chunk(const attn_job *job, const attn_rows *rows) {
    const fa_view *mask = job->params->mask;
    fa_attn_chunk chunk = {.d = job->d, .dv = job->dv, .form = job->form, .lo = rows->lo, .hi = rows->hi,
                           .far = job->far};
    chunk.ks = fa_estride(job->k, 2);
    chunk.vs = fa_estride(job->v, 2);
    if (mask) {
        chunk.mask_step = mask->stride[3] == 0 ? 0 : 1;
        if (mask->dtype == FA_BOOL) chunk.mask_bool = rows->mask_bool;
        else chunk.mask_f32 = rows->mask_f32;
    }
    return chunk;
}

static void place_chunk(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t index, fa_attn_chunk *chunk) {
    chunk->j0 = index * FA_KV_CHUNK;
    chunk->n = min64(FA_KV_CHUNK, seq->keys - chunk->j0);
    chunk->k = (const float *)((const char *)seq->k + kv_head * job->k->stride[1] + chunk->j0 * job->k->stride[2]);
    chunk->v = (const float *)((const char *)seq->v + kv_head * job->v->stride[1] + chunk->j0 * job->v->stride[2]);
}

static void copy_rows(float *to, int64_t to_stride, const float *from, int64_t from_stride, int64_t n, int64_t width) {
    for (int64_t j = 0; j < n; j++) memcpy(to + j * to_stride, from + j * from_stride, (size_t)width * sizeof *to);
}

/* ---- tiles ----------------------------------------------------------------------------------------------------- */

static void run_tiles(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t r0, int64_t r1, attn_scratch *scratch,
                      int safe) {
    const fa_attn_kernels *kernels = job->kernels;
    fa_attn_tile tiles[MAX_GROUP];
    attn_rows rows[MAX_GROUP];
    int n_tiles = 0;
    int64_t first = INT64_MAX, last = -1;
    for (int64_t r = r0; r < r1; n_tiles++) {
        fa_attn_tile *tile = &tiles[n_tiles];
        int n = (int)min64(job->lanes, r1 - r);
        tile->nv = n > 16 ? 2 : 1;
        tile->rows = n;
        tile->started = 0;
        float *qt = scratch->qt + (int64_t)n_tiles * job->d * job->lanes;
        tile->qt = qt;
        tile->m = scratch->m + n_tiles * job->lanes;
        tile->l = scratch->l + n_tiles * job->lanes;
        tile->o = scratch->o + (int64_t)n_tiles * job->dv * job->lanes;
        tile->chunk_o = scratch->chunk_o;
        tile->s = scratch->s;
        get_rows(job, seq, kv_head, r, n, &rows[n_tiles]);
        kernels->tile_pack(qt, rows[n_tiles].q, n, tile->nv, job->d, job->sign);
        first = min64(first, rows[n_tiles].first);
        last = max64(last, rows[n_tiles].last);
        r += n;
    }
    for (int64_t c = first / FA_KV_CHUNK; c * FA_KV_CHUNK <= last; c++) {
        fa_attn_chunk chunk = get_chunk(job, &rows[0]);
        place_chunk(job, seq, kv_head, c, &chunk);
        chunk.safe = safe;
        if (job->copy && n_tiles > 1) {
            copy_rows(scratch->k_copy, job->d + 16, chunk.k, chunk.ks, chunk.n, job->d);
            copy_rows(scratch->v_copy, job->dv + 16, chunk.v, chunk.vs, chunk.n, job->dv);
            chunk.k = scratch->k_copy;
            chunk.v = scratch->v_copy;
            chunk.ks = job->d + 16;
            chunk.vs = job->dv + 16;
        }
        for (int t = 0; t < n_tiles; t++) {
            if (rows[t].last < chunk.j0 || rows[t].first >= chunk.j0 + chunk.n) continue;
            chunk.lo = rows[t].lo;
            chunk.hi = rows[t].hi;
            if (chunk.mask_bool) chunk.mask_bool = rows[t].mask_bool;
            if (chunk.mask_f32) chunk.mask_f32 = rows[t].mask_f32;
            kernels->tile(&tiles[t], &chunk);
        }
    }
    int redo = 0;
    for (int t = 0; t < n_tiles; t++) {
        fa_attn_tile *tile = &tiles[t];
        int L = 16 * tile->nv;
        if (!tile->started) {
            memset(tile->o, 0, (size_t)(job->dv * L) * sizeof(float));
            for (int i = 0; i < L; i++) tile->m[i] = -INFINITY, tile->l[i] = 0.0f;
        }
        redo |= kernels->tile_finish(tile, job->dv, &job->form, rows[t].out, job->lse ? rows[t].lse : NULL);
        if (!job->weights) continue;
        for (int i = 0; i < tile->rows; i++) memset(rows[t].weights[i], 0, (size_t)job->weights->shape[3] * sizeof(float));
        if (rows[t].last < 0) continue;
        fa_attn_chunk chunk = get_chunk(job, &rows[t]);
        for (int64_t c = rows[t].first / FA_KV_CHUNK; c * FA_KV_CHUNK <= rows[t].last; c++) {
            place_chunk(job, seq, kv_head, c, &chunk);
            kernels->tile_weights(tile, &chunk, rows[t].weights);
        }
    }
    /* A NaN may come from attended data, which the repeat keeps, or from 0 x NaN behind an excluded key, which it drops. */
    if (redo && !safe) run_tiles(job, seq, kv_head, r0, r1, scratch, 1);
}

/* ---- decode ---------------------------------------------------------------------------------------------------- */

static void point_state(float *state, int rows, fa_attn_decode *decode) {
    decode->rows = rows;
    decode->m = state;
    decode->l = state + STATE_L;
    decode->o = state + STATE_O;
}

static float *partial_of(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t chunk) {
    int64_t chunks = seq_chunks(job, seq->index);
    return job->partials + job->state_start[seq->index] + (kv_head * chunks + chunk) * state_floats(job, seq->rows);
}

static void fold_sign(const attn_job *job, attn_rows *rows, int n, attn_scratch *scratch) {
    if (job->sign > 0) return;
    for (int i = 0; i < n; i++) {
        float *copy = scratch->q_copy + i * job->d;
        for (int64_t d = 0; d < job->d; d++) copy[d] = -rows->q[i][d];
        rows->q[i] = copy;
    }
}

static void finish_decode(const attn_job *job, fa_attn_decode *decode, attn_rows *rows, const attn_seq *seq, int64_t kv_head,
                          attn_scratch *scratch) {
    const fa_attn_kernels *kernels = job->kernels;
    float *const *lse = job->lse ? rows->lse : NULL;
    if (!decode->started) {
        memset(decode->o, 0, (size_t)(decode->rows * job->dvp) * sizeof(float));
        for (int i = 0; i < decode->rows; i++) decode->m[i] = -INFINITY, decode->l[i] = 0.0f;
    }
    if (!kernels->decode_finish(decode, job->dv, &job->form, rows->out, lse)) return;
    fa_attn_chunk chunk = get_chunk(job, rows);
    chunk.safe = 1;
    decode->started = 0;
    decode->q = rows->q;
    decode->chunk_o = scratch->chunk_o;
    fold_sign(job, rows, decode->rows, scratch);
    for (int64_t c = rows->first / FA_KV_CHUNK; c * FA_KV_CHUNK <= rows->last; c++) {
        place_chunk(job, seq, kv_head, c, &chunk);
        kernels->decode(decode, &chunk);
    }
    kernels->decode_finish(decode, job->dv, &job->form, rows->out, lse);
}

static void run_decode(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t chunk_index, attn_scratch *scratch) {
    attn_rows rows;
    fa_attn_decode decode = {.q = rows.q, .chunk_o = scratch->chunk_o};
    int n = (int)seq->rows;
    float *partial = partial_of(job, seq, kv_head, chunk_index);
    get_rows(job, seq, kv_head, 0, n, &rows);
    point_state(partial, n, &decode);
    fold_sign(job, &rows, n, scratch);
    fa_attn_chunk chunk = get_chunk(job, &rows);
    place_chunk(job, seq, kv_head, chunk_index, &chunk);
    if (chunk.n > 0 && rows.first < chunk.j0 + chunk.n && rows.last >= chunk.j0) job->kernels->decode(&decode, &chunk);
    if (seq_chunks(job, seq->index) == 1) {
        get_rows(job, seq, kv_head, 0, n, &rows);
        finish_decode(job, &decode, &rows, seq, kv_head, scratch);
        return;
    }
    partial[STATE_FLAG] = decode.started ? 1.0f : 0.0f;
}

static void merge_decode(const attn_job *job, const attn_seq *seq, int64_t kv_head, attn_scratch *scratch) {
    attn_rows rows;
    fa_attn_decode total = {0}, part = {0};
    int n = (int)seq->rows;
    get_rows(job, seq, kv_head, 0, n, &rows);
    point_state(partial_of(job, seq, kv_head, 0), n, &total);
    total.started = total.m[STATE_FLAG] > 0.0f;
    for (int64_t c = 1; c < seq_chunks(job, seq->index); c++) {
        point_state(partial_of(job, seq, kv_head, c), n, &part);
        part.started = part.m[STATE_FLAG] > 0.0f;
        job->kernels->decode_merge(&total, &part, job->form.c, job->dv);
    }
    finish_decode(job, &total, &rows, seq, kv_head, scratch);
}

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
    int64_t b = find_seq(job->task_start, job->n_seq, task);
    attn_seq seq = get_seq(job, b);
    task -= job->task_start[b];
    if (seq_decodes(job, b)) {
        int64_t chunks = seq_chunks(job, b);
        run_decode(job, &seq, task / chunks, task % chunks, &job->scratch[worker]);
        return;
    }
    int64_t groups = ceil_div(seq_tiles(job, b), job->group);
    int64_t kv_head = task / groups, group = task % groups;
    if (job->params->causal) group = groups - 1 - group; /* long ones first */
    int64_t r0 = group * job->group * job->lanes;
    run_tiles(job, &seq, kv_head, r0, min64(seq.rows, r0 + (int64_t)job->group * job->lanes), &job->scratch[worker], 0);
}

static void merge_task(void *arg, int64_t task, int worker) {
    const attn_job *job = arg;
    int64_t b = find_seq(job->merge_start, job->n_seq, task);
    attn_seq seq = get_seq(job, b);
    merge_decode(job, &seq, task - job->merge_start[b], &job->scratch[worker]);
}

/* ---- the call -------------------------------------------------------------------------------------------------- */

static void carve(fa_arena *arena, attn_job *job) {
    int workers = fa_team_max(&job->ctx, max64(job->total_tasks, job->total_merges));
    size_t n = (size_t)job->n_seq + 1, lanes = (size_t)job->lanes, group = (size_t)job->group;
    size_t d = (size_t)job->d, dv = (size_t)job->dv, decode_rows = (size_t)job->kernels->decode_rows;
    job->task_start = fa_arena_take(arena, n, sizeof(int64_t));
    job->merge_start = fa_arena_take(arena, n, sizeof(int64_t));
    job->state_start = fa_arena_take(arena, n, sizeof(int64_t));
    job->partials = fa_arena_take(arena, (size_t)job->partial_floats, sizeof(float));
    job->scratch = fa_arena_take(arena, (size_t)workers, sizeof(attn_scratch));
    for (int w = 0; w < workers; w++) {
        attn_scratch place;
        place.qt = fa_arena_take(arena, group * d * lanes, sizeof(float));
        place.m = fa_arena_take(arena, group * lanes, sizeof(float));
        place.l = fa_arena_take(arena, group * lanes, sizeof(float));
        place.o = fa_arena_take(arena, group * dv * lanes, sizeof(float));
        size_t chunk_o = dv * lanes, decode_o = decode_rows * (size_t)job->dvp;
        place.chunk_o = fa_arena_take(arena, chunk_o > decode_o ? chunk_o : decode_o, sizeof(float));
        place.s = fa_arena_take(arena, FA_KEY_BLOCK * lanes, sizeof(float));
        place.q_copy = fa_arena_take(arena, job->sign < 0 ? decode_rows * d : 0, sizeof(float));
        place.k_copy = fa_arena_take(arena, job->copy ? FA_KV_CHUNK * (d + 16) : 0, sizeof(float));
        place.v_copy = fa_arena_take(arena, job->copy ? FA_KV_CHUNK * (dv + 16) : 0, sizeof(float));
        if (arena->base) job->scratch[w] = place;
    }
}

/* Rows this far apart fall into few sets of an L1 cache of 64 sets of 64 bytes. */
static int rows_collide(const fa_view *view) { return view->stride[2] % 2048 == 0 && view->stride[2] != 0; }

/* Rows of all heads and sequences, and one more for each; in floating point, which cannot overflow. */
static double count_of(const fa_view *view, const fa_attention_params *p) {
    double batch = p->cu_q ? 1.0 : (double)view->shape[0], rows = (double)view->shape[2] + 1;
    return batch * ((double)view->shape[1] + 1) * (p->cu_q ? rows + (double)p->n_seq : rows);
}

static fa_status check_lse(const fa_view *lse) { /* any strides, the last one too */
    if (lse->dtype != FA_F32) return FA_ERR_DTYPE;
    if (lse->ndim != 3) return FA_ERR_SHAPE;
    return (uintptr_t)lse->data % 4 || lse->stride[0] % 4 || lse->stride[1] % 4 || lse->stride[2] % 4 ? FA_ERR_STRIDE : FA_OK;
}

/* Out of line: its arithmetic must stay between the switches of the floating-point environment. */
static __attribute__((noinline)) fa_status prepare(attn_job *job, const fa_ctx *ctx, const fa_view *out, const fa_view *lse, const fa_view *weights,
                         const fa_view *q, const fa_view *k, const fa_view *v, const fa_attention_params *p) {
    fa_status status;
    if ((status = fa_check_f32(q, 4)) || (status = fa_check_f32(k, 4)) || (status = fa_check_f32(v, 4)) ||
        (status = fa_check_f32(out, 4)) || (lse && (status = check_lse(lse))) ||
        (weights && (status = fa_check_f32(weights, 4))))
        return status;
    int64_t hq = q->shape[1], hkv = k->shape[1];
    if (k->shape[0] != q->shape[0] || v->shape[0] != q->shape[0] || out->shape[0] != q->shape[0]) return FA_ERR_SHAPE;
    if (v->shape[1] != hkv || v->shape[2] != k->shape[2] || k->shape[3] != q->shape[3]) return FA_ERR_SHAPE;
    if (out->shape[1] != hq || out->shape[2] != q->shape[2] || out->shape[3] != v->shape[3]) return FA_ERR_SHAPE;
    if (hkv < 1 || hq % hkv != 0) return FA_ERR_SHAPE;
    if (q->shape[3] < 1 || q->shape[3] > FA_MAX_HEAD_DIM || v->shape[3] < 1 || v->shape[3] > FA_MAX_HEAD_DIM) return FA_ERR_SHAPE;
    if (lse && (lse->shape[0] != q->shape[0] || lse->shape[1] != hq || lse->shape[2] != q->shape[2])) return FA_ERR_SHAPE;
    if (!p->cu_q != !p->cu_k || (p->cu_q && (q->shape[0] != 1 || p->n_seq < 0 || p->mask || p->kv_lengths)))
        return FA_ERR_VALUE;

    if (count_of(q, p) > (double)COUNT_MAX || count_of(k, p) > (double)COUNT_MAX) return FA_ERR_MEMORY;

    *job = (attn_job){.ctx = *ctx, .kernels = &ctx->kernels->attention, .out = out, .lse = lse, .weights = weights, .q = q,
                      .k = k, .v = v, .params = p, .n_seq = p->cu_q ? p->n_seq : q->shape[0], .q_heads = hq, .kv_heads = hkv,
                      .group_heads = hq / hkv, .d = q->shape[3], .dv = v->shape[3]};
    job->dvp = (job->dv + 15) / 16 * 16;
    job->lanes = 16 * job->kernels->tile_nv;

    if (p->mask) {
        const fa_view *mask = p->mask;
        int64_t item = fa_itemsize(mask->dtype);
        if (mask->dtype != FA_BOOL && mask->dtype != FA_F32) return FA_ERR_DTYPE;
        if (mask->ndim != 4 || mask->shape[0] != q->shape[0] || mask->shape[1] != hq || mask->shape[2] != q->shape[2] ||
            mask->shape[3] != k->shape[2])
            return FA_ERR_SHAPE;
        if (mask->stride[3] != item && mask->stride[3] != 0) return FA_ERR_STRIDE;
        for (int i = 0; i < 3; i++)
            if (mask->stride[i] % item != 0) return FA_ERR_STRIDE;
    }
    int64_t max_keys = 0;
    for (int64_t b = 0; b < job->n_seq; b++) {
        if (p->cu_q && (p->cu_q[b] < 0 || p->cu_q[b + 1] < p->cu_q[b] || p->cu_q[b + 1] > q->shape[2] || p->cu_k[b] < 0 ||
                        p->cu_k[b + 1] < p->cu_k[b] || p->cu_k[b + 1] > k->shape[2]))
            return FA_ERR_VALUE;
        if (p->kv_lengths && (p->kv_lengths[b] < 0 || p->kv_lengths[b] > k->shape[2])) return FA_ERR_VALUE;
        if (p->q_offset && (p->q_offset[b] < -POSITION_MAX || p->q_offset[b] > POSITION_MAX)) return FA_ERR_VALUE;
        max_keys = max64(max_keys, seq_keys(job, b));
    }
    if (p->window_left < -1 || p->window_left > POSITION_MAX || p->window_right < -1 || p->window_right > POSITION_MAX)
        return FA_ERR_VALUE;
    if (weights && (weights->shape[0] != q->shape[0] || weights->shape[1] != hq || weights->shape[2] != q->shape[2] ||
                    weights->shape[3] < max_keys))
        return FA_ERR_SHAPE;

    if (!isfinite(p->scale) || !isfinite(p->softcap) || p->softcap < 0.0f) return FA_ERR_VALUE;
    fa_attn_form *form = &job->form;
    form->c = fabsf(p->scale) * 0x1.715476p+0f;
    form->scale = fabsf(p->scale);
    form->softcap = p->softcap;
    form->inv_cap = p->softcap > 0.0f ? 1.0f / p->softcap : 0.0f;
    if (!isfinite(form->inv_cap)) return FA_ERR_VALUE;
    job->sign = p->scale < 0.0f ? -1.0f : 1.0f;
    form->formed = p->softcap > 0.0f || (p->mask && p->mask->dtype == FA_F32) || !isnormal(form->c);
    if (form->formed) {
        form->scale = p->scale;
        form->c = 0x1.715476p+0f;
        job->sign = 1.0f;
    }

    /* Shapes decide the group: enough work for a task, and for long keys a few tiles that share a chunk. */
    int64_t tile_work = job->lanes * min64(1 << 30, max64(1, max_keys)) * (job->d + job->dv);
    job->group = (int)min64(MAX_GROUP, max64(1, ceil_div(GROUP_WORK, tile_work)));
    if (max_keys > LONG_KEYS) job->group = job->group > 4 ? job->group : 4;
    job->copy = (rows_collide(k) || rows_collide(v)) && q->shape[2] * job->group_heads >= 12 * job->lanes;
    if (job->copy) job->group = MAX_GROUP;

    double bytes = 0, work = 0;
    for (int64_t b = 0; b < job->n_seq; b++) {
        int64_t rows = seq_queries(job, b) * job->group_heads, chunks = seq_chunks(job, b);
        if (rows == 0) continue;
        const double read = (double)seq_keys(job, b) * (double)hkv * (double)(job->d + job->dv);
        work += (double)rows * read;
        bytes += 4 * read;
        if (!seq_decodes(job, b)) {
            job->total_tasks += hkv * ceil_div(seq_tiles(job, b), job->group);
            continue;
        }
        job->total_tasks += hkv * chunks;
        job->partial_floats += hkv * chunks * state_floats(job, rows);
        if (chunks > 1) job->total_merges += hkv;
    }
    job->far = bytes > FAR_BYTES;
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
    int64_t tasks = 0, merges = 0, floats = 0;
    for (int64_t b = 0; b < job->n_seq; b++) {
        int64_t rows = seq_queries(job, b) * job->group_heads, chunks = seq_chunks(job, b);
        job->task_start[b] = tasks;
        job->merge_start[b] = merges;
        job->state_start[b] = floats;
        if (rows == 0) continue;
        if (!seq_decodes(job, b)) {
            tasks += job->kv_heads * ceil_div(seq_tiles(job, b), job->group);
            continue;
        }
        tasks += job->kv_heads * chunks;
        floats += job->kv_heads * chunks * state_floats(job, rows);
        if (chunks > 1) merges += job->kv_heads;
    }
    job->task_start[job->n_seq] = tasks;
    job->merge_start[job->n_seq] = merges;
    job->state_start[job->n_seq] = floats;
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
    fa_parallel_for(&job.ctx, job.total_tasks, attend_task, &job);
    if (job.total_merges) fa_parallel_for(&job.ctx, job.total_merges, merge_task, &job);
    return FA_OK;
}
