/* SPDX-License-Identifier: MIT */
/*
 * How members find work, wait for it and are hired; crew.h says what they are for, job.h how a task is taken.
 *
 * Jobs lie in a fixed row of slots, one for each caller that has members to ask for. A member goes through the slots in
 * use and joins what is open; the memory of a slot is always there, so a member that comes late sees a closed job or
 * the next one, never a dead one. `posts` counts jobs: a member without work waits for it to change, awake for a while
 * and then asleep.
 *
 * Where others want the CPUs
 * --------------------------
 * Waking a sleeping thread costs its caller a few microseconds and comes tens of microseconds late, so members wait
 * awake between the calls of one forward pass, and between one pass and the next. Where others want the CPUs all of
 * this is wrong: a turn of such a loop is time taken from them, and from the very thread that is waited for; a member
 * that is woken runs when its turn comes, perhaps in place of its caller; and one that loses its CPU in the middle of a
 * task keeps the caller waiting for a time slice of somebody else. So the process is `pressed` for a while when
 *   - waiting loops find their looks at the clock further apart than a turn takes, twice in short time, or
 *   - the system says that a calling thread loses its CPU many times a second.
 * Then waits are short, sleeping members are called only by jobs that have lasted a while, and where jobs with members
 * take longer than the caller's own pace says that they would alone, callers ask for half as many, in the end for none;
 * after a penalty, which doubles when it happens again, they ask for more. The bits do not depend on any of this.
 */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1
#endif

#include "crew.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/resource.h>
#include <unistd.h>

#include "park.h"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#define SLOTS 64
#define WAKE_MOST 2 /* members that one thread wakes for a job; those wake others */
#define TURNS 16    /* pauses between two looks at the clock */

#define US ((int64_t)1000)
#define MS ((int64_t)1000000)
#define AWAKE_NS (500 * US)        /* how long a member waits awake for work, and a caller for tasks under way */
#define PRESSED_AWAKE_NS (10 * US) /* the same while the process is pressed */
#define CALL_NS (100 * US)         /* so old is a job before it calls members that sleep, while pressed */
#define GAP_NS (1 * MS)            /* two looks at the clock so far apart: the thread was interrupted; */
#define TWICE_NS (30 * MS)         /* that happens on an idle machine too, but not twice in this time */
#define AROUND_NS (40 * MS)        /* the system is asked no more often, */
#define OFTEN 3                    /* and fewer interruptions, */
#define OFTEN_NS (20 * MS)         /* or so far apart are nothing unusual */
#define RELIEF_NS (100 * MS)       /* pressed for so long after the last sign of it */
#define ENOUGH_NS (20 * MS)        /* of jobs, to tell whether members help */
#define PENALTY_LEAST_NS (20 * MS)
#define PENALTY_MOST_NS (256 * MS)
#define HIRE_AGAIN_NS (20 * MS)    /* after the system has refused a thread */
#define LOOK_NS (20 * MS)          /* a sleeping caller looks whether it is to stop */

typedef struct slot {
    fa_job job;
    alignas(FA_ALIGN) _Atomic uint32_t asleep; /* the caller sleeps on this word while it is 1 */
    _Atomic int taken;
} slot;

typedef struct bed {
    alignas(FA_ALIGN) _Atomic uint32_t asleep; /* 1: the member sleeps here; whoever makes it 0 wakes it */
} bed;

static struct {
    alignas(FA_ALIGN) _Atomic uint32_t posts;
    _Atomic int slots; /* those below may be in use */
    alignas(FA_ALIGN) _Atomic int awake, asleep; /* members without work */
    alignas(FA_ALIGN) _Atomic int64_t pressed_until, gap;
    _Atomic int64_t level_until, penalty;
    _Atomic int level; /* callers ask for members >> level */
    _Atomic int64_t hire_from; /* not before: the system refused a thread */
    _Atomic int size;
    pthread_mutex_t hiring;
    slot row[SLOTS];
    bed beds[FA_MOST_THREADS]; /* of members */
} crew = {.hiring = PTHREAD_MUTEX_INITIALIZER};

