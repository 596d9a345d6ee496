# SPDX-License-Identifier: MIT
"""Weights with adapters in them: read as those of a checkpoint are, changed in float32, and packed as the model is.

Only layers that an adapter changes are read and packed; all others are the objects that the model has already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .. import _core, ops
from ..loaders.errors import WeightFileError
from ..loaders.lora import LowRank, Whole
from ..loaders.packed import PackedFile
from ..loaders.weightfile import TensorInfo, WeightFile
from ..quants import is_quants, unpack_rows
from ..weights import PackedLinear, pack_linear
from .banks import Bank, form_of
from .checkpoint import Checkpoint, Plan
from .config import ConfigReader
from .packed import Packed
from .source import Derivation, Floats, Layout, Norm, Product, Source, stored_name

__all__ = [
    "Adapted", "Asked", "Change", "Merged", "Unpacked", "asked_of_checkpoint", "asked_of_packed", "check_change",
]  # fmt: skip

Change = LowRank | Whole
_Read = Callable[[int, int], Floats]

_PIECE = 1 << 20  # numbers that are changed together
_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


class Asked(NamedTuple):
    """What a page has asked for, tensor by tensor, as it wants them: in its order, outputs by inputs."""

    source: Source
    """What says which tensors there are."""
    weights: WeightFile
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    """Full name -> the name under which it is stored, and the shape the page wants."""
    others: Mapping[str, Sequence[str]]
    """Full name -> tensors whose values it takes where it is not stored itself."""
    layouts: Mapping[str, Layout]
    """Full names of weights and biases that files of Hugging Face have in another order, and GGUF files perhaps too."""
    raised: Collection[str]
    """Full names of gains that are one more than what files of Hugging Face have."""
    unordered: Collection[str]
    """Those of ``layouts`` that ``weights`` has in the other order."""
    lowered: bool
    """Whether ``weights`` has the gains without that one."""

    def changed(self, name: str, change: Change, *, converted: bool) -> Change:
        """As the page wants it: ``change``, which is as files of Hugging Face have it, or GGUF files (``converted``).

        Errors: ``check_change``.
        """
        shape, layout = self.tensors[name][1], self.layouts.get(name)
        if layout is not None and converted and not layout.everywhere:
            layout = None
        turned = layout is not None and isinstance(change, Whole) and len(shape) == 2
        check_change(change, layout.shape(*shape) if turned and layout is not None else shape)
        if isinstance(change, Whole):
            return change._replace(array=_in_order(change.array, layout, name in self.raised and not converted))
        return change if layout is None or layout.order is None else change._replace(b=change.b[layout.order])


def _in_order(stored: Floats, layout: Layout | None, lowered: bool) -> Floats:
    """What a page wants, of a whole tensor of that layout; ``lowered``: a gain without one."""
    if layout is not None and stored.ndim == 2:
        return layout.rows(stored)
    if layout is not None and layout.order is not None:
        return stored[layout.order]
    return stored + np.float32(1) if lowered else stored


def asked_of_checkpoint(
    config: ConfigReader, weights: WeightFile, head: str | None, trace: Callable[[Source], Any]
) -> Asked:
    """What ``trace``, which runs the page, asks of a checkpoint that has all of it."""
    plan = _Planned(config, weights, head)
    trace(plan)
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for candidates, shape in plan.requests.items():
        stored = next(s for s in (stored_name(weights, name) for name in candidates) if s is not None)
        tensors[candidates[0]] = stored, plan.wanted.get(candidates[0], shape)
    others = _others(plan, plan.requests)
    return Asked(plan, weights, tensors, others, plan.layouts, plan.raised, plan.unordered, plan.adds_ones)


def asked_of_packed(config: ConfigReader, packed: PackedFile, trace: Callable[[Source], Any]) -> Asked:
    """What ``trace`` asks of a packed file."""
    source = _Recorded(config, packed, None)
    trace(source)
    tensors = {candidates[0]: (candidates[0], shape) for candidates, shape in source.requests.items()}
    others = _others(source, source.requests)
    weights = Unpacked(packed, source.places)
    return Asked(source, weights, tensors, others, source.layouts, source.raised, (), False)


class _Planned(Plan):
    """Notes how files of Hugging Face have what is asked for."""

    def __init__(self, config: ConfigReader, weights: WeightFile, head: str | None) -> None:
        super().__init__(config, weights, head)
        self.layouts: dict[str, Layout] = {}
        self.raised: set[str] = set()
        self.unordered: set[str] = set()
        self.wanted: dict[str, tuple[int, ...]] = {}

    def _linear(self, product: Product) -> PackedLinear:
        self.layouts |= _layouts(product)
        if self.layout_of(product) is not None:
            self.unordered |= _layouts(product).keys()
        if product.layout is not None:
            self.wanted[f"{product.parts[0][0]}.weight"] = (product.outputs, product.inputs)
        return super()._linear(product)

    def _norm(self, name: str, size: int, bias: bool, plus_one: bool) -> Norm:
        if plus_one:
            self.raised.add(f"{name}.weight")
        return super()._norm(name, size, bias, plus_one)


def _layouts(product: Product) -> dict[str, Layout]:
    """The layout by the full names of a layer's weight and bias."""
    if product.layout is None:
        return {}
    name, _, biases = product.parts[0]
    return dict.fromkeys((f"{name}.weight", *biases[:1]), product.layout)


