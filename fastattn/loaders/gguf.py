# SPDX-License-Identifier: MIT
"""GGUF files, those of llama.cpp: a mapping from tensor names to what the file has, and the fields beside them.

The file is mapped and nothing is copied; tensors of quantised blocks come as their bytes, and as float32 by C kernels.
A model in several files is opened by the first of them, ``...-00001-of-0000N.gguf``; the others lie beside it.

The file is not locked. Whoever truncates it while it is mapped takes the pages away from this process (SIGBUS); write
a new file and rename it over the old one instead.
"""

from __future__ import annotations

import errno
import math
import mmap
import re
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastattn import _core

from .errors import WeightFileError
from .gguffields import GgufFields, short
from .ggufheader import GgufHeader, GgufTensor, read_header
from .jsonfile import regular_file_size
from .weightfile import ARRAY_DTYPES, BLOCK_DTYPES, TensorInfo, WeightFile

__all__ = ["GgufFile"]

_SHARD = re.compile(r"(.*)-([0-9]{5})-of-([0-9]{5})\.gguf", re.DOTALL)
_SAMPLES, _SAMPLE_BYTES = 64, 256  # of a fingerprint
_Float32 = np.ndarray[Any, np.dtype[np.float32]]


class _Part(NamedTuple):
    """One file, mapped."""

    path: Path
    mapping: mmap.mmap | bytes
    header: GgufHeader


class _Place(NamedTuple):
    """Where a tensor is."""

    part: _Part
    tensor: GgufTensor


