# SPDX-License-Identifier: MIT
"""Attention of packed sequences whose tokens do not stand side by side: what models call where masks have holes."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastattn import _core
from fastattn.arrays import as_indices
from fastattn.attention import options as check
from fastattn.attention.dense import check_qkv
from fastattn.attention.packed import as_packed, check_cu, heads_first
from fastattn.attention.result import make_target

__all__ = ["attend_positions"]


def attend_positions(
    q: Any, k: Any, v: Any, cu_seqlens: Any, positions: Any, *, causal: bool = False, window: Any = None,
    scale: float | None = None, softcap: float | None = None, sinks: Any = None, relative_bias: Any = None,
    out: Any = None, num_threads: int | None = None,
) -> Any:  # fmt: skip
    """attention_varlen() of each sequence to itself, distances counted in positions: windows, causality, biases.

    Args:
        q: (T, Hq, D)
        k: (T, Hkv, D), Hq a multiple of Hkv
        v: (T, Hkv, Dv)
        cu_seqlens: (B + 1,) integers from 0 to T, ascending
        positions: (T,) integers, ascending strictly within a sequence, at most 2^46 from 0. Where they go up by one
            the bits are those of attention_varlen()
        causal, window, scale, softcap, sinks, relative_bias, out, num_threads: as in attention_varlen()

    Returns:
        (T, Hq, Dv) of q's type.

    Raises:
        TypeError, ValueError: as in attention_varlen(), and for positions that do not ascend.
    """
    given, keys, values = check_qkv(as_packed(q, "q"), as_packed(k, "k"), as_packed(v, "v"))
    qa, ka, va = given.array, keys.array, values.array
    heads, tokens = qa.shape[:2]
    if ka.shape[1] != tokens:
        raise ValueError(f"k: {ka.shape[1]} tokens, expected {tokens} as q has")
    cu = check_cu(cu_seqlens, "cu_seqlens", tokens)
    places = check_positions(positions, cu)
    starts, stops = cu[:-1], cu[1:]
    filled = stops > starts
    reach = int((places[stops[filled] - 1] - places[starts[filled]]).max(initial=0))
    options: dict[str, Any] = {
        **check.check_scalars(scale, softcap, qa.shape[-1]),
        **check.check_window(window, 0),
        **check.check_heads(sinks, relative_bias, heads, reach),
    }
    apart = {"q": qa, "k": ka, "v": va}
    apart |= {name: array for name, array in options.items() if isinstance(array, np.ndarray)}
    target = make_target(out, given, (tokens, heads, va.shape[-1]), 0, apart, False, False, 0)
    _core.attend(
        *heads_first(target), qa, ka, va, cu_q=cu, cu_k=cu, positions=places, causal=causal, num_threads=num_threads,
        **options,
    )  # fmt: skip
    return target.result()


def check_positions(positions: Any, cu: np.ndarray) -> np.ndarray:
    """Where the tokens of packed sequences stand: ascending strictly in each."""
    places = as_indices(positions, "positions")
    if places.shape != (int(cu[-1]),):
        raise ValueError(f"positions: shape {places.shape}, expected ({int(cu[-1])},), one for each token")
    if not places.size:
        return places
    lowest, highest = int(places.min()), int(places.max())
    if lowest < -check.POSITION_MAX or highest > check.POSITION_MAX:
        bad = lowest if lowest < -check.POSITION_MAX else highest
        raise ValueError(f"positions: {bad}, expected {-check.POSITION_MAX} to {check.POSITION_MAX}")
    falls = places[1:] <= places[:-1]
    starts = cu[1:-1]
    falls[starts[(starts > 0) & (starts < places.size)] - 1] = False
    if falls.any():
        at = int(np.flatnonzero(falls)[0])
        raise ValueError(
            f"positions: {int(places[at + 1])} behind {int(places[at])} at {at + 1}, expected numbers that ascend in "
            "each sequence"
        )
    return places
