# SPDX-License-Identifier: MIT
"""Compressed inputs: read by what they hold, in bounded memory; what is damaged or of another kind is named."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from golden import tiny_bert
from test_cli_readers import TEXT, read

from fastattn import cli
from fastattn.cli import source
from fastattn.cli.linefiles import CsvReader, PlainLines
from fastattn.cli.lines import LineReader
from fastattn.cli.source import Source

KINDS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": (".gz", gzip.compress),
    "xz": (".xz", lzma.compress),
    "bzip2": (".bz2", bz2.compress),
}
PLAIN = "".join(f"über {number} 東京\n" for number in range(5000)).encode()


def all_of(path: Path, content: bytes) -> bytes:
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = Source(descriptor, str(path))
        data = b"".join(iter(found.read, b""))
        assert found.read() == found.read(block=False) == b"" and found.consumed == len(content)
        return data
    finally:
        os.close(descriptor)


def through_pipe(content: bytes, step: int, name: str = "pipe", blocking: bool = True) -> Iterator[bytes]:
    """What the lists of lines hold that a reader finds where a writer is slow."""
    reader, writer = os.pipe()
    os.set_blocking(reader, blocking)

    def write() -> None:
        with os.fdopen(writer, "wb", buffering=0) as file:
            for start in range(0, len(content), step):
                file.write(content[start : start + step])
                if start < 20 * step:
                    time.sleep(0.001)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _, lines in LineReader(reader, name):
            yield "".join(line + "\n" for line in lines).encode()
    finally:
        os.close(reader)
        thread.join()


@pytest.mark.parametrize("kind", KINDS)
def test_members_behind_one_another(tmp_path: Path, kind: str) -> None:
    suffix, compress = KINDS[kind]
    cases = {
        b"": compress(b""),
        PLAIN: compress(PLAIN),
        PLAIN + b"x" + PLAIN: compress(PLAIN) + compress(b"") + compress(b"x") + compress(PLAIN),
        b"padded": compress(b"pad") + b"\0" * 512 + compress(b"ded") + b"\0" * 70_000,
    }
    for plain, content in cases.items():
        assert all_of(tmp_path / f"t{suffix}", content) == plain
        if kind != "bzip2":  # which looks like text
            assert all_of(tmp_path / "t.txt", content) == plain


@pytest.mark.parametrize("kind", ["gzip", "xz"])
@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_through_a_pipe_in_pieces(kind: str, blocking: bool, step: int) -> None:
    plain = PLAIN if step > 1 else PLAIN[: PLAIN.index(b"500")]
    content = KINDS[kind][1](plain[:4000]) + KINDS[kind][1](plain[4000:] + b"\n")
    assert b"".join(through_pipe(content, step, blocking=blocking)) == plain + b"\n"


@pytest.mark.parametrize("text", [b"(\n", b"(", b"(\xc2\xb5\n", b"\x1f\n", b"\x1f", b"BZh91AY&SY\n", b"B", b"\n", b""])
def test_plain_text_that_begins_like_compressed_data(tmp_path: Path, text: bytes) -> None:
    assert all_of(tmp_path / "t.txt", text) == text
    assert b"".join(through_pipe(text, 1)).rstrip(b"\n") == text.rstrip(b"\n")


def test_what_is_there_is_answered_at_once(tmp_path: Path) -> None:
    """Of a compressed stream too, where the writer flushes."""
    import zlib

    packer = zlib.compressobj(wbits=31)
    reader, writer = os.pipe()
    lines = iter(LineReader(reader, "pipe"))
    for number, text in enumerate((b"the cat", b"a b c"), 1):
        os.write(writer, packer.compress(text + b"\n") + packer.flush(zlib.Z_SYNC_FLUSH))
        assert next(lines) == (number, [text.decode()])
    os.write(writer, packer.flush())
    os.close(writer)
    assert list(lines) == []
    os.close(reader)


@pytest.mark.parametrize("kind", KINDS)
def test_cut_off_anywhere(tmp_path: Path, kind: str) -> None:
    suffix, compress = KINDS[kind]
    content = compress(b"first\n" * 20 + b"x")
    for size in range(1, len(content)):
        with pytest.raises(ValueError) as caught:
            all_of(tmp_path / f"t{suffix}", content[:size])
        text = str(caught.value)
        assert text.startswith(f"{tmp_path}/t{suffix}: ") and ("end too early" in text or "as the name says" in text)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_anywhere(tmp_path: Path, kind: str) -> None:
    """What gives other bytes is found; some bits of the head say nothing about them, as the time of a gzip file."""
    suffix, compress = KINDS[kind]
    plain = os.urandom(150)
    content = compress(plain)
    for place in range(0, len(content), 1 if kind == "gzip" else 2):
        damaged = content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :]
        try:
            assert all_of(tmp_path / f"t{suffix}", damaged) == plain
        except ValueError as error:
            assert str(error).startswith(f"{tmp_path}/t{suffix}: ") and "\n" not in str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_something_else_behind_it(tmp_path: Path, kind: str) -> None:
    suffix, compress = KINDS[kind]
    path = tmp_path / f"t{suffix}"
    path.write_bytes(compress(b"a\nb\n") + b"and then some text, which is of no kind\n" * 3)
    rows, error = read(PlainLines(os.open(path, os.O_RDONLY), "input" + suffix, True, "text"))
    assert rows == [(1, "a"), (2, "b")]  # what came before has been answered
    assert error is not None and error.startswith(f"input{suffix}: damaged {kind} data (")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.gz", b"", "expected gzip data, as the name says; it is empty"),
        ("t.gz", b"plain text\n", "expected gzip data, as the name says; it is no gzip data"),
        ("t.GZ", lzma.compress(b"a"), "expected gzip data, as the name says; it is xz data"),
        ("t.xz", gzip.compress(b"a"), "expected xz data, as the name says; it is gzip data"),
        ("t.bz2", b"BZ", "expected bzip2 data, as the name says; it is no bzip2 data"),
        ("t.zst", b"plain", "expected zstd data, as the name says; it is no zstd data"),
        ("t.zst", b"\x28\xb5\x2f\xfd\x04", "zstd data are not read here; `zstd -dc` unpacks them into a pipe"),
        ("t.txt", b"\x28\xb5\x2f\xfd\x04", "zstd data are not read here; `zstd -dc` unpacks them into a pipe"),
    ],
)
def test_other_kinds_are_named_before_a_model_is_loaded(
    tmp_path: Path, name: str, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert cli.main(["embed", "--model", "/no/model", "--input", str(path)]) == 1
    assert capsys.readouterr() == ("", f"fastattn: {path}: {message}\n")


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Of what grows to a thousand times its size."""
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress((b"x" * 9999 + b"\n") * 5000))
    descriptor = os.open(path, os.O_RDONLY)
    tracemalloc.start()
    try:
        assert sum(len(lines) for _, lines in LineReader(descriptor, "t.gz")) == 5000
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
        os.close(descriptor)


