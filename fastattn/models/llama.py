# SPDX-License-Identifier: MIT
"""Llama, Mistral, Qwen2, SmolLM3, Seed-OSS, ERNIE 4.5 and Helium: norms in front of each part, rotary positions, shared
keys, gated feed-forward.

    y = x + attention(norm(x));  x = y + down(act(gate(n)) up(n)), n = norm(y)

Touvron et al., 2023, https://arxiv.org/abs/2302.13971; Jiang et al., 2023, https://arxiv.org/abs/2310.06825; Yang et
al., 2024, https://arxiv.org/abs/2407.10671; names of tensors and keys as in transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..graph.config import ConfigReader
from ..graph.family import Facts
from ..graph.graph import Graph
from .causal import (
    NAMES,
    PROBES,
    Sizes,
    attend,
    causal_family,
    causal_heads,
    embedded,
    feed_forward,
    layer_kinds,
    rotary_of,
    sliding_layers,
    window_of,
)  # fmt: skip
from .ggufkeys import BIASES, Architecture
from .mixtral import mixtral_of_gguf

__all__ = ["FAMILY", "GGUF"]


class _Variant(NamedTuple):
    """What tells them apart."""

    sizes: Sizes
    windows: list[int | None]
    turned: list[bool]
    """Which layers have positions."""
    theta: float = 10000.0
    attention_bias: bool = False
    output_bias: bool = False
    inner_bias: bool = False
    tied: bool = False
    neighbours: bool = False
    """Whether pairs of rotary dims are neighbours."""


def _llama(c: ConfigReader) -> _Variant:
    s = Sizes.read(c)
    bias = c.flag("attention_bias", False)
    return _Variant(
        s, [None] * s.layers, [True] * s.layers, attention_bias=bias, output_bias=bias,
        inner_bias=c.flag("mlp_bias", False),
    )  # fmt: skip


def _mistral(c: ConfigReader) -> _Variant:
    s = Sizes.read(c, kv_heads=8)
    return _Variant(s, [window_of(c, 4096)] * s.layers, [True] * s.layers)


def _qwen2(c: ConfigReader) -> _Variant:
    s = Sizes.read(c, kv_heads=32)
    return _Variant(s, sliding_layers(c, s), [True] * s.layers, attention_bias=True)


def _smollm3(c: ConfigReader) -> _Variant:
    s = Sizes.read(c, kv_heads=4)
    every = c.size("no_rope_layer_interval", 4)
    turned = [(i + 1) % every != 0 for i in range(s.layers)]
    named = c.value("no_rope_layers")
    if named is not None:
        if not isinstance(named, list) or len(named) != s.layers or any(flag not in (0, 1) for flag in named):
            raise ValueError(f"{c.path}: no_rope_layers is {str(named)[:100]!r}, expected a list of {s.layers} 0 and 1")
        turned = [bool(flag) for flag in named]
    size, kinds = window_of(c), layer_kinds(c, s)
    if kinds is not None:
        if size is None and "sliding_attention" in kinds:
            raise ValueError(f"{c.path}: layer_types has sliding_attention, but sliding_window says no size")
        slides = [kind == "sliding_attention" for kind in kinds]
    else:
        slides = [c.flag("use_sliding_window", False) and not flag for flag in turned]
    windows = [size if flag else None for flag in slides]
    bias = c.flag("attention_bias", False)
    return _Variant(
        s, windows, turned, theta=2000000.0, attention_bias=bias, output_bias=bias,
        inner_bias=c.flag("mlp_bias", False), tied=True,
    )  # fmt: skip


def _seed_oss(c: ConfigReader) -> _Variant:
    s = Sizes.read(c, kv_heads=8, head_size=128)
    return _Variant(
        s, [None] * s.layers, [True] * s.layers, attention_bias=c.flag("attention_bias", True),
        output_bias=c.flag("attention_out_bias", False), inner_bias=c.flag("mlp_bias", False),
    )  # fmt: skip


def _ernie4_5(c: ConfigReader) -> _Variant:
    s, bias = Sizes.read(c, eps=1e-5, kv_heads=2, head_size=128), c.flag("use_bias", False)
    return _Variant(
        s, [None] * s.layers, [True] * s.layers, theta=500000.0, attention_bias=bias, output_bias=bias,
        inner_bias=bias, tied=True, neighbours=True,
    )  # fmt: skip


def _helium(c: ConfigReader) -> _Variant:
    s = Sizes.read(c, eps=1e-8, kv_heads=20, head_size=128)
    return _Variant(
        s, [None] * s.layers, [True] * s.layers, theta=100000.0, attention_bias=c.flag("attention_bias", False),
        inner_bias=c.flag("mlp_bias", False), neighbours=True,
    )  # fmt: skip


_VARIANTS: dict[str, Callable[[ConfigReader], _Variant]] = {
    "llama": _llama, "mistral": _mistral, "qwen2": _qwen2, "smollm3": _smollm3,
    "seed_oss": _seed_oss, "ernie4_5": _ernie4_5, "helium": _helium,
}  # fmt: skip


def build(g: Graph) -> Facts:
    v = _VARIANTS[g.config.model_type()](g.config)
    s = v.sizes
    rotary = rotary_of(g.config, s, base=v.theta, interleaved=v.neighbours)
    g.names = NAMES.replace(g.source.prefix("model.", *PROBES))
    tied = g.config.flag("tie_word_embeddings", v.tied)
    x = embedded(g, s, tied)
    for i, layer in g.layers(s.layers):
        g.hidden_state(x)
        x = x + attend(
            layer, layer.rms_norm(x, "attn_norm", s.eps), s, rotary if v.turned[i] else None, v.windows[i],
            bias=v.attention_bias, output_bias=v.output_bias,
        )  # fmt: skip
        x = x + feed_forward(layer, layer.rms_norm(x, "ffn_norm", s.eps), s, bias=v.inner_bias)
    x = g.rms_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


FAMILY = causal_family("LlamaModel", build, "Llama", "Mistral", "Qwen2", "SmolLM3", "SeedOss", "Ernie4_5", "Helium")

_LINEAR = {**BIASES, "mlp_bias": ("ffn_gate.bias",)}

GGUF = {
    "llama": Architecture("llama", "Llama", paired=True, flags=_LINEAR, more=mixtral_of_gguf),
    "qwen2": Architecture("qwen2", "Qwen2", flags={}),
    "seed_oss": Architecture(
        "seed_oss",
        "SeedOss",
        roles={"post_attention_norm": "ffn_norm"},
        flags={**_LINEAR, "attention_out_bias": ("attn_output.bias",)},
    ),
    "ernie4_5": Architecture("ernie4_5", "Ernie4_5", flags={"use_bias": ("attn_q.bias", "attn_qkv.bias")}),
    "smollm3": Architecture("smollm3", "SmolLM3", paired=True, flags=_LINEAR),
}
