# SPDX-License-Identifier: MIT
"""Linear layers, norms, activations, softmax, embedding and pooling: arrays in, arrays out.

All take float32 NumPy arrays, buffers or DLPack CPU tensors of rank 1 to 32, any strides with a unit last one, read in
place, and work on the last axis. All take ``num_threads=`` and ``out=``: a float32 array of the result's shape with
memory of its own or, where the function says so, exactly one of its inputs. The bits of a row depend on that row alone:
not on the other rows, the thread count or the instruction set. NaN results are stored as one pattern, 0x7fc00000.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from fastattn import _core
from fastattn._core import PackedLinear
from fastattn.arrays import as_float32, as_indices, check_out, describe
from fastattn.rowwise import as_rows, make_target, rows_with_checks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastattn.typing import Activation, Array, Indices, OutT, PoolMode

__all__ = [
    "add", "embedding", "gated", "gelu", "l2_normalize", "layer_norm", "linear", "pool", "quantize", "relu", "rms_norm",
    "sigmoid", "silu", "softmax", "tanh",
]  # fmt: skip

_LAYER_NORM, _RMS_NORM, _SOFTMAX, _ACTIVATE, _L2_NORMALIZE = 1, 2, 3, 4, 5
_GATED, _ADD = 6, 7
_RELU, _GELU, _GELU_TANH, _SILU, _TANH, _SIGMOID = 1, 2, 3, 4, 5, 6
_ACTIVATIONS = {
    None: 0, "relu": _RELU, "gelu": _GELU, "gelu_tanh": _GELU_TANH, "silu": _SILU, "tanh": _TANH, "sigmoid": _SIGMOID,
}  # fmt: skip


@overload
def linear(
    x: Array, packed: PackedLinear, *, activation: Activation | None = ..., out: None = ...,
    num_threads: int | None = ...,
) -> NDArray[np.float32]: ...  # fmt: skip
@overload
def linear(
    x: Array, packed: PackedLinear, *, activation: Activation | None = ..., out: OutT, num_threads: int | None = ...
) -> OutT: ...
def linear(
    x: Array, packed: PackedLinear, *, activation: Activation | None = None, out: Array | None = None,
    num_threads: int | None = None,
) -> Any:  # fmt: skip
    """activation(x W^T + bias) with weights packed by :func:`fastattn.pack_linear`.

    Sums run over the inputs in order, in chunks of 384 whose results are added in order; then bias, then activation.

    Args:
        x: (..., K)
        packed: PackedLinear of N outputs and K inputs
        activation: None, "relu", "gelu" (exact, with erf), "gelu_tanh", "silu", "tanh" or "sigmoid"
        out: (..., N), apart from x
        num_threads: threads of this call

    Returns:
        (..., N) float32, or ``out``.

    Raises:
        TypeError: x or out is not float32, packed is not a PackedLinear
        ValueError: shapes, strides, an unknown activation, an out that overlaps

    >>> import numpy as np, fastattn as fa
    >>> layer = fa.pack_linear(np.ones((2, 3), np.float32))
    >>> fa.linear(np.ones((4, 3), np.float32), layer).shape
    (4, 2)
    """
    result = _core.run_linear(x, packed, activation, out, num_threads)
    if result is not NotImplemented:
        return result
    if not isinstance(packed, PackedLinear):
        raise TypeError(f"packed: {describe(packed)}, expected a PackedLinear (fastattn.pack_linear makes one)")
    _check_activation(activation)
    array = as_rows(x, "x")
    if array.shape[-1] != packed.in_features:
        raise ValueError(f"x: shape {array.shape}, expected a last dimension of {packed.in_features} as packed takes")
    apart = {"x": array, **{f"packed.{name}": part for name, part in packed.arrays().items()}}
    target = make_target(out, (*array.shape[:-1], packed.out_features), apart)
    result = _core.run_linear(array, packed, activation, target, num_threads, True)
    return result if out is None else out


@overload
def layer_norm(
    x: Array, weight: Array, bias: Array | None = ..., eps: float = ..., *, residual: Array | None = ...,
    out: None = ..., num_threads: int | None = ...,
) -> NDArray[np.float32]: ...  # fmt: skip
@overload
def layer_norm(
    x: Array, weight: Array, bias: Array | None = ..., eps: float = ..., *, residual: Array | None = ..., out: OutT,
    num_threads: int | None = ...,
) -> OutT: ...  # fmt: skip
def layer_norm(
    x: Array, weight: Array, bias: Array | None = None, eps: float = 1e-5, *, residual: Array | None = None,
    out: Array | None = None, num_threads: int | None = None,
) -> Any:  # fmt: skip
    """(x + residual - mean) / sqrt(var + eps) * weight + bias over the last axis; var is the biased variance.

    Args:
        x: (..., H)
        weight: (H,)
        bias: (H,) or None
        eps: at least 0
        residual: array of x's shape added to x first, or None
        out: array of x's shape; x and residual themselves are allowed
        num_threads: threads of this call

    Returns:
        float32 of x's shape, or ``out``.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.

    Source: Ba, Kiros, Hinton, "Layer normalization", 2016.

    >>> import numpy as np, fastattn as fa
    >>> fa.layer_norm(np.float32([[1, 3]]), np.ones(2, np.float32), eps=0.0)
    array([[-1.,  1.]], dtype=float32)
    """
    result = _core.run_rows(_LAYER_NORM, x, residual, weight, bias, eps, 0, out, num_threads)
    if result is not NotImplemented:
        return result
    return rows_with_checks(_LAYER_NORM, x, residual, {"weight": weight, "bias": bias}, eps, 0, out, num_threads)


@overload
def rms_norm(
    x: Array, weight: Array, eps: float = ..., *, residual: Array | None = ..., out: None = ...,
    num_threads: int | None = ...,
) -> NDArray[np.float32]: ...  # fmt: skip
@overload
def rms_norm(
    x: Array, weight: Array, eps: float = ..., *, residual: Array | None = ..., out: OutT, num_threads: int | None = ...
) -> OutT: ...
def rms_norm(
    x: Array, weight: Array, eps: float = 1e-6, *, residual: Array | None = None, out: Array | None = None,
    num_threads: int | None = None,
) -> Any:  # fmt: skip
    """(x + residual) / sqrt(mean of squares + eps) * weight over the last axis. Arguments as in :func:`layer_norm`.

    Source: Zhang, Sennrich, "Root mean square layer normalization", 2019.

    >>> import numpy as np, fastattn as fa
    >>> fa.rms_norm(np.float32([[2, 2]]), np.ones(2, np.float32), eps=0.0)
    array([[1., 1.]], dtype=float32)
    """
    result = _core.run_rows(_RMS_NORM, x, residual, weight, None, eps, 0, out, num_threads)
    if result is not NotImplemented:
        return result
    return rows_with_checks(_RMS_NORM, x, residual, {"weight": weight}, eps, 0, out, num_threads)


@overload
def softmax(x: Array, *, out: None = ..., num_threads: int | None = ...) -> NDArray[np.float32]: ...
@overload
def softmax(x: Array, *, out: OutT, num_threads: int | None = ...) -> OutT: ...
def softmax(x: Array, *, out: Array | None = None, num_threads: int | None = None) -> Any:
    """exp(x - max) / sum over the last axis. A row of -inf alone gives zeros; NaN or +inf gives a row of NaN.

    Args:
        x: (..., H)
        out: array of x's shape; x itself is allowed
        num_threads: threads of this call

    Returns:
        float32 of x's shape, or ``out``.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.

    >>> import numpy as np, fastattn as fa
    >>> fa.softmax(np.zeros((1, 4), np.float32))
    array([[0.25, 0.25, 0.25, 0.25]], dtype=float32)
    """
    return _elementwise(_SOFTMAX, 0, x, out, num_threads)


@overload
def gelu(
    x: Array, approximate: Literal["none", "tanh"] = ..., *, out: None = ..., num_threads: int | None = ...
) -> NDArray[np.float32]: ...
@overload
def gelu(x: Array, approximate: Literal["none", "tanh"] = ..., *, out: OutT, num_threads: int | None = ...) -> OutT: ...
def gelu(
    x: Array, approximate: Literal["none", "tanh"] = "none", *, out: Array | None = None, num_threads: int | None = None
) -> Any:
    """x * Phi(x), Phi the normal distribution function, elementwise.

    Args:
        x: any shape of rank 1 or more
        approximate: "none" (exact, with erf) or "tanh": x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
        out: array of x's shape; x itself is allowed
        num_threads: threads of this call

    Returns:
        float32 of x's shape, or ``out``.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.

    Source: Hendrycks, Gimpel, "Gaussian error linear units", 2016.

    >>> import numpy as np, fastattn as fa
    >>> fa.gelu(np.float32([0.0]))
    array([0.], dtype=float32)
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate: {approximate!r}, expected 'none' or 'tanh'")
    return _elementwise(_ACTIVATE, _GELU if approximate == "none" else _GELU_TANH, x, out, num_threads)


