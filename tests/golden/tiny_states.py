# SPDX-License-Identifier: MIT
"""Small folders of decoders that keep states: short convolutions, Mamba-2, the gated delta rule. Weights are made as in
``tiny_decoders``, of so few bits that every storage type holds the same numbers.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from .tiny_bert import Array, save_safetensors, uniform
from .tiny_decoders import Shapes, batch

__all__ = ["BASE", "VARIANTS", "batch", "config", "make", "shapes", "tensors", "variant"]

_COMMON: dict[str, Any] = {
    "vocab_size": 101, "hidden_size": 48, "num_hidden_layers": 3, "initializer_range": 0.02, "use_cache": True,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_ATTENTION: dict[str, Any] = {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 96,
                              "rope_theta": 1000.0}  # fmt: skip
_FULL, _CONV, _LINEAR = "full_attention", "conv", "linear_attention"

BASE: dict[str, dict[str, Any]] = {
    "lfm2": {**_COMMON, **_ATTENTION, "intermediate_size": 100, "block_multiple_of": 8, "block_ffn_dim_multiplier": 1.1,
             "block_auto_adjust_ff_dim": True, "norm_eps": 1e-5, "conv_L_cache": 3, "conv_bias": False,
             "layer_types": [_CONV, _FULL, _CONV]},
    "mamba2": {**_COMMON, "hidden_size": 24, "num_heads": 6, "head_dim": 8, "state_size": 10, "n_groups": 2,
               "conv_kernel": 4, "expand": 2, "use_bias": False, "use_conv_bias": True, "hidden_act": "silu",
               "layer_norm_epsilon": 1e-5, "chunk_size": 8, "tie_word_embeddings": False,
               "time_step_limit": [0.0, {"__float__": "Infinity"}]},
    "qwen3_next": {**_COMMON, **_ATTENTION, "head_dim": 16, "intermediate_size": 40, "hidden_act": "silu",
                   "rms_norm_eps": 1e-6, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 10,
                   "linear_value_head_dim": 12, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
                   "decoder_sparse_step": 1, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 20,
                   "num_experts_per_tok": 2, "num_experts": 5, "norm_topk_prob": True, "mlp_only_layers": [],
                   "layer_types": [_LINEAR, _FULL, _LINEAR], "attention_bias": False, "tie_word_embeddings": False},
}  # fmt: skip
CLASSES = {"lfm2": "Lfm2", "mamba2": "Mamba2", "qwen3_next": "Qwen3Next"}

# ``...`` takes a key away.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "lfm2": ("lfm2", {}),
    "lfm2, one convolution, biases": (
        "lfm2", {"hidden_size": 50, "num_attention_heads": 5, "num_key_value_heads": 5, "num_hidden_layers": 1,
                 "layer_types": [_CONV], "conv_bias": True, "conv_L_cache": 5, "tie_word_embeddings": False,
                 "block_auto_adjust_ff_dim": False, "vocab_size": 7},
    ),
    "lfm2, attention alone": ("lfm2", {"layer_types": ..., "num_hidden_layers": 2, "block_ffn_dim_multiplier": 0.7}),
    "lfm2, widths that nothing rounds": ("lfm2", {"block_ffn_dim_multiplier": None, "num_hidden_layers": 1,
                                                  "layer_types": [_CONV]}),
    "lfm2, layers by number, keys of old": (
        "lfm2", {"layer_types": ..., "full_attn_idxs": [1], "block_ff_dim": 60, "tie_embedding": False,
                 "tie_word_embeddings": True, "dtype": "bfloat16"},
    ),
    "lfm2, a convolution longer than any text": ("lfm2", {"conv_L_cache": 30, "num_key_value_heads": 3}),
    "lfm2, a convolution of the token itself": ("lfm2", {"conv_L_cache": 1, "conv_bias": True}),
    "mamba2": ("mamba2", {}),
    "mamba2, one layer, one group, biases, tied": (
        "mamba2", {"num_hidden_layers": 1, "n_groups": 1, "use_bias": True, "tie_word_embeddings": True, "num_heads": 3,
                   "head_dim": 16, "state_size": 16, "time_step_limit": [0.1, 0.5], "dtype": "bfloat16"},
    ),
    "mamba2, a head for each group": (
        "mamba2", {"num_heads": 2, "head_dim": 24, "state_size": 1, "use_conv_bias": False, "conv_kernel": 2,
                   "time_step_limit": ..., "vocab_size": 7},
    ),
    "mamba2, three times as wide": ("mamba2", {"expand": 3, "num_heads": 9, "n_groups": 3, "num_hidden_layers": 2}),
    "qwen3_next": ("qwen3_next", {}),
    "qwen3_next, no experts": ("qwen3_next", {"num_experts": 0, "tie_word_embeddings": True, "dtype": "bfloat16"}),
    "qwen3_next, one layer of states": (
        "qwen3_next", {"num_hidden_layers": 1, "layer_types": [_LINEAR], "linear_num_key_heads": 3,
                       "linear_num_value_heads": 3, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
                       "linear_conv_kernel_dim": 2, "vocab_size": 7},
    ),
    "qwen3_next, layers by turns, some dense": (
        "qwen3_next", {"layer_types": ..., "full_attention_interval": 2, "mlp_only_layers": [0], "attention_bias": True,
                       "norm_topk_prob": False, "linear_num_key_heads": 1, "partial_rotary_factor": 0.5},
    ),
    "qwen3_next, experts in every other layer": (
        "qwen3_next", {"decoder_sparse_step": 2, "num_experts": 3, "num_experts_per_tok": 3, "head_dim": 8},
    ),
}  # fmt: skip
"""Name -> (family, what differs from its ``BASE``)."""


def config(family: str, **overrides: Any) -> dict[str, Any]:
    """config.json of a family; ``...`` takes a key away, ``dtype`` is not one of it."""
    overrides.pop("dtype", None)
    values = {**BASE[family], "model_type": family, "architectures": [CLASSES[family] + "ForCausalLM"], **overrides}
    return {key: value for key, value in values.items() if value is not ...}


def layer_types(c: dict[str, Any]) -> list[str]:
    """What mixes in each layer."""
    layers = range(c["num_hidden_layers"])
    if c["model_type"] == "mamba2":
        return ["mamba"] * len(layers)
    if c.get("layer_types") is not None:
        return list(c["layer_types"])
    if c["model_type"] == "lfm2":
        return [_FULL if i in c.get("full_attn_idxs", layers) else _CONV for i in layers]
    return [_LINEAR if (i + 1) % c.get("full_attention_interval", 4) else _FULL for i in layers]


def sparse(c: dict[str, Any], layer: int) -> bool:
    """Whether a layer of Qwen3-Next has experts."""
    every = (layer + 1) % c["decoder_sparse_step"] == 0
    return c["num_experts"] > 0 and every and layer not in c["mlp_only_layers"]


def tied(c: dict[str, Any]) -> bool:
    """Whether there is no table of its own for the logits."""
    return bool(c.get("tie_embedding", c.get("tie_word_embeddings", c["model_type"] == "lfm2")))


def inner(c: dict[str, Any]) -> int:
    """Of LFM2's feed-forward layers."""
    said = c.get("block_ff_dim", c["intermediate_size"])
    if not c["block_auto_adjust_ff_dim"]:
        return int(said)
    found = int(2 * said / 3)
    if c["block_ffn_dim_multiplier"] is None:
        return found
    multiple = c["block_multiple_of"]
    return int(multiple * math.ceil(int(c["block_ffn_dim_multiplier"] * found) / multiple))


