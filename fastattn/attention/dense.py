# SPDX-License-Identifier: MIT
"""attention(): arrays (..., heads, sequence, head size)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, overload

import numpy as np

from fastattn import _core
from fastattn.attention import options as check
from fastattn.attention.result import make_target
from fastattn.attention.storage import Stored, as_stored

if TYPE_CHECKING:
    from typing import Unpack

    from numpy.typing import NDArray

    from fastattn.attention.result import AttentionResult
    from fastattn.typing import (
        Array,
        AttentionOptions,
        BlockMask,
        Causal,
        Indices,
        OutT,
        RelativeBias,
        ScoreStage,
        StoredT,
        Window,
    )

__all__ = ["attention", "check_qkv", "check_sizes"]


@overload
def attention(
    q: NDArray[StoredT], k: Array, v: Array, *,
    return_lse: Literal[False] = ..., return_weights: Literal[False] = ..., return_scores: None = ...,
    out: None = ..., **options: Unpack[AttentionOptions],
) -> NDArray[StoredT]: ...  # fmt: skip
@overload
def attention(
    q: Array, k: Array, v: Array, *,
    return_lse: Literal[False] = ..., return_weights: Literal[False] = ..., return_scores: None = ...,
    out: None = ..., **options: Unpack[AttentionOptions],
) -> NDArray[Any]: ...  # fmt: skip
@overload
def attention(
    q: Array, k: Array, v: Array, *,
    return_lse: Literal[False] = ..., return_weights: Literal[False] = ..., return_scores: None = ...,
    out: OutT, **options: Unpack[AttentionOptions],
) -> OutT: ...  # fmt: skip
@overload
def attention(
    q: Array, k: Array, v: Array, *,
    return_lse: Literal[True], return_weights: bool = ..., return_scores: ScoreStage | None = ...,
    out: Array | None = ..., **options: Unpack[AttentionOptions],
) -> AttentionResult: ...  # fmt: skip
@overload
def attention(
    q: Array, k: Array, v: Array, *,
    return_lse: bool = ..., return_weights: Literal[True], return_scores: ScoreStage | None = ...,
    out: Array | None = ..., **options: Unpack[AttentionOptions],
) -> AttentionResult: ...  # fmt: skip
@overload
def attention(
    q: Array, k: Array, v: Array, *,
    return_lse: bool = ..., return_weights: bool = ..., return_scores: ScoreStage,
    out: Array | None = ..., **options: Unpack[AttentionOptions],
) -> AttentionResult: ...  # fmt: skip
@overload
def attention(
    q: Array, k: Array, v: Array, *,
    return_lse: bool = ..., return_weights: bool = ..., return_scores: ScoreStage | None = ...,
    out: OutT | None = ..., **options: Unpack[AttentionOptions],
) -> OutT | NDArray[Any] | AttentionResult: ...  # fmt: skip
def attention(
    q: Array, k: Array, v: Array, *, mask: Array | None = None, causal: Causal = False,
    q_offset: Indices | None = None, window: Window | None = None, kv_lengths: Indices | None = None,
    scale: float | None = None, softcap: float | None = None, alibi_slopes: Array | None = None,
    sinks: Array | None = None, relative_bias: RelativeBias | None = None, block_mask: BlockMask | None = None,
    k_scale: Array | None = None, v_scale: Array | None = None, sink_tokens: SupportsIndex = 0,
    return_lse: bool = False, return_weights: bool = False, return_scores: ScoreStage | None = None,
    out: Array | None = None, num_threads: int | None = None,
) -> Any:  # fmt: skip
    """softmax(scale * q k^T) v with masks, biases, lengths and grouped heads; the bits depend on the inputs alone.

    Arrays are NumPy arrays, buffers or DLPack CPU tensors of rank 2 to 8, any strides with a unit last one; they are
    read in place, so (B, S, H, D) is a transposed view. Missing leading dimensions count as 1. q is float32, float16 or
    bfloat16 (ml_dtypes arrays, torch tensors, or raw bits as uint16); k and v share one of these types or are int8.
    Arithmetic is float32 throughout, the output rounded once to q's type.

    Args:
        q: (..., Hq, Sq, D)
        k: (..., Hkv, Sk, D), Hq a multiple of Hkv: query head h reads KV head h // (Hq // Hkv)
        v: (..., Hkv, Sk, Dv)
        mask: bool (True = attend) or float (added to the scaled scores; -inf excludes), broadcast to
            (..., Hq, Sq, Sk)
        causal: False, "top_left" (query i sees keys j <= i), "bottom_right" (j <= i + Sk - Sq, with kv_lengths its
            lengths in place of Sk), or True, which needs Sq == Sk or q_offset
        q_offset: position of the first query among the keys, int or one per batch row; may be negative. 0 if None
        window: (left, right), None = unbounded: a query at position p sees keys p - left <= j <= p + right
        kv_lengths: (B,) numbers of keys that exist; the memory behind them is never read
        scale: factor of the scores, 1 / sqrt(D) if None; negative and 0 are allowed
        softcap: scores become softcap * tanh(scores / softcap), before any bias or mask
        alibi_slopes: (Hq,) or (B, Hq): scores get -slope * |p - j| (Press et al. 2022)
        sinks: (Hq,) logits that take part in the softmax and carry no value; one that is NaN or +inf makes its rows NaN
        relative_bias: (table (Hq, n), bidirectional, max_distance): scores get the table's entry of the T5 bucket of
            j - p (Raffel et al. 2020)
        block_mask: (blocks, (rows, cols)): blocks of rows queries and cols keys that may attend: bool, broadcast to
            (..., Hq, ceil(Sq / rows), ceil(Sk / cols)), or a tuple of CSR lists (indptr, indices), the allowed columns
            of each row of blocks, for all heads or, with indptr (Hq, rows of blocks + 1), each. Skipped blocks cost
            nothing
        k_scale, v_scale: (..., Hkv, Sk) with int8 k and v: they stand for k * k_scale and v * v_scale
        sink_tokens: so many first keys stay visible although they lie left of the window
        return_lse: also the natural log-sum-exp of the scores, (..., Hq, Sq) float32
        return_weights: also the probabilities, (..., Hq, Sq, Sk) float32
        return_scores: also the scores, (..., Hq, Sq, Sk) float32: "qk" (scale * q k^T), "softcap" (after softcap) or
            "bias" (after biases and masks, -inf where excluded); -inf behind kv_lengths
        out: (..., Hq, Sq, Dv) of q's type to write into; must not share memory with the inputs
        num_threads: at most this many threads; the process's setting if None

    Returns:
        (..., Hq, Sq, Dv) of q's type (bfloat16: of ml_dtypes where q is, else its bits as uint16), or an
        AttentionResult (out, lse, weights, scores) where a return option is set. A query that sees no key gives zeros,
        lse -inf (its sink, if there are sinks) and weights 0. Keys that are excluded contribute nothing, whatever K and
        V hold there; a key whose score is -inf counts as excluded; NaN or +inf in the scores makes that row NaN.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: shapes, strides or values do not fit; the message names the argument, what came, what was expected.

    From torch's scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa):
    attn_mask is mask; is_causal is causal="top_left"; scale is the same, grouped heads need no switch; there is no
    dropout. A row without keys gives zeros here.

    From ONNX's Attention (opset 23 to 25): Q, K, V of rank 4 as they are, of rank 3 reshaped to (B, S, heads, D) and
    transposed. past_key and past_value joined in front of K and V (or a KVCache); is_causal is causal=True with
    q_offset = length of the past, with nonpad_kv_seqlen causal="bottom_right" and kv_lengths = nonpad_kv_seqlen;
    attn_mask is mask, padded with False or -inf where it is shorter; left_window_size and right_window_size are window
    (-1 is None), with q_offset = past length or nonpad_kv_seqlen - Sq where there is no is_causal; softcap and scale
    are the same (softcap 0 is None). qk_matmul_output_mode 0, 1, 2, 3 are return_scores="qk", "softcap", "bias" and
    return_weights. softmax_precision has no counterpart: arithmetic is float32.

    Source: Vaswani et al. 2017; online softmax: Milakov and Gimelshein 2018; grouped heads: Ainslie et al. 2023; sink
    tokens: Xiao et al. 2024.

    >>> import numpy as np, fastattn as fa
    >>> q = np.ones((1, 2, 4, 8), np.float32)
    >>> fa.attention(q, q, q, causal=True).shape
    (1, 2, 4, 8)
    >>> fa.attention(q, q, q, alibi_slopes=np.float32([0.5, 0.25]), return_lse=True).lse.shape
    (1, 2, 4)
    """
    if (
        mask is None and q_offset is None and window is None and kv_lengths is None and softcap is None
        and alibi_slopes is None and sinks is None and relative_bias is None and block_mask is None and k_scale is None
        and v_scale is None and not sink_tokens and not return_lse and not return_weights and return_scores is None
        and (causal is False or causal is True)
        and type(q) is np.ndarray and type(k) is np.ndarray and type(v) is np.ndarray and 2 <= q.ndim <= 4
        and (scale is None or type(scale) is float and -1e30 < scale < 1e30)
    ):  # fmt: skip
        # The long way below does the same with every check; this one is for calls that take microseconds.
        target = np.empty(q.shape[:-1] + v.shape[-1:], q.dtype) if out is None else out
        factor = 1.0 / math.sqrt(q.shape[-1] or 1) if scale is None else scale
        if type(target) is np.ndarray and _core.attend_plain(q, k, v, target, causal, factor, num_threads):
            return target
    return _attend(
        q, k, v, (alibi_slopes, sinks, relative_bias, block_mask, k_scale, v_scale), mask, causal, q_offset, window,
        kv_lengths, scale, softcap, sink_tokens, return_lse, return_weights, return_scores, out, num_threads,
    )  # fmt: skip


def _attend(
    q: Any, k: Any, v: Any, by_head: tuple[Any, ...], mask: Any, causal: Any, q_offset: Any, window: Any,
    kv_lengths: Any, scale: Any, softcap: Any, sink_tokens: Any, return_lse: bool, return_weights: bool,
    return_scores: Any, out: Any, num_threads: int | None,
) -> Any:  # fmt: skip
    alibi_slopes, sinks, relative_bias, block_mask, k_scale, v_scale = by_head
    given, keys, values = check_qkv(q, k, v)
    qa, ka, va = given.array, keys.array, values.array
    lead, heads, sq, sk = qa.shape[:-3], qa.shape[-3] if qa.ndim > 2 else 1, qa.shape[-2], ka.shape[-2]
    fixed: dict[str, Any] = {
        **check.check_scalars(scale, softcap, qa.shape[-1]),
        **check.check_window(window, sink_tokens),
        "score_stage": check.check_scores(return_scores),
        "num_threads": num_threads,
    }
    lengths = check.check_lengths(kv_lengths, lead, sk)
    existing = sk if lengths is None or causal is True else lengths
    offsets, fixed["causal"] = check.check_causal(causal, q_offset, lead, sq, existing)
    furthest = 0 if offsets is None or not offsets.size else int(np.abs(offsets).max())
    fixed.update(check.check_heads(sinks, relative_bias, heads, sq + sk + furthest))
    blocks, size = check.check_block_mask(block_mask, lead, heads, sq, sk)
    fixed.update(size)
    scales = check.check_scales(keys, k_scale, v_scale, ka.shape[:-1])
    by_batch: dict[str, Any] = {
        "mask": check.check_mask(mask, (*qa.shape[:-1], sk), (*lead, heads, sq, sk)),
        "block_mask": blocks,
        "alibi": check.check_slopes(alibi_slopes, lead, heads),
        **scales,
    }
    apart = {"q": qa, "k": ka, "v": va, **{n: a for n, a in (*by_batch.items(), *scales.items()) if a is not None}}
    target = make_target(
        out, given, (*qa.shape[:-1], va.shape[-1]), sk, apart, return_lse, return_weights, fixed["score_stage"]
    )
    batch = lead[-1] if lead else 1
    # C walks (B, H, S, D); any further dimensions are walked here.
    for at in np.ndindex(*lead[:-1]):
        here: dict[str, Any] = {name: None if array is None else array[at] for name, array in by_batch.items()}
        _core.attend(
            target.out[at],
            None if target.lse is None else target.lse[at].reshape(batch, heads, sq),
            None if target.weights is None else target.weights[at],
            qa[at], ka[at], va[at],
            scores=None if target.scores is None else target.scores[at],
            q_offset=None if offsets is None else np.ascontiguousarray(offsets[at]).reshape(batch),
            kv_lengths=None if lengths is None else np.ascontiguousarray(lengths[at]).reshape(batch),
            **here, **fixed,
        )  # fmt: skip
    return target.result()


def check_qkv(q: Any, k: Any, v: Any) -> tuple[Stored, Stored, Stored]:
    """q, k and v with shapes and types that go together."""
    given, keys, values = as_stored(q, "q"), as_stored(k, "k", int8=True), as_stored(v, "v", int8=True)
    if keys.array.dtype != values.array.dtype:
        raise TypeError(f"v: dtype {values.array.dtype}, expected {keys.array.dtype} as k has")
    qa = given.array
    if not 2 <= qa.ndim <= 8:
        raise ValueError(f"q: rank {qa.ndim}, expected 2 to 8: (..., heads, queries, head size)")
    for name, array in (("k", keys.array), ("v", values.array)):
        if array.ndim != qa.ndim:
            raise ValueError(f"{name}: rank {array.ndim}, expected {qa.ndim} as q has")
        if array.shape[:-3] != qa.shape[:-3]:
            raise ValueError(f"{name}: leading dimensions {array.shape[:-3]}, expected {qa.shape[:-3]} as q has")
    check_sizes(qa, keys.array, values.array)
    return given, keys, values


def check_sizes(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> None:
    """Head sizes, key counts and head counts of arrays (..., heads, sequence, head size)."""
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
