# SPDX-License-Identifier: MIT
"""Linear layers with int8 weights: the integers of the oracle, the same bits everywhere, how near float32 they are."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from support.compare import assert_same_bits
from support.inputs import generator, normal

import fastattn as fa
from fastattn import _testing, reference

F32 = np.float32
SIZES = [(1, 1), (16, 4), (17, 5), (33, 127), (40, 128), (5, 129), (20, 384), (48, 1000), (0, 5), (5, 0)]


def pack(n: int, k: int, bias: bool = True) -> tuple[np.ndarray, np.ndarray | None, fa.PackedLinear]:
    rng = generator("int8", n, k)
    w, b = normal(rng, n, k), normal(rng, n) if bias else None
    return w, b, fa.pack_linear(w, b, dtype="int8")


@pytest.mark.parametrize(("n", "k"), SIZES)
def test_panels_are_the_oracles(n: int, k: int) -> None:
    """[ceil(N / 16)][ceil(K / 4)][16][4], zero beyond N and K; on every instruction set."""
    w, b, packed = pack(n, k)
    q, scale = reference.quantize_rows(w)
    blocks, groups = (n + 15) // 16, (k + 3) // 4
    padded = np.zeros((blocks * 16, groups * 4), np.int8)
    padded[:n, :k] = q
    assert (packed.panels == padded.reshape(blocks, 16, groups, 4).swapaxes(1, 2)).all()
    arrays = packed.arrays()
    assert list(arrays) == ["panels", "scale", "column_sums", "bias"]
    assert_same_bits(arrays["scale"][:n], scale / F32(64))
    assert (arrays["column_sums"] == padded.sum(1, dtype=np.int32)).all() and not arrays["scale"][n:].any()
    assert packed.panels.ctypes.data % 64 == 0 or packed.panels.size == 0
    assert repr(packed) == f"PackedLinear(in_features={k}, out_features={n}, bias=True, dtype='int8')"
    for isa in _testing.isas():
        with _testing.use_isa(isa):
            again = fa.pack_linear(w, b, dtype="int8", num_threads=2)
        for name, part in again.arrays().items():
            assert part.tobytes() == arrays[name].tobytes(), f"{name} of {isa}"


@pytest.mark.parametrize("isa", _testing.isas())
@pytest.mark.parametrize(("n", "k"), [*SIZES, (250, 384), (100, 2052)])
@pytest.mark.parametrize("bias", [False, True])
def test_bits_of_the_oracle(isa: str, n: int, k: int, bias: bool) -> None:
    """Every number of rows of a tile; integer sums, then three roundings."""
    w, b, packed = pack(n, k, bias)
    x = normal(generator("x", n, k), 14, k)
    expected = reference.linear_int8(x, w, b)
    with _testing.use_isa(isa):
        for m in (1, 2, 3, 5, 7, 8, 9, 12, 13, 14):
            assert_same_bits(fa.linear(x[:m], packed, num_threads=2), expected[:m], f"{m} rows")


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid"])
def test_fused_activation_is_the_separate_one(activation: str) -> None:
    _, _, packed = pack(230, 100)
    x = normal(generator("x"), 30, 100)
    separate = {"gelu_tanh": lambda y: fa.gelu(y, "tanh")}.get(activation, getattr(fa.ops, activation, None))
    assert separate is not None
    assert_same_bits(fa.linear(x, packed, activation=activation), separate(fa.linear(x, packed)))


@pytest.mark.parametrize(("m", "k", "n"), [(400, 385, 600), (2100, 20, 40), (5, 1153, 2500), (2049, 130, 17)])
def test_blocks_threads_and_neighbours(m: int, k: int, n: int) -> None:
    """Beyond one pass, one block of rows and of panels; each row as it is alone."""
    _, _, packed = pack(n, k)
    x = normal(generator("x", m), m, k)
    whole = fa.linear(x, packed, activation="gelu", num_threads=1)
    for isa in _testing.isas():
        if isa != "scalar":
            with _testing.use_isa(isa):
                assert_same_bits(fa.linear(x, packed, activation="gelu", num_threads=2), whole, isa)
    for i in (0, 11, 12, m // 2, m - 1):
        assert_same_bits(fa.linear(x[i % m], packed, activation="gelu"), whole[i % m], f"row {i % m}")


def test_near_float32() -> None:
    """Rounding to 8 bits costs 1 per cent of a product's size, with outliers too: they are rotated away."""
    rng = generator("near")
    for k in (128, 384, 1536):
        w, x = normal(rng, 200, k), normal(rng, 300, k)
        x[:, 5] *= 12
        x[:, 77] += 15
        exact = reference.linear(x, w)
        error = np.sqrt(((fa.linear(x, fa.pack_linear(w, dtype="int8")) - exact) ** 2).mean() / (exact**2).mean())
        assert error < 0.013, f"K = {k}: {error}"


