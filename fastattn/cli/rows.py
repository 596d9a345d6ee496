# SPDX-License-Identifier: MIT
"""What the commands read: rows of columns, each row with its number in the input; and the check of what they hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

__all__ = ["KEEP_NOTE", "MISSING", "ON_NULL", "Checked", "Reader", "Rows", "Wanted", "kept_types"]

KEEP_NOTE = """\
Columns of --keep come out as they went in. In a Parquet file they have the types of a Parquet input; columns of JSON
get the narrowest type that holds every value of the whole input, whatever came first: bool, int64 or uint64, double
(for integers too, up to 2**53), string, list, struct (null for a key that an object lacks). Where none does, as with
numbers and strings, every value of the column is its JSON text, and stderr says so and why. Values that show only later
what the type is may need the file to be written anew at the end, with as much room on the disk once more. In JSON,
bytes of a Parquet input are base64, dates, times and decimal numbers text, NaN and infinities "NaN", "Infinity".
"""

ON_NULL = ("error", "skip", "empty")
"""What can be done about a row without a text: fail, leave it out, take it as an empty text."""


class _Missing:
    """Stands for the value of a key that a JSON object does not have."""


MISSING = _Missing()


class Rows:
    """Some rows, column by column."""

    __slots__ = ("columns", "indices", "numbers")

    def __init__(self, numbers: Sequence[int], columns: dict[str, list[Any]], indices: Sequence[int] = ()) -> None:
        self.numbers = numbers
        """Number of each row's line (or row) in the input, from 1."""
        self.columns = columns
        """Values by the names of columns."""
        self.indices = indices
        """Which row of the input each is, from 0, whatever its number counts; `Checked` sets them."""

    def __len__(self) -> int:
        return len(self.numbers)

    def part(self, start: int, stop: int | None = None) -> Rows:
        """The rows from `start` to before `stop`."""
        columns = {name: column[start:stop] for name, column in self.columns.items()}
        return Rows(self.numbers[start:stop], columns, self.indices[start:stop])


class Wanted(NamedTuple):
    """The columns a command asks for."""

    texts: tuple[str, ...]
    """Each value has to be a string."""
    lists: tuple[str, ...] = ()
    """Each value has to be a list of strings."""
    keep: tuple[str, ...] = ()
    """Anything."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys((*self.texts, *self.lists, *self.keep)))


class Reader(ABC):
    """An input, read once, in lists of rows that are small beside what a model needs for them."""

    unit: ClassVar[str] = "line"
    """What a row's number counts."""
    types: Mapping[str, Any] = {}
    """Types of columns where the input has types: pyarrow's."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def rows(self) -> Iterator[Rows]:
        """Lists of rows, in order; an error comes after the rows before it."""

    def position(self) -> tuple[int, int | None]:
        """How much has been read, and of how much where that is known."""
        return 0, None

    def close(self) -> None:  # noqa: B027 (not every reader opens something)
        """Closes what the reader has opened."""

    def where(self, number: int) -> str:
        """The place of a row, for messages."""
        return f"{self.name}: {self.unit} {number}"


def kept_types(reader: Reader, wanted: Wanted) -> dict[str, Any]:
    """The types of the columns that are carried along, where the input has types."""
    return {name: kind for name, kind in reader.types.items() if name in wanted.keep}


class Checked:
    """Iterates over the rows of `reader` that have what is wanted.

    Raises:
        ValueError: a row has a null where a text is wanted, or something that is no text. The rows before it have been
            handed on; the message names it.
    """

    def __init__(self, reader: Reader, wanted: Wanted, on_null: str) -> None:
        self.reader = reader
        self._wanted = wanted
        self._on_null = on_null
        self._read = 0
        self.skipped = 0
        """Rows left out because of a null."""

    def __iter__(self) -> Iterator[Rows]:
        for rows in self.reader.rows():
            rows.indices = range(self._read, self._read + len(rows))
            self._read += len(rows)
            if self._good(rows):
                self._fill(rows)
                yield rows
                continue
            good: list[int] = []
            wrong: str | None = None
            for index in range(len(rows)):
                nulls, wrong = self._problem(rows, index)
                if wrong is not None:
                    break
                if nulls and self._on_null == "skip":
                    self.skipped += 1
                    continue
                for name in nulls:
                    rows.columns[name][index] = "" if name in self._wanted.texts else []
                good.append(index)
            columns = {name: [column[i] for i in good] for name, column in rows.columns.items()}
            chosen = Rows([rows.numbers[i] for i in good], columns, [rows.indices[i] for i in good])
            self._fill(chosen)
            if good:
                yield chosen
            if wrong is not None:
                raise ValueError(wrong)

    def _good(self, rows: Rows) -> bool:
        return all(all(map(_is_text, rows.columns[name])) for name in self._wanted.texts) and all(
            all(map(_is_list, rows.columns[name])) for name in self._wanted.lists
        )

    def _problem(self, rows: Rows, index: int) -> tuple[list[str], str | None]:
        """Columns that have a null in this row, and in words what else is wrong with it."""
        nulls = []
        kinds: list[tuple[tuple[str, ...], Callable[[Any], bool], str]] = [
            (self._wanted.texts, _is_text, "a string"),
            (self._wanted.lists, _is_list, "a list of strings"),
        ]
        for names, is_right, expected in kinds:
            for name in names:
                value = rows.columns[name][index]
                if is_right(value):
                    continue
                if value is None or value is MISSING:
                    if self._on_null == "error":
                        what = "is null" if value is None else "is missing"
                        hint = "--on-null skip or --on-null empty go on"
                        return [], f"{self.reader.where(rows.numbers[index])}: {name!r} {what}; {hint}"
                    nulls.append(name)
                    continue
                found = _describe(value)
                return [], f"{self.reader.where(rows.numbers[index])}: {name!r} is {found}, expected {expected}"
        return nulls, None

    def _fill(self, rows: Rows) -> None:
        for name in self._wanted.keep:
            column = rows.columns[name]
            if MISSING in column:
                rows.columns[name] = [None if value is MISSING else value for value in column]


def _is_text(value: Any) -> bool:
    """Whether `value` is a string of valid Unicode; JSON can spell half a surrogate pair."""
    if type(value) is not str:
        return False
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
    return True


def _is_list(value: Any) -> bool:
    return type(value) is list and all(map(_is_text, value))


def _describe(value: Any) -> str:
    if isinstance(value, str):
        return "a string" if _is_text(value) else "a string with half a surrogate pair, which is no valid Unicode"
    if isinstance(value, list):
        for index, item in enumerate(value):
            if not _is_text(item):
                return f"a list whose item {index} is {_describe(item)}"
    kinds = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else kinds.get(type(value), type(value).__name__)
