# SPDX-License-Identifier: MIT
"""For tests: any kernel of any ISA, forced choices, a look inside the thread seam. Nothing at run time imports it."""

from contextlib import contextmanager

import numpy as np

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memset

from fastattn._capi cimport FA_BF16, FA_F16, FA_F32, FA_I8, FA_OK, fa_ctx, fa_parallel_probe, fa_status

from fastattn import _core


cdef extern from "kernels/kernels.h" nogil:
    ctypedef int fa_vfn
    ctypedef struct fa_vmath_kernels:
        void (*map)(fa_vfn fn, float *out, const float *x, int64_t n)
        void (*lanes)(float *out, uint32_t *bits, float *sum, const float *x)
    ctypedef struct fa_convert_kernels:
        void (*widen)(float *to, const void *source, int dtype, int64_t n)
        void (*narrow)(void *to, int dtype, const float *source, int64_t n)
        float (*quantize)(int8_t *to, const float *source, int64_t n)
    ctypedef struct fa_attn_kernels:
        int tile_nv
        int decode_rows
    ctypedef struct fa_kernels:
        const char *name
        fa_attn_kernels attention
        fa_vmath_kernels vmath
        fa_convert_kernels convert


VMATH = ("exp2", "exp2_neg", "exp", "log2", "tanh", "erf", "sigmoid", "gelu", "gelu_tanh", "silu")


cdef const fa_kernels *table(isa) except NULL:
    capsule = _core.kernels_capsule(isa if isa is not None else _core.current_isa())
    return <const fa_kernels *>PyCapsule_GetPointer(capsule, b"fastattn.fa_kernels")


def isas():
    """Instruction sets that are compiled in and that this machine runs."""
    return [name for name in _core.isa_names() if _core.isa_supported(name)]


@contextmanager
def use_isa(str name):
    """Makes `name` the table of the whole process for a while."""
    before = _core.current_isa()
    _core.select_isa(name)
    try:
        yield
    finally:
        _core.select_isa(before)


@contextmanager
def force_kernel(which):
    """Forces the "tile" or "decode" attention kernel where it can compute the rows; None chooses."""
    _core.force_kernel({None: 0, "tile": 1, "decode": 2}[which])
    try:
        yield
    finally:
        _core.force_kernel(0)


def vmath(str name, x, isa=None):
    """One vector function over a float32 array, of the current ISA or the one named."""
    cdef float[::1] source = np.ascontiguousarray(x, np.float32).reshape(-1)
    result = np.empty(source.shape[0], np.float32)
    cdef float[::1] target = result
    cdef const fa_kernels *kernels = table(isa)
    if source.shape[0]:
        kernels.vmath.map(VMATH.index(name), &target[0], &source[0], source.shape[0])
    return result.reshape(np.shape(x))


def lanes(x, isa=None):
    """(transpose, sign bits by row, sums by row) of a 16 x 16 float32 array."""
    cdef float[:, ::1] source = np.ascontiguousarray(x, np.float32)
    if source.shape[0] != 16 or source.shape[1] != 16:
        raise ValueError(f"x: shape {np.shape(x)}, expected (16, 16)")
    turned = np.empty((16, 16), np.float32)
    bits = np.empty(16, np.uint32)
    sums = np.empty(16, np.float32)
    cdef float[:, ::1] t = turned
    cdef uint32_t[::1] b = bits
    cdef float[::1] s = sums
    table(isa).vmath.lanes(&t[0, 0], &b[0], &s[0], &source[0, 0])
    return turned, bits, sums


STORED = {"float32": (FA_F32, np.float32), "float16": (FA_F16, np.float16), "bfloat16": (FA_BF16, np.uint16),
          "int8": (FA_I8, np.int8)}


def widen(x, str dtype, isa=None):
    """A row of float32, float16, bfloat16 (as uint16) or int8 to float32."""
    kind, expected = STORED[dtype]
    source = np.ascontiguousarray(x)
    if source.dtype != expected or source.ndim != 1:
        raise ValueError(f"x: {source.dtype} of rank {source.ndim}, expected a row of {np.dtype(expected)}")
    cdef const uint8_t[::1] bytes_in = source.view(np.uint8)
    result = np.empty(source.shape[0], np.float32)
    cdef float[::1] target = result
    if source.shape[0]:
        table(isa).convert.widen(&target[0], &bytes_in[0], kind, source.shape[0])
    return result


def narrow(x, str dtype, isa=None):
    """A row of float32 to float32 (NaN canonical), float16 or bfloat16 (as uint16)."""
    kind, stored = STORED[dtype]
    cdef const float[::1] source = np.ascontiguousarray(x, np.float32)
    result = np.empty(source.shape[0], stored)
    cdef uint8_t[::1] bytes_out = result.view(np.uint8)
    if dtype == "int8":
        raise ValueError("dtype: int8, expected a type of floating point (quantize makes int8)")
    if source.shape[0]:
        table(isa).convert.narrow(&bytes_out[0], kind, &source[0], source.shape[0])
    return result


def quantize(x, isa=None):
    """(int8 row, its scale) of a float32 row."""
    cdef const float[::1] source = np.ascontiguousarray(x, np.float32)
    result = np.zeros(source.shape[0], np.int8)
    cdef int8_t[::1] target = result
    cdef float scale = table(isa).convert.quantize(&target[0] if target.shape[0] else NULL,
                                                   &source[0] if source.shape[0] else NULL, source.shape[0])
    return result, scale


ctypedef fa_status (*probe_run)(const fa_ctx *ctx, fa_parallel_probe *probe) noexcept nogil


def probe_parallel(int64_t n_tasks, int32_t num_threads, *, int64_t busy_ns=0, int64_t nested_tasks=0, int64_t regions=0):
    """One fa_parallel_for of tasks that watch it from inside; what they saw, as src_c/ops/parallel_probe.h names it."""
    cdef probe_run run = <probe_run>PyCapsule_GetPointer(_core.parallel_probe_capsule(), b"fastattn.fa_parallel_probe_run")
    runs = np.zeros(n_tasks + 1, np.int32)
    cdef int32_t[::1] view = runs
    cdef fa_ctx ctx
    cdef fa_parallel_probe probe
    cdef fa_status status
    memset(&ctx, 0, sizeof(ctx))
    memset(&probe, 0, sizeof(probe))
    ctx.num_threads = num_threads
    probe.runs = &view[0]
    probe.n_tasks = n_tasks
    probe.nested_tasks = nested_tasks
    probe.busy_ns = busy_ns
    probe.regions = regions
    with nogil:
        status = run(&ctx, &probe)
    if status != FA_OK:
        raise ValueError(f"probe_parallel: status {<int>status}")
    return {
        "runs": runs[:n_tasks].tolist(), "concurrent": probe.concurrent, "process_concurrent": probe.process_concurrent,
        "most_in_use": probe.most_in_use, "workers": probe.workers, "bad_worker": probe.bad_worker,
        "disordered": probe.disordered, "bad_environment": probe.bad_environment,
        "nested_elsewhere": probe.nested_elsewhere, "region_ns": probe.region_ns,
    }
