# SPDX-License-Identifier: MIT
"""Readable NumPy oracle for every operator: what the answer is, with no thought for speed.

Every function takes ``dtype``. With the default, ``np.float64``, it is the oracle the tests compare with. With
``np.float32`` the same lines are the *naive fp32 NumPy* of the accuracy rule::

    max|err| <= 2 * max|err of naive fp32 NumPy| + 2**-23 * max|reference|

so the two can never drift apart. With ``order``, sums are taken one term after the other in a shuffled order: what
float32 makes of a problem depends on it. Nothing at run time imports this module, and it imports NumPy alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = [
    "ACTIVATIONS",
    "AttentionReference",
    "activate",
    "attention",
    "attention_varlen",
    "embedding_sum",
    "erf",
    "exp2",
    "gelu",
    "key_offset",
    "l2_normalize",
    "layer_norm",
    "linear",
    "pool",
    "relu",
    "rms_norm",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
    "visible_keys",
]

Array = NDArray[Any]
Window = tuple[int | None, int | None]


class AttentionReference(NamedTuple):
    """What attention gives: ``out (..., Hq, Sq, Dv)``, ``lse (..., Hq, Sq)``, ``weights (..., Hq, Sq, Sk)``."""

    out: Array
    lse: Array
    weights: Array


# ---------------------------------------------------------------------------------------------------------------------
# Attention: which keys a query may see
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
) -> NDArray[np.bool_]:
    """Boolean ``(Sq, Sk)``: may query i see key j, by length, causality and window; p = offset + i.

    >>> visible_keys(3, 4, causal="bottom_right").astype(int)
    array([[1, 1, 0, 0],
           [1, 1, 1, 0],
           [1, 1, 1, 1]])
    >>> visible_keys(3, 4, window=(1, 0), kv_length=2).astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [0, 1, 0, 0]])
    """
    length = sk if kv_length is None else int(kv_length)
    if not 0 <= length <= sk:
        raise ValueError(f"kv_lengths: got {length}, expected 0 to Sk = {sk}")
    if causal is True and q_offset is None and sq != sk:
        raise ValueError(
            f"causal: True with Sq = {sq} and Sk = {sk} is ambiguous; expected Sq == Sk, q_offset, "
            "'top_left' or 'bottom_right'"
        )
    j = np.arange(sk)[None, :]
    p = key_offset(sq, length, causal, q_offset) + np.arange(sq)[:, None]
    seen = np.broadcast_to(j < length, (sq, sk))
    if causal is not False:
        seen = seen & (j <= p)
    left, right = (None, None) if window is None else window
    if left is not None:
        seen = seen & (j >= p - left)
    if right is not None:
        seen = seen & (j <= p + right)
    return np.array(seen, dtype=bool)


# ---------------------------------------------------------------------------------------------------------------------
# Attention itself
# ---------------------------------------------------------------------------------------------------------------------


def _product(a: Array, b: Array, order: np.random.Generator | None) -> Array:
    """``a (n, K) @ b (K, m)``, or with an order one product after the other as a plain loop would, shuffled."""
    if order is None:
        return np.asarray(a @ b)
    total = np.zeros((a.shape[0], b.shape[1]), dtype=a.dtype)
    for k in order.permutation(a.shape[1]):
        total += a[:, k, None] * b[k]
    return total


def _attend(
    q: Array,
    k: Array,
    v: Array,
    seen: NDArray[np.bool_],
    bias: Array | None,
    scale: float,
    softcap: float | None,
    dtype: DTypeLike,
    order: np.random.Generator | None,
) -> tuple[Array, Array, Array]:
    """One head: ``q (Sq, D)``, ``k (Sk, D)``, ``v (Sk, Dv)``, ``seen (Sq, Sk)``, ``bias`` the float mask or None."""
    with np.errstate(all="ignore"):
        q, k, v = (np.asarray(a, dtype=dtype) for a in (q, k, v))
        x = _product(q, k.T, order) * np.asarray(scale, dtype=dtype)
        if softcap is not None:
            cap = np.asarray(softcap, dtype=dtype)
            x = cap * np.tanh(x / cap)
        if bias is not None:
            x = x + np.asarray(bias, dtype=dtype)
            seen = seen & ~np.isneginf(bias)  # -inf excludes the key, even where its score is NaN or +inf
        x = np.where(seen, x, np.asarray(-np.inf, dtype=dtype))
        part = ~np.isneginf(x)  # a score of -inf is the same as an excluded key
        empty = ~part.any(axis=-1, keepdims=True)
        top = np.max(x, axis=-1, keepdims=True, initial=-np.inf)  # NaN wins, as it has to
        p = np.where(part, np.exp(x - np.where(empty, 0, top)), 0)  # a +inf score: inf - inf is NaN, and spreads
        total = _product(p, np.ones((len(k), 1), dtype=dtype), order)
        weights = np.where(part, p / np.where(empty, 1, total), 0).astype(dtype)
        lse = np.where(empty, -np.inf, top + np.log(total))[:, 0].astype(dtype)
        if np.isfinite(v).all():
            out = _product(weights, v, order)
        else:  # keys without a part are left out, never multiplied by 0
            rows = [_product(weights[i : i + 1, part[i]], v[part[i]], order) for i in range(len(q))]
            out = np.concatenate(rows) if rows else np.zeros((0, v.shape[1]))
        return out.astype(dtype), lse, weights


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


def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    causal: bool | str = False,
    q_offset: ArrayLike | None = None,
    window: Window | None = None,
    kv_lengths: ArrayLike | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dtype: DTypeLike = np.float64,
    order: np.random.Generator | None = None,
) -> AttentionReference:
    """softmax(score(q, k)) v, with every option of ``fastattn.attention`` that fp32 has.

    Shapes ``q (..., Hq, Sq, D)``, ``k (..., Hkv, Sk, D)``, ``v (..., Hkv, Sk, Dv)``; two dimensions are one head.
    The score is ``x = q.k * scale``, then softcap, then the float mask. Boolean masks (True = attend), causal, window,
    kv_lengths and a float mask's -inf exclude keys; so does a score of -inf. What an excluded key holds, NaN and Inf
    included, has no effect. A row without any key gives zeros and lse = -inf; a NaN or +inf score makes its row NaN.

    >>> r = attention([[1.0]], [[0.0], [0.0]], [[1.0], [3.0]])
    >>> r.out.tolist(), r.weights.tolist()
    ([[2.0]], [[0.5, 0.5]])
    """
    qa, ka, va = (np.asarray(a) for a in (q, k, v))
    flat = qa.ndim == 2
    if flat:
        qa, ka, va = qa[None], ka[None], va[None]
    *lead_list, hq, sq, d = qa.shape
    lead = tuple(lead_list)
    hkv, sk, dv = ka.shape[-3], ka.shape[-2], va.shape[-1]
    if hkv == 0 or hq % hkv:
        raise ValueError(f"k: got {hkv} heads, expected a divisor of the {hq} heads of q")
    factor = (1.0 / math.sqrt(d) if d else 1.0) if scale is None else float(scale)
    lengths = _per_batch(kv_lengths, lead, "kv_lengths")
    offsets = _per_batch(q_offset, lead, "q_offset")
    mask_full = None if mask is None else np.broadcast_to(np.asarray(mask), (*lead, hq, sq, sk))
    out = np.zeros((*lead, hq, sq, dv), dtype=dtype)
    lse = np.zeros((*lead, hq, sq), dtype=dtype)
    weights = np.zeros((*lead, hq, sq, sk), dtype=dtype)
    for number, b in enumerate(np.ndindex(*lead)):
        seen = visible_keys(sq, sk, causal=causal, q_offset=offsets[number], window=window, kv_length=lengths[number])
        for h in range(hq):
            kv = (*b, h // (hq // hkv))
            seen_h, bias = seen, None
            if mask_full is not None:
                if mask_full.dtype == np.bool_:
                    seen_h = seen & mask_full[(*b, h)]
                else:
                    bias = mask_full[(*b, h)]
            at = (*b, h)
            out[at], lse[at], weights[at] = _attend(qa[at], ka[kv], va[kv], seen_h, bias, factor, softcap, dtype, order)
    if flat:
        out, lse, weights = out[0], lse[0], weights[0]
    return AttentionReference(out, lse, weights)


def attention_varlen(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    cu_seqlens_q: ArrayLike,
    cu_seqlens_k: ArrayLike,
    *,
    q_offset: ArrayLike | None = None,
    dtype: DTypeLike = np.float64,
    **options: Any,
) -> tuple[Array, Array]:
    """Packed: ``q (Tq, Hq, D)``, ``k (Tk, Hkv, D)``, ``v (Tk, Hkv, Dv)`` -> out ``(Tq, Hq, Dv)``, lse ``(Tq, Hq)``.

    Sequence b owns queries ``cu_seqlens_q[b]`` up to ``cu_seqlens_q[b + 1]`` and keys likewise; each is one call of
    `attention` on its own slice.

    >>> out, lse = attention_varlen([[[1.0]], [[1.0]]], [[[0.0]]] * 2, [[[5.0]], [[7.0]]], [0, 1, 2], [0, 1, 2])
    >>> out.ravel().tolist()
    [5.0, 7.0]
    """
    qa, ka, va = (np.asarray(a) for a in (q, k, v))
    cq, ck = (np.asarray(c) for c in (cu_seqlens_q, cu_seqlens_k))
    offsets = _per_batch(q_offset, (len(cq) - 1,), "q_offset")
    out = np.zeros((*qa.shape[:2], va.shape[2]), dtype=dtype)
    lse = np.full(qa.shape[:2], -np.inf, dtype=dtype)
    for b, offset in enumerate(offsets):
        rows, keys = slice(cq[b], cq[b + 1]), slice(ck[b], ck[b + 1])
        one = attention(
            qa[rows].swapaxes(0, 1),
            ka[keys].swapaxes(0, 1),
            va[keys].swapaxes(0, 1),
            q_offset=offset,
            dtype=dtype,
            **options,
        )
        out[rows], lse[rows] = one.out.swapaxes(0, 1), one.lse.T
    return out, lse


# ---------------------------------------------------------------------------------------------------------------------
# Elementwise functions
# ---------------------------------------------------------------------------------------------------------------------


def _cast(x: ArrayLike, dtype: DTypeLike) -> Array:
    return np.asarray(x, dtype=dtype)


def exp2(x: ArrayLike, dtype: DTypeLike = np.float64) -> Array:
    """2**x."""
    with np.errstate(all="ignore"):
        return np.asarray(np.exp2(_cast(x, dtype)))


def erf(x: ArrayLike, dtype: DTypeLike = np.float64) -> Array:
    """The error function, from the C library's double-precision one."""
    return np.asarray(np.vectorize(math.erf, otypes=[float])(_cast(x, dtype)), dtype=dtype)


