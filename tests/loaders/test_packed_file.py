# SPDX-License-Identifier: MIT
"""The container of packed files: what is written is read, by the safetensors library too, and what lies is refused."""

from __future__ import annotations

import json
import os
import random
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn.loaders import WeightFileError, open_weights
from fastattn.loaders.packed import ALIGNMENT, PackedFile, header_crc
from fastattn.loaders.packwriter import write_packed

METADATA = {"numerics_version": "3", "fastattn_version": "0.1.0", "dtype": "float32", "model_type": "bert"}
FILES = {"config.json": b'{"hidden_size": 3}', "1_Pooling/config.json": b"{}", "empty.json": b""}


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(5)
    return {
        "layer.0.query+layer.0.key/panels": rng.standard_normal((2, 5, 16)).astype(np.float32),
        "layer.0.query+layer.0.key/bias": rng.standard_normal(30).astype(np.float32),
        "layer.1/panels": rng.integers(-128, 128, (1, 3, 16)).astype(np.int8),
        "layer.1/column_sums": rng.integers(-9, 9, 15).astype(np.int32),
        "layer.2/panels": rng.integers(0, 30000, (1, 7)).astype(np.uint16),
        "layer.3/panels": rng.standard_normal((3, 1)).astype(np.float16),
        "norm/weight": rng.standard_normal(30).astype(np.float32),
        "norm/bias": rng.standard_normal(30).astype(np.float32),
        "nothing/table": np.zeros((0, 4), np.float32),
    }


def write(path: Path, **changes: Any) -> Path:
    tensors = changes.pop("tensors", None)
    write_packed(
        path, arrays() if tensors is None else tensors, FILES, {**METADATA, **changes},
        dtypes={"layer.2/panels": "BF16"} if tensors is None else {},
    )  # fmt: skip
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return write(tmp_path / "m.fastattn")


def split(path: Path) -> tuple[bytes, bytes]:
    """Header and data of a safetensors file."""
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    return content[8 : 8 + length], content[8 + length :]


def join(path: Path, header: bytes | dict[str, Any], data: bytes) -> Path:
    """A file with this header, and with the checksum that belongs to it: what a liar would write."""
    if isinstance(header, dict):
        header = json.dumps(header, separators=(",", ":")).encode()
        header += b" " * (-(8 + len(header)) % ALIGNMENT)
    length = struct.pack("<Q", len(header))
    at = header.index(b'"header_crc32":"') + 16
    header = header[:at] + header_crc(length, header) + header[at + 8 :]
    path.write_bytes(length + header + data)
    return path


def test_what_is_written_is_read(target: Path) -> None:
    packed = PackedFile(target, 3)
    packed.verify()
    expected = arrays()
    for name, array in expected.items():
        got = packed[name]
        assert got.dtype == array.dtype and got.shape == array.shape and got.tobytes() == array.tobytes()
        assert not got.flags.writeable and not got.flags.owndata
        assert got.__array_interface__["data"][0] % ALIGNMENT == 0 or not got.size
    assert packed.dtype("layer.2/panels") == "BF16"
    assert packed.keys_of_objects() == ["layer.0.query+layer.0.key", "layer.1", "layer.2", "layer.3", "norm", "nothing"]
    assert {k: v.tolist() for k, v in packed.parts("norm").items()} == {
        "weight": expected["norm/weight"].tolist(), "bias": expected["norm/bias"].tolist(),
    }  # fmt: skip
    assert packed.parts("norm/weight") == packed.parts("file:config.json") == {}
    assert {**METADATA, "format": "fastattn-packed", "format_version": "1"}.items() <= dict(packed.metadata).items()


def test_files_inside(target: Path) -> None:
    files = PackedFile(target).files()
    assert list(files) == list(FILES)
    assert {name: files.read_bytes(name) for name in files} == FILES
    assert files.read_json("config.json") == {"hidden_size": 3}
    assert files.has("1_Pooling/config.json") and not files.has("modules.json") and not files.has("")
    assert files.describe("config.json") == f"{target}: config.json" and files.describe() == str(target)
    with pytest.raises(WeightFileError, match=re.escape(f"{target}: config.json: 18 bytes, more than the limit of 17")):
        files.read_bytes("config.json", 17)
    with pytest.raises(WeightFileError, match=re.escape(f"{target}: empty.json: not valid JSON")):
        files.read_json("empty.json")
    with pytest.raises(FileNotFoundError, match=re.escape(f"{target}: modules.json")):
        files.read_bytes("modules.json")


