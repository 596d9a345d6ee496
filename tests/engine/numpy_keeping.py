# SPDX-License-Identifier: MIT
"""What draw.h says of DRY, decay, typical, epsilon, eta, XTC and mirostat, in float64 and Python integers: the
plain way, comparing everything with everything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastattn.engine.drawkinds import Dry, Mirostat
from fastattn.engine.sampling import Sampling

__all__ = ["dry_lengths", "dry_penalties", "kept_by_entropy", "mirostat_kept", "without_the_best"]

Array = np.ndarray[Any, np.dtype[np.float64]]


def dry_lengths(tokens: Sequence[int], dry: Dry) -> dict[int, int]:
    """Token -> the longest repetition it would make longer, where that is ``allowed_length`` or more."""
    window = list(tokens if dry.penalty_last_n < 0 else tokens[max(len(tokens) - dry.penalty_last_n, 0) :])
    if len(window) <= dry.allowed_length:
        return {}
    limit = len(window)
    for start in range(len(window) - 1, -1, -1):  # the last breaker
        fits = [one for one in dry.sequence_breakers if tuple(window[start : start + len(one)]) == one]
        if fits:
            limit = len(window) - start - max(len(one) for one in fits)
            break
    found: dict[int, int] = {}
    for end in range(1, len(window)):  # the token at `end` came behind window[:end]
        length = 0
        while length < min(end, limit) and window[end - 1 - length] == window[len(window) - 1 - length]:
            length += 1
        if length >= dry.allowed_length and limit >= dry.allowed_length:
            found[window[end]] = max(found.get(window[end], 0), length)
    return {token: length for token, length in found.items() if (token,) not in dry.sequence_breakers}


def dry_penalties(tokens: Sequence[int], dry: Dry) -> dict[int, np.float32]:
    most = float(np.finfo(np.float32).max)
    found = {}
    for token, length in dry_lengths(tokens, dry).items():
        try:
            penalty = dry.multiplier * dry.base ** (length - dry.allowed_length)
        except OverflowError:
            penalty = most
        found[token] = np.float32(min(penalty, most))
    return found


def kept_by_entropy(p: Array, x: Array, sampling: Sampling) -> tuple[Array, float]:
    """Probabilities after typical, epsilon and eta, and how far the nearest decision was from the other one.

    Typical by the distances of logits ``x``, which a high temperature does not make equal as it does surprises.
    """
    margin = np.inf
    if sampling.typical_p < 1:
        live = np.flatnonzero(p > 0)
        below = x.max() - x[live]
        off = np.abs(below - (p[live] * below).sum()) / sampling.temperature
        order = np.argsort(off, kind="stable")
        sums = np.cumsum(p[live][order])
        last = min(int((sums < sampling.typical_p).sum()), len(live) - 1)
        others = np.abs(off - off[order[last]])
        margin = min(
            float(np.abs(sums[:-1] - sampling.typical_p).min(initial=np.inf)),
            float(others[(others > 0)].min(initial=np.inf)),
        )
        p = _without(p, live[off > off[order[last]]])
    for eta, cutoff in ((False, sampling.epsilon_cutoff), (True, sampling.eta_cutoff)):
        if cutoff > 0:
            live = p[p > 0]
            edge = min(cutoff, math.sqrt(cutoff) * math.exp((live * np.log(live)).sum())) if eta else cutoff
            margin = min(margin, float(np.abs(live - edge).min(initial=np.inf)))
            p = _without(p, np.flatnonzero((p < edge) & (p < p.max())))
    return p, margin


def without_the_best(x: Array, p: Array, threshold: float) -> tuple[Array, float]:
    """Probabilities without those of at least ``threshold``, but for the last of these."""
    likely = np.flatnonzero((p >= threshold) & (p > 0))
    margin = float(np.abs(p[p > 0] - threshold).min(initial=np.inf))
    if len(likely) < 2:
        return p, margin
    order = likely[np.lexsort((likely, -x[likely]))]
    return _without(p, order[:-1]), margin


def mirostat_kept(x: Array, temperature: float, mirostat: Mirostat, most: float) -> tuple[Array, float]:
    """Probabilities (V,) of what is left, and how far the nearest decision was from the other one."""
    with np.errstate(over="ignore"):
        p = np.exp((x - x.max()) / temperature)
    order = np.lexsort((np.arange(len(x)), -x))
    p /= p.sum()
    if mirostat.version == 2:
        with np.errstate(divide="ignore"):
            surprise = -np.log2(p)
        left = surprise[order] <= most
        margin = float(np.abs(surprise - most).min())
        return _without(p, order[1:] if not left.any() else order[~left]), margin
    best = p[order[:100]]
    best = best[best > 0]
    t = np.log(np.arange(2, len(best) + 1) / np.arange(1, len(best)))
    s = float((t * np.log(best[:-1] / best[1:])).sum() / (t * t).sum()) if len(best) > 1 else 0.0
    if len(x) == 1:
        return p, np.inf
    e, n = s - 1, len(x)
    ratio = 1 / math.log(n) if abs(e) < 1e-9 else e / (1 - n**-e)
    whole = math.log(ratio) + most * math.log(2)
    k = 1.0 if whole <= 0 else float(n) if whole >= s * math.log(n) else min(max(math.exp(whole / s), 1), n)
    margin = abs(k - round(k)) / k if 1 < k < n else 1.0
    return _without(p, order[int(k) :]), margin


def _without(p: Array, ids: Any) -> Array:
    p = p.copy()
    p[ids] = 0
    result: Array = p / p.sum()
    return result
