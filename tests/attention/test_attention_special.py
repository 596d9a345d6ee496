# SPDX-License-Identifier: MIT
"""NaN and infinities in sinks, slopes, bias tables and scales: where the oracle has them, the same on every kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.compare import assert_accurate, assert_same_special
from support.inputs import generator, qkv
from support.variants import assert_one_result

import fastattn as fa
from fastattn import reference

HEADS = (4, 2)


def second(x: float, *rest: float) -> np.ndarray:
    """Four numbers of which the second is x."""
    return np.array([1, x, *(rest or (2, 3))], np.float32)


def table(entry: int, x: float) -> np.ndarray:
    t = generator("special table").standard_normal((4, 8)).astype(np.float32)
    t[:, entry] = x
    return t


CASES: dict[str, Any] = {
    "sinks": lambda x: {"sinks": second(x)},
    "sinks of rows without keys": lambda x: {"sinks": second(x), "kv_lengths": np.array([0, 3])},
    "sinks of rows that the mask leaves none": lambda x: {"sinks": second(x), "mask": np.zeros((7, 60), bool)},
    "slopes": lambda x: {"alibi_slopes": second(x)},
    "slopes, each query on its own key": lambda x: {"alibi_slopes": second(x), "window": (0, 0)},
    "bias of a distance": lambda x: {"relative_bias": (table(3, x), True, 20)},
    "bias of keys ahead": lambda x: {"relative_bias": (table(5, x), True, 20)},
    "bias of keys ahead that nobody sees": lambda x: {"relative_bias": (table(5, x), True, 20), "causal": "top_left"},
    "bias of one direction": lambda x: {"relative_bias": (table(2, x), False, 20), "causal": "top_left"},
}


@pytest.mark.parametrize("x", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", CASES)
def test_parameters(what: str, x: float) -> None:
    arrays, options = qkv(generator(what, x), 2, *HEADS, 7, 60, 8, 6), CASES[what](x)

    def call(num_threads: int | None) -> Any:
        return fa.attention(*arrays, num_threads=num_threads, return_lse=True, return_weights=True,
                            return_scores="bias", **options)  # fmt: skip

    got = assert_one_result(call, f"{what} {x}")
    ref = reference.attention(*arrays, return_scores="bias", **options)
    naive = reference.attention(*arrays, dtype=np.float32, return_scores="bias", **options)
    for name in ("out", "lse", "weights", "scores"):

        def again(rng: Any, name: str = name) -> np.ndarray:
            other = reference.attention(*arrays, dtype=np.float32, order=rng, return_scores="bias", **options)
            return np.asarray(getattr(other, name))

        assert_accurate(getattr(got, name), getattr(ref, name), getattr(naive, name), name, again)


@pytest.mark.parametrize("x", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["k_scale", "v_scale"])
def test_scales_of_keys_that_are_seen_and_that_are_not(name: str, x: float) -> None:
    rng = generator("special scales")
    q, k, v = qkv(rng, 2, *HEADS, 7, 60, 8, 6)
    k, v = (rng.integers(1, 128, a.shape).astype(np.int8) for a in (k, v))
    scales = {n: np.full(k.shape[:-1], 0.01, np.float32) for n in ("k_scale", "v_scale")}
    scales[name][1, :, 3] = x
    for mask in (np.ones(60, bool), np.arange(60) != 3):

        def call(num_threads: int | None, mask: np.ndarray = mask) -> Any:
            return fa.attention(q, k, v, mask=mask, num_threads=num_threads, return_lse=True, return_weights=True,
                                **scales)  # fmt: skip

        got, ref = assert_one_result(call, f"{name} {x}"), reference.attention(q, k, v, mask=mask, **scales)
        for field in ("out", "lse", "weights"):
            assert_same_special(getattr(got, field), getattr(ref, field), field)
        assert np.isfinite(got.out[0]).all() and np.isfinite(got.out[1]).all() == (not mask[3])
