/* SPDX-License-Identifier: MIT */
/*
 * Routes: the experts that a plain search finds, with ties, NaN, groups and biases; weights against double precision; the
 * same bytes on every instruction set, of a row alone, and whatever the caller does with its floating-point environment.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

typedef struct route_case {
    const char *name;
    int64_t rows, experts;
    fa_route_params p;
    int biased, steps; /* steps: logits are multiples of 1/4, so that many are equal */
} route_case;

#define PLAIN .floor = 0, .scale = 1, .groups = 1, .top_groups = 1

static const route_case cases[] = {
    {"one of one", 3, 1, {.top = 1, PLAIN}, 0, 0},
    {"softmax", 41, 8, {.top = 2, PLAIN}, 0, 0},
    {"softmax, divided", 7, 60, {.top = 4, .normalize = 1, PLAIN}, 0, 0},
    {"all, divided, scaled", 5, 17, {.top = 17, .normalize = 1, .scale = 2.5f, .groups = 1, .top_groups = 1}, 0, 0},
    {"ties", 90, 33, {.top = 9, .normalize = 1, PLAIN}, 0, 1},
    {"chosen", 30, 32, {.top = 8, .score = FA_ROUTE_CHOSEN, PLAIN}, 0, 0},
    {"chosen, ties", 30, 128, {.top = 8, .score = FA_ROUTE_CHOSEN, PLAIN}, 0, 1},
    {"sigmoid", 9, 16, {.top = 1, .score = FA_ROUTE_SIGMOID, PLAIN}, 0, 0},
    {"sigmoid, biased, divided", 25, 48, {.top = 6, .score = FA_ROUTE_SIGMOID, .normalize = 1, .floor = 1e-20f, .scale = 2.5f, .groups = 1, .top_groups = 1}, 1, 1},
    {"softmax, biased", 12, 20, {.top = 3, PLAIN}, 1, 0},
    {"groups", 40, 24, {.top = 5, .scale = 16, .groups = 4, .top_groups = 2}, 0, 1},
    {"groups of two best, biased", 40, 32, {.top = 8, .score = FA_ROUTE_SIGMOID, .normalize = 1, .floor = 1e-20f, .scale = 1, .groups = 8, .top_groups = 4, .group_sum = 1}, 1, 1},
    {"groups, just enough", 11, 12, {.top = 4, .scale = 1, .groups = 6, .top_groups = 2, .group_sum = 1}, 0, 0},
    {"many experts", 3, 512, {.top = 22, .normalize = 1, PLAIN}, 0, 0},
    {"many rows", 3000, 8, {.top = 2, .normalize = 1, PLAIN}, 0, 1},
    {"no rows", 0, 8, {.top = 2, PLAIN}, 0, 0},
};

static float logit(const route_case *c, int64_t i) {
    const float x = bell(7, (uint64_t)i) * 2;
    return c->steps ? floorf(x * 4) / 4 : x;
}

static float bias_of(const route_case *c, int64_t e) { return c->steps ? (float)(e % 3) * 0.25f : bell(8, (uint64_t)e) * 0.3f; }

/* In double precision, one row; ids of the experts in order. Scores that tie exactly tie in float, too, and no others are as
 * close: biases are far apart, or logits are. */
