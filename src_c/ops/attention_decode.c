/* SPDX-License-Identifier: MIT */
/* Few rows: a task for each chunk of keys and KV head; a second round joins the states in chunk order. */
#include <math.h>
#include <string.h>

#include "attention_job.h"

int attn_decodes(const attn_job *job, int64_t b) {
    return !job->weights && !job->params->scores && !job->fresh && job->ctx.force != FA_FORCE_TILE &&
           attn_queries(job, b) * job->group_heads <= job->kernels->decode_rows;
}

/* One partial state: m at 0, l at 16, whether it holds anything at 31, o from 32. */
#define STATE_L 16
#define STATE_FLAG 31
#define STATE_O 32
_Static_assert(FA_DECODE_MAX < STATE_FLAG - STATE_L, "l and the flag share 16 floats");
static int64_t state_floats(const attn_job *job, int64_t rows) { return STATE_O + fa_decode_width((int)rows, job->k->dtype) * job->dvp; }

int64_t attn_decode_tasks(const attn_job *job, int64_t b) { return attn_max(1, attn_span_count(attn_seq_span(job, b))); }
int64_t attn_decode_merges(const attn_job *job, int64_t b) { return attn_decode_tasks(job, b) > 1; }
int64_t attn_decode_floats(const attn_job *job, int64_t b) {
    return attn_decode_tasks(job, b) * state_floats(job, attn_queries(job, b) * job->group_heads);
}

static void point_state(float *state, int rows, fa_attn_decode *decode) {
    decode->rows = rows;
    decode->m = state;
    decode->l = state + STATE_L;
    decode->o = state + STATE_O;
}

static float *state_of(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t part) {
    const int64_t parts = attn_decode_tasks(job, seq->index);
    return job->partials + job->state_start[seq->index] + (kv_head * parts + part) * state_floats(job, seq->rows);
}

/* Queries as the kernel wants them: fp32, the sign of the scale folded in, the last one repeated up to the kernel's width. */
static void point_queries(const attn_job *job, const attn_rows *rows, attn_scratch *scratch, const float *q[FA_DECODE_MAX]) {
    for (int i = 0; i < rows->n; i++) {
        q[i] = (const float *)rows->q[i];
        if (job->q->dtype == FA_F32 && (job->sign > 0 || job->integers)) continue;
        float *copy = scratch->q_copy + i * job->d;
        job->convert->widen(copy, rows->q[i], job->q->dtype, job->d);
        for (int64_t d = 0; d < job->d && job->sign < 0 && !job->integers; d++) copy[d] = -copy[d];
        q[i] = copy;
    }
    for (int i = rows->n; i < FA_DECODE_MAX; i++) q[i] = q[rows->n - 1];
}

static void run_chunk(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t index, const attn_rows *rows, attn_scratch *scratch,
                      fa_attn_decode *decode, int safe) {
    const void *k_at[ATTN_GROUPS], *v_at[ATTN_GROUPS];
    fa_attn_chunk chunk;
    attn_decode_keys(job, seq, kv_head, index, k_at, v_at, scratch, &chunk);
    attn_point_rows(job, rows, scratch, &chunk);
    chunk.safe = safe;
    if (chunk.n > 0) job->kernels->decode(decode, &chunk);
}

static void finish(const attn_job *job, const attn_seq *seq, int64_t kv_head, const attn_rows *rows, attn_scratch *scratch,
                   fa_attn_decode *decode) {
    const int narrow = job->out->dtype != FA_F32;
    float *out[FA_DECODE_MAX], *const *lse = job->lse ? rows->lse : NULL;
    const float *q[FA_DECODE_MAX];
    if (!decode->started) {
        memset(decode->o, 0, (size_t)(decode->rows * job->dvp) * sizeof(float));
        for (int i = 0; i < decode->rows; i++) decode->m[i] = -INFINITY, decode->l[i] = 0.0f;
    }
    if (job->params->sinks) decode->sink = rows->sink;
    for (int i = 0; i < rows->n; i++) out[i] = narrow ? scratch->out_copy + i * job->dv : (float *)rows->out[i];
    if (job->kernels->decode_finish(decode, job->dv, &job->form, out, lse) && !job->integers) {
        /* a NaN of attended data, which stays, or 0 x NaN behind an excluded key, which the careful repeat drops */
        const attn_span span = attn_seq_span(job, seq->index);
        decode->started = 0;
        decode->q = q;
        decode->chunk_o = scratch->chunk_o;
        point_queries(job, rows, scratch, q);
        for (int64_t i = 0; i < attn_span_count(span) && !fa_stopping(job->ctx.stop); i++)
            run_chunk(job, seq, kv_head, attn_span_chunk(span, i), rows, scratch, decode, 1);
        job->kernels->decode_finish(decode, job->dv, &job->form, out, lse);
    }
    for (int i = 0; i < rows->n && narrow; i++) job->convert->narrow(rows->out[i], job->out->dtype, out[i], job->dv);
}

void attn_decode_task(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t part, attn_scratch *scratch) {
    const attn_span span = attn_seq_span(job, seq->index);
    const float *q[FA_DECODE_MAX];
    fa_attn_decode decode = {.q = q, .chunk_o = scratch->chunk_o, .q8 = scratch->q8, .unit = job->sign};
    attn_rows *rows = scratch->rows;
    float *state = state_of(job, seq, kv_head, part);
    attn_get_rows(job, seq, kv_head, 0, (int)seq->rows, rows);
    point_state(state, rows->n, &decode);
    point_queries(job, rows, scratch, q);
    if (part < attn_span_count(span)) run_chunk(job, seq, kv_head, attn_span_chunk(span, part), rows, scratch, &decode, 0);
    if (attn_decode_tasks(job, seq->index) == 1) finish(job, seq, kv_head, rows, scratch, &decode);
    else state[STATE_FLAG] = decode.started ? 1.0f : 0.0f;
}

void attn_decode_merge(const attn_job *job, const attn_seq *seq, int64_t kv_head, attn_scratch *scratch) {
    attn_rows *rows = scratch->rows;
    fa_attn_decode total = {0}, part = {0};
    attn_get_rows(job, seq, kv_head, 0, (int)seq->rows, rows);
    for (int64_t c = 0; c < attn_decode_tasks(job, seq->index); c++) {
        fa_attn_decode *to = c ? &part : &total;
        point_state(state_of(job, seq, kv_head, c), rows->n, to);
        to->started = to->m[STATE_FLAG] > 0.0f;
        if (c) job->kernels->decode_merge(&total, &part, job->form.c, job->dv);
    }
    finish(job, seq, kv_head, rows, scratch, &total);
}
