# SPDX-License-Identifier: MIT
"""ALBERT: narrow embeddings, a projection, and few layers that run many times.

Lan et al., 2019, https://arxiv.org/abs/1909.11942; names of tensors and keys as in transformers' AlbertModel.
"""

from __future__ import annotations

import re

from .builder import Builder
from .heads import Dense
from .kin import PROBES, Kin, architectures, label_heads, masked_lm, refuse_other_models
from .postnorm import ACTIVATIONS, MAX_LAYERS, PostNormLayer, PostNormNames, PostNormStack, check_head_size

__all__ = ["AlbertModel"]


class AlbertModel(Kin):
    """An ALBERT encoder; see ``Encoder`` for how to call it."""

    architectures = architectures("Albert", AlbertForPreTraining=None)

    # Index buffers that old versions of transformers saved, a pooler below a head, the heads of other classes.
    ignorable = re.compile(
        r"(albert\.)?embeddings\.(position_ids|token_type_ids)|albert\.pooler\..*"
        r"|(predictions|sop_classifier|classifier|qa_outputs)\..*"
    )

    def __init__(self, builder: Builder) -> None:
        super().__init__(builder)
        c = builder.config
        refuse_other_models(c, "ALBERT")
        self.vocab_size = c.size("vocab_size")
        self.hidden_size = hidden = c.size("hidden_size")
        self.max_positions = c.size("max_position_embeddings")
        self.type_vocab_size = c.size("type_vocab_size", 2)
        size = c.size("embedding_size", 128)
        layers = c.size("num_hidden_layers", maximum=MAX_LAYERS)
        groups = c.size("num_hidden_groups", 1, maximum=layers)
        repeats = c.size("inner_group_num", 1, maximum=MAX_LAYERS // layers)
        heads = c.size("num_attention_heads")
        inner = c.size("intermediate_size")
        activation = c.choice("hidden_act", ACTIVATIONS, "gelu_new")
        self._eps = c.positive("layer_norm_eps", 1e-12)
        tie = c.flag("tie_word_embeddings", True)
        check_head_size(c, hidden, heads)
        self._describe = f"{layers} layers of {groups} kinds, {hidden} wide, {heads} heads"

        prefix = builder.prefix("albert.", *PROBES)
        words, decoder = f"{prefix}embeddings.word_embeddings.weight", "predictions.decoder"
        self.add_tables(builder, f"{prefix}embeddings.", size, tied=f"{decoder}.weight" if tie else None)
        self._projection = builder.linear(f"{prefix}encoder.embedding_hidden_mapping_in", hidden, size)
        stored = [
            [
                PostNormLayer.build(builder, _names(f"{prefix}encoder.albert_layer_groups.{i}.albert_layers.{j}."),
                                    hidden, inner)
                for j in range(repeats)
            ]
            for i in range(groups)
        ]  # fmt: skip
        self._stack = PostNormStack(
            [layer for i in range(layers) for layer in stored[int(i / (layers / groups))]],
            hidden=hidden, inner=inner, heads=heads, activation=activation, eps=self._eps,
        )  # fmt: skip

        pooler = Dense(f"{prefix}pooler", hidden, hidden, "tanh")
        self.pool_by(builder, pooler)
        self.add_heads(
            builder,
            masked_lm=masked_lm(
                Dense("predictions.dense", size, hidden, activation), "predictions.LayerNorm", decoder,
                vocabulary=self.vocab_size, eps=self._eps, bias="predictions.bias", tied=words if tie else None,
            ),
            **label_heads(hidden, pooler),
        )  # fmt: skip


def _names(prefix: str) -> PostNormNames:
    return PostNormNames(
        qkv=(f"{prefix}attention.query", f"{prefix}attention.key", f"{prefix}attention.value"),
        attention_out=f"{prefix}attention.dense",
        attention_norm=f"{prefix}attention.LayerNorm",
        up=f"{prefix}ffn",
        down=f"{prefix}ffn_output",
        norm=f"{prefix}full_layer_layer_norm",
    )
