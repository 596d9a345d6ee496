/* SPDX-License-Identifier: MIT */
/*
 * Teams of threads: how many, whose, when a call ends early, and what happens after fork().
 *
 * How many
 * --------
 * One counter holds the threads that are inside a call, over the whole process. A call that may use n threads takes
 * min(n, limit - counter), at least its own thread, and gives them back at the end. Nobody blocks: with more callers
 * than the limit every one of them runs alone. A call that asks for more than the limit by its own argument means it,
 * so for that call the limit is what it asks. The result never depends on the team (fastattn.h).
 *
 * Whose
 * -----
 * The crew's (crew.h), or OpenMP's, where the process asked for them. Both take tasks from one counter (job.h), which
 * stays right when fewer threads come than were asked for: an OpenMP runtime may grant a smaller team (OMP_THREAD_LIMIT,
 * OMP_DYNAMIC), and the crew promises nothing. OpenMP's settings hold for both: how many threads it would use is asked
 * by whoever makes an fa_ctx (fa_omp_max_threads), its thread limit here.
 *
 * libgomp keeps a pool of threads for each thread that ever opened a region: 40 callers of 32 threads leave 1240
 * behind, it ends the process where the system gives no more, and at the end of a region everybody waits for members
 * that were never scheduled. Hence the crew.
 *
 * After fork()
 * ------------
 * fork() copies the calling thread together with its pointer to libgomp's pool, but none of the pool's threads, so the
 * child's first region waits for ever. The parent's regions need not have been ours: any library on the same libgomp
 * will do. So the inherited thread, the one thread a child starts with, never opens a region; it has the crew, which
 * starts anew in each process. Threads created in the child are new to libgomp and use it as usual.
 *
 * A thread also counts as inherited where the fork came before this library was loaded (the parent used OpenMP, the
 * child imports us): Linux remembers whether a process has called exec since it was forked.
 *
 * LLVM's runtime mends itself after fork(), except for the locks that other threads held at that moment: there even a
 * question may hang, so an inherited thread asks nothing and goes by the last answer from before the fork.
 *
 * Why not one helper thread that opens the regions instead: libgomp still counts the parent's threads as running, finds
 * more of them than CPUs, and stops spinning; with the two hand-overs a region of two threads took 75 to 100 us in the
 * child, against 1.5 us in the parent. Why not omp_pause_resource_all() before each fork: it ends the parent's pool
 * every time, also for a fork that only serves exec, and it comes too late when the library is loaded in the child.
 */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1 /* syscall() and pthread_atfork() under -std=c11 */
#endif

#include "parallel.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#if defined(__linux__)
#include <fcntl.h>
#include <sys/syscall.h>
#endif

#include "crew.h"
#include "job.h"
#include "park.h"

/* ---- state ----------------------------------------------------------------------------------------------------- */

#define CALL ((int64_t)1 << 32) /* a call in `in_use`; the low half counts threads */

static struct {
    alignas(FA_ALIGN) _Atomic int64_t in_use; /* written by every call: alone on its cache line */
    alignas(FA_ALIGN) _Atomic int limit;
    _Atomic int team;       /* fa_team */
    int omp_limit;          /* OMP_THREAD_LIMIT; this and the next are written once, by fa_runtime_init */
    int omp_threads;        /* OMP_NUM_THREADS, its first number */
    int forked_before_init;
} process = {.in_use = 0, .limit = 1 << 20, .team = FA_TEAM_CREW, .omp_limit = FA_MOST_THREADS, .omp_threads = 1 << 20};

enum origin { ORIGIN_UNKNOWN = 0, ORIGIN_OWN = 1, ORIGIN_INHERITED = 2 };

struct thread_state {
    int depth;              /* > 0: inside a task */
    int origin;             /* may this thread open a region? */
    int omp_max;            /* LLVM's runtime: what it last told this thread */
    int forked;             /* this process is the child of a fork in the middle of a call */
    int granted;            /* fa_threads_granted */
    int held, held_depth;   /* threads between fa_team_begin and fa_team_end */
    int64_t in_use;         /* what this thread has added to process.in_use */
    int in_call;
    const fa_stop *call;    /* of the call this thread has made */
};

