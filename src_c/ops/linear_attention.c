/* SPDX-License-Identifier: MIT */
/*
 * Driver of linear attention. A task owns some columns of one head's state and walks all tokens with them, a block of
 * tokens at a time: what every column needs of a block (factors of the decay, half precision in fp32) is made once, then
 * each panel of columns takes the block while its part of the state is in L1. Rows of fp32 are read where they are: copies
 * to scratch rows without gaps cost 2 to 15 per cent.
 *
 * A panel is copied to scratch rows without gaps for the whole call: in place its rows are Dv floats apart, which is often
 * a power of two, and they would fight for a few sets of the cache. A call of a few tokens works in place instead.
 */
#include <float.h>
#include <string.h>

#include "../arena.h"
#include "../kernels/kernels.h"
#include "../view.h"
#include "parallel.h"

#define FA_RECURRENT_BLOCK 32        /* most tokens of a block */
#define FA_RECURRENT_ROWS (1 << 15)  /* floats of q in a block, about */
#define FA_RECURRENT_DIRECT 3        /* up to so many tokens a copy of the state does not pay */
#define FA_RECURRENT_ASK 4           /* tokens ahead whose rows are asked for */
#define FA_RECURRENT_FAR (1 << 20)   /* bytes of states that a core's caches hardly hold */
#define FA_RECURRENT_REACH 8192      /* bytes ahead that they are then asked for */
#define FA_RECURRENT_ENOUGH 8        /* tasks that will do for any team worth having */

typedef struct fa_linatt_plan {
    int64_t streams, t;       /* t: tokens of the longest */
    int64_t hq, hkv, dk, dv;  /* hkv: heads that have a state */
    int64_t group;            /* heads of q that read one state */
    int64_t q_shared, k_shared; /* states that one head of q, of k serves */
    int64_t block;            /* tokens */
    int64_t panel;            /* columns of a panel, a multiple of 16 */
    int64_t panels, per_task; /* of a head, of a task */
    int64_t tasks;
    int64_t wide;             /* columns of a task in scratch */
    int direct;               /* the state is used where the caller has it */
    int team;
    float *q, *k, *v, *out, *decay, *beta, *state; /* scratch of all workers; NULL: not needed */
    size_t q_size, k_size, v_size, out_size, decay_size, state_size;
} fa_linatt_plan;

/* Whole elements at whole addresses, a unit last stride, a type of floating point. */
static fa_status fa_linatt_check(const fa_view *view, int unit) {
    if (view->dtype != FA_F32 && view->dtype != FA_F16 && view->dtype != FA_BF16) return FA_ERR_DTYPE;
    if (view->ndim != 4) return FA_ERR_SHAPE;
    const int64_t item = fa_itemsize(view->dtype);
    for (int i = 0; i < 4; i++) {
        if (view->shape[i] < 0) return FA_ERR_SHAPE;
        if (view->stride[i] % item) return FA_ERR_STRIDE;
    }
    if ((uintptr_t)view->data % (uintptr_t)item) return FA_ERR_STRIDE;
    if (unit && view->shape[3] > 1 && view->stride[3] != item) return FA_ERR_STRIDE;
    return FA_OK;
}

static int fa_linatt_shape(const fa_view *view, int64_t a, int64_t b, int64_t c, int64_t d) {
    return view->shape[0] == a && view->shape[1] == b && view->shape[2] == c && view->shape[3] == d;
}

static void fa_linatt_cut(const fa_ctx *ctx, fa_linatt_plan *plan, const fa_linear_attention_params *params) {
    plan->panel = 16 * ctx->kernels->recurrent.columns(plan->group);
    plan->panels = (plan->dv - 1) / plan->panel + 1;
    const int64_t heads = plan->streams * plan->hkv;
    int64_t pieces = heads < FA_RECURRENT_ENOUGH ? FA_RECURRENT_ENOUGH / (heads > 0 ? heads : 1) : 1;
    if (pieces > plan->panels) pieces = plan->panels;
    plan->per_task = (plan->panels - 1) / pieces + 1;
    plan->tasks = heads * ((plan->panels - 1) / plan->per_task + 1);
    plan->wide = plan->per_task * plan->panel;
    plan->block = FA_RECURRENT_ROWS / (plan->group * plan->dk);
    if (plan->block > FA_RECURRENT_BLOCK) plan->block = FA_RECURRENT_BLOCK;
    if (plan->block > plan->t) plan->block = plan->t;
    if (plan->block < 1) plan->block = 1;
    plan->direct = plan->t <= FA_RECURRENT_DIRECT && params->state && params->state->dtype == FA_F32;
    for (int64_t i = 0; params->cu && plan->direct && i < plan->streams; i++) plan->direct = params->to && params->from && params->from[i] >= 0;
}

