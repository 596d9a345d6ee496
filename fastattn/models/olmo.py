# SPDX-License-Identifier: MIT
"""OLMo: Llama with layer norms that have no weights, and queries, keys and values that may be held within bounds.

Groeneveld et al., 2024, https://arxiv.org/abs/2402.00838; names of tensors and keys as in transformers' OlmoModel.
"""

from __future__ import annotations

import numpy as np

from ..graph.family import Facts
from ..graph.graph import Graph
from .causal import NAMES, Sizes, causal_family, causal_heads, embedded, feed_forward, mixed, rotary_of
from .ggufkeys import Architecture, Keys, Values

__all__ = ["FAMILY", "GGUF"]

_EPS = 1e-5
_PROBES = ("embed_tokens.weight", "layers.0.self_attn.q_proj.weight")  # there are no norms


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c)
    rotary, bias = rotary_of(c, s), c.flag("attention_bias", False)
    most = c.positive("clip_qkv") if c.has("clip_qkv") else None
    ones = np.ones(s.hidden, np.float32)
    g.names = NAMES.replace(g.source.prefix("model.", *_PROBES))
    tied = c.flag("tie_word_embeddings", False)
    x = embedded(g, s, tied)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.norm(x, ones, None, _EPS)
        qkv = layer.linear(y, ("attn_q", "attn_k", "attn_v"), (s.q_width, s.kv_width, s.kv_width), bias=bias)
        attended = mixed(layer, qkv if most is None else layer.clamp(qkv, most), s, rotary, None)
        x = x + layer.linear(attended, "attn_output", s.hidden, bias=bias)
        x = x + feed_forward(layer, layer.norm(x, ones, None, _EPS), s)
    x = g.norm(x, ones, None, _EPS)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


FAMILY = causal_family("OlmoModel", build, "Olmo")


def _of_gguf(keys: Keys, common: Values) -> Values:
    if common["rms_norm_eps"] != _EPS:
        raise keys.error("attention.layer_norm_epsilon", common["rms_norm_eps"], str(_EPS))
    return {"clip_qkv": keys.real("attention.clamp_kqv", 0.0) or None}


GGUF = {
    # converters leave biases of queries and keys in their order, and no model has any
    "olmo": Architecture(
        "olmo", "Olmo", paired=True, flags={}, more=_of_gguf, norms="attention.layer_norm_epsilon",
        spelling={"rms_norm_eps": None},
    ),
}  # fmt: skip
