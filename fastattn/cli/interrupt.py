# SPDX-License-Identifier: MIT
"""Ctrl-C ends the process at once with status 130, whatever it is doing."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType

__all__ = ["UNFINISHED", "end_at_once_on_interrupt"]

UNFINISHED: set[str] = set()
"""Files that are removed when the process is interrupted."""


def end_at_once_on_interrupt() -> None:
    """From now on SIGINT is ``_exit(130)``, without a traceback, also while the main thread is inside a C call.

    Python runs signal handlers in the main thread between bytecodes, and a kernel may take seconds. But the C half of
    its handler writes to the wake-up descriptor at once, and a thread that waits there needs nothing but the GIL, which
    every long call has released. Where SIGINT is ignored (``nohup``, jobs of a script's background) it stays ignored.

    Not the default action of the signal: its status, seen by another program, would be the signal's number.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, _leave)
    threading.Thread(target=_watch, args=(reader,), name="fastattn-interrupt", daemon=True).start()


def _leave(number: int = 0, frame: FrameType | None = None) -> None:
    for path in list(UNFINISHED):
        with contextlib.suppress(OSError):
            os.unlink(path)
    os._exit(130)


def _watch(reader: int) -> None:
    while True:
        numbers = os.read(reader, 64)
        if signal.SIGINT in numbers:
            _leave()
        if not numbers:
            return
