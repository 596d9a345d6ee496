/* SPDX-License-Identifier: MIT */
/*
 * disentangled_attention: the bytes of the operators it is made of, one call each for every head of every sequence;
 * distance_columns by known values; gather by a plain loop.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"

#define MOST_SEQUENCES 6

typedef struct whole_case {
    const char *name;
    int64_t heads, d, span, max_distance;
    int64_t jump;        /* every jump-th position is left out, 0: none */
    int64_t before;      /* rows in front of the first sequence */
    int c2p, p2c, large;
    int64_t n, lengths[MOST_SEQUENCES];
} whole_case;

static const whole_case cases[] = {
    {"1x1", 1, 1, 1, 0, 0, 0, 1, 1, 0, 1, {1}},
    {"no sequences", 2, 4, 3, 0, 0, 2, 1, 1, 0, 0, {0}},
    {"empty ones between", 2, 12, 8, 0, 0, 0, 1, 1, 0, 6, {0, 3, 0, 0, 17, 0}},
    {"short ones", 4, 16, 40, 0, 0, 3, 1, 1, 0, 5, {16, 1, 31, 5, 7}},
    {"c2p alone", 3, 9, 20, 64, 3, 1, 1, 0, 0, 3, {40, 2, 66}},
    {"p2c alone", 3, 20, 20, 64, 2, 0, 0, 1, 0, 3, {65, 1, 130}},
    {"buckets and holes", 2, 64, 32, 128, 2, 0, 1, 1, 0, 2, {129, 100}},
    {"an odd span, many panels", 2, 33, 301, 0, 5, 0, 1, 1, 0, 2, {190, 64}},
    {"more than is kept at once", 7, 8, 320, 0, 0, 0, 1, 1, 1, 2, {300, 310}},
    {"fewer rows of long ones", 1, 8, 16, 64, 0, 0, 1, 1, 1, 2, {2900, 40}},
};

typedef struct whole_arrays {
    tensor q, k, v, out, cu, at;
    float *panels[2]; /* c2p, p2c; in guarded memory, or NULL */
    fa_disentangled_params params;
} whole_arrays;

static int64_t each_of(const whole_case *c) { return (2 * c->span + 15) / 16; }

static float *make_panels(const whole_case *c, const variant *v, uint64_t seed, const char *name) {
    const int64_t count = c->heads * each_of(c) * c->d * 16;
    float *panels = guard_alloc((size_t)count * sizeof *panels, v->side, name);
    for (int64_t i = 0; i < count; i++) panels[i] = bell(seed, (uint64_t)i) * 0.5f;
    guard_seal(panels);
    return panels;
}

static whole_arrays make_arrays(const whole_case *c, const variant *v, uint64_t seed) {
    int64_t tokens = c->before;
    for (int64_t b = 0; b < c->n; b++) tokens += c->lengths[b];
    const int64_t shape[4] = {1, c->heads, tokens, c->d}, ends = c->n + 1;
    whole_arrays a = {
        .q = tensor_make("q", FA_F32, 4, shape, v->layout, v->side), .k = tensor_make("k", FA_F32, 4, shape, v->layout, v->side),
        .v = tensor_make("v", FA_F32, 4, shape, v->layout, v->side), .out = tensor_make("out", FA_F32, 4, shape, v->layout, v->side),
        .cu = tensor_make("cu", FA_I64, 1, &ends, DENSE, v->side), .at = tensor_make("positions", FA_I64, 1, &tokens, DENSE, v->side),
    };
    tensor_fill(&a.q, seed + 1, 1.0f), tensor_fill(&a.k, seed + 2, 1.0f), tensor_fill(&a.v, seed + 3, 1.0f), tensor_fill(&a.out, seed + 4, 1.0f);
    int64_t *cu = a.cu.view.data, *at = a.at.view.data;
    cu[0] = c->before;
    for (int64_t i = 0; i < c->before; i++) at[i] = -1; /* of no sequence: not looked at */
    for (int64_t b = 0; b < c->n; b++) {
        cu[b + 1] = cu[b] + c->lengths[b];
        for (int64_t i = 0; i < c->lengths[b]; i++) at[cu[b] + i] = b + i + (c->jump ? i / c->jump : 0);
    }
    if (c->c2p) a.panels[0] = make_panels(c, v, seed + 5, "c2p");
    if (c->p2c) a.panels[1] = make_panels(c, v, seed + 6, "p2c");
    guard_seal(a.q.memory), guard_seal(a.k.memory), guard_seal(a.v.memory), guard_seal(a.cu.memory), guard_seal(a.at.memory);
    a.params = (fa_disentangled_params){.scale = 0.21f, .n_seq = c->n, .cu = cu, .positions = at, .span = c->span,
                                        .max_distance = c->max_distance, .c2p = a.panels[0], .p2c = a.panels[1]};
    return a;
}

