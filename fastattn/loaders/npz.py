# SPDX-License-Identifier: MIT
"""Reader for NumPy's ``.npz``: a zip of ``.npy`` members. Nothing is ever unpickled.

Headers are read when the file is opened, data when it is asked for, so a small zip that would unpack to a huge one
costs nothing until somebody who has looked at the shapes wants it. The ``.npy`` header is parsed here, not by
``numpy.lib.format``: that one is lenient about damage and raises errors of many kinds.
Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import ast
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from .errors import WeightFileError
from .jsonfile import regular_file_size
from .weightfile import ARRAY_DTYPES, TensorInfo, WeightFile, check_shape

__all__ = ["NpzFile"]

# What zipfile and zlib raise for damaged archives (OSError, OverflowError: a seek to where no file can be).
_ZIP_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError,
    ArithmeticError,
)  # fmt: skip

# What ast.literal_eval raises for text that is no literal.
_NO_LITERAL = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)

# Deflate turns a byte into at most 1032; a member that claims more is lying.
_MAX_RATIO = 1032

_MAX_NPY_HEADER = 10_000

_NAMES = {"b1": "BOOL", "u1": "U8", "i1": "I8", "u2": "U16", "i2": "I16", "u4": "U32", "i4": "I32", "u8": "U64",
          "i8": "I64", "f2": "F16", "f4": "F32", "f8": "F64", "c8": "C64"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Npy:
    """A ``.npy`` header."""

    name: str  # of the dtype, as in ARRAY_DTYPES
    big_endian: bool
    fortran_order: bool
    shape: tuple[int, ...]
    nbytes: int


class NpzFile(WeightFile):
    """One ``.npz`` file as ``numpy.savez`` and ``savez_compressed`` write it; see ``WeightFile`` for what it offers.

    Raises
    ------
    FileNotFoundError, PermissionError
        As the operating system says.
    WeightFileError
        Not a zip, damaged, encrypted, a member that is no ``.npy`` array of plain numbers or lies about its size.
    """

    def __init__(self, path: Path) -> None:
        self._members: dict[str, tuple[str, _Npy]] = {}
        infos: dict[str, TensorInfo] = {}
        file_bytes = regular_file_size(path)
        self._checksum = 0
        with _opened(path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                where = f"{path}: member {member.filename!r}"
                if name == member.filename:
                    raise WeightFileError(f"{where}: expected names that end in .npy")
                if name in infos:
                    raise WeightFileError(f"{where}: duplicate name")
                _check_member(member, file_bytes, where)
                with archive.open(member) as file:
                    npy = _read_header(file, member.file_size, where)
                self._members[name] = member.filename, npy
                infos[name] = TensorInfo(npy.name, npy.shape, path)
                self._checksum = zlib.crc32(member.CRC.to_bytes(4, "little"), self._checksum)
        super().__init__(path, infos, {})

    def _sample(self) -> int:
        return self._checksum  # of those that the archive has of its members

    def _read(self, name: str) -> np.ndarray[Any, Any]:
        file_name, npy = self._members[name]
        where = f"{self._path}: member {file_name!r}"
        file_bytes = regular_file_size(self._path)
        with _opened(self._path) as archive:
            try:
                member = archive.getinfo(file_name)
            except KeyError:
                raise WeightFileError(f"{where}: changed since the file was opened") from None
            _check_member(member, file_bytes, where)
            with archive.open(member) as file:
                if _read_header(file, member.file_size, where) != npy:
                    raise WeightFileError(f"{where}: changed since the file was opened")
                data = np.empty(npy.nbytes, np.uint8)
                _read_into(file, data, where)
        dtype = ARRAY_DTYPES[npy.name]
        array = data.view(dtype.newbyteorder(">") if npy.big_endian else dtype)
        array = array.reshape(npy.shape, order="F" if npy.fortran_order else "C")
        array = np.asarray(array, dtype, order="C")
        array.flags.writeable = False
        return array


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive at ``path``; damage met while it is open becomes a WeightFileError."""
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive
        except WeightFileError:
            raise
        except _ZIP_DAMAGE as error:
            raise WeightFileError(f"{path}: not a readable zip file ({error})") from None


