/* SPDX-License-Identifier: MIT */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1 /* clock_gettime() under -std=c11 */
#endif

#include "parallel_probe.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#define MAX_WORKERS 256

typedef struct watch {
    fa_parallel_probe *probe;
    const fa_ctx *ctx;
    int team_max;
    _Atomic int inside, concurrent, process_concurrent, most_in_use;
    _Atomic int bad_worker, disordered, bad_environment, nested_elsewhere;
    _Atomic int busy[MAX_WORKERS];
    _Atomic int64_t last[MAX_WORKERS]; /* the worker's latest task + 1; 0: none yet */
} watch;

typedef struct nested_watch {
    watch *parent;
    pthread_t thread;
} nested_watch;

static _Atomic int process_inside;

static void raise_to(_Atomic int *most, int value) {
    int seen = atomic_load(most);
    while (value > seen && !atomic_compare_exchange_weak(most, &seen, value)) {
    }
}

/* Operands are volatile so that the arithmetic happens here and now. */
static int default_environment(void) {
    volatile float one = 1.0f, above_half = 0x1.8p-24f, below_half = 0x1p-25f, smallest = 0x1p-126f, half = 0.5f;
    volatile float up = one + above_half, down = one + below_half, denormal = smallest * half;
    volatile float doubled = denormal + denormal;
    return up == 0x1.000002p0f && down == 1.0f && doubled == smallest;
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void nested_task(void *arg, int64_t task, int worker) {
    nested_watch *n = arg;
    (void)task;
    raise_to(&n->parent->most_in_use, fa_threads_in_use());
    if (worker != 0 || !pthread_equal(pthread_self(), n->thread)) {
        atomic_fetch_add(&n->parent->nested_elsewhere, 1);
    }
}

static void watch_task(void *arg, int64_t task, int worker) {
    watch *w = arg;
    const int known = worker >= 0 && worker < w->team_max;
    if (!known || atomic_fetch_add(&w->busy[worker], 1) != 0) {
        atomic_fetch_add(&w->bad_worker, 1);
    }
    raise_to(&w->concurrent, atomic_fetch_add(&w->inside, 1) + 1);
    raise_to(&w->process_concurrent, atomic_fetch_add(&process_inside, 1) + 1);
    raise_to(&w->most_in_use, fa_threads_in_use());
    if (!default_environment()) {
        atomic_fetch_add(&w->bad_environment, 1);
    }
    if (known && atomic_exchange(&w->last[worker], task + 1) > task) {
        atomic_fetch_add(&w->disordered, 1);
    }
    w->probe->runs[task]++; /* not atomic: a task that ran twice at once is for the thread sanitizer to find */

    if (w->probe->nested_tasks > 0) {
        nested_watch n = {w, pthread_self()};
        fa_parallel_for(w->ctx, w->probe->nested_tasks, nested_task, &n);
    }
    for (int64_t end = now_ns() + w->probe->busy_ns; w->probe->busy_ns > 0 && now_ns() < end;) {
    }

    atomic_fetch_sub(&process_inside, 1);
    atomic_fetch_sub(&w->inside, 1);
    if (known) {
        atomic_fetch_sub(&w->busy[worker], 1);
    }
}

static void empty_task(void *arg, int64_t task, int worker) { (void)arg, (void)task, (void)worker; }

fa_status fa_parallel_probe_run(const fa_ctx *ctx, fa_parallel_probe *probe) {
    watch w;
    memset(&w, 0, sizeof w);
    w.probe = probe;
    w.ctx = ctx;
    w.team_max = fa_team_max(ctx, probe->n_tasks);
    if (w.team_max > MAX_WORKERS || probe->n_tasks < 0 || probe->nested_tasks < 0 || probe->busy_ns < 0) {
        return FA_ERR_VALUE;
    }
    const int64_t begin = now_ns();
    for (int64_t i = 0; i < probe->regions; i++) fa_parallel_for(ctx, probe->n_tasks, empty_task, NULL);
    probe->region_ns = probe->regions > 0 ? (double)(now_ns() - begin) / (double)probe->regions : 0.0;
    const fa_status status = fa_parallel_for(ctx, probe->n_tasks, watch_task, &w);
    probe->concurrent = w.concurrent;
    probe->process_concurrent = w.process_concurrent;
    probe->most_in_use = w.most_in_use;
    probe->bad_worker = w.bad_worker;
    probe->disordered = w.disordered;
    probe->bad_environment = w.bad_environment;
    probe->nested_elsewhere = w.nested_elsewhere;
    probe->workers = 0;
    for (int i = 0; i < MAX_WORKERS; i++) {
        probe->workers += w.last[i] != 0;
    }
    return status;
}
