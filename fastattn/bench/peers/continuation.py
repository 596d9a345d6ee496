# SPDX-License-Identifier: MIT
"""What the libraries of ``fastattn bench generate`` have in common: how prompts are continued."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["DRAWN", "SEED", "Call", "Loaded", "Prepare"]

Call = Callable[[int], list[list[int]]]
"""Continues the prompts it was made for by so many tokens each, and returns these."""


Prepare = Callable[..., Call]
"""Takes prompts, the most tokens and whether they are drawn, and by keywords what else the library lets one choose."""

DRAWN = {"temperature": 0.8, "top_k": 40, "top_p": 0.95}
"""How tokens are drawn, where they are."""
SEED = 7


class Loaded:
    """A model that is ready: its library's version, and what makes a Call from prompts of the same length, from the
    most tokens it will be asked for, and from whether they are drawn as DRAWN says; else the likeliest ones are taken.
    By keywords what else the library lets one choose for a Call. ``facts``: what else the parent wants to know.
    """

    def __init__(
        self,
        version: str,
        prepare: Prepare,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.version = version
        self.prepare = prepare
        self.facts = facts or {}
