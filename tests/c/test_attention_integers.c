/* SPDX-License-Identifier: MIT */
/* Attention by integers, case by case: what a float form is asked for is asked here too, of rounded floats and of int8. */
#include "attention_case.h"

#define CASE(...) {.b = 1, .hq = 1, .hkv = 1, .integers = 1, __VA_ARGS__}
#define STORED .kv_dtype = FA_I8
#define LIST(...) (const int64_t[]){__VA_ARGS__}

#if defined(__clang__)
#pragma clang diagnostic ignored "-Winitializer-overrides" /* a line may name b, hq, hkv again */
#elif defined(__GNUC__)
#pragma GCC diagnostic ignored "-Woverride-init"
#endif

static const attention_case cases[] = {
    /* ---- shapes: around 4 keys, 16, 48, the tile, pieces of 64 columns, blocks that are rotated ---------------------- */
    CASE(.name = "integers 1x1 d1", .sq = 1, .sk = 1, .d = 1, .dv = 1, .lse = 1),
    CASE(.name = "integers 3x5 d3", .sq = 3, .sk = 5, .d = 3, .dv = 2, .lse = 1, STORED),
    CASE(.name = "integers 5x47 d15", .sq = 5, .sk = 47, .d = 15, .dv = 17, .lse = 1),
    CASE(.name = "integers 16x48 d16", .sq = 16, .sk = 48, .d = 16, .dv = 16, .lse = 1, STORED),
    CASE(.name = "integers 17x49 d20", .sq = 17, .sk = 49, .d = 20, .dv = 28, .lse = 1),
    CASE(.name = "integers 33x97 d32", .sq = 33, .sk = 97, .d = 32, .dv = 32, .lse = 1, .weights = 1),
    CASE(.name = "integers 33x50 d64", .sq = 33, .sk = 50, .d = 64, .dv = 64, .lse = 1, STORED),
    CASE(.name = "integers 9x35 d80", .sq = 9, .sk = 35, .d = 80, .dv = 80),
    CASE(.name = "integers 7x51 d96", .sq = 7, .sk = 51, .d = 96, .dv = 112, STORED),
    CASE(.name = "integers 8x66 d128", .sq = 8, .sk = 66, .d = 128, .dv = 128, STORED),
    CASE(.name = "integers 40x66 d192", .sq = 40, .sk = 66, .d = 192, .dv = 128),
    CASE(.name = "integers 4x18 d300", .sq = 4, .sk = 18, .d = 300, .dv = 70),
    CASE(.name = "integers 2x3 d4096", .sq = 2, .sk = 3, .d = 4096, .dv = 4096, STORED),
    CASE(.name = "integers 3x3 d4096, floats", .sq = 3, .sk = 3, .d = 4096, .dv = 40),

    /* ---- heads, chunks, where keys lie --------------------------------------------------------------------------------- */
    CASE(.name = "integers gqa decode", .b = 2, .hq = 4, .hkv = 2, .sq = 1, .sk = 70, .d = 64, .dv = 64, .lse = 1, STORED),
    CASE(.name = "integers mqa 8 rows", .hq = 8, .sq = 1, .sk = 1000, .d = 32, .dv = 72, .lse = 1, STORED),
    CASE(.name = "integers gqa 6:2", .b = 2, .hq = 6, .hkv = 2, .sq = 13, .sk = 29, .d = 16, .dv = 24, .lse = 1, .weights = 1),
    CASE(.name = "integers 3x2900", .sq = 3, .sk = 2900, .d = 8, .dv = 20, .lse = 1, .weights = 1, STORED),
    CASE(.name = "integers 20x1930", .sq = 20, .sk = 1930, .d = 8, .dv = 8, .lse = 1),
    CASE(.name = "integers chunks, causal", .sq = 40, .sk = 1000, .d = 8, .dv = 8, .causal = 1, .q_offset = LIST(945), .lse = 1, STORED),
    CASE(.name = "integers pages", .b = 3, .hq = 4, .hkv = 2, .sq = 3, .sk = 200, .d = 20, .dv = 24, .causal = 1,
         .kv_lengths = LIST(200, 3, 97), .q_offset = LIST(197, 0, 94), .place = KEYS_PAGED, .page_size = 32, .lse = 1, STORED),
    CASE(.name = "integers pages, tiles", .b = 2, .sq = 40, .sk = 200, .d = 64, .dv = 64, .causal = 1, .kv_lengths = LIST(200, 49),
         .q_offset = LIST(160, 9), .place = KEYS_PAGED, .page_size = 96, .lse = 1, STORED),
    CASE(.name = "integers ring", .b = 2, .sq = 2, .sk = 300, .d = 16, .dv = 16, .causal = 1, .windowed = 1, .window_left = 40,
         .window_right = -1, .kv_lengths = LIST(300, 150), .q_offset = LIST(298, 148), .place = KEYS_RING, .ring_first = 16,
         .ring_size = 96, .sink_tokens = 5, .lse = 1, STORED),
    CASE(.name = "integers packed", .hq = 2, .sq = 70, .sk = 70, .d = 32, .dv = 32, .cu_q = LIST(0, 3, 3, 50, 70),
         .cu_k = LIST(0, 3, 3, 50, 70), .n_seq = 4, .lse = 1),

    /* ---- which keys ---------------------------------------------------------------------------------------------------- */
    CASE(.name = "integers causal", .sq = 67, .sk = 67, .d = 16, .dv = 16, .causal = 1, .lse = 1, .weights = 1, STORED),
    CASE(.name = "integers rows without keys", .sq = 40, .sk = 9, .d = 16, .dv = 16, .causal = 1, .q_offset = LIST(-31), .lse = 1),
    CASE(.name = "integers window", .sq = 50, .sk = 70, .d = 16, .dv = 16, .windowed = 1, .window_left = 5, .window_right = 3, .lse = 1),
    CASE(.name = "integers lengths", .b = 4, .hq = 2, .sq = 1, .sk = 60, .d = 16, .dv = 16, .kv_lengths = LIST(59, 0, 1, 48), .lse = 1, STORED),
    CASE(.name = "integers lengths, tiles", .b = 3, .sq = 19, .sk = 60, .d = 16, .dv = 16, .kv_lengths = LIST(60, 0, 49), .lse = 1, .weights = 1),
    CASE(.name = "integers bool mask", .b = 2, .hq = 2, .hkv = 2, .sq = 30, .sk = 60, .d = 16, .dv = 16, .mask = MASK_BOOL, .lse = 1, STORED),
    CASE(.name = "integers bool mask, decode", .hq = 2, .sq = 1, .sk = 1100, .d = 8, .dv = 8, .mask = MASK_BOOL, .lse = 1, STORED),
    CASE(.name = "integers float mask", .b = 2, .sq = 20, .sk = 60, .d = 16, .dv = 16, .mask = MASK_FLOAT, .lse = 1, .weights = 1),
    CASE(.name = "integers float mask, decode", .sq = 2, .sk = 60, .d = 16, .dv = 16, .mask = MASK_FLOAT, .lse = 1, STORED),
    CASE(.name = "integers blocks", .sq = 40, .sk = 130, .d = 16, .dv = 16, .block_rows = 16, .block_cols = 24, .lse = 1),
    CASE(.name = "integers chunked", .sq = 40, .sk = 40, .d = 16, .dv = 16, .causal = 1, .chunk = 12, .lse = 1, STORED),

    /* ---- forms of the score ---------------------------------------------------------------------------------------------- */
    CASE(.name = "integers softcap", .sq = 20, .sk = 60, .d = 32, .dv = 32, .softcap = 3, .lse = 1, .weights = 1),
    CASE(.name = "integers softcap, decode", .hq = 4, .sq = 1, .sk = 1000, .d = 32, .dv = 32, .softcap = 3, .lse = 1, STORED),
    CASE(.name = "integers alibi", .hq = 4, .hkv = 2, .sq = 20, .sk = 60, .d = 16, .dv = 16, .alibi = 1, .lse = 1),
    CASE(.name = "integers alibi, decode", .hq = 4, .sq = 1, .sk = 60, .d = 16, .dv = 16, .alibi = 1, .q_offset = LIST(59), .lse = 1, STORED),
    CASE(.name = "integers bias", .hq = 2, .hkv = 2, .sq = 40, .sk = 40, .d = 16, .dv = 16, .bias_reach = 11, .lse = 1),
    CASE(.name = "integers sinks", .hq = 4, .sq = 20, .sk = 60, .d = 16, .dv = 16, .sinks = 1, .lse = 1, .weights = 1),
    CASE(.name = "integers sinks, decode", .hq = 4, .sq = 1, .sk = 60, .d = 16, .dv = 16, .sinks = 1, .lse = 1, STORED),
    CASE(.name = "integers negative scale", .sq = 20, .sk = 60, .d = 16, .dv = 16, .scale = SCALE_NEGATIVE, .lse = 1),
    CASE(.name = "integers scale 0", .sq = 3, .sk = 60, .d = 16, .dv = 16, .scale = SCALE_ZERO, .lse = 1),
    CASE(.name = "integers large scale", .sq = 3, .sk = 60, .d = 16, .dv = 16, .scale = SCALE_LARGE, STORED),
    CASE(.name = "integers denormal scale", .sq = 3, .sk = 60, .d = 16, .dv = 16, .scale = SCALE_DENORMAL, STORED),
    CASE(.name = "integers scores", .sq = 20, .sk = 60, .d = 32, .dv = 32, .causal = 1, .stage = FA_SCORES_BIAS),
    CASE(.name = "integers scores, softcap", .sq = 20, .sk = 60, .d = 32, .dv = 32, .softcap = 2, .stage = FA_SCORES_SOFTCAP, STORED),
    CASE(.name = "integers scores, products", .sq = 20, .sk = 60, .d = 32, .dv = 32, .stage = FA_SCORES_QK),

    /* ---- numbers --------------------------------------------------------------------------------------------------------- */
    CASE(.name = "integers equal", .sq = 20, .sk = 60, .d = 16, .dv = 16, .fill = FILL_EQUAL, .lse = 1),
    CASE(.name = "integers huge", .sq = 20, .sk = 60, .d = 16, .dv = 16, .fill = FILL_HUGE, .lse = 1),
    CASE(.name = "integers tiny", .sq = 20, .sk = 60, .d = 16, .dv = 16, .fill = FILL_TINY, .lse = 1),
    CASE(.name = "integers dominant", .sq = 20, .sk = 60, .d = 16, .dv = 16, .fill = FILL_DOMINANT, .lse = 1),
    CASE(.name = "integers infinite", .sq = 20, .sk = 60, .d = 16, .dv = 16, .fill = FILL_INFINITE, .lse = 1),
    CASE(.name = "integers NaN", .sq = 20, .sk = 60, .d = 16, .dv = 16, .fill = FILL_NAN, .lse = 1, .weights = 1),
    CASE(.name = "integers of queries in bf16", .sq = 3, .sk = 60, .d = 16, .dv = 16, .dtype = FA_BF16, .lse = 1, STORED),
};

void test_attention_integers(const options *o) {
    (void)o;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) attention_run(&cases[i]);
}
