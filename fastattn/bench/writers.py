# SPDX-License-Identifier: MIT
"""One library that continues prompts, in a process of its own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from .child import Process, answering, peak_rss
from .timing import Clock, timed

__all__ = ["Writer", "serve"]


class Writer(Process):
    """A process that has loaded the language model of ``path`` with the library ``name``; ends with the ``with`` block.

    ``dtype`` is the type of the weights, None for as they are stored; ``kv_dtype`` that of keys and values, None for
    what the library takes; with ``cpu_time`` the CPU time of the process is counted; ``options`` are further ones of
    the library's loader, see peers.decoders; ``environment`` is laid over that of this process.

    Raises:
        ChildError: it could not, in what the library says.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        num_threads: int,
        dtype: str | None = None,
        kv_dtype: str | None = None,
        cpu_time: bool = False,
        options: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        clock = "cpu" if cpu_time else "wall"
        arguments = [name, str(path), str(num_threads), dtype or "", kv_dtype or "", clock, json.dumps(options or {})]
        super().__init__(name, __name__, "serve", arguments, environment)
        self.first_call_seconds = 0.0
        """What the call took that prepare() makes, prompts included."""

    def clear(self) -> None:
        """Forgets what was prepared."""
        self._ask({"clear": True})

    def prepare(
        self, prompts: Sequence[Sequence[int]], new: int, drawn: bool = False, **how: Any
    ) -> tuple[list[list[int]], Callable[[int], float], Callable[[int], float]]:
        """What comes of ``prompts`` of the same length: the first 1 + ``new`` tokens behind each, and what runs that
        again and returns the seconds of so many calls, (the first token of each, the ``new`` ones behind it).
        ``how``: what else the library lets one choose."""
        ids = [list(map(int, prompt)) for prompt in prompts]
        answer = self._ask({"prepare": ids, "new": new, "drawn": drawn, "how": how})
        self.first_call_seconds = float(answer["seconds"])
        number = answer["number"]
        return answer["tokens"], partial(self._time, number, 0), partial(self._time, number, new)

    def _time(self, number: int, new: int, count: int) -> float:
        return float(self._ask({"run": count, "number": number, "new": new})["seconds"])


def serve() -> None:
    """The child's side: arguments are the library, the model's path, threads, the dtypes of weights and of keys, empty
    for None, the clock, "wall" or "cpu", and an object of options. Ends when stdin does."""
    from .peers import one_line
    from .peers.decoders import LOADERS

    answer = answering()
    name, path, threads, dtype, kv_dtype, clock, options = sys.argv[1:]
    try:
        loaded = LOADERS[name](Path(path), int(threads), dtype or None, kv_dtype or None, **json.loads(options))
        answer(version=loaded.version, **loaded.facts)
        _serve(loaded, sys.stdin.buffer, answer, time.process_time if clock == "cpu" else time.perf_counter)
    except Exception as error:  # whatever a library raises: it is for the table
        answer(error=one_line(error))


def _serve(loaded: Any, questions: IO[bytes], answer: Callable[..., None], clock: Clock) -> None:
    calls: list[Any] = []
    for line in questions:
        question = json.loads(line)
        if "prepare" in question:
            new = question["new"]
            calls.append(loaded.prepare(question["prepare"], 1 + new, question["drawn"], **question["how"]))
            start = clock()
            tokens = calls[-1](1 + new)
            answer(number=len(calls) - 1, tokens=tokens, seconds=clock() - start)
        elif "run" in question:
            count, new, call = question["run"], question["new"], calls[question["number"]]
            seconds = timed(partial(call, 1 + new), clock)(count)
            if new:  # prompts and first tokens are none of it
                seconds -= timed(partial(call, 1), clock)(count)
            answer(seconds=max(seconds, 1e-9))  # of next to nothing, with noise
        elif "clear" in question:
            calls.clear()
            answer(done=True)
        else:
            answer(bytes=peak_rss())
