# SPDX-License-Identifier: MIT
"""The bias of disentangled attention, and the columns of distances, beside the oracle and plain formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support.compare import assert_same_bits
from support.inputs import generator, normal

from fastattn import _testing, reference
from fastattn.attention import disentangled_bias, distance_columns

F32 = np.float32


def problem(rows: int, keys: int, span: int, heads: int = 3, holes: bool = False) -> dict[str, Any]:
    rng = generator("disentangled", rows, keys, span)
    at = np.arange(max(rows, keys))
    if holes:
        at = np.cumsum(rng.integers(1, 4, len(at)))
    return {
        "c2p": normal(rng, heads, rows, 2 * span),
        "p2c": normal(rng, heads, keys, 2 * span),
        "q_positions": at[:rows],
        "k_positions": at[:keys],
        "columns": distance_columns(int(at.max(initial=0)), span),
        "scale": 0.37,
    }


@pytest.mark.parametrize(("rows", "keys", "span", "holes"), [(1, 1, 1, False), (40, 40, 40, False), (33, 33, 8, True),
                                                             (7, 100, 20, False), (100, 7, 5, True)])  # fmt: skip
@pytest.mark.parametrize("missing", [None, "c2p", "p2c"])
def test_every_element(rows: int, keys: int, span: int, holes: bool, missing: str | None) -> None:
    p = problem(rows, keys, span, holes=holes)
    if missing is not None:
        p[missing] = None
    exact = reference.disentangled_bias(**p, dtype=F32)  # one addition, one multiplication: the same roundings
    got = disentangled_bias(**p)
    assert got.dtype == F32
    assert_same_bits(got, exact)
    for isa in _testing.isas():
        with _testing.use_isa(isa):
            for threads in (1, 3):
                assert_same_bits(disentangled_bias(**p, num_threads=threads), got, f"{isa}, {threads}")


def test_layouts_and_out() -> None:
    p = problem(20, 30, 12)
    expected = disentangled_bias(**p)
    wide = {name: np.zeros((3, p[name].shape[1], 40), F32) for name in ("c2p", "p2c")}
    for name, room in wide.items():
        room[:, :, 3:27] = p[name]
        p[name] = room[:, :, 3:27]
    out = np.zeros((3, 25, 31), F32)[:, ::-1][:, 5:, 1:]
    assert disentangled_bias(**p, out=out) is out
    assert_same_bits(np.ascontiguousarray(out), expected)
    lists = p | {"q_positions": p["q_positions"].tolist(), "k_positions": p["k_positions"].astype(np.int32)}
    assert_same_bits(disentangled_bias(**lists), expected)
    assert disentangled_bias(**(p | {"p2c": p["p2c"][:, :0], "k_positions": []})).shape == (3, 20, 0)


def test_special_values() -> None:
    c2p = np.array([[[np.nan, np.inf, -np.inf]]], F32)
    got = disentangled_bias(c2p, c2p, [1], [1], np.array([1], np.int32), -1.0)
    assert got.tolist() == [[[-np.inf]]]
    nan = disentangled_bias(c2p, -c2p, [1], [1], np.array([1], np.int32), 1.0)
    assert nan.view(np.uint32).tolist() == [[[0x7FC00000]]]


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"c2p": None, "p2c": None}, ValueError, "c2p, p2c: None"),
    ({"c2p": np.zeros((3, 4, 8))}, TypeError, "c2p: dtype float64"),
    ({"c2p": np.zeros((4, 8), F32)}, ValueError, r"c2p: shape \(4, 8\)"),
    ({"c2p": np.zeros((3, 5, 8), F32)}, ValueError, r"c2p: shape \(3, 5, 8\), expected \(3, 4, N\)"),
    ({"p2c": np.zeros((2, 4, 8), F32)}, ValueError, r"p2c: shape \(2, 4, 8\), expected \(3, 4, N\)"),
    ({"p2c": np.zeros((3, 4, 7), F32)}, ValueError, "p2c: .*a last dimension of 8 as c2p has"),
    ({"p2c": np.zeros((3, 4, 16), F32)[:, :, ::2]}, ValueError, "p2c: last stride"),
    ({"q_positions": [0.0, 1.0, 2.0, 3.0]}, TypeError, "q_positions"),
    ({"k_positions": [[0, 1, 2, 3]]}, ValueError, "k_positions: rank 2"),
    ({"q_positions": [0, 1, 2]}, ValueError, r"c2p: shape \(3, 4, 8\), expected \(3, 3, N\)"),
    ({"q_positions": [-1, 0, 1, 2]}, ValueError, "q_positions, k_positions: -1, expected at least 0"),
    ({"q_positions": [0, 1, 2, 9]}, ValueError, "columns: distances up to 3, expected 9"),
    ({"k_positions": [0, 1, 2, 2**62]}, ValueError, "columns: distances up to 3, expected 46116"),
    ({"columns": np.zeros(6, np.int32)}, ValueError, "columns: 6 numbers, expected an odd count"),
    ({"columns": np.zeros(7, np.int64)}, TypeError, "columns: int64"),
    ({"columns": np.full(7, 8, np.int32)}, ValueError, "columns: from 8 to 8, expected 0 to 7"),
    ({"columns": np.full(7, -1, np.int32)}, ValueError, "columns: from -1 to -1"),
    ({"scale": "1"}, TypeError, "scale"),
    ({"scale": math.nan}, ValueError, "scale"),
    ({"out": np.zeros((3, 4, 5), F32)}, ValueError, "out: shape"),
    ({"out": np.zeros((3, 4, 4))}, TypeError, "out: dtype float64"),
    ({"num_threads": 0}, ValueError, "num_threads"),
]


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED)
def test_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        disentangled_bias(**(problem(4, 4, 4) | changes))


def test_out_has_memory_of_its_own() -> None:
    p = problem(4, 4, 2)
    with pytest.raises(ValueError, match="out: shares memory with c2p"):
        disentangled_bias(**p, out=p["c2p"][:, :, :4])


# ---- columns of distances -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", [1, 2, 5, 16])
def test_columns_of_plain_distances(span: int) -> None:
    expected = [min(max(d + span, 0), 2 * span - 1) for d in range(-20, 21)]
    assert distance_columns(20, span).tolist() == expected
    assert distance_columns(0, span).tolist() == [span]


@pytest.mark.parametrize(("span", "furthest"), [(256, 512), (32, 128), (7, 30), (4, 9), (3, 20), (64, 65)])
def test_columns_that_share_by_logarithm(span: int, furthest: int) -> None:
    reach = 3 * furthest
    got = distance_columns(reach, span, furthest)
    assert got.dtype == np.int32 and len(got) == 2 * reach + 1
    middle = span // 2
    for d in range(reach + 1):
        bucket = float(d)
        if d > middle:
            steps = math.log(d / middle) / math.log((furthest - 1) / middle) * (middle - 1)
            bucket = middle + math.ceil(round(steps, 9))
        assert got[reach + d] == min(bucket + span, 2 * span - 1), d
        assert got[reach - d] == max(span - bucket, 0), d


@pytest.mark.parametrize(("span", "furthest"), [(1, 9), (2049, 9000), (8, 5), (8, 0), (8, 1 << 25)])
def test_columns_refused(span: int, furthest: int) -> None:
    with pytest.raises(ValueError, match="span|max_distance"):
        distance_columns(4, span, furthest)


def test_long_distances_with_few_buckets() -> None:
    got = distance_columns(1000, 4, 1 << 24)
    assert got[0] >= 0 and got[-1] <= 7 and (np.diff(got) >= 0).all()