@overload
def silu(x: Array, *, out: None = ..., num_threads: int | None = ...) -> NDArray[np.float32]: ...
@overload
def silu(x: Array, *, out: OutT, num_threads: int | None = ...) -> OutT: ...
def silu(x: Array, *, out: Array | None = None, num_threads: int | None = None) -> Any:
    """x * sigmoid(x), elementwise. Arguments as in :func:`gelu`.

    >>> import numpy as np, fastattn as fa
    >>> fa.silu(np.float32([0.0]))
    array([0.], dtype=float32)
    """
    return _elementwise(_ACTIVATE, _SILU, x, out, num_threads)


@overload
def relu(x: Array, *, out: None = ..., num_threads: int | None = ...) -> NDArray[np.float32]: ...
@overload
def relu(x: Array, *, out: OutT, num_threads: int | None = ...) -> OutT: ...
def relu(x: Array, *, out: Array | None = None, num_threads: int | None = None) -> Any:
    """0 where x < 0, else x (so NaN stays NaN), elementwise. Arguments as in :func:`gelu`.

    >>> import numpy as np
    >>> from fastattn import ops
    >>> ops.relu(np.float32([-1, 2]))
    array([0., 2.], dtype=float32)
    """
    return _elementwise(_ACTIVATE, _RELU, x, out, num_threads)


