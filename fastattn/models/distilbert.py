# SPDX-License-Identifier: MIT
"""DistilBERT: BERT's layers without token types and pooler, with names and configuration keys of its own.

Sanh et al., 2019, https://arxiv.org/abs/1910.01108; names of tensors and keys as in transformers' DistilBertModel.
"""

from __future__ import annotations

import re

from .builder import Builder
from .heads import Dense
from .kin import PROBES, Kin, architectures, label_heads, masked_lm, refuse_other_models
from .postnorm import ACTIVATIONS, MAX_LAYERS, PostNormLayer, PostNormNames, PostNormStack, check_head_size

__all__ = ["DistilBertModel"]


class DistilBertModel(Kin):
    """A DistilBERT encoder; see ``Encoder`` for how to call it. All its token types are 0."""

    architectures = architectures("DistilBert")
    pooled_output = False

    # An index buffer that old versions of transformers saved, and the heads of other DistilBertFor... classes.
    ignorable = re.compile(
        r"(distilbert\.)?embeddings\.position_ids"
        r"|(vocab_transform|vocab_layer_norm|vocab_projector|pre_classifier|classifier|qa_outputs)\..*"
    )

    def __init__(self, builder: Builder) -> None:
        super().__init__(builder)
        c = builder.config
        refuse_other_models(c, "DistilBERT")
        self.vocab_size = c.size("vocab_size")
        self.hidden_size = hidden = c.size("dim")
        self.max_positions = c.size("max_position_embeddings")
        layers = c.size("n_layers", maximum=MAX_LAYERS)
        heads = c.size("n_heads")
        inner = c.size("hidden_dim")
        activation = c.choice("activation", ACTIVATIONS, "gelu")
        self._eps = 1e-12  # of the architecture: there is no key for it
        tie = c.flag("tie_word_embeddings", True)
        check_head_size(c, hidden, heads, ("dim", "n_heads"))
        self._describe = f"{layers} layers, {hidden} wide, {heads} heads"

        # sinusoidal_pos_embds says how the table of positions was made; it is stored like a learned one.
        prefix = builder.prefix("distilbert.", *PROBES)
        words, decoder = f"{prefix}embeddings.word_embeddings.weight", "vocab_projector"
        self.add_tables(
            builder, f"{prefix}embeddings.", hidden, tied=f"{decoder}.weight" if tie else None, token_types=False
        )
        names = [_names(f"{prefix}transformer.layer.{i}.") for i in range(layers)]
        self._stack = PostNormStack(
            [PostNormLayer.build(builder, name, hidden, inner) for name in names],
            hidden=hidden, inner=inner, heads=heads, activation=activation, eps=self._eps,
        )  # fmt: skip
        self.add_heads(
            builder,
            masked_lm=masked_lm(
                Dense("vocab_transform", hidden, hidden, activation), "vocab_layer_norm", decoder,
                vocabulary=self.vocab_size, eps=self._eps, bias=f"{decoder}.bias", tied=words if tie else None,
            ),
            **label_heads(hidden, Dense("pre_classifier", hidden, hidden, "relu")),
        )  # fmt: skip


def _names(prefix: str) -> PostNormNames:
    return PostNormNames(
        qkv=(f"{prefix}attention.q_lin", f"{prefix}attention.k_lin", f"{prefix}attention.v_lin"),
        attention_out=f"{prefix}attention.out_lin",
        attention_norm=f"{prefix}sa_layer_norm",
        up=f"{prefix}ffn.lin1",
        down=f"{prefix}ffn.lin2",
        norm=f"{prefix}output_layer_norm",
    )
