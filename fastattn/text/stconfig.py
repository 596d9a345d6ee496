# SPDX-License-Identifier: MIT
"""``config_sentence_transformers.json``: what embedding, reranking and classification share of a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ..loaders.files import ModelFiles, as_files
from .chain import MODULES_JSON, read_chain
from .jsonkeys import OptionalJson
from .sidefiles import CONFIG_ST, check_keys, object_at, sentence_bert

__all__ = ["CONFIG_JSON", "StConfig", "check_task", "torch_class"]

CONFIG_JSON = "config_sentence_transformers.json"

_SIMILARITIES = {
    "cosine": "cosine", "dot": "dot", "dot_product": "dot", "euclidean": "euclidean", "manhattan": "manhattan",
}  # fmt: skip
_OTHER_TYPES = {
    "SparseEncoder": "its vectors are sparse",
    "MultiVectorEncoder": "it gives a vector for each token (ColBERT)",
    "ColBERT": "it gives a vector for each token",
}
# What CrossEncoder may put behind the logits: class of torch.nn -> name here.
_ACTIVATIONS = {"Identity": "none", "Sigmoid": "sigmoid", "Tanh": "tanh", "ReLU": "relu", "Softmax": "softmax"}


def torch_class(name: Any) -> str | None:
    """The class of torch.nn that ``name`` is the full name of; None where it is no such name.

    Example
    -------
    >>> torch_class("torch.nn.modules.activation.Tanh"), torch_class("torch.nn.Tanh"), torch_class("mine.Tanh")
    ('Tanh', 'Tanh', None)
    """
    if not isinstance(name, str):
        return None
    module, _, kind = name.rpartition(".")
    home = "torch.nn.modules." + ("linear" if kind == "Identity" else "activation")
    return kind if module in ("torch.nn", "torch.nn.modules", home) else None


class StConfig(NamedTuple):
    """What a folder says about prompts, scores and vectors, whatever they are used for."""

    model_type: str | None = None
    """"SentenceTransformer", "CrossEncoder", "SparseEncoder", "MultiVectorEncoder" or "ColBERT"; None: not said."""
    prompts: Mapping[str, str] = MappingProxyType({})
    """Name -> what is put before a text."""
    default_prompt: str = ""
    """What is put before every text if the caller names no prompt."""
    truncate_dim: int | None = None
    """Numbers of a vector that are kept, where the folder says so."""
    similarity: str | None = None
    """How vectors are compared: "cosine", "dot", "euclidean" or "manhattan"; None: not said."""
    activation: str | None = None
    """What stands behind the logits: "none", "sigmoid", "tanh", "relu" or "softmax"; None: not said."""

    @classmethod
    def read(cls, folder: ModelFiles | str | os.PathLike[str]) -> StConfig:
        """Settings of ``folder`` (or of the files of a model), which may have none.

        The activation may also be in config.json, where older versions put it.

        Raises
        ------
        ValueError
            A file is damaged, or asks for something that is not supported: the file and the key are named.

        Example
        -------
        >>> StConfig.read("ms-marco-MiniLM-L6-v2").activation           # doctest: +SKIP
        'none'
        """
        files = as_files(folder)
        config = OptionalJson(files, CONFIG_JSON)
        check_keys(config.values, CONFIG_ST, config.path, closed=True)
        model_type = config.values.get("model_type")
        if model_type not in (None, "SentenceTransformer", "CrossEncoder", *_OTHER_TYPES):
            raise config.wrong("model_type", "SentenceTransformer or CrossEncoder")
        prompts = config.strings("prompts")
        similarity = config.values.get("similarity_fn_name")
        known = model_type in _OTHER_TYPES or (isinstance(similarity, str) and similarity in _SIMILARITIES)
        if similarity is not None and not known:
            raise config.wrong("similarity_fn_name", f"one of {', '.join(_SIMILARITIES)}")
        return cls(
            model_type=model_type,
            prompts=MappingProxyType(prompts),
            default_prompt=_default_prompt(config, prompts),
            truncate_dim=None if config.values.get("truncate_dim") is None else config.size("truncate_dim"),
            similarity=_SIMILARITIES.get(similarity) if isinstance(similarity, str) else None,
            activation=_activation(files, config),
        )

    def for_vectors(self, files: ModelFiles) -> StConfig:
        """What of it holds for sentence vectors. Those of a cross-encoder's transformer have none of its prompts.

        Raises
        ------
        ValueError
            The folder's vectors are of another kind (of a sparse encoder, or one for each token).
        """
        if self.model_type in _OTHER_TYPES:
            what = _OTHER_TYPES[self.model_type]
            where = files.describe(CONFIG_JSON)
            raise ValueError(f"{where}: model_type is {self.model_type!r}, which is not supported: {what}")
        _refuse_messages(files)
        return StConfig(model_type=self.model_type) if self.model_type == "CrossEncoder" else self

    def for_pairs(self, files: ModelFiles) -> StConfig:
        """What of it holds for a classification head: prompts are those of a cross-encoder alone.

        As in sentence-transformers, prompts of a folder that says it is a SentenceTransformer (or has the modules of
        one and says nothing) are for vectors.

        Raises
        ------
        ValueError
            A cross-encoder's modules or settings are not supported: a head made of modules, a decoder.
        """
        _refuse_messages(files)
        if self.model_type == "CrossEncoder":
            _check_cross_encoder(files)
            return self
        if self.model_type is None and not files.has(MODULES_JSON):
            return self
        return StConfig(model_type=self.model_type, activation=self.activation)

    def prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        """What is put before a text: ``prompt``, or the one of this name, or the folder's default.

        Of a pair, that is before its first text.

        Raises
        ------
        TypeError, ValueError
            Both are given; the name is no string, or that of no prompt.
        """
        if prompt is not None and prompt_name is not None:
            raise ValueError("prompt_name: expected None where a prompt is given")
        if prompt is not None:
            return prompt
        if prompt_name is None:
            return self.default_prompt
        if not isinstance(prompt_name, str):
            raise TypeError(f"prompt_name: expected a str or None, got {type(prompt_name).__name__}")
        if prompt_name not in self.prompts:
            names = ", ".join(map(repr, self.prompts)) or "none, as the model names no prompts"
            raise ValueError(f"prompt_name: got {prompt_name!r}, expected one of {names}")
        return self.prompts[prompt_name]


def _default_prompt(config: OptionalJson, prompts: Mapping[str, str]) -> str:
    name = config.values.get("default_prompt_name")
    if name is None:
        return ""
    if not isinstance(name, str) or name not in prompts:
        raise config.wrong("default_prompt_name", "the name of one of the prompts")
    return prompts[name]


def _activation(files: ModelFiles, config: OptionalJson) -> str | None:
    """What stands behind the logits, from the first place that says it."""
    model = OptionalJson(files, "config.json")
    inner = model.values.get("sentence_transformers")
    places = (
        (config, "activation_fn"),
        (
            OptionalJson.of(inner if isinstance(inner, dict) else {}, model.path, "sentence_transformers."),
            "activation_fn",
        ),
        (model, "sbert_ce_default_activation_function"),
    )
    for place, key in places:
        name = place.values.get(key)
        if name is not None:
            kind = torch_class(name)
            if kind not in _ACTIVATIONS:
                raise place.wrong(key, f"one of torch's {', '.join(_ACTIVATIONS)}")
            return _ACTIVATIONS[kind]
    return None


def _check_cross_encoder(files: ModelFiles) -> None:
    """A cross-encoder whose scores are the logits of a classification head, and nothing else's."""
    if files.has(MODULES_JSON) and len(read_chain(files, ())) > 1:
        raise ValueError(
            f"{files.describe(MODULES_JSON)}: a cross-encoder made of several modules is not supported; expected a "
            "Transformer with a classification head alone"
        )
    check_task(sentence_bert(files), "sequence-classification", "logits", "scores")


def _refuse_messages(files: ModelFiles) -> None:
    """``ValueError`` where texts would go through a chat template."""
    ways = object_at(sentence_bert(files), "modality_config")
    if "message" in ways.values:
        raise ValueError(f"{ways.where('message')} is not supported: texts would go through a chat template")


def check_task(config: OptionalJson, task: str, output: str, name: str) -> None:
    """Check that ``sentence_bert_config.json`` takes ``output`` of a model for ``task``, where it says anything.

    Raises
    ------
    ValueError
        It asks for another task, or for another method or output of the model; the key is named.
    """
    for key, expected in (("transformer_task", task), ("module_output_name", name)):
        if config.values.get(key, expected) not in (None, expected):
            raise config.wrong(key, expected)
    ways = object_at(config, "modality_config")
    text = object_at(ways, "text")
    for key, expected in (("method", "forward"), ("method_output_name", output)):
        if text.values.get(key, expected) != expected:
            raise text.wrong(key, expected)
