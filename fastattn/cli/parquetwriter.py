# SPDX-License-Identifier: MIT
"""A Parquet file written in groups of rows, through pyarrow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .interrupt import WRITING
from .outfile import FileWriter
from .parquetlib import arrow_errors, pyarrow_parquet

__all__ = ["ParquetWriter"]

_GROUP_BYTES = 32 << 20
_GROUP_ROWS = 1 << 17


class ParquetWriter(FileWriter):
    """Columns of rows into a Parquet file, which appears under its name when it is complete.

    Strings, float32, and vectors as fixed-size lists of float32; columns carried along have the types they have in a
    Parquet input, or else those their first group of rows shows. Memory holds one group: 32 MiB or 131072 rows.

    Args:
        path: the file's name in the end.
        types: the types of columns where they are known, as pyarrow's types.

    Raises:
        ImportError: pyarrow is not installed.
        OSError, ValueError: see :class:`FileWriter`.
    """

    what = "Parquet"

    def __init__(self, path: str, types: Mapping[str, Any] | None = None) -> None:
        self._arrow, self._parquet = pyarrow_parquet()
        super().__init__(path)
        self._sink = os.fdopen(self.descriptor, "wb")
        self._types = dict(types or {})
        self._empty: Any = None
        self._tables: list[Any] = []
        self._bytes = 0
        self._waiting = 0
        self._rows = 0
        self._writer: Any = None

    def write(self, columns: Mapping[str, Any]) -> None:
        """Appends rows; 0 of them make an empty file with the columns they name."""
        arrays = {name: self._array(name, column) for name, column in columns.items()}
        table = self._arrow.table(arrays)
        with WRITING:
            if not table.num_rows:  # its types may be guesses
                self._empty = table
                return
            self._tables.append(table)
            self._bytes += table.nbytes
            self._waiting += table.num_rows
            if self._bytes >= _GROUP_BYTES or self._waiting >= _GROUP_ROWS:
                self._flush()

    def _array(self, name: str, column: Any) -> Any:
        arrow = self._arrow
        if isinstance(column, np.ndarray):
            numbers = np.ascontiguousarray(column, np.float32)
            flat = arrow.array(numbers.reshape(-1), arrow.float32())
            if numbers.ndim == 1:
                return flat
            return arrow.FixedSizeListArray.from_arrays(flat, type=arrow.list_(arrow.float32(), numbers.shape[1]))
        kind = self._types.get(name)
        with arrow_errors(f"column {name!r} cannot be written to Parquet"):
            array = arrow.array(column, kind) if column or kind else arrow.array([], arrow.string())
            if arrow.types.is_null(array.type):  # nothing but nulls so far: text is what can still come
                array = array.cast(arrow.string())
        if column:
            self._types[name] = array.type
        return array

    def _flush(self) -> None:
        if not self._tables:
            return
        with arrow_errors(self._given):
            table = self._arrow.concat_tables(self._tables)
        with arrow_errors(self._given):
            if self._writer is None:
                text = [field.name for field in table.schema if self._arrow.types.is_string(field.type)]
                self._writer = self._parquet.ParquetWriter(
                    self._sink, table.schema, compression="zstd", use_dictionary=text, write_statistics=text
                )
            self._writer.write_table(table, row_group_size=_GROUP_ROWS)
        self._rows += table.num_rows
        self._tables, self._bytes, self._waiting = [], 0, 0

    def finish(self) -> int:
        """Writes the last group of rows and the footer."""
        with self._sink:
            if self._writer is None and not self._tables and self._empty is not None:
                self._tables.append(self._empty)
            self._flush()
            if self._writer is not None:
                with arrow_errors(self._given):
                    self._writer.close()
        return self._rows
