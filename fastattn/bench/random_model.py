# SPDX-License-Identifier: MIT
"""Model folders with random weights, of the sizes of well-known models, written by NumPy alone.

How long a forward pass takes does not depend on what the weights are, so these stand for the models of their size.
"""

from __future__ import annotations

import json
import math
import struct
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastattn.graph.build import trace_page
from fastattn.graph.checkpoint import Plan
from fastattn.graph.config import ConfigReader
from fastattn.loaders.files import FolderFiles
from fastattn.models.registry import FAMILIES, family_of

__all__ = ["RANDOM", "random_folder", "random_tensor", "tensor_shapes", "write_folder", "write_safetensors"]

_BERT: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
}

_SMOLLM2: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}

RANDOM: dict[str, dict[str, Any]] = {"bert-base": _BERT, "smollm2-135m": _SMOLLM2}
"""Name of ``fastattn bench model --random`` -> its config.json."""


def random_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 values that depend on the name and the shape alone: about 1 for a norm's weights, small ones for biases,
    and matrices that keep the size of what goes through them.

    >>> random_tensor("a.bias", (2,)).tolist() == random_tensor("a.bias", (2,)).tolist()
    True
    """
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    if len(shape) > 1:
        values *= np.float32(1 / math.sqrt(shape[-1]))
        return values
    values *= np.float32(0.1)
    if name.endswith(".weight"):
        values += 1
    return values


def write_safetensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """A safetensors file with a random tensor for each name, made and written one after the other."""
    header, position = {}, 0
    for name, shape in shapes.items():
        end = position + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            random_tensor(name, shape).tofile(file)


class _Shapes(Plan):
    """What a family asks for when nothing is stored: parts that are optional it goes without."""

    def __init__(self, config: ConfigReader) -> None:
        super().__init__(config, _NO_WEIGHTS)

    def has(self, name: str) -> bool:
        return False


_NO_WEIGHTS: Any = {}


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that the model of config.json in ``folder`` cannot go without.

    Raises:
        ValueError: config.json describes no model that is supported.
    """
    config = ConfigReader.read(FolderFiles(folder))
    if config.model_type() not in FAMILIES:
        raise ValueError(f"{config.path}: model_type {config.model_type()!r} is none of {', '.join(FAMILIES)}")
    shapes = _Shapes(config)
    trace_page(family_of(config.model_type()), shapes)
    found: dict[str, tuple[int, ...]] = {}
    for names, shape in shapes.requests.items():
        if not any(name in found for name in names):  # a decoder that is the table of words is stored once
            found[names[0]] = shape
    return found


def write_folder(folder: Path, config: Mapping[str, Any]) -> Path:
    """config.json and model.safetensors of a model with random weights in ``folder``, which is there; returns it.

    Raises:
        ValueError: ``config`` describes no model that is known here.
    """
    (folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    write_safetensors(folder / "model.safetensors", tensor_shapes(folder))
    return folder


def random_folder(name: str) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder with the model ``name`` of RANDOM; gone when it is closed.

    Raises:
        ValueError: unknown name.
    """
    if name not in RANDOM:
        raise ValueError(f"random: got {name!r}, expected one of {', '.join(RANDOM)}")
    folder = tempfile.TemporaryDirectory(prefix="fastattn-")
    write_folder(Path(folder.name), RANDOM[name])
    return folder
