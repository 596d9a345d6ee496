# SPDX-License-Identifier: MIT
"""One row of a comparison: ours and the peers beside the machine's limits, in the same rounds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .child import ChildError
from .peaks import Limits
from .shares import believed
from .timing import Contestant, Plan, geometric_mean, median_ratio, percentile, run_rounds

__all__ = ["best_rivals", "compare", "compare_processes", "geometric_means"]

_SETTLE = 2e-3  # seconds before each sample with several threads: ours sleep for every contestant, or for none


def compare(
    ours: Callable[[int], float],
    peers: Mapping[str, Callable[[int], float] | str],
    limits: Limits,
    plan: Plan,
    *,
    flops: float,
    cold: float = 0.0,
    rivals: Callable[[str], bool] = lambda name: True,
) -> dict[str, Any]:
    """Figures of ours and of the peers.

    Args:
        ours, peers: make n calls and return their seconds; a peer that is a text cannot take part, and this is why
        limits: with the number of threads the contestants have; its samples are replaced. Before each sample one waits
            until the threads of this process and of those it knows are asleep, where others compute in turn
        plan: how long
        flops: floating-point operations of a call
        cold: bytes a call has to bring from memory because no cache can hold them
        rivals: which of the peers, by name, may be the best

    Returns:
        median_s, p95_s, gflops, gbytes_per_second (None without ``cold``), share (of the machine's limit) and limit
        ("fma", "int8" or "read"), fma_gflops (the FMA or int8 peak), share_error: None, or why share and fma_gflops are
        None (see believed()), rounds, peers: by name median_s, p95_s and ratio (peer / ours), or error, and best: name
        and ratio of the fastest peer, None where none takes part.
    """
    mine = Contestant("fastattn", ours)
    others = [Contestant(name, run) for name, run in peers.items() if not isinstance(run, str)]
    several = bool(others or limits.quiet.processes)
    least = _SETTLE if limits.num_threads > 1 else 0.0

    def measure() -> tuple[float, str]:
        settle = partial(limits.quiet.settle, least) if several else None
        run_rounds([*limits.contestants, mine, *others], plan, settle)
        return limits.share(mine.samples, flops, cold)

    (share, limit), wrong = believed(measure, lambda found: {found[1]: found[0]}, limits.quiet)
    median = statistics.median(mine.samples)
    figures: dict[str, Any] = {name: {"error": run} for name, run in peers.items() if isinstance(run, str)}
    for other in others:
        figures[other.name] = {
            "median_s": statistics.median(other.samples),
            "p95_s": percentile(other.samples, 0.95),
            "ratio": median_ratio(other.samples, mine.samples),
        }
    named = [other for other in others if rivals(other.name)]
    best = min(named, key=lambda other: figures[other.name]["ratio"], default=None)
    return {
        "median_s": median,
        "p95_s": percentile(mine.samples, 0.95),
        "gflops": flops / median / 1e9,
        "gbytes_per_second": cold / median / 1e9 if cold else None,
        "share": None if wrong else share,
        "limit": limit,
        "share_error": wrong,
        "fma_gflops": None if wrong else statistics.median(limits.flops_per_second()) / 1e9,
        "rounds": len(mine.samples),
        "peers": {name: figures[name] for name in peers},
        "best": None if best is None else {"name": best.name, "ratio": figures[best.name]["ratio"]},
    }


def compare_processes(
    ours: Callable[[int], float],
    peers: Mapping[str, Callable[[int], float] | str],
    limits: Limits,
    plan: Plan,
    note: Callable[[ChildError], str],
    **what: Any,
) -> dict[str, Any]:
    """compare() of processes; once more without a peer that dies on the way, of which ``note`` says what to show.

    Raises:
        ChildError: ``note`` does, where ours fails.
    """
    while True:
        try:
            return compare(ours, peers, limits, plan, **what)
        except ChildError as error:
            peers = {**peers, error.name: note(error)}


def geometric_means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """By peer, the geometric mean of its ratios over the rows that have one."""
    ratios: dict[str, list[float]] = {}
    for row in rows:
        for name, figures in row["peers"].items():
            if "ratio" in figures:
                ratios.setdefault(name, []).append(figures["ratio"])
    return {name: geometric_mean(values) for name, values in ratios.items()}


def best_rivals(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Over the rows with a rival, None where there are none: geometric_mean of the best one's ratios, cases (how many),
    least (case, name and ratio where it comes closest), slower (names of the cases where ours is slower), coarse
    (names of those whose best rival is less exact) and by_dtype (means by storage type, where rows have one)."""
    found = [(row["best"]["ratio"], row["name"], row["best"]["name"]) for row in rows if row["best"]]
    if not found:
        return None
    ratio, case, name = min(found)
    types: dict[str, list[float]] = {}
    for row in rows:
        if row["best"] and "dtype" in row:
            types.setdefault(row["dtype"], []).append(row["best"]["ratio"])
    return {
        "geometric_mean": geometric_mean([ratio for ratio, _, _ in found]),
        "cases": len(found),
        "least": {"case": case, "name": name, "ratio": ratio},
        "slower": [case for ratio, case, _ in found if ratio < 1],
        "coarse": [row["name"] for row in rows if row["best"] and row["best"].get("coarse")],
        "by_dtype": {dtype: geometric_mean(ratios) for dtype, ratios in types.items()},
    }
