# SPDX-License-Identifier: MIT
"""How llama.cpp's converters write the models of ``golden.tiny_dense_b``."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Config = dict[str, Any]

ARCHITECTURES = {
    "gemma3_text": "gemma3",
    "cohere": "command-r",
    "glm": "chatglm",
    "hunyuan_v1_dense": "hunyuan-dense",
    "olmo3": "olmo2",
}
"""Where it is not the ``model_type``."""

PAIRED = ("olmo", "arcee")
"""Architectures whose rows of queries and keys are put in another order."""

_FOUR_NORMS = {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
NAMES: dict[str, dict[str, str]] = {
    "gemma2": _FOUR_NORMS, "gemma3_text": _FOUR_NORMS, "olmo3": _FOUR_NORMS,
    "exaone4": _FOUR_NORMS, "seed_oss": {"post_attention_layernorm": "post_attention_norm"},
    "hunyuan_v1_dense": {"self_attn.query_layernorm": "attn_q_norm", "self_attn.key_layernorm": "attn_k_norm"},
    "glm4": {"post_self_attn_layernorm": "post_attention_norm", "post_mlp_layernorm": "post_ffw_norm"},
}  # fmt: skip
"""Names of tensors where they are not Llama's."""

_ADDED = ("gemma", "gemma2", "gemma3_text", "nemotron")

_FULL, _LOCAL = "full_attention", "sliding_attention"

VARIANTS: dict[str, tuple[str, Config]] = {
    "gemma": ("gemma", {}),
    "gemma, one key head": ("gemma", {"num_key_value_heads": 1, "head_dim": 8}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 16}),
    "gemma2, layers by name": (
        "gemma2", {"layer_types": [_FULL, _LOCAL, _LOCAL], "query_pre_attn_scalar": 16},
    ),
    "gemma3": ("gemma3_text", {"query_pre_attn_scalar": 16, "rope_local_base_freq": 10000.0}),
    "gemma3, a cap, another base": (
        "gemma3_text", {"query_pre_attn_scalar": 16, "final_logit_softcapping": 20.0, "rope_local_base_freq": 50.0},
    ),
    "gemma3, no windows, linear": (
        "gemma3_text", {"query_pre_attn_scalar": 16, "rope_local_base_freq": 10000.0, "sliding_window_pattern": 1,
                        "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    ),
    "command-r": ("cohere", {}),
    "command-r, a norm for each head": ("cohere", {"use_qk_norm": True}),
    "cohere2": ("cohere2", {"sliding_window_pattern": 4, "num_hidden_layers": 5}),
    "chatglm": ("glm", {"head_dim": 8}),
    "arcee": ("arcee", {}),
    "arcee, biases": ("arcee", {"attention_bias": True, "mlp_bias": True}),
    "ernie4_5": ("ernie4_5", {}),
    "seed_oss": ("seed_oss", {}),
    "seed_oss, biases": ("seed_oss", {"attention_out_bias": True, "mlp_bias": True, "num_key_value_heads": 1}),
    "hunyuan-dense": ("hunyuan_v1_dense", {}),
    "hunyuan-dense, biases, tied": ("hunyuan_v1_dense", {"attention_bias": True, "tie_word_embeddings": True}),
    "exaone": ("exaone", {}),
    "exaone4": ("exaone4", {"sliding_window": None, "layer_types": [_FULL] * 3}),
    "exaone4, windows": ("exaone4", {"sliding_window_pattern": 4, "num_hidden_layers": 5}),
    "glm4": ("glm4", {}),
    "glm4, tied, no biases": ("glm4", {"tie_word_embeddings": True, "attention_bias": False, "head_dim": 8}),
    "nemotron": ("nemotron", {}),
    "nemotron, biases": ("nemotron", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 3}),
    "olmo": ("olmo", {}),
    "olmo, no clip, tied": ("olmo", {"clip_qkv": None, "tie_word_embeddings": True, "num_key_value_heads": 6}),
    "olmo3, which is an olmo2 there": ("olmo3", {}),
    "olmo3, yarn": (
        "olmo3", {"layer_types": [_LOCAL, _FULL, _LOCAL, _FULL], "rope_scaling": {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 4.0,
        }},
    ),
}  # fmt: skip
"""Models that a GGUF file holds with all that config.json says of them."""


