# SPDX-License-Identifier: MIT
"""attention() and the arrays people have: strides, ranks, read-only memory, out=, DLPack and buffers, empties."""

from __future__ import annotations

import array
import gc
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import inputs
from support.compare import assert_same_bits, check_attention
from support.dlpack import Producer
from support.inputs import generator, qkv

import fastattn as fa

LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bshd": inputs.bshd,
    "sliced": inputs.sliced,
    "reversed": inputs.reversed_rows,
    "unaligned": inputs.unaligned,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("sq", "sk", "d"), [(1, 300, 64), (7, 50, 17), (50, 130, 32)])
def test_strides_do_not_matter(layout: str, sq: int, sk: int, d: int) -> None:
    arrays = qkv(generator("layout", sq, sk, d), 2, 4, 2, sq, sk, d)
    expected = fa.attention(*arrays, causal="bottom_right", return_lse=True, return_weights=True)
    lay = LAYOUTS[layout]
    for which in ((0,), (1,), (2,), (0, 1, 2)):
        moved = [lay(x) if i in which else x for i, x in enumerate(arrays)]
        got = fa.attention(*moved, causal="bottom_right", return_lse=True, return_weights=True)
        assert_same_bits(got, expected, f"{layout} {which}")


def test_views_of_one_fused_projection() -> None:
    arrays = qkv(generator("fused"), 2, 6, 2, 40, 40, 16)
    assert_same_bits(fa.attention(*inputs.fused(*arrays), causal=True), fa.attention(*arrays, causal=True), "fused")


def test_broadcast_views() -> None:
    """Zero strides: one key head, one batch entry, one row used many times over."""
    q, k, v = qkv(generator("zero strides"), 1, 1, 1, 9, 30, 8)
    wide = [np.broadcast_to(x, (3, 4, *x.shape[2:])) for x in (q, k, v)]
    got = fa.attention(*wide)
    assert_same_bits(got, np.ascontiguousarray(np.broadcast_to(fa.attention(q, k, v), got.shape)), "zero strides")
    one = np.broadcast_to(k[:, :, :1], k.shape)
    assert_same_bits(fa.attention(q, one, v), fa.attention(q, one.copy(), v), "one key row for all")


def test_same_array_three_times() -> None:
    x = inputs.normal(generator("self"), 2, 2, 40, 16)
    assert_same_bits(fa.attention(x, x, x), fa.attention(x, x.copy(), x.copy()), "q, k and v are one array")


def test_rows_a_power_of_two_apart() -> None:
    """Key rows 4096 bytes apart take another way through the cache, not another result."""
    q, k, v = qkv(generator("4096"), 1, 1, 1, 400, 200, 64)
    wide = np.full((1, 1, 200, 1024), np.nan, np.float32)
    wide[..., :64] = k
    check_attention(q, wide[..., :64], v)
    assert_same_bits(fa.attention(q, wide[..., :64], v), fa.attention(q, k, v), "4096 bytes apart")


def test_read_only_inputs() -> None:
    arrays = qkv(generator("read-only"), 1, 2, 2, 9, 30, 8)
    mask = inputs.normal(generator("read-only mask"), 9, 30)
    expected = fa.attention(*arrays, mask=mask)
    before = [x.tobytes() for x in (*arrays, mask)]
    for x in (*arrays, mask):
        x.setflags(write=False)
    assert_same_bits(fa.attention(*arrays, mask=mask), expected, "read-only")
    assert [x.tobytes() for x in (*arrays, mask)] == before


def test_inputs_are_left_alone() -> None:
    arrays = qkv(generator("left alone"), 2, 4, 2, 33, 70, 24)
    extra = {"mask": inputs.normal(generator("mask"), 33, 70), "kv_lengths": np.array([70, 12])}
    before = [x.tobytes() for x in (*arrays, *extra.values())]
    for scale in (None, -1.0):  # a negative scale must not be folded into the caller's q
        fa.attention(*arrays, scale=scale, **extra)
    assert [x.tobytes() for x in (*arrays, *extra.values())] == before


@pytest.mark.parametrize("layout", ["plain", *LAYOUTS])
@pytest.mark.parametrize("sq", [1, 40])
def test_out(layout: str, sq: int) -> None:
    arrays = qkv(generator("out", sq), 2, 4, 2, sq, 50, 16, 20)
    expected = fa.attention(*arrays)
    blank = np.full((2, 4, sq, 20), np.nan, np.float32)
    out = LAYOUTS[layout](blank) if layout != "plain" else blank
    assert fa.attention(*arrays, out=out) is out
    assert_same_bits(out, expected, layout)
    out[...] = np.nan
    result = fa.attention(*arrays, out=out, return_lse=True)
    assert result.out is out
    assert_same_bits(out, expected, f"{layout} with lse")


def test_out_writes_nothing_around_it() -> None:
    arrays = qkv(generator("around"), 2, 2, 1, 13, 50, 7)
    big = np.full((4, 5, 20, 30), 77.0, np.float32)
    out = big[1:3, 2:4, 3:16, 11:18]
    fa.attention(*arrays, out=out)
    assert_same_bits(out, fa.attention(*arrays), "window")
    out[...] = 77
    assert (big == 77).all()


def test_out_beside_its_inputs_in_one_allocation() -> None:
    """Sharing an allocation is fine as long as no byte is shared."""
    q, k, v = qkv(generator("one allocation"), 1, 2, 2, 16, 16, 8)
    whole = np.zeros((4, 1, 2, 16, 8), np.float32)
    whole[0], whole[1], whole[2] = q, k, v
    fa.attention(whole[0], whole[1], whole[2], out=whole[3])
    assert_same_bits(whole[3], fa.attention(q, k, v), "neighbours")
    woven = np.zeros((1, 2, 16, 4, 8), np.float32)
    woven[..., 0, :], woven[..., 1, :], woven[..., 2, :] = q, k, v
    fa.attention(woven[..., 0, :], woven[..., 1, :], woven[..., 2, :], out=woven[..., 3, :])
    assert_same_bits(woven[..., 3, :], fa.attention(q, k, v), "interleaved rows")


