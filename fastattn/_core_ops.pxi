# SPDX-License-Identifier: MIT
# Row-wise operators; included at the end of _core.pyx. The Python side is ops.py.
#
# Every run_* function first takes the short way: float32 NumPy arrays that fit. It returns NotImplemented, with nothing
# touched, where anything is unusual; ops.py then converts the arguments, finds the words for what is wrong, and comes
# back with checked=True, when only the memory layout may still be unusual.

import numpy as _numpy

cdef object _empty = _numpy.empty
cdef object _float32 = _numpy.dtype("float32")
cdef type _ndarray = _numpy.ndarray

cdef enum:
    MOST_DIMS = 32  # outer dimensions walked
    OP_LINEAR = 0, OP_LAYER_NORM, OP_RMS_NORM, OP_SOFTMAX, OP_ACTIVATE, OP_L2_NORMALIZE, OP_GATED, OP_ADD

cdef float FLOAT32_MAX = 3.4028234663852886e38

cdef dict _activations = {
    None: FA_ACT_NONE, "relu": FA_ACT_RELU, "gelu": FA_ACT_GELU, "gelu_tanh": FA_ACT_GELU_TANH, "silu": FA_ACT_SILU,
    "tanh": FA_ACT_TANH, "sigmoid": FA_ACT_SIGMOID,
}
cdef dict _pool_modes = {
    "mean": FA_POOL_MEAN, "cls": FA_POOL_CLS, "max": FA_POOL_MAX, "last": FA_POOL_LAST,
    "mean_sqrt_len": FA_POOL_MEAN_SQRT_LEN, "weighted_mean": FA_POOL_WEIGHTED_MEAN,
}


def activation_names():
    return [name for name in _activations if name is not None]


def pool_modes():
    return list(_pool_modes)


cdef class Held:
    """Up to six buffers held open for one call: 0 out, 1 x, 2 residual, then whatever is not walked."""

    cdef Py_buffer buffers[6]
    cdef int count

    def __cinit__(self):
        self.count = 0

    def __dealloc__(self):
        cdef int i
        for i in range(self.count):
            PyBuffer_Release(&self.buffers[i])

    cdef bint add(self, object array, bint writable):
        """False where `array` gives no float32 with a unit last stride."""
        cdef Py_buffer *b = &self.buffers[self.count]
        cdef int i
        if type(array) is not _ndarray:
            return False
        try:
            PyObject_GetBuffer(array, b, PyBUF_STRIDES | PyBUF_FORMAT | (PyBUF_WRITABLE if writable else 0))
        except (ValueError, BufferError):
            return False
        self.count += 1
        if b.ndim < 1 or b.ndim > MOST_DIMS or dtype_of(b.format, b.itemsize) != FA_F32 or <uintptr_t>b.buf % 4 != 0:
            return False
        for i in range(b.ndim):
            if b.strides[i] % 4 != 0:
                return False
        return b.shape[b.ndim - 1] <= 1 or b.strides[b.ndim - 1] == 4


cdef bint same_shape(const Py_buffer *a, const Py_buffer *b, int dims) noexcept:
    cdef int i
    for i in range(dims):
        if a.shape[i] != b.shape[i]:
            return False
    return True


cdef bint same_place(const Py_buffer *a, const Py_buffer *b) noexcept:
    """Exactly the same array: address, and the stride of every dimension that has more than one element."""
    cdef int i
    if a.buf != b.buf or a.ndim != b.ndim:
        return False
    for i in range(a.ndim):
        if a.shape[i] != b.shape[i] or (a.shape[i] > 1 and a.strides[i] != b.strides[i]):
            return False
    return True


cdef bint extent(const Py_buffer *b, const char **first, const char **end) noexcept:
    """The addresses a buffer reaches; False if it has no element."""
    cdef int i
    cdef Py_ssize_t reach
    first[0] = <const char *>b.buf
    end[0] = first[0] + b.itemsize
    for i in range(b.ndim):
        if b.shape[i] == 0:
            return False
        reach = (b.shape[i] - 1) * b.strides[i]
        if reach < 0:
            first[0] += reach
        else:
            end[0] += reach
    return True


cdef bint apart(const Py_buffer *a, const Py_buffer *b) noexcept:
    cdef const char *a0
    cdef const char *a1
    cdef const char *b0
    cdef const char *b1
    return not extent(a, &a0, &a1) or not extent(b, &b0, &b1) or a1 <= b0 or b1 <= a0


