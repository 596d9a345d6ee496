# SPDX-License-Identifier: MIT
"""Llama 4, its language model: attention in chunks but for every fourth layer, which has no positions and sharper
scores far into a text; experts whose inputs are weighted, beside one that all tokens take.

    y = shared(x) + sum over the chosen e of down_e(act(gate_e(w_e x)) up_e(w_e x)),  w_e = sigmoid(router(x)_e)

Meta, 2025, https://ai.meta.com/blog/llama-4-multimodal-intelligence/; names of tensors and keys as in transformers'
Llama4TextModel.
"""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import NamedTuple

import numpy as np

from ..graph.banks import Form
from ..graph.config import ConfigReader
from ..graph.facts import Integers
from ..graph.family import Facts
from ..graph.graph import Graph, Value
from ..graph.rotary import Rotary, build_rotary, read_scaling
from ..graph.source import Floats, Layout
from .causal import NAMES, PROBES, Sizes, causal_family, causal_heads, embedded
from .experts import Experts, expert_banks
from .ggufkeys import BIASES, Architecture, Keys, Values

__all__ = ["FAMILY", "GGUF"]

_NAMES = NAMES.in_layers(
    ffn_gate="feed_forward.gate_proj", ffn_up="feed_forward.up_proj", ffn_down="feed_forward.down_proj",
    ffn_gate_inp="feed_forward.router", ffn_gate_exps="feed_forward.experts.gate_proj",
    ffn_up_exps="feed_forward.experts.up_proj", ffn_down_exps="feed_forward.experts.down_proj",
    ffn_gate_shexp="feed_forward.shared_expert.gate_proj", ffn_up_shexp="feed_forward.shared_expert.up_proj",
    ffn_down_shexp="feed_forward.shared_expert.down_proj",
)  # fmt: skip

_KINDS = ("full_attention", "chunked_attention")
_MOST_STEPS = 1 << 20


class _Layers(NamedTuple):
    """What tells layers apart."""

    turned: list[bool]
    """Which have positions."""
    chunks: list[int | None]
    sparse: list[bool]
    """Which have experts."""

    @classmethod
    def read(cls, c: ConfigReader, count: int) -> _Layers:
        every = c.size("no_rope_layer_interval", 4)
        turned = [(i + 1) % every != 0 for i in range(count)]
        named = c.value("no_rope_layers")
        if named:  # 1 for layers that have positions, whatever the key is called
            if not isinstance(named, list) or len(named) != count or any(flag not in (0, 1) for flag in named):
                raise ValueError(
                    f"{c.path}: no_rope_layers is {str(named)[:100]!r}, expected a list of {count} 0 and 1"
                )
            turned = [bool(flag) for flag in named]
        chunk = None if c.null("attention_chunk_size") else c.size("attention_chunk_size", 8192)
        kinds = c.words("layer_types", _KINDS)
        if kinds is not None and len(kinds) != count:
            raise ValueError(f"{c.path}: layer_types has {len(kinds)} entries, expected {count}, num_hidden_layers")
        if kinds is not None and "chunked_attention" in kinds and chunk is None:
            raise ValueError(f"{c.path}: layer_types has chunked_attention, but attention_chunk_size is null")
        chunked = turned if kinds is None else [kind == "chunked_attention" for kind in kinds]
        step, listed = c.size("interleave_moe_layer_step", 1), c.value("moe_layers")
        if listed is None:
            listed = list(range(step - 1, count, step))
        if not isinstance(listed, list) or any(type(i) is not int or not 0 <= i < count for i in listed):
            raise ValueError(f"{c.path}: moe_layers is {str(listed)[:100]!r}, expected numbers of layers")
        return cls(turned, [chunk if flag else None for flag in chunked], [i in listed for i in range(count)])


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c, eps=1e-5, kv_heads=8, head_size=128)
    kinds, bias = _Layers.read(c, s.layers), c.flag("attention_bias", False)
    e = Experts.read(c, "intermediate_size")
    dense = c.size("intermediate_size_mlp", 16384) if not all(kinds.sparse) or c.has("intermediate_size_mlp") else 0
    rotary, norm, sharper = _rotary(c, s), c.flag("use_qk_norm", True), _sharper(c, s)
    g.names = _NAMES.replace(g.source.prefix("model.", *PROBES))
    tied = c.flag("tie_word_embeddings", False)
    x = embedded(g, s, tied)
    factors: Value | None = None
    for i, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.rms_norm(x, "attn_norm", s.eps)
        widths = (s.q_width, s.kv_width, s.kv_width)
        q, k, v = layer.split(layer.linear(y, ("attn_q", "attn_k", "attn_v"), widths, bias=bias), *widths)
        if kinds.turned[i]:
            q, k = layer.rope(q, s.heads, rotary), layer.rope(k, s.kv_heads, rotary)
            if norm:
                q, k = _unit(layer, q, s, s.heads), _unit(layer, k, s, s.kv_heads)
        elif sharper is not None:
            if factors is None:
                table, every = sharper
                factors = layer.by_position(f"every{every}", table, partial(_steps, every, len(table)))
            q = layer.gated(q, factors, None)
        attended = layer.attention(q, k, v, s.heads, s.kv_heads, causal=True, cached=True, chunk=kinds.chunks[i])
        x = x + layer.linear(attended, "attn_output", s.hidden, bias=bias)
        y = layer.rms_norm(x, "ffn_norm", s.eps)
        if kinds.sparse[i]:
            shared = _gated(layer, y, s, ("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"), e.inner)
            x = x + (shared + _mixed(layer, y, s, e))
        else:
            x = x + _gated(layer, y, s, ("ffn_gate", "ffn_up", "ffn_down"), dense)
    x = g.rms_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


