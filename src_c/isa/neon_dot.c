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
#include "../kernels/kernels.h"

#include "../vec/vec.h"
#include "../vec/vmath.h"

#include "../kernels/attention.inc"
#include "../kernels/attention_int8.inc"
#include "../kernels/linear_int8.inc"
#include "../kernels/linear_quant.inc"

/* As in avx512_vnni.c. */
static const fa_attn_kernels other __attribute__((unused)) = FA_ATTENTION_TABLE;

extern const fa_integer_kernels fa_kernels_neon_dot;
const fa_integer_kernels fa_kernels_neon_dot = {FA_INT8_TABLE, FA_QUANT_TABLE, FA_ATTENTION_INT8_TABLE};
