# SPDX-License-Identifier: MIT
"""Drafts: tokens that may come next, guessed from what the text has repeated so far.

A draft goes through the model behind the last token, as rows of one step; each place is then drawn as ever, and the
draft is right as far as it has what was drawn. So drafts change no token, only how many come of a step. Whether they
are worth their rows depends on text and machine, which is measured: no time reaches a result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .request import Request

__all__ = ["DraftRules", "Drafter", "Grams", "Lookup", "Pace"]

SIZES = (3, 2)
"""Tokens at the end that are looked for, the most first."""
_MOST_ROWS = 64  # of drafts in a step
_RUNS = 8  # guesses in a row that were right: so many and more are one
_SHARE = 0.01  # of the time of all steps may be lost by drafts
_ROW = 0.15  # of a step of one row, what a row more costs before it is measured
_NEW = 0.2  # how much the last step counts among those before it
_LARGEST = 4.0  # what a step takes longer than those before counts at most: another program may have had the processor


@dataclass(frozen=True, slots=True)
class DraftRules:
    """How drafts are made.

    Attributes
    ----------
    most
        Tokens of a draft at most; 0 for no drafts.
    adapts
        Whether there are drafts only where they are worth their rows, else wherever the text repeats.
    """

    most: int = 0
    adapts: bool = True


class Grams:
    """Where a prompt has what: of several tokens in a row the last place behind them. Answers to it may share one."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self.tokens = list(prompt)
        self.places = [self._places(size) for size in SIZES]

    def _places(self, size: int) -> dict[tuple[int, ...], int]:
        runs = zip(*(self.tokens[first:-1] for first in range(size)), strict=False) if size < len(self.tokens) else ()
        return dict(zip(runs, range(size, len(self.tokens)), strict=False))


class Lookup:
    """Guesses what comes next in one text."""

    def __init__(self, grams: Grams) -> None:
        self._grams = grams
        self._tokens = grams.tokens.copy()
        self._places: list[dict[tuple[int, ...], int]] = [{} for _ in SIZES]
        self._guess: int | None = None
        self.right = 0
        """Tokens in a row that were guessed before they came."""

    def __len__(self) -> int:
        """Tokens of prompt and answer."""
        return len(self._tokens)

    @property
    def guesses(self) -> bool:
        """Whether there is a guess of the next token."""
        return self._guess is not None

    def push(self, token: int) -> bool | None:
        """The next token; whether it was guessed, None where there was no guess."""
        found = None if self._guess is None else token == self._guess
        self.right = self.right + 1 if found else 0
        for size, places in zip(SIZES, self._places, strict=True):
            if len(self._tokens) >= size:
                places[tuple(self._tokens[-size:])] = len(self._tokens)
        self._tokens.append(token)
        place = self._place()
        self._guess = None if place is None else self._tokens[place]
        return found

    def draft(self, most: int) -> list[int]:
        """What came when the text last had what it ends with, and what would go on from there."""
        place = self._place()
        if place is None:
            return []
        found = self._tokens[place : place + most]
        while len(found) < most:  # it repeats itself from there on
            found.append(found[len(found) - (len(self._tokens) - place)])
        return found

    def _place(self) -> int | None:
        for size, old, new in zip(SIZES, self._grams.places, self._places, strict=True):
            run = tuple(self._tokens[-size:])
            place = new.get(run)
            if place is None:
                place = old.get(run)
            if place is not None:
                return place
        return None


