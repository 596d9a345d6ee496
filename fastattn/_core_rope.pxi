# SPDX-License-Identifier: MIT
# Part of _core.pyx: storage types, rotary embedding, rows into caches, merging. Arrays are NumPy's (bfloat16 as uint16);
# what does not fit is named here, before C is called.

cdef unsigned int FLOATS = 1u << FA_F32 | 1u << FA_F16 | 1u << FA_BF16
cdef dict _dtype_names = {FA_F32: "float32", FA_F16: "float16", FA_BF16: "bfloat16 (as uint16)", FA_I8: "int8",
                          FA_I64: "int64"}


cdef str dtype_list(unsigned int dtypes):
    names = [_dtype_names[i] for i in range(32) if dtypes >> i & 1]
    last = names.pop()
    return ", ".join(names) + " or " + last if names else last


cdef bint own_elements(const Py_buffer *b) noexcept:
    """Whether no two elements share memory, by a sufficient test: each stride clears what the smaller ones reach."""
    cdef Py_ssize_t reach = b.itemsize
    cdef Py_ssize_t best, stride
    cdef int i, pick
    cdef unsigned int done = 0
    while True:
        pick = -1
        best = 0
        for i in range(b.ndim):
            stride = b.strides[i] if b.strides[i] >= 0 else -b.strides[i]
            if b.shape[i] == 0:
                return True
            if not done >> i & 1 and b.shape[i] > 1 and (pick < 0 or stride < best):
                pick = i
                best = stride
        if pick < 0:
            return True
        if best < reach:
            return False
        reach += best * (b.shape[pick] - 1)
        done |= <unsigned int>1 << pick


cdef fa_view *take(Views views, object array, str name, int least, int ndim, unsigned int dtypes, bint unit,
                   bint writable) except NULL:
    """The next view of `views`: least..ndim dimensions, one of `dtypes`, whole strides; `unit`: the last one of one."""
    cdef fa_view *view
    cdef const Py_buffer *b
    cdef int i
    if type(array) is not _ndarray:
        raise TypeError(f"{name}: {type(array).__name__}, expected a NumPy array")
    if not least <= array.ndim <= ndim:
        expected = f"{least}" if least == ndim else f"{least} to {ndim}"
        raise ValueError(f"{name}: rank {array.ndim}, expected {expected}")
    try:
        view = views.add(array, ndim, writable)
    except (ValueError, BufferError) as error:  # a read-only array, or a dtype that is none of buffers
        if writable and not array.flags.writeable:
            raise ValueError(f"{name}: read-only, expected a writable array") from error
        raise TypeError(f"{name}: dtype {array.dtype}, expected {dtype_list(dtypes)}") from error
    b = &views.buffers[views.count - 1]
    if not dtypes >> view.dtype & 1:
        raise TypeError(f"{name}: dtype {array.dtype}, expected {dtype_list(dtypes)}")
    if <uintptr_t>view.data % b.itemsize != 0:
        raise ValueError(f"{name}: data not aligned to {b.itemsize} bytes; a copy would be")
    for i in range(ndim):
        if view.stride[i] % b.itemsize != 0:
            raise ValueError(f"{name}: strides {array.strides}, expected multiples of {b.itemsize} bytes")
    if unit and ndim > 0 and view.shape[ndim - 1] > 1 and b.len != 0 and view.stride[ndim - 1] != b.itemsize:
        raise ValueError(f"{name}: last stride {view.stride[ndim - 1]} bytes, expected {b.itemsize} (one element); "
                         "numpy.ascontiguousarray copies")
    if writable and not own_elements(b):
        raise ValueError(f"{name}: strides {array.strides} make elements share memory, expected each its own")
    return view


cdef int separate(Views views, int out, int other, str out_name, str name, bint in_place) except -1:
    """Raises unless two buffers are apart or, where allowed, exactly one array."""
    cdef const Py_buffer *a = &views.buffers[out]
    cdef const Py_buffer *b = &views.buffers[other]
    if apart(a, b) or (in_place and a.itemsize == b.itemsize and same_place(a, b)):
        return 0
    raise ValueError(f"{out_name}: shares memory with {name}, expected memory of its own"
                     + (f" or exactly {name}" if in_place else ""))


