/* SPDX-License-Identifier: MIT */
/* Linear attention: the four rules, sizes around panels and blocks of tokens, half precision, a state updated in place. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../src_c/view.h"
#include "check.h"

typedef struct linatt_case {
    const char *name;
    int64_t b, t, hq, hkv, dk, dv;
    int rule, by_row, one_rate, no_state;
    fa_dtype dtype;
} linatt_case;

static const linatt_case cases[] = {
    {"linear 1x1", 1, 1, 1, 1, 1, 1, FA_RULE_LINEAR, 0, 0, 0, FA_F32},
    {"linear", 2, 9, 4, 2, 20, 33, FA_RULE_LINEAR, 0, 0, 0, FA_F32},
    {"linear, no state", 1, 4, 1, 1, 16, 32, FA_RULE_LINEAR, 0, 0, 1, FA_F32},
    {"gated", 1, 37, 2, 2, 17, 48, FA_RULE_GATED, 0, 0, 0, FA_F32},
    {"gated by row, 5 heads", 1, 6, 5, 1, 24, 16, FA_RULE_GATED, 1, 0, 0, FA_F32},
    {"delta, 2 tokens", 1, 2, 2, 1, 16, 64, FA_RULE_DELTA, 0, 1, 0, FA_F32},
    {"delta, 9 heads", 2, 5, 9, 1, 8, 20, FA_RULE_DELTA, 0, 0, 1, FA_F32},
    {"gated delta, 1 token", 2, 1, 4, 2, 32, 96, FA_RULE_GATED_DELTA, 0, 1, 0, FA_F32},
    {"gated delta", 1, 40, 6, 2, 16, 50, FA_RULE_GATED_DELTA, 1, 0, 0, FA_F32},
    {"gated delta, fp16", 1, 35, 4, 2, 19, 37, FA_RULE_GATED_DELTA, 0, 0, 0, FA_F16},
    {"gated delta, bf16", 2, 3, 2, 1, 16, 32, FA_RULE_GATED_DELTA, 1, 1, 0, FA_BF16},
    {"no tokens", 2, 0, 2, 1, 5, 18, FA_RULE_GATED_DELTA, 0, 0, 0, FA_F32},
    {"no batch", 0, 3, 2, 1, 5, 18, FA_RULE_DELTA, 0, 0, 0, FA_F32},
};

typedef struct linatt_arrays {
    const linatt_case *c;
    tensor q, k, v, state, decay, beta;
} linatt_arrays;

/* bell() times scale, or minus its size; in half precision cut to the bits both 16-bit types have. */
static void fill(tensor *t, uint64_t seed, float scale, int negative) {
    const int64_t count = tensor_count(&t->view);
    for (int64_t i = 0; i < count; i++) {
        float x = bell(seed, (uint64_t)i) * scale;
        if (negative) x = -fabsf(x);
        if (t->view.dtype == FA_F32) {
            *(float *)view_at(&t->view, i) = x;
            continue;
        }
        /* eighths up to 1: few digits, exact in fp16 and bf16 */
        const int eighths = (int)(x * 8) % 8, size = abs(eighths);
        uint32_t bits = 0;
        if (size) {
            const float y = (float)size / 8;
            memcpy(&bits, &y, 4);
            bits = t->view.dtype == FA_BF16 ? bits >> 16 : (bits - 0x38000000u) >> 13;
            if (eighths < 0) bits |= 0x8000u;
        }
        *(uint16_t *)view_at(&t->view, i) = (uint16_t)bits;
    }
}

static float value_at(const tensor *t, int64_t logical) {
    const void *at = view_at(&t->view, logical);
    if (t->view.dtype == FA_F32) return *(const float *)at;
    const uint32_t bits = *(const uint16_t *)at;
    if (t->view.dtype == FA_BF16) return float_from_bits(bits << 16);
    return (bits & 0x7fffu) ? float_from_bits(((bits & 0x8000u) << 16) | (((bits & 0x7fffu) << 13) + 0x38000000u)) : 0.0f;
}

