# SPDX-License-Identifier: MIT
"""``fastattn bench model``: the grid, latency, cold start, quality, families; peers that fail or are wrong."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from support.shares import can_be
from test_bench import QUICK, bench

from fastattn import cli
from fastattn.bench import (
    callers,
    child,
    cold,
    corpus,
    families,
    latency,
    model,
    peers,
    quality,
    random_model,
    smaps,
    stream,
)
from fastattn.bench.shapes import ModelCase


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert.save_folder(tmp_path_factory.mktemp("tiny") / "model", "plain")


def test_model_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench("model", "--model", str(folder), "--shapes", "1x16", "--rounds", "3", "--threads", "1", capsys=capsys)
    (row,) = found["cases"]
    assert row["shape"] == "B1 S16, 16 tokens" and can_be(row)
    process = found["processes"]["fastattn"]
    assert process["load_s"] > 0 and process["peak_rss_bytes"] > 1 << 20


def test_model_determinism(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench("model", "--model", str(folder), "--shapes", "1x16", "--check-determinism", capsys=capsys)
    assert found["same"] is True


def test_model_errors_are_one_line(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "model", "--model", str(tmp_path), "--shapes", "1x16"]) == 1
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and str(tmp_path) in err
    # 128 tokens, 40 positions: ours cannot take part, and says so
    assert cli.main(["bench", "model", "--model", str(folder), "--shapes", "1x128", "--rounds", "2"]) == 1
    assert "40 positions" in capsys.readouterr().err


def test_a_peer_process_that_dies_is_a_row_without_ratio(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    real = child.Child

    def make(name: str, *rest: Any) -> child.Child:
        if name == "torch":
            raise child.ChildError(name, "ImportError: no such thing")
        return real(name, *rest)

    monkeypatch.setattr(model, "Child", make)
    with model.Field(folder, ["torch"], 1) as field:
        (row,) = field.run([ModelCase("three", (3, 9, 1))], QUICK)
    assert row["peers"] == {"torch": {"error": "ImportError: no such thing"}}


def test_a_peer_that_dies_on_the_way_is_left_out(folder: Path) -> None:
    with model.Field(folder, [], 1) as field, child.Child("fastattn", folder, 1) as other:
        field.peers.append("other")
        field.children["other"] = other
        calls = 0

        def run(count: int) -> float:
            nonlocal calls
            calls += 1
            if calls > 3:
                raise child.ChildError("other", "its process ended with status -9")
            return 1e-2 * count

        other.run = run  # type: ignore[method-assign]
        first, second = field.run([ModelCase("three", (3, 9, 1)), ModelCase("one", (4,))], QUICK)
    for row in (first, second):
        assert row["peers"] == {"other": {"error": "its process ended with status -9"}} and row["rounds"] == 3


def test_a_child_says_what_went_wrong(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(child.ChildError, match="FileNotFoundError: .*neither model.safetensors nor"):
        child.Child("fastattn", tmp_path, 1)
    with child.Child("fastattn", folder, 1) as process:
        with pytest.raises(child.ChildError, match="ValueError: input_ids"):
            process.prepare(np.full((1, 3), 99), np.ones((1, 3), np.int64))
        with pytest.raises(child.ChildError):  # it has ended
            process.run(1)


def test_model_flops(folder: Path) -> None:
    config = tiny_bert.config("plain")
    h, wide = config["hidden_size"], config["intermediate_size"]
    expected = config["num_hidden_layers"] * sum(2 * s * (4 * h * h + 2 * h * wide) + 4 * s * s * h for s in (3, 5))
    assert model.model_flops(folder, ModelCase("two", (3, 5))) == expected


@pytest.mark.parity
def test_all_peers_agree_on_a_model(folder: Path) -> None:
    for name in ("torch", "transformers"):
        pytest.importorskip(name)
    names, _ = peers.installed(["torch", "onnxruntime", "openvino", "ctranslate2"])
    with model.Field(folder, names, 1) as field:
        (row,) = field.run([ModelCase("three", (3, 9, 1))], QUICK)
    assert all("ratio" in figures for figures in row["peers"].values()), row["peers"]


# ---- random models and other types of weights ------------------------------------------------------------------------

TINY_CONFIG = tiny_bert.config("plain")


def test_random_models_load_and_are_the_same_each_time(tmp_path: Path) -> None:
    import fastattn

    folders = [random_model.write_folder(tmp_path / name, TINY_CONFIG) for name in _made(tmp_path, "a", "b")]
    first, second = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == second
    hidden = fastattn.load(folders[0])([[5, 6, 7]]).last_hidden_state
    assert hidden.shape == (1, 3, TINY_CONFIG["hidden_size"]) and np.isfinite(hidden).all()
    shapes = random_model.tensor_shapes(folders[0])
    stored = sum(4 * int(np.prod(shape)) for shape in shapes.values())
    assert stored < len(first) < stored + 10_000


def _made(parent: Path, *names: str) -> tuple[str, ...]:
    for name in names:
        (parent / name).mkdir()
    return names


def test_the_sizes_of_bert_base(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(random_model.RANDOM["bert-base"]))
    shapes = random_model.tensor_shapes(tmp_path)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 108_891_648  # 110 million with the pooler
    with pytest.raises(ValueError, match="random: got 'gpt', expected one of bert-base"):
        random_model.random_folder("gpt")
    (tmp_path / "config.json").write_text('{"model_type": "gpt"}')
    with pytest.raises(ValueError, match=r"model_type 'gpt' is none of .*\bbert\b"):
        random_model.tensor_shapes(tmp_path)


def test_random_model_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(random_model.RANDOM, "bert-base", TINY_CONFIG)
    found = bench("model", "--random", "bert-base", "--shapes", "1x16", "--rounds", "2", "--threads", "1", "--cpu-time",
                  capsys=capsys)  # fmt: skip
    assert (found["model"], found["dtype"], found["clock"]) == ("bert-base", "float32", "cpu")
    assert found["cases"][0]["median_s"] > 0


def test_cosines() -> None:
    random = np.random.default_rng(0)
    hidden, mask = random.standard_normal((2, 3, 8)), np.array([[1, 1, 0], [1, 0, 0]])
    turned = hidden.copy()
    turned[0, 2] = np.nan  # padding
    assert model.lowest_cosine(3 * turned, hidden, mask) == pytest.approx(1)
    turned[1, 0] *= -1
    assert model.lowest_cosine(turned, hidden, mask) == pytest.approx(-1)
    assert model.lowest_cosine(np.zeros((1, 1, 2)), np.ones((1, 1, 2)), np.ones((1, 1))) == 0


@pytest.mark.parametrize("dtype", ["int8", "bfloat16", "float16"])
def test_other_types_of_weights(dtype: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["model", "--model", str(folder), "--shapes", "1x16", "--rounds", "2", "--threads", "1", "--dtype", dtype]
    found = bench(*args, capsys=capsys)
    (row,) = found["cases"]
    assert found["dtype"] == dtype and row["limit"] == ("int8" if dtype == "int8" else "fma")
    assert 0.99 < row["lowest_cosine"]["fastattn"] < 1
    assert cli.main(["bench", *args]) == 0
    assert "lowest cosine of a token's vector with that of float32: fastattn " in capsys.readouterr().out


def test_coarse_peers_are_judged_by_cosines(folder: Path) -> None:
    with model.Field(folder, [], 1) as field:
        field._dtype = "int8"
        ids, mask = model.make_batch(ModelCase("two", (3, 5)), field.vocab_size)
        right = field.children["fastattn"].prepare(ids, mask)
        found: dict[str, float] = {}
        for name, hidden in {"near": right + np.float32(0.01), "wrong": right[..., ::-1]}.items():
            field.children[name] = _Fake(hidden)  # type: ignore[assignment]
            verdict = field._prepared(name, ids, mask, right, found)
            assert isinstance(verdict, str) == (name == "wrong")
    assert found["near"] > 0.99 > found["wrong"]


class _Fake:
    def __init__(self, hidden: np.ndarray) -> None:
        self._hidden = hidden

    def prepare(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return self._hidden

    def run(self, count: int) -> float:
        return 1e-3 * count


# ---- latency ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def short_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "_CALLER_SECONDS", 0.05)


def test_call_rate_counts_whole_calls() -> None:
    rates = [callers.call_rate([lambda: time.sleep(0.01)] * count, 0.2)[0] for count in (1, 4)]
    assert 20 < rates[0] <= 100 and rates[0] < rates[1] <= 400

    def broken() -> None:
        raise KeyError("no such thing")

    with pytest.raises(RuntimeError, match="a caller failed: 'no such thing'"):
        callers.call_rate([broken, lambda: None], 0.05)


@pytest.mark.usefixtures("short_callers")
def test_latency_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["model", "--model", str(folder), "--latency", "--calls", "30", "--callers", "2", "--rounds", "1"]
    found = bench(*args, "--threads", "1", capsys=capsys)
    (row,) = found["libraries"]
    assert row["calls"] == 30 and 0 < row["p50_s"] <= row["p95_s"] <= row["p99_s"] <= row["worst_s"]
    assert row["callers"] == 2 and row["one_rate"] > 0 and row["gain"] > 0
    assert 0 < row["one_cpu_s"] < 1 and 0 < row["many_cpu_s"] < 1


@pytest.mark.usefixtures("short_callers")
def test_latency_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["model", "--model", str(folder), "--latency", "--calls", "30", "--rounds", "1", "--threads", "1"]
    assert cli.main(["bench", *args]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("fastattn ") and "4 callers" in lines[-2]


# ---- cold start ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tokenizers")
    return tiny_bert.save_text_folder(tmp_path_factory.mktemp("text") / "model")


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="Linux alone tells what memory is whose")
def test_cold_command(text_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["model", "--model", str(text_folder), "--cold", "--rounds", "1", "--workers", "2"]
    found = bench(*args, capsys=capsys)
    start, memory = found["cold_start"], found["memory"]
    assert 0 < start["python"]["median_s"] < start["load"]["median_s"] and start["load"]["beyond_numpy_cpu_s"] > 0
    assert memory["workers"] == len(memory["private_bytes"]) == 2
    assert 0.5 < memory["pss_ratio"] < 1.5 and memory["one"]["mapping_rss_bytes"] >= 4096
    monkeypatch.setattr(cold, "cold_start", lambda path, rounds: start)
    monkeypatch.setattr(cold, "worker_memory", lambda path, workers: memory)
    assert cli.main(["bench", *args]) == 0
    assert "PSS of the mapping: one worker" in capsys.readouterr().out


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(child.ChildError, match=r"FileNotFoundError: .*nothing"):
        cold.cold_start(tmp_path / "nothing", 1)


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="Linux alone tells what memory is whose")
def test_memory_of_this_process(tmp_path: Path) -> None:
    import mmap

    path = tmp_path / "file"
    path.write_bytes(b"x" * (1 << 20))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[::4096]) > 0
        private = np.ones(1 << 20)
        for where in (path, tmp_path):
            found = smaps.read_memory(os.getpid(), where)
            assert found.mapping_rss == found.mapping_pss == 1 << 20
            assert found.peak_rss > found.private > private.nbytes


# ---- quality ---------------------------------------------------------------------------------------------------------


def test_ranking() -> None:
    axes = np.eye(20)
    assert quality.ranking(axes, axes) == {"ndcg_10": 1, "mrr_10": 1, "recall_1": 1}
    assert quality.ranking(axes, np.ones((20, 20))) == {"ndcg_10": 0, "mrr_10": 0, "recall_1": 0}
    second = quality.ranking(axes[:2], np.array([[0.5, 1], [1, 0.5]] + [[0, 0]] * 0) @ axes[:2])
    assert second == {"ndcg_10": pytest.approx(1 / np.log2(3)), "mrr_10": 0.5, "recall_1": 0}


def test_corpus() -> None:
    sentences = corpus.real_sentences(200)
    assert len(set(sentences)) == 200 and all(4 <= len(text.split()) <= 60 for text in sentences)
    pairs = corpus.docstring_pairs(100)
    assert len({question for question, _ in pairs}) == len({answer for _, answer in pairs}) == 100
    with pytest.raises(ValueError, match="sentences: got 1000000, expected at most"):
        corpus.real_sentences(1_000_000)
    with pytest.raises(ValueError, match="pairs: got 1000000, expected at most"):
        corpus.docstring_pairs(1_000_000)


def test_sentence_vectors_are_means_of_the_tokens_that_are_there() -> None:
    mask = np.array([[1, 1, 1], [1, 0, 0]])
    hidden = np.array([[1.0, 0], [0, 1], [2, 2], [0, -5]])
    found = quality._sentence_vectors([hidden], [(np.array([1, 0]), mask, mask)])
    assert found == pytest.approx(np.array([[0, -1], [2**-0.5, 2**-0.5]]))


def test_quality(text_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = quality.quality(text_folder, "float32", [], 1, sentences=40, pairs=50)
    assert set(first) == {"name", "dtype", "ndcg_10", "mrr_10", "recall_1"}
    assert second["sentence_worst"] == pytest.approx(1) == second["random_token_lowest"]
    assert all(second[key] == first[key] for key in ("ndcg_10", "mrr_10", "recall_1"))
    with pytest.raises(ValueError, match="no tokenizer.json"):
        next(quality.quality(text_folder / "..", "int8", [], 1))
    monkeypatch.setattr(quality, "docstring_pairs", lambda count: [("a cat sat", "on the mat"), ("東京", "a b c d")])
    args = ["model", "--model", str(text_folder), "--quality", "--sentences", "10", "--dtype", "float32"]
    assert [row["name"] for row in bench(*args, capsys=capsys)["rows"]] == ["fastattn", "fastattn"]
    args[-1] = "int8"
    _, coarse = bench(*args, capsys=capsys)["rows"]
    assert coarse["dtype"] == "int8" and 0.98 < coarse["token_lowest"] < coarse["sentence_mean"] < 1
    assert cli.main(["bench", *args]) == 0
    assert "nDCG@10" in capsys.readouterr().out


# ---- stream ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="Linux alone tells what memory is whose")
def test_stream_command(text_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["model", "--model", str(text_folder), "--stream", "4000", "--threads", "1"]
    found = bench(*args, capsys=capsys)
    assert found["texts"] == 4000 and found["texts_per_second"] > 100
    assert len(found["rss_bytes"]) == 10 and found["rss_bytes"][-1] > 1 << 20
    assert cli.main(["bench", *args]) == 0
    assert "growth after the second tenth" in capsys.readouterr().out


def test_a_stream_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(child.ChildError, match="nothing"):
        stream.watch_stream(tmp_path / "nothing", 1000, 1)


def test_generated_texts() -> None:
    texts = [text for part in stream.generated_texts(2500) for text in part]
    assert len(texts) == 2500 and len(set(texts)) > 2400 and {len(text.split()) for text in texts} == set(range(3, 13))


# ---- families --------------------------------------------------------------------------------------------------------


def test_families_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = {**TINY_CONFIG, "max_position_embeddings": 200}
    known = {"bert": tiny, "other": {**tiny, "model_type": "nothing we know"}, "short": TINY_CONFIG}
    monkeypatch.setattr(families, "CONFIGS", known)
    found = bench("model", "--families", "--rounds", "1", "--threads", "1", capsys=capsys)
    names = [row["name"] for row in found["cases"]]
    assert names[:4] == ["bert 1x16", "bert 1x128", "bert 8-mixed-8..127", "other"]
    assert found["cases"][3]["error"] == "not supported by this version"
    assert found["cases"][4]["name"] == "short 1x16" and "40 positions" in found["cases"][5]["error"]
    assert cli.main(["bench", "model", "--families", "--rounds", "1"]) == 0
    assert "other: not supported" in capsys.readouterr().out


@pytest.mark.parametrize("family", families.CONFIGS)
def test_flops_of_every_family(family: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(families.CONFIGS[family]))
    assert 1e9 < model.model_flops(tmp_path, ModelCase("1x16", (16,))) < 5e9
    assert len(random_model.tensor_shapes(tmp_path)) > 20
    with pytest.raises(ValueError, match="no 'num_hidden_layers'"):
        (tmp_path / "config.json").write_text("{}")
        model.model_flops(tmp_path, ModelCase("1x16", (16,)))


def test_options_that_do_not_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    for args in (
        ["--calls", "5"], ["--workers", "2"], ["--sentences", "3", "--latency"], ["--latency", "--shapes", "1x16"],
        ["--cold", "--compare", "torch"], ["--families", "--model", "x"], ["--random", "bert-base", "--quality"],
        ["--random", "gpt"], ["--latency", "--cold"], ["--cpu-time", "--threads", "2"], ["--latency", "--cpu-time"],
        ["--stream", "0"], ["--stream", "9", "--compare", "torch"],
    ):  # fmt: skip
        assert cli.main(["bench", "model", *args]) == 2, args
    assert capsys.readouterr().err.count("error: argument") == 13
