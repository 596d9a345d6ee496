/* SPDX-License-Identifier: MIT */
/* Rows of new keys or values go to their slots of a cache: rotated, converted or quantised on the way. */
#include <string.h>

#include "../arena.h"
#include "../kernels/kernels.h"
#include "../view.h"
#include "parallel.h"
#include "rope.h"

#define FA_STORE_TASK 65536 /* elements of one task, about */
#define FA_STORE_ROUND 2048 /* more where 16 rows of 128 are rounded together */
#define FA_STORE_WIDE 1024  /* fp32 elements between two steps: they stay in L1 beside angles, source and target */

typedef struct fa_store_job {
    const fa_kernels *kernels;
    const fa_view *dst, *scale, *src, *slots;
    const fa_rope_angles *angles; /* NULL: rows are stored as they are */
    int64_t step, blocks;         /* positions of a task, tasks of a sequence */
    fa_store_form form;
} fa_store_job;

/* Rows at equal steps: consecutive positions of a head in consecutive slots of a page, or the heads of one position. */
typedef struct fa_store_rows {
    char *to, *scale; /* scale NULL but for int8 */
    const char *from;
    ptrdiff_t to_step, scale_step, from_step; /* bytes */
    int64_t count;
    fa_rope_rows angles; /* cos, sin, positions and their strides, where rows are rotated */
} fa_store_rows;

/* Up to `count` rows through fp32: `wide` holds them. */
static void fa_store_piece(const fa_store_job *job, fa_store_rows *run, int64_t count, float *wide) {
    const fa_convert_kernels *convert = &job->kernels->convert;
    const int64_t d = job->src->shape[3];
    const char *x = run->from;
    ptrdiff_t step = run->from_step;
    if (job->src->dtype != FA_F32) {
        for (int64_t r = 0; r < count; r++) convert->widen(wide + r * d, x + r * step, job->src->dtype, d);
        x = (const char *)wide;
        step = d * (ptrdiff_t)sizeof *wide;
    }
    if (job->angles) {
        fa_rope_rows rows = run->angles;
        rows.out = wide;
        rows.os = d * (ptrdiff_t)sizeof *wide;
        rows.x = x;
        rows.xs = step;
        rows.dtype = FA_F32;
        rows.rows = count;
        job->kernels->rope.rotate(&rows);
        x = (const char *)wide;
        step = rows.os;
    }
    if (job->form != FA_STORE_ROWS) {
        job->kernels->attention_int8.round_rows((int8_t *)run->to, run->to_step, run->scale, run->scale_step, (const float *)x,
                                                step / (ptrdiff_t)sizeof *wide, count, d, job->form == FA_STORE_KEYS);
        return;
    }
    for (int64_t r = 0; r < count; r++) {
        const float *row = (const float *)(x + r * step);
        char *to = run->to + r * run->to_step;
        if (run->scale) *(float *)(run->scale + r * run->scale_step) = convert->quantize((int8_t *)to, row, d);
        else convert->narrow(to, job->dst->dtype, row, d);
    }
}

static void fa_store_run(const fa_store_job *job, fa_store_rows *run, float *wide) {
    const int64_t d = job->src->shape[3], room = job->form == FA_STORE_ROWS ? FA_STORE_WIDE : FA_STORE_ROUND;
    const int64_t most = d < room ? room / d : 1;
    if (job->dst->dtype == job->src->dtype) {
        if (job->angles) {
            run->angles.out = run->to;
            run->angles.os = run->to_step;
            run->angles.x = run->from;
            run->angles.xs = run->from_step;
            run->angles.dtype = job->src->dtype;
            run->angles.rows = run->count;
            job->kernels->rope.rotate(&run->angles);
        } else {
            const size_t bytes = (size_t)(d * fa_itemsize(job->src->dtype));
            for (int64_t r = 0; r < run->count; r++) memcpy(run->to + r * run->to_step, run->from + r * run->from_step, bytes);
        }
        return;
    }
    while (run->count > 0) {
        const int64_t count = run->count < most ? run->count : most;
        fa_store_piece(job, run, count, wide);
        run->to += count * run->to_step;
        run->from += count * run->from_step;
        if (run->scale) run->scale += count * run->scale_step;
        if (run->angles.positions)
            run->angles.positions = (const int64_t *)((const char *)run->angles.positions + count * run->angles.ps);
        run->count -= count;
    }
}

