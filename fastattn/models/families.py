# SPDX-License-Identifier: MIT
"""What can be loaded, family by family, as the pages themselves say it."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

from .gguf import ARCHITECTURES
from .registry import FAMILIES, family_of

__all__ = ["Row", "as_markdown", "families"]

_HEADS = {
    "causal_lm": "causal LM",
    "masked_lm": "masked LM",
    "sequence_classification": "sequence classification",
    "token_classification": "token classification",
    "question_answering": "question answering",
    "next_sentence": "next sentence",
}


class Row(NamedTuple):
    """A page."""

    name: str
    """What it says of itself."""
    model_types: tuple[str, ...]
    """Of config.json."""
    gguf: tuple[str, ...]
    """``general.architecture`` of GGUF files."""
    heads: tuple[str, ...]
    """What stands on top of its models."""
    decoder: bool


def families() -> list[Row]:
    """All pages, encoders first, by name."""
    rows = []
    for page in dict.fromkeys(FAMILIES.values()):
        types = tuple(model_type for model_type, module in FAMILIES.items() if module == page)
        family = family_of(types[0])
        title = (import_module(f".{page}", __package__).__doc__ or f"{family.name}:").split(":")[0].strip()
        known = set(family.architectures.values())
        heads = tuple(name for head, name in _HEADS.items() if head in known)
        gguf = tuple(name for name, module in ARCHITECTURES.items() if module == page)
        rows.append(Row(title, types, gguf, heads, family.decoder))
    return sorted(rows, key=lambda row: (row.decoder, row.name.lower()))


def as_markdown() -> str:
    """The table of the README: a page a row; the heads of all encoders, where they are alike, once.

    >>> as_markdown().splitlines()[0]
    '| family | `model_type` | GGUF | heads |'
    """
    lines = ["| family | `model_type` | GGUF | heads |", "|---|---|---|---|"]
    before = ""
    for row in families():
        heads = ", ".join(row.heads)
        told = "the same" if heads == before else heads
        before = heads
        lines.append(f"| {row.name} | {_codes(row.model_types)} | {_codes(row.gguf)} | {told} |")
    return "\n".join(lines)


def _codes(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)
