# SPDX-License-Identifier: MIT
"""Reader for packed files: a whole model, ready to run, in one safetensors file that is mapped and never copied.

A packed file is a ``.safetensors`` file, which any program that knows the format can open, with more rules:

* Its header begins with ``{"__metadata__":{"format":"fastattn-packed","header_crc32":"xxxxxxxx","format_version":"1"``,
  byte for byte. That is how it is recognised, whatever its name. The eight digits are the CRC-32 of the header's length
  (8 bytes) and the header (with these digits as zeros): a header in which anything changed is refused.
* ``__metadata__`` also has ``numerics_version``, ``fastattn_version``, ``dtype``, ``model_type``, ``sha256`` (the sums
  of all tensors, in the order of their data, 64 hexadecimal digits each) and what the models layer wants to keep.
* Every tensor starts at a multiple of 64 bytes of the file, but for the tensors of bytes called ``pad:N``, which fill
  what that leaves between two others (the format allows no holes).
* A tensor of bytes called ``file:NAME`` is a file of the model's folder, as it was: config.json, tokenizer.json. Their
  CRC-32 sums, eight hexadecimal digits each, are in ``files_crc32`` of ``__metadata__``, a JSON object by NAME.
* Every other tensor is called ``KEY/PART``, PART without a slash: part of the object that the model asks for by KEY.

Opening reads no data. A small file is held against its CRC-32 when it is read; ``verify`` reads everything, compares
the SHA-256 sums, and looks for NaN and infinity.
Versions: a file of a newer format or of newer numerics is refused, an older one is read; older numerics are told in
``model.notes``.
"""

from __future__ import annotations

import contextlib
import mmap
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .errors import WeightFileError
from .files import ModelFiles
from .jsonfile import MAX_JSON_BYTES, parse_json_object, regular_file_size
from .safetensors import SafetensorsFile
from .weightfile import WeightFile

__all__ = [
    "ALIGNMENT",
    "FILE",
    "FILE_IN_FOLDER",
    "FORMAT_VERSION",
    "PAD",
    "SUFFIX",
    "PackedFile",
    "PackedFiles",
    "all_finite",
    "file_crc",
    "header_crc",
    "header_start",
    "is_packed",
]

FORMAT_VERSION = 1
ALIGNMENT = 64
SUFFIX = ".fastattn"
"""Customary, not needed: packed files are recognised by their content."""
FILE_IN_FOLDER = f"model{SUFFIX}"
"""The packed file of a folder."""
FILE, PAD = "file:", "pad:"

_MAGIC = b'{"__metadata__":{"format":"fastattn-packed",'
_START = _MAGIC + b'"header_crc32":"%s","format_version":"%s"'
_NO_CRC = b"00000000"
_CRC_AT = _START.index(b"%s")
_REQUIRED = ("numerics_version", "fastattn_version", "dtype", "model_type", "sha256", "files_crc32")
_CHUNK = 1 << 22  # elements that verify looks at together


def header_start(crc: bytes = _NO_CRC) -> bytes:
    """First bytes of a packed file's header, up to the end of the format version."""
    return _START % (crc, b"%d" % FORMAT_VERSION)


def header_crc(length: bytes, header: bytes) -> bytes:
    """Digits of the CRC-32 of a header (with any digits in their place) and its 8 bytes of length."""
    blank = header[:_CRC_AT] + _NO_CRC + header[_CRC_AT + 8 :]
    return b"%08x" % zlib.crc32(blank, zlib.crc32(length))


def file_crc(data: bytes) -> str:
    """Digits of the CRC-32 of a small file."""
    return f"{zlib.crc32(data):08x}"


def is_packed(path: Path) -> bool:
    """Whether the regular file at ``path`` begins as a packed file does."""
    regular_file_size(path)
    with open(path, "rb") as file:
        return file.read(8 + len(_MAGIC))[8:] == _MAGIC


