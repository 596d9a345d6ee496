# SPDX-License-Identifier: MIT
"""LFM2: gated short convolutions in most layers, attention with normed heads in the others.

    y = x + mix(norm(x));  x = y + down(silu(gate(n)) up(n)), n = norm(y)
    mix of a convolution = out(c * conv(b * h)), with b, c, h = in(norm(x)): each row and the few before it, by column

Liquid AI, 2025, https://arxiv.org/abs/2511.23404; names of tensors and keys as in transformers' Lfm2Model.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..graph.config import ConfigReader
from ..graph.facts import Facts
from ..graph.graph import Graph, Value
from ..graph.names import Names
from ..graph.rotary import Rotary
from .blocks import MAX_HEAD_SIZE, MAX_LAYERS
from .causal import Sizes, causal_family, causal_heads, embedded, feed_forward, rotary_of
from .ggufkeys import Architecture, Keys, Values

__all__ = ["FAMILY", "GGUF"]

NAMES = Names("model.", "layers.{i}.", {
    "attn_norm": "operator_norm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.out_proj", "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm", "shortconv.in_proj": "conv.in_proj", "shortconv.conv": "conv.conv",
    "shortconv.out_proj": "conv.out_proj", "ffn_norm": "ffn_norm", "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3", "ffn_down": "feed_forward.w2",
}, token_embd="embed_tokens", token_embd_norm="embedding_norm")  # fmt: skip

PROBES = ("embed_tokens.weight", "embedding_norm.weight", "layers.0.operator_norm.weight")

_KINDS = ("full_attention", "conv")
_MOST_TAPS = 64  # of fastattn.h


class _Lfm2(NamedTuple):
    """What config.json says."""

    sizes: Sizes
    attends: tuple[bool, ...]
    """Which layers have attention."""
    taps: int
    bias: bool
    """Whether layers of convolutions have biases."""

    @classmethod
    def read(cls, c: ConfigReader) -> _Lfm2:
        hidden, heads = c.size("hidden_size"), c.size("num_attention_heads")
        size = c.size("head_dim", max(hidden // heads, 1), MAX_HEAD_SIZE)
        if not c.has("head_dim") and hidden % heads:
            raise ValueError(f"{c.path}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
        s = Sizes(
            vocab=c.size("vocab_size"), hidden=hidden, layers=c.size("num_hidden_layers", maximum=MAX_LAYERS),
            heads=heads, kv_heads=c.size("num_key_value_heads", 8), head_size=size, inner=_inner(c), activation="silu",
            eps=c.positive("norm_eps", 1e-5), positions=c.size("max_position_embeddings", 128000),
        )  # fmt: skip
        if heads % s.kv_heads:
            raise ValueError(
                f"{c.path}: num_attention_heads {heads} is not a multiple of num_key_value_heads {s.kv_heads}"
            )
        return cls(s, _attends(c, s.layers), c.size("conv_L_cache", 3, _MOST_TAPS), c.flag("conv_bias", False))


def _inner(c: ConfigReader) -> int:
    """Of the feed-forward layers: two thirds of what is said, made larger and rounded up as it says."""
    said = c.size("block_ff_dim", c.size("intermediate_size", 12288))
    adjusted, multiple = c.flag("block_auto_adjust_ff_dim", True), c.size("block_multiple_of", 256)
    if not adjusted:
        return said
    inner = int(2 * said / 3)
    if not c.null("block_ffn_dim_multiplier"):
        inner = int(c.positive("block_ffn_dim_multiplier", 1.0) * inner)
        inner = -(-inner // multiple) * multiple
    if not 1 <= inner <= 1 << 24:
        raise ValueError(f"{c.path}: block_ff_dim {said} and what adjusts it make feed-forward layers of {inner}")
    return inner


def _attends(c: ConfigReader, layers: int) -> tuple[bool, ...]:
    """By ``layer_types``, else by ``full_attn_idxs``; without both all layers have attention."""
    kinds, named = c.words("layer_types", _KINDS), c.value("full_attn_idxs")
    if kinds is not None:
        if len(kinds) != layers:
            raise ValueError(f"{c.path}: layer_types has {len(kinds)} entries, expected {layers}, num_hidden_layers")
        return tuple(kind == "full_attention" for kind in kinds)
    if named is None:
        return (True,) * layers
    if not isinstance(named, list) or any(type(i) is not int or not 0 <= i < layers for i in named):
        raise ValueError(f"{c.path}: full_attn_idxs is {str(named)[:100]!r}, expected numbers of layers below {layers}")
    return tuple(i in named for i in range(layers))


def _attend(g: Graph, x: Value, s: Sizes, rotary: Rotary) -> Value:
    qkv = g.linear(x, ("attn_q", "attn_k", "attn_v"), (s.q_width, s.kv_width, s.kv_width), bias=False)
    q, k, v = g.split(qkv, s.q_width, s.kv_width, s.kv_width)
    q = g.rope(g.rms_norm(q, "attn_q_norm", s.eps, groups=s.heads), s.heads, rotary)
    k = g.rope(g.rms_norm(k, "attn_k_norm", s.eps, groups=s.kv_heads), s.kv_heads, rotary)
    attended = g.attention(q, k, v, s.heads, s.kv_heads, causal=True, cached=True)
    return g.linear(attended, "attn_output", s.hidden, bias=False)


def _convolve(g: Graph, x: Value, m: _Lfm2) -> Value:
    hidden = m.sizes.hidden
    b, c, h = g.split(g.linear(x, "shortconv.in_proj", 3 * hidden, bias=m.bias), hidden, hidden, hidden)
    mixed = g.short_conv(g.times(b, h), "shortconv.conv", m.taps, bias=m.bias)
    return g.linear(g.times(mixed, c), "shortconv.out_proj", hidden, bias=m.bias)


def build(g: Graph) -> Facts:
    m = _Lfm2.read(g.config)
    s, c = m.sizes, g.config
    rotary = rotary_of(c, s, base=1000000.0)
    g.names = NAMES.replace(g.source.prefix("model.", *PROBES))
    tied = c.flag("tie_embedding", True) if c.has("tie_embedding") else c.flag("tie_word_embeddings", True)
    x = embedded(g, s, tied)
    for i, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.rms_norm(x, "attn_norm", s.eps)
        x = x + (_attend(layer, y, s, rotary) if m.attends[i] else _convolve(layer, y, m))
        x = x + feed_forward(layer, layer.rms_norm(x, "ffn_norm", s.eps), s)
    x = g.rms_norm(x, "token_embd_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


FAMILY = causal_family("Lfm2Model", build, "Lfm2")


def _of_gguf(keys: Keys, common: Values) -> Values:
    layers, shared = common["num_hidden_layers"], keys.get("attention.head_count_kv")
    counts = shared.tolist() if isinstance(shared, np.ndarray) else [shared] * layers
    if len(counts) != layers:
        raise keys.error("attention.head_count_kv", shared, f"one for each of {layers} layers")
    return {
        "layer_types": ["conv" if count == 0 else "full_attention" for count in counts],
        "conv_L_cache": keys.size("shortconv.l_cache"), "block_auto_adjust_ff_dim": False,
        "conv_bias": any(f"blk.{i}.shortconv.conv.bias" in keys.file for i in range(layers)),
    }  # fmt: skip


GGUF = {
    "lfm2": Architecture(
        "lfm2", "Lfm2", names=NAMES, more=_of_gguf, spelling={"rms_norm_eps": "norm_eps"}, flags={}, mixed=True
    ),
}