def changed(family: str, name: str, array: Array) -> Array:
    """What a converter makes of a tensor, beside its order of rows."""
    return array + array.dtype.type(1) if family in _ADDED and name.endswith("norm.weight") else array


def fields_of(c: Config, fields: dict[str, Any], arch: str) -> dict[str, Any]:
    """The fields of Llama's kin with what is of the family's own."""
    own: dict[str, Any] = {}
    family, layers = c["model_type"], c["num_hidden_layers"]
    if family.startswith("gemma"):
        fields.pop(f"{arch}.rope.dimension_count")
    if family == "gemma2":
        own |= {"attn_logit_softcapping": c["attn_logit_softcapping"], "attention.sliding_window": c["sliding_window"],
                "final_logit_softcapping": c["final_logit_softcapping"]}  # fmt: skip
        if "layer_types" in c:
            own["attention.sliding_window_pattern"] = [kind == _LOCAL for kind in c["layer_types"]]
    if family == "gemma3_text":
        every = c["sliding_window_pattern"]
        if every != 1:
            own["attention.sliding_window"] = c["sliding_window"]
            own["attention.sliding_window_pattern"] = [(i + 1) % every != 0 for i in range(layers)]
        if c["final_logit_softcapping"]:
            own["final_logit_softcapping"] = c["final_logit_softcapping"]
        if c["rope_local_base_freq"] != 10000.0:
            own["rope.freq_base_swa"] = c["rope_local_base_freq"]
    if family in ("cohere", "cohere2"):
        own |= {"attention.layer_norm_epsilon": c["layer_norm_eps"], "logit_scale": c["logit_scale"],
                "rope.scaling.type": "none"}  # fmt: skip
        fields.pop(f"{arch}.attention.layer_norm_rms_epsilon")
    if family == "cohere2":
        own["attention.sliding_window"] = c["sliding_window"]
    if family in ("glm", "glm4"):
        own["rope.dimension_count"] = int(fields[f"{arch}.rope.dimension_count"] * c["partial_rotary_factor"])
    if family == "exaone4" and c["sliding_window"]:
        every = c["sliding_window_pattern"]
        own["attention.sliding_window"] = c["sliding_window"]
        own["attention.sliding_window_pattern"] = [(i + 1) % every != 0 for i in range(layers)]
    if family == "nemotron":
        own |= {
            "attention.layer_norm_epsilon": c["norm_eps"],
            "rope.scaling.type": "none",
            "rope.dimension_count": int(c["partial_rotary_factor"] * c["hidden_size"]) // c["num_attention_heads"],
        }
        fields.pop(f"{arch}.attention.layer_norm_rms_epsilon")
    if family == "olmo":
        own["attention.layer_norm_epsilon"] = 1e-5
        fields.pop(f"{arch}.attention.layer_norm_rms_epsilon")
        if c["clip_qkv"]:
            own["attention.clamp_kqv"] = c["clip_qkv"]
    if family == "olmo3":
        kinds = c.get("layer_types", [_FULL if (i + 1) % 4 == 0 else _LOCAL for i in range(layers)])
        own["attention.sliding_window"] = c["sliding_window"]
        own["attention.sliding_window_pattern"] = [kind == _LOCAL for kind in kinds]
    scaling = c.get("rope_scaling") or {}
    if scaling.get("rope_type") == "linear":
        own |= {"rope.scaling.type": "linear", "rope.scaling.factor": scaling["factor"]}
    if scaling.get("rope_type") == "yarn":
        own |= {"rope.scaling.type": "yarn", "rope.scaling.factor": scaling["factor"],
                "rope.scaling.original_context_length": scaling["original_max_position_embeddings"],
                "rope.scaling.yarn_beta_fast": scaling["beta_fast"]}  # fmt: skip
    return {**fields, **{f"{arch}.{key}": value for key, value in own.items()}}