/* Ends that ascend from the first token to behind the last; slots that are there. */
static fa_status fa_linatt_streams(fa_linatt_plan *plan, const fa_view *q, const fa_view *state_out, const fa_linear_attention_params *params) {
    plan->streams = q->shape[0];
    plan->t = q->shape[1];
    if (!params->cu) return state_out && !params->from && !params->to ? FA_OK : FA_ERR_VALUE;
    if (q->shape[0] != 1 || params->n_seq < 0) return FA_ERR_SHAPE;
    if ((params->from && !params->state) || !params->to != !state_out) return FA_ERR_VALUE;
    plan->streams = params->n_seq;
    plan->t = 0;
    if (params->cu[0] != 0 || params->cu[params->n_seq] != q->shape[1]) return FA_ERR_VALUE;
    for (int64_t i = 0; i < params->n_seq; i++) {
        const int64_t tokens = params->cu[i + 1] - params->cu[i];
        if (params->cu[i] < 0 || params->cu[i + 1] < params->cu[i]) return FA_ERR_VALUE;
        if (tokens > plan->t) plan->t = tokens;
        if (params->from && (params->from[i] < -1 || params->from[i] >= params->state->shape[0])) return FA_ERR_VALUE;
        if (params->to && (params->to[i] < 0 || params->to[i] >= state_out->shape[0])) return FA_ERR_VALUE;
    }
    return FA_OK;
}

static fa_status fa_linatt_prepare(const fa_ctx *ctx, const fa_view *out, const fa_view *state_out, const fa_view *q, const fa_view *k,
                                   const fa_view *v, const fa_linear_attention_params *params, fa_linatt_plan *plan, fa_ctx *worth) {
    const fa_view *all[] = {q, k, v, out, state_out, params->state};
    if (k->dtype != q->dtype || v->dtype != q->dtype || out->dtype != q->dtype) return FA_ERR_DTYPE;
    if (state_out && state_out->dtype != FA_F32) return FA_ERR_DTYPE;
    for (int i = 0; i < 6; i++) {
        fa_status status = all[i] ? fa_linatt_check(all[i], 1) : FA_OK;
        if (status != FA_OK) return status;
    }
    *plan = (fa_linatt_plan){.hq = q->shape[2], .dk = q->shape[3], .hkv = v->shape[2], .dv = v->shape[3]};
    const int64_t b = q->shape[0], t = q->shape[1], hk = k->shape[2];
    if (plan->dk < 1 || plan->dk > FA_MAX_HEAD_DIM || plan->dv < 1 || plan->dv > FA_MAX_HEAD_DIM) return FA_ERR_SHAPE;
    if (plan->hkv < 1 || plan->hq < 1 || hk < 1) return FA_ERR_SHAPE;
    if (plan->hq % plan->hkv && (!params->cu || plan->hkv % plan->hq)) return FA_ERR_SHAPE;
    if (hk != plan->hkv && (!params->cu || plan->hkv % hk)) return FA_ERR_SHAPE;
    plan->group = plan->hq < plan->hkv ? 1 : plan->hq / plan->hkv;
    plan->q_shared = plan->hq < plan->hkv ? plan->hkv / plan->hq : 1;
    plan->k_shared = plan->hkv / hk;
    fa_status status = fa_linatt_streams(plan, q, state_out, params);
    if (status != FA_OK) return status;
    if (!fa_linatt_shape(k, b, t, hk, plan->dk) || !fa_linatt_shape(v, b, t, plan->hkv, plan->dv) ||
        !fa_linatt_shape(out, b, t, plan->hkv * plan->group, plan->dv))
        return FA_ERR_SHAPE;
    for (int i = 4; i < 6; i++)
        if (all[i] && !fa_linatt_shape(all[i], params->cu ? all[i]->shape[0] : b, plan->hkv, plan->dk, plan->dv)) return FA_ERR_SHAPE;
    if (params->rule < FA_RULE_LINEAR || params->rule > FA_RULE_GATED_DELTA) return FA_ERR_VALUE;
    if (!params->decay != !(params->rule & FA_RULE_GATED) || !params->beta != !(params->rule & FA_RULE_DELTA)) return FA_ERR_VALUE;
    if (!(params->scale >= -FLT_MAX && params->scale <= FLT_MAX)) return FA_ERR_VALUE;
    status = params->decay ? fa_linatt_check(params->decay, 1) : FA_OK;
    if (status == FA_OK && params->beta) status = fa_linatt_check(params->beta, 0);
    if (status != FA_OK) return status;
    if (params->decay && !fa_linatt_shape(params->decay, b, t, plan->hkv, plan->dk) &&
        !fa_linatt_shape(params->decay, b, t, plan->hkv, 1))
        return FA_ERR_SHAPE;
    if (params->beta && !fa_linatt_shape(params->beta, 1, b, t, plan->hkv) &&
        !fa_linatt_shape(params->beta, 1, b, t, 1))
        return FA_ERR_SHAPE;
    /* elements of the state times what happens to each; sizes of arrays that exist, so this fits */
    int64_t work = plan->hkv * plan->dk * plan->dv;
    if (__builtin_mul_overflow(work, b, &work) || __builtin_mul_overflow(work, t, &work) ||
        __builtin_mul_overflow(work, plan->group + 3, &work))
        work = INT64_MAX / 2;
    *worth = fa_ctx_for_work(ctx, work);
    fa_linatt_cut(ctx, plan, params);
    plan->team = fa_team_max(worth, plan->tasks);
    return FA_OK;
}

