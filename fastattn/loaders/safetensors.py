# SPDX-License-Identifier: MIT
"""Reader for the safetensors format, on ``mmap`` and ``numpy.frombuffer`` so that no byte of data is copied.

A file is: the header's length (8 bytes, little-endian), the header (a JSON object, padded with spaces), the data. The
header gives each tensor's dtype, shape and byte range within the data. The ranges have to tile the data without hole
or overlap, which leaves no place to hide anything. Format: https://github.com/huggingface/safetensors#format.

The file is not locked. Whoever truncates it while it is mapped takes the pages away from this process (SIGBUS); write
a new file and rename it over the old one instead.
"""

from __future__ import annotations

import errno
import mmap
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from .errors import WeightFileError
from .jsonfile import MAX_JSON_BYTES, parse_json_object, regular_file_size
from .weightfile import ARRAY_DTYPES, TensorInfo, WeightFile, check_shape

__all__ = ["SafetensorsFile"]

_SAMPLES, _SAMPLE_BYTES = 64, 256  # of a fingerprint
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}


class SafetensorsFile(WeightFile):
    """One ``.safetensors`` file, mapped into memory; see ``WeightFile`` for what it offers.

    Raises
    ------
    FileNotFoundError, PermissionError
        As the operating system says.
    MemoryError
        There is no address space for the file; the message names it.
    WeightFileError
        The file is empty, truncated, or its header lies; the message names the file and the field.

    With ``contents``, the bytes of such a file that lies inside another, ``path`` is only what messages call it.
    """

    def __init__(self, path: Path, contents: memoryview | None = None) -> None:
        mapping = _map(path) if contents is None else contents
        size = len(mapping)
        if size < 8:
            raise _foreign(path, bytes(mapping[:8]), f"{size} bytes, too short for the 8-byte header length")
        (header_bytes,) = struct.unpack_from("<Q", mapping)
        if header_bytes > MAX_JSON_BYTES:
            fault = f"header length {header_bytes} is above the limit of {MAX_JSON_BYTES}"
            raise _foreign(path, bytes(mapping[:512]), fault)
        if header_bytes > size - 8:
            fault = f"header length {header_bytes} reaches beyond the file of {size} bytes"
            raise _foreign(path, bytes(mapping[:512]), fault)
        text = bytes(mapping[8 : 8 + header_bytes])
        self._check_header_text(path, text)
        header = parse_json_object(text, f"{path}: header")
        metadata = _check_metadata(header.pop("__metadata__", {}), path)

        infos: dict[str, TensorInfo] = {}
        ranges: dict[str, tuple[int, int]] = {}
        for name, entry in header.items():
            infos[name], ranges[name] = _check_entry(name, entry, path)
        _check_tiling(ranges, size - 8 - header_bytes, path)
        super().__init__(path, infos, metadata)
        self._mapping = mapping
        self._data_start = 8 + header_bytes
        self._ranges = ranges

    def _check_header_text(self, path: Path, text: bytes) -> None:
        """Look at the bytes of the header before they are parsed."""

    def _sample(self) -> int:
        start, size = self._data_start, len(self._mapping) - self._data_start
        checksum = zlib.crc32(self._mapping[8:start])
        for i in range(_SAMPLES):
            at = start + size * i // _SAMPLES
            checksum = zlib.crc32(self._mapping[at : at + _SAMPLE_BYTES], checksum)
        return checksum

    def __reduce__(self) -> tuple[Any, ...]:
        if not isinstance(self._mapping, mmap.mmap):
            raise TypeError(f"{self._path}: weights inside another file are not pickled; open that file again")
        return super().__reduce__()

    def _read(self, name: str) -> np.ndarray[Any, Any]:
        info = self._infos[name]
        dtype = ARRAY_DTYPES[info.dtype]
        begin, end = self._ranges[name]
        raw = np.frombuffer(self._mapping, np.uint8, end - begin, self._data_start + begin)
        if raw.ctypes.data % dtype.itemsize:
            raw = raw.copy()  # the writer did not align the data; kernels need aligned elements
        array = raw.view(dtype).reshape(info.shape)
        array.flags.writeable = False
        return array


def _foreign(path: Path, start: bytes, fault: str) -> WeightFileError:
    """The error for a file that begins with ``start`` and is no safetensors file: with what it is, where that shows."""
    from .hints import foreign_content

    content = foreign_content(start)
    return WeightFileError(f"{path}: {fault}{f': {content}' if content else ''}")


def _map(path: Path) -> mmap.mmap:
    size = regular_file_size(path)
    with open(path, "rb") as file:
        if size < 8:
            raise _foreign(path, file.read(8), f"{size} bytes, too short for the 8-byte header length")
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # of the size the file has by now
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            raise MemoryError(f"{path}: no address space for its {size} bytes") from None


def _check_metadata(value: Any, path: Path) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise WeightFileError(f"{path}: __metadata__ must be an object whose values are strings")
    return value


def _integers(value: Any) -> list[int] | None:
    """``value`` if it is a list of non-negative integers, else None. (JSON's true is a Python int: not here.)"""
    if isinstance(value, list) and all(type(number) is int and number >= 0 for number in value):
        return value
    return None


def _check_entry(name: str, entry: Any, path: Path) -> tuple[TensorInfo, tuple[int, int]]:
    where = f"{path}: tensor {name!r}"
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise WeightFileError(f"{where}: expected an object with dtype, shape and data_offsets alone")
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in ARRAY_DTYPES:
        raise WeightFileError(f"{where}: dtype {dtype!r} is not one of {', '.join(ARRAY_DTYPES)}")
    shape = _integers(entry["shape"])
    if shape is None:
        raise WeightFileError(f"{where}: shape {_short(entry['shape'])} is not a list of non-negative integers")
    offsets = _integers(entry["data_offsets"])
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise WeightFileError(
            f"{where}: data_offsets {_short(entry['data_offsets'])} is not [begin, end] with 0 <= begin <= end"
        )
    begin, end = offsets
    try:
        nbytes = check_shape(tuple(shape), ARRAY_DTYPES[dtype].itemsize)
    except ValueError as error:
        raise WeightFileError(f"{where}: {error}") from None
    if end - begin != nbytes:
        raise WeightFileError(
            f"{where}: data_offsets span {end - begin} bytes, but dtype {dtype} and shape {_short(shape)} need {nbytes}"
        )
    return TensorInfo(dtype, tuple(shape), path), (begin, end)


def _check_tiling(ranges: dict[str, tuple[int, int]], data_bytes: int, path: Path) -> None:
    position = 0
    for name, (begin, end) in sorted(ranges.items(), key=lambda item: item[1]):
        if end > data_bytes:
            raise WeightFileError(
                f"{path}: tensor {name!r}: data_offsets [{begin}, {end}] reach beyond the {data_bytes} bytes of data: "
                "the file is truncated, or its header is damaged"
            )
        if begin != position:
            fault = "overlap the tensor before" if begin < position else f"leave a hole from {position}"
            raise WeightFileError(f"{path}: tensor {name!r}: data_offsets [{begin}, {end}] {fault}")
        position = end
    if position != data_bytes:
        raise WeightFileError(f"{path}: data_offsets end at {position}, but there are {data_bytes} bytes of data")


def _short(value: Any) -> str:
    """``repr(value)`` cut to a length that a message can carry."""
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
