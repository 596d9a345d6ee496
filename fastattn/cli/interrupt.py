# SPDX-License-Identifier: MIT
"""Ctrl-C ends the process at once with status 130, whatever it is doing."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["UNFINISHED", "interrupt_ends_the_process"]

UNFINISHED: set[str] = set()
"""Files that are removed when the process is interrupted."""


@contextlib.contextmanager
def interrupt_ends_the_process() -> Iterator[None]:
    """Inside the block SIGINT is ``_exit(130)``, without a traceback, also while the main thread is inside a C call.

    Python runs signal handlers in the main thread between bytecodes, and a kernel may take seconds. But the C half of
    its handler writes to the wake-up descriptor at once, and a thread that waits there needs nothing but the GIL, which
    every long call has released. Where SIGINT is ignored (``nohup``, jobs of a script's background) it stays ignored.

    Not the default action of the signal: its status, seen by another program, would be the signal's number.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    old_descriptor = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    old_handler = signal.signal(signal.SIGINT, _leave)
    watcher = threading.Thread(target=_watch, args=(reader,), name="fastattn-interrupt", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old_handler)
        signal.set_wakeup_fd(old_descriptor)
        os.close(writer)
        watcher.join()
        os.close(reader)


def _leave(number: int = 0, frame: FrameType | None = None) -> None:
    for path in list(UNFINISHED):
        with contextlib.suppress(OSError):
            os.unlink(path)
    os._exit(130)


def _watch(reader: int) -> None:
    while numbers := os.read(reader, 64):
        if signal.SIGINT in numbers:
            _leave()
