# SPDX-License-Identifier: MIT
"""Columns carried along into Parquet: what is read back is what was written, however the rows came and were grouped."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastattn.cli import jsontypes, parquetwriter
from fastattn.cli.interrupt import OUTPUTS, WRITING
from fastattn.cli.jsonlines import json_lines
from fastattn.cli.linefiles import JsonLinesReader
from fastattn.cli.rows import Checked, Wanted

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ParquetWriter = parquetwriter.ParquetWriter
JSON = None
"""The type that stands for JSON text."""


def cut(values: Sequence[Any], sizes: Sequence[int]) -> list[Sequence[Any]]:
    """Pieces of these sizes, and the rest."""
    pieces, start = [], 0
    for size in sizes:
        pieces.append(values[start : start + size])
        start += size
    return [piece for piece in (*pieces, values[start:]) if piece]


def written(path: Path, columns: dict[str, list[Any]], sizes: Sequence[int], group_rows: int) -> Any:
    """The table that is read back from a file written in pieces of `sizes`, in groups of at least `group_rows`."""
    before = parquetwriter._GROUP_ROWS
    parquetwriter._GROUP_ROWS = group_rows
    try:
        with ParquetWriter(str(path)) as writer:
            writer.write({"v": np.zeros((0, 2), np.float32), **{name: [] for name in columns}})
            for rows in cut(range(len(next(iter(columns.values())))), sizes):
                vectors = np.array([[row, 0.5] for row in rows], np.float32)
                writer.write({"v": vectors, **{n: column[rows[0] : rows[-1] + 1] for n, column in columns.items()}})
    finally:
        parquetwriter._GROUP_ROWS = before
    table = pq.read_table(path)
    assert table["v"].to_pylist() == [[row, 0.5] for row in range(table.num_rows)]
    path.unlink()
    assert not list(path.parent.iterdir()) and not OUTPUTS
    return table


def assert_same(got: Any, want: Any, kind: Any) -> None:
    """`got`, read from a column of type `kind`, is the JSON value `want`."""
    if want is None:
        assert got is None
    elif pa.types.is_struct(kind):
        assert set(want) <= set(got) == {field.name for field in kind}
        for field in kind:
            assert_same(got[field.name], want.get(field.name), field.type)
    elif pa.types.is_list(kind):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            assert_same(one, other, kind.value_type)
    elif pa.types.is_floating(kind):
        assert type(got) is float and type(want) in (int, float)
        assert got == want and math.copysign(1, got) == math.copysign(1, want)
    else:
        assert type(got) is type(want) and got == want


def assert_column(column: Any, values: list[Any], is_json: bool) -> None:
    got = column.to_pylist()
    if not is_json:
        assert_same(got, values, pa.list_(column.type))
        return
    assert column.type == pa.string()
    assert [text is None for text in got] == [value is None for value in values]
    assert [json.dumps(json.loads(text or "null")) for text in got] == [json.dumps(value) for value in values]


# ---- the type


BIG = 1 << 53
TYPES: list[tuple[list[Any], Any]] = [
    ([None, None], pa.string()),
    ([True, None, False], pa.bool_()),
    ([1, -2, None], pa.int64()),
    ([(1 << 63) - 1, -(1 << 63)], pa.int64()),
    ([0, 1 << 63], pa.uint64()),
    ([(1 << 64) - 1], pa.uint64()),
    ([-1, 1 << 63], JSON),
    ([1 << 64], JSON),
    ([-(1 << 63) - 1], JSON),
    ([10**400, 1], JSON),
    ([1, 0.75], pa.float64()),
    ([None, 0.5, -0.0, 1e308, 5e-324], pa.float64()),
    ([BIG, -BIG, 0.5], pa.float64()),
    ([BIG + 1, 0.5], JSON),
    ([0.5, -BIG - 1], JSON),
    ([1 << 60, 0.5], JSON),
    (["", "a", None, "é東", "\0", "1"], pa.string()),
    (["a", "\ud800"], JSON),
    (["\udfff\ud800"], JSON),
    ([True, 1], JSON),
    ([False, 0.0], JSON),
    ([1, "1"], JSON),
    (["1", [1]], JSON),
    ([{"a": 1}, [1]], JSON),
    ([{"a": 1}, "a"], JSON),
    ([[]], pa.list_(pa.string())),
    ([[], None, [1]], pa.list_(pa.int64())),
    ([[None], [0.5], [1]], pa.list_(pa.float64())),
    ([["a"], [[]]], JSON),
    ([[1], ["a"]], JSON),
    ([[[1], []], [], [[2, 3]]], pa.list_(pa.list_(pa.int64()))),
    ([{}], JSON),
    ([{}, None, {"a": 1}], pa.struct([("a", pa.int64())])),
    ([{"a": {}}, {"a": None}], JSON),
    ([{"a": {}}, {"a": {"b": True}}], pa.struct([("a", pa.struct([("b", pa.bool_())]))])),
    ([[{}]], JSON),
    ([{"b": 1}, {"a": "x", "b": 0.5}], pa.struct([("b", pa.float64()), ("a", pa.string())])),
    ([{"a": 1}, {"a": "x"}], JSON),
    ([{"a": None}, {"b": []}], pa.struct([("a", pa.string()), ("b", pa.list_(pa.string()))])),
    ([{"": 1, "a.b": 2, "é": 3, "\0": 4, "A": 5, "a": 6}], "any"),
    ([{"\ud800": 1}], JSON),
    # the first two rows have a type that does not tell what they were, and then it turns out to be text
    ([1, 0.5, "x", "y", "z", "u"], JSON),
    ([[1], [2.0], "x", "y", "z", "u"], JSON),
    ([{"a": 1}, {}, "x", "y", "z", "u"], JSON),
    ([{"a": {"b": 1}}, {"a": {}}, "x", "y", "z", "u"], JSON),
    ([{"a": 1}, {"a": 1, "b": None}, "x", "y", "z", "u"], JSON),
    ([{"a": 1, "b": 2}, {"b": 2, "a": 1}, "x", "y", "z", "u"], JSON),
    ([json.loads("[" * 32 + "]" * 32)], "any"),
    ([json.loads("[" * 33 + "]" * 33)], JSON),
    ([json.loads('{"a":' * 33 + "1" + "}" * 33), None], JSON),
    ([json.loads("[" * 900 + "]" * 900)], JSON),
]


@pytest.mark.parametrize("values, kind", TYPES, ids=[str(index) for index in range(len(TYPES))])
def test_the_type_holds_all_values_and_does_not_depend_on_where_they_are_cut(
    tmp_path: Path, values: list[Any], kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for order in (values, values[::-1]):
        first = None
        step = max(1, len(values) // 3)
        for sizes, rows in (([], 1000), ([step] * 3, 1), ([step] * 3, 2 * step), ([step] * 3, 1000)):
            capsys.readouterr()
            table = written(tmp_path / "t.parquet", {"k": order}, sizes, rows)
            said = capsys.readouterr().err
            assert ("column 'k' is JSON text: it has " in said) == (kind is JSON) and said.count("\n") == (kind is JSON)
            assert_column(table["k"], order, kind is JSON)
            if kind not in (JSON, "any") and order is values:
                assert table["k"].type == kind
            assert first is None or (table.schema == first[0].schema and said == first[1])
            first = table, said


def test_objects_with_ever_new_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key is a column of its own in the file: of many, the objects are text."""
    monkeypatch.setattr(jsontypes, "_MOST_PLACES", 11)
    values = [{str(key): key for key in range(start, start + 3)} for start in (0, 3, 6, 7)]
    for count, is_json in ((3, False), (4, False), (5, True)):
        some = [*values, {"a": [1]}][:count]
        tables = [written(tmp_path / "t.parquet", {"k": some}, sizes, 1) for sizes in ([], [1, 1, 1])]
        assert tables[0].equals(tables[1])
        assert_column(tables[0]["k"], some, is_json)


