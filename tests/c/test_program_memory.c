/* SPDX-License-Identifier: MIT */
/*
 * Cached attention: sequences that come in pieces, cut anywhere, in any batches, give the bytes of packed attention over
 * whole sequences whose keys are stored as the same type. A program has three such steps: two of one group, whose layers
 * store their keys as different types, and one of another group, with a window.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "program_lab.h"

enum { N = 3, TOTAL = 104, HEADS = 4, KV = 2, D = 8, DV = 12, PAGE = 16, PAGES = 12, WIDE = HEADS * D + KV * (D + DV), OUT = HEADS * DV, LAYERS = 3 };

static const int64_t lengths[N] = {70, 1, 33};
static const int group_of[LAYERS] = {0, 1, 0};

static fa_attention_params options_of(int layer) {
    fa_attention_params p = {.scale = 0.25f, .causal = 1, .window_left = -1, .window_right = -1};
    if (layer == 1) p.window_left = 20, p.sink_tokens = 2;
    return p;
}

/* Of the token at a place of a sequence, column j. */
static float element(int64_t sequence, int64_t place, int64_t j) { return bell(300 + (uint64_t)sequence, (uint64_t)(place * WIDE + j)); }

static int64_t start_of(int64_t sequence) { return sequence == 0 ? 0 : start_of(sequence - 1) + lengths[sequence - 1]; }

/* ---- memory -------------------------------------------------------------------------------------------------------- */

typedef struct cache {
    tensor k[LAYERS], v[LAYERS], k_scale[LAYERS], v_scale[LAYERS];
    fa_memory_layer layers[LAYERS];
    int64_t held[N]; /* tokens */
} cache;

static void cache_layer(cache *m, int layer, fa_dtype dtype, guard_side side) {
    const int64_t k[4] = {PAGES, KV, PAGE, D}, v[4] = {PAGES, KV, PAGE, DV};
    m->k[layer] = tensor_make("keys", dtype, 4, k, DENSE, side);
    m->v[layer] = tensor_make("values", dtype, 4, v, DENSE, side);
    m->layers[layer] = (fa_memory_layer){.k = m->k[layer].view, .v = m->v[layer].view};
    if (dtype != FA_I8) return;
    m->k_scale[layer] = tensor_make("scales of keys", FA_F32, 3, k, DENSE, side);
    m->v_scale[layer] = tensor_make("scales of values", FA_F32, 3, k, DENSE, side);
    m->layers[layer].k_scale = m->k_scale[layer].view, m->layers[layer].v_scale = m->v_scale[layer].view;
}

static void cache_end(cache *m) {
    for (int layer = 0; layer < LAYERS; layer++) {
        tensor *all[] = {&m->k[layer], &m->v[layer], &m->k_scale[layer], &m->v_scale[layer]};
        for (int i = 0; i < 4; i++)
            if (all[i]->memory) expect_clean("memory", tensor_free(all[i]));
    }
}

/* Each group has an order of its own, in which pages of the sequences lie between each other. */
static int64_t page_of(int group, int64_t sequence, int64_t i) {
    static const int64_t first[N] = {0, 5, 6}; /* of the sequence's pages, among those of all */
    const int64_t number = first[sequence] + i;
    return group ? (7 * number + 5) % PAGES : (5 * number + 1) % PAGES;
}

/* ---- by hand ------------------------------------------------------------------------------------------------------- */

static void wide_rows(float *to) {
    for (int64_t b = 0; b < N; b++)
        for (int64_t i = 0; i < lengths[b]; i++)
            for (int64_t j = 0; j < WIDE; j++) *to++ = element(b, i, j);
}

static fa_view heads_at(const fa_view *wide, int64_t first, int64_t heads, int64_t size) {
    return (fa_view){(float *)wide->data + first, {1, heads, wide->shape[0], size}, {0, size * 4, wide->stride[0], 4}, 4, FA_F32};
}

