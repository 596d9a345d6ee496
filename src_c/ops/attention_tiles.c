/* SPDX-License-Identifier: MIT */
/*
 * Many rows: groups of tiles. Chunks are walked outside, tiles of the group inside, so that a chunk of K and V serves the
 * group from L2. A call of few groups is cut along the keys as well: a task is a group and a chunk, its state is kept, and
 * a second round of tasks joins the states of each tile in chunk order, which gives the bits of the walk.
 */
#include <math.h>
#include <string.h>

#include "../view.h"
#include "attention_job.h"

static int64_t tiles_of(const attn_job *job, int64_t b) { return attn_ceil(attn_queries(job, b) * job->group_heads, job->lanes); }
static int64_t groups_of(const attn_job *job, int64_t b) { return attn_ceil(tiles_of(job, b), job->group); }
static int64_t chunks_of(const attn_job *job, int64_t b) { return attn_max(1, attn_span_count(attn_seq_span(job, b))); }

/* A partial state: m and l of 32 lanes, whether it holds anything, o. */
#define STATE_L FA_TILE_MAX
#define STATE_FLAG (2 * FA_TILE_MAX)
#define STATE_O (2 * FA_TILE_MAX + 16)
static int64_t state_floats(const attn_job *job) { return STATE_O + job->dv * job->lanes; }

int64_t attn_tile_tasks(const attn_job *job, int64_t b) { return groups_of(job, b) * (job->split ? chunks_of(job, b) : 1); }
int64_t attn_tile_merges(const attn_job *job, int64_t b) { return job->split && chunks_of(job, b) > 1 ? tiles_of(job, b) : 0; }
int64_t attn_tile_floats(const attn_job *job, int64_t b) {
    return job->split && chunks_of(job, b) > 1 ? tiles_of(job, b) * chunks_of(job, b) * state_floats(job) : 0;
}

static float *state_of(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t tile, int64_t chunk) {
    const int64_t chunks = chunks_of(job, seq->index), tiles = tiles_of(job, seq->index);
    return job->partials + job->state_start[seq->index] + ((kv_head * tiles + tile) * chunks + chunk) * state_floats(job);
}

static void point_state(float *state, fa_attn_tile *tile) {
    tile->m = state;
    tile->l = state + STATE_L;
    tile->o = state + STATE_O;
}

/* The tiles of a task, their rows packed: the worker's, so that there is one set at a time. */
typedef struct tile_set {
    int n;
    fa_attn_tile *tiles;
    attn_rows *rows;
    int64_t first, last, top;
} tile_set;

static void ask_row(const char *row, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at, 0, 2);
}

/* Asks for the queries of the tile behind r1, or of the next KV head's first: each is a short stream of its own. */
static void ask_next(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t r1) {
    const int64_t group = job->group_heads, bytes = job->d * fa_itemsize(job->q->dtype);
    if (r1 >= seq->rows) r1 = 0, kv_head++;
    if (kv_head >= job->kv_heads) return;
    for (int64_t i = 0; i < job->lanes && r1 + i < seq->rows; i++) {
        const int64_t at = seq->q_row0 + (r1 + i) / group, head = kv_head * group + (r1 + i) % group;
        ask_row((const char *)job->q->data + seq->batch * job->q->stride[0] + head * job->q->stride[1] + at * job->q->stride[2], bytes);
    }
}

