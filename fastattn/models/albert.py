# SPDX-License-Identifier: MIT
"""ALBERT: narrow embeddings, a projection, and few layers that run many times.

Lan et al., 2019, https://arxiv.org/abs/1909.11942; names of tensors and keys as in transformers' AlbertModel.
"""

from __future__ import annotations

import re

from ..graph.family import Facts, Family
from ..graph.graph import Graph
from ..graph.heads import Dense
from ..graph.names import Names
from .blocks import (
    EMBEDDINGS, MAX_LAYERS, PROBES, Sizes, add_heads, architectures, embeddings, label_heads, masked_lm, pool_by,
    post_norm, project, refuse_other_models,
)  # fmt: skip

__all__ = ["FAMILY"]

_LAYER = {
    "attn_q": "attention.query", "attn_k": "attention.key", "attn_v": "attention.value",
    "attn_output": "attention.dense", "attn_output_norm": "attention.LayerNorm",
    "ffn_up": "ffn", "ffn_down": "ffn_output", "layer_output_norm": "full_layer_layer_norm",
}  # fmt: skip


def build(g: Graph) -> Facts:
    c = g.config
    refuse_other_models(c, "ALBERT")
    s = Sizes.read(c, activation="gelu_new")
    size = c.size("embedding_size", 128)
    groups = c.size("num_hidden_groups", 1, maximum=s.layers)
    repeats = c.size("inner_group_num", 1, maximum=MAX_LAYERS // s.layers)
    prefix = g.source.prefix("albert.", *PROBES)
    names = {**EMBEDDINGS, "pooler": "pooler", "projection": "encoder.embedding_hidden_mapping_in"}
    g.names = Names(prefix, "encoder.albert_layer_groups.{i}.albert_layers.0.", _LAYER, **names)
    words, decoder = f"{g.name('token_embd')}.weight", "predictions.decoder"
    tie = c.flag("tie_word_embeddings", True)
    x = embeddings(g, s, size, tied=f"{decoder}.weight" if tie else None, types=s.types, positions=s.positions)
    x = g.linear(x, "projection", s.hidden)
    for i in range(s.layers):
        group = int(i / (s.layers / groups))
        for j in range(repeats):
            g.hidden_state(x)
            g.names = Names(prefix, f"encoder.albert_layer_groups.{{i}}.albert_layers.{j}.", _LAYER, **names)
            layer = g.layer(group)
            x = post_norm(layer, x, layer.attention(*project(layer, x, s.hidden), s.heads), s)
    g.hidden_state(x)
    g.output("hidden", x)

    pooler = Dense(g.name("pooler"), s.hidden, s.hidden, "tanh")
    pool_by(g, x, pooler)
    add_heads(
        g, x,
        masked_lm=masked_lm(
            Dense("predictions.dense", size, s.hidden, s.activation), "predictions.LayerNorm", decoder, s,
            bias="predictions.bias", tied=words if tie else None,
        ),
        **label_heads(s.hidden, pooler),
    )  # fmt: skip
    return s.facts(kinds=groups)


FAMILY = Family(
    name="AlbertModel",
    build=build,
    architectures=architectures("Albert", AlbertForPreTraining=None),
    # Index buffers that old versions of transformers saved, a pooler below a head, the heads of other classes.
    ignorable=re.compile(
        r"(albert\.)?embeddings\.(position_ids|token_type_ids)|albert\.pooler\..*"
        r"|(predictions|sop_classifier|classifier|qa_outputs)\..*"
    ),
)
