/* SPDX-License-Identifier: MIT */
/* neon and its dot product instructions: the kernels of integers alone. dispatch.c puts them into
 * a copy of neon's table. */
#define FA_VEC_NEON 1
#define FA_VEC_DOT 1
#define FA_TILE_NV 1
#define FA_TILE_ROWS 6
#define FA_SCORE_ROWS 6
#define FA_ACCUMULATORS 6
#define FA_DECODE_ROWS 4
#define FA_TABLE fa_kernels_neon_dot
#include "integers.inc"
