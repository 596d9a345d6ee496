/* SPDX-License-Identifier: MIT */
/* Rotary position embedding: checks, then blocks of positions and groups of heads in parallel. */
#include "rope.h"

#include "../view.h"
#include "parallel.h"

#define FA_ROPE_TASK 65536 /* elements of one task, about */
#define FA_ROPE_RUN 256    /* positions of one head at a time: short runs hide the stream from the prefetcher */

fa_status fa_rope_angles_check(const fa_rope_angles *angles, int64_t batch, int64_t seq, int64_t d) {
    const int rank = angles->positions ? 2 : 3;
    const fa_view *cos = angles->cos, *sin = angles->sin;
    fa_status status = fa_check_f32(cos, rank);
    if (status == FA_OK) status = fa_check_f32(sin, rank);
    if (status != FA_OK) return status;
    for (int i = 0; i < rank; i++)
        if (cos->shape[i] != sin->shape[i]) return FA_ERR_SHAPE;
    const int64_t half = cos->shape[rank - 1];
    if (half < 1 || half > d / 2) return FA_ERR_SHAPE;
    if (!angles->positions) return cos->shape[0] == batch && cos->shape[1] == seq ? FA_OK : FA_ERR_SHAPE;
    const fa_view *at = angles->positions;
    if (at->dtype != FA_I64) return FA_ERR_DTYPE;
    if (at->ndim != 2 || at->shape[0] != batch || at->shape[1] != seq) return FA_ERR_SHAPE;
    return at->stride[0] % 8 || at->stride[1] % 8 || (uintptr_t)at->data % 8 ? FA_ERR_STRIDE : FA_OK;
}

fa_status fa_rope_positions_check(const fa_rope_angles *angles) {
    const fa_view *at = angles->positions;
    for (int64_t b = 0; at && b < at->shape[0]; b++)
        for (int64_t s = 0; s < at->shape[1]; s++)
            if ((uint64_t)fa_i64_at(at, b, s) >= (uint64_t)angles->cos->shape[0]) return FA_ERR_VALUE;
    return FA_OK;
}

fa_rope_rows fa_rope_rows_at(const fa_rope_angles *angles, int64_t b, int64_t s) {
    fa_rope_rows rows = {.interleaved = angles->interleaved, .half = angles->cos->shape[angles->cos->ndim - 1]};
    if (angles->positions) {
        rows.cos = angles->cos->data;
        rows.sin = angles->sin->data;
        rows.cs = fa_estride(angles->cos, 0);
        rows.ss = fa_estride(angles->sin, 0);
        rows.ps = angles->positions->stride[1];
        rows.positions = (const int64_t *)((const char *)angles->positions->data + b * angles->positions->stride[0] + s * rows.ps);
    } else {
        rows.cos = fa_row_at(angles->cos, b, s, 0);
        rows.sin = fa_row_at(angles->sin, b, s, 0);
        rows.cs = fa_estride(angles->cos, 1);
        rows.ss = fa_estride(angles->sin, 1);
    }
    return rows;
}

void fa_rope_one_angle(fa_rope_rows *rows, const fa_rope_rows *at) {
    const int64_t row = at->positions ? *at->positions : 0;
    rows->cos = at->cos + row * at->cs;
    rows->sin = at->sin + row * at->ss;
    rows->positions = NULL;
    rows->cs = rows->ss = 0;
}

typedef struct fa_rope_job {
    const fa_rope_kernels *kernels;
    const fa_view *out, *x;
    const fa_rope_angles *angles;
    int64_t step, blocks;       /* positions of a task, blocks of them */
    int64_t head_step, groups;  /* heads of a task, groups of them */
    int heads_inside;     /* heads lie closer together than positions: walk them in the inner loop */
} fa_rope_job;

static void fa_rope_task(void *arg, int64_t task, int worker) {
    const fa_rope_job *job = arg;
    const int64_t h0 = task % job->groups * job->head_step, block = task / job->groups;
    const int64_t b = block / job->blocks, first = block % job->blocks * job->step;
    const int64_t left = job->x->shape[2] - first, n = left < job->step ? left : job->step;
    const int64_t heads = job->x->shape[1] - h0 < job->head_step ? job->x->shape[1] - h0 : job->head_step;
    const int inner = job->heads_inside ? 1 : 2;
    fa_rope_rows rows = fa_rope_rows_at(job->angles, b, first);
    (void)worker;
    rows.dtype = job->x->dtype;
    rows.d = job->x->shape[3];
    rows.os = job->out->stride[inner];
    rows.xs = job->x->stride[inner];
    rows.rows = job->heads_inside ? heads : n;
    if (job->heads_inside) {
        for (int64_t s = first; s < first + n; s++) {
            const fa_rope_rows at = fa_rope_rows_at(job->angles, b, s);
            fa_rope_one_angle(&rows, &at);
            rows.out = fa_row_at(job->out, b, h0, s);
            rows.x = fa_row_at(job->x, b, h0, s);
            job->kernels->rotate(&rows);
        }
    } else {
        for (int64_t h = h0; h < h0 + heads; h++) {
            rows.out = fa_row_at(job->out, b, h, first);
            rows.x = fa_row_at(job->x, b, h, first);
            job->kernels->rotate(&rows);
        }
    }
}

static int64_t magnitude(int64_t x) { return x < 0 ? -x : x; }

fa_status fa_rope(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *cos, const fa_view *sin,
                  const fa_view *positions, int32_t interleaved) {
    const fa_rope_angles angles = {cos, sin, positions, interleaved != 0};
    fa_status status = fa_check_view(x, 4, FA_FLOATS);
    if (status == FA_OK) status = fa_check_view(out, 4, FA_FLOATS);
    if (status != FA_OK) return status;
    if (out->dtype != x->dtype) return FA_ERR_DTYPE;
    int64_t count = 1;
    for (int i = 0; i < 4; i++)
        if (out->shape[i] != x->shape[i]) return FA_ERR_SHAPE;
    for (int i = 0; i < 4; i++)
        if (__builtin_mul_overflow(count, x->shape[i] > 0 ? x->shape[i] : 1, &count)) return FA_ERR_MEMORY;
    status = fa_rope_angles_check(&angles, x->shape[0], x->shape[2], x->shape[3]);
    if (status != FA_OK) return status;
    if (x->shape[0] == 0 || x->shape[1] == 0 || x->shape[2] == 0) return FA_OK;
    status = fa_rope_positions_check(&angles);
    if (status != FA_OK) return status;
    fa_rope_job job = {.kernels = &ctx->kernels->rope, .out = out, .x = x, .angles = &angles};
    const int64_t heads = x->shape[1], one = count / x->shape[0] / x->shape[2]; /* elements of one position */
    job.heads_inside = x->shape[2] == 1 || magnitude(x->stride[1]) < magnitude(x->stride[2]);
    job.step = one < FA_ROPE_TASK ? FA_ROPE_TASK / one : 1;
    job.head_step = heads;
    if (!job.heads_inside && job.step < FA_ROPE_RUN) {
        job.step = FA_ROPE_RUN;
        job.head_step = FA_ROPE_TASK / FA_ROPE_RUN / x->shape[3];
        if (job.head_step < 1) job.head_step = 1;
        if (job.head_step > heads) job.head_step = heads;
    }
    job.blocks = (x->shape[2] - 1) / job.step + 1;
    job.groups = (heads - 1) / job.head_step + 1;
    const fa_ctx worth = fa_ctx_for_work(ctx, count < INT64_MAX / 16 ? 16 * count : count);
    return fa_parallel_for(&worth, x->shape[0] * job.blocks * job.groups, fa_rope_task, &job);
}
