/* SPDX-License-Identifier: MIT */
/*
 * Drivers of short convolutions and of what makes gates. A task of a convolution owns some columns of one sequence and walks
 * all its tokens: it is the one that reads these columns of the state and writes them, so a state may be replaced in place.
 */
#include <string.h>

#include "../kernels/kernels.h"
#include "../view.h"
#include "parallel.h"

#define CONV_COLUMNS 256 /* of a task: rows of 1 KB, and a few of them fit L1 with their taps */
#define GATE_FLOATS 16384 /* of a task, about */

/* ---- convolutions -------------------------------------------------------------------------------------------------- */

typedef struct conv_job {
    const fa_kernels *kernels;
    const fa_view *out, *x;
    const fa_short_conv_params *params;
    int64_t size, panels; /* tasks of a sequence */
} conv_job;

/* The size - 1 last rows of what was before and of the new ones; `to` may be `before`. */
static void leave_state(float *to, const float *before, const float *x, ptrdiff_t xs, int64_t tokens, int64_t size, int64_t h, int64_t columns) {
    for (int64_t j = 0; j < size - 1; j++) { /* ascending: a row is read before it is written, its place or a later one */
        const int64_t at = tokens - size + 1 + j;
        const float *row = at >= 0 ? x + at * xs : before ? before + (size - 1 + at) * h : NULL;
        if (row == to + j * h) continue;
        if (row) memcpy(to + j * h, row, (size_t)columns * sizeof *to);
        else memset(to + j * h, 0, (size_t)columns * sizeof *to);
    }
}

static void conv_task(void *arg, int64_t task, int worker) {
    const conv_job *job = arg;
    const fa_short_conv_params *params = job->params;
    const int64_t sequence = task / job->panels, first = task % job->panels * CONV_COLUMNS, h = job->x->shape[1];
    const int64_t start = params->cu[sequence], columns = h - first < CONV_COLUMNS ? h - first : CONV_COLUMNS;
    const int64_t from = params->states && params->from ? params->from[sequence] : -1;
    fa_conv run = {
        .out = (float *)fa_row_at(job->out, start, 0, 0) + first, .os = fa_estride(job->out, 0),
        .x = (const float *)fa_row_at(job->x, start, 0, 0) + first, .xs = fa_estride(job->x, 0),
        .before = from >= 0 ? (const float *)fa_row_at(params->states, from, 0, 0) + first : NULL, .bs = h,
        .weight = (const float *)params->weight->data + first, .ws = h,
        .bias = params->bias ? (const float *)params->bias->data + first : NULL,
        .act = (int)params->act, .size = (int)job->size, .tokens = params->cu[sequence + 1] - start, .h = columns,
    };
    (void)worker;
    job->kernels->states.conv(&run);
    if (!params->states) return;
    float *to = (float *)fa_row_at(params->states, params->to[sequence], 0, 0) + first;
    leave_state(to, run.before, run.x, run.xs, run.tokens, job->size, h, columns);
}

static fa_status check_sequences(const fa_short_conv_params *params, int64_t tokens, int64_t width) {
    const fa_view *states = params->states;
    if (!params->cu || params->n_seq < 0) return FA_ERR_VALUE;
    if (params->cu[0] != 0 || params->cu[params->n_seq] != tokens) return FA_ERR_VALUE;
    if (states) {
        const fa_status status = fa_check_f32(states, 2);
        if (status != FA_OK) return status;
        if (states->shape[1] != width) return FA_ERR_SHAPE;
        if (!params->to) return FA_ERR_VALUE;
    }
    for (int64_t i = 0; i < params->n_seq; i++) {
        if (params->cu[i] < 0 || params->cu[i + 1] < params->cu[i]) return FA_ERR_VALUE;
        if (!states) continue;
        if (params->from && (params->from[i] < -1 || params->from[i] >= states->shape[0])) return FA_ERR_VALUE;
        if (params->to[i] < 0 || params->to[i] >= states->shape[0]) return FA_ERR_VALUE;
    }
    return FA_OK;
}

static fa_status check_vector(const fa_view *view, int64_t size) {
    const fa_status status = fa_check_f32(view, 1);
    return status == FA_OK && view->shape[0] != size ? FA_ERR_SHAPE : status;
}

static fa_status check_alike(const fa_view *out, const fa_view *x) {
    fa_status status = fa_check_f32(out, 2);
    if (status == FA_OK) status = fa_check_f32(x, 2);
    if (status != FA_OK) return status;
    return out->shape[0] != x->shape[0] || out->shape[1] != x->shape[1] ? FA_ERR_SHAPE : FA_OK;
}