@overload
def tanh(x: Array, *, out: None = ..., num_threads: int | None = ...) -> NDArray[np.float32]: ...
@overload
def tanh(x: Array, *, out: OutT, num_threads: int | None = ...) -> OutT: ...
def tanh(x: Array, *, out: Array | None = None, num_threads: int | None = None) -> Any:
    """Hyperbolic tangent, elementwise. Arguments as in :func:`gelu`.

    >>> import numpy as np
    >>> from fastattn import ops
    >>> ops.tanh(np.float32([0, np.inf]))
    array([0., 1.], dtype=float32)
    """
    return _elementwise(_ACTIVATE, _TANH, x, out, num_threads)


@overload
def sigmoid(x: Array, *, out: None = ..., num_threads: int | None = ...) -> NDArray[np.float32]: ...
@overload
def sigmoid(x: Array, *, out: OutT, num_threads: int | None = ...) -> OutT: ...
def sigmoid(x: Array, *, out: Array | None = None, num_threads: int | None = None) -> Any:
    """1 / (1 + exp(-x)), elementwise. Arguments as in :func:`gelu`.

    >>> import numpy as np
    >>> from fastattn import ops
    >>> ops.sigmoid(np.float32([0, np.inf]))
    array([0.5, 1. ], dtype=float32)
    """
    return _elementwise(_ACTIVATE, _SIGMOID, x, out, num_threads)


@overload
def gated(
    x: Array, gate: Array, activation: Activation | None = ..., *, out: None = ..., num_threads: int | None = ...
) -> NDArray[np.float32]: ...
@overload
def gated(
    x: Array, gate: Array, activation: Activation | None = ..., *, out: OutT, num_threads: int | None = ...
) -> OutT: ...
def gated(
    x: Array, gate: Array, activation: Activation | None = None, *, out: Array | None = None,
    num_threads: int | None = None,
) -> Any:  # fmt: skip
    """activation(x) * gate, elementwise: the middle of a gated feed-forward layer (GeGLU, SwiGLU).

    A product (..., 2 I) that holds both side by side goes in as two views, ``wide[..., :I]`` and ``wide[..., I:]``.

    Args:
        x: any shape of rank 1 or more
        gate: array of x's shape
        activation: as in :func:`linear`
        out: array of x's shape; x and gate themselves are allowed
        num_threads: threads of this call

    Returns:
        float32 of x's shape, or ``out``.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.

    Source: Shazeer, "GLU variants improve transformer", 2020.

    >>> import numpy as np
    >>> from fastattn import ops
    >>> wide = np.float32([[-1, 2, 3, 4]])
    >>> ops.gated(wide[:, :2], wide[:, 2:], "relu")
    array([[0., 8.]], dtype=float32)
    """
    _check_activation(activation)
    return _pair(_GATED, x, "gate", gate, _ACTIVATIONS[activation], out, num_threads)


