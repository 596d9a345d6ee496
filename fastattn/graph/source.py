# SPDX-License-Identifier: MIT
"""How a family gets its weights: it asks for layers by name, and whoever has them answers.

A family's page runs against a ``Source``. For a checkpoint it runs twice: against a ``Plan``, which notes names
and shapes, so that everything missing, misshaped or unknown is told before a byte is read; then against a
``Checkpoint``, which reads and packs. So a page asks and records, and does no arithmetic on what it gets.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..loaders import WeightFile
from ..loaders.errors import WeightFileError
from ..loaders.weightfile import BLOCK_DTYPES
from ..quants import QUANT_TYPES, BlockRows, can_be_joined, pack_blocks
from ..weights import PackedLinear, pack_rows
from .banks import Bank, bank_bias, bank_blocks, bank_rows, check_count, form_of
from .config import ConfigReader
from .layout import Layout

__all__ = [
    "AS_STORED",
    "Checkpoint",
    "Derivation",
    "Floats",
    "Layout",
    "Norm",
    "Plan",
    "Product",
    "Source",
    "TensorReport",
    "check_tensors",
    "listed",
    "touch",
    "stored_name",
]

Floats = np.ndarray[Any, np.dtype[np.float32]]
T = TypeVar("T")

_PAGE = 4096
_KEPT = {"BF16": "bfloat16", "F16": "float16"}

AS_STORED = "stored"
"""The storage type of models whose layers keep, each for itself, the halves and the blocks that the file has: of all
else float32."""

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
        """
        layers = [names] if isinstance(names, str) else names
        sizes = (outputs,) * len(layers) if isinstance(outputs, int) else tuple(outputs)
        parts = tuple(
            (name, size, (f"{name}.bias",) if bias is True else tuple(bias or ()))
            for name, size in zip(layers, sizes, strict=True)
        )
        product = Product("+".join(layers), parts, inputs, tied, dtype, layout)
        asked = "layer", sizes, inputs, "bias" if bias else "no bias", dtype, layout
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


class _OfFile(Source):
    """Over the tensors of a checkpoint."""

    def __init__(
        self, config: ConfigReader, weights: WeightFile, dtype: str, num_threads: int | None, head: str | None = None
    ) -> None:
        super().__init__(config, dtype, num_threads, head)
        self.weights = weights
        """Where everything is read from."""

    def has(self, name: str) -> bool:
        return stored_name(self.weights, name) is not None

    @property
    def converted(self) -> bool:
        return self.weights.format == "gguf"

    @property
    def adds_ones(self) -> bool:
        """Whether gains that are one more than what files of Hugging Face have get it here."""
        return not self.converted

    def layout_of(self, product: Product) -> Layout | None:
        """How the file has a product, where not in order."""
        layout = product.layout
        return None if layout is None or (self.converted and not layout.everywhere) else layout

    def outputs(self, name: str, inputs: int) -> int | None:
        for part, rest in (("weight", (inputs,)), ("bias", ())):
            stored = stored_name(self.weights, f"{name}.{part}")
            if stored is not None:
                shape = self.weights.shape(stored)
                return shape[0] if len(shape) == 1 + len(rest) and shape[1:] == rest else None
        return None


