# SPDX-License-Identifier: MIT
"""A file that has its name only when it is complete; what an interrupted job has written is kept beside it."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import PurePath
from types import TracebackType
from typing import Any, ClassVar

from .interrupt import OUTPUTS, WRITING

__all__ = ["FileWriter", "partial_name", "write_all"]


def partial_name(path: str) -> str:
    """Where what an interrupted job has written of `path` is kept: the same suffix, so that everything reads it.

    >>> partial_name("results/vectors.npy")
    'results/vectors.partial.npy'
    """
    pure = PurePath(path)
    return str(pure.with_name(f"{pure.stem}.partial{pure.suffix}"))


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Writes the whole of `data`.

    Raises:
        OSError: not all of it could be written.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


class FileWriter(ABC):
    """Columns of rows into a regular file, as a context manager.

    While it is written, the file is ``NAME.PID.partial``. At the end it gets its name, and replaces at once what was
    there before. After a failure or an interrupt it gets the name of :func:`partial_name`, unless it holds nothing.

    Raises:
        ValueError: the name is that of something other than a regular file.
        OSError: the file cannot be written; the message has the name that was given.
    """

    what: ClassVar[str]
    """The format, for messages."""

    def __init__(self, path: str) -> None:
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError(f"{path}: not a regular file, a {self.what} file cannot be written there")
        self._given = path
        self._path = os.path.realpath(path)
        self._partial = f"{self._path}.{os.getpid()}.partial"
        try:
            self.descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise type(error)(error.errno, error.strerror, path) from None
        OUTPUTS[self] = None

    @abstractmethod
    def write(self, columns: Mapping[str, Any]) -> None:
        """Appends rows, of which each column has as many; arrays of numbers, or lists."""

    @abstractmethod
    def finish(self) -> int:
        """Makes what has been written a valid file and closes the descriptor; how many rows it has. Called once."""

    def keep(self) -> str | None:
        """Finishes the file as it is, under the name of what is not complete. Where it is now, in words.

        Nothing is raised: this is what is done about an error. The caller holds WRITING.
        """
        if self not in OUTPUTS:
            return None
        try:
            rows = self._finish()
            if not rows:
                os.unlink(self._partial)
                return None
            os.replace(self._partial, partial_name(self._path))
        except (OSError, ValueError) as error:
            return f"what was written is in {self._partial}, perhaps damaged ({error})"
        return f"{self._given} is not complete; {rows} rows that were done are in {partial_name(self._given)}"

    def _finish(self) -> int:
        OUTPUTS.pop(self, None)
        return self.finish()

    def _complete(self) -> None:
        try:
            self._finish()
            os.replace(self._partial, self._path)
        except BaseException as error:
            error.add_note(f"what was written is in {self._partial}, perhaps damaged")
            raise

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with WRITING:
            if error is None:
                self._complete()
            elif (note := self.keep()) is not None:
                error.add_note(note)
