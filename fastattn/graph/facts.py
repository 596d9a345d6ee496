# SPDX-License-Identifier: MIT
"""What a page says of its model beside its steps: sizes, how positions are counted, what stands on top."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from .heads import Head

__all__ = [
    "NO_LIMIT", "Facts", "Integers", "Tasks", "columns_as_positions", "positions_beside_padding",
    "tokens_as_positions",
]  # fmt: skip

Integers = np.ndarray[Any, np.dtype[np.int64]]

NO_LIMIT = 2**31 - 1
"""``max_positions`` of models without a table of positions: longer than any sequence that memory holds."""


class Facts(NamedTuple):
    """What a page says of its model, for those who make batches."""

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    max_positions: int
    """The longest sequence that can be run: the rows of the table of positions, ``NO_LIMIT`` without one."""
    type_vocab_size: int = 1
    trained_positions: int | None = None
    """The length a model without such a table is for, where its file says one."""
    positions: Callable[[Integers, Integers, Integers], Integers] | None = None
    """Rows of the table of positions, (T,), of whole rows of a batch (ids, columns, lengths); None: the columns."""
    attended: bool = False
    """Whether ``positions`` is asked about the tokens that masks leave, not about whole rows."""
    kinds: int | None = None
    """Kinds of layers, where they repeat."""

    @property
    def text(self) -> str:
        """The sizes, for repr()."""
        kinds = "" if self.kinds is None else f" of {self.kinds} kinds"
        return f"{self.layers} layers{kinds}, {self.hidden_size} wide, {self.heads} heads"


def columns_as_positions(ids: Integers, columns: Integers, lengths: Integers) -> Integers:
    """Positions of families that count columns."""
    return columns


def tokens_as_positions(ids: Integers, columns: Integers, lengths: Integers) -> Integers:
    """Positions of families that count the tokens of a row, whatever its mask leaves out between them.

    >>> tokens_as_positions(np.array([7, 8, 9]), np.array([0, 4, 1]), np.array([2, 1])).tolist()
    [0, 1, 0]
    """
    return np.arange(ids.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def positions_beside_padding(padding: int) -> Callable[[Integers, Integers, Integers], Integers]:
    """Positions (T,) of whole rows of token ids as fairseq counts them: from ``padding + 1`` over the tokens of a row
    that are not padding; padding itself, wherever it stands, has ``padding``.

    >>> count = positions_beside_padding(1)
    >>> count(np.array([0, 5, 1, 6, 1, 0, 2]), np.arange(7), np.array([5, 2])).tolist()
    [2, 3, 1, 4, 1, 2, 3]
    """

    def positions(ids: Integers, columns: Integers, lengths: Integers) -> Integers:
        real = ids != padding
        count = np.zeros(ids.size + 1, np.int64)
        np.cumsum(real, out=count[1:])
        before = np.repeat(count[np.cumsum(lengths) - lengths], lengths)
        return np.where(real, count[1:] - before, 0) + padding

    return positions


class Tasks:
    """What stands on top of a model."""

    def __init__(self) -> None:
        self.pooler: Head | None = None
        self.head: Head | None = None
        """The head that was asked for, or found in the file; None for the encoder alone."""
        self.name = "none"
        """What ``load`` takes for ``head`` to find it."""
        self.notes: list[str] = []
