# SPDX-License-Identifier: MIT
"""DeepSeek-V2 and -V3: keys and values made of one narrow latent, rotary positions in columns of their own, experts in
groups beside one that all tokens take.

    [c | k_r] = x W_a;  [K_n | V] = norm(c) W_b;  k = [K_n | turned k_r];  q = [Q_n | turned Q_r]

DeepSeek-AI, 2024, https://arxiv.org/abs/2405.04434 and https://arxiv.org/abs/2412.19437; names of tensors and keys as
in transformers' DeepseekV2Model and DeepseekV3Model.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any, NamedTuple

import numpy as np

from ..graph.config import ConfigReader
from ..graph.family import Facts
from ..graph.graph import Graph, Value
from ..graph.rotary import Rotary, build_rotary, read_scaling
from ..graph.source import Floats, Layout
from .blocks import MAX_HEAD_SIZE
from .causal import NAMES, PROBES, Sizes, causal_family, causal_heads, embedded, feed_forward
from .experts import Experts, expert_banks
from .ggufkeys import Architecture, Keys, Values

__all__ = ["FAMILY", "GGUF"]

_NAMES = NAMES.in_layers(
    attn_q_a="self_attn.q_a_proj", attn_q_a_norm="self_attn.q_a_layernorm", attn_q_b="self_attn.q_b_proj",
    attn_kv_a_mqa="self_attn.kv_a_proj_with_mqa", attn_kv_a_norm="self_attn.kv_a_layernorm",
    attn_kv_b="self_attn.kv_b_proj", attn_k_b="self_attn.k_b_proj", attn_v_b="self_attn.v_b_proj",
    exp_probs_b="mlp.gate.e_score_correction_bias",
    ffn_gate_shexp="mlp.shared_experts.gate_proj", ffn_up_shexp="mlp.shared_experts.up_proj",
    ffn_down_shexp="mlp.shared_experts.down_proj",
)  # fmt: skip

_LATENT_EPS = 1e-6  # of the norms of latents, whatever config.json says of the others


class _Heads(NamedTuple):
    """What heads are made of."""

    still: int
    """Columns of queries and keys without positions."""
    turned: int
    value: int
    q_rank: int | None
    """Width of the queries' latent; None where queries are made at once."""
    kv_rank: int

    @classmethod
    def read(cls, c: ConfigReader) -> _Heads:
        still, turned, value = (
            c.size(f"{name}_head_dim", maximum=MAX_HEAD_SIZE) for name in ("qk_nope", "qk_rope", "v")
        )
        if still + turned > MAX_HEAD_SIZE:
            raise ValueError(
                f"{c.path}: qk_nope_head_dim {still} and qk_rope_head_dim {turned} make heads of {still + turned}, "
                f"expected at most {MAX_HEAD_SIZE}"
            )
        none = c.null("q_lora_rank")
        return cls(still, turned, value, None if none else c.size("q_lora_rank", 1536), c.size("kv_lora_rank", 512))


def build(g: Graph) -> Facts:
    c = g.config
    h = _Heads.read(c)
    s = Sizes.read(c, head_size=h.still + h.turned)._replace(head_size=h.still + h.turned)
    if s.kv_heads != s.heads:
        raise ValueError(f"{c.path}: num_key_value_heads is {s.kv_heads}, expected {s.heads}, num_attention_heads")
    older = c.model_type() == "deepseek_v2"
    c.choice("scoring_func", {"softmax" if older else "sigmoid": None}, "softmax" if older else "sigmoid")
    if c.size("moe_layer_freq", 1) != 1:
        raise ValueError(f"{c.path}: moe_layer_freq is {c.value('moe_layer_freq')}, expected 1")
    dense, bias = c.size("first_k_dense_replace", 0 if older else 3, minimum=0), c.flag("attention_bias", False)
    inner_bias = c.flag("mlp_bias", False) if older else False
    e = Experts.read(c, "moe_intermediate_size") if dense < s.layers or c.has("n_routed_experts") else None
    shared = c.size("n_shared_experts", 2 if older else 1)
    rotary, scale = _rotary(c, s, h, interleaved=older or c.flag("rope_interleave", True))
    options = _choice(c, e.number if e else 1, older)
    g.names = _NAMES.replace(g.source.prefix("model.", *PROBES))
    tied = c.flag("tie_word_embeddings", False)
    x = embedded(g, s, tied)
    for i, layer in g.layers(s.layers):
        g.hidden_state(x)
        x = x + _attend(layer, layer.rms_norm(x, "attn_norm", s.eps), s, h, rotary, scale, bias=bias)
        y = layer.rms_norm(x, "ffn_norm", s.eps)
        if e is None or i < dense:
            x = x + feed_forward(layer, y, s, bias=inner_bias)
            continue
        if not older:
            options["bias"] = _correction(layer, e.number)
        routes = layer.route(layer.linear(y, "ffn_gate_inp", e.number, bias=False, dtype="float32"), e.top, **options)
        mixed = layer.experts(y, routes, *expert_banks(layer, e, s.hidden), activation=s.activation)
        x = x + (mixed + _shared(layer, y, s, shared * e.inner, bias=inner_bias))
    x = g.rms_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


