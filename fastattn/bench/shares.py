# SPDX-License-Identifier: MIT
"""Shares of the machine's limits that can be: the one rule of all commands that print some."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from .quiet import Quiet

__all__ = ["MOST_SHARE", "believed"]

MOST_SHARE = 1.03
"""Nothing is faster than the machine. Two samples of the same round may differ by noise, not by more than this."""

_ATTEMPTS = 3
_PAUSE = 0.1  # seconds before a second attempt, twice as many before the third: a burst of something else may end
_LIMITS = {"fma": "the FMA peak", "int8": "the int8 peak", "read": "the read bandwidth", "gain": "the limit's own gain"}

_Found = TypeVar("_Found")


def believed(
    measure: Callable[[], _Found], shares: Callable[[_Found], Mapping[str, float]], quiet: Quiet
) -> tuple[_Found, str | None]:
    """What ``measure`` finds, measured up to three times until no share is above MOST_SHARE.

    Args:
        measure: all of a case's rounds, samples of their own each time; it settles by ``quiet`` where it has to
        shares: those of what was found, by limit ("fma", "int8", "read", or "gain": what the limit itself gains)
        quiet: whose threads might run beside the probes

    Returns:
        what was found the last time, and None; or why its shares must not be shown: threads that never sleep ran
        beside the probes, or a share is still too high.
    """
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE * attempt)
        quiet.clear()
        found = measure()
        if quiet.restless:
            return found, quiet.fault()
        limit, share = max(shares(found).items(), key=lambda item: item[1])
        if share <= MOST_SHARE:
            return found, None
    text = f"{share:.2f} times {_LIMITS[limit]}, which cannot be, {_ATTEMPTS} times in a row"
    return found, f"{text}: something else ran beside the probe of the limit"