def test_a_damaged_file_inside_is_found_when_it_is_read(target: Path) -> None:
    header, data = split(target)
    for name, content in FILES.items():
        for position in range(len(content)):
            at = json.loads(header)[f"file:{name}"]["data_offsets"][0] + position
            changed = data[:at] + bytes([data[at] ^ 2]) + data[at + 1 :]
            target.write_bytes(struct.pack("<Q", len(header)) + header + changed)
            with pytest.raises(
                WeightFileError, match=re.escape(f"{target}: {name}: damaged, its checksum does not fit")
            ):
                PackedFile(target).files().read_json(name)
    for sums in ("{", "[]", '{"config.json": 3}', "{}", '{"config.json": ["00000000"]}', "[" * 100_000, "\ud800"):
        target.write_bytes(struct.pack("<Q", len(header)) + header + data)
        change(target, lambda h, sums=sums: h["__metadata__"].update(files_crc32=sums))
        with pytest.raises(WeightFileError, match="files_crc32|its checksum does not fit"):
            PackedFile(target).files().read_json("config.json")


def test_a_file_of_weights_inside(tmp_path: Path) -> None:
    numpy_io = pytest.importorskip("safetensors.numpy")
    inner = numpy_io.save({"linear.weight": np.arange(6, dtype=np.float32).reshape(2, 3)})
    path = tmp_path / "m.fastattn"
    write_packed(path, arrays(), {"2_Dense/model.safetensors": inner, "bad.safetensors": inner[:-1]}, METADATA)
    files = PackedFile(path).files()
    assert files.open_weights("2_Dense/model.safetensors")["linear.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(WeightFileError, match=re.escape(f"{path}: bad.safetensors: tensor 'linear.weight': data_offs")):
        files.open_weights("bad.safetensors")
    with pytest.raises(FileNotFoundError, match="3_Dense"):
        files.open_weights("3_Dense/model.safetensors")


def test_the_safetensors_library_reads_it(target: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(target, "np") as theirs:
        assert theirs.metadata() == dict(PackedFile(target).metadata)
        names = set(theirs.keys())
        for name, array in arrays().items():
            if name != "layer.2/panels":  # NumPy has no bfloat16
                assert theirs.get_tensor(name).tobytes() == array.tobytes()
    assert names == set(PackedFile(target)) and any(name.startswith("pad:") for name in names)


def test_same_content_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a").read_bytes() == write(tmp_path / "b").read_bytes()


@pytest.mark.parametrize("name", ["m.safetensors", "m.bin", "m", "m.fastattn"])
def test_recognised_by_content(tmp_path: Path, name: str) -> None:
    assert isinstance(open_weights(write(tmp_path / name)), PackedFile)


# ---- damage --------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_of_the_header_is_refused(target: Path) -> None:
    content = target.read_bytes()
    length = 8 + len(split(target)[0])
    with open(target, "r+b", buffering=0) as file:
        for position in range(length):
            for bit in range(8) if position < 120 else (random.Random(position).randrange(8),):
                os.pwrite(file.fileno(), bytes([content[position] ^ 1 << bit]), position)
                with pytest.raises(WeightFileError) as caught:
                    PackedFile(target)
                assert str(target) in str(caught.value)
            os.pwrite(file.fileno(), content[position : position + 1], position)
    assert PackedFile(target)


def test_bytes_of_the_header_exchanged_lost_or_added(target: Path) -> None:
    content = target.read_bytes()
    length = 8 + len(split(target)[0])
    rng = random.Random(3)
    for _ in range(100):
        i, j = sorted(rng.sample(range(8, length), 2))
        changed = [
            content[:i] + content[j : j + 1] + content[i + 1 : j] + content[i : i + 1] + content[j + 1 :],
            content[:i] + content[i + 1 :],
            content[:i] + b" " + content[i:],
            content[:i] + bytes(j - i) + content[j:],
        ]
        for new in changed:
            if new != content:
                target.write_bytes(new)
                with pytest.raises(WeightFileError):
                    PackedFile(target)


def test_truncated_anywhere(target: Path) -> None:
    content = target.read_bytes()
    rng = random.Random(4)
    for size in [*range(40), *(rng.randrange(len(content)) for _ in range(200)), len(content) - 1]:
        target.write_bytes(content[:size])
        with pytest.raises(WeightFileError, match=re.escape(str(target))):
            open_weights(target)
    target.write_bytes(content + b"\0")
    with pytest.raises(WeightFileError, match="data_offsets end at"):
        open_weights(target)


def test_a_truncated_file_says_so(target: Path) -> None:
    content = target.read_bytes()
    target.write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(WeightFileError, match="the file is truncated, or its header is damaged"):
        open_weights(target)


def test_damaged_data_is_found_by_verify_and_named(target: Path) -> None:
    header, data = split(target)
    entries = json.loads(header)
    del entries["__metadata__"]
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        if begin == end:
            continue
        for position in {begin, end - 1, (begin + end) // 2}:
            changed = bytearray(data)
            changed[position] ^= 4
            target.write_bytes(struct.pack("<Q", len(header)) + header + changed)
            packed = PackedFile(target)
            with pytest.raises(WeightFileError, match=re.escape(f"tensor {name!r} is damaged")):
                packed.verify()


def test_verify_names_exchanged_tensors(target: Path) -> None:
    """Two tensors of one size: their headers fit, so loading cannot tell; the sums can."""
    header = json.loads(split(target)[0])
    one, two = header["norm/weight"], header["norm/bias"]
    one["data_offsets"], two["data_offsets"] = two["data_offsets"], one["data_offsets"]
    packed = PackedFile(join(target, header, split(target)[1]))  # by name again: what lies there is what was written
    assert packed["norm/weight"].tolist() == arrays()["norm/bias"].tolist()
    packed.verify()  # the sums belong to places; a header that exchanges names has a checksum of its own
    header, data = split(target)
    first, second = one["data_offsets"], two["data_offsets"]
    changed = bytearray(data)
    changed[first[0] : first[1]], changed[second[0] : second[1]] = data[slice(*second)], data[slice(*first)]
    target.write_bytes(struct.pack("<Q", len(header)) + header + changed)
    with pytest.raises(WeightFileError, match="tensor 'norm/(weight|bias)' is damaged"):
        PackedFile(target).verify()


# ---- lies with a fitting checksum ----------------------------------------------------------------------------------


def change(path: Path, edit: Any) -> Path:
    header, data = split(path)
    entries = json.loads(header)
    edit(entries)
    return join(path, entries, data)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda h: h["norm/bias"].update(dtype="F64"), "norm/bias"),
        (lambda h: h["norm/bias"].update(dtype="I16"), "norm/bias"),
        (lambda h: h["norm/bias"].update(shape=[31]), "norm/bias"),
        (lambda h: h["norm/bias"].update(shape=[-30]), "norm/bias"),
        (lambda h: h["norm/bias"].update(shape=[2**62, 2**62]), "norm/bias"),
        (lambda h: h["norm/bias"].update(data_offsets=[0, 120]), "overlap|hole"),
        (lambda h: h["norm/bias"].update(data_offsets=[2**63, 2**63 + 120]), "beyond|hole"),
        (lambda h: h["norm/bias"].update(data_offsets=[120, 0]), "data_offsets"),
        (lambda h: h["norm/bias"].update(more=1), "norm/bias"),
        (lambda h: h.pop("norm/bias"), "hole"),
        (lambda h: h.pop(next(name for name in h if name.startswith("pad:"))), "hole"),
        (lambda h: h.update({"extra/x": {"dtype": "U8", "shape": [5], "data_offsets": [0, 5]}}), "overlap|hole"),
        (lambda h: h.update({"norm": h.pop("norm/bias")}), "tensor 'norm' is not named KEY/PART"),
        (lambda h: h.update({"file:x": h.pop("norm/bias")}), "tensor 'file:x' is not a row of bytes"),
        (lambda h: h.update({"pad:x": h.pop("norm/bias")}), "tensor 'pad:x' is not a row of bytes"),
        (lambda h: h["__metadata__"].pop("numerics_version"), "no numerics_version"),
        (lambda h: h["__metadata__"].pop("sha256"), "no sha256"),
        (lambda h: h["__metadata__"].pop("model_type"), "no model_type"),
        (lambda h: h["__metadata__"].pop("files_crc32"), "no files_crc32"),
        (lambda h: h["__metadata__"].update(numerics_version="4"), "numerics version 4, newer than 3 of this library"),
        (lambda h: h["__metadata__"].update(numerics_version="-4"), "numerics_version is '-4', expected a number"),
        (lambda h: h["__metadata__"].update(numerics_version="9" * 5000), "numerics_version is '9999"),
        (lambda h: h["__metadata__"].update(numerics_version="²"), "numerics_version"),
        (lambda h: h["__metadata__"].update(numerics_version=3), "values are strings"),
        (lambda h: h["__metadata__"].update(format_version="2"), "format version 2, but this library reads"),
        (lambda h: h["__metadata__"].update(format_version="0x1"), "format_version is '0x1'"),
        (lambda h: h["__metadata__"].update(format_version=""), "format_version is ''"),
    ],
)
def test_lies(target: Path, edit: Any, message: str) -> None:
    with pytest.raises(WeightFileError, match=message) as caught:
        PackedFile(change(target, edit), 3)
    assert str(target) in str(caught.value)


