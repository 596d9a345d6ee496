/* SPDX-License-Identifier: MIT */
#include "attention_reference.h"

#include <math.h>
#include <stdlib.h>

#include "../../src_c/kernels/kernels.h"
#include "check.h"

int64_t sequences(const attention_arrays *a) { return a->params->cu_q ? a->params->n_seq : a->q->shape[0]; }

sequence get_sequence(const attention_arrays *a, int64_t b) {
    const fa_attention_params *p = a->params;
    sequence s = {.index = b, .batch = p->cu_q ? 0 : b, .offset = p->q_offset ? p->q_offset[b] : 0};
    s.q0 = p->cu_q ? p->cu_q[b] : 0;
    s.queries = p->cu_q ? p->cu_q[b + 1] - s.q0 : a->q->shape[2];
    s.k0 = p->cu_k ? p->cu_k[b] : 0;
    s.keys = p->cu_k ? p->cu_k[b + 1] - s.k0 : p->kv_lengths ? p->kv_lengths[b] : a->k->shape[2];
    return s;
}

static const void *at4(const fa_view *view, int64_t i, int64_t j, int64_t k, int64_t l) {
    return (const char *)view->data + i * view->stride[0] + j * view->stride[1] + k * view->stride[2] + l * view->stride[3];
}

static float at2(const fa_view *view, int64_t i, int64_t j) {
    return *(const float *)((const char *)view->data + i * view->stride[0] + j * view->stride[1]);
}

const float *floats_at(const fa_view *view, const void *at, int64_t n, float *buffer) {
    if (view->dtype == FA_F32) return at;
    fa_kernels_for(0)->convert.widen(buffer, at, view->dtype, n);
    return buffer;
}

/* k_scale or v_scale of a key, 1 without. */
static float scale_at(const fa_view *scale, const sequence *s, int64_t kv_head, int64_t j) {
    if (!scale) return 1.0f;
    const int64_t at = s->batch * scale->stride[0] + kv_head * scale->stride[1] + (s->k0 + j) * scale->stride[2];
    return *(const float *)((const char *)scale->data + at);
}

/* What a score gets beside the product: bias by distance, ALiBi and a float mask, in this order. */
typedef struct additions {
    float bias, slope, mask;
    int64_t distance;
} additions;

/* Where a query and a key of a sequence stand. */
static int64_t query_position(const attention_arrays *a, const sequence *s, int64_t i) {
    return a->params->positions ? a->params->positions[s->q0 + i] : s->offset + i;
}
static int64_t key_position(const attention_arrays *a, const sequence *s, int64_t j) {
    return a->params->positions ? a->params->positions[s->k0 + j] : j;
}

static additions added(const attention_arrays *a, const sequence *s, int64_t h, int64_t i, int64_t j) {
    const fa_attention_params *p = a->params;
    const int64_t distance = key_position(a, s, j) - query_position(a, s, i);
    additions sum = {.distance = distance < 0 ? -distance : distance};
    if (p->bias) {
        const int64_t reach = p->bias->shape[1] / 2;
        sum.bias = at2(p->bias, h, reach + (distance < -reach ? -reach : distance > reach ? reach : distance));
    }
    if (p->alibi) sum.slope = at2(p->alibi, s->index, h);
    if (p->mask && p->mask->dtype == FA_F32) sum.mask = *(const float *)at4(p->mask, s->batch, h, i, j);
    return sum;
}

/* The chunk of a place, counted from the first key of the sequence where positions say where that stands. */
static int64_t chunk_of(const attention_arrays *a, const sequence *s, int64_t place) {
    const int64_t chunk = a->params->chunk, from = a->params->positions ? key_position(a, s, 0) : 0;
    return (place - from + chunk * ((int64_t)1 << 20)) / chunk;
}

int may_attend(const attention_arrays *a, const sequence *s, int64_t h, int64_t i, int64_t j) {
    const fa_attention_params *p = a->params;
    if (j >= s->keys) return 0;
    const int64_t position = query_position(a, s, i), place = key_position(a, s, j);
    if (p->causal && place > position) return 0;
    if (p->window_left >= 0 && place < position - p->window_left && j >= p->sink_tokens) return 0;
    if (p->window_right >= 0 && place > position + p->window_right) return 0;
    if (p->chunk && chunk_of(a, s, place) != chunk_of(a, s, position)) return 0;
    if (p->block_mask && !*(const unsigned char *)at4(p->block_mask, s->index, h, i / p->block_rows, j / p->block_cols)) return 0;
    if (p->mask && p->mask->dtype == FA_BOOL) return *(const unsigned char *)at4(p->mask, s->batch, h, i, j) != 0;
    return !(added(a, s, h, i, j).mask == -INFINITY);
}

#define REAL double
#define NAME(name) name##_double
#define FN(name) name
#include "attention_reference.inc"
#undef REAL
#undef NAME
#undef FN

#define REAL float
#define NAME(name) name##_float
#define FN(name) name##f
#include "attention_reference.inc"
