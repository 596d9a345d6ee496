# SPDX-License-Identifier: MIT
"""Sequences that share a beginning: after a fork each has the bits of one that was computed by itself."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders

import fastattn as fa
from fastattn._core import Blocks
from fastattn.engine import requests
from fastattn.engine.decode import Steps
from fastattn.engine.memory import PAGE, PagedMemory
from fastattn.engine.requests import Request, Run
from fastattn.engine.sampling import sampling_of
from fastattn.kvcache.checks import CacheFull

Array = np.ndarray[Any, Any]

STORED = ("float32", "float16", "bfloat16", "int8")
MODELS = ["llama", "mistral, a window of the token itself", "mistral, a window of two, wide heads",
          "qwen2, layers by name", "smollm3, layers by name"]  # fmt: skip
LONGEST = 3 * PAGE


@lru_cache(maxsize=16)
def model_of(name: str) -> Any:
    family, changes = tiny_decoders.VARIANTS[name]
    with TemporaryDirectory() as folder:
        path = tiny_decoders.make(Path(folder) / "m", family, **{**changes, "max_position_embeddings": 512})
        return fa.load(path)


def tokens_of(model: Any, count: int, seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, model.vocab_size, count)


def steps_of(model: Any, kv_dtype: str, pages: int = 40) -> tuple[Steps, PagedMemory]:
    groups = model.graph.trace.groups
    memory = PagedMemory(model.graph.trace, [pages] * len(groups), kv_dtype)
    return Steps(model.graph, model.program(["logits"]), Blocks(), memory), memory


def used(memory: PagedMemory) -> list[int]:
    return [pool.used for pool in memory._pools]


@pytest.mark.parametrize("kv_dtype", STORED)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("length", [1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, LONGEST - 5])
def test_forks_go_on_as_if_alone(name: str, kv_dtype: str, length: int) -> None:
    """Whichever goes first, and whichever ends first, also forks of forks."""
    model = model_of(name)
    steps, memory = steps_of(model, kv_dtype)
    beginning = tokens_of(model, length, length)
    ends = [tokens_of(model, 7, seed) for seed in range(4)]
    kept = [memory.add()]
    steps.run(kept, [beginning], [0])
    kept.append(memory.fork(kept[0]))
    steps.run(kept[1:], [ends[1][:3]], [0])
    steps.run(kept[:1], [ends[0][:2]], [0])
    kept.append(memory.fork(kept[1]))
    steps.run(kept[2:], [ends[2][3:5]], [0])
    memory.free(kept[1])
    kept[1] = memory.fork(kept[0])
    texts = [ends[0], np.concatenate([ends[0][:2], ends[3][2:]]), np.concatenate([ends[1][:3], ends[2][3:]])]
    at = (2, 2, 5)
    got = steps.run([kept[i] for i in (2, 0, 1)], [texts[i][at[i] :] for i in (2, 0, 1)], [1, 1, 1])
    alone, other = steps_of(model, kv_dtype)
    for row, i in zip(got, (2, 0, 1), strict=True):
        expected = alone.run([other.add()], [np.concatenate([beginning, texts[i]])], [1])
        assert row.tobytes() == expected[0].tobytes()
    for one in kept:
        memory.free(one)
    assert not any(used(memory))


def test_full_pages_are_shared() -> None:
    model = model_of("llama")
    steps, memory = steps_of(model, "float32", pages=5)
    kept = memory.add()
    steps.run([kept], [tokens_of(model, 2 * PAGE + 3, 1)], [0])
    assert used(memory) == [3]
    other = memory.fork(kept)
    assert used(memory) == [4]
    third = memory.fork(other)
    assert used(memory) == [5]
    with pytest.raises(CacheFull, match="0 of 5 are free"):
        memory.fork(kept)
    assert used(memory) == [5]
    memory.free(kept)
    assert used(memory) == [4]
    memory.free(third)
    memory.free(other)
    assert used(memory) == [0]
    empty = memory.fork(memory.add())
    assert empty.length == 0 and used(memory) == [0]


def test_pages_of_a_step_that_did_not_come_to_an_end_are_not_shared() -> None:
    model = model_of("llama")
    steps, memory = steps_of(model, "float32")
    kept = memory.add()
    steps.run([kept], [tokens_of(model, 5, 1)], [0])
    memory.place([kept], [2 * PAGE])  # and then nothing was computed
    memory.free(memory.fork(kept))
    assert used(memory) == [3]


# ---- answers to one prompt -------------------------------------------------------------------------------------------

OPTIONS = {"temperature": 1.2, "top_p": 0.95, "seed": 11, "logprobs": 2, "repetition_penalty": 1.3}


def results(model: Any, wanted: list[Request]) -> list[Any]:
    run = Run(model, wanted)
    while run.going:
        run.step()
    assert not any(used(run._memory))
    return [(one.made, one.chosen, one.likely, one.reason) for one in wanted]


@pytest.mark.parametrize("running", [1, 2, 5, 64])
@pytest.mark.parametrize("rows", [1, 7, 512])
@pytest.mark.parametrize("name", ["llama", "mistral", "phi3, longrope, long", "llama, dynamic"])
def test_answers_to_one_prompt_are_those_of_separate_requests(
    name: str, rows: int, running: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the frequencies of longer sequences are others, too."""
    model = model_of(name)
    sampling = sampling_of(vocab_size=model.vocab_size, **OPTIONS)
    prompts = [tokens_of(model, size, size) for size in (5, 11, 3)]
    expected = results(
        model, [Request(prompt, prompt.size + 9, sampling, which) for prompt in prompts for which in range(4)]
    )
    monkeypatch.setattr(requests, "STEP_ROWS", rows)
    monkeypatch.setattr(requests, "MOST_RUNNING", running)
    forked = []
    for prompt in prompts:
        first = Request(prompt, prompt.size + 9, sampling)
        forked += [first, *(Request(prompt, prompt.size + 9, sampling, which, first=first) for which in range(1, 4))]
    assert results(model, forked) == expected


def test_the_prompt_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    sizes = []
    compute = Steps.run

    def run(self: Steps, sequences: Any, tokens: Any, *rest: Any, **named: Any) -> Array:
        sizes.append(sum(map(len, tokens)))
        return compute(self, sequences, tokens, *rest, **named)

    monkeypatch.setattr(Steps, "run", run)
    prompt = tokens_of(model, 40, 1).tolist()
    made = model.generate(prompt, n=6, max_new_tokens=3, temperature=1.0, ignore_eos=True)
    assert sizes == [40, 6, 6]
    assert [one.cached_tokens for one in made] == [0] + [40] * 5 and {one.prompt_tokens for one in made} == {40}


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_the_first_may_end_before_the_others_begin(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    monkeypatch.setattr(requests, "MOST_RUNNING", 2)
    sampling = sampling_of(temperature=1.0)
    first = Request(tokens_of(model, 30, 2), 36, sampling)
    every = [first, *(Request(first.prompt, 36, sampling, which, first=first) for which in range(1, 5))]
    run = Run(model, every)
    for _ in range(after):
        run.step()
    run.finish(first, "stop") if after else run.finish(every[2], "stop")
    run.finish(every[4], "cancelled")
    run.finish(every[4], "cancelled")
    if after == 2:
        run.finish_all("timeout")
    while run.going:
        run.step()
    assert not any(used(run._memory)) and first.heirs == 0 and first.source is None
    assert all(one.reason for one in every) and len(every[3].made) == (0 if after == 2 else 6)