def nested(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.sampled_from(["a", "b", "", "é", "a.b"])
    return st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=5
    )


INTEGERS = st.integers(-3, 3) | st.sampled_from([BIG, BIG + 1, (1 << 63) - 1, 1 << 63, -(1 << 63), 1 << 64])
DOUBLES = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(), max_size=3)
LEAVES: list[st.SearchStrategy[Any]] = [
    st.booleans(),
    st.integers(-5, 5),
    INTEGERS,
    DOUBLES,
    st.integers(-5, 5) | DOUBLES,
    INTEGERS | DOUBLES,
    TEXTS,
    st.integers(0, 2) | TEXTS,
]


@st.composite
def columns(draw: Callable[..., Any]) -> list[Any]:
    """Values of one kind for a while, and then perhaps of others."""
    values: list[Any] = []
    for _ in range(draw(st.integers(1, 3))):
        leaf = draw(st.sampled_from(LEAVES))
        shape = draw(st.sampled_from(["leaf", "list", "object", "any"]))
        value = {
            "leaf": leaf,
            "list": st.lists(leaf, max_size=3),
            "object": st.dictionaries(st.sampled_from(["a", "b", "c"]), st.none() | leaf, max_size=3),
            "any": nested(leaf),
        }[shape]
        values += draw(st.lists(st.none() | value, min_size=1, max_size=6))
    return values


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_written_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], data: Any) -> None:
    kept = {"k": data.draw(columns(), "k"), "l": data.draw(columns(), "l")}
    count = min(map(len, kept.values()))
    kept = {name: column[:count] for name, column in kept.items()}
    path = tmp_path / "t.parquet"
    capsys.readouterr()
    whole = written(path, kept, [], 1000)
    said = capsys.readouterr().err
    for name, column in kept.items():
        assert_column(whole[name], column, f"column {name!r} is JSON text" in said)
    sizes = data.draw(st.lists(st.integers(1, 4), max_size=10), "sizes")
    table = written(path, kept, sizes, data.draw(st.integers(1, 6), "rows of a group"))
    assert table.schema == whole.schema and table.equals(whole)
    assert capsys.readouterr().err == said