class GgufFile(WeightFile):
    """A ``.gguf`` file or the shards of one, mapped into memory; see ``WeightFile`` for what it offers.

    ``fields`` has what the file says of the model and its tokenizer. Shapes are in NumPy's order, out features by in
    features. A tensor of one of the ``BLOCK_DTYPES`` is handed out as its bytes, uint8 (..., bytes of a row), while
    ``shape(name)`` counts elements; ``as_float32(name)`` and ``rows_as_float32(name, start, stop)`` give those.

    Raises
    ------
    FileNotFoundError, PermissionError
        As the operating system says; a shard is missing.
    MemoryError
        There is no address space for the file; the message names it.
    WeightFileError
        The file is truncated, lies, or holds a tensor of a type that is not read; the message names the field or
        tensor. Or it is not the first shard, or the shards do not belong together.

    Example
    -------
    >>> model = fastattn.open_weights("SmolLM2-135M-Instruct.Q4_1.gguf")        # doctest: +SKIP
    >>> model.fields["general.architecture"], model.dtype("token_embd.weight")  # doctest: +SKIP
    ('llama', 'Q4_1')
    >>> model.rows_as_float32("token_embd.weight", 0, 2).shape                  # doctest: +SKIP
    (2, 576)
    """

    format = "gguf"
    floats = (*WeightFile.floats, *BLOCK_DTYPES)

    def __init__(self, path: Path) -> None:
        first = _open_part(path)
        self._parts = [first, *_other_parts(first)]
        self._places: dict[str, _Place] = {}
        infos: dict[str, TensorInfo] = {}
        for part in self._parts:
            for name, tensor in part.header.tensors.items():
                if name in infos:
                    raise WeightFileError(f"{part.path}: tensor {short(name)} is also in {infos[name].file.name}")
                infos[name] = TensorInfo(tensor.dtype, tensor.shape, part.path)
                self._places[name] = _Place(part, tensor)
        _check_total(first, len(infos))
        super().__init__(path, infos, {})
        self._general: dict[str, str] | None = None

    @property
    def fields(self) -> GgufFields:
        """The fields of the file, of the first one where there are several."""
        return self._parts[0].header.fields

    @property
    def version(self) -> int:
        """The version of the format: 2 or 3."""
        return self._parts[0].header.version

    @property
    def metadata(self) -> Mapping[str, str]:
        """The strings among the fields whose key begins with ``general.``.

        Raises
        ------
        WeightFileError
            One of them is not UTF-8.
        """
        if self._general is None:
            kept = self.fields
            self._general = {key: kept[key] for key in kept if key.startswith("general.") and kept.kind(key) == "str"}
        return self._general

    def _sample(self) -> int:
        checksum = 0
        for part in self._parts:
            start, size = part.header.data_start, len(part.mapping)
            with memoryview(part.mapping) as view:
                checksum = zlib.crc32(view[: min(start, size)], checksum)
                for i in range(_SAMPLES):
                    at = start + max(0, size - start) * i // _SAMPLES
                    checksum = zlib.crc32(view[at : at + _SAMPLE_BYTES], checksum)
        return checksum

    def _bytes(self, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        part, tensor = self._places[name]
        return np.frombuffer(part.mapping, np.uint8, tensor.nbytes, tensor.start)

    def _read(self, name: str) -> np.ndarray[Any, Any]:
        info = self._infos[name]
        return _typed(self._bytes(name), info.dtype, info.shape)

    def as_float32(self, name: str) -> _Float32:
        """Tensor ``name`` as a read-only float32 array: F32 as it lies, F16, BF16 and blocks widened by C kernels.

        Elements of blocks are what the ``gguf`` package computes, each product and sum rounded once; a NaN is the
        canonical one.

        Raises
        ------
        KeyError
            There is no such tensor.
        WeightFileError
            The tensor has another dtype; nothing is narrowed in silence.
        """
        info = self.info(name)
        if info.dtype == "F32":
            return self._read(name)
        self._check_wide(name, info)
        out = np.empty(info.shape, np.float32)
        self._widen(self._read(name), info.dtype, out)
        out.flags.writeable = False
        return out

    def rows_as_float32(self, name: str, start: int, stop: int, out: _Float32 | None = None) -> _Float32:
        """Rows ``start`` to ``stop`` of tensor ``name`` as float32 (stop - start, K), the values of ``as_float32``.

        Of a tensor of more than two dimensions all but the last count rows; of one with a single dimension there is
        one row. With ``out``, float32 of that shape and any distance between its rows, they are written there and
        ``out`` is returned. Without it, a new array; or a read-only view of the file for F32.

        Raises
        ------
        KeyError
            There is no such tensor.
        ValueError
            There are no such rows, or ``out`` has another shape, dtype or order.
        WeightFileError
            The tensor has a dtype that ``as_float32`` does not take either.
        """
        info = self.info(name)
        self._check_wide(name, info)
        if not info.shape:
            raise ValueError(f"name: tensor {short(name)} is a single number and has no rows")
        rows = math.prod(info.shape[:-1])
        _check_rows(name, start, stop, rows)
        row = info.nbytes // rows
        part = _typed(self._bytes(name)[start * row : stop * row], info.dtype, (stop - start, info.shape[-1]))
        if out is None:
            if info.dtype == "F32":
                return part
            out = np.empty((stop - start, info.shape[-1]), np.float32)
        elif not isinstance(out, np.ndarray) or out.dtype != np.float32 or out.shape != (stop - start, info.shape[-1]):
            got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
            raise ValueError(f"out: {got}, expected float32 {(stop - start, info.shape[-1])}")
        elif not out.flags.writeable:
            raise ValueError("out: read-only, expected a writable array")
        if info.dtype == "F32":
            out[...] = part
        else:
            self._widen(part, info.dtype, out)
        return out

    def _check_wide(self, name: str, info: TensorInfo) -> None:
        if info.dtype not in self.floats:
            raise WeightFileError(
                f"{info.file}: tensor {short(name)} has dtype {info.dtype}, expected F32, F16, BF16 or quantised blocks"
            )

    def _widen(self, stored: np.ndarray[Any, Any], dtype: str, out: _Float32) -> None:
        block = BLOCK_DTYPES.get(dtype)
        if block is None:
            _core.convert(out, stored)
        else:
            _core.dequantize(out.reshape(-1, out.shape[-1]) if out.ndim != 2 else out, stored.reshape(-1), block.code)

    def row_reader(self, name: str) -> Callable[[int, int], _Float32]:
        self._check_wide(name, self.info(name))
        if len(self._infos[name].shape) == 1:
            whole = self.as_float32(name)
            return lambda start, stop: whole[start:stop]
        return partial(self._rows_once, name)

    def block_reader(self, name: str) -> Callable[[int, int], np.ndarray[Any, np.dtype[np.uint8]]] | None:
        info = self.info(name)
        if info.dtype not in BLOCK_DTYPES or len(info.shape) < 2:
            return None
        rows = self._read(name).reshape(math.prod(info.shape[:-1]), -1)

        def read(start: int, stop: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
            return rows[start:stop]

        return read

    def _rows_once(self, name: str, start: int, stop: int) -> _Float32:
        """Rows that are not read again: what was widened is given back with each piece, or a table would be in memory
        twice."""
        rows = self.rows_as_float32(name, start, stop)
        if self._infos[name].dtype != "F32":
            self.release(name, start, stop)
        return rows

    def release(self, name: str, start: int = 0, stop: int | None = None) -> None:
        """Give back the memory that reading tensor ``name`` took: its pages of the mapping, which are read anew when
        they are needed again. Of its rows ``start`` to ``stop``, where given (rows as ``rows_as_float32`` counts).

        Arrays made from the file stay valid. Where the system offers nothing of the kind, nothing happens.

        Raises
        ------
        KeyError
            There is no such tensor.
        ValueError
            There are no such rows.
        """
        info = self.info(name)
        part, tensor = self._places[name]
        rows = math.prod(info.shape[:-1])
        stop = rows if stop is None else stop
        _check_rows(name, start, stop, rows)
        row = tensor.nbytes // rows
        page = mmap.PAGESIZE
        first = -(-(tensor.start + start * row) // page) * page  # whole pages: the others have neighbours in them
        length = (tensor.start + stop * row) // page * page - first
        advise, advice = getattr(part.mapping, "madvise", None), getattr(mmap, "MADV_DONTNEED", None)
        if length > 0 and advise is not None and advice is not None:
            advise(advice, first, length)


def _typed(raw: np.ndarray[Any, np.dtype[np.uint8]], dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The bytes ``raw`` as a read-only array: elements of ``shape``, or those of blocks that make it up."""
    block = BLOCK_DTYPES.get(dtype)
    if block is not None:
        array: np.ndarray[Any, Any] = raw.reshape(*shape[:-1], shape[-1] // block.elements * block.nbytes)
    else:
        kind = ARRAY_DTYPES[dtype]
        if raw.ctypes.data % kind.itemsize:
            raw = raw.copy()  # general.alignment is below an element; kernels need aligned ones
        array = raw.view(kind).reshape(shape)
    array.flags.writeable = False
    return array


def _check_rows(name: str, start: int, stop: int, rows: int) -> None:
    if not 0 <= start <= stop <= rows:
        raise ValueError(
            f"start, stop: {start} and {stop}, expected 0 <= start <= stop <= {rows}, rows of {short(name)}"
        )


def _open_part(path: Path) -> _Part:
    size = regular_file_size(path)
    mapping: mmap.mmap | bytes
    with open(path, "rb") as file:
        if size == 0:
            mapping = b""  # nothing to map
        else:
            try:
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # of the size the file has by now
            except OSError as error:
                if error.errno != errno.ENOMEM:
                    raise
                raise MemoryError(f"{path}: no address space for its {size} bytes") from None
    return _Part(path, mapping, read_header(path, mapping))


# ---- shards ---------------------------------------------------------------------------------------------------------


def _split(part: _Part, key: str) -> int | None:
    """The number of the field ``split.<key>``, None without one."""
    fields, name = part.header.fields, f"split.{key}"
    if name not in fields:
        return None
    kind = fields.kind(name)
    if kind not in ("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64"):
        raise WeightFileError(f"{part.path}: {name}: {kind}, expected an integer")
    return int(fields[name])


def _other_parts(first: _Part) -> list[_Part]:
    """The files behind the first, each where its name and its fields say it is; none for a whole model in one file."""
    count, path = _split(first, "count") or 0, first.path
    if count in (0, 1):
        return []
    if not 1 < count <= 99999:
        raise WeightFileError(f"{path}: split.count: {count}, expected 0 to 99999")
    named = _SHARD.fullmatch(path.name)
    if named is None or int(named[3]) != count:
        raise WeightFileError(
            f"{path}: split.count: one of {count} files, whose name is expected to end in -00001-of-{count:05d}.gguf"
        )
    number = _split(first, "no")
    if number != 0 or int(named[2]) != 1:
        opened = f"file {int(named[2])}" if int(named[2]) != 1 else f"split.no is {number} in it"
        raise WeightFileError(
            f"{path}: not the first of {count} files ({opened}): open {named[1]}-00001-of-{count:05d}.gguf"
        )
    total, kind = _split(first, "tensors.count"), first.header.fields.get("general.architecture")
    parts = []
    for i in range(1, count):
        # beside the first and nowhere else: no name comes out of a file
        other = path.parent / f"{named[1]}-{i + 1:05d}-of-{count:05d}.gguf"
        try:
            part = _open_part(other)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: split.count: file {i + 1} of {count}, {other.name}, is missing") from None
        found = [_split(part, key) for key in ("no", "count", "tensors.count")]
        for key, got, expected in zip(("no", "count", "tensors.count"), found, (i, count, total), strict=True):
            if got != expected:
                raise WeightFileError(f"{other}: split.{key}: {got}, expected {expected}, as {path.name} makes it")
        if part.header.fields.get("general.architecture", kind) != kind:
            raise WeightFileError(f"{other}: general.architecture: another model than {path.name} has")
        parts.append(part)
    return parts


def _check_total(first: _Part, tensors: int) -> None:
    total = _split(first, "tensors.count")
    if total is not None and total != tensors:
        raise WeightFileError(
            f"{first.path}: split.tensors.count: {total}, but there are {tensors} tensors in all files"
        )
