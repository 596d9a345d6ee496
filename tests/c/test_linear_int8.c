/* SPDX-License-Identifier: MIT */
/*
 * Linear layers with int8 weights: odd sizes around panels, tiles, blocks of 128 rotated inputs; extreme rows. The
 * reference follows linear_int8.h in plain C, with doubles for sums that are exact there, and must be met bit by bit
 * before the activation: the products are integers, and each of the few roundings has its place.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

typedef struct int8_case {
    const char *name;
    int64_t m, n, k;
    int bias;
    fa_activation act;
    float scale; /* of x; 0: 1 */
} int8_case;

static const int8_case cases[] = {
    {"1x1x1", 1, 1, 1, 1, FA_ACT_NONE, 0},         {"1x16x4", 1, 16, 4, 0, FA_ACT_NONE, 0},
    {"2x17x127", 2, 17, 127, 1, FA_ACT_NONE, 0},   {"3x31x128", 3, 31, 128, 0, FA_ACT_NONE, 0},
    {"4x64x129", 4, 64, 129, 1, FA_ACT_NONE, 0},   {"5x33x250", 5, 33, 250, 1, FA_ACT_RELU, 0},
    {"7x200x384", 7, 200, 384, 1, FA_ACT_NONE, 0}, {"8x48x15", 8, 48, 15, 1, FA_ACT_GELU, 0},
    {"9x210x61", 9, 210, 61, 1, FA_ACT_NONE, 0},   {"12x97x50", 12, 97, 50, 1, FA_ACT_SILU, 0},
    {"13x100x31", 13, 100, 31, 0, FA_ACT_TANH, 0}, {"25x20x1000", 25, 20, 1000, 1, FA_ACT_NONE, 0},
    {"211x35x20", 211, 35, 20, 1, FA_ACT_NONE, 0}, {"2100x3x5", 2100, 3, 5, 0, FA_ACT_SIGMOID, 0},
    {"1x1500x12", 1, 1500, 12, 1, FA_ACT_NONE, 0}, {"6x700x400", 6, 700, 400, 1, FA_ACT_GELU_TANH, 0},
    {"huge", 5, 40, 200, 1, FA_ACT_NONE, 0x1p120f}, {"tiny", 5, 40, 200, 0, FA_ACT_NONE, 0x1p-140f},
    {"no inputs", 5, 40, 0, 1, FA_ACT_RELU, 0},    {"no inputs, no bias", 5, 40, 0, 0, FA_ACT_NONE, 0},
    {"no rows", 0, 40, 10, 1, FA_ACT_NONE, 0},     {"no outputs", 5, 0, 10, 0, FA_ACT_NONE, 0},
};

/* ---- linear_int8.h once more ------------------------------------------------------------------------------------- */

static void rotate(float *x) {
    for (int step = 16; step < 128; step *= 2)
        for (int i = 0; i < 128; i++)
            if (!(i & step)) {
                const float a = x[i], b = x[i + step];
                x[i] = a + b, x[i + step] = a - b;
            }
    for (int round = 0; round < 3; round++)
        for (int pair = 0; pair < 128; pair += 32) {
            float t[32];
            for (int i = 0; i < 16; i++) {
                t[i] = x[pair + 2 * i] + x[pair + 2 * i + 1];
                t[i + 16] = x[pair + 2 * i] - x[pair + 2 * i + 1];
            }
            memcpy(x + pair, t, sizeof t);
        }
}

/* q [k], and its scale */
static float quantize(int *q, const fa_view *view, int64_t row, int64_t k, float *x) {
    float factor = 1, top;
    for (int again = 0;; again++) {
        for (int64_t e = 0; e < k; e++) x[e] = *(float *)view_at(view, row * k + e) * factor;
        for (int64_t e = 0; e < k; e++)
            if (e >= k / 128 * 128) x[e] *= 8;
            else if (e % 128 == 0) rotate(x + e);
        top = 0;
        int nan = 0;
        for (int64_t e = 0; e < k; e++) {
            nan |= x[e] != x[e];
            if (fabsf(x[e]) > top) top = fabsf(x[e]);
        }
        if (again || (!nan && top == 0) || (!nan && top >= 0x1p-64f && top <= 0x1p64f)) {
            if (nan || top == INFINITY) return NAN;
            break;
        }
        factor = !nan && top < 0x1p-64f ? 0x1p64f : 0x1p-64f;
    }
    for (int64_t e = 0; e < k; e++) q[e] = top > 0 ? (int)lrint((double)x[e] * (double)(127 / top)) : 0;
    return top > 0 ? top / 127 / factor : 0;
}

