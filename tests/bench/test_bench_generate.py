# SPDX-License-Identifier: MIT
"""``fastattn bench generate`` on tiny language models; what a token costs at least; peers that are absent or die."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders, tiny_families
from support import gguf_models
from support.shares import can_be
from test_bench import QUICK, bench

import fastattn
from fastattn import cli
from fastattn.bench import cold, firsttoken, generation, peers
from fastattn.bench.child import ChildError
from fastattn.bench.costs import Costs, Layer, costs_of, pairs
from fastattn.bench.generation import WriterCase, Writers
from fastattn.bench.writers import Writer

SHORT = ["--prompt-tokens", "4,9", "--new-tokens", "5", "--batch", "2,3", "--rounds", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_models.make(tmp_path_factory.mktemp("tiny") / "m.gguf", "llama", dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_decoders.make(tmp_path_factory.mktemp("tiny") / "m", "mistral", sliding_window=6)


# ---- the command -----------------------------------------------------------------------------------------------------


def test_command_as_json(gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench("generate", "--model", str(gguf), *SHORT, capsys=capsys)
    names = ["prefill-4", "prefill-9", "decode-b2", "decode-b3", "decode-b2-drawn"]
    assert [row["name"] for row in found["cases"]] == names
    assert [(row["prompt_tokens"], row["new_tokens"], row["batch"]) for row in found["cases"]] == [
        (4, 0, 1), (9, 0, 1), (4, 5, 2), (4, 5, 3), (4, 5, 2),
    ]  # fmt: skip
    for row, tokens in zip(found["cases"], (4, 9, 10, 15, 10), strict=True):
        assert row["tokens_per_second"] == tokens / row["median_s"] and row["rounds"] == 2
        assert can_be(row) and row["limit"] == "fma" and row["gbytes_per_second"] is None  # a cache holds them
        assert row["peers"] == {} and ("greedy_ratio" in row) == row["drawn"]
    assert found["kept_bytes"] > found["read_bytes"] > 0
    assert (found["dtype"], found["kv_dtype"], found["model"]) == ("float32", "float32", str(gguf))
    start, memory = found["first_token"], found["memory"]
    assert start["rounds"] == 2 and start["failed"] == {}
    assert "command" not in start  # it has no tokenizer, which the command needs
    assert 0 < start["generate"]["best_s"] <= start["generate"]["median_s"] and "beyond_numpy_s" in start["generate"]
    if memory is not None:
        assert memory["import_bytes"] <= memory["load_bytes"] <= memory["first_token_bytes"]
        assert memory["beyond_kept_bytes"] == memory["load_bytes"] - found["kept_bytes"]


def test_cases_by_themselves() -> None:
    """From one sequence to as many as a batch of a server has."""
    arguments = cli._parser().parse_args(["bench", "generate"])
    cases = generation.cases_of(arguments.prompt_tokens, arguments.new_tokens, arguments.batch)
    assert [case.shape_text for case in cases] == [
        "B1, 16 tokens", "B1, 128 tokens", "B1, 512 tokens", "B1, 32 behind 16 tokens", "B4, 32 behind 16 tokens",
        "B32, 32 behind 16 tokens", "B1, 32 behind 16 tokens",
    ]  # fmt: skip


def test_command_as_a_table(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "WRITERS", {**peers.WRITERS, "llama.cpp": ("no_such_module",)})
    options = ["--dtype", "bfloat16", "--kv-dtype", "int8", "--compare", "llama.cpp"]
    assert cli.main(["bench", "generate", "--model", str(folder), *SHORT, *options]) == 0
    out, err = capsys.readouterr()
    assert not err and "llama.cpp: not installed, left out\n" in out
    assert "bfloat16" in out and "keys and values int8" in out
    for text in ("prefill-9 ", "decode-b3 ", "a drawn token takes ", "load, generate ", "resident at the most: "):
        assert text in out or (text.startswith("resident") and not os.path.exists("/proc/self/status"))


WRONG = {
    "a peer nobody knows": (["--compare", "torch"], 2, "expected some of transformers,llama.cpp"),
    "an empty peer": (["--compare", "transformers,"], 2, "'' is unknown"),
    "no prompt": (["--prompt-tokens", "0"], 2, "'0' is not an integer of at least 1"),
    "a hole": (["--prompt-tokens", "4,,9"], 2, "'' is not an integer"),
    "half a sequence": (["--batch", "1,1.5"], 2, "'1.5' is not an integer"),
    "nothing new": (["--new-tokens", "0"], 2, "'0' is not an integer"),
    "a type": (["--dtype", "float64"], 2, "invalid choice: 'float64'"),
    "a type of keys": (["--kv-dtype", "q4"], 2, "invalid choice: 'q4'"),
    "shapes": (["--shapes", "decode"], 2, "unrecognized arguments"),
    "CPU time of several": (["--cpu-time", "--threads", "2"], 2, "CPU time of several threads"),
    "too long": (["--prompt-tokens", "100000"], 1, "100000 tokens and 1 new ones: the context of the model has"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name: str, gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, status, message = WRONG[name]
    assert cli.main(["bench", "generate", "--model", str(gguf), *arguments]) == status
    out, err = capsys.readouterr()
    assert not out and message in err


def test_models_that_generate_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = tiny_families.save_folder(tmp_path / "m", "bert")
    for model, message in ((encoder, "is no language model"), (tmp_path / "none.gguf", "none.gguf")):
        assert cli.main(["bench", "generate", "--model", str(model)]) == 1
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1 and message in err


# ---- what a token costs at least -------------------------------------------------------------------------------------


def test_keys_that_queries_see() -> None:
    for before, tokens, window in (
        (0, 1, None),
        (0, 7, None),
        (5, 3, None),
        (0, 9, 4),
        (3, 9, 4),
        (50, 2, 4),
        (0, 3, 1),
    ):
        counted = sum(min(before + i + 1, window or 10**9) for i in range(tokens))
        assert pairs(before, tokens, window) == counted


def test_costs_of_a_model(folder: Path, gguf: Path) -> None:
    c = tiny_decoders.config("mistral", sliding_window=6)
    heads, kv_heads, size = tiny_decoders.heads(c)
    shapes = tiny_decoders.shapes(c)
    matrices = [int(np.prod(shape)) for name, shape in shapes.items() if len(shape) == 2 and "embed" not in name]
    head = int(np.prod(shapes["lm_head.weight"]))
    costs = costs_of(fastattn.load(folder))
    assert costs.token_flops == 2 * (sum(matrices) - head) and costs.output_flops == 2 * head
    assert costs.layers == (Layer(heads, kv_heads, size, size, 6),) * c["num_hidden_layers"]
    assert costs.kept_bytes - costs.read_bytes == 4 * int(np.prod(shapes["model.embed_tokens.weight"]))
    assert costs.read_bytes >= 4 * sum(matrices)  # panels are filled up
    layers = c["num_hidden_layers"]
    assert costs.prompt_flops(9) == 9 * costs.token_flops + costs.output_flops + layers * 4 * heads * size * pairs(
        0, 9, 6
    )
    one = costs.decode_flops(4, 5, 1)
    assert one == 5 * (costs.token_flops + costs.output_flops) + layers * 4 * heads * size * pairs(4, 5, 6)
    assert costs.decode_flops(4, 5, 3) == 3 * one
    for kv_dtype, row in (("float32", 8 * size), ("float16", 4 * size), ("bfloat16", 4 * size), ("int8", 2 * size + 8)):
        keys = layers * kv_heads * row * pairs(4, 5, 6)
        assert costs.decode_bytes(4, 5, 3, kv_dtype) == 5 * costs.read_bytes + 3 * keys
    assert Costs.from_json(json.loads(json.dumps(costs.as_json()))) == costs
    assert costs_of(fastattn.load(folder, "int8")).dtype == "int8"
    with pytest.raises(ValueError, match="no language model's head"):
        costs_of(fastattn.load(folder, head="none"))


def test_memory_bounds_what_no_cache_holds(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "cpu_info", lambda: {"caches": {"l3": 1}})
    with Writers(gguf, [], 1) as writers:
        for case, kept in ((WriterCase(4), False), (WriterCase(4, 5, 2), True)):
            flops, cold = writers._floor(case)
            expected = writers.costs.decode_bytes(4, 5, 2, "float32") if kept else writers.costs.read_bytes
            assert cold == expected and flops > 0


# ---- processes -------------------------------------------------------------------------------------------------------


def test_a_process_gives_the_tokens_that_the_model_does(folder: Path) -> None:
    prompts = generation.make_prompts(WriterCase(6, 4, 3), tiny_decoders.config("mistral")["vocab_size"])
    model = fastattn.load(folder)
    with Writer("fastattn", folder, 1) as writer:
        tokens, first, behind = writer.prepare(prompts, 4)
        expected = model.generate(prompts, max_new_tokens=5, ignore_eos=True, temperature=0)
        assert tokens == [list(one.token_ids) for one in expected]
        drawn, *_ = writer.prepare(prompts, 4, drawn=True)
        options = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "seed": 7}
        expected = model.generate(prompts, max_new_tokens=5, ignore_eos=True, **options)
        assert drawn == [list(one.token_ids) for one in expected]
        assert first(3) > 0 and behind(1) > 0 and writer.peak_memory() > 1 << 20
        writer.clear()
        with pytest.raises(ChildError, match="IndexError"):
            first(1)


class _Dying(Writer):
    """Ours under another's name, whose process dies when it is asked for the time."""

    def __init__(self, name: str, path: Path, *rest: Any) -> None:
        super().__init__("fastattn", path, *rest)
        self.name = name

    def _time(self, number: int, new: int, count: int) -> float:
        if self.name == "llama.cpp":
            self._process.kill()
        return super()._time(number, new, count)


