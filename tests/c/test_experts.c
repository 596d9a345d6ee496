/* SPDX-License-Identifier: MIT */
/*
 * Experts: for each row the bytes of its experts' products one by one, weighted and added in the order of its routes, by the
 * operators of those names; on every instruction set, in every storage type, whatever rows stand beside it. Experts that
 * nobody takes are not there at all: their weights lie behind the guard page.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

typedef struct experts_case {
    const char *name;
    int64_t rows, width, count, inner, top;
    fa_dtype dtype;
    int32_t act, gate, before, bias;
    int64_t used; /* experts 0..used - 1 are taken, 0: all */
} experts_case;

static const experts_case cases[] = {
    {"1x1", 1, 1, 1, 1, 1, FA_F32, FA_ACT_NONE, 0, 0, 0, 0},
    {"one expert", 9, 20, 1, 17, 1, FA_F32, FA_ACT_SILU, 0, 0, 0, 0},
    {"decode", 1, 48, 8, 33, 2, FA_F32, FA_ACT_SILU, 0, 0, 0, 0},
    {"two of eight", 41, 40, 8, 24, 2, FA_F32, FA_ACT_SILU, 0, 0, 0, 0},
    {"all of five", 12, 33, 5, 7, 5, FA_F32, FA_ACT_GELU_TANH, 0, 0, 0, 0},
    {"many of many", 23, 16, 40, 16, 22, FA_F32, FA_ACT_SILU, 0, 0, 0, 0},
    {"biases", 19, 35, 6, 21, 3, FA_F32, FA_ACT_GELU, 0, 0, 1, 0},
    {"clamped, biases", 19, 35, 6, 21, 4, FA_F32, 0, FA_GATE_CLAMPED, 0, 1, 0},
    {"weights before", 14, 30, 4, 40, 2, FA_F32, FA_ACT_SILU, 0, 1, 0, 0},
    {"nobody takes most", 21, 40, 60, 24, 3, FA_F32, FA_ACT_SILU, 0, 0, 1, 4},
    {"fp16", 17, 41, 5, 19, 2, FA_F16, FA_ACT_SILU, 0, 0, 1, 0},
    {"bf16", 17, 41, 5, 19, 2, FA_BF16, FA_ACT_SILU, 0, 0, 1, 3},
    {"int8", 17, 70, 5, 130, 2, FA_I8, FA_ACT_SILU, 0, 0, 1, 3},
    {"fp16, one row", 1, 400, 4, 100, 3, FA_F16, FA_ACT_SILU, 0, 0, 0, 0},
    {"int8, one row", 1, 64, 4, 64, 3, FA_I8, FA_ACT_RELU, 0, 0, 0, 0},
    {"more than a block", 2100, 5, 3, 4, 2, FA_F32, FA_ACT_SILU, 0, 0, 0, 0},
    {"no rows", 0, 8, 4, 6, 2, FA_F32, FA_ACT_SILU, 0, 0, 0, 0},
};

enum { ALPHA_BITS = 0x3fd9db23 }; /* 1.702 */

typedef struct bank {
    fa_linear_weights weights;
    float *bias;
    fa_view bias_view;
    int64_t outputs, inputs;
    size_t each; /* bytes of an expert */
} bank;

static int64_t there(const experts_case *c) { return c->used ? c->used : c->count; }

