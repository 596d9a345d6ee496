/* SPDX-License-Identifier: MIT */
/*
 * Programs: a table of steps, each of which makes views of its values and calls the operator of its name.
 *
 * Why one operator for each step, and no fused loops: the bits of a program are those of the functions by construction,
 * and a step costs less than 0.1 us beside its operator.
 */
#include <float.h>
#include <string.h>

#include "../arena.h"
#include "linear_quant.h"
#include "parallel.h"
#include "program.h"

static int check_embed(const fa_program *p, const fa_step *s) {
    if (s->weights)
        return s->n_tables == 0 && fa_quant_is_whole(s->weights, s->rows, s->out.width) && array_is(p, s->index[0], FA_I64, 1, s->out.rows, 0);
    if (s->n_tables < 1 || s->n_tables > FA_STEP_TABLES) return 0;
    for (int i = 0; i < s->n_tables; i++) {
        if (fa_check_f32(&s->tables[i], 2) != FA_OK || s->tables[i].shape[1] != s->out.width) return 0;
        if (!array_is(p, s->index[i], FA_I64, 1, s->out.rows, 0)) return 0;
    }
    return 1;
}

static int check_linear(const fa_program *p, const fa_step *s) {
    (void)p;
    return s->weights && s->x.rows == s->out.rows && apart(&s->out, &s->x, 0) && act_is(s->act) &&
           (!s->bias.ndim || vector_is(&s->bias, s->out.width));
}

static int check_norm(const fa_program *p, const fa_step *s) {
    (void)p;
    if (s->heads > 1 && (s->kind != FA_STEP_RMS_NORM || is_there(&s->y) || s->out.width % s->heads)) return 0;
    const int64_t width = s->heads > 1 ? s->out.width / s->heads : s->out.width;
    return s->x.rows == s->out.rows && s->x.width == s->out.width && apart(&s->out, &s->x, 1) && apart(&s->out, &s->y, 1) &&
           (!is_there(&s->y) || (s->y.rows == s->x.rows && s->y.width == s->x.width)) && vector_is(&s->weight, width) &&
           (!s->bias.ndim || (s->kind == FA_STEP_LAYER_NORM && vector_is(&s->bias, width)));
}

static int check_attention(const fa_program *p, const fa_step *s) {
    const int64_t most = FA_MAX_HEAD_DIM;
    if (s->heads < 1 || s->kv_heads < 1 || s->head_size < 1 || s->head_size > most || s->v_head_size < 1 || s->v_head_size > most)
        return 0;
    if (s->heads > s->out.width || s->kv_heads > s->y.width || s->heads % s->kv_heads) return 0;
    if (s->x.width != s->heads * s->head_size || s->y.width != s->kv_heads * s->head_size) return 0;
    if (s->z.width != s->kv_heads * s->v_head_size || s->out.width != s->heads * s->v_head_size) return 0;
    if (s->x.rows != s->out.rows || s->y.rows != s->x.rows || s->z.rows != s->x.rows) return 0;
    if (!apart(&s->out, &s->x, 0) || !apart(&s->out, &s->y, 0) || !apart(&s->out, &s->z, 0)) return 0;
    if (s->index[0] < 0 || s->index[0] >= p->n_arrays) return 0;
    const fa_array *ends = &p->arrays[s->index[0]];
    if (ends->dtype != FA_I64 || ends->ndim != 1 || ends->rows < 0 || ends->more != 1 || ends->optional) return 0;
    if (s->index[1] >= 0 && !array_may_be(p, s->index[1], FA_I64, 1, s->x.rows, 0)) return 0;
    if (s->index[2] >= 0 && !array_may_be(p, s->index[2], FA_F32, 4, -1, 0)) return 0;
    if (s->bias.ndim && (fa_check_f32(&s->bias, 2) != FA_OK || s->bias.shape[0] != s->heads || s->bias.shape[1] % 2 == 0)) return 0;
    if (s->alibi.ndim && (!vector_is(&s->alibi, s->heads) || s->index[1] >= 0)) return 0;
    if (s->sinks.ndim && !vector_is(&s->sinks, s->heads)) return 0;
    if ((s->layer < 0) != (s->group < 0)) return 0;
    return s->layer < 0 || (s->layer < p->n_layers && s->group < p->n_groups);
}