def _unit(g: Graph, x: Value, s: Sizes, heads: int) -> Value:
    """x / sqrt(mean(x^2) + eps) of each head."""
    ones = np.ones(s.head_size, np.float32)
    return g.record("rms_norm", x.rows, x.width, x, None, weight=ones, eps=s.eps, heads=heads, reuse=True)


def _gated(g: Graph, x: Value, s: Sizes, roles: tuple[str, str, str], inner: int) -> Value:
    """down(act(gate(x)) up(x))"""
    gate, up = g.split(g.linear(x, roles[:2], inner, bias=False), inner, inner)
    return g.linear(g.gated(gate, up, s.activation), roles[2], s.hidden, bias=False)


def _mixed(g: Graph, x: Value, s: Sizes, e: Experts) -> Value:
    """What the chosen experts make of weighted inputs."""
    routes = g.route(g.linear(x, "ffn_gate_inp", e.number, bias=False, dtype="float32"), e.top, score="sigmoid")
    place, turned = g.name("ffn_gate_exps").removesuffix(".gate_proj"), Layout("transposed", transposed=True)
    up, down = (Form((f"{place}.{name}_proj",), (), turned) for name in ("gate_up", "down"))
    banks = expert_banks(g, e, s.hidden, up=(up,), down=(down,))
    return g.experts(x, routes, *banks, activation=s.activation, before=True)


def _sharper(c: ConfigReader, s: Sizes) -> tuple[Floats, int] | None:
    """Factors of queries far into a text, 1 + scale ln(1 + n), for the n-th stretch of so many tokens, and how many."""
    every, scale = c.size("floor_scale", 8192), c.positive("attn_scale", 0.1)
    if not c.flag("attn_temperature_tuning", True):
        return None
    steps = s.positions // every + 1
    if steps > _MOST_STEPS:
        raise ValueError(
            f"{c.path}: floor_scale is {every}: {steps} stretches of that length in the context are too many"
        )
    factors = [float(1 + Decimal(repr(scale)) * Decimal(1 + n).ln()) for n in range(steps)]
    return np.repeat(np.array(factors, np.float32)[:, None], s.q_width, axis=1), every


def _steps(every: int, count: int, columns: Integers, ends: Integers) -> Integers:
    """In which stretch of so many tokens each is, the last of all where there are more."""
    return np.minimum((columns + 1) // every, count - 1)


def _rotary(c: ConfigReader, s: Sizes) -> Rotary:
    theta, scaling = read_scaling(c, 500000.0)
    return build_rotary(c, s.head_size, base=theta, scaling=scaling, positions=s.positions, interleaved=True)


FAMILY = causal_family("Llama4Model", build, "Llama4", "Llama4Text")


def _of_gguf(keys: Keys, common: Values) -> Values:
    values: Values = {
        "intermediate_size_mlp": common["intermediate_size"],
        "intermediate_size": keys.size("expert_feed_forward_length"), "num_local_experts": keys.size("expert_count"),
        "num_experts_per_tok": keys.size("expert_used_count"),
        "interleave_moe_layer_step": keys.size("interleave_moe_layer_step"),
        "use_qk_norm": keys.size("expert_count") != 128,  # no key says it: as llama.cpp takes it
    }  # fmt: skip
    keys.must("attention.sliding_window", 8192)
    keys.must("expert_gating_func", 2)
    keys.must("expert_weights_scale", 0.0, 1.0)
    return values


GGUF = {"llama4": Architecture("llama4_text", "Llama4", names=_NAMES, more=_of_gguf, flags=BIASES)}
