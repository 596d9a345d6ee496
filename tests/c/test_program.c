/* SPDX-License-Identifier: MIT */
/*
 * Programs of one step, and of chains: each gives the bytes of its function called by hand with copies of the values,
 * wherever those lie: in columns of tables, in columns of the batch's arrays, in place.
 */
#include <stdlib.h>
#include <string.h>

#include "program_lab.h"

/* ---- batches ------------------------------------------------------------------------------------------------------- */

enum { MOST_TOKENS = 130, MOST_SEQUENCES = 4, MOST_WANTED = 33, TIMES = 3, IDS = 3, TABLE_ROWS = 11, ANGLES = 300, HALF = 3, SPAN = 20 };

typedef struct rows_of {
    int64_t tokens, sequences, wanted;
    int64_t ends[MOST_SEQUENCES + 1];
} rows_of;

static const rows_of batches[] = {
    {0, 0, 0, {0}},          {0, 2, 0, {0, 0, 0}},          {1, 1, 1, {0, 1}},
    {23, 4, 5, {0, 9, 9, 10, 23}}, {MOST_TOKENS, 3, MOST_WANTED, {0, 1, 80, MOST_TOKENS}},
};

static int64_t ids[IDS][MOST_TOKENS], positions[MOST_TOKENS], turns[MOST_TOKENS], wanted[MOST_WANTED * TIMES];

/* The integers of a batch: positions ascend within a sequence, with gaps. */
static void fill_integers(const rows_of *b) {
    for (int64_t s = 0; s < b->sequences; s++)
        for (int64_t t = b->ends[s], at = s; t < b->ends[s + 1]; t++) positions[t] = at += 1 + (int64_t)(hash_at(40, (uint64_t)t) % 5 == 0);
    for (int64_t t = 0; t < b->tokens; t++) {
        turns[t] = (int64_t)(hash_at(41, (uint64_t)t) % ANGLES);
        for (int i = 0; i < IDS; i++) ids[i][t] = (int64_t)(hash_at(42 + (uint64_t)i, (uint64_t)t) % TABLE_ROWS);
    }
    for (int64_t i = 0; i < MOST_WANTED * TIMES; i++) wanted[i] = b->tokens ? (int64_t)(hash_at(50, (uint64_t)i) % (uint64_t)(b->tokens + 1)) - 1 : -1;
}

/* ---- steps --------------------------------------------------------------------------------------------------------- */

typedef struct step_case {
    const char *name;
    fa_step_kind kind;
    int32_t act;
    int64_t x, y, z, out; /* widths; 0: none */
    int64_t heads, kv_heads;
    fa_dtype weights;
    int bias, causal, spread, all_weights; /* spread: with positions. Of disentangled: bias 1 for c2p, 2 for p2c */
    int slopes, sinks;
    int64_t left, right;
    int64_t times;                  /* of gather; of embed tables; of pool rows to skip */
    float softcap;
    int in_x, in_y;                 /* the result may take their places */
} step_case;

#define WINDOW(LEFT, RIGHT) .left = LEFT, .right = RIGHT
#define ALL WINDOW(-1, -1)

