# SPDX-License-Identifier: MIT
"""A model that continues sequences of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..calllog import begin
from .decode import Steps
from .encoder import Encoder
from .inputs import check_range
from .memory import Held, PagedMemory, pages_needed
from .stop import DeadlineExceeded, check_deadline, deadline_of, seconds_left

__all__ = ["Decoder", "Generation"]

Integers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Generation:
    """What was generated from one prompt."""

    token_ids: tuple[int, ...]
    """The tokens behind the prompt; the one that ended them is the last."""
    finish_reason: str
    """"stop": the model has ended it; "length": it has as many tokens as were asked for; "timeout"."""
    prompt_tokens: int
    """Tokens of the prompt."""


@dataclass(slots=True)
class _Running:
    """A prompt on its way."""

    index: int
    kept: Held
    pending: Integers
    """Tokens that have not gone through the model yet."""
    prompt: Integers
    total: int
    """Tokens there will be at most, with the prompt."""
    made: list[int]

    @property
    def length(self) -> int:
        """Tokens that are known."""
        return self.prompt.size + len(self.made)


class Decoder(Encoder):
    """A language model with its weights. Made by ``fastattn.load``.

    ``model(input_ids, attention_mask)`` gives logits, as for any model; ``generate`` continues prompts.
    """

    STEP_ROWS: ClassVar[int] = 512
    """Rows of a step: prompts are cut into pieces of so many tokens at most, and one row for each sequence that is past
    its prompt. No bit of a result depends on it."""

    def generate(
        self,
        prompts: Any,
        *,
        max_new_tokens: int | None = None,
        ignore_eos: bool = False,
        kv_dtype: str = "float32",
        timeout: float | None = None,
        num_threads: int | None = None,
    ) -> list[Generation]:
        """Continue prompts with the likeliest token, one after the other; of equally likely ones the lowest id.

        Parameters
        ----------
        prompts
            Token ids, at least one: a list of int or an integer array; or a list of several such.
        max_new_tokens
            Most tokens to generate; None for what is left of the context.
        ignore_eos
            Whether to go on behind the tokens that end a text.
        kv_dtype
            How keys and values are kept: "float32", "float16", "bfloat16" or "int8".
        timeout
            Seconds, after which what there is is returned; None for no limit.
        num_threads
            Threads of this call; None for what ``load`` was given.

        Returns
        -------
        list of Generation
            One for each prompt, in their order.

        Raises
        ------
        ValueError
            A prompt is empty, or longer than the context, or leaves no room for ``max_new_tokens``; an id is outside
            the vocabulary; the model has no language model's head.
        TypeError
            Values that are not integers.

        Example
        -------
        >>> model.generate([1, 4093, 282], max_new_tokens=8)[0].token_ids        # doctest: +SKIP
        """
        if "logits" not in self.graph.trace.outputs:
            raise ValueError(f"{self.path}: the model has no language model's head (head={self.head_name!r})")
        if not isinstance(ignore_eos, (bool, np.bool_)):
            raise TypeError(f"ignore_eos: expected a bool, got {type(ignore_eos).__name__}")
        deadline, log = deadline_of(timeout), begin("generate")
        ids = [_check_prompt(prompt, name, self.vocab_size) for name, prompt in _several(prompts)]
        totals = [self._total(prompt.size, max_new_tokens, i, len(ids)) for i, prompt in enumerate(ids)]
        ends = frozenset() if ignore_eos else self.eos_token_ids
        if log is not None:
            log.texts_came(len(ids))
            log.tokens_came(sum(prompt.size for prompt in ids))
        results = self._greedy(ids, totals, ends, kv_dtype, num_threads, deadline)
        if log is not None:
            log.computed()
            log.write()
        return results

    def _warm_texts(self, deadline: int) -> None:
        if "logits" in self.graph.trace.outputs and self.max_positions > 1:
            self.generate([0], max_new_tokens=1, timeout=seconds_left(deadline))
            check_deadline(deadline)
        super()._warm_texts(deadline)

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end a text: of generation_config.json, else of config.json."""
        return self.keep("eos", self._read_ends)

    def _read_ends(self) -> frozenset[int]:
        for name in ("generation_config.json", "config.json"):
            if not self.files.has(name):
                continue
            value = self.files.read_json(name).get("eos_token_id")
            found = value if isinstance(value, list) else [] if value is None else [value]
            if not all(type(token) is int for token in found):
                where = self.files.describe(name)
                raise ValueError(f"{where}: eos_token_id is {str(value)[:100]!r}, expected ids")
            if found:
                return frozenset(found)
        return frozenset()

    def _total(self, prompt: int, new: Any, index: int, count: int) -> int:
        name = "prompts" if count == 1 else f"prompts[{index}]"
        if new is not None and (isinstance(new, (bool, np.bool_)) or not hasattr(new, "__index__")):
            raise TypeError(f"max_new_tokens: expected an int or None, got {type(new).__name__}")
        if new is not None and int(new) < 1:
            raise ValueError(f"max_new_tokens: got {new}, expected at least 1")
        if prompt >= self.max_positions or (new is not None and prompt + int(new) > self.max_positions):
            full = new is None or prompt >= self.max_positions
            what = "leave no room" if full else f"and {new} new ones are too many"
            raise ValueError(f"{name}: {prompt} tokens {what}: the context of the model has {self.max_positions}")
        return self.max_positions if new is None else prompt + int(new)

    def _greedy(
        self, prompts: list[Integers], totals: list[int], ends: frozenset[int], kv_dtype: str,
        num_threads: int | None, deadline: int,
    ) -> list[Generation]:  # fmt: skip
        groups = self.graph.trace.groups
        pages = [sum(pages_needed(group, total, self.STEP_ROWS) for total in totals) for group in groups]
        memory = PagedMemory(self.graph.trace, pages, kv_dtype)
        steps = Steps(self.graph, self.program(["logits"]), self._blocks, memory)
        rotaries = self.graph.trace.rotaries
        running = [
            _Running(i, memory.add(), prompt, prompt, total, [])
            for i, (prompt, total) in enumerate(zip(prompts, totals, strict=True))
        ]
        reasons = ["timeout"] * len(prompts)
        made: list[list[int]] = [one.made for one in running]
        threads = self.num_threads if num_threads is None else num_threads
        while running:
            some, tokens = _cut(running, self.STEP_ROWS)
            wanted = [piece.size == one.pending.size for one, piece in zip(some, tokens, strict=True)]
            try:
                logits = steps.run(
                    [one.kept for one in some], tokens, wanted, lengths=[one.length for one in some],
                    num_threads=threads, deadline=deadline,
                )  # fmt: skip
            except DeadlineExceeded:
                break
            best = iter(logits.argmax(axis=1).tolist())
            for one, piece, want in zip(some, tokens, wanted, strict=True):
                one.pending = one.pending[piece.size :]
                if not want:
                    continue
                token = next(best)
                one.made.append(token)
                one.pending = np.array([token], np.int64)
                if token in ends or one.length >= one.total:
                    reasons[one.index] = "stop" if token in ends else "length"
                    memory.free(one.kept)
                elif any(rotary.kind_of(one.length) != rotary.kind_of(one.length - 1) for rotary in rotaries):
                    memory.free(one.kept)  # its keys were turned by the frequencies of shorter sequences
                    one.pending = np.concatenate([one.prompt, np.array(one.made, np.int64)])
            running = [one for one in running if reasons[one.index] == "timeout"]
        return [
            Generation(tuple(tokens), reason, prompt.size)
            for tokens, reason, prompt in zip(made, reasons, prompts, strict=True)
        ]


