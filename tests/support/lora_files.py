# SPDX-License-Identifier: MIT
"""Adapters as PEFT and llama.cpp write them, and what becomes of a model's tensors, in NumPy."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from golden import tiny_bert, tiny_decoders

from .gguf_files import gguf_bytes
from .gguf_models import PAIRED, gguf_name, paired

Array = np.ndarray[Any, Any]
Pair = tuple[Array, Array]

R, ALPHA = 4, 8  # a scale of 2


def pair(name: str, shape: tuple[int, ...], rank: int = R) -> Pair:
    """A (rank, inputs) and B (outputs, rank), of few enough bits that all sums are exact in float32."""
    a = tiny_bert.integers(f"{name}.A", (rank, shape[1]), 8) - np.float32(4)
    b = tiny_bert.integers(f"{name}.B", (shape[0], rank), 8) - np.float32(4)
    return np.float32(a / 64), np.float32(b / 64)


def pairs(shapes: dict[str, tuple[int, ...]], words: Iterable[str]) -> dict[str, Pair]:
    """Module -> a pair, of each matrix whose module ends in one of ``words``."""
    ends = tuple(words)
    return {
        name.removesuffix(".weight"): pair(name, shape)
        for name, shape in shapes.items()
        if len(shape) == 2 and name.removesuffix(".weight").endswith(ends)
    }


def peft_tensors(found: dict[str, Pair], name: str = "") -> dict[str, Array]:
    """By PEFT's names, with ``name``, such as ".default", in them."""
    tensors = {}
    for module, (a, b) in found.items():
        tensors[f"base_model.model.{module}.lora_A{name}.weight"] = a
        tensors[f"base_model.model.{module}.lora_B{name}.weight"] = b
    return tensors


def save_peft(folder: Path, tensors: dict[str, Array], **config: Any) -> Path:
    """Write a folder as PEFT does."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "peft_type": "LORA", "base_model_name_or_path": "org/base", "bias": "none", "r": R, "lora_alpha": ALPHA,
        "lora_dropout": 0.05, "target_modules": ["q_proj"], "rank_pattern": {}, "alpha_pattern": {},
        "use_rslora": False, "use_dora": False, "fan_in_fan_out": False, "modules_to_save": None,
        "init_lora_weights": True, "inference_mode": True, "task_type": "CAUSAL_LM", **config,
    }  # fmt: skip
    values = {key: value for key, value in values.items() if value is not ...}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    tiny_bert.save_safetensors(folder / "adapter_model.safetensors", tensors)
    return folder


def gguf_adapter(
    path: Path, c: dict[str, Any], found: dict[str, Pair], more: dict[str, Array] | None = None, **fields: Any
) -> Path:
    """Write a GGUF adapter as llama.cpp's converter does; ``more``: further tensors; ``...`` takes a field away."""
    family = "llama" if c["model_type"] == "mistral" else c["model_type"]
    heads, kv_heads, _ = tiny_decoders.heads(c)
    tensors: dict[str, Any] = dict(more or {})
    for module, (a, b) in found.items():
        name = gguf_name(f"{module}.weight", family)
        turned = {"q_proj": heads, "k_proj": kv_heads}.get(module.split(".")[-1], 0)
        if turned and family in PAIRED:
            b = paired(b, turned)
        tensors[f"{name}.lora_a"] = np.ascontiguousarray(a)
        tensors[f"{name}.lora_b"] = np.ascontiguousarray(b)
    values = {
        "general.architecture": family, "general.type": "adapter", "adapter.type": "lora",
        "adapter.lora.alpha": float(ALPHA), "adapter.lora.task_name": "test",
        **{key.replace("__", "."): value for key, value in fields.items()},
    }  # fmt: skip
    path.write_bytes(gguf_bytes({key: value for key, value in values.items() if value is not ...}, tensors))
    return path


def merged(arrays: dict[str, Array], found: dict[str, Pair], scale: float = ALPHA / R) -> dict[str, Array]:
    """The tensors with W + scale * (B A), in float64, rounded once."""
    result = dict(arrays)
    for module, (a, b) in found.items():
        weight = arrays[f"{module}.weight"].astype(np.float64)
        result[f"{module}.weight"] = (weight + scale * (b.astype(np.float64) @ a)).astype(np.float32)
    return result


def save_model(folder: Path, c: dict[str, Any], arrays: dict[str, Array]) -> Path:
    """A folder of float32 tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(c))
    tiny_bert.save_safetensors(folder / "model.safetensors", arrays)
    return folder
