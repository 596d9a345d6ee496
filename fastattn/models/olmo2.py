# SPDX-License-Identifier: MIT
"""OLMo 2: Llama with the norms behind each part, and a norm over all queries and over all keys.

    y = x + norm(attention(x));  x = y + norm(down(act(gate(y)) up(y)))

OLMo team, 2024, https://arxiv.org/abs/2501.00656; names of tensors and keys as in transformers' Olmo2Model.
"""

from __future__ import annotations

from ..graph.family import Facts
from ..graph.graph import Graph
from .causal import NAMES, PROBES, Sizes, causal_family, causal_heads, feed_forward, rotary_of
from .ggufkeys import Architecture

__all__ = ["FAMILY", "GGUF"]


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c, eps=1e-5)
    rotary, bias = rotary_of(c, s), c.flag("attention_bias", False)
    g.names = NAMES.replace(g.source.prefix("model.", *PROBES[:2]))
    tied = c.flag("tie_word_embeddings", False)
    x = g.embed({"ids": g.table("token_embd", (s.vocab, s.hidden), tied="lm_head.weight" if tied else None)}, s.hidden)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        q, k, v = layer.split(
            layer.linear(x, ("attn_q", "attn_k", "attn_v"), (s.q_width, s.kv_width, s.kv_width), bias=bias),
            s.q_width, s.kv_width, s.kv_width,
        )  # fmt: skip
        q = layer.rope(layer.rms_norm(q, "attn_q_norm", s.eps), s.heads, rotary)
        k = layer.rope(layer.rms_norm(k, "attn_k_norm", s.eps), s.kv_heads, rotary)
        attended = layer.attention(q, k, v, s.heads, s.kv_heads, causal=True, cached=True)
        x = x + layer.rms_norm(layer.linear(attended, "attn_output", s.hidden, bias=bias), "attn_post_norm", s.eps)
        x = x + layer.rms_norm(feed_forward(layer, x, s), "ffn_post_norm", s.eps)
    x = g.rms_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


FAMILY = causal_family("Olmo2Model", build, "Olmo2")

GGUF = {
    "olmo2": Architecture(
        "olmo2", "Olmo2", roles={"post_attention_norm": "attn_post_norm", "post_ffw_norm": "ffn_post_norm"}
    ),
}
