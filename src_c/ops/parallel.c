/* SPDX-License-Identifier: MIT */
/*
 * Teams of threads: how many, in which floating-point environment, and what happens after fork().
 *
 * How many
 * --------
 * One counter holds the threads that are inside a call, over the whole process. A call that may use n threads takes
 * min(n, limit - counter), at least its own thread, and gives them back at the end. Nobody blocks: with more callers
 * than the limit every one of them runs alone. A call that asks for more than the limit by its own argument means it,
 * so for that call the limit is what it asks. The result never depends on the team (fastattn.h).
 *
 * Tasks come from one atomic counter. This is what schedule(dynamic, 1) does, with less bookkeeping, and it stays right
 * when the OpenMP runtime grants a smaller team than asked (OMP_THREAD_LIMIT, OMP_DYNAMIC).
 *
 * After fork()
 * ------------
 * libgomp keeps a pool of threads for each thread that ever opened a region. fork() copies the calling thread together
 * with its pointer to that pool, but none of the pool's threads, so the child's first region waits for ever. The
 * parent's regions need not have been ours: any library on the same libgomp will do.
 *
 * So the inherited thread, the one thread a child starts with, never opens a region. Its teams are made of a crew of
 * plain threads, created when first needed and then kept, which share the tasks in the same way at the same speed.
 * Threads created in the child are new to libgomp and use it as usual. A grandchild starts over.
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
#include <signal.h>
#include <stdatomic.h>
#include <stdalign.h>
#include <stdlib.h>
#include <unistd.h>

#if defined(__linux__)
#include <fcntl.h>
#include <sys/syscall.h>
#endif

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

/* ---- floating-point environment -------------------------------------------------------------------------------- */

#if defined(__SSE__)

#define MXCSR_DEFAULT 0x1f80u /* round to nearest, no FTZ, no DAZ, all exceptions masked, no flag set */
#define MXCSR_FLAGS 0x003fu

void fa_fpenv_enter(fa_fpenv *saved) {
    unsigned mxcsr = _mm_getcsr();
    saved->control = mxcsr;
    saved->flags = 0;
    /* Flags the caller has already raised do not change results; reading the register is cheap, writing is less so. */
    if ((mxcsr & ~MXCSR_FLAGS) != MXCSR_DEFAULT) {
        _mm_setcsr(MXCSR_DEFAULT);
    }
}

void fa_fpenv_leave(const fa_fpenv *saved) {
    if (_mm_getcsr() != (unsigned)saved->control) {
        _mm_setcsr((unsigned)saved->control);
    }
}

#elif defined(__aarch64__)

