# SPDX-License-Identifier: MIT
"""What stands before the data of a GGUF file: fields and the list of tensors, checked to the last number.

A file is: ``GGUF``, its version (u32), the number of tensors and of fields (u64 each), the fields, the tensors, and at
the next multiple of the alignment (``general.alignment``, else 32) the data. A field is a key, a type and a value; a
string has its length (u64) before it, an array its element type (u32) and count (u64). A tensor is a name, the number
of its dimensions (u32), these (u64, the one that lies densest first), its type (u32) and where its data begin, counted
from where all data do. Format: ggml's docs/gguf.md; where llama.cpp reads less than that says, so does this.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from fastattn import _core

from .errors import WeightFileError
from .gguffields import FIELD_TYPES, Field, GgufFields, short
from .weightfile import ARRAY_DTYPES, BLOCK_DTYPES

__all__ = ["MAX_BYTES", "MAX_FIELDS", "MAX_TENSORS", "GgufHeader", "GgufTensor", "read_header"]

MAX_BYTES = 2**30
"""Longest string and longest array (elements); llama.cpp sets the same limits."""
MAX_KEY_BYTES = 2**16 - 1
MAX_NAME_BYTES = 63
MAX_DIMS = 4
MAX_FIELDS = 2**16
"""Most fields; real files have tens."""
MAX_TENSORS = 2**18
"""Most tensors; the largest models have some thousands, or tens of thousands with every expert apart."""

_DEFAULT_ALIGNMENT = 32
_LEAST_FIELD = 8 + 1 + 4 + 1  # bytes: length and one letter of the key, type, value
_LEAST_TENSOR = 8 + 1 + 4 + 4 + 8

# Number in the file -> dtype name, for the types that are read; the blocks have theirs in BLOCK_DTYPES.
_TYPES: Mapping[int, str] = {
    0: "F32", 1: "F16", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16",
    **{block.code: name for name, block in BLOCK_DTYPES.items()},
}  # fmt: skip
_OTHER_TYPES: Mapping[int, str] = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S",
    29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 40: "NVFP4", 41: "Q1_0", 42: "Q2_0",
}  # fmt: skip
_REMOVED_TYPES: Mapping[int, str] = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}  # fmt: skip

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_DIMS = [struct.Struct(f"<{n}QIQ") for n in range(MAX_DIMS + 1)]  # dimensions, type, offset


class GgufTensor(NamedTuple):
    """A tensor as the header has it."""

    dtype: str
    shape: tuple[int, ...]
    """In NumPy's order: the last dimension lies densest."""
    start: int
    """Where its data begin, from the beginning of the file."""
    nbytes: int


class GgufHeader(NamedTuple):
    """What ``read_header`` found."""

    version: int
    alignment: int
    fields: GgufFields
    tensors: Mapping[str, GgufTensor]
    data_start: int


def read_header(path: Path, data: Any) -> GgufHeader:
    """The header of the file whose bytes are ``data`` (a mapping or bytes) and which messages call ``path``.

    Raises
    ------
    WeightFileError
        It is no GGUF file, of a version or byte order that is not read, truncated, or lies; or it has a tensor of a
        type that is not read. The message names the field or tensor.
    """
    return _Reader(path, data).header()