def _erfc(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erfc, otypes=[float])(x))


def tanh(x: ArrayLike, dtype: DTypeLike = np.float64) -> Array:
    """The hyperbolic tangent."""
    return np.asarray(np.tanh(_cast(x, dtype)))


def sigmoid(x: ArrayLike, dtype: DTypeLike = np.float64) -> Array:
    """1 / (1 + e**-x)."""
    with np.errstate(all="ignore"):
        a = _cast(x, dtype)
        return np.asarray(1 / (1 + np.exp(-a)), dtype=dtype)


def gelu(x: ArrayLike, approximate: str = "none", dtype: DTypeLike = np.float64) -> Array:
    """x * Phi(x) or, "tanh", 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x**3))) (Hendrycks, Gimpel 2016).

    >>> gelu([-1.0, 0.0, 1.0]).round(6).tolist()
    [-0.158655, 0.0, 0.841345]
    """
    a = _cast(x, dtype)
    with np.errstate(all="ignore"):
        if approximate == "tanh":
            inner = math.sqrt(2 / math.pi) * (a + 0.044715 * a * a * a)
            if a.dtype == np.float64:  # 1 + tanh(y) = 2 sigmoid(2 y), without the cancellation for y << 0
                return np.asarray(a * sigmoid(2 * inner), dtype=dtype)
            return np.asarray(0.5 * a * (1 + np.tanh(inner)), dtype=dtype)
        if approximate != "none":
            raise ValueError(f"approximate: got {approximate!r}, expected 'none' or 'tanh'")
        if a.dtype == np.float64:  # 1 + erf(y) = erfc(-y), likewise
            return np.asarray(0.5 * a * _erfc(-a / math.sqrt(2)), dtype=dtype)
        return np.asarray(0.5 * a * (1 + erf(a / np.sqrt(a.dtype.type(2)), dtype)), dtype=dtype)


