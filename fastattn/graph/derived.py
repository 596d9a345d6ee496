# SPDX-License-Identifier: MIT
"""What follows from weights alone: made once, when a checkpoint is loaded, and kept in packed files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .. import ops
from ..attention.disentangled import check_distances
from ..attention.relative import bias_by_distance
from ..weights import PackedLinear, pack_linear
from .source import Floats, Source

__all__ = ["check_distances", "distance_bias", "neighbour_layer", "position_panels"]

_LANES = 16  # outputs of a panel


def distance_bias(
    source: Source, name: str, heads: int, *, rows: int, buckets: int, max_distance: int
) -> Floats | None:  # fmt: skip
    """The bias of scores by distance (heads, 2 max_distance + 1), from the table ``name``.weight (rows, heads).

    Distances share ``buckets`` rows as T5 has it, in both directions; those behind them are read by nothing.
    """

    def make(weight: Floats) -> dict[str, Floats]:
        return {"table": np.ascontiguousarray(weight[:buckets].T)}

    made = source.derive(name, {f"{name}.weight": (rows, heads)}, make, shapes={"table": (heads, buckets)})
    table = made["table"]
    return None if table is None else bias_by_distance(table, True, max_distance, max_distance)


def position_panels(
    source: Source, key: str, embeddings: str, layers: Mapping[str, str], *, rows: int, hidden: int, heads: int,
    norm: str | None = None, eps: float = 0.0,
) -> Mapping[str, Floats]:  # fmt: skip
    """Embeddings of distances through projections, packed for each head as linear layers are.

    Parameters
    ----------
    embeddings
        Full name of their table (rows, hidden).
    layers
        What a projection makes -> its name.
    norm
        Name of the norm of the embeddings, where they have one.

    Returns
    -------
    by the keys of ``layers``: (heads * ceil(rows / 16), hidden / heads, 16)
    """
    tensors: dict[str, tuple[int, ...]] = {embeddings: (rows, hidden)}
    if norm is not None:
        tensors |= {f"{norm}.weight": (hidden,), f"{norm}.bias": (hidden,)}
    for name in layers.values():
        tensors |= {f"{name}.weight": (hidden, hidden), f"{name}.bias": (hidden,)}
    threads, width, panels = source.num_threads, hidden // heads, -(-rows // _LANES)

    def make(table: Floats, *parts: Floats) -> dict[str, Floats]:
        if norm is not None:
            table, parts = ops.layer_norm(table, parts[0], parts[1], eps, num_threads=threads), parts[2:]
        result = {}
        for kind, weight, bias in zip(layers, parts[::2], parts[1::2], strict=True):
            projected = ops.linear(table, pack_linear(weight, bias, num_threads=threads), num_threads=threads)
            by_head = np.zeros((heads, panels * _LANES, width), np.float32)
            by_head[:, :rows] = projected.reshape(rows, heads, width).swapaxes(0, 1)
            result[kind] = pack_linear(by_head.reshape(-1, width), num_threads=threads).arrays()["panels"]
        return result

    return source.derive(key, tensors, make, shapes=dict.fromkeys(layers, (heads * panels, width, _LANES)))


def neighbour_layer(source: Source, key: str, name: str, hidden: int, size: int) -> PackedLinear | None:
    """The convolution ``name`` over ``size`` tokens as a linear layer over them side by side."""

    def make(weight: Floats, bias: Floats) -> dict[str, Floats]:
        flat = np.ascontiguousarray(weight.swapaxes(1, 2)).reshape(hidden, size * hidden)
        arrays = pack_linear(flat, bias, num_threads=source.num_threads).arrays()
        return {"panels": arrays["panels"], "bias": arrays["bias"]}

    tensors = {f"{name}.weight": (hidden, hidden, size), f"{name}.bias": (hidden,)}
    shapes = {"panels": (-(-hidden // _LANES), size * hidden, _LANES), "bias": (hidden,)}
    made = source.derive(key, tensors, make, shapes=shapes)
    return None if made["panels"] is None else PackedLinear.from_arrays(dict(made), size * hidden, hidden)
