# SPDX-License-Identifier: MIT
"""GPT-J and CodeGen: attention and feed-forward layer beside each other behind one norm, rotary positions of
neighbouring pairs.

    x = (attention(n) + down(act(up(n)))) + x, n = norm(x)

Wang and Komatsuzaki, 2021, https://github.com/kingoflolz/mesh-transformer-jax; Nijkamp et al., 2022,
https://arxiv.org/abs/2203.13474; names of tensors and keys as in transformers.
"""

from __future__ import annotations

import numpy as np

from ..graph.config import ConfigReader
from ..graph.facts import Facts
from ..graph.graph import Graph, Value
from ..graph.layout import Layout
from ..graph.names import Names
from ..graph.rotary import build_rotary
from .blocks import ACTIVATIONS
from .causal import Sizes, causal_heads, embedded, mixed
from .plain import either, plain_family, plain_feed_forward, sizes_of, width_of

__all__ = ["FAMILY"]

NAMES = Names("transformer.", "h.{i}.", {
    "attn_norm": "ln_1", "attn_q": "attn.q_proj", "attn_k": "attn.k_proj", "attn_v": "attn.v_proj",
    "attn_qkv": "attn.qkv_proj", "attn_output": "attn.out_proj", "ffn_up": "mlp.fc_in", "ffn_down": "mlp.fc_out",
}, token_embd="wte", output_norm="ln_f")  # fmt: skip

_RANKS = 4  # CodeGen's layer was trained, and is stored, in so many parts


def build(g: Graph) -> Facts:
    c = g.config
    s = _sizes(c)
    turned = c.size("rotary_dim", 64, maximum=s.head_size)
    rotary = build_rotary(c, turned, base=10000.0, scaling=None, positions=s.positions, interleaved=True)
    parts = _in_parts(c, s) if c.model_type() == "codegen" else None
    g.names = NAMES.replace(g.source.prefix("transformer.", "wte.weight", "ln_f.weight", "h.0.ln_1.weight"))
    tied = c.flag("tie_word_embeddings", False)
    x = embedded(g, s, tied)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.layer_norm(x, "attn_norm", s.eps)
        attended = mixed(layer, _projected(layer, y, s, parts), s, rotary, None)
        x = layer.linear(attended, "attn_output", s.hidden, bias=False) + plain_feed_forward(layer, y, s) + x
    x = g.layer_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied, bias=True)
    return s.facts


def _projected(g: Graph, x: Value, s: Sizes, parts: Layout | None) -> Value:
    """Queries, keys and values side by side."""
    if parts is not None:
        return g.linear(x, "attn_qkv", 3 * s.hidden, bias=False, layout=parts)
    return g.linear(x, ("attn_q", "attn_k", "attn_v"), s.hidden, bias=False)


def _sizes(c: ConfigReader) -> Sizes:
    hidden = ("n_embd", "hidden_size")
    return sizes_of(
        c, hidden=hidden, layers=("n_layer", "num_hidden_layers"), heads=("n_head", "num_attention_heads"),
        inner=c.size("n_inner", 4 * width_of(c, *hidden)), eps=c.positive("layer_norm_epsilon", 1e-5),
        activation=c.choice("activation_function", ACTIVATIONS, "gelu_new"),
        positions=either(c, "n_positions", "max_position_embeddings", default=2048),
    )  # fmt: skip


def _in_parts(c: ConfigReader, s: Sizes) -> Layout:
    """CodeGen's files have, for each part of the width, its queries, values and keys."""
    if s.hidden % _RANKS:
        raise ValueError(f"{c.path}: n_embd is {s.hidden}, expected a multiple of {_RANKS}")
    rows = np.arange(3 * s.hidden).reshape(_RANKS, 3, -1)
    return Layout("parts of queries, values and keys", order=rows[:, [0, 2, 1]].swapaxes(0, 1).reshape(-1))


FAMILY = plain_family("GPTJModel", build, "GPTJ", "CodeGen")
