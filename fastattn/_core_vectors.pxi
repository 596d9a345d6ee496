# SPDX-License-Identifier: MIT
# Part of _core.pyx: similarities of vectors, the best of many, quantisation. The Python side is similarity.py and ops.py;
# arrays are NumPy's (bfloat16 as uint16), and what does not fit is named here once more.

def similarity(out, a, b, int metric, num_threads):
    """Fills out (N, M) with the scores of a (N, D) beside b (M, D): 0 dot, 1 cosine, 2 euclidean, 3 manhattan."""
    cdef fa_ctx ctx
    cdef Workspace ws
    cdef Views views = Views.__new__(Views)
    cdef fa_view *to = take(views, out, "out", 2, 2, 1u << FA_F32, True, True)
    cdef fa_view *left = take(views, a, "a", 2, 2, FLOATS, True, False)
    cdef fa_view *right = take(views, b, "b", 2, 2, FLOATS, True, False)
    cdef fa_status status
    cdef size_t size = 0
    separate(views, 0, 1, "out", "a", False)
    separate(views, 0, 2, "out", "b", False)
    make_ctx(&ctx, num_threads)
    check(fa_similarity_workspace(&ctx, to, left, right, <fa_metric>metric, &size), "similarity")
    take_workspace(&ws, size)
    with nogil:
        status = fa_similarity(&ctx, to, left, right, <fa_metric>metric, ws.base, ws.size)
        PyMem_RawFree(ws.block)
    check(status, "similarity")


def top_k(best, index, scores, int64_t first, bint last, num_threads):
    """Takes the columns first, first + 1, ... of scores (N, M) into best and index (N, K); sorts them if these are the last."""
    cdef fa_ctx ctx
    cdef Views views = Views.__new__(Views)
    cdef fa_view *to = take(views, best, "best", 2, 2, 1u << FA_F32, True, True)
    cdef fa_view *places = take(views, index, "index", 2, 2, 1u << FA_I64, True, True)
    cdef fa_view *source = take(views, scores, "scores", 2, 2, 1u << FA_F32, True, False)
    cdef fa_status status
    separate(views, 0, 1, "best", "index", False)
    separate(views, 0, 2, "best", "scores", False)
    separate(views, 1, 2, "index", "scores", False)
    make_ctx(&ctx, num_threads)
    with nogil:
        status = fa_top_k(&ctx, to, places, source, first, last)
    check(status, "top_k")


def quantize_ranges(out, x, ranges, bint plain, num_threads):
    """Fills out (N, D) int8 with x (N, D) by its place in ranges (2, D); plain: the bytes of uint8."""
    cdef fa_ctx ctx
    cdef Views views = Views.__new__(Views)
    cdef fa_view *to = take(views, out, "out", 2, 2, 1u << FA_I8, True, True)
    cdef fa_view *source = take(views, x, "x", 2, 2, 1u << FA_F32, True, False)
    cdef fa_view *ends = take(views, ranges, "ranges", 2, 2, 1u << FA_F32, True, False)
    cdef fa_status status
    separate(views, 0, 1, "out", "x", False)
    separate(views, 0, 2, "out", "ranges", False)
    make_ctx(&ctx, num_threads)
    with nogil:
        status = fa_quantize_ranges(&ctx, to, source, ends, plain)
    check(status, "quantize")
