# SPDX-License-Identifier: MIT
"""The library that reads and writes Parquet, an extra of the package; its errors in the terms of Python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

__all__ = ["arrow_errors", "pyarrow_parquet"]


def pyarrow_parquet() -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet.

    Raises:
        ImportError: pyarrow is not installed; the message says how to get it.
    """
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError(f"Parquet files need pyarrow: pip install 'fastattn[parquet]' ({error})") from None


@contextmanager
def arrow_errors(name: str) -> Iterator[None]:
    """What pyarrow raises becomes ValueError, one line with the name of the file; the system's own errors stay."""
    arrow, _ = pyarrow_parquet()
    try:
        yield
    except (arrow.ArrowException, OSError, OverflowError) as error:  # a Python integer of more than 64 bits
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        text = " ".join(str(error).split())
        raise ValueError(f"{name}: {text[:300]}") from None
