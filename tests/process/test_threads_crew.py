# SPDX-License-Identifier: MIT
"""Whose threads help: the crew of the process or OpenMP's, how many there are, and that nobody waits for a late one."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import pytest
from support.processes import output_of, run_python

import fastattn as fa
from fastattn import _core, threads
from fastattn._core import Blocks, Program

needs_openmp = pytest.mark.skipif(_core.openmp_version() == 0, reason="built without OpenMP")
both = pytest.mark.parametrize("team", ["crew", pytest.param("openmp", marks=needs_openmp)])

COMMON = """
import json, os, sys, threading, time
import numpy as np
import fastattn as fa
from fastattn import _core, _testing, threads

def native():
    return len(os.listdir("/proc/self/task")) - threading.active_count()
"""


def seen(code: str, **env: str | None) -> Any:
    return json.loads(output_of(f"{COMMON}\n{code}", env=dict(env)))


# ---- which team ----


def test_the_crew_is_the_default() -> None:
    assert seen("print(json.dumps(threads.thread_policy()['team']))") == "crew"
    assert seen("print(json.dumps(threads.thread_policy()['team']))", FASTATTN_THREADS=" ") == "crew"


@both
def test_the_environment_names_the_team(team: str) -> None:
    assert seen("print(json.dumps(threads.thread_policy()['team']))", FASTATTN_THREADS=team) == team


@pytest.mark.parametrize("name", ["CREW", "omp", "tbb", "crew,openmp", "0", "1"])
def test_other_names_are_refused(name: str) -> None:
    done = run_python("import fastattn", env={"FASTATTN_THREADS": name})
    assert done.returncode == 1 and f"FASTATTN_THREADS: {name!r}, expected one of crew, openmp" in done.stderr
    done = run_python("import runpy; runpy.run_module('fastattn', run_name='__main__')", env={"FASTATTN_THREADS": name})
    assert done.returncode != 0


@pytest.mark.skipif(_core.openmp_version() != 0, reason="built with OpenMP")
def test_openmp_that_is_not_there_is_refused() -> None:
    done = run_python("import fastattn", env={"FASTATTN_THREADS": "openmp"})
    assert done.returncode == 1 and "RuntimeError: FASTATTN_THREADS: 'openmp' is not in this build" in done.stderr


@both
def test_bits_do_not_depend_on_the_team(team: str) -> None:
    code = """
rng = np.random.default_rng(3)
q, w = rng.standard_normal((2, 4, 333, 48), np.float32), rng.standard_normal((300, 192), np.float32)
results = []
for n in (1, 2, 5):
    results.append(fa.attention(q, q, q, causal=True, num_threads=n).tobytes())
    results.append(fa.linear(q.reshape(-1, 192), fa.pack_linear(w), num_threads=n).tobytes())
assert len(set(results)) == 2
import hashlib
print(json.dumps(hashlib.sha256(b"".join(results)).hexdigest()))
"""
    assert seen(code, FASTATTN_THREADS=team) == seen(code, FASTATTN_THREADS="crew", FASTATTN_NUM_THREADS="1")


# ---- how many ----


@pytest.mark.parametrize("n", [2, 5])
def test_one_crew_for_all_callers(n: int) -> None:
    """20 threads that call in turns, and at once: n - 1 members in the end, not 20 times as many."""
    code = f"""
before = native()
turn, gate, done = threading.Lock(), threading.Barrier(21), []
def work():
    with turn:
        _testing.probe_parallel(64, {n}, busy_ns=20_000)
    for _ in range(5):
        _testing.probe_parallel(16, {n}, busy_ns=20_000)
    done.append(_core.crew_size())
    gate.wait()
    gate.wait()
workers = [threading.Thread(target=work) for _ in range(20)]
[worker.start() for worker in workers]
gate.wait()
print(json.dumps([native() - before, _core.crew_size(), _core.threads_in_use()]))
gate.wait()
"""
    assert seen(code, FASTATTN_NUM_THREADS=str(n)) == [n - 1, n - 1, 0]


@needs_openmp
def test_openmps_threads_are_not_ours() -> None:
    code = "_testing.probe_parallel(64, 3, busy_ns=50_000); print(json.dumps([_core.crew_size(), native() >= 2]))"
    assert seen(code, FASTATTN_THREADS="openmp") == [0, True]


@both
@pytest.mark.parametrize(("limit", "expected"), [("1", 1), ("2", 2), ("1000", 4), ("0", 4), ("many", 4)])
def test_the_thread_limit_of_openmp_holds(team: str, limit: str, expected: int) -> None:
    code = """
