# SPDX-License-Identifier: MIT
"""The keys of a GGUF file, asked one by one: a value of the wrong kind is refused with file, key and value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..loaders.errors import WeightFileError

__all__ = ["Fields"]


class Fields:
    """Keys and values of the GGUF file ``where``, of which nothing is believed.

    Parameters
    ----------
    values
        Numbers, flags and texts; numeric arrays as NumPy has them, arrays of texts as sequences.
    where
        What messages call the file.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values, self.where = values, where

    def wrong(self, key: str, what: str) -> WeightFileError:
        """The error that says what is wrong with ``key``."""
        return WeightFileError(f"{self.where}: {key}{'' if what.startswith('[') else ' '}{what}")

    def has(self, key: str) -> bool:
        """Whether the file says anything about ``key``."""
        return self._values.get(key) is not None

    def text(self, key: str) -> str | None:
        """A text; None where the key is missing."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.wrong(key, f"is {_shown(value)}, expected a string")
        if not _is_unicode(value):
            raise self.wrong(key, "is not valid UTF-8")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, (bool, np.bool_)):
            raise self.wrong(key, f"is {_shown(value)}, expected true or false")
        return bool(value)

    def number(self, key: str, below: int) -> int | None:
        """An integer of at least 0 and less than ``below``; None where the key is missing."""
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
            raise self.wrong(key, f"is {_shown(value)}, expected an integer")
        if not 0 <= value < below:
            raise self.wrong(key, f"is {_shown(value)}, expected one of the {below} ids of the vocabulary")
        return int(value)

    def texts(self, key: str) -> list[str] | None:
        """A list of texts; None where the key is missing."""
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, (str, bytes, Mapping, np.ndarray)) or not hasattr(value, "__len__"):
            raise self.wrong(key, f"is {_shown(value)}, expected an array of strings")
        try:
            result: list[Any] = value.tolist() if hasattr(value, "tolist") else list(value)
        except UnicodeDecodeError:
            raise self.wrong(key, "has a string that is not valid UTF-8") from None
        try:
            joined = "".join(result)
        except TypeError:
            number = next(i for i, item in enumerate(result) if not isinstance(item, str))
            raise self.wrong(key, f"[{number}] is {_shown(result[number])}, expected a string") from None
        if not _is_unicode(joined):
            number = next(i for i, item in enumerate(result) if not _is_unicode(item))
            raise self.wrong(key, f"[{number}] is not valid UTF-8")
        return result

    def numbers(self, key: str, kinds: str, count: int) -> list[Any] | None:
        """``count`` numbers of the dtypes that ``kinds`` names; None where the key is missing."""
        value = self._values.get(key)
        if value is None:
            return None
        accepted = kinds.split()
        if not isinstance(value, np.ndarray):
            raise self.wrong(key, f"is {_shown(value)}, expected an array of {' or '.join(accepted)}")
        if value.dtype.newbyteorder("=").name not in accepted or value.ndim != 1:
            raise self.wrong(key, f"is an array of {value.dtype.name}, expected {' or '.join(accepted)}")
        if len(value) != count:
            raise self.wrong(key, f"has {len(value)} values, expected one for each of {count} tokens")
        result: list[Any] = value.tolist()
        return result

    def data(self, key: str) -> bytes | None:
        """Bytes, of an array of them; None where the key is missing."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, np.ndarray) or value.dtype not in (np.uint8, np.int8) or value.ndim != 1:
            raise self.wrong(key, f"is {_shown(value)}, expected an array of bytes")
        return value.tobytes()


def _is_unicode(value: str) -> bool:
    """Whether it is text that UTF-8 can hold: bytes that were none come as half surrogate pairs from some readers."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    """``value`` in a few words, however large it is."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype.name}"
    if isinstance(value, (str, bytes)):
        return repr(value[:60])
    if isinstance(value, (bool, int, float, np.generic)):
        return repr(value if not isinstance(value, np.generic) else value.item())[:60]
    if hasattr(value, "__len__"):
        return "an array"
    return f"a {type(value).__name__}"
