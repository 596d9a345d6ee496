# SPDX-License-Identifier: MIT
"""The shapes that are measured; tests take theirs from here too. Plain data, nothing is allocated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol, TypeVar

from .attention_shapes import ATTENTION, DECODE, LONG, PEAK, RELATIONS, SCALING, AttentionCase, Relation

__all__ = [
    "ATTENTION",
    "DECODE",
    "LINEAR",
    "LINEAR_LAYERS",
    "LINEAR_ROWS",
    "LONG",
    "MODEL",
    "PEAK",
    "RELATIONS",
    "SCALING",
    "AttentionCase",
    "LinearCase",
    "ModelCase",
    "Relation",
    "select",
]


@dataclass(frozen=True, slots=True)
class LinearCase:
    """x (rows, k) through weights (n, k), stored as ``dtype``."""

    k: int
    n: int
    rows: int
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """ "768x3072-r8": inputs, outputs, rows; "-int8" behind it where weights are stored so."""
        return f"{self.k}x{self.n}-r{self.rows}" + ("" if self.dtype == "float32" else f"-{self.dtype}")

    @property
    def shape_text(self) -> str:
        """ "768->3072 x8", and how the weights are stored."""
        return f"{self.k}->{self.n} x{self.rows}" + ("" if self.dtype == "float32" else f" {self.dtype}")

    @property
    def flops(self) -> int:
        """A multiply-add per input, output and row."""
        return 2 * self.k * self.n * self.rows

    @property
    def weight_bytes(self) -> int:
        """Size of the weights."""
        return {"float32": 4, "int8": 1}.get(self.dtype, 2) * self.k * self.n

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
    ModelCase("32x128", (128,) * 32),
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
