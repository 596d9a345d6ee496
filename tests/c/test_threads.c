/* SPDX-License-Identifier: MIT */
/*
 * Callers at once, held teams, and teams in a forked child: the bits of a call alone in its process, whoever helps. Calls
 * that are told to stop: they say so, and nobody works on. The call is large enough that the driver finds it worth four
 * threads.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "../../src_c/ops/parallel.h"

enum { HEADS = 4, QUERIES = 160, KEYS = 200, WIDTH = 16, OUT = HEADS * QUERIES * WIDTH, CALLERS = 4 };

typedef struct work {
    tensor q, k, v;
    float expected[OUT];
    int threads, calls;
    int wrong; /* of one caller */
} work;

/* One caller's call, everything of it on its own stack and heap. */
static fa_status attend_until(const work *w, int isa, int threads, int64_t rows, float *out_memory, fa_stop *stop) {
    const fa_ctx ctx = {.kernels = fa_kernels_for(isa), .num_threads = threads, .stop = stop};
    fa_attention_params p = {.scale = 0.25f, .causal = 1, .window_left = -1, .window_right = -1};
    fa_view q = w->q.view, out = q;
    size_t bytes = 0;
    q.shape[2] = out.shape[2] = rows;
    out.data = out_memory;
    fa_status status = fa_attention_workspace(&ctx, &out, NULL, NULL, &q, &w->k.view, &w->v.view, &p, &bytes);
    void *ws = aligned_alloc(FA_ALIGN, bytes ? bytes : FA_ALIGN);
    if (status == FA_OK) status = ws ? fa_attention(&ctx, &out, NULL, NULL, &q, &w->k.view, &w->v.view, &p, ws, bytes) : FA_ERR_MEMORY;
    free(ws);
    return status;
}

