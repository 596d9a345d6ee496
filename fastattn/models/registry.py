# SPDX-License-Identifier: MIT
"""From a path to a model: which class reads which configuration."""

from __future__ import annotations

import os
import zlib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..cpu import numerics_version
from ..loaders import WeightFile, open_weights
from ..loaders.adapters import refuse_adapters
from ..loaders.errors import WeightFileError
from ..loaders.files import FolderFiles, ModelFiles
from ..loaders.hubcache import download_command, find_model, snapshot_name
from ..loaders.packed import PackedFile
from .builder import CheckpointBuilder, Plan, check_tensors
from .choice import head_name
from .config import ConfigReader
from .configkeys import note_keys, refuse_keys
from .travel import Origin

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
_ACTIVATIONS = ("int16", "int8")


def load(
    path: str | os.PathLike[str],
    dtype: Any = None,
    num_threads: int | None = None,
    *,
    head: str | None = None,
    activations: str | None = None,
    strict: bool = True,
    verify: bool = False,
) -> Encoder:
    """Load the model at ``path``, without what it takes to embed text: ``fastattn.load`` (of the text layer) adds that,
    and says what the arguments are and which errors are raised.
    """
    source = open_source(path, dtype, num_threads, head=head, activations=activations, strict=strict)
    if not isinstance(source.weights, PackedFile):
        if verify:
            raise ValueError(f"verify: {source.weights.path} is not a packed file, which alone have checksums")
        model = build_checkpoint(source)[0]
    else:
        if verify:
            source.weights.verify()
        from .packed import build_packed

        model = build_packed(source.weights, source.family, source.config)
        model.num_threads = source.num_threads
    model.origin = _origin(source)
    return model


def _origin(source: Source) -> Origin:
    """How to load the model again, in a process that may have another working directory."""
    fingerprint = source.weights.fingerprint()
    if not isinstance(source.weights, PackedFile):
        config = source.files.read_bytes("config.json")
        fingerprint += f"{zlib.crc32(config):08x}"
    options = {"dtype": source.dtype, "head": source.head, "strict": source.strict}
    return Origin(load, os.path.abspath(source.path), options, fingerprint)


class Source(NamedTuple):
    """A model that is opened, of a supported family, and not read yet."""

    path: Path
    """What was opened: a folder or a file."""
    weights: WeightFile
    """A ``PackedFile``, or the tensors of a checkpoint."""
    files: ModelFiles
    folder: Path
    """Where the weights are."""
    config: ConfigReader
    family: type[Encoder]
    dtype: str
    num_threads: int | None
    head: str | None
    strict: bool


def open_source(
    path: str | os.PathLike[str],
    dtype: Any,
    num_threads: int | None,
    *,
    head: str | None = None,
    activations: str | None = None,
    strict: bool = True,
) -> Source:
    """Check the arguments of ``load``, open the weights, read the configuration; errors are those of ``load``."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path: expected a str or os.PathLike, got {type(path).__name__}")
    name = _dtype_name(dtype)
    if num_threads is not None and (isinstance(num_threads, bool) or not hasattr(num_threads, "__index__")):
        raise TypeError(f"num_threads: expected an int or None, got {type(num_threads).__name__}")
    if num_threads is not None and num_threads < 1:
        raise ValueError(f"num_threads: got {num_threads}, expected at least 1")
    threads = None if num_threads is None else int(num_threads)
    wanted = head_name(head)
    _check_activations(activations)
    if not isinstance(strict, bool):
        raise TypeError(f"strict: expected a bool, got {type(strict).__name__}")

    target = find_model(path)
    weights = _open(target)
    folder = target if target.is_dir() else target.parent
    files: ModelFiles = FolderFiles(folder)
    if isinstance(weights, PackedFile):
        weights.check_numerics(numerics_version())
        name = _packed_dtype(weights, name)
        files = weights.files()
    else:
        refuse_adapters(files)
    if not files.has("config.json"):
        _refuse_static(weights, str(folder))
        where = files.describe("config.json")
        raise FileNotFoundError(
            f"{where}: a model needs its config.json beside the weights of {target}{_complete(target)}"
        )
    config = ConfigReader.read(files)

    model_type = config.model_type()
    if model_type not in FAMILIES:
        if model_type == "model2vec":
            raise ValueError(_static(str(config.path)))
        raise ValueError(
            f"{config.path}: model_type {model_type[:100]!r} is not supported; supported: {', '.join(FAMILIES)}"
        )
    module, class_name = FAMILIES[model_type]
    if isinstance(weights, PackedFile) and wanted is not None:
        _check_packed_head(weights, wanted)
    if activations is not None:
        raise ValueError(
            f"activations: got {activations!r}, but {weights.path} has no block-quantised weights, to which alone it "
            "applies"
        )
    family = getattr(import_module(module), class_name)
    return Source(target, weights, files, folder, config, family, name or "float32", threads, wanted, strict)


def _open(target: Path) -> WeightFile:
    """The weights of ``target``; where there are none, the error says what else is there."""
    try:
        return open_weights(target)
    except FileNotFoundError as error:
        if target.is_dir():
            refuse_adapters(FolderFiles(target))
        hint = _complete(target)
        if not hint:
            raise
        raise FileNotFoundError(f"{error}{hint}") from None
    except WeightFileError:
        if target.is_dir():
            refuse_adapters(FolderFiles(target))
        raise


def _complete(target: Path) -> str:
    """What to do about a snapshot of the hub's cache that lacks files; nothing for any other folder."""
    name = snapshot_name(target)
    return "" if name is None else f"; this snapshot is not complete: {download_command(*name)} fetches the rest"


