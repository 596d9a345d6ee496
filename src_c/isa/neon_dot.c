/* SPDX-License-Identifier: MIT */
/* neon and its dot product instructions: the kernels of integers alone. dispatch.c puts them into
 * a copy of neon's table. */
#define FA_VEC_NEON 1
#define FA_VEC_DOT 1
#include "../vec/vec.h"
#include "../vec/vmath.h"

#include "../kernels/kernels.h"
#include "../kernels/linear_int8.inc"
#include "../kernels/linear_quant.inc"

extern const fa_integer_kernels fa_kernels_neon_dot;
const fa_integer_kernels fa_kernels_neon_dot = {FA_INT8_TABLE, FA_QUANT_TABLE};
