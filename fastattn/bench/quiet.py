# SPDX-License-Identifier: MIT
"""Whether anything of ours still runs: other libraries' threads spin for a while after a call before they sleep.

Some milliseconds with most thread pools, 200 with Intel's OpenMP, for good with OMP_WAIT_POLICY=active. What is timed
meanwhile has to share the CPUs with them: a probe of the machine's limit would find it lower than it is.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping

__all__ = ["Quiet", "running_threads"]

_LOOK = 1e-3  # seconds between two looks
_ENOUGH = 1.0  # seconds after which threads that still run are taken for ones that always will
_BLIND = 5e-3  # seconds to wait where the system does not tell


def running_threads(pid: int | None = None) -> int:
    """How many threads of a process run or want to; of this one (None) without the thread that asks.

    A process that has ended has none.

    Raises:
        OSError: the system has no /proc.
    """
    folder = "/proc/self/task" if pid is None else f"/proc/{pid}/task"
    own = str(threading.get_native_id()) if pid is None else ""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        if os.path.exists("/proc/self/task"):
            return 0
        raise
    return sum(name != own and _state(f"{folder}/{name}/stat") == "R" for name in names)


def _state(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # the thread has just ended
        return ""


class Quiet:
    """Waits until this process's other threads, and all of some processes, are asleep.

    ``processes``: name -> process id of children that compute in turn with this process.
    """

    def __init__(self, processes: Mapping[str, int] | None = None) -> None:
        self.processes = dict(processes or {})
        self.restless: list[str] = []
        """Whose threads have been waited for in vain since clear()."""

    def clear(self) -> None:
        """Forgets who was restless: another measurement begins."""
        self.restless = []

    def fault(self) -> str | None:
        """What the restless ones do to figures; None where all have been asleep."""
        if not self.restless:
            return None
        return f"threads of {', '.join(self.restless)} run all the time, beside the probe of the limit"

    def running(self) -> list[str]:
        """Names of the processes that have a thread running now.

        Raises:
            OSError: the system has no /proc.
        """
        found = ["this process"] if running_threads() else []
        return [*found, *(name for name, pid in self.processes.items() if running_threads(pid))]

    def settle(self, least: float = 0.0) -> bool:
        """Lets ``least`` seconds pass, then waits until nothing runs; whether any time has passed.

        Processes whose threads are not asleep after a second are in ``restless``, and not waited for again.
        """
        if least:
            time.sleep(least)
        end = time.perf_counter() + _ENOUGH
        waited = least > 0
        try:
            while running := [name for name in self.running() if name not in self.restless]:
                if time.perf_counter() >= end:
                    self.restless += running
                    break
                time.sleep(_LOOK)
                waited = True
        except OSError:  # no /proc: the time most thread pools need
            time.sleep(max(0.0, _BLIND - least))
            waited = True
        return waited
