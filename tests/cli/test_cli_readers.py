# SPDX-License-Identifier: MIT
"""What the commands read: lines, JSON Lines, CSV and Parquet, row by row; and what may be wrong with a row."""

from __future__ import annotations

import csv
import io
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from fastattn import cli
from fastattn.cli import linefiles
from fastattn.cli.linefiles import CsvReader, JsonLinesReader, PlainLines
from fastattn.cli.rows import Checked, Reader, Wanted

TEXT = Wanted(("text",))


def reader_of(content: bytes, tmp_path: Path, kind: str, wanted: Wanted = TEXT, delimiter: str = ",") -> Reader:
    path = tmp_path / "input"
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDONLY)
    if kind == "csv":
        return CsvReader(descriptor, "input", True, wanted, delimiter)
    if kind == "jsonl":
        return JsonLinesReader(descriptor, "input", True, wanted)
    return PlainLines(descriptor, "input", True, "text")


def read(reader: Reader, wanted: Wanted = TEXT, on_null: str = "error") -> tuple[list[tuple[Any, ...]], str | None]:
    """(number, values...) of the rows before an error, and its message."""
    found: list[tuple[Any, ...]] = []
    try:
        for rows in Checked(reader, wanted, on_null):
            assert len(rows)
            found += zip(rows.numbers, *(rows.columns[name] for name in wanted.names), strict=True)
    except (ValueError, OSError) as error:
        return found, str(error)
    finally:
        reader.close()
    return found, None


# ---- CSV


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"text\na\nb\n", [(2, "a"), (3, "b")]),
        (b"text\r\na\r\nb", [(2, "a"), (3, "b")]),
        (b"\xef\xbb\xbftext,n\na,1\n", [(2, "a")]),
        (b'\xef\xbb\xbf"text",n\na,1\n', [(2, "a")]),
        (b'n,text\n1,"a, ""b"""\n2,\n3,""\n', [(2, 'a, "b"'), (3, ""), (4, "")]),
        (b'text\n"a\nb\r\nc"\nd\n', [(2, "a\nb\r\nc"), (5, "d")]),
        (b"text\n\na\n\n\nb\n\n", [(3, "a"), (6, "b")]),
        (b"text\n", []),
        ("text\nüber 東京\u2028x\x0cy\n".encode(), [(2, "über 東京\u2028x\x0cy")]),
        (b"text,text2\n a , b\n", [(2, " a ")]),
    ],
)
def test_csv(tmp_path: Path, content: bytes, expected: list[Any]) -> None:
    assert read(reader_of(content, tmp_path, "csv")) == (expected, None)


@pytest.mark.parametrize(
    "content, before, message",
    [
        (b"", 0, "input: empty, expected a line with the names of the columns"),
        (b"\n\n", 0, "input: empty, expected a line with the names of the columns"),
        (b"a,b\n1,2\n", 0, "input: no column 'text'; the header has 'a', 'b'"),
        (b"n;text\n1;2\n", 0, "input: no column 'text'; the header has 'n;text'; --delimiter says what is between"),
        (b"text,text\n1,2\n", 0, "input: more than one column 'text'; the header has 'text', 'text'"),
        (b"text,b\n1,2\n3\n", 1, "input: line 3: 1 field, the header has 2"),
        (b"text,b\n1,2\n3,4,5\n6,7\n", 1, "input: line 3: 3 fields, the header has 2"),
        (b'text\n1\n"2\n3\n', 1, "input: line 3: unexpected end of data"),
        (b'text\n1\n"2"x\n3\n', 1, "input: line 3: ',' expected after '\"'"),
        (b"text\n1\n2\rx\n3\n", 1, "input: line 3: new-line character seen in unquoted field"),
        (b'text\n1\n"2\n\xff"\n3\n', 1, "input: line 4 is not UTF-8: byte 0xff at position 1"),
    ],
)
def test_bad_csv(tmp_path: Path, content: bytes, before: int, message: str) -> None:
    rows, error = read(reader_of(content, tmp_path, "csv"))
    assert len(rows) == before
    assert error is not None and error.startswith(message)


def test_csv_as_the_csv_module_writes_it(tmp_path: Path) -> None:
    chance = random.Random(7)
    letters = 'ab",;\n\r\té東\U0001f600 '
    table = [["".join(chance.choices(letters, k=chance.randrange(9))) for _ in range(3)] for _ in range(5000)]
    for delimiter, ending in ((",", "\r\n"), (";", "\n"), ("\t", "\n")):
        out = io.StringIO()
        quoting = csv.QUOTE_MINIMAL if ending == "\r\n" else csv.QUOTE_ALL  # else a lone CR would stay unquoted
        csv.writer(out, delimiter=delimiter, lineterminator=ending, quoting=quoting).writerows(
            [["id", "text", "x"], *table]
        )
        wanted = Wanted(("text",), keep=("x", "id"))
        rows, error = read(reader_of(out.getvalue().encode(), tmp_path, "csv", wanted, delimiter), wanted)
        assert error is None
        assert [row[1:] for row in rows] == [(row[1], row[2], row[0]) for row in table]


