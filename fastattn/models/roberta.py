# SPDX-License-Identifier: MIT
"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT's layers, positions counted from the padding id on, other heads.

Liu et al., 2019, https://arxiv.org/abs/1907.11692; Conneau et al., 2019, https://arxiv.org/abs/1911.02116; Martin et
al., 2019, https://arxiv.org/abs/1911.03894; names of tensors and keys as in transformers' RobertaModel, and the same
in all three.
"""

from __future__ import annotations

import re

from .builder import Builder
from .heads import Dense
from .inputs import Integers
from .kin import PROBES, Kin, architectures, label_heads, masked_lm, positions_beside_padding, refuse_other_models
from .postnorm import ACTIVATIONS, MAX_LAYERS, PostNormLayer, PostNormNames, PostNormStack, check_head_size

__all__ = ["RobertaModel"]


class RobertaModel(Kin):
    """An encoder of RoBERTa's kind; see ``Encoder`` for how to call it."""

    architectures = architectures("Roberta", "XLMRoberta", "Camembert")

    # Index buffers that old versions of transformers saved, a pooler below a head, the heads of other classes.
    ignorable = re.compile(
        r"(roberta\.)?embeddings\.(position_ids|token_type_ids)|roberta\.pooler\..*|(lm_head|classifier|qa_outputs)\..*"
    )

    def __init__(self, builder: Builder) -> None:
        super().__init__(builder)
        c = builder.config
        refuse_other_models(c, "RoBERTa")
        self.vocab_size = c.size("vocab_size")
        self.hidden_size = hidden = c.size("hidden_size")
        self.type_vocab_size = c.size("type_vocab_size", 2)
        layers = c.size("num_hidden_layers", maximum=MAX_LAYERS)
        heads = c.size("num_attention_heads")
        inner = c.size("intermediate_size")
        activation = c.choice("hidden_act", ACTIVATIONS, "gelu")
        self._eps = c.positive("layer_norm_eps", 1e-12)
        tie = c.flag("tie_word_embeddings", True)
        check_head_size(c, hidden, heads)
        # Rows 0 to pad_token_id of the table of positions are none of a token's.
        rows = c.size("max_position_embeddings", minimum=2)
        if c.null("pad_token_id"):
            raise ValueError(f"{c.path}: pad_token_id is null, but RoBERTa's positions are counted from it")
        self._padding = c.size("pad_token_id", 1, maximum=rows - 2, minimum=0)
        self.max_positions = rows - 1 - self._padding
        self._describe = f"{layers} layers, {hidden} wide, {heads} heads"

        prefix = builder.prefix("roberta.", *PROBES)
        words, decoder = f"{prefix}embeddings.word_embeddings.weight", "lm_head.decoder"
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
                Dense("lm_head.dense", hidden, hidden, "gelu"), "lm_head.layer_norm", decoder,
                vocabulary=self.vocab_size, eps=self._eps, bias="lm_head.bias", tied=words if tie else None,
            ),
            **label_heads(hidden, Dense("classifier.dense", hidden, hidden, "tanh"), last="classifier.out_proj"),
        )  # fmt: skip

    def _position_ids(self, ids: Integers, columns: Integers, lengths: Integers) -> Integers:
        return positions_beside_padding(ids, lengths, self._padding)
