/* SPDX-License-Identifier: MIT */
/* One attention problem, described by a few numbers, and everything it must hold. */
#ifndef ATTENTION_CASE_H
#define ATTENTION_CASE_H

#include "check.h"

typedef enum fill {
    FILL_BELL = 0,
    FILL_EQUAL,    /* all scores the same */
    FILL_HUGE,     /* scores near 2^120, values near 2^100 */
    FILL_TINY,     /* products are denormal */
    FILL_DOMINANT, /* one key with nearly all of the weight */
    FILL_INFINITE, /* scores of +inf in even rows, -inf in odd ones */
    FILL_NAN       /* NaN in a few attended elements of q, k and v */
} fill;

typedef enum mask_kind { MASK_NONE = 0, MASK_BOOL, MASK_FLOAT } mask_kind;

typedef enum scale_kind { SCALE_DEFAULT = 0, SCALE_ZERO, SCALE_NEGATIVE, SCALE_LARGE, SCALE_DENORMAL } scale_kind;

/* Where keys lie: in order; in pages of page_size; in a ring of ring_size rows behind ring_first. */
typedef enum key_place { KEYS_IN_ORDER = 0, KEYS_PAGED, KEYS_RING } key_place;

typedef struct attention_case {
    const char *name;
    int64_t b, hq, hkv, sq, sk, d, dv;
    fa_dtype dtype, kv_dtype; /* of q and out, of k and v; FA_NONE: fp32 */
    scale_kind scale;
    float softcap;
    int causal;
    int windowed; /* 0: window_left and window_right are not looked at */
    int64_t window_left, window_right;
    const int64_t *q_offset, *kv_lengths; /* [b] or [n_seq] */
    const int64_t *cu_q, *cu_k;           /* [n_seq + 1] */
    int64_t n_seq;
    const int64_t *positions;             /* [sk] of the packed form */
    mask_kind mask;
    unsigned mask_broadcast;              /* bit i: dimension i has stride 0 */
    int64_t sink_tokens;
    int64_t chunk;                        /* 0: none */
    int alibi, sinks;
    int64_t bias_reach;                   /* 0: no bias by distance */
    int64_t block_rows, block_cols;       /* 0: no blocks */
    key_place place;                      /* pages and rings need kv_lengths */
    int64_t page_size, ring_first, ring_size;
    int lse, weights;
    fa_score_stage stage;                 /* of the scores asked for */
    int integers; /* attention by integers, of k and v as they are: int8 with scales, or fp32 */
    fill fill;
    int colliding; /* K and V rows 2048 bytes apart in some variants: the path that copies them */
    int unmapped;  /* b = 1: keys from kv_lengths on have no memory at all */
    uint64_t seed;
} attention_case;

void attention_run(const attention_case *c);

#endif
