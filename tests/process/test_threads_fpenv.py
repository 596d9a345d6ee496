# SPDX-License-Identifier: MIT
"""The caller's rounding mode and denormal switches change no bit of any operator, and survive the call."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from support.fpenv import ENVIRONMENTS, control_word, environment, needs_fenv

import fastattn as fa

pytestmark = needs_fenv

Op = Callable[[int], np.ndarray]


def _operators() -> dict[str, Op]:
    """Inputs with denormals among them, so that a switch that treats them as zero shows."""
    rng = np.random.default_rng(11)

    def array(*shape: int) -> np.ndarray:
        values = rng.standard_normal(shape, dtype=np.float32)
        return np.where(rng.random(shape) < 0.2, values * np.float32(1e-39), values)

    q, k, v = array(2, 3, 70, 24), array(2, 3, 90, 24), array(2, 3, 90, 24)
    tiny = [values * np.float32(1e-30) for values in (q, k, v)]
    bias = array(2, 1, 70, 90)
    x, weight, shift = array(37, 130), array(130), array(130)
    tiny_x = x * np.float32(1e-4)
    packed = fa.pack_linear(array(65, 130), array(65))
    return {
        "attention": lambda n: fa.attention(q, k, v, num_threads=n),
        "attention of tiny values": lambda n: fa.attention(*tiny, num_threads=n),
        "attention, scale given": lambda n: fa.attention(q, k, v, scale=0.3, num_threads=n),
        "attention, softcap": lambda n: fa.attention(q, k, v, softcap=7.3, num_threads=n),
        "attention, float mask": lambda n: fa.attention(q, k, v, mask=bias, num_threads=n),
        "attention, one query": lambda n: fa.attention(q[:, :, :1], k, v, num_threads=n),
        "lse": lambda n: fa.attention(q, k, v, return_lse=True, num_threads=n).lse,
        "linear": lambda n: fa.linear(x, packed, num_threads=n),
        "linear, gelu": lambda n: fa.linear(x, packed, activation="gelu", num_threads=n),
        "pack_linear": lambda n: fa.linear(x, fa.pack_linear(packed_weight, num_threads=n), num_threads=n),
        "layer_norm": lambda n: fa.layer_norm(x, weight, shift, eps=1e-5, num_threads=n),
        "rms_norm": lambda n: fa.rms_norm(x, weight, eps=1e-6, num_threads=n),
        "layer_norm, eps that counts": lambda n: fa.layer_norm(tiny_x, weight, shift, eps=1e-7, num_threads=n),
        "rms_norm, eps that counts": lambda n: fa.rms_norm(tiny_x, weight, eps=3e-7, num_threads=n),
        "softmax": lambda n: fa.softmax(x, num_threads=n),
        "gelu": lambda n: fa.gelu(x, num_threads=n),
        "gelu, tanh": lambda n: fa.gelu(x, approximate="tanh", num_threads=n),
        "silu": lambda n: fa.silu(x, num_threads=n),
    }


packed_weight = np.random.default_rng(12).standard_normal((65, 130), dtype=np.float32)
OPERATORS = _operators()


@cache
def expected(name: str) -> bytes:
    return OPERATORS[name](1).tobytes()


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("setting", ENVIRONMENTS)
@pytest.mark.parametrize("name", OPERATORS)
def test_same_bits_in_any_environment(name: str, setting: str, num_threads: int) -> None:
    want = expected(name)
    with environment(setting) as (libm, word):
        got = OPERATORS[name](num_threads)
        after = control_word(libm)
    assert got.tobytes() == want
    assert after == word
