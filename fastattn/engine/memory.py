# SPDX-License-Identifier: MIT
"""What sequences keep between steps: keys and values of each layer in pages, one pool for each group of layers.

A group is the layers that keep the same: equal heads, sizes and window. Where a step's rows go is found once for each
group, not for each layer. Pages left of a group's window are given back while a sequence goes on. Sequences that were
forked share full pages, which nobody writes to; the page that is being filled each has for itself.

Beside pages a sequence has one slot in the tables of all layers that keep a state. A step replaces it where it is;
sequences that were forked share it until one of them goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..kvcache.checks import CacheFull
from ..kvcache.pages import PagePool, pages_for

if TYPE_CHECKING:
    from ..graph.arrays import Group
    from ..graph.graph import Trace

__all__ = ["Held", "PagedMemory", "pages_needed"]

Integers = np.ndarray[Any, np.dtype[np.int64]]

PAGE = 96  # tokens: a multiple of the block of 48 keys
STORAGE = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16, "int8": np.int8}
_GONE = 0  # a page that no query reads any more: any address that is there


class Held:
    """What one sequence keeps: how many tokens, and its pages in each group."""

    __slots__ = ("first", "going", "length", "pages", "placed", "slot")

    def __init__(self, groups: int) -> None:
        self.length = 0
        self.slot = -1
        """Where its states are, -1 for zeros."""
        self.going = -1
        """Where a step that was placed and is not done leaves them, -1 between steps."""
        self.placed = 0
        """Tokens of that step."""
        self.pages: list[list[int]] = [[] for _ in range(groups)]
        self.first = [0] * groups
        """Pages before this one have been given back."""


def pages_needed(group: Group, tokens: int, step: int) -> int:
    """Pages that a sequence of ``tokens`` holds at most in a group, in steps of at most ``step`` rows."""
    whole = pages_for(tokens, PAGE)
    return whole if group.window is None else min(whole, pages_for(group.window + step, PAGE) + 1)


class PagedMemory:
    """Memory for sequences that come and go. One thread at a time.

    Parameters
    ----------
    trace
        Of the model: which layers keep keys, and of which group each is.
    pages
        Pages of each group, of ``PAGE`` tokens of one sequence in all its layers. The operating system gives the memory
        as pages are first written.
    dtype
        How keys and values are stored: "float32", "float16", "bfloat16", or "int8" with a scale for each row.
    """

    def __init__(self, trace: Trace, pages: Sequence[int], dtype: str = "float32") -> None:
        if not isinstance(dtype, str) or dtype not in STORAGE:
            raise ValueError(f"kv_dtype: got {dtype!r}, expected one of {', '.join(STORAGE)}")
        self._groups = tuple(trace.groups)
        self._pools = [PagePool(count) for count in pages]
        self._parts: list[list[np.ndarray[Any, Any]]] = [[] for _ in self._groups]
        """Of each group, all that is kept of tokens: arrays (pages, heads, PAGE, ...)."""
        layers: list[tuple[Any, Any, Any, Any]] = []
        for number in trace.layers:
            group, count = self._groups[number], pages[number]
            k = np.zeros((count, group.kv_heads, PAGE, group.head_size), STORAGE[dtype])
            v = np.zeros((count, group.kv_heads, PAGE, group.v_head_size), STORAGE[dtype])
            k_scale, v_scale = (np.zeros(k.shape[:3], np.float32) if dtype == "int8" else None for _ in range(2))
            layers.append((k, v, k_scale, v_scale))
            self._parts[number] += [part for part in layers[-1] if part is not None]
        self.core = _core.Memory(layers, len(self._groups))
        self.nbytes = sum(part.nbytes for layer in layers for part in layer if part is not None)
        self._slots = PagePool(0)
        self._states = [np.zeros((0, width), np.float32) for width in trace.states]

    @property
    def rewinds(self) -> bool:
        """Whether the last tokens of a sequence can be taken back: a state holds all tokens in one."""
        return not self._states

    def add(self) -> Held:
        """A new sequence, without tokens."""
        return Held(len(self._groups))

    def fork(self, kept: Held) -> Held:
        """Another sequence with the tokens of ``kept``: from now on each goes its own way.

        Raises
        ------
        CacheFull
            No page is free for what is not shared; nothing was changed.
        """
        self._check_whole(kept)
        last, used = divmod(kept.length, PAGE)
        if used:
            for pool in self._pools:
                if not pool.free:
                    raise CacheFull(f"1 more page needed, 0 of {pool.count} are free")
        new = self.add()
        new.length, new.first, new.slot = kept.length, kept.first.copy(), kept.slot
        if kept.slot >= 0:
            self._slots.hold([kept.slot])
        for g, (pool, parts) in enumerate(zip(self._pools, self._parts, strict=True)):
            pages = kept.pages[g][:last]
            pool.hold(pages[kept.first[g] :])
            if used:
                (page,) = pool.take(1)
                for part in parts:
                    part[page, :, :used] = part[kept.pages[g][last], :, :used]
                pages.append(page)
            new.pages[g] = pages
        return new

    def free(self, kept: Held) -> None:
        """Give back what a sequence keeps."""
        for pool, pages, first in zip(self._pools, kept.pages, kept.first, strict=True):
            pool.drop(pages[first:])
        kept.pages, kept.first, kept.length = [[] for _ in self._groups], [0] * len(self._groups), 0
        self._slots.drop([slot for slot in {kept.slot, kept.going} if slot >= 0])
        kept.slot = kept.going = -1

    def place(self, sequences: Sequence[Held], counts: Sequence[int]) -> Integers:
        """Make room for ``counts`` more tokens of each sequence, and say where the next step's rows go.

        Returns
        -------
        (T,) int64
            The position of each row.

        Raises
        ------
        CacheFull
            Too few pages are free; nothing was changed.
        """
        starts = [kept.length for kept in sequences]
        ends = [start + count for start, count in zip(starts, counts, strict=True)]
        missing = [
            sum(max(pages_for(end, PAGE) - len(kept.pages[g]), 0) for kept, end in zip(sequences, ends, strict=True))
            for g in range(len(self._groups))
        ]
        for pool, wanted in zip(self._pools, missing, strict=True):
            if wanted > pool.free:
                raise CacheFull(f"{wanted} more pages needed, {pool.free} of {pool.count} are free")
        if self._states:
            self._place_states(sequences, counts)
        lengths, offsets = np.array(ends, np.int64), np.array(starts, np.int64)
        if all(count == 1 for count in counts):
            positions = offsets
            owner = np.arange(len(starts))
        else:
            sizes = np.array(counts, np.int64)
            owner = np.repeat(np.arange(len(starts)), sizes)
            positions = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + offsets[owner]
        at, within = np.divmod(positions, PAGE)
        for g, pool in enumerate(self._pools):
            for kept, end in zip(sequences, ends, strict=True):
                more = pages_for(end, PAGE) - len(kept.pages[g])
                if more > 0:
                    kept.pages[g] += pool.take(more)
            table = np.zeros((len(sequences), max((len(kept.pages[g]) for kept in sequences), default=0)), np.int64)
            for row, kept in zip(table, sequences, strict=True):
                row[: len(kept.pages[g])] = kept.pages[g]
            self.core.place(g, table[owner, at] * PAGE + within, table, lengths, offsets)
        return positions

    def advance(self, sequences: Sequence[Held], counts: Sequence[int]) -> None:
        """The step is done: so many of its rows, the first of each sequence, are what the next one sees."""
        if self._states:
            self._advance_states(sequences, counts)
        for kept, count in zip(sequences, counts, strict=True):
            kept.length += count
            for g, (group, pool) in enumerate(zip(self._groups, self._pools, strict=True)):
                if group.window is None:
                    continue
                first = max(kept.length - group.window + 1, 0) // PAGE  # the next row sees nothing before it
                if first > kept.first[g]:
                    pages = kept.pages[g]
                    pool.drop(pages[kept.first[g] : first])
                    pages[kept.first[g] : first] = [_GONE] * (first - kept.first[g])
                    kept.first[g] = first

    # ---- states ----

    def _check_whole(self, kept: Held) -> None:
        """``ValueError`` where a step that did not come to its end has left states half way."""
        if kept.going >= 0 and kept.going == kept.slot:
            raise ValueError("a step of this sequence did not come to its end: free it, and begin it again")

    def _place_states(self, sequences: Sequence[Held], counts: Sequence[int]) -> None:
        """Slots for the next step: where nobody else has a sequence's states, they are replaced where they are."""
        for kept in sequences:
            self._check_whole(kept)
        alone = [kept.slot >= 0 and self._slots.holders(kept.slot) == 1 for kept in sequences]
        wanted = sum(kept.going < 0 and not own for kept, own in zip(sequences, alone, strict=True))
        if wanted > self._slots.free:
            self._grow(self._slots.used + wanted)
        for kept, own, count in zip(sequences, alone, counts, strict=True):
            if kept.going < 0:
                (kept.going,) = [kept.slot] if own else self._slots.take(1)
            kept.placed = count
        begin = np.array([kept.slot for kept in sequences], np.int64)
        self.core.place_states(begin, np.array([kept.going for kept in sequences], np.int64))

    def _grow(self, wanted: int) -> None:
        """Slots for ``wanted`` sequences: as many as were ever needed together, and at most half more."""
        count = max(wanted, self._slots.count + self._slots.count // 2)
        tables = [np.zeros((count, old.shape[1]), np.float32) for old in self._states]
        for table, old in zip(tables, self._states, strict=True):
            table[: len(old)] = old
        self.core.keep_states(tables)
        self.nbytes += sum(table.nbytes - old.nbytes for table, old in zip(tables, self._states, strict=True))
        self._states, self._slots.count = tables, count

    def _advance_states(self, sequences: Sequence[Held], counts: Sequence[int]) -> None:
        for kept, count in zip(sequences, counts, strict=True):
            if kept.going < 0 or count != kept.placed:
                raise ValueError(f"{count} tokens of a step of {kept.placed} stay, expected all: states do not go back")
        for kept in sequences:
            if kept.going != kept.slot and kept.slot >= 0:
                self._slots.drop([kept.slot])
            kept.slot, kept.going = kept.going, -1
