# SPDX-License-Identifier: MIT
"""Graphs without a family and its files, for tests of what they leave."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from fastattn._core import Blocks
from fastattn.graph.graph import Graph, Value
from fastattn.graph.program import Compiled


def bare_graph() -> Graph:
    """A recorder that asks nobody for weights."""
    source: Any = SimpleNamespace(config=None, tables=[], dtype="float32")
    return Graph(source, SimpleNamespace(architectures={}))


def rows_in(graph: Graph, table: np.ndarray[Any, Any]) -> Value:
    """The rows of ``table`` that the array ``ids`` of a batch names."""
    return graph.embed({"ids": table}, table.shape[1])


def run(program: Compiled, tokens: int, sequences: int = 1, **given: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Its outputs of a batch; ``given``: arrays, and options of a run."""
    rows = {"tokens": tokens, "sequences": sequences}
    found = {name: np.full((rows[kind], width), np.nan, np.float32) for name, (kind, width) in program.outputs.items()}
    options = {name: given.pop(name) for name in ("num_threads", "deadline", "reserve") if name in given}
    blocks = given.pop("blocks", Blocks())
    arrays = {"ids": np.arange(tokens), "ends": np.array([0, tokens]), **given}
    outputs = {f"out.{name}": array for name, array in found.items()}
    assert program.run(rows, {**arrays, **outputs}, blocks, **options)
    return found
