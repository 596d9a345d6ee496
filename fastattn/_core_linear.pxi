# SPDX-License-Identifier: MIT
# Packed weights and linear layers; included behind _core_ops.pxi, whose Held, Walk and Call it uses. The Python side is
# weights.py and ops.py.

# ---- linear layers ---------------------------------------------------------------------------------------------------

cdef object _from_arrays = None  # checks the arguments of PackedLinear.from_arrays and calls packed_linear: weights.py's


def set_from_arrays(function):
    global _from_arrays
    _from_arrays = function


cdef dict _weight_dtypes = {"float32": FA_F32, "bfloat16": FA_BF16, "float16": FA_F16, "int8": FA_I8}


cdef enum:
    MOST_PARTS = 9  # arrays of one PackedLinear: two for each of four parts, and a bias


cdef struct Packed:
    # What C needs of a PackedLinear.
    fa_linear_weights weights
    const fa_view *bias  # NULL: none


cdef fa_status packed_space(const fa_ctx *ctx, const Packed *packed, const fa_view *out, const fa_view *x,
                            size_t *size) noexcept nogil:
    return fa_linear_workspace(ctx, out, x, packed.weights.dtype, size)


cdef fa_status packed_run(const fa_ctx *ctx, const Packed *packed, const fa_view *out, const fa_view *x, fa_activation act,
                          Workspace *ws) noexcept nogil:
    return fa_linear(ctx, out, x, &packed.weights, packed.bias, act, ws.base, ws.size)


cdef class PackedLinear:
    """The weights of a linear layer in the library's panels, and its bias: made once by pack_linear, used by linear.

    The panels are 64-byte aligned and the same on every instruction set. Objects do not change after they are made and
    may be used from many threads at once.

    Attributes:
        in_features, out_features: K and N
        nbytes: memory of all arrays
        dtype: of the stored weights, "float32", "bfloat16", "float16" or "int8"; or types of blocks, as in "Q4_K" or,
            of outputs that have several, "Q4_K+Q6_K"
        panels: read-only, zero beyond N and K: (ceil(N / 16), K, 16) of float32, float16 or, for bfloat16, uint16; or
            int8 (ceil(N / 16), ceil(K / 4), 16, 4); or, of blocks, the first ones' uint8 (panels, K / 32, bytes)
        bias: read-only float32 (N,), or None
        activations: how inputs of blocks are rounded, "int16" or "int8"; None with other weights
    """

    cdef readonly Py_ssize_t in_features
    cdef readonly Py_ssize_t out_features
    cdef readonly str dtype
    cdef dict parts              # name -> read-only array
    cdef Py_buffer buffers[MOST_PARTS]
    cdef int count               # of buffers held
    cdef Packed core
    cdef fa_view bias_view

    def __init__(self):
        raise TypeError("PackedLinear: made by pack_linear(weight, bias) or PackedLinear.from_arrays")

    def __dealloc__(self):
        cdef int i
        for i in range(self.count):
            PyBuffer_Release(&self.buffers[i])

    @property
    def panels(self):
        return self.parts["panels"]

    @property
    def bias(self):
        return self.parts.get("bias")

    @property
    def activations(self):
        return None if self.core.weights.dtype != FA_QUANT else "int16" if self.core.weights.planes == 2 else "int8"

    @property
    def nbytes(self):
        return sum(part.nbytes for part in self.parts.values())

    def arrays(self):
        """The arrays this object consists of, by name, read-only and without a copy: what from_arrays takes.

        They are "panels" and, where there is one, "bias"; with dtype "int8" also "scale", float32, and "column_sums",
        int32, both (16 * ceil(N / 16),). Of blocks they are "panels" and "scales", then "panels1" and "scales1" of
        outputs of another type, and so on: uint8 (panels, K / 32, bytes of 32 inputs) and (panels, bytes).

        >>> import numpy as np, fastattn as fa
        >>> layer = fa.pack_linear(np.ones((20, 3), np.float32))
        >>> {name: part.shape for name, part in layer.arrays().items()}
        {'panels': (2, 3, 16)}
        """
        return dict(self.parts)

    @staticmethod
    def from_arrays(arrays, in_features, out_features, dtype="float32", activations=None):
        """The object whose arrays() these are, over their very memory: mapped read-only files are welcome.

        Args:
            arrays: name -> array, as arrays() gives them; panels at a multiple of 64 bytes. They must not change while
                the object lives
            in_features, out_features: K and N
            dtype: of the stored weights
            activations: of blocks, "int16" (None) or "int8"

        Raises:
            TypeError: something that is no array, another dtype, sizes that are no integers
            ValueError: names or shapes that do not fit, memory that is not contiguous or not aligned

        >>> import numpy as np, fastattn as fa
        >>> layer = fa.pack_linear(np.ones((2, 3), np.float32))
        >>> same = fa.PackedLinear.from_arrays(layer.arrays(), 3, 2)
        >>> fa.linear(np.ones(3, np.float32), same)
        array([3., 3.], dtype=float32)
        """
        return _from_arrays(arrays, in_features, out_features, dtype, activations)

    def __repr__(self):
        return (f"PackedLinear(in_features={self.in_features}, out_features={self.out_features}, "
                f"bias={'bias' in self.parts}, dtype={self.dtype!r})")

    def __reduce__(self):
        return _unpickle_packed, (self.parts, self.in_features, self.out_features, self.dtype, self.activations)


