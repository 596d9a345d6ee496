# SPDX-License-Identifier: MIT
"""Small language models with a tokenizer: a token for each byte, and a few special ones; as folders and GGUF files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from golden import tiny_decoders
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from . import gguf_models

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<|im_start|>", "<|im_end|>"]
TOKENS = [*LETTERS, "ab", *SPECIAL]
START, END = TOKENS.index(SPECIAL[0]), TOKENS.index(SPECIAL[1])
"""Ids of the special tokens, which texts begin and end with."""
VOCAB = len(TOKENS)

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def byte_tokenizer() -> Tokenizer:
    """A token for each byte, one for "ab", and the special ones."""
    pieces = TOKENS[: -len(SPECIAL)]
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [("a", "b")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return made


def save(folder: Path, *, files: dict[str, Any] | None = None, context: int = 96, **overrides: Any) -> Path:
    """A folder of a Llama; ``files``: contents of further JSON files, whose names here are without ".json"."""
    tiny_decoders.make(
        folder, "llama", vocab_size=VOCAB, bos_token_id=START, eos_token_id=END, max_position_embeddings=context,
        **overrides,
    )  # fmt: skip
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    config = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[1], "tokenizer_class": "PreTrainedTokenizerFast"}
    for name, content in {"tokenizer_config": config, **(files or {})}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def gguf_fields(**more: Any) -> dict[str, Any]:
    """Fields of the same tokenizer in a GGUF file; dots of further names are written as two underscores."""
    fields = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [1] * (VOCAB - len(SPECIAL)) + [3] * len(SPECIAL),
        "tokenizer.ggml.merges": ["a b"], "tokenizer.chat_template": CHATML,
    }  # fmt: skip
    return {**fields, **{name.replace("__", "."): value for name, value in more.items()}}


def save_gguf(path: Path, dtype: str = "float16", **more: Any) -> Path:
    """A GGUF file of the same model; ``more`` as ``gguf_fields`` takes it, None for a field to leave out."""
    fields = {name: value for name, value in gguf_fields(**more).items() if value is not None}
    return gguf_models.make(
        path, "llama", dtype=dtype, more=fields, vocab_size=VOCAB, bos_token_id=START, eos_token_id=END
    )