class _Reader:
    """A place in the bytes of a header, and what was read up to it."""

    def __init__(self, path: Path, data: Any) -> None:
        self._path, self._data = path, data
        self._size = len(data)
        self._at = 0

    def _fail(self, fault: str) -> NoReturn:
        raise WeightFileError(f"{self._path}: {fault}")

    def _take(self, count: int, what: str) -> int:
        """Where the next ``count`` bytes begin, which are passed over."""
        start = self._at
        if count > self._size - start:
            self._fail(
                f"{what}: {count} bytes from byte {start} on reach beyond the file of {self._size}: "
                "it is truncated, or its header is damaged"
            )
        self._at = start + count
        return start

    def _u32(self, what: str) -> int:
        return int(_U32.unpack_from(self._data, self._take(4, what))[0])

    def _u64(self, what: str) -> int:
        return int(_U64.unpack_from(self._data, self._take(8, what))[0])

    def _name(self, what: str, limit: int) -> str:
        """A string of 1 to ``limit`` bytes."""
        length = self._u64(f"{what}: length")
        if not 0 < length <= limit:
            self._fail(f"{what}: {length} bytes long, expected 1 to {limit}")
        start = self._take(length, what)
        try:
            return bytes(self._data[start : self._at]).decode("utf-8")
        except UnicodeDecodeError as error:
            self._fail(f"{what}: not UTF-8 at byte {error.start}")

    def header(self) -> GgufHeader:
        version = self._version()
        n_tensors, n_fields = self._u64("number of tensors"), self._u64("number of fields")
        self._check_count("fields", n_fields, _LEAST_FIELD, MAX_FIELDS)
        self._check_count("tensors", n_tensors, _LEAST_TENSOR, MAX_TENSORS)
        entries: dict[str, Field] = {}
        for i in range(n_fields):
            key = self._name(f"key of field {i}", MAX_KEY_BYTES)
            if key in entries:
                self._fail(f"duplicate key {short(key)}")
            entries[key] = self._field(f"field {short(key)}")
        fields = GgufFields(self._path, self._data, entries)
        alignment = self._alignment(fields)
        tensors = self._tensors(n_tensors, alignment)
        data_start = self._at + -self._at % alignment
        placed: dict[str, GgufTensor] = {}
        for name, tensor in tensors.items():
            placed[name] = there = tensor._replace(start=data_start + tensor.start)
            if there.start + there.nbytes > self._size:
                self._fail(
                    f"tensor {short(name)}: its data, {there.nbytes} bytes from byte {there.start} on, reach beyond "
                    f"the file of {self._size}: it is truncated, or its header is damaged"
                )
        return GgufHeader(version, alignment, fields, placed, data_start)

    def _version(self) -> int:
        if bytes(self._data[:4]) != b"GGUF":
            from .hints import foreign_content

            content = foreign_content(bytes(self._data[:512]))
            self._fail(f"no GGUF file: it does not begin with GGUF{f': {content}' if content else ''}")
        self._at = 4
        version = self._u32("version")
        if version and version & 0xFFFF == 0:
            self._fail(f"version {version:#010x}: a GGUF file for big-endian machines, which is not read")
        if version == 1:
            self._fail("version 1 of GGUF is not read (nor by llama.cpp since 2023); versions 2 and 3 are")
        if version not in (2, 3):
            self._fail(f"version {version} of GGUF is not known; versions 2 and 3 are read")
        return version

    def _check_count(self, what: str, count: int, least: int, limit: int) -> None:
        """Before anything is done for that many: they have to fit into what is left, and there is a limit."""
        if count > (self._size - self._at) // least:
            self._fail(f"number of {what}: {count} do not fit into the {self._size - self._at} bytes behind it")
        if count > limit:
            self._fail(f"number of {what}: {count}, expected at most {limit}")

    def _field(self, what: str) -> Field:
        """The value of one field, of which numbers are read and the place of all else is noted."""
        number = self._u32(f"{what}: type")
        kind = FIELD_TYPES.get(number)
        if kind is None:
            self._fail(f"{what}: type {number} is none of 0 to {len(FIELD_TYPES) - 1}")
        if kind.name == "array":
            return self._array(what)
        if kind.struct is None:
            length = self._u64(f"{what}: length")
            if length > MAX_BYTES:
                self._fail(f"{what}: a string of {length} bytes, expected at most {MAX_BYTES}")
            return Field(kind, False, self._take(length, what), length)
        (value,) = kind.struct.unpack_from(self._data, self._take(kind.struct.size, what))
        if kind.name == "bool":
            if value > 1:
                self._fail(f"{what}: {value} for a bool, expected 0 or 1")
            value = bool(value)
        return Field(kind, False, value=value)

    def _array(self, what: str) -> Field:
        number, count = self._u32(f"{what}: element type"), self._u64(f"{what}: count")
        kind = FIELD_TYPES.get(number)
        if kind is None:
            self._fail(f"{what}: element type {number} is none of 0 to {len(FIELD_TYPES) - 1}")
        if kind.name == "array":
            self._fail(f"{what}: an array of arrays, which is not read (nor by llama.cpp)")
        rest = self._size - self._at
        if count > rest // (kind.struct.size if kind.struct else 8):
            self._fail(
                f"{what}: {count} elements do not fit into the {rest} bytes left: the file is truncated or damaged"
            )
        if count > MAX_BYTES:
            self._fail(f"{what}: {count} elements, expected at most {MAX_BYTES}")
        if kind.struct is None:
            ends = np.empty(count + 1, np.int64)
            wrong = _core.string_ends(self._data, self._at, ends)
            if wrong >= 0:
                self._fail(f"{what}: string {wrong} of {count} reaches beyond the file of {self._size} bytes")
            start, self._at = self._at, int(ends[count])
            if self._at - start > MAX_BYTES and int((ends[1:] - ends[:-1]).max()) > MAX_BYTES + 8:
                self._fail(f"{what}: a string of more than {MAX_BYTES} bytes")
            return Field(kind, True, start, count, ends=ends)
        start = self._take(count * kind.struct.size, what)
        if kind.name == "bool":
            other = bytes(self._data[start : self._at]).strip(b"\0\1")
            if other:
                self._fail(f"{what}: {other[0]} among its bools, expected 0 or 1")
        return Field(kind, True, start, count)

    def _alignment(self, fields: GgufFields) -> int:
        if "general.alignment" not in fields:
            return _DEFAULT_ALIGNMENT
        kind, alignment = fields.kind("general.alignment"), fields["general.alignment"]
        if kind != "u32":
            self._fail(f"general.alignment: {kind}, expected u32")
        if alignment == 0 or alignment & (alignment - 1):
            self._fail(f"general.alignment: {alignment}, expected a power of two")
        return int(alignment)

    def _tensors(self, count: int, alignment: int) -> dict[str, GgufTensor]:
        """The list of tensors, ``start`` counted from where the data do, which is not known yet."""
        tensors: dict[str, GgufTensor] = {}
        expected = 0
        for i in range(count):
            name = self._name(f"name of tensor {i}", MAX_NAME_BYTES)
            what = f"tensor {short(name)}"
            if name in tensors:
                self._fail(f"duplicate {what}")
            n_dims = self._u32(f"{what}: number of dimensions")
            if n_dims > MAX_DIMS:
                self._fail(f"{what}: {n_dims} dimensions, expected at most {MAX_DIMS}")
            layout = _DIMS[n_dims]
            *dims, number, start = layout.unpack_from(self._data, self._take(layout.size, what))
            dtype = _TYPES.get(number)
            if dtype is None:
                self._fail(f"{what}: {_unread_type(number)}; read are {', '.join(_TYPES.values())}")
            nbytes = self._bytes_of(what, dims, dtype)
            if start != expected:
                self._fail(f"{what}: data at offset {start}, expected {expected}, behind the tensor before")
            expected += nbytes + -nbytes % alignment
            tensors[name] = GgufTensor(dtype, tuple(reversed(dims)), start, nbytes)
        return tensors

    def _bytes_of(self, what: str, dims: list[int], dtype: str) -> int:
        """Bytes of a tensor, whose dimensions come densest first."""
        block = BLOCK_DTYPES.get(dtype)
        elements, nbytes = (block.elements, block.nbytes) if block else (1, ARRAY_DTYPES[dtype].itemsize)
        count = 1
        for n in dims:
            if not 0 < n < 2**63:
                self._fail(f"{what}: a dimension of {n} among {dims}, expected 1 to {2**63 - 1}")
            count *= n
        if count >= 2**63 or count // elements * nbytes >= 2**63:
            self._fail(f"{what}: dimensions {dims} of {dtype} overflow 63 bits")
        densest = dims[0] if dims else 1
        if densest % elements:
            self._fail(
                f"{what}: {densest} elements in a row, expected a multiple of {elements}, as {dtype} has blocks of"
            )
        return count // elements * nbytes


def _unread_type(number: int) -> str:
    if number in _OTHER_TYPES:
        return f"type {_OTHER_TYPES[number]} is not read"
    if number in _REMOVED_TYPES:
        return f"type {_REMOVED_TYPES[number]} has been removed from GGUF and is not read"
    return f"type {number} is not known"
