# SPDX-License-Identifier: MIT
"""What may not come and what must, by the tokens before: rules beside plain ones, and what is handed to the kernel."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from fastattn import _core
from fastattn.engine.bans import Bans, bans_of, repeated
from fastattn.engine.drawing import call_of
from fastattn.engine.sampling import sampling_of

VOCAB = 12
INF = float("inf")


@dataclasses.dataclass
class Row:
    """A sequence as ``call_of`` wants it."""

    prompt: Any
    made: list[int]
    sampling: Any
    total: int = 50
    which: int = 0
    ends: frozenset[int] = frozenset({11})
    surprise: float = 3.0

    def history(self) -> Any:
        return np.array([*self.prompt, *self.made], np.int64)


def row(prompt: Any, made: Any = (), total: int = 50, ends: Any = (11,), **options: Any) -> Row:
    sampling = sampling_of(vocab_size=VOCAB, ends=ends, **options)
    return Row(np.array(prompt, np.int64), list(made), sampling, total, ends=frozenset(ends))


def banned(one: Row) -> list[int]:
    call = call_of([one])
    return [] if call.get("banned", [None])[0] is None else call["banned"][0].tolist()


# ---- n-grams ---------------------------------------------------------------------------------------------------------


def by_comparing(tokens: list[int], size: int) -> list[int]:
    prefix = tokens[len(tokens) - size + 1 :] if size > 1 else []
    if len(tokens) < size:
        return []
    return sorted({tokens[i + size - 1] for i in range(len(tokens) - size + 1) if tokens[i : i + size - 1] == prefix})


@pytest.mark.parametrize("seed", range(40))
def test_repeated_is_what_comparing_everything_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, int(rng.integers(1, 5)), int(rng.integers(0, 40))).tolist()
    for size in (1, 2, 3, 4, 7, len(tokens), len(tokens) + 1, 10**6):
        if size:
            assert repeated(np.array(tokens, np.int64), size) == by_comparing(tokens, size), (tokens, size)


def test_ids_beyond_the_vocabulary_repeat_without_harm() -> None:
    one = row([1, 99, 1], no_repeat_ngram_size=2)
    assert repeated(one.history(), 2) == [99] and banned(one) == []
    _core.sample(np.zeros((1, VOCAB), np.float32), [one.sampling], **call_of([one]))


# ---- words, biases, places -------------------------------------------------------------------------------------------


def test_words_are_banned_when_all_but_their_last_has_come() -> None:
    words = [[5], [1, 2], [3, 1, 4], [9, 9, 9, 9], [11], [2, 11]]
    assert banned(row([7], bad_words=words)) == [5]  # 11 alone ends the text
    assert banned(row([1], bad_words=words)) == [2, 5]
    assert banned(row([3], [1], bad_words=words)) == [2, 4, 5]
    assert banned(row([9, 9], bad_words=words)) == [5] and banned(row([9, 9, 9], bad_words=words)) == [5, 9]
    assert banned(row([2], bad_words=words)) == [5, 11]
    assert banned(row([7], bad_words=[[11]])) == [] and banned(row([7], ends=(), bad_words=[[11]])) == [11]


def test_what_is_left_out_at_the_beginning_and_always() -> None:
    options: dict[str, Any] = {"suppress_tokens": [3, 4, 77], "begin_suppress_tokens": [5, 99]}
    assert banned(row([1, 2], **options)) == [3, 4, 5] and banned(row([1, 2], [6], **options)) == [3, 4]
    assert banned(row([1], **options)) == [3, 4, 5]
    options["forced_bos_token_id"] = 8  # the first token behind a prompt of one is not the beginning then
    assert call_of([row([1], **options)])["given"] == [8]
    assert banned(row([1], [8], **options)) == [3, 4, 5] and banned(row([1, 2], **options)) == [3, 4, 5]
    assert "given" not in call_of([row([1, 2], **options)])


def test_lengths() -> None:
    for made, expected in (([], [11]), ([1], [11]), ([1, 2], []), ([1, 2, 3], [])):
        assert banned(row([5, 6], made, min_length=4)) == expected
        assert banned(row([5, 6], made, min_new_tokens=2)) == expected
    one = row([5], [1, 2], total=4, forced_eos_token_id=11, bad_words=[[2, 11]], min_length=9)
    assert call_of([one])["given"] == [11] and call_of([dataclasses.replace(one, total=5)]).get("given") is None
    decay = {"exponential_decay_length_penalty": (2, 1.5)}
    assert "decays" not in call_of([row([5], [1, 2], **decay)])
    ids, factor, steps = call_of([row([5], [1, 2, 3, 4, 5], ends=(11, 3), **decay)])["decays"][0]
    assert (ids.tolist(), factor, steps) == ([3, 11], 1.5, 3)
    assert "decays" not in call_of([row([5], [1, 2, 3], ends=(), **decay)])


def test_biases_of_sequences() -> None:
    bias = {(4,): 1.0, (1, 4): 2.0, (2, 1, 0): -INF, (1, 0): 3.0, (3,): -1.0}
    for prompt, expected in (
        ([7], [(3, -1.0), (4, 0.5), (4, 1.0)]),
        ([1], [(0, 3.0), (3, -1.0), (4, 0.5), (4, 1.0), (4, 2.0)]),
        ([2, 1], [(0, 3.0), (0, -INF), (3, -1.0), (4, 0.5), (4, 1.0), (4, 2.0)]),
    ):
        ids, values = call_of([row(prompt, sequence_bias=bias, logit_bias={4: 0.5})])["biases"][0]
        assert list(zip(ids.tolist(), values.tolist(), strict=True)) == expected


def test_allowed_ids_and_no_others() -> None:
    hot = row([1], temperature=50, seed=1, allowed_token_ids=[0, 7, 9], bad_words=[[9]])
    call = {name: value * 500 for name, value in call_of([hot]).items()} | {"steps": range(500)}
    got = _core.sample(np.zeros((500, VOCAB), np.float32), [hot.sampling] * 500, **call)[0]
    assert set(got.tolist()) == {0, 7}


# ---- several rows ----------------------------------------------------------------------------------------------------


def test_a_call_has_what_its_rows_need_and_no_more() -> None:
    plain = row([1], [2])
    assert call_of([plain, plain]) == {"steps": [1, 1], "which": [0, 0]}
    call = call_of([plain, row([1, 1], presence_penalty=1), row([1, 1], no_repeat_ngram_size=2)])
    assert call["tokens"][0] is None and call["tokens"][1].tolist() == [1, 1] and call["tokens"][2] is None
    assert call["prompts"] == [1, 2, 2] and call["banned"][:2] == [None, None] and call["banned"][2].tolist() == [1]
    assert set(call) == {"steps", "which", "tokens", "prompts", "banned"}
    call = call_of([plain, row([1], temperature=1, mirostat=2)])
    assert call["surprises"] == [None, 3.0]


def test_no_token_is_left() -> None:
    one = row(range(VOCAB), no_repeat_ngram_size=1)
    tokens = _core.sample(np.zeros((1, VOCAB), np.float32), [one.sampling], strict=False, **call_of([one]))[0]
    assert tokens.tolist() == [-2]


def test_bans_never_change() -> None:
    made = bans_of(no_repeat_ngram_size=2, allowed_token_ids=[3], vocab_size=VOCAB)
    assert made is not None and made.allowed is not None and hash(made) == hash(dataclasses.replace(made))
    assert made != Bans(no_repeat_ngram_size=2, vocab_size=VOCAB)
    with pytest.raises(ValueError, match="read-only"):
        made.allowed[0] = 0
    with pytest.raises((AttributeError, TypeError)):
        made.min_length = 3  # type: ignore[misc]