static void free_arrays(whole_arrays *a) {
    expect_clean("out", tensor_free_output(&a->out));
    expect_clean("q", tensor_free(&a->q)), expect_clean("k", tensor_free(&a->k)), expect_clean("v", tensor_free(&a->v));
    expect_clean("cu", tensor_free(&a->cu)), expect_clean("positions", tensor_free(&a->at));
    for (int i = 0; i < 2; i++)
        if (a->panels[i]) expect_clean("panels", guard_free(a->panels[i]));
}

static void run(const whole_case *c, const variant *v, uint64_t seed, float *got) {
    case_variant(v);
    fa_ctx ctx = variant_ctx(v);
    whole_arrays a = make_arrays(c, v, seed);
    size_t bytes = 1;
    hostile_enter(v);
    fa_status status = fa_disentangled_attention_workspace(&ctx, &a.out.view, &a.q.view, &a.k.view, &a.v.view, &a.params, &bytes);
    hostile_leave(v);
    expect_status("workspace query", status, FA_OK);
    void *ws = guard_alloc(bytes, v->side, "workspace");
    if (v->hostile) memset(ws, 0xff, bytes);
    if (bytes) {
        status = fa_disentangled_attention(&ctx, &a.out.view, &a.q.view, &a.k.view, &a.v.view, &a.params, ws, bytes - 1);
        expect_status("too small a workspace", status, FA_ERR_WORKSPACE);
    }
    hostile_enter(v);
    status = fa_disentangled_attention(&ctx, &a.out.view, &a.q.view, &a.k.view, &a.v.view, &a.params, ws, bytes);
    hostile_leave(v);
    expect_status("disentangled_attention", status, FA_OK);
    expect_clean("workspace", guard_free(ws));
    tensor_gather(&a.out, got);
    free_arrays(&a);
}

/* ---- the operators one by one -------------------------------------------------------------------------------------- */

static fa_view rows_of(const fa_view *x, int64_t head, int64_t row, int64_t rows) {
    fa_view view = *x;
    view.data = (char *)x->data + head * x->stride[1] + row * x->stride[2];
    view.shape[1] = 1;
    view.shape[2] = rows;
    return view;
}

static void product(const fa_ctx *ctx, const fa_view *rows, float *panels, fa_view *out) {
    const fa_view x = {rows->data, {rows->shape[2], rows->shape[3]}, {rows->stride[2], 4}, 2, FA_F32};
    const fa_view flat = {out->data, {out->shape[1], out->shape[2]}, {out->stride[1], 4}, 2, FA_F32};
    const fa_linear_weights weights = {.dtype = FA_F32, .panels = panels};
    size_t bytes = 0;
    expect_status("linear workspace", fa_linear_workspace(ctx, &flat, &x, FA_F32, &bytes), FA_OK);
    void *ws = guard_alloc(bytes, GUARD_FRONT, "workspace of linear");
    expect_status("linear", fa_linear(ctx, &flat, &x, &weights, NULL, FA_ACT_NONE, ws, bytes), FA_OK);
    expect_clean("workspace of linear", guard_free(ws));
}

