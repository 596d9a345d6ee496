# SPDX-License-Identifier: MIT
"""Slopes of scores that fall with distance. Press, Smith and Lewis, 2021, https://arxiv.org/abs/2108.12409"""

from __future__ import annotations

import math

import numpy as np

from ..graph.source import Floats

__all__ = ["slopes", "slopes_by_column"]


_MOST = 8  # slopes are 2 ** -_MOST at least


def slopes(heads: int) -> Floats:
    """(heads,): 2 ** -(8 k / n) for k = 1 ... n, the largest power of two that is not above ``heads``; the heads that
    remain have those of 2 n between them, the first, the third, and so on.

    >>> slopes(6).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]
    """
    n = 1 << (heads.bit_length() - 1)
    found = _powers(n, n)
    return np.array(found + _powers(2 * n, 2 * (heads - n))[::2], np.float32)


def _powers(n: int, count: int) -> list[float]:
    """2 ** -(8 k / n) for k = 1 ... count; ``n`` is a power of two. By roots and products alone, which are the same on
    every machine.
    """
    root = 0.5
    for _ in range(n.bit_length() - 1):
        root = math.sqrt(root)
    step = 1.0
    for _ in range(_MOST):
        step *= root
    found = [step]
    for _ in range(count - 1):
        found.append(found[-1] * step)
    return found[:count]


def slopes_by_column(heads: int, columns: int) -> Floats:
    """(heads, 2 columns - 1): what falls off at each distance of two columns, from -(columns - 1) to columns - 1."""
    distances = np.abs(np.arange(1 - columns, columns)).astype(np.float32)
    return -slopes(heads)[:, None] * distances