def test_older_numerics_are_read(target: Path) -> None:
    assert PackedFile(target, 4)["norm/bias"].size == 30
    assert PackedFile(change(target, lambda h: h["__metadata__"].update(numerics_version="1")), 3)


def test_misaligned(tmp_path: Path) -> None:
    path = write(tmp_path / "m", tensors={"a/x": np.zeros(16, np.float32)})
    header, data = split(path)
    join(path, header + b" " * 4, data)
    with pytest.raises(WeightFileError, match=r"is at byte \d+, which is not a multiple of 64"):
        PackedFile(path)


def test_two_entries_of_one_name(target: Path) -> None:
    header, data = split(target)
    doubled = header.replace(b'"norm/weight":', b'"norm/bias":')
    with pytest.raises(WeightFileError, match="duplicate key 'norm/bias'"):
        PackedFile(join(target, doubled, data))
    with pytest.raises(WeightFileError, match="duplicate key"):
        PackedFile(join(target, header.rstrip()[:-1] + b',"__metadata__":{}}   ', data))


def test_rewritten_by_the_library(target: Path) -> None:
    """Another program keeps tensors and metadata, but not the places: that is refused, not read by chance."""
    numpy_io = pytest.importorskip("safetensors.numpy")
    packed = PackedFile(target)
    numpy_io.save_file({name: np.array(packed[name]) for name in packed}, target, dict(packed.metadata))
    with pytest.raises(WeightFileError, match="damaged, or another program wrote it"):
        open_weights(target)


