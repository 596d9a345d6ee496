# SPDX-License-Identifier: MIT
"""The weights of a checkpoint.

A family's page runs twice: against a ``Plan``, which notes names and shapes, so that everything missing, misshaped or
unknown is told before a byte is read; then against a ``Checkpoint``, which reads and packs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from ..loaders import WeightFile
from ..loaders.errors import WeightFileError
from ..loaders.weightfile import BLOCK_DTYPES
from ..quants import QUANT_TYPES, BlockRows, can_be_joined, pack_blocks
from ..weights import PackedLinear, pack_rows
from .banks import Bank, bank_bias, bank_blocks, bank_rows, check_count, form_of
from .config import ConfigReader
from .layout import Layout
from .source import AS_STORED, FOR_LOGITS, Derivation, Floats, Norm, Product, Source, TensorReport, listed, stored_name

__all__ = ["Checkpoint", "Plan", "check_tensors"]

T = TypeVar("T")
_KEPT = {"BF16": "bfloat16", "F16": "float16"}


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
        layout, activations = self.layout_of(product), product.activations or self.activations
        if kind == AS_STORED:
            if len(names) == 1 and bias is None and names[0] in self._tables_of:
                return self._tables_of[names[0]]
            blocks = self._blocks(names, [size for _, size, _ in product.parts]) if layout is None else None
            if blocks is not None:
                return self._pack_blocks(blocks, product.inputs, bias, activations, names)
            kind = self._kept_type(names)
        if layout is None:
            read = _rows_of([self.weights.row_reader(name) for name in names], [size for _, size, _ in product.parts])
        else:
            rows = layout.rows(self.weights.as_float32(names[0]))
            read = _rows_of([lambda start, stop: rows[start:stop]], [len(rows)])
            if bias is not None and layout.order is not None:
                bias = bias[layout.order]
        packed = pack_rows(
            product.outputs, product.inputs, read, bias, kind, activations=activations, num_threads=self.num_threads
        )
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
        self, parts: Sequence[BlockRows], inputs: int, bias: Floats | None, activations: str, names: Sequence[str]
    ) -> PackedLinear:
        try:
            packed = pack_blocks(parts, inputs, bias, activations, self.num_threads)
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
                parts = [BlockRows(blocks[0], bank.width, blocks[1], shown)]
                return self._pack_blocks(parts, bank.inputs, bias, self.activations, names)
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
        self._tables_of[stored] = self._pack_blocks(blocks, shape[1], None, FOR_LOGITS, [stored])
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
