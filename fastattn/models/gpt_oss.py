# SPDX-License-Identifier: MIT
"""gpt-oss: heads with sinks, every other layer with a window, experts with biases and bounded gates.

    down(min(g, limit) sigmoid(alpha min(g, limit)) (clamp(u) + 1)),  [g | u] = up(x)

OpenAI, 2025, https://arxiv.org/abs/2508.10925; names of tensors and keys as in transformers' GptOssModel.
"""

from __future__ import annotations

import numpy as np

from ..graph.banks import Form
from ..graph.config import ConfigReader
from ..graph.family import Facts
from ..graph.graph import Graph, Value
from ..graph.rotary import Rotary, build_rotary, read_scaling
from ..graph.source import Layout
from .causal import NAMES, PROBES, Sizes, causal_family, causal_heads, embedded, layer_kinds, look_back, window_of
from .experts import Experts, expert_banks, experts_of_gguf, routed
from .ggufkeys import BIASES, Architecture, Keys, Values

__all__ = ["FAMILY", "GGUF"]

_NAMES = NAMES.in_layers(ffn_gate_inp="mlp.router", attn_sinks="self_attn.sinks")

_YARN = {
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip
"""Where config.json says nothing."""


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c, eps=1e-5, kv_heads=8, head_size=64)
    e = Experts.read(c, "intermediate_size")
    clamped = c.positive("swiglu_alpha", 1.702), c.positive("swiglu_limit", 7.0)
    rotary, windows, bias = _rotary(c, s), _windows(c, s), c.flag("attention_bias", True)
    g.names = _NAMES.replace(g.source.prefix("model.", *PROBES))
    tied = c.flag("tie_word_embeddings", False)
    x = embedded(g, s, tied)
    for i, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = _attend(layer, layer.rms_norm(x, "attn_norm", s.eps), s, rotary, windows[i])
        x = x + layer.linear(y, "attn_output", s.hidden, bias=bias)
        y = layer.rms_norm(x, "ffn_norm", s.eps)
        place = layer.name("ffn_gate_exps").removesuffix(".gate_proj")
        banks = expert_banks(
            layer, e, s.hidden, biased=True,
            up=(Form((f"{place}.gate_up_proj",), (f"{place}.gate_up_proj_bias",), _by_turns(e.inner)),),
            down=(Form((f"{place}.down_proj",), (f"{place}.down_proj_bias",), Layout("transposed", transposed=True)),),
        )  # fmt: skip
        routes = routed(layer, y, e, bias=True, score="chosen")
        x = x + layer.experts(y, routes, *banks, clamped=clamped)
    x = g.rms_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


def _attend(g: Graph, x: Value, s: Sizes, rotary: Rotary, window: int | None) -> Value:
    """Attention whose softmax counts a sink of each head."""
    widths = (s.q_width, s.kv_width, s.kv_width)
    bias = g.config.flag("attention_bias", True)
    qk, v = g.split(g.linear(x, ("attn_q", "attn_k", "attn_v"), widths, bias=bias), s.q_width + s.kv_width, s.kv_width)
    q, k = g.split(g.rope(qk, s.heads + s.kv_heads, rotary), s.q_width, s.kv_width)
    name = g.name("attn_sinks")  # GGUF files have it as a layer's weight
    asked = g.table if g.source.has(f"{name}.weight") else g.tensor
    return look_back(g, q, k, v, s, window, sinks=asked("attn_sinks", (s.heads,)))


def _by_turns(inner: int) -> Layout:
    """A gate, then what it gates, and so on."""
    order = np.concatenate([np.arange(0, 2 * inner, 2), np.arange(1, 2 * inner, 2)])
    return Layout("transposed, by turns", transposed=True, order=order)


def _windows(c: ConfigReader, s: Sizes) -> list[int | None]:
    size, kinds = window_of(c, 128), layer_kinds(c, s)
    if kinds is None:
        return [None if i % 2 else size for i in range(s.layers)]
    return [size if kind == "sliding_attention" else None for kind in kinds]


def _rotary(c: ConfigReader, s: Sizes) -> Rotary:
    theta, scaling = read_scaling(c, 150000.0)
    if scaling is None and not c.has("rope_scaling") and not c.has("rope_parameters"):
        scaling = _YARN
    return build_rotary(c, s.head_size, base=theta, scaling=scaling, positions=s.positions)


FAMILY = causal_family("GptOssModel", build, "GptOss")


def _of_gguf(keys: Keys, common: Values) -> Values:
    inner = keys.size("expert_feed_forward_length", common["intermediate_size"])
    values: Values = {
        **experts_of_gguf(keys, "num_local_experts", normalized=None), "intermediate_size": inner,
        "sliding_window": keys.size("attention.sliding_window"),
        # no key says what the model's own configuration does
        "rope_scaling": {**common.get("rope_scaling", {"rope_type": "default"}), "truncate": False},
    }  # fmt: skip
    if values["rope_scaling"]["rope_type"] != "yarn":
        del values["rope_scaling"]["truncate"]
    return values


GGUF = {
    "gpt-oss": Architecture(
        "gpt_oss", "GptOss", names=_NAMES, roles={"post_attention_norm": "ffn_norm"}, flags=BIASES, more=_of_gguf
    ),
}
