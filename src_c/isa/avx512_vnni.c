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
#include "../kernels/kernels.h"

#include "../vec/vec.h"
#include "../vec/vmath.h"

#include "../kernels/attention.inc"
#include "../kernels/attention_int8.inc"
#include "../kernels/linear_int8.inc"
#include "../kernels/linear_quant.inc"

/* Attention by integers uses parts of attention.inc; the rest is said to be known and comes to nothing. */
static const fa_attn_kernels other __attribute__((unused)) = FA_ATTENTION_TABLE;

extern const fa_integer_kernels fa_kernels_avx512_vnni;
const fa_integer_kernels fa_kernels_avx512_vnni = {FA_INT8_TABLE, FA_QUANT_TABLE, FA_ATTENTION_INT8_TABLE};
