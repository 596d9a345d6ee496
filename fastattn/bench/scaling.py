# SPDX-License-Identifier: MIT
"""``fastattn bench attention --scaling``: what more threads gain, beside what the machine itself gains from them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from .attention import our_call
from .attention_shapes import AttentionCase
from .inputs import Walk, make_inputs
from .peaks import Limits
from .shares import believed
from .timing import Contestant, Plan, median_ratio, run_rounds, timed

__all__ = ["run", "run_case"]

_SETTLE = 2e-3  # seconds between samples at least: idle threads of the team before may still spin


def run_case(case: AttentionCase, one: Limits, many: Limits, plan: Plan) -> dict[str, Any]:
    """One thread against those of ``many``, in the same rounds as both probes with one and with all of them.

    Returns:
        name, shape, one_s and many_s (medians), gain (of ours), fma_gain, read_gain (None for a case whose keys and
        values are in a cache), limit: the one that binds with all threads, and share: median over rounds of our gain
        divided by the gain of that limit, None where share_error says why (see believed()).
    """
    walk = Walk(make_inputs(case))
    ours = [Contestant(case.name, timed(our_call(walk, limits.num_threads), plan.clock)) for limits in (one, many)]
    probes = [c for limits in (one, many) for c in (limits.contestants if case.cold else [limits.fma])]

    def measure() -> dict[str, Any]:
        run_rounds([*probes, *ours], plan, partial(many.quiet.settle, _SETTLE))
        return _figures(case, one, many, ours)

    row, wrong = believed(measure, lambda found: {"gain": found["share"]}, many.quiet)
    return {**row, "share": None if wrong else row["share"], "share_error": wrong}


def _figures(case: AttentionCase, one: Limits, many: Limits, ours: Sequence[Contestant]) -> dict[str, Any]:
    gains = [a / b for a, b in zip(ours[0].samples, ours[1].samples, strict=True)]
    fma = [b / a for a, b in zip(one.flops_per_second(), many.flops_per_second(), strict=True)]
    read = [b / a for a, b in zip(one.bytes_per_second(), many.bytes_per_second(), strict=True)] if case.cold else None
    limit = many.share(ours[1].samples, case.flops, case.kv_bytes if case.cold else 0)[1]
    bound = fma if limit == "fma" or read is None else read
    return {
        "name": case.name,
        "shape": case.shape_text,
        "num_threads": many.num_threads,
        "one_s": statistics.median(ours[0].samples),
        "many_s": statistics.median(ours[1].samples),
        "gain": median_ratio(ours[0].samples, ours[1].samples),
        "fma_gain": statistics.median(fma),
        "read_gain": None if read is None else statistics.median(read),
        "limit": limit,
        "share": statistics.median(gain / own for gain, own in zip(gains, bound, strict=True)),
        "rounds": len(gains),
    }


def run(cases: Sequence[AttentionCase], num_threads: int, plan: Plan) -> Iterator[dict[str, Any]]:
    """Figures of each case, as they come."""
    cold = any(case.cold for case in cases)
    one, many = (Limits(count, read=cold, clock=plan.clock) for count in (1, num_threads))
    for case in cases:
        yield run_case(case, one, many, plan)