def convert(out, x, num_threads=None):
    """out[...] = x in out's dtype: float32, float16 or bfloat16 (as uint16) of one shape of rank 0 to 4.

    To nearest, ties to even; NaN becomes the canonical one. out may be x itself if the dtype is the same.
    """
    cdef fa_ctx ctx
    cdef Views views = Views.__new__(Views)
    cdef fa_view *to = take(views, out, "out", 0, 4, FLOATS, True, True)
    cdef fa_view *source = take(views, x, "x", 0, 4, FLOATS, True, False)
    cdef fa_status status
    if out.shape != x.shape:
        raise ValueError(f"out: shape {out.shape}, expected {x.shape} as x has")
    separate(views, 0, 1, "out", "x", True)
    make_ctx(&ctx, num_threads)
    with nogil:
        status = fa_convert(&ctx, to, source)
    check(status, "convert")


cdef int spread(fa_view *view, int64_t batch) except -1:
    """A leading dimension of 1 serves the whole batch."""
    if view.shape[0] == 1 and batch != 1:
        view.shape[0] = batch
        view.stride[0] = 0
    return 0


cdef int check_positions(object position_ids, int64_t limit, str limit_name) except -1:
    """After C has found one outside: the words for it."""
    flat = position_ids.reshape(-1)
    for at in range(flat.shape[0]):
        if not 0 <= flat[at] < limit:
            where = tuple(int(i) for i in _numpy.unravel_index(at, position_ids.shape))
            raise ValueError(f"position_ids: {flat[at]} at {where}, expected 0 to {limit - 1} ({limit_name})")
    return 0


def rope(x, cos, sin, position_ids, bint interleaved, rotary_dim, out, num_threads):
    """fastattn.rope for NumPy arrays; position_ids int64 or None, out of x's shape and dtype, x itself, or None."""
    cdef fa_ctx ctx
    cdef Views views = Views.__new__(Views)
    cdef fa_view *source = take(views, x, "x", 2, 4, FLOATS, True, False)
    cdef int rank = 3 if position_ids is None else 2
    cdef fa_view *c = take(views, cos, "cos", 2, rank, 1u << FA_F32, True, False)
    cdef fa_view *s = take(views, sin, "sin", 2, rank, 1u << FA_F32, True, False)
    cdef fa_view *at = NULL
    cdef fa_view *to
    cdef fa_status status
    cdef int64_t half = c.shape[rank - 1]
    cdef int64_t batch = source.shape[0]
    cdef int64_t seq = source.shape[2]
    cdef bint fresh = out is None
    if cos.shape != sin.shape:
        raise ValueError(f"sin: shape {sin.shape}, expected {cos.shape} as cos has")
    if half < 1 or 2 * half > source.shape[3]:
        raise ValueError(f"cos: shape {cos.shape}, expected a last dimension of 1 to {source.shape[3] // 2}: one angle for "
                         f"each pair of the {source.shape[3]} dims of x")
    if rotary_dim is not None and rotary_dim != 2 * half:
        raise ValueError(f"rotary_dim: {rotary_dim}, expected {2 * half}, twice the last dimension of cos")
    if position_ids is None:
        spread(c, batch)
        spread(s, batch)
        if c.shape[0] != batch or c.shape[1] != seq:
            raise ValueError(f"cos: shape {cos.shape}, expected ({batch}, {seq}, {half}) without position_ids")
    else:
        at = take(views, position_ids, "position_ids", 1, 2, 1u << FA_I64, False, False)
        spread(at, batch)
        if at.shape[0] != batch or at.shape[1] != seq:
            raise ValueError(f"position_ids: shape {position_ids.shape}, expected ({batch}, {seq}) or ({seq},)")
    if fresh:
        out = _empty(x.shape, x.dtype)
    elif type(out) is _ndarray and out.shape != x.shape:
        raise ValueError(f"out: shape {out.shape}, expected {x.shape} as x has")
    to = take(views, out, "out", 2, 4, 1u << source.dtype, True, True)
    if not fresh:
        separate(views, views.count - 1, 0, "out", "x", True)
        separate(views, views.count - 1, 1, "out", "cos", False)
        separate(views, views.count - 1, 2, "out", "sin", False)
        if at != NULL:
            separate(views, views.count - 1, 3, "out", "position_ids", False)
    make_ctx(&ctx, num_threads)
    with nogil:
        status = fa_rope(&ctx, to, source, c, s, at, interleaved)
    if status == FA_ERR_VALUE and at != NULL:
        check_positions(position_ids, c.shape[0], "the rows of cos")
    check(status, "rope")
    return out


