# SPDX-License-Identifier: MIT
"""Vectors in fewer bits: the formula byte by byte, one set of bytes, what lies outside, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import inputs
from support.compare import assert_same_bits
from support.inputs import generator, normal
from support.refusals import check_refused
from support.variants import assert_one_result

from fastattn import ops
from fastattn.text.precision import PRECISIONS, check_precision, quantize, quantized_width

F32 = np.float32


def by_formula(x: np.ndarray, ranges: np.ndarray, precision: str) -> np.ndarray:
    """The same in NumPy: float32 throughout, each step rounded once."""
    with np.errstate(all="ignore"):
        steps = (ranges[1] - ranges[0]) / F32(255)
        places = np.floor((x - ranges[0]) / np.where(steps == 0, F32(1), steps))
        places = np.clip(np.where(np.isnan(places), 0, places), 0, 255)
    return (places - 128).astype(np.int8) if precision == "int8" else places.astype(np.uint8)


def vectors(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = generator("quantized", n, d)
    x = normal(rng, n, d)
    ranges = np.stack([np.quantile(normal(rng, 60, d), q, axis=0).astype(F32) for q in (0.05, 0.95)])
    return x, ranges


@pytest.mark.parametrize("precision", ["int8", "uint8"])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (3, 15), (40, 16), (5, 17), (100, 384), (1, 1000)])
def test_bytes_by_range(precision: str, n: int, d: int) -> None:
    x, ranges = vectors(n, d)
    whole = assert_one_result(lambda num_threads: quantize(x, precision, ranges, num_threads), precision, kernels=())
    assert_same_bits(whole, by_formula(x, ranges, precision), precision)
    for i in (0, n - 1):
        assert_same_bits(quantize(x[i : i + 1], precision, ranges), whole[i : i + 1], f"row {i} alone")
    for lay in (inputs.sliced, inputs.reversed_rows, inputs.unaligned):
        assert_same_bits(quantize(lay(x), precision, ranges), whole, lay.__name__)
        out = lay(np.zeros((n, d), np.int8)).view(precision)
        assert ops.quantize(x, lay(ranges), precision, out=out) is out
        assert_same_bits(np.ascontiguousarray(out), whole, f"out {lay.__name__}")


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_every_step_and_its_edges(precision: str) -> None:
    """Each of the 256 places, its first number, the one before and the one after it."""
    ranges = np.repeat(F32([[-0.31], [0.77]]), 1, axis=1)
    step = (ranges[1] - ranges[0]) / F32(255)
    edges = (ranges[0] + np.arange(-3, 260, dtype=F32) * step).astype(F32)
    x = np.concatenate([edges, np.nextafter(edges, F32(-9)), np.nextafter(edges, F32(9)), edges + step / 2])[:, None]
    got = quantize(x, precision, ranges)
    assert_same_bits(got, by_formula(x, ranges, precision), precision)
    assert len(np.unique(got)) == 256


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_outside_the_ranges_and_not_a_number(precision: str) -> None:
    ranges = F32([[-1, -1, 5, 0, -3e38], [1, 1, 5, 1e-45, 3e38]])
    x = F32([[-9, 9, 4, 0, 0], [np.inf, -np.inf, 5, 1, 3e38], [np.nan] * 5, [-3e38, 3e38, 6.5, -1, -3e38],
             [1e30, -1e30, 400, 1e-45, np.inf]])  # fmt: skip
    got = quantize(x, precision, ranges)
    assert_same_bits(got, by_formula(x, ranges, precision), precision)
    low = -128 if precision == "int8" else 0
    assert got[0, :2].tolist() == got[1, 1::-1].tolist() == [low, low + 255]
    assert (got[2] == low).all()
    assert (got[:, 2] - np.int16(low)).tolist() == [0, 0, 0, 1, 255]  # a range of one number: steps of 1


@pytest.mark.parametrize("d", [1, 7, 8, 9, 64, 385])
def test_signs(d: int) -> None:
    x = normal(generator("signs", d), 50, d)
    x[0], x[1, 0], x[2, 0], x[3, 0], x[4, 0], x[5, 0] = 0, -0.0, np.nan, np.inf, -np.inf, 1e-45
    x[6, 0] = np.array(0xFFC00000, np.uint32).view(F32)  # NaN with a sign
    with np.errstate(invalid="ignore"):
        expected = np.packbits(x > 0, axis=-1)
    assert_same_bits(quantize(x, "ubinary"), expected, "ubinary")
    assert_same_bits(quantize(x, "binary"), (expected.astype(np.int16) - 128).astype(np.int8), "binary")
    assert_same_bits(quantize(inputs.sliced(x), "ubinary"), expected, "strided")
    assert quantized_width("binary", d) == quantized_width("ubinary", d) == expected.shape[1]
    assert quantized_width("int8", d) == quantized_width("float32", d) == d


def test_float32_is_what_came() -> None:
    x = normal(generator("as is"), 3, 4)
    assert quantize(x, "float32") is x


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_vectors(precision: str) -> None:
    ranges = np.stack([np.zeros(20, F32), np.ones(20, F32)]) if precision in ("int8", "uint8") else None
    got = quantize(np.zeros((0, 20), F32), precision, ranges)
    assert got.shape == (0, quantized_width(precision, 20))
    empty = quantize(np.zeros((3, 0), F32), precision, None if ranges is None else ranges[:, :0])
    assert empty.shape == (3, 0)


def test_ranges_in_other_forms() -> None:
    x, ranges = vectors(4, 5)
    expected = quantize(x, "int8", ranges)
    for other in (ranges.astype(np.float64), ranges.tolist(), np.asfortranarray(ranges)):
        assert_same_bits(quantize(x, "int8", other), expected, type(other).__name__)
    whole = quantize(x, "uint8", np.array([[-1] * 5, [1] * 5]))
    assert_same_bits(whole, by_formula(x, F32([[-1] * 5, [1] * 5]), "uint8"), "integers")


OK = np.stack([np.zeros(6, F32), np.ones(6, F32)])
HOLE, TURNED = OK.copy(), OK.copy()
HOLE[1, 4], TURNED[0, 2] = np.nan, 2
# fmt: off
REFUSED: list[tuple[dict[str, Any], Any, list[str]]] = [
    ({"precision": "int4"}, ValueError, ["precision", "'int4'", "'ubinary'"]),
    ({"precision": None}, ValueError, ["precision", "None"]),
    ({"precision": ["int8"]}, ValueError, ["precision"]),
    ({"precision": np.int8}, ValueError, ["precision"]),
    ({"ranges": None}, ValueError, ["ranges", "(2, 6)", "'int8'", "v.min(axis=0)"]),
    ({"ranges": None, "precision": "uint8"}, ValueError, ["ranges", "'uint8'"]),
    *[({"precision": name}, ValueError, ["ranges", f"{name!r}", "None"]) for name in ("float32", "binary", "ubinary")],
    ({"ranges": OK[:, :5]}, ValueError, ["ranges", "(2, 5)", "(2, 6)"]),
    ({"ranges": OK.T}, ValueError, ["ranges", "(6, 2)"]),
    ({"ranges": OK[0]}, ValueError, ["ranges", "(6,)"]),
    ({"ranges": HOLE}, ValueError, ["ranges", "nan", "(1, 4)"]),
    ({"ranges": np.full((2, 6), np.inf)}, ValueError, ["ranges"]),
    ({"ranges": OK.astype(np.float64) * 1e300}, ValueError, ["ranges", "inf"]),
    ({"ranges": TURNED}, ValueError, ["ranges", "2.0", "1.0", "dimension 2"]),
    ({"ranges": OK.astype(complex)}, TypeError, ["ranges", "complex"]),
    ({"ranges": OK > 0}, TypeError, ["ranges", "bool"]),
    ({"ranges": "minmax"}, TypeError, ["ranges"]),
    ({"ranges": [[0.0] * 6, [1.0] * 5]}, ValueError, ["ranges"]),
    ({"ranges": [["a"] * 6] * 2}, TypeError, ["ranges"]),
    ({"ranges": {"min": 0}}, TypeError, ["ranges"]),
    ({"ranges": [[10 ** 400] * 6, [1] * 6]}, TypeError, ["ranges"]),
    ({"vectors": np.zeros((3, 6))}, TypeError, ["vectors", "float64"]),
    ({"vectors": np.zeros(6, F32)}, ValueError, ["vectors", "(6,)"]),
    ({"vectors": np.zeros((3, 7), F32)}, ValueError, ["ranges", "(2, 6)", "(2, 7)"]),
]
# fmt: on


@pytest.mark.parametrize(("spoil", "error", "words"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_refused(spoil: dict[str, Any], error: Any, words: list[str]) -> None:
    arguments = {"vectors": np.ones((3, 6), F32), "precision": "int8", "ranges": OK} | spoil
    check_refused(lambda given: quantize(**given), arguments, error, words)
    if "vectors" not in spoil:
        known = {"precision": arguments["precision"], "ranges": arguments["ranges"]}
        check_refused(lambda given: check_precision(**given, dim=6), known, error, words)


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        ({"dtype": "int16"}, ValueError, ["dtype", "int16"]),
        ({"ranges": OK[:1]}, ValueError, ["ranges", "(1, 6)"]),
        ({"ranges": OK.astype(np.float64)}, TypeError, ["ranges", "float64"]),
        ({"x": np.ones(6, F32)}, ValueError, ["x", "(6,)"]),
        ({"out": np.zeros((3, 6), np.uint8)}, TypeError, ["out", "uint8", "int8"]),
        ({"out": np.zeros((6, 3), np.int8)}, ValueError, ["out", "(6, 3)"]),
        ({"out": np.zeros((3, 12), np.int8)[:, ::2]}, ValueError, ["out", "stride"]),
        ({"num_threads": 0}, ValueError, ["num_threads"]),
    ],
)
def test_operator_refused(spoil: dict[str, Any], error: Any, words: list[str]) -> None:
    arguments = {"x": np.ones((3, 6), F32), "ranges": OK} | spoil
    check_refused(lambda given: ops.quantize(**given), arguments, error, words)


@pytest.mark.parity
@pytest.mark.parametrize("precision", PRECISIONS)
def test_bytes_of_sentence_transformers(precision: str) -> None:
    theirs = pytest.importorskip("sentence_transformers.util").quantize_embeddings
    for n, d in ((50, 384), (7, 13), (1, 8), (2000, 33)):
        x, ranges = vectors(n, d)
        ranges[1, 0] = ranges[0, 0]
        given = ranges if precision in ("int8", "uint8") else None
        assert_same_bits(quantize(x, precision, given), theirs(x, precision, ranges=given), f"{n} x {d}")
