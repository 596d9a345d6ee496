# SPDX-License-Identifier: MIT
"""Qwen3-Next: the gated delta rule in three layers of four, gated attention in the fourth, experts in all.

    y = x + mix(norm(x));  x = y + ffn(norm(y))
    attention:  output(attention(norm(q), norm(k), v) * sigmoid(g)), part of a head turned; each head of q with its g
    delta rule: output(norm(S^T q) * silu(z));  q, k, v through a convolution, heads of q and k made of length 1,
                S = exp(-exp(A) softplus(a + bias)) S, then S = S + k (sigmoid(b) (v - S^T k))^T

Yang et al., 2024, https://arxiv.org/abs/2412.06464; names of tensors and keys as in transformers' Qwen3NextModel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..graph.config import ConfigReader
from ..graph.facts import Facts, Integers
from ..graph.gates import decay_factors, l2_heads, softplus
from ..graph.graph import Graph, Value
from ..graph.layout import Layout
from ..graph.names import Names
from ..graph.rotary import Rotary, build_rotary, read_scaling
from .causal import Sizes, causal_family, causal_heads, embedded, feed_forward
from .experts import Experts, expert_banks, experts_of_gguf, routed
from .ggufkeys import Architecture, Keys, Values
from .qwen_moe import shared_expert, sparse_layers

__all__ = ["FAMILY", "GGUF"]

NAMES = Names("model.", "layers.{i}.", {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj", "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_gate_up_exps": "mlp.experts.gate_up_proj",
    "ffn_down_exps": "mlp.experts.down_proj", "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj", "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj", "ssm_in": "linear_attn.in_proj_qkvz",
    # what converters have made of the one above, but for the first
    "attn_qkv": "linear_attn.in_proj_qkv", "attn_gate": "linear_attn.in_proj_z",
    "ssm_ba": "linear_attn.in_proj_ba", "ssm_conv1d": "linear_attn.conv1d", "ssm_dt": "linear_attn.dt_bias",
    "ssm_a": "linear_attn.A_log", "ssm_norm": "linear_attn.norm", "ssm_out": "linear_attn.out_proj",
}, token_embd="embed_tokens", output_norm="norm")  # fmt: skip

PROBES = ("embed_tokens.weight", "norm.weight", "layers.0.input_layernorm.weight")

_KINDS = ("full_attention", "linear_attention")
_RECURRENT = "attention.recurrent_layers"
_MOST_TAPS = 64  # of fastattn.h
_MOST = 4096  # rows and columns of a state, likewise


class _Delta(NamedTuple):
    """Sizes of the layers with states."""

    heads: int
    shared: int
    """Heads of q and k, each for neighbouring ones of v."""
    key: int
    value: int
    taps: int

    @property
    def keys(self) -> int:
        """Columns of q, and of k."""
        return self.shared * self.key

    @property
    def values(self) -> int:
        """Columns of v, and of z."""
        return self.heads * self.value

    @classmethod
    def read(cls, c: ConfigReader) -> _Delta:
        d = cls(
            heads=c.size("linear_num_value_heads", 32), shared=c.size("linear_num_key_heads", 16),
            key=c.size("linear_key_head_dim", 128, _MOST), value=c.size("linear_value_head_dim", 128, _MOST),
            taps=c.size("linear_conv_kernel_dim", 4, _MOST_TAPS),
        )  # fmt: skip
        if d.heads % d.shared:
            raise ValueError(
                f"{c.path}: linear_num_value_heads {d.heads} is not a multiple of linear_num_key_heads {d.shared}"
            )
        return d


def _kinds(c: ConfigReader, layers: int) -> tuple[str, ...]:
    """By ``layer_types``, else every ``full_attention_interval``-th has attention."""
    kinds = c.words("layer_types", _KINDS)
    every = c.size("full_attention_interval", 4)
    if kinds is None:
        return tuple(_KINDS[(i + 1) % every != 0] for i in range(layers))
    if len(kinds) != layers:
        raise ValueError(f"{c.path}: layer_types has {len(kinds)} entries, expected {layers}, num_hidden_layers")
    return kinds


def _rotary(c: ConfigReader, s: Sizes) -> Rotary:
    theta, scaling = read_scaling(c, 10000.0)
    own = dict(scaling or {})
    part = own.pop("partial_rotary_factor", None) or c.positive("partial_rotary_factor", 0.25)
    if type(part) not in (int, float) or not 0 < part <= 1:
        raise ValueError(f"{c.path}: partial_rotary_factor is {str(part)[:100]!r}, expected a number up to 1")
    return build_rotary(c, int(s.head_size * part), base=theta, scaling=own or None, positions=s.positions)


# ---- layers whose outputs lie head by head -------------------------------------------------------------------------


def _by_part(heads: int, *widths: int) -> Integers:
    """Rows of ``heads`` times parts of these widths in the order of the parts, each with all heads."""
    starts = np.cumsum((0, *widths))
    rows = np.arange(heads * starts[-1]).reshape(heads, starts[-1])
    parts = [rows[:, first:last].reshape(-1) for first, last in zip(starts[:-1], starts[1:], strict=True)]
    return np.concatenate(parts).astype(np.int64)


def _projected(g: Graph, x: Value, d: _Delta) -> tuple[Value, Value]:
    """(q, k and v side by side, z)"""
    widths = 2 * d.keys + d.values, d.values
    if g.source.has(f"{g.name('attn_qkv')}.weight"):
        both = g.linear(x, ("attn_qkv", "attn_gate"), widths, bias=False)
    else:
        each = d.heads // d.shared * d.value
        order = _by_part(d.shared, d.key, d.key, each, each)
        both = g.linear(x, "ssm_in", sum(widths), bias=False, layout=Layout("q, k, v, z", order=order, everywhere=True))
    mixed, z = g.split(both, *widths)
    return mixed, z


def _delta(g: Graph, x: Value, s: Sizes, d: _Delta) -> Value:
    mixed, z = _projected(g, x, d)
    each = d.heads // d.shared
    order = Layout("b, a", order=_by_part(d.shared, each, each), everywhere=True)
    b, a = g.split(g.linear(x, "ssm_ba", 2 * d.heads, bias=False, layout=order), d.heads, d.heads)
    mixed = g.short_conv(mixed, "ssm_conv1d", d.taps, bias=False, activation=s.activation)
    qk, v = g.split(mixed, 2 * d.keys, d.values)
    q, k = g.split(l2_heads(g, qk, 2 * d.shared), d.keys, d.keys)
    factors = decay_factors(g, "ssm_a", d.heads, converted=(d.heads,))
    decay = softplus(g, a, bias=g.tensor("ssm_dt", (d.heads,)), weight=factors)
    y = g.linear_attention(q, k, v, d.heads, shared=d.shared, decay=decay, beta=g.activate(b, "sigmoid"))
    y = g.gated(z, g.rms_norm(y, "ssm_norm", s.eps, groups=d.heads), "silu")
    return g.linear(y, "ssm_out", s.hidden, bias=False)


def _attend(g: Graph, x: Value, s: Sizes, rotary: Rotary, bias: bool) -> Value:
    order = Layout("q, gate", order=_by_part(s.heads, s.head_size, s.head_size), everywhere=True)
    q, gate = g.split(g.linear(x, "attn_q", 2 * s.q_width, bias=bias, layout=order), s.q_width, s.q_width)
    k, v = g.split(g.linear(x, ("attn_k", "attn_v"), s.kv_width, bias=bias), s.kv_width, s.kv_width)
    q = g.rope(g.rms_norm(q, "attn_q_norm", s.eps, groups=s.heads, plus_one=True), s.heads, rotary)
    k = g.rope(g.rms_norm(k, "attn_k_norm", s.eps, groups=s.kv_heads, plus_one=True), s.kv_heads, rotary)
    attended = g.attention(q, k, v, s.heads, s.kv_heads, causal=True, cached=True)
    return g.linear(g.gated(gate, attended, "sigmoid"), "attn_output", s.hidden, bias=bias)


def build(g: Graph) -> Facts:
    c = g.config
    s, d = Sizes.read(c, kv_heads=2, head_size=256), _Delta.read(c)
    kinds, rotary, bias = _kinds(c, s.layers), _rotary(c, s), c.flag("attention_bias", False)
    sparse = sparse_layers(c, s) if c.size("num_experts", 512, minimum=0) else [False] * s.layers
    normalize, inner = c.flag("norm_topk_prob", True), c.size("shared_expert_intermediate_size", 512)
    g.names = NAMES.replace(g.source.prefix("model.", *PROBES))
    tied = c.flag("tie_word_embeddings", False)
    x = embedded(g, s, tied)
    for i, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.rms_norm(x, "attn_norm", s.eps, plus_one=True)
        linear = kinds[i] == "linear_attention"
        x = x + (_delta(layer, y, s, d) if linear else _attend(layer, y, s, rotary, bias))
        y = layer.rms_norm(x, "ffn_norm", s.eps, plus_one=True)
        if not sparse[i]:
            x = x + feed_forward(layer, y, s)
            continue
        e = Experts.read(c, "moe_intermediate_size")
        routes = routed(layer, y, e, normalize=normalize)
        mixed = layer.experts(y, routes, *expert_banks(layer, e, s.hidden), activation=s.activation)
        x = x + (mixed + shared_expert(layer, y, s, inner))
    x = g.rms_norm(x, "output_norm", s.eps, plus_one=True)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


# tokens further ahead are guessed by layers that no library runs with the model
FAMILY = causal_family("Qwen3NextModel", build, "Qwen3Next", ignorable=r"mtp\..*")


def _of_gguf(keys: Keys, common: Values) -> Values:
    layers, recurrent = common["num_hidden_layers"], keys.get(_RECURRENT)
    every = keys.size("full_attention_interval", 4)
    flags = [(i + 1) % every != 0 for i in range(layers)]
    if recurrent is not None:  # llama.cpp saves one number where all layers have the same
        same = type(recurrent) in (bool, int)
        flags = [recurrent] * layers if same else keys.by_layer(_RECURRENT, recurrent, layers)
        if any(flag not in (False, True) for flag in flags):
            raise keys.error(_RECURRENT, recurrent, f"true or false for each of {layers} layers")
    values = experts_of_gguf(keys, "num_experts", normalized=True)
    heads, inner = keys.size("ssm.time_step_rank"), keys.size("ssm.inner_size")
    if inner % heads:
        raise keys.error("ssm.inner_size", inner, f"a multiple of {heads} heads")
    width = keys.size("expert_feed_forward_length")
    return {
        **values, "attention_bias": any(f"blk.{i}.attn_k.bias" in keys.file for i in range(layers)),
        "layer_types": [_KINDS[bool(flag)] for flag in flags], "moe_intermediate_size": width,
        "shared_expert_intermediate_size": keys.size("expert_shared_feed_forward_length", width),
        "linear_num_value_heads": heads, "linear_num_key_heads": keys.size("ssm.group_count"),
        "linear_key_head_dim": keys.size("ssm.state_size"), "linear_value_head_dim": inner // heads,
        "linear_conv_kernel_dim": keys.size("ssm.conv_kernel"),
    }  # fmt: skip


GGUF = {
    "qwen3next": Architecture(
        "qwen3_next",
        "Qwen3Next",
        names=NAMES,
        roles={"post_attention_norm": "ffn_norm"},
        more=_of_gguf,
        flags={},
        part=True,
        joined=True,
        tensors={"ssm_a": "ssm_a", "ssm_dt.bias": "ssm_dt"},
    ),
}
