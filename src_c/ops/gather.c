/* SPDX-License-Identifier: MIT */
/* Rows side by side: all indices are looked at, then rows of the output are copied in parallel. */
#include <string.h>

#include "../view.h"
#include "parallel.h"

#define TASK_FLOATS (16 << 10) /* that a task copies, if a row has no more */

typedef struct gather_job {
    const fa_view *out, *x, *index;
    int64_t step; /* rows of a task */
    size_t bytes; /* of a row of x */
} gather_job;

static void gather_task(void *arg, int64_t task, int worker) {
    const gather_job *job = arg;
    const int64_t first = task * job->step, left = job->out->shape[0] - first, rows = left < job->step ? left : job->step;
    (void)worker;
    for (int64_t i = first; i < first + rows; i++) {
        char *to = fa_row_at(job->out, i, 0, 0);
        for (int64_t j = 0; j < job->index->shape[1]; j++, to += job->bytes) {
            const int64_t row = fa_i64_at(job->index, i, j);
            if (row < 0) memset(to, 0, job->bytes);
            else memcpy(to, fa_row_at(job->x, row, 0, 0), job->bytes);
        }
    }
}

static fa_status check(const fa_view *out, const fa_view *x, const fa_view *index) {
    fa_status status = fa_check_f32(out, 2);
    int64_t width;
    if (status == FA_OK) status = fa_check_f32(x, 2);
    if (status != FA_OK) return status;
    if (index->dtype != FA_I64) return FA_ERR_DTYPE;
    if (index->ndim != 2 || index->shape[0] < 0 || index->shape[1] < 0) return FA_ERR_SHAPE;
    if (index->stride[0] % 8 || index->stride[1] % 8 || (uintptr_t)index->data % 8) return FA_ERR_STRIDE;
    if (__builtin_mul_overflow(index->shape[1], x->shape[1], &width)) return FA_ERR_SHAPE;
    if (out->shape[0] != index->shape[0] || out->shape[1] != width) return FA_ERR_SHAPE;
    for (int64_t i = 0; i < index->shape[0]; i++)
        for (int64_t j = 0; j < index->shape[1]; j++) {
            const int64_t row = fa_i64_at(index, i, j);
            if (row < -1 || row >= x->shape[0]) return FA_ERR_VALUE;
        }
    return FA_OK;
}

fa_status fa_gather(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *index) {
    const fa_status status = check(out, x, index);
    if (status != FA_OK || out->shape[0] == 0 || out->shape[1] == 0) return status;
    gather_job job = {out, x, index, 1 + TASK_FLOATS / out->shape[1], (size_t)x->shape[1] * sizeof(float)};
    const int64_t tasks = (out->shape[0] - 1) / job.step + 1;
    const fa_ctx worth = fa_ctx_for_work(ctx, out->shape[0] * out->shape[1]); /* the elements of out, which exist */
    return fa_parallel_for(&worth, tasks, gather_task, &job);
}