static const step_case steps[] = {
    {"embed", FA_STEP_EMBED, .out = 20, .times = 1},
    {"embed, three tables", FA_STEP_EMBED, .out = 33, .times = 3},
    {"linear", FA_STEP_LINEAR, .x = 20, .out = 37, .weights = FA_F32},
    {"linear, long, gelu", FA_STEP_LINEAR, FA_ACT_GELU, .x = 400, .out = 16, .weights = FA_F32, .bias = 1},
    {"linear fp16", FA_STEP_LINEAR, FA_ACT_SILU, .x = 31, .out = 50, .weights = FA_F16, .bias = 1},
    {"linear bf16", FA_STEP_LINEAR, .x = 17, .out = 15, .weights = FA_BF16, .bias = 1},
    {"linear int8", FA_STEP_LINEAR, FA_ACT_TANH, .x = 70, .out = 35, .weights = FA_I8, .bias = 1},
    {"layer norm", FA_STEP_LAYER_NORM, .x = 37, .out = 37, .in_x = 1},
    {"layer norm, residual, bias", FA_STEP_LAYER_NORM, .x = 16, .y = 16, .out = 16, .bias = 1, .in_x = 1, .in_y = 1},
    {"rms norm", FA_STEP_RMS_NORM, .x = 50, .out = 50, .in_x = 1},
    {"rms norm, residual", FA_STEP_RMS_NORM, .x = 9, .y = 9, .out = 9, .in_x = 1, .in_y = 1},
    {"rms norm by heads", FA_STEP_RMS_NORM, .x = 57, .out = 57, .heads = 3, .in_x = 1},
    {"attention", FA_STEP_ATTENTION, .x = 32, .y = 16, .z = 10, .out = 20, .heads = 4, .kv_heads = 2, ALL},
    {"attention, causal, softcap", FA_STEP_ATTENTION, .x = 9, .y = 9, .z = 48, .out = 48, .heads = 3, .kv_heads = 3, .causal = 1, .softcap = 3, ALL},
    {"attention, window, bias", FA_STEP_ATTENTION, .x = 24, .y = 12, .z = 12, .out = 24, .heads = 2, .kv_heads = 1, .bias = 1, WINDOW(3, 2)},
    {"attention, positions", FA_STEP_ATTENTION, .x = 32, .y = 32, .z = 32, .out = 32, .heads = 4, .kv_heads = 4, .spread = 1, WINDOW(3, 2)},
    {"attention, positions, bias", FA_STEP_ATTENTION, .x = 8, .y = 4, .z = 4, .out = 8, .heads = 2, .kv_heads = 1, .spread = 1, .bias = 1, ALL},
    {"attention, slopes", FA_STEP_ATTENTION, .x = 32, .y = 16, .z = 16, .out = 32, .heads = 4, .kv_heads = 2, .causal = 1, .slopes = 1, ALL},
    {"attention, sinks, window", FA_STEP_ATTENTION, .x = 15, .y = 5, .z = 7, .out = 21, .heads = 3, .kv_heads = 1, .causal = 1, .sinks = 1, WINDOW(4, 0)},
    {"attention, weights", FA_STEP_ATTENTION, .x = 32, .y = 16, .z = 16, .out = 32, .heads = 4, .kv_heads = 2, .all_weights = 1, ALL},
    {"disentangled", FA_STEP_DISENTANGLED, .x = 24, .y = 24, .z = 24, .out = 24, .heads = 3, .kv_heads = 3, .bias = 3},
    {"disentangled, c2p", FA_STEP_DISENTANGLED, .x = 16, .y = 16, .z = 16, .out = 16, .heads = 1, .kv_heads = 1, .bias = 1},
    {"disentangled, p2c", FA_STEP_DISENTANGLED, .x = 16, .y = 16, .z = 16, .out = 16, .heads = 2, .kv_heads = 2, .bias = 2},
    {"rope", FA_STEP_ROPE, .x = 24, .out = 24, .heads = 3, .in_x = 2},
    {"rope, interleaved", FA_STEP_ROPE, 1, .x = 12, .out = 12, .heads = 2, .in_x = 2},
    {"rope, behind columns that stay", FA_STEP_ROPE, 1, .x = 33, .out = 33, .heads = 3, .times = 5, .in_x = 2},
    {"join", FA_STEP_JOIN, .x = 12, .y = 15, .out = 27, .heads = 3, .left = 4, .right = 5},
    {"join, one for all heads", FA_STEP_JOIN, .x = 32, .y = 7, .out = 60, .heads = 4, .left = 8, .right = 7},
    {"join, one head", FA_STEP_JOIN, .x = 1, .y = 20, .out = 21, .heads = 1, .left = 1, .right = 20},
    {"gated", FA_STEP_GATED, FA_ACT_SILU, .x = 35, .y = 35, .out = 35, .in_x = 1, .in_y = 1},
    {"gated, no activation", FA_STEP_GATED, .x = 1, .y = 1, .out = 1, .in_x = 1, .in_y = 1},
    {"add", FA_STEP_ADD, .x = 21, .y = 21, .out = 21, .in_x = 1, .in_y = 1},
    {"activate", FA_STEP_ACTIVATE, FA_ACT_GELU_TANH, .x = 18, .out = 18, .in_x = 1},
    {"scale", FA_STEP_SCALE, .x = 29, .out = 29, .in_x = 1},
    {"gather", FA_STEP_GATHER, .x = 19, .out = 19, .times = 1},
    {"gather, side by side", FA_STEP_GATHER, .x = 5, .out = 15, .times = TIMES},
    {"pool mean", FA_STEP_POOL, FA_POOL_MEAN, .x = 40, .out = 40},
    {"pool cls", FA_STEP_POOL, FA_POOL_CLS, .x = 7, .out = 7},
    {"pool max, skip", FA_STEP_POOL, FA_POOL_MAX, .x = 16, .out = 16, .times = 2},
    {"pool last", FA_STEP_POOL, FA_POOL_LAST, .x = 16, .out = 16},
    {"pool mean sqrt len", FA_STEP_POOL, FA_POOL_MEAN_SQRT_LEN, .x = 16, .out = 16},
    {"pool weighted mean, skip", FA_STEP_POOL, FA_POOL_WEIGHTED_MEAN, .x = 30, .out = 30, .times = 1},
    {"normalize", FA_STEP_NORMALIZE, .x = 44, .out = 44, .in_x = 1},
    {"copy", FA_STEP_COPY, .x = 23, .out = 23},
    {"clamp", FA_STEP_CLAMP, .x = 33, .out = 33, .in_x = 1},
};

