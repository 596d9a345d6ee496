# SPDX-License-Identifier: MIT
"""Standard input, output and error of the command's own process, whatever state they are handed over in."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["STDIN", "STDOUT", "escaping", "settle", "wait"]

STDIN, STDOUT = "standard input", "standard output"
"""As messages call them."""


def wait(descriptor: int, event: int, seconds: float | None = None) -> bool:
    """Whether the descriptor is ready to be read (``select.POLLIN``) or written, by then."""
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(None if seconds is None else int(1000 * seconds)))


@contextlib.contextmanager
def escaping() -> Iterator[None]:
    """Inside the block ``sys.stdout`` writes what its encoding does not have as ``\\uXXXX``."""
    out: Any = sys.stdout
    if not hasattr(out, "reconfigure"):  # another program's, of its own kind
        yield
        return
    before = out.errors
    out.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        out.reconfigure(errors=before)


def settle() -> None:
    """Puts the standard streams in order. Only for a process that is nothing but the command; before it opens a file.

    A descriptor that is closed is opened on the null device, so that no other file gets its number and with it what
    anybody writes there; ``sys.stdin`` and ``sys.stdout`` stay None, ``sys.stderr`` takes everything. Standard output
    waits where it is non-blocking, and its errors have its name. A message that standard error does not take is lost,
    and changes nothing else.
    """
    for descriptor in (0, 1, 2):  # in order: a file that is opened gets the lowest free number
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
    if sys.stdout is not None:
        sys.stdout = _text(_Output(1, "wb", closefd=False), sys.stdout)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 (to the end)
    else:
        sys.stderr = _text(_Messages(2, "wb", closefd=False), sys.stderr)


class _Output(io.FileIO):
    def write(self, data: Any, /) -> int:
        """Some of `data`, at least one byte."""
        while True:
            try:
                count: int | None = super().write(data)
            except OSError as error:
                error.filename = STDOUT
                raise
            if count is not None:
                return count
            wait(1, select.POLLOUT)


class _Messages(io.FileIO):
    def write(self, data: Any, /) -> int:
        """All of `data`, or nothing where that is not possible; a reader who does not read is waited for a second."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                count: int | None = super().write(rest)
                if count is None and not wait(2, select.POLLOUT, 1.0):
                    break
                rest = rest[count or 0 :]
        except OSError:  # there is nobody to tell it
            return size
        return size


def _text(raw: io.FileIO, before: Any) -> io.TextIOWrapper:
    """A text stream as `before` is, upon `raw`."""
    lines = bool(before.line_buffering or before.write_through)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=before.encoding, errors=before.errors, newline="\n", line_buffering=lines
    )
