# SPDX-License-Identifier: MIT
"""KVCache: what makes no sense is refused by name, and nothing has changed after."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastattn as fa


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"layers": 0}, ValueError, "layers: 0, expected 1"),
        ({"batch": -1}, ValueError, "batch: -1"),
        ({"kv_heads": 2.0}, TypeError, "kv_heads: float"),
        ({"head_dim": 5000}, ValueError, "head_dim: 5000, expected 1 to 4096"),
        ({"v_head_dim": 0}, ValueError, "v_head_dim: 0"),
        ({"dtype": "float64"}, ValueError, "dtype: 'float64'"),
        ({"dtype": 3}, ValueError, "dtype: 3"),
        ({"max_length": 0}, ValueError, "max_length: 0"),
        ({"max_length": None}, ValueError, "max_length: None without a window"),
        ({"max_length": True}, TypeError, "max_length: True"),
        ({"window": 0}, ValueError, "window: 0"),
        ({"window": (4, 0)}, TypeError, "window: tuple"),
        ({"sink_tokens": 4}, ValueError, "sink_tokens: 4 without a window"),
        ({"window": 4, "sink_tokens": -1}, ValueError, "sink_tokens: -1"),
        ({"batch": 1 << 40, "kv_heads": 1 << 40}, ValueError, "batch: arrays of"),
    ],
)
def test_a_cache_that_makes_no_sense(change: dict[str, Any], error: type[Exception], words: str) -> None:
    sizes: dict[str, Any] = {"layers": 1, "batch": 2, "kv_heads": 1, "head_dim": 8, "max_length": 10, **change}
    with pytest.raises(error) as caught:
        fa.KVCache(**sizes)
    assert words in str(caught.value)


K = np.zeros((2, 1, 3, 8), np.float32)
TABLE = np.zeros((5, 4), np.float32)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((1, K, K), ValueError, "layer: 1, expected 0 to 0"),
        ((-1, K, K), ValueError, "layer: -1"),
        (("0", K, K), TypeError, "layer: str"),
        ((0, K[0], K[0]), ValueError, "k: rank 3, expected 4"),
        ((0, K[:1], K), ValueError, "k: 1 batch rows, expected 2"),
        ((0, K, K[:1]), ValueError, "v: 1 batch rows, expected 2"),
        ((0, K.repeat(2, axis=1), K), ValueError, "k: 2 heads, expected 1"),
        ((0, K[..., :4].copy(), K), ValueError, "k: head size 4, expected 8"),
        ((0, K, K[:, :, :2]), ValueError, "v: 2 tokens, expected 3"),
        ((0, K.astype(np.float64), K), TypeError, "k: dtype float64"),
        ((0, K, K.astype(np.int8)), TypeError, "v: dtype int8"),
        ((0, K.astype(">f4"), K), TypeError, "k: dtype >f4"),
        ((0, np.asfortranarray(K), K), ValueError, "k: last stride"),
        ((0, K.tolist(), K), TypeError, "k: list"),
        ((0, K, K, [1, 2, 3]), ValueError, "lengths: shape (3,)"),
        ((0, K, K, [1, 4]), ValueError, "lengths: 4, expected 0 to 3"),
        ((0, K, K, [1, -1]), ValueError, "lengths: -1"),
        ((0, K, K, [1.0, 1.0]), TypeError, "lengths: dtype float64"),
        ((0, K, K, True), TypeError, "lengths: dtype bool"),
        ((0, K, K, None, TABLE), TypeError, "rope: float32 of shape (5, 4), expected (cos, sin)"),
        ((0, K, K, None, (TABLE,)), TypeError, "rope: tuple"),
        ((0, K, K, None, (TABLE, TABLE, 1)), TypeError, "rope: interleaved is int"),
        ((0, K, K, None, (TABLE, TABLE[:4])), ValueError, "rope: sin of shape (4, 4)"),
        ((0, K, K, None, (TABLE[:2], TABLE[:2])), ValueError, "rope: tables of 2 positions, expected at least 3"),
        ((0, K, K, None, (TABLE.astype(np.float64), TABLE)), TypeError, "rope: cos of dtype float64"),
        ((0, K, K, None, (np.zeros((5, 5), np.float32),) * 2), ValueError, "rope: cos of shape (5, 5)"),
    ],
)
def test_an_append_that_makes_no_sense(arguments: Any, error: type[Exception], words: str) -> None:
    cache = fa.KVCache(1, 2, 1, 8, max_length=10)
    layer, k, v, *rest = arguments
    with pytest.raises(error) as caught:
        cache.append(layer, k, v, *rest[:1], rope=rest[1] if len(rest) > 1 else None)
    assert words in str(caught.value)
    assert cache.nbytes == 0


Q = np.zeros((2, 2, 3, 8), np.float32)


@pytest.mark.parametrize(
    ("q", "options", "error", "words"),
    [
        (Q[0], {}, ValueError, "q: rank 3, expected 4"),
        (Q[:1], {}, ValueError, "q: 1 batch rows, expected 2"),
        (Q[..., :4].copy(), {}, ValueError, "head size"),
        (Q, {"kv_lengths": [1, 1]}, TypeError, "kv_lengths"),
        (Q, {"k_scale": None}, TypeError, "k_scale"),
        (Q, {"causal": "up"}, ValueError, "causal: 'up'"),
        (Q, {"causal": 1}, TypeError, "causal: int"),
        (Q, {"causal": "top_left", "q_offset": 3}, ValueError, "q_offset: given together with"),
        (Q, {"q_offset": [1, 2, 3]}, ValueError, "q_offset: shape (3,)"),
        (Q, {"q_offset": 1.5}, TypeError, "q_offset: dtype float64"),
        (Q, {"q_offset": 1 << 50}, ValueError, "q_offset: beyond"),
        (Q, {"window": (10, 0)}, ValueError, "window: 10, expected 0 to 9"),
        (Q, {"window": (None, 0)}, ValueError, "window: None to the left"),
        (Q, {"window": 3}, TypeError, "window: 3"),
        (Q, {"sink_tokens": 5}, ValueError, "sink_tokens: 5, expected 0 to 4"),
        (Q, {"q_offset": 20}, ValueError, "q: a query at position 20 of row 0 sees keys from"),
        (Q, {"flavour": 3}, TypeError, "flavour"),
    ],
)
def test_attention_that_makes_no_sense(q: Any, options: dict[str, Any], error: type[Exception], words: str) -> None:
    cache = fa.KVCache(1, 2, 1, 8, max_length=None, window=10, sink_tokens=4)
    for _ in range(20):
        cache.append(0, K, K)
        cache.advance(3)
    with pytest.raises(error) as caught:
        cache.attend(0, q, **options)
    assert words in str(caught.value)


def test_lengths_that_make_no_sense() -> None:
    cache = fa.KVCache(1, 2, 1, 8, max_length=10)
    cache.append(0, K, K, [3, 2])
    for n, words in ((3, "n: 3 tokens for row 1, expected at most 2"), (-1, "n: -1"), ([1], "n: shape (1,)")):
        with pytest.raises(ValueError) as caught:
            cache.advance(n)
        assert words in str(caught.value)
    cache.advance([3, 2])
    for n, words in (
        (4, "n: 4 for row 0, expected 0 to 3"),
        ([3, 3], "n: 3 for row 1, expected 0 to 2"),
        (-1, "n: -1"),
    ):
        with pytest.raises(ValueError) as caught:
            cache.truncate(n)
        assert words in str(caught.value)
    for rows, words in (([], "rows"), ([2], "rows: 2, expected 0 to 1"), ([[0]], "rows"), ([-1], "rows: -1")):
        with pytest.raises(ValueError) as caught:
            cache.reorder(rows)
        assert words in str(caught.value)
    with pytest.raises(TypeError, match="rows: dtype float64"):
        cache.reorder([0.5])
    assert cache.lengths.tolist() == [3, 2]


def test_a_ring_says_how_far_back_it_can_go() -> None:
    cache = fa.KVCache(1, 1, 1, 8, max_length=None, window=100)
    k = np.ones((1, 1, 1, 8), np.float32)
    for _ in range(400):
        cache.append(0, k, k)
        cache.advance(1)
    with pytest.raises(ValueError, match="n: 200 for row 0 of 400 tokens, expected more.*the ring holds tokens from"):
        cache.truncate(200)
    cache.truncate(384)
    assert cache.lengths.tolist() == [384]
