# SPDX-License-Identifier: MIT
# Several operators in one call: what a layer does, noted once and run without the GIL. Included behind _core_linear.pxi.

cdef enum:
    MOST_SLOTS = 8
    MOST_TABLES = 4
    STEP_LINEAR = 0, STEP_LAYER_NORM, STEP_RMS_NORM, STEP_ATTENTION, STEP_GATED, STEP_ADD, STEP_ROPE


cdef struct Step:
    int kind
    int x, residual, out        # slots; -1: none
    int act
    float eps
    const Packed *packed
    fa_view weight, bias        # norms; ndim 0: none
    int64_t at[3]               # attention: first column of q, k, v in slot x; gated: of what is activated, of the gate
    int table                   # rope
    int64_t heads, head_size
    float scale
    int64_t window[2]           # -1: unbounded
    fa_view distance_bias       # (heads, 2 R + 1); ndim 0: none


cdef struct Rows:
    # The arrays of one run: slot i is (T, width) with rows one behind the other.
    fa_view slots[MOST_SLOTS]
    const int64_t *cu
    int64_t n_seq
    int tables
    fa_view cos[MOST_TABLES]                    # (positions, pairs)
    fa_view sin[MOST_TABLES]
    fa_view at[MOST_TABLES]                     # (1, T), the rows of cos and sin


cdef void heads_of(fa_view *view, const fa_view *slot, int64_t at, int64_t heads, int64_t size) noexcept nogil:
    """(1, heads, T, size): columns `at` and on of a slot."""
    view.data = <char *>slot.data + at * 4
    view.ndim = 4
    view.dtype = FA_F32
    view.shape[0] = 1
    view.stride[0] = 0
    view.shape[1] = heads
    view.stride[1] = size * 4
    view.shape[2] = slot.shape[0]
    view.stride[2] = slot.stride[0]
    view.shape[3] = size
    view.stride[3] = 4


cdef fa_status run_step(const fa_ctx *ctx, Step *step, Rows *rows, Workspace *ws, bint measure, size_t *size) noexcept nogil:
    """Runs a step, or says how much workspace it wants."""
    cdef fa_view q, k, v, out
    cdef fa_attention_params params
    cdef fa_view *x = &rows.slots[step.x]
    cdef fa_view *target = &rows.slots[step.out]
    cdef fa_view *residual = &rows.slots[step.residual] if step.residual >= 0 else NULL
    cdef fa_view *bias = &step.bias if step.bias.ndim else NULL
    size[0] = 0
    if step.kind == STEP_LINEAR:
        if measure:
            return packed_space(ctx, step.packed, target, x, size)
        return packed_run(ctx, step.packed, target, x, <fa_activation>step.act, ws)
    if step.kind == STEP_ATTENTION:
        heads_of(&q, x, step.at[0], step.heads, step.head_size)
        heads_of(&k, x, step.at[1], step.heads, step.head_size)
        heads_of(&v, x, step.at[2], step.heads, step.head_size)
        heads_of(&out, target, 0, step.heads, step.head_size)
        memset(&params, 0, sizeof(params))
        params.scale = step.scale
        params.window_left = step.window[0]
        params.window_right = step.window[1]
        params.n_seq = rows.n_seq
        params.cu_q = rows.cu
        params.cu_k = rows.cu
        params.bias = &step.distance_bias if step.distance_bias.ndim else NULL
        if measure:
            return fa_attention_workspace(ctx, &out, NULL, NULL, &q, &k, &v, &params, size)
        return fa_attention(ctx, &out, NULL, NULL, &q, &k, &v, &params, ws.base, ws.size)
    if measure:
        return FA_OK
    if step.kind == STEP_GATED:
        q = target[0]
        k = target[0]
        q.data = <char *>x.data + step.at[0] * 4
        k.data = <char *>x.data + step.at[1] * 4
        q.stride[0] = k.stride[0] = x.stride[0]
        return fa_gated(ctx, target, &q, &k, <fa_activation>step.act)
    if step.kind == STEP_ADD:
        return fa_add(ctx, target, x, residual)
    if step.kind == STEP_ROPE:
        heads_of(&q, x, step.at[0], step.heads, step.head_size)
        return fa_rope(ctx, &q, &q, &rows.cos[step.table], &rows.sin[step.table], &rows.at[step.table], step.act)
    if step.kind == STEP_LAYER_NORM:
        return fa_layer_norm(ctx, target, x, residual, &step.weight, bias, step.eps)
    return fa_rms_norm(ctx, target, x, residual, &step.weight, step.eps)


