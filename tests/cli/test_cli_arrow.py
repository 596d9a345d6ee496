# SPDX-License-Identifier: MIT
"""Columns of a Parquet file that are carried along: to Parquet as they are, to JSON so that they can be told."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn.cli import parquetwriter
from fastattn.cli.arrowvalues import ArrowColumn, arrow_array, json_values
from fastattn.cli.jsonlines import json_lines
from fastattn.cli.rows import Checked, Wanted, kept_types

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from fastattn.cli.parquetreader import ParquetReader  # noqa: E402 (pyarrow may be missing)

DAY = datetime.date(2024, 2, 29)
NOW = datetime.datetime(2024, 2, 29, 12, 30, 1, 250)
COLUMNS: dict[str, Any] = {
    "bool": pa.array([True, None, False, True]),
    "int8": pa.array([1, None, -128, 127], pa.int8()),
    "uint64": pa.array([0, None, 2**64 - 1, 1], pa.uint64()),
    "float16": pa.array([0.5, None, float("nan"), 65504.0], pa.float16()),
    "float32": pa.array([0.1, None, float("inf"), -0.0], pa.float32()),
    "double": pa.array([0.1, None, float("-inf"), float("nan")]),
    "null": pa.nulls(4),
    "string": pa.array(["a", None, "", "é\0"]),
    "large_string": pa.array(["a", None, "", "é"], pa.large_string()),
    "string_view": pa.array(["a", None, "", "a longer one than fits"], pa.string_view()),
    "binary": pa.array([b"\xff\0", None, b"", b"a"]),
    "fixed_binary": pa.array([b"abc", None, b"\0\0\0", b"xyz"], pa.binary(3)),
    "date": pa.array([DAY, None, DAY, DAY]),
    "far_date": pa.array([10**7, None, -(10**7), 0], pa.int32()).cast(pa.date32()),
    "ms": pa.array([NOW, None, NOW, NOW], pa.timestamp("ms")),
    "us": pa.array([NOW, None, NOW, NOW], pa.timestamp("us", "Europe/Berlin")),
    "ns": pa.array([1700000000123456789, None, 0, -1], pa.timestamp("ns")),
    "ns_utc": pa.array([1700000000123456789, None, 0, -1], pa.timestamp("ns", "UTC")),
    "nowhere": pa.array([0, None, 1, 2], pa.timestamp("us", "Nowhere/Town")),
    "time": pa.array([1, None, 2, 86_399_999_999_999], pa.time64("ns")),
    "duration": pa.array([1, None, 10**15, -1], pa.duration("ns")),
    "decimal": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("-999.99"), decimal.Decimal(0)]).cast(
        pa.decimal128(5, 2)
    ),
    "wide_decimal": pa.array([decimal.Decimal("1" * 60), None, decimal.Decimal(1), decimal.Decimal(0)]),
    "dictionary": pa.array(["x", None, "y", "x"]).dictionary_encode(),
    "list": pa.array([[1], None, [], [2, None]], pa.list_(pa.int16())),
    "large_list": pa.array([["a"], None, [], [None]], pa.large_list(pa.string())),
    "fixed_list": pa.array([[1.5, 2.5], None, [0.0, -0.0], [None, 1.0]], pa.list_(pa.float32(), 2)),
    "struct": pa.array([{"a": 1, "b": DAY}, None, {"a": None, "b": None}, {"a": 2, "b": DAY}]),
    "list_of_struct": pa.array(
        [[{"t": 1}], None, [], [{"t": None}, None]], pa.list_(pa.struct([("t", pa.duration("ns"))]))
    ),
    "map": pa.array([[("k", 1), ("k", 2)], None, [], [("l", None)]], pa.map_(pa.string(), pa.int64())),
    "list_of_dictionary": pa.ListArray.from_arrays(
        pa.array([0, 1, None, 2, 3], pa.int32()), pa.array(["a", "b", "a"]).dictionary_encode()
    ),
    "list_of_binary": pa.array([[b"\0"], None, [], [b"a", None]]),
    "uuid": pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([bytes(range(16)), None, bytes(16), b"\xff" * 16], pa.binary(16))
    ),
    "map_ns": pa.array([[("k", 1)], None, [], [("l", None)]], pa.map_(pa.string(), pa.timestamp("ns"))),
}  # fmt: skip


def carried(source: Path, write: Any, name: str, on_null: str = "error") -> None:
    """Rows of a file as a command has them: some at a time, with vectors beside them."""
    wanted = Wanted(("text",), keep=(name,))
    reader = ParquetReader(str(source), "in", wanted)
    try:
        writer = write(kept_types(reader, wanted))
        with writer:
            for rows in Checked(reader, wanted, on_null):
                for start in range(0, len(rows), 2):
                    some = rows.part(start, start + 2).columns
                    writer.write({"v": np.ones((len(some["text"]), 2), np.float32), **some})
    finally:
        reader.close()


def assert_same(found: Any, want: Any) -> None:
    """Type and values, bit for bit; a dictionary may have other entries."""
    assert found.type == want.type and len(found) == len(want)
    if "dictionary" in str(want.type):
        assert found.to_pylist() == want.to_pylist()
        return
    if pa.types.is_floating(want.type):
        assert found.to_numpy().tobytes() == want.to_numpy().tobytes()
    assert str(found.combine_chunks()) == str(want.combine_chunks())
    assert pa.types.is_floating(want.type) or found.equals(want)


@pytest.mark.parametrize("name", COLUMNS)
def test_parquet_to_parquet(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several groups of rows, and without the rows that have no text."""
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    texts = ["a", "b", None, "d"]
    pq.write_table(pa.table({name: COLUMNS[name], "text": texts}), source, row_group_size=3)
    monkeypatch.setattr(parquetwriter, "_GROUP_ROWS", 2)
    want = pq.read_table(source)[name]
    assert len(want) == 4 and want.null_count >= 1
    carried(source, lambda types: parquetwriter.ParquetWriter(str(target), types), name, "empty")
    found = pq.read_table(target)
    assert found["text"].to_pylist() == ["a", "b", "", "d"]
    assert_same(found[name], want)
    carried(source, lambda types: parquetwriter.ParquetWriter(str(target), types), name, "skip")
    found = pq.read_table(target)
    whole = want.combine_chunks()
    assert_same(found[name], pa.chunked_array([whole.slice(0, 2), whole.slice(3, 1)]))