@pytest.mark.parametrize(
    "bend",
    [
        {},
        {"null_strides": True},
        {"byte_offset": 64},
        {"versioned": True},
        {"old_signature": True},
        {"versioned": True, "read_only": True},
    ],
)
def test_dlpack(bend: dict[str, Any]) -> None:
    arrays = qkv(generator("dlpack"), 2, 4, 2, 21, 40, 16)
    expected = fa.attention(*arrays, causal="bottom_right")
    producers = [Producer(x, **bend) for x in arrays]
    got = fa.attention(*producers, causal="bottom_right")
    assert_same_bits(got, expected, f"DLPack {bend}")
    gc.collect()
    assert [(p.capsules, p.deleted) for p in producers] == [(1, 1)] * 3, "each capsule is taken and given back once"


def test_dlpack_strides_masks_and_out() -> None:
    arrays = qkv(generator("dlpack strided"), 2, 4, 2, 21, 40, 16)
    allowed = generator("dlpack mask").random((2, 1, 21, 40)) < 0.6
    expected = fa.attention(*arrays, mask=allowed)
    moved = [Producer(inputs.bshd(x)) for x in arrays]
    assert_same_bits(fa.attention(*moved, mask=Producer(allowed)), expected, "strided, boolean mask")
    added = np.where(allowed, 0.25, -np.inf).astype(np.float32)
    assert_same_bits(fa.attention(*moved, mask=Producer(added)), fa.attention(*arrays, mask=added), "float mask")
    lengths = np.array([40, 17])
    assert_same_bits(
        fa.attention(*moved, kv_lengths=Producer(lengths)), fa.attention(*arrays, kv_lengths=lengths), "lengths"
    )


def test_dlpack_gives_back_on_error() -> None:
    q, k, v = qkv(generator("dlpack error"), 1, 3, 2, 5, 6, 8)
    producers = [Producer(x) for x in (q, k, v)]
    with pytest.raises(ValueError):
        fa.attention(*producers)
    gc.collect()
    assert all(p.capsules == p.deleted for p in producers)


def test_buffers() -> None:
    q, k, v = qkv(generator("buffers"), 1, 1, 1, 5, 6, 8)
    expected = fa.attention(q[0, 0], k[0, 0], v[0, 0])
    assert_same_bits(
        fa.attention(memoryview(q[0, 0]), memoryview(k[0, 0]), memoryview(v[0, 0])), expected, "memoryview"
    )
    flat = array.array("f", k.ravel().tolist())
    assert_same_bits(
        fa.attention(q[0, 0], memoryview(flat).cast("B").cast("f", (6, 8)), v[0, 0]), expected, "array.array"
    )


def test_subclasses_and_no_leak() -> None:
    q, k, v = qkv(generator("leak"), 1, 1, 1, 5, 6, 8)
    counts = [sys.getrefcount(x) for x in (q, k, v)]
    for _ in range(50):
        fa.attention(q, k, v, return_lse=True)
    assert [sys.getrefcount(x) for x in (q, k, v)] == counts

    class Tagged(np.ndarray):
        pass

    got = fa.attention(q.view(Tagged), k.view(Tagged), v.view(Tagged))
    assert_same_bits(got, fa.attention(q, k, v), "subclass")


@pytest.mark.parametrize(
    ("b", "hq", "sq", "sk", "d", "dv"),
    [(0, 2, 5, 6, 8, 8), (2, 2, 0, 6, 8, 8), (2, 2, 5, 0, 8, 8), (2, 2, 0, 0, 8, 8), (0, 2, 0, 0, 8, 8)],
)
def test_empties(b: int, hq: int, sq: int, sk: int, d: int, dv: int) -> None:
    q, k, v = qkv(generator("empties"), b, hq, 1, sq, sk, d, dv)
    for options in (
        {},
        {"causal": "bottom_right"},
        {"causal": "top_left"},
        {"mask": np.ones((sq, sk), bool)},
        {"window": (1, 1)},
        {"mask": np.zeros((1, 1), np.float32)},
        {"kv_lengths": np.full(b, sk)},
        {"causal": True, "q_offset": 3},
    ):
        got = fa.attention(q, k, v, return_lse=True, return_weights=True, **options)
        assert got.out.shape == (b, hq, sq, dv) and got.out.dtype == np.float32
        assert got.lse.shape == (b, hq, sq) and got.weights.shape == (b, hq, sq, sk)
        if sk == 0:
            assert not got.out.view(np.uint32).any() and np.isneginf(got.lse).all()
    out = np.full((b, hq, sq, dv), np.nan, np.float32)
    assert fa.attention(q, k, v, out=out) is out
    assert not np.isnan(out).any()


def test_sizes_of_one() -> None:
    one = np.ones((1, 1, 1, 1), np.float32)
    out = np.zeros_like(one)
    fa.attention(one, one, one * 3, out=out)
    assert out.item() == 3
    for rank in range(2, 9):
        x = np.full((1,) * rank, 2.0, np.float32)
        assert fa.attention(x, x, x).shape == (1,) * rank


@pytest.mark.parametrize("num_threads", [None, 1, 2, 5, 64])
def test_num_threads(num_threads: int | None) -> None:
    arrays = qkv(generator("threads"), 2, 3, 3, 40, 50, 16)
    assert_same_bits(fa.attention(*arrays, num_threads=num_threads), fa.attention(*arrays), f"{num_threads} threads")
