# SPDX-License-Identifier: MIT
"""What the models of ``tiny_dense_b`` compute, in double precision and NumPy alone, written for reading.

Each family is one function from tokens (S,) in ascending columns (S,) to logits (S, V).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import numpy_decoders as plain
from .tiny_bert import Array
from .tiny_dense_b import TIED, heads

Config = dict[str, Any]
Weights = Mapping[str, Array]


def logits(c: Config, w: Weights, ids: Array, mask: Array) -> Array:
    """(B, S, V): zeros where the mask excludes a token, which nobody sees and which counts as a position still."""
    result = np.zeros((*ids.shape, c["vocab_size"]))
    for row, (tokens, kept) in enumerate(zip(ids, mask, strict=True)):
        columns = np.flatnonzero(kept)
        if columns.size:
            result[row, columns] = LOGITS[c["model_type"]](c, w, tokens[columns], columns)
    return result


# ---- parts ----------------------------------------------------------------------------------------------------------


def output(c: Config, w: Weights, x: Array) -> Array:
    """The table of embeddings where config.json says that the two are one, else lm_head."""
    tied = c.get("tie_word_embeddings", TIED.get(c["model_type"], False))
    return x @ w["model.embed_tokens.weight" if tied else "lm_head.weight"].T


def shifted_norm(x: Array, weight: Array, eps: float) -> Array:
    """x / sqrt(mean(x^2) + eps) (1 + w)"""
    return plain.rms_norm(x, 1 + weight, eps)


def projections(c: Config, w: Weights, name: str, x: Array) -> tuple[Array, Array, Array]:
    """Queries (S, Hq, D), keys and values (S, Hkv, D), not turned yet."""
    queries, keys, size = heads(c)
    q, k, v = (plain.linear(w, f"{name}.{part}_proj", x) for part in "qkv")
    return q.reshape(-1, queries, size), k.reshape(-1, keys, size), v.reshape(-1, keys, size)


def attention(
    q: Array, k: Array, v: Array, columns: Array, scale: float, size: int | None, cap: float | None = None
) -> Array:
    """As that of ``numpy_decoders``; ``cap``: scores are cap * tanh(score / cap)."""
    if cap is None:
        return plain.attention(q, k, v, columns, scale, size)
    k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
    scores = cap * np.tanh(np.einsum("qhd,khd->hqk", q, k) * scale / cap)
    distance = columns[:, None] - columns[None, :]
    weights = np.exp(scores) * ((distance >= 0) & (True if size is None else distance < size))
    return np.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdims=True), v).reshape(len(q), -1)


def gated(w: Weights, name: str, x: Array, activation: str) -> Array:
    gate, up = plain.linear(w, f"{name}.gate_proj", x), plain.linear(w, f"{name}.up_proj", x)
    return plain.linear(w, f"{name}.down_proj", plain.ACTIVATIONS[activation](gate) * up)


def is_local(c: Config, layer: int) -> bool:
    """Whether a layer has a window."""
    named = c.get("layer_types")
    if c["model_type"] == "exaone4" and c["sliding_window"] is None:
        return False
    if named is not None:
        return bool(named[layer] == "sliding_attention")
    every = {
        "gemma2": 2, "olmo3": 4, "gemma3_text": c.get("sliding_window_pattern", 6),
        "cohere2": c.get("sliding_window_pattern", 4), "exaone4": c.get("sliding_window_pattern", 4),
    }.get(c["model_type"])  # fmt: skip
    return every is not None and (layer + 1) % every != 0


def window(c: Config, layer: int) -> int | None:
    """How many tokens a query of a layer sees at most, itself and those before it; None for all."""
    return c.get("sliding_window", 4096) if is_local(c, layer) else None


def frequencies_of_kind(c: Config, layer: int, length: int, full: float, local: float) -> tuple[Array, float]:
    """Those of a layer where each kind has its own parameters; ``full``, ``local``: the bases by default."""
    kind = "sliding_attention" if is_local(c, layer) else "full_attention"
    own = dict((c.get("rope_parameters") or {}).get(kind) or {})
    if kind == "full_attention":
        own |= c.get("rope_scaling") or {}
    own.setdefault("rope_theta", full if kind == "full_attention" else local)
    return plain.frequencies({**c, "rope_scaling": None, "rope_parameters": own}, length)


# ---- families -------------------------------------------------------------------------------------------------------


def gemma(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    eps = c.get("rms_norm_eps", 1e-6)
    angles, factor = plain.frequencies(c, int(columns[-1]) + 1)
    x = w["model.embed_tokens.weight"][ids] * float(np.float32(math.sqrt(c["hidden_size"])))
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        y = shifted_norm(x, w[f"{layer}.input_layernorm.weight"], eps)
        q, k, v = projections(c, w, f"{layer}.self_attn", y)
        q, k = plain.turn(q, columns, angles, factor), plain.turn(k, columns, angles, factor)
        mixed = attention(q, k, v, columns, heads(c)[2] ** -0.5, None)
        x = x + plain.linear(w, f"{layer}.self_attn.o_proj", mixed)
        y = shifted_norm(x, w[f"{layer}.post_attention_layernorm.weight"], eps)
        x = x + gated(w, f"{layer}.mlp", y, "gelu_new")
    return output(c, w, shifted_norm(x, w["model.norm.weight"], eps))


def _between_norms(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    """Gemma 2 and 3."""
    eps, third = c.get("rms_norm_eps", 1e-6), c["model_type"] == "gemma3_text"
    scale, length = c.get("query_pre_attn_scalar", 256) ** -0.5, int(columns[-1]) + 1
    cap = None if third else c.get("attn_logit_softcapping", 50.0)
    x = w["model.embed_tokens.weight"][ids] * float(np.float32(math.sqrt(c["hidden_size"])))
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        angles, factor = plain.frequencies(c, length) if not third else frequencies_of_kind(
            c, i, length, c.get("rope_theta", 1e6), c.get("rope_local_base_freq", 1e4)
        )  # fmt: skip
        y = shifted_norm(x, w[f"{layer}.input_layernorm.weight"], eps)
        q, k, v = projections(c, w, f"{layer}.self_attn", y)
        if third:
            q = shifted_norm(q, w[f"{layer}.self_attn.q_norm.weight"], eps)
            k = shifted_norm(k, w[f"{layer}.self_attn.k_norm.weight"], eps)
        q, k = plain.turn(q, columns, angles, factor), plain.turn(k, columns, angles, factor)
        y = plain.linear(w, f"{layer}.self_attn.o_proj", attention(q, k, v, columns, scale, window(c, i), cap))
        x = x + shifted_norm(y, w[f"{layer}.post_attention_layernorm.weight"], eps)
        y = shifted_norm(x, w[f"{layer}.pre_feedforward_layernorm.weight"], eps)
        y = gated(w, f"{layer}.mlp", y, c.get("hidden_activation", "gelu_pytorch_tanh"))
        x = x + shifted_norm(y, w[f"{layer}.post_feedforward_layernorm.weight"], eps)
    found = output(c, w, shifted_norm(x, w["model.norm.weight"], eps))
    last = c.get("final_logit_softcapping", None if third else 30.0)
    return found if last is None else last * np.tanh(found / last)


def plain_norm(x: Array, eps: float = 1e-5) -> Array:
    """The layer norm without weights."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)


