# SPDX-License-Identifier: MIT
"""From a path to a model: which class reads which configuration."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..loaders import open_weights
from ..loaders.files import FolderFiles
from .builder import CheckpointBuilder, Plan, check_tensors
from .config import ConfigReader

if TYPE_CHECKING:
    from .encoder import Encoder

__all__ = ["FAMILIES", "load"]

FAMILIES = {
    "bert": ("fastattn.models.bert", "BertModel"),
    "roberta": ("fastattn.models.roberta", "RobertaModel"),
    "xlm-roberta": ("fastattn.models.roberta", "RobertaModel"),
    "camembert": ("fastattn.models.roberta", "RobertaModel"),
    "distilbert": ("fastattn.models.distilbert", "DistilBertModel"),
    "electra": ("fastattn.models.electra", "ElectraModel"),
    "albert": ("fastattn.models.albert", "AlbertModel"),
    "mpnet": ("fastattn.models.mpnet", "MPNetModel"),
}
"""``model_type`` of config.json -> module and class; modules are imported when a model of the family is loaded."""

_DTYPES = ("float32",)


def load(path: str | os.PathLike[str], dtype: Any = "float32", num_threads: int | None = None) -> Encoder:
    """Load the model at ``path``, without what it takes to embed text: ``fastattn.load`` (of the text layer) adds that,
    and says what the arguments are and which errors are raised.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path: expected a str or os.PathLike, got {type(path).__name__}")
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", getattr(dtype, "name", None))
    if name not in _DTYPES:
        raise ValueError(f"dtype: got {dtype!r}, expected one of {', '.join(_DTYPES)}")
    if num_threads is not None and (isinstance(num_threads, bool) or not hasattr(num_threads, "__index__")):
        raise TypeError(f"num_threads: expected an int or None, got {type(num_threads).__name__}")
    if num_threads is not None and num_threads < 1:
        raise ValueError(f"num_threads: got {num_threads}, expected at least 1")

    target = Path(path)
    weights = open_weights(target)
    folder = target if target.is_dir() else target.parent
    files = FolderFiles(folder)
    if not files.has("config.json"):
        where = files.describe("config.json")
        raise FileNotFoundError(f"{where}: a model needs its config.json beside the weights of {target}")
    config = ConfigReader.read(files)

    model_type = config.model_type()
    if model_type not in FAMILIES:
        raise ValueError(f"{config.path}: model_type {model_type!r} is not supported; supported: {', '.join(FAMILIES)}")
    module, class_name = FAMILIES[model_type]
    family: type[Encoder] = getattr(import_module(module), class_name)
    plan = Plan(config, weights)
    family(plan)
    report = check_tensors(plan, weights, family.ignorable)
    threads = None if num_threads is None else int(num_threads)
    model = family(CheckpointBuilder(config, weights, name, threads))
    model.path, model.files, model.num_threads, model.tensors = folder, files, threads, report
    return model
