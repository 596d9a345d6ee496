# SPDX-License-Identifier: MIT
"""Interleaved timing: rounds, contestants, medians of per-round ratios."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = [
    "Clock",
    "Contestant",
    "Plan",
    "fastest",
    "geometric_mean",
    "median_ratio",
    "percentile",
    "run_rounds",
    "timed",
]

_MOST_CALLS = 1000


Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure: so many rounds, or about so many seconds in ``least`` to ``most`` rounds."""

    rounds: int | None = None
    seconds: float = 1.0
    least: int = 5
    most: int = 100
    sample: float = 2e-3
    """Seconds of a sample, about: short calls are repeated."""
    clock: Clock = time.perf_counter
    """What samples are read from. ``time.process_time`` does not count the time another process has the CPU: for one
    thread, on a machine that is busy."""
    warm: float = math.inf
    """Calls of so many seconds warm up by themselves: none that is not counted comes before them."""

    def goes_on(self, done: int, elapsed: float) -> bool:
        """Whether another round follows after ``done`` rounds."""
        if self.rounds is not None:
            return done < self.rounds
        return done < self.least or (elapsed < self.seconds and done < self.most)


@dataclass(slots=True)
class Contestant:
    """Something to time. ``run(n)`` makes n calls and returns their seconds; another process may have counted them."""

    name: str
    run: Callable[[int], float]
    calls: int = 0
    """Calls of a sample; 0 lets the warm-up find them."""
    seconds: float = 0.0
    """Of a call, about, where the warm-up has found it."""
    samples: list[float] = field(default_factory=list)
    """Seconds of one call, one sample per round."""


def timed(call: Callable[[], object], clock: Clock = time.perf_counter) -> Callable[[int], float]:
    """``run`` for a Contestant: ``call`` in a loop."""

    def run(count: int) -> float:
        start = clock()
        for _ in range(count):
            call()
        return clock() - start

    return run


def fastest(variants: Sequence[Callable[[], object]], clock: Clock = time.perf_counter) -> Callable[[], object]:
    """The fastest of several ways to do the same, judged by the best of five calls each, taken in turn.

    A call is the warm-up; one that then takes three times as long as the fastest has no further turn.
    """
    best = [math.inf] * len(variants)
    field = list(range(len(variants)))
    for turn in range(6):
        if len(field) == 1:
            break
        for index in field:
            seconds = timed(variants[index], clock)(1)
            if turn:
                best[index] = min(best[index], seconds)
        if turn:
            field = [index for index in field if best[index] <= 3 * min(best)]
    return variants[field[0] if len(field) == 1 else best.index(min(best))]


def run_rounds(contestants: Sequence[Contestant], plan: Plan, settle: Callable[[], bool] | None = None) -> None:
    """Fills the samples of all contestants, of the same rounds, in rotating order; they begin empty.

    ``settle`` is called before each sample, and before the first calls: another library's threads may spin for a while
    after one. Where it says that time has passed, one call that is not counted comes next: caches and idle threads are
    cold by then. The time it waits is none of the plan's seconds.
    """
    for contestant in contestants:
        contestant.samples.clear()
        if not contestant.calls:
            if settle is not None:
                settle()
            _find_calls(contestant, plan.sample)
    start, done, waited = time.perf_counter(), 0, 0.0
    while plan.goes_on(done, time.perf_counter() - start - waited):
        for position in range(len(contestants)):
            contestant = contestants[(position + done) % len(contestants)]
            cold = False
            if settle is not None:
                before = time.perf_counter()
                cold = settle()
                waited += time.perf_counter() - before
            if contestant.calls > 1 or (cold and contestant.seconds < plan.warm):
                contestant.run(1)
            contestant.samples.append(contestant.run(contestant.calls) / contestant.calls)
        done += 1


def _find_calls(contestant: Contestant, sample: float) -> None:
    seconds = contestant.run(1)
    if seconds < 1.0:  # not the first call, which may set things up
        seconds = contestant.run(1)
    contestant.seconds = seconds
    contestant.calls = max(1, min(_MOST_CALLS, round(sample / max(seconds, 1e-7))))


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least ``share`` of all do not exceed.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of the ratios of samples of the same round.

    >>> median_ratio([2.0, 4.0, 90.0], [1.0, 2.0, 3.0])
    2.0
    """
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def geometric_mean(values: Sequence[float]) -> float:
    """The n-th root of the product of n positive values.

    >>> round(geometric_mean([1.0, 4.0]), 6)
    2.0
    """
    return math.exp(math.fsum(map(math.log, values)) / len(values))
