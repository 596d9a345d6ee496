# SPDX-License-Identifier: MIT
"""Arcee's AFM: Llama with a feed-forward layer of squared ReLU, without a gate.

    y = x + attention(norm(x));  x = y + down(relu(up(norm(y)))^2)

Arcee, 2025; names of tensors and keys as in transformers' ArceeModel.
"""

from __future__ import annotations

from ..graph.family import Facts
from ..graph.graph import Graph
from .blocks import ACTIVATIONS
from .causal import NAMES, PROBES, Sizes, attend, causal_family, causal_heads, embedded, rotary_of
from .ggufkeys import BIASES, Architecture

__all__ = ["FAMILY", "GGUF"]


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c, eps=1e-5, activation="relu2", activations={**ACTIVATIONS, "relu2": "relu2"})
    rotary = rotary_of(c, s)
    bias, inner_bias = c.flag("attention_bias", False), c.flag("mlp_bias", False)
    g.names = NAMES.replace(g.source.prefix("model.", *PROBES))
    tied = c.flag("tie_word_embeddings", False)
    x = embedded(g, s, tied)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.rms_norm(x, "attn_norm", s.eps)
        x = x + attend(layer, y, s, rotary, None, bias=bias, output_bias=bias)
        y = layer.linear(layer.rms_norm(x, "ffn_norm", s.eps), "ffn_up", s.inner, bias=inner_bias)
        # relu(y)^2 is relu(y) y, whatever the sign
        y = layer.gated(y, y, "relu") if s.activation == "relu2" else layer.activate(y, s.activation)
        x = x + layer.linear(y, "ffn_down", s.hidden, bias=inner_bias)
    x = g.rms_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


FAMILY = causal_family("ArceeModel", build, "Arcee")

GGUF = {"arcee": Architecture("arcee", "Arcee", paired=True, flags={**BIASES, "mlp_bias": ("ffn_up.bias",)})}
