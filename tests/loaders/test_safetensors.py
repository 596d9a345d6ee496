# SPDX-License-Identifier: MIT
"""The safetensors reader against the safetensors library, and against files that lie."""

from __future__ import annotations

import gc
import json
import os
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn.loaders import WeightFile, WeightFileError, open_weights
from fastattn.loaders.weightfile import ARRAY_DTYPES

LIMIT = 100_000_000


def write(path: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> Path:
    """A safetensors file with exactly this header (object, text or bytes), however wrong."""
    text = header if isinstance(header, (bytes, str)) else json.dumps(header)
    text = text.encode() if isinstance(text, str) else text
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "w.safetensors"


def test_every_dtype_the_library_writes(target: Path) -> None:
    numpy_io = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(7)
    types = [np.bool_, np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64]
    types += [np.float16, np.float32, np.float64]
    arrays = {f"t{i}.{np.dtype(t).name}": rng.integers(0, 2, (3, i)).astype(t) for i, t in enumerate(types)}
    arrays["scalar"] = np.array(3.5, np.float32)
    arrays["empty"] = np.zeros((4, 0, 2), np.float16)
    numpy_io.save_file(arrays, target, metadata={"format": "np", "é": "ü"})
    weights = open_weights(target)
    assert dict(weights.metadata) == {"format": "np", "é": "ü"}
    assert set(weights) == set(arrays) and len(weights) == len(arrays)
    for name, expected in arrays.items():
        got = weights[name]
        assert got.dtype == expected.dtype and got.shape == expected.shape == weights.shape(name)
        assert got.tobytes() == expected.tobytes()
        assert not got.flags.writeable
        assert ARRAY_DTYPES[weights.dtype(name)] == expected.dtype
        assert weights.info(name).nbytes == expected.nbytes


def test_what_we_call_valid_the_library_calls_valid(target: Path) -> None:
    """Names out of the order of their data, zero-sized tensors, trailing spaces: legal, and read alike."""
    numpy_io = pytest.importorskip("safetensors.numpy")
    header = {"b": entry(offsets=(8, 16)), "z": entry(shape=(0, 5), offsets=(8, 8)), "a": entry(offsets=(0, 8))}
    write(target, json.dumps(header) + "   ", np.arange(4, dtype=np.float32).tobytes())
    theirs = numpy_io.load_file(target)
    ours = open_weights(target)
    assert set(ours) == set(theirs)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_bfloat16(target: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    numpy_io = pytest.importorskip("safetensors.numpy")
    values = np.array([[0.0, -0.0, 1.5], [np.inf, -np.inf, 3.0e38]], np.float32).astype(ml_dtypes.bfloat16)
    numpy_io.save_file({"w": values}, target)
    weights = open_weights(target)
    assert weights.dtype("w") == "BF16"
    assert weights["w"].dtype == np.uint16
    np.testing.assert_array_equal(weights["w"], values.view(np.uint16))
    wide = weights.as_float32("w")
    assert wide.dtype == np.float32 and not wide.flags.writeable
    assert wide.tobytes() == values.astype(np.float32).tobytes()


def test_bfloat16_all_bit_patterns(target: Path) -> None:
    bits = np.arange(65536, dtype="<u2")
    write(target, {"w": entry("BF16", [65536], [0, 131072])}, bits.tobytes())
    wide = open_weights(target).as_float32("w")
    np.testing.assert_array_equal(wide.view(np.uint32), bits.astype(np.uint32) << 16)


def test_float16_is_widened_exactly(target: Path) -> None:
    bits = np.arange(65536, dtype="<u2")
    write(target, {"w": entry("F16", [65536], [0, 131072])}, bits.tobytes())
    wide = open_weights(target).as_float32("w")
    np.testing.assert_array_equal(wide, bits.view("<f2").astype(np.float32))


def test_float8_comes_as_bits(target: Path) -> None:
    write(target, {"w": entry("F8_E4M3", [3], [0, 3])}, b"\x01\x02\x03")
    weights = open_weights(target)
    assert weights.dtype("w") == "F8_E4M3" and weights["w"].tolist() == [1, 2, 3]
    with pytest.raises(WeightFileError, match="'w' has dtype F8_E4M3, expected F32, F16 or BF16"):
        weights.as_float32("w")


@pytest.mark.parametrize("dtype", ["F64", "I64", "I32", "BOOL"])
def test_as_float32_never_narrows(target: Path, dtype: str) -> None:
    size = ARRAY_DTYPES[dtype].itemsize
    write(target, {"w": entry(dtype, [1], [0, size])}, bytes(size))
    with pytest.raises(WeightFileError, match=f"dtype {dtype}"):
        open_weights(target).as_float32("w")


def test_no_copy_and_the_mapping_outlives_the_reader(target: Path) -> None:
    header = json.dumps({"w": entry(shape=[1024], offsets=[0, 4096])})
    header += " " * (-len(header) % 8)
    write(target, header, np.arange(1024, dtype=np.float32).tobytes())
    weights = open_weights(target)
    first, second = weights["w"], weights.as_float32("w")
    assert np.shares_memory(first, second)
    part = first[10:20]
    del weights, first, second
    gc.collect()
    target.unlink()
    np.testing.assert_array_equal(part, np.arange(10, 20, dtype=np.float32))
    with pytest.raises(ValueError):
        part[0] = 1


def test_misaligned_data_is_copied(target: Path) -> None:
    header = json.dumps({"w": entry(shape=[3], offsets=[0, 12])})
    header += " " * ((-len(header) + 1) % 4)
    write(target, header, np.float32([1, 2, 3]).tobytes())
    array = open_weights(target)["w"]
    assert array.flags.aligned and not array.flags.writeable
    assert array.tolist() == [1, 2, 3]


def test_misaligned_behind_an_odd_tensor(target: Path) -> None:
    header = {"a": entry("U8", [3], [0, 3]), "w": entry("F64", [2], [3, 19])}
    write(target, header, b"abc" + np.array([1.5, -2.5]).tobytes())
    array = open_weights(target)["w"]
    assert array.flags.aligned and array.tolist() == [1.5, -2.5]


def test_unknown_name(target: Path) -> None:
    weights = open_weights(write(target, {"w": entry()}, bytes(8)))
    assert "w" in weights and "v" not in weights and weights.get("v") is None
    for access in (weights.__getitem__, weights.dtype, weights.shape, weights.info, weights.as_float32):
        with pytest.raises(KeyError, match="no tensor named 'v'"):
            access("v")
    assert "1 tensors" in repr(weights)


def test_no_tensors_at_all(target: Path) -> None:
    assert len(open_weights(write(target, {}))) == 0


HUGE = 2**62

LIES = {
    "offsets beyond the file": ({"w": entry(offsets=(0, 8))}, b"1234", "beyond the 4 bytes of data"),
    "huge offsets": ({"w": entry(shape=(HUGE // 4,), offsets=(0, HUGE))}, b"", "beyond"),
    "overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12), "overlap"),
    "same bytes twice": ({"a": entry(), "b": entry()}, bytes(8), "overlap"),
    "hole": ({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20), "hole from 8"),
    "hole at the start": ({"a": entry(offsets=(4, 12))}, bytes(12), "hole from 0"),
    "bytes behind": ({"a": entry()}, bytes(12), "end at 8, but there are 12"),
    "data without tensors": ({}, bytes(1), "end at 0"),
    "reversed": ({"a": entry(offsets=(8, 0))}, bytes(8), "data_offsets"),
    "negative offset": ({"a": entry(offsets=(-8, 0))}, bytes(8), "data_offsets"),
    "negative dimension": ({"a": entry(shape=(-2,))}, bytes(8), "shape"),
    "two negative dimensions": ({"a": entry(shape=(-2, -1))}, bytes(8), "shape"),
    "float offset": ({"a": entry(offsets=(0.0, 8))}, bytes(8), "data_offsets"),
    "boolean offset": ({"a": entry(offsets=(False, 8))}, bytes(8), "data_offsets"),
    "boolean dimension": ({"a": entry("F64", shape=(True,))}, bytes(8), "shape"),
    "float dimension": ({"a": entry(shape=(2.0,))}, bytes(8), "shape"),
    "text dimension": ({"a": entry(shape=("2",))}, bytes(8), "shape"),
    "null shape": ({"a": entry(shape=None)}, bytes(8), "shape"),
    "text offsets": ({"a": entry(offsets="08")}, bytes(8), "data_offsets"),
    "one offset": ({"a": entry(offsets=(8,))}, bytes(8), "data_offsets"),
    "three offsets": ({"a": entry(offsets=(0, 4, 8))}, bytes(8), "data_offsets"),
    "overflow": ({"a": entry(shape=(2**32, 2**32))}, bytes(8), "overflows"),
    "overflow to zero": ({"a": entry("U8", shape=(2**32, 2**32), offsets=(0, 0))}, b"", "overflows"),
    "overflow beside zero": ({"a": entry(shape=(0, 2**40, 2**40), offsets=(0, 0))}, b"", "overflows"),
    "33 dimensions": ({"a": entry(shape=[1] * 33, offsets=(0, 4))}, bytes(4), "33 dimensions"),
    "size": ({"a": entry(shape=(3,))}, bytes(8), "span 8 bytes.*need 12"),
    "unknown dtype": ({"a": entry("F33")}, bytes(8), "dtype 'F33' is not one of"),
    "dtype of another type": ({"a": entry(["F32"])}, bytes(8), "dtype"),  # type: ignore[arg-type]
    "sub-byte dtype": ({"a": entry("F4")}, bytes(8), "dtype 'F4'"),
    "missing key": ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8), "dtype, shape and data_offsets"),
    "extra key": ({"a": {**entry(), "x": 1}}, bytes(8), "dtype, shape and data_offsets"),
    "entry is a list": ({"a": [1]}, bytes(8), "expected an object"),
    "entry is null": ({"a": None}, bytes(8), "expected an object"),
    "metadata is a list": ({"__metadata__": ["x"]}, b"", "__metadata__"),
    "metadata holds a number": ({"__metadata__": {"x": 1}}, b"", "__metadata__"),
    "not JSON": ("{", b"", "not valid JSON"),
    "empty header": ("", b"", "not valid JSON"),
    "list": ("[]", b"", "expected a JSON object, got list"),
    "number": ("3", b"", "expected a JSON object"),
    "NaN": ('{"a": NaN}', b"", "NaN is not JSON"),
    "text behind": ("{} x", b"", "not valid JSON"),
    "not UTF-8": (b'{"\xff": 1}', b"", "not UTF-8 at byte 2"),
    "UTF-16": ("{}".encode("utf-16"), b"", "not UTF-8"),
    "half a surrogate pair": ('{"\\ud800": {}}', b"", "surrogate"),
    "duplicate tensor": ('{"a": {}, "a": {}}', b"", "duplicate key 'a'"),
    "duplicate field": ('{"a": {"dtype": "F32", "dtype": "F16"}}', b"", "duplicate key 'dtype'"),
    "duplicate metadata": ('{"__metadata__": {}, "__metadata__": {}}', b"", "duplicate key '__metadata__'"),
    "deep nesting": ("[" * 200_000, b"", "nested too deeply|not valid JSON"),
    "endless number": ('{"a": ' + "9" * 10_000 + "}", b"", "a is a number of 10000 digits, expected at most 40"),
    "NUL bytes": (b"\0" * 16, b"", "not valid JSON"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused(target: Path, lie: str) -> None:
    header, data, message = LIES[lie]
    write(target, header, data)
    with pytest.raises(WeightFileError, match=message) as caught:
        open_weights(target)
    assert str(caught.value).startswith(str(target))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("length", [LIMIT + 1, 2**31, 2**63, 2**64 - 1])
def test_header_length_above_the_limit(target: Path, length: int) -> None:
    write(target, {}, length=length)
    with pytest.raises(WeightFileError, match="above the limit"):
        open_weights(target)


@pytest.mark.parametrize("length", [3, 100, LIMIT])
def test_header_length_beyond_the_file(target: Path, length: int) -> None:
    write(target, {}, length=length)
    with pytest.raises(WeightFileError, match="beyond the file"):
        open_weights(target)


def test_a_header_of_100_megabytes_of_nothing(target: Path) -> None:
    """The length is honest, the file sparse: refused by what is in it, in bounded time and memory."""
    with open(target, "wb") as file:
        file.write(struct.pack("<Q", LIMIT))
        file.truncate(8 + LIMIT)
    with pytest.raises(WeightFileError, match="not valid JSON"):
        open_weights(target)


@pytest.mark.parametrize("size", range(8))
def test_shorter_than_the_length_field(target: Path, size: int) -> None:
    target.write_bytes(bytes(size))
    with pytest.raises(WeightFileError, match="too short"):
        open_weights(target)


def test_every_truncation_is_refused(target: Path) -> None:
    write(target, {"__metadata__": {"k": "v"}, "a": entry(), "b": entry("I8", [3], [8, 11])}, bytes(range(11)))
    whole = target.read_bytes()
    for size in range(len(whole)):
        target.write_bytes(whole[:size])
        with pytest.raises(WeightFileError):
            open_weights(target)


def read_all(weights: WeightFile) -> None:
    for name in weights:
        array = weights[name]
        assert array.nbytes == weights.info(name).nbytes
        array.tobytes()
        if weights.dtype(name) in ("F32", "F16", "BF16"):
            weights.as_float32(name)


def test_flipped_bytes_never_do_more_than_raise(target: Path) -> None:
    """Seeded fuzz: any header either is refused by our own error, or every tensor of it can be read."""
    write(
        target,
        {
            "__metadata__": {"k": "v"},
            "a": entry(),
            "b": entry("BF16", [2, 3], [8, 20]),
            "c": entry("I8", [3], [20, 23]),
        },
        bytes(range(23)),
    )
    whole = bytearray(target.read_bytes())
    rng = random.Random(2024)
    alphabet = b'0123456789-+.eE{}[]",: \\u\x00\xff\x80tfn'
    refused = accepted = 0
    for _ in range(4000):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 4))):
            where = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[where] = rng.choice(alphabet)
                case 1:
                    data[where] ^= 1 << rng.randrange(8)
                case 2:
                    del data[where : where + rng.randrange(1, 5)]
                case _:
                    data[where:where] = bytes(rng.choice(alphabet) for _ in range(rng.randrange(1, 4)))
        if rng.random() < 0.7:  # keep the length honest, so that the fault is met deeper in
            data[:8] = struct.pack("<Q", max(0, len(data) - 8 - 23))
        target.write_bytes(data)
        try:
            weights = open_weights(target)
        except WeightFileError:
            refused += 1
        else:
            read_all(weights)
            accepted += 1
    assert refused > 1000 and accepted > 50


def test_where_the_library_refuses_so_do_we(target: Path) -> None:
    """The same fuzz beside the library: a file it calls invalid is never accepted here."""
    library = pytest.importorskip("safetensors")
    base = {"a": entry(), "b": entry("F16", [2, 3], [8, 20]), "c": entry("I8", [3], [20, 23])}
    rng = random.Random(99)
    values: list[Any] = [0, 1, 2, 3, 8, 12, 20, 23, 24, -1, 2**63, 2**64, 1.0, True, None, "2", [], [2], [2, 3]]
    differing = 0
    for _ in range(1500):
        header = json.loads(json.dumps(base))
        for _ in range(rng.choice((1, 2))):
            tensor = header[rng.choice("abc")]
            field = rng.choice(("dtype", "shape", "data_offsets"))
            if field == "dtype":
                tensor[field] = rng.choice(("F32", "F16", "I8", "U8", "BF16", "F64", "f32", "", "Q4"))
            elif isinstance(tensor[field], list) and tensor[field] and rng.random() < 0.8:
                tensor[field][rng.randrange(len(tensor[field]))] = rng.choice(values)
            else:
                tensor[field] = rng.choice(values)
        write(target, header, bytes(range(23)))
        try:
            with library.safe_open(target, framework="np"):
                theirs = True
        except Exception:  # the library has several error types, none of which matters here
            theirs = False
        try:
            open_weights(target)
            ours = True
        except WeightFileError:
            ours = False
        assert theirs or not ours, header
        differing += theirs != ours
    assert differing == 0  # and for these files the other way round too


def test_a_directory_named_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(WeightFileError, match="this is a directory"):
        open_weights(tmp_path)


def test_a_pipe_does_not_block(target: Path) -> None:
    os.mkfifo(target)
    with pytest.raises(WeightFileError, match="not a regular file"):
        open_weights(target)


def test_nothing_there(target: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_weights(target)


@pytest.mark.parametrize("path", [b"w.safetensors", 3, None])
def test_path_of_another_type(path: Any) -> None:
    with pytest.raises(TypeError, match="path"):
        open_weights(path)
