# SPDX-License-Identifier: MIT
"""What goes with linear attention: time steps and decays, values scaled head by head, columns with weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .._core import Blocks, Program

if TYPE_CHECKING:
    from .graph import Graph, Value
    from .source import Floats

__all__ = [
    "columns", "decay_factors", "group_rms_norm", "l2_heads", "negative_exp", "scale_heads", "softplus", "spread",
]  # fmt: skip


def softplus(
    g: Graph, x: Value, *, bias: Floats | None = None, weight: Floats | None = None, low: float = 0.0,
    high: float = math.inf,
) -> Value:  # fmt: skip
    """log(1 + exp(x + bias)), within ``low`` and ``high``, times ``weight``."""
    return g.record("softplus", x.rows, x.width, x, bias=bias, weight=weight, eps=low, scale=high, reuse=True)


def scale_heads(g: Graph, x: Value, y: Value) -> Value:
    """``x`` times ``y``, which has one column for each head of ``x``."""
    return g.record("scale_heads", x.rows, x.width, x, y)


def columns(g: Graph, x: Value, weight: Floats | None, plus: Value | None = None) -> Value:
    """``x`` times ``weight`` (width,), column by column; or x + plus * weight."""
    return g.record("columns", x.rows, x.width, x, plus, weight=weight, reuse=True)


def l2_heads(g: Graph, x: Value, heads: int, eps: float = 1e-6) -> Value:
    """x / sqrt(sum(x^2) + eps) of each head: the norm by the root of the mean with ``size`` times less, and as much
    less behind it.
    """
    size = x.width // heads
    weight = np.full(size, 1 / math.sqrt(size), np.float32)
    return g.record("rms_norm", x.rows, x.width, x, None, weight=weight, eps=eps / size, heads=heads, reuse=True)


def decay_factors(g: Graph, role: str, heads: int, *, converted: tuple[int, ...]) -> Floats | None:
    """-exp(A) of the tensor ``role``, (heads,); converters have stored that itself, in the shape ``converted``."""
    name = g.name(role)
    if g.source.converted:
        return _made(g, name, converted, heads, lambda stored: stored.reshape(heads))
    return _made(g, name, (heads,), heads, negative_exp)


def spread(g: Graph, role: str, heads: int, size: int, *, converted: tuple[int, ...]) -> Floats | None:
    """The numbers (heads,) of the tensor ``role``, each ``size`` times."""
    stored = converted if g.source.converted else (heads,)
    return _made(g, g.name(role), stored, heads * size, lambda found: np.repeat(found.reshape(heads), size))


def group_rms_norm(g: Graph, x: Value, role: str, eps: float, groups: int) -> Value:
    """x / sqrt(mean(x^2) + eps) of each of ``groups`` groups of columns, times a weight for every column.

    Converted files have ``role``.weight as (groups, columns of a group).
    """
    size = x.width // groups
    stored = (groups, size) if g.source.converted else (x.width,)
    weight = _made(g, f"{g.name(role)}.weight", stored, x.width, lambda found: found.reshape(-1))
    ones = np.ones(size, np.float32)
    normed = g.record("rms_norm", x.rows, x.width, x, None, weight=ones, eps=eps, heads=groups, reuse=True)
    return columns(g, normed, weight)


def _made(
    g: Graph, name: str, stored: tuple[int, ...], size: int, make: Callable[[Floats], Floats]
) -> Floats | None:  # fmt: skip
    """(size,) of what ``make`` makes of the tensor ``name``, when a checkpoint is loaded."""
    made = g.source.derive(
        name, {name: stored}, lambda found: {"columns": np.ascontiguousarray(make(found))}, shapes={"columns": (size,)}
    )
    return made["columns"]


def negative_exp(x: Floats) -> Floats:
    """-exp(x), (n,), by the step that makes decays: a softplus within 1 and 1 times that.

    >>> negative_exp(np.zeros(3, np.float32)).tolist()
    [-1.0, -1.0, -1.0]
    """
    size = x.size
    program = Program(
        [0], [("x", "float32", 2, 0, 0, False, size, False), ("out", "float32", 2, 0, 0, False, size, True)]
    )
    program.add(
        "softplus", (0, 1, 0, size, 0, size), (0, 0, 0, size, 0, size), weight=np.ascontiguousarray(x), act=1, eps=1.0,
        scale=1.0,
    )  # fmt: skip
    program.seal()
    found = np.empty((1, size), np.float32)
    program.run([1], [np.zeros((1, size), np.float32), found], Blocks())
    return found[0]