static void set_up(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t r0, int64_t r1, attn_scratch *scratch, tile_set *set) {
    *set = (tile_set){.tiles = scratch->tiles, .rows = scratch->rows, .first = INT64_MAX, .last = -1, .top = -1};
    for (int64_t r = r0; r < r1; set->n++) {
        fa_attn_tile *tile = &set->tiles[set->n];
        attn_rows *rows = &set->rows[set->n];
        const int n = (int)attn_min(job->lanes, r1 - r);
        float *qt = scratch->qt + (int64_t)set->n * job->d * job->lanes, *sink = scratch->sink + set->n * job->lanes;
        *tile = (fa_attn_tile){.nv = n > 16 ? 2 : 1, .rows = n, .qt = qt, .chunk_o = scratch->chunk_o, .s = scratch->s};
        tile->m = scratch->m + set->n * job->lanes;
        tile->l = scratch->l + set->n * job->lanes;
        tile->o = scratch->o + (int64_t)set->n * job->dv * job->lanes;
        attn_get_rows(job, seq, kv_head, r, n, rows);
        const float *q[FA_TILE_MAX];
        for (int i = 0; i < n; i++) {
            q[i] = (const float *)rows->q[i];
            if (job->q->dtype == FA_F32) continue;
            job->convert->widen(scratch->q_copy + i * job->d, rows->q[i], job->q->dtype, job->d);
            q[i] = scratch->q_copy + i * job->d;
        }
        job->kernels->tile_pack(qt, q, n, tile->nv, job->d, job->sign);
        if (job->far_rows) {
            ask_next(job, seq, kv_head, r + n);
            for (int i = 0; i < n; i++) ask_row(rows->out[i], job->dv * fa_itemsize(job->out->dtype));
        }
        if (job->params->sinks) {
            for (int i = 0; i < job->lanes; i++) sink[i] = i < n ? rows->sink[i] : 0.0f;
            tile->sink = sink;
        }
        set->first = attn_min(set->first, rows->first);
        set->last = attn_max(set->last, rows->last);
        set->top = attn_max(set->top, rows->top);
        r += n;
    }
}

static void run_chunk(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t index, attn_scratch *scratch, tile_set *set,
                      int safe) {
    fa_attn_chunk chunk;
    attn_tile_keys(job, seq, kv_head, index, set->n > 1, set->first, set->last, scratch, &chunk);
    chunk.safe = safe;
    const int64_t always = job->params->sink_tokens;
    for (int t = 0; t < set->n && !fa_stopping(job->ctx.stop); t++) {
        const attn_rows *rows = &set->rows[t];
        const int in_range = rows->first <= rows->last && rows->last >= chunk.j0 && rows->first < chunk.j0 + chunk.n;
        if (!in_range && !(always > chunk.j0 && rows->top >= chunk.j0)) continue;
        attn_point_rows(job, rows, scratch, &chunk);
        job->kernels->tile(&set->tiles[t], &chunk);
    }
}

static void run_tiles(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t r0, int64_t r1, attn_scratch *scratch, int safe);

static void empty_state(const attn_job *job, fa_attn_tile *tile) {
    const int L = 16 * tile->nv;
    memset(tile->o, 0, (size_t)(job->dv * L) * sizeof(float));
    for (int i = 0; i < L; i++) tile->m[i] = -INFINITY, tile->l[i] = 0.0f;
}

/* Probabilities and scores, from K once more. */
static void write_extras(const attn_job *job, const attn_seq *seq, int64_t kv_head, attn_scratch *scratch, const fa_attn_tile *tile,
                         const attn_rows *rows) {
    const fa_view *scores = job->params->scores;
    const int stage = job->params->score_stage;
    fa_attn_chunk chunk;
    for (int i = 0; i < rows->n && job->weights; i++) memset(rows->weights[i], 0, (size_t)job->weights->shape[3] * sizeof(float));
    for (int i = 0; i < rows->n && scores; i++)
        for (int64_t j = 0; j < scores->shape[3]; j++) rows->scores[i][j] = -INFINITY;
    const int64_t last = scores && stage != FA_SCORES_BIAS ? seq->keys - 1 : rows->last; /* earlier stages: excluded keys too */
    const int64_t first = scores && stage != FA_SCORES_BIAS ? 0 : rows->first;
    const attn_span span = attn_span_of(job, first, last, attn_max(rows->top, last));
    for (int64_t i = 0; i < attn_span_count(span) && !fa_stopping(job->ctx.stop); i++) {
        attn_tile_keys(job, seq, kv_head, attn_span_chunk(span, i), 1, first, last, scratch, &chunk);
        attn_point_rows(job, rows, scratch, &chunk);
        if (job->weights) job->kernels->tile_weights(tile, &chunk, rows->weights);
        if (scores) job->kernels->tile_scores(tile, &chunk, stage, rows->scores);
    }
}

