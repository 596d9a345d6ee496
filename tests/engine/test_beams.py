# SPDX-License-Identifier: MIT
"""Beam search against a search written down plainly, and the same texts alone, in a batch, in any cut."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders
from hypothesis import given, settings
from hypothesis import strategies as st

import fastattn as fa
from fastattn.engine import requests
from fastattn.engine.beams import BeamRules, BeamSearch
from fastattn.engine.requests import Run
from fastattn.engine.sampling import sampling_of

MODELS = ["llama", "mistral", "llama, heads of 10", "phi3, longrope, long", "llama, dynamic"]


@lru_cache(maxsize=16)
def model_of(name: str) -> Any:
    family, changes = tiny_decoders.VARIANTS[name]
    with TemporaryDirectory() as folder:
        return fa.load(tiny_decoders.make(Path(folder) / "m", family, **changes))


def prompts_of(model: Any, sizes: tuple[int, ...], seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, model.vocab_size, size).tolist() for size in sizes]


@lru_cache(maxsize=4096)
def logprobs_of(name: str, ids: tuple[int, ...]) -> dict[int, float]:
    """Of each token behind ``ids``, in float32."""
    (made,) = model_of(name).generate(list(ids), max_new_tokens=1, logprobs=model_of(name).vocab_size, ignore_eos=True)
    return dict(sorted(made.logprobs[0][2].items()))


def plain_search(
    name: str, prompt: list[int], new: int, width: int, penalty: float, early: Any, ends: set[int], least: int = 0
) -> list[tuple[float, list[int]]]:
    """The search as transformers has it, on lists: each beam is a (sum of log-probabilities, tokens)."""
    beams: list[tuple[Any, list[int]]] = [(np.float32(0), [])]
    done: list[tuple[Any, list[int]]] = []
    while True:
        candidates = []
        for i, (total, tokens) in enumerate(beams):
            for token, logprob in logprobs_of(name, (*prompt, *tokens)).items():
                if not (token in ends and len(tokens) < least):
                    candidates.append((np.float32(total + np.float32(logprob)), i, token))
        candidates.sort(key=lambda one: (-one[0], one[1], one[2]))
        several = [(total, [*beams[i][1], token]) for total, i, token in candidates]
        length = len(beams[0][1]) + 1
        over = [tokens[-1] in ends or length == new for _, tokens in several]
        full = len(done) == width
        if not (full and early is True):
            scale = np.float32(length**penalty)
            done += [
                (total / scale, tokens) for (total, tokens), end in zip(several[:width], over, strict=False) if end
            ]
            done = sorted(done, key=lambda one: -one[0])[:width]
        beams = [one for one, end in zip(several, over, strict=True) if not end][:width]
        full = len(done) == width
        if not beams or (full and early is True):
            return done
        reach = new if early == "never" and penalty > 0 else length
        if full and not beams[0][0] / np.float32(reach**penalty) > done[-1][0]:
            return done


def ends_of(model: Any, prompts: list[list[int]], new: int) -> list[int]:
    """Two tokens that come."""
    made = model.generate(prompts, max_new_tokens=new, ignore_eos=True)
    ids, counts = np.unique([token for one in made for token in one.token_ids[1:]], return_counts=True)
    return ids[np.argsort(-counts, kind="stable")][:2].tolist()


@pytest.mark.parametrize("early", [False, True, "never"])
@pytest.mark.parametrize("penalty", [1.0, 0.0, -0.7, 2.0])
@pytest.mark.parametrize("name", MODELS)
def test_a_plain_search(name: str, penalty: float, early: Any) -> None:
    """Where sequences go through the model again with other frequencies, too."""
    model = model_of(name)
    prompts = prompts_of(model, (3, 9))
    ends = ends_of(model, prompts, 7)
    for width, least in ((2, 0), (3, 2), (4, 0)):
        made = model.generate(
            prompts, max_new_tokens=7, num_beams=width, n=width, length_penalty=penalty, early_stopping=early,
            stop_token_ids=ends, ignore_eos=True, min_new_tokens=least,
        )  # fmt: skip
        for i, prompt in enumerate(prompts):
            expected = plain_search(name, prompt, 7, width, penalty, early, set(ends), least)
            several = made[i * width : (i + 1) * width]
            assert [(one.score, list(one.token_ids)) for one in several] == expected
            for one in several:
                reason = "stop" if one.token_ids[-1] in ends else "length"
                assert (one.finish_reason, one.stop) == (reason, one.token_ids[-1] if reason == "stop" else None)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(MODELS), st.integers(0, 1000), st.integers(2, 6), st.sampled_from([1.0, 0.3, -2.0, 4.0]),
    st.sampled_from([False, True, "never"]), st.integers(1, 6), st.integers(0, 3),
)  # fmt: skip
def test_random_searches(name: str, seed: int, width: int, penalty: float, early: Any, new: int, least: int) -> None:
    model, random = model_of(name), np.random.default_rng(seed)
    (prompt,) = prompts_of(model, (int(random.integers(1, 8)),), seed)
    ends = random.integers(0, model.vocab_size, int(random.integers(0, 4))).tolist()
    width, least = min(width, model.vocab_size - len(set(ends))), min(least, new)
    made = model.generate(
        prompt, max_new_tokens=new, num_beams=width, n=width, length_penalty=penalty, early_stopping=early,
        stop_token_ids=ends, ignore_eos=True, min_new_tokens=least,
    )  # fmt: skip
    expected = plain_search(name, prompt, new, width, penalty, early, set(ends), least)
    found = [(one.score, list(one.token_ids)) for one in made]
    assert found[: len(expected)] == expected
    assert all(one == (-math.inf, []) for one in found[len(expected) :])


def test_beams_as_wide_as_the_tree_find_the_best_text() -> None:
    name = "llama, heads of 10"
    model = model_of(name)
    for prompt in prompts_of(model, (1, 4, 6)):
        every = {}
        for tokens in product(range(model.vocab_size), repeat=3):
            total = np.float32(0)
            for i, token in enumerate(tokens):
                total = np.float32(total + np.float32(logprobs_of(name, (*prompt, *tokens[:i]))[token]))
            every[tokens] = total
        made = model.generate(prompt, max_new_tokens=3, num_beams=49, n=20, length_penalty=0.0, ignore_eos=True)
        best = sorted(every, key=lambda one: -every[one])[:20]
        assert [one.token_ids for one in made] == best
        assert [one.score for one in made] == [every[one] for one in best]


# ---- one result, whatever is beside it -------------------------------------------------------------------------------

OPTIONS: dict[str, Any] = {
    "max_new_tokens": 11, "num_beams": 3, "n": 2, "length_penalty": 0.6, "repetition_penalty": 1.3, "min_new_tokens": 2,
    "logprobs": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_alone_and_together(name: str) -> None:
    model = model_of(name)
    prompts = prompts_of(model, (5, 1, 12, 3))
    ends = ends_of(model, prompts, 11)
    together = model.generate(prompts, stop_token_ids=ends, **OPTIONS)
    alone = [one for prompt in prompts for one in model.generate(prompt, stop_token_ids=ends, **OPTIONS)]
    assert together == alone and len(together) == 8
    assert model.generate(prompts, stop_token_ids=ends, num_threads=1, **OPTIONS) == alone
    backwards = model.generate(prompts[::-1], stop_token_ids=ends, **OPTIONS)
    assert [backwards[i] for i in (6, 7, 4, 5, 2, 3, 0, 1)] == alone
    assert [one.cached_tokens for one in together] == [0, 5, 0, 1, 0, 12, 0, 3]


@pytest.mark.parametrize("kv_dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("rows", [1, 4, 512])
@pytest.mark.parametrize("running", [1, 4, 7, 64])
def test_how_steps_are_cut(kv_dtype: str, rows: int, running: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long enough for forks beyond a page."""
    for name in ("mistral", "phi3, longrope, long"):
        model = model_of(name)
        prompts = prompts_of(model, (75, 2))
        options = {**OPTIONS, "max_new_tokens": 19, "kv_dtype": kv_dtype, "ignore_eos": True}
        expected = model.generate(prompts, **options)
        with monkeypatch.context() as patch:
            patch.setattr(requests, "STEP_ROWS", rows)
            patch.setattr(requests, "MOST_RUNNING", running)
            assert model.generate(prompts, **options) == expected