static void attend_one(const whole_case *c, const fa_ctx *ctx, whole_arrays *a, int64_t head, int64_t first, int64_t s) {
    const int64_t each = each_of(c) * 16, reach = a->params.positions[first + s - 1] - a->params.positions[first];
    float *products[2] = {scratch(s * each, 4), scratch(s * each, 4)}, *bias = scratch(s * s, 4);
    int32_t *table = scratch(2 * reach + 1, 4);
    const fa_view q = rows_of(&a->q.view, head, first, s), k = rows_of(&a->k.view, head, first, s);
    const fa_view v = rows_of(&a->v.view, head, first, s), out = rows_of(&a->out.view, head, first, s);
    const fa_view columns = {table, {2 * reach + 1}, {4}, 1, FA_I32};
    const fa_view at = {(int64_t *)a->at.view.data + first, {s}, {8}, 1, FA_I64};
    const fa_view mask = {bias, {1, 1, s, s}, {0, 0, 4 * s, 4}, 4, FA_F32}, flat = {bias, {1, s, s}, {0, 4 * s, 4}, 3, FA_F32};
    fa_view both[2];
    for (int i = 0; i < 2; i++) {
        both[i] = (fa_view){products[i], {1, s, each}, {0, 4 * each, 4}, 3, FA_F32};
        if (a->panels[i]) product(ctx, i == 0 ? &q : &k, a->panels[i] + head * each * c->d, &both[i]);
    }
    expect_status("columns", fa_distance_columns(&columns, c->span, c->max_distance), FA_OK);
    expect_status("bias", fa_disentangled_bias(ctx, &flat, a->panels[0] ? &both[0] : NULL, a->panels[1] ? &both[1] : NULL, &at, &at,
                                               &columns, a->params.scale), FA_OK);
    const fa_attention_params params = {.scale = a->params.scale, .window_left = -1, .window_right = -1, .mask = &mask};
    size_t bytes = 0;
    expect_status("attention workspace", fa_attention_workspace(ctx, &out, NULL, NULL, &q, &k, &v, &params, &bytes), FA_OK);
    void *ws = guard_alloc(bytes, GUARD_FRONT, "workspace of attention");
    expect_status("attention", fa_attention(ctx, &out, NULL, NULL, &q, &k, &v, &params, ws, bytes), FA_OK);
    expect_clean("workspace of attention", guard_free(ws));
    free(products[0]), free(products[1]), free(bias), free(table);
}

static void run_by_one(const whole_case *c, const variant *v, uint64_t seed, float *expected) {
    fa_ctx ctx = variant_ctx(v);
    whole_arrays a = make_arrays(c, v, seed);
    for (int64_t b = 0; b < c->n; b++)
        for (int64_t h = 0; h < c->heads && c->lengths[b]; h++) attend_one(c, &ctx, &a, h, a.params.cu[b], c->lengths[b]);
    tensor_gather(&a.out, expected);
    free_arrays(&a);
}

static void run_case(const whole_case *c, uint64_t seed) {
    if (!case_begin("disentangled_attention %s", c->name)) return;
    int64_t tokens = c->before;
    for (int64_t b = 0; b < c->n; b++) tokens += c->lengths[b];
    const int64_t count = c->heads * tokens * c->d;
    float *base = scratch(count, sizeof *base), *got = scratch(count, sizeof *got);
    variant first = variant_of(0, 0);
    for (int isa = 0; isa < fa_isa_count(); isa++)
        if (isa_selected(isa)) first.isa = isa; /* the fastest: all give the same bytes */
    case_variant(&first);
    run_by_one(c, &first, seed, base);
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int index = 0; index < VARIANTS_PER_ISA; index++) {
            if (c->large && (isa == 0 || index % 3 != 1)) continue;
            variant v = variant_of(isa, index);
            run(c, &v, seed, got);
            expect_same(c->name, got, base, count, sizeof *got);
        }
    }
    case_variant(&first);
    case_end(hash_bytes(HASH_START, base, (size_t)count * sizeof *base));
    free(base), free(got);
}

