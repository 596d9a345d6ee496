# SPDX-License-Identifier: MIT
"""Weights packed once, in the order in which the kernels read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fastattn import _core
from fastattn._core import PackedLinear
from fastattn.arrays import as_array, as_float32, describe
from fastattn.quants import INT4, int4_rows, is_quants, pack_blocks, quant_arrays, quant_types

if TYPE_CHECKING:
    from fastattn.typing import Array, WeightType

__all__ = ["PackedLinear", "pack_linear", "pack_rows"]

_ALIGN = 64
_PIECE = 1 << 20  # numbers that are packed together where not all are in memory
_MOST_INT8_INPUTS = 1 << 17
_Part = tuple[np.dtype[Any], tuple[int, ...]]
_FLOAT32: np.dtype[Any] = np.dtype(np.float32)
_PANELS: dict[str, np.dtype[Any]] = {
    "float32": _FLOAT32,
    "bfloat16": np.dtype(np.uint16),
    "float16": np.dtype(np.float16),
    "int8": np.dtype(np.int8),
}
_INFINITE = {"bfloat16": 0x7F80, "float16": 0x7C00}  # bits of infinity


def pack_linear(
    weight: Array,
    bias: Array | None = None,
    dtype: WeightType = "float32",
    *,
    activations: Literal["int16", "int8"] | None = None,
    num_threads: int | None = None,
) -> PackedLinear:
    """Packs the weights of a linear layer y = x W^T + b for :func:`fastattn.linear`.

    "bfloat16" and "float16" halve the memory, and the time of few rows that read weights from memory; sums are float32,
    and results are to the bit those of float32 weights that hold the rounded values.

    With "int8" each output has 8-bit weights and a scale; each row that is multiplied is rounded to 8 bits with a scale
    of its own, after both have been rotated by Hadamard transforms of 64 inputs, so that a few large inputs do not set
    the step of all others. Products and sums are exact. A row that holds NaN or infinity gives a row of NaN. About four
    times as fast as float32 where a CPU has VNNI, and a quarter of the memory; cosines with float32 results are 0.9999.

    With "int4" every 32 weights of an output are 16 steps of a scale and a minimum of their own, chosen so that little
    is lost: 5 bits a weight in all. Inputs are rounded to 15 bits in blocks of 32 ("int16") or to 7 ("int8"); but for
    that, results are those of the weights as they are kept.

    Args:
        weight: (N, K) float32, out features by in features, as torch and safetensors files keep it; any row stride
        bias: (N,) float32 or None
        dtype: how the weights are stored: "float32", "bfloat16", "float16", "int8" or "int4"; "int8" with K up to
            131072 and finite weights, "int4" with weights within 65504, halves with weights that do not become infinite
        activations: of "int4" alone, how inputs are rounded: "int16" (None) or "int8"
        num_threads: threads of this call

    Returns:
        A PackedLinear: panels of 16 outputs, zero beyond N, the same bytes on every machine: (ceil(N / 16), K, 16), of
        uint16 for bfloat16, or (ceil(N / 16), ceil(K / 4), 16, 4) of int8. Weight and bias are copied; the originals
        are no longer needed.

    Raises:
        TypeError: weight or bias is not float32
        ValueError: shapes that do not fit, a last stride other than one element, another dtype, weights that dtype
            cannot hold

    >>> import numpy as np, fastattn as fa
    >>> layer = fa.pack_linear(np.eye(3, 4, dtype=np.float32), np.ones(3, np.float32))
    >>> layer
    PackedLinear(in_features=4, out_features=3, bias=True, dtype='float32')
    >>> fa.linear(np.float32([[1, 2, 3, 4]]), layer)
    array([[2., 3., 4.]], dtype=float32)
    >>> fa.linear(np.float32([[0, 0, 0, 4]]), fa.pack_linear(np.ones((2, 4), np.float32), dtype="int8"))
    array([[4., 4.]], dtype=float32)
    """
    _check_dtype(dtype)
    quant_types(INT4, activations)
    if activations is not None and dtype != INT4:
        raise ValueError(f"activations: {activations!r}, expected None with dtype {dtype!r}")
    w = as_float32(weight, "weight")
    if w.ndim != 2:
        raise ValueError(f"weight: shape {w.shape}, expected (N, K)")
    if bias is not None:
        bias = as_float32(bias, "bias")
        if bias.shape != w.shape[:1]:
            raise ValueError(f"bias: shape {bias.shape}, expected {w.shape[:1]} for weight {w.shape}")
    n, k = w.shape
    return pack_rows(
        n, k, lambda start, stop: w[start:stop], bias, dtype, step=n, activations=activations or "int16",
        num_threads=num_threads,
    )  # fmt: skip


def pack_rows(
    n: int,
    k: int,
    read: Callable[[int, int], np.ndarray],
    bias: np.ndarray | None,
    dtype: str,
    *,
    step: int | None = None,
    activations: str = "int16",
    num_threads: int | None = None,
) -> PackedLinear:
    """``pack_linear`` of weights that come in pieces, so that all of them are never in memory as float32.

    ``read(start, stop)`` gives rows of the (N, K) float32 weight, in order, at most ``step`` at a time: None for a few
    megabytes. Errors are those of ``pack_linear``.
    """
    if dtype == INT4:
        return pack_blocks([int4_rows(n, k, read, num_threads)], k, bias, activations, num_threads)
    if dtype == "int8" and k > _MOST_INT8_INPUTS:
        raise ValueError(f"weight: shape {(n, k)}, expected at most {_MOST_INT8_INPUTS} inputs with dtype 'int8'")
    _core.panel_bytes(dtype, n, k)
    layout = _layout(dtype, n, k)[0]
    arrays = {name: _core.aligned_array(shape, kind) for name, (kind, shape) in layout.items()}
    step = max(_PIECE // max(k, 1), 1) if step is None else step
    step = max(-(-step // 32) * 32, 32)  # whole blocks of outputs, and whole cache lines of halves
    for start in range(0, n, step):
        stop = min(start + step, n)
        w, part = read(start, stop), {}
        for name, array in arrays.items():
            rows = 16 if array.ndim == 1 else 1  # of a block of 16 outputs
            part[name] = array[start // 16 * rows : -(-stop // 16) * rows]
        _core.fill_panels(_core.packed_linear(part, k, stop - start, dtype), w, num_threads)
        if dtype == "int8":
            bad = np.flatnonzero(np.isnan(part["scale"][: stop - start]))
            if bad.size:
                raise ValueError(
                    f"weight: NaN or infinity in row {start + bad[0]}, expected finite numbers with dtype 'int8'"
                )
        if dtype in _INFINITE and _overflowed(part["panels"], w, _INFINITE[dtype]):
            raise ValueError(f"weight: up to {np.abs(w).max()}, expected numbers that dtype {dtype!r} can hold")
    if bias is not None:
        arrays["bias"] = np.array(bias)
    return _core.packed_linear(arrays, k, n, dtype)


def _overflowed(panels: np.ndarray, weight: np.ndarray, infinity: int) -> bool:
    """Whether there are infinities among the stored halves that were none before."""
    infinite = (panels.view(np.uint16) & 0x7FFF) == infinity
    return bool(infinite.any()) and int(infinite.sum()) != int(np.isinf(weight).sum())


def _check_dtype(dtype: Any) -> None:
    if not isinstance(dtype, str) or dtype not in (*_PANELS, INT4):
        raise ValueError(f"dtype: {dtype!r}, expected one of {', '.join(map(repr, (*_PANELS, INT4)))}")


def _layout(dtype: str, n: int, k: int) -> tuple[dict[str, _Part], dict[str, _Part]]:
    """Dtype and shape of the arrays that a PackedLinear of this dtype has, and of those it may have."""
    blocks = (n + 15) // 16
    may: dict[str, _Part] = {"bias": (_FLOAT32, (n,))}
    if dtype == "int8":
        return {
            "panels": (_PANELS[dtype], (blocks, (k + 3) // 4, 16, 4)),
            "scale": (_FLOAT32, (16 * blocks,)),
            "column_sums": (np.dtype(np.int32), (16 * blocks,)),
        }, may
    return {"panels": (_PANELS[dtype], (blocks, k, 16))}, may


def packed_from_arrays(
    arrays: Mapping[str, Any], in_features: int, out_features: int, dtype: str, activations: str | None = None
) -> PackedLinear:
    """What ``PackedLinear.from_arrays`` promises."""
    if not is_quants(dtype):
        _check_dtype(dtype)
        if activations is not None:
            raise ValueError(f"activations: {activations!r}, expected None with dtype {dtype!r}")
    k, n = _size(in_features, "in_features"), _size(out_features, "out_features")
    if not isinstance(arrays, Mapping):
        raise TypeError(f"arrays: {describe(arrays)}, expected a mapping of names to arrays")
    if dtype == "int8" and k > _MOST_INT8_INPUTS:
        raise ValueError(f"in_features: {k}, expected at most {_MOST_INT8_INPUTS} with dtype 'int8'")
    types: tuple[tuple[int, ...], int] = ((), 0)
    if is_quants(dtype):
        types = quant_types(dtype, activations)
        shapes = quant_arrays(dtype, {name: as_array(part, f"arrays[{name!r}]") for name, part in arrays.items()}, n, k)
        needed = {name: (np.dtype(np.uint8), shape) for name, shape in shapes.items()}
        optional: dict[str, _Part] = {"bias": (_FLOAT32, (n,))}
    else:
        needed, optional = _layout(dtype, n, k)
    names = set(arrays)
    if not set(needed) <= names <= {*needed, *optional}:
        also = f", and perhaps {', '.join(map(repr, optional))}" if optional else ""
        came, expected = ", ".join(map(repr, arrays)) or "none", ", ".join(map(repr, needed))
        raise ValueError(f"arrays: {came}, expected {expected}{also} for dtype {dtype!r}")
    parts = {name: part for name, part in {**needed, **optional}.items() if name in names}
    checked = {name: _part(arrays[name], name, *part) for name, part in parts.items()}
    return _core.packed_linear(checked, k, n, dtype, *types)


def _size(value: Any, name: str) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: {describe(value)}, expected an integer")
    if not 0 <= value < 1 << 48:
        raise ValueError(f"{name}: {value}, expected 0 or more, below 2**48")
    return int(value)


def _part(value: Any, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    array = as_array(value, f"arrays[{name!r}]")
    if array.dtype.name == "bfloat16" and dtype == np.uint16:
        array = array.view(np.uint16)
    if array.dtype != dtype or not array.dtype.isnative:
        raise TypeError(f"arrays[{name!r}]: {describe(array)}, expected {dtype}")
    if array.shape != shape:
        raise ValueError(f"arrays[{name!r}]: shape {array.shape}, expected {shape}")
    align = _ALIGN if name.startswith("panels") else 2 if name.startswith("scales") else array.itemsize
    if array.size and (not array.flags.c_contiguous or array.ctypes.data % align):
        raise ValueError(f"arrays[{name!r}]: expected contiguous memory at a multiple of {align} bytes")
    return array


_core.set_from_arrays(packed_from_arrays)
