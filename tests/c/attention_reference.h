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
    int64_t batch, q0, queries, k0, keys, offset;
} sequence;
int64_t sequences(const attention_arrays *a);
sequence get_sequence(const attention_arrays *a, int64_t b);

/* May query i of sequence s and head h attend to key j? */
int may_attend(const attention_arrays *a, const sequence *s, int64_t h, int64_t i, int64_t j);

/* out [B, Hq, Sq, Dv], lse [B, Hq, Sq], weights [B, Hq, Sq, Sk] dense; rows of no sequence are left alone. */
void attention_double(const attention_arrays *a, int order, double *out, double *lse, double *weights);
void attention_float(const attention_arrays *a, int order, float *out, float *lse, float *weights);

#endif
