# SPDX-License-Identifier: MIT
"""Mamba-2: a state for each head that decays by a step each token makes, and no attention.

    y = x + out(norm(silu(z) * (S^T c + D h)));  z, (h, b, c), t = in(norm(x)), the middle three through a convolution
    t = softplus(t + bias);  S = exp(-exp(A) t) S + b (t h)^T

which is linear attention with a decay: b are the keys, t h the values and c the queries, each for the heads of a group.

Dao and Gu, 2024, https://arxiv.org/abs/2405.21060; names of tensors and keys as in transformers' Mamba2Model.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ..graph.config import ConfigReader
from ..graph.facts import NO_LIMIT, Facts
from ..graph.gates import columns, decay_factors, group_rms_norm, scale_heads, softplus, spread
from ..graph.graph import Graph, Value
from ..graph.names import Names
from .blocks import ACTIVATIONS, MAX_LAYERS
from .causal import Sizes, causal_family, causal_heads
from .ggufkeys import Architecture, Keys, Values

__all__ = ["FAMILY", "GGUF"]

NAMES = Names("backbone.", "layers.{i}.", {
    "attn_norm": "norm", "ssm_in": "mixer.in_proj", "ssm_conv1d": "mixer.conv1d", "ssm_dt": "mixer.dt_bias",
    "ssm_a": "mixer.A_log", "ssm_d": "mixer.D", "ssm_norm": "mixer.norm", "ssm_out": "mixer.out_proj",
}, token_embd="embeddings", output_norm="norm_f")  # fmt: skip

_MOST_TAPS = 64  # of fastattn.h
_MOST = 4096  # rows and columns of a state, likewise


class _Sizes(NamedTuple):
    """What config.json says."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    head_size: int
    state: int
    groups: int
    taps: int
    eps: float
    activation: str
    limits: tuple[float, float]

    @property
    def inner(self) -> int:
        return self.heads * self.head_size

    @property
    def shared(self) -> int:
        """Columns of b, and of c."""
        return self.groups * self.state

    @classmethod
    def read(cls, c: ConfigReader) -> _Sizes:
        s = cls(
            vocab=c.size("vocab_size", 32768), hidden=c.size("hidden_size", 4096),
            layers=c.size("num_hidden_layers", 64, MAX_LAYERS), heads=c.size("num_heads", 128),
            head_size=c.size("head_dim", 64, _MOST), state=c.size("state_size", 128, _MOST),
            groups=c.size("n_groups", 8), taps=c.size("conv_kernel", 4, _MOST_TAPS),
            eps=c.positive("layer_norm_epsilon", 1e-5), activation=c.choice("hidden_act", ACTIVATIONS, "silu"),
            limits=_limits(c),
        )  # fmt: skip
        if s.inner != s.hidden * c.size("expand", 2):
            raise ValueError(
                f"{c.path}: num_heads {s.heads} of head_dim {s.head_size}, expected expand times hidden_size {s.hidden}"
            )
        if s.heads % s.groups:
            raise ValueError(f"{c.path}: num_heads {s.heads} is not a multiple of n_groups {s.groups}")
        return s


def _limits(c: ConfigReader) -> tuple[float, float]:
    """``time_step_limit``, whose second number mostly is infinity, in one of two spellings."""
    value: Any = c.value("time_step_limit")
    if value is None:
        return 0.0, math.inf
    found = [
        math.inf if one == {"__float__": "Infinity"} else float(one) if type(one) in (int, float) else math.nan
        for one in (value if isinstance(value, list) else [])
    ]
    if len(found) != 2 or not 0 <= found[0] <= found[1] or found[0] > 3e38:
        raise ValueError(f"{c.path}: time_step_limit is {str(value)[:100]!r}, expected two numbers, 0 <= low <= high")
    return found[0], found[1]


def _mix(g: Graph, x: Value, s: _Sizes, *, bias: bool, conv_bias: bool) -> Value:
    projected = g.linear(x, "ssm_in", 2 * s.inner + 2 * s.shared + s.heads, bias=bias)
    z, hbc, t = g.split(projected, s.inner, s.inner + 2 * s.shared, s.heads)
    hbc = g.short_conv(hbc, "ssm_conv1d", s.taps, bias=conv_bias, activation=s.activation)
    h, b, c = g.split(hbc, s.inner, s.shared, s.shared)
    low, high = s.limits
    step = softplus(g, t, bias=g.tensor("ssm_dt", (s.heads,)), low=low, high=high)
    decay = columns(g, step, decay_factors(g, "ssm_a", s.heads, converted=(s.heads, 1)))
    y = g.linear_attention(c, b, scale_heads(g, h, step), s.heads, shared=s.groups, decay=decay, scale=1.0)
    y = columns(g, y, spread(g, "ssm_d", s.heads, s.head_size, converted=(s.heads, 1)), plus=h)
    normed = group_rms_norm(g, g.gated(z, y, "silu"), "ssm_norm", s.eps, s.groups)
    return g.linear(normed, "ssm_out", s.hidden, bias=bias)


def build(g: Graph) -> Facts:
    c = g.config
    s = _Sizes.read(c)
    bias, conv_bias = c.flag("use_bias", False), c.flag("use_conv_bias", True)
    prefix = g.source.prefix("backbone.", "embeddings.weight", "embedding.weight", "norm_f.weight")
    old = g.source.has(f"{prefix}embedding.weight")
    g.names = NAMES.replace(prefix, token_embd="embedding" if old else "embeddings")
    tied = c.flag("tie_word_embeddings", False)
    x = g.embed({"ids": g.words("token_embd", (s.vocab, s.hidden), tied="lm_head.weight" if tied else None)}, s.hidden)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        x = x + _mix(layer, layer.rms_norm(x, "attn_norm", s.eps), s, bias=bias, conv_bias=conv_bias)
    x = g.rms_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    common = Sizes(
        s.vocab, s.hidden, s.layers, s.heads, s.heads, s.head_size, s.inner, s.activation, s.eps, positions=NO_LIMIT
    )
    causal_heads(g, x, common, tied=tied)
    return common.facts


FAMILY = causal_family("Mamba2Model", build, "Mamba2")


def _of_gguf(keys: Keys) -> Values:
    for key in ("feed_forward_length", "attention.head_count"):  # which such files have with zeros
        keys.must(key, 0)
    keys.get("context_length")  # no model has one
    hidden, inner, heads = keys.size("embedding_length"), keys.size("ssm.inner_size"), keys.size("ssm.time_step_rank")
    if inner % heads or inner % hidden:
        raise keys.error("ssm.inner_size", inner, f"a multiple of {heads} heads and of {hidden}, the length of rows")
    keys.must("ssm.dt_b_c_rms", False)
    return {
        "hidden_size": hidden, "num_hidden_layers": keys.size("block_count"), "num_heads": heads,
        "head_dim": inner // heads, "expand": inner // hidden, "state_size": keys.size("ssm.state_size"),
        "n_groups": keys.size("ssm.group_count"), "conv_kernel": keys.size("ssm.conv_kernel"),
        "layer_norm_epsilon": keys.real("attention.layer_norm_rms_epsilon"),
        "use_bias": "blk.0.ssm_in.bias" in keys.file, "use_conv_bias": "blk.0.ssm_conv1d.bias" in keys.file,
    }  # fmt: skip


GGUF = {
    "mamba2": Architecture(
        "mamba2",
        "Mamba2",
        names=NAMES,
        common=_of_gguf,
        flags={},
        tensors={"ssm_a": "ssm_a", "ssm_d": "ssm_d", "ssm_dt.bias": "ssm_dt"},
    ),
}
