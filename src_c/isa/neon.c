/* SPDX-License-Identifier: MIT */
/* aarch64: 24 of 32 q registers are accumulators. */
#define FA_VEC_NEON 1
#define FA_TABLE fa_kernels_neon
#define FA_TILE_NV 1
#define FA_TILE_ROWS 6
#define FA_SCORE_ROWS 6
#define FA_ACCUMULATORS 6
#define FA_DECODE_ROWS 4
#include "table.inc"
