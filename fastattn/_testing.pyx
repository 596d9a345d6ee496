# SPDX-License-Identifier: MIT
"""For tests: any kernel of any ISA, forced choices, a look inside the thread seam. Nothing at run time imports it."""

from contextlib import contextmanager

import numpy as np

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.string cimport memset

from fastattn._capi cimport FA_OK, fa_ctx, fa_parallel_probe, fa_status

from fastattn import _core


cdef extern from "kernels/kernels.h" nogil:
    ctypedef int fa_vfn
    ctypedef struct fa_vmath_kernels:
        void (*map)(fa_vfn fn, float *out, const float *x, int64_t n)
        void (*lanes)(float *out, uint32_t *bits, float *sum, const float *x)
    ctypedef struct fa_attn_kernels:
        int tile_nv
        int decode_rows
    ctypedef struct fa_kernels:
        const char *name
        fa_attn_kernels attention
        fa_vmath_kernels vmath


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


ctypedef fa_status (*probe_run)(const fa_ctx *ctx, fa_parallel_probe *probe) noexcept nogil


def probe_parallel(int64_t n_tasks, int32_t num_threads, *, int64_t busy_ns=0, int64_t nested_tasks=0):
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
    with nogil:
        status = run(&ctx, &probe)
    if status != FA_OK:
        raise ValueError(f"probe_parallel: status {<int>status}")
    return {
        "runs": runs[:n_tasks].tolist(), "concurrent": probe.concurrent, "process_concurrent": probe.process_concurrent,
        "most_in_use": probe.most_in_use, "workers": probe.workers, "bad_worker": probe.bad_worker,
        "disordered": probe.disordered, "bad_environment": probe.bad_environment,
        "nested_elsewhere": probe.nested_elsewhere,
    }
