# SPDX-License-Identifier: MIT
"""Files beside an output that hold its rows until the types of its columns are known."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from .parquetlib import pyarrow_parquet

__all__ = ["Beside", "Spool"]

_NO_NEW_FILES = (errno.EACCES, errno.EPERM, errno.EROFS)
_LONGEST_STEM = 224  # bytes of a name: 255, and what follows is up to 25 longer
_PIECE = 1 << 22
_PIECES_AT_ONCE = 16


class _Whole(io.FileIO):
    """A file without a buffer that takes all it is given or raises the system's error."""

    def write(self, data: Any, /) -> int:
        """Writes the whole of `data`."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest:
            rest = rest[super().write(rest) or 0 :]
        return size


class Beside:
    """A new file in the folder of an output, or where that takes no new files in the system's folder for such files.

    Its name is one that nobody can foresee, and no file or link that is there is followed or replaced.

    Args:
        path: of the output.

    Raises:
        OSError: there can be no new file.
    """

    def __init__(self, path: str) -> None:
        folder, name = os.path.split(os.path.realpath(path))
        stem = os.fsdecode(os.fsencode(name)[:_LONGEST_STEM])
        try:
            descriptor = self._create(folder, stem)
        except OSError as error:
            if error.errno not in _NO_NEW_FILES:
                raise
            descriptor = self._create(tempfile.gettempdir(), stem)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.file = _Whole(descriptor, "r+b")

    def _create(self, folder: str, stem: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        while True:
            self.path = os.path.join(folder, f"{stem}.{os.getpid()}-{os.urandom(4).hex()}.partial")
            try:
                return os.open(self.path, flags, 0o600)
            except FileExistsError:
                continue

    def fill(self, descriptor: int) -> Iterator[None]:
        """Copies the file of a descriptor from its start, in pieces; leaves the descriptor's place as it is."""
        source = _readable(descriptor)
        try:
            offset = 0
            while piece := os.pread(source, _PIECE, offset):
                self.file.write(piece)
                offset += len(piece)
                if offset % (_PIECES_AT_ONCE * _PIECE) == 0:
                    yield
        finally:
            if source != descriptor:
                os.close(source)

    def remove(self) -> None:
        """Closes and removes it."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        self.file.close()


def _readable(descriptor: int) -> int:
    try:
        os.pread(descriptor, 1, 0)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)  # one that can only be written
    return descriptor


class Spool:
    """Tables of one schema, written one after the other and then read in that order, in an Arrow stream on disk."""

    def __init__(self, path: str, schema: Any) -> None:
        arrow, _ = pyarrow_parquet()
        self._arrow = arrow
        self.beside = Beside(path)
        try:
            options = arrow.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
            self._writer = arrow.ipc.new_stream(self.beside.file, schema, options=options)
        except BaseException:
            self.beside.remove()
            raise

    def write(self, table: Any) -> None:
        """Appends a table; its batches stay as they are. After an error there are those before it."""
        end = self.beside.file.tell()
        try:
            self._writer.write_table(table)
        except BaseException:
            self.beside.file.truncate(end)
            self.beside.file.seek(end)
            raise

    def end(self) -> None:
        """Nothing more comes."""
        self._writer.close()

    def batches(self) -> Iterator[Any]:
        """What was written."""
        source = io.BufferedReader(io.FileIO(self.beside.file.fileno(), "rb", closefd=False), _PIECE)
        source.seek(0)
        options = self._arrow.ipc.IpcReadOptions(use_threads=False)
        with self._arrow.ipc.open_stream(source, options=options) as reader:
            yield from reader
