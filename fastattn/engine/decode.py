# SPDX-License-Identifier: MIT
"""Steps of a decoder: rows of any sequences, whole prompts or single tokens, go through the program together.

How rows are cut into steps changes no bit of what comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .memory import Held, PagedMemory
from .outputs import Floats
from .stop import DeadlineExceeded

if TYPE_CHECKING:
    from .._core import Blocks, Stop
    from ..graph.graph import Graph
    from ..graph.program import Compiled

__all__ = ["Steps"]

Integers = np.ndarray[Any, np.dtype[np.int64]]


class Steps:
    """Runs a program over memory."""

    def __init__(self, graph: Graph, program: Compiled, blocks: Blocks, memory: PagedMemory) -> None:
        self._graph, self._program, self._blocks, self._memory = graph, program, blocks, memory
        self._rotaries = [
            (i, rotary) for i, rotary in enumerate(graph.trace.rotaries) if f"rope{i}.cos" in program.arrays
        ]

        self._made = [(name, make) for name, make in graph.trace.made.items() if name in program.arrays]

    def run(
        self, sequences: Sequence[Held], tokens: Sequence[Integers], wanted: Sequence[int], *,
        lengths: Sequence[int] | None = None, advance: bool = True, num_threads: int | None = None, deadline: int = 0,
        stopped: Stop | None = None,
    ) -> Floats:  # fmt: skip
        """The next ``tokens`` of each sequence; logits (n, V) after so many of the last of them as are ``wanted``.

        ``lengths``: how long each sequence will become, by which some rotary frequencies go; None for as long as it is.
        Without ``advance`` the caller says by ``PagedMemory.advance`` how many tokens of each stay, at least one.

        Raises
        ------
        CacheFull
            Memory is full; nothing was changed.
        DeadlineExceeded
            No sequence has become longer. So it is where ``stopped`` was asked to end the step.
        """
        counts = [len(some) for some in tokens]
        positions = self._memory.place(sequences, counts)
        ids = tokens[0] if len(tokens) == 1 else np.concatenate(tokens)
        ends = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=ends[1:])
        last = np.array(
            [row for end, want in zip(ends[1:].tolist(), wanted, strict=True) for row in range(end - want, end)],
            np.int64,
        )
        arrays: dict[str, Any] = {"ids": ids, "positions": positions, "ends": ends, "wanted": last[:, None]}
        for name, make in self._made:
            arrays[name] = make(positions, ends)
        for i, rotary in self._rotaries:
            table = rotary.rows(positions, ends, lengths)
            arrays[f"rope{i}.cos"], arrays[f"rope{i}.sin"], arrays[f"rope{i}.rows"] = table
        ((name, (_, width)),) = self._program.outputs.items()
        out = np.empty((last.size, width), np.float32)
        arrays[f"out.{name}"] = out
        rows = {"tokens": ids.size, "sequences": len(counts), "outputs": last.size}
        if not self._program.run(
            rows, arrays, self._blocks, num_threads=num_threads, memory=self._memory.core, deadline=deadline,
            stopped=stopped,
        ):  # fmt: skip
            raise DeadlineExceeded("timeout: the call took longer than it was given")
        if advance:
            self._memory.advance(sequences, counts)
        return out
