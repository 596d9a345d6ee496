# SPDX-License-Identifier: MIT
"""Mixtral: Mistral whose feed-forward layers are experts.

Jiang et al., 2024, https://arxiv.org/abs/2401.04088; names of tensors and keys as in transformers' MixtralModel, and as
the files were published.
"""

from __future__ import annotations

from ..graph.family import Facts
from ..graph.graph import Graph
from .causal import NAMES, PROBES, Sizes, attend, causal_family, causal_heads, embedded, rotary_of, window_of
from .experts import Experts, expert_banks, experts_of_gguf, routed
from .ggufkeys import Keys, Values

__all__ = ["FAMILY", "mixtral_of_gguf"]

_PUBLISHED = NAMES.in_layers(
    ffn_gate_inp="block_sparse_moe.gate", ffn_gate_exps="block_sparse_moe.experts.w1",
    ffn_up_exps="block_sparse_moe.experts.w3", ffn_down_exps="block_sparse_moe.experts.w2",
)  # fmt: skip


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c, kv_heads=8, eps=1e-5)
    e = Experts.read(c, "intermediate_size")
    rotary, window = rotary_of(c, s, base=1e6), window_of(c)
    prefix = g.source.prefix("model.", *PROBES)
    own = NAMES.replace(prefix)
    g.names = own if g.source.has(f"{own.of('ffn_gate_inp', 0)}.weight") else _PUBLISHED.replace(prefix)
    tied = c.flag("tie_word_embeddings", False)
    x = embedded(g, s, tied)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        x = x + attend(
            layer, layer.rms_norm(x, "attn_norm", s.eps), s, rotary, window, bias=False, output_bias=False
        )  # fmt: skip
        y = layer.rms_norm(x, "ffn_norm", s.eps)
        routes = routed(layer, y, e, normalize=True)
        x = x + layer.experts(y, routes, *expert_banks(layer, e, s.hidden), activation=s.activation)
    x = g.rms_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


FAMILY = causal_family("MixtralModel", build, "Mixtral")


def mixtral_of_gguf(keys: Keys, common: Values) -> Values:
    """What makes a model of this family of a file of llama's architecture; nothing where there are no experts."""
    if keys.size("expert_count", 0, minimum=0) == 0:
        keys.must("expert_used_count", 0)
        return {}
    inner = common["intermediate_size"]
    return {
        "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "attention_bias": None, "mlp_bias": None,
        "intermediate_size": keys.size("expert_feed_forward_length", inner),
        **experts_of_gguf(keys, "num_local_experts", normalized=None),
    }  # fmt: skip
