# SPDX-License-Identifier: MIT
"""GPT-2: learned positions, norms in front of each part, layers that files have as (inputs, outputs).

    y = x + attention(norm(x));  x = y + down(act(up(norm(y))))

Radford et al., 2019, Language Models are Unsupervised Multitask Learners; names of tensors and keys as in transformers'
GPT2Model.
"""

from __future__ import annotations

import math

from ..graph.facts import Facts
from ..graph.graph import Graph
from ..graph.layout import Layout
from ..graph.names import Names
from .blocks import ACTIVATIONS
from .causal import Sizes, causal_heads
from .ggufkeys import Architecture
from .plain import either, plain_family, plain_feed_forward, sizes_of, width_of

__all__ = ["FAMILY", "GGUF"]

NAMES = Names("transformer.", "h.{i}.", {
    "attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj",
}, token_embd="wte", position_embd="wpe", output_norm="ln_f")  # fmt: skip

_TRANSPOSED = Layout("inputs, outputs", transposed=True)


def build(g: Graph) -> Facts:
    c = g.config
    s = _sizes(g)
    scaled, by_layer = c.flag("scale_attn_weights", True), c.flag("scale_attn_by_inverse_layer_idx", False)
    g.names = NAMES.replace(g.source.prefix("transformer.", "wte.weight", "ln_f.weight", "h.0.ln_1.weight"))
    tied = c.flag("tie_word_embeddings", True)
    words = g.words("token_embd", (s.vocab, s.hidden), tied="lm_head.weight" if tied else None)
    x = g.embed({"ids": words, "positions": g.table("position_embd", (s.positions, s.hidden))}, s.hidden)
    for i, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.layer_norm(x, "attn_norm", s.eps)
        q, k, v = layer.split(layer.linear(y, "attn_qkv", 3 * s.hidden, layout=_TRANSPOSED), *(s.hidden,) * 3)
        scale = (1 / math.sqrt(s.head_size) if scaled else 1.0) / (i + 1 if by_layer else 1)
        attended = layer.attention(q, k, v, s.heads, causal=True, cached=True, scale=scale)
        x = x + layer.linear(attended, "attn_output", s.hidden, layout=_TRANSPOSED)
        x = x + plain_feed_forward(layer, layer.layer_norm(x, "ffn_norm", s.eps), s, layout=_TRANSPOSED)
    x = g.layer_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied, tokens="classifier")
    return s.facts


def _sizes(g: Graph) -> Sizes:
    c = g.config
    hidden = ("n_embd", "hidden_size")
    return sizes_of(
        c, hidden=hidden, layers=("n_layer", "num_hidden_layers"), heads=("n_head", "num_attention_heads"),
        inner=c.size("n_inner", 4 * width_of(c, *hidden)), eps=c.positive("layer_norm_epsilon", 1e-5),
        activation=c.choice("activation_function", ACTIVATIONS, "gelu_new"),
        positions=either(c, "n_positions", "max_position_embeddings"),
    )  # fmt: skip


FAMILY = plain_family("GPT2Model", build, "GPT2", top="LMHeadModel")

GGUF = {
    "gpt2": Architecture(
        "gpt2", "GPT2", names=NAMES, joined=True, norms="attention.layer_norm_epsilon", flags={}, top="LMHeadModel",
        spelling={
            "hidden_size": "n_embd", "intermediate_size": "n_inner", "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head", "rms_norm_eps": "layer_norm_epsilon",
            "max_position_embeddings": "n_positions", "num_key_value_heads": None, "head_dim": None, "rope_theta": None,
        },
    ),
}  # fmt: skip
