# SPDX-License-Identifier: MIT
"""GGUF files that lie: each is refused by name, before anything is allocated for what it claims."""

from __future__ import annotations

import os
import random
import resource
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gguf_files import ARRAY, F32, I32, STRING, U8, U64, Array, Raw, Tensor, gguf_bytes, random_blocks, string

from fastattn.loaders import WeightFileError, open_weights
from fastattn.loaders.gguf import GgufFile
from fastattn.loaders.gguffields import GgufStrings
from fastattn.loaders.weightfile import BLOCK_DTYPES

HUGE = 2**62


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "m.gguf"


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def array(kind: int, count: int, payload: bytes = b"") -> Raw:
    return Raw(ARRAY, struct.pack("<IQ", kind, count) + payload)


def one(**lies: Any) -> dict[str, Tensor]:
    """A good tensor w of 64 floats, but for what is given."""
    return {"w": Tensor("F32", (64,), bytes(256))._replace(**lies)}


def two(**lies: Any) -> dict[str, Tensor]:
    """As ``one``, with a good tensor before it."""
    return {"first": Tensor("I8", (5,), bytes(5)), **one(**lies)}


good = np.ones(3, np.float32)
CUT = "truncated"

# What llama.cpp's test of its reader refuses, by the names it has there; "padded" cases are further below.
THEIRS: dict[str, tuple[bytes, str]] = {
    "HEADER_BAD_MAGIC": (gguf_bytes({}, {}, magic=b"FUGG"), "no GGUF file"),
    "HEADER_BAD_VERSION_0": (gguf_bytes({}, {}, version=0), "version 0"),
    "HEADER_BAD_VERSION_1": (gguf_bytes({}, {}, version=1), "version 1 of GGUF is not read"),
    "HEADER_BAD_VERSION_FUTURE": (gguf_bytes({}, {}, version=4), "version 4 of GGUF is not known"),
    "HEADER_BAD_N_TENSORS": (gguf_bytes({}, {}, n_tensors=2**64 - 1), "number of tensors: 18446744073709551615 do not"),
    "HEADER_BAD_N_KV": (gguf_bytes({}, {}, n_fields=2**64 - 1), "number of fields: 18446744073709551615 do not fit"),
    "KV_BAD_KEY_SIZE": (gguf_bytes({}, {}, n_fields=1) + u64(2**64 - 1) + b"key" + bytes(99), "key of field 0: 184467"),
    "KV_EMPTY_KEY": (gguf_bytes({"": 1}, {"w": good}), "key of field 0: 0 bytes long"),
    "KV_BAD_TYPE": (gguf_bytes({"a": Raw(13, bytes(8))}, {}), "field 'a': type 13 is none of 0 to 12"),
    "KV_BAD_ARRAY_TYPE": (gguf_bytes({"a": array(13, 1, bytes(8))}, {}), "field 'a': element type 13 is none of"),
    "KV_DUPLICATE_KEY": (gguf_bytes([("a", 1), ("b", 2), ("a", 1)], {}), "duplicate key 'a'"),
    "KV_BAD_ALIGN": (gguf_bytes({}, {}, alignment=13), "general.alignment: 13, expected a power of two"),
    "KV_WRONG_TYPE_ALIGN": (gguf_bytes({"general.alignment": I32(32)}, {}), "general.alignment: i32, expected u32"),
    "TENSORS_BAD_NAME_SIZE": (gguf_bytes({}, {"n" * 64: good}), "name of tensor 0: 64 bytes long, expected 1 to 63"),
    "TENSORS_BAD_N_DIMS": (gguf_bytes({}, one(n_dims=5)), "tensor 'w': 5 dimensions, expected at most 4"),
    "TENSORS_BAD_SHAPE": (gguf_bytes({}, one(shape=(-1, -1))), "tensor 'w': a dimension of 18446744073709551615"),
    "TENSORS_ZERO_DIM": (gguf_bytes({}, one(shape=(0, 64))), "tensor 'w': a dimension of 0 among .64, 0."),
    "TENSORS_NE_TOO_BIG": (gguf_bytes({}, one(shape=(2**33 - 4, 2**33 - 4))), "'w': dimensions .* overflow 63 bits"),
    "TENSORS_NBYTES_TOO_BIG": (gguf_bytes({}, one(shape=(2**31, 2**30), type="I64")), "of I64 overflow 63 bits"),
    "TENSORS_NBYTES_PAD_WRAP": (gguf_bytes({}, one(shape=(2**30 + 1, 2**30 - 1, 4))), "'w': dimensions .* overflow 63"),
    "TENSORS_BAD_TYPE": (gguf_bytes({}, one(type=43)), "tensor 'w': type 43 is not known; read are F32, F16"),
    "TENSORS_BAD_OFFSET": (gguf_bytes({}, one(offset=2**64 - 1)), "tensor 'w': data at offset 184467.*, expected 0"),
    "TENSORS_DUPLICATE_NAME": (gguf_bytes({}, [("w", good), ("w", good)]), "duplicate tensor 'w'"),
    "TENSORS_BAD_ALIGN": (gguf_bytes({}, two(), alignment=13), "general.alignment: 13"),
    "TENSORS_INCONSISTENT_ALIGN": (gguf_bytes({"general.alignment": 1}, two()), "'w': data at offset 32, expected 5"),
    "DATA_NOT_ENOUGH_DATA": (gguf_bytes({}, two())[:-1], "tensor 'w': its data, 256 bytes from byte 128 on, reach"),
    "DATA_BAD_ALIGN": (gguf_bytes({"a": 1}, two(), alignment=13), "general.alignment: 13"),
    "DATA_INCONSISTENT_ALIGN": (gguf_bytes({"general.alignment": 64}, two()), "'w': data at offset 32, expected 64"),
    "DATA_MEM_SIZE_OVERFLOW": (
        gguf_bytes(
            {}, {"a": Tensor("I8", (2**63 - 64,), bytes(32)), "b": Tensor("I8", (2**63 - 64,), b"", 2**63 - 64)}
        ),
        "tensor 'a': its data, 9223372036854775744 bytes from byte",
    ),
}

