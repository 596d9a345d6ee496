# SPDX-License-Identifier: MIT
"""One library in a process of its own: lines of JSON in, lines of JSON out.

Several OpenMP runtimes, allocators and thread pools in one process disturb one another; and load time and memory are
only those of the library where nothing else is loaded.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from .callers import call_rate
from .timing import Clock, timed

__all__ = [
    "Child",
    "ChildError",
    "Process",
    "answering",
    "child_environment",
    "convert",
    "peak_rss",
    "serve",
    "serve_conversion",
]

_LOAD_LIMIT = 300.0  # seconds; for machines that are busy with something else
# Ctrl-C goes to the whole group of processes; a child's traceback would help nobody.
_CODE = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); from {0} import {1}; {1}()"


class ChildError(RuntimeError):
    """The child could not do what it was asked; the message is one line, ``name`` says which library it was for."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def child_environment() -> dict[str, str]:
    """The environment for a child that imports this very copy of the package."""
    import fastattn

    parent = str(Path(next(iter(fastattn.__path__))).resolve().parent)
    paths = [parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


class Process:
    """A process for the library ``name`` that answers lines of JSON; ends with the ``with`` block.

    It runs the function ``serve`` of ``module`` with ``arguments`` as those of its command line; ``environment`` is
    laid over that of this process. ``ready`` is the first line it has said.

    Raises:
        ChildError: it could not, in what the library says.
    """

    def __init__(
        self, name: str, module: str, serve: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE.format(module, serve), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**child_environment(), **(environment or {})},
        )
        try:
            self.ready = self._receive(_LOAD_LIMIT)
        except ChildError:
            self.close()
            raise
        self.load_seconds = time.perf_counter() - start
        """From the start of the process to a model that is ready, imports included."""
        self.version = str(self.ready["version"])

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def peak_memory(self) -> int:
        """Bytes of resident memory at the most, so far."""
        return int(self._ask({"memory": True})["bytes"])

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildError(self.name, self._last_words()) from None
        return self._receive(_LOAD_LIMIT)

    def _receive(self, limit: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], limit)[0]:
            raise ChildError(self.name, f"no answer within {limit:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise ChildError(self.name, self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ChildError(self.name, str(answer["error"]))
        return answer

    def _last_words(self) -> str:
        status = self._process.wait()
        self._log.seek(0)
        return _last_line(self._log.read(), status)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Child(Process):
    """A process that has loaded the model of ``folder`` with the library ``name``; ends with the ``with`` block.

    ``dtype`` is the type of the weights; with ``cpu_time`` run() counts the CPU time of the process; ``environment`` is
    laid over that of this process.

    Raises:
        ChildError: it could not, in what the library says.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        num_threads: int,
        dtype: str = "float32",
        cpu_time: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        arguments = [name, str(folder), str(num_threads), dtype, "cpu" if cpu_time else "wall"]
        super().__init__(name, __name__, "serve", arguments, environment)

    def prepare(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Makes ``ids`` (B, S) with ``mask`` what run() computes; its hidden states (B, S, H)."""
        with tempfile.TemporaryDirectory() as folder:
            np.savez(os.path.join(folder, "in.npz"), ids=ids, mask=mask)
            self._ask({"prepare": folder})
            hidden: np.ndarray = np.load(os.path.join(folder, "out.npy"), allow_pickle=False)
        return hidden

    def run(self, count: int) -> float:
        """Seconds of ``count`` calls."""
        return float(self._ask({"run": count})["seconds"])

    def latencies(self, count: int) -> list[float]:
        """Elapsed seconds of each of ``count`` calls."""
        return [float(seconds) for seconds in self._ask({"latencies": count})["seconds"]]

    def calls_for(self, seconds: float) -> tuple[list[float], float]:
        """Elapsed seconds of each of the calls that begin within ``seconds``, and CPU time of a call."""
        answer = self._ask({"calls_for": seconds})
        return [float(taken) for taken in answer["seconds"]], float(answer["cpu"])

    def callers(self, count: int, seconds: float) -> tuple[float, float]:
        """Calls per second of ``count`` Python threads that call at once for about ``seconds``, and CPU time of a call.

        Raises:
            ChildError: a call fails.
        """
        answer = self._ask({"callers": count, "for": seconds})
        return float(answer["rate"]), float(answer["cpu"])


def convert(name: str, folder: Path, dtype: str = "float32") -> tempfile.TemporaryDirectory[str] | None:
    """The folder the library `name` loads a model from, written in a process that ends; None where it reads `folder`.

    Raises:
        ChildError: it could not, in what the library says.
    """
    from .peers.models import CONVERTERS

    if name not in CONVERTERS:
        return None
    target = tempfile.TemporaryDirectory()
    command = [sys.executable, "-c", _CODE.format(__name__, "serve_conversion"), name, str(folder), target.name, dtype]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=child_environment())
    if done.returncode:
        target.cleanup()
        raise ChildError(name, _last_line(done.stderr, done.returncode))
    return target


