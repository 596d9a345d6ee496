# SPDX-License-Identifier: MIT
"""Disentangled attention (DeBERTa): scores by relative position, as a bias that attention() adds.

A query attends by content and by distance: q_i k_j + q_i P(i - j) + k_j R(i - j), where P and R are position keys and
position queries, one row for each bucket of distances. Their products with all rows, (S, buckets) each, are two linear
layers; disentangled_bias() picks from them, and adds, what a pair (i, j) needs.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from fastattn import _core
from fastattn.arrays import as_array, as_float32, as_indices, as_real, check_out, describe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastattn.typing import Array, Indices, OutT

__all__ = ["disentangled_bias", "distance_columns"]

MAX_BUCKETS = 2048
_NO_END = 1 << 40  # further than any distance


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
    distances = np.arange(reach + 1)
    buckets = distances
    middle = span // 2
    if max_distance is not None:
        _check_buckets(span, max_distance)
    if max_distance is not None and reach > middle:
        ends = np.array(_shared_ends(span, max_distance))  # largest distances of buckets middle, middle + 1, ...
        buckets = np.where(distances <= middle, distances, middle + np.searchsorted(ends, distances))
    both = np.concatenate([-buckets[:0:-1], buckets])
    return np.clip(both + span, 0, 2 * span - 1).astype(np.int32)


def _check_buckets(span: int, max_distance: int) -> None:
    if not 2 <= span <= MAX_BUCKETS:
        raise ValueError(f"span: {span} buckets of distances, expected 2 to {MAX_BUCKETS}")
    if not span // 2 + 1 < max_distance <= 1 << 24:
        raise ValueError(
            f"max_distance: {max_distance}, expected more than {span // 2 + 1}, the distances that have a bucket each, "
            f"and at most {1 << 24}"
        )


@functools.lru_cache(maxsize=16)
def _shared_ends(span: int, max_distance: int) -> tuple[int, ...]:
    """The largest distance d of each k = ceil(log(d / m) / log((max_distance - 1) / m) * (m - 1)), k from 0 on, until
    the bucket m + k is beyond the last: where d^(m - 1) m^k <= (max_distance - 1)^k m^(m - 1), which integers decide.
    """
    m, furthest = span // 2, max_distance - 1
    if m == 1:  # the exponent is 0: all distances have bucket m
        return (_NO_END,)
    ends = [m]
    left, right = 1, pow(m, m - 1)
    for _ in range(span - m):
        left, right = left * m, right * furthest

        def within(d: int, left: int = left, right: int = right) -> bool:
            return pow(d, m - 1) * left <= right

        # The ends grow by nearly one factor: from a guess a little short, by steps that double, then halves.
        guess = ends[-1] * ends[-1] // ends[-2] - 4 if len(ends) > 1 else m
        low, step = guess if guess > ends[-1] and within(guess) else ends[-1], 1
        while within(low + step):
            low, step = low + step, 2 * step
        while step > 1:
            step //= 2
            if within(low + step):
                low += step
        ends.append(min(low, _NO_END))
    return tuple(ends)
