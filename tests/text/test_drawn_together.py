# SPDX-License-Identifier: MIT
"""Ways to draw that meet in one call: beams with forced tokens, ends and interruptions; several answers with mirostat;
drafts with what looks at the text so far."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from golden import tiny_decoders
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import fastattn as fa
from fastattn import _core
from fastattn.engine import requests
from fastattn.engine.sampling import sampling_of
from fastattn.engine.stop import DeadlineExceeded

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
END = len(LETTERS)


def make(folder: Path, **stored: Any) -> Any:
    """A model with a token for each byte, and one that ends texts."""
    tiny_decoders.make(folder, "llama", vocab_size=END + 1, eos_token_id=END, max_position_embeddings=400)
    codec = Tokenizer(models.BPE({letter: i for i, letter in enumerate(LETTERS)}, []))
    codec.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    codec.decoder = decoders.ByteLevel()
    codec.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    codec.save(str(folder / "tokenizer.json"))
    (folder / "generation_config.json").write_text(json.dumps(stored))
    return fa.load(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make(tmp_path_factory.mktemp("together") / "model")


def told(made: list[Any]) -> list[Any]:
    return [(one.token_ids, one.score) for one in made]


# ---- beams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("early", [False, True, "never"])
def test_a_forced_token_costs_a_beam_nothing(tmp_path: Path, model: Any, width: int, early: Any) -> None:
    """As if it were certain; its own log-probability is told nevertheless."""
    forced = make(tmp_path / "m", forced_bos_token_id=9, forced_eos_token_id=END)
    options = {"num_beams": width, "n": width, "length_penalty": 0.0, "early_stopping": early, "ignore_eos": True}
    for prompt in ([40, 41, 42], [40]):
        first = () if len(prompt) > 1 else (9,)
        free = model.generate([*prompt, *first], max_new_tokens=7 - len(first), **options)
        made = forced.generate(prompt, max_new_tokens=8, logprobs=1, **options)
        assert told(made) == [((*first, *one.token_ids, END), one.score) for one in free]
        for one in made:
            behind = model.score([*prompt, *one.token_ids])[0].logprobs[len(prompt) :]
            assert tuple(logprob for _, logprob, _ in one.logprobs) == behind and behind[-1] < 0


@pytest.mark.parametrize("how", ["timeout", "cancelled"])
@pytest.mark.parametrize("after", [1, 3, 6])
@pytest.mark.parametrize("include", [False, True])
def test_beams_with_stop_strings_that_are_ended(
    model: Any, monkeypatch: pytest.MonkeyPatch, how: str, after: int, include: bool
) -> None:
    """What there is then is what so many tokens at most would have given: complete texts, and beams so far."""
    prompts = ["ab", "Hello", "a b"]
    options = {
        "num_beams": 3, "n": 3, "ignore_eos": True, "no_repeat_ngram_size": 2, "include_stop_str_in_output": include,
        "length_penalty": 0.5,
    }  # fmt: skip
    free = model.generate(prompts, max_new_tokens=8, **options)
    options["stop"] = sorted({one.text[at] for one in free for at in (1, 2) if one.text[at : at + 1].isascii()})[:3]
    expected = model.generate(prompts, max_new_tokens=after, **options)
    assert after == 1 or any(one.finish_reason == "stop" for one in expected)
    runs: list[requests.Run] = []
    steps: list[int] = []
    compute = requests.Steps.run

    def run(self: Any, *arguments: Any, **named: Any) -> Any:
        if len(steps) == after:
            if how == "cancelled":
                runs[0].cancel()
            raise DeadlineExceeded
        steps.append(1)
        return compute(self, *arguments, **named)

    begin = requests.Run.__init__

    def kept(self: Any, *arguments: Any, **named: Any) -> None:
        runs.append(self)
        begin(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(requests.Steps, "run", run)
        patch.setattr(requests.Run, "__init__", kept)
        made = model.generate(prompts, max_new_tokens=30, **options)
    assert told(made) == told(expected) and [one.text for one in made] == [one.text for one in expected]
    assert [one.stop for one in made] == [one.stop for one in expected]
    reasons = ["stop" if one.finish_reason == "stop" else how for one in expected]
    assert [one.finish_reason for one in made] == reasons and how in reasons
    assert not runs[0].going and not any(pool.used for pool in runs[0]._memory._pools)


# ---- several answers -------------------------------------------------------------------------------------------------

TOGETHER: list[dict[str, Any]] = [
    {"mirostat": {"version": 1, "tau": 3.0, "eta": 0.3}},
    {"mirostat": {"version": 2, "tau": 4.0, "eta": 0.5}, "no_repeat_ngram_size": 2, "repetition_penalty": 1.2},
    {"mirostat": 2, "dry": {"multiplier": 2.0, "allowed_length": 1, "sequence_breakers": []}, "bad_words": ["ab", "c"]},
]


@pytest.mark.parametrize("options", TOGETHER, ids=str)
def test_each_answer_has_a_surprise_of_its_own(
    model: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Of the answers to one prompt, too: each is as if it were drawn alone, in whatever steps."""
    prompts = ["Hello", "ab" * 9]
    wanted = {"max_new_tokens": 15, "temperature": 1.1, "seed": 5, "ignore_eos": True, "n": 4, **options}
    made = model.generate(prompts, **wanted)
    assert len({one.token_ids for one in made}) == 8
    for rows, running in ((3, 64), (512, 1), (512, 3)):
        with monkeypatch.context() as patch:
            patch.setattr(requests, "STEP_ROWS", rows)
            patch.setattr(requests, "MOST_RUNNING", running)
            assert model.generate(prompts, **wanted) == made
    if "dry" in options or "no_repeat_ngram_size" in options:
        return
    for i, one in enumerate(made):
        ids = [*model.tokenizer.encode(prompts[i // 4]), *one.token_ids]
        logits = model([ids]).logits[0]
        sampling = sampling_of(temperature=1.1, seed=5, **options)
        assert sampling.mirostat is not None
        surprise: list[float | None] = [sampling.mirostat.start]
        for step, token in enumerate(one.token_ids):
            row = logits[len(ids) - len(one.token_ids) + step - 1][None]
            drawn = _core.sample(row, [sampling], which=[i % 4], steps=[step], surprises=surprise)[0]
            assert drawn.tolist() == [token]


# ---- drafts ----------------------------------------------------------------------------------------------------------

DRAFTED: list[dict[str, Any]] = [
    {"temperature": 0.8, "mirostat": {"version": 1, "tau": 1.0, "eta": 0.2}, "n": 3, "seed": 4},
    {"temperature": 0.8, "mirostat": {"version": 2, "tau": 1.0, "eta": 0.2}, "n": 2, "logprobs": 1},
    {"dry": {"multiplier": 0.5, "allowed_length": 3, "penalty_last_n": -1, "sequence_breakers": ["!"]}, "logprobs": 2},
    {"no_repeat_ngram_size": 5, "bad_words": ["ab"]},
    {"temperature": 1.2, "typical_p": 0.3, "no_repeat_ngram_size": 6, "xtc": (0.5, 0.1), "n": 2},
]


@pytest.mark.parametrize("options", DRAFTED, ids=str)
def test_drafts_change_nothing(model: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    """Four letters make a text that repeats, so there are drafts; some are right in part."""
    bias = {token: 20.0 - 4 * (token - 64) for token in range(64, 68)}
    wanted = {"max_new_tokens": 70, "ignore_eos": True, "logit_bias": bias, **options}
    prompts = ["abcd" * 6 + "ab", "Hello"]
    expected = [replace(one, settings={}) for one in model.generate(prompts, draft=None, **wanted)]
    rows: list[int] = []
    compute = requests.Run._step_by_drafts

    def counted(self: Any, some: Any, drafts: Any) -> Any:
        rows.append(sum(map(len, drafts)))
        return compute(self, some, drafts)

    monkeypatch.setattr(requests.Run, "_step_by_drafts", counted)
    for draft in (1, 4, 64, "auto"):
        made = model.generate(prompts, draft=draft, **wanted)
        assert [replace(one, settings={}) for one in made] == expected
    assert sum(rows) > 20
