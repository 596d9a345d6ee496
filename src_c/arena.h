/* SPDX-License-Identifier: MIT */
/*
 * Workspace carving. An op writes one carve function that takes an fa_arena and hands out its buffers; run on a NULL
 * base it measures, run on the caller's workspace it places. Size query and use cannot drift apart.
 */
#ifndef FA_ARENA_H
#define FA_ARENA_H

#include "fastattn.h"

typedef struct fa_arena {
    char *base;    /* NULL: measure only */
    size_t used;
    int overflow;  /* a request did not fit in size_t */
} fa_arena;

/* count items of `size` bytes, 64-byte aligned. */
static inline void *fa_arena_take(fa_arena *arena, size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX - 2 * FA_ALIGN - arena->used) {
        arena->overflow = 1;
        return NULL;
    }
    void *place = arena->base ? arena->base + arena->used : NULL;
    arena->used += (bytes + FA_ALIGN - 1) & ~(size_t)(FA_ALIGN - 1);
    return place;
}

#endif
