# SPDX-License-Identifier: MIT
"""What the tasks on texts return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..models.encoder import Floats

__all__ = ["Answer", "Classification", "Ranked", "Token"]


class Classification(NamedTuple):
    """Of one text, or of a pair of texts."""

    label: str
    """The label with the highest score."""
    score: float
    """Its score: a probability, or for a regression the number itself."""
    labels: tuple[str, ...]
    """Labels, the highest score first: all of them, or as many as asked for."""
    scores: tuple[float, ...]
    """Their scores. Those of a softmax add up to 1 over all labels; those of several labels at once do not."""


class Ranked(NamedTuple):
    """A document, as ``rerank`` found it."""

    index: int  # type: ignore[assignment]
    """Where it stands among the documents that were passed."""
    score: float
    """How well it answers the query; higher is better."""


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """A token of a text, or an entity made of several."""

    text: str
    """The piece of the text it stands for."""
    start: int
    """Where that begins, in characters."""
    end: int
    """Where that ends."""
    label: str | None = None
    """The label with the highest score; None without a head for tokens."""
    score: float | None = None
    """Its probability; of an entity the mean over its tokens."""
    vector: Floats | None = None
    """(H,) the hidden state."""


class Answer(NamedTuple):
    """A piece of a context that answers a question."""

    text: str
    """The piece; empty where no piece is possible at all."""
    start: int
    """Where it begins in the context, in characters."""
    end: int
    """Where it ends."""
    score: float
    """Probability of its first token as a start times that of its last as an end."""
