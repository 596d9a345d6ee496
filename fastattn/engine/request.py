# SPDX-License-Identifier: MIT
"""A prompt that is to be continued, and what has come of it so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from .memory import Held, PagedMemory
    from .outputs import Floats
    from .sampling import Sampling

__all__ = ["Integers", "Likely", "Request", "Search", "Tell", "asks"]

Integers = np.ndarray[Any, np.dtype[np.int64]]
Likely = dict[int, float]  # ids and their log-probabilities, the likeliest first


class Request:
    """A prompt that is to be continued.

    Parameters
    ----------
    prompt
        (t,) token ids, at least one.
    total
        Tokens there may be at most, the prompt's included.
    sampling
        How tokens are drawn.
    which
        Which of several answers to one prompt it is: draws with one seed differ by it.
    ends
        Tokens that end it.
    first
        An earlier request with the same prompt, whose computed prompt it goes on from; None to compute it.
    """

    __slots__ = (
        "asked",
        "best",
        "chosen",
        "ends",
        "first",
        "heirs",
        "kept",
        "likely",
        "made",
        "pending",
        "prompt",
        "reason",
        "row",
        "sampling",
        "score",
        "search",
        "source",
        "surprise",
        "told",
        "total",
        "which",
    )

    def __init__(
        self, prompt: Integers, total: int, sampling: Sampling, which: int = 0, ends: frozenset[int] = frozenset(),
        first: Request | None = None,
    ) -> None:  # fmt: skip
        self.prompt, self.total, self.sampling, self.which, self.ends = prompt, total, sampling, which, ends
        self.first = first
        self.heirs = 0
        """Requests that go on from its prompt and have not begun."""
        if first is not None:
            first.heirs += 1
        self.made: list[int] = []
        """Tokens behind the prompt."""
        self.chosen: list[float] = []
        """The log-probability of each of them, before anything was done to the logits."""
        self.likely: list[Likely] = []
        """The likeliest tokens in the place of each, and their log-probabilities."""
        self.asked: int | None = None
        """How many of the likeliest tokens to tell in the place of each of the prompt; None to tell nothing of it."""
        self.told: list[tuple[int, float, Likely]] = []
        """Of the prompt's tokens but the first, as far as they have gone through the model: id, log-probability, and
        the likeliest ones'."""
        self.reason: str | None = None
        """Why it has ended: "stop", "length", or what ``Run.finish`` was told; None while it goes on."""
        self.pending = prompt if first is None else prompt[:0]
        """Tokens that have not gone through the model yet."""
        self.kept: Held | None = None
        self.surprise = 0.0 if sampling.mirostat is None else sampling.mirostat.start
        """With mirostat, what the next token may surprise at most."""
        self.source: tuple[Held, Floats] | None = None
        """What they go on from: the prompt's memory, and the logits behind it."""
        self.search: Search | None = None
        """What a beam belongs to."""
        self.score: float | None = None
        """A beam's log-probabilities together, by which its tokens are chosen."""
        self.best: list[tuple[float, int]] | None = None
        """Of a beam that has gone through the model: its best continuations, and how good they are."""
        self.row: Floats | None = None
        """The logits behind it, of a beam."""

    @property
    def length(self) -> int:
        """Tokens that are known."""
        return self.prompt.size + len(self.made)

    def history(self) -> Integers:
        """They themselves."""
        return np.concatenate([self.prompt, np.array(self.made, np.int64)])


Tell = Callable[[list[Request], list[int], int], list[tuple[float, Likely]]]
"""(beams, a token behind each, how many of the likeliest) -> the token's log-probability, and the likeliest ones'."""


class Search(Protocol):
    """Beams of one prompt: requests that go through steps together, and that others take the place of then."""

    @property
    def width(self) -> int:
        """Beams there are at most."""
        ...

    @property
    def beams(self) -> Sequence[Request]:
        """Those there are; none when it has ended."""
        ...

    @property
    def ready(self) -> bool:
        """Whether all of them have gone through a step."""
        ...

    def turn(self, memory: PagedMemory, tell: Tell) -> None:
        """Choose those of the next step."""
        ...

    def end(self, reason: str) -> None:
        """No step comes any more."""
        ...


def asks(request: Request) -> bool:
    """Whether something is to be told of its prompt that has not been."""
    return request.asked is not None and len(request.told) < request.prompt.size - 1
