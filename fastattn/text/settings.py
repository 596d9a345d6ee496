# SPDX-License-Identifier: MIT
"""What a folder says about texts and their tokens, in the files that transformers and sentence-transformers write."""

from __future__ import annotations

import os
from typing import NamedTuple

from ..loaders.files import ModelFiles, as_files
from .jsonkeys import OptionalJson

__all__ = ["TextSettings"]


# Files of sentence-transformers 1 are named after the family; all newer ones "bert".
_KINDS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")


class TextSettings(NamedTuple):
    """How a folder wants its text tokenized."""

    max_length: int | None = None
    """Tokens of a text, special ones included; None for no limit but the model's positions."""
    truncation_side: str = "right"
    """Where a text that is too long loses tokens."""
    lowercase: bool = False
    """Whether text is lower-cased before the tokenizer sees it."""
    token_types: bool = True
    """Whether the model is told which of two texts a token is from, where the tokenizer says so."""

    @classmethod
    def read(cls, folder: ModelFiles | str | os.PathLike[str]) -> TextSettings:
        """Settings of ``folder`` (or of the files of a model).

        ``sentence_bert_config.json`` (or its older names) has max_seq_length and do_lower_case;
        ``tokenizer_config.json`` model_max_length, truncation_side and model_input_names. Each may be missing.

        Raises
        ------
        ValueError
            A file is damaged, or asks for something that is not supported: the file and the key are named.

        Example
        -------
        >>> TextSettings.read("all-MiniLM-L6-v2").max_length        # doctest: +SKIP
        256
        """
        files = as_files(folder)
        names = [f"sentence_{kind}_config.json" for kind in _KINDS]
        bert = OptionalJson(files, next(filter(files.has, names), names[0]))
        tokenizer = OptionalJson(files, "tokenizer_config.json")
        max_length = bert.length("max_seq_length")
        if max_length is None:
            max_length = tokenizer.length("model_max_length")
        inputs = tokenizer.values.get("model_input_names")
        if inputs is not None and not (isinstance(inputs, list) and all(isinstance(name, str) for name in inputs)):
            raise tokenizer.wrong("model_input_names", "a list of names")
        return cls(
            max_length=max_length,
            truncation_side=tokenizer.choice("truncation_side", ("right", "left")),
            lowercase=bert.flag("do_lower_case"),
            token_types=inputs is None or "token_type_ids" in inputs,
        )
