# SPDX-License-Identifier: MIT
"""What both caches check: counts, rows, keys and values, rotary tables, and that nobody else is inside."""

from __future__ import annotations

import math
import operator
import threading
from typing import Any

import numpy as np

from fastattn.arrays import as_array, as_indices, describe

POSITION_MAX = 1 << 46
HEAD_DIM_MAX = 4096
# How a cache stores: bfloat16 as the bits of it, NumPy has no such type.
STORAGE = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16, "int8": np.int8}


class CacheFull(ValueError):
    """There is no room for what was to be appended. The cache is as it was before the call.

    >>> import numpy as np, fastattn as fa
    >>> cache, k = fa.KVCache(1, 1, 1, 8, max_length=4), np.ones((1, 1, 5, 8), np.float32)
    >>> cache.append(0, k, k)
    Traceback (most recent call last):
        ...
    fastattn.kvcache.checks.CacheFull: k: 5 tokens behind 0 of row 0, expected at most 4 in all, the cache's max_length
    """


class Guard:
    """Says who is inside a cache: one caller who changes it, or, where reads are shared, any number who read.

    It never waits: whoever comes at the wrong time gets a RuntimeError, as waiting would hide a race of the caller.
    """

    def __init__(self, shared_reads: bool) -> None:
        self.lock = threading.Lock()
        self.inside = 0  # readers, or -1 for the one who changes
        self.writing = _Turn(self, False)
        self.reading = _Turn(self, True) if shared_reads else self.writing


class _Turn:
    """`with guard.writing:` or `with guard.reading:`; it holds no state of its own, so one serves every thread."""

    __slots__ = ("_guard", "_shared")

    def __init__(self, guard: Guard, shared: bool) -> None:
        self._guard, self._shared = guard, shared

    def __enter__(self) -> None:
        guard = self._guard
        with guard.lock:
            if guard.inside < 0 or (guard.inside and not self._shared):
                raise RuntimeError("cache: used by another thread at the same time, expected one at a time")
            guard.inside = guard.inside + 1 if self._shared else -1

    def __exit__(self, *_: object) -> None:
        guard = self._guard
        with guard.lock:
            guard.inside = guard.inside - 1 if self._shared else 0


def as_count(value: Any, name: str, low: int = 1, high: int = POSITION_MAX) -> int:
    """An int from `low` to `high`."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: {value!r}, expected an int")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: {describe(value)}, expected an int") from None
    if not low <= number <= high:
        raise ValueError(f"{name}: {number}, expected {low} to {high}")
    return number


def check_addressable(name: str, *sizes: int) -> None:
    """Refuses sizes whose product no memory could hold; a size of 0 counts as 1."""
    if math.prod(max(size, 1) for size in sizes) >= 1 << 58:
        raise ValueError(f"{name}: arrays of {' x '.join(map(str, sizes))} numbers, expected fewer than 2^58")


def as_layer(value: Any, layers: int) -> int:
    """The number of a layer."""
    return as_count(value, "layer", 0, layers - 1)


def as_storage(dtype: Any) -> str:
    """The name of a storage type; NumPy types and their names are both taken."""
    name = dtype if isinstance(dtype, str) else getattr(dtype, "name", getattr(dtype, "__name__", None))
    if name not in STORAGE:
        raise ValueError(f'dtype: {dtype!r}, expected "float32", "float16", "bfloat16" or "int8"')
    return str(name)


def as_rows(value: Any, name: str, rows: int) -> np.ndarray:
    """Integers, one for each batch row, from an int or an array of shape (rows,)."""
    array = as_indices(value, name)
    if array.shape == ():
        return np.full(rows, array, np.int64)
    if array.shape != (rows,):
        raise ValueError(f"{name}: shape {array.shape}, expected one int or shape ({rows},), one for each batch row")
    return array


def as_kv(value: Any, name: str, rank: int, heads: int, size: int) -> np.ndarray:
    """Keys or values of a call: float32, float16 or bfloat16 (as uint16), heads and head size as the cache has them."""
    array = as_array(value, name)
    if array.dtype.char not in "feH" or not array.dtype.isnative:
        if array.dtype.name != "bfloat16":
            came = getattr(value, "dtype", array.dtype)
            raise TypeError(f"{name}: dtype {came}, expected float32, float16, bfloat16 or its bits as uint16")
        array = array.view(np.uint16)
    layout = "(batch, heads, tokens, head size)" if rank == 4 else "(tokens, heads, head size)"
    if array.ndim != rank:
        raise ValueError(f"{name}: rank {array.ndim}, expected {rank}: {layout}")
    if array.shape[1] != heads:
        raise ValueError(f"{name}: {array.shape[1]} heads, expected {heads} as the cache has")
    if array.shape[-1] != size:
        raise ValueError(f"{name}: head size {array.shape[-1]}, expected {size} as the cache has")
    if array.size and size > 1 and array.strides[-1] != array.itemsize:
        raise ValueError(
            f"{name}: last stride {array.strides[-1]} bytes, expected {array.itemsize} (one element); "
            "numpy.ascontiguousarray copies"
        )
    if not array.flags.aligned:
        raise ValueError(f"{name}: data not aligned to {array.itemsize} bytes; a copy would be")
    return array


def as_rope(rope: Any, head_dim: int, end: int) -> dict[str, Any]:
    """(cos, sin) or (cos, sin, interleaved), with a row for each position below `end`: what kv_store calls them."""
    if not isinstance(rope, (tuple, list)) or len(rope) not in (2, 3):
        raise TypeError(f"rope: {describe(rope)}, expected (cos, sin) or (cos, sin, interleaved)")
    interleaved = rope[2] if len(rope) == 3 else False
    if not isinstance(interleaved, (bool, np.bool_)):
        raise TypeError(f"rope: interleaved is {describe(interleaved)}, expected True or False")
    tables = []
    for what, value in (("cos", rope[0]), ("sin", rope[1])):
        table = as_array(value, f"rope: {what}")
        if table.dtype != np.float32 or not table.dtype.isnative:
            raise TypeError(f"rope: {what} of dtype {table.dtype}, expected float32")
        if table.ndim != 2 or not 1 <= table.shape[1] <= head_dim // 2:
            raise ValueError(
                f"rope: {what} of shape {table.shape}, expected (positions, rotary_dim / 2), "
                f"rotary_dim at most {head_dim}"
            )
        tables.append(np.require(table, np.float32, ["C", "A"]))
    cos, sin = tables
    if cos.shape != sin.shape:
        raise ValueError(f"rope: sin of shape {sin.shape}, expected {cos.shape} as cos has")
    if end > len(cos):
        raise ValueError(f"rope: tables of {len(cos)} positions, expected at least {end}, the length after this append")
    return {"cos": cos, "sin": sin, "interleaved": bool(interleaved)}
