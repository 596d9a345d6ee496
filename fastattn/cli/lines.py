# SPDX-License-Identifier: MIT
"""Lines of UTF-8 from a file descriptor, compressed or not, in lists of what is there, in bounded memory."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from .source import Source

__all__ = ["LineReader", "read_lines"]

_ENOUGH = 1 << 18  # bytes of complete lines that are handed on without looking for more
_LINES_AT_ONCE = 4096
_LONGEST = 1 << 26


def read_lines(descriptor: int, name: str) -> Iterator[list[str]]:
    """Lists of lines, as :class:`LineReader` has them."""
    return (lines for _, lines in LineReader(descriptor, name))


class LineReader:
    """Iterates over (number of the first line, lines without their ends (LF or CR LF)), in order.

    A list holds what could be read without waiting, up to some hundred kilobytes: a slow writer has each line answered
    at once, a fast one has them taken together. A byte order mark at the very start is dropped.

    Args:
        descriptor: what is read.
        name: of the input, for messages.
        keep_returns: leave a CR before the LF where it is.

    Raises:
        ValueError: a line is not UTF-8, or longer than 64 MiB; the lines before it have been handed on. `name` and the
            number of the line are in the message. Or compressed data are damaged, or of a kind that is not read.
        OSError: the descriptor cannot be read; `name` is in the message.
    """

    def __init__(self, descriptor: int, name: str, keep_returns: bool = False) -> None:
        self._source = Source(descriptor, name)
        self._name = name
        self._end = b"" if keep_returns else b"\r"

    @property
    def consumed(self) -> int:
        """Bytes read so far, as they are in the file."""
        return self._source.consumed

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        number = 1  # of the first line not yet handed on
        partial: list[bytes] = []  # pieces of a line whose end has not come
        partial_size = 0
        for block in self._blocks():
            cut = block.rfind(b"\n") + 1
            if not cut:
                partial.append(block)
                partial_size += len(block)
                if partial_size > _LONGEST:
                    raise ValueError(f"{self._name}: line {number} is longer than {_LONGEST >> 20} MiB")
                continue
            partial.append(block[: cut - 1])
            joined = b"".join(partial)
            partial, partial_size = [block[cut:]], len(block) - cut
            lines = joined.split(b"\n")
            del block, joined  # a line may be long: what waits for its answer is the text alone
            for texts in self._decoded(lines, number):
                yield number, texts
                number += len(texts)
        lines = [b"".join(partial)]
        partial.clear()
        if lines[0]:
            yield from ((number, texts) for texts in self._decoded(lines, number))

    def _blocks(self) -> Iterator[bytes]:
        """What can be read without waiting, joined, at least one byte; the end of the file ends it."""
        read = self._source.read
        while True:
            pieces = [read() or b""]
            if not pieces[0]:
                return
            size = len(pieces[0])
            wrong: OSError | ValueError | None = None
            # once a line is complete, only what is already there is waited for
            while size < _ENOUGH:
                try:
                    piece = read(block=False)
                except (OSError, ValueError) as error:  # what came before it is read all the same
                    wrong = error
                    break
                if not piece:
                    break
                pieces.append(piece)
                size += len(piece)
            yield b"".join(pieces)
            if wrong is not None:
                raise wrong

    def _decoded(self, lines: list[bytes], number: int) -> Iterator[list[str]]:
        for start in range(0, len(lines), _LINES_AT_ONCE):
            texts: list[str] = []
            for at in range(start, min(start + _LINES_AT_ONCE, len(lines))):
                line, lines[at] = lines[at], b""
                if number + start + len(texts) == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                try:
                    texts.append(line.removesuffix(self._end).decode("utf-8"))
                except UnicodeDecodeError as error:
                    wrong = number + start + len(texts)
                    if texts:
                        yield texts
                    raise ValueError(
                        f"{self._name}: line {wrong} is not UTF-8: byte 0x{line[error.start]:02x} at position "
                        f"{error.start + 1}"
                    ) from None
                del line
            yield texts
            del texts
