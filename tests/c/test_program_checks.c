/* SPDX-License-Identifier: MIT */
/* Programs that cannot be run are refused when they are made, by the step that does not fit. */
#include <math.h>
#include <stdlib.h>

#include "program_call.h"

/* A status of the check with the step that it names: -1 for the program itself. */
#define REFUSES(expected, step, spoil) \
    do { \
        call c; \
        call_begin(&c, &call_variant); \
        spoil; \
        int64_t bad = -7; \
        expect_status(#spoil, fa_program_check(&c.l.program, &bad), expected); \
        if (bad != (step)) fail(#spoil ": names step %lld, expected %d", (long long)bad, (int)(step)); \
        lab_end(&c.l); \
    } while (0)

#define JOINS(A, B) \
    (c.s[LINEAR].kind = FA_STEP_JOIN, c.s[LINEAR].heads = 3, c.s[LINEAR].head_size = (A), c.s[LINEAR].v_head_size = (B), \
     c.s[LINEAR].y = c.s[SCALE].x, c.s[LINEAR].y.width = 8)
#define SHAPE(step, spoil) REFUSES(FA_ERR_SHAPE, step, spoil)

static void program_itself(void) {
    if (!case_begin("program check, itself")) return;
    REFUSES(FA_OK, -1, (void)0);
    REFUSES(FA_OK, -1, c.l.program.n_steps = 0);
    SHAPE(-1, c.l.program.columns[SEQUENCES] = -16);
    SHAPE(-1, c.l.program.columns[FA_ROW_KINDS - 1] += 1);
    SHAPE(-1, c.l.program.columns[OTHERS] = INT64_MAX / 16 * 16);
    SHAPE(-1, c.l.program.n_steps = -1);
    SHAPE(-1, c.l.program.n_arrays = -1);
    SHAPE(-1, c.l.program.n_layers = -1);
    SHAPE(-1, c.l.program.n_groups = INT32_MIN);
    REFUSES(FA_ERR_DTYPE, -1, c.l.arrays[IN].dtype = FA_F16);
    REFUSES(FA_ERR_DTYPE, -1, c.l.arrays[IN].dtype = 99);
    SHAPE(-1, c.l.arrays[IN].ndim = 0);
    SHAPE(-1, c.l.arrays[IN].ndim = 5);
    SHAPE(-1, c.l.arrays[IN].rows = -2);
    SHAPE(-1, c.l.arrays[IN].rows = FA_ROW_KINDS);
    SHAPE(-1, c.l.arrays[ENDS].more = -1);
    SHAPE(-1, c.l.arrays[ENDS].more = INT32_MAX);
    SHAPE(-1, c.l.arrays[IN].width = -2);
    SHAPE(-1, c.l.arrays[IN].width = INT64_MAX);
    case_end(HASH_START);
}

static void values(void) {
    if (!case_begin("program check, values")) return;
    REFUSES(FA_ERR_VALUE, LINEAR, c.s[LINEAR].kind = -1);
    REFUSES(FA_ERR_VALUE, COPY, c.s[COPY].kind = 1000);
    REFUSES(FA_ERR_VALUE, COPY, c.s[COPY].kind = INT32_MAX);
    SHAPE(LINEAR, c.s[LINEAR].x.rows = -1);
    SHAPE(LINEAR, c.s[LINEAR].out.rows = FA_ROW_KINDS);
    SHAPE(LINEAR, c.s[LINEAR].out.rows = INT32_MAX);
    SHAPE(LINEAR, c.s[LINEAR].out.at += 8);
    SHAPE(LINEAR, c.s[LINEAR].out.at = -16);
    SHAPE(LINEAR, c.s[LINEAR].out.at = c.l.program.columns[TOKENS]);
    SHAPE(LINEAR, c.s[LINEAR].out.at = INT64_MAX / 16 * 16);
    SHAPE(LINEAR, c.s[LINEAR].x.at = INT64_MIN);
    SHAPE(LINEAR, c.s[LINEAR].out.stride = INT64_MAX);
    SHAPE(LINEAR, c.s[LINEAR].out.stride = 0);
    SHAPE(LINEAR, c.s[LINEAR].x.stride = H - 1);
    SHAPE(LINEAR, c.s[LINEAR].x.width = 0);
    SHAPE(LINEAR, c.s[LINEAR].x.width = -H);
    SHAPE(LINEAR, c.s[LINEAR].x.width = INT64_MAX);
    SHAPE(ATTEND, c.s[ATTEND].z.first = 2 * H + 1);
    SHAPE(ATTEND, c.s[ATTEND].z.first = -1);
    SHAPE(ATTEND, c.s[ATTEND].y.first = INT64_MAX);
    SHAPE(ATTEND, c.s[ATTEND].y.width = 0);
    SHAPE(ATTEND, c.s[ATTEND].z.width = INT64_MIN);
    SHAPE(COPY, c.s[COPY].out.array = ARRAYS);
    SHAPE(COPY, c.s[COPY].out.array = -2); /* as memory it would overlap what it likes */
    SHAPE(COPY, c.s[COPY].out.array = IDS);
    SHAPE(COPY, c.s[COPY].out.array = COS);
    SHAPE(COPY, c.s[COPY].out.stride = H);
    SHAPE(COPY, c.l.arrays[OUT].optional = 1);
    SHAPE(COPY, c.l.arrays[OUT].rows = SEQUENCES);
    SHAPE(SCALE, c.l.arrays[IN].width = -1);
    /* overlaps */
    SHAPE(LINEAR, (c.s[LINEAR].x = c.s[LINEAR].out, c.s[LINEAR].x.width = H));
    SHAPE(LINEAR, (c.s[LINEAR].x.at = c.s[LINEAR].out.at));
    SHAPE(LINEAR, (c.s[LINEAR].x.at = c.s[LINEAR].out.at + 32)); /* the last columns of it, padding aside */
    SHAPE(LINEAR, (c.s[LINEAR].x.at = c.s[LINEAR].out.at + 16));
    SHAPE(ATTEND, c.s[ATTEND].out = c.s[ATTEND].x);
    SHAPE(ATTEND, c.s[ATTEND].out = c.s[ATTEND].y);
    SHAPE(ATTEND, c.s[ATTEND].out = c.s[ATTEND].z);
    SHAPE(ATTEND, (c.s[ATTEND].out = c.s[ATTEND].z, c.s[ATTEND].out.first = H + 5));
    SHAPE(NORM, (c.s[NORM].x = c.s[ATTEND].x, c.s[NORM].out = c.s[ATTEND].x, c.s[NORM].out.first = 1));
    SHAPE(NORM, (c.s[NORM].y = c.s[ATTEND].x, c.s[NORM].out = c.s[ATTEND].x, c.s[NORM].out.first = H - 1));
    SHAPE(GATED, c.s[GATED].out.first = 5);
    SHAPE(ADD, (c.s[ADD].out = c.s[ATTEND].x, c.s[ADD].y = c.s[ATTEND].x, c.s[ADD].y.first = 1));
    SHAPE(ACTIVATE, (c.s[ACTIVATE].out = c.s[ATTEND].x, c.s[ACTIVATE].x = c.s[ATTEND].x, c.s[ACTIVATE].x.first = 1));
    SHAPE(COPY, c.s[COPY].x = c.s[COPY].out);
    SHAPE(COPY, (c.s[COPY].x = c.s[COPY].out, c.s[COPY].x.first = H - 1));
    SHAPE(GATHER, (c.s[GATHER].x = c.s[GATHER].out, c.s[GATHER].x.width = H));
    SHAPE(POOL, (c.s[POOL].x = c.s[POOL].out));
    REFUSES(FA_OK, -1, (c.s[ADD].x = c.s[ADD].out = c.s[ADD].y));
    case_end(HASH_START);
}

static void rows_and_widths(void) {
    if (!case_begin("program check, rows and widths")) return;
    const fa_value sums = {.rows = SEQUENCES, .array = -1, .stride = 16, .width = H};
    SHAPE(LINEAR, c.s[LINEAR].x = sums);
    SHAPE(ATTEND, c.s[ATTEND].z.rows = SEQUENCES);
    SHAPE(ATTEND, (c.s[ATTEND].x.width = H - 1));
    SHAPE(ATTEND, (c.s[ATTEND].y.width = H - SIZE));
    SHAPE(ATTEND, (c.s[ATTEND].z.width = H - 1));
    SHAPE(ATTEND, (c.s[ATTEND].out.width = H - 1));
    SHAPE(ATTEND, c.s[ATTEND].heads = 0);
    SHAPE(ATTEND, c.s[ATTEND].heads = -HEADS);
    SHAPE(ATTEND, c.s[ATTEND].heads = INT64_MAX);
    SHAPE(ATTEND, c.s[ATTEND].kv_heads = INT64_MIN);
    SHAPE(ATTEND, c.s[ATTEND].kv_heads = 2);
    SHAPE(ATTEND, c.s[ATTEND].kv_heads = (int64_t)1 << 62);
    SHAPE(ATTEND, c.s[ATTEND].head_size = 0);
    SHAPE(ATTEND, c.s[ATTEND].head_size = INT64_MAX);
    SHAPE(ATTEND, c.s[ATTEND].v_head_size = (int64_t)1 << 62);
    SHAPE(RMS, c.s[RMS].heads = 5);
    SHAPE(RMS, c.s[RMS].heads = INT64_MAX);
    SHAPE(RMS, c.s[RMS].y = c.s[ADD].x);
    SHAPE(RMS, c.s[RMS].bias = c.s[RMS].weight);
    SHAPE(RMS, c.s[RMS].weight = call_vector(H));
    SHAPE(RMS, c.s[RMS].kind = FA_STEP_LAYER_NORM);
    SHAPE(NORM, c.s[NORM].y = sums);
    SHAPE(NORM, c.s[NORM].y.width = H - 1);
    SHAPE(NORM, c.s[NORM].weight.ndim = 0);
    SHAPE(NORM, c.s[NORM].weight.dtype = FA_F16);
    SHAPE(NORM, c.s[NORM].weight.stride[0] = 8);
    SHAPE(NORM, c.s[NORM].bias.shape[0] = H + 1);
    SHAPE(LINEAR, c.s[LINEAR].bias.shape[0] = H);
    SHAPE(LINEAR, c.s[LINEAR].weights = NULL);
    SHAPE(LINEAR, c.s[LINEAR].act = FA_ACT_SIGMOID + 1);
    SHAPE(GATED, c.s[GATED].act = -1);
    SHAPE(ACTIVATE, c.s[ACTIVATE].act = 99);
    SHAPE(GATED, c.s[GATED].y.width = 0);
    SHAPE(ADD, c.s[ADD].y.width = H - 1);
    SHAPE(ADD, c.s[ADD].x = sums);
    SHAPE(SCALE, c.s[SCALE].x.width = H - 1);
    SHAPE(NORMALIZE, c.s[NORMALIZE].x.width = H - 1);
    REFUSES(FA_OK, -1, c.s[ROPE].out = c.s[ROPE].x = c.s[ADD].x);
    SHAPE(ROPE, c.s[ROPE].out.first = 1);
    SHAPE(ROPE, c.s[ROPE].heads = 5);
    SHAPE(ROPE, c.s[ROPE].heads = 0);
    SHAPE(ROPE, c.s[ROPE].heads = INT64_MIN);
    SHAPE(ROPE, c.s[ROPE].head_size = INT64_MAX);
    SHAPE(ROPE, c.s[ROPE].v_head_size = c.s[ROPE].head_size);
    SHAPE(ROPE, c.s[ROPE].v_head_size = -1);
    SHAPE(GATHER, c.s[GATHER].out.width = H);
    SHAPE(GATHER, c.l.arrays[INDEX].width = -1);
    SHAPE(GATHER, c.l.arrays[INDEX].width = (int64_t)1 << 40);
    SHAPE(POOL, c.s[POOL].out.width = H - 1);
    SHAPE(POOL, c.s[POOL].act = FA_POOL_WEIGHTED_MEAN + 1);
    SHAPE(EMBED, c.s[EMBED].n_tables = 0);
    SHAPE(EMBED, c.s[EMBED].n_tables = FA_STEP_TABLES + 1);
    SHAPE(EMBED, c.s[EMBED].tables[0].shape[1] = H + 1);
    SHAPE(EMBED, c.s[EMBED].tables[0].dtype = FA_I64);
    SHAPE(DISENTANGLED, c.s[DISENTANGLED].disentangled.c2p = c.s[DISENTANGLED].disentangled.p2c = NULL);
    SHAPE(DISENTANGLED, c.s[DISENTANGLED].kv_heads = 1);
    /* numbers */
    REFUSES(FA_ERR_VALUE, NORM, c.s[NORM].eps = NAN);
    REFUSES(FA_ERR_VALUE, RMS, c.s[RMS].eps = -1e-5f);
    REFUSES(FA_ERR_VALUE, NORMALIZE, c.s[NORMALIZE].eps = INFINITY);
    REFUSES(FA_ERR_VALUE, ATTEND, c.s[ATTEND].attention.scale = NAN);
    REFUSES(FA_ERR_VALUE, ATTEND, c.s[ATTEND].attention.softcap = -1);
    REFUSES(FA_ERR_VALUE, ATTEND, c.s[ATTEND].attention.window_left = INT64_MAX);
    REFUSES(FA_ERR_VALUE, ATTEND, c.s[ATTEND].attention.window_right = -2);
    REFUSES(FA_ERR_VALUE, ATTEND, c.s[ATTEND].attention.sink_tokens = INT64_MIN);
    REFUSES(FA_ERR_VALUE, ATTEND, c.s[ATTEND].attention.chunk = -1);
    REFUSES(FA_ERR_VALUE, SCALE, (c.s[SCALE].kind = FA_STEP_CLAMP, c.s[SCALE].scale = -0.5f));
    REFUSES(FA_ERR_VALUE, SCALE, (c.s[SCALE].kind = FA_STEP_CLAMP, c.s[SCALE].scale = NAN));
    /* heads of parts: 4 columns of three heads of x, 8 of one y for all */
    REFUSES(FA_OK, -1, JOINS(4, 8));
    SHAPE(LINEAR, JOINS(8, 4));
    SHAPE(LINEAR, JOINS(12, 0));
    SHAPE(LINEAR, JOINS(INT64_MAX, INT64_MIN));
    SHAPE(LINEAR, (JOINS(4, 8), c.s[LINEAR].heads = 0));
    SHAPE(LINEAR, (JOINS(4, 8), c.s[LINEAR].heads = INT64_MAX));
    SHAPE(LINEAR, (JOINS(4, 8), c.s[LINEAR].x.width = 11));
    SHAPE(LINEAR, (JOINS(4, 8), c.s[LINEAR].y.width = 0));
    SHAPE(LINEAR, (JOINS(4, 8), c.s[LINEAR].y = c.s[LINEAR].out, c.s[LINEAR].y.width = 8));
    REFUSES(FA_ERR_VALUE, DISENTANGLED, c.s[DISENTANGLED].disentangled.scale = -INFINITY);
    case_end(HASH_START);
}

static void arrays_of_steps(void) {
    if (!case_begin("program check, arrays of steps")) return;
    static const int32_t wrong[] = {-1, ARRAYS, INT32_MIN, INT32_MAX, IN, INDEX}; /* none, beyond all, of another type, of another rank */
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        SHAPE(EMBED, c.s[EMBED].index[0] = wrong[i]);
        SHAPE(ATTEND, c.s[ATTEND].index[0] = wrong[i]);
        if (wrong[i] >= 0) SHAPE(ATTEND, c.s[ATTEND].index[1] = wrong[i]);
        if (wrong[i] >= 0) SHAPE(ATTEND, c.s[ATTEND].index[2] = wrong[i]);
        SHAPE(DISENTANGLED, c.s[DISENTANGLED].index[1] = wrong[i]);
        SHAPE(ROPE, c.s[ROPE].index[0] = wrong[i]);
        SHAPE(ROPE, c.s[ROPE].index[1] = wrong[i]);
        SHAPE(ROPE, c.s[ROPE].index[2] = wrong[i]);
        if (wrong[i] != INDEX) SHAPE(GATHER, c.s[GATHER].index[0] = wrong[i]);
        SHAPE(POOL, c.s[POOL].index[0] = wrong[i]);
        if (wrong[i] >= 0) SHAPE(POOL, c.s[POOL].index[1] = wrong[i]);
    }
    /* what a batch may leave out */
    SHAPE(EMBED, c.l.arrays[IDS].optional = 1);
    SHAPE(ROPE, c.l.arrays[COS].optional = 1);
    SHAPE(ROPE, c.l.arrays[TURNS].optional = 1);
    SHAPE(ATTEND, c.l.arrays[ENDS].optional = 1);
    SHAPE(GATHER, c.l.arrays[INDEX].optional = 1);
    SHAPE(DISENTANGLED, c.l.arrays[PLACES].optional = 1);
    REFUSES(FA_OK, -1, c.l.arrays[SKIP].optional = 1);
    /* ends that are none, rows of another kind */
    SHAPE(ATTEND, c.l.arrays[ENDS].more = 0);
    SHAPE(ATTEND, c.l.arrays[ENDS].rows = -1);
    SHAPE(POOL, c.s[POOL].index[0] = PLACES);
    SHAPE(POOL, c.s[POOL].index[1] = PLACES);
    SHAPE(EMBED, c.s[EMBED].index[0] = SKIP);
    SHAPE(ATTEND, c.s[ATTEND].index[1] = SKIP);
    SHAPE(ATTEND, c.s[ATTEND].bias = call_vector(HEADS));
    /* memory that is not there */
    SHAPE(ATTEND, c.s[ATTEND].layer = c.s[ATTEND].group = 0);
    SHAPE(ATTEND, (c.l.program.n_layers = c.l.program.n_groups = 1, c.s[ATTEND].layer = 0));
    SHAPE(ATTEND, (c.l.program.n_layers = c.l.program.n_groups = 1, c.s[ATTEND].group = 0));
    SHAPE(ATTEND, (c.l.program.n_layers = c.l.program.n_groups = 1, c.s[ATTEND].layer = INT32_MAX, c.s[ATTEND].group = 0));
    SHAPE(DISENTANGLED, (c.l.program.n_layers = c.l.program.n_groups = 1, c.s[DISENTANGLED].layer = c.s[DISENTANGLED].group = 0));
    REFUSES(FA_OK, -1, (c.l.program.n_layers = c.l.program.n_groups = 1, c.s[ATTEND].layer = c.s[ATTEND].group = 0));
    case_end(HASH_START);
}

void test_program_checks(const options *o) {
    (void)o;
    program_itself();
    values();
    rows_and_widths();
    arrays_of_steps();
}
