# SPDX-License-Identifier: MIT
"""Qwen2-MoE and Qwen3-MoE: Qwen2 and Qwen3 whose feed-forward layers, or some of them, are experts; those of Qwen2 have
one more that all tokens take, by a gate.

    y = experts(x) + sigmoid(gate(x)) shared(x)

Yang et al., 2024, https://arxiv.org/abs/2407.10671; Yang et al., 2025, https://arxiv.org/abs/2505.09388; names of
tensors and keys as in transformers' Qwen2MoeModel and Qwen3MoeModel.
"""

from __future__ import annotations

from ..graph.config import ConfigReader
from ..graph.family import Facts
from ..graph.graph import Graph, Value
from ..graph.rotary import Rotary
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
    look_back,
    rotary_of,
    window_of,
)  # fmt: skip
from .experts import Experts, expert_banks, experts_of_gguf, routed, shared_banks
from .ggufkeys import BIASES, Architecture, Keys, Values

__all__ = ["FAMILY", "GGUF", "shared_expert", "sparse_layers"]


def build(g: Graph) -> Facts:
    c = g.config
    older = c.model_type() == "qwen2_moe"
    s = Sizes.read(c, kv_heads=16 if older else 4)
    e = Experts.read(c, "moe_intermediate_size")
    normalize = c.flag("norm_topk_prob", False)
    shared = c.size("shared_expert_intermediate_size", 5632) if older else 0
    bias = c.flag("qkv_bias", True) if older else c.flag("attention_bias", False)
    windows = _windows_by_turns(c, s) if older else [_window(c)] * s.layers
    sparse, rotary = sparse_layers(c, s), rotary_of(c, s)
    g.names = NAMES.replace(g.source.prefix("model.", *PROBES))
    tied = c.flag("tie_word_embeddings", False)
    x = embedded(g, s, tied)
    for i, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.rms_norm(x, "attn_norm", s.eps)
        if older:
            x = x + attend(layer, y, s, rotary, windows[i], bias=bias, output_bias=False)
        else:
            x = x + _attend_normed(layer, y, s, rotary, windows[i], bias)
        y = layer.rms_norm(x, "ffn_norm", s.eps)
        if not sparse[i]:
            x = x + feed_forward(layer, y, s)
            continue
        routes = routed(layer, y, e, normalize=normalize)
        mixed = layer.experts(y, routes, *expert_banks(layer, e, s.hidden), activation=s.activation)
        if older:
            mixed = mixed + shared_expert(layer, y, s, shared)
        x = x + mixed
    x = g.rms_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


def _attend_normed(g: Graph, x: Value, s: Sizes, rotary: Rotary, window: int | None, bias: bool) -> Value:
    """output(attention(q, k, v)), each head of q and k normed before it is turned."""
    widths = (s.q_width, s.kv_width, s.kv_width)
    q, k, v = g.split(g.linear(x, ("attn_q", "attn_k", "attn_v"), widths, bias=bias), *widths)
    q = g.rope(g.rms_norm(q, "attn_q_norm", s.eps, groups=s.heads), s.heads, rotary)
    k = g.rope(g.rms_norm(k, "attn_k_norm", s.eps, groups=s.kv_heads), s.kv_heads, rotary)
    attended = look_back(g, q, k, v, s, window)
    return g.linear(attended, "attn_output", s.hidden, bias=bias)


def shared_expert(g: Graph, x: Value, s: Sizes, inner: int) -> Value:
    """sigmoid(gate(x)) down(act(gate'(x)) up(x)): one expert of one, and how much of it."""
    gate = g.linear(x, "ffn_gate_inp_shexp", 1, bias=False, dtype="float32")
    banks = shared_banks(g, ("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"), inner, s.hidden)
    return g.experts(x, g.route(gate, 1, score="sigmoid"), *banks, activation=s.activation)


def sparse_layers(c: ConfigReader, s: Sizes) -> list[bool]:
    """Which layers have experts: each ``decoder_sparse_step``-th but for those of ``mlp_only_layers``."""
    step, dense = c.size("decoder_sparse_step", 1), c.value("mlp_only_layers")
    if dense is not None and not (isinstance(dense, list) and all(type(i) is int for i in dense)):
        raise ValueError(f"{c.path}: mlp_only_layers is {str(dense)[:100]!r}, expected a list of numbers of layers")
    return [(i + 1) % step == 0 and i not in (dense or ()) for i in range(s.layers)]


def _window(c: ConfigReader) -> int | None:
    """Of all layers, where ``use_sliding_window`` says so."""
    return window_of(c, 4096) if c.flag("use_sliding_window", False) else None


def _windows_by_turns(c: ConfigReader, s: Sizes) -> list[int | None]:
    """By ``layer_types``; else, where ``use_sliding_window`` says so, of every other of the first
    ``max_window_layers``."""
    size, kinds, first = _window(c), layer_kinds(c, s), c.size("max_window_layers", 28, minimum=0)
    if kinds is None:
        return [size if i % 2 == 0 and i < first else None for i in range(s.layers)]
    if size is None and "sliding_attention" in kinds:
        raise ValueError(
            f"{c.path}: layer_types has sliding_attention, but use_sliding_window or sliding_window is not set"
        )
    return [size if kind == "sliding_attention" else None for kind in kinds]


FAMILY = causal_family("QwenMoeModel", build, "Qwen2Moe", "Qwen3Moe")


def _qwen2(keys: Keys, common: Values) -> Values:
    inner = common["intermediate_size"]
    values = experts_of_gguf(keys, "num_experts", normalized=False)
    values["moe_intermediate_size"] = keys.size(
        "expert_feed_forward_length", max(inner // values["num_experts_per_tok"], 1)
    )
    values["shared_expert_intermediate_size"] = keys.size("expert_shared_feed_forward_length", inner)
    return values


def _qwen3(keys: Keys, common: Values) -> Values:
    values = experts_of_gguf(keys, "num_experts", normalized=True)
    inner = max(common["intermediate_size"] // values["num_experts_per_tok"], 1)
    return {**values, "moe_intermediate_size": keys.size("expert_feed_forward_length", inner)}


GGUF = {
    "qwen2moe": Architecture("qwen2_moe", "Qwen2Moe", more=_qwen2, flags={"qkv_bias": BIASES["attention_bias"]}),
    "qwen3moe": Architecture("qwen3_moe", "Qwen3Moe", more=_qwen3),
}
