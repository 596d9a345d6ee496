/* SPDX-License-Identifier: MIT */
/* Attention of packed sequences whose tokens do not stand side by side: windows, causality and biases go by positions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention_case.h"

enum { MOST_SEQUENCES = 4, MOST_TOKENS = 2100, RANDOM_CASES = 60 };

/* How positions go on behind a token. */
typedef enum gait {
    NO_GAP,    /* by one: what an index would be */
    ONE_GAP,   /* by one but for one place in the middle */
    FIRST_GAP, /* behind the first token alone */
    LAST_GAP,  /* in front of the last token alone */
    EVERY,     /* by two, everywhere */
    RAGGED,    /* by one to four */
    HUGE_GAPS, /* by one, at times by 2^40 */
    GAITS
} gait;

static int64_t step_of(gait g, int64_t i, int64_t n, uint64_t random) {
    switch (g) {
    case ONE_GAP: return i == n / 2 ? 20 : 1;
    case FIRST_GAP: return i == 1 ? 5 : 1;
    case LAST_GAP: return i == n - 1 ? 70 : 1;
    case EVERY: return 2;
    case RAGGED: return 1 + (int64_t)(random % 4);
    case HUGE_GAPS: return random % 9 == 0 ? (int64_t)1 << 40 : 1;
    default: return 1;
    }
}

/* Positions of every sequence, each from a place of its own on. */
static void walk(int64_t *positions, const int64_t *cu, int64_t n_seq, const gait *gaits, uint64_t seed) {
    for (int64_t b = 0; b < n_seq; b++) {
        const int64_t n = cu[b + 1] - cu[b];
        int64_t at = (int64_t)(hash_at(seed, (uint64_t)b) % 100) - 50;
        for (int64_t i = 0; i < n; i++) {
            if (i) at += step_of(gaits[b], i, n, hash_at(seed + 1, (uint64_t)(cu[b] + i)));
            positions[cu[b] + i] = at;
        }
    }
}

typedef struct positions_case {
    attention_case c; /* sq: the tokens */
    int64_t cu[MOST_SEQUENCES + 1];
    gait gaits[MOST_SEQUENCES];
} positions_case;

static void run_case(const positions_case *from, uint64_t seed) {
    int64_t positions[MOST_TOKENS];
    attention_case c = from->c;
    c.seed = seed;
    c.b = 1;
    c.sk = c.sq;
    c.cu_q = c.cu_k = from->cu;
    c.positions = positions;
    walk(positions, from->cu, c.n_seq, from->gaits, seed);
    attention_run(&c);
}

#define CASE(NAME, HEADS, TOKENS, SEQUENCES, CU, GAITS_OF, ...) \
    {.c = {.name = "positions " NAME, .hq = HEADS, .hkv = HEADS, .sq = TOKENS, .d = 8, .dv = 8, .n_seq = SEQUENCES, .lse = 1, __VA_ARGS__}, \
     .cu = CU, .gaits = GAITS_OF}
#define LIST(...) {__VA_ARGS__}
#define WINDOW(LEFT, RIGHT) .windowed = 1, .window_left = LEFT, .window_right = RIGHT

#if defined(__clang__)
#pragma clang diagnostic ignored "-Winitializer-overrides" /* a line may name hq, hkv, d again */
#elif defined(__GNUC__)
#pragma GCC diagnostic ignored "-Woverride-init"
#endif

