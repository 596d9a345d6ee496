/* SPDX-License-Identifier: MIT */
/*
 * The tasks of one call while several threads share them. Whoever serves it, the crew or OpenMP's threads, takes tasks
 * in the same way: from one counter, in ascending order.
 *
 * `state` holds the tasks that are left, the places for further members and the members inside, in one word, so that
 * joining a call, seeing that it still has something to do and taking a task are one step: nobody is inside without a
 * task, and the caller never waits for a thread that has not begun one. Tasks count down below zero, by one for each
 * thread that finds none; a job is open while its state is at least JOB_TASK.
 */
#ifndef FA_JOB_H
#define FA_JOB_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdint.h>

#include "parallel.h"

/* Memory of each thread, which is there when the thread is. In a library that is loaded later, glibc otherwise makes it
 * at a thread's first use of it, and ends the process if there is no memory at that moment: members that were hired
 * with the last of the address space would do that. There is little room for such variables; these are tens of bytes.
 * musl makes all of it in time. */
#if defined(__GLIBC__)
#define FA_THREAD_LOCAL _Thread_local __attribute__((tls_model("initial-exec")))
#else
#define FA_THREAD_LOCAL _Thread_local
#endif

#define JOB_FIELD 12 /* bits of places and of members inside */
#define JOB_MASK (((int64_t)1 << JOB_FIELD) - 1)
#define JOB_INSIDE ((int64_t)1)
#define JOB_PLACE ((int64_t)1 << JOB_FIELD)
#define JOB_TASK ((int64_t)1 << 2 * JOB_FIELD)
#define JOB_MOST_TASKS ((int64_t)1 << (62 - 2 * JOB_FIELD))

typedef struct fa_job {
    alignas(FA_ALIGN) _Atomic int64_t state;
    alignas(FA_ALIGN) fa_task_fn fn; /* these are written before the job opens */
    void *arg;
    int64_t n_tasks;
    fa_stop *stop;
    int team;
    int64_t did;     /* tasks of the caller, once it has nothing left to do */
    int small;       /* nobody is woken for it */
    int64_t wake_at; /* nanoseconds; 0: nobody has to be called any more */
} fa_job;

static inline int64_t job_tasks(int64_t state) { return state >> 2 * JOB_FIELD; }
static inline int job_places(int64_t state) { return (int)(state >> JOB_FIELD & JOB_MASK); }
static inline int job_inside(int64_t state) { return (int)(state & JOB_MASK); }

/* The next task, or -1. */
static inline int64_t job_take(fa_job *job) {
    const int64_t left = job_tasks(atomic_fetch_sub_explicit(&job->state, JOB_TASK, memory_order_relaxed));
    return left > 0 ? job->n_tasks - left : -1;
}

/* Runs `task`, which was taken, and then others until none is left or the call is stopped. In parallel.c. */
void fa_job_work(fa_job *job, int64_t task, int worker);

#endif
