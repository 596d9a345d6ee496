# SPDX-License-Identifier: MIT
"""attention_varlen(): sequences of any lengths behind each other, no padding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, overload

import numpy as np

from fastattn import _core
from fastattn.arrays import as_indices
from fastattn.attention import options as check
from fastattn.attention.dense import check_qkv
from fastattn.attention.result import Target, make_target
from fastattn.attention.storage import as_stored

if TYPE_CHECKING:
    from typing import Unpack

    from numpy.typing import NDArray

    from fastattn.attention.result import AttentionResult
    from fastattn.typing import (
        Array,
        BlockMask,
        Causal,
        Indices,
        OutT,
        RelativeBias,
        ScoreStage,
        StoredT,
        VarlenOptions,
        Window,
    )

__all__ = ["as_packed", "attention_varlen", "check_cu"]


@overload
def attention_varlen(
    q: NDArray[StoredT], k: Array, v: Array, cu_seqlens_q: Indices, cu_seqlens_k: Indices, *,
    return_lse: Literal[False] = ..., return_weights: Literal[False] = ..., return_scores: None = ...,
    out: None = ..., **options: Unpack[VarlenOptions],
) -> NDArray[StoredT]: ...  # fmt: skip
@overload
def attention_varlen(
    q: Array, k: Array, v: Array, cu_seqlens_q: Indices, cu_seqlens_k: Indices, *,
    return_lse: Literal[False] = ..., return_weights: Literal[False] = ..., return_scores: None = ...,
    out: None = ..., **options: Unpack[VarlenOptions],
) -> NDArray[Any]: ...  # fmt: skip
@overload
def attention_varlen(
    q: Array, k: Array, v: Array, cu_seqlens_q: Indices, cu_seqlens_k: Indices, *,
    return_lse: Literal[False] = ..., return_weights: Literal[False] = ..., return_scores: None = ...,
    out: OutT, **options: Unpack[VarlenOptions],
) -> OutT: ...  # fmt: skip
@overload
def attention_varlen(
    q: Array, k: Array, v: Array, cu_seqlens_q: Indices, cu_seqlens_k: Indices, *,
    return_lse: Literal[True], return_weights: bool = ..., return_scores: ScoreStage | None = ...,
    out: Array | None = ..., **options: Unpack[VarlenOptions],
) -> AttentionResult: ...  # fmt: skip
@overload
def attention_varlen(
    q: Array, k: Array, v: Array, cu_seqlens_q: Indices, cu_seqlens_k: Indices, *,
    return_lse: bool = ..., return_weights: Literal[True], return_scores: ScoreStage | None = ...,
    out: Array | None = ..., **options: Unpack[VarlenOptions],
) -> AttentionResult: ...  # fmt: skip
@overload
def attention_varlen(
    q: Array, k: Array, v: Array, cu_seqlens_q: Indices, cu_seqlens_k: Indices, *,
    return_lse: bool = ..., return_weights: bool = ..., return_scores: ScoreStage,
    out: Array | None = ..., **options: Unpack[VarlenOptions],
) -> AttentionResult: ...  # fmt: skip
@overload
def attention_varlen(
    q: Array, k: Array, v: Array, cu_seqlens_q: Indices, cu_seqlens_k: Indices, *,
    return_lse: bool = ..., return_weights: bool = ..., return_scores: ScoreStage | None = ...,
    out: OutT | None = ..., **options: Unpack[VarlenOptions],
) -> OutT | NDArray[Any] | AttentionResult: ...  # fmt: skip
def attention_varlen(
    q: Array, k: Array, v: Array, cu_seqlens_q: Indices, cu_seqlens_k: Indices, *, causal: Causal = False,
    q_offset: Indices | None = None, window: Window | None = None, scale: float | None = None,
    softcap: float | None = None, alibi_slopes: Array | None = None, sinks: Array | None = None,
    relative_bias: RelativeBias | None = None, block_mask: BlockMask | None = None, k_scale: Array | None = None,
    v_scale: Array | None = None, sink_tokens: SupportsIndex = 0, return_lse: bool = False,
    return_weights: bool = False, return_scores: ScoreStage | None = None, out: Array | None = None,
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
        window, scale, softcap, sinks, relative_bias, sink_tokens, out, num_threads: as in attention()
        alibi_slopes: (Hq,) or (B, Hq)
        block_mask: as in attention(), blocks counted from the start of each sequence and covering the longest ones:
            broadcast to (B, Hq, ceil(longest Sq / rows), ceil(longest Sk / cols)), or CSR lists
        k_scale, v_scale: (Tk, Hkv) with int8 k and v
        return_lse: also (Tq, Hq)
        return_weights: also (Tq, Hq, longest key sequence), zeros beyond a sequence's own keys
        return_scores: also (Tq, Hq, longest key sequence), -inf beyond a sequence's own keys

    Returns:
        (Tq, Hq, Dv) of q's type, or an AttentionResult where a return option is set.

    Raises:
        TypeError, ValueError: as in attention().

    Source: the packed form of the flash-attention interface.

    >>> import numpy as np, fastattn as fa
    >>> q = np.ones((5, 2, 8), np.float32)
    >>> fa.attention_varlen(q, q, q, [0, 2, 5], [0, 2, 5]).shape
    (5, 2, 8)
    """
    if (
        q_offset is None and window is None and softcap is None and alibi_slopes is None and sinks is None
        and relative_bias is None and block_mask is None and k_scale is None and v_scale is None and not sink_tokens
        and not return_lse and not return_weights and return_scores is None
        and (causal is False or causal is True)
        and type(q) is np.ndarray and type(k) is np.ndarray and type(v) is np.ndarray
        and type(cu_seqlens_q) is np.ndarray and type(cu_seqlens_k) is np.ndarray and q.ndim == 3 and v.ndim == 3
        and (scale is None or type(scale) is float and -1e30 < scale < 1e30)
    ):  # fmt: skip
        fast = np.empty(q.shape[:-1] + v.shape[-1:], q.dtype) if out is None else out
        factor = 1.0 / math.sqrt(q.shape[-1] or 1) if scale is None else scale
        if type(fast) is np.ndarray and _core.attend_varlen_plain(
            q, k, v, cu_seqlens_q, cu_seqlens_k, fast, causal, factor, num_threads
        ):
            return fast
    given, keys, values = check_qkv(as_packed(q, "q"), as_packed(k, "k", True), as_packed(v, "v", True))
    qa, ka, va = given.array, keys.array, values.array
    cu_q = check_cu(cu_seqlens_q, "cu_seqlens_q", qa.shape[1])
    cu_k = check_cu(cu_seqlens_k, "cu_seqlens_k", ka.shape[1])
    if len(cu_q) != len(cu_k):
        raise ValueError(f"cu_seqlens_k: {len(cu_k) - 1} sequences, expected {len(cu_q) - 1} as in cu_seqlens_q")
    n_q, n_k = np.diff(cu_q), np.diff(cu_k)
    heads, lead, longest = qa.shape[0], n_q.shape, (int(n_q.max(initial=0)), int(n_k.max(initial=0)))
    options: dict[str, Any] = {
        **check.check_scalars(scale, softcap, qa.shape[-1]),
        **check.check_window(window, sink_tokens),
        "score_stage": check.check_scores(return_scores),
        "alibi": check.check_slopes(alibi_slopes, lead, heads),
        **_packed_scales(check.check_scales(keys, k_scale, v_scale, ka.shape[1::-1])),
    }
    offsets, options["causal"] = check.check_causal(causal, q_offset, lead, n_q, n_k)
    furthest = 0 if offsets is None else int(np.abs(offsets).max(initial=0))
    options.update(check.check_heads(sinks, relative_bias, heads, sum(longest) + furthest))
    options["block_mask"], size = check.check_block_mask(block_mask, lead, heads, *longest)
    options.update(size)
    apart = {"q": qa, "k": ka, "v": va}
    apart |= {name: array for name, array in options.items() if isinstance(array, np.ndarray)}
    shape = (qa.shape[1], heads, va.shape[-1])
    stage = options["score_stage"]
    target = make_target(out, given, shape, longest[1], apart, return_lse, return_weights, stage)
    _core.attend(
        *heads_first(target), qa, ka, va, scores=_turned(target.scores), q_offset=offsets, cu_q=cu_q, cu_k=cu_k,
        num_threads=num_threads, **options,
    )  # fmt: skip
    return target.result()


