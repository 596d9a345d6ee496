/* SPDX-License-Identifier: MIT */
/*
 * Steps with states: sequences that come in pieces, cut anywhere, in any batches, in place or from slot to slot, give the
 * bytes of the operators over each whole sequence, where linear attention is called with a head of q and k for every state.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "program_lab.h"

enum { N = 3, TOTAL = 61, SLOTS = 2 * N, TAPS = 4, MIXERS = 4 };

static const int64_t lengths[N] = {38, 1, 22};

/* What the mixers are: heads with a state, heads of q and k, their sizes, and which numbers of a token they take. */
typedef struct mixer {
    int64_t heads, shared, dk, dv;
    int decay, by_row, beta;
} mixer;

static const mixer mixers[MIXERS] = {
    {4, 2, 9, 16, 1, 0, 1}, /* gated delta, two states for each key */
    {6, 1, 16, 5, 1, 0, 0}, /* gated, all states for one key */
    {2, 2, 8, 40, 1, 1, 1},
    {3, 3, 4, 17, 0, 0, 0},
};

enum { WIDE = 256 }; /* columns that all of them find their numbers in, q, k, v, decay and beta side by side */

static int64_t width_of(const mixer *m) { return m->heads * m->dk * m->dv; }
static int64_t outs_of(const mixer *m) { return m->heads * m->dv; }
static int64_t decays_of(const mixer *m) { return m->heads * (m->by_row ? m->dk : 1); }
static int64_t start_of(int64_t sequence) { return sequence == 0 ? 0 : start_of(sequence - 1) + lengths[sequence - 1]; }

static const int64_t first_gate = 176; /* columns before it are convolved, so k is not too long there */
static float element(int64_t sequence, int64_t t, int64_t j) {
    const float x = bell(500 + (uint64_t)sequence, (uint64_t)(t * WIDE + j));
    return j < first_gate ? x * 0.25f : x < 0 ? x * 0.1f : x * -0.1f;
}

static fa_view taps_of(float *to) {
    for (int64_t i = 0; i < TAPS * first_gate; i++) to[i] = bell(600, (uint64_t)i) * 0.4f;
    return (fa_view){to, {TAPS, first_gate}, {first_gate * 4, 4}, 2, FA_F32};
}

/* ---- by hand ---------------------------------------------------------------------------------------------------------- */

/* Sequence after sequence and head after head, as dense calls of one stream; state (heads, dk, dv) of each sequence. */
static void by_hand(int number, float *out, float *states) {
    const mixer *m = &mixers[number];
    const fa_ctx ctx = {.kernels = fa_kernels_for(0), .num_threads = 1};
    float *taps = scratch(TAPS * first_gate, 4);
    const fa_view weight = taps_of(taps);
    for (int64_t b = 0; b < N; b++) {
        const int64_t t = lengths[b], cu[2] = {0, t};
        float *x = scratch(t * WIDE, 4);
        for (int64_t i = 0; i < t * WIDE; i++) x[i] = element(b, i / WIDE, i % WIDE);
        float *mixed = scratch(t * WIDE, 4);
        memcpy(mixed, x, (size_t)(t * WIDE) * 4);
        const fa_view from = {x, {t, first_gate}, {WIDE * 4, 4}, 2, FA_F32}, to = {mixed, {t, first_gate}, {WIDE * 4, 4}, 2, FA_F32};
        const fa_short_conv_params conv = {.weight = &weight, .act = FA_ACT_SILU, .cu = cu, .n_seq = 1};
        expect_status("convolution", fa_short_conv(&ctx, &to, &from, &conv), FA_OK);
        const int64_t keys = m->shared * m->dk, v0 = 2 * keys, g0 = first_gate, b0 = first_gate + decays_of(m);
        for (int64_t h = 0; h < m->heads; h++) {
            const int64_t key = h / (m->heads / m->shared) * m->dk, gates = m->by_row ? m->dk : 1, row = WIDE * 4;
#define COLUMNS(FIRST, WIDTH) {mixed + (FIRST), {1, t, 1, WIDTH}, {0, row, 0, 4}, 4, FA_F32}
            const fa_view q = COLUMNS(key, m->dk), k = COLUMNS(keys + key, m->dk), v = COLUMNS(v0 + h * m->dv, m->dv);
            const fa_view decay = COLUMNS(g0 + h * gates, gates), beta = {mixed + b0 + h, {1, 1, t, 1}, {0, 0, row, 4}, 4, FA_F32};
#undef COLUMNS
            const fa_view o = {out + start_of(b) * outs_of(m) + h * m->dv, {1, t, 1, m->dv}, {0, outs_of(m) * 4, 0, 4}, 4, FA_F32};
            const fa_view after = {states + b * width_of(m) + h * m->dk * m->dv, {1, 1, m->dk, m->dv}, {0, 0, m->dv * 4, 4}, 4, FA_F32};
            const fa_linear_attention_params p = {
                .scale = 0.5f, .rule = (m->decay ? FA_RULE_GATED : 0) | (m->beta ? FA_RULE_DELTA : 0),
                .decay = m->decay ? &decay : NULL, .beta = m->beta ? &beta : NULL,
            };
            size_t bytes = 0;
            expect_status("query", fa_linear_attention_workspace(&ctx, &o, &after, &q, &k, &v, &p, &bytes), FA_OK);
            void *ws = guard_alloc(bytes, GUARD_BACK, "workspace by hand");
            expect_status("by hand", fa_linear_attention(&ctx, &o, &after, &q, &k, &v, &p, ws, bytes), FA_OK);
            guard_free(ws);
        }
        free(x), free(mixed);
    }
    free(taps);
}

