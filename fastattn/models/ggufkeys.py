# SPDX-License-Identifier: MIT
"""What a page says of the GGUF files of its family, and the fields of such a file, asked one by one.

Keys: ``gguf/constants.py`` of the PyPI package ``gguf``; what converters do to tensors: ``conversion/`` of llama.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..graph.names import Names
from ..loaders.errors import WeightFileError
from .causal import NAMES

if TYPE_CHECKING:
    from ..loaders.gguf import GgufFile

__all__ = ["BIASES", "Architecture", "Keys", "Values", "divisors", "shortest", "sliding_kinds"]

Values = dict[str, Any]

_FLOAT_MAX = float(np.finfo(np.float32).max)

_FURTHER = "nextn_predict_layers"
_OF_OTHERS = "swin_norm"  # of a tokenizer of sounds
_UNSPECIFIED = (1 << 32) - 1  # how the pooling type is saved that nobody has set

BIASES = {"attention_bias": ("attn_q.bias", "attn_qkv.bias")}
"""``Architecture.flags`` of pages that ask config.json whether queries, keys and values have biases."""


class Architecture(NamedTuple):
    """One of ``general.architecture``: which page runs it, and how its files differ from Hugging Face folders."""

    model_type: str
    family: str
    """Classes of transformers begin with it."""
    paired: bool = False
    """Whether rows of queries and keys lie as neighbouring pairs."""
    names: Names = NAMES
    """The page's, as files with a head have them."""
    roles: Mapping[str, str] = {}
    """Where a tensor's name is not the role of the page."""
    roles_of: Callable[[Keys], Mapping[str, str]] | None = None
    """``roles``, where they differ from file to file."""
    more: Callable[[Keys, Values], Values] | None = None
    """What its configuration has besides, or instead, of the common values."""
    spelling: Mapping[str, str | None] = {}
    """What config.json of the family calls a common value, where not as Llama's; None where it has no such key."""
    flags: Mapping[str, tuple[str, ...]] = BIASES
    """Keys of config.json that are true where the first layer has one of these tensors."""
    part: bool = False
    """Whether part of a head may turn."""
    folded: Mapping[str, str] = {}
    """Role -> how its matrices of each head become one: ``Converted.fold``."""
    uneven: bool = False
    """Whether heads of values may be of another size than those of keys, which the page asks for itself."""
    joined: bool = False
    """Whether the page takes queries, keys and values as one layer."""
    norms: str = "attention.layer_norm_rms_epsilon"
    """The key of the norms' epsilon."""
    mixed: bool = False
    """Whether layers without attention have 0 heads of keys."""
    common: Callable[[Keys], Values] | None = None
    """The common values of a model without attention, which has few of them."""
    tensors: Mapping[str, str] = {}
    """Parts of layers that are no weight and no bias in Hugging Face files -> the role whose full name is theirs."""
    head: str = "lm_head"
    """What files call the layer that makes logits."""
    head_bias: bool = False
    """Whether that layer has a bias."""
    top: str = "ForCausalLM"
    """What the class with that layer is called behind ``family``."""
    by_head: tuple[str, ...] = ()
    """Roles of vectors that lie in one tensor for all heads, and of which the page asks for each by itself."""


