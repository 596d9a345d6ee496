# SPDX-License-Identifier: MIT
"""T5's relative position buckets: which entry of a bias table belongs to a distance, in exact integer arithmetic."""

from __future__ import annotations

import functools
import math
import operator
from typing import Any

import numpy as np

from fastattn.arrays import describe
from fastattn.attention.storage import as_floats

__all__ = ["bias_by_distance", "bucket_starts", "check_relative_bias"]

_MOST = 1 << 24


def check_relative_bias(relative_bias: Any, heads: int) -> tuple[np.ndarray, bool, int]:
    """(table (heads, n), bidirectional, max_distance), each checked."""
    if not isinstance(relative_bias, (tuple, list)) or len(relative_bias) != 3:
        raise TypeError(f"relative_bias: {describe(relative_bias)}, expected (table, bidirectional, max_distance)")
    table, both, furthest = relative_bias
    table = as_floats(table, "relative_bias (table)")
    if table.ndim != 2 or table.shape[0] != heads:
        raise ValueError(f"relative_bias (table): shape {table.shape}, expected ({heads}, buckets)")
    if not isinstance(both, (bool, np.bool_)):
        raise TypeError(f"relative_bias (bidirectional): {describe(both)}, expected a bool")
    try:
        distance = operator.index(furthest)
    except TypeError:
        raise TypeError(f"relative_bias (max_distance): {describe(furthest)}, expected an int") from None
    buckets = table.shape[1]
    if buckets < 2 or (both and buckets % 2) or (both and buckets < 4):
        wanted = "an even number, at least 4, where it is bidirectional" if both else "at least 2"
        raise ValueError(f"relative_bias (table): {buckets} buckets, expected {wanted}")
    exact = buckets // 2 // (2 if both else 1)
    if not exact < distance <= _MOST:
        raise ValueError(
            f"relative_bias (max_distance): {distance}, expected more than {exact}, the distances that have a bucket "
            f"each, and at most {_MOST}"
        )
    return table, bool(both), distance


def _power(base: int, exponent: int) -> int:
    return math.prod([base] * exponent)


@functools.lru_cache(maxsize=64)
def bucket_starts(buckets: int, max_distance: int) -> tuple[int, ...]:
    """The smallest distance of each of the buckets of one direction.

    The first half have a distance each. Bucket e + t begins where e + log(d / e) / log(max_distance / e) * (n - e)
    reaches e + t: where d^(n - e) e^t >= max_distance^t e^(n - e), which integers decide.

    >>> bucket_starts(8, 16)
    (0, 1, 2, 3, 4, 6, 8, 12)
    """
    exact = buckets // 2
    rest = buckets - exact
    starts = list(range(exact))
    for t in range(rest):
        low, high = exact, max_distance  # the smallest d in low..high that has reached it
        while low < high:
            d = (low + high) // 2
            if _power(d, rest) * _power(exact, t) >= _power(max_distance, t) * _power(exact, rest):
                high = d
            else:
                low = d + 1
        starts.append(low)
    return tuple(starts)


def bias_by_distance(table: np.ndarray, bidirectional: bool, max_distance: int, reach: int) -> np.ndarray:
    """(heads, 2 R + 1): the bias of distance j - p = -R..R, R the smaller of max_distance and reach."""
    r = min(max_distance, max(reach, 0))
    one_way = table.shape[1] // 2 if bidirectional else table.shape[1]
    starts = np.array(bucket_starts(one_way, max_distance))
    behind = np.searchsorted(starts, np.arange(r + 1), side="right") - 1
    ahead = behind[1:] + one_way if bidirectional else np.zeros(r, np.int64)
    return np.ascontiguousarray(table[:, np.concatenate([behind[::-1], ahead])])
