/* SPDX-License-Identifier: MIT */
/* Embedding lookup and sum, and pooling of packed sequences. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* ---- embedding --------------------------------------------------------------------------------------------------- */

#define MOST_TABLES 11

typedef struct embedding_case {
    const char *name;
    int64_t t, h;
    int tables;
    fa_dtype ids;
} embedding_case;

static const embedding_case embeddings[] = {
    {"1x1", 1, 1, 1, FA_I64},          {"7x15", 7, 15, 1, FA_I32},      {"9x16 three tables", 9, 16, 3, FA_I64},
    {"100x385 three tables", 100, 385, 3, FA_I32}, {"5x33 eleven tables", 5, 33, 11, FA_I64}, {"no tokens", 0, 16, 2, FA_I64},
};

static int64_t table_rows(int i) { return 3 + 17 * i; }
static int64_t id_of(int i, int64_t t) { return (int64_t)(hash_at(900 + (uint64_t)i, (uint64_t)t) % (uint64_t)table_rows(i)); }

/* Table 1's values are read through a stride of zero: one row for all ids. */
static void run_embedding(const embedding_case *c, const variant *v, float *got) {
    fa_view tables[MOST_TABLES], ids[MOST_TABLES];
    tensor table[MOST_TABLES], id[MOST_TABLES];
    const int64_t out_shape[2] = {c->t, c->h};
    case_variant(v);
    for (int i = 0; i < c->tables; i++) {
        const int64_t shape[2] = {i == 1 ? 1 : table_rows(i), c->h}, full[2] = {table_rows(i), c->h};
        table[i] = tensor_make("table", FA_F32, 2, shape, v->layout, v->side);
        tensor_fill(&table[i], 500 + (uint64_t)i, 1.0f);
        if (i == 1) tensor_expand(&table[i], 1, full);
        id[i] = tensor_make("ids", c->ids, 1, &c->t, DENSE, v->side);
        for (int64_t t = 0; t < c->t; t++) {
            if (c->ids == FA_I32) *(int32_t *)view_at(&id[i].view, t) = (int32_t)id_of(i, t);
            else *(int64_t *)view_at(&id[i].view, t) = id_of(i, t);
        }
        guard_seal(table[i].memory), guard_seal(id[i].memory);
        tables[i] = table[i].view;
        ids[i] = id[i].view;
    }
    tensor out = tensor_make("out", FA_F32, 2, out_shape, v->layout, v->side);
    fa_ctx ctx = variant_ctx(v);
    hostile_enter(v);
    fa_status status = fa_embedding(&ctx, &out.view, c->tables, tables, ids);
    hostile_leave(v);
    expect_status("embedding", status, FA_OK);
    tensor_gather(&out, got);
    expect_clean("out", tensor_free_output(&out));
    for (int i = 0; i < c->tables; i++) expect_clean("table", tensor_free(&table[i])), expect_clean("ids", tensor_free(&id[i]));
}

static void embedding(const embedding_case *c) {
    if (!case_begin("embedding %s", c->name)) return;
    const int64_t count = c->t * c->h;
    float *base = scratch(count, sizeof *base), *got = scratch(count, sizeof *got);
    for (int64_t i = 0; i < count; i++) /* exact: one rounding per addition, left to right */
        for (int k = 0; k < c->tables; k++) {
            const int64_t row = k == 1 ? 0 : id_of(k, i / c->h);
            const float x = bell(500 + (uint64_t)k, (uint64_t)(row * c->h + i % c->h));
            base[i] = k ? base[i] + x : x;
        }
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int index = 0; index < VARIANTS_PER_ISA; index++) {
            variant v = variant_of(isa, index);
            run_embedding(c, &v, got);
            expect_same("embedding", got, base, count, sizeof *got);
        }
    }
    case_end(hash_bytes(HASH_START, base, (size_t)count * sizeof *base));
    free(base), free(got);
}

/* ---- pooling ----------------------------------------------------------------------------------------------------- */

typedef struct pool_case {
    const char *name;
    int64_t h, n;
    const int64_t *cu;
    int special;
    int64_t skip;
} pool_case;

#define LIST(...) (const int64_t[]){__VA_ARGS__}
static const pool_case pools[] = {
    {"1x1", 1, 1, LIST(0, 1), 0, 0},
    {"short texts", 15, 4, LIST(0, 1, 4, 4, 9), 0, 0},
    {"enough for a team", 385, 5, LIST(0, 100, 101, 150, 150, 200), 0, 0},
    {"gaps at both ends", 33, 2, LIST(3, 7, 9), 0, 0},
    {"NaN, inf, zeros", 20, 3, LIST(0, 3, 6, 9), 1, 0},
    {"no sequences", 8, 0, LIST(0), 0, 0},
    {"a prompt of 3 rows", 37, 6, LIST(0, 1, 3, 6, 10, 30, 200), 0, 3},
    {"a prompt beyond all rows", 9, 2, LIST(0, 2, 7), 0, INT64_MAX},
    {"sequences without tokens", 8, 2, LIST(0, 0, 0), 0, 0},
};
static const char *const modes[] = {"mean", "cls", "max", "last", "mean_sqrt_len", "weighted_mean"};

