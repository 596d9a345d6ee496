# SPDX-License-Identifier: MIT
"""Columns of a Parquet file in batches, through pyarrow, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .arrowvalues import ArrowColumn
from .parquetlib import arrow_errors, pyarrow_parquet
from .rows import Reader, Rows, Wanted

__all__ = ["ParquetReader"]

_BATCH_ROWS = 4096
_BATCH_BYTES = 1 << 20
_BUFFER = 1 << 20  # what is read of a column at a time, so that a group of rows of any size fits


class ParquetReader(Reader):
    """The columns that are wanted; no others are read. Those that are only carried along stay as they are.

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
            for column in wanted.texts:
                if arrow.types.is_null(self.types[column]):  # --on-null empty makes texts of them
                    self.types[column] = arrow.string()
        except BaseException:
            self._stream.close()
            raise
        self._as_python = {*wanted.texts, *wanted.lists}
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
        columns = {name: batch.column(name) for name in self._names}
        wrong, count = self._wrong(columns), batch.num_rows
        if wrong is not None:
            wrong = f"{self.where(first)}, or one after it: {wrong}"
            for index in range(count):
                one = self._wrong({name: self._alone(column, index) for name, column in columns.items()})
                if one is not None:
                    wrong, count = f"{self.where(first + index)}: {one}", index
                    break
        if count and (wrong is None or count < batch.num_rows):
            kept: dict[str, Any] = {name: ArrowColumn(column)[:count] for name, column in columns.items()}
            for name in self._as_python:
                kept[name] = kept[name].array.to_pylist()
            yield Rows(range(first, first + count), kept)
        if wrong is not None:
            raise ValueError(wrong)

    def _wrong(self, columns: dict[str, Any]) -> str | None:
        """What is wrong with the values of some rows, in words; text that is not UTF-8 above all."""
        for name, column in columns.items():
            try:
                column.validate(full=True)
            except self._arrow.ArrowInvalid as error:
                text = " ".join(str(error).split())
                return f"{name!r} is not UTF-8" if "UTF8" in text else f"{name!r} is damaged: {text[:200]}"
        return None

    def _alone(self, column: Any, index: int) -> Any:
        """One value without what is beside it, which would be looked at too."""
        one = ArrowColumn(column)[index].array
        return one.dictionary_decode() if self._arrow.types.is_dictionary(one.type) else one

    def position(self) -> tuple[int, int | None]:
        """In rows."""
        return self._done, self._rows

    def close(self) -> None:
        """Closes the file."""
        with arrow_errors(self.name):
            self._file.close()
        self._stream.close()
