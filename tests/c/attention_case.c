/* SPDX-License-Identifier: MIT */
#include "attention_case.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../src_c/kernels/kernels.h"
#include "../../src_c/view.h"
#include "attention_inputs.h"

typedef struct result {
    int64_t n_out, n_lse, n_weights, n_scores;
    float *out, *lse, *weights, *scores; /* dense; out widened, which loses nothing */
} result;

/* ---- one call ---------------------------------------------------------------------------------------------------- */

static result make_result(const attention_case *c) {
    const int64_t rows = (c->cu_q ? 1 : c->b) * c->hq * c->sq;
    result r = {.n_out = rows * c->dv, .n_lse = c->lse ? rows : 0, .n_weights = c->weights ? rows * c->sk : 0,
                .n_scores = c->stage ? rows * c->sk : 0};
    r.out = scratch(r.n_out, sizeof(float));
    r.lse = scratch(r.n_lse, sizeof(float));
    r.weights = scratch(r.n_weights, sizeof(float));
    r.scores = scratch(r.n_scores, sizeof(float));
    return r;
}

static void free_result(result *r) { free(r->out), free(r->lse), free(r->weights), free(r->scores); }

/* An output's elements as floats; then nothing beside them may have been written. */
static void take(const char *what, tensor *t, float *to) {
    const int64_t count = tensor_count(&t->view);
    void *stored = scratch(count, fa_itemsize(t->view.dtype));
    tensor_gather(t, stored);
    fa_kernels_for(0)->convert.widen(to, stored, t->view.dtype, count);
    free(stored);
    expect_clean(what, tensor_free_output(t));
}

/* Runs the operator in one variant, with a workspace exactly as large as it asked for. */
static result run(const attention_case *c, const variant *v, poison poison) {
    const int64_t batch = c->cu_q ? 1 : c->b;
    const int64_t out_shape[4] = {batch, c->hq, c->sq, c->dv}, w_shape[4] = {batch, c->hq, c->sq, c->sk};
    result r = make_result(c);
    case_variant(v);
    inputs in = make_inputs(c, v);
    finish_inputs(c, &in, poison);
    tensor out = tensor_make("out", dtype_of(c), 4, out_shape, v->layout, v->side), lse = {0}, weights = {0}, scores = {0};
    if (c->lse) lse = tensor_make("lse", FA_F32, 3, out_shape, v->layout, v->side);
    if (c->weights) weights = tensor_make("weights", FA_F32, 4, w_shape, v->layout, v->side);
    if (c->stage) {
        scores = tensor_make("scores", FA_F32, 4, w_shape, v->layout, v->side);
        in.call.scores = &scores.view;
    }
    const fa_view *lse_view = c->lse ? &lse.view : NULL, *w_view = c->weights ? &weights.view : NULL;

    fa_ctx ctx = variant_ctx(v);
    size_t bytes = 0;
    hostile_enter(v);
    fa_status status = fa_attention_workspace(&ctx, &out.view, lse_view, w_view, &in.q.view, in.call_k, in.call_v, &in.call, &bytes);
    hostile_leave(v);
    expect_status("workspace query", status, FA_OK);
    void *ws = guard_alloc(bytes, v->side, "workspace");
    if (v->hostile) memset(ws, 0xff, bytes); /* what a workspace holds does not matter: NaN */
    hostile_enter(v);
    status = fa_attention(&ctx, &out.view, lse_view, w_view, &in.q.view, in.call_k, in.call_v, &in.call, ws, bytes);
    hostile_leave(v);
    expect_status("attention", status, FA_OK);
    expect_clean("workspace", guard_free(ws));

    take("out", &out, r.out);
    if (c->lse) take("lse", &lse, r.lse);
    if (c->weights) take("weights", &weights, r.weights);
    if (c->stage) take("scores", &scores, r.scores);
    free_inputs(&in);
    return r;
}

/* ---- what must hold ---------------------------------------------------------------------------------------------- */

typedef struct naive_arg {
    const attention_case *c;
    const attention_arrays *arrays;
    int which; /* 0 out, 1 lse, 2 weights, 3 scores */
} naive_arg;

static void run_naive(void *arg, int order, float *out) {
    const naive_arg *a = arg;
    result r = make_result(a->c);
    float *lse = scratch(a->c->b * a->c->hq * a->c->sq, sizeof *lse);
    attention_float(a->arrays, order, r.out, lse, a->which == 2 ? r.weights : NULL, a->which == 3 ? r.scores : NULL);
    if (a->which == 0) memcpy(out, r.out, (size_t)r.n_out * sizeof *out);
    if (a->which == 1) memcpy(out, lse, (size_t)r.n_lse * sizeof *out);
    if (a->which == 2) memcpy(out, r.weights, (size_t)r.n_weights * sizeof *out);
    if (a->which == 3) memcpy(out, r.scores, (size_t)r.n_scores * sizeof *out);
    free(lse);
    free_result(&r);
}

