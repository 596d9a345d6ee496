# SPDX-License-Identifier: MIT
# Linear attention; included at the end of _core.pyx, after _core_ops.pxi. The Python side is linear_attention.py.

from libc.math cimport sqrt

cdef dict _recurrences = {
    "linear": FA_RULE_LINEAR, "gated": FA_RULE_GATED, "delta": FA_RULE_DELTA, "gated_delta": FA_RULE_GATED_DELTA,
}


cdef fa_view *add_stored(Views views, object array, int ndim, int rank, bint writable) except NULL:
    """A view of `array`, which has `rank` dimensions; uint16 stands for bfloat16. BufferError where it does not fit."""
    cdef fa_view *view = views.add(array, ndim, writable)
    cdef Py_buffer *b = &views.buffers[views.count - 1]
    if b.ndim != rank:
        raise BufferError
    if view.dtype == FA_NONE and b.format != NULL and b.itemsize == 2 and b.format[0] == b'H' and b.format[1] == 0:
        view.dtype = FA_BF16
    return view


def run_linear_attention(q, k, v, rule, state, decay, beta, scale, out, state_out, num_threads, bint checked=False):
    """(out, state_out), or NotImplemented with nothing touched where linear_attention.py has to look first; with
    checked=True it has looked: what is given as out and state_out is apart from the rest, and anything wrong raises.

    decay may lack its last dimension; scale is a float or None; out and state_out are made where they are None.
    """
    cdef fa_ctx ctx
    cdef fa_linear_attention_params params
    cdef Views views = Views.__new__(Views)
    cdef fa_view *o
    cdef fa_view *so
    cdef fa_view *qv
    cdef fa_view *kv
    cdef fa_view *vv
    cdef Workspace ws
    cdef size_t size = 0
    cdef fa_status status
    cdef bint fresh = out is None
    cdef bint state_fresh = state_out is None
    cdef bint by_row
    cdef Py_buffer *target
    cdef int i, j, n_inputs
    if type(rule) is not str or rule not in _recurrences or (scale is not None and type(scale) is not float):
        return NotImplemented
    if type(q) is not _ndarray or type(k) is not _ndarray or type(v) is not _ndarray:
        return NotImplemented
    memset(&params, 0, sizeof(params))
    params.rule = <int32_t><int>_recurrences[rule]
    try:
        qv = add_stored(views, q, 4, 4, False)
        kv = add_stored(views, k, 4, 4, False)
        vv = add_stored(views, v, 4, 4, False)
        if decay is not None:
            if type(decay) is not _ndarray:
                return NotImplemented
            by_row = (<object>decay).ndim == 4
            params.decay = add_stored(views, decay if by_row else decay[..., None], 4, 4, False)
            if by_row and params.decay.shape[3] != qv.shape[3]:
                return NotImplemented
        if beta is not None:
            if type(beta) is not _ndarray:
                return NotImplemented
            params.beta = add_stored(views, beta, 4, 3, False)
        n_inputs = views.count
        if state is not None:
            if type(state) is not _ndarray:
                return NotImplemented
            params.state = add_stored(views, state, 4, 4, False)
        if fresh:
            out = _empty((qv.shape[0], qv.shape[1], qv.shape[2], vv.shape[3]), (<object>q).dtype)
        if state_fresh:
            state_out = _empty((kv.shape[0], kv.shape[2], kv.shape[3], vv.shape[3]), _float32)
        if type(out) is not _ndarray or type(state_out) is not _ndarray:
            return NotImplemented
        o = add_stored(views, out, 4, 4, True)
        so = add_stored(views, state_out, 4, 4, True)
    except (ValueError, BufferError, IndexError):
        if checked:
            raise
        return NotImplemented
    if not checked:
        for i in range(views.count - 2, views.count):
            if (fresh if i == views.count - 2 else state_fresh):
                continue
            target = &views.buffers[i]
            if not nested(target):
                return NotImplemented
            for j in range(views.count):
                if j == i or (j == n_inputs and params.state != NULL and so.data == params.state.data
                              and i == views.count - 1 and same_place(target, &views.buffers[j])):
                    continue
                if not apart(target, &views.buffers[j]):
                    return NotImplemented
    if scale is not None:
        params.scale = fa_to_float(scale)
    else:
        params.scale = fa_to_float(1.0 / sqrt(<double>(qv.shape[3] if qv.shape[3] > 0 else 1)))
    make_ctx(&ctx, num_threads)
    status = fa_linear_attention_workspace(&ctx, o, so, qv, kv, vv, &params, &size)
    if status != FA_OK:
        if checked:
            check(status, "linear_attention")
        return NotImplemented
    take_workspace(&ws, size)
    with nogil:
        status = fa_linear_attention(&ctx, o, so, qv, kv, vv, &params, ws.base, ws.size)
        PyMem_RawFree(ws.block)
    check(status, "linear_attention")
    return out, state_out
