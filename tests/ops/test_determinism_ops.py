# SPDX-License-Identifier: MIT
"""Linear layers and row-wise operators: the same bytes for any ISA, thread count, batch, layout and place of a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import inputs
from support.compare import assert_same_bits
from support.inputs import generator, normal
from support.variants import assert_one_result

import fastattn as fa
from fastattn import _testing, ops

H = 77
Rows = Callable[..., Any]


def row_operators() -> dict[str, Rows]:
    """name -> f(x, **options), each row of x on its own."""
    rng = generator("row operators")
    w, b, residual = normal(rng, H), normal(rng, H), normal(rng, H)
    packed = {n: fa.pack_linear(normal(rng, n, H), normal(rng, n)) for n in (1, 16, 45)}

    def with_residual(function: Rows) -> Rows:
        return lambda x, **o: function(x, residual=np.broadcast_to(residual, x.shape), **o)

    found: dict[str, Rows] = {
        "layer_norm": lambda x, **o: fa.layer_norm(x, w, b, **o),
        "layer_norm without bias": lambda x, **o: fa.layer_norm(x, w, eps=1e-12, **o),
        "layer_norm and residual": with_residual(lambda x, **o: fa.layer_norm(x, w, b, **o)),
        "rms_norm": lambda x, **o: fa.rms_norm(x, w, **o),
        "rms_norm and residual": with_residual(lambda x, **o: fa.rms_norm(x, w, **o)),
        "softmax": fa.softmax,
        "l2_normalize": ops.l2_normalize,
        "gelu": fa.gelu,
        "gelu tanh": lambda x, **o: fa.gelu(x, "tanh", **o),
        "silu": fa.silu,
        "relu": ops.relu,
        "tanh": ops.tanh,
        "sigmoid": ops.sigmoid,
        "gated gelu": lambda x, **o: ops.gated(x, np.broadcast_to(residual, x.shape), "gelu", **o),
        "gated silu": lambda x, **o: ops.gated(x, x, "silu", **o),
        "gated": lambda x, **o: ops.gated(x, np.broadcast_to(residual, x.shape), **o),
        "add": lambda x, **o: ops.add(x, np.broadcast_to(residual, x.shape), **o),
    }
    for n, layer in packed.items():
        for act in (None, "gelu", "silu"):
            found[f"linear to {n}, {act}"] = lambda x, layer=layer, act=act, **o: fa.linear(
                x, layer, activation=act, **o
            )
    return found


OPERATORS = row_operators()


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("m", [1, 7, 150])
def test_isa_threads_and_place(name: str, m: int) -> None:
    function = OPERATORS[name]
    x = normal(generator(name, m), m, H, spread=2)
    whole = assert_one_result(lambda num_threads: function(x, num_threads=num_threads), name, kernels=())
    for picks in ([0], [m - 1], list(range(m))[::-1], list(range(m // 2, m))):
        assert_same_bits(function(x[picks]), whole[picks], f"rows {picks[:3]}")
    if m > 1:
        for size in (2, 5, 12, 13, 64):
            pieces = [function(x[start : start + size]) for start in range(0, m, size)]
            assert_same_bits(np.concatenate(pieces), whole, f"in pieces of {size}")


@pytest.mark.parametrize("name", OPERATORS)
def test_layouts_ranks_and_out(name: str) -> None:
    function = OPERATORS[name]
    x = normal(generator(name), 30, H)
    whole = function(x)
    for lay in (inputs.sliced, inputs.reversed_rows, inputs.unaligned):
        assert_same_bits(function(lay(x)), whole, lay.__name__)
        out = lay(np.full(whole.shape, np.nan, np.float32))
        assert function(x, out=out) is out
        assert_same_bits(out, whole, f"out {lay.__name__}")
    for shape in ((2, 15, H), (2, 3, 5, H), (1, 30, 1, H)):
        assert_same_bits(function(x.reshape(shape)), whole.reshape(*shape[:-1], -1), f"{shape}")
    assert_same_bits(function(x[0]), whole[0], "rank 1")
    swapped = inputs.bshd(x.reshape(2, 3, 5, H))
    assert_same_bits(function(swapped), np.ascontiguousarray(whole.reshape(2, 3, 5, -1)), "swapped axes")
    assert function(x[:0]).shape == (0, whole.shape[1])
    if not name.startswith("linear"):
        same = x.copy()
        assert function(same, out=same) is same
        assert_same_bits(same, whole, "in place")


@pytest.mark.parametrize("name", OPERATORS)
def test_special_values(name: str) -> None:
    rng = generator("special", name)
    x = normal(rng, 60, H) * (10.0 ** rng.integers(-44, 38, (60, 1))).astype(np.float32)
    for i, value in enumerate((np.nan, np.inf, -np.inf, 0.0, -0.0, 3.4e38, 1e-45)):
        x[i * 5, i * 11] = value
        x[i * 5 + 1] = value
    assert_one_result(lambda num_threads: OPERATORS[name](x, num_threads=num_threads), name, kernels=())


@pytest.mark.parametrize(
    ("m", "k", "n"), [(1, 768, 129), (3, 385, 50), (12, 1, 16), (13, 1200, 17), (97, 400, 65), (40, 2000, 33)]
)
def test_linear_shapes(m: int, k: int, n: int) -> None:
    rng = generator("linear shapes", m, k, n)
    x, packed = normal(rng, m, k), fa.pack_linear(normal(rng, n, k), normal(rng, n))
    whole = assert_one_result(lambda num_threads: fa.linear(x, packed, num_threads=num_threads), "linear", kernels=())
    for i in (0, m // 2, m - 1):
        assert_same_bits(fa.linear(x[i], packed), whole[i], f"row {i} alone")


def test_linear_columns_do_not_depend_on_each_other() -> None:
    rng = generator("columns")
    x, w, b = normal(rng, 20, 100), normal(rng, 67, 100), normal(rng, 67)
    whole = fa.linear(x, fa.pack_linear(w, b), activation="gelu")
    for columns in ([0], [66], list(range(16, 40)), list(range(67))[::-1]):
        part = fa.linear(x, fa.pack_linear(w[columns], b[columns]), activation="gelu")
        assert_same_bits(part, np.ascontiguousarray(whole[:, columns]), f"columns {columns[:2]}")


def test_packing_reads_any_layout_and_keeps_a_copy() -> None:
    rng = generator("packing")
    x, w, b = normal(rng, 5, 40), normal(rng, 23, 40), normal(rng, 23)
    expected = fa.linear(x, fa.pack_linear(w, b))
    for lay in (inputs.sliced, inputs.reversed_rows, inputs.unaligned):
        assert_same_bits(fa.linear(x, fa.pack_linear(lay(w), b)), expected, lay.__name__)
    mine, bias = w.copy(), b.copy()
    packed = fa.pack_linear(mine, bias)
    mine[...], bias[...] = np.nan, np.nan
    assert_same_bits(fa.linear(x, packed), expected, "the originals changed afterwards")


@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("mode", ["mean", "max", "cls", "last", "mean_sqrt_len", "weighted_mean"])
def test_pool(mode: str, skip: int) -> None:
    x = normal(generator("pool bytes"), 300, 50)
    cu = np.array([0, 40, 40, 41, 130, 300])
    whole = assert_one_result(
        lambda num_threads: ops.pool(x, cu, mode, skip=skip, num_threads=num_threads), mode, kernels=()
    )
    for i in range(5):
        part = x[cu[i] : cu[i + 1]]
        assert_same_bits(ops.pool(part, [0, len(part)], mode, skip=skip)[0], whole[i], f"sequence {i} alone")
    assert_same_bits(ops.pool(inputs.sliced(x), cu, mode, skip=skip), whole, "strided")


def test_embedding() -> None:
    rng = generator("embedding bytes")
    tables = [normal(rng, 30, 50), normal(rng, 5, 50)]
    ids = [rng.integers(0, len(t), 200) for t in tables]
    whole = assert_one_result(
        lambda num_threads: ops.embedding(tables, ids, num_threads=num_threads), "embedding", kernels=()
    )
    for i in (0, 99, 199):
        assert_same_bits(ops.embedding(tables, [one[i : i + 1] for one in ids])[0], whole[i], f"token {i} alone")


@pytest.mark.parametrize(
    "name", ["exp2", "exp2_neg", "exp", "log2", "tanh", "erf", "sigmoid", "gelu", "gelu_tanh", "silu"]
)
def test_functions_on_every_kind_of_float(name: str) -> None:
    """Every exponent, both signs, every kind of NaN, ties of the range reduction: the bytes of the scalar table."""
    patterns = np.arange(0, 2**32, 4099, dtype=np.uint64).astype(np.uint32)
    ties = np.concatenate([np.arange(-150, 150, 0.5), np.nextafter(np.arange(-150, 150, 0.5), 1e9)]).astype(np.float32)
    edges = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, -126, -125.99999, -126.00001, 128, 127.99999], np.float32
    )
    x = np.concatenate([patterns.view(np.float32), ties, edges])
    if name == "exp2_neg":  # for the exponents of a softmax, which are at most 0
        x = -np.abs(x)
    expected = _testing.vmath(name, x, "scalar")
    for isa in _testing.isas():
        assert_same_bits(_testing.vmath(name, x, isa), expected, f"{name} {isa}")
        for n in (1, 15, 16, 17, 95, 97):
            assert_same_bits(_testing.vmath(name, x[-n:], isa), expected[-n:], f"{name} {isa} of {n}")
    assert (expected[np.isnan(x)].view(np.uint32) == 0x7FC00000).all()
    if name == "exp2":
        assert expected[x == 0].tolist() == [1.0] * int((x == 0).sum())
        normal_or_zero = (expected == 0) | (np.abs(expected) >= np.finfo(np.float32).tiny) | np.isnan(expected)
        assert normal_or_zero.all()