/* ---- in pieces --------------------------------------------------------------------------------------------------------- */

typedef struct memory {
    tensor tables[MIXERS + 1];
    fa_view views[MIXERS + 1];
    int64_t held[N], slots[N]; /* -1: nothing yet */
} memory;

static void memory_begin(memory *m, guard_side side) {
    for (int i = 0; i <= MIXERS; i++) {
        const int64_t shape[2] = {SLOTS, i < MIXERS ? width_of(&mixers[i]) : (TAPS - 1) * first_gate};
        m->tables[i] = tensor_make("states", FA_F32, 2, shape, DENSE, side);
        m->views[i] = m->tables[i].view;
    }
    for (int b = 0; b < N; b++) m->held[b] = 0, m->slots[b] = -1;
}

static void memory_end(memory *m) {
    for (int i = 0; i <= MIXERS; i++) expect_clean("states", tensor_free(&m->tables[i]));
}

static fa_memory_layer no_layer;
static fa_memory_group no_group;

/* The convolution, then the mixers over its columns and the gates beside them. */
static void make_program(lab *l, const int64_t *ends, const fa_view *weight, int *outs, int *wide) {
    *wide = lab_array(l, "x", (fa_array){.dtype = FA_F32, .ndim = 2, .rows = TOKENS, .width = WIDE}, NULL);
    const int cu = lab_integers(l, "ends", SEQUENCES, 1, ends);
    const fa_value mixed = lab_table(l, TOKENS, first_gate, 0, first_gate);
    fa_step *s = lab_step(l, FA_STEP_SHORT_CONV, mixed, lab_column(l, *wide, 0, first_gate));
    s->tables[0] = *weight, s->n_tables = 1, s->act = FA_ACT_SILU, s->index[0] = cu, s->state = MIXERS;
    for (int i = 0; i < MIXERS; i++) {
        const mixer *m = &mixers[i];
        const int64_t keys = m->shared * m->dk;
        fa_value q = mixed, k = mixed, v = mixed;
        q.width = k.width = keys, k.first = keys, v.first = 2 * keys, v.width = outs_of(m);
        outs[i] = lab_floats(l, "out", TOKENS, outs_of(m), 0);
        s = lab_step(l, FA_STEP_LINEAR_ATTENTION, lab_column(l, outs[i], 0, outs_of(m)), q);
        s->y = k, s->z = v, s->heads = m->heads, s->kv_heads = m->shared, s->head_size = m->dk, s->v_head_size = m->dv;
        s->scale = 0.5f, s->index[0] = cu, s->state = i;
        if (m->decay) s->decay = lab_column(l, *wide, first_gate, decays_of(m));
        if (m->beta) s->beta = lab_column(l, *wide, first_gate + decays_of(m), m->heads);
    }
    l->program.n_states = MIXERS + 1;
}

