# SPDX-License-Identifier: MIT
"""The mapping every format is read into: names to read-only arrays, with the dtype the file says."""

from __future__ import annotations

import math
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .errors import WeightFileError

__all__ = ["ARRAY_DTYPES", "BLOCK_DTYPES", "BlockDtype", "TensorInfo", "WeightFile", "check_shape"]

ARRAY_DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
    # NumPy has no type for these: their bits come as unsigned integers.
    "BF16": np.dtype("<u2"),
    "F8_E4M3": np.dtype(np.uint8),
    "F8_E5M2": np.dtype(np.uint8),
    "F8_E8M0": np.dtype(np.uint8),
    "F8_E4M3FNUZ": np.dtype(np.uint8),
    "F8_E5M2FNUZ": np.dtype(np.uint8),
}
"""NumPy type in which a tensor of each dtype name is handed out."""


class BlockDtype(NamedTuple):
    """A type of quantised blocks, which rows of GGUF files consist of."""

    code: int
    """Its number in GGUF files, and in C."""
    elements: int
    """Elements of one block; a row is a multiple of it."""
    nbytes: int
    """Bytes of one block."""


BLOCK_DTYPES: Mapping[str, BlockDtype] = {
    "Q4_0": BlockDtype(2, 32, 18),
    "Q4_1": BlockDtype(3, 32, 20),
    "Q5_0": BlockDtype(6, 32, 22),
    "Q5_1": BlockDtype(7, 32, 24),
    "Q8_0": BlockDtype(8, 32, 34),
    "Q2_K": BlockDtype(10, 256, 84),
    "Q3_K": BlockDtype(11, 256, 110),
    "Q4_K": BlockDtype(12, 256, 144),
    "Q5_K": BlockDtype(13, 256, 176),
    "Q6_K": BlockDtype(14, 256, 210),
    "IQ4_NL": BlockDtype(20, 32, 18),
    "IQ4_XS": BlockDtype(23, 256, 136),
    "MXFP4": BlockDtype(39, 32, 17),
}
"""Types whose tensors are handed out as bytes, uint8 (..., bytes of a row)."""

_MAX_DIMS = 32
_MAX_BYTES = 2**63 - 1


def check_shape(shape: tuple[int, ...], itemsize: int) -> int:
    """Bytes of a tensor of ``shape``; ``ValueError`` for more dimensions or bytes than an array can have.

    A dimension of 0 does not excuse the others: their product has to fit as well.
    """
    if len(shape) > _MAX_DIMS:
        raise ValueError(f"{len(shape)} dimensions, more than {_MAX_DIMS}")
    if any(n < 0 for n in shape):
        raise ValueError(f"shape {list(shape)} has a negative dimension")
    if itemsize * math.prod(n for n in shape if n) > _MAX_BYTES:
        raise ValueError(f"shape {list(shape)} overflows 63 bits")
    return itemsize * math.prod(shape)


