# SPDX-License-Identifier: MIT
"""The tensors of a GGUF file as a family's page asks for them.

A page knows names of Hugging Face files. What a converter did on the way into the GGUF file is undone here, exactly:
other names, and rows of queries and keys that were put in another order, so that a head's pairs of rotary dims are
neighbours instead of halves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..loaders.errors import WeightFileError
from ..loaders.gguf import GgufFile
from ..loaders.weightfile import TensorInfo, WeightFile
from .source import Floats

__all__ = ["Converted", "GgufWeights"]


class Converted(NamedTuple):
    """Where a tensor is in the file."""

    name: str
    """What it is called there."""
    heads: int = 0
    """How many heads its rows are, each of pairs one behind the other; 0 for rows that are in their order."""
    first: int = 0
    """Its first row, where several layers lie in one tensor."""
    rows: int | None = None
    """How many rows it has there; None for all."""
    row: bool = False
    """Whether it is a matrix of one row, of which the file may have a vector."""
    fold: str = ""
    """"rows": it is the rows of one matrix for each head, one behind the other; "columns": their columns. Of one head
    the file has a matrix."""
    vector: bool = False
    """Whether it is the row ``first`` by itself."""


class GgufWeights(WeightFile):
    """The tensors of ``file`` under the names of a Hugging Face checkpoint.

    Parameters
    ----------
    file
        The GGUF file.
    tensors
        Name -> where it is. Tensors of the file that are not among them are not seen.
    would_be
        What a tensor that is not there would be called in the file.
    """

    def __init__(self, file: GgufFile, tensors: Mapping[str, Converted], would_be: Callable[[str], str]) -> None:
        infos: dict[str, TensorInfo] = {}
        for name, where in tensors.items():
            infos[name] = info = _part_of(file.info(where.name), where)
            if where.heads and (not info.shape or info.shape[0] % (2 * where.heads)):
                raise WeightFileError(
                    f"{file.path}: tensor {where.name!r} has shape {list(info.shape)}, expected {where.heads} heads "
                    "of pairs"
                )
        super().__init__(file.path, infos, file.metadata)
        self.file = file
        """Where they are from."""
        self._tensors, self._would_be = dict(tensors), would_be

    format = "gguf"
    floats = GgufFile.floats

    def place(self, name: str) -> Converted:
        """Where the tensor ``name`` is in the file, or would be if it were there."""
        return self._tensors.get(name) or Converted(self._would_be(name))

    def __reduce__(self) -> tuple[Any, ...]:
        return GgufWeights, (self.file, self._tensors, self._would_be)

    def fingerprint(self) -> str:
        return self.file.fingerprint()

    def shown(self, name: str) -> str:
        where = self._tensors.get(name)
        return self._would_be(name) if where is None else where.name

    def forget(self, name: str) -> None:
        self.file.release(self._tensors[name].name)

    def _read(self, name: str) -> np.ndarray[Any, Any]:
        where = self._tensors[name]
        rows = self.file[where.name]
        if where.row:
            rows = rows.reshape(1, -1)
        if where.fold:
            rows = _folded(rows, where)
        if where.vector:
            return np.asarray(rows[where.first])
        if where.rows is not None:
            rows = rows[where.first : where.first + where.rows]
        return _halves(rows, where.heads)

    def as_float32(self, name: str) -> Floats:
        info, where = self.info(name), self._tensors[name]
        if where.vector:
            return self.file.row_reader(where.name)(where.first, where.first + 1)[0]
        return self.row_reader(name)(0, info.shape[0])

    def block_reader(self, name: str) -> Callable[[int, int], np.ndarray[Any, np.dtype[np.uint8]]] | None:
        self.info(name)
        where = self._tensors[name]
        read = self.file.block_reader(where.name)
        if read is None or where.row or where.fold or where.vector:
            return None
        return self._turned(name, lambda start, stop: read(where.first + start, where.first + stop))

    def row_reader(self, name: str) -> Callable[[int, int], Floats]:
        self.info(name)
        where = self._tensors[name]
        read_all, origin = self.file.row_reader(where.name), where.first
        if where.row:
            whole = self.file.as_float32(where.name).reshape(1, -1)
            return lambda start, stop: whole[start:stop]
        if where.fold:
            folded = _folded(self.file.as_float32(where.name), where)
            return lambda start, stop: folded[start:stop]

        return self._turned(name, lambda start, stop: read_all(origin + start, origin + stop))

    def _turned(self, name: str, read: Callable[[int, int], Any]) -> Callable[[int, int], Any]:
        """What gives the rows of ``read`` in their order."""
        where = self._tensors[name]
        if not where.heads:
            return read
        size = self._infos[name].shape[0] // where.heads

        def turned(start: int, stop: int) -> Any:
            first, last = start // size, -(-stop // size)
            rows = _halves(read(first * size, last * size), last - first)
            return rows[start - first * size : stop - first * size]

        return turned


def _part_of(info: TensorInfo, where: Converted) -> TensorInfo:
    """The tensor of those rows alone. Where there are fewer of them it is told by a shape that does not fit."""
    if where.row and len(info.shape) == 1:
        return info._replace(shape=(1, *info.shape))
    if where.fold and len(info.shape) in (2, 3):
        heads, *one = (1, *info.shape)[-3:]
        return info._replace(shape=(heads * one[where.fold == "columns"], one[where.fold == "rows"]))
    if where.vector:
        there = len(info.shape) == 2 and where.first < info.shape[0]
        return info._replace(shape=info.shape[1:] if there else (0, *info.shape))
    if where.rows is None or not info.shape:
        return info
    count = max(min(where.rows, info.shape[0] - where.first), 0)
    return info._replace(shape=(count, *info.shape[1:]))


def _folded(stored: np.ndarray[Any, Any], where: Converted) -> np.ndarray[Any, Any]:
    """The rows, or columns, of the matrices of all heads as rows of one."""
    stored = stored.reshape((1, *stored.shape)[-3:])
    heads = stored.swapaxes(1, 2) if where.fold == "columns" else stored
    return np.ascontiguousarray(heads).reshape(-1, heads.shape[2])


def _halves(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of heads of pairs: the first of each pair, then the second of each, head by head."""
    if not heads:
        return rows
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)