static void run_piece(memory *m, const variant *v, const int64_t take[N], int move, float *results[MIXERS]) {
    lab l;
    int64_t ends[N + 1] = {0}, to[N], held[N], bad;
    int outs[MIXERS], wide;
    float *taps = scratch(TAPS * first_gate, 4);
    const fa_view weight = taps_of(taps);
    lab_begin(&l, v, MIXERS + 1);
    for (int64_t b = 0; b < N; b++) {
        ends[b + 1] = ends[b] + take[b];
        held[b] = m ? m->held[b] : 0;
        to[b] = m && m->slots[b] >= 0 ? (m->slots[b] + (move ? N : 0)) % SLOTS : (2 * b + 1) % N;
    }
    l.batch.rows[TOKENS] = ends[N], l.batch.rows[SEQUENCES] = N;
    make_program(&l, ends, &weight, outs, &wide);
    for (int64_t b = 0; b < N; b++)
        for (int64_t i = 0; i < take[b] * WIDE; i++)
            *(float *)view_at(&l.views[wide], ends[b] * WIDE + i) = element(b, held[b] + i / WIDE, i % WIDE);
    guard_seal(l.tensors[wide].memory);
    if (m) {
        l.batch.layers = &no_layer, l.batch.groups = &no_group;
        l.batch.states = m->views, l.batch.n_states = MIXERS + 1, l.batch.state_from = m->slots, l.batch.state_to = to;
    }
    expect_status("program", lab_run(&l, &bad), FA_OK);
    for (int i = 0; i < MIXERS; i++)
        for (int64_t b = 0, n = outs_of(&mixers[i]); b < N; b++)
            for (int64_t j = 0; j < take[b] * n; j++)
                results[i][(start_of(b) + held[b]) * n + j] = *(float *)view_at(&l.views[outs[i]], ends[b] * n + j);
    for (int b = 0; b < N && m; b++) m->held[b] += take[b], m->slots[b] = to[b];
    lab_end(&l);
    free(taps);
}

enum { WHOLE, ONE_BY_ONE, ONE_AFTER_THE_OTHER, ANYHOW, CUTS };

static int64_t take_of(int cut, int64_t b, int64_t left, int64_t round) {
    const int64_t random = (int64_t)(hash_at(778, (uint64_t)(round * N + b)) % 9);
    switch (cut) {
    case ONE_BY_ONE: return left > 0;
    case ONE_AFTER_THE_OTHER: return round % N == b ? (left < 34 ? left : 34) : 0;
    case ANYHOW: return left < random ? left : random;
    default: return left;
    }
}

static void run_cut(int cut, int move, const variant *v, float *results[MIXERS], float *states[MIXERS]) {
    memory m;
    memory_begin(&m, v->side);
    for (int64_t round = 0, done = 0; done < TOTAL; round++) {
        int64_t take[N];
        for (int64_t b = 0; b < N; b++) done += take[b] = take_of(cut, b, lengths[b] - m.held[b], round);
        run_piece(&m, v, take, move, results);
    }
    for (int i = 0; i < MIXERS; i++)
        for (int64_t b = 0, n = width_of(&mixers[i]); b < N; b++)
            memcpy(states[i] + b * n, view_at(&m.views[i], m.slots[b] * n), (size_t)n * 4);
    memory_end(&m);
}

