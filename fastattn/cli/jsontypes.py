# SPDX-License-Identifier: MIT
"""The type of a column of JSON values: the narrowest that holds each of them as it is, however they were cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

__all__ = ["JsonColumn", "Stored", "json_text"]

_DEEPEST = 32
_MOST_PLACES = 1000  # of a column: each is a column of its own in the file
_EXACT = 1 << 53  # every integer up to here is a double
_LEAST, _MOST, _MOST_UNSIGNED = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1
_KINDS = {bool: "true or false", int: "numbers", float: "numbers", str: "strings", list: "lists", dict: "objects"}

_plain = json.JSONEncoder(ensure_ascii=False).encode
_escaped = json.JSONEncoder().encode


def json_text(value: Any) -> str:
    r"""`value` as JSON that is valid UTF-8; half a surrogate pair is spelt as an escape.

    >>> json_text({"é": [1, 1.0, None]}), json_text("\ud800")
    ('{"é": [1, 1.0, null]}', '"\\ud800"')
    """
    text = _plain(value)
    return text if _is_unicode(text) else _escaped(value)


def _is_unicode(text: str) -> bool:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


class _NoTypeError(Exception):
    """No type but text holds the values; why, in words."""


class _Place:
    """What the values at one place are: the column's, the items of its lists, a key of its objects.

    What it says depends on the values alone and not on their order, except for the order of keys.
    """

    __slots__ = ("_fractions", "_high", "_items", "_keys", "_kind", "_low", "_regular", "_root", "fields", "places")

    def __init__(self, root: _Place | None) -> None:
        self._root = root or self
        self.places = 0
        """How many places there are, of the outermost."""
        self._root.places += 1
        if self._root.places > _MOST_PLACES:
            raise _NoTypeError(f"objects with more than {_MOST_PLACES} keys")
        self._kind = ""
        self._low: int | None = None  # the least and the greatest integer
        self._high = 0
        self._fractions = False
        self._items: _Place | None = None
        self.fields: dict[str, _Place] = {}
        self._keys: tuple[str, ...] | None = None  # of the first object
        self._regular = True

    def be(self, kind: str) -> None:
        """Some value is of this kind."""
        if kind != self._kind:
            if self._kind:
                raise _NoTypeError(f"{self._kind} and {kind}")
            self._kind = kind

    def integers(self, low: int, high: int) -> None:
        """Some values are integers from `low` to `high`."""
        self.be("numbers")
        self._low, self._high = (low, high) if self._low is None else (min(self._low, low), max(self._high, high))

    def doubles(self) -> None:
        """Some value is a double."""
        self.be("numbers")
        self._fractions = True

    def add(self, value: Any, depth: int = 0) -> None:
        """Some value is this one."""
        if value is None:
            return
        kind = type(value)
        if kind is int:
            self.integers(value, value)
        elif kind is float:
            self.doubles()
        else:
            self.be(_KINDS.get(kind) or kind.__name__)
            if kind is str:
                if not _is_unicode(value):
                    raise _NoTypeError("half a surrogate pair")
            elif kind is list:
                self._add_items(value, depth + 1)
            elif kind is dict:
                self._add_fields(value, depth + 1)
            elif kind is not bool:
                raise TypeError(f"{kind.__name__} is no JSON value")

    def _add_items(self, items: list[Any], depth: int) -> None:
        if depth > _DEEPEST:
            raise _NoTypeError(f"more than {_DEEPEST} lists and objects inside each other")
        if self._items is None:
            self._items = _Place(self._root)
        for item in items:
            self._items.add(item, depth)

    def _add_fields(self, values: dict[str, Any], depth: int) -> None:
        if depth > _DEEPEST:
            raise _NoTypeError(f"more than {_DEEPEST} lists and objects inside each other")
        keys = tuple(values)
        if self._keys is None:
            self._keys = keys
        self._regular = self._regular and keys == self._keys
        for key, value in values.items():
            field = self.fields.get(key)
            if field is None:
                if not _is_unicode(key):
                    raise _NoTypeError("a key with half a surrogate pair")
                field = self.fields[key] = _Place(self._root)
            field.add(value, depth)

    @property
    def exact(self) -> bool:
        """Whether values of `type` read back are what they were: integers no doubles, and no key made up."""
        inner = self.fields.values() if self._items is None else [self._items]
        mixed = self._fractions and self._low is not None
        return self._regular and not mixed and all(place.exact for place in inner)

    def type(self, arrow: Any) -> Any:
        """pyarrow's type for them; of nulls alone it is string."""
        if self._kind == "numbers":
            return self._number(arrow)
        if self._items is not None:
            return arrow.list_(self._items.type(arrow))
        if self._kind == "objects":
            if not self.fields:
                raise _NoTypeError("objects without a key")
            return arrow.struct([(name, field.type(arrow)) for name, field in self.fields.items()])
        return arrow.bool_() if self._kind == _KINDS[bool] else arrow.string()

    def _number(self, arrow: Any) -> Any:
        if self._low is None:
            return arrow.float64()
        if self._fractions:
            if self._low >= -_EXACT and self._high <= _EXACT:
                return arrow.float64()
            raise _NoTypeError("doubles, and integers that no double holds (beyond 2**53)")
        if self._low >= _LEAST and self._high <= _MOST:
            return arrow.int64()
        if self._low >= 0 and self._high <= _MOST_UNSIGNED:
            return arrow.uint64()
        raise _NoTypeError("integers beyond 64 bits")