/* What a step has beside its values, for all runs of a case. */
typedef struct fixed {
    fa_linear_weights weights;
    tensor tables[IDS], weight, bias, slopes, sinks, cos, sin;
    float *c2p, *p2c;
} fixed;

static tensor vector(const char *name, int64_t n, uint64_t seed) {
    tensor t = tensor_make(name, FA_F32, 1, &n, DENSE, GUARD_BACK);
    tensor_fill(&t, seed, 0.5f);
    guard_seal(t.memory);
    return t;
}

static tensor matrix(const char *name, int64_t n, int64_t k, uint64_t seed) {
    const int64_t shape[2] = {n, k};
    tensor t = tensor_make(name, FA_F32, 2, shape, PADDED, GUARD_BACK);
    tensor_fill(&t, seed, 0.5f);
    guard_seal(t.memory);
    return t;
}

static float *panels(const char *name, int64_t count, uint64_t seed) {
    float *p = guard_alloc((size_t)count * sizeof *p, GUARD_BACK, name);
    for (int64_t i = 0; i < count; i++) p[i] = bell(seed, (uint64_t)i) * 0.25f;
    guard_seal(p);
    return p;
}

static fixed fixed_begin(const step_case *c) {
    const fa_ctx ctx = {.kernels = fa_kernels_for(0), .num_threads = 1};
    fixed f = {0};
    for (int i = 0; i < IDS && c->kind == FA_STEP_EMBED; i++) f.tables[i] = matrix("table", TABLE_ROWS, c->out, 60 + (uint64_t)i);
    const int64_t groups = c->kind == FA_STEP_RMS_NORM && c->heads ? c->heads : 1;
    f.weight = vector("weight", c->out / groups, 70);
    f.bias = c->kind == FA_STEP_ATTENTION ? matrix("bias", c->heads, 9, 71) : vector("bias", c->out, 71);
    if (c->kind == FA_STEP_ATTENTION) f.slopes = vector("slopes", c->heads, 77), f.sinks = vector("sinks", c->heads, 78);
    f.cos = matrix("cosines", ANGLES, HALF, 72), f.sin = matrix("sines", ANGLES, HALF, 73);
    const int64_t head = c->heads ? c->out / c->heads : 0, each = (2 * SPAN + 15) / 16 * 16 * head * c->heads;
    if (c->kind == FA_STEP_DISENTANGLED && c->bias & 1) f.c2p = panels("c2p", each, 74);
    if (c->kind == FA_STEP_DISENTANGLED && c->bias & 2) f.p2c = panels("p2c", each, 75);
    if (c->kind != FA_STEP_LINEAR) return f;
    size_t bytes = 0;
    const size_t outputs = (size_t)((c->out + 15) / 16 * 16);
    tensor w = matrix("w", c->out, c->x, 76);
    f.weights.dtype = c->weights;
    expect_status("packed bytes", fa_linear_packed_bytes(c->weights, c->out, c->x, &bytes), FA_OK);
    f.weights.panels = guard_alloc((bytes + 63) / 64 * 64, GUARD_BACK, "panels");
    if (c->weights == FA_I8) {
        f.weights.scale = guard_alloc(outputs * 4, GUARD_BACK, "scale");
        f.weights.sums = guard_alloc(outputs * 4, GUARD_BACK, "sums");
    }
    expect_status("pack", fa_linear_pack(&ctx, &f.weights, &w.view), FA_OK);
    tensor_free(&w);
    guard_seal(f.weights.panels);
    return f;
}

