/* SPDX-License-Identifier: MIT */
/* Drivers of the row-wise ops: checks, then rows in parallel where there is enough to do. */
#include <float.h>

#include "../kernels/kernels.h"
#include "../view.h"
#include "parallel.h"

#define FA_ROW_TASK 16384 /* elements of one task, about: several microseconds */
#define FA_SUM_ROWS 8     /* rows added in one pass of the embedding sum */

static int64_t fa_rows_per_task(int64_t h) { return h < FA_ROW_TASK ? FA_ROW_TASK / (h > 0 ? h : 1) : 1; }

typedef struct fa_row_job {
    void (*kernel)(const fa_rows *job);
    fa_rows rows;
    int64_t step;
    int64_t groups; /* of norms by groups of columns: their number */
} fa_row_job;

static void fa_row_task(void *arg, int64_t task, int worker) {
    const fa_row_job *job = arg;
    const int64_t first = task * job->step;
    fa_rows rows = job->rows;
    (void)worker;
    rows.out += first * rows.os;
    rows.x += first * rows.xs;
    if (rows.residual) rows.residual += first * rows.rs;
    rows.rows = rows.rows - first < job->step ? rows.rows - first : job->step;
    job->kernel(&rows);
}

static fa_status fa_row_prepare(fa_row_job *job, const fa_view *out, const fa_view *x) {
    fa_status status = fa_check_f32(x, 2);
    if (status == FA_OK) status = fa_check_f32(out, 2);
    if (status != FA_OK) return status;
    if (out->shape[0] != x->shape[0] || out->shape[1] != x->shape[1]) return FA_ERR_SHAPE;
    *job = (fa_row_job){0};
    job->rows.out = out->data;
    job->rows.os = fa_estride(out, 0);
    job->rows.x = x->data;
    job->rows.xs = fa_estride(x, 0);
    job->rows.rows = x->shape[0];
    job->rows.h = x->shape[1];
    job->step = fa_rows_per_task(job->rows.h);
    return FA_OK;
}

static fa_status fa_row_run(const fa_ctx *ctx, fa_row_job *job) {
    if (job->rows.rows == 0 || job->rows.h == 0) return FA_OK;
    return fa_parallel_for(ctx, (job->rows.rows - 1) / job->step + 1, fa_row_task, job);
}

static fa_status fa_check_row(const fa_view *view, int64_t h) {
    fa_status status = fa_check_f32(view, 1);
    return status == FA_OK && view->shape[0] != h ? FA_ERR_SHAPE : status;
}

static fa_status fa_norm(const fa_ctx *ctx, void (*kernel)(const fa_rows *), const fa_view *out, const fa_view *x,
                         const fa_view *residual, const fa_view *weight, const fa_view *bias, float eps) {
    fa_row_job job;
    fa_status status = fa_row_prepare(&job, out, x);
    if (status == FA_OK && residual) {
        status = fa_check_f32(residual, 2);
        if (status == FA_OK && (residual->shape[0] != x->shape[0] || residual->shape[1] != x->shape[1])) return FA_ERR_SHAPE;
    }
    if (status == FA_OK && !weight) status = FA_ERR_VALUE;
    if (status == FA_OK) status = fa_check_row(weight, x->shape[1]);
    if (status == FA_OK && bias) status = fa_check_row(bias, x->shape[1]);
    if (status != FA_OK) return status;
    if (!(eps >= 0.0f && eps <= FLT_MAX)) return FA_ERR_VALUE;
    job.kernel = kernel;
    if (residual) {
        job.rows.residual = residual->data;
        job.rows.rs = fa_estride(residual, 0);
    }
    job.rows.weight = weight->data;
    job.rows.bias = bias ? bias->data : NULL;
    job.rows.eps = eps;
    return fa_row_run(ctx, &job);
}

fa_status fa_layer_norm(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *residual,
                        const fa_view *weight, const fa_view *bias, float eps) {
    return fa_norm(ctx, ctx->kernels->rows.layer_norm, out, x, residual, weight, bias, eps);
}

fa_status fa_rms_norm(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *residual,
                      const fa_view *weight, float eps) {
    return fa_norm(ctx, ctx->kernels->rows.rms_norm, out, x, residual, weight, NULL, eps);
}

static void fa_group_task(void *arg, int64_t task, int worker) {
    const fa_row_job *job = arg;
    const int64_t first = task * job->step, left = job->rows.rows - first;
    fa_rows rows = job->rows;
    (void)worker;
    rows.rows = job->groups;
    rows.xs = rows.os = rows.h;
    for (int64_t i = first; i < first + (left < job->step ? left : job->step); i++) {
        rows.x = job->rows.x + i * job->rows.xs;
        rows.out = job->rows.out + i * job->rows.os;
        job->kernel(&rows);
    }
}

