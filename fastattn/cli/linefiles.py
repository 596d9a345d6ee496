# SPDX-License-Identifier: MIT
"""Plain lines, JSON Lines and CSV from a file descriptor, row by row."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any

from .lines import LineReader
from .rows import MISSING, Reader, Rows, Wanted

__all__ = ["Arguments", "CsvReader", "JsonLinesReader", "PlainLines"]

_AT_ONCE = 1024
_LONGEST_FIELD = 1 << 26


class Arguments(Reader):
    """Texts of the command line, or pairs of them."""

    unit = "TEXT"

    def __init__(self, columns: dict[str, list[str]], unit: str = "TEXT") -> None:
        super().__init__("command line")
        self._columns = columns
        self._unit = unit

    def rows(self) -> Iterator[Rows]:
        """As the texts are; not UTF-8 is an error."""
        count = len(next(iter(self._columns.values())))
        for index in range(count):
            for texts in self._columns.values():
                try:
                    texts[index].encode()
                except UnicodeEncodeError:
                    raise ValueError(f"{self._unit} {index + 1}: not UTF-8") from None
        for start in range(0, count, _AT_ONCE):
            columns = {name: texts[start : start + _AT_ONCE] for name, texts in self._columns.items()}
            yield Rows(range(start + 1, start + 1 + len(next(iter(columns.values())))), columns)

    def position(self) -> tuple[int, int | None]:
        """Not told: the command line is short."""
        return 0, None

    def where(self, number: int) -> str:
        """The argument."""
        return f"{self._unit} {number}"


class _Lines(Reader):
    """What the formats made of lines share."""

    def __init__(self, descriptor: int, name: str, owned: bool, keep_returns: bool = False) -> None:
        super().__init__(name)
        self._descriptor = descriptor
        self._owned = owned
        self._lines = LineReader(descriptor, name, keep_returns)
        self._size: int | None = None
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(21, os.strerror(21), name)
        if stat.S_ISREG(status.st_mode):
            self._size = status.st_size - os.lseek(descriptor, 0, os.SEEK_CUR)

    def position(self) -> tuple[int, int | None]:
        """In bytes."""
        return self._lines.consumed, self._size

    def close(self) -> None:
        """Closes the descriptor, unless it is standard input."""
        if self._owned:
            self._owned = False
            os.close(self._descriptor)


class PlainLines(_Lines):
    """One text per line."""

    def __init__(self, descriptor: int, name: str, owned: bool, column: str) -> None:
        super().__init__(descriptor, name, owned)
        self._column = column

    def rows(self) -> Iterator[Rows]:
        """An empty line is an empty text."""
        for number, lines in self._lines:
            yield Rows(range(number, number + len(lines)), {self._column: lines})


class JsonLinesReader(_Lines):
    """One JSON object per line; lines of nothing but white space do not count."""

    def __init__(self, descriptor: int, name: str, owned: bool, wanted: Wanted) -> None:
        super().__init__(descriptor, name, owned)
        self._names = wanted.names

    def rows(self) -> Iterator[Rows]:
        """Values as JSON has them; MISSING where an object has not the key."""
        import json

        decode = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite).decode
        for first, lines in self._lines:
            numbers: list[int] = []
            found: list[dict[str, Any]] = []
            wrong: str | None = None
            for number, line in enumerate(lines, first):
                if not line or line.isspace():
                    continue
                try:
                    value = decode(line)
                except json.JSONDecodeError as error:
                    wrong = f"not valid JSON ({error.msg}, column {error.colno})"
                except (ValueError, RecursionError) as error:
                    wrong = f"not valid JSON ({error})"
                else:
                    if type(value) is not dict:
                        wrong = f"expected a JSON object, got {type(value).__name__}"
                if wrong is not None:
                    wrong = f"{self.name}: line {number}: {wrong}"
                    break
                numbers.append(number)
                found.append(value)
            if found:
                yield Rows(numbers, {name: [value.get(name, MISSING) for value in found] for name in self._names})
            if wrong is not None:
                raise ValueError(wrong)


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise ValueError(f"{text[:40]} is beyond what a double can hold")
    return value


class CsvReader(_Lines):
    """Comma-separated values (RFC 4180): the first record names the columns; quoted fields may hold line ends."""

    def __init__(self, descriptor: int, name: str, owned: bool, wanted: Wanted, delimiter: str) -> None:
        super().__init__(descriptor, name, owned, keep_returns=True)
        self._names = wanted.names
        self._delimiter = delimiter

    def rows(self) -> Iterator[Rows]:
        """Fields as they are; a record with more or fewer fields than the header is an error."""
        import csv

        feed = _Feed(self._lines)
        before = csv.field_size_limit(_LONGEST_FIELD)
        try:
            yield from self._records(csv.reader(feed, delimiter=self._delimiter, strict=True), feed)
        finally:
            csv.field_size_limit(before)

    def _records(self, reader: Any, feed: _Feed) -> Iterator[Rows]:
        from csv import Error

        header: list[str] | None = None
        places: dict[str, int] = {}
        numbers: list[int] = []
        records: list[list[str]] = []

        def found() -> Rows:
            return Rows(numbers, {name: [record[place] for record in records] for name, place in places.items()})

        while True:
            number = feed.count + 1
            wrong: Exception | None = None
            record: list[str] = []
            try:
                record = next(reader)
            except StopIteration:
                break
            except Error as error:
                wrong = ValueError(f"{self.name}: line {number}: {error}")
            except (OSError, ValueError) as error:
                wrong = error
            if record and header is not None and len(record) != len(header):
                fields = f"{len(record)} field{'s' * (len(record) != 1)}, the header has {len(header)}"
                wrong = ValueError(f"{self.name}: line {number}: {fields}")
            if wrong is not None:
                if records:
                    yield found()
                raise wrong
            if record and header is None:
                header, places = record, self._places(record)
            elif record:
                numbers.append(number)
                records.append(record)
            if records and feed.is_empty():
                yield found()
                numbers, records = [], []
        if header is None:
            raise ValueError(f"{self.name}: empty, expected a line with the names of the columns")
        if records:
            yield found()

    def _places(self, header: Sequence[str]) -> dict[str, int]:
        for name in self._names:
            if header.count(name) != 1:
                problem = "no column" if name not in header else "more than one column"
                names = ", ".join(map(repr, header))
                hint = "; --delimiter says what is between fields" if len(header) == 1 else ""
                raise ValueError(f"{self.name}: {problem} {name!r}; the header has {names[:300]}{hint}")
        return {name: header.index(name) for name in self._names}


class _Feed:
    """Lines for the csv module, counted, each with its end."""

    def __init__(self, source: LineReader) -> None:
        self._source = iter(source)
        self._lines: list[str] = []
        self._next = 0
        self.count = 0
        """Lines handed out."""

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if self.is_empty():
            _, self._lines = next(self._source)
            self._next = 0
        line = self._lines[self._next]
        self._next += 1
        self.count += 1
        return line + "\n"

    def is_empty(self) -> bool:
        """Whether the next line has to be read first."""
        return self._next >= len(self._lines)
