# SPDX-License-Identifier: MIT
"""LoRA adapters: what a PEFT folder or a GGUF file of the type adapter adds to the weights of a model.

Names are those of the file, less what its writer put around them. What they mean in a model is not known here.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .adapters import CONFIG
from .errors import WeightFileError
from .files import FolderFiles
from .gguf import GgufFile
from .hints import pickled_message
from .hubcache import find_model
from .loraconfig import LoraConfig
from .packed import all_finite
from .safetensors import SafetensorsFile
from .weightfile import WeightFile

__all__ = ["Adapter", "GgufAdapter", "LowRank", "Whole", "finite", "open_adapter"]

Floats = np.ndarray[Any, np.dtype[np.float32]]

_WEIGHTS, _PICKLED = "adapter_model.safetensors", "adapter_model.bin"
_PREFIX = "base_model.model."
_HALF = re.compile(r"(.+)\.lora_(A|B)(?:\.([^.]+))?\.(weight|bias)", re.DOTALL)
_TABLE = re.compile(r"(.+)\.lora_embedding_(A|B)(?:\.([^.]+))?", re.DOTALL)
_WHOLE = re.compile(r"(.+?)(?:\.base_layer|\.modules_to_save(?:\.([^.]+))?)?\.(weight|bias)", re.DOTALL)

# Keys of adapters in GGUF files that say what an adapter is for.
_GGUF_FACTS = ("adapter.type", "adapter.lora.alpha", "adapter.lora.task_name", "adapter.lora.prompt_prefix")


class LowRank(NamedTuple):
    """``scale * b @ a``, outputs by inputs, is added to a weight."""

    where: str
    """File and tensors, for messages."""
    a: Floats
    """(r, columns)"""
    b: Floats
    """(rows, r)"""
    scale: float


class Whole(NamedTuple):
    """A tensor takes the place of the model's."""

    where: str
    array: Floats


class Adapter(NamedTuple):
    """What an adapter changes."""

    path: Path
    low: Mapping[str, LowRank]
    """By full names of tensors."""
    whole: Mapping[str, Whole]
    tied: bool
    """Whether a change of the table of words is also one of a head that has none of its own."""
    notes: tuple[str, ...]
    fingerprint: str


class GgufAdapter(NamedTuple):
    """An adapter whose tensors are called, and turned, as those of a GGUF file."""

    file: GgufFile
    architecture: str
    alpha: float
    """0 for a scale of 1."""
    low: tuple[str, ...]
    """Tensors that have a ``.lora_a`` and a ``.lora_b``."""
    whole: tuple[str, ...]

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def fingerprint(self) -> str:
        return self.file.fingerprint()


