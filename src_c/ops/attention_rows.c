/* SPDX-License-Identifier: MIT */
/* Rows of an attention call: where they lie and which keys they see. */
#include <string.h>

#include "../view.h"
#include "attention_job.h"

int64_t attn_queries(const attn_job *job, int64_t b) {
    return job->params->cu_q ? job->params->cu_q[b + 1] - job->params->cu_q[b] : job->q->shape[2];
}

int64_t attn_keys(const attn_job *job, int64_t b) {
    if (job->params->kv_lengths) return job->params->kv_lengths[b];
    return job->params->cu_k ? job->params->cu_k[b + 1] - job->params->cu_k[b] : job->k->shape[2];
}

attn_seq attn_get_seq(const attn_job *job, int64_t b) {
    const fa_attention_params *p = job->params;
    attn_seq seq = {.index = b, .batch = p->cu_q ? 0 : b, .queries = attn_queries(job, b), .keys = attn_keys(job, b)};
    seq.rows = seq.queries * job->group_heads;
    seq.q_row0 = p->cu_q ? p->cu_q[b] : 0;
    seq.k_row0 = p->cu_k ? p->cu_k[b] : 0;
    seq.offset = p->q_offset ? p->q_offset[b] : 0;
    return seq;
}

static char *at4(const fa_view *view, int64_t i, int64_t j, int64_t k) {
    return (char *)view->data + i * view->stride[0] + j * view->stride[1] + k * view->stride[2];
}

const int64_t *attn_jumps(const attn_job *job, int64_t b) {
    const fa_attention_params *p = job->params;
    if (!p->positions || (p->window_left < 0 && p->window_right < 0 && !p->chunk && !p->bias)) return NULL;
    const int64_t *positions = p->positions + p->cu_k[b], n = attn_keys(job, b);
    return n > 0 && positions[n - 1] - positions[0] != n - 1 ? positions : NULL;
}

/* The first of from..to whose position is at least `least`, to + 1 if none is. */
static int64_t first_from(const int64_t *positions, int64_t from, int64_t to, int64_t least) {
    while (from <= to) {
        const int64_t mid = (from + to) / 2;
        if (positions[mid] < least) from = mid + 1;
        else to = mid - 1;
    }
    return from;
}

/* Keys lo..hi that query `at` of a sequence sees where positions jump. A window by positions is within the same by index. */
static void see_jumps(const attn_job *job, const int64_t *positions, int64_t keys, int64_t at, int64_t *lo, int64_t *hi) {
    const int64_t left = job->params->window_left, right = job->params->causal ? 0 : job->params->window_right;
    *lo = left < 0 ? 0 : first_from(positions, attn_max(0, at - left), at, positions[at] - left);
    *hi = right < 0 ? keys - 1 : first_from(positions, at, attn_min(keys - 1, at + right), positions[at] + right + 1) - 1;
    if (!job->params->chunk) return;
    const int64_t start = positions[at] - (positions[at] - positions[0]) % job->params->chunk;
    *lo = attn_max(*lo, first_from(positions, 0, at, start));
    *hi = attn_min(*hi, first_from(positions, at, keys - 1, start + job->params->chunk) - 1);
}

/* Keys lo..hi that a query at a position sees by causality, window, chunk and length. */
static void see(const attn_job *job, int64_t keys, int64_t position, int64_t *lo, int64_t *hi) {
    const fa_attention_params *p = job->params;
    *lo = 0;
    *hi = keys - 1;
    if (p->causal) *hi = attn_min(*hi, position);
    if (p->window_right >= 0) *hi = attn_min(*hi, position + p->window_right);
    if (p->window_left >= 0) *lo = attn_max(*lo, position - p->window_left);
    if (!p->chunk) return;
    const int64_t into = position % p->chunk, start = position - into - (into < 0 ? p->chunk : 0);
    *lo = attn_max(*lo, start);
    *hi = attn_min(*hi, start + p->chunk - 1);
}

