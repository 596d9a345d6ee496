# SPDX-License-Identifier: MIT
"""BLOOM: scores fall with distance instead of positions, a norm behind the embeddings.

    y = x + attention(norm(x));  x = y + down(act(up(norm'(y))))

or the norms' outputs in the place of x and y (apply_residual_connection_post_layernorm). Le Scao et al., 2022,
https://arxiv.org/abs/2211.05100; names of tensors and keys as in transformers' BloomModel.
"""

from __future__ import annotations

from ..graph.facts import Facts
from ..graph.graph import Graph
from ..graph.names import Names
from .alibi import slopes
from .causal import causal_heads, embedded
from .ggufkeys import Architecture, Keys, Values
from .plain import by_head, plain_family, plain_feed_forward, sizes_of, width_of

__all__ = ["FAMILY", "GGUF"]

NAMES = Names("transformer.", "h.{i}.", {
    "attn_norm": "input_layernorm", "attn_qkv": "self_attention.query_key_value", "attn_output": "self_attention.dense",
    "ffn_norm": "post_attention_layernorm", "ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h",
}, token_embd="word_embeddings", token_embd_norm="word_embeddings_layernorm", output_norm="ln_f")  # fmt: skip

_PROBES = ("word_embeddings.weight", "ln_f.weight", "h.0.input_layernorm.weight")


def build(g: Graph) -> Facts:
    c = g.config
    hidden = ("hidden_size", "n_embed")
    s = sizes_of(
        c, hidden=hidden, layers=("n_layer", "num_hidden_layers"), heads=("n_head", "num_attention_heads"),
        inner=4 * width_of(c, *hidden), activation="gelu_tanh", eps=c.positive("layer_norm_epsilon", 1e-5),
        positions=c.size("seq_length", 2048),
    )  # fmt: skip
    normed, tied = c.flag("apply_residual_connection_post_layernorm", False), c.flag("tie_word_embeddings", True)
    layout, falling = by_head(s.heads, s.heads, s.head_size), slopes(s.heads)
    g.names = NAMES.replace(g.source.prefix("transformer.", *_PROBES))
    x = embedded(g, s, tied)
    x = g.layer_norm(x, "token_embd_norm", s.eps)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.layer_norm(x, "attn_norm", s.eps)
        q, k, v = layer.split(layer.linear(y, "attn_qkv", 3 * s.hidden, layout=layout), *(s.hidden,) * 3)
        attended = layer.attention(q, k, v, s.heads, causal=True, cached=True, alibi=falling)
        x = layer.linear(attended, "attn_output", s.hidden) + (y if normed else x)
        y = layer.layer_norm(x, "ffn_norm", s.eps)
        x = plain_feed_forward(layer, y, s) + (y if normed else x)
    x = g.layer_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied, tokens="classifier")
    return s.facts


FAMILY = plain_family("BloomModel", build, "Bloom")


def _of_gguf(keys: Keys, common: Values) -> Values:
    keys.must("attention.max_alibi_bias", 8.0)  # which llama.cpp saves; converters say nothing
    return {}


GGUF = {
    "bloom": Architecture(
        "bloom", "Bloom", names=NAMES, joined=True, norms="attention.layer_norm_epsilon", flags={}, more=_of_gguf,
        spelling={
            "num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "rms_norm_eps": "layer_norm_epsilon",
            "max_position_embeddings": "seq_length", "intermediate_size": None, "num_key_value_heads": None,
            "head_dim": None, "rope_theta": None,
        },
    ),
}  # fmt: skip
