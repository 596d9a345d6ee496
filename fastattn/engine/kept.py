# SPDX-License-Identifier: MIT
"""Things that a model makes once, when they are first asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import RLock
from typing import Any, TypeVar

__all__ = ["Kept"]

Result = TypeVar("Result")


class Kept:
    """Things that are made once, when they are first asked for."""

    def __init__(self) -> None:
        self._made: dict[Any, Any] = {}
        self._lock, self._process = RLock(), os.getpid()  # what is made may ask for others

    def get(self, name: Any, make: Callable[[], Result]) -> Result:
        """What is called ``name``; ``make()`` where it is not there yet. What ``make`` raises is not kept."""
        found: Result | None = self._made.get(name)
        if found is not None:
            return found
        if self._process != os.getpid():  # forked: another thread of the parent may have held the lock
            self._lock, self._process = RLock(), os.getpid()
        with self._lock:
            found = self._made.get(name)
            if found is None:
                found = self._made[name] = make()
        return found

    def names(self) -> list[Any]:
        """Of what was made."""
        return list(self._made)
