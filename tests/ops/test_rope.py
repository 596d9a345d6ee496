# SPDX-License-Identifier: MIT
"""fastattn.rope: the rotation to the bit, every layout and storage type, what it refuses."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from support.compare import assert_accurate, assert_same_bits
from support.dlpack import BFLOAT, Producer
from support.inputs import bshd, generator, normal, reversed_rows, sliced, unaligned
from support.variants import assert_one_result

import fastattn as fa
from fastattn import _testing, reference

F32 = np.float32
ISAS = _testing.isas()
STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


def narrow(x: np.ndarray, name: str) -> np.ndarray:
    return _testing.narrow(np.ascontiguousarray(x).reshape(-1), name, "scalar").reshape(x.shape)


def widen(x: np.ndarray, name: str) -> np.ndarray:
    return _testing.widen(np.ascontiguousarray(x).reshape(-1), name, "scalar").reshape(x.shape)


def rounded(x: Fraction) -> np.float32:
    """The float32 nearest to a fraction, ties to even; normal results only."""
    if x == 0:
        return F32(0)
    exponent = 0
    while abs(x) * Fraction(2) ** -exponent >= 1 << 24:
        exponent += 1
    while abs(x) * Fraction(2) ** -exponent < 1 << 23:
        exponent -= 1
    return F32(round(x * Fraction(2) ** -exponent)) * F32(2.0**exponent)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("interleaved", [False, True])
def test_the_order_of_the_rotation(isa: str, interleaved: bool) -> None:
    """a' = fma(a, c, -(b s)), b' = fma(b, c, a s): written out in fractions, and compared to the bit."""
    rng = generator("order")
    x = normal(rng, 1, 1, 12, 38)
    cos, sin = normal(rng, 1, 12, 19), normal(rng, 1, 12, 19)
    with _testing.use_isa(isa):
        got = fa.rope(x, cos, sin, interleaved=interleaved)[0, 0]
    first, second = (slice(0, 38, 2), slice(1, 38, 2)) if interleaved else (slice(0, 19), slice(19, 38))
    for a, b, c, s, y, z in zip(
        *(v.reshape(-1).tolist() for v in (x[0, 0, :, first], x[0, 0, :, second], cos, sin)),
        *(got[:, part].reshape(-1) for part in (first, second)), strict=True,
    ):  # fmt: skip
        assert y == rounded(Fraction(a) * Fraction(c) - Fraction(float(F32(b) * F32(s))))
        assert z == rounded(Fraction(b) * Fraction(c) + Fraction(float(F32(a) * F32(s))))


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("interleaved", [False, True])
def test_every_width_and_partial_width(name: str, interleaved: bool) -> None:
    rng = generator("widths", name, interleaved)
    for d in (2, 3, 16, 30, 33, 64, 80, 128, 200):
        for rotary in {2, d // 2 // 2 * 2 or 2, d // 2 * 2}:
            x = narrow(normal(rng, 2, 3, 5, d), name)
            x[0, 0, 0, -1] = 0x7E01 if name == "bfloat16" else np.nan
            cos, sin = fa.rope_table(60, rotary)
            at = rng.integers(0, 60, (2, 5))

            def call(x: Any = x, cos: Any = cos, sin: Any = sin, at: Any = at, **options: Any) -> np.ndarray:
                return fa.rope(x, cos, sin, position_ids=at, interleaved=interleaved, **options)

            got = assert_one_result(call, f"D={d}, R={rotary}", kernels=())
            assert_same_bits(got[..., rotary:], x[..., rotary:], "what is not rotated")
            if name == "float32":
                turned = [
                    reference.rope(x, cos, sin, at, interleaved, dtype=t)[..., :rotary] for t in (np.float64, F32)
                ]
                assert_accurate(got[..., :rotary], turned[0], turned[1])
            else:
                wide = fa.rope(widen(x, name), cos, sin, position_ids=at, interleaved=interleaved)
                assert_same_bits(got[..., :rotary], narrow(wide[..., :rotary], name), f"{name}: rounded once")


@pytest.mark.parametrize("interleaved", [False, True])
def test_layouts_and_in_place(interleaved: bool) -> None:
    rng = generator("layouts")
    x = normal(rng, 2, 4, 50, 40)
    cos, sin = fa.rope_table(64, 24)
    at = rng.integers(0, 64, (2, 50))
    expected = fa.rope(x, cos, sin, position_ids=at, interleaved=interleaved)
    for isa in ISAS:
        with _testing.use_isa(isa):
            for layout in (np.copy, bshd, sliced, reversed_rows, unaligned):
                given = layout(x)
                options: dict[str, Any] = {"position_ids": at, "interleaved": interleaved}
                assert_same_bits(fa.rope(given, cos, sin, **options), expected, layout.__name__)
                out = layout(np.zeros_like(x))
                assert fa.rope(x, cos, sin, out=out, **options) is out
                assert_same_bits(out, expected, f"out: {layout.__name__}")
                assert fa.rope(given, cos, sin, out=given, **options) is given
                assert_same_bits(given, expected, f"in place: {layout.__name__}")
    rows = fa.rope(x, cos[at], sin[at], interleaved=interleaved)
    assert_same_bits(rows, expected, "angles by row")
    assert_same_bits(fa.rope(x, sliced(cos), sliced(sin), position_ids=at, interleaved=interleaved), expected)
    assert_same_bits(
        fa.rope(np.broadcast_to(x[:1], x.shape), cos, sin, position_ids=at[:1], interleaved=interleaved)[1],
        expected[0],
        "one sequence, one row of positions for both",
    )


def test_ranks() -> None:
    rng = generator("ranks")
    x = normal(rng, 1, 3, 6, 8)
    cos, sin = fa.rope_table(10, 8)
    at = rng.integers(0, 10, (1, 6))
    expected = fa.rope(x, cos, sin, position_ids=at)
    assert_same_bits(fa.rope(x[0], cos, sin, position_ids=at[0]), expected[0])
    assert_same_bits(fa.rope(x[0, 1], cos, sin, position_ids=at[0].tolist()), expected[0, 1])
    assert_same_bits(fa.rope(x, cos, sin, position_ids=at[0].astype(np.int16)), expected)
    assert_same_bits(fa.rope(x, cos[at[0]], sin[at[0]]), expected)
    packed = x[0].swapaxes(0, 1).copy()  # (T, H, D)
    assert_same_bits(fa.rope(packed.swapaxes(0, 1), cos, sin, position_ids=at[0]), expected[0])
    for shape in [(0, 3, 6, 8), (1, 0, 6, 8), (1, 3, 0, 8)]:
        got = fa.rope(np.empty(shape, F32), cos, sin, position_ids=np.zeros((shape[0], shape[2]), int))
        assert got.shape == shape


def test_many_rows_on_many_threads() -> None:
    rng = generator("threads")
    for x in (normal(rng, 2, 8, 700, 64), bshd(normal(rng, 2, 8, 700, 64)), normal(rng, 64, 16, 1, 64)):
        cos, sin = fa.rope_table(2000, 64)
        at = rng.integers(0, 2000, (x.shape[0], x.shape[2]))

        def call(x: Any = x, cos: Any = cos, sin: Any = sin, at: Any = at, **options: Any) -> np.ndarray:
            return fa.rope(x, cos, sin, position_ids=at, **options)

        assert_one_result(call, str(x.shape), kernels=())


def test_arrays_of_others() -> None:
    rng = generator("others")
    x = normal(rng, 2, 3, 5, 16)
    cos, sin = fa.rope_table(9, 16)
    at = rng.integers(0, 9, (2, 5))
    expected = fa.rope(x, cos, sin, position_ids=at)
    assert_same_bits(fa.rope(Producer(x), Producer(cos), Producer(sin), position_ids=Producer(at)), expected)
    assert_same_bits(fa.rope(memoryview(x), cos, sin, position_ids=at), expected)
    halves = narrow(x, "bfloat16")
    expected = fa.rope(halves, cos, sin, position_ids=at)
    assert expected.dtype == np.uint16
    assert_same_bits(fa.rope(Producer(halves, code=BFLOAT), cos, sin, position_ids=at), expected)
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    got = fa.rope(halves.view(bfloat16), cos, sin, position_ids=at)
    assert got.dtype == bfloat16
    assert_same_bits(got.view(np.uint16), expected)
    out = np.zeros(x.shape, bfloat16)
    assert fa.rope(halves.view(bfloat16), cos, sin, position_ids=at, out=out) is out
    assert_same_bits(out.view(np.uint16), expected)


def test_values_that_are_not_numbers() -> None:
    for isa in ISAS:
        with _testing.use_isa(isa):
            for interleaved, name in itertools.product((False, True), STORED):
                x = np.ones((1, 1, 2, 34), F32)
                x[0, 0, 0, 3], x[0, 0, 0, 5] = np.nan, np.inf
                got = fa.rope(narrow(x, name), *fa.rope_table([0, 1], 34), interleaved=interleaved)
                wide = widen(got, name)[0, 0]
                partner = [2, 4] if interleaved else [20, 22]
                assert np.isnan(wide[0, [3, *partner]]).all() and not np.isnan(wide[1]).any()
                kept = np.delete(wide[0], [3, 5, *partner])
                assert (kept == 1).all()
                bits = got[0, 0].view(f"u{got.itemsize}")[np.isnan(widen(got, name)[0, 0])]
                assert (bits == {"float32": 0x7FC00000, "float16": 0x7E00, "bfloat16": 0x7FC0}[name]).all()


def test_bad_input() -> None:
    x = np.ones((2, 3, 5, 16), F32)
    cos, sin = fa.rope_table(9, 16)
    at = np.zeros((2, 5), np.int64)

    def refused(kind: type[Exception], match: str, **changed: Any) -> None:
        args: dict[str, Any] = {"x": x, "cos": cos, "sin": sin, "position_ids": at} | changed
        with pytest.raises(kind, match=match):
            fa.rope(args.pop("x"), args.pop("cos"), args.pop("sin"), **args)

    wrong = at.copy()
    for value in (-1, 9, 2**40):
        wrong[1, 3] = value
        refused(ValueError, rf"position_ids: {value} at \(1, 3\), expected 0 to 8", position_ids=wrong)
    refused(ValueError, r"position_ids: shape \(2, 4\), expected \(2, 5\) or \(5,\)", position_ids=at[:, :4])
    refused(ValueError, r"position_ids: shape \(3, 5\)", position_ids=np.zeros((3, 5), int))
    refused(ValueError, "position_ids: rank 0", position_ids=3)
    refused(TypeError, "position_ids: dtype float64", position_ids=np.zeros((2, 5)))
    refused(ValueError, r"sin: shape \(8, 8\), expected \(9, 8\)", sin=sin[:8])
    refused(ValueError, r"cos: shape \(9, 16\), expected a last dimension of 1 to 8",
            cos=np.ones((9, 16), F32), sin=np.ones((9, 16), F32))  # fmt: skip
    refused(ValueError, "cos: shape", cos=cos[:, :0], sin=sin[:, :0])
    refused(TypeError, "cos: dtype float64", cos=cos.astype(float))
    refused(TypeError, "cos: NoneType", cos=None)
    refused(TypeError, "sin: list", sin=sin.tolist())
    refused(ValueError, "cos: last stride", cos=np.ones((9, 16), F32)[:, ::2], sin=sin)
    refused(ValueError, r"cos: shape \(9, 8\), expected \(2, 5, 8\) without position_ids", position_ids=None)
    refused(ValueError, "cos: rank 3, expected 2", cos=cos[None], sin=sin[None])
    refused(ValueError, "rotary_dim: 8, expected 16", rotary_dim=8)
    refused(TypeError, "rotary_dim: float", rotary_dim=16.0)
    refused(TypeError, "interleaved: int", interleaved=1)
    refused(TypeError, "x: dtype float64", x=x.astype(float))
    refused(TypeError, "x: dtype int8", x=x.astype(np.int8))
    refused(TypeError, "x: dtype float32 in foreign byte order", x=x.astype(">f4"))
    refused(TypeError, "x: list", x=x.tolist())
    refused(ValueError, "x: rank 1, expected 2 to 4", x=x[0, 0, 0])
    refused(ValueError, "x: rank 5, expected 2 to 4", x=x[None])
    refused(ValueError, "x: last stride", x=np.ones((2, 3, 5, 32), F32)[..., ::2])
    refused(ValueError, "x: data not aligned", x=np.zeros(4 * x.size + 1, np.uint8)[1:].view(F32).reshape(x.shape))
    refused(ValueError, r"out: shape \(2, 3, 5, 8\)", out=np.empty((2, 3, 5, 8), F32))
    refused(TypeError, "out: dtype float16, expected float32", out=np.empty(x.shape, np.float16))
    frozen = x.copy()
    frozen.flags.writeable = False
    refused(ValueError, "out: read-only", out=frozen)
    both = np.ones((2, 4, 5, 16), F32)
    refused(ValueError, "out: shares memory with x, expected memory of its own or exactly x",
            x=both[:, :3], out=both[:, 1:])  # fmt: skip
    shared = np.lib.stride_tricks.as_strided(np.ones(x.size, F32), x.shape, (0, 320, 64, 4))
    refused(ValueError, "out: strides", out=shared)
    refused(ValueError, "num_threads", num_threads=0)
