# SPDX-License-Identifier: MIT
"""The vector functions: error in units in the last place over dense ranges, exact values, limits, lanes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.compare import assert_same_bits

from fastattn import _testing

F32 = np.float32
INF, NAN = math.inf, math.nan
TINY = float(np.finfo(F32).tiny)
POINTS = 40_001

_erf = np.vectorize(math.erf, otypes=[float])
_erfc = np.vectorize(math.erfc, otypes=[float])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return x * _sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


EXACT = {
    "exp2": np.exp2,
    "exp2_neg": np.exp2,
    "exp": np.exp,
    "log2": np.log2,
    "tanh": np.tanh,
    "erf": _erf,
    "sigmoid": _sigmoid,
    "gelu": lambda x: 0.5 * x * _erfc(-x * math.sqrt(0.5)),
    "gelu_tanh": _gelu_tanh,
    "silu": lambda x: x * _sigmoid(x),
}

# (from, to, largest error in units in the last place of the result), the errors found by five times as dense a scan
# plus a tenth (gelu within 1: the promise of 4, of which a scan of all floats finds 3.88). gelu's fit is weighed by
# what is left of the result: far below 0 it is good in absolute terms, no further.
BOUNDS = {
    "exp2": [(-126, -20, 0.86), (-20, -0.5, 0.86), (-0.5, 0.5, 0.84), (0.5, 20, 0.86), (20, 127.99, 0.86)],
    "exp2_neg": [(-126, -20, 0.86), (-20, -0.5, 0.86), (-0.5, 0, 0.86)],
    "exp": [(-87, -20, 1.1), (-20, -0.3, 1.1), (-0.3, 0.3, 0.9), (0.3, 20, 1.1), (20, 88.7, 1.1)],
    "log2": [
        (1.2e-38, 1e-10, 0.6), (1e-10, 0.1, 0.7), (0.1, 0.7, 1.2), (0.7, 0.99, 1.8), (0.99, 1.01, 1.6),
        (1.01, 1.5, 1.9), (1.5, 10, 1.1), (10, 1e10, 0.7), (1e10, 3e38, 0.6),
    ],
    "tanh": [(1e-38, 1e-4, 0.1), (1e-4, 0.1, 0.61), (0.1, 0.624, 0.82), (0.624, 2, 1.8), (2, 9, 0.72), (9, 100, 0.55)],
    "erf": [(1e-38, 1e-4, 0.6), (1e-4, 0.5, 0.68), (0.5, 1, 1.06), (1, 1.5, 1.4), (1.5, 4.25, 0.96), (4.25, 10, 0.1)],
    "sigmoid": [(-87, -20, 1.7), (-20, -1, 2.6), (-1, 1, 2.2), (1, 20, 1.7), (20, 100, 0.1)],
    "gelu": [
        (-6, -5, 1270), (-5, -3, 900), (-3, -1.5, 43), (-1.5, -1, 8), (-1, -0.1, 4), (-0.1, -1e-10, 3.9),
        (1e-10, 0.1, 3.6), (0.1, 1, 3), (1, 1.5, 1.4), (1.5, 5, 1.2), (5, 100, 0.55),
    ],
    "gelu_tanh": [
        (-5.5, -3, 37), (-3, -1, 13), (-1, -0.1, 2.7), (-0.1, -1e-10, 2.2), (1e-10, 1, 1.9), (1, 5, 1.9),
        (5, 100, 0.55),
    ],
    "silu": [
        (-87, -20, 1.8), (-20, -3, 2.6), (-3, -0.1, 2.1), (-0.1, -1e-10, 2.2), (1e-10, 1, 1.6), (1, 20, 1.7),
        (20, 1e4, 0.1),
    ],
}  # fmt: skip


def scan(low: float, high: float) -> np.ndarray:
    if low * high > 0 and max(abs(low / high), abs(high / low)) > 1000:
        return (math.copysign(1, low) * np.geomspace(abs(low), abs(high), POINTS)).astype(F32)
    return np.linspace(low, high, POINTS, dtype=F32)


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("isa", _testing.isas())
def test_errors_in_units_of_the_last_place(isa: str, name: str) -> None:
    for low, high, bound in BOUNDS[name]:
        x = scan(low, high)
        got, exact = _testing.vmath(name, x, isa), EXACT[name](x.astype(np.float64))
        normal = np.abs(exact) >= TINY
        ulp = np.abs(got - exact)[normal] / np.spacing(np.abs(exact[normal]).astype(F32)).astype(np.float64)
        assert ulp.max() <= bound, f"{name} from {low} to {high}: {ulp.max():.3f} at {x[normal][ulp.argmax()]!r}"
        assert_same_bits(got, _testing.vmath(name, x, "scalar"), f"{name} from {low} to {high}, {isa} and scalar")


@pytest.mark.parametrize("isa", _testing.isas())
def test_values_that_are_exact(isa: str) -> None:
    def value(name: str, *x: float) -> list[float]:
        return list(_testing.vmath(name, np.array(x, F32), isa).tolist())

    whole = np.arange(-126, 128)
    for name in ("exp2", "exp2_neg"):
        up_to = whole if name == "exp2" else whole[whole <= 0]
        assert_same_bits(
            _testing.vmath(name, up_to.astype(F32), isa), np.exp2(up_to).astype(F32), f"{name} of integers"
        )
    assert_same_bits(
        _testing.vmath("log2", np.exp2(whole).astype(F32), isa), whole.astype(F32), "log2 of powers of two"
    )
    assert value("exp", 0.0, -0.0) == [1.0, 1.0]
    assert value("exp2", -126.00001, -127, -150, -INF, 128, 3e38, INF) == [0, 0, 0, 0, INF, INF, INF]
    assert value("exp2_neg", -126.00001, -1e30, -INF) == [0, 0, 0]
    assert value("exp", -87.5, -1e30, -INF, 89, INF) == [0, 0, 0, INF, INF]
    assert value("log2", 0.0, -0.0, 1e-40, INF) == [-INF, -INF, -INF, INF]
    assert all(map(math.isnan, value("log2", -1e-30, -1, -INF)))
    assert value("tanh", INF, -INF, 20, -20) == [1, -1, 1, -1]
    assert value("erf", INF, -INF, 4.25, -4.25) == [1, -1, 1, -1]
    assert value("sigmoid", INF, -INF, 0, 100, -100) == [1, 0, 0.5, 1, 0]
    assert value("gelu", INF, -INF, -1e30, 1e30) == [INF, 0, 0, F32(1e30)]
    assert value("gelu_tanh", INF, -INF, -1e30, 1e10) == [INF, 0, 0, 1e10]
    assert value("silu", INF, -INF, -1e30, 1e30) == [INF, 0, 0, F32(1e30)]


@pytest.mark.parametrize("isa", _testing.isas())
def test_halves_round_to_even_in_the_range_reduction(isa: str) -> None:
    """exp2 of k + 1/2 from below and from above a tie: both neighbours and the tie itself stay within the bound."""
    ties = np.arange(-125.5, 127, 1, dtype=F32)
    for x in (ties, np.nextafter(ties, F32(-INF)), np.nextafter(ties, F32(INF))):
        exact = np.exp2(x.astype(np.float64))
        assert (np.abs(_testing.vmath("exp2", x, isa) - exact) <= 0.86 * np.spacing(exact.astype(F32))).all()


@pytest.mark.parametrize("isa", _testing.isas())
def test_gelu_beyond_its_range_is_exact(isa: str) -> None:
    """Beyond 6 x itself or +0; a fit turns over out there, so all magnitudes are tried."""
    above = np.concatenate([[np.nextafter(F32(6), F32(7)), 6.0103, 6.5, 13, INF], np.geomspace(6.001, 3.4e38, POINTS)])
    above = above.astype(F32)
    assert_same_bits(_testing.vmath("gelu", above, isa), above, "above")
    assert_same_bits(_testing.vmath("gelu", -above, isa), np.zeros_like(above), "below")
    ends = np.array([6, np.nextafter(F32(6), F32(0))], F32)
    assert_same_bits(_testing.vmath("gelu", ends, isa), ends, "the last of the range")
    assert (np.abs(_testing.vmath("gelu", -ends, isa) + 5.92e-9) < 1e-12).all()
    zeros = np.array([0.0, -0.0], F32)
    assert_same_bits(_testing.vmath("gelu", zeros, isa), zeros, "zeros")


@pytest.mark.parametrize("isa", _testing.isas())
def test_gelu_of_tiny_values_is_half_of_them(isa: str) -> None:
    """Below 2**-25 the slope is 1/2 to the last digit; an odd denormal has two halves that are as near."""
    normal = np.geomspace(2.4e-38, 2**-26, POINTS).astype(F32)
    few = np.arange(1, 2000, dtype=np.uint32)
    denormal = np.concatenate([few, np.uint32(0x7FFFFF) - few, np.uint32(0x800000) + few]).view(F32)
    for sign in (F32(1), F32(-1)):
        assert_same_bits(_testing.vmath("gelu", sign * normal, isa), sign * normal / 2, f"{sign} normal")
        got = _testing.vmath("gelu", sign * denormal, isa)
        assert (np.abs(got.astype(np.float64) - sign * denormal.astype(np.float64) / 2) <= 2**-150).all()
        assert_same_bits(got, _testing.vmath("gelu", sign * denormal, "scalar"), f"{sign} denormal")


@pytest.mark.parametrize("isa", _testing.isas())
def test_gelu_of_any_float(isa: str) -> None:
    """Random bits: the scalar kernel's, within 2.5e-7 of the function and between 0 and x everywhere."""
    rng = np.random.default_rng(11)
    x = np.concatenate([rng.integers(0, 1 << 32, POINTS, np.uint32).view(F32), scan(-7, 7)])
    got = _testing.vmath("gelu", x, isa)
    assert_same_bits(got, _testing.vmath("gelu", x, "scalar"), isa)
    x, got = x[~np.isnan(x)], got[~np.isnan(x)]
    assert not np.isnan(got).any()
    up = x > 0
    assert (got[up] >= 0).all() and (got[up] <= x[up]).all()
    assert (got[~up] <= 0).all() and (got[~up] > -0.17).all() and (got[~up] >= x[~up]).all()
    near = np.abs(x) < 7
    assert np.abs(got[near] - EXACT["gelu"](x[near].astype(np.float64))).max() < 2.5e-7


