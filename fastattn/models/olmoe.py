# SPDX-License-Identifier: MIT
"""OLMoE: norms over all queries and all keys of a token, queries, keys and values that may be bounded, experts.

Muennighoff et al., 2024, https://arxiv.org/abs/2409.02060; names of tensors and keys as in transformers' OlmoeModel.
"""

from __future__ import annotations

from ..graph.family import Facts
from ..graph.graph import Graph
from .causal import NAMES, PROBES, Sizes, causal_family, causal_heads, embedded, rotary_of
from .experts import Experts, expert_banks, experts_of_gguf, routed
from .ggufkeys import Architecture, Keys, Values

__all__ = ["FAMILY", "GGUF"]


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c, eps=1e-5)
    e = Experts.read(c, "intermediate_size")
    normalize, bias = c.flag("norm_topk_prob", False), c.flag("attention_bias", False)
    bound = c.positive("clip_qkv") if c.has("clip_qkv") else None
    rotary = rotary_of(c, s)
    g.names = NAMES.replace(g.source.prefix("model.", *PROBES))
    tied = c.flag("tie_word_embeddings", False)
    widths = (s.q_width, s.kv_width, s.kv_width)
    x = embedded(g, s, tied)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.rms_norm(x, "attn_norm", s.eps)
        q, k, v = layer.split(layer.linear(y, ("attn_q", "attn_k", "attn_v"), widths, bias=bias), *widths)
        q, k = layer.rms_norm(q, "attn_q_norm", s.eps), layer.rms_norm(k, "attn_k_norm", s.eps)
        if bound is not None:
            q, k, v = (layer.clamp(part, bound) for part in (q, k, v))
        q, k = layer.rope(q, s.heads, rotary), layer.rope(k, s.kv_heads, rotary)
        attended = layer.attention(q, k, v, s.heads, s.kv_heads, causal=True, cached=True)
        x = x + layer.linear(attended, "attn_output", s.hidden, bias=bias)
        y = layer.rms_norm(x, "ffn_norm", s.eps)
        routes = routed(layer, y, e, normalize=normalize)
        x = x + layer.experts(y, routes, *expert_banks(layer, e, s.hidden), activation=s.activation)
    x = g.rms_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


FAMILY = causal_family("OlmoeModel", build, "Olmoe")


def _of_gguf(keys: Keys, common: Values) -> Values:
    inner = keys.size("expert_feed_forward_length", common["intermediate_size"])
    return {
        **experts_of_gguf(keys, "num_experts", normalized=False), "intermediate_size": inner,
        "clip_qkv": keys.real("attention.clamp_kqv", 0.0) or None,
    }  # fmt: skip


GGUF = {"olmoe": Architecture("olmoe", "Olmoe", more=_of_gguf)}
