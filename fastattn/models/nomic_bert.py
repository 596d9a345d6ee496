# SPDX-License-Identifier: MIT
"""NomicBERT: BERT with rotary positions, without biases, and with a gated feed-forward layer (SwiGLU).

Nussbaum et al., 2024, https://arxiv.org/abs/2402.01613. Two spellings of one architecture: that of the published
checkpoints (``n_embd``; query, key and value in one tensor) and that of transformers (``hidden_size``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .builder import Builder
from .config import ConfigReader
from .heads import Dense, HeadSpec, NormStep
from .inputs import NO_LIMIT
from .kin import Kin, architectures, label_heads
from .postnorm import ACTIVATIONS, MAX_LAYERS, PostNormLayer, PostNormStack, check_head_size
from .rotary import Rotary, build_rotary, read_scaling

__all__ = ["NomicBertModel"]

# activation_function of the published files -> (ops.linear's name, whether the layer is gated)
_PUBLISHED_ACTIVATIONS = {
    "swiglu": ("silu", True), "geglu": ("gelu", True), "glu": ("sigmoid", True), "gelu": ("gelu", False),
    "gelu_new": ("gelu_tanh", False), "gelu_fast": ("gelu_tanh", False), "gelu_pytorch_tanh": ("gelu_tanh", False),
    "relu": ("relu", False),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What config.json says, in either spelling."""

    hidden: int
    heads: int
    layers: int
    inner: int
    positions: int
    types: int
    activation: str
    gated: bool
    eps: float
    attention_bias: bool
    up_bias: bool
    down_bias: bool

    @classmethod
    def published(cls, c: ConfigReader) -> _Sizes:
        for key in ("prenorm", "parallel_block", "causal", "use_rms_norm", "rotary_emb_scale_base",
                    "moe_every_n_layers", "num_experts", "quantization_config"):  # fmt: skip
            c.refuse(key, "this variant of NomicBERT is not supported")
        activation, gated = c.choice("activation_function", _PUBLISHED_ACTIVATIONS)
        hidden = c.size("n_embd")
        return cls(
            hidden=hidden,
            heads=c.size("n_head"),
            layers=c.size("n_layer", maximum=MAX_LAYERS),
            inner=c.size("n_inner", 4 * hidden),
            positions=c.size("n_positions", 2048),
            types=c.size("type_vocab_size", 2, minimum=0),
            activation=activation,
            gated=gated,
            eps=c.positive("layer_norm_epsilon", 1e-12),
            attention_bias=c.flag("qkv_proj_bias", True),
            up_bias=c.flag("mlp_fc1_bias", True),
            down_bias=c.flag("mlp_fc2_bias", True),
        )

    @classmethod
    def plain(cls, c: ConfigReader) -> _Sizes:
        c.refuse("quantization_config", "quantised checkpoints are not supported")
        hidden, heads = c.size("hidden_size"), c.size("num_attention_heads")
        if c.size("head_dim", max(hidden // heads, 1)) * heads != hidden:
            raise ValueError(f"{c.path}: head_dim times num_attention_heads is not hidden_size, {hidden}")
        return cls(
            hidden=hidden,
            heads=heads,
            layers=c.size("num_hidden_layers", maximum=MAX_LAYERS),
            inner=c.size("intermediate_size"),
            positions=c.size("max_position_embeddings", 2048),
            types=c.size("type_vocab_size", 2),
            activation=c.choice("hidden_act", ACTIVATIONS, "silu"),
            gated=True,
            eps=c.positive("layer_norm_eps", 1e-12),
            attention_bias=False,
            up_bias=False,
            down_bias=False,
        )


class NomicBertModel(Kin):
    """A NomicBERT encoder; see ``Encoder`` for how to call it."""

    position_table = False

    architectures = architectures("NomicBert", NomicBertForPreTraining=None)

    # Index and frequency buffers, and the heads of other classes.
    ignorable = re.compile(
        r"((nomic_bert|bert)\.)?(embeddings\.(position_ids|token_type_ids)|pooler\..*)"
        r"|.*rotary_emb\..*|(cls|classifier|qa_outputs)\..*"
    )

    def __init__(self, builder: Builder) -> None:
        super().__init__(builder)
        c = builder.config
        s = _Sizes.published(c) if c.has("n_embd") else _Sizes.plain(c)
        self.vocab_size = c.size("vocab_size")
        self.hidden_size = hidden = s.hidden
        self.max_positions, self.trained_positions = NO_LIMIT, s.positions
        self.type_vocab_size = s.types or 1
        self._eps = s.eps
        tie = c.flag("tie_word_embeddings", True)
        check_head_size(c, hidden, s.heads)
        rotary = _rotary(c, s)
        self._describe = f"{s.layers} layers, {hidden} wide, {s.heads} heads"

        words, decoder = "embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
        prefix = builder.prefix("nomic_bert.", words) or builder.prefix("bert.", words)
        words = prefix + words
        tables = [builder.table(words, (self.vocab_size, hidden), tied=decoder if tie else None)]
        if s.types:
            tables.append(builder.table(f"{prefix}embeddings.token_type_embeddings.weight", (s.types, hidden)))
        self._tables = tuple(tables)
        self._embedding_size, self._projection = hidden, None
        published = builder.has(f"{prefix}encoder.layers.0.attn.Wqkv.weight")
        self._norm = builder.norm(f"{prefix}emb_ln" if published else f"{prefix}embeddings.LayerNorm", hidden)
        build = _published_layer if published else _layer
        self._stack = PostNormStack(
            [build(builder, prefix, i, s) for i in range(s.layers)],
            hidden=hidden, inner=s.inner, heads=s.heads, activation=s.activation, eps=s.eps, gated=s.gated,
            rotary=rotary,
        )  # fmt: skip

        pooler = Dense(f"{prefix}pooler.dense", hidden, hidden, "tanh")
        self.pool_by(builder, pooler)
        transform = "cls.predictions.transform"
        biases = ("cls.predictions.bias", "cls.predictions.decoder.bias")
        if not tie:  # a decoder of its own has a bias of its own
            biases = biases[::-1]
        self.add_heads(
            builder,
            masked_lm=lambda: HeadSpec("masked_lm", "all", (
                Dense(f"{transform}.dense", hidden, hidden, s.activation, bias=builder.has(f"{transform}.dense.bias")),
                NormStep(f"{transform}.layer_norm", hidden, s.eps),
                Dense(decoder.removesuffix(".weight"), self.vocab_size, hidden, large=True,
                      bias=biases if any(builder.has(name) for name in biases) else False,
                      tied=words if tie else None),
            )),
            **label_heads(hidden, pooler),
        )  # fmt: skip


def _rotary(c: ConfigReader, s: _Sizes) -> Rotary:
    width = s.hidden // s.heads
    if not c.has("n_embd"):
        base, scaling = read_scaling(c, 1000.0)
        return build_rotary(c, width, base=base, scaling=scaling, positions=s.positions)
    # Beyond the length it was trained with, a published model with rotary_scaling_factor stretches its frequencies.
    stretch: Mapping[str, Any] | None = None
    trained = c.size("max_trained_positions", 2048)
    if c.has("rotary_scaling_factor"):
        factor = c.positive("rotary_scaling_factor")
        stretch = {"rope_type": "dynamic", "factor": factor, "original_max_position_embeddings": trained}
    fraction = c.positive("rotary_emb_fraction", 1.0)
    if fraction > 1:
        raise ValueError(f"{c.path}: rotary_emb_fraction is {fraction}, expected at most 1")
    return build_rotary(
        c,
        int(width * fraction),
        base=c.positive("rotary_emb_base", 10000.0),
        scaling=stretch,
        positions=s.positions,
        interleaved=c.flag("rotary_emb_interleaved", False),
    )


def _published_layer(builder: Builder, prefix: str, number: int, s: _Sizes) -> PostNormLayer:
    name = f"{prefix}encoder.layers.{number}."
    up = (f"{name}mlp.fc11", f"{name}mlp.fc12") if s.gated else f"{name}mlp.fc1"
    return PostNormLayer(
        qkv=builder.linear(f"{name}attn.Wqkv", 3 * s.hidden, s.hidden, bias=s.attention_bias),
        attention_out=builder.linear(f"{name}attn.out_proj", s.hidden, s.hidden, bias=s.attention_bias),
        attention_norm=builder.norm(f"{name}norm1", s.hidden),
        up=builder.linear(up, s.inner, s.hidden, bias=s.up_bias),
        down=builder.linear(f"{name}mlp.fc2", s.hidden, s.inner, bias=s.down_bias),
        norm=builder.norm(f"{name}norm2", s.hidden),
    )


def _layer(builder: Builder, prefix: str, number: int, s: _Sizes) -> PostNormLayer:
    name = f"{prefix}layers.{number}."
    return PostNormLayer(
        qkv=builder.linear([f"{name}self_attn.{part}_proj" for part in "qkv"], s.hidden, s.hidden, bias=False),
        attention_out=builder.linear(f"{name}self_attn.o_proj", s.hidden, s.hidden, bias=False),
        attention_norm=builder.norm(f"{name}post_attention_layernorm", s.hidden),
        up=builder.linear([f"{name}mlp.up_proj", f"{name}mlp.gate_proj"], s.inner, s.hidden, bias=False),
        down=builder.linear(f"{name}mlp.down_proj", s.hidden, s.inner, bias=False),
        norm=builder.norm(f"{name}post_mlp_layernorm", s.hidden),
    )
