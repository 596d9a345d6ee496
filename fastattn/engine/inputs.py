# SPDX-License-Identifier: MIT
"""Token ids and masks from the caller, checked and packed: only attended tokens go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["PackedInputs", "check_range", "has_holes", "pack_inputs"]

Integers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class PackedInputs:
    """A batch (B, S) without the positions its mask excludes: T tokens, row by row."""

    shape: tuple[int, int]
    ids: Integers
    """(T,) token ids."""
    type_ids: Integers
    """(T,) token type ids."""
    columns: Integers
    """(T,) the column each token stands in."""
    positions: Integers
    """(T,) the row of the table of positions for each token."""
    lengths: Integers
    """(B,) attended tokens of each row."""
    where: Integers | None
    """(T,) index of each token in the flattened batch; None where every position is attended."""


def pack_inputs(
    input_ids: Any,
    attention_mask: Any,
    token_type_ids: Any,
    *,
    max_positions: int,
    position_ids: Callable[[Integers, Integers, Integers], Integers],
    attended: bool = False,
) -> PackedInputs:
    """Check the three arguments of a model call (each (B, S); the last two may be None) and pack them.

    ``position_ids`` makes positions of the ids (B * S,), their columns, and the lengths (B,) of rows, all S; with
    ``attended`` of the tokens that the mask leaves, and of how many each row has.

    Raises ``TypeError`` for values that are not integers, ``ValueError`` for shapes that do not fit, a mask that holds
    anything but 0 and 1, and more than ``max_positions`` columns.
    """
    ids = _integer_array("input_ids", input_ids)
    if ids.ndim != 2:
        raise ValueError(f"input_ids: got shape {ids.shape}, expected (batch, sequence)")
    batch, columns = ids.shape
    if columns > max_positions:
        raise ValueError(f"input_ids: {columns} columns, but the model has {max_positions} positions")
    types = None
    if token_type_ids is not None:
        types = _integer_array("token_type_ids", token_type_ids)
        if types.shape != ids.shape:
            raise ValueError(f"token_type_ids: got shape {types.shape}, expected that of input_ids, {ids.shape}")

    where = None
    if attention_mask is not None:
        mask = _mask_array(attention_mask, ids.shape)
        if not mask.all():
            where = np.flatnonzero(mask)
    flat_ids = ids.reshape(-1)
    flat_types = np.zeros(ids.size, np.int64) if types is None else types.reshape(-1)
    flat_columns = np.arange(columns)
    if batch != 1:
        flat_columns = np.tile(flat_columns, batch)
    lengths = np.full(batch, columns, np.int64)
    positions = position_ids(flat_ids, flat_columns, lengths)
    if where is None:
        return PackedInputs((batch, columns), flat_ids, flat_types, flat_columns, positions, lengths, None)
    lengths = mask.sum(axis=1, dtype=np.int64)
    picked = flat_ids[where], flat_types[where], flat_columns[where]
    positions = position_ids(picked[0], picked[2], lengths) if attended else positions[where]
    return PackedInputs((batch, columns), *picked, positions, lengths, where)


def check_range(name: str, values: Integers, limit: int, what: str) -> None:
    """``ValueError`` where one of the (attended) ``values`` is not in 0..limit-1, with the first such value."""
    if values.size and values.view(np.uint64).max() >= limit:  # what is negative is far above it then
        wrong = values[(values < 0) | (values >= limit)]
        raise ValueError(f"{name}: got {wrong[0]}, expected 0 to {limit - 1} ({what})")


def _integer_array(name: str, value: Any) -> Integers:
    array = _array(name, value)
    if array.size == 0 and array.dtype == np.float64:  # what NumPy makes of [[]]
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: got dtype {array.dtype}, expected integers")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: got {array.max()}, which does not fit 64 bits with a sign")
    return np.asarray(array, np.int64, order="C")


def _mask_array(value: Any, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    array = _array("attention_mask", value)
    if array.shape != shape:
        raise ValueError(f"attention_mask: got shape {array.shape}, expected that of input_ids, {shape}")
    if array.dtype == np.bool_ or array.size == 0:
        return array.astype(np.bool_)
    if array.dtype.kind not in "iu":
        raise TypeError(f"attention_mask: got dtype {array.dtype}, expected bool or integers 0 and 1")
    mask = array.astype(np.bool_)
    if (mask != array).any():
        raise ValueError(
            f"attention_mask: holds {array.min()} to {array.max()}, expected 0 (excluded) and 1 (attended)"
        )
    return mask


def _array(name: str, value: Any) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(
            f"{name}: rows of different lengths; pad them and exclude the padding by attention_mask"
        ) from None


def has_holes(columns: Integers, cu_seqlens: Integers) -> bool:
    """Whether the columns (T,) of some sequence, none of them empty, jump: they ascend."""
    if cu_seqlens.size == 2:
        return int(columns[-1]) - int(columns[0]) != columns.size - 1
    reach = columns[cu_seqlens[1:] - 1] - columns[cu_seqlens[:-1]]
    return int(reach.sum()) != columns.size - (cu_seqlens.size - 1)
