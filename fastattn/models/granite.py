# SPDX-License-Identifier: MIT
"""Granite: Llama with four factors: of embeddings, of attention scores, of what layers add, and of logits.

IBM, 2024; names of tensors and keys as in transformers' GraniteModel.
"""

from __future__ import annotations

import math

from ..graph.family import Facts
from ..graph.graph import Graph
from .causal import NAMES, PROBES, Sizes, causal_family, causal_heads, embedded, feed_forward, mixed, rotary_of
from .ggufkeys import BIASES, Architecture, Keys, Values

__all__ = ["FAMILY", "GGUF", "multipliers_of_gguf"]


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c)
    rotary, bias, inner_bias = rotary_of(c, s), c.flag("attention_bias", False), c.flag("mlp_bias", False)
    embedding, residual = c.positive("embedding_multiplier", 1.0), c.positive("residual_multiplier", 1.0)
    scale, divisor = c.positive("attention_multiplier", 1.0), c.positive("logits_scaling", 1.0)
    g.names = NAMES.replace(g.source.prefix("model.", *PROBES))
    tied = c.flag("tie_word_embeddings", False)
    x = embedded(g, s, tied)
    x = g.scale(x, embedding)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.rms_norm(x, "attn_norm", s.eps)
        qkv = layer.linear(y, ("attn_q", "attn_k", "attn_v"), (s.q_width, s.kv_width, s.kv_width), bias=bias)
        attended = mixed(layer, qkv, s, rotary, None, scale)
        x = x + layer.scale(layer.linear(attended, "attn_output", s.hidden, bias=bias), residual)
        y = layer.rms_norm(x, "ffn_norm", s.eps)
        x = x + layer.scale(feed_forward(layer, y, s, bias=inner_bias), residual)
    x = g.rms_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied, factor=1 / divisor)
    return s.facts


FAMILY = causal_family("GraniteModel", build, "Granite")


def multipliers_of_gguf(keys: Keys, common: Values) -> Values:
    """The four factors."""
    return {
        "embedding_multiplier": keys.real("embedding_scale", 1.0),
        "residual_multiplier": keys.real("residual_scale", 1.0),
        "attention_multiplier": keys.real("attention.scale", 1 / math.sqrt(common["head_dim"])),
        "logits_scaling": keys.real("logit_scale", 1.0),
    }


GGUF = {
    "granite": Architecture(
        "granite", "Granite", paired=True, flags={**BIASES, "mlp_bias": ("ffn_gate.bias",)}, more=multipliers_of_gguf
    ),
}
