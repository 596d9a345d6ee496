# SPDX-License-Identifier: MIT
"""attention() against the float64 oracle: shapes, head groups, scale, softcap, and what it can return."""

from __future__ import annotations

import resource

import numpy as np
import pytest
from support.compare import assert_accurate, assert_same_bits, check_attention
from support.inputs import generator, normal, qkv

import fastattn as fa
from fastattn import reference

# fmt: off
HEAD_SIZES = [1, 2, 3, 5, 7, 8, 11, 13, 15, 16, 17, 24, 31, 32, 33, 40, 47, 48, 49, 63, 64, 65, 79, 80, 81, 96, 100,
 113,
              127, 128, 129, 160, 191, 192, 193, 255, 256, 257, 320, 383, 384, 385, 509, 511, 512]
# around the register tiles (6, 12, 16, 32 rows; 12 keys), the key block (48) and the key chunk (960)
EDGES = [1, 2, 5, 6, 7, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33, 47, 48, 49, 63, 64, 65, 95, 96, 97, 143, 144,
 145]
CHUNKS = [959, 960, 961, 1007, 1008, 1009, 1919, 1920, 1921, 2897]
# fmt: on


@pytest.mark.parametrize("d", HEAD_SIZES)
def test_every_kind_of_head_size(d: int) -> None:
    rng = generator("head size", d)
    check_attention(*qkv(rng, 1, 2, 1, 37, 61, d))


@pytest.mark.parametrize("dv", HEAD_SIZES)
def test_value_size_differs(dv: int) -> None:
    rng = generator("value size", dv)
    check_attention(*qkv(rng, 1, 2, 1, 37, 61, 24, dv))


@pytest.mark.parametrize("n", EDGES)
def test_sizes_around_every_tile(n: int) -> None:
    rng = generator("edges", n)
    for sq, sk in ((n, n), (n, 40), (40, n), (n, 145), (1, n), (n, 1)):
        check_attention(*qkv(rng, 1, 2, 2, sq, sk, 16))
    check_attention(*qkv(rng, 1, 2, 2, n, n, 16), causal=True)


