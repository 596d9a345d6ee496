/* SPDX-License-Identifier: MIT */
/* Between main.c and check.c alone. */
#ifndef RUN_H
#define RUN_H

void run_configure(const char *filter, unsigned isa_bits);
int run_cases(void);

#endif
