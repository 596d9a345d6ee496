# SPDX-License-Identifier: MIT
"""Arguments become NumPy arrays here, without a copy, or a typed error that names them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastattn._core import DLPackBuffer

__all__ = [
    "as_array",
    "as_float32",
    "as_indices",
    "as_real",
    "as_stored",
    "check_layout",
    "check_out",
    "describe",
    "overlap",
    "overlaps_itself",
]


def describe(value: Any) -> str:
    """What came, for an error message: dtype and shape of an array, otherwise the type."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return type(value).__name__


def as_array(value: Any, name: str) -> np.ndarray:
    """`value` as an ndarray that shares its memory: ndarray, buffer protocol, then DLPack.

    Raises TypeError for anything else, nested lists among them: they would have to be copied.
    """
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: masked arrays are not supported, expected a plain array and mask=")
    if isinstance(value, np.ndarray):
        return value.view(np.ndarray)
    try:
        return np.asarray(memoryview(value))
    except TypeError:
        pass
    if hasattr(value, "__dlpack__"):
        try:
            return np.asarray(DLPackBuffer(value, name))
        except (BufferError, RuntimeError) as error:
            raise TypeError(f"{name}: {type(value).__name__} does not give its memory: {error}") from error
    raise TypeError(f"{name}: {type(value).__name__}, expected a NumPy array, a buffer or a DLPack CPU tensor")


def as_float32(value: Any, name: str) -> np.ndarray:
    """As `as_array`, native float32 with a unit last stride and aligned elements."""
    array = as_array(value, name)
    if array.dtype != np.float32 or not array.dtype.isnative:
        order = "" if array.dtype.isnative else " in foreign byte order"
        came = array.dtype.name if array is value else getattr(value, "dtype", array.dtype.name)  # torch.bfloat16
        raise TypeError(f"{name}: dtype {came}{order}, expected float32 (convert with .astype(numpy.float32))")
    check_layout(array, name)
    return array


def check_layout(array: np.ndarray, name: str) -> None:
    """ValueError unless the last stride is one element and elements are aligned."""
    item = array.itemsize
    if array.size and array.ndim and array.shape[-1] > 1 and array.strides[-1] != item:
        raise ValueError(
            f"{name}: last stride {array.strides[-1]} bytes, expected {item} (one element); numpy.ascontiguousarray "
            "copies"
        )
    if not array.flags.aligned:
        raise ValueError(f"{name}: data not aligned to {item} bytes; a copy would be")


_FLOAT32_MAX = float(np.finfo(np.float32).max)
_STORED = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.uint16))


def as_stored(value: Any, name: str, int8: bool = False) -> tuple[np.ndarray, np.dtype[Any]]:
    """`value` as float32, float16 or, for bfloat16, uint16, sharing its memory; and the dtype its results have.

    bfloat16 comes as an array of ml_dtypes.bfloat16, through DLPack, or as uint16 already. int8 where that is allowed.
    """
    array = as_array(value, name)
    kind = array.dtype
    if kind.char not in "feHb" and kind.name == "bfloat16" and kind.itemsize == 2:  # the name of a dtype is slow
        return array.view(np.uint16), kind
    if kind.isnative and (kind in _STORED or (int8 and kind == np.int8)):
        return array, kind
    order = "" if kind.isnative else " in foreign byte order"
    came = kind.name if array is value else getattr(value, "dtype", kind.name)  # torch.float64
    wanted = "float32, float16 or bfloat16 (or its bits as uint16)" + (", or int8 with scales" if int8 else "")
    raise TypeError(f"{name}: dtype {came}{order}, expected {wanted}")


def as_indices(value: Any, name: str) -> np.ndarray:
    """Integers as a contiguous int64 array; lists, scalars and arrays of any integer type."""
    array = np.asarray(
        value if not hasattr(value, "__dlpack__") or isinstance(value, np.ndarray) else as_array(value, name)
    )
    if array.size == 0 and array.dtype.kind == "f" and not isinstance(value, np.ndarray):
        array = array.astype(np.int64)  # an empty list has no type of its own
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: dtype {array.dtype}, expected integers")
    if array.dtype == np.uint64 and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: {int(array.max())} does not fit into int64")
    return np.require(array, np.int64, "C")


def as_real(value: Any, name: str) -> float:
    """A real number that float32 can hold."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: {describe(value)}, expected a real number")
    if isinstance(value, int) and abs(value) > _FLOAT32_MAX:  # not by float(), which it need not fit
        raise ValueError(f"{name}: an integer of {value.bit_length()} bits, expected a finite float32")
    number = float(value)
    if not abs(number) <= _FLOAT32_MAX:
        raise ValueError(f"{name}: {value}, expected a finite float32")
    return number


def overlaps_itself(array: np.ndarray) -> bool:
    """Whether two elements may share memory: a dimension whose stride does not clear the ones below it."""
    reach = array.itemsize
    for stride, size in sorted(
        (abs(stride), size) for stride, size in zip(array.strides, array.shape, strict=True) if size > 1
    ):
        if stride < reach:
            return True
        reach += stride * (size - 1)
    return False


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays share memory; in doubt they do."""
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=100_000)  # type: ignore[arg-type]  # NumPy's stub knows -1 and 0
    except np.exceptions.TooHardError:
        return True


def check_out(
    out: Any, shape: tuple[int, ...], apart: dict[str, np.ndarray], name: str = "out", dtype: Any = np.float32
) -> np.ndarray:
    """`out` as a writable array of `shape` and float32 or `dtype`, sharing no memory with `apart`, nor with itself."""
    array = as_array(out, name)
    if array.shape != shape:
        raise ValueError(f"{name}: shape {array.shape}, expected {shape}")
    if dtype == np.float32:
        array = as_float32(array, name)
    elif array.dtype != dtype:
        raise TypeError(f"{name}: dtype {array.dtype}, expected {np.dtype(dtype)}")
    check_layout(array, name)
    if not array.flags.writeable:
        raise ValueError(f"{name}: read-only, expected a writable array")
    if array.size and overlaps_itself(array):
        raise ValueError(f"{name}: strides {array.strides} make elements share memory, expected each its own")
    for other_name, other in apart.items():
        if overlap(array, other):
            raise ValueError(f"{name}: shares memory with {other_name}, expected memory of its own")
    return array
