/* SPDX-License-Identifier: MIT */
/*
 * Memory with a page that must not be touched right behind its last byte (GUARD_BACK) or right before its first one
 * (GUARD_FRONT). What is left of the mapping on the other side holds a pattern that guard_free checks; AddressSanitizer,
 * where it is built in, watches those bytes too. A block of no bytes lies on a guard page altogether.
 */
#ifndef GUARD_H
#define GUARD_H

#include <stddef.h>

typedef enum guard_side { GUARD_BACK, GUARD_FRONT } guard_side;

#define GUARD_FILL 0xa5 /* fresh memory and what surrounds it; as a float a small negative number no test produces */

/* `name` shows when the block's guard page is hit; it must outlive the block. */
void *guard_alloc(size_t bytes, guard_side side, const char *name);

/* Inputs: from now on a write is a fault. */
void guard_seal(void *block);

/* Returns how many bytes around the block were written to. */
size_t guard_free(void *block);

/* A fault (or a trap) prints `where()` and the block that was hit, and then takes its ordinary course. */
void guard_explain_faults(const char *(*where)(void));

#endif
