# SPDX-License-Identifier: MIT
"""What the models of ``tiny_dense_a`` compute: their part of ``numpy_decoders``, a function for each family."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .tiny_bert import Array
from .tiny_dense_a import heads, layers

Config = dict[str, Any]
Weights = Mapping[str, Array]

_erf = np.frompyfunc(math.erf, 1, 1)


def _tanh_gelu(x: Array, factor: float = math.sqrt(2 / math.pi)) -> Array:
    return 0.5 * x * (1 + np.tanh(factor * x * (1 + 0.044715 * x * x)))


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2)).astype(np.float64)),
    "gelu_new": _tanh_gelu, "gelu_fast": _tanh_gelu, "gelu_pytorch_tanh": _tanh_gelu,
    "relu": lambda x: np.maximum(x, 0), "silu": lambda x: x / (1 + np.exp(-x)),
}  # fmt: skip


def layer_norm(x: Array, w: Weights, name: str, eps: float) -> Array:
    """With the bias that the file has, or none; without a weight too."""
    centred = x - x.mean(-1, keepdims=True)
    x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return x * w.get(f"{name}.weight", 1.0) + w.get(f"{name}.bias", 0.0)


def linear(w: Weights, name: str, x: Array) -> Array:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def conv1d(w: Weights, name: str, x: Array) -> Array:
    """A layer that is stored as (inputs, outputs)."""
    return x @ w[f"{name}.weight"] + w[f"{name}.bias"]


def attention(q: Array, k: Array, v: Array, scale: float, places: Array | None = None, slopes: Array | None = None,
              window: int | None = None, columns: Array | None = None) -> Array:  # fmt: skip
    """(S, Hq * D) of (S, Hq, D), (S, Hkv, D): causal; scores fall with the distance of ``places`` by ``slopes``."""
    k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) * scale
    if slopes is not None and places is not None:
        scores = scores - slopes[:, None, None] * (places[:, None] - places[None, :])
    seen = np.tri(len(q), dtype=bool)
    if window is not None and columns is not None:
        seen = seen & (columns[:, None] - columns[None, :] < window)
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdims=True), v).reshape(len(q), -1)


def _gpt2(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    count, _, size = heads(c)
    act = _ACTIVATIONS[c.get("activation_function", "gelu_new")]
    eps = c.get("layer_norm_epsilon", 1e-5)
    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][columns]
    for i in range(c["n_layer"]):
        layer = f"transformer.h.{i}"
        normed = layer_norm(x, w, f"{layer}.ln_1", eps)
        q, k, v = (part.reshape(-1, count, size) for part in np.split(conv1d(w, f"{layer}.attn.c_attn", normed), 3, -1))
        scale = size**-0.5 if c.get("scale_attn_weights", True) else 1.0
        if c.get("scale_attn_by_inverse_layer_idx", False):
            scale /= i + 1
        x = x + conv1d(w, f"{layer}.attn.c_proj", attention(q, k, v, scale))
        normed = layer_norm(x, w, f"{layer}.ln_2", eps)
        x = x + conv1d(w, f"{layer}.mlp.c_proj", act(conv1d(w, f"{layer}.mlp.c_fc", normed)))
    return layer_norm(x, w, "transformer.ln_f", eps)


def turn(x: Array, positions: Array, c: Config, dims: int, theta: float, paired: bool = False) -> Array:
    """The first ``dims`` of heads x (S, N, D): dim i with dim i + dims / 2, or with its neighbour where ``paired``."""
    r = c.get("rope_scaling") or c.get("rope_parameters") or {}
    kind = r.get("rope_type") or r.get("type") or "default"
    plain, factor = theta ** -(np.arange(0, dims, 2) / dims), 1.0
    if kind == "linear":
        plain = plain / r["factor"]
    elif kind == "yarn":
        plain, factor = yarn(r, plain, dims, theta, r.get("original_max_position_embeddings"))
    turns = positions[:, None, None] * plain
    cos, sin = np.cos(turns) * factor, np.sin(turns) * factor
    dims = 2 * plain.size  # of an odd number one more
    result = x.copy()
    first, second = (slice(0, dims, 2), slice(1, dims, 2)) if paired else (slice(0, dims // 2), slice(dims // 2, dims))
    result[..., first] = x[..., first] * cos - x[..., second] * sin
    result[..., second] = x[..., second] * cos + x[..., first] * sin
    return result


def yarn(r: Config, plain: Array, dims: int, theta: float, original: Any) -> tuple[Array, float]:
    def pair(rotations: float) -> float:
        return dims * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(pair(32)), 0), min(math.ceil(pair(1)), dims - 1)
    ramp = np.clip((np.arange(dims // 2) - low) / (high - low if high != low else 0.001), 0, 1)
    return plain / r["factor"] * ramp + plain * (1 - ramp), 0.1 * math.log(r["factor"]) + 1


def _part(c: Config, beside: float, base: float) -> tuple[int, float]:
    """How many dims of a head turn, and the base: what the parameters say goes before what stands beside."""
    r = c.get("rope_scaling") or c.get("rope_parameters") or {}
    return int(heads(c)[2] * r.get("partial_rotary_factor", beside)), r.get("rope_theta", base)


def _gptj(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    count, _, size = heads(c)
    act = _ACTIVATIONS[c.get("activation_function", "gelu_new")]
    eps = c.get("layer_norm_epsilon", 1e-5)
    x = w["transformer.wte.weight"][ids]
    for i in range(c["n_layer"]):
        layer = f"transformer.h.{i}"
        normed = layer_norm(x, w, f"{layer}.ln_1", eps)
        if c["model_type"] == "codegen":
            parts = linear(w, f"{layer}.attn.qkv_proj", normed).reshape(len(x), 4, 3, -1)
            q, v, k = (parts[:, :, which].reshape(-1, count, size) for which in range(3))
        else:
            q, k, v = (linear(w, f"{layer}.attn.{one}_proj", normed).reshape(-1, count, size) for one in "qkv")
        q, k = (turn(one, columns, {}, c.get("rotary_dim", 64), 10000.0, paired=True) for one in (q, k))
        mixed = linear(w, f"{layer}.attn.out_proj", attention(q, k, v, size**-0.5))
        x = x + mixed + linear(w, f"{layer}.mlp.fc_out", act(linear(w, f"{layer}.mlp.fc_in", normed)))
    return layer_norm(x, w, "transformer.ln_f", eps)


def _gpt_neox(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    count, _, size = heads(c)
    act, eps = _ACTIVATIONS[c.get("hidden_act", "gelu")], c.get("layer_norm_eps", 1e-5)
    dims, theta = _part(c, c.get("rotary_pct", 0.25), c.get("rotary_emb_base", 10000.0))
    x = w["gpt_neox.embed_in.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        layer = f"gpt_neox.layers.{i}"
        normed = layer_norm(x, w, f"{layer}.input_layernorm", eps)
        qkv = linear(w, f"{layer}.attention.query_key_value", normed).reshape(-1, count, 3, size)
        q, k = (turn(qkv[:, :, which], columns, c, dims, theta) for which in (0, 1))
        y = x + linear(w, f"{layer}.attention.dense", attention(q, k, qkv[:, :, 2], size**-0.5))
        before = x if c.get("use_parallel_residual", True) else y
        normed = layer_norm(before, w, f"{layer}.post_attention_layernorm", eps)
        x = y + linear(w, f"{layer}.mlp.dense_4h_to_h", act(linear(w, f"{layer}.mlp.dense_h_to_4h", normed)))
    return layer_norm(x, w, "gpt_neox.final_layer_norm", eps)


def _of_head(x: Array, w: Weights, name: str, eps: float) -> Array:
    """Norms of heads x (S, N, D): one for all, or one for each."""
    if f"{name}.weight" in w:
        return layer_norm(x, w, name, eps)
    each = [layer_norm(x[:, head], w, f"{name}.norms.{head}", eps) for head in range(x.shape[1])]
    return np.stack(each, axis=1)


def _like_llama(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    """Phi, StarCoder 2, StableLM."""
    family = c["model_type"]
    count, shared, size = heads(c)
    usual, part, out, up, down, last = {
        "phi": ("gelu_new", 0.5, "dense", "fc1", "fc2", "final_layernorm"),
        "starcoder2": ("gelu_pytorch_tanh", 1.0, "o_proj", "c_fc", "c_proj", "norm"),
        "stablelm": ("silu", 0.25, "o_proj", "up_proj", "down_proj", "norm"),
    }[family]
    act, eps = _ACTIVATIONS[c.get("hidden_act", usual)], c.get("norm_epsilon", c.get("layer_norm_eps", 1e-5))
    dims, theta = _part(c, c.get("partial_rotary_factor", part), c.get("rope_theta", 10000.0))
    x = w["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        normed = layer_norm(x, w, f"{layer}.input_layernorm", eps)
        q, k, v = (
            linear(w, f"{layer}.self_attn.{one}_proj", normed).reshape(-1, many, size)
            for one, many in zip("qkv", (count, shared, shared), strict=True)
        )
        if c.get("qk_layernorm", False):
            q = _of_head(q, w, f"{layer}.self_attn.q_layernorm", eps)
            k = _of_head(k, w, f"{layer}.self_attn.k_layernorm", eps)
        q, k = turn(q, columns, c, dims, theta), turn(k, columns, c, dims, theta)
        mixed = attention(q, k, v, size**-0.5, window=c.get("sliding_window"), columns=columns)
        x = x + linear(w, f"{layer}.self_attn.{out}", mixed)
        if family != "phi" and not c.get("use_parallel_residual", False):
            normed = layer_norm(x, w, f"{layer}.post_attention_layernorm", eps)
        inner = linear(w, f"{layer}.mlp.{up}", normed)
        inner = act(linear(w, f"{layer}.mlp.gate_proj", normed)) * inner if family == "stablelm" else act(inner)
        x = x + linear(w, f"{layer}.mlp.{down}", inner)
    return layer_norm(x, w, f"model.{last}", eps)


def _falcon(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    count, shared, size = heads(c)
    act, eps = _ACTIVATIONS[c.get("activation", "gelu")], c.get("layer_norm_epsilon", 1e-5)
    dims, theta = _part(c, 1.0, c.get("rope_theta", 10000.0))
    x = w["transformer.word_embeddings.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        layer = f"transformer.h.{i}"
        two = f"{layer}.ln_attn.weight" in w
        normed = layer_norm(x, w, f"{layer}.ln_attn" if two else f"{layer}.input_layernorm", eps)
        qkv = linear(w, f"{layer}.self_attention.query_key_value", normed).reshape(len(x), shared, -1, size)
        q, k, v = qkv[:, :, :-2].reshape(len(x), count, size), qkv[:, :, -2], qkv[:, :, -1]
        q, k = turn(q, columns, c, dims, theta), turn(k, columns, c, dims, theta)
        y = x + linear(w, f"{layer}.self_attention.dense", attention(q, k, v, size**-0.5))
        if two:
            normed = layer_norm(x, w, f"{layer}.ln_mlp", eps)
        elif not c.get("parallel_attn", True):
            normed = layer_norm(y, w, f"{layer}.post_attention_layernorm", eps)
        x = y + linear(w, f"{layer}.mlp.dense_4h_to_h", act(linear(w, f"{layer}.mlp.dense_h_to_4h", normed)))
    return layer_norm(x, w, "transformer.ln_f", eps)


def _slopes(count: int) -> Array:
    n = 2 ** math.floor(math.log2(count))
    found = [2 ** (-8 * k / n) for k in range(1, n + 1)]
    return np.array(found + [2 ** (-4 * k / n) for k in range(1, 2 * (count - n), 2)])


def _bloom(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    """Distances are those of the tokens that are there."""
    count, _, size = heads(c)
    eps, normed = c.get("layer_norm_epsilon", 1e-5), c.get("apply_residual_connection_post_layernorm", False)
    slopes, places = _slopes(count), np.arange(len(ids))
    x = layer_norm(w["transformer.word_embeddings.weight"][ids], w, "transformer.word_embeddings_layernorm", eps)
    for i in range(layers(c)):
        layer = f"transformer.h.{i}"
        y = layer_norm(x, w, f"{layer}.input_layernorm", eps)
        qkv = linear(w, f"{layer}.self_attention.query_key_value", y).reshape(len(x), count, 3, size)
        mixed = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], size**-0.5, places, slopes)
        x = (y if normed else x) + linear(w, f"{layer}.self_attention.dense", mixed)
        y = layer_norm(x, w, f"{layer}.post_attention_layernorm", eps)
        inner = _tanh_gelu(linear(w, f"{layer}.mlp.dense_h_to_4h", y), 0.79788456)
        x = (y if normed else x) + linear(w, f"{layer}.mlp.dense_4h_to_h", inner)
    return layer_norm(x, w, "transformer.ln_f", eps)


def _mpt(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    """Distances are those of columns."""
    count, _, size = heads(c)
    own, eps = c.get("attn_config", {}), c.get("layer_norm_epsilon", 1e-5)
    slopes, clip = _slopes(count), own.get("clip_qkv")
    x = w["transformer.wte.weight"][ids]
    for i in range(c["n_layers"]):
        layer = f"transformer.blocks.{i}"
        qkv = linear(w, f"{layer}.attn.Wqkv", layer_norm(x, w, f"{layer}.norm_1", eps))
        qkv = np.clip(qkv, -clip, clip) if clip else qkv
        q, k, v = (part.reshape(-1, count, size) for part in np.split(qkv, 3, -1))
        x = x + linear(w, f"{layer}.attn.out_proj",
                       attention(q, k, v, own.get("softmax_scale") or size**-0.5, columns, slopes))  # fmt: skip
        inner = _ACTIVATIONS["gelu"](linear(w, f"{layer}.ffn.up_proj", layer_norm(x, w, f"{layer}.norm_2", eps)))
        x = x + linear(w, f"{layer}.ffn.down_proj", inner)
    return layer_norm(x, w, "transformer.norm_f", eps)


def _opt(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    """Positions are those of the tokens that are there."""
    count, _, size = heads(c)
    act, d = _ACTIVATIONS[c.get("activation_function", "relu")], "model.decoder"
    first = c.get("do_layer_norm_before", True)
    x = w[f"{d}.embed_tokens.weight"][ids]
    if f"{d}.project_in.weight" in w:
        x = linear(w, f"{d}.project_in", x)
    x = x + w[f"{d}.embed_positions.weight"][2 : 2 + len(ids)]

    def norm(x: Array, name: str, here: bool) -> Array:
        return layer_norm(x, w, f"{d}.{name}", 1e-5) if here else x

    for i in range(c["num_hidden_layers"]):
        layer, before = f"layers.{i}", norm(x, f"layers.{i}.self_attn_layer_norm", first)
        q, k, v = (linear(w, f"{d}.{layer}.self_attn.{one}_proj", before).reshape(-1, count, size) for one in "qkv")
        x = x + linear(w, f"{d}.{layer}.self_attn.out_proj", attention(q, k, v, size**-0.5))
        x = norm(x, f"{layer}.self_attn_layer_norm", not first)
        inner = act(linear(w, f"{d}.{layer}.fc1", norm(x, f"{layer}.final_layer_norm", first)))
        x = norm(x + linear(w, f"{d}.{layer}.fc2", inner), f"{layer}.final_layer_norm", not first)
    x = norm(x, "final_layer_norm", first)
    return linear(w, f"{d}.project_out", x) if f"{d}.project_out.weight" in w else x


HIDDEN: dict[str, Callable[[Config, Weights, Array, Array], Array]] = {
    "gpt2": _gpt2, "gptj": _gptj, "codegen": _gptj, "gpt_neox": _gpt_neox, "phi": _like_llama,
    "starcoder2": _like_llama, "stablelm": _like_llama, "falcon": _falcon, "bloom": _bloom, "mpt": _mpt, "opt": _opt,
}  # fmt: skip
"""model_type -> (S, H) of one sequence, whose tokens stand in ascending columns (S,)."""


def head(c: Config, w: Weights, x: Array, table: Array) -> Array:
    """(S, V) logits; ``table``: weights of the last layer."""
    return x @ table.T + w.get("lm_head.bias", 0.0)
