# SPDX-License-Identifier: MIT
"""The shapes that are measured; tests take theirs from here too. Plain data, nothing is allocated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol, TypeVar

__all__ = [
    "ATTENTION",
    "LINEAR",
    "LINEAR_LAYERS",
    "LINEAR_ROWS",
    "MODEL",
    "PEAK",
    "AttentionCase",
    "LinearCase",
    "ModelCase",
    "select",
]


@dataclass(frozen=True, slots=True)
class AttentionCase:
    """q (batch, heads, sq, d), k and v (batch, kv_heads, sk, d)."""

    name: str
    batch: int
    heads: int
    kv_heads: int
    sq: int
    sk: int
    d: int
    causal: bool = False
    """Query i sees keys up to i + sk - sq."""
    mask: str | None = None
    """"bool": (sq, sk), half of the keys; "padding": bool (batch, 1, 1, sk), ragged; "float": (heads, sq, sk)."""
    cold: bool = False
    """K and V come from memory: calls walk several sets that together fit no cache."""

    @property
    def flops(self) -> int:
        """Two multiply-adds per feature, query and key: 4 * sq * sk * d per head.

        Causal: without the sq * sq / 2 pairs above the diagonal, so half of all where sq == sk. Masks do not lessen it.
        """
        pairs = self.sq * self.sk - (self.sq * self.sq // 2 if self.causal else 0)
        return 4 * pairs * self.d * self.heads * self.batch

    @property
    def kv_bytes(self) -> int:
        """Size of K and V."""
        return 2 * 4 * self.batch * self.kv_heads * self.sk * self.d

    @property
    def shape_text(self) -> str:
        """As a row of the table shows it."""
        heads = str(self.heads) if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        length = str(self.sq) if self.sq == self.sk else f"{self.sq}x{self.sk}"
        return f"B{self.batch} H{heads} N{length} D{self.d}"


def _self(name: str, batch: int, heads: int, n: int, d: int, **more: object) -> AttentionCase:
    kv_heads = int(str(more.pop("kv_heads", heads)))
    return AttentionCase(name, batch, heads, kv_heads, n, n, d, **more)  # type: ignore[arg-type]


def _decode(name: str, batch: int, heads: int, kv_heads: int, sk: int, d: int, cold: bool) -> AttentionCase:
    return AttentionCase(name, batch, heads, kv_heads, 1, sk, d, cold=cold)


PEAK = (_self("peak-n2048-d64", 1, 1, 2048, 64), _self("peak-n2048-d128", 1, 1, 2048, 128))
"""How close the tile kernel comes to the FMA peak, one head."""

ATTENTION = (
    # sentences and short documents through an encoder
    _self("full-n16-d64", 1, 12, 16, 64),
    _self("full-n16-d32-batch", 64, 12, 16, 32),
    _self("full-n64-d32-batch", 32, 12, 64, 32),
    _self("full-n96-d64", 1, 12, 96, 64),
    _self("full-n128-d64", 1, 12, 128, 64),
    _self("full-n128-d128", 1, 8, 128, 128),
    _self("full-n256-d32-batch", 8, 12, 256, 32),
    _self("full-n512-d64", 1, 12, 512, 64),
    _self("full-n1000-d80", 1, 4, 1000, 80),
    _self("full-n1024-d128", 1, 2, 1024, 128),
    _self("full-n2048-d64", 1, 2, 2048, 64),
    _self("full-n2048-d128", 1, 2, 2048, 128),
    _self("full-n4096-d32", 1, 1, 4096, 32),
    _self("full-n8192-d64", 1, 1, 8192, 64),
    # prompts through a decoder
    _self("causal-n64-d64", 1, 12, 64, 64, causal=True),
    _self("causal-n128-d64", 1, 12, 128, 64, causal=True),
    _self("causal-n512-d128", 1, 4, 512, 128, causal=True),
    _self("causal-n2048-d64", 1, 2, 2048, 64, causal=True),
    _self("causal-n4096-d128", 1, 1, 4096, 128, causal=True),
    _self("causal-n8192-d64", 1, 1, 8192, 64, causal=True),
    _self("gqa-n512-d64", 1, 16, 512, 64, kv_heads=4),
    _self("gqa-n1024-d128-causal", 1, 8, 1024, 128, kv_heads=2, causal=True),
    AttentionCase("gqa-chunk16-of-2048-d64", 1, 16, 4, 16, 2048, 64, causal=True),
    # masks
    _self("padding-n128-d32-batch", 16, 12, 128, 32, mask="padding"),
    _self("padding-n256-d64-batch", 4, 12, 256, 64, mask="padding"),
    _self("bool-n1024-d64", 1, 4, 1024, 64, mask="bool"),
    _self("float-n512-d64", 1, 8, 512, 64, mask="float"),
    _self("float-n1024-d128", 1, 2, 1024, 128, mask="float"),
    # one new token
    _decode("decode-sk128-d64", 1, 12, 12, 128, 64, cold=False),
    _decode("decode-sk1024-d64", 1, 12, 12, 1024, 64, cold=True),
    _decode("decode-sk512-d128-batch", 8, 8, 8, 512, 128, cold=True),
    _decode("decode-gqa-sk4096-d128", 1, 32, 8, 4096, 128, cold=True),
    _decode("decode-gqa-sk8192-d64", 1, 9, 3, 8192, 64, cold=True),
    # queries over another sequence
    AttentionCase("cross-64-over-1500-d64", 1, 8, 8, 64, 1500, 64),
    AttentionCase("cross-448-over-1500-d64", 1, 6, 6, 448, 1500, 64),
)
"""The grid of ``fastattn bench attention``."""


@dataclass(frozen=True, slots=True)
class LinearCase:
    """x (rows, k) through weights (n, k)."""

    k: int
    n: int
    rows: int

    @property
    def name(self) -> str:
        """ "768x3072-r8": inputs, outputs, rows."""
        return f"{self.k}x{self.n}-r{self.rows}"

    @property
    def flops(self) -> int:
        """A multiply-add per input, output and row."""
        return 2 * self.k * self.n * self.rows

    @property
    def weight_bytes(self) -> int:
        """Size of the weights."""
        return 4 * self.k * self.n

    @property
    def cold(self) -> bool:
        """Weights come from memory, as those of a model do that is larger than the cache: few rows feel that."""
        return self.rows <= 8


LINEAR_LAYERS = ((384, 384), (384, 1152), (384, 1536), (1536, 384), (768, 768), (768, 3072), (3072, 768))
"""(inputs, outputs): the layers of MiniLM and of BERT base."""
LINEAR_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 512, 2048)
LINEAR = tuple(LinearCase(k, n, rows) for k, n in LINEAR_LAYERS for rows in LINEAR_ROWS)
"""The grid of ``fastattn bench linear``."""


@dataclass(frozen=True, slots=True)
class ModelCase:
    """A batch of sequences of token ids, padded at the right to the longest."""

    name: str
    lengths: tuple[int, ...]


# 8 to 127, the short ones more frequent, in no order: what sentences look like
_MIXED = tuple(8 + (119 * ((i * 13) % 32) ** 2) // 31**2 for i in range(32))

MODEL = (
    ModelCase("1x16", (16,)),
    ModelCase("1x128", (128,)),
    ModelCase("32-mixed-8..127", _MIXED),
    ModelCase("8x256", (256,) * 8),
    ModelCase("1x512", (512,)),
)
"""The batches of ``fastattn bench model``."""


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_Case = TypeVar("_Case", bound=_Named)


def select(cases: Iterable[_Case], patterns: Sequence[str] | None) -> list[_Case]:
    """Those that ``patterns`` name: in full, else by a part of the name or with ``*`` and ``?``; all for None.

    Raises:
        ValueError: a pattern selects nothing.

    >>> [case.name for case in select(MODEL, ["1x1*"])]
    ['1x16', '1x128']
    """
    known = list(cases)
    if patterns is None:
        return known
    wanted: set[str] = set()
    for pattern in patterns:
        whole = any(letter in pattern for letter in "*?[") or any(case.name == pattern for case in known)
        found = {case.name for case in known if fnmatchcase(case.name, pattern if whole else f"*{pattern}*")}
        if not found:
            raise ValueError(f"{pattern!r} selects none of the {len(known)} cases")
        wanted |= found
    return [case for case in known if case.name in wanted]