@pytest.mark.parametrize("sk", CHUNKS)
@pytest.mark.parametrize("sq", [1, 3, 50])
def test_more_keys_than_a_chunk(sq: int, sk: int) -> None:
    rng = generator("chunks", sq, sk)
    q, k, v = qkv(rng, 1, 2, 1, sq, sk, 32)
    check_attention(q, k, v)
    check_attention(q, k, v, causal="bottom_right")
    check_attention(q, k, v, window=(970, 3), q_offset=sk // 2)


@pytest.mark.parametrize(("hq", "hkv"), [(1, 1), (2, 1), (7, 1), (8, 2), (9, 3), (12, 12), (32, 8), (71, 1), (33, 11)])
@pytest.mark.parametrize("sq", [1, 5, 33])
def test_head_groups(hq: int, hkv: int, sq: int) -> None:
    rng = generator("groups", hq, hkv, sq)
    q, k, v = qkv(rng, 2, hq, hkv, sq, 50, 16, 12)
    got = check_attention(q, k, v)
    spread_out = fa.attention(q, np.repeat(k, hq // hkv, axis=1), np.repeat(v, hq // hkv, axis=1))
    assert_same_bits(got, spread_out, "shared and repeated key heads")


@pytest.mark.parametrize("rank", range(2, 9))
def test_ranks(rank: int) -> None:
    rng = generator("rank", rank)
    lead = (2, 1, 3, 1, 2)[: max(rank - 3, 0)]
    q, k, v = qkv(rng, lead, 4, 2, 9, 21, 8, 5)
    if rank == 2:
        q, k, v = q[0], k[0], v[0]
    got = check_attention(q, k, v, causal="bottom_right")
    assert got.ndim == rank
    flat = fa.attention(
        *(x.reshape(-1, *x.shape[-3:]) if rank > 2 else x[None, None] for x in (q, k, v)), causal="bottom_right"
    )
    assert_same_bits(got, flat.reshape(got.shape), f"rank {rank} and rank 4")


@pytest.mark.parametrize(
    "scale", [None, 1.0, 0.125, 3.0, -0.3, -2.0, 0.0, -0.0, 1e-30, 1e-45, 250.0, -250.0, 1e6, np.float32(0.25)]
)
def test_scale(scale: float | None) -> None:
    rng = generator("scale", scale)
    q, k, v = qkv(rng, 2, 2, 1, 19, 70, 24)
    check_attention(q, k, v, scale=scale)
    check_attention(q, k, v, scale=scale, causal="top_left")
    check_attention(q, k, v, scale=scale, mask=normal(rng, 19, 70))


def test_scale_default_is_one_over_root_d() -> None:
    q, k, v = qkv(generator("default scale"), 1, 1, 1, 7, 9, 64)
    assert_same_bits(fa.attention(q, k, v), fa.attention(q, k, v, scale=0.125), "default scale at D = 64")


def test_scale_zero_is_the_mean_of_the_visible_values() -> None:
    q, k, _ = qkv(generator("scale 0"), 1, 1, 1, 4, 4, 8)
    v = np.array([1, 2, 4, 8], np.float32).reshape(1, 1, 4, 1)
    out = fa.attention(q, k, v, scale=0.0, causal=True)
    assert_accurate(
        out,
        np.array([1, 1.5, 7 / 3, 3.75]).reshape(1, 1, 4, 1),
        np.array([1, 1.5, 7 / 3, 3.75], np.float32).reshape(1, 1, 4, 1),
    )


@pytest.mark.parametrize("softcap", [0.5, 1.0, 5.0, 30.0, 50.0, 1e4, 1e-3])
@pytest.mark.parametrize("scale", [None, -1.0, 0.0, 40.0])
def test_softcap(softcap: float, scale: float | None) -> None:
    rng = generator("softcap", softcap, scale)
    q, k, v = qkv(rng, 1, 4, 2, 33, 97, 32)
    check_attention(q, k, v, softcap=softcap, scale=scale)
    check_attention(q, k, v, softcap=softcap, scale=scale, causal="bottom_right", mask=normal(rng, 33, 97))


def test_softcap_makes_infinite_scores_finite() -> None:
    q, k, v = qkv(generator("softcap inf"), 1, 1, 1, 5, 6, 4)
    q[..., 0] = 1
    k[..., 2, 0] = np.inf
    k[..., 3, 0] = -np.inf
    check_attention(q, k, v, softcap=2.0)


def test_what_is_returned() -> None:
    q, k, v = qkv(generator("returned"), 2, 4, 2, 6, 9, 8, 5)
    plain = fa.attention(q, k, v)
    assert isinstance(plain, np.ndarray) and plain.shape == (2, 4, 6, 5) and plain.dtype == np.float32
    for lse in (False, True):
        for weights in (False, True):
            if not (lse or weights):
                continue
            result = fa.attention(q, k, v, return_lse=lse, return_weights=weights)
            assert isinstance(result, tuple) and result.out is result[0]
            assert (result.lse is not None) == lse and (result.weights is not None) == weights
            assert result.scores is None
            assert_same_bits(result.out, plain, "out")
            if lse:
                assert result.lse.shape == (2, 4, 6) and result.lse.dtype == np.float32
            if weights:
                assert result.weights.shape == (2, 4, 6, 9) and result.weights.dtype == np.float32


def test_one_key_returns_its_value_exactly() -> None:
    rng = generator("one key")
    for d in (1, 16, 100):
        q, k, v = qkv(rng, 2, 2, 1, 21, 1, d, spread=30)
        got = fa.attention(q, k, v, return_weights=True)
        assert_same_bits(got.out, np.ascontiguousarray(np.broadcast_to(v, (2, 2, 21, d))), "a single key")
        assert (got.weights == 1).all()


@pytest.mark.parametrize("best", [0, 11, 47, 48, 959, 960, 1199])
def test_one_dominant_key_returns_its_value_exactly(best: int) -> None:
    _, k, v = qkv(generator("dominant"), 1, 2, 2, 1, 1200, 32)
    q = np.ones((1, 2, 40, 32), np.float32)
    k[:, :, best] = 50  # every other score is so far below that its weight is exactly 0
    got = fa.attention(q, k, v, return_weights=True)
    assert_same_bits(
        got.out, np.ascontiguousarray(np.broadcast_to(v[:, :, best : best + 1], got.out.shape)), f"key {best}"
    )
    assert (got.weights[..., best] == 1).all() and np.count_nonzero(got.weights) == 80


def test_equal_keys_and_values() -> None:
    """All scores equal and all values equal to a power of two: every weighted mean is that value, exactly."""
    for sk in (2, 48, 960, 961, 2000):
        q = np.ones((1, 1, 35, 16), np.float32)
        v = np.full((1, 1, sk, 9), 4.0, np.float32)
        assert (fa.attention(q, np.ones((1, 1, sk, 16), np.float32), v) == 4).all()


def test_lse_merges_disjoint_keys() -> None:
    """The lse is the natural log of the row's sum: two halves weighted by it give the whole."""
    q, k, v = qkv(generator("merge"), 1, 2, 2, 17, 80, 16)
    whole = reference.attention(q, k, v)
    a = fa.attention(q, k[:, :, :33], v[:, :, :33], return_lse=True)
    b = fa.attention(q, k[:, :, 33:], v[:, :, 33:], return_lse=True)
    lse = np.logaddexp(a.lse.astype(float), b.lse.astype(float))
    merged = a.out * np.exp(a.lse - lse)[..., None] + b.out * np.exp(b.lse - lse)[..., None]
    assert np.abs(lse - whole.lse).max() < 1e-6
    assert np.abs(merged - whole.out).max() < 1e-6


def test_memory_grows_with_n_not_with_its_square() -> None:
    """32k x 32k scores would be 4 GiB."""
    n = 32768
    q = np.ones((1, 1, n, 1), np.float32)
    out = np.zeros_like(q)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fa.attention(q, q, q, window=(3, 3), out=out)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert (out == 1).all()
    assert grown < 16 * 1024, f"{grown} KiB"
