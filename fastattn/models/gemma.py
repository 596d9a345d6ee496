# SPDX-License-Identifier: MIT
"""Gemma: Llama with gains of 1 + w, embeddings times sqrt(H), and GELU in the gate.

Gemma team, 2024, https://arxiv.org/abs/2403.08295; names of tensors and keys as in transformers' GemmaModel.
"""

from __future__ import annotations

import math

from ..graph.config import ConfigReader
from ..graph.family import Facts
from ..graph.graph import Graph
from .blocks import ACTIVATIONS
from .causal import NAMES, PROBES, Sizes, attend, causal_family, causal_heads, embedded, feed_forward, rotary_of
from .ggufkeys import Architecture

__all__ = ["FAMILY", "GGUF"]


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c, kv_heads=16, head_size=256)._replace(activation=_activation(c))
    rotary, bias = rotary_of(c, s), c.flag("attention_bias", False)
    g.names = NAMES.replace(g.source.prefix("model.", *PROBES))
    tied = c.flag("tie_word_embeddings", True)
    x = embedded(g, s, tied)
    x = g.scale(x, math.sqrt(s.hidden))
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.rms_norm(x, "attn_norm", s.eps, plus_one=True)
        x = x + attend(layer, y, s, rotary, None, bias=bias, output_bias=bias)
        x = x + feed_forward(layer, layer.rms_norm(x, "ffn_norm", s.eps, plus_one=True), s)
    x = g.rms_norm(x, "output_norm", s.eps, plus_one=True)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


def _activation(c: ConfigReader) -> str:
    """GELU by tanh, which the first files call ``gelu``; some say under ``hidden_activation`` what they mean."""
    names = {**ACTIVATIONS, "gelu": "gelu_tanh"}
    found = c.choice("hidden_act", names, "gelu_pytorch_tanh")
    other = c.choice("hidden_activation", names) if c.has("hidden_activation") else found
    if other != found:
        raise ValueError(f"{c.path}: hidden_act and hidden_activation are {found!r} and {other!r}, expected the same")
    return found


FAMILY = causal_family("GemmaModel", build, "Gemma")

GGUF = {"gemma": Architecture("gemma", "Gemma")}
