# SPDX-License-Identifier: MIT
"""What a well-formed GGUF file gives: its fields, its tensors as they lie and as float32, and how long that takes."""

from __future__ import annotations

import gc
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gguf_files import (
    BOOL,
    F64,
    I8,
    I16,
    I64,
    STR,
    TENSOR_TYPES,
    U8,
    U16,
    U64,
    Array,
    Tensor,
    gguf_bytes,
    random_blocks,
)  # fmt: skip

from fastattn.loaders import WeightFileError, open_weights
from fastattn.loaders.gguf import GgufFile
from fastattn.loaders.weightfile import ARRAY_DTYPES, BLOCK_DTYPES


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "m.gguf"


def opened(target: Path, fields: Any = (), tensors: Any = (), **rest: Any) -> GgufFile:
    target.write_bytes(gguf_bytes(fields, tensors, **rest))
    file = open_weights(target)
    assert isinstance(file, GgufFile)
    return file


FIELDS: dict[str, tuple[Any, str, Any]] = {
    "u8": (U8(200), "u8", 200),
    "i8": (I8(-100), "i8", -100),
    "u16": (U16(65535), "u16", 65535),
    "i16": (I16(-32768), "i16", -32768),
    "u32": (4_000_000_000, "u32", 4_000_000_000),
    "i32": (-5, "i32", -5),
    "f32": (0.1, "f32", float(np.float32(0.1))),
    "true": (True, "bool", True),
    "false": (BOOL(False), "bool", False),
    "text": ("Zürich 東京 \0 🙂", "str", "Zürich 東京 \0 🙂"),
    "no text": ("", "str", ""),
    "u64": (U64(2**64 - 1), "u64", 2**64 - 1),
    "i64": (I64(-(2**63)), "i64", -(2**63)),
    "f64": (F64(0.1), "f64", 0.1),
    "größe": (STR("key"), "str", "key"),
}


@pytest.mark.parametrize("version", [2, 3])
def test_every_type_of_field(target: Path, version: int) -> None:
    file = opened(target, {key: value for key, (value, _, _) in FIELDS.items()}, version=version)
    assert file.version == version and len(file) == 0
    assert list(file.fields) == list(FIELDS) and len(file.fields) == len(FIELDS)
    for key, (_, kind, expected) in FIELDS.items():
        assert file.fields.kind(key) == kind
        assert file.fields[key] == expected and type(file.fields[key]) is type(expected), key
    assert "absent" not in file.fields and file.fields.get("absent") is None
    for ask in (file.fields.__getitem__, file.fields.kind):
        with pytest.raises(KeyError, match=r"m\.gguf: no field 'absent'"):
            ask("absent")


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("shift", range(4))  # where an array begins in the file
@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float32, bool, np.uint64, np.int64, float]
)
def test_arrays_of_numbers(target: Path, dtype: Any, shift: int, count: int) -> None:
    values = (np.arange(count) % (2 if dtype is bool else 100)).astype(dtype)
    file = opened(target, {"x" * (1 + shift): 1, "a": values, "behind": "here"})
    array = file.fields["a"]
    assert array.dtype == values.dtype and array.tolist() == values.tolist()
    assert not array.flags.writeable and array.flags.aligned
    assert file.fields["a"] is array and file.fields["behind"] == "here"
    assert file.fields.kind("a").startswith("array of ")
    del file
    gc.collect()
    assert array.tolist() == values.tolist()


def test_arrays_of_strings(target: Path) -> None:
    texts = ["", "a", "é", "東京", "x" * 300, "\0", "▁the"]
    file = opened(target, {"a": texts, "none": Array(8, []), "behind": 3})
    strings = file.fields["a"]
    assert len(strings) == len(texts) and list(strings) == strings.tolist() == texts
    assert [strings[i] for i in range(-len(texts), len(texts))] == texts * 2
    for part in (slice(None), slice(1, 3), slice(-2, None), slice(5, 2), slice(None, None, -2), slice(90, 99)):
        assert strings[part] == texts[part]
    assert strings.raw(2) == "é".encode() and strings.raw(-1) == "▁the".encode()
    assert strings.index("a") == 1 and "nowhere" not in strings
    assert file.fields["none"].tolist() == [] and file.fields["behind"] == 3
    for ask in (strings.__getitem__, strings.raw):
        for i in (7, -8):
            with pytest.raises(IndexError, match="no string"):
                ask(i)
    assert "7 strings" in repr(strings)