@pytest.mark.parametrize("isa", _testing.isas())
@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_odd_functions(isa: str, name: str) -> None:
    x = np.concatenate([scan(1e-44, 1e-3), scan(1e-3, 12)])
    up, down = _testing.vmath(name, x, isa), _testing.vmath(name, -x, isa)
    assert_same_bits(down, -up, name)
    assert ((up > 0) & (up <= 1)).all() and (down < 0).all()


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("isa", _testing.isas())
def test_nan_of_any_kind_is_the_one_nan(isa: str, name: str) -> None:
    kinds = np.array([0x7FC00000, 0x7F800001, 0xFFC00000, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(F32)
    assert (_testing.vmath(name, kinds, isa).view(np.uint32) == 0x7FC00000).all()


@pytest.mark.parametrize("isa", _testing.isas())
def test_lanes(isa: str) -> None:
    """Transpose, comparison bits, and the sum of 16 lanes: i + (i + 8), then 4, 2, 1."""
    rng = np.random.default_rng(5)
    x = (rng.standard_normal((16, 16)) * 10.0 ** rng.integers(-6, 6, (16, 16))).astype(F32)
    x[0, :4] = [0.0, -0.0, INF, -1.0]
    x[1] = 0
    turned, bits, sums = _testing.lanes(x, isa)
    assert_same_bits(turned, np.ascontiguousarray(x.T))
    assert bits.tolist() == [sum(int(v < 0) << i for i, v in enumerate(row)) for row in x]
    tree = x.copy()
    for step in (8, 4, 2, 1):
        tree = tree[:, :step] + tree[:, step : 2 * step]
    assert_same_bits(sums, np.ascontiguousarray(tree[:, 0]))
