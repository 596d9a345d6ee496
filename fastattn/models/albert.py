# SPDX-License-Identifier: MIT
"""ALBERT: narrow embeddings, a projection, and few layers that run many times.

Lan et al., 2019, https://arxiv.org/abs/1909.11942; names of tensors and keys as in transformers' AlbertModel.
"""

from __future__ import annotations

from ..graph.family import Facts, Family
from ..graph.graph import Graph, Value
from ..graph.names import Names
from . import blocks
from .blocks import EMBEDDINGS, Sizes, attend, embeddings, kin_prefix, post_norm, refuse_relative_positions, stack
from .tops import Decoder, add_heads, architectures, ignorable, label_heads, normed, pooled

__all__ = ["FAMILY"]

_LAYER = {
    "attn_q": "attention.query", "attn_k": "attention.key", "attn_v": "attention.value",
    "attn_output": "attention.dense", "attn_output_norm": "attention.LayerNorm",
    "ffn_up": "ffn", "ffn_down": "ffn_output", "layer_output_norm": "full_layer_layer_norm",
}  # fmt: skip


def build(g: Graph) -> Facts:
    c = g.config
    refuse_relative_positions(c)
    s = Sizes.read(c, activation="gelu_new")
    size = c.size("embedding_size", 128)
    groups = c.size("num_hidden_groups", 1, maximum=s.layers)
    repeats = c.size("inner_group_num", 1, maximum=blocks.MAX_LAYERS // s.layers)
    prefix, others = kin_prefix(g, "albert."), {"projection": "encoder.embedding_hidden_mapping_in"}
    inside = [
        Names(prefix, f"encoder.albert_layer_groups.{{i}}.albert_layers.{j}.", _LAYER, **EMBEDDINGS, **others)
        for j in range(repeats)
    ]
    g.names = inside[0].replace(pooler="pooler")
    decoder = Decoder.read(g, "predictions.decoder", "predictions.bias")
    x = g.linear(embeddings(g, s, size, tied=decoder.stored), "projection", s.hidden)

    def group(i: int, _: Graph, x: Value) -> Value:
        for j, names in enumerate(inside):
            if j:
                g.hidden_state(x)
            layer = g.layer(int(i / (s.layers / groups)))
            layer.names = names
            x = post_norm(layer, x, attend(layer, x, s), s)
        return x

    x = stack(g, x, s.layers, group)

    pooler = pooled(g, x, s)
    before = normed(s, "predictions.dense", "predictions.LayerNorm", width=size)
    add_heads(g, x, masked_lm=decoder.behind(s, before), **label_heads(s.hidden, pooler))
    return s.facts(kinds=groups)


FAMILY = Family(
    name="AlbertModel",
    build=build,
    architectures=architectures("Albert", AlbertForPreTraining=None),
    ignorable=ignorable(r"albert\.", "predictions|sop_classifier", r"albert\.pooler\..*"),
)
