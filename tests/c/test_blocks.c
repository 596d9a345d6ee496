/* SPDX-License-Identifier: MIT */
/* Quantised blocks to fp32: each element by itself, from the bits the layout says, beside every instruction set. */
#include <stdlib.h>
#include <string.h>

#include "check.h"

static const struct { int type; const char *name; int elements, bytes; } types[] = {
    {FA_Q4_0, "Q4_0", 32, 18}, {FA_Q4_1, "Q4_1", 32, 20}, {FA_Q5_0, "Q5_0", 32, 22}, {FA_Q5_1, "Q5_1", 32, 24},
    {FA_Q8_0, "Q8_0", 32, 34}, {FA_Q2_K, "Q2_K", 256, 84}, {FA_Q3_K, "Q3_K", 256, 110}, {FA_Q4_K, "Q4_K", 256, 144},
    {FA_Q5_K, "Q5_K", 256, 176}, {FA_Q6_K, "Q6_K", 256, 210}, {FA_IQ4_NL, "IQ4_NL", 32, 18}, {FA_IQ4_XS, "IQ4_XS", 256, 136},
    {FA_MXFP4, "MXFP4", 32, 17},
};
#define TYPES (int)(sizeof types / sizeof *types)

static float fp16(const uint8_t *p) {
    const uint32_t h = (uint32_t)p[0] | (uint32_t)p[1] << 8, e = h >> 10 & 31, m = h & 1023;
    double x = e ? (double)(m | 1024) : (double)m;
    if (e == 31) return float_from_bits((h >> 15) << 31 | 0x7f800000u | m << 13);
    for (uint32_t i = 0; i < (e ? e - 1 : 0); i++) x *= 2;
    x *= 0x1p-24;
    return (float)(h >> 15 ? -x : x);
}

/* One element, with a rounding for each product and sum: volatile keeps what a compiler might do otherwise away. */
static float scaled(float a, float b) { volatile float r = a * b; return r; }
static float plus(float a, float b) { volatile float r = a + b; return r; }

static int nibble(const uint8_t *p, int i, int half) { return i < half ? p[i] & 15 : p[i - half] >> 4; }

