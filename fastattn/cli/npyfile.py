# SPDX-License-Identifier: MIT
"""A .npy file written row by row."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .interrupt import WRITING
from .outfile import FileWriter, write_all

__all__ = ["NpyWriter"]

_HEADER = 128  # bytes; room for any number of rows


class NpyWriter(FileWriter):
    """Float32 rows of one width into a .npy file (format 1.0), which appears under its name when it is complete.

    The header is kept at the rows that are there, so that even what is left after a power cut can be read.

    Raises:
        OSError: the file cannot be written.
        ValueError: its name is that of something other than a regular file.
    """

    what = ".npy"

    def __init__(self, path: str) -> None:
        self._width: int | None = None
        self._rows = 0
        super().__init__(path)

    def write(self, columns: Mapping[str, Any]) -> None:
        """Appends the column that is an array (n, width); n may be 0."""
        rows = next(column for column in columns.values() if isinstance(column, np.ndarray) and column.ndim == 2)
        if self._width not in (None, rows.shape[1]):
            raise ValueError(f"rows of {rows.shape[1]} numbers after some of {self._width}: a .npy file has one width")
        with WRITING:
            if self._width is None:
                self._width = rows.shape[1]
                write_all(self.descriptor, self._header())
            write_all(self.descriptor, np.ascontiguousarray(rows, "<f4").data.cast("B") if rows.size else b"")
            self._rows += len(rows)
            os.pwrite(self.descriptor, self._header(), 0)

    def _header(self) -> bytes:
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({self._rows}, {self._width}), }}"
        return b"\x93NUMPY\x01\x00" + (_HEADER - 10).to_bytes(2, "little") + text.ljust(_HEADER - 11).encode() + b"\n"

    def finish(self) -> int:
        """Cuts off what a write that failed may have left of its rows."""
        try:
            os.ftruncate(self.descriptor, _HEADER + 4 * (self._width or 0) * self._rows)
        finally:
            os.close(self.descriptor)
        return self._rows