static void relax(void) {
#if defined(__SSE__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb");
#endif
}

static void press(int64_t now) { atomic_store_explicit(&crew.pressed_until, now + RELIEF_NS, memory_order_relaxed); }
static int pressed(int64_t now) { return now < atomic_load_explicit(&crew.pressed_until, memory_order_relaxed); }

/* What the system says: how often a thread has lost its CPU to others. Asked from time to time; a few times a second is
 * what an idle machine does too. */
static void look_around(int64_t now) {
#if defined(RUSAGE_THREAD)
    static FA_THREAD_LOCAL struct { int64_t at; long lost; } last;
    struct rusage use;
    const int64_t since = now - last.at;
    if (since < AROUND_NS || getrusage(RUSAGE_THREAD, &use) != 0) return;
    const long lost = use.ru_nivcsw - last.lost;
    if (last.at != 0 && lost >= OFTEN && since / lost < OFTEN_NS) press(now);
    last.at = now;
    last.lost = use.ru_nivcsw;
#else
    (void)now;
#endif
}

/* A wait that is awake. spin_on() is one turn of it; 0: it has lasted long enough. */
typedef struct spin {
    int64_t begin, last;
} spin;

static int spin_on(spin *s) {
    for (int i = 0; i < TURNS; i++) relax();
    const int64_t now = clock_ns(CLOCK_MONOTONIC);
    if (s->begin == 0) s->begin = s->last = now;
    if (now - s->last > GAP_NS && now - atomic_exchange_explicit(&crew.gap, now, memory_order_relaxed) < TWICE_NS) press(now);
    s->last = now;
    return now - s->begin < (pressed(now) ? PRESSED_AWAKE_NS : AWAKE_NS);
}

/* ---- members --------------------------------------------------------------------------------------------------- */

/* Makes the member awake if it sleeps; it is counted as awake from now on, so that nobody wakes it again. */
static int rouse(int index) {
    uint32_t asleep = 1;
    if (!atomic_compare_exchange_strong(&crew.beds[index].asleep, &asleep, 0)) return 0;
    atomic_fetch_sub(&crew.asleep, 1);
    atomic_fetch_add(&crew.awake, 1);
    return 1;
}

/* There is work for `wanted` members: those that are awake see it by themselves; others are woken, but no more than
 * WAKE_MOST by one thread, since each takes a while. A member that is woken and joins wakes the next ones. */
static void wake(int wanted) {
    if (atomic_load(&crew.asleep) == 0) return;
    wanted -= atomic_load(&crew.awake);
    if (wanted > WAKE_MOST) wanted = WAKE_MOST;
    const int size = atomic_load_explicit(&crew.size, memory_order_relaxed);
    for (int i = 0; i < size && wanted > 0; i++) {
        if (atomic_load_explicit(&crew.beds[i].asleep, memory_order_relaxed) && rouse(i)) {
            unpark(&crew.beds[i].asleep, 1);
            wanted--;
        }
    }
}

static void sleep_until_posted(int index, uint32_t seen) {
    _Atomic uint32_t *asleep = &crew.beds[index].asleep;
    atomic_fetch_sub(&crew.awake, 1);
    atomic_fetch_add(&crew.asleep, 1);
    atomic_store(asleep, 1);
    if (atomic_load(&crew.posts) != seen) rouse(index); /* a post that has not seen this one asleep */
    while (atomic_load(asleep)) park(asleep, 1, 0);
}

/* A member that has just joined the job of this state wakes the next ones. */
static void pass_on(const fa_job *job, int64_t state) {
    const int64_t places = job_places(state) - 1, tasks = job_tasks(state) - 1;
    if (places > 0 && tasks > 0 && !job->small && !pressed(clock_ns(CLOCK_MONOTONIC))) wake((int)(places < tasks ? places : tasks));
}

