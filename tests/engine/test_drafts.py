# SPDX-License-Identifier: MIT
"""Drafts change nothing: tokens, log-probabilities, ends; and what they may cost is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders
from hypothesis import given, settings
from hypothesis import strategies as st

import fastattn as fa
from fastattn.engine import drafts, requests
from fastattn.engine.drafts import Grams, Lookup, Pace

MODELS = ["llama", "mistral", "mistral, a window of the token itself", "mistral, a window of two, wide heads",
          "qwen2, layers by name", "llama, heads of 10", "phi3, longrope, long", "llama, dynamic"]  # fmt: skip
OPTIONS: list[dict[str, Any]] = [
    {"logprobs": 2},
    {"temperature": 0.2, "seed": 3, "n": 3, "logprobs": 1},
    {"temperature": 1.5, "top_p": 0.5, "repetition_penalty": 1.1, "frequency_penalty": 0.1},
    {"repetition_penalty": 1.2, "min_new_tokens": 30, "prompt_logprobs": 1},
]


@lru_cache(maxsize=16)
def model_of(name: str) -> Any:
    family, changes = tiny_decoders.VARIANTS[name]
    with TemporaryDirectory() as folder:
        return fa.load(tiny_decoders.make(Path(folder) / "m", family, **{**changes, "max_position_embeddings": 400}))


def prompts_of(model: Any) -> list[list[int]]:
    """One that repeats itself, and others."""
    random = np.random.default_rng(5)
    one = random.integers(0, model.vocab_size, 9).tolist()
    return [one * 5, random.integers(0, model.vocab_size, 90).tolist(), [1], [3, 3, 3, 3]]


class Guesses:
    """Drafts that are right now and then: what comes is known from a run without any."""

    def __init__(self, texts: list[list[int]], seed: int) -> None:
        self.texts, self.random = texts, np.random.default_rng(seed)

    def drafts(self, some: Any, rows: int) -> list[list[int]]:
        found = []
        for one in some:
            here = [*one.prompt.tolist(), *one.made]
            (text,) = [text for text in self.texts if text[: len(here)] == here][:1] or [here]
            most = min(rows, one.total - one.length - 1, int(self.random.integers(0, 12)))
            draft = text[len(here) :][: max(most, 0)]
            if draft and self.random.random() < 0.6:
                draft[int(self.random.integers(0, len(draft)))] = int(self.random.integers(0, 7))
            rows -= len(draft)
            found.append(draft)
        return found


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """(sequences, rows) of each step that is computed."""
    found: list[tuple[int, int]] = []
    compute = requests.Steps.run

    def run(self: Any, sequences: Any, tokens: Any, *arguments: Any, **named: Any) -> Any:
        found.append((len(sequences), sum(map(len, tokens))))
        return compute(self, sequences, tokens, *arguments, **named)

    monkeypatch.setattr(requests.Steps, "run", run)
    yield found


def same(made: list[Any], expected: list[Any]) -> bool:
    fields = ("token_ids", "finish_reason", "stop", "logprobs", "score", "prompt_logprobs", "cached_tokens")
    return all(
        getattr(one, name) == getattr(other, name) for one, other in zip(made, expected, strict=True) for name in fields
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_on_and_off(name: str, options: dict[str, Any], steps: list[tuple[int, int]]) -> None:
    model = model_of(name)
    wanted = {"max_new_tokens": 60, "ignore_eos": True, **options}
    expected = model.generate(prompts_of(model), draft=None, **wanted)
    plain = sum(count for count, _ in steps)
    for draft in ("prompt_lookup", "auto", np.int64(3)):
        steps.clear()
        assert same(model.generate(prompts_of(model), draft=draft, **wanted), expected)
        if draft == "prompt_lookup" and name == "llama" and len(options) == 1:
            assert sum(count for count, _ in steps) < plain  # there were drafts, and some were right
    ends = [one.token_ids[30] for one in expected[:2]]
    expected = model.generate(prompts_of(model), draft=None, stop_token_ids=ends, **wanted)
    assert same(model.generate(prompts_of(model), draft=8, stop_token_ids=ends, **wanted), expected)


@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", MODELS[:5])
def test_right_and_wrong_drafts(name: str, kv_dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across pages, and where windows give them back."""
    model = model_of(name)
    wanted = {"max_new_tokens": 110, "ignore_eos": True, "temperature": 0.9, "n": 2, "logprobs": 1}
    wanted["kv_dtype"] = kv_dtype
    prompts = prompts_of(model)[:2]
    expected = model.generate(prompts, draft=None, **wanted)
    texts = [[*prompts[i // 2], *one.token_ids] for i, one in enumerate(expected)]
    for seed, rows in ((1, 512), (2, 5)):
        with monkeypatch.context() as patch:
            patch.setattr(drafts.Drafter, "drafts", Guesses(texts, seed).drafts)
            patch.setattr(requests, "STEP_ROWS", rows)
            assert same(model.generate(prompts, draft=8, **wanted), expected)


def test_right_drafts_take_the_place_of_steps(steps: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    (expected,) = model.generate([1, 2, 3], draft=None, max_new_tokens=41, ignore_eos=True)
    steps.clear()
    text = [1, 2, 3, *expected.token_ids]
    monkeypatch.setattr(
        drafts.Drafter, "drafts",
        lambda self, some, rows: [text[one.length :][: min(7, one.total - one.length - 1)] for one in some],
    )  # fmt: skip
    (made,) = model.generate([1, 2, 3], draft=7, max_new_tokens=41, ignore_eos=True)
    assert same([made], [expected]) and steps == [(1, 3)] + [(1, 8)] * 5


def test_a_stop_string_in_the_middle_of_a_draft(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tiny_decoders.make(tmp_path, "llama", vocab_size=len(letters))
    codec = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    codec.decoder = decoders.ByteLevel()
    codec.save(str(tmp_path / "tokenizer.json"))
    model = fa.load(tmp_path)
    bias = dict.fromkeys(range(33, 37), 10000.0)  # four letters, so that the text repeats itself
    for size in (1, 2, 3):
        wanted = {"max_new_tokens": 60, "logit_bias": bias, "logprobs": 1, "ignore_eos": True}
        (free,) = model.generate([33, 34], draft=None, **wanted)
        for at in range(30, 40):
            stop = free.text[at : at + size]
            expected = model.generate([33, 34], draft=None, stop=stop, **wanted)
            for draft in ("prompt_lookup", 3, 64):
                assert same(model.generate([33, 34], draft=draft, stop=stop, **wanted), expected)
                stream = model.stream([33, 34], draft=draft, stop=stop, **wanted)
                assert "".join(stream) == expected[0].text and same([stream.result()], expected)


def test_no_drafts_where_memory_cannot_be_rewound(
    steps: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests.PagedMemory, "rewinds", False)
    model_of("llama").generate([[1, 2] * 20], max_new_tokens=60, draft="prompt_lookup", ignore_eos=True)
    assert all(rows == 1 for _, rows in steps[1:]) and len(steps) == 60


@pytest.mark.parametrize("how", ["timeout", "cancelled"])
def test_a_step_with_drafts_that_is_ended(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    monkeypatch.setattr(drafts.Drafter, "drafts", lambda self, some, rows: [[5, 6, 7] for _ in some])
    request = requests.Request(np.array([1, 2, 3]), 50, requests.Sampling())
    run = requests.Run(model, [request])
    for _ in range(3):
        run.step()
    if how == "cancelled":
        run.cancel()
    else:
        run._deadline = 1
    made = list(request.made)
    assert run.step() == [] and request.reason == how and request.made == made
    assert not run.going and not any(pool.used for pool in run._memory._pools)


# ---- guesses ---------------------------------------------------------------------------------------------------------


def plain_guess(tokens: list[int], start: int, most: int) -> list[int]:
    """Search from the end: the last place, of an answer's if there is one, that has the most of the last tokens."""
    for size in drafts.SIZES:
        run = tokens[-size:]
        places = [at for at in range(size, len(tokens)) if tokens[at - size : at] == run]
        if len(run) == size and places:
            place = max(places, key=lambda at: (at >= start, at))
            found = tokens[place:][:most]
            while len(found) < most:
                found.append([*tokens, *found][place + len(found)])
            return found
    return []


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=20), st.lists(st.integers(0, 3), max_size=30), st.integers(1, 9)
)
def test_guesses_are_what_came_before(prompt: list[int], made: list[int], most: int) -> None:
    lookup, tokens, right = Lookup(Grams(prompt)), prompt.copy(), 0
    guess: list[int] = []  # nothing is guessed of the first token
    for token in made:
        right = right + 1 if guess[:1] == [token] else 0
        lookup.push(token)
        tokens.append(token)
        guess = plain_guess(tokens, len(prompt), most)
        assert lookup.draft(most) == guess and lookup.right == right and len(lookup) == len(tokens)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.05, 0.3, 1.0]), st.sampled_from([0.0, 0.3, 0.7, 0.95]),
       st.sampled_from([1, 4]))  # fmt: skip
def test_time_that_drafts_may_cost(seed: int, row: float, luck: float, sequences: int) -> None:
    """On machines where rows cost nothing or as much as steps, of texts that mislead it: 3 % and a step at most."""
    random, pace = np.random.default_rng(seed), Pace()
    spent = plain = 0.0
    right = 0
    while plain < 500:
        rows = sum(pace.lengths([right] + [0] * (sequences - 1), [8] + [0] * (sequences - 1)))
        got = 0
        while got < rows and random.random() < luck:
            got += 1
        seconds = 1 + row * rows
        pace.took(seconds, sequences, rows, got)
        for run in range(got + (got < rows or random.random() < 0.3)):
            pace.guessed(right + run, run < got)
        spent += seconds
        plain += 1 + got / sequences
        right = right + got + 1 if got == rows and (rows or random.random() < 0.8) else 0
    assert spent <= 1.03 * plain + 1 + 8 * row
    if row == 0.05 and luck == 0.95 and sequences == 1:
        assert spent < 0.5 * plain


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "draft: got 0, expected 1 to 64 tokens"),
        (65, ValueError, "draft: got 65"),
        (10**30, ValueError, "draft: got an integer of many digits"),
        ("lookup", ValueError, 'draft: got \'lookup\', expected "auto", "prompt_lookup"'),
        (True, TypeError, "draft: expected .* got bool"),
        (1.5, TypeError, "draft: expected .* got float"),
        ([4], TypeError, "draft: expected .* got list"),
    ],
)
def test_drafts_that_cannot_be(value: Any, error: type[Exception], message: str) -> None:
    for call in (model_of("llama").generate, model_of("llama").stream):
        with pytest.raises(error, match=message):
            call([1, 2], max_new_tokens=2, draft=value)
