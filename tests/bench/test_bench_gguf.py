# SPDX-License-Identifier: MIT
"""``fastattn bench gguf`` on tiny files: its tables, llama.cpp's settings, what is read, made and missing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders
from support import gguf_models
from support.gguf_files import Tensor, gguf_bytes
from support.shares import can_be
from test_bench import bench

import fastattn
from fastattn import cli
from fastattn.bench import gguf_files, gguf_load, gguf_quality, gguf_speed, peaks, peers
from fastattn.bench.child import ChildError
from fastattn.bench.gguf_quality import distance
from fastattn.bench.gguf_speed import Race, Settings, cases_of, tune
from fastattn.bench.timing import Contestant, Plan, run_rounds
from fastattn.bench.writers import Writer
from fastattn.loaders.gguf import GgufFile

SHORT = ["--prompt-tokens", "9", "--new-tokens", "6", "--batch", "3", "--rounds", "2", "--threads", "1"]
WIDE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 96}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_models.make(tmp_path_factory.mktemp("tiny") / "tiny-F16.gguf", "llama")


@pytest.fixture(scope="module")
def with_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that llama.cpp reads, too."""
    fields = gguf_models.plain_tokenizer(tiny_decoders.config("llama")["vocab_size"])
    fields["tokenizer.ggml.tokens"][:2] = "t", "0"
    fields["tokenizer.ggml.tokens"][2] = "t0"
    path = tmp_path_factory.mktemp("words") / "words.F16.gguf"
    return gguf_models.make(path, "llama", more=fields, **WIDE)


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cold is cold by name only: filling memory that no cache holds takes seconds."""
    monkeypatch.setattr(peaks, "cold_bytes", lambda: 1 << 22)
    monkeypatch.setattr(gguf_load, "_WORKERS", 2)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp is not installed, whatever is."""
    monkeypatch.setattr(peers, "WRITERS", {**peers.WRITERS, "llama.cpp": ("no_such_module",)})


# ---- the command -----------------------------------------------------------------------------------------------------


