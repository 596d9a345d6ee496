# SPDX-License-Identifier: MIT
"""Storage types: every fp16 and bf16 pattern widened, narrowing against integers alone, quantised rows; all by ==."""

from __future__ import annotations

import numpy as np
import pytest
from support.compare import assert_same_bits
from support.inputs import generator

from fastattn import _testing

F32 = np.float32
ISAS = _testing.isas()
PATTERNS = np.arange(1 << 16, dtype=np.uint16)
# name: (mantissa bits, exponent bits, the NaN that is stored)
FORMATS = {"float16": (10, 5, 0x7E00), "bfloat16": (7, 8, 0x7FC0)}


def widened(patterns: np.ndarray, name: str) -> np.ndarray:
    """Exact values as float64, NaN for NaN, from the fields of the format."""
    mantissa_bits, exponent_bits, _ = FORMATS[name]
    bias = (1 << exponent_bits - 1) - 1
    p = patterns.astype(np.int64)
    mantissa = p & (1 << mantissa_bits) - 1
    exponent = p >> mantissa_bits & (1 << exponent_bits) - 1
    normal = exponent > 0
    value = np.ldexp(
        (mantissa + np.where(normal, 1 << mantissa_bits, 0)).astype(np.float64),
        np.where(normal, exponent, 1) - bias - mantissa_bits,
    )
    top = exponent == (1 << exponent_bits) - 1
    value[top] = np.where(mantissa[top] == 0, np.inf, np.nan)
    return np.where(p >> 15 & 1, -value, value)


def narrowed(bits: np.ndarray, name: str) -> np.ndarray:
    """float32 bit patterns to those of the format: nearest, ties to even, by integers alone."""
    mantissa_bits, exponent_bits, nan = FORMATS[name]
    bias = (1 << exponent_bits - 1) - 1
    b = bits.astype(np.int64)
    magnitude, exponent = b & 0x7FFFFFFF, b >> 23 & 255
    significand = (b & 0x7FFFFF) | np.where(exponent > 0, 1 << 23, 0)
    # value = significand * 2**(e - 150); the format's step at that value is 2**step
    e = np.maximum(exponent, 1)
    step = np.maximum(e - 127, 1 - bias) - mantissa_bits
    drop = np.minimum(step - (e - 150), 40)
    quotient, rest = significand >> drop, significand & (np.int64(1) << drop) - 1
    half = np.int64(1) << drop - 1
    quotient += (rest > half) | ((rest == half) & (quotient & 1 == 1))
    # A quotient of 2**(mantissa_bits + 1) carries into the exponent by itself.
    base = np.maximum(e - 127, 1 - bias) + bias - 1
    result = (base << mantissa_bits) + quotient
    largest = ((1 << exponent_bits) - 1) << mantissa_bits
    result = np.where((result > largest) | (magnitude == 0x7F800000), largest, result)
    result |= b >> 16 & 0x8000
    return np.where(magnitude > 0x7F800000, nan, result).astype(np.uint16)


