/* SPDX-License-Identifier: MIT */
/* avx512 compiled with VNNI allowed; where the int8 products differ. */
#define FA_VEC_AVX512 1
#define FA_TABLE fa_kernels_avx512_vnni
#define FA_NAME "avx512_vnni"
#define FA_TILE_NV 2
#define FA_TILE_ROWS 14
#define FA_SCORE_ROWS 12
#define FA_ACCUMULATORS 24
#define FA_DECODE_ROWS 8
#include "table.inc"
