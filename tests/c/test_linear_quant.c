/* SPDX-License-Identifier: MIT */
/*
 * Linear layers whose weights are blocks of small integers: every type, both ways to round inputs, odd sizes around panels,
 * tiles and blocks, layers of several types, extreme rows and weights. The reference follows linear_quant.h in plain C
 * from the bytes of the blocks and must be met bit by bit before the activation.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

typedef struct quant_case {
    const char *name;
    int types[FA_QUANT_PARTS]; /* 0: no more */
    int64_t outputs[FA_QUANT_PARTS];
    int64_t m, k;
    int bias;
    fa_activation act;
    float scale; /* of x; 0: 1 */
    int extreme; /* codes and inputs are the largest there are */
} quant_case;

static const quant_case cases[] = {
    {"Q4_0 1x1x32", {FA_Q4_0}, {1}, 1, 32, 1, FA_ACT_NONE, 0, 0},
    {"Q4_0 12x70x96", {FA_Q4_0}, {70}, 12, 96, 1, FA_ACT_GELU, 0, 0},
    {"Q4_0 150x40x64", {FA_Q4_0}, {40}, 150, 64, 0, FA_ACT_NONE, 0, 0},
    {"Q4_1 3x50x544", {FA_Q4_1}, {50}, 3, 544, 1, FA_ACT_SILU, 0, 0},
    {"Q4_1 13x33x96", {FA_Q4_1}, {33}, 13, 96, 1, FA_ACT_NONE, 0, 0},
    {"Q4_1 5x33x41, half a block", {FA_Q4_1}, {33}, 5, 41, 1, FA_ACT_NONE, 0, 0},
    {"Q5_0 2x31x64", {FA_Q5_0}, {31}, 2, 64, 0, FA_ACT_NONE, 0, 0},
    {"Q5_0 17x64x128", {FA_Q5_0}, {64}, 17, 128, 1, FA_ACT_RELU, 0, 0},
    {"Q5_1 4x65x160", {FA_Q5_1}, {65}, 4, 160, 1, FA_ACT_TANH, 0, 0},
    {"Q5_1 29x20x64", {FA_Q5_1}, {20}, 29, 64, 0, FA_ACT_NONE, 0, 0},
    {"Q8_0 1x200x576", {FA_Q8_0}, {200}, 1, 576, 1, FA_ACT_NONE, 0, 0},
    {"Q8_0 9x48x32", {FA_Q8_0}, {48}, 9, 32, 0, FA_ACT_NONE, 0, 0},
    {"Q8_0 140x17x64", {FA_Q8_0}, {17}, 140, 64, 1, FA_ACT_NONE, 0, 0},
    {"Q4_K 1x100x512", {FA_Q4_K}, {100}, 1, 512, 1, FA_ACT_NONE, 0, 0},
    {"Q4_K 10x37x256", {FA_Q4_K}, {37}, 10, 256, 0, FA_ACT_GELU_TANH, 0, 0},
    {"Q4_K 131x18x256", {FA_Q4_K}, {18}, 131, 256, 1, FA_ACT_NONE, 0, 0},
    {"Q5_K 2x80x256", {FA_Q5_K}, {80}, 2, 256, 1, FA_ACT_NONE, 0, 0},
    {"Q5_K 21x16x512", {FA_Q5_K}, {16}, 21, 512, 0, FA_ACT_NONE, 0, 0},
    {"Q6_K 3x90x256", {FA_Q6_K}, {90}, 3, 256, 1, FA_ACT_SIGMOID, 0, 0},
    {"Q6_K 14x49x512", {FA_Q6_K}, {49}, 14, 512, 0, FA_ACT_NONE, 0, 0},
    {"Q6_K 129x20x256", {FA_Q6_K}, {20}, 129, 256, 0, FA_ACT_NONE, 0, 0},
    {"IQ4_NL 4x33x96", {FA_IQ4_NL}, {33}, 4, 96, 1, FA_ACT_NONE, 0, 0},
    {"IQ4_NL 19x33x64", {FA_IQ4_NL}, {33}, 19, 64, 0, FA_ACT_NONE, 0, 0},
    {"IQ4_XS 1x34x256", {FA_IQ4_XS}, {34}, 1, 256, 1, FA_ACT_NONE, 0, 0},
    {"IQ4_XS 11x20x512", {FA_IQ4_XS}, {20}, 11, 512, 0, FA_ACT_NONE, 0, 0},
    {"MXFP4 2x70x64", {FA_MXFP4}, {70}, 2, 64, 1, FA_ACT_NONE, 0, 0},
    {"MXFP4 16x20x96", {FA_MXFP4}, {20}, 16, 96, 0, FA_ACT_NONE, 0, 0},
    {"Q4_K + Q6_K", {FA_Q4_K, FA_Q6_K}, {48, 21}, 5, 256, 1, FA_ACT_NONE, 0, 0},
    {"Q4_0 + Q8_0 + Q4_1 + Q5_0", {FA_Q4_0, FA_Q8_0, FA_Q4_1, FA_Q5_0}, {16, 32, 80, 7}, 14, 64, 1, FA_ACT_NONE, 0, 0},
    {"Q8_0 huge", {FA_Q8_0}, {20}, 8, 64, 1, FA_ACT_NONE, 0x1p110f, 0},
    {"Q4_K tiny", {FA_Q4_K}, {20}, 8, 256, 0, FA_ACT_NONE, 0x1p-140f, 0},
    {"Q4_0 extreme", {FA_Q4_0}, {40}, 10, 2048, 0, FA_ACT_NONE, 0, 1},
    {"Q4_1 extreme", {FA_Q4_1}, {40}, 3, 2048, 0, FA_ACT_NONE, 0, 1},
    {"Q5_1 extreme", {FA_Q5_1}, {40}, 10, 2048, 0, FA_ACT_NONE, 0, 1},
    {"Q6_K extreme", {FA_Q6_K}, {40}, 10, 2048, 0, FA_ACT_NONE, 0, 1},
    {"Q8_0 extreme", {FA_Q8_0}, {40}, 10, 2048, 0, FA_ACT_NONE, 0, 1},
    {"IQ4_NL extreme", {FA_IQ4_NL}, {40}, 10, 2048, 0, FA_ACT_NONE, 0, 1},
    {"no rows", {FA_Q8_0}, {20}, 0, 64, 1, FA_ACT_NONE, 0, 0},
    {"no inputs", {FA_Q8_0}, {20}, 5, 0, 1, FA_ACT_RELU, 0, 0},
};

