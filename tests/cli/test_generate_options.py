# SPDX-License-Identifier: MIT
"""Options of ``fastattn generate``: each is the library's, beams are printed at the end, what is wrong names it."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers")

from support import prompted_folders
from support.commands import run

import fastattn as fa
from fastattn import cli
from fastattn.cli import generateoptions
from fastattn.text.decoder import TextDecoder

Capture = pytest.CaptureFixture[str]
CALL: dict[str, Any] = {"max_new_tokens": 16, "ignore_eos": True}
WORDS = ["--max-new-tokens", "16", "--ignore-eos"]
LONGER = "ab:ab ab:ab ab:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(prompted_folders.save(tmp_path_factory.mktemp("options") / "model"))


@pytest.fixture(scope="module")
def model(folder: str) -> Any:
    return fa.load(folder)


def generate(capsys: Capture, *args: str) -> tuple[int, str, str]:
    """(status, stdout, stderr) of the command, in this process."""
    status = cli.main(["generate", *args])
    return (status, *capsys.readouterr())


def test_every_option_of_the_library_is_there() -> None:
    names = {*signature(TextDecoder.generate).parameters} - {"self", "prompts", "spellings", "num_threads"}
    arguments = cli._parser().parse_args(["generate", "a"])
    found = {*generateoptions.values(arguments), "n", "timeout"}
    assert found == names
    assert {name for name in names if hasattr(arguments, name)} == names


EACH: list[tuple[list[str], dict[str, Any]]] = [  # words, and the options that they are
    (["--do-sample"], {"do_sample": True}),
    (["--typical-p", "0.5"], {"typical_p": 0.5}),
    (["--xtc", "1"], {"xtc": (1, 0.1), "top_k": 3, "temperature": 0.2}),
    (["--xtc", "1,0.002"], {"xtc": (1.0, 0.002)}),
    (["--mirostat", "1"], {"mirostat": 1}),
    (["--mirostat", "2,3.5"], {"mirostat": {"version": 2, "tau": 3.5}}),
    (["--mirostat", "2,3.5,0.5"], {"mirostat": {"version": 2, "tau": 3.5, "eta": 0.5}}),
    (["--dry", "3"], {"dry": {"multiplier": 3}}),
    (["--dry", "3.5,1.25,1,-1"], {"dry": {"multiplier": 3.5, "base": 1.25, "allowed_length": 1, "penalty_last_n": -1}}),
    (
        ["--dry", "9,2,1", "--dry-breaker", ":", "--dry-breaker", "b"],
        {"dry": {"multiplier": 9, "base": 2, "allowed_length": 1, "sequence_breakers": [":", "b"]}},
    ),
    (["--dry", "9", "--dry-breaker", ""], {"dry": {"multiplier": 9, "sequence_breakers": []}}),
    (["--no-repeat-ngram-size", "1"], {"no_repeat_ngram_size": 1}),
    (["--bad-words", "ab", "--bad-words", "x"], {"bad_words": ["ab", "x"]}),
    (["--allowed-token-ids", "5,9,44"], {"allowed_token_ids": [5, 9, 44]}),
    (["--logit-bias", "7=3.5", "--logit-bias", "9=-inf"], {"logit_bias": {7: 3.5, 9: float("-inf")}}),
    (["--stop-token-ids", "3,200"], {"stop_token_ids": [3, 200]}),
    (["--stop", "a", "--include-stop-str-in-output"], {"stop": "a", "include_stop_str_in_output": True}),
    (["--draft", "none"], {"draft": None}),
    (["--draft", "prompt_lookup"], {"draft": "prompt_lookup"}),
    (["--draft", "5"], {"draft": 5}),
    (["--prompt-logprobs", "2", "--logprobs", "0"], {"prompt_logprobs": 2, "logprobs": 0}),
    (["--num-beams", "3"], {"num_beams": 3}),
    (["--num-beams", "3", "-n", "3"], {"num_beams": 3, "n": 3}),
    (["--num-beams", "3", "--length-penalty", "-2.5"], {"num_beams": 3, "length_penalty": -2.5}),
    (["--num-beams", "3", "--early-stopping", "true"], {"num_beams": 3, "early_stopping": True}),
    (["--num-beams", "3", "--early-stopping", "false"], {"num_beams": 3, "early_stopping": False}),
    (["--num-beams", "3", "--early-stopping", "never"], {"num_beams": 3, "early_stopping": "never"}),
]


@pytest.mark.parametrize("words, options", EACH, ids=lambda one: " ".join(one) if isinstance(one, list) else "")
def test_each_is_the_library_s(
    folder: str, model: Any, capsys: Capture, words: list[str], options: dict[str, Any]
) -> None:
    if "top_k" in options:
        words = [*words, "--top-k", "3", "--temperature", "0.2"]
    expected = model.generate(LONGER, **CALL, **options)
    status, out, err = generate(capsys, LONGER, "--json", "--model", folder, *WORDS, *words)
    assert (status, err) == (0, "")
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) == len(expected) == options.get("n", 1)
    for one, right in zip(found, expected, strict=True):
        assert (one["text"], tuple(one["token_ids"]), one["stop"]) == (right.text, right.token_ids, right.stop)
        assert one["score"] == right.score and (right.score is not None) == (
            "num_beams" in options or "logprobs" in options
        )
        settings = json.loads(json.dumps(right.settings).replace("-Infinity", "null"))
        assert one["settings"] == settings
    told = expected[0].prompt_logprobs
    if told is None:
        assert found[0]["prompt_logprobs"] is None
    else:
        first, *others = found[0]["prompt_logprobs"]
        assert first is None and len(others) == len(told) - 1 == expected[0].prompt_tokens - 1
        assert [(one["id"], one["logprob"], dict(one["top"])) for one in others] == list(told[1:])
    if not {"n", "logprobs"} & {*options}:  # and without --json the text alone
        assert generate(capsys, LONGER, "--model", folder, *WORDS, *words) == (0, f"{expected[0].text}\n", "")


# ---- beams -----------------------------------------------------------------------------------------------------------


def test_the_best_text_of_beams_comes_at_the_end(tmp_path: Path, model: Any, capsys: Capture) -> None:
    """Also where the file alone asks for beams, and for several answers."""
    stored = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5}
    made = str(prompted_folders.save(tmp_path / "m", files={"generation_config": stored}))
    options = {"num_beams": 3, "length_penalty": 0.5}
    best, other = model.generate("Hello", n=2, **options, **CALL)
    assert generate(capsys, "Hello", "--model", made, *WORDS) == (0, f"{best.text}\n", "")
    found = [json.loads(line) for line in generate(capsys, "Hello", "--json", "--model", made, *WORDS)[1].splitlines()]
    assert [(one["text"], one["score"]) for one in found] == [(best.text, best.score), (other.text, other.score)]
    text = model.generate("Hello", n=1, num_beams=3, length_penalty=2, **CALL)[0].text
    assert generate(capsys, "Hello", "--model", made, *WORDS, "--length-penalty", "2") == (0, f"{text}\n", "")
    text = model.generate("Hello", **CALL)[0].text
    assert generate(capsys, "Hello", "--model", made, *WORDS, "--num-beams", "1") == (0, f"{text}\n", "")
    wrong = generate(capsys, "Hello", "--model", made, *WORDS, "--top-k", "4")
    assert wrong == (
        1, "", "fastattn: --num-beams: 3 beams and --top-k=4: beams are searched, tokens are not drawn\n"
    )  # fmt: skip


def test_one_text_where_the_file_asks_for_several(tmp_path: Path, model: Any, capsys: Capture) -> None:
    stored = {"do_sample": True, "num_return_sequences": 2, "top_k": 0}
    made = str(prompted_folders.save(tmp_path / "m", files={"generation_config": stored}))
    first, second = model.generate("Hello", n=2, do_sample=True, top_k=0, **CALL)
    assert generate(capsys, "Hello", "--model", made, *WORDS) == (0, f"{first.text}\n", "")
    out = generate(capsys, "Hello", "--json", "--model", made, *WORDS)[1]
    assert [json.loads(line)["text"] for line in out.splitlines()] == [first.text, second.text]


def test_beams_that_have_no_more_time(tmp_path: Path) -> None:
    made = str(prompted_folders.save(tmp_path / "m", context=200_000))
    words = ["--num-beams", "4", "--ignore-eos", "--timeout", "1", "--threads", "1"]
    status, out, err = run("generate", "Hello", "--model", made, *words)
    assert status == 124 and out.endswith("\n") and err == "fastattn: --timeout: 1 s have passed\n"


# ---- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words, message", [
    (["--typical-p", "0"], "--typical-p: got 0, expected a number above 0, at most 1"),
    (["--xtc", ""], "--xtc: '' is not a number"),
    (["--xtc", "0.5,"], "--xtc: '' is not a number"),
    (["--xtc", "0.5,0.1,2"], "--xtc: 3 numbers, expected at most 2"),
    (["--xtc", "2"], "--xtc: probability: got 2, expected 0 to 1"),
    (["--xtc", "1,nan"], "--xtc: threshold: got nan, expected 0 to 1"),
    (["--mirostat", "3"], "--mirostat: got 3, expected a version, 1 or 2, or 0 for none"),
    (["--mirostat", "1.5"], "--mirostat: expected an integer, got float"),
    (["--mirostat", "2,-1"], "--mirostat: tau: got -1, expected 0 to 64 (bits)"),
    (["--mirostat", "2,5,1e9"], "--mirostat: eta: got 1e+09, expected 0 to 1"),
    (["--mirostat", "2", "--top-k", "5"], "--mirostat: got version 2 beside --top-k=5, but it takes the place of "),
    (["--mirostat", "2", "--xtc", "1"], "--mirostat: got version 2 beside xtc="),
    (["--dry", "inf"], "--dry: multiplier: got inf, expected a finite number from 0 on"),
    (["--dry", "1,0.5"], "--dry: base: got 0.5, expected a finite number from 1 on"),
    (["--dry", "1,2,0.5"], "--dry: allowed_length: expected an integer, got float"),
    (["--dry", "1,2,3,-2"], "--dry: penalty_last_n: got -2, expected -1 (all) or more"),
    (["--dry", "1,2,3,4,5"], "--dry: 5 numbers, expected at most 4"),
    (["--dry-breaker", "a"], "--dry-breaker: with --dry alone"),
    (["--dry", "1", "--dry-breaker", "\udce9"], "--dry-breaker: not UTF-8 at character 0"),
    (["--no-repeat-ngram-size", "-1"], "--no-repeat-ngram-size: '-1' is not an integer from 0"),
    (["--bad-words", ""], "--bad-words: an empty string"),
    (["--allowed-token-ids", ""], "--allowed-token-ids: '' is not an integer from 0"),
    (["--allowed-token-ids", "1,,2"], "--allowed-token-ids: '' is not an integer from 0"),
    (["--allowed-token-ids", "9" * 18], f"--allowed-token-ids: got {'9' * 18}, expected 0 to "),
    (["--logit-bias", "5"], "--logit-bias: '5' is not ID=X"),
    (["--logit-bias", "-5=1"], "--logit-bias: "),
    (["--logit-bias", "5=x"], "--logit-bias: 'x' is not a number"),
    (["--logit-bias", "5=nan"], "--logit-bias: 5: got nan, expected a finite number, or -inf for a token that never"),
    (["--logit-bias", "5=inf"], "--logit-bias: 5: got inf"),
    (["--num-beams", "0"], "--num-beams: '0' is not an integer of at least 1"),
    (["--num-beams", "1025"], "--num-beams: got 1025, expected 1 (no beams) to 1024"),
    (["--num-beams", "2", "--temperature", "0.5"], "--num-beams: 2 beams and temperature=0.5: beams are searched"),
    (["--num-beams", "2", "--do-sample"], "--num-beams: 2 beams and --do-sample=True: beams are searched"),
    (["--num-beams", "1", "--length-penalty", "2"], "--length-penalty: got 2.0, but it has a meaning"),
    (["--length-penalty", "nan"], "--length-penalty: got nan, expected a finite number"),
    (["--early-stopping", "maybe"], "--early-stopping: invalid choice: 'maybe'"),
    (["--draft", "lookup"], "--draft: 'lookup' is none of auto, prompt_lookup, none, and no number of tokens"),
    (["--draft", "0"], "--draft: got 0, expected 1 to 64 tokens"),
    (["--draft", "9" * 30], "--draft: "),
    (["--prompt-logprobs", "2"], "--prompt-logprobs: with --json alone"),
    (["--prompt-logprobs", "x", "--json"], "--prompt-logprobs: 'x' is not an integer from 0"),
    (["--stop-token-ids", "a"], "--stop-token-ids: 'a' is not an integer from 0"),
], ids=lambda one: ascii(" ".join(one)) if isinstance(one, list) else "")  # fmt: skip
def test_wrong_usage_names_the_option(words: list[str], message: str, capsys: Capture, tmp_path: Path) -> None:
    """Before a model is loaded: there is none."""
    status, out, err = generate(capsys, "a", "--model", str(tmp_path / "none"), *words)
    assert (status, out) == (2, "")
    assert f"error: argument {message}" in err.splitlines()[-1]


@pytest.mark.parametrize("words, message", [
    (["--allowed-token-ids", "1,999"], "--allowed-token-ids: got 999, expected 0 to 258"),
    (["--logit-bias", "999=1"], "--logit-bias: a token: got 999, expected 0 to 258"),
    (["--stop-token-ids", "999"], "--stop-token-ids: got 999, expected 0 to 258"),
    (["--prompt-logprobs", "999", "--json"], "--prompt-logprobs: got 999, expected 0 to 259"),
    (["--length-penalty", "2"], "--length-penalty: got 2.0, but it has a meaning only with --num-beams above 1"),
    (["--early-stopping", "never"], "--early-stopping: got 'never', but it has a meaning only with --num-beams above"),
    (["--num-beams", "2", "-n", "3", "--json"], "-n: got 3, more than --num-beams, 2"),
    (["--dry", "1", "--dry-breaker", "x" * 41], "--dry-breaker: got a string of 41 bytes, expected at most 40"),
])  # fmt: skip
def test_what_the_model_has_not_names_the_option(folder: str, words: list[str], message: str, capsys: Capture) -> None:
    status, out, err = generate(capsys, "a", "--model", folder, *words)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"fastattn: {message}")


def test_no_token_that_may_come_is_left(folder: str, capsys: Capture) -> None:
    """In the middle of a text, which stays where it came as it came."""
    words = ["--model", folder, "--allowed-token-ids", "70", "--no-repeat-ngram-size", "1"]
    names = "--logit-bias, --no-repeat-ngram-size, --bad-words, --allowed-token-ids, --min-new-tokens"
    for more in ([], ["--json"]):
        status, out, err = generate(capsys, "a", *words, *more)
        assert (status, err.count("\n")) == (1, 1) and len(out) == (0 if more else 1)
        assert err.startswith(f"fastattn: {names}: no token is left that may come")


def test_a_file_that_would_have_scores_normalised(tmp_path: Path, capsys: Capture) -> None:
    made = prompted_folders.save(tmp_path / "m", files={"generation_config": {"renormalize_logits": True}})
    status, out, err = generate(capsys, "a", "--model", str(made), "--num-beams", "2")
    assert (status, out) == (1, "")
    message = f"{made}/generation_config.json: renormalize_logits is true: it is not supported with 2 beams"
    assert err == f"fastattn: {message}\n"
