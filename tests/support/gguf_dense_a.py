# SPDX-License-Identifier: MIT
"""GGUF files of the decoders of ``golden.tiny_dense_a``: their part of ``gguf_models``."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from golden import tiny_dense_a

Array = np.ndarray[Any, Any]

ARCHITECTURES = {"gpt2": "gpt2", "gpt_neox": "gptneox", "phi": "phi2", "starcoder2": "starcoder2",
                 "stablelm": "stablelm", "falcon": "falcon", "bloom": "bloom", "mpt": "mpt"}  # fmt: skip
"""``model_type`` -> ``general.architecture``."""

_LLAMA = {
    "embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
}  # fmt: skip
_NAMES: dict[str, dict[str, str]] = {
    "gpt_neox": {
        "embed_in": "token_embd", "final_layer_norm": "output_norm", "embed_out": "output",
        "input_layernorm": "attn_norm", "attention.query_key_value": "attn_qkv", "attention.dense": "attn_output",
        "post_attention_layernorm": "ffn_norm", "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down",
    },
    "bloom": {
        "word_embeddings": "token_embd", "word_embeddings_layernorm": "token_embd_norm", "ln_f": "output_norm",
        "lm_head": "output", "input_layernorm": "attn_norm", "self_attention.query_key_value": "attn_qkv",
        "self_attention.dense": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.dense_h_to_4h": "ffn_up",
        "mlp.dense_4h_to_h": "ffn_down",
    },
    "falcon": {
        "word_embeddings": "token_embd", "ln_f": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
        "ln_attn": "attn_norm_2", "ln_mlp": "attn_norm", "self_attention.query_key_value": "attn_qkv",
        "self_attention.dense": "attn_output", "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down",
    },
    "mpt": {
        "wte": "token_embd", "norm_f": "output_norm", "lm_head": "output", "norm_1": "attn_norm",
        "attn.Wqkv": "attn_qkv", "attn.out_proj": "attn_output", "norm_2": "ffn_norm", "ffn.up_proj": "ffn_up",
        "ffn.down_proj": "ffn_down",
    },
    "phi": {**_LLAMA, "final_layernorm": "output_norm", "self_attn.dense": "attn_output", "mlp.fc1": "ffn_up",
            "mlp.fc2": "ffn_down"},
    "starcoder2": {**_LLAMA, "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"},
    "stablelm": {**_LLAMA, "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"},
    "gpt2": {
        "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output", "ln_1": "attn_norm",
        "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    },
}  # fmt: skip
_LAYER = re.compile(r"(?:h|layers|blocks)\.(\d+)\.(.*)")


def gguf_name(name: str, family: str) -> str:
    """What a tensor of a Hugging Face file is called in a GGUF file."""
    layer, _, part = name.rpartition(".")
    names = _NAMES[family]
    for prefix in ("transformer.", "gpt_neox.", "model."):
        layer = layer.removeprefix(prefix)
    match = _LAYER.fullmatch(layer)
    return f"blk.{match[1]}.{names[match[2]]}.{part}" if match else f"{names[layer]}.{part}"


def fields_of(c: dict[str, Any]) -> dict[str, Any]:
    """The fields of a file of the model that config.json describes."""
    family = c["model_type"]
    arch = ARCHITECTURES[family]
    heads, kv_heads, _ = tiny_dense_a.heads(c)
    hidden = tiny_dense_a.width(c)
    fields: dict[str, Any] = {
        "general.architecture": arch, "general.name": "tiny", "general.file_type": 1,
        f"{arch}.context_length": c[tiny_dense_a.POSITIONS.get(family, "max_position_embeddings")],
        f"{arch}.embedding_length": hidden, f"{arch}.block_count": tiny_dense_a.layers(c),
        f"{arch}.attention.head_count": heads,
        "tokenizer.ggml.eos_token_id": c["eos_token_id"], "tokenizer.ggml.bos_token_id": c["bos_token_id"],
    }  # fmt: skip
    if family in ("phi", "starcoder2", "stablelm", "falcon", "bloom"):
        fields[f"{arch}.attention.head_count_kv"] = kv_heads
    return fields | {f"{arch}.{key}": value for key, value in _OWN[family](c).items()}


def _gpt2(c: dict[str, Any]) -> dict[str, Any]:
    return {
        "feed_forward_length": c.get("n_inner") or 4 * c["n_embd"],
        "attention.layer_norm_epsilon": c["layer_norm_epsilon"],
    }


def _rotary(c: dict[str, Any]) -> dict[str, Any]:
    """GPT-NeoX, Phi, StarCoder 2, StableLM."""
    part = c.get("rotary_pct", c.get("partial_rotary_factor", 1.0))
    found = {
        "feed_forward_length": c["intermediate_size"],
        "attention.layer_norm_epsilon": c.get("layer_norm_eps", c.get("norm_epsilon")),
        "rope.dimension_count": int(part * tiny_dense_a.heads(c)[2]),
        "rope.freq_base": float(c.get("rotary_emb_base") or c["rope_theta"]),
    }
    if "use_parallel_residual" in c:
        found["use_parallel_residual"] = c["use_parallel_residual"]
    return found


def _falcon(c: dict[str, Any]) -> dict[str, Any]:
    return {
        "feed_forward_length": c.get("ffn_hidden_size") or 4 * c["hidden_size"], "tensor_data_layout": "jploski",
        "attention.layer_norm_epsilon": c["layer_norm_epsilon"], "rope.freq_base": c["rope_theta"],
    }  # fmt: skip


def _slopes(c: dict[str, Any]) -> dict[str, Any]:
    """BLOOM and MPT."""
    found = {
        "feed_forward_length": 4 * tiny_dense_a.width(c),
        "attention.layer_norm_epsilon": c["layer_norm_epsilon"],
    }
    if c["model_type"] == "mpt":
        found["attention.max_alibi_bias"] = 8.0
        if c["attn_config"]["clip_qkv"]:
            found["attention.clamp_kqv"] = c["attn_config"]["clip_qkv"]
    return found


_OWN = {
    "gpt2": _gpt2,
    "falcon": _falcon,
    "bloom": _slopes,
    "mpt": _slopes,
    **dict.fromkeys(("gpt_neox", "phi", "starcoder2", "stablelm"), _rotary),
}


def joined(arrays: dict[str, Array]) -> dict[str, Array]:
    """Norms of single heads in one tensor."""
    found: dict[str, Array] = {}
    for name, array in arrays.items():
        match = re.fullmatch(r"(.*_layernorm)\.norms\.\d+\.weight", name)
        if match is None:
            found[name] = array
        else:
            name = f"{match[1]}.weight"
            found[name] = np.concatenate([found[name], array[None]]) if name in found else array[None]
    return found


def converted(c: dict[str, Any], name: str, array: Array) -> Array:
    """A tensor in the order in which GGUF files have it."""
    if "query_key_value" in name:
        heads, shared, size = tiny_dense_a.heads(c)
        rows = array.reshape(shared, heads // shared + 2, size, -1)
        parts = [rows[:, :-2], rows[:, -2], rows[:, -1]]
        return np.concatenate([part.reshape(-1, rows.shape[-1]) for part in parts]).reshape(array.shape)
    if c["model_type"] == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return array.T
    return array
