/* SPDX-License-Identifier: MIT */
/* Biases by relative position: checks, then heads and blocks of rows in parallel. */
#include <float.h>

#include "../kernels/kernels.h"
#include "../view.h"
#include "parallel.h"

#define FA_RELATIVE_ROWS 32 /* rows of one task: they share the lines of p2c */

typedef struct fa_relative_job {
    const fa_kernels *kernels;
    const fa_view *out, *c2p, *p2c;
    fa_relative first; /* positions, columns and scale of every task */
    int64_t blocks;
} fa_relative_job;

static void fa_relative_task(void *arg, int64_t task, int worker) {
    const fa_relative_job *job = arg;
    const int64_t h = task / job->blocks, i = task % job->blocks * FA_RELATIVE_ROWS, left = job->out->shape[1] - i;
    fa_relative part = job->first;
    (void)worker;
    part.rows = left < FA_RELATIVE_ROWS ? left : FA_RELATIVE_ROWS;
    part.out = fa_row_at(job->out, h, i, 0);
    part.q_at += i;
    if (job->c2p) part.c2p = fa_row_at(job->c2p, h, i, 0);
    if (job->p2c) part.p2c = fa_row_at(job->p2c, h, 0, 0);
    job->kernels->relative.gather(&part);
}

static fa_status fa_check_numbers(const fa_view *view, int32_t dtype) {
    if (view->dtype != dtype) return FA_ERR_DTYPE;
    if (view->ndim != 1 || view->shape[0] < 0) return FA_ERR_SHAPE;
    if ((uintptr_t)view->data % (uintptr_t)fa_itemsize(dtype)) return FA_ERR_STRIDE;
    return view->shape[0] > 1 && view->stride[0] != fa_itemsize(dtype) ? FA_ERR_STRIDE : FA_OK;
}

/* The smallest and the largest of n numbers, n >= 1. */
static void fa_range_of(const int64_t *x, int64_t n, int64_t *least, int64_t *most) {
    *least = *most = x[0];
    for (int64_t i = 1; i < n; i++) {
        if (x[i] < *least) *least = x[i];
        if (x[i] > *most) *most = x[i];
    }
}

static fa_status fa_check_product(const fa_view *product, int64_t heads, int64_t rows, int64_t *n) {
    if (!product) return FA_OK;
    fa_status status = fa_check_f32(product, 3);
    if (status != FA_OK) return status;
    if (product->shape[0] != heads || product->shape[1] != rows) return FA_ERR_SHAPE;
    if (*n >= 0 && product->shape[2] != *n) return FA_ERR_SHAPE;
    *n = product->shape[2];
    return FA_OK;
}

fa_status fa_disentangled_bias(const fa_ctx *ctx, const fa_view *out, const fa_view *c2p, const fa_view *p2c,
                               const fa_view *q_positions, const fa_view *k_positions, const fa_view *columns, float scale) {
    int64_t n = -1, q_least, q_most, k_least, k_most;
    fa_status status = fa_check_f32(out, 3);
    if (status != FA_OK) return status;
    const int64_t heads = out->shape[0], rows = out->shape[1], keys = out->shape[2];
    if (!c2p && !p2c) return FA_ERR_VALUE;
    status = fa_check_product(c2p, heads, rows, &n);
    if (status == FA_OK) status = fa_check_product(p2c, heads, keys, &n);
    if (status == FA_OK) status = fa_check_numbers(q_positions, FA_I64);
    if (status == FA_OK) status = fa_check_numbers(k_positions, FA_I64);
    if (status == FA_OK) status = fa_check_numbers(columns, FA_I32);
    if (status != FA_OK) return status;
    if (q_positions->shape[0] != rows || k_positions->shape[0] != keys || columns->shape[0] % 2 == 0) return FA_ERR_SHAPE;
    if (!(scale >= -FLT_MAX && scale <= FLT_MAX)) return FA_ERR_VALUE;
    if (heads == 0 || rows == 0 || keys == 0) return FA_OK;
    fa_relative_job job = {.kernels = ctx->kernels, .out = out, .c2p = c2p, .p2c = p2c};
    const int64_t reach = columns->shape[0] / 2;
    job.first = (fa_relative){.q_at = q_positions->data, .k_at = k_positions->data, .scale = scale, .keys = keys,
                              .columns = (const int32_t *)columns->data + reach, .os = fa_estride(out, 1)};
    if (c2p) job.first.cs = fa_estride(c2p, 1);
    if (p2c) job.first.ps = fa_estride(p2c, 1);
    fa_range_of(job.first.q_at, rows, &q_least, &q_most);
    fa_range_of(job.first.k_at, keys, &k_least, &k_most);
    /* positions are bounded before they are subtracted */
    if (q_least < 0 || k_least < 0 || q_most - k_least > reach || k_most - q_least > reach) return FA_ERR_VALUE;
    for (int64_t d = k_most - q_least; d >= k_least - q_most; d--)
        if (job.first.columns[-d] < 0 || job.first.columns[-d] >= n) return FA_ERR_VALUE;
    job.blocks = (rows - 1) / FA_RELATIVE_ROWS + 1;
    const fa_ctx worth = fa_ctx_for_work(ctx, heads * rows * keys); /* the elements of out, which exist */
    return fa_parallel_for(&worth, heads * job.blocks, fa_relative_task, &job);
}
