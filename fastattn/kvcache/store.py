# SPDX-License-Identifier: MIT
"""The arrays of one layer of a KVCache, and where the keys of a stream lie in them.

Stream key j lies in slot j, until a ring is full: its first `first` slots never move, the others are used round and
round, so key j >= first lies in slot first + (j - first) % size. Before the ring has come round that is slot j, too:
a ring that is not full yet is an ordinary piece of memory that grows by doubling.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np

from fastattn.kvcache.checks import STORAGE

# Slots come in these units, so that a block of keys that a kernel reads never crosses the seam of a ring.
UNIT = 16


def round_up(n: int, unit: int = UNIT) -> int:
    """The next multiple of `unit`, or n itself."""
    return -(-n // unit) * unit


def slot_of(j: np.ndarray, first: int, size: int) -> np.ndarray:
    """Where stream keys lie; `size` 0: not a ring."""
    return j if not size else np.where(j < first, j, first + (j - first) % size)


def oldest(low: np.ndarray, ends: np.ndarray, size: int) -> np.ndarray:
    """By row: the oldest key a ring still holds when it has taken keys up to `ends` and held them from `low` on."""
    return np.maximum(low, ends - size) if size else low


def rounding(dtype: str) -> tuple[str | None, str | None]:
    """How kv_store is to round keys and values: int8 is for attention by integers."""
    return ("keys", "values") if dtype == "int8" else (None, None)


def runs(low: int, high: int, first: int, size_from: int, size_to: int) -> Iterator[tuple[int, int, int]]:
    """(slot before, slot after, count): stretches that hold the keys low..high of a stream in two rings at once."""
    j = low
    while j < high:
        count = high - j
        slots = []
        for size in (size_from, size_to):
            if not size:
                slots.append(j)
            elif j < first:
                slots.append(j)
                count = min(count, first - j)
            else:
                at = (j - first) % size
                slots.append(first + at)
                count = min(count, size - at)
        yield slots[0], slots[1], count
        j += count


class Store:
    """K (B, Hkv, slots, D), V (B, Hkv, slots, Dv) and, with int8, their scales (B, Hkv, slots) of one layer."""

    def __init__(self, batch: int, heads: int, slots: int, dims: tuple[int, int], dtype: str, size: int) -> None:
        kind = STORAGE[dtype]
        self.k = np.empty((batch, heads, slots, dims[0]), kind)
        self.v = np.empty((batch, heads, slots, dims[1]), kind)
        scaled = dtype == "int8"
        self.k_scale = np.empty((batch, heads, slots), np.float32) if scaled else None
        self.v_scale = np.empty((batch, heads, slots), np.float32) if scaled else None
        self.dtype = dtype
        self.size = size  # 0: not a ring
        self.sharers: weakref.WeakSet[object] = weakref.WeakSet()  # the caches that read this store: one may write

    @property
    def slots(self) -> int:
        return int(self.k.shape[2])

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays())

    def arrays(self) -> tuple[np.ndarray, ...]:
        scales = () if self.k_scale is None or self.v_scale is None else (self.k_scale, self.v_scale)
        return (self.k, self.v, *scales)

    def wrapped(self, first: int, end: int) -> bool:
        """Whether a row of `end` keys has come round."""
        return bool(self.size) and end > first + self.size

    def moved(self, rows: np.ndarray, ends: np.ndarray, low: np.ndarray, first: int, slots: int, size: int) -> Store:
        """A new store whose row i holds of row rows[i] the keys below `first` and those from low[i] to ends[i]."""
        new = Store(len(rows), self.k.shape[1], slots, (self.k.shape[3], self.v.shape[3]), self.dtype, size)
        for to, (row, begin, end) in enumerate(zip(rows.tolist(), low.tolist(), ends.tolist(), strict=True)):
            self._copy(new, row, to, begin, end, first)
        return new

    def copy_rows(self, pairs: list[tuple[int, int]], ends: np.ndarray, low: np.ndarray, first: int) -> None:
        """Row `to` becomes a copy of row `row`, for each (row, to); no row is both."""
        for row, to in pairs:
            self._copy(self, row, to, int(low[row]), int(ends[row]), first)

    def _copy(self, new: Store, row: int, to: int, begin: int, end: int, first: int) -> None:
        for low, high in ((0, min(end, first)), (max(first, begin), end)):
            for before, after, count in runs(low, high, first, self.size, new.size):
                for source, target in zip(self.arrays(), new.arrays(), strict=True):
                    target[to, :, after : after + count] = source[row, :, before : before + count]