static void fixed_end(fixed *f) {
    tensor *all[] = {&f->tables[0], &f->tables[1], &f->tables[2], &f->weight, &f->bias, &f->slopes, &f->sinks, &f->cos, &f->sin};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]->memory) tensor_free(all[i]);
    void *blocks[] = {f->c2p, f->p2c, f->weights.panels, f->weights.scale, f->weights.sums};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if (blocks[i]) guard_free(blocks[i]);
}

static int64_t out_rows(const step_case *c, const rows_of *b) {
    return c->kind == FA_STEP_GATHER ? b->wanted : c->kind == FA_STEP_POOL ? b->sequences : b->tokens;
}

static int64_t weight_count(const step_case *c, const rows_of *b) { return c->all_weights ? c->heads * b->tokens * MOST_TOKENS : 0; }

/* ---- by hand ------------------------------------------------------------------------------------------------------- */

static fa_view dense(const void *data, int ndim, int64_t a, int64_t b, fa_dtype dtype) {
    const int64_t item = dtype == FA_I64 ? 8 : 4;
    fa_view v = {.data = (void *)(uintptr_t)data, .shape = {a, b}, .stride = {ndim == 2 ? b * item : item, item}, .ndim = ndim, .dtype = dtype};
    return v;
}

static fa_view heads_first(const fa_view *v, int64_t heads) {
    const int64_t size = v->shape[1] / heads;
    return (fa_view){v->data, {1, heads, v->shape[0], size}, {0, size * 4, v->stride[0], 4}, 4, FA_F32};
}

static fa_attention_params options_of(const step_case *c) {
    return (fa_attention_params){.scale = 0.25f, .softcap = c->softcap, .causal = c->causal, .window_left = c->left, .window_right = c->right};
}

static fa_disentangled_params distances_of(const fixed *f) {
    return (fa_disentangled_params){.scale = 0.125f, .span = SPAN, .c2p = f->c2p, .p2c = f->p2c};
}

