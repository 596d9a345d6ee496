# SPDX-License-Identifier: MIT
"""How a family gets its weights: it asks for layers by name, and whoever has them answers.

A family's page runs against a ``Source``: for a checkpoint twice (``checkpoint``), for a packed file once (``packed``).
So it asks and records, and does no arithmetic on what it gets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..weights import PackedLinear
from .banks import Bank
from .config import ConfigReader
from .layout import Layout

__all__ = [
    "AS_STORED",
    "FOR_LOGITS",
    "Derivation",
    "Floats",
    "Layout",
    "Norm",
    "Product",
    "Source",
    "TensorReport",
    "listed",
    "touch",
    "stored_name",
]

Floats = np.ndarray[Any, np.dtype[np.float32]]
T = TypeVar("T")

_PAGE = 4096

AS_STORED = "stored"
"""The storage type of models whose layers keep, each for itself, the halves and the blocks that the file has: of all
else float32."""

FOR_LOGITS = "int16"
"""How inputs of blocks are rounded for logits, whatever they are for the other layers: what is lost here is lost in the
answer, and these products have a row for each answer alone."""

# How the norms of checkpoints converted from the first TensorFlow release are named.
_OLD_NAMES = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))


class Norm(NamedTuple):
    """Gain and shift of a norm, (H,) each."""

    weight: Floats
    bias: Floats | None


class Product(NamedTuple):
    """Layers that are asked for as one product."""

    key: str
    """Their names, joined by "+"."""
    parts: tuple[tuple[str, int, tuple[str, ...]], ...]
    """Name, outputs and full names under which the bias may lie, none where there is none, of each layer."""
    inputs: int
    tied: str | None
    dtype: str | None
    """Another storage type than the model's."""
    layout: Layout | None = None
    """How files of Hugging Face have it, where it is one layer."""
    activations: str | None = None
    """How inputs of blocks are rounded, where not as the model's."""

    @property
    def outputs(self) -> int:
        """Of all layers."""
        return sum(size for _, size, _ in self.parts)

    @property
    def biased(self) -> bool:
        """Whether the layers have biases."""
        return bool(self.parts[0][2])


class Derivation(NamedTuple):
    """Arrays that are asked for as what ``make`` makes of ``tensors``."""

    key: str
    tensors: Mapping[str, tuple[int, ...]]
    make: Callable[..., Mapping[str, Floats]]
    shapes: Mapping[str, tuple[int, ...]] | None


class TensorReport(NamedTuple):
    """What became of the tensors of a file."""

    used: tuple[str, ...]
    """Names of the tensors the model was made from."""
    ignored: tuple[str, ...]
    """Names of the others: heads of another task, index buffers of old versions."""