cdef enum:
    SLAB = 8 << 20             # NumPy asks for huge pages for blocks of 4 MB and more
    SLAB_LEAST = 64 << 10      # smaller arrays have memory of their own
    SLAB_MOST = 4 << 20        # larger ones too

cdef object _slab = None       # memory that the next arrays are cut from
cdef Py_ssize_t _slab_used = 0


def aligned_array(shape, dtype):
    """An empty C-contiguous array whose data is 64-byte aligned.

    Weights of some hundred kilobytes lie together in larger blocks, which the system may back by huge pages: a pass over
    all layers of a small model for few rows takes 1.1 to 1.4 times as long from pages of 4 KB. A block is given back when
    the last array in it is gone.
    """
    global _slab, _slab_used
    cdef Py_ssize_t size = _numpy.dtype(dtype).itemsize
    cdef Py_ssize_t start
    for length in shape:
        size *= length
    if not SLAB_LEAST <= size < SLAB_MOST:
        memory = _empty(size + FA_ALIGN, "uint8")
        start = -memory.ctypes.data % FA_ALIGN
        return memory[start:start + size].view(dtype).reshape(shape)
    fresh = None
    if _slab is None or _slab_used + size > SLAB:
        fresh = _empty(SLAB + FA_ALIGN, "uint8")
        start = -fresh.ctypes.data % FA_ALIGN
        fresh = fresh[start:start + SLAB]
    if fresh is not None:
        _slab = fresh
        _slab_used = 0
    memory = _slab
    start = _slab_used
    _slab_used = start + (size + FA_ALIGN - 1) // FA_ALIGN * FA_ALIGN
    return memory[start:start + size].view(dtype).reshape(shape)


def panel_bytes(str dtype, Py_ssize_t n, Py_ssize_t k):
    """Memory of the panels; MemoryError or ValueError for sizes there cannot be."""
    cdef size_t size = 0
    check(fa_linear_packed_bytes(_weight_dtypes[dtype], n, k, &size), "weight")
    return size


def _unpickle_packed(parts, in_features, out_features, dtype, activations=None):
    arrays = {}
    for name, part in parts.items():
        arrays[name] = aligned_array(part.shape, part.dtype)
        arrays[name][...] = part
    return PackedLinear.from_arrays(arrays, in_features, out_features, dtype, activations)


