/* SPDX-License-Identifier: MIT */
/* Attention as it is defined, in double, and in naive fp32 for the accuracy rule: two passes, no blocks, no FMA. */
#ifndef ATTENTION_REFERENCE_H
#define ATTENTION_REFERENCE_H

#include "../../src_c/fastattn.h"

typedef struct attention_arrays {
    const fa_view *q, *k, *v;
    const fa_attention_params *params;
} attention_arrays;

/* Sequence b: its rows in q and out, its rows in k and v. */
typedef struct sequence {
    int64_t index, batch, q0, queries, k0, keys, offset;
} sequence;
int64_t sequences(const attention_arrays *a);
sequence get_sequence(const attention_arrays *a, int64_t b);

/* Row `at` of k or v as floats: where it lies, or widened into the buffer. */
const float *floats_at(const fa_view *view, const void *at, int64_t n, float *buffer);

/* May query i of sequence s and head h attend to key j? */
int may_attend(const attention_arrays *a, const sequence *s, int64_t h, int64_t i, int64_t j);

/* out [B, Hq, Sq, Dv], lse [B, Hq, Sq], weights and scores [B, Hq, Sq, Sk] dense or NULL; rows of no sequence are left
 * alone. Keys lie in order here: page_table and rings are not looked at. */
void attention_double(const attention_arrays *a, int order, double *out, double *lse, double *weights, double *scores);
void attention_float(const attention_arrays *a, int order, float *out, float *lse, float *weights, float *scores);

#endif