typedef struct int8_arrays {
    tensor x, w, bias;
} int8_arrays;

static int8_arrays make_arrays(const int8_case *c, const variant *v, uint64_t seed) {
    const int64_t x_shape[2] = {c->m, c->k}, w_shape[2] = {c->n, c->k};
    int8_arrays a;
    a.x = tensor_make("x", FA_F32, 2, x_shape, v->layout, v->side);
    a.w = tensor_make("weight", FA_F32, 2, w_shape, v->layout, v->side);
    a.bias = tensor_make("bias", FA_F32, 1, &c->n, DENSE, v->side);
    tensor_fill(&a.x, seed * 4 + 1, c->scale != 0 ? c->scale : 1.0f);
    tensor_fill(&a.w, seed * 4 + 2, 0.25f);
    tensor_fill(&a.bias, seed * 4 + 3, 1.0f);
    /* rows that are special: of zeros, of one value, with NaN, with infinity, with one far outlier */
    for (int64_t row = 2; row < c->m && row < 7; row++)
        for (int64_t e = 0; e < c->k; e++) {
            float *at = view_at(&a.x.view, row * c->k + e);
            if (row == 2) *at = 0;
            else if (row == 3) *at = 3.5f * (c->scale != 0 ? c->scale : 1.0f);
            else if (row == 4 && e == c->k / 2) *at = NAN;
            else if (row == 5 && e == c->k - 1) *at = -INFINITY;
            else if (row == 6 && e == c->k / 3) *at *= 1000;
        }
    guard_seal(a.x.memory), guard_seal(a.w.memory), guard_seal(a.bias.memory);
    return a;
}

static void free_arrays(int8_arrays *a) {
    expect_clean("x", tensor_free(&a->x));
    expect_clean("weight", tensor_free(&a->w));
    expect_clean("bias", tensor_free(&a->bias));
}

/* What comes before the activation. */
static void reference(const int8_case *c, const int8_arrays *a, float *out) {
    float *row = scratch(c->k, sizeof *row);
    int *qx = scratch(c->m * c->k, sizeof *qx), *qw = scratch(c->k, sizeof *qw);
    float *sx = scratch(c->m, sizeof *sx);
    for (int64_t m = 0; m < c->m; m++) sx[m] = quantize(qx + m * c->k, &a->x.view, m, c->k, row);
    for (int64_t n = 0; n < c->n; n++) {
        const float sw = quantize(qw, &a->w.view, n, c->k, row) * 0x1p-6f;
        for (int64_t m = 0; m < c->m; m++) {
            int32_t sum = 0;
            for (int64_t e = 0; e < c->k; e++) sum += qx[m * c->k + e] * qw[e];
            const float y = fmaf((float)sum * sw, sx[m], c->bias ? *(float *)view_at(&a->bias.view, n) : 0.0f);
            out[m * c->n + n] = y != y || sx[m] != sx[m] ? float_from_bits(CANONICAL_NAN) : y;
        }
    }
    free(row), free(qx), free(qw), free(sx);
}

