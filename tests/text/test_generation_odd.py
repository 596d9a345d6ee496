# SPDX-License-Identifier: MIT
"""Generation as programs call it that nobody here wrote: arrays of other libraries, odd files, stops at the edges."""

from __future__ import annotations

import array
import collections
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import fastattn as fa

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<|start|>", "<|end|>"]
VOCAB = len(LETTERS) + len(SPECIAL)
IDS = [40, 41, 42]


def make(folder: Path, **files: Any) -> Path:
    """A token for each byte, and two special ones."""
    tiny_decoders.make(folder, "llama", vocab_size=VOCAB, eos_token_id=VOCAB - 1, bos_token_id=VOCAB - 2)
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(LETTERS)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    made.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return fa.load(make(tmp_path_factory.mktemp("odd") / "model"))


# ---- prompts ---------------------------------------------------------------------------------------------------------


class Lent:
    """An array that is only lent, by DLPack."""

    def __init__(self, values: Any) -> None:
        self.values = np.array(values)

    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.values.__dlpack_device__()


class Like:
    """Something that NumPy can make an array of."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(IDS, dtype)


SAME: dict[str, Any] = {
    "tuple": tuple(IDS), "range": range(40, 43), "array.array": array.array("h", IDS),
    "memoryview": memoryview(np.array(IDS)), "uint8": np.array(IDS, np.uint8), "uint64": np.array(IDS, np.uint64),
    "big-endian": np.array(IDS, ">i4"),
    "backwards": np.array(IDS[::-1])[::-1], "every other": np.arange(80, 86)[::2] // 2,
    "read-only": np.frombuffer(np.array(IDS, np.int16).tobytes(), np.int16), "objects": np.array(IDS, object),
    "NumPy's integers": [np.int64(40), np.uint8(41), 42], "deque": collections.deque(IDS), "DLPack": Lent(IDS),
    "rows by DLPack": Lent([IDS]), "a list of DLPack": [Lent(IDS)], "__array__": Like(),
    "a list of __array__": [Like()],
    "a row of an array": np.array([IDS]), "a text": None, "NumPy's text": None, "an array of texts": None,
    "objects that are texts": None,
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_prompts_of_other_kinds(model: Any, name: str) -> None:
    text = model.tokenizer.decode(IDS)
    texts = {"a text": text, "NumPy's text": np.str_(text), "an array of texts": np.array([text]),
             "objects that are texts": np.array([text], object)}  # fmt: skip
    prompt = texts.get(name, SAME[name])
    options = {"max_new_tokens": 4, "ignore_eos": True}
    (expected,) = model.generate(IDS, **options)
    assert model.generate(prompt, **options) == [expected]
    assert model.stream(prompt, **options).result() == expected
    assert model.score(prompt) == model.score(IDS)


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "a generator": ((one for one in ["a"]), TypeError, "got generator"),
    "a dict": ({"a": 1}, TypeError, "got dict"),
    "a set": ({"a"}, TypeError, "got set"),
    "bytearray": (bytearray(b"abc"), TypeError, "got bytearray"),
    "bools": ([True, False], TypeError, "got dtype bool"),
    "NumPy's bools": (np.array([True]), TypeError, "got dtype bool"),
    "floats": ([1.0, 2.0], TypeError, "got dtype float64"),
    "an array of floats": (np.array([1.0]), TypeError, "got dtype float64"),
    "complex": (np.array([1j]), TypeError, "got dtype complex128"),
    "dates": (np.array(["2020-01-01"], "M8[D]"), TypeError, "got dtype datetime64"),
    "ids and a text": ([1, "a"], TypeError, "got dtype"),
    "ids and None": ([1, None], TypeError, "got dtype object"),
    "a text and None": (["a", None], TypeError, r"\[1\]: expected a str or token ids .*got NoneType"),
    "a text and a number": (["a", 3], TypeError, r"\[1\]: expected a str or token ids .*got int"),
    "a text and bytes": (["a", b"b"], TypeError, r"\[1\]"),
    "nested too deep": ([[[1, 2]]], ValueError, r"\[0\]: shape \(1, 2\)"),
    "rows of several lengths": ([[[1, 2], [3]]], ValueError, r"\[0\]: list is no array of token ids"),
    "three dimensions": (np.zeros((1, 2, 3), int), ValueError, r"\[0\]: shape \(2, 3\)"),
    "no dimensions": (np.array(3), TypeError, "without dimensions"),
    "no dimensions, a text": (np.array("a"), TypeError, "without dimensions"),
    "rows without ids": (np.zeros((2, 0), int), ValueError, r"\[0\]: no tokens"),
    "no ids": (np.zeros(0, int), ValueError, "no tokens"),
    "an id of many bits": ([10**30], ValueError, "an integer of more than 63 bits"),
    "2**63": ([2**63], ValueError, "got 9223372036854775808, expected 0 to 257"),
    "-(2**63)": ([-(2**63)], ValueError, "expected 0 to 257"),
    "the first id beyond": (np.array([VOCAB], np.uint16), ValueError, "got 258, expected 0 to 257"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_prompt(model: Any, name: str) -> None:
    prompts, error, message = REFUSED[name]
    with pytest.raises(error, match=f"^prompts.*{message}"):
        model.generate(prompts, max_new_tokens=2)
    if not isinstance(prompts, Iterator):
        with pytest.raises(error, match=f"^texts.*{message}"):
            model.score(prompts)


# ---- options ---------------------------------------------------------------------------------------------------------

NUMPY = {
    "max_new_tokens": np.int64(3), "min_new_tokens": np.int32(1), "seed": np.uint64(2**64 - 1), "top_k": np.int16(3),
    "temperature": np.float32(0.75), "top_p": np.float64(0.5), "min_p": np.float16(0.125), "logprobs": np.uint8(1),
    "repetition_penalty": np.float32(1.5), "presence_penalty": np.int8(1), "frequency_penalty": np.float32(0.25),
    "ignore_eos": np.bool_(True), "num_threads": np.int64(1), "timeout": np.float64(50), "n": np.int64(2),
    "include_stop_str_in_output": np.bool_(False), "do_sample": np.bool_(True), "stop": np.str_("zz"),
    "stop_token_ids": np.array([9, 4]), "logit_bias": {np.int64(5): np.float32(2.5), np.uint8(6): -math.inf},
}  # fmt: skip


def test_options_of_numpy(model: Any) -> None:
    """They are what Python's numbers are, and what a result tells of them can be written as JSON."""
    plain = {name: value.tolist() for name, value in NUMPY.items() if isinstance(value, (np.generic, np.ndarray))}
    plain |= {"stop": "zz", "logit_bias": {5: 2.5, 6: -math.inf}}
    found = model.generate("ab", **NUMPY)
    assert found == model.generate("ab", **plain) and len(found) == 2
    told = json.loads(json.dumps(found[0].settings))
    assert (told["logit_bias"], told["stop_token_ids"], told["stop"]) == ({"5": 2.5, "6": -math.inf}, [4, 9], ["zz"])
    assert type(found[0].seed) is int and found[0].seed == 2**64 - 1


