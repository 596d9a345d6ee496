# SPDX-License-Identifier: MIT
# Drawing tokens. Included behind _core_program.pxi; engine/sampling.py has the options of a row.

MOST_LOGITS = FA_SAMPLE_MOST


cdef class Draws:
    """The draws of a call, and the arrays they point to."""

    cdef fa_draw *draws
    cdef double *most
    cdef Py_buffer *buffers
    cdef Py_ssize_t n_buffers

    def __cinit__(self, Py_ssize_t rows):
        self.draws = <fa_draw *>PyMem_RawMalloc((rows + 1) * sizeof(fa_draw))
        self.most = <double *>PyMem_RawMalloc((rows + 1) * sizeof(double))
        self.buffers = <Py_buffer *>PyMem_RawMalloc((9 * rows + 1) * sizeof(Py_buffer))
        if self.draws == NULL or self.most == NULL or self.buffers == NULL:
            raise MemoryError("draws")
        memset(self.draws, 0, (rows + 1) * sizeof(fa_draw))

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.n_buffers):
            PyBuffer_Release(&self.buffers[i])
        PyMem_RawFree(self.buffers)
        PyMem_RawFree(self.most)
        PyMem_RawFree(self.draws)

    cdef const void *hold(self, object array, int dtype, int64_t *count, str name, Py_ssize_t row) except? NULL:
        """The elements of a contiguous array of rank 1; int32 takes uint32 too."""
        cdef Py_buffer *buffer = &self.buffers[self.n_buffers]
        PyObject_GetBuffer(array, buffer, PyBUF_STRIDES | PyBUF_FORMAT)
        self.n_buffers += 1
        cdef int got = dtype_of(buffer.format, buffer.itemsize)
        if dtype == FA_I32 and buffer.itemsize == 4 and buffer.format != NULL and buffer.format[0] in (b'I', b'L'):
            got = FA_I32
        if got != dtype:
            raise TypeError(f"{name}[{row}]: {array.dtype}, expected {'int64' if dtype == FA_I64 else 'float32' if dtype == FA_F32 else 'uint32'}")
        if buffer.ndim != 1 or (buffer.shape[0] > 1 and buffer.strides[0] != buffer.itemsize) or <uintptr_t>buffer.buf % <uintptr_t>buffer.itemsize != 0:
            raise ValueError(f"{name}[{row}]: expected a contiguous array of rank 1, got shape {array.shape}")
        count[0] = buffer.shape[0]
        return buffer.buf

    cdef int shape(self, object sampling, object surprises, Py_ssize_t row) except -1:
        """What may be drawn beside top_k, top_p and min_p."""
        cdef fa_draw *draw = &self.draws[row]
        draw.typical_p = sampling.typical_p
        draw.epsilon = sampling.epsilon_cutoff
        draw.eta = sampling.eta_cutoff
        if sampling.xtc is not None:
            draw.xtc_probability, draw.xtc_threshold = sampling.xtc
        if sampling.mirostat is not None:
            if surprises is None or surprises[row] is None:
                raise ValueError(f"surprises[{row}]: None, but mirostat needs one")
            self.most[row] = surprises[row]
            draw.mirostat.version = sampling.mirostat.version
            draw.mirostat.target = sampling.mirostat.tau
            draw.mirostat.rate = sampling.mirostat.eta
            draw.mirostat.most = &self.most[row]
        return 0

    cdef int repetitions(self, object dry, Py_ssize_t row) except -1:
        cdef fa_dry *into = &self.draws[row].dry
        cdef int64_t count = 0
        into.multiplier = dry.multiplier
        into.base = dry.base
        into.allowed = dry.allowed_length
        into.last = dry.penalty_last_n if dry.penalty_last_n >= 0 else <int64_t>0x7fffffffffffffff
        into.heads = <const int64_t *>self.hold(dry.heads, FA_I64, &into.n_heads, "dry", row)
        into.ends = <const int64_t *>self.hold(dry.ends, FA_I64, &count, "dry", row)
        into.tails = <const int64_t *>self.hold(dry.tails, FA_I64, &into.n_tails, "dry", row)
        if count != into.n_heads:
            raise ValueError(f"dry[{row}]: {into.n_heads} breakers with {count} ends")
        return 0

    cdef int bias(self, object ids, object values, int64_t width, Py_ssize_t row) except -1:
        cdef fa_draw *draw = &self.draws[row]
        cdef int64_t count = 0
        draw.bias_ids = <const int64_t *>self.hold(ids, FA_I64, &draw.n_bias, "logit_bias", row)
        draw.bias = <const float *>self.hold(values, FA_F32, &count, "logit_bias", row)
        if count != draw.n_bias:
            raise ValueError(f"logit_bias[{row}]: {draw.n_bias} ids with {count} values")
        if count and draw.bias_ids[count - 1] >= width:
            raise ValueError(f"logit_bias: token {draw.bias_ids[count - 1]}, expected one below the {width} of the vocabulary")
        return 0


