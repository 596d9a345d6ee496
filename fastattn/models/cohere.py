# SPDX-License-Identifier: MIT
"""Cohere's Command R: one norm without a bias for attention and feed-forward layer, which stand beside each other.

    x = x + attention(n) + down(act(gate(n)) up(n)), n = norm(x)

Pairs of rotary dims are neighbours. The larger models have a norm of its own for each head of queries and keys; Command
R7B (cohere2) has windows in all but every fourth layer, which has no positions.

Cohere, 2024; names of tensors and keys as in transformers' CohereModel and Cohere2Model.
"""

from __future__ import annotations

from ..graph.config import ConfigReader, short
from ..graph.family import Facts
from ..graph.graph import Graph, Value
from ..graph.source import Norm
from .causal import (
    NAMES,
    PROBES,
    Sizes,
    causal_family,
    causal_heads,
    embedded,
    feed_forward,
    look_back,
    rotary_of,
    windows_between,
)
from .ggufkeys import BIASES, Architecture, Keys, Values, sliding_kinds

__all__ = ["FAMILY", "GGUF"]

_ONLY = {"position_embedding_type": "rope_gptj", "rotary_pct": 1, "use_gated_activation": True,
         "use_parallel_block": True}  # fmt: skip
"""Keys of cohere2's files, and the one model that they all describe."""


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c)._replace(eps=c.positive("layer_norm_eps", 1e-5))
    rotary, bias = rotary_of(c, s, base=500000.0, interleaved=True), c.flag("attention_bias", False)
    windows: list[int | None] = [None] * s.layers
    turned, normed, longest = [True] * s.layers, False, s.positions
    if c.model_type() == "cohere2":
        _check(c)
        windows = windows_between(c, s, c.size("sliding_window_pattern", 4), 4096)
        turned = [window is not None for window in windows]
    else:
        normed = c.flag("use_qk_norm", False)
        longest = max(longest, c.size("model_max_length", longest))
    factor = c.positive("logit_scale", 0.0625)
    g.names = NAMES.replace(g.source.prefix("model.", *PROBES))
    tied = c.flag("tie_word_embeddings", True)
    x = embedded(g, s, tied)
    for i, layer in g.layers(s.layers):
        g.hidden_state(x)
        window = windows[i]
        y = layer.layer_norm(x, "attn_norm", s.eps, bias=False)
        q, k, v = layer.split(
            layer.linear(y, ("attn_q", "attn_k", "attn_v"), (s.q_width, s.kv_width, s.kv_width), bias=bias),
            s.q_width, s.kv_width, s.kv_width,
        )  # fmt: skip
        if normed:
            q, k = _head_norms(layer, q, "attn_q_norm", s, s.heads), _head_norms(layer, k, "attn_k_norm", s, s.kv_heads)
        if turned[i]:
            q, k = layer.rope(q, s.heads, rotary), layer.rope(k, s.kv_heads, rotary)
        attended = look_back(layer, q, k, v, s, window)
        x = x + layer.linear(attended, "attn_output", s.hidden, bias=bias) + feed_forward(layer, y, s)
    x = g.layer_norm(x, "output_norm", s.eps, bias=False)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied, factor=factor)
    return s.facts._replace(max_positions=longest)


def _head_norms(g: Graph, x: Value, role: str, s: Sizes, heads: int) -> Value:
    """The layer norm of each head, whose gains are rows of one tensor."""
    gains = g.table(role, (heads, s.head_size))
    return g.norm_each(x, [None if gains is None else Norm(gains[i], None) for i in range(heads)], s.eps)


def _check(c: ConfigReader) -> None:
    c.refuse("use_qk_norm", "norms of queries and keys are not of this family")
    for key, only in _ONLY.items():
        value = c.value(key)
        if value is not None and value != only:
            raise ValueError(f"{c.path}: {key} is {short(value)}, expected {only}")


FAMILY = causal_family("CohereModel", build, "Cohere", "Cohere2")


def _scaled(keys: Keys, common: Values) -> Values:
    return {"logit_scale": keys.real("logit_scale", 1.0)}


def _sliding(keys: Keys, common: Values) -> Values:
    keys.must("rope.freq_base_swa", common["rope_theta"])
    return {
        "logit_scale": keys.real("logit_scale"), "sliding_window": keys.size("attention.sliding_window"),
        "layer_types": sliding_kinds(keys, common["num_hidden_layers"], 4),
    }  # fmt: skip


_NORM, _SPELLING = "attention.layer_norm_epsilon", {"rms_norm_eps": "layer_norm_eps"}

GGUF = {
    "command-r": Architecture(
        "cohere", "Cohere", more=_scaled, norms=_NORM, spelling=_SPELLING,
        flags={**BIASES, "use_qk_norm": ("attn_q_norm.weight",)},
    ),
    "cohere2": Architecture("cohere2", "Cohere2", more=_sliding, norms=_NORM, spelling=_SPELLING),
}  # fmt: skip
