# SPDX-License-Identifier: MIT
"""Readable NumPy oracle for attention: which keys a query may see, how a score is formed, the softmax over them.

`fastattn.reference` names these functions and tells what ``dtype`` and ``order`` are for. Nothing at run time imports
this module, and it imports NumPy alone.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = [
    "AttentionReference",
    "attention",
    "attention_varlen",
    "block_grid",
    "key_offset",
    "product",
    "relative_buckets",
    "visible_keys",
    "widen",
]

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Window = tuple[int | None, int | None]
Order = np.random.Generator | None
STAGES = ("qk", "softcap", "bias")


class AttentionReference(NamedTuple):
    """What attention gives: ``out (..., Hq, Sq, Dv)``, ``lse (..., Hq, Sq)``, ``weights (..., Hq, Sq, Sk)``.

    ``scores (..., Hq, Sq, Sk)`` where a stage was asked for, else None.
    """

    out: Array
    lse: Array
    weights: Array
    scores: Array | None = None


def widen(x: ArrayLike) -> Array:
    """An array as it is, but bfloat16 (an ml_dtypes array or the bits as uint16) as the float32 of equal value.

    >>> widen(np.array([0x3F80, 0xC040], np.uint16)).tolist()
    [1.0, -3.0]
    """
    a = np.asarray(x)
    if a.dtype.name == "bfloat16":
        a = a.view(np.uint16)
    if a.dtype == np.uint16:
        return (a.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return a


# ---------------------------------------------------------------------------------------------------------------------
# Which keys a query may see
# ---------------------------------------------------------------------------------------------------------------------


def key_offset(sq: int, kv_length: int, causal: bool | str, q_offset: int | None) -> int:
    """The position p of query 0 among the keys.

    ``"top_left"`` puts query 0 on key 0, ``"bottom_right"`` the last query on the last valid key, ``True`` is for
    square problems or an explicit ``q_offset``. Both a named corner and ``q_offset`` would say the same thing twice.

    >>> key_offset(2, 5, "bottom_right", None), key_offset(2, 5, "top_left", None), key_offset(1, 5, True, 4)
    (3, 0, 4)
    """
    if isinstance(causal, str):
        if causal not in ("top_left", "bottom_right"):
            raise ValueError(f"causal: got {causal!r}, expected False, True, 'top_left' or 'bottom_right'")
        if q_offset is not None:
            raise ValueError(f"q_offset: got {q_offset} with causal={causal!r}, which places the queries already")
        return 0 if causal == "top_left" else kv_length - sq
    return 0 if q_offset is None else int(q_offset)


def visible_keys(
    sq: int,
    sk: int,
    *,
    causal: bool | str = False,
    q_offset: int | None = None,
    window: Window | None = None,
    kv_length: int | None = None,
    sink_tokens: int = 0,
) -> Bools:
    """Boolean ``(Sq, Sk)``: may query i see key j, by length, causality and window; p = offset + i.

    The first ``sink_tokens`` keys stay visible however far behind the window's left end they lie.

    >>> visible_keys(3, 4, causal="bottom_right").astype(int)
    array([[1, 1, 0, 0],
           [1, 1, 1, 0],
           [1, 1, 1, 1]])
    >>> visible_keys(3, 4, window=(1, 0), kv_length=2).astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [0, 1, 0, 0]])
    >>> visible_keys(4, 4, causal=True, window=(1, 0), sink_tokens=1).astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [1, 1, 1, 0],
           [1, 0, 1, 1]])
    """
    length = sk if kv_length is None else int(kv_length)
    if not 0 <= length <= sk:
        raise ValueError(f"kv_lengths: got {length}, expected 0 to Sk = {sk}")
    if causal is True and q_offset is None and sq != sk:
        raise ValueError(
            f"causal: True with Sq = {sq} and Sk = {sk} is ambiguous; expected Sq == Sk, q_offset, "
            "'top_left' or 'bottom_right'"
        )
    left, right = (None, None) if window is None else window
    if sink_tokens and window is None:
        raise ValueError(f"sink_tokens: got {sink_tokens} without a window, beside which they would stay visible")
    j = np.arange(sk)[None, :]
    p = key_offset(sq, length, causal, q_offset) + np.arange(sq)[:, None]
    seen = np.array(np.broadcast_to(j < length, (sq, sk)))
    if causal is not False:
        seen &= j <= p
    if right is not None:
        seen &= j <= p + right
    if left is not None:
        seen &= (j >= p - left) | (j < sink_tokens)
    return seen


def block_grid(block_mask: Any, lead: tuple[int, ...], hq: int, sq: int, sk: int) -> tuple[Bools, int, int]:
    """``block_mask`` as booleans ``(*lead, Hq, R, C)`` and the rows and columns of one block.

    Boolean blocks are broadcast. CSR lists say which blocks are there: those of block row r are ``indices[indptr[r]]``
    up to ``indices[indptr[r + 1]]``; an indptr of two dimensions, (Hq, R + 1), does so for each head.

    >>> grid, rows, cols = block_grid((([0, 1, 3], [1, 0, 1]), (2, 3)), (), 1, 4, 5)
    >>> grid.astype(int).tolist(), rows, cols
    ([[[0, 1], [1, 1]]], 2, 3)
    """
    blocks, (rows, cols) = block_mask
    shape = (*lead, hq, -(-sq // rows), -(-sk // cols))
    if not isinstance(blocks, (tuple, list)):
        return np.broadcast_to(np.asarray(blocks, dtype=bool), shape), rows, cols
    indptr, indices = (np.asarray(part) for part in blocks)
    grid = np.zeros(shape, dtype=bool)
    for h in range(hq):
        starts = indptr if indptr.ndim == 1 else indptr[h]
        for r in range(shape[-2]):
            grid[..., h, r, indices[starts[r] : starts[r + 1]]] = True
    return grid, rows, cols


# ---------------------------------------------------------------------------------------------------------------------
# What is added to a score
# ---------------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _bucket_edges(buckets: int, max_distance: int) -> tuple[int, ...]:
    """The distances at which a new bucket begins, for one direction with that many buckets.

    The first half holds one distance each. Bucket ``E + t`` of the N = buckets - E others begins at the first d with
    ``log(d / E) / log(max_distance / E) * N >= t``, that is ``d**N * E**t >= max_distance**t * E**N``: integers.
    """
    exact = buckets // 2
    if exact < 1 or max_distance <= exact:
        raise ValueError(f"relative_bias: {buckets} buckets up to distance {max_distance}, expected at least 2 and "
                         f"a distance above {exact}")  # fmt: skip
    n = buckets - exact
    edges = list(range(1, exact + 1))
    for t in range(1, n):
        target = max_distance**t * exact**n
        low, high = exact, max_distance  # the first d with d**n * exact**t >= target lies in (low, high]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if middle**n * exact**t >= target else (middle, high)
        edges.append(high)
    return tuple(edges)


def relative_buckets(distance: ArrayLike, buckets: int, bidirectional: bool, max_distance: int) -> NDArray[np.int64]:
    """The bucket of each distance ``j - p`` from query to key, as T5 has them (Raffel et al. 2020).

    Half of the buckets hold one distance each, the other half grow in proportion to it up to ``max_distance``; all
    beyond shares the last. With ``bidirectional`` the upper half of them is for keys after the query, without it those
    are at distance 0.

    >>> relative_buckets([-200, -20, -3, 0, 3, 20, 200], 32, True, 128).tolist()
    [15, 10, 3, 0, 19, 26, 31]
    >>> relative_buckets([-200, -20, -3, 0, 3], 32, False, 128).tolist()
    [31, 17, 3, 0, 0]
    """
    d = np.asarray(distance, dtype=np.int64)
    if not bidirectional:
        edges = np.array(_bucket_edges(buckets, max_distance))
        return np.asarray(np.searchsorted(edges, np.maximum(-d, 0), side="right"), dtype=np.int64)
    half = buckets // 2
    edges = np.array(_bucket_edges(half, max_distance))
    return np.asarray(np.searchsorted(edges, np.abs(d), side="right") + half * (d > 0), dtype=np.int64)


# ---------------------------------------------------------------------------------------------------------------------
# Attention itself
# ---------------------------------------------------------------------------------------------------------------------


def product(a: Array, b: Array, order: Order = None) -> Array:
    """``a (n, K) @ b (K, m)``, or with an order one product after the other as a plain loop would, shuffled."""
    if order is None:
        return np.asarray(a @ b)
    total = np.zeros((a.shape[0], b.shape[1]), dtype=a.dtype)
    for k in order.permutation(a.shape[1]):
        total += a[:, k, None] * b[k]
    return total


class _Head(NamedTuple):
    """One head of one batch row: ``q (Sq, D)``, ``k (Sk, D)``, ``v (Sk, Dv)`` and what its scores take in."""

    q: Array
    k: Array
    v: Array
    exists: Bools  # (Sk,): not padding
    seen: Bools  # (Sq, Sk): by length, causality, window, blocks and a boolean mask
    scale: float
    softcap: float | None
    relative: Array | None  # (Sq, Sk)
    alibi: Array | None  # (Sq, Sk)
    mask: Array | None  # (Sq, Sk), the float one
    sink: float | None
    k_scale: Array | None  # (Sk,)
    v_scale: Array | None  # (Sk,)


def _scores(head: _Head, dtype: DTypeLike, order: Order) -> dict[str, Array]:
    """The scores at each stage, ``(Sq, Sk)``; -inf is an excluded key, at the first two one that does not exist."""
    x = product(head.q.astype(dtype), head.k.astype(dtype).T, order)
    if head.k_scale is not None:
        x = x * head.k_scale.astype(dtype)
    x = x * np.asarray(head.scale, dtype=dtype)
    minus_inf = np.asarray(-np.inf, dtype=dtype)
    stages = {"qk": np.where(head.exists, x, minus_inf)}
    if head.softcap is not None:
        cap = np.asarray(head.softcap, dtype=dtype)
        x = cap * np.tanh(x / cap)
    stages["softcap"] = np.where(head.exists, x, minus_inf)
    for added in (head.relative, head.alibi, head.mask):
        if added is not None:
            x = x + added.astype(dtype)
    seen = head.seen
    if head.mask is not None:
        seen = seen & ~np.isneginf(head.mask)  # -inf excludes the key, even where its score is NaN or +inf
    stages["bias"] = np.where(seen, x, minus_inf)
    return stages


def _attend(head: _Head, stage: str | None, dtype: DTypeLike, order: Order) -> tuple[Array, Array, Array, Array | None]:
    """One head: out, lse, weights and the scores at that stage."""
    with np.errstate(all="ignore"):
        stages = _scores(head, dtype, order)
        x = stages["bias"]
        part = ~np.isneginf(x)  # a score of -inf is the same as an excluded key
        top = np.max(x, axis=-1, keepdims=True, initial=-np.inf)  # NaN wins, as it has to
        sink = np.asarray(-np.inf if head.sink is None else head.sink, dtype=dtype)
        top = np.maximum(top, sink)
        empty = np.isneginf(top)
        origin = np.where(empty, 0, top)
        p = np.where(part, np.exp(x - origin), 0)  # a +inf score: inf - inf is NaN, and spreads
        total = product(p, np.ones((len(head.k), 1), dtype=dtype), order) + np.exp(sink - origin)
        weights = np.where(part, p / np.where(empty, 1, total), 0).astype(dtype)
        lse = np.where(empty, -np.inf, top + np.log(total))[:, 0].astype(dtype)
        v, w = head.v.astype(dtype), weights
        if head.v_scale is not None:
            w = np.where(part, weights * head.v_scale.astype(dtype), 0).astype(dtype)
        if np.isfinite(v).all():
            out = product(w, v, order)
        else:  # keys without a part are left out, never multiplied by 0
            rows = [product(w[i : i + 1, part[i]], v[part[i]], order) for i in range(len(w))]
            out = np.concatenate(rows) if rows else np.zeros((0, v.shape[1]))
        out = np.where(np.isnan(total), np.nan, out)  # a sink of NaN or +inf, where there may be no keys
        return out.astype(dtype), lse, weights, None if stage is None else stages[stage]


def _per_batch(value: ArrayLike | None, lead: tuple[int, ...], name: str) -> list[int | None]:
    """An int, a ``(B,)`` array or one of the leading shape, as one number for each batch entry in C order."""
    count = math.prod(lead)
    if value is None:
        return [None] * count
    array = np.asarray(value)
    if array.ndim == 0:
        return [int(array)] * count
    if array.shape not in ((count,), lead):
        raise ValueError(f"{name}: got shape {array.shape}, expected ({count},)")
    return [int(entry) for entry in array.reshape(-1)]


def _check_scales(k: Array, k_scale: ArrayLike | None, v_scale: ArrayLike | None) -> None:
    for name, scale in (("k_scale", k_scale), ("v_scale", v_scale)):
        if (k.dtype == np.int8) != (scale is not None):
            raise ValueError(f"{name}: expected with int8 k and v, and only then; k is {k.dtype}")


def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    causal: bool | str = False,
    q_offset: ArrayLike | None = None,
    window: Window | None = None,
    sink_tokens: int = 0,
    kv_lengths: ArrayLike | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: ArrayLike | None = None,
    sinks: ArrayLike | None = None,
    relative_bias: tuple[ArrayLike, bool, int] | None = None,
    block_mask: Any = None,
    k_scale: ArrayLike | None = None,
    v_scale: ArrayLike | None = None,
    return_scores: str | None = None,
    dtype: DTypeLike = np.float64,
    order: Order = None,
) -> AttentionReference:
    """softmax(score(q, k)) v, with every option of ``fastattn.attention``.

    Shapes ``q (..., Hq, Sq, D)``, ``k (..., Hkv, Sk, D)``, ``v (..., Hkv, Sk, Dv)``; two dimensions are one head.
    Storage types are widened exactly (`widen`); int8 keys and values are multiplied by ``k_scale``, ``v_scale
    (..., Hkv, Sk)``. The score of the query at position p and key j is ``x = q.k * scale``, then softcap, plus the
    relative bias ``table[h, bucket(j - p)]``, plus ALiBi ``-slope * |p - j|``, plus the float mask. Boolean masks
    (True = attend), blocks, causal, window, kv_lengths and a float mask's -inf exclude keys; so does a score of -inf.
    What an excluded key holds, NaN and Inf included, has no effect. A sink is one more logit in the softmax, without a
    value. A row without any key gives zeros and lse = the sink, or -inf; a NaN or +inf score makes its row NaN.

    ``return_scores``: "qk" (after scale) and "softcap" for all keys that exist, "bias" with -inf for excluded keys.

    >>> r = attention([[1.0]], [[0.0], [0.0]], [[1.0], [3.0]])
    >>> r.out.tolist(), r.weights.tolist()
    ([[2.0]], [[0.5, 0.5]])
    """
    qa, ka, va = (widen(a) for a in (q, k, v))
    _check_scales(ka, k_scale, v_scale)
    ks, vs = (None if a is None else np.asarray(a) for a in (k_scale, v_scale))
    flat = qa.ndim == 2
    if flat:
        qa, ka, va = qa[None], ka[None], va[None]
        ks, vs = (None if a is None else a.reshape(1, -1) for a in (ks, vs))
    *lead_list, hq, sq, d = qa.shape
    lead = tuple(lead_list)
    hkv, sk, dv = ka.shape[-3], ka.shape[-2], va.shape[-1]
    if hkv == 0 or hq % hkv:
        raise ValueError(f"k: got {hkv} heads, expected a divisor of the {hq} heads of q")
    factor = (1.0 / math.sqrt(d) if d else 1.0) if scale is None else float(scale)
    lengths = _per_batch(kv_lengths, lead, "kv_lengths")
    offsets = _per_batch(q_offset, lead, "q_offset")
    masks = None if mask is None else np.broadcast_to(widen(mask), (*lead, hq, sq, sk))
    grid, rows, cols = (None, 1, 1) if block_mask is None else block_grid(block_mask, lead, hq, sq, sk)
    slopes = None if alibi_slopes is None else np.broadcast_to(np.asarray(alibi_slopes), (*lead, hq))
    logits = None if sinks is None else np.broadcast_to(np.asarray(sinks), (hq,))
    if return_scores is not None and return_scores not in STAGES:
        raise ValueError(f"return_scores: got {return_scores!r}, expected None or one of {STAGES}")
    out = np.zeros((*lead, hq, sq, dv), dtype=dtype)
    lse = np.zeros((*lead, hq, sq), dtype=dtype)
    weights = np.zeros((*lead, hq, sq, sk), dtype=dtype)
    scores = np.zeros((*lead, hq, sq, sk), dtype=dtype) if return_scores is not None else None
    for number, b in enumerate(np.ndindex(*lead)):
        given = lengths[number]
        length = sk if given is None else given
        at_most = visible_keys(
            sq,
            sk,
            causal=causal,
            q_offset=offsets[number],
            window=window,
            kv_length=length,
            sink_tokens=sink_tokens,
        )
        p = key_offset(sq, length, causal, offsets[number]) + np.arange(sq)[:, None]
        distance = np.arange(sk)[None, :] - p
        with np.errstate(invalid="ignore"):  # a slope of infinity at distance 0
            alibi = None if slopes is None else -slopes[b].astype(dtype)[:, None, None] * np.abs(distance).astype(dtype)
        for h in range(hq):
            at, kv = (*b, h), (*b, h // (hq // hkv))
            seen, added, relative = at_most, None, None
            if masks is not None and masks.dtype == np.bool_:
                seen = seen & masks[at]
            elif masks is not None:
                added = masks[at]
            if grid is not None:
                seen = seen & np.repeat(np.repeat(grid[at], rows, axis=0), cols, axis=1)[:sq, :sk]
            if relative_bias is not None:
                table = np.asarray(relative_bias[0])
                relative = table[h][relative_buckets(distance, table.shape[1], *relative_bias[1:])]
            head = _Head(
                q=qa[at],
                k=ka[kv],
                v=va[kv],
                exists=np.arange(sk) < length,
                seen=seen,
                scale=factor,
                softcap=softcap,
                relative=relative,
                alibi=None if alibi is None else alibi[h],
                mask=added,
                sink=None if logits is None else float(logits[h]),
                k_scale=None if ks is None else ks[kv],
                v_scale=None if vs is None else vs[kv],
            )
            out[at], lse[at], weights[at], stage = _attend(head, return_scores, dtype, order)
            if scores is not None:
                scores[at] = stage
    if flat:
        out, lse, weights, scores = out[0], lse[0], weights[0], None if scores is None else scores[0]
    return AttentionReference(out, lse, weights, scores)


def attention_varlen(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    cu_seqlens_q: ArrayLike,
    cu_seqlens_k: ArrayLike,
    *,
    q_offset: ArrayLike | None = None,
    alibi_slopes: ArrayLike | None = None,
    block_mask: Any = None,
    k_scale: ArrayLike | None = None,
    v_scale: ArrayLike | None = None,
    return_scores: str | None = None,
    dtype: DTypeLike = np.float64,
    **options: Any,
) -> AttentionReference:
    """Packed: ``q (Tq, Hq, D)``, ``k (Tk, Hkv, D)``, ``v (Tk, Hkv, Dv)`` -> out ``(Tq, Hq, Dv)``, lse ``(Tq, Hq)``.

    Sequence b owns queries ``cu_seqlens_q[b]`` up to ``cu_seqlens_q[b + 1]`` and keys likewise; each is one call of
    `attention` on its own slice. Weights and scores are ``(Tq, Hq, longest key sequence)``, 0 and -inf beyond a
    sequence's own keys; ``k_scale``, ``v_scale (Tk, Hkv)``; blocks count from a sequence's own first query and key and
    cover the longest ones.

    >>> out, lse, *_ = attention_varlen([[[1.0]], [[1.0]]], [[[0.0]]] * 2, [[[5.0]], [[7.0]]], [0, 1, 2], [0, 1, 2])
    >>> out.ravel().tolist()
    [5.0, 7.0]
    """
    qa, ka, va = (widen(a) for a in (q, k, v))
    cq, ck = (np.asarray(c) for c in (cu_seqlens_q, cu_seqlens_k))
    count, hq = len(cq) - 1, qa.shape[1]
    most_q, most_k = (int(np.diff(c).max(initial=0)) for c in (cq, ck))
    offsets = _per_batch(q_offset, (count,), "q_offset")
    grid, rows, cols = (None, 1, 1) if block_mask is None else block_grid(block_mask, (count,), hq, most_q, most_k)
    slopes = None if alibi_slopes is None else np.broadcast_to(np.asarray(alibi_slopes), (count, hq))
    out = np.zeros((*qa.shape[:2], va.shape[2]), dtype=dtype)
    lse = np.full(qa.shape[:2], -np.inf, dtype=dtype)
    weights = np.zeros((*qa.shape[:2], most_k), dtype=dtype)
    scores = None if return_scores is None else np.full((*qa.shape[:2], most_k), -np.inf, dtype=dtype)
    for b, offset in enumerate(offsets):
        at, keys = slice(cq[b], cq[b + 1]), slice(ck[b], ck[b + 1])
        n_q, n_k = (int(s.stop - s.start) for s in (at, keys))
        one = attention(
            qa[at].swapaxes(0, 1),
            ka[keys].swapaxes(0, 1),
            va[keys].swapaxes(0, 1),
            q_offset=offset,
            alibi_slopes=None if slopes is None else slopes[b],
            block_mask=None if grid is None else (grid[b, :, : -(-n_q // rows), : -(-n_k // cols)], (rows, cols)),
            k_scale=None if k_scale is None else np.asarray(k_scale)[keys].T,
            v_scale=None if v_scale is None else np.asarray(v_scale)[keys].T,
            return_scores=return_scores,
            dtype=dtype,
            **options,
        )
        out[at], lse[at] = one.out.swapaxes(0, 1), one.lse.T
        weights[at, :, :n_k] = one.weights.swapaxes(0, 1)
        if scores is not None and one.scores is not None:
            scores[at, :, :n_k] = one.scores.swapaxes(0, 1)
    return AttentionReference(out, lse, weights, scores)
