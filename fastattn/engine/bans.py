# SPDX-License-Identifier: MIT
"""What may not come, and what must: by what came before, by place, or never. The meaning is that of transformers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._core import MOST_LOGITS
from .optionvalues import INFINITY, number, token_ids, whole

__all__ = ["Bans", "bans_of", "repeated"]

_FLOAT_MAX, _FLOAT_MIN = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
_MOST = 1 << 62

Integers = np.ndarray[Any, np.dtype[np.int64]]
Endings = dict[int, list[tuple[tuple[int, ...], int, float]]]  # last token -> (all before the next, the next, bias)


@dataclass(frozen=True, slots=True)
class Bans:
    """Tokens that may not come, of one sequence; ``bans_of`` makes one. It never changes and may be shared.

    Attributes
    ----------
    no_repeat_ngram_size
        No so many tokens come twice in prompt and answer; 0 for no such rule.
    bad_words
        Sequences of ids that do not come.
    allowed_token_ids
        Ids of which all tokens are; None for all.
    suppress_tokens, begin_suppress_tokens
        Ids that do not come, and that do not come first.
    sequence_bias
        (ids, number added to the logit of the last one, behind the others).
    forced_bos_token_id, forced_eos_token_id
        The token behind a prompt of one, and the last one that there is room for.
    min_length
        How long prompt and answer are at least.
    exponential_decay_length_penalty
        (tokens of the answer after which, factor by which) ends become likelier.
    always, allowed
        Ids that never come, and the bits of those that may, or None.
    looks
        Whether the tokens before have a meaning.
    """

    no_repeat_ngram_size: int = 0
    bad_words: tuple[tuple[int, ...], ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    min_length: int = 0
    exponential_decay_length_penalty: tuple[int, float] | None = None
    vocab_size: int = MOST_LOGITS
    always: tuple[int, ...] = field(init=False, compare=False, repr=False)
    allowed: np.ndarray[Any, np.dtype[np.uint32]] | None = field(init=False, compare=False, repr=False)
    looks: bool = field(init=False, compare=False, repr=False)
    _words: Endings = field(init=False, compare=False, repr=False)
    _biases: Endings = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        alone = {word[0] for word in self.bad_words if len(word) == 1}
        bits = None
        if self.allowed_token_ids is not None:
            flags = np.zeros((self.vocab_size + 31) // 32 * 32, np.bool_)
            flags[list(self.allowed_token_ids)] = True
            bits = np.packbits(flags, bitorder="little").view(np.uint32)
            bits.setflags(write=False)
        words = _by_ending([(word, -INFINITY) for word in self.bad_words])
        biases = _by_ending(self.sequence_bias)
        found = {
            "always": tuple(sorted({*alone, *(one for one in self.suppress_tokens if one < self.vocab_size)})),
            "allowed": bits,
            "looks": bool(self.no_repeat_ngram_size or words or biases),
            "_words": words,
            "_biases": biases,
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def banned(self, history: Integers | None, length: int, prompt: int, ends: Collection[int]) -> set[int]:
        """Ids that may not come behind ``length`` tokens, ``prompt`` of them the prompt's.

        ``history``: the tokens, read if ``looks``. ``ends``: those that end the text.
        """
        found = set(self.always)
        if length < self.min_length:
            found.update(ends)
        first = prompt if prompt > 1 or self.forced_bos_token_id is None else prompt + 1
        if length == first:
            found.update(one for one in self.begin_suppress_tokens if one < self.vocab_size)
        if history is not None:
            if self.no_repeat_ngram_size:
                found.update(one for one in repeated(history, self.no_repeat_ngram_size) if one < self.vocab_size)
            found.update(token for token, _ in _behind(self._words, history))
        return found

    def biases(self, history: Integers | None, more: tuple[tuple[int, float], ...]) -> list[tuple[int, float]]:
        """(id, number added), by ascending id and of one id in the order they are added; ``more`` come first."""
        found = [*more, *((ids[0], bias) for ids, bias in self.sequence_bias if len(ids) == 1)]
        if history is not None:
            found += _behind(self._biases, history)
        return sorted(found, key=lambda one: one[0])

    def forced(self, length: int, total: int) -> int | None:
        """The token that has to come behind ``length`` tokens, where ``total`` is as many as there may be."""
        if self.forced_eos_token_id is not None and length == total - 1:
            return self.forced_eos_token_id
        return self.forced_bos_token_id if length == 1 else None

    def decay(self, made: int) -> tuple[float, int] | None:
        """(factor, its power) of ends behind an answer of ``made`` tokens."""
        if self.exponential_decay_length_penalty is None:
            return None
        start, factor = self.exponential_decay_length_penalty
        return (factor, made - start) if made > start else None


def repeated(history: Integers, size: int) -> list[int]:
    """Tokens with which the last ``size - 1`` of ``history`` would become a sequence of ``size`` that is there already.

    Example
    -------
    >>> repeated(np.array([5, 6, 7, 5, 6]), 3)
    [7]
    """
    count = history.size - size + 1  # sequences
    if count < 1:
        return []
    places = np.arange(count)
    for back in range(1, size):  # tokens nearest to the end first: few places are left at once
        places = places[history[places + (size - 1 - back)] == history[history.size - back]]
        if not places.size:
            return []
    found: list[int] = np.unique(history[places + size - 1]).tolist()
    return found


def bans_of(
    *, no_repeat_ngram_size: Any = None, bad_words: Any = None, allowed_token_ids: Any = None,
    suppress_tokens: Any = None, begin_suppress_tokens: Any = None, sequence_bias: Any = None,
    forced_bos_token_id: Any = None, forced_eos_token_id: Any = None, min_length: Any = None,
    exponential_decay_length_penalty: Any = None, vocab_size: int | None = None, ends: Collection[int] = (),
) -> Bans | None:  # fmt: skip
    """A ``Bans`` of options as users give them; None where none of them has an effect.

    ``bad_words``: sequences of ids; of those that are an end, one of ``ends``, alone, none is banned.

    Raises
    ------
    TypeError, ValueError
        An option is of another kind, or out of its range; it is named.

    Example
    -------
    >>> bans_of(no_repeat_ngram_size=3).no_repeat_ngram_size, bans_of(no_repeat_ngram_size=0)
    (3, None)
    """
    size = MOST_LOGITS if vocab_size is None else vocab_size
    words = _words(bad_words, size)
    made = Bans(
        min(whole("no_repeat_ngram_size", no_repeat_ngram_size, 0, 0, None), _MOST),
        tuple(word for word in words if len(word) > 1 or word[0] not in ends),
        _allowed(allowed_token_ids, size),
        () if suppress_tokens is None else token_ids("suppress_tokens", suppress_tokens, None),
        () if begin_suppress_tokens is None else token_ids("begin_suppress_tokens", begin_suppress_tokens, None),
        _sequence_bias(sequence_bias, size),
        _forced("forced_bos_token_id", forced_bos_token_id, size),
        _forced("forced_eos_token_id", forced_eos_token_id, size),
        min(whole("min_length", min_length, 0, 0, None), _MOST),
        _decay(exponential_decay_length_penalty),
        size,
    )
    return None if made == Bans(vocab_size=size) else made


def _words(value: Any, vocab_size: int) -> tuple[tuple[int, ...], ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise TypeError(f"bad_words: expected a list of sequences of token ids, got {type(value).__name__}")
    found = []
    for i, one in enumerate(value):
        ids = token_ids(f"bad_words[{i}]", one, vocab_size)
        if not ids:
            raise ValueError(f"bad_words[{i}]: got no token ids, expected at least one")
        found.append(ids)
    return tuple(dict.fromkeys(found))


def _allowed(value: Any, vocab_size: int) -> tuple[int, ...] | None:
    if value is None:
        return None
    ids = tuple(sorted(set(token_ids("allowed_token_ids", value, vocab_size))))
    if not ids:
        raise ValueError("allowed_token_ids: got no ids, expected at least one")
    return ids


def _sequence_bias(value: Any, vocab_size: int) -> tuple[tuple[tuple[int, ...], float], ...]:
    name = "sequence_bias"
    if value is None:
        return ()
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, list | tuple):
        raise TypeError(f"{name}: expected a list of (token ids, number), got {type(value).__name__}")
    found: dict[tuple[int, ...], float] = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise TypeError(f"{name}: expected (token ids, number), got {type(pair).__name__}")
        ids = token_ids(name, pair[0], vocab_size)
        if not ids or pair[1] is None:
            raise ValueError(f"{name}: got {str(pair)[:100]}, expected at least one token id and a number")
        least = -INFINITY if pair[1] == -INFINITY else -_FLOAT_MAX
        found[ids] = number(name, pair[1], 0.0, least, _FLOAT_MAX, "a finite number, or -inf")
    return tuple(found.items())


def _forced(name: str, value: Any, vocab_size: int) -> int | None:
    if isinstance(value, list | tuple):
        if len(value) != 1:
            raise ValueError(f"{name}: got {len(value)} ids, expected one")
        value = value[0]
    return None if value is None else whole(name, value, 0, 0, vocab_size - 1)


def _decay(value: Any) -> tuple[int, float] | None:
    name = "exponential_decay_length_penalty"
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 2 or value[0] is None or value[1] is None:
        raise TypeError(f"{name}: expected (tokens, factor), got {str(value)[:100]!r}")
    start = whole(name, value[0], 0, 0, None)
    return start, number(name, value[1], 1.0, _FLOAT_MIN, _FLOAT_MAX, "a finite factor above 0")


def _by_ending(sequences: Collection[tuple[tuple[int, ...], float]]) -> Endings:
    """Sequences of several tokens by the last but one; those of one length one behind the other, as they are added."""
    order = {size: i for i, size in enumerate(dict.fromkeys(len(ids) for ids, _ in sequences))}
    found: Endings = {}
    for ids, bias in sorted(sequences, key=lambda one: order[len(one[0])]):
        if len(ids) > 1:
            found.setdefault(ids[-2], []).append((ids[:-1], ids[-1], bias))
    return found


def _behind(endings: Endings, history: Integers) -> list[tuple[int, float]]:
    """(token, bias) of the sequences of which all tokens but the last end ``history``."""
    if not endings or not history.size:
        return []
    return [
        (token, bias)
        for before, token, bias in endings.get(int(history[-1]), ())
        if len(before) <= history.size and tuple(history[-len(before) :].tolist()) == before
    ]
