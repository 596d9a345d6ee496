# SPDX-License-Identifier: MIT
"""The thread count: which of the places that can set it wins, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import numpy as np
import pytest
from support.processes import output_of, run_python

import fastattn as fa
from fastattn import _core, threads

needs_openmp = pytest.mark.skipif(_core.openmp_version() == 0, reason="built without OpenMP")

REPORT = "import json, fastattn as fa; from fastattn import threads; print(json.dumps(threads.thread_policy()))"


def policy_of(code: str = REPORT, **env: str) -> dict[str, object]:
    result: dict[str, object] = json.loads(output_of(code, env=env))
    return result


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    fa.set_num_threads(None)


def test_default_is_the_smallest_of_what_there_is() -> None:
    policy = policy_of()
    limits = [policy["omp_max_threads"], len(os.sched_getaffinity(0))]
    if policy["cpu_quota"] is not None:
        limits.append(int(float(str(policy["cpu_quota"]))))
    assert policy["num_threads"] == max(1, min(int(str(limit)) for limit in limits))
    assert policy["source"] == "default"


def test_omp_num_threads_lowers_but_never_raises_the_default() -> None:
    cpus = len(os.sched_getaffinity(0))
    assert policy_of(OMP_NUM_THREADS="1")["num_threads"] == 1
    raised = policy_of(OMP_NUM_THREADS=str(cpus + 3))
    assert isinstance(raised["num_threads"], int) and raised["num_threads"] <= cpus


def test_affinity_limits_the_default() -> None:
    cpu = min(os.sched_getaffinity(0))
    policy = policy_of(f"import os; os.sched_setaffinity(0, {{{cpu}}})\n{REPORT}", OMP_NUM_THREADS="8")
    assert policy["num_threads"] == 1
    assert policy["affinity"] == [cpu]
    assert "CPUs this process may run on: 1" in str(policy["explanation"])


def test_environment_variable_wins_over_the_default() -> None:
    policy = policy_of(FASTATTN_NUM_THREADS="3", OMP_NUM_THREADS="1")
    assert policy["num_threads"] == 3
    assert policy["source"] == "FASTATTN_NUM_THREADS"


def test_set_num_threads_wins_over_the_environment_and_none_goes_back() -> None:
    code = """
        import fastattn as fa
        seen = [fa.get_num_threads()]
        fa.set_num_threads(5); seen.append(fa.get_num_threads())
        fa.set_num_threads(None); seen.append(fa.get_num_threads())
        print(seen)
    """
    assert output_of(code, env={"FASTATTN_NUM_THREADS": "3"}) == "[3, 5, 3]"


def test_call_argument_wins_over_everything() -> None:
    fa.set_num_threads(3)
    assert threads.resolve(2) == 2
    assert threads.resolve(None) == 3


@pytest.mark.parametrize("text", ["", "  "])
def test_empty_environment_variable_counts_as_unset(text: str) -> None:
    assert policy_of(FASTATTN_NUM_THREADS=text)["source"] == "default"


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "1e3", "0x2", "1_0", "٣", "000"])
def test_bad_environment_variable_is_refused_at_import(text: str) -> None:
    done = run_python("import fastattn", env={"FASTATTN_NUM_THREADS": text})
    assert done.returncode != 0
    assert "ValueError: FASTATTN_NUM_THREADS must be a positive integer" in done.stderr


@pytest.mark.parametrize("text", ["999999999", "9" * 5000, "00000000000000000000000000000" + "9" * 30])
def test_absurd_environment_variable_is_capped(text: str) -> None:
    policy = policy_of(FASTATTN_NUM_THREADS=text)
    assert policy["num_threads"] == policy["most"]


def test_leading_zeros_do_not_matter() -> None:
    assert policy_of(FASTATTN_NUM_THREADS=" 002 ")["num_threads"] == 2


@pytest.mark.parametrize("value", [0, -1, -(2**70), np.int64(0)])
def test_counts_below_one_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match="num_threads must be at least 1"):
        fa.set_num_threads(value)
    with pytest.raises(ValueError, match="num_threads must be at least 1"):
        threads.resolve(value)


@pytest.mark.parametrize("value", [True, False, 2.0, "2", [2], np.float32(2), np.bool_(True)])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match="num_threads must be an integer"):
        fa.set_num_threads(value)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="num_threads must be an integer"):
        threads.resolve(value)  # type: ignore[arg-type]


def test_a_refused_count_changes_nothing() -> None:
    fa.set_num_threads(3)
    with pytest.raises(ValueError, match="num_threads"):
        fa.set_num_threads(0)
    assert fa.get_num_threads() == 3


@pytest.mark.parametrize("value", [np.int8(3), np.uint64(3), np.int64(3)])
def test_numpy_integers_are_taken(value: np.integer) -> None:
    fa.set_num_threads(value)
    assert fa.get_num_threads() == 3
    assert threads.resolve(value) == 3


def test_absurd_counts_are_capped() -> None:
    most = threads.thread_policy()["most"]
    for value in (10**6, 2**31, 2**63, 2**64 + 1, 10**30):
        assert threads.resolve(value) == most
        fa.set_num_threads(value)
        assert fa.get_num_threads() == most


def test_policy_explains_itself() -> None:
    policy = threads.thread_policy()
    assert policy["explanation"].startswith(f"{policy['num_threads']}: ")
    fa.set_num_threads(7)
    policy = threads.thread_policy()
    assert (policy["num_threads"], policy["source"]) == (7, "set_num_threads")
    assert "set_num_threads" in policy["explanation"]
    json.dumps(policy)


@needs_openmp
def test_threadpoolctl_limits_the_default() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = fa.get_num_threads()
    with threadpoolctl.threadpool_limits(limits=1, user_api="openmp"):
        assert fa.get_num_threads() == 1
    assert fa.get_num_threads() == before


@needs_openmp
def test_threadpoolctl_reaches_the_kernels() -> None:
    """Not only the number: a region opened under the limit runs in one thread."""
    code = """
        import threadpoolctl, fastattn as fa
        from fastattn import _testing
        def workers():
            return max(_testing.probe_parallel(32, fa.get_num_threads(), busy_ns=200_000)["most_in_use"]
                       for _ in range(3))
        seen = [workers()]
        with threadpoolctl.threadpool_limits(limits=1, user_api="openmp"):
            seen.append(workers())
        seen.append(workers())
        print(seen)
    """
    pytest.importorskip("threadpoolctl")
    n = policy_of()["num_threads"]
    assert output_of(code) == f"[{n}, 1, {n}]"


def test_operators_take_the_count_that_holds() -> None:
    """A thread that watches while the main one computes: OpenMP's setting belongs to the thread that made it."""
    code = """
        import threading
        import numpy as np, threadpoolctl, fastattn as fa
        from fastattn import _core
        x = np.ones((1, 4, 1024, 64), np.float32)

        def team(**options):
            seen, stop = [0], threading.Event()
            def watch():
                while not stop.is_set():
                    seen.append(_core.threads_in_use())
            watcher = threading.Thread(target=watch)
            watcher.start()
            for _ in range(3):
                fa.attention(x, x, x, **options)
            stop.set()
            watcher.join()
            return max(seen)

        found = [team() == fa.get_num_threads(), team(num_threads=3)]
        with threadpoolctl.threadpool_limits(limits=1, user_api="openmp"):
            found += [team(), team(num_threads=2)]
        fa.set_num_threads(4)
        found += [team(), team(num_threads=1), team(num_threads=np.int64(5))]
        print(found)
    """
    pytest.importorskip("threadpoolctl")
    if threads.thread_policy()["openmp"] == 0:
        pytest.skip("built without OpenMP")
    assert output_of(code) == "[True, 3, 1, 2, 4, 1, 5]"


@pytest.mark.parametrize("value", [0, -3, True, 1.0, "2"])
def test_operators_refuse_bad_counts(value: object) -> None:
    x = np.ones((1, 1, 4, 8), np.float32)
    with pytest.raises((TypeError, ValueError), match="num_threads must be"):
        fa.attention(x, x, x, num_threads=value)  # type: ignore[arg-type]
