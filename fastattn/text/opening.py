# SPDX-License-Identifier: MIT
"""A model's tokenizer.json as an object of the ``tokenizers`` library, as the files beside it ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..loaders.files import ModelFiles
from ..vocab.library import library, named_errors
from .decoderclasses import as_transformers
from .reconcile import reconcile
from .tokenizerconfig import TokenizerConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["TOKENIZER_JSON", "open_tokenizer"]

TOKENIZER_JSON = "tokenizer.json"


def open_tokenizer(files: ModelFiles, config: TokenizerConfig, purpose: str) -> Tokenizer:
    """That of ``files``, without padding or truncation, which are leftovers of training.

    Raises
    ------
    ImportError
        The ``tokenizers`` library is not installed.
    FileNotFoundError
        There is no tokenizer.json: the message says that it is needed for ``purpose``.
    ValueError
        A file is damaged, or asks for what is not supported: file and key are named.
    """
    path = files.describe(TOKENIZER_JSON)
    if not files.has(TOKENIZER_JSON):
        from ..loaders.hints import missing_tokenizer_hint

        raise FileNotFoundError(
            f"{path}: needed to {purpose} (token ids can be used without it); {missing_tokenizer_hint(files)}"
        )
    tokenizers = library()
    tokenizer: Tokenizer = files.tokenizer()
    if tokenizer is None:
        data = files.read_bytes(TOKENIZER_JSON)
        with named_errors(f"{path}: the tokenizers library cannot read it"):
            tokenizer = tokenizers.Tokenizer.from_buffer(data)
    with named_errors(f"{path}: the tokenizers library cannot do what {config.path} asks for", ValueError, OSError):
        tokenizer = as_transformers(reconcile(tokenizer, files), config)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
