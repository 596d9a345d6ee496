/* SPDX-License-Identifier: MIT */
/* Where the keys of an attention call lie. */
#include "../view.h"
#include "attention_job.h"

int attn_in_order(const attn_job *job) { return !job->params->page_table && job->params->ring_size == 0 && job->k->dtype == FA_F32; }

/* Key j of a sequence in k, v (4 dimensions) or in their scales (3, the last one keys). */
const char *attn_key_at(const attn_job *job, const fa_view *view, const attn_seq *seq, int64_t kv_head, int64_t j) {
    const fa_attention_params *p = job->params;
    const char *head = (const char *)view->data + kv_head * view->stride[1];
    if (p->page_table) {
        const int64_t size = job->k->shape[2];
        const char *entry = (const char *)p->page_table->data + seq->index * p->page_table->stride[0] + j / size * p->page_table->stride[1];
        return head + *(const int64_t *)entry * view->stride[0] + j % size * view->stride[2];
    }
    if (p->ring_size) j = j < p->ring_first ? j : p->ring_first + (j - p->ring_first) % p->ring_size;
    return head + seq->batch * view->stride[0] + (seq->k_row0 + j) * view->stride[2];
}

/* Keys in a row from j on: rings and pages are cut at multiples of 16. */
int64_t attn_run_of(const attn_job *job, int64_t j, int64_t end) {
    const int cut = job->params->page_table || job->params->ring_size;
    return cut ? attn_min(end, (j / 16 + 1) * 16) - j : end - j;
}

static void copy_rows(const attn_job *job, const fa_view *view, const attn_seq *seq, int64_t kv_head, int64_t j0, int64_t from, int64_t to,
                      float *copy, int64_t stride, int64_t width) {
    for (int64_t j = from; j < to;) {
        const int64_t run = attn_run_of(job, j, to);
        const char *row = attn_key_at(job, view, seq, kv_head, j);
        for (int64_t i = 0; i < run; i++)
            job->convert->widen(copy + (j + i - j0) * stride, row + i * view->stride[2], view->dtype, width);
        j += run;
    }
}

static const float *copy_scale(const attn_job *job, const fa_view *view, const attn_seq *seq, int64_t kv_head, const fa_attn_chunk *chunk,
                               float *copy) {
    if (!view) return NULL;
    if (attn_run_of(job, 0, FA_KV_CHUNK) == FA_KV_CHUNK && view->stride[2] == sizeof(float)) /* in order, one behind the other */
        return (const float *)attn_key_at(job, view, seq, kv_head, chunk->j0);
    for (int64_t j = 0; j < chunk->n;) {
        const int64_t run = attn_run_of(job, chunk->j0 + j, chunk->j0 + chunk->n);
        const char *at = attn_key_at(job, view, seq, kv_head, chunk->j0 + j);
        for (int64_t i = 0; i < run; i++) copy[j + i] = *(const float *)(at + i * view->stride[2]);
        j += run;
    }
    return copy;
}

static void place(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t index, attn_scratch *scratch, fa_attn_chunk *chunk) {
    *chunk = (fa_attn_chunk){.d = job->d, .dv = job->dv, .form = job->form, .far = job->far, .dtype = job->k->dtype};
    chunk->j0 = index * FA_KV_CHUNK;
    chunk->n = attn_max(0, attn_min(FA_KV_CHUNK, seq->keys - chunk->j0));
    chunk->ks = fa_estride(job->k, 2);
    chunk->vs = fa_estride(job->v, 2);
    if (job->integers) return;
    chunk->k_scale = copy_scale(job, job->params->k_scale, seq, kv_head, chunk, scratch->k_scale);
    chunk->v_scale = copy_scale(job, job->params->v_scale, seq, kv_head, chunk, scratch->v_scale);
}

void attn_needed(const attn_job *job, const fa_attn_chunk *chunk, int64_t first, int64_t last, int64_t *from, int64_t *to) {
    const int64_t end = chunk->j0 + chunk->n, always = attn_min(job->params->sink_tokens, end);
    *from = attn_max(chunk->j0, first / FA_KEY_BLOCK * FA_KEY_BLOCK);
    *to = attn_min(end, (last / FA_KEY_BLOCK + 1) * FA_KEY_BLOCK);
    if (always <= chunk->j0) return;
    *from = chunk->j0;
    *to = attn_max(*to, attn_min(end, attn_ceil(always, FA_KEY_BLOCK) * FA_KEY_BLOCK));
}

void attn_tile_keys(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t index, int shared, int64_t first, int64_t last,
                    attn_scratch *scratch, fa_attn_chunk *chunk) {
    place(job, seq, kv_head, index, scratch, chunk);
    if (job->integers) {
        attn_tile_integers(job, seq, kv_head, index, first, last, scratch, chunk);
        return;
    }
    chunk->far |= job->full_chunk;
    if (!job->copy || (job->copy == 1 && !shared)) {
        chunk->k = (const float *)attn_key_at(job, job->k, seq, kv_head, chunk->j0);
        chunk->v = (const float *)attn_key_at(job, job->v, seq, kv_head, chunk->j0);
        return;
    }
    int64_t from, to;
    attn_needed(job, chunk, first, last, &from, &to);
    chunk->ks = job->d + 16; /* rows 4096 bytes apart would share the few lines of one set of the L1 cache */
    chunk->vs = job->dv + 16;
    copy_rows(job, job->k, seq, kv_head, chunk->j0, from, to, scratch->k_copy, chunk->ks, job->d);
    copy_rows(job, job->v, seq, kv_head, chunk->j0, from, to, scratch->v_copy, chunk->vs, job->dv);
    chunk->k = scratch->k_copy;
    chunk->v = scratch->v_copy;
}

static int64_t point_groups(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t j0, int64_t n, const void **k_at,
                            const void **v_at) {
    const int64_t groups = attn_ceil(n, 16);
    for (int64_t g = 0; g < groups; g++) {
        k_at[g] = attn_key_at(job, job->k, seq, kv_head, j0 + 16 * g);
        v_at[g] = attn_key_at(job, job->v, seq, kv_head, j0 + 16 * g);
    }
    return groups;
}

void attn_decode_keys(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t index, const void **k_at, const void **v_at,
                      attn_scratch *scratch, fa_attn_chunk *chunk) {
    place(job, seq, kv_head, index, scratch, chunk);
    chunk->k_at = k_at;
    chunk->v_at = v_at;
    if (job->integers) attn_decode_numbers(job, seq, kv_head, scratch, chunk);
    int64_t groups = point_groups(job, seq, kv_head, chunk->j0, chunk->n, k_at, v_at);
    if (chunk->far) { /* what is read next, as far as one thread can tell: the next chunk, or the next head's first */
        const int64_t next = chunk->j0 + FA_KV_CHUNK < seq->keys ? chunk->j0 + FA_KV_CHUNK : 0;
        const int64_t head = kv_head + (next == 0), n = attn_min(FA_KEY_BLOCK, seq->keys - next);
        if (head < job->kv_heads) groups += point_groups(job, seq, head, next, n, k_at + groups, v_at + groups);
    }
    chunk->groups = groups;
}
