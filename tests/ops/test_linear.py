# SPDX-License-Identifier: MIT
"""Packed weights as objects, and every size of tile against rows computed alone.

Accuracy, order, determinism and refusals stand in test_accuracy_ops, test_determinism_ops, test_bad_input_ops.
"""

from __future__ import annotations

import array
import copy
import gc
import itertools
import pickle
import threading

import numpy as np
import pytest
from support.compare import assert_same_bits
from support.dlpack import Producer
from support.inputs import generator, normal

import fastattn as fa
from fastattn import _testing, ops

F32 = np.float32
ACTIVATIONS = {
    "relu": ops.relu, "gelu": ops.gelu, "gelu_tanh": lambda x: ops.gelu(x, "tanh"), "silu": ops.silu, "tanh": ops.tanh,
    "sigmoid": ops.sigmoid,
}  # fmt: skip


@pytest.mark.parametrize(("n", "k"), [(1, 1), (16, 16), (17, 5), (33, 40), (5, 0), (0, 5), (48, 385)])
def test_panels(n: int, k: int) -> None:
    """[ceil(N / 16)][K][16], zero beyond N, 64-byte aligned."""
    w = normal(generator("panels", n, k), n, k)
    packed = fa.pack_linear(w)
    padded = np.zeros(((n + 15) // 16 * 16, k), F32)
    padded[:n] = w
    assert_same_bits(packed.panels, np.ascontiguousarray(padded.reshape(len(padded) // 16, 16, k).swapaxes(1, 2)))
    assert packed.panels.ctypes.data % 64 == 0 or packed.panels.size == 0
    assert (packed.in_features, packed.out_features, packed.dtype, packed.bias) == (k, n, "float32", None)
    assert packed.nbytes == padded.nbytes
    x = normal(generator("x"), 3, k)
    assert fa.linear(x, packed).shape == (3, n)
    if k == 0:
        assert fa.linear(x, fa.pack_linear(w, np.arange(n, dtype=F32))).tolist() == [list(range(n))] * 3


def test_packed_does_not_change() -> None:
    rng = generator("object")
    packed = fa.pack_linear(normal(rng, 20, 7), normal(rng, 20))
    assert repr(packed) == "PackedLinear(in_features=7, out_features=20, bias=True, dtype='float32')"
    assert packed.nbytes == 2 * 16 * 7 * 4 + 20 * 4
    for part in (packed.panels, packed.bias):
        with pytest.raises(ValueError, match="read-only"):
            part[0] = 1
    for name in ("in_features", "out_features", "nbytes", "dtype", "panels", "bias", "other"):
        with pytest.raises(AttributeError):
            setattr(packed, name, 1)
    with pytest.raises(TypeError, match="pack_linear"):
        fa.PackedLinear()
    with pytest.raises(ValueError, match="'int2'.*'float32'"):
        fa.pack_linear(normal(rng, 2, 2), dtype="int2")


@pytest.mark.parametrize("bias", [False, True])
def test_packed_through_pickle_and_copy(bias: bool) -> None:
    rng = generator("pickle", bias)
    x, packed = normal(rng, 4, 30), fa.pack_linear(normal(rng, 21, 30), normal(rng, 21) if bias else None)
    for other in (pickle.loads(pickle.dumps(packed)), copy.deepcopy(packed), copy.copy(packed)):
        assert repr(other) == repr(packed) and other.panels.ctypes.data % 64 == 0
        assert_same_bits(fa.linear(x, other), fa.linear(x, packed))


@pytest.mark.parametrize("isa", _testing.isas())
@pytest.mark.parametrize("panels", [1, 2, 3, 5, 7, 9, 16, 18])
def test_every_tile(isa: str, panels: int) -> None:
    """Every number of rows of a tile beside every number of panels: each row as it is alone, by the scalar table."""
    rng = generator("tiles", panels)
    n, k = 16 * panels - 3, 400
    x, packed = normal(rng, 26, k), fa.pack_linear(normal(rng, n, k), normal(rng, n))
    with _testing.use_isa("scalar"):
        alone = np.stack([fa.linear(row, packed) for row in x])
    with _testing.use_isa(isa):
        for m in range(1, 27):
            assert_same_bits(fa.linear(x[:m], packed), alone[:m], f"{m} rows x {panels} panels")


@pytest.mark.parametrize(
    ("m", "k", "n"), [(97, 30, 300), (200, 400, 40), (193, 800, 17), (400, 769, 273), (5, 1153, 600)]
)
def test_blocks(m: int, k: int, n: int) -> None:
    """Beyond one block of rows, of panels and of inputs, one and two threads."""
    rng = generator("blocks", m, k, n)
    x, packed = normal(rng, m, k), fa.pack_linear(normal(rng, n, k), normal(rng, n))
    whole = fa.linear(x, packed, activation="gelu", num_threads=1)
    for isa in _testing.isas():
        if isa != "scalar":
            with _testing.use_isa(isa):
                assert_same_bits(fa.linear(x, packed, activation="gelu", num_threads=2), whole, isa)
    for i in (0, 11, 12, m // 2, m - 1):
        if i < m:
            assert_same_bits(fa.linear(x[i], packed, activation="gelu"), whole[i], f"row {i}")


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("bias", [False, True])
def test_fused_activation_is_the_separate_one(name: str, bias: bool) -> None:
    rng = generator("fused", name)
    x, packed = normal(rng, 30, 50), fa.pack_linear(normal(rng, 85, 50), normal(rng, 85) if bias else None)
    assert_same_bits(fa.linear(x, packed, activation=name), ACTIVATIONS[name](fa.linear(x, packed)))


def test_any_array() -> None:
    """Buffers and DLPack producers, as input and as out, without a copy."""
    rng = generator("arrays")
    x, w, b = normal(rng, 4, 6), normal(rng, 5, 6), normal(rng, 5)
    packed = fa.pack_linear(Producer(w), Producer(b))
    expected = fa.linear(x, packed)
    assert_same_bits(fa.linear(Producer(x), packed), expected)
    assert_same_bits(fa.linear(memoryview(x), packed), expected)
    assert_same_bits(fa.linear(array.array("f", x[0].tolist()), packed), expected[0])
    out = np.zeros((4, 5), F32)
    producer = Producer(out)
    assert fa.linear(x, packed, out=producer) is producer
    assert_same_bits(out, expected)


def test_out_keeps_to_its_elements() -> None:
    rng = generator("margins")
    for n in (1, 15, 16, 17, 40):
        packed = fa.pack_linear(normal(rng, n, 20), normal(rng, n))
        big = np.full((9, n + 40), 7, F32)
        x = normal(rng, 9, 20)
        fa.linear(x, packed, activation="gelu", out=big[:, 20 : 20 + n])
        assert_same_bits(np.ascontiguousarray(big[:, 20 : 20 + n]), fa.linear(x, packed, activation="gelu"))
        assert (big[:, :20] == 7).all() and (big[:, 20 + n :] == 7).all()


def test_many_callers() -> None:
    rng = generator("callers")
    x, packed = normal(rng, 64, 384), fa.pack_linear(normal(rng, 384, 384), normal(rng, 384))
    expected, results = fa.linear(x, packed), []

    def call() -> None:
        results.extend(fa.linear(x, packed, num_threads=2) for _ in range(10))

    callers = [threading.Thread(target=call) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 60
    for result in results:
        assert_same_bits(result, expected)


def test_weights_that_share_a_block_of_memory_are_apart() -> None:
    """Layers of some hundred kilobytes are cut from larger blocks: aligned, disjoint, alive while they are used."""
    rng = np.random.default_rng(3)
    weights = [rng.standard_normal((200 + 16 * i, 120), dtype=np.float32) for i in range(80)]  # 12 MB: several blocks
    layers = [fa.pack_linear(weight) for weight in weights]
    spans = sorted((layer.panels.ctypes.data, layer.panels.nbytes) for layer in layers)
    assert all(address % 64 == 0 for address, _ in spans)
    assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(spans))
    del layers[::2]
    gc.collect()
    x = np.eye(120, dtype=np.float32)
    for weight, layer in zip(weights[1::2], layers, strict=True):
        assert (fa.linear(x, layer) == weight.T).all()
