# SPDX-License-Identifier: MIT
"""What transformers 5 makes of a language model's tokenizer.json beyond what ``reconcile`` does for all.

Of the classes that language models name, Llama's alone puts stages of its own in place of the file's. What stands
around a text is always the file's: add_bos_token and add_eos_token say nothing where there is a tokenizer.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .stages import state_of
from .tokenizerconfig import TokenizerConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["as_transformers"]

_SPACE = "\u2581"


def as_transformers(tokenizer: Tokenizer, config: TokenizerConfig) -> Tokenizer:
    """``tokenizer`` with what its class in ``config`` changes.

    Raises
    ------
    ValueError
        A flag of the class is neither true nor false.
    """
    if config.class_name == "LlamaTokenizer" and config.class_place and type(tokenizer.model).__name__ == "BPE":
        state = state_of(tokenizer.pre_tokenizer)
        if "ByteLevel" not in repr(state):
            return _llama(tokenizer, config)
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
