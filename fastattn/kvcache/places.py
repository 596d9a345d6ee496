# SPDX-License-Identifier: MIT
"""Where the queries of a call stand in their streams, and what they may see of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastattn.arrays import as_indices, describe
from fastattn.kvcache.checks import POSITION_MAX, as_count, as_rows

Window = tuple[int | None, int | None]


def own_options(options: dict[str, Any]) -> None:
    """Refuses what a cache knows by itself."""
    for name in ("kv_lengths", "k_scale", "v_scale", "page_table", "ring", "cu_seqlens_q"):
        if name in options:
            raise TypeError(f"{name}: given to attend, expected none: the cache has its own")


def first_positions(
    causal: Any, q_offset: Any, default: np.ndarray, total: np.ndarray, queries: Any
) -> tuple[np.ndarray, bool]:
    """The position of each row's first query, and whether later keys are hidden from it.

    `default`: where the cache places them; `total`: keys of each row; `queries`: how many it has, an int or (B,).
    """
    if not isinstance(causal, (bool, np.bool_, str)):
        raise TypeError(f'causal: {describe(causal)}, expected True, False, "bottom_right" or "top_left"')
    if isinstance(causal, str):
        if causal not in ("top_left", "bottom_right"):
            raise ValueError(f'causal: {causal!r}, expected True, False, "bottom_right" or "top_left"')
        if q_offset is not None:
            raise ValueError(
                f"q_offset: given together with causal={causal!r}, expected one of the two: both place the queries"
            )
        return (total - queries if causal == "bottom_right" else np.zeros_like(total)), True
    if q_offset is None:
        return default, bool(causal)
    offsets = as_rows(q_offset, "q_offset", len(total))
    if max(-int(offsets.min(initial=0)), int(offsets.max(initial=0))) > POSITION_MAX:
        raise ValueError(f"q_offset: beyond {POSITION_MAX}, expected a position")
    return offsets, bool(causal)


def visible(
    own_window: int | None, own_sinks: int, window: Any, sink_tokens: Any, causal: bool
) -> tuple[Window | None, int]:
    """The window and sink tokens of a call, from the cache's own and what was asked for."""
    if own_window is None:
        if sink_tokens is None:
            return window, 0
        return window, as_count(sink_tokens, "sink_tokens", 0)
    sinks = own_sinks if sink_tokens is None else as_count(sink_tokens, "sink_tokens", 0, own_sinks)
    if window is None:
        return (own_window - 1, 0 if causal else None), sinks
    if not isinstance(window, (tuple, list)) or len(window) != 2:
        raise TypeError(f"window: {window!r}, expected (left, right), each an int or None")
    if window[0] is None:
        raise ValueError(f"window: None to the left, expected at most {own_window - 1}: the cache keeps no more")
    left = as_count(window[0], "window", 0, own_window - 1)
    right = None if window[1] is None else as_count(window[1], "window", 0)
    return (left, right), sinks


def check_kept(low: np.ndarray, first: int, offsets: np.ndarray, left: int, scores: Any) -> None:
    """Refuses what would need keys that the ring has written over; `low`: the oldest it holds by row."""
    if not (low > first).any():
        return
    if scores in ("qk", "softcap"):
        raise ValueError(f'return_scores: {scores!r} from a ring that holds no longer every key, expected "bias"')
    needed = np.maximum(offsets - left, first)
    if (needed < low).any():
        row = int(np.flatnonzero(needed < low)[0])
        raise ValueError(
            f"q: a query at position {offsets[row]} of row {row} sees keys from {needed[row]} on, the ring holds "
            f"them from {low[row]} on"
        )


def order_of(rows: Any, name: str, count: int) -> np.ndarray:
    """Indices of rows, (rows,), each below `count`."""
    order = as_indices(rows, name)
    if order.ndim != 1 or not len(order):
        raise ValueError(f"{name}: {describe(order)}, expected at least one row, shape (rows,)")
    if (order < 0).any() or (order >= count).any():
        bad = int(order[(order < 0) | (order >= count)][0])
        raise ValueError(f"{name}: {bad}, expected 0 to {count - 1}")
    return order
