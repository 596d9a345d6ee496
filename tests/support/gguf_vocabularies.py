# SPDX-License-Identifier: MIT
"""Tokenizers as GGUF files describe them, small enough to see through; and those of files that lie about."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastattn.models.gguf import GgufFiles
from fastattn.text.modeltokenizer import ModelTokenizer
from fastattn.vocab.ggufconfig import tokenizer_config
from fastattn.vocab.ggufvocab import GgufVocabulary

SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def byte_letters() -> list[str]:
    """The letters of all bytes, in their order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def spelled(text: str) -> str:
    """``text`` as byte-level vocabularies write it."""
    letters = byte_letters()
    return "".join(letters[byte] for byte in text.encode())


def byte_level(pre: str | None = "gpt-2", words: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """A byte-level vocabulary of all bytes, of ``words`` with their merges letter by letter, and three other tokens."""
    tokens = byte_letters()
    merges: list[str] = []
    for word in (*words, "  ", "\n\n", " the", "12", "123"):
        letters = spelled(word)
        for end in range(2, len(letters) + 1):
            if letters[:end] not in tokens:
                tokens.append(letters[:end])
                merges.append(f"{letters[: end - 1]} {letters[end - 1]}")
    types = [NORMAL] * len(tokens) + [CONTROL, CONTROL, USER]
    tokens += ["<|bos|>", "<|end|>", "<tool>"]
    fields = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": len(tokens) - 3,
        "tokenizer.ggml.eos_token_id": len(tokens) - 2,
        **({} if pre is None else {"tokenizer.ggml.pre": pre}),
    }
    return {**fields, **{f"tokenizer.{key.replace('__', '.')}": value for key, value in more.items()}}


def sentencepiece(**more: Any) -> dict[str, Any]:
    """As Llama 2 has it: bytes that stand for what no piece has, and scores that order the merges."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256]
    words = [SPACE, *"abcdehlort", "he", "ll", "lo", f"{SPACE}a", f"{SPACE}he", "llo", f"{SPACE}hello", SPACE * 2, "aa",
             "aaa", "ä"]  # fmt: skip
    scores = [0.0] * len(pieces) + [-1e6] * 11 + [-float(i) for i in range(len(words) - 11)]
    pieces += words
    types += [NORMAL] * len(words)
    pieces.append("<|user|>")
    types.append(USER)
    scores.append(-1000.0)
    fields = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": np.array(scores, np.float32),
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    return {**fields, **{f"tokenizer.{key.replace('__', '.')}": value for key, value in more.items()}}


def unigram(**more: Any) -> dict[str, Any]:
    """As T5 has it, without a map of characters."""
    pieces = ["<pad>", "</s>", "<unk>", SPACE, *"abcehlo", f"{SPACE}a", "ab", f"{SPACE}hello", f"{SPACE}b"]
    fields = {
        "general.architecture": "t5",
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": np.array([0.0, 0.0, 0.0, *(-2.0 - i / 8 for i in range(len(pieces) - 3))], np.float32),
        "tokenizer.ggml.token_type": np.array([CONTROL, CONTROL, UNKNOWN, *[NORMAL] * (len(pieces) - 3)], np.int32),
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": True,
    }
    return {**fields, **{f"tokenizer.{key.replace('__', '.')}": value for key, value in more.items()}}


def word_piece(**more: Any) -> dict[str, Any]:
    """As BERT has it, its words spelled as GGUF files spell them."""
    pieces = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", f"{SPACE}hello", f"{SPACE}wor", "ld", "s",
              f"{SPACE}.", f"{SPACE}東", f"{SPACE}a"]  # fmt: skip
    types = [CONTROL, NORMAL, CONTROL, CONTROL, CONTROL, CONTROL, *[NORMAL] * (len(pieces) - 6)]
    fields = {
        "general.architecture": "bert",
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.unknown_token_id": 2,
        "tokenizer.ggml.cls_token_id": 3,
        "tokenizer.ggml.seperator_token_id": 4,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.mask_token_id": 5,
    }
    return {**fields, **{f"tokenizer.{key.replace('__', '.')}": value for key, value in more.items()}}


def fields_of(path: Path) -> dict[str, Any]:
    """Keys and values of the tokenizer of a GGUF file, by the ``gguf`` package."""
    import gguf

    result: dict[str, Any] = {}
    for key, field in gguf.GGUFReader(path).fields.items():
        if not key.startswith(("tokenizer.", "general.")):
            continue
        numeric = field.types[0] == gguf.GGUFValueType.ARRAY and field.types[-1] != gguf.GGUFValueType.STRING
        result[key] = np.concatenate([field.parts[i] for i in field.data]) if numeric else field.contents()
    return result


def model_tokenizer(fields: dict[str, Any], where: str, size: int | None = None) -> ModelTokenizer:
    """The tokenizer of a model whose GGUF file has these fields."""
    file: Any = SimpleNamespace(fields=fields, path=where)
    return ModelTokenizer.from_files(GgufFiles(file, {}), size)


def tokenizer_config_json(fields: dict[str, Any], where: str) -> bytes:
    """The tokenizer_config.json that goes into its packed file."""
    return json.dumps(tokenizer_config(GgufVocabulary(fields, where))).encode()
