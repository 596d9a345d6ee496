# SPDX-License-Identifier: MIT
"""Options of generation that change no token: what is told of a prompt, and drafts."""

from __future__ import annotations

from typing import Any

from ..engine.drafts import DraftRules
from ..engine.optionvalues import whole

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
    return whole("prompt_logprobs", value, 0, 0, vocab_size)


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
    return DraftRules(whole("draft", value, 0, 1, _MOST, f"1 to {_MOST} tokens"), False)
