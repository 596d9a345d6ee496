# SPDX-License-Identifier: MIT
"""Hunyuan, the dense models: Llama with a norm over each head of queries and keys behind their positions.

Tencent, 2025; names of tensors and keys as in transformers' HunYuanDenseV1Model.
"""

from __future__ import annotations

from decimal import Context, Decimal

from ..graph.config import ConfigReader, short
from ..graph.family import Facts
from ..graph.graph import Graph
from ..graph.names import Names
from ..graph.rotary import Rotary, build_rotary, read_scaling
from .causal import LAYER, PROBES, Sizes, causal_family, causal_heads, embedded, feed_forward
from .ggufkeys import Architecture

__all__ = ["FAMILY", "GGUF"]

_NAMES = Names("model.", "layers.{i}.", {
    **LAYER, "attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm",
}, token_embd="embed_tokens", output_norm="norm")  # fmt: skip


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c, eps=1e-5)
    rotary, bias = _rotary(c, s), c.flag("attention_bias", False)
    if not c.flag("use_qk_norm", True):
        raise ValueError(f"{c.path}: use_qk_norm is 'False', expected True: all models have these norms")
    g.names = _NAMES.replace(g.source.prefix("model.", *PROBES))
    tied = c.flag("tie_word_embeddings", False)
    x = embedded(g, s, tied)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.rms_norm(x, "attn_norm", s.eps)
        qkv = layer.linear(y, ("attn_q", "attn_k", "attn_v"), (s.q_width, s.kv_width, s.kv_width), bias=bias)
        qk, v = layer.split(qkv, s.q_width + s.kv_width, s.kv_width)
        q, k = layer.split(layer.rope(qk, s.heads + s.kv_heads, rotary), s.q_width, s.kv_width)
        q = layer.rms_norm(q, "attn_q_norm", s.eps, groups=s.heads)
        k = layer.rms_norm(k, "attn_k_norm", s.eps, groups=s.kv_heads)
        attended = layer.attention(q, k, v, s.heads, s.kv_heads, causal=True, cached=True)
        x = x + layer.linear(attended, "attn_output", s.hidden, bias=bias)
        x = x + feed_forward(layer, layer.rms_norm(x, "ffn_norm", s.eps), s)
    x = g.rms_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


def _rotary(c: ConfigReader, s: Sizes) -> Rotary:
    """What files call dynamic has a fixed base where they say an alpha: theta alpha^(D / (D - 2))."""
    theta, scaling = read_scaling(c, 10000.0)
    kind = (scaling or {}).get("rope_type") or (scaling or {}).get("type")
    alpha = (scaling or {}).get("alpha")
    if kind == "dynamic" and alpha:
        if type(alpha) not in (int, float) or not 0 < alpha <= 1e9 or s.head_size < 4:
            raise ValueError(f"{c.path}: rotary positions: alpha is {short(alpha)}, expected a number up to 1e9")
        exact = Context(prec=40)  # decimal arithmetic is the same on every machine
        part = exact.divide(Decimal(s.head_size), Decimal(s.head_size - 2))
        theta = float(exact.multiply(Decimal(theta), exact.power(Decimal(alpha), part)))
        scaling = None
    return build_rotary(c, s.head_size, base=theta, scaling=scaling, positions=s.positions)


FAMILY = causal_family("HunYuanDenseV1Model", build, "HunYuanDenseV1")

GGUF = {"hunyuan-dense": Architecture("hunyuan_v1_dense", "HunYuanDenseV1", names=_NAMES)}