@overload
def add(x: Array, y: Array, *, out: None = ..., num_threads: int | None = ...) -> NDArray[np.float32]: ...
@overload
def add(x: Array, y: Array, *, out: OutT, num_threads: int | None = ...) -> OutT: ...
def add(x: Array, y: Array, *, out: Array | None = None, num_threads: int | None = None) -> Any:
    """x + y, elementwise, for arrays of one shape. ``out`` may be either; other arguments as in :func:`gated`.

    >>> import numpy as np
    >>> from fastattn import ops
    >>> ops.add(np.float32([1, 2]), np.float32([3, 4]))
    array([4., 6.], dtype=float32)
    """
    return _pair(_ADD, x, "y", y, 0, out, num_threads)


@overload
def l2_normalize(
    x: Array, eps: float = ..., *, out: None = ..., num_threads: int | None = ...
) -> NDArray[np.float32]: ...
@overload
def l2_normalize(x: Array, eps: float = ..., *, out: OutT, num_threads: int | None = ...) -> OutT: ...
def l2_normalize(x: Array, eps: float = 1e-12, *, out: Array | None = None, num_threads: int | None = None) -> Any:
    """x / max(|x|, eps) over the last axis, |x| the Euclidean length; a row of zeros stays zero.

    Lengths whose squares would leave the range of float32 are handled. ``out`` may be x itself. Other arguments as in
    :func:`layer_norm`.

    >>> import numpy as np
    >>> from fastattn import ops
    >>> ops.l2_normalize(np.float32([[3, 4]]))
    array([[0.6, 0.8]], dtype=float32)
    """
    result = _core.run_rows(_L2_NORMALIZE, x, None, None, None, eps, 0, out, num_threads)
    if result is not NotImplemented:
        return result
    return rows_with_checks(_L2_NORMALIZE, x, None, {}, eps, 0, out, num_threads)


@overload
def embedding(
    tables: Sequence[Array], ids: Sequence[Indices], *, out: None = ..., num_threads: int | None = ...
) -> NDArray[np.float32]: ...
@overload
def embedding(tables: Sequence[Array], ids: Sequence[Indices], *, out: OutT, num_threads: int | None = ...) -> OutT: ...
def embedding(
    tables: Sequence[Array], ids: Sequence[Indices], *, out: Array | None = None, num_threads: int | None = None
) -> Any:
    """Rows of tables, added left to right: out[t] = tables[0][ids[0][t]] + tables[1][ids[1][t]] + ...

    Args:
        tables: one or more (V_i, H) float32 arrays
        ids: as many integer arrays (T,), each within 0 .. V_i - 1
        out: (T, H), apart from the tables
        num_threads: threads of this call

    Returns:
        (T, H) float32, or ``out``.

    Raises:
        TypeError, ValueError: naming the argument; an id outside its table by its value and place.

    >>> import numpy as np
    >>> from fastattn import ops
    >>> ops.embedding([np.float32([[1, 2], [3, 4]])], [[1, 0]])
    array([[3., 4.],
           [1., 2.]], dtype=float32)
    """
    result = _core.run_embedding(tables, ids, out, num_threads)
    if result is not NotImplemented and result is not None:
        return result
    if not isinstance(tables, (list, tuple)) or not isinstance(ids, (list, tuple)):
        name, value = ("tables", tables) if not isinstance(tables, (list, tuple)) else ("ids", ids)
        raise TypeError(f"{name}: {describe(value)}, expected a list or tuple of arrays")
    if not tables or len(tables) != len(ids):
        raise ValueError(f"ids: {len(ids)} arrays for {len(tables)} tables, expected one for each and at least one")
    floats = [as_float32(table, f"tables[{i}]") for i, table in enumerate(tables)]
    indices = [as_indices(index, f"ids[{i}]") for i, index in enumerate(ids)]
    for i, (table, index) in enumerate(zip(floats, indices, strict=True)):
        if table.ndim != 2 or table.shape[1] != floats[0].shape[-1]:
            raise ValueError(f"tables[{i}]: shape {table.shape}, expected (V, {floats[0].shape[-1] if i else 'H'})")
        if index.ndim != 1 or index.shape != indices[0].shape:
            raise ValueError(f"ids[{i}]: shape {index.shape}, expected ({len(indices[0]) if i else 'T'},)")
    apart = {f"tables[{i}]": table for i, table in enumerate(floats)}
    apart |= {f"ids[{i}]": index for i, index in enumerate(indices)}
    target = make_target(out, (len(indices[0]), floats[0].shape[1]), apart)
    if _core.run_embedding(floats, indices, target, num_threads, True) is None:
        for i, (table, index) in enumerate(zip(floats, indices, strict=True)):
            outside = np.flatnonzero((index < 0) | (index >= len(table)))
            if len(outside):
                at = int(outside[0])
                raise ValueError(f"ids[{i}]: {int(index[at])} at position {at}, expected 0 to {len(table) - 1}")
    return target if out is None else out


