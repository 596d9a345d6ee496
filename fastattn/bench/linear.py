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

__all__ = ["run", "run_case"]


_MOST_SETS = 1000  # each may be a session of a peer


@lru_cache(maxsize=1)
def _weights(n: int, k: int) -> tuple[list[np.ndarray], list[PackedLinear]]:
    """So many sets of weights that together they fit no cache: as they are, and packed."""
    random = np.random.default_rng(0)
    count = min(max(2, -(-cold_bytes() // (4 * n * k))), _MOST_SETS)
    weights = [random.standard_normal((n, k), np.float32) for _ in range(count)]
    return weights, [pack_linear(weight) for weight in weights]


def run_case(case: LinearCase, peers: Sequence[Peer], limits: Limits, plan: Plan) -> dict[str, Any]:
    """Figures of one layer and number of rows; see compare()."""
    x = np.random.default_rng(1).standard_normal((case.rows, case.k), np.float32)
    out = np.zeros((case.rows, case.n), np.float32)
    weights, packed = _weights(case.n, case.k)
    if not case.cold:
        weights, packed = weights[:1], packed[:1]
    following = itertools.cycle(packed).__next__
    threads = limits.num_threads
    figures = compare(
        timed(lambda: linear(x, following(), out=out, num_threads=threads), plan.clock),
        {peer.name: _peer_call(peer, case, x, weights, out, plan.clock) for peer in peers},
        limits,
        plan,
        flops=case.flops,
        cold=case.weight_bytes if case.cold else 0,
    )
    return {"name": case.name, "shape": f"{case.k}->{case.n} x{case.rows}", **figures}


def _peer_call(
    peer: Peer, case: LinearCase, x: np.ndarray, weights: Sequence[np.ndarray], out: np.ndarray, clock: Clock
) -> Callable[[int], float] | str:
    """The peer's fastest way to do the same, once its result has been compared with ours; or why it has none."""
    try:
        variants = peer.linear(case, x, weights, out)
        expected = linear(x, pack_linear(weights[0]))
        for variant in variants:
            error = float(np.abs(np.asarray(variant(0)) - expected).max())
            if not error <= 1e-6 * case.k:  # products of size 1; a rounding of 2**-24 each would add up to less
                return f"its result differs by {error:.1e}"
        positions = itertools.cycle(range(len(weights))).__next__
        return timed(fastest([lambda f=variant: f(positions()) for variant in variants]), clock)  # type: ignore[misc]
    except Exception as error:  # other people's code, in any state: the comparison goes on without it
        return one_line(error)


def run(cases: Sequence[LinearCase], peers: Sequence[Peer], num_threads: int, plan: Plan) -> Iterator[dict[str, Any]]:
    """Figures of each case, as they come."""
    limits = Limits(num_threads, read=any(case.cold for case in cases), clock=plan.clock)
    for case in cases:
        yield run_case(case, peers, limits, plan)