def test_a_peer_that_dies_or_has_no_such_model_is_left_out(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(name: str, path: Path, *rest: Any) -> Writer:
        if name == "transformers":
            raise ChildError(name, "ImportError: no such thing")
        return _Dying(name, path, *rest)

    monkeypatch.setattr(generation, "Writer", make)
    with Writers(gguf, ["transformers", "llama.cpp"], 1) as writers:
        first, second = writers.run([WriterCase(4), WriterCase(4, 3, drawn=True)], QUICK)
        assert list(writers.processes()) == ["fastattn"]
    for row in (first, second):
        assert row["peers"]["transformers"] == {"error": "ImportError: no such thing"}
        assert row["peers"]["llama.cpp"] == {"error": "its process ended with status -9"} and row["best"] is None
    assert second["greedy_ratio"] > 0


def test_a_peer_of_the_same_tokens(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "Writer", lambda name, *rest: _Dying(name, *rest))
    with Writers(gguf, ["transformers"], 1) as writers:
        (row,) = writers.run([WriterCase(4, 3, 2)], QUICK)
    figures = row["peers"]["transformers"]
    assert figures["same_tokens"] == 1 and figures["tokens_per_second"] == 6 / figures["median_s"]
    assert generation._same([[1, 2], [3, 4]], [[1, 5], [3, 4]]) == 0.75
    assert generation._same([[1]], [[1, 2]]) == 0.5  # too few


def test_peers_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "WRITERS", {"transformers": ("json", "no_such_module"), "llama.cpp": ("json",)})
    names, notes = peers.installed_writers(["transformers", "llama.cpp", "llama.cpp"])
    assert names == ["llama.cpp"] and notes == ["transformers: not installed, left out"]
    with pytest.raises(ValueError, match="'torch' is unknown, expected some of transformers,llama.cpp"):
        peers.installed_writers(["torch"])