cdef class Program:
    """Operators one behind the other over rows of tokens, run in one call without the GIL.

    A program is written once, by slots: slot i stands for the i-th of the arrays (T, width) that a run gets. It does what
    the functions of ops and attention_varlen do, with the same bits. It does not change any more once it runs.

    >>> import numpy as np, fastattn as fa
    >>> from fastattn.program import Program
    >>> program = Program([4, 2])                       # widths of the slots
    >>> program.linear(0, fa.pack_linear(np.ones((2, 4), np.float32)), 1)
    >>> arrays = [np.ones((3, 4), np.float32), np.zeros((3, 2), np.float32)]
    >>> program.run(arrays, np.array([0, 3]))
    >>> arrays[1][0]
    array([4., 4.], dtype=float32)
    """

    cdef Step *steps
    cdef int count
    cdef int capacity
    cdef list keep
    cdef tuple widths

    def __cinit__(self, widths):
        self.widths = tuple(widths)
        self.keep = []
        if not 0 < len(self.widths) <= MOST_SLOTS:
            raise ValueError(f"widths: {len(self.widths)} slots, expected 1 to {MOST_SLOTS}")

    def __dealloc__(self):
        PyMem_RawFree(self.steps)

    def __len__(self):
        return self.count

    cdef Step *add(self, int kind, int x, int out) except NULL:
        cdef Step *grown
        cdef Step *step
        if self.count == self.capacity:
            grown = <Step *>PyMem_RawRealloc(self.steps, (2 * self.capacity + 16) * sizeof(Step))
            if grown == NULL:
                raise MemoryError("program")
            self.steps = grown
            self.capacity = 2 * self.capacity + 16
        step = &self.steps[self.count]
        memset(step, 0, sizeof(Step))
        step.kind = kind
        step.x = x
        step.out = out
        step.residual = -1
        self.count += 1
        return step

    cdef Py_ssize_t width(self, int slot) except -1:
        if not 0 <= slot < len(self.widths):
            raise ValueError(f"slot {slot}, expected 0 to {len(self.widths) - 1}")
        return self.widths[slot]

    cdef int vector(self, fa_view *view, object array, Py_ssize_t width) except -1:
        """The view of a float32 (width,) array, which is kept."""
        cdef Views held = Views.__new__(Views)
        held.add(array, 1, False)
        if held.views[0].dtype != FA_F32 or held.views[0].shape[0] != width or held.views[0].stride[0] != 4:
            raise ValueError(f"vector of shape {array.shape}, expected contiguous float32 ({width},)")
        self.keep.append(held)
        view[0] = held.views[0]
        return 0

    def linear(self, int x, PackedLinear packed not None, int out, activation=None):
        """out = activation(x W^T + bias)."""
        if self.width(x) != packed.in_features or self.width(out) != packed.out_features or x == out:
            raise ValueError(f"linear: {packed!r} from width {self.width(x)} to {self.width(out)}")
        cdef Step *step = self.add(STEP_LINEAR, x, out)
        step.act = _activations[activation]
        step.packed = &packed.core
        self.keep.append(packed)

    def norm(self, int x, weight, bias, double eps, int out, residual=None, bint rms=False):
        """out = layer_norm(x + residual), or rms_norm; out may be x or residual."""
        cdef Py_ssize_t width = self.width(x)
        if self.width(out) != width or (residual is not None and self.width(residual) != width):
            raise ValueError(f"norm: slots {x}, {residual}, {out} of different widths")
        cdef Step *step = self.add(STEP_RMS_NORM if rms else STEP_LAYER_NORM, x, out)
        step.eps = fa_to_float(eps)
        step.residual = -1 if residual is None else residual
        self.vector(&step.weight, weight, width)
        if bias is not None:
            self.vector(&step.bias, bias, width)

    def attention(self, int x, columns, Py_ssize_t heads, Py_ssize_t head_size, int out, *, double scale, window=(-1, -1),
                  distance_bias=None):
        """out = attention of every sequence to itself; q, k, v are heads * head_size columns of slot x, from `columns` on.

        window: keys to the left and right, -1 for all. distance_bias: float32 (heads, 2 R + 1), added to the scores by
        the distance of key and query, clipped to -R..R.
        """
        cdef Views held
        cdef int i
        if self.width(out) != heads * head_size or x == out or not 1 <= head_size <= FA_MAX_HEAD_DIM or heads < 1:
            raise ValueError(f"attention: {heads} heads of {head_size} from slot {x} to one of width {self.width(out)}")
        cdef Step *step = self.add(STEP_ATTENTION, x, out)
        columns = tuple(columns)
        for i in range(3):
            if len(columns) != 3 or not 0 <= columns[i] <= self.width(x) - heads * head_size:
                self.count -= 1
                raise ValueError(f"attention: columns {columns} of a slot of width {self.width(x)}")
            step.at[i] = columns[i]
        step.heads = heads
        step.head_size = head_size
        step.scale = fa_to_float(scale)
        step.window[0], step.window[1] = window
        if distance_bias is not None:
            held = Views.__new__(Views)
            held.add(distance_bias, 2, False)
            if held.views[0].dtype != FA_F32 or held.views[0].shape[0] != heads or held.views[0].stride[1] != 4:
                self.count -= 1
                raise ValueError(f"distance_bias: shape {distance_bias.shape}, expected float32 ({heads}, 2 R + 1)")
            self.keep.append(held)
            step.distance_bias = held.views[0]

    def gated(self, int x, columns, int out, activation=None):
        """out = activation(a) * b, where a and b are as many columns of slot x as out has, from `columns` on."""
        cdef Py_ssize_t a, b
        a, b = columns
        if x == out or not 0 <= a <= self.width(x) - self.width(out) or not 0 <= b <= self.width(x) - self.width(out):
            raise ValueError(f"gated: columns {columns} of slot {x} to one of width {self.width(out)}")
        act = _activations[activation]
        cdef Step *step = self.add(STEP_GATED, x, out)
        step.act = act
        step.at[0] = a
        step.at[1] = b

    def plus(self, int x, int other, int out):
        """out = x + other; out may be one of them."""
        if self.width(x) != self.width(other) or self.width(x) != self.width(out):
            raise ValueError(f"plus: slots {x}, {other}, {out} of different widths")
        cdef Step *step = self.add(STEP_ADD, x, out)
        step.residual = other

    def rope(self, int x, Py_ssize_t column, Py_ssize_t heads, Py_ssize_t head_size, int table, bint interleaved=False):
        """Turns heads * head_size columns of slot x in place by table `table` of the run."""
        if heads < 1 or head_size < 2 or not 0 <= column <= self.width(x) - heads * head_size or not 0 <= table < MOST_TABLES:
            raise ValueError(f"rope: {heads} heads of {head_size} from column {column} of slot {x}, table {table}")
        cdef Step *step = self.add(STEP_ROPE, x, x)
        step.at[0] = column
        step.heads = heads
        step.head_size = head_size
        step.table = table
        step.act = interleaved

    def run(self, arrays, cu_seqlens, num_threads=None, int first=0, int stop=-1, tables=()):
        """Runs steps first to stop (-1: all).

        arrays: for each slot a float32 array (T, width), rows one behind the other; steps read and write them in place,
        and none of those that one step works with may overlap another.
        cu_seqlens: (n + 1,) int64 from 0 to T, ascending.
        tables: of the rope steps: (cos, sin, rows) each, float32 (P, pairs) twice and int64 (T,) from 0 to P - 1.

        Raises:
            ValueError: arrays or bounds that do not fit
        """
        cdef fa_ctx ctx
        cdef Rows rows
        cdef Views views = Views.__new__(Views)
        cdef Views bounds = Views.__new__(Views)
        cdef fa_view *view
        cdef Workspace ws
        cdef fa_status status = FA_OK
        cdef size_t size = 0, most = 0
        cdef int64_t tokens = 0
        cdef int i, last = self.count if stop < 0 else stop
        if len(arrays) != len(self.widths) or not 0 <= first <= last <= self.count:
            raise ValueError(f"arrays: {len(arrays)} for steps {first} to {last}, expected {len(self.widths)} and steps to {self.count}")
        for i in range(len(self.widths)):
            view = views.add(arrays[i], 2, True)
            if i == 0:
                tokens = view.shape[0]
            if view.dtype != FA_F32 or view.shape[0] != tokens or view.shape[1] != self.widths[i] or <uintptr_t>view.data % 4 != 0:
                raise ValueError(f"arrays[{i}]: shape {arrays[i].shape}, expected float32 ({tokens}, {self.widths[i]})")
            view.stride[0] = view.shape[1] * 4 if tokens <= 1 else view.stride[0]
            if view.stride[0] != view.shape[1] * 4 or view.stride[1] != 4:
                raise ValueError(f"arrays[{i}]: strides {arrays[i].strides}, expected rows one behind the other")
            rows.slots[i] = view[0]
        view = bounds.add(cu_seqlens, 1, False)
        if view.dtype != FA_I64 or view.shape[0] < 1 or view.stride[0] != 8:
            raise ValueError("cu_seqlens: expected a contiguous int64 array of one dimension")
        rows.cu = <const int64_t *>view.data
        rows.n_seq = view.shape[0] - 1
        if rows.cu[0] != 0 or rows.cu[rows.n_seq] != tokens:
            raise ValueError(f"cu_seqlens: from {rows.cu[0]} to {rows.cu[rows.n_seq]}, expected from 0 to {tokens}")
        for i in range(rows.n_seq):
            if rows.cu[i + 1] < rows.cu[i]:
                raise ValueError(f"cu_seqlens: {rows.cu[i + 1]} after {rows.cu[i]}, expected ascending values")
        rows.tables = len(tables)
        if rows.tables > MOST_TABLES:
            raise ValueError(f"tables: {rows.tables}, expected at most {MOST_TABLES}")
        held = []
        for i in range(rows.tables):
            bounds = Views.__new__(Views)
            held.append(bounds)
            cos, sin, positions = tables[i]
            rows.cos[i] = take(bounds, cos, f"tables[{i}][0]", 2, 2, 1u << FA_F32, True, False)[0]
            rows.sin[i] = take(bounds, sin, f"tables[{i}][1]", 2, 2, 1u << FA_F32, True, False)[0]
            rows.at[i] = take(bounds, positions, f"tables[{i}][2]", 1, 2, 1u << FA_I64, False, False)[0]
            if rows.at[i].shape[0] != 1 or rows.at[i].shape[1] != tokens:
                raise ValueError(f"tables[{i}][2]: shape {positions.shape}, expected ({tokens},)")
        for i in range(first, last):
            if self.steps[i].kind == STEP_ROPE and self.steps[i].table >= rows.tables:
                raise ValueError(f"tables: {rows.tables}, expected at least {self.steps[i].table + 1}")
        if tokens == 0 or first == last:
            return
        make_ctx(&ctx, num_threads)
        with nogil:
            for i in range(first, last):
                status = run_step(&ctx, &self.steps[i], &rows, &ws, True, &size)
                if status != FA_OK:
                    break
                if size > most:
                    most = size
        check(status, "program")
        take_workspace(&ws, most)
        with nogil:
            fa_team_begin(&ctx)
            for i in range(first, last):
                status = run_step(&ctx, &self.steps[i], &rows, &ws, False, &size)
                if status != FA_OK:
                    break
            fa_team_end()
            PyMem_RawFree(ws.block)
        check(status, "program")
