/* SPDX-License-Identifier: MIT */
/*
 * What a test is made of. A case has a name and a hash of its output bytes, printed on stdout: the program prints the
 * same lines on every machine, from every compiler. Within one run a variant (ISA, kernel, threads, layout, side of the
 * guard page, the caller's floating-point environment) must give the bytes of the first one.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>

#include "tensor.h"

typedef struct variant {
    int isa;
    int force;   /* enum fa_force */
    int threads;
    guard_side side;
    layout layout;
    int hostile; /* the caller rounds upwards and flushes denormals */
} variant;

/* The ways one case is run on each ISA; the first one, on ISA 0 (scalar), is the specification. */
#define VARIANTS_PER_ISA 6
int isa_selected(int isa); /* supported here and not excluded on the command line */
variant variant_of(int isa, int index);
fa_ctx variant_ctx(const variant *v);

/* ---- cases ------------------------------------------------------------------------------------------------------ */

int case_begin(const char *format, ...) __attribute__((format(printf, 1, 2))); /* 0: filtered out */
void case_variant(const variant *v);                   /* says in failures and faults what is running */
const char *case_where(void);
void case_end(uint64_t hash);                          /* prints the case's line */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void expect_status(const char *what, fa_status got, fa_status expected);
void expect_clean(const char *what, size_t damaged_bytes);
void expect_same(const char *what, const void *got, const void *expected, int64_t count, int64_t item);
int check_failures(void);

uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t n); /* FNV-1a; start with HASH_START */
#define HASH_START 0xcbf29ce484222325u

/* Around a call of the library: the caller's floating-point environment for hostile variants, and how deep the stack goes. */
void hostile_enter(const variant *v);
void hostile_leave(const variant *v); /* fails if the environment is not as it was, or with STACK_LIMIT bytes of stack */
size_t check_deepest(const char **where); /* bytes of stack, of all those calls the most */

/* Dense zeroed scratch of the test itself. */
void *scratch(int64_t count, int64_t item);

/*
 * NUMERICS.md: max|err| <= 2 max|err of naive fp32| + 2^-23 max|ref|; NaN and infinities where the reference has them,
 * NaN as the canonical one. `naive(arg, order, out)` computes in fp32 with its sums in one of NAIVE_ORDERS orders: in a
 * small case one row decides the maximum, and the naive side may be lucky in just that row.
 */
#define NAIVE_ORDERS 8
void expect_accurate(const char *what, const float *got, const double *reference, int64_t count,
                     void (*naive)(void *arg, int order, float *out), void *arg);
/* The same for an output that was stored as `dtype` and widened: each element may be rounded once more. */
void expect_accurate_as(const char *what, fa_dtype dtype, const float *got, const double *reference, int64_t count,
                        void (*naive)(void *arg, int order, float *out), void *arg);

/* ---- the tests --------------------------------------------------------------------------------------------------- */

typedef struct options {
    int quick;   /* leaves out the cases that take long under a sanitizer */
    int no_fork;
} options;

void test_vmath(const options *o);
void test_attention(const options *o);
void test_attention_random(const options *o);
void test_attention_positions(const options *o);
void test_attention_integers(const options *o);
void test_linear(const options *o);
void test_linear_int8(const options *o);
void test_linear_quant(const options *o);
void test_linear_attention(const options *o);
void test_short_conv(const options *o);
void test_convert(const options *o);
void test_blocks(const options *o);
void test_rope(const options *o);
void test_relative(const options *o);
void test_disentangled(const options *o);
void test_similarity(const options *o);
void test_sample(const options *o);
void test_rows(const options *o);
void test_pooling(const options *o);
void test_route(const options *o);
void test_experts(const options *o);
void test_program(const options *o);
void test_program_memory(const options *o);
void test_program_states(const options *o);
void test_program_checks(const options *o);
void test_program_runs(const options *o);
void test_program_experts(const options *o);
void test_status(const options *o);
void test_threads(const options *o);

#endif