def rope_table(cos, sin, positions, const double[::1] turns, double factor, num_threads):
    """Fills cos, sin (n, half) for int64 positions (n,); turns holds four doubles a frequency, as fastattn.h says."""
    cdef fa_ctx ctx
    cdef Views views = Views.__new__(Views)
    cdef fa_view *c = take(views, cos, "cos", 2, 2, 1u << FA_F32, True, True)
    cdef fa_view *s = take(views, sin, "sin", 2, 2, 1u << FA_F32, True, True)
    cdef fa_view *at = take(views, positions, "positions", 1, 1, 1u << FA_I64, False, False)
    cdef const double *frequencies = &turns[0] if turns.shape[0] else NULL
    cdef fa_status status
    if turns.shape[0] != 4 * c.shape[1]:
        raise ValueError(f"turns: {turns.shape[0]} numbers, expected four for each of {c.shape[1]} frequencies")
    make_ctx(&ctx, num_threads)
    with nogil:
        status = fa_rope_table(&ctx, c, s, at, frequencies, factor)
    check(status, "rope_table")


cdef int check_slots(object slots, int64_t limit) except -1:
    """After C has refused: which slot it was."""
    seen = {}
    for at, slot in enumerate(slots.reshape(-1).tolist()):
        where = tuple(int(i) for i in _numpy.unravel_index(at, slots.shape))
        if not -1 <= slot < limit:
            raise ValueError(f"slots: {slot} at {where}, expected 0 to {limit - 1}, or -1 for a row to leave out")
        if slot >= 0 and slot in seen:
            raise ValueError(f"slots: {slot} at {seen[slot]} and at {where}, expected a slot of its own for each row")
        seen[slot] = where
    return 0


