# SPDX-License-Identifier: MIT
"""A family's page over a source of weights: what comes out of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .family import Facts, Family
from .graph import Graph

if TYPE_CHECKING:
    from ..loaders.files import ModelFiles
    from .source import Source, TensorReport

__all__ = ["Built", "trace_page"]


class Built(NamedTuple):
    """A model as loaders leave it: its graph, and where it is from."""

    family: Family
    graph: Graph
    facts: Facts
    path: Path
    """The folder or file of the weights."""
    files: ModelFiles
    tensors: TensorReport
    notes: tuple[str, ...]
    unknown: tuple[str, ...]
    """Tensors that were left out, of no known name."""
    num_threads: int | None
    origin: Any = None
    """What ``pickle`` keeps."""


def trace_page(family: Family, source: Source) -> tuple[Graph, Facts]:
    """Run the page; ``ValueError`` for what does not fit."""
    graph = Graph(source, family)
    facts = family.build(graph)
    return graph, facts
