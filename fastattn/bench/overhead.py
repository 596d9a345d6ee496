# SPDX-License-Identifier: MIT
"""What a call costs before it computes anything, and the memory attention takes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

from fastattn import attention

from .child import child_environment
from .timing import percentile

__all__ = ["attention_memory", "empty_call", "memory_of_one_call"]

_CALLS = 200


def empty_call(seconds: float = 1.0) -> dict[str, Any]:
    """attention() with B = H = Sq = Sk = 1, D = 64, ``out=`` given: microseconds of a call, over batches of 200."""
    q, k, v, out = (np.ones((1, 1, 1, 64), np.float32) for _ in range(4))
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < 20 or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(_CALLS):
            attention(q, k, v, out=out)
        samples.append((time.perf_counter() - start) / _CALLS * 1e6)
    return {
        "calls": _CALLS * len(samples),
        "median_us": statistics.median(samples),
        "p95_us": percentile(samples, 0.95),
        "least_us": min(samples),
    }


def memory_of_one_call(n: int, d: int, num_threads: int) -> int:
    """By how many bytes resident memory grows while attention() runs over one head of ``n`` queries and keys.

    Inputs and output are there before, and a small call has started the threads. Run it in a fresh process: memory that
    was freed earlier would be used again without growth.

    Raises:
        OSError: the system has no /proc/self/status.
    """
    q, k, v = (np.full((1, n, d), value, np.float32) for value in (0.5, 0.25, 1.0))
    out = np.full((1, n, d), 2.0, np.float32)
    attention(q[:, :64], k[:, :64], v[:, :64], num_threads=num_threads)
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")  # the high-water mark starts anew
    except OSError:  # not allowed here: the mark of the past can only make the figure larger
        print("the high-water mark could not be reset", file=sys.stderr)
    before = _status("VmRSS")
    attention(q, k, v, out=out, num_threads=num_threads)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) << 10
    raise OSError(f"/proc/self/status has no {name}")


def attention_memory(n: int, d: int, num_threads: int) -> dict[str, Any]:
    """memory_of_one_call() in a fresh process, beside the size of the inputs and of the scores it does not keep."""
    code = (
        "import sys, json; from fastattn.bench.overhead import memory_of_one_call; "
        "print(json.dumps(memory_of_one_call(*map(int, sys.argv[1:]))))"
    )
    command = [sys.executable, "-c", code, str(n), str(d), str(num_threads)]
    done = subprocess.run(command, capture_output=True, text=True, env=child_environment())
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(f"measuring memory at N={n} failed: {lines[-1] if lines else f'status {done.returncode}'}")
    return {
        "n": n,
        "d": d,
        "num_threads": num_threads,
        "growth_bytes": int(json.loads(done.stdout)),
        "array_bytes": 4 * 4 * n * d,
        "score_bytes": 4 * n * n,
    }
