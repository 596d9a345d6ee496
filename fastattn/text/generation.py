# SPDX-License-Identifier: MIT
"""Prompts in, texts out: what ``TextDecoder.generate``, ``stream`` and ``score`` do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from math import fsum, inf, nan
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any

import numpy as np

from ..calllog import begin
from ..engine.beams import BeamSearch
from ..engine.inputs import check_range
from ..engine.requests import Request, Run
from ..engine.scoring import token_logprobs
from ..engine.stop import deadline_of
from .genoptions import SPELLINGS, Options, read_options
from .watch import Watch

if TYPE_CHECKING:
    from ..calllog import CallLog
    from .modeltokenizer import ModelTokenizer
    from .prompted import PromptedDecoder

__all__ = ["Generation", "Score", "Stream", "generate", "score"]

_MOST_EXP = 710  # exp of more is no float
_CONTEXT = 64  # tokens of a prompt that can say how the first tokens behind it are written

Integers = np.ndarray[Any, np.dtype[np.int64]]
Prompt = tuple[str, Integers]  # what messages call it, and its tokens


@dataclass(frozen=True, slots=True)
class Generation:
    """What was generated from one prompt."""

    text: str | None
    """The text behind the prompt; None of a model without a tokenizer."""
    token_ids: tuple[int, ...]
    """The tokens behind the prompt; the one that ended them is the last."""
    finish_reason: str
    """"stop": the model or a stop string has ended it; "length": it has as many tokens as were asked for, or as there
    is room for; "timeout"; "cancelled"."""
    stop: str | int | None
    """The stop string, or the id among ``stop_token_ids``, that ended it."""
    logprobs: tuple[tuple[int, float, dict[int, float]], ...] | None
    """Of each token (id, log-probability, the likeliest ids and theirs), of the logits as the model gave them."""
    score: float | None
    """The sum of the tokens' log-probabilities, where ``logprobs`` were asked for. Of beams, which it sorts: the sum of
    what penalties and the like have left of them, divided by the number of tokens to the power of ``length_penalty``;
    -inf where fewer texts than ``n`` were possible, and this is none."""
    seed: int
    """Of the random numbers."""
    prompt_tokens: int
    """Tokens of the prompt."""
    cached_tokens: int = 0
    """Of those, how many were not computed: all but for the first answer to a prompt."""
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Every option as it was used."""
    prompt_logprobs: tuple[tuple[int, float, dict[int, float]] | None, ...] | None = None
    """Of each token of the prompt what ``logprobs`` tells of those behind it; None for the first, which nothing is
    before. Fewer where the call ended in the middle of the prompt."""
    message: Mapping[str, Any] | None = None
    """Of a chat: role, content, and tool_calls where there are some, as OpenAI's API has them."""
    alternatives: None = None
    """Of encoder-decoders."""
    attention: None = None
    """Of encoder-decoders."""


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a text is."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    """The log-probability of each token after those before it; None for the first, which nothing is before."""
    total: float
    """Their sum."""
    perplexity: float
    """exp(-mean); NaN for a single token."""


class _Answer:
    """A request, and the text that comes of it."""

    def __init__(self, request: Request, options: Options, codec: ModelTokenizer | None) -> None:
        self.request, self.options = request, options
        self.stop: str | int | None = None
        self.seen = 0
        """Tokens that the text has."""
        self.watch = None if codec is None else _watch(codec, request.prompt, options)

    def grow(self) -> bool:
        """The request has got tokens: whether one completes a stop string; those behind it are gone then."""
        request = self.request
        for token in request.made[self.seen :]:
            self.seen += 1
            ended = request.reason == "stop" and self.seen == len(request.made) and token in request.ends
            if ended and token in self.options.stop_token_ids:
                self.stop = token
            if self.watch is None or (ended and not self.options.include_stop):
                continue
            if self.watch.push(token):
                self.stop = self.watch.found
                for several in (request.made, request.chosen, request.likely):
                    del several[self.seen :]
                return True
        return False

    def finish(self) -> None:
        """No more tokens come; what was held back until now may complete a stop string."""
        if self.watch is None:
            return
        before = self.watch.found
        self.watch.finish()
        if self.watch.found is not before:
            self.stop, self.request.reason = self.watch.found, "stop"

    def result(self, text: str | None) -> Generation:
        """What came of it; ``text`` is what there is of the watch's."""
        request, sampling = self.request, self.options.sampling
        logprobs = total = None
        if sampling.logprobs is not None:
            logprobs = tuple(zip(request.made, request.chosen, request.likely, strict=True))
            total = fsum(request.chosen)
        if request.score is not None:
            total = request.score
        size = int(request.prompt.size)
        first = request.first or request
        return Generation(
            text, tuple(request.made), request.reason or "cancelled", self.stop, logprobs, total, sampling.seed,
            size, 0 if request.first is None else size, self.options.settings,
            None if first.asked is None else (None, *first.told),
        )  # fmt: skip


