# SPDX-License-Identifier: MIT
"""What is put before a text: given, named among the folder's prompts, or the folder's default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .batches import check_text

__all__ = ["choose_prompt"]


def choose_prompt(prompt: Any, prompt_name: Any, prompts: Mapping[str, str], default: str) -> str:
    """The prompt that the arguments ``prompt`` and ``prompt_name`` of a call ask for.

    ``prompts`` and ``default``: what the folder has, and what it wants where the caller says nothing.
    """
    if prompt is not None and prompt_name is not None:
        raise ValueError("prompt_name: expected None where a prompt is given")
    if prompt is not None:
        return check_text(prompt, "prompt")
    if prompt_name is None:
        return default
    if not isinstance(prompt_name, str):
        raise TypeError(f"prompt_name: expected a str or None, got {type(prompt_name).__name__}")
    if prompt_name not in prompts:
        names = ", ".join(map(repr, prompts)) or "none, as the model names no prompts"
        raise ValueError(f"prompt_name: got {prompt_name!r}, expected one of {names}")
    return prompts[prompt_name]
