/* SPDX-License-Identifier: MIT */
/*
 * Where the best of many end, by their number or by their weight, without sorting them: sums over the highest 11 bits of
 * their order, then over the next 11 of those that agree in the first, then over the last 10. All sums are of integers, so
 * nothing depends on the order they are formed in; and however the numbers lie, each is looked at a few times.
 */
#include "sample.h"

#define CUT_BITS 11
#define CUT_PLACES (1 << CUT_BITS)

fa_cut fa_sample_cut(const float *x, const float *w, int64_t n, uint64_t share, float *x_left, float *w_left) {
    /* the last 11 bits overlap those before by one, in which all that are left agree */
    static const int shifts[3] = {32 - CUT_BITS, 32 - 2 * CUT_BITS, 0};
    uint64_t sums[CUT_PLACES], before = 0;
    uint32_t order = 0;
    for (int level = 0; level < 3; level++) {
        const int shift = shifts[level];
        memset(sums, 0, sizeof sums);
        if (w)
            for (int64_t i = 0; i < n; i++) sums[fa_order(x[i]) >> shift & (CUT_PLACES - 1)] += fa_units(w[i]);
        else
            for (int64_t i = 0; i < n; i++) sums[fa_order(x[i]) >> shift & (CUT_PLACES - 1)]++;
        uint32_t place = CUT_PLACES - 1;
        while (place > 0 && before + sums[place] < share) before += sums[place--];
        int64_t left = 0; /* no branches: which ones stay cannot be foretold */
        if (w)
            for (int64_t i = 0; i < n; i++) {
                const int here = (fa_order(x[i]) >> shift & (CUT_PLACES - 1)) == place;
                x_left[left] = x[i]; /* which may be x: never ahead of what is read */
                w_left[left] = w[i];
                left += here;
            }
        else
            for (int64_t i = 0; i < n; i++) {
                const int here = (fa_order(x[i]) >> shift & (CUT_PLACES - 1)) == place;
                x_left[left] = x[i];
                left += here;
            }
        order |= place << shift;
        x = x_left, n = left;
        if (w) w = w_left;
    }
    const uint64_t each = w ? fa_units(w[0]) : 1;
    return (fa_cut){order, each ? (int64_t)((share - before - 1) / each) + 1 : n};
}
