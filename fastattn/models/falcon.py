# SPDX-License-Identifier: MIT
"""Falcon: attention and feed-forward layer beside each other, few heads of keys, rotary positions, no biases.

    x = x + (down(act(up(m))) + attention(n)), n = norm(x), m = n or norm'(x)

or one after the other, as GPT-2 has them (``parallel_attn`` false). Almazrouei et al., 2023,
https://arxiv.org/abs/2311.16867; names of tensors and keys as in transformers' FalconModel.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..graph.config import ConfigReader
from ..graph.facts import Facts
from ..graph.graph import Graph
from ..graph.names import Names
from .blocks import ACTIVATIONS
from .causal import Sizes, causal_heads, embedded, mixed, rotary_of
from .ggufkeys import Architecture, Keys, Values
from .plain import by_head, either, plain_family, plain_feed_forward, sizes_of, width_of

__all__ = ["FAMILY", "GGUF"]

NAMES = Names("transformer.", "h.{i}.", {
    "attn_norm": "input_layernorm", "attn_norm_2": "ln_attn", "ffn_norm": "ln_mlp",
    "attn_post_norm": "post_attention_layernorm", "attn_qkv": "self_attention.query_key_value",
    "attn_output": "self_attention.dense", "ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h",
}, token_embd="word_embeddings", output_norm="ln_f")  # fmt: skip

_PROBES = ("word_embeddings.weight", "ln_f.weight", "h.0.self_attention.dense.weight")


def build(g: Graph) -> Facts:
    c = g.config
    if c.flag("alibi", False):
        raise ValueError(f"{c.path}: alibi is true: transformers rounds such scores to bfloat16; not supported")
    c.refuse("apply_residual_connection_post_layernorm", "models with it are not supported")
    new, parallel = c.flag("new_decoder_architecture", False), c.flag("parallel_attn", True)
    norms = c.size("num_ln_in_parallel_attn", 2 if new else 1, 2)
    if new and not parallel or norms == 2 and not new:
        raise ValueError(
            f"{c.path}: new_decoder_architecture is {new}, parallel_attn {parallel}, num_ln_in_parallel_attn {norms}, "
            "which go together in no model"
        )
    s = _sizes(c, new)
    rotary, bias, tied = rotary_of(c, s), c.flag("bias", False), c.flag("tie_word_embeddings", True)
    layout, width = by_head(s.heads, s.kv_heads, s.head_size), s.q_width + 2 * s.kv_width
    g.names = NAMES.replace(g.source.prefix("transformer.", *_PROBES))
    x = embedded(g, s, tied)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.layer_norm(x, "attn_norm_2" if norms == 2 else "attn_norm", s.eps)
        qkv = layer.linear(y, "attn_qkv", width, bias=bias, layout=layout)
        attended = layer.linear(mixed(layer, qkv, s, rotary, None), "attn_output", s.hidden, bias=bias)
        if parallel:
            y = layer.layer_norm(x, "ffn_norm", s.eps) if norms == 2 else y
            x = x + (plain_feed_forward(layer, y, s, bias=bias) + attended)
        else:
            x = x + attended
            x = x + plain_feed_forward(layer, layer.layer_norm(x, "attn_post_norm", s.eps), s, bias=bias)
    x = g.layer_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied, tokens="classifier")
    return s.facts


def _sizes(c: ConfigReader, new: bool) -> Sizes:
    hidden, heads = ("hidden_size", "n_embed"), ("num_attention_heads", "n_head")
    every = either(c, *heads)
    one = c.flag("multi_query", True) and not new  # for the newer models multi_query says nothing
    shared = either(c, "num_kv_heads", "n_head_kv", default=every)
    if not (new or one) and shared != every:
        raise ValueError(f"{c.path}: num_kv_heads is {shared}, expected {every}: neither multi_query nor a newer model")
    return sizes_of(
        c, hidden=hidden, layers=("num_hidden_layers", "n_layer"), heads=heads, kv_heads=1 if one else shared,
        inner=c.size("ffn_hidden_size", 4 * width_of(c, *hidden)), eps=c.positive("layer_norm_epsilon", 1e-5),
        activation=c.choice("activation", ACTIVATIONS, "gelu"), positions=c.size("max_position_embeddings", 2048),
    )  # fmt: skip


FAMILY = plain_family("FalconModel", build, "Falcon", RWForCausalLM="causal_lm")


def _roles(keys: Keys) -> Mapping[str, str]:
    """A file with two norms has that of the feed-forward layer under the name of the one of the others."""
    return {"attn_norm": "ffn_norm"} if "blk.0.attn_norm_2.weight" in keys.file else {}


def _of_gguf(keys: Keys, common: Values) -> Values:
    keys.must("tensor_data_layout", "jploski")  # which is the order of the page
    two = "blk.0.attn_norm_2.weight" in keys.file
    new = two or common["num_key_value_heads"] > 1
    return {"new_decoder_architecture": new, "num_ln_in_parallel_attn": 2 if two else 1}


GGUF = {
    "falcon": Architecture(
        "falcon", "Falcon", names=NAMES, joined=True, norms="attention.layer_norm_epsilon", flags={}, more=_of_gguf,
        roles_of=_roles, spelling={
            "num_key_value_heads": "num_kv_heads", "intermediate_size": "ffn_hidden_size",
            "rms_norm_eps": "layer_norm_epsilon",
        },
    ),
}  # fmt: skip
