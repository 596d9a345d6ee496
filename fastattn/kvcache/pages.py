# SPDX-License-Identifier: MIT
"""Which pages are free, which sequence holds which, and how many share one: integers alone."""

from __future__ import annotations

import numpy as np

from fastattn.kvcache.checks import CacheFull


class PagePool:
    """Page numbers 0 to count - 1 with reference counts; those that nobody holds are on a free list, last freed first.

    >>> pool = PagePool(3)
    >>> pool.take(2)
    [0, 1]
    >>> pool.hold([1])
    >>> pool.drop([0, 1])
    >>> pool.free, pool.holders(1)
    (2, 1)
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._fresh = 0  # pages from here on have never been taken
        self._returned: list[int] = []
        self._holders: dict[int, int] = {}

    @property
    def free(self) -> int:
        return self.count - self.used

    @property
    def used(self) -> int:
        return len(self._holders)

    def holders(self, page: int) -> int:
        return self._holders[page]

    def take(self, n: int) -> list[int]:
        """n pages, each held once; CacheFull, and none taken, if there are fewer."""
        if n > self.free:
            raise CacheFull(
                f"k: {n} more pages needed, {self.free} of {self.count} are free (free or truncate sequences)"
            )
        pages = [self._returned.pop() for _ in range(min(n, len(self._returned)))]
        fresh = range(self._fresh, self._fresh + n - len(pages))
        self._fresh = fresh.stop
        pages.extend(fresh)
        self._holders.update(dict.fromkeys(pages, 1))
        return pages

    def hold(self, pages: list[int]) -> None:
        for page in pages:
            self._holders[page] += 1

    def drop(self, pages: list[int]) -> None:
        for page in pages:
            self._holders[page] -= 1
            if not self._holders[page]:
                del self._holders[page]
                self._returned.append(page)


class Sequence:
    """One stream: its length, its pages in order, and what was appended to each layer since the last advance."""

    __slots__ = ("length", "pages", "pending")

    def __init__(self, layers: int) -> None:
        self.length = 0
        self.pages: list[int] = []
        self.pending = [0] * layers

    def copy(self) -> Sequence:
        new = Sequence(0)
        new.length, new.pages, new.pending = self.length, self.pages.copy(), self.pending.copy()
        return new

    def end(self, layer: int) -> int:
        return self.length + self.pending[layer]


def pages_for(tokens: int, page_size: int) -> int:
    """Pages that hold so many tokens."""
    return -(-tokens // page_size)


def to_copy(
    seqs: list[Sequence], starts: list[int], ends: list[int], page_size: int, pool: PagePool
) -> list[list[int]]:
    """By sequence: places in its pages that its tokens starts..ends are written to while others hold that page, too.

    Of several who write to one page, the last to come keeps it if nobody else is left.
    """
    left: dict[int, int] = {}
    copies = []
    for seq, start, end in zip(seqs, starts, ends, strict=True):
        mine = []
        last = min(len(seq.pages), pages_for(end, page_size)) if end > start else 0
        for at in range(start // page_size, last):
            page = seq.pages[at]
            holders = left.get(page, pool.holders(page))
            if holders > 1:
                mine.append(at)
                left[page] = holders - 1
        copies.append(mine)
    return copies


def table_of(seqs: list[Sequence], counts: list[int]) -> np.ndarray:
    """Page tables as one array (sequences, most pages), the first counts[i] pages of each; page 0 beyond them."""
    table = np.zeros((len(seqs), max(counts, default=0)), np.int64)
    for row, seq, count in zip(table, seqs, counts, strict=True):
        row[:count] = seq.pages[:count]
    return table
