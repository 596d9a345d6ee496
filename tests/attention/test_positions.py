# SPDX-License-Identifier: MIT
"""Attention of packed sequences by the positions of their tokens, and encoders where masks have holes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import later_families, numpy_families, tiny_families
from support.compare import assert_accurate, assert_same_bits
from support.inputs import generator, normal
from support.variants import assert_one_result

import fastattn as fa
from fastattn import reference
from fastattn.attention.positions import attend_positions
from fastattn.reference_attention import relative_buckets

Array = np.ndarray[Any, Any]
HUGE = 1 << 40

# How far each token stands from the one before it, for n tokens.
STEPS: dict[str, Callable[[int], Array]] = {
    "side by side": lambda n: np.ones(n, np.int64),
    "every other": lambda n: np.full(n, 2),
    "behind the first": lambda n: np.where(np.arange(n) == 1, 6, 1),
    "before the last": lambda n: np.where(np.arange(n) == n - 1, 90, 1),
    "ragged": lambda n: generator("ragged", n).integers(1, 5, n),
    "huge": lambda n: np.where(np.arange(n) % 7 == 5, HUGE, 1),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "window": {"window": (5, 3)},
    "no neighbours": {"window": (0, 0), "scale": 0.7},
    "left": {"window": (9, None), "causal": True},
    "right": {"window": (None, 30), "softcap": 4.0},
    "bias": {"relative_bias": (normal(generator("table"), 4, 8), True, 20)},
    "bias and window": {"relative_bias": (normal(generator("table"), 4, 32), True, 128), "window": (40, 60)},
    "one-way bias": {"relative_bias": (normal(generator("table"), 4, 6), False, 30), "causal": True},
    "causal": {"causal": True, "sinks": normal(generator("sinks"), 4)},
}


def walk(steps: Callable[[int], Array], lengths: list[int]) -> tuple[Array, Array]:
    """cu_seqlens and positions; every sequence begins somewhere else."""
    places = [np.cumsum(steps(n)) + 1000 * i for i, n in enumerate(lengths)]
    return np.concatenate([[0], np.cumsum(lengths)]), np.concatenate(places).astype(np.int64)


def added(positions: Array, heads: int, options: dict[str, Any]) -> Array:
    """(heads, n, n) float64: what distances add to the scores of a sequence, -inf for keys that are not seen."""
    distance = positions[None, :] - positions[:, None]
    left, right = options.get("window", (None, None))
    seen = np.ones(distance.shape, np.bool_)
    if left is not None:
        seen &= distance >= -left
    if right is not None:
        seen &= distance <= right
    if options.get("causal"):
        seen &= distance <= 0
    table, both, furthest = options.get("relative_bias", (np.zeros((heads, 4)), True, 3))
    bias = np.asarray(table, np.float64)[:, relative_buckets(distance, table.shape[1], both, furthest)]
    return np.where(seen, bias, -np.inf)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("step", STEPS)
def test_values(step: str, option: str) -> None:
    options = OPTIONS[option]
    cu, positions = walk(STEPS[step], [2, 60, 1, 110])
    rng = generator("positions", step, option)
    q, k, v = normal(rng, cu[-1], 4, 16), normal(rng, cu[-1], 2, 16), normal(rng, cu[-1], 2, 20)
    got = attend_positions(q, k, v, cu, positions, **options)
    plain = {name: value for name, value in options.items() if name in ("scale", "softcap", "sinks")}

    def naive(dtype: Any = np.float64, order: Any = None) -> Array:
        parts = []
        for start, stop in zip(cu[:-1], cu[1:], strict=True):
            mask = added(positions[start:stop], 4, options).astype(dtype)
            heads_first = (x[start:stop].swapaxes(0, 1) for x in (q, k, v))
            more = {} if order is None else {"order": order}
            parts.append(reference.attention(*heads_first, mask=mask, dtype=dtype, **plain, **more)[0].swapaxes(0, 1))
        return np.concatenate(parts)

    assert_accurate(got, naive(), naive(np.float32), "out", lambda rng: naive(np.float32, rng))


@pytest.mark.parametrize("option", OPTIONS)
def test_isa_kernel_and_threads(option: str) -> None:
    cu, positions = walk(STEPS["ragged"], [1, 2, 3, 0, 70, 1000])
    rng = generator("positions", option)
    q, k, v = normal(rng, cu[-1], 4, 8), normal(rng, cu[-1], 4, 8), normal(rng, cu[-1], 4, 8)

    def call(num_threads: int | None) -> Array:
        result: Array = attend_positions(q, k, v, cu, positions, num_threads=num_threads, **OPTIONS[option])
        return result

    together = assert_one_result(call, option, slow=True)
    for start, stop in zip(cu[:-1], cu[1:], strict=True):
        rows = slice(start, stop)
        alone = attend_positions(q[rows], k[rows], v[rows], [0, stop - start], positions[rows], **OPTIONS[option])
        assert_same_bits(alone, together[rows], f"sequence {start}:{stop} alone")


@pytest.mark.parametrize("option", OPTIONS)
def test_side_by_side_is_no_positions(option: str) -> None:
    cu, positions = walk(STEPS["side by side"], [5, 0, 64, 97])
    rng = generator("side by side", option)
    q, k, v = normal(rng, cu[-1], 4, 16), normal(rng, cu[-1], 4, 16), normal(rng, cu[-1], 4, 16)
    expected = fa.attention_varlen(q, k, v, cu, cu, **OPTIONS[option])
    assert_same_bits(attend_positions(q, k, v, cu, positions, **OPTIONS[option]), expected)
    assert_same_bits(attend_positions(q, k, v, cu, positions - (1 << 45), **OPTIONS[option]), expected, "elsewhere")
    out = np.empty_like(q)
    assert attend_positions(q, k, v, cu, positions, out=out, **OPTIONS[option]) is out
    assert_same_bits(out, expected, "out")


@pytest.mark.parametrize("causal", [False, True])
def test_without_distances_positions_do_not_matter(causal: bool) -> None:
    cu, positions = walk(STEPS["ragged"], [33, 70])
    q = normal(generator("no distances"), cu[-1], 2, 16)
    expected = fa.attention_varlen(q, q, q, cu, cu, causal=causal)
    assert_same_bits(attend_positions(q, q, q, cu, positions, causal=causal), expected)


@pytest.mark.parametrize("run", [48, 96])
def test_runs_far_apart_are_sequences(run: int) -> None:
    """Runs out of each other's window, as long as whole blocks of keys: what each would be alone."""
    runs = 4
    positions = np.arange(run * runs) + np.repeat(np.arange(runs) * HUGE, run)
    q = normal(generator("runs", run), run * runs, 2, 16)
    bounds = np.arange(0, run * runs + 1, run)
    options: dict[str, Any] = {"window": (30, 31), "relative_bias": (normal(generator("runs"), 2, 8), True, 20)}
    expected = fa.attention_varlen(q, q, q, bounds, bounds, **options)
    assert_same_bits(attend_positions(q, q, q, [0, len(q)], positions, **options), expected)


