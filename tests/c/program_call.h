/* SPDX-License-Identifier: MIT */
/* A program with a step of every kind and a batch that fits it: tests spoil something in a fresh one. */
#ifndef PROGRAM_CALL_H
#define PROGRAM_CALL_H

#include "program_lab.h"

enum { T = 7, S = 2, W = 2, H = 12, HEADS = 3, SIZE = 4 };
enum { EMBED, LINEAR, ROPE, ATTEND, RMS, NORM, GATED, ADD, ACTIVATE, SCALE, GATHER, POOL, NORMALIZE, COPY, DISENTANGLED, STEPS };
enum { OUT, IN, IDS, ENDS, COLUMNS, COS, SIN, TURNS, INDEX, SKIP, PLACES, ARRAYS };

typedef struct call {
    lab l;
    fa_step *s;            /* the steps */
    void *ws;
    size_t bytes, less;    /* of workspace: what there is; withheld */
    size_t off;            /* bytes that it begins too late */
    fa_memory_layer layer;
    fa_memory_group group;
} call;

/* A vector that fits norms and biases of up to 64 columns. */
fa_view call_vector(int64_t n);
/* Zeros, for any widths of some dozens. */
extern const fa_linear_weights call_weights;

static const variant call_variant = {0, FA_FORCE_NONE, 2, GUARD_BACK, DENSE, 0};

void call_begin(call *c, const variant *v);

#endif
