# SPDX-License-Identifier: MIT
"""How far a long job is, on a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from .interrupt import OUTPUTS

__all__ = ["Progress"]

_FIRST = 1.0  # seconds; what is over by then says nothing
_AGAIN = 0.2
_CELLS = 20


class Progress:
    """A line on stderr, rewritten in place: a bar and the time left where the size is known, the count and the rate.

    Nothing is shown where stderr is no terminal, or where the results go to the same one.

    Args:
        what: what is counted, in the plural.
        position: how much of the input has been read, and of how much, if that is known.
        to_stdout: whether standard output has the results.
    """

    def __init__(self, what: str, position: Callable[[], tuple[int, int | None]], to_stdout: bool) -> None:
        self._what = what
        self._position = position
        self._start = time.monotonic()
        self._next = self._start + _FIRST
        self._done = 0
        self._width = 0
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self._wanted = terminal and not (to_stdout and os.isatty(1))
        if self._wanted:
            OUTPUTS[self] = None

    def add(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        if self._wanted and time.monotonic() >= self._next:
            self._next = time.monotonic() + _AGAIN
            self._show(self._text())

    def end(self, whole: bool = True) -> None:
        """Leaves the last state, if any was shown; `whole`: everything is done."""
        OUTPUTS.pop(self, None)
        if self._width:
            self._show(self._text(whole))
            print(file=sys.stderr, flush=True)
            self._width = 0

    def keep(self) -> None:
        """After an interrupt: what is printed next begins a line."""
        self.end(whole=False)

    def _text(self, whole: bool = False) -> str:
        seconds = max(1e-9, time.monotonic() - self._start)
        read, size = self._position()
        count = f"{self._done} {self._what}, {self._done / seconds:.0f}/s"
        if whole:
            return f"{count}, {_clock(seconds)}"
        if not size:
            return count
        share = min(1.0, read / size)
        bar = "#" * int(share * _CELLS)
        left = f", {_clock(seconds * (1 - share) / share)} left" if share > 0 else ""
        return f"[{bar:<{_CELLS}}] {100 * share:3.0f} %  {count}{left}"

    def _show(self, text: str) -> None:
        print(f"\r{text:<{self._width}}", end="", file=sys.stderr, flush=True)
        self._width = max(self._width, len(text))


def _clock(seconds: float) -> str:
    whole = round(seconds)
    minutes = f"{whole // 60 % 60:02}" if whole >= 3600 else str(whole // 60)
    return f"{whole // 3600}:{minutes}:{whole % 60:02}" if whole >= 3600 else f"{minutes}:{whole % 60:02}"