/* What few calls have, of row i: query `at` of a sequence, of a head. */
static void get_options(const attn_job *job, const attn_seq *seq, int64_t head, int64_t at, int i, attn_rows *rows) {
    const fa_attention_params *p = job->params;
    const int64_t row = seq->q_row0 + at;
    if (job->weights) rows->weights[i] = (float *)at4(job->weights, seq->batch, head, row);
    if (p->scores) rows->scores[i] = (float *)at4(p->scores, seq->batch, head, row);
    if (p->mask) {
        rows->mask_bool[i] = (const uint8_t *)at4(p->mask, seq->batch, head, at);
        rows->mask_f32[i] = (const float *)rows->mask_bool[i];
    }
    if (p->block_mask) rows->blocks[i] = (const uint8_t *)at4(p->block_mask, seq->index, head, at / p->block_rows);
    if (p->alibi)
        rows->slope[i] = *(const float *)((const char *)p->alibi->data + seq->index * p->alibi->stride[0] + head * p->alibi->stride[1]);
    if (p->sinks) rows->sink[i] = *(const float *)((const char *)p->sinks->data + head * p->sinks->stride[0]);
    if (p->bias) rows->bias[i] = job->bias_rows + head * attn_bias_width(job) + job->bias_reach + FA_KEY_BLOCK;
}

void attn_get_rows(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t r0, int n, attn_rows *rows) {
    const fa_attention_params *p = job->params;
    const int64_t group = job->group_heads, *jumps = attn_jumps(job, seq->index), first_head = kv_head * group;
    const int options = job->weights || p->scores || p->mask || p->block_mask || p->alibi || p->sinks || p->bias;
    const int moves = jumps || p->causal || p->window_left >= 0 || p->window_right >= 0 || p->chunk; /* else all rows see the same */
    int64_t at = r0 / group, g = r0 % group, lo = 0, hi = -1;
    const char *q = at4(job->q, seq->batch, first_head, seq->q_row0 + at);
    char *out = at4(job->out, seq->batch, first_head, seq->q_row0 + at);
    char *lse = job->lse ? at4(job->lse, seq->batch, first_head, seq->q_row0 + at) : NULL;
    rows->n = n;
    rows->jumps = jumps;
    rows->first = INT64_MAX;
    rows->last = -1;
    rows->top = -1;
    for (int i = 0; i < n; i++) {
        const int64_t position = jumps ? jumps[at] : seq->offset + at;
        if (i == 0 || (moves && g == 0)) { /* another query: its heads see the same keys */
            if (jumps) see_jumps(job, jumps, seq->keys, at, &lo, &hi);
            else see(job, seq->keys, position, &lo, &hi);
            rows->top = attn_max(rows->top, hi);
            if (lo <= hi) {
                rows->first = attn_min(rows->first, lo);
                rows->last = attn_max(rows->last, hi);
            }
        }
        rows->q[i] = q + g * job->q->stride[1];
        rows->out[i] = out + g * job->out->stride[1];
        if (lse) rows->lse[i] = (float *)(lse + g * job->lse->stride[1]);
        rows->position[i] = position;
        rows->lo[i] = lo;
        rows->hi[i] = hi;
        if (options) get_options(job, seq, first_head + g, at, i, rows);
        if (++g < group) continue;
        g = 0;
        at++;
        q += job->q->stride[2];
        out += job->out->stride[2];
        if (lse) lse += job->lse->stride[2];
    }
}

/* Biases of n keys at positions for a row, a whole block written: `centre` is the value of distance 0. */
static void jump_block(float *to, const float *centre, int64_t reach, const int64_t *positions, int64_t n, int64_t position) {
    for (int64_t j = 0; j < n; j++) to[j] = centre[attn_max(-reach, attn_min(reach, positions[j] - position))];
    for (int64_t j = n; j < FA_KEY_BLOCK; j++) to[j] = 0.0f; /* read with the block, then excluded */
}

/*
 * Biases where positions jump: one for each key of the chunk that the rows may see, by key. A distance counted from the
 * chunk's first key is then the place of a key's bias, so that the kernels find it as they find any other. Blocks without
 * a jump, most of them where masks have few holes, are copied.
 */
static void point_jump_bias(const attn_job *job, const attn_rows *rows, attn_scratch *scratch, fa_attn_chunk *chunk) {
    const int64_t reach = job->bias_reach, to = attn_min(chunk->n, rows->last - chunk->j0 + 1);
    for (int64_t b = attn_max(0, rows->first - chunk->j0) / FA_KEY_BLOCK * FA_KEY_BLOCK; b < to; b += FA_KEY_BLOCK) {
        const int64_t n = attn_min(FA_KEY_BLOCK, to - b), *positions = rows->jumps + chunk->j0 + b;
        const int jumps = positions[n - 1] - positions[0] != n - 1;
        for (int i = 0; i < rows->n; i++) {
            float *values = scratch->jump_bias + i * job->jump_width + b;
            const int64_t distance = attn_max(-(reach + FA_KEY_BLOCK), attn_min(reach, positions[0] - rows->position[i]));
            if (jumps) jump_block(values, rows->bias[i], reach, positions, n, rows->position[i]);
            else memcpy(values, rows->bias[i] + distance, FA_KEY_BLOCK * sizeof *values);
        }
    }
    for (int i = 0; i < rows->n; i++) {
        scratch->jump_rows[i] = scratch->jump_bias + i * job->jump_width;
        scratch->jump_from[i] = chunk->j0;
    }
    chunk->bias = scratch->jump_rows;
    chunk->bias_reach = FA_KV_CHUNK;
    chunk->position = scratch->jump_from;
}

