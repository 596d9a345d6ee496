/* SPDX-License-Identifier: MIT */
/*
 * Drawing tokens, in parts: sample.c checks and cuts into rows, sample_row.c goes from logits to a token, sample_cut.c
 * finds where the best ones end, sample_random.c has the random bits and a logarithm.
 */
#ifndef FA_SAMPLE_H
#define FA_SAMPLE_H

#include <string.h>

#include "../kernels/kernels.h"

/* A weight in [0, 1] in units of 2^-42, to nearest even: what is added to 2^52 is rounded to whole numbers. */
static inline uint64_t fa_units(float weight) {
    const double sum = (double)weight * 0x1p42 + 0x1p52;
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    return bits - 0x4330000000000000u;
}

/* Floats as integers of the same order; both zeros are one. */
static inline uint32_t fa_order(float x) {
    uint32_t bits;
    x += 0.0f;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* The numbers above the one of `order`, and of those that equal it the first `ties`. */
typedef struct fa_cut {
    uint32_t order;
    int64_t ties;
} fa_cut;

/* The fewest numbers of x [n], from the highest down and of equals the first, whose weights together are at least `share`
 * units: of w [n], or 1 each where that is NULL. 1 <= share <= all of them. Scratch x_left, w_left [n]. */
fa_cut fa_sample_cut(const float *x, const float *w, int64_t n, uint64_t share, float *x_left, float *w_left);

/* Philox4x32-10. */
void fa_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);

/* ln x of a normal x of at least 1, off by less than a unit in the last place. */
double fa_log(double x);

/* What a row works in: arrays of V, those that no draw of the call needs NULL. */
typedef struct fa_sample_space {
    float *best;             /* maxima of blocks */
    float *logits, *w, *x, *x_left, *w_left;
    int32_t *ids;
    uint32_t *counts;
} fa_sample_space;

/* The token of a row of n logits, or -1 and -2 as fa_sample has them; space->logits then has the scores of a beam. *log_sum gets ln sum exp(logit - highest) of the raw
 * logits, *highest that one, where the draw asks for log probabilities. */
int64_t fa_sample_row(const fa_sample_kernels *kernels, const fa_draw *draw, const float *logits, int64_t n,
                      const fa_sample_space *space, double *log_sum, float *highest);

/* Whether the draw changes logits, and whether it has a use for random bits. */
int fa_draw_changes(const fa_draw *draw);
int fa_draw_counts(const fa_draw *draw);
static inline int fa_draw_is_random(const fa_draw *draw) { return draw->given < 0 && !draw->beam && draw->temperature > 0; }

#endif