# (bytes, what the message says)
OURS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "an empty file"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
    "a page": (b"<!doctype html><html>", "a web page"),
    "pickled": (b"PK\x03\x04" + bytes(99), "no GGUF file.*torch.save"),
    "GGML": (b"lmgg" + bytes(99), "no GGUF file: it does not begin with GGUF$"),
    "three letters": (b"GGU", "no GGUF file"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version 0x03000000: a GGUF file for big-endian machines"),
    "big-endian version 2": (b"GGUF" + struct.pack(">IQQ", 2, 0, 0), "for big-endian machines"),
    "more tensors than fit": (gguf_bytes({}, {"w": good}, n_tensors=99), "number of tensors: 99 do not fit into the"),
    "more fields than fit": (gguf_bytes({"a": 1}, {}, n_fields=2), "number of fields: 2 do not fit into the 17 bytes"),
    "a field more than there is": (gguf_bytes({"a": 1}, {"w": good}, n_fields=2), "name of tensor 0: 0 bytes long"),
    "a tensor more than there is": (gguf_bytes({}, two(), n_tensors=3), "name of tensor 2"),
    "negative counts": (gguf_bytes({}, {}, n_fields=2**63), "number of fields: 9223372036854775808 do not fit"),
    "too many fields": (gguf_bytes({}, {}, n_fields=2**16 + 1) + bytes(2**20), "65537, expected at most 65536"),
    "too many tensors": (gguf_bytes({}, {}, n_tensors=2**18 + 1) + bytes(2**23), "262145, expected at most 262144"),
    "long key": (gguf_bytes({"k" * 2**16: 1}, {}), "key of field 0: 65536 bytes long, expected 1 to 65535"),
    "key of other bytes": (gguf_bytes({b"\xff": 1}, {}), "key of field 0: not UTF-8 at byte 0"),
    "key of half a surrogate pair": (gguf_bytes({b"ab\xed\xa0\x80": 1}, {}), "key of field 0: not UTF-8 at byte 2"),
    "huge type": (gguf_bytes({"a": Raw(2**32 - 1, bytes(9))}, {}), "field 'a': type 4294967295 is none of"),
    "nested array": (gguf_bytes({"a": array(9, 1, bytes(40))}, {}), "field 'a': an array of arrays"),
    "bool of 2": (gguf_bytes({"a": Raw(7, b"\2")}, {}), "field 'a': 2 for a bool, expected 0 or 1"),
    "bool of 255": (gguf_bytes({"a": Raw(7, b"\xff")}, {}), "field 'a': 255 for a bool"),
    "bools of 0, 1, 9": (gguf_bytes({"a": array(7, 3, b"\0\1\x09")}, {}), "field 'a': 9 among its bools"),
    "string beyond the file": (gguf_bytes({"a": Raw(8, u64(9) + b"xxxxxxxx")}, {}), f"field 'a': 9 bytes .*{CUT}"),
    "string of 2^30": (gguf_bytes({"a": Raw(8, u64(2**30))}, {}), f"field 'a': 1073741824 bytes .*{CUT}"),
    "string beyond the limit": (gguf_bytes({"a": Raw(8, u64(2**30 + 1))}, {}), "a string of 1073741825 bytes"),
    "string of all bits": (gguf_bytes({"a": Raw(8, u64(2**64 - 1))}, {}), "field 'a': a string of 184467"),
    "array beyond the file": (gguf_bytes({"a": array(0, 9, bytes(8))}, {}), "field 'a': 9 elements do not fit into"),
    "array that wraps": (gguf_bytes({"a": array(4, HUGE, bytes(8))}, {}), "field 'a': 4611686018427387904 elements do"),
    "array of all bits": (gguf_bytes({"a": array(10, 2**64 - 1)}, {}), "field 'a': 18446744073709551615 elements do"),
    "strings that wrap": (gguf_bytes({"a": array(8, 2**61 + 1, bytes(16))}, {}), "field 'a': 2305843009213693953 elem"),
    "strings beyond the file": (gguf_bytes({"a": array(8, 2, string("x") + string("y", 5))}, {}), "string 1 of 2"),
    "strings of all bits": (gguf_bytes({"a": array(8, 2, string("x", 2**64 - 1) + bytes(9))}, {}), "string 0 of 2"),
    "strings cut in a length": (gguf_bytes({"a": array(8, 2, string("xxxx") + b"\0\0\0\0")}, {}), "string 1 of 2"),
    "alignment 0": (gguf_bytes({"general.alignment": 0}, {}), "general.alignment: 0, expected a power of two"),
    "alignment as text": (gguf_bytes({"general.alignment": "32"}, {}), "general.alignment: str, expected u32"),
    "alignment as array": (gguf_bytes({"general.alignment": Array(4, [32])}, {}), "general.alignment: array of u32"),
    "alignment in 64 bits": (gguf_bytes({"general.alignment": U64(32)}, {}), "general.alignment: u64, expected u32"),
    "alignment as bool": (gguf_bytes({"general.alignment": True}, {}), "general.alignment: bool, expected u32"),
    "no name": (gguf_bytes({}, {"": good}), "name of tensor 0: 0 bytes long"),
    "name of other bytes": (gguf_bytes({}, {b"a\xff": good}), "name of tensor 0: not UTF-8 at byte 1"),
    "name beyond the file": (gguf_bytes({}, one(name_length=2**40)), "name of tensor 0: 1099511627776 bytes long"),
    "a million dimensions": (gguf_bytes({}, one(n_dims=10**6)), "tensor 'w': 1000000 dimensions"),
    "product wraps to 4": (gguf_bytes({}, one(shape=(211106198978564, 4194305, 4194305))), "overflow 63 bits"),
    "elements fit, bytes do not": (gguf_bytes({}, one(shape=(2**61,))), "dimensions .2305843009213693952. of F32"),
    "blocks fit nowhere": (gguf_bytes({}, one(type="Q8_0", shape=(2**57, 32))), "tensor 'w': .*overflow|its data"),
    "a zero beside huge ones": (gguf_bytes({}, one(shape=(0, HUGE, HUGE))), "a dimension of 0"),
    "row of half a block": (gguf_bytes({}, one(type="Q4_0", shape=(2, 48))), "'w': 48 elements in a row, expected"),
    "row of 32 in blocks of 256": (gguf_bytes({}, one(type="Q4_K", shape=(8, 32))), "expected a multiple of 256"),
    "blocks of a single number": (gguf_bytes({}, one(type="Q4_0", shape=())), "'w': 1 elements in a row"),
    "data on data": (gguf_bytes({}, two(offset=0)), "tensor 'w': data at offset 0, expected 32"),
    "data not aligned": (gguf_bytes({}, two(offset=5)), "tensor 'w': data at offset 5, expected 32"),
    "a hole": (gguf_bytes({}, two(offset=64)) + bytes(99), "tensor 'w': data at offset 64, expected 32"),
    "data before the file": (gguf_bytes({}, one(offset=-32)), "tensor 'w': data at offset 18446744073709551584"),
    "data beyond the file": (gguf_bytes({}, one(data=bytes(200))), "tensor 'w': its data, 256 bytes from byte"),
    "no data at all": (gguf_bytes({}, one())[:-256], f"tensor 'w': its data, .*{CUT}"),
    "shape larger than the data": (gguf_bytes({}, one(shape=(2**40, 64))), "tensor 'w': its data, 281474976710656"),
    "alignment beyond the file": (gguf_bytes({"general.alignment": 2**31}, one()), "its data, 256 bytes from byte 2"),
}  # fmt: skip


