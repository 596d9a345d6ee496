# SPDX-License-Identifier: MIT
"""Shares of the machine's limits that cannot be: threads that spin beside the probe are waited for, or it is said."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from golden import tiny_bert

from fastattn import _testing, cli
from fastattn.bench import families, inputs, linear, linear_attention, peaks, quiet, report, shapes, shares, timing
from fastattn.bench.attention_shapes import AttentionCase
from fastattn.bench.compare import compare
from fastattn.bench.peaks import Limits
from fastattn.bench.quiet import Quiet, running_threads
from fastattn.bench.timing import Contestant, Plan

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux alone tells which threads run")

# ---- something that spins --------------------------------------------------------------------------------------------


class Spinner:
    """A pool whose thread spins for a while after each call, as those of OpenMP do, and without Python's lock."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._end, self._over, self._called = seconds, 0.0, False, threading.Event()
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()

    def call(self) -> None:
        self._end = time.perf_counter() + self._seconds
        self._called.set()
        time.sleep(2e-3)  # by now it has left Python

    @property
    def spins(self) -> bool:
        return time.perf_counter() < self._end

    def _loop(self) -> None:
        while self._called.wait() and not self._over:
            self._called.clear()
            while self.spins:
                _testing.probe_parallel(1, 1, busy_ns=int(1e9 * (self._end - time.perf_counter())) + 1000)

    def close(self) -> None:
        self._over = True
        self._called.set()
        self._thread.join()


@pytest.fixture
def spinner() -> Iterator[Spinner]:
    made = Spinner(0.05)
    yield made
    made.close()


_CHILD = """
import sys, threading, time
def spin(end):
    while time.perf_counter() < end: pass
for line in sys.stdin:
    threading.Thread(target=spin, args=(time.perf_counter() + float(line),)).start()
    print("called", flush=True)
"""


class SpinningChild:
    """The same in a process of its own."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _CHILD]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(self, seconds: float) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "called\n"


@pytest.fixture
def spinning_child() -> Iterator[SpinningChild]:
    made = SpinningChild()
    yield made
    made.process.kill()
    made.process.communicate()


# ---- who runs --------------------------------------------------------------------------------------------------------


def test_threads_of_this_process_are_waited_for(spinner: Spinner) -> None:
    judge = Quiet()
    judge.settle()
    assert running_threads() == 0 and judge.settle() is False  # nothing runs: no time has passed
    spinner.call()
    assert judge.running() == ["this process"]
    assert judge.settle() is True and not spinner.spins
    assert judge.running() == [] and judge.fault() is None


def test_threads_of_other_processes_are_waited_for(spinning_child: SpinningChild) -> None:
    judge = Quiet({"peer": spinning_child.process.pid})
    spinning_child.call(0.0)
    judge.settle()
    before = time.perf_counter()
    spinning_child.call(0.2)
    assert judge.running() == ["peer"]
    assert judge.settle() is True and time.perf_counter() - before >= 0.2
    assert judge.running() == []
    spinning_child.process.kill()
    spinning_child.process.wait()
    assert judge.running() == [] and judge.settle() is False  # one that has ended does not run


def test_threads_that_never_sleep_are_waited_for_once(
    spinning_child: SpinningChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    spinning_child.call(600.0)
    judge = Quiet({"peer": spinning_child.process.pid})
    monkeypatch.setattr(quiet, "_ENOUGH", 0.02)
    judge.settle()
    assert judge.restless == ["peer"]
    assert judge.fault() == "threads of peer run all the time, beside the probe of the limit"
    monkeypatch.setattr(quiet, "_ENOUGH", 600.0)
    judge.settle()  # does not take ten minutes
    judge.clear()
    assert judge.fault() is None


def test_without_proc_a_fixed_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(pid: int | None = None) -> int:
        raise FileNotFoundError("/proc/self/task")

    monkeypatch.setattr(quiet, "running_threads", unknown)
    judge = Quiet()
    before = time.perf_counter()
    assert judge.settle() is True and time.perf_counter() - before >= 5e-3 and judge.fault() is None


# ---- the rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found, measured, fault", [
    ([{"fma": 0.8}], 1, None),
    ([{"fma": 1.03}], 1, None),
    ([{"fma": 1.44}, {"fma": 0.8}], 2, None),
    ([{"fma": 1.44}, {"read": 1.2}, {"fma": 0.9}], 3, None),
    ([{"fma": 1.44}, {"fma": 1.5}, {"fma": 1.04}], 3, "1.04 times the FMA peak, which cannot be, 3 times in a row"),
    ([{"int8": 1.1}] * 3, 3, "1.10 times the int8 peak"),
    ([{"fma": 0.2, "read": 2.0}] * 3, 3, "2.00 times the read bandwidth"),
    ([{"gain": 1.3}] * 3, 3, "1.30 times the limit's own gain"),
])  # fmt: skip
def test_shares_that_cannot_be_are_measured_again(
    found: list[dict[str, float]], measured: int, fault: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "_PAUSE", 0.0)
    coming = iter(found)
    last, wrong = shares.believed(lambda: next(coming), lambda one: one, Quiet())
    assert last == found[measured - 1] and len(list(coming)) == len(found) - measured
    assert wrong == fault or (wrong is not None and fault is not None and wrong.startswith(fault))


def test_what_never_sleeps_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a share that could be is not shown: the probe beside it was disturbed."""
    judge, measured = Quiet(), []

    def measure() -> float:
        measured.append(1)
        judge.restless = ["torch"]
        return 0.8

    _, wrong = shares.believed(measure, lambda found: {"fma": found}, judge)
    assert wrong == "threads of torch run all the time, beside the probe of the limit" and len(measured) == 1


