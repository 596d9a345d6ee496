/* SPDX-License-Identifier: MIT */
/* similarity, top_k, quantize_ranges: every metric and storage type over sizes around the groups and tiles, either side turned. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

typedef enum similar_fill { SIMILAR_BELL, SIMILAR_HUGE, SIMILAR_TINY, SIMILAR_SPECIAL } similar_fill;

typedef struct similar_case {
    const char *name;
    fa_metric metric;
    int64_t n, m, d;
    fa_dtype left, right;
    similar_fill fill; /* of every third row of b */
} similar_case;

static const similar_case cases[] = {
    {"dot 1x1x1", FA_METRIC_DOT, 1, 1, 1, FA_F32, FA_F32, SIMILAR_BELL},
    {"dot 1x100x384", FA_METRIC_DOT, 1, 100, 384, FA_F32, FA_F32, SIMILAR_BELL},
    {"dot 7x33x31", FA_METRIC_DOT, 7, 33, 31, FA_F32, FA_F32, SIMILAR_BELL},
    {"dot 40x15x50", FA_METRIC_DOT, 40, 15, 50, FA_F32, FA_F32, SIMILAR_BELL},
    {"dot 5x20x17 NaN, inf", FA_METRIC_DOT, 5, 20, 17, FA_F32, FA_F32, SIMILAR_SPECIAL},
    {"dot 6x18x70 fp16 bf16", FA_METRIC_DOT, 6, 18, 70, FA_F16, FA_BF16, SIMILAR_BELL},
    {"cosine 2x40x77", FA_METRIC_COSINE, 2, 40, 77, FA_F32, FA_F32, SIMILAR_BELL},
    {"cosine 3x17x15 huge", FA_METRIC_COSINE, 3, 17, 15, FA_F32, FA_F32, SIMILAR_HUGE},
    {"cosine 23x35x64 huge", FA_METRIC_COSINE, 23, 35, 64, FA_F32, FA_F32, SIMILAR_HUGE},
    {"cosine 40x9x20 tiny", FA_METRIC_COSINE, 40, 9, 20, FA_F32, FA_F32, SIMILAR_TINY},
    {"cosine 9x20x33 NaN, inf", FA_METRIC_COSINE, 9, 20, 33, FA_F32, FA_F32, SIMILAR_SPECIAL},
    {"cosine 9x20x33 fp32 fp16", FA_METRIC_COSINE, 9, 20, 33, FA_F32, FA_F16, SIMILAR_BELL},
    {"euclidean 1x50x100", FA_METRIC_EUCLIDEAN, 1, 50, 100, FA_F32, FA_F32, SIMILAR_BELL},
    {"euclidean 11x21x19 huge", FA_METRIC_EUCLIDEAN, 11, 21, 19, FA_F32, FA_F32, SIMILAR_HUGE},
    {"euclidean 40x3x7 NaN, inf", FA_METRIC_EUCLIDEAN, 40, 3, 7, FA_F32, FA_F32, SIMILAR_SPECIAL},
    {"manhattan 4x37x130", FA_METRIC_MANHATTAN, 4, 37, 130, FA_F32, FA_F32, SIMILAR_BELL},
    {"manhattan 13x30x5 bf16 fp32", FA_METRIC_MANHATTAN, 13, 30, 5, FA_BF16, FA_F32, SIMILAR_BELL},
    {"dot 300x40x3", FA_METRIC_DOT, 300, 40, 3, FA_F32, FA_F32, SIMILAR_BELL},
    {"cosine no dimensions", FA_METRIC_COSINE, 3, 20, 0, FA_F32, FA_F32, SIMILAR_BELL},
    {"euclidean no dimensions", FA_METRIC_EUCLIDEAN, 20, 3, 0, FA_F32, FA_F32, SIMILAR_BELL},
    {"dot no rows", FA_METRIC_DOT, 0, 4, 8, FA_F32, FA_F32, SIMILAR_BELL},
    {"dot no columns", FA_METRIC_DOT, 4, 0, 8, FA_F32, FA_F32, SIMILAR_BELL},
};

/* ---- inputs ------------------------------------------------------------------------------------------------------ */

/* Bell-shaped numbers of 8 bits, which all storage types hold, some rows multiplied; the same whatever the layout. */
static float input(const similar_case *c, int side, int64_t i) {
    static const uint32_t special[] = {0x7fc00001, 0x7f800000, 0xff800000};
    const int64_t row = c->d ? i / c->d : 0, column = c->d ? i % c->d : 0;
    float x = (float)(int8_t)hash_at(hash_bytes(HASH_START, c->name, strlen(c->name)) + (uint64_t)side, (uint64_t)i) * 0x1p-6f;
    if (!side || row % 3) return x;
    if (c->fill == SIMILAR_HUGE) x *= 0x1p100f;
    if (c->fill == SIMILAR_TINY) x *= 0x1p-130f;
    if (c->fill == SIMILAR_SPECIAL && column == row % c->d) x = float_from_bits(special[row / 3 % 3]);
    return x;
}

