# SPDX-License-Identifier: MIT
"""One guest among others: forks and ends of the process at any moment, handlers that fork, callers of all sizes.

Every case runs in an interpreter of its own with a time limit, because the failure is a hang; nothing may be left on
stderr. With both teams.
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest
from support.processes import run_python

from fastattn import _core

TEAMS = ["crew"] + (["openmp"] if _core.openmp_version() else [])
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")

COMMON = """
import os, random, signal, subprocess, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)   # Python warns of fork() beside threads, which is the point here
import numpy as np
import fastattn as fa
from fastattn import _core
fa.set_num_threads(2)
_rng = np.random.default_rng(1)
def arrays(n, heads=4):
    return [_rng.standard_normal((1, heads, n, 64), dtype=np.float32) for _ in range(3)]
SMALL, LONG = arrays(96), arrays(4000, 8)
EXPECTED = fa.attention(*SMALL, num_threads=1).tobytes()
def check(threads=2):
    out = np.full(SMALL[0].shape, np.nan, np.float32)
    assert fa.attention(*SMALL, out=out, num_threads=threads).tobytes() == EXPECTED
def wait_for(pid, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, status
            return
        time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("the child hangs")
def fork(work):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        os._exit(status)
    return pid
"""


def run(script: str, *args: str, team: str, status: int = 0, common: str = COMMON) -> str:
    """Standard output; the exit status and an empty stderr are checked."""
    done = run_python(common + textwrap.dedent(script), *args, env={"FASTATTN_THREADS": team})
    assert (done.returncode, done.stderr) == (status, ""), f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


# ---- forks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("team", TEAMS)
def test_hundreds_of_forks(team: str) -> None:
    """FORKS in the environment says how many."""
    run("""
        for turn in range(int(sys.argv[1])):
            wait_for(fork(check))
            if turn % 50 == 0:
                check()
        assert _core.threads_in_use() == 0
    """, os.environ.get("FORKS", "100"), team=team)  # fmt: skip


@pytest.mark.parametrize("team", TEAMS)
def test_forks_beside_calls_of_other_threads(team: str) -> None:
    """From the main thread and from another one; children of children; and processes that exec."""
    run("""
        stop, failed = threading.Event(), []
        def call(threads):
            while not stop.is_set():
                try:
                    check(threads)
                except BaseException as error:
                    failed.append(error)
                    raise
        def forks():
            try:
                for turn in range(40):
                    wait_for(fork(lambda: (check(), check(3))))
                    if turn % 10 == 0:
                        wait_for(fork(lambda: (check(), wait_for(fork(check)), check())))
                        subprocess.run(["/bin/sh", "-c", "exit 0"], check=True)
                        pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 0"], {})
                        assert os.waitpid(pid, 0)[1] == 0
            except BaseException as error:
                failed.append(error)
                raise
        fa.set_num_threads(4)
        callers = [threading.Thread(target=call, args=(n,)) for n in (2, 3, 4)]
        forker = threading.Thread(target=forks)
        for thread in (*callers, forker):
            thread.start()
        forks()
        forker.join()
        stop.set()
        for caller in callers:
            caller.join()
        assert not failed, failed
        assert _core.threads_in_use() == 0
        check()
    """, team=team)  # fmt: skip


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(method: str, tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(COMMON + textwrap.dedent("""
        def work(_):
            check()
            return True
        if __name__ == "__main__":
            import multiprocessing
            check()
            with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
                assert pool.map(work, range(4), chunksize=1) == [True] * 4
    """))  # fmt: skip
    run(f"""
        import sys, subprocess
        done = subprocess.run([sys.executable, {str(script)!r}, {method!r}], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    """, team="crew", common="")  # fmt: skip


# ---- handlers in the middle of a call --------------------------------------------------------------------------------

HANDLER = """
seen = []
def long_call(handler):
    # as long as it takes until the handler has run inside: it raises after the call where it came too early
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    return fa.attention(*LONG, num_threads=2)
"""


@pytest.mark.parametrize("team", TEAMS)
def test_a_handler_that_forks(team: str) -> None:
    """In the child the call ends with an error, what the handler does there works; in the parent all is as ever."""
    found = run(HANDLER + textwrap.dedent("""
        def handler(*_):
            seen.append(os.fork())
            check()                      # in both
            if seen[0] == 0:
                wait_for(fork(check))    # a child of the child
            else:
                assert subprocess.run(["/bin/sh", "-c", "echo hello"], capture_output=True).stdout == b"hello\\n"
        expected = fa.attention(*LONG, num_threads=1).tobytes()
        try:
            out = long_call(handler)
        except RuntimeError as error:
            assert seen == [0] and "this is the child" in str(error), (seen, error)
            for threads in (2, 3, 1):
                check(threads)
            assert _core.threads_in_use() == 0
            os._exit(0)
        assert seen[0] > 0 and out.tobytes() == expected
        wait_for(seen[0])
        check()
        print("both")
    """), team=team)  # fmt: skip
    assert found == "both"


@pytest.mark.parametrize("team", TEAMS)
def test_threads_that_a_forking_handler_starts_keep_their_tasks(team: str) -> None:
    """They call while the handler's own call ends in the child; it must not take them for its own."""
    found = run(HANDLER + textwrap.dedent("""
        wrong = []
        fa.set_num_threads(4)   # some are left for the child's threads
        def work(begun, end):
            inputs = [x[:, :, :1200].copy() for x in LONG]
            expected = fa.attention(*inputs, num_threads=1).tobytes()
            begun.set()
            while time.monotonic() < end:
                out = np.full(inputs[0].shape, np.nan, np.float32)
                if fa.attention(*inputs, out=out, num_threads=2).tobytes() != expected:
                    wrong.append(1)
        def handler(*_):
            seen.append(os.fork())
            if seen[0] == 0:
                begun = threading.Event()
                thread = threading.Thread(target=work, args=(begun, time.monotonic() + 0.5))
                seen.append(thread)
                thread.start()
                begun.wait()
                time.sleep(0.01)
        try:
            long_call(handler)
        except RuntimeError:
            seen[1].join()
            os._exit(1 if wrong else 0)
        wait_for(seen[0])
        print("right")
    """), team=team)  # fmt: skip
    assert found == "right"


def test_a_nested_call_of_a_handler_leaves_the_outer_one_alone() -> None:
    """Whatever becomes of it: a second signal in it waits for its end and then speaks to the outer call."""
    found = run(HANDLER + textwrap.dedent("""
        class Enough(Exception):
            pass
        def enough(*_):
            raise Enough
        def handler(*_):
            signal.signal(signal.SIGALRM, enough)
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            try:
                fa.attention(*[x[:, :, :2000] for x in LONG], num_threads=2)
            except Enough:
                seen.append("inside")
        expected = fa.attention(*LONG, num_threads=1).tobytes()
        try:
            assert long_call(handler).tobytes() == expected and seen == ["inside"]
        except Enough:
            assert not seen
        check()
        print("good")
    """), team="crew")  # fmt: skip
    assert found == "good"


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="the system does not tell of threads")
def test_members_take_the_signals_that_they_bring_upon_themselves() -> None:
    run("""
        from fastattn import _testing
        def blocked(task, number):
            with open(f"/proc/self/task/{task}/status") as file:
                mask = next(int(line.split()[1], 16) for line in file if line.startswith("SigBlk:"))
            return bool(mask >> (number - 1) & 1)
        for _ in range(3):   # beyond the CPUs members come one for a call
            _testing.probe_parallel(64, 4, busy_ns=20_000)
        assert _core.crew_size() == 3
        end = time.monotonic() + 30
        while True:   # a thread that has not run yet has all of them blocked
            tasks = [task for task in os.listdir("/proc/self/task") if task != str(os.getpid())]
            members = [task for task in tasks if open(f"/proc/self/task/{task}/comm").read() == "fastattn\\n"]
            own = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
            if members and not any(blocked(task, number) for task in members for number in own):
                break
            assert time.monotonic() < end, (tasks, members)
            time.sleep(0.01)
        for task in members:
            assert all(blocked(task, n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD))
    """, team="crew")  # fmt: skip


# ---- ends of the process ---------------------------------------------------------------------------------------------

ENDS = {
    "of the script": "",
    "sys.exit": "sys.exit(0)",
    "os._exit": "os._exit(0)",
    "exit of C": "import ctypes; ctypes.CDLL(None).exit(0)",
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("team", TEAMS)
def test_ends_beside_calls_of_other_threads(team: str, end: str) -> None:
    """Daemon threads call all the time, one of them is inside a long call; other threads have asked to leave."""
    run(f"""
        def call():
            while True:
                check(random.randint(1, 4))
        def leave():
            check()
            sys.exit(3)   # ends that thread alone
        fa.set_num_threads(4)
        threads = [threading.Thread(target=call, daemon=True) for _ in range(3)]
        threads += [threading.Thread(target=fa.attention, args=LONG, daemon=True), threading.Thread(target=leave)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        {ENDS[end]}
    """, team=team)  # fmt: skip


# ---- everybody at once -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("team", TEAMS)
def test_callers_of_all_sizes(team: str) -> None:
    """SECONDS in the environment says how long."""
    run("""
        shapes = (1, 7, 40, 96, 200)
        inputs = {n: arrays(n) for n in shapes}
        expected = {n: fa.attention(*inputs[n], num_threads=1).tobytes() for n in shapes}
        failed = []
        def call(seed, end):
            chance = random.Random(seed)
            try:
                while time.monotonic() < end:
                    n, threads = chance.choice(shapes), chance.randint(1, 8)
                    out = np.full(inputs[n][0].shape, np.nan, np.float32)
                    assert fa.attention(*inputs[n], out=out, num_threads=threads).tobytes() == expected[n], (n, threads)
                    if chance.random() < 0.01:
                        time.sleep(0.002)   # members go to sleep
            except BaseException as error:
                failed.append(error)
                raise
        fa.set_num_threads(8)
        for callers in (1, 2, 5, 8):
            end = time.monotonic() + float(sys.argv[1]) / 4
            threads = [threading.Thread(target=call, args=(seed, end)) for seed in range(callers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not failed, failed
            assert _core.threads_in_use() == 0 and _core.crew_size() <= 7
    """, os.environ.get("SECONDS", "0.6"), team=team)  # fmt: skip
