# SPDX-License-Identifier: MIT
"""What the commands write: numbers as text, JSON lines, .npy and Parquet; whole files and what is kept of others."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn.cli import numbers
from fastattn.cli.interrupt import OUTPUTS
from fastattn.cli.jsonlines import JsonLinesFile, json_lines
from fastattn.cli.npyfile import NpyWriter
from fastattn.cli.numbers import number_rows


def same_numbers(text: bytes, row: np.ndarray) -> bool:
    parsed = np.array(json.loads(b"[" + text + b"]"), np.float32)
    return bool((parsed.view(np.uint32) == row.view(np.uint32)).all())


def test_numbers_come_back_and_both_ways_agree() -> None:
    chance = np.random.default_rng(3)
    bits = chance.integers(0, 1 << 32, (700, 50), np.uint32).view(np.float32)
    wide = np.where(np.isfinite(bits), bits, np.float32(1))
    sized = (10.0 ** chance.uniform(-8, 10, (700, 50)) * chance.choice([-1, 1], (700, 50))).astype(np.float32)
    tens = np.array([float(f"1e{power}") for power in range(-44, 39)], np.float32)
    edges = np.stack([tens, np.nextafter(tens, np.float32(0)), np.nextafter(tens, np.float32(np.inf)), -tens])
    special = np.zeros((100, 83), np.float32)
    special[:4] = edges
    special[4, :6] = [0.0, -0.0, 1e-45, 3.4028235e38, -1.1754944e-38, 16777216.0]
    for rows in (wide, sized, special):
        fast = number_rows(rows)
        assert rows.size > numbers._FEW
        assert fast == [numbers._one_by_one(row) for row in rows]
        assert all(same_numbers(text, row) for text, row in zip(fast, rows, strict=True))


def test_json_lines() -> None:
    columns = {
        'a "b"': ["é\n", "é", None],
        "half": ["", "\ud800", ""],
        "vector": np.array([[1, 2], [3, 4], [0.1, -5]], np.float32),
        "score": np.array([0.1, 1.0, 1e-9], np.float32),
        "kept": [{"x": [1, None, True]}, Decimal("1.50"), [float("nan"), "\udfff", {"y": float("inf")}]],
    }
    lines = b"".join(text for _, text in json_lines(columns)).decode().splitlines()
    assert json.loads(lines[0]) == {
        'a "b"': "é\n",
        "half": "",
        "vector": [1, 2],
        "score": 0.100000001,
        "kept": {"x": [1, None, True]},
    }
    assert "é" in lines[0]
    assert json.loads(lines[1])["half"] == "\ud800" and json.loads(lines[1])["kept"] == "1.50"
    assert json.loads(lines[2])["kept"] == [None, "\udfff", {"y": None}]


def test_json_lines_come_in_pieces() -> None:
    columns = {"v": np.ones((1000, 384), np.float32)}
    pieces = list(json_lines(columns))
    assert sum(count for count, _ in pieces) == 1000
    assert max(len(lines) for _, lines in pieces) < 3 << 20


def vectors(count: int, width: int = 3) -> dict[str, Any]:
    return {"text": ["t"] * count, "embedding": np.full((count, width), 0.5, np.float32)}


def test_npy_of_one_width(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="rows of 4 numbers after some of 3") as caught,
        NpyWriter(str(tmp_path / "v.npy")) as writer,
    ):
        writer.write(vectors(2))
        writer.write(vectors(1, 4))
    assert caught.value.__notes__ == [
        f"{tmp_path}/v.npy is not complete; 2 rows that were done are in {tmp_path}/v.partial.npy"
    ]
    assert np.load(tmp_path / "v.partial.npy").shape == (2, 3)
    assert not OUTPUTS


def test_what_is_being_written_can_be_read_at_any_time(tmp_path: Path) -> None:
    with NpyWriter(str(tmp_path / "v.npy")) as writer:
        for count in (0, 1, 5):
            writer.write(vectors(count))
            (path,) = tmp_path.iterdir()
            assert np.load(path).shape == ({0: 0, 1: 1, 5: 6}[count], 3)
    assert np.load(tmp_path / "v.npy").shape == (6, 3)


@pytest.mark.parametrize("kind", [NpyWriter, JsonLinesFile])
def test_a_write_that_fails_in_the_middle(tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk takes a piece of what it is given: the rows before it are kept, and whole."""
    suffix = "npy" if kind is NpyWriter else "jsonl"
    write = os.write

    def full(descriptor: int, data: Any) -> int:
        write(descriptor, bytes(data)[:5])
        raise OSError(28, os.strerror(28))

    with pytest.raises(OSError, match="No space left"), kind(str(tmp_path / f"v.{suffix}")) as writer:
        writer.write(vectors(4))
        monkeypatch.setattr(os, "write", full)
        writer.write(vectors(2))
    kept = tmp_path / f"v.partial.{suffix}"
    assert list(tmp_path.iterdir()) == [kept]
    if suffix == "npy":
        assert np.load(kept).shape == (4, 3)
    else:
        assert [json.loads(line)["embedding"] for line in kept.read_text().splitlines()] == [[0.5] * 3] * 4


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "v.jsonl"
    link.symlink_to(tmp_path / "real" / "file.jsonl")
    with JsonLinesFile(str(link)) as writer:
        writer.write(vectors(1))
    assert link.is_symlink() and (tmp_path / "real" / "file.jsonl").read_text().count("\n") == 1


def test_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    from fastattn.cli import parquetwriter

    path = tmp_path / "v.parquet"
    columns = {**vectors(3), "score": np.float32([1, 2, 3]), "kept": [None, None, None], "n": [1, None, 3]}
    with parquetwriter.ParquetWriter(str(path), {"n": pyarrow.int16()}) as writer:
        writer.write({name: column[:0] for name, column in columns.items()})
        writer.write(columns)
        writer.write({**columns, "kept": ["a", None, "b"]})
    table = pyarrow.parquet.read_table(path)
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("text", "string"),
        ("embedding", "fixed_size_list<element: float>[3]"),
        ("score", "float"),
        ("kept", "string"),
        ("n", "int16"),
    ]
    assert table["kept"].to_pylist() == [None] * 3 + ["a", None, "b"]
    assert table["embedding"].to_pylist() == [[0.5] * 3] * 6 and table["n"].to_pylist() == [1, None, 3] * 2


def test_parquet_of_nothing_has_its_columns(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    from fastattn.cli.parquetwriter import ParquetWriter

    with ParquetWriter(str(tmp_path / "v.parquet")) as writer:
        writer.write(vectors(0))
    table = pyarrow.parquet.read_table(tmp_path / "v.parquet")
    assert table.num_rows == 0 and table.column_names == ["text", "embedding"]


def test_parquet_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    from fastattn.cli import parquetwriter

    monkeypatch.setattr(parquetwriter, "_GROUP_BYTES", 100_000)
    with parquetwriter.ParquetWriter(str(tmp_path / "v.parquet")) as writer:
        for _ in range(20):
            writer.write(vectors(100, 64))
    meta = pyarrow.parquet.read_metadata(tmp_path / "v.parquet")
    assert meta.num_rows == 2000 and meta.num_row_groups == 5
