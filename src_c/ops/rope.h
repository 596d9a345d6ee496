/* SPDX-License-Identifier: MIT */
/* What rope.c and kv_store.c share: where the angles of a row come from. */
#ifndef FA_OPS_ROPE_H
#define FA_OPS_ROPE_H

#include "../kernels/kernels.h"

typedef struct fa_rope_angles {
    const fa_view *cos, *sin; /* (P, half) with positions, else (B, S, half); fp32 */
    const fa_view *positions; /* (B, S) int64, or NULL */
    int interleaved;
} fa_rope_angles;

/* Shapes and strides, then, where there is anything to do, every position against P. */
fa_status fa_rope_angles_check(const fa_rope_angles *angles, int64_t batch, int64_t seq, int64_t d);
fa_status fa_rope_positions_check(const fa_rope_angles *angles);

/* The angles of positions s, s + 1, ... of sequence b; the caller fills in out, x, dtype, rows and d. */
fa_rope_rows fa_rope_rows_at(const fa_rope_angles *angles, int64_t b, int64_t s);

/* Gives all rows the first angle of `at`: the heads of one position. */
void fa_rope_one_angle(fa_rope_rows *rows, const fa_rope_rows *at);

#endif
