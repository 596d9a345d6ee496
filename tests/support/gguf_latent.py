# SPDX-License-Identifier: MIT
"""From the tensors of ``tiny_latent`` to a GGUF file, as llama.cpp's converters do it, of now or of before they kept
latents."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from golden import tiny_latent

from .gguf_files import gguf_bytes

Array = np.ndarray[Any, Any]

_NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.q_a_proj": "attn_q_a", "self_attn.q_a_layernorm": "attn_q_a_norm", "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp", "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}  # fmt: skip
_OUTSIDE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
            "lm_head.weight": "output.weight"}  # fmt: skip


def fields_of(c: dict[str, Any], latents: bool) -> dict[str, Any]:
    """The fields of a file of the model that config.json describes."""
    size, newer = c["qk_nope_head_dim"] + c["qk_rope_head_dim"], c["model_type"] == "deepseek_v3"
    values: dict[str, Any] = {
        "context_length": c["max_position_embeddings"], "embedding_length": c["hidden_size"],
        "block_count": c["num_hidden_layers"], "feed_forward_length": c["intermediate_size"],
        "attention.head_count": c["num_attention_heads"], "rope.freq_base": float(c["rope_theta"]),
        "attention.head_count_kv": 1 if latents else c["num_attention_heads"], "vocab_size": c["vocab_size"],
        "attention.layer_norm_rms_epsilon": c["rms_norm_eps"], "rope.dimension_count": c["qk_rope_head_dim"],
        "attention.kv_lora_rank": c["kv_lora_rank"], "leading_dense_block_count": c["first_k_dense_replace"],
        "attention.key_length": c["kv_lora_rank"] + c["qk_rope_head_dim"] if latents else size,
        "attention.value_length": c["kv_lora_rank"] if latents else c["v_head_dim"],
        "expert_count": c["n_routed_experts"], "expert_used_count": c["num_experts_per_tok"],
        "expert_shared_count": c["n_shared_experts"], "expert_feed_forward_length": c["moe_intermediate_size"],
        "expert_weights_scale": float(c["routed_scaling_factor"]), "expert_weights_norm": c["norm_topk_prob"],
        "expert_gating_func": 2 if newer else 1, "expert_group_count": c["n_group"],
        "expert_group_used_count": c["topk_group"],
    }  # fmt: skip
    if latents:
        values |= {"attention.key_length_mla": size, "attention.value_length_mla": c["v_head_dim"]}
    if c["q_lora_rank"] is not None:
        values["attention.q_lora_rank"] = c["q_lora_rank"]
    if c.get("rope_scaling"):
        rope = c["rope_scaling"]
        values |= {"rope.scaling.type": "yarn", "rope.scaling.factor": rope["factor"],
                   "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
                   "rope.scaling.yarn_beta_fast": float(rope["beta_fast"]),
                   "rope.scaling.yarn_beta_slow": float(rope["beta_slow"]),
                   "rope.scaling.yarn_log_multiplier": 0.1 * rope["mscale_all_dim"]}  # fmt: skip
    fields = {f"deepseek2.{key}": value for key, value in values.items()}
    return {"general.architecture": "deepseek2", "tokenizer.ggml.eos_token_id": c["eos_token_id"],
            "tokenizer.ggml.bos_token_id": c["bos_token_id"], **fields}  # fmt: skip


def tensors_of(c: dict[str, Any], arrays: dict[str, Array], dtype: str, latents: bool) -> dict[str, Array]:
    """The tensors of the file: matrices of ``dtype``, but routers; everything else float32."""
    found: dict[str, Array] = {}
    each: dict[str, list[Array]] = {}
    for name, array in arrays.items():
        match = re.fullmatch(r"model\.layers\.(\d+)\.(.*)\.(weight|bias|e_score_correction_bias)", name)
        if match is None:
            found[_OUTSIDE[name]] = array
            continue
        layer, part, kind = f"blk.{match[1]}", match[2], match[3]
        expert = re.fullmatch(r"mlp\.experts\.\d+\.(\w+)_proj", part)
        if expert:
            each.setdefault(f"{layer}.ffn_{expert[1]}_exps.weight", []).append(array)
        elif kind == "e_score_correction_bias":
            found[f"{layer}.exp_probs_b.bias"] = array
        elif part == "self_attn.kv_b_proj" and latents:
            heads = array.reshape(c["num_attention_heads"], -1, array.shape[1])
            found[f"{layer}.attn_k_b.weight"] = heads[:, : c["qk_nope_head_dim"]].swapaxes(1, 2)
            found[f"{layer}.attn_v_b.weight"] = heads[:, c["qk_nope_head_dim"] :]
        else:
            found[f"{layer}.{_NAMES[part]}.{kind}"] = array
    found |= {name: np.stack(parts) for name, parts in each.items()}
    plain = {name for name, array in found.items() if array.ndim == 1 or "gate_inp" in name}
    return {
        name: np.ascontiguousarray(array if name in plain else array.astype(dtype)) for name, array in found.items()
    }


def make(path: Path, family: str, *, dtype: str = "float16", latents: bool = True, more: dict[str, Any] | None = None,
         **overrides: Any) -> Path:  # fmt: skip
    """Write the GGUF file of a model of ``tiny_latent``; ``more``: further fields, ``...`` for those to leave out."""
    c = tiny_latent.config(family, **overrides)
    fields = {key: value for key, value in {**fields_of(c, latents), **(more or {})}.items() if value is not ...}
    path.write_bytes(gguf_bytes(fields, tensors_of(c, tiny_latent.tensors(c), dtype, latents)))
    return path