/* Output of one finished tile; 1 if a NaN is in it. */
static int finish(const attn_job *job, const attn_seq *seq, int64_t kv_head, attn_scratch *scratch, fa_attn_tile *tile, const attn_rows *rows) {
    float *out[FA_TILE_MAX];
    const int narrow = job->out->dtype != FA_F32;
    if (!tile->started) empty_state(job, tile);
    for (int i = 0; i < rows->n; i++) out[i] = narrow ? scratch->out_copy + i * job->dv : (float *)rows->out[i];
    const int bad = job->kernels->tile_finish(tile, job->dv, &job->form, out, job->lse ? rows->lse : NULL);
    for (int i = 0; i < rows->n && narrow; i++) job->convert->narrow(rows->out[i], job->out->dtype, out[i], job->dv);
    if (job->weights || job->params->scores) write_extras(job, seq, kv_head, scratch, tile, rows);
    return bad;
}

/* A NaN may come from attended data, which the repeat keeps, or from 0 x NaN behind an excluded key, which it drops. */
static void run_tiles(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t r0, int64_t r1, attn_scratch *scratch, int safe) {
    tile_set set;
    int redo = 0;
    set_up(job, seq, kv_head, r0, r1, scratch, &set);
    const attn_span span = attn_span_of(job, set.first, set.last, set.top);
    for (int64_t i = 0; i < attn_span_count(span); i++) {
        if (fa_stopping(job->ctx.stop)) return;
        run_chunk(job, seq, kv_head, attn_span_chunk(span, i), scratch, &set, safe);
    }
    for (int t = 0; t < set.n; t++) redo |= finish(job, seq, kv_head, scratch, &set.tiles[t], &set.rows[t]);
    if (redo && !safe && !job->integers) run_tiles(job, seq, kv_head, r0, r1, scratch, 1);
}

static void run_part(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t group, int64_t part, attn_scratch *scratch) {
    const int64_t r0 = group * job->group * job->lanes;
    tile_set set;
    set_up(job, seq, kv_head, r0, attn_min(seq->rows, r0 + (int64_t)job->group * job->lanes), scratch, &set);
    for (int t = 0; t < set.n; t++) point_state(state_of(job, seq, kv_head, group * job->group + t, part), &set.tiles[t]);
    run_chunk(job, seq, kv_head, attn_span_chunk(attn_seq_span(job, seq->index), part), scratch, &set, 0);
    for (int t = 0; t < set.n; t++) set.tiles[t].m[STATE_FLAG] = set.tiles[t].started ? 1.0f : 0.0f;
}

void attn_tile_task(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t task, attn_scratch *scratch) {
    const int64_t groups = groups_of(job, seq->index), chunks = job->split ? chunks_of(job, seq->index) : 1;
    if (chunks > 1) {
        run_part(job, seq, kv_head, task / chunks, task % chunks, scratch);
        return;
    }
    if (job->params->causal) task = groups - 1 - task; /* long ones first */
    const int64_t r0 = task * job->group * job->lanes;
    run_tiles(job, seq, kv_head, r0, attn_min(seq->rows, r0 + (int64_t)job->group * job->lanes), scratch, 0);
}

void attn_tile_merge(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t tile, attn_scratch *scratch) {
    const int64_t r0 = tile * job->lanes, r1 = attn_min(seq->rows, r0 + job->lanes), chunks = chunks_of(job, seq->index);
    tile_set set;
    set_up(job, seq, kv_head, r0, r1, scratch, &set);
    fa_attn_tile *total = &set.tiles[0], part = set.tiles[0];
    for (int64_t c = 0; c < chunks; c++) {
        fa_attn_tile *to = c ? &part : total;
        point_state(state_of(job, seq, kv_head, tile, c), to);
        to->started = to->m[STATE_FLAG] > 0.0f;
        if (c) job->kernels->tile_merge(total, &part, job->form.c, job->dv);
    }
    if (finish(job, seq, kv_head, scratch, total, &set.rows[0]) && !job->integers) run_tiles(job, seq, kv_head, r0, r1, scratch, 1);
}