void attn_point_rows(const attn_job *job, const attn_rows *rows, attn_scratch *scratch, fa_attn_chunk *chunk) {
    const fa_attention_params *p = job->params;
    chunk->lo = rows->lo;
    chunk->hi = rows->hi;
    chunk->always = p->sink_tokens;
    chunk->live = ~(uint32_t)0;
    if (p->mask) {
        chunk->mask_step = p->mask->stride[3] == 0 ? 0 : 1;
        if (p->mask->dtype == FA_BOOL) chunk->mask_bool = rows->mask_bool;
        else chunk->mask_f32 = rows->mask_f32;
    }
    if (p->alibi || p->bias) chunk->position = rows->position;
    if (p->alibi) chunk->slope = rows->slope;
    if (p->bias && rows->jumps) {
        point_jump_bias(job, rows, scratch, chunk);
    } else if (p->bias) {
        chunk->bias = rows->bias;
        chunk->bias_reach = job->bias_reach;
    }
    if (!p->block_mask) return;
    chunk->blocks = rows->blocks;
    chunk->block_cols = p->block_cols;
    chunk->live = 0;
    for (int i = 0; i < rows->n; i++) {
        int known = 0; /* neighbours mostly share a row of blocks */
        for (int other = 0; other < i && !known; other++) known = rows->blocks[other] == rows->blocks[i];
        for (int64_t at = chunk->j0 / p->block_cols; !known && at * p->block_cols < chunk->j0 + chunk->n; at++) {
            if (!rows->blocks[i][at]) continue;
            const int64_t from = attn_max(0, at * p->block_cols - chunk->j0) / FA_KEY_BLOCK;
            const int64_t to = (attn_min(chunk->n, (at + 1) * p->block_cols - chunk->j0) - 1) / FA_KEY_BLOCK;
            chunk->live |= (uint32_t)((((uint64_t)2 << to) - 1) & ~(((uint64_t)1 << from) - 1));
        }
    }
}

attn_span attn_span_of(const attn_job *job, int64_t first, int64_t last, int64_t top) {
    attn_span span = {0};
    const int64_t always = attn_min(job->params->sink_tokens, top + 1);
    if (always > 0) span.lead = attn_ceil(always, FA_KV_CHUNK);
    if (first > last) return span;
    span.first = first / FA_KV_CHUNK;
    if (span.first <= span.lead) span.first = span.lead > 0 ? 0 : span.first, span.lead = 0;
    span.count = last / FA_KV_CHUNK - span.first + 1;
    return span;
}

attn_span attn_seq_span(const attn_job *job, int64_t b) {
    const int64_t queries = attn_queries(job, b), keys = attn_keys(job, b);
    const int64_t offset = job->params->q_offset ? job->params->q_offset[b] : 0;
    int64_t lo, hi, ignored;
    if (attn_jumps(job, b)) return attn_span_of(job, 0, keys - 1, keys - 1); /* of itself: its first and its last row */
    see(job, keys, offset, &lo, &ignored);
    see(job, keys, offset + queries - 1, &ignored, &hi);
    return attn_span_of(job, lo, hi, hi);
}

int64_t attn_bias_width(const attn_job *job) { return 2 * (job->bias_reach + FA_KEY_BLOCK) + 1; }

void attn_fill_bias(attn_job *job) {
    const fa_view *bias = job->params->bias;
    const int64_t width = attn_bias_width(job);
    for (int64_t h = 0; bias && h < job->q_heads; h++) {
        const float *from = (const float *)((const char *)bias->data + h * bias->stride[0]);
        float *to = job->bias_rows + h * width;
        for (int i = 0; i < FA_KEY_BLOCK; i++) to[i] = from[0], to[width - 1 - i] = from[bias->shape[1] - 1];
        memcpy(to + FA_KEY_BLOCK, from, (size_t)bias->shape[1] * sizeof *to);
    }
}