cdef bint nested(const Py_buffer *b) noexcept:
    """Rows in C order that do not run into each other: sufficient for elements of their own."""
    cdef Py_ssize_t reach = b.itemsize
    cdef int i
    for i in range(b.ndim - 1, -1, -1):
        if b.shape[i] > 1:
            if b.strides[i] < reach:
                return False
            reach += (b.shape[i] - 1) * b.strides[i]
    return True


cdef struct Walk:
    # Up to three arrays with the same outer shape: rows to hand to C at once, and dimensions to walk around them.
    int arrays
    int dims                     # walked
    Py_ssize_t shape[MOST_DIMS]
    Py_ssize_t step[3][MOST_DIMS]
    fa_view view[3]              # (rows, last)


cdef void plan_walk(Walk *walk, Held held, int arrays) noexcept:
    """Folds the outer dimensions of the first buffers of `held` as far as their strides allow."""
    cdef const Py_buffer *x = &held.buffers[0]
    cdef Py_buffer *b
    cdef int d, a, n = 0
    cdef bint folds
    walk.arrays = arrays
    for d in range(x.ndim - 2, -1, -1):
        if x.shape[d] == 1:
            continue
        folds = n > 0
        for a in range(arrays):
            if folds and held.buffers[a].strides[d] != walk.step[a][n - 1] * walk.shape[n - 1]:
                folds = False
        if folds:
            walk.shape[n - 1] *= x.shape[d]
            continue
        walk.shape[n] = x.shape[d]
        for a in range(arrays):
            walk.step[a][n] = held.buffers[a].strides[d]
        n += 1
    # entry 0 is the innermost: the rows of the C call
    for a in range(arrays):
        b = &held.buffers[a]
        walk.view[a].data = b.buf
        walk.view[a].ndim = 2
        walk.view[a].dtype = FA_F32
        walk.view[a].shape[0] = walk.shape[0] if n > 0 else 1
        walk.view[a].stride[0] = walk.step[a][0] if n > 0 else 0
        walk.view[a].shape[1] = b.shape[b.ndim - 1]
        walk.view[a].stride[1] = 4
    for d in range(1, n):
        walk.shape[d - 1] = walk.shape[d]
        for a in range(arrays):
            walk.step[a][d - 1] = walk.step[a][d]
    walk.dims = n - 1 if n > 0 else 0


cdef void vector_view(fa_view *view, const Py_buffer *b) noexcept:
    view.data = b.buf
    view.ndim = 1
    view.dtype = FA_F32
    view.shape[0] = b.shape[0]
    view.stride[0] = 4


cdef struct Call:
    # What a row operator takes beside the walked arrays.
    int op
    int act
    float eps
    const Packed *packed
    fa_view *weight
    fa_view *bias


cdef fa_status call_once(const fa_ctx *ctx, const Call *call, fa_view *view, int arrays, Workspace *ws) noexcept nogil:
    cdef fa_view *residual = &view[2] if arrays > 2 else NULL
    if call.op == OP_LINEAR:
        return packed_run(ctx, call.packed, &view[0], &view[1], <fa_activation>call.act, ws)
    if call.op == OP_LAYER_NORM:
        return fa_layer_norm(ctx, &view[0], &view[1], residual, call.weight, call.bias, call.eps)
    if call.op == OP_RMS_NORM:
        return fa_rms_norm(ctx, &view[0], &view[1], residual, call.weight, call.eps)
    if call.op == OP_SOFTMAX:
        return fa_softmax(ctx, &view[0], &view[1])
    if call.op == OP_ACTIVATE:
        return fa_activate(ctx, &view[0], &view[1], <fa_activation>call.act)
    if call.op == OP_GATED:
        return fa_gated(ctx, &view[0], &view[1], residual, <fa_activation>call.act)
    if call.op == OP_ADD:
        return fa_add(ctx, &view[0], &view[1], residual)
    return fa_l2_normalize(ctx, &view[0], &view[1], call.eps)


cdef fa_status call_walk(const fa_ctx *ctx, const Call *call, Walk *walk, Workspace *ws) noexcept nogil:
    """Calls C for every combination of the walked dimensions."""
    cdef Py_ssize_t at[MOST_DIMS]
    cdef fa_status status
    cdef int d, a
    for d in range(walk.dims):
        if walk.shape[d] == 0:
            return FA_OK
        at[d] = 0
    while True:
        status = call_once(ctx, call, walk.view, walk.arrays, ws)
        if status != FA_OK:
            return status
        d = 0
        while d < walk.dims:
            at[d] += 1
            for a in range(walk.arrays):
                walk.view[a].data = <char *>walk.view[a].data + walk.step[a][d]
            if at[d] < walk.shape[d]:
                break
            for a in range(walk.arrays):
                walk.view[a].data = <char *>walk.view[a].data - walk.step[a][d] * walk.shape[d]
            at[d] = 0
            d += 1
        if d == walk.dims:
            return FA_OK


