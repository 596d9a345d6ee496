# SPDX-License-Identifier: MIT
"""``fastattn bench attention``: the grid of shapes, beside what a user would pick instead."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastattn import _core, attention

from .attention_shapes import AttentionCase
from .compare import compare
from .inputs import Inputs, Walk, make_inputs, options, widened
from .peaks import Limits
from .peers import Form, Peer, one_line
from .timing import Clock, Plan, fastest, timed

__all__ = ["Inputs", "Rival", "make_inputs", "our_call", "peer_call", "run", "run_case"]

_TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 8e-2}
"""The largest difference from our float32 result on the same values, as a share of the root mean square of its row: the
first rows of a causal head are far larger than the last. A mask that is wrong is off by about all of it in some row."""


@dataclass(frozen=True, slots=True)
class Rival:
    """A peer's fastest form of a case."""

    run: Callable[[int], float]
    form: str
    deviation: float
    """Largest difference from our float32 result on the same values, as a share of the root mean square of its row:
    peers that round scores or probabilities to the storage type, or multiply in it, show here."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Forms it does not have, fails at or gets wrong, and why."""


def our_call(walk: Walk, num_threads: int) -> Callable[[], object]:
    """attention() on the next of the sets; for a cache its one call of the core."""
    calls = [_our_call(s, num_threads) for s in walk.sets]
    if len(calls) == 1:
        return calls[0]
    return lambda: calls[walk.next()]()


def _our_call(s: Inputs, num_threads: int) -> Callable[[], object]:
    if not s.case.cached:
        return functools.partial(attention, s.q, s.k, s.v, out=s.out, num_threads=num_threads, **options(s))
    lengths = np.full(s.case.batch, s.case.sk)
    return functools.partial(
        _core.attend, s.out, None, None, s.q, s.k, s.v, scale=s.case.d**-0.5, softcap=0.0, causal=s.case.causal,
        window_left=-1, window_right=-1, q_offset=lengths - s.case.sq, kv_lengths=lengths, k_scale=s.k_scale,
        v_scale=s.v_scale, integers=True, num_threads=num_threads,
    )  # fmt: skip


def peer_call(peer: Peer, case: AttentionCase, walk: Walk, clock: Clock = time.perf_counter) -> Rival | str:
    """The peer's fastest way to do the same among those whose result agrees with ours; or why it has none."""
    expected = _in_float32(walk.sets[0])
    ready: list[tuple[str, float, Callable[[], object]]] = []
    left_out: dict[str, str] = {}
    try:
        for form in peer.attention(case, walk.sets):
            prepared = _prepare(form, expected, _TOLERANCE[case.dtype])
            if isinstance(prepared, str):
                left_out[form.name] = prepared
            else:
                ready.append((form.name, prepared[1], _next(prepared[0], walk)))
        if not ready:
            return _reasons(left_out)
        best = fastest([call for _, _, call in ready], clock)
        name, deviation, call = next(entry for entry in ready if entry[2] is best)
        return Rival(timed(call, clock), name, deviation, left_out)
    except Exception as failure:  # other people's code, in any state: the comparison goes on without it
        return one_line(failure)


def _next(call: Callable[[int], Any], walk: Walk) -> Callable[[], object]:
    return lambda: call(walk.next())


def _prepare(form: Form, expected: np.ndarray, tolerance: float) -> tuple[Callable[[int], Any], float] | str:
    """The form's call and how far it is from ``expected``, or what is wrong with it."""
    try:
        call = form.make()
        found = form.read(call(0))
    except Exception as error:  # as above
        return one_line(error)
    if found.shape != expected.shape:
        return f"its result has shape {found.shape}"
    deviation = _deviation(found, expected)
    if not deviation <= tolerance:
        return f"its result differs by {deviation:.1e} of a row's root mean square"
    return call, deviation


def _in_float32(s: Inputs) -> np.ndarray:
    """Our result on the values of a set, stored as float32 where they are in half precision."""
    k, v = (s.k, s.v) if s.case.int8 else (widened(s.k), widened(s.v))
    return attention(widened(s.q), k, v, **options(s))


def _deviation(found: np.ndarray, expected: np.ndarray) -> float:
    size = np.sqrt(np.mean(np.square(expected, dtype=np.float64), axis=-1, keepdims=True))
    return float((np.abs(found - expected) / np.maximum(size, np.finfo(np.float32).tiny)).max())


def _reasons(left_out: dict[str, str]) -> str:
    different = set(left_out.values())
    if len(different) == 1:
        return different.pop()
    return "; ".join(f"{name}: {reason}" for name, reason in left_out.items())


def run_case(case: AttentionCase, peers: Sequence[Peer], limits: Limits, plan: Plan) -> dict[str, Any]:
    """Figures of one shape: those of compare(), and for each peer the form that was fastest and those left out.

    In half precision also how far ours is from float32, and whether the best rival is coarse: twice as far and more.
    """
    walk = Walk(make_inputs(case))
    rivals = {peer.name: peer_call(peer, case, walk, plan.clock) for peer in peers}
    figures = compare(
        timed(our_call(walk, limits.num_threads), plan.clock),
        {name: rival if isinstance(rival, str) else rival.run for name, rival in rivals.items()},
        limits,
        plan,
        flops=case.flops,
        cold=case.kv_bytes if case.cold else 0,
    )
    for name, rival in rivals.items():
        if not isinstance(rival, str):
            figures["peers"][name] |= {"form": rival.form, "deviation": rival.deviation, "left_out": rival.left_out}
    s, own = walk.sets[0], None
    if case.dtype != "float32":
        own = _deviation(widened(attention(s.q, s.k, s.v, **options(s))), _in_float32(s))
        if figures["best"]:
            figures["best"]["coarse"] = figures["peers"][figures["best"]["name"]]["deviation"] > 2 * own
    titles = {"name": case.name, "shape": case.shape_text, "dtype": case.kv_dtype, "sets": len(walk.sets)}
    return {**titles, "deviation": own, **figures}


def run(
    cases: Sequence[AttentionCase], peers: Sequence[Peer], num_threads: int, plan: Plan
) -> Iterator[dict[str, Any]]:
    """Figures of each shape, as they come."""
    limits = Limits(num_threads, read=any(case.cold for case in cases), clock=plan.clock)
    for case in cases:
        yield run_case(case, peers, limits, plan)