static int check_disentangled(const fa_program *p, const fa_step *s) {
    return check_attention(p, s) && s->heads == s->kv_heads && s->head_size == s->v_head_size && s->index[1] >= 0 &&
           !p->arrays[s->index[1]].optional && (s->disentangled.c2p || s->disentangled.p2c) && s->layer < 0;
}

static int check_rope(const fa_program *p, const fa_step *s) {
    return same_place(&s->out, &s->x) && s->heads >= 1 && s->x.width % s->heads == 0 && s->head_size == s->x.width / s->heads && s->v_head_size >= 0 &&
           s->v_head_size < s->head_size &&
           array_is(p, s->index[0], FA_F32, 2, -1, 0) && array_is(p, s->index[1], FA_F32, 2, -1, 0) &&
           array_is(p, s->index[2], FA_I64, 1, s->x.rows, 0);
}

static int check_pair(const fa_program *p, const fa_step *s) {
    (void)p;
    return s->x.rows == s->out.rows && s->y.rows == s->out.rows && s->x.width == s->out.width && s->y.width == s->out.width &&
           apart(&s->out, &s->x, 1) && apart(&s->out, &s->y, 1) && act_is(s->act);
}

static int check_one(const fa_program *p, const fa_step *s) {
    (void)p;
    return s->x.rows == s->out.rows && s->x.width == s->out.width && apart(&s->out, &s->x, s->kind != FA_STEP_COPY) &&
           (s->kind != FA_STEP_ACTIVATE || act_is(s->act));
}

static int check_gather(const fa_program *p, const fa_step *s) {
    if (!array_is(p, s->index[0], FA_I64, 2, s->out.rows, 0) || !apart(&s->out, &s->x, 0)) return 0;
    const int64_t times = p->arrays[s->index[0]].width;
    return times >= 1 && s->out.width % s->x.width == 0 && times == s->out.width / s->x.width;
}

static int are_heads(const fa_value *value, int64_t heads, int64_t size) { return value->width == size || value->width / heads == size; }

static int check_join(const fa_program *p, const fa_step *s) {
    (void)p;
    const int64_t a = s->head_size, b = s->v_head_size, most = s->out.width;
    if (s->heads < 1 || s->heads > most || a < 1 || a >= most || b < 1 || b >= most || s->out.width % s->heads) return 0;
    return s->out.width / s->heads == a + b && is_there(&s->y) && s->x.rows == s->out.rows && s->y.rows == s->out.rows &&
           are_heads(&s->x, s->heads, a) && s->x.width % a == 0 && are_heads(&s->y, s->heads, b) && s->y.width % b == 0 &&
           apart(&s->out, &s->x, 0) && apart(&s->out, &s->y, 0);
}

static int check_pool(const fa_program *p, const fa_step *s) {
    return s->x.width == s->out.width && apart(&s->out, &s->x, 0) && s->act >= FA_POOL_MEAN && s->act <= FA_POOL_WEIGHTED_MEAN &&
           array_is(p, s->index[0], FA_I64, 1, s->out.rows, 1) &&
           (s->index[1] < 0 || array_may_be(p, s->index[1], FA_I64, 1, -1, 0));
}

/* ---- what steps do; with `size` they say what workspace it takes ---------------------------------------------------- */

