/* SPDX-License-Identifier: MIT */
/*
 * The crew: the threads that help callers, one set for the whole process, shared by all of them.
 *
 * A caller posts its tasks, works on them itself, and members that are free join in. The caller never waits for a
 * member that has not begun a task, so a member may be late, asleep, busy elsewhere or missing: the call is then as
 * fast as its own thread. It does wait for tasks that members have begun.
 */
#ifndef FA_CREW_H
#define FA_CREW_H

#include "job.h"

/* Runs tasks [0, n_tasks) by the calling thread and up to team - 1 members. `members`: as many may be needed in the
 * process now; those that are missing are hired, as far as the system gives threads. `small`: nobody is woken. */
void fa_crew_run(fa_task_fn fn, void *arg, int64_t n_tasks, int team, int members, int small, fa_stop *stop);

/* In the child of a fork: nobody is there any more. A call that was under way finds no tasks and nobody to wait for. */
void fa_crew_after_fork(void);

/* The caller, between its tasks: members that sleep are called now if the job has lasted until wake_at. */
void fa_crew_call(fa_job *job);

int fa_crew_size(void);

#endif
