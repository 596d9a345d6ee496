# SPDX-License-Identifier: MIT
"""Heads of a page: the one that is asked for, or that the file has, ends the graph."""

from __future__ import annotations

from collections.abc import Callable

from .choice import choose_head
from .graph import Graph, Value
from .heads import Head, HeadSpec, with_labels

__all__ = ["add_heads", "head_output"]


def head_output(name: str) -> str:
    """The name of the output of a head."""
    return f"head.{name}"


def add_heads(g: Graph, x: Value, **specs: Callable[[], HeadSpec]) -> None:
    """The one of the heads that ``choose_head`` finds stands behind ``x``."""
    choice = choose_head(g.source, g.family.architectures, specs)
    g.tasks.notes += choice.notes
    if choice.kind is None:
        return
    g.tasks.name = choice.kind
    spec = with_labels(specs[choice.kind](), g.source, silent=not choice.named)
    g.tasks.head = Head.build(spec, g.source)
    g.output(head_output(spec.kind), g.tasks.head.record(g, x))
