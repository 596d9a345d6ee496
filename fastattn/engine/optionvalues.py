# SPDX-License-Identifier: MIT
"""Numbers and token ids that users give, checked: each of the type it stands for, within its range, or an error."""

from __future__ import annotations

from collections.abc import Mapping, Set
from numbers import Integral, Real
from operator import index
from typing import Any

import numpy as np

__all__ = ["INFINITY", "keys_of", "number", "token_ids", "whole"]

INFINITY = float("inf")


def number(name: str, value: Any, default: float, least: float, most: float, expected: str) -> float:
    """``value`` as a float within the range, ``default`` for None."""
    if value is None:
        return default
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    try:
        found = float(value)
    except OverflowError:  # an integer of hundreds of digits
        found = INFINITY
    if not least <= found <= most:
        raise ValueError(f"{name}: got {found:g}, expected {expected}")
    return found


def whole(name: str, value: Any, default: int, least: int, most: int | None, expected: str | None = None) -> int:
    """``value`` as an int within the range, ``default`` for None."""
    if value is None:
        return default
    try:
        found = index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    if found < least or (most is not None and found > most):
        if expected is None:
            expected = f"{least} or more" if most is None else f"{least} to {most}"
        shown = str(found) if abs(found) < 10**24 else "an integer of many digits"
        raise ValueError(f"{name}: got {shown}, expected {expected}")
    return found


def token_ids(name: str, value: Any, vocab_size: int | None) -> tuple[int, ...]:
    """Ids in their order, those of a set ascending. Without ``vocab_size`` there may be ones that no model has."""
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.ndim == 1 else value
    if isinstance(value, Set):
        value = sorted(value, key=lambda one: (not isinstance(one, Integral), one if isinstance(one, Integral) else 0))
    if not isinstance(value, list | tuple | range):
        raise TypeError(f"{name}: expected token ids, got {type(value).__name__}")
    most = None if vocab_size is None else vocab_size - 1
    return tuple(whole(name, _some(name, one), 0, 0, most) for one in value)


def _some(name: str, value: Any) -> Any:
    if value is None:
        raise TypeError(f"{name}: expected token ids, got NoneType")
    return value


def keys_of(name: str, value: Mapping[Any, Any], known: tuple[str, ...]) -> None:
    """Refuse a mapping that has other keys."""
    for key in value:
        if not isinstance(key, str) or key not in known:
            raise ValueError(f"{name}: got the key {str(key)[:100]!r}, expected {', '.join(known)}")
