# SPDX-License-Identifier: MIT
"""--timeout: status 124 after so many seconds, whatever the command waits for; what was done is kept."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from golden import tiny_bert
from support.commands import run, start
from support.text_folders import save_task_folder

from fastattn import cli

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_bert.save_text_folder(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tiny") / "classifier"
    return str(save_task_folder(path, "sequence_classification", ["score"]))


def commands(folder: str, classifier: str) -> dict[str, list[str]]:
    return {
        "embed": ["embed", "--model", folder],
        "classify": ["classify", "--model", classifier],
        "rerank": ["rerank", "--model", classifier, "--query", "the cat"],
    }


@pytest.mark.parametrize("name", ["embed", "classify", "rerank"])
def test_in_a_process_of_another_program(
    folder: str, classifier: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = commands(folder, classifier)[name]
    assert cli.main([*command, "the cat", "--timeout", "1e-9"]) == 124
    out, err = capsys.readouterr()
    assert (out, err) == ("", "fastattn: --timeout: 1e-09 s have passed\n")
    assert cli.main([*command, "the cat", "--timeout", "600"]) == 0
    first = capsys.readouterr().out
    assert cli.main([*command, "the cat"]) == 0
    assert capsys.readouterr().out == first and first
    for wrong in ("0", "-1", "nan", "inf", "soon", ""):
        assert cli.main([*command, "the cat", f"--timeout={wrong}"]) == 2
        assert "argument --timeout" in capsys.readouterr().err


def test_an_input_that_says_nothing(folder: str, tmp_path: Path) -> None:
    """What came before is kept, as after a signal."""
    target, kept = tmp_path / "vectors.npy", tmp_path / "vectors.partial.npy"
    begin = time.monotonic()
    with start("embed", "--model", folder, "-", "--output", str(target), "--timeout", "2") as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(b"the cat\n" * 20_000)
        process.stdin.flush()
        assert process.wait(60) == 124
        assert process.stdout.read() == b""
        err = process.stderr.read().decode().splitlines()
    assert 2 <= time.monotonic() - begin < 30
    assert err[0] == "fastattn: --timeout: 2 s have passed"
    if err[1:]:  # the machine was fast enough for some rows
        rows = len(np.load(kept))
        assert 0 < rows <= 20_000
        assert err[1:] == [f"fastattn: --timeout: {target} is not complete; {rows} rows that were done are in {kept}"]
    assert [path.name for path in tmp_path.iterdir()] == ([kept.name] if err[1:] else [])


def test_a_model_that_takes_too_long(folder: str, tmp_path: Path) -> None:
    """More texts than the time is for: the output has whole lines, and fewer of them."""
    source, target = tmp_path / "texts.txt", tmp_path / "vectors.jsonl"
    source.write_text("the cat sat on the mat and the dog saw it\n" * 400_000)
    status, out, err = run(
        "embed", "--model", folder, "--input", str(source), "--output", str(target), "--timeout", "2"
    )  # fmt: skip
    lines = err.splitlines()
    assert (status, out, lines[0]) == (124, "", "fastattn: --timeout: 2 s have passed")
    assert not target.exists()
    if lines[1:]:
        rows = (tmp_path / "vectors.partial.jsonl").read_text().splitlines()
        assert f"{len(rows)} rows that were done" in lines[1] and 0 < len(rows) < 400_000
        assert len(json.loads(rows[-1])["embedding"]) == 32
