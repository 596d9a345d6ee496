# SPDX-License-Identifier: MIT
"""The options that say what is written, and the writer they ask for."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .arguments import path
from .source import stem
from .streams import STDOUT

if TYPE_CHECKING:
    from ..loaders.newfile import Leftover
    from .outfile import FileWriter

__all__ = [
    "OUTPUT_NOTE",
    "add_output_options",
    "is_stdout",
    "open_writer",
    "output_format",
    "output_name",
    "tell_leftovers",
]

OUTPUT_NOTE = """\
A file of --output has its name only once it is complete, and the mode of the file that it replaces. After a failure,
Ctrl-C or SIGTERM, what was done is a valid file too, whose name says so: vectors.partial.npy for vectors.npy, or
vectors.partial-2.npy if there is one already. A file that cannot be replaced (a mount of that one file) is written
over at the end, or in place where its folder takes no new files. Standard output has nothing but whole lines.
"""
_MOST_TOLD = 5
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".npy": "npy", ".parquet": "parquet", ".pq": "parquet"}


def add_output_options(parser: argparse.ArgumentParser, npy: str | None = None) -> None:
    """``--output`` and ``--json``, and ``--npy`` where there are rows of numbers, which `npy` names."""
    suffixes = ".jsonl, .npy or .parquet" if npy else ".jsonl or .parquet"
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="JSON lines on stdout (the default)")
    form.add_argument(
        "--output", type=path, metavar="FILE", help=f"write FILE, in the format of its suffix: {suffixes}"
    )
    if npy:
        form.add_argument("--npy", type=path, metavar="FILE", help=f"write {npy} to a .npy file, whatever its suffix")
    parser.set_defaults(npy=None)


def output_format(arguments: argparse.Namespace, formats: tuple[str, ...]) -> str:
    """The format of what is written, one of `formats`; leaves with a usage error where it is none."""
    for option in ("npy", "output"):
        if getattr(arguments, option) == "-":
            arguments.parser.error(f"--{option}: expected a file, - is not one")
        if (compression := stem(getattr(arguments, option) or "")[1]) is not None:
            what = f"--{option}: {getattr(arguments, option)!r}: nothing is written as {compression} data"
            arguments.parser.error(f"{what}; compress the file, or standard output in a pipe")
    if arguments.npy is not None:
        return "npy"
    if arguments.output is None:
        return "jsonl"
    form = _SUFFIXES.get(os.path.splitext(arguments.output)[1].lower())
    if form not in formats:
        expected = ", ".join(f".{name}" for name in formats)
        arguments.parser.error(f"--output: {arguments.output!r} has none of the suffixes {expected}")
    return str(form)


def is_stdout(arguments: argparse.Namespace) -> bool:
    """Whether standard output is what is written to."""
    return arguments.output is None and arguments.npy is None


def output_name(arguments: argparse.Namespace) -> str:
    """What is written to, as messages call it."""
    return str(arguments.npy or arguments.output or STDOUT)


def open_writer(arguments: argparse.Namespace, form: str, types: Mapping[str, Any]) -> Any:
    """The writer, a context manager with ``write(columns)``. A file that cannot be made fails before a model is loaded.

    What other jobs of the same output have left, or are writing, is said on stderr.

    Args:
        form: of :func:`output_format`.
        types: pyarrow's types of columns that are carried along, where they are known.

    Raises:
        OSError, ValueError, ImportError: see the writers.
    """
    if is_stdout(arguments):
        from .jsonlines import JsonLinesOutput

        return JsonLinesOutput()
    from ..loaders.newfile import leftovers

    target = output_name(arguments)
    others = leftovers(target)
    writer = _writer(target, form, types)
    tell_leftovers(target, others)
    if writer.is_in_place and _is_input(arguments, target):
        with writer:
            raise ValueError(f"{target}: it is the input, and it cannot be replaced but only be written in place")
    return writer


def _writer(target: str, form: str, types: Mapping[str, Any]) -> FileWriter:
    if form == "npy":
        from .npyfile import NpyWriter

        return NpyWriter(target)
    if form == "parquet":
        from .parquetwriter import ParquetWriter

        return ParquetWriter(target, types)
    from .jsonlines import JsonLinesFile

    return JsonLinesFile(target)


def _is_input(arguments: argparse.Namespace, target: str) -> bool:
    given = arguments.input
    if given is None and arguments.text != ["-"]:
        return False
    found = os.stat(target)
    return os.path.samestat(found, os.fstat(0) if given in (None, "-") else os.stat(given))


def tell_leftovers(target: str, others: Sequence[Leftover]) -> None:
    """A line on stderr for each temporary file of other jobs for `target`; of many, for some."""
    for other in others[:_MOST_TOLD]:
        place = os.path.join(os.path.dirname(target), os.path.basename(other.path))
        what = f"{place} ({_size(other.size)}, last written {_age(other.seconds)} ago)"
        if other.live:
            text = f"another job writes it too, in {what}; the one that ends last stays"
        elif other.live is None:
            text = f"another job has left {what}, or still writes it"
        else:
            text = f"a job that was killed has left {what}; nothing uses that"
        print(f"fastattn: {target}: {text}", file=sys.stderr)
    if len(others) > _MOST_TOLD:
        print(f"fastattn: {target}: and {len(others) - _MOST_TOLD} more such files", file=sys.stderr)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count} bytes"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
