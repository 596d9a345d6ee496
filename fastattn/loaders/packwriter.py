# SPDX-License-Identifier: MIT
"""Writer of packed files, which ``packed`` describes: a file appears under its name when it is complete, or never."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .newfile import NewFile, named_errors, names_a_descriptor
from .packed import ALIGNMENT, FILE, PAD, all_finite, file_crc, header_crc, header_start, is_packed
from .weightfile import ARRAY_DTYPES

__all__ = ["check_target", "dtype_name", "write_packed"]

_Bytes = np.ndarray[Any, np.dtype[np.uint8]]
_NAMES: dict[np.dtype[Any], str] = {}
for _name, _dtype in ARRAY_DTYPES.items():
    _NAMES.setdefault(_dtype, _name)  # bits of types NumPy does not know come later
_PIECE = 1 << 24  # bytes of a write: at multiples of its size in the file, so that the page cache can hold huge pages


def dtype_name(array: np.ndarray[Any, Any]) -> str:
    """How a packed file spells the dtype of ``array``; ``TypeError`` if it has no place for such elements."""
    name = _NAMES.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise TypeError(f"arrays of {array.dtype} cannot be packed")
    return name


def write_packed(
    target: Path,
    tensors: Mapping[str, np.ndarray[Any, Any]],
    files: Mapping[str, bytes],
    metadata: Mapping[str, str],
    *,
    dtypes: Mapping[str, str] | None = None,
    check: Callable[[Path], None] | None = None,
    unfinished: set[str] | None = None,
    source: Path | None = None,
) -> None:
    """Write the packed file ``target``, all of it or nothing.

    It is written beside ``target`` under another name, brought to the disk, and renamed, as ``newfile`` says. An
    exception of any kind, KeyboardInterrupt too, leaves what was there before.

    Parameters
    ----------
    target
        The file. A packed file that is there already is replaced; workers that have it mapped keep what they have.
    tensors
        ``KEY/PART`` -> array, in the order in which they shall lie.
    files
        Relative name -> content of the small files.
    metadata
        Entries of ``__metadata__`` besides those that ``packed`` makes itself.
    dtypes
        Names for elements that NumPy has no type for: ``"BF16"`` for uint16.
    check
        Called with the name of the complete file before it is renamed; what it raises is raised.
    unfinished
        A set that holds the temporary name as long as there may be a file of that name.
    source
        The file that messages about tensors name.

    Raises
    ------
    ValueError
        A tensor has NaN or infinity, or ``target`` is there and is no packed file.
    OSError
        ``target`` cannot be written.
    """
    target = Path(os.path.realpath(target))
    check_target(target, unfinished)
    raw, entries, sums = _lay_out(tensors, files, dtypes or {}, "" if source is None else f"{source}: ")
    file_sums = json.dumps({name: file_crc(content) for name, content in files.items()}, separators=(",", ":"))
    header = _header(entries, {**metadata, "files_crc32": file_sums, "sha256": "".join(sums)})
    new = NewFile(str(target), in_place=False, noting=unfinished)
    try:
        with named_errors(str(target)):
            for piece in _pieces([np.frombuffer(header, np.uint8), *raw]):
                _write_all(new.descriptor, piece)
        new.sync()
        if check is not None:
            assert new.temporary is not None
            check(Path(new.temporary))
        new.replace()
    finally:
        new.discard()


def check_target(target: Path, unfinished: set[str] | None = None) -> None:
    """Errors of what cannot become a packed file, before anything is computed.

    ``unfinished``: where names of temporary files are noted, for programs that end without unwinding.

    Raises
    ------
    ValueError
        There is something that is no packed file: a slip of the fingers must not cost a checkpoint.
    OSError
        The folder takes no new file, or the file cannot be replaced. It is not written over as other outputs are:
        workers may have it mapped.
    """
    if names_a_descriptor(str(target)):
        raise ValueError(f"{target}: an open descriptor cannot become a packed file; choose the name of a file")
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(target).st_mode
        if not stat.S_ISREG(mode) or (os.path.getsize(target) and not is_packed(target)):
            raise ValueError(f"{target}: exists and is not a packed file; remove it first, or choose another name")
    NewFile(str(target), in_place=False, noting=unfinished).discard()


def _lay_out(
    tensors: Mapping[str, np.ndarray[Any, Any]], files: Mapping[str, bytes], dtypes: Mapping[str, str], where: str
) -> tuple[list[_Bytes], dict[str, dict[str, Any]], list[str]]:
    """Data in order, padding included; its entries of the header; its SHA-256 sums."""
    raw: list[_Bytes] = []
    entries: dict[str, dict[str, Any]] = {}
    sums: list[str] = []
    position = 0

    def add(name: str, dtype: str, shape: tuple[int, ...], data: _Bytes) -> None:
        nonlocal position
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + data.size]}
        raw.append(data)
        sums.append(hashlib.sha256(data.data).hexdigest())
        position += data.size

    def align() -> None:
        if position % ALIGNMENT:
            size = -position % ALIGNMENT
            add(f"{PAD}{len(entries)}", "U8", (size,), np.zeros(size, np.uint8))

    for name, content in files.items():
        align()
        add(FILE + name, "U8", (len(content),), np.frombuffer(content, np.uint8))
    for name, array in tensors.items():
        if "/" not in name or name.startswith((FILE, PAD)) or name in entries:
            raise ValueError(f"tensor {name!r} cannot be packed under this name")
        dtype = dtypes.get(name) or dtype_name(array)
        if not all_finite(array, dtype):
            raise ValueError(
                f"{where}tensor {name!r} holds NaN or infinity: the weights are damaged, they are not packed"
            )
        align()
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        add(name, dtype, array.shape, little.reshape(-1).view(np.uint8))
    return raw, entries, sums


def _pieces(parts: list[_Bytes]) -> Iterator[memoryview]:
    """What ``parts`` hold one behind the other, in pieces of equal length but for the last."""
    buffer = np.empty(_PIECE, np.uint8)
    filled = 0
    for part in parts:
        start = 0
        while start < part.size:
            count = min(part.size - start, _PIECE - filled)
            buffer[filled : filled + count] = part[start : start + count]
            start, filled = start + count, filled + count
            if filled == _PIECE:
                yield buffer.data
                filled = 0
    yield buffer[:filled].data


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _header(entries: Mapping[str, Mapping[str, Any]], metadata: Mapping[str, str]) -> bytes:
    """The header with its length before it, its checksum inside, and spaces behind it up to the first tensor."""
    rest = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":"))
    text = header_start() + b"," + rest.removeprefix('{"__metadata__":{').encode("ascii")
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    length = len(text).to_bytes(8, "little")
    start = header_start(header_crc(length, text))
    return length + start + text[len(start) :]
