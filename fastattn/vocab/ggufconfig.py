# SPDX-License-Identifier: MIT
"""What a GGUF file says beside its vocabulary, as the small files of a folder do: roles, templates, ends."""

from __future__ import annotations

from typing import Any

from .gguffields import Fields
from .ggufvocab import GgufVocabulary

__all__ = ["gguf_stop_ids", "gguf_templates", "gguf_tokens", "tokenizer_config"]

_TEMPLATE = "tokenizer.chat_template"
_ROLES = {
    "bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "sep_token": "seperator", "pad_token": "padding",
    "cls_token": "cls", "mask_token": "mask",
}  # fmt: skip

# Control tokens that end an answer, whatever key names them or not: files often name the end of a text alone.
_ENDS = frozenset((
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>",
    "<|end_of_text|>", "<turn|>",
))  # fmt: skip


def gguf_tokens(vocabulary: GgufVocabulary) -> dict[str, str | None]:
    """Special tokens by their role, under the names of ``tokenizer_config.json``."""
    found = {role: vocabulary.special_token(name) for role, name in _ROLES.items()}
    if vocabulary.kind == "bert":
        found["cls_token"] = found["cls_token"] or found["bos_token"]
    return found


def gguf_templates(fields: Fields) -> dict[str, str]:
    """Chat templates by their name; the usual one is "default".

    Raises
    ------
    WeightFileError
        A template is no text, or one that is listed is missing.
    """
    usual = fields.text(_TEMPLATE)
    found = {} if usual is None else {"default": usual}
    for name in fields.texts("tokenizer.chat_templates") or ():
        template = fields.text(f"{_TEMPLATE}.{name}")
        if template is None:
            raise fields.wrong(f"{_TEMPLATE}.{name[:60]}", "is missing, but tokenizer.chat_templates names it")
        found.setdefault(name, template)
    return found


def gguf_stop_ids(vocabulary: GgufVocabulary) -> list[int]:
    """Ids after which an answer has ended: the end of a text, of a turn, of a message; in order.

    Files that name the end of a text alone are helped by the control tokens that are known to end a turn.
    """
    found = {number for role in ("eos", "eot", "eom") if (number := vocabulary.special_id(role)) is not None}
    control = set(vocabulary.numbers_of(3))
    named = {token: number for token in _ENDS if (number := vocabulary.ids.get(token)) in control}
    if {"<|return|>", "<|call|>"} <= named.keys():  # where <|end|> ends a message, not the answer
        named.pop("<|end|>", None)
    return sorted({*found, *(number for number in named.values() if number is not None)})


def tokenizer_config(vocabulary: GgufVocabulary) -> dict[str, Any]:
    """What ``tokenizer_config.json`` would say: special tokens, templates.

    Raises
    ------
    WeightFileError
        A key is damaged: file and key are named.
    """
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    normal = set(vocabulary.numbers_of(1))
    for role, token in gguf_tokens(vocabulary).items():
        # A role makes its token special: a letter that is also the unknown token would be missing in every text.
        if token is not None and (role in ("bos_token", "eos_token") or vocabulary.ids[token] not in normal):
            config[role] = token
    templates = gguf_templates(vocabulary.fields)
    if list(templates) == ["default"]:
        config["chat_template"] = templates["default"]
    elif templates:
        config["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()]
    return config
