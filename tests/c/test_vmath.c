/* SPDX-License-Identifier: MIT */
/* The vector functions and lanes of every ISA: the same bits for every kind of float, and close to libm in double. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../src_c/kernels/kernels.h"
#include "check.h"

/* What each function is and where accuracy is asked for (elsewhere: the same bits on every ISA). */
static double d_exp2(double x) { return exp2(x); }
static double d_sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double d_gelu(double x) { return 0.5 * x * erfc(-x * 0.70710678118654752440); }
static double d_gelu_tanh(double x) { return x / (1 + exp(-2 * 0.79788456080286535588 * (x + 0.044715 * x * x * x))); }
static double d_silu(double x) { return x / (1 + exp(-x)); }
static float f_sigmoid(float x) { return 1 / (1 + expf(-x)); }
static float f_gelu(float x) { return 0.5f * x * (1 + erff(x * 0.70710678f)); }
static float f_gelu_tanh(float x) { return 0.5f * x * (1 + tanhf(0.79788456f * (x + 0.044715f * x * x * x))); }
static float f_silu(float x) { return x / (1 + expf(-x)); }

static const struct {
    fa_vfn fn;
    const char *name;
    double (*exact)(double);
    float (*naive)(float);
    float low, high; /* accuracy is measured here */
} functions[] = {
    {FA_VFN_EXP2, "exp2", d_exp2, exp2f, -20, 4},       {FA_VFN_EXP2_NEG, "exp2_neg", d_exp2, exp2f, -24, 0},
    {FA_VFN_EXP, "exp", exp, expf, -20, 4},             {FA_VFN_LOG2, "log2", log2, log2f, 0x1p-20f, 0x1p20f},
    {FA_VFN_TANH, "tanh", tanh, tanhf, -10, 10},        {FA_VFN_ERF, "erf", erf, erff, -5, 5},
    {FA_VFN_SIGMOID, "sigmoid", d_sigmoid, f_sigmoid, -20, 20}, {FA_VFN_GELU, "gelu", d_gelu, f_gelu, -6, 6},
    {FA_VFN_GELU_TANH, "gelu_tanh", d_gelu_tanh, f_gelu_tanh, -6, 6}, {FA_VFN_SILU, "silu", d_silu, f_silu, -20, 20},
};
_Static_assert(sizeof functions / sizeof *functions == FA_VFN_COUNT, "every vector function has a line here");

static const uint32_t special[] = {
    0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007fffff, 0x807fffff, 0x00800000, 0x80800000, /* zeros, denormals */
    0x3f800000, 0xbf800000, 0x3f7fffff, 0x3f800001, 0x3f000000, 0xbf000000, 0x3f200000, 0x3f1fffff, /* around 1, 1/2, 5/8 */
    0x42fe0000, 0x43000000, 0x42ffffff, 0x43000001, 0xc2fc0000, 0xc2fbffff, 0xc2fc0001, 0xc3150000, /* 127, 128, -126, -149 */
    0x42b17218, 0x42b17217, 0xc2aeac50, 0xc2aeac4f, 0x40880000, 0xc0880000, 0x4087ffff, 0x40c02000, /* ln 2^128, 4.25 */
    0x40c00000, 0xc0c00000, 0x40c00001, 0xc0c00001, 0x40bfffff, 0xc0bfffff, 0x3eaaaaab, 0xbeaaaaab, /* 6, 1/3 */
    0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000, 0x7f800001, 0x7fffffff, /* largest, inf, NaN */
    0x4b000000, 0xcb000000, 0x4a800000, 0x4b7fffff, 0x3fb504f3, 0x3fb504f4, 0x3f3504f3, 0x3f3504f2, /* 2^23, sqrt 2 */
};
enum { SPECIALS = sizeof special / sizeof *special };

/* Specials, then a walk over all floats, then the range of accuracy; exp2_neg is defined up to 0, -inf and for NaN. */
static float argument(int f, int64_t i, int64_t n) {
    float x;
    if (i < SPECIALS) x = float_from_bits(special[i]);
    else if (i < n / 2) x = float_from_bits((uint32_t)(hash_at(77, (uint64_t)i)));
    else x = functions[f].low + (functions[f].high - functions[f].low) * (float)(hash_at(78, (uint64_t)i) >> 40) * 0x1p-24f;
    return functions[f].fn == FA_VFN_EXP2_NEG && x > 0 ? -x : x;
}

typedef struct naive_arg {
    float (*fn)(float);
    const float *x;
    int64_t n;
} naive_arg;

static void run_naive(void *arg, int order, float *out) {
    const naive_arg *a = arg;
    (void)order;
    for (int64_t i = 0; i < a->n; i++) out[i] = a->fn(a->x[i]);
}

/* Accuracy per binade-like slice of the range: one bound over all of it would let small results be wrong. */
static void check_accuracy(int f, const float *x, const float *got, int64_t n) {
    for (int slice = 0; slice < 8; slice++) {
        const float low = functions[f].low, width = (functions[f].high - low) / 8;
        float *xs = scratch(n, sizeof *xs), *gs = scratch(n, sizeof *gs);
        double *ref = scratch(n, sizeof *ref);
        int64_t m = 0;
        for (int64_t i = 0; i < n; i++) {
            if (!(x[i] >= low + width * (float)slice && x[i] <= low + width * (float)(slice + 1))) continue;
            xs[m] = x[i];
            gs[m] = got[i];
            ref[m++] = functions[f].exact(x[i]);
        }
        naive_arg arg = {functions[f].naive, xs, m};
        expect_accurate(functions[f].name, gs, ref, m, run_naive, &arg);
        free(xs), free(gs), free(ref);
    }
}

