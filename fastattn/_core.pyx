# SPDX-License-Identifier: MIT
# cython: freethreading_compatible = False
"""The one run-time extension: arrays become fa_views, the GIL is released, one C call is made, its status checked."""

from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New, PyCapsule_SetName
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memset

from fastattn._capi cimport *

include "_core_process.pxi"


# ---- arrays ---------------------------------------------------------------------------------------------------------

cdef int dtype_of(const char *format, Py_ssize_t itemsize) noexcept:
    if format == NULL:
        return FA_NONE
    if format[0] in (b'<', b'=', b'@'):
        format += 1
    if format[0] == 0 or format[1] != 0:
        return FA_NONE
    if format[0] == b'f':
        return FA_F32
    if format[0] == b'e':
        return FA_F16
    if format[0] == b'H':
        return FA_BF16
    if format[0] == b'?':
        return FA_BOOL
    if format[0] == b'b':
        return FA_I8
    if format[0] in (b'i', b'l', b'q'):
        return FA_I64 if itemsize == 8 else FA_I32 if itemsize == 4 else FA_NONE
    return FA_NONE


cdef class Views:
    """Up to eight arrays held open for one call."""

    cdef Py_buffer buffers[8]
    cdef fa_view views[8]
    cdef int count

    def __cinit__(self):
        self.count = 0

    def __dealloc__(self):
        cdef int i
        for i in range(self.count):
            PyBuffer_Release(&self.buffers[i])

    cdef fa_view *add(self, object array, int ndim, bint writable) except NULL:
        """A view of `array` with `ndim` dimensions: missing leading ones are added, the array may not have more."""
        cdef Py_buffer *buffer = &self.buffers[self.count]
        cdef fa_view *view = &self.views[self.count]
        cdef int i, lead
        PyObject_GetBuffer(array, buffer, PyBUF_STRIDES | PyBUF_FORMAT | (PyBUF_WRITABLE if writable else 0))
        self.count += 1
        lead = ndim - buffer.ndim
        if lead < 0:
            raise ValueError(f"rank {buffer.ndim}, expected at most {ndim}")
        view.data = buffer.buf
        view.ndim = ndim
        view.dtype = dtype_of(buffer.format, buffer.itemsize)
        for i in range(lead):
            view.shape[i] = 1
            view.stride[i] = 0
        for i in range(buffer.ndim):
            view.shape[lead + i] = buffer.shape[i]
            view.stride[lead + i] = buffer.strides[i] if buffer.shape[i] > 1 else 0
        if ndim > 0 and (view.shape[ndim - 1] <= 1 or buffer.len == 0):  # nothing is walked: any stride will do
            view.stride[ndim - 1] = buffer.itemsize
        return view


cdef int check(fa_status status, str what) except -1:
    """The last line of defence: the Python layer has named what is wrong before it gets here."""
    global _raised
    if status == FA_OK:
        return 0
    message = f"{what}: {fa_status_text(status).decode()}"
    if status == FA_ERR_DTYPE:
        raise TypeError(message)
    if status == FA_ERR_MEMORY:
        raise MemoryError(message)
    if status == FA_STOPPED and _raised is not None:
        error = _raised
        _raised = None
        raise error
    if status == FA_STOPPED:
        raise RuntimeError(f"{message}: a signal handler has forked the process, and this is the child")
    if status == FA_ERR_WORKSPACE:
        raise RuntimeError(message)
    raise ValueError(message)


cdef struct Workspace:
    void *block
    void *base
    size_t size


cdef int take_workspace(Workspace *ws, size_t size) except -1:
    ws.size = size
    ws.block = NULL
    ws.base = NULL
    if size:
        ws.block = PyMem_RawMalloc(size + FA_ALIGN)
        if ws.block == NULL:
            raise MemoryError(f"workspace of {size} bytes")
        ws.base = <void *>((<uintptr_t>ws.block + FA_ALIGN - 1) & ~<uintptr_t>(FA_ALIGN - 1))
    return 0


include "_core_dlpack.pxi"


# ---- attention ------------------------------------------------------------------------------------------------------