def test_a_quote_that_is_never_closed_is_not_read_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linefiles, "_LONGEST_FIELD", 1 << 16)
    before = csv.field_size_limit()
    rows, error = read(reader_of(b'text\na\n"b\n' + b"c\n" * 100_000, tmp_path, "csv"))
    assert rows == [(2, "a")] and error == "input: line 3: field larger than field limit (65536)"
    assert csv.field_size_limit() == before


# ---- JSON Lines


@pytest.mark.parametrize(
    "content, expected",
    [
        (b'{"text": "a"}\n{"n": 1, "text": "b\\nc"}', [(1, "a"), (2, "b\nc")]),
        (b'\xef\xbb\xbf{"text": ""}\r\n\r\n  \n{"text": "\\ud83d\\ude00"}\n', [(1, ""), (4, "\U0001f600")]),
        (b"", []),
    ],
)
def test_json_lines(tmp_path: Path, content: bytes, expected: list[Any]) -> None:
    assert read(reader_of(content, tmp_path, "jsonl")) == (expected, None)


@pytest.mark.parametrize(
    "line, message",
    [
        (b'{"text": "a"', "input: line 2: not valid JSON (Expecting ',' delimiter, column 13)"),
        (b"a", "input: line 2: not valid JSON (Expecting value, column 1)"),
        (b'{"text": "a"} {}', "input: line 2: not valid JSON (Extra data, column 15)"),
        (b'{"text": "a", "n": NaN}', "input: line 2: not valid JSON (NaN is no number)"),
        (b"[" * 100_000, "input: line 2: not valid JSON ("),
        (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "input: line 2: not valid JSON ("),
        (b'["a"]', "input: line 2: expected a JSON object, got list"),
        (b'"a"', "input: line 2: expected a JSON object, got str"),
        (b"null", "input: line 2: expected a JSON object, got NoneType"),
        (b'{"txt": "a"}', "input: line 2: 'text' is missing; --on-null skip or --on-null empty go on"),
        (b'{"text": null}', "input: line 2: 'text' is null; --on-null skip or --on-null empty go on"),
        (b'{"text": 1}', "input: line 2: 'text' is a number, expected a string"),
        (b'{"text": true}', "input: line 2: 'text' is true or false, expected a string"),
        (b'{"text": ["a"]}', "input: line 2: 'text' is a list, expected a string"),
        (b'{"text": {}}', "input: line 2: 'text' is an object, expected a string"),
        (b'{"text": "\\ud800"}', "input: line 2: 'text' is a string with half a surrogate pair"),
        (b'{"text": "\xff"}', "input: line 2 is not UTF-8: byte 0xff at position 11"),
    ],
)
def test_bad_json_lines(tmp_path: Path, line: bytes, message: str) -> None:
    rows, error = read(reader_of(b'{"text": "x"}\n' + line + b'\n{"text": "y"}\n', tmp_path, "jsonl"))
    assert rows == [(1, "x")]
    assert error is not None and error.startswith(message)


def test_null_rows_as_asked(tmp_path: Path) -> None:
    content = b'{"text": "a", "k": 1}\n{"text": null, "k": 2}\n{"k": 3}\n{"text": "b"}\n'
    wanted = Wanted(("text",), keep=("k",))
    reader = reader_of(content, tmp_path, "jsonl", wanted)
    checked = Checked(reader, wanted, "skip")
    assert [(list(rows.numbers), rows.columns) for rows in checked] == [([1, 4], {"text": ["a", "b"], "k": [1, None]})]
    assert checked.skipped == 2
    reader.close()
    rows, error = read(reader_of(content, tmp_path, "jsonl", wanted), wanted, "empty")
    assert error is None and rows == [(1, "a", 1), (2, "", 2), (3, "", 3), (4, "b", None)]


def test_lists_of_text(tmp_path: Path) -> None:
    wanted = Wanted(("query",), ("docs",))

    def of(docs: bytes) -> Any:
        return read(reader_of(b'{"query": "q", "docs": %s}' % docs, tmp_path, "jsonl", wanted), wanted)

    assert of(b'["a", ""]') == ([(1, "q", ["a", ""])], None)
    assert of(b"[]") == ([(1, "q", [])], None)
    assert of(b'["a", 1]')[1] == "input: line 1: 'docs' is a list whose item 1 is a number, expected a list of strings"
    assert of(b'["a", null]')[1] == "input: line 1: 'docs' is a list whose item 1 is null, expected a list of strings"
    assert of(b'"a"')[1] == "input: line 1: 'docs' is a string, expected a list of strings"


