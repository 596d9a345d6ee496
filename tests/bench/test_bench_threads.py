# SPDX-License-Identifier: MIT
"""``fastattn bench threads``: what a team costs, and calls beside busy processes, with tiny settings."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from fastattn import _core, cli
from fastattn.bench import threads
from fastattn.bench.child import ChildError
from fastattn.bench.quiet import running_threads
from fastattn.bench.random_model import write_folder

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 64}


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "MINILM", {**threads.MINILM, **SIZES})


def test_command_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "threads", "--threads", "3", "--seconds", "0.1", "--rounds", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_threads"] == 3
    assert [row["team"] for row in found["teams"]] == threads.teams()
    for row in found["teams"]:
        assert list(row["region_ns"]) == ["1", "2", "3"] and list(row["chain_us"]) == ["1", "3"]
        assert all(0 < ns < 1e9 for ns in row["region_ns"].values())
        assert all(1 < us < 1e8 for us in row["chain_us"].values())
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert [row["busy"] for row in found["beside_busy"]] == [0, cpus, 2 * cpus]
    others = ["one thread"] + (["passive"] if _core.openmp_version() else [])
    for row in found["beside_busy"]:
        assert [name for name in row if isinstance(row[name], dict)] == ["default", *others]
        for key in ("p50", "cpu"):
            best = min(row[name][f"{key}_s"] for name in others)
            assert row[f"{key}_ratio"] == row["default"][f"{key}_s"] / best
        assert all(row[name]["calls"] > 0 and row[name]["p50_s"] <= row[name]["p99_s"] for name in ("default", *others))


def test_command_as_a_table_with_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path, threads.MINILM)
    command = ["bench", "threads", "--threads", "1", "--seconds", "0.05", "--rounds", "1", "--model", str(folder)]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert out.count("an empty region, by threads: 1:") == len(threads.teams()) and out.count(", CPU ") == 3


def test_what_it_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "threads", "--cpu-time"]) == 2
    assert "--cpu-time" in capsys.readouterr().err
    with pytest.raises(ChildError, match="not there"):
        list(threads.beside_busy(tmp_path / "not there", 1, 0.01, 1))
    for bad in (0, -1, 1025):
        with pytest.raises(ValueError, match=f"n_tasks must be between 1 and 1024, got {bad}"):
            _core.probe_region(bad, 1)


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="the system does not tell of threads")
def test_busy_processes_are_busy_and_end() -> None:
    def children() -> list[int]:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]

    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        pytest.skip("the system does not tell of children")
    before = set(children())
    with threads.busy_processes(2):
        mine = set(children()) - before
        assert len(mine) == 2
        time.sleep(0.2)
        assert any(running_threads(pid) for pid in mine)
    assert not set(children()) & mine
