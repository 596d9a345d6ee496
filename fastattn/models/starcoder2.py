# SPDX-License-Identifier: MIT
"""StarCoder 2: Llama with layer norms, biases and a feed-forward layer without gates; some files say a window.

Lozhkov et al., 2024, https://arxiv.org/abs/2402.19173; names of tensors and keys as in transformers' Starcoder2Model.
"""

from __future__ import annotations

from ..graph.facts import Facts
from ..graph.graph import Graph
from ..graph.names import Names
from .blocks import ACTIVATIONS
from .causal import PROBES, attend, causal_heads, embedded, rotary_of, window_of
from .ggufkeys import Architecture, Keys, Values
from .plain import kv_heads_of, plain_family, plain_feed_forward, sizes_of

__all__ = ["FAMILY", "GGUF"]

NAMES = Names("model.", "layers.{i}.", {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj",
}, token_embd="embed_tokens", output_norm="norm")  # fmt: skip


def build(g: Graph) -> Facts:
    c = g.config
    s = sizes_of(
        c, kv_heads=kv_heads_of(c, 2), inner=c.size("intermediate_size"),
        activation=c.choice("hidden_act", ACTIVATIONS, "gelu_pytorch_tanh"), eps=c.positive("norm_epsilon", 1e-5),
        positions=c.size("max_position_embeddings", 4096),
    )  # fmt: skip
    c.choice("norm_type", {"layer_norm": None}, "layer_norm")
    c.choice("mlp_type", {"default": None}, "default")
    rotary, window, bias = rotary_of(c, s), window_of(c), c.flag("use_bias", True)
    g.names = NAMES.replace(g.source.prefix("model.", *PROBES))
    tied = c.flag("tie_word_embeddings", True)
    x = embedded(g, s, tied)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.layer_norm(x, "attn_norm", s.eps)
        x = x + attend(layer, y, s, rotary, window, bias=bias, output_bias=bias)
        x = x + plain_feed_forward(layer, layer.layer_norm(x, "ffn_norm", s.eps), s, bias=bias)
    x = g.layer_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


FAMILY = plain_family("Starcoder2Model", build, "Starcoder2")


def _window(keys: Keys, common: Values) -> Values:
    return {"sliding_window": keys.size("attention.sliding_window", 0, minimum=0) or None}


GGUF = {
    "starcoder2": Architecture(
        "starcoder2", "Starcoder2", names=NAMES, norms="attention.layer_norm_epsilon", more=_window,
        flags={"use_bias": ("attn_output.bias",)}, spelling={"rms_norm_eps": "norm_epsilon"},
    ),
}  # fmt: skip
