# SPDX-License-Identifier: MIT
"""Streams of keys and values as plain arrays: what a cache has to agree with, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastattn as fa
from fastattn import _core
from fastattn.attention import attend_stored

DTYPES = ("float32", "float16", "bfloat16", "int8")


def bfloat16_bits(x: np.ndarray) -> np.ndarray:
    """float32 to the bits of bfloat16, round to nearest even; for finite numbers."""
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def stored(x: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """float32 rows (..., D) as a cache of `dtype` has to keep them, and their scales (...) with int8."""
    if dtype == "float16":
        return x.astype(np.float16), None
    if dtype == "bfloat16":
        return bfloat16_bits(x), None
    if dtype == "float32":
        return x, None
    return rounded(x, "values")


def rounded(x: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """float32 rows (H, n, D) in int8 for attention by integers, and their scales (H, n); "keys" are rotated first."""
    rows, scale = np.zeros((1, *x.shape), np.int8), np.zeros((1, *x.shape[:2]), np.float32)
    slots = np.arange(x.shape[1])[None]
    _core.kv_store(rows, np.ascontiguousarray(x[None]), slots, scale=scale, integers=kind)
    return rows[0], scale[0]


def as_query(x: np.ndarray, dtype: str) -> np.ndarray:
    """float32 queries in the type that goes with a cache of `dtype`."""
    return x if dtype == "int8" else stored(x, dtype)[0]


class Stream:
    """One row of one layer: every token that was ever appended and not taken back, (H, n, D) and (H, n, Dv)."""

    def __init__(self, heads: int, dims: tuple[int, int], dtype: str) -> None:
        self.dtype = dtype
        self.k, self.k_scale = stored(np.zeros((heads, 0, dims[0]), np.float32), dtype)
        self.v, self.v_scale = stored(np.zeros((heads, 0, dims[1]), np.float32), dtype)

    def __len__(self) -> int:
        return int(self.k.shape[1])

    def append(self, k: np.ndarray, v: np.ndarray) -> None:
        """k (H, S, D), v (H, S, Dv) float32"""
        for name, new in (("k", k), ("v", v)):
            rows, scale = rounded(new, "keys") if name == "k" and self.dtype == "int8" else stored(new, self.dtype)
            setattr(self, name, np.concatenate([getattr(self, name), rows], axis=1))
            if scale is not None:
                setattr(self, f"{name}_scale", np.concatenate([getattr(self, f"{name}_scale"), scale], axis=1))

    def cut(self, n: int) -> None:
        for name in ("k", "v", "k_scale", "v_scale"):
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name)[:, :n])

    def copy(self) -> Stream:
        new = Stream.__new__(Stream)
        new.__dict__.update(self.__dict__)
        return new


def _padded(arrays: list[np.ndarray]) -> np.ndarray:
    """(H, n_i, ...) arrays as one (B, H, longest, ...), with what must never be read behind each."""
    longest = max(a.shape[1] for a in arrays)
    full = np.full((len(arrays), arrays[0].shape[0], longest, *arrays[0].shape[2:]), 99, arrays[0].dtype)
    if full.dtype.kind == "f":
        full.fill(np.nan)
    for row, a in zip(full, arrays, strict=True):
        row[:, : a.shape[1]] = a
    return full


def attend(
    streams: list[Stream],
    q: np.ndarray,
    offsets: Any,
    *,
    window: Any = None,
    sink_tokens: int = 0,
    **options: Any,
) -> Any:
    """fa.attention over plain arrays, one stream for each batch row, causal; an int window counts the query itself.

    int8, which is for attention by integers, goes the way of caches, but neither in pages nor in a ring.
    """
    lengths = np.array([len(s) for s in streams], np.int64)
    k, v = _padded([s.k for s in streams]), _padded([s.v for s in streams])
    integers = streams[0].k_scale is not None
    if integers:
        options["k_scale"] = _padded([s.k_scale for s in streams if s.k_scale is not None])
        options["v_scale"] = _padded([s.v_scale for s in streams if s.v_scale is not None])
    offsets = np.asarray(offsets, np.int64)
    if isinstance(window, tuple):
        options.update(window=window, sink_tokens=sink_tokens)
    elif window is not None and sink_tokens:  # as a boolean mask: it only excludes keys, so the bits are the same
        p = offsets[:, None, None] + np.arange(q.shape[2])[:, None]
        j = np.arange(k.shape[2])
        options["mask"] = (((j > p - window) | (j < sink_tokens)) & (j <= p))[:, None]
    elif window is not None:
        options["window"] = (window - 1, 0)
    if integers:
        return attend_stored(q, k, v, lengths, q_offset=np.broadcast_to(offsets, lengths.shape).copy(), **options)
    return fa.attention(q, k, v, causal=True, q_offset=offsets, kv_lengths=lengths, **options)
