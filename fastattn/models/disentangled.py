# SPDX-License-Identifier: MIT
"""DeBERTa's attention: content to content, content to position and position to content.

    score(i, j) = scale (q_i k_j + q_i P(i - j) + k_j R(i - j))

P (position keys) and R (position queries) are projections of the relative embeddings, which depend on the weights
alone: they are made once, when the model is loaded, and packed as linear layers, one for each head. He et al., 2021,
https://arxiv.org/abs/2006.03654.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from .. import ops
from ..attention.disentangled import attend_disentangled, check_distances
from ..weights import pack_linear
from .builder import Builder, Floats
from .spans import Spans

__all__ = ["Disentangled", "position_panels"]

_LANES = 16  # outputs of a panel


def position_panels(
    builder: Builder, name: str, embeddings: str, norm: str | None, eps: float, *, rows: int, hidden: int, heads: int,
    shared: bool, kinds: Sequence[str],
) -> Mapping[str, Floats]:  # fmt: skip
    """For constructors: the position keys ("c2p") and queries ("p2c") of the attention ``name``, packed for each head.

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
    return builder.derive(f"{name}.positions", tensors, make, shapes=shapes)


class Disentangled:
    """Attention by content and distance, as all layers of a model have it."""

    def __init__(self, *, width: int, terms: int, span: int, max_distance: int | None) -> None:
        self._span, self._max_distance = span, max_distance
        self.scale = 1 / math.sqrt(width * terms)
        """Of the sum of products; ``terms`` counts content, c2p and p2c, whether or not a model uses them."""
        if max_distance is not None:
            check_distances(span, max_distance)  # refuses sizes that fit no model

    def attend(
        self,
        panels: Mapping[str, Floats],
        spans: Spans,
        q: Floats,
        k: Floats,
        v: Floats,
        *,
        out: Floats,
        num_threads: int | None,
    ) -> None:
        """Attention of each sequence to itself; q, k, v, out (T, heads, D), ``panels`` of ``position_panels``."""
        attend_disentangled(
            q, k, v, spans.cu_seqlens, spans.columns, panels, span=self._span, max_distance=self._max_distance,
            scale=self.scale, out=out, num_threads=num_threads,
        )  # fmt: skip