static linatt_arrays make_arrays(const linatt_case *c, const variant *v, uint64_t seed) {
    const int64_t q[4] = {c->b, c->t, c->hq, c->dk}, k[4] = {c->b, c->t, c->hkv, c->dk}, value[4] = {c->b, c->t, c->hkv, c->dv};
    const int64_t state[4] = {c->b, c->hkv, c->dk, c->dv}, decay[4] = {c->b, c->t, c->hkv, c->by_row ? c->dk : 1};
    const int64_t beta[4] = {1, c->b, c->t, c->one_rate ? 1 : c->hkv};
    linatt_arrays a = {.c = c};
    a.q = tensor_make("q", c->dtype, 4, q, v->layout, v->side);
    a.k = tensor_make("k", c->dtype, 4, k, v->layout, v->side);
    a.v = tensor_make("v", c->dtype, 4, value, v->layout, v->side);
    a.state = tensor_make("state", FA_F32, 4, state, v->layout, v->side);
    a.decay = tensor_make("decay", FA_F32, 4, decay, v->layout, v->side);
    a.beta = tensor_make("beta", c->dtype, 4, beta, v->layout, v->side);
    fill(&a.q, seed * 8 + 1, 1.0f, 0);
    fill(&a.k, seed * 8 + 2, 0.5f / sqrtf((float)c->dk), 0);
    fill(&a.v, seed * 8 + 3, 1.0f, 0);
    fill(&a.state, seed * 8 + 4, 1.0f, 0);
    fill(&a.decay, seed * 8 + 5, 0.1f, 1);
    fill(&a.beta, seed * 8 + 6, 0.5f, 0);
    guard_seal(a.q.memory), guard_seal(a.k.memory), guard_seal(a.v.memory);
    guard_seal(a.decay.memory), guard_seal(a.beta.memory);
    return a;
}

static void free_arrays(linatt_arrays *a) {
    expect_clean("q", tensor_free(&a->q));
    expect_clean("k", tensor_free(&a->k));
    expect_clean("v", tensor_free(&a->v));
    expect_clean("state", tensor_free(&a->state));
    expect_clean("decay", tensor_free(&a->decay));
    expect_clean("beta", tensor_free(&a->beta));
}

/* The recurrence in double, or with every result rounded to float and sums over Dk begun at row `start`. */
static void recurrence(const linatt_arrays *a, int single, int order, double *out, double *state) {
    const linatt_case *c = a->c;
    const int64_t dk = c->dk, dv = c->dv, start = dk * order / NAIVE_ORDERS;
#define ROUND(x) (single ? (double)(float)(x) : (double)(x))
    for (int64_t i = 0; i < c->b * c->hkv * dk * dv; i++) state[i] = c->no_state ? 0 : value_at(&a->state, i);
    for (int64_t b = 0; b < c->b; b++)
        for (int64_t t = 0; t < c->t; t++)
            for (int64_t h = 0; h < c->hkv; h++)
                for (int64_t j = 0; j < dv; j++) {
                    double *s = state + (b * c->hkv + h) * dk * dv + j;
                    const int64_t row = (b * c->t + t) * c->hkv + h;
                    double u = value_at(&a->v, row * dv + j);
                    if (c->rule & FA_RULE_GATED)
                        for (int64_t i = 0; i < dk; i++) {
                            const float g = value_at(&a->decay, c->by_row ? row * dk + i : row);
                            s[i * dv] = ROUND(s[i * dv] * (single ? (double)expf(g) : exp(g)));
                        }
                    if (c->rule & FA_RULE_DELTA) {
                        double r = 0;
                        for (int64_t i = 0; i < dk; i++) {
                            const int64_t e = (start + i) % dk;
                            r = ROUND(r + ROUND(s[e * dv] * value_at(&a->k, row * dk + e)));
                        }
                        u = ROUND(value_at(&a->beta, c->one_rate ? b * c->t + t : row) * ROUND(u - r));
                    }
                    for (int64_t i = 0; i < dk; i++) s[i * dv] = ROUND(s[i * dv] + ROUND(value_at(&a->k, row * dk + i) * u));
                    for (int64_t g = 0; g < c->hq / c->hkv; g++) {
                        const int64_t head = (b * c->t + t) * c->hq + h * (c->hq / c->hkv) + g;
                        double o = 0;
                        for (int64_t i = 0; i < dk; i++) {
                            const int64_t e = (start + i) % dk;
                            o = ROUND(o + ROUND(s[e * dv] * value_at(&a->q, head * dk + e)));
                        }
                        out[head * dv + j] = ROUND(0.3f * o);
                    }
                }
#undef ROUND
}

