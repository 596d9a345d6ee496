# SPDX-License-Identifier: MIT
"""The attention oracle's options beyond masks and windows, against plain loops over Python numbers."""

from __future__ import annotations

import doctest
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from support.inputs import generator, qkv

from fastattn import reference, reference_attention


def bucket(distance: int, buckets: int, bidirectional: bool, max_distance: int) -> int:
    """floor(log(d / E) / log(M / E) * N), found by comparing powers of fractions: no rounding anywhere."""
    first = 0
    if bidirectional:
        buckets //= 2
        first = buckets if distance > 0 else 0
        d = abs(distance)
    else:
        d = max(-distance, 0)
    exact = buckets // 2
    if d < exact:
        return first + d
    ratio, unit, n, step = Fraction(d, exact), Fraction(max_distance, exact), buckets - exact, 0
    while step + 1 < n and unit ** (step + 1) <= ratio**n:
        step += 1
    return first + exact + step


@pytest.mark.parametrize("buckets", [2, 3, 4, 5, 8, 13, 32, 33])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_buckets_by_fractions(buckets: int, bidirectional: bool) -> None:
    half = buckets // 2 if bidirectional else buckets
    if half < 2:
        with pytest.raises(ValueError, match="relative_bias"):
            reference.relative_buckets([0], buckets, bidirectional, 128)
        return
    for max_distance in (half // 2 + 1, half + 3, 20, 128, 1000):
        distances = list(range(-150, 151)) + [-(10**6), -1001, -1000, -999, 999, 1000, 1001, 10**6]
        got = reference.relative_buckets(distances, buckets, bidirectional, max_distance)
        assert got.tolist() == [bucket(d, buckets, bidirectional, max_distance) for d in distances]
        assert got.max() < buckets
    with pytest.raises(ValueError, match="relative_bias"):
        reference.relative_buckets([0], buckets, bidirectional, half // 2)


def lists(x: np.ndarray) -> Any:
    return x.astype(float).tolist()


def every_option_by_hand(a: dict[str, Any], b: int, h: int, i: int) -> dict[str, Any]:
    """One row with Python floats: its scores at each stage, weights, lse and output."""
    q, k, v = lists(a["q"][b, h, i]), lists(a["k"][b, h // 2]), lists(a["v"][b, h // 2])
    offset, length, rows, cols = a["q_offset"][b], a["kv_lengths"][b], *a["block_mask"][1]
    blocks, (table, bidirectional, max_distance), cap = a["block_mask"][0], a["relative_bias"], a["softcap"]
    p = offset + i
    stages: dict[str, list[float]] = {"qk": [], "softcap": [], "bias": []}
    for j in range(len(k)):
        x = math.fsum(s * t for s, t in zip(q, k[j], strict=True)) * float(a["k_scale"][b, h // 2, j]) * a["scale"]
        y = cap * math.tanh(x / cap)
        z = y + float(table[h, bucket(j - p, table.shape[1], bidirectional, max_distance)])
        z += -float(a["alibi_slopes"][b, h]) * abs(p - j) + float(a["mask"][b, 0, i, j])
        window = (p - a["window"][0] <= j or j < a["sink_tokens"]) and j <= p + a["window"][1]
        seen = j < length and (j <= p or not a["causal"]) and window and blocks[b, 0, i // rows, j // cols]
        stages["qk"].append(x if j < length else -math.inf)
        stages["softcap"].append(y if j < length else -math.inf)
        stages["bias"].append(z if seen else -math.inf)
    sink = float(a["sinks"][h])
    lse = math.log(math.fsum([math.exp(sink)] + [math.exp(z) for z in stages["bias"]]))
    weights = [math.exp(z - lse) for z in stages["bias"]]
    scaled = [w * float(s) for w, s in zip(weights, a["v_scale"][b, h // 2], strict=True)]
    out = [math.fsum(w * row[d] for w, row in zip(scaled, v, strict=True)) for d in range(len(v[0]))]
    return {**stages, "lse": lse, "weights": weights, "out": out}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_option_by_hand(bidirectional: bool, causal: bool) -> None:
    rng = generator("every option", bidirectional, causal)
    q, k, v = qkv(rng, 2, 4, 2, 9, 13, 3, 4)
    k, v = (rng.integers(-127, 128, x.shape).astype(np.int8) for x in (k, v))
    options: dict[str, Any] = {
        "mask": np.where(rng.random((2, 1, 9, 13)) < 0.2, -np.inf, rng.standard_normal((2, 1, 9, 13))),
        "causal": causal,
        "q_offset": [3, -2],
        "window": (2, 1),
        "sink_tokens": 2,
        "kv_lengths": [13, 6],
        "scale": -0.3,
        "softcap": 3.0,
        "alibi_slopes": rng.random((2, 4)),
        "sinks": rng.standard_normal(4),
        "relative_bias": (rng.standard_normal((4, 6)), bidirectional, 7),
        "block_mask": (rng.random((2, 1, 3, 7)) < 0.7, (4, 2)),
        "k_scale": rng.random((2, 2, 13)) / 50,
        "v_scale": rng.random((2, 2, 13)) / 50,
    }
    for stage in ("qk", "softcap", "bias"):
        got = reference.attention(q, k, v, return_scores=stage, **options)
        assert got.scores is not None
        for b, h, i in np.ndindex(2, 4, 9):
            hand = every_option_by_hand(dict(options, q=q, k=k, v=v), b, h, i)
            np.testing.assert_allclose(got.scores[b, h, i], hand[stage], rtol=1e-12, atol=1e-13)
            np.testing.assert_allclose(got.lse[b, h, i], hand["lse"], rtol=1e-12, atol=1e-13)
            np.testing.assert_allclose(got.weights[b, h, i], hand["weights"], rtol=1e-12, atol=1e-13)
            np.testing.assert_allclose(got.out[b, h, i], hand["out"], rtol=1e-12, atol=1e-13)


def test_block_lists_are_boolean_blocks() -> None:
    rng = generator("csr")
    q, k, v = qkv(rng, 2, 4, 2, 10, 17, 3)
    for heads in (1, 4):
        blocks = rng.random((heads, 4, 4)) < 0.5
        indices = np.concatenate([np.flatnonzero(row) for head in blocks for row in head])
        counts = blocks.sum(axis=-1).reshape(-1)
        starts = np.concatenate([[0], np.cumsum(counts)])
        indptr = starts if heads == 1 else np.array([starts[4 * h : 4 * h + 5] for h in range(4)])
        lists_, booleans = (
            reference.attention(q, k, v, block_mask=(what, (3, 5))) for what in ((indptr, indices), blocks)
        )
        for one, other in zip(lists_[:3], booleans[:3], strict=True):
            np.testing.assert_array_equal(one, other)


def test_rows_without_keys() -> None:
    q, k, v = qkv(generator("no keys"), 1, 2, 1, 3, 4, 2)
    got = reference.attention(q, k, v, mask=np.zeros((3, 4), bool), sinks=[0.5, -1.5])
    assert not got.out.any() and not got.weights.any()
    np.testing.assert_allclose(got.lse[0, 0], 0.5)
    np.testing.assert_allclose(got.lse[0, 1], -1.5)
    none = reference.attention(q, k[..., :0, :], v[..., :0, :], sinks=[0.5, -1.5], return_scores="bias")
    assert not none.out.any() and none.lse[0, :, 0].tolist() == [0.5, -1.5]
    assert none.scores is not None and none.scores.shape == (1, 2, 3, 0)


def test_excluded_keys_may_hold_anything() -> None:
    rng = generator("poison")
    q, k, v = qkv(rng, 1, 2, 1, 3, 6, 2)
    poisoned_k, poisoned_v = k.copy(), v.copy()
    poisoned_k[..., 2:4, :], poisoned_v[..., 2:4, :] = np.nan, np.inf
    blocks = (np.array([True, False, True]), (3, 2))
    for one, other in zip(
        reference.attention(q, k, v, block_mask=blocks, sinks=[0, 1])[:3],
        reference.attention(q, poisoned_k, poisoned_v, block_mask=blocks, sinks=[0, 1])[:3],
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-14)  # a shorter sum
    k8, v8 = (np.ones(x.shape, np.int8) for x in (k, v))
    scales = np.ones((1, 1, 6), np.float32)
    poisoned = scales.copy()
    poisoned[..., 2:4] = np.nan
    for one, other in zip(
        reference.attention(q, k8, v8, k_scale=scales, v_scale=scales, block_mask=blocks)[:3],
        reference.attention(q, k8, v8, k_scale=poisoned, v_scale=poisoned, block_mask=blocks)[:3],
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-14)  # a shorter sum


def test_storage_types_are_widened() -> None:
    rng = generator("storage")
    q, k, v = qkv(rng, 1, 2, 1, 3, 6, 4)
    bits = [(x.view(np.uint32) >> 16).astype(np.uint16) for x in (q, k, v)]
    wide = [(x.astype(np.uint32) << 16).view(np.float32) for x in bits]
    np.testing.assert_array_equal(reference.attention(*bits).out, reference.attention(*wide).out)
    halves = [x.astype(np.float16) for x in (q, k, v)]
    np.testing.assert_array_equal(
        reference.attention(*halves).out, reference.attention(*(x.astype(np.float64) for x in halves)).out
    )
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    np.testing.assert_array_equal(reference.attention(*(x.view(bfloat16) for x in bits)).out,
                                  reference.attention(*wide).out)  # fmt: skip
    with pytest.raises(ValueError, match="k_scale"):
        reference.attention(q, k.astype(np.int8), v.astype(np.int8))
    with pytest.raises(ValueError, match="v_scale"):
        reference.attention(q, k, v, v_scale=np.ones((1, 1, 6)))


def test_packed_sequences_are_single_ones() -> None:
    rng = generator("packed")
    cq, ck = np.array([0, 3, 3, 10]), np.array([0, 5, 7, 11])
    q, k, v = (rng.standard_normal((n, h, 4)) for n, h in ((10, 4), (11, 2), (11, 2)))
    blocks, slopes, sinks = rng.random((3, 4, 4, 3)) < 0.6, rng.random((3, 4)), rng.random(4)
    got = reference.attention_varlen(
        q, k, v, cq, ck, causal="bottom_right", window=(2, None), sink_tokens=1, alibi_slopes=slopes, sinks=sinks,
        block_mask=(blocks, (2, 2)), return_scores="bias",
    )  # fmt: skip
    assert got.scores is not None and got.scores.shape == got.weights.shape == (10, 4, 5)
    for b in range(3):
        rows, keys = slice(cq[b], cq[b + 1]), slice(ck[b], ck[b + 1])
        n, m = cq[b + 1] - cq[b], ck[b + 1] - ck[b]
        part = (blocks[b, :, : -(-n // 2), : -(-m // 2)], (2, 2))
        one = reference.attention(
            *(x[at].swapaxes(0, 1) for x, at in ((q, rows), (k, keys), (v, keys))), causal="bottom_right",
            window=(2, None), sink_tokens=1, alibi_slopes=slopes[b], sinks=sinks, block_mask=part,
            return_scores="bias",
        )  # fmt: skip
        assert one.scores is not None
        np.testing.assert_array_equal(got.out[rows], one.out.swapaxes(0, 1))
        np.testing.assert_array_equal(got.lse[rows], one.lse.T)
        np.testing.assert_array_equal(got.weights[rows, :, :m], one.weights.swapaxes(0, 1))
        np.testing.assert_array_equal(got.scores[rows, :, :m], one.scores.swapaxes(0, 1))
        assert np.isneginf(got.scores[rows, :, m:]).all() and not got.weights[rows, :, m:].any()


def test_examples() -> None:
    result = doctest.testmod(reference_attention)
    assert result.attempted > 10 and result.failed == 0
