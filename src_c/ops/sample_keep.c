/* SPDX-License-Identifier: MIT */
/*
 * Steps that leave out tokens by what is likely beside them: by the entropy of all (typical, epsilon, eta), and the likeliest
 * ones by chance (xtc). Sums that are not of integers are formed by ascending id, in one thread.
 */
#include "sample.h"

/* The mean of how far logits are below the highest, by weight; all weights that are left are above 0. */
static double fa_mean_distance(const fa_left *left, uint64_t total, const fa_sample_space *space) {
    double sum = 0;
    for (int64_t i = 0; i < left->n; i++) sum += (double)(int64_t)fa_units(space->w[i]) * ((double)left->max - (double)left->x[i]);
    return sum / (double)total;
}

/* Meila et al., "Locally typical sampling" (2022): the surprise of a token is its distance over the temperature and something
 * that all have in common, and the entropy is the mean of that. So what orders tokens is their distance from the mean one. */
void fa_left_typical(fa_left *left, double share, const fa_sample_space *space) {
    fa_left_above(left, 0, 0, space);
    const uint64_t total = fa_sum_units(space->w, left->n);
    const double mean = fa_mean_distance(left, total, space), max = (double)left->max;
    float *nearness = space->x_left;
    for (int64_t i = 0; i < left->n; i++) nearness[i] = (float)-__builtin_fabs(max - (double)left->x[i] - mean);
    const fa_cut cut = fa_sample_cut(nearness, space->w, left->n, fa_share(share, total), nearness, space->w_left);
    int64_t kept = 0;
    for (int64_t i = 0; i < left->n; i++) {
        const int in = fa_order((float)-__builtin_fabs(max - (double)space->x[i] - mean)) >= cut.order;
        space->ids[kept] = space->ids[i];
        space->x[kept] = space->x[i];
        space->w[kept] = space->w[i];
        kept += in;
    }
    left->n = kept;
}

/* Those of at least `units`, and those of the highest weight, which typical may have left below that of the highest logit. */
static void fa_left_from(fa_left *left, uint64_t units, const fa_sample_space *space) {
    uint64_t most = 1;
    for (int64_t i = 0; i < left->n; i++) {
        const uint64_t here = fa_units(space->w[i]);
        most = here > most ? here : most;
    }
    fa_left_above(left, (units < most ? units : most) - 1, 0, space);
}

static uint64_t fa_units_of(double probability, uint64_t total) {
    return probability < 1 ? fa_share(probability, total) : total;
}

void fa_left_epsilon(fa_left *left, double least, const fa_sample_space *space) {
    fa_left_from(left, fa_units_of(least, fa_sum_units(space->w, left->n)), space);
}

/* Hewitt, Manning, Liang, "Truncation sampling as language model desmoothing" (2022). */
void fa_left_eta(fa_left *left, double eta, const fa_sample_space *space) {
    fa_left_above(left, 0, 0, space);
    const uint64_t total = fa_sum_units(space->w, left->n);
    const double entropy = fa_mean_distance(left, total, space) * (double)left->c * FA_LN2 + fa_log((double)total * 0x1p-42);
    const double other = fa_exp(0.5 * fa_log(eta) - entropy);
    fa_left_from(left, fa_units_of(other < eta ? other : eta, total), space);
}

void fa_left_xtc(fa_left *left, const fa_draw *draw, const fa_sample_space *space) {
    if (!((double)(fa_random_bits(draw, 1) >> 11) * 0x1p-53 < draw->xtc_probability)) return;
    const uint64_t least = fa_units_of(draw->xtc_threshold, fa_sum_units(space->w, left->n));
    int64_t likely = 0, stays = -1, kept = 0;
    for (int64_t i = 0; i < left->n; i++)
        if (fa_units(space->w[i]) >= least) {
            likely++;
            if (stays < 0 || left->x[i] <= left->x[stays]) stays = i;
        }
    if (likely < 2) return;
    for (int64_t i = 0; i < left->n; i++) {
        const int in = (fa_units(space->w[i]) < least) | (i == stays);
        space->ids[kept] = left->ids ? left->ids[i] : (int32_t)i;
        space->x[kept] = left->x[i];
        space->w[kept] = space->w[i];
        kept += in;
    }
    left->ids = space->ids, left->x = space->x, left->n = kept;
}