static float element(int type, const uint8_t *b, int i) {
    static const int iq4[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    static const int fp4[] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    const int part = i / 16, sub = i / 32, of64 = i % 64;
    switch (type) {
    case FA_Q4_0: return scaled(fp16(b), (float)(nibble(b + 2, i, 16) - 8));
    case FA_Q4_1: return plus(scaled(fp16(b), (float)nibble(b + 4, i, 16)), fp16(b + 2));
    case FA_Q5_0: return scaled(fp16(b), (float)((nibble(b + 6, i, 16) | (b[2 + i / 8] >> i % 8 & 1) << 4) - 16));
    case FA_Q5_1: return plus(scaled(fp16(b), (float)(nibble(b + 8, i, 16) | (b[4 + i / 8] >> i % 8 & 1) << 4)), fp16(b + 2));
    case FA_Q8_0: return scaled(fp16(b), (float)(int8_t)b[2 + i]);
    case FA_IQ4_NL: return scaled(fp16(b), (float)iq4[nibble(b + 2, i, 16)]);
    case FA_MXFP4: {
        const float d = b[0] > 1 ? float_from_bits((uint32_t)(b[0] - 1) << 23) : b[0] ? 0x1p-127f : 0x1p-128f;
        return scaled(d, (float)fp4[nibble(b + 1, i, 16)]);
    }
    case FA_Q2_K: {
        const int q = b[16 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
        return plus(scaled(scaled(fp16(b + 80), (float)(b[part] & 15)), (float)q), -scaled(fp16(b + 82), (float)(b[part] >> 4)));
    }
    case FA_Q3_K: {
        const int q = (b[32 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3) - (b[i % 32] >> sub & 1 ? 0 : 4);
        const int low = part < 8 ? b[96 + part] & 15 : b[96 + part - 8] >> 4, high = b[104 + part % 4] >> part / 4 * 2 & 3;
        return scaled(scaled(fp16(b + 108), (float)(low + 16 * high - 32)), (float)q);
    }
    case FA_Q4_K: case FA_Q5_K: {
        const uint8_t *p = b + 4, *q4 = b + (type == FA_Q4_K ? 16 : 48) + i / 64 * 32;
        const int scale = sub < 4 ? p[sub] & 63 : (p[4 + sub] & 15) + (p[sub - 4] >> 6) * 16;
        const int least = sub < 4 ? p[4 + sub] & 63 : (p[4 + sub] >> 4) + (p[sub] >> 6) * 16;
        const int q = nibble(q4, of64, 32) + (type == FA_Q5_K ? (b[16 + i % 32] >> sub & 1) * 16 : 0);
        return plus(scaled(scaled(fp16(b), (float)scale), (float)q), -scaled(fp16(b + 2), (float)least));
    }
    case FA_Q6_K: {
        const int low = nibble(b + i / 128 * 64, i % 128, 64), high = b[128 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
        return scaled(scaled(fp16(b + 208), (float)(int8_t)b[192 + part]), (float)(low + 16 * high - 32));
    }
    default: {
        const int low = b[4 + sub / 2] >> sub % 2 * 4 & 15, high = b[2 + sub / 4] >> sub % 4 * 2 & 3;
        return scaled(scaled(fp16(b), (float)(low + 16 * high - 32)), (float)iq4[nibble(b + 8 + 16 * sub, i % 32, 16)]);
    }
    }
}

/* The bytes of blocks are any; scales among them so that most are finite, some huge, denormal, infinite or NaN. */
static void fill(uint8_t *bytes, int64_t n, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) bytes[i] = (uint8_t)hash_at(seed, (uint64_t)i);
}

static void test_type(int index, int64_t rows, int64_t row_blocks) {
    const int type = types[index].type, elements = types[index].elements, size = types[index].bytes;
    if (!case_begin("dequantize %s %lldx%lld", types[index].name, (long long)rows, (long long)(row_blocks * elements))) return;
    const int64_t blocks = rows * row_blocks, count = blocks * elements, bytes = blocks * size;
    const int64_t shape[2] = {rows, row_blocks * elements};
    float *expected = scratch(count, sizeof *expected), *got = scratch(count, sizeof *got);
    uint8_t *source = scratch(bytes, 1);
    fill(source, bytes, (uint64_t)(1000 * index + rows));
    for (int64_t b = 0; b < blocks; b++)
        for (int i = 0; i < elements; i++) {
            const float x = element(type, source + b * size, i);
            expected[b * elements + i] = x == x ? x : float_from_bits(CANONICAL_NAN);
        }
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int v = 0; v < VARIANTS_PER_ISA; v++) {
            variant way = variant_of(isa, v);
            case_variant(&way);
            const fa_ctx ctx = variant_ctx(&way);
            const layout layout = way.layout == PADDED || way.layout == REVERSED ? way.layout : DENSE;
            tensor from = tensor_make("blocks", FA_I8, 1, &bytes, DENSE, way.side);
            tensor out = tensor_make("out", FA_F32, 2, shape, layout, way.side);
            memcpy(from.view.data, source, (size_t)bytes);
            guard_seal(from.memory);
            hostile_enter(&way);
            const fa_status status = fa_dequantize(&ctx, &out.view, type, from.view.data, bytes);
            hostile_leave(&way);
            expect_status("status", status, FA_OK);
            tensor_gather(&out, got);
            expect_same("elements", got, expected, count, 4);
            expect_clean("out", tensor_free_output(&out)), expect_clean("blocks", tensor_free(&from));
        }
    }
    case_end(hash_bytes(HASH_START, expected, (size_t)count * sizeof *expected));
    free(expected), free(got), free(source);
}

static void test_refusals(void) {
    if (!case_begin("dequantize refuses")) return;
    float out[512];
    const uint8_t blocks[512] = {0};
    const variant v = variant_of(0, 0);
    const fa_ctx ctx = variant_ctx(&v);
    fa_view view = {.data = out, .shape = {2, 64}, .stride = {256, 4}, .ndim = 2, .dtype = FA_F32};
    expect_status("right", fa_dequantize(&ctx, &view, FA_Q4_0, blocks, 72), FA_OK);
    expect_status("a byte less", fa_dequantize(&ctx, &view, FA_Q4_0, blocks, 71), FA_ERR_SHAPE);
    expect_status("a byte more", fa_dequantize(&ctx, &view, FA_Q4_0, blocks, 73), FA_ERR_SHAPE);
    expect_status("blocks of 256", fa_dequantize(&ctx, &view, FA_Q4_K, blocks, 144), FA_ERR_SHAPE);
    for (int type = -1; type < 64; type++) {
        int64_t elements, bytes;
        int known = 0;
        for (int i = 0; i < TYPES; i++) {
            if (types[i].type != type) continue;
            known = 1;
            expect_status("size", fa_block_size(type, &elements, &bytes), FA_OK);
            if (elements != types[i].elements || bytes != types[i].bytes) fail("%s has another size", types[i].name);
        }
        if (known) continue;
        expect_status("unknown type", fa_block_size(type, &elements, &bytes), FA_ERR_VALUE);
        expect_status("unknown type", fa_dequantize(&ctx, &view, type, blocks, 72), FA_ERR_VALUE);
    }
    fa_view bad = view;
    bad.dtype = FA_F16;
    expect_status("fp16", fa_dequantize(&ctx, &bad, FA_Q4_0, blocks, 72), FA_ERR_DTYPE);
    bad = view, bad.ndim = 1;
    expect_status("one dimension", fa_dequantize(&ctx, &bad, FA_Q4_0, blocks, 72), FA_ERR_SHAPE);
    bad = view, bad.stride[1] = 8;
    expect_status("gaps", fa_dequantize(&ctx, &bad, FA_Q4_0, blocks, 72), FA_ERR_STRIDE);
    bad = view, bad.shape[0] = INT64_MAX / 64, bad.stride[0] = 0;
    expect_status("huge", fa_dequantize(&ctx, &bad, FA_Q4_0, blocks, 72), FA_ERR_MEMORY);
    bad = view, bad.shape[0] = 0;
    expect_status("no rows", fa_dequantize(&ctx, &bad, FA_Q4_0, blocks, 0), FA_OK);
    expect_status("no rows, bytes", fa_dequantize(&ctx, &bad, FA_Q4_0, blocks, 18), FA_ERR_SHAPE);
    bad = view, bad.shape[1] = 0;
    expect_status("no columns", fa_dequantize(&ctx, &bad, FA_Q4_0, blocks, 0), FA_OK);
    case_end(0);
}

void test_blocks(const options *o) {
    for (int i = 0; i < TYPES; i++) {
        const int64_t per_64k = 65536 / types[i].elements;
        test_type(i, 7, 3);
        test_type(i, 1, 1);
        if (!o->quick || i % 4 == 0) test_type(i, 300, 2);         /* rows of several tasks */
        if (!o->quick || i % 4 == 1) test_type(i, 2, per_64k + 3); /* a row in two pieces */
    }
    test_refusals();
}
