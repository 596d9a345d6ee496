/* SPDX-License-Identifier: MIT */
/* fa_sample: rows of many kinds of draws over sizes around lanes and blocks; random bits and the logarithm by themselves. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../src_c/ops/sample.h"
#include "check.h"

#define ROWS 22 /* the last two are of beams */
#define KEPT 3  /* of the best */
#define TOLD 40 /* tokens so far */
#define SCORE -3.25f

/* ---- random bits, logarithm -------------------------------------------------------------------------------------- */

static void test_philox(void) {
    static const struct { uint32_t counter[4], key[2], expected[4]; } known[] = { /* Random123, kat_vectors */
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    if (!case_begin("sample philox")) return;
    uint64_t hash = HASH_START;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t out[4];
        fa_philox(out, known[i].counter, known[i].key);
        expect_same("words", out, known[i].expected, 4, sizeof *out);
        hash = hash_bytes(hash, out, sizeof out);
    }
    case_end(hash);
}

/* Sums of weights and others: 1 to 2^22 and beyond, and next to powers of sqrt(2), where the range is cut. */
static void test_log(void) {
    if (!case_begin("sample log")) return;
    uint64_t hash = HASH_START;
    for (int64_t i = 0; i < 200000; i++) {
        const uint64_t h = hash_at(5, (uint64_t)i);
        double x = (1.0 + (double)(h >> 12) * 0x1p-52) * (double)((uint64_t)1 << h % 40);
        if (i % 4 == 1) x = 1.0 + (double)(h >> 40) * 0x1p-52;
        if (i % 4 == 2) x = nextafter(ldexp(i % 8 == 2 ? 1.4142135623730951 : 1.0, (int)(h % 40) + 1), i % 16 < 8 ? 0 : 1e99);
        if (i % 8 == 5) x = ldexp(x, -(int)(h >> 20 & 511) - 1); /* below 1 too */
        if (i == 0) x = 1;
        const double got = fa_log(x);
        const long double exact = logl((long double)x);
        if (fabsl(got - exact) > ldexpl(1, ilogb(got == 0 ? 1 : got) - 52)) fail("log %a: %a, exact %La", x, got, exact);
        hash = hash_bytes(hash, &got, sizeof got);
    }
    case_end(hash);
}

static void test_exp(void) {
    if (!case_begin("sample exp")) return;
    uint64_t hash = HASH_START;
    for (int64_t i = 0; i < 100000; i++) {
        const uint64_t h = hash_at(6, (uint64_t)i);
        double x = ((double)(h >> 11) * 0x1p-53 - 0.5) * (i % 3 == 0 ? 1400 : i % 3 == 1 ? 2 : 60);
        if (i < 4) x = i == 0 ? 0 : i == 1 ? -0.0 : i == 2 ? 709.7 : -708.3;
        const double got = fa_exp(x);
        const long double exact = expl((long double)x);
        if (x > -708 && x < 709.7 && fabsl(got - exact) > 2 * ldexpl(1, ilogb(got) - 52)) fail("exp %a: %a, exact %La", x, got, exact);
        if (x < -708 && !(got >= 0 && got < 1e-307)) fail("exp %a: %a", x, got);
        hash = hash_bytes(hash, &got, sizeof got);
    }
    if (fa_exp(1e300) != INFINITY || fa_exp(INFINITY) != INFINITY || fa_exp(-1e300) != 0 || fa_exp(-INFINITY) != 0) fail("exp beyond");
    case_end(hash);
}

static void test_power(void) {
    if (!case_begin("sample power")) return;
    uint64_t hash = HASH_START;
    for (int64_t n = 0; n < 300; n++)
        for (int i = 0; i < 8; i++) {
            const double x = i < 2 ? i : 0.5 + 0.25 * i + (double)(hash_at(8, (uint64_t)i) >> 40) * 0x1p-40, got = fa_power(x, n);
            const long double exact = powl((long double)x, (long double)n);
            if (fabsl(got - exact) > exact * (long double)n * 0x1p-52L) fail("%a to the %d: %a, exact %La", x, (int)n, got, exact);
            hash = hash_bytes(hash, &got, sizeof got);
        }
    if (fa_power(1.5, (int64_t)1 << 62) != INFINITY || fa_power(0.5, (int64_t)1 << 62) != 0 || fa_power(1, INT64_MAX) != 1) fail("power beyond");
    case_end(hash);
}

