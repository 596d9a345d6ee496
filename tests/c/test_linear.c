/* SPDX-License-Identifier: MIT */
/* Packed linear layers: odd sizes around panels, tiles and the chunk of 384 inputs; every activation; strided arrays. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

typedef struct linear_case {
    const char *name;
    int64_t m, n, k;
    int bias;
    fa_activation act;
    float scale; /* of x; 0: 1 */
} linear_case;

static const linear_case cases[] = {
    {"1x1x1", 1, 1, 1, 1, FA_ACT_NONE, 0},       {"1x16x16", 1, 16, 16, 0, FA_ACT_NONE, 0},
    {"1x17x383", 1, 17, 383, 1, FA_ACT_GELU, 0}, {"2x15x384", 2, 15, 384, 1, FA_ACT_NONE, 0},
    {"3x31x385", 3, 31, 385, 1, FA_ACT_RELU, 0}, {"4x64x100", 4, 64, 100, 1, FA_ACT_GELU_TANH, 0},
    {"5x33x33", 5, 33, 33, 1, FA_ACT_SILU, 0},   {"6x130x40", 6, 130, 40, 0, FA_ACT_TANH, 0},
    {"7x80x769", 7, 80, 769, 1, FA_ACT_SIGMOID, 0}, {"8x48x15", 8, 48, 15, 1, FA_ACT_GELU, 0},
    {"11x97x50", 11, 97, 50, 1, FA_ACT_NONE, 0}, {"12x128x17", 12, 128, 17, 1, FA_ACT_NONE, 0},
    {"13x100x31", 13, 100, 31, 1, FA_ACT_GELU, 0}, {"23x16x1000", 23, 16, 1000, 0, FA_ACT_NONE, 0},
    {"25x200x1", 25, 200, 1, 1, FA_ACT_RELU, 0}, {"191x20x9", 191, 20, 9, 1, FA_ACT_NONE, 0},
    {"193x35x20", 193, 35, 20, 1, FA_ACT_GELU, 0}, {"400x3x5", 400, 3, 5, 0, FA_ACT_SILU, 0},
    {"2x1500x12", 2, 1500, 12, 1, FA_ACT_NONE, 0}, {"9x700x400", 9, 700, 400, 1, FA_ACT_NONE, 0},
    {"16x20x500", 16, 20, 500, 1, FA_ACT_GELU, 0}, {"1069x9x330", 1069, 9, 330, 1, FA_ACT_NONE, 0}, /* the last task: 13 rows */
    {"huge", 5, 40, 60, 1, FA_ACT_NONE, 0x1p110f}, {"tiny", 5, 40, 60, 1, FA_ACT_NONE, 0x1p-130f},
    {"no inputs", 5, 40, 0, 1, FA_ACT_RELU, 0},  {"no inputs, no bias", 5, 40, 0, 0, FA_ACT_SIGMOID, 0},
    {"no rows", 0, 40, 10, 1, FA_ACT_NONE, 0},   {"no outputs", 5, 0, 10, 0, FA_ACT_NONE, 0},
};

typedef struct linear_arrays {
    const linear_case *c;
    tensor x, w, bias;
} linear_arrays;

static linear_arrays make_arrays(const linear_case *c, const variant *v, uint64_t seed) {
    const int64_t x_shape[2] = {c->m, c->k}, w_shape[2] = {c->n, c->k};
    linear_arrays a = {.c = c};
    a.x = tensor_make("x", FA_F32, 2, x_shape, v->layout, v->side);
    a.w = tensor_make("weight", FA_F32, 2, w_shape, v->layout, v->side);
    a.bias = tensor_make("bias", FA_F32, 1, &c->n, DENSE, v->side);
    tensor_fill(&a.x, seed * 4 + 1, c->scale != 0 ? c->scale : 1.0f);
    tensor_fill(&a.w, seed * 4 + 2, 0.25f);
    tensor_fill(&a.bias, seed * 4 + 3, 1.0f);
    guard_seal(a.x.memory), guard_seal(a.w.memory), guard_seal(a.bias.memory);
    return a;
}

static void free_arrays(linear_arrays *a) {
    expect_clean("x", tensor_free(&a->x));
    expect_clean("weight", tensor_free(&a->w));
    expect_clean("bias", tensor_free(&a->bias));
}

