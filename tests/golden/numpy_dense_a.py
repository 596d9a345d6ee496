# SPDX-License-Identifier: MIT
"""What the models of ``tiny_dense_a`` compute: their part of ``numpy_decoders``, a function for each family."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .tiny_bert import Array
from .tiny_dense_a import heads

Config = dict[str, Any]
Weights = Mapping[str, Array]

_erf = np.frompyfunc(math.erf, 1, 1)


def _tanh_gelu(x: Array, factor: float = math.sqrt(2 / math.pi)) -> Array:
    return 0.5 * x * (1 + np.tanh(factor * x * (1 + 0.044715 * x * x)))


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2)).astype(np.float64)),
    "gelu_new": _tanh_gelu, "gelu_pytorch_tanh": _tanh_gelu,
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


HIDDEN: dict[str, Callable[[Config, Weights, Array, Array], Array]] = {"gpt2": _gpt2}
"""model_type -> (S, H) of one sequence, whose tokens stand in ascending columns (S,)."""


def head(c: Config, w: Weights, x: Array, table: Array) -> Array:
    """(S, V) logits; ``table``: weights of the last layer."""
    return x @ table.T + w.get("lm_head.bias", 0.0)
