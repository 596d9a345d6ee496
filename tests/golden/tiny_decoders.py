# SPDX-License-Identifier: MIT
"""Small folders of decoders; weights from the integer hash of ``tiny_bert``, of so few bits that every storage type
holds the same numbers.

Tensors are named and left out as transformers' save_pretrained does it: no ``lm_head`` where it is the table of
embeddings, fused projections where a family has them.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from . import tiny_dense_a, tiny_dense_b
from .tiny_bert import Array, integers, save_safetensors, uniform

Shapes = dict[str, tuple[int, ...]]

_COMMON: dict[str, Any] = {
    "vocab_size": 101, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
    "intermediate_size": 80, "max_position_embeddings": 96, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "initializer_range": 0.02, "use_cache": True, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
_THETA = {"rope_theta": 1000.0}

BASE: dict[str, dict[str, Any]] = {
    "llama": {**_COMMON, **_THETA, "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1},
    "mistral": {**_COMMON, **_THETA, "sliding_window": 7, "head_dim": 8},
    "qwen2": {**_COMMON, **_THETA, "num_key_value_heads": 3, "use_sliding_window": False, "sliding_window": 5,
              "max_window_layers": 1},
    "qwen3": {**_COMMON, **_THETA, "head_dim": 16, "attention_bias": False, "use_sliding_window": False,
              "sliding_window": None, "max_window_layers": 2},
    "phi3": {**_COMMON, **_THETA, "sliding_window": None, "original_max_position_embeddings": 96,
             "resid_pdrop": 0.1, "embd_pdrop": 0.1},
    "smollm3": {**_COMMON, **_THETA, "num_hidden_layers": 5, "use_sliding_window": False, "sliding_window": None,
                "no_rope_layer_interval": 4, "attention_bias": False, "mlp_bias": False},
    "granite": {**_COMMON, **_THETA, "attention_bias": False, "mlp_bias": False, "embedding_multiplier": 3.0,
                "attention_multiplier": 0.21, "residual_multiplier": 0.75, "logits_scaling": 1.7},
    "olmo2": {**_COMMON, **_THETA, "attention_bias": False},
    **tiny_dense_b.BASE,
}  # fmt: skip
"""config.json of each family, in the spelling of transformers 4."""

CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "phi3": "Phi3",
           "smollm3": "SmolLM3", "granite": "Granite", "olmo2": "Olmo2", **tiny_dense_b.CLASSES}  # fmt: skip

TIED = {"smollm3": True, **tiny_dense_b.TIED}
"""tie_word_embeddings where config.json has no such key: false for all but these."""


def _new(kind: str, theta: float = 1000.0, **values: Any) -> dict[str, Any]:
    """Rotary keys as transformers 5 writes them."""
    return {"rope_theta": ..., "rope_parameters": {"rope_type": kind, "rope_theta": theta, **values}}


def _old(kind: str, key: str = "rope_type", **values: Any) -> dict[str, Any]:
    """Rotary keys as transformers 4 writes them, or with ``type`` as its first versions did."""
    return {"rope_scaling": {key: kind, **values}}


_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
_SHORT, _LONG = [1.0, 1.25, 1.5, 2.5], [1.5, 3.0, 7.0, 11.0]
_FULL, _LOCAL = "full_attention", "sliding_attention"

# ``...`` takes a key away; "dtype" is how the weights are stored.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, keys and values of each head, tied": ("llama", {"num_key_value_heads": None, "tie_word_embeddings": True}),
    "llama, biases, one key head": ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}),
    "llama, wide heads": ("llama", {"head_dim": 16, "num_key_value_heads": 3, "dtype": "bfloat16"}),
    "llama, heads of 10": ("llama", {"hidden_size": 50, "num_attention_heads": 5, "num_key_value_heads": 5,
                                     "num_hidden_layers": 1, "vocab_size": 7, "intermediate_size": 1}),
    "llama, llama3": ("llama", _new("llama3", 500.0, **_LLAMA3)),
    "llama, llama3 of old": ("llama", {**_old("llama3", **_LLAMA3), "tie_word_embeddings": True}),
    "llama, linear": ("llama", _old("linear", "type", factor=2.5)),
    "llama, dynamic": ("llama", _new("dynamic", factor=2.0)),
    "llama, yarn": ("llama", {**_old("yarn", factor=4.0, original_max_position_embeddings=16), "head_dim": 16}),
    "llama, yarn of DeepSeek": ("llama", _new("yarn", factor=4.0, mscale=1.0, mscale_all_dim=0.5, beta_fast=4)),
    "llama, no rotary keys": ("llama", {"rope_theta": ..., "rms_norm_eps": ..., "dtype": "float16"}),
    "llama, theta in both spellings": ("llama", {**_THETA, "rope_parameters": {"rope_type": "default",
                                                                               "rope_theta": 77.0}}),
    "llama, gelu": ("llama", {"hidden_act": "gelu"}),
    "llama, gelu by tanh": ("llama", {"hidden_act": "gelu_pytorch_tanh", "partial_rotary_factor": 1.0}),
    "mistral": ("mistral", {}),
    "mistral, no window": ("mistral", {"sliding_window": None, "num_key_value_heads": 6, "head_dim": None}),
    "mistral, a window of the token itself": ("mistral", {"sliding_window": 1, "num_key_value_heads": 3}),
    "mistral, a window of two, wide heads": ("mistral", {"sliding_window": 2, "head_dim": 16, "dtype": "bfloat16"}),
    "mistral, a window that nothing fills": ("mistral", {**_new("default", 50.0), "sliding_window": 4096}),
    "qwen2": ("qwen2", {}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 2, "dtype": "bfloat16"}),
    "qwen2, the last layers slide": ("qwen2", {"use_sliding_window": True}),
    "qwen2, all layers slide": ("qwen2", {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 3}),
    "qwen2, no layer is left to slide": ("qwen2", {"use_sliding_window": True, "max_window_layers": 28}),
    "qwen2, layers by name": ("qwen2", {"use_sliding_window": True, "layer_types": [_LOCAL, _FULL, _LOCAL]}),
    "qwen2, yarn": ("qwen2", _old("yarn", "type", factor=4.0, original_max_position_embeddings=24)),
    "qwen3": ("qwen3", {}),
    "qwen3, heads of 8, biases": ("qwen3", {"head_dim": 8, "attention_bias": True, "num_key_value_heads": 3}),
    "qwen3, tied": ("qwen3", {"tie_word_embeddings": True, "rms_norm_eps": 1e-3, "dtype": "bfloat16"}),
    "qwen3, the last layer slides": ("qwen3", {"use_sliding_window": True, "sliding_window": 4}),
    "qwen3, yarn": ("qwen3", _new("yarn", 100.0, factor=4.0, original_max_position_embeddings=24, truncate=False,
                                  beta_fast=8.0, beta_slow=0.5)),
    "phi3": ("phi3", {}),
    "phi3, a window": ("phi3", {"sliding_window": 6, "num_key_value_heads": None}),
    "phi3, half of a head turns": ("phi3", {"partial_rotary_factor": 0.5, "tie_word_embeddings": True,
                                            "dtype": "bfloat16"}),
    "phi3, longrope, short": ("phi3", {**_old("longrope", "type", short_factor=_SHORT, long_factor=_LONG),
                                       "original_max_position_embeddings": 40}),
    "phi3, longrope, long": ("phi3", {**_old("longrope", short_factor=_SHORT, long_factor=_LONG),
                                      "original_max_position_embeddings": 12, "sliding_window": 9}),
    "phi3, longrope, three quarters of a head": (
        "phi3", {**_new("longrope", short_factor=_SHORT[:3], long_factor=_LONG[:3], partial_rotary_factor=0.75,
                        original_max_position_embeddings=12), "original_max_position_embeddings": 12},
    ),
    "phi3, longrope, a factor for all": (
        "phi3", {**_old("longrope", short_factor=_SHORT, long_factor=_LONG, attention_factor=1.3),
                 "original_max_position_embeddings": 20, "num_key_value_heads": 3},
    ),
    "smollm3": ("smollm3", {}),
    "smollm3, every other layer": ("smollm3", {"no_rope_layer_interval": 2, "tie_word_embeddings": False}),
    "smollm3, layers by list": ("smollm3", {"no_rope_layers": [0, 1, 1, 0, 1], "attention_bias": True,
                                            "mlp_bias": True, "dtype": "bfloat16"}),
    "smollm3, layers without positions slide": (
        "smollm3", {"use_sliding_window": True, "sliding_window": 5, "no_rope_layer_interval": 2},
    ),
    "smollm3, layers by name": (
        "smollm3", {"use_sliding_window": True, "sliding_window": 3, "layer_types": [_LOCAL, _FULL] * 2 + [_LOCAL],
                    "num_key_value_heads": 3},
    ),
    "smollm3, layers by name alone": ("smollm3", {"sliding_window": 4, "layer_types": [_FULL, _LOCAL] * 2 + [_FULL]}),
    "smollm3, yarn": ("smollm3", _new("yarn", factor=4.0, original_max_position_embeddings=16, attention_factor=1.1)),
    "olmo2": ("olmo2", {}),
    "olmo2, biases, wide heads": ("olmo2", {"attention_bias": True, "num_key_value_heads": 3, "head_dim": 16}),
    "olmo2, tied, linear": ("olmo2", {**_new("linear", factor=2.0), "tie_word_embeddings": True, "rms_norm_eps": ...}),
    "granite": ("granite", {}),
    "granite, no multipliers, tied": (
        "granite", {**dict.fromkeys(("embedding_multiplier", "residual_multiplier", "logits_scaling"), ...),
                    "attention_multiplier": 0.25, "tie_word_embeddings": True},
    ),
    "granite, biases": ("granite", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 3,
                                    "dtype": "bfloat16"}),
    "granite, linear, wide heads": ("granite", {**_new("linear", factor=3.0), "head_dim": 16,
                                                "embedding_multiplier": 12, "logits_scaling": 8}),
    **tiny_dense_b.VARIANTS,
}  # fmt: skip
"""Name -> (family, what differs from its ``BASE``)."""

TOPS: dict[str, str] = {}
"""What the class with logits is called behind the family's name, where not ForCausalLM."""

