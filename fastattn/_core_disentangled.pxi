# SPDX-License-Identifier: MIT
# Part of _core.pyx: disentangled attention, the columns of distances, rows side by side. The Python sides are
# attention/disentangled.py and ops.py; arrays are NumPy's, and what does not fit is named here, before C is called.

def distance_columns(columns, int64_t span, int64_t max_distance):
    """Fills columns (2 R + 1,) int32; max_distance 0: none. The Python side has checked span and max_distance."""
    cdef Views views = Views.__new__(Views)
    cdef fa_view *to = take(views, columns, "columns", 1, 1, 1u << FA_I32, True, True)
    cdef fa_status status
    with nogil:
        status = fa_distance_columns(to, span, max_distance)
    check(status, "distance_columns")


cdef const float *panels_of(Views views, object panels, str name, fa_view *q, int64_t span) except? NULL:
    """The packed position keys or queries, (heads * ceil(2 * span / 16), D, 16); NULL for None."""
    cdef fa_view *view
    cdef int64_t each = (2 * span + 15) // 16
    if panels is None:
        return NULL
    view = take(views, panels, name, 3, 3, 1u << FA_F32, True, False)
    expected = (q.shape[1] * each, q.shape[3], 16)
    if panels.shape != expected:
        raise ValueError(f"{name}: shape {panels.shape}, expected {expected}")
    if not panels.flags.c_contiguous or <uintptr_t>view.data % FA_ALIGN != 0:
        raise ValueError(f"{name}: expected contiguous memory at a multiple of {FA_ALIGN} bytes")
    return <const float *>view.data


def disentangled_attention(out, q, k, v, cu_seqlens, positions, c2p, p2c, int64_t span, int64_t max_distance, double scale,
                           num_threads):
    """Fills out (T, H, D); q, k, v as out, cu_seqlens (n + 1,) and positions (T,) int64, c2p and p2c panels or None."""
    cdef fa_ctx ctx
    cdef Workspace ws
    cdef fa_disentangled_params params
    cdef Views views = Views.__new__(Views)
    cdef fa_view *to = take(views, out, "out", 3, 4, 1u << FA_F32, True, True)
    cdef fa_view *qv = take(views, q, "q", 3, 4, 1u << FA_F32, True, False)
    cdef fa_view *kv = take(views, k, "k", 3, 4, 1u << FA_F32, True, False)
    cdef fa_view *vv = take(views, v, "v", 3, 4, 1u << FA_F32, True, False)
    cdef fa_view *cu = take(views, cu_seqlens, "cu_seqlens", 1, 1, 1u << FA_I64, True, False)
    cdef fa_view *at = take(views, positions, "positions", 1, 1, 1u << FA_I64, True, False)
    cdef fa_status status
    cdef size_t size = 0
    names = ["out", "q", "k", "v", "cu_seqlens", "positions"]
    for array, name in ((q, "q"), (k, "k"), (v, "v")):
        if array.shape != out.shape or array.ndim != 3:
            raise ValueError(f"{name}: shape {array.shape}, expected (T, heads, D), that of out, which is {out.shape}")
    if positions.shape[0] != out.shape[0]:
        raise ValueError(f"positions: {positions.shape[0]} numbers, expected {out.shape[0]}, one for each row of q")
    if cu.shape[0] < 1:
        raise ValueError("cu_seqlens: no numbers, expected at least one")
    for i in range(4):
        heads_first(&views.views[i])
    if not 1 <= span <= 1 << 30:
        raise ValueError(f"span: {span}, expected 1 to {1 << 30}")
    if c2p is None and p2c is None:
        raise ValueError("c2p, p2c: None, expected at least one of them")
    memset(&params, 0, sizeof(params))
    params.scale = fa_to_float(scale)
    params.n_seq = cu.shape[0] - 1
    params.cu = <const int64_t *>cu.data
    params.positions = <const int64_t *>at.data
    params.span = span
    params.max_distance = max_distance
    for panels, name in ((c2p, "c2p"), (p2c, "p2c")):
        if panels is not None:
            names.append(name)
    params.c2p = panels_of(views, c2p, "c2p", qv, span)
    params.p2c = panels_of(views, p2c, "p2c", qv, span)
    for i in range(1, len(names)):
        separate(views, 0, i, "out", names[i], False)
    make_ctx(&ctx, num_threads)
    status = fa_disentangled_attention_workspace(&ctx, to, qv, kv, vv, &params, &size)
    if status == FA_ERR_VALUE:
        n, before, ends = out.shape[0], 0, cu_seqlens.tolist()
        for end in ends:
            if not before <= end <= n:
                raise ValueError(f"cu_seqlens: {end} behind {before}, expected numbers from 0 to {n} that do not descend")
            before = end
        for start, stop in zip(ends, ends[1:]):
            before = -1
            for place in positions[start:stop].tolist():
                if place <= before:
                    raise ValueError(f"positions: {place} behind {before}, expected numbers from 0 up that ascend in each sequence"
                                     if before >= 0 else f"positions: {place}, expected at least 0")
                before = place
        raise ValueError(f"span, max_distance, scale: {span}, {max_distance}, {scale}, expected sizes that distance_columns "
                         "takes, and a finite scale")
    check(status, "disentangled_attention")
    take_workspace(&ws, size)
    with nogil:
        status = fa_disentangled_attention(&ctx, to, qv, kv, vv, &params, ws.base, ws.size)
        PyMem_RawFree(ws.block)
    check(status, "disentangled_attention")


def gather(out, x, index, num_threads):
    """Fills out (M, n * W) with rows index[i, 0..n-1] of x (T, W), side by side; index int64 (M, n), -1: zeros."""
    cdef fa_ctx ctx
    cdef Views views = Views.__new__(Views)
    cdef fa_view *to = take(views, out, "out", 2, 2, 1u << FA_F32, True, True)
    cdef fa_view *source = take(views, x, "x", 2, 2, 1u << FA_F32, True, False)
    cdef fa_view *rows = take(views, index, "index", 2, 2, 1u << FA_I64, False, False)
    cdef fa_status status
    expected = (index.shape[0], index.shape[1] * x.shape[1])
    if out.shape != expected:
        raise ValueError(f"out: shape {out.shape}, expected {expected}: rows of x {x.shape} as index {index.shape} has them")
    separate(views, 0, 1, "out", "x", False)
    separate(views, 0, 2, "out", "index", False)
    make_ctx(&ctx, num_threads)
    with nogil:
        status = fa_gather(&ctx, to, source, rows)
    if status == FA_ERR_VALUE:
        raise ValueError(f"index: from {index.min()} to {index.max()}, expected -1 to {x.shape[0] - 1}, rows of x")
    check(status, "gather")