/* The rows from (b, h, s) on, which goes to `slot`: along dimension `along` of src, 1 heads or 2 positions. */
static fa_store_rows fa_store_rows_at(const fa_store_job *job, int64_t b, int64_t h, int64_t s, int64_t slot, int along) {
    const int64_t n = slot / job->dst->shape[2], p = slot % job->dst->shape[2];
    fa_store_rows run = {.to = fa_row_at(job->dst, n, h, p), .from = fa_row_at(job->src, b, h, s), .count = 1};
    run.to_step = job->dst->stride[along];
    run.from_step = job->src->stride[along];
    if (job->scale) {
        run.scale = fa_row_at(job->scale, n, h, p);
        run.scale_step = job->scale->stride[along];
    }
    if (job->angles) {
        run.angles = fa_rope_rows_at(job->angles, b, s);
        run.angles.d = job->src->shape[3];
        if (along == 1) fa_rope_one_angle(&run.angles, &run.angles);
    }
    return run;
}

static void fa_store_task(void *arg, int64_t task, int worker) {
    const fa_store_job *job = arg;
    const int64_t b = task / job->blocks, first = task % job->blocks * job->step;
    const int64_t end = job->src->shape[2] - first < job->step ? job->src->shape[2] : first + job->step;
    const int64_t hs = job->src->stride[1], ss = job->src->stride[2], heads = job->src->shape[1], page = job->dst->shape[2];
    float wide[FA_MAX_HEAD_DIM];
    (void)worker;
    if (end - first == 1 || (hs < 0 ? -hs : hs) < (ss < 0 ? -ss : ss)) { /* read in the order of memory */
        for (int64_t s = first; s < end; s++) {
            const int64_t slot = fa_i64_at(job->slots, b, s);
            if (slot < 0) continue;
            fa_store_rows run = fa_store_rows_at(job, b, 0, s, slot, 1);
            run.count = heads;
            fa_store_run(job, &run, wide);
        }
        return;
    }
    for (int64_t h = 0; h < heads; h++)
        for (int64_t s = first, count; s < end; s += count) {
            const int64_t slot = fa_i64_at(job->slots, b, s);
            count = 1;
            if (slot < 0) continue;
            while (s + count < end && (slot + count) % page != 0 && fa_i64_at(job->slots, b, s + count) == slot + count) count++;
            fa_store_rows run = fa_store_rows_at(job, b, h, s, slot, 2);
            run.count = count;
            fa_store_run(job, &run, wide);
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
                      fa_store_form form, void *ws, size_t ws_bytes) {
    const fa_rope_angles angles = {cos, sin, positions, interleaved != 0};
    size_t needed = 0;
    int64_t limit, count = 1;
    fa_status status = fa_store_check(dst, scale, src, slots);
    if (status == FA_OK) status = fa_kv_store_workspace(slots, &needed);
    if (status != FA_OK) return status;
    if (!ws || (uintptr_t)ws % FA_ALIGN || ws_bytes < needed) return FA_ERR_WORKSPACE;
    if (form < FA_STORE_ROWS || form > FA_STORE_VALUES || (form != FA_STORE_ROWS && !scale)) return FA_ERR_VALUE;
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
    fa_store_job job = {ctx->kernels, dst, scale, src, slots, cos ? &angles : NULL, 1, 1, form};
    const int64_t heads = src->shape[1] * src->shape[3];
    job.step = heads < FA_STORE_TASK ? FA_STORE_TASK / heads : 1;
    job.blocks = (src->shape[2] - 1) / job.step + 1;
    fa_ctx worth = fa_ctx_for_work(ctx, count < INT64_MAX / 16 ? 16 * count : count);
    worth.stop = NULL; /* a cache is never left between two states */
    return fa_parallel_for(&worth, src->shape[0] * job.blocks, fa_store_task, &job);
}
