# SPDX-License-Identifier: MIT
"""Small language models that make vectors or rank, with a tokenizer; as folders and as GGUF files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from golden import tiny_decoders
from golden.tiny_bert import save_safetensors
from tokenizers import Tokenizer, processors

from . import gguf_models
from .gguf_files import gguf_bytes
from .prompted_folders import CHATML, SPECIAL, TOKENS, VOCAB, byte_tokenizer, gguf_fields

END = TOKENS.index(SPECIAL[1])
QUERY = "Instruct: Given a question, find what answers it\nQuery:"

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
MESSAGE = {
    role: f'messages | selectattr("role", "eq", "{role}") | map(attribute="content") | first'
    for role in ("system", "query", "document")
}
"""The content of the message of each role, in Jinja, as chat templates of cross-encoders have it."""
FLAGS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def pooling(flag: str, width: int = 48) -> dict[str, Any]:
    """The pooling module's config.json, in the spelling of the folders of 2025."""
    flags = {f"pooling_mode_{name}": name == flag for name in FLAGS}
    return {"word_embedding_dimension": width, **flags, "include_prompt": True}


def tokenizer(end: bool = True) -> Tokenizer:
    """A token for each byte; with ``end``, the post-processor puts <|im_end|> behind a text."""
    made = byte_tokenizer()
    if end:
        byte_level = processors.ByteLevel(trim_offsets=False)
        template = processors.TemplateProcessing(
            single=f"$A {SPECIAL[1]}", pair=f"$A {SPECIAL[1]} $B {SPECIAL[1]}", special_tokens=[(SPECIAL[1], END)]
        )
        made.post_processor = processors.Sequence([byte_level, template])
    return made


def save(
    folder: Path, family: str = "qwen3", *, end: bool = True, files: dict[str, Any] | None = None, bare: bool = False,
    dtype: str = "float32", more: dict[str, Any] | None = None, **overrides: Any,
) -> Path:  # fmt: skip
    """A folder of a decoder. ``files``: contents of JSON files by their path; ``more``: further tensors. ``bare``:
    names without "model.", as folders of vectors have them.
    """
    sizes = {"vocab_size": VOCAB, "bos_token_id": END - 1, "eos_token_id": END, "max_position_embeddings": 160}
    c = tiny_decoders.config(family, **{**sizes, **overrides})
    arrays = {**tiny_decoders.tensors(c, dtype=dtype), **(more or {})}
    if bare:
        arrays = {name.removeprefix("model."): array for name, array in arrays.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**c, "torch_dtype": dtype}))
    save_safetensors(folder / "model.safetensors", arrays)
    tokenizer(end).save(str(folder / "tokenizer.json"))
    settings = {"eos_token": SPECIAL[1], "pad_token": SPECIAL[1], "tokenizer_class": "PreTrainedTokenizerFast",
                "padding_side": "left"}  # fmt: skip
    for name, content in {"tokenizer_config.json": settings, **(files or {})}.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def vector_files(flag: str = "lasttoken", **config: Any) -> dict[str, Any]:
    """The files of sentence-transformers beside such a model."""
    prompts = {"query": QUERY, "document": ""}
    return {
        "modules.json": MODULES,
        "1_Pooling/config.json": pooling(flag),
        "config_sentence_transformers.json": {"prompts": prompts, "default_prompt_name": None,
                                              "similarity_fn_name": "cosine", **config},
    }  # fmt: skip


def save_gguf(
    path: Path, family: str = "qwen3", *, end: bool = True, dtype: str = "float16", more: dict[str, Any] | None = None,
    left_out: tuple[str, ...] = (), fields: dict[str, Any] | None = None, **overrides: Any,
) -> Path:  # fmt: skip
    """The same model as a GGUF file. ``more``: further tensors; ``fields``: further fields, with "{}" for the
    architecture.
    """
    sizes = {"vocab_size": VOCAB, "bos_token_id": END - 1, "eos_token_id": END, "max_position_embeddings": 160}
    c = tiny_decoders.config(family, **{**sizes, **overrides})
    tensors = gguf_models.tensors_of(c, tiny_decoders.tensors(c), dtype)
    own = gguf_models.fields_of(c)
    named = {name.format(own["general.architecture"]): value for name, value in (fields or {}).items()}
    text = {**gguf_fields(), "tokenizer.chat_template": CHATML, "tokenizer.ggml.add_eos_token": end}
    tensors = {name: tensor for name, tensor in {**tensors, **(more or {})}.items() if name not in left_out}
    path.write_bytes(gguf_bytes({**own, **text, **named}, tensors))
    return path
