# SPDX-License-Identifier: MIT
# Programs: the steps of a model noted once and run by one C call. Included behind _core_linear.pxi. graph/program.py
# writes them.

STEP_KINDS = {
    "embed": FA_STEP_EMBED, "linear": FA_STEP_LINEAR, "layer_norm": FA_STEP_LAYER_NORM, "rms_norm": FA_STEP_RMS_NORM,
    "attention": FA_STEP_ATTENTION, "rope": FA_STEP_ROPE, "gated": FA_STEP_GATED, "add": FA_STEP_ADD,
    "activate": FA_STEP_ACTIVATE, "scale": FA_STEP_SCALE, "gather": FA_STEP_GATHER, "pool": FA_STEP_POOL,
    "normalize": FA_STEP_NORMALIZE, "copy": FA_STEP_COPY, "clamp": FA_STEP_CLAMP, "join": FA_STEP_JOIN,
    "disentangled": FA_STEP_DISENTANGLED,
    "route": FA_STEP_ROUTE, "experts": FA_STEP_EXPERTS,
    "short_conv": FA_STEP_SHORT_CONV, "linear_attention": FA_STEP_LINEAR_ATTENTION, "softplus": FA_STEP_SOFTPLUS,
    "scale_heads": FA_STEP_SCALE_HEADS, "columns": FA_STEP_COLUMNS,
}
cdef dict _route_scores = {"softmax": FA_ROUTE_SOFTMAX, "chosen": FA_ROUTE_CHOSEN, "sigmoid": FA_ROUTE_SIGMOID}
ROW_KINDS = FA_ROW_KINDS


cdef class Blocks:
    """Scratch memory for programs: a run borrows a block, and at most two idle ones are kept warm.

    Fresh memory costs a page fault for every 4 KB, which is most of the time of a short call; two blocks serve a model
    that is called from many threads without keeping memory for all of them.
    """

    cdef list idle

    def __cinit__(self):
        self.idle = []

    cdef object take(self, size_t size):
        """A block of at least `size` bytes; it has room for FA_ALIGN more."""
        if self.idle:
            block = self.idle.pop()
            if block.nbytes >= size + FA_ALIGN:
                return block
        return _empty(size + FA_ALIGN, "uint8")

    cdef int give(self, object block) except -1:
        if len(self.idle) < 2:
            self.idle.append(block)
        return 0

    def __len__(self):
        """How many blocks are idle."""
        return len(self.idle)

    @property
    def nbytes(self):
        """Memory of the idle blocks."""
        return sum(block.nbytes for block in self.idle)