# ---- comparisons -----------------------------------------------------------------------------------------------------


def limits_with_a_probe(disturbed: Callable[[], bool], processes: dict[str, int] | None = None) -> Limits:
    """Of 1e12 FLOP/s; a third of that while something disturbs."""
    limits = Limits(2, read=False, processes=processes)
    limits.fma = Contestant("fma", lambda count: count * (3e-3 if disturbed() else 1e-3), calls=1)
    limits._flops = 10**9
    return limits


def compared(limits: Limits, peer: Callable[[int], float], rounds: int = 4) -> dict[str, Any]:
    """Ours at 80 per cent of the peak that nobody disturbs."""
    return compare(lambda count: count * 1e-3, {"peer": peer}, limits, Plan(rounds=rounds), flops=8e8)


def test_a_peer_that_spins_in_this_process_does_not_lower_the_peak(spinner: Spinner) -> None:
    def peer(count: int) -> float:
        spinner.call()
        return count * 2e-3

    row = compared(limits_with_a_probe(lambda: spinner.spins), peer)
    assert row["share"] == pytest.approx(0.8) and row["share_error"] is None
    assert row["fma_gflops"] == pytest.approx(1000) and row["best"]["ratio"] == pytest.approx(2)


def test_a_peer_that_spins_in_its_process_does_not_lower_the_peak(spinning_child: SpinningChild) -> None:
    pid = spinning_child.process.pid

    def peer(count: int) -> float:
        spinning_child.call(0.05)
        return count * 2e-3

    row = compared(limits_with_a_probe(lambda: running_threads(pid) > 0, {"peer": pid}), peer)
    assert row["share"] == pytest.approx(0.8) and row["share_error"] is None


