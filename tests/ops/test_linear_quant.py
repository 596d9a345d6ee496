# SPDX-License-Identifier: MIT
"""Linear layers of blocks: the weights of the file, the same bits everywhere, how near the dequantised layer."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from support.compare import assert_same_bits
from support.gguf_files import finite_blocks
from support.inputs import generator, normal

import fastattn as fa
from fastattn import _core, _testing, quants
from fastattn.loaders.weightfile import BLOCK_DTYPES
from fastattn.quants import QUANT_TYPES, BlockRows, pack_blocks, unpack_rows

F32 = np.float32
TYPES = list(QUANT_TYPES)


def rows_of(kind: str, n: int, k: int) -> np.ndarray:
    return finite_blocks(kind, (n, k), generator("quant", kind, n, k))


def layer(*parts: tuple[str, int], k: int, bias: bool = False, activations: str = "int16") -> fa.PackedLinear:
    arrays = [rows_of(kind, n, k) for kind, n in parts]
    rows = [
        BlockRows(kind, n, lambda start, stop, a=a: a[start:stop], f"part {i}")
        for i, ((kind, n), a) in enumerate(zip(parts, arrays, strict=True))
    ]
    b = normal(generator("quant bias", *parts), sum(n for _, n in parts)) if bias else None
    return pack_blocks(rows, k, b, activations)


def weights_of(kind: str, n: int, k: int) -> np.ndarray:
    out = np.empty((n, k), F32)
    _core.dequantize(out, rows_of(kind, n, k).reshape(-1), BLOCK_DTYPES[kind].code)
    return out


def test_types_are_those_of_files() -> None:
    assert {kind: BLOCK_DTYPES[kind].code for kind in QUANT_TYPES} == QUANT_TYPES
    assert set(BLOCK_DTYPES) - set(QUANT_TYPES) == {"Q2_K", "Q3_K"}


@pytest.mark.parametrize("isa", _testing.isas())
@pytest.mark.parametrize("kind", TYPES)
def test_weights_are_the_files(kind: str, isa: str) -> None:
    with _testing.use_isa(isa):
        packed = layer((kind, 50), k=512)
        assert_same_bits(unpack_rows(packed, 0, 50), weights_of(kind, 50, 512))
        assert_same_bits(unpack_rows(packed, 17, 40), weights_of(kind, 50, 512)[17:40])


@pytest.mark.parametrize("kind", TYPES)
def test_memory_is_the_files(kind: str) -> None:
    packed = layer((kind, 64), k=2048)
    assert packed.nbytes <= 1.03 * rows_of(kind, 64, 2048).nbytes


@pytest.mark.parametrize("activations", ["int16", "int8"])
@pytest.mark.parametrize("kind", TYPES)
def test_the_same_bits_everywhere(kind: str, activations: str) -> None:
    """On every instruction set and number of threads, of a row alone and among others."""
    packed = layer((kind, 70), k=256, bias=True, activations=activations)
    x = normal(generator("quant x", kind), 300, 256)
    whole = fa.linear(x, packed, activation="gelu", num_threads=1)
    for isa in _testing.isas():
        with _testing.use_isa(isa):
            for threads in (1, 3):
                assert_same_bits(fa.linear(x, packed, activation="gelu", num_threads=threads), whole)
            for m in (1, 2, 3, 4, 5, 7, 8, 9, 16, 130):
                assert_same_bits(fa.linear(x[:m], packed, activation="gelu"), whole[:m])
                assert_same_bits(fa.linear(x[37], packed, activation="gelu"), whole[37])


@pytest.mark.parametrize("kind", TYPES)
def test_how_near_the_dequantised_layer(kind: str) -> None:
    """Two planes keep 15 bits of what is multiplied, one keeps 8."""
    x = normal(generator("near", kind), 40, 512).astype(np.float64)
    exact = x @ weights_of(kind, 96, 512).astype(np.float64).T
    for activations, most in (("int16", 6e-5), ("int8", 8e-3)):
        found = fa.linear(x.astype(F32), layer((kind, 96), k=512, activations=activations))
        assert np.linalg.norm(found - exact) < most * np.linalg.norm(exact), activations


def test_several_types_in_one_layer() -> None:
    """As queries, keys and values: each part as if it were alone."""
    parts = [("Q4_K", 48), ("Q6_K", 32), ("Q4_K", 16), ("Q8_0", 21)]
    packed = layer(*parts, k=512, bias=True)
    assert packed.dtype == "Q4_K+Q6_K+Q4_K+Q8_0" and packed.out_features == 117
    x = normal(generator("several"), 12, 512)
    found, first = fa.linear(x, packed), 0
    assert packed.bias is not None
    for kind, n in parts:
        alone = fa.linear(x, layer((kind, n), k=512))
        assert_same_bits(found[:, first : first + n], alone + packed.bias[first : first + n])
        first += n


def test_neighbours_of_one_type_are_one_part() -> None:
    packed = layer(("Q4_0", 7), ("Q4_0", 30), k=64)
    assert packed.dtype == "Q4_0" and packed.panels.shape == (3, 2, 256)
    both = np.concatenate([weights_of("Q4_0", 7, 64), weights_of("Q4_0", 30, 64)])
    assert_same_bits(unpack_rows(packed, 0, 37), both)


def test_which_parts_can_be_one_layer() -> None:
    assert quants.can_be_joined([("Q4_0", 7), ("Q4_0", 9), ("Q8_0", 3)])
    assert not quants.can_be_joined([("Q4_0", 7), ("Q8_0", 3)])
    assert not quants.can_be_joined([("Q4_0", 16), ("Q8_0", 16)] * 3)


def test_special_rows() -> None:
    """A row of zeros is its bias; NaN and infinity make all of their row NaN, and no other."""
    packed = layer(("Q8_0", 20), k=96, bias=True)
    x = normal(generator("special"), 6, 96)
    x[1], x[2, 50], x[3, 95] = 0, np.nan, -np.inf
    for isa in _testing.isas():
        with _testing.use_isa(isa):
            found = fa.linear(x, packed)
            assert_same_bits(found[1], packed.bias)
            assert np.isnan(found[2:4]).all() and np.isfinite(found[[0, 4, 5]]).all()
            assert_same_bits(found[4], fa.linear(x[4], packed))


@pytest.mark.parametrize(("scale", "most"), [(2.0**-140, 0.6), (2.0**-100, 1e-5), (2.0**-80, 0), (2.0**100, 0)])
def test_rows_of_any_size(scale: float, most: float) -> None:
    """Numbers beyond 2^-64 and 2^64 too, exactly but for scales and results that are denormal."""
    packed = layer(("Q8_0", 20), k=96)
    x = normal(generator("sizes"), 3, 96)
    found, plain = fa.linear(x * F32(scale), packed), fa.linear(x, packed)
    assert np.abs(found / F32(scale) - plain).max() <= most


def test_copies_and_arrays() -> None:
    packed = layer(("Q5_K", 32), ("Q6_K", 9), k=256, bias=True, activations="int8")
    x = normal(generator("copies"), 3, 256)
    again = [pickle.loads(pickle.dumps(packed)), copy.deepcopy(packed)]
    again.append(fa.PackedLinear.from_arrays(packed.arrays(), 256, 41, "Q5_K+Q6_K", "int8"))
    for other in again:
        assert (other.dtype, other.activations, other.nbytes) == ("Q5_K+Q6_K", "int8", packed.nbytes)
        assert_same_bits(fa.linear(x, other), fa.linear(x, packed))
    assert list(packed.arrays()) == ["panels", "scales", "panels1", "scales1", "bias"]
    assert repr(packed) == "PackedLinear(in_features=256, out_features=41, bias=True, dtype='Q5_K+Q6_K')"
    assert fa.PackedLinear.from_arrays(packed.arrays(), 256, 41, "Q5_K+Q6_K").activations == "int16"
    assert fa.pack_linear(np.ones((2, 3), F32)).activations is None


def test_arrays_that_do_not_fit() -> None:
    arrays = layer(("Q4_K", 32), ("Q6_K", 9), k=256).arrays()
    make = fa.PackedLinear.from_arrays
    with pytest.raises(ValueError, match="activations: 'int4'"):
        make(arrays, 256, 41, "Q4_K+Q6_K", "int4")
    with pytest.raises(ValueError, match="activations: 'int8', expected None with dtype 'float32'"):
        make(fa.pack_linear(np.ones((2, 3), F32)).arrays(), 3, 2, "float32", "int8")
    with pytest.raises(ValueError, match="in_features: 128, expected a multiple of the blocks of 'Q4_K'"):
        make(arrays, 128, 41, "Q4_K+Q6_K")
    for dtype, n in (("Q4_K", 41), ("Q6_K+Q4_K", 41), ("Q4_K+Q6_K", 60), ("Q4_K+Q6_K", 32), ("Q4_K+Q6_K", 20)):
        with pytest.raises(ValueError, match="arrays"):
            make(arrays, 256, n, dtype)
    for dtype in ("Q4_K+", "Q2_K", "Q9", "q4_k", "Q4_K+Q6_K+Q4_K+Q6_K+Q4_K"):
        with pytest.raises(ValueError, match="dtype"):
            make(arrays, 256, 41, dtype)
    with pytest.raises(TypeError, match=r"arrays\['scales1'\]"):
        make({**arrays, "scales1": arrays["scales1"].view(np.int8)}, 256, 41, "Q4_K+Q6_K")
    with pytest.raises(TypeError, match=r"arrays\['panels'\].* list"):
        make({**arrays, "panels": arrays["panels"].tolist()}, 256, 41, "Q4_K+Q6_K")
    crooked = np.empty(arrays["panels"].nbytes + 128, np.uint8)
    start = -crooked.ctypes.data % 64 + 8
    panels = crooked[start : start + arrays["panels"].nbytes].reshape(arrays["panels"].shape)
    with pytest.raises(ValueError, match="multiple of 64 bytes"):
        make({**arrays, "panels": panels}, 256, 41, "Q4_K+Q6_K")


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "MXFP4"])
def test_scales_that_are_no_numbers(kind: str) -> None:
    """The tensor and its row are named, whichever of several it is."""
    rows = rows_of(kind, 40, 256)
    parts = [
        BlockRows(kind, 20, lambda a, b: rows[a:b], "first"),
        BlockRows(kind, 20, lambda a, b: rows[20 + a : 20 + b], "second"),
    ]
    pack_blocks(parts, 256, None, "int16")
    for value in (np.inf, -np.inf, np.nan):
        rows = rows_of(kind, 40, 256)
        at = 208 if kind == "Q6_K" else 2 if kind in ("Q4_1", "Q5_1", "Q4_K", "Q5_K") else 0
        rows[33, at : at + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)
        with pytest.raises(ValueError, match="^second: a block of row 13 has a scale that is NaN or infinite$"):
            pack_blocks(parts, 256, None, "int16")


# ---- weights of our own in 4 bits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(1, 1), (40, 96), (33, 100), (16, 31), (0, 5), (5, 0)])
def test_int4_is_near_its_weights(n: int, k: int) -> None:
    """What is lost is less than a plain cut of each block's range into 15 steps loses; the same on every ISA."""
    w = normal(generator("int4", n, k), n, k)
    packed = fa.pack_linear(w, dtype="int4")
    assert (packed.dtype, packed.activations, packed.out_features, packed.in_features) == ("int4", "int16", n, k)
    kept = unpack_rows(packed, 0, n)
    padded = np.zeros((n, -(-k // 32) * 32), F32)
    padded[:, :k] = w
    lost = plain = 0.0
    for start in range(0, k, 32):
        block = padded[:, start : min(start + 32, k)].astype(np.float64)
        low, high = block.min(1, keepdims=True), block.max(1, keepdims=True)
        step = np.maximum(high - low, 1e-30) / 15
        plain += float(((np.round((block - low) / step) * step + low - block) ** 2).sum())
        lost += float(((kept[:, start : start + block.shape[1]] - block) ** 2).sum())
    assert lost <= plain + 1e-6
    if k >= 96:
        assert lost < 0.93 * plain
    for isa in _testing.isas():
        with _testing.use_isa(isa):
            again = fa.pack_linear(w, dtype="int4", num_threads=2)
        for name, part in again.arrays().items():
            assert part.tobytes() == packed.arrays()[name].tobytes(), (isa, name)


def test_int4_products_and_bias() -> None:
    """The product with what is kept; K need not be whole blocks."""
    w, b = normal(generator("int4 w"), 50, 100), normal(generator("int4 b"), 50)
    packed, x = fa.pack_linear(w, b, "int4"), normal(generator("int4 x"), 20, 100)
    exact = x.astype(np.float64) @ unpack_rows(packed, 0, 50).astype(np.float64).T + b
    for rows in (1, 3, 20):
        assert np.linalg.norm(fa.linear(x[:rows], packed) - exact[:rows]) < 6e-5 * np.linalg.norm(exact[:rows])
    coarse = fa.pack_linear(w, b, "int4", activations="int8")
    assert 1e-3 < np.linalg.norm(fa.linear(x, coarse) - exact) / np.linalg.norm(exact) < 8e-3


def test_int4_of_rows_that_are_all_equal_or_far_apart() -> None:
    w = np.zeros((4, 64), F32)
    w[1], w[2], w[3, 5] = 3.25, -1e-3, 60000
    kept = unpack_rows(fa.pack_linear(w, dtype="int4"), 0, 4)
    assert_same_bits(kept[:2], w[:2])
    assert np.abs(kept[2] - w[2]).max() < 1e-6 and kept[3, 5] == 60000 and not kept[3, 32:].any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 7e4])
def test_int4_refuses(value: float) -> None:
    w = np.ones((30, 40), F32)
    w[17, 39] = value
    with pytest.raises(ValueError, match="weight: row 17 has numbers that are NaN, infinite or beyond 65504"):
        fa.pack_linear(w, dtype="int4")
    with pytest.raises(ValueError, match="activations: 'int8', expected None with dtype 'int8'"):
        fa.pack_linear(np.ones((2, 3), F32), dtype="int8", activations="int8")