static void run(const int8_case *c, const variant *v, uint64_t seed, fa_activation act, float *got, uint64_t *panels) {
    case_variant(v);
    fa_ctx ctx = variant_ctx(v);
    const int64_t out_shape[2] = {c->m, c->n};
    const size_t outputs = (size_t)((c->n + 15) / 16 * 16);
    int8_arrays a = make_arrays(c, v, seed);
    tensor out = tensor_make("out", FA_F32, 2, out_shape, v->layout, v->side);
    size_t packed_bytes = 0, ws_bytes = 0;
    expect_status("packed bytes", fa_linear_packed_bytes(FA_I8, c->n, c->k, &packed_bytes), FA_OK);
    const fa_linear_weights weights = {.dtype = FA_I8, .panels = guard_alloc(packed_bytes, v->side, "panels"),
                                       .scale = guard_alloc(outputs * 4, v->side, "scale"),
                                       .sums = guard_alloc(outputs * 4, v->side, "sums")};
    hostile_enter(v);
    fa_status status = fa_linear_pack(&ctx, &weights, &a.w.view);
    hostile_leave(v);
    expect_status("pack", status, FA_OK);
    guard_seal(weights.panels), guard_seal(weights.scale), guard_seal(weights.sums);
    *panels = hash_bytes(HASH_START, weights.panels, packed_bytes);
    *panels = hash_bytes(hash_bytes(*panels, weights.scale, outputs * 4), weights.sums, outputs * 4);
    expect_status("workspace query", fa_linear_workspace(&ctx, &out.view, &a.x.view, FA_I8, &ws_bytes), FA_OK);
    void *ws = guard_alloc(ws_bytes, v->side, "workspace");
    if (v->hostile) memset(ws, 0xff, ws_bytes);
    hostile_enter(v);
    status = fa_linear(&ctx, &out.view, &a.x.view, &weights, c->bias ? &a.bias.view : NULL, act, ws, ws_bytes);
    hostile_leave(v);
    expect_status("linear", status, FA_OK);
    expect_clean("workspace", guard_free(ws));
    expect_clean("panels", guard_free(weights.panels));
    expect_clean("scale", guard_free(weights.scale));
    expect_clean("sums", guard_free(weights.sums));
    tensor_gather(&out, got);
    expect_clean("out", tensor_free_output(&out));
    free_arrays(&a);
}

static void run_case(const int8_case *c, uint64_t seed) {
    if (!case_begin("linear int8 %s", c->name)) return;
    const int64_t count = c->m * c->n;
    float *base = scratch(count, sizeof *base), *got = scratch(count, sizeof *got), *expected = scratch(count, sizeof *expected);
    uint64_t base_panels, panels;
    variant first = variant_of(0, 0);
    int8_arrays a = make_arrays(c, &first, seed);
    reference(c, &a, expected);
    free_arrays(&a);
    run(c, &first, seed, FA_ACT_NONE, base, &base_panels);
    expect_same("before the activation", base, expected, count, sizeof *base);
    run(c, &first, seed, c->act, base, &base_panels);
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int index = isa == 0; index < VARIANTS_PER_ISA; index++) {
            variant v = variant_of(isa, index);
            run(c, &v, seed, c->act, got, &panels);
            expect_same("out", got, base, count, sizeof *got);
            expect_same("packed weights", &panels, &base_panels, 1, sizeof panels);
        }
    }
    case_variant(&first);
    case_end(hash_bytes(hash_bytes(HASH_START, base, (size_t)count * sizeof *base), &base_panels, sizeof base_panels));
    free(base), free(got), free(expected);
}

/* The bits of a row do not depend on how many rows there are. */
static void rows_alone(void) {
    if (!case_begin("linear int8, rows alone")) return;
    static const int8_case whole = {"", 30, 150, 300, 1, FA_ACT_GELU, 0};
    static float all[30 * 150], one[30 * 150];
    uint64_t panels;
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        variant v = variant_of(isa, 0);
        run(&whole, &v, 999, whole.act, all, &panels);
        for (int64_t m = 1; m < whole.m; m++) { /* the first m rows hold the same values */
            int8_case part = whole;
            part.m = m;
            run(&part, &v, 999, whole.act, one, &panels);
            expect_same("the first rows", one, all, m * whole.n, sizeof *one);
        }
    }
    case_end(hash_bytes(HASH_START, all, sizeof all));
}

void test_linear_int8(const options *o) {
    (void)o;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        run_case(&cases[i], hash_bytes(HASH_START, cases[i].name, strlen(cases[i].name)));
    rows_alone();
}
