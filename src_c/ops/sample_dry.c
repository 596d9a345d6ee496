/* SPDX-License-Identifier: MIT */
/*
 * Penalties on tokens that would make a repetition longer ("don't repeat yourself"; its author is p-e-w). Everything is
 * counted from the end of the text: token i is the one i places before the last.
 */
#include "sample.h"

/* How many tokens before the end, and before a place k tokens from it, are the same: lengths[k], 0 < k < n. Each is found from
 * those of places nearer to the end, so that no token is compared with more than two others (Gusfield's Z). */
static void fa_common_ends(int32_t *lengths, const int64_t *last, int64_t n) {
    int64_t from = 0, to = 0;
    for (int64_t k = 1; k < n; k++) {
        int64_t m = 0;
        if (k < to) m = lengths[k - from] < to - k ? lengths[k - from] : to - k;
        while (k + m < n && last[-m] == last[-(k + m)]) m++;
        if (k + m > to) from = k, to = k + m;
        lengths[k] = (int32_t)m;
    }
}

/* The first breaker that begins with `token` or a later one. */
static int64_t fa_first_breaker(const fa_dry *dry, int64_t token) {
    int64_t low = 0, high = dry->n_heads;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (dry->heads[middle] < token) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* The tokens behind the last breaker: none that comes before counts as repeated. Of breakers that begin with one token the
 * longest counts. */
static int64_t fa_behind_breaker(const fa_dry *dry, const int64_t *last, int64_t n) {
    if (!dry->n_heads) return n;
    for (int64_t i = 0; i < n; i++) {
        int64_t longest = -1;
        for (int64_t b = fa_first_breaker(dry, last[-i]); b < dry->n_heads && dry->heads[b] == last[-i]; b++) {
            const int64_t *tail = dry->tails + (b ? dry->ends[b - 1] : 0);
            const int64_t size = dry->ends[b] - (b ? dry->ends[b - 1] : 0);
            int64_t same = 0;
            if (size > i) continue;
            while (same < size && tail[same] == last[same + 1 - i]) same++;
            if (same == size && size > longest) longest = size;
        }
        if (longest >= 0) return i - longest;
    }
    return n;
}

static int fa_breaks_alone(const fa_dry *dry, int64_t token) {
    for (int64_t b = fa_first_breaker(dry, token); b < dry->n_heads && dry->heads[b] == token; b++)
        if (dry->ends[b] == (b ? dry->ends[b - 1] : 0)) return 1;
    return 0;
}

void fa_dry_penalise(float *x, int64_t n, const fa_draw *draw, uint32_t *counts, int32_t *repeats) {
    const fa_dry *dry = &draw->dry;
    const int64_t window = fa_dry_window(draw), *last = draw->tokens + draw->n_tokens - 1;
    const int64_t limit = fa_behind_breaker(dry, last, window);
    if (limit < dry->allowed) return;
    fa_common_ends(repeats, last, window);
    for (int64_t k = 1; k < window; k++)
        if (last[1 - k] < n) counts[last[1 - k]] = 0;
    for (int64_t k = 1; k < window; k++) { /* token k - 1 came behind what is repeated */
        const int64_t length = repeats[k] < limit ? repeats[k] : limit;
        if (length < dry->allowed || last[1 - k] >= n) continue;
        uint32_t *longest = &counts[last[1 - k]]; /* and 1, so that 0 is none */
        if (*longest < (uint32_t)length + 1) *longest = (uint32_t)length + 1;
    }
    for (int64_t k = 1; k < window; k++) {
        const int64_t token = last[1 - k];
        if (token >= n || !counts[token]) continue;
        const double penalty = dry->multiplier * fa_power(dry->base, (int64_t)counts[token] - 1 - dry->allowed);
        counts[token] = 0; /* once for each id */
        if (x[token] > -__builtin_inff() && !fa_breaks_alone(dry, token))
            x[token] = fa_kept_finite(x[token] - fa_kept_finite((float)(penalty > FLT_MAX ? FLT_MAX : penalty)));
    }
}
