/* SPDX-License-Identifier: MIT */
/*
 * struct fa_kernels: what one ISA provides. Each isa/<name>.c exports exactly one symbol, const fa_kernels
 * fa_kernels_<name>, filled from the same sources (avx512_vnni and neon_dot: only what differs from avx512 and neon, const
 * fa_integer_kernels fa_kernels_<name>); drivers in ops/ reach kernels through the table in fa_ctx alone.
 * Kernels cannot fail, allocate, print or start threads.
 */
#ifndef FA_KERNELS_H
#define FA_KERNELS_H

#include "attention.h"
#include "attention_int8.h"
#include "blocks.h"
#include "convert.h"
#include "linear.h"
#include "linear_int8.h"
#include "linear_quant.h"
#include "recurrent.h"
#include "merge.h"
#include "relative.h"
#include "rope.h"
#include "rows.h"
#include "sample.h"
#include "similarity.h"
#include "states.h"
#include "vmath.h"

struct fa_kernels {
    fa_attn_kernels attention;
    fa_linear_kernels linear;
    fa_row_kernels rows;
    fa_vmath_kernels vmath;
    fa_convert_kernels convert;
    fa_recurrent_kernels recurrent;
    fa_rope_kernels rope;
    fa_merge_kernels merge;
    fa_int8_kernels int8;
    fa_relative_kernels relative;
    fa_similar_kernels similar;
    fa_block_kernels blocks;
    fa_sample_kernels sample;
    fa_state_kernels states;
    fa_quant_kernels quant;
    fa_attn_int8_kernels attention_int8;
};

/* The families that multiply integers, which an instruction set of its own may have better. */
typedef struct fa_integer_kernels {
    fa_int8_kernels int8;
    fa_quant_kernels quant;
    fa_attn_int8_kernels attention;
} fa_integer_kernels;

#endif