static tensor make_side(const similar_case *c, int side, const variant *v) {
    const int64_t shape[2] = {side ? c->m : c->n, c->d};
    const fa_dtype dtype = side ? c->right : c->left;
    tensor t = tensor_make(side ? "b" : "a", dtype, 2, shape, v->layout, v->side);
    const fa_ctx scalar = {.kernels = fa_kernels_for(0), .num_threads = 1};
    for (int64_t i = 0; i < shape[0] * shape[1]; i++) {
        float x = input(c, side, i);
        fa_view from = {&x, {1, 1, 1, 1}, {4, 4, 4, 4}, 4, FA_F32}, to = {view_at(&t.view, i), {1, 1, 1, 1}, {4, 4, 4, 4}, 4, dtype};
        for (int k = 0; k < 4; k++) to.stride[k] = dtype == FA_F32 ? 4 : 2;
        if (fa_convert(&scalar, &to, &from) != FA_OK) fail("an input was not stored");
    }
    guard_seal(t.memory);
    return t;
}

/* ---- references -------------------------------------------------------------------------------------------------- */

#define REAL double
#define NAME(name) name##_double
#define FN(name) name
#include "similarity_reference.inc"
#undef REAL
#undef NAME
#undef FN

#define REAL float
#define NAME(name) name##_float
#define FN(name) name##f
#include "similarity_reference.inc"

static void run_naive(void *arg, int order, float *out) { similar_float(arg, order, out); }

/* ---- one call ---------------------------------------------------------------------------------------------------- */

/* With `turned` b beside a, whose transposed result must be the same. */
static void run(const similar_case *c, const variant *v, int turned, float *got) {
    const int64_t shape[2] = {turned ? c->m : c->n, turned ? c->n : c->m};
    case_variant(v);
    tensor a = make_side(c, turned, v), b = make_side(c, !turned, v);
    tensor out = tensor_make("out", FA_F32, 2, shape, v->layout, v->side);
    const fa_ctx ctx = variant_ctx(v);
    size_t bytes = 0;
    expect_status("query", fa_similarity_workspace(&ctx, &out.view, &a.view, &b.view, c->metric, &bytes), FA_OK);
    void *ws = guard_alloc(bytes, v->side, "workspace");
    if (v->hostile) memset(ws, 0xff, bytes);
    hostile_enter(v);
    const fa_status status = fa_similarity(&ctx, &out.view, &a.view, &b.view, c->metric, ws, bytes);
    hostile_leave(v);
    expect_status(c->name, status, FA_OK);
    expect_clean("workspace", guard_free(ws));
    float *dense = scratch(c->n * c->m, sizeof *dense);
    tensor_gather(&out, dense);
    for (int64_t i = 0; i < c->n; i++)
        for (int64_t j = 0; j < c->m; j++) got[i * c->m + j] = dense[turned ? j * c->n + i : i * c->m + j];
    free(dense);
    expect_clean("out", tensor_free_output(&out));
    expect_clean("a", tensor_free(&a)), expect_clean("b", tensor_free(&b));
}

static void run_case(const similar_case *c) {
    if (!case_begin("similarity %s", c->name)) return;
    const int64_t count = c->n * c->m;
    float *base = scratch(count, sizeof *base), *got = scratch(count, sizeof *got);
    double *reference = scratch(count, sizeof *reference);
    const variant first = variant_of(0, 0);
    run(c, &first, 0, base);
    if (c->fill == SIMILAR_BELL || c->fill == SIMILAR_SPECIAL) { /* elsewhere naive fp32 has no answer */
        similar_double((void *)c, 0, reference);
        expect_accurate(c->name, base, reference, count, run_naive, (void *)c);
    }
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int index = 0; index < VARIANTS_PER_ISA; index++) {
            const variant v = variant_of(isa, index);
            run(c, &v, index % 2, got);
            expect_same(c->name, got, base, count, sizeof *got);
        }
    }
    case_variant(&first);
    case_end(hash_bytes(HASH_START, base, (size_t)count * sizeof *base));
    free(base), free(got), free(reference);
}

/* ---- the best of many -------------------------------------------------------------------------------------------- */

#define TOP_N 3
#define TOP_M 200

/* Few different scores, NaN and both infinities among them. */
static float top_score(int64_t i, int64_t j) {
    const uint64_t h = hash_at(77, (uint64_t)(i * TOP_M + j));
    return h % 17 == 0 ? NAN : h % 17 == 1 ? INFINITY : h % 17 == 2 ? -INFINITY : (float)(h % 23) - 11.0f;
}

