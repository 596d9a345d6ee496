# SPDX-License-Identifier: MIT
"""Row-wise operators the long way: arguments that the core does not take as they are, and every error in words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastattn import _core
from fastattn.arrays import as_array, as_float32, check_out, describe

__all__ = ["as_rows", "make_target", "rows_with_checks"]

_FLOAT32_MAX = float(np.finfo(np.float32).max)


def rows_with_checks(
    op: int, x: Any, residual: Any, vectors: dict[str, Any], eps: Any, act: int, out: Any, num_threads: int | None,
    second: str = "residual",
) -> Any:  # fmt: skip
    """What ``_core.run_rows`` does, for its arguments as a caller gives them; ``vectors`` are weight and bias."""
    array = as_rows(x, "x")
    apart: dict[str, np.ndarray] = {}
    places = {"x": array}
    if residual is not None:
        places[second] = as_float32(residual, second)
        if places[second].shape != array.shape:
            raise ValueError(f"{second}: shape {places[second].shape}, expected {array.shape} as x has")
    for name, vector in vectors.items():
        if vector is None and name == "bias":
            continue
        apart[name] = as_float32(vector, name)
        if apart[name].shape != array.shape[-1:]:
            raise ValueError(f"{name}: shape {apart[name].shape}, expected {array.shape[-1:]}, the last dimension of x")
    epsilon = _check_eps(eps)
    if out is not None:
        given = as_array(out, "out")
        apart |= {name: place for name, place in places.items() if not _same_place(given, place)}
    target = make_target(out, array.shape, apart)
    weight, bias = apart.get("weight"), apart.get("bias")
    result = _core.run_rows(op, array, places.get(second), weight, bias, epsilon, act, target, num_threads, True)
    return result if out is None else out


def as_rows(value: Any, name: str) -> np.ndarray:
    """``value`` as float32 with rows."""
    array = as_float32(value, name)
    if not 1 <= array.ndim <= 32:
        raise ValueError(f"{name}: rank {array.ndim}, expected 1 to 32")
    return array


def make_target(out: Any, shape: tuple[int, ...], apart: dict[str, np.ndarray]) -> np.ndarray:
    """``out`` once it is checked, or a new array."""
    return np.empty(shape, np.float32) if out is None else check_out(out, shape, apart)


def _same_place(a: np.ndarray, b: np.ndarray) -> bool:
    """Exactly the same elements of memory in the same order."""
    if a.shape != b.shape or a.__array_interface__["data"][0] != b.__array_interface__["data"][0]:
        return False
    return all(s == t for s, t, size in zip(a.strides, b.strides, a.shape, strict=True) if size > 1)


def _check_eps(eps: Any) -> float:
    if isinstance(eps, (bool, np.bool_)) or not isinstance(eps, (int, float, np.integer, np.floating)):
        raise TypeError(f"eps: {describe(eps)}, expected a real number")
    if isinstance(eps, int) and abs(eps) > _FLOAT32_MAX:  # not by float(), which it need not fit
        raise ValueError(f"eps: an integer of {eps.bit_length()} bits, expected a finite number of at least 0")
    number = float(eps)
    if not (0.0 <= number <= _FLOAT32_MAX) or math.isnan(number):
        raise ValueError(f"eps: {eps}, expected a finite number of at least 0")
    return number