/* Rows stored as one page for all, which packed attention takes for keys. */
static fa_view stored(const fa_ctx *ctx, const fa_view *src, fa_dtype dtype, fa_store_form form, void *memory, float *scales, fa_view *scale) {
    int64_t slots[TOTAL];
    _Alignas(64) char ws[4096];
    const int64_t n = src->shape[2], d = src->shape[3], item = dtype == FA_F32 ? 4 : dtype == FA_I8 ? 1 : 2;
    for (int64_t i = 0; i < n; i++) slots[i] = i;
    const fa_view at = {slots, {1, n}, {8 * n, 8}, 2, FA_I64};
    const fa_view to = {memory, {1, KV, n, d}, {KV * n * d * item, n * d * item, d * item, item}, 4, dtype};
    *scale = (fa_view){scales, {1, KV, n}, {KV * n * 4, n * 4, 4}, 3, FA_F32};
    expect_status("store", fa_kv_store(ctx, &to, dtype == FA_I8 ? scale : NULL, src, &at, NULL, NULL, NULL, 0, dtype == FA_I8 ? form : FA_STORE_ROWS,
                                       ws, sizeof ws), FA_OK);
    return to;
}

static void by_hand(int layer, fa_dtype dtype, float *to) {
    static _Alignas(64) float wide[TOTAL * WIDE], k[KV * TOTAL * D], v[KV * TOTAL * DV], k_scales[KV * TOTAL], v_scales[KV * TOTAL];
    const fa_ctx ctx = {.kernels = fa_kernels_for(0), .num_threads = 1};
    const int64_t ends[N + 1] = {0, start_of(1), start_of(2), TOTAL};
    fa_view k_scale, v_scale;
    wide_rows(wide);
    const fa_view x = {wide, {TOTAL, WIDE}, {WIDE * 4, 4}, 2, FA_F32}, rows = {to, {TOTAL, OUT}, {OUT * 4, 4}, 2, FA_F32};
    const fa_view q = heads_at(&x, 0, HEADS, D), out = heads_at(&rows, 0, HEADS, DV);
    const fa_view keys = heads_at(&x, HEADS * D, KV, D), values = heads_at(&x, HEADS * D + KV * D, KV, DV);
    const fa_view ks = stored(&ctx, &keys, dtype, FA_STORE_KEYS, k, k_scales, &k_scale), vs = stored(&ctx, &values, dtype, FA_STORE_VALUES, v, v_scales, &v_scale);
    fa_attention_params p = options_of(layer);
    p.cu_q = p.cu_k = ends;
    p.n_seq = N;
    if (dtype == FA_I8) p.k_scale = &k_scale, p.v_scale = &v_scale, p.integers = 1;
    size_t bytes = 0;
    expect_status("query", fa_attention_workspace(&ctx, &out, NULL, NULL, &q, &ks, &vs, &p, &bytes), FA_OK);
    void *ws = guard_alloc(bytes, GUARD_BACK, "workspace by hand");
    expect_status("attention", fa_attention(&ctx, &out, NULL, NULL, &q, &ks, &vs, &p, ws, bytes), FA_OK);
    guard_free(ws);
}

/* Run without having been measured, too: the steps before `step` alone. */
static void refused(lab *l, int step) {
    int64_t bad = -1;
    const fa_ctx ctx = variant_ctx(&l->v);
    void *ws = guard_alloc(1 << 20, GUARD_BACK, "workspace");
    expect_status("program that was not measured", fa_program_run(&ctx, &l->program, &l->batch, ws, 1 << 20, &bad), FA_ERR_VALUE);
    if (bad != step) fail("step %lld is refused, expected %d", (long long)bad, step);
    expect_clean("workspace", guard_free(ws));
}

/* ---- in pieces ----------------------------------------------------------------------------------------------------- */

/*
 * One batch: the next `take` tokens of each sequence, or with m == NULL whole sequences without memory. `placed`: a step
 * that gets positions, or -1; with memory it is refused when the program is measured, and when it is run.
 */
