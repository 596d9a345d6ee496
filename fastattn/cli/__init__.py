# SPDX-License-Identifier: MIT
"""The ``fastattn`` command, thin over the API: each module that ``COMMANDS`` names is one of its commands.

Exit status: 0; 1 where something failed, with one line on stderr; 2 for wrong usage; 124 after the time of --timeout;
130 after Ctrl-C, 143 and 129 for SIGTERM and SIGHUP. This module and what it imports stay light: only the command that
runs is imported, and that imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from importlib import import_module
from io import StringIO

from ..engine.stop import DeadlineExceeded
from ..startup import is_the_command
from .arguments import Formatter, Parser
from .interrupt import interrupt_ends_the_process
from .streams import STDOUT, settle
from .timelimit import TIMED_OUT, time_limit

__all__ = ["COMMANDS", "main"]

COMMANDS = ("info", "embed", "classify", "rerank", "generate", "pack", "bench")
"""Names of the commands and of their modules, which have ``add_parser(commands)``."""

_EPILOG = """examples:
  fastattn info
  fastattn embed "A sentence." "Another one."
  fastattn generate --chat "Why is the sky blue?"
  fastattn pack all-MiniLM-L6-v2 minilm.fastattn
  fastattn embed --input articles.csv --column body --output vectors.parquet
  fastattn bench attention --threads 1 --compare torch
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (without the program's name; ``sys.argv[1:]`` if None); returns the exit status.

    >>> main(["info"])  # doctest: +SKIP
    0
    """
    if argv is not None:
        return _guarded(argv)
    if is_the_command():
        settle()  # before anything is opened
    with interrupt_ends_the_process():
        status = _guarded(sys.argv[1:])
        if is_the_command():
            # The system takes memory back at once; destructors and the interpreter would need some 30 ms for it.
            os._exit(status)
    return status


def _guarded(argv: Sequence[str]) -> int:
    if sys.stderr is None:  # another program's: what is printed there would go to standard output
        with redirect_stderr(StringIO()):
            return _guarded(argv)
    if sys.stdout is None:
        return _failed(OSError("standard output is closed"))
    try:
        status = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        status = 1
        _forget_stdout()
    except OSError as error:  # what flushing stdout found: a full disk
        status = _failed(error)
        _forget_stdout()
    return status


def _run(argv: Sequence[str]) -> int:
    try:
        arguments = _parser(argv[0] if argv else None).parse_args(argv)
        arguments.own_process = is_the_command()
        with time_limit(arguments):
            return int(arguments.run(arguments))
    except SystemExit as leaving:  # of argparse: 0 after --help, 2 after wrong usage
        return int(leaving.code or 0)
    except BrokenPipeError:
        raise
    except DeadlineExceeded as error:
        _failed(error)
        return TIMED_OUT
    except OSError as error:
        status = _failed(error)
        if error.filename == STDOUT:  # said once: what is left of the output would fail again
            _forget_stdout()
        return status
    except (ValueError, TypeError, RuntimeError, ImportError, MemoryError) as error:
        return _failed(error)


def _failed(error: BaseException) -> int:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    elif isinstance(error, MemoryError):
        text = f"out of memory: {text}" if text else "out of memory"
    for line in (text or type(error).__name__, *getattr(error, "__notes__", ())):
        print(f"fastattn: {line}", file=sys.stderr)
    return 1


def _forget_stdout() -> None:
    """Python flushes stdout once more at exit, and would complain once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of ``command`` if that is one, else of them all."""
    parser = Parser(
        prog="fastattn",
        description="Attention and transformer inference on CPUs.",
        epilog=_EPILOG,
        formatter_class=Formatter,
    )
    parser.add_argument("-V", "--version", action="store_true", help="print the version and leave")
    parser.set_defaults(run=_version_or_usage, parser=parser)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", prog="fastattn")
    for name in (command,) if command in COMMANDS else COMMANDS:
        import_module(f"fastattn.cli.{name}").add_parser(commands)
    return parser


def _version_or_usage(arguments: argparse.Namespace) -> int:
    if not arguments.version:
        arguments.parser.error(f"expected a command: {', '.join(COMMANDS)}")
    from fastattn import __version__

    print(f"fastattn {__version__}")
    return 0
