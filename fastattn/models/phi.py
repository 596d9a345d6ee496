# SPDX-License-Identifier: MIT
"""Phi-1, Phi-1.5 and Phi-2: attention and feed-forward layer beside each other behind one norm, biases everywhere,
rotary positions for part of a head.

    x = (attention(n) + down(act(up(n)))) + x, n = norm(x)

Gunasekar et al., 2023, https://arxiv.org/abs/2306.11644; names of tensors and keys as in transformers' PhiModel.
"""

from __future__ import annotations

from ..graph.facts import Facts
from ..graph.graph import Graph
from ..graph.names import Names
from .blocks import ACTIVATIONS
from .causal import causal_heads, embedded, rotary_of_part
from .ggufkeys import Architecture
from .plain import kv_heads_of, plain_family, plain_feed_forward, sizes_of

__all__ = ["FAMILY", "GGUF"]

NAMES = Names("model.", "layers.{i}.", {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_q_norm": "self_attn.q_layernorm", "attn_k_norm": "self_attn.k_layernorm",
    "attn_output": "self_attn.dense", "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2",
}, token_embd="embed_tokens", output_norm="final_layernorm")  # fmt: skip

_PROBES = ("embed_tokens.weight", "final_layernorm.weight", "layers.0.input_layernorm.weight")


def build(g: Graph) -> Facts:
    c = g.config
    s = sizes_of(
        c, kv_heads=kv_heads_of(c), inner=c.size("intermediate_size"),
        activation=c.choice("hidden_act", ACTIVATIONS, "gelu_new"), eps=c.positive("layer_norm_eps", 1e-5),
        positions=c.size("max_position_embeddings", 2048),
    )  # fmt: skip
    rotary = rotary_of_part(c, s, c.positive("partial_rotary_factor", 0.5))
    normed, tied = c.flag("qk_layernorm", False), c.flag("tie_word_embeddings", False)
    g.names = NAMES.replace(g.source.prefix("model.", *_PROBES))
    x = embedded(g, s, tied)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.layer_norm(x, "attn_norm", s.eps)
        widths = s.q_width, s.kv_width, s.kv_width
        q, k, v = layer.split(layer.linear(y, ("attn_q", "attn_k", "attn_v"), widths), *widths)
        if normed:  # every head by the same norm
            q = layer.norm_each(q, [layer.source.norm(layer.name("attn_q_norm"), s.head_size)] * s.heads, s.eps)
            k = layer.norm_each(k, [layer.source.norm(layer.name("attn_k_norm"), s.head_size)] * s.kv_heads, s.eps)
        q, k = layer.rope(q, s.heads, rotary), layer.rope(k, s.kv_heads, rotary)
        attended = layer.attention(q, k, v, s.heads, s.kv_heads, causal=True, cached=True)
        x = layer.linear(attended, "attn_output", s.hidden) + plain_feed_forward(layer, y, s) + x
    x = g.layer_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied, bias=True)
    return s.facts


FAMILY = plain_family("PhiModel", build, "Phi")

GGUF = {
    "phi2": Architecture(
        "phi", "Phi", names=NAMES, part=True, norms="attention.layer_norm_epsilon",
        flags={"qk_layernorm": ("attn_q_norm.weight",)}, spelling={"rms_norm_eps": "layer_norm_eps"}, head_bias=True,
    ),
}  # fmt: skip
