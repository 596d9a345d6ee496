# SPDX-License-Identifier: MIT
"""From the tensors of a Hugging Face folder to a GGUF file, as llama.cpp's converters do it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from golden import tiny_decoders

from . import gguf_dense_a, gguf_dense_b
from .gguf_files import Tensor, gguf_bytes

Array = np.ndarray[Any, Any]

PAIRED = ("llama", "smollm3", "granite", *gguf_dense_b.PAIRED)
"""Architectures whose rows of queries and keys are put in another order."""

_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
_OLMO2 = {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}


def gguf_name(name: str, family: str) -> str:
    """What a tensor of a Hugging Face file is called in a GGUF file."""
    if family in gguf_dense_a.ARCHITECTURES:
        return gguf_dense_a.gguf_name(name, family)
    layer, _, part = name.rpartition(".")
    names = _NAMES | (_OLMO2 if family == "olmo2" else gguf_dense_b.NAMES.get(family, {}))
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", layer)
    return f"blk.{match[1]}.{names[match[2]]}.{part}" if match else f"{names[layer]}.{part}"


def paired(rows: Array, heads: int) -> Array:
    """Rows of heads of halves, as rows of heads of pairs."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def fields_of(c: dict[str, Any]) -> dict[str, Any]:
    """The fields of a file of the model that config.json describes."""
    family = c["model_type"]
    if family in gguf_dense_a.ARCHITECTURES:
        return gguf_dense_a.fields_of(c)
    arch = "llama" if family == "mistral" else gguf_dense_b.ARCHITECTURES.get(family, family)
    heads, kv_heads, size = tiny_decoders.heads(c)
    eps = c.get("rms_norm_eps", 1e-6)
    fields: dict[str, Any] = {
        "general.architecture": arch, "general.name": "tiny", "general.file_type": 1,
        f"{arch}.context_length": c["max_position_embeddings"], f"{arch}.embedding_length": c["hidden_size"],
        f"{arch}.block_count": c["num_hidden_layers"], f"{arch}.feed_forward_length": c["intermediate_size"],
        f"{arch}.attention.head_count": heads, f"{arch}.attention.head_count_kv": kv_heads,
        f"{arch}.attention.layer_norm_rms_epsilon": float(eps), f"{arch}.rope.dimension_count": size,
        f"{arch}.rope.freq_base": float(c.get("rope_theta", 10000.0)), f"{arch}.vocab_size": c["vocab_size"],
        "tokenizer.ggml.eos_token_id": c["eos_token_id"], "tokenizer.ggml.bos_token_id": c["bos_token_id"],
    }  # fmt: skip
    if "head_dim" in c:
        fields |= {f"{arch}.attention.key_length": size, f"{arch}.attention.value_length": size}
    for key, name in (
        ("embedding_multiplier", "embedding_scale"), ("residual_multiplier", "residual_scale"),
        ("attention_multiplier", "attention.scale"), ("logits_scaling", "logit_scale"),
    ):  # fmt: skip
        if key in c:
            fields[f"{arch}.{name}"] = float(c[key])
    if family == "phi3":
        fields[f"{arch}.rope.dimension_count"] = int(size * c.get("partial_rotary_factor", 1.0))
        fields[f"{arch}.attention.sliding_window"] = c.get("sliding_window") or 0
        fields[f"{arch}.rope.scaling.original_context_length"] = c["original_max_position_embeddings"]
    return gguf_dense_b.fields_of(c, fields, arch)


def tensors_of(c: dict[str, Any], arrays: dict[str, Array], dtype: str) -> dict[str, Any]:
    """The tensors of the file: matrices of ``dtype``, everything else float32."""
    heads, kv_heads, _ = tiny_decoders.heads(c)
    found: dict[str, Any] = {}
    for name, array in gguf_dense_a.joined(arrays).items():
        turned = {"q_proj": heads, "k_proj": kv_heads}.get(name.split(".")[-2], 0)
        family = "llama" if c["model_type"] == "mistral" else c["model_type"]
        if turned and family in PAIRED:
            array = paired(array, turned)
        if family in gguf_dense_a.ARCHITECTURES:
            array = gguf_dense_a.converted(c, name, array)
        array = np.ascontiguousarray(gguf_dense_b.changed(family, name, array))
        if array.ndim == 1 or name.endswith(("_layernorm.weight", "_norm.weight")) or dtype == "float32":
            found[gguf_name(name, family)] = array
        elif dtype == "bfloat16":
            bits = (array.view(np.uint32) >> 16).astype("<u2")
            found[gguf_name(name, family)] = Tensor("BF16", array.shape, bits.tobytes())
        else:
            found[gguf_name(name, family)] = array.astype(dtype)
    return found


def make(
    path: Path, family: str, *, dtype: str = "float16", more: dict[str, Any] | None = None, **overrides: Any
) -> Path:
    """Write the GGUF file of a model of ``tiny_decoders``; ``more``: further fields."""
    c = tiny_decoders.config(family, **overrides)
    arrays = tiny_decoders.tensors(c)
    path.write_bytes(gguf_bytes({**fields_of(c), **(more or {})}, tensors_of(c, arrays, dtype)))
    return path


def plain_tokenizer(count: int) -> dict[str, Any]:
    """Fields of a tokenizer of so many tokens, for readers that need one."""
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [f"t{i}" for i in range(count)], "tokenizer.ggml.token_type": [1] * count,
        "tokenizer.ggml.merges": ["t 0"], "tokenizer.ggml.padding_token_id": 0,
    }  # fmt: skip
