# SPDX-License-Identifier: MIT
"""``fastattn bench threads``: what a team of threads costs, and what short calls cost beside processes that are busy.

Teams are chosen when a process starts, so everything runs in children, in turn.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fastattn import _core, pack_linear
from fastattn.threads import affinity

from .child import Child, ChildError, child_environment
from .model import make_batch
from .random_model import RANDOM, write_folder
from .shapes import ModelCase
from .timing import percentile

__all__ = ["MINILM", "beside_busy", "busy_processes", "costs_here", "team_costs", "teams"]

MINILM: dict[str, Any] = {
    **RANDOM["bert-base"], "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
    "intermediate_size": 1536, "vocab_size": 8192,
}  # fmt: skip
"""config.json of the model whose calls are timed where none is given."""

_WIDTH, _STEPS = 576, 250  # of the chain: a decoded token's operators in a small model
_CASE = ModelCase("1x16", (16,))
_ROUNDS = 3  # processes of each team
_SLICE = 0.25  # seconds for which a child calls until the next one does


def teams() -> list[str]:
    """Whom FASTATTN_THREADS can name in this build, the default first."""
    return ["crew", "openmp"] if _core.openmp_version() else ["crew"]


def costs_here(counts: Sequence[int], seconds: float) -> dict[str, Any]:
    """With the team of this process: ``region_ns``, of an empty parallel region of each of ``counts`` threads, and
    ``chain_us``, of 250 small operators with one thread and with the last count; medians over ``seconds``."""
    share = seconds / (len(counts) + 2)
    regions = {str(n): _median(lambda n=n: _core.probe_region(n, 1000, n), share) for n in counts}
    chain = _chain()
    return {"region_ns": regions, "chain_us": {str(n): _median(lambda n=n: chain(n), share) for n in (1, counts[-1])}}


def _median(sample: Any, seconds: float) -> float:
    sample()
    samples, end = [sample()], time.perf_counter() + seconds
    while time.perf_counter() < end:
        samples.append(sample())
    return statistics.median(samples)


def _chain() -> Any:
    """Microseconds of a run, for a number of threads."""
    weights = np.full((_WIDTH, _WIDTH), 1 / _WIDTH, np.float32)
    packed, scale = pack_linear(weights), np.ones(_WIDTH, np.float32)
    program = _core.Program([_WIDTH], [("x", "float32", 2, 0, 0, False, _WIDTH, True)])
    x, y = (0, 0, 0, _WIDTH, 0, _WIDTH), (0, -1, 0, _WIDTH, 0, _WIDTH)  # the array, and a table of the program's own
    for _ in range(_STEPS // 2):
        program.add("linear", y, x, packed=packed)
        program.add("rms_norm", x, y, weight=scale, eps=1e-6)
    program.seal()
    row, blocks = np.ones((1, _WIDTH), np.float32), _core.Blocks()

    def run(num_threads: int) -> float:
        start = time.perf_counter()
        program.run([1], [row], blocks, num_threads)
        return (time.perf_counter() - start) * 1e6

    return run


def team_costs(num_threads: int, seconds: float = 1.0, rounds: int | None = None) -> Iterator[dict[str, Any]]:
    """costs_here() of each team in processes that take turns, medians over ``rounds``: 1, 2, 4 .. ``num_threads``.

    Raises:
        ChildError: a process fails.
    """
    counts = sorted({*(2**i for i in range(num_threads.bit_length()) if 2**i < num_threads), num_threads})
    found: dict[str, list[dict[str, Any]]] = {team: [] for team in teams()}
    count = rounds or _ROUNDS
    for _ in range(count):
        for team, rows in found.items():
            rows.append(_costs_of(team, counts, seconds / count))
    for team, rows in found.items():
        yield {"team": team, **{key: _medians([row[key] for row in rows]) for key in rows[0]}}


def _medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def _costs_of(team: str, counts: Sequence[int], seconds: float) -> dict[str, Any]:
    code = (
        "import sys, json; from fastattn.bench.threads import costs_here; "
        "print(json.dumps(costs_here(json.loads(sys.argv[1]), float(sys.argv[2]))))"
    )
    command = [sys.executable, "-c", code, json.dumps(list(counts)), str(seconds)]
    environment = {**child_environment(), "FASTATTN_THREADS": team}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ChildError(team, lines[-1] if lines else f"status {done.returncode}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """``count`` processes compute for as long as the block lasts, and at most for ten minutes."""
    code = "import time; end = time.monotonic() + 600\nwhile time.monotonic() < end: pass"
    processes = [subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def beside_busy(
    folder: Path | None, num_threads: int, seconds: float = 1.0, rounds: int | None = None
) -> Iterator[dict[str, Any]]:
    """One sentence of 16 tokens beside 0, CPUs and 2 x CPUs busy processes: by the default team of ``num_threads``, by
    one thread, and by OpenMP's threads with OMP_WAIT_POLICY=passive, in processes that call in turn.

    Args:
        folder: of the model; None makes one of random weights, of MiniLM's size.
        num_threads: of the first and the last.
        seconds: for each number of busy processes.
        rounds: turns of each process instead.

    Returns:
        for each number ``busy`` of processes: by name p50_s and cpu_s (CPU time of a call, median of the turns), and
        p50_ratio and cpu_ratio: the default's to the better of the others.

    Raises:
        ChildError: a process fails. ValueError: the folder holds no model.
    """
    many = {"FASTATTN_NUM_THREADS": str(num_threads)}
    variants = {"default": {**many, "FASTATTN_THREADS": "crew"}, "one thread": {"FASTATTN_NUM_THREADS": "1"}}
    if "openmp" in teams():
        variants["passive"] = {**many, "FASTATTN_THREADS": "openmp", "OMP_WAIT_POLICY": "passive"}
    cpus = len(affinity() or ()) or os.cpu_count() or 1
    with ExitStack() as stack:
        if folder is None:
            folder = write_folder(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastattn-"))), MINILM)
        config = json.loads((folder / "config.json").read_text("utf-8")) if folder.is_dir() else {}
        batch = make_batch(_CASE, int(config.get("vocab_size", MINILM["vocab_size"])))
        children = {}
        for name, environment in variants.items():
            count = 1 if name == "one thread" else num_threads
            children[name] = stack.enter_context(Child("fastattn", folder, count, environment=environment))
            children[name].prepare(*batch)
            children[name].latencies(20)
        for busy in (0, cpus, 2 * cpus):
            with busy_processes(busy):
                yield {"busy": busy, **_in_turn(children, seconds, rounds)}


def _in_turn(children: dict[str, Child], seconds: float, rounds: int | None) -> dict[str, Any]:
    samples: dict[str, list[float]] = {name: [] for name in children}
    used: dict[str, list[float]] = {name: [] for name in children}
    for _ in range(rounds or max(3, round(seconds / _SLICE / len(children)))):
        for name, child in children.items():
            taken, cpu = child.calls_for(_SLICE if rounds is None else seconds / rounds / len(children))
            samples[name] += taken
            used[name].append(cpu)
    row: dict[str, Any] = {
        name: {"calls": len(samples[name]), "p50_s": percentile(samples[name], 0.5),
               "p99_s": percentile(samples[name], 0.99), "cpu_s": statistics.median(used[name])}
        for name in children
    }  # fmt: skip
    for key in ("p50", "cpu"):
        others = min(row[name][f"{key}_s"] for name in children if name != "default")
        row[f"{key}_ratio"] = row["default"][f"{key}_s"] / others
    return row
