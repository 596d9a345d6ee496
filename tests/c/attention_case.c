/* SPDX-License-Identifier: MIT */
#include "attention_case.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention_reference.h"

typedef enum poison { CLEAN, POISON_EXCLUDED, POISON_ONE_KEY } poison;

/* Everything one call needs, in guarded memory. */
typedef struct inputs {
    tensor q, k, v, mask, q_offset, kv_lengths, cu_q, cu_k;
    fa_attention_params params;
    attention_arrays arrays;
} inputs;

typedef struct result {
    int64_t n_out, n_lse, n_weights;
    float *out, *lse, *weights; /* dense */
} result;

/* ---- inputs ------------------------------------------------------------------------------------------------------ */

static float scale_of(const attention_case *c) {
    const float usual = 1.0f / sqrtf((float)c->d);
    switch (c->scale) {
    case SCALE_ZERO: return 0.0f;
    case SCALE_NEGATIVE: return -usual;
    case SCALE_LARGE: return 3e38f;
    case SCALE_DENORMAL: return 0x1p-140f;
    default: return usual;
    }
}

static void fill_qkv(const attention_case *c, inputs *in) {
    const float qk = c->fill == FILL_HUGE ? 0x1p56f : c->fill == FILL_TINY ? 0x1p-70f : 1.0f;
    tensor_fill(&in->q, c->seed * 8 + 1, qk);
    tensor_fill(&in->k, c->seed * 8 + 2, qk);
    tensor_fill(&in->v, c->seed * 8 + 3, c->fill == FILL_HUGE ? 0x1p100f : 1.0f);
    const int64_t nq = tensor_count(&in->q.view), nk = tensor_count(&in->k.view), nv = tensor_count(&in->v.view);
    for (int64_t i = 0; i < nq; i++) {
        float *q = view_at(&in->q.view, i);
        if (c->fill == FILL_EQUAL) *q = 0.75f;
        if (c->fill == FILL_DOMINANT && i % c->d == 0) *q = 8.0f;
        if (c->fill == FILL_INFINITE && i % c->d == 0) *q = i / c->d % 2 ? -1.0f : 1.0f;
        if (c->fill == FILL_NAN && i == nq / 3) *q = NAN;
    }
    for (int64_t i = 0; i < nk; i++) {
        float *k = view_at(&in->k.view, i);
        const int64_t row = i / c->d % in->k.view.shape[2];
        if (c->fill == FILL_EQUAL) *k = -1.25f;
        if (c->fill == FILL_DOMINANT && i % c->d == 0) *k = row == c->sk / 3 ? 64.0f : -1.0f;
        if (c->fill == FILL_INFINITE && i % c->d == 0 && row % 5 == 1) *k = INFINITY;
        if (c->fill == FILL_NAN && i == nk - 1) *k = float_from_bits(0x7f800001);
    }
    if (c->fill == FILL_NAN && nv) *(float *)view_at(&in->v.view, 0) = float_from_bits(0xffc12345);
}

/* About two keys of three; one row of a few without any key, one key of a few for nobody. */
static void fill_mask(const attention_case *c, tensor *t, int64_t rows, int64_t keys) {
    const int64_t count = tensor_count(&t->view);
    for (int64_t i = 0; i < count; i++) {
        const int64_t j = i % keys, row = i / keys % rows;
        const uint64_t h = hash_at(c->seed * 8 + 4, (uint64_t)i);
        const int allowed = h % 3 != 0 && j % 7 != 3 && !(row % 11 == 5 && rows > 1);
        if (t->view.dtype == FA_BOOL) *(uint8_t *)view_at(&t->view, i) = allowed ? (uint8_t)(1 + (h >> 32) % 255) : 0;
        else *(float *)view_at(&t->view, i) = !allowed ? -INFINITY : h % 13 == 1 ? -0x1.fffffep127f : bell(c->seed * 8 + 5, (uint64_t)i);
    }
}

static tensor index_array(const char *name, const int64_t *values, int64_t n, guard_side side) {
    tensor t = tensor_make(name, FA_I64, 1, &n, DENSE, side);
    memcpy(t.memory, values, (size_t)n * sizeof *values);
    guard_seal(t.memory);
    return t;
}

