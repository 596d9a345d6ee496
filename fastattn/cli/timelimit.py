# SPDX-License-Identifier: MIT
"""``--timeout``: a command that takes longer ends with the status of timeout(1), and keeps what it has done."""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from ..engine.stop import DeadlineExceeded
from .arguments import positive_float

__all__ = ["TIMED_OUT", "add_timeout", "exceeded", "seconds_left", "time_limit"]

TIMED_OUT = 124
"""The exit status."""

_PATIENCE = 0.5  # seconds after which the process is ended from outside of what it does


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """``--timeout SECONDS``."""
    parser.add_argument(
        "--timeout", type=positive_float, metavar="SECONDS",
        help="end with status 124 after so long, with what was done kept as after Ctrl-C (default: never)",
    )  # fmt: skip


@contextlib.contextmanager
def time_limit(arguments: argparse.Namespace) -> Iterator[None]:
    """Inside the block the time of ``arguments.timeout`` runs.

    What computes asks for ``seconds_left``. Reading, writing and loading ask for nothing, and an input may say nothing
    for ever: where the process is the command's own it is ended a moment later, as a signal would end it.
    """
    seconds = getattr(arguments, "timeout", None)
    arguments.deadline = None if seconds is None else time.monotonic() + seconds
    arguments.watcher = None
    if seconds is None or not arguments.own_process or seconds > threading.TIMEOUT_MAX - _PATIENCE:
        yield
        return
    arguments.watcher = threading.Timer(seconds + _PATIENCE, _leave, (seconds,))
    arguments.watcher.daemon = True
    arguments.watcher.start()
    try:
        yield
    finally:
        arguments.watcher.cancel()


def seconds_left(arguments: argparse.Namespace) -> float | None:
    """What is left of ``--timeout``, None without one.

    Raises:
        DeadlineExceeded: nothing.
    """
    if arguments.deadline is None:
        return None
    left: float = arguments.deadline - time.monotonic()
    if left <= 0:
        raise exceeded(arguments)
    return left


def exceeded(arguments: argparse.Namespace) -> DeadlineExceeded:
    """The error that says so. It ends the command, however long its output takes to be put in order."""
    if arguments.watcher is not None:
        arguments.watcher.cancel()
    return DeadlineExceeded(_message(arguments.timeout))


def _message(seconds: float) -> str:
    return f"--timeout: {seconds:g} s have passed"


def _leave(seconds: float) -> None:
    from .interrupt import leave

    try:
        if sys.stderr is not None:
            print(f"fastattn: {_message(seconds)}", file=sys.stderr, flush=True)
    finally:
        leave(TIMED_OUT, "--timeout")