def generate(model: PromptedDecoder, prompts: Any, options: dict[str, Any]) -> list[Generation]:
    """What ``TextDecoder.generate`` promises."""
    deadline, log, num_threads, kv_dtype, read = _begin("generate", model, options)
    codec = _codec(model, read)
    ids = [(name, _tokens(model, prompt, name)) for name, prompt in _several(prompts)]
    searches: list[BeamSearch] = []
    requests: list[Request] = []
    for name, prompt in ids:
        if read.beams.width > 1:
            searches.append(_search(model, name, prompt, read, codec))
            requests.append(searches[-1].first)
        else:
            requests += _requests(model, name, prompt, read)
    _count(log, ids)
    run = Run(model, requests, kv_dtype=kv_dtype, num_threads=num_threads, deadline=deadline, drafts=read.drafts)
    answers = [_Answer(request, read, codec) for request in requests]
    by_request = {id(answer.request): answer for answer in answers}
    while run.going:
        for request in run.step():
            if by_request[id(request)].grow():
                run.finish(request, "stop")
    if searches:
        answers = [_Answer(request, read, codec) for search in searches for request in search.answers(read.n)]
        for answer in answers:
            answer.grow()
    if log is not None:
        log.computed()
    results = []
    for answer in answers:
        answer.finish()
        results.append(answer.result(None if answer.watch is None else answer.watch.take()))
    if log is not None:
        log.write()
    return results


class Stream(Iterator[str]):
    """The text of one prompt as it comes: an iterator of strings, whole characters each, none of them empty.

    The model works in the thread that asks for the next piece; several threads get one after the other. ``result``
    waits for the rest. What Ctrl-C interrupts is ended.
    """

    def __init__(self, model: PromptedDecoder, prompt: Any, options: dict[str, Any]) -> None:
        deadline, self._log, num_threads, kv_dtype, read = _begin("stream", model, options)
        if read.n != 1:
            raise ValueError(f"n: got {read.n}, expected 1: a stream is one text")
        if read.beams.width != 1:
            raise ValueError(
                f"num_beams: got {read.beams.width}, expected 1: a stream is a text as it comes, and nobody knows "
                "which of the beams will stay"
            )
        several = _several(prompt)
        if len(several) != 1:
            raise ValueError(f"prompt: {len(several)} prompts, expected one: a stream is one text")
        ids = _tokens(model, several[0][1], "prompt")
        (request,) = _requests(model, "prompt", ids, read)
        codec = _codec(model, read)
        if codec is None:
            raise _no_tokenizer(model, "stream")
        _count(self._log, [("prompt", ids)])
        self._answer = _Answer(request, read, codec)
        self._run = Run(
            model, [request], kv_dtype=kv_dtype, num_threads=num_threads, deadline=deadline, drafts=read.drafts
        )
        self._parts: list[str] = []
        self._ended = False
        self._lock, self._thread = Lock(), 0

    def __next__(self) -> str:
        if self._thread == get_ident():  # a signal's handler, in the middle of a step
            raise ValueError("stream: the next piece is asked for while it is computed, by the same thread")
        with self._lock:
            self._thread = get_ident()
            try:
                return self._next()
            except BaseException:
                if not self._ended:  # Ctrl-C: nobody knows how far the step was
                    self._run.finish_all("cancelled")
                raise
            finally:
                self._thread = 0

    def _next(self) -> str:
        watch, request = self._answer.watch, self._answer.request
        assert watch is not None
        while not self._ended:
            if self._run.going:
                for one in self._run.step():
                    if self._answer.grow():
                        self._run.finish(one, "stop")
            if not self._run.going:
                self._ended = True
                self._answer.finish()
                if self._log is not None:
                    self._log.computed()
                    self._log.write()
            text = watch.take()
            if text:
                self._parts.append(text)
                return text
        assert request.reason is not None
        raise StopIteration

    def cancel(self) -> None:
        """End it before its time, from any thread: what there is is the result. A step that is being computed ends."""
        self._run.cancel()

    def result(self) -> Generation:
        """What was generated, when it is complete; pieces that nobody has asked for are in its text."""
        for _ in self:
            pass
        return self._answer.result("".join(self._parts))


