# SPDX-License-Identifier: MIT
# Mirror of src_c/fastattn.h, line for line; then what the extensions need of cpu.h.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stddef cimport size_t


cdef extern from "fastattn.h" nogil:
    int FA_NUMERICS_VERSION
    int FA_LANES
    int FA_KEY_BLOCK
    int FA_KV_CHUNK
    int FA_K_CHUNK
    int FA_MAX_HEAD_DIM
    int FA_ALIGN

    ctypedef enum fa_status:
        FA_OK
        FA_ERR_SHAPE
        FA_ERR_DTYPE
        FA_ERR_VALUE
        FA_ERR_STRIDE
        FA_ERR_WORKSPACE
        FA_ERR_MEMORY
        FA_STOPPED
        FA_ERR_NAN
        FA_ERR_EMPTY

    const char *fa_status_text(fa_status status)

    ctypedef enum fa_dtype:
        FA_NONE
        FA_F32
        FA_F16
        FA_BF16
        FA_I8
        FA_BOOL
        FA_I32
        FA_I64
        FA_QUANT

    ctypedef struct fa_view:
        void *data
        int64_t shape[4]
        int64_t stride[4]
        int32_t ndim
        int32_t dtype

    ctypedef struct fa_kernels:
        pass

    ctypedef struct fa_stop:
        int64_t deadline
        int (*look)(void *arg) noexcept nogil
        void *arg
        int64_t next_look
        int32_t asked

    ctypedef struct fa_ctx:
        const fa_kernels *kernels
        int32_t num_threads
        int32_t force
        int32_t small
        fa_stop *stop

    cdef enum fa_force:
        FA_FORCE_NONE
        FA_FORCE_TILE
        FA_FORCE_DECODE

    int fa_isa_count()
    const char *fa_isa_name(int index)
    int fa_isa_supported(int index)
    const fa_kernels *fa_kernels_for(int index)

    int fa_openmp_version()
    int fa_omp_max_threads()
    int fa_omp_places(int32_t *cpus, int most)
    void fa_set_thread_limit(int limit)
    int fa_threads_in_use()
    int fa_threads_granted(int forget)
    int fa_crew_size()

    ctypedef enum fa_team:
        FA_TEAM_CREW
        FA_TEAM_OPENMP

    int fa_select_team(fa_team team)
    void fa_team_begin(const fa_ctx *ctx)
    void fa_team_end()
    int fa_runtime_init()

    ctypedef enum fa_score_stage:
        FA_SCORES_NONE
        FA_SCORES_QK
        FA_SCORES_SOFTCAP
        FA_SCORES_BIAS

    ctypedef struct fa_attention_params:
        float scale
        float softcap
        int32_t causal
        int32_t score_stage
        int64_t window_left
        int64_t window_right
        int64_t sink_tokens
        const int64_t *q_offset
        const int64_t *kv_lengths
        const int64_t *cu_q
        const int64_t *cu_k
        int64_t n_seq
        const fa_view *mask
        const fa_view *block_mask
        int64_t block_rows
        int64_t block_cols
        const fa_view *alibi
        const fa_view *sinks
        const fa_view *bias
        const fa_view *k_scale
        const fa_view *v_scale
        const fa_view *scores
        const fa_view *page_table
        int64_t ring_first
        int64_t ring_size
        const int64_t *positions
        int32_t integers
        int64_t chunk

    fa_status fa_attention_workspace(const fa_ctx *ctx, const fa_view *out, const fa_view *lse, const fa_view *weights,
                                     const fa_view *q, const fa_view *k, const fa_view *v,
                                     const fa_attention_params *params, size_t *bytes)
    fa_status fa_attention(const fa_ctx *ctx, const fa_view *out, const fa_view *lse, const fa_view *weights,
                           const fa_view *q, const fa_view *k, const fa_view *v, const fa_attention_params *params,
                           void *ws, size_t ws_bytes)

    ctypedef enum fa_recurrence:
        FA_RULE_LINEAR
        FA_RULE_GATED
        FA_RULE_DELTA
        FA_RULE_GATED_DELTA

    ctypedef struct fa_linear_attention_params:
        float scale
        int32_t rule
        const fa_view *state
        const fa_view *decay
        const fa_view *beta
        const int64_t *cu
        int64_t n_seq
        const int64_t *from_ "from"
        const int64_t *to

    fa_status fa_linear_attention_workspace(const fa_ctx *ctx, const fa_view *out, const fa_view *state_out, const fa_view *q,
                                            const fa_view *k, const fa_view *v, const fa_linear_attention_params *params,
                                            size_t *bytes)
    fa_status fa_linear_attention(const fa_ctx *ctx, const fa_view *out, const fa_view *state_out, const fa_view *q, const fa_view *k,
                                  const fa_view *v, const fa_linear_attention_params *params, void *ws, size_t ws_bytes)

    ctypedef enum fa_activation:
        FA_ACT_NONE
        FA_ACT_RELU
        FA_ACT_GELU
        FA_ACT_GELU_TANH
        FA_ACT_SILU
        FA_ACT_TANH
        FA_ACT_SIGMOID

    ctypedef struct fa_quant_part:
        int32_t type
        int64_t outputs
        uint8_t *codes
        uint8_t *scales

    int FA_QUANT_PARTS

    ctypedef struct fa_linear_weights:
        int32_t dtype
        void *panels
        float *scale
        int32_t *sums
        int32_t planes
        int32_t n_parts
        fa_quant_part parts[4]

    fa_status fa_linear_packed_bytes(int32_t dtype, int64_t n, int64_t k, size_t *bytes)
    fa_status fa_linear_pack(const fa_ctx *ctx, const fa_linear_weights *packed, const fa_view *weight)
    fa_status fa_quant_panel_bytes(int32_t type, int64_t k, int64_t *codes, int64_t *scales)
    fa_status fa_quant_pack(const fa_ctx *ctx, const fa_quant_part *part, const fa_view *blocks, int64_t k, int64_t *row)
    fa_status fa_quant_int4(const fa_ctx *ctx, const fa_view *blocks, const fa_view *weight, int64_t *row)
    fa_status fa_quant_unpack(const fa_ctx *ctx, const fa_view *out, const fa_quant_part *part, int64_t first)
    fa_status fa_linear_workspace(const fa_ctx *ctx, const fa_view *out, const fa_view *x, int32_t dtype, size_t *bytes)
    fa_status fa_linear(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_linear_weights *packed, const fa_view *bias,
                        fa_activation act, void *ws, size_t ws_bytes)

    fa_status fa_layer_norm(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *residual,
                            const fa_view *weight, const fa_view *bias, float eps)
    fa_status fa_rms_norm(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *residual,
                          const fa_view *weight, float eps)
    fa_status fa_rms_norm_groups(const fa_ctx *ctx, const fa_view *out, const fa_view *x, int64_t groups, const fa_view *weight,
                                 float eps)
    fa_status fa_softmax(const fa_ctx *ctx, const fa_view *out, const fa_view *x)
    fa_status fa_activate(const fa_ctx *ctx, const fa_view *out, const fa_view *x, fa_activation act)
    fa_status fa_gated(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *gate, fa_activation act)
    fa_status fa_scale(const fa_ctx *ctx, const fa_view *out, const fa_view *x, float factor)
    fa_status fa_add(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *y)
    fa_status fa_embedding(const fa_ctx *ctx, const fa_view *out, int32_t n_tables, const fa_view *tables, const fa_view *ids)
    fa_status fa_gather(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *index)

    ctypedef enum fa_pool_mode:
        FA_POOL_MEAN
        FA_POOL_CLS
        FA_POOL_MAX
        FA_POOL_LAST
        FA_POOL_MEAN_SQRT_LEN
        FA_POOL_WEIGHTED_MEAN

    fa_status fa_pool(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *cu, fa_pool_mode mode,
                      int64_t skip)
    fa_status fa_l2_normalize(const fa_ctx *ctx, const fa_view *out, const fa_view *x, float eps)

    fa_status fa_disentangled_bias(const fa_ctx *ctx, const fa_view *out, const fa_view *c2p, const fa_view *p2c,
                                   const fa_view *q_positions, const fa_view *k_positions, const fa_view *columns, float scale)
    fa_status fa_distance_columns(const fa_view *columns, int64_t span, int64_t max_distance)

    ctypedef struct fa_disentangled_params:
        float scale
        int64_t n_seq
        const int64_t *cu
        const int64_t *positions
        int64_t span
        int64_t max_distance
        const float *c2p
        const float *p2c
        const fa_view *weights

    fa_status fa_disentangled_attention_workspace(const fa_ctx *ctx, const fa_view *out, const fa_view *q, const fa_view *k,
                                                  const fa_view *v, const fa_disentangled_params *params, size_t *bytes)
    fa_status fa_disentangled_attention(const fa_ctx *ctx, const fa_view *out, const fa_view *q, const fa_view *k,
                                        const fa_view *v, const fa_disentangled_params *params, void *ws, size_t ws_bytes)

    ctypedef enum fa_metric:
        FA_METRIC_DOT
        FA_METRIC_COSINE
        FA_METRIC_EUCLIDEAN
        FA_METRIC_MANHATTAN

    fa_status fa_similarity_workspace(const fa_ctx *ctx, const fa_view *out, const fa_view *a, const fa_view *b,
                                      fa_metric metric, size_t *bytes)
    fa_status fa_similarity(const fa_ctx *ctx, const fa_view *out, const fa_view *a, const fa_view *b, fa_metric metric,
                            void *ws, size_t ws_bytes)
    fa_status fa_top_k(const fa_ctx *ctx, const fa_view *best, const fa_view *index, const fa_view *scores, int64_t first,
                       int32_t last)
    fa_status fa_quantize_ranges(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *ranges,
                                 int32_t plain)

    ctypedef struct fa_dry:
        double multiplier
        double base
        int64_t allowed
        int64_t last
        const int64_t *heads
        const int64_t *ends
        const int64_t *tails
        int64_t n_heads
        int64_t n_tails

    ctypedef struct fa_mirostat:
        int32_t version
        double target
        double rate
        double *most

    ctypedef struct fa_draw:
        uint64_t seed
        uint32_t which
        uint32_t step
        double temperature
        int64_t top_k
        double top_p
        double min_p
        double typical_p
        double epsilon
        double eta
        double xtc_probability
        double xtc_threshold
        fa_mirostat mirostat
        double repetition
        double presence
        double frequency
        fa_dry dry
        const int64_t *tokens
        int64_t n_tokens
        int64_t prompt
        const int64_t *bias_ids
        const float *bias
        int64_t n_bias
        const int64_t *banned
        int64_t n_banned
        const uint32_t *allowed
        const int64_t *decay_ids
        int64_t n_decay
        int64_t decay_steps
        double decay
        int64_t given
        int32_t logprobs
        int32_t beam
        float score

    int64_t FA_SAMPLE_MOST

    fa_status fa_sample_workspace(const fa_ctx *ctx, const fa_view *logits, const fa_draw *draws, size_t *bytes)
    fa_status fa_sample(const fa_ctx *ctx, const fa_view *tokens, const fa_view *logprobs, const fa_view *top_ids,
                        const fa_view *top_logprobs, const fa_view *logits, const fa_draw *draws, void *ws,
                        size_t ws_bytes, int64_t *bad)

    fa_status fa_convert(const fa_ctx *ctx, const fa_view *out, const fa_view *x)
    fa_status fa_block_size(int32_t type, int64_t *elements, int64_t *bytes)
    fa_status fa_dequantize(const fa_ctx *ctx, const fa_view *out, int32_t type, const void *blocks, int64_t bytes)
    fa_status fa_rope(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *cos, const fa_view *sin,
                      const fa_view *positions, int32_t interleaved)
    fa_status fa_rope_table(const fa_ctx *ctx, const fa_view *cos, const fa_view *sin, const fa_view *positions,
                            const double *turns, double factor)
    ctypedef enum fa_store_form:
        FA_STORE_ROWS
        FA_STORE_KEYS
        FA_STORE_VALUES

    fa_status fa_kv_store_workspace(const fa_view *slots, size_t *bytes)
    fa_status fa_kv_store(const fa_ctx *ctx, const fa_view *dst, const fa_view *scale, const fa_view *src,
                          const fa_view *slots, const fa_view *cos, const fa_view *sin, const fa_view *positions,
                          int32_t interleaved, fa_store_form form, void *ws, size_t ws_bytes)
    fa_status fa_merge_attention_workspace(const fa_ctx *ctx, int64_t n, size_t *bytes)
    fa_status fa_merge_attention(const fa_ctx *ctx, const fa_view *out, const fa_view *lse, int64_t n, const fa_view *outs,
                       const fa_view *lses, void *ws, size_t ws_bytes)

    ctypedef enum fa_route_score:
        FA_ROUTE_SOFTMAX
        FA_ROUTE_CHOSEN
        FA_ROUTE_SIGMOID

    ctypedef struct fa_route_params:
        int64_t top
        int32_t score
        int32_t normalize
        float floor
        float scale
        int64_t groups
        int64_t top_groups
        int32_t group_sum
        const fa_view *bias

    fa_status fa_route_workspace(const fa_ctx *ctx, const fa_view *routes, const fa_view *logits, const fa_route_params *params,
                                 size_t *bytes)
    fa_status fa_route(const fa_ctx *ctx, const fa_view *routes, const fa_view *logits, const fa_route_params *params, void *ws,
                       size_t ws_bytes)

    ctypedef enum fa_experts_gate:
        FA_GATE_ACT
        FA_GATE_CLAMPED

    ctypedef struct fa_experts_params:
        int64_t count
        int64_t inner
        int64_t top
        int32_t gate
        int32_t act
        float alpha
        float limit
        int32_t before
        const fa_linear_weights *up
        const fa_linear_weights *down
        const fa_view *up_bias
        const fa_view *down_bias

    int64_t fa_expert_span(int64_t n) nogil
    fa_status fa_experts_workspace(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *routes,
                                   const fa_experts_params *params, size_t *bytes)
    fa_status fa_experts(const fa_ctx *ctx, const fa_view *out, const fa_view *x, const fa_view *routes,
                         const fa_experts_params *params, void *ws, size_t ws_bytes)

    int FA_ROW_KINDS
    int FA_STEP_INDICES
    int FA_STEP_TABLES

    ctypedef struct fa_value:
        int32_t rows
        int32_t array
        int64_t at
        int64_t stride
        int64_t first
        int64_t width

    ctypedef struct fa_array:
        int32_t dtype
        int32_t ndim
        int32_t rows
        int32_t more
        int32_t optional
        int64_t width

    ctypedef enum fa_step_kind:
        FA_STEP_EMBED
        FA_STEP_LINEAR
        FA_STEP_LAYER_NORM
        FA_STEP_RMS_NORM
        FA_STEP_ATTENTION
        FA_STEP_ROPE
        FA_STEP_GATED
        FA_STEP_ADD
        FA_STEP_ACTIVATE
        FA_STEP_SCALE
        FA_STEP_CLAMP
        FA_STEP_JOIN
        FA_STEP_GATHER
        FA_STEP_POOL
        FA_STEP_NORMALIZE
        FA_STEP_COPY
        FA_STEP_DISENTANGLED
        FA_STEP_ROUTE
        FA_STEP_EXPERTS
        FA_STEP_SHORT_CONV
        FA_STEP_LINEAR_ATTENTION
        FA_STEP_SOFTPLUS
        FA_STEP_SCALE_HEADS
        FA_STEP_COLUMNS

    ctypedef struct fa_step:
        int32_t kind
        int32_t act
        fa_value out
        fa_value x
        fa_value y
        fa_value z
        int32_t index[5]
        int32_t n_tables
        fa_view tables[4]
        const fa_linear_weights *weights
        int64_t rows
        fa_view weight
        fa_view bias
        fa_view alibi
        fa_view sinks
        float eps
        float scale
        int64_t heads
        int64_t kv_heads
        int64_t head_size
        int64_t v_head_size
        fa_attention_params attention
        fa_disentangled_params disentangled
        fa_route_params route
        fa_experts_params experts
        int32_t layer
        int32_t group
        fa_value decay
        fa_value beta
        int32_t state
        int64_t like

    ctypedef struct fa_program:
        fa_step *steps
        int64_t n_steps
        const fa_array *arrays
        int32_t n_arrays
        int32_t n_layers
        int32_t n_groups
        int32_t n_states
        int64_t columns[8]

    ctypedef struct fa_memory_layer:
        fa_view k
        fa_view v
        fa_view k_scale
        fa_view v_scale

    ctypedef struct fa_memory_group:
        fa_view slots
        fa_view page_table
        const int64_t *kv_lengths
        const int64_t *q_offset

    ctypedef struct fa_batch:
        int64_t rows[8]
        const fa_view *arrays
        int32_t n_arrays
        int32_t n_layers
        int32_t n_groups
        const fa_memory_layer *layers
        const fa_memory_group *groups
        int32_t n_states
        const fa_view *states
        const int64_t *state_from
        const int64_t *state_to

    fa_status fa_program_check(const fa_program *program, int64_t *bad)
    fa_status fa_program_space(const fa_ctx *ctx, const fa_program *program, const fa_batch *batch, size_t *bytes)
    fa_status fa_program_run(const fa_ctx *ctx, const fa_program *program, const fa_batch *batch, void *ws, size_t ws_bytes,
                             int64_t *bad)

    fa_status fa_probe_fma(const fa_ctx *ctx, int64_t iterations, double *flops)
    fa_status fa_probe_int8(const fa_ctx *ctx, int64_t iterations, double *ops)
    fa_status fa_probe_read(const fa_ctx *ctx, const void *data, size_t bytes, float *sink)


cdef extern from "cpu.h" nogil:
    ctypedef struct fa_cpu_info:
        char vendor[16]
        char brand[52]
        int32_t avx2, avx512, avx512_vnni
        int32_t amx_int8
        int32_t neon, neon_dot
        int32_t hypervisor
        int64_t l1d_bytes, l2_bytes, l3_bytes

    void fa_cpu_query(fa_cpu_info *info)
    int fa_cpu_has(const char *isa_name)


cdef extern from "ops/parallel.h" nogil:
    float fa_to_float(double x)



cdef extern from "ops/parallel_probe.h" nogil:
    ctypedef struct fa_parallel_probe:
        int32_t *runs
        int64_t n_tasks, nested_tasks, busy_ns, regions
        int32_t concurrent, process_concurrent, most_in_use, workers, bad_worker, disordered, bad_environment, nested_elsewhere
        double region_ns

    fa_status fa_parallel_probe_run(const fa_ctx *ctx, fa_parallel_probe *probe)
