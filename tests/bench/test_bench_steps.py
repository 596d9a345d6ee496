# SPDX-License-Identifier: MIT
"""``fastattn bench steps`` on a tiny decoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from golden import tiny_decoders, tiny_families

from fastattn import cli
from fastattn.bench.random_model import RANDOM, tensor_shapes
from fastattn.bench.steps import SMALL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_decoders.make(tmp_path / "m", "mistral", max_position_embeddings=300)


def test_command_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "steps", "--model", str(folder), "--threads", "1", "--rounds", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["cases"]
    assert [row["sequences"] for row in found] == [1, 8, 32]
    for row in found:
        assert 0 < row["bookkeeping_s"] < 1 and 0 < row["step_s"] < 10 and row["prefill_tokens_per_second"] > 0
        assert row["share"] == row["bookkeeping_s"] / row["step_s"]
        assert row["tokens_per_second"] == row["sequences"] / row["step_s"]


def test_command_as_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "steps", "--model", str(folder), "--dtype", "int8", "--seconds", "0.05"]
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["1", "8", "32"]


def test_an_encoder_has_no_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_families.save_folder(tmp_path / "m", "bert")
    assert cli.main(["bench", "steps", "--model", str(folder), "--rounds", "1"]) == 1
    assert "is no language model" in capsys.readouterr().err


def test_the_random_model_is_the_one_it_is_called_after(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RANDOM[SMALL]))
    assert len(tensor_shapes(tmp_path)) == 272  # those of the published file
