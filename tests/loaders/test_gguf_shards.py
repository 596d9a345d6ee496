# SPDX-License-Identifier: MIT
"""A model in several GGUF files: opened by the first, the others beside it, and every way they may not fit."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gguf_files import I32, U16, gguf_bytes

from fastattn.loaders import WeightFileError, open_weights

ARRAYS = [
    {"a": np.arange(4, dtype=np.float32), "b": np.full((2, 3), 2, np.float16)},
    {"c": np.arange(6, dtype=np.int8)},
    {"d": np.full(40, 4, np.float32), "e": np.float32([5])},
]


def name(i: int, count: int = 3, stem: str = "model-Q4") -> str:
    return f"{stem}-{i + 1:05d}-of-{count:05d}.gguf"


def shard(i: int, count: int = 3, total: int = 5, tensors: Any = None, **more: Any) -> bytes:
    """Shard i as llama.cpp's tool writes it: all but the first have no fields but these."""
    fields = {"split.no": U16(i), "split.count": U16(count), "split.tensors.count": I32(total)}
    if i == 0:
        fields = {"general.architecture": "llama", "general.name": "x", **fields}
    return gguf_bytes({**fields, **more}, ARRAYS[i] if tensors is None else tensors)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        (tmp_path / name(i)).write_bytes(shard(i))
    return tmp_path


def test_all_shards_are_one_mapping(folder: Path) -> None:
    file = open_weights(folder / name(0))
    assert list(file) == list("abcde") and file.metadata["general.name"] == "x"
    for i, arrays in enumerate(ARRAYS):
        for key, expected in arrays.items():
            assert file[key].tobytes() == expected.tobytes() and file.info(key).file == folder / name(i)
    file.release("d")
    again = pickle.loads(pickle.dumps(file))
    assert again.fingerprint() == file.fingerprint() and again["e"].tolist() == [5]
    (folder / name(2)).unlink()  # the file that is mapped stays as it is
    (folder / name(2)).write_bytes(shard(2, tensors={"d": np.full(40, 3, np.float32), "e": np.float32([5])}))
    assert open_weights(folder / name(0)).fingerprint() != file.fingerprint()


def test_a_first_shard_without_tensors(folder: Path) -> None:
    (folder / name(0)).write_bytes(shard(0, total=3, tensors={}))
    for i in (1, 2):
        (folder / name(i)).write_bytes(shard(i, total=3))
    assert list(open_weights(folder / name(0))) == list("cde")


@pytest.mark.parametrize("count", [None, 0, 1])
def test_a_whole_model_may_have_any_name(tmp_path: Path, count: int | None) -> None:
    fields = {} if count is None else {"split.no": U16(0), "split.count": U16(count), "split.tensors.count": I32(2)}
    for file_name in ("m.gguf", name(1)):
        (tmp_path / file_name).write_bytes(gguf_bytes(fields, ARRAYS[0]))
        assert list(open_weights(tmp_path / file_name)) == ["a", "b"]


@pytest.mark.parametrize("i", [1, 2])
def test_another_than_the_first_names_the_first(folder: Path, i: int) -> None:
    with pytest.raises(WeightFileError, match=rf"of-00003\.gguf: not the first of 3 files.*open {name(0)}"):
        open_weights(folder / name(i))


@pytest.mark.parametrize("i", [1, 2])
def test_missing(folder: Path, i: int) -> None:
    (folder / name(i)).unlink()
    (folder / "below").mkdir()
    (folder / "below" / name(i)).write_bytes(shard(i))  # beside the first, and nowhere else
    with pytest.raises(FileNotFoundError, match=rf"{name(0)}: split\.count: file {i + 1} of 3, {name(i)}, is missing"):
        open_weights(folder / name(0))


def test_swapped(folder: Path) -> None:
    (folder / name(1)).write_bytes(shard(2))
    (folder / name(2)).write_bytes(shard(1))
    with pytest.raises(WeightFileError, match=rf"{name(1)}: split\.no: 2, expected 1, as {name(0)} makes it"):
        open_weights(folder / name(0))
    (folder / name(0)).write_bytes(shard(1))
    with pytest.raises(WeightFileError, match=rf"{name(0)}: not the first of 3 files \(split.no is 1 in it\)"):
        open_weights(folder / name(0))


@pytest.mark.parametrize(
    ("i", "data", "message"),
    [
        (0, shard(0, total=6), r"00001-of-00003\.gguf|split\.tensors\.count"),
        (1, shard(1, total=6), r"00002-of-00003\.gguf: split\.tensors\.count: 6, expected 5"),
        (1, shard(1, count=4), r"00002-of-00003\.gguf: split\.count: 4, expected 3"),
        (1, gguf_bytes({}, ARRAYS[1]), r"00002-of-00003\.gguf: split\.no: None, expected 1"),
        (
            1,
            shard(1, **{"general.architecture": "qwen2"}),
            r"00002-of-00003\.gguf: general\.architecture: another model",
        ),
        (
            1,
            shard(1, tensors={"a": ARRAYS[0]["a"]}),
            r"00002-of-00003\.gguf: tensor 'a' is also in model-Q4-00001-of-0",
        ),
        (
            2,
            shard(2, tensors={"c": ARRAYS[1]["c"]}),
            r"00003-of-00003\.gguf: tensor 'c' is also in model-Q4-00002-of-0",
        ),
        (
            2,
            shard(2, tensors={"d": ARRAYS[2]["d"]}),
            r"00001-of-00003\.gguf: split\.tensors\.count: 5, but there are 4",
        ),
        (2, shard(2)[:-64], r"00003-of-00003\.gguf: tensor '[de]': its data"),
        (2, b"", r"00003-of-00003\.gguf: no GGUF file.*an empty file"),
        (0, shard(0, **{"split.count": U16(2)}), r"00001-of-00003\.gguf: split\.count: one of 2 files, whose name"),
        (0, shard(0, **{"split.count": I32(-3)}), r"00001-of-00003\.gguf: split\.count: -3, expected 0 to 99999"),
        (0, shard(0, **{"split.count": 3.0}), r"00001-of-00003\.gguf: split\.count: f32, expected an integer"),
        (0, shard(0, **{"split.no": "0"}), r"00001-of-00003\.gguf: split\.no: str, expected an integer"),
        (0, shard(0, **{"split.count": True}), r"00001-of-00003\.gguf: split\.count: bool, expected an integer"),
    ],
)
def test_shards_that_do_not_fit(folder: Path, i: int, data: bytes, message: str) -> None:
    (folder / name(i)).write_bytes(data)
    with pytest.raises(WeightFileError, match=message):
        open_weights(folder / name(0))


@pytest.mark.parametrize(
    "file_name", ["m.gguf", "m-1-of-3.gguf", "m-00001-of-00003.bin", "m-00001-of-00004.gguf", "m-٠٠٠٠١-of-00003.gguf"]
)
def test_a_shard_under_another_name(folder: Path, file_name: str) -> None:
    (folder / file_name).write_bytes(shard(0))
    with pytest.raises((WeightFileError, FileNotFoundError), match=r"expected to end in -00001-of-00003\.gguf|pickled"):
        open_weights(folder / file_name)


def test_many_shards_claimed(folder: Path) -> None:
    (folder / name(0, 65535)).write_bytes(shard(0, count=65535))
    with pytest.raises(FileNotFoundError, match=r"file 2 of 65535, .*, is missing"):
        open_weights(folder / name(0, 65535))