static fa_status by_hand_attention(const fa_ctx *ctx, const step_case *c, const fixed *f, const rows_of *b, const fa_view v[4], float *weights) {
    const fa_view q = heads_first(&v[1], c->heads), k = heads_first(&v[2], c->kv_heads), values = heads_first(&v[3], c->kv_heads);
    const fa_view out = heads_first(&v[0], c->heads);
    const int64_t row = 4 * MOST_TOKENS;
    const fa_view all = {weights, {1, c->heads, b->tokens, MOST_TOKENS}, {0, row * b->tokens, row, 4}, 4, FA_F32};
    size_t bytes = 0;
    fa_attention_params p = options_of(c);
    fa_disentangled_params d = distances_of(f);
    p.cu_q = p.cu_k = d.cu = b->ends;
    p.n_seq = d.n_seq = b->sequences;
    p.bias = c->bias ? &f->bias.view : NULL;
    p.sinks = c->sinks ? &f->sinks.view : NULL;
    const fa_view slopes = {f->slopes.view.data, {b->sequences, c->heads}, {0, f->slopes.view.stride[0]}, 2, FA_F32};
    p.alibi = c->slopes ? &slopes : NULL;
    p.positions = c->spread ? positions : NULL;
    d.positions = positions;
    fa_status status = c->kind == FA_STEP_ATTENTION ? fa_attention_workspace(ctx, &out, NULL, weights ? &all : NULL, &q, &k, &values, &p, &bytes)
                                                    : fa_disentangled_attention_workspace(ctx, &out, &q, &k, &values, &d, &bytes);
    if (status != FA_OK) return status;
    void *ws = guard_alloc(bytes, GUARD_BACK, "workspace by hand");
    status = c->kind == FA_STEP_ATTENTION ? fa_attention(ctx, &out, NULL, weights ? &all : NULL, &q, &k, &values, &p, ws, bytes)
                                          : fa_disentangled_attention(ctx, &out, &q, &k, &values, &d, ws, bytes);
    guard_free(ws);
    return status;
}

static fa_status by_hand_linear(const fa_ctx *ctx, const step_case *c, const fixed *f, const fa_view v[4]) {
    size_t bytes = 0;
    fa_status status = fa_linear_workspace(ctx, &v[0], &v[1], c->weights, &bytes);
    void *ws = guard_alloc(bytes, GUARD_BACK, "workspace by hand");
    if (status == FA_OK) status = fa_linear(ctx, &v[0], &v[1], &f->weights, c->bias ? &f->bias.view : NULL, (fa_activation)c->act, ws, bytes);
    guard_free(ws);
    return status;
}

/* The columns of each head that turn. */
static fa_view behind(const fa_view *v, const step_case *c) {
    fa_view heads = heads_first(v, c->heads);
    heads.data = (float *)heads.data + c->times;
    heads.shape[3] -= c->times;
    return heads;
}

static fa_status by_hand_join(const step_case *c, const fa_view v[4]) {
    const int64_t sizes[2] = {c->left, c->right};
    for (int64_t row = 0; row < v[0].shape[0]; row++)
        for (int64_t h = 0; h < c->heads; h++)
            for (int part = 0; part < 2; part++) {
                float *to = (float *)((char *)v[0].data + row * v[0].stride[0]) + h * (c->left + c->right) + part * c->left;
                const float *x = (float *)((char *)v[1 + part].data + row * v[1 + part].stride[0]);
                if (v[1 + part].shape[1] != sizes[part]) x += h * sizes[part];
                memcpy(to, x, (size_t)sizes[part] * sizeof(float));
            }
    return FA_OK;
}

