# SPDX-License-Identifier: MIT
"""Linear layers and row-wise operators under the accuracy rule, and the canonical order written out in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.compare import assert_accurate, assert_same_bits, assert_same_special
from support.inputs import generator, normal

import fastattn as fa
from fastattn import ops, reference

F32 = np.float32
LONG = 200  # terms of a sum from which NumPy's pairwise order and BLAS's many accumulators win over any simple one
WIDTHS = [1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 61, 64, 127, 128, 129, 383, 384, 385, 768, 769, 1021]
RANGES = [
    (-200, -20),
    (-20, -6),
    (-6, -3),
    (-3, -1),
    (-1, -0.1),
    (-0.1, 0.1),
    (0.1, 1),
    (1, 3),
    (3, 6),
    (6, 20),
    (20, 200),
]
TINY = [(1e-4, 1e-3), (1e-10, 1e-9), (-1e-20, -1e-21), (1e-38, 2e-38), (1e-44, 1e-40)]


def accurate(
    got: Any,
    oracle: Callable[..., np.ndarray],
    *arguments: Any,
    what: str = "out",
    ordered: bool = False,
    **options: Any,
) -> None:
    """The accuracy rule; ``ordered``: naive fp32 counts as a plain loop as well as NumPy's pairwise sums (or BLAS)."""
    ref, naive = oracle(*arguments, **options), oracle(*arguments, dtype=np.float32, **options)

    def again(rng: np.random.Generator) -> np.ndarray:
        return oracle(*arguments, dtype=np.float32, order=rng, **options)

    assert_accurate(got, ref, naive, what, again if ordered else None)


# ---- linear ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5, 16, 61, 383, 384, 385, 768, 1153])
@pytest.mark.parametrize("m", [1, 2, 6, 11, 12, 13, 40])
def test_linear(m: int, k: int) -> None:
    rng = generator("linear", m, k)
    for n in (1, 15, 16, 17, 33, 100):
        x, w, b = normal(rng, m, k), normal(rng, n, k), normal(rng, n)
        got = fa.linear(x, fa.pack_linear(w, b))
        accurate(got, reference.linear, x, w, b, what=f"{m} x {k} x {n}", ordered=m * n < 600 or k > LONG)
        assert_same_bits(fa.linear(x, fa.pack_linear(w)) + b, got, "bias added last")


@pytest.mark.parametrize("activation", [None, "gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid"])
def test_linear_activations(activation: str | None) -> None:
    rng = generator("activation", activation)
    x, w, b = normal(rng, 200, 96), normal(rng, 130, 96, spread=0.3), normal(rng, 130)
    packed = fa.pack_linear(w, b)
    got = fa.linear(x, packed, activation=activation)
    accurate(got, reference.linear, x, w, b, activation)
    before = fa.linear(x, packed)
    if activation is not None:
        alone = fa.gelu(before, "tanh") if activation == "gelu_tanh" else getattr(ops, activation)(before)
        assert_same_bits(got, alone, "fused and separate")


@pytest.mark.parametrize("case", ["equal", "huge", "tiny", "denormal", "cancelling", "one dominant"])
def test_linear_adversarial(case: str) -> None:
    rng = generator("linear case", case)
    x, w = normal(rng, 150, 200), normal(rng, 70, 200)
    if case == "equal":
        x[...], w[...] = 0.3, -0.7
    elif case == "huge":
        x, w = x * F32(1e18), w * F32(1e17)
    elif case == "tiny":
        x, w = x * F32(1e-20), w * F32(1e-15)
    elif case == "denormal":
        w = w * F32(1e-40)
    elif case == "cancelling":
        x[:, 1::2], w[:, 1::2] = x[:, ::2], -w[:, ::2] + normal(rng, 70, 100) * F32(1e-3)
    else:
        x[:, 77] *= F32(1e6)
    accurate(fa.linear(x, fa.pack_linear(w)), reference.linear, x, w)