def test_speed_as_json(gguf: Path, alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench("gguf", "--model", str(gguf), *SHORT, capsys=capsys)
    (row,) = found["cases"]
    assert (row["name"], row["path"], row["type"], row["num_threads"]) == ("tiny-F16", str(gguf), "F16", 1)
    assert row["error"] == "not installed" and found["notes"] == ["llama.cpp: not installed, left out"]
    for name, tokens, limit in (("prefill", 9, "fma"), ("decode", 6, "fma"), ("batch", 9, "fma")):
        figures = row[name]
        assert figures["tokens_per_second"] == tokens / figures["median_s"] and figures["rounds"] == 2
        assert can_be(figures) and figures["limit"] == limit  # a cache holds them
        assert figures["peers"] == {} and figures["best"] is None
    assert found["geometric_mean"] == [{"activations": None, "num_threads": 1, "files": 1}]
    assert found["activations"] == []


def test_speed_as_a_table(gguf: Path, alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    other = ["--cases", "decode,batch", "--model", str(gguf), "--cpu-time"]
    assert cli.main(["bench", "gguf", "--model", str(gguf), *SHORT, *other]) == 0
    out, err = capsys.readouterr()
    assert not err and "llama.cpp: not installed, left out\n" in out
    assert "decode: B1, 6 behind 4 tokens\nbatch: B3, 3 behind 4 tokens\n" in out and "prefill" not in out
    assert sum(line.startswith("tiny-F16 ") and "(-)" in line for line in out.splitlines()) == 2
    assert "geometric mean" not in out


def test_quality(gguf: Path, alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench("gguf", "--model", str(gguf), "--quality", "--tokens", "100000", capsys=capsys)
    (row,) = found["cases"]
    assert row["tokens"] == fastattn.load(gguf).max_positions
    assert row["libraries"] == {
        "fastattn": {"kl": 0.0, "kl_most": 0.0, "changes": 0, "rms": 0.0},  # halves are what float32 makes of them
        "llama.cpp": {"error": "not installed"},
    }


def test_quality_of_keys_and_values(gguf: Path) -> None:
    found = [
        next(gguf_quality.measure_quality([gguf], 1, 40, [], "no", kv_dtype))["libraries"]["fastattn"]
        for kv_dtype in ("float32", "int8")
    ]
    assert found[0] == {"kl": 0.0, "kl_most": 0.0, "changes": 0, "rms": 0.0}
    assert 0 < found[1]["kl"] < 0.02 and found[1]["rms"] > 0


def test_quality_and_load_as_tables(
    gguf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {"kl": 0.0123, "kl_most": 0.5, "changes": 3, "rms": 0.25}
    row = {"name": "m-Q4_0", "tokens": 512, "libraries": {"fastattn int8": figures, "llama.cpp": {"error": "no such"}}}
    monkeypatch.setattr(gguf_quality, "measure_quality", lambda *arguments: iter([row]))
    assert cli.main(["bench", "gguf", "--model", str(gguf), "--quality", "--activations", "int8,int16"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["m-Q4_0", "fastattn", "int8", "0.012300", "0.500000", "0.25000", "3", "of", "512"] in lines
    assert ["m-Q4_0", "llama.cpp", "left", "out:", "no", "such"] in lines
    sizes = {"load_bytes": 2e6, "token_bytes": 3e6, "own_bytes": 1e6}
    loaded = {"median_s": 0.25, "ratio": 2.0, "whole_s": 0.5, **sizes}
    row = {
        "name": "m-Q4_0", "tensor_bytes": 5e6, "packed_bytes": 6e6, "pss_ratio": 1.25,
        "libraries": {"packed": loaded, "llama.cpp": {"error": "no such"}},
    }  # fmt: skip
    monkeypatch.setattr(gguf_load, "measure_load", lambda *arguments: iter([row]))
    assert cli.main(["bench", "gguf", "--model", str(gguf), "--load"]) == 0
    out = capsys.readouterr().out
    words = "m-Q4_0 packed 250.0 ms 2.00 500.0 ms 2 MB 3 MB 1 MB"
    assert words in [" ".join(line.split()) for line in out.splitlines()]
    assert "tensors 5 MB, the packed file 6 MB, of four processes 1.25 times that of one" in out


def test_load(gguf: Path, alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    if not os.path.exists("/proc/self/status"):
        pytest.skip("the system does not tell a process's memory")
    found = bench("gguf", "--model", str(gguf), "--load", "--rounds", "1", "--threads", "1", capsys=capsys)
    (row,) = found["cases"]
    file = GgufFile(gguf)
    assert row["tensor_bytes"] == sum(file.info(name).nbytes for name in file) and row["packed_bytes"] > 0
    assert list(row["libraries"]) == ["fastattn", "packed", "llama.cpp"]
    assert row["libraries"]["llama.cpp"] == {"error": "not installed"} and row["pss_ratio"] > 0
    for name in ("fastattn", "packed"):
        figures = row["libraries"][name]
        assert 0 < figures["best_s"] == figures["median_s"] <= figures["whole_s"] and figures["ratio"] > 0
        assert figures["load_bytes"] <= figures["token_bytes"] and figures["own_bytes"] > 0


WRONG = {
    "no file": ([], 2, "expected --files DIR or --model PATH"),
    "no GGUF file": (["--model", "."], 1, "expected a .gguf file"),
    "a path that is none": (["--model", "none.gguf"], 1, "none.gguf"),
    "types of no folder": (["--model", "m", "--types", "Q4_0"], 2, "--types: only with --files"),
    "nothing to make": (["--model", "m", "--make"], 2, "--make: only with --files"),
    "a source of no folder": (["--model", "m", "--source", "a"], 2, "--source: only with --files"),
    "a type": (["--files", "d", "--types", "Q4_0,Q9"], 2, "'Q9' is unknown, expected some of Q4_0,"),
    "a random type": (["--files", "d", "--random-types", ""], 2, "'' is unknown"),
    "a rounding": (["--model", "m", "--activations", "int4"], 2, "'int4' is unknown, expected some of int16,int8"),
    "two roundings": (["--model", "m", "--load", "--activations", "int8,int16"], 2, "one alone with --load"),
    "a case": (["--model", "m", "--cases", "prefil"], 2, "'prefil' is unknown, expected some of prefill,decode,batch"),
    "keys of what keeps none": (["--model", "m", "--load", "--kv-dtype", "int8"], 2, "--kv-dtype: not with --load"),
    "prompts of what has none": (["--model", "m", "--quality", "--batch", "2"], 2, "--batch: not with --quality"),
    "cases of what has none": (["--files", "d", "--make", "--cases", "decode"], 2, "--cases: not with --make"),
    "a text of what has none": (["--model", "m", "--load", "--tokens", "2"], 2, "--tokens: only with --quality"),
    "two modes": (["--model", "m", "--load", "--quality"], 2, "not allowed with"),
    "CPU time of several": (["--model", "m", "--cpu-time", "--threads", "2"], 2, "CPU time of several threads"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name: str, alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, status, message = WRONG[name]
    assert cli.main(["bench", "gguf", *arguments]) == status
    out, err = capsys.readouterr()
    assert "tokens/s" not in out and message in err


def test_prompts_that_are_too_long(gguf: Path, alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "gguf", "--model", str(gguf), "--prompt-tokens", "100000"]) == 1
    assert "100000 tokens and 1 new ones: the context of the model has" in capsys.readouterr().err


# ---- the settings of llama.cpp ---------------------------------------------------------------------------------------


def _tuned(
    cost: Callable[[Settings], float], threads: int, tiles: bool = True
) -> tuple[list[Settings], list[Settings]]:
    """What tune() chooses where calls take so long, and what it has timed twice."""
    again: list[Settings] = []

    def timed(one: Settings) -> float:
        again.append(one)
        return cost(one)

    return tune(lambda one: cost(one) + 0.1, timed, threads, tiles), again


@pytest.mark.parametrize(
    "best",
    [
        Settings(2), Settings(2, flash=False), Settings(2, repack=False), Settings(2, tiled=False), Settings(1),
        Settings(2, False, False, False), Settings(1, False, True, False),
    ],
    ids=lambda one: one.name,
)  # fmt: skip
def test_the_fastest_settings_are_found(best: Settings) -> None:
    def cost(one: Settings) -> float:
        """Each other choice costs a tenth."""
        fields = "num_threads", "flash", "repack", "tiled"
        return 1 + 0.1 * sum(getattr(one, field) != getattr(best, field) for field in fields)

    chosen, _ = _tuned(cost, 2)
    assert chosen == [best]


def test_settings_that_are_as_fast_race_as_well() -> None:
    chosen, again = _tuned(lambda one: 1.0 if one.repack else 1.01, 1, tiles=False)
    assert chosen[0].repack and len(chosen) == 2
    assert all(one.tiled for one in again)  # the file has no types that tiles are for
    chosen, again = _tuned(lambda one: 1.0 if one.flash else 9.0, 1)
    assert all(one.flash for one in [*chosen, *again])  # no second call of those without hope


def test_calls_that_are_long_have_no_other_before_them() -> None:
    made: dict[str, int] = {}

    def run(name: str, seconds: float) -> Callable[[int], float]:
        def calls(count: int) -> float:
            made[name] = made.get(name, 0) + count
            return seconds * count

        return calls

    contestants = [Contestant("long", run("long", 0.5)), Contestant("short", run("short", 0.05))]
    run_rounds(contestants, Plan(rounds=3, warm=0.1), lambda: True)
    assert made == {"long": 2 + 3, "short": 2 + 6}


# ---- what a file has -------------------------------------------------------------------------------------------------


def _file(path: Path, **tensors: Any) -> GgufFile:
    named = {name.replace("__", "."): array for name, array in tensors.items()}
    path.write_bytes(gguf_bytes({"general.architecture": "llama"}, named))
    return GgufFile(path)


def test_bytes_that_a_step_reads(tmp_path: Path) -> None:
    words, head = np.zeros((8, 32), np.float16), np.zeros((8, 32), np.float32)
    norm = np.zeros(32, np.float32)
    blocks = Tensor("Q8_0", (4, 32), bytes(4 * 34))
    experts = np.zeros((2, 4, 32), np.float16)
    tied = _file(tmp_path / "a.gguf", token_embd__weight=words, output_norm__weight=norm, blk__0__ffn_up__weight=blocks)
    assert gguf_speed.read_bytes(tied) == words.nbytes + norm.nbytes + 4 * 34
    own = _file(tmp_path / "b.gguf", token_embd__weight=words, output__weight=head, a__weight=experts)
    assert gguf_speed.read_bytes(own) == head.nbytes
    assert gguf_speed.main_type(tied) == "Q8_0" and gguf_speed.main_type(own) == "F16"
    assert gguf_speed.main_type(_file(tmp_path / "c.gguf", a__weight=norm)) == "F32"


def test_means_are_those_of_quantised_files() -> None:
    def row(kind: str, threads: int, *ratios: float | None, name: str | None = None) -> dict[str, Any]:
        each = [None if ratio is None else {"name": "x", "ratio": ratio} for ratio in ratios]
        both = {"type": kind, "num_threads": threads, "activations": name}
        return {**both, "prefill": {"best": each[0]}, "decode": {"best": each[1]}}

    rows = [row("Q4_0", 1, 2.0, None), row("F16", 1, 100.0, 100.0), row("Q6_K", 1, 8.0, 3.0), row("F16", 2, 1.5, None)]
    rows.append(row("Q4_0", 1, 5.0, 1.0, name="int8"))
    found = gguf_speed.means(rows, ["prefill", "decode"])
    assert [(one.pop("activations"), one.pop("num_threads")) for one in found] == [(None, 1), (None, 2), ("int8", 1)]
    assert found == [
        {"files": 2, "prefill": pytest.approx(4.0), "decode": pytest.approx(3.0)},
        {"files": 1, "prefill": pytest.approx(1.5)},
        {"files": 1, "prefill": pytest.approx(5.0), "decode": pytest.approx(1.0)},
    ]


def test_distances() -> None:
    rng = np.random.default_rng(0)
    right = rng.standard_normal((70, 11)).astype(np.float32)
    assert distance(right, right) == {"kl": 0.0, "kl_most": 0.0, "changes": 0, "rms": 0.0}
    moved = distance(right + np.float32(3), right)  # probabilities do not change
    assert moved["kl"] < 1e-12 and moved["rms"] < 1e-6 and moved["changes"] == 0
    other = right.copy()
    other[69] = -other[69]
    found = distance(other, right)
    p, q = (np.exp(x) / np.exp(x).sum() for x in (right[69].astype(np.float64), other[69].astype(np.float64)))
    assert found["kl_most"] == pytest.approx((p * np.log(p / q)).sum()) and found["changes"] == 1
    assert found["kl"] == pytest.approx(found["kl_most"] / 70)
    gap = 2 * right[69].astype(np.float64)
    assert found["rms"] == pytest.approx(np.sqrt(gap.var() / 70))


# ---- processes -------------------------------------------------------------------------------------------------------


class _Theirs(Writer):
    """Ours under llama.cpp's name, without its options; ``deadly`` ones die when they are asked for the time."""

    deadly = False

    def __init__(
        self, name: str, path: Path, threads: int, dtype: Any = None, kv: Any = None, cpu: bool = False,
        options: Any = None, environment: Any = None,
    ) -> None:  # fmt: skip
        super().__init__("fastattn", path, threads, dtype, kv, cpu)
        self.name, self.asked = name, (options, environment)

    def prepare(self, prompts: Any, new: int, drawn: bool = False, **how: Any) -> Any:
        how.pop("flash", None)
        return super().prepare(prompts, new, drawn, **how)

    def _time(self, number: int, new: int, count: int) -> float:
        if self.name == "llama.cpp" and self.deadly:
            self._process.kill()
        return super()._time(number, new, count)


@pytest.mark.parametrize("deadly", [False, True])
def test_a_race(gguf: Path, deadly: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_speed, "Writer", _Theirs)
    monkeypatch.setattr(_Theirs, "deadly", deadly)
    cases = cases_of(6, 4, 2)
    (row,) = gguf_speed.race([gguf], [1], cases, Plan(rounds=2))
    if deadly:
        assert row["error"] == "its process ended with status -9"
        assert all(row[name]["best"] is None and row[name]["median_s"] > 0 for name in cases)
        return
    assert row["error"] is None
    for name, tokens in (("prefill", 6), ("decode", 4), ("batch", 4)):
        best = row[name]["best"]
        assert best["ratio"] > 0 and best["name"].startswith("1 thread") and 1 <= len(row[name]["peers"]) <= 2
        figures = row[name]["peers"][best["name"]]
        assert figures["tokens_per_second"] == tokens / figures["median_s"]


def test_settings_become_options_and_environments(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_speed, "Writer", _Theirs)
    with Race(gguf, 1) as contest:
        asked: Any = contest._their(False, True)
        assert asked.asked == ({"repack": False}, {"GGML_CPU_TILED_MM": "1"}) and contest._their(False, True) is asked
        other: Any = contest._their(True, False)
        assert other.asked == ({"repack": True}, {"GGML_CPU_TILED_MM": "0"})


def test_ours_fails_aloud(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(ChildError, match="activations"):
        Race(gguf, 1, activations="int8")  # a file without blocks
    with pytest.raises(ChildError, match="activations"):
        list(gguf_quality.measure_quality([gguf], 1, 5, ["int8"], "not installed"))
    (tmp_path / "m.gguf").write_bytes(gguf.read_bytes()[:999])
    with pytest.raises(ValueError, match=r"m\.gguf"):
        Race(tmp_path / "m.gguf", 1)


# ---- making files ----------------------------------------------------------------------------------------------------


def test_files_that_are_there_are_left_alone(
    with_words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("words-Q8_0.gguf", "words-Q4_0.gguf", "rand1b-F16.gguf", "rand1b-Q4_0.gguf"):
        (tmp_path / name).write_bytes(b"kept")
    given = ["--files", str(tmp_path), "--source", str(with_words), "--types", "Q8_0,Q4_0", "--random-types", "Q4_0"]
    assert cli.main(["bench", "gguf", *given, "--make", "--json"]) == 0
    sizes = json.loads(capsys.readouterr().out)["files"]
    assert {Path(name).name: size for name, size in sizes.items()} == {
        "words-Q8_0.gguf": 4, "words-Q4_0.gguf": 4, "rand1b-Q4_0.gguf": 4,
    }  # fmt: skip


def test_making_without_what_it_takes(
    with_words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gguf_files, "find_spec", lambda module: None)
    given = ["bench", "gguf", "--files", str(tmp_path / "new"), "--source", str(with_words), "--make"]
    assert cli.main([*given, "--types", "Q8_0"]) == 1
    assert "words-Q8_0.gguf: making it needs llama_cpp: pip install llama-cpp-python" in capsys.readouterr().err
    assert cli.main([*given, "--types", "none"]) == 1
    assert "rand1b-F16.gguf: making it needs gguf: pip install gguf" in capsys.readouterr().err
    assert list((tmp_path / "new").iterdir()) == []


def test_a_file_that_fails_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), gguf_files._written(tmp_path / "a.gguf") as part:
        part.write_bytes(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with gguf_files._written(tmp_path / "a.gguf") as part:
        part.write_bytes(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


# ---- with llama.cpp itself -------------------------------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_K_M", "MXFP4", "F16"])
def test_llama_cpp_makes_what_ours_reads(kind: str, with_words: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    (made,) = gguf_files.make_files(with_words, tmp_path, [kind], [], 1)
    file = GgufFile(made)
    types = {file.dtype(name) for name in file if name.startswith("blk.") and len(file.shape(name)) > 1}
    expected = {"Q4_K_M": {"Q5_0", "Q8_0"}}.get(kind, {kind})  # rows of 64 are too short for K types
    assert types <= expected and made.name == f"words-{kind}.gguf"
    (row,) = gguf_quality.measure_quality([made], 1, 20, [])
    assert row["libraries"]["llama.cpp"]["kl"] < 0.02 and row["libraries"]["fastattn"]["kl"] < 0.02, row


@pytest.mark.parity
def test_the_random_model(with_words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("llama_cpp", "gguf"):
        pytest.importorskip(name)
    sizes = {"layers": 1, "hidden": 256, "inner": 512, "heads": 4, "kv_heads": 2, "head": 64}
    monkeypatch.setattr(gguf_files, "RANDOM_SIZES", sizes)
    made = gguf_files.make_files(with_words, tmp_path, [], ["Q4_K_M"], 1)
    assert [path.name for path in made] == ["rand1b-Q4_K_M.gguf"]
    file = GgufFile(tmp_path / "rand1b-F16.gguf")
    assert {name: file.shape(name) for name in file} == gguf_files.random_shapes(file.shape("token_embd.weight")[0])
    assert list(file.fields["tokenizer.ggml.tokens"]) == list(GgufFile(with_words).fields["tokenizer.ggml.tokens"])
    assert {GgufFile(made[0]).dtype(name) for name in file} == {"Q4_K", "Q6_K", "F32"}
    (row,) = gguf_speed.race(made, [1], cases_of(12, 4, 2), Plan(rounds=2))
    assert row["error"] is None and row["type"] == "Q4_K"
    assert all(row[name]["best"]["ratio"] > 0 for name in ("prefill", "decode", "batch"))
    (loaded,) = gguf_load.measure_load(made, 1, 1)
    assert list(loaded["libraries"]) == ["fastattn", "packed", "llama.cpp", "llama.cpp mapped"]
    assert all("error" not in figures for figures in loaded["libraries"].values())
