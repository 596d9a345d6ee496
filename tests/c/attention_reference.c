/* SPDX-License-Identifier: MIT */
#include "attention_reference.h"

#include <math.h>
#include <stdlib.h>

#include "check.h"

int64_t sequences(const attention_arrays *a) { return a->params->cu_q ? a->params->n_seq : a->q->shape[0]; }

sequence get_sequence(const attention_arrays *a, int64_t b) {
    const fa_attention_params *p = a->params;
    sequence s = {.batch = p->cu_q ? 0 : b, .offset = p->q_offset ? p->q_offset[b] : 0};
    s.q0 = p->cu_q ? p->cu_q[b] : 0;
    s.queries = p->cu_q ? p->cu_q[b + 1] - s.q0 : a->q->shape[2];
    s.k0 = p->cu_k ? p->cu_k[b] : 0;
    s.keys = p->cu_k ? p->cu_k[b + 1] - s.k0 : p->kv_lengths ? p->kv_lengths[b] : a->k->shape[2];
    return s;
}

static const void *mask_at(const fa_view *mask, int64_t b, int64_t h, int64_t i, int64_t j) {
    return (const char *)mask->data + b * mask->stride[0] + h * mask->stride[1] + i * mask->stride[2] + j * mask->stride[3];
}

static float added(const attention_arrays *a, const sequence *s, int64_t h, int64_t i, int64_t j) {
    const fa_view *mask = a->params->mask;
    return mask && mask->dtype == FA_F32 ? *(const float *)mask_at(mask, s->batch, h, i, j) : 0.0f;
}

int may_attend(const attention_arrays *a, const sequence *s, int64_t h, int64_t i, int64_t j) {
    const fa_attention_params *p = a->params;
    const int64_t position = s->offset + i;
    if (j >= s->keys || (p->causal && j > position)) return 0;
    if (p->window_left >= 0 && j < position - p->window_left) return 0;
    if (p->window_right >= 0 && j > position + p->window_right) return 0;
    if (p->mask && p->mask->dtype == FA_BOOL) return *(const unsigned char *)mask_at(p->mask, s->batch, h, i, j) != 0;
    return !(added(a, s, h, i, j) == -INFINITY);
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
