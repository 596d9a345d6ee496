# SPDX-License-Identifier: MIT
"""The calling thread's floating-point environment, read and changed through the C library."""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

X86 = platform.machine() in ("x86_64", "AMD64")
AARCH64 = platform.machine() in ("aarch64", "arm64")
GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"

# fenv_t of glibc: x86-64 has 28 bytes of x87 state, then MXCSR; aarch64 has FPCR, FPSR.
ENVIRONMENTS = {
    "upward": (0x4000, 0x1 << 22),
    "downward": (0x2000, 0x2 << 22),
    "toward zero": (0x6000, 0x3 << 22),
    "flush to zero": (0x8000, 1 << 24),
    "denormals are zero": (0x0040, 1 << 24),
    "all of them": (0xE040, 0x3 << 22 | 1 << 24),
}


def control_word(libm: ctypes.CDLL) -> int:
    state = ctypes.create_string_buffer(64)
    assert libm.fegetenv(state) == 0
    word: int = struct.unpack_from("<I", state.raw, 28 if X86 else 0)[0]
    return word & ~0x3F if X86 else word  # without the sticky flags


@contextmanager
def environment(name: str) -> Iterator[tuple[ctypes.CDLL, int]]:
    """The calling thread's floating-point environment, changed through the C library and put back."""
    libm = ctypes.CDLL("libm.so.6")
    before = ctypes.create_string_buffer(64)
    assert libm.fegetenv(before) == 0
    state = bytearray(before.raw)
    offset, bits = (28, ENVIRONMENTS[name][0]) if X86 else (0, ENVIRONMENTS[name][1])
    word = struct.unpack_from("<I", state, offset)[0] | bits
    struct.pack_into("<I", state, offset, word)
    changed = ctypes.create_string_buffer(bytes(state), 64)
    assert libm.fesetenv(changed) == 0
    try:
        yield libm, word & ~0x3F if X86 else word
    finally:
        libm.fesetenv(before)


needs_fenv = pytest.mark.skipif(not (GLIBC and (X86 or AARCH64)), reason="the layout of fenv_t is known for glibc here")