TEXTS: dict[str, list[Any]] = {
    "uint64": [0, None, 2**64 - 1, 1],
    "float16": [0.5, None, "NaN", 65504.0],
    "float32": [0.10000000149011612, None, "Infinity", -0.0],
    "double": [0.1, None, "-Infinity", "NaN"],
    "null": [None] * 4,
    "string": ["a", None, "", "é\0"],
    "binary": ["/wA=", None, "", "YQ=="],
    "fixed_binary": ["YWJj", None, "AAAA", "eHl6"],
    "date": ["2024-02-29", None, "2024-02-29", "2024-02-29"],
    "ms": ["2024-02-29 12:30:01", None, "2024-02-29 12:30:01", "2024-02-29 12:30:01"],
    "us": ["2024-02-29 13:30:01.000250+01:00", None] + ["2024-02-29 13:30:01.000250+01:00"] * 2,
    "ns": ["2023-11-14 22:13:20.123456789", None, "1970-01-01 00:00:00", "1969-12-31 23:59:59.999999999"],
    "ns_utc": ["2023-11-14 22:13:20.123456789Z", None, "1970-01-01 00:00:00+00:00", "1969-12-31 23:59:59.999999999Z"],
    "time": ["00:00:00.000000001", None, "00:00:00.000000002", "23:59:59.999999999"],
    "duration": ["1 ns", None, "11 days, 13:46:40", "-1 ns"],
    "decimal": ["1.50", None, "-999.99", "0.00"],
    "wide_decimal": ["1" * 60, None, "1", "0"],
    "dictionary": ["x", None, "y", "x"],
    "list": [[1], None, [], [2, None]],
    "fixed_list": [[1.5, 2.5], None, [0.0, -0.0], [None, 1.0]],
    "struct": [{"a": 1, "b": "2024-02-29"}, None, {"a": None, "b": None}, {"a": 2, "b": "2024-02-29"}],
    "list_of_struct": [[{"t": "1 ns"}], None, [], [{"t": None}, None]],
    "map": [[["k", 1], ["k", 2]], None, [], [["l", None]]],
    "list_of_dictionary": [["a"], ["b"], None, ["a"]],
    "list_of_binary": [["AA=="], None, [], ["YQ==", None]],
    "uuid": [
        "00010203-0405-0607-0809-0a0b0c0d0e0f",
        None,
        "0" * 8 + "-0000-0000-0000-" + "0" * 12,
        "ffffffff-ffff-ffff-ffff-" + "f" * 12,
    ],
    "map_ns": [[["k", "1970-01-01 00:00:00.000000001"]], None, [], [["l", None]]],
}


