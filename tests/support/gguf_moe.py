# SPDX-License-Identifier: MIT
"""From the tensors of ``tiny_moe`` to a GGUF file, as llama.cpp's converters do it: those of all experts in one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from golden import tiny_decoders, tiny_moe

from .gguf_files import Tensor, finite_blocks, gguf_bytes
from .gguf_models import fields_of as plain_fields
from .gguf_models import gguf_name, paired
from .inputs import generator

Array = np.ndarray[Any, Any]

ARCHITECTURES = {
    "mixtral": "llama", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "olmoe": "olmoe", "granitemoe": "granitemoe",
    "gpt_oss": "gpt-oss", "llama4_text": "llama4",
}  # fmt: skip
"""Family -> general.architecture."""

_PAIRED = ("mixtral", "granitemoe")
_NAMES = {
    "mlp.gate": "ffn_gate_inp", "mlp.router": "ffn_gate_inp", "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.router.layer": "ffn_gate_inp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp", "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp", "self_attn.sinks": "attn_sinks",
    "feed_forward.router": "ffn_gate_inp", "feed_forward.shared_expert.gate_proj": "ffn_gate_shexp",
    "feed_forward.shared_expert.up_proj": "ffn_up_shexp", "feed_forward.shared_expert.down_proj": "ffn_down_shexp",
    "feed_forward.gate_proj": "ffn_gate", "feed_forward.up_proj": "ffn_up", "feed_forward.down_proj": "ffn_down",
}  # fmt: skip
_PARTS = {"gate_proj": "gate", "w1": "gate", "up_proj": "up", "w3": "up", "down_proj": "down", "w2": "down"}


def fields_of(c: dict[str, Any]) -> dict[str, Any]:
    """The fields of a file of the model that config.json describes."""
    family = c["model_type"]
    arch = ARCHITECTURES[family]
    fields = {key.replace(f"{family}.", f"{arch}.", 1): value for key, value in plain_fields(c).items()}
    fields |= {
        "general.architecture": arch, f"{arch}.expert_count": tiny_moe.experts(c),
        f"{arch}.expert_used_count": c["num_experts_per_tok"],
    }  # fmt: skip
    if family == "llama4_text":
        fields |= {f"{arch}.feed_forward_length": c["intermediate_size_mlp"],
                   f"{arch}.expert_feed_forward_length": c["intermediate_size"],
                   f"{arch}.interleave_moe_layer_step": c["interleave_moe_layer_step"]}  # fmt: skip
    if "moe_intermediate_size" in c:
        fields[f"{arch}.expert_feed_forward_length"] = c["moe_intermediate_size"]
    if "shared_expert_intermediate_size" in c:
        fields[f"{arch}.expert_shared_feed_forward_length"] = c["shared_expert_intermediate_size"]
    if c.get("clip_qkv"):
        fields[f"{arch}.attention.clamp_kqv"] = c["clip_qkv"]
    if family == "gpt_oss":
        fields[f"{arch}.attention.sliding_window"] = c["sliding_window"]
        fields[f"{arch}.expert_feed_forward_length"] = c["intermediate_size"]
        fields[f"{arch}.rope.freq_base"] = c["rope_parameters"]["rope_theta"]
    return fields


def _matrices(c: dict[str, Any], arrays: dict[str, Array]) -> dict[str, Array]:
    """Tensors by their names in the file, none of them narrowed yet."""
    heads, kv_heads, _ = tiny_decoders.heads(c)
    family, inner = c["model_type"], c["intermediate_size"]
    found: dict[str, Array] = {}
    each: dict[str, list[Array]] = {}
    for name, array in arrays.items():
        match = re.fullmatch(r"model\.layers\.(\d+)\.(.*?)(?:\.(weight|bias))?", name)
        layer, part = (f"blk.{match[1]}", match[2]) if match else ("", "")
        expert = re.fullmatch(r".*\.experts\.\d+\.(\w+)", part)
        if expert:
            each.setdefault(f"{layer}.ffn_{_PARTS[expert[1]]}_exps.weight", []).append(array)
        elif part == "block_sparse_moe.input_linear":
            found[f"{layer}.ffn_gate_exps.weight"], found[f"{layer}.ffn_up_exps.weight"] = (
                array[:, :inner],
                array[:, inner:],
            )
        elif part == "block_sparse_moe.output_linear":
            found[f"{layer}.ffn_down_exps.weight"] = array
        elif part.startswith("feed_forward.experts."):  # gates in front of what they gate
            both = array.swapaxes(1, 2)
            if part.endswith("down_proj"):
                found[f"{layer}.ffn_down_exps.weight"] = both
            else:
                found[f"{layer}.ffn_gate_exps.weight"] = both[:, :inner]
                found[f"{layer}.ffn_up_exps.weight"] = both[:, inner:]
        elif part.startswith("mlp.experts.gate_up_proj"):
            kind = "bias" if part.endswith("_bias") else "weight"
            rows = array if kind == "bias" else array.swapaxes(1, 2)
            found[f"{layer}.ffn_gate_exps.{kind}"], found[f"{layer}.ffn_up_exps.{kind}"] = rows[:, ::2], rows[:, 1::2]
        elif part.startswith("mlp.experts.down_proj"):
            kind = "bias" if part.endswith("_bias") else "weight"
            found[f"{layer}.ffn_down_exps.{kind}"] = array if kind == "bias" else array.swapaxes(1, 2)
        elif part in _NAMES:
            found[f"{layer}.{_NAMES[part]}.{match[3] or 'weight' if match else ''}"] = array
        elif family == "gpt_oss" and part == "post_attention_layernorm":
            found[f"{layer}.post_attention_norm.weight"] = array
        else:
            turned = {"q_proj": heads, "k_proj": kv_heads}.get(name.split(".")[-2], 0)
            found[gguf_name(name, family)] = paired(array, turned) if turned and family in _PAIRED else array
    return found | {name: np.stack(parts) for name, parts in each.items()}


def tensors_of(
    c: dict[str, Any], arrays: dict[str, Array], dtype: str, *, joined: bool = False, flat: bool = False
) -> dict[str, Any]:
    """The tensors of the file: matrices of ``dtype``, but routers; everything else float32.

    ``joined``: gates and what they gate in one tensor; ``flat``: the shared expert's gate as a vector.
    """
    found: dict[str, Any] = {}
    matrices = _matrices(c, arrays)
    for name in [name for name in matrices if joined and "ffn_gate_exps" in name]:
        other = matrices.pop(name.replace("gate", "up"))
        matrices[name.replace("gate", "gate_up")] = np.concatenate([matrices.pop(name), other], axis=1)
    for name, values in matrices.items():
        array = np.ascontiguousarray(values[0] if flat and "ffn_gate_inp_shexp" in name else values)
        if array.ndim == 1 or dtype == "float32" or "gate_inp" in name or name.endswith("bias"):
            found[name] = array
        elif dtype == "bfloat16":
            found[name] = Tensor("BF16", array.shape, (array.view(np.uint32) >> 16).astype("<u2").tobytes())
        else:
            found[name] = array.astype(dtype)
    return found


def make(
    path: Path, family: str, *, dtype: str = "float16", more: dict[str, Any] | None = None, joined: bool = False,
    flat: bool = False, blocks: str = "", **overrides: Any,
) -> Path:  # fmt: skip
    """Write the GGUF file of a model of ``tiny_moe``; ``more``: further fields, ``...`` for those to leave out.

    ``blocks``: a type that matrices whose rows are whole blocks get random ones of.
    """
    c = tiny_moe.config(family, **overrides)
    fields = {key: value for key, value in {**fields_of(c), **(more or {})}.items() if value is not ...}
    tensors = tensors_of(c, tiny_moe.tensors(c), dtype, joined=joined, flat=flat)
    for name, array in tensors.items() if blocks else ():
        if name.endswith("weight") and len(array.shape) > 1 and array.shape[-1] % 32 == 0:
            rows = finite_blocks(blocks, array.shape, generator("experts", name), 0.1)
            tensors[name] = Tensor(blocks, array.shape, rows.tobytes())
    path.write_bytes(gguf_bytes(fields, tensors))
    return path