static int64_t out_count(const linatt_case *c) { return c->b * c->t * c->hq * c->dv; }
static int64_t state_count(const linatt_case *c) { return c->b * c->hkv * c->dk * c->dv; }

static void naive(void *arg, int order, float *all) { /* out, then state */
    const linatt_arrays *a = arg;
    const int64_t outs = out_count(a->c), states = state_count(a->c);
    double *x = scratch(outs + states, sizeof *x);
    recurrence(a, 1, order, x, x + outs);
    for (int64_t i = 0; i < outs + states; i++) all[i] = (float)x[i];
    free(x);
}

/* got: out (of the case's type), then the state in fp32. in_place: the state is updated where it is. */
static void run(const linatt_case *c, const variant *v, uint64_t seed, int in_place, char *got) {
    case_variant(v);
    fa_ctx ctx = variant_ctx(v);
    linatt_arrays a = make_arrays(c, v, seed);
    const int64_t out_shape[4] = {c->b, c->t, c->hq, c->dv};
    tensor out = tensor_make("out", c->dtype, 4, out_shape, v->layout, v->side);
    tensor after = tensor_make("state_out", FA_F32, 4, a.state.view.shape, v->layout, v->side);
    if (!in_place) guard_seal(a.state.memory);
    fa_linear_attention_params p = {.scale = 0.3f, .rule = c->rule};
    if (!c->no_state) p.state = &a.state.view;
    if (c->rule & FA_RULE_GATED) p.decay = &a.decay.view;
    if (c->rule & FA_RULE_DELTA) p.beta = &a.beta.view;
    const fa_view *target = in_place ? &a.state.view : &after.view;
    size_t ws_bytes = 0;
    expect_status("workspace query",
                  fa_linear_attention_workspace(&ctx, &out.view, target, &a.q.view, &a.k.view, &a.v.view, &p, &ws_bytes), FA_OK);
    void *ws = guard_alloc(ws_bytes, v->side, "workspace");
    if (v->hostile) memset(ws, 0xff, ws_bytes);
    hostile_enter(v);
    fa_status status = fa_linear_attention(&ctx, &out.view, target, &a.q.view, &a.k.view, &a.v.view, &p, ws, ws_bytes);
    hostile_leave(v);
    expect_status("linear attention", status, FA_OK);
    expect_clean("workspace", guard_free(ws));
    tensor_gather(&out, got);
    tensor_gather(in_place ? &a.state : &after, got + out_count(c) * fa_itemsize(c->dtype));
    expect_clean("out", tensor_free_output(&out));
    if (in_place) tensor_free(&after);
    else expect_clean("state_out", tensor_free_output(&after));
    free_arrays(&a);
}

