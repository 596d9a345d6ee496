# SPDX-License-Identifier: MIT
"""The ``tokenizers`` library: imported when it is needed, and its errors as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["library", "named_errors"]


def library() -> Any:
    """The module; ``ImportError`` says how to install it."""
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError("text needs the tokenizers library: pip install fastattn[text]") from error
    return tokenizers


@contextmanager
def named_errors(message: str, *own: type[Exception], kind: type[ValueError] = ValueError) -> Iterator[None]:
    """``kind`` for what the library raises: bare Exception, and for a panic in Rust a BaseException of its own.

    Errors of the types ``own`` are not the library's, and say what is wrong themselves.
    """
    passed: tuple[type[BaseException], ...] = (KeyboardInterrupt, SystemExit, MemoryError, *own)
    try:
        yield
    except passed:
        raise
    except BaseException as error:
        raise kind(f"{message} ({error})") from None
