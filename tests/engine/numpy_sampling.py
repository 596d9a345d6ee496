# SPDX-License-Identifier: MIT
"""Drawing a token in float64 NumPy and Python integers, sorting everything: what draw.h says, and no line of C."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy_keeping import dry_penalties, kept_by_entropy, mirostat_kept, without_the_best

from fastattn.engine.sampling import Sampling

__all__ = ["bits_of", "chosen", "log_softmax", "philox", "processed", "remaining"]

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
    allowed: Sequence[bool] | None = None, decay: tuple[Sequence[int], float, int] | None = None,
) -> Array:  # fmt: skip
    """Logits (V,) after biases, penalties, bans and decay: each step one operation of float32, as is said there."""
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
        for token, penalty in {} if sampling.dry is None else dry_penalties(tokens, sampling.dry).items():
            if token < len(x):
                x[token] = _kept_finite(x[token], x[token] - penalty)
        x[list(banned)] = -np.inf
        if allowed is not None:
            x[~np.array(allowed, bool)[: len(x)]] = -np.inf
        for token in () if decay is None else decay[0]:
            assert decay is not None
            more = np.float32(min(decay[1] ** decay[2] - 1, float(np.finfo(np.float32).max)))
            x[token] = _kept_finite(x[token], x[token] + _kept_finite(x[token], np.abs(x[token]) * more))
    return x.astype(np.float64)


def _kept_finite(before: Any, after: Any, bias: float = 0.0) -> Any:
    if before == -np.inf or bias == -np.inf:
        return np.float32(-np.inf)
    limit = np.finfo(np.float32).max
    return min(max(after, -limit), limit)


def bits_of(sampling: Sampling, step: int, which: int, use: int = 0) -> float:
    """The random number of a token, or that of its XTC (1)."""
    words = philox([which, step, use, 0], [sampling.seed & _MASK, sampling.seed >> 32])
    return (words[1] << 32 | words[0]) / 2.0**64


def remaining(x: Array, sampling: Sampling, step: int = 0, which: int = 0) -> tuple[Array, float]:
    """Probabilities (V,), and how far the nearest decision of a step was from the other one, in probability."""
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
    p, other = kept_by_entropy(p / p.sum(), x, sampling)
    margin = min(margin, other)
    if sampling.xtc is not None and bits_of(sampling, step, which, 1) < sampling.xtc[0]:
        p, other = without_the_best(x, p, sampling.xtc[1])
        margin = min(margin, other)
    return p, margin


def chosen(
    x: Array, sampling: Sampling, step: int = 0, which: int = 0, most: float | None = None
) -> tuple[int, set[int]]:
    """The token, and those it might be as well, being within 1e-5 of it; x is processed. ``most``: for mirostat."""
    if sampling.greedy:
        token = int(np.flatnonzero(x == x.max())[0])
        return token, {token}
    if sampling.mirostat is None:
        p, margin = remaining(x, sampling, step, which)
    else:
        assert most is not None
        p, margin = mirostat_kept(x, sampling.temperature, sampling.mirostat, most)
    u = bits_of(sampling, step, which)
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