cdef bint disjoint(const fa_view *a, const fa_view *b) noexcept:
    """Whether the address ranges of two views are apart; a cheap sufficient test."""
    cdef const char *a0 = <const char *>a.data
    cdef const char *a1 = a0
    cdef const char *b0 = <const char *>b.data
    cdef const char *b1 = b0
    cdef int64_t reach
    cdef int i
    for i in range(a.ndim):
        if a.shape[i] < 1:
            return True
        reach = (a.shape[i] - 1) * a.stride[i]
        if reach < 0:
            a0 += reach
        else:
            a1 += reach
    for i in range(b.ndim):
        if b.shape[i] < 1:
            return True
        reach = (b.shape[i] - 1) * b.stride[i]
        if reach < 0:
            b0 += reach
        else:
            b1 += reach
    return a1 + 4 <= b0 or b1 + 4 <= a0


cdef bint overlaps_itself(const fa_view *view, int64_t item) noexcept:
    """Whether elements of a view may share memory: a stride that does not clear the dimensions below it."""
    cdef int64_t reach = item
    cdef int64_t best, stride
    cdef int i, pick
    cdef unsigned int done = 0
    while True:
        pick = -1
        best = 0
        for i in range(view.ndim):
            stride = view.stride[i] if view.stride[i] >= 0 else -view.stride[i]
            if not done >> i & 1 and view.shape[i] > 1 and (pick < 0 or stride < best):
                pick = i
                best = stride
        if pick < 0:
            return False
        if best < reach:
            return True
        reach += best * (view.shape[pick] - 1)
        done |= <unsigned int>1 << pick


cdef object run_attention(Views views, fa_ctx *ctx, fa_view *out, fa_view *lse, fa_view *weights, fa_view *q, fa_view *k,
                          fa_view *v, fa_attention_params *params):
    cdef Workspace ws
    cdef size_t size = 0
    cdef fa_status status
    check(fa_attention_workspace(ctx, out, lse, weights, q, k, v, params, &size), "attention")
    take_workspace(&ws, size)
    with nogil:
        status = fa_attention(ctx, out, lse, weights, q, k, v, params, ws.base, ws.size)
        PyMem_RawFree(ws.block)
    check(status, "attention")
    return None


cdef int item_of(int dtype) noexcept:
    """Bytes of an element of the types queries and keys may have without scales; 0 for others."""
    return 4 if dtype == FA_F32 else 2 if dtype == FA_F16 or dtype == FA_BF16 else 0


cdef bint readable(const fa_view *view) noexcept:
    """Whether the core reads this view in place: its type, a unit last stride, whole-element strides and address."""
    cdef int item = item_of(view.dtype)
    cdef int i
    if item == 0 or view.stride[3] != item or <uintptr_t>view.data % item != 0:
        return False
    for i in range(3):
        if view.stride[i] % item != 0:
            return False
    return 1 <= view.shape[3] <= FA_MAX_HEAD_DIM


def attend_plain(q, k, v, out, bint causal, scale, num_threads):
    """The call without options, for NumPy arrays (not int8) of rank 2 to 4 and an `out` of q's type apart from them.

    True if it was done; False if anything is unusual, and nothing has been touched: the caller then goes the long way,
    which finds the words for what is wrong.
    """
    cdef fa_ctx ctx
    cdef fa_attention_params params
    cdef Views views = Views.__new__(Views)
    cdef fa_view *qv
    cdef fa_view *kv
    cdef fa_view *vv
    cdef fa_view *ov
    cdef int i, ndim
    try:
        qv = views.add(q, 4, False)
        kv = views.add(k, 4, False)
        vv = views.add(v, 4, False)
        ov = views.add(out, 4, True)
    except (ValueError, BufferError):
        return False
    ndim = views.buffers[0].ndim
    for i in range(4):
        if views.buffers[i].ndim != ndim or not readable(&views.views[i]):
            return False
        if i < 3 and not disjoint(&views.views[i], ov):
            return False
    if ndim < 2 or qv.shape[0] != kv.shape[0] or qv.shape[0] != vv.shape[0] or qv.shape[0] != ov.shape[0]:
        return False
    if ov.dtype != qv.dtype or vv.dtype != kv.dtype:
        return False
    if kv.shape[1] < 1 or qv.shape[1] % kv.shape[1] != 0 or vv.shape[1] != kv.shape[1] or ov.shape[1] != qv.shape[1]:
        return False
    if vv.shape[2] != kv.shape[2] or ov.shape[2] != qv.shape[2] or (causal and qv.shape[2] != kv.shape[2]):
        return False
    if kv.shape[3] != qv.shape[3] or ov.shape[3] != vv.shape[3]:
        return False
    if qv.shape[3] > FA_MAX_HEAD_DIM or vv.shape[3] > FA_MAX_HEAD_DIM:
        return False
    if overlaps_itself(ov, item_of(ov.dtype)):
        return False
    make_ctx(&ctx, num_threads)
    memset(&params, 0, sizeof(params))
    params.scale = fa_to_float(scale)
    params.causal = causal
    params.window_left = -1
    params.window_right = -1
    run_attention(views, &ctx, ov, NULL, NULL, qv, kv, vv, &params)
    return True


