# SPDX-License-Identifier: MIT
"""``timeout=``: a call that takes longer ends, within milliseconds, and the model stays usable."""

from __future__ import annotations

import time
from numbers import Real
from typing import Any

__all__ = ["DeadlineExceeded", "check_deadline", "deadline_of", "seconds_left"]

_LONGEST = 10**9  # seconds; longer is no limit


class DeadlineExceeded(TimeoutError):
    """The ``timeout`` of a call has passed before it was done. The model can be called again, and gives the same bits.

    Example
    -------
    >>> try:                                                                    # doctest: +SKIP
    ...     vectors = model.embed(texts, timeout=0.5)
    ... except fastattn.DeadlineExceeded:
    ...     print("too slow")
    too slow
    """


def deadline_of(timeout: Any) -> int:
    """The nanosecond of ``time.monotonic_ns`` at which a call that begins now has to end; 0 for never.

    Raises
    ------
    TypeError, ValueError
        ``timeout`` is no number of seconds above 0, and not None.
    """
    if timeout is None:
        return 0
    if isinstance(timeout, bool) or not isinstance(timeout, Real):
        raise TypeError(f"timeout: expected seconds or None, got {type(timeout).__name__}")
    seconds: Any = timeout  # any integer, which float() need not hold
    if not seconds > 0:
        raise ValueError(f"timeout: got {float(max(seconds, -_LONGEST)):g}, expected seconds above 0")
    return 0 if seconds > _LONGEST else time.monotonic_ns() + int(float(seconds) * 1e9) + 1


def check_deadline(deadline: int, done: bool = True) -> None:
    """``DeadlineExceeded`` where ``deadline`` has passed, or a run was not ``done``."""
    if not done or (deadline and time.monotonic_ns() >= deadline):
        raise DeadlineExceeded("timeout: the call took longer than it was given")


def seconds_left(deadline: int) -> float | None:
    """Until ``deadline``, for a call within the call: None where there is none, a moment where it has passed."""
    return max(deadline - time.monotonic_ns(), 1) / 1e9 if deadline else None