def test_what_a_result_tells_is_its_own(model: Any) -> None:
    bias, stop = {5: 1.0}, ["zz"]
    (result,) = model.generate("ab", max_new_tokens=1, logit_bias=bias, stop=stop)
    bias[6], stop[0] = 2.0, "yy"
    assert (result.settings["logit_bias"], result.settings["stop"]) == ({5: 1.0}, ["zz"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"logit_bias": {"5": 1.0}}, TypeError, "logit_bias: a token: expected an integer, got str"),
        ({"logit_bias": {True: 1.0}}, TypeError, "logit_bias: a token: expected an integer, got bool"),
        ({"logit_bias": {5: math.nan}}, ValueError, r"logit_bias\[5\]: got nan"),
        ({"logit_bias": {5: math.inf}}, ValueError, r"logit_bias\[5\]: got inf"),
        ({"logit_bias": dict.fromkeys(range(VOCAB), -math.inf)}, ValueError, "logit_bias, .*no token is left"),
        ({"logit_bias": dict.fromkeys(range(VOCAB - 1), -math.inf), "min_new_tokens": 1}, ValueError, "no token is"),
        ({"stop_token_ids": range(VOCAB), "min_new_tokens": 1}, ValueError, "min_new_tokens: no token is left"),
        ({"stop_token_ids": 3}, TypeError, "stop_token_ids: expected token ids, got int"),
        ({"stop_token_ids": np.array([[3]])}, TypeError, "stop_token_ids: expected token ids, got ndarray"),
        ({"stop_token_ids": [10**5000]}, ValueError, "stop_token_ids: got an integer of many digits"),
        ({"max_new_tokens": 10**5000}, ValueError, "max_new_tokens: got an integer of many digits"),
        ({"n": -(10**5000)}, ValueError, "n: got an integer of many digits"),
        ({"top_k": np.True_}, TypeError, "top_k: expected an integer, got bool"),
        ({"temperature": np.True_}, TypeError, "temperature: expected a number"),
        ({"temperature": 10**400}, ValueError, "temperature: got inf"),
        ({"temperature": np.array(0.5)}, TypeError, "temperature: expected a number, got ndarray"),
        ({"logprobs": True}, TypeError, "logprobs: expected an integer, got bool"),
        ({"stop": b"a"}, TypeError, "stop: expected a str or a list of str, got bytes"),
        ({"stop": {"a": 1}}, TypeError, "stop: expected a str or a list of str, got dict"),
        ({"stop": {"a", 1}}, TypeError, "stop: expected str, got int"),
        ({"timeout": math.nan}, ValueError, "timeout: got nan"),
        ({"timeout": -math.inf}, ValueError, "timeout: got -"),
        ({"timeout": True}, TypeError, "timeout: expected seconds or None, got bool"),
        ({"num_threads": 0}, ValueError, "num_threads must be at least 1"),
        ({"num_threads": 1.0}, TypeError, "num_threads must be an integer"),
    ],
)  # fmt: skip
def test_options_that_are_refused(model: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model.generate("a", **{"max_new_tokens": 2, **options})
    with pytest.raises(error, match=message):
        list(model.stream("a", **{"max_new_tokens": 2, **options}))
    if set(options) <= {"timeout", "num_threads"}:
        with pytest.raises(error, match=message):
            model.score("ab", **options)


def test_any_time_there_may_be(model: Any) -> None:
    expected = model.generate("a", max_new_tokens=2)
    for timeout in (math.inf, 1e18, 10**400, np.float32(1e9), 100):
        assert model.generate("a", max_new_tokens=2, timeout=timeout) == expected
        assert model.score("ab", timeout=timeout) == model.score("ab")
    for timeout in (1e-300, 5e-324, 1e-9):
        (late,) = model.generate("a", max_new_tokens=2, timeout=timeout)
        assert (late.finish_reason, late.token_ids, late.text) == ("timeout", (), "")
        assert model.stream("a", max_new_tokens=2, timeout=timeout).result() == late
        for texts in ("ab", ["a"], ["a", "bc"]):
            with pytest.raises(fa.DeadlineExceeded):
                model.score(texts, timeout=timeout)


# ---- ends ------------------------------------------------------------------------------------------------------------


def answer(model: Any, **options: Any) -> Any:
    """A text that is drawn, so that its letters differ."""
    given = {"max_new_tokens": 30, "ignore_eos": True, "temperature": 1.3, "top_k": 0, "seed": 7, **options}
    return model.generate("ab", **given)[0]


def test_stops_at_the_edges(model: Any) -> None:
    whole = answer(model)
    assert answer(model, stop=whole.text).text == ""  # nothing is left before it
    assert answer(model, stop=whole.text, include_stop_str_in_output=True).text == whole.text
    assert answer(model, stop="ab").token_ids == whole.token_ids, "the prompt's own text"
    border = "b" + whole.text[0]
    assert answer(model, stop=[border, "ab" + whole.text[:2]]).text == whole.text, "over the end of the prompt"
    assert answer(model, stop="x" * 10_000).text == whole.text
    assert answer(model, stop=whole.text + "x").text == whole.text, "the rest is shown when it does not come"
    assert answer(model, stop=[f"{i} never" for i in range(3000)]).text == whole.text
    assert answer(model, stop=[]).text == whole.text
    assert answer(model, stop="\ud800").text == whole.text, "no text has it"


def test_stops_in_any_collection(model: Any) -> None:
    whole = answer(model)
    stops = [whole.text[5:7], whole.text[9:10]]
    found = [answer(model, stop=kind(stops)) for kind in (list, tuple, set, frozenset)]
    assert [(one.text, one.stop) for one in found] == [(found[0].text, found[0].stop)] * 4
    assert found[2].settings["stop"] == sorted(stops) and len(found[0].text) < len(whole.text)


def test_a_token_that_ends_may_be_shown(model: Any) -> None:
    whole = answer(model)
    end = whole.token_ids[4]
    cut = whole.token_ids.index(end)
    for include in (False, True):
        shown = answer(model, stop_token_ids=[end], include_stop_str_in_output=include)
        assert (shown.token_ids, shown.stop) == (whole.token_ids[: cut + 1], end)
        assert shown.text == model.tokenizer.decode(whole.token_ids[: cut + include])


def test_the_context_to_its_last_token(model: Any) -> None:
    for prompt, new in ((95, 1), (50, 46), (1, 95)):
        (full,) = model.generate("x" * prompt, max_new_tokens=new, ignore_eos=True)
        assert (len(full.token_ids), full.finish_reason) == (new, "length")
        assert model.generate("x" * prompt, ignore_eos=True)[0].token_ids == full.token_ids
        with pytest.raises(ValueError, match=f"prompts: {prompt} tokens and {new + 1} new ones are too many"):
            model.generate("x" * prompt, max_new_tokens=new + 1)
    assert len(model.score("x" * 96)[0].token_ids) == 96


def test_answers_lie_behind_their_prompts(model: Any) -> None:
    options = {"max_new_tokens": 6, "ignore_eos": True, "temperature": 1.0, "seed": 3}
    several = model.generate(["a", "bcd", "e"], n=3, **options)
    assert several == [one for prompt in ("a", "bcd", "e") for one in model.generate(prompt, n=3, **options)]


def test_a_prompt_of_special_tokens(model: Any) -> None:
    (result,) = model.generate("<|start|><|end|>", max_new_tokens=3, ignore_eos=True)
    assert result.prompt_tokens == 2 and len(result.token_ids) == 3
    assert result == model.generate([VOCAB - 2, VOCAB - 1], max_new_tokens=3, ignore_eos=True)[0]


# ---- files -----------------------------------------------------------------------------------------------------------

FILES: dict[str, tuple[Any, str | None]] = {
    "empty": ({}, None),
    "nulls": ({"eos_token_id": None, "temperature": None, "top_k": None, "max_length": None}, None),
    "no ends": ({"eos_token_id": []}, None),
    "an end that never comes beside one": ({"eos_token_id": [VOCAB - 1, VOCAB + 7, 10**30]}, None),
    "an end beyond": ({"eos_token_id": VOCAB}, "eos_token_id is 258, the model has ids below 258"),
    "ends beyond": ({"eos_token_id": [VOCAB, 10**30]}, "eos_token_id is"),
    "an end below": ({"eos_token_id": [VOCAB - 1, -1]}, "eos_token_id is .*ids below 258"),
    "a true end": ({"eos_token_id": True}, "eos_token_id is 'True', expected ids"),
    "a text": ({"eos_token_id": "3"}, "eos_token_id is '3', expected ids"),
    "lists": ({"eos_token_id": [[3]]}, "eos_token_id"),
    "a float": ({"eos_token_id": 3.0}, "eos_token_id is '3.0', expected ids"),
    "a list": ([1], "generation_config.json"), "a number": ("3", "generation_config.json"),
    "no JSON": ("{", "generation_config.json"), "nothing": ("", "generation_config.json"),
    "NaN": ('{"do_sample": true, "temperature": NaN}', "generation_config.json"),
    "an infinite top_p": ('{"do_sample": true, "top_p": Infinity}', "generation_config.json"),
    "stops that are no texts": ({"stop_strings": [1]}, "generation_config.json.*stop_strings: expected str, got int"),
    "an empty stop": ({"stop_strings": ""}, "generation_config.json.*stop_strings: an empty string"),
    "answers that are no number": ({"num_return_sequences": "2"}, "generation_config.json.*num_return_sequences"),
    "answers without drawing": ({"num_return_sequences": 2}, "generation_config.json: num_.*: got 2, but without"),
    "a text for min_new_tokens": ({"min_new_tokens": "2"}, "generation_config.json.*min_new_tokens"),
    "more than it may": ({"min_new_tokens": 5}, "min_new_tokens: got 5, more than max_new_tokens"),
    "a huge number": ({"max_new_tokens": 10**400}, "generation_config.json: max_new_tokens is a number of 401 digits"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_odd_files(tmp_path: Path, model: Any, name: str) -> None:
    """A file that says nothing is no file; what is wrong in one is told by its name and key, in every call."""
    content, message = FILES[name]
    odd: Any = fa.load(make(tmp_path / "m", generation_config=content))
    if message is None:
        assert [one.token_ids for one in odd.generate("ab", max_new_tokens=4)] == [
            one.token_ids for one in model.generate("ab", max_new_tokens=4)
        ]
        assert odd.eos_token_ids == model.eos_token_ids
        return
    for call in (lambda: odd.generate("ab", max_new_tokens=4), lambda: odd.stream("ab", max_new_tokens=4).result()):
        with pytest.raises(ValueError, match=message):
            call()


# ---- shares ----------------------------------------------------------------------------------------------------------


SHARES = [{"top_k": 0}, {"top_k": 12, "temperature": 0.7}, {"top_p": 0.6, "top_k": 0}]


@pytest.mark.parametrize("options", SHARES, ids=str)
def test_first_tokens_come_as_often_as_they_should(model: Any, options: dict[str, Any]) -> None:
    """Chi-squared of 6000 draws by answer and seed against the softmax of the logits; far above what chance gives."""
    logits = model([IDS]).logits[0, -1].astype(np.float64) / options.get("temperature", 1.0)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")
    if options.get("top_k"):
        shares[order[options["top_k"] :]] = 0
    if "top_p" in options:
        before = np.cumsum(shares[order]) - shares[order]
        shares[order[before >= options["top_p"]]] = 0
    shares /= shares.sum()
    counts = np.zeros(VOCAB)
    drawn = 6000
    for seed in range(drawn // 200):
        given = {"temperature": 1.0, **options}
        for one in model.generate(IDS, max_new_tokens=1, n=200, seed=seed, **given):
            counts[one.token_ids[0]] += 1
    assert not counts[shares == 0].any()
    expected = shares * drawn
    common = expected >= 5
    found = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    found, wanted = found[wanted > 0], wanted[wanted > 0]
    freedom = len(found) - 1
    chi = float(((found - wanted) ** 2 / wanted).sum())
    assert freedom > 5 and chi < freedom + 5 * math.sqrt(2 * freedom), (chi, freedom)