def test_linear_special_values() -> None:
    rng = generator("linear special")
    x, w, b = normal(rng, 40, 33), normal(rng, 20, 33), normal(rng, 20)
    x[3, 5], x[7, 2], w[11, 8], b[13] = np.nan, np.inf, -np.inf, np.nan
    for activation in (None, "relu"):
        got = fa.linear(x, fa.pack_linear(w, b), activation=activation)
        assert_same_special(got, reference.linear(x, w, b, activation))


@pytest.mark.parametrize("k", [1, 7, 383, 384, 385, 1000])
def test_linear_in_the_canonical_order(k: int) -> None:
    """p = fma(a, w, p) in order within chunks of 384, chunks added in order, then the bias: to the bit.

    With 12-bit inputs every product and every sum is exact in float64, so that one cast is the rounding of the fma.
    """
    rng = generator("canonical", k)
    x, w, b = ((rng.integers(-2048, 2049, shape) / 1024).astype(F32) for shape in ((9, k), (35, k), (35,)))
    total = None
    for start in range(0, k, 384):
        p = np.zeros((9, 35), F32)
        for i in range(start, min(start + 384, k)):
            p = (p.astype(np.float64) + x[:, i, None].astype(np.float64) * w[:, i]).astype(F32)
        total = p if total is None else total + p
    assert_same_bits(fa.linear(x, fa.pack_linear(w, b)), total + b, f"K = {k}")


@pytest.mark.parametrize("sk", [1, 47, 48, 49, 959, 960, 961, 2000])
def test_attention_adds_values_in_the_canonical_order(sk: int) -> None:
    """With equal scores every weight is 1: keys are added in order by blocks of 48, then blocks, then chunks of 960."""
    v = normal(generator("canonical values", sk), 1, 1, sk, 20)
    total = None
    for start in range(0, sk, 960):
        chunk, o = v[0, 0, start : start + 960], np.zeros(20, F32)
        for at in range(0, len(chunk), 48):
            block = np.zeros(20, F32)
            for row in chunk[at : at + 48]:
                block = block + row
            o = o + block
        total = o if total is None else total + o
    expected = (total / F32(sk), total * (F32(1) / F32(sk)))
    for sq in (1, 40):
        got = fa.attention(np.zeros((1, 1, sq, 8), F32), np.ones((1, 1, sk, 8), F32), v)[0, 0]
        assert any((got.view(np.uint32) == way.view(np.uint32)).all() for way in expected), f"{sq} queries"


# ---- rows ------------------------------------------------------------------------------------------------------------


