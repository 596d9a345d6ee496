/* SPDX-License-Identifier: MIT */
/* disentangled_bias: every element by a plain loop, exactly; positions with holes, one product or both, odd sizes. */
#include <stdlib.h>
#include <string.h>

#include "check.h"

typedef struct relative_case {
    const char *name;
    int64_t heads, rows, keys, n;
    int64_t reach, jump; /* of the table of columns; every jump-th position is left out, 0: none */
    int c2p, p2c;
    float scale;
} relative_case;

static const relative_case cases[] = {
    {"1x1", 1, 1, 1, 1, 0, 0, 1, 1, 1.0f},
    {"both 3x40x40", 3, 40, 40, 64, 39, 0, 1, 1, 0.3f},
    {"c2p 2x17x33", 2, 17, 33, 20, 40, 0, 1, 0, -1.5f},
    {"p2c 2x33x17", 2, 33, 17, 20, 40, 0, 0, 1, 0.125f},
    {"holes 2x70x70", 2, 70, 70, 48, 110, 3, 1, 1, 0.07f},
    {"many keys 1x3x500", 1, 3, 500, 33, 502, 0, 1, 1, 1.0f},
    {"no keys", 2, 3, 0, 5, 3, 0, 1, 1, 1.0f},
    {"no rows", 2, 0, 3, 5, 3, 0, 1, 1, 1.0f},
};

static int64_t position(const relative_case *c, int64_t i) { return c->jump ? i + i / c->jump : i; }

static int32_t column(const relative_case *c, int64_t distance) {
    const int64_t t = distance / 2 + c->n / 2;
    return (int32_t)(t < 0 ? 0 : t >= c->n ? c->n - 1 : t);
}

static void expected(const relative_case *c, const tensor *c2p, const tensor *p2c, float *out) {
    for (int64_t h = 0; h < c->heads; h++)
        for (int64_t i = 0; i < c->rows; i++)
            for (int64_t j = 0; j < c->keys; j++) {
                const int64_t t = column(c, position(c, i) - position(c, j));
                float sum = 0.0f;
                if (c->c2p) sum = *(float *)view_at(&c2p->view, (h * c->rows + i) * c->n + t);
                if (c->p2c) {
                    const float p = *(float *)view_at(&p2c->view, (h * c->keys + j) * c->n + t);
                    sum = c->c2p ? sum + p : p;
                }
                out[(h * c->rows + i) * c->keys + j] = sum * c->scale;
            }
}

static void run(const relative_case *c, const variant *v, uint64_t seed, float *got, float *exact) {
    const int64_t left[3] = {c->heads, c->rows, c->n}, right[3] = {c->heads, c->keys, c->n};
    const int64_t shape[3] = {c->heads, c->rows, c->keys}, entries = 2 * c->reach + 1;
    case_variant(v);
    tensor c2p = tensor_make("c2p", FA_F32, 3, left, v->layout, v->side);
    tensor p2c = tensor_make("p2c", FA_F32, 3, right, v->layout, v->side);
    tensor q_at = tensor_make("q_positions", FA_I64, 1, &c->rows, DENSE, v->side);
    tensor k_at = tensor_make("k_positions", FA_I64, 1, &c->keys, DENSE, v->side);
    tensor columns = tensor_make("columns", FA_I32, 1, &entries, DENSE, v->side);
    tensor out = tensor_make("out", FA_F32, 3, shape, v->layout, v->side);
    tensor_fill(&c2p, seed + 1, 2.0f), tensor_fill(&p2c, seed + 2, 2.0f);
    for (int64_t i = 0; i < c->rows; i++) *(int64_t *)view_at(&q_at.view, i) = position(c, i);
    for (int64_t i = 0; i < c->keys; i++) *(int64_t *)view_at(&k_at.view, i) = position(c, i);
    for (int64_t i = 0; i < entries; i++) *(int32_t *)view_at(&columns.view, i) = column(c, i - c->reach);
    if (exact) expected(c, &c2p, &p2c, exact);
    guard_seal(c2p.memory), guard_seal(p2c.memory), guard_seal(q_at.memory), guard_seal(k_at.memory), guard_seal(columns.memory);
    fa_ctx ctx = variant_ctx(v);
    hostile_enter(v);
    const fa_status status = fa_disentangled_bias(&ctx, &out.view, c->c2p ? &c2p.view : NULL, c->p2c ? &p2c.view : NULL,
                                                  &q_at.view, &k_at.view, &columns.view, c->scale);
    hostile_leave(v);
    expect_status(c->name, status, FA_OK);
    tensor_gather(&out, got);
    expect_clean("out", tensor_free_output(&out));
    expect_clean("c2p", tensor_free(&c2p)), expect_clean("p2c", tensor_free(&p2c)), expect_clean("columns", tensor_free(&columns));
    expect_clean("q_positions", tensor_free(&q_at)), expect_clean("k_positions", tensor_free(&k_at));
}