static FA_THREAD_LOCAL struct thread_state self;

/* ---- the end of a call ----------------------------------------------------------------------------------------- */

/* The call's own thread: its deadline, and its look. The coarse clock is some milliseconds off and costs little. */
static int look(fa_stop *stop, struct thread_state *me) {
#if defined(CLOCK_MONOTONIC_COARSE)
    const int64_t now = clock_ns(CLOCK_MONOTONIC_COARSE);
#else
    const int64_t now = clock_ns(CLOCK_MONOTONIC);
#endif
    int stops = me->forked || (stop->deadline != 0 && now >= stop->deadline);
    if (stop->next_look == 0) {
        stop->next_look = now + FA_LOOK_NS;
    } else if (!stops && stop->look && now >= stop->next_look) {
        stop->next_look = now + FA_LOOK_NS;
        me->depth++; /* calls that it makes in turn run in this thread alone */
        stops = stop->look(stop->arg) != 0 || me->forked;
        me->depth--;
    }
    if (stops) __atomic_store_n(&stop->asked, 1, __ATOMIC_RELAXED);
    return stops;
}

int fa_stopping_now(fa_stop *stop) {
    if (__atomic_load_n(&stop->asked, __ATOMIC_RELAXED)) return 1;
    struct thread_state *me = &self;
    return me->call == stop && look(stop, me);
}

/* ---- running tasks --------------------------------------------------------------------------------------------- */

void fa_job_work(fa_job *job, int64_t task, int worker) {
    struct thread_state *me = &self;
    fa_fpenv env; /* the thread may serve another library's regions too, so it is left as it was found */
    fa_fpenv_enter(&env);
    me->depth++;
    int64_t did = 0;
    for (; task >= 0; task = job_take(job), did++) {
        if (fa_stopping(job->stop)) {
            atomic_fetch_and_explicit(&job->state, JOB_TASK - 1, memory_order_relaxed);
            break;
        }
        job->fn(job->arg, task, worker);
        if (worker == 0 && job->wake_at) fa_crew_call(job);
    }
    if (worker == 0) job->did = did;
    me->depth--;
    fa_fpenv_leave(&env);
}

/* In the right environment already. */
static void run_serial(struct thread_state *me, int64_t n_tasks, fa_task_fn fn, void *arg, fa_stop *stop) {
    me->depth++;
    for (int64_t task = 0; task < n_tasks && !fa_stopping(stop); task++) {
        fn(arg, task, 0);
    }
    me->depth--;
}

#ifdef _OPENMP

/* The barrier at the end of the region orders the tasks' writes before the return. A look that forks comes back in the
 * child too, where nobody else would ever come to the barrier: the child leaves the region as nobody may, and its
 * inherited thread never opens another. */
static void run_region(fa_job *job, int team) {
    jmp_buf child;
    if (_setjmp(child)) return;
#pragma omp parallel num_threads(team) default(none) shared(job, child)
    {
        fa_job_work(job, job_take(job), omp_get_thread_num());
        if (self.forked) _longjmp(child, 1);
    }
}

static int is_inherited(struct thread_state *me) {
    if (me->origin == ORIGIN_UNKNOWN) {
        me->origin = ORIGIN_OWN;
#if defined(__linux__)
        /* The thread a child starts with is its first: thread id and process id are the same. */
        if (process.forked_before_init && syscall(SYS_gettid) == (long)getpid()) {
            me->origin = ORIGIN_INHERITED;
        }
#endif
    }
    return me->origin == ORIGIN_INHERITED;
}

static int in_a_region(struct thread_state *me) { return !is_inherited(me) && omp_in_parallel(); }

#else

static int in_a_region(struct thread_state *me) {
    (void)me;
    return 0;
}

#endif /* _OPENMP */