class Keys:
    """The fields of a GGUF file below its architecture, asked one by one, and which were asked for."""

    def __init__(self, file: GgufFile, architecture: str) -> None:
        self.file, self.architecture = file, architecture
        self._asked: set[str] = set()
        self.all_of_them = f"{architecture}.{_OF_OTHERS}" in file.fields
        """Whether llama.cpp itself has saved the file, with a value under every key that any model has: those that the
        architecture does not read say nothing, and 0 is what it has for values that nobody has set."""

    def error(self, key: str, value: Any, expected: str) -> WeightFileError:
        """The error for a wrong value."""
        text = "missing" if value is None else repr(value)[:100]
        return WeightFileError(f"{self.file.path}: {self.architecture}.{key} is {text}, expected {expected}")

    def fault(self, what: str) -> WeightFileError:
        """The error for a file that is wrong in itself."""
        return WeightFileError(f"{self.file.path}: {what}")

    def asked(self, key: str) -> bool:
        """Whether somebody has asked for ``key``."""
        return key in self._asked

    def get(self, key: str) -> Any:
        """What lies under ``key``, None where nothing does."""
        self._asked.add(key)
        return self.file.fields.get(f"{self.architecture}.{key}")

    def size(self, key: str, default: int | None = None, *, minimum: int = 1) -> int:
        """A count; an array of one for each layer has to have equal ones."""
        value = self.get(key)
        if isinstance(value, np.ndarray) and value.size and (value == value.flat[0]).all():
            value = value.flat[0].item()
        if default is not None and (value is None or self._unset(value)):
            return default
        if type(value) is not int or not minimum <= value < 1 << 31:
            several = isinstance(value, np.ndarray)
            raise self.error(key, value, "the same number for all layers" if several else f"a number from {minimum}")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self.get(key)
        if default is not None and (value is None or self._unset(value)):
            return default
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self.error(key, value, "a finite number")
        return shortest(float(value))

    def _unset(self, value: Any) -> bool:
        return self.all_of_them and type(value) in (int, float) and value in (0, _UNSPECIFIED)

    @property
    def further(self) -> int:
        """How many of the last layers guess tokens further ahead, which no page runs; lists by layer have them too."""
        return self.size(_FURTHER, 0, minimum=0)

    def layers(self) -> int:
        """How many layers there are before those."""
        count = self.size("block_count")
        if self.further >= count:
            raise self.error(_FURTHER, self.further, f"fewer than {count}, block_count")
        return count - self.further

    def by_layer(self, key: str, value: Any, layers: int) -> list[Any]:
        """What the array ``value`` of ``key`` says of each layer."""
        found = value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else []
        if len(found) not in (layers, layers + self.further):
            raise self.error(key, value, f"one for each of {layers} layers")
        return found[:layers]

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self.get(key)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.error(key, value, "true or false")
        return value

    def must(self, key: str, *harmless: Any) -> None:
        """Refuse a value that asks for what no page does."""
        value = self.get(key)
        if (
            value is not None
            and not self._unset(value)
            and not any(type(value) is type(one) and value == one for one in harmless)
        ):
            raise self.error(key, value, f"{' or '.join(map(str, harmless))}: other models are not supported")

    def not_asked(self) -> list[str]:
        """Keys that nobody has asked for."""
        prefix = f"{self.architecture}."
        return [key for key in self.file.fields if key.startswith(prefix) and key[len(prefix) :] not in self._asked]


def shortest(value: float) -> float:
    """Of the numbers that are this float32, the one with the fewest digits, which is what the converter had read."""
    return float(str(np.float32(value))) if abs(value) <= _FLOAT_MAX else value


def sliding_kinds(keys: Keys, layers: int, every: int) -> list[str]:
    """``layer_types`` of config.json, by flags; without them all but each n-th slide, each ``every``-th by default."""
    key = "attention.sliding_window_pattern"
    flags = keys.get(key)
    if isinstance(flags, np.ndarray):
        if flags.dtype.kind not in "biu":
            raise keys.error(key, flags, f"{layers} flags")
        slides = [bool(flag) for flag in keys.by_layer(key, flags, layers)]
    else:
        period = keys.size(key, every, minimum=0)
        slides = [period == 0 or (i + 1) % period != 0 for i in range(layers)]
    return ["sliding_attention" if flag else "full_attention" for flag in slides]


def divisors(file: GgufFile, name: str) -> list[float] | None:
    """What frequencies are divided by, as a tensor of the file says; None where it has none."""
    if name not in file:
        return None
    info = file.info(name)
    if info.dtype != "F32" or len(info.shape) != 1:
        raise WeightFileError(f"{file.path}: tensor {name!r} is {info.dtype} of {list(info.shape)}, expected (n,) F32")
    found = [float(value) for value in file[name].tolist()]
    if not all(math.isfinite(value) and value > 0 for value in found):
        raise WeightFileError(f"{file.path}: tensor {name!r} holds numbers that are not above 0 and finite")
    return found
