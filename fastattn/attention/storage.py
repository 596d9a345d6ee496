# SPDX-License-Identifier: MIT
"""The types q, k, v and out are stored in: float32, float16, bfloat16 and, for k and v, int8."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastattn import arrays

__all__ = ["Stored", "as_floats", "as_stored"]


class Stored(NamedTuple):
    """An array the core can read: bfloat16 is there as uint16."""

    array: np.ndarray
    given: np.dtype | None
    """ml_dtypes' bfloat16 where the caller's array had it, None where `array` has the caller's dtype."""

    def same_dtype(self, value: Any, name: str) -> np.ndarray:
        """`value` as an array of this dtype; TypeError for another."""
        other = as_stored(value, name)
        if other.array.dtype != self.array.dtype:
            raise TypeError(f"{name}: dtype {_text(other)}, expected {_text(self)} as q has")
        return other.array


def _text(stored: Stored) -> str:
    return "bfloat16 (uint16)" if stored.array.dtype == np.uint16 else stored.array.dtype.name


def as_stored(value: Any, name: str, int8: bool = False) -> Stored:
    """`value` with a unit last stride and aligned elements, in place; int8 where that is allowed.

    uint16 is taken for bfloat16: raw bits, torch tensors through DLPack, and ml_dtypes arrays, which are viewed so.
    """
    array, kind = arrays.as_stored(value, name, int8)
    arrays.check_layout(array, name)
    return Stored(array, None if kind == array.dtype else kind)


def as_floats(value: Any, name: str) -> np.ndarray:
    """A parameter or mask as float32: float16 and bfloat16 are widened, which is exact; other types are refused."""
    array = arrays.as_array(value, name)
    if array.dtype == np.float32 and array.dtype.isnative:
        return array
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.name == "bfloat16" or array.dtype == np.uint16:
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    raise TypeError(f"{name}: dtype {array.dtype}, expected float32, float16 or bfloat16")