cdef bint out_fits(Held held, int arrays, bint in_place) noexcept:
    """Whether buffer 0 has elements of its own, apart from the others or, where allowed, in the very place of one."""
    cdef int i
    if not nested(&held.buffers[0]):
        return False
    for i in range(1, held.count):
        if not apart(&held.buffers[0], &held.buffers[i]):
            if not in_place or i >= arrays or not same_place(&held.buffers[0], &held.buffers[i]):
                return False
    return True


def run_rows(int op, x, residual, weight, bias, eps, int act, out, num_threads, bint checked=False):
    """Layer norm, RMS norm, softmax, activation or L2 normalisation of the last axis; see the head of this file."""
    cdef fa_ctx ctx
    cdef Held held = Held.__new__(Held)
    cdef Walk walk
    cdef Call call
    cdef Workspace ws
    cdef fa_view weight_view
    cdef fa_view bias_view
    cdef fa_status status
    cdef Py_buffer *b
    cdef int arrays = 2 if residual is None else 3
    cdef bint fresh = out is None
    if type(x) is not _ndarray or type(eps) is not float:
        return NotImplemented
    if weight is None and (op == OP_LAYER_NORM or op == OP_RMS_NORM):
        return NotImplemented
    if residual is None and (op == OP_GATED or op == OP_ADD):
        return NotImplemented
    if fresh:
        out = _empty((<object>x).shape, _float32)
    if not held.add(out, True) or not held.add(x, False):
        return NotImplemented
    if residual is not None and not held.add(residual, False):
        return NotImplemented
    call.op = op
    call.act = act
    call.eps = fa_to_float(eps)
    call.weight = NULL
    call.bias = NULL
    if weight is not None:
        if not held.add(weight, False):
            return NotImplemented
        vector_view(&weight_view, &held.buffers[held.count - 1])
        call.weight = &weight_view
    if bias is not None:
        if not held.add(bias, False):
            return NotImplemented
        vector_view(&bias_view, &held.buffers[held.count - 1])
        call.bias = &bias_view
    cdef int i
    for i in range(held.count):
        b = &held.buffers[i]
        if i < arrays:
            if b.ndim != held.buffers[1].ndim or not same_shape(b, &held.buffers[1], b.ndim):
                return NotImplemented
        elif b.ndim != 1 or b.shape[0] != held.buffers[1].shape[held.buffers[1].ndim - 1]:
            return NotImplemented
    if not 0 <= call.eps <= FLOAT32_MAX or not (fresh or checked or out_fits(held, arrays, True)):
        return NotImplemented
    make_ctx(&ctx, num_threads)
    plan_walk(&walk, held, arrays)
    with nogil:
        status = call_walk(&ctx, &call, &walk, &ws)
    check(status, "rows")
    return out


# ---- embedding and pooling -------------------------------------------------------------------------------------------

cdef bint plain_rows(Views views, int i, int ndim):
    """Whether array i of `views` is float32 of exactly `ndim` dimensions with a unit last stride, aligned."""
    cdef fa_view *view = &views.views[i]
    if views.buffers[i].ndim != ndim or view.dtype != FA_F32 or <uintptr_t>view.data % 4 != 0 or view.stride[0] % 4 != 0:
        return False
    return view.shape[ndim - 1] <= 1 or view.stride[ndim - 1] == 4


