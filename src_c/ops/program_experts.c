/* SPDX-License-Identifier: MIT */
/* Steps of feed-forward layers of experts: the operators of ops/route.c and ops/experts.c over values. */
#include "program.h"

/* Workspace without rows is asked for where a step is checked: the operators say what is wrong with their numbers. */
static fa_view no_rows(int64_t width) {
    static float nothing;
    return (fa_view){.data = &nothing, .shape = {0, width}, .stride = {width * 4, 4}, .ndim = 2, .dtype = FA_F32};
}

static fa_route_params route_of(const fa_step *step) {
    fa_route_params params = step->route;
    params.bias = given(&step->bias);
    return params;
}

static fa_experts_params experts_of(const fa_step *step) {
    fa_experts_params params = step->experts;
    params.up_bias = given(&step->bias);
    params.down_bias = given(&step->weight);
    return params;
}

static int can_be(const fa_linear_weights *weights, int64_t outputs, int64_t inputs) {
    size_t bytes;
    int64_t codes, scales;
    if (weights->dtype != FA_QUANT) return fa_linear_packed_bytes(weights->dtype, outputs, inputs, &bytes) == FA_OK;
    return weights->n_parts == 1 && fa_quant_panel_bytes(weights->parts[0].type, inputs, &codes, &scales) == FA_OK;
}

int fa_step_check_route(const fa_program *p, const fa_step *s) {
    const fa_ctx ctx = {.num_threads = 1};
    const fa_view out = no_rows(s->out.width), x = no_rows(s->x.width);
    const fa_route_params params = route_of(s);
    size_t size;
    (void)p;
    return s->x.rows == s->out.rows && apart(&s->out, &s->x, 0) && fa_route_workspace(&ctx, &out, &x, &params, &size) == FA_OK;
}

int fa_step_check_experts(const fa_program *p, const fa_step *s) {
    const fa_ctx ctx = {.num_threads = 1};
    const fa_view out = no_rows(s->out.width), x = no_rows(s->x.width), routes = no_rows(s->y.width);
    const fa_experts_params params = experts_of(s);
    size_t size;
    (void)p;
    if (s->x.rows != s->out.rows || !is_there(&s->y) || s->y.rows != s->out.rows) return 0;
    if (!apart(&s->out, &s->x, 0) || !apart(&s->out, &s->y, 0)) return 0;
    if (fa_experts_workspace(&ctx, &out, &x, &routes, &params, &size) != FA_OK) return 0;
    return can_be(params.up, 2 * params.inner, s->x.width) && can_be(params.down, s->x.width, params.inner);
}

fa_status fa_step_route(const prog_run *run, const fa_step *step, size_t *size) {
    const fa_view out = view_of(run, &step->out), x = view_of(run, &step->x);
    const fa_route_params params = route_of(step);
    if (size) return fa_route_workspace(run->ctx, &out, &x, &params, size);
    return fa_route(run->ctx, &out, &x, &params, run->ws, run->ws_bytes);
}

fa_status fa_step_experts(const prog_run *run, const fa_step *step, size_t *size) {
    const fa_view out = view_of(run, &step->out), x = view_of(run, &step->x), routes = view_of(run, &step->y);
    const fa_experts_params params = experts_of(step);
    if (size) return fa_experts_workspace(run->ctx, &out, &x, &routes, &params, size);
    return fa_experts(run->ctx, &out, &x, &routes, &params, run->ws, run->ws_bytes);
}

int fa_step_like_experts(const fa_step *a, const fa_step *b) {
    if (a->kind == FA_STEP_ROUTE)
        return a->route.top == b->route.top && a->route.groups == b->route.groups && a->route.top_groups == b->route.top_groups;
    const fa_experts_params *p = &a->experts, *q = &b->experts;
    return p->count == q->count && p->inner == q->inner && p->top == q->top && p->up->dtype == q->up->dtype &&
           p->down->dtype == q->down->dtype;
}
