# SPDX-License-Identifier: MIT
"""Small folders of DeepSeek-V2 and -V3, made as ``tiny_moe`` makes its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import tiny_decoders
from .tiny_bert import Array, save_safetensors
from .tiny_decoders import Shapes
from .tiny_moe import stacked as stacked

_COMMON: dict[str, Any] = {
    **{key: value for key, value in tiny_decoders.BASE["llama"].items() if key != "mlp_bias"},
    "num_key_value_heads": 6, "qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "v_head_dim": 9, "q_lora_rank": 20,
    "kv_lora_rank": 14, "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 18,
    "first_k_dense_replace": 1, "ep_size": 1, "moe_layer_freq": 1, "aux_loss_alpha": 0.001, "seq_aux": True,
}  # fmt: skip

BASE: dict[str, dict[str, Any]] = {
    "deepseek_v2": {**_COMMON, "n_shared_experts": 2, "topk_method": "greedy", "scoring_func": "softmax",
                    "norm_topk_prob": False, "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1},
    "deepseek_v3": {**_COMMON, "n_shared_experts": 1, "topk_method": "noaux_tc", "scoring_func": "sigmoid",
                    "norm_topk_prob": True, "routed_scaling_factor": 2.5, "n_group": 4, "topk_group": 2,
                    "num_nextn_predict_layers": 1},
}  # fmt: skip
"""config.json of each family, as files were published."""

CLASSES = {"deepseek_v2": "DeepseekV2", "deepseek_v3": "DeepseekV3"}

_YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24, "beta_fast": 8, "beta_slow": 1}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseek_v2": ("deepseek_v2", {}),
    "deepseek_v2, queries at once, groups": (
        "deepseek_v2", {"q_lora_rank": None, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2,
                        "routed_scaling_factor": 1.5, "dtype": "bfloat16"},
    ),
    "deepseek_v2, yarn, biases, no layer dense": (
        "deepseek_v2", {"rope_scaling": {**_YARN, "mscale": 0.707, "mscale_all_dim": 0.707}, "attention_bias": True,
                        "first_k_dense_replace": 0, "num_hidden_layers": 2},
    ),
    "deepseek_v2, one head, all dense": (
        "deepseek_v2", {"num_attention_heads": 1, "num_key_value_heads": 1, "first_k_dense_replace": 3,
                        "qk_nope_head_dim": 2, "qk_rope_head_dim": 2, "v_head_dim": 15, "kv_lora_rank": 2},
    ),
    "deepseek_v3": ("deepseek_v3", {}),
    "deepseek_v3, halves, not divided, one layer": (
        "deepseek_v3", {"rope_interleave": False, "norm_topk_prob": False, "num_hidden_layers": 1, "vocab_size": 7,
                        "first_k_dense_replace": 0, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 8},
    ),
    "deepseek_v3, yarn, tied": (
        "deepseek_v3", {"rope_scaling": {**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0}, "tie_word_embeddings": True,
                        "q_lora_rank": None, "dtype": "bfloat16", "attention_bias": True},
    ),
}  # fmt: skip
"""Name -> (family, what differs from its ``BASE``)."""


def config(family: str, **overrides: Any) -> dict[str, Any]:
    """config.json of a family; ``...`` takes a key away, ``dtype`` is not one of it."""
    overrides.pop("dtype", None)
    values = {**BASE[family], "model_type": family, "architectures": [CLASSES[family] + "ForCausalLM"], **overrides}
    return {key: value for key, value in values.items() if value is not ...}


def shapes(c: dict[str, Any]) -> Shapes:
    """Tensors of ``…ForCausalLM`` by the names under which files were published."""
    hidden, heads, bias = c["hidden_size"], c["num_attention_heads"], c.get("attention_bias", False)
    still, turned, value = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
    found: Shapes = {"model.embed_tokens.weight": (c["vocab_size"], hidden), "model.norm.weight": (hidden,)}

    def linear(name: str, outputs: int, inputs: int, biased: bool = False) -> None:
        found[f"{name}.weight"] = (outputs, inputs)
        if biased:
            found[f"{name}.bias"] = (outputs,)

    def gated(name: str, inner: int) -> None:
        linear(f"{name}.gate_proj", inner, hidden)
        linear(f"{name}.up_proj", inner, hidden)
        linear(f"{name}.down_proj", hidden, inner)

    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        part = f"{layer}.self_attn"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"{layer}.{norm}.weight"] = (hidden,)
        if c["q_lora_rank"] is None:
            linear(f"{part}.q_proj", heads * (still + turned), hidden)
        else:
            linear(f"{part}.q_a_proj", c["q_lora_rank"], hidden, bias)
            found[f"{part}.q_a_layernorm.weight"] = (c["q_lora_rank"],)
            linear(f"{part}.q_b_proj", heads * (still + turned), c["q_lora_rank"])
        linear(f"{part}.kv_a_proj_with_mqa", c["kv_lora_rank"] + turned, hidden, bias)
        found[f"{part}.kv_a_layernorm.weight"] = (c["kv_lora_rank"],)
        linear(f"{part}.kv_b_proj", heads * (still + value), c["kv_lora_rank"])
        linear(f"{part}.o_proj", hidden, heads * value, bias)
        if i < c["first_k_dense_replace"]:
            gated(f"{layer}.mlp", c["intermediate_size"])
            continue
        linear(f"{layer}.mlp.gate", c["n_routed_experts"], hidden)
        if c["model_type"] == "deepseek_v3":
            found[f"{layer}.mlp.gate.e_score_correction_bias"] = (c["n_routed_experts"],)
        for e in range(c["n_routed_experts"]):
            gated(f"{layer}.mlp.experts.{e}", c["moe_intermediate_size"])
        gated(f"{layer}.mlp.shared_experts", c["n_shared_experts"] * c["moe_intermediate_size"])
    if not c.get("tie_word_embeddings", False):
        linear("lm_head", c["vocab_size"], hidden)
    return found


def tensors(c: dict[str, Any], *, seed: int = 0, dtype: str = "float32") -> dict[str, Array]:
    """Weights of the model that ``c`` describes; those of ``dtype="bfloat16"`` are bits."""
    found = {name: tiny_decoders.numbers(name, shape, seed) for name, shape in shapes(c).items()}
    return tiny_decoders.as_stored(found, dtype)


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


batch = tiny_decoders.batch