def gather(
    x: NDArray[np.float32], index: NDArray[np.int64], *, out: NDArray[np.float32], num_threads: int | None = None
) -> None:
    """Rows side by side, for models: out[i] = x[index[i, 0]], x[index[i, 1]], ...; an index of -1 stands for zeros.

    Args:
        x: (T, W) float32
        index: (M, n) int64 from -1 to T - 1
        out: (M, n * W) float32, apart from both
        num_threads: threads of this call

    Raises:
        TypeError, ValueError: naming the argument; nothing has been written.

    >>> import numpy as np
    >>> from fastattn import ops
    >>> out = np.empty((2, 4), np.float32)
    >>> ops.gather(np.float32([[1, 2], [3, 4]]), np.array([[1, 0], [-1, 1]]), out=out)
    >>> out
    array([[3., 4., 1., 2.],
           [0., 0., 3., 4.]], dtype=float32)
    """
    _core.gather(out, x, index, num_threads)


@overload
def pool(
    x: Array, cu_seqlens: Indices, mode: PoolMode = ..., *, skip: int = ..., out: None = ...,
    num_threads: int | None = ...,
) -> NDArray[np.float32]: ...  # fmt: skip
@overload
def pool(
    x: Array, cu_seqlens: Indices, mode: PoolMode = ..., *, skip: int = ..., out: OutT, num_threads: int | None = ...
) -> OutT: ...
def pool(
    x: Array, cu_seqlens: Indices, mode: PoolMode = "mean", *, skip: int = 0, out: Array | None = None,
    num_threads: int | None = None,
) -> Any:  # fmt: skip
    """One vector for each of n packed sequences: sequence i is rows cu_seqlens[i] to cu_seqlens[i + 1] of x.

    Args:
        x: (T, H)
        cu_seqlens: (n + 1,) integers from 0 to T, ascending
        mode: "mean"; "mean_sqrt_len", the sum over the square root of the number of rows; "weighted_mean", where row i
            of a sequence, counted from 1, has the weight i; "cls", the first row; "last"; "max", where a NaN in a
            column gives NaN
        skip: first rows of each sequence that take no part (a prompt); "weighted_mean" counts them nevertheless
        out: (n, H), apart from x
        num_threads: threads of this call

    Returns:
        (n, H) float32, or ``out``; a sequence without (other) rows gives zeros.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.

    Source: Reimers, Gurevych, "Sentence-BERT", 2019; Muennighoff, "SGPT", 2022 (weighted mean).

    >>> import numpy as np
    >>> from fastattn import ops
    >>> ops.pool(np.float32([[1, 2], [3, 6], [5, 5]]), [0, 2, 3])
    array([[2., 4.],
           [5., 5.]], dtype=float32)
    >>> ops.pool(np.float32([[1, 2], [3, 5]]), [0, 2], "weighted_mean")
    array([[2.3333333, 4.       ]], dtype=float32)
    """
    result = _core.run_pool(x, cu_seqlens, mode, skip, out, num_threads)
    if result is not NotImplemented:
        return result
    if mode not in _core.pool_modes():
        raise ValueError(f"mode: {mode!r}, expected one of {', '.join(map(repr, _core.pool_modes()))}")
    array = as_float32(x, "x")
    if array.ndim != 2:
        raise ValueError(f"x: shape {array.shape}, expected (T, H)")
    cu = as_indices(cu_seqlens, "cu_seqlens")
    if cu.ndim != 1 or len(cu) < 1:
        raise ValueError(f"cu_seqlens: shape {cu.shape}, expected (n + 1,)")
    if cu[0] != 0 or cu[-1] != len(array):
        raise ValueError(f"cu_seqlens: from {cu[0]} to {cu[-1]}, expected from 0 to {len(array)}, the rows of x")
    if (cu[1:] < cu[:-1]).any():
        at = int(np.argmax(cu[1:] < cu[:-1]))
        raise ValueError(f"cu_seqlens: {cu[at + 1]} after {cu[at]} at position {at + 1}, expected ascending values")
    if isinstance(skip, (bool, np.bool_)) or not isinstance(skip, (int, np.integer)):
        raise TypeError(f"skip: {describe(skip)}, expected an int")
    if skip < 0:
        raise ValueError(f"skip: {skip}, expected at least 0")
    target = make_target(out, (len(cu) - 1, array.shape[1]), {"x": array, "cu_seqlens": cu})
    _core.run_pool(array, cu, mode, min(int(skip), len(array)), target, num_threads, True)
    return target if out is None else out


