/* SPDX-License-Identifier: MIT */
#include "dispatch.h"

#include "cpu.h"

/* avx512_vnni runs the kernels of avx512 until there are integer products, where the two will differ. */
static const struct {
    const char *name;
    const fa_kernels *table;
} isas[] = {
    {"scalar", &fa_kernels_scalar},
#ifdef FA_WITH_AVX2
    {"avx2", &fa_kernels_avx2},
#endif
#ifdef FA_WITH_AVX512
    {"avx512", &fa_kernels_avx512},
    {"avx512_vnni", &fa_kernels_avx512},
#endif
#ifdef FA_WITH_NEON
    {"neon", &fa_kernels_neon},
#endif
};

static int known(int index) { return index >= 0 && index < fa_isa_count(); }

int fa_isa_count(void) { return (int)(sizeof isas / sizeof *isas); }

const char *fa_isa_name(int index) { return known(index) ? isas[index].name : ""; }

int fa_isa_supported(int index) { return known(index) && fa_cpu_has(isas[index].name); }

const fa_kernels *fa_kernels_for(int index) { return known(index) ? isas[index].table : 0; }
