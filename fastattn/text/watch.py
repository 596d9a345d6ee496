# SPDX-License-Identifier: MIT
"""The text of a sequence as its tokens come: whole characters, and an end where a stop string is complete."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Protocol

__all__ = ["Pieces", "Watch"]


class Pieces(Protocol):
    """What makes text of tokens, one by one: never a part of a character."""

    def push(self, token: int) -> str:
        """What the token adds to the text."""
        ...

    def finish(self) -> str:
        """What is left when no more tokens come."""
        ...

    def copy(self) -> Pieces:
        """Another one with the same tokens."""
        ...


class Watch:
    """Text that grows, until one of some strings is in it.

    Parameters
    ----------
    pieces
        What makes text of tokens.
    stop
        The strings, none of them empty.
    include
        Whether the one that was found stays in the text.
    """

    def __init__(self, pieces: Pieces, stop: Sequence[str], include: bool = False) -> None:
        self._pieces, self._stop, self._include = pieces, tuple(stop), include
        self._longest = max(map(len, self._stop), default=1)
        self._parts: list[str] = []  # what is certain to be of the text, and not taken yet
        self._open = ""  # what may be the beginning of a stop string
        self.found: str | None = None
        """The string that has ended the text."""

    def copy(self) -> Watch:
        """Another one with the same text."""
        other = copy(self)
        other._pieces, other._parts = self._pieces.copy(), self._parts.copy()
        return other

    def push(self, token: int) -> bool:
        """Another token; whether a stop string is complete."""
        return self._grow(self._pieces.push(token))

    def finish(self) -> None:
        """No more tokens come."""
        if self.found is None and not self._grow(self._pieces.finish()):
            self._parts.append(self._open)
            self._open = ""

    def take(self) -> str:
        """The text that has come since the last call and that no stop string will take away."""
        text = "".join(self._parts)
        self._parts.clear()
        return text

    def _grow(self, piece: str) -> bool:
        text = self._open + piece
        if not self._stop:
            if text:
                self._parts.append(text)
            return False
        # The first one to be complete; of those that are complete with one letter, the one that begins first.
        ends = [(text.find(stop) + len(stop), -len(stop), stop) for stop in self._stop if stop in text]
        if ends:
            end, length, self.found = min(ends)
            self._parts.append(text[: end if self._include else end + length])
            self._open = ""
            return True
        keep = max(len(text) - self._longest + 1, 0)
        while keep < len(text) and not self._may_begin(text[keep:]):
            keep += 1
        self._parts.append(text[:keep])
        self._open = text[keep:]
        return False

    def _may_begin(self, end: str) -> bool:
        return any(stop.startswith(end) for stop in self._stop)