def score(model: PromptedDecoder, texts: Any, num_threads: int | None, timeout: float | None) -> list[Score]:
    """What ``TextDecoder.score`` promises."""
    model.check_logits()
    deadline, log = deadline_of(timeout), begin("score")
    several = _several(texts, "texts")
    ids = []
    for name, text in several:
        tokens = _tokens(model, text, name)
        if tokens.size > model.max_positions:
            raise ValueError(f"{name}: {tokens.size} tokens, the context of the model has {model.max_positions}")
        ids.append((name, tokens))
    _count(log, ids)
    found = token_logprobs(model, [tokens for _, tokens in ids], num_threads, deadline)
    results = []
    for (_, tokens), logprobs in zip(ids, found, strict=True):
        total = fsum(logprobs)
        perplexity = _exp(-Decimal(total) / len(logprobs)) if logprobs else nan
        results.append(Score(tuple(tokens.tolist()), (None, *logprobs), total, perplexity))
    if log is not None:
        log.computed()
        log.write()
    return results


def _exp(value: Decimal) -> float:
    """By decimal arithmetic, which is the same on every machine."""
    return float(value.exp()) if value < _MOST_EXP else inf


# ---- arguments -------------------------------------------------------------------------------------------------------


def _begin(
    what: str, model: PromptedDecoder, options: dict[str, Any]
) -> tuple[int, CallLog | None, int | None, str, Options]:
    """(deadline, log, threads, type of keys, the rest) of a call."""
    model.check_logits()
    options.setdefault("draft", "auto")
    for name in [name for name in options if name in SPELLINGS]:
        value, known = options.pop(name), SPELLINGS[name]
        if value is None:
            options.setdefault(known, None)
            continue
        told = options.get(known)
        if told is not None if known != "draft" else not (isinstance(told, str) and told == "auto"):  # None: no draft
            raise ValueError(f"{name}: got {value!r} beside {known}={told!r}, which is the same")
        options[known] = value
    unknown = [name for name in options if name not in _NAMES]
    if unknown:
        raise TypeError(f"{what}() got an unexpected option {unknown[0]!r}; there are {', '.join(_NAMES)}")
    deadline = deadline_of(options.pop("timeout", None))
    num_threads, kv_dtype = options.pop("num_threads", None), options.pop("kv_dtype", None)
    read = read_options(model, options)
    if read.stop and not model.has_tokenizer:
        raise _no_tokenizer(model, "stop")
    return deadline, begin(what), num_threads, "float32" if kv_dtype is None else kv_dtype, read


_NAMES = (
    "max_new_tokens", "min_new_tokens", "n", "seed", "do_sample", "temperature", "top_k", "top_p", "min_p",
    "typical_p", "xtc", "mirostat", "dry", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "no_repeat_ngram_size", "logit_bias", "bad_words", "allowed_token_ids", "stop", "stop_token_ids",
    "include_stop_str_in_output", "ignore_eos", "logprobs", "prompt_logprobs", "num_beams", "length_penalty",
    "early_stopping", "draft", "kv_dtype", "timeout", "num_threads",
)  # fmt: skip


def _count(log: CallLog | None, ids: Sequence[Prompt]) -> None:
    if log is not None:
        log.texts_came(len(ids))
        log.tokens_came(sum(prompt.size for _, prompt in ids))


def _requests(model: PromptedDecoder, name: str, prompt: Integers, options: Options) -> list[Request]:
    """The requests of one prompt, ``n`` of them."""
    total, ends = _bounds(model, name, prompt, options)
    first = Request(prompt, total, options.sampling, 0, ends)
    first.asked = options.prompt_logprobs
    return [first, *(Request(prompt, total, options.sampling, which, ends, first) for which in range(1, options.n))]


def _search(
    model: PromptedDecoder, name: str, prompt: Integers, options: Options, codec: ModelTokenizer | None
) -> BeamSearch:
    """The beams of one prompt; with stop strings each carries its text."""
    total, ends = _bounds(model, name, prompt, options)
    watch = _watch(codec, prompt, options) if codec is not None and options.stop else None
    search = BeamSearch(
        prompt, total, options.sampling, ends, options.beams, model.vocab_size, None if watch is None else _ends, watch
    )
    search.first.asked = options.prompt_logprobs
    return search


def _ends(watch: Watch, token: int) -> tuple[Watch, bool]:
    """The text with one token more, and whether a stop string is complete."""
    longer = watch.copy()
    return longer, longer.push(token)


