# SPDX-License-Identifier: MIT
"""PackedLinear.arrays() and from_arrays(): the same object over the same memory, or a refusal."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.compare import assert_same_bits
from support.inputs import generator, normal
from support.refusals import check_refused

import fastattn as fa

Arrays = dict[str, Any]
N, K = 21, 30


def packed(bias: bool = True, n: int = N, k: int = K) -> fa.PackedLinear:
    rng = generator("packed arrays", n, k)
    return fa.pack_linear(normal(rng, n, k), normal(rng, n) if bias else None)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("n", "k"), [(N, K), (16, 384), (1, 1), (0, 5), (5, 0), (0, 0)])
def test_same_memory(bias: bool, n: int, k: int) -> None:
    layer = packed(bias, n, k)
    arrays = layer.arrays()
    assert list(arrays) == (["panels", "bias"] if bias else ["panels"])
    assert sum(part.nbytes for part in arrays.values()) == layer.nbytes
    again = fa.PackedLinear.from_arrays(arrays, k, n, layer.dtype)
    assert repr(again) == repr(layer)
    for name, part in again.arrays().items():
        assert part.ctypes.data == arrays[name].ctypes.data and not part.flags.writeable and part.flags.c_contiguous
    x = normal(generator("x"), 3, k)
    assert_same_bits(fa.linear(x, again), fa.linear(x, layer))
    arrays.clear()  # a dictionary of the caller's own
    assert layer.arrays() and again.arrays()


def test_mapped_file(tmp_path: Path) -> None:
    """Read-only memory of a file, not copied, and held for as long as the object lives."""
    layer, path = packed(), tmp_path / "arrays"
    panels, bias = layer.arrays().values()
    path.write_bytes(bytes(64) + panels.tobytes() + bias.tobytes())
    with path.open("rb") as file:
        mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    parts = {
        "panels": mapped[64 : 64 + panels.nbytes].view(np.float32).reshape(panels.shape),
        "bias": mapped[64 + panels.nbytes :].view(np.float32),
    }
    place = parts["panels"].ctypes.data
    again = fa.PackedLinear.from_arrays(parts, K, N, "float32")
    del mapped, parts
    path.unlink()
    assert again.panels.ctypes.data == place
    x = normal(generator("x"), 5, K)
    assert_same_bits(fa.linear(x, again), fa.linear(x, layer))
    memory = np.memmap(tmp_path / "bias", np.float32, "w+", shape=(N,))
    memory[:] = layer.bias
    again = fa.PackedLinear.from_arrays({"panels": panels, "bias": memory}, K, N)
    assert_same_bits(fa.linear(x, again), fa.linear(x, layer))
    assert memory.flags.writeable  # the caller's own view of it stays as it was


def shifted(array: np.ndarray, by: int) -> np.ndarray:
    memory = np.zeros(array.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + by
    view = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def call(arguments: Arrays) -> fa.PackedLinear:
    layer = packed()
    arrays: Any = dict(layer.arrays())
    change: Callable[[Arrays], Any] | None = arguments.get("change")
    if change is not None:
        arrays = change(arrays)
    return fa.PackedLinear.from_arrays(
        arrays, arguments.get("in_features", K), arguments.get("out_features", N), arguments.get("dtype", "float32")
    )


def part(name: str, change: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    return {"change": lambda arrays: {**arrays, name: change(arrays[name])}}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"dtype": "float64"}, ValueError, ["dtype", "'float64'", "'float32'"]),
        ({"dtype": None}, ValueError, ["dtype", "None"]),
        ({"in_features": 31}, ValueError, ["panels", "(2, 30, 16)", "(2, 31, 16)"]),
        ({"in_features": -1}, ValueError, ["in_features", "-1"]),
        ({"in_features": 30.0}, TypeError, ["in_features", "float", "integer"]),
        ({"in_features": True}, TypeError, ["in_features", "bool"]),
        ({"out_features": 1 << 60}, ValueError, ["out_features", str(1 << 60)]),
        ({"out_features": 33}, ValueError, ["panels", "(3, 30, 16)"]),
        ({"out_features": 22}, ValueError, ["bias", "(21,)", "(22,)"]),
        ({"change": lambda arrays: None}, TypeError, ["arrays", "NoneType", "mapping"]),
        ({"change": lambda arrays: list(arrays.values())}, TypeError, ["arrays", "list", "mapping"]),
        ({"change": lambda arrays: {}}, ValueError, ["arrays", "none", "'panels'"]),
        ({"change": lambda arrays: {"bias": arrays["bias"]}}, ValueError, ["arrays", "'bias'", "'panels'"]),
        ({"change": lambda arrays: {**arrays, "scale": 1}}, ValueError, ["arrays", "'scale'", "'float32'"]),
        (part("panels", lambda a: a.tolist()), TypeError, ["panels", "list"]),
        (part("panels", lambda a: a.astype(np.float64)), TypeError, ["panels", "float64", "float32"]),
        (part("panels", lambda a: a.astype(">f4")), TypeError, ["panels", ">f4"]),
        (part("panels", lambda a: a[:, :-1]), ValueError, ["panels", "(2, 29, 16)", "(2, 30, 16)"]),
        (part("panels", lambda a: a.reshape(-1)), ValueError, ["panels", "(960,)"]),
        (part("panels", lambda a: np.zeros((2, 60, 16), np.float32)[:, ::2]), ValueError, ["panels", "contiguous"]),
        (part("panels", lambda a: shifted(a, 4)), ValueError, ["panels", "64"]),
        (part("panels", lambda a: np.ma.masked_array(a)), TypeError, ["panels", "masked"]),
        (part("bias", lambda a: shifted(a, 1)), ValueError, ["bias", "4 bytes"]),
        (part("bias", lambda a: np.zeros(2 * N, np.float32)[::2]), ValueError, ["bias", "contiguous"]),
        (part("bias", lambda a: None), TypeError, ["bias", "NoneType"]),
    ],
)
def test_refusals(arguments: Arrays, error: Any, words: list[str]) -> None:
    check_refused(call, arguments, error, words)


def test_out_apart_from_every_part() -> None:
    """An out that lies on the weights is refused, whichever way it is looked at."""
    memory = shifted(packed().panels, 0)
    layer = fa.PackedLinear.from_arrays({"panels": memory}, K, N)
    with pytest.raises(ValueError, match=r"packed\.panels"):
        fa.linear(normal(generator("x"), 3, K), layer, out=memory.reshape(-1)[: 3 * N].reshape(3, N))
