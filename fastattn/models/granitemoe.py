# SPDX-License-Identifier: MIT
"""GraniteMoE: Granite whose feed-forward layers are experts, weighed among those that were chosen.

IBM, 2024; names of tensors and keys as in transformers' GraniteMoeModel, and as the files were published.
"""

from __future__ import annotations

from ..graph.banks import Form
from ..graph.family import Facts
from ..graph.graph import Graph
from .causal import NAMES, PROBES, Sizes, causal_family, causal_heads, embedded, mixed, rotary_of
from .experts import Experts, expert_banks, experts_of_gguf, routed
from .ggufkeys import Architecture, Keys, Values
from .granite import multipliers_of_gguf

__all__ = ["FAMILY", "GGUF"]

_PUBLISHED = NAMES.in_layers(
    ffn_gate_inp="block_sparse_moe.router.layer", ffn_gate_exps="block_sparse_moe.experts.gate_proj",
    ffn_up_exps="block_sparse_moe.experts.up_proj", ffn_down_exps="block_sparse_moe.experts.down_proj",
    ffn_gate_up_exps="block_sparse_moe.experts.gate_up_proj",
)  # fmt: skip


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c)
    e = Experts.read(c, "intermediate_size")
    rotary, bias = rotary_of(c, s), c.flag("attention_bias", False)
    embedding, residual = c.positive("embedding_multiplier", 1.0), c.positive("residual_multiplier", 1.0)
    scale, divisor = c.positive("attention_multiplier", 1.0), c.positive("logits_scaling", 1.0)
    names = _PUBLISHED.replace(g.source.prefix("model.", *PROBES))
    own = names.in_layers(ffn_gate_inp="block_sparse_moe.router")
    g.names = own if g.source.has(f"{own.of('ffn_gate_inp', 0)}.weight") else names
    tied = c.flag("tie_word_embeddings", False)
    x = embedded(g, s, tied)
    x = g.scale(x, embedding)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.rms_norm(x, "attn_norm", s.eps)
        qkv = layer.linear(y, ("attn_q", "attn_k", "attn_v"), (s.q_width, s.kv_width, s.kv_width), bias=bias)
        attended = mixed(layer, qkv, s, rotary, None, scale)
        x = x + layer.scale(layer.linear(attended, "attn_output", s.hidden, bias=bias), residual)
        y = layer.rms_norm(x, "ffn_norm", s.eps)
        place = layer.name("ffn_gate_exps").removesuffix("experts.gate_proj")
        banks = expert_banks(
            layer, e, s.hidden, up=(Form((f"{place}input_linear.weight",)),),
            down=(Form((f"{place}output_linear.weight",)),),
        )  # fmt: skip
        routes = routed(layer, y, e, score="chosen")
        x = x + layer.scale(layer.experts(y, routes, *banks, activation=s.activation), residual)
    x = g.rms_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied, factor=1 / divisor)
    return s.facts


FAMILY = causal_family("GraniteMoeModel", build, "GraniteMoe")


def _of_gguf(keys: Keys, common: Values) -> Values:
    inner = keys.size("expert_feed_forward_length", common["intermediate_size"])
    found = experts_of_gguf(keys, "num_local_experts", normalized=None)
    return {**multipliers_of_gguf(keys, common), **found, "intermediate_size": inner}


GGUF = {"granitemoe": Architecture("granitemoe", "GraniteMoe", paired=True, names=_PUBLISHED, more=_of_gguf)}
