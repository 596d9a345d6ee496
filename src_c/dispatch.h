/* SPDX-License-Identifier: MIT */
/* Which kernel tables were compiled in. FA_WITH_<ISA> is set by the build for every stub it compiled. */
#ifndef FA_DISPATCH_H
#define FA_DISPATCH_H

#include "kernels/kernels.h"

extern const fa_kernels fa_kernels_scalar;
#ifdef FA_WITH_AVX2
extern const fa_kernels fa_kernels_avx2;
#endif
#ifdef FA_WITH_AVX512
extern const fa_kernels fa_kernels_avx512;
#endif
#ifdef FA_WITH_AVX512_VNNI
extern const fa_integer_kernels fa_kernels_avx512_vnni;
#endif
#ifdef FA_WITH_NEON
extern const fa_kernels fa_kernels_neon;
#endif
#ifdef FA_WITH_NEON_DOT
extern const fa_integer_kernels fa_kernels_neon_dot;
#endif

#endif
