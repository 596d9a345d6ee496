/* SPDX-License-Identifier: MIT */
/* Steps of routes and experts: the bytes of the operators, over tables and arrays; what does not fit is refused when it is made. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "program_lab.h"

enum { T = 19, H = 24, EXPERTS = 6, TOP = 2, INNER = 10, IN_SEED = 2, LOGIT_SEED = 3 };

static _Alignas(64) float up_panels[EXPERTS * 32 * H], down_panels[EXPERTS * 32 * INNER];
static float bias[EXPERTS * 32];
static const fa_linear_weights up = {.dtype = FA_F32, .panels = up_panels}, down = {.dtype = FA_F32, .panels = down_panels};

static fa_view vector(int64_t n) { return (fa_view){bias, {n}, {4}, 1, FA_F32}; }

static void fill(void) {
    for (int i = 0; i < EXPERTS * 32 * H; i++) up_panels[i] = bell(40, (uint64_t)i) * 0.3f;
    for (int i = 0; i < EXPERTS * 32 * INNER; i++) down_panels[i] = bell(41, (uint64_t)i) * 0.3f;
    for (int i = 0; i < EXPERTS * 32; i++) bias[i] = bell(42, (uint64_t)i) * 0.3f;
}

typedef struct moe {
    lab l;
    fa_step *route, *experts, *again, *third;
    int out;
} moe;

/* Three times the same layer, of which the third wants the workspace of the second. */
static void moe_begin(moe *m, const variant *v, int64_t rows) {
    lab *l = &m->l;
    lab_begin(l, v, 5);
    l->batch.rows[TOKENS] = rows;
    m->out = lab_floats(l, "out", TOKENS, H + 3, 9);
    const int in = lab_floats(l, "in", TOKENS, H, IN_SEED), logits = lab_floats(l, "logits", TOKENS, EXPERTS, LOGIT_SEED);
    const fa_value x = lab_column(l, in, 0, H), routes = lab_table(l, TOKENS, 2 * TOP, 0, 2 * TOP), y = lab_table(l, TOKENS, H, 0, H);
    const fa_value z = lab_table(l, TOKENS, H, 0, H), w = lab_table(l, TOKENS, H, 0, H);
    m->route = lab_step(l, FA_STEP_ROUTE, routes, lab_column(l, logits, 0, EXPERTS));
    m->route->route = (fa_route_params){.top = TOP, .score = FA_ROUTE_SIGMOID, .scale = 1, .groups = 1, .top_groups = 1, .normalize = 1};
    m->route->bias = vector(EXPERTS);
    m->experts = lab_step(l, FA_STEP_EXPERTS, y, x);
    m->again = lab_step(l, FA_STEP_EXPERTS, z, y);
    m->third = lab_step(l, FA_STEP_EXPERTS, w, z);
    lab_step(l, FA_STEP_COPY, lab_column(l, m->out, 2, H), w);
    for (fa_step *s = m->experts; s <= m->third; s++) {
        s->y = routes;
        s->experts = (fa_experts_params){.count = EXPERTS, .inner = INNER, .top = TOP, .act = FA_ACT_SILU, .up = &up, .down = &down};
        s->bias = s->weight = vector(EXPERTS * 32);
    }
}

static void by_hand(int64_t rows, float *out) {
    const fa_ctx ctx = {.kernels = fa_kernels_for(0), .num_threads = 1};
    float *x = scratch(rows * H, 4), *y = scratch(rows * H, 4), *logits = scratch(rows * EXPERTS, 4), *routes = scratch(rows * 2 * TOP, 4);
    for (int64_t i = 0; i < rows * H; i++) x[i] = bell(IN_SEED, (uint64_t)i);
    for (int64_t i = 0; i < rows * EXPERTS; i++) logits[i] = bell(LOGIT_SEED, (uint64_t)i);
    const fa_view in = {x, {rows, H}, {4 * H, 4}, 2, FA_F32}, middle = {y, {rows, H}, {4 * H, 4}, 2, FA_F32}, to = {out, {rows, H}, {4 * H, 4}, 2, FA_F32};
    const fa_view from = {logits, {rows, EXPERTS}, {4 * EXPERTS, 4}, 2, FA_F32}, named = {routes, {rows, 2 * TOP}, {8 * TOP, 4}, 2, FA_F32};
    const fa_view few = vector(EXPERTS), all = vector(EXPERTS * 32);
    const fa_route_params r = {.top = TOP, .score = FA_ROUTE_SIGMOID, .scale = 1, .groups = 1, .top_groups = 1, .normalize = 1, .bias = &few};
    const fa_experts_params p = {.count = EXPERTS, .inner = INNER, .top = TOP, .act = FA_ACT_SILU, .up = &up, .down = &down,
                                 .up_bias = &all, .down_bias = &all};
    _Alignas(64) static char ws[1 << 20];
    expect_status("route", fa_route(&ctx, &named, &from, &r, ws, sizeof ws), FA_OK);
    expect_status("experts", fa_experts(&ctx, &middle, &in, &named, &p, ws, sizeof ws), FA_OK);
    expect_status("experts", fa_experts(&ctx, &in, &middle, &named, &p, ws, sizeof ws), FA_OK);
    expect_status("experts", fa_experts(&ctx, &to, &in, &named, &p, ws, sizeof ws), FA_OK);
    free(x), free(y), free(logits), free(routes);
}

