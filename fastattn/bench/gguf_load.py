# SPDX-License-Identifier: MIT
"""``fastattn bench gguf --load``: the time that weights take to load, and the memory they have then."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fastattn.loaders.gguf import GgufFile

from .child import ChildError, child_environment
from .cold import Waiting
from .smaps import read_memory
from .timing import median_ratio

__all__ = ["measure_load"]

_IDS = "[[1, 2, 3, 4, 5]]"
_RESIDENT = """
import json, sys, time
path, options, threads = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
def resident():
    names = "VmRSS", "RssAnon"
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        found = {line.split(":")[0]: int(line.split()[1]) << 10 for line in file if line.startswith(names)}
    return [found[name] for name in names]
"""
_OURS = (
    _RESIDENT
    + """
import fastattn, numpy
fastattn.load  # brings in what loads models
import fastattn.models.registry, fastattn.text.decoder
before = resident()
start = time.perf_counter()
model = fastattn.load(path, num_threads=threads, **options)
seconds = time.perf_counter() - start
loaded = resident()
start = time.perf_counter()
if model.has_tokenizer:
    model.tokenizer.encode("a")
whole = seconds + time.perf_counter() - start
"""
)
_OURS_TOKEN = f"model.generate({_IDS}, max_new_tokens=2, temperature=0, ignore_eos=True)\n"
_THEIRS = (
    _RESIDENT
    + """
from pathlib import Path
from fastattn.bench.peers.with_llama_cpp import load, load_model
import numpy, llama_cpp
path = Path(path)
before = resident()
start = time.perf_counter()
model = load_model(path, vocab_only=True)  # what of loading is no weights
words = time.perf_counter() - start
llama_cpp.llama_model_free(model)
start = time.perf_counter()
loaded_model = load(path, threads, None, **options)
whole = time.perf_counter() - start
seconds = whole - words
loaded = resident()
"""
)
_THEIRS_TOKEN = f"loaded_model.prepare({_IDS}, 2, False)(2)\n"
_SAY = """
after = resident()
found = {"seconds": seconds, "whole": whole, "load_bytes": loaded[0] - before[0], "token_bytes": after[0] - before[0]}
print(json.dumps({**found, "own_bytes": after[1] - before[1]}))
"""
_PACK = "import sys, fastattn; fastattn.pack(sys.argv[1], sys.argv[2])"
_WORKER = _OURS + _OURS_TOKEN + "print('ready', flush=True); sys.stdin.read()"
_WORKERS = 4


def measure_load(
    paths: Sequence[Path],
    num_threads: int,
    rounds: int,
    activations: str | None = None,
    why: str | None = None,
) -> Iterator[dict[str, Any]]:
    """A row for each GGUF file.

    Returns:
        name, path, tensor_bytes (of the file); libraries: by name ("fastattn"; "packed", ours from a packed file;
        "llama.cpp", repacked, and "llama.cpp mapped", not repacked) error, or median_s and best_s, the time of the
        weights alone, without imports and vocabulary (of llama.cpp the difference of two measurements: near 0 where
        there is nothing to do); whole_s, a median, with the vocabulary; ratio, of median_s to ours; and medians of
        bytes by which resident memory has grown: load_bytes, token_bytes (with two tokens generated), and own_bytes of
        these, which are no mapped file's; packed_bytes (of that file), and pss_ratio, the pages of the packed file of
        four processes that have generated, beside those of one, or None where the system does not tell.

    Raises:
        ChildError: ours fails.
    """
    for path in paths:
        sizes = GgufFile(path)
        options = {} if activations is None else {"activations": activations}
        last = str(num_threads)
        with tempfile.TemporaryDirectory(prefix="fastattn-") as folder:
            packed = Path(folder) / "model.fastattn"
            _process("fastattn", _PACK, [str(path), str(packed)])
            mapped = [str(packed), json.dumps(options), last]
            ours, theirs = _OURS + _OURS_TOKEN + _SAY, _THEIRS + _THEIRS_TOKEN + _SAY
            commands = {
                "fastattn": (ours, [str(path), json.dumps(options), last]),
                "packed": (ours, mapped),
            }
            if why is None:
                commands["llama.cpp"] = (theirs, [str(path), json.dumps({"repack": True}), last])
                commands["llama.cpp mapped"] = (theirs, [str(path), json.dumps({"repack": False}), last])
            libraries = _rounds(commands, rounds)
            if why is not None:
                libraries["llama.cpp"] = {"error": why}
            yield {
                "name": path.stem, "path": str(path), "tensor_bytes": sum(sizes.info(name).nbytes for name in sizes),
                "packed_bytes": packed.stat().st_size, "libraries": libraries, "pss_ratio": _shared(packed, mapped),
            }  # fmt: skip


def _rounds(commands: Mapping[str, tuple[str, list[str]]], rounds: int) -> dict[str, Any]:
    """Processes in turn, in rotating order, after one of each that is not counted: files are in the page cache then."""
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    failed: dict[str, str] = {}
    for turn in range(rounds + 1):
        names = list(commands)
        for position in range(len(names)):
            name = names[(position + turn) % len(names)]
            if name in failed:
                continue
            try:
                found = json.loads(_process(name, *commands[name]))
            except ChildError as error:
                if not name.startswith("llama.cpp"):
                    raise
                failed[name] = str(error)
                continue
            if turn:
                samples[name].append(found)
    libraries: dict[str, Any] = {}
    base = [one["seconds"] for one in samples["fastattn"]]
    for name, taken in samples.items():
        if name in failed:
            libraries[name] = {"error": failed[name]}
            continue
        seconds = [one["seconds"] for one in taken]
        sizes = ("load_bytes", "token_bytes", "own_bytes")
        libraries[name] = {
            "median_s": statistics.median(seconds), "best_s": min(seconds), "ratio": median_ratio(seconds, base),
            "whole_s": statistics.median(one["whole"] for one in taken),
            **{size: int(statistics.median(one[size] for one in taken)) for size in sizes},
        }  # fmt: skip
    return libraries


def _process(name: str, code: str, arguments: Sequence[str]) -> str:
    """What a process that runs ``code`` prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.DEVNULL, capture_output=True, env=child_environment()
    )
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ChildError(name, lines[-1][:160] if lines else f"its process ended with status {done.returncode}")
    return done.stdout.decode()


def _shared(packed: Path, arguments: Sequence[str]) -> float | None:
    """Resident pages of the packed file in four processes, each page counted once, beside those in one."""
    if not os.path.exists("/proc/self/smaps"):
        return None
    with ExitStack() as stack:
        processes: list[Waiting] = []
        for _ in range(_WORKERS):
            processes.append(stack.enter_context(Waiting("packed", _WORKER, arguments)))
            if len(processes) == 1:
                one = read_memory(processes[0].process.pid, packed).mapping_pss
        total = sum(read_memory(waiting.process.pid, packed).mapping_pss for waiting in processes)
    return total / one if one else None
