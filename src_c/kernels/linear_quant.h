/* SPDX-License-Identifier: MIT */
/*
 * Contracts of the linear kernels whose weights are blocks of small integers, as GGUF files have them. Nothing is
 * dequantised: a panel holds the integers of 16 outputs in the order in which they are multiplied, beside it lie their
 * scales, and a file's 18 bytes of 32 weights stay 18.
 *
 * Panels. A block is 32 inputs, 8 groups of 4. Codes of a block, byte [16 outputs][4 inputs] of each group:
 *
 *     8 bits   [8 groups][64] bytes, 128 added:                             Q8_0
 *     4 bits   [4][64] bytes: group g in the low nibbles of vector g, group g + 4 in its high ones:
 *                                                                           Q4_0, Q4_1, Q4_K, IQ4_NL, IQ4_XS, MXFP4
 *     5 bits   4 bits, then [64] bytes: bit g is the fifth bit of group g:  Q5_0, Q5_1, Q5_K
 *     6 bits   4 bits, then [2][64] bytes: vector g / 4, bits 2 (g % 4) and the next:  Q6_K
 *
 * Scales of a panel, [16] of each, for block after block, or for 256 inputs after 256:
 *
 *     Q4_0, Q5_0, Q8_0, IQ4_NL   fp16 d
 *     Q4_1, Q5_1                 fp16 d, fp16 m
 *     MXFP4                      8-bit e, d = 2^(e - 128)
 *     Q4_K, Q5_K                 fp16 d, fp16 -dmin; then of each block 8-bit scale, 8-bit min
 *     Q6_K                       fp16 d; then of each block 8-bit scale of its first and of its second half
 *     IQ4_XS                     fp16 d; then of each block 8-bit scale
 *
 * A weight is d_w q (+ m_w), q = code - offset, or the code's entry in a table; d_w = d, or d * scale, which is exact in
 * fp32, m_w = m or -dmin * min.
 *
 * Inputs. Of each block of 32 inputs of a row, with top = max |x| and M = 16256 (two planes of int8) or 127 (one):
 *
 *     X = round_even(x * (M / top));  d_x = top / M;  s_x = d_x * (float)(sum of X)
 *
 * (blocks with top below 2^-64 are multiplied by 2^64 before, their d_x by 2^-64 after; NaN or infinity in a block gives a
 * d_x of NaN). Two planes are X = 128 hi + lo with hi = (X + 64) >> 7. The output is, on every ISA, over blocks in order
 *
 *     acc = 0;  acc = fma(d_w * d_x, (float)(exact sum of q X), acc);  acc = fma(m_w, s_x, acc) where there are minima
 *     act(acc + bias)
 *
 * Q6_K makes the first step twice, for the halves of 16 inputs in order. Nothing overflows: a sum of 32 products of a code,
 * at most 255, and an X of at most 16256 is below 2^27.02, and what instruction sets sum in 16 bits is bounded in vec/quant.h.
 */
#ifndef FA_KERNELS_LINEAR_QUANT_H
#define FA_KERNELS_LINEAR_QUANT_H

#include "../fastattn.h"

#define FA_QUANT_INPUTS 32   /* of a block */
#define FA_QUANT_ROW_BYTES 64 /* of a block of inputs: two planes, or 16 bits each */

/* Of a block of inputs of a row. */
typedef struct fa_quant_inputs {
    float d, s;        /* d_x, s_x */
    int32_t all, half; /* sums of X, of all inputs and of the first 16 */
} fa_quant_inputs;

/* A block of the output: rows times panels. */
typedef struct fa_quant_block {
    const char *bytes, *words;    /* [rows][blocks][FA_QUANT_ROW_BYTES]; one of them may be missing, as types need it */
    const fa_quant_inputs *inputs; /* [rows][blocks] */
    int64_t rows, blocks;         /* blocks: K / 32 */
    int type, planes;             /* fa_block_type; 1 or 2 */
    const uint8_t *codes, *scales; /* of the first panel */
    int64_t n_panels;
    const float *bias;            /* [n] or NULL */
    float *out;                   /* [rows, n], row stride os */
    ptrdiff_t os;                 /* in elements */
    int64_t n;                    /* outputs of this block, 16 * n_panels or fewer in the last */
    int act;                      /* fa_activation */
    uint8_t *wide;                /* more rows than few_rows: scratch of n_panels * blocks * wide_block bytes; NULL: few */
} fa_quant_block;

typedef struct fa_quant_kernels {
    int words;          /* whether types that fa_quant_wants_words names are multiplied as `words` */
    int64_t few_rows;   /* up to so many rows, codes pass through registers as they lie; more pass panels unpacked into L2 */
    int64_t wide_block; /* most bytes of a block of a panel that is unpacked */
    /* rows[i], i < n, of `blocks` blocks of 32 inputs of the type -> a panel's codes and scales, zero from n on */
    void (*pack)(uint8_t *codes, uint8_t *scales, int type, const uint8_t *const *rows, int n, int64_t blocks);
    /* A panel -> k weights of its output number `lane` */
    void (*unpack)(float *to, const uint8_t *codes, const uint8_t *scales, int type, int lane, int64_t k);
    /* k weights -> ceil(k / 32) blocks of FA_Q4_1; 0 where one is NaN, infinite or more than fp16 holds (quant_int4.inc) */
    int (*int4)(uint8_t *blocks, const float *weights, int64_t k);
    /* A row of k inputs; `bytes` and `words` where not NULL */
    void (*quantize)(char *bytes, char *words, fa_quant_inputs *inputs, const float *x, int64_t k, int planes);
    void (*block)(const fa_quant_block *block);
} fa_quant_kernels;

/* Bytes of a block's codes, and of 256 inputs' scales. */
static inline int64_t fa_quant_code_bytes(int type) {
    switch (type) {
    case FA_Q8_0: return 512;
    case FA_Q6_K: return 384;
    case FA_Q5_0: case FA_Q5_1: case FA_Q5_K: return 320;
    default: return 256;
    }
}

static inline int64_t fa_quant_scale_bytes(int type) {
    switch (type) {
    case FA_Q4_1: case FA_Q5_1: return 8 * 64;
    case FA_MXFP4: return 8 * 16;
    case FA_Q4_K: case FA_Q5_K: return 320;
    case FA_Q6_K: return 288;
    case FA_IQ4_XS: return 160;
    default: return 8 * 32;
    }
}

/* Blocks of 32 in a block of the type. */
static inline int fa_quant_whole(int type) {
    return type == FA_Q4_K || type == FA_Q5_K || type == FA_Q6_K || type == FA_IQ4_XS ? 8 : 1;
}

static inline int fa_quant_wants_words(int type) {
    return type != FA_Q4_0 && type != FA_Q4_1 && type != FA_Q4_K;
}

#endif
