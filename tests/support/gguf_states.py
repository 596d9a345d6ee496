# SPDX-License-Identifier: MIT
"""From the folders of ``tiny_states`` to GGUF files, as llama.cpp's converters do it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from golden import tiny_states
from golden.tiny_states import inner, layer_types

from fastattn.graph.gates import negative_exp

from .gguf_files import Tensor, gguf_bytes

Array = np.ndarray[Any, Any]

ARCHITECTURES = {"lfm2": "lfm2", "mamba2": "mamba2", "qwen3_next": "qwen3next"}

_NAMES = {
    "lfm2": {
        "model.embed_tokens": "token_embd", "model.embedding_norm": "token_embd_norm", "lm_head": "output",
        "operator_norm": "attn_norm", "ffn_norm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.out_proj": "attn_output",
        "self_attn.q_layernorm": "attn_q_norm", "self_attn.k_layernorm": "attn_k_norm",
        "conv.conv": "shortconv.conv", "conv.in_proj": "shortconv.in_proj", "conv.out_proj": "shortconv.out_proj",
        "feed_forward.w1": "ffn_gate", "feed_forward.w3": "ffn_up", "feed_forward.w2": "ffn_down",
    },
    "mamba2": {
        "backbone.embeddings": "token_embd", "backbone.norm_f": "output_norm", "lm_head": "output", "norm": "attn_norm",
        "mixer.in_proj": "ssm_in", "mixer.conv1d": "ssm_conv1d", "mixer.norm": "ssm_norm", "mixer.out_proj": "ssm_out",
    },
    "qwen3_next": {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "linear_attn.in_proj_ba": "ssm_ba",
        "linear_attn.conv1d": "ssm_conv1d", "linear_attn.norm": "ssm_norm", "linear_attn.out_proj": "ssm_out",
        "mlp.gate": "ffn_gate_inp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
        "mlp.shared_expert.gate_proj": "ffn_gate_shexp", "mlp.shared_expert.up_proj": "ffn_up_shexp",
        "mlp.shared_expert.down_proj": "ffn_down_shexp", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    },
}  # fmt: skip
_ALONE = {"A_log": "ssm_a", "D": "ssm_d", "dt_bias": "ssm_dt.bias"}


def fields_of(c: dict[str, Any]) -> dict[str, Any]:
    """The fields of a file of the model that config.json describes."""
    arch = ARCHITECTURES[c["model_type"]]
    fields: dict[str, Any] = {
        "general.architecture": arch, "general.name": "tiny", "general.file_type": 1,
        f"{arch}.embedding_length": c["hidden_size"], f"{arch}.block_count": c["num_hidden_layers"],
        "tokenizer.ggml.eos_token_id": c["eos_token_id"], "tokenizer.ggml.bos_token_id": c["bos_token_id"],
    }  # fmt: skip
    if arch == "mamba2":
        own = {
            "context_length": 1 << 20, "feed_forward_length": 0, "attention.head_count": 0,
            "ssm.conv_kernel": c["conv_kernel"], "ssm.inner_size": c["num_heads"] * c["head_dim"],
            "ssm.state_size": c["state_size"], "ssm.time_step_rank": c["num_heads"], "ssm.group_count": c["n_groups"],
            "attention.layer_norm_rms_epsilon": c["layer_norm_epsilon"],
        }  # fmt: skip
        return fields | {f"{arch}.{key}": value for key, value in own.items()}
    own = {
        "context_length": c["max_position_embeddings"], "attention.head_count": c["num_attention_heads"],
        "rope.freq_base": float(c["rope_theta"]), "vocab_size": c["vocab_size"],
    }  # fmt: skip
    if arch == "lfm2":
        full = [kind == "full_attention" for kind in layer_types(c)]
        own |= {
            "feed_forward_length": inner(c), "shortconv.l_cache": c["conv_L_cache"],
            "attention.layer_norm_rms_epsilon": c["norm_eps"],
            "attention.head_count_kv": [c["num_key_value_heads"] * flag for flag in full],
        }  # fmt: skip
        return fields | {f"{arch}.{key}": value for key, value in own.items()}
    own |= {
        "feed_forward_length": c["intermediate_size"], "attention.head_count_kv": c["num_key_value_heads"],
        "attention.key_length": c["head_dim"], "attention.value_length": c["head_dim"],
        "attention.layer_norm_rms_epsilon": c["rms_norm_eps"],
        "rope.dimension_count": int(c["head_dim"] * c.get("partial_rotary_factor", 0.25)),
        "ssm.conv_kernel": c["linear_conv_kernel_dim"], "ssm.state_size": c["linear_key_head_dim"],
        "ssm.group_count": c["linear_num_key_heads"], "ssm.time_step_rank": c["linear_num_value_heads"],
        "ssm.inner_size": c["linear_num_value_heads"] * c["linear_value_head_dim"],
        "attention.recurrent_layers": [kind == "linear_attention" for kind in layer_types(c)],
        "full_attention_interval": c.get("full_attention_interval", 4), "expert_count": c["num_experts"],
        "expert_used_count": c["num_experts_per_tok"], "expert_feed_forward_length": c["moe_intermediate_size"],
        "expert_shared_feed_forward_length": c["shared_expert_intermediate_size"],
    }  # fmt: skip
    return fields | {f"{arch}.{key}": value for key, value in own.items()}


def _converted(c: dict[str, Any], name: str, array: Array) -> dict[str, Array]:
    """What becomes of one tensor, but for experts."""
    family = c["model_type"]
    match = re.fullmatch(r"(?:model|backbone)\.layers\.(\d+)\.(.*)", name)
    start, rest = (f"blk.{match[1]}.", match[2]) if match else ("", name)
    layer, _, part = rest.rpartition(".")
    if part in _ALONE:
        if part == "A_log":
            array = negative_exp(array)  # torch's has another last bit here and there
        column = family == "mamba2" and part != "dt_bias"
        return {f"{start}{_ALONE[part]}": array.reshape(-1, 1) if column else array}
    if array.ndim == 3:
        array = array[:, 0]
    if family == "mamba2" and layer == "mixer.norm":
        array = array.reshape(c["n_groups"], -1)
    if family == "qwen3_next" and "norm" in layer and layer != "linear_attn.norm":
        array = array + np.float32(1)
    if layer != "linear_attn.in_proj_qkvz":
        return {f"{start}{_NAMES[family][layer]}.{part}": array}
    heads, dk, dv = c["linear_num_key_heads"], c["linear_key_head_dim"], c["linear_value_head_dim"]
    each = c["linear_num_value_heads"] // heads * dv
    rows = np.split(array.reshape(heads, -1, array.shape[1]), [dk, 2 * dk, 2 * dk + each], 1)
    q, k, v, z = (one.reshape(-1, array.shape[1]) for one in rows)
    return {f"{start}attn_qkv.weight": np.concatenate([q, k, v]), f"{start}attn_gate.weight": z}


def tensors_of(c: dict[str, Any], arrays: dict[str, Array], dtype: str) -> dict[str, Any]:
    """The tensors of the file: layers of ``dtype``, everything else float32."""
    found: dict[str, Array] = {}
    experts: dict[str, list[Array]] = {}
    for name, array in arrays.items():
        match = re.fullmatch(r"model\.layers\.(\d+)\.mlp\.experts\.\d+\.(gate|up|down)_proj\.weight", name)
        if match:
            experts.setdefault(f"blk.{match[1]}.ffn_{match[2]}_exps.weight", []).append(array)
        else:
            found |= _converted(c, name, array)
    found |= {name: np.stack(all_of) for name, all_of in experts.items()}
    return {name: _stored(name, np.ascontiguousarray(array), dtype) for name, array in found.items()}


def _stored(name: str, array: Array, dtype: str) -> Any:
    kept = ("norm", "conv1d", "shortconv.conv", "ssm_a", "ssm_d", "gate_inp")
    if array.ndim == 1 or dtype == "float32" or any(part in name for part in kept):
        return array
    if dtype == "bfloat16":
        return Tensor("BF16", array.shape, (array.view(np.uint32) >> 16).astype("<u2").tobytes())
    return array.astype(dtype)


def make(
    path: Path, family: str, *, dtype: str = "float16", more: dict[str, Any] | None = None,
    arrays: dict[str, Array] | None = None, **overrides: Any,
) -> Path:  # fmt: skip
    """Write the GGUF file of a model of ``tiny_states``; ``more``: further fields, ``arrays``: other weights."""
    c = tiny_states.config(family, **overrides)
    tensors = tensors_of(c, tiny_states.tensors(c) if arrays is None else arrays, dtype)
    fields = {**fields_of(c), **(more or {})}
    path.write_bytes(gguf_bytes({key: value for key, value in fields.items() if value is not ...}, tensors))
    return path
