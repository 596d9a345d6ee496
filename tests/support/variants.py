# SPDX-License-Identifier: MIT
"""What must not change a bit: ISA, kernel, thread count. A test runs its call under each and compares bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastattn import _testing
from support.compare import assert_same_bits

THREADS = (1, 2, 3, 5)
KERNELS = ("tile", "decode")


def isas(slow: bool) -> list[str]:
    """The instruction sets of this CPU; the scalar one, some fifty times slower, only where the work is small."""
    return [name for name in _testing.isas() if name != "scalar" or not slow]


def assert_one_result(
    call: Callable[..., Any], what: str, *, kernels: tuple[str, ...] = KERNELS, slow: bool = False
) -> Any:
    """call(num_threads=n) on every ISA, with every kernel and several thread counts has the bits of call()."""
    expected = call(num_threads=None)
    for isa in isas(slow):
        with _testing.use_isa(isa):
            assert_same_bits(call(num_threads=1), expected, f"{what}: {isa}")
            for kernel in kernels:
                with _testing.force_kernel(kernel):
                    assert_same_bits(call(num_threads=2), expected, f"{what}: {isa} {kernel}")
    for n in THREADS:
        assert_same_bits(call(num_threads=n), expected, f"{what}: {n} threads")
        for kernel in kernels:
            with _testing.force_kernel(kernel):
                assert_same_bits(call(num_threads=n), expected, f"{what}: {kernel} {n} threads")
    return expected
