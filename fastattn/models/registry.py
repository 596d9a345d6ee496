# SPDX-License-Identifier: MIT
"""From a path to a model's graph: which page reads which configuration."""

from __future__ import annotations

import os
import zlib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ..cpu import numerics_changes, numerics_version
from ..graph.build import Built, trace_page
from ..graph.checkpoint import Checkpoint, Plan, check_tensors
from ..graph.choice import head_name
from ..graph.config import ConfigReader
from ..graph.family import Family
from ..graph.packed import Packed, packed_head, packed_types
from ..graph.source import AS_STORED, listed
from ..loaders import WeightFile, open_weights
from ..loaders.adapters import refuse_adapters
from ..loaders.errors import WeightFileError
from ..loaders.files import FolderFiles, ModelFiles
from ..loaders.hubcache import download_command, find_model, snapshot_name
from ..loaders.packed import PackedFile
from ..quants import INT4, QUANT_TYPES, is_quants
from .configkeys import note_keys, refuse_keys

if TYPE_CHECKING:
    from ..graph.graph import Graph
    from ..graph.source import TensorReport
    from ..loaders.gguf import GgufFile

__all__ = ["FAMILIES", "Opened", "build", "build_checkpoint", "examine", "family_of", "open_source"]

FAMILIES = {
    "albert": "albert",
    "arcee": "arcee",
    "bert": "bert",
    "bloom": "bloom",
    "camembert": "roberta",
    "codegen": "gptj",
    "cohere": "cohere",
    "cohere2": "cohere",
    "deberta-v2": "deberta_v2",
    "deepseek_v2": "deepseek",
    "deepseek_v3": "deepseek",
    "distilbert": "distilbert",
    "electra": "electra",
    "ernie4_5": "llama",
    "exaone": "exaone",
    "exaone4": "exaone4",
    "falcon": "falcon",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "glm": "glm",
    "glm4": "glm",
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
    "gpt_oss": "gpt_oss",
    "gptj": "gptj",
    "granite": "granite",
    "granitemoe": "granitemoe",
    "gte": "gte",
    "helium": "llama",
    "hunyuan_v1_dense": "hunyuan",
    "lfm2": "lfm2",
    "llama": "llama",
    "llama4_text": "llama4",
    "mamba2": "mamba2",
    "mistral": "llama",
    "mixtral": "mixtral",
    "modernbert": "modernbert",
    "mpnet": "mpnet",
    "mpt": "mpt",
    "nemotron": "nemotron",
    "new": "gte",
    "nomic_bert": "nomic_bert",
    "olmo": "olmo",
    "olmo2": "olmo2",
    "olmo3": "olmo2",
    "olmoe": "olmoe",
    "opt": "opt",
    "phi": "phi",
    "phi3": "phi3",
    "qwen2": "llama",
    "qwen2_moe": "qwen_moe",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen_moe",
    "qwen3_next": "qwen3_next",
    "roberta": "roberta",
    "seed_oss": "llama",
    "smollm3": "llama",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
    "xlm-roberta": "roberta",
}
"""``model_type`` of config.json -> its page, a module here, which is imported when a model of it is loaded."""

_SELECTIVE = (
    "its states have a decay for every number, which no rule of linear attention has over whole vectors; models of "
    "Mamba-2 (model_type 'mamba2') can be loaded"
)
_REFUSED = {"falcon_mamba": _SELECTIVE, "mamba": _SELECTIVE}
"""``model_type`` -> why there is no page."""

_DTYPES = ("float32", "bfloat16", "float16", "int8", INT4)
_ACTIVATIONS = ("int16", "int8")


def family_of(model_type: str) -> Family:
    """The family of a ``model_type`` of ``FAMILIES``."""
    family: Family = import_module(f".{FAMILIES[model_type]}", __package__).FAMILY
    return family


def build(opened: Opened, *, verify: bool = False) -> Built:
    """The model of an opened path; errors are those of ``fastattn.load``, which says what ``verify`` is."""
    if not isinstance(opened.weights, PackedFile):
        if verify:
            raise ValueError(f"verify: {opened.weights.path} is not a packed file, which alone have checksums")
        return build_checkpoint(opened)[0]
    if verify:
        opened.weights.verify()
    source = Packed(opened.config, opened.weights, None, opened.activations)
    graph, facts = trace_page(opened.family, source)
    source.check_all_served()
    refuse_keys(opened.config)
    graph.seal()
    notes = (*note_keys(opened.config), *_note_numerics(opened.weights))
    return Built(
        opened.family, graph, facts, opened.weights.path, opened.files, source.report, notes, (), opened.num_threads
    )


class Opened(NamedTuple):
    """A model that is opened, of a supported family, and not read yet."""

    path: Path
    """What was opened: a folder or a file."""
    weights: WeightFile
    """A ``PackedFile``, or the tensors of a checkpoint."""
    files: ModelFiles
    folder: Path
    """Where the weights are."""
    config: ConfigReader
    family: Family
    dtype: str
    num_threads: int | None
    head: str | None
    strict: bool
    activations: str | None
    """How inputs of layers of blocks are rounded, as it was asked for."""
    notes: tuple[str, ...] = ()
    """What was found in the files and is not obeyed."""

    def fingerprint(self) -> str:
        """Of the weights and of config.json."""
        found = self.weights.fingerprint()
        if not isinstance(self.weights, PackedFile) and not self.weights.format:
            found += f"{zlib.crc32(self.files.read_bytes('config.json')):08x}"
        return found


