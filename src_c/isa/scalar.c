/* SPDX-License-Identifier: MIT */
/* The specification, for any CPU. */
#define FA_VEC_SCALAR 1
#define FA_TABLE fa_kernels_scalar
#define FA_NAME "scalar"
#define FA_TILE_NV 1
#define FA_TILE_ROWS 6
#define FA_SCORE_ROWS 6
#define FA_ACCUMULATORS 6
#define FA_DECODE_ROWS 4
#include "table.inc"
