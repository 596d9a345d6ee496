/* SPDX-License-Identifier: MIT */
#include "dispatch.h"

#include "cpu.h"

static const fa_kernels *const tables[] = {
    &fa_kernels_scalar,
#ifdef FA_WITH_AVX2
    &fa_kernels_avx2,
#endif
#ifdef FA_WITH_AVX512
    &fa_kernels_avx512,
#endif
#ifdef FA_WITH_AVX512_VNNI
    &fa_kernels_avx512_vnni,
#endif
#ifdef FA_WITH_NEON
    &fa_kernels_neon,
#endif
};

int fa_isa_count(void) { return (int)(sizeof tables / sizeof *tables); }

const char *fa_isa_name(int index) { return index >= 0 && index < fa_isa_count() ? tables[index]->name : ""; }

int fa_isa_supported(int index) { return index >= 0 && index < fa_isa_count() && fa_cpu_has(tables[index]->name); }

const fa_kernels *fa_kernels_for(int index) { return index >= 0 && index < fa_isa_count() ? tables[index] : 0; }
