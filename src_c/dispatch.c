/* SPDX-License-Identifier: MIT */
#include "dispatch.h"

#include <pthread.h>

#include "cpu.h"

/* Tables of those that differ in the integer products alone, once make_variants has run. */
#if defined(FA_WITH_AVX512) && defined(FA_WITH_AVX512_VNNI)
#define FA_HAS_VNNI 1
static fa_kernels vnni;
#endif
#if defined(FA_WITH_NEON) && defined(FA_WITH_NEON_DOT)
#define FA_HAS_NEON_DOT 1
static fa_kernels neon_dot;
#endif

static void __attribute__((unused)) take_integers(fa_kernels *table, const fa_kernels *base, const fa_integer_kernels *own) {
    *table = *base;
    table->int8 = own->int8;
    table->quant = own->quant;
    table->attention_int8 = own->attention;
}

static void make_variants(void) {
#ifdef FA_HAS_VNNI
    take_integers(&vnni, &fa_kernels_avx512, &fa_kernels_avx512_vnni);
#endif
#ifdef FA_HAS_NEON_DOT
    take_integers(&neon_dot, &fa_kernels_neon, &fa_kernels_neon_dot);
#endif
}

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
#ifdef FA_HAS_NEON_DOT
    {"neon_dot", &neon_dot},
#endif
};

static int known(int index) { return index >= 0 && index < fa_isa_count(); }

int fa_isa_count(void) { return (int)(sizeof isas / sizeof *isas); }

const char *fa_isa_name(int index) { return known(index) ? isas[index].name : ""; }

int fa_isa_supported(int index) { return known(index) && fa_cpu_has(isas[index].name); }

const fa_kernels *fa_kernels_for(int index) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, make_variants);
    return known(index) ? isas[index].table : 0;
}
