# SPDX-License-Identifier: MIT
"""Long jobs of the command line: from Parquet to Parquet, memory, rows that the model refuses, pieces of a second."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from support.commands import environment, run, start
from support.compare import assert_same_bits

from fastattn import cli, text
from fastattn.cli import job
from fastattn.cli.rows import Reader, Rows, Wanted

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_bert.save_text_folder(tmp_path_factory.mktemp("tiny") / "model"))


def test_parquet_to_parquet_keeps_types(folder: str, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import datetime

    import pyarrow.parquet as parquet

    texts = ["the cat", "", "über 東京"] * 3000
    day = pyarrow.array([datetime.date(2024, 1, 1), None, datetime.date(2024, 2, 29)] * 3000)
    number = pyarrow.array(range(9000), pyarrow.uint16())
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    parquet.write_table(
        pyarrow.table({"labels": texts, "day": day, "n": number, "other": [None] * 9000}), source, row_group_size=4000
    )
    columns = ["--input", str(source), "--column", "labels", "--keep", "day,n"]
    assert run("embed", "--model", folder, *columns, "--output", str(target)) == (0, "", "")
    table = parquet.read_table(target)
    assert table.column_names == ["text", "embedding", "day", "n"]
    assert table["text"].to_pylist() == texts
    assert table["day"].combine_chunks() == day and table["n"].combine_chunks() == number
    vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(9000, -1)
    assert_same_bits(vectors, np.tile(text.load(folder).embed(texts[:3]), (3000, 1)), "parquet")
    status, out, err = run("embed", "--model", folder, *columns)
    assert (status, err) == (0, "") and out.count("\n") == 9000
    assert out.splitlines()[2].endswith('"day": "2024-02-29", "n": 2}')


def test_without_pyarrow_one_line_says_how_to_get_it(folder: str, tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError('not here')\n")
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])}
    message = "fastattn: Parquet files need pyarrow: pip install 'fastattn[parquet]' (not here)\n"
    for args in (["--input", "x.parquet"], ["--output", f"{tmp_path}/x.parquet", "a"]):
        assert run("embed", "--model", folder, *args, env=paths) == (1, "", message)
    assert not (tmp_path / "x.parquet").exists()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow(folder: str) -> None:
    """Of 40,000 texts through a pipe; a million were tried by hand."""
    lines = b"".join(b"the cat %d sat on the mat %x\n" % (i, i * i) for i in range(40_000))
    with start("embed", "--model", folder, "--threads", "1", "-") as process:
        feeder = threading.Thread(target=feed, args=(process, lines))
        feeder.start()
        assert process.stdout is not None
        sizes: list[int] = []
        count = 0
        while piece := os.read(process.stdout.fileno(), 1 << 20):
            count += piece.count(b"\n")
            if count >= 10_000 * (len(sizes) + 1) and len(sizes) < 3:
                sizes.append(resident(process.pid))
        feeder.join()
        assert process.wait() == 0
    assert count == 40_000
    assert sizes[-1] - sizes[0] < 4 << 20, sizes


def feed(process: subprocess.Popen[bytes], content: bytes) -> None:
    """All of `content` to standard input, which then ends."""
    assert process.stdin is not None
    process.stdin.write(content)
    process.stdin.close()


def resident(pid: int) -> int:
    """Bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


def test_output_into_a_text_stream(folder: str) -> None:
    found = io.StringIO()
    with contextlib.redirect_stdout(found):
        assert cli.main(["embed", "--model", folder, "the cat", "é"]) == 0
    assert [json.loads(line)["text"] for line in found.getvalue().splitlines()] == ["the cat", "é"]


class Numbers(Reader):
    """The numbers as texts, with those of lines from 11."""

    def __init__(self, count: int) -> None:
        super().__init__("file")
        self.count = count

    def rows(self) -> Iterator[Rows]:
        for first in range(0, self.count, 100):
            texts = [str(i) for i in range(first, min(self.count, first + 100))]
            yield Rows(range(first + 11, first + 11 + len(texts)), {"text": texts})


def streamed(reader: Reader, compute: Callable[[Rows], dict[str, Any]]) -> tuple[list[list[str]], str | None]:
    """What was written, and the error."""
    arguments = argparse.Namespace(on_null="error", output="f", npy=None)
    written: list[list[str]] = []
    error = None
    try:
        job.stream(arguments, reader, Wanted(("text",)), compute, lambda columns: written.append(columns["text"]))
    except ValueError as caught:
        error = str(caught)
    return written, error


@pytest.mark.parametrize("wrong", [0, 1, 99, 100, 337, 999])
def test_a_row_that_the_model_refuses_is_named(wrong: int) -> None:
    def compute(rows: Rows) -> dict[str, Any]:
        if str(wrong) in rows.columns["text"]:
            raise ValueError("cannot take it")
        return {"text": rows.columns["text"]}

    written, error = streamed(Numbers(1000), compute)
    assert sum(written, []) == [str(i) for i in range(wrong)]
    assert error == f"file: line {wrong + 11}: cannot take it"


def test_an_option_that_is_wrong_is_not_the_first_rows_fault() -> None:
    def compute(rows: Rows) -> dict[str, Any]:
        raise ValueError("prompt_name: unknown")

    assert streamed(Numbers(10), compute) == ([], "prompt_name: unknown")


def test_pieces_follow_the_models_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    sizes: list[int] = []

    def compute(rows: Rows) -> dict[str, Any]:
        sizes.append(len(rows))
        now[0] += len(rows) * cost
        return {"text": rows.columns["text"]}

    cost = 1.0  # second per row
    written, error = streamed(Numbers(3000), compute)
    assert error is None and sum(written, []) == [str(i) for i in range(3000)]
    assert max(sizes[-20:]) < 100  # cut finer than they come
    sizes.clear()
    cost = 0.001
    streamed(Numbers(3000), compute)
    assert sizes[1:] == [100] * 30


def test_a_pipe_that_nobody_reads_does_not_hold_up_an_interrupt(folder: str, tmp_path: Path) -> None:
    source = tmp_path / "texts.txt"
    source.write_text("the cat sat on the mat\n" * 50_000)
    with start("embed", "--model", folder, "--input", str(source)) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        time.sleep(2)  # by now the pipe is full
        process.send_signal(signal.SIGINT)
        before = time.monotonic()
        assert process.wait(60) == 130
        assert time.monotonic() - before < 10
        process.stdout.close()


@pytest.mark.parametrize("name, value", [("FASTATTN_ISA", "mmx"), ("FASTATTN_NUM_THREADS", "many")])
def test_a_wrong_environment_is_wrong_usage(name: str, value: str, tmp_path: Path) -> None:
    status, out, err = run("info", env={name: value})
    assert (status, out) == (2, "") and err.startswith(f"fastattn: {name}") and err.count("\n") == 1
    script = tmp_path / "fastattn"  # as pip makes it
    script.write_text("import sys\nfrom fastattn.cli import main\nsys.exit(main())\n")
    done = subprocess.run([sys.executable, str(script), "info"], env=environment({name: value}), capture_output=True)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", err)
    done = subprocess.run(
        [sys.executable, "-c", "import fastattn"], env=environment({name: value}), capture_output=True
    )
    assert done.returncode == 1 and b"ValueError: " + name.encode() in done.stderr  # another program: an exception