def packed_linear(dict arrays, Py_ssize_t k, Py_ssize_t n, str dtype, tuple types=(), int planes=0):
    """A PackedLinear over these arrays, whose dtypes, shapes and alignment have been checked; they become read-only.

    `types`: of blocks, the number that GGUF has for those of each part; `planes` 2 or 1 of their inputs.
    """
    cdef PackedLinear packed = PackedLinear.__new__(PackedLinear)
    cdef fa_linear_weights *weights = &packed.core.weights
    cdef Py_ssize_t left = n
    cdef int i
    if len(arrays) > MOST_PARTS or len(types) > FA_QUANT_PARTS:
        raise ValueError(f"arrays: {len(arrays)} of {len(types)} types, expected at most {MOST_PARTS} of {FA_QUANT_PARTS}")
    packed.parts = {}
    places = {}
    for name, part in arrays.items():
        part = part.view(_ndarray)
        part.flags.writeable = False
        packed.parts[name] = part
        PyObject_GetBuffer(part, &packed.buffers[packed.count], PyBUF_STRIDES | PyBUF_FORMAT)
        places[name] = packed.count
        packed.count += 1
    if "bias" in places:
        vector_view(&packed.bias_view, &packed.buffers[places["bias"]])
        packed.core.bias = &packed.bias_view
    if types:
        weights.dtype = FA_QUANT
        weights.planes = planes
        weights.n_parts = len(types)
        for i in range(weights.n_parts):
            more = "" if i == 0 else str(i)
            weights.parts[i].type = types[i]
            weights.parts[i].codes = <uint8_t *>packed.buffers[places["panels" + more]].buf
            weights.parts[i].scales = <uint8_t *>packed.buffers[places["scales" + more]].buf
            weights.parts[i].outputs = min(16 * packed.buffers[places["panels" + more]].shape[0], left)
            left -= weights.parts[i].outputs
    else:
        weights.dtype = _weight_dtypes[dtype]
        weights.panels = packed.buffers[places["panels"]].buf
        if "scale" in places:
            weights.scale = <float *>packed.buffers[places["scale"]].buf
            weights.sums = <int32_t *>packed.buffers[places["column_sums"]].buf
    packed.in_features = k
    packed.out_features = n
    packed.dtype = dtype
    return packed


def quant_panel_bytes(int32_t type, int64_t k):
    """Bytes of the codes and of the scales of a panel of 16 outputs; ValueError where there are no such panels."""
    cdef int64_t codes = 0, scales = 0
    check(fa_quant_panel_bytes(type, k, &codes, &scales), "blocks")
    return codes, scales


cdef int quant_part(Views views, panels, scales, int32_t type, int64_t outputs, bint writable, fa_quant_part *part) except -1:
    cdef fa_view *codes = views.add(panels, 3, writable)
    cdef fa_view *beside = views.add(scales, 2, writable)
    if outputs > 16 * codes.shape[0] or codes.shape[0] != beside.shape[0]:
        raise ValueError("panels: not those of so many outputs")
    part.type = type
    part.outputs = outputs
    part.codes = <uint8_t *>codes.data
    part.scales = <uint8_t *>beside.data
    return 0


def fill_quants(panels, scales, int32_t type, blocks, int64_t k, num_threads):
    """Panels of the rows of blocks (N, bytes of K); the first row that has a scale that is no number, else -1."""
    cdef fa_ctx ctx
    cdef Views views = Views.__new__(Views)
    cdef fa_quant_part part
    cdef fa_view *rows = views.add(blocks, 2, False)
    cdef fa_status status
    cdef int64_t bad = -1
    rows.dtype = FA_BOOL  # bytes
    quant_part(views, panels, scales, type, rows.shape[0], True, &part)
    make_ctx(&ctx, num_threads)
    with nogil:
        status = fa_quant_pack(&ctx, &part, rows, k, &bad)
    if status != FA_ERR_NAN:
        check(status, "blocks")
    return bad