static fa_status run_embed(const prog_run *run, const fa_step *step, size_t *size) {
    if (size) return FA_OK;
    const fa_view out = view_of(run, &step->out);
    if (step->weights) return fa_quant_rows(run->ctx, &out, step->weights, step->rows, array_of(run, step, 0));
    fa_view ids[FA_STEP_TABLES];
    for (int i = 0; i < step->n_tables; i++) ids[i] = run->batch->arrays[step->index[i]];
    return fa_embedding(run->ctx, &out, step->n_tables, step->tables, ids);
}

static fa_status run_linear(const prog_run *run, const fa_step *step, size_t *size) {
    const fa_view out = view_of(run, &step->out), x = view_of(run, &step->x);
    if (size) return fa_linear_workspace(run->ctx, &out, &x, step->weights->dtype, size);
    return fa_linear(run->ctx, &out, &x, step->weights, given(&step->bias), (fa_activation)step->act, run->ws, run->ws_bytes);
}

static fa_status run_norm(const prog_run *run, const fa_step *step, size_t *size) {
    if (size) return FA_OK;
    const fa_view out = view_of(run, &step->out), x = view_of(run, &step->x);
    if (step->heads > 1) return fa_rms_norm_groups(run->ctx, &out, &x, step->heads, &step->weight, step->eps);
    fa_view y;
    const fa_view *residual = NULL;
    if (is_there(&step->y)) {
        y = view_of(run, &step->y);
        residual = &y;
    }
    if (step->kind == FA_STEP_RMS_NORM) return fa_rms_norm(run->ctx, &out, &x, residual, &step->weight, step->eps);
    return fa_layer_norm(run->ctx, &out, &x, residual, &step->weight, given(&step->bias), step->eps);
}

static fa_status store(const prog_run *run, const fa_view *to, const fa_view *scale, const fa_view *from,
                       const fa_memory_group *group, fa_store_form form, size_t *size) {
    size_t bytes = 0;
    if (to->dtype != FA_I8) form = FA_STORE_ROWS;
    if (!size)
        return fa_kv_store(run->ctx, to, given(scale), from, &group->slots, NULL, NULL, NULL, 0, form, run->ws, run->ws_bytes);
    const fa_status status = fa_kv_store_workspace(&group->slots, &bytes);
    if (bytes > *size) *size = bytes;
    return status;
}

static fa_status run_attention(const prog_run *run, const fa_step *step, size_t *size) {
    const fa_view q = heads_of(run, &step->x, step->heads, step->head_size);
    const fa_view k = heads_of(run, &step->y, step->kv_heads, step->head_size);
    const fa_view v = heads_of(run, &step->z, step->kv_heads, step->v_head_size);
    const fa_view out = heads_of(run, &step->out, step->heads, step->v_head_size);
    const fa_view *ends = array_of(run, step, 0), *positions = array_of(run, step, 1), *weights = array_of(run, step, 2);
    const fa_view *keys = &k, *values = &v;
    fa_attention_params params = step->attention;
    fa_status status = FA_OK;
    size_t bytes = 0;
    if (!covers(ends, q.shape[2])) return FA_ERR_VALUE;
    params.cu_q = params.cu_k = ends->data;
    params.n_seq = ends->shape[0] - 1;
    params.bias = given(&step->bias);
    params.sinks = given(&step->sinks);
    fa_view slopes = {.data = step->alibi.data, .shape = {params.n_seq, step->heads}, .stride = {0, step->alibi.stride[0]}, .ndim = 2,
                      .dtype = FA_F32}; /* the same for all sequences */
    if (step->alibi.ndim) params.alibi = &slopes;
    if (run->batch->layers && step->layer >= 0) {
        if (positions) return FA_ERR_VALUE; /* memory says where rows stand: a batch that says it too is of no meaning */
        const fa_memory_layer *layer = &run->batch->layers[step->layer];
        const fa_memory_group *group = &run->batch->groups[step->group];
        status = store(run, &layer->k, &layer->k_scale, &k, group, FA_STORE_KEYS, size ? &bytes : NULL);
        if (status == FA_OK) status = store(run, &layer->v, &layer->v_scale, &v, group, FA_STORE_VALUES, size ? &bytes : NULL);
        if (status != FA_OK) return status;
        keys = &layer->k;
        values = &layer->v;
        params.k_scale = given(&layer->k_scale);
        params.v_scale = given(&layer->v_scale);
        params.integers = layer->k.dtype == FA_I8;
        params.cu_k = NULL;
        params.page_table = &group->page_table;
        params.kv_lengths = group->kv_lengths;
        params.q_offset = group->q_offset;
    } else if (positions) {
        params.positions = positions->data;
    }
    if (!size) return fa_attention(run->ctx, &out, NULL, weights, &q, keys, values, &params, run->ws, run->ws_bytes);
    status = fa_attention_workspace(run->ctx, &out, NULL, weights, &q, keys, values, &params, size);
    if (bytes > *size) *size = bytes;
    return status;
}

