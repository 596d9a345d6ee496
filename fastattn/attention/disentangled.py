# SPDX-License-Identifier: MIT
"""Disentangled attention (DeBERTa): scores by relative position, as a bias that attention() adds.

A query attends by content and by distance: q_i k_j + q_i P(i - j) + k_j R(i - j), where P and R are position keys and
position queries, one row for each bucket of distances. Their products with all rows, (S, buckets) each, are two linear
layers; disentangled_bias() picks from them, and adds, what a pair (i, j) needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import numpy as np

from fastattn import _core
from fastattn.arrays import as_array, as_float32, as_indices, as_real, check_out, describe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fastattn.typing import Array, Indices, OutT

__all__ = ["attend_disentangled", "check_distances", "disentangled_bias", "distance_columns"]

MAX_BUCKETS = 2048
_MOST_REACH = 1 << 30


@overload
def disentangled_bias(
    c2p: Array | None, p2c: Array | None, q_positions: Indices, k_positions: Indices, columns: Array, scale: float, *,
    out: None = ..., num_threads: int | None = ...,
) -> NDArray[np.float32]: ...  # fmt: skip
@overload
def disentangled_bias(
    c2p: Array | None, p2c: Array | None, q_positions: Indices, k_positions: Indices, columns: Array, scale: float, *,
    out: OutT, num_threads: int | None = ...,
) -> OutT: ...  # fmt: skip
def disentangled_bias(
    c2p: Array | None, p2c: Array | None, q_positions: Indices, k_positions: Indices, columns: Array, scale: float, *,
    out: Array | None = None, num_threads: int | None = None,
) -> Any:  # fmt: skip
    """(c2p[h, i, t] + p2c[h, j, t]) * scale with t the column of the distance q_positions[i] - k_positions[j].

    One addition, then one multiplication, in float32: the bits of an element depend on its two products alone.

    Args:
        c2p: (H, Sq, N) float32, queries times position keys; or None
        p2c: (H, Sk, N) float32, keys times position queries; or None, but not both
        q_positions: (Sq,) integers of at least 0
        k_positions: (Sk,)
        columns: (2 R + 1,) int32 from 0 to N - 1: columns[R + d] belongs to distance d, as distance_columns makes them.
            R is at least the largest distance
        scale: what the sums are multiplied by
        out: (H, Sq, Sk) float32, apart from all others
        num_threads: threads of this call

    Returns:
        (H, Sq, Sk) float32, or ``out``: a mask for attention().

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.

    Source: He et al., "DeBERTa: decoding-enhanced BERT with disentangled attention", 2021.

    >>> import numpy as np
    >>> from fastattn.attention import disentangled_bias
    >>> c2p = np.float32([[[1, 2, 3], [10, 20, 30]]])
    >>> disentangled_bias(c2p, None, [0, 1], [0, 1], np.int32([0, 1, 2]), 1.0)
    array([[[ 2.,  1.],
            [30., 20.]]], dtype=float32)
    """
    if c2p is None and p2c is None:
        raise ValueError("c2p, p2c: None, expected at least one of them")
    products = {name: _product(value, name) for name, value in (("c2p", c2p), ("p2c", p2c))}
    q_at, k_at = as_indices(q_positions, "q_positions"), as_indices(k_positions, "k_positions")
    for name, array in (("q_positions", q_at), ("k_positions", k_at)):
        if array.ndim != 1:
            raise ValueError(f"{name}: rank {array.ndim}, expected 1")
    table = as_array(columns, "columns")
    if table.dtype != np.int32 or table.ndim != 1:
        raise TypeError(f"columns: {describe(table)}, expected int32 of rank 1")
    factor = as_real(scale, "scale")
    heads = next(len(product) for product in products.values() if product is not None)
    given = {"q_positions": q_at, "k_positions": k_at, "columns": table}
    given |= {name: product for name, product in products.items() if product is not None}
    shape = (heads, len(q_at), len(k_at))
    target = np.empty(shape, np.float32) if out is None else check_out(out, shape, given)
    _core.disentangled_bias(
        target, products["c2p"], products["p2c"], q_at, k_at, np.ascontiguousarray(table), factor, num_threads
    )
    return target if out is None else out


def _product(value: Any, name: str) -> np.ndarray | None:
    if value is None:
        return None
    array = as_float32(value, name)
    if array.ndim != 3:
        raise ValueError(f"{name}: shape {array.shape}, expected (heads, sequence, N)")
    return array


def distance_columns(reach: int, span: int, max_distance: int | None = None) -> NDArray[np.int32]:
    """The column of each distance -reach..reach among 2 * span relative embeddings: int32 (2 * reach + 1,).

    Without ``max_distance`` distance d has column d + span, within 0 and 2 * span - 1. With it the distances up to
    span // 2 have columns of their own, and larger ones share them by their logarithm: distance d > m = span // 2 has
    that of m + ceil(log(d / m) / log((max_distance - 1) / m) * (m - 1)).

    Args:
        reach: the largest distance
        span: half the number of embeddings; ``position_buckets`` of a config.json, with max_distance, at most 2048
        max_distance: ``max_relative_positions``, more than span // 2 + 1

    Source: He et al., "DeBERTaV3", 2021; ``make_log_bucket_position`` of transformers, decided by exact integers.

    >>> distance_columns(4, 3).tolist()
    [0, 0, 1, 2, 3, 4, 5, 5, 5]
    >>> distance_columns(8, 4, 9).tolist()
    [1, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7, 7]
    """
    if not 0 <= reach <= _MOST_REACH:
        raise ValueError(f"reach: {reach}, expected 0 to {_MOST_REACH}")
    check_distances(span, max_distance)
    columns = np.empty(2 * reach + 1, np.int32)
    _core.distance_columns(columns, span, 0 if max_distance is None else max_distance)
    return columns


def check_distances(span: int, max_distance: int | None) -> None:
    """ValueError for sizes of relative embeddings that no model has."""
    if max_distance is None:
        if not 1 <= span <= _MOST_REACH:
            raise ValueError(f"span: {span}, expected 1 to {_MOST_REACH}")
        return
    if not 2 <= span <= MAX_BUCKETS:
        raise ValueError(f"span: {span} buckets of distances, expected 2 to {MAX_BUCKETS}")
    if not span // 2 + 1 < max_distance <= 1 << 24:
        raise ValueError(
            f"max_distance: {max_distance}, expected more than {span // 2 + 1}, the distances that have a bucket each, "
            f"and at most {1 << 24}"
        )


def attend_disentangled(
    q: NDArray[np.float32], k: NDArray[np.float32], v: NDArray[np.float32], cu_seqlens: NDArray[np.int64],
    positions: NDArray[np.int64], panels: Mapping[str, NDArray[np.float32]], *, span: int, max_distance: int | None,
    scale: float, out: NDArray[np.float32], num_threads: int | None = None,
) -> None:  # fmt: skip
    """Attention of packed sequences by content and distance, each to itself: the whole of it in one call, for models.

    Args:
        q, k, v: (T, H, D) float32
        cu_seqlens: (n + 1,) int64, the ends of the sequences
        positions: (T,) int64 from 0 up, ascending within a sequence
        panels: "c2p", position keys, and "p2c", position queries, one or both: for each head a linear layer of 2 * span
            outputs as pack_linear packs it, (H * ceil(span / 8), D, 16) together
        span, max_distance: as distance_columns takes them
        scale: of the sum of the products
        out: (T, H, D) float32, apart from all others
        num_threads: threads of this call

    Raises:
        TypeError, ValueError: naming the argument.
    """
    check_distances(span, max_distance)
    _core.disentangled_attention(
        out, q, k, v, cu_seqlens, positions, panels.get("c2p"), panels.get("p2c"), span, max_distance or 0,
        as_real(scale, "scale"), num_threads,
    )  # fmt: skip
