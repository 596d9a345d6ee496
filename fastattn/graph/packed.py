# SPDX-License-Identifier: MIT
"""Models from packed files.

A family's page cannot tell where its weights come from: a ``Packed`` source hands out what a ``Checkpoint`` made when
the file was written, as views of the mapped file, without arithmetic or copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..loaders.errors import WeightFileError
from ..loaders.jsonfile import parse_json, parse_json_object
from ..loaders.packed import PackedFile
from ..quants import PANELS, is_quants
from ..weights import PackedLinear
from .banks import Bank
from .choice import HEADS
from .config import ConfigReader
from .source import AS_STORED, FOR_LOGITS, Derivation, Floats, Norm, Product, Source, TensorReport, stored_name

__all__ = ["Packed", "packed_head", "packed_types"]

_Array = np.ndarray[Any, Any]


class Packed(Source):
    """Serves the objects of a packed file by their keys."""

    def __init__(
        self, config: ConfigReader, packed: PackedFile, num_threads: int | None, activations: str | None = None
    ) -> None:
        super().__init__(config, packed.metadata["dtype"], num_threads, packed_head(packed))
        _check_panels(packed)
        self._activations = activations
        self._packed = packed
        self._types = _types(packed)
        self._same = _same(packed)
        self._served: set[str] = set()
        self.report = TensorReport(_names(packed, "used"), _names(packed, "ignored"))
        """What became of the tensors of the checkpoint that was packed."""
        self._used = frozenset(self.report.used)
        self._stored = self._used.union(self.report.ignored)

    def has(self, name: str) -> bool:
        return stored_name(self._stored, name) is not None

    def offers(self, name: str) -> bool:
        return stored_name(self._used, name) is not None

    def outputs(self, name: str, inputs: int) -> int | None:
        bias = self._packed.parts(name).get("bias")
        return None if bias is None or bias.ndim != 1 else bias.size

    def _parts(self, key: str, expected: Mapping[str, tuple[int, ...]] | None) -> dict[str, _Array]:
        """The arrays of ``key``; where their shapes are known, they are float32 and all of them."""
        parts = self._packed.parts(self._same.get(key, key))
        if not parts:
            raise WeightFileError(
                f"{self._packed.path}: the model needs {key!r}, which was not packed; pack the model again"
            )
        self._served.add(key)
        if expected is None:
            return parts
        if parts.keys() != expected.keys():
            raise self._wrong(key, f"has {', '.join(parts)}, expected {', '.join(expected)}")
        for part, shape in expected.items():
            array = parts[part]
            if array.dtype != np.float32 or array.shape != shape:
                found = f"is {array.dtype} of shape {list(array.shape)}"
                raise self._wrong(f"{key}/{part}", f"{found}, but config.json asks for float32 of {list(shape)}")
        return parts

    def _wrong(self, name: str, fault: str) -> WeightFileError:
        return WeightFileError(f"{self._packed.path}: {name!r} {fault}")

    def _linear(self, product: Product) -> PackedLinear:
        activations = product.activations or self._activations
        return self._layer(product.key, product.inputs, product.outputs, product.biased, product.dtype, activations)

    def _experts(self, bank: Bank, dtype: str | None) -> PackedLinear:
        return self._layer(bank.key, bank.inputs, bank.width, bank.biased, dtype, self._activations)

    def _layer(
        self, key: str, inputs: int, outputs: int, biased: bool, dtype: str | None, activations: str | None
    ) -> PackedLinear:
        parts = self._parts(key, None)
        if ("bias" in parts) is not biased:
            raise self._wrong(key, "has no bias" if biased else "has a bias that this architecture has no use for")
        kind: Any = dtype or self._types.get(key) or self.dtype  # which from_arrays checks
        try:
            return PackedLinear.from_arrays(parts, inputs, outputs, kind, activations if is_quants(kind) else None)
        except (ValueError, TypeError) as error:
            raise self._wrong(key, f"does not fit config.json: {error}") from None

    def _norm(self, name: str, size: int, bias: bool, plus_one: bool) -> Norm:
        parts = self._parts(name, {"weight": (size,), "bias": (size,)} if bias else {"weight": (size,)})
        return Norm(parts["weight"], parts.get("bias"))

    def _table(self, name: str, shape: tuple[int, ...], tied: str | None) -> Floats:
        return self._parts(name, {"table": shape})["table"]

    def _words(self, name: str, shape: tuple[int, ...], tied: str | None) -> Floats | PackedLinear:
        if is_quants(self._types.get(name)) and len(shape) == 2:
            return self._layer(name, shape[1], shape[0], False, None, FOR_LOGITS)
        return self._table(name, shape, tied)

    def _derive(self, wanted: Derivation) -> Mapping[str, Floats]:
        parts = self._parts(wanted.key, wanted.shapes)
        for part, array in parts.items():
            if array.dtype != np.float32:
                raise self._wrong(f"{wanted.key}/{part}", f"is {array.dtype}, expected float32")
        return parts

    def check_all_served(self) -> None:
        """``WeightFileError`` for what nobody asked for: config.json and the weights are not of one model."""
        rest = [key for key in self._packed.keys_of_objects() if key not in self._served]
        if rest:
            raise WeightFileError(
                f"{self._packed.path}: this architecture has no use for {', '.join(map(repr, rest[:5]))}"
                f"{f' and {len(rest) - 5} more' if len(rest) > 5 else ''}"
            )


def _names(packed: PackedFile, key: str) -> tuple[str, ...]:
    where = f"{packed.path}: __metadata__: {key}"
    try:
        names = parse_json(packed.metadata.get(key, "").encode("utf-8", "replace"), where)
    except WeightFileError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise WeightFileError(f"{where} is not a list of names")
    return tuple(names)


def _types(packed: PackedFile) -> Mapping[str, Any]:
    """Key -> how its layer is stored, in files whose layers are stored in several ways."""
    if packed.metadata["dtype"] != AS_STORED:
        return {}
    where = f"{packed.path}: __metadata__: dtypes"
    return parse_json_object(packed.metadata.get("dtypes", "").encode("utf-8", "replace"), where)


def _same(packed: PackedFile) -> Mapping[str, Any]:
    """Key of an object -> the key of another one that has its arrays."""
    where = f"{packed.path}: __metadata__: same"
    found = parse_json_object(packed.metadata.get("same", "{}").encode("utf-8", "replace"), where)
    if not all(isinstance(key, str) for key in found.values()):
        raise WeightFileError(f"{where} is not a mapping of names")
    return found


def _check_panels(packed: PackedFile) -> None:
    """``WeightFileError`` where blocks are laid out otherwise than this library reads them."""
    found = packed.metadata.get("block_panels", PANELS)
    if found != PANELS:
        raise WeightFileError(
            f"{packed.path}: its blocks are in panels of format {found[:40]!r}, but this library reads format "
            f"{PANELS!r}: pack the model again"
        )


def packed_types(packed: PackedFile) -> set[Any]:
    """How layers are stored."""
    return set(_types(packed).values()) or {packed.metadata["dtype"]}


def packed_head(packed: PackedFile) -> str | None:
    """The head that was packed, "none" for the encoder alone; None in files that do not say it, which are older."""
    head = packed.metadata.get("head")
    if head is not None and head not in HEADS:
        raise WeightFileError(f"{packed.path}: head is {head[:40]!r}, expected one of {', '.join(HEADS)}")
    return head
