/* SPDX-License-Identifier: MIT */
/* Rows of new keys or values go to their slots of a cache: rotated, converted or quantised on the way. */
#include <string.h>

#include "../arena.h"
#include "../kernels/kernels.h"
#include "../view.h"
#include "parallel.h"
#include "rope.h"

#define FA_STORE_TASK 65536 /* elements of one task, about */

typedef struct fa_store_job {
    const fa_kernels *kernels;
    const fa_view *dst, *scale, *src, *slots;
    const fa_rope_angles *angles; /* NULL: rows are stored as they are */
    int64_t step, blocks;         /* positions of a task, tasks of a sequence */
} fa_store_job;

/* One row of d elements of src's dtype. `wide` holds FA_MAX_HEAD_DIM floats. */
static void fa_store_row(const fa_store_job *job, void *to, float *scale, const void *from, fa_rope_rows *rows, float *wide) {
    const int dst = job->dst->dtype, src = job->src->dtype;
    const int64_t d = job->src->shape[3];
    const float *x = from;
    if (rows && dst == src) {
        rows->out = to;
        rows->x = from;
        rows->dtype = src;
        job->kernels->rope.rotate(rows);
        return;
    }
    if (dst == src) {
        memcpy(to, from, (size_t)(d * fa_itemsize(src)));
        return;
    }
    if (src != FA_F32) {
        job->kernels->convert.widen(wide, from, src, d);
        x = wide;
    }
    if (rows) {
        rows->out = wide;
        rows->x = x;
        rows->dtype = FA_F32;
        job->kernels->rope.rotate(rows);
        x = wide;
    }
    if (dst == FA_I8) *scale = job->kernels->convert.quantize(to, x, d);
    else job->kernels->convert.narrow(to, dst, x, d);
}

static void fa_store_position(const fa_store_job *job, int64_t b, int64_t h, int64_t s, float *wide) {
    const int64_t slot = fa_i64_at(job->slots, b, s);
    if (slot < 0) return;
    const int64_t n = slot / job->dst->shape[2], p = slot % job->dst->shape[2];
    fa_rope_rows rows;
    if (job->angles) {
        rows = fa_rope_rows_at(job->angles, b, s);
        rows.rows = 1;
        rows.d = job->src->shape[3];
    }
    fa_store_row(job, fa_row_at(job->dst, n, h, p), job->scale ? fa_row_at(job->scale, n, h, p) : NULL,
                 fa_row_at(job->src, b, h, s), job->angles ? &rows : NULL, wide);
}

static void fa_store_task(void *arg, int64_t task, int worker) {
    const fa_store_job *job = arg;
    const int64_t b = task / job->blocks, first = task % job->blocks * job->step;
    const int64_t end = job->src->shape[2] - first < job->step ? job->src->shape[2] : first + job->step;
    const int64_t hs = job->src->stride[1], ss = job->src->stride[2], heads = job->src->shape[1];
    float wide[FA_MAX_HEAD_DIM];
    (void)worker;
    if ((hs < 0 ? -hs : hs) < (ss < 0 ? -ss : ss)) { /* read in the order of memory */
        for (int64_t s = first; s < end; s++)
            for (int64_t h = 0; h < heads; h++) fa_store_position(job, b, h, s, wide);
    } else {
        for (int64_t h = 0; h < heads; h++)
            for (int64_t s = first; s < end; s++) fa_store_position(job, b, h, s, wide);
    }
}

/* ---- slots: in range, none of them twice -------------------------------------------------------------------------- */

static int64_t fa_slot_places(int64_t count) { /* of the table: a power of two, at most half full */
    int64_t places = 64;
    while (places < 2 * count) places *= 2;
    return places;
}

fa_status fa_kv_store_workspace(const fa_view *slots, size_t *bytes) {
    int64_t count;
    if (slots->ndim != 2 || slots->shape[0] < 0 || slots->shape[1] < 0) return FA_ERR_SHAPE;
    if (__builtin_mul_overflow(slots->shape[0], slots->shape[1], &count) || count > INT64_MAX / 64) return FA_ERR_MEMORY;
    fa_arena arena = {0};
    fa_arena_take(&arena, (size_t)fa_slot_places(count), sizeof(int64_t));
    *bytes = arena.used;
    return arena.overflow ? FA_ERR_MEMORY : FA_OK;
}

