# SPDX-License-Identifier: MIT
"""GGUF files of the decoders of ``golden.tiny_dense_a``: their part of ``gguf_models``."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from golden import tiny_dense_a

Array = np.ndarray[Any, Any]

ARCHITECTURES = {"gpt2": "gpt2"}
"""``model_type`` -> ``general.architecture``."""

_NAMES: dict[str, dict[str, str]] = {
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
    heads, _, _ = tiny_dense_a.heads(c)
    hidden = c.get("n_embd") or c["hidden_size"]
    fields: dict[str, Any] = {
        "general.architecture": arch, "general.name": "tiny", "general.file_type": 1,
        f"{arch}.context_length": c[tiny_dense_a.POSITIONS.get(family, "max_position_embeddings")],
        f"{arch}.embedding_length": hidden, f"{arch}.block_count": tiny_dense_a.layers(c),
        f"{arch}.attention.head_count": heads,
        "tokenizer.ggml.eos_token_id": c["eos_token_id"], "tokenizer.ggml.bos_token_id": c["bos_token_id"],
    }  # fmt: skip
    return fields | {f"{arch}.{key}": value for key, value in _OWN[family](c).items()}


def _gpt2(c: dict[str, Any]) -> dict[str, Any]:
    return {
        "feed_forward_length": c.get("n_inner") or 4 * c["n_embd"],
        "attention.layer_norm_epsilon": c["layer_norm_epsilon"],
    }


_OWN = {"gpt2": _gpt2}


def converted(c: dict[str, Any], name: str, array: Array) -> Array:
    """A tensor in the order in which GGUF files have it."""
    if c["model_type"] == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return array.T
    return array
