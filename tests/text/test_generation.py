# SPDX-License-Identifier: MIT
"""Prompts to texts: options, stop strings, streams, scores; the same text alone, in a batch, in any cut."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import fastattn as fa
from fastattn.engine import requests, scoring

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<|start|>", "<|end|>"]
VOCAB = len(LETTERS) + len(SPECIAL)


def tokenizer() -> Tokenizer:
    """A token for each byte, and two special ones."""
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(LETTERS)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return made


def make(folder: Path, family: str = "llama", **files: Any) -> Path:
    tiny_decoders.make(folder, family, vocab_size=VOCAB, eos_token_id=VOCAB - 1, bos_token_id=VOCAB - 2)
    tokenizer().save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("generation") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return fa.load(folder)


def ids_of(results: list[Any]) -> list[tuple[int, ...]]:
    return [result.token_ids for result in results]


PROMPTS = ["Hello", "naïve 東京 🙂", " ", "x" * 40, "The end.\n"]
DRAWN = {"temperature": 1.3, "top_k": 0, "seed": 7}


# ---- one text, whatever is beside it ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, DRAWN, {**DRAWN, "top_p": 0.9, "repetition_penalty": 1.4}], ids=str)
def test_alone_and_together(model: Any, options: dict[str, Any]) -> None:
    together = model.generate(PROMPTS, max_new_tokens=12, ignore_eos=True, **options)
    alone = [model.generate(prompt, max_new_tokens=12, ignore_eos=True, **options)[0] for prompt in PROMPTS]
    assert together == alone
    assert len(set(ids_of(together))) == len(PROMPTS)
    backwards = model.generate(PROMPTS[::-1], max_new_tokens=12, ignore_eos=True, num_threads=1, **options)
    assert backwards[::-1] == alone


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("running", [1, 2, 64])
def test_how_steps_are_cut(model: Any, monkeypatch: pytest.MonkeyPatch, rows: int, running: int) -> None:
    options = {"max_new_tokens": 9, "logprobs": 2, "n": 2, **DRAWN}
    expected = model.generate(PROMPTS, **options)
    monkeypatch.setattr(requests, "STEP_ROWS", rows)
    monkeypatch.setattr(requests, "MOST_RUNNING", running)
    assert model.generate(PROMPTS, **options) == expected


def test_answers_to_one_prompt(model: Any) -> None:
    """n of them, each with random numbers of its own; the first is that of a call for one."""
    results = model.generate(["a", "b"], n=3, max_new_tokens=10, ignore_eos=True, **DRAWN)
    assert len(results) == 6 and len(set(ids_of(results))) == 6
    single = model.generate(["a", "b"], max_new_tokens=10, ignore_eos=True, **DRAWN)
    assert [results[0].token_ids, results[3].token_ids] == ids_of(single)
    other = model.generate("a", max_new_tokens=10, ignore_eos=True, **{**DRAWN, "seed": 8})
    assert other[0].token_ids != single[0].token_ids and other[0].seed == 8


def test_kinds_of_prompts(model: Any) -> None:
    ids = model.tokenizer.encode("Hello")
    expected = model.generate("Hello", max_new_tokens=5)
    for prompt in (ids, np.array(ids), np.array(ids, np.int32), np.array([ids]), [ids], ["Hello"], ("Hello",)):
        assert model.generate(prompt, max_new_tokens=5) == expected
    mixed = model.generate(["Hello", ids, np.array(ids)], max_new_tokens=5)
    assert mixed == expected * 3
    assert model.generate([], max_new_tokens=5) == []


# ---- results ---------------------------------------------------------------------------------------------------------


def test_the_text_is_that_of_the_tokens(model: Any) -> None:
    for result in model.generate(PROMPTS, max_new_tokens=30, ignore_eos=True, n=3, **DRAWN):
        assert result.text == model.tokenizer.decode(result.token_ids)
        assert (result.finish_reason, result.stop, result.logprobs, result.score) == ("length", None, None, None)
        assert result.cached_tokens in (0, result.prompt_tokens)


def test_the_end_of_the_model(folder: Path, model: Any, tmp_path: Path) -> None:
    """The token that ends the text is the last one, and not in the text."""
    tokens = model.generate("Hello", max_new_tokens=20, ignore_eos=True)[0].token_ids
    end = tokens[6]
    first = tokens.index(end)
    made = make(tmp_path / "m", generation_config={"eos_token_id": [end, VOCAB - 1]})
    result = fa.load(made).generate("Hello", max_new_tokens=20)[0]
    assert result.token_ids == tokens[: first + 1] and result.finish_reason == "stop" and result.stop is None
    assert result.text == model.tokenizer.decode(tokens[:first])
    longer = fa.load(made).generate("Hello", max_new_tokens=20, min_new_tokens=12)[0]
    assert len(longer.token_ids) >= 12 and end not in longer.token_ids[:11]
    assert fa.load(made).generate("Hello", max_new_tokens=20, ignore_eos=True)[0].token_ids == tokens


def test_ids_that_end_a_text(model: Any) -> None:
    tokens = model.generate("Hello", max_new_tokens=20, ignore_eos=True)[0].token_ids
    end = tokens[5]
    first = tokens.index(end)
    for ignore in (False, True):
        result = model.generate("Hello", max_new_tokens=20, stop_token_ids=[end], ignore_eos=ignore)[0]
        assert (result.token_ids, result.finish_reason, result.stop) == (tokens[: first + 1], "stop", end)
        assert result.text == model.tokenizer.decode(tokens[:first])
    shown = model.generate("Hello", max_new_tokens=20, stop_token_ids=[end], include_stop_str_in_output=True)[0]
    assert shown.text == model.tokenizer.decode(tokens[: first + 1])


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("include", [False, True])
def test_strings_that_end_a_text(model: Any, length: int, include: bool) -> None:
    """Also those of several tokens; tokens up to the one that completes it are told."""
    whole = model.generate("ab", max_new_tokens=40, ignore_eos=True, **DRAWN)[0]
    assert whole.text is not None
    stop = whole.text[11 : 11 + length]
    at = whole.text.find(stop)
    options = {"max_new_tokens": 40, "ignore_eos": True, "include_stop_str_in_output": include, **DRAWN}
    result = model.generate("ab", stop=["never", stop], **options)[0]
    assert result.text == whole.text[: at + length * include]
    assert (result.finish_reason, result.stop) == ("stop", stop)
    assert result.token_ids == whole.token_ids[: len(result.token_ids)]
    assert stop in model.tokenizer.decode(result.token_ids)
    assert stop not in model.tokenizer.decode(result.token_ids[:-1])
    stream = model.stream("ab", stop=stop, **options)
    pieces = list(stream)
    assert "".join(pieces) == result.text and stream.result().token_ids == result.token_ids


def test_a_string_that_only_the_end_completes(model: Any) -> None:
    """Bytes of a character that is not complete are held back until no more tokens come."""
    first = LETTERS.index("\u00e6")  # the byte E6, of three
    options = {"max_new_tokens": 1, "logit_bias": {first: 1e6}}
    assert model.generate("ab", **options)[0].text == "\ufffd"
    result = model.generate("ab", stop="\ufffd", **options)[0]
    assert (result.text, result.finish_reason, result.stop, result.token_ids) == ("", "stop", "\ufffd", (first,))
    stream = model.stream("ab", stop="\ufffd", **options)
    assert list(stream) == [] and stream.result() == result


def test_logprobs(model: Any) -> None:
    """Of the logits as the model gives them, whatever the options do with them."""
    for options in ({}, {**DRAWN, "repetition_penalty": 1.9}):
        result = model.generate("Hello", max_new_tokens=6, logprobs=3, ignore_eos=True, **options)[0]
        ids = [*model.tokenizer.encode("Hello"), *result.token_ids]
        logits = model([ids]).logits[0].astype(np.float64)
        raw = (
            logits
            - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
            - logits.max(1)[:, None]
        )
        assert result.logprobs is not None and len(result.logprobs) == 6
        for i, (token, logprob, likely) in enumerate(result.logprobs):
            row = raw[len(ids) - 7 + i]
            assert token == result.token_ids[i] and abs(logprob - row[token]) < 1e-5
            assert list(likely) == np.argsort(-row, kind="stable")[:3].tolist()
            assert all(abs(value - row[one]) < 1e-5 for one, value in likely.items())
        assert result.score == math.fsum(logprob for _, logprob, _ in result.logprobs)
    assert model.generate("Hello", max_new_tokens=2, logprobs=0)[0].logprobs[0][2] == {}


def test_settings_tell_what_was_used(tmp_path: Path) -> None:
    stored = {
        "do_sample": True,
        "temperature": 0.5,
        "top_p": 0.8,
        "repetition_penalty": 1.2,
        "max_new_tokens": 3,
        "transformers_version": "5",
        "eos_token_id": VOCAB - 1,
        "num_beams": 1,
        "_from_model_config": True,
    }
    model = fa.load(make(tmp_path / "m", generation_config=stored))
    told = model.generate("a")[0].settings
    assert {name: told[name] for name in ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty")} == {
        "do_sample": True, "temperature": 0.5, "top_k": 50, "top_p": 0.8, "repetition_penalty": 1.2,
    }  # fmt: skip
    assert told["max_new_tokens"] == 3
    told = model.generate("a", temperature=0, repetition_penalty=1.0)[0].settings
    assert (told["do_sample"], told["temperature"], told["repetition_penalty"]) == (False, 0.0, 1.0)
    told = model.generate("a", top_k=5)[0].settings
    assert (told["do_sample"], told["temperature"], told["top_k"], told["top_p"]) == (True, 0.5, 5, 0.8)
    told = model.generate("a", do_sample=False, max_new_tokens=2)[0].settings
    assert (told["do_sample"], told["max_new_tokens"]) == (False, 2)
    assert fa.load(make(tmp_path / "n")).generate("a", max_new_tokens=1)[0].settings["do_sample"] is False


def test_a_length_with_the_prompt(tmp_path: Path) -> None:
    """max_length of the file counts the prompt; nothing said, the rest of the context."""
    model = fa.load(make(tmp_path / "m", generation_config={"max_length": 9}))
    assert len(model.generate("abc", ignore_eos=True)[0].token_ids) == 6
    with pytest.raises(ValueError, match="prompts: 9 tokens, but generation_config.json says max_length 9"):
        model.generate("abcdefghi")
    assert len(model.generate("abcdefghi", max_new_tokens=2, ignore_eos=True)[0].token_ids) == 2
    rest = fa.load(make(tmp_path / "n")).generate("abc", ignore_eos=True)[0]
    assert len(rest.token_ids) == 96 - 3 and rest.finish_reason == "length"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"guidance_scale": 3}, "guidance_scale is '3': it is not supported"),
        ({"watermarking_config": {"bias": 2.5}}, "watermarking_config is .*: it is not supported"),
        ({"num_beams": 0}, "num_beams: got 0"),
        ({"num_beams": "4"}, "num_beams: expected an integer, got str"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences: got 3, more than num_beams, 2"),
        ({"length_penalty": "long"}, "length_penalty: expected a number"),
        ({"early_stopping": "soon"}, "early_stopping: got 'soon'"),
        ({"num_beam_groups": 2}, "num_beam_groups is '2': it is not supported"),
        ({"diversity_penalty": 0.5}, "diversity_penalty is '0.5'"),
        ({"brand_new": 1}, "brand_new is '1': it is not known"),
        ({"repetition_penalty": 0}, "repetition_penalty: got 0"),
        ({"repetition_penalty": "high"}, "repetition_penalty: expected a number, got str"),
        ({"do_sample": True, "temperature": -1}, "temperature: got -1"),
        ({"do_sample": 1}, "do_sample: expected a bool, got int"),
        ({"max_new_tokens": 0}, "max_new_tokens: got 0"),
        ({"max_length": "long"}, "max_length: expected an int"),
    ],
)  # fmt: skip
def test_a_file_that_asks_for_what_is_not_there(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    model = fa.load(make(tmp_path / "m", generation_config=values))
    with pytest.raises((ValueError, TypeError), match=message) as raised:
        model.generate("a", max_new_tokens=None if "max_length" in values or "max_new_tokens" in values else 1)
    assert "generation_config.json" in str(raised.value)


# ---- options that cannot be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stop": ""}, ValueError, "stop: an empty string"),
        ({"stop": ["a", ""]}, ValueError, "stop: an empty string"),
        ({"stop": [1]}, TypeError, "stop: expected str, got int"),
        ({"stop": 5}, TypeError, "stop: expected a str or a list"),
        ({"temperature": -0.1}, ValueError, "temperature: got -0.1"),
        ({"temperature": math.nan}, ValueError, "temperature: got nan"),
        ({"temperature": math.inf}, ValueError, "temperature: got inf"),
        ({"temperature": "1"}, TypeError, "temperature: expected a number"),
        ({"top_k": -1}, ValueError, "top_k: got -1"),
        ({"top_k": 2.5}, TypeError, "top_k: expected an integer"),
        ({"top_p": 0}, ValueError, "top_p: got 0"),
        ({"top_p": 1.5}, ValueError, "top_p: got 1.5"),
        ({"min_p": -0.5}, ValueError, "min_p: got -0.5"),
        ({"seed": -1}, ValueError, "seed: got -1"),
        ({"seed": 2**64}, ValueError, "seed: got 18446744073709551616"),
        ({"seed": 1.0}, TypeError, "seed: expected an integer"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens: got 0"),
        ({"max_new_tokens": True}, TypeError, "max_new_tokens: expected an int"),
        ({"max_new_tokens": 200}, ValueError, "and 200 new ones are too many: the context of the model has 96"),
        ({"max_new_tokens": 2, "min_new_tokens": 3}, ValueError, "min_new_tokens: got 3, more than max_new_tokens"),
        ({"n": 0, "temperature": 1}, ValueError, "n: got 0"),
        ({"n": 2}, ValueError, "n: got 2, but without sampling"),
        ({"logprobs": -1}, ValueError, "logprobs: got -1"),
        ({"logprobs": VOCAB + 1}, ValueError, "logprobs: got"),
        ({"logit_bias": {VOCAB: 1.0}}, ValueError, "logit_bias"),
        ({"logit_bias": [1]}, TypeError, "logit_bias: expected a mapping"),
        ({"stop_token_ids": [VOCAB]}, ValueError, "stop_token_ids: got"),
        ({"stop_token_ids": ["a"]}, TypeError, "stop_token_ids: expected an integer"),
        ({"ignore_eos": 1}, TypeError, "ignore_eos: expected a bool"),
        ({"do_sample": "yes"}, TypeError, "do_sample: expected"),
        ({"do_sample": False, "temperature": 0.5}, ValueError, "do_sample=False and temperature=0.5"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"kv_dtype": "int3"}, ValueError, "kv_dtype: got 'int3'"),
        ({"max_tokens": 2, "max_new_tokens": 3}, ValueError, "max_tokens: got 2 beside max_new_tokens=3"),
        ({"xtc_magic": 1}, TypeError, r"generate\(\) got an unexpected option 'xtc_magic'"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(model: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model.generate("a", **{"max_new_tokens": 2, **options} if "max_tokens" not in options else options)


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        ("", ValueError, "prompts: the text has no tokens"),
        (["a", ""], ValueError, r"prompts\[1\]: the text has no tokens"),
        ([["a"]], TypeError, "got dtype"),
        ([[]], ValueError, r"prompts\[0\]: no tokens"),
        ([[1.5]], TypeError, "got dtype float64"),
        ([VOCAB], ValueError, f"got {VOCAB}, expected 0 to {VOCAB - 1}"),
        ([-1], ValueError, "got -1"),
        ("a" * 96, ValueError, "prompts: 96 tokens leave no room: the context of the model has 96"),
        (["a", "b" * 200], ValueError, r"prompts\[1\]: 200 tokens leave no room"),
        ("\ud800", ValueError, "prompts: .*surrogate"),
        (b"bytes", TypeError, "prompts: expected a str, token ids"),
        (7, TypeError, "prompts: expected a str"),
        (None, TypeError, "prompts: expected a str"),
    ],
)
def test_prompts_that_cannot_be(model: Any, prompts: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model.generate(prompts, max_new_tokens=2)


def test_other_spellings(model: Any) -> None:
    expected = model.generate("a", max_new_tokens=6, min_new_tokens=2, stop="zz", repetition_penalty=1.5, n=2, **DRAWN)
    other = {"max_tokens": 6, "min_tokens": 2, "stop_strings": ["zz"], "repeat_penalty": 1.5, "num_return_sequences": 2}
    assert model.generate("a", **other, **DRAWN) == expected
    assert model.generate("a", max_new_tokens=90, max_time=1e-9)[0].finish_reason == "timeout"


def test_drafts_by_their_other_name(model: Any) -> None:
    """Which has a number; that there are drafts, and none of them, is said by ours alone."""

    def told(**options: Any) -> Any:
        made = model.generate("a", max_new_tokens=2, **options)[0]
        assert model.stream("a", max_new_tokens=2, **options).result() == made
        return made.settings["draft"]

    assert (told(), told(draft=None), told(draft=5)) == ("auto", None, 5)
    name = "prompt_lookup_num_tokens"
    assert (told(**{name: 3}), told(**{name: 3, "draft": "auto"})) == (3, 3)
    assert (told(**{name: None}), told(**{name: None, "draft": None}), told(**{name: None, "draft": 5})) == (
        "auto",
        None,
        5,
    )
    for other in (5, None, "prompt_lookup"):
        for call in (model.generate, model.stream):
            with pytest.raises(ValueError, match=f"{name}: got 3 beside draft="):
                call("a", max_new_tokens=2, draft=other, **{name: 3})
    for wrong, error in ((0, ValueError), (65, ValueError), (2.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="draft: "):
            model.generate("a", max_new_tokens=2, **{name: wrong})


def test_without_a_tokenizer(tmp_path: Path) -> None:
    folder = tiny_decoders.make(tmp_path / "m", "llama")
    model = fa.load(folder)
    result = model.generate([1, 2, 3], max_new_tokens=3)[0]
    assert result.text is None and len(result.token_ids) <= 3
    for call in (lambda: model.generate("a"), lambda: model.stream([1]), lambda: model.score("a"),
                 lambda: model.generate([1], stop="a", max_new_tokens=1)):  # fmt: skip
        with pytest.raises(ValueError, match="needs the tokenizer of the model"):
            call()


def test_a_model_without_a_head(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    model: Any = fa.load(folder, head="none")
    for call in (lambda: model.generate("a"), lambda: model.stream("a"), lambda: model.score("a")):
        with pytest.raises(ValueError, match="no language model's head"):
            call()


# ---- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, DRAWN], ids=str)
def test_a_stream_is_the_text_in_pieces(model: Any, options: dict[str, Any]) -> None:
    for prompt in PROMPTS:
        expected = model.generate(prompt, max_new_tokens=40, ignore_eos=True, **options)[0]
        stream = model.stream(prompt, max_new_tokens=40, ignore_eos=True, **options)
        pieces = list(stream)
        assert all(pieces) and "".join(pieces) == expected.text
        assert stream.result() == expected
        some = model.stream(prompt, max_new_tokens=40, ignore_eos=True, **options)
        next(some)
        assert some.result() == expected


def test_a_stream_that_is_cancelled(model: Any) -> None:
    stream = model.stream("Hello", max_new_tokens=80, ignore_eos=True, **DRAWN)
    first = next(stream)
    stream.cancel()
    assert "".join(stream) == ""
    result = stream.result()
    assert result.finish_reason == "cancelled" and result.text == first and 1 <= len(result.token_ids) < 80
    stream.cancel()
    assert stream.result() == result
    unused = model.stream("Hello", max_new_tokens=80)
    unused.cancel()
    assert unused.result().token_ids == () and unused.result().finish_reason == "cancelled"


def test_two_prompts_are_no_stream(model: Any) -> None:
    with pytest.raises(ValueError, match="prompt: 2 prompts, expected one"):
        model.stream(["a", "b"])
    with pytest.raises(ValueError, match="n: got 2, expected 1"):
        model.stream("a", n=2, temperature=1)


def test_many_streams_at_once(model: Any) -> None:
    expected = [model.generate(prompt, max_new_tokens=20, **DRAWN)[0] for prompt in PROMPTS]
    streams = [model.stream(prompt, max_new_tokens=20, **DRAWN) for prompt in PROMPTS]
    found: list[Any] = [None] * len(streams)

    def drain(i: int) -> None:
        found[i] = streams[i].result()

    threads = [threading.Thread(target=drain, args=(i,)) for i in range(len(streams))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


# ---- scores ----------------------------------------------------------------------------------------------------------


def test_scores_are_the_log_probabilities_of_the_tokens(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["Hello, world.", "東京", "x" * 90, "a"]
    scores = model.score(texts)
    for text, score in zip(texts, scores, strict=True):
        ids = model.tokenizer.encode(text)
        assert list(score.token_ids) == ids and score.logprobs[0] is None and len(score.logprobs) == len(ids)
        logits = model([ids]).logits[0].astype(np.float64)
        raw = logits - logits.max(1, keepdims=True)
        raw -= np.log(np.exp(raw).sum(1, keepdims=True))
        expected = raw[np.arange(len(ids) - 1), ids[1:]]
        assert np.abs(np.array(score.logprobs[1:], float) - expected).max(initial=0) < 1e-5
        assert score.total == math.fsum(score.logprobs[1:])
        if len(ids) > 1:
            assert abs(score.perplexity - math.exp(-expected.mean())) < 1e-5 * score.perplexity
        else:
            assert math.isnan(score.perplexity)
    alone = [model.score(text)[0] for text in texts[:3]]
    assert alone == scores[:3]
    assert model.score([model.tokenizer.encode(texts[0])], num_threads=1) == scores[:1]
    monkeypatch.setattr(scoring, "STEP_ROWS", 7)
    assert model.score(texts)[:3] == scores[:3]


def test_a_score_agrees_with_generation(model: Any) -> None:
    result = model.generate("Hello", max_new_tokens=5, logprobs=0, ignore_eos=True)[0]
    ids = [*model.tokenizer.encode("Hello"), *result.token_ids]
    assert model.score(ids)[0].logprobs[-5:] == tuple(value for _, value, _ in result.logprobs)


@pytest.mark.parametrize("texts", ["", ["a", ""], "a" * 97, [[VOCAB]]], ids=repr)
def test_texts_that_have_no_score(model: Any, texts: Any) -> None:
    with pytest.raises(ValueError, match="texts"):
        model.score(texts)
    with pytest.raises(fa.DeadlineExceeded):
        model.score(["abc"] * 50, timeout=1e-9)


# ---- time ------------------------------------------------------------------------------------------------------------


def test_a_timeout_returns_what_there_is(model: Any) -> None:
    expected = model.generate("Hello", max_new_tokens=90, ignore_eos=True)[0]
    ended = 0
    for timeout in (1e-9, 0.002, 0.005):
        begin = time.monotonic()
        result = model.generate("Hello", max_new_tokens=90, ignore_eos=True, timeout=timeout)[0]
        assert time.monotonic() - begin < timeout + 1
        ended += result.finish_reason == "timeout"
        assert result.token_ids == expected.token_ids[: len(result.token_ids)]
        assert expected.text.startswith(result.text.rstrip("\ufffd"))
    assert ended
    assert model.generate("Hello", max_new_tokens=90, ignore_eos=True)[0] == expected


def test_prompts_wait_for_their_turn(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """More prompts than run together: the order of results is that of the prompts, and a timeout ends them all."""
    monkeypatch.setattr(requests, "MOST_RUNNING", 3)
    many = [f"{i} is a number" for i in range(20)]
    results = model.generate(many, max_new_tokens=4, ignore_eos=True)
    assert results[13] == model.generate(many[13], max_new_tokens=4, ignore_eos=True)[0]
    late = model.generate(many, max_new_tokens=50, ignore_eos=True, timeout=1e-9)
    assert {(one.finish_reason, one.token_ids) for one in late} == {("timeout", ())}
