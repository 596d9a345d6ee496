# SPDX-License-Identifier: MIT
"""``fastattn bench attention``: the grid of shapes, beside what a user would pick instead."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastattn import attention

from .compare import compare
from .peaks import Limits, cold_bytes
from .peers import Peer, one_line
from .shapes import AttentionCase
from .timing import Clock, Plan, fastest, timed

__all__ = ["Inputs", "make_inputs", "run", "run_case"]

_TOLERANCE = 2e-4  # between two fp32 implementations on these inputs; a wrong mask is off by far more


@dataclass(frozen=True, slots=True)
class Inputs:
    """One set of arrays, which every contestant reads in place."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    mask: np.ndarray | None
    out: np.ndarray


def make_inputs(case: AttentionCase, sets: int | None = None, seed: int = 0) -> list[Inputs]:
    """Normally distributed inputs: one set, or for a cold case so many that together they fit no cache."""
    if sets is None:
        sets = max(2, -(-cold_bytes() // case.kv_bytes)) if case.cold else 1
    random = np.random.default_rng(seed)
    q = random.standard_normal((case.batch, case.heads, case.sq, case.d), np.float32)
    mask = _mask(case, random)
    out = np.zeros_like(q)
    shape = (case.batch, case.kv_heads, case.sk, case.d)
    return [
        Inputs(q, random.standard_normal(shape, np.float32), random.standard_normal(shape, np.float32), mask, out)
        for _ in range(sets)
    ]


def _mask(case: AttentionCase, random: np.random.Generator) -> np.ndarray | None:
    if case.mask == "bool":
        mask = random.random((case.sq, case.sk)) < 0.5
        mask[:, 0] = True
        return mask
    if case.mask == "float":
        return random.standard_normal((case.heads, case.sq, case.sk), np.float32)
    if case.mask == "padding":
        lengths = case.sk - (case.sk * np.arange(case.batch)) // (2 * case.batch)
        mask = np.arange(case.sk) < lengths[:, None]
        return mask[:, None, None, :]
    return None


def our_call(case: AttentionCase, sets: Sequence[Inputs], num_threads: int) -> Callable[[], object]:
    """attention() on the next of ``sets``."""
    causal: Any = False
    if case.causal:
        causal = True if case.sq == case.sk else "bottom_right"
    if len(sets) == 1:
        one = sets[0]
        q, k, v, mask, out = one.q, one.k, one.v, one.mask, one.out
        return lambda: attention(q, k, v, mask=mask, causal=causal, out=out, num_threads=num_threads)
    following = itertools.cycle(sets).__next__

    def call() -> object:
        s = following()
        return attention(s.q, s.k, s.v, mask=s.mask, causal=causal, out=s.out, num_threads=num_threads)

    return call


def peer_call(
    peer: Peer, case: AttentionCase, sets: Sequence[Inputs], clock: Clock = time.perf_counter
) -> Callable[[int], float] | str:
    """The peer's fastest way to do the same, once its result has been compared with ours; or why it has none."""
    try:
        variants = peer.attention(case, sets)
        expected = attention(
            sets[0].q, sets[0].k, sets[0].v, mask=sets[0].mask, causal="bottom_right" if case.causal else False
        )
        for variant in variants:
            error = float(np.abs(np.asarray(variant(0)).reshape(expected.shape) - expected).max())
            if not error <= _TOLERANCE:
                return f"its result differs by {error:.1e}"
        positions = itertools.cycle(range(len(sets))).__next__
        return timed(fastest([lambda f=variant: f(positions()) for variant in variants]), clock)  # type: ignore[misc]
    except Exception as error:  # other people's code, in any state: the comparison goes on without it
        return one_line(error)


def run_case(case: AttentionCase, peers: Sequence[Peer], limits: Limits, plan: Plan) -> dict[str, Any]:
    """Figures of one shape; see compare()."""
    sets = make_inputs(case)
    figures = compare(
        timed(our_call(case, sets, limits.num_threads), plan.clock),
        {peer.name: peer_call(peer, case, sets, plan.clock) for peer in peers},
        limits,
        plan,
        flops=case.flops,
        cold=case.kv_bytes if case.cold else 0,
    )
    return {"name": case.name, "shape": case.shape_text, **figures}


def run(
    cases: Sequence[AttentionCase], peers: Sequence[Peer], num_threads: int, plan: Plan
) -> Iterator[dict[str, Any]]:
    """Figures of each shape, as they come."""
    limits = Limits(num_threads, read=any(case.cold for case in cases), clock=plan.clock)
    for case in cases:
        yield run_case(case, peers, limits, plan)
