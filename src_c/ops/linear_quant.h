/* SPDX-License-Identifier: MIT */
/* What linear.c hands over where weights are blocks of small integers. Arguments have been checked, but for the workspace and
 * for what fa_quant_is_whole looks at. */
#ifndef FA_OPS_LINEAR_QUANT_H
#define FA_OPS_LINEAR_QUANT_H

#include "../fastattn.h"

/* Whether the parts are those of a layer of n outputs of k inputs, and all there. */
int fa_quant_is_whole(const fa_linear_weights *packed, int64_t n, int64_t k);
/* The weights of outputs first, first + 1, ..., n of them, of a layer of one part; first is a multiple of 16. */
fa_linear_weights fa_quant_slice(const fa_linear_weights *packed, int64_t k, int64_t first, int64_t n);
fa_status fa_quant_workspace(const fa_ctx *ctx, int64_t m, int64_t n, int64_t k, size_t *bytes);
fa_status fa_quant_linear(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_linear_weights *packed,
                          const fa_view *bias, fa_activation act, void *ws, size_t ws_bytes);

#endif