static const positions_case cases[] = {
    CASE("without gaps, window", 2, 60, 2, LIST(0, 50, 60), LIST(NO_GAP, NO_GAP), WINDOW(5, 3)),
    CASE("window", 2, 130, 4, LIST(0, 50, 50, 51, 130), LIST(RAGGED, EVERY, ONE_GAP, ONE_GAP), WINDOW(5, 3), .weights = 1),
    CASE("window, first and last", 1, 100, 3, LIST(0, 2, 49, 100), LIST(FIRST_GAP, FIRST_GAP, LAST_GAP), WINDOW(4, 4)),
    CASE("window 0 0", 1, 70, 1, LIST(0, 70), LIST(EVERY), WINDOW(0, 0), .weights = 1),
    CASE("window, nothing but itself", 1, 70, 1, LIST(0, 70), LIST(EVERY), WINDOW(1, 1), .stage = FA_SCORES_BIAS),
    CASE("window left", 2, 97, 2, LIST(0, 48, 97), LIST(RAGGED, RAGGED), WINDOW(30, -1), .causal = 1),
    CASE("window right", 2, 97, 2, LIST(0, 48, 97), LIST(RAGGED, RAGGED), WINDOW(-1, 30)),
    CASE("window right, causal", 2, 97, 2, LIST(0, 48, 97), LIST(RAGGED, HUGE_GAPS), WINDOW(7, 30), .causal = 1, .hkv = 1),
    CASE("causal", 3, 80, 2, LIST(0, 31, 80), LIST(RAGGED, HUGE_GAPS), .causal = 1, .hkv = 1),
    CASE("huge gaps", 2, 130, 1, LIST(0, 130), LIST(HUGE_GAPS), WINDOW(60, 60), .bias_reach = 40),
    CASE("huge window", 1, 60, 1, LIST(0, 60), LIST(HUGE_GAPS), WINDOW((int64_t)1 << 46, (int64_t)1 << 46)),
    CASE("bias", 2, 130, 4, LIST(0, 50, 50, 51, 130), LIST(RAGGED, EVERY, ONE_GAP, ONE_GAP), .bias_reach = 20, .weights = 1),
    CASE("bias, all scores", 2, 60, 2, LIST(0, 13, 60), LIST(RAGGED, EVERY), .bias_reach = 9, .stage = FA_SCORES_BIAS),
    CASE("bias, products", 2, 60, 2, LIST(0, 13, 60), LIST(RAGGED, EVERY), .bias_reach = 9, .stage = FA_SCORES_SOFTCAP, .softcap = 3.0f),
    CASE("bias, long reach, window", 4, 97, 2, LIST(0, 3, 97), LIST(RAGGED, LAST_GAP), WINDOW(20, 9), .bias_reach = 300, .hkv = 2, .sinks = 1),
    CASE("bias, decode", 2, 8, 4, LIST(0, 1, 3, 4, 8), LIST(EVERY, EVERY, RAGGED, HUGE_GAPS), .bias_reach = 2, .d = 16, .dv = 20),
    CASE("bias, blocks", 2, 90, 1, LIST(0, 90), LIST(RAGGED), .bias_reach = 30, .block_rows = 16, .block_cols = 17, WINDOW(50, 50)),
    CASE("bias, narrow", 2, 70, 2, LIST(0, 3, 70), LIST(RAGGED, RAGGED), .bias_reach = 30, .dtype = FA_BF16, .kv_dtype = FA_I8, WINDOW(9, 50)),
    CASE("chunks, window", 1, 2000, 2, LIST(0, 30, 2000), LIST(EVERY, RAGGED), WINDOW(40, 21), .d = 4, .dv = 4),
    CASE("chunks, bias", 1, 1930, 1, LIST(0, 1930), LIST(RAGGED), WINDOW(2500, 10), .bias_reach = 100, .d = 4, .dv = 4),
    CASE("chunks, one far gap, bias", 1, 1000, 1, LIST(0, 1000), LIST(LAST_GAP), .bias_reach = 1500, .d = 4, .dv = 4, .causal = 1),
    CASE("team", 4, 260, 3, LIST(0, 1, 120, 260), LIST(EVERY, RAGGED, LAST_GAP), WINDOW(60, 64), .bias_reach = 50, .d = 32, .dv = 32),
    CASE("rows that collide", 1, 200, 1, LIST(0, 200), LIST(RAGGED), WINDOW(60, 4), .bias_reach = 50, .colliding = 1),
    CASE("nothing", 1, 0, 2, LIST(0, 0, 0), LIST(EVERY, EVERY), WINDOW(1, 1), .bias_reach = 4),
};