static void fa_linatt_carve(fa_arena *arena, fa_linatt_plan *plan, const fa_view *q, const fa_linear_attention_params *params) {
    const size_t team = (size_t)plan->team, block = (size_t)plan->block, dk = (size_t)plan->dk, wide = (size_t)plan->wide;
    const int half = q->dtype != FA_F32, ragged = plan->dv % 16 != 0;
    if (half) {
        plan->q_size = block * (size_t)plan->group * dk;
        plan->k_size = block * dk;
        plan->q = fa_arena_take(arena, team * plan->q_size, sizeof(float));
        plan->k = fa_arena_take(arena, team * plan->k_size, sizeof(float));
    }
    if (half || ragged) {
        plan->v_size = block * wide;
        plan->out_size = block * (size_t)plan->group * wide;
        plan->v = fa_arena_take(arena, team * plan->v_size, sizeof(float));
        plan->out = fa_arena_take(arena, team * plan->out_size, sizeof(float));
    }
    if (!plan->direct || ragged) { /* in place works with whole vectors alone */
        plan->state_size = dk * wide;
        plan->state = fa_arena_take(arena, team * plan->state_size, sizeof(float));
    }
    if (params->decay) {
        plan->decay_size = block * (size_t)params->decay->shape[3];
        plan->decay = fa_arena_take(arena, team * plan->decay_size, sizeof(float));
    }
    if (params->beta) plan->beta = fa_arena_take(arena, team * block, sizeof(float));
}

fa_status fa_linear_attention_workspace(const fa_ctx *ctx, const fa_view *out, const fa_view *state_out, const fa_view *q,
                                        const fa_view *k, const fa_view *v, const fa_linear_attention_params *params,
                                        size_t *bytes) {
    fa_linatt_plan plan;
    fa_ctx worth;
    fa_status status = fa_linatt_prepare(ctx, out, state_out, q, k, v, params, &plan, &worth);
    if (status != FA_OK) return status;
    fa_arena arena = {NULL, 0, 0};
    fa_linatt_carve(&arena, &plan, q, params);
    if (arena.overflow) return FA_ERR_MEMORY;
    *bytes = arena.used;
    return FA_OK;
}

typedef struct fa_linatt_job {
    fa_linatt_plan plan;
    const fa_kernels *kernels;
    fa_stop *stop;
    const fa_view *out, *state_out, *q, *k, *v;
    const fa_linear_attention_params *params;
} fa_linatt_job;

static char *fa_linatt_at(const fa_view *view, int64_t i, int64_t j, int64_t l) {
    return (char *)view->data + i * view->stride[0] + j * view->stride[1] + l * view->stride[2];
}

/* What all columns of a task share, for one block of tokens. */
typedef struct fa_linatt_block {
    int64_t b, h, t, n;
    int64_t q_at, k_at, out_at; /* first heads */
    int64_t start, end;     /* tokens of the stream */
    int64_t from, to;       /* slots of its state; -1: zeros, nowhere */
    int64_t first, columns; /* of the task */
    const float *q, *k, *decay, *beta;
    ptrdiff_t q_token, q_head, k_token, decay_token, decay_row;
} fa_linatt_block;

