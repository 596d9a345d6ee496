# SPDX-License-Identifier: MIT
"""The oracle's attention beside torch's and transformers' own: the same meaning of every option they have.

Run with ``pytest -m parity`` where both are installed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support.inputs import generator, qkv

from fastattn import reference

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


def sdpa(*arrays: np.ndarray, **options: Any) -> np.ndarray:
    """torch's function in float64."""
    tensors = [torch.from_numpy(x.astype(np.float64)) for x in arrays]
    out = torch.nn.functional.scaled_dot_product_attention(*tensors, **options)
    return np.asarray(out.numpy())


@pytest.mark.parametrize("sq, sk", [(7, 7), (4, 9), (9, 4), (1, 6)])
def test_oracle_and_torch(sq: int, sk: int) -> None:
    rng = generator("sdpa", sq, sk)
    q, k, v = qkv(rng, 2, 4, 2, sq, sk, 8, 5)
    keep, added = rng.random((2, 1, sq, sk)) < 0.7, rng.standard_normal((4, sq, sk))
    keep[..., 0] = True  # torch gives NaN to rows without a key
    same: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"causal": "top_left"}, {"is_causal": True}),
        ({"scale": 0.3}, {"scale": 0.3}),
        ({"mask": keep}, {"attn_mask": torch.from_numpy(keep)}),
        ({"mask": added}, {"attn_mask": torch.from_numpy(added)}),
    ]
    for ours, theirs in same:
        got = reference.attention(q, k, v, **ours).out
        np.testing.assert_allclose(got, sdpa(q, k, v, enable_gqa=True, **theirs), rtol=1e-12, atol=1e-13)


def test_oracle_bottom_right_is_torchs() -> None:
    bias = pytest.importorskip("torch.nn.attention.bias")
    q, k, v = qkv(generator("lower right"), 2, 2, 2, 4, 9, 8)
    expected = sdpa(q, k, v, attn_mask=bias.causal_lower_right(4, 9))
    np.testing.assert_allclose(reference.attention(q, k, v, causal="bottom_right").out, expected, rtol=1e-6, atol=1e-7)


def test_oracle_softcap_alibi_sinks_as_written_in_torch() -> None:
    rng = generator("plain torch")
    q, k, v = qkv(rng, 2, 4, 4, 5, 11, 8)
    slopes, sinks = rng.random((2, 4)), rng.standard_normal(4)
    qt, kt, vt, st, lt = (torch.from_numpy(x.astype(np.float64)) for x in (q, k, v, slopes, sinks))
    x = 20.0 * torch.tanh(qt @ kt.transpose(-1, -2) / math.sqrt(8) / 20.0)
    distance = torch.arange(11)[None, :] - (torch.arange(5)[:, None] + 6)
    x = x - st[..., None, None] * distance.abs()
    x = x.masked_fill(distance > 0, -math.inf)
    joined = torch.cat([x, lt.reshape(1, 4, 1, 1).expand(2, 4, 5, 1)], dim=-1)
    p = torch.softmax(joined, dim=-1)[..., :-1]
    got = reference.attention(
        q, k, v, causal="bottom_right", softcap=20.0, alibi_slopes=slopes, sinks=sinks, return_scores="bias"
    )
    np.testing.assert_allclose(got.out, (p @ vt).numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(got.weights, p.numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(got.lse, torch.logsumexp(joined, dim=-1).numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(got.scores, x.numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("buckets, bidirectional", [(32, True), (32, False), (8, True), (33, False), (128, True)])
def test_buckets_are_those_of_t5(buckets: int, bidirectional: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    for max_distance in (65, 100, 128, 256, 800, 1024):
        distances = np.arange(-4 * max_distance, 4 * max_distance + 1)
        theirs = T5Attention._relative_position_bucket(
            torch.from_numpy(distances), bidirectional, buckets, max_distance
        )
        ours = reference.relative_buckets(distances, buckets, bidirectional, max_distance)
        np.testing.assert_array_equal(ours, theirs.numpy())


def test_t5_bias_is_ours() -> None:
    """The bias a T5 layer adds, from its own weights, is relative_bias=(table, ...) with an exact score of zero."""
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Attention

    for decoder in (False, True):
        config = T5Config(d_model=16, d_kv=4, num_heads=4, is_decoder=decoder)
        layer = T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
        with torch.no_grad():
            expected = layer.compute_bias(6, 40).numpy()[0]
        table = layer.relative_attention_bias.weight.detach().numpy().T  # (heads, buckets)
        zeros = np.zeros((4, 6, 1)), np.zeros((4, 40, 1)), np.zeros((4, 40, 1))
        got = reference.attention(*zeros, relative_bias=(table, not decoder, 128), return_scores="bias")
        np.testing.assert_array_equal(got.scores, expected)
