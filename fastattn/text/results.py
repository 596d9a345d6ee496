# SPDX-License-Identifier: MIT
"""What the tasks on texts return."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:
    from ..engine.encoder import Floats

__all__ = ["Answer", "Classification", "Ranked", "Results", "Token", "Vectors"]

T = TypeVar("T")
if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault  # a type checker knows it; it need not be installed

    NumberT = TypeVarWithDefault("NumberT", bound=np.generic, default=np.float32)
else:
    NumberT = TypeVar("NumberT", bound=np.generic)


class Results(list[T]):
    """A list of results, which also says how many texts were too long."""

    truncated: int
    """Texts, or pairs of texts, that were cut to the model's maximum length."""

    def __init__(self, results: Iterable[T] = (), truncated: int = 0) -> None:
        super().__init__(results)
        self.truncated = truncated


class Vectors(np.ndarray[Any, np.dtype[NumberT]]):
    """An array of vectors, which also says how many texts were too long. What is made of it are plain arrays.

    In annotations ``Vectors`` is one of float32, ``Vectors[numpy.int8]`` one of bytes.
    """

    truncated: int = 0
    """Texts that were cut to the model's maximum length."""

    @classmethod
    def of(cls, vectors: np.ndarray[Any, np.dtype[NumberT]], truncated: int) -> Vectors[NumberT]:
        """``vectors`` themselves, without a copy."""
        result = vectors.view(cls)
        result.truncated = truncated
        return result

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        plain = np.asarray(array)
        return plain[()] if plain.ndim == 0 else plain

    def __reduce__(self) -> Any:
        return np.asarray(self).__reduce__()


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
