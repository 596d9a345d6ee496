# SPDX-License-Identifier: MIT
"""Scaled dot-product attention over NumPy, buffer and DLPack arrays.

Which keys a query sees, for Sq = 3 and Sk = 5 (1 = seen)::

    causal="top_left"      causal="bottom_right"    causal=True, q_offset=1    window=(1, 0), q_offset=2
      1 0 0 0 0              1 1 1 0 0                1 1 0 0 0                  0 1 1 0 0
      1 1 0 0 0              1 1 1 1 0                1 1 1 0 0                  0 0 1 1 0
      1 1 1 0 0              1 1 1 1 1                1 1 1 1 0                  0 0 0 1 1
"""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import numpy as np

from fastattn import _core
from fastattn.arrays import as_array, as_float32, as_indices, check_out, describe

__all__ = ["AttentionResult", "attention", "attention_varlen"]

_POSITION_MAX = 1 << 46
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class AttentionResult(NamedTuple):
    """What attention returns where more than the output is asked for; None what was not."""

    out: np.ndarray
    lse: np.ndarray | None = None
    weights: np.ndarray | None = None
    scores: np.ndarray | None = None


def attention(
    q: Any, k: Any, v: Any, *,
    mask: Any = None, causal: bool | str = False, q_offset: Any = None, window: Any = None, kv_lengths: Any = None,
    scale: float | None = None, softcap: float | None = None, return_lse: bool = False, return_weights: bool = False,
    out: Any = None, num_threads: int | None = None,
) -> Any:  # fmt: skip
    """softmax(scale * q k^T) v with masks, lengths and grouped heads; the bits depend on the inputs alone.

    Arrays are float32 NumPy arrays, buffers or DLPack CPU tensors of rank 2 to 8, any strides with a unit last one;
    they are read in place. Missing leading dimensions count as 1.

    Args:
        q: (..., Hq, Sq, D)
        k: (..., Hkv, Sk, D), Hq a multiple of Hkv: query head h reads KV head h // (Hq // Hkv)
        v: (..., Hkv, Sk, Dv)
        mask: bool (True = attend) or float32 (added to the scaled scores; -inf excludes), broadcast to
            (..., Hq, Sq, Sk)
        causal: False, "top_left" (query i sees keys j <= i), "bottom_right" (j <= i + Sk - Sq, with kv_lengths its
            lengths in place of Sk), or True, which needs Sq == Sk or q_offset
        q_offset: position of the first query among the keys, int or one per batch row; may be negative. 0 if None
        window: (left, right), None = unbounded: a query at position p sees keys p - left <= j <= p + right
        kv_lengths: (B,) numbers of keys that exist; the memory behind them is never read
        scale: factor of the scores, 1 / sqrt(D) if None; negative and 0 are allowed
        softcap: scores become softcap * tanh(scores / softcap), before the mask
        return_lse: also the natural log-sum-exp of the scores, (..., Hq, Sq)
        return_weights: also the probabilities, (..., Hq, Sq, Sk)
        out: float32 (..., Hq, Sq, Dv) to write into; must not share memory with the inputs
        num_threads: at most this many threads; the process's setting if None

    Returns:
        (..., Hq, Sq, Dv) float32, or an AttentionResult where return_lse or return_weights is set. A query that sees no
        key gives zeros, lse -inf and weights 0. Keys that are excluded contribute nothing, whatever K and V hold there;
        a key whose score is -inf counts as excluded; NaN or +inf in the scores makes that row NaN.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: shapes, strides or values do not fit; the message names the argument, what came, what was expected.

    Source: Vaswani et al. 2017; online softmax: Milakov and Gimelshein 2018; grouped heads: Ainslie et al. 2023.

    >>> import numpy as np, fastattn as fa
    >>> q = np.ones((1, 2, 4, 8), np.float32)
    >>> fa.attention(q, q, q, causal=True).shape
    (1, 2, 4, 8)
    """
    if (
        mask is None and q_offset is None and window is None and kv_lengths is None and softcap is None
        and not return_lse and not return_weights and (causal is False or causal is True)
        and type(q) is np.ndarray and type(k) is np.ndarray and type(v) is np.ndarray and 2 <= q.ndim <= 4
        and (scale is None or type(scale) is float and -1e30 < scale < 1e30)
    ):  # fmt: skip
        # The long way below does the same with every check; this one is for calls that take microseconds.
        target = np.empty(q.shape[:-1] + v.shape[-1:], np.float32) if out is None else out
        factor = 1.0 / math.sqrt(q.shape[-1] or 1) if scale is None else scale
        if type(target) is np.ndarray and _core.attend_plain(q, k, v, target, causal, factor, num_threads):
            return target
    return _attend(
        q,
        k,
        v,
        mask,
        causal,
        q_offset,
        window,
        kv_lengths,
        scale,
        softcap,
        return_lse,
        return_weights,
        out,
        num_threads,
    )


