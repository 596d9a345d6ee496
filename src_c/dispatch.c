/* SPDX-License-Identifier: MIT */
#include "dispatch.h"

#include <pthread.h>

#include "cpu.h"

#if defined(FA_WITH_AVX512) && defined(FA_WITH_AVX512_VNNI)
#define FA_HAS_VNNI 1
static fa_kernels vnni; /* avx512's table with the integer products of its own, once make_vnni has run */

static void make_vnni(void) {
    vnni = fa_kernels_avx512;
    vnni.int8 = fa_kernels_avx512_vnni.int8;
    vnni.quant = fa_kernels_avx512_vnni.quant;
}
#endif

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
#endif
#ifdef FA_HAS_VNNI
    {"avx512_vnni", &vnni},
#endif
#ifdef FA_WITH_NEON
    {"neon", &fa_kernels_neon},
#endif
};

static int known(int index) { return index >= 0 && index < fa_isa_count(); }

int fa_isa_count(void) { return (int)(sizeof isas / sizeof *isas); }

const char *fa_isa_name(int index) { return known(index) ? isas[index].name : ""; }

int fa_isa_supported(int index) { return known(index) && fa_cpu_has(isas[index].name); }

const fa_kernels *fa_kernels_for(int index) {
#ifdef FA_HAS_VNNI
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, make_vnni);
#endif
    return known(index) ? isas[index].table : 0;
}
