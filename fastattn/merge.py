# SPDX-License-Identifier: MIT
"""merge_attention: attention over disjoint sets of keys, put together by their log-sum-exps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastattn import _core
from fastattn.arrays import as_array, as_stored, describe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastattn.typing import Array

__all__ = ["MergedAttention", "merge_attention"]


class MergedAttention(NamedTuple):
    """What one attention call over all the keys would have returned."""

    out: NDArray[Any] | Any  # or the caller's own tensor
    lse: NDArray[np.float32]


def merge_attention(
    outs: Sequence[Array], lses: Sequence[Array], *, out: Array | None = None, num_threads: int | None = None
) -> MergedAttention:
    """Merges attention results over disjoint sets of keys into the result over all of them.

    For shared prefixes and keys that lie in several places: attend to each part with ``return_lse=True``, then merge.
    With m the largest lse, w_i = exp(lse_i - m) and W = w_0 + w_1 + ..., out is the sum of (w_i / W) outs[i], first to
    last, by fused multiply-adds, and lse is m + ln W. A part that saw no key (lse = -inf) contributes exactly nothing,
    even where its out holds NaN; a single part comes back as it is; a row without any key gives zeros and -inf. NaN or
    +inf among the lses gives NaN.

    Args:
        outs: float32, float16 or bfloat16 arrays of one dtype and shape (..., Hq, Sq, Dv), or (Tq, Hq, Dv): any shape
            of rank 1 to 8, any strides with a unit last one
        lses: as many float32 arrays of that shape without its last dimension: natural logarithms
        out: array of the outs' shape and dtype with memory of its own
        num_threads: threads of this call

    Returns:
        MergedAttention(out, lse): out of the outs' dtype, lse float32.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.

    Source: Juravsky et al., "Hydragen", 2024; the merging of partial softmaxes in Dao et al., "Flash-Decoding", 2023.

    >>> import numpy as np, fastattn as fa
    >>> a, b = np.float32([[1.0, 2.0]]), np.float32([[3.0, 4.0]])
    >>> merged = fa.merge_attention([a, b], [np.float32([0.0]), np.float32([0.0])])
    >>> merged.out
    array([[2., 3.]], dtype=float32)
    """
    for name, value in (("outs", outs), ("lses", lses)):
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{name}: {describe(value)}, expected a list or tuple of arrays")
    if not outs:
        raise ValueError("outs: empty, expected at least one array")
    if len(lses) != len(outs):
        raise ValueError(f"lses: {len(lses)} arrays, expected {len(outs)}, one for each of outs")
    first, kind = as_stored(outs[0], "outs[0]")
    if not 1 <= first.ndim <= 8:
        raise ValueError(f"outs[0]: rank {first.ndim}, expected 1 to 8")
    sides, weights = [], []
    for i, (side, lse) in enumerate(zip(outs, lses, strict=True)):
        array, side_kind = as_stored(side, f"outs[{i}]")
        if array.dtype != first.dtype:
            raise TypeError(f"outs[{i}]: dtype {side_kind}, expected {kind} as outs[0] has")
        if array.shape != first.shape:
            raise ValueError(f"outs[{i}]: shape {array.shape}, expected {first.shape} as outs[0] has")
        weight = as_array(lse, f"lses[{i}]")
        if weight.dtype != np.float32 or not weight.dtype.isnative:
            raise TypeError(f"lses[{i}]: dtype {weight.dtype}, expected float32")
        if weight.shape != first.shape[:-1]:
            raise ValueError(f"lses[{i}]: shape {weight.shape}, expected {first.shape[:-1]} as outs[{i}] has rows")
        sides.append(array)
        weights.append(weight)
    lse = np.empty(first.shape[:-1], np.float32)
    if out is None:
        result = np.empty(first.shape, first.dtype)
        _merge(sides, weights, result, lse, num_threads)
        return MergedAttention(result if first.dtype == kind else result.view(kind), lse)
    target, out_kind = as_stored(out, "out")
    if target.dtype != first.dtype:
        raise TypeError(f"out: dtype {out_kind}, expected {kind} as the outs have")
    if target.shape != first.shape:
        raise ValueError(f"out: shape {target.shape}, expected {first.shape}")
    for group, arrays in (("outs", sides), ("lses", weights)):
        for i, array in enumerate(arrays):
            if np.may_share_memory(target, array):
                raise ValueError(f"out: shares memory with {group}[{i}], expected memory of its own")
    _merge(sides, weights, target, lse, num_threads)
    return MergedAttention(out, lse)


def _merge(
    outs: list[np.ndarray], lses: list[np.ndarray], out: np.ndarray, lse: np.ndarray, num_threads: int | None
) -> None:
    """C takes up to four dimensions; those in front are walked."""
    if out.ndim <= 4:
        _core.merge(outs, lses, out, lse, num_threads)
        return
    for i in range(out.shape[0]):
        _merge([side[i] for side in outs], [weight[i] for weight in lses], out[i], lse[i], num_threads)
