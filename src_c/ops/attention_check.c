/* SPDX-License-Identifier: MIT */
/* The arguments of an attention call, checked before anything is read through them. */
#include <math.h>

#include "../view.h"
#include "attention_job.h"

#define COUNT_MAX ((double)((int64_t)1 << 46)) /* of rows and of keys: no product of sizes can leave 64 bits */

/* Rank, dtype, whole-element strides and address; a unit last stride unless `any_last`. */
static fa_status check_view(const fa_view *view, int ndim, int32_t dtype, int any_last) {
    const int64_t item = fa_itemsize(dtype);
    if (view->dtype != dtype) return FA_ERR_DTYPE;
    if (view->ndim != ndim) return FA_ERR_SHAPE;
    for (int i = 0; i < ndim; i++) {
        if (view->shape[i] < 0) return FA_ERR_SHAPE;
        if (view->stride[i] % item != 0) return FA_ERR_STRIDE;
    }
    if ((uintptr_t)view->data % (uintptr_t)item) return FA_ERR_STRIDE;
    return !any_last && view->shape[ndim - 1] > 1 && view->stride[ndim - 1] != item ? FA_ERR_STRIDE : FA_OK;
}

static int shape_is(const fa_view *view, int64_t a, int64_t b, int64_t c) {
    return view->shape[0] == a && view->shape[1] == b && view->shape[2] == c;
}

/* Rows of all heads and sequences, and one more for each; in floating point, which cannot overflow. */
static double count_of(const fa_view *view, const fa_attention_params *p) {
    double rows = (double)view->shape[2] + 1;
    return ((double)view->shape[0] + 1) * ((double)view->shape[1] + 1) * (p->cu_q ? rows + (double)p->n_seq : rows);
}

static fa_status check_arrays(const fa_view *out, const fa_view *lse, const fa_view *weights, const fa_view *q, const fa_view *k,
                              const fa_view *v, const fa_attention_params *p) {
    fa_status status;
    const int q_ok = q->dtype == FA_F32 || q->dtype == FA_F16 || q->dtype == FA_BF16;
    const int k_ok = k->dtype == FA_F32 || k->dtype == FA_F16 || k->dtype == FA_BF16 || k->dtype == FA_I8;
    if (!q_ok || !k_ok) return FA_ERR_DTYPE;
    if ((status = check_view(q, 4, q->dtype, 0)) || (status = check_view(out, 4, q->dtype, 0)) || (status = check_view(k, 4, k->dtype, 0)) ||
        (status = check_view(v, 4, k->dtype, 0)) || (lse && (status = check_view(lse, 3, FA_F32, 1))) ||
        (weights && (status = check_view(weights, 4, FA_F32, 0))) || (p->scores && (status = check_view(p->scores, 4, FA_F32, 0))))
        return status;
    const int64_t hq = q->shape[1], hkv = k->shape[1];
    if (p->integers && k->dtype != FA_I8 && k->dtype != FA_F32) return FA_ERR_DTYPE;
    if (p->integers && k->dtype == FA_F32 && (p->page_table || p->ring_size)) return FA_ERR_VALUE;
    if (!p->page_table && k->shape[0] != q->shape[0]) return FA_ERR_SHAPE;
    if (!shape_is(v, k->shape[0], hkv, k->shape[2]) || k->shape[3] != q->shape[3]) return FA_ERR_SHAPE;
    if (!shape_is(out, q->shape[0], hq, q->shape[2]) || out->shape[3] != v->shape[3]) return FA_ERR_SHAPE;
    if (hkv < 1 || hq % hkv != 0) return FA_ERR_SHAPE;
    if (q->shape[3] < 1 || q->shape[3] > FA_MAX_HEAD_DIM || v->shape[3] < 1 || v->shape[3] > FA_MAX_HEAD_DIM) return FA_ERR_SHAPE;
    if (lse && !shape_is(lse, q->shape[0], hq, q->shape[2])) return FA_ERR_SHAPE;
    if (weights && !shape_is(weights, q->shape[0], hq, q->shape[2])) return FA_ERR_SHAPE;
    if (p->scores && !shape_is(p->scores, q->shape[0], hq, q->shape[2])) return FA_ERR_SHAPE;
    if (p->scores && (p->score_stage < FA_SCORES_QK || p->score_stage > FA_SCORES_BIAS)) return FA_ERR_VALUE;
    return count_of(q, p) > COUNT_MAX || count_of(k, p) > COUNT_MAX ? FA_ERR_MEMORY : FA_OK;
}

