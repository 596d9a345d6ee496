# SPDX-License-Identifier: MIT
"""DeBERTa's attention: content to content, content to position and position to content.

    score(i, j) = scale (q_i k_j + q_i P(i - j) + k_j R(i - j))

P (position keys) and R (position queries) are projections of the relative embeddings, which depend on the weights
alone: they are made once, when the model is loaded, and packed as linear layers, one for each head. He et al., 2021,
https://arxiv.org/abs/2006.03654.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from .. import ops
from ..attention import attention, disentangled_bias, distance_columns
from ..weights import PackedLinear, pack_linear
from .builder import Builder, Floats
from .inputs import Integers
from .spans import Spans

__all__ = ["Disentangled", "PositionLayers", "position_layers"]

_LANES = 16
_ROOM = 1 << 19  # floats that the products and the bias of some heads may take together: they stay in the cache
_LEAST_ROWS = 64
_KEPT_REACH = 1024  # longer tables of distances are made anew: they cost nothing beside their sequence, kept they would


class PositionLayers:
    """Position keys and queries of one layer: products of a head's queries (keys) with the relative embeddings."""

    def __init__(self, panels: Any, heads: int, width: int) -> None:
        self._panels = panels  # name -> (heads * N / 16, width, 16)
        self._heads, self._width = heads, width
        self._made: dict[tuple[int, int], dict[str, list[PackedLinear]]] = {}

    def of(self, first: int, count: int) -> dict[str, list[PackedLinear]]:
        """For "c2p" and "p2c", where there are such, a layer for each head: columns 16 * first and on, 16 * count."""
        made = self._made.get((first, count))
        if made is None:
            made = {}
            for name, panels in self._panels.items():
                each = len(panels) // self._heads
                starts = [head * each + first for head in range(self._heads)]
                made[name] = [
                    PackedLinear.from_arrays({"panels": panels[at : at + count]}, self._width, _LANES * count)
                    for at in starts
                ]
            self._made[first, count] = made  # two threads may both have made it, of the same memory
        return made