@pytest.mark.parametrize("lie", [*THEIRS, *OURS])
def test_lies_are_refused(target: Path, lie: str) -> None:
    data, message = {**THEIRS, **OURS}[lie]
    target.write_bytes(data)
    with pytest.raises(WeightFileError, match=message) as caught:
        open_weights(target)
    assert str(caught.value).startswith(f"{target}: ") and len(str(caught.value)) < 1000


def test_what_llama_cpp_takes_we_take(target: Path) -> None:
    """HEADER_EMPTY, KV_SUCCESS, TENSORS_SUCCESS, TENSORS_CUSTOM_ALIGN, DATA_SUCCESS and DATA_CUSTOM_ALIGN of the same
    test: 100 fields of every type, 100 tensors of every shape."""
    rng = np.random.default_rng(1)
    kinds = [0, 1, 2, 3, 4, 5, 6, 7, STRING, 10, 11, 12]

    def value(kind: int) -> Any:
        if kind == STRING:
            return "x" * int(rng.integers(0, 64))
        return (
            bool(rng.integers(0, 2))
            if kind == 7
            else float(rng.integers(0, 99))
            if kind in (6, 12)
            else int(rng.integers(0, 99))
        )

    fields: dict[str, Any] = {}
    for i in range(100):
        kind = kinds[i % 12]
        fields[f"my_key_{i}"] = (
            Array(kind, [value(kind) for _ in range(i % 17)]) if i % 3 else Array(kind, [value(kind)])
        )
    types = ["F32", "F16", "BF16", "I8", "I16", "I32", "I64", "F64", "Q4_0", "Q8_0", "Q4_K", "MXFP4"]
    tensors = {}
    for i in range(100):
        name = types[i % 12]
        step = 256 if name == "Q4_K" else 32
        shape = (*rng.integers(1, 5, i % 4).tolist(), int(rng.integers(1, 4)) * step)
        tensors[f"my_tensor_{i}"] = (name, shape, random_blocks(name, shape, rng))
    for alignment in (1, 32):
        for ours_fields, ours_tensors in (({}, {}), (fields, {}), (fields, tensors)):
            target.write_bytes(gguf_bytes(ours_fields, ours_tensors, alignment=alignment))
            file = open_weights(target)
            assert isinstance(file, GgufFile)
            assert list(file) == list(ours_tensors) and len(file.fields) == len(ours_fields) + (alignment == 1)
            for name, (_, shape, data) in ours_tensors.items():
                assert file.shape(name) == shape and file[name].tobytes() == data
            read_all(file)


