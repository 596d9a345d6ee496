# SPDX-License-Identifier: MIT
"""Qwen3: Llama with a norm over each head of the queries and keys.

Yang et al., 2025, https://arxiv.org/abs/2505.09388; names of tensors and keys as in transformers' Qwen3Model.
"""

from __future__ import annotations

from ..graph.family import Facts
from ..graph.graph import Graph
from .causal import (
    NAMES,
    PROBES,
    Sizes,
    causal_family,
    causal_heads,
    embedded,
    feed_forward,
    look_back,
    rotary_of,
    sliding_layers,
)
from .ggufkeys import Architecture

__all__ = ["FAMILY", "GGUF"]


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c, kv_heads=32, head_size=128)
    windows = sliding_layers(c, s)
    rotary, bias = rotary_of(c, s), c.flag("attention_bias", False)
    g.names = NAMES.replace(g.source.prefix("model.", *PROBES))
    tied = c.flag("tie_word_embeddings", False)
    x = embedded(g, s, tied)
    for i, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.rms_norm(x, "attn_norm", s.eps)
        q, k, v = layer.split(
            layer.linear(y, ("attn_q", "attn_k", "attn_v"), (s.q_width, s.kv_width, s.kv_width), bias=bias),
            s.q_width, s.kv_width, s.kv_width,
        )  # fmt: skip
        q = layer.rope(layer.rms_norm(q, "attn_q_norm", s.eps, groups=s.heads), s.heads, rotary)
        k = layer.rope(layer.rms_norm(k, "attn_k_norm", s.eps, groups=s.kv_heads), s.kv_heads, rotary)
        window = windows[i]
        attended = look_back(layer, q, k, v, s, window)
        x = x + layer.linear(attended, "attn_output", s.hidden, bias=bias)
        x = x + feed_forward(layer, layer.rms_norm(x, "ffn_norm", s.eps), s)
    x = g.rms_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


FAMILY = causal_family("Qwen3Model", build, "Qwen3")

GGUF = {"qwen3": Architecture("qwen3", "Qwen3")}
