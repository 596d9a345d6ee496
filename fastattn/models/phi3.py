# SPDX-License-Identifier: MIT
"""Phi-3: Llama with queries, keys and values in one layer, gate and up in one, and rotary positions for part of a head.

Abdin et al., 2024, https://arxiv.org/abs/2404.14219; names of tensors and keys as in transformers' Phi3Model.
"""

from __future__ import annotations

from ..graph.config import ConfigReader
from ..graph.family import Facts
from ..graph.graph import Graph
from ..graph.rotary import Rotary, build_rotary, read_scaling
from .causal import NAMES, PROBES, Sizes, causal_family, causal_heads, embedded, mixed, window_of
from .ggufkeys import Architecture, Keys, Values, divisors

__all__ = ["FAMILY", "GGUF"]


_LONG = ("longrope", "su", "yarn")  # three names of one


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes.read(c, eps=1e-5)
    rotary, window = _rotary(c, s), window_of(c)
    g.names = NAMES.replace(g.source.prefix("model.", *PROBES))
    tied = c.flag("tie_word_embeddings", False)
    x = embedded(g, s, tied)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.rms_norm(x, "attn_norm", s.eps)
        attended = mixed(
            layer, layer.linear(y, "attn_qkv", s.q_width + 2 * s.kv_width, bias=False), s, rotary, window
        )  # fmt: skip
        x = x + layer.linear(attended, "attn_output", s.hidden, bias=False)
        y = layer.rms_norm(x, "ffn_norm", s.eps)
        gate, up = layer.split(layer.linear(y, "ffn_gate_up", 2 * s.inner, bias=False), s.inner, s.inner)
        x = x + layer.linear(layer.gated(gate, up, s.activation), "ffn_down", s.hidden, bias=False)
    x = g.rms_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


def _rotary(c: ConfigReader, s: Sizes) -> Rotary:
    """Part of a head turns; the length of the training stands beside, and goes before what the parameters say."""
    theta, scaling = read_scaling(c, 10000.0)
    own = dict(scaling or {})
    part = c.positive("partial_rotary_factor", 1.0)
    part = own.pop("partial_rotary_factor", None) or part
    if type(part) not in (int, float) or not 0 < part <= 1:
        raise ValueError(f"{c.path}: partial_rotary_factor is {str(part)[:100]!r}, expected a number up to 1")
    kind = own.get("rope_type") or own.get("type")
    trained = c.size("original_max_position_embeddings", 4096)
    if kind not in (None, "default", *_LONG):
        raise ValueError(f"{c.path}: rotary positions: type {str(kind)[:100]!r}, expected default or longrope")
    if kind in _LONG:
        own = {**own, "rope_type": "longrope", "original_max_position_embeddings": trained}
        own.pop("type", None)
    return build_rotary(c, int(s.head_size * part), base=theta, scaling=own or None, positions=s.positions)


FAMILY = causal_family("Phi3Model", build, "Phi3")


def _of_gguf(keys: Keys, common: Values) -> Values:
    window = keys.size("attention.sliding_window", 0, minimum=0)
    trained = keys.size("rope.scaling.original_context_length", keys.size("context_length"))
    values: Values = {"sliding_window": window or None, "original_max_position_embeddings": trained}
    factors = [divisors(keys.file, f"rope_factors_{kind}.weight") for kind in ("short", "long")]
    scale = keys.real("rope.scaling.attn_factor", 1.0)
    if factors[0] is not None and factors[1] is not None:
        values["rope_scaling"] = {
            "rope_type": "longrope", "short_factor": factors[0], "long_factor": factors[1], "attention_factor": scale,
        }  # fmt: skip
    elif factors[0] is not factors[1]:
        raise keys.fault("one of rope_factors_short.weight and rope_factors_long.weight alone")
    return values


GGUF = {
    "phi3": Architecture(
        "phi3", "Phi3", roles={"ffn_up": "ffn_gate_up"}, more=_of_gguf, flags={}, part=True, joined=True
    ),
}
