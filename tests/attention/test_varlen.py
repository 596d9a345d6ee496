# SPDX-License-Identifier: MIT
"""attention_varlen(): the oracle, and each sequence with the bits it has alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import inputs
from support.compare import assert_accurate, assert_same_bits
from support.dlpack import Producer
from support.inputs import generator, normal

import fastattn as fa
from fastattn import reference

# fmt: off
LENGTHS: list[tuple[list[int], list[int]]] = [
    ([5], [9]), ([3, 1, 17], [3, 1, 17]), ([1, 1, 1, 1], [40, 1, 97, 1000]), ([64, 2, 33], [64, 100, 48]),
    ([0, 4, 0, 0, 7, 0], [3, 0, 0, 5, 7, 2]),
    ([0], [0]), ([0, 0], [5, 0]), ([13] * 12, [13] * 12), ([1, 200, 3], [961, 200, 1925]), ([100, 1], [1, 100]),
]
# fmt: on


def packed(
    key: Any, lengths_q: list[int], lengths_k: list[int], hq: int, hkv: int, d: int, dv: int
) -> tuple[np.ndarray, ...]:
    rng = generator("varlen", key)
    tq, tk = sum(lengths_q), sum(lengths_k)
    return (
        normal(rng, tq, hq, d),
        normal(rng, tk, hkv, d),
        normal(rng, tk, hkv, dv),
        np.concatenate([[0], np.cumsum(lengths_q)]).astype(np.int32),
        np.concatenate([[0], np.cumsum(lengths_k)]).astype(np.int32),
    )


def check(q: np.ndarray, k: np.ndarray, v: np.ndarray, cq: np.ndarray, ck: np.ndarray, **options: Any) -> None:
    plain = fa.attention_varlen(q, k, v, cq, ck, **options)
    full = fa.attention_varlen(q, k, v, cq, ck, return_lse=True, **options)
    out, lse, *_ = reference.attention_varlen(q, k, v, cq, ck, **options)
    naive_out, naive_lse, *_ = reference.attention_varlen(q, k, v, cq, ck, dtype=np.float32, **options)

    def again(field: int) -> Callable[[np.random.Generator], np.ndarray]:
        return lambda rng: reference.attention_varlen(q, k, v, cq, ck, dtype=np.float32, order=rng, **options)[field]

    assert_accurate(plain, out, naive_out, "out", again(0))
    assert_accurate(full.lse, lse, naive_lse, "lse", again(1))
    assert_same_bits(full.out, plain, "with and without lse")
    assert full.weights is None
    for b in range(len(cq) - 1):
        rows, keys = slice(cq[b], cq[b + 1]), slice(ck[b], ck[b + 1])
        alone = dict(options)
        if "q_offset" in options:
            alone["q_offset"] = int(np.broadcast_to(options["q_offset"], len(cq) - 1)[b])
        one = fa.attention(
            q[rows].swapaxes(0, 1), k[keys].swapaxes(0, 1), v[keys].swapaxes(0, 1), return_lse=True, **alone
        )
        assert_same_bits(plain[rows], np.ascontiguousarray(one.out.swapaxes(0, 1)), f"sequence {b} alone")
        assert_same_bits(full.lse[rows], np.ascontiguousarray(one.lse.T), f"lse of sequence {b} alone")


@pytest.mark.parametrize(("lengths_q", "lengths_k"), LENGTHS)
@pytest.mark.parametrize(("hq", "hkv", "d", "dv"), [(1, 1, 8, 8), (4, 2, 16, 20), (3, 1, 65, 7)])
def test_lengths(lengths_q: list[int], lengths_k: list[int], hq: int, hkv: int, d: int, dv: int) -> None:
    problem = packed((lengths_q, lengths_k), lengths_q, lengths_k, hq, hkv, d, dv)
    check(*problem)
    check(*problem, causal="bottom_right")
    check(*problem, causal="top_left", scale=0.4)
    check(*problem, window=(20, 5), softcap=8.0)
    if lengths_q == lengths_k:
        check(*problem, causal=True)


def test_q_offset() -> None:
    problem = packed("q_offset", [4, 30, 1], [60, 33, 100], 2, 1, 16, 16)
    check(*problem, causal=True, q_offset=7)
    check(*problem, causal=True, q_offset=np.array([56, 3, 99]))
    check(*problem, window=(3, 2), q_offset=np.array([-2, 3, 50]))


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint32])
def test_kinds_of_cu_seqlens(kind: type) -> None:
    q, k, v, cq, ck = packed("kinds", [3, 9], [8, 20], 2, 2, 8, 8)
    expected = fa.attention_varlen(q, k, v, cq, ck)
    assert_same_bits(fa.attention_varlen(q, k, v, cq.astype(kind), ck.astype(kind)), expected, "arrays")
    assert_same_bits(fa.attention_varlen(q, k, v, cq.tolist(), ck.tolist()), expected, "lists")
    assert_same_bits(fa.attention_varlen(q, k, v, np.repeat(cq, 2)[::2], np.repeat(ck, 2)[::2]), expected, "strided")
    assert_same_bits(
        fa.attention_varlen(Producer(q), Producer(k), Producer(v), Producer(cq), Producer(ck)), expected, "DLPack"
    )


def test_layouts_and_out() -> None:
    q, k, v, cq, ck = packed("layouts", [3, 40, 9], [8, 20, 100], 4, 2, 16, 24)
    expected = fa.attention_varlen(q, k, v, cq, ck)
    whole = np.concatenate(
        [np.concatenate([x, np.zeros((128 - len(x), *x.shape[1:]), np.float32)]).reshape(128, -1) for x in (q, k, v)],
        axis=1,
    )
    views, start = [], 0
    for x in (q, k, v):
        width = x.shape[1] * x.shape[2]
        views.append(whole[: len(x), start : start + width].reshape(x.shape))
        assert np.shares_memory(views[-1], whole)
        start += width
    assert_same_bits(fa.attention_varlen(*views, cq, ck), expected, "one fused projection")
    for lay in (inputs.sliced, inputs.unaligned, inputs.bshd):
        assert_same_bits(fa.attention_varlen(lay(q), lay(k), lay(v), cq, ck), expected, lay.__name__)
        out = lay(np.full(expected.shape, np.nan, np.float32))
        assert fa.attention_varlen(q, k, v, cq, ck, out=out) is out
        assert_same_bits(out, expected, f"out {lay.__name__}")


def test_nothing_leaks_between_sequences() -> None:
    q, k, v, cq, ck = packed("leaks", [7, 20, 7], [50, 60, 50], 2, 1, 8, 8)
    clean = fa.attention_varlen(q, k, v, cq, ck, causal="bottom_right", return_lse=True)
    for poison in (np.nan, np.inf):
        q2, k2, v2 = q.copy(), k.copy(), v.copy()
        q2[7:27], k2[50:110], v2[50:110] = poison, poison, poison
        got = fa.attention_varlen(q2, k2, v2, cq, ck, causal="bottom_right", return_lse=True)
        rest = np.r_[0:7, 27:34]
        assert np.isnan(got.out[7:27]).all()
        assert_same_bits(got.out[rest], clean.out[rest], "other sequences")
        assert_same_bits(got.lse[rest], clean.lse[rest], "lse of other sequences")


def test_sequences_without_keys_or_queries() -> None:
    q, k, v, cq, ck = packed("empty sequences", [4, 0, 3], [0, 9, 0], 2, 2, 8, 8)
    got = fa.attention_varlen(q, k, v, cq, ck, return_lse=True)
    assert not got.out.view(np.uint32).any() and np.isneginf(got.lse).all()
    nothing = fa.attention_varlen(q[:0], k[:0], v[:0], np.zeros(1, np.int32), np.zeros(1, np.int32))
    assert nothing.shape == (0, 2, 8)


def test_order_of_sequences_does_not_matter() -> None:
    lengths = [33, 1, 64, 7, 100]
    q, k, v, cq, _ = packed("order", lengths, lengths, 4, 2, 16, 16)
    expected = fa.attention_varlen(q, k, v, cq, cq, causal=True)
    pieces = [slice(cq[b], cq[b + 1]) for b in (3, 0, 4, 2, 1)]
    order = np.concatenate([[0], np.cumsum([p.stop - p.start for p in pieces])])
    again = fa.attention_varlen(*(np.concatenate([x[p] for p in pieces]) for x in (q, k, v)), order, order, causal=True)
    assert_same_bits(again, np.concatenate([expected[p] for p in pieces]), "another order")