static void run_all(void) {
    if (!case_begin("program states")) return;
    uint64_t hash = HASH_START;
    float *base[MIXERS], *got[MIXERS], *after[MIXERS], *left[MIXERS];
    int turn = 0;
    case_variant(&(variant){0, FA_FORCE_NONE, 1, GUARD_BACK, DENSE, 0});
    for (int i = 0; i < MIXERS; i++) {
        base[i] = scratch(TOTAL * outs_of(&mixers[i]), 4), got[i] = scratch(TOTAL * outs_of(&mixers[i]), 4);
        after[i] = scratch(N * width_of(&mixers[i]), 4), left[i] = scratch(N * width_of(&mixers[i]), 4);
        by_hand(i, base[i], after[i]);
        hash = hash_bytes(hash, base[i], (size_t)(TOTAL * outs_of(&mixers[i])) * 4);
    }
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int round = 0; round < 2 * CUTS; round++) {
            const variant v = variant_of(isa, turn++ % VARIANTS_PER_ISA);
            for (int i = 0; i < MIXERS; i++) memset(got[i], 0xff, (size_t)(TOTAL * outs_of(&mixers[i])) * 4);
            run_cut(round % CUTS, round / CUTS, &v, got, left);
            for (int i = 0; i < MIXERS; i++) {
                expect_same("in pieces", got[i], base[i], TOTAL * outs_of(&mixers[i]), 4);
                expect_same("states", left[i], after[i], N * width_of(&mixers[i]), 4);
            }
        }
        const variant v = variant_of(isa, turn++ % VARIANTS_PER_ISA);
        run_piece(NULL, &v, lengths, 0, got); /* the same program without memory */
        for (int i = 0; i < MIXERS; i++) expect_same("without memory", got[i], base[i], TOTAL * outs_of(&mixers[i]), 4);
    }
    for (int i = 0; i < MIXERS; i++) free(base[i]), free(got[i]), free(after[i]), free(left[i]);
    case_end(hash);
}

/* ---- what does not fit --------------------------------------------------------------------------------------------------- */