static int64_t all_outputs(const quant_case *c) { return c->outputs[0] + c->outputs[1] + c->outputs[2] + c->outputs[3]; }

static float fp16(const uint8_t *p) {
    const uint32_t h = (uint32_t)p[0] | (uint32_t)p[1] << 8, e = h >> 10 & 31, m = h & 1023;
    const double x = ldexp(e ? (double)(m | 1024) : (double)m, (int)(e ? e : 1) - 25);
    return (float)(h >> 15 ? -x : x);
}

static int nibble(const uint8_t *p, int i, int half) { return i < half ? p[i] & 15 : p[i - half] >> 4; }

/* Element i of a block of its type: its integer, its scale, its minimum. */
static int element(int type, const uint8_t *b, int i, float *d, float *m) {
    static const int iq4[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    static const int fp4[] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    const int part = i / 16, sub = i / 32;
    *m = 0;
    *d = type == FA_MXFP4 ? (float)ldexp(1, b[0] - 128) : fp16(type == FA_Q6_K ? b + 208 : b);
    switch (type) {
    case FA_Q4_0: return nibble(b + 2, i, 16) - 8;
    case FA_Q4_1: *m = fp16(b + 2); return nibble(b + 4, i, 16);
    case FA_Q5_0: return (nibble(b + 6, i, 16) | (b[2 + i / 8] >> i % 8 & 1) << 4) - 16;
    case FA_Q5_1: *m = fp16(b + 2); return nibble(b + 8, i, 16) | (b[4 + i / 8] >> i % 8 & 1) << 4;
    case FA_Q8_0: return (int8_t)b[2 + i];
    case FA_IQ4_NL: return iq4[nibble(b + 2, i, 16)];
    case FA_MXFP4: return fp4[nibble(b + 1, i, 16)];
    case FA_Q4_K: case FA_Q5_K: {
        const uint8_t *p = b + 4, *q4 = b + (type == FA_Q4_K ? 16 : 48) + i / 64 * 32;
        *d *= (float)(sub < 4 ? p[sub] & 63 : (p[4 + sub] & 15) + (p[sub - 4] >> 6) * 16);
        *m = -(fp16(b + 2) * (float)(sub < 4 ? p[4 + sub] & 63 : (p[4 + sub] >> 4) + (p[sub] >> 6) * 16));
        return nibble(q4, i % 64, 32) + (type == FA_Q5_K ? (b[16 + i % 32] >> sub & 1) * 16 : 0);
    }
    case FA_Q6_K:
        *d *= (float)(int8_t)b[192 + part];
        return nibble(b + i / 128 * 64, i % 128, 64) + 16 * (b[128 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3) - 32;
    default:
        *d *= (float)((b[4 + sub / 2] >> sub % 2 * 4 & 15) + 16 * (b[2 + sub / 4] >> sub % 4 * 2 & 3) - 32);
        return iq4[nibble(b + 8 + 16 * sub, i % 32, 16)];
    }
}

static int has_minima(int type) { return type == FA_Q4_1 || type == FA_Q5_1 || type == FA_Q4_K || type == FA_Q5_K; }

/* ---- inputs ------------------------------------------------------------------------------------------------------- */

/* Bytes of rows of blocks: any, but for scales, which are small finite numbers. */
static void fill_blocks(uint8_t *bytes, int type, int64_t blocks, uint64_t seed, int extreme) {
    int64_t elements, size;
    fa_block_size(type, &elements, &size);
    for (int64_t i = 0; i < blocks * size; i++) bytes[i] = extreme ? 0xff : (uint8_t)hash_at(seed, (uint64_t)i);
    for (int64_t b = 0; b < blocks; b++) {
        uint8_t *at = bytes + b * size, *scale = at + (type == FA_Q6_K ? 208 : 0);
        const uint64_t any = hash_at(seed + 77, (uint64_t)b);
        if (extreme && type == FA_Q8_0) memset(at + 2, b % 2 ? 0x80 : 0x7f, 32); /* -128, 127 */
        if (extreme && type == FA_IQ4_NL) memset(at + 2, 0, 16); /* -127 */
        if (type == FA_MXFP4) {
            at[0] = (uint8_t)(any % 7 == 0 ? any % 2 : 110 + any % 30);
            continue;
        }
        scale[0] = (uint8_t)any, scale[1] = (uint8_t)((any >> 8 & 0x83) | 0x10 | (any >> 16 & 0x1c)); /* 2^-11 .. 2^0 */
        if (any % 11 == 0) scale[0] = 3, scale[1] = 0; /* a denormal */
        if (has_minima(type)) at[2] = (uint8_t)(any >> 24), at[3] = (uint8_t)((any >> 32 & 0x83) | 0x20);
    }
}

static tensor make_x(const quant_case *c, const variant *v, uint64_t seed) {
    const int64_t shape[2] = {c->m, c->k};
    const float scale = c->scale != 0 ? c->scale : 1.0f;
    tensor x = tensor_make("x", FA_F32, 2, shape, v->layout, v->side);
    tensor_fill(&x, seed * 4 + 1, scale);
    /* rows that are special: of zeros, of one value, with NaN, with infinity, with one far outlier */
    for (int64_t row = 0; row < c->m; row++)
        for (int64_t e = 0; e < c->k; e++) {
            float *at = view_at(&x.view, row * c->k + e);
            if (c->extreme) *at = row % 2 ? 3.0f : -3.0f;
            else if (row == 2) *at = 0;
            else if (row == 3) *at = 3.5f * scale;
            else if (row == 4 && e == c->k / 2) *at = NAN;
            else if (row == 5 && e == c->k - 1) *at = -INFINITY;
            else if (row == 6 && e == c->k / 3) *at *= 1000;
        }
    guard_seal(x.memory);
    return x;
}

/* X of a block of 32, d_x; the rest of the definition is in `reference`. */
static float round_block(int *q, const float *x, int planes) {
    const float most = planes == 2 ? 16256.0f : 127.0f;
    float top = 0, factor = 1;
    int wild = 0;
    for (int i = 0; i < 32; i++) {
        wild |= !(fabsf(x[i]) < INFINITY);
        if (fabsf(x[i]) > top) top = fabsf(x[i]);
    }
    memset(q, 0, 32 * sizeof *q);
    if (wild) return NAN;
    if (top == 0) return 0;
    if (top < 0x1p-64f) factor = 0x1p64f;
    const float size = top * factor, inverse = most / size;
    for (int i = 0; i < 32; i++) q[i] = (int)lrint((double)(x[i] * factor) * (double)inverse);
    return size / most / factor;
}

static void reference(const quant_case *c, const tensor *x, const tensor *bias, uint8_t *const *blocks, int planes, float *out) {
    const int64_t n_blocks = (c->k + 31) / 32, n = all_outputs(c);
    int *q = scratch(c->m * n_blocks * 32, sizeof *q);
    float *d_x = scratch(c->m * n_blocks, sizeof *d_x);
    for (int64_t m = 0; m < c->m; m++)
        for (int64_t b = 0; b < n_blocks; b++) {
            float row[32] = {0};
            for (int i = 0; i < 32 && b * 32 + i < c->k; i++) row[i] = *(float *)view_at(&x->view, m * c->k + b * 32 + i);
            d_x[m * n_blocks + b] = round_block(q + (m * n_blocks + b) * 32, row, planes);
        }
    int64_t first = 0;
    for (int p = 0; p < FA_QUANT_PARTS && c->types[p]; first += c->outputs[p++]) {
        int64_t elements, size;
        fa_block_size(c->types[p], &elements, &size);
        const int64_t row_bytes = (c->k + elements - 1) / elements * size;
        const int halves = c->types[p] == FA_Q6_K ? 2 : 1;
        for (int64_t o = 0; o < c->outputs[p]; o++)
            for (int64_t m = 0; m < c->m; m++) {
                float acc = 0;
                for (int64_t b = 0; b < n_blocks; b++) {
                    const uint8_t *block = blocks[p] + o * row_bytes + b * 32 / elements * size;
                    const int *qx = q + (m * n_blocks + b) * 32, at = (int)(b * 32 % elements);
                    const float dx = d_x[m * n_blocks + b];
                    float d, least = 0;
                    int all = 0;
                    for (int h = 0; h < halves; h++) {
                        int64_t sum = 0;
                        for (int i = h * 32 / halves; i < (h + 1) * 32 / halves; i++) {
                            sum += (int64_t)element(c->types[p], block, at + i, &d, &least) * qx[i];
                            all += qx[i];
                        }
                        if (sum > INT32_MAX || sum < INT32_MIN) fail("a sum of %lld", (long long)sum);
                        volatile float scale = d * dx;
                        acc = fmaf(scale, (float)sum, acc);
                    }
                    volatile float s = dx * (float)all;
                    if (has_minima(c->types[p])) acc = fmaf(least, s, acc);
                }
                if (c->bias) acc += *(float *)view_at(&bias->view, first + o);
                out[m * n + first + o] = acc != acc ? float_from_bits(CANONICAL_NAN) : acc;
            }
    }
    free(q), free(d_x);
}

/* ---- runs --------------------------------------------------------------------------------------------------------- */

static void run(const quant_case *c, const variant *v, uint64_t seed, int planes, fa_activation act, float *got, uint64_t *panels,
                float *expected) {
    case_variant(v);
    fa_ctx ctx = variant_ctx(v);
    const int64_t n = all_outputs(c), out_shape[2] = {c->m, n};
    tensor x = make_x(c, v, seed), out = tensor_make("out", FA_F32, 2, out_shape, v->layout, v->side);
    tensor bias = tensor_make("bias", FA_F32, 1, &n, DENSE, v->side);
    uint8_t *blocks[FA_QUANT_PARTS] = {NULL};
    fa_linear_weights weights = {.dtype = FA_QUANT, .planes = planes};
    size_t ws_bytes = 0;
    fa_status status;
    tensor_fill(&bias, seed * 4 + 3, 1.0f);
    guard_seal(bias.memory);
    *panels = HASH_START;
    for (int p = 0; p < FA_QUANT_PARTS && c->types[p]; p++) {
        int64_t elements, size, codes, scales, row = -1;
        fa_block_size(c->types[p], &elements, &size);
        const int64_t row_bytes = (c->k + elements - 1) / elements * size, rows = c->outputs[p], count = (rows + 15) / 16;
        blocks[p] = guard_alloc((size_t)(rows * row_bytes), v->side, "blocks");
        fill_blocks(blocks[p], c->types[p], rows * row_bytes / size, seed + (uint64_t)p, c->extreme);
        guard_seal(blocks[p]);
        expect_status("panel bytes", fa_quant_panel_bytes(c->types[p], c->k, &codes, &scales), FA_OK);
        fa_quant_part *part = &weights.parts[weights.n_parts++];
        *part = (fa_quant_part){c->types[p], rows, guard_alloc((size_t)(count * codes), v->side, "codes"),
                                guard_alloc((size_t)(count * scales), v->side, "scales")};
        const fa_view view = {.data = blocks[p], .shape = {rows, row_bytes}, .stride = {row_bytes, 1}, .ndim = 2, .dtype = FA_BOOL};
        hostile_enter(v);
        status = fa_quant_pack(&ctx, part, &view, c->k, &row);
        hostile_leave(v);
        expect_status("pack", status, FA_OK);
        guard_seal(part->codes), guard_seal(part->scales);
        *panels = hash_bytes(hash_bytes(*panels, part->codes, (size_t)(count * codes)), part->scales, (size_t)(count * scales));
        const int64_t first = rows > 20 ? 3 : 0, wide_shape[2] = {rows - first, c->k};
        tensor wide = tensor_make("weights", FA_F32, 2, wide_shape, v->layout, v->side);
        expect_status("unpack", fa_quant_unpack(&ctx, &wide.view, part, first), FA_OK);
        for (int64_t i = 0; i < (rows - first) * c->k; i++) {
            float d, least;
            const int64_t o = i / c->k + first, e = i % c->k;
            const int q = element(c->types[p], blocks[p] + o * row_bytes + e / elements * size, (int)(e % elements), &d, &least);
            volatile float w = d * (float)q;
            w = w + least;
            const float is = *(float *)view_at(&wide.view, i);
            if (is != w) fail("weight %lld, %lld is %g, expected %g", (long long)o, (long long)e, (double)is, (double)w);
        }
        expect_clean("weights", tensor_free_output(&wide));
    }
    if (expected) reference(c, &x, &bias, blocks, planes, expected);
    expect_status("workspace query", fa_linear_workspace(&ctx, &out.view, &x.view, FA_QUANT, &ws_bytes), FA_OK);
    void *ws = guard_alloc(ws_bytes, v->side, "workspace");
    if (v->hostile) memset(ws, 0xff, ws_bytes);
    hostile_enter(v);
    status = fa_linear(&ctx, &out.view, &x.view, &weights, c->bias ? &bias.view : NULL, act, ws, ws_bytes);
    hostile_leave(v);
    expect_status("linear", status, FA_OK);
    expect_clean("workspace", guard_free(ws));
    for (int p = 0; p < weights.n_parts; p++) {
        expect_clean("codes", guard_free(weights.parts[p].codes));
        expect_clean("scales", guard_free(weights.parts[p].scales));
        expect_clean("blocks", guard_free(blocks[p]));
    }
    tensor_gather(&out, got);
    expect_clean("out", tensor_free_output(&out));
    expect_clean("x", tensor_free(&x));
    expect_clean("bias", tensor_free(&bias));
}

static void run_case(const quant_case *c, uint64_t seed) {
    if (!case_begin("linear quant %s", c->name)) return;
    const int64_t count = c->m * all_outputs(c);
    float *base = scratch(count, sizeof *base), *got = scratch(count, sizeof *got), *expected = scratch(count, sizeof *expected);
    uint64_t base_panels = 0, panels, hash = HASH_START;
    const variant first = variant_of(0, 0);
    for (int planes = 1; planes <= 2; planes++) {
        run(c, &first, seed, planes, FA_ACT_NONE, base, &base_panels, expected);
        expect_same("before the activation", base, expected, count, sizeof *base);
        run(c, &first, seed, planes, c->act, base, &base_panels, NULL);
        for (int isa = 0; isa < fa_isa_count(); isa++) {
            if (!isa_selected(isa)) continue;
            for (int index = isa == 0; index < VARIANTS_PER_ISA; index++) {
                const variant v = variant_of(isa, index);
                run(c, &v, seed, planes, c->act, got, &panels, NULL);
                expect_same("out", got, base, count, sizeof *got);
                expect_same("panels", &panels, &base_panels, 1, sizeof panels);
            }
        }
        hash = hash_bytes(hash, base, (size_t)count * sizeof *base);
    }
    case_variant(&first);
    case_end(hash_bytes(hash, &base_panels, sizeof base_panels));
    free(base), free(got), free(expected);
}

/* The bits of a row do not depend on how many rows there are. */
static void rows_alone(void) {
    if (!case_begin("linear quant, rows alone")) return;
    static const quant_case whole = {"", {FA_Q4_K, FA_Q6_K}, {64, 37}, 140, 256, 1, FA_ACT_GELU, 0, 0};
    static float all[140 * 101], one[140 * 101];
    uint64_t panels;
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        const variant v = variant_of(isa, 0);
        run(&whole, &v, 999, 2, whole.act, all, &panels, NULL);
        for (int64_t m = 1; m < whole.m; m += m < 14 ? 1 : 31) { /* the first m rows hold the same values */
            quant_case part = whole;
            part.m = m;
            run(&part, &v, 999, 2, whole.act, one, &panels, NULL);
            expect_same("the first rows", one, all, m * 101, sizeof *one);
        }
    }
    case_end(hash_bytes(HASH_START, all, sizeof all));
}

/* Rows of a layer as those of a table of words; weights made to blocks of 4 bits, which lose less than half a step each. */
static void rows_of_layers(void) {
    if (!case_begin("linear quant, rows of a table")) return;
    enum { N = 48, K = 256, T = 9 };
    static _Alignas(64) uint8_t codes[2][3 * 4096], scales[2][3 * 1024];
    static uint8_t blocks[2][32 * 210];
    static const int types[2] = {FA_Q6_K, FA_Q4_K};
    static const int64_t ids[T] = {0, 47, 31, 32, 15, 16, 5, 5, 40};
    uint64_t hash = HASH_START;
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        const variant v = variant_of(isa, 0);
        const fa_ctx ctx = variant_ctx(&v);
        fa_linear_weights weights = {.dtype = FA_QUANT, .planes = 2, .n_parts = 2};
        for (int p = 0; p < 2; p++) {
            const int64_t rows = p ? 16 : 32, bytes = p ? 144 : 210;
            int64_t row;
            fill_blocks(blocks[p], types[p], rows, 5 + (uint64_t)p, 0);
            weights.parts[p] = (fa_quant_part){types[p], rows, codes[p], scales[p]};
            const fa_view view = {.data = blocks[p], .shape = {rows, bytes}, .stride = {bytes, 1}, .ndim = 2, .dtype = FA_BOOL};
            expect_status("pack", fa_quant_pack(&ctx, &weights.parts[p], &view, K, &row), FA_OK);
        }
        static float out[T * K];
        const fa_view to = {.data = out, .shape = {T, K}, .stride = {K * 4, 4}, .ndim = 2, .dtype = FA_F32};
        fa_view which = {.data = (void *)ids, .shape = {T}, .stride = {8}, .ndim = 1, .dtype = FA_I64};
        expect_status("rows", fa_quant_rows(&ctx, &to, &weights, N, &which), FA_OK);
        for (int t = 0; t < T; t++)
            for (int i = 0; i < K; i++) {
                const int p = ids[t] >= 32;
                float d, least;
                const int q = element(types[p], blocks[p] + (ids[t] - 32 * p) * (p ? 144 : 210), i, &d, &least);
                volatile float w = d * (float)q;
                w = w + least;
                if (out[t * K + i] != w) fail("row %d, column %d is %g, expected %g", t, i, (double)out[t * K + i], (double)w);
            }
        hash = hash_bytes(HASH_START, out, sizeof out);
        static const int64_t beyond[T] = {0, 48};
        which.data = (void *)beyond;
        expect_status("an id beyond", fa_quant_rows(&ctx, &to, &weights, N, &which), FA_ERR_VALUE);
        which.data = (void *)ids;
        expect_status("another number of rows", fa_quant_rows(&ctx, &to, &weights, N + 1, &which), FA_ERR_WORKSPACE);
        which.dtype = FA_F32;
        expect_status("ids of floats", fa_quant_rows(&ctx, &to, &weights, N, &which), FA_ERR_DTYPE);
    }
    case_end(hash);
    if (!case_begin("linear quant, weights to 4 bits")) return;
    static float w[5 * 77];
    static uint8_t first[5 * 60], four[5 * 60];
    int64_t row;
    for (int i = 0; i < 5 * 77; i++) w[i] = i / 77 == 3 ? 1.5f : (float)((int)(hash_at(7, (uint64_t)i) % 2001) - 1000) * 1e-3f;
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        const variant v = variant_of(isa, 0);
        const fa_ctx ctx = variant_ctx(&v);
        const fa_view from = {.data = w, .shape = {5, 77}, .stride = {77 * 4, 4}, .ndim = 2, .dtype = FA_F32};
        fa_view to = {.data = four, .shape = {5, 60}, .stride = {60, 1}, .ndim = 2, .dtype = FA_BOOL};
        expect_status("4 bits", fa_quant_int4(&ctx, &to, &from, &row), FA_OK);
        if (isa == 0) memcpy(first, four, sizeof first);
        expect_same("blocks", four, first, sizeof first, 1);
        for (int o = 0; o < 5; o++)
            for (int i = 0; i < 77; i++) {
                float d, least;
                const int q = element(FA_Q4_1, four + o * 60 + i / 32 * 20, i % 32, &d, &least);
                if (fabsf(d * (float)q + least - w[o * 77 + i]) > 0.1f) fail("weight %d of %d", i, o);
            }
        const float was = w[2 * 77 + 76];
        w[2 * 77 + 76] = INFINITY;
        expect_status("infinity", fa_quant_int4(&ctx, &to, &from, &row), FA_ERR_NAN);
        if (row != 2) fail("row %lld", (long long)row);
        w[2 * 77 + 76] = was;
        to.shape[1] = 59;
        expect_status("a byte less", fa_quant_int4(&ctx, &to, &from, &row), FA_ERR_SHAPE);
    }
    case_end(hash_bytes(HASH_START, first, sizeof first));
}

