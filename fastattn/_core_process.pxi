# SPDX-License-Identifier: MIT
# The process: instruction sets, threads, how the extension was built, signals in the middle of a call; and make_ctx, the
# beginning of every call. Included at the head of _core.pyx.

import threading as _threading
from os import register_at_fork as _register_at_fork
from time import monotonic_ns as _monotonic_ns

# ---- instruction sets and threads -----------------------------------------------------------------------------------

cdef int _isa = 0
cdef int _force = 0
cdef int _cap = 1        # the default: never more than this, nor than OpenMP allows in the calling thread
cdef int _explicit = 0   # set_num_threads or the environment; 0: nothing


def isa_names():
    """Compiled-in instruction sets, best last."""
    return [fa_isa_name(i).decode() for i in range(fa_isa_count())]


def isa_supported(str name):
    return name in isa_names() and bool(fa_isa_supported(isa_names().index(name)))


def current_isa():
    return fa_isa_name(_isa).decode()


def select_isa(str name):
    """Makes `name` the table of all following calls of the process."""
    global _isa
    if not isa_supported(name):
        raise RuntimeError(f"isa: {name!r} is not supported here")
    _isa = isa_names().index(name)


def force_kernel(int which):
    """Tests: 0 choose, 1 tile, 2 decode."""
    global _force
    _force = which


def kernels_capsule(str name):
    """The kernel table of one ISA, for fastattn._testing."""
    if not isa_supported(name):
        raise RuntimeError(f"isa: {name!r} is not supported here")
    return PyCapsule_New(<void *>fa_kernels_for(isa_names().index(name)), b"fastattn.fa_kernels", NULL)


def openmp_version():
    """The value of _OPENMP, 0 where it is not built in."""
    return fa_openmp_version()


def omp_max_threads():
    return fa_omp_max_threads()


def omp_places():
    """The CPUs of OpenMP's places, where it binds threads to them; else empty."""
    cdef int32_t cpus[4096]
    return [cpus[i] for i in range(fa_omp_places(cpus, 4096))]


def threads_in_use():
    return fa_threads_in_use()


def threads_granted(bint forget=False):
    """The largest team of this thread's calls since it last forgot; 0 without any."""
    return fa_threads_granted(forget)


def crew_size():
    """Threads of our own that help callers."""
    return fa_crew_size()


def select_team(str name):
    """Who helps callers from now on: "crew" or "openmp". False: not in this build."""
    return bool(fa_select_team(FA_TEAM_OPENMP if name == "openmp" else FA_TEAM_CREW))


def set_thread_default(int cap, int explicit):
    """What threads.py has found: the cap of the default, and the explicit count or 0."""
    global _cap, _explicit
    _cap = cap
    _explicit = explicit
    fa_set_thread_limit(explicit if explicit > 0 else cap)


cdef extern from *:
    """
    #ifndef FA_BUILD_FLAGS
    #define FA_BUILD_FLAGS ""
    #endif
    #ifndef FA_BUILD_SAID
    #define FA_BUILD_SAID "{}"
    #endif
    #if defined(__clang__)
    #define FA_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define FA_COMPILER "gcc " __VERSION__
    #else
    #define FA_COMPILER "unknown"
    #endif
    static const char *fa_build_flags(void) { return FA_BUILD_FLAGS; }
    static const char *fa_build_said(void) { return FA_BUILD_SAID; }
    static const char *fa_compiler(void) { return FA_COMPILER; }
    """
    const char *fa_build_flags() nogil
    const char *fa_build_said() nogil
    const char *fa_compiler() nogil


def build_constants():
    return {
        "compiler": fa_compiler().decode(),
        "flags": fa_build_flags().decode(),
        "said": fa_build_said().decode(),
        "numerics_version": FA_NUMERICS_VERSION,
        "lanes": FA_LANES,
        "key_block": FA_KEY_BLOCK,
        "kv_chunk": FA_KV_CHUNK,
        "k_chunk": FA_K_CHUNK,
    }


def cpu_features():
    cdef fa_cpu_info info
    fa_cpu_query(&info)
    return {
        "vendor": info.vendor.decode("ascii", "replace"), "brand": info.brand.decode("ascii", "replace").strip(),
        "avx2": bool(info.avx2), "avx512": bool(info.avx512), "avx512_vnni": bool(info.avx512_vnni),
        "amx_int8": bool(info.amx_int8), "neon": bool(info.neon), "neon_dot": bool(info.neon_dot),
        "hypervisor": bool(info.hypervisor),
        "l1d_bytes": info.l1d_bytes, "l2_bytes": info.l2_bytes, "l3_bytes": info.l3_bytes,
    }


# ---- signals in the middle of a call --------------------------------------------------------------------------------
#
# Python runs signal handlers in the main thread, between bytecodes. A call in that thread goes there by itself: its look
# takes the GIL and runs them, the first time after FA_LOOK_NS. What a handler raises ends the call, and is raised by it.

cdef fa_stop _signals               # of the main thread's calls
cdef object _raised = None          # by a handler, until check() raises it
cdef unsigned long _main_thread = 0
cdef int _handling = 0              # handlers run in the middle of a call; calls of their own do not look for more


def _find_main_thread():
    global _main_thread
    _main_thread = _threading.main_thread().ident


def _is_main_thread():
    global _main_thread, _handling
    if _main_thread != <unsigned long>_threading.get_ident():
        _handling = 0  # of another thread, which is not there any more
    _main_thread = _threading.get_ident()


_find_main_thread()
_register_at_fork(after_in_child=_is_main_thread)  # whoever forked is the child's main thread


cdef int run_handlers() noexcept:
    global _raised
    try:
        PyErr_CheckSignals()
    except BaseException as error:  # KeyboardInterrupt, or whatever else
        _raised = error
        return 1
    return 0


cdef int look_for_signals(void *arg) noexcept nogil:
    global _handling
    cdef int raised
    with gil:
        _handling += 1
        raised = run_handlers()
        _handling -= 1
    return raised


cdef int make_ctx(fa_ctx *ctx, object num_threads) except -1:
    cdef int n
    if num_threads is None:
        if _explicit > 0:
            n = _explicit
        else:
            n = fa_omp_max_threads()
            if n > _cap:
                n = _cap
    elif type(num_threads) is int and 0 < num_threads <= 64:
        n = num_threads
    else:
        from fastattn import threads
        n = threads.resolve(num_threads)
    ctx.kernels = fa_kernels_for(_isa)
    ctx.num_threads = n if n > 0 else 1
    ctx.force = _force
    ctx.small = 0
    ctx.stop = NULL
    if _handling == 0 and <unsigned long>PyThread_get_thread_ident() == _main_thread:
        memset(&_signals, 0, sizeof(_signals))
        _signals.look = look_for_signals
        ctx.stop = &_signals
    return 0
