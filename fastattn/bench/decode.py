# SPDX-License-Identifier: MIT
"""``fastattn bench attention --decode``: one new token over caches in memory, in every storage type."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from .attention import our_call
from .attention_shapes import AttentionCase, total_bytes
from .inputs import Walk, make_inputs
from .peaks import Limits, available_memory, cold_bytes
from .shares import believed
from .timing import Contestant, Plan, median_ratio, percentile, run_rounds, timed

__all__ = ["run", "run_batch"]


def run_batch(cases: Sequence[AttentionCase], limits: Limits, plan: Plan) -> list[dict[str, Any]]:
    """Figures of cases that differ in the storage type alone, measured in the same rounds.

    Each walks its own sets of K and V, at least eight and so many that no cache holds them.

    Returns:
        for each case name, shape, dtype (of K and V), sets, median_s, p95_s, gbytes_per_second, read_gbytes_per_second
        (the plain read of the same rounds), read_share (of that), fma_share (of the arithmetic peak), share_error: why
        the three before it are None (see believed()), else None; rounds, and ratio: of the first case's time.

    Raises:
        MemoryError: the caches would take more than half of the memory that is free.
    """
    needed = total_bytes(cases, cold_bytes())
    if needed > available_memory() // 2:
        raise MemoryError(f"{cases[0].name} ...: {needed >> 20} MiB of caches are more than half of what is free")
    walks = [Walk(make_inputs(case)) for case in cases]
    calls = [timed(our_call(walk, limits.num_threads), plan.clock) for walk in walks]
    ours = [Contestant(case.name, call) for case, call in zip(cases, calls, strict=True)]

    def measure() -> list[dict[str, Any]]:
        run_rounds([*limits.contestants, *ours], plan)
        rows = zip(cases, walks, ours, strict=True)
        return [_figures(case, walk, contestant, ours[0], limits) for case, walk, contestant in rows]

    def shares(rows: list[dict[str, Any]]) -> dict[str, float]:
        return {"read": max(row["read_share"] for row in rows), "fma": max(row["fma_share"] for row in rows)}

    rows, wrong = believed(measure, shares, limits.quiet)
    without = dict.fromkeys(("read_gbytes_per_second", "read_share", "fma_share")) if wrong else {}
    return [{**row, **without, "share_error": wrong} for row in rows]


def _figures(case: AttentionCase, walk: Walk, own: Contestant, first: Contestant, limits: Limits) -> dict[str, Any]:
    rates, peaks = limits.bytes_per_second(), limits.flops_per_second()
    median = statistics.median(own.samples)
    return {
        "name": case.name,
        "shape": case.shape_text,
        "dtype": case.kv_dtype,
        "sets": len(walk.sets),
        "median_s": median,
        "p95_s": percentile(own.samples, 0.95),
        "gbytes_per_second": case.kv_bytes / median / 1e9,
        "read_gbytes_per_second": statistics.median(rates) / 1e9,
        "read_share": statistics.median(case.kv_bytes / r / t for r, t in zip(rates, own.samples, strict=True)),
        "fma_share": statistics.median(case.flops / r / t for r, t in zip(peaks, own.samples, strict=True)),
        "ratio": median_ratio(own.samples, first.samples),
        "rounds": len(own.samples),
    }


def _alike(case: AttentionCase) -> tuple[int, ...]:
    return (case.batch, case.heads, case.kv_heads, case.sk, case.d)


def run(cases: Sequence[AttentionCase], num_threads: int, plan: Plan) -> Iterator[dict[str, Any]]:
    """Figures of each case; those that follow one another and differ in the storage type alone share their rounds."""
    limits = Limits(num_threads, clock=plan.clock)
    for _, alike in groupby(cases, _alike):
        yield from run_batch(list(alike), limits, plan)