static double activate_double(fa_activation act, double x) {
    switch (act) {
    case FA_ACT_RELU: return x < 0 ? 0 : x;
    case FA_ACT_GELU: return 0.5 * x * erfc(-x * 0.70710678118654752440);
    case FA_ACT_GELU_TANH: return x / (1 + exp(-2 * 0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    case FA_ACT_SILU: return x / (1 + exp(-x));
    case FA_ACT_TANH: return tanh(x);
    case FA_ACT_SIGMOID: return 1 / (1 + exp(-x));
    default: return x;
    }
}

static float activate_float(fa_activation act, float x) {
    switch (act) {
    case FA_ACT_RELU: return x < 0 ? 0 : x;
    case FA_ACT_GELU: return 0.5f * x * (1 + erff(x * 0.70710678f));
    case FA_ACT_GELU_TANH: return 0.5f * x * (1 + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case FA_ACT_SILU: return x / (1 + expf(-x));
    case FA_ACT_TANH: return tanhf(x);
    case FA_ACT_SIGMOID: return 1 / (1 + expf(-x));
    default: return x;
    }
}

static void linear_double(const linear_arrays *a, double *out) {
    const int64_t n = a->c->n, k = a->c->k;
    for (int64_t i = 0; i < a->c->m * n; i++) {
        double sum = 0;
        for (int64_t e = 0; e < k; e++)
            sum += (double)*(float *)view_at(&a->x.view, i / n * k + e) * *(float *)view_at(&a->w.view, i % n * k + e);
        if (a->c->bias) sum += *(float *)view_at(&a->bias.view, i % n);
        out[i] = activate_double(a->c->act, sum);
    }
}

static void linear_float(void *arg, int order, float *out) {
    const linear_arrays *a = arg;
    const int64_t n = a->c->n, k = a->c->k, start = k * order / NAIVE_ORDERS;
    for (int64_t i = 0; i < a->c->m * n; i++) {
        float sum = 0;
        for (int64_t t = 0; t < k; t++) {
            const int64_t e = (start + t) % k;
            sum += *(float *)view_at(&a->x.view, i / n * k + e) * *(float *)view_at(&a->w.view, i % n * k + e);
        }
        if (a->c->bias) sum += *(float *)view_at(&a->bias.view, i % n);
        out[i] = activate_float(a->c->act, sum);
    }
}

/* Packs and multiplies; `got` gets the output, *panels (may be NULL) the packed weights, *packed_bytes their size. */
static void run(const linear_case *c, const variant *v, uint64_t seed, float *got, uint64_t *panels) {
    case_variant(v);
    fa_ctx ctx = variant_ctx(v);
    const int64_t out_shape[2] = {c->m, c->n};
    linear_arrays a = make_arrays(c, v, seed);
    tensor out = tensor_make("out", FA_F32, 2, out_shape, v->layout, v->side);
    size_t packed_bytes = 0, ws_bytes = 0;
    expect_status("packed bytes", fa_linear_packed_bytes(FA_F32, c->n, c->k, &packed_bytes), FA_OK);
    void *packed = guard_alloc(packed_bytes, v->side, "packed");
    const fa_linear_weights weights = {.dtype = FA_F32, .panels = packed};
    hostile_enter(v);
    fa_status status = fa_linear_pack(&ctx, &weights, &a.w.view);
    hostile_leave(v);
    expect_status("pack", status, FA_OK);
    guard_seal(packed);
    *panels = hash_bytes(HASH_START, packed, packed_bytes);
    expect_status("workspace query", fa_linear_workspace(&ctx, &out.view, &a.x.view, FA_F32, &ws_bytes), FA_OK);
    void *ws = guard_alloc(ws_bytes, v->side, "workspace");
    if (v->hostile) memset(ws, 0xff, ws_bytes);
    hostile_enter(v);
    status = fa_linear(&ctx, &out.view, &a.x.view, &weights, c->bias ? &a.bias.view : NULL, c->act, ws, ws_bytes);
    hostile_leave(v);
    expect_status("linear", status, FA_OK);
    expect_clean("workspace", guard_free(ws));
    expect_clean("packed", guard_free(packed));
    tensor_gather(&out, got);
    expect_clean("out", tensor_free_output(&out));
    free_arrays(&a);
}

static void run_case(const linear_case *c, uint64_t seed) {
    if (!case_begin("linear %s", c->name)) return;
    const int64_t count = c->m * c->n;
    float *base = scratch(count, sizeof *base), *got = scratch(count, sizeof *got);
    double *reference = scratch(count, sizeof *reference);
    uint64_t base_panels, panels;
    variant first = variant_of(0, 0);
    run(c, &first, seed, base, &base_panels);
    linear_arrays a = make_arrays(c, &first, seed);
    linear_double(&a, reference);
    expect_accurate("linear", base, reference, count, linear_float, &a);
    free_arrays(&a);
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int index = isa == 0; index < VARIANTS_PER_ISA; index++) {
            variant v = variant_of(isa, index);
            run(c, &v, seed, got, &panels);
            expect_same("out", got, base, count, sizeof *got);
            expect_same("packed weights", &panels, &base_panels, 1, sizeof panels);
        }
    }
    case_variant(&first);
    case_end(hash_bytes(hash_bytes(HASH_START, base, (size_t)count * sizeof *base), &base_panels, sizeof base_panels));
    free(base), free(got), free(reference);
}

/* The bits of a row do not depend on how many rows there are. */
static void rows_alone(void) {
    if (!case_begin("linear, rows alone")) return;
    static const linear_case whole = {"", 30, 50, 500, 1, FA_ACT_GELU, 0};
    float all[30 * 50], one[30 * 50];
    uint64_t panels;
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        variant v = variant_of(isa, 0);
        run(&whole, &v, 999, all, &panels);
        for (int64_t m = 1; m < whole.m; m++) { /* the first m rows hold the same values */
            linear_case part = whole;
            part.m = m;
            run(&part, &v, 999, one, &panels);
            expect_same("the first rows", one, all, m * whole.n, sizeof *one);
        }
    }
    case_end(hash_bytes(HASH_START, all, sizeof all));
}

