# SPDX-License-Identifier: MIT
"""``fastattn bench attention --long``: does a very long head take the time and the memory it should?"""

from __future__ import annotations

import statistics
from typing import Any

from .attention import our_call
from .attention_shapes import LONG, AttentionCase
from .inputs import Walk, make_inputs
from .overhead import attention_memory
from .timing import Contestant, Plan, run_rounds, timed

__all__ = ["run_long"]


def run_long(
    num_threads: int, plan: Plan, case: AttentionCase = LONG[0], base: AttentionCase = LONG[1]
) -> dict[str, Any]:
    """Time of ``case`` beside ``base`` times the square of their lengths' ratio, in the same rounds, and its memory.

    A round takes the short head twice, on both sides of the long one, which takes seconds: the machine's speed may
    change meanwhile.

    Returns:
        n, base_n, median_s, base_s, expected_s (extrapolated from the short head), ratio (median over rounds of taken /
        expected), rounds, growth_bytes (of resident memory during one call, output there before; in a fresh process).
    """
    calls = [our_call(Walk(make_inputs(one)), num_threads) for one in (case, base)]
    times = max(1, round(case.flops / base.flops / 8))  # the short one's samples take an eighth of the long one's time
    long = Contestant("long", timed(calls[0], plan.clock), calls=1)
    first, second = (Contestant("short", timed(calls[1], plan.clock), calls=times) for _ in range(2))
    first.run(1)
    run_rounds([first, long, second], plan)
    factor = case.flops / base.flops
    expected = [factor * (a + b) / 2 for a, b in zip(first.samples, second.samples, strict=True)]
    memory = attention_memory(case.sk, case.d, num_threads)
    return {
        "n": case.sk,
        "base_n": base.sk,
        "median_s": statistics.median(long.samples),
        "base_s": statistics.median([*first.samples, *second.samples]),
        "expected_s": statistics.median(expected),
        "ratio": statistics.median(taken / floor for taken, floor in zip(long.samples, expected, strict=True)),
        "rounds": len(long.samples),
        "growth_bytes": memory["growth_bytes"],
        "score_bytes": memory["score_bytes"],
    }
