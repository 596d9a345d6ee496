# SPDX-License-Identifier: MIT
"""Attention, the oracle's and the library's, beside torch's and transformers' own: every option means the same.

Run with ``pytest -m parity`` where both are installed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support.inputs import generator, qkv

import fastattn as fa
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


# ---- this library's attention on torch tensors ---------------------------------------------------------------------

UNIT = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def assert_as_good(got: Any, theirs: Any, exact: Any, dtype: str) -> None:
    """The accuracy rule, with torch's result in the same type as the naive side, and one rounding of that type."""
    g, t, e = (x.to(torch.float64) for x in (got, theirs, exact))
    bound = 2 * (t - e).abs().max() + UNIT[dtype] * e.abs().max()
    assert (g - e).abs().max() <= bound, f"{(g - e).abs().max()} > {bound}"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("sq, sk, hkv", [(33, 33, 4), (17, 40, 2), (1, 100, 1), (50, 7, 4)])
def test_scaled_dot_product_attention(dtype: str, sq: int, sk: int, hkv: int) -> None:
    from support.torch_ops import scaled_dot_product_attention

    kind = getattr(torch, dtype)
    torch.manual_seed(sq)
    b = 2 + 60 // sq  # many rows: in a small problem one of them decides, and torch may be lucky in just that one
    q = torch.randn(b, sq, 4, 24).to(kind).transpose(1, 2)  # (B, S, H, D) in memory
    k, v = torch.randn(b, hkv, sk, 24).to(kind), torch.randn(b, hkv, sk, 20).to(kind)
    keep = torch.rand(b, 1, sq, sk) < 0.8
    keep[..., 0] = True  # what torch gives to rows without a key depends on its version
    for options in (
        {},
        {"scale": 0.25},
        {"is_causal": True},
        {"attn_mask": keep},
        {"attn_mask": keep[0, 0]},
        {"attn_mask": torch.randn(4, sq, sk).to(kind)},
        {"attn_mask": torch.where(keep, 0.0, -math.inf).to(kind), "scale": 0.25},
    ):
        exact = {n: x.double() if n == "attn_mask" and x.dtype != torch.bool else x for n, x in options.items()}
        peer = torch.nn.functional.scaled_dot_product_attention
        assert_as_good(
            scaled_dot_product_attention(q, k, v, enable_gqa=True, **options),
            peer(q, k, v, enable_gqa=True, **options),
            peer(q.double(), k.double(), v.double(), enable_gqa=True, **exact),
            dtype,
        )


def test_rows_without_a_key_are_zero() -> None:
    from support.torch_ops import scaled_dot_product_attention

    q = torch.randn(1, 2, 3, 8)
    out = scaled_dot_product_attention(q, q, q, attn_mask=torch.tensor([[True] * 3, [False] * 3, [True] * 3]))
    assert (out[:, :, 1] == 0).all() and (out[:, :, 0] != 0).any()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_t5_attention_layer(dtype: str) -> None:
    """A T5 layer's attention core: no scale, its bias by distance, computed here without a bias tensor."""
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Attention

    layer = T5Attention(T5Config(d_model=32, d_kv=8, num_heads=4), has_relative_attention_bias=True, layer_idx=0)
    kind = getattr(torch, dtype)
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, n, 8).to(kind) for n in (60, 300, 300))
    with torch.no_grad():
        bias = layer.compute_bias(60, 300)
    table = layer.relative_attention_bias.weight.detach().T.contiguous()
    exact = torch.nn.functional.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), attn_mask=bias.double(), scale=1.0
    )
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(kind), scale=1.0)
    out = torch.empty(2, 4, 60, 8, dtype=kind)
    fa.attention(q, k, v, scale=1.0, relative_bias=(table, True, 128), out=out)
    assert_as_good(out, theirs, exact, dtype)
