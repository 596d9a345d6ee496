# SPDX-License-Identifier: MIT
"""Sequences on their way through a decoder, together: whose rows go into the next step, and what comes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from .. import _core
from .decode import Steps
from .drafts import Drafter, DraftRules
from .drawing import call_of
from .memory import PagedMemory, pages_needed
from .outputs import Floats
from .request import Integers, Likely, Request, asks
from .sampling import Sampling, check_drawn
from .stop import DeadlineExceeded, check_deadline

if TYPE_CHECKING:
    from .decoder import Decoder

__all__ = ["Request", "Run"]

STEP_ROWS = 512
"""Rows of a step: prompts are cut into pieces of so many tokens at most, and one row for each sequence that is past its
prompt. No bit of a result depends on it."""
STEP_LOGITS = 1 << 24
"""Numbers of logits that are in memory together at most, where they are wanted of each token of a prompt."""
MOST_RUNNING = 64
"""Sequences that go through steps together; others wait."""


class Run:
    """Takes requests through a model, step by step.

    Parameters
    ----------
    model
        A decoder with a language model's head.
    requests
        In the order in which they begin; of a search its first beam.
    kv_dtype
        How keys and values are kept.
    deadline
        Of ``deadline_of``.
    drafts
        How tokens are guessed; they change no result.
    """

    def __init__(
        self, model: Decoder, requests: Sequence[Request], *, kv_dtype: str = "float32",
        num_threads: int | None = None, deadline: int = 0, drafts: DraftRules | None = None,
    ) -> None:  # fmt: skip
        trace = model.graph.trace
        shared = {id(request.first): request.first for request in requests if request.first is not None}
        widths = [_width(request) for request in requests]
        together = max(MOST_RUNNING, *widths, 0)
        pages = [
            sum(
                sorted(
                    pages_needed(group, request.total, STEP_ROWS)
                    for request, width in zip(requests, widths, strict=True)
                    for _ in range(width)
                )[-together:]
            )
            + max((pages_needed(group, one.prompt.size, STEP_ROWS) for one in shared.values()), default=0)
            for group in trace.groups
        ]  # requests begin in order, so those of one prompt at most are left to begin when it is computed
        self._memory = PagedMemory(trace, pages, kv_dtype)
        self._steps = Steps(model.graph, model.program(["logits"]), model.blocks, self._memory)
        self._rotaries, self._blocks, self._path = trace.rotaries, model.blocks, model.path
        self._threads = model.num_threads if num_threads is None else num_threads
        self._most_told = max(STEP_LOGITS // model.vocab_size, 1)
        self._deadline = deadline
        rules = DraftRules() if drafts is None or not self._memory.rewinds else drafts
        self._drafter = Drafter(rules, [rotary.kind_of for rotary in trace.rotaries])
        self._stop = _core.Stop()
        self._waiting = deque(requests)
        self._running: list[Request] = []

    @property
    def going(self) -> bool:
        """Whether there is a request that has not ended."""
        return bool(self._running or self._waiting)

    def finish(self, request: Request, reason: str) -> None:
        """End a request before its time."""
        first = request.first
        if first is not None and request.kept is None and request.reason is None and not request.made:
            first.heirs -= 1  # it has not begun
            if not first.heirs and first.source is not None:
                self._memory.free(first.source[0])
                first.source = None
        request.reason = reason
        self._drafter.forget(request)
        if request.kept is not None:
            self._memory.free(request.kept)
            request.kept = None
        if request in self._running:
            self._running.remove(request)
        elif request in self._waiting:
            self._waiting.remove(request)

    def finish_all(self, reason: str) -> None:
        """End all that are going on."""
        for request in (*self._running, *self._waiting):
            if request.search is not None:
                request.search.end(reason)
            self.finish(request, reason)

    def cancel(self) -> None:
        """End all that are going on with the step that is being computed, from any thread."""
        self._stop.ask()

    def step(self) -> list[Request]:
        """One pass through the model; the requests that have got a token, some of which may have ended with it.

        Where the deadline has passed, all end with "timeout", and none has got one; or with "cancelled".
        """
        if self._stop.asked:
            self.finish_all("cancelled")
            return []
        self._begin()
        some, tokens = _cut(self._running, STEP_ROWS, self._most_told)
        steady = len(some) == len(self._running) and all(one.made and one.pending.size == 1 for one in some)
        if steady and any(drafts := self._drafter.drafts(some, STEP_ROWS - len(some))):
            return self._step_by_drafts(some, drafts)
        start = perf_counter()
        done = [piece.size == one.pending.size for one, piece in zip(some, tokens, strict=True)]
        wanted = [
            piece.size if asks(one) else int(last) for one, piece, last in zip(some, tokens, done, strict=True)
        ]  # fmt: skip
        logits = self._compute(some, tokens, wanted)
        if logits is None:
            return []
        rows = self._last_rows(some, wanted, done, logits)
        for one, piece in zip(some, tokens, strict=True):
            one.pending = one.pending[piece.size :]
        ready = [one for one, last in zip(some, done, strict=True) if last]
        for one, row in zip(ready, rows, strict=True):
            if one.heirs and not one.made:
                assert one.kept is not None
                one.source = self._memory.fork(one.kept), row.copy()
        whole = len(logits) == len(rows)
        heirs = [one for one in self._running if one.first is not None and one.kept is None and one.first.source]
        for one in heirs:
            assert one.first is not None and one.first.source is not None
            kept, row = one.first.source
            if one.first.heirs > 1:
                one.kept = self._memory.fork(kept)
                one.first.heirs -= 1
            else:  # the last one takes it
                one.kept, one.first.source, one.first.heirs = kept, None, 0
            rows.append(row)
        ready += heirs
        if ready:
            self._draw(ready, logits if whole and not heirs else np.stack(rows))
        if steady:
            self._drafter.took(perf_counter() - start, len(some), 0, 0)
        grown = [one for one in ready if one.search is None]
        if len(grown) < len(ready):
            self._turn(ready, rows)
        self._go_on(grown)
        return grown

    def _step_by_drafts(self, some: list[Request], drafts: list[list[int]]) -> list[Request]:
        """A step of sequences past their prompts that may get several tokens each."""
        start = perf_counter()
        tokens = [np.append(one.pending, np.array(draft, np.int64)) for one, draft in zip(some, drafts, strict=True)]
        wanted = [piece.size for piece in tokens]
        logits = self._compute(some, tokens, wanted, advance=False)
        if logits is None:
            return []
        before = [len(one.made) for one in some]
        going = list(zip(some, drafts, np.cumsum([0, *wanted]).tolist(), strict=False))
        place = 0
        while going:  # each place is drawn as if the draft had come by single steps, as far as it is right
            self._draw([one for one, _, _ in going], logits[[row + place for _, _, row in going]])
            going = [
                (one, draft, row)
                for one, draft, row in going
                if place < len(draft) and one.made[-1] == draft[place] and one.made[-1] not in one.ends
            ]
            place += 1
        more = [len(one.made) - count for one, count in zip(some, before, strict=True)]
        self._memory.advance([one.kept for one in some if one.kept is not None], more)
        rows = sum(wanted) - len(some)
        self._drafter.took(perf_counter() - start, len(some), rows, sum(more) - len(some))
        self._go_on(some)
        return some

    def _compute(
        self, some: list[Request], tokens: list[Integers], wanted: list[int], advance: bool = True
    ) -> Floats | None:
        """Logits of a step; None where the deadline has passed or somebody has cancelled it: then all have ended."""
        try:
            check_deadline(self._deadline)
            if not some:
                return np.empty((0, 0), np.float32)
            return self._steps.run(
                [one.kept for one in some if one.kept is not None], tokens, wanted,
                lengths=[one.length for one in some], advance=advance, num_threads=self._threads,
                deadline=self._deadline, stopped=self._stop,
            )  # fmt: skip
        except DeadlineExceeded:
            self.finish_all("cancelled" if self._stop.asked else "timeout")
            return None

    def _go_on(self, grown: list[Request]) -> None:
        """What comes of requests that have got tokens."""
        for one in grown:
            token = one.made[-1]
            one.pending = np.array([token], np.int64)
            if token in one.ends or one.length >= one.total:
                self.finish(one, "stop" if token in one.ends else "length")
            else:
                self._renew(one)
                self._drafter.look(one)

    def _last_rows(self, some: list[Request], wanted: list[int], done: list[bool], logits: Floats) -> list[Floats]:
        """The logits by which those that are done go on; what is to be told of prompts is told."""
        rows: list[Floats] = []
        end = 0
        for one, count, last in zip(some, wanted, done, strict=True):
            if asks(one):
                assert one.asked is not None
                start = one.prompt.size - one.pending.size
                after = one.prompt[start + 1 : start + 1 + count].tolist()
                if after:
                    told = self._logprobs(logits[end : end + len(after)], after, one.asked)
                    one.told += [(token, *more) for token, more in zip(after, told, strict=True)]
            end += count
            if last:
                rows.append(logits[end - 1])
        return rows

    def _renew(self, one: Request) -> None:
        """Where frequencies are others from a length on, the sequence that has got it goes through the model again."""
        if any(rotary.kind_of(one.length) != rotary.kind_of(one.length - 1) for rotary in self._rotaries):
            assert one.kept is not None
            self._memory.free(one.kept)
            one.pending = one.history()

    def _begin(self) -> None:
        """Requests that there is room for join those that run."""
        room = MOST_RUNNING - sum(
            _width(one) for one in self._running if one.search is None or one.search.beams[0] is one
        )
        while self._waiting and (not self._running or _width(self._waiting[0]) <= room):
            request = self._waiting.popleft()
            if request.first is None:
                request.kept = self._memory.add()
            self._running.append(request)
            room -= _width(request)

    def _turn(self, ready: list[Request], rows: list[Floats]) -> None:
        """Searches all of whose beams are ready take a turn."""
        for one, row in zip(ready, rows, strict=True):
            one.row = row
        searches = {id(one.search): one.search for one in ready if one.search is not None}
        for search in searches.values():
            if search.ready:
                search.turn(self._memory, self._tell)
                self._running = [one for one in self._running if one.search is not search]
                self._running += search.beams
                for beam in search.beams:
                    self._renew(beam)

    def _tell(self, several: list[Request], tokens: list[int], count: int) -> list[tuple[float, Likely]]:
        """See ``Tell``."""
        rows = [one.row for one in several if one.row is not None]
        return self._logprobs(np.stack(rows), tokens, count) if rows else []

    def _logprobs(self, logits: Floats, tokens: list[int], count: int) -> list[tuple[float, Likely]]:
        """The log-probability of a token in each row of logits, and those of the ``count`` likeliest."""
        found, logprobs, ids, likely = _core.sample(
            logits, [Sampling(logprobs=count)] * len(tokens), given=tokens, strict=False, blocks=self._blocks,
            num_threads=self._threads,
        )  # fmt: skip
        check_drawn(found, self._path)
        assert logprobs is not None and ids is not None and likely is not None
        rows = zip(ids.tolist(), likely.tolist(), strict=True)
        return [(logprob, dict(zip(*row, strict=True))) for logprob, row in zip(logprobs.tolist(), rows, strict=True)]

    def _draw(self, ready: list[Request], logits: Floats) -> None:
        """The next token of each request, from its row of logits."""
        call = call_of(ready)
        forced = call.get("given", [None] * len(ready))
        scores = [one.score if token is None else None for one, token in zip(ready, forced, strict=True)]
        tokens, logprobs, top_ids, top_logprobs = _core.sample(
            logits, [one.sampling for one in ready], **call, scores=scores, strict=False, blocks=self._blocks,
            num_threads=self._threads,
        )  # fmt: skip
        for one, surprise in zip(ready, call.get("surprises", ()), strict=False):
            if surprise is not None:
                one.surprise = surprise
        check_drawn(tokens, self._path)
        for i, (one, token) in enumerate(zip(ready, tokens.tolist(), strict=True)):
            if one.score is not None:
                assert top_ids is not None and top_logprobs is not None
                one.best = list(zip(top_logprobs[i].tolist(), top_ids[i].tolist(), strict=True))
                if scores[i] is None:  # the token is forced, as if it were certain: it costs nothing
                    one.best = [(one.score, token)]
                continue
            one.made.append(token)
            if one.sampling.logprobs is not None:
                assert logprobs is not None and top_ids is not None and top_logprobs is not None
                one.chosen.append(float(logprobs[i]))
                count = one.sampling.logprobs
                one.likely.append(dict(zip(top_ids[i, :count].tolist(), top_logprobs[i, :count].tolist(), strict=True)))


def _cut(running: list[Request], rows: int, told: int) -> tuple[list[Request], list[Integers]]:
    """What goes into the next step: sequences past their prompts first, then prompts in order, of ``rows`` in all.

    Of prompts that something is to be told of there are ``told`` rows at most.
    """
    some = [one for one in running if one.pending.size == 1]
    tokens = [one.pending for one in some]
    left = rows - len(some)
    for one in running:
        most = min(left, told) if asks(one) else left
        if one.pending.size > 1 and most > 0:
            some.append(one)
            tokens.append(one.pending[:most])
            left -= tokens[-1].size
            told -= tokens[-1].size if asks(one) else 0
    return some, tokens


def _width(request: Request) -> int:
    """Sequences that it may become."""
    return 1 if request.search is None else request.search.width
