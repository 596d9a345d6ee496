# SPDX-License-Identifier: MIT
"""fa_parallel_for seen from inside its tasks: order, workers, nesting, many callers, floating-point environment."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator

import pytest
from support.fpenv import ENVIRONMENTS, X86, control_word, environment, needs_fenv
from support.processes import output_of

import fastattn as fa
from fastattn import _core, _testing, threads

SERIAL_BUILD = _core.openmp_version() == 0
parallel_only = pytest.mark.skipif(SERIAL_BUILD, reason="built without OpenMP")


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    fa.set_num_threads(None)
    assert _core.threads_in_use() == 0


def check(seen: dict, n_tasks: int, num_threads: int) -> None:
    """What holds for every call, whoever else is running."""
    assert list(seen["runs"]) == [1] * n_tasks
    assert seen["bad_worker"] == 0
    assert seen["disordered"] == 0
    assert seen["bad_environment"] == 0
    assert seen["nested_elsewhere"] == 0
    assert seen["concurrent"] <= min(num_threads, n_tasks)
    assert seen["workers"] <= min(num_threads, n_tasks)


@pytest.mark.parametrize("num_threads", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("n_tasks", [0, 1, 2, 3, 64, 1000])
def test_every_task_runs_once(n_tasks: int, num_threads: int) -> None:
    check(_testing.probe_parallel(n_tasks, num_threads), n_tasks, num_threads)


@parallel_only
def test_a_team_works_at_the_same_time() -> None:
    """Several attempts: a loaded machine may run one thread after the other by itself."""
    for attempt in range(50):
        seen = _testing.probe_parallel(64, 2, busy_ns=50_000 * (attempt + 1))
        check(seen, 64, 2)
        assert seen["most_in_use"] == 2
        if seen["concurrent"] == 2:
            return
    pytest.fail("64 busy tasks never ran two at a time")


def test_one_task_or_one_thread_is_serial() -> None:
    assert _testing.probe_parallel(1, 8, busy_ns=10_000)["most_in_use"] == 1
    seen = _testing.probe_parallel(8, 1, busy_ns=10_000)
    assert (seen["most_in_use"], seen["workers"], seen["concurrent"]) == (1, 1, 1)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_nested_calls_stay_in_their_thread(num_threads: int) -> None:
    seen = _testing.probe_parallel(40, num_threads, nested_tasks=9, busy_ns=20_000)
    check(seen, 40, num_threads)
    assert seen["most_in_use"] <= num_threads


def call_from_threads(callers: int, rounds: int, n_tasks: int, num_threads: int, busy_ns: int) -> list[dict]:
    results: list[dict] = []
    start = threading.Barrier(callers)

    def work() -> None:
        start.wait()
        for _ in range(rounds):
            results.append(_testing.probe_parallel(n_tasks, num_threads, busy_ns=busy_ns))

    workers = [threading.Thread(target=work) for _ in range(callers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == callers * rounds
    return results


@pytest.mark.parametrize(("callers", "limit"), [(2, 2), (4, 2), (6, 3), (8, 4), (3, 8)])
def test_many_callers_share_the_count(callers: int, limit: int) -> None:
    """A caller always has its own thread; beyond that all of them together stay within the count."""
    fa.set_num_threads(limit)
    results = call_from_threads(callers, 12, 24, threads.resolve(None), 100_000)
    for seen in results:
        check(seen, 24, limit)
    most = max(seen["process_concurrent"] for seen in results)
    assert most <= max(seen["most_in_use"] for seen in results) <= limit + callers - 1


def test_callers_beyond_the_count_run_alone() -> None:
    fa.set_num_threads(1)
    results = call_from_threads(4, 10, 16, threads.resolve(None), 50_000)
    assert max(seen["workers"] for seen in results) == 1
    assert max(seen["process_concurrent"] for seen in results) <= 4


@parallel_only
def test_the_argument_of_a_call_may_exceed_the_process_setting() -> None:
    fa.set_num_threads(1)
    assert _testing.probe_parallel(64, 3, busy_ns=50_000)["most_in_use"] == 3


def test_calls_release_the_gil() -> None:
    """While one thread is inside a call, Python code of another runs on."""
    done = threading.Event()

    def work() -> None:
        _testing.probe_parallel(4, 1, busy_ns=200_000_000)
        done.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        worker = threading.Thread(target=work)
        worker.start()
        turns = 0
        while not done.wait(0.005):
            turns += 1
        worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert turns >= 10


# ---- floating-point environment ----


@needs_fenv
@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_tasks_run_in_the_default_environment(name: str, num_threads: int) -> None:
    with environment(name) as (libm, expected):
        seen = _testing.probe_parallel(64, num_threads, busy_ns=20_000, nested_tasks=2)
        after = control_word(libm)
    check(seen, 64, num_threads)
    assert after == expected


@needs_fenv
def test_the_environment_of_the_team_is_left_alone_too() -> None:
    """Another library may share the pool: the calls in between see nothing but their own settings."""
    for name in ENVIRONMENTS:
        with environment(name):
            first = _testing.probe_parallel(64, 4)
        second = _testing.probe_parallel(64, 4)
        assert first["bad_environment"] == second["bad_environment"] == 0


@needs_fenv
def test_sticky_flags_of_the_caller_survive() -> None:
    libm = ctypes.CDLL("libm.so.6")
    overflow = 0x08 if X86 else 0x04
    libm.feclearexcept(0x3F)
    libm.feraiseexcept(overflow)
    _testing.probe_parallel(8, 2)
    raised = libm.fetestexcept(overflow)
    libm.feclearexcept(0x3F)
    assert raised == overflow


# ---- the edges of the runtime ----


@parallel_only
@pytest.mark.parametrize(
    "env",
    [
        {"OMP_THREAD_LIMIT": "2"},
        {"OMP_DYNAMIC": "true"},
        {"OMP_MAX_ACTIVE_LEVELS": "1"},
        {"OMP_WAIT_POLICY": "passive"},
        {"OMP_PROC_BIND": "true"},
        {"OMP_NUM_THREADS": "1"},
        {"OMP_SCHEDULE": "static,4"},
        {"OMP_STACKSIZE": "256k"},
    ],
)
def test_settings_of_openmp_do_not_break_calls(env: dict[str, str]) -> None:
    """The runtime may grant a smaller team than asked for."""
    code = """
        from fastattn import _testing
        for n_tasks in (1, 5, 64):
            seen = _testing.probe_parallel(n_tasks, 4, busy_ns=1000)
            assert list(seen["runs"]) == [1] * n_tasks, seen
            assert seen["bad_worker"] == seen["disordered"] == 0, seen
        print("ok")
    """
    assert output_of(code, env=dict(env)) == "ok"
