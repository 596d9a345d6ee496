# SPDX-License-Identifier: MIT
"""The cases of llama.cpp's tests/test-sampling.cpp whose meaning is ours too: shares of a few tokens, cuts of many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastattn import _core
from fastattn.engine.sampling import sampling_of

DRAWS = 4000
FOUR, FALLING, FIVE = (0.1, 0.2, 0.3, 0.4), (0.4, 0.3, 0.2, 0.1), (0.2,) * 5


def dry(multiplier: float, allowed_length: int, last_n: int, breakers: Any = ()) -> dict[str, Any]:
    return {"multiplier": multiplier, "base": 1.1, "allowed_length": allowed_length, "penalty_last_n": last_n,
            "sequence_breakers": list(breakers)}  # fmt: skip


def drawn(logits: Any, tokens: list[int] | None = None, **options: Any) -> np.ndarray[Any, Any]:
    """Tokens of many draws from one row of logits, behind an answer of ``tokens``."""
    rows = np.broadcast_to(np.asarray(logits, np.float32), (DRAWS, len(logits)))
    made = None if tokens is None else [np.array(tokens, np.int64)] * DRAWS
    sampling = sampling_of(**{"temperature": 1.0, "seed": 11, **options})
    found: np.ndarray[Any, Any] = _core.sample(
        rows, [sampling] * DRAWS, steps=list(range(DRAWS)), tokens=made, prompts=None if made is None else [0] * DRAWS
    )[0]
    return found


SHARES: list[tuple[tuple[float, ...], dict[str, Any], list[int], tuple[float, ...]]] = [
    (FOUR, {}, [], FOUR),
    (FOUR, {"temperature": 0.0}, [], (0, 0, 0, 1)),
    (FOUR, {"top_k": 1}, [], (0, 0, 0, 1)),
    (FOUR, {"top_k": 3}, [], (0, 0.22222, 0.33333, 0.44444)),
    (FOUR, {"top_k": 4}, [], FOUR),
    (FOUR, {"top_k": 0}, [], FOUR),
    (FOUR, {"top_p": 1e-9}, [], (0, 0, 0, 1)),
    (FOUR, {"top_p": 0.69}, [], (0, 0, 0.428571, 0.571429)),
    (FOUR, {"top_p": 0.8}, [], (0, 0.22222, 0.33333, 0.44444)),
    (FOUR, {"top_p": 1.0}, [], FOUR),
    (FOUR, {"min_p": 0.0}, [], FOUR),
    (FOUR, {"min_p": 0.24}, [], FOUR),
    (FOUR, {"min_p": 0.26}, [], (0, 0.2 / 0.9, 0.3 / 0.9, 0.4 / 0.9)),
    (FOUR, {"min_p": 0.49}, [], (0, 0.2 / 0.9, 0.3 / 0.9, 0.4 / 0.9)),
    (FOUR, {"min_p": 0.51}, [], (0, 0, 0.3 / 0.7, 0.4 / 0.7)),
    (FOUR, {"min_p": 0.74}, [], (0, 0, 0.3 / 0.7, 0.4 / 0.7)),
    (FOUR, {"min_p": 0.76}, [], (0, 0, 0, 1)),
    (FOUR, {"min_p": 1.0}, [], (0, 0, 0, 1)),
    (FIVE, {"repetition_penalty": 50.0}, [0], (0, 0.25, 0.25, 0.25, 0.25)),
    (FIVE, {"repetition_penalty": 50.0}, [0, 1, 2], (0, 0, 0, 0.5, 0.5)),
    (FIVE, {"repetition_penalty": 50.0}, [0, 1, 2, 0, 0], (0, 0, 0, 0.5, 0.5)),
    (FIVE, {"presence_penalty": 5.0, "frequency_penalty": 5.0}, [0], (0, 0.25, 0.25, 0.25, 0.25)),
    (FIVE, {"presence_penalty": 5.0, "frequency_penalty": 5.0}, [0, 1, 2], (0, 0, 0, 0.5, 0.5)),
    (FIVE, {"presence_penalty": 5.0, "frequency_penalty": 5.0}, [0, 1, 2, 0, 0], (0, 0, 0, 0.5, 0.5)),
    (FALLING, {"xtc": (1.0, 0.09)}, [], (0, 0, 0, 1)),
    (FALLING, {"xtc": (1.0, 0.19)}, [], (0, 0, 0.2 / 0.3, 0.1 / 0.3)),
    (FALLING, {"xtc": (1.0, 0.29)}, [], (0, 0.3 / 0.6, 0.2 / 0.6, 0.1 / 0.6)),
    (FALLING, {"xtc": (1.0, 0.39)}, [], FALLING),
    ((0.97, 0.01, 0.01, 0.01), {"typical_p": 0.5}, [], (1, 0, 0, 0)),
    ((0.4, 0.2, 0.2, 0.2), {"typical_p": 0.5}, [], (0, 1 / 3, 1 / 3, 1 / 3)),
    ((0.25,) * 4, {"dry": dry(1.0, 2, 4)}, [0, 1], (0.25,) * 4),
    ((0.25,) * 4, {"dry": dry(1.0, 2, 5)}, [0, 1, 2, 0, 1], (0.296923, 0.296923, 0.109232, 0.296923)),
    (FIVE, {"dry": dry(1.0, 2, 6, [3])}, [0, 1, 3, 4, 0, 1], FIVE),
    (FIVE, {"dry": dry(2.0, 2, 5)}, [0, 1, 2, 0, 1], (0.241818, 0.241818, 0.032727, 0.241818, 0.241818)),
    (FIVE, {"dry": dry(1.0, 4, 7)}, [0, 1, 2, 3, 4, 0, 1], FIVE),
]


@pytest.mark.parametrize(("shares", "options", "tokens", "expected"), SHARES, ids=str)
def test_shares(
    shares: tuple[float, ...], options: dict[str, Any], tokens: list[int], expected: tuple[float, ...]
) -> None:
    """What is left of some tokens, within five standard deviations of the counts; none of those that are cut."""
    counts = np.bincount(drawn(np.log(shares), tokens, **options), minlength=len(shares))
    for count, share in zip(counts.tolist(), expected, strict=True):
        assert abs(count - share * DRAWS) <= 5 * (share * (1 - share) * DRAWS) ** 0.5 + 0.01 * (share > 0)


def survivors(count: int, top_k: int, top_p: float, min_p: float) -> int:
    """How many of ``count`` tokens are left, of which number i has the share of i: top_k, then top_p, then min_p."""
    left = min(top_k or count, count)
    if top_p < 1:
        weights = np.arange(count - 1, count - 1 - left, -1, dtype=np.float64)
        left = int(np.searchsorted(np.cumsum(weights) / weights.sum(), top_p)) + 1
    return min(left, sum(i >= min_p * (count - 1) for i in range(count - left, count)))


CUTS = [(10000, 1, 1), (1, 1, 1), (0, 1, 1e-12), (100, 1, 1), (0, 0.0003, 1), (0, 0.8, 0), (0, 1, 9997.9 / 9999),
        (0, 1, 0.1), (100, 0.8, 0), (100, 1, 0.1), (0, 0.8, 9997.9 / 9999), (0, 0.8, 0.1), (100, 0.8, 0.1)]  # fmt: skip


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_cuts_of_many(cut: tuple[int, float, float]) -> None:
    """The lowest of 4000 draws is no token that is cut; among few survivors every one comes."""
    top_k, top_p, min_p = cut
    with np.errstate(divide="ignore"):
        logits = np.log(np.arange(10_000, dtype=np.float32))
    left = survivors(10_000, top_k, top_p, min_p)
    found = drawn(logits, top_k=top_k, top_p=top_p, min_p=min_p)
    assert found.min() >= 10_000 - left
    if left <= 200:
        assert len(np.unique(found)) == left
    else:
        assert found.min() < 10_000 - 0.9 * left
