# SPDX-License-Identifier: MIT
# What a machine can do at the most, and what a team of threads costs. Part of _core.pyx.

def probe_fma(int64_t rounds, num_threads=None):
    """Independent FMAs on every thread; the number of floating-point operations done."""
    cdef fa_ctx ctx
    cdef double flops = 0
    cdef fa_status status
    make_ctx(&ctx, num_threads)
    with nogil:
        status = fa_probe_fma(&ctx, rounds, &flops)
    check(status, "probe_fma")
    return flops


def probe_int8(int64_t rounds, num_threads=None):
    """The exact int8 products of the instruction set on every thread; the number of operations done."""
    cdef fa_ctx ctx
    cdef double ops = 0
    cdef fa_status status
    make_ctx(&ctx, num_threads)
    with nogil:
        status = fa_probe_int8(&ctx, rounds, &ops)
    check(status, "probe_int8")
    return ops


def probe_read(array, num_threads=None):
    """Reads a contiguous array once."""
    cdef fa_ctx ctx
    cdef Views views = Views.__new__(Views)
    cdef fa_view *view = views.add(array, 1, False)
    cdef size_t size = <size_t>views.buffers[0].len
    cdef float sink = 0
    cdef fa_status status
    make_ctx(&ctx, num_threads)
    with nogil:
        status = fa_probe_read(&ctx, view.data, size, &sink)
    check(status, "probe_read")


def probe_region(int64_t n_tasks, int64_t regions, num_threads=None):
    """Nanoseconds of a parallel region of tasks that do nothing: the mean of `regions` one after the other."""
    cdef fa_ctx ctx
    cdef fa_parallel_probe probe
    cdef int32_t runs[1024]
    cdef fa_status status
    if not 0 < n_tasks <= 1024:
        raise ValueError(f"n_tasks must be between 1 and 1024, got {n_tasks}")
    make_ctx(&ctx, num_threads)
    memset(&probe, 0, sizeof(probe))
    memset(runs, 0, sizeof(runs))
    probe.runs = runs
    probe.n_tasks = n_tasks
    probe.regions = regions
    with nogil:
        status = fa_parallel_probe_run(&ctx, &probe)
    check(status, "probe_region")
    return probe.region_ns


def parallel_probe_capsule():
    """fa_parallel_probe_run of this extension's thread seam, for fastattn._testing."""
    return PyCapsule_New(<void *>fa_parallel_probe_run, b"fastattn.fa_parallel_probe_run", NULL)