_PARTS = (tiny_dense_a,)
"""Modules with families of their own."""

for _part in _PARTS:
    BASE |= _part.BASE
    CLASSES |= _part.CLASSES
    TIED |= _part.TIED
    TOPS |= _part.TOPS
    VARIANTS |= _part.VARIANTS


def class_name(family: str) -> str:
    """The class with logits."""
    return CLASSES[family] + TOPS.get(family, "ForCausalLM")


def table_name(family: str) -> str:
    """The tensor of embeddings."""
    return next((part.TABLES[family] for part in _PARTS if family in part.TABLES), "model.embed_tokens.weight")


def head_name(family: str) -> str:
    """The tensor that makes logits, where it is not that of embeddings."""
    return next((part.HEADS[family] for part in _PARTS if family in part.HEADS), "lm_head") + ".weight"


def positions_key(family: str) -> str:
    """What config.json calls ``max_position_embeddings``."""
    return next((part.POSITIONS[family] for part in _PARTS if family in part.POSITIONS), "max_position_embeddings")


def layers(c: dict[str, Any]) -> int:
    """How many layers there are."""
    part = _part_of(c["model_type"])
    return int(c["num_hidden_layers"]) if part is None else part.layers(c)


def width(c: dict[str, Any]) -> int:
    """Columns of the hidden states."""
    part = _part_of(c["model_type"])
    return int(c["hidden_size"]) if part is None else part.width(c)


