# SPDX-License-Identifier: MIT
"""Strict reading of the JSON that comes with weights: headers, indexes, configurations.

What is read here may come from anybody. Numbers and depth are bounded where the text is parsed, so that no reader of a
key meets an integer that no float can hold, an infinity, or lists that Python cannot print.
"""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from .errors import WeightFileError

__all__ = [
    "MAX_DEPTH", "MAX_DIGITS", "MAX_JSON_BYTES", "parse_json", "parse_json_object", "read_json_object",
    "read_whole", "regular_file_size",
]  # fmt: skip

MAX_JSON_BYTES = 100_000_000
"""Longest JSON text that is parsed; the safetensors format sets the same limit for its header."""
MAX_DIGITS = 40
"""Most digits of an integer: tokenizers without a limit say 10**30, as the 31 digits of the nearest double."""
MAX_DEPTH = 100
"""Most objects and lists inside each other; the tokenizers library reads 127."""


def regular_file_size(path: Path) -> int:
    """Size in bytes of the regular file ``path``.

    Raises
    ------
    FileNotFoundError, PermissionError
        As the operating system says.
    WeightFileError
        ``path`` is a directory, a pipe or a device: opening one of those could block or never end.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise WeightFileError(f"{path}: expected a file, but this is {kind}")
    return status.st_size


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class _Beyond:
    """Stands for a number that is refused, until it is known which key it belongs to."""

    def __init__(self, fault: str) -> None:
        self.fault = fault


class _Parse:
    """The hooks of one parse: numbers beyond all bounds, duplicate keys and half surrogate pairs are refused."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._beyond: _Beyond | None = None  # the first number that is

    def integer(self, text: str) -> int | _Beyond:
        digits = len(text) - text.startswith("-")
        if digits > MAX_DIGITS:
            return self._refused(f"of {digits} digits, expected at most {MAX_DIGITS}")
        return int(text)

    def real(self, text: str) -> float | _Beyond:
        value = float(text)
        return value if math.isfinite(value) else self._refused("beyond what a double can hold")

    def _refused(self, fault: str) -> _Beyond:
        found = _Beyond(fault)
        if self._beyond is None:
            self._beyond = found
        return found

    def object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    raise ValueError(f"duplicate key {key!r}")
                seen.add(key)
        for key in result:
            # JSON escapes can spell half a surrogate pair, which no UTF-8 text may hold.
            if not key.isascii() and any("\ud800" <= letter <= "\udfff" for letter in key):
                raise ValueError(f"key {key!r} holds half a surrogate pair")
        if self._beyond is not None:  # inner objects end first: this is the one that it lies in, or in a list of it
            for key, value in pairs:
                if _has(value, self._beyond):
                    raise WeightFileError(f"{self._source}: {key} is a number {self._beyond.fault}")
        return result

    def finish(self) -> None:
        """Refuse a number that lies in no object."""
        if self._beyond is not None:
            raise WeightFileError(f"{self._source}: a number {self._beyond.fault}")


def _has(value: Any, wanted: _Beyond) -> bool:
    """Whether ``value`` is ``wanted`` or a list that holds it, however deep."""
    rest = [value]
    while rest:
        value = rest.pop()
        if value is wanted:
            return True
        if type(value) is list:
            rest.extend(value)
    return False


def _too_deep(value: Any, data: bytes) -> bool:
    """Whether more than ``MAX_DEPTH`` objects and lists are inside each other in ``value``, which ``data`` spells."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _inside(parent) if type(child) in (dict, list)]
    return bool(level)


def _inside(value: Any) -> Any:
    return value.values() if type(value) is dict else value if type(value) is list else ()


def parse_json(data: bytes, source: str) -> Any:
    """Parse ``data`` as one JSON value.

    Refused are duplicate keys, NaN, text that is not UTF-8, integers of more than ``MAX_DIGITS`` digits, numbers that
    become infinite, and more than ``MAX_DEPTH`` objects and lists inside each other. ``source`` opens the message of
    the ``WeightFileError``.
    """
    parse = _Parse(source)
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=parse.object, parse_constant=_no_constant,
            parse_int=parse.integer, parse_float=parse.real,
        )  # fmt: skip
        parse.finish()
    except WeightFileError:
        raise
    except UnicodeDecodeError as error:
        raise WeightFileError(f"{source}: not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise WeightFileError(f"{source}: JSON is nested too deeply") from None
    except ValueError as error:
        from .hints import foreign_content

        raise WeightFileError(f"{source}: not valid JSON ({foreign_content(data) or error})") from None
    if _too_deep(value, data):
        raise WeightFileError(f"{source}: JSON is nested too deeply: more than {MAX_DEPTH} objects and lists")
    return value


def parse_json_object(data: bytes, source: str) -> dict[str, Any]:
    """``parse_json`` of ``data``, which has to be an object."""
    value = parse_json(data, source)
    if not isinstance(value, dict):
        raise WeightFileError(f"{source}: expected a JSON object, got {type(value).__name__}")
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """Read the file ``path`` as one JSON object; see ``parse_json`` for what is refused."""
    return parse_json_object(read_whole(path), str(path))


def read_whole(path: Path, limit: int = MAX_JSON_BYTES) -> bytes:
    """What the regular file ``path`` holds; ``WeightFileError`` for more than ``limit`` bytes."""
    size = regular_file_size(path)
    if size > limit:
        raise WeightFileError(f"{path}: {size} bytes, more than the limit of {limit}")
    with open(path, "rb") as file:
        data = file.read(size + 1)  # no room for the limit, which is far above what nearly all files hold
    if len(data) > size:
        raise WeightFileError(f"{path}: it grew while it was read")
    return data
