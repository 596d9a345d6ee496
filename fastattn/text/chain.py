# SPDX-License-Identifier: MIT
"""``modules.json`` of sentence-transformers: which of its classes stand behind each other, by their full names."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, NamedTuple

from ..loaders.files import ModelFiles
from .jsonkeys import is_inside, read_list, shown
from .sidefiles import MODULE, check_keys

__all__ = ["MODULES_JSON", "Module", "class_of", "logit_score_folder", "read_chain", "refuse_other_models"]

MODULES_JSON = "modules.json"

# Class -> the file that defines it in sentence-transformers 5.4 and later.
_SUPPORTED = {
    "Transformer": "transformer", "Pooling": "pooling", "Dense": "dense", "LayerNorm": "layer_norm",
    "Normalize": "normalize", "Dropout": "dropout",
}  # fmt: skip
_OTHERS = {
    "Asym": ("router", "it sends queries and documents through models of their own"),
    "Router": ("router", "it sends queries and documents through models of their own"),
    "BoW": ("bow", "its vectors are counts of words"),
    "CLIPModel": ("clip_model", "it is a model of images and texts"),
    "CNN": ("cnn", "it is a convolution over tokens"),
    "LSTM": ("lstm", "it is a recurrent network over tokens"),
    "StaticEmbedding": ("static_embedding", "it is a table of token vectors without a transformer"),
    "WeightedLayerPooling": ("weighted_layer_pooling", "it mixes the hidden states of several layers"),
    "WordEmbeddings": ("word_embeddings", "it is a table of word vectors without a transformer"),
    "WordWeights": ("word_weights", "it weighs words"),
    "LogitScore": ("logit_score", "it is a cross-encoder made of a decoder"),
    "MLMTransformer": ("mlm_transformer", "it is a sparse encoder (SPLADE)"),
    "SpladePooling": ("splade_pooling", "it is a sparse encoder (SPLADE)"),
    "SparseAutoEncoder": ("sparse_auto_encoder", "it is a sparse encoder"),
    "SparseStaticEmbedding": ("sparse_static_embedding", "it is a sparse encoder without a transformer"),
    "MultiVectorMask": ("multi_vector_mask", "it is a multi-vector model (ColBERT)"),
    "HierarchicalTokenPooling": ("token_pooling", "it is a multi-vector model (ColBERT)"),
    "LambdaTokenPooling": ("token_pooling", "it is a multi-vector model (ColBERT)"),
}
_FILES = {**_SUPPORTED, **{name: file for name, (file, _) in _OTHERS.items()}}

# Packages that define or hand on the classes: "models" up to 5.3, the others since.
_OLD = ("sentence_transformers.models.", "sentence_transformers.sparse_encoder.models.")
_PACKAGES = (
    *_OLD, "sentence_transformers.base.modules.", "sentence_transformers.sentence_transformer.modules.",
    "sentence_transformers.cross_encoder.modules.", "sentence_transformers.sparse_encoder.modules.",
    "sentence_transformers.multi_vector_encoder.modules.",
)  # fmt: skip


class Module(NamedTuple):
    """A module of the chain."""

    kind: str
    """Its class: "Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout" or "LogitScore"."""
    folder: str
    """Where its files are."""


def class_of(name: str) -> str | None:
    """The class of sentence-transformers that ``name`` stands for in ``modules.json``; None for code of others.

    Example
    -------
    >>> class_of("sentence_transformers.models.Pooling"), class_of("my_pooling.Pooling")
    ('Pooling', None)
    >>> class_of("sentence_transformers.sentence_transformer.modules.pooling.Pooling")
    'Pooling'
    """
    for package in _PACKAGES:
        if name.startswith(package):
            module, _, kind = name[len(package) :].rpartition(".")
            # Files import from each other, so that any of them may hand a class on; none of them is foreign.
            if kind in _FILES and (module == "" or module in _FILES.values() or (package in _OLD and module == kind)):
                return kind
    return None


def read_chain(files: ModelFiles, after: tuple[str, ...]) -> list[Module]:
    """The modules that ``modules.json`` names: a Transformer, and then, if any, a Pooling and some of ``after``.

    Raises
    ------
    ValueError
        The file is damaged; a module is of a class that is not supported or of somebody's own code (it is named, and
        what it is); a module has no folder of its own where it needs one.
    """
    path = files.describe(MODULES_JSON)
    modules, types = _read(files, path)
    kinds = [module.kind for module in modules]
    if kinds[:1] != ["Transformer"] or (kinds[1:] and kinds[1] != "Pooling") or set(kinds[2:]) - set(after):
        what = next((f" ({kind}: {_OTHERS[kind][1]})" for kind in map(class_of, types) if kind in _OTHERS), "")
        raise ValueError(
            f"{path}: modules {', '.join(kinds) or 'of no type'} are not supported{what}; expected Transformer, "
            f"Pooling and then any of {', '.join(after)}"
        )
    for number, (name, module) in enumerate(zip(types, modules, strict=True)):
        if class_of(name) != module.kind:
            raise ValueError(
                f"{path}: module {number} is of the class {shown(name)}, which is not that of sentence-transformers; "
                "code of others is not run"
            )
    return modules


def _read(files: ModelFiles, path: str) -> tuple[list[Module], list[str]]:
    """The modules of the file, and the names of their classes."""
    modules: list[Module] = []
    types: list[str] = []
    for number, module in enumerate(read_list(files.read_bytes(MODULES_JSON, 1_000_000), path)):
        if not isinstance(module, dict) or not isinstance(module.get("type"), str):
            raise ValueError(f"{path}: module {number} is not an object with a type")
        check_keys(module, MODULE, path, closed=True, within=f"module {number}: ")
        kind = module["type"].rpartition(".")[2]
        types.append(module["type"])
        modules.append(Module(kind, _folder(module.get("path"), kind, f"{path}: module {number}")))
    return modules, types


def logit_score_folder(files: ModelFiles) -> str | None:
    """Where the module LogitScore of a cross-encoder that is asked has its files; None where there is none.

    Raises
    ------
    ValueError
        modules.json is damaged, or such a module does not stand right behind a Transformer.
    """
    if not files.has(MODULES_JSON):
        return None
    path = files.describe(MODULES_JSON)
    modules, types = _read(files, path)
    kinds = [class_of(name) for name in types]
    if "LogitScore" not in kinds:
        return None
    if kinds != ["Transformer", "LogitScore"]:
        names = ", ".join(module.kind[:100] for module in modules[:10])
        raise ValueError(f"{path}: modules {names} are not supported; expected Transformer, LogitScore")
    return modules[1].folder


def _folder(where: Any, kind: str, what: str) -> str:
    """The folder of a module, which must be there for some kinds and stay inside for all."""
    if kind == "Transformer":
        if where in (None, "", "."):
            return ""
        raise ValueError(f"{what}: path is {shown(where)}, expected '': a Transformer lies beside modules.json")
    needed = kind in ("Pooling", "Dense", "LayerNorm", "LogitScore") or (kind == "Normalize" and where)
    if needed and not (isinstance(where, str) and is_inside(where)):
        raise ValueError(f"{what}: path is {shown(where)}, expected a folder beside it")
    return str(PurePosixPath(where)) if isinstance(where, str) and where else ""


def refuse_other_models(files: ModelFiles) -> None:
    """Say what a folder without a transformer is, where its ``modules.json`` does.

    Raises
    ------
    ValueError
        The first module is no Transformer; or modules.json is damaged.
    """
    if not files.has(MODULES_JSON):
        return
    path = files.describe(MODULES_JSON)
    modules = read_list(files.read_bytes(MODULES_JSON, 1_000_000), path)
    name = modules[0].get("type") if modules and isinstance(modules[0], dict) else None
    kind = class_of(name) if isinstance(name, str) else None
    if kind in _OTHERS:
        raise ValueError(f"{path}: module 0 is a {kind}: {_OTHERS[kind][1]}. That is not supported")
    if isinstance(name, str) and kind is None:
        raise ValueError(
            f"{path}: module 0 is of the class {shown(name)}, which is not that of sentence-transformers; code of "
            "others is not run"
        )
