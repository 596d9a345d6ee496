# SPDX-License-Identifier: MIT
"""Columns of rows as JSON, one object per line, written in whole lines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from .arrowvalues import arrow_array, json_values
from .interrupt import OUTPUTS, WRITING
from .numbers import number_rows
from .outfile import FileWriter, write_all

__all__ = ["JsonLinesFile", "JsonLinesOutput", "json_lines"]

_NUMBERS_AT_ONCE = 100_000  # of a column of vectors: about a megabyte of text


def json_lines(columns: Mapping[str, Any]) -> Iterator[tuple[int, bytes]]:
    """Pieces of some rows each: how many, and their lines.

    Args:
        columns: of equal length: float32 arrays (n, width) or (n,), lists of what JSON can hold, or columns of a
            Parquet file as its reader has them.

    Raises:
        TypeError, ValueError: a list has what JSON cannot hold.
    """
    count = len(next(iter(columns.values())))
    widths = [column.shape[1] for column in columns.values() if isinstance(column, np.ndarray) and column.ndim == 2]
    step = max(1, _NUMBERS_AT_ONCE // max(1, *widths, 100))
    names = [json.dumps(name, ensure_ascii=False).encode() for name in columns]
    heads = [b"}\n{" + names[0] + b": ", *[b", " + name + b": " for name in names[1:]]]  # what is before each value
    for start in range(0, count, step):
        pieces = [_texts(column[start : start + step], name) for name, column in columns.items()]
        rows = list(zip(*pieces, strict=True))
        del pieces
        # Joined once: a text may be as long as the input, and each copy of it counts.
        parts = [part for row in rows for pair in zip(heads, row, strict=True) for part in pair]
        parts[:1] = [b"{" + names[0] + b": "] if parts else []
        yield len(rows), b"".join([*parts, b"}\n"] if parts else [])


def _texts(column: Sequence[Any] | np.ndarray[Any, Any], name: str) -> list[bytes]:
    if isinstance(column, np.ndarray):
        if column.ndim == 2:
            return [b"[%s]" % numbers for numbers in number_rows(column)]
        return [b"%.9g" % number for number in column.tolist()]
    if (array := arrow_array(column)) is not None:
        column = json_values(array, name)
    try:
        return [_encode(value).encode() for value in column]
    except RecursionError:
        raise ValueError(f"column {name!r}: too many lists and objects inside each other") from None
    except ValueError:
        return [_escape(_with_null(value)).encode() for value in column]


# Numbers as NumPy and others have them become their text.
_encode: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=str).encode
_escape: Callable[[Any], str] = json.JSONEncoder(allow_nan=False, default=str).encode
"""Takes half a surrogate pair too."""


def _with_null(value: Any) -> Any:
    """Null where a number is not finite, which JSON has no way to write."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _with_null(item) for key, item in value.items()}
    return [_with_null(item) for item in value] if isinstance(value, list) else value


class JsonLinesOutput:
    """JSON lines on standard output, each there as soon as it is known."""

    def __enter__(self) -> JsonLinesOutput:
        OUTPUTS[self] = None
        return self

    def begin(self) -> None:
        """Nothing was there before."""

    def write(self, columns: Mapping[str, Any]) -> None:
        """Writes rows, of which each column has as many."""
        for _, lines in json_lines(columns):
            with WRITING:
                _to_stdout(lines)

    def keep(self) -> None:
        """Whole lines have been written: nothing is left to do."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        OUTPUTS.pop(self, None)


def _to_stdout(data: bytes) -> None:
    """All of `data`; an unbuffered stdout takes as much as fits when a signal comes."""
    if not hasattr(sys.stdout, "buffer"):  # main() in a program that collects text
        sys.stdout.write(data.decode())
        return
    rest = memoryview(data)
    while rest:
        rest = rest[sys.stdout.buffer.write(rest) or 0 :]
    sys.stdout.buffer.flush()


class JsonLinesFile(FileWriter):
    """JSON lines in a file, which appears under its name when it is complete."""

    what = "JSON Lines"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._rows = 0
        self._bytes = 0

    def write(self, columns: Mapping[str, Any]) -> None:
        """Appends rows."""
        for count, lines in json_lines(columns):
            with WRITING:
                write_all(self.descriptor, lines)
                self._rows += count
                self._bytes += len(lines)

    def finish(self) -> int:
        """Cuts off what a write that failed may have left of a line."""
        try:
            os.ftruncate(self.descriptor, self._bytes)
        finally:
            os.close(self.descriptor)
        return self._rows
