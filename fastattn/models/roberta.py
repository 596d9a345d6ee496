# SPDX-License-Identifier: MIT
"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT's layers; positions count from the padding id, heads have names of their own.

Liu et al., 2019, https://arxiv.org/abs/1907.11692; Conneau et al., 2019, https://arxiv.org/abs/1911.02116.
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
    pool_by,
    positions_beside_padding,
    post_norm,
    project,
    refuse_other_models,
)  # fmt: skip

__all__ = ["FAMILY"]


def build(g: Graph) -> Facts:
    c = g.config
    refuse_other_models(c, "RoBERTa")
    s = Sizes.read(c)
    # Rows 0 to pad_token_id of the table of positions are none of a token's.
    rows = c.size("max_position_embeddings", minimum=2)
    if c.null("pad_token_id"):
        raise ValueError(f"{c.path}: pad_token_id is null, but RoBERTa's positions are counted from it")
    padding = c.size("pad_token_id", 1, maximum=rows - 2, minimum=0)
    g.names = bert_names(g.source.prefix("roberta.", *PROBES))
    words, decoder = f"{g.name('token_embd')}.weight", "lm_head.decoder"
    tie = c.flag("tie_word_embeddings", True)
    x = embeddings(g, s, s.hidden, tied=f"{decoder}.weight" if tie else None, types=s.types, positions=rows)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        x = post_norm(layer, x, layer.attention(*project(layer, x, s.hidden), s.heads), s)
    g.hidden_state(x)
    g.output("hidden", x)

    pool_by(g, x, Dense(g.name("pooler"), s.hidden, s.hidden, "tanh"))
    add_heads(
        g, x,
        masked_lm=masked_lm(
            Dense("lm_head.dense", s.hidden, s.hidden, "gelu"), "lm_head.layer_norm", decoder, s,
            bias="lm_head.bias", tied=words if tie else None,
        ),
        **label_heads(s.hidden, Dense("classifier.dense", s.hidden, s.hidden, "tanh"), last="classifier.out_proj"),
    )  # fmt: skip
    return s.facts(max_positions=rows - 1 - padding, positions=positions_beside_padding(padding))


FAMILY = Family(
    name="RobertaModel",
    build=build,
    architectures=architectures("Roberta", "XLMRoberta", "Camembert"),
    # Index buffers that old versions of transformers saved, a pooler below a head, the heads of other classes.
    ignorable=re.compile(
        r"(roberta\.)?embeddings\.(position_ids|token_type_ids)|roberta\.pooler\..*|(lm_head|classifier|qa_outputs)\..*"
    ),
)