@pytest.mark.parametrize("name", TEXTS)
def test_parquet_to_json(tmp_path: Path, name: str) -> None:
    column = ArrowColumn(COLUMNS[name])
    for kept in (column, list(column)):  # in pieces, or one value and one value
        lines = b"".join(text for _, text in json_lines({"k": kept})).splitlines()
        values = [json.loads(line)["k"] for line in lines]
        assert json.dumps(values) == json.dumps(TEXTS[name])


@pytest.mark.parametrize(
    "array, words",
    [
        (pa.array([10**15], pa.timestamp("s")), "beyond the years that can be written"),
        (pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), "has a key twice"),
        (pa.array([0], pa.timestamp("us", "Nowhere/Town")), "Nowhere/Town"),
    ],
)
def test_what_json_cannot_say_is_named(array: Any, words: str) -> None:
    with pytest.raises(ValueError, match="column 'k' cannot be written as JSON: .*") as caught:
        list(json_lines({"k": ArrowColumn(array)}))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_far_years_and_every_type_have_a_form() -> None:
    assert json_values(COLUMNS["far_date"], "k")[0] == "29349-01-26"
    for name, array in COLUMNS.items():
        if name != "nowhere":
            json.dumps(json_values(array, name), allow_nan=False)


def test_text_that_is_not_utf8_is_named_by_its_row(tmp_path: Path) -> None:
    """In a column that is carried along, also inside lists and objects."""
    raw = pa.array([b"a", b"b", b"\xff", b"c"], pa.binary())
    bad = pa.StringArray.from_buffers(4, raw.buffers()[1], raw.buffers()[2])
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3, 4], pa.int32()), bad)
    for array in (bad, lists, pa.StructArray.from_arrays([bad], names=["x"]), bad.dictionary_encode()):
        pq.write_table(pa.table({"k": array, "text": ["t"] * 4}), tmp_path / "in.parquet")
        wanted = Wanted(("text",), keep=("k",))
        reader = ParquetReader(str(tmp_path / "in.parquet"), "in", wanted)
        count = 0
        with pytest.raises(ValueError, match="in: row ") as caught:
            for rows in Checked(reader, wanted, "error"):
                count += len(rows)
        reader.close()
        assert str(caught.value) == "in: row 3: 'k' is not UTF-8"
        assert count == 2


def test_a_type_that_parquet_has_not_fails_at_the_start(tmp_path: Path) -> None:
    for kind in (pa.month_day_nano_interval(), pa.struct([])):
        with pytest.raises(ValueError, match="column 'k' cannot be written to Parquet"):
            parquetwriter.ParquetWriter(str(tmp_path / "t.parquet"), {"k": kind})
    assert not list(tmp_path.iterdir())


def test_names_with_points(tmp_path: Path) -> None:
    """A column named like a key of another is that column."""
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"a.b": [1, 2], "a": [{"b": "x"}, {"b": "y"}], "text": ["t", "u"]}), source)
    carried(source, lambda types: parquetwriter.ParquetWriter(str(target), types), "a.b")
    assert pq.read_table(target)["a.b"].to_pylist() == [1, 2]


def test_a_column_that_is_text_and_carried_along(tmp_path: Path) -> None:
    """Of any type of text, also where all of them are null and taken as empty."""
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view(), pa.null()):
        array = pa.nulls(2, kind) if kind == pa.null() else pa.array(["a", None], kind)
        pq.write_table(pa.table({"text": array}), tmp_path / "in.parquet")
        wanted = Wanted(("text",), keep=("text",))
        reader = ParquetReader(str(tmp_path / "in.parquet"), "in", wanted)
        with parquetwriter.ParquetWriter(str(tmp_path / "out.parquet"), kept_types(reader, wanted)) as writer:
            for rows in Checked(reader, wanted, "empty"):
                writer.write({"v": np.ones((2, 2), np.float32), **rows.columns})
        reader.close()
        assert pq.read_table(tmp_path / "out.parquet")["text"].to_pylist() == ["a" if array[0].is_valid else "", ""]


def test_columns_of_arrow() -> None:
    column = ArrowColumn(pa.array([1, 2, 3, 4]))
    assert len(column) == 4 and None not in column
    assert [each.array.to_pylist() for each in column] == [[1], [2], [3], [4]]
    assert column[1:3].array.to_pylist() == [2, 3] and column[3:1].array.to_pylist() == []
    assert arrow_array([column[3], column[0]]).to_pylist() == [4, 1]
    assert arrow_array([]) is None and arrow_array(["a"]) is None and arrow_array(np.ones(2)) is None
