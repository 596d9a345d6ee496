# SPDX-License-Identifier: MIT
"""GLM-4: Llama with gate and up in one layer, and rotary positions for half of each head, whose pairs are neighbours;
its release of 2025 (glm4) has norms behind each part besides.

GLM team, 2024, https://arxiv.org/abs/2406.12793; names of tensors and keys as in transformers' GlmModel and Glm4Model.
"""

from __future__ import annotations

import numpy as np

from ..graph.family import Facts
from ..graph.graph import Graph, Value
from ..graph.names import Names
from .causal import LAYER, NAMES, PROBES, Sizes, attend, causal_family, causal_heads, embedded, rotary_of_part
from .ggufkeys import BIASES, Architecture, Keys, Values

__all__ = ["FAMILY", "GGUF"]

_FOUR_NORMS = Names("model.", "layers.{i}.", {
    **LAYER, "attn_post_norm": "post_self_attn_layernorm", "ffn_post_norm": "post_mlp_layernorm",
}, token_embd="embed_tokens", output_norm="norm")  # fmt: skip


def build(g: Graph) -> Facts:
    c = g.config
    between = c.model_type() == "glm4"
    s = Sizes.read(c, eps=1.5625e-07, kv_heads=2, head_size=128)
    rotary = rotary_of_part(c, s, c.positive("partial_rotary_factor", 0.5), interleaved=True, odd=True)
    bias = c.flag("attention_bias", True)
    g.names = (_FOUR_NORMS if between else NAMES).replace(g.source.prefix("model.", *PROBES))
    tied = c.flag("tie_word_embeddings", False)
    x = embedded(g, s, tied)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.rms_norm(x, "attn_norm", s.eps)
        y = attend(layer, y, s, rotary, None, bias=bias, output_bias=False)
        x = x + (layer.rms_norm(y, "attn_post_norm", s.eps) if between else y)
        y = _feed_forward(layer, layer.rms_norm(x, "ffn_norm", s.eps), s)
        x = x + (layer.rms_norm(y, "ffn_post_norm", s.eps) if between else y)
    x = g.rms_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


def _feed_forward(g: Graph, x: Value, s: Sizes) -> Value:
    """down(act(gate) up), [gate | up] = gate_up(x)"""
    gate, up = g.split(g.linear(x, "ffn_gate_up", 2 * s.inner, bias=False), s.inner, s.inner)
    return g.linear(g.gated(gate, up, s.activation), "ffn_down", s.hidden, bias=False)


FAMILY = causal_family("GlmModel", build, "Glm", "Glm4")


def _of_gguf(keys: Keys, common: Values) -> Values:
    """Files of models that see images have pairs of halves, and say so by the sections of their positions."""
    sections = keys.get("rope.dimension_sections")
    if sections is not None and not (isinstance(sections, np.ndarray) and not sections.any()):
        raise keys.error(
            "rope.dimension_sections", sections, "zeros: positions in several dimensions are not supported"
        )
    return {}


GGUF = {
    "chatglm": Architecture("glm", "Glm", part=True, roles={"ffn_up": "ffn_gate_up"}, flags=BIASES),
    "glm4": Architecture(
        "glm4", "Glm4", part=True, names=_FOUR_NORMS, more=_of_gguf,
        roles={"ffn_up": "ffn_gate_up", "post_attention_norm": "attn_post_norm", "post_ffw_norm": "ffn_post_norm"},
    ),
}  # fmt: skip
