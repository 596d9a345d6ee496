# SPDX-License-Identifier: MIT
"""A program does what its operators do one by one, bit for bit, and refuses what does not fit before it runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fastattn.program import Program

import fastattn as fa
from fastattn import ops

H, HEADS, T = 40, 5, 23
CU = np.array([0, 7, 7, 20, 23])
RNG = np.random.default_rng(5)


def floats(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return RNG.standard_normal(shape, dtype=np.float32)


QKV = fa.pack_linear(floats(3 * H, H), floats(3 * H))
DOWN = fa.pack_linear(floats(H, H))
WEIGHT, SHIFT, BIAS = floats(H), floats(H), floats(HEADS, 9)


def program(**options: Any) -> Program:
    steps = Program([H, 3 * H, H, H])
    steps.linear(0, QKV, 1)
    steps.attention(1, (0, H, 2 * H), HEADS, H // HEADS, 2, scale=0.5, **options)
    steps.linear(2, DOWN, 3, "gelu")
    steps.norm(3, WEIGHT, SHIFT, 1e-5, 0, residual=0)
    steps.norm(0, WEIGHT, None, 1e-6, 0, rms=True)
    return steps


def arrays(tokens: int = T) -> list[np.ndarray[Any, Any]]:
    return [floats(tokens, H), *(np.full((tokens, width), np.nan, np.float32) for width in (3 * H, H, H))]


@pytest.mark.parametrize("options", [{}, {"window": (3, 1)}, {"window": (0, -1)}, {"distance_bias": BIAS}])
@pytest.mark.parametrize("threads", [1, 2])
def test_it_does_what_the_operators_do(options: dict[str, Any], threads: int) -> None:
    slots = arrays()
    x = slots[0].copy()
    steps = program(**options)
    assert len(steps) == 5
    steps.run(slots, CU, threads)

    q, k, v = ops.linear(x, QKV).reshape(T, 3, HEADS, H // HEADS).swapaxes(0, 1)
    window = tuple(None if side < 0 else side for side in options["window"]) if "window" in options else None
    context = np.empty((T, HEADS, H // HEADS), np.float32)
    for start, stop in zip(CU[:-1], CU[1:], strict=True):
        mask = None
        if "distance_bias" in options:
            place = np.arange(stop - start)
            mask = BIAS[:, np.clip(place - place[:, None], -4, 4) + 4]
        one = [a[start:stop].swapaxes(0, 1) for a in (q, k, v)]
        context[start:stop] = fa.attention(*one, mask=mask, window=window, scale=0.5).swapaxes(0, 1)
    y = ops.linear(context.reshape(T, H), DOWN, activation="gelu")
    expected = ops.rms_norm(ops.layer_norm(y, WEIGHT, SHIFT, 1e-5, residual=x), WEIGHT, 1e-6)
    assert slots[0].tobytes() == expected.tobytes()


def test_parts_of_it() -> None:
    whole, parts = arrays(), arrays()
    parts[0][...] = whole[0]
    steps = program()
    steps.run(whole, CU)
    for first, stop in ((0, 2), (2, 2), (2, 3), (3, -1)):
        steps.run(parts, CU, 1, first, stop)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(whole, parts, strict=True))


def test_no_tokens() -> None:
    program().run(arrays(0), np.array([0, 0]))
    program().run(arrays(0), np.array([0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda slots: slots[:3], "arrays: 3 for steps 0 to 5, expected 4"),
        (lambda slots: [*slots[:3], slots[3][:-1]], r"arrays\[3\]: shape \(22, 40\), expected float32 \(23, 40\)"),
        (lambda slots: [*slots[:3], slots[3].astype(np.float64)], r"arrays\[3\]"),
        (lambda slots: [*slots[:3], np.zeros((T, 2 * H), np.float32)[:, ::2]], r"arrays\[3\]: strides"),
        (lambda slots: [*slots[:3], np.asfortranarray(slots[3])], r"arrays\[3\]: strides"),
    ],
)
def test_arrays_that_do_not_fit(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        program().run(change(arrays()), CU)


@pytest.mark.parametrize("cu", [[0, 22], [1, 23], [0, 9, 8, 23], [0.0, 23.0], [[0, 23]], []])
def test_bounds_that_do_not_fit(cu: Any) -> None:
    with pytest.raises(ValueError, match="cu_seqlens|rank"):
        program().run(arrays(), np.array(cu))


def test_gated_sum_and_rotary_steps() -> None:
    """The steps of pre-norm and rotary layers."""
    size = H // HEADS
    at = np.arange(T)
    tables = [(*fa.rope_table(40, size, base=10.0), at), (*fa.rope_table(40, size, base=50.0), at[::-1].copy())]
    steps = Program([H, 3 * H, H])
    steps.linear(0, QKV, 1)
    steps.rope(1, 0, 2 * HEADS, size, 0)
    steps.rope(1, H, HEADS, size, 1, True)
    steps.gated(1, (H, 2 * H), 2, "silu")
    steps.plus(0, 2, 0)
    slots = [floats(T, H), np.zeros((T, 3 * H), np.float32), np.zeros((T, H), np.float32)]
    x = slots[0].copy()
    steps.run(slots, CU, 2, tables=tables)

    wide = ops.linear(x, QKV).reshape(T, 3 * HEADS, size).swapaxes(0, 1)
    turned = fa.rope(wide[: 2 * HEADS], *tables[0][:2], position_ids=tables[0][2])
    turned[HEADS:] = fa.rope(turned[HEADS:], *tables[1][:2], position_ids=tables[1][2], interleaved=True)
    k, v = (a.swapaxes(0, 1).reshape(T, H) for a in (turned[HEADS:], wide[2 * HEADS :]))
    expected = ops.add(x, ops.gated(np.ascontiguousarray(k), np.ascontiguousarray(v), "silu"))
    assert slots[0].tobytes() == expected.tobytes()

    for wrong, message in (
        (tables[:1], "tables: 1, expected at least 2"),
        (tables * 3, "tables: 6, expected at most 4"),
        ([tables[0], (*tables[1][:2], np.arange(T - 1))], r"tables\[1\]\[2\]: shape \(22,\), expected \(23,\)"),
        ([tables[0], (tables[1][0].astype(float), *tables[1][1:])], r"tables\[1\]\[0\]: dtype float64"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            steps.run(slots, CU, 1, tables=wrong)
    with pytest.raises(ValueError):  # a position outside the table
        steps.run(slots, CU, 1, tables=[tables[0], (*tables[1][:2], np.full(T, 40))])


def test_steps_that_do_not_fit() -> None:
    for wrong in (
        lambda p: p.linear(0, DOWN, 1),
        lambda p: p.linear(0, DOWN, 0),
        lambda p: p.linear(0, DOWN, 4),
        lambda p: p.norm(0, WEIGHT[:-1], None, 1e-5, 0),
        lambda p: p.norm(0, WEIGHT, None, 1e-5, 1),
        lambda p: p.norm(0, WEIGHT.astype(np.float64), None, 1e-5, 0),
        lambda p: p.attention(1, (0, H, 2 * H + 1), HEADS, H // HEADS, 2, scale=1.0),
        lambda p: p.gated(1, (0, 2 * H + 1), 2),
        lambda p: p.gated(1, (-1, 0), 2),
        lambda p: p.gated(2, (0, 0), 2),
        lambda p: p.plus(0, 1, 2),
        lambda p: p.plus(0, 4, 2),
        lambda p: p.rope(1, 1, 3 * HEADS, H // HEADS, 0),
        lambda p: p.rope(1, 0, HEADS, H // HEADS, 4),
        lambda p: p.rope(1, 0, H, 1, 0),
        lambda p: p.attention(1, (0, H, 2 * H), HEADS, H, 2, scale=1.0),
        lambda p: p.attention(1, (0, H, 2 * H), HEADS, H // HEADS, 2, scale=1.0, distance_bias=BIAS[1:]),
    ):
        with pytest.raises(ValueError):
            wrong(Program([H, 3 * H, H, H]))
    for widths in ([], [1] * 9):
        with pytest.raises(ValueError, match="widths"):
            Program(widths)
    with pytest.raises(ValueError, match="steps"):
        program().run(arrays(), CU, 1, 3, 2)