static void run_random(uint64_t index) {
    static const int64_t lengths[] = {0, 1, 2, 3, 15, 16, 17, 31, 33, 47, 48, 49, 60, 96, 97};
    uint64_t drawn = 0;
    char name[40];
#define PICK(N) ((int64_t)(hash_at(7000 + index, drawn++) % (uint64_t)(N)))
    snprintf(name, sizeof name, "random positions %03d", (int)index);
    positions_case p = {.c = {.name = name}};
    p.c.hkv = 1 + PICK(2);
    p.c.n_seq = 1 + PICK(MOST_SEQUENCES);
    p.c.d = 1 + PICK(20);
    p.c.dv = 1 + PICK(20);
    p.c.hq = p.c.hkv * (1 + PICK(3));
    for (int64_t b = 0; b < p.c.n_seq; b++) {
        p.cu[b + 1] = p.cu[b] + lengths[PICK(sizeof lengths / sizeof *lengths)];
        p.gaits[b] = (gait)PICK(GAITS);
    }
    p.c.sq = p.cu[p.c.n_seq];
    p.c.causal = PICK(3) == 0;
    p.c.windowed = PICK(3) > 0;
    p.c.window_left = PICK(70) - 1;
    p.c.window_right = PICK(70) - 1;
    p.c.bias_reach = PICK(2) ? 1 + PICK(120) : 0;
    p.c.softcap = PICK(5) ? 0.0f : 4.0f;
    p.c.sinks = PICK(4) == 0;
    p.c.lse = PICK(2) == 0;
    p.c.weights = PICK(4) == 0;
    p.c.stage = PICK(4) ? FA_SCORES_NONE : (fa_score_stage)(1 + PICK(3));
    p.c.kv_dtype = PICK(4) ? FA_NONE : FA_I8;
    if (PICK(5) == 0) p.c.block_rows = 1 + PICK(50), p.c.block_cols = 1 + PICK(50);
    if (PICK(4) == 0) p.c.chunk = 1 + PICK(50);
#undef PICK
    run_case(&p, 5000 + index);
}

/* ---- what is refused, and what changes nothing ---------------------------------------------------------------------- */

enum { TOKENS = 66, HEADS = 2, WIDTH = 8, REACH = 12 };

typedef struct call {
    fa_ctx ctx;
    fa_view array, out, bias, slopes;
    fa_attention_params p;
    int64_t cu[3], other[3], positions[TOKENS], offsets[2];
} call;

static float memory[2][TOKENS * HEADS * WIDTH], biases[HEADS * (2 * REACH + 1)], slopes[2 * HEADS];

/* A good call: two sequences, of 2 and 64 tokens, side by side. Every test spoils one thing in a fresh one. */
static void good(call *c) {
    *c = (call){.ctx = {.kernels = fa_kernels_for(0), .num_threads = 2}, .cu = {0, 2, TOKENS}, .other = {0, 1, TOKENS}};
    c->array = (fa_view){.data = memory[0], .ndim = 4, .dtype = FA_F32, .shape = {1, HEADS, TOKENS, WIDTH},
                         .stride = {0, 4 * WIDTH, 4 * HEADS * WIDTH, 4}};
    c->out = c->array;
    c->out.data = memory[1];
    c->bias = (fa_view){.data = biases, .ndim = 2, .dtype = FA_F32, .shape = {HEADS, 2 * REACH + 1}, .stride = {4 * (2 * REACH + 1), 4}};
    c->slopes = (fa_view){.data = slopes, .ndim = 2, .dtype = FA_F32, .shape = {2, HEADS}, .stride = {4 * HEADS, 4}};
    for (int64_t i = 0; i < TOKENS; i++) c->positions[i] = 3 * i - (i < 2 ? 0 : 2 * i + 7);
    c->p = (fa_attention_params){.scale = 0.5f, .window_left = 5, .window_right = 9, .n_seq = 2};
    c->p.cu_q = c->p.cu_k = c->cu;
    c->p.bias = &c->bias;
    c->p.positions = c->positions;
}

static fa_status attend(call *c, size_t *bytes) {
    fa_status status = fa_attention_workspace(&c->ctx, &c->out, NULL, NULL, &c->array, &c->array, &c->array, &c->p, bytes);
    if (status) return status;
    void *ws = guard_alloc(*bytes, GUARD_BACK, "workspace");
    status = fa_attention(&c->ctx, &c->out, NULL, NULL, &c->array, &c->array, &c->array, &c->p, ws, *bytes);
    expect_clean("workspace", guard_free(ws));
    return status;
}

/* The first 48 tokens, k and v in one page that both sequences share. */
static void paged(call *c) {
    c->array.shape[2] = c->out.shape[2] = c->cu[2] = 48;
    c->p.cu_k = NULL;
}