def test_without_settling_there_is_no_share(spinner: Spinner, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the two tests above would see if nobody waited."""
    monkeypatch.setattr(Quiet, "settle", lambda self, least=0.0: False)
    monkeypatch.setattr(shares, "_PAUSE", 0.0)

    def peer(count: int) -> float:
        spinner.call()
        return count * 2e-3

    row = compared(limits_with_a_probe(lambda: spinner.spins), peer)
    assert (row["share"], row["fma_gflops"]) == (None, None)
    assert row["share_error"].startswith("2.40 times the FMA peak, which cannot be")


def test_a_peer_that_spins_for_ever_leaves_no_share(
    spinning_child: SpinningChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet, "_ENOUGH", 0.3)
    spinning_child.call(600.0)
    limits = limits_with_a_probe(lambda: False, {"ours": spinning_child.process.pid})
    row = compared(limits, lambda count: count * 2e-3, rounds=2)
    assert row["share"] is None and row["share_error"].endswith("ours run all the time, beside the probe of the limit")
    table = report.Table(["case"], ["shape"], ["peer"])
    text = table.row({"name": "case", "shape": "shape", **row})
    assert " - fma" in text and "%" not in text and len(text) == len(table.heading())
    assert report.share_errors([{"name": "case", **row}]) == [f"case: no share of the limit: {row['share_error']}"]


def test_waiting_is_none_of_the_plans_seconds() -> None:
    def settle() -> bool:
        time.sleep(5e-3)
        return False

    one = Contestant("one", lambda count: 1e-3, calls=1)
    timing.run_rounds([one], Plan(seconds=0.01, least=1, most=30), settle)
    assert len(one.samples) == 30


def test_a_call_after_waiting_is_not_counted() -> None:
    order: list[int] = []

    def go(count: int) -> float:
        order.append(count)
        return float(len(order))

    one, answers = Contestant("one", go, calls=1), iter([True, False, True])
    timing.run_rounds([one], Plan(rounds=3), lambda: next(answers))
    assert order == [1] * 5 and one.samples == [2.0, 3.0, 5.0]
    timing.run_rounds([one], Plan(rounds=1))
    assert one.samples == [6.0]  # they begin anew


# ---- every command that prints shares --------------------------------------------------------------------------------


@pytest.fixture
def slow_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes that find next to nothing of the machine with two threads, and small memory."""
    for name in ("flops_per_second", "bytes_per_second"):
        real = getattr(Limits, name)

        def slower(self: Limits, real: Any = real) -> list[float]:
            return [rate / (1e9 if self.num_threads > 1 else 1) for rate in real(self)]

        monkeypatch.setattr(Limits, name, slower)
    for module in (peaks, linear, linear_attention, inputs):
        monkeypatch.setattr(module, "cold_bytes", lambda: 1 << 20)
    monkeypatch.setattr(shares, "_PAUSE", 0.0)
    small = AttentionCase("small", 1, 4, 2, 1, 256, 32, cold=True)
    monkeypatch.setattr(shapes, "DECODE", (small,))
    monkeypatch.setattr(shapes, "SCALING", (small, AttentionCase("warm", 1, 8, 8, 64, 64, 64)))
    monkeypatch.setattr(families, "CASES", families.CASES[:1])
    monkeypatch.setattr(families, "CONFIGS", {"bert": {**tiny_bert.config("plain"), "max_position_embeddings": 200}})


COMMANDS = [
    "attention --shapes full-n16-d64,decode-sk128-d64", "attention --decode", "attention --scaling",
    "attention --peak-shapes --shapes peak-n96-d64", "linear --shapes 384x384-r1,384x384-r16",
    "linear --shapes 384x384-r16 --dtype int8", "linear-attention --shapes gated-step-d128", "model --shapes 1x16",
    "model --families",
]  # fmt: skip


@pytest.mark.usefixtures("slow_probes")
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_prints_what_cannot_be(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["bench", *command.split(), "--threads", "2", "--rounds", "1"]
    if command.startswith("model --shapes"):
        args += ["--model", str(tiny_bert.save_folder(tmp_path / "model", "plain"))]
    assert cli.main([*args, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["cases"]
    for row in rows:
        shown = [value for key, value in row.items() if key in ("share", "read_share", "fma_share", "fma_gflops")]
        assert shown and not any(shown), row
        assert "which cannot be, 3 times in a row" in row["share_error"]
    assert cli.main(args) == 0
    out = capsys.readouterr().out
    assert not re.findall(r"\d %", out), out
    for row in rows:
        assert f"\n{row['name']}: no share of the limit: " in out


@pytest.mark.usefixtures("slow_probes")
def test_shares_that_can_be_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The probes of one thread are those of the machine here; a round may be wrong, three times in a row it is not."""
    args = ["bench", "attention", "--peak-shapes", "--shapes", "peak-n96-d64", "--threads", "1", "--rounds", "9"]
    assert cli.main([*args, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["cases"]
    assert row["share_error"] is None and 0 < row["share"] <= shares.MOST_SHARE and row["fma_gflops"] > 0


def test_the_peak_says_that_it_was_disturbed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peaks, "cold_bytes", lambda: 1 << 20)
    monkeypatch.setattr(quiet, "_ENOUGH", 60.0)
    assert peaks.measure_peaks(1, rounds=2)["disturbed"] is None
    monkeypatch.setattr(quiet, "_ENOUGH", 0.01)
    monkeypatch.setattr(quiet, "running_threads", lambda pid=None: 1)
    args = ["bench", "peak", "--threads", "1", "--rounds", "2"]
    assert cli.main([*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["disturbed"].startswith("threads of this process run all the time")
    assert cli.main(args) == 0
    assert "\ntoo low: threads of this process run all the time" in capsys.readouterr().out