static void test_units(void) {
    if (!case_begin("sample units")) return;
    for (int i = 0; i < 100000; i++) {
        const float w = i == 0 ? 1.0f : ldexpf((float)(hash_at(9, (uint64_t)i) >> 40) * 0x1p-24f, -(i % 50));
        const uint64_t expected = (uint64_t)llrint(ldexp((double)w, 42));
        if (fa_units(w) != expected) fail("units of %a", (double)w);
    }
    case_end(HASH_START);
}

/* By hand: counting every number against every other. */
static void test_cut(void) {
    static const int64_t sizes[] = {1, 2, 17, 300};
    if (!case_begin("sample cut")) return;
    uint64_t hash = HASH_START;
    float x[300], w[300], left[300], w_left[300];
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int kind = 0; kind < 4; kind++) { /* few values, many, all equal, both zeros among them */
            const int64_t n = sizes[s];
            uint64_t total = 0;
            for (int64_t i = 0; i < n; i++) {
                x[i] = kind == 2 ? -1.0f : bell((uint64_t)kind, (uint64_t)i);
                if (kind == 0) x[i] = rintf(x[i]);
                if (kind == 3 && i % 3) x[i] = i % 3 == 1 ? -0.0f : 0.0f;
                w[i] = exp2f(x[i] - 4.0f);
                total += fa_units(w[i]);
            }
            for (int weighted = 0; weighted < 2; weighted++)
                for (int part = 0; part <= 40; part++) {
                    const uint64_t all = weighted ? total : (uint64_t)n;
                    uint64_t share = all / 40 * (uint64_t)part + (part == 40 ? all % 40 : 0);
                    share = share ? share : 1;
                    const fa_cut cut = fa_sample_cut(x, weighted ? w : NULL, n, share, left, w_left);
                    for (int64_t i = 0, ties = 0; i < n; i++) {
                        uint64_t before = 0;
                        for (int64_t j = 0; j < n; j++)
                            if (x[j] > x[i] || (x[j] == x[i] && j < i)) before += weighted ? fa_units(w[j]) : 1;
                        const int in = fa_order(x[i]) > cut.order || (fa_order(x[i]) == cut.order && ties++ < cut.ties);
                        if (in != (before < share)) fail("%d of %d, kind %d, part %d", (int)i, (int)n, kind, part);
                    }
                    hash = hash_bytes(hash, &cut.order, sizeof cut.order);
                }
        }
    case_end(hash);
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static float logit(int64_t n, int64_t row, int64_t i) {
    const float x = bell((uint64_t)(n + row), (uint64_t)i) * (row % 4 == 3 ? 40.0f : 2.0f);
    if (row % 3 == 2) return rintf(x);
    return row == 7 && i % 2 && i + 1 < n ? -INFINITY : x;
}

typedef struct history {
    int64_t *tokens, *bias_ids, *banned, *heads, *ends, *tails;
    float *bias;
    double *most; /* of each row what may surprise; written */
    uint32_t *allowed;
} history;

/* The tokens so far: of two or three kinds over and over, and what is drawn of many. */
static int64_t told_token(int64_t n, int64_t i) {
    return i < 9 ? (int64_t)(hash_at(2, (uint64_t)i) % (uint64_t)(n + 2)) : i % 7 < 5 ? i % 2 : 2 % n;
}