static void refusals(void) {
    if (!case_begin("linear quant refuses")) return;
    static _Alignas(64) uint8_t codes[4096], blocks[4 * 144];
    static uint8_t scales[1024];
    static float x[512], out[64];
    static _Alignas(64) char ws[1 << 20];
    const variant v = variant_of(0, 0);
    const fa_ctx ctx = variant_ctx(&v);
    int64_t size, beside, row;
    expect_status("Q2_K", fa_quant_panel_bytes(FA_Q2_K, 256, &size, &beside), FA_ERR_VALUE);
    expect_status("no type", fa_quant_panel_bytes(5, 256, &size, &beside), FA_ERR_VALUE);
    expect_status("half a block of 256", fa_quant_panel_bytes(FA_Q6_K, 128, &size, &beside), FA_ERR_SHAPE);
    expect_status("negative", fa_quant_panel_bytes(FA_Q8_0, -32, &size, &beside), FA_ERR_SHAPE);
    expect_status("huge", fa_quant_panel_bytes(FA_Q8_0, INT64_MAX / 32 * 32, &size, &beside), FA_ERR_MEMORY);
    fa_quant_part part = {FA_Q4_K, 4, codes, scales};
    fa_view view = {.data = blocks, .shape = {4, 144}, .stride = {144, 1}, .ndim = 2, .dtype = FA_BOOL};
    expect_status("right", fa_quant_pack(&ctx, &part, &view, 256, &row), FA_OK);
    for (int at = 1; at < 4; at += 2) {
        blocks[2 * 144 + at] = 0x7c;
        expect_status("an infinite scale", fa_quant_pack(&ctx, &part, &view, 256, &row), FA_ERR_NAN);
        if (row != 2) fail("row %lld, expected 2", (long long)row);
        blocks[2 * 144 + at] = 0;
    }
    part.outputs = 5;
    expect_status("a row more", fa_quant_pack(&ctx, &part, &view, 256, &row), FA_ERR_SHAPE);
    part.outputs = 4;
    part.codes++;
    expect_status("crooked", fa_quant_pack(&ctx, &part, &view, 256, &row), FA_ERR_WORKSPACE);
    part.codes--;
    const fa_view wide = {.data = x, .shape = {2, 256}, .stride = {1024, 4}, .ndim = 2, .dtype = FA_F32};
    expect_status("beyond", fa_quant_unpack(&ctx, &wide, &part, 3), FA_ERR_VALUE);
    const fa_view in = {.data = x, .shape = {1, 256}, .stride = {1024, 4}, .ndim = 2, .dtype = FA_F32};
    const fa_view to = {.data = out, .shape = {1, 4}, .stride = {16, 4}, .ndim = 2, .dtype = FA_F32};
    fa_linear_weights weights = {.dtype = FA_QUANT, .planes = 2, .n_parts = 1, .parts = {part}};
    expect_status("right", fa_linear(&ctx, &to, &in, &weights, NULL, FA_ACT_NONE, ws, sizeof ws), FA_OK);
    weights.planes = 3;
    expect_status("three planes", fa_linear(&ctx, &to, &in, &weights, NULL, FA_ACT_NONE, ws, sizeof ws), FA_ERR_WORKSPACE);
    weights.planes = 2, weights.parts[0].outputs = 3;
    expect_status("an output less", fa_linear(&ctx, &to, &in, &weights, NULL, FA_ACT_NONE, ws, sizeof ws), FA_ERR_WORKSPACE);
    weights.n_parts = 2, weights.parts[1] = part, weights.parts[1].outputs = 1;
    expect_status("a part that ends within a panel", fa_linear(&ctx, &to, &in, &weights, NULL, FA_ACT_NONE, ws, sizeof ws), FA_ERR_WORKSPACE);
    weights.n_parts = 1, weights.parts[0] = part;
    expect_status("no workspace", fa_linear(&ctx, &to, &in, &weights, NULL, FA_ACT_NONE, ws, 64), FA_ERR_WORKSPACE);
    case_end(0);
}

void test_linear_quant(const options *o) {
    (void)o;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        run_case(&cases[i], hash_bytes(HASH_START, cases[i].name, strlen(cases[i].name)));
    rows_alone();
    rows_of_layers();
    refusals();
}
