/* SPDX-License-Identifier: MIT */
/* Attention with options drawn together, small shapes: what meets in a product is not chosen by hand. */
#include <stdio.h>

#include "attention_case.h"

#define RANDOM_CASES 240
#define MAX_SEQUENCES 4

typedef struct draw {
    uint64_t seed, count;
} draw;

/* 0 .. n - 1 */
static int64_t pick(draw *d, int64_t n) { return (int64_t)(hash_at(d->seed, d->count++) % (uint64_t)n); }
static int one_in(draw *d, int64_t n) { return pick(d, n) == 0; }

static const fa_dtype FLOATS[] = {FA_F32, FA_F16, FA_BF16};

static void pick_types(draw *d, attention_case *c) {
    c->dtype = one_in(d, 2) ? FA_F32 : FLOATS[pick(d, 3)];
    c->kv_dtype = one_in(d, 4) ? FA_I8 : one_in(d, 5) ? FLOATS[pick(d, 3)] : c->dtype;
}

static void pick_biases(draw *d, attention_case *c) {
    c->alibi = one_in(d, 4);
    c->sinks = one_in(d, 4);
    if (one_in(d, 4)) c->bias_reach = 1 + pick(d, 60);
    if (one_in(d, 4)) {
        static const int64_t sides[] = {1, 3, 16, 17, 32, 48, 50, 500};
        c->block_rows = sides[pick(d, 8)];
        c->block_cols = sides[pick(d, 8)];
    }
}

/* Keys in a ring: a window that the ring holds for all queries, which stand at the end of the stream. */
static void pick_ring(draw *d, attention_case *c, int64_t *offsets) {
    c->place = KEYS_RING;
    c->windowed = 1;
    if (c->window_left < 0) c->window_left = pick(d, 40);
    c->ring_first = 16 * pick(d, 3);
    c->ring_size = (c->window_left + c->sq + 16) / 16 * 16 + 16 * pick(d, 2);
    c->sink_tokens = c->ring_first ? pick(d, c->ring_first + 1) : 0;
    if (c->stage) c->stage = FA_SCORES_BIAS;
    for (int64_t b = 0; b < c->b; b++) offsets[b] = c->kv_lengths[b] - c->sq;
    c->q_offset = offsets;
}

/* Mostly near what the kernels cut by, sometimes anything. */
static int64_t pick_length(draw *d, int64_t most) {
    static const int64_t edges[] = {1, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 95, 96, 97};
    int64_t n = one_in(d, 2) ? edges[pick(d, sizeof edges / sizeof *edges)] : 1 + pick(d, most);
    return n < most ? n : most;
}

static void run_one(uint64_t seed) {
    draw d = {seed, 0};
    char name[32];
    int64_t offsets[MAX_SEQUENCES], lengths[MAX_SEQUENCES], cu_q[MAX_SEQUENCES + 1] = {0}, cu_k[MAX_SEQUENCES + 1] = {0};
    snprintf(name, sizeof name, "random %03d", (int)seed);
    attention_case c = {.name = name, .seed = 1000 + seed};
    c.hkv = 1 + pick(&d, 3);
    c.hq = c.hkv * (1 + pick(&d, 3));
    c.b = 1 + pick(&d, 3);
    c.sq = one_in(&d, 2) ? 1 + pick(&d, 3) : pick_length(&d, 70);
    c.sk = pick_length(&d, 120);
    c.d = one_in(&d, 2) ? 16 : 1 + pick(&d, 40);
    c.dv = one_in(&d, 2) ? c.d : 1 + pick(&d, 40);
    c.lse = one_in(&d, 2);
    c.weights = one_in(&d, 3);
    c.scale = one_in(&d, 5) ? (scale_kind)pick(&d, 3) : SCALE_DEFAULT;
    c.softcap = one_in(&d, 5) ? 1.0f + (float)pick(&d, 30) : 0.0f;
    c.causal = one_in(&d, 2);
    c.windowed = one_in(&d, 4);
    c.window_left = pick(&d, 40) - 1;
    c.window_right = pick(&d, 20) - 1;
    if (c.windowed && c.window_left >= 0 && one_in(&d, 2)) c.sink_tokens = pick(&d, 20);
    pick_types(&d, &c);
    pick_biases(&d, &c);
    if (one_in(&d, 3)) c.stage = (fa_score_stage)(1 + pick(&d, 3));
    const int packed = one_in(&d, 4);
    const int64_t sequences = packed ? c.n_seq = 1 + pick(&d, MAX_SEQUENCES) : c.b;
    for (int64_t i = 0; i < sequences; i++) {
        offsets[i] = pick(&d, c.sk + 20) - 10;
        lengths[i] = pick(&d, c.sk + 1);
        cu_q[i + 1] = i + 1 == sequences ? c.sq : cu_q[i] + pick(&d, c.sq - cu_q[i] + 1);
        cu_k[i + 1] = i + 1 == sequences ? c.sk : cu_k[i] + pick(&d, c.sk - cu_k[i] + 1);
    }
    if (one_in(&d, 2)) c.q_offset = offsets;
    if (packed) {
        c.b = 1;
        c.cu_q = cu_q;
        c.cu_k = cu_k;
        if (one_in(&d, 3)) c.place = KEYS_PAGED;
    } else {
        const int elsewhere = one_in(&d, 3);
        if (elsewhere || one_in(&d, 3)) c.kv_lengths = lengths;
        if (elsewhere && one_in(&d, 2)) pick_ring(&d, &c, offsets);
        else if (elsewhere) c.place = KEYS_PAGED;
        if (one_in(&d, 2)) c.mask = one_in(&d, 2) ? MASK_BOOL : MASK_FLOAT;
        c.mask_broadcast = (unsigned)pick(&d, 16);
    }
    c.page_size = 16 * (1 + pick(&d, 3));
    if (!c.sink_tokens && one_in(&d, 5)) c.chunk = 1 + pick(&d, 50);
    attention_run(&c);
}

void test_attention_random(const options *o) {
    const int cases = o->quick ? RANDOM_CASES / 4 : RANDOM_CASES;
    for (int i = 0; i < cases; i++) run_one((uint64_t)i);
}