cdef object row_of(object many, Py_ssize_t row):
    return None if many is None else many[row]


cdef int same_length(object many, Py_ssize_t rows, str name) except -1:
    if many is not None and len(many) != rows:
        raise ValueError(f"{name}: {len(many)} for {rows} rows of logits")
    return 0


cdef uint32_t word_of(object value, str name, Py_ssize_t row) except? 0:
    if not 0 <= value < 1 << 32:
        raise ValueError(f"{name}[{row}]: {value}, expected 0 to {(1 << 32) - 1}")
    return value


def sample(logits, samplings, *, steps=None, which=None, tokens=None, prompts=None, banned=None, allowed=None, biases=None,
           decays=None, given=None, surprises=None, scores=None, bint strict=True, Blocks blocks=None, num_threads=None):
    """The next token of each row of logits (N, V), float32 of any row stride, each as its Sampling has it.

    steps, which: of each row how many tokens were generated before, and which of n it is (zeros where None).
    tokens, prompts: of each row prompt and answer, int64, and how many of them are the prompt: read for penalties alone.
    banned: of each row None or ids (int64) that may not come. allowed: None or the bits of those that may (uint32).
    biases: of each row None or (ids int64, values float32) in place of the sampling's logit_bias, ids ascending.
    decays: of each row None or (ids int64, factor, steps).
    given: of each row None or the token to tell the log probability of, in place of drawing one.
    surprises: a list that has of each row with mirostat what its tokens may surprise at most; it is changed.
    scores: of each row None or, of a beam, the sum of the log probabilities so far: top_logprobs then are those of the best
    continuations, by log probabilities that were changed as logits are.

    Returns (tokens (N,) int64, logprobs (N,) or None, top_ids (N, K) int64 or None, top_logprobs (N, K) or None), K the
    most any row asks for; see fastattn.h. Without ``strict`` a row that holds NaN or +inf gets the token -1, and one
    without a token that is allowed -2, in place of a ValueError that names it.
    """
    cdef fa_ctx ctx
    cdef Workspace ws
    cdef Views views = Views.__new__(Views)
    cdef fa_view *source = take(views, logits, "logits", 2, 2, 1u << FA_F32, True, False)
    cdef Py_ssize_t i, rows = source.shape[0]
    cdef int64_t width = source.shape[1], most = -1, bad = -1, count = 0
    cdef size_t size = 0
    cdef fa_status status
    cdef fa_draw *draw
    cdef Py_buffer memory_of
    cdef fa_view *told = NULL
    cdef fa_view *top = NULL
    cdef fa_view *top_told = NULL
    if not 1 <= width <= FA_SAMPLE_MOST:
        raise ValueError(f"logits: {width} of a row, expected 1 to {FA_SAMPLE_MOST}")
    if len(samplings) != rows:
        raise ValueError(f"samplings: {len(samplings)} for {rows} rows of logits")
    same_length(steps, rows, "steps")
    same_length(which, rows, "which")
    same_length(tokens, rows, "tokens")
    same_length(prompts, rows, "prompts")
    same_length(banned, rows, "banned")
    same_length(allowed, rows, "allowed")
    same_length(biases, rows, "biases")
    same_length(decays, rows, "decays")
    same_length(given, rows, "given")
    same_length(surprises, rows, "surprises")
    same_length(scores, rows, "scores")
    cdef Draws draws = Draws(rows)
    for i in range(rows):
        draw = &draws.draws[i]
        sampling = samplings[i]
        draw.seed = sampling.seed
        draw.which = 0 if which is None else word_of(which[i], "which", i)
        draw.step = 0 if steps is None else word_of(steps[i], "steps", i)
        draw.temperature = sampling.temperature
        draw.top_k = sampling.top_k
        draw.top_p = sampling.top_p
        draw.min_p = sampling.min_p
        draw.typical_p = 1
        if sampling.shaped:
            draws.shape(sampling, surprises, i)
        draw.repetition = sampling.repetition_penalty
        draw.presence = sampling.presence_penalty
        draw.frequency = sampling.frequency_penalty
        draw.logprobs = -1 if sampling.logprobs is None else sampling.logprobs
        if draw.logprobs > width:
            raise ValueError(f"logprobs: {draw.logprobs}, expected at most the {width} of the vocabulary")
        most = max(most, draw.logprobs)
        draw.given = -1
        one = row_of(given, i)
        if one is not None:
            if not 0 <= one < width:
                raise ValueError(f"given[{i}]: {one}, expected 0 to {width - 1}")
            draw.given = one
        one = row_of(scores, i)
        if one is not None:
            draw.beam, draw.score = 1, one
        if sampling.penalises and tokens is not None and tokens[i] is not None:
            draw.tokens = <const int64_t *>draws.hold(tokens[i], FA_I64, &draw.n_tokens, "tokens", i)
            draw.prompt = 0 if prompts is None else prompts[i]
            if not 0 <= draw.prompt <= draw.n_tokens:
                raise ValueError(f"prompts[{i}]: {draw.prompt}, expected 0 to {draw.n_tokens}")
            if sampling.dry is not None:
                draws.repetitions(sampling.dry, i)
        one = row_of(biases, i)
        if one is not None:
            draws.bias(one[0], one[1], width, i)
        elif sampling.bias_ids is not None:
            draws.bias(sampling.bias_ids, sampling.bias, width, i)
        one = row_of(decays, i)
        if one is not None:
            draw.decay_ids = <const int64_t *>draws.hold(one[0], FA_I64, &draw.n_decay, "decays", i)
            draw.decay = one[1]
            draw.decay_steps = one[2]
        one = row_of(banned, i)
        if one is not None:
            draw.banned = <const int64_t *>draws.hold(one, FA_I64, &draw.n_banned, "banned", i)
        one = row_of(allowed, i)
        if one is not None:
            draw.allowed = <const uint32_t *>draws.hold(one, FA_I32, &count, "allowed", i)
            if count < (width + 31) // 32:
                raise ValueError(f"allowed[{i}]: {count} words, expected {(width + 31) // 32}")
    chosen = _empty(rows, "int64")
    logprobs = top_ids = top_logprobs = None
    cdef fa_view *to = take(views, chosen, "chosen", 1, 1, 1u << FA_I64, True, True)
    if most >= 0:
        logprobs, top_ids, top_logprobs = _empty(rows, "float32"), _empty((rows, most), "int64"), _empty((rows, most), "float32")
        told = take(views, logprobs, "logprobs", 1, 1, 1u << FA_F32, True, True)
        top = take(views, top_ids, "top_ids", 2, 2, 1u << FA_I64, True, True)
        top_told = take(views, top_logprobs, "top_logprobs", 2, 2, 1u << FA_F32, True, True)
    make_ctx(&ctx, num_threads)
    status = fa_sample_workspace(&ctx, source, draws.draws, &size)
    block = None
    ws.block = ws.base = NULL
    ws.size = 0
    if status == FA_OK:
        if blocks is None:
            take_workspace(&ws, size)
        else:
            block = blocks.take(size)
            PyObject_GetBuffer(block, &memory_of, PyBUF_STRIDES | PyBUF_WRITABLE)
            ws.base = <void *>((<uintptr_t>memory_of.buf + FA_ALIGN - 1) & ~<uintptr_t>(FA_ALIGN - 1))
            PyBuffer_Release(&memory_of)  # `block` is held
            ws.size = size
    with nogil:
        status = fa_sample(&ctx, to, told, top, top_told, source, draws.draws, ws.base, ws.size, &bad)
        PyMem_RawFree(ws.block)
    if block is not None:
        blocks.give(block)
    for i in range(rows):
        if draws.draws[i].mirostat.version:
            surprises[i] = draws.most[i]
    if status == FA_ERR_NAN or status == FA_ERR_EMPTY:
        if strict:
            raise ValueError(f"logits[{bad}]: " + ("NaN or +inf, so no token can be chosen" if status == FA_ERR_NAN else "no token is allowed"))
    elif status == FA_ERR_VALUE and bad >= 0:
        raise ValueError(f"sampling[{bad}]: an option, or an id in tokens or banned, is out of range")
    else:
        check(status, "sample")
    return chosen, logprobs, top_ids, top_logprobs
