# SPDX-License-Identifier: MIT
"""DistilBERT: BERT's layers under other names, without token types and without a pooler.

Sanh et al., 2019, https://arxiv.org/abs/1910.01108; names of tensors and keys as in transformers' DistilBertModel.
"""

from __future__ import annotations

from ..graph.family import Facts, Family
from ..graph.graph import Graph
from ..graph.heads import Dense
from ..graph.names import Names
from . import blocks
from .blocks import EMBEDDINGS, Sizes, attend, embeddings, kin_prefix, post_norm, refuse_relative_positions, stack
from .tops import Decoder, add_heads, architectures, ignorable, label_heads, normed

__all__ = ["FAMILY"]

_LAYER = {
    "attn_q": "attention.q_lin", "attn_k": "attention.k_lin", "attn_v": "attention.v_lin",
    "attn_output": "attention.out_lin", "attn_output_norm": "sa_layer_norm",
    "ffn_up": "ffn.lin1", "ffn_down": "ffn.lin2", "layer_output_norm": "output_layer_norm",
}  # fmt: skip


def build(g: Graph) -> Facts:
    c = g.config
    refuse_relative_positions(c, key=False)
    s = Sizes(
        vocab=c.size("vocab_size"), hidden=c.size("dim"), layers=c.size("n_layers", maximum=blocks.MAX_LAYERS),
        heads=c.size("n_heads"), inner=c.size("hidden_dim"),
        activation=c.choice("activation", blocks.ACTIVATIONS, "gelu"),
        eps=1e-12,  # of the architecture: there is no key for it
        positions=c.size("max_position_embeddings"),
    )  # fmt: skip
    blocks.check_head_size(c, s.hidden, s.heads, ("dim", "n_heads"))
    g.names = Names(kin_prefix(g, "distilbert."), "transformer.layer.{i}.", _LAYER, **EMBEDDINGS)
    decoder = Decoder.read(g, "vocab_projector")
    # sinusoidal_pos_embds says how the table of positions was made; it is stored like a learned one.
    x = embeddings(g, s, s.hidden, tied=decoder.stored)
    x = stack(g, x, s.layers, lambda i, layer, x: post_norm(layer, x, attend(layer, x, s), s))

    labels = label_heads(s.hidden, Dense("pre_classifier", s.hidden, s.hidden, "relu"))
    add_heads(g, x, masked_lm=decoder.behind(s, normed(s, "vocab_transform", "vocab_layer_norm")), **labels)
    return s.facts()


FAMILY = Family(
    name="DistilBertModel",
    build=build,
    architectures=architectures("DistilBert"),
    pooled_output=False,
    ignorable=ignorable(r"distilbert\.", "vocab_transform|vocab_layer_norm|vocab_projector|pre_classifier"),
)