@pytest.mark.parametrize("seed", range(20))
def test_random_lies_never_crash(target: Path, seed: int) -> None:
    """Values of the header exchanged for others: it is refused, or every tensor can be read."""
    rng = random.Random(seed)
    header, data = split(target)
    values = [0, 1, -1, 63, 64, 2**31, 2**63 - 1, 2**64, 1.5, True, None, "", "F32", "U8", [], [0, 64], {}, "9" * 400]
    for _ in range(50):
        entries = json.loads(header)
        for _ in range(rng.randrange(1, 3)):
            name = rng.choice(list(entries))
            place = entries[name]
            if rng.random() < 0.2:
                entries[name] = rng.choice(values)
            elif isinstance(place, dict) and place:
                key = rng.choice([*place, "dtype"])
                if isinstance(place.get(key), list) and place[key] and rng.random() < 0.5:
                    place[key][rng.randrange(len(place[key]))] = rng.choice(values)
                elif key not in ("format", "header_crc32"):
                    place[key] = rng.choice(values)
        if not isinstance(entries["__metadata__"], dict):
            continue
        try:
            packed = PackedFile(join(target, entries, data), 3)
        except WeightFileError:
            continue
        for name in packed:
            assert packed[name].nbytes == packed.info(name).nbytes


def test_nan_is_found_by_verify_and_never_packed(tmp_path: Path) -> None:
    for dtype, bad in ((np.float32, np.nan), (np.float32, np.inf), (np.float16, -np.inf)):
        array = np.ones(100, dtype)
        array[77] = bad
        with pytest.raises(ValueError, match="tensor 'a/x' holds NaN or infinity"):
            write(tmp_path / "m", tensors={"a/x": array})
    for bits, good in ((0x7F80, False), (0xFFC1, False), (0x7F7F, True), (0x8000, True)):
        array = np.full(5, bits, np.uint16)
        try:
            write_packed(tmp_path / "b", {"a/x": array}, {}, METADATA, dtypes={"a/x": "BF16"})
        except ValueError:
            assert not good
        else:
            assert good
            PackedFile(tmp_path / "b").verify()
    path = write(tmp_path / "m", tensors={"a/x": np.ones(16, np.float32)})
    header, data = split(path)
    import hashlib

    broken = data[:-64] + np.full(16, np.nan, np.float32).tobytes()
    new = hashlib.sha256(broken[-64:]).hexdigest().encode()
    join(path, header.replace(hashlib.sha256(data[-64:]).hexdigest().encode(), new), broken)
    packed = PackedFile(path)
    with pytest.raises(WeightFileError, match="tensor 'a/x' holds NaN or infinity"):
        packed.verify()


def test_opening_reads_no_data(tmp_path: Path) -> None:
    """Pages that were never touched are not resident: opening looks at the header alone."""
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        pytest.skip("no /proc")
    path = write(tmp_path / "big", tensors={"a/x": np.ones(1 << 23, np.float32)})
    packed = PackedFile(path)
    assert packed["a/x"].size == 1 << 23
    rows = smaps.read_text().split(f"{os.path.realpath(path)}\n")[1]
    assert int(re.search(r"Rss:\s+(\d+)", rows)[1]) <= 2048  # type: ignore[index]  # one huge page
