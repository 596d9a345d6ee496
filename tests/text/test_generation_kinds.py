# SPDX-License-Identifier: MIT
"""Options of drawing through ``generate``: strings made ids, what the file says, what results tell, what is refused."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import fastattn as fa
from fastattn.text import words
from fastattn.text.words import bad_word_ids, breaker_ids

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<|start|>", "<|end|>"]
MERGES = [("a", "b"), ("ab", "c"), ("Ġ", "ab"), ("b", ":"), (":", "Ċ")]
PIECES = [*LETTERS, "ab", "abc", "Ġab", "b:", ":Ċ"]
VOCAB = len(PIECES) + len(SPECIAL)
END = VOCAB - 1
TOKEN = {piece: i for i, piece in enumerate(PIECES)}


def make(folder: Path, with_tokenizer: bool = True, **config: Any) -> Any:
    tiny_decoders.make(folder, "llama", vocab_size=VOCAB, eos_token_id=END, bos_token_id=VOCAB - 2)
    made = Tokenizer(models.BPE(TOKEN, MERGES))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    if with_tokenizer:
        made.save(str(folder / "tokenizer.json"))
    if config:
        (folder / "generation_config.json").write_text(json.dumps(config))
    return fa.load(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make(tmp_path_factory.mktemp("kinds") / "model")


def ids(model: Any, prompt: Any = "Hello", **options: Any) -> list[int]:
    return list(model.generate(prompt, **{"max_new_tokens": 24, "ignore_eos": True, **options})[0].token_ids)


KINDS: list[dict[str, Any]] = [
    {"typical_p": 0.6}, {"xtc": (0.5, 0.003)}, {"mirostat": {"version": 1, "tau": 4}}, {"mirostat": 2},
    {"dry": {"multiplier": 3, "allowed_length": 1}}, {"no_repeat_ngram_size": 2, "temperature": 0.3},
    {"bad_words": ["ab", [5, 6]], "top_k": 9}, {"allowed_token_ids": [5, 9, 44, 60], "no_repeat_ngram_size": 3},
]  # fmt: skip


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_one_text_whatever_is_beside_it(model: Any, options: dict[str, Any]) -> None:
    prompts = ["Hello", "ab", "ab:\nab:\nab"]
    call = {"max_new_tokens": 12, "ignore_eos": True, "seed": 3, **options}
    together = model.generate(prompts, num_threads=2, **call)
    assert together == [model.generate(prompt, num_threads=1, **call)[0] for prompt in prompts]
    assert model.stream(prompts[1], **call).result() == together[1]
    json.dumps(dict(together[0].settings))


@pytest.mark.parametrize(
    "options", [{"typical_p": 0.9}, {"xtc": [0.5, 0.1]}, {"mirostat": 2}, {"mirostat": {"tau": 3}}]
)
def test_these_say_that_tokens_are_drawn(model: Any, options: dict[str, Any]) -> None:
    assert model.generate("a", max_new_tokens=1, **options)[0].settings["do_sample"] is True
    greedy = model.generate("a", max_new_tokens=9, temperature=0, **options)[0]
    assert greedy.settings["do_sample"] is False and greedy.token_ids == tuple(ids(model, "a", max_new_tokens=9))
    with pytest.raises(ValueError, match=rf"do_sample=False and {next(iter(options))}="):
        model.generate("a", do_sample=False, **options)
    assert model.generate("a", max_new_tokens=1, dry={"multiplier": 1})[0].settings["do_sample"] is False


# ---- n-grams, words, ids ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_sequence_comes_twice(model: Any, size: int) -> None:
    prompt = np.array([5, 6, 7, 5, 6], np.int64)
    options: dict[str, Any] = {"allowed_token_ids": range(40 if size == 1 else 5)}
    made = ids(model, prompt, no_repeat_ngram_size=size, **options)
    text = [*prompt.tolist(), *made]
    grams = [tuple(text[i : i + size]) for i in range(len(text) - size + 1)]
    late = grams[len(prompt) - size + 1 :]  # those with a token of the answer
    assert all(gram not in grams[: i + len(prompt) - size + 1] for i, gram in enumerate(late))
    assert made != ids(model, prompt, **options)


def test_no_token_that_may_come_is_left(model: Any) -> None:
    with pytest.raises(ValueError, match="no_repeat_ngram_size, bad_words, .*no token is left"):
        ids(model, allowed_token_ids=[1, 2], no_repeat_ngram_size=1)
    assert sorted(ids(model, allowed_token_ids=[1, 2], no_repeat_ngram_size=1, max_new_tokens=2)) == [1, 2]


def test_bad_words_with_a_space_and_without(model: Any) -> None:
    where = "tokenizer.json"
    assert bad_word_ids("ab", model.tokenizer, VOCAB, where) == [[TOKEN["ab"]], [TOKEN["Ġab"]]]
    assert bad_word_ids(["abx", [3, 4]], model.tokenizer, VOCAB, where) == [
        [TOKEN["ab"], TOKEN["x"]], [TOKEN["Ġab"], TOKEN["x"]], [3, 4],
    ]  # fmt: skip
    only = {
        "allowed_token_ids": [TOKEN[piece] for piece in ("ab", "Ġab", "x", "y", "z")],
        "seed": 1,
        "temperature": 9.0,
    }
    free = ids(model, max_new_tokens=60, **only)
    bad = {(TOKEN["ab"], TOKEN["x"]), (TOKEN["Ġab"], TOKEN["x"])}
    assert TOKEN["y"] in free and bad & set(pairwise(free))
    made = ids(model, max_new_tokens=60, bad_words=["abx", "y"], **only)
    pairs = set(pairwise(made))
    assert TOKEN["y"] not in made and not pairs & bad and (TOKEN["z"], TOKEN["x"]) in pairs


def test_the_end_is_no_bad_word(model: Any) -> None:
    ends = {END: 100.0}
    assert ids(model, logit_bias=ends, bad_words=[[END]], ignore_eos=False) == [END]
    assert END not in ids(
        model, logit_bias=ends, bad_words=[[END], ["a"]][:1], stop_token_ids=[3], allowed_token_ids=[7]
    )
    assert ids(model, allowed_token_ids=[7, END], logit_bias=ends, ignore_eos=False) == [END]


# ---- DRY -------------------------------------------------------------------------------------------------------------


def test_breakers_are_every_token_that_holds_them_or_begins_them(model: Any) -> None:
    found = {tuple(one) for one in breaker_ids(":", model.tokenizer)}
    assert found == {(TOKEN[":"],), (TOKEN["b:"],), (TOKEN[":Ċ"],)}
    found = {tuple(one) for one in breaker_ids("b:\n", model.tokenizer)}
    assert found == {
        (TOKEN["b"], TOKEN[":Ċ"]), (TOKEN["ab"], TOKEN[":Ċ"]), (TOKEN["Ġab"], TOKEN[":Ċ"]), (TOKEN["b:"], TOKEN["Ċ"]),
    }  # fmt: skip
    assert breaker_ids("é", model.tokenizer) == [[TOKEN["Ã"], TOKEN["©"]]]  # its bytes, of which none is a character


def test_few_breakers_are_remembered(model: Any) -> None:
    """However many a service is asked for; those of before are found once."""
    texts = [f"{i:03}" for i in range(200)]
    found = [breaker_ids(text, model.tokenizer) for text in texts]
    assert breaker_ids(texts[-1], model.tokenizer) is found[-1]
    assert breaker_ids(texts[0], model.tokenizer) == found[0] and len(words._found[model.tokenizer]) == 64


def test_a_breaker_ends_what_repeats(model: Any) -> None:
    """The prompt repeats a sequence with a colon in it: with colons as breakers less is penalised."""
    prompt = "xy:zw xy:zw xy:zw xy:"
    strong = {"multiplier": 50.0, "allowed_length": 3}
    free = ids(model, prompt, dry={**strong, "sequence_breakers": []}, max_new_tokens=1, logit_bias={TOKEN["z"]: 40})
    broken = ids(model, prompt, dry=strong, max_new_tokens=1, logit_bias={TOKEN["z"]: 40})
    by_ids = ids(model, prompt, dry={**strong, "sequence_breakers": [TOKEN[":"]]}, max_new_tokens=1,
                 logit_bias={TOKEN["z"]: 40})  # fmt: skip
    assert free != [TOKEN["z"]] and broken == by_ids == [TOKEN["z"]]


def test_settings_tell_the_parts(model: Any) -> None:
    told = model.generate("a", max_new_tokens=1)[0].settings
    names = ("xtc", "mirostat", "dry", "bad_words", "allowed_token_ids")
    assert all(told[name] is None for name in names)
    assert (told["typical_p"], told["no_repeat_ngram_size"]) == (1.0, 0)
    told = model.generate("a", max_new_tokens=1, xtc=(1, 0.25), dry={"multiplier": 2}, bad_words="ab",
                          allowed_token_ids=np.array([9, 3]), no_repeat_ngram_size=4)[0].settings  # fmt: skip
    assert told["xtc"] == {"probability": 1.0, "threshold": 0.25} and told["bad_words"] == ["ab"]
    assert told["dry"] == {"multiplier": 2.0, "base": 1.75, "allowed_length": 2, "penalty_last_n": 64,
                           "sequence_breakers": ["\n", ":", '"', "*"]}  # fmt: skip
    assert told["allowed_token_ids"] == [3, 9] and told["no_repeat_ngram_size"] == 4
    told = model.generate("a", max_new_tokens=1, mirostat=1)[0].settings
    assert told["mirostat"] == {"version": 1, "tau": 5.0, "eta": 0.1} and told["top_k"] == 0
    assert json.loads(json.dumps(dict(told)))["mirostat"]["tau"] == 5.0


# ---- generation_config.json ------------------------------------------------------------------------------------------

BY_GREEDY: list[tuple[dict[str, Any], dict[str, Any]]] = [  # a file, and options of a call that mean the same
    ({"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 2}),
    ({"bad_words_ids": [[TOKEN["a"]], [5, 6]]}, {"bad_words": [[TOKEN["a"]], [5, 6]]}),
    ({"suppress_tokens": list(range(200))}, {"logit_bias": dict.fromkeys(range(200), -float("inf"))}),
    ({"suppress_tokens": [VOCAB, 10**30]}, {}),
    ({"sequence_bias": [[[7], 50.0]]}, {"logit_bias": {7: 50.0}}),
    ({"min_length": 9}, {"min_new_tokens": 4}),
    ({"min_length": 9, "min_new_tokens": 3}, {"min_new_tokens": 3}),
    ({"remove_invalid_values": True, "renormalize_logits": True, "bad_words_ids": None, "suppress_tokens": []}, {}),
    ({"typical_p": 0.2, "epsilon_cutoff": 0.3, "eta_cutoff": 0.3}, {}),
]


@pytest.mark.parametrize(("stored", "options"), BY_GREEDY, ids=str)
def test_keys_of_the_file(tmp_path: Path, model: Any, stored: dict[str, Any], options: dict[str, Any]) -> None:
    odd = make(tmp_path / "m", **stored)
    for prompt in ("Hello", "abc:"):
        call = {"ignore_eos": False, "logit_bias": {END: 2.0, **options.get("logit_bias", {})}}
        with_bias = {**options, **call}
        assert ids(odd, prompt, **{**call, "logit_bias": {END: 2.0}}) == ids(model, prompt, **with_bias)


@pytest.mark.parametrize(("stored", "options"), [
    ({"typical_p": 0.5}, {"typical_p": 0.5, "top_k": 50}),
    ({"typical_p": 0.5, "top_k": 0}, {"typical_p": 0.5, "top_k": 0}),
    ({"temperature": 0.7, "top_k": 3, "typical_p": 0.5}, {"temperature": 0.7, "mirostat": 2}),
    ({"xtc_probability": 0.9, "xtc_threshold": 0.002}, {"xtc": (0.9, 0.002), "top_k": 50}),
    ({"mirostat": 1, "mirostat_tau": 3.0, "mirostat_eta": 0.5, "top_k": 2},
     {"mirostat": {"version": 1, "tau": 3, "eta": 0.5}}),
    ({"mirostat": 0, "mirostat_tau": 3.0, "xtc_threshold": 0.1}, {"do_sample": True, "top_k": 50}),
])  # fmt: skip
def test_keys_of_the_file_where_tokens_are_drawn(
    tmp_path: Path, model: Any, stored: dict[str, Any], options: dict[str, Any]
) -> None:
    odd = make(tmp_path / "m", do_sample=True, **stored)
    given = options.get("mirostat") if "mirostat" not in stored else None
    assert ids(odd, seed=5, mirostat=given) == ids(model, seed=5, **options)


def test_a_cut_of_the_call_before_mirostat_of_the_file(tmp_path: Path, model: Any) -> None:
    odd = make(tmp_path / "m", do_sample=True, mirostat=2)
    assert odd.generate("a", max_new_tokens=1)[0].settings["mirostat"] == {"version": 2, "tau": 5.0, "eta": 0.1}
    assert ids(odd, seed=5, top_p=0.5) == ids(model, seed=5, top_p=0.5)


def test_cutoffs_of_the_file(tmp_path: Path, model: Any) -> None:
    """Of two tokens such cutoffs leave the likelier one."""
    allowed = {"allowed_token_ids": [7, 8], "max_new_tokens": 60}
    greedy = ids(model, **allowed)
    assert set(greedy) == {7, 8} and ids(model, temperature=1, **allowed) != greedy
    for i, cutoff in enumerate(({"epsilon_cutoff": 0.99}, {"eta_cutoff": 0.99})):
        odd = make(tmp_path / str(i), do_sample=True, top_k=0, **cutoff)
        told = odd.generate("a", max_new_tokens=1)[0].settings
        assert {name: told[name] for name in cutoff} == cutoff
        assert ids(odd, **allowed) == greedy


def test_what_must_come(tmp_path: Path, model: Any) -> None:
    odd = make(tmp_path / "m", forced_bos_token_id=9, forced_eos_token_id=[END], begin_suppress_tokens=[3])
    one = ids(odd, [40], max_new_tokens=6)
    assert one[0] == 9 and one[-1] == END and len(one) == 6
    several = ids(odd, [40, 41], max_new_tokens=6)
    assert several[:-1] == ids(model, [40, 41], max_new_tokens=6, logit_bias={3: -float("inf")})[:-1]
    bias = {3: 90.0}
    assert ids(odd, [40, 41], max_new_tokens=4, logit_bias=bias)[1:] == [3, 3, END]
    result = odd.generate([40, 41], max_new_tokens=3, logit_bias=bias, logprobs=1)[0]
    assert result.finish_reason == "stop" and len(result.logprobs) == 3


def test_ends_become_likelier(tmp_path: Path, model: Any) -> None:
    odd = make(tmp_path / "m", exponential_decay_length_penalty=[3, 1e30])
    made = ids(odd, "Hello", ignore_eos=False, max_new_tokens=20)
    assert made[:4] == ids(model, max_new_tokens=4) and made[4] == END and len(made) == 5


BAD_FILES: list[tuple[dict[str, Any], str]] = [
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size: got -1"),
    ({"bad_words_ids": [["a"]]}, r"bad_words_ids\[0\]: expected an integer, got str"),
    ({"bad_words_ids": [[VOCAB]]}, r"bad_words_ids\[0\]: got"),
    ({"bad_words_ids": "ab"}, "bad_words_ids: expected a list"),
    ({"suppress_tokens": [-1]}, "suppress_tokens: got -1"),
    ({"begin_suppress_tokens": 5}, "begin_suppress_tokens: expected token ids, got int"),
    ({"forced_bos_token_id": VOCAB}, "forced_bos_token_id: got"),
    ({"forced_eos_token_id": [1, 2]}, "forced_eos_token_id: got 2 ids, expected one"),
    ({"min_length": "9"}, "min_length: expected an integer, got str"),
    ({"exponential_decay_length_penalty": [1]}, "exponential_decay_length_penalty: expected"),
    ({"exponential_decay_length_penalty": [1, 0]}, "exponential_decay_length_penalty: got 0"),
    ({"sequence_bias": {"[1]": 2.0}}, "sequence_bias: expected token ids, got str"),
    ({"sequence_bias": [[[1], "x"]]}, "sequence_bias: expected a number, got str"),
    ({"do_sample": True, "typical_p": 0}, "typical_p: got 0"),
    ({"do_sample": True, "epsilon_cutoff": 1}, "epsilon_cutoff: got 1"),
    ({"do_sample": True, "eta_cutoff": -1}, "eta_cutoff: got -1"),
    ({"do_sample": True, "mirostat": 3}, r"mirostat\['version'\]|mirostat: got 3"),
    ({"do_sample": True, "mirostat": 2, "mirostat_tau": -1}, r"mirostat\['tau'\]: got -1"),
    ({"do_sample": True, "xtc_probability": 2}, r"xtc\['probability'\]: got 2"),
    ({"encoder_no_repeat_ngram_size": 2}, "encoder_no_repeat_ngram_size is '2': it is not supported"),
    ({"watermarking_config": {"bias": 2.5}}, "watermarking_config is .*: it is not supported"),
    ({"max_time": 3.0}, "max_time is '3.0': it is not supported"),
    ({"token_healing": True}, "token_healing is 'True': it is not supported"),
]


@pytest.mark.parametrize(("stored", "message"), BAD_FILES, ids=str)
def test_files_that_are_refused(tmp_path: Path, stored: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        ids(make(tmp_path / "m", **stored))
    assert "generation_config.json: " in str(raised.value)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mirostat": 2, "top_k": 5}, ValueError, "mirostat: got version 2 beside top_k=5"),
        ({"mirostat": 1, "xtc": (1, 0.1), "temperature": 0}, ValueError, "mirostat: got version 1 beside xtc="),
        ({"bad_words": 5}, TypeError, "bad_words: expected a str or a list of str or token ids, got int"),
        ({"bad_words": ["a", ""]}, ValueError, r"bad_words\[1\]: an empty string"),
        ({"bad_words": ["\ud800"]}, ValueError, r"bad_words\[0\]: half a surrogate pair"),
        ({"bad_words": [[VOCAB]]}, ValueError, r"bad_words\[0\]: got 263"),
        ({"bad_words": [3]}, TypeError, r"bad_words\[0\]: expected token ids, got int"),
        ({"allowed_token_ids": [VOCAB]}, ValueError, "allowed_token_ids: got 263"),
        ({"allowed_token_ids": []}, ValueError, "allowed_token_ids: got no ids"),
        ({"dry": {"multiplier": 1, "sequence_breakers": ["x" * 41]}}, ValueError, "dry.*a string of 41 bytes"),
        ({"dry": {"multiplier": 1, "sequence_breakers": [""]}}, ValueError, "dry.*: an empty string"),
        ({"dry": {"multiplier": 1, "sequence_breakers": 7}}, TypeError, "dry.*: expected a list"),
        ({"dry": 0.8}, TypeError, "dry: expected a mapping, got float"),
        ({"typical": 0.5}, TypeError, "unexpected option 'typical'"),
    ],
)
def test_kinds_that_cannot_be(model: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model.generate("a", **options)
    with pytest.raises(error, match=message):
        model.stream("a", **options)


def test_without_a_tokenizer_ids_work_and_strings_are_refused(tmp_path: Path) -> None:
    bare = make(tmp_path / "m", with_tokenizer=False)
    made = bare.generate([4, 5, 4], max_new_tokens=3, dry={"multiplier": 1}, bad_words=[[4]])[0]
    assert made.settings["dry"]["sequence_breakers"] == [] and 4 not in made.token_ids
    for options in ({"bad_words": ["a"]}, {"dry": {"multiplier": 1, "sequence_breakers": ["\n"]}}):
        with pytest.raises(
            ValueError, match="a string needs the tokenizer of the model, and .*tokenizer.json is missing"
        ):
            bare.generate([4], **options)
