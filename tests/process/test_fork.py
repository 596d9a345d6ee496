# SPDX-License-Identifier: MIT
"""Processes made by fork(): several threads before it, several after it, however many generations.

Every case runs in an interpreter of its own with a time limit, because the failure is a hang.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.processes import compile_shared, output_of

from fastattn import _core

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")

# In each script: use() makes calls until one of them really ran in two threads at once; in_child(fn) forks, runs fn in
# the child, and waits for it.
COMMON = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)   # Python warns of fork() beside threads, which is the point here

def use(n=2):
    from fastattn import _core, _testing
    busy_ns, end = 50_000, time.monotonic() + 30
    while time.monotonic() < end:
        seen = _testing.probe_parallel(48, n, busy_ns=busy_ns)
        assert list(seen["runs"]) == [1] * 48 and seen["bad_worker"] == 0, seen
        assert _core.threads_in_use() == 0
        if _core.openmp_version() == 0:
            return 1
        assert seen["most_in_use"] == n, seen
        if seen["concurrent"] == n:
            return n
        busy_ns = min(2 * busy_ns, 4_000_000)   # a busy machine: give the other thread time to be scheduled
    raise AssertionError("the tasks never ran at the same time")

def in_child(fn, leave=os._exit):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            fn()
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        sys.stderr.flush()
        leave(status)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
"""


def run(script: str, *args: str, **env: str) -> None:
    assert output_of(COMMON + "\n" + script + "\nprint('done')", *args, env=env) == "done"


def test_child_and_parent_go_on() -> None:
    run("""
use()
in_child(use)
use()
in_child(use)
use()
""")


def test_child_alone_when_the_parent_never_used_threads() -> None:
    run("import fastattn\nin_child(use)\nuse()\nin_child(use)")


def test_generations() -> None:
    run("""
def generation(depth):
    use()
    if depth < 5:
        in_child(lambda: generation(depth + 1))
    use()
generation(0)
""")


def test_children_that_leave_by_exit() -> None:
    """exit() runs the C library's exit handlers while the child's threads are idle."""
    run("""
use()
def leave(status):
    import ctypes
    ctypes.CDLL(None).exit(status)
for _ in range(5):
    in_child(use, leave)
    in_child(lambda: in_child(use, leave), leave)
""")


def test_children_that_end_as_python_does() -> None:
    run("""
use()
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        use()
        sys.exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
""")


def test_fork_in_a_thread_that_is_not_the_main_one() -> None:
    run("""
def work():
    use()
    in_child(lambda: (use(), in_child(use), use()))
    use()
use()
for _ in range(3):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
use()
""")


def test_fork_in_a_thread_of_a_child() -> None:
    run("""
def child():
    use()
    thread = threading.Thread(target=lambda: (use(), in_child(use), use()))
    thread.start()
    thread.join()
    use()
use()
in_child(child)
""")


def test_threads_of_the_child_beside_the_inherited_one() -> None:
    run("""
def many():
    failed = []
    def work():
        from fastattn import _testing
        for _ in range(30):
            seen = _testing.probe_parallel(16, 3, busy_ns=20_000)
            if list(seen["runs"]) != [1] * 16 or seen["bad_worker"] or seen["disordered"]:
                failed.append(seen)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    assert not failed, failed
many()
in_child(many)
many()
""")


def test_fork_while_other_threads_are_inside_calls() -> None:
    """What those held at the moment of the fork is of no consequence in the child."""
    run("""
stop = threading.Event()
def busy():
    from fastattn import _testing
    while not stop.is_set():
        _testing.probe_parallel(8, 2, busy_ns=100_000)
def child():
    from fastattn import _core
    assert _core.threads_in_use() == 0
    use()
import fastattn
fastattn.set_num_threads(8)
workers = [threading.Thread(target=busy) for _ in range(3)]
for worker in workers:
    worker.start()
try:
    for _ in range(15):
        in_child(lambda: (child(), in_child(child)))
finally:
    stop.set()
    for worker in workers:
        worker.join()
use()
""")


def test_team_sizes_change_in_the_child() -> None:
    run("""
def sizes():
    from fastattn import _testing
    for n in (2, 5, 3, 8, 1, 2, 8, 4) * 5:
        seen = _testing.probe_parallel(50, n, busy_ns=1000)
        assert list(seen["runs"]) == [1] * 50 and seen["bad_worker"] == 0 and seen["disordered"] == 0, seen
        assert seen["workers"] <= n
use()
in_child(sizes)
in_child(lambda: (sizes(), in_child(sizes)))
""")


def test_child_makes_do_with_the_threads_it_can_get() -> None:
    """No address space for more stacks (the C library may have a few left over): a smaller team, all tasks done."""
    run("""
import resource
def starved():
    from fastattn import _core, _testing
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + (512 << 10)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    for _ in range(3):
        seen = _testing.probe_parallel(48, 32, busy_ns=1000)
        assert list(seen["runs"]) == [1] * 48 and seen["bad_worker"] == 0, seen
    assert len(os.listdir("/proc/self/task")) < 32
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    use()
    for _ in range(200):  # a thread that was refused is asked for again after a while
        _testing.probe_parallel(48, 32)
        if len(os.listdir("/proc/self/task")) == 32:
            return
        time.sleep(0.01)
    raise AssertionError(f"{len(os.listdir('/proc/self/task'))} threads, expected 32")
use()
if os.path.exists("/proc/self/statm"):
    in_child(starved)
""")