static fa_status run_disentangled(const prog_run *run, const fa_step *step, size_t *size) {
    const fa_view q = heads_of(run, &step->x, step->heads, step->head_size);
    const fa_view k = heads_of(run, &step->y, step->heads, step->head_size);
    const fa_view v = heads_of(run, &step->z, step->heads, step->head_size);
    const fa_view out = heads_of(run, &step->out, step->heads, step->head_size);
    const fa_view *ends = array_of(run, step, 0);
    fa_disentangled_params params = step->disentangled;
    if (!covers(ends, q.shape[2])) return FA_ERR_VALUE;
    params.cu = ends->data;
    params.n_seq = ends->shape[0] - 1;
    params.positions = array_of(run, step, 1)->data;
    params.weights = array_of(run, step, 2);
    if (size) return fa_disentangled_attention_workspace(run->ctx, &out, &q, &k, &v, &params, size);
    return fa_disentangled_attention(run->ctx, &out, &q, &k, &v, &params, run->ws, run->ws_bytes);
}

static fa_status run_rope(const prog_run *run, const fa_step *step, size_t *size) {
    if (size) return FA_OK;
    fa_view x = heads_of(run, &step->x, step->heads, step->head_size);
    x.data = (float *)x.data + step->v_head_size;
    x.shape[3] -= step->v_head_size;
    fa_view at = *array_of(run, step, 2);
    at.ndim = 2;
    at.shape[1] = at.shape[0];
    at.stride[1] = at.stride[0];
    at.shape[0] = 1;
    at.stride[0] = 0;
    return fa_rope(run->ctx, &x, &x, array_of(run, step, 0), array_of(run, step, 1), &at, step->act);
}

static fa_status run_pair(const prog_run *run, const fa_step *step, size_t *size) {
    if (size) return FA_OK;
    const fa_view out = view_of(run, &step->out), x = view_of(run, &step->x), y = view_of(run, &step->y);
    if (step->kind == FA_STEP_ADD) return fa_add(run->ctx, &out, &x, &y);
    return fa_gated(run->ctx, &out, &x, &y, (fa_activation)step->act);
}

static fa_status run_one(const prog_run *run, const fa_step *step, size_t *size) {
    if (size) return FA_OK;
    if (step->kind == FA_STEP_COPY) {
        const fa_view to = heads_of(run, &step->out, 1, step->out.width), from = heads_of(run, &step->x, 1, step->x.width);
        return fa_convert(run->ctx, &to, &from);
    }
    const fa_view out = view_of(run, &step->out), x = view_of(run, &step->x);
    if (step->kind == FA_STEP_ACTIVATE) return fa_activate(run->ctx, &out, &x, (fa_activation)step->act);
    if (step->kind == FA_STEP_SCALE) return fa_scale(run->ctx, &out, &x, step->scale);
    if (step->kind == FA_STEP_CLAMP) return fa_clamp(run->ctx, &out, &x, step->scale);
    return fa_l2_normalize(run->ctx, &out, &x, step->eps);
}

