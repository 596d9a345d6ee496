/* SPDX-License-Identifier: MIT */
/* Mirostat, versions 1 and 2: what is left is chosen such that tokens surprise as much as was asked for. */
#include "sample.h"

#define FA_MIROSTAT_BEST 100 /* logits that tell how fast they fall */

/* The fewest units of a weight whose surprise is at most `most` bits: more than the highest has, if none is. */
static uint64_t fa_units_of_surprise(double most, uint64_t total) {
    const double all = fa_log((double)total);
    uint64_t low = 1, high = FA_SAMPLE_ONE + 1;
    while (low < high) {
        const uint64_t middle = low + (high - low) / 2;
        if (all - fa_log((double)middle) <= most * FA_LN2) high = middle;
        else low = middle + 1;
    }
    return low;
}

/* The exponent of the Zipf distribution nearest to the logits of the best m tokens x. */
static double fa_zipf_exponent(float *x, int64_t m, double per_logit) {
    for (int64_t i = 1; i < m; i++) { /* the highest first */
        const float one = x[i];
        int64_t j = i;
        for (; j > 0 && x[j - 1] < one; j--) x[j] = x[j - 1];
        x[j] = one;
    }
    double both = 0, squares = 0;
    for (int64_t i = 0; i + 1 < m && x[i + 1] > -__builtin_inff(); i++) {
        const double t = fa_log((double)(i + 2) / (double)(i + 1)), fall = ((double)x[i] - (double)x[i + 1]) * per_logit;
        both += t * fall;
        squares += t * t;
    }
    return squares > 0 ? both / squares : 0;
}

/* How many of n tokens to keep so that the surprise is `most`: with s the exponent and e = s - 1,
 * (e 2^most / (1 - n^-e))^(1 / s). */
static int64_t fa_zipf_count(double s, double most, int64_t n) {
    const double e = s - 1, whole = fa_log((double)n), t = e * whole;
    double ratio; /* e / (1 - n^-e), which is above 0 on both sides of e = 0 */
    if (t > -0x1p-20 && t < 0x1p-20) ratio = 1 / (whole * (1 - 0.5 * t));
    else if (t < -700) ratio = 0; /* and its logarithm ln(-e) + t */
    else ratio = e / (1 - fa_exp(-t));
    const double log_ratio = ratio > 0 ? fa_log(ratio) : fa_log(-e) + t;
    const double wanted = log_ratio + most * FA_LN2; /* s times the logarithm of the count */
    if (wanted <= 0) return 1;
    if (wanted >= s * whole) return n;
    const int64_t count = (int64_t)fa_exp(wanted / s);
    return count < 1 ? 1 : count < n ? count : n;
}

static void fa_left_zipf(const fa_draw *draw, fa_left *left, const fa_sample_space *space) {
    const int64_t n = left->n;
    float best[FA_MIROSTAT_BEST];
    fa_left some = *left;
    if (n > FA_MIROSTAT_BEST) fa_left_best(&some, FA_MIROSTAT_BEST, space);
    memcpy(best, some.x, (size_t)some.n * sizeof *best);
    const double s = fa_zipf_exponent(best, some.n, (double)left->c * FA_LN2);
    const int64_t count = n > 1 ? fa_zipf_count(s, *draw->mirostat.most, n) : 1;
    if (count < n) fa_left_best(left, count, space);
}

int64_t fa_mirostat_draw(const fa_sample_kernels *kernels, const fa_draw *draw, fa_left left, const fa_sample_space *space) {
    const fa_mirostat *mirostat = &draw->mirostat;
    if (mirostat->version == 1) fa_left_zipf(draw, &left, space);
    kernels->weigh(space->w, left.x, left.n, left.max, left.c);
    if (mirostat->version == 2) {
        const uint64_t least = fa_units_of_surprise(*mirostat->most, fa_sum_units(space->w, left.n));
        fa_left_above(&left, (least <= FA_SAMPLE_ONE ? least : FA_SAMPLE_ONE) - 1, 0, space);
        if (least > FA_SAMPLE_ONE) left.n = 1; /* the first of the highest, whose weight is 1 */
    }
    const int64_t i = fa_left_draw(&left, draw, space);
    const double all = fa_log((double)fa_sum_units(space->w, left.n)), one = fa_log((double)fa_units(space->w[i]));
    *mirostat->most -= mirostat->rate * ((all - one) / FA_LN2 - mirostat->target);
    return left.ids ? left.ids[i] : i;
}
