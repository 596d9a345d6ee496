# SPDX-License-Identifier: MIT
"""``pooling_type`` of a GGUF file of a decoder: how a vector is made of a text, or that the file ranks documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..loaders.errors import WeightFileError
from ..loaders.gguf import GgufFile
from ..loaders.gguffields import GgufStrings
from .ggufkeys import Keys

__all__ = ["RANKED", "SCORE", "pooling_files", "rank_labels"]

RANKED = "cls.output.weight"
"""The tensor that ranks: a row for each label."""
SCORE = "score"
"""What Hugging Face folders call that layer."""

_NONE, _MEAN, _CLS, _LAST, _RANK = range(5)
_MODES = {_MEAN: "mean", _CLS: "cls", _LAST: "lasttoken"}
_OTHERS = ("cls.weight", "cls.bias", "cls.norm.weight", "cls.output.bias")
_MOST = 1000  # labels

_MODULES = [
    {"type": "sentence_transformers.models.Transformer", "path": ""},
    {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    {"type": "sentence_transformers.models.Normalize", "path": ""},  # which no file says, and llama.cpp does
]


def rank_labels(keys: Keys) -> list[str] | None:
    """What the outputs of a file that ranks are called; None of any other.

    Raises
    ------
    WeightFileError
        ``pooling_type`` is none of those that are known; the tensor is missing, or of another shape; labels and rows
        are not of one number.
    """
    file, kind = keys.file, keys.size("pooling_type", _NONE, minimum=0)
    if kind > _RANK:
        raise keys.error("pooling_type", kind, "0 (none), 1 (mean), 2 (cls), 3 (last) or 4 (rank)")
    if kind != _RANK:
        return None
    if RANKED not in file:
        raise WeightFileError(
            f"{file.path}: {keys.architecture}.pooling_type is 4 (rank), but there is no tensor {RANKED!r}"
        )
    shape, hidden = tuple(file.info(RANKED).shape), keys.size("embedding_length")
    if len(shape) != 2 or shape[1] != hidden or not 0 < shape[0] <= _MOST:
        raise WeightFileError(f"{file.path}: tensor {RANKED!r} has shape {list(shape)}, expected [labels, {hidden}]")
    more = next((name for name in _OTHERS if name in file), None)
    if more is not None:
        raise WeightFileError(f"{file.path}: tensor {more!r} is not supported: a decoder ranks by {RANKED!r} alone")
    labels = keys.get("classifier.output_labels")
    if labels is None:
        return [f"LABEL_{i}" for i in range(shape[0])]
    if not isinstance(labels, GgufStrings) or len(labels) != shape[0]:
        came = f"of {len(labels)}" if isinstance(labels, GgufStrings) else labels
        raise keys.error("classifier.output_labels", came, f"{shape[0]} labels, a row of {RANKED!r} each")
    return list(labels)


def pooling_files(file: GgufFile) -> Iterator[tuple[str, Any]]:
    """The small files that a folder with such vectors would have, and what they say."""
    kind = file.fields.get(f"{file.fields['general.architecture']}.pooling_type")
    if type(kind) is int and kind in _MODES:
        yield "modules.json", _MODULES
        yield "1_Pooling/config.json", {"pooling_mode": _MODES[kind]}
