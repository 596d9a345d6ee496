/* SPDX-License-Identifier: MIT */
#include "program_call.h"

#include <string.h>

static _Alignas(64) float panels[1 << 15]; /* of weights and relative embeddings, of all widths that there is room for */
static float numbers[64];
static const int64_t ends[S + 1] = {0, 3, T}, places[T] = {0, 1, 2, 0, 2, 3, 4}, small[T] = {1, 0, 2, 3, 1, 0, 2}, one[1] = {1};
const fa_linear_weights call_weights = {.dtype = FA_F32, .panels = panels};

fa_view call_vector(int64_t n) { return (fa_view){.data = numbers, .shape = {n}, .stride = {4}, .ndim = 1, .dtype = FA_F32}; }

static int any_rows(lab *l, const char *name, fa_dtype dtype, int64_t rows, int64_t columns) {
    const int64_t shape[2] = {rows, columns};
    return lab_array(l, name, (fa_array){.dtype = dtype, .ndim = columns ? 2 : 1, .rows = -1, .width = -1}, shape);
}

void call_begin(call *c, const variant *v) {
    memset(c, 0, sizeof *c);
    lab *l = &c->l;
    lab_begin(l, v, STEPS);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) numbers[i] = bell(5, i);
    l->batch.rows[TOKENS] = T, l->batch.rows[SEQUENCES] = S, l->batch.rows[WANTED] = W;
    lab_floats(l, "out", TOKENS, 2 * H, 1), lab_floats(l, "in", TOKENS, H, 2);
    lab_integers(l, "ids", TOKENS, 0, small), lab_integers(l, "ends", SEQUENCES, 1, ends), lab_integers(l, "columns", TOKENS, 0, places);
    any_rows(l, "cosines", FA_F32, 5, 2), any_rows(l, "sines", FA_F32, 5, 2);
    tensor_fill(&l->tensors[COS], 3, 1.0f), tensor_fill(&l->tensors[SIN], 4, 1.0f);
    lab_integers(l, "turns", TOKENS, 0, small);
    lab_array(l, "index", (fa_array){.dtype = FA_I64, .ndim = 2, .rows = WANTED, .width = 2}, NULL);
    memset(l->tensors[INDEX].memory, 0, l->tensors[INDEX].bytes);
    any_rows(l, "skip", FA_I64, 1, 0);
    memcpy(l->tensors[SKIP].memory, one, sizeof one);
    lab_integers(l, "places", TOKENS, 0, places);
    l->arrays[COLUMNS].optional = 1;
    l->views[COLUMNS] = (fa_view){0};
    const fa_value x = lab_table(l, TOKENS, H, 0, H), wide = lab_table(l, TOKENS, 3 * H, 0, 3 * H), y = lab_table(l, TOKENS, H, 0, H);
    const fa_value out = lab_column(l, OUT, 0, H), in = lab_column(l, IN, 0, H), sums = lab_table(l, SEQUENCES, H, 0, H);
    fa_value q = wide, k = wide, w = wide;
    q.width = k.width = w.width = H, k.first = H, w.first = 2 * H;
    c->s = l->steps;
    fa_step *s = lab_step(l, FA_STEP_EMBED, x, (fa_value){0});
    s->n_tables = 1, s->index[0] = IDS;
    s->tables[0] = (fa_view){.data = panels, .shape = {4, H}, .stride = {4 * H, 4}, .ndim = 2, .dtype = FA_F32};
    s = lab_step(l, FA_STEP_LINEAR, wide, x);
    s->weights = &call_weights, s->bias = call_vector(3 * H);
    s = lab_step(l, FA_STEP_ROPE, q, q);
    s->heads = HEADS, s->head_size = SIZE, s->index[0] = COS, s->index[1] = SIN, s->index[2] = TURNS;
    s = lab_step(l, FA_STEP_ATTENTION, y, q);
    s->y = k, s->z = w, s->heads = s->kv_heads = HEADS, s->head_size = s->v_head_size = SIZE, s->index[0] = ENDS, s->index[1] = COLUMNS;
    s = lab_step(l, FA_STEP_RMS_NORM, y, y);
    s->weight = call_vector(SIZE), s->heads = HEADS;
    s = lab_step(l, FA_STEP_LAYER_NORM, x, x);
    s->y = y, s->weight = s->bias = call_vector(H);
    s = lab_step(l, FA_STEP_GATED, q, q);
    s->y = k, s->act = FA_ACT_SILU;
    lab_step(l, FA_STEP_ADD, y, x)->y = y;
    lab_step(l, FA_STEP_ACTIVATE, x, y)->act = FA_ACT_GELU;
    lab_step(l, FA_STEP_SCALE, x, in)->scale = 0.5f;
    const fa_value pairs = lab_table(l, WANTED, 2 * H, 0, 2 * H);
    lab_step(l, FA_STEP_GATHER, pairs, x)->index[0] = INDEX;
    s = lab_step(l, FA_STEP_POOL, sums, x);
    s->index[0] = ENDS, s->index[1] = SKIP;
    lab_step(l, FA_STEP_NORMALIZE, sums, sums);
    lab_step(l, FA_STEP_COPY, out, y);
    s = lab_step(l, FA_STEP_DISENTANGLED, lab_column(l, OUT, H, H), q);
    s->y = k, s->z = w, s->heads = s->kv_heads = HEADS, s->head_size = s->v_head_size = SIZE, s->index[0] = ENDS, s->index[1] = PLACES;
    s->disentangled = (fa_disentangled_params){.scale = 0.5f, .span = 8, .c2p = panels, .p2c = panels};
}
