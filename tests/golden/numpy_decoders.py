# SPDX-License-Identifier: MIT
"""What the models of ``tiny_decoders`` compute, in double precision and NumPy alone, written for reading."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import numpy_dense_a, numpy_dense_b
from .tiny_bert import Array
from .tiny_decoders import TIED, head_name, heads, table_name

Config = dict[str, Any]
Weights = Mapping[str, Array]

PARTIAL = ("nemotron", "glm", "glm4")
"""Families of which part of a head may turn; Phi-3, which has more of its own, is not among them."""

_erf = np.frompyfunc(math.erf, 1, 1)


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2)).astype(np.float64)),
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "relu": lambda x: np.maximum(x, 0),
}


# ---- the folder -----------------------------------------------------------------------------------------------------


def load(folder: Path) -> tuple[Config, Weights]:
    """config.json and the tensors of model.safetensors, widened to double precision."""
    c = json.loads((folder / "config.json").read_text())
    data = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    weights = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            first, last = (8 + length + offset for offset in entry["data_offsets"])
            weights[name] = _widened(data[first:last], entry["dtype"]).reshape(entry["shape"])
    return c, weights


def _widened(data: bytes, dtype: str) -> Array:
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float64)


# ---- rotary positions -----------------------------------------------------------------------------------------------


def rotary(c: Config) -> dict[str, Any]:
    """rope_type, rope_theta and the rest under one roof: ``rope_scaling``, else ``rope_parameters``, whose own values
    go before those beside them."""
    found = dict(c.get("rope_scaling") or c.get("rope_parameters") or {})
    found["rope_type"] = found.get("rope_type") or found.get("type") or "default"
    own = {"smollm3": 2000000.0}.get(c["model_type"], 10000.0)
    found.setdefault("rope_theta", c.get("rope_theta", own))
    found.setdefault("partial_rotary_factor", c.get("partial_rotary_factor", 1.0))
    if c["model_type"] in PARTIAL:
        pass
    elif c["model_type"] != "phi3":
        found["partial_rotary_factor"] = 1.0
    else:  # the one family that has the original length beside, where it goes first
        found["original_max_position_embeddings"] = c.get("original_max_position_embeddings", 4096)
        if found["rope_type"] in ("su", "yarn"):
            found["rope_type"] = "longrope"
    found.setdefault("original_max_position_embeddings", c["max_position_embeddings"])
    return found


def frequencies(c: Config, length: int) -> tuple[Array, float]:
    """(R / 2,) angles of position 1, and what multiplies cosines and sines, for a sequence of ``length`` tokens."""
    r = rotary(c)
    kind, theta, original = r["rope_type"], r["rope_theta"], r["original_max_position_embeddings"]
    dims = int(heads(c)[2] * r["partial_rotary_factor"])
    exponents = np.arange(0, dims, 2) / dims
    plain = theta**-exponents
    if kind == "default":
        return plain, 1.0
    if kind == "linear":
        return plain / r["factor"], 1.0
    if kind == "dynamic":
        longest = c["max_position_embeddings"]
        grown = r["factor"] * max(length, longest) / longest - (r["factor"] - 1)
        return (theta * grown ** (dims / (dims - 2))) ** -exponents, 1.0
    if kind == "llama3":
        low, high = r["low_freq_factor"], r["high_freq_factor"]
        rotations = original * plain / (2 * math.pi)
        smooth = np.clip((rotations - low) / (high - low), 0, 1)
        return (1 - smooth) * plain / r["factor"] + smooth * plain, 1.0
    if kind == "yarn":
        return _yarn(r, plain, dims, theta, original)
    assert kind == "longrope", kind
    divisors = np.array(r["long_factor"] if length > original else r["short_factor"])
    factor = r.get("factor") or c["max_position_embeddings"] / original
    attention = r.get("attention_factor")
    if attention is None:
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return plain / divisors, attention


def _yarn(r: dict[str, Any], plain: Array, dims: int, theta: float, original: int) -> tuple[Array, float]:
    factor = r["factor"]

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

    def pair(rotations: float) -> float:
        """The pair that turns so often within the original length."""
        return dims * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(r.get("beta_fast") or 32), pair(r.get("beta_slow") or 1)
    if r.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    ramp = np.clip((np.arange(dims // 2) - low) / (high - low if high != low else 0.001), 0, 1)
    attention = r.get("attention_factor")
    if attention is None:
        over, under = r.get("mscale"), r.get("mscale_all_dim")
        attention = mscale(over) / mscale(under) if over and under else mscale(1.0)
    return plain / factor * ramp + plain * (1 - ramp), attention


def turn(x: Array, positions: Array, angles: Array, factor: float) -> Array:
    """Heads x (S, N, D) turned by the angles of their positions: dim i with dim i + R / 2, those from R on not."""
    half = angles.size
    turns = positions[:, None, None] * angles
    cos, sin = np.cos(turns) * factor, np.sin(turns) * factor
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], -1)


# ---- one layer ------------------------------------------------------------------------------------------------------


def has_positions(c: Config, layer: int) -> bool:
    """Whether a layer turns its queries and keys."""
    if c["model_type"] != "smollm3":
        return True
    named = c.get("no_rope_layers")
    return bool(named[layer]) if named is not None else (layer + 1) % c.get("no_rope_layer_interval", 4) != 0


def window(c: Config, layer: int) -> int | None:
    """How many tokens a query of a layer sees at most, itself and those before it; None for all."""
    if c["model_type"] in numpy_dense_b.LOGITS:
        return numpy_dense_b.window(c, layer)
    family, size = c["model_type"], c.get("sliding_window")
    if family in ("mistral", "phi3"):
        return size
    if family not in ("qwen2", "qwen3", "smollm3"):
        return None
    if c.get("layer_types") is not None:
        return size if c["layer_types"][layer] == "sliding_attention" else None
    slides = not has_positions(c, layer) if family == "smollm3" else layer >= c.get("max_window_layers", 28)
    return size if slides and c.get("use_sliding_window") else None


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return weight * x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def linear(w: Weights, name: str, x: Array) -> Array:
    product = x @ w[f"{name}.weight"].T
    return product + w[f"{name}.bias"] if f"{name}.bias" in w else product


def projections(c: Config, w: Weights, name: str, x: Array) -> tuple[Array, Array, Array]:
    """Queries (S, Hq, D), keys and values (S, Hkv, D), not turned yet."""
    queries, keys, size = heads(c)
    if c["model_type"] == "phi3":
        q, k, v = np.split(linear(w, f"{name}.qkv_proj", x), [queries * size, (queries + keys) * size], -1)
    else:
        q, k, v = (linear(w, f"{name}.{part}_proj", x) for part in "qkv")
    if c["model_type"] == "olmo2":
        eps = c.get("rms_norm_eps", 1e-5)
        q, k = rms_norm(q, w[f"{name}.q_norm.weight"], eps), rms_norm(k, w[f"{name}.k_norm.weight"], eps)
    q, k, v = q.reshape(-1, queries, size), k.reshape(-1, keys, size), v.reshape(-1, keys, size)
    if c["model_type"] == "qwen3":
        eps = c.get("rms_norm_eps", 1e-6)
        q, k = rms_norm(q, w[f"{name}.q_norm.weight"], eps), rms_norm(k, w[f"{name}.k_norm.weight"], eps)
    return q, k, v


def attention(q: Array, k: Array, v: Array, columns: Array, scale: float, size: int | None) -> Array:
    """(S, Hq * D): a query sees the keys of its column and of those before it, of ``size`` columns at most."""
    k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) * scale
    distance = columns[:, None] - columns[None, :]
    seen = (distance >= 0) & (True if size is None else distance < size)
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdims=True), v).reshape(len(q), -1)


def feed_forward(c: Config, w: Weights, name: str, x: Array) -> Array:
    if c["model_type"] == "phi3":
        gate, up = np.split(linear(w, f"{name}.gate_up_proj", x), 2, -1)
    else:
        gate, up = linear(w, f"{name}.gate_proj", x), linear(w, f"{name}.up_proj", x)
    return linear(w, f"{name}.down_proj", ACTIVATIONS[c.get("hidden_act", "silu")](gate) * up)


# ---- the model ------------------------------------------------------------------------------------------------------


def hidden_states(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    """(S, H) of one sequence, whose tokens stand in ascending ``columns`` (S,), which are their positions too."""
    if c["model_type"] in numpy_dense_a.HIDDEN:
        return numpy_dense_a.HIDDEN[c["model_type"]](c, w, ids, columns)
    granite = c["model_type"] == "granite"
    eps = c.get("rms_norm_eps", 1e-5 if c["model_type"] in ("phi3", "olmo2") else 1e-6)
    behind = c["model_type"] == "olmo2"  # whose norms stand behind each part
    residual = c.get("residual_multiplier", 1.0) if granite else 1.0
    scale = c.get("attention_multiplier", 1.0) if granite else heads(c)[2] ** -0.5
    angles, factor = frequencies(c, int(columns[-1]) + 1)
    x = w["model.embed_tokens.weight"][ids] * (c.get("embedding_multiplier", 1.0) if granite else 1.0)
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        normed = x if behind else rms_norm(x, w[f"{layer}.input_layernorm.weight"], eps)
        q, k, v = projections(c, w, f"{layer}.self_attn", normed)
        if has_positions(c, i):
            q, k = turn(q, columns, angles, factor), turn(k, columns, angles, factor)
        mixed = attention(q, k, v, columns, scale, window(c, i))
        mixed = linear(w, f"{layer}.self_attn.o_proj", mixed)
        if behind:
            x = x + rms_norm(mixed, w[f"{layer}.post_attention_layernorm.weight"], eps)
            x = x + rms_norm(
                feed_forward(c, w, f"{layer}.mlp", x), w[f"{layer}.post_feedforward_layernorm.weight"], eps
            )
            continue
        x = x + residual * mixed
        normed = rms_norm(x, w[f"{layer}.post_attention_layernorm.weight"], eps)
        x = x + residual * feed_forward(c, w, f"{layer}.mlp", normed)
    return rms_norm(x, w["model.norm.weight"], eps)


def logits(c: Config, w: Weights, ids: Array, mask: Array | None = None) -> Array:
    """(B, S, V): zeros where the mask excludes a token, which nobody sees and which counts as a position still."""
    ids = np.asarray(ids)
    mask = np.ones_like(ids) if mask is None else np.asarray(mask)
    if c["model_type"] in numpy_dense_b.LOGITS:
        return numpy_dense_b.logits(c, w, ids, mask)
    tied = c.get("tie_word_embeddings", TIED.get(c["model_type"], False))
    table = w[table_name(c["model_type"]) if tied else head_name(c["model_type"])]
    divisor = c.get("logits_scaling", 1.0) if c["model_type"] == "granite" else 1.0
    result = np.zeros((*ids.shape, len(table)))
    for row, (tokens, kept) in enumerate(zip(ids, mask, strict=True)):
        columns = np.flatnonzero(kept)
        if columns.size:
            x = hidden_states(c, w, tokens[columns], columns)
            if c["model_type"] in numpy_dense_a.HIDDEN:
                result[row, columns] = numpy_dense_a.head(c, w, x, table)
            else:
                result[row, columns] = x @ table.T / divisor
    return result


def greedy(c: Config, w: Weights, prompt: Sequence[int], count: int) -> tuple[list[int], Array]:
    """The ``count`` tokens that follow ``prompt``, each the likeliest after all before it (the lowest id of several),
    and the logits (count, V) that they were chosen by."""
    tokens, chosen = list(prompt), []
    for _ in range(count):
        chosen.append(logits(c, w, np.array([tokens]))[0, -1])
        tokens.append(int(chosen[-1].argmax()))
    return tokens[len(prompt) :], np.array(chosen).reshape(count, -1)
