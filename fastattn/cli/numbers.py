# SPDX-License-Identifier: MIT
"""Rows of float32 as text, in the nine digits that give back each of them exactly; without Python's work per number."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

__all__ = ["number_rows"]

_FEW = 2000  # numbers; making the tables costs as much as formatting some tens of thousands one by one
_AT_ONCE = 6144  # numbers whose characters stay in the second-level cache
_FIRST, _LAST = -46, 39  # powers of ten


class _Tables(NamedTuple):
    digits: np.ndarray[Any, Any]
    """(4000,) four characters: 000 to 999 without a point, then with one after their first, second, third digit."""
    before: np.ndarray[Any, Any]
    """(2 * powers,) eight characters: the sign and the zeros before the first digit."""
    point: np.ndarray[Any, Any]
    """(3, powers): what to add to the index of `digits` for each group of three, so that the point is in its place."""
    after: np.ndarray[Any, Any]
    """(powers,) four characters: the exponent, if there is one."""
    scale: np.ndarray[Any, Any]
    """(powers,) float64: 10 ** (8 - power)."""
    power: np.ndarray[Any, Any]
    """(256,): index of the power of ten of the smallest number with this binary exponent."""
    next_power: np.ndarray[Any, Any]
    """(256,) float64: the power of ten above."""


@cache
def _tables() -> _Tables:
    powers = range(_FIRST, _LAST + 1)
    plain = [-4 <= power < 8 for power in powers]  # the others are written with an exponent, as "%g" does
    groups = [f"{number:03}" for number in range(1000)]
    pointed = [group if not at else f"{group[:at]}.{group[at:]}" for at in range(4) for group in groups]
    zeros = ["0." + "0" * (-power - 1) if -4 <= power < 0 else "" for power in powers]
    point = np.zeros((3, len(powers)), np.intp)
    for index, power in enumerate(powers):
        if power >= 0 or not plain[index]:
            group, place = divmod(power if plain[index] else 0, 3)
            point[group, index] = 1000 * (place + 1)
    tens = np.array([float(f"1e{power}") for power in (*powers, _LAST + 1)])
    lowest = np.searchsorted(tens, [2.0 ** (exponent - 127) for exponent in range(256)], "right") - 1
    lowest[0] = -_FIRST  # zero: "0.00000000"
    return _Tables(
        digits=_characters(pointed, 4),
        before=_characters([sign + zero for sign in ("", "-") for zero in zeros], 8),
        point=point,
        after=_characters(["" if whole else f"e{ten:+03}" for ten, whole in zip(powers, plain, strict=True)], 4),
        scale=np.array([float(f"1e{8 - ten}") for ten in powers]),
        power=lowest,
        next_power=tens[lowest + 1],
    )


def _characters(texts: list[str], width: int) -> np.ndarray[Any, Any]:
    """Texts as integers of `width` bytes, filled up with zero bytes."""
    return np.frombuffer(b"".join(text.encode().ljust(width, b"\0") for text in texts), f"u{width}")


def number_rows(rows: np.ndarray[Any, Any]) -> list[bytes]:
    """Each row's numbers, in nine significant digits, with ``", "`` between them.

    Nine digits give back every float32. They are plain from 1e-4 to 1e8 and have an exponent elsewhere.

    Args:
        rows: (n, width) float32, finite.

    >>> number_rows(np.float32([[0.1, -2.5, 0.0], [1e-7, 3e9, 12.34]]))
    [b'0.100000001, -2.50000000, 0.00000000', b'1.00000001e-07, 3.00000000e+09, 12.3400002']
    """
    if rows.size <= _FEW:
        return [_one_by_one(row) for row in rows]
    count = max(1, _AT_ONCE // rows.shape[1])
    result: list[bytes] = []
    for start in range(0, len(rows), count):
        result += _all_at_once(np.ascontiguousarray(rows[start : start + count], np.float32))
    return result


def _one_by_one(row: np.ndarray[Any, Any]) -> bytes:
    return ", ".join([f"{x:.8e}" if abs(x) >= 1e8 else f"{x:#.9g}" for x in row.tolist()]).encode()


def _all_at_once(rows: np.ndarray[Any, Any]) -> list[bytes]:
    tables = _tables()
    exponent = (rows.view(np.uint32) >> 23).astype(np.intp)
    negative = exponent >> 8
    exponent &= 255
    size = np.abs(rows).astype(np.float64)
    power = tables.power[exponent]
    power += size >= tables.next_power[exponent]
    # Off by at most a unit in the last place of a double, far less than what tells two float32 apart.
    number = np.rint(size * tables.scale[power]).astype(np.uint32)
    if (above := number == 1_000_000_000).any():
        number[above] = 100_000_000
        power[above] += 1
    thousands = number // 1000
    first = thousands // 1000
    out = np.empty((*rows.shape, 7), np.uint32)
    out[..., :2].view(np.uint64)[..., 0] = tables.before[power + negative * len(tables.scale)]
    out[..., 2] = tables.digits[first + tables.point[0][power]]
    out[..., 3] = tables.digits[thousands - first * 1000 + tables.point[1][power]]
    out[..., 4] = tables.digits[number - thousands * 1000 + tables.point[2][power]]
    out[..., 5] = tables.after[power]
    out[..., 6] = _characters([", "], 4)[0]
    out[:, -1, 6] = _characters(["\n"], 4)[0]
    texts = out.tobytes().translate(None, b"\0").split(b"\n")[:-1]
    for index in np.flatnonzero(((exponent == 0) & (size > 0)).any(axis=1)):  # numbers below 2 ** -126
        texts[index] = _one_by_one(rows[index])
    return texts