fa_status fa_rms_norm_groups(const fa_ctx *ctx, const fa_view *out, const fa_view *x, int64_t groups, const fa_view *weight,
                             float eps) {
    fa_row_job job;
    fa_status status = fa_row_prepare(&job, out, x);
    if (status != FA_OK) return status;
    if (groups < 1 || x->shape[1] % groups) return FA_ERR_SHAPE;
    job.rows.h = x->shape[1] / groups;
    status = weight ? fa_check_row(weight, job.rows.h) : FA_ERR_VALUE;
    if (status != FA_OK) return status;
    if (!(eps >= 0.0f && eps <= FLT_MAX)) return FA_ERR_VALUE;
    job.kernel = ctx->kernels->rows.rms_norm;
    job.rows.weight = weight->data;
    job.rows.eps = eps;
    job.groups = groups;
    if (job.rows.rows == 0 || job.rows.h == 0) return FA_OK;
    return fa_parallel_for(ctx, (job.rows.rows - 1) / job.step + 1, fa_group_task, &job);
}

fa_status fa_softmax(const fa_ctx *ctx, const fa_view *out, const fa_view *x) {
    fa_row_job job;
    fa_status status = fa_row_prepare(&job, out, x);
    if (status != FA_OK) return status;
    job.kernel = ctx->kernels->rows.softmax;
    return fa_row_run(ctx, &job);
}

fa_status fa_activate(const fa_ctx *ctx, const fa_view *out, const fa_view *x, fa_activation act) {
    fa_row_job job;
    fa_status status = fa_row_prepare(&job, out, x);
    if (status != FA_OK) return status;
    if (act < FA_ACT_NONE || act > FA_ACT_SIGMOID) return FA_ERR_VALUE;
    job.kernel = ctx->kernels->rows.activate;
    job.rows.act = (int)act;
    return fa_row_run(ctx, &job);
}

fa_status fa_l2_normalize(const fa_ctx *ctx, const fa_view *out, const fa_view *x, float eps) {
    fa_row_job job;
    fa_status status = fa_row_prepare(&job, out, x);
    if (status != FA_OK) return status;
    if (!(eps >= 0.0f && eps <= FLT_MAX)) return FA_ERR_VALUE;
    job.kernel = ctx->kernels->rows.l2_normalize;
    job.rows.eps = eps;
    return fa_row_run(ctx, &job);
}

static fa_status fa_pair_prepare(fa_row_job *job, const fa_view *out, const fa_view *x, const fa_view *y) {
    fa_status status = fa_row_prepare(job, out, x);
    if (status == FA_OK) status = y ? fa_check_f32(y, 2) : FA_ERR_VALUE;
    if (status != FA_OK) return status;
    if (y->shape[0] != x->shape[0] || y->shape[1] != x->shape[1]) return FA_ERR_SHAPE;
    job->rows.residual = y->data;
    job->rows.rs = fa_estride(y, 0);
    return FA_OK;
}

fa_status fa_gated(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *gate, fa_activation act) {
    fa_row_job job;
    fa_status status = fa_pair_prepare(&job, out, x, gate);
    if (status != FA_OK) return status;
    if (act < FA_ACT_NONE || act > FA_ACT_SIGMOID) return FA_ERR_VALUE;
    job.kernel = ctx->kernels->rows.gated;
    job.rows.act = (int)act;
    return fa_row_run(ctx, &job);
}

fa_status fa_scale(const fa_ctx *ctx, const fa_view *out, const fa_view *x, float factor) {
    fa_row_job job;
    fa_status status = fa_row_prepare(&job, out, x);
    if (status != FA_OK) return status;
    job.kernel = ctx->kernels->rows.scale;
    job.rows.eps = factor;
    return fa_row_run(ctx, &job);
}

fa_status fa_clamp(const fa_ctx *ctx, const fa_view *out, const fa_view *x, float most) {
    fa_row_job job;
    fa_status status = fa_row_prepare(&job, out, x);
    if (status != FA_OK) return status;
    if (!(most >= 0.0f)) return FA_ERR_VALUE;
    job.kernel = ctx->kernels->rows.clamp;
    job.rows.eps = most;
    return fa_row_run(ctx, &job);
}

fa_status fa_add(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *y) {
    fa_row_job job;
    fa_status status = fa_pair_prepare(&job, out, x, y);
    if (status != FA_OK) return status;
    job.kernel = ctx->kernels->rows.add;
    return fa_row_run(ctx, &job);
}

/* ---- embedding --------------------------------------------------------------------------------------------------- */

static int64_t fa_index(const fa_view *view, int64_t i) {
    const char *at = (const char *)view->data + i * view->stride[0];
    return view->dtype == FA_I32 ? *(const int32_t *)at : *(const int64_t *)at;
}

typedef struct fa_embedding_job {
    const fa_kernels *kernels;
    const fa_view *out, *tables, *ids;
    int32_t n_tables;
    int64_t step;
} fa_embedding_job;

