# SPDX-License-Identifier: MIT
"""The command of the package as a process: what it printed, and what it prints while it runs."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping

from .processes import PACKAGE_PARENT, TIME_LIMIT


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """That of the command: this copy of the package, nothing of ours or OpenMP's from the surroundings."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FASTATTN_", "OMP_", "GOMP_", "KMP_"))}
    path = os.pathsep.join(filter(None, [PACKAGE_PARENT, clean.get("PYTHONPATH")]))
    return {**clean, "PYTHONPATH": path, "FASTATTN_NUM_THREADS": "2", **(changes or {})}


def start(*args: str | bytes, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """The command, with pipes on all sides."""
    return subprocess.Popen(
        [sys.executable, "-m", "fastattn", *args],
        env=environment(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(*args: str | bytes, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """(status, stdout, stderr) of the command."""
    with start(*args, env=env) as process:
        out, err = process.communicate(stdin, timeout=TIME_LIMIT)
    return process.returncode, out.decode(), err.decode()


def wait_for_output(process: subprocess.Popen[bytes], text: bytes) -> None:
    """Returns when the command has written `text` to stdout."""
    assert process.stdout is not None
    seen, end = b"", time.monotonic() + TIME_LIMIT
    while text not in seen:
        assert select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))[0], f"only {seen!r}"
        piece = os.read(process.stdout.fileno(), 1 << 16)
        assert piece, f"ended after {seen!r}"
        seen += piece