/* What draws point to, against guard pages. */
static void make_history(int64_t n, guard_side side, history *h) {
    h->tokens = guard_alloc(TOLD * sizeof(int64_t), side, "tokens"), h->bias_ids = guard_alloc(sizeof(int64_t), side, "bias ids");
    h->banned = guard_alloc(sizeof(int64_t), side, "banned"), h->bias = guard_alloc(sizeof(float), side, "bias");
    h->heads = guard_alloc(3 * sizeof(int64_t), side, "heads"), h->ends = guard_alloc(3 * sizeof(int64_t), side, "ends");
    h->tails = guard_alloc(2 * sizeof(int64_t), side, "tails"), h->most = guard_alloc(ROWS * sizeof(double), side, "most");
    /* breakers: 1 behind n; 1 before 2 % n; n + 1 alone */
    h->heads[0] = 1, h->heads[1] = n, h->heads[2] = n + 1, h->ends[0] = 1, h->ends[1] = h->ends[2] = 2, h->tails[0] = 2 % n, h->tails[1] = 1;
    for (int row = 0; row < ROWS; row++) h->most[row] = row == 19 ? -3 : 1.5 + 0.25 * row;
    const int64_t words = (n + 31) / 32;
    h->allowed = guard_alloc((size_t)words * sizeof(uint32_t), side, "allowed");
    for (int64_t i = 0; i < TOLD; i++) h->tokens[i] = told_token(n, i);
    h->bias_ids[0] = n / 2, h->bias[0] = 1.5f, h->banned[0] = 0;
    for (int64_t i = 0; i < words; i++) h->allowed[i] = i % 2 ? 0xffffffffu : 0x55555555u;
    guard_seal(h->tokens), guard_seal(h->bias_ids), guard_seal(h->bias), guard_seal(h->banned), guard_seal(h->allowed);
    guard_seal(h->heads), guard_seal(h->ends), guard_seal(h->tails);
}

static fa_draw draw_of(int64_t n, int64_t row, const history *h) {
    fa_draw d = {.seed = hash_at(1, (uint64_t)row), .which = (uint32_t)row % 3, .step = (uint32_t)row * 77, .top_p = 1,
                 .typical_p = 1, .repetition = 1, .given = -1, .logprobs = row % 2 ? -1 : (int32_t)(n < KEPT ? n : KEPT)};
    if (row % 4) d.temperature = 0.25 * (double)row;
    if (row % 5 == 2) d.top_k = 1 + n / 3;
    if (row == 6 || row == 11) d.top_k = 2;
    if (row % 3 == 0) d.top_p = 0.8;
    if (row > 8) d.min_p = 0.02;
    if (row == 10) d.given = n - 1;
    d.tokens = h->tokens, d.bias_ids = h->bias_ids, d.bias = h->bias, d.n_bias = row % 6 == 4;
    if (row % 2 && row != 19) d.n_tokens = 9, d.prompt = 4, d.repetition = 1.2, d.presence = row == 5 ? 0x1p-1074 : 0.5, d.frequency = -0.25;
    if (row == 8 && n > 1) d.banned = h->banned, d.n_banned = 1;
    if (row == 3 || row == 9) d.allowed = h->allowed;
    if (row == 12 || row == 13) {
        d.n_tokens = row == 12 ? TOLD : 9;
        d.dry = (fa_dry){1.25, row == 12 ? 1.75 : 1e30, row - 11, row == 12 ? 30 : INT64_MAX, h->heads, h->ends, h->tails, 3, 2};
    }
    if (row == 13) d.typical_p = 0.6, d.epsilon = 0.9;
    if (row == 14) d.epsilon = 0.01, d.xtc_probability = 1, d.xtc_threshold = 0.02;
    if (row == 15) d.eta = 0.05, d.typical_p = 0.99;
    if (row == 16) d.decay_ids = h->bias_ids, d.n_decay = 1, d.decay = 1.5, d.decay_steps = 3;
    if (row > 16 && row < 20) d.mirostat = (fa_mirostat){row == 17 ? 1 : 2, 2.5, 0.25, &h->most[row]};
    if (row == 1) d.temperature = 0x1p-1074; /* above 0 also for a caller who flushes denormals */
    if (row >= 20) d.beam = 1, d.score = SCORE, d.logprobs = (int32_t)(n < KEPT ? n : KEPT);
    return d;
}

typedef struct result {
    int64_t tokens[ROWS], ids[ROWS * KEPT];
    float logprobs[ROWS], best[ROWS * KEPT];
    double most[ROWS];
} result;