static int64_t fa_linatt_columns(const fa_linatt_plan *plan, const fa_linatt_block *block, int64_t at) {
    return block->columns - at < plan->panel ? block->columns - at : plan->panel;
}

static void fa_linatt_gates(const fa_linatt_job *job, fa_linatt_block *block, int worker) {
    const fa_linatt_plan *plan = &job->plan;
    const fa_view *decay = job->params->decay, *beta = job->params->beta;
    const fa_convert_kernels *convert = &job->kernels->convert;
    if (decay) {
        const int64_t rows = decay->shape[3];
        float *factors = plan->decay + (size_t)worker * plan->decay_size;
        for (int64_t t = 0; t < block->n; t++)
            convert->widen(factors + t * rows, fa_linatt_at(decay, block->b, block->t + t, block->h), decay->dtype, rows);
        job->kernels->vmath.map(FA_VFN_EXP, factors, factors, block->n * rows);
        block->decay = factors;
        block->decay_token = rows;
        block->decay_row = rows > 1;
    }
    if (beta) {
        float *rates = plan->beta + (size_t)worker * (size_t)plan->block;
        const int64_t h = beta->shape[3] > 1 ? block->h : 0;
        for (int64_t t = 0; t < block->n; t++)
            convert->widen(rates + t, fa_linatt_at(beta, 0, block->b, block->t + t) + h * beta->stride[3], beta->dtype, 1);
        block->beta = rates;
    }
}

static void fa_linatt_rows(const fa_linatt_job *job, fa_linatt_block *block, int worker) {
    const fa_linatt_plan *plan = &job->plan;
    const fa_view *q = job->q, *k = job->k;
    if (!plan->q) {
        block->q = (const float *)fa_linatt_at(q, block->b, block->t, block->q_at);
        block->q_token = fa_estride(q, 1);
        block->q_head = fa_estride(q, 2);
        block->k = (const float *)fa_linatt_at(k, block->b, block->t, block->k_at);
        block->k_token = fa_estride(k, 1);
        return;
    }
    float *qs = plan->q + (size_t)worker * plan->q_size, *ks = plan->k + (size_t)worker * plan->k_size;
    block->q = qs;
    block->q_head = block->k_token = plan->dk;
    block->q_token = plan->group * plan->dk;
    block->k = ks;
    for (int64_t t = 0; t < block->n; t++, ks += plan->dk) {
        for (int64_t g = 0; g < plan->group; g++, qs += plan->dk)
            job->kernels->convert.widen(qs, fa_linatt_at(q, block->b, block->t + t, block->q_at + g), q->dtype, plan->dk);
        job->kernels->convert.widen(ks, fa_linatt_at(k, block->b, block->t + t, block->k_at), k->dtype, plan->dk);
    }
}

/* Rows of v, all columns of the task, zero beyond them. */
static void fa_linatt_values(const fa_linatt_job *job, const fa_linatt_block *block, int worker) {
    const fa_linatt_plan *plan = &job->plan;
    float *vs = plan->v + (size_t)worker * plan->v_size;
    const int64_t item = fa_itemsize(job->v->dtype);
    for (int64_t t = 0; t < block->n; t++, vs += plan->wide) {
        const char *row = fa_linatt_at(job->v, block->b, block->t + t, block->h) + block->first * item;
        job->kernels->convert.widen(vs, row, job->v->dtype, block->columns);
        for (int64_t c = block->columns; c < plan->wide; c++) vs[c] = 0.0f;
    }
}

static void fa_linatt_results(const fa_linatt_job *job, const fa_linatt_block *block, int worker) {
    const fa_linatt_plan *plan = &job->plan;
    const float *os = plan->out + (size_t)worker * plan->out_size;
    const int64_t item = fa_itemsize(job->out->dtype);
    for (int64_t t = 0; t < block->n; t++)
        for (int64_t g = 0; g < plan->group; g++, os += plan->wide) {
            char *row = fa_linatt_at(job->out, block->b, block->t + t, block->out_at + g) + block->first * item;
            job->kernels->convert.narrow(row, job->out->dtype, os, block->columns);
        }
}

/* The state of columns `first` on before the first token, in rows of `wide`, zero beyond `columns`. */
static void fa_linatt_take(const fa_linatt_job *job, const fa_linatt_block *block, float *to, int64_t i, int64_t first,
                           int64_t columns, int64_t wide) {
    const fa_view *state = job->params->state;
    if (block->from >= 0)
        job->kernels->convert.widen(to, fa_linatt_at(state, block->from, block->h, i) + first * fa_itemsize(state->dtype), state->dtype, columns);
    else columns = 0;
    memset(to + columns, 0, (size_t)(wide - columns) * sizeof *to);
}