/* K or V whose rows from `rows` on lie on the guard page. */
static tensor cut_keys(const char *name, const int64_t *shape, int64_t rows) {
    const int64_t kept[4] = {shape[0], shape[1], rows, shape[3]};
    tensor t = tensor_make(name, FA_F32, 4, kept, HEADS_INSIDE, GUARD_BACK);
    t.view.shape[2] = shape[2];
    return t;
}

static inputs make_inputs(const attention_case *c, const variant *v) {
    const int64_t batch = c->cu_q ? 1 : c->b, sequences = c->cu_q ? c->n_seq : c->b;
    const int64_t q_shape[4] = {batch, c->hq, c->sq, c->d}, k_shape[4] = {batch, c->hkv, c->sk, c->d};
    const int64_t v_shape[4] = {batch, c->hkv, c->sk, c->dv}, mask_shape[4] = {batch, c->hq, c->sq, c->sk};
    const layout kv_layout = c->colliding && v->layout != DENSE ? COLLIDING : v->layout;
    inputs in = {0};
    in.q = tensor_make("q", FA_F32, 4, q_shape, v->layout, v->side);
    if (c->unmapped) {
        in.k = cut_keys("k", k_shape, c->kv_lengths[0]), in.v = cut_keys("v", v_shape, c->kv_lengths[0]);
    } else {
        in.k = tensor_make("k", FA_F32, 4, k_shape, kv_layout, v->side);
        in.v = tensor_make("v", FA_F32, 4, v_shape, kv_layout, v->side);
    }
    fa_attention_params *p = &in.params;
    *p = (fa_attention_params){.scale = scale_of(c), .softcap = c->softcap, .causal = c->causal, .window_left = -1, .window_right = -1,
                               .n_seq = c->n_seq};
    if (c->windowed) p->window_left = c->window_left, p->window_right = c->window_right;
    if (c->q_offset) p->q_offset = (in.q_offset = index_array("q_offset", c->q_offset, sequences, v->side)).view.data;
    if (c->kv_lengths) p->kv_lengths = (in.kv_lengths = index_array("kv_lengths", c->kv_lengths, sequences, v->side)).view.data;
    if (c->cu_q) p->cu_q = (in.cu_q = index_array("cu_q", c->cu_q, sequences + 1, v->side)).view.data;
    if (c->cu_k) p->cu_k = (in.cu_k = index_array("cu_k", c->cu_k, sequences + 1, v->side)).view.data;
    if (c->mask) {
        int64_t shape[4];
        for (int i = 0; i < 4; i++) shape[i] = c->mask_broadcast >> i & 1 ? 1 : mask_shape[i];
        in.mask = tensor_make("mask", c->mask == MASK_BOOL ? FA_BOOL : FA_F32, 4, shape, v->layout, v->side);
        fill_mask(c, &in.mask, shape[2], shape[3]);
        tensor_expand(&in.mask, c->mask_broadcast, mask_shape);
    }
    return in;
}

/* After the inputs have reached their final place in the caller's frame: pointers among them, values, no more writing. */
static void finish_inputs(const attention_case *c, inputs *in, poison poison) {
    in->params.mask = c->mask ? &in->mask.view : NULL;
    in->arrays = (attention_arrays){&in->q.view, &in->k.view, &in->v.view, &in->params};
    if (c->unmapped) in->k.view.shape[2] = in->v.view.shape[2] = c->kv_lengths[0];
    fill_qkv(c, in);
    const int64_t group = c->hq / c->hkv;
    for (int64_t b = 0; poison != CLEAN && b < sequences(&in->arrays); b++) {
        const sequence s = get_sequence(&in->arrays, b);
        const int64_t rows = c->cu_q ? s.keys : in->k.view.shape[2]; /* padding too */
        for (int64_t kv = 0; kv < c->hkv; kv++)
            for (int64_t j = 0; j < rows; j++) {
                int used = 0;
                for (int64_t h = kv * group; h < (kv + 1) * group; h++)
                    for (int64_t i = 0; i < s.queries; i++) used |= may_attend(&in->arrays, &s, h, i, j);
                if (poison == POISON_EXCLUDED ? used : j != s.keys / 2) continue;
                static const uint32_t bad[] = {0x7fc00000, 0x7f800000, 0xff800000, 0x7f7fffff};
                const int64_t row = (s.batch * c->hkv + kv) * in->k.view.shape[2] + s.k0 + j;
                for (int64_t e = 0; e < c->d && poison == POISON_EXCLUDED; e++)
                    *(float *)view_at(&in->k.view, row * c->d + e) = float_from_bits(bad[(j + e) % 4]);
                for (int64_t e = 0; e < c->dv; e++)
                    *(float *)view_at(&in->v.view, row * c->dv + e) = float_from_bits(poison == POISON_ONE_KEY ? bad[0] : bad[(j + e) % 4]);
            }
    }
    if (c->unmapped) in->k.view.shape[2] = in->v.view.shape[2] = c->sk;
    guard_seal(in->q.memory), guard_seal(in->k.memory), guard_seal(in->v.memory);
    if (c->mask) guard_seal(in->mask.memory);
}

