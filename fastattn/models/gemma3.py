# SPDX-License-Identifier: MIT
"""Gemma 3, its text model: Gemma 2 with a norm over each head of queries and keys in the place of the cap on scores,
windows in all but every sixth layer, and two bases of rotary positions.

Gemma team, 2025, https://arxiv.org/abs/2503.19786; names of tensors and keys as in transformers' Gemma3TextModel.
"""

from __future__ import annotations

import math

from ..graph.family import Facts
from ..graph.graph import Graph
from .blocks import ACTIVATIONS
from .causal import (
    PROBES,
    Sizes,
    causal_family,
    causal_heads,
    embedded,
    feed_forward,
    look_back,
    rotaries_of,
    windows_between,
)
from .gemma2 import NAMES
from .ggufkeys import Architecture, Keys, Values, sliding_kinds

__all__ = ["FAMILY", "GGUF"]


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c, kv_heads=4, head_size=256)
    s = s._replace(activation=c.choice("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh"))
    windows, bias = windows_between(c, s, c.size("sliding_window_pattern", 6), 4096), c.flag("attention_bias", False)
    full, local = c.positive("rope_theta", 1e6), c.positive("rope_local_base_freq", 1e4)
    rotaries = rotaries_of(c, s, full=full, sliding=local)
    scale = 1 / math.sqrt(c.positive("query_pre_attn_scalar", 256.0))
    cap = c.positive("final_logit_softcapping") if c.has("final_logit_softcapping") else 0.0
    g.names = NAMES.replace(g.source.prefix("model.", *PROBES))
    tied = c.flag("tie_word_embeddings", True)
    x = embedded(g, s, tied)
    x = g.scale(x, math.sqrt(s.hidden))
    for i, layer in g.layers(s.layers):
        g.hidden_state(x)
        window = windows[i]
        rotary = rotaries["full_attention" if window is None else "sliding_attention"]
        y = layer.rms_norm(x, "attn_norm", s.eps, plus_one=True)
        q, k, v = layer.split(
            layer.linear(y, ("attn_q", "attn_k", "attn_v"), (s.q_width, s.kv_width, s.kv_width), bias=bias),
            s.q_width, s.kv_width, s.kv_width,
        )  # fmt: skip
        q = layer.rope(layer.rms_norm(q, "attn_q_norm", s.eps, groups=s.heads, plus_one=True), s.heads, rotary)
        k = layer.rope(layer.rms_norm(k, "attn_k_norm", s.eps, groups=s.kv_heads, plus_one=True), s.kv_heads, rotary)
        attended = look_back(layer, q, k, v, s, window, scale=scale)
        y = layer.linear(attended, "attn_output", s.hidden, bias=bias)
        x = x + layer.rms_norm(y, "attn_post_norm", s.eps, plus_one=True)
        y = feed_forward(layer, layer.rms_norm(x, "ffn_norm", s.eps, plus_one=True), s)
        x = x + layer.rms_norm(y, "ffn_post_norm", s.eps, plus_one=True)
    x = g.rms_norm(x, "output_norm", s.eps, plus_one=True)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied, cap=cap)
    return s.facts


FAMILY = causal_family("Gemma3TextModel", build, "Gemma3", "Gemma3Text")

_LAYERS_OF_27B = 62


def _of_gguf(keys: Keys, common: Values) -> Values:
    # there is no key for it: of the largest model it is the width that each head has of the hidden states
    large = common["num_hidden_layers"] == _LAYERS_OF_27B
    window = keys.size("attention.sliding_window", 0, minimum=0)
    kinds = sliding_kinds(keys, common["num_hidden_layers"], 6)
    return {
        "query_pre_attn_scalar": (
            common["hidden_size"] // common["num_attention_heads"] if large else common["head_dim"]
        ),
        "final_logit_softcapping": keys.real("final_logit_softcapping", 0.0) or None,
        "sliding_window": window or None,
        "layer_types": kinds if window else ["full_attention"] * len(kinds),
        "rope_local_base_freq": keys.real("rope.freq_base_swa", 10000.0),
    }


GGUF = {
    "gemma3": Architecture(
        "gemma3_text", "Gemma3", names=NAMES, more=_of_gguf,
        roles={"post_attention_norm": "attn_post_norm", "post_ffw_norm": "ffn_post_norm"},
    ),
}  # fmt: skip