found = [_testing.probe_parallel(64, 4, busy_ns=100_000) for _ in range(5)]
assert all(list(each["runs"]) == [1] * 64 for each in found)
print(json.dumps([max(each["most_in_use"] for each in found), native()]))
"""
    in_use, others = seen(code, FASTATTN_THREADS=team, OMP_THREAD_LIMIT=limit, OPENBLAS_NUM_THREADS="1")
    assert in_use == expected and others <= expected - 1


@needs_openmp
@both
@pytest.mark.parametrize("setting", [{"OMP_PROC_BIND": "true"}, {"OMP_PLACES": "threads"}, {"OMP_PLACES": "{0}"}])
def test_openmps_places_are_those_of_the_crew(team: str, setting: dict[str, str]) -> None:
    """It binds the first thread to one CPU at its start; the others are not bound to the same one."""
    code = """
count = fa.get_num_threads()
_testing.probe_parallel(64, 3, busy_ns=100_000)
members = [os.sched_getaffinity(int(t)) for t in os.listdir("/proc/self/task")
           if open(f"/proc/self/task/{t}/comm").read() == "fastattn\\n"]
print(json.dumps([count, sorted(set().union(*members))]))
"""
    count, cpus = seen(code, FASTATTN_THREADS=team, **setting)
    all_cpus = sorted(os.sched_getaffinity(0))
    places = [0] if setting.get("OMP_PLACES") == "{0}" else all_cpus
    quota = threads.cpu_quota().cpus
    assert count == max(1, len(places) if quota is None else min(len(places), int(quota)))
    assert cpus == (places if team == "crew" else [])


@pytest.mark.skipif(_core.openmp_version() != 0, reason="built with OpenMP")
@pytest.mark.parametrize(("setting", "expected"), [("1", 1), ("2,1", 2), ("x", None)])
def test_a_build_without_openmp_reads_its_setting(setting: str, expected: int | None) -> None:
    policy = seen("print(json.dumps(threads.thread_policy()))", OMP_NUM_THREADS=setting)
    usual = threads.thread_policy()["num_threads"]
    assert policy["num_threads"] == (usual if expected is None else min(usual, expected))


def test_members_that_the_system_refuses_are_done_without() -> None:
    """And asked for again later."""
    pytest.importorskip("resource")
    code = """
import resource
size = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) << 10
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 20), resource.RLIM_INFINITY))
for _ in range(20):
    found = _testing.probe_parallel(64, 32, busy_ns=1000)
    assert list(found["runs"]) == [1] * 64 and found["bad_worker"] == 0
few = _core.crew_size()
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for _ in range(500):
    _testing.probe_parallel(64, 32, busy_ns=1000)
    if _core.crew_size() == 31:
        break
    time.sleep(0.01)
print(json.dumps([few < 31, _core.crew_size()]))
"""
    assert seen(code) == [True, 31]


# ---- late members ----


def test_nobody_waits_for_members_that_are_busy() -> None:
    """The only member is in a long task of another caller: a thousand calls come to their end before it does."""
    code = """
_testing.probe_parallel(64, 2, busy_ns=100_000)
ended = []
def long():
    _testing.probe_parallel(2, 2, busy_ns=4_000_000_000)
    ended.append(True)
worker = threading.Thread(target=long)
worker.start()
time.sleep(0.5)                              # its second task is the member's by now
for _ in range(1000):
    found = _testing.probe_parallel(8, 3)
    assert list(found["runs"]) == [1] * 8
early = not ended
worker.join()
print(json.dumps([early, _core.threads_in_use()]))
"""
    assert seen(code, FASTATTN_NUM_THREADS="2") == [True, 0]


# ---- a team that is held, and what was granted ----


def test_a_program_holds_one_team() -> None:
    """Threads are counted once for all its steps; other callers have what is left."""
    rng = np.random.default_rng(0)
    weight = fa.pack_linear(rng.standard_normal((256, 256), dtype=np.float32))
    program = Program([256], [("x", "float32", 2, 0, 0, False, 256, True)])
    x, y = (0, 0, 0, 256, 0, 256), (0, -1, 0, 256, 0, 256)  # the array, and a table of the program's own
    for _ in range(40):
        program.add("linear", y, x, packed=weight)
        program.add("linear", x, y, packed=weight)
    program.seal()
    first = rng.standard_normal((64, 256), dtype=np.float32)
    results = []
    for n in (1, 2, 3):
        array = first / np.float32(1e3)
        _core.threads_granted(forget=True)
        program.run([64], [array], Blocks(), n)
        assert _core.threads_granted() == n and _core.threads_in_use() == 0
        results.append(array.tobytes())
    assert len(set(results)) == 1


def test_threads_granted_is_of_this_thread() -> None:
    x = np.ones((1, 4, 600, 64), np.float32)
    _core.threads_granted(forget=True)
    assert _core.threads_granted() == 0
    fa.attention(x, x, x, num_threads=2)
    fa.attention(x, x, x, num_threads=1)
    assert _core.threads_granted() == 2
    assert _core.threads_granted(forget=True) == 2 and _core.threads_granted() == 0
