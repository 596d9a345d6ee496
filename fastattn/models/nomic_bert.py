# SPDX-License-Identifier: MIT
"""NomicBERT: BERT with rotary positions, without biases, and with a gated feed-forward layer (SwiGLU).

Nussbaum et al., 2024, https://arxiv.org/abs/2402.01613. Two spellings of one architecture: that of the published
checkpoints (``n_embd``; query, key and value in one tensor) and that of transformers (``hidden_size``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..graph.config import ConfigReader
from ..graph.family import NO_LIMIT, Facts, Family
from ..graph.graph import Graph, Value
from ..graph.names import Names
from ..graph.rotary import Rotary, build_rotary, read_scaling
from . import blocks
from .blocks import EMBEDDINGS, ROTARY_NAMES, Sizes, attend_turned, embeddings, gated_post_norm, post_norm, stack
from .tops import Decoder, add_heads, architectures, ignorable, label_heads, normed, pooled

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
    biases: Sequence[bool] = (False, False, False)
    """Of attention, of the layers up and down."""


def _published(c: ConfigReader) -> _Variant:
    for key in ("prenorm", "parallel_block", "causal", "use_rms_norm", "rotary_emb_scale_base", "moe_every_n_layers",
                "num_experts"):  # fmt: skip
        c.refuse(key, "this variant of NomicBERT is not supported")
    activation, gated = c.choice("activation_function", _PUBLISHED_ACTIVATIONS)
    hidden = c.size("n_embd")
    s = Sizes(
        vocab=c.size("vocab_size"), hidden=hidden, layers=c.size("n_layer", maximum=blocks.MAX_LAYERS),
        heads=c.size("n_head"), inner=c.size("n_inner", 4 * hidden), positions=c.size("n_positions", 2048),
        types=c.size("type_vocab_size", 2, minimum=0), eps=c.positive("layer_norm_epsilon", 1e-12),
        activation=activation,
    )  # fmt: skip
    blocks.check_head_size(c, s.hidden, s.heads)
    return _Variant(s, gated, [c.flag(f"{name}_bias", True) for name in ("qkv_proj", "mlp_fc1", "mlp_fc2")])


def _plain(c: ConfigReader) -> _Variant:
    s = Sizes.read(c, activation="silu", positions=2048)
    if c.size("head_dim", max(s.hidden // s.heads, 1)) * s.heads != s.hidden:
        raise ValueError(f"{c.path}: head_dim times num_attention_heads is not hidden_size, {s.hidden}")
    return _Variant(s)


_PUBLISHED = Names("", "encoder.layers.{i}.", {
    "attn_qkv": "attn.Wqkv", "attn_output": "attn.out_proj", "attn_output_norm": "norm1", "ffn_up": "mlp.fc11",
    "ffn_gate": "mlp.fc12", "ffn_single": "mlp.fc1", "ffn_down": "mlp.fc2", "layer_output_norm": "norm2",
}, **{**EMBEDDINGS, "token_embd_norm": "emb_ln"})  # fmt: skip


def build(g: Graph) -> Facts:
    c = g.config
    s, gated, biases = _published(c) if c.has("n_embd") else _plain(c)
    rotary = _rotary(c, s)
    probes, has = ("embeddings.word_embeddings.weight", "emb_ln.weight", "embeddings.LayerNorm.weight"), g.source.has
    prefix = g.source.prefix("nomic_bert.", *probes) or g.source.prefix("bert.", *probes)
    first = f"{prefix}encoder.layers.0."  # two of its tensors: one alone may be the one that is missing
    published = not gated or has(f"{first}attn.Wqkv.weight") or has(f"{first}norm1.weight")
    g.names = (_PUBLISHED if published else ROTARY_NAMES).replace(prefix)
    qkv = "attn_qkv" if published else ("attn_q", "attn_k", "attn_v")
    decoder = Decoder.read(g, "cls.predictions.decoder", "cls.predictions.bias")

    def layer(i: int, g: Graph, x: Value) -> Value:
        attended = attend_turned(g, x, s, qkv, rotary, bias=biases[0])
        if gated:
            return gated_post_norm(g, x, attended, s, ("ffn_up", "ffn_gate"), biases=biases)
        return post_norm(g, x, attended, s, "ffn_single", biases=biases)

    x = stack(g, embeddings(g, s, s.hidden, tied=decoder.stored, positions=False), s.layers, layer)

    pooler = pooled(g, x, s)
    dense, norm = (f"cls.predictions.transform.{part}" for part in ("dense", "layer_norm"))
    if not any(map(has, decoder.biases)):
        decoder = decoder._replace(biases=())
    before = normed(s, dense, norm, bias=has(f"{dense}.bias"))
    add_heads(g, x, masked_lm=decoder.behind(s, before), **label_heads(s.hidden, pooler))
    return s.facts(max_positions=NO_LIMIT, trained_positions=s.positions)


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
    ignorable=ignorable(r"(nomic_bert|bert)\.", "cls", r"((nomic_bert|bert)\.)?pooler\..*", r".*rotary_emb\..*"),
)