class Source(ABC):
    """What a page asks for its weights: the same object each time, made by the methods with an underscore."""

    def __init__(
        self, config: ConfigReader, dtype: str, num_threads: int | None, head: str | None = None
    ) -> None:  # fmt: skip
        self.config = config
        """The model's config.json."""
        self.dtype = dtype
        """How the weights of linear layers are stored: as ``pack_linear`` names it."""
        self.num_threads = num_threads
        self.head = head
        """The head that is wanted, "none" for the encoder alone; None where the files are to say it."""
        self._handed: dict[str, tuple[tuple[Any, ...], Any]] = {}

    def once(self, key: str, asked: tuple[Any, ...], make: Callable[[], T]) -> T:
        """What ``make`` made when ``key`` was first asked for: the same object whenever it is ``asked`` for alike.

        ``ValueError`` where it was asked for as something else, which a page does by mistake.
        """
        if key not in self._handed:
            self._handed[key] = asked, make()
        before, made = self._handed[key]
        if before != asked:
            raise ValueError(f"{self.config.path}: {key!r} is asked for as {before} and as {asked}")
        found: T = made
        return found

    @property
    def tables(self) -> list[np.ndarray[Any, Any]]:
        """The arrays of tables that were handed out, of which a call reads a few rows."""
        found = [made for asked, made in self._handed.values() if asked[0] == "table"]
        arrays = [each.arrays().values() if isinstance(each, PackedLinear) else (each,) for each in found]
        return [part for parts in arrays for part in parts]

    @property
    def made(self) -> dict[str, PackedLinear | Norm | Floats | Mapping[str, Floats]]:
        """What was handed out, which a packed file stores, by its key: names joined by "+", a norm's name, a table's,
        the key of derived arrays.
        """
        return {key: made for key, (_, made) in self._handed.items()}

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether a tensor of that full name is stored."""

    @property
    def converted(self) -> bool:
        """Whether a converter has put layers in order, and added ones to gains."""
        return False

    def offers(self, name: str) -> bool:
        """Whether that tensor can be had: a packed file knows names of tensors that were left out of it."""
        return self.has(name)

    @abstractmethod
    def outputs(self, name: str, inputs: int) -> int | None:
        """Outputs of the stored layer ``name`` of ``inputs`` inputs; None where its tensors do not say it."""

    def linear(
        self,
        names: str | Sequence[str],
        outputs: int | Sequence[int],
        inputs: int,
        *,
        bias: bool | Sequence[str] = True,
        tied: str | None = None,
        dtype: str | None = None,
        layout: Layout | None = None,
        activations: str | None = None,
    ) -> PackedLinear:
        """One packed product of the layers ``names``, their outputs side by side.

        Parameters
        ----------
        names
            Layers: tensors ``name.weight`` (outputs, inputs) and ``name.bias`` (outputs,).
        outputs
            One number for all of ``names``, or one for each.
        bias
            Whether there are biases, all or none; or full names under which the bias may lie, the first that is stored.
        tied
            Full name of a tensor with the same values, used where ``name.weight`` is not stored.
        dtype
            Another storage type than the model's.
        layout
            How files of Hugging Face have it, where ``names`` is one layer and they have it otherwise.
        activations
            Another rounding of what blocks are multiplied with than the model's: one of ``quants.ACTIVATIONS``.
        """
        layers = [names] if isinstance(names, str) else names
        sizes = (outputs,) * len(layers) if isinstance(outputs, int) else tuple(outputs)
        parts = tuple(
            (name, size, (f"{name}.bias",) if bias is True else tuple(bias or ()))
            for name, size in zip(layers, sizes, strict=True)
        )
        product = Product("+".join(layers), parts, inputs, tied, dtype, layout, activations)
        asked = "layer", sizes, inputs, "bias" if bias else "no bias", dtype, layout, activations
        return self.once(product.key, asked, lambda: self._linear(product))

    @abstractmethod
    def _linear(self, product: Product) -> PackedLinear: ...

    def experts(self, bank: Bank, dtype: str | None = None) -> PackedLinear:
        """The layers of all experts as one product; ``dtype``: another storage type than the model's."""
        return self.once(bank.key, ("experts", *bank, dtype), lambda: self._experts(bank, dtype))

    @abstractmethod
    def _experts(self, bank: Bank, dtype: str | None) -> PackedLinear: ...

    def norm(self, name: str, size: int, *, bias: bool = True, plus_one: bool = False) -> Norm:
        """``name.weight`` and ``name.bias`` (size,).

        ``plus_one``: the gain is one more than what files of Hugging Face have; in GGUF files it is there already.
        """
        return self.once(name, ("norm", size, bias, plus_one), lambda: self._norm(name, size, bias, plus_one))

    @abstractmethod
    def _norm(self, name: str, size: int, bias: bool, plus_one: bool) -> Norm: ...

    def table(self, name: str, shape: tuple[int, ...], *, tied: str | None = None) -> Floats:
        """The tensor of that full name as it is; ``tied``: another full name for the same values."""
        return self.once(name, ("table", shape), lambda: self._table(name, shape, tied))

    @abstractmethod
    def _table(self, name: str, shape: tuple[int, ...], tied: str | None) -> Floats: ...

    def words(self, name: str, shape: tuple[int, ...], *, tied: str | None = None) -> Floats | PackedLinear:
        """``table`` for whoever can take rows of a layer without a bias: its weights, where they are kept as blocks."""
        return self.once(name, ("table", shape), lambda: self._words(name, shape, tied))

    def _words(self, name: str, shape: tuple[int, ...], tied: str | None) -> Floats | PackedLinear:
        return self._table(name, shape, tied)

    def derive(
        self,
        key: str,
        tensors: Mapping[str, tuple[int, ...]],
        make: Callable[..., Mapping[str, Floats]],
        *,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> Mapping[str, Floats]:
        """Arrays that are made from ``tensors`` (full name -> shape) once, when a checkpoint is loaded.

        ``make`` gets the tensors in their order. A packed file holds what it returned, under ``key``; ``shapes`` says
        what that has to be, name by name.
        """
        wanted = Derivation(key, tensors, make, shapes)
        return self.once(key, ("derived", *tensors.items()), lambda: self._derive(wanted))

    @abstractmethod
    def _derive(self, wanted: Derivation) -> Mapping[str, Floats]: ...

    def prefix(self, prefix: str, *names: str) -> str:
        """``prefix`` where tensors lie behind it (as in a checkpoint with a head on top), else nothing.

        ``names``: of some of them; more than one, so that the message is about one tensor where only that is missing.
        """
        behind = any(self.has(prefix + name) for name in names)
        return prefix if behind and not any(self.has(name) for name in names) else ""


def stored_name(weights: Container[str], name: str) -> str | None:
    """The name under which the tensor lies in the file."""
    if name in weights:
        return name
    for new, old in _OLD_NAMES:
        if name.endswith(new) and name.removesuffix(new) + old in weights:
            return name.removesuffix(new) + old
    return None


def touch(array: np.ndarray[Any, Any]) -> None:
    """Read a byte of every page of a contiguous array, so that what is mapped is there."""
    pages = array.reshape(-1).view(np.uint8)[::_PAGE]
    if pages.size:
        pages.max()


def listed(names: Sequence[str]) -> str:
    """The first of ``names`` of tensors, and how many there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"tensor{'s' if len(names) > 1 else ''} {', '.join(repr(name) for name in names[:5])}{more}"