static void route_double(const route_case *c, int64_t row, int64_t *ids, double *weights) {
    double scores[512], choice[512], most = -INFINITY, sum = 0;
    const int64_t size = c->experts / c->p.groups;
    int open[512], taken[512] = {0};
    for (int64_t e = 0; e < c->experts; e++) most = fmax(most, logit(c, row * c->experts + e));
    for (int64_t e = 0; e < c->experts; e++) sum += exp(logit(c, row * c->experts + e) - most);
    for (int64_t e = 0; e < c->experts; e++) {
        const double x = logit(c, row * c->experts + e);
        scores[e] = c->p.score == FA_ROUTE_SIGMOID ? 1 / (1 + exp(-x)) : exp(x - most) / sum;
        choice[e] = c->biased ? scores[e] + bias_of(c, e) : c->p.group_sum ? scores[e] : x;
    }
    for (int64_t g = 0; g < c->p.groups; g++) open[g] = c->p.groups == c->p.top_groups;
    for (int64_t i = 0; i < c->p.top_groups && c->p.groups > c->p.top_groups; i++) {
        int64_t best = -1;
        double best_value = 0;
        for (int64_t g = 0; g < c->p.groups; g++) {
            double first = -INFINITY, second = -INFINITY;
            for (int64_t e = g * size; e < (g + 1) * size; e++) {
                if (choice[e] > first) second = first, first = choice[e];
                else if (choice[e] > second) second = choice[e];
            }
            const double value = c->p.group_sum ? first + second : first;
            if (!open[g] && (best < 0 || value > best_value)) best = g, best_value = value;
        }
        open[best] = 1;
    }
    double all = c->p.floor, top = -INFINITY;
    for (int64_t i = 0; i < c->p.top; i++) {
        int64_t best = -1;
        for (int64_t e = 0; e < c->experts; e++)
            if (!taken[e] && open[e / size] && (best < 0 || choice[e] > choice[best])) best = e;
        taken[best] = 1;
        ids[i] = best;
        weights[i] = c->p.score == FA_ROUTE_CHOSEN ? logit(c, row * c->experts + best) : scores[best];
        top = fmax(top, weights[i]);
    }
    if (c->p.score == FA_ROUTE_CHOSEN) {
        double chosen = 0;
        for (int64_t i = 0; i < c->p.top; i++) chosen += exp(weights[i] - top);
        for (int64_t i = 0; i < c->p.top; i++) weights[i] = exp(weights[i] - top) / chosen;
    }
    for (int64_t i = 0; i < c->p.top; i++) all += weights[i];
    for (int64_t i = 0; i < c->p.top; i++) weights[i] = (c->p.normalize ? weights[i] / all : weights[i]) * c->p.scale;
}

static void run(const route_case *c, const variant *v, int64_t first, int64_t rows, float *got) {
    case_variant(v);
    fa_ctx ctx = variant_ctx(v);
    const int64_t in[2] = {rows, c->experts}, out[2] = {rows, 2 * c->p.top};
    tensor logits = tensor_make("logits", FA_F32, 2, in, v->layout, v->side);
    tensor routes = tensor_make("routes", FA_F32, 2, out, v->layout, v->side);
    tensor bias = tensor_make("bias", FA_F32, 1, &c->experts, DENSE, v->side);
    for (int64_t i = 0; i < rows * c->experts; i++) *(float *)view_at(&logits.view, i) = logit(c, first * c->experts + i);
    for (int64_t e = 0; e < c->experts; e++) *(float *)view_at(&bias.view, e) = bias_of(c, e);
    guard_seal(logits.memory), guard_seal(bias.memory);
    fa_route_params p = c->p;
    p.bias = c->biased ? &bias.view : NULL;
    size_t bytes = 0;
    expect_status("query", fa_route_workspace(&ctx, &routes.view, &logits.view, &p, &bytes), FA_OK);
    void *ws = guard_alloc(bytes, v->side, "workspace");
    if (v->hostile) memset(ws, 0xff, bytes);
    if (rows) expect_status("too little", fa_route(&ctx, &routes.view, &logits.view, &p, ws, bytes - 1), FA_ERR_WORKSPACE);
    hostile_enter(v);
    const fa_status status = fa_route(&ctx, &routes.view, &logits.view, &p, ws, bytes);
    hostile_leave(v);
    expect_status("route", status, FA_OK);
    expect_clean("workspace", guard_free(ws));
    tensor_gather(&routes, got);
    expect_clean("routes", tensor_free_output(&routes));
    expect_clean("logits", tensor_free(&logits));
    expect_clean("bias", tensor_free(&bias));
}

