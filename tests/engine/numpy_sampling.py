# SPDX-License-Identifier: MIT
"""Drawing a token in float64 NumPy and Python integers, sorting everything: what fastattn.h says, and no line of C."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastattn.engine.sampling import Sampling

__all__ = ["chosen", "log_softmax", "philox", "processed", "remaining"]

Array = np.ndarray[Any, np.dtype[np.float64]]
_MASK = 0xFFFFFFFF


def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Philox4x32-10, after the paper: ten rounds of two products, the key raised in between."""
    a, b, c, d = counter
    for number in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        low, high = (key[0] + number * 0x9E3779B9) & _MASK, (key[1] + number * 0xBB67AE85) & _MASK
        a, b, c, d = second >> 32 ^ b ^ low, second & _MASK, first >> 32 ^ d ^ high, first & _MASK
    return [a, b, c, d]


def processed(
    logits: Any, sampling: Sampling, tokens: Sequence[int] = (), prompt: int = 0, banned: Sequence[int] = (),
    allowed: Sequence[bool] | None = None,
) -> Array:  # fmt: skip
    """Logits (V,) after biases, penalties and bans: each step one operation of float32, as is said there."""
    x = np.array(logits, np.float32)
    repetition, presence, frequency = np.float32(
        [sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty]
    )
    with np.errstate(over="ignore"):
        for token, bias in sampling.logit_bias:
            x[token] = _kept_finite(x[token], x[token] + np.float32(bias), bias)
        answer = list(tokens[prompt:])
        for token in set(tokens):
            if token >= len(x):
                continue
            t = x[token]
            x[token] = _kept_finite(t, t * repetition if t < 0 else t / repetition)
            if token in answer:
                x[token] = _kept_finite(x[token], x[token] - frequency * np.float32(answer.count(token)))
                x[token] = _kept_finite(x[token], x[token] - presence)
    x[list(banned)] = -np.inf
    if allowed is not None:
        x[~np.array(allowed, bool)[: len(x)]] = -np.inf
    return x.astype(np.float64)


def _kept_finite(before: Any, after: Any, bias: float = 0.0) -> Any:
    if before == -np.inf or bias == -np.inf:
        return np.float32(-np.inf)
    limit = np.finfo(np.float32).max
    return min(max(after, -limit), limit)


def remaining(x: Array, sampling: Sampling) -> tuple[Array, float]:
    """Probabilities (V,), and how far the nearest decision of top_p or min_p was from the other one, in probability."""
    order = np.lexsort((np.arange(len(x)), -x))
    with np.errstate(over="ignore"):
        p = np.exp((x - x.max()) / sampling.temperature)
    if sampling.top_k:
        p[order[sampling.top_k :]] = 0
    p /= p.sum()
    margin = np.inf
    if sampling.top_p < 1:
        before = np.concatenate([[0.0], np.cumsum(p[order])[:-1]])
        margin = float(np.abs(before[1:] - sampling.top_p).min(initial=np.inf))
        p[order[1:][before[1:] >= sampling.top_p]] = 0
    if sampling.min_p:
        edge = sampling.min_p * p.max()
        others = p[(p > 0) & (p < p.max())]
        margin = min(margin, float(np.abs(others - edge).min(initial=np.inf)))
        p[p < edge] = 0
    return p / p.sum(), margin


def chosen(x: Array, sampling: Sampling, step: int = 0, which: int = 0) -> tuple[int, set[int]]:
    """The token, and those it might be as well, being within 1e-5 of it; x is processed."""
    if sampling.greedy:
        token = int(np.flatnonzero(x == x.max())[0])
        return token, {token}
    p, margin = remaining(x, sampling)
    words = philox([which, step, 0, 0], [sampling.seed & _MASK, sampling.seed >> 32])
    u = (words[1] << 32 | words[0]) / 2.0**64
    edges = np.cumsum(p)
    token = int(np.searchsorted(edges, u, side="right"))
    if margin < 1e-5:
        return token, set(np.flatnonzero(p > 0).tolist()) | set(range(len(x)))
    near = {int(np.searchsorted(edges, min(max(u + d, 0), 1 - 1e-12), side="right")) for d in (-1e-5, 0, 1e-5)}
    return token, {min(t, len(x) - 1) for t in near}


def log_softmax(logits: Any) -> Array:
    x = np.array(logits, np.float64)
    x = x - x.max()
    result: Array = x - np.log(np.exp(x).sum())
    return result
