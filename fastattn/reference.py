# SPDX-License-Identifier: MIT
"""Readable NumPy oracle for every operator: what the answer is, with no thought for speed.

Every function takes ``dtype``. With the default, ``np.float64``, it is the oracle the tests compare with. With
``np.float32`` the same lines are the *naive fp32 NumPy* of the accuracy rule::

    max|err| <= 2 * max|err of naive fp32 NumPy| + 2**-23 * max|reference|

so the two can never drift apart. With ``order``, sums are taken one term after the other in a shuffled order: what
float32 makes of a problem depends on it. Nothing at run time imports this module; it needs NumPy alone. Attention is
written in `fastattn.reference_attention` and named here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastattn.reference_attention import (
    AttentionReference,
    attention,
    attention_varlen,
    key_offset,
    product,
    relative_buckets,
    visible_keys,
    widen,
)

__all__ = [
    "ACTIVATIONS",
    "AttentionReference",
    "activate",
    "attention",
    "attention_varlen",
    "disentangled_bias",
    "embedding_sum",
    "erf",
    "exp2",
    "gated",
    "gelu",
    "key_offset",
    "l2_normalize",
    "layer_norm",
    "linear",
    "linear_attention",
    "linear_int8",
    "merge_attention",
    "pool",
    "quantize_rows",
    "relative_buckets",
    "relu",
    "rms_norm",
    "rope",
    "rope_table",
    "sigmoid",
    "silu",
    "similarity",
    "softmax",
    "tanh",
    "visible_keys",
    "widen",
]

Array = NDArray[Any]


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
        y = product(a.reshape(-1, a.shape[-1]), w.T, order).reshape(*a.shape[:-1], len(w))
        if bias is not None:
            y = y + _cast(bias, dtype)
        return activate(y, activation, dtype)


def rotate(x: Array) -> Array:
    """The rotation of rows (..., K) before they are rounded to int8, without the last factor: every block of 128 inputs
    by Hadamard transforms of 64 in the order of `kernels/linear_int8.h`, the rest times 8; float32 stays float32.
    """
    whole = x.shape[-1] // 128 * 128
    r: Array = x[..., :whole].reshape(-1, 8, 16)
    for step in (1, 2, 4):
        r = r.reshape(len(r), 4 // step, 2, step, 16)
        r = np.stack([r[:, :, 0] + r[:, :, 1], r[:, :, 0] - r[:, :, 1]], 2).reshape(len(r), 8, 16)
    for _ in range(3):
        r = r.reshape(len(r), 4, 16, 2)
        r = np.stack([r[..., 0] + r[..., 1], r[..., 0] - r[..., 1]], 2).reshape(len(r), 8, 16)
    return np.concatenate([r.reshape(*x.shape[:-1], whole), x[..., whole:] * x.dtype.type(8)], -1)


def quantize_rows(x: ArrayLike) -> tuple[Array, Array]:
    """Rows (M, K) as int8 and a float32 scale each, rotated; a row that holds NaN or infinity has a scale of NaN.

    >>> q, scale = quantize_rows([[1.0, -2.0]])
    >>> q.tolist(), (q * scale[:, None]).tolist()
    ([[64, -127]], [[8.062992095947266, -16.0]])
    """
    with np.errstate(all="ignore"):
        rows = np.asarray(x, np.float32)
        top = np.abs(rotate(rows)).max(-1, initial=0)
        factor = np.where(top <= 2.0**64, np.where((top < 2.0**-64) & (top > 0), 2.0**64, 1.0), 2.0**-64)
        rotated = rotate(rows * factor[:, None].astype(np.float32))
        top = np.abs(rotated).max(-1, initial=0)
        bad = ~(top < np.inf)
        inverse = np.where(bad | (top == 0), np.float32(0), np.float32(127) / np.where(top == 0, 1, top))
        rounded = np.rint(rotated.astype(np.float64) * inverse[:, None].astype(np.float64))
        q = np.where(bad[:, None], 0, rounded).astype(np.int8)
        scale = np.where(bad, np.float32(np.nan), top / np.float32(127) / factor.astype(np.float32))
        return q, scale.astype(np.float32)


def linear_int8(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Array:
    """x @ weight.T + bias as the int8 kernels make it, bit by bit: exact integer sums, three roundings to float32.

    ``x (M, K)``, ``weight (N, K)``, ``bias (N,)`` -> ``(M, N)`` float32.

    >>> linear_int8([[1.0, 2.0]], [[1.0, 1.0], [0.0, -1.0]], [0.5, 0.0]).round(1).tolist()
    [[3.5, -2.0]]
    """
    (qx, sx), (qw, sw) = quantize_rows(x), quantize_rows(weight)
    with np.errstate(all="ignore"):
        sums = (qx.astype(np.int64) @ qw.astype(np.int64).T).astype(np.float32)
        scaled = sums * (sw / np.float32(64))
        b = np.zeros(len(qw), np.float32) if bias is None else np.asarray(bias, np.float32)
        # float64 holds the product exactly; rounding its sum with the bias twice is a fused multiply-add almost always
        exact = scaled.astype(np.float64) * sx[:, None].astype(np.float64)
        return _round_to_odd_sum(exact, b.astype(np.float64))


def _round_to_odd_sum(a: Array, b: Array) -> Array:
    """float32(a + b), rounded once: the sum in float64 is made odd where it is inexact, so that the second rounding of
    it cannot go another way than the first.
    """
    total = np.asarray(a + b)
    part = total - a
    rest = (a - (total - part)) + (b - part)  # what the sum lost, exactly (Knuth 1969)
    bits = total.copy().view(np.int64)
    even = (bits & 1) == 0
    toward = np.where((rest > 0) == (total > 0), 1, -1)
    inexact = np.isfinite(rest) & (rest != 0) & even
    bits += np.where(inexact, toward, 0)
    result = bits.view(np.float64).astype(np.float32)
    result[np.isnan(result)] = np.nan
    return result


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


def pool(
    x: ArrayLike, cu_seqlens: ArrayLike, mode: str = "mean", skip: int = 0, dtype: DTypeLike = np.float64
) -> Array:
    """One vector for each sequence: ``x (T, H)``, rows ``cu_seqlens[b]`` up to ``cu_seqlens[b + 1]`` -> ``(B, H)``.

    mode: "mean", "mean_sqrt_len", "weighted_mean" (row i, counted from 1, has weight i), "max", "cls" (the first row)
    or "last". The first ``skip`` rows of a sequence are only counted. A sequence without rows gives zeros.

    >>> pool([[1.0], [3.0], [9.0]], [0, 2, 2, 3], "mean").tolist()
    [[2.0], [0.0], [9.0]]
    """
    h, cu = _cast(x, dtype), np.asarray(cu_seqlens)

    def weighted_mean(rows: Array) -> Any:
        weights = np.arange(skip + 1, skip + 1 + len(rows)).astype(dtype)
        return (rows * weights[:, None]).sum(axis=0, dtype=dtype) / weights.sum(dtype=dtype)

    picks: dict[str, Callable[[Array], Any]] = {
        "mean": lambda rows: rows.mean(axis=0, dtype=dtype),
        "mean_sqrt_len": lambda rows: rows.sum(axis=0, dtype=dtype) / np.sqrt(np.asarray(len(rows), dtype=dtype)),
        "weighted_mean": weighted_mean,
        "max": lambda rows: rows.max(axis=0),
        "cls": lambda rows: rows[0],
        "last": lambda rows: rows[-1],
    }
    if mode not in picks:
        raise ValueError(f"mode: got {mode!r}, expected one of {sorted(picks)}")
    out = np.zeros((len(cu) - 1, h.shape[1]), dtype=dtype)
    for b in range(len(cu) - 1):
        if cu[b] + skip < cu[b + 1]:
            out[b] = picks[mode](h[cu[b] + skip : cu[b + 1]])
    return out


def gated(x: ArrayLike, gate: ArrayLike, activation: str | None = None, dtype: DTypeLike = np.float64) -> Array:
    """activation(x) * gate (Shazeer 2020).

    >>> gated([-1.0, 2.0], [3.0, 4.0], "relu").tolist()
    [0.0, 8.0]
    """
    with np.errstate(all="ignore"):
        return np.asarray(activate(x, activation, dtype) * _cast(gate, dtype), dtype=dtype)


def disentangled_bias(
    c2p: ArrayLike | None, p2c: ArrayLike | None, q_positions: ArrayLike, k_positions: ArrayLike, columns: ArrayLike,
    scale: float, dtype: DTypeLike = np.float64,
) -> Array:  # fmt: skip
    """(c2p[h, i, t] + p2c[h, j, t]) * scale, t the column of the distance of positions i and j (He et al. 2021).

    >>> disentangled_bias([[[1.0, 2.0, 3.0]]], None, [5], [4, 5], [0, 1, 2], 10.0).tolist()
    [[[30.0, 20.0]]]
    """
    distance = np.asarray(q_positions)[:, None] - np.asarray(k_positions)[None, :]
    t = np.asarray(columns)[distance + len(np.asarray(columns)) // 2]
    rows, keys = np.indices(t.shape)
    total = np.zeros((), dtype)
    if c2p is not None:
        total = total + _cast(c2p, dtype)[:, rows, t]
    if p2c is not None:
        total = total + _cast(p2c, dtype)[:, keys, t]
    return np.asarray(total * np.asarray(scale, dtype), dtype=dtype)


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


def similarity(
    a: ArrayLike, b: ArrayLike, metric: str, dtype: DTypeLike = np.float64, order: np.random.Generator | None = None
) -> Array:
    """Rows of ``a (n, d)`` beside rows of ``b (m, d)``, "cosine", "dot", negative "euclidean" or "manhattan".

    >>> similarity([[3.0, 4.0]], [[6.0, 8.0], [0.0, 0.0]], "euclidean").tolist()
    [[-5.0, -5.0]]
    """
    x, y = _cast(widen(a), dtype), _cast(widen(b), dtype)
    with np.errstate(all="ignore"):
        if metric == "cosine":
            x, y = l2_normalize(x, dtype=dtype, order=order), l2_normalize(y, dtype=dtype, order=order)
        if metric in ("cosine", "dot"):
            return np.asarray(product(x, y.T, order), dtype=dtype)
        difference = np.abs(x[:, None] - y[None])
        if metric == "manhattan":
            return np.asarray(0 - _sum(difference, order)[..., 0], dtype=dtype)
        return np.asarray(0 - np.sqrt(_sum(difference * difference, order))[..., 0], dtype=dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Linear attention
# ---------------------------------------------------------------------------------------------------------------------


def linear_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    state: ArrayLike | None = None,
    decay: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    scale: float | None = None,
    dtype: DTypeLike = np.float64,
    order: np.random.Generator | None = None,
) -> tuple[Array, Array]:
    """(out, state) of the recurrence, token by token; a decay makes it gated, a beta makes it the delta rule.

    ``q (B, T, Hq, Dk)``, ``k (B, T, Hkv, Dk)``, ``v (B, T, Hkv, Dv)``, ``state (B, Hkv, Dk, Dv)``, ``beta (B, T, Hkv)``
    or ``(B, T, 1)``, ``decay`` in logarithms, ``(B, T, Hkv)`` or ``(B, T, Hkv, Dk)``. Out is ``(B, T, Hq, Dv)``.

    >>> out, state = linear_attention([[[[2.0]]]], [[[[3.0]]]], [[[[5.0]]]], state=[[[[1.0]]]])
    >>> out.item(), state.item()
    (32.0, 16.0)
    """
    qs, ks, vs = (_cast(widen(x), dtype) for x in (q, k, v))
    batch, tokens, heads, dk = qs.shape
    kv_heads, dv = ks.shape[2], vs.shape[3]
    s = np.zeros((batch, kv_heads, dk, dv), dtype) if state is None else _cast(widen(state), dtype)
    factor = np.asarray(1.0 / math.sqrt(dk) if scale is None else scale, dtype=dtype)
    out = np.zeros((batch, tokens, heads, dv), dtype)

    def along(vectors: Array) -> Array:
        """The sum over Dk of vectors (..., Dk) times the state (..., Dk, Dv), in some order."""
        with_state = s if vectors.shape[1] == kv_heads else np.repeat(s, heads // kv_heads, axis=1)
        terms = vectors[..., None] * with_state
        return np.asarray(np.moveaxis(_sum(np.moveaxis(terms, 2, -1), order), -1, 2)[:, :, 0])

    with np.errstate(all="ignore"):
        for t in range(tokens):
            if decay is not None:
                gate = _cast(widen(decay), dtype)[:, t]
                s = s * np.exp(gate.reshape(batch, kv_heads, -1, 1))
            value = vs[:, t]
            if beta is not None:
                value = _cast(widen(beta), dtype)[:, t, :, None] * (value - along(ks[:, t]))
            s = s + ks[:, t, :, :, None] * value[:, :, None, :]
            out[:, t] = factor * along(qs[:, t])
    return out, s


def rope(
    x: ArrayLike,
    cos: ArrayLike,
    sin: ArrayLike,
    position_ids: ArrayLike | None = None,
    interleaved: bool = False,
    dtype: DTypeLike = np.float64,
) -> Array:
    """Rotary embedding of ``x (B, H, S, D)``: pairs (a, b) become (a c - b s, b c + a s), dims beyond the pairs stay.

    ``cos, sin (P, R / 2)`` with ``position_ids (B, S)``, or ``(B, S, R / 2)``. Pairs are ``(i, i + R / 2)``, or
    ``(2 i, 2 i + 1)`` where interleaved.
    """
    y = _cast(widen(x), dtype).copy()
    c, s = _cast(cos, dtype), _cast(sin, dtype)
    if position_ids is not None:
        c, s = c[np.asarray(position_ids)], s[np.asarray(position_ids)]
    c, s = c[..., None, :, :], s[..., None, :, :]
    half = c.shape[-1]
    one = slice(0, 2 * half, 2) if interleaved else slice(0, half)
    two = slice(1, 2 * half, 2) if interleaved else slice(half, 2 * half)
    a, b = y[..., one].copy(), y[..., two].copy()
    y[..., one] = a * c - b * s
    y[..., two] = b * c + a * s
    return y


def rope_table(
    positions: ArrayLike, inverse_frequencies: ArrayLike, factor: float = 1.0, dtype: DTypeLike = np.float64
) -> tuple[Array, Array]:
    """(cos, sin) of ``positions (...)`` times ``inverse_frequencies (n,)``, times a factor: ``(..., n)`` each.

    In float64 an angle of a million radians is good to 1e-10, no further.
    """
    angles = _cast(positions, dtype)[..., None] * _cast(inverse_frequencies, dtype)
    scale = _cast(factor, dtype)
    return np.cos(angles) * scale, np.sin(angles) * scale


def merge_attention(
    outs: Sequence[ArrayLike],
    lses: Sequence[ArrayLike],
    dtype: DTypeLike = np.float64,
    order: np.random.Generator | None = None,
) -> tuple[Array, Array]:
    """(out, lse) over all keys from results over disjoint sets of them: ``outs (..., Dv)``, ``lses (...)``.

    Each out counts by exp of its lse; one with lse = -inf has seen no key and is not looked at.
    """
    sides = np.stack([_cast(widen(o), dtype) for o in outs])
    logs = np.stack([_cast(lse, dtype) for lse in lses])
    top = logs.max(axis=0)
    shift = np.where(np.isneginf(top), 0, top).astype(logs.dtype)
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.where(np.isneginf(logs), 0, np.exp(logs - shift)).astype(logs.dtype)
        total = _sum(np.moveaxis(weights, 0, -1), order)[..., 0]
        terms = np.where(np.isneginf(logs)[..., None], 0, (weights / total)[..., None] * sides).astype(logs.dtype)
        out = _sum(np.moveaxis(terms, 0, -1), order)[..., 0]
        lse = np.where(np.isneginf(top), top, np.log(total) + shift).astype(logs.dtype)
    return np.asarray(out), np.asarray(lse)
