/* SPDX-License-Identifier: MIT */
/*
 * Short convolutions, held against the loop of fused multiply-adds that defines them, with sequences that come whole and in
 * pieces, their states in place and from slot to slot; and the operators that make gates.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { N = 4, SLOTS = 2 * N };

typedef struct conv_case {
    const char *name;
    int64_t size, h, lengths[N];
    int bias, act;
} conv_case;

static const conv_case cases[] = {
    {"3", 3, 20, {5, 1, 2, 9}, 1, FA_ACT_NONE},
    {"4, silu", 4, 33, {1, 0, 3, 17}, 1, FA_ACT_SILU},
    {"4, more columns than a task has", 4, 530, {3, 2, 1, 4}, 0, FA_ACT_NONE},
    {"1, no state", 1, 16, {4, 0, 1, 2}, 1, FA_ACT_RELU},
    {"2, one column", 2, 1, {1, 2, 3, 4}, 0, FA_ACT_NONE},
    {"longer than every sequence", 64, 5, {1, 2, 7, 11}, 1, FA_ACT_NONE},
    {"no tokens", 3, 8, {0, 0, 0, 0}, 0, FA_ACT_NONE},
};

enum { WHOLE, PACKED, IN_PLACE, FROM_SLOT_TO_SLOT, WAYS };

static int64_t start_of(const conv_case *c, int64_t sequence) { return sequence ? start_of(c, sequence - 1) + c->lengths[sequence - 1] : 0; }

static float element(int64_t sequence, int64_t t, int64_t j, int64_t h) { return bell(40 + (uint64_t)sequence, (uint64_t)(t * h + j)); }

/* The next `take` tokens of each sequence behind its `held`; to `out` of all tokens of all sequences. */
static void piece(const conv_case *c, const variant *v, const int64_t *take, int64_t *held, tensor *states, const int64_t *from,
                  const int64_t *to, float *out) {
    int64_t cu[N + 1] = {0};
    for (int b = 0; b < N; b++) cu[b + 1] = cu[b] + take[b];
    const int64_t rows[2] = {cu[N], c->h}, taps[2] = {c->size, c->h}, one[1] = {c->h};
    tensor x = tensor_make("x", FA_F32, 2, rows, v->layout, v->side), y = tensor_make("out", FA_F32, 2, rows, v->layout, v->side);
    tensor weight = tensor_make("weight", FA_F32, 2, taps, DENSE, v->side), bias = tensor_make("bias", FA_F32, 1, one, DENSE, v->side);
    tensor_fill(&weight, 11, 0.5f), tensor_fill(&bias, 12, 0.5f);
    for (int64_t b = 0; b < N; b++)
        for (int64_t i = 0; i < take[b] * c->h; i++)
            *(float *)view_at(&x.view, cu[b] * c->h + i) = element(b, held[b] + i / c->h, i % c->h, c->h);
    guard_seal(x.memory), guard_seal(weight.memory), guard_seal(bias.memory);
    const fa_short_conv_params p = {
        .weight = &weight.view, .bias = c->bias ? &bias.view : NULL, .act = (fa_activation)c->act, .cu = cu, .n_seq = N,
        .states = states ? &states->view : NULL, .from = from, .to = to,
    };
    const fa_ctx ctx = variant_ctx(v);
    hostile_enter(v);
    const fa_status status = fa_short_conv(&ctx, &y.view, &x.view, &p);
    hostile_leave(v);
    expect_status("short convolution", status, FA_OK);
    for (int64_t b = 0; b < N; b++) {
        for (int64_t i = 0; i < take[b] * c->h; i++)
            out[(start_of(c, b) + held[b]) * c->h + i] = *(float *)view_at(&y.view, cu[b] * c->h + i);
        held[b] += take[b];
    }
    expect_clean("x", tensor_free(&x)), expect_clean("weight", tensor_free(&weight)), expect_clean("bias", tensor_free(&bias));
    expect_clean("out", tensor_free_output(&y));
}

