/* SPDX-License-Identifier: MIT */
/* layer_norm, rms_norm, softmax, activate, l2_normalize, gated, add: rows of every length around the vector, in place and apart. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

typedef enum row_op { LAYER_NORM, RMS_NORM, SOFTMAX, ACTIVATE, L2_NORMALIZE, GATED, ADD } row_op;
typedef enum place { APART, OUT_IS_X, OUT_IS_RESIDUAL } place;

typedef enum row_fill { ROWS_BELL, ROWS_EQUAL, ROWS_HUGE, ROWS_TINY, ROWS_SHIFTED, ROWS_ZERO, ROWS_SPECIAL } row_fill;

typedef struct row_case {
    const char *name;
    row_op op;
    int64_t m, h;
    int residual, bias;
    fa_activation act;
    row_fill fill;
    place place; /* in the odd variants; the even ones keep everything apart */
} row_case;

static const row_case cases[] = {
    {"layer_norm 1x1", LAYER_NORM, 1, 1, 0, 1, 0, ROWS_BELL, APART},
    {"layer_norm 3x15", LAYER_NORM, 3, 15, 1, 1, 0, ROWS_BELL, OUT_IS_X},
    {"layer_norm 5x16", LAYER_NORM, 5, 16, 0, 0, 0, ROWS_BELL, OUT_IS_X},
    {"layer_norm 4x17", LAYER_NORM, 4, 17, 1, 0, 0, ROWS_BELL, OUT_IS_RESIDUAL},
    {"layer_norm 90x384", LAYER_NORM, 90, 384, 1, 1, 0, ROWS_BELL, OUT_IS_RESIDUAL},
    {"layer_norm 7x1000", LAYER_NORM, 7, 1000, 0, 1, 0, ROWS_BELL, OUT_IS_X},
    {"layer_norm equal", LAYER_NORM, 3, 50, 0, 1, 0, ROWS_EQUAL, APART},
    {"layer_norm shifted", LAYER_NORM, 3, 500, 0, 1, 0, ROWS_SHIFTED, APART},
    {"layer_norm tiny", LAYER_NORM, 3, 50, 0, 1, 0, ROWS_TINY, APART},
    {"layer_norm NaN, inf", LAYER_NORM, 6, 50, 0, 1, 0, ROWS_SPECIAL, OUT_IS_X},
    {"rms_norm 1x1", RMS_NORM, 1, 1, 0, 0, 0, ROWS_BELL, APART},
    {"rms_norm 3x15", RMS_NORM, 3, 15, 1, 0, 0, ROWS_BELL, OUT_IS_X},
    {"rms_norm 50x576", RMS_NORM, 50, 576, 1, 0, 0, ROWS_BELL, OUT_IS_RESIDUAL},
    {"rms_norm 4x33", RMS_NORM, 4, 33, 0, 0, 0, ROWS_BELL, OUT_IS_X},
    {"rms_norm tiny", RMS_NORM, 3, 50, 0, 0, 0, ROWS_TINY, APART},
    {"rms_norm NaN, inf", RMS_NORM, 6, 50, 0, 0, 0, ROWS_SPECIAL, OUT_IS_X},
    {"softmax 1x1", SOFTMAX, 1, 1, 0, 0, 0, ROWS_BELL, APART},
    {"softmax 4x15", SOFTMAX, 4, 15, 0, 0, 0, ROWS_BELL, OUT_IS_X},
    {"softmax 30x1001", SOFTMAX, 30, 1001, 0, 0, 0, ROWS_BELL, OUT_IS_X},
    {"softmax equal", SOFTMAX, 3, 48, 0, 0, 0, ROWS_EQUAL, APART},
    {"softmax huge", SOFTMAX, 3, 48, 0, 0, 0, ROWS_HUGE, APART},
    {"softmax NaN, inf", SOFTMAX, 6, 50, 0, 0, 0, ROWS_SPECIAL, OUT_IS_X},
    {"relu 3x50", ACTIVATE, 3, 50, 0, 0, FA_ACT_RELU, ROWS_BELL, OUT_IS_X},
    {"gelu 40x513", ACTIVATE, 40, 513, 0, 0, FA_ACT_GELU, ROWS_BELL, OUT_IS_X},
    {"gelu_tanh 3x79", ACTIVATE, 3, 79, 0, 0, FA_ACT_GELU_TANH, ROWS_BELL, OUT_IS_X},
    {"silu 3x80", ACTIVATE, 3, 80, 0, 0, FA_ACT_SILU, ROWS_BELL, APART},
    {"tanh 3x63", ACTIVATE, 3, 63, 0, 0, FA_ACT_TANH, ROWS_BELL, OUT_IS_X},
    {"sigmoid 3x65", ACTIVATE, 3, 65, 0, 0, FA_ACT_SIGMOID, ROWS_BELL, OUT_IS_X},
    {"no activation 3x65", ACTIVATE, 3, 65, 0, 0, FA_ACT_NONE, ROWS_SPECIAL, OUT_IS_X},
    {"l2_normalize 1x1", L2_NORMALIZE, 1, 1, 0, 0, 0, ROWS_BELL, APART},
    {"l2_normalize 60x384", L2_NORMALIZE, 60, 384, 0, 0, 0, ROWS_BELL, OUT_IS_X},
    {"l2_normalize huge", L2_NORMALIZE, 3, 50, 0, 0, 0, ROWS_HUGE, OUT_IS_X},
    {"l2_normalize tiny", L2_NORMALIZE, 3, 50, 0, 0, 0, ROWS_TINY, OUT_IS_X},
    {"l2_normalize zeros", L2_NORMALIZE, 2, 20, 0, 0, 0, ROWS_ZERO, APART},
    {"l2_normalize NaN, inf", L2_NORMALIZE, 6, 50, 0, 0, 0, ROWS_SPECIAL, APART},
    {"gated gelu 40x513", GATED, 40, 513, 1, 0, FA_ACT_GELU, ROWS_BELL, OUT_IS_X},
    {"gated silu 3x79", GATED, 3, 79, 1, 0, FA_ACT_SILU, ROWS_BELL, OUT_IS_RESIDUAL},
    {"gated gelu_tanh 5x64", GATED, 5, 64, 1, 0, FA_ACT_GELU_TANH, ROWS_BELL, APART},
    {"gated 3x17", GATED, 3, 17, 1, 0, FA_ACT_NONE, ROWS_BELL, OUT_IS_X},
    {"gated tanh NaN, inf", GATED, 6, 50, 1, 0, FA_ACT_TANH, ROWS_SPECIAL, OUT_IS_X},
    {"add 1x1", ADD, 1, 1, 1, 0, 0, ROWS_BELL, APART},
    {"add 60x385", ADD, 60, 385, 1, 0, 0, ROWS_BELL, OUT_IS_X},
    {"add NaN, inf", ADD, 6, 50, 1, 0, 0, ROWS_SPECIAL, OUT_IS_RESIDUAL},
    {"add no rows", ADD, 0, 8, 1, 0, 0, ROWS_BELL, APART},
    {"gated no columns", GATED, 4, 0, 1, 0, 0, ROWS_BELL, APART},
    {"layer_norm no rows", LAYER_NORM, 0, 8, 1, 1, 0, ROWS_BELL, APART},
    {"softmax no columns", SOFTMAX, 4, 0, 0, 0, 0, ROWS_BELL, APART},
    {"l2_normalize no columns", L2_NORMALIZE, 4, 0, 0, 0, 0, ROWS_BELL, APART},
};

