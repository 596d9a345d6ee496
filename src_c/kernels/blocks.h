/* SPDX-License-Identifier: MIT */
/*
 * Blocks of quantised weights, as GGUF files hold them, to fp32. An element is its scale times a small integer, in some
 * types plus a minimum; scale and minimum of a part of a block may be products themselves. Each product and each sum has
 * one rounding of its own (blocks.inc has the formulas), NaN is the canonical one.
 */
#ifndef FA_KERNELS_BLOCKS_H
#define FA_KERNELS_BLOCKS_H

#include "../fastattn.h"

typedef struct fa_block_kernels {
    /* `blocks` blocks of the fa_block_type `type`, one behind the other at any address -> their elements */
    void (*widen)(float *to, const uint8_t *from, int type, int64_t blocks);
} fa_block_kernels;

#endif