/* out, then the state each sequence leaves; the sequences whole without states, or in some way that keeps them. */
static void run(const conv_case *c, const variant *v, int way, float *out) {
    int64_t held[N] = {0}, from[N], to[N];
    const int64_t tokens = start_of(c, N), width = (c->size - 1) * c->h, table[2] = {SLOTS, width};
    float *left = out + tokens * c->h;
    case_variant(v);
    if (way == WHOLE) {
        piece(c, v, c->lengths, held, NULL, NULL, NULL, out);
        return;
    }
    tensor states = tensor_make("states", FA_F32, 2, table, v->layout == REVERSED ? DENSE : v->layout, v->side);
    for (int b = 0; b < N; b++) from[b] = -1, to[b] = (3 * b + 1) % SLOTS;
    for (int64_t round = 0, done = 0; round == 0 || done < tokens; round++) {
        int64_t take[N];
        for (int b = 0; b < N; b++) {
            const int64_t rest = c->lengths[b] - held[b], some = (int64_t)(hash_at(8, (uint64_t)(round * N + b)) % 4);
            take[b] = way == PACKED || rest < some ? rest : some;
            done += take[b];
        }
        piece(c, v, take, held, &states, from, to, out);
        for (int b = 0; b < N; b++) from[b] = to[b], to[b] = way == FROM_SLOT_TO_SLOT ? (to[b] + N) % SLOTS : to[b];
    }
    for (int64_t b = 0; b < N; b++)
        for (int64_t i = 0; i < width; i++) left[b * width + i] = *(float *)view_at(&states.view, from[b] * width + i);
    tensor_free(&states);
}

static void by_hand(const conv_case *c, float *out) {
    const int64_t width = (c->size - 1) * c->h;
    float *left = out + start_of(c, N) * c->h;
    for (int64_t b = 0; b < N; b++) {
        for (int64_t t = 0; t < c->lengths[b]; t++)
            for (int64_t j = 0; j < c->h; j++, out++) {
                float s = 0;
                for (int64_t tap = 0; tap < c->size; tap++) {
                    const int64_t at = t - c->size + 1 + tap;
                    s = fmaf(bell(11, (uint64_t)(tap * c->h + j)) * 0.5f, at < 0 ? 0.0f : element(b, at, j, c->h), s);
                }
                if (c->bias) s += bell(12, (uint64_t)j) * 0.5f;
                *out = c->act == FA_ACT_RELU && s < 0 ? 0.0f : s;
            }
        for (int64_t i = 0; i < width; i++) {
            const int64_t at = c->lengths[b] - c->size + 1 + i / c->h;
            left[b * width + i] = at < 0 ? 0.0f : element(b, at, i % c->h, c->h);
        }
    }
}

static void run_case(const conv_case *c) {
    if (!case_begin("short convolution %s", c->name)) return;
    const int64_t outs = start_of(c, N) * c->h, all = outs + N * (c->size - 1) * c->h;
    float *base = scratch(all, 4), *got = scratch(all, 4);
    int turn = 0;
    by_hand(c, base);
    if (c->act == FA_ACT_SILU) { /* whose bits are those of the operator */
        const fa_ctx ctx = {.kernels = fa_kernels_for(0), .num_threads = 1};
        const fa_view rows = {base, {start_of(c, N), c->h}, {c->h * 4, 4}, 2, FA_F32};
        expect_status("activate", fa_activate(&ctx, &rows, &rows, FA_ACT_SILU), FA_OK);
    }
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int round = 0; round < WAYS + 2; round++) {
            const variant v = variant_of(isa, turn++ % VARIANTS_PER_ISA);
            const int way = round % WAYS;
            memset(got, 0xff, (size_t)all * 4);
            run(c, &v, way, got);
            expect_same("out and states", got, base, way == WHOLE ? outs : all, 4);
        }
    }
    case_end(hash_bytes(HASH_START, base, (size_t)all * 4));
    free(base), free(got);
}

