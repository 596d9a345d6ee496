# SPDX-License-Identifier: MIT
"""MPNet: BERT's layers with a bias by the distance of two tokens, no token types, positions counted as RoBERTa does.

Song et al., 2020, https://arxiv.org/abs/2004.09297; names of tensors and keys as in transformers' MPNetModel. The
buckets of distances are those of T5 (Raffel et al., 2020, https://arxiv.org/abs/1910.10683).
"""

from __future__ import annotations

import re

import numpy as np

from .builder import Builder, Floats
from .heads import Dense
from .inputs import Integers
from .kin import PROBES, Kin, architectures, label_heads, masked_lm, positions_beside_padding, refuse_other_models
from .postnorm import ACTIVATIONS, MAX_LAYERS, PostNormLayer, PostNormNames, PostNormStack, check_head_size

__all__ = ["MPNetModel"]

_PADDING = 1  # of the architecture, whatever pad_token_id says
_BUCKETS, _MAX_DISTANCE = 32, 128  # of the architecture too: a larger table has rows that nothing reads


class MPNetModel(Kin):
    """An MPNet encoder; see ``Encoder`` for how to call it. All its token types are 0."""

    architectures = architectures("MPNet")

    # An index buffer that old versions of transformers saved, a pooler below a head, the heads of other classes.
    ignorable = re.compile(r"(mpnet\.)?embeddings\.position_ids|mpnet\.pooler\..*|(lm_head|classifier|qa_outputs)\..*")

    def __init__(self, builder: Builder) -> None:
        super().__init__(builder)
        c = builder.config
        refuse_other_models(c, "MPNet")
        self.vocab_size = c.size("vocab_size")
        self.hidden_size = hidden = c.size("hidden_size")
        self.max_positions = c.size("max_position_embeddings", minimum=_PADDING + 2) - 1 - _PADDING
        layers = c.size("num_hidden_layers", maximum=MAX_LAYERS)
        heads = c.size("num_attention_heads")
        inner = c.size("intermediate_size")
        buckets = c.size("relative_attention_num_buckets", _BUCKETS, minimum=_BUCKETS)
        activation = c.choice("hidden_act", ACTIVATIONS, "gelu")
        self._eps = c.positive("layer_norm_eps", 1e-12)
        tie = c.flag("tie_word_embeddings", True)
        check_head_size(c, hidden, heads)
        self._describe = f"{layers} layers, {hidden} wide, {heads} heads"

        prefix = builder.prefix("mpnet.", *PROBES)
        words, decoder = f"{prefix}embeddings.word_embeddings.weight", "lm_head.decoder"
        self.add_tables(
            builder, f"{prefix}embeddings.", hidden, tied=f"{decoder}.weight" if tie else None, token_types=False
        )
        bias = f"{prefix}encoder.relative_attention_bias"
        table = builder.derive(
            bias, {f"{bias}.weight": (buckets, heads)}, _by_head, shapes={"table": (heads, _BUCKETS)}
        )
        names = [_names(f"{prefix}encoder.layer.{i}.") for i in range(layers)]
        self._stack = PostNormStack(
            [PostNormLayer.build(builder, name, hidden, inner) for name in names],
            hidden=hidden, inner=inner, heads=heads, activation=activation, eps=self._eps,
            relative_bias=(table["table"], True, _MAX_DISTANCE),
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
        return positions_beside_padding(ids, lengths, _PADDING)


def _by_head(weight: Floats) -> dict[str, Floats]:
    """The table as attention takes it: (heads, buckets)."""
    return {"table": np.ascontiguousarray(weight[:_BUCKETS].T)}


def _names(prefix: str) -> PostNormNames:
    return PostNormNames(
        qkv=(f"{prefix}attention.attn.q", f"{prefix}attention.attn.k", f"{prefix}attention.attn.v"),
        attention_out=f"{prefix}attention.attn.o",
        attention_norm=f"{prefix}attention.LayerNorm",
        up=f"{prefix}intermediate.dense",
        down=f"{prefix}output.dense",
        norm=f"{prefix}output.LayerNorm",
    )
