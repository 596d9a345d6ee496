# SPDX-License-Identifier: MIT
"""Runs Python code in a process of its own, with a time limit that also ends what it forked."""

from __future__ import annotations

import inspect
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import fastattn

# Where this copy of the package is, for processes that run elsewhere.
PACKAGE_PARENT = str(Path(next(iter(fastattn.__path__))).resolve().parent)

# What processes need on their path to import what tests share.
TESTS = str(Path(__file__).resolve().parents[1])

TIME_LIMIT = 150.0  # for machines that are busy with something else; what can hang would hang for ever


def run_python(
    code: str, *args: str, env: Mapping[str, str | None] | None = None, timeout: float = TIME_LIMIT
) -> subprocess.CompletedProcess[str]:
    """`code` in a fresh interpreter of its own process group; a hang is a failure that names itself.

    `env` is laid over the environment, None removes a variable. FASTATTN_* and OMP_* of the surroundings do not count.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FASTATTN_", "OMP_", "GOMP_", "KMP_"))}
    for name, value in (env or {}).items():
        clean.pop(name, None)
        if value is not None:
            clean[name] = value
    paths = [PACKAGE_PARENT, clean.get("PYTHONPATH", "")]
    clean["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        env=clean,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"no end within {timeout:.0f} s\nstdout: {out}\nstderr: {err}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def output_of(code: str, *args: str, env: Mapping[str, str | None] | None = None, timeout: float = TIME_LIMIT) -> str:
    """Standard output of `code`, which must succeed."""
    done = run_python(code, *args, env=env, timeout=timeout)
    assert done.returncode == 0, f"status {done.returncode}\nstdout: {done.stdout}\nstderr: {done.stderr}"
    return done.stdout.strip()


def compile_shared(source: str, folder: Path, *flags: str) -> Path | None:
    """A shared library of C source text, or None where there is no compiler that can make it.

    The compiler is of the family that built the package, so that both use the same OpenMP runtime.
    """
    family = "clang" if fastattn.build_info()["compiler"].startswith("clang") else "gcc"
    compiler = shutil.which(family)
    if compiler is None:
        return None
    text, library = folder / "library.c", folder / "library.so"
    text.write_text(textwrap.dedent(source))
    done = subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", *flags, str(text), "-o", str(library)], capture_output=True, text=True
    )
    return library if done.returncode == 0 else None


def output_of_function(function: Callable[..., None], *args: str, env: Mapping[str, str | None] | None = None) -> str:
    """Standard output of `function`, of a test's own file, called with `args` in a fresh interpreter.

    Other processes, spawned ones too, find the functions of that file: they can be sent to pools.
    """
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]; module = __import__(sys.argv[3])\n"
        "getattr(module, sys.argv[4])(*sys.argv[5:])"
    )
    folders = (str(Path(inspect.getfile(function)).parent), TESTS)
    return output_of(code, *folders, function.__module__, function.__name__, *args, env=env)