static void refused(void) {
    if (!case_begin("short convolution, refused")) return;
    static float numbers[64];
    const fa_ctx ctx = {.kernels = fa_kernels_for(0), .num_threads = 1};
    const int64_t cu[3] = {0, 1, 4}, from[2] = {-1, 1}, to[2] = {0, 1}, high[2] = {0, 2}, low[2] = {-2, 0}, fall[3] = {0, 5, 4};
    const fa_view rows = {numbers, {4, 5}, {20, 4}, 2, FA_F32}, taps = {numbers, {3, 5}, {20, 4}, 2, FA_F32};
    const fa_view table = {numbers, {2, 10}, {40, 4}, 2, FA_F32}, vector = {numbers, {5}, {4}, 1, FA_F32};
#define REFUSED(STATUS, CHANGE) \
    do { \
        fa_view x = rows, out = rows, w = taps, s = table, bias = vector; \
        fa_short_conv_params p = {&w, &bias, FA_ACT_NONE, cu, 2, &s, from, to}; \
        CHANGE; \
        expect_status(#CHANGE, fa_short_conv(&ctx, &out, &x, &p), STATUS); \
    } while (0)
    REFUSED(FA_ERR_DTYPE, x.dtype = FA_F16);
    REFUSED(FA_ERR_DTYPE, w.dtype = FA_F16);
    REFUSED(FA_ERR_SHAPE, out.shape[0] = 3);
    REFUSED(FA_ERR_SHAPE, w.shape[1] = 4);
    REFUSED(FA_ERR_SHAPE, w.shape[0] = 0);
    REFUSED(FA_ERR_SHAPE, w.shape[0] = FA_MAX_CONV + 1);
    REFUSED(FA_ERR_SHAPE, s.shape[1] = 9);
    REFUSED(FA_ERR_SHAPE, bias.shape[0] = 6);
    REFUSED(FA_ERR_STRIDE, w.stride[0] = 24);
    REFUSED(FA_ERR_STRIDE, x.stride[1] = 8);
    REFUSED(FA_ERR_VALUE, p.weight = NULL);
    REFUSED(FA_ERR_VALUE, p.act = (fa_activation)7);
    REFUSED(FA_ERR_VALUE, p.cu = NULL);
    REFUSED(FA_ERR_VALUE, p.cu = fall);
    REFUSED(FA_ERR_VALUE, p.n_seq = 1);
    REFUSED(FA_ERR_VALUE, p.n_seq = -1);
    REFUSED(FA_ERR_VALUE, p.to = NULL);
    REFUSED(FA_ERR_VALUE, p.from = high);
    REFUSED(FA_ERR_VALUE, p.from = low);
    REFUSED(FA_ERR_VALUE, p.to = high);
    REFUSED(FA_ERR_VALUE, p.to = from);
#undef REFUSED
    case_end(HASH_START);
}

/* ---- gates ------------------------------------------------------------------------------------------------------------ */

enum { ROWS = 7, HEADS = 3, WIDE = 3 * 21, SOFTPLUS = 0, LIMITED, EXPONENT, SCALE_HEADS, TIMES, PLUS, GATES };

static const char *const gate_names[GATES] = {"softplus", "softplus, limited, times", "softplus, times -exp", "scale heads",
                                              "columns", "columns, added"};

/* x from -45 to 45, of all sizes near 0, and what is no number. */
static float argument(int64_t i) {
    static const float odd[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 88.0f, -88.0f, 1e-30f, -1e-30f, 3e38f, -3e38f};
    if (i < (int64_t)(sizeof odd / sizeof *odd)) return odd[i];
    return i % 3 ? bell(21, (uint64_t)i) * 11 : bell(21, (uint64_t)i) * ldexpf(1, -(int)(i % 23));
}

static void run_gates(int kind, const variant *v, float *dense) {
    const int64_t rows[2] = {ROWS, WIDE}, few[2] = {ROWS, HEADS}, one[1] = {WIDE};
    const int in_place = v->side == GUARD_BACK;
    case_variant(v);
    tensor x = tensor_make("x", FA_F32, 2, rows, v->layout, v->side), out = tensor_make("out", FA_F32, 2, rows, v->layout, v->side);
    tensor y = tensor_make("y", FA_F32, 2, kind == SCALE_HEADS ? few : rows, v->layout, v->side);
    tensor bias = tensor_make("bias", FA_F32, 1, one, DENSE, v->side), weight = tensor_make("weight", FA_F32, 1, one, DENSE, v->side);
    for (int64_t i = 0; i < ROWS * WIDE; i++) *(float *)view_at(&x.view, i) = argument(i);
    tensor_fill(&y, 22, 1.0f), tensor_fill(&bias, 23, 1.0f), tensor_fill(&weight, 24, 1.0f);
    if (!in_place) guard_seal(x.memory);
    guard_seal(y.memory), guard_seal(bias.memory), guard_seal(weight.memory);
    const fa_ctx ctx = variant_ctx(v);
    const fa_view *target = in_place ? &x.view : &out.view;
    fa_status status = FA_OK;
    hostile_enter(v);
    switch (kind) {
    case SOFTPLUS: status = fa_softplus(&ctx, target, &x.view, NULL, NULL, 0, 0, INFINITY); break;
    case LIMITED: status = fa_softplus(&ctx, target, &x.view, &bias.view, &weight.view, 0, 0.125f, 2.0f); break;
    case EXPONENT: status = fa_softplus(&ctx, target, &x.view, &bias.view, &weight.view, 1, 0, INFINITY); break;
    case SCALE_HEADS: status = fa_scale_heads(&ctx, target, &x.view, &y.view); break;
    default: status = fa_columns(&ctx, target, &x.view, kind == PLUS ? &y.view : NULL, &weight.view);
    }
    hostile_leave(v);
    expect_status("gates", status, FA_OK);
    tensor_gather(in_place ? &x : &out, dense);
    expect_clean("x", tensor_free(&x)), expect_clean("y", tensor_free(&y));
    expect_clean("bias", tensor_free(&bias)), expect_clean("weight", tensor_free(&weight));
    if (in_place) tensor_free(&out);
    else expect_clean("out", tensor_free_output(&out));
}

static double softplus(double u) { return fmax(u, 0) + log1p(exp(-fabs(u))); }

/* In double for softplus; exactly what is to come for the others. */
static double gate_by_hand(int kind, int64_t i) {
    const float x = argument(i), b = bell(23, (uint64_t)(i % WIDE)), w = bell(24, (uint64_t)(i % WIDE));
    switch (kind) {
    case SOFTPLUS: return isnan(x) ? (double)x : softplus(x);
    case LIMITED: return isnan(x) ? (double)x : fmin(fmax(softplus(x + b), 0.125), 2) * w;
    case EXPONENT: return isnan(x) ? (double)x : softplus(x + b) * -exp(w);
    case SCALE_HEADS: return x * bell(22, (uint64_t)(i / (WIDE / HEADS)));
    case TIMES: return x * w;
    default: return fmaf(bell(22, (uint64_t)i), w, x);
    }
}

static void run_gate_case(int kind) {
    if (!case_begin("gates, %s", gate_names[kind])) return;
    static float base[ROWS * WIDE], got[ROWS * WIDE];
    const variant first = variant_of(0, 0);
    run_gates(kind, &first, base);
    for (int64_t i = 0; i < ROWS * WIDE; i++) {
        const double want = gate_by_hand(kind, i), error = fabs(base[i] - want), bound = kind > EXPONENT ? 0 : fabs(want) * 0x1p-21 + 0x1p-126;
        if (isnan(want) ? !isnan(base[i]) : isinf(want) ? base[i] != want : !(error <= bound))
            fail("element %lld of %a: %a, expected %a", (long long)i, argument(i), base[i], want);
    }
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int index = isa == 0; index < VARIANTS_PER_ISA; index++) {
            const variant v = variant_of(isa, index);
            run_gates(kind, &v, got);
            expect_same("gates", got, base, ROWS * WIDE, 4);
        }
    }
    case_variant(&first);
    case_end(hash_bytes(HASH_START, base, sizeof base));
}