static void run(int64_t n, const variant *v, result *got) {
    const int64_t kept = n < KEPT ? n : KEPT, shape[2] = {ROWS, n}, best[2] = {ROWS, kept}, rows[1] = {ROWS};
    case_variant(v);
    tensor logits = tensor_make("logits", FA_F32, 2, shape, v->layout, v->side);
    for (int64_t i = 0; i < ROWS * n; i++) *(float *)view_at(&logits.view, i) = logit(n, i / n, i % n);
    guard_seal(logits.memory);
    tensor tokens = tensor_make("tokens", FA_I64, 1, rows, DENSE, v->side), told = tensor_make("logprobs", FA_F32, 1, rows, DENSE, v->side);
    tensor ids = tensor_make("ids", FA_I64, 2, best, v->layout, v->side), values = tensor_make("best", FA_F32, 2, best, v->layout, v->side);
    history arrays;
    make_history(n, v->side, &arrays);
    fa_draw *draws = guard_alloc(ROWS * sizeof *draws, v->side, "draws");
    for (int64_t row = 0; row < ROWS; row++) draws[row] = draw_of(n, row, &arrays);
    guard_seal(draws);
    const fa_ctx ctx = variant_ctx(v);
    size_t bytes = 0;
    int64_t bad = 7;
    expect_status("query", fa_sample_workspace(&ctx, &logits.view, draws, &bytes), FA_OK);
    void *ws = guard_alloc(bytes, v->side, "workspace");
    if (v->hostile) memset(ws, 0xff, bytes);
    hostile_enter(v);
    const fa_status status = fa_sample(&ctx, &tokens.view, &told.view, &ids.view, &values.view, &logits.view, draws, ws, bytes, &bad);
    hostile_leave(v);
    expect_status("sample", status, FA_OK);
    if (bad != -1) fail("bad row %d", (int)bad);
    expect_clean("workspace", guard_free(ws));
    memset(got, 0, sizeof *got);
    tensor_gather(&tokens, got->tokens), tensor_gather(&told, got->logprobs), tensor_gather(&ids, got->ids), tensor_gather(&values, got->best);
    memcpy(got->most, arrays.most, sizeof got->most);
    expect_clean("tokens", tensor_free_output(&tokens)), expect_clean("logprobs", tensor_free_output(&told));
    expect_clean("ids", tensor_free_output(&ids)), expect_clean("best", tensor_free_output(&values));
    expect_clean("logits", tensor_free(&logits)), expect_clean("draws", guard_free(draws));
    expect_clean("history", guard_free(arrays.tokens) + guard_free(arrays.bias_ids) + guard_free(arrays.bias));
    expect_clean("banned, allowed", guard_free(arrays.banned) + guard_free(arrays.allowed) + guard_free(arrays.most));
    expect_clean("breakers", guard_free(arrays.heads) + guard_free(arrays.ends) + guard_free(arrays.tails));
}

/* Log probabilities in long double; what is greedy, given or among the best by hand. */
static void check_rows(int64_t n, const result *got) {
    for (int64_t row = 0; row < ROWS; row++) {
        long double sum = 0;
        int64_t first = 0;
        for (int64_t i = 0; i < n; i++)
            if (logit(n, row, i) > logit(n, row, first)) first = i;
        for (int64_t i = 0; i < n; i++) sum += expl((long double)logit(n, row, i) - logit(n, row, first));
        const int64_t token = got->tokens[row];
        if (token < 0 || token >= n) fail("row %d: token %d", (int)row, (int)token);
        if (row == 0 && token != first) fail("row %d: %d is not the highest", (int)row, (int)token);
        if (row == 10 && token != n - 1) fail("row %d: %d was not given", (int)row, (int)token);
        if ((row == 3 || row == 9) && token / 32 % 2 == 0 && token % 2) fail("row %d: %d is not allowed", (int)row, (int)token);
        if (row == 19 && token != first) fail("row %d: %d surprises more than the highest", (int)row, (int)token);
        if ((row < 17 || row >= 19) && got->most[row] != (row == 19 ? -3 + 0.25 * 2.5 : 1.5 + 0.25 * (double)row)) fail("row %d: %a", (int)row, got->most[row]);
        if (row >= 20 && got->ids[row * (n < KEPT ? n : KEPT)] != token) fail("row %d: %d is not the best", (int)row, (int)token);
        if (row == 21) continue;
        if (row % 2) {
            if (!isnan(got->logprobs[row])) fail("row %d: a log probability nobody asked for", (int)row);
            continue;
        }
        const long double exact = (long double)logit(n, row, token) - logit(n, row, first) - logl(sum);
        if (fabsl(got->logprobs[row] - exact) > 2e-7L + 0x1p-24L * fabsl(exact)) fail("row %d: %a, exact %La", (int)row, (double)got->logprobs[row], exact);
        if (got->ids[row * (n < KEPT ? n : KEPT)] != first) fail("row %d: the best", (int)row);
        if (row == 20 && got->best[row * (n < KEPT ? n : KEPT)] != got->logprobs[row] + SCORE) fail("row %d: its score", (int)row);
    }
}

