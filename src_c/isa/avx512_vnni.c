/* SPDX-License-Identifier: MIT */
/* avx512 and AVX-512 VNNI: the kernels of integers alone, 24 of 32 zmm registers are sums. dispatch.c puts them into a copy of
 * avx512's table. */
#define FA_VEC_AVX512 1
#define FA_VEC_VNNI 1
#include "../vec/vec.h"
#include "../vec/vmath.h"

#include "../kernels/kernels.h"
#include "../kernels/linear_int8.inc"
#include "../kernels/linear_quant.inc"

extern const fa_integer_kernels fa_kernels_avx512_vnni;
const fa_integer_kernels fa_kernels_avx512_vnni = {FA_INT8_TABLE, FA_QUANT_TABLE};
