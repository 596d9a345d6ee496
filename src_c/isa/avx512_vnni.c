/* SPDX-License-Identifier: MIT */
/* avx512 and AVX-512 VNNI: the int8 kernels alone, 24 of 32 zmm registers are sums. dispatch.c puts them into a copy of
 * avx512's table. */
#define FA_VEC_AVX512 1
#define FA_VEC_VNNI 1
#include "../vec/vec.h"
#include "../vec/vmath.h"

#include "../kernels/linear_int8.inc"

extern const fa_int8_kernels fa_kernels_avx512_vnni;
const fa_int8_kernels fa_kernels_avx512_vnni = FA_INT8_TABLE;