/* Weights of 16 bits: the bits of fp32 weights of the same values, whatever the rows, on every ISA. */
static void halves(fa_dtype dtype) {
    if (!case_begin("linear %s", dtype == FA_F16 ? "fp16" : "bf16")) return;
    static const int64_t sizes[][3] = {{1, 40, 20}, {2, 130, 800}, {3, 17, 385}, {4, 96, 384}, {9, 33, 769}, {17, 300, 390},
                                       {300, 20, 400}, {5, 40, 0}};
    uint64_t hash = HASH_START;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const linear_case c = {"", sizes[i][0], sizes[i][1], sizes[i][2], 1, FA_ACT_GELU, 0};
        const int64_t count = c.m * c.n, out_shape[2] = {c.m, c.n};
        float *base = scratch(count, sizeof *base), *got = scratch(count, sizeof *got);
        for (int isa = 0; isa < fa_isa_count(); isa++) {
            if (!isa_selected(isa)) continue;
            for (int index = 0; index < VARIANTS_PER_ISA; index++) {
                const variant v = variant_of(isa, index);
                case_variant(&v);
                fa_ctx ctx = variant_ctx(&v);
                linear_arrays a = make_arrays(&c, &v, i);
                size_t bytes = 0, half_bytes = 0;
                expect_status("packed bytes", fa_linear_packed_bytes(dtype, c.n, c.k, &half_bytes), FA_OK);
                expect_status("packed bytes", fa_linear_packed_bytes(FA_F32, c.n, c.k, &bytes), FA_OK);
                const fa_linear_weights half = {.dtype = dtype, .panels = guard_alloc((half_bytes + 63) / 64 * 64, v.side, "halves")};
                const fa_linear_weights wide = {.dtype = FA_F32, .panels = guard_alloc(bytes, v.side, "floats")};
                hostile_enter(&v);
                fa_status status = fa_linear_pack(&ctx, &half, &a.w.view);
                hostile_leave(&v);
                expect_status("pack", status, FA_OK);
                guard_seal(half.panels);
                const int64_t items = (int64_t)bytes / 4;
                const fa_view from = {half.panels, {1, 1, 1, items}, {items * 2, items * 2, items * 2, 2}, 4, dtype};
                const fa_view to = {wide.panels, {1, 1, 1, items}, {items * 4, items * 4, items * 4, 4}, 4, FA_F32};
                expect_status("widen", fa_convert(&ctx, &to, &from), FA_OK);
                for (int use = isa == 0 && index == 0 ? 0 : 1; use < 2; use++) { /* 0: the fp32 weights, once */
                    const fa_linear_weights *weights = use ? &half : &wide;
                    tensor out = tensor_make("out", FA_F32, 2, out_shape, v.layout, v.side);
                    size_t ws_bytes = 0;
                    expect_status("query", fa_linear_workspace(&ctx, &out.view, &a.x.view, weights->dtype, &ws_bytes), FA_OK);
                    void *ws = guard_alloc(ws_bytes, v.side, "workspace");
                    if (v.hostile) memset(ws, 0xff, ws_bytes);
                    hostile_enter(&v);
                    status = fa_linear(&ctx, &out.view, &a.x.view, weights, &a.bias.view, c.act, ws, ws_bytes);
                    hostile_leave(&v);
                    expect_status("linear", status, FA_OK);
                    expect_clean("workspace", guard_free(ws));
                    tensor_gather(&out, use ? got : base);
                    expect_clean("out", tensor_free_output(&out));
                }
                expect_same("out", got, base, count, sizeof *got);
                expect_clean("halves", guard_free(half.panels));
                expect_clean("floats", guard_free(wide.panels));
                free_arrays(&a);
            }
        }
        hash = hash_bytes(hash, base, (size_t)count * sizeof *base);
        free(base), free(got);
    }
    const variant first = variant_of(0, 0);
    case_variant(&first);
    case_end(hash);
}

void test_linear(const options *o) {
    (void)o;
    halves(FA_F16);
    halves(FA_BF16);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) run_case(&cases[i], hash_bytes(HASH_START, cases[i].name, strlen(cases[i].name)));
    rows_alone();
}