static void free_inputs(inputs *in) {
    tensor *const all[] = {&in->q, &in->k, &in->v, &in->mask, &in->q_offset, &in->kv_lengths, &in->cu_q, &in->cu_k};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]->memory) expect_clean("an input", tensor_free(all[i]));
}

/* ---- one call ---------------------------------------------------------------------------------------------------- */

static result make_result(const attention_case *c) {
    const int64_t rows = (c->cu_q ? 1 : c->b) * c->hq * c->sq;
    result r = {.n_out = rows * c->dv, .n_lse = c->lse ? rows : 0, .n_weights = c->weights ? rows * c->sk : 0};
    r.out = scratch(r.n_out, sizeof(float));
    r.lse = scratch(r.n_lse, sizeof(float));
    r.weights = scratch(r.n_weights, sizeof(float));
    return r;
}

static void free_result(result *r) { free(r->out), free(r->lse), free(r->weights); }

/* Runs the operator in one variant, with a workspace exactly as large as it asked for. */
static result run(const attention_case *c, const variant *v, poison poison) {
    const int64_t batch = c->cu_q ? 1 : c->b;
    const int64_t out_shape[4] = {batch, c->hq, c->sq, c->dv}, w_shape[4] = {batch, c->hq, c->sq, c->sk};
    result r = make_result(c);
    case_variant(v);
    inputs in = make_inputs(c, v);
    finish_inputs(c, &in, poison);
    tensor out = tensor_make("out", FA_F32, 4, out_shape, v->layout, v->side), lse = {0}, weights = {0};
    if (c->lse) lse = tensor_make("lse", FA_F32, 3, out_shape, v->layout, v->side);
    if (c->weights) weights = tensor_make("weights", FA_F32, 4, w_shape, v->layout, v->side);
    const fa_view *lse_view = c->lse ? &lse.view : NULL, *w_view = c->weights ? &weights.view : NULL;

    fa_ctx ctx = variant_ctx(v);
    size_t bytes = 0;
    hostile_enter(v);
    fa_status status = fa_attention_workspace(&ctx, &out.view, lse_view, w_view, &in.q.view, &in.k.view, &in.v.view, &in.params, &bytes);
    hostile_leave(v);
    expect_status("workspace query", status, FA_OK);
    void *ws = guard_alloc(bytes, v->side, "workspace");
    if (v->hostile) memset(ws, 0xff, bytes); /* what a workspace holds does not matter: NaN */
    hostile_enter(v);
    status = fa_attention(&ctx, &out.view, lse_view, w_view, &in.q.view, &in.k.view, &in.v.view, &in.params, ws, bytes);
    hostile_leave(v);
    expect_status("attention", status, FA_OK);
    expect_clean("workspace", guard_free(ws));

    tensor_gather(&out, r.out);
    expect_clean("out", tensor_free_output(&out));
    if (c->lse) tensor_gather(&lse, r.lse), expect_clean("lse", tensor_free_output(&lse));
    if (c->weights) tensor_gather(&weights, r.weights), expect_clean("weights", tensor_free_output(&weights));
    free_inputs(&in);
    return r;
}

/* ---- what must hold ---------------------------------------------------------------------------------------------- */

typedef struct naive_arg {
    const attention_case *c;
    const attention_arrays *arrays;
    int which; /* 0 out, 1 lse, 2 weights */
} naive_arg;

