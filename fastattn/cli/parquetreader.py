# SPDX-License-Identifier: MIT
"""Columns of a Parquet file in batches, through pyarrow, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .parquetlib import arrow_errors, pyarrow_parquet
from .rows import Reader, Rows, Wanted

__all__ = ["ParquetReader"]

_BATCH_ROWS = 4096
_BATCH_BYTES = 1 << 20
_BUFFER = 1 << 20  # what is read of a column at a time, so that a group of rows of any size fits


class ParquetReader(Reader):
    """The columns that are wanted; no others are read.

    Args:
        path: the file, or the descriptor of one that can be read anywhere.
        name: of the input, for messages.
        wanted: the columns.

    Raises:
        ImportError: pyarrow is not installed.
        OSError: the file cannot be read.
        ValueError: it is damaged, has not the columns, or they are not text; names and types are in the message.
    """

    unit = "row"

    def __init__(self, path: str | int, name: str, wanted: Wanted) -> None:
        super().__init__(name)
        arrow, parquet = pyarrow_parquet()
        self._arrow = arrow
        self._stream = open(path, "rb", closefd=isinstance(path, str))  # noqa: SIM115 (close() does)
        try:
            if not self._stream.seekable():
                raise ValueError(f"{name}: a Parquet file is read from its end, and a pipe has none; use --input FILE")
            with arrow_errors(name):
                self._file = parquet.ParquetFile(self._stream, buffer_size=_BUFFER, pre_buffer=False)
                schema = self._file.schema_arrow
            self._names = list(wanted.names)
            self._check(schema, wanted)
            self.types = {column: schema.field(column).type for column in self._names}
        except BaseException:
            self._stream.close()
            raise
        self._rows = self._file.metadata.num_rows
        self._done = 0

    def _check(self, schema: Any, wanted: Wanted) -> None:
        for column in self._names:
            count = schema.names.count(column)
            if count != 1:
                problem = "no column" if count == 0 else "more than one column"
                names = ", ".join(map(repr, schema.names))
                raise ValueError(f"{self.name}: {problem} {column!r}; the file has {names[:300]}")
            kind = schema.field(column).type
            if column in wanted.texts and not self._is_text(kind):
                raise ValueError(f"{self.name}: column {column!r} is of type {kind}, expected strings")
            if column in wanted.lists and not (self._is_list(kind) and self._is_text(kind.value_type)):
                raise ValueError(f"{self.name}: column {column!r} is of type {kind}, expected lists of strings")

    def _is_text(self, kind: Any) -> bool:
        types = self._arrow.types
        if types.is_dictionary(kind):
            kind = kind.value_type
        return types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind) or str(kind) == "string_view"

    def _is_list(self, kind: Any) -> bool:
        types = self._arrow.types
        return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)

    def rows(self) -> Iterator[Rows]:
        """Rows in batches of at most 4096, fewer where they are long."""
        batches = self._batches()
        while True:
            with arrow_errors(f"{self.name}: after row {self._done}"):
                batch = next(batches, None)
            if batch is None:
                return
            first = self._done + 1
            self._done += batch.num_rows
            yield from self._decoded(batch, first)

    def _batches(self) -> Iterator[Any]:
        """Batches of each group of rows, sized by the mean size of its rows."""
        for group in range(self._file.metadata.num_row_groups):
            meta = self._file.metadata.row_group(group)
            size = sum(
                meta.column(index).total_uncompressed_size
                for index in range(meta.num_columns)
                if meta.column(index).path_in_schema.split(".")[0] in self._names
            )
            rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES * meta.num_rows // max(1, size)))
            yield from self._file.iter_batches(rows, row_groups=[group], columns=self._names, use_threads=False)

    def _decoded(self, batch: Any, first: int) -> Iterator[Rows]:
        if not batch.num_rows:
            return
        try:
            columns = {name: batch.column(name).to_pylist() for name in self._names}
        except UnicodeDecodeError:
            for index in range(batch.num_rows):
                try:
                    for name in self._names:
                        batch.column(name)[index].as_py()
                except UnicodeDecodeError as error:
                    if index:
                        yield from self._decoded(batch.slice(0, index), first)
                    raise ValueError(f"{self.where(first + index)}: {name!r} is not UTF-8: {error.reason}") from None
            raise
        yield Rows(range(first, first + batch.num_rows), columns)

    def position(self) -> tuple[int, int | None]:
        """In rows."""
        return self._done, self._rows

    def close(self) -> None:
        """Closes the file."""
        with arrow_errors(self.name):
            self._file.close()
        self._stream.close()
