# SPDX-License-Identifier: MIT
"""Ctrl-C, SIGTERM and SIGHUP end the process at once, whatever it is doing; what it has written stays whole."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn, Protocol

__all__ = ["OUTPUTS", "UNFINISHED", "WRITING", "Unfinished", "interrupt_ends_the_process", "leave"]


class Unfinished(Protocol):
    """An output that has to be put in order before the process ends."""

    def keep(self) -> str | None:
        """Makes what has been written a whole; what to tell about it, if anything."""


OUTPUTS: dict[Unfinished, None] = {}
"""Outputs under way, in order: an interrupt keeps what they hold, the last one first."""

UNFINISHED: set[str] = set()
"""Files that are worth nothing before they are complete: an interrupt removes them."""

WRITING = threading.RLock()
"""Held while an output is written to, so that an interrupt falls between two writes and never into one."""

_PATIENCE = 2.0  # seconds for a write to end; a pipe that nobody reads may block it for ever
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def interrupt_ends_the_process() -> Iterator[None]:
    """Inside the block the signals are ``_exit(128 + number)``, without a traceback, also in the middle of a C call.

    Python runs signal handlers in the main thread between bytecodes, and a kernel may take seconds. But the C half of
    its handler writes to the wake-up descriptor at once, and a thread that waits there needs nothing but the GIL, which
    every long call has released. Signals that are ignored (``nohup``, jobs of a script's background) stay ignored.

    Not the default action of the signal: its status, seen by another program, would be the signal's number.
    """
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    if not heeded or threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = os.getpid()

    def handle(number: int, frame: object) -> None:
        if os.getpid() != process:  # a forked child has no thread that watches
            os._exit(128 + number)

    old_descriptor = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    old_handlers = {number: signal.signal(number, handle) for number in heeded}
    watcher = threading.Thread(target=_watch, args=(reader,), name="fastattn-interrupt", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_descriptor)
        os.close(writer)
        watcher.join()
        os.close(reader)


def _watch(reader: int) -> None:
    while numbers := os.read(reader, 64):
        for number in numbers:
            if number in _SIGNALS:
                leave(128 + number, signal.Signals(number).name)


def leave(status: int, reason: str) -> NoReturn:
    """Ends the process; what has been written stays whole, and standard error says of it what there is to say."""
    try:
        for path in list(UNFINISHED):
            with contextlib.suppress(OSError):
                os.unlink(path)
        if OUTPUTS and WRITING.acquire(timeout=_PATIENCE):
            for output in reversed(list(OUTPUTS)):
                note = output.keep()
                if note and sys.stderr is not None:
                    print(f"fastattn: {reason}: {note}", file=sys.stderr, flush=True)
    finally:  # whatever is wrong with the output: the process ends
        os._exit(status)
