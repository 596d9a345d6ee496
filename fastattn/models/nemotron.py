# SPDX-License-Identifier: MIT
"""Nemotron: layer norms with gains of 1 + w, a feed-forward layer of squared ReLU, and positions for part of a head.

    y = x + attention(norm(x));  x = y + down(relu(up(norm(y)))^2)

Parmar et al., 2024, https://arxiv.org/abs/2402.16819; names of tensors and keys as in transformers' NemotronModel.
"""

from __future__ import annotations

from ..graph.family import Facts
from ..graph.graph import Graph
from .blocks import ACTIVATIONS
from .causal import NAMES, PROBES, Sizes, attend, causal_family, causal_heads, embedded, rotary_of_part
from .ggufkeys import BIASES, Architecture

__all__ = ["FAMILY", "GGUF"]


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c, activation="relu2", activations={**ACTIVATIONS, "relu2": "relu2"})
    s = s._replace(eps=c.positive("norm_eps", 1e-5))
    rotary = rotary_of_part(c, s, c.positive("partial_rotary_factor", 0.5), odd=True)
    bias, inner_bias = c.flag("attention_bias", False), c.flag("mlp_bias", False)
    g.names = NAMES.replace(g.source.prefix("model.", *PROBES))
    tied = c.flag("tie_word_embeddings", False)
    x = embedded(g, s, tied)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.layer_norm(x, "attn_norm", s.eps, plus_one=True)
        x = x + attend(layer, y, s, rotary, None, bias=bias, output_bias=bias)
        y = layer.linear(layer.layer_norm(x, "ffn_norm", s.eps, plus_one=True), "ffn_up", s.inner, bias=inner_bias)
        # relu(y)^2 is relu(y) y, whatever the sign
        y = layer.gated(y, y, "relu") if s.activation == "relu2" else layer.activate(y, s.activation)
        x = x + layer.linear(y, "ffn_down", s.hidden, bias=inner_bias)
    x = g.layer_norm(x, "output_norm", s.eps, plus_one=True)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


FAMILY = causal_family("NemotronModel", build, "Nemotron")

GGUF = {
    "nemotron": Architecture(
        "nemotron", "Nemotron", part=True, norms="attention.layer_norm_epsilon", spelling={"rms_norm_eps": "norm_eps"},
        flags={**BIASES, "mlp_bias": ("ffn_up.bias",)},
    ),
}  # fmt: skip
