# SPDX-License-Identifier: MIT
"""Same bits: over thread counts, instruction sets, kernels, and repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from fastattn import _core, attention, linear, pack_linear

from .attention_shapes import AttentionCase
from .inputs import Inputs, make_inputs, options
from .shapes import LinearCase

__all__ = ["check_attention", "check_call", "check_linear"]

_SLOW_FLOPS = 3e8  # beyond this the scalar kernels would take seconds
_KERNELS = {"chosen kernel": 0, "tile kernel": 1, "decode kernel": 2}


@contextmanager
def _variant(isa: str, kernel: int) -> Iterator[None]:
    before = _core.current_isa()
    _core.select_isa(isa)
    _core.force_kernel(kernel)
    try:
        yield
    finally:
        _core.force_kernel(0)
        _core.select_isa(before)


def check_call(name: str, call: Callable[[int], Sequence[np.ndarray]], flops: float, kernels: bool) -> dict[str, Any]:
    """Whether ``call(num_threads)`` gives the same bytes however it is run.

    Returns:
        name; variants, how many were compared; skipped, the instruction sets that were left out because they would
        take too long; different, a text for each variant that differs.
    """
    expected = [array.tobytes() for array in call(1)]
    supported = [isa for isa in _core.isa_names() if _core.isa_supported(isa)]
    skipped = [isa for isa in supported if isa == "scalar" and flops > _SLOW_FLOPS and len(supported) > 1]
    count, different = 0, []
    for isa in supported:
        if isa in skipped:
            continue
        for title, kernel in _KERNELS.items() if kernels and isa != "scalar" else [("chosen kernel", 0)]:
            threads = (1, 2, 3) if isa == _core.current_isa() and not kernel else (2,)
            for number in threads:
                for repeat in range(2 if isa == _core.current_isa() else 1):
                    with _variant(isa, kernel):
                        found = [array.tobytes() for array in call(number)]
                    count += 1
                    if found != expected:
                        again = " (again)" if repeat else ""
                        different.append(f"{isa}, {title}, {number} threads{again}")
    return {"name": name, "variants": count, "skipped": skipped, "different": different}


def check_attention(cases: Sequence[AttentionCase]) -> Iterator[dict[str, Any]]:
    """check_call() of attention() on each case."""
    for case in cases:
        inputs = make_inputs(case, sets=1)[0]

        def call(num_threads: int, inputs: Inputs = inputs) -> list[np.ndarray]:
            found = attention(inputs.q, inputs.k, inputs.v, return_lse=True, num_threads=num_threads, **options(inputs))
            return [found.out, found.lse]

        yield check_call(case.name, call, case.flops, kernels=True)


def check_linear(cases: Sequence[LinearCase]) -> Iterator[dict[str, Any]]:
    """check_call() of linear() with bias and GELU on each case."""
    for case in cases:
        random = np.random.default_rng(0)
        x = random.standard_normal((case.rows, case.k), np.float32)
        packed = pack_linear(
            random.standard_normal((case.n, case.k), np.float32),
            random.standard_normal(case.n, np.float32),
            cast(Any, case.dtype),
        )

        def call(num_threads: int, x: np.ndarray = x, packed: Any = packed) -> list[np.ndarray]:
            return [linear(x, packed, activation="gelu", num_threads=num_threads)]

        yield check_call(case.name, call, case.flops, kernels=False)
