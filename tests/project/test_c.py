# SPDX-License-Identifier: MIT
"""The C test program (tests/c): guard pages, every instruction set, a reference in double. Needs a compiler."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKE = Path(__file__).resolve().parents[1] / "c" / "make.py"


def make(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(MAKE), *map(str, args)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_variants_are_listed():
    done = make("--list")
    assert done.returncode == 0
    assert {line.split()[0] for line in done.stdout.splitlines()} >= {"gcc", "clang", "serial", "asan", "tsan", "neon"}


def test_unknown_variant_is_refused():
    done = make("msvc")
    assert done.returncode == 2
    assert "unknown variant 'msvc'" in done.stdout


def test_c_program(tmp_path):
    compiler = shlex.split(os.environ.get("CC", "gcc"))[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    done = make("quick", "--out", tmp_path)
    assert done.returncode == 0, done.stdout