static fa_status run_gather(const prog_run *run, const fa_step *step, size_t *size) {
    if (size) return FA_OK;
    const fa_view out = view_of(run, &step->out), x = view_of(run, &step->x);
    return fa_gather(run->ctx, &out, &x, array_of(run, step, 0));
}

/* The columns from `first` on of each head of out. */
static fa_status bring(const prog_run *run, const fa_step *step, const fa_value *from, int64_t first, int64_t size) {
    fa_view to = heads_of(run, &step->out, step->heads, step->head_size + step->v_head_size);
    fa_view x = heads_of(run, from, step->heads, size);
    to.data = (float *)to.data + first;
    to.shape[3] = size;
    if (from->width == size) x.stride[1] = 0; /* one for all heads */
    return fa_convert(run->ctx, &to, &x);
}

static fa_status run_join(const prog_run *run, const fa_step *step, size_t *size) {
    if (size) return FA_OK;
    const fa_status status = bring(run, step, &step->x, 0, step->head_size);
    return status == FA_OK ? bring(run, step, &step->y, step->head_size, step->v_head_size) : status;
}

static fa_status run_pool(const prog_run *run, const fa_step *step, size_t *size) {
    if (size) return FA_OK;
    const fa_view out = view_of(run, &step->out), x = view_of(run, &step->x);
    const fa_view *skip = array_of(run, step, 1), *ends = array_of(run, step, 0);
    if (!covers(ends, x.shape[0])) return FA_ERR_VALUE;
    if (skip && skip->shape[0] != 1) return FA_ERR_SHAPE;
    return fa_pool(run->ctx, &out, &x, ends, (fa_pool_mode)step->act, skip ? *(const int64_t *)skip->data : 0);
}

static const prog_kind kinds[] = {
    [FA_STEP_EMBED] = {check_embed, run_embed},
    [FA_STEP_LINEAR] = {check_linear, run_linear},
    [FA_STEP_LAYER_NORM] = {check_norm, run_norm},
    [FA_STEP_RMS_NORM] = {check_norm, run_norm},
    [FA_STEP_ATTENTION] = {check_attention, run_attention},
    [FA_STEP_ROPE] = {check_rope, run_rope},
    [FA_STEP_GATED] = {check_pair, run_pair},
    [FA_STEP_ADD] = {check_pair, run_pair},
    [FA_STEP_ACTIVATE] = {check_one, run_one},
    [FA_STEP_SCALE] = {check_one, run_one},
    [FA_STEP_GATHER] = {check_gather, run_gather},
    [FA_STEP_POOL] = {check_pool, run_pool},
    [FA_STEP_NORMALIZE] = {check_one, run_one},
    [FA_STEP_COPY] = {check_one, run_one},
    [FA_STEP_CLAMP] = {check_one, run_one},
    [FA_STEP_JOIN] = {check_join, run_join},
    [FA_STEP_DISENTANGLED] = {check_disentangled, run_disentangled},
    [FA_STEP_ROUTE] = {fa_step_check_route, fa_step_route},
    [FA_STEP_EXPERTS] = {fa_step_check_experts, fa_step_experts},
    [FA_STEP_SHORT_CONV] = {prog_check_conv, prog_run_conv},
    [FA_STEP_LINEAR_ATTENTION] = {prog_check_mixing, prog_run_mixing},
    [FA_STEP_SOFTPLUS] = {prog_check_gates, prog_run_gates},
    [FA_STEP_SCALE_HEADS] = {prog_check_gates, prog_run_gates},
    [FA_STEP_COLUMNS] = {prog_check_gates, prog_run_gates},
};

#define KINDS ((int32_t)(sizeof kinds / sizeof *kinds))

/* ---- a program ------------------------------------------------------------------------------------------------------ */