def _attend(
    q: Any, k: Any, v: Any, mask: Any, causal: bool | str, q_offset: Any, window: Any, kv_lengths: Any,
    scale: float | None,
    softcap: float | None, return_lse: bool, return_weights: bool, out: Any, num_threads: int | None,
) -> Any:  # fmt: skip
    given_out = out
    q, k, v = _check_qkv(q, k, v)
    rank, lead = q.ndim, q.shape[:-3]
    heads, sq, sk = (q.shape[-3] if rank > 2 else 1), q.shape[-2], k.shape[-2]
    shape = (*q.shape[:-1], v.shape[-1])
    options = _check_options(scale, softcap, window, q.shape[-1])
    lengths = _check_lengths(kv_lengths, lead, sk)
    offsets, is_causal = _check_causal(causal, q_offset, lead, sq, sk, lengths)
    full_mask = _check_mask(mask, (*shape[:-1], sk), (*lead, heads, sq, sk))
    apart = {"q": q, "k": k, "v": v}
    if isinstance(full_mask, np.ndarray):
        apart["mask"] = full_mask
    result = np.empty(shape, np.float32) if out is None else check_out(out, shape, apart)
    lse = np.empty(shape[:-1], np.float32) if return_lse else None
    weights = np.empty((*shape[:-1], sk), np.float32) if return_weights else None

    # C walks (B, H, S, D); any further dimensions are walked here.
    outer = lead[:-1]
    fixed = dict(options, causal=is_causal, cu_q=None, cu_k=None, num_threads=num_threads)
    for at in np.ndindex(*outer):
        batch = lead[-1] if lead else 1
        _core.attend(
            result[at], _as_rank3(lse, at, batch, heads, sq), None if weights is None else weights[at],
            q[at], k[at], v[at],
            mask=None if full_mask is None else full_mask[at],
            q_offset=None if offsets is None else np.ascontiguousarray(offsets[at]).reshape(batch),
            kv_lengths=None if lengths is None else np.ascontiguousarray(lengths[at]).reshape(batch), **fixed,
        )  # fmt: skip
    returned = result if given_out is None else given_out
    if return_lse or return_weights:
        return AttentionResult(returned, lse, weights, None)
    return returned