def open_adapter(path: str | os.PathLike[str]) -> Adapter | GgufAdapter:
    """Read the adapter at ``path``: a folder that PEFT wrote, the ``.safetensors`` file in it, or a GGUF file.

    Raises
    ------
    FileNotFoundError
        No such path; no adapter there.
    WeightFileError
        It is no LoRA adapter, or asks for what is not supported, or halves of a pair are missing or do not fit.
    TypeError
        ``path`` is no path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path: expected a str or os.PathLike, got {type(path).__name__}")
    place = find_model(path)
    if place.suffix in (".safetensors", ".bin"):
        place = place.parent
    if not place.is_dir():
        with place.open("rb") as file:
            start = file.read(4)
        if start != b"GGUF":
            raise WeightFileError(f"{place}: expected an adapter: a folder that PEFT wrote, or a GGUF file")
        return _open_gguf(GgufFile(place))
    files = FolderFiles(place)
    if not files.has(CONFIG):
        raise FileNotFoundError(f"{files.describe(CONFIG)}: no such file, which every adapter of PEFT has")
    config = LoraConfig.read(files.read_json(CONFIG), files.describe(CONFIG))
    if not files.has(_WEIGHTS):
        if files.has(_PICKLED):
            raise WeightFileError(pickled_message(place / _PICKLED))
        raise FileNotFoundError(f"{files.describe(_WEIGHTS)}: no such file, which has an adapter's weights")
    weights = SafetensorsFile(place / _WEIGHTS)
    low, whole = _read_peft(weights, config)
    fingerprint = f"{weights.fingerprint()}{zlib.crc32(files.read_bytes(CONFIG)):08x}"
    return Adapter(place, low, whole, config.tied, config.notes, fingerprint)


def finite(weights: WeightFile, name: str) -> Floats:
    """The tensor ``name`` as float32, ``WeightFileError`` where a number of it is not finite."""
    array = weights.as_float32(name)
    if not all_finite(array, "F32"):
        raise WeightFileError(f"{weights.path}: tensor {weights.shown(name)!r} holds NaN or infinity")
    return array


class _Half(NamedTuple):
    name: str
    array: Floats


def _read_peft(weights: WeightFile, config: LoraConfig) -> tuple[dict[str, LowRank], dict[str, Whole]]:
    halves: dict[tuple[str, str], dict[str, _Half]] = {}
    biases: dict[str, _Half] = {}
    whole: dict[str, Whole] = {}
    spoken: set[str] = set()  # names of adapters: files with several are of a checkpoint in training
    for name in weights:
        module = _match(_HALF, name) or _match(_TABLE, name)
        kind = "weight"
        if module is not None:
            stem, half, adapter, *rest = module.groups()
            table, kind = not rest, (rest or [kind])[0]
        elif "lora_" in name:
            dora = ", which use_dora adds" if "lora_magnitude_vector" in name else ""
            raise WeightFileError(f"{weights.path}: tensor {name!r}{dora} is not supported")
        else:
            full = _match(_WHOLE, name)
            if full is None:
                raise WeightFileError(f"{weights.path}: tensor {name!r} is neither part of a LoRA nor a weight or bias")
            stem, adapter, kind = full.groups()
        if adapter is not None:
            spoken.add(adapter)
        if module is None:
            target = f"{stem}.{kind}"
            _once(weights, whole, target, name, whole[target].where if target in whole else "")
            whole[target] = Whole(f"{weights.path}: tensor {name!r}", finite(weights, name))
        elif kind == "bias":
            if half != "B" or stem in biases:
                raise WeightFileError(f"{weights.path}: tensor {name!r} is not supported")
            biases[stem] = _Half(name, finite(weights, name))
        else:
            pair = halves.setdefault((stem, "table" if table else "layer"), {})
            _once(weights, pair, half, name, pair[half].name if half in pair else "")
            pair[half] = _Half(name, finite(weights, name))
    if len(spoken) > 1:
        raise WeightFileError(f"{weights.path}: tensors of several adapters: {', '.join(sorted(spoken)[:5])}")
    low: dict[str, LowRank] = {}
    for (stem, what), pair in halves.items():
        if f"{stem}.weight" in low:
            raise WeightFileError(f"{weights.path}: {stem!r} has a LoRA as a layer and one as a table")
        low[f"{stem}.weight"] = _peft_pair(weights, config, stem, pair, what == "table")
    for stem, half in biases.items():
        before = low.get(f"{stem}.weight")
        if before is None or half.array.ndim != 1:
            raise WeightFileError(
                f"{weights.path}: tensor {half.name!r} of shape {list(half.array.shape)}, expected one dimension and "
                "a lora_A and lora_B beside it"
            )
        # one column, whose every number is scaled and added
        one = np.ones((1, 1), np.float32)
        low[f"{stem}.bias"] = LowRank(f"{weights.path}: tensor {half.name!r}", one, half.array[:, None], before.scale)
    if not low and not whole:
        raise WeightFileError(f"{weights.path}: there are no tensors")
    return low, whole


def _match(pattern: re.Pattern[str], name: str) -> re.Match[str] | None:
    return pattern.fullmatch(name.removeprefix(_PREFIX))


def _once(weights: WeightFile, found: Mapping[str, Any], key: str, name: str, before: str) -> None:
    if key in found:
        raise WeightFileError(f"{weights.path}: tensor {name!r} is there a second time, as {before}")


def _peft_pair(weights: WeightFile, config: LoraConfig, stem: str, pair: Mapping[str, _Half], table: bool) -> LowRank:
    name = next(iter(pair.values())).name
    if len(pair) != 2:
        missing = "A" if "B" in pair else "B"
        raise WeightFileError(f"{weights.path}: tensor {name!r} is there without its lora_{missing}")
    a, b = pair["A"].array, pair["B"].array
    where = f"{weights.path}: tensors {pair['A'].name!r} and {pair['B'].name!r}"
    rank = check_pair(where, a, b)
    expected = config.rank(stem)
    if rank != expected:
        raise WeightFileError(f"{where} have the rank {rank}, but {config.path} says {expected}")
    scale = config.scale(stem)
    if table:  # of words: the change is a^T b^T
        return LowRank(where, _turned(b), _turned(a), scale)
    return LowRank(where, a, b, scale)


def check_pair(where: str, a: Floats, b: Floats) -> int:
    """The rank of ``a`` (r, in) and ``b`` (out, r); ``WeightFileError`` where they have none, or two."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or not a.size or not b.size:
        raise WeightFileError(
            f"{where} have shapes {list(a.shape)} and {list(b.shape)}, expected [r, inputs] and [outputs, r]"
        )
    return a.shape[0]


def _turned(array: Floats) -> Floats:
    return np.ascontiguousarray(array.T)


# ---- GGUF -----------------------------------------------------------------------------------------------------------


def _open_gguf(file: GgufFile) -> GgufAdapter:
    fields = file.fields

    def must(key: str, right: Callable[[Any], bool], expected: str) -> Any:
        value = fields.get(key)
        if not right(value):
            text = "missing" if value is None else repr(value)[:100]
            raise WeightFileError(f"{file.path}: {key} is {text}, expected {expected}")
        return value

    must("general.type", lambda value: isinstance(value, str) and value == "adapter", "'adapter'")
    must("adapter.type", lambda value: isinstance(value, str) and value == "lora", "'lora'")
    architecture = must("general.architecture", lambda value: isinstance(value, str), "a name")
    alpha = must(
        "adapter.lora.alpha",
        lambda value: value is None or (type(value) in (int, float) and abs(value) < 1e30), "a finite number",
    )  # fmt: skip
    for key in fields:
        if key.startswith("adapter.") and key not in _GGUF_FACTS:
            raise WeightFileError(f"{file.path}: {key[:100]!r} asks for what is not supported")
    halves: dict[str, set[str]] = {}
    whole = []
    for name in file:
        stem, dot, half = name.rpartition(".")
        if dot and half in ("lora_a", "lora_b"):
            halves.setdefault(stem, set()).add(half)
        elif name.endswith("_norm.weight"):
            whole.append(name)
        else:
            raise WeightFileError(f"{file.path}: tensor {name[:200]!r}, expected names that end in .lora_a or .lora_b")
    for stem, found in halves.items():
        if len(found) != 2:
            there = found.pop()
            other = "lora_b" if there == "lora_a" else "lora_a"
            raise WeightFileError(f"{file.path}: tensor {f'{stem}.{there}'[:200]!r} is there without its {other}")
    if not halves and not whole:
        raise WeightFileError(f"{file.path}: there are no tensors")
    return GgufAdapter(file, architecture, float(alpha or 0.0), tuple(halves), tuple(whole))
