/* SPDX-License-Identifier: MIT */
/*
 * Batches that do not fit are refused before anything is written; what is told to stop says so soon. Programs with numbers
 * drawn at random either are refused or run within their memory.
 */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "program_call.h"

/* ---- batches ------------------------------------------------------------------------------------------------------- */

/* Measures as it is, spoils, runs: *bad of the run in `step`. Refusals of the batch itself write nothing. */
static fa_status run_spoilt(call *c, int64_t *step) {
    fa_ctx ctx = variant_ctx(&c->l.v);
    ctx.stop = c->l.stop;
    *step = -7;
    const fa_status status = fa_program_run(&ctx, &c->l.program, &c->l.batch, c->ws ? (char *)c->ws + c->off : NULL, c->bytes - c->less, step);
    const char *out = c->l.tensors[OUT].memory;
    static float first[2 * H * T];
    for (int64_t i = 0; i < 2 * H * T; i++) first[i] = bell(1, (uint64_t)i);
    if (status != FA_OK && *step == -1 && memcmp(out, first, sizeof first)) fail("written to");
    return status;
}

#define RUNS(expected, step, spoil) \
    do { \
        call c; \
        int64_t bad; \
        size_t space = 1; \
        call_begin(&c, &call_variant); \
        const fa_ctx ctx = variant_ctx(&call_variant); \
        expect_status("check", fa_program_check(&c.l.program, &bad), FA_OK); \
        expect_status("space", fa_program_space(&ctx, &c.l.program, &c.l.batch, &c.bytes), FA_OK); \
        void *ws = guard_alloc(c.bytes + 64, GUARD_FRONT, "workspace"); \
        c.ws = ws; \
        spoil; \
        expect_status(#spoil, run_spoilt(&c, &bad), expected); \
        if (bad != (step)) fail(#spoil ": names step %lld, expected %d", (long long)bad, (int)(step)); \
        const fa_status spaced = fa_program_space(&ctx, &c.l.program, &c.l.batch, &space); \
        if (spaced != FA_OK && space != 0) fail(#spoil ": status %d and %zu bytes", spaced, space); \
        if (expected != FA_OK && expected != FA_ERR_WORKSPACE && (step) == -1) expect_status(#spoil ", space", spaced, expected); \
        guard_free(ws); \
        c.l.views[OUT] = c.l.tensors[OUT].view; \
        lab_end(&c.l); \
    } while (0)

static int counts_rows(int array) { return array != COS && array != SIN && array != SKIP; }

static void batches(void) {
    if (!case_begin("program run, batches")) return;
    RUNS(FA_OK, -1, (void)0);
    RUNS(FA_OK, -1, c.l.views[COLUMNS] = c.l.tensors[COLUMNS].view);
    RUNS(FA_ERR_WORKSPACE, -1, c.ws = NULL);
    RUNS(FA_ERR_WORKSPACE, -1, c.off = 4);
    RUNS(FA_ERR_WORKSPACE, -1, c.off = 32);
    RUNS(FA_ERR_WORKSPACE, -1, c.less = c.bytes);
    RUNS(FA_ERR_WORKSPACE, -1, (c.less = c.bytes, c.ws = NULL));
    RUNS(FA_ERR_WORKSPACE, -1, c.less = c.bytes - 64);
    RUNS(FA_ERR_WORKSPACE, DISENTANGLED, c.less = 64); /* which takes most */
    RUNS(FA_ERR_SHAPE, -1, c.l.batch.rows[OTHERS] = -1);
    RUNS(FA_ERR_MEMORY, -1, c.l.batch.rows[OTHERS] = INT64_MAX);
    RUNS(FA_ERR_MEMORY, -1, c.l.batch.rows[OTHERS] = (int64_t)1 << 58);
    RUNS(FA_ERR_WORKSPACE, -1, c.l.batch.rows[OTHERS] = (int64_t)1 << 45);
    RUNS(FA_ERR_MEMORY, -1, (c.l.batch.rows[OTHERS] = (int64_t)1 << 46, c.l.program.columns[OTHERS] = (int64_t)1 << 40));
    RUNS(FA_ERR_MEMORY, -1, (c.l.batch.rows[OTHERS] = (int64_t)1 << 46, c.l.program.columns[OTHERS] = 1 << 15)); /* 2^63 bytes */
    RUNS(FA_ERR_SHAPE, -1, c.l.batch.rows[TOKENS] = T + 1);
    RUNS(FA_ERR_SHAPE, -1, c.l.batch.rows[SEQUENCES] = S + 1);
    RUNS(FA_ERR_SHAPE, -1, c.l.batch.n_arrays--);
    RUNS(FA_ERR_SHAPE, -1, c.l.batch.n_arrays = INT32_MIN);
    RUNS(FA_ERR_SHAPE, -1, c.l.batch.layers = &c.layer); /* without groups */
    RUNS(FA_ERR_SHAPE, -1, (c.l.batch.layers = &c.layer, c.l.batch.groups = &c.group, c.l.batch.n_layers = 1));
    RUNS(FA_ERR_SHAPE, -1, (c.l.batch.layers = &c.layer, c.l.batch.groups = &c.group, c.l.batch.n_groups = 1));
    RUNS(FA_OK, -1, (c.l.batch.layers = &c.layer, c.l.batch.groups = &c.group)); /* no step keeps anything */
    for (int i = 0; i < ARRAYS; i++) {
        if (i == COLUMNS) continue;
        RUNS(FA_ERR_VALUE, -1, c.l.views[i] = (fa_view){0}); /* missing */
        RUNS(FA_ERR_DTYPE, -1, c.l.views[i].dtype = FA_I32);
        RUNS(FA_ERR_DTYPE, -1, c.l.views[i].dtype = -9);
        RUNS(FA_ERR_SHAPE, -1, c.l.views[i].ndim = 3);
        RUNS(FA_ERR_SHAPE, -1, c.l.views[i].ndim = INT32_MAX);
        RUNS(FA_ERR_SHAPE, -1, c.l.views[i].shape[0] = -1);
        if (counts_rows(i)) RUNS(FA_ERR_SHAPE, -1, c.l.views[i].shape[0]--);
        if (counts_rows(i)) RUNS(FA_ERR_SHAPE, -1, c.l.views[i].shape[0] = INT64_MAX);
        if (i != SKIP) RUNS(FA_ERR_STRIDE, -1, c.l.views[i].stride[c.l.views[i].ndim - 1] *= 2);
        if (i != SKIP) RUNS(FA_ERR_STRIDE, -1, c.l.views[i].stride[0] += 2);
        RUNS(FA_ERR_STRIDE, -1, c.l.views[i].data = (char *)c.l.views[i].data + 2);
    }
    RUNS(FA_ERR_SHAPE, -1, c.l.views[OUT].shape[1]--);
    RUNS(FA_ERR_SHAPE, -1, c.l.views[INDEX].shape[1] = 1);
    RUNS(FA_ERR_SHAPE, -1, (c.l.views[COLUMNS] = c.l.tensors[COLUMNS].view, c.l.views[COLUMNS].shape[0]--));
    /* what the step itself says */
    static const int64_t beyond[T] = {0, 1, 2, 3, 4, 5, 6}, ends_beyond[S + 1] = {0, 3, T + 1}, negative[1] = {-1};
    RUNS(FA_ERR_VALUE, EMBED, c.l.views[IDS].data = (void *)(uintptr_t)beyond);
    RUNS(FA_ERR_VALUE, ROPE, c.l.views[TURNS].data = (void *)(uintptr_t)beyond);
    RUNS(FA_ERR_VALUE, ATTEND, c.l.views[ENDS].data = (void *)(uintptr_t)ends_beyond);
    RUNS(FA_ERR_VALUE, POOL, c.l.views[SKIP].data = (void *)(uintptr_t)negative);
    RUNS(FA_ERR_SHAPE, ROPE, c.l.views[COS].shape[0]--);
    RUNS(FA_ERR_SHAPE, POOL, (c.l.views[SKIP].data = (void *)(uintptr_t)beyond, c.l.views[SKIP].shape[0] = 2));
    case_end(HASH_START);
}

/* ---- the end of a run ---------------------------------------------------------------------------------------------- */

enum { LONG = 20000, ROWS = 64, WIDTH = 64 }; /* steps: a tenth of a second at the very least */

static int look(void *arg) { return ++*(int *)arg == 1; }

static void *ask(void *arg) {
    usleep(3000);
    __atomic_store_n(&((fa_stop *)arg)->asked, 1, __ATOMIC_RELAXED);
    return NULL;
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void make_long(lab *l, const variant *v) {
    static float zeros[WIDTH];
    lab_begin(l, v, LONG);
    l->batch.rows[TOKENS] = ROWS;
    const fa_value a = lab_column(l, lab_floats(l, "a", TOKENS, WIDTH, 1), 0, WIDTH), b = lab_table(l, TOKENS, WIDTH, 0, WIDTH);
    for (int i = 0; i < LONG; i++) {
        fa_step *s = lab_step(l, FA_STEP_LINEAR, i % 2 ? a : b, i % 2 ? b : a);
        s->weights = &call_weights;
        s->bias = (fa_view){.data = zeros, .shape = {WIDTH}, .stride = {4}, .ndim = 1, .dtype = FA_F32};
    }
}

static void stops(void) {
    if (!case_begin("program run, stops")) return;
    float first[2][2 * H * T];
    for (int threads = 1; threads <= 2; threads++) {
        const variant v = {0, FA_FORCE_NONE, threads, GUARD_BACK, DENSE, 0};
        for (int round = 0; round < 2; round++) { /* before and behind: the same bits */
            call c;
            int64_t bad;
            call_begin(&c, &v);
            expect_status("whole", lab_run(&c.l, &bad), FA_OK);
            memcpy(first[round], c.l.tensors[OUT].memory, sizeof first[round]);
            lab_end(&c.l);
            if (round) break;
            lab l;
            make_long(&l, &v);
            int looks = 0;
            fa_stop now_asked = {.asked = 1}, late = {.deadline = 1}, looking = {.look = look, .arg = &looks, .next_look = 1};
            fa_stop *at_once[] = {&now_asked, &late, &looking};
            for (int i = 0; i < 3; i++) {
                l.stop = at_once[i];
                expect_status("stopped at once", lab_run(&l, &bad), FA_STOPPED);
                if (bad != 0) fail("stop %d at step %lld, expected 0", i, (long long)bad);
            }
            fa_stop soon = {.deadline = now() + 5000000}, asked = {0};
            l.stop = &soon;
            expect_status("deadline", lab_run(&l, &bad), FA_STOPPED);
            if (bad > LONG / 2) fail("deadline at step %lld of %d", (long long)bad, LONG);
            pthread_t other;
            l.stop = &asked;
            if (pthread_create(&other, NULL, ask, &asked)) fail("no thread");
            expect_status("asked", lab_run(&l, &bad), FA_STOPPED);
            if (bad > LONG / 2) fail("asked at step %lld of %d", (long long)bad, LONG);
            pthread_join(other, NULL);
            if (fa_threads_in_use() != 0) fail("%d threads in use", fa_threads_in_use());
            lab_end(&l);
        }
        expect_same("behind a stop", first[1], first[0], 2 * H * T, 4);
    }
    case_end(hash_bytes(HASH_START, first[0], sizeof first[0]));
}

/* ---- numbers at random --------------------------------------------------------------------------------------------- */

static int64_t strange(uint64_t random) {
    static const int64_t all[] = {0, 1, -1, 2, 3, 4, 8, 12, 16, 24, 32, 36, 48, 64, 80, 96, INT32_MAX, INT32_MIN, (int64_t)1 << 31, (int64_t)1 << 40,
                                  ((int64_t)1 << 40) + 1, (int64_t)1 << 46, (int64_t)1 << 62, INT64_MAX, INT64_MIN, INT64_MAX / 16 * 16, -16};
    return all[random % (sizeof all / sizeof *all)];
}

static void spoil_value(fa_value *v, uint64_t field, int64_t x) {
    switch (field % 6) {
    case 0: v->rows = (int32_t)x; break;
    case 1: v->array = (int32_t)x; break;
    case 2: v->at = x; break;
    case 3: v->stride = x; break;
    case 4: v->first = x; break;
    default: v->width = x; break;
    }
}

static void spoil_step(fa_step *s, uint64_t field, uint64_t random, int64_t x) {
    fa_value *all[] = {&s->out, &s->x, &s->y, &s->z};
    switch (field % 16) {
    case 0: s->kind = (int32_t)x; break;
    case 1: s->act = (int32_t)x; break;
    case 2: s->index[random % FA_STEP_INDICES] = (int32_t)x; break;
    case 3: s->n_tables = (int32_t)x; break;
    case 4: s->heads = x; break;
    case 5: s->kv_heads = x; break;
    case 6: s->head_size = x; break;
    case 7: s->v_head_size = x; break;
    case 8: s->layer = (int32_t)x; break;
    case 9: s->eps = s->scale = s->attention.scale = random % 3 ? (float)x : NAN; break;
    case 10: s->attention.window_left = x; break;
    case 11: s->disentangled.span = x < 16 ? x : 16; s->disentangled.max_distance = random % 2 ? x : 0; break;
    default: spoil_value(all[field / 16 % 4], random, x); break;
    }
}

static void spoil_array(fa_array *a, uint64_t field, int64_t x) {
    switch (field % 6) {
    case 0: a->dtype = (int32_t)x; break;
    case 1: a->ndim = (int32_t)x; break;
    case 2: a->rows = (int32_t)x; break;
    case 3: a->more = (int32_t)x; break;
    case 4: a->optional = (int32_t)x; break;
    default: a->width = x; break;
    }
}

static void random_programs(int count) {
    if (!case_begin("program run, %d at random", count)) return;
    uint64_t hash = HASH_START;
    int refused = 0, good_runs = 0;
    for (int i = 0; i < count; i++) {
        uint64_t drawn = 0;
#define DRAW hash_at(9000 + (uint64_t)i, drawn++)
        call c;
        int64_t bad = -1;
        const variant v = {0, FA_FORCE_NONE, 1 + i % 2, i % 3 ? GUARD_BACK : GUARD_FRONT, DENSE, 0};
        call_begin(&c, &v);
        for (uint64_t spoils = 1 + DRAW % 3; spoils > 0; spoils--) {
            const uint64_t what = DRAW % 20, which = DRAW, field = DRAW, random = DRAW;
            const int64_t x = random % 4 ? strange(DRAW) : (int64_t)(DRAW % 20);
            if (what == 0) c.l.program.columns[which % FA_ROW_KINDS] = x;
            else if (what < 4) spoil_array(&c.l.arrays[which % ARRAYS], field, x);
            else if (what < 7) c.s[which % STEPS] = c.s[field % STEPS]; /* steps in another order */
            else spoil_step(&c.s[which % STEPS], field, random, x);
        }
        const fa_ctx ctx = variant_ctx(&v);
        fa_status status = fa_program_check(&c.l.program, &bad);
        refused += status != FA_OK;
        if (status == FA_OK) status = fa_program_space(&ctx, &c.l.program, &c.l.batch, &c.bytes);
        if (status == FA_OK && c.bytes < 1 << 24) {
            void *ws = guard_alloc(c.bytes, v.side, "workspace");
            status = fa_program_run(&ctx, &c.l.program, &c.l.batch, ws, c.bytes, &bad);
            good_runs += status == FA_OK;
            expect_clean("workspace", guard_free(ws));
        }
        const int32_t said[2] = {(int32_t)status, (int32_t)bad};
        hash = hash_bytes(hash, said, sizeof said);
        lab_end(&c.l);
#undef DRAW
    }
    if (refused < count / 4 || good_runs < count / 20) fail("%d refused, %d run, of %d", refused, good_runs, count);
    case_end(hash);
}

void test_program_runs(const options *o) {
    batches();
    stops();
    random_programs(o->quick ? 1000 : 6000);
}
