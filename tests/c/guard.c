/* SPDX-License-Identifier: MIT */
#include "guard.h"

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#endif

#define MAX_BLOCKS 64

typedef struct block {
    const char *name;
    char *data, *base, *body; /* base: the mapping, a guard page first; body: its readable part */
    size_t bytes, body_bytes, mapped;
} block;

static block blocks[MAX_BLOCKS];
static const char *(*where_now)(void);
static const int fatal[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
#define FATAL ((int)(sizeof fatal / sizeof *fatal))
static struct sigaction before[FATAL];

static void die(const char *what) {
    perror(what);
    exit(2);
}

static size_t page_size(void) {
    static size_t size;
    if (size == 0) size = (size_t)sysconf(_SC_PAGESIZE);
    return size;
}

static block *find(const void *data) {
    for (int i = 0; i < MAX_BLOCKS; i++)
        if (blocks[i].base && blocks[i].data == data) return &blocks[i];
    fprintf(stderr, "guard: %p is not a block\n", data);
    exit(2);
}

void *guard_alloc(size_t bytes, guard_side side, const char *name) {
    const size_t page = page_size();
    block *b = NULL;
    for (int i = 0; i < MAX_BLOCKS && !b; i++)
        if (!blocks[i].base) b = &blocks[i];
    if (!b) {
        fprintf(stderr, "guard: more than %d blocks\n", MAX_BLOCKS);
        exit(2);
    }
    b->name = name;
    b->bytes = bytes;
    b->body_bytes = (bytes + page - 1) / page * page;
    b->mapped = b->body_bytes + 2 * page;
    b->base = mmap(NULL, b->mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b->base == MAP_FAILED) die("guard: mmap");
    b->body = b->base + page;
    b->data = side == GUARD_BACK ? b->body + b->body_bytes - bytes : b->body;
    if (b->body_bytes == 0) return b->data;
    if (mprotect(b->body, b->body_bytes, PROT_READ | PROT_WRITE)) die("guard: mprotect");
    memset(b->body, GUARD_FILL, b->body_bytes);
    ASAN_POISON_MEMORY_REGION(b->body, b->body_bytes);
    ASAN_UNPOISON_MEMORY_REGION(b->data, bytes);
    return b->data;
}

void guard_seal(void *data) {
    block *b = find(data);
    if (b->body_bytes && mprotect(b->body, b->body_bytes, PROT_READ)) die("guard: mprotect");
}

size_t guard_free(void *data) {
    block *b = find(data);
    size_t damaged = 0;
    ASAN_UNPOISON_MEMORY_REGION(b->body, b->body_bytes);
    for (char *p = b->body; p < b->body + b->body_bytes; p++) {
        if (p == b->data && b->bytes) p += b->bytes;
        if (p >= b->body + b->body_bytes) break;
        damaged += (unsigned char)*p != GUARD_FILL;
    }
    if (munmap(b->base, b->mapped)) die("guard: munmap");
    memset(b, 0, sizeof *b);
    return damaged;
}

/* Only write() and what formats into a buffer: a fault may have come from anywhere. */
static void on_fault(int number, siginfo_t *info, void *context) {
    char text[512];
    const char *hit = info->si_addr;
    int n = snprintf(text, sizeof text, "SIGNAL %d at %p in %s", number, (const void *)hit, where_now());
    for (int i = 0; i < MAX_BLOCKS; i++) {
        const block *b = &blocks[i];
        if (!b->base || hit < b->base || hit >= b->base + b->mapped) continue;
        n += snprintf(text + n, sizeof text - (size_t)n, ": byte %td of \"%s\", which has %zu", hit - b->data, b->name, b->bytes);
    }
    n += snprintf(text + n, sizeof text - (size_t)n, "\n");
    if (write(STDERR_FILENO, text, (size_t)n) < 0) _exit(2);
    (void)context;
    /* The instruction runs again and meets whoever was responsible before: a sanitizer's report, or the end. */
    for (int i = 0; i < FATAL; i++)
        if (fatal[i] == number) sigaction(number, &before[i], NULL);
}

void guard_explain_faults(const char *(*where)(void)) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    where_now = where;
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < FATAL; i++)
        if (sigaction(fatal[i], &action, &before[i])) die("guard: sigaction");
}
