/* SPDX-License-Identifier: MIT */
/*
 * Columns of distances. Those that share an embedding by their logarithm have bucket m + k with
 *
 *     k = ceil(x),  x = (m - 1) log(d / m) / log(F / m),  m = span / 2, F = max_distance - 1
 *
 * x is computed in double precision, with an error below 1e-11. Where it comes closer than NEAR to a whole number, exact
 * integers decide: x <= k if and only if d^(m-1) m^k <= F^k m^(m-1). So no machine's logarithm shows in the result.
 */
#include "../view.h"
#include "distances.h"
#include "parallel.h"

#define MOST_BUCKETS 2048
#define MOST_DISTANCE ((int64_t)1 << 24)
#define NEAR 1e-9
#define WORDS 800 /* of a product of at most 1026 numbers below 2^24, with room to spare */

/* ---- exactly ----------------------------------------------------------------------------------------------------- */

typedef struct big {
    int n; /* words in use, the lowest first */
    uint32_t word[WORDS];
} big;

/* x * factor^power; factor below 2^32. */
static void multiply(big *x, int64_t factor, int64_t power) {
    for (; power > 0; power--) {
        uint64_t carry = 0;
        for (int i = 0; i < x->n; i++) {
            carry += x->word[i] * (uint64_t)factor;
            x->word[i] = (uint32_t)carry;
            carry >>= 32;
        }
        if (carry && x->n < WORDS) x->word[x->n++] = (uint32_t)carry;
    }
}

static int at_most(const big *x, const big *y) {
    if (x->n != y->n) return x->n < y->n;
    for (int i = x->n - 1; i >= 0; i--)
        if (x->word[i] != y->word[i]) return x->word[i] < y->word[i];
    return 1;
}

/* Whether d^(m-1) m^k <= F^k m^(m-1), which are known to be about equal. */
static int within(int64_t d, int64_t m, int64_t furthest, int64_t k) {
    big left = {1, {1}}, right = {1, {1}};
    multiply(&left, d, m - 1);
    multiply(&left, m, k - (m - 1));
    multiply(&right, furthest, k);
    multiply(&right, m, m - 1 - k);
    return at_most(&left, &right);
}

/* ---- nearly ------------------------------------------------------------------------------------------------------ */

/* log(a / b) of whole numbers a >= b > 0: halved until the ratio is near 1, then a series of (a - b) / (a + b) <= 1/5. */
static double log_of_ratio(int64_t over, int64_t under) {
    const double a = (double)over;
    double b = (double)under, halved = 0;
    for (; a > 1.5 * b; b *= 2) halved++;
    const double z = (a - b) / (a + b), square = z * z;
    double sum = 0;
    for (int i = 27; i > 0; i -= 2) sum = sum * square + 1.0 / i;
    return halved * 0x1.62e42fefa39efp-1 + 2 * z * sum;
}

/* Of a distance of at least 0; all beyond the last bucket have number `span`. unit: (m - 1) / log(F / m). */
static int64_t bucket_of(int64_t d, int64_t span, int64_t max_distance, double unit) {
    const int64_t m = span / 2;
    if (max_distance == 0 || d <= m) return d < span ? d : span;
    if (m == 1) return 1; /* the exponent is 0: all further distances share the bucket */
    const double x = log_of_ratio(d, m) * unit;
    if (x > (double)(span - m) + 0.5) return span;
    const int64_t nearest = (int64_t)(x + 0.5);
    const double off = x - (double)nearest;
    int64_t k = (int64_t)x + 1;
    if (off < NEAR && off > -NEAR) k = within(d, m, max_distance - 1, nearest) ? nearest : nearest + 1;
    return m + k < span ? m + k : span;
}

static double unit_of(int64_t span, int64_t max_distance) {
    const int64_t m = span / 2;
    return max_distance > 0 && m > 1 ? (double)(m - 1) / log_of_ratio(max_distance - 1, m) : 0;
}

static int32_t column_of(int64_t bucket, int64_t span) {
    const int64_t column = bucket + span;
    return (int32_t)(column < 0 ? 0 : column < 2 * span ? column : 2 * span - 1);
}

fa_status fa_check_distances(int64_t span, int64_t max_distance) {
    if (span < 1 || span > FA_MOST_REACH) return FA_ERR_VALUE;
    if (max_distance == 0) return FA_OK;
    if (span < 2 || span > MOST_BUCKETS) return FA_ERR_VALUE;
    return max_distance > span / 2 + 1 && max_distance <= MOST_DISTANCE ? FA_OK : FA_ERR_VALUE;
}

int32_t fa_distance_column(int64_t distance, int64_t span, int64_t max_distance) {
    const int64_t bucket = bucket_of(distance < 0 ? -distance : distance, span, max_distance, unit_of(span, max_distance));
    return column_of(distance < 0 ? -bucket : bucket, span);
}

void fa_fill_columns(int32_t *columns, int64_t reach, int64_t span, int64_t max_distance) {
    const double unit = unit_of(span, max_distance);
    int64_t bucket = 0;
    for (int64_t d = 0; d <= reach; d++) {
        if (bucket < span) bucket = bucket_of(d, span, max_distance, unit);
        columns[reach + d] = column_of(bucket, span);
        columns[reach - d] = column_of(-bucket, span);
    }
}

fa_status fa_distance_columns(const fa_view *columns, int64_t span, int64_t max_distance) {
    if (columns->dtype != FA_I32) return FA_ERR_DTYPE;
    if (columns->ndim != 1 || columns->shape[0] < 1 || columns->shape[0] % 2 == 0) return FA_ERR_SHAPE;
    if (columns->shape[0] / 2 > FA_MOST_REACH) return FA_ERR_MEMORY;
    if (columns->shape[0] > 1 && columns->stride[0] != 4) return FA_ERR_STRIDE;
    if ((uintptr_t)columns->data % 4) return FA_ERR_STRIDE;
    const fa_status status = fa_check_distances(span, max_distance);
    if (status != FA_OK) return status;
    fa_fpenv saved;
    fa_fpenv_enter(&saved);
    fa_fill_columns(columns->data, columns->shape[0] / 2, span, max_distance);
    fa_fpenv_leave(&saved);
    return FA_OK;
}