@pytest.mark.parametrize("data", [b"\xff", b"ab\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf8\x88\x80\x80\x80"])
def test_text_that_is_not_utf8_is_told_when_it_is_read(target: Path, data: bytes) -> None:
    """A field nobody asks for does no harm; the others of the array can still be read."""
    file = opened(target, {"general.name": data, "a": [b"good", data, b"also"], "n": 3})
    assert file.fields["n"] == 3 and file.fields["a"][0] == "good" and file.fields["a"].raw(1) == data
    with pytest.raises(WeightFileError, match=r"m\.gguf: field 'general\.name': not UTF-8 at byte"):
        file.fields["general.name"]
    with pytest.raises(WeightFileError, match=r"field 'general\.name': not UTF-8"):
        _ = file.metadata
    for ask in (lambda: file.fields["a"].tolist(), lambda: file.fields["a"][1], lambda: file.fields["a"][:2]):
        with pytest.raises(WeightFileError, match=r"m\.gguf: field 'a': string 1 is not UTF-8 at byte"):
            ask()


def test_metadata_is_the_text_about_the_file(target: Path) -> None:
    fields = {"general.architecture": "llama", "general.name": "Ü", "general.file_type": 3, "llama.x": "no"}
    assert dict(opened(target, fields).metadata) == {"general.architecture": "llama", "general.name": "Ü"}


PLAIN = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I8": np.int8, "I16": np.int16, "I32": np.int32,
         "I64": np.int64}  # fmt: skip


@pytest.mark.parametrize("alignment", [1, 2, 8, 32, 64, 4096])
def test_plain_tensors_are_views_of_the_file(target: Path, alignment: int) -> None:
    rng = np.random.default_rng(3)
    arrays = {name: rng.integers(-9, 9, (2, 3, 5)).astype(dtype) for name, dtype in PLAIN.items()}
    arrays |= {"one": np.array([7], np.int8), "four": np.ones((2, 1, 3, 2), np.float32), "none": np.array(3.5, "<f4")}
    bits = np.arange(6, dtype="<u2") + 0x3F80
    file = opened(target, {}, arrays | {"b": ("BF16", (2, 3), bits.tobytes())}, alignment=alignment)
    assert list(file) == [*arrays, "b"]
    for name, expected in arrays.items():
        got, info = file[name], file.info(name)
        assert got.dtype == expected.dtype == ARRAY_DTYPES[info.dtype]
        assert got.shape == expected.shape == info.shape and got.tobytes() == expected.tobytes()
        assert not got.flags.writeable and got.flags.aligned and info.nbytes == expected.nbytes and info.file == target
    assert all(file.dtype(name) == name for name in PLAIN)
    assert file["b"].dtype == np.uint16 and file["b"].tobytes() == bits.tobytes() and file.dtype("b") == "BF16"
    if alignment >= 8:
        assert np.shares_memory(file["F32"], file["F32"])
    with pytest.raises(KeyError, match="no tensor named 'v'"):
        file["v"]


@pytest.mark.parametrize("name", BLOCK_DTYPES)
def test_blocks_are_handed_out_as_bytes(target: Path, name: str) -> None:
    block = BLOCK_DTYPES[name]
    assert TENSOR_TYPES[name] == tuple(block)
    shape = (2, 3, 2 * block.elements)
    data = random_blocks(name, shape, np.random.default_rng(1))
    file = opened(target, {}, {"before": np.ones(3, np.int8), "w": (name, shape, data)})
    info = file.info("w")
    assert (info.dtype, info.shape, info.nbytes) == (name, shape, len(data))
    assert file["w"].shape == (2, 3, 2 * block.nbytes) and file["w"].dtype == np.uint8
    assert file["w"].tobytes() == data and not file["w"].flags.writeable and np.shares_memory(file["w"], file["w"])
    wide = file.as_float32("w")
    assert wide.shape == shape and wide.dtype == np.float32 and not wide.flags.writeable


def test_half_precision_is_widened_exactly(target: Path) -> None:
    bits = np.arange(65536, dtype="<u2").reshape(256, 256)
    tensors = {"h": ("F16", bits.shape, bits.tobytes()), "b": ("BF16", bits.shape, bits.tobytes())}
    file = opened(target, {}, tensors)
    expected = {"h": bits.view("<f2").astype(np.float32), "b": (bits.astype(np.uint32) << 16).view(np.float32)}
    for name, values in expected.items():
        got, number = file.as_float32(name), ~np.isnan(values)
        np.testing.assert_array_equal(got.view(np.uint32)[number], values.view(np.uint32)[number])
        assert (got.view(np.uint32)[~number] == 0x7FC00000).all()
        np.testing.assert_array_equal(file.rows_as_float32(name, 3, 9).view(np.uint32), got[3:9].view(np.uint32))


