# SPDX-License-Identifier: MIT
"""From a path to a model: which class reads which configuration."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..cpu import numerics_version
from ..loaders import WeightFile, open_weights
from ..loaders.files import FolderFiles, ModelFiles
from ..loaders.packed import PackedFile
from .builder import CheckpointBuilder, Plan, check_tensors
from .config import ConfigReader

if TYPE_CHECKING:
    from .encoder import Encoder

__all__ = ["FAMILIES", "Source", "build_checkpoint", "load", "open_source"]

FAMILIES = {
    "albert": ("fastattn.models.albert", "AlbertModel"),
    "bert": ("fastattn.models.bert", "BertModel"),
    "camembert": ("fastattn.models.roberta", "RobertaModel"),
    "deberta-v2": ("fastattn.models.deberta_v2", "DebertaV2Model"),
    "distilbert": ("fastattn.models.distilbert", "DistilBertModel"),
    "electra": ("fastattn.models.electra", "ElectraModel"),
    "gte": ("fastattn.models.gte", "GteModel"),
    "modernbert": ("fastattn.models.modernbert", "ModernBertModel"),
    "mpnet": ("fastattn.models.mpnet", "MPNetModel"),
    "new": ("fastattn.models.gte", "GteModel"),
    "nomic_bert": ("fastattn.models.nomic_bert", "NomicBertModel"),
    "roberta": ("fastattn.models.roberta", "RobertaModel"),
    "xlm-roberta": ("fastattn.models.roberta", "RobertaModel"),
}
"""``model_type`` of config.json -> module and class; modules are imported when a model of the family is loaded."""

_DTYPES = ("float32", "bfloat16", "float16", "int8")


def load(
    path: str | os.PathLike[str], dtype: Any = "float32", num_threads: int | None = None, *, verify: bool = False
) -> Encoder:
    """Load the model at ``path``, without what it takes to embed text: ``fastattn.load`` (of the text layer) adds that,
    and says what the arguments are and which errors are raised.
    """
    source = open_source(path, dtype, num_threads)
    if not isinstance(source.weights, PackedFile):
        if verify:
            raise ValueError(f"verify: {source.weights.path} is not a packed file, which alone have checksums")
        return build_checkpoint(source)[0]
    if verify:
        source.weights.verify()
    from .packed import build_packed

    model = build_packed(source.weights, source.family, source.config)
    model.num_threads = source.num_threads
    return model


class Source(NamedTuple):
    """A model that is opened, of a supported family, and not read yet."""

    weights: WeightFile
    """A ``PackedFile``, or the tensors of a checkpoint."""
    files: ModelFiles
    folder: Path
    """Where the weights are."""
    config: ConfigReader
    family: type[Encoder]
    dtype: str
    num_threads: int | None


def open_source(path: str | os.PathLike[str], dtype: Any, num_threads: int | None) -> Source:
    """Check the arguments of ``load``, open the weights, read the configuration; errors are those of ``load``."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path: expected a str or os.PathLike, got {type(path).__name__}")
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", getattr(dtype, "name", None))
    if name not in _DTYPES:
        raise ValueError(f"dtype: got {dtype!r}, expected one of {', '.join(_DTYPES)}")
    if num_threads is not None and (isinstance(num_threads, bool) or not hasattr(num_threads, "__index__")):
        raise TypeError(f"num_threads: expected an int or None, got {type(num_threads).__name__}")
    if num_threads is not None and num_threads < 1:
        raise ValueError(f"num_threads: got {num_threads}, expected at least 1")
    threads = None if num_threads is None else int(num_threads)

    target = Path(path)
    weights = open_weights(target)
    folder = target if target.is_dir() else target.parent
    files: ModelFiles = FolderFiles(folder)
    if isinstance(weights, PackedFile):
        weights.check_numerics(numerics_version())
        name = _packed_dtype(weights, name)
        files = weights.files()
    if not files.has("config.json"):
        where = files.describe("config.json")
        raise FileNotFoundError(f"{where}: a model needs its config.json beside the weights of {target}")
    config = ConfigReader.read(files)

    model_type = config.model_type()
    if model_type not in FAMILIES:
        raise ValueError(f"{config.path}: model_type {model_type!r} is not supported; supported: {', '.join(FAMILIES)}")
    module, class_name = FAMILIES[model_type]
    return Source(weights, files, folder, config, getattr(import_module(module), class_name), name, threads)


def _packed_dtype(packed: PackedFile, asked: str) -> str:
    """The type of a packed file, which is what it is; "float32" is also what is asked for when nothing is."""
    stored = packed.metadata["dtype"]
    if stored not in _DTYPES:
        raise ValueError(f"{packed.path}: dtype is {stored[:40]!r}, expected one of {', '.join(_DTYPES)}")
    if asked not in ("float32", stored):
        raise ValueError(
            f"dtype: got {asked!r}, but {packed.path} was packed as {stored!r}; leave dtype out, or pack it so"
        )
    return stored


def build_checkpoint(source: Source) -> tuple[Encoder, CheckpointBuilder]:
    """The model of a checkpoint, and the builder that kept what it was made of."""
    plan = Plan(source.config, source.weights)
    source.family(plan)
    report = check_tensors(plan, source.weights, source.family.ignorable)
    builder = CheckpointBuilder(source.config, source.weights, source.dtype, source.num_threads)
    model = source.family(builder)
    model.path, model.files, model.num_threads, model.tensors = (
        source.folder, source.files, source.num_threads, report
    )  # fmt: skip
    return model, builder