def position_layers(
    builder: Builder, name: str, embeddings: str, norm: str | None, eps: float, *, rows: int, hidden: int, heads: int,
    shared: bool, kinds: Sequence[str],
) -> PositionLayers:  # fmt: skip
    """For constructors: the position keys ("c2p") and queries ("p2c") of the attention ``name``.

    Parameters
    ----------
    embeddings, norm
        Full names of the relative embeddings (rows, hidden) and of their norm, if there is one.
    shared
        Positions go through the projections of the content.
    """
    own = {"c2p": "key_proj" if shared else "pos_key_proj", "p2c": "query_proj" if shared else "pos_query_proj"}
    tensors: dict[str, tuple[int, ...]] = {embeddings: (rows, hidden)}
    if norm is not None:
        tensors |= {f"{norm}.weight": (hidden,), f"{norm}.bias": (hidden,)}
    for kind in kinds:
        tensors |= {f"{name}.{own[kind]}.weight": (hidden, hidden), f"{name}.{own[kind]}.bias": (hidden,)}
    threads, width = builder.num_threads, hidden // heads
    panels = -(-rows // _LANES)

    def make(table: Floats, *parts: Floats) -> dict[str, Floats]:
        if norm is not None:
            table, parts = ops.layer_norm(table, parts[0], parts[1], eps, num_threads=threads), parts[2:]
        result = {}
        for kind, weight, bias in zip(kinds, parts[::2], parts[1::2], strict=True):
            projected = ops.linear(table, pack_linear(weight, bias, num_threads=threads), num_threads=threads)
            by_head = np.zeros((heads, panels * _LANES, width), np.float32)
            by_head[:, :rows] = projected.reshape(rows, heads, width).swapaxes(0, 1)
            packed = pack_linear(by_head.reshape(-1, width), num_threads=threads)
            result[kind] = packed.arrays()["panels"]
        return result

    shapes = dict.fromkeys(kinds, (heads * panels, width, _LANES))
    return PositionLayers(builder.derive(f"{name}.positions", tensors, make, shapes=shapes), heads, width)


@dataclass(frozen=True, slots=True)
class _Reach:
    """What distances up to some number need of the relative embeddings."""

    columns: np.ndarray[Any, np.dtype[np.int32]]
    """(2 * reach + 1,), counted from the first column of the panels."""
    first: int
    """Panel of 16 columns."""
    count: int


class Disentangled:
    """Attention by content and distance, sequence by sequence and some heads at a time, in bounded memory."""

    def __init__(self, *, heads: int, width: int, terms: int, span: int, max_distance: int | None) -> None:
        self._heads = heads
        self._span, self._max_distance = span, max_distance
        self.scale = 1 / math.sqrt(width * terms)
        """Of the sum of products; ``terms`` counts content, c2p and p2c, whether or not a model uses them."""
        self._find_reach = partial(_find_reach, span, max_distance)  # no method: what holds itself is not freed at once
        self._kept = lru_cache(maxsize=256)(self._find_reach)
        if max_distance is not None:
            distance_columns(0, span, max_distance)  # refuses sizes that fit no model

    def _reach(self, reach: int) -> _Reach:
        return self._kept(reach) if reach <= _KEPT_REACH else self._find_reach(reach)

    def scratch_size(self, tokens: int) -> int:
        """float32 numbers that ``attend`` works in: enough for every sequence of at most ``tokens``."""
        wide = _LANES * (-(-2 * self._span // _LANES) + 1)
        return min(self._heads * tokens * (2 * wide + tokens), max(_ROOM, self._one_head(tokens, wide)))

    @staticmethod
    def _one_head(tokens: int, wide: int) -> int:
        return tokens * wide + min(tokens, _LEAST_ROWS) * (wide + tokens)

    def attend(
        self,
        layers: PositionLayers,
        spans: Spans,
        q: Floats,
        k: Floats,
        v: Floats,
        *,
        out: Floats,
        scratch: Floats,
        num_threads: int | None,
    ) -> None:
        """Attention of each sequence to itself; q, k, v, out (T, heads, D), ``scratch`` (``scratch_size``,)."""
        for start, stop in zip(spans.cu_seqlens[:-1].tolist(), spans.cu_seqlens[1:].tolist(), strict=True):
            at = slice(start, stop)
            columns = spans.columns[at] - spans.columns[start]
            self._one(layers, columns, q[at], k[at], v[at], out[at], scratch, num_threads)

    def _one(
        self, layers: PositionLayers, at: Integers, q: Floats, k: Floats, v: Floats, out: Floats, scratch: Floats,
        num_threads: int | None,
    ) -> None:  # fmt: skip
        reach = self._reach(int(at[-1]))
        products = layers.of(reach.first, reach.count)
        s, wide = len(at), reach.count * _LANES
        heads = min(self._heads, max(1, scratch.size // (s * (2 * wide + s))))
        rows = min(s, (scratch.size - s * wide) // (wide + s)) if heads == 1 else s
        p2c_room, c2p_room, bias_room = _cut(scratch, (heads, s, wide), (heads, rows, wide), (heads, rows, s))
        for h in range(0, self._heads, heads):
            some = slice(h, min(h + heads, self._heads))
            p2c = _products(products.get("p2c"), k, some, p2c_room, num_threads)
            for r in range(0, s, rows):
                part = slice(r, min(r + rows, s))
                c2p = _products(products.get("c2p"), q[part], some, c2p_room, num_threads)
                bias = bias_room.reshape(-1)[: (some.stop - h) * (part.stop - r) * s].reshape(some.stop - h, -1, s)
                disentangled_bias(
                    c2p, p2c, at[part], at, reach.columns, self.scale, out=bias, num_threads=num_threads
                )
                attention(
                    _by_head(q[part], some), _by_head(k, some), _by_head(v, some), mask=bias, scale=self.scale,
                    out=_by_head(out[part], some), num_threads=num_threads,
                )  # fmt: skip


def _find_reach(span: int, max_distance: int | None, reach: int) -> _Reach:
    columns = distance_columns(reach, span, max_distance)
    first, last = int(columns[0]) // _LANES, int(columns[-1]) // _LANES
    return _Reach(columns - np.int32(first * _LANES), first, last - first + 1)


def _products(
    layers: Sequence[PackedLinear] | None, x: Floats, heads: slice, room: Floats, num_threads: int | None
) -> Floats | None:
    """(heads, rows, columns): each head of x (rows, heads, D) through its layer."""
    if layers is None:
        return None
    result = room[: heads.stop - heads.start, : len(x)]
    for i, layer in enumerate(layers[heads]):
        ops.linear(x[:, heads.start + i], layer, out=result[i], num_threads=num_threads)
    return result


def _by_head(x: Floats, heads: slice) -> Floats:
    return x[:, heads].swapaxes(0, 1)


def _cut(room: Floats, *shapes: tuple[int, ...]) -> list[Floats]:
    arrays, at = [], 0
    for shape in shapes:
        size = math.prod(shape)
        arrays.append(room[at : at + size].reshape(shape))
        at += size
    return arrays