def _check_member(member: zipfile.ZipInfo, file_bytes: int, where: str) -> None:
    if member.flag_bits & 0x1:
        raise WeightFileError(f"{where}: encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise WeightFileError(f"{where}: compression method {member.compress_type}, expected stored or deflated")
    if member.compress_size > file_bytes:
        raise WeightFileError(f"{where}: claims {member.compress_size} of the {file_bytes} bytes of the file")
    if member.file_size > member.compress_size * _MAX_RATIO:
        raise WeightFileError(f"{where}: {member.compress_size} bytes cannot unpack to {member.file_size}")


def _read_header(file: IO[bytes], member_bytes: int, where: str) -> _Npy:
    """Read and check the header that ``file`` stands at; what follows it is exactly the data."""
    prefix = file.read(8)
    if len(prefix) < 8 or prefix[:6] != b"\x93NUMPY" or prefix[6] not in (1, 2, 3):
        raise WeightFileError(f"{where}: not a .npy array of version 1, 2 or 3")
    length_format = "<H" if prefix[6] == 1 else "<I"
    length_bytes = file.read(struct.calcsize(length_format))
    if len(length_bytes) < struct.calcsize(length_format):
        raise WeightFileError(f"{where}: truncated")
    (length,) = struct.unpack(length_format, length_bytes)
    if length > _MAX_NPY_HEADER:
        raise WeightFileError(f"{where}: header of {length} bytes, more than {_MAX_NPY_HEADER}")
    text = file.read(length)
    if b"\\" in text:  # no header has one, and Python warns of unknown escapes
        raise WeightFileError(f"{where}: damaged header")
    try:
        header = ast.literal_eval(text.decode("utf-8").strip())
    except _NO_LITERAL:
        raise WeightFileError(f"{where}: damaged header") from None
    if not isinstance(header, dict) or header.keys() != {"descr", "fortran_order", "shape"}:
        raise WeightFileError(f"{where}: header must have descr, fortran_order and shape alone")
    descr, fortran_order, shape = header["descr"], header["fortran_order"], header["shape"]
    if isinstance(descr, str) and descr[1:2] == "O":
        raise WeightFileError(f"{where}: holds pickled Python objects, which are never loaded")
    if not isinstance(descr, str) or descr[:1] not in ("<", ">", "|") or descr[1:] not in _NAMES:
        raise WeightFileError(f"{where}: descr {str(descr)[:100]!r} is not a plain number type of at most 64 bits")
    if type(fortran_order) is not bool:
        raise WeightFileError(f"{where}: fortran_order is not a bool")
    if not isinstance(shape, tuple) or not all(type(n) is int and -1 << 63 <= n < 1 << 63 for n in shape):
        raise WeightFileError(f"{where}: shape is not a tuple of integers that fit 64 bits")
    name = _NAMES[descr[1:]]
    try:
        nbytes = check_shape(shape, ARRAY_DTYPES[name].itemsize)
    except ValueError as error:
        raise WeightFileError(f"{where}: {error}") from None
    data_bytes = member_bytes - 8 - len(length_bytes) - length
    if data_bytes != nbytes:
        raise WeightFileError(
            f"{where}: {data_bytes} bytes of data, but descr {descr!r} and shape {list(shape)} need {nbytes}"
        )
    return _Npy(name, descr[0] == ">", fortran_order and math.prod(shape) > 1, shape, nbytes)


def _read_into(file: IO[bytes], data: np.ndarray[Any, Any], where: str) -> None:
    """Fill ``data`` from ``file`` and see its end, where zipfile compares the checksum."""
    position = 0
    while position < data.nbytes:
        piece = file.read(min(data.nbytes - position, 1 << 20))
        if not piece:
            raise WeightFileError(f"{where}: truncated")
        data[position : position + len(piece)] = np.frombuffer(piece, np.uint8)
        position += len(piece)
    if file.read(1):
        raise WeightFileError(f"{where}: bytes behind the array")
