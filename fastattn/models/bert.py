# SPDX-License-Identifier: MIT
"""BERT: embeddings, N layers of attention and feed-forward with the norm behind each residual, a pooler.

Devlin et al., 2018, https://arxiv.org/abs/1810.04805; names of tensors and keys as in transformers' BertModel.
"""

from __future__ import annotations

import re

from ..graph.family import Facts, Family
from ..graph.graph import Graph
from ..graph.heads import Dense, HeadSpec
from .blocks import (
    PROBES,
    Sizes,
    add_heads,
    architectures,
    bert_names,
    embeddings,
    label_heads,
    masked_lm,
    pool_by,
    post_norm,
    project,
    refuse_other_models,
)  # fmt: skip

__all__ = ["FAMILY"]


def build(g: Graph) -> Facts:
    c = g.config
    refuse_other_models(c, "BERT")
    s = Sizes.read(c, activation=None, types=None)
    g.names = bert_names(g.source.prefix("bert.", *PROBES))
    # A language model's decoder is the table of word embeddings: either may be the one that was stored.
    words, decoder = f"{g.name('token_embd')}.weight", "cls.predictions.decoder"
    tie = c.flag("tie_word_embeddings", True)
    x = embeddings(
        g, s, s.hidden, tied=f"{decoder}.weight" if tie else None, types=s.types, positions=s.positions
    )  # fmt: skip
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        x = post_norm(layer, x, layer.attention(*project(layer, x, s.hidden), s.heads), s)
    g.hidden_state(x)
    g.output("hidden", x)

    pooler = Dense(g.name("pooler"), s.hidden, s.hidden, "tanh")
    pool_by(g, x, pooler)
    add_heads(
        g, x,
        masked_lm=masked_lm(
            Dense("cls.predictions.transform.dense", s.hidden, s.hidden, s.activation),
            "cls.predictions.transform.LayerNorm", decoder, s, bias="cls.predictions.bias", tied=words if tie else None,
        ),
        next_sentence=lambda: HeadSpec(
            "sequence_classification", "first", (pooler, Dense("cls.seq_relationship", 2, s.hidden))
        ),
        **label_heads(s.hidden, pooler),
    )  # fmt: skip
    return s.facts()


FAMILY = Family(
    name="BertModel",
    build=build,
    architectures=architectures("Bert", BertForPreTraining=None, BertForNextSentencePrediction="next_sentence"),
    # Index buffers that old versions of transformers saved, and the heads of other BertFor... classes.
    ignorable=re.compile(r"(bert\.)?(embeddings\.(position_ids|token_type_ids))|(cls|classifier|qa_outputs)\..*"),
)