/* What is out of range is refused with nothing written. */
static void test_refused(void) {
    if (!case_begin("disentangled_attention refused")) return;
    const whole_case c = {"refused", 1, 4, 2, 0, 0, 0, 1, 1, 0, 2, {1, 2}};
    variant variant = variant_of(0, 0);
    case_variant(&variant);
    fa_ctx ctx = variant_ctx(&variant);
    whole_arrays a = make_arrays(&c, &variant, 1);
    float before[12], after[12];
    tensor_gather(&a.out, before);
    size_t bytes = 0;
    int64_t cu[3], at[3];
    fa_disentangled_params p;
#define GIVES(change, status) \
    do { \
        memcpy(cu, a.params.cu, sizeof cu), memcpy(at, a.params.positions, sizeof at); \
        p = a.params, p.cu = cu, p.positions = at; \
        fa_view q = a.q.view, k = a.k.view; \
        change; \
        expect_status(#change, fa_disentangled_attention_workspace(&ctx, &a.out.view, &q, &k, &a.v.view, &p, &bytes), status); \
        expect_status(#change, fa_disentangled_attention(&ctx, &a.out.view, &q, &k, &a.v.view, &p, NULL, 0), status); \
    } while (0)
    GIVES((p.c2p = NULL, p.p2c = NULL), FA_ERR_VALUE);
    GIVES(p.cu = NULL, FA_ERR_VALUE);
    GIVES(p.positions = NULL, FA_ERR_VALUE);
    GIVES(p.n_seq = -1, FA_ERR_VALUE);
    GIVES(cu[0] = -1, FA_ERR_VALUE);
    GIVES(cu[1] = 4, FA_ERR_VALUE);
    GIVES(cu[2] = 4, FA_ERR_VALUE);
    GIVES(at[0] = -1, FA_ERR_VALUE);
    GIVES(at[2] = at[1], FA_ERR_VALUE);
    GIVES(at[2] = 0, FA_ERR_VALUE);
    GIVES(at[2] = INT64_MAX, FA_ERR_MEMORY);
    GIVES(p.span = 0, FA_ERR_VALUE);
    GIVES(p.span = INT64_MAX, FA_ERR_VALUE);
    GIVES(p.max_distance = 2, FA_ERR_VALUE);
    GIVES(p.max_distance = -1, FA_ERR_VALUE);
    GIVES(p.max_distance = INT64_MAX, FA_ERR_VALUE);
    GIVES((p.span = 2049, p.max_distance = 9000), FA_ERR_VALUE);
    GIVES(p.scale = float_from_bits(CANONICAL_NAN), FA_ERR_VALUE);
    GIVES(p.c2p++, FA_ERR_WORKSPACE);
    GIVES(k.shape[2] = 2, FA_ERR_SHAPE);
    GIVES(q.shape[0] = 2, FA_ERR_SHAPE);
    GIVES(q.ndim = 3, FA_ERR_SHAPE);
    GIVES(k.dtype = FA_F16, FA_ERR_DTYPE);
    GIVES(k.stride[3] = 8, FA_ERR_STRIDE);
#undef GIVES
    tensor_gather(&a.out, after);
    expect_same("out", after, before, 12, sizeof *after);
    free_arrays(&a);
    case_end(hash_bytes(HASH_START, after, sizeof after));
}

/* A call that is told to stop, before it begins or by one of its looks, in whatever part it is, says so. */
typedef struct counted {
    fa_stop stop;
    int count, stop_at;
} counted;

static int look(void *arg) {
    counted *looks = arg;
    looks->stop.next_look = 1; /* again at once */
    return ++looks->count == looks->stop_at;
}

static void test_stopped(void) {
    if (!case_begin("disentangled_attention stopped")) return;
    static const int stop_at[] = {1, 2, 8, 20, 45, 100};
    const whole_case c = {"stopped", 7, 8, 320, 0, 0, 0, 1, 1, 0, 2, {300, 310}};
    for (int i = 0; i < 10; i++) {
        variant v = variant_of(0, 0);
        v.threads = i < 4 ? 1 + 2 * (i % 2) : 1; /* the thread of the call looks: alone it does so often enough */
        case_variant(&v);
        whole_arrays a = make_arrays(&c, &v, 1);
        counted looks = {.stop = {.look = look, .next_look = 1}, .stop_at = i < 4 ? 1000000 : stop_at[i - 4]};
        looks.stop.arg = &looks;
        if (i < 2) looks.stop.asked = 1;
        else if (i < 4) looks.stop.deadline = 1;
        fa_ctx ctx = variant_ctx(&v);
        size_t bytes = 0;
        ctx.stop = &looks.stop;
        expect_status("query", fa_disentangled_attention_workspace(&ctx, &a.out.view, &a.q.view, &a.k.view, &a.v.view, &a.params, &bytes), FA_OK);
        void *ws = guard_alloc(bytes, v.side, "workspace");
        const fa_status status = fa_disentangled_attention(&ctx, &a.out.view, &a.q.view, &a.k.view, &a.v.view, &a.params, ws, bytes);
        expect_status("stopped", status, FA_STOPPED);
        if (i >= 4 && looks.count != looks.stop_at) fail("%d looks, expected %d", looks.count, looks.stop_at);
        expect_clean("workspace", guard_free(ws));
        free_arrays(&a);
    }
    case_end(HASH_START);
}

/* The workspace grows with the length of a sequence, not with its square. */
static void test_space(void) {
    if (!case_begin("disentangled_attention space of long sequences")) return;
    const variant variant = variant_of(0, 0);
    case_variant(&variant);
    const fa_ctx ctx = variant_ctx(&variant);
    int64_t *at = scratch(200000, sizeof *at), cu[2] = {0, 0};
    float one[4];
    size_t bytes[3] = {0};
    for (int64_t i = 0; i < 200000; i++) at[i] = i;
    float *panels = guard_alloc(64, GUARD_BACK, "panels"); /* queries do not read them */
    const fa_disentangled_params params = {.scale = 1, .n_seq = 1, .cu = cu, .positions = at, .span = 256, .max_distance = 512,
                                           .c2p = panels, .p2c = panels};
    for (int i = 0; i < 3; i++) {
        cu[1] = 50000 << i;
        const fa_view x = {one, {1, 12, cu[1], 64}, {0, 0, 0, 4}, 4, FA_F32};
        expect_status("query", fa_disentangled_attention_workspace(&ctx, &x, &x, &x, &x, &params, &bytes[i]), FA_OK);
    }
    if (bytes[2] > 600000000) fail("%zu bytes for 200000 tokens", bytes[2]);
    if (bytes[2] - bytes[1] > 2 * (bytes[1] - bytes[0]) + 100000) fail("%zu, %zu, %zu bytes", bytes[0], bytes[1], bytes[2]);
    free(at);
    expect_clean("panels", guard_free(panels));
    case_end(HASH_START); /* the kernels decide how much */
}

/* ---- distance_columns ----------------------------------------------------------------------------------------------- */

typedef struct columns_case {
    const char *name;
    int64_t reach, span, max_distance;
    int32_t expected[10]; /* those of distances 0 to 9; 0: not looked at */
} columns_case;

static const columns_case columns[] = {
    {"plain", 9, 4, 0, {4, 5, 6, 7, 7, 7, 7, 7, 7, 7}},
    {"one", 9, 1, 0, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"a span of 3: all beyond the first share its bucket", 40, 3, 20, {3, 4, 4, 4, 4, 4, 4, 4, 4, 4}},
    {"4 of 9", 9, 4, 9, {4, 5, 6, 7, 7, 7, 7, 7, 7, 7}},
    {"12 of 28", 60, 12, 28, {12, 13, 14, 15, 16, 17, 18, 19, 19, 20}},
    {"256 of 512", 5000, 256, 512, {256, 257, 258, 259, 260, 261, 262, 263, 264, 265}},
    {"2048 of 2^24", 30000, 2048, 1 << 24, {2048, 2049, 2050}},
    {"ties: 64 of 65537", 70000, 128, (1 << 16) + 1, {128, 129}},
};

static void columns_case_run(const columns_case *c) {
    if (!case_begin("distance_columns %s", c->name)) return;
    const int64_t entries = 2 * c->reach + 1;
    int32_t *base = scratch(entries, sizeof *base), *got = scratch(entries, sizeof *got);
    for (int index = 0; index < VARIANTS_PER_ISA; index++) {
        const variant v = variant_of(0, index);
        case_variant(&v);
        tensor t = tensor_make("columns", FA_I32, 1, &entries, DENSE, v.side);
        hostile_enter(&v);
        const fa_status status = fa_distance_columns(&t.view, c->span, c->max_distance);
        hostile_leave(&v);
        expect_status("distance_columns", status, FA_OK);
        tensor_gather(&t, index == 0 ? base : got);
        expect_clean("columns", tensor_free_output(&t));
        if (index) expect_same("columns", got, base, entries, sizeof *got);
    }
    for (int64_t d = 0; d < 10; d++)
        if (c->expected[d] && base[c->reach + d] != c->expected[d])
            fail("distance %d has column %d, expected %d", (int)d, base[c->reach + d], c->expected[d]);
    for (int64_t d = 1; d <= c->reach; d++) {
        const int32_t up = base[c->reach + d], down = base[c->reach - d];
        if (up < base[c->reach + d - 1] || down > base[c->reach - d + 1] || up >= 2 * c->span || down < 0) fail("distance %d", (int)d);
        if (up < 2 * c->span - 1 && up + down != 2 * c->span) fail("distances %d and -%d", (int)d, (int)d);
    }
    case_end(hash_bytes(HASH_START, base, (size_t)entries * sizeof *base));
    free(base), free(got);
}

static void test_columns_refused(void) {
    if (!case_begin("distance_columns refused")) return;
    int32_t table[4] = {7, 7, 7, 7};
    fa_view view = {table, {3}, {4}, 1, FA_I32};
    expect_status("span 0", fa_distance_columns(&view, 0, 0), FA_ERR_VALUE);
    expect_status("span", fa_distance_columns(&view, INT64_MAX, 0), FA_ERR_VALUE);
    expect_status("span 1", fa_distance_columns(&view, 1, 9), FA_ERR_VALUE);
    expect_status("span 2049", fa_distance_columns(&view, 2049, 9000), FA_ERR_VALUE);
    expect_status("max_distance 5", fa_distance_columns(&view, 8, 5), FA_ERR_VALUE);
    expect_status("max_distance", fa_distance_columns(&view, 8, (1 << 24) + 1), FA_ERR_VALUE);
    view.shape[0] = 4, expect_status("4 numbers", fa_distance_columns(&view, 8, 0), FA_ERR_SHAPE);
    view.shape[0] = -1, expect_status("-1 numbers", fa_distance_columns(&view, 8, 0), FA_ERR_SHAPE);
    view.shape[0] = INT64_MAX, expect_status("many", fa_distance_columns(&view, 8, 0), FA_ERR_MEMORY);
    view.shape[0] = 3, view.stride[0] = 8, expect_status("stride", fa_distance_columns(&view, 8, 0), FA_ERR_STRIDE);
    view.stride[0] = 4, view.dtype = FA_I64, expect_status("dtype", fa_distance_columns(&view, 8, 0), FA_ERR_DTYPE);
    for (int i = 0; i < 4; i++)
        if (table[i] != 7) fail("element %d was written", i);
    case_end(hash_bytes(HASH_START, table, sizeof table));
}

/* ---- gather ---------------------------------------------------------------------------------------------------------- */

typedef struct gather_case {
    const char *name;
    int64_t rows, n, from, width; /* of out, of each side by side, of x */
} gather_case;

static const gather_case gathers[] = {
    {"1x1", 1, 1, 1, 1},       {"37x3 of 20", 37, 3, 20, 5}, {"300x5 wide", 300, 5, 300, 65},
    {"no rows", 0, 3, 4, 5},   {"none side by side", 4, 0, 4, 5}, {"rows of nothing", 4, 3, 4, 0},
    {"from nothing", 4, 2, 0, 7},
};

static int64_t row_of(const gather_case *c, uint64_t seed, int64_t i) { return (int64_t)(hash_at(seed, (uint64_t)i) % (uint64_t)(c->from + 1)) - 1; }

static void run_gather(const gather_case *c, const variant *v, uint64_t seed, float *got, float *exact) {
    const int64_t index_shape[2] = {c->rows, c->n}, x_shape[2] = {c->from, c->width}, out_shape[2] = {c->rows, c->n * c->width};
    case_variant(v);
    tensor x = tensor_make("x", FA_F32, 2, x_shape, v->layout, v->side), index = tensor_make("index", FA_I64, 2, index_shape, v->layout, v->side);
    tensor out = tensor_make("out", FA_F32, 2, out_shape, v->layout, v->side);
    tensor_fill(&x, seed, 1.0f);
    if (c->from > 1 && c->width) memcpy(view_at(&x.view, 0), &(uint32_t){0xffc12345u}, 4); /* bits that arithmetic would change */
    for (int64_t i = 0; i < c->rows * c->n; i++) *(int64_t *)view_at(&index.view, i) = row_of(c, seed, i);
    for (int64_t i = 0; exact && i < c->rows * c->n * c->width; i++) {
        const int64_t row = row_of(c, seed, i / c->width);
        exact[i] = 0.0f;
        if (row >= 0) memcpy(&exact[i], view_at(&x.view, row * c->width + i % c->width), 4);
    }
    guard_seal(x.memory), guard_seal(index.memory);
    const fa_ctx ctx = variant_ctx(v);
    hostile_enter(v);
    const fa_status status = fa_gather(&ctx, &out.view, &x.view, &index.view);
    hostile_leave(v);
    expect_status(c->name, status, FA_OK);
    tensor_gather(&out, got);
    expect_clean("out", tensor_free_output(&out)), expect_clean("x", tensor_free(&x)), expect_clean("index", tensor_free(&index));
}

static void gather_case_run(const gather_case *c, uint64_t seed) {
    if (!case_begin("gather %s", c->name)) return;
    const int64_t count = c->rows * c->n * c->width;
    float *exact = scratch(count, sizeof *exact), *got = scratch(count, sizeof *got);
    for (int index = 0; index < VARIANTS_PER_ISA; index++) {
        const variant v = variant_of(0, index);
        run_gather(c, &v, seed, got, index == 0 ? exact : NULL);
        expect_same(c->name, got, exact, count, sizeof *got);
    }
    case_end(hash_bytes(HASH_START, exact, (size_t)count * sizeof *exact));
    free(exact), free(got);
}

static void test_gather_refused(void) {
    if (!case_begin("gather refused")) return;
    float x[6] = {1, 2, 3, 4, 5, 6}, out[4] = {7, 7, 7, 7};
    int64_t rows[2] = {0, 3};
    const variant v = variant_of(0, 0);
    const fa_ctx ctx = variant_ctx(&v);
    case_variant(&v);
    fa_view to = {out, {2, 2}, {8, 4}, 2, FA_F32}, from = {x, {3, 2}, {8, 4}, 2, FA_F32}, index = {rows, {2, 1}, {8, 8}, 2, FA_I64};
#define GIVES(status) expect_status("refused", fa_gather(&ctx, &to, &from, &index), status)
    GIVES(FA_ERR_VALUE);
    rows[1] = -2, GIVES(FA_ERR_VALUE);
    rows[1] = INT64_MIN, GIVES(FA_ERR_VALUE);
    rows[1] = 1, index.shape[0] = 1, GIVES(FA_ERR_SHAPE);
    index.shape[0] = 2, from.shape[1] = 1, GIVES(FA_ERR_SHAPE);
    from.shape[1] = 2, index.shape[1] = INT64_MAX, GIVES(FA_ERR_SHAPE);
    index.shape[1] = 1, index.dtype = FA_I32, GIVES(FA_ERR_DTYPE);
    index.dtype = FA_I64, index.stride[0] = 4, GIVES(FA_ERR_STRIDE);
    index.stride[0] = 8, from.dtype = FA_F16, GIVES(FA_ERR_DTYPE);
    from.dtype = FA_F32, to.stride[1] = 8, GIVES(FA_ERR_STRIDE);
#undef GIVES
    for (int i = 0; i < 4; i++)
        if (out[i] != 7.0f) fail("element %d was written", i);
    case_end(hash_bytes(HASH_START, out, sizeof out));
}

void test_disentangled(const options *o) {
    (void)o;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        run_case(&cases[i], hash_bytes(HASH_START, cases[i].name, strlen(cases[i].name)));
    test_refused();
    test_stopped();
    test_space();
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) columns_case_run(&columns[i]);
    test_columns_refused();
    for (size_t i = 0; i < sizeof gathers / sizeof *gathers; i++)
        gather_case_run(&gathers[i], hash_bytes(HASH_START, gathers[i].name, strlen(gathers[i].name)));
    test_gather_refused();
}