/* Panels of the task's state, [dk][16 nv] each: row after row of what the caller has, which is how memory is read best. */
static void fa_linatt_load(const fa_linatt_job *job, const fa_linatt_block *block, float *panels) {
    const fa_linatt_plan *plan = &job->plan;
    for (int64_t i = 0; i < plan->dk; i++)
        for (int64_t at = 0; at < block->columns; at += plan->panel) {
            const int64_t columns = fa_linatt_columns(plan, block, at), wide = (columns + 15) / 16 * 16;
            fa_linatt_take(job, block, panels + at * plan->dk + i * wide, i, block->first + at, columns, wide);
        }
}

static void fa_linatt_store(const fa_linatt_job *job, const fa_linatt_block *block, const float *panels) {
    const fa_linatt_plan *plan = &job->plan;
    for (int64_t i = 0; i < plan->dk; i++) {
        float *row = (float *)fa_linatt_at(job->state_out, block->to, block->h, i) + block->first;
        for (int64_t at = 0; at < block->columns; at += plan->panel) {
            const int64_t columns = fa_linatt_columns(plan, block, at), wide = (columns + 15) / 16 * 16;
            memcpy(row + at, panels + at * plan->dk + i * wide, (size_t)columns * sizeof *row);
        }
    }
}

/* While the first panel takes a block, rows of later tokens are asked for, of the next block where blocks are widened at
 * once: a head's rows lie far apart, so nobody else does it. */
static void fa_linatt_ahead(const fa_linatt_job *job, const fa_linatt_block *block, fa_recurrent *run) {
    const fa_linatt_plan *plan = &job->plan;
    const int64_t next = block->t + (plan->q ? block->n : FA_RECURRENT_ASK), item = fa_itemsize(job->q->dtype);
    const struct { const fa_view *view; int64_t head, heads, first, columns; } rows[FA_RECURRENT_AHEAD] = {
        {job->q, block->q_at, plan->group, 0, plan->dk}, {job->k, block->k_at, 1, 0, plan->dk},
        {job->v, block->h, 1, block->first, block->columns}, {job->out, block->out_at, plan->group, block->first, block->columns},
    };
    if (next >= block->end) return;
    run->ahead_tokens = block->end - next < block->n ? block->end - next : block->n;
    for (int i = 0; i < FA_RECURRENT_AHEAD; i++) {
        const int together = rows[i].view->stride[2] == rows[i].columns * item; /* else the first head's alone */
        run->ahead[i] = (fa_recurrent_ahead){
            .at = fa_linatt_at(rows[i].view, block->b, next, rows[i].head) + rows[i].first * item,
            .token = rows[i].view->stride[1], .bytes = rows[i].columns * (together ? rows[i].heads : 1) * item, .write = i == 3,
        };
    }
}

/* The panel at column `at` of the task through one block of tokens; the state is in scratch, or with NULL in place. */
static void fa_linatt_panel(const fa_linatt_job *job, const fa_linatt_block *block, int64_t at, float *panels, int worker) {
    const fa_linatt_plan *plan = &job->plan;
    const fa_view *state = job->params->state;
    const int64_t first = block->first + at;
    fa_recurrent run = {
        .d = plan->dk, .nv = (int)((fa_linatt_columns(plan, block, at) + 15) / 16), .group = (int)plan->group,
        .tokens = block->n,
        .q = block->q, .q_token = block->q_token, .q_head = block->q_head, .k = block->k, .k_token = block->k_token,
        .decay = block->decay, .decay_token = block->decay_token, .decay_row = block->decay_row, .beta = block->beta,
        .scale = job->params->scale,
    };
    if (plan->v) {
        run.v = plan->v + (size_t)worker * plan->v_size + at;
        run.v_token = run.out_head = plan->wide;
        run.out = plan->out + (size_t)worker * plan->out_size + at;
        run.out_token = plan->group * plan->wide;
    } else {
        run.v = (const float *)fa_linatt_at(job->v, block->b, block->t, block->h) + first;
        run.v_token = fa_estride(job->v, 1);
        run.out = (float *)fa_linatt_at(job->out, block->b, block->t, block->out_at) + first;
        run.out_token = fa_estride(job->out, 1);
        run.out_head = fa_estride(job->out, 2);
    }
    if (panels) {
        run.state = panels + at * plan->dk;
        run.state_stride = 16 * run.nv;
    } else {
        run.state = (float *)fa_linatt_at(job->state_out, block->to, block->h, 0) + first;
        run.state_stride = fa_estride(job->state_out, 2);
    }
    run.from = run.state;
    run.from_stride = run.state_stride;
    if (!panels && block->t == block->start) {
        run.from = (const float *)fa_linatt_at(state, block->from, block->h, 0) + first;
        run.from_stride = fa_estride(state, 2);
    }
    if (at == 0) fa_linatt_ahead(job, block, &run);
    if (at == 0 && !panels && block->t == block->start && plan->dk * plan->dv * plan->hkv * plan->streams > FA_RECURRENT_FAR / 4) {
        run.far_bytes = block->columns * 4;
        run.far_rows = FA_RECURRENT_REACH / run.far_bytes + 1;
    }
    job->kernels->recurrent.run(&run);
}