static void run_size(int64_t n) {
    if (!case_begin("sample %d", (int)n)) return;
    result base, got;
    const variant first = variant_of(0, 0);
    run(n, &first, &base);
    check_rows(n, &base);
    for (int isa = 0; isa < fa_isa_count(); isa++) {
        if (!isa_selected(isa)) continue;
        for (int index = 0; index < VARIANTS_PER_ISA; index++) {
            const variant v = variant_of(isa, index);
            run(n, &v, &got);
            expect_same("result", &got, &base, 1, sizeof got);
        }
    }
    case_variant(&first);
    case_end(hash_bytes(HASH_START, &base, sizeof base));
}

/* ---- what is refused --------------------------------------------------------------------------------------------- */

static fa_dry dry_of(double multiplier, double base, int64_t allowed, int64_t last, const int64_t *heads, const int64_t *ends,
                     const int64_t *tails, int64_t n_heads, int64_t n_tails) {
    return (fa_dry){multiplier, base, allowed, last, heads, ends, tails, n_heads, n_tails};
}

static void test_refused(void) {
    if (!case_begin("sample refused")) return;
    enum { N = 40 };
    static float x[3 * N], told[3], best[6], bias[2] = {1, 2};
    static int64_t tokens[3], ids[6], history[2] = {1, -1}, up[2] = {3, 3}, down[2] = {3, 2}, far[1] = {N};
    static _Alignas(64) char ws[1 << 15];
    const variant v = variant_of(0, 0);
    const fa_ctx ctx = variant_ctx(&v);
    case_variant(&v);
    for (int i = 0; i < 3 * N; i++) x[i] = bell(1, (uint64_t)i);
    fa_view logits = {x, {3, N}, {4 * N, 4}, 2, FA_F32}, to = {tokens, {3}, {8}, 1, FA_I64}, p = {told, {3}, {4}, 1, FA_F32};
    fa_view index = {ids, {3, 2}, {16, 8}, 2, FA_I64}, values = {best, {3, 2}, {8, 4}, 2, FA_F32};
    const fa_draw good = {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition = 1, .given = -1, .logprobs = 2};
    fa_draw draws[3] = {good, good, good};
    size_t need = 0;
    int64_t bad = 9;
    expect_status("query", fa_sample_workspace(&ctx, &logits, draws, &need), FA_OK);
    if (need > sizeof ws) fail("a workspace of %zu bytes", need);
#define CALL(ws, n) fa_sample(&ctx, &to, &p, &index, &values, &logits, draws, ws, n, &bad)
#define GIVES(status) expect_status(#status, CALL(ws, need), status)
#define SPOILS(what) \
    do { \
        draws[1].what; \
        GIVES(FA_ERR_VALUE); \
        if (bad != 1) fail(#what ": row %d", (int)bad); \
        draws[1] = good; \
    } while (0)
    for (int i = 0; i < 3; i++) tokens[i] = 77;
    SPOILS(temperature = -1); SPOILS(temperature = NAN); SPOILS(temperature = INFINITY); SPOILS(top_k = -1);
    SPOILS(top_p = 0); SPOILS(top_p = 1.5); SPOILS(top_p = NAN); SPOILS(min_p = -0.1); SPOILS(min_p = 1.1); SPOILS(min_p = NAN);
    SPOILS(repetition = 0); SPOILS(repetition = NAN); SPOILS(repetition = 1e39); SPOILS(repetition = 1e-39);
    SPOILS(presence = NAN); SPOILS(presence = 1e39); SPOILS(frequency = -INFINITY); SPOILS(logprobs = -2);
    SPOILS(typical_p = 0); SPOILS(typical_p = 1.01); SPOILS(typical_p = NAN); SPOILS(epsilon = -1); SPOILS(epsilon = NAN);
    SPOILS(epsilon = 1.5); SPOILS(eta = 1.5); SPOILS(eta = 0x1p-1073); SPOILS(eta = NAN);
    SPOILS(xtc_probability = 1.5); SPOILS(xtc_probability = NAN); SPOILS(xtc_threshold = -1); SPOILS(xtc_threshold = NAN);
#define MIROSTAT(...) SPOILS(mirostat = ((fa_mirostat){__VA_ARGS__}))
    double most = 3, none = NAN, endless = INFINITY;
    MIROSTAT(3, 1, 0.5, &most); MIROSTAT(-1, 1, 0.5, &most); MIROSTAT(1, -1, 0.5, &most); MIROSTAT(2, NAN, 0.5, &most);
    MIROSTAT(2, 65, 0.5, &most); MIROSTAT(2, 1, 1.5, &most); MIROSTAT(2, 1, NAN, &most); MIROSTAT(2, 1, 0.5, NULL);
    MIROSTAT(2, 1, 0.5, &none); MIROSTAT(1, 1, 0.5, &endless);
#define NO_BREAKERS NULL, NULL, NULL, 0, 0
#define DRY(...) SPOILS(dry = dry_of(__VA_ARGS__))
    static const int64_t heads[2] = {4, 3}, ends[2] = {1, 0}, ahead[1] = {-1}, behind[1] = {2};
    DRY(-1, 2, 2, 9, NO_BREAKERS); DRY(NAN, 2, 2, 9, NO_BREAKERS); DRY(1e39, 2, 2, 9, NO_BREAKERS); DRY(1, 0.5, 2, 9, NO_BREAKERS); DRY(1, NAN, 2, 9, NO_BREAKERS);
    DRY(1, 2, -1, 9, NO_BREAKERS); DRY(1, 2, 2, -1, NO_BREAKERS); DRY(1, 2, 2, 9, NULL, ends, NULL, 1, 0); DRY(1, 2, 2, 9, heads, NULL, NULL, 1, 0);
    DRY(1, 2, 2, 9, heads + 1, ends, NULL, 1, 1); DRY(1, 2, 2, 9, heads, (int64_t[2]){0}, NULL, 2, 0);
    DRY(1, 2, 2, 9, (int64_t[2]){1, 2}, ends, history, 2, 1); DRY(1, 2, 2, 9, heads, ahead, history, 1, 1);
    DRY(1, 2, 2, 9, heads, behind, history, 1, 1); DRY(1, 2, 2, 9, heads, ends, history, -1, 1); DRY(1, 2, 2, 9, heads, ends, history, 1, -1);
    SPOILS(tokens = history; draws[1].n_tokens = 2; draws[1].dry = ((fa_dry){.multiplier = 1, .base = 1, .last = 9}));
    SPOILS(n_decay = 1); SPOILS(n_decay = -1); SPOILS(decay_steps = -1); SPOILS(decay_ids = far; draws[1].n_decay = 1; draws[1].decay = 1);
    SPOILS(decay_ids = up; draws[1].n_decay = 2; draws[1].decay = 1); SPOILS(decay_ids = up; draws[1].n_decay = 1; draws[1].decay = NAN);
    SPOILS(decay_ids = up; draws[1].n_decay = 1; draws[1].decay = 0); SPOILS(decay_ids = up; draws[1].n_decay = 1; draws[1].decay = 1e39);
    SPOILS(given = -2); SPOILS(given = N); SPOILS(n_tokens = 1); SPOILS(n_tokens = -1); SPOILS(prompt = 1); SPOILS(prompt = -1);
    SPOILS(beam = 1; draws[1].given = 1); SPOILS(beam = 1; draws[1].logprobs = -1); SPOILS(beam = 1; draws[1].score = NAN);
    SPOILS(beam = 1; draws[1].score = -INFINITY); SPOILS(beam = 1; draws[1].score = INFINITY);
    SPOILS(n_bias = 1); SPOILS(n_bias = -1); SPOILS(n_banned = 1); SPOILS(n_banned = -1);
    SPOILS(tokens = history; draws[1].n_tokens = 2; draws[1].presence = 1); SPOILS(banned = far; draws[1].n_banned = 1);
    SPOILS(bias_ids = far; draws[1].bias = bias; draws[1].n_bias = 1); SPOILS(bias_ids = down; draws[1].bias = bias; draws[1].n_bias = 2);
    draws[1].bias_ids = up, draws[1].bias = bias, draws[1].n_bias = 1;
    bias[0] = NAN, GIVES(FA_ERR_VALUE), bias[0] = INFINITY, GIVES(FA_ERR_VALUE), bias[0] = 1, draws[1] = good;
    expect_status("small", CALL(ws, need - 1), FA_ERR_WORKSPACE);
    expect_status("crooked", CALL(ws + 4, need), FA_ERR_WORKSPACE);
    expect_status("none", CALL(NULL, 0), FA_ERR_WORKSPACE);
    logits.shape[1] = 0, GIVES(FA_ERR_SHAPE), logits.shape[1] = FA_SAMPLE_MOST + 1, GIVES(FA_ERR_SHAPE), logits.shape[1] = N;
    logits.dtype = FA_F16, GIVES(FA_ERR_DTYPE), logits.dtype = FA_F32, logits.stride[1] = 8, GIVES(FA_ERR_STRIDE), logits.stride[1] = 4;
    to.shape[0] = 2, GIVES(FA_ERR_SHAPE), to.shape[0] = 3, to.dtype = FA_I32, GIVES(FA_ERR_DTYPE), to.dtype = FA_I64;
    p.shape[0] = 4, GIVES(FA_ERR_SHAPE), p.shape[0] = 3, index.shape[0] = 2, GIVES(FA_ERR_SHAPE), index.shape[0] = 3;
    values.shape[1] = 1, GIVES(FA_ERR_SHAPE), index.shape[1] = 1, GIVES(FA_ERR_SHAPE), values.shape[1] = index.shape[1] = 2;
    expect_status("no place", fa_sample(&ctx, &to, NULL, NULL, NULL, &logits, draws, ws, need, &bad), FA_ERR_SHAPE);
    expect_status("half", fa_sample(&ctx, &to, &p, &index, NULL, &logits, draws, ws, need, &bad), FA_ERR_SHAPE);
    for (int i = 0; i < 3; i++)
        if (tokens[i] != 77) fail("token %d was written", i);
    x[N + 3] = NAN;
    GIVES(FA_ERR_NAN);
    if (bad != 1 || tokens[0] < 0 || tokens[1] != -1 || tokens[2] < 0 || !isnan(told[1]) || ids[2] != -1) fail("a row of NaN");
    for (int i = 0; i < N; i++) x[i] = -INFINITY;
    GIVES(FA_ERR_EMPTY);
    if (bad != 0 || tokens[0] != -2 || tokens[1] != -1 || tokens[2] < 0) fail("a row of nothing");
    logits.shape[0] = to.shape[0] = p.shape[0] = index.shape[0] = values.shape[0] = 0;
    GIVES(FA_OK);
    case_end(HASH_START);
#undef MIROSTAT
#undef DRY
#undef NO_BREAKERS
#undef SPOILS
#undef GIVES
#undef CALL
}

void test_sample(const options *o) {
    static const int64_t sizes[] = {1, 2, 15, 16, 17, 255, 256, 257, 511, 1030, 5000};
    (void)o;
    test_philox();
    test_log();
    test_exp();
    test_power();
    test_units();
    test_cut();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) run_size(sizes[i]);
    test_refused();
}