static float eps_of(const row_case *c) { return c->op == LAYER_NORM ? 1e-5f : c->op == RMS_NORM ? 1e-6f : 0.0f; }

/* ---- inputs ------------------------------------------------------------------------------------------------------ */

static void fill_rows(const row_case *c, tensor *t, uint64_t seed) {
    static const uint32_t special[] = {0x7fc00001, 0x7f800000, 0xff800000};
    const float scale = c->fill == ROWS_HUGE ? 0x1p100f : c->fill == ROWS_TINY ? 0x1p-120f : 1.0f;
    const int64_t count = c->m * c->h;
    tensor_fill(t, seed, scale);
    for (int64_t i = 0; i < count; i++) {
        float *x = view_at(&t->view, i);
        const int64_t row = i / c->h;
        if (c->fill == ROWS_EQUAL) *x = 1.0f / 3.0f;
        if (c->fill == ROWS_SHIFTED) *x += 1000.0f;
        if (c->fill == ROWS_ZERO) *x = 0.0f;
        if (c->fill == ROWS_SPECIAL && row < 3 && i % c->h == (row * 23) % c->h) *x = float_from_bits(special[row]);
        if (c->fill == ROWS_SPECIAL && row == 3) *x = -INFINITY;
    }
}

typedef struct row_arrays {
    const row_case *c;
    tensor x, residual, weight, bias;
} row_arrays;

static row_arrays make_arrays(const row_case *c, const variant *v, uint64_t seed) {
    const int64_t shape[2] = {c->m, c->h};
    row_arrays a = {.c = c};
    a.x = tensor_make("x", FA_F32, 2, shape, v->layout, v->side);
    a.residual = tensor_make("residual", FA_F32, 2, shape, v->layout, v->side);
    a.weight = tensor_make("weight", FA_F32, 1, &c->h, DENSE, v->side);
    a.bias = tensor_make("bias", FA_F32, 1, &c->h, DENSE, v->side);
    fill_rows(c, &a.x, seed * 4 + 1);
    tensor_fill(&a.residual, seed * 4 + 2, 1.0f);
    tensor_fill(&a.weight, seed * 4 + 3, 1.0f);
    tensor_fill(&a.bias, seed * 4 + 4, 1.0f);
    return a;
}