def turn_pairs(x: Array, positions: Array, angles: Array, factor: float) -> Array:
    """Heads x (S, N, D) turned by the angles of their positions: dim 2 i with dim 2 i + 1, those from R on not."""
    dims = 2 * angles.size
    order = np.concatenate([np.arange(0, dims, 2), np.arange(1, dims, 2), np.arange(dims, x.shape[-1])])
    turned = np.empty_like(x)
    turned[..., order] = plain.turn(x[..., order], positions, angles, factor)
    return turned


def cohere(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    eps = c.get("layer_norm_eps", 1e-5)
    angles, factor = plain.frequencies({"rope_theta": 500000.0, **c}, int(columns[-1]) + 1)
    x = w["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        normed = plain_norm(x, eps) * w[f"{layer}.input_layernorm.weight"]
        q, k, v = projections(c, w, f"{layer}.self_attn", normed)
        if c.get("use_qk_norm"):
            q = plain_norm(q, eps) * w[f"{layer}.self_attn.q_norm.weight"]
            k = plain_norm(k, eps) * w[f"{layer}.self_attn.k_norm.weight"]
        if c["model_type"] == "cohere" or is_local(c, i):
            q, k = turn_pairs(q, columns, angles, factor), turn_pairs(k, columns, angles, factor)
        mixed = attention(q, k, v, columns, heads(c)[2] ** -0.5, window(c, i))
        x = x + plain.linear(w, f"{layer}.self_attn.o_proj", mixed) + gated(w, f"{layer}.mlp", normed, "silu")
    return output(c, w, plain_norm(x, eps) * w["model.norm.weight"]) * c.get("logit_scale", 0.0625)


def pre_norm(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    """Llama's layers. In two of the families the pairs of rotary dims are neighbours; Hunyuan norms what is turned."""
    family = c["model_type"]
    eps = c.get("rms_norm_eps", {"ernie4_5": 1e-5, "helium": 1e-8, "hunyuan_v1_dense": 1e-5}.get(family, 1e-6))
    theta = {"ernie4_5": 500000.0, "helium": 100000.0}.get(family, 10000.0)
    turn = turn_pairs if family in ("ernie4_5", "helium") else plain.turn
    own = {"rope_theta": theta, **c}
    scaling, size = c.get("rope_scaling") or {}, heads(c)[2]
    if scaling.get("alpha"):
        own |= {"rope_scaling": None, "rope_theta": own["rope_theta"] * scaling["alpha"] ** (size / (size - 2))}
    angles, factor = plain.frequencies(own, int(columns[-1]) + 1)
    x = w["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        y = plain.rms_norm(x, w[f"{layer}.input_layernorm.weight"], eps)
        q, k, v = projections(c, w, f"{layer}.self_attn", y)
        q, k = turn(q, columns, angles, factor), turn(k, columns, angles, factor)
        if family == "hunyuan_v1_dense":
            q = plain.rms_norm(q, w[f"{layer}.self_attn.query_layernorm.weight"], eps)
            k = plain.rms_norm(k, w[f"{layer}.self_attn.key_layernorm.weight"], eps)
        mixed = attention(q, k, v, columns, size**-0.5, None)
        x = x + plain.linear(w, f"{layer}.self_attn.o_proj", mixed)
        y = plain.rms_norm(x, w[f"{layer}.post_attention_layernorm.weight"], eps)
        x = x + gated(w, f"{layer}.mlp", y, "silu")
    return output(c, w, plain.rms_norm(x, w["model.norm.weight"], eps))


def arcee(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    eps = c.get("rms_norm_eps", 1e-5)
    angles, factor = plain.frequencies(c, int(columns[-1]) + 1)
    x = w["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        y = plain.rms_norm(x, w[f"{layer}.input_layernorm.weight"], eps)
        q, k, v = projections(c, w, f"{layer}.self_attn", y)
        q, k = plain.turn(q, columns, angles, factor), plain.turn(k, columns, angles, factor)
        mixed = attention(q, k, v, columns, heads(c)[2] ** -0.5, None)
        x = x + plain.linear(w, f"{layer}.self_attn.o_proj", mixed)
        y = plain.rms_norm(x, w[f"{layer}.post_attention_layernorm.weight"], eps)
        y = plain.linear(w, f"{layer}.mlp.up_proj", y)
        squared = c.get("hidden_act", "relu2") == "relu2"
        y = np.maximum(y, 0) ** 2 if squared else plain.ACTIVATIONS[c["hidden_act"]](y)
        x = x + plain.linear(w, f"{layer}.mlp.down_proj", y)
    return output(c, w, plain.rms_norm(x, w["model.norm.weight"], eps))


def exaone(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    return output(c, w, plain.hidden_states({"rope_theta": 500000.0, "rms_norm_eps": 1e-5, **c}, w, ids, columns))


def exaone4(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    eps = c.get("rms_norm_eps", 1e-5)
    angles, factor = plain.frequencies(c, int(columns[-1]) + 1)
    x = w["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        q, k, v = projections(c, w, f"{layer}.self_attn", x)
        q = plain.rms_norm(q, w[f"{layer}.self_attn.q_norm.weight"], eps)
        k = plain.rms_norm(k, w[f"{layer}.self_attn.k_norm.weight"], eps)
        if c["sliding_window"] is None or is_local(c, i):
            q, k = plain.turn(q, columns, angles, factor), plain.turn(k, columns, angles, factor)
        mixed = attention(q, k, v, columns, heads(c)[2] ** -0.5, window(c, i))
        y = plain.linear(w, f"{layer}.self_attn.o_proj", mixed)
        x = x + plain.rms_norm(y, w[f"{layer}.post_attention_layernorm.weight"], eps)
        y = gated(w, f"{layer}.mlp", x, "silu")
        x = x + plain.rms_norm(y, w[f"{layer}.post_feedforward_layernorm.weight"], eps)
    return output(c, w, plain.rms_norm(x, w["model.norm.weight"], eps))


def glm(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    eps, between = c.get("rms_norm_eps", 1.5625e-07), c["model_type"] == "glm4"
    angles, factor = plain.frequencies({"partial_rotary_factor": 0.5, **c}, int(columns[-1]) + 1)

    def norm(x: Array, name: str) -> Array:
        return plain.rms_norm(x, w[f"{name}.weight"], eps)

    x = w["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        q, k, v = projections(c, w, f"{layer}.self_attn", norm(x, f"{layer}.input_layernorm"))
        q, k = turn_pairs(q, columns, angles, factor), turn_pairs(k, columns, angles, factor)
        y = plain.linear(w, f"{layer}.self_attn.o_proj", attention(q, k, v, columns, heads(c)[2] ** -0.5, None))
        x = x + (norm(y, f"{layer}.post_self_attn_layernorm") if between else y)
        y = plain.linear(w, f"{layer}.mlp.gate_up_proj", norm(x, f"{layer}.post_attention_layernorm"))
        gate, up = np.split(y, 2, -1)
        y = plain.linear(w, f"{layer}.mlp.down_proj", plain.ACTIVATIONS["silu"](gate) * up)
        x = x + (norm(y, f"{layer}.post_mlp_layernorm") if between else y)
    return output(c, w, norm(x, "model.norm"))


def nemotron(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    eps, length = c.get("norm_eps", 1e-5), int(columns[-1]) + 1

    def norm(x: Array, name: str) -> Array:
        return plain_norm(x, eps) * (1 + w[f"{name}.weight"]) + w[f"{name}.bias"]

    angles, factor = plain.frequencies({"partial_rotary_factor": 0.5, **c}, length)
    x = w["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        q, k, v = projections(c, w, f"{layer}.self_attn", norm(x, f"{layer}.input_layernorm"))
        q, k = plain.turn(q, columns, angles, factor), plain.turn(k, columns, angles, factor)
        mixed = attention(q, k, v, columns, heads(c)[2] ** -0.5, None)
        x = x + plain.linear(w, f"{layer}.self_attn.o_proj", mixed)
        y = plain.linear(w, f"{layer}.mlp.up_proj", norm(x, f"{layer}.post_attention_layernorm"))
        squared = c.get("hidden_act", "relu2") == "relu2"
        y = np.maximum(y, 0) ** 2 if squared else plain.ACTIVATIONS[c["hidden_act"]](y)
        x = x + plain.linear(w, f"{layer}.mlp.down_proj", y)
    return output(c, w, norm(x, "model.norm"))


def olmo(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    angles, factor = plain.frequencies(c, int(columns[-1]) + 1)
    most = c["clip_qkv"] or np.inf
    x = w["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        q, k, v = (np.clip(y, -most, most) for y in projections(c, w, f"{layer}.self_attn", plain_norm(x)))
        q, k = plain.turn(q, columns, angles, factor), plain.turn(k, columns, angles, factor)
        mixed = attention(q, k, v, columns, heads(c)[2] ** -0.5, None)
        x = x + plain.linear(w, f"{layer}.self_attn.o_proj", mixed)
        x = x + gated(w, f"{layer}.mlp", plain_norm(x), "silu")
    return output(c, w, plain_norm(x))


def olmo3(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    eps, base = c.get("rms_norm_eps", 1e-5), c.get("rope_theta", 500000.0)
    x = w["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        angles, factor = frequencies_of_kind(c, i, int(columns[-1]) + 1, base, base)
        q, k, v = projections(c, w, f"{layer}.self_attn", x)
        shape = len(x), -1
        q, k = (
            plain.rms_norm(y.reshape(shape), w[f"{layer}.self_attn.{name}_norm.weight"], eps).reshape(y.shape)
            for y, name in ((q, "q"), (k, "k"))
        )
        q, k = plain.turn(q, columns, angles, factor), plain.turn(k, columns, angles, factor)
        mixed = attention(q, k, v, columns, heads(c)[2] ** -0.5, window(c, i))
        y = plain.linear(w, f"{layer}.self_attn.o_proj", mixed)
        x = x + plain.rms_norm(y, w[f"{layer}.post_attention_layernorm.weight"], eps)
        y = gated(w, f"{layer}.mlp", x, "silu")
        x = x + plain.rms_norm(y, w[f"{layer}.post_feedforward_layernorm.weight"], eps)
    return output(c, w, plain.rms_norm(x, w["model.norm.weight"], eps))


LOGITS: dict[str, Callable[[Config, Weights, Array, Array], Array]] = {
    "gemma": gemma,
    "gemma2": _between_norms,
    "gemma3_text": _between_norms,
    "cohere": cohere,
    "cohere2": cohere,
    "arcee": arcee,
    "seed_oss": pre_norm,
    "ernie4_5": pre_norm,
    "helium": pre_norm,
    "hunyuan_v1_dense": pre_norm,
    "exaone": exaone,
    "exaone4": exaone4,
    "glm": glm,
    "glm4": glm,
    "nemotron": nemotron,
    "olmo": olmo,
    "olmo3": olmo3,
}
