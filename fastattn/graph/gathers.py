# SPDX-License-Identifier: MIT
"""Which rows stand side by side: indices for ``gather``, from the columns of tokens and the ends of their sequences."""

from __future__ import annotations

import numpy as np

from .facts import Integers

__all__ = ["first_rows", "last_rows", "neighbour_rows"]


def first_rows(columns: Integers, ends: Integers) -> Integers:
    """The first token of each sequence, (n, 1)."""
    return ends[:-1, None]


def last_rows(padding: int, ids: Integers, ends: Integers) -> Integers:
    """The last token of each sequence that is not ``padding``, (n, 1); its first where all are.

    >>> last_rows(9, np.array([5, 9, 6, 9, 9, 9]), np.array([0, 4, 6])).tolist()
    [[2], [4]]
    """
    real = np.append(np.flatnonzero(ids != padding), ids.size)
    at = real[np.searchsorted(real, ends[1:]) - 1]  # -1 is behind everything
    return np.where((at >= ends[:-1]) & (at < ends[1:]), at, ends[:-1])[:, None]


def neighbour_rows(size: int, columns: Integers, ends: Integers) -> Integers:
    """The tokens of the ``size`` columns around each token's, (T, size); -1 where a column has no token.

    >>> neighbour_rows(3, np.array([0, 1, 3, 0]), np.array([0, 3, 4])).tolist()
    [[-1, 0, 1], [0, 1, -1], [-1, 2, -1], [-1, 3, -1]]
    """
    sequence = np.repeat(np.arange(ends.size - 1), np.diff(ends))
    # One number for each column of each sequence, ascending: neighbours are one apart.
    place = columns + sequence * (int(columns.max(initial=0)) + size + 1)
    wanted = place[:, None] + np.arange(size) - size // 2
    at = np.minimum(np.searchsorted(place, wanted), columns.size - 1)
    return np.where(place[at] == wanted, at, -1)