/* v: out, x, y, z. */
static fa_status by_hand(const fa_ctx *ctx, const step_case *c, const fixed *f, const rows_of *b, const fa_view v[4], float *weights) {
    const fa_view *y = c->y ? &v[2] : NULL, *bias = c->bias ? &f->bias.view : NULL;
    fa_view tables[IDS], rows[IDS];
    switch (c->kind) {
    case FA_STEP_EMBED:
        for (int i = 0; i < c->times; i++) tables[i] = f->tables[i].view, rows[i] = dense(ids[i], 1, b->tokens, 0, FA_I64);
        return fa_embedding(ctx, &v[0], (int32_t)c->times, tables, rows);
    case FA_STEP_LINEAR: return by_hand_linear(ctx, c, f, v);
    case FA_STEP_LAYER_NORM: return fa_layer_norm(ctx, &v[0], &v[1], y, &f->weight.view, bias, 1e-5f);
    case FA_STEP_RMS_NORM:
        if (c->heads) return fa_rms_norm_groups(ctx, &v[0], &v[1], c->heads, &f->weight.view, 1e-5f);
        return fa_rms_norm(ctx, &v[0], &v[1], y, &f->weight.view, 1e-5f);
    case FA_STEP_ROPE: {
        const fa_view to = behind(&v[0], c), from = behind(&v[1], c), at = dense(turns, 2, 1, b->tokens, FA_I64);
        for (int64_t row = 0; row < v[0].shape[0]; row++) /* which turn where they lie, as what stays does */
            memmove((char *)v[0].data + row * v[0].stride[0], (char *)v[1].data + row * v[1].stride[0], (size_t)c->x * sizeof(float));
        return fa_rope(ctx, &to, &from, &f->cos.view, &f->sin.view, &at, c->act);
    }
    case FA_STEP_JOIN: return by_hand_join(c, v);
    case FA_STEP_GATED: return fa_gated(ctx, &v[0], &v[1], y, (fa_activation)c->act);
    case FA_STEP_ADD: return fa_add(ctx, &v[0], &v[1], y);
    case FA_STEP_ACTIVATE: return fa_activate(ctx, &v[0], &v[1], (fa_activation)c->act);
    case FA_STEP_SCALE: return fa_scale(ctx, &v[0], &v[1], 0.7f);
    case FA_STEP_CLAMP: return fa_clamp(ctx, &v[0], &v[1], 0.7f);
    case FA_STEP_GATHER: rows[0] = dense(wanted, 2, b->wanted, c->times, FA_I64); return fa_gather(ctx, &v[0], &v[1], &rows[0]);
    case FA_STEP_POOL:
        rows[0] = dense(b->ends, 1, b->sequences + 1, 0, FA_I64);
        return fa_pool(ctx, &v[0], &v[1], &rows[0], (fa_pool_mode)c->act, c->times);
    case FA_STEP_NORMALIZE: return fa_l2_normalize(ctx, &v[0], &v[1], 1e-5f);
    case FA_STEP_COPY: memcpy(v[0].data, v[1].data, (size_t)(v[1].shape[0] * v[1].shape[1]) * sizeof(float)); return FA_OK;
    default: return by_hand_attention(ctx, c, f, b, v, weights);
    }
}

/* ---- as a program -------------------------------------------------------------------------------------------------- */

enum { BEFORE = 3, BEHIND = 2, OUT_SEED = 9 }; /* columns of an array around a value */

typedef enum target { TO_ARRAY, TO_TABLE, IN_X, IN_Y, TARGETS } target;

static uint64_t seed_of(int i) { return 100 + (uint64_t)i; }

/* An input in columns of an array, and from there in a table. */
static fa_value bring(lab *l, const char *name, int64_t width, int i, int in_table, int written, int *array) {
    *array = lab_floats(l, name, TOKENS, BEFORE + width + BEHIND, seed_of(i));
    const fa_value columns = lab_column(l, *array, BEFORE, width);
    if (!written || in_table) guard_seal(l->tensors[*array].memory);
    if (!in_table) return columns;
    const fa_value place = lab_table(l, TOKENS, width + 9, 5, width);
    lab_step(l, FA_STEP_COPY, place, columns);
    return place;
}

