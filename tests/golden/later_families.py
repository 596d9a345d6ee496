# SPDX-License-Identifier: MIT
"""DeBERTa-v2, ModernBERT, NomicBERT and GTE: small folders with weights from an integer hash, and what such a model
computes, in double precision and NumPy alone, from the published definitions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .tiny_bert import Array, integers, save_safetensors, uniform

HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
_CLASSES = {
    "deberta-v2": "DebertaV2", "modernbert": "ModernBert", "nomic_bert": "NomicBert", "new": "New", "gte": "Gte",
}  # fmt: skip
_BELOW_HEADS = {
    "deberta-v2": "deberta.", "modernbert": "model.", "nomic_bert": "nomic_bert.", "new": "new.", "gte": "gte.",
}  # fmt: skip

_SIZES = {
    "vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 20,
    "max_position_embeddings": 40,
}  # fmt: skip
_DEBERTA = {
    **_SIZES, "model_type": "deberta-v2", "hidden_act": "gelu", "layer_norm_eps": 1e-7, "type_vocab_size": 0,
    "relative_attention": True, "position_buckets": 6, "max_relative_positions": 16, "norm_rel_ebd": "layer_norm",
    "share_att_key": True, "pos_att_type": "p2c|c2p", "position_biased_input": False, "pooler_hidden_act": "gelu",
}  # fmt: skip
_NOMIC = {
    "model_type": "nomic_bert", "vocab_size": 50, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_inner": 20,
    "n_positions": 40, "activation_function": "swiglu", "layer_norm_epsilon": 1e-12, "rotary_emb_base": 100,
    "rotary_emb_fraction": 1.0, "qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False,
    "type_vocab_size": 2,
}  # fmt: skip
_NEW = {
    **_SIZES, "model_type": "new", "hidden_act": "gelu", "layer_norm_eps": 1e-12, "type_vocab_size": 2,
    "position_embedding_type": "rope", "rope_theta": 30.0, "rope_scaling": {"type": "ntk", "factor": 8.0},
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "deberta": _DEBERTA,
    "deberta_own": {**_DEBERTA, "share_att_key": False, "hidden_size": 15, "position_biased_input": True,
                    "type_vocab_size": 2, "embedding_size": 9, "position_buckets": 7, "norm_rel_ebd": "none"},
    "deberta_conv": {**_DEBERTA, "conv_kernel_size": 3, "conv_act": "tanh", "pos_att_type": ["p2c"],
                     "position_buckets": -1, "max_relative_positions": -1},
    "modernbert": {**_SIZES, "model_type": "modernbert", "num_hidden_layers": 4, "global_attn_every_n_layers": 3,
                   "local_attention": 6, "global_rope_theta": 200.0, "local_rope_theta": 10.0, "norm_eps": 1e-5,
                   "hidden_activation": "gelu"},
    "modernbert_biased": {**_SIZES, "model_type": "modernbert", "local_attention": 4, "norm_eps": 1e-5,
                          "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
                          "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 50.0},
                                              "sliding_attention": None},
                          "hidden_activation": "silu", "classifier_pooling": "mean", "norm_bias": True,
                          "attention_bias": True, "mlp_bias": True, "classifier_bias": True},
    "nomic": _NOMIC,
    "nomic_plain": {**_NOMIC, "activation_function": "gelu", "qkv_proj_bias": True, "mlp_fc1_bias": True,
                    "mlp_fc2_bias": True, "rotary_emb_interleaved": True, "rotary_emb_fraction": 0.5},
    "nomic_stretched": {**_NOMIC, "activation_function": "geglu", "rotary_scaling_factor": 4,
                        "max_trained_positions": 12},
    "new": _NEW,
    "new_mixed": {**_NEW, "rope_scaling": {"type": "ntk", "factor": 4.0, "mixed_b": 0.7}, "type_vocab_size": 0},
    "new_apart": {**_NEW, "pack_qkv": False, "rope_scaling": None, "hidden_act": "silu", "type_vocab_size": 1},
    "gte": {**_NEW, "model_type": "gte", "rope_scaling": None, "rope_parameters": {"rope_type": "default",
                                                                                 "rope_theta": 40.0}},
}  # fmt: skip


def config(case: str, head: str = "Model", **changes: Any) -> dict[str, Any]:
    """config.json of a case under a head."""
    labels = 2 if head == "ForQuestionAnswering" else 3
    return {
        **CASES[case],
        "architectures": [_CLASSES[CASES[case]["model_type"]] + head],
        "id2label": {str(i): f"label {i}" for i in range(labels)},
        **changes,
    }


class Weights:
    """Tensors by full name: made of a hash when they are first asked for, then remembered, so that a model that is run
    has written down what its file has to hold.
    """

    def __init__(self, case: str, below: str) -> None:
        self.case, self.below = case, below
        self.arrays: dict[str, Array] = {}

    def get(self, name: str, *shape: int) -> Array:
        """A weight: of norms around 1, of queries and keys large, so that softmax is far from flat."""
        if name not in self.arrays:
            norm = len(shape) == 1 and name.endswith("weight")
            peaked = any(part in name for part in ("query", "key", "q_proj", "k_proj", "qkv", "Wqkv", "rel_emb"))
            gain = 0.3 if len(shape) == 1 else (3.0 if peaked else 1.2) / math.sqrt(shape[-1])
            array = uniform(f"{self.case}/{name.removeprefix(self.below)}", shape) * np.float32(gain)
            self.arrays[name] = array + np.float32(1) if norm else array
        return self.arrays[name].astype(np.float64)

    def linear(self, name: str, x: Array, outputs: int, bias: bool = True) -> Array:
        y = x @ self.get(f"{name}.weight", outputs, x.shape[-1]).T
        return y + self.get(f"{name}.bias", outputs) if bias else y

    def norm(self, name: str, x: Array, eps: float, bias: bool = True) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * self.get(f"{name}.weight", x.shape[-1])
        return y + self.get(f"{name}.bias", x.shape[-1]) if bias else y


_erf = np.frompyfunc(math.erf, 1, 1)
ACT: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2)).astype(np.float64)), "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}  # fmt: skip


def _split(x: Array, heads: int) -> Array:
    return x.reshape(*x.shape[:-1], heads, -1).swapaxes(-3, -2)


def _mix(scores: Array, seen: Array, v: Array) -> Array:
    """softmax(scores) v over the keys that are ``seen``, heads joined again."""
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = weights / weights.sum(-1, keepdims=True) @ v
    return mixed.swapaxes(-3, -2).reshape(*mixed.shape[:-3], mixed.shape[-2], -1)


def _turn(x: Array, frequencies: Array, interleaved: bool = False) -> Array:
    """Rotary positions of x (..., S, D): position times frequency, for the first 2 * len(frequencies) dims."""
    half = len(frequencies)
    angles = np.arange(x.shape[-2])[:, None] * frequencies
    cos, sin = np.cos(angles), np.sin(angles)
    result = x.copy()
    first, second = slice(half), slice(half, 2 * half)
    if interleaved:
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    a, b = x[..., first], x[..., second]
    result[..., first], result[..., second] = a * cos - b * sin, b * cos + a * sin
    return result


def _frequencies(c: dict[str, Any], dims: int, theta: float, length: int) -> Array:
    i = np.arange(dims // 2)
    scaling = c.get("rope_scaling") or {}
    factor, b = scaling.get("factor"), scaling.get("mixed_b")
    if factor and b is None:
        return (theta * factor) ** (-2 * i / dims) / factor ** (2 / dims)
    if factor:
        return theta ** (-2 * i / dims) / np.exp(math.log(factor) / (dims / 2) ** b * (i + 1) ** b)
    if c.get("rotary_scaling_factor") and length > c["max_trained_positions"]:
        grown = c["rotary_scaling_factor"]
        theta *= (grown * length / c["max_trained_positions"] - (grown - 1)) ** (dims / (dims - 2))
    return theta ** (-2 * i / dims)


# ---- families: one row of token ids (S,), the columns that are attended ----------------------------------------------


def _deberta_column(c: dict[str, Any], distance: int) -> int:
    """Of the relative embeddings."""
    span = c["position_buckets"]
    furthest = c["max_relative_positions"] if c["max_relative_positions"] > 0 else c["max_position_embeddings"]
    bucket, middle = abs(distance), span // 2
    if span <= 0:
        span = furthest
    elif bucket > middle:
        steps = math.log(bucket / middle) / math.log((furthest - 1) / middle) * (middle - 1)
        bucket = middle + math.ceil(round(steps, 9))
    return min(max(math.copysign(bucket, distance) + span, 0), 2 * span - 1).__int__()


def _deberta(c: dict[str, Any], w: Weights, p: str, ids: Array, seen: Array, types: Array) -> Array:
    hidden, heads, eps = c["hidden_size"], c["num_attention_heads"], c["layer_norm_eps"]
    width, s = c.get("embedding_size", hidden), len(ids)
    x = w.get(f"{p}embeddings.word_embeddings.weight", c["vocab_size"], width)[ids]
    if c["position_biased_input"]:
        table = w.get(f"{p}embeddings.position_embeddings.weight", c["max_position_embeddings"], width)
        x = x + table[:s]
    if c["type_vocab_size"]:
        x = x + w.get(f"{p}embeddings.token_type_embeddings.weight", c["type_vocab_size"], width)[types]
    if width != hidden:
        x = w.linear(f"{p}embeddings.embed_proj", x, hidden, bias=False)
    x = w.norm(f"{p}embeddings.LayerNorm", x, eps) * seen[:, None]
    span = c["position_buckets"] if c["position_buckets"] > 0 else c["max_position_embeddings"]
    relative = w.get(f"{p}encoder.rel_embeddings.weight", 2 * span, hidden)
    if c["norm_rel_ebd"] == "layer_norm":
        relative = w.norm(f"{p}encoder.LayerNorm", relative, eps)
    columns = np.array([[_deberta_column(c, i - j) for j in range(s)] for i in range(s)])
    rows = np.arange(s)[:, None]
    kinds = c["pos_att_type"]
    scale = math.sqrt(hidden // heads * (1 + ("c2p" in kinds) + ("p2c" in kinds)))
    first = x
    for i in range(c["num_hidden_layers"]):
        n = f"{p}encoder.layer.{i}."
        own = f"{n}attention.self."
        q, k, v = (_split(w.linear(f"{own}{part}_proj", x, hidden), heads) for part in ("query", "key", "value"))
        scores = q @ k.swapaxes(-1, -2)
        shared = "" if c["share_att_key"] else "pos_"
        if "c2p" in kinds:
            position_keys = _split(w.linear(f"{own}{shared}key_proj", relative, hidden), heads)
            scores = scores + (q @ position_keys.swapaxes(-1, -2))[:, rows, columns]
        if "p2c" in kinds:
            position_queries = _split(w.linear(f"{own}{shared}query_proj", relative, hidden), heads)
            scores = scores + (k @ position_queries.swapaxes(-1, -2))[:, rows.T, columns]
        mixed = w.linear(f"{n}attention.output.dense", _mix(scores / scale, seen, v), hidden)
        x = w.norm(f"{n}attention.output.LayerNorm", x + mixed, eps)
        inner = ACT[c["hidden_act"]](w.linear(f"{n}intermediate.dense", x, c["intermediate_size"]))
        x = w.norm(f"{n}output.LayerNorm", x + w.linear(f"{n}output.dense", inner, hidden), eps)
        if i == 0 and c.get("conv_kernel_size"):
            size = c["conv_kernel_size"]
            kernel = w.get(f"{p}encoder.conv.conv.weight", hidden, hidden, size)
            padded = np.pad(first, ((size // 2, size // 2), (0, 0)))
            y = sum(padded[o : o + s] @ kernel[:, :, o].T for o in range(size))
            y = ACT[c["conv_act"]](y + w.get(f"{p}encoder.conv.conv.bias", hidden))
            x = w.norm(f"{p}encoder.conv.LayerNorm", x + y, eps)
    return x


def _modernbert(c: dict[str, Any], w: Weights, p: str, ids: Array, seen: Array, types: Array) -> Array:
    hidden, heads, eps, inner = c["hidden_size"], c["num_attention_heads"], c["norm_eps"], c["intermediate_size"]
    biased = [c.get(key, False) for key in ("norm_bias", "attention_bias", "mlp_bias")]
    table = w.get(f"{p}embeddings.tok_embeddings.weight", c["vocab_size"], hidden)
    x = w.norm(f"{p}embeddings.norm", table[ids], eps, biased[0])
    at = np.arange(len(ids))
    for i in range(c["num_hidden_layers"]):
        n = f"{p}layers.{i}."
        if "layer_types" in c:
            local = c["layer_types"][i] == "sliding_attention"
            theta = 10000.0 if local else c["rope_parameters"]["full_attention"]["rope_theta"]
        else:
            local = i % c["global_attn_every_n_layers"] > 0
            theta = c["local_rope_theta" if local else "global_rope_theta"]
        near = np.abs(at[:, None] - at) <= c["local_attention"] // 2 if local else True
        y = w.norm(f"{n}attn_norm", x, eps, biased[0]) if i else x
        q, k, v = (_split(a, heads) for a in np.split(w.linear(f"{n}attn.Wqkv", y, 3 * hidden, biased[1]), 3, axis=-1))
        turns = _frequencies(c, hidden // heads, theta, 0)
        scores = _turn(q, turns) @ _turn(k, turns).swapaxes(-1, -2) / math.sqrt(hidden // heads)
        x = x + w.linear(f"{n}attn.Wo", _mix(scores, seen & near | np.eye(len(ids), dtype=bool), v), hidden, biased[1])
        y = w.linear(f"{n}mlp.Wi", w.norm(f"{n}mlp_norm", x, eps, biased[0]), 2 * inner, biased[2])
        y = ACT[c["hidden_activation"]](y[:, :inner]) * y[:, inner:]
        x = x + w.linear(f"{n}mlp.Wo", y, hidden, biased[2])
    return w.norm(f"{p}final_norm", x, eps, biased[0])


def _nomic(c: dict[str, Any], w: Weights, p: str, ids: Array, seen: Array, types: Array) -> Array:
    hidden, heads, eps, inner = c["n_embd"], c["n_head"], c["layer_norm_epsilon"], c["n_inner"]
    x = w.get(f"{p}embeddings.word_embeddings.weight", c["vocab_size"], hidden)[ids]
    x = x + w.get(f"{p}embeddings.token_type_embeddings.weight", 2, hidden)[types]
    x = w.norm(f"{p}emb_ln", x, eps)
    dims, apart = int(hidden // heads * c["rotary_emb_fraction"]), c.get("rotary_emb_interleaved", False)
    length = int(np.flatnonzero(seen).max()) + 1
    turns = _frequencies(c, dims, c["rotary_emb_base"], length)
    for i in range(c["n_layer"]):
        n = f"{p}encoder.layers.{i}."
        qkv = w.linear(f"{n}attn.Wqkv", x, 3 * hidden, c["qkv_proj_bias"])
        q, k, v = (_split(a, heads) for a in np.split(qkv, 3, axis=-1))
        scores = _turn(q, turns, apart) @ _turn(k, turns, apart).swapaxes(-1, -2) / math.sqrt(hidden // heads)
        mixed = w.linear(f"{n}attn.out_proj", _mix(scores, seen, v), hidden, c["qkv_proj_bias"])
        x = w.norm(f"{n}norm1", x + mixed, eps)
        if c["activation_function"] == "gelu":
            y = ACT["gelu"](w.linear(f"{n}mlp.fc1", x, inner, c["mlp_fc1_bias"]))
        else:
            gate = {"swiglu": "silu", "geglu": "gelu"}[c["activation_function"]]
            up, through = (w.linear(f"{n}mlp.{part}", x, inner, c["mlp_fc1_bias"]) for part in ("fc11", "fc12"))
            y = up * ACT[gate](through)
        x = w.norm(f"{n}norm2", x + w.linear(f"{n}mlp.fc2", y, hidden, c["mlp_fc2_bias"]), eps)
    return x


def _gte(c: dict[str, Any], w: Weights, p: str, ids: Array, seen: Array, types: Array) -> Array:
    hidden, heads, eps = c["hidden_size"], c["num_attention_heads"], c["layer_norm_eps"]
    split = c["model_type"] == "gte"  # tensors by the names of transformers
    x = w.get(f"{p}embeddings.word_embeddings.weight", c["vocab_size"], hidden)[ids]
    if c["type_vocab_size"]:
        x = x + w.get(f"{p}embeddings.token_type_embeddings.weight", c["type_vocab_size"], hidden)[types]
    x = w.norm(f"{p}embeddings.LayerNorm", x, eps)
    theta = c["rope_parameters"]["rope_theta"] if split else c["rope_theta"]
    turns = _frequencies(c, hidden // heads, theta, 0)
    for i in range(c["num_hidden_layers"]):
        n = f"{p}layers.{i}." if split else f"{p}encoder.layer.{i}."
        own = "self_attn." if split else "attention."
        if split or not c.get("pack_qkv", True):
            parts = [w.linear(f"{n}{own}{part}_proj", x, hidden) for part in "qkv"]
        else:
            parts = np.split(w.linear(f"{n}{own}qkv_proj", x, 3 * hidden), 3, axis=-1)
        q, k, v = (_split(a, heads) for a in parts)
        scores = _turn(q, turns) @ _turn(k, turns).swapaxes(-1, -2) / math.sqrt(hidden // heads)
        mixed = w.linear(f"{n}{own}o_proj", _mix(scores, seen, v), hidden)
        x = w.norm(n + ("post_attention_layernorm" if split else "attn_ln"), x + mixed, eps)
        inner = c["intermediate_size"]
        if split:
            up, gate = (w.linear(f"{n}mlp.{part}_proj", x, inner, bias=False) for part in ("up", "gate"))
        else:
            up, gate = np.split(w.linear(f"{n}mlp.up_gate_proj", x, 2 * inner, bias=False), 2, axis=-1)
        y = w.linear(f"{n}mlp.down_proj", ACT[c["hidden_act"]](gate) * up, hidden)
        x = w.norm(n + ("post_mlp_layernorm" if split else "mlp_ln"), x + y, eps)
    return x


_FAMILIES = {"deberta-v2": _deberta, "modernbert": _modernbert, "nomic_bert": _nomic, "new": _gte, "gte": _gte}


def _outputs(c: dict[str, Any], w: Weights, p: str, x: Array, seen: Array) -> dict[str, Array]:
    """The fields of transformers' output for the class under ``architectures``; x is one row (S, H)."""
    family, head, hidden, labels = c["model_type"], c["architectures"][0], x.shape[-1], len(c["id2label"])
    eps = c.get("layer_norm_eps") or c.get("norm_eps") or c["layer_norm_epsilon"]
    modern, masked = family == "modernbert", head.endswith("ForMaskedLM")
    if modern and not head.endswith("Model"):
        if head.endswith("ForSequenceClassification"):
            x = x[seen].mean(axis=0) if c.get("classifier_pooling") == "mean" else x[0]
        x = ACT["gelu"](w.linear("head.dense", x, hidden, c.get("classifier_bias", False)))
        x = w.norm("head.norm", x, eps, c.get("norm_bias", False))
        if masked:
            table = w.get(f"{p}embeddings.tok_embeddings.weight", c["vocab_size"], hidden)
            return {"logits": x @ table.T + w.get("decoder.bias", c["vocab_size"])}
    elif masked:
        width = c.get("embedding_size", hidden)
        transform, bias = "cls.predictions.transform", "cls.predictions.bias"
        dense, norm, bias = {
            "deberta-v2": (f"{transform}.dense", f"{transform}.LayerNorm", bias),
            "nomic_bert": (f"{transform}.dense", f"{transform}.layer_norm", bias),
            "new": ("lm_head.dense", "lm_head.norm", "lm_head.decoder.bias"),
            "gte": ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder.bias"),
        }[family]  # fmt: skip
        act = {"swiglu": "silu"}.get(c.get("activation_function", ""), c.get("hidden_act", "gelu"))
        x = w.norm(norm, ACT[act](w.linear(dense, x, width)), eps)
        table = w.get(f"{p}embeddings.word_embeddings.weight", c["vocab_size"], width)
        return {"logits": x @ table.T + w.get(bias, c["vocab_size"])}
    elif head.endswith("ForSequenceClassification"):
        name, act = ("pooler.dense", "gelu") if family == "deberta-v2" else (f"{p}pooler.dense", "tanh")
        x = ACT[act](w.linear(name, x[0], hidden))
    if head.endswith("ForQuestionAnswering"):
        logits = w.linear("classifier" if modern else "qa_outputs", x, 2)
        return {"start_logits": logits[:, 0], "end_logits": logits[:, 1]}
    if head.endswith("Classification"):
        return {"logits": w.linear("classifier", x, labels)}
    return {"last_hidden_state": x}