def shapes(c: dict[str, Any]) -> Shapes:
    """Tensors of ``…ForCausalLM`` by the names of Hugging Face files."""
    found: Shapes = {}

    def linear(name: str, outputs: int, inputs: int, bias: Any = False) -> None:
        found[f"{name}.weight"] = (outputs, inputs)
        if bias:
            found[f"{name}.bias"] = (outputs,)

    {"lfm2": _lfm2, "mamba2": _mamba2, "qwen3_next": _qwen3_next}[c["model_type"]](c, found, linear)
    if not tied(c):
        linear("lm_head", c["vocab_size"], c["hidden_size"])
    return found


def _lfm2(c: dict[str, Any], found: Shapes, linear: Any) -> None:
    hidden, bias = c["hidden_size"], c["conv_bias"]
    size = hidden // c["num_attention_heads"]
    found["model.embed_tokens.weight"] = (c["vocab_size"], hidden)
    for i, kind in enumerate(layer_types(c)):
        layer = f"model.layers.{i}"
        if kind == _CONV:
            linear(f"{layer}.conv.in_proj", 3 * hidden, hidden, bias)
            linear(f"{layer}.conv.out_proj", hidden, hidden, bias)
            found[f"{layer}.conv.conv.weight"] = (hidden, 1, c["conv_L_cache"])
            if bias:
                found[f"{layer}.conv.conv.bias"] = (hidden,)
        else:
            for part, heads in (
                ("q", "num_attention_heads"),
                ("k", "num_key_value_heads"),
                ("v", "num_key_value_heads"),
            ):
                linear(f"{layer}.self_attn.{part}_proj", c[heads] * size, hidden)
            linear(f"{layer}.self_attn.out_proj", hidden, hidden)
            found[f"{layer}.self_attn.q_layernorm.weight"] = found[f"{layer}.self_attn.k_layernorm.weight"] = (size,)
        found[f"{layer}.operator_norm.weight"] = found[f"{layer}.ffn_norm.weight"] = (hidden,)
        linear(f"{layer}.feed_forward.w1", inner(c), hidden)
        linear(f"{layer}.feed_forward.w3", inner(c), hidden)
        linear(f"{layer}.feed_forward.w2", hidden, inner(c))
    found["model.embedding_norm.weight"] = (hidden,)


