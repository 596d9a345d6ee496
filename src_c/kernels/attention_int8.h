/* SPDX-License-Identifier: MIT */
/*
 * Attention by integers: for keys and values that are kept, or given, as int8 with a scale for each row and head. The
 * contracts are those of attention.h; what they compute is this, on every ISA, by tile and by decode kernel.
 *
 * Rounding. A row x of a query or a key is rotated first: whole blocks of B of its D elements go through a Hadamard
 * transform, B the largest power of two up to 128 that divides D, but at least 16; what is behind the last whole block is
 * multiplied by 4 (which is sqrt(16)). All products of a query and a key have become B times as large, and no element is
 * much larger than the others. Rows of values are as they are. Then
 *
 *     top = max |x|;  x8 = round_even(x * (127 / top)) in [-127, 127];  scale = top / 127
 *
 * (rows with top beyond 2^64 or below 2^-64 are multiplied by 2^-64 or 2^64 before, their scale by the inverse after). A
 * query's scale q is divided by B. NaN or infinity in a row, which int8 cannot hold, is a scale of NaN: a query so is NaN
 * if it sees any key, a key or value so makes NaN of the queries that see it, and touches no other.
 *
 * Scores. s = sum q8 k8, exact: |s| <= 127 * 127 * FA_MAX_HEAD_DIM < 2^27, and with 128 added to one of the factors, as
 * VNNI has it, still below 2^28. The scale of values goes into the exponent, v_lift = log2(v):
 *
 *     u = fma(float(s) * k, q * scale * log2(e), v_lift)
 *
 * A form of scores (softcap, bias, ALiBi, an added mask, or a scale whose product with log2(e) is no normal number) forms
 * x as NUMERICS.md says from (float(s) * k) * q; then, with x' the largest x of the block's seen keys,
 * u = fma(x - x', log2(e), v_lift).
 *
 * Softmax, for each block of FA_KEY_BLOCK keys by itself. u' is the largest u of the keys a row sees,
 *
 *     d = u - u';  e = 255 * 2^d by fa_short_exp, 0 for d < -126 and for keys not seen;  w = round_even(e) in 0..255
 *     l_b = the sum of e / v: four sums, of keys j = 0, 1, 2, 3 modulo 4, each in order by FMA, then (0 + 1) + (2 + 3)
 *     o_b = sum w v8, exact: |o_b| <= 48 * 255 * 127 < 2^21
 *
 * so that the grid of the weights is relative to the block's own largest one: with that of the whole row, what comes
 * after one dominant key would be rounded to nothing. A row's scale of 0 (all its values are) counts as 2^-60, scales
 * below 2^-100 as 2^-100; where the scales of a block's rows are further apart than 2^126, those that are too small count
 * for nothing.
 *
 * Blocks meet in order: m_b = u' (formed: x'), m = max(m, m_b), a = 2^((m_old - m) c), b = 2^((m_b - m) c) / 255, formed
 * times 2^u'; o = fma(float(o_b), b, o * a), l = fma(l_b, b, l * a), c = 1 (formed: log2(e)). Chunks of FA_KV_CHUNK keys
 * and a learned sink are merged as ever.
 */
#ifndef FA_KERNELS_ATTENTION_INT8_H
#define FA_KERNELS_ATTENTION_INT8_H

#include "attention.h"

/* Floats of a packed tile of L rows: tile_pack of this family writes bytes, and three numbers for each row. */
#define FA_TILE8_EXTRA 3
/* Bytes of a rounded query of the decode kernel on any ISA. */
#define FA_ROUNDED_BYTES(d) (4 * (((d) + 63) / 64 * 64))

typedef struct fa_attn_int8_kernels {
    /* Of the family; `sign` of tile_pack is what scores are multiplied with, q and k as they were given to `round`. c of
     * merges is 1 or, formed, log2(e). */
    fa_attn_kernels attend;
    int key_bytes, value_bytes; /* of an element of k8 and of v8 */
    /* n rows (`stride` elements apart) -> int8, and their scales; `rotated` for queries and keys. Steps in bytes. */
    void (*round_rows)(int8_t *to, ptrdiff_t to_step, char *scale, ptrdiff_t scale_step, const float *from, ptrdiff_t stride, int64_t n,
                       int64_t d, int rotated);
    /* n rows of int8, `stride` bytes apart -> panels of 16 keys, [ceil(n / 16)][ceil(d / 4)][16][4] */
    void (*take_keys)(void *to, const int8_t *from, ptrdiff_t stride, int64_t n, int64_t d);
    /* n rows of int8 -> ceil(n / 4) groups of v8, to_stride bytes apart, [ceil(dv / 16) * 16][4] each with zeros from n on */
    void (*take_values)(void *to, ptrdiff_t to_stride, const int8_t *from, ptrdiff_t from_stride, int64_t n, int64_t dv);
    /* The same from rows of floats, `stride` elements apart, with the scales [n] that are found. */
    void (*new_keys)(void *to, float *scale, const float *from, ptrdiff_t stride, int64_t n, int64_t d);
    void (*new_values)(void *to, ptrdiff_t to_stride, float *scale, const float *from, ptrdiff_t stride, int64_t n, int64_t dv);
    /* scales of n keys, `step` bytes apart -> k_unit, v_lift, v_inverse, written up to a multiple of 16 */
    void (*take_scales)(float *k_unit, float *v_lift, float *v_inverse, const char *k_scale, const char *v_scale,
                        ptrdiff_t k_step, ptrdiff_t v_step, int64_t n);
} fa_attn_int8_kernels;

/* Elements that are rotated together. */
static inline int64_t fa_rotated_block(int64_t d) {
    int64_t block = 128;
    while (block > 16 && d % block != 0) block /= 2;
    return block;
}

#endif
