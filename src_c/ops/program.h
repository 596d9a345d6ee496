/* SPDX-License-Identifier: MIT */
/*
 * What the steps of programs are made of: views of their values and arrays, and the checks that all of them share.
 */
#ifndef FA_OPS_PROGRAM_H
#define FA_OPS_PROGRAM_H

#include "../view.h"

#define MOST_COLUMNS ((int64_t)1 << 40) /* of all tables of a kind, and of an array */
#define MOST_ROWS ((int64_t)1 << 46)    /* of a kind */

/* One run. Where only workspace is measured, `ws` is NULL and tables have an address that nothing is read from. */
typedef struct prog_run {
    const fa_ctx *ctx;
    const fa_program *program;
    const fa_batch *batch;
    float *tables[FA_ROW_KINDS];
    void *ws; /* of steps */
    size_t ws_bytes;
} prog_run;

/* ---- values ------------------------------------------------------------------------------------------------------ */

static inline fa_view view_of(const prog_run *run, const fa_value *value) {
    const int64_t rows = run->batch->rows[value->rows];
    fa_view view = {.shape = {rows, value->width}, .stride = {value->stride * 4, 4}, .ndim = 2, .dtype = FA_F32};
    if (value->array < 0) {
        view.data = run->tables[value->rows] + value->at * rows + value->first;
    } else {
        const fa_view *array = &run->batch->arrays[value->array];
        view.data = (float *)array->data + value->first;
        view.stride[0] = array->stride[0];
    }
    return view;
}

/* (1, heads, rows, size) of columns head by head. */
static inline fa_view heads_of(const prog_run *run, const fa_value *value, int64_t heads, int64_t size) {
    const fa_view rows = view_of(run, value);
    return (fa_view){.data = rows.data, .shape = {1, heads, rows.shape[0], size}, .stride = {0, size * 4, rows.stride[0], 4},
                     .ndim = 4, .dtype = FA_F32};
}

static inline const fa_view *array_of(const prog_run *run, const fa_step *step, int i) {
    if (step->index[i] < 0) return NULL;
    const fa_view *array = &run->batch->arrays[step->index[i]];
    return array->ndim ? array : NULL;
}

/* Whether ends of sequences begin at the first row and end behind the last of `rows`; whether they ascend, operators look. */
static inline int covers(const fa_view *ends, int64_t rows) {
    const int64_t *at = ends->data;
    return at[0] == 0 && at[ends->shape[0] - 1] == rows;
}

static inline const fa_view *given(const fa_view *view) { return view->ndim ? view : NULL; }

static inline int is_there(const fa_value *value) { return value->width > 0; }

/* ---- checks of a step, once ---------------------------------------------------------------------------------------- */

static inline int fits(const fa_program *program, const fa_value *value) {
    if (value->rows < 0 || value->rows >= FA_ROW_KINDS || value->width < 1 || value->first < 0) return 0;
    if (value->stride < 1 || value->width > value->stride || value->first > value->stride - value->width) return 0;
    if (value->array == -1) {
        const int64_t columns = program->columns[value->rows];
        return value->at >= 0 && value->at % 16 == 0 && value->at <= columns && value->stride <= columns - value->at;
    }
    if (value->array < -1 || value->array >= program->n_arrays) return 0;
    const fa_array *array = &program->arrays[value->array];
    return array->dtype == FA_F32 && array->ndim == 2 && array->rows == value->rows && array->more == 0 && !array->optional &&
           array->width == value->stride;
}

static inline int same_place(const fa_value *a, const fa_value *b) {
    return a->rows == b->rows && a->array == b->array && a->at == b->at && a->stride == b->stride && a->first == b->first &&
           a->width == b->width;
}

static inline int overlap(const fa_value *a, const fa_value *b) {
    if (!is_there(a) || !is_there(b) || a->array != b->array) return 0;
    if (a->array < 0 && (a->rows != b->rows || a->at + a->stride <= b->at || b->at + b->stride <= a->at)) return 0;
    if (a->at == b->at && a->stride == b->stride) return a->first < b->first + b->width && b->first < a->first + a->width;
    return 1;
}

/* Whether `out` lies apart from `in`, or, with `in_place`, exactly where it does. */
static inline int apart(const fa_value *out, const fa_value *in, int in_place) {
    return !overlap(out, in) || (in_place && same_place(out, in));
}

/* Of arrays that a step can do without, too. */
static inline int array_may_be(const fa_program *program, int32_t index, int32_t dtype, int32_t ndim, int32_t rows, int32_t more) {
    if (index < 0 || index >= program->n_arrays) return 0;
    const fa_array *array = &program->arrays[index];
    return array->dtype == dtype && array->ndim == ndim && array->rows == rows && array->more == more;
}

static inline int array_is(const fa_program *program, int32_t index, int32_t dtype, int32_t ndim, int32_t rows, int32_t more) {
    return array_may_be(program, index, dtype, ndim, rows, more) && !program->arrays[index].optional;
}

static inline int vector_is(const fa_view *view, int64_t size) {
    return fa_check_f32(view, 1) == FA_OK && view->shape[0] == size;
}

static inline int act_is(int32_t act) { return act >= FA_ACT_NONE && act <= FA_ACT_SIGMOID; }

/* ---- kinds of steps ------------------------------------------------------------------------------------------------ */

/* `check` is asked once, when a program is made; `run` with `size` says what workspace a step takes, else it does it. */
typedef struct prog_kind {
    int (*check)(const fa_program *program, const fa_step *step);
    fa_status (*run)(const prog_run *run, const fa_step *step, size_t *size);
} prog_kind;

/* Of ops/program_experts.c; whether two steps of these kinds want the same workspace. */
int fa_step_check_route(const fa_program *program, const fa_step *step);
int fa_step_check_experts(const fa_program *program, const fa_step *step);
fa_status fa_step_route(const prog_run *run, const fa_step *step, size_t *size);
fa_status fa_step_experts(const prog_run *run, const fa_step *step, size_t *size);
int fa_step_like_experts(const fa_step *a, const fa_step *b);
/* Of program_states.c */
int prog_check_conv(const fa_program *program, const fa_step *step);
fa_status prog_run_conv(const prog_run *run, const fa_step *step, size_t *size);
int prog_check_mixing(const fa_program *program, const fa_step *step);
fa_status prog_run_mixing(const prog_run *run, const fa_step *step, size_t *size);
int prog_check_gates(const fa_program *program, const fa_step *step);
fa_status prog_run_gates(const prog_run *run, const fa_step *step, size_t *size);

#endif