def attention_varlen(
    q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, *,
    causal: bool | str = False, q_offset: Any = None, window: Any = None, scale: float | None = None,
    softcap: float | None = None, return_lse: bool = False, return_weights: bool = False, out: Any = None,
    num_threads: int | None = None,
) -> Any:  # fmt: skip
    """Attention over packed sequences, no padding anywhere; each sequence gets the bits it would get alone.

    Args:
        q: (Tq, Hq, D)
        k: (Tk, Hkv, D), Hq a multiple of Hkv
        v: (Tk, Hkv, Dv)
        cu_seqlens_q: (B + 1,) integers from 0 to Tq, ascending: sequence b is rows cu[b] to cu[b + 1]
        cu_seqlens_k: (B + 1,) the same for the keys, to Tk
        causal: as in attention(), by sequence; True needs equal lengths in each sequence, or q_offset
        q_offset: int or (B,)
        window, scale, softcap, out, num_threads: as in attention()
        return_lse: also (Tq, Hq)
        return_weights: also (Tq, Hq, longest key sequence), zeros beyond a sequence's own keys

    Returns:
        (Tq, Hq, Dv) float32, or an AttentionResult where return_lse or return_weights is set.

    Raises:
        TypeError, ValueError: as in attention().

    Source: the packed form of the flash-attention interface.

    >>> import numpy as np, fastattn as fa
    >>> q = np.ones((5, 2, 8), np.float32)
    >>> fa.attention_varlen(q, q, q, [0, 2, 5], [0, 2, 5]).shape
    (5, 2, 8)
    """
    if (
        q_offset is None and window is None and softcap is None and not return_lse and not return_weights
        and (causal is False or causal is True)
        and type(q) is np.ndarray and type(k) is np.ndarray and type(v) is np.ndarray
        and type(cu_seqlens_q) is np.ndarray and type(cu_seqlens_k) is np.ndarray and q.ndim == 3 and v.ndim == 3
        and (scale is None or type(scale) is float and -1e30 < scale < 1e30)
    ):  # fmt: skip
        target = np.empty(q.shape[:-1] + v.shape[-1:], np.float32) if out is None else out
        factor = 1.0 / math.sqrt(q.shape[-1] or 1) if scale is None else scale
        if type(target) is np.ndarray and _core.attend_varlen_plain(
            q, k, v, cu_seqlens_q, cu_seqlens_k, target, causal, factor, num_threads
        ):
            return target
    given_out = out
    arrays = {"q": as_float32(q, "q"), "k": as_float32(k, "k"), "v": as_float32(v, "v")}
    for name, array in arrays.items():
        if array.ndim != 3:
            raise ValueError(f"{name}: rank {array.ndim}, expected 3: (tokens, heads, head size)")
    q, k, v = arrays["q"].transpose(1, 0, 2), arrays["k"].transpose(1, 0, 2), arrays["v"].transpose(1, 0, 2)
    q, k, v = _check_qkv(q, k, v)
    cu_q = _check_cu(cu_seqlens_q, "cu_seqlens_q", q.shape[1])
    cu_k = _check_cu(cu_seqlens_k, "cu_seqlens_k", k.shape[1])
    if len(cu_q) != len(cu_k):
        raise ValueError(f"cu_seqlens_k: {len(cu_k) - 1} sequences, expected {len(cu_q) - 1} as in cu_seqlens_q")
    options = _check_options(scale, softcap, window, q.shape[-1])
    n_q, n_k = np.diff(cu_q), np.diff(cu_k)
    offsets, is_causal = _check_causal_ragged(causal, q_offset, n_q, n_k)
    shape = (arrays["q"].shape[0], arrays["q"].shape[1], v.shape[-1])
    result = np.empty(shape, np.float32) if out is None else check_out(out, shape, arrays)
    lse = np.empty(shape[:2], np.float32) if return_lse else None
    weights = np.empty((*shape[:2], int(n_k.max(initial=0))), np.float32) if return_weights else None
    _core.attend(
        result.transpose(1, 0, 2), None if lse is None else lse.T[None],
        None if weights is None else weights.transpose(1, 0, 2), q, k, v, mask=None, q_offset=offsets, kv_lengths=None,
        causal=is_causal, cu_q=cu_q, cu_k=cu_k, num_threads=num_threads, **options,
    )  # fmt: skip
    returned = result if given_out is None else given_out
    if return_lse or return_weights:
        return AttentionResult(returned, lse, weights, None)
    return returned


# ---- checks ----------------------------------------------------------------------------------------------------------


