# SPDX-License-Identifier: MIT
"""From a checkpoint to a packed file: what its source made, and the small files of its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cpu import build_info
from ..graph.checkpoint import Checkpoint
from ..graph.source import AS_STORED, Norm
from ..loaders.errors import WeightFileError
from ..loaders.files import ModelFiles
from ..loaders.jsonfile import MAX_JSON_BYTES, parse_json
from ..loaders.packed import FILE_IN_FOLDER, PackedFile
from ..loaders.packwriter import check_target, write_packed
from ..loaders.weightfile import WeightFile
from ..quants import INT4, PANELS, is_quants
from ..weights import PackedLinear
from .registry import build, build_checkpoint, open_source

if TYPE_CHECKING:
    from ..typing import HeadName, WeightType

__all__ = ["pack", "pack_noting"]

_Array = np.ndarray[Any, Any]

_KNOWN = ("config.json", "tokenizer.json")  # of any length that is read; other JSON files are small or not for us
_SMALL = 1 << 20
_TEXTS = (".json", "chat_template.jinja")
_MODULES = "modules.json"


def pack(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    dtype: WeightType | None = None,
    *,
    num_threads: int | None = None,
    head: HeadName | str | None = None,
    strict: bool = True,
) -> Path:
    """Pack the model at ``path`` into one file, which ``fastattn.load`` maps into memory as it is.

    The file holds the weights as the kernels read them, and the configuration, tokenizer and pooling: nothing else is
    needed to run it. Processes that load the same file share its pages, on any instruction set. It is a valid
    ``.safetensors`` file; ``fastattn.loaders.packed`` says what is in it.

    Parameters
    ----------
    path
        A checkpoint, as ``fastattn.load`` takes it.
    target
        The file to write (by custom ``.fastattn``), or an existing folder, in which it is called ``model.fastattn``.
        It is written under another name and renamed when it is complete: where something fails, what was there before
        is still there. A packed file of that name is replaced, and processes that have it mapped keep what they have;
        any other file is refused.
    dtype
        How the weights of linear layers are stored: ``"int8"``, ``"int4"``, ``"bfloat16"``, ``"float16"`` or
        ``"float32"``. The results are those of ``fastattn.load(path, dtype=dtype)``, to the bit. None is ``"int8"``,
        and for a GGUF file what ``load`` makes of it: halves and blocks as they are, and of everything else float32.
    num_threads
        Threads used for packing; None leaves it to ``set_num_threads`` and its defaults.
    head, strict
        As ``fastattn.load`` takes them. A packed file has one head, or none.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        As ``fastattn.load`` does; a weight is NaN or infinite; the model is packed already; ``target`` is a file that
        is not a packed one.
    OSError
        ``target`` cannot be written.

    Example
    -------
    >>> fastattn.pack("all-MiniLM-L6-v2", "minilm.fastattn")                 # doctest: +SKIP
    PosixPath('minilm.fastattn')
    >>> fastattn.load("minilm.fastattn").embed(["A sentence."]).shape        # doctest: +SKIP
    (1, 384)
    """
    return pack_noting(set(), path, target, dtype, num_threads, head=head, strict=strict)


def pack_noting(
    unfinished: set[str],
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    dtype: str | None,
    num_threads: int | None,
    *,
    head: str | None = None,
    strict: bool = True,
) -> Path:
    """``pack``; the temporary file's name is in ``unfinished`` while there may be one.

    That is for programs that end without unwinding.
    """
    if not isinstance(target, (str, os.PathLike)):
        raise TypeError(f"target: expected a str or os.PathLike, got {type(target).__name__}")
    checkpoint = open_source(path, dtype, num_threads, head=head, strict=strict)
    if dtype is None and not checkpoint.weights.format:
        checkpoint = checkpoint._replace(dtype="int8")
    place = Path(target)
    if place.is_dir():
        place = place / FILE_IN_FOLDER
    elif not place.parent.is_dir():
        raise FileNotFoundError(f"{place}: there is no folder {str(place.parent)!r} to write it in")
    if isinstance(checkpoint.weights, PackedFile):
        raise ValueError(f"path: {checkpoint.weights.path} is packed already; pack the checkpoint it was made from")

    check_target(place, unfinished)
    built, source = build_checkpoint(checkpoint)
    tensors: dict[str, _Array] = {}
    first_of: dict[int, str] = {}
    same: dict[str, str] = {}
    for key, made in source.made.items():
        if first_of.setdefault(id(made), key) != key and isinstance(made, PackedLinear):
            same[key] = first_of[id(made)]
            continue
        for part, array in _parts(made).items():
            tensors[f"{key}/{part}"] = array
    info = build_info()
    metadata = {
        "numerics_version": str(info["numerics_version"]),
        "fastattn_version": info["version"],
        **_types(source),
        **({"same": json.dumps(same, separators=(",", ":"))} if same else {}),
        "model_type": checkpoint.config.model_type(),
        "head": built.graph.tasks.name,
        "parameters": str(sum(prod(checkpoint.weights.shape(name)) for name in built.tensors.used)),
        "used": json.dumps(built.tensors.used, separators=(",", ":")),
        "ignored": json.dumps(built.tensors.ignored, separators=(",", ":")),
    }
    write_packed(
        place, tensors, _small_files(checkpoint.files), metadata, dtypes=_bfloat16(source.made), check=_can_be_loaded,
        unfinished=unfinished, source=checkpoint.weights.path,
    )  # fmt: skip
    return place


def _can_be_loaded(path: Path) -> None:
    """Nothing gets the name of a packed file that does not load again, whatever a page asked its source for."""
    build(open_source(path, None, None))


def _types(source: Checkpoint) -> dict[str, str]:
    """How layers are stored, each for itself where they differ; what became of the types of a GGUF file."""
    types = {key: made.dtype for key, made in source.made.items() if isinstance(made, PackedLinear)}
    said = {"dtype": source.dtype}
    if source.dtype == AS_STORED:
        several = set(types.values())
        one = several.pop() if len(several) == 1 else "" if several else "float32"
        said["dtype"] = one if one == INT4 or one and not is_quants(one) else AS_STORED
    if any(map(is_quants, types.values())):
        said["block_panels"] = PANELS
    if said["dtype"] == AS_STORED:
        said["dtypes"] = json.dumps(types, separators=(",", ":"))
    if source.weights.format == "gguf":
        kinds = {source.weights.dtype(name) for name in source.weights}
        said["gguf_types"] = " ".join(sorted(kinds))
        kept = {kind for dtype in types.values() if is_quants(dtype) for kind in dtype.split("+")}
        said["dequantized"] = " ".join(sorted(kinds - set(WeightFile.floats) - kept))
    return said


def _parts(made: PackedLinear | Norm | _Array | Mapping[str, _Array]) -> Mapping[str, _Array]:
    if isinstance(made, PackedLinear):
        return made.arrays()
    if isinstance(made, Norm):
        return {"weight": made.weight} if made.bias is None else {"weight": made.weight, "bias": made.bias}
    return made if isinstance(made, Mapping) else {"table": made}


def _bfloat16(made: Mapping[str, Any]) -> dict[str, str]:
    """Tensors whose uint16 are bits of bfloat16."""
    return {
        f"{key}/{part}": "BF16"
        for key, layer in made.items()
        if isinstance(layer, PackedLinear) and layer.dtype == "bfloat16"
        for part, array in layer.arrays().items()
        if array.dtype == np.uint16
    }


def _small_files(files: ModelFiles) -> dict[str, bytes]:
    """The JSON files of the folder and of the modules of sentence-transformers, the weights of such modules, and the
    chat template.
    """
    contents: dict[str, bytes] = {}
    for folder in ("", *_module_folders(files)):
        for name in files.names(folder):
            whole = name in _KNOWN or name.endswith(".safetensors") and folder
            if not (whole or name.endswith(_TEXTS)) or name.endswith(".index.json"):
                continue
            limit = MAX_JSON_BYTES if whole else _SMALL
            try:
                contents[name] = files.read_bytes(name, limit)
            except WeightFileError:
                if whole:
                    raise
    return contents


def _module_folders(files: ModelFiles) -> list[str]:
    found = {"1_Pooling"}
    if files.has(_MODULES):
        try:
            modules = parse_json(files.read_bytes(_MODULES, _SMALL), files.describe(_MODULES))
        except WeightFileError:
            modules = []  # whoever embeds text with it is told what is wrong
        for module in modules if isinstance(modules, list) else []:
            where = module.get("path") if isinstance(module, dict) else None
            if isinstance(where, str) and where and "\0" not in where:
                parts = PurePosixPath(where).parts
                if ".." not in parts and parts[:1] != ("/",) and "\\" not in where and ":" not in where:
                    found.add("/".join(parts))
    return sorted(found)