static void run_team(struct thread_state *me, int64_t n_tasks, fa_task_fn fn, void *arg, int team, const fa_ctx *ctx) {
#ifdef _OPENMP
    if (atomic_load_explicit(&process.team, memory_order_relaxed) == FA_TEAM_OPENMP && !is_inherited(me)) {
        fa_job job = {.fn = fn, .arg = arg, .n_tasks = n_tasks, .stop = ctx->stop, .team = team};
        atomic_init(&job.state, n_tasks * JOB_TASK);
        if (!fa_stopping(ctx->stop)) run_region(&job, team); /* the others may leave no task for the caller to look before */
        return;
    }
#endif
    const int64_t in_use = atomic_load_explicit(&process.in_use, memory_order_relaxed);
    (void)me;
    fa_crew_run(fn, arg, n_tasks, team, (int)(in_use % CALL - in_use / CALL), ctx->small, ctx->stop);
}

/* ---- the seam -------------------------------------------------------------------------------------------------- */

/* The team of a call of this thread that may have `asked` threads: counted until release(). */
static int reserve(struct thread_state *me, int asked) {
    if (asked > 1 && in_a_region(me)) asked = 1;
    if (asked > process.omp_limit) asked = process.omp_limit;
    int team = 1;
    if (asked <= 1) {
        atomic_fetch_add_explicit(&process.in_use, CALL + 1, memory_order_relaxed);
    } else {
        int limit = atomic_load_explicit(&process.limit, memory_order_relaxed);
        limit = limit > asked ? limit : asked;
        int64_t used = atomic_load_explicit(&process.in_use, memory_order_relaxed);
        do {
            const int left = limit - (int)(used % CALL);
            team = left < asked ? left : asked;
            team = team < 1 ? 1 : team;
        } while (!atomic_compare_exchange_weak_explicit(&process.in_use, &used, used + CALL + team, memory_order_relaxed,
                                                        memory_order_relaxed));
    }
    me->in_use = CALL + team;
    if (team > me->granted) me->granted = team;
    return team;
}

static void release(struct thread_state *me) {
    atomic_fetch_sub_explicit(&process.in_use, me->in_use, memory_order_relaxed);
    me->in_use = 0;
}

fa_status fa_parallel_for(const fa_ctx *ctx, int64_t n_tasks, fa_task_fn fn, void *arg) {
    struct thread_state *me = &self;
    if (n_tasks <= 0) return FA_OK;
    if (me->depth > 0) { /* counted and in the right environment already */
        run_serial(me, n_tasks, fn, arg, ctx->stop);
        return ctx->stop && __atomic_load_n(&ctx->stop->asked, __ATOMIC_RELAXED) ? FA_STOPPED : FA_OK;
    }
    fa_fpenv env; /* around the runtime too: libomp's own start-up raises flags */
    fa_fpenv_enter(&env);
    me->in_call = 1;
    me->call = ctx->stop;
    int team = fa_team_max(ctx, n_tasks);
    const int reserves = me->held == 0;
    if (reserves) team = reserve(me, team);
    else if (team > me->held) team = me->held;
    if (ctx->small && atomic_load_explicit(&process.team, memory_order_relaxed) == FA_TEAM_OPENMP) team = 1;
    if (team == 1 || n_tasks > JOB_MOST_TASKS) run_serial(me, n_tasks, fn, arg, ctx->stop);
    else run_team(me, n_tasks, fn, arg, team, ctx);
    if (reserves) release(me);
    me->call = NULL;
    me->in_call = 0;
    fa_fpenv_leave(&env);
    const int stopped = (ctx->stop && __atomic_load_n(&ctx->stop->asked, __ATOMIC_RELAXED)) || me->forked;
    me->forked = 0;
    return stopped ? FA_STOPPED : FA_OK;
}

void fa_team_begin(const fa_ctx *ctx) {
    struct thread_state *me = &self;
    if (me->depth == 0 && me->held_depth++ == 0) me->held = reserve(me, ctx->num_threads);
}

void fa_team_end(void) {
    struct thread_state *me = &self;
    if (me->depth == 0 && --me->held_depth == 0) {
        me->held = 0;
        release(me);
    }
}

/* ---- fastattn.h: threads --------------------------------------------------------------------------------------- */