def _part_of(family: str) -> Any:
    return next((part for part in _PARTS if family in part.BASE), None)


def config(family: str, **overrides: Any) -> dict[str, Any]:
    """config.json of a family; ``...`` takes a key away, ``dtype`` is not one of it."""
    overrides.pop("dtype", None)
    values = {**BASE[family], "model_type": family, "architectures": [class_name(family)], **overrides}
    return {key: value for key, value in values.items() if value is not ...}


def heads(c: dict[str, Any]) -> tuple[int, int, int]:
    """Heads of queries, heads of keys and values, dims of a head."""
    part = _part_of(c["model_type"])
    if part is not None:
        own: tuple[int, int, int] = part.heads(c)
        return own
    count = c["num_attention_heads"]
    return count, c.get("num_key_value_heads") or count, c.get("head_dim") or c["hidden_size"] // count


def shapes(c: dict[str, Any]) -> Shapes:
    """Tensors of ``…ForCausalLM`` by the names of transformers' files; a bias for each product that has one."""
    part = _part_of(c["model_type"])
    if part is not None:
        own: Shapes = part.shapes(c)
        return own
    if c["model_type"] in tiny_dense_b.BASE:
        return tiny_dense_b.shapes(c, c.get("tie_word_embeddings", TIED.get(c["model_type"], False)))
    family, hidden, inner = c["model_type"], c["hidden_size"], c["intermediate_size"]
    queries, keys, size = heads(c)
    found: Shapes = {"model.embed_tokens.weight": (c["vocab_size"], hidden)}

    def linear(name: str, outputs: int, inputs: int, bias: Any = False) -> None:
        found[f"{name}.weight"] = (outputs, inputs)
        if bias:
            found[f"{name}.bias"] = (outputs,)

    mixing = c.get("attention_bias", False)
    turned = mixing or family == "qwen2"
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        if family == "olmo2":
            found[f"{layer}.post_feedforward_layernorm.weight"] = (hidden,)
            found[f"{layer}.self_attn.q_norm.weight"] = (queries * size,)
            found[f"{layer}.self_attn.k_norm.weight"] = (keys * size,)
        else:
            found[f"{layer}.input_layernorm.weight"] = (hidden,)
        if family == "phi3":
            linear(f"{layer}.self_attn.qkv_proj", (queries + 2 * keys) * size, hidden)
        else:
            linear(f"{layer}.self_attn.q_proj", queries * size, hidden, turned)
            linear(f"{layer}.self_attn.k_proj", keys * size, hidden, turned)
            linear(f"{layer}.self_attn.v_proj", keys * size, hidden, turned)
        linear(f"{layer}.self_attn.o_proj", hidden, queries * size, mixing)
        if family == "qwen3":
            found[f"{layer}.self_attn.q_norm.weight"] = found[f"{layer}.self_attn.k_norm.weight"] = (size,)
        found[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        bias = c.get("mlp_bias", False)
        if family == "phi3":
            linear(f"{layer}.mlp.gate_up_proj", 2 * inner, hidden)
        else:
            linear(f"{layer}.mlp.gate_proj", inner, hidden, bias)
            linear(f"{layer}.mlp.up_proj", inner, hidden, bias)
        linear(f"{layer}.mlp.down_proj", hidden, inner, bias)
    found["model.norm.weight"] = (hidden,)
    if not c.get("tie_word_embeddings", TIED.get(family, False)):
        linear("lm_head", c["vocab_size"], hidden)
    return found


_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "wpe.weight", "embed_in.weight", "word_embeddings.weight",
               "embed_positions.weight")  # fmt: skip