cdef void heads_first(fa_view *view) noexcept:
    """(1, T, H, D) as held -> (1, H, T, D) as fa_attention wants it."""
    view.shape[1], view.shape[2] = view.shape[2], view.shape[1]
    view.stride[1], view.stride[2] = view.stride[2], view.stride[1]


def attend_varlen_plain(q, k, v, cu_q, cu_k, out, bint causal, scale, num_threads):
    """As attend_plain, for packed sequences without further options: (T, H, D) arrays, int64 (B + 1,) bounds."""
    cdef fa_ctx ctx
    cdef fa_attention_params params
    cdef Views views = Views.__new__(Views)
    cdef const int64_t *bounds_q
    cdef const int64_t *bounds_k
    cdef int64_t n
    cdef int i
    try:
        for array in (q, k, v):
            views.add(array, 4, False)
        views.add(out, 4, True)
        views.add(cu_q, 1, False)
        views.add(cu_k, 1, False)
    except (ValueError, BufferError):
        return False
    cdef fa_view *qv = &views.views[0]
    cdef fa_view *kv = &views.views[1]
    cdef fa_view *vv = &views.views[2]
    cdef fa_view *ov = &views.views[3]
    for i in range(4):
        if views.buffers[i].ndim != 3 or not readable(&views.views[i]):
            return False
        if i < 3 and not disjoint(&views.views[i], ov):
            return False
        heads_first(&views.views[i])
    for i in range(4, 6):
        if views.buffers[i].ndim != 1 or views.views[i].dtype != FA_I64 or views.views[i].shape[0] < 1:
            return False
        if views.views[i].stride[0] != 8 or <uintptr_t>views.views[i].data % 8 != 0:
            return False
    n = views.views[4].shape[0] - 1
    if views.views[5].shape[0] != n + 1:
        return False
    bounds_q = <const int64_t *>views.views[4].data
    bounds_k = <const int64_t *>views.views[5].data
    if bounds_q[0] != 0 or bounds_k[0] != 0 or bounds_q[n] != qv.shape[2] or bounds_k[n] != kv.shape[2]:
        return False
    for i in range(n):
        if bounds_q[i + 1] < bounds_q[i] or bounds_k[i + 1] < bounds_k[i]:
            return False
        if causal and bounds_q[i + 1] - bounds_q[i] != bounds_k[i + 1] - bounds_k[i]:
            return False
    if ov.dtype != qv.dtype or vv.dtype != kv.dtype:
        return False
    if kv.shape[1] < 1 or qv.shape[1] % kv.shape[1] != 0 or vv.shape[1] != kv.shape[1] or ov.shape[1] != qv.shape[1]:
        return False
    if vv.shape[2] != kv.shape[2] or ov.shape[2] != qv.shape[2] or kv.shape[3] != qv.shape[3] or ov.shape[3] != vv.shape[3]:
        return False
    if overlaps_itself(ov, item_of(ov.dtype)):
        return False
    make_ctx(&ctx, num_threads)
    memset(&params, 0, sizeof(params))
    params.scale = fa_to_float(scale)
    params.causal = causal
    params.window_left = -1
    params.window_right = -1
    params.n_seq = n
    params.cu_q = bounds_q
    params.cu_k = bounds_k
    run_attention(views, &ctx, ov, NULL, NULL, qv, kv, vv, &params)
    return True