def test_keys_out_of_the_window_may_hold_anything() -> None:
    positions = np.cumsum(STEPS["every other"](100))
    q = normal(generator("poison"), 100, 2, 16)
    k, v = q.copy(), q.copy()
    expected = attend_positions(q, k, v, [0, 100], positions, window=(1, 1))
    k[50], v[50] = np.inf, np.nan
    got = attend_positions(q, k, v, [0, 100], positions, window=(1, 1))
    assert np.isnan(got[50]).all()
    assert_same_bits(np.delete(got, 50, 0), np.delete(expected, 50, 0))


_REFUSED: list[tuple[list[int], Any, str]] = [
    ([0, 3], [0, 1, 1], r"positions: 1 behind 1 at 2"),
    ([0, 3], [5, 1, 2], r"positions: 1 behind 5 at 1"),
    ([0, 1, 3], [9, 4, 3], r"positions: 3 behind 4 at 2"),
    ([0, 3], [0, 1], r"positions: shape \(2,\), expected \(3,\)"),
    ([0, 3], [[0, 1, 2]], r"positions: shape \(1, 3\)"),
    ([0, 3], [0, 1, (1 << 46) + 1], rf"positions: {(1 << 46) + 1}, expected"),
    ([0, 3], [-(1 << 62), 0, 1 << 62], rf"positions: {-(1 << 62)}, expected"),
    ([0, 3], np.array([0, 1, 2**64 - 1], np.uint64), r"positions: 18446744073709551615 does not fit"),
    ([0, 2], [0, 1, 2], r"cu_seqlens: from 0 to 2"),
]


