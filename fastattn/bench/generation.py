# SPDX-License-Identifier: MIT
"""``fastattn bench generate``: prompts and new tokens of a language model, each library in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastattn import cpu_info

from .child import ChildError
from .compare import compare_processes
from .costs import Costs
from .peaks import Limits
from .timing import Plan
from .writers import Writer

__all__ = ["WriterCase", "Writers", "cases_of", "make_prompts"]

_SPECIAL = 256  # ids of many vocabularies' special tokens and single bytes are below it
_GREEDY = "greedy"


@dataclass(frozen=True, slots=True)
class WriterCase:
    """``batch`` prompts of ``prompt`` tokens each, and ``new`` tokens behind each of them; none: the prompts alone, to
    the first token. ``drawn``: by temperature, top_k and top_p, beside the likeliest ones.
    """

    prompt: int
    new: int = 0
    batch: int = 1
    drawn: bool = False

    @property
    def name(self) -> str:
        """As --shapes of other commands would have it.

        >>> WriterCase(16, 32, 4).name, WriterCase(128).name
        ('decode-b4', 'prefill-128')
        """
        if not self.new:
            return f"prefill-{self.prompt}"
        return f"decode-b{self.batch}{'-drawn' if self.drawn else ''}"

    @property
    def shape_text(self) -> str:
        """As a row of the table shows it.

        >>> WriterCase(16, 32, 4).shape_text
        'B4, 32 behind 16 tokens'
        """
        return f"B{self.batch}, {self.new} behind {self.prompt} tokens" if self.new else f"B1, {self.prompt} tokens"

    @property
    def tokens(self) -> int:
        """What a second is counted in: tokens of the prompt, or new ones."""
        return self.batch * (self.new or self.prompt)


def cases_of(prompts: Sequence[int], new: int, batches: Sequence[int]) -> list[WriterCase]:
    """Each of the prompts alone, then new tokens behind the shortest, in each of the batches; at last drawn ones.

    >>> [case.name for case in cases_of([16, 128], 32, [1])]
    ['prefill-16', 'prefill-128', 'decode-b1', 'decode-b1-drawn']
    """
    short = min(prompts)
    return [
        *(WriterCase(prompt) for prompt in prompts),
        *(WriterCase(short, new, batch) for batch in batches),
        WriterCase(short, new, batches[0], drawn=True),
    ]


def make_prompts(case: WriterCase, vocab_size: int) -> list[list[int]]:
    """Token ids; any will do, no kernel's time depends on them. They depend on the sizes alone."""
    shape = (case.batch, case.prompt)
    found: list[list[int]] = (
        np.random.default_rng(0).integers(min(_SPECIAL, vocab_size // 2), vocab_size, shape).tolist()
    )
    return found


class Writers:
    """Ours and the peers, each with the model loaded in its process. A peer that fails is in ``failed``, with why.

    Peers get weights of the type that ours has, but llama.cpp, which has those of the file.

    Raises:
        ChildError: ours fails.
    """

    def __init__(
        self,
        path: Path,
        peers: Sequence[str],
        num_threads: int,
        dtype: str | None = None,
        kv_dtype: str | None = None,
        cpu_time: bool = False,
    ) -> None:
        self.num_threads = num_threads
        self.kv_dtype = kv_dtype or "float32"
        self.failed: dict[str, str] = {}
        self.peers = list(peers)
        self.children: dict[str, Writer] = {}
        self._clock = time.process_time if cpu_time else time.perf_counter
        with ExitStack() as stack:
            ours = stack.enter_context(Writer("fastattn", path, num_threads, dtype, kv_dtype, cpu_time))
            self.children["fastattn"] = ours
            self.costs = Costs.from_json(ours.ready["costs"])
            self.vocab_size = int(ours.ready["vocab_size"])
            self.has_tokenizer = bool(ours.ready["tokenizer"])
            self._positions = int(ours.ready["max_positions"])
            for name in peers:
                try:
                    child = Writer(name, path, num_threads, self.costs.dtype, kv_dtype, cpu_time)
                    self.children[name] = stack.enter_context(child)
                except ChildError as error:
                    self._note(error)
            self._stack = stack.pop_all()

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def check(self, cases: Sequence[WriterCase]) -> None:
        """Whether the context has room for all of them.

        Raises:
            ValueError: it has not.
        """
        for case in cases:
            if case.prompt + 1 + case.new > self._positions:
                raise ValueError(
                    f"{case.prompt} tokens and {1 + case.new} new ones: the context of the model has {self._positions}"
                )

    def versions(self) -> dict[str, str]:
        """Of the libraries that were loaded."""
        return {name: child.version for name, child in self.children.items()}

    def run(self, cases: Sequence[WriterCase], plan: Plan) -> Iterator[dict[str, Any]]:
        """Figures of each case, as they come: those of compare(), where a call is a prompt or ``new`` tokens of every
        sequence, and tokens_per_second and same_tokens: of a peer's likeliest tokens those equal to ours before
        the first other one, as a share. With ``drawn`` ones greedy_ratio: time of the likeliest ones / of these.
        """
        arithmetic: Literal["fma", "int8"] = "int8" if self.costs.dtype == "int8" else "fma"
        processes = {name: child.pid for name, child in self.children.items()}
        limits = Limits(self.num_threads, True, self._clock, arithmetic, processes)
        for case in cases:
            yield self._row(case, limits, plan)

    def _row(self, case: WriterCase, limits: Limits, plan: Plan) -> dict[str, Any]:
        prompts = make_prompts(case, self.vocab_size)
        expected, ours = self._prepared("fastattn", prompts, case)
        peers: dict[str, Callable[[int], float] | str] = {}
        same: dict[str, float] = {}
        for name in self.peers:
            if name in self.failed:
                peers[name] = self.failed[name]
                continue
            try:
                tokens, peers[name] = self._prepared(name, prompts, case)
            except ChildError as error:
                peers[name] = self._note(error)
                continue
            same[name] = _same(tokens, expected)
        if case.drawn:
            _, first, behind = self.children["fastattn"].prepare(prompts, case.new)
            peers[_GREEDY] = behind if case.new else first
        flops, cold = self._floor(case)
        found = compare_processes(
            ours, peers, limits, plan, self._note, flops=flops, cold=cold, rivals=lambda name: name != _GREEDY
        )
        greedy = found["peers"].pop(_GREEDY, None)
        for name, figures in found["peers"].items():
            if "median_s" in figures:
                figures["tokens_per_second"] = case.tokens / figures["median_s"]
                if not case.drawn:
                    figures["same_tokens"] = same[name]
        return {
            "name": case.name, "shape": case.shape_text, "prompt_tokens": case.prompt, "new_tokens": case.new,
            "batch": case.batch, "drawn": case.drawn, "tokens_per_second": case.tokens / found["median_s"],
            **({} if greedy is None else {"greedy_ratio": greedy["ratio"]}), **found,
        }  # fmt: skip

    def _prepared(
        self, name: str, prompts: list[list[int]], case: WriterCase
    ) -> tuple[list[list[int]], Callable[[int], float]]:
        child = self.children[name]
        child.clear()
        tokens, first, behind = child.prepare(prompts, case.new, case.drawn)
        return tokens, behind if case.new else first

    def _floor(self, case: WriterCase) -> tuple[float, float]:
        """Operations of a call, and bytes that come from memory; weights that a cache can hold do not."""
        costs = self.costs
        cached = costs.read_bytes <= cpu_info()["caches"].get("l3", 32 << 20)
        if not case.new:
            return costs.prompt_flops(case.prompt), 0.0 if cached else costs.read_bytes
        before = case.prompt  # the first new token is the prompt's; the first of these goes in behind it
        bytes_read = costs.decode_bytes(before, case.new, case.batch, self.kv_dtype)
        return costs.decode_flops(before, case.new, case.batch), 0.0 if cached else bytes_read

    def _note(self, error: ChildError) -> str:
        """Leaves the peer out from now on; ours cannot be."""
        if error.name == "fastattn":
            raise error
        self.failed[error.name] = str(error)
        return self.failed[error.name]

    def processes(self) -> dict[str, dict[str, float]]:
        """By name: seconds from the start of the process to a loaded model, and bytes of memory at the most."""
        return {
            name: {"load_s": child.load_seconds, "peak_rss_bytes": child.peak_memory()}
            for name, child in self.children.items()
            if name not in self.failed
        }


def _same(tokens: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> float:
    """Of ``expected`` the share that ``tokens`` have before their first other one.

    >>> _same([[1, 2, 3, 4]], [[1, 2, 5, 4]])
    0.5
    """
    equal = count = 0
    for some, right in zip(tokens, expected, strict=True):
        other = next(
            (i for i, (a, b) in enumerate(zip(some, right, strict=False)) if a != b), min(len(some), len(right))
        )
        equal, count = equal + other, count + len(right)
    return equal / count
