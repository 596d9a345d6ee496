# SPDX-License-Identifier: MIT
"""Vocabularies of other formats, as tokenizers of the ``tokenizers`` library."""

from __future__ import annotations

from .ggufvocab import gguf_tokenizer, tokenizer_json

__all__ = ["gguf_tokenizer", "tokenizer_json"]
