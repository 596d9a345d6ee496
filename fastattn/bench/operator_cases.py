# SPDX-License-Identifier: MIT
"""Cases of linear attention and of search, which peers are given too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fastattn.typing import Metric, Rule

__all__ = ["Arrays", "LinearAttentionCase", "SimilarityCase"]


@dataclass(frozen=True, slots=True)
class LinearAttentionCase:
    """q (batch, tokens, heads, dk), k and v with kv_heads heads, v of size dv."""

    name: str
    rule: Rule
    batch: int
    tokens: int
    heads: int
    kv_heads: int
    dk: int
    dv: int
    by_row: bool = False
    """A decay for each row of the state instead of one for each head."""

    @property
    def flops(self) -> int:
        """For each element of the state and token: two for the update, each head's read-out and the retrieval of a
        delta rule, one for a decay. That one takes the time of two: gated rules end below the FMA peak."""
        each = 2 * (1 + self.heads // self.kv_heads + ("delta" in self.rule)) + ("gated" in self.rule)
        return each * self.batch * self.tokens * self.kv_heads * self.dk * self.dv

    @property
    def state_bytes(self) -> int:
        """Size of the states."""
        return 4 * self.batch * self.kv_heads * self.dk * self.dv

    @property
    def cold(self) -> bool:
        """States come from memory: a model's layers take turns between two tokens."""
        return self.tokens == 1

    @property
    def shape_text(self) -> str:
        """As a row of the table shows it."""
        heads = str(self.heads) if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        return f"B{self.batch} H{heads} T{self.tokens} D{self.dk}x{self.dv}"


@dataclass(frozen=True, slots=True)
class Arrays:
    """What a case computes with; decay and beta where the rule has them. states: so many that no cache holds them."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    decay: np.ndarray | None
    beta: np.ndarray | None
    states: list[np.ndarray]
    out: np.ndarray

    @property
    def gates(self) -> dict[str, Any]:
        """The keywords of linear_attention()."""
        return {"decay": self.decay, "beta": self.beta}


@dataclass(frozen=True, slots=True)
class SimilarityCase:
    """The best k of m rows of d numbers for each of n queries; rows are of length 1."""

    metric: Metric
    n: int
    m: int = 100_000
    d: int = 384
    k: int = 10

    @property
    def name(self) -> str:
        """ "cosine-q16"."""
        return f"{self.metric}-q{self.n}"

    @property
    def shape_text(self) -> str:
        """ "16 of 100000x384"."""
        return f"{self.n} of {self.m}x{self.d}"

    @property
    def flops(self) -> int:
        """A multiply-add for each number of each pair; differences are not counted."""
        return 2 * self.n * self.m * self.d

    @property
    def cold(self) -> int:
        """Bytes of the rows, which are more than caches hold."""
        return 4 * self.m * self.d
