# SPDX-License-Identifier: MIT
"""Scratch memory of a model: borrowed for a call, kept warm between calls, never shared by two."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["Workspace", "WorkspacePool", "touch"]

_LINE = 64  # bytes; every array starts on a cache line of its own
_PAGE = 4096


def touch(array: np.ndarray[Any, Any]) -> None:
    """Read a byte of every page of a contiguous array, so that what is mapped is there."""
    pages = array.reshape(-1).view(np.uint8)[::_PAGE]
    if pages.size:
        pages.max()


class Workspace:
    """One block of memory from which arrays are carved."""

    def __init__(self, nbytes: int) -> None:
        block = np.empty(nbytes + _LINE, np.uint8)
        start = -block.ctypes.data % _LINE
        self._block = block[start : start + nbytes]

    @property
    def nbytes(self) -> int:
        """Size of the block."""
        return self._block.nbytes

    def clear(self) -> None:
        """Write to all of it, which has the system give the memory now."""
        self._block.fill(0)

    def carve(self, *shapes: tuple[int, ...]) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        """float32 arrays of these shapes, one behind the other; their contents are whatever was there."""
        arrays, position = [], 0
        for shape in shapes:
            end = position + 4 * math.prod(shape)
            arrays.append(self._block[position:end].view(np.float32).reshape(shape))
            position = end + -end % _LINE
        return arrays

    @staticmethod
    def size(*shapes: tuple[int, ...]) -> int:
        """Bytes that ``carve`` needs for these shapes."""
        return sum((4 * math.prod(shape) + _LINE - 1) // _LINE * _LINE for shape in shapes)


class WorkspacePool:
    """Workspaces that are idle, at most two of them.

    Fresh memory costs a page fault per 4 KiB, which is most of the time of a short call; two idle blocks serve a model
    that is called from many threads without keeping memory for all of them. There is no lock: appending to and popping
    from a deque are atomic, and a bounded deque lets go of its oldest entry by itself.
    """

    def __init__(self) -> None:
        self._idle: deque[Workspace] = deque(maxlen=2)

    @contextmanager
    def borrow(self, nbytes: int) -> Iterator[Workspace]:
        """A workspace of at least ``nbytes`` for the time of the ``with`` block."""
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = Workspace(nbytes)
        if workspace.nbytes < nbytes:
            workspace = Workspace(nbytes)
        try:
            yield workspace
        finally:
            self._idle.append(workspace)
