# SPDX-License-Identifier: MIT
"""What sequences hand over when their next tokens are drawn: what came before, what may not come, what has to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from .sampling import Sampling

__all__ = ["Drawn", "call_of"]

Integers = np.ndarray[Any, np.dtype[np.int64]]


class Drawn(Protocol):
    """A sequence of which the next token is drawn."""

    prompt: Integers
    made: list[int]
    total: int
    which: int
    ends: frozenset[int]
    sampling: Sampling
    surprise: float
    """With mirostat, what a token may surprise at most."""

    def history(self) -> Integers:
        """Prompt and answer so far."""


def call_of(some: Sequence[Drawn]) -> dict[str, Any]:
    """Keyword arguments of ``_core.sample``, behind logits and samplings."""
    call: dict[str, Any] = {"steps": [len(one.made) for one in some], "which": [one.which for one in some]}
    if any(one.sampling.penalises or one.sampling.bans is not None for one in some):
        texts = [one.history() if _looks(one.sampling) else None for one in some]
        call["tokens"] = [text if one.sampling.penalises else None for one, text in zip(some, texts, strict=True)]
        call["prompts"] = [one.prompt.size for one in some]
    else:
        texts = [None] * len(some)
    if any(one.sampling.mirostat is not None for one in some):
        call["surprises"] = [None if one.sampling.mirostat is None else one.surprise for one in some]
    if not all(one.sampling.bans is None and len(one.made) >= one.sampling.min_new_tokens for one in some):
        rows = [_changes(one, text) for one, text in zip(some, texts, strict=True)]
        for name in ("banned", "allowed", "biases", "decays", "given"):
            column = [row.get(name) for row in rows]
            if any(value is not None for value in column):
                call[name] = column
    return call


def _looks(sampling: Sampling) -> bool:
    return sampling.penalises or (sampling.bans is not None and sampling.bans.looks)


def _changes(one: Drawn, history: Integers | None) -> dict[str, Any]:
    """What bans say of the next token of one sequence."""
    bans, made, ends = one.sampling.bans, len(one.made), one.ends
    length = one.prompt.size + made
    banned = set(ends) if made < one.sampling.min_new_tokens else set()
    found: dict[str, Any] = {}
    if bans is not None:
        forced = bans.forced(length, one.total)
        if forced is not None:
            return {"given": forced}
        banned |= bans.banned(history, length, one.prompt.size, ends)
        found["allowed"] = bans.allowed
        if bans.sequence_bias:
            biases = bans.biases(history, one.sampling.logit_bias)
            found["biases"] = _ids(token for token, _ in biases), np.array([bias for _, bias in biases], np.float32)
        decay = bans.decay(made)
        if decay is not None and ends:
            found["decays"] = _ids(sorted(ends)), *decay
    if banned:
        found["banned"] = _ids(sorted(banned))
    return found


def _ids(tokens: Any) -> Integers:
    return np.array(list(tokens), np.int64)