static void test_function(int f, int64_t n) {
    if (!case_begin("vmath %s, %lld values", functions[f].name, (long long)n)) return;
    float *base = scratch(n, sizeof *base), *copy = scratch(n, sizeof *copy);
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int index = 0; index < 2; index++) { /* 1: in place, guard page in front */
            variant v = variant_of(isa, index);
            tensor x = tensor_make("x", FA_F32, 1, &n, DENSE, v.side), y = tensor_make("y", FA_F32, 1, &n, DENSE, v.side);
            float *xs = x.view.data, *ys = index ? xs : y.view.data;
            case_variant(&v);
            for (int64_t i = 0; i < n; i++) xs[i] = argument(f, i, n);
            if (!index) guard_seal(x.memory);
            fa_kernels_for(isa)->vmath.map(functions[f].fn, ys, xs, n);
            if (isa == 0 && index == 0) {
                memcpy(base, ys, (size_t)n * sizeof *base);
                check_accuracy(f, xs, base, n);
            }
            expect_same(functions[f].name, ys, base, n, 4);
            for (int64_t i = 0; i < n; i++)
                if (isnan(argument(f, i, n)) && memcmp(&ys[i], &(uint32_t){CANONICAL_NAN}, 4)) {
                    fail("NaN gives %.9g", (double)ys[i]);
                    break;
                }
            expect_clean("x", tensor_free(&x));
            expect_clean("y", tensor_free(&y));
        }
    }
    case_end(hash_bytes(HASH_START, base, (size_t)n * sizeof *base));
    free(base), free(copy);
}

static void test_lanes(void) {
    if (!case_begin("vmath lanes")) return;
    const int64_t shape[2] = {16, 16}, sixteen = 16;
    float base[256 + 16];
    uint32_t base_bits[16];
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        variant v = variant_of(isa, 0);
        case_variant(&v);
        tensor x = tensor_make("x", FA_F32, 2, shape, DENSE, v.side), out = tensor_make("out", FA_F32, 2, shape, DENSE, v.side);
        tensor bits = tensor_make("bits", FA_I32, 1, &sixteen, DENSE, v.side), sum = tensor_make("sum", FA_F32, 1, &sixteen, DENSE, v.side);
        tensor_fill(&x, 5, 1.0f);
        guard_seal(x.memory);
        fa_kernels_for(isa)->vmath.lanes(out.view.data, bits.view.data, sum.view.data, x.view.data);
        const float *xs = x.view.data, *t = out.view.data;
        const uint32_t *b = bits.view.data;
        for (int i = 0; i < 16; i++)
            for (int j = 0; j < 16; j++) {
                if (t[j * 16 + i] != xs[i * 16 + j]) fail("transpose: row %d, column %d", i, j);
                if ((b[i] >> j & 1) != (xs[i * 16 + j] < 0)) fail("bits: row %d, lane %d", i, j);
            }
        if (isa == 0) {
            memcpy(base, t, sizeof(float) * 256);
            memcpy(base + 256, sum.view.data, sizeof(float) * 16);
            memcpy(base_bits, b, sizeof base_bits);
        }
        expect_same("transpose", t, base, 256, 4);
        expect_same("sums", sum.view.data, base + 256, 16, 4);
        expect_same("bits", b, base_bits, 16, 4);
        expect_clean("x", tensor_free(&x));
        expect_clean("out", tensor_free(&out));
        expect_clean("bits", tensor_free(&bits));
        expect_clean("sum", tensor_free(&sum));
    }
    case_end(hash_bytes(hash_bytes(HASH_START, base, sizeof base), base_bits, sizeof base_bits));
}

/* The probes have no result worth a hash; they must stay inside their memory and say what they did. */
static void test_probes(void) {
    if (!case_begin("probes")) return;
    const int64_t n = 256 * 9;
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        variant v = variant_of(isa, 1);
        case_variant(&v);
        fa_ctx ctx = variant_ctx(&v);
        tensor x = tensor_make("data", FA_F32, 1, &n, DENSE, GUARD_BACK);
        double flops = 0;
        float sink = 0;
        tensor_fill(&x, 6, 1.0f);
        guard_seal(x.memory);
        expect_status("fma", fa_probe_fma(&ctx, 100, &flops), FA_OK);
        if (!(flops >= 3 * 100 * 32)) fail("flops %g", flops);
        expect_status("fma of no rounds", fa_probe_fma(&ctx, 0, &flops), FA_ERR_VALUE);
        expect_status("read", fa_probe_read(&ctx, x.view.data, x.bytes, &sink), FA_OK);
        expect_status("read of nothing", fa_probe_read(&ctx, x.view.data, 0, &sink), FA_OK);
        expect_status("read, misaligned", fa_probe_read(&ctx, (char *)x.view.data + 1, 1024, &sink), FA_ERR_VALUE);
        expect_clean("data", tensor_free(&x));
    }
    case_end(0);
}

void test_vmath(const options *o) {
    for (int f = 0; f < FA_VFN_COUNT; f++) test_function(f, o->quick ? 2001 : 20011);
    test_lanes();
    test_probes();
}
