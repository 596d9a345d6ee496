/* SPDX-License-Identifier: MIT */
#include "check.h"

#include <fenv.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "run.h"
#include "stack.h"

#define MOST_REPORTS 40 /* more failures are counted, not printed */

#define WHERE 256

static char case_name[WHERE / 2] = "set-up", variant_text[WHERE / 2];
static int failures, cases;
static const char *only_cases;
static unsigned isas = ~0u;

void run_configure(const char *filter, unsigned isa_bits) {
    only_cases = filter;
    isas = isa_bits;
}

int run_cases(void) { return cases; }
int check_failures(void) { return failures; }

/* ---- variants ---------------------------------------------------------------------------------------------------- */

int isa_selected(int isa) { return fa_isa_supported(isa) && isas >> isa & 1; }

variant variant_of(int isa, int index) {
    static const variant table[VARIANTS_PER_ISA] = {
        {0, FA_FORCE_NONE, 1, GUARD_BACK, DENSE, 0},    {0, FA_FORCE_NONE, 3, GUARD_FRONT, PADDED, 0},
        {0, FA_FORCE_TILE, 1, GUARD_FRONT, HEADS_INSIDE, 0}, {0, FA_FORCE_TILE, 3, GUARD_BACK, REVERSED, 1},
        {0, FA_FORCE_DECODE, 1, GUARD_BACK, PADDED, 1}, {0, FA_FORCE_DECODE, 3, GUARD_FRONT, DENSE, 0},
    };
    variant v = table[index];
    v.isa = isa;
    return v;
}

fa_ctx variant_ctx(const variant *v) {
    return (fa_ctx){.kernels = fa_kernels_for(v->isa), .num_threads = v->threads, .force = v->force};
}

void case_variant(const variant *v) {
    static const char *const force[] = {"", " tile", " decode"};
    static const char *const layouts[] = {"dense", "padded", "heads inside", "reversed", "colliding"};
    snprintf(variant_text, sizeof variant_text, " [%s%s, %d threads, guard page %s, %s%s]", fa_isa_name(v->isa), force[v->force],
             v->threads, v->side == GUARD_BACK ? "behind" : "in front", layouts[v->layout], v->hostile ? ", hostile" : "");
}

/* ---- cases ------------------------------------------------------------------------------------------------------- */

int case_begin(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(case_name, sizeof case_name, format, args);
    va_end(args);
    variant_text[0] = 0;
    return !only_cases || strstr(case_name, only_cases);
}

const char *case_where(void) {
    static char text[WHERE];
    snprintf(text, sizeof text, "%s%s", case_name, variant_text);
    return text;
}

void case_end(uint64_t hash) {
    cases++;
    printf("%016llx %s\n", (unsigned long long)hash, case_name);
    fflush(stdout);
}

void fail(const char *format, ...) {
    if (failures++ >= MOST_REPORTS) return;
    va_list args;
    va_start(args, format);
    fprintf(stderr, "FAIL %s: ", case_where());
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
}

void expect_status(const char *what, fa_status got, fa_status expected) {
    if (got != expected) fail("%s: status %d (%s), expected %d (%s)", what, got, fa_status_text(got), expected, fa_status_text(expected));
}

void expect_clean(const char *what, size_t damaged) {
    if (damaged) fail("%s: %zu bytes outside its elements were written to", what, damaged);
}

void expect_same(const char *what, const void *got, const void *expected, int64_t count, int64_t item) {
    const char *a = got, *b = expected;
    int64_t first = -1, different = 0;
    if (memcmp(a, b, (size_t)(count * item)) == 0) return;
    for (int64_t i = 0; i < count; i++) {
        if (memcmp(a + i * item, b + i * item, (size_t)item) == 0) continue;
        if (different++ == 0) first = i;
    }
    if (item == 4) {
        float x, y;
        uint32_t xu, yu;
        memcpy(&x, a + first * 4, 4), memcpy(&y, b + first * 4, 4);
        memcpy(&xu, &x, 4), memcpy(&yu, &y, 4);
        fail("%s: %lld of %lld elements differ, first %lld: %.9g (%08x), expected %.9g (%08x)", what, (long long)different,
             (long long)count, (long long)first, (double)x, xu, (double)y, yu);
    } else {
        fail("%s: %lld of %lld elements differ, first %lld", what, (long long)different, (long long)count, (long long)first);
    }
}

uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t n) {
    const unsigned char *p = bytes;
    for (size_t i = 0; i < n; i++) hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

void *scratch(int64_t count, int64_t item) {
    void *p = calloc((size_t)(count > 0 ? count : 1), (size_t)item);
    if (!p) {
        perror("scratch");
        exit(2);
    }
    return p;
}

/* ---- the caller's floating-point environment --------------------------------------------------------------------- */

#if defined(__x86_64__)
#include <xmmintrin.h>
#define FLUSH 0x8040u /* FTZ and DAZ */
static uint64_t get_control(void) { return _mm_getcsr() & ~0x3fu; }
static void set_control(uint64_t control) { _mm_setcsr((unsigned)control); }
#elif defined(__aarch64__)
#define FLUSH (1u << 24) /* FZ */
static uint64_t get_control(void) {
    uint64_t control;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(control)::"memory");
    return control;
}
static void set_control(uint64_t control) { __asm__ __volatile__("msr fpcr, %0" ::"r"(control) : "memory"); }
#else
#define FLUSH 0
static uint64_t get_control(void) { return 0; }
static void set_control(uint64_t control) { (void)control; }
#endif

static uint64_t usual_control, hostile_control;

static size_t deepest;
static char deepest_where[WHERE];

size_t check_deepest(const char **where) {
    *where = deepest_where;
    return deepest;
}

static void look_at_stack(void) {
    const size_t touched = stack_touched();
    if (touched >= STACK_LIMIT) fail("%zu bytes of stack or more", touched);
    if (touched <= deepest) return;
    deepest = touched;
    snprintf(deepest_where, sizeof deepest_where, "%s", case_where());
}

void hostile_enter(const variant *v) {
    stack_paint();
    if (!v->hostile) return;
    usual_control = get_control();
    fesetround(FE_UPWARD);
    set_control(get_control() | FLUSH);
    hostile_control = get_control();
}

void hostile_leave(const variant *v) {
    look_at_stack();
    if (!v->hostile) return;
    uint64_t now = get_control();
    int rounding = fegetround();
    set_control(usual_control);
    fesetround(FE_TONEAREST);
    if (now != hostile_control || rounding != FE_UPWARD) fail("the caller's floating-point environment was changed");
}

/* ---- accuracy ---------------------------------------------------------------------------------------------------- */

/* Beyond half a unit in the last place of the type, and of its smallest numbers. */
static double worst(const float *got, const double *reference, int64_t count, fa_dtype dtype) {
    const double half = dtype == FA_F16 ? 0x1p-11 : dtype == FA_BF16 ? 0x1p-8 : 0, least = dtype == FA_F16 ? 0x1p-25 : 0;
    double most = 0;
    for (int64_t i = 0; i < count; i++)
        if (isfinite(got[i]) && isfinite(reference[i]))
            most = fmax(most, fabs(got[i] - reference[i]) - half * fabs((double)got[i]) - least);
    return most;
}

static int same_special(float got, double reference) {
    uint32_t bits;
    memcpy(&bits, &got, 4);
    if (isnan(reference)) return bits == CANONICAL_NAN;
    if (isinf(reference)) return got == reference;
    return isfinite(got);
}

void expect_accurate(const char *what, const float *got, const double *reference, int64_t count,
                     void (*naive)(void *arg, int order, float *out), void *arg) {
    expect_accurate_as(what, FA_F32, got, reference, count, naive, arg);
}

void expect_accurate_as(const char *what, fa_dtype dtype, const float *got, const double *reference, int64_t count,
                        void (*naive)(void *arg, int order, float *out), void *arg) {
    double size = 0, bound = 0, naive_error = 0;
    for (int64_t i = 0; i < count; i++) {
        if (!same_special(got[i], reference[i])) {
            fail("%s: element %lld is %.9g, the reference has %.17g", what, (long long)i, (double)got[i], reference[i]);
            return;
        }
        if (isfinite(reference[i])) size = fmax(size, fabs(reference[i]));
    }
    const double error = worst(got, reference, count, dtype);
    float *out = scratch(count, sizeof *out);
    for (int order = 0; order < NAIVE_ORDERS; order++) {
        naive(arg, order, out);
        naive_error = fmax(naive_error, worst(out, reference, count, FA_F32));
        bound = 2 * naive_error + 0x1p-23 * size;
        if (error <= bound) break;
    }
    free(out);
    if (!(error <= bound))
        fail("%s: max|err| %.4g > %.4g = 2 * %.4g (naive fp32) + 2^-23 * %.4g", what, error, bound, naive_error, size);
}