def rows(rng: np.random.Generator, case: str, h: int) -> np.ndarray:
    x = normal(rng, 300, h)
    if case == "equal":
        return np.repeat(normal(rng, 300, 1), h, axis=1)
    if case == "offset":
        return x + F32(300)
    if case == "huge":
        return x * F32(1e17)
    if case == "tiny":
        return x * F32(1e-15)
    if case == "one dominant":
        x[:, h // 2] *= F32(1e5)
    return x


CASES = ["plain", "equal", "offset", "huge", "tiny", "one dominant"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("h", WIDTHS)
def test_norms(h: int, case: str) -> None:
    rng = generator("norms", h, case)
    x, w, b = rows(rng, case, h), normal(rng, h), normal(rng, h)
    residual = normal(rng, 300, h)
    for eps in (1e-5, 1e-12):
        accurate(fa.layer_norm(x, w, b, eps), reference.layer_norm, x, w, b, eps, what="layer_norm", ordered=h > LONG)
        accurate(fa.rms_norm(x, w, eps), reference.rms_norm, x, w, eps, what="rms_norm", ordered=h > LONG)
    accurate(
        fa.layer_norm(x, w, b, residual=residual), reference.layer_norm, x, w, b, residual=residual, what="residual"
    )
    accurate(fa.rms_norm(x, w, residual=residual), reference.rms_norm, x, w, residual=residual, ordered=h > LONG)
    assert_same_bits(fa.layer_norm(x, w, b, residual=residual), fa.layer_norm(x + residual, w, b), "fused residual")
    assert_same_bits(fa.rms_norm(x, w, residual=residual), fa.rms_norm(x + residual, w), "fused residual")


@pytest.mark.parametrize("case", [*CASES, "masked"])
@pytest.mark.parametrize("h", WIDTHS)
def test_softmax(h: int, case: str) -> None:
    rng = generator("softmax", h, case)
    x = rows(rng, "plain" if case == "masked" else case, h) * F32(3)
    if case == "masked":
        x[rng.random(x.shape) < 0.5] = -np.inf
        x[5] = -np.inf
    accurate(fa.softmax(x), reference.softmax, x, ordered=h > LONG)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("h", WIDTHS)
def test_l2_normalize(h: int, case: str) -> None:
    x = rows(generator("l2", h, case), case, h)
    x[7] = 0
    accurate(ops.l2_normalize(x), reference.l2_normalize, x, ordered=h > LONG)


def test_l2_normalize_beyond_the_range_of_squares() -> None:
    x = normal(generator("l2 range"), 50, 100)
    for factor in (1e-30, 1e30):
        y = x * F32(factor)
        ref = reference.l2_normalize(y, eps=0.0)
        assert_accurate(ops.l2_normalize(y, eps=0.0), ref, reference.l2_normalize(x, dtype=F32), f"{factor}")


@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("mode", ["mean", "max", "cls", "last", "mean_sqrt_len", "weighted_mean"])
def test_pool(mode: str, skip: int) -> None:
    x = normal(generator("pool"), 400, 37)
    cu = [0, 1, 1, 17, 18, 118, 118, 119, 400]
    accurate(ops.pool(x, cu, mode, skip=skip), reference.pool, x, cu, mode, skip)
    x[50, 3] = np.nan
    x[200, 4] = np.inf
    assert_same_special(ops.pool(x, cu, mode, skip=skip), reference.pool(x, cu, mode, skip))
    assert ops.pool(x[:0], [0], mode).shape == (0, 37)
    assert not ops.pool(x[:0], [0, 0, 0], mode).view(np.uint32).any()


def test_embedding() -> None:
    rng = generator("embedding")
    tables = [normal(rng, 50, 37), normal(rng, 2, 37), normal(rng, 9, 37)]
    ids = [rng.integers(0, len(t), 60) for t in tables]
    got = ops.embedding(tables, ids)
    assert_same_bits(got, (tables[0][ids[0]] + tables[1][ids[1]]) + tables[2][ids[2]], "left to right")
    assert_same_bits(ops.embedding(tables[:1], ids[:1]), tables[0][ids[0]], "one table")
    for kind in (np.int32, np.uint8):
        assert_same_bits(ops.embedding(tables, [i.astype(kind) for i in ids]), got, str(kind))
    assert ops.embedding(tables, [i[:0] for i in ids]).shape == (0, 37)


# ---- elementwise -----------------------------------------------------------------------------------------------------

FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., np.ndarray]]] = {
    "gelu": (fa.gelu, reference.gelu),
    "gelu_tanh": (lambda x: fa.gelu(x, "tanh"), lambda x, dtype=np.float64: reference.gelu(x, "tanh", dtype)),
    "silu": (fa.silu, reference.silu),
    "relu": (ops.relu, reference.relu),
    "tanh": (ops.tanh, reference.tanh),
    "sigmoid": (ops.sigmoid, reference.sigmoid),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations_in_every_range(name: str) -> None:
    function, oracle = FUNCTIONS[name]
    for low, high in [*RANGES, *TINY]:
        x = np.linspace(low, high, 20011, dtype=F32)
        accurate(function(x), oracle, x, what=f"{name} from {low} to {high}")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations_of_special_values(name: str) -> None:
    function, oracle = FUNCTIONS[name]
    x = np.array([np.nan, np.inf, 0.0, -0.0, 3.4e38, -3.4e38, 1e-45, -1e-45], F32)
    got, ref = function(x), oracle(x)
    assert_same_special(got[:4], ref[:4])
    assert got[0].view(np.uint32) == 0x7FC00000 and np.isfinite(got[5:]).all()
    if name != "sigmoid":
        assert got[2] == 0 and got[3] == 0
    limit = function(np.array([-np.inf], F32))[0]  # the limit, or NaN of inf * 0; never another number
    assert limit == {"tanh": -1}.get(name, 0) or np.isnan(limit)
