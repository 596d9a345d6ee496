/* SPDX-License-Identifier: MIT */
/*
 * A thread sleeps until a word changes: futexes on Linux, elsewhere one lock and condition for all words.
 *
 * park() returns at the latest some time after the word is no longer `seen` and unpark() was called, or after `ns`
 * nanoseconds (0: no limit); it may return at any time, so callers look again.
 */
#ifndef FA_PARK_H
#define FA_PARK_H

#include <limits.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

static inline void park(_Atomic uint32_t *word, uint32_t seen, int64_t ns) {
    const struct timespec limit = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, ns ? &limit : NULL, NULL, 0);
}

static inline void unpark(_Atomic uint32_t *word, int count) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static inline void park_after_fork(void) {}

#else
#include <pthread.h>

static pthread_mutex_t park_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t park_changed = PTHREAD_COND_INITIALIZER;

static inline void park(_Atomic uint32_t *word, uint32_t seen, int64_t ns) {
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += (time_t)(ns / 1000000000);
    end.tv_nsec += (long)(ns % 1000000000);
    if (end.tv_nsec >= 1000000000) end.tv_sec++, end.tv_nsec -= 1000000000;
    pthread_mutex_lock(&park_lock);
    if (atomic_load(word) == seen) {
        if (ns) pthread_cond_timedwait(&park_changed, &park_lock, &end);
        else pthread_cond_wait(&park_changed, &park_lock);
    }
    pthread_mutex_unlock(&park_lock);
}

static inline void unpark(_Atomic uint32_t *word, int count) {
    (void)word, (void)count;
    pthread_mutex_lock(&park_lock);
    pthread_mutex_unlock(&park_lock);
    pthread_cond_broadcast(&park_changed);
}

static inline void park_after_fork(void) {
    pthread_mutex_init(&park_lock, NULL);
    pthread_cond_init(&park_changed, NULL);
}

#endif

static inline int64_t clock_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

#endif