@pytest.mark.parametrize(("cu", "positions", "message"), _REFUSED)
def test_refused(cu: list[int], positions: Any, message: str) -> None:
    q = np.ones((3, 1, 8), np.float32)
    with pytest.raises(ValueError, match=message):
        attend_positions(q, q, q, cu, positions, window=(1, 1))


def test_refused_types() -> None:
    q = np.ones((3, 1, 8), np.float32)
    with pytest.raises(TypeError, match=r"positions: dtype float64, expected integers"):
        attend_positions(q, q, q, [0, 3], [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"k: 2 tokens, expected 3"):
        attend_positions(q, q[:2], q[:2], [0, 3], [0, 1, 2])
    empty = np.ones((0, 1, 8), np.float32)
    assert attend_positions(empty, empty, empty, [0, 0, 0], [], window=(1, 1)).shape == (0, 1, 8)


# ---- encoders --------------------------------------------------------------------------------------------------------

COLUMNS = 90
HOLES = {
    "middle": ~np.isin(np.arange(COLUMNS), range(40, 55)),
    "first": np.isin(np.arange(COLUMNS), [0, *range(30, COLUMNS)]),
    "last": np.isin(np.arange(COLUMNS), [*range(60), COLUMNS - 1]),
    "every other": np.arange(COLUMNS) % 2 == 1,
    "ends": np.isin(np.arange(COLUMNS), [0, COLUMNS - 1]),
    "three in four": np.arange(COLUMNS) % 4 != 2,
}


def expected_states(case: str, ids: Array, mask: Array) -> Array:
    types = np.zeros_like(ids)
    if case in later_families.CASES:
        return later_families.run(case, "Model", ids, mask, types)[0]["last_hidden_state"]
    config, arrays = tiny_families.config(case), tiny_families.tensors(case)
    return numpy_families.hidden_states(config, arrays, ids, mask, types)


@pytest.mark.parametrize("case", ["modernbert", "modernbert_biased", "mpnet_long"])
def test_masks_with_holes(case: str, tmp_path: Path) -> None:
    """Values of NumPy models on padded arrays; a row's bits do not depend on what is beside it or under its holes."""
    families: Any = later_families if case in later_families.CASES else tiny_families
    vocabulary = families.config(case)["vocab_size"]
    mask = np.stack(list(HOLES.values())).astype(np.int64)
    ids = generator("holes", case).integers(5, vocabulary, mask.shape)
    if case == "mpnet_long":
        ids[mask == 0] = 1  # padding: where positions do not go on
    model = fa.load(families.save_folder(tmp_path / case, case))
    got = model(ids, mask).last_hidden_state
    exact = expected_states(case, ids, mask)
    assert np.abs(got - exact)[mask == 1].max() <= 2e-5
    for row in range(len(ids)):
        alone = model(ids[row : row + 1], mask[row : row + 1], num_threads=1).last_hidden_state
        assert_same_bits(alone[0], got[row], f"row {row} alone")
    if case != "mpnet_long":
        assert_same_bits(model(np.where(mask == 1, ids, 3), mask).last_hidden_state, got, "other ids under the holes")
    compact = model(ids[:1, mask[0] == 1]).last_hidden_state[0]
    assert np.abs(compact - got[0, mask[0] == 1]).max() > 1e-3, "the hole is as if it were not there"