def run_embedding(tables, ids, out, num_threads, bint checked=False):
    """Sums of table rows; None if an id is outside its table (nothing has been read). See the head of this file."""
    cdef fa_ctx ctx
    cdef Py_ssize_t n, i
    cdef Views target = Views.__new__(Views)
    cdef Views pair
    cdef fa_view *out_view
    cdef fa_view *views
    cdef fa_status status
    cdef bint fresh = out is None
    if type(tables) not in (list, tuple) or type(ids) not in (list, tuple) or len(tables) != len(ids) or not tables:
        return NotImplemented
    held = []
    for table, index in zip(tables, ids):
        if type(table) is not _ndarray or type(index) is not _ndarray:
            return NotImplemented
        pair = Views.__new__(Views)
        held.append(pair)
        try:
            pair.add(table, 2, False)
            pair.add(index, 1, False)
        except (ValueError, BufferError):
            return NotImplemented
        if not plain_rows(pair, 0, 2) or pair.buffers[1].ndim != 1 or <uintptr_t>pair.views[1].data % pair.buffers[1].itemsize != 0:
            return NotImplemented
        if pair.views[1].dtype != FA_I32 and pair.views[1].dtype != FA_I64:
            return NotImplemented
    pair = <Views>held[0]
    if fresh:
        out = _empty((pair.views[1].shape[0], pair.views[0].shape[1]), _float32)
    if type(out) is not _ndarray:
        return NotImplemented
    try:
        out_view = target.add(out, 2, True)
    except (ValueError, BufferError):
        return NotImplemented
    if not plain_rows(target, 0, 2):
        return NotImplemented
    if not fresh and not checked and not nested(&target.buffers[0]):
        return NotImplemented
    n = len(held)
    for i in range(n):
        pair = <Views>held[i]
        if pair.views[0].shape[1] != out_view.shape[1] or pair.views[1].shape[0] != out_view.shape[0]:
            return NotImplemented
        if not fresh and not checked:
            if not apart(&target.buffers[0], &pair.buffers[0]) or not apart(&target.buffers[0], &pair.buffers[1]):
                return NotImplemented
    make_ctx(&ctx, num_threads)
    views = <fa_view *>PyMem_RawMalloc(2 * n * sizeof(fa_view))
    if views == NULL:
        raise MemoryError("embedding")
    for i in range(n):
        views[i] = (<Views>held[i]).views[0]
        views[n + i] = (<Views>held[i]).views[1]
    with nogil:
        status = fa_embedding(&ctx, out_view, <int32_t>n, views, views + n)
        PyMem_RawFree(views)
    if status == FA_ERR_VALUE:
        return None
    check(status, "embedding")
    return out


def run_pool(x, cu_seqlens, mode, skip, out, num_threads, bint checked=False):
    """One row for each sequence of x (T, H); see the head of this file."""
    cdef int64_t first
    cdef fa_ctx ctx
    cdef Views views = Views.__new__(Views)
    cdef fa_view *out_view
    cdef fa_view *x_view
    cdef fa_view *cu_view
    cdef fa_pool_mode which
    cdef fa_status status
    cdef bint fresh = out is None
    if type(x) is not _ndarray or type(cu_seqlens) is not _ndarray or type(mode) is not str or mode not in _pool_modes:
        return NotImplemented
    if type(skip) is not int or not 0 <= skip <= 0x7FFFFFFFFFFFFFFF:
        return NotImplemented
    first = skip
    which = <fa_pool_mode><int>_pool_modes[mode]
    try:
        x_view = views.add(x, 2, False)
        cu_view = views.add(cu_seqlens, 1, False)
    except (ValueError, BufferError):
        return NotImplemented
    if not plain_rows(views, 0, 2) or views.buffers[1].ndim != 1 or cu_view.dtype != FA_I64 or cu_view.shape[0] < 1:
        return NotImplemented
    if <uintptr_t>cu_view.data % 8 != 0:
        return NotImplemented
    if (<int64_t *>cu_view.data)[0] != 0:
        return NotImplemented
    if (<int64_t *>(<char *>cu_view.data + (cu_view.shape[0] - 1) * cu_view.stride[0]))[0] != x_view.shape[0]:
        return NotImplemented
    if fresh:
        out = _empty((cu_view.shape[0] - 1, x_view.shape[1]), _float32)
    if type(out) is not _ndarray:
        return NotImplemented
    try:
        out_view = views.add(out, 2, True)
    except (ValueError, BufferError):
        return NotImplemented
    if not plain_rows(views, 2, 2) or out_view.shape[0] != cu_view.shape[0] - 1 or out_view.shape[1] != x_view.shape[1]:
        return NotImplemented
    if not fresh and not checked:
        if not nested(&views.buffers[2]) or not apart(&views.buffers[2], &views.buffers[0]):
            return NotImplemented
        if not apart(&views.buffers[2], &views.buffers[1]):
            return NotImplemented
    make_ctx(&ctx, num_threads)
    with nogil:
        status = fa_pool(&ctx, out_view, x_view, cu_view, which, first)
    if status == FA_ERR_VALUE and not checked:
        return NotImplemented  # not ascending; nothing has been written
    check(status, "pool")
    return out
