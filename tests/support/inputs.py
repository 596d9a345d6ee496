# SPDX-License-Identifier: MIT
"""Seeded inputs and the layouts users bring them in."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np


def generator(*key: Any) -> np.random.Generator:
    """A generator seeded by what the test is about, so that a case gives the same numbers when it is run alone."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def normal(rng: np.random.Generator, *shape: int, spread: float = 1.0) -> np.ndarray:
    return (rng.standard_normal(shape) * spread).astype(np.float32)


def qkv(
    rng: np.random.Generator,
    b: int | tuple[int, ...],
    hq: int,
    hkv: int,
    sq: int,
    sk: int,
    d: int,
    dv: int | None = None,
    spread: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q (*b, Hq, Sq, D), k (*b, Hkv, Sk, D), v (*b, Hkv, Sk, Dv); a larger spread makes softmax less flat."""
    lead = (b,) if isinstance(b, int) else b
    return (
        normal(rng, *lead, hq, sq, d, spread=spread),
        normal(rng, *lead, hkv, sk, d, spread=spread),
        normal(rng, *lead, hkv, sk, d if dv is None else dv),
    )


def bshd(x: np.ndarray) -> np.ndarray:
    """The same values as a (B, H, S, D) view of (B, S, H, D) memory, as projections leave them."""
    return np.ascontiguousarray(x.swapaxes(-2, -3)).swapaxes(-2, -3)


def sliced(x: np.ndarray, pad: int = 3) -> np.ndarray:
    """The same values as a window of a larger array full of NaN: odd row strides and poison around every row.

    uint16 is taken for bfloat16; integers without NaN get their largest number.
    """
    poison = {"uint16": 0x7FC0, "int8": 127}.get(x.dtype.name, np.nan)
    big = np.full([n + 2 * pad for n in x.shape], poison, dtype=x.dtype)
    view = big[tuple(slice(pad, pad + n) for n in x.shape)]
    view[...] = x
    return view


def fused(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q, k, v as views of one (B, S, q | k | v) array, as one fused projection leaves them."""
    parts = [x.swapaxes(-2, -3).reshape(*x.shape[:-3], x.shape[-2], -1) for x in (q, k, v)]
    whole = np.concatenate(parts, axis=-1)
    views, start = [], 0
    for x, part in zip((q, k, v), parts, strict=True):
        piece = whole[..., start : start + part.shape[-1]]
        views.append(piece.reshape(*x.shape[:-3], x.shape[-2], x.shape[-3], x.shape[-1]).swapaxes(-2, -3))
        assert np.shares_memory(views[-1], whole)
        start += part.shape[-1]
    return views[0], views[1], views[2]


def reversed_rows(x: np.ndarray) -> np.ndarray:
    """The same values with a negative stride along the sequence."""
    return np.ascontiguousarray(x[..., ::-1, :])[..., ::-1, :]


def unaligned(x: np.ndarray) -> np.ndarray:
    """The same values one float into an allocation: aligned to 4 bytes and nothing more."""
    flat = np.empty(x.size + 1, dtype=x.dtype)
    view = flat[1:].reshape(x.shape)
    view[...] = x
    return view