fa_status fa_short_conv(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_short_conv_params *params) {
    fa_status status = check_alike(out, x);
    if (status == FA_OK) status = params->weight ? fa_check_f32(params->weight, 2) : FA_ERR_VALUE;
    if (status != FA_OK) return status;
    const int64_t size = params->weight->shape[0], h = x->shape[1];
    if (size < 1 || size > FA_MAX_CONV || params->weight->shape[1] != h) return FA_ERR_SHAPE;
    if (size > 1 && params->weight->stride[0] != h * 4) return FA_ERR_STRIDE;
    if (params->bias) status = check_vector(params->bias, h);
    if (status == FA_OK) status = check_sequences(params, x->shape[0], (size - 1) * h);
    if (status != FA_OK) return status;
    if (params->act < FA_ACT_NONE || params->act > FA_ACT_SIGMOID) return FA_ERR_VALUE;
    if (params->n_seq == 0 || h == 0) return FA_OK;
    conv_job job = {ctx->kernels, out, x, params, size, (h - 1) / CONV_COLUMNS + 1};
    const fa_ctx worth = fa_ctx_for_work(ctx, x->shape[0] * h * (size + 4)); /* elements that exist, times at most 68 */
    return fa_parallel_for(&worth, params->n_seq * job.panels, conv_task, &job);
}

/* ---- gates ----------------------------------------------------------------------------------------------------------- */

typedef struct gates_job {
    void (*kernel)(const fa_gates *job);
    fa_gates gates;
    int64_t step; /* rows of a task */
} gates_job;

static void gates_task(void *arg, int64_t task, int worker) {
    const gates_job *job = arg;
    const int64_t first = task * job->step;
    fa_gates gates = job->gates;
    (void)worker;
    gates.out += first * gates.os;
    gates.x += first * gates.xs;
    if (gates.y) gates.y += first * gates.ys;
    gates.rows = gates.rows - first < job->step ? gates.rows - first : job->step;
    job->kernel(&gates);
}

static fa_status gates_run(const fa_ctx *ctx, void (*kernel)(const fa_gates *), fa_gates gates, const fa_view *out, const fa_view *x,
                           const fa_view *y) {
    gates.out = out->data, gates.os = fa_estride(out, 0);
    gates.x = x->data, gates.xs = fa_estride(x, 0);
    if (y) gates.y = y->data, gates.ys = fa_estride(y, 0);
    gates.rows = x->shape[0], gates.h = x->shape[1];
    if (gates.rows == 0 || gates.h == 0) return FA_OK;
    gates_job job = {kernel, gates, gates.h < GATE_FLOATS ? GATE_FLOATS / gates.h : 1};
    return fa_parallel_for(ctx, (gates.rows - 1) / job.step + 1, gates_task, &job);
}

fa_status fa_softplus(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *bias, const fa_view *weight,
                      int exponent, float low, float high) {
    fa_status status = check_alike(out, x);
    if (status == FA_OK && bias) status = check_vector(bias, x->shape[1]);
    if (status == FA_OK && weight) status = check_vector(weight, x->shape[1]);
    if (status != FA_OK) return status;
    if (!(low >= 0.0f && high >= low)) return FA_ERR_VALUE;
    const fa_gates gates = {.bias = bias ? bias->data : NULL, .weight = weight ? weight->data : NULL, .exponent = exponent,
                            .low = low, .high = high};
    return gates_run(ctx, ctx->kernels->states.softplus, gates, out, x, NULL);
}

fa_status fa_scale_heads(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *y) {
    fa_status status = check_alike(out, x);
    if (status == FA_OK) status = fa_check_f32(y, 2);
    if (status != FA_OK) return status;
    if (y->shape[0] != x->shape[0] || y->shape[1] < 1 || x->shape[1] % y->shape[1]) return FA_ERR_SHAPE;
    return gates_run(ctx, ctx->kernels->states.scale_heads, (fa_gates){.size = x->shape[1] / y->shape[1]}, out, x, y);
}

fa_status fa_columns(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *y, const fa_view *weight) {
    fa_status status = check_alike(out, x);
    if (status == FA_OK && y) status = check_alike(y, x);
    if (status == FA_OK) status = check_vector(weight, x->shape[1]);
    if (status != FA_OK) return status;
    return gates_run(ctx, ctx->kernels->states.columns, (fa_gates){.weight = weight->data}, out, x, y);
}
