# SPDX-License-Identifier: MIT
"""ELECTRA: BERT's layers behind embeddings that may be narrower, without a pooler.

Clark et al., 2020, https://arxiv.org/abs/2003.10555; names of tensors and keys as in transformers' ElectraModel.
"""

from __future__ import annotations

from ..graph.family import Facts, Family
from ..graph.graph import Graph
from ..graph.heads import Dense
from .blocks import Sizes, attend, bert_names, embeddings, post_norm, refuse_relative_positions, stack
from .tops import Decoder, add_heads, architectures, ignorable, label_heads, normed

__all__ = ["FAMILY"]


def build(g: Graph) -> Facts:
    refuse_relative_positions(g.config)
    s = Sizes.read(g.config)
    size = g.config.size("embedding_size", 128)
    g.names = bert_names(g, "electra.", projection="embeddings_project")
    decoder = Decoder.read(g, "generator_lm_head")
    x = embeddings(g, s, size, tied=decoder.stored)
    if size != s.hidden:
        x = g.linear(x, "projection", s.hidden)
    x = stack(g, x, s.layers, lambda i, layer, x: post_norm(layer, x, attend(layer, x, s), s))

    name, first = "generator_predictions", Dense("classifier.dense", s.hidden, s.hidden, "gelu")
    before = normed(s, f"{name}.dense", f"{name}.LayerNorm", width=size, activation="gelu")
    labels = label_heads(s.hidden, first, last="classifier.out_proj")
    add_heads(g, x, masked_lm=decoder.behind(s, before), **labels)
    return s.facts()


FAMILY = Family(
    name="ElectraModel",
    build=build,
    architectures=architectures("Electra", ElectraForPreTraining=None),
    pooled_output=False,
    ignorable=ignorable(
        r"electra\.", "discriminator_predictions|generator_predictions|generator_lm_head|sequence_summary"
    ),
)
