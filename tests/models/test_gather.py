# SPDX-License-Identifier: MIT
"""Rows side by side, beside NumPy's indexing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.compare import assert_same_bits
from support.inputs import generator, normal, sliced

from fastattn import ops

F32 = np.float32


def expected(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    rows = np.concatenate([x, np.zeros((1, x.shape[1]), F32)])[index]  # -1 is the last one
    return rows.reshape(len(index), index.shape[1] * x.shape[1])


@pytest.mark.parametrize(
    ("tokens", "width", "rows", "n"),
    [(1, 1, 1, 1), (20, 5, 37, 3), (300, 96, 300, 5), (4, 7, 0, 3), (4, 7, 3, 0), (4, 0, 3, 2), (0, 7, 3, 2)],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_rows_side_by_side(tokens: int, width: int, rows: int, n: int, threads: int) -> None:
    rng = generator("gather", tokens, width, rows, n)
    x, index = normal(rng, tokens, width), rng.integers(-1, tokens, (rows, n))
    out = np.full((rows, n * width), 7, F32)
    ops.gather(x, index, out=out, num_threads=threads)
    assert_same_bits(out, expected(x, index))
    other, turned = sliced(out), np.ascontiguousarray(index.T).T
    ops.gather(sliced(x) if x.size else x, turned[::-1], out=other[::-1], num_threads=threads)
    assert_same_bits(np.ascontiguousarray(other), expected(x, index))


def test_bits_are_copied() -> None:
    bits = np.array([[0x7F800001, 0xFFC12345, 0x80000000, 0x00000001]], np.uint32)
    out = np.zeros((1, 8), F32)
    ops.gather(bits.view(F32), np.array([[0, -1]]), out=out)
    assert out.view(np.uint32).tolist() == [bits[0].tolist() + [0, 0, 0, 0]]


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"index": np.array([[0, 3], [1, 2]])}, ValueError, "index: from 0 to 3, expected -1 to 2"),
    ({"index": np.array([[0, -2], [1, 2]])}, ValueError, "index: from -2 to 2"),
    ({"index": np.array([[0, 2**63 - 1], [1, -(2**63)]])}, ValueError, "index: from -92"),
    ({"index": np.zeros((2, 2), np.int32)}, TypeError, "index: dtype int32"),
    ({"index": [[0, 1], [1, 2]]}, TypeError, "index: list"),
    ({"index": np.zeros(2, np.int64)}, ValueError, "index: rank 1"),
    ({"index": np.zeros((2, 3), np.int64)}, ValueError, r"out: shape \(2, 8\), expected \(2, 12\)"),
    ({"index": np.zeros((3, 2), np.int64)}, ValueError, r"out: shape \(2, 8\), expected \(3, 8\)"),
    ({"x": np.zeros((3, 4))}, TypeError, "x: dtype float64"),
    ({"x": np.zeros((3, 8), F32)[:, ::2]}, ValueError, "x: last stride"),
    ({"x": np.zeros(4, F32)}, ValueError, "x: rank 1"),
    ({"num_threads": 0}, ValueError, "num_threads"),
]


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED)
def test_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    out = np.full((2, 8), 7, F32)
    given = {"x": np.ones((3, 4), F32), "index": np.zeros((2, 2), np.int64), **changes}
    with pytest.raises(error, match=message):
        ops.gather(**given, out=out)
    assert (out == 7).all()


def test_out_has_memory_of_its_own() -> None:
    x = np.ones((3, 4), F32)
    with pytest.raises(ValueError, match="out: shares memory with x"):
        ops.gather(x, np.zeros((3, 1), np.int64), out=x)
