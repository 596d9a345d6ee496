# SPDX-License-Identifier: MIT
"""A model in somebody's service: request threads, event loops, worker processes, reloads, on machines that are busy.

Results are compared to the bit; how long anything takes is no matter of a test. What is scarce, memory and threads that
the system refuses, is in test_service_limits.py; each test runs in processes of its own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import faulthandler
import gc
import hashlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from support.inputs import generator, normal
from support.processes import output_of_function

import fastattn as fa
from fastattn import _core, _testing, threads

TEXTS = ["the cat sat on the mat.", "a b c d " * 20, "x", ""] * 8
TEAMS = ["crew", "openmp"] if _core.openmp_version() else ["crew"]
TRIES = 120.0  # seconds for something to be seen that is seen at once on a quiet machine
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("tokenizers")
    return str(tiny_bert.save_text_folder(tmp_path_factory.mktemp("service") / "model"))


def digest(*arrays: Any) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def together(n: int, work: Callable[[], None]) -> None:
    """`work` in n threads that begin at the same time; the first error of any is raised here."""
    gate = threading.Barrier(n)

    def begin() -> None:
        gate.wait()
        work()

    with concurrent.futures.ThreadPoolExecutor(n) as pool:
        for future in [pool.submit(begin) for _ in range(n)]:
            future.result()


def task_names() -> list[str]:
    """The names of the OS threads of this process; members of the crew are called fastattn."""
    names = []
    for task in os.listdir("/proc/self/task"):
        try:
            names.append(Path(f"/proc/self/task/{task}/comm").read_text().strip())
        except OSError:  # it has ended meanwhile
            continue
    return names


def status(key: str) -> int:
    """Bytes, of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))


# ---- the same bits, whoever computes them ----------------------------------------------------------------------------


def digest_of_operators(folder: str) -> str:
    rng = generator("digest of operators")
    results: list[Any] = []
    for d in (5, 64, 128):
        q, k = normal(rng, 2, 4, 45, d), normal(rng, 2, 2, 45, d)
        small, spoilt = q * np.float32(1e-39), q.copy()  # denormal numbers are kept, whatever the process's settings
        spoilt[0, 0, 3] = np.nan
        results += [
            fa.attention(q, k, k, causal=True),
            *fa.attention(q, k, k, softcap=3.0, return_lse=True)[:2],
            fa.attention(q[:, :, :1], k, k),
            fa.attention(small, k * np.float32(1e-3), small[:, :2]),
            np.isnan(fa.attention(spoilt, k, k)),
            fa.softmax(q), fa.gelu(q), fa.layer_norm(q, q[0, 0, 0], q[0, 0, 1]), fa.rms_norm(small, q[0, 0, 0]),
        ]  # fmt: skip
    weight, x = normal(rng, 64, 96), normal(rng, 9, 96)
    for dtype in ("float32", "bfloat16", "float16", "int8"):
        results.append(fa.linear(x, fa.pack_linear(weight, dtype=dtype), activation="gelu"))
    token, decay = normal(rng, 1, 20, 2, 64) / np.float32(8), np.full((1, 20, 2), -0.1, np.float32)
    results.append(fa.linear_attention(token, token, token, rule="gated", decay=decay).out)
    results.append(fa.load(folder).embed(TEXTS))
    return digest(*results)


def print_digests(folder: str) -> None:
    counts = []
    for n in (None, 1, 5):
        fa.set_num_threads(n)
        counts.append(digest_of_operators(folder))
    print(_core.current_isa(), threads.thread_policy()["team"], *counts)


def test_one_digest_for_all_instruction_sets_teams_and_thread_counts(folder: str) -> None:
    seen = {}
    for isa in _testing.isas():
        for team in TEAMS:
            env = {"FASTATTN_ISA": isa, "FASTATTN_THREADS": team, "FASTATTN_NUM_THREADS": "2"}
            used, of, *counts = output_of_function(print_digests, folder, env=env).split()
            assert (used, of, len(counts)) == (isa, team, 3)
            seen[isa, team] = counts
    assert len({found for counts in seen.values() for found in counts}) == 1, seen


