# SPDX-License-Identifier: MIT
"""Two ways to compare: with the float64 oracle under the accuracy rule, and between variants bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastattn as fa
from fastattn import reference

ULP = 2.0**-23
ORDERS = 8


class Stored(NamedTuple):
    """A storage type: NumPy name, canonical NaN, half a unit in the last place, and that of the smallest numbers."""

    dtype: str
    nan: int
    half: float
    least: float


STORED = {
    "float32": Stored("float32", 0x7FC00000, 0.0, 0.0),  # its rounding is part of the rule
    "float16": Stored("float16", 0x7E00, 2.0**-11, 2.0**-25),
    "bfloat16": Stored("bfloat16", 0x7FC0, 2.0**-8, 2.0**-134),
    "bits": Stored("uint16", 0x7FC0, 2.0**-8, 2.0**-134),  # bfloat16 as uint16
}


def worst(got: np.ndarray, ref: np.ndarray, stored: Stored = STORED["float32"]) -> float:
    """The largest absolute difference over the entries where both are finite, beyond what storing them rounds."""
    finite = np.isfinite(ref) & np.isfinite(got)
    g, r = got[finite].astype(np.float64), ref[finite].astype(np.float64)
    return float(np.max(np.abs(g - r) - stored.half * np.abs(g) - stored.least, initial=0.0))


def assert_same_special(got: Any, ref: np.ndarray, what: str = "out", storage: str = "float32") -> None:
    """Of that type and the oracle's shape, NaN (the canonical one) and the infinities where the oracle has them."""
    stored = STORED[storage]
    assert isinstance(got, np.ndarray), f"{what}: {type(got)}"
    assert got.dtype.name == stored.dtype, f"{what}: dtype {got.dtype}, expected {stored.dtype}"
    assert got.shape == ref.shape, f"{what}: shape {got.shape}, the oracle's is {ref.shape}"
    values = reference.widen(got)
    for kind, test in (("NaN", np.isnan), ("+inf", np.isposinf), ("-inf", np.isneginf)):
        wrong = test(values) != test(ref)
        assert not wrong.any(), (
            f"{what}: {kind} differs from the oracle in {int(wrong.sum())} places, first at "
            f"{tuple(int(i) for i in np.argwhere(wrong)[0])}: got {values[wrong][0]}, expected {ref[wrong][0]}"
        )
    bits = got[np.isnan(values)].view(f"u{got.dtype.itemsize}")
    assert (bits == stored.nan).all(), f"{what}: NaN stored as {bits[bits != stored.nan][0]:#x}, not {stored.nan:#x}"


class AsTheyCome:
    """An order of sums that is none: the one of a plain loop."""

    def permutation(self, count: int) -> np.ndarray:
        return np.arange(count)


def assert_accurate(
    got: Any,
    ref: np.ndarray,
    naive: np.ndarray,
    what: str = "out",
    reorder: Callable[[Any], np.ndarray] | None = None,
    storage: str = "float32",
) -> None:
    """The rule: max|err| <= 2 max|err of naive fp32 NumPy| + 2**-23 max|ref|; NaN and Inf as the oracle has them.

    The rule speaks of a maximum over many entries. In a small problem one row decides it, and the naive side may be
    lucky in just that row; ``reorder`` then computes the same naive fp32 with its sums in other orders, first in that
    of a plain loop, so that the bound is naive fp32's error and not one draw of it. Tests with many rows
    (test_accuracy) do not use it. An output ``storage`` narrower than float32 may round each entry once more, by half
    a unit in its last place.
    """
    assert_same_special(got, ref, what, storage)
    err, err_naive = worst(reference.widen(got), ref, STORED[storage]), worst(naive, ref)
    size = float(np.max(np.abs(ref[np.isfinite(ref)]), initial=0.0))
    rng = np.random.default_rng(0)
    for number in range(ORDERS if reorder else 0):
        if err <= 2 * err_naive + ULP * size:
            break
        err_naive = max(err_naive, worst(reorder(rng if number else AsTheyCome()), ref))
    bound = 2 * err_naive + ULP * size
    assert err <= bound, (
        f"{what}: max|err| = {err:.4g} > {bound:.4g} = 2 * {err_naive:.4g} (naive fp32) + 2**-23 * {size:.4g}; "
        f"{err / bound if bound else np.inf:.2f} times the bound"
    )


def assert_same_bits(a: Any, b: Any, what: str = "") -> None:
    """Equal dtype, shape and bytes; -0.0 is not 0.0 and every bit of a NaN counts."""
    if isinstance(a, tuple) or isinstance(b, tuple):
        assert len(a) == len(b), what
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            if one is None or other is None:
                assert one is other, f"{what}[{i}]: None on one side only"
            else:
                assert_same_bits(one, other, f"{what}[{i}]")
        return
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    assert a.dtype == b.dtype and a.shape == b.shape, f"{what}: {a.dtype}{a.shape} and {b.dtype}{b.shape}"
    if a.tobytes() == b.tobytes():
        return
    kind = f"u{a.dtype.itemsize}"
    differs = a.view(kind) != b.view(kind)
    first = tuple(int(i) for i in np.argwhere(differs)[0])
    raise AssertionError(
        f"{what}: {int(differs.sum())} of {a.size} entries differ, first at {first}: "
        f"{a[first]!r} ({a.view(kind)[first]:#x}) and {b[first]!r} ({b.view(kind)[first]:#x})"
    )


def attend_both(*arrays: np.ndarray, **options: Any) -> tuple[Any, ...]:
    """(out, lse, weights), then out and lse without asking for weights: those come from one kernel alone."""
    full = fa.attention(*arrays, return_lse=True, return_weights=True, **options)
    plain = fa.attention(*arrays, return_lse=True, **options)
    return (full.out, full.lse, full.weights, plain.out, plain.lse)


def check_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, weights: bool = True, **options: Any) -> np.ndarray:
    """One attention call against the oracle: out, lse and weights; and the same out whatever is returned beside it."""
    plain = fa.attention(q, k, v, **options)
    full = fa.attention(q, k, v, return_lse=True, return_weights=weights, **options)
    ref = reference.attention(q, k, v, **options)
    naive = reference.attention(q, k, v, dtype=np.float32, **options)

    def again(field: str) -> Callable[[np.random.Generator], np.ndarray]:
        return lambda rng: getattr(reference.attention(q, k, v, dtype=np.float32, order=rng, **options), field)

    assert_accurate(plain, ref.out, naive.out, "out", again("out"))
    assert_accurate(full.lse, ref.lse, naive.lse, "lse", again("lse"))
    assert_same_bits(full.out, plain, "out with and without return_lse and return_weights")
    if weights:
        assert_accurate(full.weights, ref.weights, naive.weights, "weights", again("weights"))
    else:
        assert full.weights is None
    return plain