/* Where tokens stand: every sequence attends to itself, so that a row's own key has its index. cu_q and cu_k are right. */
static fa_status check_positions(const fa_view *q, const fa_view *k, const fa_attention_params *p) {
    if (!p->cu_q || !p->cu_k || p->q_offset || p->sink_tokens || p->alibi) return FA_ERR_VALUE;
    if (q->shape[2] != k->shape[2]) return FA_ERR_SHAPE;
    for (int64_t b = 0; b < p->n_seq; b++) {
        if (p->cu_q[b] != p->cu_k[b] || p->cu_q[b + 1] != p->cu_k[b + 1]) return FA_ERR_VALUE;
        const int64_t *positions = p->positions + p->cu_k[b], n = p->cu_k[b + 1] - p->cu_k[b];
        int falls = 0;
        for (int64_t i = 1; i < n; i++) falls |= positions[i] <= positions[i - 1];
        if (falls || (n > 0 && (positions[0] < -ATTN_POSITION_MAX || positions[n - 1] > ATTN_POSITION_MAX))) return FA_ERR_VALUE;
    }
    return FA_OK;
}

/* How keys are found, and how many there are; *max_keys of a sequence. */
static fa_status check_keys(const fa_view *q, const fa_view *k, const fa_attention_params *p, int64_t *max_keys, int64_t *max_queries) {
    const int64_t n_seq = p->cu_q ? p->n_seq : q->shape[0], slots = k->shape[2];
    const fa_view *table = p->page_table;
    if (table && p->ring_size) return FA_ERR_VALUE;
    if (p->cu_q && (q->shape[0] != 1 || n_seq < 0 || p->mask || p->ring_size)) return FA_ERR_VALUE;
    if (table ? p->cu_k != 0 : !p->cu_q != !p->cu_k) return FA_ERR_VALUE;
    if (p->cu_k && p->kv_lengths) return FA_ERR_VALUE;
    if ((table || p->ring_size) && !p->kv_lengths && n_seq) return FA_ERR_VALUE;
    if (p->ring_size &&
        (p->ring_size < 0 || p->ring_first < 0 || p->ring_size % 16 || p->ring_first % 16 || p->ring_first > slots || p->ring_size > slots - p->ring_first))
        return FA_ERR_VALUE;
    if (table) {
        fa_status status = check_view(table, 2, FA_I64, 1);
        if (status) return status;
        if (table->shape[0] != n_seq || slots % 16 || slots < 1) return FA_ERR_SHAPE;
    }
    *max_keys = 0;
    *max_queries = p->cu_q ? 0 : q->shape[2];
    for (int64_t b = 0; b < n_seq; b++) {
        int64_t keys = slots;
        if (p->cu_q) {
            if (p->cu_q[b] < 0 || p->cu_q[b + 1] < p->cu_q[b] || p->cu_q[b + 1] > q->shape[2]) return FA_ERR_VALUE;
            *max_queries = attn_max(*max_queries, p->cu_q[b + 1] - p->cu_q[b]);
        }
        if (p->cu_k) {
            if (p->cu_k[b] < 0 || p->cu_k[b + 1] < p->cu_k[b] || p->cu_k[b + 1] > slots) return FA_ERR_VALUE;
            keys = p->cu_k[b + 1] - p->cu_k[b];
        }
        if (p->kv_lengths) {
            keys = p->kv_lengths[b];
            if (keys < 0 || keys > (table || p->ring_size ? ATTN_POSITION_MAX : slots)) return FA_ERR_VALUE;
        }
        if (table) {
            if (attn_ceil(keys, slots) > table->shape[1]) return FA_ERR_VALUE;
            for (int64_t i = 0; i < attn_ceil(keys, slots); i++) {
                int64_t page = *(const int64_t *)((const char *)table->data + b * table->stride[0] + i * table->stride[1]);
                if (page < 0 || page >= k->shape[0]) return FA_ERR_VALUE;
            }
        }
        if (p->q_offset && (p->q_offset[b] < -ATTN_POSITION_MAX || p->q_offset[b] > ATTN_POSITION_MAX)) return FA_ERR_VALUE;
        *max_keys = attn_max(*max_keys, keys);
    }
    return p->positions ? check_positions(q, k, p) : FA_OK;
}

