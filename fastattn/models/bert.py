# SPDX-License-Identifier: MIT
"""BERT: embeddings, N layers of attention and feed-forward with the norm behind each residual, a pooler.

Devlin et al., 2018, https://arxiv.org/abs/1810.04805; names of tensors and keys as in transformers' BertModel.
"""

from __future__ import annotations

import re

from .builder import Builder
from .heads import Dense, HeadSpec
from .kin import PROBES, Kin, architectures, label_heads, masked_lm, refuse_other_models
from .postnorm import ACTIVATIONS, MAX_LAYERS, PostNormLayer, PostNormNames, PostNormStack, check_head_size

__all__ = ["BertModel"]


class BertModel(Kin):
    """A BERT encoder; see ``Encoder`` for how to call it."""

    architectures = architectures("Bert", BertForPreTraining=None, BertForNextSentencePrediction="next_sentence")

    # Index buffers that old versions of transformers saved, and the heads of other BertFor... classes.
    ignorable = re.compile(r"(bert\.)?(embeddings\.(position_ids|token_type_ids))|(cls|classifier|qa_outputs)\..*")

    def __init__(self, builder: Builder) -> None:
        super().__init__(builder)
        c = builder.config
        refuse_other_models(c, "BERT")
        self.vocab_size = c.size("vocab_size")
        self.hidden_size = hidden = c.size("hidden_size")
        self.max_positions = c.size("max_position_embeddings")
        self.type_vocab_size = c.size("type_vocab_size")
        layers = c.size("num_hidden_layers", maximum=MAX_LAYERS)
        heads = c.size("num_attention_heads")
        inner = c.size("intermediate_size")
        activation = c.choice("hidden_act", ACTIVATIONS)
        self._eps = c.positive("layer_norm_eps", 1e-12)
        tie = c.flag("tie_word_embeddings", True)
        check_head_size(c, hidden, heads)
        self._describe = f"{layers} layers, {hidden} wide, {heads} heads"

        prefix = builder.prefix("bert.", *PROBES)
        words = f"{prefix}embeddings.word_embeddings.weight"
        decoder = "cls.predictions.decoder"
        # A language model's decoder is the table of word embeddings: either may be the one that was stored.
        self.add_tables(builder, f"{prefix}embeddings.", hidden, tied=f"{decoder}.weight" if tie else None)
        names = [PostNormNames.bert(f"{prefix}encoder.layer.{i}.") for i in range(layers)]
        self._stack = PostNormStack(
            [PostNormLayer.build(builder, name, hidden, inner) for name in names],
            hidden=hidden, inner=inner, heads=heads, activation=activation, eps=self._eps,
        )  # fmt: skip

        pooler = Dense(f"{prefix}pooler.dense", hidden, hidden, "tanh")
        self.pool_by(builder, pooler)
        self.add_heads(
            builder,
            masked_lm=masked_lm(
                Dense("cls.predictions.transform.dense", hidden, hidden, activation),
                "cls.predictions.transform.LayerNorm", decoder,
                vocabulary=self.vocab_size, eps=self._eps, bias="cls.predictions.bias", tied=words if tie else None,
            ),
            next_sentence=lambda: HeadSpec(
                "sequence_classification", "first", (pooler, Dense("cls.seq_relationship", 2, hidden))
            ),
            **label_heads(hidden, pooler),
        )  # fmt: skip
