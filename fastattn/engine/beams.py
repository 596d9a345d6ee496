# SPDX-License-Identifier: MIT
"""Beam search: the likeliest continuations of a prompt side by side, by the rules of transformers' ``generate``.

What a beam may go on with comes from the sampler (``_core.sample`` with ``scores``); which of these stay, and when the
search is over, is decided here by comparisons. Scores are float32, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from .request import Request

if TYPE_CHECKING:
    from .memory import Held, PagedMemory
    from .request import Integers, Likely, Tell
    from .sampling import Sampling

__all__ = ["Beam", "BeamRules", "BeamSearch", "Candidate", "EndOf"]

EndOf = Callable[[Any, int], tuple[Any, bool]]
"""(what a beam carries, its next token) -> (what the beam with that token carries, whether the token ends it)."""

_POWERS = Context(prec=28, traps=[])  # the same on every machine; overflow is infinity
_LARGEST, _SMALLEST = 1e30, 1e-30  # powers; a score then is a normal float32 and no infinity
_NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class BeamRules:
    """How beams are searched.

    Attributes
    ----------
    width
        Beams at a time, and texts that are kept; 1 for no search.
    length_penalty
        The exponent of a text's number of tokens, by which the sum of its log-probabilities is divided; the power stays
        within 1e-30 to 1e30.
    early_stopping
        True: over as soon as there are ``width`` complete texts. False: also when the best beam's score at its present
        length is no better than the worst of them. "never": so only where no length could make it better.
    """

    width: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    def score(self, total: float, length: int) -> float:
        """Of ``length`` tokens behind the prompt, whose log-probabilities are ``total`` together."""
        power = float(_POWERS.power(Decimal(length), Decimal(self.length_penalty)))
        return float(np.float32(total / float(np.float32(min(max(power, _SMALLEST), _LARGEST)))))


class Beam(Request):
    """One of a search's sequences; ``note`` is what it carries for ``EndOf``."""

    __slots__ = ("note",)

    def __init__(self, search: BeamSearch, sampling: Sampling, score: float, note: Any) -> None:
        super().__init__(search.prompt, search.total, sampling, 0, search.ends)
        self.search, self.score, self.note = search, score, note


class Candidate(NamedTuple):
    """A beam, and a token that it may go on with."""

    total: float
    """Log-probabilities together."""
    parent: Beam
    token: int
    note: Any
    reason: str | None
    """Why the text ends with it, if it does."""


class _Found(NamedTuple):
    score: float
    made: list[int]
    chosen: list[float]
    likely: list[Likely]
    reason: str


