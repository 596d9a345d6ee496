# SPDX-License-Identifier: MIT
"""The machine's limits, measured by the library's own kernels and threads: FMA and int8 peak, memory read bandwidth."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from fastattn import _core, cpu_info

from .quiet import Quiet
from .timing import Clock, Contestant, Plan, percentile, run_rounds, timed

__all__ = ["Limits", "available_memory", "cold_bytes", "measure_peaks"]

_PROBE_SECONDS = 2e-3
_PIECES = 8


def available_memory() -> int:
    """Bytes of memory that can be had without swapping; 4 GiB where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) << 10
    except OSError:  # no Linux
        return 4 << 30
    return 4 << 30


def cold_bytes() -> int:
    """So much memory, walked in a circle, is not in a cache when one comes by again."""
    l3 = cpu_info()["caches"].get("l3", 32 << 20)
    return min(max(4 * l3, 64 << 20), 1 << 30, available_memory() // 8)


class Limits:
    """Both probes as contestants of a comparison with ``num_threads`` threads.

    ``fma`` repeats independent fused multiply-adds on every thread, or with ``arithmetic="int8"`` the exact int8
    products of the instruction set, and is called so then; ``read`` walks an array much larger than the last
    cache, a piece at a time, with the prefetch the kernels use. ``read`` is left out where it is not asked for.
    ``processes`` (name -> process id) compute in turn with this one; ``quiet`` waits until they and the threads of this
    one are asleep.
    """

    def __init__(
        self,
        num_threads: int,
        read: bool = True,
        clock: Clock = time.perf_counter,
        arithmetic: Literal["fma", "int8"] = "fma",
        processes: Mapping[str, int] | None = None,
    ) -> None:
        self.num_threads = num_threads
        self.quiet = Quiet(processes)
        self._fma_rounds = 1 << 12
        probe = _core.probe_fma if arithmetic == "fma" else _core.probe_int8
        self.fma = Contestant(arithmetic, timed(lambda: probe(self._fma_rounds, num_threads), clock), calls=1)
        alone = timed(lambda: probe(self._fma_rounds, 1), clock)  # a team may wait for a busy CPU: no measure
        while self._fma_rounds < 1 << 40:  # clock frequencies ramp up meanwhile
            seconds = min(alone(1) for _ in range(3))
            if seconds >= _PROBE_SECONDS / 2:
                break
            self._fma_rounds *= 2
        self._flops = probe(self._fma_rounds, num_threads)
        self.read: Contestant | None = None
        if read:
            array = np.zeros(cold_bytes() // 4, np.float32)
            array[:: 4096 // 4] = 1  # the zero page would do for all of it
            pieces = itertools.cycle(np.array_split(array, _PIECES))
            self._piece_bytes = array.nbytes / _PIECES
            call = timed(lambda: _core.probe_read(next(pieces), num_threads), clock)
            self.read = Contestant("read", call, calls=_PIECES)  # all of it: memory idle for seconds is slower to read
            self.read.run(_PIECES)

    @property
    def contestants(self) -> list[Contestant]:
        """Those there are."""
        return [self.fma] if self.read is None else [self.fma, self.read]

    def flops_per_second(self) -> list[float]:
        """The FMA peak of each round, or that of the int8 products."""
        return [self._flops / seconds for seconds in self.fma.samples]

    def bytes_per_second(self) -> list[float]:
        """The read bandwidth of each round."""
        return [] if self.read is None else [self._piece_bytes / seconds for seconds in self.read.samples]

    def share(self, samples: list[float], flops: float, cold: float) -> tuple[float, str]:
        """How much of the machine's limit calls of ``samples`` seconds reached, and which: "fma" (or "int8") or "read".

        The limit is the longer of the times the arithmetic and the memory traffic need at least: ``flops`` at the FMA
        peak, ``cold`` bytes (those no cache holds) at the read bandwidth, both of the same round.
        """
        fma = [flops / rate for rate in self.flops_per_second()]
        read = [cold / rate for rate in self.bytes_per_second()] if cold and self.read else [0.0] * len(fma)
        name = self.fma.name if statistics.median(fma) >= statistics.median(read) else "read"
        least = read if name == "read" else fma
        return statistics.median(floor / taken for floor, taken in zip(least, samples, strict=True)), name


def measure_peaks(
    num_threads: int, seconds: float = 1.0, rounds: int | None = None, clock: Clock = time.perf_counter
) -> dict[str, Any]:
    """FMA and int8 peak and read bandwidth with so many threads: medians, and the slowest and the fastest twentieth.

    ``disturbed`` is None, or says that other threads of this process ran beside the probes: then figures are too low.

    >>> sorted(measure_peaks(1, rounds=3))[:2]
    ['disturbed', 'gbytes_per_second']
    """
    limits, integers = Limits(num_threads, clock=clock), Limits(num_threads, False, clock, "int8")
    run_rounds([*limits.contestants, *integers.contestants], Plan(rounds, seconds, most=1000), limits.quiet.settle)
    flops, read, products = limits.flops_per_second(), limits.bytes_per_second(), integers.flops_per_second()
    return {
        "num_threads": num_threads,
        "isa": _core.current_isa(),
        "rounds": len(flops),
        "disturbed": limits.quiet.fault(),
        "gflops": statistics.median(flops) / 1e9,
        "gflops_p05": percentile(flops, 0.05) / 1e9,
        "gflops_p95": percentile(flops, 0.95) / 1e9,
        "int8_gops": statistics.median(products) / 1e9,
        "int8_gops_p05": percentile(products, 0.05) / 1e9,
        "int8_gops_p95": percentile(products, 0.95) / 1e9,
        "gbytes_per_second": statistics.median(read) / 1e9,
        "gbytes_per_second_p05": percentile(read, 0.05) / 1e9,
        "gbytes_per_second_p95": percentile(read, 0.95) / 1e9,
    }