int fa_openmp_version(void) {
#ifdef _OPENMP
    return _OPENMP;
#else
    return 0;
#endif
}

int fa_omp_max_threads(void) {
#ifdef _OPENMP
#ifdef KMP_VERSION_MAJOR
    if (is_inherited(&self)) {
        return self.omp_max > 0 ? self.omp_max : (int)sysconf(_SC_NPROCESSORS_ONLN);
    }
    self.omp_max = omp_get_max_threads();
    return self.omp_max;
#else
    return omp_get_max_threads();
#endif
#else
    return process.omp_threads;
#endif
}

int fa_omp_places(int32_t *cpus, int most) {
    int count = 0;
#if defined(_OPENMP) && _OPENMP >= 201511
    if (is_inherited(&self) || omp_get_proc_bind() == omp_proc_bind_false) return 0;
    for (int place = 0; place < omp_get_num_places(); place++) {
        int ids[FA_MOST_THREADS];
        const int size = omp_get_place_num_procs(place);
        if (size <= 0 || size > FA_MOST_THREADS) continue;
        omp_get_place_proc_ids(place, ids);
        for (int i = 0; i < size && count < most; i++) cpus[count++] = ids[i];
    }
#else
    (void)cpus, (void)most;
#endif
    return count;
}

void fa_set_thread_limit(int limit) {
    atomic_store_explicit(&process.limit, limit < 1 ? 1 : limit, memory_order_relaxed);
}

int fa_threads_in_use(void) { return (int)(atomic_load_explicit(&process.in_use, memory_order_relaxed) % CALL); }

int fa_threads_granted(int forget) {
    const int granted = self.granted;
    if (forget) self.granted = 0;
    return granted;
}

int fa_select_team(fa_team team) {
#ifndef _OPENMP
    if (team == FA_TEAM_OPENMP) return 0;
#endif
    atomic_store_explicit(&process.team, (int)team, memory_order_relaxed);
    return 1;
}

/* Runs in the child, in the one thread that fork() copied, before fork() returns there. In the middle of a call it can
 * only come from its look: tasks that other threads had begun are lost, so the call ends as stopped. */
static void after_fork_in_child(void) {
    self.origin = ORIGIN_INHERITED;
    self.forked = self.in_call;
    atomic_store_explicit(&process.in_use, self.in_use, memory_order_relaxed); /* the others are gone */
    fa_crew_after_fork();
}

/* The first number of an environment variable of OpenMP's, at most `most`, which also stands for none. */
static int positive_setting(const char *name, int most) {
    const char *text = getenv(name);
    const long number = text ? strtol(text, NULL, 10) : 0;
    return number > 0 && number < most ? (int)number : most;
}

/* Bit 0x40 of the flags in /proc/self/stat, PF_FORKNOEXEC: forked, and no exec since. Unreadable counts as no. */
static int forked_without_exec(void) {
#if defined(__linux__)
    char text[512];
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) {
        return 0;
    }
    text[n] = '\0';
    /* pid (name) state ppid pgrp session tty tpgid flags: the name may hold anything, so start behind its last ')'. */
    char *at = NULL;
    for (char *p = text; *p != '\0'; p++) {
        at = *p == ')' ? p : at;
    }
    for (int field = 0; at != NULL && field < 7; field++) {
        do {
            at++;
        } while (*at != ' ' && *at != '\0');
        if (*at == '\0') {
            return 0;
        }
    }
    return at != NULL && (strtoul(at, NULL, 10) & 0x40ul) != 0;
#else
    return 0;
#endif
}

static int init_result;

static void init_once(void) {
    process.omp_limit = positive_setting("OMP_THREAD_LIMIT", FA_MOST_THREADS);
    process.omp_threads = positive_setting("OMP_NUM_THREADS", 1 << 20);
    process.forked_before_init = forked_without_exec();
    init_result = pthread_atfork(NULL, NULL, after_fork_in_child);
}

int fa_runtime_init(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int err = pthread_once(&once, init_once);
    return err != 0 ? err : init_result;
}