def open_source(
    path: str | os.PathLike[str],
    dtype: Any,
    num_threads: int | None,
    *,
    head: str | None = None,
    activations: str | None = None,
    strict: bool = True,
) -> Opened:
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
    notes: tuple[str, ...] = ()
    config: ConfigReader | None = None
    if weights.format == "gguf":
        from .gguf import open_gguf

        config, weights, files, notes = open_gguf(cast("GgufFile", weights))
    elif isinstance(weights, PackedFile):
        weights.check_numerics(numerics_version())
        name = _packed_dtype(weights, name)
        files = weights.files()
    else:
        refuse_adapters(files)
    if config is None and not files.has("config.json"):
        _refuse_static(weights, str(folder))
        where = files.describe("config.json")
        raise FileNotFoundError(
            f"{where}: a model needs its config.json beside the weights of {target}{_complete(target)}"
        )
    config = ConfigReader.read(files) if config is None else config
    model_type = config.model_type()
    if model_type not in FAMILIES:
        if model_type == "model2vec":
            raise ValueError(_static(str(config.path)))
        if model_type in _REFUSED:
            raise ValueError(
                f"{config.path}: model_type is {model_type!r}, which is not supported: {_REFUSED[model_type]}"
            )
        raise ValueError(
            f"{config.path}: model_type {model_type[:100]!r} is not supported; supported: {', '.join(FAMILIES)}"
        )
    if isinstance(weights, PackedFile) and wanted is not None:
        _check_packed_head(weights, wanted)
    family = family_of(model_type)
    if name is None:
        name = AS_STORED if family.decoder else "float32"
    if activations is not None and not _has_blocks(weights, name):
        raise ValueError(
            f"activations: got {activations!r}, but {weights.path} has no block-quantised weights (dtype {name!r}), to "
            "which alone it applies"
        )
    return Opened(target, weights, files, folder, config, family, name, threads, wanted, strict, activations, notes)


def _has_blocks(weights: WeightFile, dtype: str) -> bool:
    """Whether layers of a model that is loaded so are blocks."""
    if isinstance(weights, PackedFile):
        return any(is_quants(kind) for kind in packed_types(weights))
    return dtype == INT4 or dtype == AS_STORED and any(weights.dtype(name) in QUANT_TYPES for name in weights)


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
    if stored not in (*_DTYPES, AS_STORED):
        raise ValueError(f"{packed.path}: dtype is {stored[:40]!r}, expected one of {', '.join(_DTYPES)}, {AS_STORED}")
    if asked not in (None, stored):
        raise ValueError(
            f"dtype: got {asked!r}, but {packed.path} was packed as {stored!r}; leave dtype out, or pack it so"
        )
    return stored


def _check_packed_head(packed: PackedFile, wanted: str) -> None:
    """``ValueError`` where a packed file is known to hold another head than the one that is ``wanted``."""
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


def _note_numerics(packed: PackedFile) -> list[str]:
    """A sentence where the library that packed the file computed otherwise than this one."""
    own = numerics_version()
    version = packed.check_numerics(own)
    if version == own:
        return []
    return [
        f"{packed.path}: packed with numerics version {version}, this library has {own}: results may differ from those "
        f"of the library that packed it (new in {'; '.join(numerics_changes(version))})"
    ]


def _planned(opened: Opened) -> tuple[Graph, TensorReport, list[str]]:
    """What a checkpoint is asked for, held against what it has: the graph, over nothing, and what became of tensors."""
    plan = Plan(opened.config, opened.weights, opened.head)
    graph, _ = trace_page(opened.family, plan)
    refuse_keys(opened.config)
    return graph, *check_tensors(plan, opened.weights, opened.family.ignorable, opened.strict)


def examine(opened: Opened) -> tuple[Graph, tuple[str, ...]]:
    """The graph of an opened model, to be looked at, and its notes, without reading weights; errors as of ``build``."""
    if isinstance(opened.weights, PackedFile):
        built = build(opened)
        return built.graph, built.notes
    return _planned(opened)[0], (*note_keys(opened.config), *opened.notes)


def _note_blocks(source: Checkpoint) -> list[str]:
    """A sentence for each type of blocks that became float32."""
    return [
        f"{source.weights.path}: {listed(names)} of type {kind} became float32"
        for kind, names in source.dequantized.items()
    ]


def build_checkpoint(opened: Opened) -> tuple[Built, Checkpoint]:
    """The model of a checkpoint, and the source that kept what it was made of."""
    _, report, unknown = _planned(opened)
    source = Checkpoint(
        opened.config, opened.weights, opened.dtype, opened.num_threads, opened.head, opened.activations or "int16"
    )
    graph, facts = trace_page(opened.family, source)
    graph.seal()
    notes = (*note_keys(opened.config), *opened.notes, *_note_blocks(source))
    where = opened.path if opened.weights.format else opened.folder
    return Built(
        opened.family, graph, facts, where, opened.files, report, notes, tuple(unknown), opened.num_threads
    ), source
