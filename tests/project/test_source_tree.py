# SPDX-License-Identifier: MIT
"""``import fastattn`` in a clone that was never built: the source hides the package that is installed."""

from __future__ import annotations

import importlib.machinery
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import TIME_LIMIT

import fastattn

PACKAGE = Path(next(iter(fastattn.__path__))).resolve()


def copy_of_the_source(parent: Path) -> Path:
    """The package as git has it, beside a setup.py."""
    shutil.copytree(PACKAGE, parent / "fastattn", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (parent / "setup.py").write_text("")
    return parent / "fastattn"


def python(*args: str, cwd: Path, installed: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A process in ``cwd`` that has numpy and whatever else is installed, without what an editable installation adds to
    the search for modules; ``installed`` stands for the folder where pip puts packages."""
    folders = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    if installed is not None:
        folders.append(str(installed))
    *options, code = args
    command = [sys.executable, "-S", *options, f"import sys; sys.path += {folders!r}; {code}"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT)


@pytest.mark.parametrize("code", [
    "import fastattn", "import fastattn as fa; fa.attention", "from fastattn import load", "import fastattn.cli",
    "from fastattn.ops import linear",
])  # fmt: skip
def test_the_message_says_what_to_do(tmp_path: Path, code: str) -> None:
    package = copy_of_the_source(tmp_path)
    done = python("-c", code, cwd=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    assert done.returncode == 1
    assert last == (
        f"ImportError: {package} has no compiled extension for this Python (_core{suffix}), it is the source: to use "
        f"an installed fastattn start Python in another folder, or as `python -P`; "
        f"to build this one run `pip install --editable {tmp_path}`"
    )


def test_what_it_says_works(tmp_path: Path) -> None:
    copy_of_the_source(tmp_path / "clone")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = "import fastattn; print(fastattn.__path__[0])"
    for args, cwd in ((["-P", "-c", code], tmp_path / "clone"), (["-c", code], elsewhere)):
        done = python(*args, cwd=cwd, installed=PACKAGE.parent)
        assert (done.returncode, done.stderr) == (0, "") and Path(done.stdout.strip()) == PACKAGE
    assert python("-c", code, cwd=tmp_path / "clone", installed=PACKAGE.parent).returncode == 1


def test_an_extension_of_another_python(tmp_path: Path) -> None:
    """Outside a source tree: what is installed is for another Python."""
    package = copy_of_the_source(tmp_path)
    (tmp_path / "setup.py").unlink()
    (package / "_core.cpython-27-x86_64-linux-gnu.so").write_bytes(b"")
    done = python("-c", "import fastattn", cwd=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "has no compiled extension for this Python" in last
    assert last.endswith(f": install fastattn with this Python, {sys.executable}")


def test_other_failures_are_not_explained_away(tmp_path: Path) -> None:
    """An extension that is there and does not load (a missing libgomp, say) says so itself."""
    package = copy_of_the_source(tmp_path)
    (package / f"_core{importlib.machinery.EXTENSION_SUFFIXES[0]}").write_bytes(b"no ELF file")
    done = python("-c", "import fastattn", cwd=tmp_path)
    assert done.returncode == 1 and ("invalid ELF header" in done.stderr or "file too short" in done.stderr)
    assert "no compiled extension" not in done.stderr
