# SPDX-License-Identifier: MIT
"""Row-wise operators: what is particular to one of them.

Accuracy, determinism and refusals stand in test_accuracy_ops, test_determinism_ops, test_bad_input_ops.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.compare import assert_same_bits
from support.dlpack import Producer
from support.inputs import generator, normal

import fastattn as fa
from fastattn import _testing, ops

F32 = np.float32


@pytest.mark.parametrize("isa", _testing.isas())
@pytest.mark.parametrize("h", [1, 16, 100, 384])
def test_norms_write_over_x_or_the_residual(isa: str, h: int) -> None:
    rng = generator("in place", h)
    x, residual, w, b = normal(rng, 11, h), normal(rng, 11, h), normal(rng, h), normal(rng, h)
    with _testing.use_isa(isa):
        for norm, args in ((fa.layer_norm, (w, b)), (fa.rms_norm, (w,))):
            expected = norm(x, *args, residual=residual)
            for which in ("x", "residual"):
                arrays = {"x": x.copy(), "residual": residual.copy()}
                target = arrays[which]
                assert norm(arrays["x"], *args, residual=arrays["residual"], out=target) is target
                assert_same_bits(target, expected, f"{norm.__name__} into {which}")
            both = x.copy()
            assert_same_bits(
                norm(both, *args, residual=both, out=both), norm(x, *args, residual=x), "x is the residual"
            )


def test_layer_norm_repairs_the_mean() -> None:
    """A large offset costs no digits but those of the inputs: deviations are exact, their own mean is removed."""
    rng = generator("repair")
    deviations = (rng.integers(-512, 513, (40, 300)) / 512).astype(F32)
    for offset in (0, 100, 8192):
        x = deviations + F32(offset)  # exact
        exact = deviations - deviations.mean(axis=1, dtype=np.float64, keepdims=True)
        exact /= np.sqrt((exact**2).mean(axis=1, keepdims=True) + 1e-5)
        got = fa.layer_norm(x, np.ones(300, F32))
        assert np.abs(got - exact).max() < 6e-7, offset
    same = fa.layer_norm(np.full((1, 300), 1000.1, F32), np.ones(300, F32), np.full(300, 0.25, F32))
    assert np.abs(same - 0.25).max() < 1e-6


def test_softmax_rows_that_are_not_numbers() -> None:
    x = np.zeros((5, 40), F32)
    x[0] = -np.inf
    x[1, 3] = np.nan
    x[2, 39] = np.inf
    x[3, :39] = -np.inf
    x[4, 0] = 3e38
    x[4, 1] = -3e38
    got = fa.softmax(x)
    assert not got[0].view(np.uint32).any()
    assert (got[1:3].view(np.uint32) == 0x7FC00000).all()
    assert got[3].tolist() == [0] * 39 + [1]
    assert got[4].tolist() == [1] + [0] * 39
    mixed = np.full((1, 20), -np.inf, F32)
    mixed[0, 19] = np.nan
    assert np.isnan(fa.softmax(mixed)).all()


def test_softmax_of_equal_values() -> None:
    for h in (1, 2, 16, 64, 1024):
        assert (fa.softmax(np.full((2, h), -7.5, F32)) == 1 / h).all()


@pytest.mark.parametrize("tables", [1, 7, 8, 9, 23])
def test_embedding_of_many_tables(tables: int) -> None:
    rng = generator("tables", tables)
    rows = [normal(rng, 5 + i, 33) for i in range(tables)]
    ids = [rng.integers(0, len(t), 50) for t in rows]
    total = rows[0][ids[0]]
    for table, index in zip(rows[1:], ids[1:], strict=True):
        total = total + table[index]
    assert_same_bits(ops.embedding(rows, ids), total)
    assert_same_bits(ops.embedding(tuple(rows), tuple(i[::-1].copy()[::-1] for i in ids)), total, "reversed ids")
    assert_same_bits(ops.embedding([Producer(t) for t in rows], [i.tolist() for i in ids]), total, "other arrays")


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.int8])
def test_embedding_names_the_id_outside(kind: Any) -> None:
    table, ids = np.ones((4, 3), F32), np.zeros(9, kind)
    for bad in (-1, 4, 100):
        ids[6] = bad
        out = np.full((9, 3), 7, F32)
        with pytest.raises(ValueError, match=rf"ids\[1\]: {bad} at position 6, expected 0 to 3"):
            ops.embedding([table, table], [np.zeros(9, kind), ids], out=out)
        assert (out == 7).all()


def test_pool_by_hand() -> None:
    x = np.array([[1, -2], [3, -4], [-0.0, 5], [np.nan, 6]], F32)
    cu = [0, 2, 2, 3, 4]
    nan = np.nan
    for mode, rows in {
        "mean": [[2, -3], [0, 0], [-0.0, 5], [nan, 6]],
        "max": [[3, -2], [0, 0], [-0.0, 5], [nan, 6]],
        "cls": [[1, -2], [0, 0], [-0.0, 5], [nan, 6]],
        "last": [[3, -4], [0, 0], [-0.0, 5], [nan, 6]],
    }.items():
        assert_same_bits(ops.pool(x, cu, mode), np.array(rows, F32), mode)
    with pytest.raises(ValueError, match="cu_seqlens: 1 after 2 at position 2"):
        ops.pool(x, np.array([0, 2, 1, 4]))
    with pytest.raises(ValueError, match="cu_seqlens: from 0 to 3, expected from 0 to 4"):
        ops.pool(x, np.array([0, 3]))


def test_l2_normalize_limits() -> None:
    x = np.array([[0, 0, -0.0], [3e38, 3e38, 0], [1e-30, 0, 0], [np.nan, 1, 1], [np.inf, 1, 0]], F32)
    got = ops.l2_normalize(x)
    assert got[0].tolist() == [0, 0, 0]
    assert np.allclose(got[1], [0.5**0.5, 0.5**0.5, 0], rtol=2e-7, atol=0)
    assert got[2, 0] == F32(1e-30) / F32(1e-12)
    assert np.isnan(got[3]).all()
    assert np.isnan(got[4, 0]) and got[4, 1:].tolist() == [0, 0]
    assert ops.l2_normalize(x[:3], eps=0.0)[[0, 2]].tolist() == [[0, 0, 0], [1, 0, 0]]


def test_dimensions_that_do_not_fold() -> None:
    """Outer strides of x, residual and out that need walking, each in its own order."""
    rng = generator("walk")
    x = normal(rng, 2, 3, 4, 5, 20)
    residual, w = normal(rng, *x.shape), normal(rng, 20)
    expected = fa.rms_norm(x, w, residual=residual)
    turned = np.ascontiguousarray(x.transpose(2, 0, 3, 1, 4)).transpose(1, 3, 0, 2, 4)
    other = np.ascontiguousarray(residual.transpose(3, 2, 1, 0, 4)).transpose(3, 2, 1, 0, 4)
    out = np.zeros((5, 2, 4, 3, 20), F32).transpose(1, 3, 2, 0, 4)
    assert fa.rms_norm(turned, w, residual=other, out=out) is out
    assert_same_bits(np.ascontiguousarray(out), expected)
    assert_same_bits(fa.rms_norm(x[:, ::2, ::-1, 1:4], w), np.ascontiguousarray(fa.rms_norm(x, w)[:, ::2, ::-1, 1:4]))
    assert_same_bits(
        fa.softmax(np.broadcast_to(x[0, 0, 0, 0], (3, 4, 20))), np.tile(fa.softmax(x[0, 0, 0, 0]), (3, 4, 1))
    )
    assert fa.softmax(x[:, :, :0]).shape == (2, 3, 0, 5, 20)
    assert fa.softmax(x[..., :0]).shape == (2, 3, 4, 5, 0)