UNREAD = {
    4: "Q4_2 has been removed", 5: "Q4_3 has been removed", 9: "Q8_1 is not read", 15: "Q8_K is not read",
    16: "IQ2_XXS is not read", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S", 29: "IQ1_M",
    31: "Q4_0_4_4 has been removed", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 34: "TQ1_0 is not read", 35: "TQ2_0",
    36: "IQ4_NL_4_4 has been", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8", 40: "NVFP4 is not read", 41: "Q1_0", 42: "Q2_0",
    43: "43 is not known", 255: "255 is not known", 2**31: "2147483648 is not known", -1: "4294967295 is not known",
}  # fmt: skip


@pytest.mark.parametrize("number", UNREAD)
def test_types_that_are_not_read(target: Path, number: int) -> None:
    target.write_bytes(gguf_bytes({}, {"fine": good, "blk.0.x": Tensor(number, (256,), bytes(1024))}))
    with pytest.raises(WeightFileError, match=rf"tensor 'blk\.0\.x': type {UNREAD[number]}.*; read are F32, .*MXFP4"):
        open_weights(target)


def test_lying_counts_cost_no_memory(target: Path) -> None:
    """Counts and lengths of up to 2^64 in files of 200 bytes, under a limit of address space."""
    code_limit = 2**30
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + code_limit // 8, hard))
    try:
        for count in (2**20, 2**28, 2**30, 2**32, 2**40, 2**61, 2**63 - 1, 2**63, 2**64 - 1):
            for data in (
                gguf_bytes({}, {"w": good}, n_fields=count),
                gguf_bytes({}, {"w": good}, n_tensors=count),
                *(gguf_bytes({"a": array(kind, count, bytes(99))}, {}) for kind in (0, 7, 8, 12)),
                gguf_bytes({"a": Raw(8, u64(count) + bytes(99))}, {}),
                gguf_bytes({}, one(shape=(count,))),
                gguf_bytes({}, one(shape=(2, count))),
            ):
                target.write_bytes(data)
                with pytest.raises(WeightFileError):
                    open_weights(target)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def small() -> bytes:
    """One of everything, small."""
    rng = np.random.default_rng(4)
    fields = {
        "general.architecture": "llama", "general.alignment": 32, "llama.block_count": 2, "llama.scale": F32(0.5),
        "tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.tokens": ["a", "b", "é", "", "▁the"],
        "tokenizer.ggml.scores": Array(6, [0.0, -1.0, -2.0, 1.5, 3.0]), "flags": Array(7, [True, False]), "u": U8(3),
        "long": U64(2**40), "none": Array(8, []),
    }  # fmt: skip
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": ("BF16", (2, 2), bytes(range(8))),
        **{name: (name, (2, 256), random_blocks(name, (2, 256), rng)) for name in ("Q4_1", "Q8_0", "Q6_K", "MXFP4")},
        "i": np.arange(5, dtype=np.int64),
    }  # fmt: skip
    return gguf_bytes(fields, tensors)