@overload
def quantize(
    x: Array, ranges: Array, dtype: Literal["int8"] = ..., *, out: None = ..., num_threads: int | None = ...
) -> NDArray[np.int8]: ...
@overload
def quantize(
    x: Array, ranges: Array, dtype: Literal["uint8"], *, out: None = ..., num_threads: int | None = ...
) -> NDArray[np.uint8]: ...
@overload
def quantize(
    x: Array, ranges: Array, dtype: Literal["int8", "uint8"] = ..., *, out: None = ..., num_threads: int | None = ...
) -> NDArray[np.int8] | NDArray[np.uint8]: ...
@overload
def quantize(
    x: Array, ranges: Array, dtype: Literal["int8", "uint8"] = ..., *, out: OutT, num_threads: int | None = ...
) -> OutT: ...
def quantize(
    x: Array, ranges: Array, dtype: Literal["int8", "uint8"] = "int8", *, out: Array | None = None,
    num_threads: int | None = None,
) -> Any:  # fmt: skip
    """Bytes that say where in its dimension's range each number lies: 256 steps of equal size.

    floor((x - least) / step) with step = (most - least) / 255, or 1 where that is 0, within 0 to 255; "int8" is that
    minus 128. Numbers outside the range get its nearest end, NaN the lower one.

    Args:
        x: (n, d) float32
        ranges: (2, d) float32, smallest and largest number of each dimension
        dtype: "int8" or "uint8"
        out: (n, d) of that type, apart from x and ranges
        num_threads: threads of this call

    Returns:
        (n, d) of ``dtype``, or ``out``.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.

    >>> import numpy as np
    >>> from fastattn import ops
    >>> ops.quantize(np.float32([[-1, 0, 9]]), np.float32([[-1, -1, -1], [1, 1, 1]]))
    array([[-128,   -1,  127]], dtype=int8)
    """
    if not isinstance(dtype, str) or dtype not in ("int8", "uint8"):
        raise ValueError(f"dtype: {dtype!r}, expected 'int8' or 'uint8'")
    array, ends = as_float32(x, "x"), as_float32(ranges, "ranges")
    if array.ndim != 2:
        raise ValueError(f"x: shape {array.shape}, expected (n, d)")
    if ends.shape != (2, array.shape[1]):
        raise ValueError(f"ranges: shape {ends.shape}, expected {(2, array.shape[1])}, the least and the most")
    apart = {"x": array, "ranges": ends}
    target = np.empty(array.shape, dtype) if out is None else check_out(out, array.shape, apart, dtype=np.dtype(dtype))
    _core.quantize_ranges(target.view(np.int8), array, ends, dtype == "uint8", num_threads)
    return target if out is None else out


# ---- the core first, which takes what is plain and says NotImplemented to the rest -----------------------------------


def _elementwise(op: int, act: int, x: Any, out: Any, num_threads: int | None) -> Any:
    result = _core.run_rows(op, x, None, None, None, 0.0, act, out, num_threads)
    if result is not NotImplemented:
        return result
    return rows_with_checks(op, x, None, {}, 0.0, act, out, num_threads)


def _check_activation(activation: Any) -> None:
    if activation is not None and activation not in _core.activation_names():
        names = ", ".join(map(repr, _core.activation_names()))
        raise ValueError(f"activation: {activation!r}, expected None or one of {names}")


def _pair(op: int, x: Any, name: str, y: Any, act: int, out: Any, num_threads: int | None) -> Any:
    result = _core.run_rows(op, x, y, None, None, 0.0, act, out, num_threads)
    if result is not NotImplemented:
        return result
    return rows_with_checks(op, x, as_float32(y, name), {}, 0.0, act, out, num_threads, second=name)
