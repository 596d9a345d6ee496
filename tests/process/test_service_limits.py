# SPDX-License-Identifier: MIT
"""Services where the system gives little: threads that it refuses, address space that is used up.

A call then has its right result, with fewer threads, or raises MemoryError; the process never ends by it. What a limit
needs, a user of its own for one on threads, is made where that is allowed; a limit on address space needs nothing.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from support.inputs import generator, normal
from support.processes import output_of, output_of_function
from test_service import TEXTS, status, task_names

import fastattn as fa
from fastattn import _core, threads

resource = pytest.importorskip("resource")
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
needs_crew = pytest.mark.skipif(threads.thread_policy()["team"] != "crew", reason="no threads of our own here")
pytestmark = [needs_proc, needs_crew]

CALLERS, EACH = 40, 32
TASKS = 60  # of a container; the callers and the main thread leave 19


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("tokenizers")
    return str(tiny_bert.save_text_folder(tmp_path_factory.mktemp("limits") / "model"))


def limit_address_space(left: int) -> None:
    """From now on the process gets `left` bytes beyond what it has. (The hard limit stays: it can be lifted again.)"""
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + left, resource.RLIM_INFINITY))


def lift_address_space() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


# ---- threads ---------------------------------------------------------------------------------------------------------


def limit_tasks(_: int) -> None:
    """As a user whom nobody else is: root has no such limit, and of others the system counts all processes."""
    user = 1_000_000 + os.getpid()
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    resource.setrlimit(resource.RLIMIT_NPROC, (TASKS, TASKS))


def call_from_many_threads(limit: str, at_once: str) -> None:
    """CALLERS threads, each of which makes a call with EACH threads, in turns or all at once, and stays."""
    q = normal(generator("many callers"), 1, 8, 512, 64)
    expected = fa.attention(q, q, q, num_threads=1).tobytes()
    others = len(task_names())
    turn, failed, results = threading.Lock(), [], []
    started, limited, all_done = threading.Barrier(CALLERS + 1), threading.Event(), threading.Barrier(CALLERS + 1)

    def call() -> None:
        for _ in range(2):
            results.append(fa.attention(q, q, q, num_threads=EACH).tobytes() == expected)

    def work() -> None:
        started.wait()
        limited.wait()
        try:
            if at_once == "at once":
                call()
            else:
                with turn:
                    call()
        except BaseException as error:  # told by the main thread
            failed.append(error)
        all_done.wait()

    threading.stack_size(256 << 10)
    callers = [threading.Thread(target=work) for _ in range(CALLERS)]
    if limit == "tasks":
        limit_tasks(TASKS)
    for caller in callers:
        caller.start()
    started.wait()
    if limit == "address space":
        limit_address_space(64 << 20)
    limited.set()
    while all_done.n_waiting < CALLERS and not failed:
        threading.Event().wait(0.01)
    names = task_names()
    all_done.wait()
    for caller in callers:
        caller.join()
    assert not failed and results == [True] * (2 * CALLERS), (failed, results)
    members = names.count("fastattn")
    assert members == _core.crew_size() < EACH, names
    assert len(names) <= others + CALLERS + members, names
    if limit == "tasks":
        assert len(names) <= TASKS and 0 < members < EACH - 1, names
    if limit == "none":  # one more for each call that finds nobody hiring
        assert members > 0, names


@pytest.mark.parametrize("at_once", ["in turns", "at once"])
@pytest.mark.parametrize("limit", ["none", "address space", "tasks"])
def test_many_callers_of_many_threads(limit: str, at_once: str) -> None:
    """One crew for them all, smaller where the system gives no more."""
    if limit == "tasks" and not limits_tasks():
        pytest.skip("this user cannot become another one; the limit on address space needs no rights")
    output_of_function(call_from_many_threads, limit, at_once)


def refuse_a_thread(_: str) -> None:
    try:
        limit_tasks(TASKS)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        threading.Thread(target=int).start()
    except (OSError, ValueError):
        print("may not")
    except RuntimeError:
        print("refused")
    else:
        print("not refused")


def limits_tasks() -> bool:
    return hasattr(os, "setresuid") and output_of_function(refuse_a_thread, "") == "refused"


# ---- address space ---------------------------------------------------------------------------------------------------

Calls = dict[str, Callable[[], Any]]


def operators(n: int) -> Calls:
    rng = generator("little memory")
    q, token = normal(rng, 1, 8, 300, 64), normal(rng, 1, 300, 4, 64) / np.float32(8)
    out, x, weight = np.empty_like(q), normal(rng, 300, 512), normal(rng, 512, 512)
    layer, wide = fa.pack_linear(weight, dtype="int8"), normal(rng, 900, 128)
    return {
        "attention": lambda: fa.attention(q, q, q, num_threads=n),
        "attention, out": lambda: fa.attention(q, q, q, out=out, num_threads=n),
        "attention, weights": lambda: fa.attention(q, q, q, return_weights=True, num_threads=n),
        "decode": lambda: fa.attention(q[:, :, :1], q, q, num_threads=n),
        "linear": lambda: fa.linear(x, layer, num_threads=n),
        "linear_attention": lambda: fa.linear_attention(token, token, token, rule="linear", num_threads=n),
        "gelu": lambda: fa.gelu(x, num_threads=n),
        "top_k": lambda: fa.similarity(wide, wide, top_k=5, num_threads=n),
        "pack_linear": lambda: fa.linear(x[:1], fa.pack_linear(weight), num_threads=n),
    }


def models(folder: str, n: int) -> Calls:
    ids, model = np.full((64, 40), 5), fa.load(folder, num_threads=n)
    packed = str(fa.pack(folder, Path(folder).parent / f"{os.getpid()}.fastattn"))
    return {
        "texts": lambda: model.embed(TEXTS * 4),
        "model": lambda: model(ids).last_hidden_state,
        "load": lambda: fa.load(folder, num_threads=n)(ids[:1])[0],
        "load packed": lambda: fa.load(packed, num_threads=n)(ids[:1])[0],
    }


def as_bytes(result: Any) -> bytes:
    parts = result if isinstance(result, (tuple, list)) else [result]
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts if part is not None)


def call_with_little_memory(folder: str, count: str) -> None:
    """In the main thread and in one that has just begun, with less and less address space."""
    n = int(count)
    calls = operators(n) | models(folder, n)
    expected = {name: as_bytes(call()) for name, call in calls.items()} if n < 32 else {}
    if not expected:  # the crew is to be hired where there is no room for it
        one = operators(1) | models(folder, 1)
        expected = {name: as_bytes(call()) for name, call in one.items()}
    right, refused, wrong = [], [], []

    def attempt(where: str, left: int) -> None:
        for name, call in calls.items():
            if name == "texts" and left < 64 << 20:
                continue  # the tokenizer's library ends the process where it gets no memory
            print(where, left >> 10, name, flush=True)  # what was running when a process ended
            limit_address_space(left)
            try:
                result = call()
            except MemoryError:
                lift_address_space()
                refused.append(name)
                continue
            except Exception as error:  # told below, with all others
                lift_address_space()
                wrong.append((where, left >> 10, name, repr(error)))
                continue
            lift_address_space()
            right.append(name)
            if as_bytes(result) != expected[name]:
                wrong.append((where, left >> 10, name, "other bits"))

    for left in (64 << 20, 8 << 20, 1 << 20, 1 << 18, 0):
        fresh = threading.Thread(target=attempt, args=("fresh", left))
        fresh.start()
        fresh.join()
        attempt("main", left)
    assert not wrong, wrong
    assert set(right) == set(calls), set(calls) - set(right)  # with 64 MiB, if not with less
    assert {"load", "load packed"} <= set(refused), refused
    assert {name: as_bytes(call()) for name, call in calls.items()} == expected


@pytest.mark.parametrize("n", ["1", "2", "32"])
def test_little_address_space(n: str, folder: str) -> None:
    output_of_function(call_with_little_memory, folder, n)


def hire_with_the_last_memory(_: str) -> None:
    """In children of many sizes, whose crew is new: its stacks take all there is but what is smaller than a stack."""
    q = normal(generator("the last memory"), 1, 8, 300, 64)
    out, expected = np.empty_like(q), fa.attention(q, q, q, num_threads=1).tobytes()
    statuses = []
    for i in range(20):
        child = os.fork()
        if child == 0:
            limit_address_space((2 << 20) + i * (100 << 10))
            for _ in range(3):
                fa.attention(q, q, q, out=out, num_threads=EACH)
            os._exit(0 if out.tobytes() == expected and 0 < _core.crew_size() < EACH - 1 else 9)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    assert statuses == [0] * 20, statuses


def test_members_hired_with_the_last_memory() -> None:
    """They need none beside their stack. (Thread-local variables would, of a library that is loaded later.)"""
    output_of_function(hire_with_the_last_memory, "")


def name_the_file(folder: str) -> None:
    path = Path(folder) / "model.safetensors"
    with pytest.raises(FileNotFoundError):
        fa.open_weights(path.with_name("other.safetensors"))
    fa.open_weights(path)
    path.with_name("large.safetensors").write_bytes(b"\0" * (1 << 23))
    limit_address_space(1 << 22)
    try:
        fa.open_weights(path.with_name("large.safetensors"))
    except MemoryError as error:
        lift_address_space()
        print(error)


def test_a_file_for_which_there_is_no_room_is_named(tmp_path: Path) -> None:
    folder = tiny_bert.save_text_folder(tmp_path / "model")
    message = f"{folder}/large.safetensors: no address space for its 8388608 bytes"
    assert output_of_function(name_the_file, str(folder)) == message


def fill_a_cache(kind: str) -> None:
    """Blocks of tokens are appended until there is no room: the block that failed has left nothing behind."""
    rng = generator("cache, little memory")
    k, q = normal(rng, 4, 8, 256, 64), normal(rng, 4, 8, 1, 64)
    cache, twin = (fa.KVCache(2, 4, 8, 64, dtype=kind, max_length=1 << 16) for _ in range(2))

    def step(target: Any, layers: int = 2) -> None:
        for layer in range(layers):
            target.append(layer, k, k)
            appended[0] += 1
        target.advance(256)

    appended = [0]
    for _ in range(4):
        step(cache)
    limit_address_space(24 << 20)
    try:
        for _ in range(64):
            step(cache)
        raise AssertionError("64 blocks found room")
    except MemoryError:
        lift_address_space()
    steps, layers = divmod(appended[0], 2)
    assert 4 <= steps < 64
    assert set(np.asarray(cache.lengths).tolist()) == {256 * steps}
    for _ in range(steps):
        step(twin)
    if layers:  # the first layer's block of the step that failed, which is there until it is cut off
        twin.append(0, k, k)
    for layer in (0, 1):
        assert cache.attend(layer, q).tobytes() == twin.attend(layer, q).tobytes(), layer
    for target in (cache, twin):
        target.truncate(256 * steps)
        step(target)  # and they go on
    for layer in (0, 1):
        assert cache.attend(layer, q).tobytes() == twin.attend(layer, q).tobytes(), layer


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_a_cache_that_finds_no_room_keeps_what_it_has(kind: str) -> None:
    output_of_function(fill_a_cache, kind)


# ---- long lines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["x", "the cat ", ".", "\u6771"])
def test_a_line_of_sixteen_megabytes(unit: str, folder: str, tmp_path: Path) -> None:
    """Through the command: memory for some copies of the line, and the vector of its first words."""
    long = unit * ((16 << 20) // len(unit.encode()))
    (tmp_path / "in.txt").write_text(f"{long}\n{unit * 1000}\n")
    command = [sys.executable, "-m", "fastattn", "embed", "--model", folder]
    files = ["--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.npy")]
    # by way of a small process: what the parent has in memory when it starts a child counts as the child's
    code = """
        import resource, subprocess, sys
        subprocess.run(sys.argv[1:], check=True)
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    """
    kilobytes = int(output_of(code, *command, *files))
    vectors = np.load(tmp_path / "out.npy")
    assert vectors[0].tobytes() == vectors[1].tobytes()
    assert kilobytes < (60 + 8 * 16) << 10
