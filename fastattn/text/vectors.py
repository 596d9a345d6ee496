# SPDX-License-Identifier: MIT
"""What a folder says about the way from hidden states to a sentence vector, in the files of sentence-transformers.

``modules.json`` names a chain: Transformer, Pooling, then any of Dense, LayerNorm, Normalize and Dropout, each with a
``config.json`` (and weights) in a folder of its own. Layouts of sentence-transformers 2 to 6 are read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from ..loaders.files import ModelFiles, as_files
from .chain import MODULES_JSON, Module, read_chain
from .jsonkeys import OptionalJson
from .sidefiles import DROPOUT, NORMALIZE, POOLING, check_keys, sentence_bert
from .stconfig import StConfig, check_task

if TYPE_CHECKING:
    from ..typing import PoolMode

__all__ = ["Module", "VectorSettings", "check_input"]

# In the order in which several at once are put side by side: flag of older files, name in newer ones, mode of ops.pool.
_POOLING_MODES: tuple[tuple[str, str, PoolMode], ...] = (
    ("pooling_mode_cls_token", "cls", "cls"),
    ("pooling_mode_max_tokens", "max", "max"),
    ("pooling_mode_mean_tokens", "mean", "mean"),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", "mean_sqrt_len"),
    ("pooling_mode_weightedmean_tokens", "weightedmean", "weighted_mean"),
    ("pooling_mode_lasttoken", "lasttoken", "last"),
)

_POOLING = "1_Pooling"  # where it is if modules.json does not say
_AFTER_POOLING = ("Dense", "LayerNorm", "Normalize", "Dropout")


class VectorSettings(NamedTuple):
    """How a folder wants its sentence vectors made.

    A folder that says nothing gets pooling without normalisation, as in sentence-transformers 6: the last token where
    ``architectures`` names a causal language model, else the mean.
    """

    pooling: tuple[PoolMode, ...] = ("mean",)
    """Modes of ``ops.pool``; the results of several stand side by side."""
    include_prompt: bool = True
    """Whether the tokens of a prompt take part in pooling."""
    modules: tuple[Module, ...] = ()
    """What follows, without a Normalize at the very end."""
    normalize: bool = False
    """Whether vectors are scaled to length 1 at the very end."""
    truncate_dim: int | None = None
    """Numbers of a vector that are kept, where the folder says so."""
    prompts: Mapping[str, str] = MappingProxyType({})
    """Name -> what is put before a text."""
    prompt: str = ""
    """What is put before every text if the caller names no prompt."""

    @classmethod
    def read(cls, folder: ModelFiles | str | os.PathLike[str], hidden_size: int) -> VectorSettings:
        """Settings of ``folder`` (or of the files of a model) whose hidden states are ``hidden_size`` wide.

        ``modules.json`` names the modules and their order, and each module's ``config.json`` what it does;
        ``config_sentence_transformers.json`` has prompts, default_prompt_name and truncate_dim. Each may be missing.

        Raises
        ------
        ValueError
            A file is damaged, or asks for something that is not supported: the file and the key are named.
        FileNotFoundError
            ``modules.json`` names a pooling module whose config.json is not there.

        Example
        -------
        >>> VectorSettings.read("all-MiniLM-L6-v2", 384).pooling        # doctest: +SKIP
        ('mean',)
        """
        files = as_files(folder)
        config = StConfig.read(files).for_vectors(files)
        pooling_folder: str | None = None
        modules: list[Module] = []
        if config.model_type != "CrossEncoder":  # whose modules are for scores: its vectors are means
            check_task(sentence_bert(files), "feature-extraction", "last_hidden_state", "token_embeddings")
            pooling_folder, modules = _modules(files)
        pooling: tuple[PoolMode, ...] = ("mean",)
        include_prompt = True
        if pooling_folder is None and not files.has(MODULES_JSON) and config.model_type != "CrossEncoder":
            pooling = ("last",) if _is_causal(files) else pooling
        if pooling_folder is not None:
            pooling, include_prompt = _pooling(files, pooling_folder, hidden_size)
        normalize = bool(modules) and modules[-1].kind == "Normalize"
        return cls(
            pooling=pooling,
            include_prompt=include_prompt,
            modules=tuple(modules[:-1] if normalize else modules),
            normalize=normalize,
            truncate_dim=config.truncate_dim,
            prompts=config.prompts,
            prompt=config.default_prompt,
        )


def _is_causal(files: ModelFiles) -> bool:
    """Whether the first of ``architectures`` is a causal language model: nothing but its last token has seen all."""
    names = OptionalJson(files, "config.json").values.get("architectures")
    first = names[0] if isinstance(names, list) and names else None
    return isinstance(first, str) and first.endswith("ForCausalLM")


def _modules(files: ModelFiles) -> tuple[str | None, list[Module]]:
    """Folder of the pooling module (None: default pooling), and the modules behind it."""
    if not files.has(MODULES_JSON):
        return (_POOLING if files.has(f"{_POOLING}/config.json") else None), []
    modules = read_chain(files, _AFTER_POOLING)
    for module in modules[2:]:
        name = f"{module.folder}/config.json"
        if module.kind in _SIMPLE and module.folder and files.has(name):
            config = OptionalJson(files, name)
            check_keys(config.values, _SIMPLE[module.kind], config.path, closed=True)
            check_input(config)
    behind = [module for module in modules[2:] if module.kind != "Dropout"]  # which does nothing outside of training
    return (modules[1].folder if len(modules) > 1 else None), behind


# Modules that need no file of their own, as all they may say changes nothing.
_SIMPLE = {"Normalize": NORMALIZE, "Dropout": DROPOUT}


def check_input(config: OptionalJson) -> None:
    """Newer files may say that a module works on something else than the sentence vector."""
    for key in ("module_input_name", "module_output_name"):
        config.choice(key, ("sentence_embedding",))


def _pooling(files: ModelFiles, folder: str, hidden_size: int) -> tuple[tuple[PoolMode, ...], bool]:
    """Modes of ``ops.pool``, and ``include_prompt``."""
    name = f"{folder}/config.json"
    config = OptionalJson(files, name)
    if not files.has(name):
        raise FileNotFoundError(f"{config.path}: modules.json names this pooling configuration, but it does not exist")
    check_keys(config.values, POOLING, config.path, closed=True)
    for key in ("word_embedding_dimension", "embedding_dimension"):
        if config.values.get(key, hidden_size) != hidden_size:
            raise config.wrong(key, f"the model's hidden_size, {hidden_size}")
    if "include_prompt" in config.values and config.values["include_prompt"] is None:
        raise config.wrong("include_prompt", "true or false")  # which sentence-transformers takes for false
    include_prompt = config.flag("include_prompt", True)
    named = config.values.get("pooling_mode")
    if named is not None:
        by_name = {name: mode for _, name, mode in _POOLING_MODES}
        names = named if isinstance(named, list) else [named]
        known_names = all(isinstance(name, str) and name in by_name for name in names)
        if not names or not known_names or len(set(names)) < len(names):
            raise config.wrong("pooling_mode", f"one of {', '.join(by_name)}, or a list of them without repetition")
        return tuple(by_name[name] for name in names), include_prompt
    known = [flag for flag, _, _ in _POOLING_MODES]
    if config.values and not any(flag in config.values for flag in known):
        return ("mean",), include_prompt  # as in all versions of sentence-transformers
    modes = tuple(mode for flag, _, mode in _POOLING_MODES if config.flag(flag))
    if not modes:
        raise ValueError(f"{config.path}: no pooling mode is set, expected one of {', '.join(known)}")
    return modes, include_prompt
