# SPDX-License-Identifier: MIT
"""The special tokens around a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Frame", "Offsets"]

Offsets = np.ndarray[Any, np.dtype[np.int64]]


class Frame(NamedTuple):
    """What stands around the tokens of a text, or of a pair: special ids, with their types, and places for texts."""

    parts: tuple[tuple[int, list[int], list[int]], ...]
    """(-1, ids, type ids), or (number of the text, [], [its type])."""
    special: int
    """How many special tokens there are."""

    def build(self, *texts: list[int]) -> tuple[list[int], list[int]]:
        """Ids and type ids of the whole."""
        ids: list[int] = []
        types: list[int] = []
        for text, own, kinds in self.parts:
            ids += own if text < 0 else texts[text]
            types += kinds if text < 0 else kinds * len(texts[text])
        return ids, types

    def build_offsets(self, text: int, offsets: Sequence[tuple[int, int]], *lengths: int) -> Offsets:
        """``offsets`` of the tokens of one text, and (-1, -1) for all others: (t, 2)."""
        parts = [
            offsets if number == text else [(-1, -1)] * (len(own) if number < 0 else lengths[number])
            for number, own, _ in self.parts
        ]
        return np.array([pair for part in parts for pair in part], np.int64).reshape(-1, 2)