# ---- threads ---------------------------------------------------------------------------------------------------------


def call_from_fifty_threads(folder: str) -> None:
    model = fa.load(folder)
    expected = model.embed(TEXTS).tobytes()
    counts, others = [], len(task_names()) - task_names().count("fastattn")

    def work() -> None:
        for _ in range(10):
            assert model.embed(TEXTS).tobytes() == expected
        names = task_names()
        counts.append((names.count("fastattn"), len(names)))

    together(50, work)
    assert len(counts) == 50 and _core.threads_in_use() == 0
    if threads.thread_policy()["team"] == "crew":
        assert max(members for members, _ in counts) <= 3, counts
        assert max(tasks for _, tasks in counts) <= others + 50 + 3, (others, counts)


@needs_proc
@pytest.mark.parametrize("team", TEAMS)
def test_fifty_threads_call_one_model(team: str, folder: str) -> None:
    """The right bits, and no threads beside the callers' but num_threads - 1 for all of them."""
    output_of_function(call_from_fifty_threads, folder, env={"FASTATTN_THREADS": team, "FASTATTN_NUM_THREADS": "4"})


def watch_a_model(folder: str) -> None:
    model, done, seen = fa.load(folder), threading.Event(), [0]

    def watch() -> None:
        while not done.is_set():
            seen[0] += _core.threads_in_use() > 0

    watcher = threading.Thread(target=watch)
    watcher.start()
    end = time.monotonic() + TRIES
    while not seen[0] and time.monotonic() < end:
        model.embed(TEXTS * 20)
    done.set()
    watcher.join()
    assert seen[0]


@pytest.mark.parametrize("n", ["1", "2"])
def test_other_threads_run_while_a_model_computes(n: str, folder: str) -> None:
    """Python code of another thread finds the call under way: it does not hold the interpreter's lock."""
    output_of_function(watch_a_model, folder, env={"FASTATTN_NUM_THREADS": n})


def serve_an_event_loop(folder: str) -> None:
    model = fa.load(folder)
    expected = model.embed(TEXTS).tobytes()
    gate, late, turns = threading.Event(), [], [0]

    def held() -> None:
        gate.wait(TRIES)
        late.append(model.embed(TEXTS).tobytes())

    async def tick() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ticker = asyncio.create_task(tick())
        for result in await asyncio.gather(*[loop.run_in_executor(None, model.embed, TEXTS) for _ in range(100)]):
            assert result.tobytes() == expected
        assert (await asyncio.to_thread(model.embed, TEXTS)).tobytes() == expected
        try:  # who waits for it may give up; the work goes on in its thread
            await asyncio.wait_for(loop.run_in_executor(None, held), 0.05)
            raise AssertionError("it came to its end before it was let go")
        except TimeoutError:
            gate.set()
        ticker.cancel()

    asyncio.run(main())  # waits for the executor's threads
    assert late == [expected] and turns[0] > 1


def test_an_event_loop_hands_its_calls_to_threads(folder: str) -> None:
    output_of_function(serve_an_event_loop, folder)


@contextmanager
def busy_processes(n: int) -> Iterator[None]:
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def call_for_a_while(folder: str) -> None:
    model = fa.load(folder)
    fa.set_num_threads(1)
    expected = [model.embed(TEXTS[:n]).tobytes() for n in (1, 8, 32)]
    q = normal(generator("busy"), 1, 8, 256, 64)
    attended = fa.attention(q, q, q).tobytes()
    fa.set_num_threads(None)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        assert [model.embed(TEXTS[:n]).tobytes() for n in (1, 8, 32)] == expected
        assert fa.attention(q, q, q).tobytes() == attended


@pytest.mark.parametrize("n", [None, "4"])
def test_calls_beside_busy_processes(n: str | None, folder: str) -> None:
    """Teams adapt to threads that come late; the bits are those of one thread. Figures: bench/LOG.md."""
    with busy_processes(2 * len(os.sched_getaffinity(0))):
        output_of_function(call_for_a_while, folder, env={"FASTATTN_NUM_THREADS": n})


