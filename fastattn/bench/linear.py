# SPDX-License-Identifier: MIT
"""``fastattn bench linear``: layers of MiniLM and BERT base by rows, beside what a user would pick instead."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from fastattn import PackedLinear, linear, pack_linear

from .compare import compare
from .peaks import Limits, cold_bytes
from .peers import Peer, one_line
from .shapes import LinearCase
from .timing import Clock, Plan, fastest, timed

__all__ = ["FLOAT32", "run", "run_case"]


_MOST_SETS = 1000  # each may be a session of a peer


FLOAT32 = "float32"
"""The column of float32 weights in the comparison of others: not a rival."""


@lru_cache(maxsize=1)
def _weights(n: int, k: int) -> list[np.ndarray]:
    """So many sets of float32 weights that together they fit no cache."""
    random = np.random.default_rng(0)
    count = min(max(2, -(-cold_bytes() // (4 * n * k))), _MOST_SETS)
    return [random.standard_normal((n, k), np.float32) for _ in range(count)]


@lru_cache(maxsize=2)
def _packed(n: int, k: int, dtype: Any) -> list[PackedLinear]:
    """The same packed as ``dtype``, and as many more of them as it takes to fit no cache."""
    weights = _weights(n, k)
    bytes_each = LinearCase(k, n, 1, dtype).weight_bytes
    count = min(max(2, -(-cold_bytes() // bytes_each)), _MOST_SETS)
    return [pack_linear(weight, dtype=dtype) for weight in itertools.islice(itertools.cycle(weights), count)]


def run_case(case: LinearCase, peers: Sequence[Peer], limits: Limits, plan: Plan) -> dict[str, Any]:
    """Figures of one layer, storage type and number of rows; see compare(). Where weights are not float32, a column
    FLOAT32 stands beside the peers: our own call with float32 weights.
    """
    x = np.random.default_rng(1).standard_normal((case.rows, case.k), np.float32)
    out = np.zeros((case.rows, case.n), np.float32)
    weights = _weights(case.n, case.k) if case.cold else _weights(case.n, case.k)[:1]
    others: dict[str, Callable[[int], float] | str] = {}
    if case.dtype != FLOAT32:
        others[FLOAT32] = _our_call(case, x, out, FLOAT32, limits.num_threads, plan.clock)
    others |= {peer.name: _peer_call(peer, case, x, weights, out, plan.clock) for peer in peers}
    figures = compare(
        _our_call(case, x, out, case.dtype, limits.num_threads, plan.clock),
        others,
        limits,
        plan,
        flops=case.flops,
        cold=case.weight_bytes if case.cold else 0,
        rivals=lambda name: name != FLOAT32,
    )
    return {"name": case.name, "shape": case.shape_text, "dtype": case.dtype, **figures}


def _our_call(
    case: LinearCase, x: np.ndarray, out: np.ndarray, dtype: str, threads: int, clock: Clock
) -> Callable[[int], float]:
    packed = _packed(case.n, case.k, dtype)
    following = itertools.cycle(packed if case.cold else packed[:1]).__next__
    return timed(lambda: linear(x, following(), out=out, num_threads=threads), clock)


def _peer_call(
    peer: Peer, case: LinearCase, x: np.ndarray, weights: Sequence[np.ndarray], out: np.ndarray, clock: Clock
) -> Callable[[int], float] | str:
    """The peer's fastest way to do the same, once its result has been compared with ours; or why it has none."""
    try:
        variants = peer.linear(case, x, weights, out)
        expected = linear(x, pack_linear(weights[0]))
        # products of size 1; in fp32 a rounding of 2**-24 each adds up to less, to 8 bits one of 2 per cent each
        allowed = 1e-6 * case.k if case.dtype == FLOAT32 else 0.15 * case.k**0.5
        for variant in variants:
            error = float(np.abs(np.asarray(variant(0)) - expected).max())
            if not error <= allowed:
                return f"its result differs by {error:.1e}"
        positions = itertools.cycle(range(len(weights))).__next__
        return timed(fastest([lambda f=variant: f(positions()) for variant in variants]), clock)  # type: ignore[misc]
    except Exception as error:  # other people's code, in any state: the comparison goes on without it
        return one_line(error)


def run(cases: Sequence[LinearCase], peers: Sequence[Peer], num_threads: int, plan: Plan) -> Iterator[dict[str, Any]]:
    """Figures of each case, as they come."""
    limits: dict[bool, Limits] = {}
    for case in cases:
        integers = case.dtype == "int8"
        if integers not in limits:
            cold = any(other.cold and (other.dtype == "int8") == integers for other in cases)
            limits[integers] = Limits(num_threads, cold, plan.clock, "int8" if integers else "fma")
        yield run_case(case, peers, limits[integers], plan)
