/* SPDX-License-Identifier: MIT */
/* What linear.c hands over where weights are int8. Arguments have been checked, but for the workspace. */
#ifndef FA_OPS_LINEAR_INT8_H
#define FA_OPS_LINEAR_INT8_H

#include "../fastattn.h"

#define FA_INT8_MOST_INPUTS ((int64_t)1 << 17) /* 127 * 127 times as many fit into 32 bits */

fa_status fa_int8_packed_bytes(int64_t n, int64_t k, size_t *bytes);
fa_status fa_int8_pack(const fa_ctx *ctx, const fa_linear_weights *packed, const fa_view *weight);
fa_status fa_int8_workspace(const fa_ctx *ctx, int64_t m, int64_t n, int64_t k, size_t *bytes);
fa_status fa_int8_linear(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_linear_weights *packed,
                         const fa_view *bias, fa_activation act, void *ws, size_t ws_bytes);

#endif
