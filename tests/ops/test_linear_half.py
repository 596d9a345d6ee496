# SPDX-License-Identifier: MIT
"""Linear layers with bf16 and fp16 weights: the bits of float32 weights that hold the rounded values."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from support.compare import assert_same_bits
from support.inputs import generator, normal

import fastattn as fa
from fastattn import _testing

F32 = np.float32
STORED = {"bfloat16": np.dtype(np.uint16), "float16": np.dtype(np.float16)}


def rounded(w: np.ndarray, dtype: str) -> np.ndarray:
    """The float32 values of `w` once stored; bf16 to nearest, ties to even, by integers."""
    if dtype == "float16":
        return w.astype(np.float16).astype(F32)
    bits = w.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(F32)


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (17, 5), (33, 40), (5, 0), (0, 5), (48, 385)])
def test_panels(dtype: str, n: int, k: int) -> None:
    w = normal(generator("panels", n, k), n, k)
    packed, wide = fa.pack_linear(w, dtype=dtype), fa.pack_linear(rounded(w, dtype))
    assert packed.panels.dtype == STORED[dtype] and packed.panels.shape == wide.panels.shape
    bits = packed.panels.view(np.uint16)
    widened = bits.view(np.float16).astype(F32) if dtype == "float16" else (bits.astype(np.uint32) << 16).view(F32)
    assert_same_bits(widened, wide.panels)
    assert packed.panels.ctypes.data % 64 == 0 or packed.panels.size == 0
    assert repr(packed).endswith(f"dtype='{dtype}')") and packed.nbytes == wide.nbytes // 2
    for isa in _testing.isas():
        with _testing.use_isa(isa):
            assert fa.pack_linear(w, dtype=dtype, num_threads=2).panels.tobytes() == packed.panels.tobytes(), isa


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("isa", _testing.isas())
@pytest.mark.parametrize(("n", "k"), [(1, 1), (40, 30), (285, 400), (130, 1153), (33, 0)])
def test_bits_of_rounded_weights(dtype: str, isa: str, n: int, k: int) -> None:
    """Every number of rows of a tile, K beyond one chunk and two; with bias and activation."""
    rng = generator("half", n, k)
    w, b, x = normal(rng, n, k), normal(rng, n), normal(rng, 26, k)
    packed, wide = fa.pack_linear(w, b, dtype), fa.pack_linear(rounded(w, dtype), b)
    expected = fa.linear(x, wide, activation="gelu")
    with _testing.use_isa(isa):
        for m in (1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 16, 17, 26):
            got = fa.linear(x[:m], packed, activation="gelu", num_threads=2)
            assert_same_bits(got, expected[:m], f"{m} rows")


@pytest.mark.parametrize("dtype", STORED)
def test_blocks_and_margins(dtype: str) -> None:
    """Beyond one block of rows and of panels; an out inside a larger array, whose other elements stay."""
    rng = generator("blocks", dtype)
    w, x = normal(rng, 600, 500), normal(rng, 610, 500)
    packed, wide = fa.pack_linear(w, dtype=dtype), fa.pack_linear(rounded(w, dtype))
    expected = fa.linear(x, wide)
    for threads in (1, 2):
        assert_same_bits(fa.linear(x, packed, num_threads=threads), expected, f"{threads} threads")
    big = np.full((610, 640), 7, F32)
    fa.linear(x, packed, out=big[:, 20:620])
    assert_same_bits(np.ascontiguousarray(big[:, 20:620]), expected)
    assert (big[:, :20] == 7).all() and (big[:, 620:] == 7).all()


@pytest.mark.parametrize("dtype", STORED)
def test_through_arrays_pickle_and_copy(dtype: str) -> None:
    rng = generator("arrays")
    packed = fa.pack_linear(normal(rng, 21, 30), normal(rng, 21), dtype)
    x = normal(rng, 4, 30)
    assert list(packed.arrays()) == ["panels", "bias"]
    again = fa.PackedLinear.from_arrays(packed.arrays(), 30, 21, dtype)
    assert again.panels.ctypes.data == packed.panels.ctypes.data
    for other in (again, pickle.loads(pickle.dumps(packed)), copy.deepcopy(packed)):
        assert repr(other) == repr(packed)
        assert_same_bits(fa.linear(x, other), fa.linear(x, packed))
    wrong: Any = "float16" if dtype == "bfloat16" else "bfloat16"
    with pytest.raises(TypeError, match=r"arrays\['panels'\]"):
        fa.PackedLinear.from_arrays(packed.arrays(), 30, 21, wrong)


def test_what_does_not_fit() -> None:
    w = np.ones((3, 4), F32)
    w[1, 2] = 7e4
    with pytest.raises(ValueError, match=r"^weight: up to 70000.0.*'float16'"):
        fa.pack_linear(w, dtype="float16")
    assert np.isfinite(fa.linear(np.ones(4, F32), fa.pack_linear(w, dtype="bfloat16"))).all()
    w[1, 2] = np.finfo(F32).max
    with pytest.raises(ValueError, match=r"^weight: .*'bfloat16'"):
        fa.pack_linear(w, dtype="bfloat16")
    w[1, 2], w[0, 0] = np.inf, np.nan  # what is infinite or NaN already stays it, as with float32
    for dtype in STORED:
        got = fa.linear(np.ones(4, F32), fa.pack_linear(w, dtype=dtype))
        assert np.isnan(got[0]) and got[1] == np.inf and got[2] == 4
