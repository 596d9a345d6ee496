/* SPDX-License-Identifier: MIT */
/*
 * Contracts of the attention kernels. Two of them compute the same rows with the same bits:
 *
 *   tile    many queries: lanes are queries. A tile of 16 or 32 rows lies transposed, K and V are read as they lie.
 *   decode  up to fa_attn_kernels.decode_rows queries that share K and V: lanes are keys, then lanes are columns of V.
 *
 * Both are called once for a chunk of FA_KV_CHUNK keys (or what is left of one) and leave the running state (m, l, o)
 * of the chunk, merged into what the chunks before it left. Key j of the call is key j0 + j of the stream; a row sees
 * the keys lo <= j <= hi. Masks come on top. Memory outside the n keys of the call is never read.
 */
#ifndef FA_KERNELS_ATTENTION_H
#define FA_KERNELS_ATTENTION_H

#include "../fastattn.h"

#define FA_TILE_MAX 32  /* most rows of a tile */
#define FA_DECODE_MAX 8 /* most rows of a decode call */

/* How scores become exponents: x = s and exp2((x - m) * c), or, formed, x = cap * tanh(s * scale / cap) + mask. */
typedef struct fa_attn_form {
    float c;        /* log2(e) times |scale|, or log2(e) when formed */
    float scale;    /* formed: multiplies s. plain: |scale|, used by lse alone */
    float softcap;  /* 0: none */
    float inv_cap;
    int formed;
} fa_attn_form;

/* Keys of one call and what its rows see of them. Row i sees key j of the stream if j <= hi[i] and (j >= lo[i] or
 * j < always), and mask and blocks allow it. */
typedef struct fa_attn_chunk {
    const float *k;      /* tile: [n, d], row stride ks */
    const float *v;      /* tile: [n, dv], row stride vs */
    const void *const *k_at; /* decode: where keys 16 g, g = 0, 1, ..., begin; rows of a group lie ks apart */
    const void *const *v_at; /* decode: likewise */
    int64_t groups;      /* decode: entries of k_at and v_at; those beyond the n keys are what is read after them */
    int dtype;           /* decode: fa_dtype of K and V */
    ptrdiff_t ks, vs;    /* in elements */
    int64_t d, dv;
    int64_t j0;          /* index of the first key in the stream; a multiple of FA_KV_CHUNK */
    int64_t n;           /* keys of this call, at most FA_KV_CHUNK */
    uint32_t live;       /* bit i: the block of FA_KEY_BLOCK keys i may be seen by some row */
    fa_attn_form form;
    const float *k_scale; /* [n] multiply the products; NULL: none */
    const float *v_scale; /* [n] multiply the probabilities */
    const int64_t *lo, *hi;          /* [rows] */
    int64_t always;
    const uint8_t *const *mask_bool; /* [rows] byte of key j of the stream at row[j * mask_step]; NULL: none */
    const float *const *mask_f32;    /* [rows] likewise */
    ptrdiff_t mask_step;             /* 0 or 1 */
    const uint8_t *const *blocks;    /* [rows] byte of keys block_cols * i ... at row[i]; NULL: none */
    int64_t block_cols;
    const int64_t *position;         /* [rows] p of ALiBi and bias */
    const float *slope;              /* [rows] ALiBi; NULL: none */
    const float *const *bias;        /* [rows] value for j - p == 0; FA_KEY_BLOCK more than bias_reach on both sides; NULL: none */
    int64_t bias_reach;
    int far;  /* 1: K and V come from memory: kernels ask for rows ahead of their use */
    int safe; /* 1: excluded keys are not multiplied at all (their V may hold NaN or Inf); slow */
    /* of attention by integers (attention_int8.h), in place of k, v, k_scale and v_scale */
    const void *k8, *v8; /* tile: panels of keys, groups of values; decode reads k_at and v_at */
    ptrdiff_t v8s;       /* bytes from group to group */
    const float *k_unit, *v_lift, *v_inverse; /* [n] from take_scales */
} fa_attn_chunk;

typedef struct fa_attn_tile {
    int nv;          /* 1 or 2 vectors of rows; L = 16 * nv */
    int rows;        /* rows in use, 1..L */
    int started;     /* 0: state is empty; set by the kernel */
    const float *qt; /* [d][L] from tile_pack */
    const float *sink; /* [L] logits, or NULL */
    float *m, *l;    /* [L] */
    float *o;        /* [dv][L] */
    float *chunk_o;  /* [dv][L] scratch */
    float *s;        /* [FA_KEY_BLOCK][L] scratch */
} fa_attn_tile;

/* The kernel computes fa_decode_width rows: those beyond `rows` need a q (any) and see nothing. */
typedef struct fa_attn_decode {
    int rows;
    int started;
    const float *const *q; /* [width] each [d], the sign of the scale folded in */
    const float *sink;     /* [rows] logits, or NULL */
    float *m, *l;          /* [width] */
    float *o;              /* [width][dvp], dvp = dv rounded up to 16 */
    float *chunk_o;        /* [width][dvp] scratch */
    void *q8;              /* of attention by integers: room for FA_DECODE_MAX rounded rows, */
    float unit;            /* and what scores are multiplied with */
} fa_attn_decode;

/* Rows the decode kernel computes for `rows`: each size is a copy of the kernel, so not all there are, for narrow storage
 * still fewer. */
static inline int fa_decode_width(int rows, int dtype) {
    if (rows < 3 || (rows == 3 && dtype == FA_F32)) return rows;
    if (rows <= 4) return 4;
    return rows <= 6 && dtype == FA_F32 ? 6 : 8;
}

typedef struct fa_attn_kernels {
    int tile_nv;     /* vectors per full tile: 2 or 1 */
    int decode_rows; /* rows from which on the tile is the better choice */
    /* rows[i] ([d], i < n) times sign -> qt [d][L]; lanes from n on are zero. */
    void (*tile_pack)(float *qt, const float *const *rows, int n, int nv, int64_t d, float sign);
    void (*tile)(fa_attn_tile *tile, const fa_attn_chunk *chunk);
    /* Merges state b, of a later chunk, into a (both of nv vectors); either may be empty. */
    void (*tile_merge)(fa_attn_tile *a, const fa_attn_tile *b, float c, int64_t dv);
    /* o / l -> rows, lse where not NULL (lse[i] may be NULL too); returns 1 if a row in use holds a NaN. */
    int (*tile_finish)(const fa_attn_tile *tile, int64_t dv, const fa_attn_form *form, float *const *out, float *const *lse);
    /* Probabilities of the chunk's keys from the finished state -> weights[i][j0 + j]. */
    void (*tile_weights)(const fa_attn_tile *tile, const fa_attn_chunk *chunk, float *const *weights);
    /* Scores of the chunk's keys at a stage of fa_score_stage -> scores[i][j0 + j]. */
    void (*tile_scores)(const fa_attn_tile *tile, const fa_attn_chunk *chunk, int stage, float *const *scores);
    void (*decode)(fa_attn_decode *decode, const fa_attn_chunk *chunk);
    /* Merges state b into a (both of `rows` rows); b may be empty. */
    void (*decode_merge)(fa_attn_decode *a, const fa_attn_decode *b, float c, int64_t dv);
    int (*decode_finish)(const fa_attn_decode *decode, int64_t dv, const fa_attn_form *form, float *const *out, float *const *lse);
} fa_attn_kernels;

#endif
