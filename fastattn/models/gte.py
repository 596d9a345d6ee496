# SPDX-License-Identifier: MIT
"""GTE: BERT with rotary positions and a gated feed-forward layer (GeGLU).

Zhang et al., "mGTE", 2024, https://arxiv.org/abs/2407.19669. Two spellings of one architecture: ``model_type`` "new",
as Alibaba-NLP publishes its checkpoints (query, key and value in one tensor, "ntk" rope scaling), and "gte", as
transformers has it.
"""

from __future__ import annotations

import re

from .builder import Builder
from .heads import Dense, HeadSpec, NormStep
from .inputs import NO_LIMIT
from .kin import Kin, architectures, label_heads
from .postnorm import ACTIVATIONS, MAX_LAYERS, PostNormLayer, PostNormStack, check_head_size
from .rotary import build_rotary, read_scaling

__all__ = ["GteModel"]


class GteModel(Kin):
    """A GTE encoder; see ``Encoder`` for how to call it."""

    position_table = False

    architectures = architectures("New", "Gte")

    # Index and frequency buffers, and the heads of other classes.
    ignorable = re.compile(
        r"((new|gte)\.)?(embeddings\.(position_ids|token_type_ids|rotary_emb\..*)|rotary_emb\..*|pooler\..*)"
        r"|(lm_head|classifier|qa_outputs)\..*"
    )

    def __init__(self, builder: Builder) -> None:
        super().__init__(builder)
        c = builder.config
        c.choice("position_embedding_type", {"rope": None}, "rope")
        c.choice("layer_norm_type", {"layer_norm": None}, "layer_norm")
        for key in ("logn_attention_scale", "logn_attention_clip1"):
            c.refuse(key, "attention scaled by the logarithm of the length is not supported")
        c.refuse("quantization_config", "quantised checkpoints are not supported")
        self.vocab_size = c.size("vocab_size")
        self.hidden_size = hidden = c.size("hidden_size")
        self.max_positions, self.trained_positions = NO_LIMIT, c.size("max_position_embeddings", 8192)
        types = c.size("type_vocab_size", 1, minimum=0)
        self.type_vocab_size = types or 1
        layers = c.size("num_hidden_layers", maximum=MAX_LAYERS)
        heads = c.size("num_attention_heads")
        inner = c.size("intermediate_size")
        activation = c.choice("hidden_act", ACTIVATIONS, "gelu")
        self._eps = c.positive("layer_norm_eps", 1e-12)
        tie = c.flag("tie_word_embeddings", True)
        check_head_size(c, hidden, heads)
        published = c.model_type() == "new"
        base, scaling = read_scaling(c, 10000.0 if published else 160000.0)
        rotary = build_rotary(c, hidden // heads, base=base, scaling=scaling, positions=self.trained_positions)
        self._describe = f"{layers} layers, {hidden} wide, {heads} heads"

        words = "embeddings.word_embeddings.weight"
        prefix = builder.prefix("gte.", words) or builder.prefix("new.", words)
        words = prefix + words
        tables = [builder.table(words, (self.vocab_size, hidden), tied="lm_head.decoder.weight" if tie else None)]
        if types:
            tables.append(builder.table(f"{prefix}embeddings.token_type_embeddings.weight", (types, hidden)))
        self._tables = tuple(tables)
        self._embedding_size, self._projection = hidden, None
        self._norm = builder.norm(f"{prefix}embeddings.LayerNorm", hidden)
        # Published layers have names of their own: what tells them apart is their first norm.
        build = _published_layer if builder.has(f"{prefix}encoder.layer.0.attn_ln.weight") or published else _layer
        self._stack = PostNormStack(
            [build(builder, prefix, i, hidden, inner) for i in range(layers)],
            hidden=hidden, inner=inner, heads=heads, activation=activation, eps=self._eps, gated=True,
            rotary=rotary,
        )  # fmt: skip

        pooler = Dense(f"{prefix}pooler.dense", hidden, hidden, "tanh")
        self.pool_by(builder, pooler)
        norm = "lm_head.norm" if builder.has("lm_head.norm.weight") else "lm_head.layer_norm"
        self.add_heads(
            builder,
            masked_lm=lambda: HeadSpec("masked_lm", "all", (
                Dense("lm_head.dense", hidden, hidden, activation if published else "gelu"),
                NormStep(norm, hidden, self._eps),
                Dense("lm_head.decoder", self.vocab_size, hidden, large=True, tied=words if tie else None),
            )),
            **label_heads(hidden, pooler),
        )  # fmt: skip


def _published_layer(builder: Builder, prefix: str, number: int, hidden: int, inner: int) -> PostNormLayer:
    name = f"{prefix}encoder.layer.{number}."
    if builder.config.flag("pack_qkv", True):
        qkv = builder.linear(f"{name}attention.qkv_proj", 3 * hidden, hidden)
    else:
        qkv = builder.linear([f"{name}attention.{part}_proj" for part in "qkv"], hidden, hidden)
    return PostNormLayer(
        qkv=qkv,
        attention_out=builder.linear(f"{name}attention.o_proj", hidden, hidden),
        attention_norm=builder.norm(f"{name}attn_ln", hidden),
        up=builder.linear(f"{name}mlp.up_gate_proj", 2 * inner, hidden, bias=False),
        down=builder.linear(f"{name}mlp.down_proj", hidden, inner),
        norm=builder.norm(f"{name}mlp_ln", hidden),
    )


def _layer(builder: Builder, prefix: str, number: int, hidden: int, inner: int) -> PostNormLayer:
    name = f"{prefix}layers.{number}."
    return PostNormLayer(
        qkv=builder.linear([f"{name}self_attn.{part}_proj" for part in "qkv"], hidden, hidden),
        attention_out=builder.linear(f"{name}self_attn.o_proj", hidden, hidden),
        attention_norm=builder.norm(f"{name}post_attention_layernorm", hidden),
        up=builder.linear([f"{name}mlp.up_proj", f"{name}mlp.gate_proj"], inner, hidden, bias=False),
        down=builder.linear(f"{name}mlp.down_proj", hidden, inner),
        norm=builder.norm(f"{name}post_mlp_layernorm", hidden),
    )
