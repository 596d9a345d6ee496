# SPDX-License-Identifier: MIT
"""Names of models on the Hugging Face hub, looked up in the cache that its own programs fill. Nothing is downloaded.

The cache holds a folder ``models--ORG--NAME`` for each model, with the commit that a branch stands for in
``refs/main`` and the files of a commit in ``snapshots/COMMIT``, as links to ``blobs``.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from .errors import WeightFileError
from .jsonfile import regular_file_size

__all__ = ["cache_folder", "download_command", "find_model", "snapshot_name"]

_PART = r"[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?:({_PART})/)?({_PART})(?:@([A-Za-z0-9][\w.-]{{0,99}}))?", re.ASCII)
# Commits have 40 or 64 hexadecimal digits; but the hub's own library takes any name, and mirrors give others.
_COMMIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_OLD_OWNER = "sentence-transformers"  # whom a name without an owner belongs to, for sentence-transformers


def find_model(path: str | os.PathLike[str]) -> Path:
    """The file or folder ``path``; where there is none, the model of that name in the local Hugging Face cache.

    Names are ``ORG/NAME``, or ``NAME`` alone as sentence-transformers has its own ("all-MiniLM-L6-v2"); ``@REVISION``
    behind it is a branch, a tag or a commit, by custom "main".

    Raises
    ------
    TypeError
        ``path`` is of bytes.
    FileNotFoundError
        There is neither. It says where was looked, and which command downloads the model.

    Example
    -------
    >>> find_model("sentence-transformers/all-MiniLM-L6-v2").name              # doctest: +SKIP
    '1110a243fdf4706b3f48f1d95db1a4f5529b4d41'
    """
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"path: expected a str or a path of str, got {type(text).__name__}")
    if _exists(Path(text)):
        return Path(text)
    match = _match(text.replace(os.sep, "/"))
    if match is None:
        shown = text if len(text) < 300 and text.isprintable() else ascii(text[:100])
        raise FileNotFoundError(f"{shown}: no such file or folder (models are read from disk, never downloaded)")
    owner, name, revision = match.groups()
    cache = cache_folder()
    for candidate in (f"{owner}--{name}",) if owner else (name, f"{_OLD_OWNER}--{name}"):
        found = _snapshot(cache / f"models--{candidate}", revision)
        if found is not None:
            return found
    raise FileNotFoundError(
        f"{text}: no such file or folder, and the Hugging Face cache {cache} has no model of this name (models are "
        f"read from disk, never downloaded); {download_command(owner, name, revision)} fetches it"
        f"{'' if owner else ', if that is its full name'}"
    )


def download_command(owner: str | None, name: str, revision: str | None = None) -> str:
    """The command that puts a model into the cache.

    >>> download_command("intfloat", "e5-small-v2")
    '`hf download intfloat/e5-small-v2` (pip install huggingface_hub)'
    """
    more = "" if revision is None else f" --revision {revision}"
    return f"`hf download {owner or _OLD_OWNER}/{name}{more}` (pip install huggingface_hub)"


def snapshot_name(path: Path) -> tuple[str | None, str] | None:
    """(owner, name) of the model whose snapshot in a cache ``path`` is; None for any other path."""
    place = Path(os.path.abspath(path))
    folder = place.parent.parent.name
    if place.parent.name != "snapshots" or not folder.startswith("models--"):
        return None
    owner, _, name = folder.removeprefix("models--").rpartition("--")
    return owner or None, name


def cache_folder() -> Path:
    """Where the hub's own library keeps its models, as it decides that."""
    for variable, below in (
        ("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub"),
    ):  # fmt: skip
        value = os.environ.get(variable)
        if value:
            return Path(os.path.expandvars(os.path.expanduser(value))) / below
    return Path(os.path.expanduser("~/.cache")) / "huggingface/hub"


def _match(text: str) -> re.Match[str] | None:
    match = _NAME.fullmatch(text)
    parts = match.groups() if match else ()
    return None if any("--" in part or ".." in part for part in parts if part) else match


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
            return False
        raise


def _snapshot(model: Path, revision: str | None) -> Path | None:
    """The files of a revision; those of the only snapshot, where no branch is known and none is asked for."""
    try:
        commit = _commit(model / "refs" / (revision or "main"))
        if commit is None and revision is not None and _COMMIT.fullmatch(revision):
            commit = revision
        if commit is None and revision is None:
            commits = [entry.name for entry in (model / "snapshots").iterdir() if _COMMIT.fullmatch(entry.name)]
            commit = commits[0] if len(commits) == 1 else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    found = None if commit is None else model / "snapshots" / commit
    return found if found is not None and found.is_dir() else None


def _commit(reference: Path) -> str | None:
    """What a file of ``refs`` stands for; None where there is none."""
    if not reference.exists():
        return None
    if regular_file_size(reference) <= 200:
        text = reference.read_bytes().decode("ascii", "replace").strip()
        if _COMMIT.fullmatch(text):
            return text
    raise WeightFileError(f"{reference}: expected a commit, the name of a folder in snapshots: the cache is damaged")
