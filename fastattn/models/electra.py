# SPDX-License-Identifier: MIT
"""ELECTRA: BERT's layers behind embeddings that may be narrower, without a pooler.

Clark et al., 2020, https://arxiv.org/abs/2003.10555; names of tensors and keys as in transformers' ElectraModel.
"""

from __future__ import annotations

import re

from ..graph.family import Facts, Family
from ..graph.graph import Graph
from ..graph.heads import Dense
from .blocks import (
    PROBES,
    Sizes,
    add_heads,
    architectures,
    bert_names,
    embeddings,
    label_heads,
    masked_lm,
    post_norm,
    project,
    refuse_other_models,
)  # fmt: skip

__all__ = ["FAMILY"]


def build(g: Graph) -> Facts:
    c = g.config
    refuse_other_models(c, "ELECTRA")
    s = Sizes.read(c)
    size = c.size("embedding_size", 128)
    g.names = bert_names(g.source.prefix("electra.", *PROBES), projection="embeddings_project")
    words, decoder = f"{g.name('token_embd')}.weight", "generator_lm_head"
    tie = c.flag("tie_word_embeddings", True)
    x = embeddings(g, s, size, tied=f"{decoder}.weight" if tie else None, types=s.types, positions=s.positions)
    if size != s.hidden:
        x = g.linear(x, "projection", s.hidden)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        x = post_norm(layer, x, layer.attention(*project(layer, x, s.hidden), s.heads), s)
    g.hidden_state(x)
    g.output("hidden", x)

    add_heads(
        g, x,
        masked_lm=masked_lm(
            Dense("generator_predictions.dense", size, s.hidden, "gelu"), "generator_predictions.LayerNorm", decoder, s,
            bias=f"{decoder}.bias", tied=words if tie else None,
        ),
        **label_heads(s.hidden, Dense("classifier.dense", s.hidden, s.hidden, "gelu"), last="classifier.out_proj"),
    )  # fmt: skip
    return s.facts()


FAMILY = Family(
    name="ElectraModel",
    build=build,
    architectures=architectures("Electra", ElectraForPreTraining=None),
    pooled_output=False,
    # Index buffers that old versions of transformers saved, and the heads of other ElectraFor... classes.
    ignorable=re.compile(
        r"(electra\.)?embeddings\.(position_ids|token_type_ids)"
        r"|(discriminator_predictions|generator_predictions|generator_lm_head|classifier|qa_outputs|sequence_summary)\..*"
    ),
)
