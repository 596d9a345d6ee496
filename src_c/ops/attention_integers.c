/* SPDX-License-Identifier: MIT */
/*
 * Attention by integers: where its keys come from. Caches hold rows of int8, which the decode kernel reads as they lie and
 * of which the tile kernel gets a copy in its order for each chunk. Rows of floats, an encoder's, are rounded into that order
 * once, by tasks that come before all others.
 */
#include "../view.h"
#include "attention_job.h"

#define FRESH_KEYS 480 /* of a task that rounds */

ptrdiff_t attn_panel_bytes(const attn_job *job) { return attn_ceil(job->d, 4) * 64 * job->integers->key_bytes; }
ptrdiff_t attn_group_bytes(const attn_job *job) { return job->dvp * 4 * job->integers->value_bytes; }

int64_t attn_fresh_pieces(const attn_job *job, int64_t b) { return attn_ceil(attn_keys(job, b), FRESH_KEYS); }

/* Numbers of keys, three for each: those of a chunk or those of a head, `count` of each kind one behind the other. */
static void point_numbers(fa_attn_chunk *chunk, const float *numbers, int64_t count) {
    chunk->k_unit = numbers;
    chunk->v_lift = numbers + count;
    chunk->v_inverse = numbers + 2 * count;
}

void attn_fresh_task(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t piece, attn_scratch *scratch) {
    const int64_t j0 = piece * FRESH_KEYS, n = attn_min(FRESH_KEYS, seq->keys - j0), at = job->fresh_start[seq->index] + j0;
    float *numbers = job->fresh_numbers + kv_head * 3 * job->fresh_keys + at, *k_scale = scratch->k_scale, *v_scale = scratch->v_scale;
    const float *k = (const float *)attn_key_at(job, job->k, seq, kv_head, j0), *v = (const float *)attn_key_at(job, job->v, seq, kv_head, j0);
    char *panels = job->fresh_k + (kv_head * job->fresh_keys + at) / 16 * attn_panel_bytes(job);
    char *groups = job->fresh_v + (kv_head * job->fresh_keys + at) / 4 * attn_group_bytes(job);
    job->integers->new_keys(panels, k_scale, k, fa_estride(job->k, 2), n, job->d);
    job->integers->new_values(groups, attn_group_bytes(job), v_scale, v, fa_estride(job->v, 2), n, job->dv);
    job->integers->take_scales(numbers, numbers + job->fresh_keys, numbers + 2 * job->fresh_keys, (const char *)k_scale,
                               (const char *)v_scale, sizeof *k_scale, sizeof *v_scale, n);
}

/* Keys from..to of the stream; from is a multiple of 16. */
static void take_numbers(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t j0, int64_t from, int64_t to, float *numbers) {
    const fa_view *ks = job->params->k_scale, *vs = job->params->v_scale;
    for (int64_t j = from; j < to;) {
        const int64_t run = attn_run_of(job, j, to);
        float *at = numbers + j - j0;
        job->integers->take_scales(at, at + FA_KV_CHUNK, at + 2 * FA_KV_CHUNK, attn_key_at(job, ks, seq, kv_head, j),
                                   attn_key_at(job, vs, seq, kv_head, j), ks->stride[2], vs->stride[2], run);
        j += run;
    }
}

void attn_decode_numbers(const attn_job *job, const attn_seq *seq, int64_t kv_head, attn_scratch *scratch, fa_attn_chunk *chunk) {
    take_numbers(job, seq, kv_head, chunk->j0, chunk->j0, chunk->j0 + chunk->n, scratch->numbers);
    point_numbers(chunk, scratch->numbers, FA_KV_CHUNK);
}

void attn_tile_integers(const attn_job *job, const attn_seq *seq, int64_t kv_head, int64_t index, int64_t first, int64_t last,
                        attn_scratch *scratch, fa_attn_chunk *chunk) {
    const ptrdiff_t panel = attn_panel_bytes(job), group = attn_group_bytes(job);
    int64_t from, to;
    chunk->v8s = group;
    if (job->fresh) {
        const int64_t at = job->fresh_start[seq->index] + index * FA_KV_CHUNK;
        chunk->k8 = job->fresh_k + (kv_head * job->fresh_keys + at) / 16 * panel;
        chunk->v8 = job->fresh_v + (kv_head * job->fresh_keys + at) / 4 * group;
        point_numbers(chunk, job->fresh_numbers + kv_head * 3 * job->fresh_keys + at, job->fresh_keys);
        return;
    }
    attn_needed(job, chunk, first, last, &from, &to);
    for (int64_t j = from; j < to;) {
        const int64_t run = attn_run_of(job, j, to), i = j - chunk->j0;
        job->integers->take_keys(scratch->k8 + i / 16 * panel, (const int8_t *)attn_key_at(job, job->k, seq, kv_head, j),
                                 job->k->stride[2], run, job->d);
        job->integers->take_values(scratch->v8 + i / 4 * group, group, (const int8_t *)attn_key_at(job, job->v, seq, kv_head, j),
                                   job->v->stride[2], run, job->dv);
        j += run;
    }
    take_numbers(job, seq, kv_head, chunk->j0, from, to, scratch->numbers);
    chunk->k8 = scratch->k8;
    chunk->v8 = scratch->v8;
    point_numbers(chunk, scratch->numbers, FA_KV_CHUNK);
}