/* Joins the job if it is open, works until none of its tasks is left, and leaves. Whether it was open. */
static int join(slot *s) {
    fa_job *job = &s->job;
    int64_t state = atomic_load_explicit(&job->state, memory_order_relaxed);
    do {
        if (state < JOB_TASK || job_places(state) == 0) return 0;
    } while (!atomic_compare_exchange_weak_explicit(&job->state, &state, state - JOB_TASK - JOB_PLACE + JOB_INSIDE,
                                                    memory_order_acquire, memory_order_relaxed));
    atomic_fetch_sub(&crew.awake, 1);
    pass_on(job, state);
    fa_job_work(job, job->n_tasks - job_tasks(state), job->team - job_places(state));
    if (job_inside(atomic_fetch_sub(&job->state, JOB_INSIDE)) == 1 && atomic_load(&s->asleep)) {
        atomic_store(&s->asleep, 0);
        unpark(&s->asleep, 1);
    }
    atomic_fetch_add(&crew.awake, 1);
    return 1;
}

static int join_any(int first) {
    const int slots = atomic_load_explicit(&crew.slots, memory_order_acquire);
    int joined = 0;
    for (int i = 0; i < slots; i++) joined |= join(&crew.row[(first + i) % slots]);
    return joined;
}

/* Never returns. It is detached, holds no lock while it waits and owns nothing, so the process may end at any time. */
static void *member(void *argument) {
    const int index = (int)(intptr_t)argument;
    spin wait = {0};
    for (;;) {
        const uint32_t seen = atomic_load(&crew.posts);
        if (join_any(index)) wait = (spin){0};
        while (atomic_load_explicit(&crew.posts, memory_order_relaxed) == seen) {
            if (spin_on(&wait)) continue;
            sleep_until_posted(index, seen);
            wait = (spin){0};
        }
    }
    return NULL;
}

/* A thread is born with the CPUs of the one that hires it. OpenMP may have bound that one to a single CPU: then members
 * get what OpenMP would give its own threads. */
static void place(pthread_attr_t *attr) {
#if defined(__linux__)
    int32_t cpus[FA_MOST_THREADS];
    cpu_set_t set;
    const int count = fa_omp_places(cpus, FA_MOST_THREADS);
    if (count == 0) return;
    CPU_ZERO(&set);
    for (int i = 0; i < count; i++)
        if (cpus[i] >= 0 && cpus[i] < CPU_SETSIZE) CPU_SET(cpus[i], &set);
    if (CPU_COUNT(&set) > 0) pthread_attr_setaffinity_np(attr, sizeof set, &set);
#else
    (void)attr;
#endif
}

static int hire(int index) {
    /* Tasks need some tens of kilobytes; the thread-local memory of all libraries comes from the stack too. */
    int hired = 0;
    for (size_t stack = (size_t)1 << 20; !hired && stack >= (size_t)256 << 10; stack /= 4) {
        pthread_attr_t attr;
        pthread_t thread;
        if (pthread_attr_init(&attr) != 0) break;
        place(&attr);
        atomic_fetch_add(&crew.awake, 1);
        hired = pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED) == 0 &&
                pthread_attr_setstacksize(&attr, stack) == 0 &&
                pthread_create(&thread, &attr, member, (void *)(intptr_t)index) == 0;
        if (!hired) atomic_fetch_sub(&crew.awake, 1);
        pthread_attr_destroy(&attr);
#if defined(__linux__)
        if (hired) pthread_setname_np(thread, "fastattn");
#endif
    }
    return hired;
}

/* CPUs that the calling thread may run on. */
static int cpus_here(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* Brings the crew up to `members`, or as near as the system allows; whoever comes while another hires goes on without.
 * More than there are CPUs help nobody, and others may want the room (a limit on processes): they come one for a call.
 * The process's signals stay with its other threads: members are born with all of them blocked, but for those that a
 * thread brings upon itself, which would end the process without a word of a handler's (faulthandler's, say). */
