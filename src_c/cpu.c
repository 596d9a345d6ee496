/* SPDX-License-Identifier: MIT */
/*
 * CPU detection by hand rather than by __builtin_cpu_supports: that one knows no bundle, differs between compilers,
 * and needs a run-time library clang does not always bring.
 *
 * Sources: Intel SDM vol. 2A (CPUID; leaf 4 for caches), AMD APM vol. 3 (leaf 8000_001Dh for caches), the x86-64 psABI
 * (micro-architecture levels), Linux Documentation/arch/arm64/elf_hwcaps.rst.
 */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1
#endif

#include "cpu.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#if defined(__x86_64__) || defined(__i386__)
#define FA_CPU_X86 1
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#define FA_CPU_AARCH64 1
#include <sys/auxv.h>
#endif

static fa_cpu_info found;

#if defined(FA_CPU_X86)

typedef struct leaf {
    unsigned a, b, c, d;
} leaf;

/* All zero for a leaf the CPU does not have, so that its bits read as "no". */
static leaf cpuid(unsigned number, unsigned sub) {
    leaf r = {0, 0, 0, 0};
    if ((unsigned)__get_cpuid_max(number & 0x80000000u, NULL) >= number) {
        __cpuid_count(number, sub, r.a, r.b, r.c, r.d);
    }
    return r;
}

static int bit(unsigned word, int index) { return (int)(word >> index & 1u); }

/* Which register state the system saves (XCR0); 0 if it saves none beyond SSE. Only valid with OSXSAVE. */
static uint64_t saved_state(void) {
    unsigned low, high;
    /* The instruction itself: its intrinsic would need -mxsave for the whole file. */
    __asm__ __volatile__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* Leaf 4 and AMD's 8000_001Dh have the same layout: one sub-leaf per cache, until the type is 0. */
static void query_caches(unsigned number) {
    for (unsigned sub = 0; sub < 16; sub++) {
        leaf r = cpuid(number, sub);
        unsigned type = r.a & 31u, level = r.a >> 5 & 7u;
        if (type == 0) {
            return;
        }
        int64_t ways = (r.b >> 22) + 1, partitions = (r.b >> 12 & 1023u) + 1, line = (r.b & 4095u) + 1;
        int64_t bytes = ways * partitions * line * ((int64_t)r.c + 1);
        if (level == 1 && type == 1) { /* 1 data, 2 instructions, 3 both */
            found.l1d_bytes = bytes;
        } else if (level == 2 && type != 2) {
            found.l2_bytes = bytes;
        } else if (level == 3 && type != 2) {
            found.l3_bytes = bytes;
        }
    }
}

static void query(void) {
    leaf id = cpuid(0, 0), features = cpuid(1, 0), more = cpuid(7, 0), extended = cpuid(0x80000001u, 0);

    memcpy(found.vendor + 0, &id.b, 4);
    memcpy(found.vendor + 4, &id.d, 4);
    memcpy(found.vendor + 8, &id.c, 4);
    if (cpuid(0x80000004u, 0).a != 0 || cpuid(0x80000002u, 0).a != 0) {
        for (unsigned i = 0; i < 3; i++) {
            leaf r = cpuid(0x80000002u + i, 0);
            memcpy(found.brand + 16 * i, &r, 16);
        }
        const size_t skip = strspn(found.brand, " ");
        memmove(found.brand, found.brand + skip, sizeof found.brand - skip);
        for (size_t n = strlen(found.brand); n > 0 && found.brand[n - 1] == ' '; n--) {
            found.brand[n - 1] = '\0';
        }
    }
    found.hypervisor = bit(features.c, 31);

    const uint64_t state = bit(features.c, 27) /* osxsave */ ? saved_state() : 0;
    const int os_ymm = (state & 0x6u) == 0x6u;           /* SSE and the upper halves of ymm */
    const int os_zmm = (state & 0xe6u) == 0xe6u;         /* and the mask registers, upper zmm, zmm16-31 */
    const int os_tile = (state & 0x60000u) == 0x60000u;  /* AMX configuration and data */

    found.avx2 = os_ymm && bit(features.c, 28) /* avx */ && bit(features.c, 12) /* fma */ &&
                 bit(features.c, 29) /* f16c */ && bit(features.c, 22) /* movbe */ && bit(more.b, 5) /* avx2 */ &&
                 bit(more.b, 3) /* bmi1 */ && bit(more.b, 8) /* bmi2 */ && bit(extended.c, 5) /* lzcnt */;
    found.avx512 = found.avx2 && os_zmm && bit(more.b, 16) /* f */ && bit(more.b, 30) /* bw */ &&
                   bit(more.b, 28) /* cd */ && bit(more.b, 17) /* dq */ && bit(more.b, 31) /* vl */;
    found.avx512_vnni = found.avx512 && bit(more.c, 11);
    found.amx_int8 = os_tile && bit(more.d, 24) /* tile */ && bit(more.d, 25) /* int8 */;

    const int amd_topology = bit(extended.c, 22); /* AMD and Hygon: leaf 4 is reserved, the same is at 8000_001Dh */
    query_caches(amd_topology ? 0x8000001du : 4u);
}

#elif defined(FA_CPU_AARCH64)

#define HWCAP_FP_SIMD (1ul << 1) /* "asimd" */
#define HWCAP_DOT (1ul << 20)    /* "asimddp" */
#define HWCAP_ID_REGISTERS (1ul << 11) /* the kernel answers reads of MIDR_EL1 */

static void query(void) {
    const unsigned long capabilities = getauxval(AT_HWCAP);
    found.neon = (capabilities & HWCAP_FP_SIMD) != 0;
    found.neon_dot = found.neon && (capabilities & HWCAP_DOT) != 0;
    if (capabilities & HWCAP_ID_REGISTERS) {
        uint64_t midr;
        __asm__("mrs %0, midr_el1" : "=r"(midr));
        snprintf(found.vendor, sizeof found.vendor, "0x%02x", (unsigned)(midr >> 24 & 0xffu));
        snprintf(found.brand, sizeof found.brand, "implementer 0x%02x part 0x%03x", (unsigned)(midr >> 24 & 0xffu),
                 (unsigned)(midr >> 4 & 0xfffu));
    }
}

#else

static void query(void) {
#if defined(__aarch64__)
    found.neon = 1; /* part of the architecture's baseline */
#endif
}

#endif

static void query_once(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, query);
}

void fa_cpu_query(fa_cpu_info *info) {
    query_once();
    *info = found;
}

int fa_cpu_has(const char *isa_name) {
    query_once();
    const struct {
        const char *name;
        int has;
    } isas[] = {
        {"scalar", 1},
        {"avx2", found.avx2},
        {"avx512", found.avx512},
        {"avx512_vnni", found.avx512_vnni},
        {"neon", found.neon},
        {"neon_dot", found.neon_dot},
    };
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        if (isa_name != NULL && strcmp(isa_name, isas[i].name) == 0) {
            return isas[i].has;
        }
    }
    return 0;
}
