# SPDX-License-Identifier: MIT
"""A .npy file written row by row, its number of rows filled in at the end."""

from __future__ import annotations

import os
import stat
from types import TracebackType

import numpy as np

from .interrupt import UNFINISHED

__all__ = ["NpyWriter"]

_HEADER = 128  # bytes; room for any number of rows


class NpyWriter:
    """Float32 rows of one width into a .npy file (format 1.0), which appears under its name when it is complete.

    Raises:
        OSError: the file cannot be written.
        ValueError: its name is that of something other than a regular file.
    """

    def __init__(self, path: str, width: int) -> None:
        self._path = os.path.realpath(path)
        self._width = width
        self._rows = 0
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError(f"{path}: not a regular file, a .npy file cannot be written there")
        self._partial = f"{self._path}.{os.getpid()}.partial"
        UNFINISHED.add(self._partial)
        try:
            self._file = os.fdopen(os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb")
        except OSError as error:
            raise type(error)(error.errno, error.strerror, path) from None

    def __enter__(self) -> NpyWriter:
        self._file.write(self._header())
        return self

    def write(self, texts: list[str], vectors: np.ndarray) -> None:
        """Appends `vectors` (n, width)."""
        self._file.write(np.ascontiguousarray(vectors, "<f4").data)
        self._rows += len(vectors)

    def _header(self) -> bytes:
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({self._rows}, {self._width}), }}"
        return b"\x93NUMPY\x01\x00" + (_HEADER - 10).to_bytes(2, "little") + text.ljust(_HEADER - 11).encode() + b"\n"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._file:
                if kind is None:
                    self._file.seek(0)
                    self._file.write(self._header())
            if kind is None:
                os.replace(self._partial, self._path)
        finally:
            if os.path.exists(self._partial):
                os.unlink(self._partial)
            UNFINISHED.discard(self._partial)