def test_plain_columns_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No second pass where nothing can be wrong: strings, integers, doubles, objects that all have the same keys."""
    monkeypatch.setattr(parquetwriter, "Spool", None)
    values = {
        "text": ["a", "b", None, "c"],
        "n": [1, 2, 3, 4],
        "x": [0.5, 1.0, None, 2.0],
        "list": [["a"], [], ["b", "c"], []],
        "object": [{"index": 0, "score": 0.5}, {"index": 1, "score": 1.0}] * 2,
        "mixed": ["a", 1, 0.5, {}],
    }
    table = written(tmp_path / "t.parquet", values, [2, 2], 4)
    assert table.drop(["v", "mixed"]).to_pydict() == {name: values[name] for name in values if name != "mixed"}
    monkeypatch.undo()
    assert written(tmp_path / "t.parquet", values, [1, 1, 1, 1], 1).equals(table)


# ---- pipes


def through_a_pipe(lines: bytes, sizes: Sequence[int], path: Path) -> None:
    """JSON Lines in pieces of some bytes, each read before the next is written, into a Parquet file."""
    reading, writing = os.pipe()
    wanted = Wanted(("text",), keep=("k", "missing"))
    reader = JsonLinesReader(reading, "pipe", True, wanted)
    taken = threading.Semaphore(1)

    def feed() -> None:
        for piece in cut(lines, sizes):
            taken.acquire(timeout=0.01)  # a line may be longer than a piece: then nothing is taken
            os.write(writing, piece)
        os.close(writing)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        with ParquetWriter(str(path)) as writer:
            for rows in Checked(reader, wanted, "error"):
                writer.write(rows.columns)
                taken.release()
    finally:
        feeder.join()
        reader.close()


def test_how_a_pipe_hands_over_the_rows_makes_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values: list[Any] = [3, None, -4, 0.75, 2, 5.0, {"a": 1}, {"b": [1], "a": 2}, "x", 1 << 70, [], {}]
    for start, stop in ((0, 6), (6, 8), (0, 12), (2, 5)):
        some = values[start:stop]
        lines = b"".join(json.dumps({"text": "é", "k": value}).encode() + b"\n" for value in some)
        tables, messages = [], []
        for sizes, rows in (([], 1000), ([30] * 20, 1), ([1, 70, 5, 90], 2), ([26, 27] * 8, 1)):
            monkeypatch.setattr(parquetwriter, "_GROUP_ROWS", rows)
            through_a_pipe(lines, sizes, tmp_path / "t.parquet")
            tables.append(pq.read_table(tmp_path / "t.parquet"))
            messages.append(capsys.readouterr().err)
        assert_column(tables[0]["k"], some, bool(messages[0]))
        assert tables[0]["missing"].to_pylist() == [None] * len(some)
        assert all(table.equals(tables[0]) and table.schema == tables[0].schema for table in tables)
        assert len(set(messages)) == 1


# ---- files that do not come to their end


def rows_of(values: list[Any]) -> dict[str, Any]:
    return {"v": np.ones((len(values), 2), np.float32), "k": values}


@pytest.mark.parametrize(
    "pieces, kind",
    [
        ([[1, 2], [3]], pa.int64()),
        ([[1, 2], [0.5], [4]], pa.float64()),
        ([[1, 2], ["a"], [{}]], pa.string()),
        ([[{"a": 1}], [{"b": 1}], [{"a": 2}]], pa.struct([("a", pa.int64()), ("b", pa.int64())])),
    ],
)
def test_a_job_that_ends_early_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: list[list[Any]], kind: Any
) -> None:
    monkeypatch.setattr(parquetwriter, "_GROUP_ROWS", 1)
    with pytest.raises(KeyError) as caught, ParquetWriter(str(tmp_path / "t.parquet")) as writer:
        for piece in pieces:
            writer.write(rows_of(piece))
        raise KeyError
    count = sum(map(len, pieces))
    assert f"{count} rows that were done are in {tmp_path}/t.partial.parquet" in caught.value.__notes__[0]
    assert [path.name for path in tmp_path.iterdir()] == ["t.partial.parquet"]
    column = pq.read_table(tmp_path / "t.partial.parquet")["k"]
    assert column.type == kind and len(column) == count and not OUTPUTS


def test_an_interrupt_while_the_file_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It falls between two steps, and does the others."""
    monkeypatch.setattr(parquetwriter, "_GROUP_ROWS", 2)
    for steps in range(1, 12):
        writer = ParquetWriter(str(tmp_path / f"{steps}.parquet"))
        for piece in ([1, 2], [3, 4], [0.5, 6], [7]):
            writer.write(rows_of(piece))
        more = True
        for _ in range(steps):
            with WRITING:
                more = more and writer._step()
        with WRITING:
            note = writer.keep()
        assert note is not None and "7 rows" in note
        table = pq.read_table(tmp_path / f"{steps}.partial.parquet")
        assert table["k"].to_pylist() == [1, 2, 3, 4, 0.5, 6, 7] and table["v"].to_pylist() == [[1, 1]] * 7
    assert not more, "not every step was tried"
    assert len(list(tmp_path.iterdir())) == 11