def _bounds(model: PromptedDecoder, name: str, prompt: Integers, options: Options) -> tuple[int, frozenset[int]]:
    """Tokens there may be with those of a prompt, and those that end a text."""
    new = options.max_new_tokens
    if new is None and options.max_length is not None:
        if options.max_length <= prompt.size:
            raise ValueError(
                f"{name}: {prompt.size} tokens, but generation_config.json says max_length {options.max_length}: give "
                "max_new_tokens"
            )
        new = min(options.max_length, model.max_positions) - int(prompt.size)
    total = model.total(int(prompt.size), new, name)
    return total, options.stop_token_ids if options.ignore_eos else options.stop_token_ids | model.eos_token_ids


def _watch(tokenizer: ModelTokenizer, prompt: Integers, options: Options) -> Watch:
    """What makes the text behind a prompt: spaces in front of a token are told by what is before it."""
    pieces = tokenizer.incremental()
    for token in prompt[-_CONTEXT:].tolist():
        pieces.push(token)
    return Watch(pieces, options.stop, options.include_stop)


def _codec(model: PromptedDecoder, options: Options) -> ModelTokenizer | None:
    return model.tokenizer if model.has_tokenizer else None


def _no_tokenizer(model: PromptedDecoder, name: str) -> ValueError:
    return ValueError(
        f"{name}: needs the tokenizer of the model, and {model.files.describe('tokenizer.json')} is missing"
    )


def _several(prompts: Any, what: str = "prompts") -> list[tuple[str, Any]]:
    """(name, prompt) of one prompt or of several."""
    if isinstance(prompts, str):
        return [(what, prompts)]
    if not isinstance(prompts, Sequence) and (hasattr(prompts, "__array__") or hasattr(prompts, "__dlpack__")):
        prompts = _array(prompts, what)
        if prompts.ndim == 0:
            raise TypeError(f"{what}: expected a str, token ids, or a list of such, got an array without dimensions")
        if prompts.dtype.kind in "OU":  # objects, texts
            prompts = prompts.tolist()
        elif prompts.ndim == 1:
            return [(what, prompts)]
        else:
            return [(f"{what}[{i}]", prompt) for i, prompt in enumerate(prompts)]
    if not isinstance(prompts, Sequence) or isinstance(prompts, (bytes, bytearray)):
        raise TypeError(f"{what}: expected a str, token ids, or a list of such, got {type(prompts).__name__}")
    if not len(prompts):
        return []
    if isinstance(prompts[0], (int, float, np.generic)):
        return [(what, prompts)]
    return [(f"{what}[{i}]", prompt) for i, prompt in enumerate(prompts)]


def _array(value: Any, name: str) -> np.ndarray[Any, Any]:
    """Token ids, or several rows of them, as an array of what they are."""
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            return np.from_dlpack(value)
        return np.asarray(value)
    except (ValueError, TypeError, BufferError, RuntimeError) as error:  # rows of several lengths, another device
        raise ValueError(f"{name}: {type(value).__name__} is no array of token ids: {str(error)[:200]}") from None


def _tokens(model: PromptedDecoder, prompt: Any, name: str) -> Integers:
    """The tokens of a prompt."""
    if isinstance(prompt, str):
        if not model.has_tokenizer:
            raise _no_tokenizer(model, name)
        try:
            ids = np.array(model.tokenizer.encode(prompt), np.int64)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if ids.size == 0:
            raise ValueError(f"{name}: the text has no tokens, expected at least one")
    else:
        array = _array(prompt, name)
        if array.ndim == 0:
            raise TypeError(f"{name}: expected a str or token ids (tokens,), got {type(prompt).__name__}")
        if array.ndim != 1:
            raise ValueError(f"{name}: shape {array.shape}, expected a str or token ids (tokens,)")
        if array.size == 0:
            raise ValueError(f"{name}: no tokens, expected at least one")
        most = f"expected 0 to {model.vocab_size - 1} (vocab_size of the model)"
        if array.dtype == object and all(type(one) is int for one in array):
            if not all(abs(one) < 1 << 63 for one in array):
                raise ValueError(f"{name}: got an integer of more than 63 bits, {most}")
        elif array.dtype.kind not in "iu":
            raise TypeError(f"{name}: got dtype {array.dtype}, expected a str or integers")
        if array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
            raise ValueError(f"{name}: got {array.max()}, {most}")
        ids = np.ascontiguousarray(array, np.int64)
    check_range(name, ids, model.vocab_size, "vocab_size of the model")
    return ids
