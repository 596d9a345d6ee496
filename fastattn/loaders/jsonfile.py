# SPDX-License-Identifier: MIT
"""Strict reading of the JSON that comes with weights: headers, indexes, configurations."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from .errors import WeightFileError

__all__ = ["MAX_JSON_BYTES", "parse_json_object", "read_json_object", "regular_file_size"]

MAX_JSON_BYTES = 100_000_000
"""Longest JSON text that is parsed; the safetensors format sets the same limit for its header."""


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


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
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
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse_json_object(data: bytes, source: str) -> dict[str, Any]:
    """Parse ``data`` as one JSON object, refusing duplicate keys, NaN and text that is not UTF-8.

    ``source`` opens the message of the ``WeightFileError`` that is raised for anything else.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise WeightFileError(f"{source}: not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise WeightFileError(f"{source}: JSON is nested too deeply") from None
    except ValueError as error:
        from .hints import foreign_content

        raise WeightFileError(f"{source}: not valid JSON ({foreign_content(data) or error})") from None
    if not isinstance(value, dict):
        raise WeightFileError(f"{source}: expected a JSON object, got {type(value).__name__}")
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """Read the file ``path`` as one JSON object; see ``parse_json_object`` for what is refused."""
    size = regular_file_size(path)
    if size > MAX_JSON_BYTES:
        raise WeightFileError(f"{path}: {size} bytes of JSON, more than the limit of {MAX_JSON_BYTES}")
    with open(path, "rb") as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise WeightFileError(f"{path}: more than {MAX_JSON_BYTES} bytes of JSON")
    return parse_json_object(data, str(path))