def test_xz_data_that_need_too_much_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_MOST_MEMORY", 1 << 22)
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 24}]
    with pytest.raises(ValueError, match="damaged xz data .*[Mm]emory"):
        all_of(tmp_path / "t.xz", lzma.compress(b"a", filters=filters))


def test_a_line_without_end_in_it(tmp_path: Path) -> None:
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(b"short\n" + b"x" * (65 << 20), 1))
    rows, error = read(PlainLines(os.open(path, os.O_RDONLY), "t.gz", True, "text"))
    assert (rows, error) == ([(1, "short")], "t.gz: line 2 is longer than 64 MiB")


def test_the_position_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    content = gzip.compress(b"text\n" + os.urandom(600_000).hex().encode() + b"\na\n")
    path.write_bytes(content)
    reader = CsvReader(os.open(path, os.O_RDONLY), "t.csv.gz", True, TEXT, ",")
    assert reader.position() == (0, len(content))
    assert sum(map(len, reader.rows())) == 2 and reader.position() == (len(content), len(content))
    reader.close()


@pytest.mark.parametrize(
    "name, content",
    [
        ("t.txt", b"the cat\na b\n"),
        ("t", b"the cat\na b\n"),
        ("t.jsonl", b'{"text": "the cat"}\n{"text": "a b"}\n'),
        ("t.csv", b'text,n\n"the cat",1\na b,2\n'),
        ("t.tsv", b"n\ttext\n1\tthe cat\n2\ta b\n"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_format_is_that_of_the_name_within(
    tmp_path: Path, name: str, content: bytes, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    suffix, compress = KINDS[kind]
    model = str(tiny_bert.save_text_folder(tmp_path / "model"))
    path = tmp_path / (name + suffix)
    path.write_bytes(compress(content))
    assert cli.main(["embed", "--model", model, "--input", str(path)]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["the cat", "a b"] and not err


@pytest.mark.parametrize(
    "args, words",
    [
        (["--input", "t.parquet.gz"], "--input: Parquet is compressed inside"),
        (["--input", "t.pq.zst"], "--input: Parquet is compressed inside"),
        (["--input", "t.json.gz"], "--input: a .json file may be anything"),
        (["--output", "t.jsonl.gz", "a"], "--output: 't.jsonl.gz': nothing is written as gzip data"),
        (["--output", "t.parquet.zst", "a"], "--output: 't.parquet.zst': nothing is written as zstd data"),
        (["--npy", "t.npy.xz", "a"], "--npy: 't.npy.xz': nothing is written as xz data"),
        (["--output", "t.gz", "a"], "--output: 't.gz': nothing is written as gzip data"),
    ],
)
def test_names_that_are_wrong_usage(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["embed", "--model", "m", *args]) == 2
    out, err = capsys.readouterr()
    assert not out and words in err.splitlines()[-1]