def dump_tracebacks(folder: str) -> None:
    model = fa.load(folder, num_threads=2)
    q = normal(generator("tracebacks"), 1, 8, 512, 64)
    expected = (fa.attention(q, q, q).tobytes(), model.embed(TEXTS).tobytes())
    ended = threading.Event()
    with tempfile.TemporaryFile() as file:
        faulthandler.enable(file)

        def watch() -> None:
            while not ended.wait(0.005):
                faulthandler.dump_traceback(file)

        watchdog = threading.Thread(target=watch)
        watchdog.start()
        try:
            end = time.monotonic() + TRIES
            while time.monotonic() < end:
                for _ in range(10):
                    assert (fa.attention(q, q, q).tobytes(), model.embed(TEXTS).tobytes()) == expected
                text = os.pread(file.fileno(), 1 << 26, 0)
                if text.count(b"Thread 0x") > 6 and b" in attention\n" in text:
                    break
            else:
                raise AssertionError(f"no dump names a call: {text[-2000:]!r}")
        finally:
            ended.set()
            watchdog.join()
            faulthandler.disable()


def test_a_watchdog_dumps_tracebacks_during_calls(folder: str) -> None:
    """Of threads inside of native code too; the calls come to their end with their bits.

    The watchdog is a thread that holds the interpreter's lock as it reads other threads' frames. That of
    ``faulthandler.dump_traceback_later`` does not, and CPython 3.11 dies of it within seconds in plain Python code.
    """
    output_of_function(dump_tracebacks, folder)


# ---- memory ----------------------------------------------------------------------------------------------------------


def calls_of_many_lengths(folder: str) -> None:
    model, rng = fa.load(folder), generator("lengths")
    words = [word for word in tiny_bert.WORDS if word.isalpha()]
    files = []
    sizes = []
    for i in range(4000):
        text = " ".join(rng.choice(words, rng.integers(1, 20)))
        model.embed([text] * int(rng.integers(1, 4)))
        if i % 1000 == 999:
            sizes.append(status("VmRSS"))
            files.append(len(os.listdir("/proc/self/fd")))
    assert sizes[-1] - sizes[0] < 8 << 20, sizes
    assert len(set(files)) == 1, files


@needs_proc
def test_memory_is_flat_over_calls(folder: str) -> None:
    output_of_function(calls_of_many_lengths, folder, env={"MALLOC_ARENA_MAX": "1"})


def load_again_and_again(folder: str, way: str) -> None:
    gc.disable()  # memory is given back when the last name goes
    path = str(fa.pack(folder, Path(folder).parent / "model.fastattn")) if way == "packed" else folder

    def state() -> tuple[int, int, int]:
        mapped = Path("/proc/self/maps").read_text()
        files = mapped.count(".safetensors\n") + mapped.count(".fastattn\n")
        return status("VmRSS"), len(os.listdir("/proc/self/fd")), files

    states = []
    for i in range(40):
        model = fa.load(path)
        if way == "threads":
            together(4, lambda model=model: model.embed(["the cat"]))
        model.embed(["the cat"])
        del model
        if i % 10 == 9:
            states.append(state())
    assert states[-1][0] - states[0][0] < 50 << 20, states  # the model takes 10 MiB and more
    assert len({found[1:] for found in states}) == 1 and states[0][2] == 0, states


@needs_proc
@pytest.mark.parametrize("way", ["folder", "packed", "threads"])
def test_memory_is_flat_over_loads(way: str, tmp_path: Path) -> None:
    """A service that swaps its model: memory, descriptors and mappings of the old one are given back."""
    pytest.importorskip("tokenizers")
    folder = tiny_bert.save_text_folder(tmp_path / "model", "wide")
    output_of_function(load_again_and_again, str(folder), way)


# ---- processes -------------------------------------------------------------------------------------------------------