cdef class Memory:
    """What sequences keep between the runs of a program: keys and values of each layer, states, and where a batch's rows go."""

    cdef fa_memory_layer *layers
    cdef fa_memory_group *groups
    cdef int n_layers
    cdef int n_groups
    cdef list held        # of the layers
    cdef list placed      # of the groups: one Views each, replaced by place()
    cdef fa_view *states
    cdef int n_states
    cdef list kept        # of the states
    cdef Views slots      # replaced by place_states()
    cdef const int64_t *state_from
    cdef const int64_t *state_to

    def __cinit__(self, arrays, int groups):
        """arrays: of each layer (k, v, k_scale, v_scale); the scales None but for int8."""
        cdef Views views
        cdef int i
        self.n_layers = len(arrays)
        self.n_groups = groups
        self.held = []
        self.placed = [None] * groups
        self.layers = <fa_memory_layer *>PyMem_RawMalloc((self.n_layers + 1) * sizeof(fa_memory_layer))
        self.groups = <fa_memory_group *>PyMem_RawMalloc((groups + 1) * sizeof(fa_memory_group))
        if self.layers == NULL or self.groups == NULL:
            raise MemoryError("memory")
        memset(self.layers, 0, (self.n_layers + 1) * sizeof(fa_memory_layer))
        memset(self.groups, 0, (groups + 1) * sizeof(fa_memory_group))
        for i, (k, v, k_scale, v_scale) in enumerate(arrays):
            views = Views.__new__(Views)
            self.layers[i].k = views.add(k, 4, True)[0]
            self.layers[i].v = views.add(v, 4, True)[0]
            if k_scale is not None:
                self.layers[i].k_scale = views.add(k_scale, 3, True)[0]
                self.layers[i].v_scale = views.add(v_scale, 3, True)[0]
            self.held.append(views)

    def __dealloc__(self):
        PyMem_RawFree(self.layers)
        PyMem_RawFree(self.groups)
        PyMem_RawFree(self.states)

    def keep_states(self, tables):
        """From now on: of each step with a state, a float32 table (slots, width)."""
        cdef Views views
        cdef list kept = []
        cdef fa_view *found = <fa_view *>PyMem_RawMalloc((len(tables) + 1) * sizeof(fa_view))
        if found == NULL:
            raise MemoryError("memory")
        try:
            for i, table in enumerate(tables):
                views = Views.__new__(Views)
                found[i] = views.add(table, 2, True)[0]
                kept.append(views)
        except BaseException:
            PyMem_RawFree(found)
            raise
        PyMem_RawFree(self.states)
        self.states, self.n_states, self.kept = found, len(tables), kept

    def place_states(self, begin, end):
        """Of the next runs: int64 (n,) slots that sequences' states are in, -1 for none yet, and that they go to."""
        cdef Views views = Views.__new__(Views)
        for name, array in (("begin", begin), ("end", end)):
            if array.dtype != "int64" or array.ndim != 1 or not array.flags.c_contiguous:
                raise ValueError(f"{name}: expected contiguous int64 of rank 1")
        if len(begin) != len(end):
            raise ValueError(f"end: {len(end)} slots, expected {len(begin)}")
        self.state_from = <const int64_t *>views.add(begin, 1, False).data
        self.state_to = <const int64_t *>views.add(end, 1, False).data
        self.slots = views

    def place(self, int group, slots, page_table, kv_lengths, q_offset):
        """Of the next runs: int64 slots (T,), page table (n, pages), and lengths and offsets (n,), contiguous."""
        cdef Views views = Views.__new__(Views)
        if not 0 <= group < self.n_groups:
            raise ValueError(f"group: {group}, expected 0 to {self.n_groups - 1}")
        for name, array, ndim in (("slots", slots, 1), ("page_table", page_table, 2), ("kv_lengths", kv_lengths, 1), ("q_offset", q_offset, 1)):
            if array.dtype != "int64" or array.ndim != ndim or not array.flags.c_contiguous:
                raise ValueError(f"{name}: expected contiguous int64 of rank {ndim}")
        if len(page_table) != len(kv_lengths) or len(page_table) != len(q_offset):
            raise ValueError(f"kv_lengths: {len(kv_lengths)}, q_offset: {len(q_offset)}, expected {len(page_table)} each")
        cdef fa_memory_group *place = &self.groups[group]
        place.slots = views.add(slots, 2, False)[0]
        place.page_table = views.add(page_table, 2, False)[0]
        place.kv_lengths = <const int64_t *>views.add(kv_lengths, 1, False).data
        place.q_offset = <const int64_t *>views.add(q_offset, 1, False).data
        self.placed[group] = views


cdef int value_of(fa_value *value, object place) except -1:
    """place: (kind of rows, array or -1, at, stride, first, width); None: no value."""
    if place is not None:
        value.rows, value.array, value.at, value.stride, value.first, value.width = place
    return 0


cdef extern from *:
    """
    static inline void fa_ask(fa_stop *stop) { __atomic_store_n(&stop->asked, 1, __ATOMIC_RELAXED); }
    """
    void fa_ask(fa_stop *stop) nogil


cdef class Stop:
    """By which any thread ends the runs of another, one at a time: that which is going on, and all that begin later."""

    cdef fa_stop core
    cdef readonly bint asked

    def ask(self):
        self.asked = True
        fa_ask(&self.core)


