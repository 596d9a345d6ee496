/* SPDX-License-Identifier: MIT */
/* fa_convert, fa_rope, fa_rope_table, fa_kv_store and fa_merge_attention: one result from every variant, statuses. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../src_c/kernels/kernels.h"
#include "check.h"

enum { B = 2, H = 3, S = 37, P = 50 };

static const fa_dtype types[] = {FA_F32, FA_F16, FA_BF16, FA_I8};
static const char *const type_names[] = {"fp32", "fp16", "bf16", "int8"};

static int64_t item_of(fa_dtype dtype) { return dtype == FA_F32 ? 4 : dtype == FA_I8 ? 1 : 2; }

/* Values of any float type, the same numbers in every layout: small multiples of 1 / 64, exact in all of them. */
static void fill(tensor *t, uint64_t seed) {
    const int64_t count = tensor_count(&t->view);
    for (int64_t i = 0; i < count; i++) {
        const float x = (float)((int)(hash_at(seed, (uint64_t)i) % 255) - 127) / 64;
        void *at = view_at(&t->view, i);
        if (t->view.dtype == FA_F32) *(float *)at = x;
        else fa_kernels_for(0)->convert.narrow(at, t->view.dtype, &x, 1);
    }
}

static tensor angles_make(const char *name, uint64_t seed, int64_t half, const variant *v) {
    const int64_t shape[2] = {P, half};
    tensor t = tensor_make(name, FA_F32, 2, shape, v->layout == HEADS_INSIDE ? DENSE : v->layout, v->side);
    tensor_fill(&t, seed, 0.5f);
    guard_seal(t.memory);
    return t;
}

static tensor numbers_make(const char *name, uint64_t seed, int64_t limit, int distinct, const variant *v) {
    const int64_t shape[2] = {B, S};
    tensor t = tensor_make(name, FA_I64, 2, shape, v->layout == HEADS_INSIDE ? DENSE : v->layout, v->side);
    for (int64_t i = 0; i < B * S; i++) {
        const int64_t x = distinct ? (i * 29 + 5) % limit : (int64_t)(hash_at(seed, (uint64_t)i) % (uint64_t)limit);
        *(int64_t *)view_at(&t.view, i) = distinct && i % 11 == 3 ? -1 : x;
    }
    guard_seal(t.memory);
    return t;
}

/* Runs `once` in every variant; its output bytes must be those of the first. */
static void every_variant(void (*once)(const void *arg, const variant *v, void *got), const void *arg, size_t bytes) {
    char *base = scratch((int64_t)bytes, 1), *got = scratch((int64_t)bytes, 1);
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int index = 0; index < VARIANTS_PER_ISA; index++) {
            variant v = variant_of(isa, index);
            case_variant(&v);
            once(arg, &v, got);
            if (isa == 0 && index == 0) memcpy(base, got, bytes);
            expect_same("result", got, base, (int64_t)bytes, 1);
        }
    }
    case_end(hash_bytes(HASH_START, base, bytes));
    free(base), free(got);
}

/* ---- convert ------------------------------------------------------------------------------------------------------ */

typedef struct convert_case { fa_dtype to, from; int64_t d; } convert_case;

static void convert_once(const void *arg, const variant *v, void *got) {
    const convert_case *c = arg;
    const int64_t shape[4] = {B, H, S, c->d};
    tensor x = tensor_make("x", c->from, 4, shape, v->layout, v->side);
    tensor out = tensor_make("out", c->to, 4, shape, v->side == GUARD_BACK ? DENSE : v->layout, v->side);
    fill(&x, 3);
    guard_seal(x.memory);
    fa_ctx ctx = variant_ctx(v);
    hostile_enter(v);
    fa_status status = fa_convert(&ctx, &out.view, &x.view);
    hostile_leave(v);
    expect_status("convert", status, FA_OK);
    tensor_gather(&out, got);
    expect_clean("out", tensor_free_output(&out)), expect_clean("x", tensor_free(&x));
}

/* ---- rope --------------------------------------------------------------------------------------------------------- */

typedef struct rope_case { fa_dtype dtype; int64_t d, half; int interleaved; } rope_case;

