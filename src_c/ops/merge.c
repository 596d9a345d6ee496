/* SPDX-License-Identifier: MIT */
/* Merging partial attention results: sixteen rows at a time share one computation of weights. */
#include "../arena.h"
#include "../kernels/kernels.h"
#include "../view.h"
#include "parallel.h"

#define FA_MERGE_TASK 32768 /* elements read by one task, about */

typedef struct fa_merge_job {
    const fa_merge_kernels *kernels;
    const fa_view *out, *lse, *outs, *lses;
    int64_t n, rows, step; /* sides, rows in all, rows of a task (a multiple of 16) */
    char *ws;
    size_t per_worker;
} fa_merge_job;

/* Scratch of one worker: the lse of 16 rows of every side, which become weights, and where a row's sides lie. */
static size_t fa_merge_carve(char *base, int64_t n, float **weights, const void ***sides, int *overflow) {
    fa_arena arena = {.base = base};
    *weights = fa_arena_take(&arena, (size_t)n, 16 * sizeof(float));
    *sides = fa_arena_take(&arena, (size_t)n, sizeof(void *));
    *overflow = arena.overflow;
    return arena.used;
}

fa_status fa_merge_attention_workspace(const fa_ctx *ctx, int64_t n, size_t *bytes) {
    float *weights;
    const void **sides;
    int overflow;
    if (n < 1) return FA_ERR_VALUE;
    const size_t one = fa_merge_carve(NULL, n, &weights, &sides, &overflow);
    if (overflow || __builtin_mul_overflow(one, (size_t)fa_team_max(ctx, INT64_MAX), bytes)) return FA_ERR_MEMORY;
    return FA_OK;
}

typedef struct fa_row3 { int64_t i, j, k; } fa_row3;

static fa_row3 fa_row_of(const fa_view *out, int64_t row) {
    fa_row3 at = {row / out->shape[2] / out->shape[1], row / out->shape[2] % out->shape[1], row % out->shape[2]};
    return at;
}

static void fa_merge_task(void *arg, int64_t task, int worker) {
    const fa_merge_job *job = arg;
    const int64_t end = job->rows - task * job->step < job->step ? job->rows : (task + 1) * job->step;
    float *weights, total[16];
    const void **sides;
    int overflow;
    fa_merge_carve(job->ws + (size_t)worker * job->per_worker, job->n, &weights, &sides, &overflow);
    for (int64_t row = task * job->step; row < end; row += 16) {
        const int rows = end - row < 16 ? (int)(end - row) : 16;
        for (int r = 0; r < 16; r++) {
            const fa_row3 at = fa_row_of(job->out, row + (r < rows ? r : 0));
            for (int64_t i = 0; i < job->n; i++) weights[16 * i + r] = *(const float *)fa_row_at(&job->lses[i], at.i, at.j, at.k);
        }
        job->kernels->weigh(weights, total, job->n);
        for (int r = 0; r < rows; r++) {
            const fa_row3 at = fa_row_of(job->out, row + r);
            for (int64_t i = 0; i < job->n; i++) sides[i] = fa_row_at(&job->outs[i], at.i, at.j, at.k);
            job->kernels->combine(fa_row_at(job->out, at.i, at.j, at.k), job->out->dtype, sides, weights + r, job->n, job->out->shape[3]);
            *(float *)fa_row_at(job->lse, at.i, at.j, at.k) = total[r];
        }
    }
}

static fa_status fa_merge_check_lse(const fa_view *lse, const fa_view *out) {
    if (lse->dtype != FA_F32) return FA_ERR_DTYPE;
    if (lse->ndim != 3) return FA_ERR_SHAPE;
    for (int i = 0; i < 3; i++) {
        if (lse->shape[i] != out->shape[i]) return FA_ERR_SHAPE;
        if (lse->stride[i] % 4) return FA_ERR_STRIDE;
    }
    return (uintptr_t)lse->data % 4 ? FA_ERR_STRIDE : FA_OK;
}

fa_status fa_merge_attention(const fa_ctx *ctx, const fa_view *out, const fa_view *lse, int64_t n, const fa_view *outs,
                   const fa_view *lses, void *ws, size_t ws_bytes) {
    size_t needed = 0;
    int64_t rows = 1, count;
    fa_status status = fa_check_view(out, 4, FA_FLOATS);
    if (status == FA_OK) status = fa_merge_check_lse(lse, out);
    if (status == FA_OK) status = fa_merge_attention_workspace(ctx, n, &needed);
    if (status != FA_OK) return status;
    for (int64_t i = 0; i < n; i++) {
        status = fa_check_view(&outs[i], 4, FA_IS(out->dtype));
        if (status == FA_OK) status = fa_merge_check_lse(&lses[i], out);
        if (status != FA_OK) return status;
        for (int d = 0; d < 4; d++)
            if (outs[i].shape[d] != out->shape[d]) return FA_ERR_SHAPE;
    }
    if (!ws || (uintptr_t)ws % FA_ALIGN || ws_bytes < needed) return FA_ERR_WORKSPACE;
    for (int i = 0; i < 3; i++)
        if (out->shape[i] == 0) return FA_OK;
    for (int i = 0; i < 3; i++)
        if (__builtin_mul_overflow(rows, out->shape[i], &rows)) return FA_ERR_MEMORY;
    if (__builtin_mul_overflow(rows, out->shape[3] + 1, &count) || __builtin_mul_overflow(count, n, &count) || rows > INT64_MAX - 64)
        return FA_ERR_MEMORY;
    fa_merge_job job = {&ctx->kernels->merge, out, lse, outs, lses, n, rows, 16, ws, needed / (size_t)fa_team_max(ctx, INT64_MAX)};
    const int64_t of_16 = count / rows * 16;
    if (of_16 < FA_MERGE_TASK) job.step = FA_MERGE_TASK / of_16 * 16;
    const fa_ctx worth = fa_ctx_for_work(ctx, count < INT64_MAX / 16 ? 16 * count : count);
    return fa_parallel_for(&worth, (rows - 1) / job.step + 1, fa_merge_task, &job);
}