void fa_fpenv_enter(fa_fpenv *saved) {
    uint64_t fpcr, fpsr;
    __asm__ __volatile__("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(fpcr), "=r"(fpsr)::"memory");
    saved->control = fpcr;
    saved->flags = fpsr;
    if (fpcr != 0) {
        __asm__ __volatile__("msr fpcr, %0" ::"r"((uint64_t)0) : "memory");
    }
}

void fa_fpenv_leave(const fa_fpenv *saved) {
    if (saved->control != 0) {
        __asm__ __volatile__("msr fpcr, %0" ::"r"(saved->control) : "memory");
    }
    __asm__ __volatile__("msr fpsr, %0" ::"r"(saved->flags) : "memory");
}

#else
#include <fenv.h>

void fa_fpenv_enter(fa_fpenv *saved) {
    saved->control = (uint64_t)fegetround();
    saved->flags = 0;
    fesetround(FE_TONEAREST);
}

void fa_fpenv_leave(const fa_fpenv *saved) { fesetround((int)saved->control); }

#endif

/* volatile keeps the conversion between the two switches. */
float fa_to_float(double x) {
    fa_fpenv env;
    fa_fpenv_enter(&env);
    volatile double from = x;
    volatile float to = (float)from;
    fa_fpenv_leave(&env);
    return to;
}

/* ---- state ----------------------------------------------------------------------------------------------------- */

static struct {
    alignas(FA_ALIGN) _Atomic int in_use; /* written by every call: alone on its cache line */
    alignas(FA_ALIGN) _Atomic int limit;
    int forked_before_init; /* written once, by fa_runtime_init */
} process = {.in_use = 0, .limit = 1 << 20, .forked_before_init = 0};

enum origin { ORIGIN_UNKNOWN = 0, ORIGIN_OWN = 1, ORIGIN_INHERITED = 2 };

struct thread_state {
    int depth;   /* > 0: inside a task */
    int origin;  /* may this thread open a region? */
    int omp_max; /* LLVM's runtime: what it last told this thread */
};

static _Thread_local struct thread_state self;

typedef struct job {
    fa_task_fn fn;
    void *arg;
    int64_t n_tasks;
    alignas(FA_ALIGN) _Atomic int64_t next;
} job;

/* ---- running tasks --------------------------------------------------------------------------------------------- */

static void run_serial(struct thread_state *me, int64_t n_tasks, fa_task_fn fn, void *arg) {
    me->depth++;
    for (int64_t task = 0; task < n_tasks; task++) {
        fn(arg, task, 0);
    }
    me->depth--;
}

#ifdef _OPENMP

/* One member of a team. Its thread may serve another library's regions too, so it is left as it was found. */
static void run_share(job *j, int worker) {
    struct thread_state *me = &self;
    fa_fpenv env;
    fa_fpenv_enter(&env);
    me->depth++;
    for (;;) {
        int64_t task = atomic_fetch_add_explicit(&j->next, 1, memory_order_relaxed);
        if (task >= j->n_tasks) {
            break;
        }
        j->fn(j->arg, task, worker);
    }
    me->depth--;
    fa_fpenv_leave(&env);
}

/* The barrier at the end of the region orders the tasks' writes before the return. */
static void run_region(job *j, int team) {
#pragma omp parallel num_threads(team) default(none) shared(j)
    run_share(j, omp_get_thread_num());
}

/* ---- the crew of a forked child -------------------------------------------------------------------------------- */

/*
 * One master, the inherited thread, and members 1..size. The master posts a call as one 64-bit word, a serial number
 * and the size of the team; members below that size take part and count themselves out in `pending`. A member cannot
 * miss a call it belongs to, because the master waits for it; others may skip any number of calls.
 * Both sides spin before they sleep. Words change under the lock, so that nobody falls asleep on a word just changed.
 */
static struct {
    alignas(FA_ALIGN) _Atomic uint64_t word; /* serial << 32 | team */
    job *job;                                /* written before the word, valid until pending is 0 */
    alignas(FA_ALIGN) _Atomic int pending;
    pthread_mutex_t lock;
    pthread_cond_t posted, finished;
    int members_asleep, master_asleep; /* under the lock */
    int size;                          /* members of this process; touched by the master alone */
} crew;

/* About half a millisecond, a fifteenth of what libgomp's idle threads spin: longer than the gaps between the calls of
 * one forward pass, so that a busy neighbour on the machine does not send the crew to sleep in each of them. */
#define CREW_SPINS 20000

static void relax(void) {
#if defined(__SSE__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb");
#endif
}

static uint64_t crew_await_word(uint64_t seen) {
    uint64_t word;
    for (int i = 0; i < CREW_SPINS; i++) {
        word = atomic_load_explicit(&crew.word, memory_order_acquire);
        if (word != seen) {
            return word;
        }
        relax();
    }
    pthread_mutex_lock(&crew.lock);
    crew.members_asleep++;
    while ((word = atomic_load_explicit(&crew.word, memory_order_acquire)) == seen) {
        pthread_cond_wait(&crew.posted, &crew.lock);
    }
    crew.members_asleep--;
    pthread_mutex_unlock(&crew.lock);
    return word;
}

/* Never returns. It is detached, holds no lock while it waits and owns nothing, so the process may end at any time. */
static void *crew_member(void *index) {
    const int worker = (int)(intptr_t)index;
    uint64_t word = 0;
    for (;;) {
        word = crew_await_word(word);
        if (worker >= (int)(word & 0xffffffffu)) {
            continue;
        }
        run_share(crew.job, worker);
        if (atomic_fetch_sub_explicit(&crew.pending, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&crew.lock);
            const int wake = crew.master_asleep;
            pthread_mutex_unlock(&crew.lock);
            if (wake) {
                pthread_cond_signal(&crew.finished);
            }
        }
    }
    return NULL;
}

static int crew_hire(int worker) {
    /* A main thread's usual stack; less where address space is limited. */
    int hired = 0;
    for (size_t stack = (size_t)8 << 20; !hired && stack >= (size_t)1 << 20; stack /= 8) {
        pthread_attr_t attr;
        pthread_t thread;
        if (pthread_attr_init(&attr) != 0) {
            break;
        }
        hired = pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED) == 0 &&
                pthread_attr_setstacksize(&attr, stack) == 0 &&
                pthread_create(&thread, &attr, crew_member, (void *)(intptr_t)worker) == 0;
        pthread_attr_destroy(&attr);
    }
    return hired;
}

/* Brings the crew up to `team` threads, the master included, and returns how many there are: fewer when the system
 * gives no more threads. The caller's signals stay the caller's: members are born with all of them blocked. */
