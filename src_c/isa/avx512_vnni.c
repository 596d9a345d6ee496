/* SPDX-License-Identifier: MIT */
/* avx512 and AVX-512 VNNI: the kernels of integers alone, 24 of 32 zmm registers are sums. dispatch.c puts them into a copy of
 * avx512's table. */
#define FA_VEC_AVX512 1
#define FA_VEC_VNNI 1
#define FA_TILE_NV 2
#define FA_TILE_ROWS 14
#define FA_SCORE_ROWS 12
#define FA_ACCUMULATORS 24
#define FA_DECODE_ROWS 8
#define FA_TABLE fa_kernels_avx512_vnni
#include "integers.inc"
