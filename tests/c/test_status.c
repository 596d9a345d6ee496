/* SPDX-License-Identifier: MIT */
/* Bad input: each call says which kind of wrong it is, and touches nothing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { B = 2, HQ = 4, HKV = 2, SQ = 3, SK = 5, D = 8, DV = 6, T = 6 };

/* One good call of attention; every test spoils one thing in a fresh one. */
typedef struct call {
    fa_ctx ctx;
    fa_view out, lse, weights, q, k, v, mask;
    int with_lse, with_weights;
    fa_attention_params p;
    int64_t q_offset[B], kv_lengths[B], cu_q[3], cu_k[3];
    void *ws;
    size_t ws_less; /* bytes withheld from the workspace */
} call;

static float memory[1 << 14];
static _Alignas(64) char workspace[1 << 20];

static fa_view view_of(fa_dtype dtype, int64_t item, int ndim, int64_t a, int64_t b, int64_t c, int64_t d) {
    fa_view v = {.data = memory, .shape = {a, b, c, d}, .ndim = ndim, .dtype = dtype};
    int64_t step = item;
    for (int i = ndim - 1; i >= 0; i--) {
        v.stride[i] = step;
        step *= v.shape[i];
    }
    return v;
}
static fa_view f32(int ndim, int64_t a, int64_t b, int64_t c, int64_t d) { return view_of(FA_F32, 4, ndim, a, b, c, d); }

static void good(call *c) {
    *c = (call){.ctx = {.kernels = fa_kernels_for(0), .num_threads = 2}, .ws = workspace};
    c->q = f32(4, B, HQ, SQ, D), c->k = f32(4, B, HKV, SK, D), c->v = f32(4, B, HKV, SK, DV), c->out = f32(4, B, HQ, SQ, DV);
    c->lse = f32(3, B, HQ, SQ, 0), c->weights = f32(4, B, HQ, SQ, SK), c->mask = view_of(FA_BOOL, 1, 4, B, HQ, SQ, SK);
    c->out.data = memory + 4096, c->lse.data = memory + 8192, c->weights.data = memory + 10240;
    c->p = (fa_attention_params){.scale = 0.5f, .window_left = -1, .window_right = -1};
    c->kv_lengths[0] = SK, c->kv_lengths[1] = 0;
    c->cu_q[1] = 2, c->cu_q[2] = SQ, c->cu_k[1] = 1, c->cu_k[2] = SK;
}

/* The packed form: one row of heads, two sequences. */
static void packed(call *c) {
    c->q = f32(4, 1, HQ, SQ, D), c->k = f32(4, 1, HKV, SK, D), c->v = f32(4, 1, HKV, SK, DV);
    fa_view out = f32(4, 1, HQ, SQ, DV);
    out.data = c->out.data;
    c->out = out;
    c->p.cu_q = c->cu_q, c->p.cu_k = c->cu_k, c->p.n_seq = 2;
}

static fa_status attend(const call *c, size_t *bytes) {
    const fa_view *lse = c->with_lse ? &c->lse : NULL, *weights = c->with_weights ? &c->weights : NULL;
    fa_status status = fa_attention_workspace(&c->ctx, &c->out, lse, weights, &c->q, &c->k, &c->v, &c->p, bytes);
    if (status == FA_OK && *bytes > sizeof workspace) fail("a workspace of %zu bytes", *bytes);
    if (status != FA_OK && *bytes) fail("status %d and a workspace of %zu bytes", status, *bytes);
    const size_t have = status == FA_OK ? *bytes - c->ws_less : sizeof workspace;
    fa_status call_status = fa_attention(&c->ctx, &c->out, lse, weights, &c->q, &c->k, &c->v, &c->p, c->ws, have);
    if (status != FA_OK && call_status != status) fail("the query says %d, the call %d", status, call_status);
    return call_status;
}

/* On any status but FA_OK this test also asks that nothing was written: memory is as it was. */
static void try_attention(const char *what, const call *c, fa_status expected) {
    static float before[sizeof memory / sizeof *memory];
    size_t bytes = 0;
    memcpy(before, memory, sizeof memory);
    expect_status(what, attend(c, &bytes), expected);
    if (expected != FA_OK && memcmp(before, memory, sizeof memory)) fail("%s: written to", what);
    memcpy(memory, before, sizeof memory);
}

