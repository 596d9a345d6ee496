# SPDX-License-Identifier: MIT
"""A file that has its name only when it is complete; what an interrupted job has written is kept beside it."""

from __future__ import annotations

import contextlib
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from types import TracebackType
from typing import Any, ClassVar

from ..loaders.newfile import NewFile, named_errors, names_a_descriptor
from .interrupt import OUTPUTS, UNFINISHED, WRITING

__all__ = ["FileWriter", "partial_name", "write_all"]


def partial_name(path: str, number: int = 1) -> str:
    """Where what an interrupted job has written of `path` is kept: the same suffix, so that everything reads it.

    Args:
        number: counts the files of that kind, since none is replaced by another.

    >>> partial_name("results/vectors.npy")
    'results/vectors.partial.npy'
    >>> partial_name("results/vectors.npy", 2)
    'results/vectors.partial-2.npy'
    """
    pure = PurePath(path)
    count = f"-{number}" if number > 1 else ""
    return str(pure.with_name(f"{pure.stem}.partial{count}{pure.suffix}"))


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

    While it is written, the file has another name, as :class:`NewFile` says. At the end it gets its own, and replaces
    at once what was there before. After a failure or an interrupt it gets the name of :func:`partial_name`, unless it
    holds nothing.

    A file that cannot be replaced is written over, at the end if there is room for another file beside it. Without that
    room it is written in place, from :meth:`begin` on, and ends with what was done.

    Raises:
        ValueError: the name is that of something other than a regular file.
        OSError: the file cannot be written; the message has the name that was given.
    """

    what: ClassVar[str]
    """The format, for messages."""

    def __init__(self, path: str) -> None:
        _check_place(path, self.what)
        self._given = path
        self._file = NewFile(path, noting=UNFINISHED)
        self._end: int | OSError | ValueError | None = None  # what finish() returned or raised
        try:
            self.descriptor = os.dup(self._file.descriptor)  # that of the writer, which closes it
        except BaseException:
            self._file.discard()
            raise
        OUTPUTS[self] = None
        if self._file.temporary is not None:
            UNFINISHED.discard(self._file.temporary)

    @property
    def is_in_place(self) -> bool:
        """Whether what is written goes into the file itself at once: the input must not be the same file."""
        return self._file.is_in_place

    def begin(self) -> None:
        """Rows come from now on: nothing that is found out before costs a file that is written in place its content."""
        with WRITING:
            self._file.begin()

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
        OUTPUTS.pop(self)
        file = self._file
        if file.is_in_place:
            return self._keep_in_place()
        temporary = file.temporary
        try:
            rows = self._finish()
            if not rows:
                file.discard()
                return None
            kept = file.keep(_partial_names(file.path))
        except (OSError, ValueError) as error:
            file.leave()
            return f"what was written is in {temporary}, perhaps damaged ({error})"
        beside = os.path.join(os.path.dirname(self._given), os.path.basename(kept))
        if os.path.realpath(beside) == kept:  # no link leads to another folder
            kept = beside
        what = "was being written over and is damaged" if file.overwriting else "is not complete"
        return f"{self._given} {what}; {rows} rows that were done are in {kept}"

    def _keep_in_place(self) -> str | None:
        if not self._file.overwriting:  # its old content is there, and stays
            with contextlib.suppress(OSError, ValueError):
                nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
                os.dup2(nothing, self.descriptor, inheritable=False)
                os.close(nothing)
                self.finish()
            self._file.discard()
            return None
        try:
            rows = self._finish()
        except (OSError, ValueError) as error:
            self._file.leave()
            return f"{self._given} was written in place and is perhaps damaged ({error})"
        self._file.leave()
        return f"{self._given} is not complete; it was written in place and has the {rows} rows that were done"

    def _finish(self) -> int:
        """What finish() returned or raised the only time it was called."""
        if self._end is None:
            try:
                self._end = self.finish()
                if self.is_in_place:  # what was longer before
                    descriptor = self._file.descriptor
                    os.ftruncate(descriptor, min(os.fstat(descriptor).st_size, os.lseek(descriptor, 0, os.SEEK_CUR)))
            except (OSError, ValueError) as error:
                self._end = error
        if not isinstance(self._end, int):
            raise self._end
        return self._end

    def _complete(self) -> None:
        """The steps that may take long do not hold up an interrupt, which keeps the file as that of a failure."""
        with WRITING, named_errors(self._given):
            self._finish()
        self._file.sync()
        with WRITING:
            replaced = self._file.replace()
            if replaced:
                OUTPUTS.pop(self, None)
        if not replaced:
            self._file.overwrite()
            OUTPUTS.pop(self, None)

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._complete()
                return
            except BaseException as failure:
                self._note(failure)
                raise
        self._note(error)

    def _note(self, error: BaseException) -> None:
        with WRITING:
            if (note := self.keep()) is not None:
                error.add_note(note)


def _partial_names(path: str) -> Iterator[str]:
    return (partial_name(path, number) for number in range(1, 10_000))


def _check_place(path: str, what: str) -> None:
    if names_a_descriptor(path):
        raise ValueError(f"{path}: not a regular file but an open descriptor, a {what} file cannot be written there")
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError(f"{path}: not a regular file, a {what} file cannot be written there")
