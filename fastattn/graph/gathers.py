# SPDX-License-Identifier: MIT
"""Which rows stand side by side: indices for ``gather``, from the columns of tokens and the ends of their sequences."""

from __future__ import annotations

import numpy as np

from .facts import Integers

__all__ = ["first_rows", "neighbour_rows"]


def first_rows(columns: Integers, ends: Integers) -> Integers:
    """The first token of each sequence, (n, 1)."""
    return ends[:-1, None]


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
