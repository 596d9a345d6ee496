# SPDX-License-Identifier: MIT
"""The options that say what is written, and the writer they ask for."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

__all__ = ["OUTPUT_NOTE", "add_output_options", "is_stdout", "open_writer", "output_format"]

OUTPUT_NOTE = """\
A file of --output has its name only once it is complete. After a failure, Ctrl-C or SIGTERM, what was done is a
valid file too, whose name says so: vectors.partial.npy for vectors.npy. Standard output has nothing but whole lines.
"""
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".npy": "npy", ".parquet": "parquet", ".pq": "parquet"}


def add_output_options(parser: argparse.ArgumentParser, npy: str | None = None) -> None:
    """``--output`` and ``--json``, and ``--npy`` where there are rows of numbers, which `npy` names."""
    suffixes = ".jsonl, .npy or .parquet" if npy else ".jsonl or .parquet"
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="JSON lines on stdout (the default)")
    form.add_argument("--output", metavar="FILE", help=f"write FILE, in the format of its suffix: {suffixes}")
    if npy:
        form.add_argument("--npy", metavar="FILE", help=f"write {npy} to a .npy file, whatever its suffix")
    parser.set_defaults(npy=None)


def output_format(arguments: argparse.Namespace, formats: tuple[str, ...]) -> str:
    """The format of what is written, one of `formats`; leaves with a usage error where it is none."""
    for option in ("npy", "output"):
        if getattr(arguments, option) == "-":
            arguments.parser.error(f"--{option}: expected a file, - is not one")
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


def open_writer(arguments: argparse.Namespace, form: str, types: Mapping[str, Any]) -> Any:
    """The writer, a context manager with ``write(columns)``. A file that cannot be made fails before a model is loaded.

    Args:
        form: of :func:`output_format`.
        types: pyarrow's types of columns that are carried along, where they are known.

    Raises:
        OSError, ValueError, ImportError: see the writers.
    """
    if is_stdout(arguments):
        from .jsonlines import JsonLinesOutput

        return JsonLinesOutput()
    path = arguments.npy or arguments.output
    if form == "npy":
        from .npyfile import NpyWriter

        return NpyWriter(path)
    if form == "parquet":
        from .parquetwriter import ParquetWriter

        return ParquetWriter(path, types)
    from .jsonlines import JsonLinesFile

    return JsonLinesFile(path)
