# SPDX-License-Identifier: MIT
"""The options of attention: each is checked here, and refused by name, before anything is computed."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from fastattn.arrays import as_array, as_indices, as_real, describe
from fastattn.attention.relative import bias_by_distance, check_relative_bias
from fastattn.attention.storage import Stored, as_floats

__all__ = [
    "POSITION_MAX",
    "SCORE_STAGES",
    "check_block_mask",
    "check_causal",
    "check_heads",
    "check_mask",
    "check_offset",
    "check_scalars",
    "check_scales",
    "check_scores",
    "check_slopes",
    "check_window",
]

POSITION_MAX = 1 << 46
SCORE_STAGES = {"qk": 1, "softcap": 2, "bias": 3}
_KINDS = 'False, True, "top_left" or "bottom_right"'


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _count(value: Any, name: str, expected: str) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: {value!r}, expected {expected}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: {describe(value)}, expected {expected}") from None


def check_scalars(scale: Any, softcap: Any, d: int) -> dict[str, float]:
    """scale and softcap, 0 for none."""
    cap = 0.0
    if softcap is not None:
        cap = as_real(softcap, "softcap")
        if cap < 2e-38:
            raise ValueError(f"softcap: {softcap}, expected a positive number of at least 2e-38")
    return {"scale": 1.0 / math.sqrt(d) if scale is None else as_real(scale, "scale"), "softcap": cap}


def check_window(window: Any, sink_tokens: Any) -> dict[str, int]:
    """window_left and window_right, -1 for unbounded, and sink_tokens."""
    left = right = -1
    if window is not None:
        if not isinstance(window, (tuple, list)) or len(window) != 2:
            raise TypeError(f"window: {window!r}, expected (left, right), each an int or None")
        left, right = (_side(side) for side in window)
    sinks = _count(sink_tokens, "sink_tokens", "an int")
    if not 0 <= sinks <= POSITION_MAX:
        raise ValueError(f"sink_tokens: {sinks}, expected at least 0 and at most {POSITION_MAX}")
    if sinks and window is None:
        raise ValueError(f"sink_tokens: {sinks} without a window, expected one: without it every key is seen")
    return {"window_left": left, "window_right": right, "sink_tokens": sinks}


def _side(side: Any) -> int:
    if side is None:
        return -1
    size = _count(side, "window", "an int or None")
    if size < 0:
        raise ValueError(f"window: {size}, expected at least 0, or None for unbounded")
    return min(size, POSITION_MAX)


def check_scores(return_scores: Any) -> int:
    """The number of the stage, 0 for None."""
    if return_scores is None:
        return 0
    if not isinstance(return_scores, str):
        raise TypeError(f'return_scores: {describe(return_scores)}, expected None, "qk", "softcap" or "bias"')
    if return_scores not in SCORE_STAGES:
        raise ValueError(f'return_scores: {return_scores!r}, expected None, "qk", "softcap" or "bias"')
    return SCORE_STAGES[return_scores]


# ---- where queries stand ---------------------------------------------------------------------------------------------


def per_row(value: Any, name: str, lead: tuple[int, ...]) -> np.ndarray:
    """Integers, one for each batch row: of shape `lead`; for arrays without batch dimension one number."""
    array = as_indices(value, name)
    shape = lead or (1,)
    if array.shape != shape:
        raise ValueError(f"{name}: shape {array.shape}, expected {shape}, one for each batch row")
    return array


def check_lengths(kv_lengths: Any, lead: tuple[int, ...], sk: int) -> np.ndarray | None:
    """kv_lengths, each from 0 to the number of keys."""
    if kv_lengths is None:
        return None
    lengths = per_row(kv_lengths, "kv_lengths", lead)
    if lengths.size and not (int(lengths.min()) >= 0 and int(lengths.max()) <= sk):
        bad = lengths[(lengths < 0) | (lengths > sk)].flat[0]
        raise ValueError(f"kv_lengths: {int(bad)}, expected 0 to {sk}, the number of keys")
    return lengths


def check_offset(q_offset: Any, lead: tuple[int, ...]) -> np.ndarray:
    """q_offset as one int64 for each batch row."""
    if isinstance(q_offset, (bool, np.bool_)):
        raise TypeError(f"q_offset: {q_offset!r}, expected an int or integers of shape {lead or (1,)}")
    array = as_indices(q_offset, "q_offset")
    array = np.full(lead or (1,), array, np.int64) if array.shape in ((), (1,)) else per_row(array, "q_offset", lead)
    if array.size and max(-int(array.min()), int(array.max())) > POSITION_MAX:
        raise ValueError(f"q_offset: beyond {POSITION_MAX}, expected a position")
    return array


def check_causal(
    causal: Any, q_offset: Any, lead: tuple[int, ...], n_q: np.ndarray | int, n_k: np.ndarray | int
) -> tuple[np.ndarray | None, bool]:
    """Offsets of the batch rows (None: 0) and whether later keys are hidden; n_q, n_k are numbers by row or for all."""
    kind = _causal_kind(causal, q_offset)
    if kind == "bottom_right":
        return np.ascontiguousarray(np.broadcast_to(np.subtract(n_k, n_q), lead or (1,)), np.int64), True
    if q_offset is not None:
        return check_offset(q_offset, lead), bool(kind)
    if kind == "offset" and np.not_equal(n_q, n_k).any():
        where = ""
        if isinstance(n_q, np.ndarray):
            b = int(np.flatnonzero(n_q != n_k)[0])
            n_q, n_k, where = int(n_q[b]), int(np.asarray(n_k)[b]), f" in sequence {b}"
        raise ValueError(
            f"causal: True with {n_q} queries and {n_k} keys{where}, expected equal numbers, q_offset, "
            '"top_left" or "bottom_right"'
        )
    return None, bool(kind)


def _causal_kind(causal: Any, q_offset: Any) -> str:
    """'', 'offset', 'top_left' or 'bottom_right'."""
    if isinstance(causal, (bool, np.bool_)):
        return "offset" if causal else ""
    if not isinstance(causal, str):
        raise TypeError(f"causal: {describe(causal)}, expected {_KINDS}")
    if causal not in ("top_left", "bottom_right"):
        raise ValueError(f"causal: {causal!r}, expected {_KINDS}")
    if q_offset is not None:
        raise ValueError(
            f"q_offset: given together with causal={causal!r}, expected one of the two: both say where queries stand"
        )
    return causal


# ---- masks -----------------------------------------------------------------------------------------------------------


def check_mask(mask: Any, shape: tuple[int, ...], full: tuple[int, ...]) -> np.ndarray | None:
    """The mask as a view of shape `full`; its last stride is one element, or zero where it is broadcast."""
    if mask is None:
        return None
    array = as_array(mask, "mask")
    if array.dtype != np.bool_:
        try:
            array = as_floats(array, "mask")
        except TypeError:
            raise TypeError(
                f"mask: dtype {array.dtype}, expected bool (True = attend) or float32, float16, bfloat16 (added)"
            ) from None
    try:
        view = np.broadcast_to(array, shape).reshape(full) if shape == full else np.broadcast_to(array, shape)[None]
    except ValueError:
        raise ValueError(f"mask: shape {array.shape}, expected one that broadcasts to {shape}") from None
    if (view.shape[-1] > 1 and view.strides[-1] not in (0, view.itemsize)) or not view.flags.aligned:
        compact = np.ascontiguousarray(array)  # what was given, not what it is broadcast to
        return check_mask(compact, shape, full)
    return view


def check_block_mask(
    block_mask: Any, lead: tuple[int, ...], heads: int, sq: int, sk: int
) -> tuple[np.ndarray | None, dict[str, int]]:
    """Blocks broadcast to (*lead, heads, rows of blocks, columns of blocks), and the size of one."""
    if block_mask is None:
        return None, {"block_rows": 0, "block_cols": 0}
    expected = "(blocks, (rows, cols)) with bool blocks or a tuple (indptr, indices)"
    if not isinstance(block_mask, (tuple, list)) or len(block_mask) != 2:
        raise TypeError(f"block_mask: {describe(block_mask)}, expected {expected}")
    blocks, size = block_mask
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise TypeError(f"block_mask: block size {size!r}, expected (rows, cols)")
    rows, cols = (_count(side, "block_mask", "block sizes that are ints") for side in size)
    if not (1 <= rows <= POSITION_MAX and 1 <= cols <= POSITION_MAX):
        raise ValueError(f"block_mask: blocks of {rows} x {cols}, expected at least 1 x 1")
    grid = (-(-sq // rows), -(-sk // cols))
    if isinstance(blocks, tuple):
        if len(blocks) != 2:
            raise TypeError(f"block_mask: a tuple of {len(blocks)}, expected (indptr, indices)")
        array = _from_csr(blocks[0], blocks[1], grid, heads)
    else:
        array = np.asarray(blocks) if isinstance(blocks, list) else as_array(blocks, "block_mask")
    if array.dtype != np.bool_:
        raise TypeError(f"block_mask: dtype {array.dtype}, expected {expected}")
    full = (*lead, heads, *grid)
    if array.ndim >= 2 and any(n not in (1, wanted) for n, wanted in zip(array.shape[-2:], grid, strict=True)):
        raise ValueError(
            f"block_mask: {array.shape[-2]} x {array.shape[-1]} blocks of {rows} x {cols}, expected {grid[0]} x "
            f"{grid[1]} to cover {sq} queries and {sk} keys"
        )
    try:
        view = np.broadcast_to(array, full)
    except ValueError:
        raise ValueError(f"block_mask: shape {array.shape}, expected one that broadcasts to {full}") from None
    if view.shape[-1] > 1 and view.strides[-1] != 1:
        view = np.broadcast_to(np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:-1], grid[1]))), full)
    return (view if lead else view[None]), {"block_rows": rows, "block_cols": cols}


def _from_csr(indptr: Any, indices: Any, grid: tuple[int, int], heads: int) -> np.ndarray:
    starts, columns = as_indices(indptr, "block_mask (indptr)"), as_indices(indices, "block_mask (indices)")
    if starts.shape not in ((grid[0] + 1,), (heads, grid[0] + 1)):
        raise ValueError(
            f"block_mask (indptr): shape {starts.shape}, expected ({grid[0] + 1},) or ({heads}, {grid[0] + 1}): the "
            "rows of blocks, and one"
        )
    if columns.ndim != 1:
        raise ValueError(f"block_mask (indices): rank {columns.ndim}, expected 1")
    if starts.size and (int(starts.min()) < 0 or int(starts.max()) > len(columns) or (np.diff(starts) < 0).any()):
        raise ValueError(
            f"block_mask (indptr): numbers from {int(starts.min())} to {int(starts.max())}, expected ascending ones "
            f"from 0 to at most {len(columns)}, the number of indices"
        )
    if columns.size and not (int(columns.min()) >= 0 and int(columns.max()) < grid[1]):
        bad = columns[(columns < 0) | (columns >= grid[1])][0]
        raise ValueError(f"block_mask (indices): {int(bad)}, expected 0 to {grid[1] - 1}, a column of blocks")
    rows = starts.reshape(-1, grid[0] + 1)
    array = np.zeros((len(rows), *grid), np.bool_)
    for head, row in enumerate(rows):
        used = np.repeat(np.arange(grid[0]), np.diff(row))
        array[head, used, columns[int(row[0]) : int(row[-1])]] = True
    return array[0] if starts.ndim == 1 else array


# ---- by head ---------------------------------------------------------------------------------------------------------


def check_slopes(alibi_slopes: Any, lead: tuple[int, ...], heads: int) -> np.ndarray | None:
    """ALiBi slopes as a view (*lead, heads)."""
    if alibi_slopes is None:
        return None
    array = as_floats(alibi_slopes, "alibi_slopes")
    if array.shape not in ((heads,), (*lead, heads)):
        wanted = f"({heads},)" + (f" or {(*lead, heads)}" if lead else "")
        raise ValueError(f"alibi_slopes: shape {array.shape}, expected {wanted}")
    return np.broadcast_to(array, (*(lead or (1,)), heads))


def check_heads(sinks: Any, relative_bias: Any, heads: int, reach: int) -> dict[str, np.ndarray | None]:
    """sinks (heads,) and the bias by distance (heads, 2 R + 1); reach: the largest distance there is."""
    if sinks is not None:
        sinks = as_floats(sinks, "sinks")
        if sinks.shape != (heads,):
            raise ValueError(f"sinks: shape {sinks.shape}, expected ({heads},), a logit for each query head")
    bias = None
    if relative_bias is not None:
        bias = bias_by_distance(*check_relative_bias(relative_bias, heads), reach)
    return {"sinks": sinks, "bias": bias}


def check_scales(k: Stored, k_scale: Any, v_scale: Any, shape: tuple[int, ...]) -> dict[str, np.ndarray | None]:
    """k_scale and v_scale of `shape`: with int8 both, else neither."""
    scales: dict[str, np.ndarray | None] = {}
    for name, value in (("k_scale", k_scale), ("v_scale", v_scale)):
        if k.array.dtype == np.int8 and value is None:
            raise ValueError(f"{name}: None, expected the scales of the int8 values, shape {shape}")
        if k.array.dtype != np.int8 and value is not None:
            raise ValueError(f"{name}: given with {k.array.dtype} values, expected None: scales go with int8")
        array = None if value is None else as_floats(value, name)
        if array is not None and array.shape != shape:
            raise ValueError(f"{name}: shape {array.shape}, expected {shape}")
        if array is not None and not array.flags.aligned:
            raise ValueError(f"{name}: data not aligned to 4 bytes; a copy would be")
        scales[name] = array
    return scales
