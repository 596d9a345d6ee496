/* SPDX-License-Identifier: MIT */
#include "program_lab.h"

#include <stdlib.h>
#include <string.h>

void lab_begin(lab *l, const variant *v, int64_t most) {
    memset(l, 0, sizeof *l);
    l->v = *v;
    l->steps = scratch(most, sizeof *l->steps);
    l->program = (fa_program){.steps = l->steps, .arrays = l->arrays};
    l->batch.arrays = l->views;
    l->batch.rows[OTHERS] = 5;
    for (int kind = 0; kind < FA_ROW_KINDS; kind++) l->program.columns[kind] = 16 * (kind % 3 + 1);
    case_variant(&l->v);
}

void lab_end(lab *l) {
    for (int i = 0; i < l->program.n_arrays; i++) expect_clean("an array of the batch", tensor_free(&l->tensors[i]));
    free(l->steps);
}

int lab_array(lab *l, const char *name, fa_array what, const int64_t *any) {
    const int i = l->program.n_arrays++;
    int64_t shape[4] = {0};
    if (i >= LAB_ARRAYS) abort();
    for (int dim = 0; dim < what.ndim; dim++) shape[dim] = any ? any[dim] : dim ? what.width : l->batch.rows[what.rows] + what.more;
    l->arrays[i] = what;
    l->tensors[i] = tensor_make(name, (fa_dtype)what.dtype, what.ndim, shape, what.ndim == 2 ? l->v.layout : DENSE, l->v.side);
    l->views[i] = l->tensors[i].view;
    l->batch.n_arrays = l->program.n_arrays;
    return i;
}

int lab_integers(lab *l, const char *name, int rows, int more, const int64_t *values) {
    const int i = lab_array(l, name, (fa_array){.dtype = FA_I64, .ndim = 1, .rows = rows, .more = more, .width = -1}, NULL);
    if (l->tensors[i].bytes) memcpy(l->tensors[i].memory, values, l->tensors[i].bytes);
    guard_seal(l->tensors[i].memory);
    return i;
}

int lab_floats(lab *l, const char *name, int rows, int64_t width, uint64_t seed) {
    const int i = lab_array(l, name, (fa_array){.dtype = FA_F32, .ndim = 2, .rows = rows, .width = width}, NULL);
    tensor_fill(&l->tensors[i], seed, 1.0f);
    return i;
}

fa_value lab_column(const lab *l, int array, int64_t first, int64_t width) {
    const fa_array *what = &l->arrays[array];
    return (fa_value){.rows = what->rows, .array = array, .stride = what->width, .first = first, .width = width};
}

fa_value lab_table(lab *l, int rows, int64_t stride, int64_t first, int64_t width) {
    const int64_t at = l->program.columns[rows];
    l->program.columns[rows] += (stride + 15) / 16 * 16;
    return (fa_value){.rows = rows, .array = -1, .at = at, .stride = stride, .first = first, .width = width};
}

fa_step *lab_step(lab *l, fa_step_kind kind, fa_value out, fa_value x) {
    fa_step *step = &l->steps[l->program.n_steps++];
    *step = (fa_step){.kind = kind, .out = out, .x = x, .index = {-1, -1, -1, -1, -1}, .layer = -1, .group = -1, .eps = 1e-5f};
    step->attention = (fa_attention_params){.scale = 0.25f, .window_left = -1, .window_right = -1};
    return step;
}

fa_status lab_run(lab *l, int64_t *bad) {
    fa_ctx ctx = variant_ctx(&l->v);
    size_t bytes = 0;
    fa_status status = fa_program_check(&l->program, bad);
    ctx.stop = l->stop;
    if (status == FA_OK) status = fa_program_space(&ctx, &l->program, &l->batch, &bytes);
    if (status != FA_OK) return status;
    void *ws = guard_alloc(bytes, l->v.side, "workspace");
    hostile_enter(&l->v);
    status = fa_program_run(&ctx, &l->program, &l->batch, ws, bytes, bad);
    hostile_leave(&l->v);
    expect_clean("workspace", guard_free(ws));
    if ((status == FA_OK) != (*bad == -1)) fail("status %d with step %lld", status, (long long)*bad);
    return status;
}

void lab_read(const lab *l, int array, int64_t first, int64_t width, uint64_t seed, float *dense) {
    const fa_view *view = &l->views[array];
    const int64_t columns = view->shape[1];
    for (int64_t i = 0; i < view->shape[0]; i++)
        for (int64_t j = 0; j < columns; j++) {
            const float x = *(const float *)view_at(view, i * columns + j), before = bell(seed, (uint64_t)(i * columns + j));
            if (j >= first && j < first + width) *dense++ = x;
            else if (memcmp(&x, &before, sizeof x)) fail("row %lld, column %lld was written to", (long long)i, (long long)j);
        }
}