def _cut(running: list[_Running], rows: int) -> tuple[list[_Running], list[Integers]]:
    """What goes into the next step: sequences past their prompts first, then prompts in order, of ``rows`` in all."""
    some = [one for one in running if one.pending.size == 1]
    tokens = [one.pending for one in some]
    left = rows - len(some)
    for one in running:
        if one.pending.size > 1 and left > 0:
            some.append(one)
            tokens.append(one.pending[:left])
            left -= tokens[-1].size
    return some, tokens


def _several(prompts: Any) -> list[tuple[str, Any]]:
    """(name, prompt) of one prompt or of several."""
    if isinstance(prompts, str):
        raise TypeError("prompts: expected token ids, got a str: this model has no tokenizer yet")
    if isinstance(prompts, np.ndarray):
        if prompts.ndim == 1:
            return [("prompts", prompts)]
        return [(f"prompts[{i}]", prompt) for i, prompt in enumerate(prompts)]
    if not isinstance(prompts, Sequence):
        raise TypeError(f"prompts: expected token ids or a list of such, got {type(prompts).__name__}")
    if not len(prompts):
        return []
    if hasattr(prompts[0], "__index__") and not isinstance(prompts[0], np.ndarray):
        return [("prompts", prompts)]
    return [(f"prompts[{i}]", prompt) for i, prompt in enumerate(prompts)]


def _check_prompt(prompt: Any, name: str, vocabulary: int) -> Integers:
    if isinstance(prompt, str):
        raise TypeError(f"{name}: expected token ids, got a str: this model has no tokenizer yet")
    array = np.asarray(prompt)
    if array.ndim != 1:
        raise ValueError(f"{name}: shape {array.shape}, expected (tokens,)")
    if array.size == 0:
        raise ValueError(f"{name}: no tokens, expected at least one")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: got dtype {array.dtype}, expected integers")
    ids = np.ascontiguousarray(array, np.int64)
    check_range(name, ids, vocabulary, "vocab_size of the model")
    return ids
