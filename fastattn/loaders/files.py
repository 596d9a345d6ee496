# SPDX-License-Identifier: MIT
"""The small files that come with weights, by name: in a folder, or wherever else a model keeps them."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .jsonfile import MAX_JSON_BYTES, parse_json_object, read_json_object, read_whole

if TYPE_CHECKING:
    from .weightfile import WeightFile

__all__ = ["FolderFiles", "ModelFiles", "as_files"]


class ModelFiles(ABC):
    """The files of one model: ``config.json``, ``tokenizer.json``, ``1_Pooling/config.json`` and their like.

    Names are relative, with ``/`` between folders. Whoever takes a name from a file checks first that it stays inside.

    Example
    -------
    >>> import os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with open(os.path.join(folder, "config.json"), "w") as file:
    ...     _ = file.write('{"hidden_size": 384}')
    >>> files = FolderFiles(folder)
    >>> files.has("config.json"), files.has("modules.json")
    (True, False)
    >>> files.read_json("config.json")
    {'hidden_size': 384}
    """

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""

    @abstractmethod
    def read_bytes(self, name: str, limit: int = MAX_JSON_BYTES) -> bytes:
        """The whole file ``name``.

        Raises
        ------
        FileNotFoundError, PermissionError
            There is no such file, or it may not be read.
        WeightFileError
            It is no regular file, or longer than ``limit`` bytes.
        """

    @abstractmethod
    def describe(self, name: str = "") -> str:
        """The file ``name`` as messages call it; without a name, the place where all of them are."""

    @abstractmethod
    def open_weights(self, name: str) -> WeightFile:
        """The ``.safetensors`` file ``name``, as that of a Dense module: its tensors are mapped, not copied.

        Raises as ``fastattn.open_weights`` does.
        """

    def tokenizer(self) -> Any:
        """An object of the ``tokenizers`` library, where there is one without reading tokenizer.json; else None."""
        return None

    @abstractmethod
    def names(self, folder: str = "") -> list[str]:
        """Names of the regular files directly in ``folder``, which need not be there, in order."""

    def read_json(self, name: str) -> dict[str, Any]:
        """The file ``name`` as one JSON object; see ``jsonfile.parse_json`` for what is refused."""
        return parse_json_object(self.read_bytes(name), self.describe(name))


class FolderFiles(ModelFiles):
    """The files of a folder."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)

    def has(self, name: str) -> bool:
        try:
            return (self._folder / name).exists()
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # a name out of a file
                return False
            raise

    def read_bytes(self, name: str, limit: int = MAX_JSON_BYTES) -> bytes:
        return read_whole(self._folder / name, limit)

    def describe(self, name: str = "") -> str:
        return str(self._folder / name)

    def names(self, folder: str = "") -> list[str]:
        place = self._folder / folder
        found = [entry.name for entry in place.iterdir() if entry.is_file()] if place.is_dir() else []
        return sorted(f"{folder}/{name}" if folder else name for name in found)

    def open_weights(self, name: str) -> WeightFile:
        from .safetensors import SafetensorsFile

        return SafetensorsFile(self._folder / name)

    def read_json(self, name: str) -> dict[str, Any]:
        return read_json_object(self._folder / name)


def as_files(source: ModelFiles | str | os.PathLike[str]) -> ModelFiles:
    """``source`` itself where it is files already, else those of the folder of that path."""
    return source if isinstance(source, ModelFiles) else FolderFiles(source)
