# SPDX-License-Identifier: MIT
"""Weights of linear layers in blocks of small integers, as GGUF files have them: put into panels, never dequantised."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastattn import _core
from fastattn._core import PackedLinear

__all__ = [
    "ACTIVATIONS", "INT4", "PANELS", "QUANT_TYPES", "BlockRows", "can_be_joined", "int4_rows", "is_quants",
    "pack_blocks", "quant_arrays", "quant_types", "unpack_rows",
]  # fmt: skip

QUANT_TYPES: Mapping[str, int] = {
    "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "IQ4_NL": 20,
    "IQ4_XS": 23, "MXFP4": 39,
}  # fmt: skip
"""Types of blocks there are panels of -> the number that GGUF has for them."""

INT4 = "int4"
"""Blocks of our own, made of float32 weights: those of Q4_1."""

_CODES: Mapping[str, int] = {**QUANT_TYPES, INT4: 3}

PANELS = "1"
"""The format of the panels, in packed files: another one is not read."""

ACTIVATIONS: Mapping[str, int] = {"int16": 2, "int8": 1}
"""How inputs are rounded -> planes of 8 bits."""

_MOST = 4  # types of one layer
_PIECE = 1 << 22  # numbers that are packed together
_TYPES = re.compile(r"[A-Z0-9_]+(\+[A-Z0-9_]+)*|int4")


class BlockRows(NamedTuple):
    """Some outputs of a layer, whose weights are blocks of one type."""

    type: str
    outputs: int
    read: Callable[[int, int], np.ndarray[Any, Any]]
    """Rows ``start`` to ``stop``: uint8 (stop - start, bytes of a row)."""
    name: str
    """What messages call them."""


def can_be_joined(parts: Sequence[tuple[str, int]]) -> bool:
    """Whether outputs of those types, so many of each, can be one layer: a panel of 16 outputs has one type."""
    joined = _joined(parts)
    return len(joined) <= _MOST and all(count % 16 == 0 for _, count in joined[:-1])


def _joined(parts: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Neighbours of one type as one."""
    joined: list[tuple[str, int]] = []
    for kind, count in parts:
        if joined and joined[-1][0] == kind:
            count += joined.pop()[1]
        joined.append((kind, count))
    return joined


def pack_blocks(
    parts: Sequence[BlockRows],
    k: int,
    bias: np.ndarray[Any, Any] | None,
    activations: str,
    num_threads: int | None = None,
) -> PackedLinear:
    """A layer of the outputs ``parts``, which ``can_be_joined``, with ``k`` inputs.

    Raises
    ------
    ValueError
        A scale is NaN or infinite; the tensor and its row are named.
    """
    joined = _joined([(part.type, part.outputs) for part in parts])
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    left = list(parts)
    for i, (kind, count) in enumerate(joined):
        shapes = _shapes(i, kind, count, k)
        arrays |= {name: _core.aligned_array(shape, np.uint8) for name, shape in shapes.items()}
        ours = []
        while left and left[0].type == kind:
            ours.append(left.pop(0))
        panels, scales = (arrays[name] for name in shapes)
        _fill(panels, scales, _CODES[kind], ours, count, k, num_threads)
    if bias is not None:
        arrays["bias"] = np.array(bias)
    dtype = "+".join(kind for kind, _ in joined)
    return _core.packed_linear(arrays, k, sum(part.outputs for part in parts), dtype, *_of(dtype, activations))


def _of(dtype: str, activations: str) -> tuple[tuple[int, ...], int]:
    return tuple(_CODES[kind] for kind in dtype.split("+")), ACTIVATIONS[activations]


