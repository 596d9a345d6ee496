# SPDX-License-Identifier: MIT
"""What transformers 5 makes of a language model's tokenizer.json beyond what ``reconcile`` does for all.

Of the classes that language models name, Llama's alone puts stages of its own in place of the file's; and flags that
say whether texts begin and end with special tokens win over the file, whatever the class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .stages import state_of
from .tokenizerconfig import TokenizerConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["as_transformers"]

_SPACE = "\u2581"


def as_transformers(tokenizer: Tokenizer, config: TokenizerConfig, path: str) -> Tokenizer:
    """``tokenizer`` with what its class and the flags of ``config`` change. ``path`` is its file.

    Raises
    ------
    ValueError
        A flag is neither true nor false, or asks for a special token that there is not.
    """
    if config.class_name == "LlamaTokenizer" and config.class_place and type(tokenizer.model).__name__ == "BPE":
        state = state_of(tokenizer.pre_tokenizer)
        if "ByteLevel" not in repr(state):
            tokenizer = _llama(tokenizer, config)
    if "add_bos_token" in config.values or "add_eos_token" in config.values:
        _set_ends(tokenizer, config, path)
    return tokenizer


def _llama(tokenizer: Tokenizer, config: TokenizerConfig) -> Tokenizer:
    """Llama's class: a space before the text, unless it has one; ``legacy`` before what follows special tokens too."""
    from tokenizers import decoders, pre_tokenizers

    prefix = config.flag("add_prefix_space", True)
    scheme = ("always" if config.flag("legacy") else "first") if prefix else "never"
    had = tokenizer.normalizer is not None
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, scheme, split=False)
    stages = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*stages, decoders.Strip(content=" ", left=1)] if prefix else stages)
    model = tokenizer.model
    model.fuse_unk = model.byte_fallback = True
    if had and any(token.normalized for token in tokenizer.get_added_tokens_decoder().values()):
        # before 0.23 the library keeps what the former normaliser made of these tokens
        return type(tokenizer).from_str(tokenizer.to_str())
    return tokenizer


def _set_ends(tokenizer: Tokenizer, config: TokenizerConfig, path: str) -> None:
    """The beginning and the end that flags ask for, in place of those of the file."""
    from tokenizers import processors

    ends: list[list[str]] = []
    ids: dict[str, int] = {}
    for flag, role in (("add_bos_token", "bos_token"), ("add_eos_token", "eos_token")):
        token = config.token(role) if config.flag(flag) else None
        ends.append([] if token is None else [token])
        if token is not None:
            number = tokenizer.token_to_id(token)
            if number is None:
                raise ValueError(f"{config.where(role)} is {token[:60]!r}, which {path} has no id for")
            ids[token] = int(number)
    first, last = ends
    second = [f"{token}:1" for token in first], [f"{token}:1" for token in last]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*first, "$A", *last],
        pair=[*first, "$A", *last, *second[0], "$B:1", *second[1]],
        special_tokens=list(ids.items()),
    )