static void run_case(const route_case *c) {
    if (!case_begin("route %s", c->name)) return;
    const int64_t width = 2 * c->p.top, count = c->rows * width;
    float *base = scratch(count, sizeof *base), *got = scratch(count, sizeof *got);
    const variant first = variant_of(0, 0);
    run(c, &first, 0, c->rows, base);
    for (int64_t i = 0; i < c->rows; i++) {
        int64_t ids[512];
        double weights[512];
        route_double(c, i, ids, weights);
        for (int64_t j = 0; j < c->p.top; j++) {
            if (base[i * width + j] != (float)ids[j])
                fail("row %lld: expert %g at %lld, expected %lld", (long long)i, base[i * width + j], (long long)j, (long long)ids[j]);
            const double weight = base[i * width + c->p.top + j], most = fabs(weights[j]) * 0x1p-20;
            if (!(fabs(weight - weights[j]) <= most)) fail("row %lld: weight %.9g, expected %.9g", (long long)i, weight, weights[j]);
        }
    }
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int index = isa == 0; index < VARIANTS_PER_ISA; index++) {
            const variant v = variant_of(isa, index);
            run(c, &v, 0, c->rows, got);
            expect_same("routes", got, base, count, sizeof *got);
        }
        for (int64_t i = 0; i < c->rows && i < 5; i++) {
            const variant v = variant_of(isa, 0);
            run(c, &v, i, 1, got);
            expect_same("a row alone", got, base + i * width, width, sizeof *got);
        }
    }
    case_variant(&first);
    case_end(hash_bytes(HASH_START, base, (size_t)count * sizeof *base));
    free(base), free(got);
}

/* NaN and infinities: what is no number is chosen, so that it is seen. */
static void odd_numbers(void) {
    if (!case_begin("route odd numbers")) return;
    const float nan = float_from_bits(CANONICAL_NAN), low = -INFINITY, high = INFINITY;
    const struct {
        float x[4];
        int32_t score, normalize; /* 2: with a floor */
        float ids[2], weights[2];
    } odd[] = {
        {{-200, -200, -200, -200}, FA_ROUTE_SIGMOID, 1, {0, 1}, {nan, nan}}, /* 0 / 0 */
        {{-200, -200, -200, -200}, FA_ROUTE_SIGMOID, 2, {0, 1}, {0, 0}},
        {{1, nan, 3, nan}, FA_ROUTE_SIGMOID, 0, {1, 3}, {nan, nan}}, {{0, nan, 0, -1}, FA_ROUTE_SIGMOID, 0, {1, 0}, {nan, 0.5f}},
        {{0, nan, 0, -1}, FA_ROUTE_SIGMOID, 1, {1, 0}, {nan, nan}},  {{0, nan, 0, -1}, FA_ROUTE_SOFTMAX, 0, {1, 0}, {nan, nan}},
        {{low, low, low, low}, FA_ROUTE_SOFTMAX, 0, {0, 1}, {0, 0}}, {{low, low, low, low}, FA_ROUTE_SOFTMAX, 1, {0, 1}, {nan, nan}},
        {{low, 0, low, low}, FA_ROUTE_SOFTMAX, 1, {1, 0}, {1, 0}},   {{low, low, low, 2}, FA_ROUTE_CHOSEN, 0, {3, 0}, {1, 0}},
        {{high, 0, 0, high}, FA_ROUTE_SIGMOID, 0, {0, 3}, {1, 1}},   {{nan, nan, nan, nan}, FA_ROUTE_CHOSEN, 0, {0, 1}, {nan, nan}},
    };
    uint64_t hash = HASH_START;
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        for (int isa = 0; isa < fa_isa_count(); isa++) {
            if (!isa_selected(isa)) continue;
            const variant v = variant_of(isa, 0);
            case_variant(&v);
            const fa_ctx ctx = variant_ctx(&v);
            float out[4];
            const fa_view x = {(void *)(uintptr_t)odd[i].x, {1, 4}, {16, 4}, 2, FA_F32}, routes = {out, {1, 4}, {16, 4}, 2, FA_F32};
            fa_route_params p = {.top = 2, .score = odd[i].score, .normalize = odd[i].normalize, PLAIN};
            p.floor = odd[i].normalize == 2 ? 1e-20f : 0.0f;
            _Alignas(64) char ws[1024];
            expect_status("route", fa_route(&ctx, &routes, &x, &p, ws, sizeof ws), FA_OK);
            expect_same("ids", out, odd[i].ids, 2, sizeof *out);
            expect_same("weights", out + 2, odd[i].weights, 2, sizeof *out);
            if (isa == 0) hash = hash_bytes(hash, out, sizeof out);
        }
    case_end(hash);
}

