# SPDX-License-Identifier: MIT
"""JSON files that need not be there, asked key by key: a wrong value is refused with file, key and value."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from ..loaders.files import ModelFiles
from ..loaders.jsonfile import parse_json

__all__ = ["OptionalJson", "is_inside", "read_list", "shown"]

_NO_LIMIT = 1_000_000_000  # tokenizers without a limit say 1e30


def shown(value: Any) -> str:
    """``value`` as messages show it: no longer than a line, however large or deep it is."""
    try:
        return repr(str(value)[:100])
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"


class OptionalJson:
    """One JSON object of a model's files. Where the file is missing, every key is; null is like a missing key."""

    def __init__(self, files: ModelFiles, name: str) -> None:
        self.path = files.describe(name)
        self.values: dict[str, Any] = files.read_json(name) if files.has(name) else {}
        self.within = ""
        """What stands before a key in messages, where this is an object inside the file."""

    @classmethod
    def of(cls, values: dict[str, Any], path: str, within: str = "") -> OptionalJson:
        """An object that has been read already, from ``path``."""
        result = OptionalJson.__new__(OptionalJson)
        result.path, result.values, result.within = path, values, within
        return result

    def wrong(self, key: str, expected: str) -> ValueError:
        """The error that says what ``key`` should have been."""
        return ValueError(f"{self.where(key)} is {shown(self.values.get(key))}, expected {expected}")

    def where(self, key: str) -> str:
        """File and key, as messages call them."""
        return f"{self.path}: {self.within}{key}"

    def length(self, key: str) -> int | None:
        """A count of at least 1; None where it is missing or so large that it means no limit."""
        value = self.values.get(key)
        if value is None:
            return None
        if type(value) not in (int, float) or not value >= 1 or (value < _NO_LIMIT and value != int(value)):
            raise self.wrong(key, "an integer of at least 1")
        return None if value >= _NO_LIMIT else int(value)

    def size(self, key: str) -> int:
        """A count of at least 1 that has to be there."""
        value = self.values.get(key)
        if type(value) is not int or not 1 <= value < 2**31:
            if value is None:
                raise ValueError(f"{self.path}: key {key!r} is missing")
            raise self.wrong(key, "an integer of at least 1")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """true or false."""
        value = self.values.get(key)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.wrong(key, "true or false")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """One of ``choices``; the first where the key is missing."""
        value = self.values.get(key)
        if value is None:
            return choices[0]
        if value not in choices:
            raise self.wrong(key, f"one of {', '.join(choices)}")
        return str(value)

    def strings(self, key: str) -> dict[str, str]:
        """An object whose values are strings; entries of null are left out."""
        value = self.values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(text is None or isinstance(text, str) for text in value.values()):
            raise self.wrong(key, "an object whose values are strings")
        return {name: text for name, text in value.items() if text is not None}


def read_list(data: bytes, path: str) -> list[Any]:
    """The JSON list in ``data``, which is what ``path`` holds."""
    value = parse_json(data, path)
    if not isinstance(value, list):
        raise ValueError(f"{path}: expected a list of modules, got {type(value).__name__}")
    return value


def is_inside(name: str) -> bool:
    """Whether a path that a file names stays beside that file."""
    parts = PurePosixPath(name).parts
    return bool(parts) and ".." not in parts and not any(letter in name for letter in "\\:\0") and parts[0] != "/"