static int crew_muster(int team) {
    if (crew.size + 1 >= team) {
        return team;
    }
    if (crew.size == 0) {
        /* The parent's crew left these in any state; here they have neither owner nor waiters. */
        pthread_mutex_init(&crew.lock, NULL);
        pthread_cond_init(&crew.posted, NULL);
        pthread_cond_init(&crew.finished, NULL);
        atomic_store(&crew.word, 0);
        crew.members_asleep = 0;
        crew.master_asleep = 0;
    }
    sigset_t all, before;
    sigfillset(&all);
    if (pthread_sigmask(SIG_SETMASK, &all, &before) == 0) {
        while (crew.size + 1 < team && crew_hire(crew.size + 1)) {
            crew.size++;
        }
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    return crew.size + 1;
}

static void run_crew(job *j, int team) {
    team = crew_muster(team);
    if (team > 1) {
        crew.job = j;
        atomic_store_explicit(&crew.pending, team - 1, memory_order_relaxed);
        pthread_mutex_lock(&crew.lock);
        const uint64_t serial = atomic_load_explicit(&crew.word, memory_order_relaxed) >> 32;
        atomic_store_explicit(&crew.word, (serial + 1) << 32 | (uint64_t)team, memory_order_release);
        const int wake = crew.members_asleep > 0;
        pthread_mutex_unlock(&crew.lock);
        if (wake) {
            pthread_cond_broadcast(&crew.posted);
        }
    }
    run_share(j, 0);
    if (team == 1) {
        return;
    }
    for (int i = 0; i < CREW_SPINS; i++) {
        if (atomic_load_explicit(&crew.pending, memory_order_acquire) == 0) {
            return;
        }
        relax();
    }
    pthread_mutex_lock(&crew.lock);
    crew.master_asleep = 1;
    while (atomic_load_explicit(&crew.pending, memory_order_acquire) != 0) {
        pthread_cond_wait(&crew.finished, &crew.lock);
    }
    crew.master_asleep = 0;
    pthread_mutex_unlock(&crew.lock);
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

#endif /* _OPENMP */

/* ---- the seam -------------------------------------------------------------------------------------------------- */

static int reserve(int asked) {
    if (asked <= 1) {
        atomic_fetch_add_explicit(&process.in_use, 1, memory_order_relaxed);
        return 1;
    }
    int limit = atomic_load_explicit(&process.limit, memory_order_relaxed);
    limit = limit > asked ? limit : asked;
    int used = atomic_load_explicit(&process.in_use, memory_order_relaxed);
    int team;
    do {
        team = limit - used < asked ? limit - used : asked;
        team = team < 1 ? 1 : team;
    } while (!atomic_compare_exchange_weak_explicit(&process.in_use, &used, used + team, memory_order_relaxed,
                                                    memory_order_relaxed));
    return team;
}

void fa_parallel_for(const fa_ctx *ctx, int64_t n_tasks, fa_task_fn fn, void *arg) {
    if (n_tasks <= 0) {
        return;
    }
    struct thread_state *me = &self;
    if (me->depth > 0) { /* counted and in the right environment already */
        for (int64_t task = 0; task < n_tasks; task++) {
            fn(arg, task, 0);
        }
        return;
    }
    fa_fpenv env; /* around the runtime too: libomp's own start-up raises flags */
    fa_fpenv_enter(&env);
#ifdef _OPENMP
    int asked = fa_team_max(ctx, n_tasks);
    const int inherited = asked > 1 && is_inherited(me);
    if (asked > 1 && !inherited && omp_in_parallel()) {
        asked = 1;
    }
    const int team = reserve(asked);
    if (team == 1) {
        run_serial(me, n_tasks, fn, arg);
    } else {
        job j = {.fn = fn, .arg = arg, .n_tasks = n_tasks, .next = 0};
        if (inherited) {
            run_crew(&j, team);
        } else {
            run_region(&j, team);
        }
    }
#else
    (void)ctx;
    const int team = reserve(1);
    run_serial(me, n_tasks, fn, arg);
#endif
    atomic_fetch_sub_explicit(&process.in_use, team, memory_order_relaxed);
    fa_fpenv_leave(&env);
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
    return 1;
#endif
}

void fa_set_thread_limit(int limit) {
    atomic_store_explicit(&process.limit, limit < 1 ? 1 : limit, memory_order_relaxed);
}

int fa_threads_in_use(void) { return atomic_load_explicit(&process.in_use, memory_order_relaxed); }

/* Runs in the child, in the one thread that fork() copied, before fork() returns there. */
static void after_fork_in_child(void) {
    atomic_store_explicit(&process.in_use, 0, memory_order_relaxed); /* the others are gone */
    self.origin = ORIGIN_INHERITED;
    self.depth = 0;
#ifdef _OPENMP
    crew.size = 0;
#endif
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
    process.forked_before_init = forked_without_exec();
    init_result = pthread_atfork(NULL, NULL, after_fork_in_child);
}

int fa_runtime_init(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int err = pthread_once(&once, init_once);
    return err != 0 ? err : init_result;
}
