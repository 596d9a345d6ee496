# SPDX-License-Identifier: MIT
"""What the models of ``tiny_families`` compute, in double precision and NumPy alone, written for reading."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .tiny_bert import Array
from .tiny_families import CLASSIFIERS, LAYERS, LM_HEADS, layer_prefixes, prefix, width

_erf = np.frompyfunc(math.erf, 1, 1)


def _gelu(x: Array) -> Array:
    return x * 0.5 * (1 + _erf(x / math.sqrt(2)).astype(np.float64))


def _gelu_new(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": _gelu, "gelu_new": _gelu_new, "relu": lambda x: np.maximum(x, 0), "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh, "none": lambda x: x,
}  # fmt: skip


class _Weights:
    """Linear layers and norms of a file by name, widened."""

    def __init__(self, arrays: Mapping[str, Array], below: str = "") -> None:
        self._arrays, self._below = arrays, below

    def __getitem__(self, name: str) -> Array:
        return self._arrays[self._below + name].astype(np.float64)

    def linear(self, name: str, x: Array, activation: str = "none") -> Array:
        return ACTIVATIONS[activation](x @ self[f"{name}.weight"].T + self[f"{name}.bias"])

    def norm(self, name: str, x: Array, eps: float) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        return centred / spread * self[f"{name}.weight"] + self[f"{name}.bias"]


def _positions(c: dict[str, Any], ids: Array) -> Array:
    family = c["model_type"]
    if family not in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        return np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    pad = 1 if family == "mpnet" else c["pad_token_id"]
    real = ids != pad
    return np.cumsum(real, axis=1) * real + pad


def _bucket(distance: int) -> int:
    """MPNet's bucket of a key that stands ``distance`` places ahead: 16 for each direction, 8 of them exact."""
    far = abs(distance)
    if far >= 8:
        # log base 16 of far / 8 in eighths is the number of half octaves above 8, which integers decide
        far = 8 + sum(far**2 >= 2 ** (6 + steps) for steps in range(1, 8))
    return far + (16 if distance > 0 else 0)


def _heads(x: Array, heads: int) -> Array:
    batch, columns, size = x.shape
    return x.reshape(batch, columns, heads, size // heads).transpose(0, 2, 1, 3)


def _attention(q: Array, k: Array, v: Array, heads: int, mask: Array, bias: Array | float) -> Array:
    q, k, v = (_heads(x, heads) for x in (q, k, v))
    scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(q.shape[-1]) + bias
    scores = np.where(mask[:, None, None, :] == 1, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = weights / weights.sum(-1, keepdims=True) @ v
    return mixed.transpose(0, 2, 1, 3).reshape(mask.shape + (-1,))


def hidden_states(c: dict[str, Any], arrays: Mapping[str, Array], ids: Array, mask: Array, types: Array) -> Array:
    """(B, S, H): every row needs a token that the mask does not exclude."""
    family = c["model_type"]
    under_head = any(name.startswith(prefix(family)) for name in arrays)
    t = _Weights(arrays, prefix(family) if under_head else "")
    eps = c.get("layer_norm_eps", 1e-12)
    heads = c["n_heads"] if family == "distilbert" else c["num_attention_heads"]
    activation = c["activation"] if family == "distilbert" else c["hidden_act"]

    x = t["embeddings.word_embeddings.weight"][ids]
    x = x + t["embeddings.position_embeddings.weight"][_positions(c, ids)]
    if family not in ("distilbert", "mpnet"):
        x = x + t["embeddings.token_type_embeddings.weight"][types]
    x = t.norm("embeddings.LayerNorm", x, eps)
    if family == "electra" and c["embedding_size"] != c["hidden_size"]:
        x = t.linear("embeddings_project", x)
    if family == "albert":
        x = t.linear("encoder.embedding_hidden_mapping_in", x)
    bias: Array | float = 0.0
    if family == "mpnet":
        count = ids.shape[1]
        by_distance = np.array([_bucket(distance) for distance in range(-count, count)])
        buckets = by_distance[np.arange(count)[None, :] - np.arange(count)[:, None] + count]
        bias = t["encoder.relative_attention_bias.weight"][buckets].transpose(2, 0, 1)

    names = LAYERS[family]
    for layer in layer_prefixes(c):
        q, k, v = (t.linear(layer + names[part], x) for part in ("query", "key", "value"))
        mixed = t.linear(layer + names["mix"], _attention(q, k, v, heads, mask, bias))
        x = t.norm(layer + names["first_norm"], x + mixed, eps)
        inner = t.linear(layer + names["up"], x, activation)
        x = t.norm(layer + names["last_norm"], x + t.linear(layer + names["down"], inner), eps)
    assert x.shape == (*ids.shape, width(c))
    return x


def outputs(c: dict[str, Any], arrays: Mapping[str, Array], ids: Array, mask: Array, types: Array) -> dict[str, Array]:
    """The fields of transformers' output for the class under ``architectures``."""
    family, head = c["model_type"], c["architectures"][0]
    x = hidden_states(c, arrays, ids, mask, types)
    pooler = "pooler" if family == "albert" else "pooler.dense"
    t = _Weights(arrays)
    if head.endswith("ForMaskedLM"):
        dense, norm, decoder, bias = LM_HEADS[family]
        own = {"roberta": "gelu", "xlm-roberta": "gelu", "camembert": "gelu", "mpnet": "gelu", "electra": "gelu"}
        activation = own.get(family) or c.get("hidden_act") or c["activation"]
        x = t.norm(norm, t.linear(dense, x, activation), c.get("layer_norm_eps", 1e-12))
        tied = c.get("tie_word_embeddings", True)
        table = f"{prefix(family)}embeddings.word_embeddings" if tied else decoder
        return {"logits": x @ t[f"{table}.weight"].T + t[bias if tied else f"{decoder}.bias"]}
    if head.endswith("ForSequenceClassification"):
        first = x[:, 0]
        if family in ("bert", "albert"):
            first = t.linear(prefix(family) + pooler, first, "tanh")
        *before, last = CLASSIFIERS[family]
        for name in before:
            first = t.linear(name, first, {"distilbert": "relu", "electra": "gelu"}.get(family, "tanh"))
        return {"logits": t.linear(last, first)}
    if head.endswith("ForTokenClassification"):
        return {"logits": t.linear("classifier", x)}
    if head.endswith("ForQuestionAnswering"):
        logits = t.linear("qa_outputs", x)
        return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}
    result = {"last_hidden_state": x}
    if f"{pooler}.weight" in arrays:
        result["pooler_output"] = t.linear(pooler, x[:, 0], "tanh")
    return result
