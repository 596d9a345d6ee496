# SPDX-License-Identifier: MIT
"""Attention under the accuracy rule as it is written, on random and adversarial inputs with many rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.compare import assert_accurate, assert_same_bits, assert_same_special
from support.inputs import generator, normal

import fastattn as fa
from fastattn import reference

# From about this many keys, NumPy's pairwise sum and BLAS's many accumulators beat every left-to-right order on sums of
# one sign, and the order of the contract is left to right. The naive side then counts as a plain fp32 loop as well.
LONG = 300
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
ROWS = 160
SHAPES = [(ROWS, 8), (ROWS, 47), (ROWS, 48), (ROWS, 97), (ROWS, 389), (1, 389), (5, 97), (97, 97), (ROWS, 961)]


def equal(rng: np.random.Generator, sq: int, sk: int) -> Arrays:
    return (
        np.full((2, 1, sq, 32), 0.3, np.float32),
        np.full((2, 1, sk, 32), -0.7, np.float32),
        normal(rng, 2, 1, sk, 32),
    )


def plain(rng: np.random.Generator, sq: int, sk: int) -> Arrays:
    return normal(rng, 2, 4, sq, 64), normal(rng, 2, 1, sk, 64), normal(rng, 2, 1, sk, 64)


def prime_sizes(rng: np.random.Generator, sq: int, sk: int) -> Arrays:
    return normal(rng, 2, 4, sq, 61), normal(rng, 2, 1, sk, 61), normal(rng, 2, 1, sk, 37)


def positive_values(rng: np.random.Generator, sq: int, sk: int) -> Arrays:
    q, k, v = plain(rng, sq, sk)
    return q, k, np.abs(v) + np.float32(1)


def sharp(rng: np.random.Generator, sq: int, sk: int) -> Arrays:
    q, k, v = plain(rng, sq, sk)
    return q * np.float32(6), k * np.float32(3), v


def huge_scores(rng: np.random.Generator, sq: int, sk: int) -> Arrays:
    q, k, v = plain(rng, sq, sk)
    return q * np.float32(1e6), k * np.float32(1e6), v


def huge_values(rng: np.random.Generator, sq: int, sk: int) -> Arrays:
    q, k, v = plain(rng, sq, sk)
    return q, k, v * np.float32(1e34)


def tiny_everything(rng: np.random.Generator, sq: int, sk: int) -> Arrays:
    q, k, v = plain(rng, sq, sk)
    return q * np.float32(1e-25), k * np.float32(1e-19), v * np.float32(1e-30)


def denormal_keys(rng: np.random.Generator, sq: int, sk: int) -> Arrays:
    q, k, v = plain(rng, sq, sk)
    return q * np.float32(1e19), k * np.float32(1e-39) * np.float32(1e20), v


def mixed_magnitudes(rng: np.random.Generator, sq: int, sk: int) -> Arrays:
    q, k, v = plain(rng, sq, sk)
    sizes = (10.0 ** rng.uniform(-6, 1, (1, 1, 1, 64))).astype(np.float32)
    return q * sizes, k / sizes, v * (10.0 ** rng.uniform(-8, 8, (1, 1, 1, 64))).astype(np.float32)


def cancelling_scores(rng: np.random.Generator, sq: int, sk: int) -> Arrays:
    q, k, v = plain(rng, sq, sk)
    q[..., 1::2], k[..., 1::2] = q[..., ::2], -k[..., ::2]
    noise = normal(rng, *k.shape) * np.float32(0.01)
    return q * np.float32(10), k * np.float32(10) + noise, v


def cancelling_values(rng: np.random.Generator, sq: int, sk: int) -> Arrays:
    q, k, v = plain(rng, sq, sk)
    v[:, :, 1::2] = -v[:, :, 0 : sk - sk % 2 : 2]
    return q * np.float32(0.01), k, v


def one_dominant_key(rng: np.random.Generator, sq: int, sk: int) -> Arrays:
    q, k, v = plain(rng, sq, sk)
    q[..., 0], k[..., 0] = 8, 0
    k[:, :, sk * 2 // 3, 0] = 60
    return q, k, v


def two_dominant_keys(rng: np.random.Generator, sq: int, sk: int) -> Arrays:
    q, k, v = one_dominant_key(rng, sq, sk)
    k[:, :, 1] = k[:, :, sk * 2 // 3] + normal(rng, 64) * np.float32(0.1)
    return q, k, v


def rising_scores(rng: np.random.Generator, sq: int, sk: int) -> Arrays:
    q, k, v = plain(rng, sq, sk)
    q[..., 0] = 8
    k[..., 0] = np.linspace(-40, 40, sk, dtype=np.float32)
    return q, k, v


def falling_scores(rng: np.random.Generator, sq: int, sk: int) -> Arrays:
    q, k, v = rising_scores(rng, sq, sk)
    return q, np.ascontiguousarray(k[:, :, ::-1]), v


def around_the_underflow(rng: np.random.Generator, sq: int, sk: int) -> Arrays:
    """Weights from about 2**-100 to below the smallest normal number, beside one of 1 whose value is 0."""
    q, k, v = prime_sizes(rng, sq, sk)
    q[..., 1:], k[...] = 0, 0
    q[..., 0] = 8 + rng.uniform(-0.1, 0.1, q.shape[:-1])
    k[..., 0] = -np.linspace(70, 95, sk, dtype=np.float32)
    k[:, :, 0, 0] = 0
    v[:, :, 0] = 0
    return q, k, np.abs(v) * np.float32(1e30)


def infinite_scores(rng: np.random.Generator, sq: int, sk: int) -> Arrays:
    q, k, v = plain(rng, sq, sk)
    q[..., 3] = np.abs(q[..., 3]) + np.float32(0.5)
    k[:, :, 2::3, 3] = -np.inf
    if sk > 50:
        k[1, :, 50, 3] = np.inf
    return q, k, v


CASES: list[Callable[[np.random.Generator, int, int], Arrays]] = [
    equal,
    plain,
    prime_sizes,
    positive_values,
    sharp,
    huge_scores,
    huge_values,
    tiny_everything,
    denormal_keys,
    mixed_magnitudes,
    cancelling_scores,
    cancelling_values,
    one_dominant_key,
    two_dominant_keys,
    rising_scores,
    falling_scores,
    around_the_underflow,
    infinite_scores,
]


@pytest.mark.parametrize(("sq", "sk"), SHAPES)
@pytest.mark.parametrize("case", CASES)
def test_attention(case: Callable[[np.random.Generator, int, int], Arrays], sq: int, sk: int) -> None:
    arrays = case(generator(case.__name__, sq, sk), sq, sk)
    strict = sq * arrays[0].shape[1] >= 200 and sk < LONG
    for options in ({}, {"causal": "bottom_right"}):
        got = fa.attention(*arrays, return_lse=True, return_weights=True, **options)
        ref = reference.attention(*arrays, **options)
        naive = reference.attention(*arrays, dtype=np.float32, **options)
        for name in ("out", "lse", "weights"):
            again = None if strict else reordered(arrays, options, name)
            assert_accurate(getattr(got, name), getattr(ref, name), getattr(naive, name), f"{name} {options}", again)


def reordered(arrays: Arrays, options: dict[str, Any], name: str) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: getattr(reference.attention(*arrays, dtype=np.float32, order=rng, **options), name)


@pytest.mark.parametrize("n", [11, 12, 13, 15, 16, 17, 31, 32, 33, 47, 48, 49, 959, 960, 961])
def test_one_past_a_tile(n: int) -> None:
    rng = generator("one past", n)
    for sq, sk in ((min(n, 300), 200), (200, n), (min(n, 100), n)):
        arrays = normal(rng, 1, 8, sq, 48), normal(rng, 1, 2, sk, 48), normal(rng, 1, 2, sk, 48)
        got = fa.attention(*arrays, return_lse=True)
        ref, naive = reference.attention(*arrays), reference.attention(*arrays, dtype=np.float32)
        for name in ("out", "lse"):
            again = None if sk < LONG and sq >= 40 else reordered(arrays, {}, name)
            assert_accurate(getattr(got, name), getattr(ref, name), getattr(naive, name), f"{name} {sq} {sk}", again)


@pytest.mark.parametrize("d", [1, 2, 7, 16, 31, 64, 127, 128, 257, 512])
def test_head_sizes_with_many_rows(d: int) -> None:
    rng = generator("rows", d)
    arrays = normal(rng, 1, 4, 200, d), normal(rng, 1, 1, 233, d), normal(rng, 1, 1, 233, max(d, 16))
    for options in ({}, {"softcap": 2.0}, {"mask": normal(rng, 200, 233)}):
        got = fa.attention(*arrays, return_lse=True, return_weights=True, **options)
        ref, naive = reference.attention(*arrays, **options), reference.attention(*arrays, dtype=np.float32, **options)
        for name in ("out", "lse", "weights"):
            again = reordered(arrays, options, name) if name == "weights" else None
            assert_accurate(
                getattr(got, name), getattr(ref, name), getattr(naive, name), f"{name} {list(options)}", again
            )


def test_weights_sum_to_one_and_values_stay_within_their_range() -> None:
    rng = generator("convex")
    q, k, v = normal(rng, 1, 4, 100, 16, spread=3), normal(rng, 1, 4, 300, 16), normal(rng, 1, 4, 300, 16)
    got = fa.attention(q, k, v, return_weights=True)
    assert np.abs(got.weights.astype(np.float64).sum(-1) - 1).max() < 300 * 2.0**-24
    assert (got.weights >= 0).all() and (got.weights <= 1).all()
    slack = 1e-6 * np.abs(v).max()
    assert (got.out <= v.max(axis=2, keepdims=True) + slack).all()
    assert (got.out >= v.min(axis=2, keepdims=True) - slack).all()


def test_values_too_large_for_their_sum_stay_defined() -> None:
    """A weighted mean of values near the largest float: the running sum may overflow to inf, not to NaN or garbage."""
    q, k = np.zeros((1, 1, 20, 8), np.float32), np.zeros((1, 1, 100, 8), np.float32)
    v = np.full((1, 1, 100, 8), np.finfo(np.float32).max, np.float32)
    got = fa.attention(q, k, v)
    assert (np.isposinf(got) | (got == v[0, 0, 0, 0])).all()
    assert_same_bits(got[:, :, :1], fa.attention(q[:, :, :1], k, v), "one row of it")


def test_scores_too_large_for_a_float() -> None:
    q = np.full((1, 1, 20, 4), 1e30, np.float32)
    k = np.ones((1, 1, 60, 4), np.float32)
    k[:, :, 7] = 1e30  # +inf: the row is NaN
    v = normal(generator("overflow"), 1, 1, 60, 4)
    with np.errstate(all="ignore"):
        naive = reference.attention(q, k, v, dtype=np.float32)
    assert_same_special(fa.attention(q, k, v), naive.out)
    k[:, :, 7] = -1e30  # -inf: the key is excluded
    allowed = np.arange(60) != 7
    assert_same_bits(fa.attention(q, k, v), fa.attention(q, k, v, mask=allowed), "a score of -inf")