_TRANSPOSED = re.compile(r"transformer\.h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
_PEAKED = ("q_proj.weight", "k_proj.weight", "qkv_proj.weight", "query_key_value.weight", "c_attn.weight",
           "Wqkv.weight")  # fmt: skip


def numbers(name: str, shape: tuple[int, ...], seed: int) -> Array:
    """float32 numbers of at most 8 bits: an integer from -128 to 127 times a power of two, norms around 1."""
    steps = np.floor(uniform(f"{seed}/{name}", shape) * np.float32(128))
    if "norm" in name or ".ln_" in name:
        if name.endswith("bias"):
            return steps / np.float32(512)
        return (np.floor(steps / 4) + np.float32(64)) / np.float32(64)
    if len(shape) == 1:
        return steps / np.float32(512)
    if name.endswith(_EMBEDDINGS):
        return steps / np.float32(128)
    inputs = shape[0] if _TRANSPOSED.fullmatch(name) else shape[1]
    spread = round(math.log2(math.sqrt(3 / inputs)))
    gain = 1 if name.endswith(_PEAKED) else 0  # so that softmax has peaks
    return steps * np.float32(2.0 ** (spread + gain - 7))


def tensors(c: dict[str, Any], *, seed: int = 0, dtype: str = "float32") -> dict[str, Array]:
    """Weights of the model that ``c`` describes; those of ``dtype="bfloat16"`` are bits. All types hold the same
    numbers.
    """
    return as_stored({name: numbers(name, shape, seed) for name, shape in shapes(c).items()}, dtype)


def as_stored(found: dict[str, Array], dtype: str) -> dict[str, Array]:
    """The same numbers as ``dtype`` has them."""
    if dtype == "bfloat16":
        return {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in found.items()}
    return {name: array.astype(dtype) for name, array in found.items()}


def make(folder: Path, family: str, *, seed: int = 0, dtype: str = "float32", **overrides: Any) -> Path:
    """Write config.json and model.safetensors of a model of ``family``, and return the folder."""
    c = config(family, **overrides)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**c, "torch_dtype": dtype}))
    save_safetensors(folder / "model.safetensors", tensors(c, seed=seed, dtype=dtype))
    return folder


def variant(folder: Path, name: str, *, seed: int = 0) -> Path:
    """Write the folder of a name in ``VARIANTS``, and return it."""
    family, overrides = VARIANTS[name]
    return make(folder, family, seed=seed, **overrides)


def batch(c: dict[str, Any], columns: int = 23) -> tuple[Array, Array]:
    """Token ids and attention mask (5, columns).

    The rows: whole, padded on the right, on the left, with holes, and a single token in the middle.
    """
    ids = integers("decoders/ids", (5, columns), c["vocab_size"])
    mask = np.ones((5, columns), np.int64)
    mask[1, (columns + 1) // 2 :] = 0
    mask[2, : columns // 3] = 0
    mask[3] = integers("decoders/mask", (columns,), 2)
    mask[3, 0] = 1
    mask[4] = 0
    mask[4, columns // 2] = 1
    return ids, mask