def kv_store(dst, src, slots, *, scale=None, cos=None, sin=None, position_ids=None, bint interleaved=False,
             integers=None, num_threads=None):
    """Writes rows of new keys or values to their slots of a cache, rotated, converted or quantised on the way.

    Args:
        dst: (N, H, P, D) float32, float16, bfloat16 (as uint16) or int8, any outer strides
        src: (B, H, S, D) float32, float16 or bfloat16, any outer strides
        slots: (B, S) int64; row (b, h, s) goes to dst[slot // P, h, slot % P], -1 leaves the rows of (b, s) out
        scale: (N, H, P) float32 with int8 dst, and only then: gets max|row| / 127
        cos, sin: (positions, R / 2) float32 with position_ids (B, S) int64: the first R dims are rotated first, as
            fastattn.rope does it, in float32; then the row is rounded once
        interleaved: pairs are (2 i, 2 i + 1)
        integers: "keys" or "values" with int8 dst: rounded for attention by integers, which alone reads such rows

    A row of dst's dtype that is not rotated is copied bit for bit. Nothing is written if anything is refused; two rows
    may not share a slot.
    """
    cdef fa_ctx ctx
    cdef Workspace ws
    cdef Views views = Views.__new__(Views)
    cdef fa_view *to = take(views, dst, "dst", 4, 4, FLOATS | 1u << FA_I8, True, True)
    cdef fa_view *source = take(views, src, "src", 4, 4, FLOATS, True, False)
    cdef fa_view *where = take(views, slots, "slots", 2, 2, 1u << FA_I64, False, False)
    cdef fa_view *scales = NULL
    cdef fa_view *c = NULL
    cdef fa_view *s = NULL
    cdef fa_view *at = NULL
    cdef fa_status status
    cdef size_t size = 0
    cdef int last
    cdef fa_store_form form = FA_STORE_KEYS if integers == "keys" else FA_STORE_VALUES if integers else FA_STORE_ROWS
    if to.shape[1] != source.shape[1] or to.shape[3] != source.shape[3]:
        raise ValueError(f"src: shape {src.shape}, expected (B, {to.shape[1]}, S, {to.shape[3]}) as dst {dst.shape} takes")
    if source.shape[3] > FA_MAX_HEAD_DIM:
        raise ValueError(f"src: shape {src.shape}, expected rows of at most {FA_MAX_HEAD_DIM}")
    if where.shape[0] != source.shape[0] or where.shape[1] != source.shape[2]:
        raise ValueError(f"slots: shape {slots.shape}, expected ({source.shape[0]}, {source.shape[2]}) as src has rows")
    separate(views, 0, 1, "dst", "src", False)
    separate(views, 0, 2, "dst", "slots", False)
    if (scale is not None) != (to.dtype == FA_I8):
        raise ValueError("scale: None, expected an array (N, H, P) for int8 dst" if scale is None else
                         f"scale: an array, expected None for dst of {dst.dtype}")
    if scale is not None:
        scales = take(views, scale, "scale", 3, 3, 1u << FA_F32, False, True)
        if scale.shape != dst.shape[:3]:
            raise ValueError(f"scale: shape {scale.shape}, expected {dst.shape[:3]}")
        for i in range(3):
            separate(views, 3, i, "scale", ("dst", "src", "slots")[i], False)
    given = (cos is not None) + (sin is not None) + (position_ids is not None)
    if given not in (0, 3):
        raise ValueError("cos, sin, position_ids: some are None, expected all or none")
    if given:
        c = take(views, cos, "cos", 2, 2, 1u << FA_F32, True, False)
        s = take(views, sin, "sin", 2, 2, 1u << FA_F32, True, False)
        at = take(views, position_ids, "position_ids", 2, 2, 1u << FA_I64, False, False)
        last = views.count
        if sin.shape != cos.shape:
            raise ValueError(f"sin: shape {sin.shape}, expected {cos.shape} as cos has")
        if not 1 <= c.shape[1] <= source.shape[3] // 2:
            raise ValueError(f"cos: shape {cos.shape}, expected a last dimension of 1 to {source.shape[3] // 2}")
        if at.shape[0] != source.shape[0] or at.shape[1] != source.shape[2]:
            raise ValueError(f"position_ids: shape {position_ids.shape}, expected {slots.shape}")
        for name in ("position_ids", "sin", "cos"):
            last -= 1
            separate(views, 0, last, "dst", name, False)
            if scale is not None:
                separate(views, 3, last, "scale", name, False)
    make_ctx(&ctx, num_threads)
    check(fa_kv_store_workspace(where, &size), "kv_store")
    take_workspace(&ws, size)
    with nogil:
        status = fa_kv_store(&ctx, to, scales, source, where, c, s, at, interleaved, form, ws.base, ws.size)
        PyMem_RawFree(ws.block)
    if status == FA_ERR_VALUE:
        check_slots(slots, to.shape[0] * to.shape[2])
        if at != NULL:
            check_positions(position_ids, c.shape[0], "the rows of cos")
    check(status, "kv_store")


def merge(outs, lses, out, lse, num_threads):
    """Merges lists of partial results; all of one shape of rank 1 to 4 and dtype, out and lse apart from them."""
    cdef fa_ctx ctx
    cdef Workspace ws
    cdef Views target = Views.__new__(Views)
    cdef Views pair
    cdef fa_view *to = take(target, out, "out", 1, 4, FLOATS, True, True)
    cdef fa_view *total = take(target, lse, "lse", 0, 3, 1u << FA_F32, False, True)
    cdef fa_view *views
    cdef fa_status status
    cdef size_t size = 0
    cdef Py_ssize_t n = len(outs)
    cdef Py_ssize_t i
    if n < 1 or len(lses) != n or lse.shape != out.shape[:out.ndim - 1]:
        raise ValueError(f"lses: {len(lses)} for {n} outs, lse {lse.shape} for out {out.shape}")
    held = []
    for i in range(n):
        pair = Views.__new__(Views)
        take(pair, outs[i], f"outs[{i}]", 1, 4, 1u << to.dtype, True, False)
        take(pair, lses[i], f"lses[{i}]", 0, 3, 1u << FA_F32, False, False)
        if outs[i].shape != out.shape:
            raise ValueError(f"outs[{i}]: shape {outs[i].shape}, expected {out.shape}")
        if lses[i].shape != lse.shape:
            raise ValueError(f"lses[{i}]: shape {lses[i].shape}, expected {lse.shape}")
        held.append(pair)
    make_ctx(&ctx, num_threads)
    check(fa_merge_attention_workspace(&ctx, n, &size), "merge_attention")
    views = <fa_view *>PyMem_RawMalloc(2 * n * sizeof(fa_view))
    if views == NULL:
        raise MemoryError("merge_attention")
    for i in range(n):
        views[i] = (<Views>held[i]).views[0]
        views[n + i] = (<Views>held[i]).views[1]
    try:
        take_workspace(&ws, size)
        with nogil:
            status = fa_merge_attention(&ctx, to, total, n, views, views + n, ws.base, ws.size)
            PyMem_RawFree(ws.block)
    finally:
        PyMem_RawFree(views)
    check(status, "merge_attention")