static void run_piece(cache *m, const variant *v, const int64_t take[N], int placed, float *results[LAYERS]) {
    lab l;
    int64_t ends[N + 1] = {0}, held[N] = {0}, slots[2][TOTAL], kv_lengths[N], bad;
    fa_memory_group groups[2];
    int64_t places[TOTAL];
    int outs[LAYERS];
    memset(groups, 0, sizeof groups);
    lab_begin(&l, v, LAYERS);
    for (int64_t b = 0; b < N; b++) {
        ends[b + 1] = ends[b] + take[b];
        held[b] = m ? m->held[b] : 0;
        kv_lengths[b] = held[b] + take[b];
    }
    for (int64_t b = 0; b < N; b++)
        for (int64_t i = 0; i < take[b]; i++) places[ends[b] + i] = held[b] + i;
    l.batch.rows[TOKENS] = ends[N], l.batch.rows[SEQUENCES] = N;
    const int wide = lab_array(&l, "q, k, v", (fa_array){.dtype = FA_F32, .ndim = 2, .rows = TOKENS, .width = WIDE}, NULL);
    for (int64_t b = 0; b < N; b++)
        for (int64_t i = 0; i < take[b]; i++)
            for (int64_t j = 0; j < WIDE; j++) *(float *)view_at(&l.views[wide], (ends[b] + i) * WIDE + j) = element(b, held[b] + i, j);
    guard_seal(l.tensors[wide].memory);
    const int cu = lab_integers(&l, "ends", SEQUENCES, 1, ends);
    for (int layer = 0; layer < LAYERS; layer++) {
        outs[layer] = lab_floats(&l, "out", TOKENS, OUT, 0);
        fa_step *s = lab_step(&l, FA_STEP_ATTENTION, lab_column(&l, outs[layer], 0, OUT), lab_column(&l, wide, 0, HEADS * D));
        s->y = lab_column(&l, wide, HEADS * D, KV * D), s->z = lab_column(&l, wide, HEADS * D + KV * D, KV * DV);
        s->heads = HEADS, s->kv_heads = KV, s->head_size = D, s->v_head_size = DV;
        s->index[0] = cu;
        if (layer == placed) s->index[1] = lab_integers(&l, "positions", TOKENS, 0, places);
        s->attention = options_of(layer);
        s->layer = layer, s->group = group_of[layer];
    }
    l.program.n_layers = LAYERS, l.program.n_groups = 2;
    tensor table[2], slot[2];
    const int64_t pages[2] = {N, 5}, row[2] = {1, ends[N]};
    for (int g = 0; g < 2 && m; g++) {
        table[g] = tensor_make("page table", FA_I64, 2, pages, DENSE, v->side);
        slot[g] = tensor_make("slots", FA_I64, 2, row, DENSE, v->side);
        for (int64_t b = 0; b < N; b++) {
            for (int64_t i = 0; i < 5; i++) *(int64_t *)view_at(&table[g].view, 5 * b + i) = i * PAGE < kv_lengths[b] ? page_of(g, b, i) : -77;
            for (int64_t i = held[b]; i < kv_lengths[b]; i++) slots[g][ends[b] + i - held[b]] = page_of(g, b, i / PAGE) * PAGE + i % PAGE;
        }
        if (ends[N]) memcpy(slot[g].memory, slots[g], slot[g].bytes);
        guard_seal(table[g].memory), guard_seal(slot[g].memory);
        groups[g] = (fa_memory_group){slot[g].view, table[g].view, kv_lengths, held};
    }
    if (m) l.batch.layers = m->layers, l.batch.groups = groups, l.batch.n_layers = LAYERS, l.batch.n_groups = 2;
    const fa_status expected = m && placed >= 0 ? FA_ERR_VALUE : FA_OK;
    expect_status("program", lab_run(&l, &bad), expected);
    if (expected != FA_OK) refused(&l, placed);
    for (int layer = 0; layer < LAYERS && expected == FA_OK; layer++)
        for (int64_t b = 0; b < N; b++)
            for (int64_t i = 0; i < take[b] * OUT; i++)
                results[layer][(start_of(b) + held[b]) * OUT + i] = *(float *)view_at(&l.views[outs[layer]], ends[b] * OUT + i);
    for (int g = 0; g < 2 && m; g++) tensor_free(&table[g]), tensor_free(&slot[g]);
    for (int64_t b = 0; b < N && m && expected == FA_OK; b++) m->held[b] = kv_lengths[b];
    lab_end(&l);
}

enum { WHOLE, ONE_BY_ONE, PAGES_AND_ROWS, ONE_AFTER_THE_OTHER, ANYHOW, CUTS };

static int64_t take_of(int cut, int64_t b, int64_t left, int64_t round) {
    const int64_t random = (int64_t)(hash_at(777, (uint64_t)(round * N + b)) % 23);
    switch (cut) {
    case ONE_BY_ONE: return left > 0;
    case PAGES_AND_ROWS: return round % 2 ? left > 0 : left < PAGE ? left : PAGE;
    case ONE_AFTER_THE_OTHER: return round % N == b ? (left < 31 ? left : 31) : 0;
    case ANYHOW: return left < random ? left : random;
    default: return left;
    }
}