class Plan(_OfFile):
    """Notes what is asked for; what it returns stands for nothing and must not be computed with."""

    def __init__(self, config: ConfigReader, weights: WeightFile, head: str | None = None) -> None:
        super().__init__(config, weights, "float32", 1, head)
        self.requests: dict[tuple[str, ...], tuple[int, ...]] = {}
        """Full names under which a tensor may lie, the first that is stored -> shape."""
        self._shapes: dict[str, tuple[int, ...]] = {}

    def once(self, key: str, asked: tuple[Any, ...], make: Callable[[], T]) -> T:
        made = make()  # each time: what differs is told by the name of a tensor, where it has one
        return super().once(key, asked, lambda: made)

    def _ask(self, candidates: Sequence[str | None], shape: tuple[int, ...]) -> None:
        names = tuple(name for name in candidates if name is not None)
        for name in names:  # all of them stand for the same values
            before = self._shapes.setdefault(name, shape)
            if before != shape:
                raise ValueError(
                    f"{self.config.path}: tensor {name!r} is asked for as {list(before)} and as {list(shape)}"
                )
        self.requests[names] = shape

    def _linear(self, product: Product) -> PackedLinear:
        layout = self.layout_of(product)
        for name, size, biases in product.parts:
            shape = (size, product.inputs) if layout is None else layout.shape(size, product.inputs)
            self._ask((f"{name}.weight", product.tied), shape)
            if biases:
                self._ask(biases, (size,))
        return None  # type: ignore[return-value]

    def _experts(self, bank: Bank, dtype: str | None) -> PackedLinear:
        form = form_of(bank, self.weights)
        check_count(bank, form, self.weights)
        for name in form.names:
            for e in range(bank.number if form.apart else 1):
                self._ask((name.format(e=e),), bank.shape(form))
        for name in form.biases:
            self._ask((name,), (bank.number, bank.outputs // len(form.biases)))
        return None  # type: ignore[return-value]

    def _norm(self, name: str, size: int, bias: bool, plus_one: bool) -> Norm:
        self._ask((f"{name}.weight",), (size,))
        if bias:
            self._ask((f"{name}.bias",), (size,))
        return None  # type: ignore[return-value]

    def _table(self, name: str, shape: tuple[int, ...], tied: str | None) -> Floats:
        self._ask((name, tied), shape)
        return None  # type: ignore[return-value]

    def _derive(self, wanted: Derivation) -> Mapping[str, Floats]:
        for name, shape in wanted.tensors.items():
            self._ask((name,), shape)
        return _Nothing()


class _Nothing(dict[str, Any]):
    """Stands for derived arrays in a plan: any name is there, with nothing under it."""

    def __missing__(self, key: str) -> Any:
        return None


class Checkpoint(_OfFile):
    """Reads tensors and packs layers.

    Parameters
    ----------
    activations
        How inputs of layers of blocks are rounded: one of ``quants.ACTIVATIONS``.
    """

    def __init__(
        self,
        config: ConfigReader,
        weights: WeightFile,
        dtype: str,
        num_threads: int | None,
        head: str | None = None,
        activations: str = "int16",
    ) -> None:
        super().__init__(config, weights, dtype, num_threads, head)
        self.activations = activations
        self.dequantized: dict[str, list[str]] = {}
        """Types of blocks -> tensors whose layers became float32, since there are no panels of them."""
        self._tables_of: dict[str, PackedLinear] = {}  # names in the file of tables that are blocks

    def _stored(self, *candidates: str | None) -> str:
        """The name under which one of these full names is stored."""
        for name in candidates:
            stored = None if name is None else stored_name(self.weights, name)
            if stored is not None:
                return stored
        raise ValueError(f"{self.weights.path}: missing tensor {candidates[0]!r}")

    def _read(self, *candidates: str | None) -> Floats:
        name = self._stored(*candidates)
        array = self.weights.as_float32(name)
        self.weights.forget(name)
        return array

    def _linear(self, product: Product) -> PackedLinear:
        names = [self._stored(f"{name}.weight", product.tied) for name, _, _ in product.parts]
        biases = [self._read(*candidates) for _, _, candidates in product.parts if candidates]
        bias = None if not biases else biases[0] if len(biases) == 1 else np.concatenate(biases)
        kind = product.dtype or self.dtype
        layout = self.layout_of(product)
        if kind == AS_STORED:
            if len(names) == 1 and bias is None and names[0] in self._tables_of:
                return self._tables_of[names[0]]
            blocks = self._blocks(names, [size for _, size, _ in product.parts]) if layout is None else None
            if blocks is not None:
                return self._pack_blocks(blocks, product.inputs, bias, names)
            kind = self._kept_type(names)
        if layout is None:
            read = _rows_of([self.weights.row_reader(name) for name in names], [size for _, size, _ in product.parts])
        else:
            rows = layout.rows(self.weights.as_float32(names[0]))
            read = _rows_of([lambda start, stop: rows[start:stop]], [len(rows)])
            if bias is not None and layout.order is not None:
                bias = bias[layout.order]
        packed = pack_rows(
            product.outputs, product.inputs, read, bias, kind, activations=self.activations,
            num_threads=self.num_threads,
        )  # fmt: skip
        for name in names:
            self.weights.forget(name)
        return packed

    def _kept_type(self, names: Sequence[str]) -> str:
        """How the layers of these tensors are stored ``AS_STORED``: as they are where all are halves of one kind."""
        stored = [self.weights.dtype(name) for name in names]
        for name, kind in zip(names, stored, strict=True):
            if kind in BLOCK_DTYPES:
                self.dequantized.setdefault(kind, []).append(self.weights.shown(name))
        return _KEPT.get(stored[0], "float32") if len(set(stored)) == 1 else "float32"

    def _blocks(self, names: Sequence[str], sizes: Sequence[int]) -> list[BlockRows] | None:
        """The rows of these tensors as they are; None where not all of them are blocks that panels are made of."""
        kinds = [self.weights.dtype(name) for name in names]
        if any(kind not in QUANT_TYPES for kind in kinds) or not can_be_joined(list(zip(kinds, sizes, strict=True))):
            return None
        parts = []
        for name, size, kind in zip(names, sizes, kinds, strict=True):
            read = self.weights.block_reader(name)
            if read is None:
                return None
            parts.append(BlockRows(kind, size, read, self.weights.shown(name)))
        return parts

    def _pack_blocks(
        self, parts: Sequence[BlockRows], inputs: int, bias: Floats | None, names: Sequence[str]
    ) -> PackedLinear:
        try:
            packed = pack_blocks(parts, inputs, bias, self.activations, self.num_threads)
        except ValueError as error:
            raise WeightFileError(f"{self.weights.path}: tensor {error}") from None
        for name in names:
            self.weights.forget(name)
        return packed

    def _experts(self, bank: Bank, dtype: str | None) -> PackedLinear:
        form = form_of(bank, self.weights)
        names = [name.format(e=e) for e in range(bank.number if form.apart else 1) for name in form.names]
        bias = bank_bias([self._read(name) for name in form.biases], bank, form) if form.biases else None
        kind = dtype or self.dtype
        if kind == AS_STORED:
            blocks = bank_blocks(self.weights, bank, form)
            if blocks is not None and blocks[0] in QUANT_TYPES:
                shown = self.weights.shown(names[0])
                return self._pack_blocks([BlockRows(blocks[0], bank.width, blocks[1], shown)], bank.inputs, bias, names)
            kind = self._kept_type(names)
        read = bank_rows(self.weights, bank, form)
        packed = pack_rows(
            bank.width, bank.inputs, read, bias, kind, activations=self.activations, num_threads=self.num_threads
        )
        for name in names:
            self.weights.forget(name)
        return packed

    def _norm(self, name: str, size: int, bias: bool, plus_one: bool) -> Norm:
        gain = self._read(f"{name}.weight")
        if plus_one and self.adds_ones:
            gain = gain + np.float32(1)
        return Norm(gain, self._read(f"{name}.bias") if bias else None)

    def _table(self, name: str, shape: tuple[int, ...], tied: str | None) -> Floats:
        return self._read(name, tied)

    def _words(self, name: str, shape: tuple[int, ...], tied: str | None) -> Floats | PackedLinear:
        stored = self._stored(name, tied)
        blocks = self._blocks([stored], [shape[0]]) if self.dtype == AS_STORED and len(shape) == 2 else None
        if blocks is None:
            return self._table(name, shape, tied)
        self._tables_of[stored] = self._pack_blocks(blocks, shape[1], None, [stored])
        return self._tables_of[stored]

    def _derive(self, wanted: Derivation) -> Mapping[str, Floats]:
        return wanted.make(*map(self._read, wanted.tensors))


def _rows_of(readers: Sequence[Callable[[int, int], Floats]], sizes: Sequence[int]) -> Callable[[int, int], Floats]:
    """A reader of the rows of several tensors, one behind the other."""
    if len(readers) == 1:
        return readers[0]

    def read(start: int, stop: int) -> Floats:
        parts, first = [], 0
        for reader, size in zip(readers, sizes, strict=True):
            low, high = max(start - first, 0), min(stop - first, size)
            if low < high:
                parts.append(reader(low, high))
            first += size
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return read


def check_tensors(
    plan: Plan, weights: WeightFile, ignorable: re.Pattern[str], strict: bool = True
) -> tuple[TensorReport, list[str]]:
    """Hold what was planned against what is stored: the report, and tensors that this architecture does not know.

    Raises
    ------
    ValueError
        Tensors are missing, of another shape, or not F32, F16 or BF16; or, with ``strict``, neither used nor
        ``ignorable`` by their full names. They are named.
    """
    found: dict[tuple[str, ...], str] = {}
    missing = []
    for candidates in plan.requests:
        stored = next((s for s in (stored_name(weights, name) for name in candidates) if s is not None), None)
        if stored is None:
            missing.append(candidates[0])
        else:
            found[candidates] = stored
    if missing:
        raise ValueError(f"{weights.path}: missing {listed([weights.shown(name) for name in missing])}")
    for candidates, shape in plan.requests.items():
        info = weights.info(found[candidates])
        if info.shape != shape:
            raise ValueError(
                f"{info.file}: tensor {weights.shown(found[candidates])!r} has shape {list(info.shape)}, but "
                f"config.json asks for {list(shape)}"
            )
        if info.dtype not in weights.floats:
            raise ValueError(
                f"{info.file}: tensor {weights.shown(found[candidates])!r} has dtype {info.dtype}, expected "
                f"{', '.join(weights.floats)}"
            )
    used = set(found.values())
    # A tensor that is stored a second time under the name of its twin is no surprise.
    twins = {name for candidates in plan.requests for name in candidates}
    rest = [name for name in weights if name not in used]
    unknown = [name for name in rest if name not in twins and not ignorable.fullmatch(name)]
    if unknown and strict:
        names = listed([weights.shown(name) for name in unknown])
        raise ValueError(
            f"{weights.path}: this architecture has no use for {names}; strict=False leaves them out and lists them in "
            "the model's notes"
        )
    return TensorReport(tuple(name for name in weights if name in used), tuple(rest)), unknown


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
