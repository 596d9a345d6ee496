# SPDX-License-Identifier: MIT
"""``fastattn bench model --cold``: from a new process to the first vector, and the memory of workers on one file."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .child import ChildError, child_environment
from .smaps import Memory, read_memory

__all__ = ["Waiting", "cold_start", "process_times", "worker_memory"]

_TEXT = "A sentence of some words, as a service gets it."
_LOAD = "import sys, fastattn; model = fastattn.load(sys.argv[1], num_threads=1); model.embed([sys.argv[2]])"
_WAIT = "; print('ready', flush=True); sys.stdin.read()"
_TOKENIZER = "import sys, numpy, tokenizers; tokenizers.Tokenizer.from_file(sys.argv[1]).encode(sys.argv[2])" + _WAIT


def cold_start(model: Path, rounds: int = 15) -> dict[str, Any]:
    """Whole processes, each of them one sample a round, in rotating order: Python that does nothing, one that imports
    numpy, one that loads ``model`` and embeds a sentence, and the command that does so.

    Returns:
        What process_times() does, of python, numpy, load and command.

    Raises:
        ChildError: a process fails, with what it says.
    """
    given = [str(model), _TEXT]
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "numpy": [sys.executable, "-c", "import numpy"],
        "load": [sys.executable, "-c", _LOAD, *given],
        "command": [sys.executable, "-m", "fastattn", "embed", "--model", str(model), "--threads", "1", _TEXT],
    }
    return process_times(commands, rounds, ("load", "command"))


def process_times(
    commands: Mapping[str, Sequence[str]], rounds: int, beyond: Sequence[str], until_output: bool = False
) -> dict[str, Any]:
    """Processes by name, one of each a round, in rotating order, after one that is not counted.

    Args:
        commands: what each runs; "numpy" is one of them
        rounds: of what is counted
        beyond: names of those that are compared with "numpy"
        until_output: elapsed time is that to the first byte that a process prints, not to its end

    Returns:
        By name: median_s and best_s, elapsed, and median_cpu_s, user and system time; for those of ``beyond`` also
        beyond_numpy_s and beyond_numpy_cpu_s, medians of the differences of each round; and rounds.

    Raises:
        ChildError: a process fails, with what it says.
    """
    names = list(commands)
    for name in names:
        _timed_process(name, commands[name], until_output)
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(rounds):
        for position in range(len(names)):
            name = names[(position + turn) % len(names)]
            samples[name].append(_timed_process(name, commands[name], until_output))
    found: dict[str, Any] = {"rounds": rounds}
    for name, taken in samples.items():
        wall, cpu = zip(*taken, strict=True)
        found[name] = {"median_s": statistics.median(wall), "best_s": min(wall), "median_cpu_s": statistics.median(cpu)}
    for name in beyond:
        for index, key in enumerate(("beyond_numpy_s", "beyond_numpy_cpu_s")):
            pairs = zip(samples[name], samples["numpy"], strict=True)
            found[name][key] = statistics.median(ours[index] - base[index] for ours, base in pairs)
    return found


def _timed_process(name: str, command: Sequence[str], until_output: bool) -> tuple[float, float]:
    """Seconds from the start to the end of a process, or to its first output, and its CPU time."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if until_output else subprocess.DEVNULL,
            stderr=errors,
            env=child_environment(),
        )
        seconds = 0.0
        if process.stdout is not None:
            with process.stdout as output:
                output.read(1)
                seconds = time.perf_counter() - start
                output.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = seconds or time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise ChildError(name, _last_line(errors.read(), process.returncode))
    return seconds, usage.ru_utime + usage.ru_stime


def _last_line(output: bytes, status: int) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:160] if lines else f"its process ended with status {status}"


class Waiting:
    """A process that has done what its code says and then waits, alive for whoever looks at its memory."""

    def __init__(self, name: str, code: str, arguments: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=child_environment(),
        )  # fmt: skip
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != b"ready":
            status = self.process.wait()
            self._errors.seek(0)
            message = _last_line(self._errors.read(), status)
            self.close()
            raise ChildError(name, message)

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.communicate()
        self._errors.close()

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _tokenizer_file(model: Path, stack: ExitStack) -> Path:
    """tokenizer.json as a file of its own, also where it lies in a packed file."""
    if model.is_dir():
        return model / "tokenizer.json"
    from fastattn.loaders.packed import PackedFile

    target = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "tokenizer.json"
    target.write_bytes(PackedFile(model).files().read_bytes("tokenizer.json"))
    return target


def worker_memory(model: Path, workers: int = 4) -> dict[str, Any]:
    """Memory of processes that have loaded ``model`` and embedded a sentence, beside one that has numpy and the model's
    tokenizer loaded and used.

    Returns:
        file_bytes (of the model's files); base and one: the bytes of ``Memory`` by name; beyond_base_bytes, by how much
        the peak of one exceeds the base's peak and the mapping's resident pages; workers (how many), all_pss_bytes of
        the mapping, all workers together; pss_ratio to that of one alone; private_bytes of each worker and
        private_beyond_base_bytes, the most of them beyond the base's.

    Raises:
        ChildError: a process fails. OSError: the system does not tell (it is not Linux).
    """
    given = [str(model), _TEXT]
    with ExitStack() as stack:
        tokenizer = _tokenizer_file(model, stack)
        with Waiting("tokenizer", _TOKENIZER, [str(tokenizer), *given[1:]]) as waiting:
            base = read_memory(waiting.process.pid, model)
        processes = [stack.enter_context(Waiting("fastattn", _LOAD + _WAIT, given))]
        one = read_memory(processes[0].process.pid, model)
        while len(processes) < workers:
            processes.append(stack.enter_context(Waiting("fastattn", _LOAD + _WAIT, given)))
        many = [read_memory(waiting.process.pid, model) for waiting in processes]
    total = sum(memory.mapping_pss for memory in many)
    private = [memory.private for memory in many]
    files = [model] if model.is_file() else [path for path in model.rglob("*") if path.is_file()]
    return {
        "file_bytes": sum(path.stat().st_size for path in files),
        "base": _bytes(base),
        "one": _bytes(one),
        "beyond_base_bytes": one.peak_rss - base.peak_rss - one.mapping_rss,
        "workers": workers,
        "all_pss_bytes": total,
        "pss_ratio": total / one.mapping_pss if one.mapping_pss else None,
        "private_bytes": private,
        "private_beyond_base_bytes": max(private) - base.private,
    }


def _bytes(memory: Memory) -> dict[str, int]:
    return {f"{name}_bytes": getattr(memory, name) for name in ("peak_rss", "mapping_rss", "mapping_pss", "private")}
