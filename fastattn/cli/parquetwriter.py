# SPDX-License-Identifier: MIT
"""A Parquet file written in groups of rows, through pyarrow."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .arrowvalues import arrow_array
from .interrupt import WRITING
from .jsontypes import JsonColumn, Stored
from .outfile import FileWriter
from .parquetlib import arrow_errors, pyarrow_parquet
from .parquetspool import Beside, Spool

__all__ = ["ParquetWriter"]

_GROUP_BYTES = 32 << 20
_GROUP_ROWS = 1 << 17
_ROWS_AT_ONCE = 4096  # of JSON text that is Python's objects for a moment
_BUFFER = 1 << 20  # what is read of a column at a time


class ParquetWriter(FileWriter):
    """Columns of rows into a Parquet file, which appears under its name when it is complete.

    Vectors are fixed-size lists of float32, numbers of a model float32; columns of a Parquet input keep their types.
    All others get the type that :class:`JsonColumn` finds for all their values, so that how the rows came makes no
    difference. A file has one schema, from its first group of rows on. So a group is written as it comes only as long
    as no later value can make it wrong, and what was written can be read back as it was. From the first group on that
    is not so, rows wait in a file beside the output, with JSON as it was, and all of them are written at the end: once
    more as much room on the disk, and a pass over it. Memory holds one group: 32 MiB or 131072 rows.

    Args:
        path: the file's name in the end.
        types: the types of columns where they are known, as pyarrow's types.

    Raises:
        ImportError: pyarrow is not installed.
        OSError, ValueError: see :class:`FileWriter`; ValueError: a type is none that Parquet has.
    """

    what = "Parquet"

    def __init__(self, path: str, types: Mapping[str, Any] | None = None) -> None:
        self._arrow, self._parquet = pyarrow_parquet()
        self._types = dict(types or {})
        self._check_types()
        super().__init__(path)
        self._sink = os.fdopen(self.descriptor, "wb")
        self._learned: dict[str, JsonColumn] = {}
        self._empty: Mapping[str, Any] | None = None
        self._waiting: list[dict[str, Any]] = []
        self._bytes = 0
        self._waiting_rows = 0
        self._rows = 0
        self._writer: Any = None
        self._schema: Any = None  # of the first rows
        self._written: dict[str, Any] | None = None  # types of learned columns in the file so far
        self._head: Beside | None = None  # what the file was before it is written anew
        self._spool: Spool | None = None
        self._steps: Iterator[None] | None = None
        self._is_rewritten = False

    def _check_types(self) -> None:
        """A type that Parquet has not fails before hours of work."""
        for name, kind in self._types.items():
            with arrow_errors(f"column {name!r} cannot be written to Parquet"):
                self._parquet.ParquetWriter(io.BytesIO(), self._arrow.schema([(name, kind)])).close()

    def write(self, columns: Mapping[str, Any]) -> None:
        """Appends rows; 0 of them make an empty file with the columns they name."""
        rows = len(next(iter(columns.values())))
        with WRITING:
            if not rows:
                self._empty = dict(columns)
                return
            pieces = {name: self._piece(name, column) for name, column in columns.items()}
            self._waiting.append(pieces)
            self._bytes += sum(getattr(piece, "array", piece).nbytes for piece in pieces.values())
            self._waiting_rows += rows
            if self._bytes >= _GROUP_BYTES or self._waiting_rows >= _GROUP_ROWS:
                self._flush()

    def _piece(self, name: str, column: Any) -> Any:
        """What waits of a column: an array of its type in the end, or what its learned type is still to come for."""
        arrow = self._arrow
        if isinstance(column, np.ndarray):
            numbers = np.ascontiguousarray(column, np.float32)
            flat = arrow.array(numbers.reshape(-1), arrow.float32())
            if numbers.ndim == 1:
                return flat
            return arrow.FixedSizeListArray.from_arrays(flat, type=arrow.list_(arrow.float32(), numbers.shape[1]))
        with arrow_errors(f"column {name!r} cannot be written to Parquet"):
            array = arrow_array(column)
            kind = self._types.get(name)
            if array is not None:
                return array if kind in (None, array.type) else array.cast(kind)
            if kind is not None:
                return arrow.array(column, kind)
            if name not in self._learned:
                self._learned[name] = JsonColumn(arrow)
            try:
                return self._learned[name].store(column)
            except (TypeError, ValueError) as error:
                raise ValueError(f"column {name!r} cannot be written to Parquet: {error}") from None

    # ---- groups of rows

    def _flush(self) -> None:
        if not self._waiting:
            return
        types = {name: column.type for name, column in self._learned.items()}
        is_certain = all(column.exact for column in self._learned.values())
        with arrow_errors(self._given):
            if self._spool is None and is_certain and self._written in (None, types):
                self._written = types
                self._to_file(self._table(types))
            else:
                table = self._table(dict.fromkeys(types))
                if self._spool is None:
                    self._spool = Spool(self._given, table.schema)
                self._spool.write(table)
        self._rows += self._waiting_rows
        self._waiting, self._bytes, self._waiting_rows = [], 0, 0

    def _table(self, types: Mapping[str, Any]) -> Any:
        columns = {}
        for name, first in self._waiting[0].items():
            arrays = [pieces[name] for pieces in self._waiting]
            if isinstance(first, Stored):
                arrays = [self._learned[name].array(piece, types[name]) for piece in arrays]
            columns[name] = self._arrow.chunked_array(arrays)
        table = self._arrow.table(columns)
        if self._schema is None:
            self._schema = table.schema
        return table

    def _to_file(self, table: Any) -> None:
        if self._writer is None:
            text = [field.name for field in table.schema if self._arrow.types.is_string(field.type)]
            self._writer = self._parquet.ParquetWriter(
                self._sink, table.schema, compression="zstd", use_dictionary=text, write_statistics=text
            )
        self._writer.write_table(table, row_group_size=_GROUP_ROWS)

    # ---- a file written anew

    def _rewriting(self) -> Iterator[None]:
        """All rows into the file, with the types that hold them all, in steps of a moment each."""
        assert self._spool is not None
        self._spool.end()
        if self._writer is not None:
            self._writer.close()
            self._sink.flush()
            head = Beside(self._given)
            try:
                yield from head.fill(self.descriptor)
            except BaseException:
                head.remove()
                raise
            self._head = head
            self._writer = None
            self._sink.seek(0)
            self._sink.truncate()
        types = {name: column.type for name, column in self._learned.items()}
        for group, stored_types in self._groups():
            arrays: dict[str, list[Any]] = {name: [] for name in self._schema.names}
            for batch in group:
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    if name in types:
                        stored = Stored(column, stored_types[name] is None)
                        arrays[name].append(self._learned[name].array(stored, types[name]))
                    else:  # a reader of Parquet may have made its type a similar one
                        kind = self._schema.field(name).type
                        arrays[name].append(column if column.type == kind else column.cast(kind))
                yield
            self._to_file(self._arrow.table({name: self._arrow.chunked_array(each) for name, each in arrays.items()}))
            yield
        self._is_rewritten = True

    def _groups(self) -> Iterator[tuple[Iterator[Any], Mapping[str, Any]]]:
        """Groups of rows in batches: those of the file, then those beside it; with the types of learned columns."""
        assert self._spool is not None
        if self._head is not None:
            assert self._written is not None
            self._head.file.seek(0)
            file = self._parquet.ParquetFile(self._head.file, buffer_size=_BUFFER, pre_buffer=False)
            for group in range(file.metadata.num_row_groups):
                yield file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], use_threads=False), self._written
        for batch in self._spool.batches():
            starts = range(0, batch.num_rows, _ROWS_AT_ONCE)
            yield (batch.slice(start, _ROWS_AT_ONCE) for start in starts), dict.fromkeys(self._learned)

    def _step(self) -> bool:
        """Does a little of what is left to do before the end; whether something may be left."""
        if self._is_rewritten:
            return False
        if self._steps is None:
            self._flush()
            if self._spool is None:
                return False
            self._steps = self._rewriting()
        with arrow_errors(self._given):
            for _ in self._steps:
                return True
        if self._is_rewritten:
            return False
        raise ValueError("it was not written to its end")

    def _beside(self) -> str:
        assert self._spool is not None
        spool = f"{self._spool.beside.path} (an Arrow stream)"
        if self._head is not None:
            return f"all rows are in {self._head.path} (Parquet) and {spool}"
        return f"{'all rows' if self._writer is None else 'the rows after those'} are in {spool}"

    def _complete(self) -> None:
        while True:
            with WRITING:  # an interrupt falls between two steps, and does the others
                if not self._step():
                    break
        super()._complete()

    def finish(self) -> int:
        """Writes what waits, and the footer."""
        with self._sink:
            self._finish_steps()
            if self._writer is None and not self._rows and self._empty is not None:
                self._to_file(self._no_rows(self._empty))
            if self._writer is not None:
                with arrow_errors(self._given):
                    self._writer.close()
        for name, column in self._learned.items():
            if self._rows and column.type is None:
                print(f"fastattn: {self._given}: column {name!r} is JSON text: it has {column.reason}", file=sys.stderr)
        if self._head is not None:
            self._head.remove()
        if self._spool is not None:
            self._spool.beside.remove()
        return self._rows

    def _finish_steps(self) -> None:
        try:
            while self._step():
                pass
        except (OSError, ValueError) as error:
            if self._writer is not None:
                with contextlib.suppress(OSError, ValueError, self._arrow.ArrowException):
                    self._writer.close()  # what it has is whole at least
                self._writer.is_open = False  # no second try when it is collected
            if self._spool is None:
                raise
            raise ValueError(f"{error}; {self._beside()}") from None

    def _no_rows(self, columns: Mapping[str, Any]) -> Any:
        kinds = {name: self._types.get(name, self._arrow.string()) for name in columns}
        arrays = {
            name: self._piece(name, column) if isinstance(column, np.ndarray) else self._arrow.array([], kinds[name])
            for name, column in columns.items()
        }
        return self._arrow.table(arrays)
