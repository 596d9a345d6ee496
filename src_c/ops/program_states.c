/* SPDX-License-Identifier: MIT */
/* Steps that keep a state between the runs of a program, and those that make what such steps take. */
#include <float.h>

#include "program.h"

/* The ends of the sequences, of which there are so many as slots. */
static int check_ends(const fa_program *p, const fa_step *s) {
    if (s->index[0] < 0 || s->index[0] >= p->n_arrays || s->state < 0 || s->state >= p->n_states) return 0;
    const fa_array *ends = &p->arrays[s->index[0]];
    return ends->dtype == FA_I64 && ends->ndim == 1 && ends->rows >= 0 && ends->more == 1 && !ends->optional;
}

static const fa_view *state_of(const prog_run *run, const fa_step *step) {
    return run->batch->states ? &run->batch->states[step->state] : NULL;
}

/* ---- short convolutions ---------------------------------------------------------------------------------------------- */

int prog_check_conv(const fa_program *p, const fa_step *s) {
    if (s->x.rows != s->out.rows || s->x.width != s->out.width || !apart(&s->out, &s->x, 0)) return 0;
    if (s->n_tables != 1 || fa_check_f32(&s->tables[0], 2) != FA_OK || s->tables[0].shape[1] != s->x.width) return 0;
    if (s->tables[0].shape[0] < 1 || s->tables[0].shape[0] > FA_MAX_CONV) return 0;
    return check_ends(p, s) && act_is(s->act) && (!s->bias.ndim || vector_is(&s->bias, s->x.width));
}

fa_status prog_run_conv(const prog_run *run, const fa_step *step, size_t *size) {
    if (size) return FA_OK;
    const fa_view out = view_of(run, &step->out), x = view_of(run, &step->x), *ends = array_of(run, step, 0);
    if (!covers(ends, x.shape[0])) return FA_ERR_VALUE;
    const fa_short_conv_params params = {
        .weight = &step->tables[0], .bias = given(&step->bias), .act = (fa_activation)step->act, .cu = ends->data,
        .n_seq = ends->shape[0] - 1, .states = state_of(run, step), .from = run->batch->state_from, .to = run->batch->state_to,
    };
    return fa_short_conv(run->ctx, &out, &x, &params);
}

/* ---- linear attention -------------------------------------------------------------------------------------------------- */

static int gate_fits(const fa_step *s, const fa_value *gate, int64_t width) {
    return gate->rows == s->out.rows && gate->width == width && apart(&s->out, gate, 0);
}

int prog_check_mixing(const fa_program *p, const fa_step *s) {
    const int64_t most = FA_MAX_HEAD_DIM;
    if (s->head_size < 1 || s->head_size > most || s->v_head_size < 1 || s->v_head_size > most) return 0;
    if (s->heads < 1 || s->heads > s->out.width || s->kv_heads < 1 || s->heads % s->kv_heads) return 0;
    if (s->x.width != s->kv_heads * s->head_size || s->y.width != s->x.width) return 0;
    if (s->z.width != s->heads * s->v_head_size || s->out.width != s->z.width) return 0;
    if (s->x.rows != s->out.rows || s->y.rows != s->x.rows || s->z.rows != s->x.rows) return 0;
    if (!apart(&s->out, &s->x, 0) || !apart(&s->out, &s->y, 0) || !apart(&s->out, &s->z, 0)) return 0;
    const fa_value *gates[] = {&s->decay, &s->beta};
    for (int i = 0; i < 2; i++)
        if (is_there(gates[i]) && !fits(p, gates[i])) return 0;
    if (is_there(&s->decay) && !gate_fits(s, &s->decay, s->heads) && !gate_fits(s, &s->decay, s->heads * s->head_size)) return 0;
    if (is_there(&s->beta) && !gate_fits(s, &s->beta, s->heads)) return 0;
    return check_ends(p, s) && s->scale >= -FLT_MAX && s->scale <= FLT_MAX;
}

