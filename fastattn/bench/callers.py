# SPDX-License-Identifier: MIT
"""Several Python threads that call at once: how many calls they get done together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

__all__ = ["call_rate"]


def call_rate(calls: Sequence[Callable[[], object]], seconds: float) -> tuple[float, float]:
    """Calls per second while a thread for each of ``calls`` repeats it, for about ``seconds``; and CPU time of a call.

    Threads begin together; each ends its last call after the time is over, and the rate is of the time until the last
    of them has ended, so that no half-done call is counted.

    Raises:
        RuntimeError: a call failed; what it raised is the cause.

    >>> 10 < call_rate([lambda: time.sleep(0.01)] * 2, 0.1)[0] < 210
    True
    """
    begin = threading.Barrier(len(calls) + 1)
    counts = [0] * len(calls)
    errors: list[Exception] = []
    end = float("inf")

    def work(index: int) -> None:
        begin.wait()
        begin.wait()  # the end is set in between
        try:
            while time.perf_counter() < end:
                calls[index]()
                counts[index] += 1
        except Exception as error:  # whatever a library raises: it is for who asked
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    begin.wait()
    start, used = time.perf_counter(), time.process_time()
    end = start + seconds
    begin.wait()
    for thread in threads:
        thread.join()
    if errors:
        raise RuntimeError(f"a caller failed: {errors[0]}") from errors[0]
    done = sum(counts)
    return done / (time.perf_counter() - start), (time.process_time() - used) / max(done, 1)
