# SPDX-License-Identifier: MIT
"""The options that say what is read, and the reader they ask for."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable

from ..loaders.newfile import named_errors
from .arguments import path
from .linefiles import Arguments, CsvReader, JsonLinesReader, PlainLines
from .rows import ON_NULL, Reader, Wanted
from .source import stem
from .streams import STDIN

__all__ = [
    "INPUT_NOTE",
    "add_input_options",
    "input_format",
    "open_reader",
    "refuse_options",
    "text_source",
    "wanted_columns",
]

INPUT_NOTE = """\
Input: lines (UTF-8, one text each, an empty line is an empty text), JSON Lines (.jsonl, .ndjson), CSV (.csv, .tsv;
the first record names the columns) or Parquet (.parquet, .pq; needs pip install 'fastattn[parquet]'), as the suffix
or --format says. It is read as it comes and never held all at once. A row that is wrong ends the command with status
1 and a message with its line; the rows before it have been answered. Files compressed by gzip, xz (both on standard
input too) and bzip2 are read as they are: texts.jsonl.gz has the format of texts.jsonl.
"""
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_FORMATS = ("lines", "jsonl", "csv", "parquet")


def add_input_options(parser: argparse.ArgumentParser, what: str) -> None:
    """``--input``, ``--format``, ``--delimiter``, ``--keep`` and ``--on-null``, for rows of `what`."""
    parser.add_argument("--input", type=path, metavar="FILE", help=f"read {what} from FILE; - is standard input")
    parser.add_argument("--format", choices=_FORMATS, help="of the input (default: by its suffix; else lines)")
    parser.add_argument("--delimiter", type=_delimiter, metavar="C", help="of CSV (default: a comma; a tab in .tsv)")
    parser.add_argument(
        "--keep",
        type=_column_names,
        default=(),
        metavar="A,B",
        help="columns of the input to carry along to the output",
    )
    parser.add_argument(
        "--on-null", choices=ON_NULL, default="error", help="rows without a text: fail (default), leave out, take as ''"
    )


def _delimiter(text: str) -> str:
    text = {"tab": "\t", r"\t": "\t"}.get(text, text)
    if len(text) != 1 or text in '"\r\n' or not text.isprintable() and text != "\t":
        raise argparse.ArgumentTypeError(f"{text!r} is not one character (or tab)")
    return text


def _column_names(text: str) -> tuple[str, ...]:
    """Names with commas between them, each once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError("expected names with commas between them")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8") from None
    return names


def input_format(arguments: argparse.Namespace) -> str:
    """The format of what is read: what --format says, or the suffix; leaves with a usage error where neither does."""
    if arguments.format is not None:
        return str(arguments.format)
    name, compression = stem(arguments.input or "")
    suffix = os.path.splitext(name)[1].lower()
    if compression is not None and _SUFFIXES.get(suffix) == "parquet":
        arguments.parser.error(f"--input: Parquet is compressed inside, and not read through {compression}; unpack it")
    if suffix == ".json":
        arguments.parser.error("--input: a .json file may be anything; say --format jsonl for an object on each line")
    return _SUFFIXES.get(suffix, "lines")


def wanted_columns(
    arguments: argparse.Namespace, texts: dict[str, str], taken: tuple[str, ...], lists: dict[str, str] | None = None
) -> Wanted:
    """The columns to read, checked against the format and against the names the output has already.

    Args:
        texts: options that name columns of text, with the names that hold where they are not given.
        taken: names of the output's own columns.
        lists: the same for columns of lists of text.
    """
    error: Callable[[str], object] = arguments.parser.error
    form = input_format(arguments)
    if arguments.delimiter is not None and form != "csv":
        error(f"--delimiter: not with --format {form}")
    options = {**texts, **(lists or {})}
    given = {option: getattr(arguments, option.lstrip("-").replace("-", "_")) for option in options}
    if form == "lines":
        for option, value in {**given, "--keep": arguments.keep}.items():
            if value:
                error(f"{option}: lines have no columns; use --format jsonl, csv or parquet")
    names = {option: given[option] or default for option, default in options.items()}
    if len(set(names.values())) < len(names):
        error(f"{' and '.join(names)}: expected different columns")
    for name in arguments.keep:
        if name in taken:
            error(f"--keep: the output has a column {name!r} of its own")
    return Wanted(tuple(names[o] for o in texts), tuple(names[o] for o in lists or ()), arguments.keep)


def text_source(
    arguments: argparse.Namespace, columns: dict[str, str], taken: tuple[str, ...]
) -> tuple[Reader, Wanted, int | None]:
    """The texts of the command line, or the reader for ``-`` and --input; what it reads; the command line's characters.

    Args:
        columns, taken: see :func:`wanted_columns`.
    """
    if bool(arguments.text) + (arguments.input is not None) != 1:
        arguments.parser.error("expected TEXT arguments, - for standard input, or --input FILE: one of them")
    if "-" in arguments.text and len(arguments.text) > 1:
        arguments.parser.error("- (standard input) stands alone, without other texts")
    if arguments.text and arguments.text != ["-"]:
        refuse_options(arguments, ("format", "delimiter", "keep", *columns), "TEXT arguments")
        return Arguments({"text": arguments.text}), Wanted(("text",)), sum(map(len, arguments.text))
    wanted = wanted_columns(arguments, columns, taken)
    return open_reader(arguments, wanted), wanted, None


def refuse_options(arguments: argparse.Namespace, options: Iterable[str], other: str) -> None:
    """Leaves with a usage error where one of the options is given: it makes no sense with the `other`."""
    for option in options:
        name = option.removeprefix("--")
        if getattr(arguments, name.replace("-", "_")):
            arguments.parser.error(f"--{name}: not with {other}")


def open_reader(arguments: argparse.Namespace, wanted: Wanted) -> Reader:
    """The reader of --input or of standard input. A file is opened right away, before a model is loaded.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError, ImportError: see the readers.
    """
    form = input_format(arguments)
    from_stdin = arguments.input in (None, "-")
    name = STDIN if from_stdin else arguments.input
    if from_stdin and sys.stdin is None:
        raise OSError("standard input is closed")
    if form == "parquet":
        from .parquetreader import ParquetReader

        with named_errors(name):
            return ParquetReader(sys.stdin.fileno() if from_stdin else arguments.input, name, wanted)
    descriptor = sys.stdin.fileno() if from_stdin else os.open(arguments.input, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if form == "jsonl":
            return JsonLinesReader(descriptor, name, not from_stdin, wanted)
        if form == "csv":
            tab = os.path.splitext(stem(name)[0])[1].lower() == ".tsv"
            return CsvReader(descriptor, name, not from_stdin, wanted, arguments.delimiter or ("\t" if tab else ","))
        return PlainLines(descriptor, name, not from_stdin, wanted.texts[0])
    except BaseException:
        if not from_stdin:
            os.close(descriptor)
        raise
