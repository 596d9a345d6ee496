/* SPDX-License-Identifier: MIT */
/*
 * What the files of the attention driver share. A call is cut in four steps, a file each:
 *
 *   attention_check.c    are the arguments what they should be
 *   attention_rows.c     what a row is: its pointers, and the keys it sees
 *   attention_keys.c     where keys lie (in order, in a ring, in pages), and copies of them where a kernel needs them so
 *   attention_integers.c the same for attention by integers, and rows that are rounded here
 *   attention_tiles.c    many rows: groups of tiles, cut along the keys where there are few of them
 *   attention_decode.c   few rows: a task per chunk of keys
 *   attention.c          tasks, workspace, the call
 *
 * Rows that share keys, the G query heads of one KV head at all positions, form one list: row r is position r / G of
 * head r % G, so that neighbours have neighbouring positions and causal blocks are skipped together.
 *
 * Tasks depend on shapes and lengths alone, never on the number of threads.
 */
#ifndef FA_OPS_ATTENTION_JOB_H
#define FA_OPS_ATTENTION_JOB_H

#include "../fastattn.h"
#include "../kernels/kernels.h"
#include "parallel.h"

#define ATTN_MAX_GROUP 16 /* most tiles of a task */
#define ATTN_POSITION_MAX ((int64_t)1 << 46)

/* Of one worker. What the rows of a task are lies here too: a thread of the caller's may have 64 KiB of stack. */
typedef struct attn_scratch {
    struct attn_rows *rows;   /* [group] */
    fa_attn_tile *tiles;      /* [group] */
    float *qt, *m, *l, *o;    /* [group] tiles */
    float *sink;              /* [group][lanes] */
    float *chunk_o, *s;
    float *k_copy, *v_copy;   /* rows of a chunk as the tile kernel wants them; NULL if K and V may be read in place */
    float *k_scale, *v_scale; /* [FA_KV_CHUNK], with int8 */
    char *k8, *v8;            /* of integers: keys and values of a chunk as the tile kernel wants them */
    float *numbers;           /* [3][FA_KV_CHUNK] of integers: k_unit, v_lift, v_inverse */
    char *q8;                 /* of integers: rounded queries of the decode kernel */
    float *q_copy;            /* [rows][d] fp32; decode: with the sign folded in */
    float *out_copy;          /* [rows][dv] fp32 before it is narrowed */
    float *jump_bias;         /* [lanes][jump_width] biases of a chunk's keys, where positions jump */
    const float **jump_rows;  /* [lanes] rows of jump_bias */
    int64_t *jump_from;       /* [lanes] what the kernels count from then */
} attn_scratch;

typedef struct attn_job {
    fa_ctx ctx;
    const fa_attn_kernels *kernels;
    const fa_convert_kernels *convert;
    const fa_view *out, *lse, *weights, *q, *k, *v;
    const fa_attention_params *params;
    fa_attn_form form;
    float sign;
    int64_t n_seq, q_heads, kv_heads, group_heads, d, dv, dvp;
    int lanes;             /* rows of a full tile */
    int group;             /* tiles of a task */
    int copy;              /* rows of K and V are moved or widened for the tile kernel: 1 where tiles share them, 2 always */
    int split;             /* tile tasks are cut along the keys, one chunk each */
    int far;               /* K and V of the call do not fit into caches close to a core */
    int far_rows;          /* neither do q and the output: the tiles ask for their rows ahead */
    int full_chunk;        /* a chunk of K and V fills L2: the tile kernel asks ahead too */
    int64_t total_tasks, total_merges, partial_floats;
    int64_t bias_reach;
    int64_t jump_width;    /* keys of a chunk, in whole blocks; 0: no bias, or positions jump nowhere */
    int64_t *task_start;   /* [n_seq + 1] */
    int64_t *merge_start;  /* [n_seq + 1] tasks of the second round */
    int64_t *state_start;  /* [n_seq + 1] offset of a sequence's partial states */
    float *bias_rows;      /* [q_heads][attn_bias_width] with both ends drawn out */
    float *partials;
    attn_scratch *scratch; /* [workers] */
    const fa_attn_int8_kernels *integers; /* NULL: by floats */
    int fresh;             /* of integers: k and v are floats, rounded in tasks of their own before all others */
    int64_t fresh_keys;    /* of all sequences, each in whole panels of 16 */
    int64_t fresh_tasks;
    int64_t *fresh_start;  /* [n_seq + 1] first of a sequence's */
    int64_t *fresh_pieces; /* [n_seq + 1] tasks of the sequences before, of a KV head */
    char *fresh_k, *fresh_v;   /* [kv_heads] of all keys */
    float *fresh_numbers;      /* [kv_heads][3][fresh_keys] */
} attn_job;

typedef struct attn_seq {
    int64_t index, batch;  /* of the sequence; of the arrays' first dimension */
    int64_t queries, rows, keys, offset;
    int64_t q_row0, k_row0; /* its first rows in q, out, lse, weights and in k, v */
} attn_seq;

/* Chunks that rows may see: `lead` from the first on (for keys that are always seen), then `count` from `first` on. */
typedef struct attn_span {
    int64_t lead, first, count;
} attn_span;