def as_packed(value: Any, name: str, int8: bool = False) -> np.ndarray:
    """(tokens, heads, head size) as a view (heads, tokens, head size)."""
    stored = as_stored(value, name, int8)
    if stored.array.ndim != 3:
        raise ValueError(f"{name}: rank {stored.array.ndim}, expected 3: (tokens, heads, head size)")
    array = stored.array.transpose(1, 0, 2)
    return array if stored.given is None else array.view(stored.given)


def check_cu(value: Any, name: str, total: int) -> np.ndarray:
    """Bounds of packed sequences, from 0 to the number of tokens."""
    cu = as_indices(value, name)
    if cu.ndim != 1 or len(cu) < 1:
        raise ValueError(f"{name}: shape {cu.shape}, expected (number of sequences + 1,)")
    if cu[0] != 0 or cu[-1] != total:
        raise ValueError(f"{name}: from {cu[0]} to {cu[-1]}, expected from 0 to {total}, the number of tokens")
    if (cu[1:] < cu[:-1]).any():
        at = int(np.flatnonzero(cu[1:] < cu[:-1])[0])
        raise ValueError(f"{name}: falls from {cu[at]} to {cu[at + 1]} at {at + 1}, expected ascending numbers")
    return cu


def _packed_scales(scales: dict[str, np.ndarray | None]) -> dict[str, np.ndarray | None]:
    return {name: None if array is None else array.T[None] for name, array in scales.items()}


def _turned(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else array.transpose(1, 0, 2)


def heads_first(target: Target) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """out, lse and weights of packed sequences as the core takes them."""
    lse = None if target.lse is None else target.lse.T[None]
    return target.out.transpose(1, 0, 2), lse, _turned(target.weights)