static void run_naive(void *arg, int order, float *out) {
    const naive_arg *a = arg;
    result r = make_result(a->c);
    float *lse = scratch(a->c->b * a->c->hq * a->c->sq, sizeof *lse);
    attention_float(a->arrays, order, r.out, lse, a->which == 2 ? r.weights : NULL);
    if (a->which == 0) memcpy(out, r.out, (size_t)r.n_out * sizeof *out);
    if (a->which == 1) memcpy(out, lse, (size_t)r.n_lse * sizeof *out);
    if (a->which == 2) memcpy(out, r.weights, (size_t)r.n_weights * sizeof *out);
    free(lse);
    free_result(&r);
}

static void check_reference(const attention_case *c, const result *got) {
    variant plain = variant_of(0, 0);
    inputs in = make_inputs(c, &plain);
    finish_inputs(c, &in, CLEAN);
    const int64_t rows = got->n_out / c->dv;
    double *out = scratch(got->n_out, sizeof *out), *lse = scratch(rows, sizeof *lse);
    double *weights = c->weights ? scratch(got->n_weights, sizeof *weights) : NULL;
    naive_arg arg = {c, &in.arrays, 0};
    attention_double(&in.arrays, 0, out, lse, weights);
    expect_accurate("out", got->out, out, got->n_out, run_naive, &arg);
    arg.which = 1;
    if (c->lse) expect_accurate("lse", got->lse, lse, rows, run_naive, &arg);
    arg.which = 2;
    if (c->weights) expect_accurate("weights", got->weights, weights, got->n_weights, run_naive, &arg);
    free(out), free(lse), free(weights);
    free_inputs(&in);
}

static void compare(const result *got, const result *base) {
    expect_same("out", got->out, base->out, base->n_out, sizeof(float));
    expect_same("lse", got->lse, base->lse, base->n_lse, sizeof(float));
    expect_same("weights", got->weights, base->weights, base->n_weights, sizeof(float));
}

/* With NaN in the middle key's values, rows that may not attend to it are as they were and the others are NaN. */
static void check_one_key(const attention_case *c, const variant *v, const result *base) {
    inputs in = make_inputs(c, v);
    finish_inputs(c, &in, CLEAN);
    result r = run(c, v, POISON_ONE_KEY);
    for (int64_t b = 0; b < sequences(&in.arrays); b++) {
        const sequence s = get_sequence(&in.arrays, b);
        for (int64_t h = 0; h < c->hq; h++)
            for (int64_t i = 0; i < s.queries; i++) {
                const int64_t row = ((s.batch * c->hq + h) * c->sq + s.q0 + i) * c->dv;
                if (s.keys && may_attend(&in.arrays, &s, h, i, s.keys / 2))
                    for (int64_t e = 0; e < c->dv; e++) r.out[row + e] = isnan(r.out[row + e]) ? base->out[row + e] : -1.0f;
            }
    }
    compare(&r, base);
    free_result(&r);
    free_inputs(&in);
}

void attention_run(const attention_case *c) {
    if (!case_begin("attention %s", c->name)) return;
    const int poisoned = c->fill == FILL_BELL && (c->mask || c->causal || c->windowed || (c->kv_lengths && !c->unmapped));
    variant first = variant_of(0, 0);
    result base = run(c, &first, CLEAN);
    check_reference(c, &base);
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int index = isa == 0; index < VARIANTS_PER_ISA; index++) {
            variant v = variant_of(isa, index);
            result r = run(c, &v, poisoned && index % 2 ? POISON_EXCLUDED : CLEAN);
            compare(&r, &base);
            free_result(&r);
            /* a float mask may hold weights that round to 0: then the key counts as excluded, which is no error */
            if (poisoned && index == 2 && c->mask != MASK_FLOAT) check_one_key(c, &v, &base);
        }
    }
    case_variant(&first);
    uint64_t hash = hash_bytes(HASH_START, base.out, (size_t)base.n_out * sizeof(float));
    hash = hash_bytes(hash, base.lse, (size_t)base.n_lse * sizeof(float));
    case_end(hash_bytes(hash, base.weights, (size_t)base.n_weights * sizeof(float)));
    free_result(&base);
}
