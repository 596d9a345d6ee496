# SPDX-License-Identifier: MIT
"""The types q, k, v and out are stored in: float32, float16, bfloat16 and, for k and v, int8."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastattn.arrays import as_array, check_layout

__all__ = ["Stored", "as_floats", "as_stored"]

_FLOATS = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.uint16))


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
    array = as_array(value, name)
    given = None
    if array.dtype.char not in "feHb" and array.dtype.name == "bfloat16" and array.dtype.itemsize == 2:  # name is slow
        given = array.dtype
        array = array.view(np.uint16)
    if not (array.dtype in _FLOATS or (int8 and array.dtype == np.int8)) or not array.dtype.isnative:
        order = "" if array.dtype.isnative else " in foreign byte order"
        came = array.dtype.name if array is value else getattr(value, "dtype", array.dtype.name)
        wanted = "float32, float16, bfloat16 (or its bits as uint16)" + (" or int8 with scales" if int8 else "")
        raise TypeError(f"{name}: dtype {came}{order}, expected {wanted}")
    check_layout(array, name)
    return Stored(array, given)


def as_floats(value: Any, name: str) -> np.ndarray:
    """A parameter or mask as float32: float16 and bfloat16 are widened, which is exact; other types are refused."""
    array = as_array(value, name)
    if array.dtype == np.float32 and array.dtype.isnative:
        return array
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.name == "bfloat16" or array.dtype == np.uint16:
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    raise TypeError(f"{name}: dtype {array.dtype}, expected float32, float16 or bfloat16")