def read_all(file: GgufFile) -> None:
    """Every field and tensor: either it can be read, or it says that it is not text."""
    for key in file.fields:
        try:
            value = file.fields[key]
            if isinstance(value, GgufStrings):
                for i in range(min(len(value), 9)):
                    value.raw(i)
                value.tolist()
            elif isinstance(value, np.ndarray):
                value.tobytes()
        except WeightFileError as error:
            assert "not UTF-8" in str(error)
    for name in file:
        info = file.info(name)
        assert file[name].nbytes == info.nbytes
        file[name].tobytes()
        if info.dtype in ("F32", "F16", "BF16") or info.dtype in BLOCK_DTYPES:
            assert file.as_float32(name).shape == info.shape
        file.release(name)
    file.fingerprint()


@pytest.fixture
def memory() -> Iterator[Callable[[bytes], Path]]:
    """Puts bytes into a file in memory: on a disk, writing one anew takes longer than all that is tested."""
    number = os.memfd_create("m.gguf")

    def put(data: bytes) -> Path:
        os.ftruncate(number, 0)
        os.pwrite(number, data, 0)
        return Path(f"/proc/self/fd/{number}")

    yield put
    os.close(number)


def test_every_truncation_is_refused(memory: Callable[[bytes], Path]) -> None:
    whole = small()
    read_all(GgufFile(memory(whole)))
    last = len(whole) - (-(5 * 8) % 32)  # the padding of the last tensor need not be there
    read_all(GgufFile(memory(whole[:last])))
    for size in range(last):
        with pytest.raises(WeightFileError):
            GgufFile(memory(whole[:size]))