static void run_top(const variant *v, int64_t k, int64_t step, float *scores, int64_t *columns) {
    const int64_t shape[2] = {TOP_N, k};
    case_variant(v);
    tensor best = tensor_make("best", FA_F32, 2, shape, v->layout, v->side), index = tensor_make("index", FA_I64, 2, shape, v->layout, v->side);
    const fa_ctx ctx = variant_ctx(v);
    for (int64_t first = 0; first < TOP_M; first += step) {
        const int64_t part[2] = {TOP_N, TOP_M - first < step ? TOP_M - first : step};
        tensor block = tensor_make("scores", FA_F32, 2, part, v->layout, v->side);
        for (int64_t i = 0; i < TOP_N * part[1]; i++) *(float *)view_at(&block.view, i) = top_score(i / part[1], first + i % part[1]);
        guard_seal(block.memory);
        hostile_enter(v);
        const fa_status status = fa_top_k(&ctx, &best.view, &index.view, &block.view, first, first + step >= TOP_M);
        hostile_leave(v);
        expect_status("top_k", status, FA_OK);
        expect_clean("scores", tensor_free(&block));
    }
    tensor_gather(&best, scores), tensor_gather(&index, columns);
    expect_clean("best", tensor_free_output(&best)), expect_clean("index", tensor_free_output(&index));
}

static void test_top(void) {
    static const int64_t counts[] = {1, 2, 16, 100, TOP_M}, steps[] = {1, 7, 16, 50, TOP_M};
    float scores[TOP_N * TOP_M], expected[TOP_N * TOP_M];
    int64_t columns[TOP_N * TOP_M], places[TOP_N * TOP_M];
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        const int64_t k = counts[c];
        if (!case_begin("top_k %d of %d", (int)k, TOP_M)) continue;
        for (int64_t i = 0; i < TOP_N; i++) { /* by hand: the best one left, the first of equals */
            char taken[TOP_M] = {0};
            for (int64_t rank = 0; rank < k; rank++) {
                int64_t pick = -1;
                for (int64_t j = 0; j < TOP_M; j++) {
                    if (taken[j]) continue;
                    const float s = top_score(i, j), t = pick < 0 ? NAN : top_score(i, pick);
                    if (pick < 0 || s > t || (isnan(t) && !isnan(s))) pick = j;
                }
                taken[pick] = 1;
                expected[i * k + rank] = top_score(i, pick);
                places[i * k + rank] = pick;
            }
        }
        for (int index = 0; index < VARIANTS_PER_ISA; index++) {
            const variant v = variant_of(0, index);
            for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
                run_top(&v, k, steps[s], scores, columns);
                expect_same("scores", scores, expected, TOP_N * k, sizeof *scores);
                expect_same("columns", columns, places, TOP_N * k, sizeof *columns);
            }
        }
        case_end(hash_bytes(HASH_START, places, (size_t)(TOP_N * k) * sizeof *places));
    }
}

/* ---- quantisation ------------------------------------------------------------------------------------------------ */

static void test_quantize(void) {
    static const int64_t sizes[][2] = {{1, 1}, {3, 15}, {5, 16}, {7, 50}, {200, 100}, {0, 4}, {4, 0}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const int64_t n = sizes[s][0], h = sizes[s][1], count = n * h, ends[2] = {2, h};
        if (!case_begin("quantize_ranges %dx%d", (int)n, (int)h)) continue;
        int8_t *base = scratch(count, 1), *got = scratch(count, 1);
        for (int isa = 0; isa < fa_isa_count(); isa++) {
            if (!isa_selected(isa)) continue;
            for (int index = 0; index < VARIANTS_PER_ISA; index++) {
                const variant v = variant_of(isa, index);
                const fa_ctx ctx = variant_ctx(&v);
                const int plain = index % 2;
                case_variant(&v);
                tensor x = tensor_make("x", FA_F32, 2, sizes[s], v.layout, v.side), ranges = tensor_make("ranges", FA_F32, 2, ends, v.layout, v.side);
                tensor out = tensor_make("out", FA_I8, 2, sizes[s], v.layout, v.side);
                tensor_fill(&x, 3, 1.0f);
                if (count > 2) *(float *)view_at(&x.view, 1) = NAN, *(float *)view_at(&x.view, 2) = INFINITY;
                for (int64_t j = 0; j < 2 * h; j++) *(float *)view_at(&ranges.view, j) = (j < h ? -1.0f : 1.0f) + (float)(j % h % 3) * 0.25f;
                for (int64_t i = 0; i < count; i++) {
                    const float least = -1.0f + (float)(i % h % 3) * 0.25f, step = 2.0f / 255.0f;
                    const float place = floorf((*(float *)view_at(&x.view, i) - least) / step);
                    base[i] = (int8_t)((isnan(place) || place < 0 ? 0 : place > 255 ? 255 : (int)place) - 128);
                    if (plain) base[i] = (int8_t)(base[i] ^ -128);
                }
                guard_seal(x.memory), guard_seal(ranges.memory);
                hostile_enter(&v);
                const fa_status status = fa_quantize_ranges(&ctx, &out.view, &x.view, &ranges.view, plain);
                hostile_leave(&v);
                expect_status("quantize_ranges", status, FA_OK);
                tensor_gather(&out, got);
                expect_same("out", got, base, count, 1);
                expect_clean("out", tensor_free_output(&out));
                expect_clean("x", tensor_free(&x)), expect_clean("ranges", tensor_free(&ranges));
            }
        }
        case_end(hash_bytes(HASH_START, base, (size_t)count));
        free(base), free(got);
    }
}