static void runs(void) {
    if (!case_begin("program of experts")) return;
    static const int64_t counts[] = {0, 1, T};
    uint64_t hash = HASH_START;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        const int64_t count = counts[i] * H;
        float *base = scratch(count, sizeof *base), *got = scratch(count, sizeof *got);
        by_hand(counts[i], base);
        for (int isa = 0; isa < fa_isa_count(); isa++)
            for (int index = 0; index < VARIANTS_PER_ISA && isa_selected(isa); index++) {
                const variant v = variant_of(isa, index);
                int64_t bad;
                moe m;
                moe_begin(&m, &v, counts[i]);
                expect_status("run", lab_run(&m.l, &bad), FA_OK);
                if (m.experts->like != 1 || m.again->like != 2 || m.third->like != 2)
                    fail("the third layer is like step %lld", (long long)m.third->like);
                lab_read(&m.l, m.out, 2, H, 9, got);
                expect_same("out", got, base, count, sizeof *got);
                lab_end(&m.l);
            }
        hash = hash_bytes(hash, base, (size_t)count * sizeof *base);
        free(base), free(got);
    }
    case_end(hash);
}

static void checks(void) {
    if (!case_begin("program of experts, checks")) return;
    const variant v = variant_of(0, 0);
#define REFUSES(step, spoil) \
    do { \
        moe m; \
        moe_begin(&m, &v, T); \
        spoil; \
        int64_t bad = -7; \
        expect_status(#spoil, fa_program_check(&m.l.program, &bad), FA_ERR_SHAPE); \
        if (bad != (step)) fail(#spoil ": names step %lld, expected %d", (long long)bad, step); \
        lab_end(&m.l); \
    } while (0)
    REFUSES(0, m.route->route.top = 3);
    REFUSES(0, m.route->route.top = 0);
    REFUSES(0, m.route->route.groups = 4);
    REFUSES(0, m.route->route.score = 7);
    REFUSES(0, m.route->route.scale = INFINITY);
    REFUSES(0, m.route->bias = vector(EXPERTS + 1));
    REFUSES(0, m.route->out.width = 3);
    REFUSES(0, m.route->x = (m.route->x.width = 2 * TOP, m.route->out));
    REFUSES(1, m.experts->x.rows = SEQUENCES);
    REFUSES(1, m.experts->x.width = H - 1);
    REFUSES(1, m.experts->y.width = 0);
    REFUSES(1, m.experts->y.width = 2 * TOP - 1);
    REFUSES(1, m.experts->experts.top = 1);
    REFUSES(1, m.experts->experts.count = 0);
    REFUSES(1, m.experts->experts.inner = -1);
    REFUSES(1, m.experts->experts.up = NULL);
    REFUSES(1, m.experts->experts.gate = 9);
    REFUSES(1, m.experts->bias = vector(EXPERTS * 32 - 1));
    REFUSES(1, m.experts->weight = vector(3));
    REFUSES(1, m.experts->out = m.experts->x);
    REFUSES(2, m.again->out = m.again->x);
    REFUSES(3, m.third->experts.up = &(const fa_linear_weights){.dtype = FA_BOOL});
#undef REFUSES
    case_end(HASH_START);
}

void test_program_experts(const options *o) {
    (void)o;
    fill();
    runs();
    checks();
}
