/* SPDX-License-Identifier: MIT */
/*
 * Drawing tokens, in parts: sample.c checks and cuts into rows, sample_row.c goes from logits to a token, sample_cut.c
 * finds where the best ones end, sample_random.c has the random bits, logarithms and powers; sample_dry.c penalises what
 * repeats, sample_keep.c leaves out tokens by the entropy of all or by chance, sample_mirostat.c keeps to a surprise.
 */
#ifndef FA_SAMPLE_H
#define FA_SAMPLE_H

#include <float.h>
#include <string.h>

#include "../kernels/kernels.h"

#define FA_LN2 0x1.62e42fefa39efp-1
#define FA_SAMPLE_ONE ((uint64_t)1 << 42) /* the weight 1, which the highest logit has */

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

/* 64 of them: `use` is 0 for the token, 1 for xtc. */
static inline uint64_t fa_random_bits(const fa_draw *draw, uint32_t use) {
    const uint32_t counter[4] = {draw->which, draw->step, use, 0}, key[2] = {(uint32_t)draw->seed, (uint32_t)(draw->seed >> 32)};
    uint32_t words[4];
    fa_philox(words, counter, key);
    return (uint64_t)words[1] << 32 | words[0];
}

/* ln x of a normal x above 0, e^x, and x^n of x at least 0; off by less than a unit in the last place, e^x by two, and x^n
 * by n. Beyond the largest double they are infinity. */
double fa_log(double x);
double fa_exp(double x);
double fa_power(double x, int64_t n);

/* What a row works in: arrays of V, those that no draw of the call needs NULL. */
typedef struct fa_sample_space {
    float *best;             /* maxima of blocks */
    float *logits, *w, *x, *x_left, *w_left;
    int32_t *ids;
    uint32_t *counts;
    int32_t *repeats;        /* as many as a draw looks back for repetitions */
} fa_sample_space;

/* What is left of a row: n ids, ascending, NULL for 0 to n - 1; their logits, and their weights in the space's w, as c, which
 * is log2(e) / temperature, and the highest logit give them. */
typedef struct fa_left {
    const int32_t *ids;
    const float *x;
    int64_t n;
    float c, max;
} fa_left;

/* Those of more than `units` and at least the weight `least` stay. */
void fa_left_above(fa_left *left, uint64_t units, double least, const fa_sample_space *space);
/* The best k stay, k < n of a whole row; they have no weights yet. */
void fa_left_best(fa_left *left, int64_t k, const fa_sample_space *space);
/* Where the random bits of the draw are among the weights that are left. */
int64_t fa_left_draw(const fa_left *left, const fa_draw *draw, const fa_sample_space *space);

/* The steps of these names; `left` gets what stays. */
void fa_left_typical(fa_left *left, double share, const fa_sample_space *space);
void fa_left_epsilon(fa_left *left, double least, const fa_sample_space *space);
void fa_left_eta(fa_left *left, double eta, const fa_sample_space *space);
void fa_left_xtc(fa_left *left, const fa_draw *draw, const fa_sample_space *space);

/* The token of a whole row whose weights are not there yet, and the new *most of the draw. */
int64_t fa_mirostat_draw(const fa_sample_kernels *kernels, const fa_draw *draw, fa_left left, const fa_sample_space *space);

/* The penalties of a draw's fa_dry, on logits x [n]. counts [n], repeats [fa_dry_window]. */
void fa_dry_penalise(float *x, int64_t n, const fa_draw *draw, uint32_t *counts, int32_t *repeats);

static inline float fa_kept_finite(float x) { return x > FLT_MAX ? FLT_MAX : x < -FLT_MAX ? -FLT_MAX : x; }

static inline uint64_t fa_sum_units(const float *w, int64_t n) {
    uint64_t sum = 0;
    for (int64_t i = 0; i < n; i++) sum += fa_units(w[i]);
    return sum;
}

/* The least whole number that is not below share * total, at least 1; share in [0, 1), of which what is below 2^-63 is cut. */
static inline uint64_t fa_share(double share, uint64_t total) {
    const uint64_t part = (uint64_t)(share * 0x1p63);
    const uint64_t units = (uint64_t)(((unsigned __int128)part * total + (((uint64_t)1 << 63) - 1)) >> 63);
    return units ? units : 1;
}

/* The token of a row of n logits, or -1 and -2 as fa_sample has them; space->logits then has the scores of a beam. *log_sum gets ln sum exp(logit - highest) of the raw
 * logits, *highest that one, where the draw asks for log probabilities. */
int64_t fa_sample_row(const fa_sample_kernels *kernels, const fa_draw *draw, const float *logits, int64_t n,
                      const fa_sample_space *space, double *log_sum, float *highest);

/* Whether the draw changes logits, and whether it has a use for random bits. */
int fa_draw_changes(const fa_draw *draw);
int fa_draw_counts(const fa_draw *draw);
/* How many tokens it looks back for repetitions. */
static inline int64_t fa_dry_window(const fa_draw *draw) {
    if (draw->dry.multiplier == 0) return 0;
    const int64_t n = draw->n_tokens < draw->dry.last ? draw->n_tokens : draw->dry.last;
    return n <= draw->dry.allowed ? 0 : n < INT32_MAX ? n : INT32_MAX;
}
static inline int fa_draw_is_random(const fa_draw *draw) { return draw->given < 0 && !draw->beam && draw->temperature > 0; }

#endif