static void test_refused(void) {
    if (!case_begin("similarity refused")) return;
    float a[8] = {0}, b[12] = {0}, out[6] = {7, 7, 7, 7, 7, 7};
    int64_t index[6];
    int8_t bytes[8];
    _Alignas(64) char ws[1 << 14];
    const variant v = variant_of(0, 0);
    const fa_ctx ctx = variant_ctx(&v);
    case_variant(&v);
    fa_view x = {a, {2, 4}, {16, 4}, 2, FA_F32}, y = {b, {3, 4}, {16, 4}, 2, FA_F32}, to = {out, {2, 3}, {12, 4}, 2, FA_F32};
    size_t need = 0;
    expect_status("query", fa_similarity_workspace(&ctx, &to, &x, &y, FA_METRIC_DOT, &need), FA_OK);
#define GIVES(status) expect_status("similarity", fa_similarity(&ctx, &to, &x, &y, FA_METRIC_DOT, ws, need), status)
    expect_status("metric", fa_similarity(&ctx, &to, &x, &y, (fa_metric)4, ws, need), FA_ERR_VALUE);
    expect_status("small", fa_similarity(&ctx, &to, &x, &y, FA_METRIC_DOT, ws, need - 1), FA_ERR_WORKSPACE);
    expect_status("crooked", fa_similarity(&ctx, &to, &x, &y, FA_METRIC_DOT, ws + 4, need), FA_ERR_WORKSPACE);
    expect_status("none", fa_similarity(&ctx, &to, &x, &y, FA_METRIC_DOT, NULL, 0), FA_ERR_WORKSPACE);
    y.shape[1] = 3, GIVES(FA_ERR_SHAPE), y.shape[1] = 4;
    to.shape[0] = 3, GIVES(FA_ERR_SHAPE), to.shape[0] = 2;
    x.dtype = FA_I8, GIVES(FA_ERR_DTYPE), x.dtype = FA_F32;
    to.dtype = FA_F16, GIVES(FA_ERR_DTYPE), to.dtype = FA_F32;
    y.stride[1] = 8, GIVES(FA_ERR_STRIDE), y.stride[1] = 4;
#undef GIVES
    fa_view best = {out, {2, 3}, {12, 4}, 2, FA_F32}, places = {index, {2, 3}, {24, 8}, 2, FA_I64};
    expect_status("top_k rows", fa_top_k(&ctx, &best, &places, &y, 0, 1), FA_ERR_SHAPE);
    expect_status("top_k first", fa_top_k(&ctx, &best, &places, &x, -1, 1), FA_ERR_VALUE);
    expect_status("top_k far", fa_top_k(&ctx, &best, &places, &x, INT64_MAX - 3, 1), FA_ERR_VALUE);
    best.shape[1] = places.shape[1] = 0;
    expect_status("top_k none", fa_top_k(&ctx, &best, &places, &x, 0, 1), FA_ERR_VALUE);
    fa_view quantized = {bytes, {2, 4}, {4, 1}, 2, FA_I8};
    expect_status("ranges", fa_quantize_ranges(&ctx, &quantized, &x, &y, 0), FA_ERR_SHAPE);
    quantized.dtype = FA_BOOL;
    expect_status("bytes", fa_quantize_ranges(&ctx, &quantized, &x, &x, 0), FA_ERR_DTYPE);
    for (int i = 0; i < 6; i++)
        if (out[i] != 7.0f) fail("element %d was written", i);
    case_end(hash_bytes(HASH_START, out, sizeof out));
}

void test_similarity(const options *o) {
    (void)o;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) run_case(&cases[i]);
    test_top();
    test_quantize();
    test_refused();
}
