# SPDX-License-Identifier: MIT
"""fa.similarity: right under the accuracy rule, the order of its sums, one set of bits, the best of many, refusals."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import inputs
from support.compare import assert_accurate, assert_same_bits
from support.dlpack import Producer
from support.inputs import generator, normal
from support.refusals import check_refused
from support.variants import assert_one_result

import fastattn as fa
from fastattn import _testing, reference

F32 = np.float32
METRICS = ["cosine", "dot", "euclidean", "manhattan"]


def half_bits(x: np.ndarray) -> np.ndarray:
    """bfloat16 as uint16, cut."""
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def accurate(a: np.ndarray, b: np.ndarray, metric: str) -> np.ndarray:
    got = fa.similarity(a, b, metric)
    assert_accurate(
        got,
        reference.similarity(a, b, metric),
        reference.similarity(a, b, metric, F32),
        metric,
        lambda rng: reference.similarity(a, b, metric, F32, rng),
    )
    return got


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [1, 2, 15, 16, 17, 31, 64, 100, 384, 1021])
def test_accuracy(metric: str, d: int) -> None:
    rng = generator("similarity", metric, d)
    for n, m in ((1, 1), (1, 40), (5, 17), (40, 1), (33, 70)):
        accurate(normal(rng, n, d), normal(rng, m, d), metric)


CASES = ["equal", "one dominant", "cancelling", "near", "mixed sizes"]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", CASES)
def test_adversarial(metric: str, case: str) -> None:
    rng = generator("similarity case", metric, case)
    a, b = normal(rng, 30, 200), normal(rng, 45, 200)
    if case == "equal":
        a[...], b[...] = 0.3, -0.7
    elif case == "one dominant":
        a[:, 7] *= F32(1e6)
    elif case == "cancelling":
        a[:, 1::2], b[:, 1::2] = a[:, ::2], -b[:, ::2] + normal(rng, 45, 100) * F32(1e-3)
    elif case == "near":  # where |a|^2 + |b|^2 - 2 a b keeps no digit
        a = a[:1] + F32(100) + normal(rng, 30, 200) * F32(1e-4)
        b = a[:1] + normal(rng, 45, 200) * F32(1e-4)
    else:
        a *= (10.0 ** rng.integers(-8, 8, (30, 1))).astype(F32)
        b *= (10.0 ** rng.integers(-8, 8, (45, 1))).astype(F32)
    accurate(a, b, metric)


@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-30, 1e-20, 1e-13, 1e-12, 1e18, 1e30, 1e37])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_squares_outside_the_range_of_floats(metric: str, size: float) -> None:
    """Lengths and distances have no such range: as the oracle has them in double precision."""
    rng = generator("sizes", size)
    a, b = normal(rng, 9, 70), normal(rng, 20, 70)
    large = (a * size).astype(F32), (b * size).astype(F32)
    for x, y in ((large[0], b), (a, large[1]), large):
        got, ref = fa.similarity(x, y, metric), reference.similarity(x, y, metric)
        assert np.isfinite(got).all()
        sizes = np.abs(ref) if metric == "euclidean" else np.abs(ref).max()
        assert (np.abs(got - ref) <= 4e-7 * sizes + 1e-45).all(), np.abs(got - ref).max()  # the smallest denormal


def test_by_hand() -> None:
    a, b = F32([[3, 4], [0, 0]]), F32([[3, 4], [-6, -8], [4, -3], [0, 0]])
    assert_same_bits(fa.similarity(a, b), F32([[1, -1, 0, 0], [0, 0, 0, 0]]), "cosine")
    assert_same_bits(fa.similarity(a, b, "dot"), F32([[25, -50, 0, 0], [0, 0, 0, 0]]), "dot")
    assert fa.similarity(a, b, "euclidean").tolist()[0] == [0, -15, -(F32(50) ** F32(0.5)), -5]
    assert_same_bits(fa.similarity(a, b, "manhattan"), F32([[0, -21, -8, -7], [-7, -14, -7, 0]]), "manhattan")
    for metric in METRICS:  # no -0, which would print as such
        same = fa.similarity(b[3:], b[3:], metric)
        assert not same.view(np.uint32).any()


@pytest.mark.parametrize("metric", ["dot", "euclidean", "manhattan"])
@pytest.mark.parametrize("d", [1, 5, 16, 33, 100, 384])
def test_canonical_order(metric: str, d: int) -> None:
    """16 sums over l, l + 16, ..., then neighbours: to the bit; with 12-bit inputs a cast is the only rounding."""
    rng = generator("canonical similarity", d)
    a, b = ((rng.integers(-2048, 2049, (n, d)) / 1024).astype(F32) for n in (7, 21))
    width = -(-d // 16) * 16
    x, y = (np.pad(v, ((0, 0), (0, width - d))) for v in (a, b))
    sums = np.zeros((7, 21, 16), F32)
    for i in range(0, width, 16):
        left, right = x[:, None, i : i + 16].astype(np.float64), y[None, :, i : i + 16].astype(np.float64)
        terms = {"dot": left * right, "euclidean": (left - right) ** 2, "manhattan": np.abs(left - right)}[metric]
        sums = (sums.astype(np.float64) + terms).astype(F32)
    while sums.shape[-1] > 1:
        sums = sums[..., ::2] + sums[..., 1::2]
    total = sums[..., 0]
    expected = {"dot": total, "manhattan": 0 - total, "euclidean": 0 - np.sqrt(np.abs(total))}[metric]
    assert_same_bits(fa.similarity(a, b, metric), expected, metric)
    if metric == "dot":
        squares = [np.diagonal(fa.similarity(v, v, "dot")) for v in (a, b)]
        length = np.sqrt(np.multiply.outer(*squares))
        with np.errstate(invalid="ignore"):
            cosine = np.where(length > 0, total / length, F32(0))
        assert_same_bits(fa.similarity(a, b), cosine, "cosine")


@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_are_not_numbers(metric: str) -> None:
    a = normal(generator("special"), 20, 40)
    a[1, 3], a[5, 0], a[6, 39] = np.nan, np.inf, -np.inf
    b = normal(generator("special", 1), 18, 40)
    b[4, 10], b[7, 0] = np.nan, np.inf
    got = fa.similarity(a, b, metric)
    assert (got[np.isnan(got)].view(np.uint32) == 0x7FC00000).all()
    assert np.isnan(got[1]).all() and np.isnan(got[:, 4]).all()
    numbers = np.delete(np.delete(got, [1, 5, 6], 0), [4, 7], 1)
    assert np.isfinite(numbers).all()
    if metric == "cosine":
        assert np.isnan(got[[5, 6]]).all() and np.isnan(got[:, 7]).all()
    elif metric == "dot":
        assert np.isinf(got[5, [0, 1, 2]]).all()
    else:
        assert np.isnan(got[5, 7])  # inf - inf
        assert np.isneginf(got[5, [0, 1, 2]]).all() and np.isneginf(got[0, 7])


def test_a_row_beside_itself() -> None:
    x = normal(generator("itself"), 300, 77) * (10.0 ** generator("e").integers(-11, 15, (300, 1))).astype(F32)
    assert (np.diagonal(fa.similarity(x, x)) == 1).all()
    assert (np.diagonal(fa.similarity(x, x, "euclidean")) == 0).all()


# ---- one set of bits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "m", "d"), [(1, 100, 77), (3, 37, 384), (70, 33, 50), (40, 2, 129), (13, 90, 5)])
def test_isa_threads_and_place(metric: str, n: int, m: int, d: int) -> None:
    rng = generator("bits", metric, n, m)
    a, b = normal(rng, n, d), normal(rng, m, d)
    a[0], b[-1] = a[0] * F32(1e25), 0
    if n > 2:
        a[1, 0], a[2] = np.nan, b[0]
    whole = assert_one_result(
        lambda num_threads: fa.similarity(a, b, metric, num_threads=num_threads), metric, kernels=()
    )
    assert_same_bits(np.ascontiguousarray(fa.similarity(b, a, metric).T), whole, "sides changed")
    for i in (0, n // 2, n - 1):
        assert_same_bits(fa.similarity(a[i], b, metric), whole[i : i + 1], f"row {i} alone")
    for j in (0, m - 1):
        assert_same_bits(fa.similarity(a, b[j], metric), np.ascontiguousarray(whole[:, j : j + 1]), f"column {j} alone")
    for step in (1, 5, 16, 23):
        pieces = [fa.similarity(a, b[j : j + step], metric) for j in range(0, m, step)]
        assert_same_bits(np.concatenate(pieces, axis=1), whole, f"columns by {step}")
    for lay in (inputs.sliced, inputs.reversed_rows, inputs.unaligned):
        out = lay(np.zeros((n, m), F32))
        assert fa.similarity(lay(a), lay(b), metric, out=out) is out
        assert_same_bits(np.ascontiguousarray(out), whole, lay.__name__)
    assert_same_bits(fa.similarity(Producer(a), memoryview(b), metric), whole, "other arrays")
    assert_same_bits(fa.similarity(np.broadcast_to(a[0], (4, d)), b, metric)[3:], whole[:1], "a row of stride 0")


@pytest.mark.parametrize("isa", _testing.isas())
@pytest.mark.parametrize("metric", METRICS)
def test_every_height_of_a_tile(metric: str, isa: str) -> None:
    rng = generator("tiles", metric)
    a, b = normal(rng, 19, 37), normal(rng, 50, 37)
    b[20] *= F32(1e30)
    one_by_one = np.concatenate([fa.similarity(row, b, metric) for row in a])
    with _testing.use_isa(isa):
        for n in range(1, 20):
            assert_same_bits(fa.similarity(a[:n], b, metric), one_by_one[:n], f"{n} rows")


@pytest.mark.parametrize("metric", METRICS)
def test_many_rows_of_either_side(metric: str) -> None:
    """More than are held at a time, more than a task takes: rows of the corners beside themselves alone."""
    rng = generator("many", metric)
    few, many = normal(rng, 2, 3), normal(rng, 20_000, 3)
    whole = assert_one_result(
        lambda num_threads: fa.similarity(few, many, metric, num_threads=num_threads), metric, kernels=(), slow=True
    )
    turned = fa.similarity(many, few, metric, num_threads=2)
    assert_same_bits(np.ascontiguousarray(turned.T), whole, "sides changed")
    wide = fa.similarity(many, many[:20], metric)
    for i in (0, 8191, 8192, 19_999):
        assert_same_bits(wide[i : i + 1], fa.similarity(many[i], many[:20], metric), f"row {i}")


@pytest.mark.parametrize("metric", METRICS)
def test_storage_types_are_widened(metric: str) -> None:
    rng = generator("stored", metric)
    a, b = normal(rng, 9, 45), normal(rng, 30, 45)
    a16, b16, bits = a.astype(np.float16), b.astype(np.float16), half_bits(b)
    wide = {"f16": b16.astype(F32), "bf16": (bits.astype(np.uint32) << 16).view(F32)}
    whole = fa.similarity(a16.astype(F32), wide["f16"], metric)
    assert_one_result(lambda num_threads: fa.similarity(a16, b16, metric, num_threads=num_threads), metric, kernels=())
    assert_same_bits(fa.similarity(a16, b16, metric), whole, "float16")
    assert_same_bits(fa.similarity(a, bits, metric), fa.similarity(a, wide["bf16"], metric), "float32 beside bfloat16")
    assert_same_bits(fa.similarity(bits, a16, metric), fa.similarity(wide["bf16"], a16.astype(F32), metric), "mixed")


@pytest.mark.parametrize("metric", METRICS)
def test_sizes_of_nothing(metric: str) -> None:
    z = lambda *shape: np.zeros(shape, F32)  # noqa: E731
    assert fa.similarity(z(0, 8), z(5, 8), metric).shape == (0, 5)
    assert fa.similarity(z(5, 8), z(0, 8), metric).shape == (5, 0)
    assert fa.similarity(z(2, 0), z(3, 0), metric).tolist() == [[0] * 3] * 2
    for n, m in ((0, 5), (5, 0), (0, 0)):
        best = fa.similarity(z(n, 8), z(m, 8), metric, top_k=3)
        assert best.scores.shape == best.indices.shape == (n, min(3, m))


# ---- the best --------------------------------------------------------------------------------------------------------


def expected_best(whole: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """By a stable sort of all of them: NaN last, ties by index."""
    order = np.argsort(np.where(np.isnan(whole), np.inf, -whole.astype(np.float64)), axis=1, kind="stable")
    for row, places in zip(whole, order, strict=True):  # -inf and NaN share a key
        last = np.isnan(row[places])
        places[:] = np.concatenate([places[~last], places[last]])
    order = order[:, :k]
    return np.take_along_axis(whole, order, 1), order.astype(np.int64)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 2, 10, 100, 899, 900, 5000])
def test_top_k(metric: str, k: int) -> None:
    rng = generator("top", metric, k)
    a, b = normal(rng, 7, 20), normal(rng, 900, 20)
    b[100:200] = b[:100]  # ties
    b[50], b[450, 3], b[451, 3], b[700] = np.nan, np.inf, -np.inf, 0
    a[3], a[4, 0] = 0, np.nan
    best = fa.similarity(a, b, metric, top_k=k)
    assert type(best).__name__ == "TopK" and best.indices.dtype == np.int64
    assert_same_bits(tuple(best), expected_best(fa.similarity(a, b, metric), k), f"{metric} {k}")
    again = assert_one_result(
        lambda num_threads: tuple(fa.similarity(a, b, metric, k, num_threads=num_threads)), metric, kernels=()
    )
    assert_same_bits(again, tuple(best), "threads and ISA")


@pytest.mark.parametrize("order", ["ascending", "descending", "equal", "random", "few values"])
@pytest.mark.parametrize("k", [1, 15, 400])
def test_top_k_of_scores_in_any_order(order: str, k: int) -> None:
    m = 150_000  # several blocks
    rng = generator("orders", order)
    scores = rng.standard_normal(m).astype(F32)
    scores = {
        "ascending": np.sort(scores), "descending": np.sort(scores)[::-1], "equal": np.ones(m, F32), "random": scores,
        "few values": rng.integers(0, 3, m).astype(F32),
    }[order]  # fmt: skip
    best = fa.similarity(F32([1]), np.ascontiguousarray(scores)[:, None], "dot", top_k=k)
    assert_same_bits(tuple(best), expected_best(scores[None], k), order)


def test_top_k_of_more_queries_than_share_a_pass() -> None:
    rng = generator("queries")
    a, b = normal(rng, 700, 6), normal(rng, 3000, 6)
    whole = fa.similarity(a, b)
    best = fa.similarity(a, b, top_k=5)
    assert_same_bits(tuple(best), expected_best(whole, 5), "700 queries")
    few = fa.similarity(b, a[:3], top_k=2)
    assert_same_bits(tuple(few), expected_best(fa.similarity(b, a[:3]), 2), "many queries, few rows")


def test_top_k_into_given_arrays() -> None:
    a, b = normal(generator("out"), 5, 12), normal(generator("out", 1), 40, 12)
    expected = fa.similarity(a, b, top_k=4)
    out = inputs.sliced(np.zeros((5, 4), F32)), np.zeros((5, 9), np.int64)[:, 2:6]
    got = fa.similarity(a, b, top_k=4, out=out)
    assert got.scores is out[0] and got.indices is out[1]
    assert_same_bits((np.ascontiguousarray(out[0]), np.ascontiguousarray(out[1])), tuple(expected), "out")


def test_top_k_over_a_mapped_file_in_bounded_memory(tmp_path: Path) -> None:
    m, d = 60_000, 128
    mapped = np.memmap(tmp_path / "vectors", np.float16, "w+", shape=(m, d))
    rng = generator("mapped")
    for start in range(0, m, 10_000):
        mapped[start : start + 10_000] = normal(rng, 10_000, d)
    queries = normal(rng, 300, d)
    best = fa.similarity(queries, mapped, top_k=3)
    tracemalloc.start()
    again = fa.similarity(queries, mapped, top_k=3)  # all scores would be 72 MB
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 << 20, most
    assert_same_bits(tuple(again), tuple(best), "again")
    for i in (0, 299):
        whole = fa.similarity(queries[i], mapped)
        assert_same_bits((best.scores[i : i + 1], best.indices[i : i + 1]), expected_best(whole, 3), f"query {i}")


# ---- refusals --------------------------------------------------------------------------------------------------------

Z = np.zeros((4, 8), F32)
# fmt: off
REFUSED: list[tuple[dict[str, Any], Any, list[str]]] = [
    ({"a": Z.astype(np.float64)}, TypeError, ["a", "float64", "float32"]),
    ({"b": Z.astype(np.int8)}, TypeError, ["b", "int8"]),
    ({"b": Z.astype(np.int64)}, TypeError, ["b", "int64"]),
    ({"a": Z.tolist()}, TypeError, ["a", "list"]),
    ({"b": None}, TypeError, ["b", "NoneType"]),
    ({"b": "text"}, TypeError, ["b", "str"]),
    ({"a": Z.astype(">f4")}, TypeError, ["a", "foreign byte order"]),
    ({"a": np.ma.masked_array(Z)}, TypeError, ["a", "masked"]),
    ({"a": Z[None]}, ValueError, ["a", "(1, 4, 8)"]),
    ({"a": 1.0}, TypeError, ["a", "float"]),
    ({"a": np.zeros((), F32)}, ValueError, ["a", "()"]),
    ({"b": Z[:, ::2]}, ValueError, ["b", "4", "8"]),
    ({"b": np.zeros((4, 16), F32)[:, ::2]}, ValueError, ["b", "stride"]),
    ({"b": np.zeros((5, 9), F32)}, ValueError, ["b", "9", "8"]),
    ({"metric": "cos"}, ValueError, ["metric", "'cos'", "'cosine'", "'manhattan'"]),
    ({"metric": None}, ValueError, ["metric", "None"]),
    ({"metric": ["dot"]}, ValueError, ["metric"]),
    ({"metric": 1}, ValueError, ["metric"]),
    ({"top_k": 0}, ValueError, ["top_k", "0", "1"]),
    ({"top_k": -3}, ValueError, ["top_k", "-3"]),
    ({"top_k": 2.0}, TypeError, ["top_k", "float"]),
    ({"top_k": True}, TypeError, ["top_k", "bool"]),
    ({"top_k": "5"}, TypeError, ["top_k", "str"]),
    ({"num_threads": 0}, ValueError, ["num_threads"]),
    ({"num_threads": "2"}, TypeError, ["num_threads"]),
    ({"out": np.zeros((4, 3), F32)}, ValueError, ["out", "(4, 3)", "(4, 4)"]),
    ({"out": np.zeros((4, 4))}, TypeError, ["out", "float64"]),
    ({"out": np.zeros((4, 8), F32)[:, ::2]}, ValueError, ["out", "stride"]),
    ({"out": np.broadcast_to(F32(0), (4, 4))}, ValueError, ["out"]),
    ({"a": Z, "out": Z[:, :4]}, ValueError, ["out", "a"]),
    ({"top_k": 2, "out": np.zeros((4, 2), F32)}, TypeError, ["out", "pair"]),
    ({"top_k": 2, "out": (np.zeros((4, 2), F32),)}, TypeError, ["out", "pair"]),
    ({"top_k": 2, "out": (np.zeros((4, 2), F32), np.zeros((4, 2), np.int32))}, TypeError, ["out", "int32", "int64"]),
    ({"top_k": 9, "out": (np.zeros((4, 9), F32), np.zeros((4, 9), np.int64))}, ValueError, ["out", "(4, 9)", "(4, 4)"]),
]
# fmt: on


@pytest.mark.parametrize(("spoil", "error", "words"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_refused(spoil: dict[str, Any], error: Any, words: list[str]) -> None:
    arguments = {"a": np.ones((4, 8), F32), "b": np.ones((4, 8), F32)} | spoil
    check_refused(lambda given: fa.similarity(given.pop("a"), given.pop("b"), **given), dict(arguments), error, words)


# ---- another library's -----------------------------------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize("metric", METRICS)
def test_values_of_sentence_transformers(metric: str) -> None:
    util = pytest.importorskip("sentence_transformers.util")
    name = {"cosine": "cos_sim", "dot": "dot_score", "euclidean": "euclidean_sim", "manhattan": "manhattan_sim"}[metric]
    theirs = getattr(util, name)
    rng = generator("sentence-transformers", metric)
    a, b = normal(rng, 30, 384), normal(rng, 50, 384)
    a[3], b[4], b[5] = 0, 0, a[6]
    b[7] *= F32(1e-14)  # shorter than 1e-12
    for x, y in ((a, b), (a[0], b), (a, b[0])):
        # in double precision but for the widest metric's own rounding: cdist gives what it is given
        expected = theirs(x.astype(np.float64), y.astype(np.float64)).numpy()
        got = fa.similarity(x, y, metric)
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 1e-6 * np.abs(expected).max()
    queries, docs = normal(rng, 20, 384), normal(rng, 500, 384)  # no two alike
    best = fa.similarity(queries, docs, metric, top_k=5)
    for i, hits in enumerate(util.semantic_search(queries, docs, top_k=5, score_function=theirs)):
        assert [hit["corpus_id"] for hit in hits] == best.indices[i].tolist()
