# SPDX-License-Identifier: MIT
"""The oracle itself, against sums written out by hand: an oracle that nobody checked proves nothing."""

from __future__ import annotations

import doctest
import math
from typing import Any

import numpy as np
import pytest
from support.inputs import generator, qkv

from fastattn import reference


def by_hand(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    allowed: np.ndarray,
    added: np.ndarray,
    scale: float,
    softcap: float | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One head with Python floats and exact sums."""
    out, lse, weights = np.zeros((len(q), v.shape[1])), np.full(len(q), -np.inf), np.zeros((len(q), len(k)))
    for i in range(len(q)):
        score: dict[int, float] = {}
        for j in range(len(k)):
            if allowed[i, j] and added[i, j] != -np.inf:
                x = scale * math.fsum(float(a) * float(b) for a, b in zip(q[i], k[j], strict=True))
                score[j] = (x if softcap is None else softcap * math.tanh(x / softcap)) + float(added[i, j])
        if score:
            lse[i] = math.log(math.fsum(math.exp(x) for x in score.values()))
            for j, x in score.items():
                weights[i, j] = math.exp(x - lse[i])
            for d in range(v.shape[1]):
                out[i, d] = math.fsum(weights[i, j] * float(v[j, d]) for j in score)
    return out, lse, weights


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("scale", [None, -0.5, 0.0])
def test_attention_by_hand(scale: float | None, softcap: float | None) -> None:
    rng = generator("by hand", scale, softcap)
    q, k, v = qkv(rng, 2, 4, 2, 5, 7, 3, 4)
    lengths, offsets = [7, 4], [3, -1]
    mask = np.where(rng.random((2, 1, 5, 7)) < 0.2, -np.inf, rng.standard_normal((2, 1, 5, 7)))
    got = reference.attention(
        q,
        k,
        v,
        mask=mask,
        causal=True,
        q_offset=offsets,
        window=(3, 1),
        kv_lengths=lengths,
        scale=scale,
        softcap=softcap,
    )
    for b in range(2):
        allowed = np.array(
            [[j < lengths[b] and offsets[b] + i - 3 <= j <= offsets[b] + i for j in range(7)] for i in range(5)]
        )
        for h in range(4):
            out, lse, weights = by_hand(
                q[b, h],
                k[b, h // 2],
                v[b, h // 2],
                allowed,
                mask[b, 0],
                1 / math.sqrt(3) if scale is None else scale,
                softcap,
            )
            np.testing.assert_allclose(got.out[b, h], out, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(got.lse[b, h], lse, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(got.weights[b, h], weights, rtol=1e-12, atol=1e-14)


def test_visible_keys_by_hand() -> None:
    for sq in range(5):
        for sk in range(6):
            for length in range(sk + 1):
                for causal in (False, "top_left", "bottom_right"):
                    for window in (None, (0, 0), (1, None), (None, 2), (2, 1)):
                        offset = length - sq if causal == "bottom_right" else 0
                        left, right = window or (None, None)
                        expected = [
                            [
                                j < length
                                and (not causal or j <= offset + i)
                                and (left is None or j >= offset + i - left)
                                and (right is None or j <= offset + i + right)
                                for j in range(sk)
                            ]
                            for i in range(sq)
                        ]
                        got = reference.visible_keys(sq, sk, causal=causal, window=window, kv_length=length)
                        assert got.tolist() == expected


@pytest.mark.parametrize(
    "options",
    [
        {"causal": True},
        {"causal": "lower"},
        {"causal": "top_left", "q_offset": 1},
        {"causal": "bottom_right", "q_offset": 0},
        {"kv_lengths": [7]},
        {"kv_lengths": [-1]},
        {"kv_lengths": [1, 2]},
    ],
)
def test_ambiguous_and_impossible_options_are_refused(options: dict[str, Any]) -> None:
    q, k, v = qkv(generator("refused"), 1, 1, 1, 3, 6, 2)
    with pytest.raises(ValueError, match=r"causal|q_offset|kv_lengths"):
        reference.attention(q, k, v, **options)


def test_special_values() -> None:
    nan, inf = math.nan, math.inf
    q = np.ones((1, 1))
    v = np.array([[1.0], [2.0], [4.0]])
    assert reference.attention(q, [[0], [0], [-inf]], v).out.item() == 1.5  # -inf: excluded
    assert reference.attention(q, [[0], [0], [-inf]], [[1], [2], [nan]]).out.item() == 1.5
    assert math.isnan(reference.attention(q, [[0], [0], [inf]], v).out.item())
    assert math.isnan(reference.attention(q, [[0], [0], [nan]], v).out.item())
    assert reference.attention(q, [[0], [0], [nan]], [[1], [2], [nan]], mask=[True, True, False]).out.item() == 1.5
    assert reference.attention(q, [[0], [0], [nan]], [[1], [2], [nan]], mask=[0.0, 0.0, -inf]).out.item() == 1.5
    assert reference.attention(
        q, [[0], [0], [0]], v, mask=np.full(3, np.finfo(np.float32).min)
    ).out.item() == pytest.approx(7 / 3)
    empty = reference.attention(q, [[0], [0], [0]], [[nan], [inf], [0]], mask=[False] * 3)
    assert empty.out.item() == 0 and empty.lse.item() == -inf and not empty.weights.any()
    assert reference.attention(q, np.zeros((0, 1)), np.zeros((0, 2))).out.tolist() == [[0, 0]]


def test_the_float32_side_is_float32_and_close() -> None:
    q, k, v = qkv(generator("naive"), 1, 2, 1, 20, 30, 16)
    exact, naive = reference.attention(q, k, v), reference.attention(q, k, v, dtype=np.float32)
    for one, other in zip(exact[:3], naive[:3], strict=True):
        assert one.dtype == np.float64 and other.dtype == np.float32
        assert 0 < np.abs(one - other).max() < 1e-5
    x = np.linspace(-4, 4, 101).astype(np.float32)
    for function in (
        reference.exp2,
        reference.erf,
        reference.tanh,
        reference.sigmoid,
        reference.silu,
        reference.relu,
        reference.gelu,
        reference.softmax,
        reference.layer_norm,
        reference.rms_norm,
        reference.l2_normalize,
    ):
        assert function(x).dtype == np.float64 and function(x, dtype=np.float32).dtype == np.float32
        assert np.abs(function(x) - function(x, dtype=np.float32)).max() < 1e-5


def test_functions_at_high_precision() -> None:
    mp = pytest.importorskip("mpmath").mp
    mp.dps = 40
    for x in (-30.0, -6.5, -5.0, -1.0, -1e-3, 0.0, 1e-9, 0.3, 2.0, 5.0, 30.0):
        exact = {
            "exp2": 2 ** mp.mpf(x),
            "erf": mp.erf(x),
            "tanh": mp.tanh(x),
            "sigmoid": 1 / (1 + mp.exp(-x)),
            "silu": x / (1 + mp.exp(-x)),
            "gelu": mp.mpf(x) * mp.erfc(-mp.mpf(x) / mp.sqrt(2)) / 2,
        }
        for name, value in exact.items():
            assert float(getattr(reference, name)(x)) == pytest.approx(float(value), rel=1e-12, abs=1e-60), (name, x)
        inner = mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * mp.mpf(x) ** 3)
        tanh_form = mp.mpf(x) * (1 + mp.tanh(inner)) / 2
        assert float(reference.gelu(x, "tanh")) == pytest.approx(float(tanh_form), rel=1e-12, abs=1e-30), x


def test_layers_by_hand() -> None:
    x = [[1.0, 2.0, 6.0]]
    assert reference.layer_norm(x, [1, 2, 3], [0, 1, 0], eps=0.0).tolist()[0] == pytest.approx(
        [-2 / math.sqrt(14 / 3), 1 - 2 / math.sqrt(14 / 3), 9 / math.sqrt(14 / 3)]
    )
    assert reference.layer_norm(x, residual=[[5.0, 4.0, 0.0]], eps=1e-5).tolist() == [[0, 0, 0]]
    assert reference.rms_norm(x, [1, 1, 2], eps=0.0, residual=[[0, 0, -2.0]]).tolist()[0] == pytest.approx(
        [1 / math.sqrt(7), 2 / math.sqrt(7), 8 / math.sqrt(7)]
    )
    assert reference.softmax([[-math.inf, -math.inf]]).tolist() == [[0, 0]]
    assert reference.softmax([[1e30, 1e30]]).tolist() == [[0.5, 0.5]]
    packed = [[1.0, -1.0], [3.0, -5.0], [7.0, 8.0]]
    assert reference.pool(packed, [0, 2, 2, 3], "mean").tolist() == [[2, -3], [0, 0], [7, 8]]
    assert reference.pool(packed, [0, 2, 2, 3], "max").tolist() == [[3, -1], [0, 0], [7, 8]]
    assert reference.pool(packed, [0, 2, 2, 3], "cls").tolist() == [[1, -1], [0, 0], [7, 8]]
    assert reference.pool(packed, [0, 2, 2, 3], "last").tolist() == [[3, -5], [0, 0], [7, 8]]
    assert reference.l2_normalize([[0.0, 0.0], [3.0, 4.0]]).tolist() == [[0, 0], [0.6, 0.8]]


def test_examples() -> None:
    result = doctest.testmod(reference)
    assert result.attempted > 5 and result.failed == 0
