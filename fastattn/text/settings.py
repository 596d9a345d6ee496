# SPDX-License-Identifier: MIT
"""What a folder says about texts and their tokens, in the files that transformers and sentence-transformers write."""

from __future__ import annotations

import os
from typing import NamedTuple

from ..loaders.files import ModelFiles, as_files
from .jsonkeys import OptionalJson, shown
from .sidefiles import MODEL_KWARGS, PROCESSING, PROCESSING_TEXT, check_keys, object_at, sentence_bert
from .tokenizerconfig import TokenizerConfig

__all__ = ["TextSettings"]

_TASKS = ("feature-extraction", "sequence-classification", "fill-mask", "text-generation", "any-to-any", "retrieval")
_PAIRED = ("text-generation", "sequence-classification")
_MODALITIES = ("text", "image", "audio", "video")


class TextSettings(NamedTuple):
    """How a folder wants its text tokenized."""

    max_length: int | None = None
    """Tokens of a text, special ones included; None for no limit but the model's positions."""
    truncation_side: str = "right"
    """Where a text that is too long loses tokens."""
    lowercase: bool = False
    """Whether sentence-transformers has the tokenizer lower-case text; ``reconcile`` sees to it."""
    token_types: bool = True
    """Whether the model is told which of two texts a token is from, where the tokenizer says so."""

    @classmethod
    def read(cls, folder: ModelFiles | str | os.PathLike[str]) -> TextSettings:
        """Settings of ``folder`` (or of the files of a model).

        ``sentence_bert_config.json`` (or its older names) has max_seq_length, do_lower_case and arguments of the
        tokenizer; ``tokenizer_config.json`` model_max_length, truncation_side and model_input_names. Each may be
        missing. Of several limits, ``processing_kwargs`` of the former comes first, then its max_seq_length.

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
        sentence = sentence_bert(files)
        tokenizer = TokenizerConfig(files, sentence)
        _check_model_arguments(files, sentence)
        _check_task(sentence)
        call = _call_arguments(sentence)
        return cls(
            max_length=call.length("max_length") or _limit(sentence, tokenizer),
            truncation_side=tokenizer.choice("truncation_side", ("right", "left")),
            lowercase=sentence.flag("do_lower_case"),
            token_types=call.flag("return_token_type_ids", tokenizer.token_types()),
        )


def _limit(sentence: OptionalJson, tokenizer: TokenizerConfig) -> int | None:
    """The longest text without what calls of the tokenizer are given."""
    limit = sentence.length("max_seq_length")
    key = "model_max_length" if tokenizer.values.get("model_max_length") is not None else "max_len"
    of_tokenizer = tokenizer.length(key)
    if limit is None:
        return of_tokenizer
    if tokenizer.is_argument(key) and of_tokenizer != limit:
        # versions of sentence-transformers up to 5.3 take the one, later ones the other
        raise ValueError(
            f"{tokenizer.where(key)} is {shown(tokenizer.values[key])}, expected max_seq_length, which is {limit}"
        )
    return limit


def _call_arguments(sentence: OptionalJson) -> OptionalJson:
    """What ``processing_kwargs`` gives to each call of the tokenizer; of its two objects "common" wins."""
    kwargs = object_at(sentence, "processing_kwargs", PROCESSING)
    parts = [object_at(kwargs, key, PROCESSING_TEXT) for key in ("text", "common")]
    values = {key: value for part in parts for key, value in part.values.items()}
    within = parts[1].within if parts[1].values else parts[0].within
    return OptionalJson.of(values, sentence.path, within)


def _check_task(sentence: OptionalJson) -> None:
    """Check what does not depend on what is done with texts; see ``stconfig.check_task`` for the rest."""
    if sentence.values.get("transformer_task") is not None:
        sentence.choice("transformer_task", _TASKS)
    name = sentence.values.get("module_output_name")
    if name is not None and not isinstance(name, str):
        raise sentence.wrong("module_output_name", "the name of an output")
    ways = object_at(sentence, "modality_config")
    if ways.values and "text" not in ways.values:
        raise sentence.wrong("modality_config", "an object with a key 'text'")
    for key in ways.values:
        if key == "message":
            if sentence.values.get("transformer_task") in _PAIRED:  # of rerankers, who see to it themselves
                continue
            raise ValueError(f"{ways.where(key)} is not supported: texts would go through a chat template")
        if not all(part in _MODALITIES for part in key.split("+")):
            raise ValueError(f"{sentence.path}: {ways.within}{shown(key)[1:-1]} is not supported; supported: text")
    for key in object_at(ways, "text").values:
        if key not in ("method", "method_output_name", "format"):
            raise ValueError(
                f"{sentence.path}: {ways.within}text.{shown(key)[1:-1]} is not supported; supported: method, "
                "method_output_name"
            )


def _check_model_arguments(files: ModelFiles, sentence: OptionalJson) -> None:
    """Refuse arguments of the model and its configuration that would make another model of it."""
    for key in ("model_args", "model_kwargs"):
        object_at(sentence, key, MODEL_KWARGS)
    model = OptionalJson(files, "config.json").values
    for key in ("config_args", "config_kwargs"):
        config = object_at(sentence, key)
        rest = {name: value for name, value in config.values.items() if name not in model or model[name] != value}
        check_keys(rest, MODEL_KWARGS, config.path, closed=True, within=config.within)