static void run_case(const relative_case *c, uint64_t seed) {
    if (!case_begin("disentangled_bias %s", c->name)) return;
    const int64_t count = c->heads * c->rows * c->keys;
    float *base = scratch(count, sizeof *base), *got = scratch(count, sizeof *got), *exact = scratch(count, sizeof *exact);
    variant first = variant_of(0, 0);
    run(c, &first, seed, base, exact);
    expect_same(c->name, base, exact, count, sizeof *base);
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int index = isa == 0; index < VARIANTS_PER_ISA; index++) {
            variant v = variant_of(isa, index);
            run(c, &v, seed, got, NULL);
            expect_same(c->name, got, base, count, sizeof *got);
        }
    }
    case_variant(&first);
    case_end(hash_bytes(HASH_START, base, (size_t)count * sizeof *base));
    free(base), free(got), free(exact);
}

/* What is out of range is refused with nothing written. */
static void test_refused(void) {
    if (!case_begin("disentangled_bias refused")) return;
    float products[4] = {1, 2, 3, 4}, out[4] = {7, 7, 7, 7};
    int64_t at[2] = {0, 1};
    int32_t columns[3] = {0, 1, 1};
    const fa_view both = {products, {1, 2, 2}, {16, 8, 4}, 3, FA_F32}, target = {out, {1, 2, 2}, {16, 8, 4}, 3, FA_F32};
    fa_view places = {at, {2}, {8}, 1, FA_I64}, table = {columns, {3}, {4}, 1, FA_I32};
    const variant v = variant_of(0, 0);
    const fa_ctx ctx = variant_ctx(&v);
    case_variant(&v);
#define GIVES(c2p, p2c, status) \
    expect_status("refused", fa_disentangled_bias(&ctx, &target, c2p, p2c, &places, &places, &table, 1.0f), status)
    GIVES(NULL, NULL, FA_ERR_VALUE);
    columns[0] = 2, GIVES(&both, NULL, FA_ERR_VALUE);
    columns[0] = -1, GIVES(NULL, &both, FA_ERR_VALUE);
    columns[0] = 0, at[1] = 2, GIVES(&both, &both, FA_ERR_VALUE);
    at[1] = INT64_MAX, GIVES(&both, &both, FA_ERR_VALUE);
    at[1] = -1, GIVES(&both, &both, FA_ERR_VALUE);
    at[1] = 1, table.shape[0] = 2, GIVES(&both, &both, FA_ERR_SHAPE);
    table.shape[0] = 3, table.dtype = FA_I64, GIVES(&both, &both, FA_ERR_DTYPE);
    table.dtype = FA_I32, places.stride[0] = 4, GIVES(&both, &both, FA_ERR_STRIDE);
#undef GIVES
    for (int i = 0; i < 4; i++)
        if (out[i] != 7.0f) fail("element %d was written", i);
    case_end(hash_bytes(HASH_START, out, sizeof out));
}

void test_relative(const options *o) {
    (void)o;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        run_case(&cases[i], hash_bytes(HASH_START, cases[i].name, strlen(cases[i].name)));
    test_refused();
}
