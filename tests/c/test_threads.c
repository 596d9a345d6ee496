/* SPDX-License-Identifier: MIT */
/*
 * Callers at once, and teams in a forked child: the bits of a call alone in its process. The call is large enough that
 * the driver finds it worth four threads.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { HEADS = 4, QUERIES = 160, KEYS = 200, WIDTH = 16, OUT = HEADS * QUERIES * WIDTH, CALLERS = 4 };

typedef struct work {
    tensor q, k, v;
    float expected[OUT];
    int threads, calls;
    int wrong; /* of one caller */
} work;

/* One caller's call, everything of it on its own stack and heap. */
static int attend(const work *w, int isa, int threads, int64_t rows, float *out_memory) {
    const fa_ctx ctx = {.kernels = fa_kernels_for(isa), .num_threads = threads};
    fa_attention_params p = {.scale = 0.25f, .causal = 1, .window_left = -1, .window_right = -1};
    fa_view q = w->q.view, out = q;
    size_t bytes = 0;
    q.shape[2] = out.shape[2] = rows;
    out.data = out_memory;
    int good = fa_attention_workspace(&ctx, &out, NULL, NULL, &q, &w->k.view, &w->v.view, &p, &bytes) == FA_OK;
    void *ws = aligned_alloc(FA_ALIGN, bytes ? bytes : FA_ALIGN);
    good = good && ws && fa_attention(&ctx, &out, NULL, NULL, &q, &w->k.view, &w->v.view, &p, ws, bytes) == FA_OK;
    free(ws);
    return good;
}

static void *caller(void *arg) {
    work *w = arg;
    float *out = malloc(sizeof w->expected);
    for (int i = 0; out && i < w->calls; i++) {
        memset(out, 0, sizeof w->expected);
        for (int isa = 0; isa < fa_isa_count(); isa++)
            if (isa_selected(isa) && (!attend(w, isa, w->threads, QUERIES, out) || memcmp(out, w->expected, sizeof w->expected))) w->wrong++;
    }
    free(out);
    return NULL;
}

/* CALLERS threads, each with calls of `threads`; the number of wrong results. */
static int call_at_once(work *w, int threads) {
    static work copies[CALLERS];
    pthread_t ids[CALLERS];
    int wrong = 0, started = 0;
    for (int i = 0; i < CALLERS; i++) {
        copies[i] = *w;
        copies[i].threads = threads;
        if (pthread_create(&ids[started], NULL, caller, &copies[i])) wrong++;
        else started++;
    }
    for (int i = 0; i < started; i++) pthread_join(ids[i], NULL);
    for (int i = 0; i < CALLERS; i++) wrong += copies[i].wrong;
    return wrong + (fa_threads_in_use() != 0);
}

/* Decode rows and chunks too: the first rows alone, which take another kernel, with the same bits. */
static int call_alone(const work *w, int threads) {
    int wrong = 0;
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        float all[OUT], few[OUT];
        if (!attend(w, isa, threads, QUERIES, all) || memcmp(all, w->expected, sizeof all)) wrong++;
        memcpy(few, all, sizeof few);
        if (!attend(w, isa, threads, 2, few)) wrong++;
        if (memcmp(few, all, sizeof few)) wrong++; /* rows 0 and 1 anew, the others as they were */
    }
    return wrong;
}

/* A child that forks a child: each with teams larger and smaller than before, and with callers of its own. */
static int in_child(work *w, int depth) {
    const pid_t child = fork();
    if (child == 0) {
        int wrong = 0;
        for (int threads = 1; threads <= 4; threads++) wrong += call_alone(w, threads) + call_alone(w, 5 - threads);
        wrong += call_at_once(w, 1) + call_alone(w, 3);
        if (depth > 1) wrong += in_child(w, depth - 1);
        _exit(wrong ? 1 : 0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) return 1;
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void test_threads(const options *o) {
    static work w;
    const int64_t shape[4] = {1, HEADS, QUERIES, WIDTH}, kv_shape[4] = {1, 2, KEYS, WIDTH};
    if (!case_begin("threads")) return;
    w.calls = o->quick ? 2 : 6;
    w.q = tensor_make("q", FA_F32, 4, shape, DENSE, GUARD_BACK);
    w.k = tensor_make("k", FA_F32, 4, kv_shape, DENSE, GUARD_BACK);
    w.v = tensor_make("v", FA_F32, 4, kv_shape, DENSE, GUARD_BACK);
    tensor_fill(&w.q, 1, 1.0f), tensor_fill(&w.k, 2, 1.0f), tensor_fill(&w.v, 3, 1.0f);
    guard_seal(w.q.memory), guard_seal(w.k.memory), guard_seal(w.v.memory);
    if (!attend(&w, 0, 1, QUERIES, w.expected)) fail("the first call");
    const uint64_t hash = hash_bytes(HASH_START, w.expected, sizeof w.expected);
    if (call_alone(&w, 3)) fail("a team of 3");
    if (call_at_once(&w, 1)) fail("callers at once, one thread each");
    if (!o->no_fork && in_child(&w, 2)) fail("in a forked child");
    if (call_alone(&w, 4)) fail("a team after the fork");
#if !defined(__SANITIZE_THREAD__) /* teams of these callers are OpenMP's, which the sanitizer does not follow */
    if (call_at_once(&w, 2)) fail("callers at once, teams of 2");
    if (!o->no_fork && in_child(&w, 1)) fail("in a child of a process that has used OpenMP");
#endif
    expect_clean("q", tensor_free(&w.q)), expect_clean("k", tensor_free(&w.k)), expect_clean("v", tensor_free(&w.v));
    case_end(hash);
}
