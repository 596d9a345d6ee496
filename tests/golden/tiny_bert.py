# SPDX-License-Identifier: MIT
"""Small BERT folders with weights from an integer hash: the same bits on every machine, and nothing to store.

A test writes such a folder when it needs one; ``make_golden.py`` writes the same one to ask transformers about it.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BASE: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}

# Odd head sizes, one layer, a vocabulary of a handful, every activation; "gain" scales query and key weights, without
# which softmax is so flat that attention could be wrong and nobody would see.
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one_layer": {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 24, "vocab_size": 7},
    "heads_of_5": {
        "num_hidden_layers": 3, "hidden_size": 15, "num_attention_heads": 3, "intermediate_size": 33,
        "hidden_act": "gelu_new", "type_vocab_size": 3, "gain": 4.0,
    },
    "heads_of_24": {"hidden_size": 72, "num_attention_heads": 3, "hidden_act": "relu", "gain": 3.0},
    "heads_of_1": {"hidden_size": 6, "num_attention_heads": 6, "intermediate_size": 1, "type_vocab_size": 1},
    "peaked": {"hidden_size": 48, "num_attention_heads": 2, "hidden_act": "silu", "layer_norm_eps": 1e-5, "gain": 8.0},
    "wide": {"hidden_size": 400, "num_attention_heads": 5, "intermediate_size": 900, "gain": 2.0},
}  # fmt: skip


def config(name: str) -> dict[str, Any]:
    """config.json of the model ``name``."""
    return {**BASE, **{key: value for key, value in CONFIGS[name].items() if key != "gain"}}


def uniform(key: str, shape: tuple[int, ...]) -> Array:
    """float32 numbers in [-1, 1), multiples of 2**-23, that depend on nothing but ``key`` and their index."""
    z = np.arange(math.prod(shape), dtype=np.uint64) + (np.uint64(zlib.crc32(key.encode())) << np.uint64(32))
    z = (z + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(40)).astype(np.float32) * np.float32(2**-23) - np.float32(1)).reshape(shape)


def integers(key: str, shape: tuple[int, ...], limit: int) -> Array:
    """Integers from 0 to limit - 1, from the same hash."""
    return ((uniform(key, shape).astype(np.float64) + 1) / 2 * limit).astype(np.int64)


def tensors(name: str) -> dict[str, Array]:
    """Weights of the model ``name`` by the names of transformers' BertModel."""
    c = config(name)
    gain = CONFIGS[name].get("gain", 1.0)
    hidden, inner = c["hidden_size"], c["intermediate_size"]
    result: dict[str, Array] = {}

    def add(key: str, shape: tuple[int, ...], scale: float, offset: float = 0.0) -> None:
        result[key] = uniform(f"{name}/{key}", shape) * np.float32(scale) + np.float32(offset)

    def linear(key: str, outputs: int, inputs: int, scale: float = 1.0) -> None:
        add(f"{key}.weight", (outputs, inputs), scale * math.sqrt(3 / inputs))
        add(f"{key}.bias", (outputs,), 0.25)

    def norm(key: str) -> None:
        add(f"{key}.weight", (hidden,), 0.5, 1.0)
        add(f"{key}.bias", (hidden,), 0.5)

    add("embeddings.word_embeddings.weight", (c["vocab_size"], hidden), 1.0)
    add("embeddings.position_embeddings.weight", (c["max_position_embeddings"], hidden), 0.5)
    add("embeddings.token_type_embeddings.weight", (c["type_vocab_size"], hidden), 0.5)
    norm("embeddings.LayerNorm")
    for i in range(c["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        linear(f"{layer}.attention.self.query", hidden, hidden, gain)
        linear(f"{layer}.attention.self.key", hidden, hidden, gain)
        linear(f"{layer}.attention.self.value", hidden, hidden)
        linear(f"{layer}.attention.output.dense", hidden, hidden)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", inner, hidden)
        linear(f"{layer}.output.dense", hidden, inner)
        norm(f"{layer}.output.LayerNorm")
    linear("pooler.dense", hidden, hidden)
    return result


_NAMES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int64": "I64"}


def save_safetensors(path: Path, arrays: dict[str, Array]) -> None:
    """Write a safetensors file; uint16 arrays are taken for the bits of bfloat16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for key, array in arrays.items():
        end = position + array.nbytes
        header[key] = {"dtype": _NAMES[array.dtype.name], "shape": list(array.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).tobytes())


def save_folder(folder: Path, name: str) -> Path:
    """Write config.json and model.safetensors of the model ``name`` to ``folder``, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(name)))
    save_safetensors(folder / "model.safetensors", tensors(name))
    return folder


def batch(name: str) -> tuple[Array, Array, Array]:
    """Token ids, attention mask and token types (5, 19) for the model ``name``.

    The rows: whole, padded on the right, on the left, with holes, and a single token in the middle.
    """
    c = config(name)
    shape = (5, 19)
    ids = integers(f"{name}/ids", shape, c["vocab_size"])
    types = integers(f"{name}/types", shape, c["type_vocab_size"])
    mask = np.ones(shape, np.int64)
    mask[1, 11:] = 0
    mask[2, :6] = 0
    mask[3] = integers(f"{name}/mask", (19,), 2)
    mask[3, 0] = 1
    mask[4] = 0
    mask[4, 9] = 1
    return ids, mask, types


WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat", "##s", "##ed", "a", "b", "c", "d",
    "##a", "##b", "##c", "##d", ".", ",", "!", "東", "京", "über", "uber", "query", ":", "long", "##er",
]  # fmt: skip


def tokenizer() -> dict[str, Any]:
    """tokenizer.json of a WordPiece tokenizer as BERT has it, with settings left over from some training."""
    special = [("[CLS]", 2), ("[SEP]", 3)]
    parts = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
             {"SpecialToken": {"id": "[SEP]", "type_id": 0}}]  # fmt: skip
    return {
        "version": "1.0",
        "truncation": {"max_length": 5, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [
            {"id": i, "content": WORDS[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
            for i in range(5)
        ],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": False},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": parts,
            "pair": [*parts, {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
            "special_tokens": {token: {"id": token, "ids": [i], "tokens": [token]} for token, i in special},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {word: i for i, word in enumerate(WORDS)}},
    }  # fmt: skip


def save_text_folder(folder: Path, name: str = "plain") -> Path:
    """The model ``name`` with a tokenizer beside it, and nothing said about pooling."""
    save_folder(folder, name)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    return folder
