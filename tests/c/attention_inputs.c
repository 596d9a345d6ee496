/* SPDX-License-Identifier: MIT */
#include "attention_inputs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../src_c/kernels/kernels.h"
#include "../../src_c/view.h"

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

/* ---- values ------------------------------------------------------------------------------------------------------ */

static void put(fa_view *view, int64_t index, float x) {
    void *at = view_at(view, index);
    if (view->dtype == FA_F32) *(float *)at = x;
    else if (view->dtype == FA_I8) *(int8_t *)at = (int8_t)(x * 24.0f);
    else fa_kernels_for(0)->convert.narrow(at, view->dtype, &x, 1);
}

static void fill_qkv(const attention_case *c, inputs *in) {
    const float qk = c->fill == FILL_HUGE ? 0x1p56f : c->fill == FILL_TINY ? 0x1p-70f : 1.0f;
    const float values = c->fill == FILL_HUGE ? 0x1p100f : 1.0f;
    const int64_t nq = tensor_count(&in->q.view), nk = tensor_count(&in->k.view), nv = tensor_count(&in->v.view);
    for (int64_t i = 0; i < nq; i++) {
        float q = bell(c->seed * 8 + 1, (uint64_t)i) * qk;
        if (c->fill == FILL_EQUAL) q = 0.75f;
        if (c->fill == FILL_DOMINANT && i % c->d == 0) q = 8.0f;
        if (c->fill == FILL_INFINITE && i % c->d == 0) q = i / c->d % 2 ? -1.0f : 1.0f;
        if (c->fill == FILL_NAN && i == nq / 3) q = NAN;
        put(&in->q.view, i, q);
    }
    for (int64_t i = 0; i < nk; i++) {
        float k = bell(c->seed * 8 + 2, (uint64_t)i) * qk;
        const int64_t row = i / c->d % in->k.view.shape[2];
        if (c->fill == FILL_EQUAL) k = -1.25f;
        if (c->fill == FILL_DOMINANT && i % c->d == 0) k = row == c->sk / 3 ? 64.0f : -1.0f;
        if (c->fill == FILL_INFINITE && i % c->d == 0 && row % 5 == 1) k = INFINITY;
        if (c->fill == FILL_NAN && i == nk - 1) k = float_from_bits(0x7f800001);
        put(&in->k.view, i, k);
    }
    for (int64_t i = 0; i < nv; i++) put(&in->v.view, i, bell(c->seed * 8 + 3, (uint64_t)i) * values);
    if (c->fill == FILL_NAN && nv) put(&in->v.view, 0, float_from_bits(0xffc12345));
}

