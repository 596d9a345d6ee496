# SPDX-License-Identifier: MIT
"""What measures is measured: tables, rounds, ratios, limits, peers that are absent, fail or are wrong."""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

import numpy as np
import pytest
from support.commands import run
from support.shares import can_be

from fastattn import cli
from fastattn.bench import (
    attention,
    compare,
    determinism,
    linear,
    linear_attention,
    overhead,
    peaks,
    peers,
    report,
    shapes,
    similarity,
    timing,
)
from fastattn.bench.shapes import AttentionCase, LinearCase

TINY = AttentionCase("tiny", 1, 2, 2, 8, 8, 16)
QUICK = timing.Plan(rounds=3)


def bench(*args: str, capsys: pytest.CaptureFixture[str]) -> Any:
    """The JSON object of a bench command in this process."""
    status = cli.main(["bench", *args, "--json"])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return json.loads(out)


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cold is cold by name only: filling memory that no cache holds takes seconds."""
    for module in (peaks, linear, linear_attention):
        monkeypatch.setattr(module, "cold_bytes", lambda: 1 << 22)
    linear._weights.cache_clear()
    linear._packed.cache_clear()


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_tables_cover_what_they_promise() -> None:
    for table in (shapes.LINEAR, shapes.MODEL):
        assert len({case.name for case in table}) == len(table)
    assert len(shapes.LINEAR) == 7 * 10
    assert (
        min(shapes.MODEL[2].lengths) == 8 and max(shapes.MODEL[2].lengths) == 127 and len(shapes.MODEL[2].lengths) == 32
    )


def test_select() -> None:
    def names(*patterns: str) -> list[str]:
        return [case.name for case in shapes.select(shapes.LINEAR, patterns)]

    assert names("384x384-r1") == ["384x384-r1"]
    assert names("384x384-r12") == ["384x384-r128"]
    assert names("r8", "r4") == [case.name for case in shapes.LINEAR if case.rows in (4, 8)]
    assert len(names("*-r1")) == 7
    with pytest.raises(ValueError, match="'zzz' selects none of the 70 cases"):
        names("r1", "zzz")


# ---- timing ----------------------------------------------------------------------------------------------------------


def test_rounds_rotate_and_take_one_sample_each() -> None:
    order: list[str] = []

    def contestant(name: str, seconds: float) -> timing.Contestant:
        def go(count: int) -> float:
            order.append(name)
            return seconds * count

        return timing.Contestant(name, go, calls=1)

    three = [contestant("a", 1.0), contestant("b", 2.0), contestant("c", 3.0)]
    timing.run_rounds(three, timing.Plan(rounds=3))
    assert "".join(order) == "abcbcacab"
    assert [c.samples for c in three] == [[1.0] * 3, [2.0] * 3, [3.0] * 3]


def test_short_calls_are_repeated_and_samples_are_of_one_call() -> None:
    counts: list[int] = []

    def go(count: int) -> float:
        counts.append(count)
        return count * 1e-4

    short = timing.Contestant("short", go)
    timing.run_rounds([short], timing.Plan(rounds=2))
    assert short.calls == 20 and set(counts) == {1, 20}
    assert short.samples == pytest.approx([1e-4, 1e-4])


def test_plan() -> None:
    assert [timing.Plan(rounds=2).goes_on(done, 100.0) for done in (0, 1, 2)] == [True, True, False]
    plan = timing.Plan(seconds=1.0, least=5, most=7)
    assert plan.goes_on(4, 100.0) and not plan.goes_on(5, 1.5) and plan.goes_on(6, 0.5) and not plan.goes_on(7, 0.5)


def test_statistics() -> None:
    assert timing.percentile(list(map(float, range(1, 101))), 0.95) == 95
    assert timing.percentile([7.0], 0.95) == 7
    assert timing.median_ratio([10, 30, 2], [1, 10, 1]) == 3  # not the ratio of the medians
    assert timing.geometric_mean([2.0, 8.0]) == pytest.approx(4)
    assert timing.fastest([lambda: sum(range(30000)), lambda: 1])() == 1
    assert timing.fastest([lambda: 7])() == 7


def test_share_is_that_of_the_limit_that_binds() -> None:
    limits = peaks.Limits(1, read=False)
    limits.read = timing.Contestant("read", lambda count: 0.0)
    limits._flops, limits._piece_bytes = 100.0, 10.0
    limits.fma.samples = [1.0, 2.0, 1.0]  # 100, 50, 100 flops per second
    limits.read.samples = [1.0, 1.0, 2.0]  # 10, 10, 5 bytes per second
    assert limits.share([10.0, 20.0, 20.0], flops=500, cold=0) == (0.5, "fma")
    assert limits.share([10.0, 10.0, 10.0], flops=500, cold=90) == (pytest.approx(0.9), "read")


def test_duration() -> None:
    assert [report.duration(s) for s in (2.0, 0.0123, 4.5e-6, 3e-9)] == ["2 s", "12.3 ms", "4.5 us", "3 ns"]


def test_peaks_are_plausible() -> None:
    found = peaks.measure_peaks(1, rounds=3)
    assert 0.1 < found["gflops"] < 1e4 and 0.1 < found["gbytes_per_second"] < 1e4
    assert found["gflops_p05"] <= found["gflops"] <= found["gflops_p95"]


# ---- comparisons -----------------------------------------------------------------------------------------------------


class Fake(peers.Peer):
    """A peer whose attention is a function of one set."""

    def __init__(self, name: str, function: Any) -> None:
        super().__init__(1)
        self.name, self._function = name, function

    def attention(self, case: AttentionCase, sets: Any) -> list[peers.Form]:
        return [peers.Form("only", lambda: lambda index: self._function(sets[index]))]


def test_peers_that_are_slow_wrong_broken_or_offer_nothing() -> None:
    import time

    from fastattn import attention as our_attention

    def slow(s: Any) -> np.ndarray:
        time.sleep(2e-3)
        return our_attention(s.q, s.k, s.v)

    def broken(s: Any) -> np.ndarray:
        raise KeyError("no\nsuch thing")

    field = [
        Fake("slow", slow),
        Fake("wrong", lambda s: s.v * 2),
        Fake("nan", lambda s: s.v * np.nan),
        Fake("broken", broken),
        peers.Peer(1),
    ]
    field[-1].name = "empty"
    row = attention.run_case(TINY, field, peaks.Limits(1, read=False), QUICK)
    assert row["rounds"] == 3 and 0 < row["median_s"] <= row["p95_s"] and row["limit"] == "fma"
    found = row["peers"]
    assert list(found) == ["slow", "wrong", "nan", "broken", "empty"]
    assert found["slow"]["median_s"] > 2e-3 and found["slow"]["ratio"] > 10
    assert "its result differs by" in found["wrong"]["error"] and "its result differs by nan" in found["nan"]["error"]
    assert found["broken"] == {"error": "KeyError: 'no\\nsuch thing'"}
    assert found["empty"] == {"error": "empty offers no attention operator"}
    assert row["best"] == {"name": "slow", "ratio": found["slow"]["ratio"]} and found["slow"]["form"] == "only"
    means = compare.geometric_means([row, row])
    assert list(means) == ["slow"] and means["slow"] == pytest.approx(found["slow"]["ratio"])
    table = report.Table(["tiny"], [row["shape"]], list(found))
    assert len(table.heading()) == len(table.row(row))
    assert "empty: empty offers no attention operator (tiny and 1 more)" in table.errors([row, row])


@pytest.mark.parametrize("name", [name for name in peers.NAMES if name != "ctranslate2"])
def test_peers_compute_linear_layers(name: str) -> None:
    pytest.importorskip({"numpy": "threadpoolctl", "onnxruntime": "onnx"}.get(name, name))
    pytest.importorskip(name)
    found, notes = peers.open_peers([name], 1)
    assert not notes
    try:
        row = linear.run_case(LinearCase(24, 40, 16), found, peaks.Limits(1, read=False), QUICK)
        assert row["peers"][name]["ratio"] > 0, row
    finally:
        found[0].close()


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
@pytest.mark.usefixtures("small_memory")
def test_peers_compute_linear_attention(name: str, rule: str) -> None:
    pytest.importorskip({"onnxruntime": "onnx"}.get(name, name))
    pytest.importorskip(name)
    found, notes = peers.open_peers([name], 1)
    assert not notes
    try:
        for tokens in (1, 40):
            case = linear_attention.LinearAttentionCase("tiny", rule, 2, tokens, 4, 2, 16, 24)
            row = linear_attention.run_case(case, found, peaks.Limits(1), QUICK)
            assert row["peers"][name]["ratio"] > 0, row
    finally:
        found[0].close()


@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean", "manhattan"])
def test_peers_find_the_same_rows(name: str, metric: Any) -> None:
    pytest.importorskip({"numpy": "threadpoolctl"}.get(name, name))
    found, notes = peers.open_peers([name], 1)
    assert not notes
    try:
        case = similarity.SimilarityCase(metric, 5, 300, 24, 7)
        row = similarity.run_case(case, found, peaks.Limits(1, read=False), QUICK)
        if name == "numpy" and metric in ("euclidean", "manhattan"):
            assert "distances of all pairs" in row["peers"][name]["error"]
        else:
            assert row["peers"][name]["ratio"] > 0, row
    finally:
        found[0].close()


def test_similarity_command(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench("similarity", "--shapes", "cosine-q1", "--rounds", "2", "--threads", "1", capsys=capsys)
    assert [(row["name"], row["limit"]) for row in found["cases"]] == [("cosine-q1", "read")]


@pytest.mark.usefixtures("small_memory")
def test_linear_attention_command(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["linear-attention", "--shapes", "linear-t512-d64,gated-step", "--rounds", "2", "--threads", "1"]
    found = bench(*args, capsys=capsys)
    assert [row["limit"] for row in found["cases"]] == ["fma", "read"]
    assert all(map(can_be, found["cases"]))


def test_absent_peers_are_said_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    found = bench(
        "attention", "--shapes", "full-n16-d64", "--rounds", "2", "--compare", "torch,openvino,torch", capsys=capsys
    )
    assert found["notes"] == ["torch: not installed, left out", "openvino: not installed, left out"]
    assert found["peers"] == {} and found["cases"][0]["peers"] == {}
    assert found["best_rival"] is None and found["cases"][0]["best"] is None
    assert cli.main(["bench", "attention", "--shapes", "full-n16-d64", "--rounds", "2", "--compare", "torch"]) == 0
    assert "\ntorch: not installed, left out\n" in capsys.readouterr().out


def test_a_peer_that_cannot_be_imported_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "fastattn.bench.peers.with_torch", raising=False)
    found, notes = peers.open_peers(["torch"], 1)
    assert not found and len(notes) == 1 and notes[0].startswith("torch: left out: ModuleNotFoundError")


def test_unknown_peers_are_an_error() -> None:
    with pytest.raises(ValueError, match="compare: 'keras' is unknown"):
        peers.installed(["keras"])


# ---- the commands ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_memory")
def test_attention_command(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(
        "attention", "--shapes", "full-n16-d64,decode-sk128-d64", "--rounds", "3", "--threads", "1", capsys=capsys
    )
    assert [row["name"] for row in found["cases"]] == ["full-n16-d64", "decode-sk128-d64"]
    for row in found["cases"]:
        assert row["gflops"] > 0 and can_be(row) and row["rounds"] == 3
    assert found["num_threads"] == 1 and found["geometric_mean"] == {}


@pytest.mark.usefixtures("small_memory")
def test_linear_command_beside_numpy(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("threadpoolctl")
    args = ["linear", "--shapes", "384x384-r1,384x384-r16", "--rounds", "3", "--threads", "1", "--compare", "numpy"]
    found = bench(*args, capsys=capsys)
    cold, warm = found["cases"]
    assert cold["gbytes_per_second"] > 0 and warm["gbytes_per_second"] is None and warm["limit"] == "fma"
    ratios = [row["peers"]["numpy"]["ratio"] for row in found["cases"]]
    assert found["geometric_mean"]["numpy"] == pytest.approx(statistics.geometric_mean(ratios))
    assert cli.main(["bench", *args]) == 0
    out = capsys.readouterr().out
    assert "numpy/ours" in out and "geometric mean numpy/ours: " in out
    assert "geometric mean best rival/ours: " in out and " over 2 cases, least " in out


@pytest.mark.usefixtures("small_memory")
def test_linear_command_with_other_weights(capsys: pytest.CaptureFixture[str]) -> None:
    """Beside our own float32 weights, which are no rival; int8 against the peak of its own products."""
    shapes = "384x384-r16,384x384-r1"
    args = ["linear", "--dtype", "int8,bfloat16", "--shapes", shapes, "--rounds", "2", "--threads", "1"]
    found = bench(*args, capsys=capsys)
    assert [row["name"] for row in found["cases"]] == [
        "384x384-r1-int8", "384x384-r16-int8", "384x384-r1-bfloat16", "384x384-r16-bfloat16"
    ]  # fmt: skip
    assert [row["limit"] for row in found["cases"][1::2]] == ["int8", "fma"]
    assert all(row["peers"]["float32"]["ratio"] > 0 and row["best"] is None for row in found["cases"])
    assert cli.main(["bench", *args]) == 0
    assert "float32/ours" in capsys.readouterr().out
    for dtype, words in (("int4", "'int4' is unknown"), ("float32,int8", "give it alone")):
        assert cli.main(["bench", "linear", "--dtype", dtype]) == 2
        assert words in capsys.readouterr().err


def test_blas_is_not_held_back_in_a_comparison() -> None:
    pytest.importorskip("threadpoolctl")
    args = ("bench", "attention", "--shapes", "full-n16-d64", "--threads", "1", "--rounds", "2")
    args += ("--compare", "numpy", "--json")
    plain, held_back = run(*args), run(*args, env={"OPENBLAS_CORETYPE": "Prescott"})
    assert (plain[0], plain[2], held_back[0]) == (0, "", 0)
    assert held_back[2] == "fastattn: OPENBLAS_CORETYPE is left out of the comparison's environment\n"
    assert json.loads(held_back[1])["peers"] == json.loads(plain[1])["peers"]


def test_overhead_command(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench("attention", "--overhead", "--seconds", "0.05", capsys=capsys)
    assert 0 < found["least_us"] <= found["median_us"] <= found["p95_us"]


def test_memory_of_a_call_does_not_grow_with_the_square() -> None:
    found = overhead.attention_memory(4096, 64, 2)
    assert found["score_bytes"] == 64 << 20
    assert found["growth_bytes"] < 4 << 20


def test_the_memory_figure_sees_memory() -> None:
    code = """
        import numpy as np
        from fastattn.bench import overhead
        def call(q, *rest, **options):
            return np.full(q.shape[-2] ** 2, 1.0, np.float32)
        overhead.attention = call
        print(overhead.memory_of_one_call(2048, 64, 1))
    """
    from support.processes import output_of

    assert 15 << 20 <= int(output_of(code)) <= 20 << 20


def test_determinism_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for args in (
        ["attention", "--shapes", "full-n16-d64,gqa-chunk16"],
        ["linear", "--shapes", "384x384-r2"],
        ["linear-attention", "--shapes", "gated-delta-t64-d128"],
        ["similarity", "--shapes", "cosine-q1"],
    ):
        found = bench(*args, "--check-determinism", capsys=capsys)
        assert found["same"] is True
        assert all(row["variants"] >= 6 and not row["different"] for row in found["cases"])


def test_a_difference_is_found_and_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    row = determinism.check_call("fake", lambda n: [np.full(3, np.float32(n > 2))], 1e3, kernels=False)
    assert [text.split(", ")[2] for text in row["different"]] == ["3 threads", "3 threads (again)"]
    monkeypatch.setattr(determinism, "check_attention", lambda cases: iter([row]))
    assert cli.main(["bench", "attention", "--check-determinism"]) == 1
    out, err = capsys.readouterr()
    assert "DIFFERENT" in out and err == "fastattn: results differ in fake\n"