static void fa_embedding_task(void *arg, int64_t task, int worker) {
    const fa_embedding_job *job = arg;
    const int64_t end = job->out->shape[0] - task * job->step < job->step ? job->out->shape[0] : (task + 1) * job->step;
    (void)worker;
    for (int64_t t = task * job->step; t < end; t++) {
        float *out = (float *)job->out->data + t * fa_estride(job->out, 0);
        for (int32_t i = 0; i < job->n_tables;) {
            const float *rows[FA_SUM_ROWS];
            int n = 0;
            if (i > 0) rows[n++] = out;
            for (; n < FA_SUM_ROWS && i < job->n_tables; i++)
                rows[n++] = (const float *)job->tables[i].data + fa_index(&job->ids[i], t) * fa_estride(&job->tables[i], 0);
            job->kernels->rows.sum(out, rows, n, job->out->shape[1]);
        }
    }
}

fa_status fa_embedding(const fa_ctx *ctx, const fa_view *out, int32_t n_tables, const fa_view *tables, const fa_view *ids) {
    fa_status status = fa_check_f32(out, 2);
    if (status != FA_OK) return status;
    if (n_tables < 1) return FA_ERR_VALUE;
    for (int32_t i = 0; i < n_tables; i++) {
        status = fa_check_f32(&tables[i], 2);
        if (status != FA_OK) return status;
        if (ids[i].dtype != FA_I32 && ids[i].dtype != FA_I64) return FA_ERR_DTYPE;
        if (tables[i].shape[1] != out->shape[1] || ids[i].ndim != 1 || ids[i].shape[0] != out->shape[0]) return FA_ERR_SHAPE;
        if (ids[i].stride[0] % fa_itemsize(ids[i].dtype)) return FA_ERR_STRIDE;
    }
    for (int32_t i = 0; i < n_tables; i++)
        for (int64_t t = 0; t < out->shape[0]; t++)
            if ((uint64_t)fa_index(&ids[i], t) >= (uint64_t)tables[i].shape[0]) return FA_ERR_VALUE;
    if (out->shape[0] == 0 || out->shape[1] == 0) return FA_OK;
    fa_embedding_job job = {ctx->kernels, out, tables, ids, n_tables, fa_rows_per_task(out->shape[1])};
    return fa_parallel_for(ctx, (out->shape[0] - 1) / job.step + 1, fa_embedding_task, &job);
}

/* ---- pooling ------------------------------------------------------------------------------------------------------ */

typedef struct fa_pool_job {
    const fa_kernels *kernels;
    const fa_view *out, *x, *cu;
    fa_pool_mode mode;
    int64_t skip;
} fa_pool_job;

static void fa_pool_task(void *arg, int64_t task, int worker) {
    const fa_pool_job *job = arg;
    const int64_t h = job->x->shape[1], xs = fa_estride(job->x, 0);
    const int64_t first = fa_index(job->cu, task), rows = fa_index(job->cu, task + 1) - first, n = rows - job->skip;
    const fa_row_kernels *kernels = &job->kernels->rows;
    float *out = (float *)job->out->data + task * fa_estride(job->out, 0);
    (void)worker;
    if (n <= 0) {
        for (int64_t j = 0; j < h; j++) out[j] = 0.0f;
        return;
    }
    const float *x = (const float *)job->x->data + (first + job->skip) * xs;
    switch (job->mode) {
    case FA_POOL_MEAN:
    case FA_POOL_MEAN_SQRT_LEN: kernels->mean(out, x, xs, n, h, job->mode == FA_POOL_MEAN_SQRT_LEN); break;
    case FA_POOL_WEIGHTED_MEAN: kernels->weighted_mean(out, x, xs, n, h, job->skip + 1); break;
    case FA_POOL_MAX: kernels->max(out, x, xs, n, h); break;
    case FA_POOL_CLS: kernels->max(out, x, xs, 1, h); break;
    case FA_POOL_LAST: kernels->max(out, x + (n - 1) * xs, xs, 1, h); break;
    }
}

fa_status fa_pool(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *cu, fa_pool_mode mode,
                  int64_t skip) {
    fa_status status = fa_check_f32(x, 2);
    if (status == FA_OK) status = fa_check_f32(out, 2);
    if (status != FA_OK) return status;
    if (cu->dtype != FA_I64) return FA_ERR_DTYPE;
    if (cu->ndim != 1 || cu->shape[0] < 1 || out->shape[0] != cu->shape[0] - 1 || out->shape[1] != x->shape[1])
        return FA_ERR_SHAPE;
    if (cu->stride[0] % 8) return FA_ERR_STRIDE;
    if (mode < FA_POOL_MEAN || mode > FA_POOL_WEIGHTED_MEAN || skip < 0) return FA_ERR_VALUE;
    int64_t before = 0;
    for (int64_t i = 0; i < cu->shape[0]; i++) {
        int64_t at = fa_index(cu, i);
        if (at < before || at > x->shape[0]) return FA_ERR_VALUE;
        before = at;
    }
    fa_pool_job job = {ctx->kernels, out, x, cu, mode, skip};
    /* few sequences of short texts are not worth a team */
    fa_ctx alone = *ctx;
    if (x->shape[0] * x->shape[1] < 4 * FA_ROW_TASK) alone.num_threads = 1;
    return x->shape[1] > 0 ? fa_parallel_for(&alone, out->shape[0], fa_pool_task, &job) : FA_OK;
}
