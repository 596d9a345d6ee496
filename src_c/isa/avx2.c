/* SPDX-License-Identifier: MIT */
/* x86-64-v3: 12 of 16 ymm registers are accumulators. */
#define FA_VEC_AVX2 1
#define FA_TABLE fa_kernels_avx2
#define FA_TILE_NV 1
#define FA_TILE_ROWS 6
#define FA_SCORE_ROWS 6
#define FA_ACCUMULATORS 6
#define FA_DECODE_ROWS 4
#include "table.inc"
