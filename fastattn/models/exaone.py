# SPDX-License-Identifier: MIT
"""EXAONE 3 and 3.5: Llama under other names, of tensors and of keys, or under Llama's, as transformers 5 writes them.

LG AI Research, 2024, https://arxiv.org/abs/2408.03541; names as in the code published with the models.
"""

from __future__ import annotations

from ..graph.family import Facts
from ..graph.graph import Graph
from ..graph.names import Names
from .causal import NAMES, PROBES, Sizes, attend, causal_family, causal_heads, embedded, feed_forward, rotary_of
from .ggufkeys import Architecture

__all__ = ["FAMILY", "GGUF"]

_OWN = Names("transformer.", "h.{i}.", {
    "attn_norm": "ln_1", "attn_q": "attn.attention.q_proj", "attn_k": "attn.attention.k_proj",
    "attn_v": "attn.attention.v_proj", "attn_output": "attn.attention.out_proj", "ffn_norm": "ln_2",
    "ffn_gate": "mlp.c_fc_0", "ffn_up": "mlp.c_fc_1", "ffn_down": "mlp.c_proj",
}, token_embd="wte", output_norm="ln_f")  # fmt: skip
_OWN_PROBES = ("wte.weight", "ln_f.weight", "h.0.ln_1.weight")
_OWN_KEYS = {"num_hidden_layers": "num_layers", "rms_norm_eps": "layer_norm_epsilon",
             "hidden_act": "activation_function"}  # fmt: skip


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c.called(_OWN_KEYS), eps=1e-5, kv_heads=8)
    rotary = rotary_of(c, s, base=500000.0)
    bias, inner_bias = c.flag("attention_bias", False), c.flag("mlp_bias", False)
    g.names = _names(g)
    tied = c.flag("tie_word_embeddings", False)
    x = embedded(g, s, tied)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        x = x + attend(
            layer, layer.rms_norm(x, "attn_norm", s.eps), s, rotary, None, bias=bias, output_bias=bias
        )  # fmt: skip
        x = x + feed_forward(layer, layer.rms_norm(x, "ffn_norm", s.eps), s, bias=inner_bias)
    x = g.rms_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


def _names(g: Graph) -> Names:
    prefix = g.source.prefix("transformer.", *_OWN_PROBES)
    if any(g.source.has(prefix + name) for name in _OWN_PROBES):
        return _OWN.replace(prefix)
    return NAMES.replace(g.source.prefix("model.", *PROBES))


FAMILY = causal_family("ExaoneModel", build, "Exaone", "Llama")

GGUF = {"exaone": Architecture("exaone", "Exaone", flags={})}
