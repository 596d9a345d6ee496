/* SPDX-License-Identifier: MIT */
/* x86-64-v4: 24 to 28 of 32 zmm registers are accumulators. */
#define FA_VEC_AVX512 1
#define FA_TABLE fa_kernels_avx512
#define FA_TILE_NV 2
#define FA_TILE_ROWS 14
#define FA_SCORE_ROWS 12
#define FA_ACCUMULATORS 24
#define FA_DECODE_ROWS 8
#include "table.inc"