/* Ascending slots, as a cache hands them out, are distinct by themselves; others go through a table. */
static fa_status fa_slots_check(const fa_view *slots, int64_t limit, int64_t *table, int64_t places) {
    int64_t last = -1;
    int ascending = 1;
    for (int64_t b = 0; b < slots->shape[0]; b++)
        for (int64_t s = 0; s < slots->shape[1]; s++) {
            const int64_t slot = fa_i64_at(slots, b, s);
            if (slot < -1 || slot >= limit) return FA_ERR_VALUE;
            if (slot < 0) continue;
            if (slot <= last) ascending = 0;
            last = slot;
        }
    if (ascending) return FA_OK;
    for (int64_t i = 0; i < places; i++) table[i] = -1;
    for (int64_t b = 0; b < slots->shape[0]; b++)
        for (int64_t s = 0; s < slots->shape[1]; s++) {
            const int64_t slot = fa_i64_at(slots, b, s);
            if (slot < 0) continue;
            uint64_t at = (uint64_t)slot * 0x9e3779b97f4a7c15u;
            at = (at ^ at >> 32) & (uint64_t)(places - 1);
            for (; table[at] >= 0; at = (at + 1) & (uint64_t)(places - 1))
                if (table[at] == slot) return FA_ERR_VALUE;
            table[at] = slot;
        }
    return FA_OK;
}

static fa_status fa_store_check(const fa_view *dst, const fa_view *scale, const fa_view *src, const fa_view *slots) {
    fa_status status = fa_check_view(src, 4, FA_FLOATS);
    if (status == FA_OK) status = fa_check_view(dst, 4, FA_FLOATS | FA_IS(FA_I8));
    if (status != FA_OK) return status;
    if (src->shape[1] != dst->shape[1] || src->shape[3] != dst->shape[3] || src->shape[3] > FA_MAX_HEAD_DIM) return FA_ERR_SHAPE;
    if ((dst->dtype == FA_I8) != (scale != NULL)) return FA_ERR_DTYPE;
    if (scale) {
        if (scale->dtype != FA_F32) return FA_ERR_DTYPE;
        if (scale->ndim != 3) return FA_ERR_SHAPE;
        for (int i = 0; i < 3; i++)
            if (scale->shape[i] != dst->shape[i]) return FA_ERR_SHAPE;
        for (int i = 0; i < 3; i++)
            if (scale->stride[i] % 4) return FA_ERR_STRIDE;
        if ((uintptr_t)scale->data % 4) return FA_ERR_STRIDE;
    }
    if (slots->dtype != FA_I64) return FA_ERR_DTYPE;
    if (slots->ndim != 2 || slots->shape[0] != src->shape[0] || slots->shape[1] != src->shape[2]) return FA_ERR_SHAPE;
    return slots->stride[0] % 8 || slots->stride[1] % 8 || (uintptr_t)slots->data % 8 ? FA_ERR_STRIDE : FA_OK;
}

fa_status fa_kv_store(const fa_ctx *ctx, const fa_view *dst, const fa_view *scale, const fa_view *src, const fa_view *slots,
                      const fa_view *cos, const fa_view *sin, const fa_view *positions, int32_t interleaved,
                      void *ws, size_t ws_bytes) {
    const fa_rope_angles angles = {cos, sin, positions, interleaved != 0};
    size_t needed = 0;
    int64_t limit, count = 1;
    fa_status status = fa_store_check(dst, scale, src, slots);
    if (status == FA_OK) status = fa_kv_store_workspace(slots, &needed);
    if (status != FA_OK) return status;
    if (!ws || (uintptr_t)ws % FA_ALIGN || ws_bytes < needed) return FA_ERR_WORKSPACE;
    if ((cos != NULL) != (sin != NULL) || (cos != NULL) != (positions != NULL)) return FA_ERR_VALUE;
    if (cos) status = fa_rope_angles_check(&angles, src->shape[0], src->shape[2], src->shape[3]);
    if (status != FA_OK) return status;
    if (__builtin_mul_overflow(dst->shape[0], dst->shape[2], &limit)) return FA_ERR_MEMORY;
    for (int i = 0; i < 4; i++)
        if (__builtin_mul_overflow(count, src->shape[i] > 0 ? src->shape[i] : 1, &count)) return FA_ERR_MEMORY;
    status = fa_slots_check(slots, limit, ws, fa_slot_places(slots->shape[0] * slots->shape[1]));
    if (status != FA_OK) return status;
    for (int i = 0; i < 4; i++)
        if (src->shape[i] == 0) return FA_OK;
    if (cos) status = fa_rope_positions_check(&angles);
    if (status != FA_OK) return status;
    fa_store_job job = {ctx->kernels, dst, scale, src, slots, cos ? &angles : NULL, 1, 1};
    const int64_t heads = src->shape[1] * src->shape[3];
    job.step = heads < FA_STORE_TASK ? FA_STORE_TASK / heads : 1;
    job.blocks = (src->shape[2] - 1) / job.step + 1;
    const fa_ctx worth = fa_ctx_for_work(ctx, count < INT64_MAX / 16 ? 16 * count : count);
    fa_parallel_for(&worth, src->shape[0] * job.blocks, fa_store_task, &job);
    return FA_OK;
}