_model: Any = None  # what workers made by fork() inherit


def digest_of_texts(_: int = 0) -> str:
    return digest(_model.embed(TEXTS))


def digest_of_a_model(model: Any) -> str:
    return digest(model.embed(TEXTS), model(np.full((3, 20), 5)).last_hidden_state)


def digests_of_a_child(_: int) -> tuple[str, str]:
    """Of this worker, and of a process of its own."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=lambda: writer.send(digest_of_texts()))
    child.start()
    found = reader.recv()
    child.join()
    assert child.exitcode == 0
    return digest_of_texts(), found


def fork_and_compare(expected: str) -> None:
    """Eight children at once, each with two calls; the parent's own goes on beside them."""
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            os._exit(0 if digest_of_texts() == expected == digest_of_texts() else 9)
        children.append(child)
    assert digest_of_texts() == expected
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 8


def fork_workers(folder: str, before: str) -> None:
    global _model
    warnings.simplefilter("ignore", DeprecationWarning)  # of fork() beside threads, which is the point
    _model = fa.load(folder)
    expected = digest_of_texts() if before == "used" else ""
    context = multiprocessing.get_context("fork")
    with context.Pool(4) as pool:
        found = set(pool.map(digest_of_texts, range(16), chunksize=1))
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        found.update(*executor.map(digests_of_a_child, range(4)))
    assert found == {digest_of_texts()} and (not expected or found == {expected})
    expected = digest_of_texts()
    for _ in range(2):
        fork_and_compare(expected)
    stop = threading.Event()  # and beside threads that are inside of calls

    def work() -> None:
        while not stop.is_set():
            assert digest_of_texts() == expected

    with concurrent.futures.ThreadPoolExecutor(3) as callers:
        working = [callers.submit(work) for _ in range(3)]
        try:
            fork_and_compare(expected)
        finally:
            stop.set()
        for future in working:
            future.result()


@needs_fork
@pytest.mark.parametrize("team", TEAMS)
@pytest.mark.parametrize("before", ["used", "fresh"])
def test_workers_made_by_fork(before: str, team: str, folder: str) -> None:
    """Pools, executors, children of workers and plain fork(), of a model that was used before or was not."""
    env = {"FASTATTN_THREADS": team, "FASTATTN_NUM_THREADS": "2"}
    output_of_function(fork_workers, folder, before, env=env)


def start_workers(folder: str, method: str) -> None:
    model = fa.load(folder)
    expected = digest_of_a_model(model)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert set(pool.map(digest_of_a_model, [model] * 4, chunksize=1)) == {expected}
        found = pool.map(fa.load, [folder] * 2)  # and one that is sent back
    assert {digest_of_a_model(sent) for sent in found} == {expected}


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_model_is_sent_to_workers_of_their_own(method: str, folder: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    output_of_function(start_workers, folder, method)


def fork_beside_torch(folder: str) -> None:
    import torch

    global _model
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.set_num_threads(2)
    _model = fa.load(folder)
    expected = digest_of_texts()  # our threads are there
    (torch.randn(600, 600) @ torch.randn(600, 600)).sum()  # and torch's
    children = []
    for torch_first in (False, True):
        for _ in range(3):
            child = os.fork()
            if child == 0:
                if torch_first:  # with one thread, as servers do in their workers
                    torch.set_num_threads(1)
                    torch.randn(64, 64) @ torch.randn(64, 64)
                os._exit(0 if digest_of_texts() == expected else 3)
            children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 6
    assert digest_of_texts() == expected
    (torch.randn(600, 600) @ torch.randn(600, 600)).sum()


@pytest.mark.parity
@needs_fork
@pytest.mark.parametrize("n", ["1", "2"])
def test_workers_forked_after_torch_was_used(n: str, folder: str) -> None:
    """The model is loaded and both libraries are warm before the workers are forked (gunicorn --preload)."""
    pytest.importorskip("torch")
    output_of_function(fork_beside_torch, folder, env={"FASTATTN_NUM_THREADS": n})