static void set_options(lab *l, fa_step *s, const step_case *c, const fixed *f, const rows_of *b, int *weights) {
    static const fa_array table = {.dtype = FA_F32, .ndim = 2, .rows = -1, .width = -1};
    const int64_t angles[2] = {ANGLES, HALF}, one[1] = {1}, all[4] = {1, c->heads, b->tokens, MOST_TOKENS};
    s->act = c->act;
    s->scale = 0.7f;
    s->heads = c->heads, s->kv_heads = c->kv_heads;
    s->weight = f->weight.view;
    if (c->bias) s->bias = f->bias.view;
    s->head_size = c->heads ? c->x / c->heads : 0;
    s->v_head_size = c->kv_heads ? c->z / c->kv_heads : 0;
    switch (c->kind) {
    case FA_STEP_EMBED:
        s->n_tables = (int32_t)c->times;
        for (int i = 0; i < c->times; i++) s->tables[i] = f->tables[i].view, s->index[i] = lab_integers(l, "ids", TOKENS, 0, ids[i]);
        break;
    case FA_STEP_LINEAR: s->weights = &f->weights; break;
    case FA_STEP_JOIN: s->head_size = c->left, s->v_head_size = c->right; break;
    case FA_STEP_ATTENTION:
        s->attention = options_of(c);
        if (c->slopes) s->alibi = f->slopes.view;
        if (c->sinks) s->sinks = f->sinks.view;
        s->index[0] = lab_integers(l, "ends", SEQUENCES, 1, b->ends);
        if (c->spread) s->index[1] = lab_integers(l, "positions", TOKENS, 0, positions);
        if (c->all_weights) *weights = s->index[2] = lab_array(l, "weights", (fa_array){.dtype = FA_F32, .ndim = 4, .rows = -1, .optional = 1, .width = -1}, all);
        break;
    case FA_STEP_DISENTANGLED:
        s->bias = (fa_view){0};
        s->disentangled = distances_of(f);
        s->index[0] = lab_integers(l, "ends", SEQUENCES, 1, b->ends);
        s->index[1] = lab_integers(l, "positions", TOKENS, 0, positions);
        break;
    case FA_STEP_ROPE:
        s->index[0] = lab_array(l, "cosines", table, angles), s->index[1] = lab_array(l, "sines", table, angles);
        tensor_fill(&l->tensors[s->index[0]], 72, 0.5f), tensor_fill(&l->tensors[s->index[1]], 73, 0.5f);
        s->index[2] = lab_integers(l, "rows of both", TOKENS, 0, turns);
        s->v_head_size = c->times;
        break;
    case FA_STEP_GATHER:
        s->index[0] = lab_array(l, "wanted", (fa_array){.dtype = FA_I64, .ndim = 2, .rows = WANTED, .width = c->times}, NULL);
        for (int64_t i = 0; i < b->wanted * c->times; i++) *(int64_t *)view_at(&l->views[s->index[0]], i) = wanted[i];
        guard_seal(l->tensors[s->index[0]].memory);
        break;
    case FA_STEP_POOL:
        s->index[0] = lab_integers(l, "ends", SEQUENCES, 1, b->ends);
        if (!c->times) break;
        s->index[1] = lab_array(l, "skip", (fa_array){.dtype = FA_I64, .ndim = 1, .rows = -1, .width = -1}, one);
        *(int64_t *)l->tensors[s->index[1]].memory = c->times;
        break;
    default: break;
    }
}

static void as_program(const step_case *c, const fixed *f, const rows_of *b, const variant *v, int in_tables, target to, float *got, float *got_weights) {
    lab l;
    int x_array = -1, y_array = -1, z_array = -1, array = -1, weights = -1;
    int64_t bad;
    lab_begin(&l, v, 8);
    l.batch.rows[TOKENS] = b->tokens, l.batch.rows[SEQUENCES] = b->sequences, l.batch.rows[WANTED] = b->wanted;
    fa_value x = {0}, y = {0}, z = {0}, out;
    if (c->x) x = bring(&l, "x", c->x, 1, in_tables, to == IN_X, &x_array);
    if (c->y) y = bring(&l, "y", c->y, 2, in_tables, to == IN_Y, &y_array);
    if (c->z) z = bring(&l, "z", c->z, 3, in_tables, 0, &z_array);
    const int rows = c->kind == FA_STEP_GATHER ? WANTED : c->kind == FA_STEP_POOL ? SEQUENCES : TOKENS;
    const int own = to == TO_ARRAY || to == TO_TABLE || in_tables;
    if (own) array = lab_floats(&l, "out", rows, BEFORE + c->out + BEHIND, OUT_SEED);
    if (to == TO_ARRAY) out = lab_column(&l, array, BEFORE, c->out);
    else if (to == TO_TABLE) out = lab_table(&l, rows, c->out, 0, c->out);
    else out = to == IN_X ? x : y;
    fa_step *s = lab_step(&l, c->kind, out, x);
    s->y = y, s->z = z;
    set_options(&l, s, c, f, b, &weights);
    if (own && to != TO_ARRAY) lab_step(&l, FA_STEP_COPY, lab_column(&l, array, BEFORE, c->out), out);
    const fa_status status = lab_run(&l, &bad);
    expect_status("program", status, FA_OK);
    if (own) lab_read(&l, array, BEFORE, c->out, OUT_SEED, got);
    else lab_read(&l, to == IN_X ? x_array : y_array, BEFORE, c->out, seed_of(to == IN_X ? 1 : 2), got);
    if (weights >= 0) tensor_gather(&l.tensors[weights], got_weights);
    lab_end(&l);
}

