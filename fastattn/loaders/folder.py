# SPDX-License-Identifier: MIT
"""Weights of a folder in the layout of the Hugging Face hub: one ``model.safetensors``, or shards with an index."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from .errors import WeightFileError
from .jsonfile import read_json_object
from .packed import FILE_IN_FOLDER, PackedFile
from .safetensors import SafetensorsFile
from .weightfile import TensorInfo, WeightFile

__all__ = ["ShardedSafetensors", "open_folder"]

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class ShardedSafetensors(WeightFile):
    """The shards that ``model.safetensors.index.json`` lists, as one mapping; see ``WeightFile`` for what it offers.

    Index and shards must agree: every tensor the index names is in the shard it names, and no shard holds another.
    """

    def __init__(self, index_path: Path) -> None:
        index = read_json_object(index_path)
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise WeightFileError(f"{index_path}: weight_map must be an object from tensor names to file names")
        self._shards: dict[str, SafetensorsFile] = {}
        self._shard_of: dict[str, SafetensorsFile] = {}
        infos: dict[str, TensorInfo] = {}
        for name, file_name in weight_map.items():
            _check_shard_name(name, file_name, index_path)
            if file_name not in self._shards:
                try:
                    self._shards[file_name] = SafetensorsFile(index_path.parent / file_name)
                except FileNotFoundError:
                    raise FileNotFoundError(
                        f"{index_path}: weight_map: shard {file_name!r} of tensor {name!r} does not exist"
                    ) from None
            shard = self._shards[file_name]
            if name not in shard:
                raise WeightFileError(f"{index_path}: weight_map: tensor {name!r} is not in {file_name!r}")
            infos[name] = shard.info(name)
            self._shard_of[name] = shard
        for file_name, shard in self._shards.items():
            for name in shard:
                if self._shard_of.get(name) is not shard:
                    raise WeightFileError(f"{index_path}: weight_map does not place tensor {name!r} in {file_name!r}")
        metadata: dict[str, str] = {}
        for shard in self._shards.values():
            metadata.update(shard.metadata)
        super().__init__(index_path.parent, infos, metadata)

    def _sample(self) -> int:
        text = "".join(shard.fingerprint() for shard in self._shards.values())
        return zlib.crc32(text.encode("ascii"))

    def _read(self, name: str) -> np.ndarray[Any, Any]:
        return self._shard_of[name][name]


def _check_shard_name(name: str, file_name: Any, index_path: Path) -> None:
    """A shard lies beside its index: any other place would let a downloaded index open files of the machine."""
    good = (
        isinstance(file_name, str)
        and file_name.endswith(".safetensors")
        and not any(letter in file_name for letter in "/\\:\0")
    )
    if not good:
        raise WeightFileError(
            f"{index_path}: weight_map: tensor {name!r} is placed in {str(file_name)[:100]!r}, expected the name of a "
            ".safetensors file in the same folder"
        )


def open_folder(folder: Path) -> WeightFile:
    """Open the weights in ``folder``: ``model.safetensors``, else the shards of ``model.safetensors.index.json``, else
    the packed file ``model.fastattn``.

    Raises
    ------
    FileNotFoundError
        There are no weights in the folder.
    WeightFileError
        There are only weights that are not read: pickled ones, other formats (the message says what helps); or the
        files are damaged.
    """
    if (folder / _SINGLE).exists():
        return SafetensorsFile(folder / _SINGLE)
    if (folder / _INDEX).exists():
        return ShardedSafetensors(folder / _INDEX)
    if (folder / FILE_IN_FOLDER).exists():
        return PackedFile(folder / FILE_IN_FOLDER)
    names = sorted(entry.name for entry in folder.iterdir())
    from .hints import no_weights_message

    instead = no_weights_message(folder, names)
    if instead is not None:
        raise WeightFileError(instead)
    found = [name for name in names if name.endswith((".safetensors", ".npz", ".gguf"))]
    hint = f"; to open {found[0]}, give its own path" if found else ""
    if not found and "router_config.json" in names:
        hint = ": it is a Router of sentence-transformers, which sends texts through models in folders of its own"
    raise FileNotFoundError(f"{folder}: found neither {_SINGLE} nor {_INDEX} in this folder{hint}")
