# SPDX-License-Identifier: MIT
"""NomicBERT: BERT with rotary positions, without biases, and with a gated feed-forward layer (SwiGLU).

Nussbaum et al., 2024, https://arxiv.org/abs/2402.01613. Two spellings of one architecture: that of the published
checkpoints (``n_embd``; query, key and value in one tensor) and that of transformers (``hidden_size``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..graph.config import ConfigReader
from ..graph.family import NO_LIMIT, Facts, Family
from ..graph.graph import Graph, Value
from ..graph.heads import Dense, HeadSpec, NormStep
from ..graph.names import Names
from ..graph.rotary import Rotary, build_rotary, read_scaling
from .blocks import (
    EMBEDDINGS,
    MAX_LAYERS,
    Sizes,
    add_heads,
    architectures,
    check_head_size,
    embeddings,
    gated_post_norm,
    label_heads,
    pool_by,
)  # fmt: skip

__all__ = ["FAMILY"]

# activation_function of the published files -> (ops.linear's name, whether the layer is gated)
_PUBLISHED_ACTIVATIONS = {
    "swiglu": ("silu", True), "geglu": ("gelu", True), "glu": ("sigmoid", True), "gelu": ("gelu", False),
    "gelu_new": ("gelu_tanh", False), "gelu_fast": ("gelu_tanh", False), "gelu_pytorch_tanh": ("gelu_tanh", False),
    "relu": ("relu", False),
}  # fmt: skip


class _Variant(NamedTuple):
    """What config.json says, in either spelling."""

    sizes: Sizes
    gated: bool = True
    attention_bias: bool = False
    up_bias: bool = False
    down_bias: bool = False


def _published(c: ConfigReader) -> _Variant:
    for key in ("prenorm", "parallel_block", "causal", "use_rms_norm", "rotary_emb_scale_base", "moe_every_n_layers",
                "num_experts", "quantization_config"):  # fmt: skip
        c.refuse(key, "this variant of NomicBERT is not supported")
    activation, gated = c.choice("activation_function", _PUBLISHED_ACTIVATIONS)
    hidden = c.size("n_embd")
    s = Sizes(
        vocab=c.size("vocab_size"), hidden=hidden, heads=c.size("n_head"), layers=c.size("n_layer", maximum=MAX_LAYERS),
        inner=c.size("n_inner", 4 * hidden), positions=c.size("n_positions", 2048),
        types=c.size("type_vocab_size", 2, minimum=0), activation=activation, eps=c.positive("layer_norm_epsilon", 1e-12),
    )  # fmt: skip
    check_head_size(c, s.hidden, s.heads)
    return _Variant(
        s, gated, c.flag("qkv_proj_bias", True), c.flag("mlp_fc1_bias", True), c.flag("mlp_fc2_bias", True)
    )  # fmt: skip


def _plain(c: ConfigReader) -> _Variant:
    c.refuse("quantization_config", "quantised checkpoints are not supported")
    s = Sizes.read(c, activation="silu", positions=2048)
    if c.size("head_dim", max(s.hidden // s.heads, 1)) * s.heads != s.hidden:
        raise ValueError(f"{c.path}: head_dim times num_attention_heads is not hidden_size, {s.hidden}")
    return _Variant(s)


_PUBLISHED = Names("", "encoder.layers.{i}.", {
    "attn_qkv": "attn.Wqkv", "attn_output": "attn.out_proj", "attn_output_norm": "norm1", "ffn_up": "mlp.fc11",
    "ffn_gate": "mlp.fc12", "ffn_single": "mlp.fc1", "ffn_down": "mlp.fc2", "layer_output_norm": "norm2",
}, **{**EMBEDDINGS, "token_embd_norm": "emb_ln"})  # fmt: skip
_NAMES = Names("", "layers.{i}.", {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_output_norm": "post_attention_layernorm", "ffn_up": "mlp.up_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_down": "mlp.down_proj", "layer_output_norm": "post_mlp_layernorm",
}, **EMBEDDINGS)  # fmt: skip


def build(g: Graph) -> Facts:
    c = g.config
    v = _published(c) if c.has("n_embd") else _plain(c)
    s, tie = v.sizes, c.flag("tie_word_embeddings", True)
    rotary = _rotary(c, s)
    words, decoder = "embeddings.word_embeddings.weight", "cls.predictions.decoder"
    prefix = g.source.prefix("nomic_bert.", words) or g.source.prefix("bert.", words)
    words = prefix + words
    published = g.source.has(f"{prefix}encoder.layers.0.attn.Wqkv.weight")
    g.names = (_PUBLISHED if published else _NAMES).replace(prefix)
    qkv = ("attn_qkv", 3 * s.hidden) if published else (("attn_q", "attn_k", "attn_v"), s.hidden)
    x = embeddings(g, s, s.hidden, tied=f"{decoder}.weight" if tie else None, types=s.types, positions=0)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        qk, values = layer.split(layer.linear(x, *qkv, bias=v.attention_bias), 2 * s.hidden, s.hidden)
        q, k = layer.split(layer.rope(qk, 2 * s.heads, rotary), s.hidden, s.hidden)
        attended = layer.attention(q, k, values, s.heads)
        biases = (v.attention_bias, v.up_bias, v.down_bias)
        if v.gated:
            x = gated_post_norm(layer, x, attended, s, ("ffn_up", "ffn_gate"), biases=biases)
        else:
            x = _plain_post_norm(layer, x, attended, s, biases)
    g.hidden_state(x)
    g.output("hidden", x)

    pooler = Dense(f"{prefix}pooler.dense", s.hidden, s.hidden, "tanh")
    pool_by(g, x, pooler)
    transform, has = "cls.predictions.transform", g.source.has
    biases = ("cls.predictions.bias", f"{decoder}.bias")
    if not tie:  # a decoder of its own has a bias of its own
        biases = biases[::-1]
    add_heads(
        g, x,
        masked_lm=lambda: HeadSpec("masked_lm", "all", (
            Dense(f"{transform}.dense", s.hidden, s.hidden, s.activation, bias=has(f"{transform}.dense.bias")),
            NormStep(f"{transform}.layer_norm", s.hidden, s.eps),
            Dense(decoder, s.vocab, s.hidden, large=True, bias=biases if any(map(has, biases)) else False,
                  tied=words if tie else None),
        )),
        **label_heads(s.hidden, pooler),
    )  # fmt: skip
    return s.facts(max_positions=NO_LIMIT, trained_positions=s.positions, type_vocab_size=s.types or 1)


def _plain_post_norm(g: Graph, x: Value, attended: Value, s: Sizes, biases: tuple[bool, bool, bool]) -> Value:
    y = g.layer_norm(
        g.linear(attended, "attn_output", s.hidden, bias=biases[0]), "attn_output_norm", s.eps, residual=x
    )  # fmt: skip
    inner = g.linear(y, "ffn_single", s.inner, bias=biases[1], activation=s.activation)
    return g.layer_norm(g.linear(inner, "ffn_down", s.hidden, bias=biases[2]), "layer_output_norm", s.eps, residual=y)


def _rotary(c: ConfigReader, s: Sizes) -> Rotary:
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
        c, int(width * fraction), base=c.positive("rotary_emb_base", 10000.0), scaling=stretch, positions=s.positions,
        interleaved=c.flag("rotary_emb_interleaved", False),
    )  # fmt: skip


FAMILY = Family(
    name="NomicBertModel",
    build=build,
    architectures=architectures("NomicBert", NomicBertForPreTraining=None),
    # Index and frequency buffers, and the heads of other classes.
    ignorable=re.compile(
        r"((nomic_bert|bert)\.)?(embeddings\.(position_ids|token_type_ids)|pooler\..*)"
        r"|.*rotary_emb\..*|(cls|classifier|qa_outputs)\..*"
    ),
)
