# SPDX-License-Identifier: MIT
"""Vectors in fewer bits: bytes by ranges that the caller measured, or signs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import ops
from ..arrays import as_float32, describe

if TYPE_CHECKING:
    from ..typing import Precision

__all__ = ["PRECISIONS", "check_precision", "quantize", "quantized_width"]

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
_BY_RANGE = ("int8", "uint8")
_INFINITY = 0x7F800000  # bits of float32


def check_precision(precision: Any, ranges: Any, dim: int) -> np.ndarray | None:
    """What ``quantize`` needs to know of ``ranges``, before any work is done: (2, dim) float32, or None.

    Args:
        precision: one of PRECISIONS
        ranges: (2, dim) real numbers, least and most of each dimension, with "int8" and "uint8"; None with the others
        dim: width of the vectors

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.
    """
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ValueError(f"precision: {precision!r}, expected one of {', '.join(map(repr, PRECISIONS))}")
    if precision not in _BY_RANGE:
        if ranges is not None:
            raise ValueError(f"ranges: {describe(ranges)}, expected None with precision {precision!r}")
        return None
    if ranges is None:
        raise ValueError(
            f"ranges: None, expected a (2, {dim}) array with precision {precision!r}: the least and the most of each "
            "dimension over float32 vectors v of many texts of the kind, numpy.stack([v.min(axis=0), v.max(axis=0)]). "
            "Keep it: vectors can be compared only if they were made with the same ranges"
        )
    ends = _real(ranges)
    if ends.shape != (2, dim):
        raise ValueError(f"ranges: shape {ends.shape}, expected (2, {dim}): least and most of each dimension")
    bad = np.argwhere(~np.isfinite(ends))
    if bad.size:
        row, column = (int(i) for i in bad[0])
        raise ValueError(f"ranges: {ends[row, column]} at ({row}, {column}), expected finite float32 numbers")
    turned = np.flatnonzero(ends[0] > ends[1])
    if turned.size:
        at = int(turned[0])
        raise ValueError(f"ranges: from {ends[0, at]} to {ends[1, at]} in dimension {at}, expected least and most")
    return ends


def _real(ranges: Any) -> np.ndarray:
    """An array, or lists of numbers, as float32; rounded where they are float64, as sentence-transformers does it."""
    try:
        array = np.asarray(ranges)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"ranges: {describe(ranges)} that is no array ({error}), expected (2, d)") from error
    if array.dtype.kind not in "fiu":
        raise TypeError(f"ranges: {describe(ranges) if array is ranges else array.dtype}, expected real numbers")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32)


def quantized_width(precision: str, dim: int) -> int:
    """Columns of vectors of ``dim`` numbers: eight to a byte for signs."""
    return -(-dim // 8) if precision in ("binary", "ubinary") else dim


def quantize(vectors: Any, precision: Precision, ranges: Any = None, num_threads: int | None = None) -> np.ndarray:
    """Vectors (n, d) float32 in another precision, byte for byte as quantize_embeddings of sentence-transformers 6.

    - "float32": as they are
    - "uint8": floor((x - least) / step), step = (most - least) / 255 or 1 where that is 0, within 0 to 255: what lies
      outside the ranges gets their nearest end, NaN the lower one
    - "int8": the same minus 128
    - "ubinary": (n, ceil(d / 8)) uint8, the bits of x > 0, the first dimension in the highest bit; NaN is not above 0
    - "binary": the same minus 128, as int8

    Before version 6 sentence-transformers wrapped around outside the ranges and rounded "int8" towards zero.

    Args:
        vectors: (n, d) float32
        precision: one of PRECISIONS
        ranges: see check_precision; never taken from the vectors themselves, whose neighbours would change their bytes
        num_threads: threads of this call

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.

    >>> import numpy as np
    >>> x = np.float32([[-0.5, 0.25, 1.5]])
    >>> quantize(x, "int8", np.float32([[-1, -1, -1], [1, 1, 1]]))
    array([[-65,  31, 127]], dtype=int8)
    >>> quantize(x, "ubinary")
    array([[96]], dtype=uint8)
    """
    x = as_float32(vectors, "vectors")
    if x.ndim != 2:
        raise ValueError(f"vectors: shape {x.shape}, expected (n, d)")
    ends = check_precision(precision, ranges, x.shape[1])
    if precision == "float32":
        return x
    if ends is not None:
        quantized: np.ndarray = ops.quantize(
            x, ends, "uint8" if precision == "uint8" else "int8", num_threads=num_threads
        )
        return quantized
    # by its bits: a comparison of floats would follow the caller's mode for denormals
    bits = np.ascontiguousarray(x).view(np.int32)
    packed = np.packbits((bits > 0) & (bits <= _INFINITY), axis=-1)
    return packed if precision == "ubinary" else (packed ^ np.uint8(0x80)).view(np.int8)
