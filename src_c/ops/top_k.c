/* SPDX-License-Identifier: MIT */
/*
 * The best of the columns seen so far, row by row: comparisons alone, so nothing here depends on the instruction set. A row
 * is a heap whose first entry is the worst one kept, and most scores need one comparison with it. The order is total
 * (score, then column), so which ones stay does not depend on how the columns were cut.
 */
#include "../view.h"
#include "parallel.h"

#define FA_TOP_TASK 65536 /* scores of one task, about */
#define FA_TOP_LANES 16   /* scores looked at together */

typedef struct fa_top_job {
    const fa_view *best, *index, *scores;
    int64_t first, step;
    int32_t last;
} fa_top_job;

typedef struct fa_top_row {
    float *score;
    int64_t *column;
    int64_t n; /* entries */
} fa_top_row;

static int fa_is_worse(float s, int64_t i, float t, int64_t j) {
    const int s_nan = s != s, t_nan = t != t;
    if (s_nan != t_nan) return s_nan;
    if (!s_nan && s != t) return s < t;
    return i > j;
}

/* Entry `at` sinks below those that are worse. */
static void fa_top_sink(const fa_top_row *row, int64_t at, int64_t n) {
    const float s = row->score[at];
    const int64_t i = row->column[at];
    for (;;) {
        int64_t next = 2 * at + 1;
        if (next >= n) break;
        if (next + 1 < n && fa_is_worse(row->score[next + 1], row->column[next + 1], row->score[next], row->column[next])) next++;
        if (!fa_is_worse(row->score[next], row->column[next], s, i)) break;
        row->score[at] = row->score[next];
        row->column[at] = row->column[next];
        at = next;
    }
    row->score[at] = s;
    row->column[at] = i;
}

static void fa_top_add(fa_top_row *row, float s, int64_t i) {
    int64_t at = row->n++;
    for (; at > 0; at = (at - 1) / 2) {
        const int64_t above = (at - 1) / 2;
        if (!fa_is_worse(s, i, row->score[above], row->column[above])) break;
        row->score[at] = row->score[above];
        row->column[at] = row->column[above];
    }
    row->score[at] = s;
    row->column[at] = i;
}

static void fa_top_take(fa_top_row *row, int64_t k, const float *scores, int64_t m, int64_t first) {
    int64_t j = 0;
    for (; j < m && row->n < k; j++) fa_top_add(row, scores[j], first + j);
    while (j < m) {
        const float worst = row->score[0];
        const int64_t n = m - j < FA_TOP_LANES ? m - j : FA_TOP_LANES;
        int better = 0;
        if (n == FA_TOP_LANES && worst == worst)
            for (int l = 0; l < FA_TOP_LANES; l++) better |= scores[j + l] > worst;
        else better = 1;
        if (better)
            for (int64_t l = 0; l < n; l++) /* a later column never wins a tie */
                if (fa_is_worse(row->score[0], 0, scores[j + l], 0)) {
                    row->score[0] = scores[j + l];
                    row->column[0] = first + j + l;
                    fa_top_sink(row, 0, k);
                }
        j += n;
    }
}

static void fa_top_sort(const fa_top_row *row) {
    for (int64_t n = row->n - 1; n > 0; n--) {
        const float s = row->score[0];
        const int64_t i = row->column[0];
        row->score[0] = row->score[n];
        row->column[0] = row->column[n];
        row->score[n] = s;
        row->column[n] = i;
        fa_top_sink(row, 0, n);
    }
}

static void fa_top_task(void *arg, int64_t task, int worker) {
    const fa_top_job *job = arg;
    const int64_t rows = job->best->shape[0], k = job->best->shape[1];
    const int64_t end = rows - task * job->step < job->step ? rows : (task + 1) * job->step;
    (void)worker;
    for (int64_t i = task * job->step; i < end; i++) {
        fa_top_row row = {(float *)job->best->data + i * fa_estride(job->best, 0),
                          (int64_t *)job->index->data + i * fa_estride(job->index, 0), job->first < k ? job->first : k};
        fa_top_take(&row, k, (const float *)job->scores->data + i * fa_estride(job->scores, 0), job->scores->shape[1], job->first);
        if (job->last) fa_top_sort(&row);
    }
}

fa_status fa_top_k(const fa_ctx *ctx, const fa_view *best, const fa_view *index, const fa_view *scores, int64_t first, int32_t last) {
    fa_status status = fa_check_f32(best, 2);
    if (status == FA_OK) status = fa_check_view(index, 2, FA_IS(FA_I64));
    if (status == FA_OK) status = fa_check_f32(scores, 2);
    if (status != FA_OK) return status;
    const int64_t n = best->shape[0], k = best->shape[1], m = scores->shape[1];
    if (index->shape[0] != n || index->shape[1] != k || scores->shape[0] != n) return FA_ERR_SHAPE;
    if (k < 1 || first < 0 || first > INT64_MAX - m) return FA_ERR_VALUE;
    if (n == 0) return FA_OK;
    fa_top_job job = {best, index, scores, first, m < FA_TOP_TASK ? FA_TOP_TASK / (m > 0 ? m : 1) : 1, last};
    const double work = (double)n * ((double)m + 16.0 * (double)k);
    const fa_ctx worth = fa_ctx_for_work(ctx, work < 0x1p62 ? (int64_t)work : INT64_MAX);
    return fa_parallel_for(&worth, (n - 1) / job.step + 1, fa_top_task, &job);
}
