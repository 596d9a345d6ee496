# SPDX-License-Identifier: MIT
"""EXAONE 4: Llama with the norms behind each part, and a norm over each head of the queries and keys.

    y = x + norm(attention(x));  x = y + norm(down(act(gate(y)) up(y)))

The larger model has windows in all but every fourth layer, which has no positions.

LG AI Research, 2025, https://arxiv.org/abs/2507.11407; names of tensors and keys as in transformers' Exaone4Model.
"""

from __future__ import annotations

from ..graph.config import ConfigReader
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
    layer_kinds,
    look_back,
    rotary_of,
    window_of,
    windows_between,
)  # fmt: skip
from .ggufkeys import Architecture, Keys, Values, sliding_kinds

__all__ = ["FAMILY", "GGUF"]


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c, eps=1e-5, kv_heads=32)
    rotary, windows = rotary_of(c, s), _windows(c, s)
    turned = [c.null("sliding_window") or window is not None for window in windows]
    g.names = NAMES.replace(g.source.prefix("model.", *PROBES[:2]))
    tied = c.flag("tie_word_embeddings", False)
    x = embedded(g, s, tied)
    for i, layer in g.layers(s.layers):
        g.hidden_state(x)
        window = windows[i]
        q, k, v = layer.split(
            layer.linear(x, ("attn_q", "attn_k", "attn_v"), (s.q_width, s.kv_width, s.kv_width), bias=False),
            s.q_width, s.kv_width, s.kv_width,
        )  # fmt: skip
        q = layer.rms_norm(q, "attn_q_norm", s.eps, groups=s.heads)
        k = layer.rms_norm(k, "attn_k_norm", s.eps, groups=s.kv_heads)
        if turned[i]:
            q, k = layer.rope(q, s.heads, rotary), layer.rope(k, s.kv_heads, rotary)
        attended = look_back(layer, q, k, v, s, window)
        x = x + layer.rms_norm(layer.linear(attended, "attn_output", s.hidden, bias=False), "attn_post_norm", s.eps)
        x = x + layer.rms_norm(feed_forward(layer, x, s), "ffn_post_norm", s.eps)
    x = g.rms_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


def _windows(c: ConfigReader, s: Sizes) -> list[int | None]:
    """By ``layer_types``; else by ``sliding_window_pattern``, a number, or a letter for each of some layers: L, G."""
    kinds, letters = layer_kinds(c, s), c.value("sliding_window_pattern")
    if kinds is None and c.null("sliding_window"):
        return [None] * s.layers
    if isinstance(letters, str):
        if not letters or letters.strip("LG"):
            raise ValueError(f"{c.path}: sliding_window_pattern is {letters[:100]!r}, expected a number, or L and G")
        if kinds is None:
            window = window_of(c, 4096)
            return [window if letters[i % len(letters)] == "L" else None for i in range(s.layers)]
    return windows_between(c, s, 4 if isinstance(letters, str) else c.size("sliding_window_pattern", 4), 4096)


FAMILY = causal_family("Exaone4Model", build, "Exaone4")

_LAYERS_OF_32B = 64


def _of_gguf(keys: Keys, common: Values) -> Values:
    layers = common["num_hidden_layers"]
    keys.must("rope.freq_base_swa", common["rope_theta"])
    # the first files of the larger model do not say that it has windows
    window = keys.size("attention.sliding_window", 4096 if layers == _LAYERS_OF_32B else 0, minimum=0)
    if keys.all_of_them and keys.get("attention.sliding_window_pattern") is None:
        window = 0  # which is saved with every model that has windows
    kinds = sliding_kinds(keys, layers, 4)
    return {"sliding_window": window or None, "layer_types": kinds if window else ["full_attention"] * layers}


GGUF = {
    "exaone4": Architecture(
        "exaone4", "Exaone4", roles={"post_attention_norm": "attn_post_norm", "post_ffw_norm": "ffn_post_norm"},
        more=_of_gguf, flags={},
    ),
}  # fmt: skip
