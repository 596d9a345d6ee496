# SPDX-License-Identifier: MIT
"""Graphs at random, run as programs, against the operators called one by one: the same bytes.

Some seconds of it, from a seed that is always the same. FASTATTN_RANDOM_SECONDS says how long, FASTATTN_RANDOM_SEED
where to begin; a failure names the seed of its graph, and that number in FASTATTN_RANDOM_SEED runs it first.
"""

from __future__ import annotations

import os
import time

from support.random_graphs import Drawn

from fastattn._core import Blocks

LEAST = 40  # graphs, however slow the machine


def check(seed: int, blocks: Blocks) -> int:
    """How many steps the graph of this seed has."""
    drawn = Drawn(seed)
    draw, expected = drawn.draw, {str(i): holds for i, (_, holds) in enumerate(drawn.made)}
    names = list(expected)
    if draw.random() < 0.5:
        drawn.shuffle()
    runs = [(names, True), (draw.sample(names, draw.randint(1, len(names))), True), ([names[-1]], draw.random() < 0.5)]
    for wanted, reuse in (*runs, (draw.sample(names, draw.randint(1, len(names))), False)):
        found = drawn.run(wanted, blocks, reuse=reuse, threads=draw.choice((1, 2)))
        assert list(found) == wanted
        for name in wanted:
            same = found[name].tobytes() == expected[name].tobytes()
            assert same, f"output {name}, {drawn.made[int(name)][0]!r}, of {wanted}, reuse={reuse}"
    return len(drawn.graph.trace.nodes)


def test_programs_do_what_the_operators_do() -> None:
    seconds = float(os.environ.get("FASTATTN_RANDOM_SECONDS", "2.5"))
    first = int(os.environ.get("FASTATTN_RANDOM_SEED", "0"))
    blocks, end, seed, steps = Blocks(), time.monotonic() + seconds, first, 0
    while seed < first + LEAST or time.monotonic() < end:
        try:
            steps += check(seed, blocks)
        except Exception as error:
            raise AssertionError(f"FASTATTN_RANDOM_SEED={seed}: {error}") from error
        seed += 1
    print(f"{seed - first} graphs of {steps} steps from seed {first}")
