/* SPDX-License-Identifier: MIT */
/* Storage types: every pattern of 16 bits to fp32 and back, floats to 16 bits by integers alone, quantised rows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../src_c/kernels/kernels.h"
#include "check.h"

/* Nearest, ties to even, of a positive finite float's bits, for a format of `mantissa` bits whose smallest exponent is `least`. */
static uint32_t narrowed(uint32_t bits, int mantissa, int least, uint32_t infinity, uint32_t nan) {
    const uint32_t sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return nan;
    if (size == 0x7f800000u) return sign | infinity;
    const int e = size >> 23 ? (int)(size >> 23) : 1, exponent = e - 127 > least ? e - 127 : least;
    const uint64_t significand = (size & 0x7fffffu) | (size >> 23 ? 0x800000u : 0u);
    int drop = exponent - mantissa - (e - 150);
    if (drop > 40) drop = 40;
    uint64_t quotient = significand >> drop;
    const uint64_t rest = significand & ((1ull << drop) - 1), half = 1ull << (drop - 1);
    if (rest > half || (rest == half && (quotient & 1))) quotient++;
    uint32_t result = ((uint32_t)(exponent - least) << mantissa) + (uint32_t)quotient;
    return sign | (result > infinity ? infinity : result);
}

static uint16_t reference(fa_dtype dtype, uint32_t bits) {
    return (uint16_t)(dtype == FA_F16 ? narrowed(bits, 10, -14, 0x7c00, 0x7e00) : narrowed(bits, 7, -126, 0x7f80, 0x7fc0));
}

static int is_nan16(fa_dtype dtype, uint32_t h) { return (h & 0x7fffu) > (dtype == FA_F16 ? 0x7c00u : 0x7f80u); }

/* All patterns widened; narrowed again they are themselves, every NaN the canonical one. */
static void test_patterns(fa_dtype dtype) {
    if (!case_begin("convert every pattern of %s", dtype == FA_F16 ? "fp16" : "bf16")) return;
    const int64_t n = 1 << 16;
    float *base = scratch(n, sizeof *base);
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        variant v = variant_of(isa, 0);
        case_variant(&v);
        const fa_convert_kernels *kernels = &fa_kernels_for(isa)->convert;
        tensor from = tensor_make("from", dtype, 1, &n, DENSE, v.side), to = tensor_make("to", FA_F32, 1, &n, DENSE, v.side);
        tensor back = tensor_make("back", dtype, 1, &n, DENSE, v.side);
        uint16_t *stored = from.view.data, *again = back.view.data;
        for (int64_t i = 0; i < n; i++) stored[i] = (uint16_t)i;
        guard_seal(from.memory);
        kernels->widen(to.view.data, stored, dtype, n);
        kernels->narrow(again, dtype, to.view.data, n);
        if (isa == 0) memcpy(base, to.view.data, (size_t)n * sizeof *base);
        expect_same("widened", to.view.data, base, n, 4);
        for (int64_t i = 0; i < n; i++)
            if (again[i] != (is_nan16(dtype, (uint32_t)i) ? (dtype == FA_F16 ? 0x7e00 : 0x7fc0) : i)) {
                fail("%#x comes back as %#x", (unsigned)i, again[i]);
                break;
            }
        expect_clean("from", tensor_free(&from)), expect_clean("to", tensor_free(&to)), expect_clean("back", tensor_free(&back));
    }
    case_end(hash_bytes(HASH_START, base, (size_t)n * sizeof *base));
    free(base);
}

/* Floats next to a value of the format and next to the middle between two, and any others. */
static uint32_t float_bits(fa_dtype dtype, int64_t i) {
    static const uint32_t special[] = {
        0, 0x80000000, 1, 0x8000, 0x8001, 0x7fff, 0x18000, 0x33000000, 0x33000001, 0x32ffffff, 0x387fc000, 0x387fe000, 0x387fffff,
        0x38800000, 0x477fe000, 0x477fefff, 0x477ff000, 0x7f7f7fff, 0x7f7f8000, 0x7f7fffff, 0x7f800000, 0xff800000, 0x7f800001, 0xffffffff,
    };
    const int64_t specials = sizeof special / sizeof *special;
    if (i < specials) return special[i];
    const uint64_t h = hash_at(91, (uint64_t)i);
    if (i % 4 == 0) return (uint32_t)h;
    const int shift = dtype == FA_F16 ? 13 : 16;
    uint32_t bits = (uint32_t)h >> shift << shift;
    if (i % 2) bits = (bits & 0x8fffffffu) | 0x30000000u; /* exponents of fp16 */
    return bits + (h >> 32 & 1 ? 1u << (shift - 1) : 0u) + (uint32_t)(h >> 40) % 3u - 1u;
}

