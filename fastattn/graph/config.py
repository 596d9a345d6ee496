# SPDX-License-Identifier: MIT
"""``config.json``, asked key by key: a wrong or missing value is refused by name before anything is built from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..loaders.files import ModelFiles
from ..loaders.jsonfile import read_json_object

__all__ = ["PROBLEM_TYPES", "ConfigReader", "short"]

T = TypeVar("T")

_MAX_SIZE = 2**31 - 1
_MAX_REAL = 1e30  # far above any model's, and far below what float32 can hold

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
"""What ``problem_type`` may be."""


def short(value: Any) -> str:
    """A value of a JSON file as messages show it, whatever it is."""
    try:
        return repr(str(value)[:100])
    except RecursionError:  # nested as deeply as the parser takes, and a little less than can be printed
        return "nested too deeply"


class _Noted(dict[str, Any]):
    """The values of a file, and which of its keys were asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


class _Called(_Noted):
    """The values of another, some of whose keys may have other names."""

    def __init__(self, values: _Noted, names: Mapping[str, str]) -> None:
        super().__init__({**values, **{key: values[name] for key, name in names.items() if name in values}})
        self._names = {key: name for key, name in names.items() if name in values}
        self._noted = values.asked

    def get(self, key: str, default: Any = None) -> Any:
        self._noted.add(self._names.get(key, key))
        return super().get(key, default)


class ConfigReader:
    """The values of one ``config.json``. Every error is a ``ValueError`` that names the file, the key and the value."""

    def __init__(self, path: Path | str, values: Mapping[str, Any]) -> None:
        self.path = path
        """Where the values come from, as messages call it."""
        self._values = _Noted(values)
        self.parts: dict[str, ConfigReader] = {}
        """The objects that were asked for by ``part``, by their keys."""

    def called(self, names: Mapping[str, str]) -> ConfigReader:
        """A reader for pages that ask by the keys of ``names``, where a file may have them under its values.

        >>> config = ConfigReader("config.json", {"num_layers": 3})
        >>> config.called({"num_hidden_layers": "num_layers"}).size("num_hidden_layers"), config.not_asked()
        (3, [])
        """
        other = ConfigReader(self.path, {})
        other._values = _Called(self._values, names)
        return other

    @classmethod
    def open(cls, path: Path) -> ConfigReader:
        """Read the file ``path``."""
        return cls(path, read_json_object(path))

    @classmethod
    def read(cls, files: ModelFiles, name: str = "config.json") -> ConfigReader:
        """Read the file ``name`` of a model."""
        return cls(files.describe(name), files.read_json(name))

    def _get(self, key: str, default: Any) -> Any:
        value = self._values.get(key)
        if value is None:  # null: as if the key were missing, but for the keys of ``null`` and for flags
            if default is None:
                raise ValueError(f"{self.path}: key {key!r} is missing")
            return default
        return value

    def _wrong(self, key: str, value: Any, expected: str) -> ValueError:
        return ValueError(f"{self.path}: {key} is {str(value)[:100]!r}, expected {expected}")

    def size(self, key: str, default: int | None = None, maximum: int = _MAX_SIZE, *, minimum: int = 1) -> int:
        """A count from ``minimum`` to ``maximum``."""
        value = self._get(key, default)
        if type(value) is not int or not minimum <= value <= maximum:
            raise self._wrong(key, value, f"an integer from {minimum} to {maximum}")
        return value

    def size_or_none(self, key: str) -> int | None:
        """A count from 1; None where the key is missing or -1 or 0, as DeBERTa's files say that there is none."""
        value = self._values.get(key)
        return None if type(value) is int and value in (-1, 0) or value is None else self.size(key)

    def positive(self, key: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self._get(key, default)
        if type(value) not in (int, float) or not 0 < value <= _MAX_REAL:
            raise self._wrong(key, value, f"a finite number above 0, at most {_MAX_REAL:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """true or false; null is false, as Python takes it, whatever the default of a missing key."""
        value = self._values.get(key, default)
        if value is not None and type(value) is not bool:
            raise self._wrong(key, value, "true or false")
        return bool(value)

    def null(self, key: str) -> bool:
        """Whether the key is there with null, where that says something else than a missing key."""
        return key in self._values and self._values[key] is None

    def choice(self, key: str, choices: Mapping[str, T], default: str | None = None) -> T:
        """What ``choices`` has for the string under ``key``."""
        value = self._get(key, default)
        if not isinstance(value, str) or value not in choices:
            raise self._wrong(key, value, f"one of {', '.join(choices)}")
        return choices[value]

    def has(self, key: str) -> bool:
        """Whether the key is there with a value other than null."""
        return self._values.get(key) is not None

    def mapping(self, key: str) -> Mapping[str, Any] | None:
        """The object under ``key``, None where the key is missing."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return value

    def part(self, key: str) -> ConfigReader:
        """The object under ``key``, an empty one where it is missing, as a file of its own."""
        if key not in self.parts:
            self.parts[key] = ConfigReader(f"{self.path}: {key}", self.mapping(key) or {})
        return self.parts[key]

    def words(self, key: str, choices: Collection[str]) -> tuple[str, ...] | None:
        """The list of words under ``key``, each one of ``choices``; None where the key is missing.

        A string of words with ``|`` between them, as DeBERTa's files have it, is such a list.
        """
        value = self._values.get(key)
        if isinstance(value, str):
            value = [word.strip() for word in value.lower().split("|")] if value.strip() else []
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(word, str) and word in choices for word in value):
            raise self._wrong(key, value, f"a list of {', '.join(choices)}")
        return tuple(value)

    def refuse(self, key: str, reason: str) -> None:
        """Refuse a key that is there with a value other than null, false, "" or an empty list or object."""
        if self._values.get(key):
            raise ValueError(f"{self.path}: {key} is {str(self._values[key])[:100]!r}: {reason}")

    def value(self, key: str) -> Any:
        """What lies under ``key``, of any type; None where the key is missing."""
        return self._values.get(key)

    def architectures(self) -> tuple[str, ...]:
        """The class names under ``architectures``. What is no name is left out: no library needs this key."""
        value = self._values.get("architectures")
        names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        return tuple(name for name in names if isinstance(name, str) and name)

    def problem_type(self) -> str | None:
        """``problem_type`` of a sequence classification, None where it is missing or none of transformers'."""
        value = self._values.get("problem_type")
        return value if isinstance(value, str) and value in PROBLEM_TYPES else None

    def not_asked(self) -> list[str]:
        """Keys that nobody has asked for, but for those of null, which say nothing."""
        return [key for key, value in self._values.items() if key not in self._values.asked and value is not None]

    def model_type(self) -> str:
        """``model_type``; old files without it are recognised by the class name under ``architectures``."""
        value = self._values.get("model_type")
        if value is None:
            for name in self.architectures():
                if name.startswith("Bert"):
                    return "bert"
            raise ValueError(
                f"{self.path}: key 'model_type' is missing: it says which architecture the weights are of, and belongs "
                'into the file ("model_type": "bert")'
            )
        if not isinstance(value, str):
            raise self._wrong("model_type", value, "a string")
        return value