# ---- positions, lengths


@pytest.mark.parametrize("kind, head, line", [("lines", b"", b"a\n"), ("csv", b"text\n", b'"a"\n')])
def test_the_position_is_that_of_the_file(tmp_path: Path, kind: str, head: bytes, line: bytes) -> None:
    content = head + line * 300_000
    reader = reader_of(content, tmp_path, kind)
    positions, count = [], 0
    for rows in reader.rows():
        count += len(rows)
        assert len(rows) <= 4096
        positions.append(reader.position())
    assert count == 300_000
    assert positions[-1] == (len(content), len(content)) and positions == sorted(positions)
    assert positions[0][0] < len(content)
    reader.close()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    for name in ("lines", "csv", "jsonl"):
        assert cli.main(["embed", "--model", "m", "--input", str(tmp_path), "--format", name]) == 1


# ---- Parquet


def parquet(tmp_path: Path, table: dict[str, Any], **options: Any) -> str:
    pyarrow = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow") and sys.modules["pyarrow"]
    path = str(tmp_path / "input.parquet")
    pyarrow.parquet.write_table(pyarrow.table(table), path, **options)
    return path


def read_parquet(path: str, wanted: Wanted = TEXT, on_null: str = "error") -> tuple[list[tuple[Any, ...]], str | None]:
    from fastattn.cli.parquetreader import ParquetReader

    try:
        reader = ParquetReader(path, "input", wanted)
    except (OSError, ValueError) as error:
        return [], str(error)
    return read(reader, wanted, on_null)


def test_parquet(tmp_path: Path) -> None:
    texts = [f"text {i} é" for i in range(20_000)]
    numbers = list(range(20_000))
    path = parquet(tmp_path, {"n": numbers, "text": texts}, row_group_size=7000)
    wanted = Wanted(("text",), keep=("n",))
    rows, error = read_parquet(path, wanted)
    assert error is None
    assert [(number, text, kept.array.to_pylist()) for number, text, kept in rows] == [
        (i + 1, text, [i]) for i, text in enumerate(texts)
    ]


def test_parquet_of_nothing(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    assert read_parquet(parquet(tmp_path, {"text": pyarrow.array([], pyarrow.string())})) == ([], None)


def test_parquet_types_of_text(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    for kind in (pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
        path = parquet(tmp_path, {"text": pyarrow.array(["a", "b", "a"]).cast(kind)})
        assert read_parquet(path) == ([(1, "a"), (2, "b"), (3, "a")], None)


def test_bad_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = parquet(tmp_path, {"text": ["a", None, "b"], "n": [1, 2, 3]})
    null = "input: row 2: 'text' is null; --on-null skip or --on-null empty go on"
    assert read_parquet(path) == ([(1, "a")], null)
    assert read_parquet(path, on_null="skip") == ([(1, "a"), (3, "b")], None)
    assert read_parquet(path, on_null="empty") == ([(1, "a"), (2, ""), (3, "b")], None)
    assert read_parquet(path, Wanted(("x",))) == ([], "input: no column 'x'; the file has 'text', 'n'")
    assert read_parquet(path, Wanted(("n",))) == ([], "input: column 'n' is of type int64, expected strings")
    content = Path(path).read_bytes()
    for damaged in (b"", b"PAR1", content[:-5], content[8:], b"x" * 100):
        Path(path).write_bytes(damaged)
        rows, error = read_parquet(path)
        assert rows == [] and error is not None and error.startswith("input: ") and "\n" not in error


def test_parquet_that_is_not_utf8(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    raw = pyarrow.array([b"a", b"b", b"\xff", b"c"], pyarrow.binary())
    text = pyarrow.StringArray.from_buffers(4, raw.buffers()[1], raw.buffers()[2])
    rows, error = read_parquet(parquet(tmp_path, {"text": text}))
    assert rows == [(1, "a"), (2, "b")]
    assert error is not None and error.startswith("input: row 3: 'text' is not UTF-8")


def test_damaged_pages_name_the_row_before(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    texts = [f"{i:08}" * 4 for i in range(50_000)]
    path = parquet(
        tmp_path,
        {"text": texts},
        row_group_size=10_000,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
    )
    content = bytearray(Path(path).read_bytes())
    place = content.index(b"00030000")
    content[place - 60 : place + 4] = b"\xff" * 64
    Path(path).write_bytes(content)
    rows, error = read_parquet(path)
    assert error is not None and error.startswith("input: after row ")
    assert len(rows) == int(error.split()[3].rstrip(":")) and [row[1] for row in rows] == texts[: len(rows)]
