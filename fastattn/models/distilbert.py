# SPDX-License-Identifier: MIT
"""DistilBERT: BERT's layers under other names, without token types and without a pooler.

Sanh et al., 2019, https://arxiv.org/abs/1910.01108; names of tensors and keys as in transformers' DistilBertModel.
"""

from __future__ import annotations

import re

from ..graph.family import Facts, Family
from ..graph.graph import Graph
from ..graph.heads import Dense
from ..graph.names import Names
from .blocks import (
    ACTIVATIONS,
    EMBEDDINGS,
    MAX_LAYERS,
    PROBES,
    Sizes,
    add_heads,
    architectures,
    check_head_size,
    embeddings,
    label_heads,
    masked_lm,
    post_norm,
    project,
    refuse_other_models,
)  # fmt: skip

__all__ = ["FAMILY"]

_LAYER = {
    "attn_q": "attention.q_lin", "attn_k": "attention.k_lin", "attn_v": "attention.v_lin",
    "attn_output": "attention.out_lin", "attn_output_norm": "sa_layer_norm",
    "ffn_up": "ffn.lin1", "ffn_down": "ffn.lin2", "layer_output_norm": "output_layer_norm",
}  # fmt: skip


def build(g: Graph) -> Facts:
    c = g.config
    refuse_other_models(c, "DistilBERT")
    s = Sizes(
        vocab=c.size("vocab_size"), hidden=c.size("dim"), layers=c.size("n_layers", maximum=MAX_LAYERS),
        heads=c.size("n_heads"), inner=c.size("hidden_dim"), activation=c.choice("activation", ACTIVATIONS, "gelu"),
        eps=1e-12,  # of the architecture: there is no key for it
        positions=c.size("max_position_embeddings"),
    )  # fmt: skip
    check_head_size(c, s.hidden, s.heads, ("dim", "n_heads"))
    g.names = Names(g.source.prefix("distilbert.", *PROBES), "transformer.layer.{i}.", _LAYER, **EMBEDDINGS)
    words, decoder = f"{g.name('token_embd')}.weight", "vocab_projector"
    tie = c.flag("tie_word_embeddings", True)
    # sinusoidal_pos_embds says how the table of positions was made; it is stored like a learned one.
    x = embeddings(g, s, s.hidden, tied=f"{decoder}.weight" if tie else None, types=0, positions=s.positions)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        x = post_norm(layer, x, layer.attention(*project(layer, x, s.hidden), s.heads), s)
    g.hidden_state(x)
    g.output("hidden", x)

    add_heads(
        g, x,
        masked_lm=masked_lm(
            Dense("vocab_transform", s.hidden, s.hidden, s.activation), "vocab_layer_norm", decoder, s,
            bias=f"{decoder}.bias", tied=words if tie else None,
        ),
        **label_heads(s.hidden, Dense("pre_classifier", s.hidden, s.hidden, "relu")),
    )  # fmt: skip
    return s.facts()


FAMILY = Family(
    name="DistilBertModel",
    build=build,
    architectures=architectures("DistilBert"),
    pooled_output=False,
    # An index buffer that old versions of transformers saved, and the heads of other DistilBertFor... classes.
    ignorable=re.compile(
        r"(distilbert\.)?embeddings\.position_ids"
        r"|(vocab_transform|vocab_layer_norm|vocab_projector|pre_classifier|classifier|qa_outputs)\..*"
    ),
)