def batch(case: str) -> tuple[Array, Array, Array]:
    """Token ids, mask and types (5, 19): whole, padded on the right, on the left, with holes, a token in the middle."""
    shape = (5, 19)
    ids, mask = integers(f"{case}/ids", shape, 50), integers(f"{case}/mask", shape, 2)
    mask[0] = 1
    mask[1] = np.arange(19) < 11
    mask[2] = np.arange(19) >= 6
    mask[3, 0] = 1
    mask[4] = np.arange(19) == 7
    types = integers(f"{case}/types", shape, max(CASES[case].get("type_vocab_size", 1), 1))
    return ids, mask, types


def run(
    case: str, head: str, ids: Array, mask: Array, types: Array, **changes: Any
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Every field for a batch, stacked; and the tensors of the file. ``changes``: of config.json."""
    c = config(case, head, **changes)
    p = "" if head == "Model" else _BELOW_HEADS[c["model_type"]]
    w = Weights(case, p)
    rows = []
    for row, seen, kinds in zip(ids, mask == 1, types, strict=True):
        x = _FAMILIES[c["model_type"]](c, w, p, row, seen, kinds)
        rows.append(_outputs(c, w, p, x, seen))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}, w.arrays


def save_folder(folder: Path, case: str, head: str = "Model", arrays: Mapping[str, Array] | None = None) -> Path:
    """Write config.json and model.safetensors, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(case, head)))
    save_safetensors(folder / "model.safetensors", dict(run(case, head, *batch(case))[1] if arrays is None else arrays))
    return folder