static int like_value(const fa_value *a, const fa_value *b) {
    return a->rows == b->rows && a->width == b->width && a->stride == b->stride && a->array == b->array; /* each array has its strides */
}

/* Whether both steps want the same workspace, whatever the batch. */
static int wants_as(const fa_step *a, const fa_step *b) {
    if (a->kind != b->kind || !like_value(&a->out, &b->out) || !like_value(&a->x, &b->x)) return 0;
    if (a->kind == FA_STEP_LINEAR) return a->weights->dtype == b->weights->dtype;
    if (a->kind == FA_STEP_LINEAR_ATTENTION)
        return like_value(&a->y, &b->y) && like_value(&a->z, &b->z) && like_value(&a->decay, &b->decay) &&
               like_value(&a->beta, &b->beta) && a->heads == b->heads && a->kv_heads == b->kv_heads &&
               a->head_size == b->head_size && a->index[0] == b->index[0];
    if (a->kind == FA_STEP_DISENTANGLED)
        return a->heads == b->heads && memcmp(a->index, b->index, sizeof a->index) == 0 &&
               a->disentangled.span == b->disentangled.span && a->disentangled.max_distance == b->disentangled.max_distance &&
               !a->disentangled.c2p == !b->disentangled.c2p && !a->disentangled.p2c == !b->disentangled.p2c;
    if (a->kind == FA_STEP_ROUTE || a->kind == FA_STEP_EXPERTS) return fa_step_like_experts(a, b);
    if (a->kind != FA_STEP_ATTENTION) return 1;
    const fa_attention_params *p = &a->attention, *q = &b->attention;
    return like_value(&a->y, &b->y) && like_value(&a->z, &b->z) && a->heads == b->heads && a->kv_heads == b->kv_heads &&
           a->head_size == b->head_size && a->group == b->group && memcmp(a->index, b->index, sizeof a->index) == 0 &&
           a->bias.ndim == b->bias.ndim && a->alibi.ndim == b->alibi.ndim && a->sinks.ndim == b->sinks.ndim && a->bias.shape[1] == b->bias.shape[1] && p->scale == q->scale &&
           p->softcap == q->softcap && p->causal == q->causal && p->window_left == q->window_left &&
           p->window_right == q->window_right && p->chunk == q->chunk && p->integers == q->integers && p->sink_tokens == q->sink_tokens;
}

static int within(float x, float least) { return x >= least && x <= FLT_MAX; }

/* What operators say of their numbers, said before there is a batch. */
static int check_numbers(const fa_step *s) {
    const fa_attention_params *p = &s->attention;
    switch (s->kind) {
    case FA_STEP_LAYER_NORM: case FA_STEP_RMS_NORM: case FA_STEP_NORMALIZE: return within(s->eps, 0);
    case FA_STEP_ATTENTION:
        return within(p->scale, -FLT_MAX) && within(p->softcap, 0) && p->window_left >= -1 && p->window_left <= MOST_ROWS &&
               p->window_right >= -1 && p->window_right <= MOST_ROWS && p->sink_tokens >= 0 && p->sink_tokens <= MOST_ROWS &&
               p->chunk >= 0 && p->chunk <= MOST_ROWS;
    case FA_STEP_DISENTANGLED: return within(s->disentangled.scale, -FLT_MAX);
    case FA_STEP_CLAMP: return s->scale >= 0;
    default: return 1;
    }
}

static fa_status check_sizes(const fa_program *program) {
    for (int kind = 0; kind < FA_ROW_KINDS; kind++) {
        const int64_t columns = program->columns[kind];
        if (columns < 0 || columns % 16 || columns > MOST_COLUMNS) return FA_ERR_SHAPE;
    }
    if (program->n_steps < 0 || program->n_arrays < 0 || program->n_layers < 0 || program->n_groups < 0 ||
        program->n_states < 0)
        return FA_ERR_SHAPE;
    for (int32_t i = 0; i < program->n_arrays; i++) {
        const fa_array *array = &program->arrays[i];
        if (array->dtype != FA_F32 && array->dtype != FA_I64) return FA_ERR_DTYPE;
        if (array->ndim < 1 || array->ndim > 4 || array->rows < -1 || array->rows >= FA_ROW_KINDS) return FA_ERR_SHAPE;
        if (array->more < 0 || array->more > 1 || array->width < -1 || array->width > MOST_COLUMNS) return FA_ERR_SHAPE;
    }
    return FA_OK;
}