static void test_narrow(fa_dtype dtype, int64_t n) {
    if (!case_begin("convert %lld floats to %s", (long long)n, dtype == FA_F16 ? "fp16" : "bf16")) return;
    uint64_t hash = 0;
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int index = 0; index < 2; index++) {
            variant v = variant_of(isa, index);
            case_variant(&v);
            tensor from = tensor_make("from", FA_F32, 1, &n, DENSE, v.side), to = tensor_make("to", dtype, 1, &n, DENSE, v.side);
            uint32_t *bits = from.view.data;
            uint16_t *stored = to.view.data;
            for (int64_t i = 0; i < n; i++) bits[i] = float_bits(dtype, i);
            guard_seal(from.memory);
            fa_kernels_for(isa)->convert.narrow(stored, dtype, from.view.data, n);
            for (int64_t i = 0; i < n; i++)
                if (stored[i] != reference(dtype, bits[i])) {
                    fail("%#x gives %#x, expected %#x", bits[i], stored[i], reference(dtype, bits[i]));
                    break;
                }
            hash = hash_bytes(HASH_START, stored, (size_t)n * sizeof *stored);
            expect_clean("from", tensor_free(&from)), expect_clean("to", tensor_free(&to));
        }
    }
    case_end(hash);
}

/* Rows of every short length against the guard page: all kernels touch n elements and no more. */
static void test_lengths(void) {
    if (!case_begin("convert rows of 0 to 70")) return;
    static const fa_dtype types[] = {FA_F32, FA_F16, FA_BF16, FA_I8};
    uint64_t hash = HASH_START;
    for (int64_t n = 0; n <= 70; n++) {
        float base[4 * 71 + 1] = {0};
        int8_t base_q[71] = {0};
        for (int isa = 0; isa < fa_isa_count(); isa++) {
            if (!isa_selected(isa)) continue;
            variant v = variant_of(isa, (int)(n % 2));
            case_variant(&v);
            const fa_convert_kernels *kernels = &fa_kernels_for(isa)->convert;
            tensor x = tensor_make("x", FA_F32, 1, &n, DENSE, v.side);
            tensor_fill(&x, 7 + (uint64_t)n, 3.0f);
            guard_seal(x.memory);
            tensor q = tensor_make("q", FA_I8, 1, &n, DENSE, v.side);
            const float scale = kernels->quantize(q.view.data, x.view.data, n);
            if (isa == 0) memcpy(&base[4 * 71], &scale, sizeof scale), memcpy(base_q, q.view.data, (size_t)n);
            expect_same("scale", &scale, &base[4 * 71], 1, 4);
            expect_same("quantised", q.view.data, base_q, n, 1);
            for (int t = 0; t < 4; t++) {
                tensor stored = tensor_make("stored", types[t], 1, &n, DENSE, v.side);
                tensor back = tensor_make("back", FA_F32, 1, &n, DENSE, v.side);
                if (types[t] == FA_I8) memcpy(stored.view.data, q.view.data, (size_t)n);
                else kernels->narrow(stored.view.data, types[t], x.view.data, n);
                kernels->widen(back.view.data, stored.view.data, types[t], n);
                if (isa == 0) memcpy(&base[t * 71], back.view.data, (size_t)n * sizeof *base);
                expect_same("there and back", back.view.data, &base[t * 71], n, 4);
                expect_clean("stored", tensor_free(&stored)), expect_clean("back", tensor_free(&back));
            }
            expect_clean("x", tensor_free(&x)), expect_clean("q", tensor_free(&q));
        }
        hash = hash_bytes(hash_bytes(hash, base, sizeof base), base_q, sizeof base_q);
    }
    case_end(hash);
}

void test_convert(const options *o) {
    const fa_dtype types[] = {FA_F16, FA_BF16};
    for (int i = 0; i < 2; i++) {
        test_patterns(types[i]);
        test_narrow(types[i], o->quick ? 40001 : 1000001);
    }
    test_lengths();
}