def silu(x: ArrayLike, dtype: DTypeLike = np.float64) -> Array:
    """x * sigmoid(x)."""
    return np.asarray(_cast(x, dtype) * sigmoid(x, dtype), dtype=dtype)


def relu(x: ArrayLike, dtype: DTypeLike = np.float64) -> Array:
    """max(x, 0); NaN stays NaN."""
    return np.asarray(np.maximum(_cast(x, dtype), 0), dtype=dtype)


def _gelu_exact(x: ArrayLike, dtype: DTypeLike) -> Array:
    return gelu(x, "none", dtype)


def _gelu_tanh(x: ArrayLike, dtype: DTypeLike) -> Array:
    return gelu(x, "tanh", dtype)


ACTIVATIONS: dict[str, Callable[[ArrayLike, DTypeLike], Array]] = {
    "gelu": _gelu_exact,
    "gelu_tanh": _gelu_tanh,
    "relu": relu,
    "silu": silu,
    "tanh": tanh,
    "sigmoid": sigmoid,
}


def activate(x: ArrayLike, activation: str | None, dtype: DTypeLike = np.float64) -> Array:
    """The activation of that name (a key of ``ACTIVATIONS``), or x itself for None."""
    return _cast(x, dtype) if activation is None else ACTIVATIONS[activation](x, dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Layers
# ---------------------------------------------------------------------------------------------------------------------


def _sum(x: Array, order: np.random.Generator | None) -> Array:
    """The sum over the last axis, kept; with an order one term after the other, as a plain loop would, shuffled."""
    if order is None:
        return np.asarray(x.sum(axis=-1, keepdims=True, dtype=x.dtype))
    return np.asarray(np.cumsum(x[..., order.permutation(x.shape[-1])], axis=-1, dtype=x.dtype)[..., -1:])


def linear(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    activation: str | None = None,
    dtype: DTypeLike = np.float64,
    order: np.random.Generator | None = None,
) -> Array:
    """activation(x @ weight.T + bias): ``x (..., K)``, ``weight (N, K)``, ``bias (N,)`` -> ``(..., N)``.

    >>> linear([[1.0, 2.0]], [[1.0, 1.0], [0.0, -1.0]], [0.5, 0.0], "relu").tolist()
    [[3.5, 0.0]]
    """
    with np.errstate(all="ignore"):
        a, w = _cast(x, dtype), _cast(weight, dtype)
        y = _product(a.reshape(-1, a.shape[-1]), w.T, order).reshape(*a.shape[:-1], len(w))
        if bias is not None:
            y = y + _cast(bias, dtype)
        return activate(y, activation, dtype)


def layer_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    residual: ArrayLike | None = None,
    dtype: DTypeLike = np.float64,
    order: np.random.Generator | None = None,
) -> Array:
    """(h - mean) / sqrt(var + eps) * weight + bias over the last axis, h = x + residual; var is the biased one.

    >>> layer_norm([1.0, 3.0], eps=0.0).tolist()
    [-1.0, 1.0]
    """
    with np.errstate(all="ignore"):
        h = _cast(x, dtype)
        if residual is not None:
            h = h + _cast(residual, dtype)
        n = h.dtype.type(h.shape[-1])
        centred = h - _sum(h, order) / n
        y = centred / np.sqrt(_sum(centred * centred, order) / n + h.dtype.type(eps))
        if weight is not None:
            y = y * _cast(weight, dtype)
        if bias is not None:
            y = y + _cast(bias, dtype)
        return np.asarray(y, dtype=dtype)