class Stored:
    """Some values of a column, exactly, in little memory: of a simple type, or each as its JSON text."""

    __slots__ = ("array", "is_text")

    def __init__(self, array: Any, is_text: bool) -> None:
        self.array = array
        self.is_text = is_text


class JsonColumn:
    """Learns the type of a column of JSON values from all of them, and brings what it has seen into that type.

    bool; int64, or uint64 where none is negative and some are beyond int64; double, also for integers up to 2**53 among
    doubles; string, also for nothing but nulls; list; struct with the keys of all objects, null where one has not the
    key. Where none of these holds them all exactly, string: the JSON text of each value. That is so for values of
    different kinds, integers beyond all these bounds, objects without a key, half surrogate pairs, more than 32 lists
    and objects inside each other, and objects with more than some 1000 keys.

    >>> import pyarrow
    >>> column = JsonColumn(pyarrow)
    >>> parts = [column.store([1, 2]), column.store([0.75])]
    >>> [column.array(part, column.type).to_pylist() for part in parts]
    [[1.0, 2.0], [0.75]]
    >>> parts.append(column.store(["a", None]))
    >>> column.type, [column.array(part, column.type).to_pylist() for part in parts]
    (None, [['1', '2'], ['0.75'], ['"a"', None]])
    """

    def __init__(self, arrow: Any) -> None:
        self._arrow = arrow
        self._place = _Place(None)
        self._rows = 0
        self._mixed: str | None = None  # why it is text whatever may come

    def store(self, values: Sequence[Any]) -> Stored:
        """Looks at the next `values` and keeps them.

        Raises:
            TypeError: one is nothing that JSON has.
            ValueError: one has too many lists and objects inside each other to be written.
        """
        stored = self._simple(values) if self._mixed is None else None
        if stored is None:
            if self._mixed is None:
                self._look(values)
            stored = Stored(self._arrow.array(_texts(values, self._rows + 1), self._arrow.string()), True)
        self._rows += len(values)
        return stored

    def _simple(self, values: Sequence[Any]) -> Stored | None:
        """Values of one simple type are kept as they are, without looking at each."""
        kinds = set(map(type, values)) - {type(None)}
        kind = kinds.pop() if len(kinds) == 1 else None if kinds else str
        arrow, place = self._arrow, self._place
        try:
            if kind is str:
                array = arrow.array(values, arrow.string())
                if array.null_count < len(array):
                    place.be(_KINDS[str])
                return Stored(array, False)
            if kind is float or kind is bool:
                if kind is float:
                    place.doubles()
                else:
                    place.be(_KINDS[bool])
                return Stored(arrow.array(values, arrow.float64() if kind is float else arrow.bool_()), False)
            if kind is int:
                numbers = [value for value in values if value is not None]
                low, high = min(numbers), max(numbers)
                if low >= _LEAST and high <= _MOST:
                    place.integers(low, high)
                    return Stored(arrow.array(values, arrow.int64()), False)
        except (_NoTypeError, UnicodeEncodeError):
            pass  # told by looking at each
        return None

    def _look(self, values: Sequence[Any]) -> None:
        for index, value in enumerate(values, self._rows + 1):
            try:
                self._place.add(value)
            except _NoTypeError as reason:
                self._mixed = f"{reason} (row {index})"
                return

    def _found(self) -> tuple[Any, str]:
        if self._mixed is not None:
            return None, self._mixed
        try:
            return self._place.type(self._arrow), ""
        except _NoTypeError as reason:
            return None, str(reason)

    @property
    def type(self) -> Any:
        """pyarrow's type of all values so far; None for JSON text."""
        return self._found()[0]

    @property
    def reason(self) -> str:
        """Why they are JSON text, in words; empty where they are not."""
        return self._found()[1]

    @property
    def exact(self) -> bool:
        """Whether what has been written in `type` can be brought into every wider type to come."""
        return self.type is None or self._place.exact

    def array(self, stored: Stored, kind: Any) -> Any:
        """The values as a pyarrow array of `kind`, which is at least as wide as they need; None is JSON text."""
        arrow = self._arrow
        array = stored.array
        if kind is None:
            return array if stored.is_text else arrow.array(_texts(array.to_pylist(), 1), arrow.string())
        if stored.is_text:
            return arrow.array([None if text is None else json.loads(text) for text in array.to_pylist()], kind)
        if array.null_count == len(array):
            return arrow.nulls(len(array), kind)
        return array if array.type == kind else arrow.array(array.to_pylist(), kind)


def _texts(values: Sequence[Any], first: int) -> list[str | None]:
    texts: list[str | None] = []
    try:
        for value in values:
            texts.append(None if value is None else json_text(value))
    except RecursionError:
        raise ValueError(f"row {first + len(texts)} has too many lists and objects inside each other") from None
    return texts
