/* SPDX-License-Identifier: MIT */
/*
 * fastattn: the C contract.
 *
 * Everything the Python side may call is declared here; _capi.pxd mirrors this file line for line.
 *
 * How a call is made
 * ------------------
 *   1. Describe every array by an fa_view: it borrows memory, owns nothing, and its last stride is one element.
 *   2. Fill an fa_ctx: which kernel table to use (fa_kernels_for) and how many threads the call may take.
 *   3. Ask the op how much workspace it wants (fa_<op>_workspace), provide it 64-byte aligned, call fa_<op>.
 *
 * What is guaranteed
 * ------------------
 *   - An op returns a status and never prints, aborts or allocates. On any status but FA_OK no output was promised.
 *   - The bits of the result depend on the inputs alone: not on the thread count, the team that happened to be free,
 *     the ISA, or what else is in the batch. `scalar` is the specification, the others equal it.
 *   - The caller's floating-point environment neither matters nor changes.
 *   - Calls from many threads at once are safe as long as they do not share outputs or workspaces.
 */
#ifndef FASTATTN_H
#define FASTATTN_H

#include <float.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Every file of the library sees this. What gcc and clang tell of how they were called: gcc all that changes bits
 * (__GCC_IEC_559 is 0 then), clang less; setup.py looks at what the compiler does too.
 */
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    defined(__NO_SIGNED_ZEROS__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || \
    (defined(__GCC_IEC_559) && __GCC_IEC_559 == 0)
#error "fastattn: the compiler is told to change results: no -Ofast, no fast math, -ffp-contract=off"
#endif
#if !defined(__cplusplus) && FLT_EVAL_METHOD != 0
#error "fastattn: float arithmetic has another precision than float: use SSE2, not the 387"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* One number for every constant that decides bits (key block, chunks, lanes, polynomial coefficients). What each changed
 * is told by numerics_changes() in fastattn/cpu.py. */
#define FA_NUMERICS_VERSION 3

#define FA_LANES 16       /* lanes of the virtual vector */
#define FA_KEY_BLOCK 48   /* keys per step of the online softmax */
#define FA_KV_CHUNK 960   /* keys that share one running softmax before a merge; a multiple of FA_KEY_BLOCK */
#define FA_K_CHUNK 384    /* inputs of a linear layer that share one running sum */
#define FA_MAX_HEAD_DIM 4096
#define FA_MAX_CONV 64 /* rows that a short convolution reads */
#define FA_ALIGN 64

typedef enum fa_status {
    FA_OK = 0,
    FA_ERR_SHAPE = 1,     /* shapes of two arguments disagree, or a size is out of range */
    FA_ERR_DTYPE = 2,     /* an argument has a dtype this op does not take */
    FA_ERR_VALUE = 3,     /* a parameter or an element of an index array is out of range */
    FA_ERR_STRIDE = 4,    /* the last stride is not one element */
    FA_ERR_WORKSPACE = 5, /* workspace missing, misaligned or too small */
    FA_ERR_MEMORY = 6,    /* the sizes asked for cannot be represented */
    FA_STOPPED = 7,       /* ctx->stop asked for it, or the process was forked meanwhile; outputs are undefined */
    FA_ERR_NAN = 8,       /* fa_sample: a row of logits holds NaN or +inf */
    FA_ERR_EMPTY = 9      /* fa_sample: no token of a row is allowed */
} fa_status;

const char *fa_status_text(fa_status status);

typedef enum fa_dtype { FA_NONE = 0, FA_F32 = 1, FA_F16 = 2, FA_BF16 = 3, FA_I8 = 4, FA_BOOL = 5, FA_I32 = 6, FA_I64 = 7,
               FA_QUANT = 8 /* weights of linear layers alone: blocks of small integers */ } fa_dtype;

/* A borrowed array. Strides are in bytes and may be zero (broadcast) or negative, but for the last one. */
typedef struct fa_view {
    void *data;
    int64_t shape[4];
    int64_t stride[4];
    int32_t ndim;
    int32_t dtype; /* fa_dtype */
} fa_view;

typedef struct fa_kernels fa_kernels; /* kernels/kernels.h */

/* How a call is ended early. It lives until the call has returned; all zeros: never. */
typedef struct fa_stop {
    int64_t deadline;         /* nanoseconds of CLOCK_MONOTONIC, 0: none */
    int (*look)(void *arg);   /* NULL, or called in the thread of the call, between tasks, FA_LOOK_NS after the beginning and
                               * after the last look; not 0: stop */
    void *arg;
    int64_t next_look;        /* 0 at the beginning */
    int32_t asked;            /* any thread may store 1 here, atomically: no further task begins */
} fa_stop;

#define FA_LOOK_NS ((int64_t)50000000)

typedef struct fa_ctx {
    const fa_kernels *kernels;
    int32_t num_threads; /* the most threads this call may use; at least 1 */
    int32_t force;       /* tests: enum fa_force, 0 = choose */
    int32_t small;       /* set by ops: so little work that nobody is woken for it; who is awake may join */
    fa_stop *stop;       /* NULL: the call runs to its end */
} fa_ctx;

enum fa_force { FA_FORCE_NONE = 0, FA_FORCE_TILE = 1, FA_FORCE_DECODE = 2 };

/* ---- instruction sets ------------------------------------------------------------------------------------------ */

/* Order of preference, best last. Compiled in and supported by this CPU and OS are two questions. */
int fa_isa_count(void);
const char *fa_isa_name(int index);
int fa_isa_supported(int index);
const fa_kernels *fa_kernels_for(int index);

/* ---- threads (ops/parallel.c) ---------------------------------------------------------------------------------- */

int fa_openmp_version(void);            /* value of _OPENMP, 0 where it is not built in */
int fa_omp_max_threads(void);           /* omp_get_max_threads() of the calling thread; without OpenMP what OMP_NUM_THREADS
                                         * says, else no limit */
int fa_omp_places(int32_t *cpus, int most); /* where OpenMP binds threads (OMP_PROC_BIND, OMP_PLACES): how many CPUs its places
                                             * have, and up to `most` of them; 0: it does not */
void fa_set_thread_limit(int limit);    /* process-wide count of threads inside calls; callers share it */
int fa_threads_in_use(void);
int fa_threads_granted(int forget);     /* the largest team of the calling thread's calls since it last forgot; 0: none */
int fa_crew_size(void);                 /* threads of our own there are, beside those that call */

/* Who helps callers: threads of our own, or OpenMP's (0: not built in). The thread a child starts with after fork() has
 * the crew in any case. */
typedef enum fa_team { FA_TEAM_CREW = 0, FA_TEAM_OPENMP = 1 } fa_team;
int fa_select_team(fa_team team);

/* Calls of this thread until fa_team_end share one team of at most ctx->num_threads, which is taken once: for many small
 * operators one behind the other. Pairs may nest; the outermost counts. */
void fa_team_begin(const fa_ctx *ctx);
void fa_team_end(void);

int fa_runtime_init(void);              /* registers the fork handlers once; 0 or an errno */

/* ---- attention ------------------------------------------------------------------------------------------------- */

typedef enum fa_score_stage {
    FA_SCORES_NONE = 0,
    FA_SCORES_QK = 1,      /* scale * q k, for every key that exists */
    FA_SCORES_SOFTCAP = 2, /* the same after softcap */
    FA_SCORES_BIAS = 3     /* what the softmax sees: with biases and masks, -inf for excluded keys */
} fa_score_stage;

/* Which keys a query sees: those that exist (kv_lengths), are allowed by causal, by the window or by being among the
 * first `sink_tokens`, by mask and by block_mask. Scores are formed in the order scale, softcap, bias, ALiBi, mask. */
typedef struct fa_attention_params {
    float scale;
    float softcap;           /* 0: none */
    int32_t causal;          /* 1: query at position p sees keys j <= p */
    int32_t score_stage;     /* fa_score_stage of `scores` */
    int64_t window_left;     /* p - left <= j, -1: unbounded */
    int64_t window_right;    /* j <= p + right, -1: unbounded */
    int64_t sink_tokens;     /* keys j < sink_tokens are seen whatever window_left says */
    const int64_t *q_offset; /* [B] position of each row's first query among its keys, NULL: 0 */
    const int64_t *kv_lengths; /* [B] number of keys that exist, NULL: Sk */
    const int64_t *cu_q;     /* [B+1] packed form: q, out, lse are (1, Hq, Tq, D), rows cu_q[b]..cu_q[b+1]; NULL: dense */
    const int64_t *cu_k;     /* [B+1]; NULL with pages, which need kv_lengths */
    int64_t n_seq;           /* B of the packed form */
    const fa_view *mask;     /* (B, Hq, Sq, Sk) by strides, FA_BOOL (1 = attend) or FA_F32 (added), or NULL; dense only */
    const fa_view *block_mask; /* (B, Hq, rows of blocks, columns of blocks) FA_BOOL by strides, or NULL */
    int64_t block_rows, block_cols; /* queries and keys of a block, counted from the first of the sequence */
    const fa_view *alibi;    /* (B, Hq) fp32 slopes by strides, or NULL: adds -slope * |p - j| */
    const fa_view *sinks;    /* (Hq,) fp32 logits that take part in the softmax and carry no value, or NULL */
    const fa_view *bias;     /* (Hq, 2 R + 1) fp32, or NULL: adds bias[h][clip(j - p, -R, R) + R] */
    const fa_view *k_scale;  /* (B, Hkv, Sk) fp32 by strides, required with FA_I8 k: multiplies the products of a key */
    const fa_view *v_scale;  /* the same for v: multiplies the probabilities */
    const fa_view *scores;   /* (B, Hq, Sq, Sk) fp32 out, or NULL; -inf for keys beyond kv_lengths */
    const fa_view *page_table; /* (B, n) FA_I64 by strides, or NULL. k, v are (pages, Hkv, page_size, D), scales alike, and key
                                * j of sequence b lies in row j % page_size of page page_table[b][j / page_size] */
    int64_t ring_first, ring_size; /* ring_size > 0: key j lies in row j < ring_first ? j : ring_first + (j - ring_first) % ring_size
                                    * of k and v; both multiples of 16. Keys that were overwritten must not be seen: the caller's window */
    const int64_t *positions; /* [Tk] of the packed form where cu_q and cu_k are the same, or NULL: where each token stands, within
                               * 2^46 of 0, ascending strictly in a sequence. Causality, windows and bias then go by these in place
                               * of j and p; blocks, scores and weights by index as ever. Without q_offset, sink_tokens, alibi */
    int32_t integers;         /* 1: by products of integers (kernels/attention_int8.h). k and v are int8 as fa_kv_store has stored
                               * them with FA_STORE_KEYS and FA_STORE_VALUES; or fp32, in rows, rounded here */
    int64_t chunk;            /* > 0: a query sees keys of its own chunk alone, of so many positions from the sequence's first on.
                               * Without sink_tokens */
} fa_attention_params;

/* q (B, Hq, Sq, D), k (B, Hkv, Sk, D), v (B, Hkv, Sk, Dv) -> out (B, Hq, Sq, Dv); lse (B, Hq, Sq) fp32 and weights
 * (B, Hq, Sq, Sk) fp32 where not NULL. q and out fp32, fp16 or bf16, the same; k and v fp32, fp16, bf16 or int8, the
 * same. Hq is a multiple of Hkv. */
fa_status fa_attention_workspace(const fa_ctx *ctx, const fa_view *out, const fa_view *lse, const fa_view *weights,
                                 const fa_view *q, const fa_view *k, const fa_view *v,
                                 const fa_attention_params *params, size_t *bytes);
fa_status fa_attention(const fa_ctx *ctx, const fa_view *out, const fa_view *lse, const fa_view *weights,
                       const fa_view *q, const fa_view *k, const fa_view *v, const fa_attention_params *params,
                       void *ws, size_t ws_bytes);

/* ---- linear layers --------------------------------------------------------------------------------------------- */

typedef enum fa_activation {
    FA_ACT_NONE = 0, FA_ACT_RELU = 1, FA_ACT_GELU = 2, FA_ACT_GELU_TANH = 3, FA_ACT_SILU = 4, FA_ACT_TANH = 5, FA_ACT_SIGMOID = 6
} fa_activation;

/* How files of llama.cpp (GGUF) keep rows of weights: blocks of 32 or 256 elements, under the numbers they have there. */
typedef enum fa_block_type {
    FA_Q4_0 = 2, FA_Q4_1 = 3, FA_Q5_0 = 6, FA_Q5_1 = 7, FA_Q8_0 = 8, FA_Q2_K = 10, FA_Q3_K = 11, FA_Q4_K = 12, FA_Q5_K = 13,
    FA_Q6_K = 14, FA_IQ4_NL = 20, FA_IQ4_XS = 23, FA_MXFP4 = 39
} fa_block_type;

/* Outputs of a layer whose weights are blocks of one type, all but FA_Q2_K and FA_Q3_K, in panels of 16 outputs
 * (kernels/linear_quant.h): codes 64-byte aligned, scales at even addresses. */
typedef struct fa_quant_part {
    int32_t type;    /* fa_block_type */
    int64_t outputs; /* a multiple of 16 in all parts but the last one */
    uint8_t *codes, *scales; /* written by fa_quant_pack alone */
} fa_quant_part;

#define FA_QUANT_PARTS 4

/* Packed weights, the same bytes on every ISA, 64-byte aligned, zero beyond N:
 *   FA_F32, FA_F16, FA_BF16   panels [ceil(N/16)][K][16]; scale and sums NULL
 *   FA_I8                     panels [ceil(N/16)][ceil(K/4)][16][4]; scale and sums [16 * ceil(N/16)], one for each output
 *                             (kernels/linear_int8.h)
 *   FA_QUANT                  parts, one behind the other; all else NULL. Inputs are rounded to `planes` planes of int8
 * K is at most 2^17 with FA_I8. An output whose weights hold NaN or infinity has a scale of NaN, and is NaN. */
typedef struct fa_linear_weights {
    int32_t dtype;
    void *panels; /* written by fa_linear_pack alone */
    float *scale;
    int32_t *sums;
    int32_t planes, n_parts; /* 2 or 1; 1 to FA_QUANT_PARTS */
    fa_quant_part parts[FA_QUANT_PARTS];
} fa_linear_weights;

/* Bytes of the panels; not with FA_QUANT. */
fa_status fa_linear_packed_bytes(int32_t dtype, int64_t n, int64_t k, size_t *bytes);
fa_status fa_linear_pack(const fa_ctx *ctx, const fa_linear_weights *packed, const fa_view *weight /* (N, K) fp32 */);
/* Of one panel of a part: of its codes and of its scales. FA_ERR_VALUE: a type that no panels are made of; FA_ERR_SHAPE: K is no
 * multiple of the elements of a block of 256. Of those of 32 the last one may hold less: its other elements are multiplied by 0. */
fa_status fa_quant_panel_bytes(int32_t type, int64_t k, int64_t *codes, int64_t *scales);
/* blocks (part->outputs, bytes of a row of K) FA_BOOL, any row stride -> the part. FA_ERR_NAN: the scale of a block is NaN or
 * infinite, *row says in which row first; nothing is promised then. */
fa_status fa_quant_pack(const fa_ctx *ctx, const fa_quant_part *part, const fa_view *blocks, int64_t k, int64_t *row);
/* blocks (N, 20 * ceil(K / 32)) FA_BOOL without gaps = weight (N, K) fp32 as blocks of FA_Q4_1, so that little is lost.
 * FA_ERR_NAN: a weight is NaN, infinite or beyond 65504, *row says in which row first. */
fa_status fa_quant_int4(const fa_ctx *ctx, const fa_view *blocks, const fa_view *weight, int64_t *row);
/* out (rows, K) fp32 = weights of outputs first, first + 1, ... of a part, what fa_dequantize made of the blocks. */
fa_status fa_quant_unpack(const fa_ctx *ctx, const fa_view *out, const fa_quant_part *part, int64_t first);
/* out (T, K) fp32 = weights of outputs ids[t] of a layer of n, FA_QUANT: a table of words that is a layer too. An id out of
 * range: FA_ERR_VALUE, nothing written. */
fa_status fa_quant_rows(const fa_ctx *ctx, const fa_view *out, const fa_linear_weights *packed, int64_t n, const fa_view *ids);
fa_status fa_linear_workspace(const fa_ctx *ctx, const fa_view *out, const fa_view *x, int32_t dtype, size_t *bytes);
/* x (M, K), out (M, N), bias (N,) or NULL. */
fa_status fa_linear(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_linear_weights *packed, const fa_view *bias,
                    fa_activation act, void *ws, size_t ws_bytes);

/* ---- row-wise ops: x and out are (M, H) fp32, no workspace ------------------------------------------------------- */

/* (x + residual - mean) / sqrt(var + eps) * weight + bias; residual and bias may be NULL. out may be x or residual. */
fa_status fa_layer_norm(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *residual,
                        const fa_view *weight, const fa_view *bias, float eps);
/* (x + residual) / sqrt(mean(square) + eps) * weight */
fa_status fa_rms_norm(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *residual,
                      const fa_view *weight, float eps);
/* The same in each of `groups` groups of columns, with one weight (H / groups,): queries and keys by head. */
fa_status fa_rms_norm_groups(const fa_ctx *ctx, const fa_view *out, const fa_view *x, int64_t groups, const fa_view *weight,
                             float eps);
fa_status fa_softmax(const fa_ctx *ctx, const fa_view *out, const fa_view *x);
fa_status fa_activate(const fa_ctx *ctx, const fa_view *out, const fa_view *x, fa_activation act);
/* act(x) * gate, elementwise; both are (M, H). out may be x or gate. */
fa_status fa_gated(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *gate, fa_activation act);
/* x * factor, elementwise; out may be x. */
fa_status fa_scale(const fa_ctx *ctx, const fa_view *out, const fa_view *x, float factor);
/* x, no further from 0 than `most`, which is no NaN and not below 0. */
fa_status fa_clamp(const fa_ctx *ctx, const fa_view *out, const fa_view *x, float most);
/* x + y, elementwise; out may be either. */
fa_status fa_add(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *y);
/* out[t] = tables[0][ids[0][t]] + tables[1][ids[1][t]] + ..., left to right; ids outside a table: FA_ERR_VALUE, nothing read. */
fa_status fa_embedding(const fa_ctx *ctx, const fa_view *out, int32_t n_tables, const fa_view *tables, const fa_view *ids);
/* Rows side by side: x (T, W), index (M, n) int64 -> out (M, n * W), whose row i is rows index[i][0..n-1] of x; -1 stands for
 * zeros. Any other index outside x: FA_ERR_VALUE, nothing written. */
fa_status fa_gather(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *index);

typedef enum fa_pool_mode {
    FA_POOL_MEAN = 0,
    FA_POOL_CLS = 1,
    FA_POOL_MAX = 2,
    FA_POOL_LAST = 3,
    FA_POOL_MEAN_SQRT_LEN = 4, /* sum / sqrt(rows) */
    FA_POOL_WEIGHTED_MEAN = 5  /* row i of its sequence, counted from 1, has weight i */
} fa_pool_mode;
/*
 * x (T, H), cu (n+1,) int64 -> out (n, H). The first `skip` rows of each sequence take no part, but are counted by
 * FA_POOL_WEIGHTED_MEAN. A sequence without rows gives zeros.
 */
fa_status fa_pool(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *cu, fa_pool_mode mode, int64_t skip);
/* x / max(|x|, eps) by rows */
fa_status fa_l2_normalize(const fa_ctx *ctx, const fa_view *out, const fa_view *x, float eps);

/* Disentangled attention's bias by relative position: out (H, Sq, Sk) = (c2p[h][i][t] + p2c[h][j][t]) * scale with
 * t = columns[q_positions[i] - k_positions[j] + columns' length / 2]. c2p (H, Sq, N) and p2c (H, Sk, N) fp32, either may be
 * NULL; positions (Sq,), (Sk,) int64 of at least 0; columns int32, an odd number of them. A distance that columns does not
 * reach, or a column outside N: FA_ERR_VALUE, nothing written. */
fa_status fa_disentangled_bias(const fa_ctx *ctx, const fa_view *out, const fa_view *c2p, const fa_view *p2c,
                               const fa_view *q_positions, const fa_view *k_positions, const fa_view *columns, float scale);

/* The column of each distance -R..R among 2 * span relative embeddings -> columns (2 R + 1,) int32. max_distance 0: d + span,
 * within 0 and 2 * span - 1. Else distances up to m = span / 2 (rounded down) have columns of their own, and d > m that of
 * m + ceil(log(d / m) / log((max_distance - 1) / m) * (m - 1)), exactly. span from 1, with max_distance from 2 to 2048, and
 * max_distance from span / 2 + 2 to 2^24, or FA_ERR_VALUE. */
fa_status fa_distance_columns(const fa_view *columns, int64_t span, int64_t max_distance);

typedef struct fa_disentangled_params {
    float scale;
    int64_t n_seq;
    const int64_t *cu;        /* [n_seq + 1] rows of sequence b: cu[b]..cu[b+1] */
    const int64_t *positions; /* [T] from 0 up, ascending within a sequence: distances are differences of them */
    int64_t span;
    int64_t max_distance;     /* both as fa_distance_columns takes them */
    const float *c2p;         /* position keys: for each head ceil(2 * span / 16) panels [D][16], 64-byte aligned, or NULL */
    const float *p2c;         /* position queries likewise; not both NULL */
    const fa_view *weights;   /* NULL, or (1, H, T, at least the most tokens of a sequence) fp32 that gets what fa_attention gives */
} fa_disentangled_params;

/* Disentangled attention of packed sequences, each to itself: q, k, v, out (1, H, T, D) fp32. The bits of fa_linear of each
 * head with its panels, fa_disentangled_bias, and fa_attention with that bias for a mask. Rows of no sequence are not touched. */
fa_status fa_disentangled_attention_workspace(const fa_ctx *ctx, const fa_view *out, const fa_view *q, const fa_view *k,
                                              const fa_view *v, const fa_disentangled_params *params, size_t *bytes);
fa_status fa_disentangled_attention(const fa_ctx *ctx, const fa_view *out, const fa_view *q, const fa_view *k, const fa_view *v,
                                    const fa_disentangled_params *params, void *ws, size_t ws_bytes);

/* ---- vectors: similarity, the best of many, quantisation ----------------------------------------------------------- */

typedef enum fa_metric {
    FA_METRIC_DOT = 0,
    FA_METRIC_COSINE = 1,
    FA_METRIC_EUCLIDEAN = 2, /* of both distances the negative: higher is more similar */
    FA_METRIC_MANHATTAN = 3
} fa_metric;

/* a (N, D), b (M, D), each fp32, fp16 or bf16 -> out (N, M) fp32. A score depends on its two rows alone, in no order of the
 * two (kernels/similarity.h). */
fa_status fa_similarity_workspace(const fa_ctx *ctx, const fa_view *out, const fa_view *a, const fa_view *b, fa_metric metric,
                                  size_t *bytes);
fa_status fa_similarity(const fa_ctx *ctx, const fa_view *out, const fa_view *a, const fa_view *b, fa_metric metric, void *ws,
                        size_t ws_bytes);

/* Columns first, first + 1, ... of a matrix are scores (N, M): best (N, K) fp32 and index (N, K) int64 take the best of all
 * columns so far, of which the first min(first, K) hold the best before this call, K at least 1. The columns come in order,
 * first = 0 first. Higher is better, NaN is worst, the lower column wins a tie. In between a row is a heap; with `last` it is
 * sorted, the best first. What lies beyond the columns seen is not touched. */
fa_status fa_top_k(const fa_ctx *ctx, const fa_view *best, const fa_view *index, const fa_view *scores, int64_t first, int32_t last);

/* x (N, D), ranges (2, D) fp32, smallest and largest of each dimension -> out (N, D) int8: floor((x - least) / step) with
 * step = (most - least) / 255, or 1 where that is 0, within 0..255; minus 128 or, with `plain`, as unsigned bytes. NaN counts
 * as below the range. */
fa_status fa_quantize_ranges(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *ranges, int32_t plain);

#include "draw.h" /* drawing tokens (ops/sample.c) */

/* ---- storage types, rotary embedding, caches ------------------------------------------------------------------------
 *
 * x, out, src and dst are fp32, fp16 or bf16 of rank 4. Rounding is to nearest, ties to even; NaN is stored as the one
 * pattern of its type. Positions and slots are (B, S) int64. */

/* out = x in out's dtype. They may be the same array of one dtype. */
fa_status fa_convert(const fa_ctx *ctx, const fa_view *out, const fa_view *x);

/* Elements and bytes of one block; FA_ERR_VALUE for a number that is none of them. */
fa_status fa_block_size(int32_t type, int64_t *elements, int64_t *bytes);
/* out (N, K) fp32 with any row stride = the N rows of blocks that lie one behind the other at `blocks`, at any address. K is
 * a multiple of the elements of a block and `bytes` what the rows take, or FA_ERR_SHAPE. */
fa_status fa_dequantize(const fa_ctx *ctx, const fa_view *out, int32_t type, const void *blocks, int64_t bytes);

/* x (B, H, S, D) -> out of its dtype, which may be x. The first R = 2 * half dims are rotated, pairs (i, i + half), or
 * (2 i, 2 i + 1) where interleaved; the rest is copied. cos, sin fp32: (P, half), rows picked by positions, or
 * (B, S, half) where positions is NULL. A position outside P: FA_ERR_VALUE, nothing written. */
fa_status fa_rope(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *cos, const fa_view *sin,
                  const fa_view *positions, int32_t interleaved);

/* cos, sin (n, half) fp32 = factor * cos and sin of positions[i] * frequency j. A frequency is in turns (1 / (2 pi) is
 * one radian) modulo 1, within [-1/2, 1/2], as the sum of four doubles of which each of the first three has at most 26
 * significant bits: turns [half][4]. Positions (n,) int64 within +-2^52; anything else: FA_ERR_VALUE. Correctly rounded but
 * for ties closer than 1e-15 relative. */
fa_status fa_rope_table(const fa_ctx *ctx, const fa_view *cos, const fa_view *sin, const fa_view *positions,
                        const double *turns, double factor);

/* Row (b, h, s) of src (B, H, S, D) goes to row h of slot slots[b][s] of dst (N, H, P, D); slot = n * P + p, -1 leaves a
 * row out. dst may also be int8: then scale (N, H, P) fp32 gets max|x| / 127 of each row (NaN, and zeros, where a row holds
 * NaN or infinity); `form` says whether they are rounded for attention by integers, which reads them alone. cos, sin
 * (positions, R / 2), positions: rotated as by fa_rope in fp32 first, or all NULL. Two rows with one slot, or a slot or
 * position out of range: FA_ERR_VALUE, nothing written. */
typedef enum fa_store_form { FA_STORE_ROWS = 0, FA_STORE_KEYS = 1, FA_STORE_VALUES = 2 } fa_store_form;
fa_status fa_kv_store_workspace(const fa_view *slots, size_t *bytes);
fa_status fa_kv_store(const fa_ctx *ctx, const fa_view *dst, const fa_view *scale, const fa_view *src, const fa_view *slots,
                      const fa_view *cos, const fa_view *sin, const fa_view *positions, int32_t interleaved,
                      fa_store_form form, void *ws, size_t ws_bytes);

/* Attention results over disjoint sets of keys become the one over all of them: outs[i] (.., .., rows, D) of out's dtype and
 * lses[i] fp32 of its first three dimensions, i < n, n >= 1. A side with lse = -inf is not read; a row without any gives
 * zeros and -inf. */
fa_status fa_merge_attention_workspace(const fa_ctx *ctx, int64_t n, size_t *bytes);
fa_status fa_merge_attention(const fa_ctx *ctx, const fa_view *out, const fa_view *lse, int64_t n, const fa_view *outs,
                   const fa_view *lses, void *ws, size_t ws_bytes);

#include "experts.h" /* feed-forward layers of which each row takes a few: fa_route, fa_experts */
#include "states.h"  /* states in place of keys: fa_linear_attention, fa_short_conv, and what makes their gates */

/* ---- programs (ops/program.c) ------------------------------------------------------------------------------------
 *
 * The operators of a model one behind the other, run in one call. A value is columns of a table that has a row for each
 * row of its kind (tokens, sequences, ...): how many rows there are is known when a batch comes, everything else when the
 * program is made. A step is a call of the operator of its name, with its bits.
 *
 *   fa_program_check   once, when it is made: every value lies where it may, every step fits its values
 *   fa_program_space   bytes of workspace for a batch: all tables, and what the steps work in
 *   fa_program_run     the steps, by one team of threads; ctx->stop is looked at between steps and within them
 */
#define FA_ROW_KINDS 8
#define FA_STEP_INDICES 5
#define FA_STEP_TABLES 4

typedef struct fa_value {
    int32_t rows;  /* kind */
    int32_t array; /* of the batch, fp32 (rows, stride); -1: memory of the program */
    int64_t at;    /* there: columns of the tables before this one, a multiple of 16 */
    int64_t stride;       /* columns of the table */
    int64_t first, width; /* those of the value; width 0: no value */
} fa_value;

/* What an array of every batch is. */
typedef struct fa_array {
    int32_t dtype;    /* fa_dtype */
    int32_t ndim;     /* 1 or 2; 4 for attention weights, of which the step looks at the shape itself */
    int32_t rows;     /* kind its first dimension counts, -1: any number */
    int32_t more;     /* entries beyond the rows: 1 for ends of sequences */
    int32_t optional; /* a batch may leave it out (ndim 0) */
    int64_t width;    /* second dimension, -1: any */
} fa_array;

typedef enum fa_step_kind {
    FA_STEP_EMBED = 0,      /* out = sum of rows of tables: arrays index[i] */
    FA_STEP_LINEAR = 1,     /* out = act(x W^T + bias) */
    FA_STEP_LAYER_NORM = 2, /* out = norm(x + y); out may be x or y */
    FA_STEP_RMS_NORM = 3,   /* the same, or without y in `heads` groups of columns */
    FA_STEP_ATTENTION = 4,  /* out = attention of q = x, k = y, v = z: index[0] ends, [1] positions or -1 (which a batch with memory
                             * may not have), [2] weights or -1 */
    FA_STEP_ROPE = 5,       /* x in place: index[0] cosines, [1] sines, [2] the row of both for each row of x; the first
                             * v_head_size columns of each head stay as they are */
    FA_STEP_GATED = 6,      /* out = act(x) * y; out may be x or y */
    FA_STEP_ADD = 7,        /* out = x + y; out may be either */
    FA_STEP_ACTIVATE = 8,   /* out = act(x); out may be x */
    FA_STEP_SCALE = 9,      /* out = x * scale; out may be x */
    FA_STEP_GATHER = 10,    /* out = rows index[0] of x side by side */
    FA_STEP_POOL = 11,      /* out = pool of x, by act (fa_pool_mode): index[0] ends, [1] -1 or one number: skip */
    FA_STEP_NORMALIZE = 12, /* out = x / max(|x|, eps); out may be x */
    FA_STEP_COPY = 13,      /* out = x */
    FA_STEP_DISENTANGLED = 14, /* as attention, by `disentangled`: index[0] ends, [1] positions, [2] weights */
    FA_STEP_CLAMP = 15,     /* out = x, no further from 0 than scale; out may be x */
    FA_STEP_JOIN = 16,      /* out = `heads` heads of head_size columns of x and v_head_size of y; x and y are as many heads,
                             * or one for all */
    FA_STEP_ROUTE = 17,     /* out = routes of logits x, by `route`, its bias in `bias` */
    FA_STEP_EXPERTS = 18,   /* out = experts of x by the routes y, by `experts`, biases in `bias` (up) and `weight` (down) */
    FA_STEP_SHORT_CONV = 20,   /* out = act(convolution of x by tables[0] + bias): index[0] ends */
    FA_STEP_LINEAR_ATTENTION = 21, /* out = linear attention of q = x, k = y, v = z, with `decay` a number for each of `heads` or for
                                * each of their rows, and `beta`: index[0] ends; `kv_heads` of q and of k */
    FA_STEP_SOFTPLUS = 22,     /* out = softplus(x + bias) within eps and scale, times weight, with act 1 -exp(weight); out may be x */
    FA_STEP_SCALE_HEADS = 23,  /* out = x * y of the head; out may be x */
    FA_STEP_COLUMNS = 24       /* out = x * weight, or x + y * weight; out may be x or y */
} fa_step_kind;

typedef struct fa_step {
    int32_t kind;
    int32_t act;         /* fa_activation, fa_pool_mode; of rope: interleaved */
    fa_value out, x, y, z;
    int32_t index[FA_STEP_INDICES]; /* arrays of the batch, -1: none */
    int32_t n_tables;
    fa_view tables[FA_STEP_TABLES]; /* of embed: (rows, width) fp32 */
    const fa_linear_weights *weights; /* of embed: in place of tables, FA_QUANT */
    int64_t rows;        /* of embed by weights: how many there are */
    fa_view weight, bias; /* of norms and of linear; ndim 0: none. Of attention: bias (heads, 2 R + 1) by distance */
    fa_view alibi, sinks; /* of attention, (heads,): slopes, logits without a value; ndim 0: none */
    float eps, scale;
    int64_t heads, kv_heads, head_size, v_head_size;
    fa_attention_params attention; /* scale, softcap, causal, windows, sink_tokens, chunk alone */
    fa_disentangled_params disentangled; /* scale, span, max_distance, c2p, p2c alone */
    fa_route_params route;         /* but for bias */
    fa_experts_params experts;     /* but for biases */
    int32_t layer, group;          /* of attention: where batches with memory keep its keys; -1: nowhere */
    fa_value decay, beta;          /* of linear attention; width 0: a rule without */
    int32_t state;                 /* of convolutions and linear attention: which of the batch's states */
    int64_t like;                  /* set by fa_program_check: a step that wants as much workspace */
} fa_step;

typedef struct fa_program {
    fa_step *steps;
    int64_t n_steps;
    const fa_array *arrays;
    int32_t n_arrays;
    int32_t n_layers, n_groups;     /* of memory */
    int32_t n_states;
    int64_t columns[FA_ROW_KINDS];  /* of all tables of a kind */
} fa_program;

/* What sequences keep between batches: k, v (pages, Hkv, page_size, D), scales (pages, Hkv, page_size) with int8, else ndim 0. */
typedef struct fa_memory_layer {
    fa_view k, v, k_scale, v_scale;
} fa_memory_layer;

/* Where the rows of a batch go, and what its sequences hold: the same for all layers of a group. */
typedef struct fa_memory_group {
    fa_view slots;             /* (1, rows) of fa_kv_store */
    fa_view page_table;        /* (sequences, n) of fa_attention_params */
    const int64_t *kv_lengths; /* [sequences], with the rows of this batch */
    const int64_t *q_offset;   /* [sequences] */
} fa_memory_group;

typedef struct fa_batch {
    int64_t rows[FA_ROW_KINDS];
    const fa_view *arrays;
    int32_t n_arrays;
    int32_t n_layers, n_groups;
    const fa_memory_layer *layers; /* NULL: every sequence is whole within the batch */
    const fa_memory_group *groups;
    int32_t n_states;
    const fa_view *states;         /* (slots, width) fp32 of each step with a state; NULL: every sequence is whole */
    const int64_t *state_from, *state_to; /* [sequences]: the slot a sequence's states are in, -1 where it begins; and go to,
                                    * each another, which may be where they are. What a stopped run left there is undefined */
} fa_batch;

/* *bad gets the number of the step that does not fit. */
fa_status fa_program_check(const fa_program *program, int64_t *bad);
fa_status fa_program_space(const fa_ctx *ctx, const fa_program *program, const fa_batch *batch, size_t *bytes);
/* *bad gets the step that returned another status than FA_OK, -1 for the batch itself. */
fa_status fa_program_run(const fa_ctx *ctx, const fa_program *program, const fa_batch *batch, void *ws, size_t ws_bytes, int64_t *bad);

/* ---- the machine's limits, for benchmarks ------------------------------------------------------------------------ */

/* Runs `iterations` rounds of independent FMAs on each of ctx->num_threads threads; *flops gets the operations done. */
fa_status fa_probe_fma(const fa_ctx *ctx, int64_t iterations, double *flops);
/* The same with the exact int8 products of the ISA, a multiplication and an addition each. */
fa_status fa_probe_int8(const fa_ctx *ctx, int64_t iterations, double *ops);
/* Reads `bytes` at data once with prefetch, split over the threads. */
fa_status fa_probe_read(const fa_ctx *ctx, const void *data, size_t bytes, float *sink);

#ifdef __cplusplus
}
#endif

#endif
