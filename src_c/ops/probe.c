/* SPDX-License-Identifier: MIT */
/* The machine's limits, measured by the same kernels and threads that the operators use. */
#include "../kernels/kernels.h"
#include "parallel.h"

#define READ_PIECE (1 << 20) /* bytes of a task; fixed, as all tasks are */

typedef struct fma_job {
    float (*run)(int64_t rounds, double *flops);
    int64_t rounds;
    double flops;
    volatile float sink;
} fma_job;

static void fma_task(void *arg, int64_t task, int worker) {
    fma_job *job = arg;
    double flops;
    float value = job->run(job->rounds, &flops);
    (void)worker;
    if (task == 0) job->flops = flops;
    if (value == 0.0f) job->sink = value; /* never: keeps the work alive */
}

static fa_status run_rounds(const fa_ctx *ctx, float (*run)(int64_t, double *), int64_t iterations, double *flops) {
    fma_job job = {.run = run, .rounds = iterations};
    if (iterations < 1) return FA_ERR_VALUE;
    const fa_status status = fa_parallel_for(ctx, ctx->num_threads, fma_task, &job);
    *flops = job.flops * ctx->num_threads;
    return status;
}

fa_status fa_probe_fma(const fa_ctx *ctx, int64_t iterations, double *flops) {
    return run_rounds(ctx, ctx->kernels->vmath.fma_rounds, iterations, flops);
}

fa_status fa_probe_int8(const fa_ctx *ctx, int64_t iterations, double *ops) {
    return run_rounds(ctx, ctx->kernels->int8.rounds, iterations, ops);
}

typedef struct read_job {
    const fa_ctx *ctx;
    const char *data;
    int64_t bytes;
    volatile float sink;
} read_job;

static void read_task(void *arg, int64_t task, int worker) {
    read_job *job = arg;
    int64_t from = task * READ_PIECE, n = job->bytes - from < READ_PIECE ? job->bytes - from : READ_PIECE;
    float value = job->ctx->kernels->vmath.read((const float *)(job->data + from), n / 4);
    (void)worker;
    if (value == -1.0f) job->sink = value;
}

fa_status fa_probe_read(const fa_ctx *ctx, const void *data, size_t bytes, float *sink) {
    read_job job = {.ctx = ctx, .data = data, .bytes = (int64_t)bytes};
    if ((uintptr_t)data % 4) return FA_ERR_VALUE;
    const fa_status status = fa_parallel_for(ctx, ((int64_t)bytes + READ_PIECE - 1) / READ_PIECE, read_task, &job);
    *sink = job.sink;
    return status;
}