/* Everything a kernel wants to know about some rows of a sequence's KV head. */
typedef struct attn_rows {
    int n;
    const char *q[FA_TILE_MAX];
    char *out[FA_TILE_MAX];
    float *lse[FA_TILE_MAX], *weights[FA_TILE_MAX], *scores[FA_TILE_MAX];
    const uint8_t *mask_bool[FA_TILE_MAX];
    const float *mask_f32[FA_TILE_MAX];
    const uint8_t *blocks[FA_TILE_MAX];
    const float *bias[FA_TILE_MAX];
    float slope[FA_TILE_MAX], sink[FA_TILE_MAX];
    int64_t position[FA_TILE_MAX];
    const int64_t *jumps; /* positions of the sequence's keys where they jump, else NULL */
    int64_t lo[FA_TILE_MAX], hi[FA_TILE_MAX];
    int64_t first, last; /* union of the rows' ranges lo..hi, empty if first > last */
    int64_t top;         /* the largest hi, -1 if no row sees anything */
} attn_rows;

static inline int64_t attn_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t attn_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t attn_ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* attention_check.c */
fa_status attn_check(const fa_view *out, const fa_view *lse, const fa_view *weights, const fa_view *q,
                     const fa_view *k, const fa_view *v, const fa_attention_params *p);

/* attention_rows.c */
int64_t attn_queries(const attn_job *job, int64_t b);
int64_t attn_keys(const attn_job *job, int64_t b);
attn_seq attn_get_seq(const attn_job *job, int64_t b);
/* Positions of a sequence's keys, NULL where they go up by one or nothing goes by them: they may be counted then. */
const int64_t *attn_jumps(const attn_job *job, int64_t b);
void attn_get_rows(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t r0, int n, attn_rows *rows);
/* Points the chunk at the rows: ranges, masks, biases. */
void attn_point_rows(const attn_job *job, const attn_rows *rows, attn_scratch *scratch, fa_attn_chunk *chunk);
attn_span attn_span_of(const attn_job *job, int64_t first, int64_t last, int64_t top);
attn_span attn_seq_span(const attn_job *job, int64_t b); /* of all rows of a sequence */
static inline int64_t attn_span_count(attn_span span) { return span.lead + span.count; }
static inline int64_t attn_span_chunk(attn_span span, int64_t i) { return i < span.lead ? i : span.first + i - span.lead; }
int64_t attn_bias_width(const attn_job *job);
void attn_fill_bias(attn_job *job);

/* attention_keys.c */
int attn_in_order(const attn_job *job); /* key j + 1 lies a row behind key j, in fp32 */
/* Chunk number `index` of the stream for the tile kernel; of copied rows those any of the rows may see. */
void attn_tile_keys(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t index, int shared, int64_t first, int64_t last,
                    attn_scratch *scratch, fa_attn_chunk *chunk);
/* The same for the decode kernel; k_at and v_at have place for ATTN_GROUPS: those of the chunk and of the block read next. */
#define ATTN_GROUPS ((FA_KV_CHUNK + FA_KEY_BLOCK) / 16)
void attn_decode_keys(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t index, const void **k_at, const void **v_at,
                      attn_scratch *scratch, fa_attn_chunk *chunk);

/* attention_integers.c */
ptrdiff_t attn_panel_bytes(const attn_job *job); /* of 16 keys */
ptrdiff_t attn_group_bytes(const attn_job *job); /* of the values of 4 keys */
int64_t attn_fresh_pieces(const attn_job *job, int64_t b); /* tasks that round the rows of a sequence and KV head */
void attn_fresh_task(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t piece, attn_scratch *scratch);
/* As attn_tile_keys; and the scales of a chunk alone, for the decode kernel. */
void attn_tile_integers(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t index, int64_t first, int64_t last,
                        attn_scratch *scratch, fa_attn_chunk *chunk);
void attn_decode_numbers(const attn_job *job, const attn_seq *seq, int64_t kv_head, attn_scratch *scratch, fa_attn_chunk *chunk);
/* Of attention_keys.c: which keys of a chunk are needed; a key's row in k, v (4 dimensions) or in their scales; keys in a
 * row from j on. */
void attn_needed(const attn_job *job, const fa_attn_chunk *chunk, int64_t first, int64_t last, int64_t *from, int64_t *to);
const char *attn_key_at(const attn_job *job, const fa_view *view, const attn_seq *seq, int64_t kv_head, int64_t j);
int64_t attn_run_of(const attn_job *job, int64_t j, int64_t end);

/* attention_tiles.c */
int64_t attn_tile_tasks(const attn_job *job, int64_t b);  /* of a sequence and KV head */
int64_t attn_tile_merges(const attn_job *job, int64_t b);
int64_t attn_tile_floats(const attn_job *job, int64_t b); /* of partial states, of a KV head */
void attn_tile_task(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t task, attn_scratch *scratch);
void attn_tile_merge(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t tile, attn_scratch *scratch);

/* attention_decode.c */
int attn_decodes(const attn_job *job, int64_t b);
int64_t attn_decode_tasks(const attn_job *job, int64_t b);
int64_t attn_decode_merges(const attn_job *job, int64_t b);
int64_t attn_decode_floats(const attn_job *job, int64_t b);
void attn_decode_task(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t task, attn_scratch *scratch);
void attn_decode_merge(const attn_job *job, const attn_seq *seq, int64_t kv_head, attn_scratch *scratch);

#endif