def _static(where: str) -> str:
    from ..loaders.hints import static_embedding_message

    return static_embedding_message(where)


def _refuse_static(weights: WeightFile, where: str) -> None:
    """``ValueError`` where all that is stored is a table of vectors (and their weights)."""
    if weights and set(weights) <= {"embedding.weight", "embeddings", "weights", "mapping"}:
        raise ValueError(_static(where))


def _dtype_name(dtype: Any) -> str | None:
    if dtype is None:
        return None
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", getattr(dtype, "name", None))
    if name not in _DTYPES:
        raise ValueError(f"dtype: got {dtype!r}, expected one of {', '.join(_DTYPES)}, or None")
    return str(name)


def _check_activations(activations: Any) -> None:
    if activations is not None and not isinstance(activations, str):
        raise TypeError(f"activations: expected a str or None, got {type(activations).__name__}")
    if activations not in (None, *_ACTIVATIONS):
        raise ValueError(f"activations: got {activations[:100]!r}, expected one of {', '.join(_ACTIVATIONS)}, or None")


def _packed_dtype(packed: PackedFile, asked: str | None) -> str:
    """The type of a packed file, which is what it is."""
    stored = packed.metadata["dtype"]
    if stored not in _DTYPES:
        raise ValueError(f"{packed.path}: dtype is {stored[:40]!r}, expected one of {', '.join(_DTYPES)}")
    if asked not in (None, stored):
        raise ValueError(
            f"dtype: got {asked!r}, but {packed.path} was packed as {stored!r}; leave dtype out, or pack it so"
        )
    return stored


def _check_packed_head(packed: PackedFile, wanted: str) -> None:
    """``ValueError`` where a packed file is known to hold another head than the one that is ``wanted``."""
    from .packed import packed_head

    stored = packed_head(packed)
    if stored is None:
        raise ValueError(
            f"head: got {wanted!r}, but {packed.path} does not say which head it was packed with; leave head out, or "
            "pack the checkpoint again"
        )
    if stored != wanted:
        raise ValueError(
            f"head: got {wanted!r}, but {packed.path} was packed with the head {stored!r}; leave head out, or pack the "
            f"checkpoint with head={wanted!r}"
        )


def build_checkpoint(source: Source) -> tuple[Encoder, CheckpointBuilder]:
    """The model of a checkpoint, and the builder that kept what it was made of."""
    plan = Plan(source.config, source.weights, source.head)
    source.family(plan)
    refuse_keys(source.config)
    report, unknown = check_tensors(plan, source.weights, source.family.ignorable, source.strict)
    builder = CheckpointBuilder(source.config, source.weights, source.dtype, source.num_threads, source.head)
    model = source.family(builder)
    model.settle(source.folder, source.files, report, note_keys(source.config), unknown)
    model.num_threads = source.num_threads
    return model, builder
