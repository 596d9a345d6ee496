# SPDX-License-Identifier: MIT
"""fastattn.rope_table: float32 rounding at any position, the scaled frequencies of every type, what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support.compare import assert_same_bits
from support.dlpack import Producer
from support.inputs import generator
from support.variants import assert_one_result

import fastattn as fa
from fastattn import _core, reference
from fastattn.rope_scaling import rope_frequencies

F32 = np.float32


def frequencies(dim: int, scaling: dict[str, Any] | None = None, *, base: float = 10000.0, length: int = 0) -> Any:
    return rope_frequencies(dim, base, scaling, None, length)


def plain(dim: int, base: float = 10000.0) -> np.ndarray:
    return base ** (-np.arange(0, dim, 2) / dim)


def test_shapes() -> None:
    cos, sin = fa.rope_table(7, 6)
    assert cos.shape == sin.shape == (7, 3) and cos.dtype == sin.dtype == F32
    table = fa.rope_table([[6, 0, 2], [1, 1, 5]], 6)
    assert_same_bits(table.cos, cos[[[6, 0, 2], [1, 1, 5]]])
    assert_same_bits(table.sin, sin[[[6, 0, 2], [1, 1, 5]]])
    assert_same_bits(fa.rope_table(Producer(np.arange(7)), 6).sin, sin)
    assert_same_bits(fa.rope_table(np.arange(7, dtype=np.uint8), 6).sin, sin)
    assert fa.rope_table(np.int64(0), 6).cos.shape == (0, 3)
    assert (cos[0] == 1).all() and not sin[0].view(np.uint32).any()
    negative = fa.rope_table(-np.arange(7), 6)
    assert_same_bits(negative.cos, cos)
    assert (negative.sin == -sin).all()


def test_threads_change_nothing() -> None:
    def call(**options: Any) -> tuple[np.ndarray, np.ndarray]:
        return tuple(fa.rope_table(3000, 48, base=5e5, **options))

    assert_one_result(call, "table", kernels=())


def test_against_double_precision() -> None:
    at = np.arange(0, 5000, 7)
    got = fa.rope_table(at, 64)
    ref = reference.rope_table(at, plain(64))
    for ours, exact in zip(got, ref, strict=True):
        assert np.abs(ours - exact).max() <= 2.0**-25 + 1e-11
        near = np.abs(exact) > 1e-3
        assert (np.abs(ours - exact)[near] <= 0.5001 * np.spacing(np.abs(exact[near]).astype(F32))).all()


def test_rounding_at_any_position() -> None:
    mpmath = pytest.importorskip("mpmath")
    rng = generator("positions")
    edges = [0, 1, -1, 355, 710, 103993, 1146408, 5419351, 80143857]  # near multiples of pi
    edges += [2**24 - 1, 2**24, 2**24 + 1, 2**26 - 1, 2**26, 2**26 + 1, -(2**26) - 1, 2**31, 2**52, -(2**52)]
    at = np.array(edges + rng.integers(0, 2**25, 40).tolist() + rng.integers(-(2**52), 2**52, 40).tolist())
    base, dim = 500000.0, 10
    cos, sin = fa.rope_table(at, dim, base=base)
    with mpmath.workprec(200):
        for i, j in np.ndindex(len(at), dim // 2):
            angle = int(at[i]) * mpmath.power(base, -mpmath.mpf(2 * j) / dim)
            for got, exact in ((cos[i, j], mpmath.cos(angle)), (sin[i, j], mpmath.sin(angle))):
                step = float(np.spacing(np.abs(got)))
                assert abs(float(mpmath.mpf(float(got)) - exact)) <= 0.500001 * step, (int(at[i]), j)


def test_linear() -> None:
    got = frequencies(32, {"rope_type": "linear", "factor": 4.0})
    assert np.allclose(got.radians, plain(32) / 4, rtol=1e-14, atol=0) and got.attention_factor == 1
    assert_same_bits(
        fa.rope_table(4 * np.arange(20), 32, scaling={"type": "linear", "factor": 4}).sin, fa.rope_table(20, 32).sin
    )


def test_dynamic() -> None:
    scaling = {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 100}
    for length in (0, 50, 100):
        assert frequencies(32, scaling, length=length).radians == frequencies(32).radians
    grown = 10000.0 * (2.0 * 400 / 100 - 1) ** (32 / 30)
    assert np.allclose(frequencies(32, scaling, length=400).radians, plain(32, grown), rtol=1e-14, atol=0)
    by_length = fa.rope_table(400, 32, scaling=scaling)
    assert_same_bits(by_length.cos[:9], fa.rope_table(9, 32, scaling=scaling, seq_len=400).cos)
    without = {"rope_type": "dynamic", "factor": 2.0}
    assert_same_bits(by_length.cos, fa.rope_table(400, 32, scaling=without, max_position_embeddings=100).cos)


def test_fixed_ntk() -> None:
    """As GTE publishes it: the base times the factor, frequencies over factor^(2 / dim); or a ramp in exponents."""
    got = np.array(frequencies(32, {"rope_type": "ntk", "factor": 8.0}).radians)
    assert np.allclose(got, plain(32, 10000.0 * 8) / 8 ** (2 / 32), rtol=1e-13, atol=0)
    assert math.isclose(got[-1], plain(32)[-1] / 8, rel_tol=1e-13)  # the slowest pair is interpolated in full
    mixed = np.array(frequencies(32, {"type": "ntk", "factor": 4.0, "mixed_b": 0.7}).radians)
    ramp = np.exp(math.log(4) / 16**0.7 * np.arange(1, 17) ** 0.7)
    assert np.allclose(mixed, plain(32) / ramp, rtol=1e-13, atol=0)
    assert frequencies(32, {"type": "ntk", "factor": 0.5}).radians == frequencies(32).radians


def test_yarn() -> None:
    """Pairs that turn often keep their frequency, those that hardly turn are interpolated, a ramp lies between."""
    scaling = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 2048}
    got, before = frequencies(64, scaling), plain(64)
    rotations = 2048 * before / (2 * math.pi)
    assert np.allclose(np.array(got.radians)[rotations > 40], before[rotations > 40], rtol=1e-14, atol=0)
    assert np.allclose(np.array(got.radians)[rotations < 0.7], before[rotations < 0.7] / 8, rtol=1e-14, atol=0)
    ratio = before / np.array(got.radians)
    assert (np.diff(ratio) > -1e-12).all() and ((ratio > 1.01) & (ratio < 7.99)).sum() > 5
    factor = 0.1 * math.log(8) + 1
    assert math.isclose(got.attention_factor, factor, rel_tol=1e-15)
    cos, _ = fa.rope_table(3, 64, scaling=scaling)
    assert (cos[0] == F32(factor)).all()
    low, high = (64 * math.log(2048 / (n * 2 * math.pi)) / (2 * math.log(10000)) for n in (20, 2))
    ramp = np.clip((np.arange(32) - low) / (high - low), 0, 1)
    untruncated = frequencies(64, scaling | {"truncate": False, "beta_fast": 20, "beta_slow": 2})
    assert np.allclose(untruncated.radians, before / 8 * ramp + before * (1 - ramp), rtol=1e-12, atol=0)
    assert frequencies(64, scaling | {"attention_factor": 1.25}).attention_factor == 1.25
    both = frequencies(64, scaling | {"mscale": 1.0, "mscale_all_dim": 0.5}).attention_factor
    assert math.isclose(both, (0.1 * math.log(8) + 1) / (0.05 * math.log(8) + 1), rel_tol=1e-15)
    assert frequencies(64, scaling | {"factor": 0.5}).attention_factor == 1


def test_llama3() -> None:
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    before, got = plain(128, 5e5), np.array(frequencies(128, scaling, base=5e5).radians)
    wavelength = 2 * math.pi / before
    assert np.allclose(got[wavelength < 2048], before[wavelength < 2048], rtol=1e-14, atol=0)
    assert np.allclose(got[wavelength > 8192], before[wavelength > 8192] / 8, rtol=1e-14, atol=0)
    between = (wavelength >= 2048) & (wavelength <= 8192)
    smooth = (8192 / wavelength[between] - 1) / 3
    assert between.sum() > 3
    assert np.allclose(got[between], before[between] * (smooth + (1 - smooth) / 8), rtol=1e-13, atol=0)


def test_longrope() -> None:
    short, long = [1.0 + i / 8 for i in range(8)], [2.0 + i for i in range(8)]
    scaling = {
        "rope_type": "longrope", "short_factor": short, "long_factor": long, "original_max_position_embeddings": 64,
    }  # fmt: skip
    for length, divisors in ((64, short), (65, long)):
        got = rope_frequencies(16, 10000.0, scaling, 256, length)
        assert np.allclose(got.radians, plain(16) / divisors, rtol=1e-14, atol=0)
        assert math.isclose(got.attention_factor, math.sqrt(1 + math.log(4) / math.log(64)), rel_tol=1e-15)
    assert frequencies(16, scaling | {"attention_factor": 3.0}).attention_factor == 3
    assert frequencies(16, scaling | {"factor": 1.0}).attention_factor == 1


def test_theta_of_the_file() -> None:
    expected = fa.rope_table(30, 16, base=500000.0)
    whole = {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5}
    assert_same_bits(fa.rope_table(30, 16, scaling=whole).cos, expected.cos)
    assert_same_bits(fa.rope_table(30, 16, scaling=whole, base=500000).cos, expected.cos)
    assert_same_bits(fa.rope_table(30, 16, scaling={}).cos, fa.rope_table(30, 16).cos)
    with pytest.raises(ValueError, match="base: 20000, expected 500000.0 as rope_theta of scaling says"):
        fa.rope_table(30, 16, scaling=whole, base=20000)


def test_turns_are_exact_pieces() -> None:
    for pieces, radians in zip(frequencies(128).turns, frequencies(128).radians, strict=True):
        assert math.isclose(sum(pieces), radians / (2 * math.pi), rel_tol=1e-15)
        for piece in pieces[:3]:
            assert (math.frexp(piece)[0] * 2**26).is_integer()


YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 2048}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 2048, "low_freq_factor": 1}
LONG = {"rope_type": "longrope", "original_max_position_embeddings": 64, "factor": 4}


@pytest.mark.parametrize(
    ("kind", "match", "changed"),
    [
        (ValueError, "rotary_dim: 7, expected an even number", {"rotary_dim": 7}),
        (ValueError, "rotary_dim: 0, expected at least 2", {"rotary_dim": 0}),
        (TypeError, "rotary_dim: str", {"rotary_dim": "8"}),
        (TypeError, "rotary_dim: bool", {"rotary_dim": True}),
        (ValueError, "positions: -1, expected at least 0", {"positions": -1}),
        (TypeError, "positions: dtype float64", {"positions": np.ones(3)}),
        (TypeError, "positions", {"positions": True}),
        (ValueError, r"positions: from 0 to 4503599627370497", {"positions": [0, 2**52 + 1]}),
        (ValueError, "positions: from -9223372036854775808", {"positions": [-(2**63)]}),
        (ValueError, "base: 1.0, expected a finite number above 1", {"base": 1.0}),
        (ValueError, "base: nan", {"base": math.nan}),
        (ValueError, "base: inf", {"base": math.inf}),
        (TypeError, "base: str", {"base": "10000"}),
        (TypeError, "scaling: str, expected a dict", {"scaling": "yarn"}),
        (ValueError, "scaling: rope_type 'su', expected one of 'default', 'linear'", {"scaling": {"type": "su"}}),
        (ValueError, "scaling: key 'fcator', expected some of", {"scaling": YARN | {"fcator": 2}}),
        (ValueError, "scaling: key 'factor', expected none", {"scaling": {"factor": 2}}),
        (ValueError, "scaling: no 'factor'", {"scaling": {"type": "linear"}}),
        (ValueError, r"scaling\['factor'\]: 0, expected a finite number above 0",
         {"scaling": {"type": "linear", "factor": 0}}),
        (TypeError, r"scaling\['factor'\]: str", {"scaling": {"type": "linear", "factor": "2"}}),
        (ValueError, "scaling: no 'original_max_position_embeddings'", {"scaling": {"type": "dynamic", "factor": 2}}),
        (ValueError, "rotary_dim: 2, expected at least 4",
         {"scaling": {"type": "dynamic", "factor": 2}, "rotary_dim": 2, "max_position_embeddings": 9}),
        (ValueError, r"scaling\['original_max_position_embeddings'\]: 0",
         {"scaling": YARN | {"original_max_position_embeddings": 0}}),
        (ValueError, r"scaling\['beta_fast'\]: -1", {"scaling": YARN | {"beta_fast": -1}}),
        (TypeError, r"scaling\['truncate'\]: str", {"scaling": YARN | {"truncate": "yes"}}),
        (ValueError, "scaling: no 'high_freq_factor'", {"scaling": LLAMA3}),
        (ValueError, r"scaling\['high_freq_factor'\]: 1, expected more", {"scaling": LLAMA3 | {"high_freq_factor": 1}}),
        (TypeError, r"scaling\['short_factor'\]: NoneType", {"scaling": LONG}),
        (ValueError, r"scaling\['long_factor'\]: 3 numbers, expected 4",
         {"scaling": LONG | {"short_factor": [1] * 4, "long_factor": [1] * 3}}),
        (ValueError, r"scaling\['long_factor'\]\[2\]: 0",
         {"scaling": LONG | {"short_factor": [1] * 4, "long_factor": [1, 1, 0, 1]}}),
        (ValueError, "max_position_embeddings: 0", {"max_position_embeddings": 0}),
        (ValueError, "seq_len: -1", {"seq_len": -1}),
        (ValueError, "num_threads", {"num_threads": 0}),
    ],
)  # fmt: skip
def test_bad_input(kind: type[Exception], match: str, changed: dict[str, Any]) -> None:
    args: dict[str, Any] = {"positions": 5, "rotary_dim": 8} | changed
    with pytest.raises(kind, match=match):
        fa.rope_table(args.pop("positions"), args.pop("rotary_dim"), **args)


def test_c_checks_what_it_is_given() -> None:
    cos, sin, at = np.empty((2, 1), F32), np.empty((2, 1), F32), np.arange(2)
    good = np.array([0.25, 0.0, 0.0, 0.0])
    _core.rope_table(cos, sin, at, good, 1.0, 1)
    assert cos[:, 0].tolist() == [1, 0] and sin[:, 0].tolist() == [0, 1]
    for turns in ([0.75, 0, 0, 0], [np.nan, 0, 0, 0], [1 / 3, 0, 0, 0], [0, 0, 0, -np.inf]):
        with pytest.raises(ValueError, match="value out of range"):
            _core.rope_table(cos, sin, at, np.array(turns, float), 1.0, 1)
    with pytest.raises(ValueError, match="value out of range"):
        _core.rope_table(cos, sin, at, good, np.nan, 1)
    with pytest.raises(ValueError, match="value out of range"):
        _core.rope_table(cos, sin, np.array([0, 2**53]), good, 1.0, 1)
    with pytest.raises(ValueError, match="turns: 3 numbers"):
        _core.rope_table(cos, sin, at, good[:3], 1.0, 1)