static void refused(void) {
    if (!case_begin("program states, refused")) return;
    const variant v = {0, FA_FORCE_NONE, 1, GUARD_BACK, DENSE, 0};
    static const int64_t ends[N + 1] = {0, 2, 3, 5}, high[N] = {0, 1, SLOTS}, low[N] = {-1, -1, -2}, right[N] = {0, 1, 2};
    float *taps = scratch(TAPS * first_gate, 4);
    const fa_view weight = taps_of(taps);
#define REFUSED(STATUS, CHANGE) \
    do { \
        lab l; \
        memory m; \
        int outs[MIXERS], wide; \
        int64_t bad; \
        memory_begin(&m, GUARD_BACK); \
        lab_begin(&l, &v, MIXERS + 1); \
        l.batch.rows[TOKENS] = ends[N], l.batch.rows[SEQUENCES] = N; \
        make_program(&l, ends, &weight, outs, &wide); \
        tensor_fill(&l.tensors[wide], 0, 1.0f); \
        l.batch.layers = &no_layer, l.batch.groups = &no_group, l.batch.states = m.views, l.batch.n_states = MIXERS + 1; \
        l.batch.state_from = l.batch.state_to = right; \
        fa_step *s = l.steps; \
        CHANGE; \
        (void)s; \
        expect_status(#CHANGE, lab_run(&l, &bad), STATUS); \
        lab_end(&l); \
        memory_end(&m); \
    } while (0)
    REFUSED(FA_OK, s += 0);
    REFUSED(FA_ERR_VALUE, s->kind = 19); /* of which there is none */
    REFUSED(FA_ERR_SHAPE, s->state = -1);
    REFUSED(FA_ERR_SHAPE, s->state = MIXERS + 1);
    REFUSED(FA_ERR_SHAPE, s->state = 0);
    REFUSED(FA_ERR_SHAPE, s->n_tables = 0);
    REFUSED(FA_ERR_SHAPE, s->tables[0].shape[1]--);
    REFUSED(FA_ERR_SHAPE, s->tables[0].shape[0] = FA_MAX_CONV + 1);
    REFUSED(FA_ERR_SHAPE, s->index[0] = -1);
    REFUSED(FA_ERR_SHAPE, s->act = 9);
    REFUSED(FA_ERR_SHAPE, s->out.width--);
    REFUSED(FA_ERR_SHAPE, s[1].state = 4);
    REFUSED(FA_ERR_SHAPE, s[1].heads = 3);
    REFUSED(FA_ERR_SHAPE, s[1].kv_heads = 0);
    REFUSED(FA_ERR_SHAPE, s[1].head_size = 8);
    REFUSED(FA_ERR_SHAPE, s[1].v_head_size = 0);
    REFUSED(FA_ERR_SHAPE, s[1].decay.width = 3);
    REFUSED(FA_ERR_SHAPE, s[1].decay.first = WIDE);
    REFUSED(FA_ERR_SHAPE, s[1].beta.width = 1);
    REFUSED(FA_ERR_SHAPE, s[1].beta.array = 77);
    REFUSED(FA_ERR_SHAPE, s[1].decay = s[1].out);
    REFUSED(FA_ERR_SHAPE, s[1].scale = -INFINITY);
    REFUSED(FA_ERR_SHAPE, s[2].z.first = first_gate);
    REFUSED(FA_ERR_SHAPE, l.batch.n_states--);
    REFUSED(FA_ERR_VALUE, l.batch.states = NULL);
    REFUSED(FA_ERR_VALUE, l.batch.layers = NULL);
    REFUSED(FA_ERR_VALUE, l.batch.state_from = NULL);
    REFUSED(FA_ERR_VALUE, l.batch.state_to = NULL);
    REFUSED(FA_ERR_VALUE, l.batch.state_from = high);
    REFUSED(FA_ERR_VALUE, l.batch.state_from = low);
    REFUSED(FA_ERR_VALUE, l.batch.state_to = high);
    REFUSED(FA_ERR_VALUE, l.batch.state_to = low);
    REFUSED(FA_ERR_SHAPE, m.views[2].shape[1]++);
    REFUSED(FA_ERR_DTYPE, m.views[4].dtype = FA_F16);
#undef REFUSED
    free(taps);
    case_end(HASH_START);
}

/* ---- gates --------------------------------------------------------------------------------------------------------------- */

enum { ROWS = 5, GATE_HEADS = 3, GATE_WIDE = 21, GATE_STEPS = 4 };

static float gate_numbers[64];

static fa_view gate_vector(int64_t n) { return (fa_view){gate_numbers, {n}, {4}, 1, FA_F32}; }

/* Time steps, what they scale, a skip beside it, decays in the place of the steps. */
static void make_gates(lab *l, int *outs) {
    for (int i = 0; i < 64; i++) gate_numbers[i] = bell(700, (uint64_t)i);
    l->batch.rows[TOKENS] = ROWS;
    const int in = lab_floats(l, "x", TOKENS, GATE_WIDE + GATE_HEADS, 41);
    outs[0] = lab_floats(l, "scaled", TOKENS, GATE_WIDE, 42), outs[1] = lab_floats(l, "decays", TOKENS, GATE_HEADS, 43);
    const fa_value x = lab_column(l, in, 0, GATE_WIDE), t = lab_column(l, in, GATE_WIDE, GATE_HEADS);
    const fa_value scaled = lab_column(l, outs[0], 0, GATE_WIDE), decays = lab_column(l, outs[1], 0, GATE_HEADS);
    fa_step *s = lab_step(l, FA_STEP_SOFTPLUS, decays, t);
    s->bias = gate_vector(GATE_HEADS), s->eps = 0.25f, s->scale = 2;
    lab_step(l, FA_STEP_SCALE_HEADS, scaled, x)->y = decays;
    s = lab_step(l, FA_STEP_COLUMNS, scaled, scaled);
    s->y = x, s->weight = gate_vector(GATE_WIDE);
    s = lab_step(l, FA_STEP_SOFTPLUS, decays, decays);
    s->weight = gate_vector(GATE_HEADS), s->act = 1, s->eps = 0, s->scale = INFINITY;
}

static void run_gates(void) {
    if (!case_begin("program of gates")) return;
    const fa_ctx ctx = {.kernels = fa_kernels_for(0), .num_threads = 1};
    float x[ROWS * GATE_WIDE], t[ROWS * GATE_HEADS], base[ROWS * GATE_WIDE], got[ROWS * GATE_WIDE], few[ROWS * GATE_HEADS];
    for (int64_t i = 0; i < ROWS; i++) {
        const int64_t row = i * (GATE_WIDE + GATE_HEADS);
        for (int64_t j = 0; j < GATE_WIDE; j++) x[i * GATE_WIDE + j] = bell(41, (uint64_t)(row + j));
        for (int64_t j = 0; j < GATE_HEADS; j++) t[i * GATE_HEADS + j] = bell(41, (uint64_t)(row + GATE_WIDE + j));
    }
    for (int i = 0; i < 64; i++) gate_numbers[i] = bell(700, (uint64_t)i);
    const fa_view xs = {x, {ROWS, GATE_WIDE}, {GATE_WIDE * 4, 4}, 2, FA_F32}, ts = {t, {ROWS, GATE_HEADS}, {GATE_HEADS * 4, 4}, 2, FA_F32};
    const fa_view to = {base, {ROWS, GATE_WIDE}, {GATE_WIDE * 4, 4}, 2, FA_F32}, narrow = gate_vector(GATE_HEADS), wide = gate_vector(GATE_WIDE);
    expect_status("steps", fa_softplus(&ctx, &ts, &ts, &narrow, NULL, 0, 0.25f, 2), FA_OK);
    expect_status("scaled", fa_scale_heads(&ctx, &to, &xs, &ts), FA_OK);
    expect_status("skip", fa_columns(&ctx, &to, &to, &xs, &wide), FA_OK);
    expect_status("decays", fa_softplus(&ctx, &ts, &ts, NULL, &narrow, 1, 0, INFINITY), FA_OK);
    for (int isa = 0; isa < fa_isa_count(); isa++)
        for (int index = 0; index < VARIANTS_PER_ISA && isa_selected(isa); index++) {
            const variant v = variant_of(isa, index);
            lab l;
            int outs[2];
            int64_t bad;
            lab_begin(&l, &v, GATE_STEPS);
            make_gates(&l, outs);
            expect_status("program", lab_run(&l, &bad), FA_OK);
            lab_read(&l, outs[0], 0, GATE_WIDE, 42, got);
            lab_read(&l, outs[1], 0, GATE_HEADS, 43, few);
            expect_same("scaled", got, base, ROWS * GATE_WIDE, 4);
            expect_same("decays", few, t, ROWS * GATE_HEADS, 4);
            lab_end(&l);
        }
    case_end(hash_bytes(hash_bytes(HASH_START, base, sizeof base), t, sizeof t));
}

static void refused_gates(void) {
    if (!case_begin("program of gates, refused")) return;
    const variant v = {0, FA_FORCE_NONE, 1, GUARD_BACK, DENSE, 0};
#define REFUSED(STATUS, CHANGE) \
    do { \
        lab l; \
        int outs[2]; \
        int64_t bad; \
        lab_begin(&l, &v, GATE_STEPS); \
        make_gates(&l, outs); \
        fa_step *s = l.steps; \
        CHANGE; \
        (void)s; \
        expect_status(#CHANGE, lab_run(&l, &bad), STATUS); \
        lab_end(&l); \
    } while (0)
    REFUSED(FA_OK, s += 0);
    REFUSED(FA_ERR_SHAPE, s->bias = gate_vector(2));
    REFUSED(FA_ERR_SHAPE, s->eps = -1);
    REFUSED(FA_ERR_SHAPE, s->scale = 0);
    REFUSED(FA_ERR_SHAPE, s->scale = NAN);
    REFUSED(FA_ERR_SHAPE, s->act = 2);
    REFUSED(FA_ERR_SHAPE, s[1].y.width = 2);
    REFUSED(FA_ERR_SHAPE, s[1].y.width = 0);
    REFUSED(FA_ERR_SHAPE, s[1].y = s[1].out);
    REFUSED(FA_ERR_SHAPE, s[2].weight = gate_vector(20));
    REFUSED(FA_ERR_SHAPE, s[2].weight.ndim = 0);
    REFUSED(FA_ERR_SHAPE, s[2].y.width = 20);
    REFUSED(FA_ERR_SHAPE, s[3].weight = gate_vector(4));
#undef REFUSED
    case_end(HASH_START);
}

void test_program_states(const options *o) {
    (void)o;
    run_all();
    refused();
    run_gates();
    refused_gates();
}
