# SPDX-License-Identifier: MIT
"""Options of generation that change no token."""

from __future__ import annotations

from operator import index
from typing import Any

import numpy as np

__all__ = ["read_prompt_logprobs"]


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


def _whole(value: Any, name: str, expected: str) -> int:
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")
    return index(value)


def _shown(number: int) -> str:
    """An integer, if it has not hundreds of digits."""
    return str(number) if abs(number) < 10**24 else "an integer of many digits"