static void rope_once(const void *arg, const variant *v, void *got) {
    const rope_case *c = arg;
    const int64_t shape[4] = {B, H, S, c->d};
    tensor x = tensor_make("x", c->dtype, 4, shape, v->layout, v->side);
    tensor apart = tensor_make("out", c->dtype, 4, shape, v->layout, v->side);
    tensor cos = angles_make("cos", 4, c->half, v), sin = angles_make("sin", 5, c->half, v);
    tensor at = numbers_make("positions", 6, P, 0, v);
    const int in_place = v->threads > 1;
    tensor *out = in_place ? &x : &apart;
    fill(&x, 7);
    if (!in_place) guard_seal(x.memory);
    fa_ctx ctx = variant_ctx(v);
    hostile_enter(v);
    fa_status status = fa_rope(&ctx, &out->view, &x.view, &cos.view, &sin.view, &at.view, c->interleaved);
    hostile_leave(v);
    expect_status("rope", status, FA_OK);
    tensor_gather(out, got);
    expect_clean("out", tensor_free_output(out)), expect_clean("other", tensor_free(in_place ? &apart : &x));
    expect_clean("cos", tensor_free(&cos)), expect_clean("sin", tensor_free(&sin)), expect_clean("positions", tensor_free(&at));
}

/* ---- tables -------------------------------------------------------------------------------------------------------- */

static void table_once(const void *arg, const variant *v, void *got) {
    const int64_t n = 90, half = 7, shape[2] = {n, half};
    const layout rows = v->layout == HEADS_INSIDE ? DENSE : v->layout;
    double turns[4 * 7];
    (void)arg;
    for (int j = 0; j < 7; j++) {
        turns[4 * j] = 0x1.45f306p-3 / (1 << 3 * j); /* 1 / (2 pi), and what is left of it */
        turns[4 * j + 1] = 0x1.b9391p-28 / (1 << 3 * j);
        turns[4 * j + 2] = 0x1.529fcp-54 / (1 << 3 * j);
        turns[4 * j + 3] = 0;
    }
    tensor cos = tensor_make("cos", FA_F32, 2, shape, rows, v->side), sin = tensor_make("sin", FA_F32, 2, shape, rows, v->side);
    tensor at = tensor_make("positions", FA_I64, 1, &n, DENSE, v->side);
    for (int64_t i = 0; i < n; i++) {
        const int64_t x = (int64_t)(hash_at(8, (uint64_t)i) >> (12 + i % 50));
        *(int64_t *)view_at(&at.view, i) = i % 3 ? x : -x;
    }
    guard_seal(at.memory);
    fa_ctx ctx = variant_ctx(v);
    hostile_enter(v);
    fa_status status = fa_rope_table(&ctx, &cos.view, &sin.view, &at.view, turns, 1.25);
    hostile_leave(v);
    expect_status("rope_table", status, FA_OK);
    tensor_gather(&cos, got);
    tensor_gather(&sin, (float *)got + n * half);
    expect_clean("cos", tensor_free_output(&cos)), expect_clean("sin", tensor_free_output(&sin));
    expect_clean("positions", tensor_free(&at));
}

/* ---- rows into slots ------------------------------------------------------------------------------------------------ */

typedef struct store_case { fa_dtype to, from; int64_t d, half; } store_case;
enum { PAGES = 5, PAGE = 16 };

static void store_once(const void *arg, const variant *v, void *got) {
    const store_case *c = arg;
    const int64_t shape[4] = {B, H, S, c->d}, cache[4] = {PAGES, H, PAGE, c->d};
    tensor src = tensor_make("src", c->from, 4, shape, v->layout, v->side), dst = tensor_make("dst", c->to, 4, cache, v->layout, v->side);
    tensor scale = tensor_make("scale", FA_F32, 3, cache, v->layout == HEADS_INSIDE ? DENSE : v->layout, v->side);
    tensor slots = numbers_make("slots", 9, PAGES * PAGE, 1, v), at = numbers_make("positions", 10, P, 0, v);
    tensor cos = angles_make("cos", 11, c->half ? c->half : 1, v), sin = angles_make("sin", 12, c->half ? c->half : 1, v);
    const fa_view *scales = c->to == FA_I8 ? &scale.view : NULL;
    size_t bytes = 0;
    fill(&src, 13);
    guard_seal(src.memory);
    expect_status("size", fa_kv_store_workspace(&slots.view, &bytes), FA_OK);
    void *ws = guard_alloc(bytes, GUARD_FRONT, "workspace"); /* on a page, so aligned */
    fa_ctx ctx = variant_ctx(v);
    hostile_enter(v);
    fa_status status = fa_kv_store(&ctx, &dst.view, scales, &src.view, &slots.view, c->half ? &cos.view : NULL,
                                   c->half ? &sin.view : NULL, c->half ? &at.view : NULL, 0, FA_STORE_ROWS, ws, bytes);
    hostile_leave(v);
    expect_status("kv_store", status, FA_OK);
    tensor_gather(&dst, got);
    tensor_gather(&scale, (char *)got + PAGES * H * PAGE * c->d * item_of(c->to));
    expect_clean("dst", tensor_free_output(&dst)), expect_clean("scale", tensor_free_output(&scale));
    expect_clean("src", tensor_free(&src)), expect_clean("slots", tensor_free(&slots)), expect_clean("positions", tensor_free(&at));
    expect_clean("cos", tensor_free(&cos)), expect_clean("sin", tensor_free(&sin)), expect_clean("workspace", guard_free(ws));
}

