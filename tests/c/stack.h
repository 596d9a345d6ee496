/* SPDX-License-Identifier: MIT */
/*
 * How deep a call goes. stack_paint writes a pattern where the frames of what is called next will lie; stack_touched looks
 * how much of it is left. For the main thread, whose stack has room.
 */
#ifndef STACK_H
#define STACK_H

#include <stddef.h>

#define STACK_LIMIT (64u << 10) /* bytes an operator may take: frameworks give threads 64 to 256 KiB */

void stack_paint(void);
size_t stack_touched(void); /* bytes; 0 where sanitizers make the frames their own */

#endif
