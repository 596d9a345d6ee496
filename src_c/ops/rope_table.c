/* SPDX-License-Identifier: MIT */
/*
 * Cosines and sines of position * frequency in plain double precision: additions and multiplications alone, in one
 * order, so that they are the same on every machine.
 *
 * Frequencies are in turns, so that the range reduction is the fractional part of an exact product. A position is cut
 * into two halves of 26 bits and a frequency comes in pieces of 26 bits: their products are exact, whole turns are taken off
 * each exactly, and what is left is added with its rounding errors kept. With x = turns - q / 4 in [-1/8, 1/8], Taylor
 * series in 2 pi x, exact to 1e-17, give sine and cosine, which the quadrant q swaps and signs.
 *
 * Why not float products and reduction by pi: at position 2^20 a float32 angle is wrong by a twentieth of a radian.
 */
#include "../kernels/kernels.h"
#include "../view.h"
#include "parallel.h"

#define FA_TABLE_TASK 4096 /* angles of one task, about */
#define FA_HALF_BITS 26
#define FA_POSITION_LIMIT ((int64_t)1 << 52)

typedef struct fa_table_job {
    const fa_view *cos, *sin, *positions;
    const double *turns;
    double factor;
    int64_t step;
} fa_table_job;

/* To nearest, for |x| < 2^51. */
static double nearest(double x) { return (x + 0x1.8p52) - 0x1.8p52; }

/* sum + error += x, all but a final rounding of `error` exact. */
static void add(double *sum, double *error, double x) {
    const double total = *sum + x, part = total - *sum;
    *error += (*sum - (total - part)) + (x - part);
    *sum = total;
}

static double sine(double z) { /* |z| <= pi / 4 */
    const double s = z * z;
    double p = -1.0 / 1307674368000.0; /* 15! */
    p = p * s + 1.0 / 6227020800.0;
    p = p * s - 1.0 / 39916800.0;
    p = p * s + 1.0 / 362880.0;
    p = p * s - 1.0 / 5040.0;
    p = p * s + 1.0 / 120.0;
    p = p * s - 1.0 / 6.0;
    return z + z * s * p;
}

static double cosine(double z) {
    const double s = z * z;
    double p = 1.0 / 20922789888000.0; /* 16! */
    p = p * s - 1.0 / 87178291200.0;
    p = p * s + 1.0 / 479001600.0;
    p = p * s - 1.0 / 3628800.0;
    p = p * s + 1.0 / 40320.0;
    p = p * s - 1.0 / 720.0;
    p = p * s + 1.0 / 24.0;
    p = p * s - 0.5;
    return 1.0 + s * p;
}

static void fa_table_row(const fa_table_job *job, int64_t position, float *cos, float *sin) {
    const int64_t high_part = position / ((int64_t)1 << FA_HALF_BITS);
    const double low = (double)(position - high_part * ((int64_t)1 << FA_HALF_BITS));
    const double high = (double)high_part * (double)((int64_t)1 << FA_HALF_BITS);
    for (int64_t j = 0; j < job->cos->shape[1]; j++) {
        double sum = 0, error = 0;
        for (int piece = 0; piece < 4; piece++) {
            const double x = low * job->turns[4 * j + piece];
            add(&sum, &error, x - nearest(x));
        }
        if (high != 0)
            for (int piece = 0; piece < 4; piece++) {
                const double x = high * job->turns[4 * j + piece];
                add(&sum, &error, x - nearest(x));
            }
        const double quarter = nearest(4 * sum);
        const double x = (sum - 0.25 * quarter) + error;
        const double z = x * 0x1.921fb54442d18p+2; /* 2 pi */
        const double s = sine(z) * job->factor, c = cosine(z) * job->factor;
        const int q = (int)((int64_t)quarter & 3);
        cos[j] = (float)(q == 0 ? c : q == 1 ? -s : q == 2 ? -c : s);
        sin[j] = (float)(q == 0 ? s : q == 1 ? c : q == 2 ? -s : -c);
    }
}

static int64_t fa_position(const fa_view *positions, int64_t i) {
    return *(const int64_t *)((const char *)positions->data + i * positions->stride[0]);
}

static void fa_table_task(void *arg, int64_t task, int worker) {
    const fa_table_job *job = arg;
    const int64_t n = job->positions->shape[0], end = n - task * job->step < job->step ? n : (task + 1) * job->step;
    (void)worker;
    for (int64_t i = task * job->step; i < end; i++)
        fa_table_row(job, fa_position(job->positions, i), (float *)job->cos->data + i * fa_estride(job->cos, 0),
                     (float *)job->sin->data + i * fa_estride(job->sin, 0));
}

/* Finite, at most half a turn, the first three with 26 significant bits: the product with 26 more is exact. */
static int fa_turns_fit(const double *turns, int64_t half) {
    for (int64_t i = 0; i < 4 * half; i++) {
        const double x = turns[i];
        if (!(x >= -0.5 && x <= 0.5)) return 0;
        if (i % 4 == 3) continue;
        const double far = x * (double)(1 << 27);
        if ((x + far) - far != x) return 0;
    }
    return 1;
}

fa_status fa_rope_table(const fa_ctx *ctx, const fa_view *cos, const fa_view *sin, const fa_view *positions,
                        const double *turns, double factor) {
    int64_t count;
    fa_status status = fa_check_f32(cos, 2);
    if (status == FA_OK) status = fa_check_f32(sin, 2);
    if (status != FA_OK) return status;
    if (positions->dtype != FA_I64) return FA_ERR_DTYPE;
    if (positions->ndim != 1 || positions->shape[0] < 0) return FA_ERR_SHAPE;
    if (positions->stride[0] % 8 || (uintptr_t)positions->data % 8) return FA_ERR_STRIDE;
    const int64_t n = positions->shape[0], half = cos->shape[1];
    if (cos->shape[0] != n || sin->shape[0] != n || sin->shape[1] != half) return FA_ERR_SHAPE;
    if (__builtin_mul_overflow(n, half, &count) || half > PTRDIFF_MAX / 32) return FA_ERR_MEMORY;
    if (count == 0) return FA_OK;
    if (!turns || !fa_turns_fit(turns, half) || !(factor > -0x1p100 && factor < 0x1p100)) return FA_ERR_VALUE;
    for (int64_t i = 0; i < n; i++) {
        const int64_t position = fa_position(positions, i);
        if (position < -FA_POSITION_LIMIT || position > FA_POSITION_LIMIT) return FA_ERR_VALUE;
    }
    fa_table_job job = {cos, sin, positions, turns, factor, half < FA_TABLE_TASK ? FA_TABLE_TASK / half : 1};
    const fa_ctx worth = fa_ctx_for_work(ctx, count < INT64_MAX / 1024 ? 1024 * count : count);
    return fa_parallel_for(&worth, (n - 1) / job.step + 1, fa_table_task, &job);
}
