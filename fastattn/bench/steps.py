# SPDX-License-Identifier: MIT
"""Steps of a decoder: what a token costs, how much of it is bookkeeping, and prompts, in tokens a second."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastattn.bench.random_model import RANDOM, write_folder

__all__ = ["SMALL", "measure_steps"]

SMALL = "smollm2-135m"
_PROMPT, _BATCHES = 64, (1, 8, 32)


class _Nothing:
    """In the place of a program: what a step costs beside it."""

    def __init__(self, program: Any) -> None:
        self.arrays, self.outputs = program.arrays, program.outputs

    def run(self, *arguments: Any, **options: Any) -> bool:
        return True


def measure_steps(
    model: Path | None, dtype: Any, threads: int, seconds: float, rounds: int | None
) -> Iterator[dict[str, Any]]:
    """One row for each number of sequences: prompts, then a token of each.

    Parameters
    ----------
    model
        Folder of a decoder; None for random weights of SmolLM2-135M's sizes.
    seconds, rounds
        Of each number.

    Raises
    ------
    ValueError
        The model is no decoder.
    """
    import tempfile

    from fastattn import load

    with tempfile.TemporaryDirectory(prefix="fastattn-") as folder:
        path = model or write_folder(Path(folder), RANDOM[SMALL])
        loaded: Any = load(path, dtype=dtype)
        if "logits" not in loaded.graph.trace.outputs:
            raise ValueError(f"{path}: {loaded!r} is no language model with its head, whose steps are measured")
        for count in _BATCHES:
            yield _rows(loaded, count, threads, seconds, rounds)


def _rows(model: Any, count: int, threads: int, seconds: float, rounds: int | None) -> dict[str, Any]:
    from fastattn._core import Blocks
    from fastattn.engine.decode import Steps
    from fastattn.engine.memory import PagedMemory

    program = model.program(["logits"])
    new = rounds or 1000
    longest = min(_PROMPT + new, model.max_positions)
    memory = PagedMemory(model.graph.trace, [count * (longest // 96 + 2)] * len(model.graph.trace.groups))
    steps, blocks = Steps(model.graph, program, Blocks(), memory), Blocks()
    beside = Steps(model.graph, _Nothing(program), blocks, memory)  # type: ignore[arg-type]
    kept = [memory.add() for _ in range(count)]
    prompt = [np.arange(_PROMPT) % model.vocab_size] * count
    steps.run(kept, [part[:1] for part in prompt], [True] * count, num_threads=threads)  # the first touch
    start = time.perf_counter()
    steps.run(kept, [part[1:] for part in prompt], [True] * count, num_threads=threads)
    prefill = time.perf_counter() - start
    token = [np.zeros(1, np.int64)] * count
    whole: list[float] = []
    python: list[float] = []
    end = time.perf_counter() + seconds
    while len(whole) < 3 or (time.perf_counter() < end if rounds is None else len(whole) < rounds):
        if kept[0].length + 2 >= longest:
            break
        for found, runner in ((whole, steps), (python, beside)):
            start = time.perf_counter()
            runner.run(kept, token, [True] * count, num_threads=threads)
            found.append(time.perf_counter() - start)
            if runner is beside:  # which has computed nothing
                for one in kept:
                    one.length -= 1
    step, bookkeeping = statistics.median(whole), statistics.median(python)
    return {
        "sequences": count, "steps": len(program), "prefill_tokens_per_second": count * (_PROMPT - 1) / prefill,
        "step_s": step, "tokens_per_second": count / step, "bookkeeping_s": bookkeeping, "share": bookkeeping / step,
    }  # fmt: skip
