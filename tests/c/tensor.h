/* SPDX-License-Identifier: MIT */
/*
 * Arrays for the tests: an fa_view over guarded memory in one of several layouts. What an element holds depends on its
 * logical index alone, so the same array in another layout must give the same bytes.
 */
#ifndef TENSOR_H
#define TENSOR_H

#include <stdint.h>

#include "../../src_c/fastattn.h"
#include "guard.h"

typedef enum layout {
    DENSE,
    PADDED,       /* rows 5 elements further apart than they are long */
    HEADS_INSIDE, /* (B, S, H, D) in memory, as a projection leaves them; DENSE for other ranks */
    REVERSED,     /* a negative stride between rows */
    COLLIDING,    /* rows a multiple of 2048 bytes apart */
} layout;

typedef struct tensor {
    fa_view view;
    char *memory;
    size_t bytes;
} tensor;

/* Fresh memory holds GUARD_FILL. A tensor without elements has no memory to touch. */
tensor tensor_make(const char *name, fa_dtype dtype, int ndim, const int64_t *shape, layout layout, guard_side side);

/* Makes the dimensions whose bit is set in `dims` (each 1 long) `shape` long with stride 0. */
void tensor_expand(tensor *t, unsigned dims, const int64_t *shape);

int64_t tensor_count(const fa_view *view);                /* elements */
void *view_at(const fa_view *view, int64_t logical);      /* address of element `logical` in row-major order */

/* Elements in logical order to dense memory. */
void tensor_gather(const tensor *t, void *dense);
/* Frees an output whose elements have been gathered; bytes written between, before or behind them. */
size_t tensor_free_output(tensor *t);
size_t tensor_free(tensor *t);

/* ---- values: the same on every machine, built from integers and exact powers of two ------------------------------ */

static inline uint64_t mix(uint64_t x) { /* the finaliser of splitmix64 */
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static inline uint64_t hash_at(uint64_t seed, uint64_t index) { return mix(mix(seed) ^ index); }

/* Bell-shaped, in (-4, 4), variance 4/3; a sum of four 16-bit integers, so exact. */
static inline float bell(uint64_t seed, uint64_t index) {
    uint64_t h = hash_at(seed, index);
    int32_t sum = 0;
    for (int i = 0; i < 4; i++) sum += (int16_t)(uint16_t)(h >> 16 * i);
    return (float)sum * 0x1p-15f;
}

static inline float float_from_bits(uint32_t bits) {
    union { uint32_t u; float f; } pun = {.u = bits};
    return pun.f;
}

#define CANONICAL_NAN 0x7fc00000u

/* Element i gets bell(seed, i) * scale. */
void tensor_fill(tensor *t, uint64_t seed, float scale);

#endif
