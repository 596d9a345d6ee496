# SPDX-License-Identifier: MIT
"""Which keys a query sees: causal alignment, offsets, windows, lengths, masks; and that the others leave no trace."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from support.compare import assert_same_bits, check_attention
from support.inputs import generator, normal, qkv

import fastattn as fa

F32 = np.finfo(np.float32)


def sees(sq: int, sk: int, **options: Any) -> list[str]:
    """The 0/1 grid of what attention really lets each query see, read off its weights."""
    q, k, v = (np.ones((1, 1, n, 1), np.float32) for n in (sq, sk, sk))
    weights = fa.attention(q, k, v, return_weights=True, **options).weights[0, 0]
    return ["".join("1" if w > 0 else "0" for w in row) for row in weights]


def test_grids() -> None:
    assert sees(3, 3, causal=True) == ["100", "110", "111"]
    assert sees(3, 3, causal=False) == ["111", "111", "111"]
    assert sees(2, 4, causal="top_left") == ["1000", "1100"]
    assert sees(2, 4, causal="bottom_right") == ["1110", "1111"]
    assert sees(4, 2, causal="bottom_right") == ["00", "00", "10", "11"]
    assert sees(4, 2, causal="top_left") == ["10", "11", "11", "11"]
    assert sees(2, 4, causal=True, q_offset=1) == ["1100", "1110"]
    assert sees(3, 4, causal=True, q_offset=-2) == ["0000", "0000", "1000"]
    assert sees(2, 4, causal=True, q_offset=100) == ["1111", "1111"]
    assert sees(3, 4, window=(1, 0)) == ["1000", "1100", "0110"]
    assert sees(3, 4, window=(None, 1)) == ["1100", "1110", "1111"]
    assert sees(3, 4, window=(0, None)) == ["1111", "0111", "0011"]
    assert sees(3, 4, window=(None, None)) == ["1111", "1111", "1111"]
    assert sees(3, 4, window=(0, 0), q_offset=1) == ["0100", "0010", "0001"]
    assert sees(3, 4, window=(1, 2), causal="top_left") == ["1000", "1100", "0110"]
    assert sees(2, 5, window=(1, 2), causal="bottom_right") == ["00110", "00011"]
    assert sees(2, 4, q_offset=1) == ["1111", "1111"]
    assert sees(2, 4, kv_lengths=np.array([3])) == ["1110", "1110"]
    assert sees(2, 4, kv_lengths=np.array([3]), causal="bottom_right") == ["1100", "1110"]
    assert sees(2, 4, kv_lengths=np.array([1]), causal="bottom_right") == ["0000", "1000"]
    assert sees(2, 4, kv_lengths=np.array([3]), causal="top_left") == ["1000", "1100"]
    assert sees(2, 4, kv_lengths=np.array([0])) == ["0000", "0000"]


@pytest.mark.parametrize("q_offset", [-200, -31, -1, 0, 1, 47, 48, 200, 961, 5000])
@pytest.mark.parametrize("sq", [1, 2, 33, 100])
def test_q_offset(sq: int, q_offset: int) -> None:
    q, k, v = qkv(generator("q_offset", sq, q_offset), 1, 2, 1, sq, 200, 16)
    check_attention(q, k, v, causal=True, q_offset=q_offset)
    check_attention(q, k, v, window=(20, 10), q_offset=q_offset)


def test_q_offset_for_each_batch_entry() -> None:
    q, k, v = qkv(generator("q_offset batch"), 5, 2, 1, 20, 70, 16)
    for kind in (np.int64, np.int32, np.uint8):
        offsets = np.array([0, 10, 50, 69, 200], kind)
        check_attention(q, k, v, causal=True, q_offset=offsets)
        check_attention(
            q, k, v, causal=True, q_offset=offsets, window=(5, None), kv_lengths=np.array([70, 3, 60, 0, 70])
        )
    check_attention(q, k, v, causal=True, q_offset=np.array([-5, -19, -20, -21, -(2**40)]))
    assert_same_bits(
        fa.attention(q, k, v, causal=True, q_offset=[1, 2, 3, 4, 5]),
        fa.attention(q, k, v, causal=True, q_offset=np.arange(1, 6)),
        "a list and an array",
    )


SPANS = [None, 0, 1, 7, 47, 48, 100, 10**9]


@pytest.mark.parametrize(("left", "right"), list(itertools.product(SPANS, SPANS)))
def test_windows(left: int | None, right: int | None) -> None:
    q, k, v = qkv(generator("window", left, right), 1, 2, 1, 101, 131, 8)
    for options in (
        {},
        {"causal": "bottom_right"},
        {"causal": "top_left"},
        {"q_offset": -40},
        {"q_offset": 90, "causal": True},
    ):
        check_attention(q, k, v, weights=False, window=(left, right), **options)


@pytest.mark.parametrize("causal", [False, True, "top_left", "bottom_right"])
def test_kv_lengths(causal: bool | str) -> None:
    q, k, v = qkv(generator("kv_lengths", causal), 8, 2, 1, 65, 65, 16)
    for kind in (np.int64, np.int32, np.uint16):
        check_attention(q, k, v, causal=causal, kv_lengths=np.array([65, 0, 1, 47, 48, 49, 64, 33], kind))
    check_attention(q, k, v, causal=causal, kv_lengths=[65, 0, 1, 47, 48, 49, 64, 33], window=(9, 4))


def test_kv_lengths_beyond_a_chunk() -> None:
    q, k, v = qkv(generator("long lengths"), 4, 1, 1, 3, 2000, 16)
    check_attention(q, k, v, kv_lengths=[2000, 960, 961, 1921])
    check_attention(q, k, v, kv_lengths=[2000, 960, 961, 1921], causal="bottom_right")


def mask_shapes(b: int, h: int, sq: int, sk: int) -> list[tuple[int, ...]]:
    full = (b, h, sq, sk)
    shapes = {
        tuple(n if keep else 1 for n, keep in zip(full, kept, strict=True))
        for kept in itertools.product((True, False), repeat=4)
    }
    return sorted({shape[drop:] for shape in shapes for drop in range(5) if set(shape[:drop]) <= {1}})


@pytest.mark.parametrize("shape", mask_shapes(2, 4, 13, 50))
def test_masks_of_every_broadcastable_shape(shape: tuple[int, ...]) -> None:
    rng = generator("mask", shape)
    q, k, v = qkv(rng, 2, 4, 2, 13, 50, 8)
    boolean = rng.random(shape) < 0.6
    added = np.where(rng.random(shape) < 0.3, -np.inf, rng.standard_normal(shape) * 3).astype(np.float32)
    for mask in (boolean, added):
        got = check_attention(q, k, v, mask=mask)
        full = np.broadcast_to(mask, (2, 4, 13, 50))
        assert_same_bits(fa.attention(q, k, v, mask=full), got, "a zero-stride view of the full shape")
        assert_same_bits(fa.attention(q, k, v, mask=np.ascontiguousarray(full)), got, "the full mask in memory")
    check_attention(q, k, v, mask=boolean, causal="bottom_right", kv_lengths=[50, 20])
    check_attention(q, k, v, mask=added, causal="bottom_right", window=(20, None), softcap=4.0)


def test_masks_in_awkward_memory() -> None:
    rng = generator("mask memory")
    q, k, v = qkv(rng, 2, 2, 1, 37, 70, 8)
    for mask in (rng.random((2, 2, 37, 70)) < 0.5, normal(rng, 2, 2, 37, 70)):
        expected = fa.attention(q, k, v, mask=mask)
        wide = np.zeros((2, 4, 80, 75), mask.dtype)
        wide[:, ::2, 3:40, 4:74] = mask
        for name, same in (
            ("sliced", wide[:, ::2, 3:40, 4:74]),
            ("rows reversed", mask[:, :, ::-1].copy()[:, :, ::-1]),
            ("heads first", np.ascontiguousarray(mask.swapaxes(0, 1)).swapaxes(0, 1)),
        ):
            assert_same_bits(fa.attention(q, k, v, mask=same), expected, name)


@pytest.mark.parametrize("sq", [1, 4, 40])
def test_boolean_mask_equals_minus_infinity_up_to_rounding_and_structure_exactly(sq: int) -> None:
    rng = generator("boolean", sq)
    q, k, v = qkv(rng, 2, 2, 2, sq, 100, 16)
    allowed = np.tril(np.ones((sq, 100), bool), k=100 - sq)
    assert_same_bits(
        fa.attention(q, k, v, mask=allowed), fa.attention(q, k, v, causal="bottom_right"), "causal drawn as a mask"
    )
    lengths = np.array([64, 17])
    valid = np.arange(100) < lengths[:, None, None, None]
    assert_same_bits(
        fa.attention(q, k, v, mask=valid), fa.attention(q, k, v, kv_lengths=lengths), "lengths drawn as a mask"
    )
    check_attention(q, k, v, mask=np.where(valid, 0, -np.inf).astype(np.float32))


def test_float_mask_values() -> None:
    q, k, v = qkv(generator("float mask"), 1, 1, 1, 8, 60, 8)
    zero = np.zeros((8, 60), np.float32)
    check_attention(q, k, v, mask=zero)
    lowest = zero.copy()
    lowest[:, 30:] = F32.min
    check_attention(q, k, v, mask=lowest)
    everywhere = np.full((8, 60), F32.min, np.float32)  # an ordinary number: a row of it is a flat row
    check_attention(q, k, v, mask=everywhere, scale=0.5)
    assert np.isfinite(fa.attention(q, k, v, mask=everywhere)).all()
    for value in (np.inf, np.nan):
        spoiled = zero.copy()
        spoiled[3, 20] = value
        got = check_attention(q, k, v, mask=spoiled, weights=False)
        assert np.isnan(got[0, 0, 3]).all() and np.isfinite(np.delete(got[0, 0], 3, axis=0)).all()
        hidden = check_attention(q, k, v, mask=spoiled, causal="top_left")  # query 3 does not see key 20
        assert np.isfinite(hidden).all()
        check_attention(q, k, v, mask=spoiled, kv_lengths=[20])


@pytest.mark.parametrize("sq", [1, 2, 16, 40])
def test_rows_without_any_key(sq: int) -> None:
    q, k, v = qkv(generator("empty rows", sq), 2, 2, 1, sq, 60, 16)
    none = np.zeros((sq, 60), bool)
    for options in (
        {"mask": none},
        {"kv_lengths": [0, 0]},
        {"mask": np.full((sq, 60), -np.inf, np.float32)},
        {"causal": True, "q_offset": -sq},
        {"window": (0, 0), "q_offset": 60},
        {"window": (3, 3), "q_offset": -1000},
    ):
        got = fa.attention(q, k, v, return_lse=True, return_weights=True, **options)
        assert not got.out.view(np.uint32).any(), options  # +0.0, not -0.0
        assert np.isneginf(got.lse).all() and not got.weights.view(np.uint32).any(), options
    some = none.copy()
    some[sq // 2, 7] = True
    check_attention(q, k, v, mask=some)
    check_attention(q, k, v, mask=np.where(some, 0, -np.inf).astype(np.float32))


POISON = [np.nan, np.inf, -np.inf, F32.max]


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("sq", [1, 3, 16, 50])
def test_what_excluded_keys_hold_leaves_no_trace(poison: float, sq: int) -> None:
    rng = generator("poison", sq)
    q, k, v = qkv(rng, 3, 4, 2, sq, 110, 16, 20)
    some = rng.random((3, 1, 1, 110)) < 0.7
    ragged = rng.random((3, 4, sq, 110)) < 0.5
    lengths = np.array([0, 53, 110])
    cases: list[tuple[dict[str, Any], np.ndarray]] = [
        ({"kv_lengths": lengths}, np.arange(110) < lengths[:, None]),
        ({"kv_lengths": lengths, "causal": "bottom_right"}, np.arange(110) < lengths[:, None]),
        ({"mask": some}, some[:, 0, 0]),
        ({"mask": np.where(some, 1.5, -np.inf).astype(np.float32)}, some[:, 0, 0]),
        ({"causal": True, "q_offset": 20}, np.broadcast_to(np.arange(110) < 20 + sq, (3, 110))),
        (
            {"window": (5, 6), "q_offset": 30},
            np.broadcast_to((np.arange(110) >= 25) & (np.arange(110) < 36 + sq), (3, 110)),
        ),
        ({"mask": some, "kv_lengths": lengths, "softcap": 3.0}, some[:, 0, 0] & (np.arange(110) < lengths[:, None])),
    ]
    for options, used in cases:
        clean = fa.attention(q, k, v, return_lse=True, return_weights=True, **options)
        assert np.isfinite(clean.out).all()
        k_bad, v_bad = k.copy(), v.copy()
        k_bad.swapaxes(1, 2)[~used] = poison
        v_bad.swapaxes(1, 2)[~used] = poison
        assert_same_bits(
            fa.attention(q, k_bad, v_bad, return_lse=True, return_weights=True, **options), clean, f"{options}"
        )
        assert_same_bits(fa.attention(q, k_bad, v_bad, **options), clean.out, f"{options}, out alone")
        k_zero, v_zero = k.copy(), v.copy()
        k_zero.swapaxes(1, 2)[~used] = 0
        v_zero.swapaxes(1, 2)[~used] = 0
        assert_same_bits(fa.attention(q, k_zero, v_zero, **options), clean.out, f"{options}, zeros")
    # a key that some rows see and others do not: poison stays in the rows that see it
    v_bad = v.copy()
    v_bad[1, 0, 64] = np.nan
    clean_out, got = fa.attention(q, k, v, mask=ragged), fa.attention(q, k, v_bad, mask=ragged)
    hit = np.zeros((3, 4, sq), bool)
    hit[1, :2] = ragged[1, :2, :, 64]
    assert np.isnan(got[hit]).all()
    assert_same_bits(got[~hit], clean_out[~hit], "rows that do not see the poisoned value")
    k_bad = k.copy()
    k_bad[1, 0, 64] = np.nan
    got = fa.attention(q, k_bad, v, mask=ragged)
    assert np.isnan(got[hit]).all()
    assert_same_bits(got[~hit], clean_out[~hit], "rows that do not see the poisoned key")


@pytest.mark.parametrize("sq", [1, 5, 40])
def test_infinite_and_missing_scores(sq: int) -> None:
    q, k, v = qkv(generator("scores", sq), 1, 2, 2, sq, 60, 8)
    q[..., 0] = np.abs(q[..., 0]) + 1
    low = k.copy()
    low[:, :, 10:30, 0] = -np.inf  # scores of -inf: excluded, values never met
    v_bad = v.copy()
    v_bad[:, :, 10:30] = np.nan
    check_attention(q, low, v)
    check_attention(q, low, v_bad)
    check_attention(q, low, v_bad, causal="bottom_right")
    keep = np.ones(60, bool)
    keep[10:30] = False
    assert_same_bits(
        fa.attention(q, low, v_bad), fa.attention(q, k, v, mask=keep), "a score of -inf and an excluded key"
    )
    low[..., 0] = -np.inf
    got = fa.attention(q, low, v_bad, return_lse=True)
    assert not got.out.view(np.uint32).any() and np.isneginf(got.lse).all()
    high = k.copy()
    high[:, :, 33, 0] = np.inf
    assert np.isnan(check_attention(q, high, v, weights=False)).all()
    both = k.copy()
    both[:, :, 33, 0] = np.nan
    assert np.isnan(check_attention(q, both, v, weights=False)).all()
    q[:, 0, 0] = np.nan
    got = check_attention(q, k, v, weights=False)
    assert np.isnan(got[:, 0, 0]).all() and np.isfinite(got[:, 1]).all() and np.isfinite(got[:, 0, 1:]).all()


def test_infinite_values_that_are_seen() -> None:
    q, k, v = qkv(generator("inf values"), 1, 1, 1, 20, 50, 8, 6)
    v[0, 0, 5, 1] = np.inf
    v[0, 0, 6, 2] = -np.inf
    v[0, 0, 7, 3] = np.inf
    v[0, 0, 8, 3] = -np.inf
    v[0, 0, 40, 4] = np.nan
    check_attention(q, k, v)
    check_attention(q, k, v, causal="top_left")


@pytest.mark.parametrize("sq", [1, 40])
@pytest.mark.parametrize("bad", [0, 30, 70])
def test_nan_in_a_value_that_is_seen_shows_however_small_its_weight(sq: int, bad: int) -> None:
    """A weight that underflows to 0 belongs to a key that is seen, not to one that is excluded: 0 * NaN is NaN."""
    q, k, v = (
        np.ones((1, 1, sq, 4), np.float32),
        np.zeros((1, 1, 100, 4), np.float32),
        np.ones((1, 1, 100, 3), np.float32),
    )
    k[:, :, bad] = -300
    v[:, :, bad, 1] = np.nan
    got = fa.attention(q, k, v)
    assert np.isnan(got[..., 1]).all() and (got[..., [0, 2]] == 1).all()
    keep = np.arange(100) != bad
    assert (fa.attention(q, k, v, mask=keep) == 1).all()