/* The stream of a task: all tokens of a row of the batch, or a part of its one row. */
static void fa_linatt_stream(const fa_linatt_job *job, fa_linatt_block *block, int64_t stream) {
    const fa_linear_attention_params *params = job->params;
    if (params->cu) {
        block->start = params->cu[stream], block->end = params->cu[stream + 1];
        block->from = params->from ? params->from[stream] : -1;
        block->to = params->to ? params->to[stream] : -1;
    } else {
        block->b = block->to = stream;
        block->end = job->plan.t;
        block->from = params->state ? stream : -1;
    }
    block->t = block->start;
}

static void fa_linatt_task(void *arg, int64_t task, int worker) {
    const fa_linatt_job *job = arg;
    const fa_linatt_plan *plan = &job->plan;
    const int64_t pieces = (plan->panels - 1) / plan->per_task + 1, head = task / pieces, h = head % plan->hkv;
    fa_linatt_block block = {.h = h, .q_at = plan->q_shared > 1 ? h / plan->q_shared : h * plan->group, .k_at = h / plan->k_shared,
                             .out_at = h * plan->group, .first = task % pieces * plan->wide};
    float *panels = plan->state ? plan->state + (size_t)worker * plan->state_size : NULL;
    block.columns = plan->dv - block.first < plan->wide ? plan->dv - block.first : plan->wide;
    fa_linatt_stream(job, &block, head / plan->hkv);
    if (block.start == block.end) {
        for (int64_t i = 0; i < plan->dk && block.to >= 0; i++)
            fa_linatt_take(job, &block, (float *)fa_linatt_at(job->state_out, block.to, h, i) + block.first, i, block.first,
                           block.columns, block.columns);
        return;
    }
    if (panels) fa_linatt_load(job, &block, panels);
    for (; block.t < block.end; block.t += plan->block) {
        if (fa_stopping(job->stop)) return;
        block.n = block.end - block.t < plan->block ? block.end - block.t : plan->block;
        fa_linatt_gates(job, &block, worker);
        fa_linatt_rows(job, &block, worker);
        if (plan->v) fa_linatt_values(job, &block, worker);
        for (int64_t at = 0; at < block.columns; at += plan->panel) fa_linatt_panel(job, &block, at, panels, worker);
        if (plan->out) fa_linatt_results(job, &block, worker);
    }
    if (panels && block.to >= 0) fa_linatt_store(job, &block, panels);
}

fa_status fa_linear_attention(const fa_ctx *ctx, const fa_view *out, const fa_view *state_out, const fa_view *q, const fa_view *k,
                              const fa_view *v, const fa_linear_attention_params *params, void *ws, size_t ws_bytes) {
    fa_linatt_job job;
    fa_ctx worth;
    fa_status status = fa_linatt_prepare(ctx, out, state_out, q, k, v, params, &job.plan, &worth);
    if (status != FA_OK) return status;
    if (job.plan.tasks == 0) return FA_OK;
    fa_arena arena = {ws, 0, 0};
    fa_linatt_carve(&arena, &job.plan, q, params);
    if (arena.overflow || arena.used > ws_bytes || (arena.used && (!ws || (uintptr_t)ws % FA_ALIGN))) return FA_ERR_WORKSPACE;
    job.kernels = ctx->kernels;
    job.stop = ctx->stop;
    job.out = out, job.state_out = state_out, job.q = q, job.k = k, job.v = v, job.params = params;
    return fa_parallel_for(&worth, job.plan.tasks, fa_linatt_task, &job);
}