static void refused_gates(void) {
    if (!case_begin("gates, refused")) return;
    static float numbers[64];
    const fa_ctx ctx = {.kernels = fa_kernels_for(0), .num_threads = 1};
    const fa_view x = {numbers, {4, 6}, {24, 4}, 2, FA_F32}, odd = {numbers, {4, 4}, {16, 4}, 2, FA_F32}, few = {numbers, {3, 6}, {24, 4}, 2, FA_F32};
    const fa_view vector = {numbers, {6}, {4}, 1, FA_F32}, less = {numbers, {5}, {4}, 1, FA_F32}, halves = {numbers, {4, 6}, {24, 4}, 2, FA_F16};
    expect_status("low", fa_softplus(&ctx, &x, &x, NULL, NULL, 0, -1, 1), FA_ERR_VALUE);
    expect_status("high", fa_softplus(&ctx, &x, &x, NULL, NULL, 0, 2, 1), FA_ERR_VALUE);
    expect_status("NaN", fa_softplus(&ctx, &x, &x, NULL, NULL, 0, 0, NAN), FA_ERR_VALUE);
    expect_status("bias", fa_softplus(&ctx, &x, &x, &less, NULL, 0, 0, 1), FA_ERR_SHAPE);
    expect_status("weight", fa_softplus(&ctx, &x, &x, NULL, &less, 0, 0, 1), FA_ERR_SHAPE);
    expect_status("heads", fa_scale_heads(&ctx, &x, &x, &odd), FA_ERR_SHAPE);
    expect_status("rows", fa_scale_heads(&ctx, &x, &x, &few), FA_ERR_SHAPE);
    expect_status("dtype", fa_scale_heads(&ctx, &x, &x, &halves), FA_ERR_DTYPE);
    expect_status("columns", fa_columns(&ctx, &x, &x, NULL, &less), FA_ERR_SHAPE);
    expect_status("added rows", fa_columns(&ctx, &x, &x, &few, &vector), FA_ERR_SHAPE);
    case_end(HASH_START);
}

void test_short_conv(const options *o) {
    (void)o;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) run_case(&cases[i]);
    refused();
    for (int kind = 0; kind < GATES; kind++) run_gate_case(kind);
    refused_gates();
}