static void fill_pool(const pool_case *c, tensor *x) {
    tensor_fill(x, 700, 1.0f);
    for (int64_t j = 0; j < c->h && c->special; j++) {
        *(float *)view_at(&x->view, 0 * c->h + j) = j % 3 ? 1.0f : NAN;
        *(float *)view_at(&x->view, 4 * c->h + j) = j % 4 ? 1.0f : j % 8 ? INFINITY : -INFINITY;
        for (int64_t t = 6; t < 9; t++) *(float *)view_at(&x->view, t * c->h + j) = t % 2 ? 0.0f : -0.0f;
    }
}

static double pool_at(const pool_case *c, const tensor *x, fa_pool_mode mode, int64_t s, int64_t j, int single) {
    const int64_t first = c->cu[s], n = c->cu[s + 1] - first, skip = c->skip;
    const int sums = mode == FA_POOL_MEAN || mode == FA_POOL_MEAN_SQRT_LEN || mode == FA_POOL_WEIGHTED_MEAN;
    double value = 0, divisor = 0;
    float sum = 0, divisor1 = 0;
    for (int64_t t = skip; t < n; t++) {
        const float e = *(float *)view_at(&x->view, (first + t) * c->h + j);
        const double weight = mode == FA_POOL_WEIGHTED_MEAN ? (double)(t + 1) : 1.0;
        sum += e * (float)weight, divisor1 += (float)weight, divisor += weight;
        if (sums) value += weight * e;
        else if (mode == FA_POOL_CLS) value = t == skip ? e : value;
        else if (mode == FA_POOL_LAST) value = e;
        else value = t == skip || isnan(e) ? e : isnan(value) || value >= e ? value : e;
    }
    if (!sums || n <= skip) return value;
    if (mode == FA_POOL_MEAN_SQRT_LEN) return single ? (double)(sum / sqrtf(divisor1)) : value / sqrt(divisor);
    return single ? (double)(sum / divisor1) : value / divisor;
}

typedef struct pool_arg {
    const pool_case *c;
    const tensor *x;
    fa_pool_mode mode;
} pool_arg;

static void run_naive(void *arg, int order, float *out) {
    const pool_arg *a = arg;
    (void)order;
    for (int64_t i = 0; i < a->c->n * a->c->h; i++) out[i] = (float)pool_at(a->c, a->x, a->mode, i / a->c->h, i % a->c->h, 1);
}

static void pool(const pool_case *c, fa_pool_mode mode) {
    if (!case_begin("pool %s, %s", modes[mode], c->name)) return;
    const int64_t count = c->n * c->h, entries = c->n + 1;
    const int64_t x_shape[2] = {c->cu[c->n] + (c->cu[0] ? 2 : 0), c->h}, out_shape[2] = {c->n, c->h};
    float *base = scratch(count, sizeof *base), *got = scratch(count, sizeof *got);
    double *reference = scratch(count, sizeof *reference);
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int index = 0; index < VARIANTS_PER_ISA; index++) {
            variant v = variant_of(isa, index);
            case_variant(&v);
            tensor x = tensor_make("x", FA_F32, 2, x_shape, v.layout, v.side), out = tensor_make("out", FA_F32, 2, out_shape, v.layout, v.side);
            tensor cu = tensor_make("cu", FA_I64, 1, &entries, DENSE, v.side);
            memcpy(cu.memory, c->cu, (size_t)entries * sizeof *c->cu);
            fill_pool(c, &x);
            guard_seal(x.memory), guard_seal(cu.memory);
            fa_ctx ctx = variant_ctx(&v);
            hostile_enter(&v);
            fa_status status = fa_pool(&ctx, &out.view, &x.view, &cu.view, mode, c->skip);
            hostile_leave(&v);
            expect_status("pool", status, FA_OK);
            tensor_gather(&out, got);
            if (isa == 0 && index == 0) {
                memcpy(base, got, (size_t)count * sizeof *base);
                for (int64_t i = 0; i < count; i++) reference[i] = pool_at(c, &x, mode, i / c->h, i % c->h, 0);
                pool_arg arg = {c, &x, mode};
                expect_accurate("pool", base, reference, count, run_naive, &arg);
            }
            expect_same("pool", got, base, count, sizeof *got);
            expect_clean("out", tensor_free_output(&out));
            expect_clean("x", tensor_free(&x));
            expect_clean("cu", tensor_free(&cu));
        }
    }
    case_end(hash_bytes(HASH_START, base, (size_t)count * sizeof *base));
    free(base), free(got), free(reference);
}

void test_pooling(const options *o) {
    (void)o;
    for (size_t i = 0; i < sizeof embeddings / sizeof *embeddings; i++) embedding(&embeddings[i]);
    for (size_t i = 0; i < sizeof pools / sizeof *pools; i++)
        for (int mode = FA_POOL_MEAN; mode <= FA_POOL_WEIGHTED_MEAN; mode++) pool(&pools[i], (fa_pool_mode)mode);
}