@pytest.mark.parametrize("alignment", [1, 32])
@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q4_1", "Q8_0", "Q6_K"])
def test_slabs_of_rows_are_those_of_the_whole(target: Path, name: str, alignment: int) -> None:
    shape = (3, 4, 512)
    data = random_blocks(name, shape, np.random.default_rng(2))
    tensors = {"w": (name, shape, data), "v": (name, (256,), data[: len(data) // 24])}
    file = opened(target, {}, tensors, alignment=alignment)
    at_odds = file._bytes("w").ctypes.data % 4 != 0
    whole = file.as_float32("w").reshape(12, 512)
    for start, stop in ((0, 12), (0, 0), (12, 12), (0, 1), (3, 7), (11, 12)):
        expected = whole[start:stop].tobytes()
        assert file.rows_as_float32("w", start, stop).tobytes() == expected
        out = np.full((stop - start, 512), 7, np.float32)
        assert file.rows_as_float32("w", start, stop, out) is out and out.tobytes() == expected
        wide = np.full((stop - start, 530), 7, np.float32)
        file.rows_as_float32("w", start, stop, wide[:, 9:521])
        assert wide[:, 9:521].tobytes() == expected and (wide[:, :9] == 7).all() and (wide[:, 521:] == 7).all()
    assert file.rows_as_float32("v", 0, 1).tobytes() == file.as_float32("v").tobytes()
    assert np.shares_memory(file.rows_as_float32("w", 0, 2), file["w"]) == (name == "F32" and not at_odds)


@pytest.mark.parametrize(
    ("start", "stop", "out", "message"),
    [
        (-1, 2, None, "start, stop: -1 and 2"),
        (2, 1, None, "expected 0 <= start <= stop <= 4, rows of 'w'"),
        (0, 5, None, "start, stop: 0 and 5"),
        (0, 2, np.zeros((2, 31), np.float32), r"out: float32 \(2, 31\), expected float32 \(2, 32\)"),
        (0, 2, np.zeros((3, 32), np.float32), r"out: float32 \(3, 32\)"),
        (0, 2, np.zeros((2, 32), np.float64), r"out: float64"),
        (0, 2, [[0.0] * 32] * 2, "out: list"),
        (0, 2, np.broadcast_to(np.float32(0), (2, 32)), "out: read-only"),
        (0, 2, np.zeros((2, 64), np.float32)[:, ::2], "out: last stride 8 bytes"),
    ],
)
def test_rows_and_outputs_that_do_not_fit(target: Path, start: int, stop: int, out: Any, message: str) -> None:
    file = opened(target, {}, {"w": ("Q4_0", (4, 32), bytes(72))})
    with pytest.raises(ValueError, match=message):
        file.rows_as_float32("w", start, stop, out)


@pytest.mark.parametrize("dtype", ["F64", "I8", "I16", "I32", "I64"])
def test_nothing_is_narrowed(target: Path, dtype: str) -> None:
    file = opened(target, {}, {"w": np.ones((2, 3), PLAIN[dtype])})
    for ask in (lambda: file.as_float32("w"), lambda: file.rows_as_float32("w", 0, 1)):
        with pytest.raises(
            WeightFileError, match=rf"m\.gguf: tensor 'w' has dtype {dtype}, expected F32, F16, BF16 or"
        ):
            ask()


def test_the_mapping_outlives_the_reader(target: Path) -> None:
    file = opened(target, {"a": [3, 4]}, {"w": np.arange(1024, dtype=np.float32)})
    part, numbers = file["w"][10:20], file.fields["a"]
    del file
    gc.collect()
    target.unlink()
    assert part.tolist() == list(range(10, 20)) and numbers.tolist() == [3, 4]


def resident(address: int) -> int:
    """Bytes of the mapping at ``address`` that are in memory."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            low, high = (int(end, 16) for end in first.split("-"))
            inside = low <= address < high
        elif inside and first == "Rss:":
            return int(line.split()[1]) * 1024
    return 0


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="no /proc")
def test_pages_are_given_back(target: Path) -> None:
    """With room for pages of 2 MiB, which a file may have too."""
    data = bytes(range(136)) * (4096 * 32)
    file = opened(target, {}, {"w": ("Q8_0", (4096, 4096), data), "v": np.arange(100, dtype=np.float32)})
    view = file["w"]
    address, total = view.ctypes.data, view.nbytes
    sums = view.reshape(-1, 34)[:, 0].sum()
    assert resident(address) > total * 0.9
    file.release("w", 0, 2048)
    assert resident(address) < total * 0.6
    file.release("w")
    assert resident(address) < 2**22
    assert view.reshape(-1, 34)[:, 0].sum() == sums and view.tobytes() == data
    file.release("w")
    for start in range(0, 4096, 512):  # as a loader goes along
        file.rows_as_float32("w", start, start + 512)
        file.release("w", start, start + 512)
        assert resident(address) < total / 4
    file.release("v")
    with pytest.raises(KeyError):
        file.release("absent")
    for rows in ((0, 4097), (5, 4), (-1, 3)):
        with pytest.raises(ValueError, match="rows of 'w'"):
            file.release("w", *rows)


def test_release_where_a_mapping_cannot(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = opened(target, {}, {"w": np.ones(10**4, np.float32)})
    monkeypatch.delattr("mmap.MADV_DONTNEED")
    file.release("w")
    assert (file["w"] == 1).all()


def test_pickled_by_path(target: Path) -> None:
    arrays = {"w": np.arange(64, dtype=np.float32)}
    file = opened(target, {"general.name": "a"}, arrays)
    again = pickle.loads(pickle.dumps(file))
    assert isinstance(again, GgufFile) and again["w"].tolist() == file["w"].tolist()
    assert again.fingerprint() == file.fingerprint()
    text = pickle.dumps(file)
    others = [({"general.name": "b"}, arrays), ({"general.name": "a"}, {"w": arrays["w"] + 1})]
    for fields, tensors in others:
        assert opened(target.with_name("other.gguf"), fields, tensors).fingerprint() != file.fingerprint()
        os.replace(target.with_name("other.gguf"), target)
        with pytest.raises(ValueError, match="this is not the file that was pickled"):
            pickle.loads(text)


@pytest.mark.parametrize("name", ["sha256-970aa74c0a90", "m.GGUF", "model.q4"])
def test_recognised_under_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gguf_bytes({}, {"w": np.ones(4, np.float32)}))
    assert isinstance(open_weights(tmp_path / name), GgufFile)


def test_under_the_name_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(gguf_bytes({}, {"w": np.ones(4, np.float32)}))
    with pytest.raises(WeightFileError, match=r"m\.safetensors: .*a GGUF file under another name.*\.gguf"):
        open_weights(tmp_path / "m.safetensors")


def test_a_folder_names_the_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "e5-q8_0.gguf").write_bytes(gguf_bytes({}, {"w": np.ones(4, np.float32)}))
    with pytest.raises(FileNotFoundError, match=r"to open e5-q8_0\.gguf, give its own path"):
        open_weights(tmp_path)


def test_bytes_behind_the_data_and_missing_padding(target: Path) -> None:
    """As llama.cpp's loader: the last tensor need not be padded, and what lies behind is nobody's."""
    whole = gguf_bytes({}, {"w": np.arange(3, dtype=np.float32)})
    assert whole.endswith(bytes(20))
    for data in (whole[:-20], whole[:-1], whole + b"more"):
        target.write_bytes(data)
        assert open_weights(target)["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("count", "limit"), [(49152, 0.015), (152_000, 0.040)])
def test_a_vocabulary_does_not_delay_opening(target: Path, count: int, limit: float) -> None:
    tokens, merges = [f"token{i}" for i in range(count)], [f"to ken{i}" for i in range(count)]
    tensors = {f"blk.{i}.ffn_down.weight": Tensor("F32", (4, 8), bytes(128)) for i in range(272)}
    fields = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges, "s": np.zeros(count, np.float32)}
    opened(target, fields, tensors)
    best = 1.0
    for _ in range(7):
        start = time.perf_counter()
        file = GgufFile(target)
        best = min(best, time.perf_counter() - start)
    assert (
        file.fields["tokenizer.ggml.tokens"][-1] == tokens[-1] and file.fields["tokenizer.ggml.merges"][5] == merges[5]
    )
    assert best < limit