static int attend(const work *w, int isa, int threads, int64_t rows, float *out_memory) {
    return attend_until(w, isa, threads, rows, out_memory, NULL) == FA_OK;
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

/* ---- the end of a call ------------------------------------------------------------------------------------------- */

typedef struct looks {
    fa_stop stop;
    int count, stop_at;
    pthread_t caller;
    int elsewhere; /* looks in another thread than the caller's */
    pid_t child;
    _Atomic int64_t tasks, own; /* own: the caller's */
} looks;

static int look(void *arg) {
    looks *l = arg;
    if (!pthread_equal(pthread_self(), l->caller)) l->elsewhere++;
    return ++l->count == l->stop_at;
}

/* Due for a look at once: it would be 50 ms after the beginning. The others leave tasks for the caller to look between. */
static void hurry(void *arg, int64_t task, int worker) {
    looks *l = arg;
    (void)task, (void)worker;
    atomic_fetch_add(&l->tasks, 1);
    if (pthread_equal(pthread_self(), l->caller)) {
        l->stop.next_look = 1;
        atomic_fetch_add(&l->own, 1);
    }
    while (atomic_load(&l->own) < 4 && worker != 0 && !__atomic_load_n(&l->stop.asked, __ATOMIC_RELAXED)) usleep(100);
}

static int stopped_calls(const work *w, int threads) {
    enum { TASKS = 100000 };
    float *out = malloc(sizeof w->expected);
    int wrong = 0;
    looks asked = {.stop = {.asked = 1}}, late = {.stop = {.deadline = 1}};
    if (attend_until(w, 0, threads, QUERIES, out, &asked.stop) != FA_STOPPED) wrong++;
    if (attend_until(w, 0, threads, QUERIES, out, &late.stop) != FA_STOPPED) wrong++;
    for (int stop_at = 0; stop_at <= 3; stop_at++) {
        looks l = {.stop = {.look = look, .next_look = 1}, .stop_at = stop_at, .caller = pthread_self()};
        l.stop.arg = &l;
        const fa_ctx ctx = {.kernels = fa_kernels_for(0), .num_threads = threads, .stop = &l.stop};
        const fa_status status = fa_parallel_for(&ctx, TASKS, hurry, &l);
        if (status != (stop_at ? FA_STOPPED : FA_OK) || l.elsewhere) wrong++;
        if (stop_at && (l.count != stop_at || l.tasks >= TASKS)) wrong++;
        if (!stop_at && l.tasks != TASKS) wrong++;
        if (fa_threads_in_use() != 0) wrong++;
    }
    if (!attend(w, 0, threads, QUERIES, out) || memcmp(out, w->expected, sizeof w->expected)) wrong++; /* as if nothing were */
    free(out);
    return wrong;
}

/* A look that forks: the call goes on in the parent; in the child, where its members are missing, it ends as stopped, and
 * those that follow are as in any child. */
static int fork_once(void *arg) {
    looks *l = arg;
    if (l->count++ == 0) l->child = fork();
    return 0;
}

static int forked_call(work *w, int threads) {
    enum { TASKS = 100000 };
    looks l = {.stop = {.look = fork_once, .next_look = 1}, .child = -1, .caller = pthread_self()};
    l.stop.arg = &l;
    const fa_ctx ctx = {.kernels = fa_kernels_for(0), .num_threads = threads, .stop = &l.stop};
    const fa_status status = fa_parallel_for(&ctx, TASKS, hurry, &l);
    if (l.child == 0) {
        alarm(60); /* a hang is a failure too */
        int wrong = status != FA_STOPPED || fa_threads_in_use() != 0;
        wrong += call_alone(w, 3) + call_at_once(w, 2) + in_child(w, 1);
        _exit(wrong ? 1 : 0);
    }
    int child = 1;
    if (l.child < 0 || waitpid(l.child, &child, 0) != l.child) return 1;
    return status != FA_OK || l.tasks != TASKS || child != 0;
}

/* Many calls under one team; the pairs nest, and others call meanwhile. */
static int held_team(work *w, int threads) {
    const fa_ctx ctx = {.kernels = fa_kernels_for(0), .num_threads = threads};
    int wrong = 0;
    fa_team_begin(&ctx);
    if (fa_threads_in_use() != threads) wrong++;
    for (int i = 0; i < 3; i++) {
        fa_team_begin(&ctx);
        wrong += call_alone(w, i + 1);
        fa_team_end();
    }
    if (fa_threads_in_use() != threads) wrong++;
    wrong += call_at_once(w, 1) > 1; /* it counts the team that is held here */
    fa_team_end();
    return wrong + (fa_threads_in_use() != 0);
}

/* ---- everything at once -------------------------------------------------------------------------------------------- */

enum { MIXED_TASKS = 400 };

typedef struct mixed {
    work *w;
    fa_stop stop, *next; /* of this caller's calls, and of another caller's */
    unsigned seed;
    int wrong, runs[MIXED_TASKS]; /* not atomic: a task that runs twice or too long is for ThreadSanitizer to see */
} mixed;

static void count_run(void *arg, int64_t task, int worker) {
    mixed *m = arg;
    (void)worker;
    m->runs[task]++;
}

static int random_below(mixed *m, int n) {
    m->seed = m->seed * 1664525u + 1013904223u;
    return (int)((m->seed >> 16) % (unsigned)n);
}

/* Calls of changing size, alone or under a team that is held; each stops somebody else's now and then. */
static void *mixed_caller(void *arg) {
    mixed *m = arg;
    enum { FEW = 8 };
    float *out = malloc(sizeof m->w->expected);
    for (int i = 0; out && i < 40 * m->w->calls; i++) {
        fa_ctx ctx = {.kernels = fa_kernels_for(0), .num_threads = 1 + random_below(m, 4)};
        const int held = random_below(m, 3) == 0;
        if (held) fa_team_begin(&ctx);
        if (random_below(m, 8) == 0) m->wrong += !attend(m->w, 0, 1 + random_below(m, 4), FEW, out);
        const int n = 1 + random_below(m, MIXED_TASKS);
        memset(m->runs, 0, sizeof m->runs);
        __atomic_store_n(&m->stop.asked, 0, __ATOMIC_RELAXED);
        ctx.stop = &m->stop;
        const fa_status status = fa_parallel_for(&ctx, n, count_run, m);
        int done = 0;
        for (int t = 0; t < n; t++) done += m->runs[t] == 1;
        if (status == FA_OK ? done != n : status != FA_STOPPED) m->wrong++;
        if (random_below(m, 4) == 0) __atomic_store_n(&m->next->asked, 1, __ATOMIC_RELAXED);
        if (held) fa_team_end();
    }
    free(out);
    return NULL;
}

static int all_at_once(work *w) {
    static mixed callers[CALLERS];
    pthread_t ids[CALLERS];
    int wrong = 0, started = 0;
    for (int i = 0; i < CALLERS; i++) {
        callers[i] = (mixed){.w = w, .next = &callers[(i + 1) % CALLERS].stop, .seed = (unsigned)i};
    }
    for (int i = 0; i < CALLERS; i++) {
        if (pthread_create(&ids[started], NULL, mixed_caller, &callers[i])) wrong++;
        else started++;
    }
    for (int i = 0; i < started; i++) pthread_join(ids[i], NULL);
    for (int i = 0; i < CALLERS; i++) wrong += callers[i].wrong;
    return wrong + (fa_threads_in_use() != 0);
}

static void with_team(const options *o, work *w, const char *name) {
#define SHOULD(condition, text) if (!(condition)) fail("%s: %s", name, text)
    SHOULD(!call_alone(w, 3), "a team of 3");
    SHOULD(!call_at_once(w, 1), "callers at once, one thread each");
    SHOULD(!call_at_once(w, 2), "callers at once, teams of 2");
    SHOULD(!held_team(w, 3), "a team that is held");
    SHOULD(!stopped_calls(w, 1) && !stopped_calls(w, 3), "calls that are stopped");
    SHOULD(!all_at_once(w), "callers of all sizes that stop each other");
    if (o->no_fork) return;
    SHOULD(!forked_call(w, 1) && !forked_call(w, 3), "a call whose look forks");
    SHOULD(!in_child(w, 2), "in a forked child");
    SHOULD(!call_alone(w, 4), "a team after the fork");
#undef SHOULD
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
    fa_set_thread_limit(4);
    with_team(o, &w, "crew");
    if (fa_crew_size() > 3) fail("a crew larger than the largest team needs");
    if (fa_select_team(FA_TEAM_OPENMP)) with_team(o, &w, "openmp");
    fa_select_team(FA_TEAM_CREW);
    fa_set_thread_limit(1 << 20);
    if (!o->no_fork && in_child(&w, 1)) fail("in a child of a process that has used both");
    expect_clean("q", tensor_free(&w.q)), expect_clean("k", tensor_free(&w.k)), expect_clean("v", tensor_free(&w.v));
    case_end(hash);
}