/* ---- merging --------------------------------------------------------------------------------------------------------- */

typedef struct merge_case { fa_dtype dtype; int64_t n, d; } merge_case;
#define MOST_SIDES 9

static void merge_once(const void *arg, const variant *v, void *got) {
    const merge_case *c = arg;
    const int64_t shape[4] = {B, H, S, c->d};
    const layout rows = v->layout == HEADS_INSIDE ? DENSE : v->layout;
    tensor outs[MOST_SIDES], lses[MOST_SIDES];
    fa_view out_views[MOST_SIDES], lse_views[MOST_SIDES];
    for (int64_t i = 0; i < c->n; i++) {
        outs[i] = tensor_make("side", c->dtype, 4, shape, v->layout, v->side);
        lses[i] = tensor_make("side's lse", FA_F32, 3, shape, rows, v->side);
        fill(&outs[i], 20 + (uint64_t)i);
        tensor_fill(&lses[i], 40 + (uint64_t)i, 3.0f);
        for (int64_t r = 0; r < B * H * S; r++)
            if (hash_at(60 + (uint64_t)i, (uint64_t)r) % 4 == 0) *(float *)view_at(&lses[i].view, r) = -INFINITY;
        guard_seal(outs[i].memory), guard_seal(lses[i].memory);
        out_views[i] = outs[i].view, lse_views[i] = lses[i].view;
    }
    tensor out = tensor_make("out", c->dtype, 4, shape, v->layout, v->side), lse = tensor_make("lse", FA_F32, 3, shape, rows, v->side);
    fa_ctx ctx = variant_ctx(v);
    size_t bytes = 0;
    expect_status("size", fa_merge_attention_workspace(&ctx, c->n, &bytes), FA_OK);
    void *ws = guard_alloc(bytes, GUARD_FRONT, "workspace");
    hostile_enter(v);
    fa_status status = fa_merge_attention(&ctx, &out.view, &lse.view, c->n, out_views, lse_views, ws, bytes);
    hostile_leave(v);
    expect_status("merge", status, FA_OK);
    tensor_gather(&out, got);
    tensor_gather(&lse, (char *)got + B * H * S * c->d * item_of(c->dtype));
    expect_clean("out", tensor_free_output(&out)), expect_clean("lse", tensor_free_output(&lse)), expect_clean("workspace", guard_free(ws));
    for (int64_t i = 0; i < c->n; i++) expect_clean("side", tensor_free(&outs[i])), expect_clean("lse", tensor_free(&lses[i]));
}

/* ---- what is refused -------------------------------------------------------------------------------------------------- */