def _fill(
    panels: np.ndarray[Any, Any],
    scales: np.ndarray[Any, Any],
    code: int,
    parts: Sequence[BlockRows],
    count: int,
    k: int,
    num_threads: int | None,
) -> None:
    step = max(_PIECE // max(k, 1) // 16, 1) * 16
    for start in range(0, count, step):
        stop = min(start + step, count)
        first, end = start // 16, -(-stop // 16)
        bad = _core.fill_quants(panels[first:end], scales[first:end], code, _rows(parts, start, stop), k, num_threads)
        if bad >= 0:
            row = start + bad
            for part in parts:
                if row < part.outputs:
                    raise ValueError(f"{part.name}: a block of row {row} has a scale that is NaN or infinite")
                row -= part.outputs


def _rows(parts: Sequence[BlockRows], start: int, stop: int) -> np.ndarray[Any, Any]:
    """Rows of tensors that lie one behind the other."""
    found, first = [], 0
    for part in parts:
        low, high = max(start - first, 0), min(stop - first, part.outputs)
        if low < high:
            found.append(part.read(low, high))
        first += part.outputs
    return found[0] if len(found) == 1 else np.concatenate(found)


def _shapes(i: int, kind: str, count: int, k: int) -> dict[str, tuple[int, ...]]:
    """The arrays of part ``i`` of a layer."""
    codes, scales = _core.quant_panel_bytes(_CODES[kind], k)
    more, panels, blocks = str(i) if i else "", -(-count // 16), -(-k // 32)
    return {
        f"panels{more}": (panels, blocks, codes // blocks if blocks else 0),
        f"scales{more}": (panels, scales),
    }


def int4_rows(
    n: int, k: int, read: Callable[[int, int], np.ndarray[Any, Any]], num_threads: int | None = None
) -> BlockRows:
    """Rows of float32 weights (n, k), which ``read`` gives, in 4 bits.

    Reading what cannot be in 4 bits is a ``ValueError``.
    """

    def blocks(start: int, stop: int) -> np.ndarray[Any, Any]:
        out = np.empty((stop - start, 20 * -(-k // 32)), np.uint8)
        bad = _core.quantize_int4(out, read(start, stop), num_threads)
        if bad >= 0:
            raise ValueError(
                f"weight: row {start + bad} has numbers that are NaN, infinite or beyond 65504, which dtype 'int4' "
                "cannot hold"
            )
        return out

    return BlockRows(INT4, n, blocks, "weight")


def is_quants(dtype: Any) -> bool:
    """Whether ``dtype`` is that of a layer of blocks, as in ``"Q4_K+Q6_K"``."""
    if not isinstance(dtype, str) or not _TYPES.fullmatch(dtype):
        return False
    kinds = dtype.split("+")
    return len(kinds) <= _MOST and all(kind in _CODES for kind in kinds)


def quant_types(dtype: str, activations: str | None) -> tuple[tuple[int, ...], int]:
    """What ``_core.packed_linear`` wants to know of a layer of ``dtype``.

    ``ValueError`` where ``activations`` is none of ``ACTIVATIONS`` and not None, which is ``"int16"``.
    """
    if activations is not None and (not isinstance(activations, str) or activations not in ACTIVATIONS):
        raise ValueError(f"activations: {activations!r}, expected one of {', '.join(map(repr, ACTIVATIONS))}, or None")
    return _of(dtype, activations or "int16")


def quant_arrays(dtype: str, arrays: Mapping[str, Any], n: int, k: int) -> dict[str, tuple[int, ...]]:
    """Shapes that the arrays of a layer of ``dtype`` have to have; how many outputs are of which type the arrays say.

    Raises
    ------
    ValueError
        There are no blocks of so many inputs, or the arrays are not those of ``n`` outputs.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    kinds, left = dtype.split("+"), n
    for i, kind in enumerate(kinds):
        name = f"panels{i}" if i else "panels"
        found = getattr(arrays.get(name), "shape", ())
        last = i + 1 == len(kinds)
        count = left if last else 16 * found[0] if found else 0
        if count <= 0 and n > 0 or count > left:
            raise ValueError(f"arrays[{name!r}]: shape {tuple(found)}, expected outputs of {dtype!r}, {n} in all")
        try:
            shapes |= _shapes(i, kind, count, k)
        except ValueError:
            raise ValueError(f"in_features: {k}, expected a multiple of the blocks of {kind!r}") from None
        left -= count
    return shapes


def unpack_rows(packed: PackedLinear, start: int, stop: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Weights of outputs ``start`` to ``stop`` of a layer of blocks, float32 (stop - start, K)."""
    out = np.empty((stop - start, packed.in_features), np.float32)
    arrays, first = packed.arrays(), 0
    for i, kind in enumerate(packed.dtype.split("+")):
        more = str(i) if i else ""
        panels = arrays[f"panels{more}"]
        count = min(16 * len(panels), packed.out_features - first)
        low, high = max(start - first, 0), min(stop - first, count)
        if low < high:
            to = out[first + low - start : first + high - start]
            _core.unpack_quants(to, panels, arrays[f"scales{more}"], _CODES[kind], low)
        first += count
    return out
