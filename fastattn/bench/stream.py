# SPDX-License-Identifier: MIT
"""``fastattn bench model --stream N``: many short texts through ``fastattn embed``, and its memory on the way."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from .child import ChildError, child_environment
from .corpus import real_sentences

__all__ = ["generated_texts", "watch_stream"]

_LINES = 1000  # written at once
_SECONDS = 0.05  # between two looks at the memory
_PARTS = 10


def generated_texts(count: int, seed: int = 0) -> Iterator[list[str]]:
    """``count`` texts of 3 to 12 words of the language reference in random order, a list of up to 1000 at a time.

    >>> [len(texts) for texts in generated_texts(2500)]
    [1000, 1000, 500]
    """
    words = np.array(sorted({word for sentence in real_sentences(500) for word in sentence.split()}))
    random = np.random.default_rng(seed)
    for start in range(0, count, _LINES):
        sizes = random.integers(3, 13, min(_LINES, count - start))
        chosen = np.split(random.choice(words, int(sizes.sum())), np.cumsum(sizes)[:-1])
        yield [" ".join(part.tolist()) for part in chosen]


def watch_stream(model: Path, count: int, num_threads: int) -> dict[str, Any]:
    """``count`` generated texts through the standard input of ``fastattn embed``, whose JSON lines are thrown away.

    Returns:
        texts, seconds, texts_per_second, cpu_seconds (user and system, of all threads); rss_bytes, for each tenth of
        the texts the most that was resident while it was read; growth_bytes, from the second tenth (by then each buffer
        has been used) to the most of the later ones.

    Raises:
        ChildError: the command fails, with what it says. OSError: the system has no /proc.
    """
    command = [sys.executable, "-m", "fastattn", "embed", "--model", str(model), "--threads", str(num_threads), "-"]
    read = [0]
    with tempfile.TemporaryFile() as errors:
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, env=child_environment()
        )
        assert process.stdin is not None
        feeder = threading.Thread(target=_feed, args=(process.stdin, count, read), daemon=True)
        feeder.start()
        rss = [0] * _PARTS
        try:
            while process.poll() is None:
                part = min(read[0] * _PARTS // count, _PARTS - 1)
                rss[part] = max(rss[part], _resident(process.pid))
                time.sleep(_SECONDS)
        finally:
            process.kill()
            process.wait()
        feeder.join()
        seconds = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        if process.returncode:
            errors.seek(0)
            lines = errors.read().decode("utf-8", "replace").strip().splitlines()
            raise ChildError("fastattn", lines[-1][:160] if lines else f"it ended with status {process.returncode}")
    seen = [size for size in rss[1:] if size]
    return {
        "texts": count, "seconds": seconds, "texts_per_second": count / seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime, "rss_bytes": rss,
        "growth_bytes": max(seen) - seen[0] if seen else 0,
    }  # fmt: skip


def _feed(stream: IO[bytes], count: int, read: list[int]) -> None:
    try:
        with stream:
            for texts in generated_texts(count):
                stream.write(("\n".join(texts) + "\n").encode())
                read[0] += len(texts)
    except BrokenPipeError:  # the command has ended: its status says why
        return


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (ProcessLookupError, IndexError):  # it has just ended
        return 0
