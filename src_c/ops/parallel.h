/* SPDX-License-Identifier: MIT */
/*
 * The one seam for threads, and the only file that includes <omp.h>.
 *
 * fa_parallel_for(ctx, n_tasks, fn, arg) calls fn(arg, task, worker) once for each task in [0, n_tasks), tasks handed
 * out in ascending order, and returns FA_OK when all are done, or FA_STOPPED when ctx->stop asked for it: then some tasks
 * have not run, none is running any more, and the driver returns the status too. `worker` is in [0, fa_team_max(ctx, n_tasks)) and names the
 * scratch a task may use. Tasks are cut by problem size, never by thread count, and each owns its part of the output.
 *
 * What a driver may rely on
 * -------------------------
 *   - Two tasks that run at the same time have different `worker`s; the tasks of one worker run one after the other.
 *   - Every task runs in the default floating-point environment (round to nearest, denormals kept, exceptions masked),
 *     whatever the caller had set, and the caller's comes back untouched. Arithmetic that reaches an output belongs
 *     into a task, or between fa_fpenv_enter and fa_fpenv_leave if it has to happen in the driver.
 *   - A call from inside a task, or from inside anybody's OpenMP region, runs in the calling thread alone.
 *   - Callers never wait for each other: a call takes what the process-wide limit leaves free, at least its own thread.
 *   - It works in a process made by fork(), also when the parent had used OpenMP (parallel.c says how).
 *   - Between fa_team_begin and fa_team_end of one thread its calls share one team.
 *
 * A task that may take more than some milliseconds asks fa_stopping(ctx->stop) from time to time and returns early.
 */
#ifndef FA_PARALLEL_H
#define FA_PARALLEL_H

#ifdef _OPENMP
#include <omp.h>
#endif

#include "../fastattn.h"

typedef void (*fa_task_fn)(void *arg, int64_t task, int worker);

/* Upper bound of the team for sizing per-worker scratch; depends on ctx->num_threads and n_tasks alone. */
static inline int fa_team_max(const fa_ctx *ctx, int64_t n_tasks) {
    int64_t team = ctx->num_threads < n_tasks ? ctx->num_threads : n_tasks;
    return team < 1 ? 1 : (int)team;
}

/* Multiply-adds that one more thread should have to do before it is asked: waking one that sleeps costs tens of
 * microseconds, and on a busy machine the region waits for it. */
#define FA_WORTH_A_THREAD ((int64_t)1 << 19)

/* The caller's context with no more threads than the work is worth. Ops use it for sizing and running alike. */
static inline fa_ctx fa_ctx_for_work(const fa_ctx *ctx, int64_t multiply_adds) {
    fa_ctx worth = *ctx;
    int64_t threads = 1 + multiply_adds / FA_WORTH_A_THREAD;
    if (threads < worth.num_threads) worth.num_threads = (int32_t)threads;
    return worth;
}

fa_status fa_parallel_for(const fa_ctx *ctx, int64_t n_tasks, fa_task_fn fn, void *arg);

/* Whether the call should end. In the thread of the call itself this is where its deadline and its look are due. */
int fa_stopping_now(fa_stop *stop);
static inline int fa_stopping(fa_stop *stop) { return stop && fa_stopping_now(stop); }

#define FA_MOST_THREADS 1024 /* of one team, its caller included */

/* The caller's floating-point control and sticky exception flags. */
typedef struct fa_fpenv {
    uint64_t control;
    uint64_t flags; /* aarch64 alone: x86 keeps both in one register */
} fa_fpenv;

/* Sets the default environment and hands back the caller's, which fa_fpenv_leave restores as it was, flags included.
 * Compilers do not know that arithmetic depends on it: put the arithmetic into a function of its own that cannot be
 * inlined, or it may move across the switch. */
void fa_fpenv_enter(fa_fpenv *saved);
void fa_fpenv_leave(const fa_fpenv *saved);

/* (float)x rounded to nearest whatever the caller's rounding mode is: for parameters that arrive as doubles. */
float fa_to_float(double x);

#endif