def _last_line(output: bytes, status: int) -> str:
    lines = [line.strip() for line in output.decode("utf-8", "replace").split("\n") if line.strip()]
    return lines[-1][:160] if lines else f"its process ended with status {status}"


def serve_conversion() -> None:
    """The child's side of convert(): arguments are the library, the model's folder, the one to write to, the dtype."""
    from .peers import one_line
    from .peers.models import CONVERTERS

    name, folder, target, dtype = sys.argv[1:]
    try:
        CONVERTERS[name](Path(folder), Path(target), dtype)
    except Exception as error:  # whatever a library raises: it is for the table
        sys.exit(one_line(error))


def answering() -> Callable[..., None]:
    """The child's side: what writes an answer to whoever has started this process, from its keywords.

    What libraries print goes to stderr from now on: it must not end up among the answers.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def answer(**what: Any) -> None:
        answers.write(json.dumps(what).encode() + b"\n")
        answers.flush()

    return answer


def peak_rss() -> int:
    """Bytes of this process's resident memory at the most, so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def serve() -> None:
    """The child's side: arguments are the library, the folder, the number of threads, the dtype and the clock, "wall"
    or "cpu". Ends when stdin does."""
    from .peers import one_line
    from .peers.models import LOADERS

    answer = answering()
    name, folder, threads, dtype, clock = sys.argv[1:]
    try:
        loaded = LOADERS[name](Path(folder), int(threads), dtype)
        answer(version=loaded.version)
        _serve(loaded, sys.stdin.buffer, answer, time.process_time if clock == "cpu" else time.perf_counter)
    except Exception as error:  # whatever a library raises: it is for the table
        answer(error=one_line(error))


def _serve(loaded: Any, questions: IO[bytes], answer: Any, clock: Clock) -> None:
    given: tuple[np.ndarray, np.ndarray] = (np.zeros((0, 0), np.int64), np.zeros((0, 0), np.int64))
    call: Any = None
    for line in questions:
        question = json.loads(line)
        if "prepare" in question:
            folder = question["prepare"]
            with np.load(os.path.join(folder, "in.npz"), allow_pickle=False) as arrays:
                given = arrays["ids"], arrays["mask"]
            call = loaded.prepare(*given)
            np.save(os.path.join(folder, "out.npy"), np.asarray(call(), np.float32))
            answer(done=True)
        elif "run" in question:
            answer(seconds=timed(call, clock)(question["run"]))
        elif "latencies" in question:
            one = timed(call)
            answer(seconds=[one(1) for _ in range(question["latencies"])])
        elif "calls_for" in question:
            one = timed(call)
            taken: list[float] = []
            used, end = time.process_time(), time.perf_counter() + question["calls_for"]
            while not taken or time.perf_counter() < end:
                taken.append(one(1))
            answer(seconds=taken, cpu=(time.process_time() - used) / len(taken))
        elif "callers" in question:
            calls = [loaded.prepare(*given) for _ in range(question["callers"])]
            rate, used = call_rate(calls, question["for"])
            answer(rate=rate, cpu=used)
        else:
            answer(bytes=peak_rss())