def floats() -> np.ndarray:
    """Bit patterns where it matters: neighbours of each format's values and of their midpoints, limits, any others."""
    rng = generator("narrow")
    near = []
    for name in FORMATS:
        with np.errstate(invalid="ignore"):
            value = widened(PATTERNS, name).astype(F32).view(np.uint32).astype(np.int64)
        shift = 23 - FORMATS[name][0]
        for offset in (-1, 0, 1, (1 << shift - 1) - 1, 1 << shift - 1, (1 << shift - 1) + 1):
            near.append(value + offset)
    tiny = np.arange(1 << 14) * ((0x38800000 + (1 << 14) - 1) >> 14)  # all of fp16's denormals, and below
    around = [np.array([0, 0x80000000, 0x33000000, 0x33000001, 0x33800000, 0x477FEFFF, 0x477FF000, 0x7F7FFFFF,
                        0x7F7F7FFF, 0x7F7F8000, 0x7F800000, 0x7F800001, 0x7FC00000, 0xFFC12345, 0xFFFFFFFF, 1,
                        0x8000, 0x8001, 0x7FFF, 0x18000])]  # fmt: skip
    everything = np.concatenate([*near, tiny, tiny + 0x80000000, *around, rng.integers(0, 1 << 32, 200_000)])
    return (everything & 0xFFFFFFFF).astype(np.uint32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_pattern_is_widened_exactly(isa: str, name: str) -> None:
    stored = PATTERNS.view(np.float16) if name == "float16" else PATTERNS
    got, exact = _testing.widen(stored, name, isa), widened(PATTERNS, name)
    number = ~np.isnan(exact)
    assert (got[number].astype(np.float64) == exact[number]).all()
    assert (np.signbit(got) == np.signbit(exact))[number].all() and np.isnan(got[~number]).all()
    assert_same_bits(got, _testing.widen(stored, name, "scalar"), f"{name} on {isa} and scalar")
    if name == "bfloat16":
        assert (got.view(np.uint32) >> 16 == PATTERNS).all()


@pytest.mark.parametrize("isa", ISAS)
def test_int8_and_float32_are_copied(isa: str) -> None:
    x = np.arange(-128, 128, dtype=np.int8)
    assert_same_bits(_testing.widen(x, "int8", isa), x.astype(F32))
    bits = floats().view(F32)
    assert_same_bits(_testing.widen(bits, "float32", isa), bits, "NaN keeps its bits")
    assert_same_bits(_testing.narrow(bits, "float32", isa), np.where(np.isnan(bits), F32(np.nan), bits))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", FORMATS)
def test_narrowing_rounds_to_nearest_even(isa: str, name: str) -> None:
    bits = floats()
    got = _testing.narrow(bits.view(F32), name, isa).view(np.uint16)
    assert_same_bits(got, narrowed(bits, name), f"{name} on {isa}")


@pytest.mark.parametrize("name", FORMATS)
def test_the_integers_agree_with_others(name: str) -> None:
    """The reference of this file against NumPy's float16 and ml_dtypes' bfloat16, NaN aside."""
    bits = floats()
    x = bits.view(F32)
    kind = np.float16 if name == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    with np.errstate(over="ignore", invalid="ignore"):
        other = x.astype(kind).view(np.uint16)
    number = ~np.isnan(x)
    assert (narrowed(bits, name) == other)[number].all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", [*FORMATS, "int8", "float32"])
def test_rows_of_every_length(isa: str, name: str) -> None:
    rng = generator("lengths", name)
    for n in [*range(36), 100]:
        x = rng.standard_normal(n).astype(F32)
        if name == "int8":
            stored = (x * 40).astype(np.int8)
        else:
            stored = _testing.narrow(x, name, "scalar")
            assert_same_bits(_testing.narrow(x, name, isa), stored, f"{n} of {name}")
        assert_same_bits(_testing.widen(stored, name, isa), _testing.widen(stored, name, "scalar"), f"{n} of {name}")
        one, other = _testing.quantize(x, isa), _testing.quantize(x, "scalar")
        assert_same_bits(one[0], other[0], f"{n} quantised")
        assert one[1] == other[1]


@pytest.mark.parametrize("isa", ISAS)
def test_quantised_rows(isa: str) -> None:
    rng = generator("quantise")
    for n in (1, 16, 17, 64, 100):
        for spread in (1e-44, 1e-40, 1e-30, 1.0, 1e30, 3e37):
            x = (rng.standard_normal(n) * spread).clip(-3.4e38, 3.4e38).astype(F32)
            q, scale = _testing.quantize(x, isa)
            unit = np.abs(x).max() / F32(127)
            assert F32(scale) == unit
            if unit == 0:
                assert not q.any()
                continue
            ratio = (x / unit).clip(-127, 127)
            assert (q == np.rint(ratio)).all()
            if unit >= np.finfo(F32).tiny:
                assert np.abs(q).max() == 127
                assert (np.abs(q * scale - x.astype(np.float64)) <= 0.50001 * scale).all()


@pytest.mark.parametrize("isa", ISAS)
def test_quantised_rows_that_are_not_numbers(isa: str) -> None:
    assert _testing.quantize(np.zeros(40, F32), isa)[1] == 0
    for at in (0, 15, 16, 39):
        for bad in (np.nan, np.inf, -np.inf):
            x = np.linspace(-5, 5, 40, dtype=F32)
            x[at] = bad
            q, scale = _testing.quantize(x, isa)
            assert not q.any() and np.isnan(scale)
    ties = np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5], F32)
    assert _testing.quantize(ties, isa)[0].tolist() == [127, 0, 2, 2, 0, -2, 126]