def _others(source: Source, requests: Collection[tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Tied tensors: a name that the file does not have, and the others that stand for it."""
    return {names[0]: names[1:] for names in requests if len(names) > 1 and not source.has(names[0])}


# ---- tensors of packed files ----------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where a tensor is in a packed file: rows of a layer, or an array."""

    made: PackedLinear | Floats | None
    """None for what is there only as what was made from it."""
    rows: slice
    shape: tuple[int, ...]
    dtype: str


def _stored_dtype(packed: PackedLinear) -> str:
    """What a file would say of its weights; of blocks what they are read as."""
    return "F32" if is_quants(packed.dtype) else _DTYPES.get(packed.dtype, "I8")


class _Recorded(Packed):
    """Notes which tensors were asked for, and where they are."""

    def __init__(self, config: ConfigReader, packed: PackedFile, num_threads: int | None) -> None:
        super().__init__(config, packed, num_threads)
        self.requests: dict[tuple[str, ...], tuple[int, ...]] = {}
        self.places: dict[str, _Place] = {}
        self.layouts: dict[str, Layout] = {}
        self.raised: set[str] = set()

    def _note(
        self, names: Sequence[str | None], made: Any, shape: tuple[int, ...], first: int = 0, dtype: str = "F32"
    ) -> None:
        found = tuple(name for name in names if name is not None)
        self.requests[found] = shape
        rows = slice(first, first + (shape[0] if shape else 0))
        self.places.setdefault(found[0], _Place(made, rows, shape, dtype))

    def _linear(self, product: Product) -> PackedLinear:
        packed, first = super()._linear(product), 0
        self.layouts |= _layouts(product)
        dtype = _stored_dtype(packed)
        for name, size, biases in product.parts:
            self._note((f"{name}.weight", product.tied), packed, (size, product.inputs), first, dtype)
            if biases:
                self._note(biases, packed.bias, (size,), first)
            first += size
        return packed

    def _norm(self, name: str, size: int, bias: bool, plus_one: bool) -> Norm:
        norm = super()._norm(name, size, bias, plus_one)
        if plus_one:
            self.raised.add(f"{name}.weight")
        self._note((f"{name}.weight",), norm.weight, (size,))
        if bias:
            self._note((f"{name}.bias",), norm.bias, (size,))
        return norm

    def _table(self, name: str, shape: tuple[int, ...], tied: str | None) -> Floats:
        table = super()._table(name, shape, tied)
        self._note((name, tied), table, shape)
        return table

    def _words(self, name: str, shape: tuple[int, ...], tied: str | None) -> Floats | PackedLinear:
        words = super()._words(name, shape, tied)
        if isinstance(words, PackedLinear):  # else it is noted as a table
            self._note((name, tied), words, shape, dtype=_stored_dtype(words))
        return words

    def _derive(self, wanted: Derivation) -> Mapping[str, Floats]:
        for name, shape in wanted.tensors.items():
            self._note((name,), None, shape)
        return super()._derive(wanted)


class Unpacked(WeightFile):
    """The tensors of a packed file as a checkpoint of its storage types has them."""

    def __init__(self, packed: PackedFile, places: Mapping[str, _Place]) -> None:
        infos = {name: TensorInfo(place.dtype, place.shape, packed.path) for name, place in places.items()}
        super().__init__(packed.path, infos, {})
        self._places = dict(places)

    def _read(self, name: str) -> Floats:
        return self.row_reader(name)(0, self.shape(name)[0])

    def as_float32(self, name: str) -> Floats:
        return self._read(name)

    def row_reader(self, name: str) -> _Read:
        self.info(name)
        place = self._places[name]
        if place.made is None or place.dtype == "I8":
            what = "of int8" if place.made is not None else "only what was made of it"
            raise WeightFileError(
                f"{self.path}: of tensor {name!r} the packed file has {what}, which no adapter can be put into: load "
                "the checkpoint, or pack it with dtype='bfloat16'"
            )
        if isinstance(place.made, PackedLinear) and is_quants(place.made.dtype):
            layer, first = place.made, place.rows.start
            return lambda start, stop: unpack_rows(layer, first + start, first + stop)
        if isinstance(place.made, PackedLinear):
            return partial(_unpacked_rows, place.made, place.rows.start)
        array = place.made[place.rows]
        return lambda start, stop: array[start:stop]


def _unpacked_rows(packed: PackedLinear, first: int, start: int, stop: int) -> Floats:
    """Rows of a layer's weights, out of panels of 16 outputs each."""
    start, stop = first + start, first + stop
    panels = packed.panels[start // 16 : -(-stop // 16)]
    rows = np.ascontiguousarray(panels.swapaxes(1, 2)).reshape(-1, panels.shape[1])
    rows = rows[start % 16 : start % 16 + stop - start]
    if rows.dtype == np.float32:
        return rows
    out = np.empty(rows.shape, np.float32)
    _core.convert(out, rows)
    return out


# ---- changed tensors ------------------------------------------------------------------------------------------------


class Merged(WeightFile):
    """Tensors with their changes, under the first of the names that a page asks for.

    Parameters
    ----------
    asked
        What there is.
    changes
        Full name -> what is done to it, in that order.
    num_threads
        Threads that compute; results do not depend on them.
    """

    def __init__(self, asked: Asked, changes: Mapping[str, Sequence[Change]], num_threads: int | None) -> None:
        infos = {
            name: asked.weights.info(stored)._replace(shape=shape) for name, (stored, shape) in asked.tensors.items()
        }
        super().__init__(asked.weights.path, infos, {})
        self._asked, self._changes, self._num_threads = asked, changes, num_threads

    def _read(self, name: str) -> Floats:
        return self.as_float32(name)

    def as_float32(self, name: str) -> Floats:
        shape = self.shape(name)
        read, rows = self.row_reader(name), shape[0] if shape else 1
        step = max(_PIECE // max(math.prod(shape[1:]), 1), 1)
        out = np.empty(shape, np.float32)
        for start in range(0, rows, step):
            out[start : start + step] = read(start, min(start + step, rows))
        out.flags.writeable = False
        return out

    def row_reader(self, name: str) -> _Read:
        changes = self._changes.get(name, ())
        read: _Read | None = None
        for change in changes[max((i for i, change in enumerate(changes) if isinstance(change, Whole)), default=0) :]:
            if isinstance(change, Whole):
                read = partial(_rows_of, change.array)
            else:
                read = _low_rank(self._unchanged(name) if read is None else read, change, self._num_threads)
        return self._unchanged(name) if read is None else read

    def _unchanged(self, name: str) -> _Read:
        asked, stored = self._asked, self._asked.tensors[name][0]
        layout, lowered = asked.layouts.get(name), asked.lowered and name in asked.raised
        if name not in asked.unordered:
            layout = None
        if layout is None and not lowered:
            return asked.weights.row_reader(stored)
        return partial(_rows_of, _in_order(asked.weights.as_float32(stored), layout, lowered))

    def forget(self, name: str) -> None:
        self._asked.weights.forget(self._asked.tensors[name][0])


def _rows_of(array: Floats, start: int, stop: int) -> Floats:
    return array[start:stop]


def check_change(change: Change, shape: tuple[int, ...]) -> None:
    """``WeightFileError`` where it does not fit a tensor of ``shape``."""
    if isinstance(change, Whole):
        if change.array.shape != shape:
            raise WeightFileError(
                f"{change.where} has shape {list(change.array.shape)}, but the model's has {list(shape)}"
            )
        return
    found = [change.b.shape[0], change.a.shape[1]]
    if found != list(shape if len(shape) != 1 else (*shape, 1)):
        raise WeightFileError(
            f"{change.where} make a change of {found}, but the model's tensor has shape {list(shape)}"
        )


def _low_rank(read: _Read, change: LowRank, num_threads: int | None) -> _Read:
    """Rows of W + scale * (b a): each product, factor and sum rounded to float32 once, as PEFT does it."""
    a = pack_linear(np.ascontiguousarray(change.a.T), num_threads=num_threads)

    def rows(start: int, stop: int) -> Floats:
        weight = read(start, stop)
        delta = ops.linear(change.b[start:stop], a, num_threads=num_threads)
        factor = np.full(delta.shape, change.scale, np.float32)
        ops.gated(delta, factor, out=delta, num_threads=num_threads)
        summed: Floats = ops.add(weight.reshape(delta.shape), delta, out=delta, num_threads=num_threads)
        return summed.reshape(weight.shape)

    return rows


class Adapted(Checkpoint):
    """Packs the layers that ``changes`` name; hands out the objects of ``made`` for all others."""

    def __init__(
        self, asked: Asked, changes: Mapping[str, Sequence[Change]], made: Mapping[str, Any], dtype: str,
        num_threads: int | None, activations: str,
    ) -> None:  # fmt: skip
        merged = Merged(asked, changes, num_threads)
        super().__init__(asked.source.config, merged, dtype, num_threads, asked.source.head, activations)
        self._base, self._changed, self._kept = asked.source, changes.keys(), made

    @property
    def converted(self) -> bool:
        return self._base.converted

    @property
    def adds_ones(self) -> bool:
        return False  # ``Merged`` has done it

    def layout_of(self, product: Product) -> Layout | None:
        return None  # likewise

    def has(self, name: str) -> bool:
        return self._base.has(name)

    def offers(self, name: str) -> bool:
        return self._base.offers(name)

    def outputs(self, name: str, inputs: int) -> int | None:
        return self._base.outputs(name, inputs)

    def _same(self, key: str, *names: str) -> Any:
        """What the model has under ``key`` where none of its tensors is changed, else None."""
        return None if any(name in self._changed for name in names) else self._kept.get(key)

    def _linear(self, product: Product) -> PackedLinear:
        names = [f"{name}.weight" for name, _, _ in product.parts]
        names += [biases[0] for _, _, biases in product.parts if biases]
        same: PackedLinear | None = self._same(product.key, *names)
        return super()._linear(product) if same is None else same

    def _experts(self, bank: Bank, dtype: str | None) -> PackedLinear:
        names: list[str] = []
        if not isinstance(self._base, Packed):  # whose experts are never changed
            form = form_of(bank, self.weights)
            names += form.biases
            names += [name.format(e=e) for name in form.names for e in range(bank.number if form.apart else 1)]
        same: PackedLinear | None = self._same(bank.key, *names)
        return super()._experts(bank, dtype) if same is None else same

    def _norm(self, name: str, size: int, bias: bool, plus_one: bool) -> Norm:
        same: Norm | None = self._same(name, f"{name}.weight", f"{name}.bias")
        return super()._norm(name, size, bias, plus_one) if same is None else same

    def _table(self, name: str, shape: tuple[int, ...], tied: str | None) -> Floats:
        same: Floats | None = self._same(name, name)
        return super()._table(name, shape, tied) if same is None else same

    def _words(self, name: str, shape: tuple[int, ...], tied: str | None) -> Floats | PackedLinear:
        same: Floats | PackedLinear | None = self._same(name, name)
        return super()._words(name, shape, tied) if same is None else same

    def _derive(self, wanted: Derivation) -> Mapping[str, Floats]:
        same: Mapping[str, Floats] | None = self._same(wanted.key, *wanted.tensors)
        return super()._derive(wanted) if same is None else same
