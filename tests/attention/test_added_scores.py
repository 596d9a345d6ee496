# SPDX-License-Identifier: MIT
"""What is added to scores while they are in registers: masks of every layout, biases and ALiBi, beside the same added
elsewhere: by the decode kernel, in rows of their own, in a mask of full size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.compare import assert_same_bits, attend_both, check_attention
from support.inputs import generator, normal, qkv
from support.variants import assert_one_result

import fastattn as fa

HEADS = (4, 2)
SLOPES = np.array([0.5, 0.25, -0.125, 3.0], np.float32)
SHAPES = [(16, 48, 16), (17, 49, 20), (33, 97, 16), (40, 1009, 32), (64, 65, 33)]
"""Queries, keys, features: whole tiles and blocks, one more than that, a second chunk of keys."""


def masks(rng: np.random.Generator, sq: int, sk: int) -> dict[str, np.ndarray]:
    """Every way a mask may be broadcast, with finite numbers, the least float and -inf."""
    whole = normal(rng, 2, HEADS[0], sq, sk)
    whole[rng.random(whole.shape) < 0.1] = -np.inf
    whole[rng.random(whole.shape) < 0.05] = np.finfo(np.float32).min
    return {
        "of each head": whole,
        "of all heads": whole[:, :1],
        "of all": whole[0, 0],
        "of each key": whole[:, :1, :1],
        "of each query": whole[:, :, :, :1],
        "one number": whole[:1, :1, :1, :1],
        "not aligned": np.concatenate([whole[..., :1], whole], -1)[..., 1:],
    }


def added(rng: np.random.Generator, sq: int, sk: int) -> dict[str, dict[str, Any]]:
    table = normal(rng, HEADS[0], 16)
    ways: dict[str, dict[str, Any]] = {f"mask {name}": {"mask": mask} for name, mask in masks(rng, sq, sk).items()}
    ways["alibi"] = {"alibi_slopes": SLOPES}
    ways["bias"] = {"relative_bias": (table, True, 40)}
    some = masks(rng, sq, sk)
    ways["alibi and mask"] = {"alibi_slopes": SLOPES, "mask": some["of all"]}
    ways["alibi and padding"] = {"alibi_slopes": SLOPES, "mask": some["of each key"]}
    ways["bias and mask"] = {"relative_bias": (table, True, 40), "mask": some["of all heads"]}
    ways["softcap and mask"] = {"softcap": 3.0, "mask": some["of each head"]}
    return ways


@pytest.mark.parametrize("shape", SHAPES)
def test_one_result(shape: tuple[int, int, int]) -> None:
    sq, sk, d = shape
    rng = generator("added", shape)
    arrays = qkv(rng, 2, *HEADS, sq, sk, d)
    for name, options in added(rng, sq, sk).items():
        for causal, first in ((False, 0), (True, sk - sq)):
            all_rows: dict[str, Any] = {**options, "causal": causal, "q_offset": first, "return_lse": True}

            def call(num_threads: int | None, all_rows: dict[str, Any] = all_rows) -> Any:
                return fa.attention(*arrays, num_threads=num_threads, **all_rows)

            got = assert_one_result(call, name, kernels=("tile",), slow=sk > 100)
            row = slice(sq // 2, sq // 2 + 1)
            one_row = {**all_rows, "q_offset": first + row.start}
            if "mask" in options and options["mask"].shape[-2] > 1:
                one_row["mask"] = options["mask"][..., row, :]
            alone: Any = fa.attention(arrays[0][:, :, row], *arrays[1:], **one_row)
            assert_same_bits(alone.out, got.out[:, :, row], f"{name}, a row alone")
            assert_same_bits(alone.lse, got.lse[:, :, row], f"{name}, lse of a row alone")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_broadcast_mask_is_that_mask_written_out(shape: tuple[int, int, int]) -> None:
    sq, sk, d = shape
    rng = generator("broadcast", shape)
    arrays = qkv(rng, 2, *HEADS, sq, sk, d)
    for name, mask in masks(rng, sq, sk).items():
        full = np.ascontiguousarray(np.broadcast_to(mask, (2, HEADS[0], sq, sk)))
        for options in ({}, {"alibi_slopes": SLOPES}, {"causal": "bottom_right"}):
            assert_same_bits(
                attend_both(*arrays, mask=mask, **options), attend_both(*arrays, mask=full, **options), name
            )


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_accuracy(shape: tuple[int, int, int]) -> None:
    sq, sk, d = shape
    rng = generator("accuracy of added", shape)
    arrays = qkv(rng, 2, *HEADS, sq, sk, d)
    for options in added(rng, sq, sk).values():
        check_attention(*arrays, **options)


@pytest.mark.parametrize("x", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 15, 16, 47, 48, 70])
def test_a_key_behind_minus_infinity_leaves_no_trace(where: int, x: float) -> None:
    """Products of NaN and of both infinities, while other rows see the key."""
    rng = generator("behind", where, x)
    q, k, v = qkv(rng, 1, *HEADS, 40, 71, 16)
    mask = normal(rng, HEADS[0], 40, 71)
    mask[:, 3:35, where] = -np.inf
    clean: Any = fa.attention(q, k, v, mask=mask, return_lse=True)
    k[:, :, where] = x
    v[:, :, where] = x

    def call(num_threads: int | None) -> Any:
        return fa.attention(q, k, v, mask=mask, num_threads=num_threads, return_lse=True)

    dirty = assert_one_result(call, f"{x}")
    assert_same_bits(dirty.out[:, :, 3:35], clean.out[:, :, 3:35], "rows that do not see it")
    assert_same_bits(dirty.lse[:, :, 3:35], clean.lse[:, :, 3:35], "their lse")
    assert np.isnan(dirty.out[:, :, :3]).all() or not np.isnan(x)
