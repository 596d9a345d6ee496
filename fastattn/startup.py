# SPDX-License-Identifier: MIT
"""Settings that are read when the package is imported, and how the ``fastattn`` command takes what is wrong in them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TypeVar

__all__ = ["extension_missing", "from_environment", "is_the_command"]

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


def extension_missing(folder: str) -> str | None:
    """What to do where the package in ``folder`` has no extension that this Python can load; None if it has one.

    >>> import fastattn
    >>> extension_missing(fastattn.__path__[0]) is None
    True
    """
    from importlib.machinery import EXTENSION_SUFFIXES

    if any(os.path.exists(os.path.join(folder, f"_core{suffix}")) for suffix in EXTENSION_SUFFIXES):
        return None
    lacks = f"{folder} has no compiled extension for this Python (_core{EXTENSION_SUFFIXES[0]})"
    source = os.path.dirname(os.path.abspath(folder))
    if not os.path.exists(os.path.join(source, "setup.py")):
        return f"{lacks}: install fastattn with this Python, {sys.executable}"
    return (
        f"{lacks}, it is the source: to use an installed fastattn start Python in another folder, or as `python -P`; "
        f"to build this one run `pip install --editable {source}`"
    )


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
