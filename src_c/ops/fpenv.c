/* SPDX-License-Identifier: MIT */
/* The floating-point environment of tasks: entered in each thread that runs some, and left as it was found. */
#include "parallel.h"

#if defined(__SSE__)
#include <xmmintrin.h>

#define MXCSR_DEFAULT 0x1f80u /* round to nearest, no FTZ, no DAZ, all exceptions masked, no flag set */
#define MXCSR_FLAGS 0x003fu

void fa_fpenv_enter(fa_fpenv *saved) {
    unsigned mxcsr = _mm_getcsr();
    saved->control = mxcsr;
    saved->flags = 0;
    /* Flags the caller has already raised do not change results; reading the register is cheap, writing is less so. */
    if ((mxcsr & ~MXCSR_FLAGS) != MXCSR_DEFAULT) {
        _mm_setcsr(MXCSR_DEFAULT);
    }
}

void fa_fpenv_leave(const fa_fpenv *saved) {
    if (_mm_getcsr() != (unsigned)saved->control) {
        _mm_setcsr((unsigned)saved->control);
    }
}

#elif defined(__aarch64__)

void fa_fpenv_enter(fa_fpenv *saved) {
    uint64_t fpcr, fpsr;
    __asm__ __volatile__("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(fpcr), "=r"(fpsr)::"memory");
    saved->control = fpcr;
    saved->flags = fpsr;
    if (fpcr != 0) {
        __asm__ __volatile__("msr fpcr, %0" ::"r"((uint64_t)0) : "memory");
    }
}

void fa_fpenv_leave(const fa_fpenv *saved) {
    if (saved->control != 0) {
        __asm__ __volatile__("msr fpcr, %0" ::"r"(saved->control) : "memory");
    }
    __asm__ __volatile__("msr fpsr, %0" ::"r"(saved->flags) : "memory");
}

#else
#include <fenv.h>

void fa_fpenv_enter(fa_fpenv *saved) {
    saved->control = (uint64_t)fegetround();
    saved->flags = 0;
    fesetround(FE_TONEAREST);
}

void fa_fpenv_leave(const fa_fpenv *saved) { fesetround((int)saved->control); }

#endif

/* volatile keeps the conversion between the two switches. */
float fa_to_float(double x) {
    fa_fpenv env;
    fa_fpenv_enter(&env);
    volatile double from = x;
    volatile float to = (float)from;
    fa_fpenv_leave(&env);
    return to;
}
