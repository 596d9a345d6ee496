# SPDX-License-Identifier: MIT
"""Texts of beams: stop strings, options and what they exclude, what generation_config.json says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import fastattn as fa

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCAB = len(LETTERS) + 1


def make(folder: Path, **stored: Any) -> Any:
    """A model with a token for each byte, and one that ends texts."""
    tiny_decoders.make(folder, "llama", vocab_size=VOCAB, eos_token_id=VOCAB - 1, bos_token_id=VOCAB - 1)
    codec = Tokenizer(models.BPE({letter: i for i, letter in enumerate(LETTERS)}, []))
    codec.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    codec.decoder = decoders.ByteLevel()
    codec.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    codec.save(str(folder / "tokenizer.json"))
    if stored:
        (folder / "generation_config.json").write_text(json.dumps(stored))
    return fa.load(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make(tmp_path_factory.mktemp("beams") / "model")


BEAMS: dict[str, Any] = {"num_beams": 4, "n": 4, "max_new_tokens": 12, "ignore_eos": True}


def test_the_text_is_that_of_the_tokens(model: Any) -> None:
    made = model.generate(["Hello", "a b"], **BEAMS)
    assert len({one.text for one in made[:4]}) == 4
    for i, one in enumerate(made):
        assert one.text == model.tokenizer.decode(one.token_ids) and one.finish_reason == "length"
        assert (one.prompt_tokens, one.cached_tokens) == ((5, 3)[i // 4], 0 if i % 4 == 0 else (5, 3)[i // 4])
    assert all(a.score >= b.score for a, b in zip(made[:3], made[1:4], strict=True))
    one = model.generate("Hello", num_beams=1, max_new_tokens=12, ignore_eos=True)
    assert one == model.generate("Hello", max_new_tokens=12, ignore_eos=True) and one[0].score is None


@pytest.mark.parametrize("include", [False, True])
def test_the_end_of_the_model_and_ids(model: Any, include: bool) -> None:
    options = {**BEAMS, "include_stop_str_in_output": include}
    free = model.generate("Hello", **options)
    end = free[0].token_ids[3]
    made = model.generate("Hello", stop_token_ids=[end], **options)
    assert any(one.finish_reason == "stop" for one in made)
    for one in made:
        assert end not in one.token_ids[:-1]
        ended = one.token_ids[-1] == end
        assert (one.finish_reason, one.stop) == (("stop", end) if ended else ("length", None))
        assert one.text == model.tokenizer.decode(one.token_ids[: -1 if ended and not include else None])
    late = model.generate("Hello", stop_token_ids=[end], min_new_tokens=9, **options)
    assert all(end not in one.token_ids[:8] for one in late)


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("include", [False, True])
def test_stop_strings_end_beams(model: Any, length: int, include: bool) -> None:
    """A beam whose text has the string is complete, like one with the token that ends texts; those that go on are not
    the same as without."""
    options = {**BEAMS, "early_stopping": True, "length_penalty": 0.0, "include_stop_str_in_output": include}
    free = model.generate(["ab", "Hello"], **options)
    stop = next(one.text[at : at + length] for one in free for at in (3, 4, 5) if one.text[at : at + length].isascii())
    made = model.generate(["ab", "Hello"], stop=["never", stop], **options)
    stopped = [one for one in made if one.finish_reason == "stop"]
    assert stopped
    for one in made:
        whole = model.tokenizer.decode(one.token_ids)
        if one.finish_reason == "stop":
            assert one.stop == stop and whole.endswith(stop) and stop not in whole[: -len(stop)]
            assert one.text == (whole if include else whole[: -len(stop)])
        else:
            assert stop not in whole and one.text == whole and len(one.token_ids) == 12
    if length == 1:  # then it is one token, and a search by tokens is the same
        token = model.tokenizer.encode(stop)[0]
        by_id = model.generate(["ab", "Hello"], stop_token_ids=[token], **options)
        assert [(one.token_ids, one.score) for one in by_id] == [(one.token_ids, one.score) for one in made]


def test_beams_of_the_file(tmp_path: Path, model: Any) -> None:
    """Which sampling of the file does not concern, and options of the call win over."""
    stored = make(
        tmp_path / "m", num_beams=3, length_penalty=0.5, early_stopping=True, num_return_sequences=2, do_sample=True,
        temperature=0.7, top_p=0.9, num_beam_groups=1, diversity_penalty=0.0,
    )  # fmt: skip
    made = stored.generate("Hello", max_new_tokens=5)
    told = made[0].settings
    expected = model.generate("Hello", max_new_tokens=5, num_beams=3, length_penalty=0.5, early_stopping=True, n=2)
    assert made == expected and len(made) == 2
    assert {name: told[name] for name in ("num_beams", "length_penalty", "early_stopping", "do_sample", "n")} == {
        "num_beams": 3, "length_penalty": 0.5, "early_stopping": True, "do_sample": False, "n": 2,
    }  # fmt: skip
    other = stored.generate("Hello", max_new_tokens=5, num_beams=2, length_penalty=1, early_stopping="never", n=1)
    assert other == model.generate("Hello", max_new_tokens=5, num_beams=2, early_stopping="never")
    assert len(stored.generate("Hello", max_new_tokens=5, num_beams=1, n=1, temperature=0.5)) == 1
    with pytest.raises(ValueError, match="num_beams: 3 beams and top_k=5: beams are searched, tokens are not drawn"):
        stored.generate("Hello", max_new_tokens=5, top_k=5)
    with pytest.raises(ValueError, match="num_beams: got 3, expected 1: a stream is"):
        stored.stream("Hello", n=1)


def test_scores_that_would_be_normalised_once_more(tmp_path: Path, model: Any) -> None:
    """As the file says, which is refused by its name; without beams no token depends on it."""
    stored = make(tmp_path / "m", renormalize_logits=True)
    for options in ({}, {"num_beams": 1}, {"temperature": 0.7}, {"repetition_penalty": 1.5}):
        call = {"max_new_tokens": 5, **options}
        assert stored.generate("Hello", **call) == model.generate("Hello", **call)
    for options in ({"num_beams": 2}, {"num_beams": 3, "repetition_penalty": 1.5}):
        with pytest.raises(ValueError, match="generation_config.json: renormalize_logits is true: .*with [23] beams"):
            stored.generate("Hello", max_new_tokens=5, **options)
    by_file = make(tmp_path / "beams", renormalize_logits=True, num_beams=4)
    with pytest.raises(ValueError, match="generation_config.json: renormalize_logits is true: .*with 4 beams"):
        by_file.generate("Hello", max_new_tokens=5)
    assert by_file.generate("Hello", max_new_tokens=5, num_beams=1) == model.generate("Hello", max_new_tokens=5)
    off = make(tmp_path / "off", renormalize_logits=False, num_beams=4)
    assert off.generate("Hello", max_new_tokens=5) == model.generate("Hello", max_new_tokens=5, num_beams=4)


@pytest.mark.parametrize("name", ["num_return_sequences", "n"])
def test_other_spellings_and_numbers(model: Any, name: str) -> None:
    expected = model.generate("Hello", max_new_tokens=4, num_beams=3, n=2, length_penalty=2.0)
    options = {
        name: np.int64(2),
        "num_beams": np.int32(3),
        "length_penalty": np.float32(2),
        "early_stopping": np.False_,
    }
    assert model.generate("Hello", max_new_tokens=4, **options) == expected
    assert model.generate("Hello", max_new_tokens=4, temperature=0, do_sample=False, **options) == expected


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_beams": 0}, ValueError, r"num_beams: got 0, expected 1 \(no beams\) to 1024"),
        ({"num_beams": -3}, ValueError, "num_beams: got -3"),
        ({"num_beams": 10**30}, ValueError, "num_beams: got an integer of many digits"),
        ({"num_beams": 2.0}, TypeError, "num_beams: expected an integer, got float"),
        ({"num_beams": True}, TypeError, "num_beams: expected an integer, got bool"),
        ({"num_beams": "2"}, TypeError, "num_beams: expected an integer, got str"),
        ({"num_beams": 2, "n": 3}, ValueError, "n: got 3, more than num_beams, 2"),
        ({"n": 3}, ValueError, "n: got 3, but without sampling all answers are one"),
        ({"num_beams": 2, "do_sample": True}, ValueError, "num_beams: 2 beams and do_sample=True: beams are searched"),
        ({"num_beams": 2, "temperature": 0.5}, ValueError, "num_beams: 2 beams and temperature=0.5"),
        ({"num_beams": 2, "min_p": 0.1}, ValueError, "num_beams: 2 beams and min_p=0.1"),
        ({"num_beams": 2, "length_penalty": "1"}, TypeError, "length_penalty: expected a number, got str"),
        ({"num_beams": 2, "length_penalty": float("nan")}, ValueError, "length_penalty: got nan"),
        ({"num_beams": 2, "length_penalty": float("inf")}, ValueError, "length_penalty: got inf"),
        ({"num_beams": 2, "length_penalty": 10**400}, ValueError, "length_penalty: got inf"),
        ({"num_beams": 2, "length_penalty": False}, TypeError, "length_penalty: expected a number, got bool"),
        ({"num_beams": 2, "early_stopping": "always"}, ValueError, "early_stopping: got 'always'"),
        ({"num_beams": 2, "early_stopping": 1}, TypeError, "early_stopping: expected True, False"),
        ({"length_penalty": 2.0}, ValueError, "length_penalty: got 2.0, but it has a meaning only with num_beams"),
        ({"early_stopping": True}, ValueError, "early_stopping: got True, but it has a meaning only with num_beams"),
        ({"num_beams": 1, "early_stopping": "never"}, ValueError, "early_stopping: got 'never', but it has a meaning"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(model: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model.generate("Hello", max_new_tokens=3, **options)


def test_neutral_options_without_beams(model: Any) -> None:
    plain = model.generate("Hello", max_new_tokens=3)
    assert model.generate("Hello", max_new_tokens=3, num_beams=1, length_penalty=1.0, early_stopping=False) == plain
    with pytest.raises(ValueError, match="num_beams: got 2, expected 1: a stream is a text as it comes"):
        model.stream("Hello", num_beams=2)
    with pytest.raises(TypeError, match="unexpected option 'num_beam'"):
        model.stream("Hello", num_beam=2)


@pytest.mark.parametrize("at", range(8))
def test_a_text_that_has_two_ends(model: Any, at: int) -> None:
    """Also in the middle of a character: copies of a decoder go on by themselves."""
    ids, others = model.tokenizer.encode("aé東b"), model.tokenizer.encode("x🙂y")
    decoder = model.tokenizer.incremental()
    text = "".join(map(decoder.push, ids[:at]))
    other = decoder.copy()
    first = text + "".join(map(decoder.push, ids[at:])) + decoder.finish()
    second = text + "".join(map(other.push, others)) + other.finish()
    assert (first, second) == (model.tokenizer.decode(ids), model.tokenizer.decode(ids[:at] + others))