fa_status fa_program_check(const fa_program *program, int64_t *bad) {
    *bad = -1;
    const fa_status status = check_sizes(program);
    if (status != FA_OK) return status;
    for (int64_t i = 0; i < program->n_steps; i++) {
        fa_step *step = &program->steps[i];
        *bad = i;
        if (step->kind < 0 || step->kind >= KINDS || !kinds[step->kind].check) return FA_ERR_VALUE;
        if (!fits(program, &step->out) || (step->kind != FA_STEP_EMBED && !fits(program, &step->x))) return FA_ERR_SHAPE;
        if ((is_there(&step->y) && !fits(program, &step->y)) || (is_there(&step->z) && !fits(program, &step->z))) return FA_ERR_SHAPE;
        if (!kinds[step->kind].check(program, step)) return FA_ERR_SHAPE;
        if (!check_numbers(step)) return FA_ERR_VALUE;
        step->like = i;
        for (int64_t j = 0; j < i && step->like == i; j++)
            if (program->steps[j].like == j && wants_as(&program->steps[j], step)) step->like = j;
    }
    *bad = -1;
    return FA_OK;
}

static fa_status check_array(const fa_batch *batch, const fa_array *expected, const fa_view *array) {
    if (array->ndim == 0) return expected->optional ? FA_OK : FA_ERR_VALUE;
    if (array->ndim != expected->ndim) return FA_ERR_SHAPE;
    if (array->dtype != expected->dtype) return FA_ERR_DTYPE;
    if (expected->rows >= 0 && array->shape[0] != batch->rows[expected->rows] + expected->more) return FA_ERR_SHAPE;
    if (expected->ndim == 2 && expected->width >= 0 && array->shape[1] != expected->width) return FA_ERR_SHAPE;
    /* a unit last stride: attention reads ends and positions one behind the other */
    return fa_check_view(array, array->ndim, FA_IS(expected->dtype));
}

static fa_status check_batch(const fa_program *program, const fa_batch *batch) {
    for (int kind = 0; kind < FA_ROW_KINDS; kind++)
        if (batch->rows[kind] < 0 || batch->rows[kind] > MOST_ROWS) return batch->rows[kind] < 0 ? FA_ERR_SHAPE : FA_ERR_MEMORY;
    if (batch->n_arrays != program->n_arrays) return FA_ERR_SHAPE;
    if (batch->layers && (!batch->groups || batch->n_layers != program->n_layers || batch->n_groups != program->n_groups))
        return FA_ERR_SHAPE;
    if (batch->states && batch->n_states != program->n_states) return FA_ERR_SHAPE;
    if (program->n_states && !batch->states != !batch->layers) return FA_ERR_VALUE; /* what a sequence keeps, it keeps all */
    if (batch->states && program->n_states && (!batch->state_from || !batch->state_to)) return FA_ERR_VALUE;
    for (int32_t i = 0; i < program->n_arrays; i++) {
        const fa_status status = check_array(batch, &program->arrays[i], &batch->arrays[i]);
        if (status != FA_OK) return status;
    }
    return FA_OK;
}

