# SPDX-License-Identifier: MIT
"""Options of generation that change no token: what is told of a prompt, and drafts."""

from __future__ import annotations

from operator import index
from typing import Any

import numpy as np

from ..engine.drafts import DraftRules

__all__ = ["read_draft", "read_prompt_logprobs"]

_TOGETHER = 8  # tokens of a draft at most, where nobody says how many
_MOST = 64


def read_prompt_logprobs(value: Any, vocab_size: int) -> int | None:
    """How many of the likeliest tokens to tell in the place of each token of the prompt; None for nothing.

    Raises
    ------
    TypeError, ValueError
        It is no such number.
    """
    if value is None:
        return None
    number = _whole(value, "prompt_logprobs", "an integer")
    if not 0 <= number <= vocab_size:
        raise ValueError(f"prompt_logprobs: got {_shown(number)}, expected 0 to {vocab_size}")
    return number


def read_draft(value: Any) -> DraftRules:
    """How tokens are guessed: "auto", None (not at all), "prompt_lookup", or how many tokens at most.

    Raises
    ------
    TypeError, ValueError
        It is none of these.
    """
    if value is None:
        return DraftRules()
    if isinstance(value, str):
        if value not in ("auto", "prompt_lookup"):
            raise ValueError(
                f'draft: got {value[:100]!r}, expected "auto", "prompt_lookup", a number of tokens or None'
            )
        return DraftRules(_TOGETHER, value == "auto")
    number = _whole(value, "draft", '"auto", "prompt_lookup", a number of tokens or None')
    if not 1 <= number <= _MOST:
        raise ValueError(f"draft: got {_shown(number)}, expected 1 to {_MOST} tokens")
    return DraftRules(number, False)


def _whole(value: Any, name: str, expected: str) -> int:
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")
    return index(value)


def _shown(number: int) -> str:
    """An integer, if it has not hundreds of digits."""
    return str(number) if abs(number) < 10**24 else "an integer of many digits"