def mutated(whole: bytes, header: int, draw: random.Random) -> bytes:
    """``whole`` with one to three things wrong, most of them in its header."""
    data = bytearray(whole)
    for _ in range(draw.choice((1, 1, 2, 3))):
        where = draw.randrange(header if draw.random() < 0.9 else len(data)) % max(1, len(data))
        match draw.randrange(7):
            case 0 | 1:
                data[where : where + 1] = bytes([draw.randrange(256)])
            case 2:
                data[where : where + 1] = bytes([data[where] ^ 1 << draw.randrange(8)]) if data else b""
            case 3:  # a number, often where one is
                value = draw.choice((0, 1, 2, 9, 2**8, 2**16, 2**30, 2**31, 2**32 - 1, 2**40, 2**61, 2**63, 2**64 - 1))
                width = draw.choice((4, 8))
                data[where : where + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
            case 4:
                del data[where : where + draw.randrange(1, 9)]
            case 5:  # a piece from elsewhere
                start = draw.randrange(header)
                data[where:where] = whole[start : start + draw.randrange(1, 40)]
            case _:
                if draw.random() < 0.3:
                    del data[where:]
    return bytes(data)


def test_mutations_never_do_more_than_raise(memory: Callable[[bytes], Path]) -> None:
    """FASTATTN_GGUF_MUTATIONS says how many: 20,000 take some seconds; FASTATTN_RANDOM_SEED, from which on."""
    count = int(os.environ.get("FASTATTN_GGUF_MUTATIONS", "3000"))
    first = int(os.environ.get("FASTATTN_RANDOM_SEED", "0"))
    whole = small()
    header = whole.index(b"MXFP4") + 200
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = accepted = 0
    for seed in range(first, first + count):
        target = memory(mutated(whole, header, random.Random(seed)))
        try:
            file = GgufFile(target)
        except WeightFileError as error:
            assert len(str(error)) < 1000 and str(error).startswith(str(target))
            refused += 1
        except Exception as error:
            raise AssertionError(f"FASTATTN_RANDOM_SEED={seed}: {error!r}") from error
        else:
            try:
                read_all(file)
            except Exception as error:
                raise AssertionError(f"FASTATTN_RANDOM_SEED={seed}: {error!r}") from error
            accepted += 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    print(f"{count} mutations from seed {first}: {refused} refused, {accepted} read, {grown} KiB")
    assert refused > count / 3 and accepted > count / 50 and grown < 64 * 1024