def _check_qkv(q: Any, k: Any, v: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    q, k, v = as_float32(q, "q"), as_float32(k, "k"), as_float32(v, "v")
    if not 2 <= q.ndim <= 8:
        raise ValueError(f"q: rank {q.ndim}, expected 2 to 8: (..., heads, queries, head size)")
    for name, array in (("k", k), ("v", v)):
        if array.ndim != q.ndim:
            raise ValueError(f"{name}: rank {array.ndim}, expected {q.ndim} as q has")
        if array.shape[:-3] != q.shape[:-3]:
            raise ValueError(f"{name}: leading dimensions {array.shape[:-3]}, expected {q.shape[:-3]} as q has")
    if not 1 <= q.shape[-1] <= 4096:
        raise ValueError(f"q: head size {q.shape[-1]}, expected 1 to 4096")
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(f"k: head size {k.shape[-1]}, expected {q.shape[-1]} as q has")
    if not 1 <= v.shape[-1] <= 4096:
        raise ValueError(f"v: head size {v.shape[-1]}, expected 1 to 4096")
    if v.shape[-2] != k.shape[-2]:
        raise ValueError(f"v: {v.shape[-2]} keys, expected {k.shape[-2]} as k has")
    if q.ndim > 2:
        if v.shape[-3] != k.shape[-3]:
            raise ValueError(f"v: {v.shape[-3]} heads, expected {k.shape[-3]} as k has")
        if k.shape[-3] < 1 or q.shape[-3] % k.shape[-3] != 0:
            raise ValueError(f"k: {k.shape[-3]} heads, expected a number that divides the {q.shape[-3]} heads of q")
    return q, k, v


def _check_real(value: Any, name: str) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: {describe(value)}, expected a real number")
    number = float(value)
    if not abs(number) <= _FLOAT32_MAX:
        raise ValueError(f"{name}: {value}, expected a finite float32")
    return number


def _check_options(scale: float | None, softcap: float | None, window: Any, d: int) -> dict[str, Any]:
    left = right = -1
    if window is not None:
        if not isinstance(window, (tuple, list)) or len(window) != 2:
            raise TypeError(f"window: {window!r}, expected (left, right), each an int or None")
        left, right = (_check_window(side) for side in window)
    cap = 0.0
    if softcap is not None:
        cap = _check_real(softcap, "softcap")
        if cap < 2e-38:
            raise ValueError(f"softcap: {softcap}, expected a positive number of at least 2e-38")
    return {
        "scale": 1.0 / math.sqrt(d) if scale is None else _check_real(scale, "scale"),
        "softcap": cap,
        "window_left": left,
        "window_right": right,
    }


def _check_window(side: Any) -> int:
    if side is None:
        return -1
    if isinstance(side, (bool, np.bool_)):
        raise TypeError(f"window: {side!r}, expected an int or None")
    try:
        size = operator.index(side)
    except TypeError:
        raise TypeError(f"window: {describe(side)}, expected an int or None") from None
    if size < 0:
        raise ValueError(f"window: {size}, expected at least 0, or None for unbounded")
    return min(size, _POSITION_MAX)


def _check_lengths(kv_lengths: Any, lead: tuple[int, ...], sk: int) -> np.ndarray | None:
    if kv_lengths is None:
        return None
    lengths = _per_row(kv_lengths, "kv_lengths", lead)
    if lengths.size and not (int(lengths.min()) >= 0 and int(lengths.max()) <= sk):
        bad = lengths[(lengths < 0) | (lengths > sk)].flat[0]
        raise ValueError(f"kv_lengths: {int(bad)}, expected 0 to {sk}, the number of keys")
    return lengths


def _per_row(value: Any, name: str, lead: tuple[int, ...]) -> np.ndarray:
    """Integers, one for each batch row: of shape `lead`; for arrays without batch dimension one number."""
    array = as_indices(value, name)
    shape = lead or (1,)
    if array.shape != shape:
        raise ValueError(f"{name}: shape {array.shape}, expected {shape}, one for each batch row")
    return array


def _check_offset(q_offset: Any, lead: tuple[int, ...]) -> np.ndarray:
    if isinstance(q_offset, (bool, np.bool_)):
        raise TypeError(f"q_offset: {q_offset!r}, expected an int or integers of shape {lead or (1,)}")
    array = as_indices(q_offset, "q_offset")
    array = np.full(lead or (1,), array, np.int64) if array.shape in ((), (1,)) else _per_row(array, "q_offset", lead)
    if array.size and max(-int(array.min()), int(array.max())) > _POSITION_MAX:
        raise ValueError(f"q_offset: beyond {_POSITION_MAX}, expected a position")
    return array


def _causal_kind(causal: Any, q_offset: Any) -> str:
    """'', 'offset', 'top_left' or 'bottom_right'."""
    if isinstance(causal, (bool, np.bool_)):
        return "offset" if causal else ""
    if not isinstance(causal, str):
        raise TypeError(f'causal: {describe(causal)}, expected False, True, "top_left" or "bottom_right"')
    if causal not in ("top_left", "bottom_right"):
        raise ValueError(f'causal: {causal!r}, expected False, True, "top_left" or "bottom_right"')
    if q_offset is not None:
        raise ValueError(
            f"q_offset: given together with causal={causal!r}, expected one of the two: both say where queries stand"
        )
    return causal


def _check_causal(
    causal: Any, q_offset: Any, lead: tuple[int, ...], sq: int, sk: int, lengths: np.ndarray | None
) -> tuple[np.ndarray | None, bool]:
    kind = _causal_kind(causal, q_offset)
    if kind == "bottom_right":
        return (np.full(lead or (1,), sk, np.int64) if lengths is None else lengths) - sq, True
    if q_offset is not None:
        return _check_offset(q_offset, lead), bool(kind)
    if kind == "offset" and sq != sk:
        raise ValueError(
            f"causal: True with {sq} queries and {sk} keys, expected equal numbers, q_offset, "
            '"top_left" or "bottom_right"'
        )
    return None, bool(kind)


def _check_causal_ragged(
    causal: Any, q_offset: Any, n_q: np.ndarray, n_k: np.ndarray
) -> tuple[np.ndarray | None, bool]:
    kind = _causal_kind(causal, q_offset)
    if kind == "bottom_right":
        return np.ascontiguousarray(n_k - n_q), True
    if q_offset is not None:
        return _check_offset(q_offset, n_q.shape), bool(kind)
    if kind == "offset" and (n_q != n_k).any():
        b = int(np.flatnonzero(n_q != n_k)[0])
        raise ValueError(
            f"causal: True with {n_q[b]} queries and {n_k[b]} keys in sequence {b}, expected equal numbers, q_offset, "
            '"top_left" or "bottom_right"'
        )
    return None, bool(kind)


def _check_mask(mask: Any, shape: tuple[int, ...], full: tuple[int, ...]) -> np.ndarray | None:
    """The mask as a view of shape `full`; its last stride is one element, or zero where it is broadcast."""
    if mask is None:
        return None
    array = as_array(mask, "mask")
    if array.dtype != np.bool_ and (array.dtype != np.float32 or not array.dtype.isnative):
        raise TypeError(f"mask: dtype {array.dtype}, expected bool (True = attend) or float32 (added)")
    try:
        view = np.broadcast_to(array, shape).reshape(full) if shape == full else np.broadcast_to(array, shape)[None]
    except ValueError:
        raise ValueError(f"mask: shape {array.shape}, expected one that broadcasts to {shape}") from None
    if (view.shape[-1] > 1 and view.strides[-1] not in (0, view.itemsize)) or not view.flags.aligned:
        compact = np.ascontiguousarray(array)  # what was given, not what it is broadcast to
        return _check_mask(compact, shape, full)
    return view


def _check_cu(value: Any, name: str, total: int) -> np.ndarray:
    cu = as_indices(value, name)
    if cu.ndim != 1 or len(cu) < 1:
        raise ValueError(f"{name}: shape {cu.shape}, expected (number of sequences + 1,)")
    if cu[0] != 0 or cu[-1] != total:
        raise ValueError(f"{name}: from {cu[0]} to {cu[-1]}, expected from 0 to {total}, the number of tokens")
    if (cu[1:] < cu[:-1]).any():
        at = int(np.flatnonzero(cu[1:] < cu[:-1])[0])
        raise ValueError(f"{name}: falls from {cu[at]} to {cu[at + 1]} at {at + 1}, expected ascending numbers")
    return cu


def _as_rank3(lse: np.ndarray | None, at: tuple[int, ...], batch: int, heads: int, sq: int) -> np.ndarray | None:
    return None if lse is None else lse[at].reshape(batch, heads, sq)