static fa_status check_scale(const fa_view *scale, const fa_view *k) {
    if (!scale != (k->dtype != FA_I8)) return FA_ERR_VALUE; /* int8 has scales, nothing else has */
    if (!scale) return FA_OK;
    fa_status status = check_view(scale, 3, FA_F32, 1);
    return status ? status : shape_is(scale, k->shape[0], k->shape[1], k->shape[2]) ? FA_OK : FA_ERR_SHAPE;
}

static fa_status check_options(const fa_view *q, const fa_view *k, const fa_attention_params *p, int64_t max_keys, int64_t max_queries) {
    const int64_t n_seq = p->cu_q ? p->n_seq : q->shape[0], hq = q->shape[1];
    const int apart = p->page_table || p->ring_size; /* keys are no rows of k: their number is a length */
    fa_status status;
    if (p->mask) {
        const fa_view *mask = p->mask;
        if (mask->dtype != FA_BOOL && mask->dtype != FA_F32) return FA_ERR_DTYPE;
        if ((status = check_view(mask, 4, mask->dtype, 1))) return status;
        if (!shape_is(mask, q->shape[0], hq, q->shape[2]) || (apart ? mask->shape[3] < max_keys : mask->shape[3] != k->shape[2])) return FA_ERR_SHAPE;
        if (mask->stride[3] != fa_itemsize(mask->dtype) && mask->stride[3] != 0) return FA_ERR_STRIDE;
    }
    if (p->block_mask) {
        const fa_view *mask = p->block_mask;
        if ((status = check_view(mask, 4, FA_BOOL, 0))) return status;
        if (p->block_rows < 1 || p->block_cols < 1 || p->block_rows > ATTN_POSITION_MAX || p->block_cols > ATTN_POSITION_MAX) return FA_ERR_VALUE;
        if (mask->shape[0] != n_seq || mask->shape[1] != hq || mask->shape[2] < attn_ceil(max_queries, p->block_rows) ||
            mask->shape[3] < attn_ceil(max_keys, p->block_cols))
            return FA_ERR_SHAPE;
    }
    if (p->alibi) {
        if ((status = check_view(p->alibi, 2, FA_F32, 1))) return status;
        if (p->alibi->shape[0] != n_seq || p->alibi->shape[1] != hq) return FA_ERR_SHAPE;
    }
    if (p->sinks) {
        if ((status = check_view(p->sinks, 1, FA_F32, 1))) return status;
        if (p->sinks->shape[0] != hq) return FA_ERR_SHAPE;
    }
    if (p->bias) {
        if ((status = check_view(p->bias, 2, FA_F32, 0))) return status;
        if (p->bias->shape[0] != hq || p->bias->shape[1] % 2 == 0 || p->bias->shape[1] > (1 << 30)) return FA_ERR_SHAPE;
    }
    if ((status = check_scale(p->k_scale, k)) || (status = check_scale(p->v_scale, k))) return status;
    if (p->window_left < -1 || p->window_left > ATTN_POSITION_MAX || p->window_right < -1 || p->window_right > ATTN_POSITION_MAX ||
        p->sink_tokens < 0 || p->sink_tokens > ATTN_POSITION_MAX || p->chunk < 0 || p->chunk > ATTN_POSITION_MAX ||
        (p->chunk && p->sink_tokens))
        return FA_ERR_VALUE;
    return isfinite(p->scale) && isfinite(p->softcap) && p->softcap >= 0.0f ? FA_OK : FA_ERR_VALUE;
}

fa_status attn_check(const fa_view *out, const fa_view *lse, const fa_view *weights, const fa_view *q,
                     const fa_view *k, const fa_view *v, const fa_attention_params *p) {
    int64_t max_keys, max_queries;
    fa_status status;

    if ((status = check_arrays(out, lse, weights, q, k, v, p)) || (status = check_keys(q, k, p, &max_keys, &max_queries)) ||
        (status = check_options(q, k, p, max_keys, max_queries)))
        return status;
    if ((weights && weights->shape[3] < max_keys) || (p->scores && p->scores->shape[3] < max_keys)) return FA_ERR_SHAPE;
    return FA_OK;
}
