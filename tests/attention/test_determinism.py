# SPDX-License-Identifier: MIT
"""Attention has the same bytes for any ISA, kernel, thread count, batch composition, padding and cut of the queries."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from support.compare import assert_same_bits, attend_both
from support.inputs import generator, normal, qkv
from support.variants import assert_one_result

import fastattn as fa
from fastattn import _testing

# b, hq, hkv, sq, sk, d, dv
# fmt: off
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1), (1, 1, 1, 1, 7, 5, 3), (2, 2, 1, 3, 13, 16, 16), (1, 4, 2, 12, 48, 17, 9),
    (1, 3, 3, 13, 49, 8, 33),
    (2, 4, 1, 31, 47, 24, 24), (1, 2, 2, 33, 96, 32, 40), (1, 9, 3, 5, 97, 64, 64), (1, 2, 1, 65, 145, 13, 64),
    (3, 1, 1, 48, 50, 31, 31),
    (2, 8, 1, 1, 200, 32, 32), (1, 3, 3, 4, 100, 48, 16), (1, 4, 2, 2, 70, 128, 64), (1, 1, 1, 2, 961, 16, 16),
    (1, 2, 1, 1, 1930, 8, 8), (1, 1, 1, 17, 1009, 6, 10),
]
# fmt: on
# fmt: off
OPTIONS: list[dict[str, Any]] = [
    {}, {"causal": "bottom_right"}, {"causal": "top_left"}, {"window": (20, 3)}, {"scale": -0.37}, {"scale": 0.0},
    {"softcap": 3.0},
    {"causal": True, "q_offset": 5, "window": (9, None)}, {"softcap": 20.0, "causal": "bottom_right"},
]
# fmt: on


@pytest.mark.parametrize("shape", SHAPES)
def test_isa_kernel_and_threads(shape: tuple[int, ...]) -> None:
    b, hq, hkv, sq, sk, d, dv = shape
    rng = generator("determinism", shape)
    arrays = qkv(rng, b, hq, hkv, sq, sk, d, dv, spread=1.5)
    keep = rng.random((b, 1, sq, sk)) < 0.7
    more = [
        {"mask": keep},
        {"mask": np.where(keep, normal(rng, b, 1, sq, sk), -np.inf).astype(np.float32)},
        {"kv_lengths": rng.integers(0, sk + 1, b)},
        {"kv_lengths": rng.integers(0, sk + 1, b), "causal": "bottom_right"},
    ]
    for options in (*OPTIONS, *more):

        def call(num_threads: int | None, options: dict[str, Any] = options) -> Any:
            return attend_both(*arrays, num_threads=num_threads, **options)

        assert_one_result(call, f"{options.keys()}")


@pytest.mark.parametrize(
    "shape",
    [
        (1, 2, 1, 200, 300, 64, 64),
        (1, 4, 1, 130, 2000, 32, 48),
        (2, 2, 2, 97, 97, 128, 128),
        (1, 1, 1, 40, 3001, 80, 80),
        (4, 8, 2, 1, 2500, 64, 64),
        (1, 3, 1, 7, 960, 257, 3),
    ],
)
def test_larger_problems(shape: tuple[int, ...]) -> None:
    arrays = qkv(generator("larger", shape), *shape, spread=1.2)
    for options in ({}, {"causal": "bottom_right"}, {"window": (100, 7), "q_offset": shape[4] // 2}):

        def call(num_threads: int | None, options: dict[str, Any] = options) -> Any:
            return fa.attention(*arrays, return_lse=True, num_threads=num_threads, **options)

        assert_one_result(call, f"{options}", slow=True)


def test_special_values() -> None:
    """NaN, infinities and values of many sizes take the same way through every kernel."""
    rng = generator("special")
    for sq, sk in ((1, 60), (21, 100), (2, 1000)):
        q, k, v = qkv(rng, 1, 2, 1, sq, sk, 12, 20, spread=4)
        k *= (10.0 ** rng.integers(-12, 3, k.shape)).astype(np.float32)
        v *= (10.0 ** rng.integers(-30, 30, v.shape)).astype(np.float32)
        plain = k.copy(), v.copy()
        k[0, 0, 3, 1], k[0, 0, 9, 2], k[0, 0, 17, 5] = np.inf, -np.inf, np.nan
        v[0, 0, 4, 7], v[0, 0, 11, 3], v[0, 0, 12, 3] = np.nan, np.inf, -np.inf
        for name, (keys, values) in {"sizes": plain, "k": (k, plain[1]), "v": (plain[0], v), "both": (k, v)}.items():
            for options in (
                {},
                {"causal": "top_left"},
                {"softcap": 5.0},
                {"mask": rng.random((sq, sk)) < 0.3},
                {"scale": -1e4},
                {"scale": 1e-45},
                {"mask": normal(rng, sq, sk, spread=1e30)},
            ):

                def call(
                    num_threads: int | None,
                    arrays: tuple[np.ndarray, ...] = (q, keys, values),
                    options: dict[str, Any] = options,
                ) -> Any:
                    return attend_both(*arrays, num_threads=num_threads, **options)

                assert_one_result(call, f"{name} {options.keys()} {sq}")


def test_denormals_survive() -> None:
    q = np.full((1, 1, 20, 8), 1e-3, np.float32)
    k = np.full((1, 1, 50, 8), 1e-40, np.float32)
    v = np.full((1, 1, 50, 5), 1e-41, np.float32)
    got = assert_one_result(lambda num_threads: fa.attention(q, k, v, num_threads=num_threads), "denormal")
    assert (got > 0).all()


@pytest.mark.parametrize(
    "options", [{}, {"causal": True}, {"window": (30, 10)}, {"softcap": 4.0}, {"causal": True, "window": (5, None)}]
)
@pytest.mark.parametrize(("sq", "sk", "d"), [(150, 150, 32), (70, 1100, 24)])
def test_a_row_alone_and_in_chunks(options: dict[str, Any], sq: int, sk: int, d: int) -> None:
    """A row of a large prefill, computed alone as a decode step or in any chunk of queries, is the same row."""
    q, k, v = qkv(generator("chunks", sq, sk), 1, 4, 2, sq, sk, d)
    first = sk - sq
    whole = attend_both(q, k, v, q_offset=first, **options)
    for size in (1, 2, 5, 12, 13, 32, 33, 64):
        for start in (0, 1, 29, 47, sq - size) if size < 5 else range(0, sq, size):
            rows = slice(start, min(start + size, sq))
            part = attend_both(q[:, :, rows], k, v, q_offset=first + start, **options)
            assert_same_bits(part, tuple(x[:, :, rows] for x in whole), f"rows {start}..{rows.stop}")
    if options.get("causal"):  # keys after the last visible one need not be there at all
        for i in (0, 1, 47, 48, sq - 1):
            n = first + i + 1
            alone = fa.attention(q[:, :, i : i + 1], k[:, :, :n], v[:, :, :n], q_offset=n - 1, **options)
            assert_same_bits(alone, whole[0][:, :, i : i + 1], f"row {i} with its own keys")


@pytest.mark.parametrize("sq", [1, 4, 40])
def test_batch_composition(sq: int) -> None:
    q, k, v = qkv(generator("batch", sq), 6, 4, 2, sq, 131, 16)
    whole = fa.attention(q, k, v, causal="bottom_right", return_lse=True)
    for picks in ([0], [5], [3, 1], [2, 2, 4], [5, 4, 3, 2, 1, 0]):
        part = fa.attention(q[picks], k[picks], v[picks], causal="bottom_right", return_lse=True)
        assert_same_bits(part.out, whole.out[picks], f"batch {picks}")
        assert_same_bits(part.lse, whole.lse[picks], f"lse of batch {picks}")
    for h in range(4):
        alone = fa.attention(
            q[:, h : h + 1], k[:, h // 2 : h // 2 + 1], v[:, h // 2 : h // 2 + 1], causal="bottom_right"
        )
        assert_same_bits(alone, whole.out[:, h : h + 1], f"head {h}")


@pytest.mark.parametrize("causal", [False, "top_left", "bottom_right"])
@pytest.mark.parametrize("sq", [1, 6, 50])
def test_padding(sq: int, causal: bool | str) -> None:
    """Lengths, a boolean mask, packed sequences and plain slices are four ways to say the same thing."""
    rng = generator("padding", sq, causal)
    lengths = np.array([1100, 1, 47, 48, 960, 961, 0])
    q, k, v = qkv(rng, 7, 2, 1, sq, 1100, 16, 12)
    by_length = fa.attention(q, k, v, kv_lengths=lengths, causal=causal, return_lse=True)
    valid = np.arange(1100) < lengths[:, None]
    p = np.arange(sq) + (lengths[:, None] - sq if causal == "bottom_right" else 0)
    seen = valid[:, None, :] & (np.arange(1100) <= np.broadcast_to(p, (7, sq))[..., None] if causal else True)
    assert_same_bits(fa.attention(q, k, v, mask=seen[:, None], return_lse=True)[:2], by_length[:2], "boolean mask")
    rows = q.swapaxes(1, 2).reshape(-1, 2, 16)
    keys, values = (x.swapaxes(1, 2)[valid] for x in (k, v))
    packed = fa.attention_varlen(
        rows, keys, values, np.arange(8) * sq, np.concatenate([[0], np.cumsum(lengths)]), causal=causal, return_lse=True
    )
    assert_same_bits(packed.out, np.ascontiguousarray(by_length.out.swapaxes(1, 2)).reshape(-1, 2, 12), "packed")
    assert_same_bits(packed.lse, np.ascontiguousarray(by_length.lse.swapaxes(1, 2)).reshape(-1, 2), "lse, packed")
    for b, n in enumerate(lengths):
        alone = fa.attention(q[b : b + 1], k[b : b + 1, :, :n], v[b : b + 1, :, :n], causal=causal, return_lse=True)
        assert_same_bits(alone.out, by_length.out[b : b + 1], f"{n} keys alone")
        assert_same_bits(alone.lse, by_length.lse[b : b + 1], f"lse of {n} keys alone")


def test_varlen_isa_kernel_and_threads() -> None:
    rng = generator("varlen determinism")
    lengths_q, lengths_k = [1, 33, 0, 7, 50], [1000, 33, 5, 100, 61]
    cq, ck = (np.concatenate([[0], np.cumsum(n)]) for n in (lengths_q, lengths_k))
    q, k, v = normal(rng, cq[-1], 4, 16), normal(rng, ck[-1], 2, 16), normal(rng, ck[-1], 2, 20)
    for options in ({}, {"causal": "bottom_right"}, {"window": (7, 7)}, {"softcap": 2.0}):

        def call(num_threads: int | None, options: dict[str, Any] = options) -> Any:
            return fa.attention_varlen(q, k, v, cq, ck, return_lse=True, num_threads=num_threads, **options)

        assert_one_result(call, f"varlen {options}")


def test_repeats_and_concurrent_callers() -> None:
    arrays = qkv(generator("concurrent"), 2, 4, 2, 60, 200, 32)
    expected = fa.attention(*arrays, causal="bottom_right")
    failures: list[BaseException] = []

    def work(n: int) -> None:
        try:
            for _ in range(20):
                assert_same_bits(
                    fa.attention(*arrays, causal="bottom_right", num_threads=n), expected, f"caller with {n} threads"
                )
        except BaseException as error:  # handed to the main thread
            failures.append(error)

    callers = [threading.Thread(target=work, args=(1 + i % 4,)) for i in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
        assert not caller.is_alive()
    assert not failures, failures[0]


def test_the_list_of_isas_starts_with_the_specification() -> None:
    names = _testing.isas()
    assert "scalar" in names and len(set(names)) == len(names)
    for name in names:
        with _testing.use_isa(name):
            pass
    with pytest.raises((ValueError, RuntimeError), match="sse9"), _testing.use_isa("sse9"):
        pass
