# SPDX-License-Identifier: MIT
"""A decoder with its tokenizer."""

from __future__ import annotations

from ..engine.decoder import Decoder
from .modeltokenizer import ModelTokenizer

__all__ = ["PromptedDecoder"]


class PromptedDecoder(Decoder):
    """A language model that may have a tokenizer."""

    @property
    def has_tokenizer(self) -> bool:
        """Whether there is a tokenizer; without one, prompts are token ids."""
        return self.files.has("tokenizer.json")

    @property
    def tokenizer(self) -> ModelTokenizer:
        """The model's tokenizer: ``encode(text)``, ``decode(ids)``, ids of special tokens.

        Raises
        ------
        FileNotFoundError
            The model has none.
        ImportError
            The ``tokenizers`` library is not installed.
        """
        return self.keep("model tokenizer", self._make_tokenizer)

    def _make_tokenizer(self) -> ModelTokenizer:
        return ModelTokenizer.from_files(self.files, self.vocab_size)