def rms_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    eps: float = 1e-6,
    residual: ArrayLike | None = None,
    dtype: DTypeLike = np.float64,
    order: np.random.Generator | None = None,
) -> Array:
    """h / sqrt(mean(h**2) + eps) * weight over the last axis, h = x + residual (Zhang, Sennrich 2019)."""
    with np.errstate(all="ignore"):
        h = _cast(x, dtype)
        if residual is not None:
            h = h + _cast(residual, dtype)
        y = h / np.sqrt(_sum(h * h, order) / h.dtype.type(h.shape[-1]) + h.dtype.type(eps))
        return np.asarray(y if weight is None else y * _cast(weight, dtype), dtype=dtype)


def softmax(x: ArrayLike, dtype: DTypeLike = np.float64, order: np.random.Generator | None = None) -> Array:
    """exp(x) / sum(exp(x)) over the last axis; -inf is an absent entry, a row of nothing but -inf gives zeros.

    >>> softmax([0.0, 0.0, -np.inf]).tolist()
    [0.5, 0.5, 0.0]
    """
    a = _cast(x, dtype)
    with np.errstate(all="ignore"):
        part = ~np.isneginf(a)
        empty = ~part.any(axis=-1, keepdims=True)
        top = np.max(a, axis=-1, keepdims=True, initial=-np.inf)
        p = np.where(part, np.exp(a - np.where(empty, 0, top)), 0)
        return np.asarray(np.where(part, p / np.where(empty, 1, _sum(p, order)), 0), dtype=dtype)


