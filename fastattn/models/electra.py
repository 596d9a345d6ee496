# SPDX-License-Identifier: MIT
"""ELECTRA: BERT's layers behind embeddings that may be narrower, without a pooler.

Clark et al., 2020, https://arxiv.org/abs/2003.10555; names of tensors and keys as in transformers' ElectraModel.
"""

from __future__ import annotations

import re

from ..graph.family import Facts, Family
from ..graph.graph import Graph
from ..graph.heads import Dense, NormStep
from .blocks import Sizes, attend, bert_names, embeddings, post_norm, refuse_other_models, stack
from .tops import Decoder, add_heads, architectures, label_heads

__all__ = ["FAMILY"]


def build(g: Graph) -> Facts:
    refuse_other_models(g.config, "ELECTRA")
    s = Sizes.read(g.config)
    size = g.config.size("embedding_size", 128)
    g.names = bert_names(g, "electra.", projection="embeddings_project")
    decoder = Decoder.read(g, "generator_lm_head")
    x = embeddings(g, s, size, tied=decoder.stored)
    if size != s.hidden:
        x = g.linear(x, "projection", s.hidden)
    x = stack(g, x, s.layers, lambda i, layer, x: post_norm(layer, x, attend(layer, x, s), s))

    name, first = "generator_predictions", Dense("classifier.dense", s.hidden, s.hidden, "gelu")
    before = Dense(f"{name}.dense", size, s.hidden, "gelu"), NormStep(f"{name}.LayerNorm", size, s.eps)
    labels = label_heads(s.hidden, first, last="classifier.out_proj")
    add_heads(g, x, masked_lm=decoder.behind(s, *before, width=size), **labels)
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