/* Scales of int8 rows: positive, near 1 / 24. */
static tensor make_scale(const char *name, const int64_t *shape, const variant *v, uint64_t seed) {
    tensor t = tensor_make(name, FA_F32, 3, shape, v->layout, v->side);
    const int64_t count = tensor_count(&t.view);
    for (int64_t i = 0; i < count; i++) *(float *)view_at(&t.view, i) = (float)(5 + hash_at(seed, (uint64_t)i) % 8) * 0x1p-8f;
    return t;
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

/* Blocks: a byte of any value but 0 stands for 1; about one of three is missing. */
static tensor make_blocks(const attention_case *c, const int64_t *shape, const variant *v) {
    tensor t = tensor_make("block mask", FA_BOOL, 4, shape, v->layout, v->side);
    const int64_t count = tensor_count(&t.view);
    for (int64_t i = 0; i < count; i++) {
        const uint64_t h = hash_at(c->seed * 8 + 6, (uint64_t)i);
        *(uint8_t *)view_at(&t.view, i) = h % 3 ? (uint8_t)(1 + (h >> 32) % 255) : 0;
    }
    guard_seal(t.memory);
    return t;
}

static tensor make_numbers(const char *name, int ndim, const int64_t *shape, const variant *v, uint64_t seed, float scale) {
    tensor t = tensor_make(name, FA_F32, ndim, shape, v->layout, v->side);
    tensor_fill(&t, seed, scale);
    guard_seal(t.memory);
    return t;
}

/* ---- arrays ------------------------------------------------------------------------------------------------------ */

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

static int64_t batch_of(const attention_case *c) { return c->cu_q ? 1 : c->b; }
static int64_t sequences_of(const attention_case *c) { return c->cu_q ? c->n_seq : c->b; }
static int64_t length_of(const attention_case *c, int64_t b) {
    return c->cu_k ? c->cu_k[b + 1] - c->cu_k[b] : c->kv_lengths ? c->kv_lengths[b] : c->sk;
}
static int64_t first_of(const attention_case *c, int64_t b) { return c->cu_k ? c->cu_k[b] : 0; }

/* Memory for keys that lie in pages or rings, and where they lie; what no key of the stream lies in is NaN. */
static void make_store(const attention_case *c, const variant *v, inputs *in) {
    const int64_t n_seq = sequences_of(c);
    int64_t outer = c->b, rows = c->ring_first + c->ring_size, lengths[16], used[16] = {0};
    for (int64_t b = 0; b < n_seq; b++) lengths[b] = length_of(c, b);
    in->stored_lengths = index_array("lengths", lengths, n_seq, v->side);
    if (c->place == KEYS_PAGED) {
        int64_t width = 1, page = 0;
        rows = c->page_size;
        outer = 2; /* two that belong to nobody */
        for (int64_t b = 0; b < n_seq; b++) {
            used[b] = (lengths[b] + rows - 1) / rows;
            outer += used[b];
            if (used[b] >= width) width = used[b] + 1;
        }
        const int64_t shape[2] = {n_seq, width};
        in->page_table = tensor_make("page table", FA_I64, 2, shape, v->layout, v->side);
        for (int64_t i = 0; i < n_seq * width; i++) /* neighbours in a stream are none in memory; entries behind its end are nonsense */
            *(int64_t *)view_at(&in->page_table.view, i) = i % width < used[i / width] ? outer - 2 - (page++ * 7919) % (outer - 2) : -7;
        /* 7919 is prime: with a multiple of it as number of pages they would meet, and that is more than any case has */
        guard_seal(in->page_table.memory);
    }
    const int64_t k_shape[4] = {outer, c->hkv, rows, c->d}, v_shape[4] = {outer, c->hkv, rows, c->dv};
    in->k_store = tensor_make("stored k", kv_dtype_of(c), 4, k_shape, v->layout, v->side);
    in->v_store = tensor_make("stored v", kv_dtype_of(c), 4, v_shape, v->layout, v->side);
    if (kv_dtype_of(c) == FA_I8) {
        in->k_scale_store = tensor_make("stored k_scale", FA_F32, 3, k_shape, v->layout, v->side);
        in->v_scale_store = tensor_make("stored v_scale", FA_F32, 3, k_shape, v->layout, v->side);
    }
}

inputs make_inputs(const attention_case *c, const variant *v) {
    const int64_t batch = batch_of(c), n_seq = sequences_of(c);
    const int64_t q_shape[4] = {batch, c->hq, c->sq, c->d}, k_shape[4] = {batch, c->hkv, c->sk, c->d};
    const int64_t v_shape[4] = {batch, c->hkv, c->sk, c->dv}, mask_shape[4] = {batch, c->hq, c->sq, c->sk};
    const layout kv_layout = c->colliding && v->layout != DENSE ? COLLIDING : v->layout;
    inputs in = {0};
    in.q = tensor_make("q", dtype_of(c), 4, q_shape, v->layout, v->side);
    if (c->unmapped) {
        in.k = cut_keys("k", k_shape, c->kv_lengths[0]), in.v = cut_keys("v", v_shape, c->kv_lengths[0]);
    } else {
        in.k = tensor_make("k", kv_dtype_of(c), 4, k_shape, kv_layout, v->side);
        in.v = tensor_make("v", kv_dtype_of(c), 4, v_shape, kv_layout, v->side);
    }
    if (kv_dtype_of(c) == FA_I8) {
        in.k_scale = make_scale("k_scale", k_shape, v, c->seed * 8 + 7);
        in.v_scale = make_scale("v_scale", k_shape, v, c->seed * 8 + 8);
    }
    fa_attention_params *p = &in.params;
    *p = (fa_attention_params){.integers = c->integers, .scale = scale_of(c), .softcap = c->softcap, .causal = c->causal, .window_left = -1, .window_right = -1,
                               .n_seq = c->n_seq, .score_stage = c->stage};
    if (c->windowed) p->window_left = c->window_left, p->window_right = c->window_right, p->sink_tokens = c->sink_tokens;
    p->chunk = c->chunk;
    if (c->q_offset) p->q_offset = (in.q_offset = index_array("q_offset", c->q_offset, n_seq, v->side)).view.data;
    if (c->kv_lengths) p->kv_lengths = (in.kv_lengths = index_array("kv_lengths", c->kv_lengths, n_seq, v->side)).view.data;
    if (c->cu_q) p->cu_q = (in.cu_q = index_array("cu_q", c->cu_q, n_seq + 1, v->side)).view.data;
    if (c->cu_k) p->cu_k = (in.cu_k = index_array("cu_k", c->cu_k, n_seq + 1, v->side)).view.data;
    if (c->positions) p->positions = (in.positions = index_array("positions", c->positions, c->sk, v->side)).view.data;
    if (c->mask) {
        int64_t shape[4];
        for (int i = 0; i < 4; i++) shape[i] = c->mask_broadcast >> i & 1 ? 1 : mask_shape[i];
        in.mask = tensor_make("mask", c->mask == MASK_BOOL ? FA_BOOL : FA_F32, 4, shape, v->layout, v->side);
        fill_mask(c, &in.mask, shape[2], shape[3]);
        tensor_expand(&in.mask, c->mask_broadcast, mask_shape);
        guard_seal(in.mask.memory);
    }
    if (c->block_rows) {
        const int64_t rows = (c->sq + c->block_rows - 1) / c->block_rows, cols = (c->sk + c->block_cols - 1) / c->block_cols;
        const int64_t shape[4] = {n_seq, c->hq, rows, cols};
        in.blocks = make_blocks(c, shape, v);
        p->block_rows = c->block_rows, p->block_cols = c->block_cols;
    }
    const int64_t slopes[2] = {n_seq, c->hq}, distances[2] = {c->hq, 2 * c->bias_reach + 1};
    if (c->alibi) in.alibi = make_numbers("alibi", 2, slopes, v, c->seed * 8 + 9, 0.05f);
    if (c->sinks) in.sinks = make_numbers("sinks", 1, &c->hq, v, c->seed * 8 + 10, 2.0f);
    if (c->bias_reach) in.bias = make_numbers("bias", 2, distances, v, c->seed * 8 + 11, 1.0f);
    if (c->place) make_store(c, v, &in);
    return in;
}

/* ---- poison and places ------------------------------------------------------------------------------------------- */

/* `count` elements of a row, or the row's scale where elements hold no NaN. */
static void poison_row(tensor *t, tensor *scale, int64_t row, int64_t count, int64_t j, int only_nan) {
    static const uint32_t bad[] = {0x7fc00000, 0x7f800000, 0xff800000, 0x7f7fffff};
    if (scale->memory) {
        *(float *)view_at(&scale->view, row) = float_from_bits(bad[only_nan ? 0 : j % 4]);
        return;
    }
    for (int64_t e = 0; e < count; e++) {
        const float x = float_from_bits(bad[only_nan ? 0 : (j + e) % 4]);
        put(&t->view, row * count + e, x);
    }
}

static void poison_keys(const attention_case *c, inputs *in, poison poison) {
    const int64_t group = c->hq / c->hkv;
    for (int64_t b = 0; b < sequences(&in->arrays); b++) {
        const sequence s = get_sequence(&in->arrays, b);
        const int64_t rows = c->cu_q ? s.keys : in->k.view.shape[2]; /* padding too */
        for (int64_t kv = 0; kv < c->hkv; kv++)
            for (int64_t j = 0; j < rows; j++) {
                int used = 0;
                for (int64_t h = kv * group; h < (kv + 1) * group; h++)
                    for (int64_t i = 0; i < s.queries; i++) used |= may_attend(&in->arrays, &s, h, i, j);
                if (poison == POISON_EXCLUDED ? used : j != s.keys / 2) continue;
                const int64_t row = (s.batch * c->hkv + kv) * in->k.view.shape[2] + s.k0 + j;
                if (poison == POISON_EXCLUDED) poison_row(&in->k, &in->k_scale, row, c->d, j, 0);
                poison_row(&in->v, &in->v_scale, row, c->dv, j, poison == POISON_ONE_KEY);
            }
    }
}

static void copy_elements(tensor *to, int64_t to_row, const tensor *from, int64_t from_row, int64_t count) {
    const size_t item = (size_t)fa_itemsize(from->view.dtype);
    for (int64_t e = 0; e < count; e++) memcpy(view_at(&to->view, to_row * count + e), view_at(&from->view, from_row * count + e), item);
}

/* Keys from their place in order to where the stream keeps them, oldest first: a ring overwrites. */
static void store_keys(const attention_case *c, inputs *in) {
    tensor *const to[] = {&in->k_store, &in->v_store, &in->k_scale_store, &in->v_scale_store};
    const tensor *const from[] = {&in->k, &in->v, &in->k_scale, &in->v_scale};
    const int64_t counts[] = {c->d, c->dv, 1, 1};
    for (int t = 0; t < 4; t++) {
        if (!to[t]->memory) continue;
        memset(to[t]->memory, 0xff, to[t]->bytes);
        const int64_t rows = to[t]->view.shape[2];
        for (int64_t b = 0; b < sequences_of(c); b++)
            for (int64_t kv = 0; kv < c->hkv; kv++)
                for (int64_t j = 0; j < length_of(c, b); j++) {
                    int64_t outer = b, slot = j;
                    if (c->place == KEYS_PAGED) {
                        outer = *(int64_t *)view_at(&in->page_table.view, b * in->page_table.view.shape[1] + j / c->page_size);
                        slot = j % c->page_size;
                    } else if (j >= c->ring_first) {
                        slot = c->ring_first + (j - c->ring_first) % c->ring_size;
                    }
                    const int64_t row = ((c->cu_q ? 0 : b) * c->hkv + kv) * from[t]->view.shape[2] + first_of(c, b) + j;
                    copy_elements(to[t], (outer * c->hkv + kv) * rows + slot, from[t], row, counts[t]);
                }
        guard_seal(to[t]->memory);
    }
}

static const fa_view *view_of(const tensor *t) { return t->memory ? &t->view : NULL; }

void finish_inputs(const attention_case *c, inputs *in, poison poison) {
    fa_attention_params *p = &in->params;
    p->mask = view_of(&in->mask);
    p->block_mask = view_of(&in->blocks);
    p->alibi = view_of(&in->alibi), p->sinks = view_of(&in->sinks), p->bias = view_of(&in->bias);
    p->k_scale = view_of(&in->k_scale), p->v_scale = view_of(&in->v_scale);
    in->arrays = (attention_arrays){&in->q.view, &in->k.view, &in->v.view, p};
    if (c->unmapped) in->k.view.shape[2] = in->v.view.shape[2] = c->kv_lengths[0];
    fill_qkv(c, in);
    if (poison != CLEAN) poison_keys(c, in, poison);
    if (c->unmapped) in->k.view.shape[2] = in->v.view.shape[2] = c->sk;
    in->call = *p;
    in->call_k = &in->k.view, in->call_v = &in->v.view;
    if (c->place) {
        store_keys(c, in);
        in->call_k = &in->k_store.view, in->call_v = &in->v_store.view;
        in->call.k_scale = view_of(&in->k_scale_store), in->call.v_scale = view_of(&in->v_scale_store);
        in->call.page_table = view_of(&in->page_table);
        if (c->place == KEYS_RING) in->call.ring_first = c->ring_first, in->call.ring_size = c->ring_size;
        in->call.kv_lengths = in->stored_lengths.view.data;
        in->call.cu_k = NULL;
    }
    tensor *const sealed[] = {&in->q, &in->k, &in->v, &in->k_scale, &in->v_scale};
    for (size_t i = 0; i < sizeof sealed / sizeof *sealed; i++)
        if (sealed[i]->memory) guard_seal(sealed[i]->memory);
}

void free_inputs(inputs *in) {
    tensor *const all[] = {&in->q, &in->k, &in->v, &in->k_scale, &in->v_scale, &in->mask, &in->blocks, &in->alibi, &in->sinks, &in->bias,
                           &in->q_offset, &in->kv_lengths, &in->cu_q, &in->cu_k, &in->positions, &in->k_store, &in->v_store, &in->k_scale_store,
                           &in->v_scale_store, &in->page_table, &in->stored_lengths};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]->memory) expect_clean("an input", tensor_free(all[i]));
}