def disentangled_bias(out, c2p, p2c, q_positions, k_positions, columns, double scale, num_threads):
    """Fills out (H, Sq, Sk); c2p (H, Sq, N) or None, p2c (H, Sk, N) or None, positions int64, columns int32."""
    cdef fa_ctx ctx
    cdef Views views = Views.__new__(Views)
    cdef fa_view *to = take(views, out, "out", 3, 3, 1u << FA_F32, True, True)
    cdef fa_view *q_at = take(views, q_positions, "q_positions", 1, 1, 1u << FA_I64, True, False)
    cdef fa_view *k_at = take(views, k_positions, "k_positions", 1, 1, 1u << FA_I64, True, False)
    cdef fa_view *table = take(views, columns, "columns", 1, 1, 1u << FA_I32, True, False)
    cdef fa_view *c = NULL
    cdef fa_view *p = NULL
    cdef fa_status status
    cdef int64_t n
    names = ["out", "q_positions", "k_positions", "columns"]
    if c2p is None and p2c is None:
        raise ValueError("c2p, p2c: None, expected at least one of them")
    if c2p is not None:
        c = take(views, c2p, "c2p", 3, 3, 1u << FA_F32, True, False)
        names.append("c2p")
        if c.shape[0] != to.shape[0] or c.shape[1] != to.shape[1]:
            raise ValueError(f"c2p: shape {c2p.shape}, expected ({to.shape[0]}, {to.shape[1]}, N) as out {out.shape} takes")
    if p2c is not None:
        p = take(views, p2c, "p2c", 3, 3, 1u << FA_F32, True, False)
        names.append("p2c")
        if p.shape[0] != to.shape[0] or p.shape[1] != to.shape[2]:
            raise ValueError(f"p2c: shape {p2c.shape}, expected ({to.shape[0]}, {to.shape[2]}, N) as out {out.shape} takes")
        if c != NULL and p.shape[2] != c.shape[2]:
            raise ValueError(f"p2c: shape {p2c.shape}, expected a last dimension of {c.shape[2]} as c2p has")
    if q_at.shape[0] != to.shape[1]:
        raise ValueError(f"q_positions: shape {q_positions.shape}, expected ({to.shape[1]},), one for each row of out")
    if k_at.shape[0] != to.shape[2]:
        raise ValueError(f"k_positions: shape {k_positions.shape}, expected ({to.shape[2]},), one for each column of out")
    if table.shape[0] % 2 == 0:
        raise ValueError(f"columns: {table.shape[0]} numbers, expected an odd count: distances -R to R")
    for i in range(1, len(names)):
        separate(views, 0, i, "out", names[i], False)
    make_ctx(&ctx, num_threads)
    with nogil:
        status = fa_disentangled_bias(&ctx, to, c, p, q_at, k_at, table, fa_to_float(scale))
    if status == FA_ERR_VALUE:
        n = (c if c != NULL else p).shape[2]
        reach = columns.shape[0] // 2
        least, most = min(q_positions.min(), k_positions.min()), max(q_positions.max(), k_positions.max())
        if least < 0:
            raise ValueError(f"q_positions, k_positions: {least}, expected at least 0")
        if most - least > reach:
            raise ValueError(f"columns: distances up to {reach}, expected {most - least}, the largest of the positions")
        raise ValueError(f"columns: from {columns.min()} to {columns.max()}, expected 0 to {n - 1}, the columns of the products")
    check(status, "disentangled_bias")
