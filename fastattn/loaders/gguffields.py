# SPDX-License-Identifier: MIT
"""The fields of a GGUF file, key to value: read when they are asked for, since a vocabulary is most of a header."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from fastattn import _core

from .errors import WeightFileError

__all__ = ["FIELD_TYPES", "Field", "GgufFields", "GgufStrings", "short"]


class FieldType(NamedTuple):
    """A type that fields have: its name, and how one value of fixed size is stored (None for str and array)."""

    name: str
    struct: struct.Struct | None = None
    dtype: np.dtype[Any] | None = None


def _number(name: str, code: str, dtype: str) -> FieldType:
    return FieldType(name, struct.Struct("<" + code), np.dtype(dtype))


FIELD_TYPES: Mapping[int, FieldType] = {
    0: _number("u8", "B", "u1"),
    1: _number("i8", "b", "i1"),
    2: _number("u16", "H", "<u2"),
    3: _number("i16", "h", "<i2"),
    4: _number("u32", "I", "<u4"),
    5: _number("i32", "i", "<i4"),
    6: _number("f32", "f", "<f4"),
    7: _number("bool", "B", "u1"),  # until it is known to be 0 or 1
    8: FieldType("str"),
    9: FieldType("array"),
    10: _number("u64", "Q", "<u8"),
    11: _number("i64", "q", "<i8"),
    12: _number("f64", "d", "<f8"),
}
"""Number in the file -> type."""


class Field(NamedTuple):
    """Where the value of a field lies, or a number itself."""

    type: FieldType
    array: bool
    start: int = 0
    length: int = 0
    """Bytes of a string, elements of an array."""
    value: int | float | bool | None = None
    ends: np.ndarray[Any, np.dtype[np.int64]] | None = None
    """For an array of strings: where each begins, and where the last one ends."""


def short(value: Any) -> str:
    """``repr(value)`` cut to a length that a message can carry."""
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


class GgufStrings(Sequence[str]):
    """An array of strings in a file, decoded when they are asked for.

    ``strings[i]`` and ``strings[i:j]`` decode what they return, ``tolist()`` all of it in one go (150,000 tokens take
    some 10 ms), ``raw(i)`` gives the bytes as they are. A string that is not UTF-8 raises a ``WeightFileError`` that
    names the field and the string.
    """

    def __init__(self, where: str, data: Any, ends: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        self._where, self._data, self._ends = where, data, ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def raw(self, index: int) -> bytes:
        """The bytes of string ``index``, whatever they are."""
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"{self._where}: no string {index} among {n}")
        at = index % n
        return bytes(self._data[int(self._ends[at]) + 8 : int(self._ends[at + 1])])

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            first, stop, step = index.indices(len(self))
            if step == 1:
                return self._decoded(first, max(first, stop))
            return [self[i] for i in range(first, stop, step)]
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"{self._where}: no string {index} among {n}")
        return self._decoded(index % n, index % n + 1)[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tolist())

    def tolist(self) -> list[str]:
        """All strings, as a new list."""
        return self._decoded(0, len(self))

    def _decoded(self, first: int, stop: int) -> list[str]:
        try:
            return _core.strings_at(self._data, self._ends, first, stop)
        except UnicodeDecodeError:
            pass
        for i in range(first, stop):  # which one it was
            try:
                self.raw(i).decode("utf-8")
            except UnicodeDecodeError as error:
                raise WeightFileError(f"{self._where}: string {i} is not UTF-8 at byte {error.start}") from None
        raise WeightFileError(f"{self._where}: the file changed while it was read")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._where}: {len(self)} strings>"


class GgufFields(Mapping[str, Any]):
    """Read-only mapping from the keys of a GGUF file to their values.

    A value is an ``int``, ``float``, ``bool`` or ``str``; for an array of numbers or truth values a read-only NumPy
    array of the file's type; for an array of strings a ``GgufStrings``. ``kind(key)`` says what the file says:
    ``"u32"``, ``"str"``, ``"array of f32"``.
    """

    def __init__(self, path: Path, data: Any, entries: Mapping[str, Field]) -> None:
        self._path, self._data, self._entries = path, data, entries
        self._read: dict[str, Any] = {}

    def kind(self, key: str) -> str:
        """The type of the value: a name of ``FIELD_TYPES``, with ``"array of "`` before it for an array."""
        field = self._entry(key)
        return f"array of {field.type.name}" if field.array else field.type.name

    def _entry(self, key: str) -> Field:
        try:
            return self._entries[key]
        except KeyError:
            raise KeyError(f"{self._path}: no field {short(key)}") from None

    def __getitem__(self, key: str) -> Any:
        field = self._entry(key)
        if field.value is not None:
            return field.value
        if key not in self._read:
            self._read[key] = self._value(key, field)
        return self._read[key]

    def _value(self, key: str, field: Field) -> Any:
        where = f"{self._path}: field {short(key)}"
        if field.ends is not None:
            return GgufStrings(where, self._data, field.ends)
        if not field.array:
            try:
                return bytes(self._data[field.start : field.start + field.length]).decode("utf-8")
            except UnicodeDecodeError as error:
                raise WeightFileError(f"{where}: not UTF-8 at byte {error.start}") from None
        dtype = field.type.dtype
        assert dtype is not None
        if field.length == 0:
            array = np.empty(0, dtype)
        else:
            raw = np.frombuffer(self._data, np.uint8, field.length * dtype.itemsize, field.start)
            array = (raw.copy() if raw.ctypes.data % dtype.itemsize else raw).view(dtype)
        if field.type.name == "bool":
            array = array.view(np.bool_)
        array.flags.writeable = False
        return array

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self._path)!r}: {len(self)} fields>"