class BeamSearch:
    """The beams of one prompt.

    Parameters
    ----------
    prompt, total, sampling, ends
        As ``Request`` takes them; of ``sampling`` what changes logits, and ``logprobs``.
    rules
        How to search.
    ends_with, note
        Says which tokens end a text beside ``ends``; what the first beam carries.
    """

    def __init__(
        self, prompt: Integers, total: int, sampling: Sampling, ends: frozenset[int], rules: BeamRules,
        vocab_size: int, ends_with: EndOf | None = None, note: Any = None,
    ) -> None:  # fmt: skip
        self.prompt, self.total, self.sampling, self.ends, self.rules = prompt, total, sampling, ends, rules
        self._ends_with = ends_with
        # A beam can end in each of `ends`: with so many candidates, `width` are left that go on.
        self._kept = (1 + max(len(ends), 1)) * rules.width
        first = replace(sampling, logprobs=min(self._kept, vocab_size))
        self.first = Beam(self, first, 0.0, note)
        """The beam that begins; it has what is told of the prompt."""
        self.beams = [self.first]
        self.reason: str | None = None
        """Why it has ended: "stop", or what ``Run`` was told; None while it goes on."""
        self._found: list[_Found] = []  # complete texts, the best first
        self._hopeful = True  # whether a beam may still become better than they are

    @property
    def ready(self) -> bool:
        """Whether it is known what every beam may go on with."""
        return all(beam.best is not None for beam in self.beams)

    @property
    def width(self) -> int:
        """Beams there are at most."""
        return self.rules.width

    def turn(self, memory: PagedMemory, tell: Tell) -> None:
        """Every beam is ready: those of the next step take their places, and what they keep in ``memory``.

        ``tell`` gives the log-probability of a token behind each of several requests, and the likeliest ones'.
        """
        going, ended = self._choose()
        told = []
        if self.sampling.logprobs is not None:
            several = [*going, *ended]
            told = tell([one.parent for one in several], [one.token for one in several], self.sampling.logprobs)
        before = self.beams
        self._follow(going, ended, told)
        stay = {id(one.parent) for one in going} if self.beams else set()
        for beam in before:
            if id(beam) not in stay and beam.kept is not None:
                memory.free(beam.kept)
        taken: dict[int, Held] = {}
        for beam, candidate in zip(self.beams, going, strict=bool(self.beams)):
            parent = candidate.parent
            assert parent.kept is not None
            beam.kept = memory.fork(parent.kept) if id(parent) in taken else parent.kept
            taken[id(parent)] = parent.kept

    def _choose(self) -> tuple[list[Candidate], list[Candidate]]:
        """(the beams of the next step, the best first; texts that are complete now and may be among the best)."""
        several = [
            (-total, i, token)
            for i, beam in enumerate(self.beams)
            for total, token in beam.best or ()
            if total > _NEVER
        ]  # fmt: skip
        length = len(self.beams[0].made) + 1
        going: list[Candidate] = []
        ended: list[Candidate] = []
        for rank, (total, i, token) in enumerate(sorted(several)[: self._kept]):
            if rank >= self.rules.width and len(going) == self.rules.width:
                break
            parent = self.beams[i]
            note, over = parent.note, token in self.ends
            if not over and self._ends_with is not None:
                note, over = self._ends_with(parent.note, token)
            reason = "stop" if over else "length" if self.prompt.size + length >= self.total else None
            candidate = Candidate(-total, parent, token, note, reason)
            if reason is None:
                going.append(candidate)
            elif rank < self.rules.width:
                ended.append(candidate)
        del going[self.rules.width :]
        return going, ended

    def _follow(self, going: list[Candidate], ended: list[Candidate], told: list[tuple[float, Likely]]) -> None:
        """Go on with what was chosen, or end; ``told``: log-probabilities of ``[*going, *ended]``, or nothing."""
        beams = []
        sampling = self.beams[0].sampling
        for i, candidate in enumerate(going):
            beam = Beam(self, sampling, candidate.total, candidate.note)
            beam.made, beam.chosen, beam.likely = _longer(candidate, told[i : i + 1])
            beam.pending = np.array([candidate.token], np.int64)
            beams.append(beam)
        length = len(self.beams[0].made) + 1
        for i, candidate in enumerate(ended, len(going)):
            score = self.rules.score(candidate.total, length)
            self._found.append(_Found(score, *_longer(candidate, told[i : i + 1]), candidate.reason or ""))
        self._found.sort(key=lambda one: -one.score)
        del self._found[self.rules.width :]
        full = len(self._found) == self.rules.width
        if full and beams:
            most = self.total - int(self.prompt.size)
            far = self.rules.early_stopping == "never" and self.rules.length_penalty > 0
            assert beams[0].score is not None
            hope = self.rules.score(beams[0].score, most if far else length)
            self._hopeful = hope > self._found[-1].score
        if not beams or not self._hopeful or (full and self.rules.early_stopping is True):
            self.reason, beams = "stop", []
        self.beams = beams

    def end(self, reason: str) -> None:
        """It ends before its time: the beams are texts like those that are complete."""
        if self.reason is not None:
            return
        self.reason = reason
        for beam in self.beams:
            if beam.made:
                assert beam.score is not None
                score = self.rules.score(beam.score, len(beam.made))
                self._found.append(_Found(score, beam.made, beam.chosen, beam.likely, reason))
        self._found.sort(key=lambda one: -one.score)

    def answers(self, count: int) -> list[Request]:
        """The best ``count`` texts, the best first, as requests that have ended.

        Where fewer have a probability at all, or none has begun, the others are empty.
        """
        nothing = _Found(_NEVER, [], [], [], "length" if self.reason in (None, "stop") else str(self.reason))
        several: list[Request] = []
        for rank, found in enumerate([*self._found, *[nothing] * count][:count]):
            request = Request(self.prompt, self.total, self.sampling, rank, self.ends)
            request.first = several[0] if several else None  # which has computed the prompt
            request.made, request.chosen, request.likely = found.made, found.chosen, found.likely
            request.reason, request.score = found.reason, found.score
            request.asked, request.told = self.first.asked, self.first.told
            several.append(request)
        return several


def _longer(candidate: Candidate, told: list[tuple[float, Likely]]) -> tuple[list[int], list[float], list[Likely]]:
    """The tokens of a beam and one more, and what is told of them."""
    parent = candidate.parent
    return (
        [*parent.made, candidate.token],
        [*parent.chosen, *(logprob for logprob, _ in told)],
        [*parent.likely, *(likely for _, likely in told)],
    )
