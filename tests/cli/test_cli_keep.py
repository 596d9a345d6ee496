# SPDX-License-Identifier: MIT
"""``--keep`` through the whole command: files, slow pipes, interrupts, rows that come in another order."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from golden import tiny_bert
from support.commands import run, start
from support.text_folders import save_task_folder

from fastattn import cli
from fastattn.cli import parquetwriter

pytest.importorskip("tokenizers")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_bert.save_text_folder(tmp_path_factory.mktemp("tiny") / "model"))


def lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_integers_then_fractions_objects_then_more_keys(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"text": "a", "price": i + 0.75 * (i >= 200), "meta": {"a": 1} if i < 200 else {"a": 1, "b": "kept"}}
        for i in range(300)
    ]
    for row in rows[:200]:
        row["price"] = int(row["price"])
    (tmp_path / "in.jsonl").write_bytes(lines(rows))
    args = ["embed", "--model", folder, "--input", f"{tmp_path}/in.jsonl", "--keep", "price,meta"]
    tables = []
    for group in (20, 100, 1000):
        monkeypatch.setattr(parquetwriter, "_GROUP_ROWS", group)
        assert cli.main([*args, "--output", f"{tmp_path}/out.parquet"]) == 0
        tables.append(pq.read_table(tmp_path / "out.parquet"))
    table = tables[0]
    assert table.schema.field("price").type == pa.float64()
    assert table.schema.field("meta").type == pa.struct([("a", pa.int64()), ("b", pa.string())])
    assert table["price"].to_pylist() == [row["price"] for row in rows]
    assert table["meta"].to_pylist() == [{"b": None, **row["meta"]} for row in rows]
    assert all(other.equals(table) for other in tables)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.parquet"]


def test_a_slow_pipe_and_a_file_give_the_same(folder: str, tmp_path: Path) -> None:
    values: list[Any] = [1, None, 2, 0.5, {"a": []}, "x", 1 << 64]
    rows = [{"text": "the cat", "k": value, "l": str(value), "n": index} for index, value in enumerate(values)]
    args = ["embed", "--model", folder, "--keep", "k,l,n", "--output"]
    (tmp_path / "in.jsonl").write_bytes(lines(rows))
    whole = run(*args, f"{tmp_path}/whole.parquet", "--input", f"{tmp_path}/in.jsonl")
    assert whole[0] == 0 and whole[1] == ""
    assert (
        whole[2] == f"fastattn: {tmp_path}/whole.parquet: column 'k' is JSON text: it has numbers and objects (row 5)\n"
    )
    with start(*args, f"{tmp_path}/slow.parquet", "--format", "jsonl", "-") as process:
        assert process.stdin is not None and process.stderr is not None
        for row in rows:
            process.stdin.write(lines([row]))
            process.stdin.flush()
            time.sleep(0.1)
        process.stdin.close()
        assert process.stderr.read().decode() == whole[2].replace("whole", "slow")
        assert process.wait(60) == 0
    table = pq.read_table(tmp_path / "whole.parquet")
    assert pq.read_table(tmp_path / "slow.parquet").equals(table)
    assert table["k"].to_pylist() == ["1", None, "2", "0.5", '{"a": []}', '"x"', str(1 << 64)]
    assert table["l"].to_pylist() == list(map(str, values)) and table["n"].to_pylist() == list(range(7))


def test_an_interrupt_keeps_every_value(folder: str, tmp_path: Path) -> None:
    target, kept = tmp_path / "v.parquet", tmp_path / "v.partial.parquet"
    args = ["embed", "--model", folder, "--format", "jsonl", "--keep", "k", "--output", str(target), "-"]
    with start(*args) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(lines([{"text": "a", "k": 1}, {"text": "the cat", "k": 0.75}]))
        process.stdin.flush()
        end = time.monotonic() + 60
        while not list(tmp_path.iterdir()) and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        err = process.stderr.read().decode()
    if list(tmp_path.iterdir()):  # unless the machine is so slow that nothing was done yet
        assert err == f"fastattn: SIGTERM: {target} is not complete; 2 rows that were done are in {kept}\n"
        assert [path.name for path in tmp_path.iterdir()] == [kept.name]
        assert pq.read_table(kept)["k"].to_pylist() == [1.0, 0.75]


def test_ranked_rows_keep_the_types_of_the_file(tmp_path: Path) -> None:
    folder = str(save_task_folder(tmp_path / "cross", "sequence_classification", ["LABEL_0"]))
    at = pa.array([1700000000123456789, None, 3, 2], pa.timestamp("ns"))
    texts = ["the cat", "a", "the dog", "sat on the mat"]
    pq.write_table(pa.table({"text": texts, "at": at}), tmp_path / "in.parquet")
    args = ["rerank", "--model", folder, "--query", "the", "--input", f"{tmp_path}/in.parquet", "--keep", "at"]
    assert cli.main([*args, "--top-k", "3", "--output", f"{tmp_path}/out.parquet"]) == 0
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["at"].type == at.type and table.num_rows == 3
    assert table["at"].combine_chunks().equals(at.take(pa.array(table["index"].to_pylist())))
    (tmp_path / "in.jsonl").write_bytes(lines([{"query": "the", "docs": texts, "k": 1}, {"query": "a", "docs": []}]))
    args = ["rerank", "--model", folder, "--input", f"{tmp_path}/in.jsonl", "--keep", "k"]
    assert cli.main([*args, "--output", f"{tmp_path}/many.parquet"]) == 0
    many = pq.read_table(tmp_path / "many.parquet")
    assert str(many["results"].type) == "list<element: struct<index: int64, score: double, text: string>>"
    assert many["k"].to_pylist() == [1, None] and many["results"].to_pylist()[1] == []


def test_names_that_are_refused(folder: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines([{"text": "a", "k": 1}]))
    args = [
        "embed",
        "--model",
        folder,
        "--input",
        f"{tmp_path}/in.jsonl",
        "--output",
        f"{tmp_path}/out.parquet",
        "--keep",
    ]
    for names, words in (
        ("embedding", "the output has a column 'embedding' of its own"),
        ("k,text", "the output has a column 'text' of its own"),
        ("k,\udcff", "'k,\\udcff' is not UTF-8"),
    ):
        assert cli.main([*args, names]) == 2
        assert words in capfd.readouterr().err
    assert cli.main([*args, "k, k"]) == 0
    assert pq.read_table(tmp_path / "out.parquet").column_names == ["text", "embedding", "k"]


def test_deep_values(folder: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As deep as they can be read, they are written, or named."""
    for depth in (100, 800, *range(940, 1000, 3)):
        value = "[" * depth + "]" * depth
        (tmp_path / "in.jsonl").write_text(f'{{"text": "a", "k": {value}}}\n')
        for suffix in ("parquet", "jsonl"):
            target = tmp_path / f"out.{suffix}"
            args = [
                "embed",
                "--model",
                folder,
                "--input",
                f"{tmp_path}/in.jsonl",
                "--keep",
                "k",
                "--output",
                str(target),
            ]
            status = threads_result(args) if depth > 800 else cli.main(args)
            err = capfd.readouterr().err
            if status == 0:
                kept = pq.read_table(target)["k"][0].as_py() if suffix == "parquet" else target.read_text()
                assert kept == value or f'"k": {value}}}' in kept
            else:
                assert depth > 800 and ("not valid JSON" in err or "too many lists and objects" in err), err
            target.unlink(missing_ok=True)


def threads_result(args: list[str]) -> int:
    """The status, on the short stack of a new thread, from where values can be as deep as in a process of its own."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(cli.main(args)))
    thread.start()
    thread.join()
    return found[0]
