# SPDX-License-Identifier: MIT
"""What a program is told of each batch: its arrays, and the memory of its sequences."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Array", "Group"]


class Array(NamedTuple):
    """An array that comes with every batch."""

    name: str
    dtype: str
    ndim: int
    rows: str | None
    """The kind of rows its first dimension counts; None for any number."""
    more: int = 0
    optional: bool = False
    width: int = -1


class Group(NamedTuple):
    """Layers whose keys are kept alike."""

    kv_heads: int
    head_size: int
    v_head_size: int
    window: int | None
    """Keys that a query sees, itself included; None for all."""
