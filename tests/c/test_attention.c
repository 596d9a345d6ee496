/* SPDX-License-Identifier: MIT */
/* Attention case by case; each is run in every variant on every ISA (attention_case.c says what must hold). */
#include <string.h>

#include "attention_case.h"

/* A case starts from b = hq = hkv = 1; what a line does not name is 0, none or off. */
#define CASE(...) {.b = 1, .hq = 1, .hkv = 1, __VA_ARGS__}
#define LIST(...) (const int64_t[]){__VA_ARGS__}

#if defined(__clang__)
#pragma clang diagnostic ignored "-Winitializer-overrides" /* a line may name b, hq, hkv again */
#elif defined(__GNUC__)
#pragma GCC diagnostic ignored "-Woverride-init"
#endif

static const attention_case cases[] = {
    /* ---- shapes: around the tile (16, 32), the key block (48), the lanes (16) ------------------------------------ */
    CASE(.name = "1x1 d1", .sq = 1, .sk = 1, .d = 1, .dv = 1, .lse = 1, .weights = 1),
    CASE(.name = "1x1 d64", .sq = 1, .sk = 1, .d = 64, .dv = 64, .lse = 1),
    CASE(.name = "1x47 d16", .sq = 1, .sk = 47, .d = 16, .dv = 16, .lse = 1),
    CASE(.name = "1x48 d15", .sq = 1, .sk = 48, .d = 15, .dv = 15, .lse = 1),
    CASE(.name = "2x49 d17", .sq = 2, .sk = 49, .d = 17, .dv = 17, .lse = 1),
    CASE(.name = "3x95 d31", .sq = 3, .sk = 95, .d = 31, .dv = 33, .lse = 1),
    CASE(.name = "5x97 d33", .sq = 5, .sk = 97, .d = 33, .dv = 31, .lse = 1),
    CASE(.name = "8x31 d5", .sq = 8, .sk = 31, .d = 5, .dv = 3, .lse = 1),
    CASE(.name = "9x32 d13", .sq = 9, .sk = 32, .d = 13, .dv = 14, .lse = 1),
    CASE(.name = "15x33 d64", .sq = 15, .sk = 33, .d = 64, .dv = 64),
    CASE(.name = "16x48 d32", .sq = 16, .sk = 48, .d = 32, .dv = 32),
    CASE(.name = "17x50 d20", .sq = 17, .sk = 50, .d = 20, .dv = 28),
    CASE(.name = "31x15 d8", .sq = 31, .sk = 15, .d = 8, .dv = 8),
    CASE(.name = "33x17 d24", .sq = 33, .sk = 17, .d = 24, .dv = 40, .lse = 1),
    CASE(.name = "64x64 d64", .b = 2, .hq = 2, .hkv = 2, .sq = 64, .sk = 64, .d = 64, .dv = 64),
    CASE(.name = "7x11 d300 dv2", .sq = 7, .sk = 11, .d = 300, .dv = 2),
    CASE(.name = "2x5 d2 dv512", .sq = 2, .sk = 5, .d = 2, .dv = 512),
    CASE(.name = "1x3 d4096", .sq = 1, .sk = 3, .d = 4096, .dv = 4096),
    CASE(.name = "200x20 d3", .b = 3, .sq = 200, .sk = 20, .d = 3, .dv = 3),

    /* ---- heads --------------------------------------------------------------------------------------------------- */
    CASE(.name = "gqa 4:2 decode", .b = 2, .hq = 4, .hkv = 2, .sq = 1, .sk = 70, .d = 16, .dv = 16, .lse = 1),
    CASE(.name = "gqa 6:2", .b = 2, .hq = 6, .hkv = 2, .sq = 13, .sk = 29, .d = 16, .dv = 24, .lse = 1, .weights = 1),
    CASE(.name = "mqa 8:1 decode", .hq = 8, .sq = 1, .sk = 100, .d = 32, .dv = 32),
    CASE(.name = "mqa 5:1 causal", .hq = 5, .sq = 7, .sk = 7, .d = 16, .dv = 16, .causal = 1),
    CASE(.name = "mqa 9:3 rows 6", .hq = 9, .hkv = 3, .sq = 2, .sk = 130, .d = 64, .dv = 64, .causal = 1, .q_offset = LIST(128)),

    /* ---- chunks of 960 keys --------------------------------------------------------------------------------------- */
    CASE(.name = "1x959", .sq = 1, .sk = 959, .d = 8, .dv = 8, .lse = 1),
    CASE(.name = "1x960", .sq = 1, .sk = 960, .d = 8, .dv = 8, .lse = 1),
    CASE(.name = "1x961", .sq = 1, .sk = 961, .d = 8, .dv = 8, .lse = 1),
    CASE(.name = "3x2900", .sq = 3, .sk = 2900, .d = 8, .dv = 20, .lse = 1, .weights = 1),
    CASE(.name = "20x1930", .sq = 20, .sk = 1930, .d = 8, .dv = 8, .lse = 1),
    CASE(.name = "chunks, middle one excluded", .sq = 2, .sk = 2000, .d = 8, .dv = 8, .windowed = 1, .window_left = 30,
         .window_right = 40, .q_offset = LIST(1000), .lse = 1),
    CASE(.name = "chunks, bool mask", .hq = 2, .hkv = 1, .sq = 3, .sk = 1100, .d = 8, .dv = 8, .mask = MASK_BOOL, .lse = 1),
    CASE(.name = "chunks, causal", .sq = 40, .sk = 1000, .d = 8, .dv = 8, .causal = 1, .q_offset = LIST(945), .lse = 1),
    CASE(.name = "chunks, lengths", .b = 3, .sq = 2, .sk = 1925, .d = 8, .dv = 8, .kv_lengths = LIST(960, 1921, 0), .lse = 1),

    /* ---- which keys ------------------------------------------------------------------------------------------------ */
    CASE(.name = "causal square", .sq = 67, .sk = 67, .d = 16, .dv = 16, .causal = 1, .lse = 1, .weights = 1),
    CASE(.name = "causal, more keys", .sq = 20, .sk = 61, .d = 16, .dv = 16, .causal = 1, .lse = 1),
    CASE(.name = "causal, bottom right", .b = 2, .sq = 20, .sk = 61, .d = 16, .dv = 16, .causal = 1, .q_offset = LIST(41, 30), .lse = 1),
    CASE(.name = "causal, rows without keys", .sq = 40, .sk = 9, .d = 16, .dv = 16, .causal = 1, .q_offset = LIST(-31), .lse = 1,
         .weights = 1),
    CASE(.name = "causal, no key at all", .sq = 3, .sk = 9, .d = 16, .dv = 16, .causal = 1, .q_offset = LIST(-30), .lse = 1),
    CASE(.name = "window 5 3", .sq = 50, .sk = 70, .d = 16, .dv = 16, .windowed = 1, .window_left = 5, .window_right = 3, .lse = 1),
    CASE(.name = "window 0 0", .sq = 50, .sk = 50, .d = 16, .dv = 16, .windowed = 1, .lse = 1, .weights = 1),
    CASE(.name = "window left 100", .sq = 130, .sk = 130, .d = 8, .dv = 8, .windowed = 1, .window_left = 100, .window_right = -1),
    CASE(.name = "window right, causal", .sq = 33, .sk = 60, .d = 8, .dv = 8, .causal = 1, .windowed = 1, .window_left = -1,
         .window_right = 7),
    CASE(.name = "window, far away", .sq = 20, .sk = 60, .d = 8, .dv = 8, .windowed = 1, .window_left = 4, .window_right = 4,
         .q_offset = LIST((int64_t)1 << 46), .lse = 1),
    CASE(.name = "window, far before", .sq = 20, .sk = 60, .d = 8, .dv = 8, .windowed = 1, .window_left = (int64_t)1 << 46,
         .window_right = (int64_t)1 << 46, .q_offset = LIST(-((int64_t)1 << 46)), .lse = 1),
    CASE(.name = "lengths", .b = 4, .hq = 2, .hkv = 2, .sq = 19, .sk = 60, .d = 16, .dv = 16, .kv_lengths = LIST(60, 0, 1, 49), .lse = 1,
         .weights = 1),
    CASE(.name = "lengths, decode", .b = 4, .hq = 2, .sq = 1, .sk = 60, .d = 16, .dv = 16, .kv_lengths = LIST(59, 0, 1, 48), .lse = 1),
    CASE(.name = "lengths, offsets, causal, window", .b = 3, .hq = 4, .hkv = 2, .sq = 9, .sk = 80, .d = 16, .dv = 16, .causal = 1,
         .windowed = 1, .window_left = 20, .window_right = -1, .kv_lengths = LIST(80, 33, 9), .q_offset = LIST(71, 24, 0), .lse = 1),
    CASE(.name = "padding without memory, tile", .sq = 40, .sk = 500, .d = 16, .dv = 16, .kv_lengths = LIST(57), .unmapped = 1),
    CASE(.name = "padding without memory, decode", .hq = 2, .sq = 1, .sk = 5000, .d = 17, .dv = 18, .kv_lengths = LIST(961), .unmapped = 1),

    /* ---- masks ----------------------------------------------------------------------------------------------------- */
    CASE(.name = "bool mask", .b = 2, .hq = 2, .hkv = 1, .sq = 21, .sk = 75, .d = 16, .dv = 16, .mask = MASK_BOOL, .lse = 1, .weights = 1),
    CASE(.name = "bool mask, decode", .b = 2, .hq = 2, .hkv = 1, .sq = 1, .sk = 75, .d = 16, .dv = 16, .mask = MASK_BOOL, .lse = 1),
    CASE(.name = "bool mask by key", .b = 2, .hq = 2, .hkv = 2, .sq = 21, .sk = 75, .d = 16, .dv = 16, .mask = MASK_BOOL,
         .mask_broadcast = 6),
    CASE(.name = "bool mask by row", .b = 2, .hq = 2, .hkv = 2, .sq = 21, .sk = 75, .d = 16, .dv = 16, .mask = MASK_BOOL,
         .mask_broadcast = 8, .lse = 1),
    CASE(.name = "bool mask, causal, lengths", .b = 2, .sq = 30, .sk = 30, .d = 16, .dv = 16, .mask = MASK_BOOL, .causal = 1,
         .kv_lengths = LIST(30, 17), .lse = 1),
    CASE(.name = "float mask", .b = 2, .hq = 2, .hkv = 1, .sq = 21, .sk = 75, .d = 16, .dv = 16, .mask = MASK_FLOAT, .lse = 1, .weights = 1),
    CASE(.name = "float mask, decode", .b = 2, .hq = 3, .hkv = 1, .sq = 1, .sk = 75, .d = 16, .dv = 16, .mask = MASK_FLOAT, .lse = 1),
    CASE(.name = "float mask by head", .hq = 3, .hkv = 3, .sq = 18, .sk = 50, .d = 16, .dv = 16, .mask = MASK_FLOAT, .mask_broadcast = 13),
    CASE(.name = "float mask by key, window", .hq = 3, .hkv = 3, .sq = 18, .sk = 50, .d = 16, .dv = 16, .mask = MASK_FLOAT,
         .mask_broadcast = 7, .windowed = 1, .window_left = 9, .window_right = 9),
    CASE(.name = "float mask, softcap", .sq = 18, .sk = 50, .d = 16, .dv = 16, .mask = MASK_FLOAT, .softcap = 5.0f, .lse = 1),

    /* ---- forms of the score ----------------------------------------------------------------------------------------- */
    CASE(.name = "softcap", .sq = 18, .sk = 50, .d = 16, .dv = 16, .softcap = 2.5f, .lse = 1, .weights = 1),
    CASE(.name = "softcap, decode", .sq = 1, .sk = 50, .d = 16, .dv = 16, .softcap = 50.0f, .lse = 1),
    CASE(.name = "scale 0", .sq = 18, .sk = 50, .d = 16, .dv = 16, .scale = SCALE_ZERO, .lse = 1),
    CASE(.name = "scale 0, decode", .sq = 1, .sk = 50, .d = 16, .dv = 16, .scale = SCALE_ZERO, .lse = 1),
    CASE(.name = "negative scale", .sq = 18, .sk = 50, .d = 16, .dv = 16, .scale = SCALE_NEGATIVE, .lse = 1, .weights = 1),
    CASE(.name = "negative scale, decode", .hq = 2, .sq = 1, .sk = 1000, .d = 16, .dv = 16, .scale = SCALE_NEGATIVE, .lse = 1),
    CASE(.name = "negative scale, softcap", .sq = 5, .sk = 50, .d = 16, .dv = 16, .scale = SCALE_NEGATIVE, .softcap = 3.0f, .lse = 1),
    CASE(.name = "negative scale, mask", .sq = 2, .sk = 50, .d = 16, .dv = 16, .scale = SCALE_NEGATIVE, .mask = MASK_FLOAT, .lse = 1),
    CASE(.name = "negative scale, excluded keys, decode", .hq = 2, .sq = 1, .sk = 50, .d = 16, .dv = 16, .scale = SCALE_NEGATIVE,
         .causal = 1, .q_offset = LIST(30), .lse = 1),
    CASE(.name = "negative scale, excluded keys, chunks", .hq = 2, .sq = 1, .sk = 1500, .d = 8, .dv = 8, .scale = SCALE_NEGATIVE,
         .mask = MASK_BOOL, .lse = 1),
    CASE(.name = "denormal scale", .sq = 5, .sk = 50, .d = 16, .dv = 16, .scale = SCALE_DENORMAL, .lse = 1),
    CASE(.name = "denormal scale, huge scores", .sq = 5, .sk = 50, .d = 16, .dv = 16, .scale = SCALE_DENORMAL, .fill = FILL_HUGE, .lse = 1),

    /* ---- values ------------------------------------------------------------------------------------------------------ */
    CASE(.name = "all equal", .sq = 20, .sk = 100, .d = 32, .dv = 32, .fill = FILL_EQUAL, .lse = 1, .weights = 1),
    CASE(.name = "all equal, decode", .sq = 1, .sk = 100, .d = 32, .dv = 32, .fill = FILL_EQUAL, .lse = 1),
    CASE(.name = "huge", .sq = 20, .sk = 100, .d = 32, .dv = 32, .fill = FILL_HUGE, .lse = 1),
    CASE(.name = "huge, decode", .sq = 1, .sk = 100, .d = 32, .dv = 32, .fill = FILL_HUGE, .lse = 1),
    CASE(.name = "tiny", .sq = 20, .sk = 100, .d = 32, .dv = 32, .fill = FILL_TINY, .lse = 1),
    CASE(.name = "tiny, decode", .sq = 1, .sk = 100, .d = 32, .dv = 32, .fill = FILL_TINY, .lse = 1),
    CASE(.name = "dominant key", .sq = 20, .sk = 100, .d = 32, .dv = 32, .fill = FILL_DOMINANT, .lse = 1, .weights = 1),
    CASE(.name = "dominant key, chunks", .sq = 2, .sk = 1500, .d = 8, .dv = 8, .fill = FILL_DOMINANT, .lse = 1),
    CASE(.name = "infinite scores", .sq = 20, .sk = 100, .d = 16, .dv = 16, .fill = FILL_INFINITE, .lse = 1, .weights = 1),
    CASE(.name = "infinite scores, decode", .hq = 2, .hkv = 2, .sq = 2, .sk = 1000, .d = 16, .dv = 16, .fill = FILL_INFINITE, .lse = 1),
    CASE(.name = "NaN", .b = 2, .hq = 2, .hkv = 2, .sq = 20, .sk = 60, .d = 16, .dv = 16, .fill = FILL_NAN, .causal = 1, .lse = 1, .weights = 1),
    CASE(.name = "NaN, decode", .b = 2, .hq = 4, .hkv = 2, .sq = 1, .sk = 1000, .d = 16, .dv = 16, .fill = FILL_NAN, .lse = 1),

    /* ---- nothing ------------------------------------------------------------------------------------------------------ */
    CASE(.name = "no batch", .b = 0, .sq = 4, .sk = 4, .d = 8, .dv = 8, .lse = 1, .weights = 1),
    CASE(.name = "no queries", .sq = 0, .sk = 4, .d = 8, .dv = 8, .lse = 1, .weights = 1),
    CASE(.name = "no keys", .b = 2, .hq = 2, .hkv = 1, .sq = 20, .sk = 0, .d = 8, .dv = 8, .lse = 1, .weights = 1),
    CASE(.name = "no keys, decode", .b = 2, .hq = 2, .hkv = 1, .sq = 1, .sk = 0, .d = 8, .dv = 8, .lse = 1),
    CASE(.name = "no heads", .hq = 0, .sq = 20, .sk = 10, .d = 8, .dv = 8, .lse = 1),

    /* ---- packed sequences ---------------------------------------------------------------------------------------------- */
    CASE(.name = "varlen", .hq = 4, .hkv = 2, .sq = 60, .sk = 90, .d = 16, .dv = 24, .n_seq = 5, .cu_q = LIST(0, 1, 1, 20, 57, 60),
         .cu_k = LIST(0, 30, 35, 35, 80, 90), .lse = 1),
    CASE(.name = "varlen causal", .hq = 2, .hkv = 2, .sq = 70, .sk = 70, .d = 16, .dv = 16, .n_seq = 4, .cu_q = LIST(0, 3, 36, 37, 70),
         .cu_k = LIST(0, 3, 36, 37, 70), .causal = 1, .lse = 1, .weights = 1),
    CASE(.name = "varlen offsets, window", .hq = 2, .hkv = 1, .sq = 40, .sk = 120, .d = 16, .dv = 16, .n_seq = 3, .cu_q = LIST(0, 2, 30, 40),
         .cu_k = LIST(0, 50, 51, 120), .causal = 1, .windowed = 1, .window_left = 11, .window_right = -1, .q_offset = LIST(48, -10, 59), .lse = 1),
    CASE(.name = "varlen decode and chunks", .hq = 2, .hkv = 2, .sq = 21, .sk = 2000, .d = 8, .dv = 8, .n_seq = 3, .cu_q = LIST(0, 1, 2, 21),
         .cu_k = LIST(0, 970, 990, 2000), .lse = 1),
    CASE(.name = "varlen nothing", .sq = 0, .sk = 0, .d = 8, .dv = 8, .n_seq = 2, .cu_q = LIST(0, 0, 0), .cu_k = LIST(0, 0, 0), .lse = 1),

    /* ---- work that is worth a team of three (FA_WORTH_A_THREAD) ---------------------------------------------------------- */
    CASE(.name = "team, tiles", .b = 2, .hq = 3, .hkv = 3, .sq = 70, .sk = 100, .d = 32, .dv = 32, .causal = 1, .lse = 1),
    CASE(.name = "team, gqa, bool mask", .hq = 4, .hkv = 2, .sq = 100, .sk = 110, .d = 24, .dv = 24, .mask = MASK_BOOL, .lse = 1),
    CASE(.name = "team, decode and chunks", .b = 2, .hq = 4, .hkv = 2, .sq = 1, .sk = 4000, .d = 16, .dv = 24,
         .kv_lengths = LIST(4000, 2900), .lse = 1),
    CASE(.name = "team, varlen", .hq = 4, .hkv = 2, .sq = 150, .sk = 400, .d = 16, .dv = 16, .n_seq = 4, .cu_q = LIST(0, 1, 2, 120, 150),
         .cu_k = LIST(0, 50, 70, 330, 400), .lse = 1),

    /* ---- paths that only large problems take --------------------------------------------------------------------------- */
    CASE(.name = "colliding rows are copied", .sq = 400, .sk = 60, .d = 8, .dv = 8, .causal = 1, .colliding = 1),
    CASE(.name = "colliding rows, chunks", .hq = 2, .sq = 200, .sk = 970, .d = 4, .dv = 4, .windowed = 1, .window_left = 50,
         .window_right = 20, .q_offset = LIST(760), .colliding = 1),
    CASE(.name = "groups of tiles over long keys", .sq = 140, .sk = 1930, .d = 4, .dv = 4, .windowed = 1, .window_left = 1000,
         .window_right = 10, .q_offset = LIST(1500)),
};

void test_attention(const options *o) {
    (void)o;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        attention_case c = cases[i];
        c.seed = hash_bytes(HASH_START, c.name, strlen(c.name));
        attention_run(&c);
    }
}
