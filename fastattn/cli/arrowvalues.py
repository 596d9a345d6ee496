# SPDX-License-Identifier: MIT
"""Columns of a Parquet file that are carried along as they are, and what JSON says for the values that it has not."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import Any, overload

from .parquetlib import pyarrow_parquet

__all__ = ["ArrowColumn", "arrow_array", "json_values"]


class ArrowColumn:
    """A pyarrow array in the place of a list of values: what is taken out of it is a column too, of one value or more.

    So no value is turned into one of Python's on the way from one Parquet file to another, where nanoseconds, far years
    and time zones would not survive.
    """

    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, index: int) -> ArrowColumn: ...
    @overload
    def __getitem__(self, index: slice) -> ArrowColumn: ...
    def __getitem__(self, index: int | slice) -> ArrowColumn:
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return ArrowColumn(self.array.slice(start, max(0, stop - start)))
        arrow, _ = pyarrow_parquet()
        # A copy: one value may stay long after the others.
        return ArrowColumn(arrow.concat_arrays([self.array.slice(index, 1), self.array.slice(0, 0)]))

    def __iter__(self) -> Iterator[ArrowColumn]:
        return (self[index] for index in range(len(self)))

    def __contains__(self, value: object) -> bool:
        return False  # least of all a value that is missing: every row of the file has each column


def arrow_array(column: Any) -> Any:
    """The pyarrow array of an :class:`ArrowColumn` or of a list of what was taken out of some; None for other columns.

    >>> import pyarrow
    >>> column = ArrowColumn(pyarrow.array([1, 2, 3]))
    >>> arrow_array([column[2], column[0]]).to_pylist(), arrow_array([1, 2])
    ([3, 1], None)
    """
    if isinstance(column, ArrowColumn):
        return column.array
    if isinstance(column, list) and column and isinstance(column[0], ArrowColumn):
        arrow, _ = pyarrow_parquet()
        return arrow.concat_arrays([each.array for each in column])
    return None


def json_values(array: Any, name: str) -> list[Any]:
    """The values of a pyarrow array as JSON can hold them, each so that it can be told what it was.

    Bytes become base64; dates, times, durations and decimal numbers their text; numbers that are not finite "NaN",
    "Infinity" and "-Infinity"; maps lists of pairs.

    Args:
        name: of the column, for messages.

    Raises:
        ValueError: JSON has no form for one: objects that have a key twice, a year beyond what can be told.

    >>> import pyarrow
    >>> json_values(pyarrow.array([b"a", None]), "raw"), json_values(pyarrow.array([0.5, float("nan")]), "x")
    (['YQ==', None], [0.5, 'NaN'])
    """
    arrow, _ = pyarrow_parquet()
    try:
        try:
            values = array.to_pylist()
        except (ValueError, OverflowError, KeyError):  # nanoseconds, far years, zones that are not known here
            values = [_value(scalar) for scalar in array]
    except (arrow.ArrowException, ValueError, OverflowError, KeyError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"column {name!r} cannot be written as JSON: {text[:300]}") from None
    return values if _is_json(array.type) else [_json(value) for value in values]


def _is_json(kind: Any) -> bool:
    """Whether every value of a type is one of JSON's."""
    arrow, _ = pyarrow_parquet()
    types = arrow.types
    return types.is_string(kind) or types.is_integer(kind) or types.is_boolean(kind) or types.is_null(kind)


def _value(scalar: Any) -> Any:
    """The value of a pyarrow scalar; the text of one that Python has no value for."""
    arrow, _ = pyarrow_parquet()
    types, kind = arrow.types, scalar.type
    if not scalar.is_valid:
        return None
    if types.is_dictionary(kind) or isinstance(kind, arrow.BaseExtensionType):
        return _value(scalar.value)
    if types.is_map(kind):
        return [[_value(entry) for entry in pair.values()] for pair in scalar.values]
    if types.is_struct(kind):
        names = [kind.field(index).name for index in range(kind.num_fields)]
        if len(set(names)) < len(names):
            raise ValueError(f"{kind} has a key twice")
        return {name: _value(scalar[index]) for index, name in enumerate(names)}
    if types.is_nested(kind):
        return [_value(item) for item in scalar.values]
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, KeyError):
        text = str(scalar.cast(arrow.string()))
        if "out of range" in text:
            raise ValueError(f"a {kind} is beyond the years that can be written ({text})") from None
        return f"{text} ns" if types.is_duration(kind) else text


def _json(value: Any) -> Any:
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        if value - value == 0:
            return value
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return str(value)