/* The tables of all kinds one behind the other, then the workspace of the steps. */
static void carve(fa_arena *arena, const fa_program *program, const fa_batch *batch, prog_run *run) {
    for (int kind = 0; kind < FA_ROW_KINDS; kind++) {
        const size_t columns = (size_t)program->columns[kind];
        if (columns > SIZE_MAX / sizeof(float)) arena->overflow = 1;
        else run->tables[kind] = fa_arena_take(arena, (size_t)batch->rows[kind], columns * sizeof(float));
    }
    if (arena->used > PTRDIFF_MAX) arena->overflow = 1; /* steps find their columns by 64 bits */
    run->ws = fa_arena_take(arena, run->ws_bytes, 1);
}

static int like_view(const fa_view *a, const fa_view *b) {
    if (a->ndim != b->ndim || a->dtype != b->dtype) return 0;
    for (int i = 0; i < a->ndim; i++)
        if (a->shape[i] != b->shape[i] || a->stride[i] != b->stride[i]) return 0;
    return 1;
}

/* Whether another step has the size of this one. Layers of a group may store their keys as other types, or lie otherwise. */
static int is_known(const prog_run *run, const fa_step *step) {
    const fa_step *like = &run->program->steps[step->like];
    if (like == step || step->kind != FA_STEP_ATTENTION || step->layer < 0 || !run->batch->layers) return like != step;
    const fa_memory_layer *a = &run->batch->layers[step->layer], *b = &run->batch->layers[like->layer];
    return like_view(&a->k, &b->k) && like_view(&a->v, &b->v);
}

static fa_status measure(const prog_run *run, size_t *most) {
    *most = 0;
    for (int64_t i = 0; i < run->program->n_steps; i++) {
        const fa_step *step = &run->program->steps[i];
        size_t size = 0;
        if (is_known(run, step)) continue;
        const fa_status status = kinds[step->kind].run(run, step, &size);
        if (status != FA_OK) return status;
        if (size > *most) *most = size;
    }
    return FA_OK;
}

fa_status fa_program_space(const fa_ctx *ctx, const fa_program *program, const fa_batch *batch, size_t *bytes) {
    static float nothing[FA_ALIGN];
    prog_run run = {.ctx = ctx, .program = program, .batch = batch};
    fa_arena arena = {0};
    *bytes = 0;
    fa_status status = check_batch(program, batch);
    if (status != FA_OK) return status;
    carve(&arena, program, batch, &run); /* tables that cannot be have no columns to look at */
    if (arena.overflow) return FA_ERR_MEMORY;
    for (int kind = 0; kind < FA_ROW_KINDS; kind++) run.tables[kind] = nothing;
    status = measure(&run, &run.ws_bytes);
    if (status != FA_OK) return status;
    arena = (fa_arena){0};
    carve(&arena, program, batch, &run);
    if (arena.overflow) return FA_ERR_MEMORY;
    *bytes = arena.used;
    return FA_OK;
}

fa_status fa_program_run(const fa_ctx *ctx, const fa_program *program, const fa_batch *batch, void *ws, size_t ws_bytes,
                         int64_t *bad) {
    prog_run run = {.ctx = ctx, .program = program, .batch = batch};
    fa_arena arena = {0};
    *bad = -1;
    fa_status status = check_batch(program, batch);
    if (status != FA_OK) return status;
    carve(&arena, program, batch, &run); /* what is left behind the tables is for the steps, which look whether it is enough */
    if (arena.overflow) return FA_ERR_MEMORY;
    if ((ws_bytes && !ws) || ws_bytes < arena.used || (uintptr_t)ws % FA_ALIGN) return FA_ERR_WORKSPACE;
    run.ws_bytes = ws_bytes - arena.used;
    arena = (fa_arena){.base = ws};
    carve(&arena, program, batch, &run);
    fa_team_begin(ctx);
    for (int64_t i = 0; i < program->n_steps && status == FA_OK; i++) {
        *bad = i;
        status = fa_stopping(ctx->stop) ? FA_STOPPED : kinds[program->steps[i].kind].run(&run, &program->steps[i], NULL);
    }
    fa_team_end();
    if (status == FA_OK) *bad = -1;
    return status;
}