static void copy_of_columns(const rows_of *b, int64_t width, int i, float *to) {
    for (int64_t r = 0; r < b->tokens; r++)
        for (int64_t j = 0; j < width; j++) *to++ = bell(seed_of(i), (uint64_t)(r * (BEFORE + width + BEHIND) + BEFORE + j));
}

static uint64_t run_batch(const step_case *c, const fixed *f, const rows_of *b, uint64_t hash, int *turn) {
    const fa_ctx ctx = {.kernels = fa_kernels_for(0), .num_threads = 1};
    const int64_t count = out_rows(c, b) * c->out, count_w = weight_count(c, b), widths[4] = {c->out, c->x, c->y, c->z};
    float *base_w = scratch(count_w, sizeof *base_w), *got_w = scratch(count_w, sizeof *got_w), *got = scratch(count, sizeof *got), *memory[4];
    fa_view views[4];
    fill_integers(b);
    for (int i = 0; i < 4; i++) {
        const int64_t rows = i ? b->tokens : out_rows(c, b);
        memory[i] = scratch(rows * widths[i], sizeof(float));
        if (i) copy_of_columns(b, widths[i], i, memory[i]);
        views[i] = dense(memory[i], 2, rows, widths[i], FA_F32);
    }
    case_variant(&(variant){0, FA_FORCE_NONE, 1, GUARD_BACK, DENSE, 0});
    expect_status("by hand", by_hand(&ctx, c, f, b, views, c->all_weights ? base_w : NULL), FA_OK);
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int mode = 0; mode < 2 * TARGETS; mode++) {
            const target to = (target)(mode % TARGETS);
            if ((to == IN_X && !c->in_x) || (to == IN_Y && !c->in_y) || (c->in_x == 2 && to != IN_X) || (c->kind == FA_STEP_EMBED && mode >= TARGETS)) continue;
            const variant v = variant_of(isa, (*turn)++ % VARIANTS_PER_ISA);
            as_program(c, f, b, &v, mode / TARGETS, to, got, got_w);
            expect_same("program", got, memory[0], count, sizeof *got);
            expect_same("weights", got_w, base_w, count_w, sizeof *got_w);
        }
    }
    hash = hash_bytes(hash_bytes(hash, memory[0], (size_t)count * 4), base_w, (size_t)count_w * 4);
    for (int i = 0; i < 4; i++) free(memory[i]);
    free(base_w), free(got_w), free(got);
    return hash;
}

static void run_step(const step_case *c) {
    if (!case_begin("program step %s", c->name)) return;
    uint64_t hash = HASH_START;
    int turn = 0;
    fixed f = fixed_begin(c);
    for (int round = 0; round < 2; round++) /* which variant meets which mode */
        for (size_t i = 0; i < sizeof batches / sizeof *batches; i++, turn += round) hash = run_batch(c, &f, &batches[i], hash, &turn);
    fixed_end(&f);
    case_end(hash);
}

void test_program(const options *o) {
    (void)o;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) run_step(&steps[i]);
}