@pytest.mark.parametrize("when", ["the file is written anew", "rows are put beside it"])
def test_a_full_disk_leaves_the_rows_beside_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(parquetwriter, "_GROUP_ROWS", 2)
    anew = when == "the file is written anew"

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    with pytest.raises(OSError, match="No space left") as caught:  # noqa: SIM117 (the writer is looked at after it)
        with ParquetWriter(str(tmp_path / "t.parquet")) as writer:
            for piece in ([1, 2], [0.5, 4], [5, 6]):
                writer.write(rows_of(piece))
            if anew:
                monkeypatch.setattr(ParquetWriter, "_to_file", full)
            else:
                monkeypatch.setattr(parquetwriter.Spool, "write", full)
                writer.write(rows_of([7, 8]))
    with WRITING:
        text = "\n".join([*getattr(caught.value, "__notes__", []), writer.keep() or ""])
    assert writer._spool is not None and f"{writer._spool.beside.path} (an Arrow stream)" in text
    assert not (tmp_path / "t.parquet").exists()
    found = [json.loads(text) for batch in writer._spool.batches() for text in batch["k"].to_pylist()]
    assert found == [0.5, 4, 5, 6]
    if not anew:
        (kept,) = set(tmp_path.iterdir()) - {Path(writer._spool.beside.path)}
        assert "the rows after those are in" in text and pq.read_table(kept)["k"].to_pylist() == [1, 2]
    else:
        assert "all rows are in" in text and writer._head is not None and f"{writer._head.path} (Parquet)" in text
        assert pq.read_table(writer._head.path)["k"].to_pylist() == [1, 2]


def test_a_name_beside_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a link of somebody else's: it is not followed."""
    from fastattn.cli import parquetspool

    (tmp_path / "precious").write_text("data")
    names = iter([b"\0\0\0\0", b"\0\0\0\1"])
    monkeypatch.setattr(parquetspool.os, "urandom", lambda _: next(names))
    (tmp_path / f"t.parquet.{os.getpid()}-00000000.partial").symlink_to(tmp_path / "precious")
    beside = parquetspool.Beside(str(tmp_path / "t.parquet"))
    assert beside.path.endswith("-00000001.partial") and os.stat(beside.path).st_mode & 0o777 == 0o600
    beside.file.write(b"x")
    beside.remove()
    assert (tmp_path / "precious").read_text() == "data" and not os.path.exists(beside.path)


def test_values_that_json_has_not_are_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="column 'k' cannot be written to Parquet: complex is no JSON value"),
        ParquetWriter(str(tmp_path / "t.parquet")) as writer,
    ):
        writer.write(rows_of([1j]))


def test_values_too_deep_to_be_written_are_named(tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with (
        pytest.raises(ValueError, match="column 'k' cannot be written to Parquet: row 4 has too many lists") as caught,
        ParquetWriter(str(tmp_path / "t.parquet")) as writer,
    ):
        writer.write(rows_of([1, 2]))
        writer.write(rows_of([3, deep]))
    assert "2 rows that were done" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="column 'k': too many lists"):
        list(json_lines({"k": [deep]}))


def test_reasons_are_told() -> None:
    for values, reason in (
        ([1, "a"], "numbers and strings (row 2)"),
        ([None, [], {"a": 1}], "lists and objects (row 3)"),
        ([1 << 64], "integers beyond 64 bits"),
        ([1 << 60, 0.5], "doubles, and integers that no double holds (beyond 2**53)"),
        ([{}], "objects without a key"),
        (["\ud800"], "half a surrogate pair (row 1)"),
        ([1, 2], ""),
    ):
        column = jsontypes.JsonColumn(pa)
        column.store(values)
        assert column.reason == reason
