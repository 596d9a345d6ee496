# SPDX-License-Identifier: MIT
"""The shapes and options of attention that are measured. Plain data, nothing is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["ATTENTION", "BLOCK", "DECODE", "LONG", "PEAK", "RELATIONS", "SCALING", "AttentionCase", "Relation"]

BLOCK = 64
"""Rows and columns of a block of ``mask="block"``."""
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
_SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8"}


@dataclass(frozen=True, slots=True)
class AttentionCase:
    """q (batch, heads, sq, d), k (batch, kv_heads, sk, d), v (batch, kv_heads, sk, dv)."""

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
    """"bool": (sq, sk), half of the keys; "padding": bool (batch, 1, 1, sk), ragged; "float": (heads, sq, sk);
    "block": blocks of 64 x 64, see keeps_block()."""
    cold: bool = False
    """K and V come from memory: calls walk at least eight sets that together fit no cache."""
    value_dim: int | None = None
    """Features of a value; d if None."""
    dtype: str = "float32"
    """Of q and of the output; of k and v too where ``int8`` is not set."""
    int8: bool = False
    """K and V are int8 with a scale per key and head."""
    cached: bool = False
    """With ``int8``: as caches hold them and attend to them, by products of integers."""
    window: tuple[int | None, int | None] | None = None
    """Keys p - left to p + right of a query at p = i + sk - sq."""
    alibi: bool = False
    softcap: float | None = None
    sinks: bool = False
    """A learned logit per head."""
    latent: bool = False
    """The values are the first dv features of the keys: one array holds both."""

    @property
    def dv(self) -> int:
        """Features of a value."""
        return self.d if self.value_dim is None else self.value_dim

    @property
    def kv_dtype(self) -> str:
        """Of the stored keys and values."""
        return "int8" if self.int8 else self.dtype

    def keeps_block(self, row: int, column: int) -> bool:
        """Whether a block of ``mask="block"`` is seen: the first column, a diagonal band, a sixteenth of the rest."""
        return column == 0 or abs(row - column) <= 2 or (5 * row + 11 * column) % 16 == 0

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key that count: causality, windows and block masks lessen them, other masks do not.

        Causal: without the sq * sq / 2 pairs above the diagonal, so half of all where sq == sk.
        """
        if self.mask == "block":
            rows, columns = range(-(-self.sq // BLOCK)), range(-(-self.sk // BLOCK))
            return sum(
                (min(self.sq, BLOCK * (i + 1)) - BLOCK * i) * (min(self.sk, BLOCK * (j + 1)) - BLOCK * j)
                for i in rows for j in columns if self.keeps_block(i, j)
            )  # fmt: skip
        if self.window is None:
            return self.sq * self.sk - (self.sq * self.sq // 2 if self.causal else 0)
        left, right = self.window
        right = 0 if self.causal else right
        count = 0
        for p in range(self.sk - self.sq, self.sk):
            first = 0 if left is None else max(0, p - left)
            last = self.sk - 1 if right is None else min(self.sk - 1, p + right)
            count += max(0, last - first + 1)
        return count

    @property
    def flops(self) -> int:
        """Two multiply-adds per pair and feature: 2 * pairs * (d + dv) per head."""
        return 2 * self.pairs * (self.d + self.dv) * self.heads * self.batch

    @property
    def kv_bytes(self) -> int:
        """Size of K and V, scales included."""
        features = self.d if self.latent else self.d + self.dv
        row = _BYTES[self.kv_dtype] * features + (8 if self.int8 else 0)
        return row * self.batch * self.kv_heads * self.sk

    @property
    def shape_text(self) -> str:
        """As a row of the table shows it."""
        heads = str(self.heads) if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        length = str(self.sq) if self.sq == self.sk else f"{self.sq}x{self.sk}"
        features = str(self.d) if self.dv == self.d else f"{self.d}/{self.dv}"
        text = f"B{self.batch} H{heads} N{length} D{features}"
        if self.dtype != "float32":
            text += f" {_SHORT[self.dtype]}"
        return f"{text} int8 KV" if self.int8 else text


def _self(name: str, batch: int, heads: int, n: int, d: int, **more: object) -> AttentionCase:
    kv_heads = int(str(more.pop("kv_heads", heads)))
    return AttentionCase(name, batch, heads, kv_heads, n, n, d, **more)  # type: ignore[arg-type]


def _decode(
    name: str, batch: int, heads: int, kv_heads: int, sk: int, d: int, cold: bool = True, **more: object
) -> AttentionCase:
    return AttentionCase(name, batch, heads, kv_heads, 1, sk, d, cold=cold, **more)  # type: ignore[arg-type]


def _stored(case: AttentionCase) -> tuple[AttentionCase, ...]:
    """The case in every storage type."""
    return (
        replace(case, name=f"{case.name}-fp32"),
        replace(case, name=f"{case.name}-fp16", dtype="float16"),
        replace(case, name=f"{case.name}-bf16", dtype="bfloat16"),
        replace(case, name=f"{case.name}-int8", int8=True, cached=True),
    )


DECODE = (
    *_stored(_decode("decode-gqa-b1-sk4096-d128", 1, 32, 8, 4096, 128)),
    *_stored(_decode("decode-gqa-b8-sk4096-d128", 8, 32, 8, 4096, 128)),
)
"""One new token over caches in memory, in every storage type: ``--decode``, and part of the grid."""

PEAK = (
    _self("peak-n2048-d32", 1, 1, 2048, 32),
    _self("peak-n2048-d64", 1, 1, 2048, 64),
    _self("peak-n2048-d128", 1, 1, 2048, 128),
    _self("peak-n96-d64", 1, 8, 96, 64),
    _self("peak-n128-d64", 1, 6, 128, 64),
    _self("peak-n192-d64", 1, 4, 192, 64),
)
"""How close the tile kernel comes to the FMA peak: one long head, and as many short ones as a cache of 1 MiB holds."""


@dataclass(frozen=True, slots=True)
class Relation:
    """The time of ``case`` beside that of ``base``, the same without the option."""

    name: str
    base: AttentionCase
    case: AttentionCase


def _relation(name: str, base: AttentionCase, **option: object) -> Relation:
    return Relation(name, base, replace(base, name=name, **option))  # type: ignore[arg-type]


RELATIONS = (
    _relation("causal-n4096-d64", _self("full", 1, 1, 4096, 64), causal=True),
    _relation("causal-n4096-d128", _self("full", 1, 1, 4096, 128), causal=True),
    _relation("bool-n2048-d64", _self("none", 1, 4, 2048, 64), mask="bool"),
    _relation("bool-n2048-d128", _self("none", 1, 2, 2048, 128), mask="bool"),
    _relation("float-n2048-d64", _self("none", 1, 4, 2048, 64), mask="float"),
    _relation("float-n2048-d128", _self("none", 1, 4, 2048, 128), mask="float"),
    _relation("fp16-n2048-d64", _self("fp32", 1, 2, 2048, 64), dtype="float16"),
    _relation("bf16-n2048-d64", _self("fp32", 1, 2, 2048, 64), dtype="bfloat16"),
    _relation("fp16-n2048-d128", _self("fp32", 1, 2, 2048, 128), dtype="float16"),
    _relation("bf16-n2048-d128", _self("fp32", 1, 2, 2048, 128), dtype="bfloat16"),
    _relation("int8-n2048-d128", _self("fp32", 1, 2, 2048, 128), int8=True),
    *(
        _relation(f"int8-cache-n{n}-d{d}", _self("fp32", 1, 12, n, d), int8=True, cached=True)
        for n in (128, 512)
        for d in (32, 64, 128)
    ),
)
"""What causality saves, what masks and storage types cost; part of ``--peak-shapes``."""

SCALING = (
    _self("threads-n2048-d64", 1, 8, 2048, 64),
    _self("threads-n4096-d128-one-head", 1, 1, 4096, 128),
    _self("threads-causal-n4096-d64-one-head", 1, 1, 4096, 64, causal=True),
    _self("threads-n128-d64", 1, 12, 128, 64),
    _self("threads-n16-d32-batch", 64, 12, 16, 32),
    replace(DECODE[0], name="threads-decode-gqa-b1-sk4096-d128"),
    _decode("threads-decode-one-head-sk8192-d128", 1, 8, 1, 8192, 128),
)
"""What more threads gain: ``--scaling``."""

LONG = (_self("long-n65536-d64", 1, 1, 65536, 64), _self("long-n8192-d64", 1, 1, 8192, 64))
"""A long head, and the one its time is extrapolated from: ``--long``."""

_ENCODERS = (
    _self("full-n16-d64", 1, 12, 16, 64),
    _self("full-n16-d32-batch", 64, 12, 16, 32),
    _self("full-n64-d32-batch", 32, 12, 64, 32),
    _self("full-n96-d64", 1, 12, 96, 64),
    _self("full-n96-d64-batch", 8, 16, 96, 64),
    _self("full-n128-d64", 1, 12, 128, 64),
    _self("full-n128-d128", 1, 8, 128, 128),
    _self("full-n256-d32-batch", 8, 12, 256, 32),
    _self("full-n512-d64", 1, 12, 512, 64),
    _self("full-n512-d256", 1, 4, 512, 256),
    _self("full-n1000-d80", 1, 4, 1000, 80),
    _self("full-n1024-d128", 1, 2, 1024, 128),
    _self("full-n1024-d64-dv128", 1, 4, 1024, 64, value_dim=128),
    _self("full-n2048-d64", 1, 2, 2048, 64),
    _self("full-n2048-d128", 1, 2, 2048, 128),
    _self("full-n4096-d32", 1, 1, 4096, 32),
    _self("full-n8192-d64", 1, 1, 8192, 64),
    _self("full-n128-d64-fp16", 4, 12, 128, 64, dtype="float16"),
    _self("full-n2048-d64-fp16", 1, 2, 2048, 64, dtype="float16"),
    _self("full-n128-d64-bf16", 4, 12, 128, 64, dtype="bfloat16"),
    _self("full-n2048-d128-bf16", 1, 2, 2048, 128, dtype="bfloat16"),
)
_DECODERS = (
    _self("causal-n64-d64", 1, 12, 64, 64, causal=True),
    _self("causal-n128-d64", 1, 12, 128, 64, causal=True),
    _self("causal-n512-d128", 1, 4, 512, 128, causal=True),
    _self("causal-n1024-d192-dv128", 1, 4, 1024, 192, causal=True, value_dim=128),
    _self("causal-n2048-d64", 1, 2, 2048, 64, causal=True),
    _self("causal-n4096-d128", 1, 1, 4096, 128, causal=True),
    _self("causal-n8192-d64", 1, 1, 8192, 64, causal=True),
    _self("gqa-n512-d64", 1, 16, 512, 64, kv_heads=4),
    _self("gqa-n512-d256-causal", 1, 8, 512, 256, kv_heads=4, causal=True),
    _self("gqa-n1024-d128-causal", 1, 8, 1024, 128, kv_heads=2, causal=True),
    _self("gqa-n1024-d128-causal-bf16", 1, 8, 1024, 128, kv_heads=2, causal=True, dtype="bfloat16"),
    AttentionCase("gqa-chunk16-of-2048-d64", 1, 16, 4, 16, 2048, 64, causal=True),
)
_MASKS = (
    _self("padding-n128-d32-batch", 16, 12, 128, 32, mask="padding"),
    _self("padding-n256-d64-batch", 4, 12, 256, 64, mask="padding"),
    _self("bool-n1024-d64", 1, 4, 1024, 64, mask="bool"),
    _self("float-n512-d64", 1, 8, 512, 64, mask="float"),
    _self("float-n1024-d128", 1, 2, 1024, 128, mask="float"),
    _self("block-n4096-d64", 1, 2, 4096, 64, mask="block"),
    _self("alibi-n1024-d128-causal", 1, 8, 1024, 128, causal=True, alibi=True),
    _self("window-n2048-d64", 1, 4, 2048, 64, window=(64, 64)),
    _self("window-n4096-d128-causal", 1, 8, 4096, 128, kv_heads=2, causal=True, window=(1023, 0)),
    _self("sinks-n1024-d64-window", 1, 16, 1024, 64, kv_heads=2, causal=True, window=(127, 0), sinks=True),
    _self("softcap-n512-d256-causal", 1, 8, 512, 256, kv_heads=4, causal=True, softcap=50.0),
)
_STEPS = (
    _decode("decode-sk128-d64", 1, 12, 12, 128, 64, cold=False),
    _decode("decode-sk1024-d64", 1, 12, 12, 1024, 64),
    _decode("decode-sk512-d128-batch", 8, 8, 8, 512, 128),
    *DECODE,
    _decode("decode-gqa-sk8192-d64", 1, 9, 3, 8192, 64),
    _decode("decode-gqa-sk4096-d256-fp16", 1, 8, 4, 4096, 256, dtype="float16"),
    _decode("decode-mqa-sk8192-d128", 1, 32, 1, 8192, 128),
    _decode("decode-alibi-sk2048-d128", 1, 32, 32, 2048, 128, alibi=True),
    _decode("decode-mla-sk4096-d576-dv512", 1, 16, 1, 4096, 576, value_dim=512, latent=True),
)
_CROSS = (
    AttentionCase("cross-64-over-1500-d64", 1, 8, 8, 64, 1500, 64),
    AttentionCase("cross-448-over-1500-d64", 1, 6, 6, 448, 1500, 64),
    AttentionCase("cross-4096-over-77-d64", 1, 10, 10, 4096, 77, 64),
)

ATTENTION = (*_ENCODERS, *_DECODERS, *_MASKS, *_STEPS, *_CROSS)
"""The grid of ``fastattn bench attention``: sentences and documents through an encoder, prompts through a decoder,
masks and biases, one new token, queries over another sequence."""


def least_sets(case: AttentionCase, cache_bytes: int) -> int:
    """How many sets of K and V a cold case walks: at least eight, and together larger than ``cache_bytes``.

    >>> least_sets(DECODE[0], 1 << 27), least_sets(DECODE[3], 1 << 27)
    (8, 16)
    """
    return max(8, -(-cache_bytes // case.kv_bytes)) if case.cold else 1


def total_bytes(cases: Sequence[AttentionCase], cache_bytes: int) -> int:
    """Memory of all sets of all cases."""
    return sum(least_sets(case, cache_bytes) * case.kv_bytes for case in cases)