/* The experts that are taken; whoever reads another one meets a guard page. */
static bank bank_make(const experts_case *c, int64_t outputs, int64_t inputs, guard_side side, uint64_t seed) {
    const fa_ctx ctx = {.kernels = fa_kernels_for(0), .num_threads = 1};
    bank b = {.weights.dtype = c->dtype, .outputs = outputs, .inputs = inputs};
    const int64_t span = fa_expert_span(outputs), rows = there(c) * span, shape[2] = {outputs, inputs};
    expect_status("packed bytes", fa_linear_packed_bytes(c->dtype, span, inputs, &b.each), FA_OK);
    if (b.each % 64) fail("an expert takes %zu bytes", b.each);
    b.weights.panels = guard_alloc(b.each * (size_t)there(c), side, "panels");
    memset(b.weights.panels, 0, b.each * (size_t)there(c));
    if (c->dtype == FA_I8) {
        b.weights.scale = guard_alloc((size_t)rows * 4, side, "scale");
        b.weights.sums = guard_alloc((size_t)rows * 4, side, "sums");
        memset(b.weights.scale, 0, (size_t)rows * 4), memset(b.weights.sums, 0, (size_t)rows * 4);
    }
    b.bias = guard_alloc((size_t)(c->count * span) * 4, side, "bias");
    for (int64_t i = 0; i < c->count * span; i++) b.bias[i] = bell(seed + 1, (uint64_t)i) * 0.5f;
    for (int64_t e = 0; e < there(c); e++) {
        tensor w = tensor_make("weight", FA_F32, 2, shape, DENSE, GUARD_BACK);
        for (int64_t i = 0; i < outputs * inputs; i++)
            *(float *)view_at(&w.view, i) = bell(seed, (uint64_t)(e * outputs * inputs + i)) * 0.25f;
        fa_linear_weights one = b.weights;
        one.panels = (char *)b.weights.panels + (size_t)e * b.each;
        if (one.scale) one.scale += e * span, one.sums += e * span;
        expect_status("pack", fa_linear_pack(&ctx, &one, &w.view), FA_OK);
        tensor_free(&w);
    }
    b.bias_view = (fa_view){b.bias, {c->count * span}, {4}, 1, FA_F32};
    void *blocks[] = {b.weights.panels, b.weights.scale, b.weights.sums, b.bias};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if (blocks[i]) guard_seal(blocks[i]);
    return b;
}

static void bank_free(bank *b) {
    void *blocks[] = {b->weights.panels, b->weights.scale, b->weights.sums, b->bias};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if (blocks[i]) expect_clean("bank", guard_free(blocks[i]));
}

static float input(int64_t i) { return bell(3, (uint64_t)i); }

/* top different experts of a row, in no order, and weights between 0 and 1. */
static void routes_of(const experts_case *c, int64_t row, float *routes) {
    int64_t at = (int64_t)(hash_at(11, (uint64_t)row) % (uint64_t)there(c));
    int64_t step = 1 + (int64_t)(hash_at(12, (uint64_t)row) % (uint64_t)there(c));
    while (step > 1) { /* coprime to the number of experts, so that all are met */
        int64_t a = step, b = there(c);
        while (b) { const int64_t rest = a % b; a = b, b = rest; }
        if (a == 1) break;
        step--;
    }
    for (int64_t j = 0; j < c->top; j++, at += step) {
        routes[j] = (float)(at % there(c));
        routes[c->top + j] = (float)(hash_at(13, (uint64_t)(row * c->top + j)) % 1000) / 1000.0f;
    }
}

static fa_experts_params params_of(const experts_case *c, const bank *up, const bank *down) {
    return (fa_experts_params){.count = c->count, .inner = c->inner, .top = c->top, .gate = c->gate, .act = c->act,
                               .alpha = float_from_bits(ALPHA_BITS), .limit = 0.75f, .before = c->before, .up = &up->weights,
                               .down = &down->weights, .up_bias = c->bias ? &up->bias_view : NULL,
                               .down_bias = c->bias ? &down->bias_view : NULL};
}