@pytest.mark.parametrize("isa", _testing.isas())
def test_special_rows(isa: str) -> None:
    """NaN and infinity make their row NaN and no other; zeros give the bias; sizes do not matter."""
    w, b, packed = pack(40, 200)
    assert b is not None
    x = normal(generator("x"), 9, 200)
    with _testing.use_isa(isa):
        plain = fa.linear(x, packed)
        x[1, 7], x[3, 199], x[5] = np.nan, -np.inf, 0
        got = fa.linear(x, packed)
        assert (got[[1, 3]].view(np.uint32) == 0x7FC00000).all()
        assert_same_bits(got[5], b)
        rest = [0, 2, 4, 6, 7, 8]
        assert_same_bits(got[rest], plain[rest])
        without = fa.pack_linear(w, dtype="int8")
        clean = fa.linear(x[rest], without)
        for power in (-100, -60, 60, 115):
            assert_same_bits(fa.linear(x[rest] * F32(2.0**power), without), clean * F32(2.0**power), str(power))
        most = np.full((1, 200), np.finfo(F32).max, F32)
        assert np.isfinite(fa.linear(most, fa.pack_linear(w * F32(1e-4), dtype="int8"))).all()
        tiny = np.full((1, 200), 2.0**-149, F32)
        assert np.isfinite(fa.linear(tiny, packed)).all()


def test_through_arrays_pickle_and_copy() -> None:
    _, _, packed = pack(21, 30)
    x = normal(generator("x"), 4, 30)
    again = fa.PackedLinear.from_arrays(packed.arrays(), 30, 21, "int8")
    assert again.panels.ctypes.data == packed.panels.ctypes.data
    for other in (again, pickle.loads(pickle.dumps(packed)), copy.deepcopy(packed)):
        assert repr(other) == repr(packed)
        assert_same_bits(fa.linear(x, other), fa.linear(x, packed))


def test_refusals() -> None:
    w = np.ones((5, 8), F32)
    for bad in (np.nan, np.inf):
        w[3, 2] = bad
        with pytest.raises(ValueError, match=r"^weight: .*row 3.*'int8'"):
            fa.pack_linear(w, dtype="int8")
    with pytest.raises(ValueError, match=r"^weight: .*\(1, 131073\).*131072"):
        fa.pack_linear(np.ones((1, 131073), F32), dtype="int8")
    with pytest.raises(ValueError, match=r"^dtype: 'int2'.*'float32'.*'int8'"):
        fa.pack_linear(np.ones((1, 1), F32), dtype="int2")
    _, _, packed = pack(21, 30)
    arrays = packed.arrays()
    for name, part in arrays.items():
        for wrong, error in ((part.astype(np.float64), TypeError), (part[:-1], ValueError), (None, TypeError)):
            with pytest.raises(error, match=rf"arrays\['{name}'\]"):
                fa.PackedLinear.from_arrays({**arrays, name: wrong}, 30, 21, "int8")
    with pytest.raises(ValueError, match="'scale'"):
        fa.PackedLinear.from_arrays({"panels": packed.panels}, 30, 21, "int8")
    with pytest.raises(ValueError, match="in_features: 131073"):
        fa.PackedLinear.from_arrays(arrays, 131073, 21, "int8")


def test_most_inputs() -> None:
    """The largest K there may be, with sums as large as they can get."""
    k = 1 << 17
    packed = fa.pack_linear(np.tile(F32([1, -1]), k // 2)[None], dtype="int8")
    x = np.tile(F32([1, -1]), k // 2)
    for isa in _testing.isas():
        with _testing.use_isa(isa):
            assert abs(float(fa.linear(x, packed)[0]) - k) < 0.01 * k


@pytest.mark.parametrize("isa", _testing.isas())
@pytest.mark.parametrize("k", [1 << 17, (1 << 17) - 1, 4096, 77])
def test_largest_sums(isa: str, k: int) -> None:
    """All integers 127 or -127, all products of one sign: 127 * 127 * 131072 is the most that int32 has to hold."""
    spikes = np.zeros(k, F32)
    spikes[: k // 128 * 128].reshape(-1, 128)[:, [0, 8]] = 1  # one in each of the two transforms of a block
    spikes[k // 128 * 128 :] = 0.125
    q, _ = reference.quantize_rows(spikes[None])
    assert (np.abs(q) == 127).all()
    signs = np.ones((17, 1), F32)
    signs[[1, 7, 16]] = -1
    packed = fa.pack_linear(spikes * signs, dtype="int8")
    x = spikes * signs[:14]
    expected = reference.linear_int8(x, spikes * signs)
    assert (np.sign(expected) == signs[:14] @ signs.T).all()
    with _testing.use_isa(isa):
        for m in (1, 2, 4, 7, 14):
            assert_same_bits(fa.linear(x[:m], packed), expected[:m], f"{m} rows")
