/* SPDX-License-Identifier: MIT */
/*
 * What this CPU, under this operating system, can run.
 *
 * A CPU that has wide registers is not enough: the system has to save them when it switches threads, and says so in
 * XCR0. Both are asked once; the answer does not change while a process lives.
 *
 * Instruction sets come in bundles, named as the compiler's levels are, so that one question is asked per ISA stub:
 *
 *     scalar        nothing beyond the baseline of the architecture
 *     avx2          x86-64-v3: AVX2, FMA, BMI1, BMI2, F16C, LZCNT, MOVBE and 256-bit state
 *     avx512        x86-64-v4: avx2 and AVX-512 F, BW, CD, DQ, VL and 512-bit state
 *     avx512_vnni   avx512 and AVX-512 VNNI
 *     neon          aarch64's Advanced SIMD
 *     neon_dot      neon and the dot product instructions (SDOT, UDOT)
 */
#ifndef FA_CPU_H
#define FA_CPU_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fa_cpu_info {
    char vendor[16]; /* "GenuineIntel", "AuthenticAMD"; on aarch64 the implementer's code, "0x41"; "" unknown */
    char brand[52];  /* marketing name; on aarch64 the codes; "" where the CPU does not tell */
    int32_t avx2, avx512, avx512_vnni; /* the bundles above: 1 or 0 */
    int32_t amx_int8;                  /* reported only: the process would have to ask the kernel for it first */
    int32_t neon, neon_dot;
    int32_t hypervisor;                /* 1 inside a virtual machine that admits it */
    int64_t l1d_bytes, l2_bytes, l3_bytes; /* of one instance of each cache, 0 where the CPU does not tell */
} fa_cpu_info;

/* Fills *info. Cheap after the first call; safe from many threads. */
void fa_cpu_query(fa_cpu_info *info);

/* 1 if this machine can run the ISA of that name, 0 if not or if the name is unknown. */
int fa_cpu_has(const char *isa_name);

#ifdef __cplusplus
}
#endif

#endif