/* Rows first..first + rows. */
static void run(const experts_case *c, const variant *v, int64_t first, int64_t rows, float *got) {
    case_variant(v);
    fa_ctx ctx = variant_ctx(v);
    const int64_t shape[2] = {rows, c->width}, routed[2] = {rows, 2 * c->top};
    bank up = bank_make(c, 2 * c->inner, c->width, v->side, 20), down = bank_make(c, c->width, c->inner, v->side, 30);
    tensor x = tensor_make("x", FA_F32, 2, shape, v->layout, v->side), out = tensor_make("out", FA_F32, 2, shape, v->layout, v->side);
    tensor routes = tensor_make("routes", FA_F32, 2, routed, v->layout, v->side);
    for (int64_t i = 0; i < rows * c->width; i++) *(float *)view_at(&x.view, i) = input(first * c->width + i);
    for (int64_t i = 0; i < rows; i++) {
        float row[128];
        routes_of(c, first + i, row);
        for (int64_t j = 0; j < 2 * c->top; j++) *(float *)view_at(&routes.view, i * 2 * c->top + j) = row[j];
    }
    guard_seal(x.memory), guard_seal(routes.memory);
    const fa_experts_params p = params_of(c, &up, &down);
    size_t bytes = 0;
    expect_status("query", fa_experts_workspace(&ctx, &out.view, &x.view, &routes.view, &p, &bytes), FA_OK);
    void *ws = guard_alloc(bytes, v->side, "workspace");
    if (v->hostile) memset(ws, 0xff, bytes);
    hostile_enter(v);
    const fa_status status = fa_experts(&ctx, &out.view, &x.view, &routes.view, &p, ws, bytes);
    hostile_leave(v);
    expect_status("experts", status, FA_OK);
    expect_clean("workspace", guard_free(ws));
    tensor_gather(&out, got);
    expect_clean("out", tensor_free_output(&out));
    expect_clean("x", tensor_free(&x));
    expect_clean("routes", tensor_free(&routes));
    bank_free(&up), bank_free(&down);
}

/* ---- by hand ------------------------------------------------------------------------------------------------------- */

static fa_view row_of(float *data, int64_t width) { return (fa_view){data, {1, width}, {width * 4, 4}, 2, FA_F32}; }

static void linear_of(const fa_ctx *ctx, const experts_case *c, const bank *b, int64_t e, float *x, float *out) {
    const int64_t at = e * fa_expert_span(b->outputs);
    fa_linear_weights one = b->weights;
    one.panels = (char *)one.panels + (size_t)e * b->each;
    if (one.scale) one.scale += at, one.sums += at;
    const fa_view bias = {b->bias + at, {b->outputs}, {4}, 1, FA_F32}, in = row_of(x, b->inputs), to = row_of(out, b->outputs);
    size_t bytes = 0;
    expect_status("query", fa_linear_workspace(ctx, &to, &in, c->dtype, &bytes), FA_OK);
    void *ws = guard_alloc(bytes, GUARD_BACK, "workspace by hand");
    expect_status("linear", fa_linear(ctx, &to, &in, &one, c->bias ? &bias : NULL, FA_ACT_NONE, ws, bytes), FA_OK);
    guard_free(ws);
}

/* min(g, limit) sigmoid(alpha ...) (u + 1): each step rounded to float, sigmoid by the library's activation. */
static float clamped(const fa_ctx *ctx, float g, float u) {
    const float limit = 0.75f;
    g = g > limit ? limit : g;
    u = u > limit ? limit : u < -limit ? -limit : u;
    float turned = float_from_bits(ALPHA_BITS) * g, sigmoid;
    const fa_view in = row_of(&turned, 1), out = row_of(&sigmoid, 1);
    expect_status("sigmoid", fa_activate(ctx, &out, &in, FA_ACT_SIGMOID), FA_OK);
    return g * sigmoid * (u + 1.0f);
}

static void by_hand(const experts_case *c, float *all) {
    const fa_ctx ctx = {.kernels = fa_kernels_for(0), .num_threads = 1};
    bank up = bank_make(c, 2 * c->inner, c->width, GUARD_BACK, 20), down = bank_make(c, c->width, c->inner, GUARD_BACK, 30);
    float *x = scratch(c->width, 4), *both = scratch(2 * c->inner, 4), *y = scratch(c->width, 4), routes[128];
    for (int64_t i = 0; i < c->rows; i++) {
        float *out = all + i * c->width;
        routes_of(c, i, routes);
        for (int64_t j = 0; j < c->top; j++) {
            const fa_view in = row_of(x, c->width), given = row_of(y, c->width), to = row_of(out, c->width);
            const fa_view g = row_of(both, c->inner), u = row_of(both + c->inner, c->inner);
            for (int64_t k = 0; k < c->width; k++) x[k] = input(i * c->width + k);
            if (c->before) expect_status("scale", fa_scale(&ctx, &in, &in, routes[c->top + j]), FA_OK);
            linear_of(&ctx, c, &up, (int64_t)routes[j], x, both);
            if (c->gate == FA_GATE_CLAMPED) {
                for (int64_t k = 0; k < c->inner; k++) both[k] = clamped(&ctx, both[k], both[c->inner + k]);
            } else {
                expect_status("gated", fa_gated(&ctx, &g, &g, &u, (fa_activation)c->act), FA_OK);
            }
            linear_of(&ctx, c, &down, (int64_t)routes[j], both, y);
            if (!c->before) expect_status("scale", fa_scale(&ctx, &given, &given, routes[c->top + j]), FA_OK);
            if (j == 0) memcpy(out, y, (size_t)c->width * 4);
            else expect_status("add", fa_add(&ctx, &to, &to, &given), FA_OK);
        }
    }
    free(x), free(both), free(y);
    bank_free(&up), bank_free(&down);
}

