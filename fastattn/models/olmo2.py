# SPDX-License-Identifier: MIT
"""OLMo 2 and 3: Llama with the norms behind each part, and a norm over all queries and over all keys.

    y = x + norm(attention(x));  x = y + norm(down(act(gate(y)) up(y)))

OLMo 3 has windows in all but every fourth layer, and scales the positions of those alone that have none.

OLMo team, 2024, https://arxiv.org/abs/2501.00656; names of tensors and keys as in transformers' Olmo2Model and
Olmo3Model.
"""

from __future__ import annotations

from ..graph.config import ConfigReader
from ..graph.family import Facts
from ..graph.graph import Graph
from ..graph.rotary import Rotary
from .causal import (
    NAMES,
    PROBES,
    Sizes,
    causal_family,
    causal_heads,
    embedded,
    feed_forward,
    look_back,
    rotaries_of,
    rotary_of,
    windows_between,
)  # fmt: skip
from .ggufkeys import Architecture, Keys, Values, sliding_kinds

__all__ = ["FAMILY", "GGUF"]


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c, eps=1e-5)
    (windows, rotaries), bias = _positions(c, s), c.flag("attention_bias", False)
    g.names = NAMES.replace(g.source.prefix("model.", *PROBES[:2]))
    tied = c.flag("tie_word_embeddings", False)
    x = embedded(g, s, tied)
    for i, layer in g.layers(s.layers):
        g.hidden_state(x)
        window = windows[i]
        q, k, v = layer.split(
            layer.linear(x, ("attn_q", "attn_k", "attn_v"), (s.q_width, s.kv_width, s.kv_width), bias=bias),
            s.q_width, s.kv_width, s.kv_width,
        )  # fmt: skip
        q = layer.rope(layer.rms_norm(q, "attn_q_norm", s.eps), s.heads, rotaries[i])
        k = layer.rope(layer.rms_norm(k, "attn_k_norm", s.eps), s.kv_heads, rotaries[i])
        attended = look_back(layer, q, k, v, s, window)
        x = x + layer.rms_norm(layer.linear(attended, "attn_output", s.hidden, bias=bias), "attn_post_norm", s.eps)
        x = x + layer.rms_norm(feed_forward(layer, x, s), "ffn_post_norm", s.eps)
    x = g.rms_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


def _positions(c: ConfigReader, s: Sizes) -> tuple[list[int | None], list[Rotary]]:
    """The window and the rotary positions of each layer."""
    if c.model_type() == "olmo2":
        return [None] * s.layers, [rotary_of(c, s)] * s.layers
    windows, base = windows_between(c, s, 4, 4096), c.positive("rope_theta", 500000.0)
    rotaries = rotaries_of(c, s, full=base, sliding=base)
    return windows, [rotaries["full_attention" if window is None else "sliding_attention"] for window in windows]


FAMILY = causal_family("Olmo2Model", build, "Olmo2", "Olmo3")


def _of_gguf(keys: Keys, common: Values) -> Values:
    """Files of OLMo 3 have the same architecture, and a window."""
    window = keys.size("attention.sliding_window", 0, minimum=0)
    if not window:
        return {}
    keys.must("rope.freq_base_swa", common["rope_theta"])
    return {
        "model_type": "olmo3", "architectures": ["Olmo3ForCausalLM"], "sliding_window": window,
        "layer_types": sliding_kinds(keys, common["num_hidden_layers"], 4),
    }  # fmt: skip


GGUF = {
    "olmo2": Architecture(
        "olmo2", "Olmo2", roles={"post_attention_norm": "attn_post_norm", "post_ffw_norm": "ffn_post_norm"},
        more=_of_gguf,
    ),
}  # fmt: skip
