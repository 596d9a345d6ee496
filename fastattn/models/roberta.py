# SPDX-License-Identifier: MIT
"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT's layers; positions count from the padding id, heads have their own names.

Liu et al., 2019, https://arxiv.org/abs/1907.11692; Conneau et al., 2019, https://arxiv.org/abs/1911.02116.
"""

from __future__ import annotations

from ..graph.facts import Facts, positions_beside_padding
from ..graph.family import Family
from ..graph.graph import Graph
from .blocks import Sizes, attend, bert_names, embeddings, post_norm, refuse_relative_positions, stack
from .tops import Decoder, architectures, ignorable, roberta_heads

__all__ = ["FAMILY"]


def build(g: Graph) -> Facts:
    c = g.config
    refuse_relative_positions(c)
    s = Sizes.read(c)
    # Rows 0 to pad_token_id of the table of positions are none of a token's.
    rows = c.size("max_position_embeddings", minimum=2)
    if c.null("pad_token_id"):
        raise ValueError(f"{c.path}: pad_token_id is null, but RoBERTa's positions are counted from it")
    padding = c.size("pad_token_id", 1, maximum=rows - 2, minimum=0)
    g.names = bert_names(g, "roberta.")
    decoder = Decoder.read(g, "lm_head.decoder", "lm_head.bias")
    x = embeddings(g, s, s.hidden, tied=decoder.stored)
    x = stack(g, x, s.layers, lambda i, layer, x: post_norm(layer, x, attend(layer, x, s), s))
    roberta_heads(g, x, s, decoder)
    return s.facts(max_positions=rows - 1 - padding, positions=positions_beside_padding(padding))


FAMILY = Family(
    name="RobertaModel",
    build=build,
    architectures=architectures("Roberta", "XLMRoberta", "Camembert"),
    ignorable=ignorable(r"roberta\.", "lm_head", r"roberta\.pooler\..*"),
)