static void muster(int members) {
    const int there = atomic_load_explicit(&crew.size, memory_order_relaxed);
    if (members >= FA_MOST_THREADS) members = FA_MOST_THREADS - 1;
    if (there >= members) return;
    if (clock_ns(CLOCK_MONOTONIC) < atomic_load_explicit(&crew.hire_from, memory_order_relaxed)) return;
    if (pthread_mutex_trylock(&crew.hiring) != 0) return;
    const int cpus = cpus_here(), helpful = there < cpus - 1 ? cpus - 1 : there + 1;
    if (members > helpful) members = helpful;
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGSEGV), sigdelset(&all, SIGBUS), sigdelset(&all, SIGFPE), sigdelset(&all, SIGILL);
    if (pthread_sigmask(SIG_SETMASK, &all, &before) == 0) {
        int size = atomic_load_explicit(&crew.size, memory_order_relaxed);
        while (size < members && hire(size)) size++;
        atomic_store_explicit(&crew.size, size, memory_order_relaxed);
        if (size < members) {
            atomic_store_explicit(&crew.hire_from, clock_ns(CLOCK_MONOTONIC) + HIRE_AGAIN_NS, memory_order_relaxed);
        }
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    pthread_mutex_unlock(&crew.hiring);
}

/* ---- callers --------------------------------------------------------------------------------------------------- */

static FA_THREAD_LOCAL slot *mine; /* of the call this thread has made */

/* A slot that nobody uses, the lowest; NULL: there is none. */
static slot *take_slot(void) {
    for (int i = 0; i < SLOTS; i++) {
        if (atomic_load_explicit(&crew.row[i].taken, memory_order_relaxed) == 0 &&
            atomic_exchange_explicit(&crew.row[i].taken, 1, memory_order_acquire) == 0) {
            int slots = atomic_load_explicit(&crew.slots, memory_order_relaxed);
            while (slots <= i && !atomic_compare_exchange_weak_explicit(&crew.slots, &slots, i + 1, memory_order_release,
                                                                        memory_order_relaxed)) {
            }
            return &crew.row[i];
        }
    }
    return NULL;
}

/* How many members a call that may have `members` should ask for now. */
static int allowed(int members, int64_t now) {
    const int level = atomic_load_explicit(&crew.level, memory_order_relaxed);
    if (level == 0) return members;
    if (now >= atomic_load_explicit(&crew.level_until, memory_order_relaxed)) {
        atomic_store_explicit(&crew.level, level - 1, memory_order_relaxed);
        atomic_store_explicit(&crew.level_until, now + atomic_load_explicit(&crew.penalty, memory_order_relaxed),
                              memory_order_relaxed);
    }
    return members >> level;
}

/* A job took `took` nanoseconds while the process was pressed, of which the caller worked `own`, on `did` of its tasks:
 * alone it would have taken about own / did for each of them. Where help made a while of such jobs longer, callers ask for
 * fewer members. */
static void learn(int64_t took, int64_t own, int64_t did, int64_t tasks, int64_t now) {
    static FA_THREAD_LOCAL struct { int64_t took, alone; } sum;
    sum.took += took;
    sum.alone += (int64_t)((double)own * (double)tasks / (double)(did > 0 ? did : 1));
    if (sum.took < ENOUGH_NS) return;
    const int helps = sum.took <= sum.alone;
    sum.took = sum.alone = 0;
    if (helps) return;
    int64_t penalty = atomic_load_explicit(&crew.penalty, memory_order_relaxed);
    const int again = now < atomic_load_explicit(&crew.level_until, memory_order_relaxed) + RELIEF_NS;
    penalty = !again || penalty == 0 ? PENALTY_LEAST_NS : penalty < PENALTY_MOST_NS ? 2 * penalty : penalty;
    const int level = atomic_load_explicit(&crew.level, memory_order_relaxed);
    atomic_store_explicit(&crew.penalty, penalty, memory_order_relaxed);
    atomic_store_explicit(&crew.level_until, now + penalty, memory_order_relaxed);
    atomic_store_explicit(&crew.level, level < JOB_FIELD ? level + 1 : level, memory_order_relaxed);
}

