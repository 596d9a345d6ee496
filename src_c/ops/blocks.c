/* SPDX-License-Identifier: MIT */
/* Quantised blocks to fp32, cut into tasks by sizes alone. */
#include "../kernels/kernels.h"
#include "../view.h"
#include "parallel.h"

#define FA_BLOCK_TASK 65536 /* elements of one task, about; a multiple of every block */

typedef struct fa_block_job {
    void (*widen)(float *to, const uint8_t *from, int type, int64_t blocks);
    const uint8_t *from;
    char *to;
    int64_t rows, to_stride, row_blocks;    /* of a row of the output: bytes to the next, blocks */
    int64_t row_step, pieces, piece_blocks; /* rows of a task; parts of one row, blocks of a part */
    int64_t elements, bytes;                /* of a block */
    int type;
} fa_block_job;

fa_status fa_block_size(int32_t type, int64_t *elements, int64_t *bytes) {
    *elements = 256;
    switch (type) {
    case FA_Q4_0: *elements = 32, *bytes = 18; break;
    case FA_Q4_1: *elements = 32, *bytes = 20; break;
    case FA_Q5_0: *elements = 32, *bytes = 22; break;
    case FA_Q5_1: *elements = 32, *bytes = 24; break;
    case FA_Q8_0: *elements = 32, *bytes = 34; break;
    case FA_Q2_K: *bytes = 84; break;
    case FA_Q3_K: *bytes = 110; break;
    case FA_Q4_K: *bytes = 144; break;
    case FA_Q5_K: *bytes = 176; break;
    case FA_Q6_K: *bytes = 210; break;
    case FA_IQ4_NL: *elements = 32, *bytes = 18; break;
    case FA_IQ4_XS: *bytes = 136; break;
    case FA_MXFP4: *elements = 32, *bytes = 17; break;
    default: *elements = *bytes = 0; return FA_ERR_VALUE;
    }
    return FA_OK;
}

static void fa_block_task(void *arg, int64_t task, int worker) {
    const fa_block_job *job = arg;
    const int64_t first = task / job->pieces * job->row_step, start = task % job->pieces * job->piece_blocks;
    const int64_t end = job->rows - first < job->row_step ? job->rows : first + job->row_step;
    const int64_t left = job->row_blocks - start, n = left < job->piece_blocks ? left : job->piece_blocks;
    (void)worker;
    for (int64_t row = first; row < end; row++)
        job->widen((float *)(job->to + row * job->to_stride) + start * job->elements,
                   job->from + (row * job->row_blocks + start) * job->bytes, job->type, n);
}

fa_status fa_dequantize(const fa_ctx *ctx, const fa_view *out, int32_t type, const void *blocks, int64_t bytes) {
    fa_block_job job = {.widen = ctx->kernels->blocks.widen, .from = blocks, .to = out->data, .type = type};
    fa_status status = fa_check_f32(out, 2);
    if (status == FA_OK) status = fa_block_size(type, &job.elements, &job.bytes);
    if (status != FA_OK) return status;
    const int64_t n = out->shape[1];
    int64_t count, needed;
    if (n % job.elements) return FA_ERR_SHAPE;
    job.rows = out->shape[0], job.to_stride = out->stride[0], job.row_blocks = n / job.elements;
    if (__builtin_mul_overflow(job.rows, n, &count) || count > PTRDIFF_MAX / 4) return FA_ERR_MEMORY;
    if (__builtin_mul_overflow(job.rows * job.row_blocks, job.bytes, &needed) || needed != bytes) return FA_ERR_SHAPE;
    if (count == 0) return FA_OK;
    job.row_step = n < FA_BLOCK_TASK ? FA_BLOCK_TASK / n : 1;
    job.piece_blocks = (n < FA_BLOCK_TASK ? n : FA_BLOCK_TASK) / job.elements;
    job.pieces = (job.row_blocks - 1) / job.piece_blocks + 1;
    const fa_ctx worth = fa_ctx_for_work(ctx, count < INT64_MAX / 16 ? 16 * count : count);
    return fa_parallel_for(&worth, ((job.rows - 1) / job.row_step + 1) * job.pieces, fa_block_task, &job);
}
