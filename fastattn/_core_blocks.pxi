# SPDX-License-Identifier: MIT
# Part of _core.pyx: what loaders/gguf.py asks for: blocks to float32, and where the strings of an array lie.

from cpython.unicode cimport PyUnicode_DecodeUTF8


cdef fa_view *run_of(Views views, object array, str name, Py_ssize_t itemsize, int dtype, bint writable) except NULL:
    """The next view: one dimension without gaps, of bytes (FA_NONE) or whatever `dtype` says."""
    cdef fa_view *view = views.add(array, 1, writable)
    cdef const Py_buffer *b = &views.buffers[views.count - 1]
    if b.itemsize != itemsize or view.dtype != dtype or view.stride[0] != itemsize:
        raise TypeError(f"{name}: expected one contiguous dimension of {itemsize}-byte integers")
    return view


def dequantize(out, blocks, int32_t type, num_threads=None):
    """out (N, K) float32 = the elements of the N rows of blocks that `blocks`, any bytes, holds and nothing else; `type` is
    the number GGUF has for them."""
    cdef fa_ctx ctx
    cdef Views views = Views.__new__(Views)
    cdef fa_view *to = take(views, out, "out", 2, 2, 1u << FA_F32, True, True)
    cdef fa_view *source = run_of(views, blocks, "blocks", 1, FA_NONE, False)
    cdef int64_t elements, size
    cdef fa_status status
    if fa_block_size(type, &elements, &size) != FA_OK:
        raise ValueError(f"type: {type} is no type of blocks")
    if to.shape[1] % elements or to.shape[0] * (to.shape[1] // elements) * size != source.shape[0]:
        raise ValueError(f"blocks: {source.shape[0]} bytes, expected those of shape {out.shape} in blocks of {elements} "
                         f"elements and {size} bytes")
    separate(views, 0, 1, "out", "blocks", False)
    make_ctx(&ctx, num_threads)
    with nogil:
        status = fa_dequantize(&ctx, to, type, source.data, source.shape[0])
    check(status, "dequantize")


def string_ends(data, int64_t start, ends):
    """Walks len(ends) - 1 strings, each a length of 8 bytes and as many bytes, from `start` of the bytes `data` on.

    ends[i], int64, is where string i begins and ends[i + 1] where it ends, its length among it. Returns -1, or the number
    of the first string that reaches beyond the data; of `ends` then only what comes before it is written.
    """
    cdef Views views = Views.__new__(Views)
    cdef fa_view *source = run_of(views, data, "data", 1, FA_NONE, False)
    cdef fa_view *places = run_of(views, ends, "ends", 8, FA_I64, True)
    cdef const uint8_t *bytes = <const uint8_t *>source.data
    cdef int64_t *to = <int64_t *>places.data
    cdef int64_t size = source.shape[0], n = places.shape[0] - 1, at = start, i, wrong = -1
    cdef uint64_t length
    cdef int j
    if n < 0 or start < 0 or start > size:
        raise ValueError(f"start: {start} of {size} bytes, for {n} strings")
    with nogil:
        to[0] = at
        for i in range(n):
            length = 0
            if size - at < 8:
                wrong = i
                break
            for j in range(8):
                length |= <uint64_t>bytes[at + j] << 8 * j
            at += 8
            if length > <uint64_t>(size - at):
                wrong = i
                break
            at += <int64_t>length
            to[i + 1] = at
    return wrong


def strings_at(data, ends, int64_t first, int64_t stop):
    """list of str: the strings first..stop that string_ends found; UnicodeDecodeError for one that is not UTF-8."""
    cdef Views views = Views.__new__(Views)
    cdef fa_view *source = run_of(views, data, "data", 1, FA_NONE, False)
    cdef fa_view *places = run_of(views, ends, "ends", 8, FA_I64, False)
    cdef const char *bytes = <const char *>source.data
    cdef const int64_t *at = <const int64_t *>places.data
    cdef int64_t i
    cdef list found = []
    if first < 0 or stop > places.shape[0] - 1:
        raise ValueError(f"first, stop: {first}, {stop} of {places.shape[0] - 1} strings")
    for i in range(first, stop):
        if at[i] < 0 or at[i + 1] > source.shape[0] or at[i + 1] - at[i] < 8:
            raise ValueError("ends: not those of these data")
        found.append(PyUnicode_DecodeUTF8(bytes + at[i] + 8, at[i + 1] - at[i] - 8, NULL))
    return found
