# SPDX-License-Identifier: MIT
"""What a folder says about turning text into vectors, in the files sentence-transformers writes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ..loaders.files import ModelFiles, as_files

__all__ = ["TextSettings"]

# Flag of 1_Pooling/config.json -> mode of ops.pool; None where it is not supported.
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_mean_sqrt_len_tokens": None,
    "pooling_mode_weightedmean_tokens": None,
}

# The names of newer files, which give one under "pooling_mode".
_POOLING_NAMES = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last"}

_MODULES = "modules.json"
_POOLING = "1_Pooling/config.json"  # where it is if modules.json does not say

_NO_LIMIT = 1_000_000_000  # tokenizers without a limit say 1e30


@dataclass(frozen=True, slots=True)
class TextSettings:
    """How a folder wants its text embedded.

    A folder that says nothing gets mean pooling without normalisation, as in sentence-transformers.
    """

    pooling: str = "mean"
    """Mode of ``ops.pool``: mean, cls, max or last."""
    normalize: bool = False
    """Whether vectors are scaled to length 1."""
    max_length: int | None = None
    """Tokens of a text, special ones included; None for no limit but the model's positions."""
    truncation_side: str = "right"
    """Where a text that is too long loses tokens."""
    lowercase: bool = False
    """Whether text is lower-cased before the tokenizer sees it."""
    prompt: str = ""
    """What is put before every text."""

    @classmethod
    def read(cls, folder: ModelFiles | str | os.PathLike[str], hidden_size: int) -> TextSettings:
        """Settings of ``folder`` (or of the files of a model), for vectors of ``hidden_size``.

        ``modules.json`` names the modules and their order; ``1_Pooling/config.json`` the pooling;
        ``sentence_bert_config.json`` max_seq_length and do_lower_case; ``tokenizer_config.json`` model_max_length and
        truncation_side; ``config_sentence_transformers.json`` the default prompt. Each may be missing.

        Raises
        ------
        ValueError
            A file is damaged, or asks for something that is not supported: the file and the key are named.
        FileNotFoundError
            ``modules.json`` names a pooling module whose config.json is not there.
        """
        files = as_files(folder)
        pooling_name, normalize = _modules(files)
        pooling, include_prompt = _pooling(files, pooling_name, hidden_size) if pooling_name else ("mean", True)
        bert = _Optional(files, "sentence_bert_config.json")
        tokenizer = _Optional(files, "tokenizer_config.json")
        max_length = bert.length("max_seq_length")
        if max_length is None:
            max_length = tokenizer.length("model_max_length")
        prompt = _prompt(_Optional(files, "config_sentence_transformers.json"))
        if prompt and not include_prompt:
            where = files.describe(pooling_name or "")
            raise ValueError(f"{where}: include_prompt false is not supported together with a default prompt")
        return cls(
            pooling=pooling,
            normalize=normalize,
            max_length=max_length,
            truncation_side=tokenizer.choice("truncation_side", ("right", "left")),
            lowercase=bert.flag("do_lower_case"),
            prompt=prompt,
        )


class _Optional:
    """A JSON file that need not be there; a missing key and null are the same."""

    def __init__(self, files: ModelFiles, name: str) -> None:
        self.path = files.describe(name)
        self.values: dict[str, Any] = files.read_json(name) if files.has(name) else {}

    def wrong(self, key: str, expected: str) -> ValueError:
        return ValueError(f"{self.path}: {key} is {str(self.values[key])[:100]!r}, expected {expected}")

    def length(self, key: str) -> int | None:
        value = self.values.get(key)
        if value is None:
            return None
        if type(value) not in (int, float) or not value >= 1 or (value < _NO_LIMIT and value != int(value)):
            raise self.wrong(key, "an integer of at least 1")
        return None if value >= _NO_LIMIT else int(value)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.wrong(key, "true or false")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.values.get(key)
        if value is None:
            return choices[0]
        if value not in choices:
            raise self.wrong(key, f"one of {', '.join(choices)}")
        return str(value)


def _modules(files: ModelFiles) -> tuple[str | None, bool]:
    """Name of the pooling module's config.json (None: default pooling), and whether vectors are normalised."""
    if not files.has(_MODULES):
        return (_POOLING if files.has(_POOLING) else None), False
    path = files.describe(_MODULES)
    modules = _read_list(files.read_bytes(_MODULES, 1_000_000), path)
    kinds = []
    pooling: str | None = None
    for number, module in enumerate(modules):
        if not isinstance(module, dict) or not isinstance(module.get("type"), str):
            raise ValueError(f"{path}: module {number} is not an object with a type")
        kind = module["type"].rpartition(".")[2]
        kinds.append(kind)
        if kind == "Pooling":
            where = module.get("path")
            if not isinstance(where, str) or not _is_inside(where):
                raise ValueError(f"{path}: module {number}: path is {str(where)[:100]!r}, expected a folder beside it")
            pooling = str(PurePosixPath(where) / "config.json")
    if kinds not in (["Transformer"], ["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ValueError(
            f"{path}: modules {', '.join(kinds) or 'of no type'} are not supported; expected Transformer, Pooling and, "
            "optionally, Normalize"
        )
    return pooling, kinds[-1] == "Normalize"


def _read_list(data: bytes, path: str) -> list[Any]:
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(value, list):
        raise ValueError(f"{path}: expected a list of modules, got {type(value).__name__}")
    return value


def _is_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and ".." not in parts and not any(letter in name for letter in "\\:\0") and parts[0] != "/"


def _pooling(files: ModelFiles, name: str, hidden_size: int) -> tuple[str, bool]:
    """Mode of ``ops.pool``, and ``include_prompt``."""
    config, path = _Optional(files, name), files.describe(name)
    if not files.has(name):
        raise FileNotFoundError(f"{path}: modules.json names this pooling configuration, but it does not exist")
    for key in ("word_embedding_dimension", "embedding_dimension"):
        if config.values.get(key, hidden_size) != hidden_size:
            raise config.wrong(key, f"the model's hidden_size, {hidden_size}")
    include_prompt = config.flag("include_prompt", True)
    if config.values.get("pooling_mode") is not None:
        return _POOLING_NAMES[config.choice("pooling_mode", tuple(_POOLING_NAMES))], include_prompt
    wanted = [key for key in _POOLING_FLAGS if config.flag(key)]
    wanted += [key for key in config.values if key.startswith("pooling_mode_") and key not in _POOLING_FLAGS]
    if len(wanted) > 1:
        raise ValueError(f"{path}: {' and '.join(wanted)} are set together, which is not supported; expected one")
    if not wanted:
        raise ValueError(f"{path}: no pooling mode is set, expected one of {', '.join(_POOLING_FLAGS)}")
    mode = _POOLING_FLAGS.get(wanted[0])
    if mode is None:
        supported = ", ".join(key for key, value in _POOLING_FLAGS.items() if value)
        raise ValueError(f"{path}: {wanted[0]} is not supported; supported: {supported}")
    return mode, include_prompt


def _prompt(config: _Optional) -> str:
    """The prompt sentence-transformers would put before a text when the caller names none."""
    name = config.values.get("default_prompt_name")
    if name is None:
        return ""
    prompts = config.values.get("prompts")
    if not isinstance(prompts, dict) or not isinstance(name, str) or not isinstance(prompts.get(name), str):
        raise config.wrong("default_prompt_name", "the name of one of the prompts")
    return str(prompts[name])