def quantize_int4(blocks, weight, num_threads=None):
    """blocks (N, 20 * ceil(K / 32)) uint8 = weight (N, K) float32 in 4 bits; the first row that cannot be, else -1."""
    cdef fa_ctx ctx
    cdef Views views = Views.__new__(Views)
    cdef fa_view *to = views.add(blocks, 2, True)
    cdef fa_view *source = views.add(weight, 2, False)
    cdef fa_status status
    cdef int64_t bad = -1
    to.dtype = FA_BOOL  # bytes
    make_ctx(&ctx, num_threads)
    with nogil:
        status = fa_quant_int4(&ctx, to, source, &bad)
    if status != FA_ERR_NAN:
        check(status, "weight")
    return bad


def unpack_quants(out, panels, scales, int32_t type, int64_t first, num_threads=None):
    """out (rows, K) float32 = weights of outputs first, first + 1, ... of panels."""
    cdef fa_ctx ctx
    cdef Views views = Views.__new__(Views)
    cdef fa_quant_part part
    cdef fa_view *to = take(views, out, "out", 2, 2, 1u << FA_F32, True, True)
    cdef fa_status status
    quant_part(views, panels, scales, type, 0, False, &part)
    part.outputs = 16 * views.views[1].shape[0]
    make_ctx(&ctx, num_threads)
    with nogil:
        status = fa_quant_unpack(&ctx, to, &part, first)
    check(status, "blocks")


def fill_panels(PackedLinear packed, weight, num_threads):
    """Packs float32 weight (N, K) with a unit last stride into the arrays of `packed`, which nobody else has seen yet."""
    cdef fa_ctx ctx
    cdef Views views = Views.__new__(Views)
    cdef fa_view *view = views.add(weight, 2, False)
    cdef fa_status status
    make_ctx(&ctx, num_threads)
    with nogil:
        status = fa_linear_pack(&ctx, &packed.core.weights, view)
    check(status, "weight")


def run_linear(x, packed, activation, out, num_threads, bint checked=False):
    """act(x W^T + bias) over the last axis; see the head of this file."""
    cdef fa_ctx ctx
    cdef Held held = Held.__new__(Held)
    cdef Walk walk
    cdef Call call
    cdef Workspace ws
    cdef PackedLinear p
    cdef Py_buffer *b
    cdef fa_status status
    cdef size_t size = 0
    cdef int i
    cdef bint fresh = out is None
    if type(x) is not _ndarray or type(packed) is not PackedLinear:
        return NotImplemented
    if activation is not None and (type(activation) is not str or activation not in _activations):
        return NotImplemented
    p = <PackedLinear>packed
    if fresh:
        shape = (<object>x).shape
        if not shape:
            return NotImplemented
        out = _empty(shape[:len(shape) - 1] + (p.out_features,), _float32)
    if not held.add(out, True) or not held.add(x, False):
        return NotImplemented
    b = &held.buffers[1]
    if b.shape[b.ndim - 1] != p.in_features:
        return NotImplemented
    if not fresh:
        b = &held.buffers[0]
        if b.ndim != held.buffers[1].ndim or not same_shape(b, &held.buffers[1], b.ndim - 1):
            return NotImplemented
        if b.shape[b.ndim - 1] != p.out_features:
            return NotImplemented
        if not checked:
            if not out_fits(held, 2, False):
                return NotImplemented
            for i in range(p.count):
                if not apart(b, &p.buffers[i]):
                    return NotImplemented
    call.op = OP_LINEAR
    call.act = _activations[activation]
    call.packed = &p.core
    call.weight = NULL
    call.bias = NULL
    call.eps = 0
    make_ctx(&ctx, num_threads)
    plan_walk(&walk, held, 2)
    check(packed_space(&ctx, &p.core, &walk.view[0], &walk.view[1], &size), "linear")
    take_workspace(&ws, size)
    with nogil:
        status = call_walk(&ctx, &call, &walk, &ws)
        PyMem_RawFree(ws.block)
    check(status, "linear")
    return out
