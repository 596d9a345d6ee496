/* SPDX-License-Identifier: MIT */
#include "stack.h"

#include <stdint.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)

void stack_paint(void) {}
size_t stack_touched(void) { return 0; }

#else

#define PATTERN 0x5bd1e995c2b2ae35u
#define WORDS (2 * STACK_LIMIT / sizeof(uint64_t)) /* what goes deeper is told as this much */

static uintptr_t painted; /* the lowest word */

__attribute__((noinline)) void stack_paint(void) {
    volatile uint64_t words[WORDS];
    for (size_t i = 0; i < WORDS; i++) words[i] = PATTERN;
    painted = (uintptr_t)words;
}

/* What lies below this frame is read, not written: a few words of the caller's and of this one count as touched. */
__attribute__((noinline)) size_t stack_touched(void) {
    const volatile uint64_t *words = (const volatile uint64_t *)painted;
    size_t left = 0;
    while (left < WORDS && words[left] == PATTERN) left++;
    return (WORDS - left) * sizeof *words;
}

#endif