cdef fa_view *optional(Views views, object array, int ndim) except? NULL:
    return NULL if array is None else views.add(array, ndim, False)


def attend(out, lse, weights, q, k, v, *, double scale, double softcap, bint causal, int64_t window_left, int64_t window_right,
           num_threads, mask=None, q_offset=None, kv_lengths=None, cu_q=None, cu_k=None, int64_t sink_tokens=0, block_mask=None,
           int64_t block_rows=0, int64_t block_cols=0, alibi=None, sinks=None, bias=None, k_scale=None, v_scale=None, scores=None,
           int score_stage=0, page_table=None, int64_t ring_first=0, int64_t ring_size=0, positions=None, bint integers=False):
    """One C call; every argument has been checked and brought to the ranks of fastattn.h by fastattn.attention.

    mask is broadcast to (B, Hq, Sq, Sk); q_offset, kv_lengths (B,), cu_q, cu_k (B + 1,) and positions (Tk,) are
    contiguous int64; what does not apply is None or 0. integers: k and v are what kv_store has rounded for it, or float32.
    """
    cdef fa_ctx ctx
    cdef fa_attention_params params
    cdef Views views = Views.__new__(Views)
    cdef Views rows = Views.__new__(Views)
    cdef Views heads = Views.__new__(Views)
    make_ctx(&ctx, num_threads)
    memset(&params, 0, sizeof(params))
    params.scale = fa_to_float(scale)
    params.softcap = fa_to_float(softcap)
    params.causal = causal
    params.score_stage = score_stage
    params.integers = integers
    params.window_left = window_left
    params.window_right = window_right
    params.sink_tokens = sink_tokens
    if q_offset is not None:
        params.q_offset = <const int64_t *>rows.add(q_offset, 1, False).data
    if kv_lengths is not None:
        params.kv_lengths = <const int64_t *>rows.add(kv_lengths, 1, False).data
    if cu_q is not None:
        params.n_seq = len(cu_q) - 1
        params.cu_q = <const int64_t *>rows.add(cu_q, 1, False).data
    if cu_k is not None:
        params.cu_k = <const int64_t *>rows.add(cu_k, 1, False).data
    if positions is not None:
        params.positions = <const int64_t *>rows.add(positions, 1, False).data
    params.page_table = optional(rows, page_table, 2)
    params.ring_first = ring_first
    params.ring_size = ring_size
    params.mask = optional(rows, mask, 4)
    params.block_mask = optional(heads, block_mask, 4)
    params.block_rows = block_rows
    params.block_cols = block_cols
    params.alibi = optional(heads, alibi, 2)
    params.sinks = optional(heads, sinks, 1)
    params.bias = optional(heads, bias, 2)
    params.k_scale = optional(heads, k_scale, 3)
    params.v_scale = optional(heads, v_scale, 3)
    if scores is not None:
        params.scores = heads.add(scores, 4, True)
    run_attention(views, &ctx, views.add(out, 4, True), views.add(lse, 3, True) if lse is not None else NULL,
                  views.add(weights, 4, True) if weights is not None else NULL, views.add(q, 4, False),
                  views.add(k, 4, False), views.add(v, 4, False), &params)


include "_core_ops.pxi"
include "_core_linear.pxi"
include "_core_probes.pxi"
include "_core_program.pxi"
include "_core_sample.pxi"
include "_core_recurrent.pxi"
include "_core_rope.pxi"
include "_core_blocks.pxi"
include "_core_disentangled.pxi"
include "_core_vectors.pxi"


if fa_runtime_init() != 0:
    raise RuntimeError("fastattn: the fork handlers could not be registered")
# The best table this machine runs; cpu.py may select another one.
for _index in range(fa_isa_count()):
    if fa_isa_supported(_index):
        _isa = _index