def _attend(g: Graph, x: Value, s: Sizes, h: _Heads, rotary: Rotary, scale: float, *, bias: bool) -> Value:
    """output(attention(q, k, v)) with q and k as above; keys and values of each head are kept, not latents."""
    if h.q_rank is None:
        q = g.linear(x, "attn_q", s.q_width, bias=False)
    else:
        latent = g.rms_norm(g.linear(x, "attn_q_a", h.q_rank, bias=bias), "attn_q_a_norm", _LATENT_EPS)
        q = g.linear(latent, "attn_q_b", s.q_width, bias=False)
    latent, turned = g.split(g.linear(x, "attn_kv_a_mqa", h.kv_rank + h.turned, bias=bias), h.kv_rank, h.turned)
    latent, widths = g.rms_norm(latent, "attn_kv_a_norm", _LATENT_EPS), (s.heads * h.still, s.heads * h.value)
    if g.source.has(f"{g.name('attn_k_b')}.weight"):  # as converters have it since they keep latents
        kv = g.linear(latent, ("attn_k_b", "attn_v_b"), widths, bias=False)
    else:
        kv = g.linear(latent, "attn_kv_b", sum(widths), bias=False, layout=_keys_first(s.heads, h.still, h.value))
    still, v = g.split(kv, *widths)
    q = g.rope(q, s.heads, rotary, first=h.still)
    k = g.join(still, g.rope(turned, 1, rotary), s.heads, (h.still, h.turned))
    attended = g.attention(q, k, v, s.heads, s.heads, causal=True, cached=True, scale=scale)
    return g.linear(attended, "attn_output", s.hidden, bias=bias)


def _shared(g: Graph, x: Value, s: Sizes, inner: int, *, bias: bool) -> Value:
    """The feed-forward layer that all tokens take."""
    gate, up = g.split(g.linear(x, ("ffn_gate_shexp", "ffn_up_shexp"), inner, bias=bias), inner, inner)
    return g.linear(g.gated(gate, up, s.activation), "ffn_down_shexp", s.hidden, bias=bias)


def _correction(g: Graph, experts: int) -> Floats:
    """What is added to the experts' scores where they are chosen; a bias in GGUF files."""
    name = g.name("exp_probs_b")
    return g.source.table(f"{name}.bias" if g.source.has(f"{name}.bias") else name, (experts,))


def _keys_first(heads: int, still: int, value: int) -> Layout:
    """Files have the keys of a head, its values, and so on."""
    rows = np.arange(heads * (still + value)).reshape(heads, still + value)
    order = np.concatenate([rows[:, :still].reshape(-1), rows[:, still:].reshape(-1)])
    return Layout("keys, then values", order=order, everywhere=True)