def test_signals_of_the_child_reach_its_main_thread() -> None:
    """The child's team blocks every signal, so that handlers run where Python expects them."""
    run("""
import signal
def blocked(task, number):
    with open(f"/proc/self/task/{task}/status") as file:
        mask = next(int(line.split()[1], 16) for line in file if line.startswith("SigBlk:"))
    return bool(mask >> (number - 1) & 1)
def child():
    got = []
    signal.signal(signal.SIGUSR1, lambda *_: got.append(threading.current_thread() is threading.main_thread()))
    use()
    if os.path.isdir("/proc/self/task") and threads_expected:
        team = [task for task in os.listdir("/proc/self/task") if task != str(os.getpid())]
        assert team and all(blocked(task, signal.SIGUSR1) and blocked(task, signal.SIGINT) for task in team)
        assert not blocked(os.getpid(), signal.SIGUSR1)
    for _ in range(20):
        os.kill(os.getpid(), signal.SIGUSR1)
        use()
    assert got and all(got), got
threads_expected = use() > 1
in_child(child)
""")


def test_results_are_the_same_in_parent_child_and_grandchild() -> None:
    run("""
import numpy as np
import fastattn as fa
rng = np.random.default_rng(7)
q, k, v = (rng.standard_normal((2, 4, 200, 64), dtype=np.float32) for _ in range(3))
expected = fa.attention(q, k, v, num_threads=1).tobytes()
def check():
    assert fa.attention(q, k, v, num_threads=2).tobytes() == expected
    assert fa.attention(q, k, v).tobytes() == expected
check()
in_child(lambda: (check(), in_child(check), check()))
check()
""")


@pytest.mark.parametrize("before", [True, False])
def test_multiprocessing_fork_pool(before: bool, tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(
        COMMON
        + f"""
import multiprocessing
def work(_):
    return use()
def nested(context):
    use()
    inner = context.Process(target=use)
    inner.start()
    inner.join()
    assert inner.exitcode == 0
def main():
    {"use()" if before else "import fastattn"}
    context = multiprocessing.get_context("fork")
    for _ in range(2):
        with context.Pool(2, maxtasksperchild=2) as pool:
            assert len(pool.map(work, range(8), chunksize=1)) == 8
        use()
    process = context.Process(target=nested, args=(context,))
    process.start()
    process.join()
    assert process.exitcode == 0
    print("done")
if __name__ == "__main__":
    main()
"""
    )
    assert output_of(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')") == "done"


def test_process_pool_executor() -> None:
    run("""
import concurrent.futures, multiprocessing
use()
with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
    assert len(list(pool.map(use, [2] * 6))) == 6
use()
""")


# ---- another library used OpenMP first ----

OTHER = """
    #include <omp.h>
    int other(int n) {
        int team = 0;
    #pragma omp parallel num_threads(n) reduction(+ : team)
        team += 1;
        return team;
    }
    int inside(int n, void (*call)(void)) { /* our caller inside its region */
    #pragma omp parallel num_threads(n)
        {
    #pragma omp single
            call();
        }
        return 0;
    }
"""


@pytest.fixture(scope="module")
def other_library(tmp_path_factory: pytest.TempPathFactory) -> str:
    library = compile_shared(OTHER, tmp_path_factory.mktemp("other"), "-fopenmp")
    if library is None:
        pytest.skip("no C compiler with OpenMP")
    return str(library)


needs_openmp = pytest.mark.skipif(_core.openmp_version() == 0, reason="built without OpenMP")


@needs_openmp
@pytest.mark.parametrize("imported", ["before the other", "after the other", "in the child"])
def test_another_library_used_openmp_first(other_library: str, imported: str) -> None:
    run(
        """
import ctypes
library, imported = sys.argv[1:]
if imported == "before the other":
    import fastattn
other = ctypes.CDLL(library).other
assert other(2) == 2
if imported == "after the other":
    import fastattn
in_child(lambda: (use(), in_child(use), use()))
assert other(2) == 2
use()
in_child(lambda: (use(), in_child(use), use()))
""",
        other_library,
        imported,
    )


@needs_openmp
def test_imported_in_a_thread_of_the_child(other_library: str) -> None:
    """The thread that imports is not the inherited one, which calls later."""
    run(
        """
import ctypes
other = ctypes.CDLL(sys.argv[1]).other
assert other(2) == 2
def child():
    def load():
        import fastattn
        use()
    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    use()
in_child(child)
""",
        other_library,
    )


@needs_openmp
def test_called_inside_a_region_of_another_library(other_library: str) -> None:
    run(
        """
import ctypes
from fastattn import _testing
library = ctypes.CDLL(sys.argv[1])
seen = []
callback = ctypes.CFUNCTYPE(None)(lambda: seen.append(_testing.probe_parallel(32, 4, busy_ns=1000)))
library.inside(2, callback)
assert list(seen[0]["runs"]) == [1] * 32 and seen[0]["workers"] == 1 and seen[0]["most_in_use"] == 1, seen
""",
        other_library,
    )
