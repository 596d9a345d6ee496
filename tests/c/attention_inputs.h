/* SPDX-License-Identifier: MIT */
/* The arrays of an attention case in one variant, in guarded memory: what the operator gets and what the reference gets. */
#ifndef ATTENTION_INPUTS_H
#define ATTENTION_INPUTS_H

#include "attention_case.h"
#include "attention_reference.h"

typedef enum poison {
    CLEAN,
    POISON_EXCLUDED, /* NaN and infinities in keys that no query sees, and their values */
    POISON_ONE_KEY   /* NaN in the values of each sequence's middle key */
} poison;

typedef struct inputs {
    tensor q, k, v, k_scale, v_scale, mask, blocks, alibi, sinks, bias, q_offset, kv_lengths, cu_q, cu_k, positions;
    tensor k_store, v_store, k_scale_store, v_scale_store, page_table, stored_lengths; /* keys that do not lie in order */
    attention_arrays arrays;           /* for the reference: keys in order */
    fa_attention_params params, call;  /* of the reference, of the operator */
    const fa_view *call_k, *call_v;
} inputs;

inputs make_inputs(const attention_case *c, const variant *v);
/* After the inputs have reached their final place in the caller's frame: pointers among them, values, no more writing. */
void finish_inputs(const attention_case *c, inputs *in, poison poison);
void free_inputs(inputs *in);

static inline fa_dtype dtype_of(const attention_case *c) { return c->dtype ? c->dtype : FA_F32; }
static inline fa_dtype kv_dtype_of(const attention_case *c) { return c->kv_dtype ? c->kv_dtype : FA_F32; }

#endif
