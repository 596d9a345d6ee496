/* SPDX-License-Identifier: MIT */
/* A program with its batch, all of it in guarded memory: arrays, workspace, and whatever else a test puts there. */
#ifndef PROGRAM_LAB_H
#define PROGRAM_LAB_H

#include "check.h"

enum { TOKENS = 0, SEQUENCES = 1, OTHERS = 4, WANTED = FA_ROW_KINDS - 1, LAB_ARRAYS = 16 };

typedef struct lab {
    variant v;
    fa_step *steps;
    fa_array arrays[LAB_ARRAYS];
    tensor tensors[LAB_ARRAYS];
    fa_view views[LAB_ARRAYS]; /* of the batch */
    fa_program program;
    fa_batch batch;
    fa_stop *stop;
} lab;

/* No steps, room for `most` of them. Every kind has columns that nobody uses, and OTHERS has rows. */
void lab_begin(lab *l, const variant *v, int64_t most);
void lab_end(lab *l);

/* An array of the batch; its number. Its first dimension is that of its rows where there are some, else `any`. */
int lab_array(lab *l, const char *name, fa_array what, const int64_t *any);
/* int64, one for each row and `more`. */
int lab_integers(lab *l, const char *name, int rows, int more, const int64_t *values);
/* fp32 (rows, width), row-major elements bell(seed, i). */
int lab_floats(lab *l, const char *name, int rows, int64_t width, uint64_t seed);

fa_value lab_column(const lab *l, int array, int64_t first, int64_t width);
fa_value lab_table(lab *l, int rows, int64_t stride, int64_t first, int64_t width);
fa_step *lab_step(lab *l, fa_step_kind kind, fa_value out, fa_value x);

/* Checks the program, measures, and runs it in as much workspace as that says. */
fa_status lab_run(lab *l, int64_t *bad);

/* Columns of an array of the batch to dense memory; fails where others are not bell(seed, i) any more. */
void lab_read(const lab *l, int array, int64_t first, int64_t width, uint64_t seed, float *dense);

#endif