def test_log_probabilities_are_those_of_score() -> None:
    """Of the logits as the model gives them; the score is of what penalties have left."""
    model = model_of("llama")
    prompts = prompts_of(model, (4, 7))
    for penalty in (1.0, 1.4):
        options = {"max_new_tokens": 6, "num_beams": 3, "n": 3, "repetition_penalty": penalty, "ignore_eos": True}
        made = model.generate(prompts, logprobs=1, **options)
        same = []
        for i, one in enumerate(made):
            prompt = prompts[i // 3]
            told = model.score([*prompt, *one.token_ids])[0].logprobs[len(prompt) :]
            assert tuple(logprob for _, logprob, _ in one.logprobs) == told
            assert all(token == chosen and len(likely) == 1 for (token, _, likely), chosen in
                       zip(one.logprobs, one.token_ids, strict=True))  # fmt: skip
            total = np.float32(0)
            for logprob in told:
                total = np.float32(total + np.float32(logprob))
            same.append(one.score == total / np.float32(6))
        assert all(same) == (penalty == 1.0)
        plain = model.generate(prompts, **options)
        assert [(one.token_ids, one.score) for one in plain] == [(one.token_ids, one.score) for one in made]


# ---- ends ------------------------------------------------------------------------------------------------------------


def test_fewer_texts_than_beams() -> None:
    model = model_of("llama")
    only = {token: -math.inf for token in range(model.vocab_size) if token not in (5, 9)}
    made = model.generate([1, 2], max_new_tokens=1, num_beams=4, n=4, logit_bias=only, ignore_eos=True)
    assert {made[0].token_ids, made[1].token_ids} == {(5,), (9,)}
    assert [(one.token_ids, one.score, one.finish_reason) for one in made[2:]] == [((), -math.inf, "length")] * 2
    more = model.generate([1, 2], max_new_tokens=2, num_beams=4, n=4, logit_bias=only, ignore_eos=True)
    assert {one.token_ids for one in more} == set(product((5, 9), repeat=2))
    ended = model.generate([1, 2], max_new_tokens=5, num_beams=4, n=4, logit_bias=only, stop_token_ids=[5, 9])
    assert [len(one.token_ids) for one in ended] == [1, 1, 0, 0]


def test_nothing_may_come() -> None:
    model = model_of("llama")
    none = dict.fromkeys(range(model.vocab_size), -math.inf)
    made = model.generate([1, 2], max_new_tokens=3, num_beams=2, logit_bias=none)
    assert (made[0].token_ids, made[0].score) == ((), -math.inf)


def searched(model: Any, after: int, how: str) -> tuple[BeamSearch, Run]:
    prompt = np.array([3, 1, 4], np.int64)
    search = BeamSearch(prompt, 40, sampling_of(), frozenset(), BeamRules(3, 1.0), model.vocab_size)
    run = Run(model, [search.beams[0]])
    for _ in range(after):
        run.step()
    if how == "cancelled":
        run.cancel()
        run.step()
    else:
        run.finish_all(how)
    assert not run.going and not any(pool.used for pool in run._memory._pools)
    return search, run


@pytest.mark.parametrize("how", ["timeout", "cancelled"])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_what_ends_before_its_time(after: int, how: str) -> None:
    """The beams so far are the answers."""
    model = model_of("llama")
    search, _ = searched(model, after, how)
    answers = search.answers(3)
    assert [one.reason for one in answers] == [how] * 3
    assert [len(one.made) for one in answers] == [after] * 3
    scores = [one.score for one in answers]
    assert scores == sorted(scores, reverse=True) and (after == 0) == (scores[0] == -math.inf)
    if after:
        made = model.generate([3, 1, 4], max_new_tokens=after, num_beams=3, n=3, ignore_eos=True)
        assert [(list(one.token_ids), one.score) for one in made] == [(one.made, one.score) for one in answers]


def test_a_timeout_and_memory() -> None:
    model = model_of("llama")
    (made,) = model.generate([1, 2, 3], num_beams=4, timeout=1e-9, max_new_tokens=5)
    assert (made.finish_reason, made.token_ids) == ("timeout", ())
    search = BeamSearch(np.array([3, 1]), 30, sampling_of(), frozenset({1, 2, 5}), BeamRules(4), model.vocab_size)
    run = Run(model, [search.beams[0]])
    while run.going:
        assert run.step() == []
    assert search.reason == "stop" and not any(pool.used for pool in run._memory._pools)


def test_scores_of_extreme_penalties() -> None:
    """A power that no float holds is the largest or the smallest one."""
    assert BeamRules(2, 1e300).score(-3.0, 10) == np.float32(-3e-30)
    assert BeamRules(2, -1e300).score(-3.0, 10) == np.float32(-3e30)
    assert BeamRules(2, 1e300).score(-3.0, 1) == -3.0
    assert BeamRules(2, 0.5).score(-3.0, 9) == -1.0
    model = model_of("llama")
    for penalty in (1e300, -1e300):
        made = model.generate([1, 2], max_new_tokens=3, num_beams=2, n=2, length_penalty=penalty)
        assert len(made) == 2
