# SPDX-License-Identifier: MIT
"""ELECTRA: BERT's layers behind embeddings that may be narrower and then are projected, no pooler, other heads.

Clark et al., 2020, https://arxiv.org/abs/2003.10555; names of tensors and keys as in transformers' ElectraModel.
"""

from __future__ import annotations

import re

from .builder import Builder
from .heads import Dense
from .kin import PROBES, Kin, architectures, label_heads, masked_lm, refuse_other_models
from .postnorm import ACTIVATIONS, MAX_LAYERS, PostNormLayer, PostNormNames, PostNormStack, check_head_size

__all__ = ["ElectraModel"]


class ElectraModel(Kin):
    """An ELECTRA encoder, generator or discriminator; see ``Encoder`` for how to call it."""

    architectures = architectures("Electra", ElectraForPreTraining=None)
    pooled_output = False

    # Index buffers that old versions of transformers saved, and the heads of other ElectraFor... classes.
    ignorable = re.compile(
        r"(electra\.)?embeddings\.(position_ids|token_type_ids)"
        r"|(discriminator_predictions|generator_predictions|generator_lm_head|classifier|qa_outputs|sequence_summary)\..*"
    )

    def __init__(self, builder: Builder) -> None:
        super().__init__(builder)
        c = builder.config
        refuse_other_models(c, "ELECTRA")
        self.vocab_size = c.size("vocab_size")
        self.hidden_size = hidden = c.size("hidden_size")
        self.max_positions = c.size("max_position_embeddings")
        self.type_vocab_size = c.size("type_vocab_size", 2)
        size = c.size("embedding_size", 128)
        layers = c.size("num_hidden_layers", maximum=MAX_LAYERS)
        heads = c.size("num_attention_heads")
        inner = c.size("intermediate_size")
        activation = c.choice("hidden_act", ACTIVATIONS, "gelu")
        self._eps = c.positive("layer_norm_eps", 1e-12)
        tie = c.flag("tie_word_embeddings", True)
        check_head_size(c, hidden, heads)
        self._describe = f"{layers} layers, {hidden} wide, {heads} heads"

        prefix = builder.prefix("electra.", *PROBES)
        words, decoder = f"{prefix}embeddings.word_embeddings.weight", "generator_lm_head"
        self.add_tables(builder, f"{prefix}embeddings.", size, tied=f"{decoder}.weight" if tie else None)
        if size != hidden:
            self._projection = builder.linear(f"{prefix}embeddings_project", hidden, size)
        names = [PostNormNames.bert(f"{prefix}encoder.layer.{i}.") for i in range(layers)]
        self._stack = PostNormStack(
            [PostNormLayer.build(builder, name, hidden, inner) for name in names],
            hidden=hidden, inner=inner, heads=heads, activation=activation, eps=self._eps,
        )  # fmt: skip
        self.add_heads(
            builder,
            masked_lm=masked_lm(
                Dense("generator_predictions.dense", size, hidden, "gelu"), "generator_predictions.LayerNorm", decoder,
                vocabulary=self.vocab_size, eps=self._eps, bias=f"{decoder}.bias", tied=words if tie else None,
            ),
            **label_heads(hidden, Dense("classifier.dense", hidden, hidden, "gelu"), last="classifier.out_proj"),
        )  # fmt: skip