cdef class Program:
    """Steps over rows of several kinds, run in one call without the GIL; fastattn.h says what they do.

    Attributes:
        arrays: names of the arrays a batch has, in their order
    """

    cdef fa_program core
    cdef fa_array *specs
    cdef int64_t capacity
    cdef list keep
    cdef readonly tuple arrays
    cdef list writable

    def __cinit__(self, columns, arrays, int layers=0, int groups=0, int states=0):
        """columns: of all tables of each kind of rows.
        arrays: (name, dtype, ndim, kind of rows or -1, more, optional, width, written) of each.
        """
        cdef int i
        self.keep = []
        self.writable = []
        self.arrays = tuple(spec[0] for spec in arrays)
        if len(columns) > FA_ROW_KINDS:
            raise ValueError(f"columns: {len(columns)} kinds of rows, expected at most {FA_ROW_KINDS}")
        for i in range(len(columns)):
            self.core.columns[i] = columns[i]
        self.specs = <fa_array *>PyMem_RawMalloc((len(arrays) + 1) * sizeof(fa_array))
        if self.specs == NULL:
            raise MemoryError("program")
        for i, (name, dtype, ndim, kind, more, optional, width, written) in enumerate(arrays):
            self.writable.append(bool(written))
            self.specs[i].dtype = FA_F32 if dtype == "float32" else FA_I64
            self.specs[i].ndim = ndim
            self.specs[i].rows = kind
            self.specs[i].more = more
            self.specs[i].optional = optional
            self.specs[i].width = width
        self.core.arrays = self.specs
        self.core.n_arrays = len(arrays)
        self.core.n_layers = layers
        self.core.n_groups = groups
        self.core.n_states = states

    def __dealloc__(self):
        PyMem_RawFree(self.core.steps)
        PyMem_RawFree(self.specs)

    def __len__(self):
        return self.core.n_steps

    cdef fa_view hold(self, object array, int ndim) except *:
        """The view of a read-only float32 array, which is kept."""
        cdef Views held = Views.__new__(Views)
        held.add(array, ndim, False)
        if held.views[0].dtype != FA_F32 or held.views[0].stride[ndim - 1] != 4:
            raise ValueError(f"array of shape {array.shape}, expected contiguous float32 of rank {ndim}")
        self.keep.append(held)
        return held.views[0]

    cdef const float *panels(self, object array, const fa_step *step, int64_t span) except NULL:
        """Of position keys or queries, kept: (heads * ceil(2 span / 16), head_size, 16), aligned."""
        cdef fa_view view = self.hold(array, 3)
        cdef int64_t each = (2 * span + 15) // 16
        if view.shape[0] != step.heads * each or view.shape[1] != step.head_size or view.shape[2] != 16:
            raise ValueError(f"panels: shape {array.shape}, expected {(step.heads * each, step.head_size, 16)}")
        if not array.flags.c_contiguous or <uintptr_t>view.data % FA_ALIGN != 0:
            raise ValueError(f"panels: expected contiguous memory at a multiple of {FA_ALIGN} bytes")
        return <const float *>view.data

    def add(self, str kind, out, x=None, y=None, z=None, decay=None, beta=None, *, index=(), PackedLinear packed=None,
            tables=(), weight=None, bias=None, activation=None, pooling=None, int act=0, double eps=0, double scale=0,
            int64_t heads=1, int64_t kv_heads=0, int64_t head_size=0, int64_t v_head_size=0, double softcap=0, bint causal=False,
            window=(-1, -1), int64_t chunk=0, bint integers=False, alibi=None, sinks=None, int layer=-1, int group=-1, int state=-1, c2p=None,
            p2c=None, int64_t span=0, int64_t max_distance=0, route=None, experts=None):
        """Writes a step; what it needs depends on its kind."""
        cdef fa_step *grown
        cdef fa_step *step
        cdef fa_step new
        cdef int i
        memset(&new, 0, sizeof(new))
        new.kind = STEP_KINDS[kind]
        value_of(&new.out, out)
        value_of(&new.x, x)
        value_of(&new.y, y)
        value_of(&new.z, z)
        value_of(&new.decay, decay)
        value_of(&new.beta, beta)
        for i in range(FA_STEP_INDICES):
            new.index[i] = index[i] if i < len(index) else -1
        if len(tables) > FA_STEP_TABLES or len(index) > FA_STEP_INDICES:
            raise ValueError(f"tables: {len(tables)}, index: {len(index)}, expected at most {FA_STEP_TABLES}, {FA_STEP_INDICES}")
        new.n_tables = len(tables)
        for i in range(new.n_tables):
            new.tables[i] = self.hold(tables[i], 2)
        if packed is not None and new.kind == FA_STEP_EMBED:
            if new.out.width != packed.in_features:
                raise ValueError(f"rows of {packed!r} to width {new.out.width}")
            self.keep.append(packed)
            new.weights = &packed.core.weights
            new.rows = packed.out_features
        elif packed is not None:
            if new.x.width != packed.in_features or new.out.width != packed.out_features:
                raise ValueError(f"{packed!r} from width {new.x.width} to {new.out.width}")
            self.keep.append(packed)
            new.weights = &packed.core.weights
            if packed.core.bias != NULL:
                new.bias = packed.core.bias[0]
        if weight is not None:
            new.weight = self.hold(weight, 1)
        if bias is not None:
            new.bias = self.hold(bias, 2 if new.kind == FA_STEP_ATTENTION else 1)
        if alibi is not None:
            new.alibi = self.hold(alibi, 1)
        if sinks is not None:
            new.sinks = self.hold(sinks, 1)
        new.act = _activations[activation] if activation is not None else act if pooling is None else _pool_modes[pooling]
        new.eps = fa_to_float(eps)
        new.scale = fa_to_float(scale)
        new.heads = heads
        new.kv_heads = kv_heads
        new.head_size = head_size
        new.v_head_size = v_head_size
        new.attention.scale = new.scale
        new.attention.softcap = fa_to_float(softcap)
        new.attention.causal = causal
        new.attention.window_left, new.attention.window_right = window
        new.attention.chunk = chunk
        new.attention.integers = integers
        new.disentangled.scale = new.scale
        new.disentangled.span = span
        new.disentangled.max_distance = max_distance
        if c2p is not None:
            new.disentangled.c2p = self.panels(c2p, &new, span)
        if p2c is not None:
            new.disentangled.p2c = self.panels(p2c, &new, span)
        if route is not None:
            self.add_route(&new, route)
        if experts is not None:
            self.add_experts(&new, experts)
        new.layer = layer
        new.group = group
        new.state = state
        if self.core.n_steps == self.capacity:
            grown = <fa_step *>PyMem_RawRealloc(self.core.steps, (2 * self.capacity + 16) * sizeof(fa_step))
            if grown == NULL:
                raise MemoryError("program")
            self.core.steps = grown
            self.capacity = 2 * self.capacity + 16
        self.core.steps[self.core.n_steps] = new
        self.core.n_steps += 1

    cdef int add_route(self, fa_step *step, dict options) except -1:
        """fa_route_params: top, score, normalize, floor, scale, groups, top_groups, group_sum."""
        step.route.top = options["top"]
        step.route.score = _route_scores[options.get("score", "softmax")]
        step.route.normalize = bool(options.get("normalize", False))
        step.route.floor = fa_to_float(options.get("floor", 0.0))
        step.route.scale = fa_to_float(options.get("scale", 1.0))
        step.route.groups = options.get("groups", 1)
        step.route.top_groups = options.get("top_groups", 1)
        step.route.group_sum = bool(options.get("group_sum", False))
        return 0

    cdef int add_experts(self, fa_step *step, dict options) except -1:
        """fa_experts_params: up and down (of all experts), count, inner, top, activation or clamped (alpha, limit), before."""
        cdef PackedLinear up = options["up"], down = options["down"]
        cdef int64_t count = options["count"], inner = options["inner"]
        cdef int64_t outputs
        for packed, inputs, each in ((up, step.x.width, 2 * inner), (down, inner, step.out.width)):
            outputs = count * fa_expert_span(each)
            if packed.in_features != inputs or packed.out_features != outputs:
                raise ValueError(f"{packed!r} for {count} experts from width {inputs} to {each}")
        self.keep.append((up, down))
        step.experts.up = &up.core.weights
        step.experts.down = &down.core.weights
        if up.core.bias != NULL:
            step.bias = up.core.bias[0]
        if down.core.bias != NULL:
            step.weight = down.core.bias[0]
        step.experts.count = count
        step.experts.inner = inner
        step.experts.top = options["top"]
        step.experts.act = _activations[options.get("activation")]
        clamped = options.get("clamped")
        if clamped is not None:
            step.experts.gate = FA_GATE_CLAMPED
            step.experts.alpha = fa_to_float(clamped[0])
            step.experts.limit = fa_to_float(clamped[1])
        step.experts.before = bool(options.get("before", False))
        return 0

    def seal(self):
        """Checks all steps, when the last one is written; a program that was not sealed does not run."""
        cdef int64_t bad = -1
        cdef fa_status status = fa_program_check(&self.core, &bad)
        check(status, f"program: step {bad}")
        self.capacity = -1

    def run(self, rows, arrays, Blocks blocks not None, num_threads=None, Memory memory=None, int64_t deadline=0,
            bint reserve=False, Stop stopped=None):
        """Runs all steps over a batch.

        rows: how many there are of each kind. arrays: as `self.arrays` names them; None where one is optional and missing.
        deadline: nanoseconds of time.monotonic_ns, 0 for none.
        reserve: the scratch memory of such a run is taken and written to, and no step runs.
        stopped: by which another thread may end it.

        Returns False when the deadline has passed or it was ended, and outputs are undefined.
        """
        cdef fa_ctx ctx
        cdef fa_stop own
        cdef fa_stop *stop = NULL
        cdef fa_batch batch
        cdef fa_view *views = NULL
        cdef Views held
        cdef Py_buffer memory_of
        cdef char *base
        cdef size_t size = 0, room
        cdef int64_t bad = -1
        cdef fa_status status
        cdef Py_ssize_t i, n = len(arrays)
        cdef uintptr_t start
        if self.capacity >= 0 or n != self.core.n_arrays:
            raise ValueError(f"arrays: {n}, expected {self.core.n_arrays} of a program that is sealed")
        memset(&batch, 0, sizeof(batch))
        for i in range(len(rows)):
            batch.rows[i] = rows[i]
        if memory is not None:
            if memory.n_layers != self.core.n_layers or memory.n_groups != self.core.n_groups or None in memory.placed:
                raise ValueError(f"memory: of {memory.n_layers} layers, expected {self.core.n_layers}, with places for all groups")
            if memory.n_states != self.core.n_states or (memory.n_states and memory.slots is None):
                raise ValueError(f"memory: of {memory.n_states} states, expected {self.core.n_states}, with slots")
            batch.layers = memory.layers
            batch.groups = memory.groups
            batch.n_layers = memory.n_layers
            batch.n_groups = memory.n_groups
            batch.states = memory.states
            batch.n_states = memory.n_states
            batch.state_from = memory.state_from
            batch.state_to = memory.state_to
        views = <fa_view *>PyMem_RawMalloc((n + 1) * sizeof(fa_view))
        if views == NULL:
            raise MemoryError("program")
        keep = []
        try:
            memset(views, 0, (n + 1) * sizeof(fa_view))
            for i in range(n):
                if arrays[i] is None:
                    continue
                if not keep or held.count == 8:
                    held = Views.__new__(Views)
                    keep.append(held)
                views[i] = held.add(arrays[i], self.specs[i].ndim, self.writable[i])[0]
            batch.arrays = views
            batch.n_arrays = n
            make_ctx(&ctx, num_threads)
            if deadline or stopped is not None:
                memset(&own, 0, sizeof(own))
                stop = &own if stopped is None else &stopped.core
                stop.deadline = deadline
                stop.look = NULL if ctx.stop == NULL else ctx.stop.look
                stop.arg = NULL if ctx.stop == NULL else ctx.stop.arg
                stop.next_look = 0
                stop.asked = stopped is not None and stopped.asked  # no longer by a signal that ended an earlier run
                ctx.stop = stop
            status = fa_program_space(&ctx, &self.core, &batch, &size)
            check(status, "program")
            block = blocks.take(size)
            if reserve:
                block.fill(0)  # now the system has to give it
                blocks.give(block)
                return True
            PyObject_GetBuffer(block, &memory_of, PyBUF_STRIDES | PyBUF_WRITABLE)
            start = <uintptr_t>memory_of.buf
            PyBuffer_Release(&memory_of)  # `block` is held
            base = <char *>((start + FA_ALIGN - 1) & ~<uintptr_t>(FA_ALIGN - 1))
            room = size
            with nogil:
                status = fa_program_run(&ctx, &self.core, &batch, base, room, &bad)
            blocks.give(block)
        finally:
            PyMem_RawFree(views)
        # What a handler has raised is the main thread's alone, and goes before the deadline there.
        if status == FA_STOPPED and stop != NULL and (stop.look == NULL or _raised is None):
            if (deadline and _monotonic_ns() >= deadline) or (stopped is not None and stopped.asked):
                return False
        check(status, f"program: step {bad}")
        return True
