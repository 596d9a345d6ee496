# SPDX-License-Identifier: MIT
"""similarity: rows against rows, all of them or the best of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast, overload

import numpy as np

from fastattn import _core
from fastattn.arrays import as_stored, check_layout, check_out, describe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastattn.typing import Array, Metric, OutT

__all__ = ["TopK", "similarity"]

_METRICS = {"cosine": 1, "dot": 0, "euclidean": 2, "manhattan": 3}
_SCORES = 1 << 19  # scores in between, 2 MiB of them
_MOST_COLUMNS = 1 << 16  # of one query: a call in between is some milliseconds, and Ctrl-C is heard after each
_LEAST_ROWS = 252  # queries that share one pass over b


class TopK(NamedTuple):
    """The best rows of b for each row of a, the best first."""

    scores: NDArray[np.float32]
    """(n, k)"""
    indices: NDArray[np.int64]
    """(n, k) rows of b"""


@overload
def similarity(
    a: Array, b: Array, metric: Metric = ..., top_k: None = ..., *, out: None = ..., num_threads: int | None = ...
) -> NDArray[np.float32]: ...
@overload
def similarity(
    a: Array, b: Array, metric: Metric = ..., top_k: None = ..., *, out: OutT, num_threads: int | None = ...
) -> OutT: ...
@overload
def similarity(
    a: Array, b: Array, metric: Metric = ..., *, top_k: int, out: tuple[Array, Array] | None = ...,
    num_threads: int | None = ...,
) -> TopK: ...  # fmt: skip
@overload
def similarity(
    a: Array, b: Array, metric: Metric, top_k: int, *, out: tuple[Array, Array] | None = ...,
    num_threads: int | None = ...,
) -> TopK: ...  # fmt: skip
def similarity(
    a: Array,
    b: Array,
    metric: Metric = "cosine",
    top_k: int | None = None,
    *,
    out: Array | tuple[Array, Array] | None = None,
    num_threads: int | None = None,
) -> Any:
    """How similar each row of a is to each row of b; higher is more similar.

    "cosine" and "dot" are what they say; "euclidean" and "manhattan" are negative distances, from the differences
    themselves. Numbers are those of cos_sim, dot_score, euclidean_sim and manhattan_sim of sentence-transformers.

    A score depends on its two rows alone, and not on which of them is a's: the same bits for any number of rows, any
    blocks, threads and instruction set. Each is 16 partial sums over dimensions l, l + 16, ..., joined neighbours
    first; "cosine" is dot / sqrt(|x|^2 |y|^2), exactly 1 for a row beside itself. Squares do not overflow: lengths and
    distances are right for numbers of any size. A row shorter than 1e-12 is divided by 1e-12, so rows of zeros have a
    cosine of 0 with all others. NaN in a row gives NaN; so does an infinity with "cosine", and with the others where it
    meets its like or, with "dot", a zero.

    With ``top_k`` the best k rows of b for each row of a, in memory of its own of some MiB however many rows there are:
    b may be a mapped array (numpy.memmap) much larger than memory, and is read once for at most 252 rows of a, or for
    more where b has few. Scores are the same bits as without. Ties go to the lower index; NaN is worse than -inf.

    Args:
        a: (n, d), or (d,) for one row; float32, float16 or bfloat16 (also its bits as uint16), computed in float32
        b: (m, d) or (d,) likewise; its type may be another one
        metric: "cosine", "dot", "euclidean" or "manhattan"
        top_k: how many, at least 1; more than m gives all m
        out: (n, m) float32; with top_k a pair of (n, min(top_k, m)) arrays, float32 and int64. Apart from a and b
        num_threads: threads of this call

    Returns:
        (n, m) float32, or TopK(scores, indices) of shape (n, min(top_k, m)); or ``out``.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.

    >>> import numpy as np, fastattn as fa
    >>> docs = np.float32([[1, 0], [0, 2], [3, 3], [0, 0]])
    >>> fa.similarity(np.float32([0, 1]), docs)
    array([[0.       , 1.       , 0.7071068, 0.       ]], dtype=float32)
    >>> fa.similarity(np.float32([0, 1]), docs, "euclidean", top_k=2).indices
    array([[1, 3]])
    """
    left, right = _rows(a, "a"), _rows(b, "b")
    if right.shape[1] != left.shape[1]:
        raise ValueError(f"b: rows of {right.shape[1]} numbers, expected {left.shape[1]} as a has")
    if not isinstance(metric, str) or metric not in _METRICS:
        raise ValueError(f"metric: {metric!r}, expected one of {', '.join(map(repr, _METRICS))}")
    n, m = len(left), len(right)
    apart = {"a": left, "b": right}
    if top_k is None:
        whole = np.empty((n, m), np.float32) if out is None else check_out(out, (n, m), apart)
        _core.similarity(whole, left, right, _METRICS[metric], num_threads)
        return whole if out is None else out
    k = min(_count(top_k), m)
    scores, indices = _pair(out, (n, k), apart)
    if k:
        _best(left, right, _METRICS[metric], scores, indices, num_threads)
    return TopK(scores, indices) if out is None else TopK(*cast(Any, out))


def _rows(value: Any, name: str) -> np.ndarray:
    array, _ = as_stored(value, name)
    if not 1 <= array.ndim <= 2:
        raise ValueError(f"{name}: shape {array.shape}, expected (rows, d) or (d,)")
    check_layout(array, name)
    return array if array.ndim == 2 else array[None]


def _count(top_k: Any) -> int:
    if isinstance(top_k, (bool, np.bool_)) or not isinstance(top_k, (int, np.integer)):
        raise TypeError(f"top_k: {describe(top_k)}, expected None or an integer")
    if top_k < 1:
        raise ValueError(f"top_k: {top_k}, expected at least 1")
    return int(top_k)


def _pair(out: Any, shape: tuple[int, int], apart: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Where scores and indices go."""
    if out is None:
        return np.empty(shape, np.float32), np.empty(shape, np.int64)
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        came = f"{len(out)} of them" if isinstance(out, (tuple, list)) else describe(out)
        raise TypeError(f"out: {came}, expected a pair of arrays (scores, indices) with top_k")
    scores = check_out(out[0], shape, apart, "out[0]")
    return scores, check_out(out[1], shape, {**apart, "out[0]": scores}, "out[1]", np.int64)


def _best(
    a: np.ndarray, b: np.ndarray, metric: int, scores: np.ndarray, indices: np.ndarray, num_threads: int | None
) -> None:
    """Blocks of scores, each taken into what is best so far."""
    n, m = len(a), len(b)
    passes = -(-n // max(_LEAST_ROWS, _SCORES // m))
    rows = max(1, -(-n // max(1, passes)))  # of one size: the last ones alone would read b for little
    scratch = np.empty(min(_SCORES, min(rows, n) * m), np.float32)
    for i in range(0, n, rows):
        queries, best, places = a[i : i + rows], scores[i : i + rows], indices[i : i + rows]
        step = max(1, min(_MOST_COLUMNS, _SCORES // len(queries)))
        for j in range(0, m, step):
            piece = b[j : j + step]
            part = scratch[: len(queries) * len(piece)].reshape(len(queries), len(piece))
            _core.similarity(part, queries, piece, metric, num_threads)
            _core.top_k(best, places, part, j, j + step >= m, num_threads)