def _widened(array: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Read-only float32 of the elements of a tensor of one of the types ``WeightFile.floats``."""
    if dtype == "F32":
        return array
    if dtype == "F16":
        wide = array.astype(np.float32)
    else:
        bits = array.astype(np.uint32)
        bits <<= np.uint32(16)
        wide = bits.view(np.float32)
    wide.flags.writeable = False
    return wide


class TensorInfo(NamedTuple):
    """What a file says about one tensor, known without reading its data."""

    dtype: str
    """Name of the element type: a key of ``ARRAY_DTYPES``, as the safetensors format spells it, or of
    ``BLOCK_DTYPES``."""
    shape: tuple[int, ...]
    """Elements, also of blocks."""
    file: Path
    """The file that holds the data (a shard, where the weights are sharded)."""

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        block = BLOCK_DTYPES.get(self.dtype)
        if block is not None:
            return math.prod(self.shape) // block.elements * block.nbytes
        return ARRAY_DTYPES[self.dtype].itemsize * math.prod(self.shape)


class WeightFile(Mapping[str, np.ndarray[Any, Any]], ABC):
    """Read-only mapping from tensor names to NumPy arrays, whatever the format of the file.

    ``weights[name]`` is read-only. From a ``.safetensors`` or ``.gguf`` file it is a view of the memory-mapped file:
    nothing is copied, the pages are shared by every process that maps the file, and the mapping lives as long as any
    array made from it. From an ``.npz`` file it is read (and unpacked) afresh at each access.

    bfloat16 data comes as its bits in ``uint16`` (NumPy has no such type); ``dtype(name)`` says ``"BF16"``, and
    ``as_float32(name)`` widens it.

    Example
    -------
    >>> weights = fastattn.open_weights("model.safetensors")        # doctest: +SKIP
    >>> weights.dtype("encoder.layer.0.output.dense.weight")        # doctest: +SKIP
    'BF16'
    >>> weights.as_float32("encoder.layer.0.output.dense.weight")   # doctest: +SKIP
    """

    format: ClassVar[str] = ""
    """"gguf" where names and values are those of that format; "" where they are those of Hugging Face checkpoints."""

    floats: ClassVar[tuple[str, ...]] = ("F32", "F16", "BF16")
    """The dtypes that ``as_float32`` takes."""

    def __init__(self, path: Path, infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> None:
        self._path = path
        self._infos = dict(infos)
        self._metadata = dict(metadata)

    @property
    def path(self) -> Path:
        """The file or folder that was opened."""
        return self._path

    @property
    def metadata(self) -> Mapping[str, str]:
        """The free text entries of the file (``__metadata__`` of safetensors, ``general.*`` of GGUF); empty where there
        are none."""
        return self._metadata

    def info(self, name: str) -> TensorInfo:
        """Dtype, shape and file of tensor ``name``, without touching its data. ``KeyError`` if there is none."""
        try:
            return self._infos[name]
        except KeyError:
            raise KeyError(f"{self._path}: no tensor named {name!r}") from None

    def dtype(self, name: str) -> str:
        """Dtype of tensor ``name`` as the file says, for example ``"F32"``, ``"BF16"`` or ``"Q4_K"``."""
        return self.info(name).dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of tensor ``name``, without touching its data."""
        return self.info(name).shape

    def shown(self, name: str) -> str:
        """What messages call the tensor ``name``, which need not be there: what it is called in the file."""
        return name

    def fingerprint(self) -> str:
        """Digits that tell this file from another, and weights from those of a later training: of its header and of
        samples of its data. It is no checksum of all of it.
        """
        text = repr([(name, info.dtype, info.shape) for name, info in self._infos.items()])
        return f"{zlib.crc32(text.encode('utf-8', 'backslashreplace'), self._sample()):08x}"

    def _sample(self) -> int:
        """A checksum of some of the data."""
        return 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Opened again by its path, where the same file has to be."""
        from . import reopen

        return reopen, (os.path.abspath(self._path), self.fingerprint())

    @abstractmethod
    def _read(self, name: str) -> np.ndarray[Any, Any]:
        """Array of the tensor ``name``, which exists."""

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        self.info(name)
        return self._read(name)

    def as_float32(self, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Tensor ``name`` as a read-only float32 array: F32 as it lies, F16 and BF16 widened (which is exact).

        Raises
        ------
        KeyError
            There is no such tensor.
        WeightFileError
            The tensor has another dtype; nothing is narrowed in silence.
        """
        dtype = self._widened_dtype(name)
        return _widened(self._read(name), dtype)

    def _widened_dtype(self, name: str) -> str:
        info = self.info(name)
        if info.dtype not in WeightFile.floats:
            raise WeightFileError(f"{info.file}: tensor {name!r} has dtype {info.dtype}, expected F32, F16 or BF16")
        return info.dtype

    def row_reader(self, name: str) -> Callable[[int, int], np.ndarray[Any, np.dtype[np.float32]]]:
        """What reads rows ``start`` to ``stop`` of the tensor ``name`` as float32: a part of what ``as_float32`` gives.

        Of a tensor of more than two dimensions all but the last count rows. For whoever needs all of a large tensor,
        but not at once.
        """
        dtype = self._widened_dtype(name)
        stored = self._read(name)
        if stored.ndim > 2:
            stored = stored.reshape(math.prod(stored.shape[:-1]), stored.shape[-1])
        return lambda start, stop: _widened(stored[start:stop], dtype)

    def block_reader(self, name: str) -> Callable[[int, int], np.ndarray[Any, np.dtype[np.uint8]]] | None:
        """What reads rows ``start`` to ``stop`` of a tensor of one of the ``BLOCK_DTYPES`` as the bytes of its blocks.

        uint8 (stop - start, bytes of a row). None for any other tensor, and where rows are not blocks of their own.
        """
        return None

    def forget(self, name: str) -> None:
        """The tensor ``name`` has been read for good: memory that can be had again from the file may go."""

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self._path)!r}: {len(self)} tensors>"