class Pace:
    """Whether drafts are worth their rows, by what steps have taken so far and how often guesses were right."""

    def __init__(self) -> None:
        self._plain: dict[int, float] = {}  # sequences -> seconds of a step without drafts
        self._extra: dict[int, dict[int, float]] = {}  # sequences -> rows of drafts -> what they add, in such steps
        # How often a guess was right, of how many, after so many in a row that were; these to begin with.
        self._right = [2 * (run + 1) / (run + 3) for run in range(_RUNS)]
        self._tried = [2.0] * _RUNS
        self._spent = 0.0
        self._lost = 0.0
        """Seconds that steps with drafts have taken more than the steps in whose place they stand."""

    def lengths(self, right: Sequence[int], most: Sequence[int]) -> list[int]:
        """Tokens that drafts should have, one for each sequence.

        Parameters
        ----------
        right
            Guesses in a row that were right, of each.
        most
            Tokens there may be at most.
        """
        plain = self._plain.get(len(right))
        if plain is None or self._lost > 0.5 * plain + _SHARE * self._spent:
            return [0] * len(right)
        places = []  # of each token (how likely it is right, with those before it; its sequence)
        for i, (run, count) in enumerate(zip(right, most, strict=True)):
            likely = 1.0
            for at in range(run, run + count):
                run = min(at, _RUNS - 1)
                likely *= self._right[run] / self._tried[run]
                places.append((likely, i))
        places.sort(reverse=True)
        best = saved = 0.0
        rows = 0
        for count, (likely, _) in enumerate(places, 1):
            saved += likely / len(right)
            gain = saved - self._costs(len(right), count)
            if gain > best:
                best, rows = gain, count
        chosen = [i for _, i in places[:rows]]
        return [chosen.count(i) for i in range(len(right))]

    def _costs(self, sequences: int, rows: int) -> float:
        """What so many rows add to a step, in steps, at most: more cost more, but each no more than one of fewer."""
        known = self._extra.get(sequences, {})
        fewer = max((count for count in known if count <= rows), default=None)
        more = min((count for count in known if count >= rows), default=None)
        bounds = [] if fewer is None else [known[fewer] * rows / fewer]
        if more is not None:
            bounds.append(known[more])
        return min(bounds, default=_ROW * rows)

    def guessed(self, right: int, found: bool) -> None:
        """A guess after so many right ones was right, or not; it need not have been in a draft."""
        run = min(right, _RUNS - 1)
        self._right[run] += found
        self._tried[run] += 1

    def took(self, seconds: float, sequences: int, rows: int, right: int) -> None:
        """A step has taken so long, with so many rows of drafts, of which ``right`` were right."""
        plain = self._plain.get(sequences)
        if plain is not None:
            seconds = min(seconds, plain * (_LARGEST + rows))
        self._spent += seconds
        if not rows:
            self._plain[sequences] = seconds if plain is None else plain + _NEW * (seconds - plain)
        elif plain is not None:
            self._lost += seconds - plain * (1 + right / sequences)
            known, extra = self._extra.setdefault(sequences, {}), seconds / plain - 1
            known[rows] = extra if rows not in known else known[rows] + _NEW * (extra - known[rows])


class Drafter:
    """The drafts of a run.

    Parameters
    ----------
    rules
        How they are made.
    kinds
        Length of a sequence -> which frequencies its rows have, of each rotary embedding.
    """

    def __init__(self, rules: DraftRules, kinds: Sequence[Callable[[int], int]]) -> None:
        self._rules, self._kinds = rules, kinds
        self._pace = Pace()
        self._grams: dict[int, Grams] = {}  # of requests by their ids, those of answers to one prompt once
        self._lookups: dict[int, Lookup] = {}

    def look(self, one: Request) -> None:
        """A request has got tokens, and goes on: what they are may come again."""
        if not self._rules.most:
            return
        lookup = self._lookups.get(id(one))
        if lookup is None:
            first = one.first or one
            if id(first) not in self._grams:
                self._grams[id(first)] = Grams(first.prompt.tolist())
            lookup = self._lookups[id(one)] = Lookup(self._grams[id(first)])
        for token in one.made[len(lookup) - one.prompt.size :]:
            before = lookup.right
            found = lookup.push(token)
            if found is not None:
                self._pace.guessed(before, found)

    def forget(self, one: Request) -> None:
        """A request has ended."""
        self._lookups.pop(id(one), None)
        for first in (one, one.first):
            self._grams.pop(id(first), None)  # those who share them have them

    def drafts(self, some: Sequence[Request], rows: int) -> list[list[int]]:
        """A draft for each of several sequences, most often an empty one, of so many rows together at most."""
        if not self._rules.most:
            return []
        lookups = [self._lookups.get(id(one)) for one in some]
        each = min(self._rules.most, max(min(rows, _MOST_ROWS) // len(some), 1))
        most = [
            0 if lookup is None or not lookup.guesses else max(min(each, one.total - one.length - 1), 0)
            for one, lookup in zip(some, lookups, strict=True)
        ]
        if self._rules.adapts and any(most):
            most = self._pace.lengths([0 if lookup is None else lookup.right for lookup in lookups], most)
        drafts: list[list[int]] = []
        for one, lookup, count in zip(some, lookups, most, strict=True):
            draft = lookup.draft(min(count, rows)) if lookup is not None and count and rows > 0 else []
            for kind_of in self._kinds:  # rows of one step have the frequencies of one length
                while draft and kind_of(one.length + len(draft)) != kind_of(one.length):
                    draft.pop()
            rows -= len(draft)
            drafts.append(draft)
        return drafts

    def took(self, seconds: float, sequences: int, rows: int, right: int) -> None:
        """See ``Pace``."""
        self._pace.took(seconds, sequences, rows, right)