static void refused(void) {
    if (!case_begin("route refused")) return;
    const variant v = variant_of(0, 0);
    case_variant(&v);
    const fa_ctx ctx = variant_ctx(&v);
    float numbers[64] = {0}, out[64];
    memset(out, 7, sizeof out);
    const fa_view vector = {numbers, {8}, {4}, 1, FA_F32};
#define GIVES(change, status) \
    do { \
        fa_view x = {numbers, {2, 8}, {32, 4}, 2, FA_F32}, routes = {out, {2, 4}, {16, 4}, 2, FA_F32}, bias = vector; \
        fa_route_params p = {.top = 2, PLAIN}; \
        size_t bytes; \
        change; \
        expect_status(#change, fa_route_workspace(&ctx, &routes, &x, &p, &bytes), status); \
        expect_status(#change, fa_route(&ctx, &routes, &x, &p, NULL, 0), status); \
        (void)bias; \
    } while (0)
    GIVES(p.top = 0, FA_ERR_VALUE);
    GIVES(p.top = 9, FA_ERR_VALUE);
    GIVES(p.top = 3, FA_ERR_SHAPE);
    GIVES(p.score = -1, FA_ERR_VALUE);
    GIVES(p.score = 3, FA_ERR_VALUE);
    GIVES(p.groups = 0, FA_ERR_VALUE);
    GIVES(p.groups = 3, FA_ERR_VALUE);
    GIVES(p.groups = INT64_MAX, FA_ERR_VALUE);
    GIVES(p.top_groups = 2, FA_ERR_VALUE);
    GIVES(p.top_groups = 0, FA_ERR_VALUE);
    GIVES(p.groups = 8, FA_ERR_VALUE); /* one group of one expert, but two experts are asked for */
    GIVES((p.groups = p.top_groups = 8, p.group_sum = 1), FA_ERR_VALUE);
    GIVES((p.score = FA_ROUTE_CHOSEN, p.group_sum = 1), FA_ERR_VALUE);
    GIVES((p.score = FA_ROUTE_CHOSEN, p.bias = &bias), FA_ERR_VALUE);
    GIVES((p.bias = &bias, bias.shape[0] = 7), FA_ERR_SHAPE);
    GIVES((p.bias = &bias, bias.dtype = FA_F16), FA_ERR_DTYPE);
    GIVES(p.floor = -1, FA_ERR_VALUE);
    GIVES(p.floor = float_from_bits(CANONICAL_NAN), FA_ERR_VALUE);
    GIVES(p.scale = INFINITY, FA_ERR_VALUE);
    GIVES(x.shape[1] = 0, FA_ERR_VALUE);
    GIVES(x.shape[1] = FA_MOST_EXPERTS + 1, FA_ERR_VALUE);
    GIVES(x.shape[0] = 3, FA_ERR_SHAPE);
    GIVES(x.ndim = 1, FA_ERR_SHAPE);
    GIVES(x.dtype = FA_I8, FA_ERR_DTYPE);
    GIVES(routes.stride[1] = 8, FA_ERR_STRIDE);
#undef GIVES
    for (size_t i = 0; i < sizeof out; i++)
        if (((char *)out)[i] != 7) fail("something was written");
    case_end(HASH_START);
}

void test_route(const options *o) {
    (void)o;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) run_case(&cases[i]);
    odd_numbers();
    refused();
}