/* (1, rows, heads, size) of columns head by head. */
static fa_view tokens_of(const prog_run *run, const fa_value *value, int64_t heads) {
    const fa_view rows = view_of(run, value);
    const int64_t size = value->width / heads;
    return (fa_view){.data = rows.data, .shape = {1, rows.shape[0], heads, size}, .stride = {0, rows.stride[0], size * 4, 4},
                     .ndim = 4, .dtype = FA_F32};
}

fa_status prog_run_mixing(const prog_run *run, const fa_step *step, size_t *size) {
    const fa_view q = tokens_of(run, &step->x, step->kv_heads), k = tokens_of(run, &step->y, step->kv_heads);
    const fa_view v = tokens_of(run, &step->z, step->heads), out = tokens_of(run, &step->out, step->heads);
    const fa_view *ends = array_of(run, step, 0), *table = state_of(run, step);
    fa_view decay, beta, states;
    if (!covers(ends, q.shape[1])) return FA_ERR_VALUE;
    fa_linear_attention_params params = {.scale = step->scale, .cu = ends->data, .n_seq = ends->shape[0] - 1};
    if (is_there(&step->decay)) {
        decay = tokens_of(run, &step->decay, step->heads);
        params.decay = &decay;
        params.rule |= FA_RULE_GATED;
    }
    if (is_there(&step->beta)) {
        const fa_view rows = view_of(run, &step->beta);
        beta = (fa_view){.data = rows.data, .shape = {1, 1, rows.shape[0], step->heads}, .stride = {0, 0, rows.stride[0], 4},
                         .ndim = 4, .dtype = FA_F32};
        params.beta = &beta;
        params.rule |= FA_RULE_DELTA;
    }
    if (table) {
        const int64_t row = step->v_head_size * 4, head = step->head_size * row;
        if (fa_check_f32(table, 2) != FA_OK || table->shape[1] != step->heads * step->head_size * step->v_head_size) return FA_ERR_SHAPE;
        states = (fa_view){.data = table->data, .shape = {table->shape[0], step->heads, step->head_size, step->v_head_size},
                           .stride = {table->stride[0], head, row, 4}, .ndim = 4, .dtype = FA_F32};
        params.state = &states;
        params.from = run->batch->state_from;
        params.to = run->batch->state_to;
    }
    const fa_view *after = table ? &states : NULL;
    if (size) return fa_linear_attention_workspace(run->ctx, &out, after, &q, &k, &v, &params, size);
    return fa_linear_attention(run->ctx, &out, after, &q, &k, &v, &params, run->ws, run->ws_bytes);
}

/* ---- gates ------------------------------------------------------------------------------------------------------------- */

int prog_check_gates(const fa_program *p, const fa_step *s) {
    (void)p;
    if (s->x.rows != s->out.rows || s->x.width != s->out.width || !apart(&s->out, &s->x, 1)) return 0;
    if (is_there(&s->y) && s->y.rows != s->x.rows) return 0;
    const int weighs = s->weight.ndim && vector_is(&s->weight, s->out.width);
    switch (s->kind) {
    case FA_STEP_SOFTPLUS:
        return (!s->weight.ndim || weighs) && (!s->bias.ndim || vector_is(&s->bias, s->out.width)) && s->eps >= 0 && s->scale >= s->eps &&
               (s->act == 0 || s->act == 1);
    case FA_STEP_SCALE_HEADS: return is_there(&s->y) && s->x.width % s->y.width == 0 && apart(&s->out, &s->y, 0);
    default: return weighs && (!is_there(&s->y) || (s->y.width == s->x.width && apart(&s->out, &s->y, 1)));
    }
}

fa_status prog_run_gates(const prog_run *run, const fa_step *step, size_t *size) {
    if (size) return FA_OK;
    const fa_view out = view_of(run, &step->out), x = view_of(run, &step->x);
    fa_view y;
    if (is_there(&step->y)) y = view_of(run, &step->y);
    switch (step->kind) {
    case FA_STEP_SOFTPLUS:
        return fa_softplus(run->ctx, &out, &x, given(&step->bias), given(&step->weight), step->act, step->eps, step->scale);
    case FA_STEP_SCALE_HEADS: return fa_scale_heads(run->ctx, &out, &x, &y);
    default: return fa_columns(run->ctx, &out, &x, is_there(&step->y) ? &y : NULL, &step->weight);
    }
}
