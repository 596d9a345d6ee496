# SPDX-License-Identifier: MIT
"""Disentangled attention as one call beside the operators it is made of; columns of distances by whole numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.compare import assert_same_bits
from support.inputs import generator, normal

from fastattn import PackedLinear, _testing, attention, linear, pack_linear
from fastattn.attention import disentangled_bias, distance_columns
from fastattn.attention.disentangled import attend_disentangled

F32 = np.float32
Problem = dict[str, Any]


def problem(
    lengths: list[int], heads: int, width: int, span: int, furthest: int | None, *, holes: bool = False,
    kinds: tuple[str, ...] = ("c2p", "p2c"), spread: float = 1.0,
) -> Problem:  # fmt: skip
    """What attend_disentangled takes but for ``out``; q, k and v lie side by side as one product leaves them."""
    rng = generator("whole", lengths, heads, width, span, furthest, holes)
    tokens = sum(lengths)
    q, k, v = normal(rng, tokens, 3, heads, width, spread=spread).swapaxes(0, 1)
    each = -(-2 * span // 16)
    panels = {}
    for kind in ("c2p", "p2c"):
        rows = np.zeros((heads, 16 * each, width), F32)
        rows[:, : 2 * span] = normal(rng, heads, 2 * span, width, spread=spread)
        panels[kind] = pack_linear(rows.reshape(-1, width)).arrays()["panels"]
    steps = [rng.integers(1, 4 if holes else 2, n) for n in lengths]
    return {
        "q": q, "k": k, "v": v, "cu_seqlens": np.cumsum([0, *lengths]),
        "positions": np.concatenate([np.zeros(0, np.int64), *(step.cumsum() for step in steps)]),
        "panels": {kind: panels[kind] for kind in kinds}, "span": span, "max_distance": furthest,
        "scale": 0.21 / spread,
    }  # fmt: skip


def one_by_one(p: Problem) -> np.ndarray:
    """The same by linear, disentangled_bias and attention, for each sequence."""
    out = np.zeros(p["q"].shape, F32)
    heads, width, span = *out.shape[1:], p["span"]
    for start, stop in zip(p["cu_seqlens"][:-1], p["cu_seqlens"][1:], strict=True):
        if start == stop:
            continue
        q, k, v = (p[name][start:stop].swapaxes(0, 1) for name in "qkv")
        products: dict[str, Any] = dict.fromkeys(("c2p", "p2c"))
        for kind, panels in p["panels"].items():
            each = len(panels) // heads
            x = q if kind == "c2p" else k
            layers = [
                PackedLinear.from_arrays({"panels": panels[h * each : (h + 1) * each]}, width, 16 * each)
                for h in range(heads)
            ]
            products[kind] = np.stack([linear(x[h], layer)[:, : 2 * span] for h, layer in enumerate(layers)])
        at = p["positions"][start:stop]
        columns = distance_columns(int(at[-1] - at[0]), span, p["max_distance"])
        bias = disentangled_bias(products["c2p"], products["p2c"], at, at, columns, p["scale"])
        out[start:stop] = attention(q, k, v, mask=bias, scale=p["scale"]).swapaxes(0, 1)
    return out


def whole(p: Problem, num_threads: int | None = None) -> np.ndarray:
    out = np.zeros(p["q"].shape, F32)
    attend_disentangled(**p, out=out, num_threads=num_threads)
    return out


SHAPES: list[tuple[list[int], int, int, int, int | None]] = [
    ([1], 1, 1, 1, None),
    ([], 2, 4, 3, None),
    ([0, 3, 0, 0, 17, 0], 2, 12, 8, 30),
    ([16] * 9, 4, 16, 5, None),
    ([64, 65, 63, 1], 3, 24, 20, 64),
    ([129, 2], 2, 64, 256, 512),
    ([300], 2, 33, 301, None),
]


@pytest.mark.parametrize("kinds", [("c2p", "p2c"), ("c2p",), ("p2c",)])
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_bits_of_the_operators(shape: Any, holes: bool, kinds: tuple[str, ...]) -> None:
    p = problem(*shape, holes=holes, kinds=kinds)
    expected = one_by_one(p)
    for isa in _testing.isas():
        with _testing.use_isa(isa):
            for threads in (1, 2):
                assert_same_bits(whole(p, threads), expected, f"{isa}, {threads}")


def test_shared_projections() -> None:
    """Where a model shares its projections, queries and keys of positions may be one array."""
    p = problem([40, 7], 2, 16, 8, 30)
    p["panels"]["p2c"] = p["panels"]["c2p"]
    p["k"] = p["q"]
    assert_same_bits(whole(p), one_by_one(p))


def test_more_products_than_are_kept_at_once() -> None:
    p = problem([310, 290, 5], 8, 8, 320, None)
    assert_same_bits(whole(p, 2), one_by_one(p))


def test_fewer_rows_of_a_long_sequence() -> None:
    p = problem([2500, 30], 1, 8, 16, 64)
    assert_same_bits(whole(p, 2), one_by_one(p))


def test_batch_is_no_matter() -> None:
    together = problem([70, 1, 33], 3, 16, 20, 50, holes=True)
    got, ends = whole(together), together["cu_seqlens"]
    for start, stop in zip(ends[:-1], ends[1:], strict=True):
        alone = {name: together[name][start:stop] for name in ("q", "k", "v", "positions")}
        assert_same_bits(whole({**together, **alone, "cu_seqlens": np.array([0, stop - start])}), got[start:stop])


def test_special_values_stay_in_their_rows() -> None:
    p = problem([20, 5], 2, 8, 6, None)
    expected = whole(p)
    p["q"], p["v"] = p["q"].copy(), p["v"].copy()
    p["q"][3, 1, 2] = np.nan
    p["v"][22, 0, 1] = np.inf
    got = whole(p)
    assert_same_bits(got, one_by_one(p))
    changed = np.zeros(got.shape, np.bool_)
    changed[3, 1] = True
    changed[20:, 0, 1] = True
    assert np.isnan(got[3, 1]).all() and not np.isfinite(got[20:, 0, 1]).any()
    assert_same_bits(got[~changed], expected[~changed])


BASE = ([4, 3], 2, 8, 4, 9)
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"q": np.zeros((7, 2, 9), F32)}, ValueError, r"q: shape \(7, 2, 9\), expected .* \(7, 2, 8\)"),
    ({"k": np.zeros((6, 2, 8), F32)}, ValueError, r"k: shape \(6, 2, 8\)"),
    ({"v": np.zeros((7, 2, 8))}, TypeError, "v: dtype float64"),
    ({"v": np.zeros((7, 2, 16), F32)[:, :, ::2]}, ValueError, "v: last stride"),
    ({"cu_seqlens": np.zeros(0, np.int64)}, ValueError, "cu_seqlens: no numbers"),
    ({"cu_seqlens": np.array([0, 8])}, ValueError, "cu_seqlens: 8 behind 0, expected numbers from 0 to 7"),
    ({"cu_seqlens": np.array([0, 5, 4])}, ValueError, "cu_seqlens: 4 behind 5"),
    ({"cu_seqlens": np.array([-1, 5])}, ValueError, "cu_seqlens: -1"),
    ({"cu_seqlens": np.array([0, 7], np.int32)}, TypeError, "cu_seqlens: dtype int32"),
    ({"positions": np.arange(6)}, ValueError, "positions: 6 numbers, expected 7"),
    ({"positions": np.array([0, 1, 2, 2, 0, 1, 2])}, ValueError, "positions: 2 behind 2, .* that ascend"),
    ({"positions": np.array([3, 2, 1, 0, 0, 1, 2])}, ValueError, "positions: 2 behind 3"),
    ({"positions": np.array([-1, 0, 1, 2, 0, 1, 2])}, ValueError, "positions: -1, expected at least 0"),
    ({"positions": np.array([0, 1, 2, 2**62, 0, 1, 2])}, MemoryError, "disentangled_attention"),
    ({"positions": np.array([-(2**63), 0, 1, 2**63 - 1, 0, 1, 2])}, ValueError, "positions: -92"),
    ({"panels": {}}, ValueError, "c2p, p2c: None"),
    ({"panels": {"c2p": np.zeros((2, 8, 15), F32)}}, ValueError, r"c2p: shape \(2, 8, 15\), expected \(2, 8, 16\)"),
    ({"panels": {"p2c": np.zeros((4, 8, 16), F32)[::2]}}, ValueError, "p2c: expected contiguous memory"),
    ({"panels": {"p2c": np.zeros(2 * 8 * 16 + 17, F32)[1:257].reshape(2, 8, 16)}}, ValueError, "p2c: .*64 bytes"),
    ({"panels": {"p2c": np.zeros((2, 8, 16))}}, TypeError, "p2c: dtype float64"),
    ({"span": 9}, ValueError, r"c2p: shape \(2, 8, 16\), expected \(4, 8, 16\)"),
    ({"span": 1}, ValueError, "span: 1 buckets"),
    ({"span": 0, "max_distance": None}, ValueError, "span: 0, expected 1"),
    ({"max_distance": 3}, ValueError, "max_distance: 3, expected more than 3"),
    ({"max_distance": 2**70}, ValueError, "max_distance: "),
    ({"scale": np.nan}, ValueError, "scale: nan"),
    ({"scale": 1e39}, ValueError, r"scale: 1e\+39"),
    ({"num_threads": 0}, ValueError, "num_threads"),
]


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED)
def test_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    out = np.full((7, 2, 8), 7, F32)
    with pytest.raises(error, match=message):
        attend_disentangled(**{**problem(*BASE), "out": out, **changes})
    assert (out == 7).all()


def test_out_has_memory_of_its_own() -> None:
    p = problem(*BASE)
    shared = np.zeros((7, 2, 8), F32)
    for name in ("q", "k", "v"):
        with pytest.raises(ValueError, match=f"out: shares memory with {name}"):
            attend_disentangled(**{**p, name: shared}, out=shared)
    with pytest.raises(ValueError, match="out: shape|expected .* that of out"):
        attend_disentangled(**p, out=shared[:6])


# ---- columns of distances -------------------------------------------------------------------------------------------


def reaches(k: int, d: int, middle: int, furthest: int) -> bool:
    """Whether k >= log(d / middle) / log(furthest / middle) * (middle - 1), by whole numbers alone."""
    return d ** (middle - 1) * middle**k <= furthest**k * middle ** (middle - 1)


def check_columns(span: int, max_distance: int, distances: list[int]) -> None:
    reach, middle = max(distances), span // 2
    columns = distance_columns(reach, span, max_distance)
    for d in distances:
        up, down = int(columns[reach + d]), int(columns[reach - d])
        if d <= middle:
            assert (up, down) == (min(span + d, 2 * span - 1), span - d)
        elif middle == 1:
            assert (up, down) == (min(span + 1, 2 * span - 1), span - 1)
        elif down > 0:  # one of its own on this side
            k = span - down - middle  # the smallest that does
            assert reaches(k, d, middle, max_distance - 1) and not reaches(k - 1, d, middle, max_distance - 1), d
            assert up == min(2 * span - down, 2 * span - 1)
        else:  # the last or beyond it
            assert not reaches(span - 1 - middle, d, middle, max_distance - 1), d
            assert up == 2 * span - 1


@given(st.data())
def test_columns_by_whole_numbers(data: st.DataObject) -> None:
    span = data.draw(st.integers(2, 80))
    furthest = data.draw(st.integers(span // 2 + 2, 1 << data.draw(st.integers(7, 17))))
    distances = st.integers(0, min(3 * furthest, 200_000))
    check_columns(span, furthest, data.draw(st.lists(distances, min_size=1, max_size=12)))


@pytest.mark.parametrize(
    ("span", "ratio", "steps"), [(10, 2, 4), (34, 2, 16), (8, 3, 3), (14, 5, 6), (130, 2, 9), (258, 4, 8), (7, 10, 2)]
)
def test_columns_of_distances_that_lie_on_a_boundary(span: int, ratio: int, steps: int) -> None:
    """furthest = middle * ratio^steps: many d = middle * ratio^i have a whole logarithm; their neighbours do not."""
    middle = span // 2
    furthest = middle * ratio**steps
    on = [middle * ratio**i for i in range(steps + 1)]
    check_columns(span, furthest + 1, [d + off for d in on for off in (-1, 0, 1) if d + off >= 0])


@pytest.mark.parametrize(("span", "furthest"), [(2048, 1 << 24), (2048, 1026), (2047, 4096), (1024, 131_072)])
def test_columns_of_many_buckets(span: int, furthest: int) -> None:
    rng = generator("many buckets", span, furthest)
    check_columns(span, furthest, [furthest - 2, furthest - 1, *rng.integers(span // 2, 3 * span, 4).tolist()])


@pytest.mark.parametrize(
    ("reach", "span", "name"), [(-1, 4, "reach"), (1 << 40, 4, "reach"), (3, 0, "span"), (3, 1 << 40, "span")]
)
def test_plain_columns_refused(reach: int, span: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: "):
        distance_columns(reach, span)
