/* SPDX-License-Identifier: MIT */
/* The specification, for any CPU: small before fast, one row of accumulators. */
#define FA_VEC_SCALAR 1
#define FA_TABLE fa_kernels_scalar
#define FA_TILE_NV 1
#define FA_TILE_ROWS 1
#define FA_SCORE_ROWS 1
#define FA_ACCUMULATORS 1
#define FA_DECODE_ROWS 2
#include "table.inc"
