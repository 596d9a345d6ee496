# SPDX-License-Identifier: MIT
"""Settings that are read when the package is imported, and how the ``fastattn`` command takes what is wrong in them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TypeVar

__all__ = ["from_environment", "is_the_command"]

_Setting = TypeVar("_Setting")


def is_the_command() -> bool:
    """Whether this process is nothing but the ``fastattn`` command, not another program that uses the package.

    >>> is_the_command()
    False
    """
    if sys.argv[:1] == ["-m"]:  # still looking for the module: the package around it is being imported
        given = sys.orig_argv
        return "-mfastattn" in given or ("-m", "fastattn") in zip(given, given[1:], strict=False)
    module = sys.modules["__main__"]
    spec = getattr(module, "__spec__", None)
    name = os.path.basename(getattr(module, "__file__", None) or "")
    return name in ("fastattn", "fastattn.exe") if spec is None else spec.name == "fastattn.__main__"


def from_environment(read: Callable[[Mapping[str, str]], _Setting]) -> _Setting:
    """What ``read`` finds in the environment.

    Raises:
        ValueError, RuntimeError: what `read` raises. In the command it is wrong usage instead: one line on stderr and
            exit status 2, since the command itself has not begun and can catch nothing.
    """
    try:
        return read(os.environ)
    except (ValueError, RuntimeError) as error:
        if not is_the_command():
            raise
        if sys.stderr is not None:
            print(f"fastattn: {error}", file=sys.stderr)
        raise SystemExit(2) from None
