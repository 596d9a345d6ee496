# SPDX-License-Identifier: MIT
"""The ``fastattn`` command: ``info``, ``bench``, ``embed`` and ``pack``, thin over the API.

Exit status: 0; 1 where something failed, with one line on stderr; 2 for wrong usage; 130 after Ctrl-C. This module and
what it imports stay light: a command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from . import bench, embed, info, pack
from .interrupt import interrupt_ends_the_process

__all__ = ["main"]

_EPILOG = """examples:
  fastattn info
  fastattn embed "A sentence." "Another one."
  fastattn pack all-MiniLM-L6-v2 minilm.fastattn
  fastattn bench attention --threads 1 --compare torch
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (without the program's name; ``sys.argv[1:]`` if None); returns the exit status.

    >>> main(["info"])  # doctest: +SKIP
    0
    """
    if argv is not None:
        return _guarded(argv)
    with interrupt_ends_the_process():
        status = _guarded(sys.argv[1:])
        if _is_the_program():
            # The system takes memory back at once; destructors and the interpreter would need some 30 ms for it.
            os._exit(status)
    return status


def _is_the_program() -> bool:
    """Whether this process is nothing but the ``fastattn`` command, not another program that calls main()."""
    module = sys.modules["__main__"]
    spec = getattr(module, "__spec__", None)
    name = os.path.basename(getattr(module, "__file__", None) or "")
    return name in ("fastattn", "fastattn.exe") if spec is None else spec.name == "fastattn.__main__"


def _guarded(argv: Sequence[str]) -> int:
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
        arguments = _parser().parse_args(argv)
        arguments.own_process = _is_the_program()
        return int(arguments.run(arguments))
    except SystemExit as leaving:  # of argparse: 0 after --help, 2 after wrong usage
        return int(leaving.code or 0)
    except BrokenPipeError:
        raise
    except (OSError, ValueError, TypeError, RuntimeError, ImportError, MemoryError) as error:
        return _failed(error)


def _failed(error: BaseException) -> int:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    elif isinstance(error, MemoryError):
        text = f"out of memory: {text}" if text else "out of memory"
    print(f"fastattn: {text or type(error).__name__}", file=sys.stderr)
    return 1


def _forget_stdout() -> None:
    """Python flushes stdout once more at exit, and would complain once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastattn",
        description="Attention and transformer inference on CPUs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    parser.set_defaults(run=_version_or_usage, parser=parser)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for command in (info, bench, embed, pack):
        command.add_parser(commands)
    return parser


def _version_or_usage(arguments: argparse.Namespace) -> int:
    if not arguments.version:
        arguments.parser.error("expected a command: info, bench, embed or pack")
    from fastattn import __version__

    print(f"fastattn {__version__}")
    return 0
