# SPDX-License-Identifier: MIT
"""Gemma 2: Gemma with norms before and behind each part, capped scores and logits, and windows in every other layer.

    y = x + norm(attention(norm(x)));  x = y + norm(down(act(gate(n)) up(n))), n = norm(y)

Gemma team, 2024, https://arxiv.org/abs/2408.00118; names of tensors and keys as in transformers' Gemma2Model.
"""

from __future__ import annotations

import math

from ..graph.config import ConfigReader
from ..graph.family import Facts
from ..graph.graph import Graph
from ..graph.names import Names
from .blocks import ACTIVATIONS
from .causal import (
    LAYER,
    PROBES,
    Sizes,
    causal_family,
    causal_heads,
    embedded,
    feed_forward,
    look_back,
    rotary_of,
    windows_between,
)
from .ggufkeys import Architecture, Keys, Values, sliding_kinds

__all__ = ["FAMILY", "GGUF", "NAMES"]

NAMES = Names(
    "model.", "layers.{i}.", {**LAYER, "ffn_norm": "pre_feedforward_layernorm"}, token_embd="embed_tokens",
    output_norm="norm",
)  # fmt: skip


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c, kv_heads=4, head_size=256)
    s = s._replace(activation=c.choice("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh"))
    windows, rotary, bias = windows_between(c, s, 2, 4096), rotary_of(c, s), c.flag("attention_bias", False)
    scale = 1 / math.sqrt(c.positive("query_pre_attn_scalar", 256.0))
    cap = _cap(c, "attn_logit_softcapping", 50.0)
    g.names = NAMES.replace(g.source.prefix("model.", *PROBES))
    tied = c.flag("tie_word_embeddings", True)
    x = embedded(g, s, tied)
    x = g.scale(x, math.sqrt(s.hidden))
    for i, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.rms_norm(x, "attn_norm", s.eps, plus_one=True)
        qkv = layer.linear(y, ("attn_q", "attn_k", "attn_v"), (s.q_width, s.kv_width, s.kv_width), bias=bias)
        qk, v = layer.split(qkv, s.q_width + s.kv_width, s.kv_width)
        q, k = layer.split(layer.rope(qk, s.heads + s.kv_heads, rotary), s.q_width, s.kv_width)
        window = windows[i]
        attended = look_back(layer, q, k, v, s, window, scale=scale, softcap=cap)
        y = layer.linear(attended, "attn_output", s.hidden, bias=bias)
        x = x + layer.rms_norm(y, "attn_post_norm", s.eps, plus_one=True)
        y = feed_forward(layer, layer.rms_norm(x, "ffn_norm", s.eps, plus_one=True), s)
        x = x + layer.rms_norm(y, "ffn_post_norm", s.eps, plus_one=True)
    x = g.rms_norm(x, "output_norm", s.eps, plus_one=True)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied, cap=_cap(c, "final_logit_softcapping", 30.0))
    return s.facts


def _cap(c: ConfigReader, key: str, default: float) -> float:
    """0 for null."""
    return 0.0 if c.null(key) else c.positive(key, default)


FAMILY = causal_family("Gemma2Model", build, "Gemma2")

_LAYERS_OF_27B = 46


def _of_gguf(keys: Keys, common: Values) -> Values:
    # there is no key for it: of the largest model it is the width that each head has of the hidden states
    large = common["num_hidden_layers"] == _LAYERS_OF_27B
    scalar = common["hidden_size"] // common["num_attention_heads"] if large else common["head_dim"]
    keys.must("rope.freq_base_swa", common["rope_theta"])
    return {
        "query_pre_attn_scalar": scalar,
        "attn_logit_softcapping": keys.real("attn_logit_softcapping", 50.0) or None,
        "final_logit_softcapping": keys.real("final_logit_softcapping", 30.0) or None,
        "sliding_window": keys.size("attention.sliding_window", 4096),
        "layer_types": sliding_kinds(keys, common["num_hidden_layers"], 2),
    }


GGUF = {
    "gemma2": Architecture(
        "gemma2", "Gemma2", names=NAMES, more=_of_gguf,
        roles={"post_attention_norm": "attn_post_norm", "post_ffw_norm": "ffn_post_norm"},
    ),
}  # fmt: skip