static void run_cut(fa_dtype dtype, int cut, const variant *v, float *results[LAYERS]) {
    cache m = {0};
    for (int layer = 0; layer < LAYERS; layer++) cache_layer(&m, layer, layer == 2 ? FA_I8 : dtype, v->side);
    for (int64_t round = 0, done = 0; done < TOTAL; round++) {
        int64_t take[N];
        for (int64_t b = 0; b < N; b++) done += take[b] = take_of(cut, b, lengths[b] - m.held[b], round);
        run_piece(&m, v, take, -1, results);
    }
    cache_end(&m);
}

static void run_dtype(fa_dtype dtype, const char *name) {
    if (!case_begin("program memory %s", name)) return;
    const int64_t count = TOTAL * OUT;
    uint64_t hash = HASH_START;
    float *base[LAYERS], *got[LAYERS];
    int turn = 0;
    case_variant(&(variant){0, FA_FORCE_NONE, 1, GUARD_BACK, DENSE, 0});
    for (int layer = 0; layer < LAYERS; layer++) {
        base[layer] = scratch(count, 4), got[layer] = scratch(count, 4);
        by_hand(layer, layer == 2 ? FA_I8 : dtype, base[layer]);
        hash = hash_bytes(hash, base[layer], (size_t)count * 4);
    }
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int cut = 0; cut < CUTS; cut++) {
            const variant v = variant_of(isa, turn++ % VARIANTS_PER_ISA);
            for (int layer = 0; layer < LAYERS; layer++) memset(got[layer], 0xff, (size_t)count * 4);
            run_cut(dtype, cut, &v, got);
            for (int layer = 0; layer < LAYERS; layer++) expect_same("in pieces", got[layer], base[layer], count, 4);
        }
        if (dtype != FA_F32) continue;
        const variant v = variant_of(isa, turn++ % VARIANTS_PER_ISA); /* the same program without memory */
        run_piece(NULL, &v, lengths, -1, got);
        for (int layer = 0; layer < 2; layer++) expect_same("without memory", got[layer], base[layer], count, 4);
    }
    for (int layer = 0; layer < LAYERS; layer++) free(base[layer]), free(got[layer]);
    case_end(hash);
}

/* Where rows stand is said by memory or by the batch, never by both; a refused call leaves the model as it was. */
static void run_positions(void) {
    if (!case_begin("program memory and positions")) return;
    const int64_t count = TOTAL * OUT, first[N] = {20, 0, 33}, rest[N] = {50, 1, 0};
    uint64_t hash = HASH_START;
    float *base[LAYERS], *got[LAYERS];
    for (int layer = 0; layer < LAYERS; layer++) {
        base[layer] = scratch(count, 4), got[layer] = scratch(count, 4);
        by_hand(layer, FA_F32, base[layer]);
    }
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int placed = 0; placed < LAYERS; placed++) {
            const variant v = variant_of(isa, placed % VARIANTS_PER_ISA);
            cache m = {0};
            for (int layer = 0; layer < LAYERS; layer++) cache_layer(&m, layer, FA_F32, v.side);
            run_piece(&m, &v, first, placed, got);
            run_piece(&m, &v, first, -1, got);
            run_piece(&m, &v, rest, placed, got);
            run_piece(&m, &v, rest, -1, got);
            cache_end(&m);
            for (int layer = 0; layer < LAYERS; layer++) expect_same("after refusals", got[layer], base[layer], count, 4);
            if (options_of(placed).sink_tokens) continue; /* which go with no positions */
            run_piece(NULL, &v, lengths, placed, got);
            for (int layer = 0; layer < LAYERS; layer++) expect_same("without memory", got[layer], base[layer], count, 4);
        }
    }
    for (int layer = 0; layer < LAYERS; layer++) hash = hash_bytes(hash, base[layer], (size_t)count * 4), free(base[layer]), free(got[layer]);
    case_end(hash);
}

void test_program_memory(const options *o) {
    (void)o;
    run_dtype(FA_F32, "fp32");
    run_dtype(FA_F16, "fp16");
    run_dtype(FA_BF16, "bf16");
    run_dtype(FA_I8, "int8");
    run_positions();
}
