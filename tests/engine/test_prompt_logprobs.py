# SPDX-License-Identifier: MIT
"""What is told of a prompt is what ``score`` tells, in any cut, and changes nothing behind it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders

import fastattn as fa
from fastattn.engine import requests

MODELS = ["llama", "mistral", "phi3, longrope, long", "llama, dynamic"]


@lru_cache(maxsize=8)
def model_of(name: str) -> Any:
    family, changes = tiny_decoders.VARIANTS[name]
    with TemporaryDirectory() as folder:
        return fa.load(tiny_decoders.make(Path(folder) / "m", family, **changes))


def prompts_of(model: Any, sizes: tuple[int, ...]) -> list[list[int]]:
    return [np.random.default_rng(size).integers(0, model.vocab_size, size).tolist() for size in sizes]


@pytest.mark.parametrize("name", MODELS)
def test_as_score_tells(name: str) -> None:
    model = model_of(name)
    prompts = prompts_of(model, (40, 1, 2, 11))
    made = model.generate(prompts, max_new_tokens=3, prompt_logprobs=2, ignore_eos=True)
    plain = model.generate(prompts, max_new_tokens=3, ignore_eos=True)
    for prompt, one, other, score in zip(prompts, made, plain, model.score(prompts), strict=True):
        assert one.token_ids == other.token_ids and other.prompt_logprobs is None
        assert len(one.prompt_logprobs) == len(prompt) and one.prompt_logprobs[0] is None
        assert tuple(entry[0] for entry in one.prompt_logprobs[1:]) == tuple(prompt[1:])
        assert (None, *(entry[1] for entry in one.prompt_logprobs[1:])) == score.logprobs
        assert (one.alternatives, one.attention, one.logprobs) == (None, None, None)
        assert one.settings["prompt_logprobs"] == 2


def test_the_likeliest_are_those_of_the_logits() -> None:
    model = model_of("llama")
    (prompt,) = prompts_of(model, (23,))
    logits = model([prompt]).logits[0]
    every = model.vocab_size
    (made,) = model.generate(prompt, max_new_tokens=1, prompt_logprobs=every)
    (none,) = model.generate(prompt, max_new_tokens=1, prompt_logprobs=0)
    for at, (token, logprob, likely) in enumerate(made.prompt_logprobs[1:]):
        assert list(likely) == np.argsort(-logits[at], kind="stable").tolist()
        assert likely[token] == logprob
        assert none.prompt_logprobs[at + 1] == (token, logprob, {})


@pytest.mark.parametrize("rows", [1, 3, 512])
@pytest.mark.parametrize("logits", [1, 1 << 9, 1 << 24])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "n": 3}, {"num_beams": 3, "n": 2}], ids=str)
def test_how_steps_are_cut(rows: int, logits: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("llama", "phi3, longrope, long"):
        model = model_of(name)
        prompts = prompts_of(model, (19, 8, 27))
        wanted = {"max_new_tokens": 6, "ignore_eos": True, **options}
        expected = model.generate(prompts, prompt_logprobs=1, logprobs=1, **wanted)
        plain = model.generate(prompts, **wanted)
        assert [one.token_ids for one in expected] == [one.token_ids for one in plain]
        n = len(expected) // 3
        for i in range(3):
            told = model.score(prompts[i])[0].logprobs
            for one in expected[i * n : (i + 1) * n]:
                assert (None, *(entry[1] for entry in one.prompt_logprobs[1:])) == told
        with monkeypatch.context() as patch:
            patch.setattr(requests, "STEP_ROWS", rows)
            patch.setattr(requests, "STEP_LOGITS", logits)
            assert model.generate(prompts, prompt_logprobs=1, logprobs=1, **wanted) == expected


def test_rows_of_logits_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    prompts = prompts_of(model, (30, 30))
    sizes = []
    compute = requests.Steps.run

    def run(self: Any, *arguments: Any, **named: Any) -> Any:
        sizes.append(len(found := compute(self, *arguments, **named)))
        return found

    monkeypatch.setattr(requests.Steps, "run", run)
    monkeypatch.setattr(requests, "STEP_LOGITS", 7 * model.vocab_size)
    model.generate(prompts, max_new_tokens=2, prompt_logprobs=1, ignore_eos=True)
    assert max(sizes) <= 9 and sum(sizes) >= 58


def test_a_call_that_ends_in_the_middle_of_a_prompt() -> None:
    model = model_of("llama")
    (made,) = model.generate([1, 2, 3], prompt_logprobs=1, timeout=1e-9, max_new_tokens=2)
    assert made.finish_reason == "timeout" and made.prompt_logprobs == (None,)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (-1, ValueError, "prompt_logprobs: got -1, expected 0 to 101"),
        (102, ValueError, "prompt_logprobs: got 102"),
        (10**30, ValueError, "prompt_logprobs: got an integer of many digits"),
        (1.0, TypeError, "prompt_logprobs: expected an integer, got float"),
        (True, TypeError, "prompt_logprobs: expected an integer, got bool"),
        ("1", TypeError, "prompt_logprobs: expected an integer, got str"),
    ],
)
def test_numbers_that_cannot_be(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model_of("llama").generate([1, 2], max_new_tokens=2, prompt_logprobs=value)