def embedding_sum(tables: Sequence[ArrayLike], ids: Sequence[ArrayLike], dtype: DTypeLike = np.float64) -> Array:
    """sum over t of tables[t][ids[t]]: tables ``(V_t, H)``, ids all of one shape ``(...)`` -> ``(..., H)``.

    >>> embedding_sum([[[1.0], [2.0]], [[10.0]]], [[1, 0], [0, 0]]).ravel().tolist()
    [12.0, 11.0]
    """
    rows = [_cast(table, dtype)[np.asarray(index)] for table, index in zip(tables, ids, strict=True)]
    total = rows[0]
    for row in rows[1:]:
        total = total + row
    return np.asarray(total, dtype=dtype)


def pool(x: ArrayLike, cu_seqlens: ArrayLike, mode: str = "mean", dtype: DTypeLike = np.float64) -> Array:
    """One vector for each sequence: ``x (T, H)``, rows ``cu_seqlens[b]`` up to ``cu_seqlens[b + 1]`` -> ``(B, H)``.

    mode: "mean", "max", "cls" (the first row) or "last". A sequence without rows gives zeros.

    >>> pool([[1.0], [3.0], [9.0]], [0, 2, 2, 3], "mean").tolist()
    [[2.0], [0.0], [9.0]]
    """
    h, cu = _cast(x, dtype), np.asarray(cu_seqlens)
    picks: dict[str, Callable[[Array], Any]] = {
        "mean": lambda rows: rows.mean(axis=0, dtype=dtype),
        "max": lambda rows: rows.max(axis=0),
        "cls": lambda rows: rows[0],
        "last": lambda rows: rows[-1],
    }
    if mode not in picks:
        raise ValueError(f"mode: got {mode!r}, expected one of {sorted(picks)}")
    out = np.zeros((len(cu) - 1, h.shape[1]), dtype=dtype)
    for b in range(len(cu) - 1):
        if cu[b] < cu[b + 1]:
            out[b] = picks[mode](h[cu[b] : cu[b + 1]])
    return out


def l2_normalize(
    x: ArrayLike, eps: float = 1e-12, dtype: DTypeLike = np.float64, order: np.random.Generator | None = None
) -> Array:
    """x / max(||x||, eps) over the last axis.

    >>> l2_normalize([3.0, 4.0]).tolist()
    [0.6, 0.8]
    """
    a = _cast(x, dtype)
    with np.errstate(all="ignore"):
        norm = np.sqrt(_sum(a * a, order))
        return np.asarray(a / np.maximum(norm, a.dtype.type(eps)), dtype=dtype)