def _mamba2(c: dict[str, Any], found: Shapes, linear: Any) -> None:
    hidden, heads = c["hidden_size"], c["num_heads"]
    width = heads * c["head_dim"]
    mixed = width + 2 * c["n_groups"] * c["state_size"]
    found["backbone.embeddings.weight"] = (c["vocab_size"], hidden)
    for i in range(c["num_hidden_layers"]):
        mixer = f"backbone.layers.{i}.mixer"
        linear(f"{mixer}.in_proj", width + mixed + heads, hidden, c["use_bias"])
        linear(f"{mixer}.out_proj", hidden, width, c["use_bias"])
        found[f"{mixer}.conv1d.weight"] = (mixed, 1, c["conv_kernel"])
        if c["use_conv_bias"]:
            found[f"{mixer}.conv1d.bias"] = (mixed,)
        found[f"{mixer}.A_log"] = found[f"{mixer}.D"] = found[f"{mixer}.dt_bias"] = (heads,)
        found[f"{mixer}.norm.weight"] = (width,)
        found[f"backbone.layers.{i}.norm.weight"] = (hidden,)
    found["backbone.norm_f.weight"] = (hidden,)


def _qwen3_next(c: dict[str, Any], found: Shapes, linear: Any) -> None:
    hidden, heads, shared, size = (
        c[key] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    )
    keys = c["linear_num_key_heads"] * c["linear_key_head_dim"]
    values = c["linear_num_value_heads"] * c["linear_value_head_dim"]
    found["model.embed_tokens.weight"] = (c["vocab_size"], hidden)
    for i, kind in enumerate(layer_types(c)):
        layer, mixer = f"model.layers.{i}", f"model.layers.{i}.linear_attn"
        if kind == _LINEAR:
            linear(f"{mixer}.in_proj_qkvz", 2 * keys + 2 * values, hidden)
            linear(f"{mixer}.in_proj_ba", 2 * c["linear_num_value_heads"], hidden)
            linear(f"{mixer}.out_proj", hidden, values)
            found[f"{mixer}.conv1d.weight"] = (2 * keys + values, 1, c["linear_conv_kernel_dim"])
            found[f"{mixer}.A_log"] = found[f"{mixer}.dt_bias"] = (c["linear_num_value_heads"],)
            found[f"{mixer}.norm.weight"] = (c["linear_value_head_dim"],)
        else:
            bias = c["attention_bias"]
            linear(f"{layer}.self_attn.q_proj", 2 * heads * size, hidden, bias)
            linear(f"{layer}.self_attn.k_proj", shared * size, hidden, bias)
            linear(f"{layer}.self_attn.v_proj", shared * size, hidden, bias)
            linear(f"{layer}.self_attn.o_proj", hidden, heads * size, bias)
            found[f"{layer}.self_attn.q_norm.weight"] = found[f"{layer}.self_attn.k_norm.weight"] = (size,)
        found[f"{layer}.input_layernorm.weight"] = found[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        blocks = {f"{layer}.mlp": c["intermediate_size"]}
        if sparse(c, i):
            blocks = {f"{layer}.mlp.experts.{e}": c["moe_intermediate_size"] for e in range(c["num_experts"])}
            blocks[f"{layer}.mlp.shared_expert"] = c["shared_expert_intermediate_size"]
            linear(f"{layer}.mlp.gate", c["num_experts"], hidden)
            linear(f"{layer}.mlp.shared_expert_gate", 1, hidden)
        for name, width in blocks.items():
            linear(f"{name}.gate_proj", width, hidden)
            linear(f"{name}.up_proj", width, hidden)
            linear(f"{name}.down_proj", hidden, width)
    found["model.norm.weight"] = (hidden,)


def _numbers(name: str, shape: tuple[int, ...], seed: int, plus_one: bool) -> Array:
    """float32 numbers of at most 8 bits: an integer from -128 to 127 times a power of two."""
    steps = np.floor(uniform(f"{seed}/{name}", shape) * np.float32(128))
    if "norm" in name and not plus_one:
        return (np.floor(steps / 4) + np.float32(64)) / np.float32(64)
    if name.endswith("A_log"):
        return (steps + np.float32(128)) / np.float32(128)
    if len(shape) == 1:
        return steps / np.float32(64 if name.endswith(("dt_bias", ".D")) else 512)
    if "embed" in name:
        return steps / np.float32(128)
    spread = round(math.log2(math.sqrt(3 / shape[-1])))
    gain = 1 if name.endswith(("self_attn.q_proj.weight", "k_proj.weight", "mlp.gate.weight")) else 0
    return steps * np.float32(2.0 ** (spread + gain - 7))


def tensors(c: dict[str, Any], *, seed: int = 0, dtype: str = "float32") -> dict[str, Array]:
    """Weights of the model that ``c`` describes; those of ``dtype="bfloat16"`` are bits."""
    found = {}
    for name, shape in shapes(c).items():
        plus_one = c["model_type"] == "qwen3_next" and "linear_attn.norm" not in name
        found[name] = _numbers(name, shape, seed, plus_one)
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