#define TRY(expected, spoil) \
    do { \
        call c; \
        size_t bytes = 0; \
        good(&c); \
        spoil; \
        expect_status(#spoil, attend(&c, &bytes), expected); \
    } while (0)

static void test_statuses(void) {
    static int64_t page[2];
    const fa_view pages = {.data = page, .ndim = 2, .dtype = FA_I64, .shape = {2, 1}, .stride = {8, 8}};
    const int64_t lengths[2] = {2, 46};
    if (!case_begin("status positions")) return;
    TRY(FA_OK, (void)0);
    TRY(FA_OK, c.positions[TOKENS - 1] = (int64_t)1 << 46);
    TRY(FA_OK, c.positions[0] = -((int64_t)1 << 46));
    TRY(FA_OK, c.p.causal = 1);
    TRY(FA_OK, (c.p.n_seq = 1, c.p.positions += 2, c.cu[1] = 64)); /* rows behind the last sequence are nobody's */

    TRY(FA_ERR_VALUE, c.positions[1] = c.positions[0]);
    TRY(FA_ERR_VALUE, c.positions[1] = c.positions[0] - 1);
    TRY(FA_ERR_VALUE, c.positions[TOKENS - 1] = c.positions[TOKENS - 2]);
    TRY(FA_ERR_VALUE, c.positions[40] = INT64_MAX);
    TRY(FA_ERR_VALUE, c.positions[40] = INT64_MIN);
    TRY(FA_ERR_VALUE, c.positions[TOKENS - 1] = ((int64_t)1 << 46) + 1);
    TRY(FA_ERR_VALUE, c.positions[TOKENS - 1] = INT64_MAX);
    TRY(FA_ERR_VALUE, c.positions[0] = -((int64_t)1 << 46) - 1);
    TRY(FA_ERR_VALUE, c.positions[0] = INT64_MIN);

    TRY(FA_ERR_VALUE, c.p.sink_tokens = 1);
    TRY(FA_ERR_VALUE, c.p.alibi = &c.slopes);
    TRY(FA_ERR_VALUE, c.p.q_offset = c.offsets);
    TRY(FA_ERR_VALUE, c.p.cu_k = c.other);
    TRY(FA_ERR_VALUE, (c.p.cu_q = NULL, c.p.cu_k = NULL)); /* the dense form */
    TRY(FA_OK, (paged(&c), c.p.page_table = &pages, c.p.kv_lengths = lengths, c.p.positions = NULL));
    TRY(FA_ERR_VALUE, (paged(&c), c.p.page_table = &pages, c.p.kv_lengths = lengths));
    TRY(FA_ERR_VALUE, (c.p.ring_size = 16, c.p.ring_first = 0));
    case_end(0);
}

/* Positions side by side are what there is without any: the same bytes, the same workspace. */
static void test_same_as_none(void) {
    float first[TOKENS * HEADS * WIDTH];
    if (!case_begin("positions side by side")) return;
    for (int64_t i = 0; i < TOKENS * HEADS * WIDTH; i++) memory[0][i] = bell(31, (uint64_t)i);
    for (int64_t i = 0; i < HEADS * (2 * REACH + 1); i++) biases[i] = bell(32, (uint64_t)i);
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int index = 0; index < VARIANTS_PER_ISA; index++) {
            const variant v = variant_of(isa, index);
            size_t bytes[3] = {0};
            call c;
            for (int round = 0; round < 3; round++) { /* without, with, with a gap */
                good(&c);
                c.ctx = variant_ctx(&v);
                if (round == 0) c.p.positions = NULL;
                for (int64_t i = 0; i < TOKENS; i++) c.positions[i] = (i < 2 ? 70 : -9) + i + (round == 2 && i > 40);
                case_variant(&v);
                expect_status("attention", attend(&c, &bytes[round]), FA_OK);
                if (round == 0) memcpy(first, memory[1], sizeof first);
                if (round == 1) expect_same("out", memory[1], first, TOKENS * HEADS * WIDTH, sizeof(float));
            }
            if (bytes[1] != bytes[0]) fail("workspace: %zu bytes, expected %zu", bytes[1], bytes[0]);
            if (bytes[2] <= bytes[0]) fail("workspace with a gap: %zu bytes, expected more than %zu", bytes[2], bytes[0]);
            if (memcmp(memory[1], first, sizeof first) == 0) fail("a gap changes nothing");
        }
    }
    case_end(hash_bytes(HASH_START, first, sizeof first));
}

void test_attention_positions(const options *o) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) run_case(&cases[i], hash_bytes(HASH_START, cases[i].c.name, strlen(cases[i].c.name)));
    for (int i = 0; i < (o->quick ? RANDOM_CASES / 4 : RANDOM_CASES); i++) run_random((uint64_t)i);
    test_statuses();
    test_same_as_none();
}