static void check_reference(const attention_case *c, const result *got) {
    variant plain = variant_of(0, 0);
    inputs in = make_inputs(c, &plain);
    finish_inputs(c, &in, CLEAN);
    const int64_t rows = got->n_out / c->dv;
    double *out = scratch(got->n_out, sizeof *out), *lse = scratch(rows, sizeof *lse);
    double *weights = c->weights ? scratch(got->n_weights, sizeof *weights) : NULL;
    double *scores = c->stage ? scratch(got->n_scores, sizeof *scores) : NULL;
    naive_arg arg = {c, &in.arrays, 0};
    attention_double(&in.arrays, 0, out, lse, weights, scores);
    expect_accurate_as("out", dtype_of(c), got->out, out, got->n_out, run_naive, &arg);
    arg.which = 1;
    if (c->lse) expect_accurate("lse", got->lse, lse, rows, run_naive, &arg);
    arg.which = 2;
    if (c->weights) expect_accurate("weights", got->weights, weights, got->n_weights, run_naive, &arg);
    arg.which = 3;
    if (c->stage) expect_accurate("scores", got->scores, scores, got->n_scores, run_naive, &arg);
    free(out), free(lse), free(weights), free(scores);
    free_inputs(&in);
}

/* Products with keys that nobody sees are whatever these hold: `scores` 0 leaves them out. */
static void compare(const result *got, const result *base, int scores) {
    expect_same("out", got->out, base->out, base->n_out, sizeof(float));
    expect_same("lse", got->lse, base->lse, base->n_lse, sizeof(float));
    expect_same("weights", got->weights, base->weights, base->n_weights, sizeof(float));
    if (scores) expect_same("scores", got->scores, base->scores, base->n_scores, sizeof(float));
}

/* With NaN in the middle key's values, rows that may not attend to it are as they were and the others are NaN. */
static void check_one_key(const attention_case *c, const variant *v, const result *base) {
    inputs in = make_inputs(c, v);
    finish_inputs(c, &in, CLEAN);
    result r = run(c, v, POISON_ONE_KEY);
    for (int64_t b = 0; b < sequences(&in.arrays); b++) {
        const sequence s = get_sequence(&in.arrays, b);
        for (int64_t h = 0; h < c->hq; h++)
            for (int64_t i = 0; i < s.queries; i++) {
                const int64_t row = ((s.batch * c->hq + h) * c->sq + s.q0 + i) * c->dv;
                if (s.keys && may_attend(&in.arrays, &s, h, i, s.keys / 2))
                    for (int64_t e = 0; e < c->dv; e++) r.out[row + e] = isnan(r.out[row + e]) ? base->out[row + e] : -1.0f;
            }
    }
    for (int64_t i = 0; c->integers && i < r.n_lse; i++) /* a row is NaN with its lse */
        if (isnan(r.lse[i])) r.lse[i] = base->lse[i];
    for (int64_t i = 0; c->integers && i < r.n_weights; i++)
        if (isnan(r.weights[i])) r.weights[i] = base->weights[i];
    compare(&r, base, 1);
    free_result(&r);
    free_inputs(&in);
}

/* By integers: rows are as close as 8 bits allow. Keys of int8 are taken as rotated ones, which the reference knows nothing
 * of: that they and rounded floats give the same is for Python's tests. */
static void check_integers(const attention_case *c, const result *got) {
    variant plain = variant_of(0, 0);
    inputs in = make_inputs(c, &plain);
    finish_inputs(c, &in, CLEAN);
    const int64_t rows = got->n_out / c->dv;
    double *out = scratch(got->n_out, sizeof *out), *lse = scratch(rows, sizeof *lse), dot = 0, mine = 0, other = 0, off = 0;
    attention_double(&in.arrays, 0, out, lse, NULL, NULL);
    for (int64_t i = 0; i < got->n_out; i++) dot += out[i] * got->out[i], mine += got->out[i] * got->out[i], other += out[i] * out[i];
    for (int64_t i = 0; c->lse && i < rows; i++) off = isinf(lse[i]) ? (lse[i] == got->lse[i] ? off : 9) : fmax(off, fabs(lse[i] - got->lse[i]));
    if (!(dot >= 0.999 * sqrt(mine * other))) fail("out: cosine %g", dot / sqrt(mine * other));
    if (!(off <= 0.1)) fail("lse: off by %g", off);
    free(out), free(lse);
    free_inputs(&in);
}

void attention_run(const attention_case *c) {
    if (!case_begin("attention %s", c->name)) return;
    const int poisoned = c->fill == FILL_BELL && (c->mask || c->block_rows || c->causal || c->windowed || (c->kv_lengths && !c->unmapped));
    variant first = variant_of(0, 0);
    result base = run(c, &first, CLEAN);
    if (!c->integers) check_reference(c, &base);
    else if (kv_dtype_of(c) == FA_F32 && c->fill == FILL_BELL) check_integers(c, &base);
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int index = isa == 0; index < VARIANTS_PER_ISA; index++) {
            variant v = variant_of(isa, index);
            const int poison = poisoned && index % 2;
            result r = run(c, &v, poison ? POISON_EXCLUDED : CLEAN);
            compare(&r, &base, !poison || c->stage == FA_SCORES_BIAS);
            free_result(&r);
            /* a float mask may hold weights that round to 0: then the key counts as excluded, which is no error */
            if (poisoned && index == 2 && c->mask != MASK_FLOAT) check_one_key(c, &v, &base);
        }
    }
    case_variant(&first);
    uint64_t hash = hash_bytes(HASH_START, base.out, (size_t)base.n_out * sizeof(float));
    hash = hash_bytes(hash, base.lse, (size_t)base.n_lse * sizeof(float));
    hash = hash_bytes(hash, base.weights, (size_t)base.n_weights * sizeof(float));
    case_end(hash_bytes(hash, base.scores, (size_t)base.n_scores * sizeof(float)));
    free_result(&base);
}
