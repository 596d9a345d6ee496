/* SPDX-License-Identifier: MIT */
/*
 * Watches fa_parallel_for from inside: tasks that count, stay busy for a while and note what they see. For the tests of
 * the promises in parallel.h, which no operator's output can show. Not part of fastattn.h.
 */
#ifndef FA_PARALLEL_PROBE_H
#define FA_PARALLEL_PROBE_H

#include "parallel.h"

typedef struct fa_parallel_probe {
    /* in */
    int32_t *runs;        /* [n_tasks], zeroed by the caller: how often each task ran */
    int64_t n_tasks;
    int64_t nested_tasks; /* tasks that each task asks for in turn; 0: none */
    int64_t busy_ns;      /* how long each task stays busy */
    int64_t regions;      /* calls of n_tasks tasks that do nothing, before the others, for `region_ns`; 0: none */
    /* out */
    int32_t concurrent;         /* most tasks of this call at one time */
    int32_t process_concurrent; /* most tasks of all probes in the process at one time, seen from this call */
    int32_t most_in_use;        /* largest fa_threads_in_use() seen */
    int32_t workers;            /* how many different values of `worker` */
    int32_t bad_worker;         /* tasks whose worker was out of range or in use by another task */
    int32_t disordered;         /* tasks that a worker was given after a later one */
    int32_t bad_environment;    /* tasks in which rounding or denormals were not the default */
    double region_ns;           /* the mean of the empty calls */
    int32_t nested_elsewhere;   /* nested tasks in another thread than the task that asked for them */
} fa_parallel_probe;

/* At most 256 threads are told apart; more are refused. */
fa_status fa_parallel_probe_run(const fa_ctx *ctx, fa_parallel_probe *probe);

#endif