static void await_members(slot *s, fa_stop *stop) {
    spin wait = {0};
    for (;;) {
        for (int i = 0; i < TURNS; i++) {
            if (job_inside(atomic_load_explicit(&s->job.state, memory_order_acquire)) == 0) return;
            relax();
        }
        if (!spin_on(&wait)) break;
    }
    for (;;) {
        atomic_store(&s->asleep, 1);
        if (job_inside(atomic_load(&s->job.state)) == 0) break;
        park(&s->asleep, 1, stop ? LOOK_NS : 0);
        fa_stopping(stop); /* members see the answer */
    }
    atomic_store(&s->asleep, 0);
}

void fa_crew_run(fa_task_fn fn, void *arg, int64_t n_tasks, int team, int members, int small, fa_stop *stop) {
    const int64_t begin = clock_ns(CLOCK_MONOTONIC);
    look_around(begin);
    const int places = allowed(team - 1, begin);
    slot *s = mine = places > 0 ? take_slot() : NULL;
    fa_job alone;
    if (s) muster(members);
    fa_job *job = s ? &s->job : &alone;
    job->fn = fn;
    job->arg = arg;
    job->n_tasks = n_tasks;
    job->stop = stop;
    job->team = places + 1;
    job->wake_at = 0;
    job->small = small;
    atomic_store_explicit(&job->state, (n_tasks - 1) * JOB_TASK + (s ? places * JOB_PLACE : 0), memory_order_release);
    if (s) {
        atomic_fetch_add(&crew.posts, 1);
        /* who is awake may come to another call that was posted at the same time: a longer job calls once more */
        if (!small && !pressed(begin)) wake(places < n_tasks - 1 ? places : (int)(n_tasks - 1));
        if (!small && atomic_load(&crew.asleep)) job->wake_at = begin + CALL_NS;
    }
    fa_job_work(job, 0, 0);
    if (!s) return;
    const int learns = pressed(begin);
    const int64_t idle = learns ? clock_ns(CLOCK_MONOTONIC) : 0;
    if (job_inside(atomic_load_explicit(&job->state, memory_order_acquire))) await_members(s, stop);
    if (learns) {
        const int64_t end = clock_ns(CLOCK_MONOTONIC);
        learn(end - begin, idle - begin, job->did, n_tasks, end);
    }
    mine = NULL;
    atomic_store_explicit(&s->taken, 0, memory_order_release);
}

void fa_crew_after_fork(void) {
    pthread_mutex_init(&crew.hiring, NULL); /* another thread may have held it */
    atomic_store(&crew.posts, 0);
    atomic_store(&crew.slots, 0);
    atomic_store(&crew.awake, 0);
    atomic_store(&crew.asleep, 0);
    atomic_store(&crew.hire_from, 0);
    atomic_store(&crew.size, 0);
    for (int i = 0; i < FA_MOST_THREADS; i++) {
        if (atomic_load(&crew.beds[i].asleep)) atomic_store(&crew.beds[i].asleep, 0);
    }
    for (int i = 0; i < SLOTS; i++) {
        slot *s = &crew.row[i];
        atomic_store(&s->job.state, 0);
        atomic_store(&s->asleep, 0);
        atomic_store(&s->taken, s == mine); /* until that call has ended: threads of the child call meanwhile */
        if (s == mine) atomic_store(&crew.slots, i + 1);
    }
    park_after_fork();
}

void fa_crew_call(fa_job *job) {
    const int64_t left = job_tasks(atomic_load_explicit(&job->state, memory_order_relaxed));
    if (clock_ns(CLOCK_MONOTONIC) < job->wake_at) return;
    job->wake_at = 0;
    wake(left < job->team - 1 ? (int)left : job->team - 1);
}

int fa_crew_size(void) { return atomic_load_explicit(&crew.size, memory_order_relaxed); }