def _choice(c: ConfigReader, experts: int, older: bool) -> dict[str, Any]:
    """How experts are chosen and weighted: options of ``Graph.route``."""
    options: dict[str, Any] = {"score": "softmax" if older else "sigmoid"}
    options["scale"] = c.positive("routed_scaling_factor", 1.0 if older else 2.5)
    grouped = not older
    if older:
        grouped = c.choice("topk_method", {"greedy": False, "group_limited_greedy": True}, "greedy")
        if c.flag("norm_topk_prob", False):
            raise ValueError(f"{c.path}: norm_topk_prob is true, which transformers does not obey in this family")
    else:
        c.choice("topk_method", {"noaux_tc": None}, "noaux_tc")
        options |= {"normalize": c.flag("norm_topk_prob", True), "floor": 1e-20, "group_sum": True}
    groups, top = (c.size(name, 1 if older else default) for name, default in (("n_group", 8), ("topk_group", 4)))
    if grouped:
        if experts % groups or top > groups or (not older and experts // groups < 2):
            raise ValueError(
                f"{c.path}: n_group is {groups} and topk_group {top}, expected groups of equal numbers of the "
                f"{experts} experts{'' if older else ', two at least'}, and no more of them than there are"
            )
        options |= {"groups": groups, "top_groups": top}
    return options


def _rotary(c: ConfigReader, s: Sizes, h: _Heads, *, interleaved: bool) -> tuple[Rotary, float]:
    """The turns, and what scores are multiplied by, which YaRN changes."""
    theta, scaling = read_scaling(c, 10000.0)
    rotary = build_rotary(
        c, h.turned, base=theta, scaling=scaling, positions=s.positions, interleaved=interleaved
    )  # fmt: skip
    scale = 1 / Decimal(s.head_size).sqrt()
    found = dict(scaling or {})
    weight, factor = found.get("mscale_all_dim"), found.get("factor")
    if (found.get("rope_type") or found.get("type") or "default") != "default" and weight and factor and factor > 1:
        with localcontext() as context:
            context.prec = 40
            scale *= (Decimal("0.1") * Decimal(repr(weight)) * Decimal(repr(factor)).ln() + 1) ** 2
    return rotary, float(scale)


FAMILY = causal_family("DeepseekModel", build, "DeepseekV2", "DeepseekV3", ignorable=r"model\.layers\.61\..*")


def _of_gguf(keys: Keys, common: Values) -> Values:
    kind = keys.size("expert_gating_func", 1)
    if kind not in (1, 2):
        raise keys.error("expert_gating_func", kind, "1 (softmax) or 2 (sigmoid)")
    newer, heads = kind == 2, common["num_attention_heads"]
    turned, rank = keys.size("rope.dimension_count"), keys.size("attention.kv_lora_rank")
    size = keys.size("attention.key_length_mla", common["head_dim"])
    values: Values = {
        "model_type": "deepseek_v3" if newer else "deepseek_v2",
        "architectures": [f"DeepseekV{3 if newer else 2}ForCausalLM"], "num_key_value_heads": heads,
        "qk_rope_head_dim": turned, "qk_nope_head_dim": size - turned, "kv_lora_rank": rank,
        "v_head_dim": keys.size("attention.value_length_mla", keys.size("attention.value_length", size)),
        "q_lora_rank": keys.size("attention.q_lora_rank", 0, minimum=0) or None,
        "first_k_dense_replace": keys.size("leading_dense_block_count", 0, minimum=0),
        "n_routed_experts": keys.size("expert_count"), "num_experts_per_tok": keys.size("expert_used_count"),
        "n_shared_experts": keys.size("expert_shared_count"),
        "moe_intermediate_size": keys.size("expert_feed_forward_length"),
        "routed_scaling_factor": keys.real("expert_weights_scale", 0.0) or 1.0,
        "n_group": keys.size("expert_group_count", 1), "topk_group": keys.size("expert_group_used_count", 1),
    }  # fmt: skip
    said = keys.get("expert_weights_norm")
    if said is not None and type(said) is not bool:
        raise keys.error("expert_weights_norm", said, "true or false")
    values["norm_topk_prob"] = bool(said)
    if not newer and values["n_group"] > 1:
        values["topk_method"] = "group_limited_greedy"
    weight = keys.real("rope.scaling.yarn_log_multiplier", 0.0) * 10  # a tenth of it is what files have
    if "rope_scaling" in common and weight:
        weight = round(weight, 6)
        values["rope_scaling"] = {**common["rope_scaling"], "mscale": weight, "mscale_all_dim": weight}
    return values


GGUF = {
    "deepseek2": Architecture(
        "deepseek_v2",
        "DeepseekV2",
        names=_NAMES,
        more=_of_gguf,
        part=True,
        uneven=True,
        flags={"attention_bias": ("attn_kv_a_mqa.bias",)},
        folded={"attn_k_b": "columns", "attn_v_b": "rows"},
        spelling={"head_dim": None, "partial_rotary_factor": None},
    ),
}