static void run_case(const experts_case *c, const options *o) {
    if (o->quick && c->rows > 1000) return;
    if (!case_begin("experts %s", c->name)) return;
    const int64_t count = c->rows * c->width;
    float *base = scratch(count, sizeof *base), *got = scratch(count, sizeof *got);
    by_hand(c, base);
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int index = 0; index < VARIANTS_PER_ISA; index++) {
            const variant v = variant_of(isa, index);
            run(c, &v, 0, c->rows, got);
            expect_same("out", got, base, count, sizeof *got);
        }
        for (int64_t rows = 1; rows < c->rows && rows < 24; rows += 5) { /* some rows alone */
            const variant v = variant_of(isa, 1);
            run(c, &v, c->rows - rows, rows, got);
            expect_same("the last rows", got, base + (c->rows - rows) * c->width, rows * c->width, sizeof *got);
        }
    }
    const variant first = variant_of(0, 0);
    case_variant(&first);
    case_end(hash_bytes(HASH_START, base, (size_t)count * sizeof *base));
    free(base), free(got);
}

/* ---- what is refused --------------------------------------------------------------------------------------------------- */

static void refused(void) {
    if (!case_begin("experts refused")) return;
    const experts_case c = {"refused", 2, 8, 4, 6, 2, FA_F32, FA_ACT_SILU, 0, 0, 0, 0};
    const variant v = variant_of(0, 0);
    case_variant(&v);
    const fa_ctx ctx = variant_ctx(&v);
    bank up = bank_make(&c, 12, 8, GUARD_BACK, 20), down = bank_make(&c, 8, 6, GUARD_BACK, 30);
    float numbers[64] = {0}, out[16];
    memset(out, 7, sizeof out);
    _Alignas(64) static char ws[1 << 20];
#define GIVES(change, before, status) \
    do { \
        float named[8] = {0, 3, 0.5f, 0.5f, 2, 1, 0.5f, 0.5f}; \
        fa_view x = {numbers, {2, 8}, {32, 4}, 2, FA_F32}, to = {out, {2, 8}, {32, 4}, 2, FA_F32}, routes = {named, {2, 4}, {16, 4}, 2, FA_F32}; \
        fa_experts_params p = params_of(&c, &up, &down); \
        fa_view bias = up.bias_view; \
        size_t bytes; \
        change; \
        expect_status(#change, fa_experts_workspace(&ctx, &to, &x, &routes, &p, &bytes), before); \
        expect_status(#change, fa_experts(&ctx, &to, &x, &routes, &p, ws, sizeof ws), status); \
        (void)bias, (void)named; \
    } while (0)
#define REFUSES(change, status) GIVES(change, status, status)
    REFUSES(p.count = 0, FA_ERR_VALUE);
    REFUSES(p.count = FA_MOST_EXPERTS + 1, FA_ERR_VALUE);
    REFUSES(p.top = 0, FA_ERR_VALUE);
    REFUSES(p.top = 5, FA_ERR_VALUE);
    REFUSES(p.top = 1, FA_ERR_SHAPE);
    REFUSES(p.inner = 0, FA_ERR_SHAPE);
    REFUSES(p.inner = INT64_MAX, FA_ERR_SHAPE);
    REFUSES(p.act = FA_ACT_SIGMOID + 1, FA_ERR_VALUE);
    REFUSES(p.act = -1, FA_ERR_VALUE);
    REFUSES(p.gate = 2, FA_ERR_VALUE);
    REFUSES((p.gate = FA_GATE_CLAMPED, p.limit = -1), FA_ERR_VALUE);
    REFUSES((p.gate = FA_GATE_CLAMPED, p.alpha = float_from_bits(CANONICAL_NAN)), FA_ERR_VALUE);
    REFUSES(p.up = NULL, FA_ERR_VALUE);
    REFUSES(p.down = NULL, FA_ERR_VALUE);
    REFUSES((p.up_bias = &bias, bias.shape[0] = 12), FA_ERR_SHAPE);
    REFUSES((p.down_bias = &bias, bias.dtype = FA_I32), FA_ERR_DTYPE);
    REFUSES(x.shape[0] = 1, FA_ERR_SHAPE);
    REFUSES(x.shape[1] = 7, FA_ERR_SHAPE);
    REFUSES(routes.shape[0] = 1, FA_ERR_SHAPE);
    REFUSES(routes.dtype = FA_I32, FA_ERR_DTYPE);
    REFUSES(to.stride[1] = 8, FA_ERR_STRIDE);
    GIVES(named[4] = 4, FA_OK, FA_ERR_VALUE);
    GIVES(named[1] = -1, FA_OK, FA_ERR_VALUE);
    GIVES(named[0] = 0.5f, FA_OK, FA_ERR_VALUE);
    GIVES(named[5] = float_from_bits(CANONICAL_NAN), FA_OK, FA_ERR_VALUE);
    GIVES(named[5] = INFINITY, FA_OK, FA_ERR_VALUE);
    GIVES(named[5] = 2, FA_OK, FA_ERR_VALUE); /* twice in a row */
    {
        float named[8] = {0, 3, 0.5f, 0.5f, 2, 1, 0.5f, 0.5f};
        const fa_view x = {numbers, {2, 8}, {32, 4}, 2, FA_F32}, to = {out, {2, 8}, {32, 4}, 2, FA_F32}, routes = {named, {2, 4}, {16, 4}, 2, FA_F32};
        const fa_experts_params p = params_of(&c, &up, &down);
        expect_status("no workspace", fa_experts(&ctx, &to, &x, &routes, &p, NULL, 0), FA_ERR_WORKSPACE);
        expect_status("little workspace", fa_experts(&ctx, &to, &x, &routes, &p, ws, 64), FA_ERR_WORKSPACE);
        expect_status("crooked workspace", fa_experts(&ctx, &to, &x, &routes, &p, ws + 4, sizeof ws - 4), FA_ERR_WORKSPACE);
    }
#undef GIVES
#undef REFUSES
    for (size_t i = 0; i < sizeof out; i++)
        if (((char *)out)[i] != 7) fail("something was written");
    bank_free(&up), bank_free(&down);
    case_end(HASH_START);
}

static void stopped(void) {
    if (!case_begin("experts stopped")) return;
    const experts_case c = {"stopped", 3, 40, 4, 30, 2, FA_F32, FA_ACT_SILU, 0, 0, 0, 0};
    const variant v = variant_of(0, 0);
    case_variant(&v);
    bank up = bank_make(&c, 60, 40, GUARD_BACK, 20), down = bank_make(&c, 40, 30, GUARD_BACK, 30);
    float numbers[120] = {0}, out[120], named[12];
    for (int i = 0; i < 3; i++) routes_of(&c, i, named + 4 * i);
    _Alignas(64) static char ws[1 << 20];
    fa_stop stop = {.asked = 1};
    fa_ctx ctx = variant_ctx(&v);
    ctx.stop = &stop;
    const fa_view x = {numbers, {3, 40}, {160, 4}, 2, FA_F32}, to = {out, {3, 40}, {160, 4}, 2, FA_F32}, routes = {named, {3, 4}, {16, 4}, 2, FA_F32};
    const fa_experts_params p = params_of(&c, &up, &down);
    expect_status("stopped", fa_experts(&ctx, &to, &x, &routes, &p, ws, sizeof ws), FA_STOPPED);
    bank_free(&up), bank_free(&down);
    case_end(HASH_START);
}

void test_experts(const options *o) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) run_case(&cases[i], o);
    refused();
    stopped();
}