/* ---- references -------------------------------------------------------------------------------------------------- */

#define REAL double
#define NAME(name) name##_double
#define FN(name) name
#include "rows_reference.inc"
#undef REAL
#undef NAME
#undef FN

#define REAL float
#define NAME(name) name##_float
#define FN(name) name##f
#include "rows_reference.inc"

static void run_naive(void *arg, int order, float *out) { rows_float(arg, order, out); }

/* ---- one call ---------------------------------------------------------------------------------------------------- */

static void run(const row_case *c, const variant *v, place place, uint64_t seed, float *got) {
    const int64_t shape[2] = {c->m, c->h};
    case_variant(v);
    row_arrays a = make_arrays(c, v, seed);
    tensor apart = tensor_make("out", FA_F32, 2, shape, v->layout, v->side);
    tensor *out = place == OUT_IS_X ? &a.x : place == OUT_IS_RESIDUAL ? &a.residual : &apart;
    if (out != &a.x) guard_seal(a.x.memory);
    if (out != &a.residual) guard_seal(a.residual.memory);
    guard_seal(a.weight.memory), guard_seal(a.bias.memory);
    const fa_view *residual = c->residual ? &a.residual.view : NULL, *bias = c->bias ? &a.bias.view : NULL;
    fa_ctx ctx = variant_ctx(v);
    fa_status status = FA_OK;
    hostile_enter(v);
    switch (c->op) {
    case LAYER_NORM: status = fa_layer_norm(&ctx, &out->view, &a.x.view, residual, &a.weight.view, bias, eps_of(c)); break;
    case RMS_NORM: status = fa_rms_norm(&ctx, &out->view, &a.x.view, residual, &a.weight.view, eps_of(c)); break;
    case SOFTMAX: status = fa_softmax(&ctx, &out->view, &a.x.view); break;
    case ACTIVATE: status = fa_activate(&ctx, &out->view, &a.x.view, c->act); break;
    case GATED: status = fa_gated(&ctx, &out->view, &a.x.view, residual, c->act); break;
    case ADD: status = fa_add(&ctx, &out->view, &a.x.view, residual); break;
    case L2_NORMALIZE: status = fa_l2_normalize(&ctx, &out->view, &a.x.view, eps_of(c)); break;
    }
    hostile_leave(v);
    expect_status(c->name, status, FA_OK);
    tensor_gather(out, got);
    /* elements of an input that was the output have become output: all of it must be as a fresh output is but for them */
    if (out == &apart) expect_clean("out", tensor_free_output(&apart));
    else expect_clean("out", tensor_free_output(out)), expect_clean("unused", tensor_free(&apart));
    if (out != &a.x) expect_clean("x", tensor_free(&a.x));
    if (out != &a.residual) expect_clean("residual", tensor_free(&a.residual));
    expect_clean("weight", tensor_free(&a.weight));
    expect_clean("bias", tensor_free(&a.bias));
}

static void run_case(const row_case *c, uint64_t seed) {
    if (!case_begin("rows %s", c->name)) return;
    const int64_t count = c->m * c->h;
    float *base = scratch(count, sizeof *base), *got = scratch(count, sizeof *got);
    double *reference = scratch(count, sizeof *reference);
    variant first = variant_of(0, 0);
    run(c, &first, APART, seed, base);
    row_arrays a = make_arrays(c, &first, seed);
    rows_double(&a, 0, reference);
    expect_accurate(c->name, base, reference, count, run_naive, &a);
    expect_clean("x", tensor_free(&a.x)), expect_clean("residual", tensor_free(&a.residual));
    expect_clean("weight", tensor_free(&a.weight)), expect_clean("bias", tensor_free(&a.bias));
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int index = isa == 0; index < VARIANTS_PER_ISA; index++) {
            variant v = variant_of(isa, index);
            run(c, &v, index % 2 ? c->place : APART, seed, got);
            expect_same(c->name, got, base, count, sizeof *got);
        }
    }
    case_variant(&first);
    case_end(hash_bytes(HASH_START, base, (size_t)count * sizeof *base));
    free(base), free(got), free(reference);
}

void test_rows(const options *o) {
    (void)o;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) run_case(&cases[i], hash_bytes(HASH_START, cases[i].name, strlen(cases[i].name)));
}