#define TRY(expected, spoil) \
    do { \
        call c; \
        good(&c); \
        spoil; \
        try_attention(#spoil, &c, expected); \
    } while (0)

static void attention_statuses(void) {
    if (!case_begin("status attention")) return;
    TRY(FA_OK, (void)0);
    TRY(FA_OK, (c.with_lse = 1, c.with_weights = 1));
    TRY(FA_OK, packed(&c));

    /* dtypes */
    TRY(FA_ERR_DTYPE, c.q.dtype = FA_I32);
    TRY(FA_ERR_DTYPE, c.k.dtype = FA_I32);
    TRY(FA_ERR_DTYPE, c.v.dtype = FA_NONE);
    TRY(FA_ERR_DTYPE, c.out.dtype = 99);
    TRY(FA_ERR_DTYPE, (c.with_lse = 1, c.lse.dtype = FA_I32));
    TRY(FA_ERR_DTYPE, (c.with_weights = 1, c.weights.dtype = FA_BF16));
    TRY(FA_ERR_DTYPE, (c.p.mask = &c.mask, c.mask.dtype = FA_I8));
    TRY(FA_ERR_DTYPE, (c.p.mask = &c.mask, c.mask.dtype = -7));

    /* ranks and shapes */
    TRY(FA_ERR_SHAPE, c.q.ndim = 3);
    TRY(FA_ERR_SHAPE, (c.with_lse = 1, c.lse.ndim = 4));
    TRY(FA_ERR_SHAPE, (c.p.mask = &c.mask, c.mask.ndim = 2));
    TRY(FA_ERR_SHAPE, c.q.shape[2] = -1);
    TRY(FA_ERR_SHAPE, c.k.shape[0] = 1);
    TRY(FA_ERR_SHAPE, c.v.shape[0] = 3);
    TRY(FA_ERR_SHAPE, c.out.shape[0] = 1);
    TRY(FA_ERR_SHAPE, c.v.shape[1] = 1);
    TRY(FA_ERR_SHAPE, c.v.shape[2] = SK - 1);
    TRY(FA_ERR_SHAPE, c.k.shape[3] = D - 1);
    TRY(FA_ERR_SHAPE, c.out.shape[1] = HKV);
    TRY(FA_ERR_SHAPE, c.out.shape[2] = SQ + 1);
    TRY(FA_ERR_SHAPE, c.out.shape[3] = D);
    TRY(FA_ERR_SHAPE, c.q.shape[1] = c.out.shape[1] = 3);
    TRY(FA_ERR_SHAPE, c.k.shape[1] = c.v.shape[1] = 0);
    TRY(FA_ERR_SHAPE, c.q.shape[3] = c.k.shape[3] = 0);
    TRY(FA_ERR_SHAPE, c.v.shape[3] = c.out.shape[3] = 0);
    TRY(FA_ERR_SHAPE, c.q.shape[3] = c.k.shape[3] = FA_MAX_HEAD_DIM + 1);
    TRY(FA_ERR_SHAPE, c.v.shape[3] = c.out.shape[3] = INT64_MAX);
    TRY(FA_ERR_SHAPE, (c.with_lse = 1, c.lse.shape[2] = SQ + 1));
    TRY(FA_ERR_SHAPE, (c.with_weights = 1, c.weights.shape[3] = SK - 1));
    TRY(FA_ERR_SHAPE, (c.with_weights = 1, c.weights.shape[1] = 1));
    TRY(FA_ERR_SHAPE, (c.p.mask = &c.mask, c.mask.shape[3] = SK - 1));
    TRY(FA_ERR_SHAPE, (c.p.mask = &c.mask, c.mask.shape[0] = 1));

    /* strides */
    TRY(FA_ERR_STRIDE, c.q.stride[3] = 8);
    TRY(FA_ERR_STRIDE, c.k.stride[3] = 0);
    TRY(FA_ERR_STRIDE, c.v.stride[2] = 4 * DV + 1);
    TRY(FA_ERR_STRIDE, c.out.stride[0] = 2);
    TRY(FA_ERR_STRIDE, c.out.stride[3] = -4);
    TRY(FA_ERR_STRIDE, (c.with_lse = 1, c.lse.stride[1] = 6));
    TRY(FA_ERR_STRIDE, (c.p.mask = &c.mask, c.mask.stride[3] = 2));
    TRY(FA_ERR_STRIDE, (c.p.mask = &c.mask, c.mask.dtype = FA_F32, c.mask.stride[3] = 1));

    /* parameters */
    TRY(FA_ERR_VALUE, c.p.scale = NAN);
    TRY(FA_ERR_VALUE, c.p.scale = INFINITY);
    TRY(FA_ERR_VALUE, c.p.softcap = -1.0f);
    TRY(FA_ERR_VALUE, c.p.softcap = NAN);
    TRY(FA_ERR_VALUE, c.p.softcap = INFINITY);
    TRY(FA_ERR_VALUE, c.p.softcap = 0x1p-140f);
    TRY(FA_ERR_VALUE, c.p.window_left = -2);
    TRY(FA_ERR_VALUE, c.p.window_right = INT64_MIN);
    TRY(FA_ERR_VALUE, c.p.window_left = INT64_MAX);
    TRY(FA_ERR_VALUE, (c.p.kv_lengths = c.kv_lengths, c.kv_lengths[1] = SK + 1));
    TRY(FA_ERR_VALUE, (c.p.kv_lengths = c.kv_lengths, c.kv_lengths[0] = -1));
    TRY(FA_ERR_VALUE, (c.p.q_offset = c.q_offset, c.q_offset[1] = INT64_MAX));
    TRY(FA_ERR_VALUE, (c.p.q_offset = c.q_offset, c.q_offset[0] = INT64_MIN));

    /* packed form */
    TRY(FA_ERR_VALUE, (packed(&c), c.p.cu_k = NULL));
    TRY(FA_ERR_VALUE, (packed(&c), c.p.cu_q = NULL));
    TRY(FA_ERR_VALUE, (packed(&c), c.p.kv_lengths = c.kv_lengths));
    TRY(FA_ERR_VALUE, (packed(&c), c.p.mask = &c.mask));
    TRY(FA_ERR_VALUE, (packed(&c), c.cu_q[0] = -1));
    TRY(FA_ERR_VALUE, (packed(&c), c.cu_q[1] = SQ + 1));
    TRY(FA_ERR_VALUE, (packed(&c), c.cu_k[1] = SK + 1));
    TRY(FA_ERR_VALUE, (packed(&c), c.cu_k[2] = 0));
    TRY(FA_ERR_VALUE, (packed(&c), c.cu_k[2] = INT64_MAX));
    TRY(FA_ERR_VALUE, (packed(&c), c.cu_q[1] = INT64_MIN));
    TRY(FA_ERR_VALUE, (packed(&c), c.p.n_seq = -1));
    TRY(FA_ERR_VALUE, (packed(&c), c.p.n_seq = -5));
    TRY(FA_ERR_VALUE, (good(&c), c.p.cu_q = c.cu_q, c.p.cu_k = c.cu_k, c.p.n_seq = 2)); /* a batch of 2 */

    /* workspace */
    TRY(FA_ERR_WORKSPACE, c.ws = NULL);
    TRY(FA_ERR_WORKSPACE, c.ws_less = 1);
    TRY(FA_ERR_WORKSPACE, c.ws_less = 64);
    TRY(FA_ERR_WORKSPACE, c.ws = workspace + 4);
    case_end(0);
}

/*
 * Arrays can be larger than memory: strides of zero cost nothing. Keys without end that no row sees, and sizes whose
 * product leaves 64 bits, must neither overflow nor be walked.
 */
static void attention_sizes(void) {
    if (!case_begin("status attention sizes")) return;
    const int64_t huge = (int64_t)1 << 58;
    size_t bytes = 0;
    call c;
    for (int tile = 0; tile < 2; tile++) {
        good(&c);
        c.ctx.force = tile ? FA_FORCE_TILE : FA_FORCE_NONE;
        c.k.shape[2] = c.v.shape[2] = huge;
        c.k.stride[2] = c.v.stride[2] = 0;
        c.p.window_left = c.p.window_right = 2;
        fa_status status = fa_attention_workspace(&c.ctx, &c.out, NULL, NULL, &c.q, &c.k, &c.v, &c.p, &bytes);
        if (status != FA_OK && status != FA_ERR_MEMORY) fail("keys without end, tile %d: status %d", tile, status);
        c.v.shape[3] = c.out.shape[3] = FA_MAX_HEAD_DIM;
        c.q.shape[1] = c.out.shape[1] = 1 << 20, c.k.shape[1] = c.v.shape[1] = 1 << 20;
        status = fa_attention_workspace(&c.ctx, &c.out, NULL, NULL, &c.q, &c.k, &c.v, &c.p, &bytes);
        if (status != FA_OK && status != FA_ERR_MEMORY) fail("heads and keys without end, tile %d: status %d", tile, status);
    }
    good(&c);
    c.q.shape[2] = c.out.shape[2] = INT64_MAX; /* rows without end, nothing to attend to */
    c.q.stride[2] = c.out.stride[2] = 0;
    fa_status status = fa_attention_workspace(&c.ctx, &c.out, NULL, NULL, &c.q, &c.k, &c.v, &c.p, &bytes);
    if (status != FA_OK && status != FA_ERR_MEMORY) fail("rows without end: status %d", status);
    case_end(0);
}

static void linear_statuses(void) {
    if (!case_begin("status linear")) return;
    const fa_ctx ctx = {.kernels = fa_kernels_for(0), .num_threads = 2};
    const fa_view x = f32(2, 3, 8, 0, 0), w = f32(2, 20, 8, 0, 0), bias = f32(1, 20, 0, 0, 0);
    fa_view out = f32(2, 3, 20, 0, 0), bad;
    static _Alignas(64) float packed_weights[2 * 8 * 16];
    fa_linear_weights weights = {.dtype = FA_F32, .panels = packed_weights}, wrong;
    size_t bytes = 0, ws = 0;
    out.data = memory + 4096;
#define BAD(view, change) (bad = (view), bad.change, &bad)
#define WRONG(change) (wrong = weights, wrong.change, &wrong)
    expect_status("sizes", fa_linear_packed_bytes(FA_F32, 20, 8, &bytes), FA_OK);
    if (bytes != sizeof packed_weights) fail("packed bytes %zu", bytes);
    expect_status("negative n", fa_linear_packed_bytes(FA_F32, -1, 8, &bytes), FA_ERR_SHAPE);
    expect_status("negative k", fa_linear_packed_bytes(FA_F32, 1, -8, &bytes), FA_ERR_SHAPE);
    expect_status("huge n", fa_linear_packed_bytes(FA_F32, INT64_MAX, 1, &bytes), FA_ERR_MEMORY);
    expect_status("huge k", fa_linear_packed_bytes(FA_F32, 1, INT64_MAX, &bytes), FA_ERR_MEMORY);
    expect_status("huge both", fa_linear_packed_bytes(FA_F32, (int64_t)1 << 40, (int64_t)1 << 40, &bytes), FA_ERR_MEMORY);

    expect_status("pack", fa_linear_pack(&ctx, &weights, &w), FA_OK);
    expect_status("pack rank", fa_linear_pack(&ctx, &weights, BAD(w, ndim = 1)), FA_ERR_SHAPE);
    expect_status("pack dtype", fa_linear_pack(&ctx, &weights, BAD(w, dtype = FA_BF16)), FA_ERR_DTYPE);
    expect_status("pack stride", fa_linear_pack(&ctx, &weights, BAD(w, stride[1] = 32)), FA_ERR_STRIDE);
    expect_status("pack alignment", fa_linear_pack(&ctx, WRONG(panels = packed_weights + 1), &w), FA_ERR_WORKSPACE);
    expect_status("pack without end", fa_linear_pack(&ctx, &weights, BAD(w, shape[0] = INT64_MAX)), FA_ERR_MEMORY);

    expect_status("query", fa_linear_workspace(&ctx, &out, &x, FA_F32, &ws), FA_OK);
    expect_status("query rows", fa_linear_workspace(&ctx, &out, BAD(x, shape[0] = 4), FA_F32, &ws), FA_ERR_SHAPE);
    expect_status("query without end", fa_linear_workspace(&ctx, &out, BAD(x, shape[1] = INT64_MAX), FA_F32, &ws), FA_ERR_MEMORY);
    expect_status("query again", fa_linear_workspace(&ctx, &out, &x, FA_F32, &ws), FA_OK);

#define LINEAR(out, x, packed, bias, act, ws, n) fa_linear(&ctx, out, x, packed, bias, act, ws, n)
    const fa_linear_weights *p = &weights;
    expect_status("linear", LINEAR(&out, &x, p, &bias, FA_ACT_NONE, workspace, ws), FA_OK);
    expect_status("x dtype", LINEAR(&out, BAD(x, dtype = FA_F16), p, &bias, FA_ACT_NONE, workspace, ws), FA_ERR_DTYPE);
    expect_status("x stride", LINEAR(&out, BAD(x, stride[0] = 33), p, &bias, FA_ACT_NONE, workspace, ws), FA_ERR_STRIDE);
    expect_status("out rank", LINEAR(BAD(out, ndim = 3), &x, p, &bias, FA_ACT_NONE, workspace, ws), FA_ERR_SHAPE);
    expect_status("bias length", LINEAR(&out, &x, p, BAD(bias, shape[0] = 19), FA_ACT_NONE, workspace, ws), FA_ERR_SHAPE);
    expect_status("bias stride", LINEAR(&out, &x, p, BAD(bias, stride[0] = 8), FA_ACT_NONE, workspace, ws), FA_ERR_STRIDE);
    expect_status("activation", LINEAR(&out, &x, p, &bias, (fa_activation)7, workspace, ws), FA_ERR_VALUE);
    expect_status("packed alignment", LINEAR(&out, &x, WRONG(panels = packed_weights + 4), &bias, FA_ACT_NONE, workspace, ws), FA_ERR_WORKSPACE);
    expect_status("no workspace", LINEAR(&out, &x, p, &bias, FA_ACT_NONE, NULL, ws), FA_ERR_WORKSPACE);
    expect_status("small workspace", LINEAR(&out, &x, p, &bias, FA_ACT_NONE, workspace, ws - 1), FA_ERR_WORKSPACE);
    expect_status("workspace alignment", LINEAR(&out, &x, p, &bias, FA_ACT_NONE, workspace + 32, ws), FA_ERR_WORKSPACE);

    static _Alignas(64) int8_t panels[2 * 2 * 64];
    static float scale[32];
    static int32_t sums[32];
    weights = (fa_linear_weights){.dtype = FA_I8, .panels = panels, .scale = scale, .sums = sums};
    expect_status("int8 sizes", fa_linear_packed_bytes(FA_I8, 20, 7, &bytes), FA_OK);
    if (bytes != sizeof panels) fail("packed bytes %zu", bytes);
    expect_status("int8 inputs", fa_linear_packed_bytes(FA_I8, 20, ((int64_t)1 << 17) + 1, &bytes), FA_ERR_SHAPE);
    expect_status("int8 negative k", fa_linear_packed_bytes(FA_I8, 20, -1, &bytes), FA_ERR_SHAPE);
    expect_status("int8 huge n", fa_linear_packed_bytes(FA_I8, INT64_MAX, 8, &bytes), FA_ERR_MEMORY);
    expect_status("another dtype", fa_linear_packed_bytes(FA_I32, 20, 8, &bytes), FA_ERR_DTYPE);
    expect_status("int8 query", fa_linear_workspace(&ctx, &out, &x, FA_I8, &ws), FA_OK);
    expect_status("query of another dtype", fa_linear_workspace(&ctx, &out, &x, 99, &ws), FA_ERR_DTYPE);
    expect_status("int8 pack", fa_linear_pack(&ctx, p, &w), FA_OK);
    expect_status("pack as another dtype", fa_linear_pack(&ctx, WRONG(dtype = FA_BOOL), &w), FA_ERR_DTYPE);
    expect_status("pack without panels", fa_linear_pack(&ctx, WRONG(panels = NULL), &w), FA_ERR_WORKSPACE);
    expect_status("pack without scales", fa_linear_pack(&ctx, WRONG(scale = NULL), &w), FA_ERR_WORKSPACE);
    expect_status("int8 linear", LINEAR(&out, &x, p, &bias, FA_ACT_NONE, workspace, ws), FA_OK);
    expect_status("int8 small workspace", LINEAR(&out, &x, p, &bias, FA_ACT_NONE, workspace, ws - 1), FA_ERR_WORKSPACE);
    expect_status("int8 without sums", LINEAR(&out, &x, WRONG(sums = NULL), &bias, FA_ACT_NONE, workspace, ws), FA_ERR_WORKSPACE);
    expect_status("int8 scale alignment", LINEAR(&out, &x, WRONG(scale = (float *)((char *)scale + 2)), &bias, FA_ACT_NONE,
                                                 workspace, ws), FA_ERR_WORKSPACE);
    expect_status("int8 panels alignment", LINEAR(&out, &x, WRONG(panels = panels + 32), &bias, FA_ACT_NONE, workspace, ws),
                  FA_ERR_WORKSPACE);
#undef LINEAR
    case_end(0);
}

static void row_statuses(void) {
    if (!case_begin("status rows")) return;
    const fa_ctx ctx = {.kernels = fa_kernels_for(0), .num_threads = 2};
    const fa_view x = f32(2, 3, 8, 0, 0), w = f32(1, 8, 0, 0, 0);
    fa_view out = x, bad;
    out.data = memory + 4096;
    expect_status("layer_norm", fa_layer_norm(&ctx, &out, &x, NULL, &w, &w, 1e-5f), FA_OK);
    expect_status("x rank", fa_layer_norm(&ctx, &out, BAD(x, ndim = 1), NULL, &w, &w, 1e-5f), FA_ERR_SHAPE);
    expect_status("out shape", fa_layer_norm(&ctx, BAD(out, shape[1] = 7), &x, NULL, &w, &w, 1e-5f), FA_ERR_SHAPE);
    expect_status("residual shape", fa_layer_norm(&ctx, &out, &x, BAD(x, shape[0] = 2), &w, &w, 1e-5f), FA_ERR_SHAPE);
    expect_status("residual dtype", fa_layer_norm(&ctx, &out, &x, BAD(x, dtype = FA_I32), &w, &w, 1e-5f), FA_ERR_DTYPE);
    expect_status("weight length", fa_layer_norm(&ctx, &out, &x, NULL, BAD(w, shape[0] = 9), &w, 1e-5f), FA_ERR_SHAPE);
    expect_status("bias stride", fa_layer_norm(&ctx, &out, &x, NULL, &w, BAD(w, stride[0] = 12), 1e-5f), FA_ERR_STRIDE);
    expect_status("eps", fa_layer_norm(&ctx, &out, &x, NULL, &w, &w, -1e-5f), FA_ERR_VALUE);
    expect_status("rms_norm eps", fa_rms_norm(&ctx, &out, &x, NULL, &w, NAN), FA_ERR_VALUE);
    expect_status("rms_norm weight", fa_rms_norm(&ctx, &out, &x, NULL, BAD(w, dtype = FA_F16), 0), FA_ERR_DTYPE);
    expect_status("softmax", fa_softmax(&ctx, &out, BAD(x, stride[1] = 0)), FA_ERR_STRIDE);
    expect_status("activation", fa_activate(&ctx, &out, &x, (fa_activation)-1), FA_ERR_VALUE);
    expect_status("gated", fa_gated(&ctx, &out, &x, &x, FA_ACT_SILU), FA_OK);
    expect_status("gated activation", fa_gated(&ctx, &out, &x, &x, (fa_activation)7), FA_ERR_VALUE);
    expect_status("gated gate", fa_gated(&ctx, &out, &x, NULL, FA_ACT_SILU), FA_ERR_VALUE);
    expect_status("gated shape", fa_gated(&ctx, &out, &x, BAD(x, shape[0] = 1), FA_ACT_SILU), FA_ERR_SHAPE);
    expect_status("add dtype", fa_add(&ctx, &out, &x, BAD(x, dtype = FA_F16)), FA_ERR_DTYPE);
    expect_status("add stride", fa_add(&ctx, &out, BAD(x, stride[0] = 3), &x), FA_ERR_STRIDE);
    expect_status("l2_normalize eps", fa_l2_normalize(&ctx, &out, &x, -1), FA_ERR_VALUE);
    expect_status("l2_normalize shape", fa_l2_normalize(&ctx, &out, BAD(x, shape[0] = -3), 0), FA_ERR_SHAPE);

    static int64_t ids_memory[3] = {0, 7, 2}, cu_memory[4] = {0, 1, 1, 3};
    fa_view table = f32(2, 8, 8, 0, 0), ids = {.data = ids_memory, .shape = {3}, .stride = {8}, .ndim = 1, .dtype = FA_I64};
    expect_status("embedding", fa_embedding(&ctx, &out, 1, &table, &ids), FA_OK);
    expect_status("no tables", fa_embedding(&ctx, &out, 0, &table, &ids), FA_ERR_VALUE);
    expect_status("table width", fa_embedding(&ctx, &out, 1, BAD(table, shape[1] = 7), &ids), FA_ERR_SHAPE);
    expect_status("ids dtype", fa_embedding(&ctx, &out, 1, &table, BAD(ids, dtype = FA_F32)), FA_ERR_DTYPE);
    expect_status("ids rank", fa_embedding(&ctx, &out, 1, &table, BAD(ids, ndim = 2)), FA_ERR_SHAPE);
    expect_status("ids count", fa_embedding(&ctx, &out, 1, &table, BAD(ids, shape[0] = 2)), FA_ERR_SHAPE);
    expect_status("ids stride", fa_embedding(&ctx, &out, 1, &table, BAD(ids, stride[0] = 4)), FA_ERR_STRIDE);
    const int64_t wrong[] = {8, -1, INT64_MAX, INT64_MIN};
    for (int i = 0; i < 4; i++) {
        ids_memory[2] = wrong[i];
        expect_status("id out of range", fa_embedding(&ctx, &out, 1, &table, &ids), FA_ERR_VALUE);
    }

    fa_view cu = {.data = cu_memory, .shape = {4}, .stride = {8}, .ndim = 1, .dtype = FA_I64};
    expect_status("pool", fa_pool(&ctx, &out, &x, &cu, FA_POOL_MEAN, 0), FA_OK);
    expect_status("pool mode", fa_pool(&ctx, &out, &x, &cu, (fa_pool_mode)6, 0), FA_ERR_VALUE);
    expect_status("pool skip", fa_pool(&ctx, &out, &x, &cu, FA_POOL_MEAN, -1), FA_ERR_VALUE);
    expect_status("cu dtype", fa_pool(&ctx, &out, &x, BAD(cu, dtype = FA_I32), FA_POOL_MEAN, 0), FA_ERR_DTYPE);
    expect_status("cu length", fa_pool(&ctx, &out, &x, BAD(cu, shape[0] = 3), FA_POOL_MEAN, 0), FA_ERR_SHAPE);
    expect_status("cu empty", fa_pool(&ctx, &out, &x, BAD(cu, shape[0] = 0), FA_POOL_MEAN, 0), FA_ERR_SHAPE);
    expect_status("cu stride", fa_pool(&ctx, &out, &x, BAD(cu, stride[0] = 12), FA_POOL_MEAN, 0), FA_ERR_STRIDE);
    for (int i = 0; i < 4; i++) {
        cu_memory[3] = wrong[i];
        expect_status("cu out of range", fa_pool(&ctx, &out, &x, &cu, FA_POOL_MEAN, 0), FA_ERR_VALUE);
    }
    cu_memory[3] = 0;
    expect_status("cu falls", fa_pool(&ctx, &out, &x, &cu, FA_POOL_MEAN, 0), FA_ERR_VALUE);
    case_end(0);
}

static void misaligned(void) {
    if (!case_begin("status misaligned data")) return;
    call c;
    for (int i = 0; i < 6; i++) {
        good(&c);
        fa_view *const views[] = {&c.q, &c.k, &c.v, &c.out, &c.lse, &c.weights};
        c.with_lse = c.with_weights = 1;
        views[i]->data = (char *)views[i]->data + 1;
        try_attention("data not on a whole float", &c, FA_ERR_STRIDE);
    }
    case_end(0);
}

void test_status(const options *o) {
    (void)o;
    for (int status = FA_OK; status <= FA_ERR_MEMORY; status++)
        if (!strcmp(fa_status_text((fa_status)status), "unknown status")) fail("status %d has no text", status);
    attention_statuses();
    attention_sizes();
    linear_statuses();
    row_statuses();
    misaligned();
}
