# SPDX-License-Identifier: MIT
"""Packed sequences of one pass through the layers, and attention within each of them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from ..attention import attention_varlen
from ..attention.positions import attend_positions
from .builder import Floats
from .inputs import Integers

__all__ = ["Spans"]


class Spans:
    """n packed sequences of T tokens: where each starts, and in which column of its row each token stands.

    Columns are those of the batch the caller passed: where a mask has holes, they jump. What depends on the distance
    of two tokens (windows, relative biases) counts columns, as padded implementations do.
    """

    def __init__(self, cu_seqlens: Integers, columns: Integers) -> None:
        self.cu_seqlens = cu_seqlens
        """(n + 1,) int64, the ends of the sequences."""
        self.columns = columns
        """(T,) int64."""

    @cached_property
    def has_holes(self) -> bool:
        """Whether the columns of some sequence jump."""
        jumps = np.diff(self.columns) != 1
        starts = self.cu_seqlens[1:-1]
        jumps[starts[(starts > 0) & (starts <= jumps.size)] - 1] = False
        return bool(jumps.any())

    def attend(
        self,
        q: Floats,
        k: Floats,
        v: Floats,
        *,
        out: Floats,
        scale: float | None = None,
        window: tuple[int | None, int | None] | None = None,
        relative_bias: tuple[Any, bool, int] | None = None,
        num_threads: int | None = None,
    ) -> Floats:
        """Attention of each sequence to itself; q, k, v, out (T, heads, D), the options those of ``attention``."""
        if window is None and relative_bias is None:
            return attention_varlen(
                q, k, v, self.cu_seqlens, self.cu_seqlens, scale=scale, out=out, num_threads=num_threads
            )
        attend_positions(
            q, k, v, self.cu_seqlens, self.columns, scale=scale, window=window, relative_bias=relative_bias, out=out,
            num_threads=num_threads,
        )  # fmt: skip
        return out