def test_the_first_token_without_a_peer_that_fails(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = {"transformers": "raise ImportError('no such thing')\n", "llama.cpp": "import numpy\n"}
    monkeypatch.setattr(firsttoken, "_PEERS", codes)

    # the command, which would have no tokenizer to run with
    def without_ours(commands: dict[str, list[str]], rounds: int, beyond: list[str], until_output: bool) -> Any:
        for name in ("generate", "command"):
            commands[name] = [sys.executable, "-c", "print('.')"]
        return cold.process_times(commands, rounds, beyond, until_output)

    monkeypatch.setattr(firsttoken, "process_times", without_ours)
    found = firsttoken.first_token(gguf, ["transformers", "llama.cpp"], 1, rounds=1)
    assert found["failed"] == {"transformers": "ImportError: no such thing"}
    assert list(found) == ["rounds", "numpy", "generate", "command", "llama.cpp", "failed"]
    assert found["llama.cpp"]["median_s"] > 0


@pytest.mark.parity
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_transformers_continues_alike(family: str, tmp_path: Path) -> None:
    for name in ("torch", "transformers"):
        pytest.importorskip(name)
    folder = tiny_decoders.make(tmp_path / "m", family)
    with Writers(folder, ["transformers"], 1) as writers:
        greedy, drawn = writers.run([WriterCase(7, 6, 2), WriterCase(7, 6, 2, drawn=True)], QUICK)
    assert greedy["peers"]["transformers"]["same_tokens"] == 1, greedy["peers"]
    assert drawn["peers"]["transformers"]["ratio"] > 0


@pytest.mark.parity
def test_llama_cpp_continues_alike(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    fields = gguf_models.plain_tokenizer(tiny_decoders.config("llama")["vocab_size"])
    fields["tokenizer.ggml.tokens"][:2] = "t", "0"
    fields["tokenizer.ggml.tokens"][2] = "t0"
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 96}
    model = gguf_models.make(tmp_path / "m.gguf", "llama", dtype="float32", more=fields, **sizes)
    with Writers(model, ["llama.cpp"], 1, kv_dtype="float32") as writers:
        greedy, drawn = writers.run([WriterCase(7, 6, 2), WriterCase(7, 6, 2, drawn=True)], QUICK)
    assert greedy["peers"]["llama.cpp"]["same_tokens"] == 1, greedy["peers"]
    assert drawn["peers"]["llama.cpp"]["ratio"] > 0