static void run_case(const linatt_case *c, uint64_t seed) {
    if (!case_begin("linear attention %s", c->name)) return;
    const int64_t outs = out_count(c), states = state_count(c), bytes = outs * fa_itemsize(c->dtype) + states * 4;
    char *base = scratch(bytes, 1), *got = scratch(bytes, 1);
    variant first = variant_of(0, 0);
    run(c, &first, seed, 0, base);
    if (c->dtype == FA_F32) {
        double *reference = scratch(outs + states, sizeof *reference);
        linatt_arrays a = make_arrays(c, &first, seed);
        recurrence(&a, 0, 0, reference, reference + outs);
        expect_accurate("out and state", (const float *)base, reference, outs + states, naive, &a);
        free_arrays(&a);
        free(reference);
    }
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int index = isa == 0; index < VARIANTS_PER_ISA; index++) {
            variant v = variant_of(isa, index);
            run(c, &v, seed, !c->no_state && index % 2, got);
            expect_same("out and state", got, base, bytes, 1);
        }
    }
    case_variant(&first);
    case_end(hash_bytes(HASH_START, base, (size_t)bytes));
    free(base), free(got);
}

/* What does not fit is refused before anything is written. */
static void refused(void) {
    if (!case_begin("linear attention, refused")) return;
    static const linatt_case c = {"", 1, 2, 2, 1, 4, 8, FA_RULE_GATED_DELTA, 0, 0, 0, FA_F32};
    variant v = variant_of(0, 0);
    case_variant(&v);
    fa_ctx ctx = variant_ctx(&v);
    linatt_arrays a = make_arrays(&c, &v, 5);
    const int64_t out_shape[4] = {1, 2, 2, 8};
    tensor out = tensor_make("out", FA_F32, 4, out_shape, DENSE, v.side);
    guard_seal(a.state.memory), guard_seal(out.memory);
    const fa_linear_attention_params good = {
        .scale = 0.3f, .rule = c.rule, .state = &a.state.view, .decay = &a.decay.view, .beta = &a.beta.view,
    };
    const int64_t slots[2] = {0, 0};
    char ws[4096];
#define REFUSED(STATUS, CHANGE) \
    do { \
        fa_linear_attention_params p = good; \
        fa_view q = a.q.view, k = a.k.view, value = a.v.view, o = out.view, s = a.state.view, g = a.decay.view; \
        p.decay = &g; \
        CHANGE; \
        expect_status(#CHANGE, fa_linear_attention(&ctx, &o, &s, &q, &k, &value, &p, ws, 0), STATUS); \
    } while (0)
    REFUSED(FA_ERR_DTYPE, q.dtype = FA_I32);
    REFUSED(FA_ERR_DTYPE, k.dtype = FA_F16);
    REFUSED(FA_ERR_DTYPE, s.dtype = FA_F16);
    REFUSED(FA_ERR_SHAPE, q.ndim = 3);
    REFUSED(FA_ERR_SHAPE, k.shape[1] = 3);
    REFUSED(FA_ERR_SHAPE, k.shape[2] = 0);
    REFUSED(FA_ERR_SHAPE, value.shape[3] = 5000);
    REFUSED(FA_ERR_SHAPE, q.shape[0] = -1);
    REFUSED(FA_ERR_SHAPE, o.shape[2] = 1);
    REFUSED(FA_ERR_SHAPE, g.shape[3] = 3);
    REFUSED(FA_ERR_STRIDE, q.stride[3] = 8);
    REFUSED(FA_ERR_STRIDE, value.stride[1] = 6);
    REFUSED(FA_ERR_STRIDE, o.data = (char *)o.data + 2);
    REFUSED(FA_ERR_VALUE, p.rule = 4);
    REFUSED(FA_ERR_VALUE, p.decay = NULL);
    REFUSED(FA_ERR_VALUE, p.rule = FA_RULE_GATED);
    REFUSED(FA_ERR_VALUE, p.scale = INFINITY);
    REFUSED(FA_ERR_VALUE, p.from = slots); /* which packed streams alone have */
    REFUSED(FA_ERR_VALUE, p.to = slots);
    REFUSED(FA_ERR_WORKSPACE, p.scale = 0);
#undef REFUSED
    tensor_free(&out);
    free_arrays(&a);
    case_end(HASH_START);
}

void test_linear_attention(const options *o) {
    (void)o;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        run_case(&cases[i], hash_bytes(HASH_START, cases[i].name, strlen(cases[i].name)));
    refused();
}