static void test_statuses(void) {
    if (!case_begin("rope and others: statuses")) return;
    variant v = variant_of(0, 0);
    case_variant(&v);
    fa_ctx ctx = variant_ctx(&v);
    const int64_t shape[4] = {B, H, S, 8};
    tensor x = tensor_make("x", FA_F32, 4, shape, DENSE, v.side), out = tensor_make("out", FA_F32, 4, shape, DENSE, v.side);
    tensor cos = angles_make("cos", 1, 4, &v), at = numbers_make("positions", 2, P, 0, &v);
    tensor slots = numbers_make("slots", 2, B * S, 1, &v);
    _Alignas(64) char ws[4096];
    fill(&x, 1);
#define ROPE(out_, x_, cos_, sin_, at_) fa_rope(&ctx, out_, x_, cos_, sin_, at_, 0)
#define STORE(dst_, slots_, bytes_) fa_kv_store(&ctx, dst_, NULL, &x.view, slots_, NULL, NULL, NULL, 0, FA_STORE_ROWS, ws, bytes_)
    const fa_view good = x.view, table = cos.view, places = at.view;
    fa_view odd = good, bad_cos = table, bad_at = places, target = out.view;
    expect_status("good", ROPE(&target, &good, &table, &table, &places), FA_OK);
    odd.dtype = FA_I8;
    expect_status("dtype", ROPE(&target, &odd, &table, &table, &places), FA_ERR_DTYPE);
    odd.dtype = 77;
    expect_status("no dtype", ROPE(&target, &odd, &table, &table, &places), FA_ERR_DTYPE);
    odd = good, odd.dtype = FA_F16;
    expect_status("two dtypes", ROPE(&target, &odd, &table, &table, &places), FA_ERR_STRIDE);
    odd = good, odd.stride[3] = 8;
    expect_status("last stride", ROPE(&target, &odd, &table, &table, &places), FA_ERR_STRIDE);
    odd = good, odd.data = (char *)odd.data + 2;
    expect_status("misaligned", ROPE(&target, &odd, &table, &table, &places), FA_ERR_STRIDE);
    odd = good, odd.shape[2]--;
    expect_status("shape", ROPE(&target, &odd, &table, &table, &places), FA_ERR_SHAPE);
    odd = good, odd.shape[1] = -1;
    expect_status("negative", ROPE(&odd, &odd, &table, &table, &places), FA_ERR_SHAPE);
    odd = good, odd.shape[0] = INT64_MAX / 2, odd.shape[1] = 8;
    expect_status("too many", ROPE(&odd, &odd, &table, &table, &places), FA_ERR_MEMORY);
    bad_cos.shape[1] = 5;
    expect_status("too wide", ROPE(&target, &good, &bad_cos, &bad_cos, &places), FA_ERR_SHAPE);
    expect_status("cos and sin", ROPE(&target, &good, &table, &bad_cos, &places), FA_ERR_SHAPE);
    bad_cos = table, bad_cos.shape[0] = 3;
    expect_status("position", ROPE(&target, &good, &bad_cos, &bad_cos, &places), FA_ERR_VALUE);
    expect_status("no positions", ROPE(&target, &good, &table, &table, NULL), FA_ERR_SHAPE);
    bad_at.dtype = FA_I32;
    expect_status("positions' dtype", ROPE(&target, &good, &table, &table, &bad_at), FA_ERR_DTYPE);
    expect_status("good", STORE(&target, &slots.view, sizeof ws), FA_OK);
    expect_status("no room", STORE(&target, &slots.view, 64), FA_ERR_WORKSPACE);
    expect_status("twice", STORE(&target, &places, sizeof ws), FA_ERR_VALUE);
    odd = target, odd.shape[2] = 3;
    expect_status("outside", STORE(&odd, &slots.view, sizeof ws), FA_ERR_VALUE);
    odd = target, odd.dtype = FA_I8, odd.stride[3] = 1;
    expect_status("no scale", STORE(&odd, &slots.view, sizeof ws), FA_ERR_DTYPE);
    odd = target, odd.shape[0] = odd.shape[2] = INT64_MAX / 2;
    expect_status("too many slots", STORE(&odd, &slots.view, sizeof ws), FA_ERR_MEMORY);
    expect_status("no sides", fa_merge_attention(&ctx, &target, &cos.view, 0, NULL, NULL, ws, sizeof ws), FA_ERR_SHAPE);
    expect_clean("x", tensor_free(&x)), expect_clean("out", tensor_free(&out)), expect_clean("cos", tensor_free(&cos));
    expect_clean("at", tensor_free(&at)), expect_clean("slots", tensor_free(&slots));
    case_end(0);
}

void test_rope(const options *o) {
    static const int64_t widths[][2] = {{2, 1}, {33, 16}, {40, 13}, {64, 32}, {128, 24}};
    (void)o;
    for (int to = 0; to < 3; to++)
        for (int from = 0; from < 3; from++) {
            const convert_case c = {types[to], types[from], from == 1 ? 33 : 64};
            if (!case_begin("convert %s to %s, strided", type_names[from], type_names[to])) continue;
            every_variant(convert_once, &c, (size_t)(B * H * S * c.d * item_of(c.to)));
        }
    for (int type = 0; type < 3; type++)
        for (int w = 0; w < 5; w++)
            for (int interleaved = 0; interleaved < 2; interleaved++) {
                const rope_case c = {types[type], widths[w][0], widths[w][1], interleaved};
                const char *pairs = interleaved ? " interleaved" : "";
                if (!case_begin("rope %s D=%d R=%d%s", type_names[type], (int)c.d, 2 * (int)c.half, pairs)) continue;
                every_variant(rope_once, &c, (size_t)(B * H * S * c.d * item_of(c.dtype)));
            }
    if (case_begin("rope table")) every_variant(table_once, NULL, 90 * 7 * 2 * sizeof(float));
    for (int to = 0; to < 4; to++)
        for (int from = 0; from < 3; from++)
            for (int half = 0; half < 2; half++) {
                const store_case c = {types[to], types[from], 40, half ? 13 : 0};
                if (!case_begin("kv_store %s to %s%s", type_names[from], type_names[to], half ? ", rotated" : "")) continue;
                every_variant(store_once, &c, (size_t)(PAGES * H * PAGE * (c.d * item_of(c.to) + 4)));
            }
    for (int type = 0; type < 3; type++)
        for (int64_t n = 1; n <= MOST_SIDES; n += 4) {
            const merge_case c = {types[type], n, 30 + n};
            if (!case_begin("merge %s, %d sides", type_names[type], (int)n)) continue;
            every_variant(merge_once, &c, (size_t)(B * H * S * (c.d * item_of(c.dtype) + 4)));
        }
    test_statuses();
}
