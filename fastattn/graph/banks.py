# SPDX-License-Identifier: MIT
"""Experts: layers of one shape that are packed as one product, in which each begins at a panel of its own.

Files have them in several forms: a tensor for each expert, one tensor of all, gates and what they gate in one or in
two, inputs by outputs. A page says which forms there may be, and a source takes the one that the file has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .layout import Layout

if TYPE_CHECKING:
    from ..loaders.weightfile import WeightFile

__all__ = ["Bank", "Form", "bank_bias", "bank_blocks", "bank_rows", "check_count", "form_of", "span_of"]

_Floats = np.ndarray[Any, np.dtype[np.float32]]
_Read = Callable[[int, int], _Floats]

_PANELS = 32  # outputs: whole panels at multiples of 64 bytes in every storage type; fa_expert_span has it too


def span_of(outputs: int) -> int:
    """Outputs that an expert of so many takes in a product."""
    return -(-outputs // _PANELS) * _PANELS


class Form(NamedTuple):
    """One way in which files have the experts' layers."""

    names: tuple[str, ...]
    """Full names of tensors (experts, outputs, inputs), whose outputs stand one behind the other."""
    biases: tuple[str, ...] = ()
    """Likewise (experts, outputs)."""
    layout: Layout | None = None
    """How one tensor has the matrix of an expert, where not as (outputs, inputs) in the order of the page."""

    apart: bool = False
    """Whether each expert has tensors (outputs, inputs) of its own, ``{e}`` in their names being its number."""


class Bank(NamedTuple):
    """The layers of all experts, as they are asked for."""

    key: str
    """What messages and packed files call it."""
    number: int
    """Of experts."""
    outputs: int
    """Of each expert."""
    inputs: int
    forms: tuple[Form, ...]
    biased: bool
    counted: str
    """The key of config.json that says how many there are; "" where there is one, which has no number."""

    @property
    def width(self) -> int:
        """Outputs of the product."""
        return self.number * span_of(self.outputs)

    def shape(self, form: Form) -> tuple[int, ...]:
        """What each of a form's tensors has to be."""
        outputs = self.outputs // len(form.names)
        one = (outputs, self.inputs) if form.layout is None else form.layout.shape(outputs, self.inputs)
        return one if form.apart else (self.number, *one)


def form_of(bank: Bank, weights: WeightFile) -> Form:
    """The form of which some tensors are stored; where there are none, to be missed by name, the first, or GGUF's, the
    last.
    """
    for form in bank.forms:
        ends = (0, bank.number - 1) if form.apart else (0,)
        if any(name.format(e=e) in weights for name in form.names for e in ends):
            return form
    return bank.forms[-1 if weights.format == "gguf" else 0]


def check_count(bank: Bank, form: Form, weights: WeightFile) -> None:
    """``ValueError`` where ``weights`` has tensors of more or of fewer experts than config.json says.

    Before each tensor is asked for: that number may be any.
    """
    said = f"{bank.counted} is {bank.number}"
    if not form.apart:
        for name in form.names:
            info = weights.info(name) if name in weights else None
            if info is not None and len(info.shape) == 3 and info.shape[0] != bank.number:
                raise ValueError(
                    f"{info.file}: tensor {weights.shown(name)!r} has shape {list(info.shape)}, but config.json asks "
                    f"for {list(bank.shape(form))}: {said}"
                )
        return
    if not bank.counted:
        return
    found = 0
    while found <= bank.number and any(name.format(e=found) in weights for name in form.names):
        found += 1
    if found != bank.number:
        what = "missing tensor" if found < bank.number else "this architecture has no use for tensor"
        name = weights.shown(form.names[0].format(e=min(found, bank.number)))
        raise ValueError(f"{weights.path}: {what} {name!r}: {said}")


def bank_rows(weights: WeightFile, bank: Bank, form: Form) -> _Read:
    """A reader of the product's weights (bank.width, bank.inputs): zeros behind each expert's own outputs."""
    return _bank_rows(weights.row_reader, bank, form, np.zeros(bank.inputs, np.float32))


def bank_blocks(weights: WeightFile, bank: Bank, form: Form) -> tuple[str, _Read] | None:
    """The same of bytes of blocks, of the one type that all tensors have; None where they have not."""
    names = [name.format(e=e) for e in range(bank.number if form.apart else 1) for name in form.names]
    types = {weights.dtype(name) for name in names}
    if form.layout is not None or len(types) != 1 or any(weights.block_reader(name) is None for name in names):
        return None
    row = next(iter(_reader_of(weights, names[0])(0, 1)))

    def reader(name: str) -> _Read:
        return _reader_of(weights, name)

    return types.pop(), _bank_rows(reader, bank, form, np.zeros_like(row))


def _reader_of(weights: WeightFile, name: str) -> Callable[[int, int], Any]:
    read = weights.block_reader(name)
    assert read is not None
    return read


def _bank_rows(reader: Callable[[str], _Read], bank: Bank, form: Form, zero: np.ndarray[Any, Any]) -> _Read:
    """A reader of the product's rows, by what gives the reader of a tensor; ``zero``: a row of zeros."""
    expert = _expert_rows(reader, bank, form)
    span = span_of(bank.outputs)

    def read(start: int, stop: int) -> _Floats:
        parts = []
        while start < stop:
            number, first = divmod(start, span)
            last = min(span, first + stop - start)
            own = min(last, bank.outputs)
            if first < own:
                parts.append(expert(number, first, own))
            if own < last:
                parts.append(np.zeros((last - max(own, first), *zero.shape), zero.dtype))
            start += last - first
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return read


def _expert_rows(reader_of: Callable[[str], _Read], bank: Bank, form: Form) -> Callable[[int, int, int], _Floats]:
    """What gives outputs ``first`` to ``last`` of an expert."""
    size, layout = bank.outputs // len(form.names), form.layout
    if form.apart:

        def reader(name: str, number: int) -> _Read:
            return reader_of(name.format(e=number))

    else:
        readers = {name: reader_of(name) for name in form.names}
        each = bank.inputs if layout is not None and layout.transposed else size

        def reader(name: str, number: int) -> _Read:
            return lambda start, stop: readers[name](number * each + start, number * each + stop)

    def plain(number: int, first: int, last: int) -> _Floats:
        parts = []
        for i, name in enumerate(form.names):
            start, stop = max(first - i * size, 0), min(last - i * size, size)
            if start < stop:
                parts.append(reader(name, number)(start, stop))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    if layout is None:
        return plain
    kept: list[tuple[int, _Floats]] = []  # of the expert that was asked for last, which comes in pieces

    def turned(number: int, first: int, last: int) -> _Floats:
        if not kept or kept[0][0] != number:
            stored = reader(form.names[0], number)(0, layout.shape(size, bank.inputs)[0])
            kept[:] = [(number, layout.rows(stored))]
        return kept[0][1][first:last]

    return turned


def bank_bias(parts: Sequence[_Floats], bank: Bank, form: Form) -> _Floats:
    """(bank.width,) of the tensors of a form's biases."""
    bias = np.zeros((bank.number, span_of(bank.outputs)), np.float32)
    own = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
    order = None if form.layout is None else form.layout.order
    bias[:, : bank.outputs] = own if order is None else own[:, order]
    return bias.reshape(-1)
