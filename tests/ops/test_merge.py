# SPDX-License-Identifier: MIT
"""fastattn.merge_attention: the accuracy rule, empty sides, every layout and storage type, what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.compare import assert_accurate, assert_same_bits
from support.dlpack import BFLOAT, Producer
from support.inputs import bshd, generator, normal, qkv, reversed_rows, sliced
from support.variants import assert_one_result

import fastattn as fa
from fastattn import _testing, reference

F32 = np.float32
INF = np.inf
STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


def narrow(x: np.ndarray, name: str) -> np.ndarray:
    return _testing.narrow(np.ascontiguousarray(x).reshape(-1), name, "scalar").reshape(x.shape)


def check(outs: list[np.ndarray], lses: list[np.ndarray]) -> Any:
    got = fa.merge_attention(outs, lses)
    ref = reference.merge_attention(outs, lses)
    naive = reference.merge_attention(outs, lses, dtype=F32)
    for which, name in enumerate(("out", "lse")):

        def again(rng: np.random.Generator, which: int = which) -> np.ndarray:
            return reference.merge_attention(outs, lses, dtype=F32, order=rng)[which]

        assert_accurate(got[which], ref[which], naive[which], name, again)
    return got


@pytest.mark.parametrize("n", [1, 2, 3, 17, 100])
@pytest.mark.parametrize("d", [1, 16, 33, 64])
@pytest.mark.parametrize("spread", [0.1, 5.0, 60.0, 1e4])
def test_accuracy(n: int, d: int, spread: float) -> None:
    rng = generator("merge", n, d, spread)
    outs = [normal(rng, 2, 3, 11, d) for _ in range(n)]
    lses = [normal(rng, 2, 3, 11, spread=spread) for _ in range(n)]
    check(outs, lses)
    for i in range(n):
        lses[i][rng.random(lses[i].shape) < 0.3] = -INF
        outs[i][np.isneginf(lses[i])] = np.nan
    got = check(outs, lses)
    empty = np.all([np.isneginf(lse) for lse in lses], axis=0)
    assert not got.out[empty].any() and np.isneginf(got.lse[empty]).all()


def test_one_result_whatever_computes_it() -> None:
    rng = generator("variants")
    for name in STORED:
        outs = [narrow(normal(rng, 2, 5, 130, 40), name) for _ in range(5)]
        lses = [normal(rng, 2, 5, 130, spread=4) for _ in range(5)]
        lses[2][:, 1] = -INF

        def call(outs: Any = outs, lses: Any = lses, **options: Any) -> tuple[Any, ...]:
            return tuple(fa.merge_attention(outs, lses, **options))

        assert_one_result(call, name, kernels=())
        if name != "float32":
            wide = [_testing.widen(o.reshape(-1), name, "scalar").reshape(o.shape) for o in outs]
            exact = fa.merge_attention(wide, lses)
            got = fa.merge_attention(outs, lses)
            assert_same_bits(got.out, narrow(exact.out, name), f"{name}: rounded once")
            assert_same_bits(got.lse, exact.lse)


def test_a_side_alone_comes_back() -> None:
    rng = generator("alone")
    out, lse = normal(rng, 3, 20, 24), normal(rng, 3, 20, spread=50)
    out[0, 0, :2] = [-0.0, INF]
    nothing, never = np.full_like(out, np.nan), np.full_like(lse, -INF)
    for sides in ([0], [0, 1], [1, 0], [1, 1, 0, 1]):
        got = fa.merge_attention([(out, nothing)[i] for i in sides], [(lse, never)[i] for i in sides])
        assert_same_bits(got.out, out, str(sides))
        assert_same_bits(got.lse, lse, str(sides))
    got = fa.merge_attention([nothing, nothing], [never, never])
    assert not got.out.view(np.uint32).any() and np.isneginf(got.lse).all()


def test_it_is_attention_over_all_keys() -> None:
    rng = generator("attention")
    q, k, v = qkv(rng, 2, 4, 2, 9, 300, 32, spread=2.0)
    whole = fa.attention(q, k, v, return_lse=True)
    cuts = [0, 1, 130, 130, 299, 300]
    parts = [
        fa.attention(q, k[:, :, a:b], v[:, :, a:b], return_lse=True) for a, b in zip(cuts[:-1], cuts[1:], strict=True)
    ]
    got = fa.merge_attention([p.out for p in parts], [p.lse for p in parts])
    ref, naive = reference.attention(q, k, v), reference.attention(q, k, v, dtype=F32)

    def again(rng: np.random.Generator) -> np.ndarray:
        return np.asarray(reference.attention(q, k, v, dtype=F32, order=rng).out)

    assert_accurate(got.out, ref.out, naive.out, "out", again)
    assert np.abs(got.lse - whole.lse).max() <= 4 * np.spacing(np.abs(whole.lse).max())
    with_sides = fa.merge_attention((whole.out,), (whole.lse,))
    assert_same_bits(with_sides.out, whole.out)


def test_nan_stays_in_its_row() -> None:
    rng = generator("nan")
    for isa in _testing.isas():
        with _testing.use_isa(isa):
            outs = [normal(rng, 40, 20) for _ in range(3)]
            lses = [normal(rng, 40) for _ in range(3)]
            expected = fa.merge_attention(outs, lses)
            outs[1][3, 7] = np.nan
            lses[2][5], lses[0][21] = np.nan, INF
            lses[0][30], lses[1][30], lses[2][30] = -INF, -INF, np.nan
            got = fa.merge_attention(outs, lses)
            assert (np.argwhere(np.isnan(got.out[3])) == 7).all()
            assert np.isnan(got.out[[5, 21, 30]]).all() and np.isnan(got.lse[[5, 21, 30]]).all()
            assert (got.out[np.isnan(got.out)].view(np.uint32) == 0x7FC00000).all()
            assert (got.lse[np.isnan(got.lse)].view(np.uint32) == 0x7FC00000).all()
            same = [i for i in range(40) if i not in (3, 5, 21, 30)]
            assert_same_bits(got.out[same], expected.out[same])
            assert_same_bits(got.lse[same], expected.lse[same])


def test_ranges() -> None:
    """Weights that vanish, sums that would overflow, log-sum-exps far apart and large."""
    big = np.full((2, 3), 3.4e38, F32)
    got = fa.merge_attention([big, big, big], [np.zeros(2, F32)] * 3)
    assert np.isfinite(got.out).all() and np.allclose(got.out / 3.4e38, 1, rtol=1e-6)
    a, b = np.ones((1, 3), F32), np.full((1, 3), 2, F32)
    for high, low in ((1e30, -1e30), (0, -200), (3e38, -3e38), (-3e38, -3.4e38)):
        got = fa.merge_attention([a, b], [np.float32([low]), np.float32([high])])
        assert (got.out == 2).all() and got.lse[0] == F32(high)


def test_layouts_and_ranks() -> None:
    rng = generator("layouts")
    outs = [normal(rng, 2, 4, 33, 24) for _ in range(3)]
    lses = [normal(rng, 2, 4, 33) for _ in range(3)]
    expected = fa.merge_attention(outs, lses)
    other = [np.ascontiguousarray(lse.transpose(2, 0, 1)).transpose(1, 2, 0) for lse in lses]
    for layout in (bshd, sliced, reversed_rows):
        got = fa.merge_attention([layout(o) for o in outs], other)
        assert_same_bits(tuple(got), tuple(expected), layout.__name__)
        out = layout(np.zeros_like(outs[0]))
        got = fa.merge_attention(outs, lses, out=out)
        assert got.out is out
        assert_same_bits(tuple(got), tuple(expected), layout.__name__)
    for cut, index in (((2, 4, 33), ()), ((4, 33), 1), ((33,), (1, 2)), ((), (1, 2, 5))):
        got = fa.merge_attention([o[index] for o in outs], [np.asarray(lse[index]) for lse in lses])
        assert got.lse.shape == cut
        assert_same_bits(tuple(got), (expected.out[index], np.asarray(expected.lse[index])))
    deep = fa.merge_attention([o.reshape(2, 2, 2, 3, 11, 24) for o in outs], [x.reshape(2, 2, 2, 3, 11) for x in lses])
    assert_same_bits(deep.out, expected.out.reshape(2, 2, 2, 3, 11, 24))
    for shape in ((0, 3, 8), (2, 0, 8), (2, 3, 0)):
        got = fa.merge_attention([np.empty(shape, F32)] * 2, [np.zeros(shape[:2], F32)] * 2)
        assert got.out.shape == shape and got.lse.shape == shape[:2]
        assert np.allclose(got.lse, np.log(2))


def test_arrays_of_others() -> None:
    rng = generator("others")
    outs = [narrow(normal(rng, 3, 9, 16), "bfloat16") for _ in range(2)]
    lses = [normal(rng, 3, 9) for _ in range(2)]
    expected = fa.merge_attention(outs, lses)
    got = fa.merge_attention([Producer(o, code=BFLOAT) for o in outs], [Producer(lse) for lse in lses])
    assert_same_bits(tuple(got), tuple(expected))
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    got = fa.merge_attention([o.view(bfloat16) for o in outs], lses)
    assert got.out.dtype == bfloat16
    assert_same_bits(got.out.view(np.uint16), expected.out)


def test_bad_input() -> None:
    out, lse = np.ones((2, 3, 4), F32), np.ones((2, 3), F32)

    def refused(kind: type[Exception], match: str, outs: Any, lses: Any, **options: Any) -> None:
        with pytest.raises(kind, match=match):
            fa.merge_attention(outs, lses, **options)

    refused(ValueError, "outs: empty", [], [])
    refused(ValueError, "lses: 1 arrays, expected 2", [out, out], [lse])
    refused(TypeError, "outs: float32 of shape", np.stack([out, out]), [lse, lse])
    refused(TypeError, "lses: float32 of shape", [out, out], np.stack([lse, lse]))
    refused(TypeError, r"outs\[1\]: dtype float16, expected float32", [out, out.astype(np.float16)], [lse, lse])
    refused(TypeError, r"outs\[0\]: dtype float64", [out.astype(float)], [lse])
    refused(TypeError, r"outs\[0\]: list", [out.tolist()], [lse])
    refused(ValueError, r"outs\[1\]: shape \(2, 3, 3\), expected \(2, 3, 4\)", [out, out[..., :3]], [lse, lse])
    refused(ValueError, r"outs\[0\]: rank 0", [np.float32(1).reshape(())], [lse])
    refused(ValueError, r"outs\[0\]: last stride", [np.ones((2, 3, 8), F32)[..., ::2]], [lse])
    refused(TypeError, r"lses\[1\]: dtype float64", [out, out], [lse, lse.astype(float)])
    refused(ValueError, r"lses\[0\]: shape \(3, 2\), expected \(2, 3\)", [out], [lse.T])
    refused(ValueError, r"out: shape \(2, 3, 5\)", [out], [lse], out=np.empty((2, 3, 5), F32))
    refused(TypeError, "out: dtype float16, expected float32", [out], [lse], out=np.empty((2, 3, 4), np.float16))
    refused(ValueError, r"out: shares memory with outs\[1\]", [out.copy(), out], [lse, lse], out=out)
    frozen = out.copy()
    frozen.flags.writeable = False
    refused(ValueError, "out: read-only", [out], [lse], out=frozen)
    shared = np.lib.stride_tricks.as_strided(np.ones(24, F32), (2, 3, 4), (0, 16, 4))
    refused(ValueError, "out: strides", [out], [lse], out=shared)
    refused(ValueError, "num_threads", [out], [lse], num_threads=-1)
