/* SPDX-License-Identifier: MIT */
/* Copies between storage types. */
#include <string.h>

#include "../kernels/kernels.h"
#include "../view.h"
#include "parallel.h"

#define FA_CONVERT_TASK 65536 /* elements of one task, about: some tens of microseconds from memory */
#define FA_CONVERT_PIECE 1024 /* elements on their way through fp32 at a time */

typedef struct fa_convert_job {
    const fa_convert_kernels *kernels;
    fa_view out, x;            /* dimensions folded, rank 4 */
    int64_t rows, row_step;    /* rows of a task */
    int64_t pieces, piece;     /* parts of one row, elements of a part */
} fa_convert_job;

static void fa_convert_run(const fa_convert_job *job, char *to, const char *from, int64_t n) {
    const int64_t out_item = fa_itemsize(job->out.dtype), x_item = fa_itemsize(job->x.dtype);
    float wide[FA_CONVERT_PIECE];
    for (int64_t j = 0; j < n; j += FA_CONVERT_PIECE) {
        const int64_t count = n - j < FA_CONVERT_PIECE ? n - j : FA_CONVERT_PIECE;
        const float *x = (const float *)(from + j * x_item);
        if (job->x.dtype != FA_F32) {
            job->kernels->widen(wide, from + j * x_item, job->x.dtype, count);
            x = wide;
        }
        job->kernels->narrow(to + j * out_item, job->out.dtype, x, count);
    }
}

static void fa_convert_task(void *arg, int64_t task, int worker) {
    const fa_convert_job *job = arg;
    const int64_t first = task / job->pieces * job->row_step, start = task % job->pieces * job->piece;
    const int64_t end = job->rows - first < job->row_step ? job->rows : first + job->row_step;
    const int64_t left = job->x.shape[3] - start, n = left < job->piece ? left : job->piece;
    (void)worker;
    for (int64_t row = first; row < end; row++) {
        const int64_t k = row % job->x.shape[2], j = row / job->x.shape[2] % job->x.shape[1];
        const int64_t i = row / job->x.shape[2] / job->x.shape[1];
        fa_convert_run(job, (char *)fa_row_at(&job->out, i, j, k) + start * fa_itemsize(job->out.dtype),
                       (char *)fa_row_at(&job->x, i, j, k) + start * fa_itemsize(job->x.dtype), n);
    }
}

/* Makes one dimension of `dim` and the one behind it, where both arrays allow it; `dim` is 1 long then. */
static void fa_fold(fa_view *a, fa_view *b, int dim) {
    const int next = dim + 1;
    fa_view *both[2] = {a, b};
    const int64_t outer = a->shape[dim], inner = a->shape[next];
    if (outer == 1) return;
    for (int v = 0; v < 2; v++) {
        const int64_t whole = inner == 1 ? (next == 3 ? fa_itemsize(both[v]->dtype) : both[v]->stride[dim]) : both[v]->stride[next] * inner;
        if (both[v]->stride[dim] != whole) return;
    }
    for (int v = 0; v < 2; v++) {
        if (inner == 1) both[v]->stride[next] = both[v]->stride[dim];
        both[v]->shape[next] = outer * inner;
        both[v]->shape[dim] = 1;
    }
}

fa_status fa_convert(const fa_ctx *ctx, const fa_view *out, const fa_view *x) {
    fa_status status = fa_check_view(x, 4, FA_FLOATS);
    if (status == FA_OK) status = fa_check_view(out, 4, FA_FLOATS);
    if (status != FA_OK) return status;
    int64_t rows = 1, count;
    for (int i = 0; i < 4; i++)
        if (out->shape[i] != x->shape[i]) return FA_ERR_SHAPE;
    for (int i = 0; i < 4; i++)
        if (x->shape[i] == 0) return FA_OK;
    fa_convert_job job = {.kernels = &ctx->kernels->convert, .out = *out, .x = *x};
    for (int i = 0; i < 3; i++)
        if (__builtin_mul_overflow(rows, x->shape[i], &rows)) return FA_ERR_MEMORY;
    if (__builtin_mul_overflow(rows, x->shape[3], &count) || count > PTRDIFF_MAX / 4) return FA_ERR_MEMORY;
    for (int dim = 2; dim >= 0; dim--) fa_fold(&job.out, &job.x, dim);
    const int64_t n = job.x.shape[3];
    job.rows = count / n;
    job.row_step = n < FA_CONVERT_TASK ? FA_CONVERT_TASK / n : 1;
    job.piece = n < FA_CONVERT_TASK ? n : FA_CONVERT_TASK;
    job.pieces = (n - 1) / job.piece + 1;
    const fa_ctx worth = fa_ctx_for_work(ctx, count < INT64_MAX / 16 ? 16 * count : count);
    return fa_parallel_for(&worth, ((job.rows - 1) / job.row_step + 1) * job.pieces, fa_convert_task, &job);
}
