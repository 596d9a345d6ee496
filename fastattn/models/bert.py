# SPDX-License-Identifier: MIT
"""BERT: embeddings, N layers of attention and feed-forward with the norm behind each residual, a pooler.

Devlin et al., 2018, https://arxiv.org/abs/1810.04805; names of tensors and keys as in transformers' BertModel.
"""

from __future__ import annotations

from ..graph.family import Facts, Family
from ..graph.graph import Graph
from ..graph.heads import Dense, HeadSpec
from .blocks import Sizes, attend, bert_names, embeddings, post_norm, refuse_relative_positions, stack
from .tops import Decoder, add_heads, architectures, ignorable, label_heads, normed, pooled

__all__ = ["FAMILY"]


def build(g: Graph) -> Facts:
    refuse_relative_positions(g.config)
    s = Sizes.read(g.config, activation=None, types=(None, 1))
    g.names = bert_names(g, "bert.")
    decoder = Decoder.read(g, "cls.predictions.decoder", "cls.predictions.bias")
    x = embeddings(g, s, s.hidden, tied=decoder.stored)
    x = stack(g, x, s.layers, lambda i, layer, x: post_norm(layer, x, attend(layer, x, s), s))

    pooler, transform = pooled(g, x, s), "cls.predictions.transform"
    following = pooler, Dense("cls.seq_relationship", 2, s.hidden)
    add_heads(
        g, x, masked_lm=decoder.behind(s, normed(s, f"{transform}.dense", f"{transform}.LayerNorm")),
        next_sentence=lambda: HeadSpec("sequence_classification", "first", following), **label_heads(s.hidden, pooler),
    )  # fmt: skip
    return s.facts()


FAMILY = Family(
    name="BertModel",
    build=build,
    architectures=architectures("Bert", BertForPreTraining=None, BertForNextSentencePrediction="next_sentence"),
    ignorable=ignorable(r"bert\.", "cls"),
)