class PackedFile(SafetensorsFile):
    """One packed file, mapped into memory. As a mapping it has the tensors under their full names, ``KEY/PART``.

    Parameters
    ----------
    path
        The file.
    numerics_version
        Of the library that reads it; None leaves it to ``check_numerics``.

    Raises
    ------
    FileNotFoundError, PermissionError
        As the operating system says.
    WeightFileError
        The file is truncated, its header is damaged, or it needs a newer library.
    """

    def __init__(self, path: Path, numerics_version: int | None = None) -> None:
        super().__init__(path)
        _prefer_huge_pages(self._mapping)
        for key in _REQUIRED:
            if key not in self._metadata:
                raise WeightFileError(f"{path}: __metadata__ has no {key}")
        if numerics_version is not None:
            self.check_numerics(numerics_version)
        for name, (begin, _) in self._ranges.items():
            if (self._data_start + begin) % ALIGNMENT and not name.startswith(PAD):
                raise WeightFileError(
                    f"{path}: tensor {name!r} is at byte {self._data_start + begin}, which is not a multiple of "
                    f"{ALIGNMENT}"
                )
            special = name.startswith((FILE, PAD))
            if special and (self._infos[name].dtype != "U8" or len(self._infos[name].shape) != 1):
                raise WeightFileError(f"{path}: tensor {name!r} is not a row of bytes")
            if not special and "/" not in name:
                raise WeightFileError(f"{path}: tensor {name!r} is not named KEY/PART")

    def _check_header_text(self, path: Path, text: bytes) -> None:
        crc = text[_CRC_AT : _CRC_AT + 8]
        if not text.startswith(_MAGIC) or header_crc(len(text).to_bytes(8, "little"), text) != crc:
            raise WeightFileError(
                f"{path}: the header is damaged, or another program wrote it: its checksum does not fit. Get the file "
                "again, or pack it again"
            )
        start = _START[: -len(b'%s"')] % crc
        if not text.startswith(start):
            raise WeightFileError(f"{path}: the header does not tell its format version where it should")
        version = _version(
            path, "format_version", text[len(start) : len(start) + 20].partition(b'"')[0].decode("latin-1")
        )
        if version > FORMAT_VERSION:
            raise WeightFileError(
                f"{path}: packed in format version {version}, but this library reads versions up to {FORMAT_VERSION}: "
                "load it with a newer fastattn, or pack it again"
            )

    def check_numerics(self, own: int) -> int:
        """The numerics version of the file; ``WeightFileError`` if it is newer than the library's ``own``."""
        version = _version(self._path, "numerics_version", self._metadata["numerics_version"])
        if version > own:
            raise WeightFileError(
                f"{self._path}: packed by fastattn {self._metadata['fastattn_version'][:40]!r} with numerics version "
                f"{version}, newer than {own} of this library: load it with a newer fastattn, or pack it again"
            )
        return version

    def parts(self, key: str) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays ``KEY/PART`` of ``key`` by PART, read-only views of the mapping; none where it is not there."""
        if self._by_key is None:
            self._by_key = {}
            for name in self._infos:
                if not name.startswith((FILE, PAD)):
                    owner, _, part = name.rpartition("/")
                    self._by_key.setdefault(owner, {})[part] = name
        return {part: self._read(name) for part, name in self._by_key.get(key, {}).items()}

    _by_key: dict[str, dict[str, str]] | None = None

    def keys_of_objects(self) -> list[str]:
        """Every KEY."""
        self.parts("")
        return list(self._by_key or ())

    def files(self) -> PackedFiles:
        """The small files of the model that are inside."""
        return PackedFiles(self)

    def _sample(self) -> int:
        return int(self._metadata["header_crc32"], 16)  # of a header that has the SHA-256 sums of all there is

    def verify(self) -> None:
        """Read everything: compare the SHA-256 sum of every tensor, and look for NaN and infinity.

        Raises
        ------
        WeightFileError
            A tensor is not what was written, or has a value that is not finite; it is named.
        """
        import hashlib

        names = sorted(self._infos, key=lambda name: self._ranges[name])
        sums = self._metadata["sha256"]
        if len(sums) != 64 * len(names):
            raise WeightFileError(
                f"{self._path}: sha256 has {len(sums)} digits, expected 64 for each of {len(names)} tensors"
            )
        for i, name in enumerate(names):
            array = self._read(name)
            if hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest() != sums[64 * i : 64 * i + 64]:
                raise WeightFileError(
                    f"{self._path}: tensor {name!r} is damaged: its SHA-256 sum is not the one stored"
                )
            if not all_finite(array, self._infos[name].dtype):
                raise WeightFileError(f"{self._path}: tensor {name!r} holds NaN or infinity")


def _prefer_huge_pages(mapping: Any) -> None:
    """Have what is not in the page cache yet read into it in pages of 2 MiB, where the file system can.

    The kernels read weights as fast from them as from memory of the process; small pages cost up to a tenth.
    """
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is not None and isinstance(mapping, mmap.mmap):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            mapping.madvise(advice)


def all_finite(array: np.ndarray[Any, Any], dtype: str) -> bool:
    """Whether an array, with elements of that dtype, has no NaN and no infinity; True for what is no floating point."""
    flat = array.reshape(-1)
    pieces = (flat[i : i + _CHUNK] for i in range(0, flat.size, _CHUNK))
    if dtype == "BF16":  # as bits
        return all(not bool((~piece & 0x7F80 == 0).any()) for piece in pieces)
    return array.dtype.kind != "f" or all(bool(np.isfinite(piece).all()) for piece in pieces)


def _version(path: Path, key: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise WeightFileError(f"{path}: {key} is {text[:40]!r}, expected a number")
    return int(text)


class PackedFiles(ModelFiles):
    """The files of a model inside its packed file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedFiles, (self._packed,)

    def __init__(self, packed: PackedFile) -> None:
        self._packed = packed
        text = packed.metadata["files_crc32"].encode("utf-8", "replace")
        self._sums = parse_json_object(text, f"{packed.path}: files_crc32")

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(FILE) for name in self._packed if name.startswith(FILE))

    def names(self, folder: str = "") -> list[str]:
        start = f"{folder}/" if folder else ""
        return sorted(name for name in self if name.startswith(start) and "/" not in name[len(start) :])

    def has(self, name: str) -> bool:
        return FILE + name in self._packed

    def _contents(self, name: str) -> memoryview:
        if not self.has(name):
            raise FileNotFoundError(f"{self.describe(name)}: there is no such file inside the packed file")
        return self._packed[FILE + name].data

    def read_bytes(self, name: str, limit: int = MAX_JSON_BYTES) -> bytes:
        contents = self._contents(name)
        if len(contents) > limit:
            raise WeightFileError(f"{self.describe(name)}: {len(contents)} bytes, more than the limit of {limit}")
        data = contents.tobytes()
        if self._sums.get(name) != file_crc(data):
            raise WeightFileError(
                f"{self.describe(name)}: damaged, its checksum does not fit; get the packed file again"
            )
        return data

    def describe(self, name: str = "") -> str:
        return f"{self._packed.path}: {name}" if name else str(self._packed.path)

    def open_weights(self, name: str) -> WeightFile:
        return SafetensorsFile(Path(self.describe(name)), self._contents(name))
