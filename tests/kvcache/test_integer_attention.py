# SPDX-License-Identifier: MIT
"""Attention by integers, of int8 caches and of rows rounded on the way: one definition, as close as 8 bits allow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastattn as fa
from fastattn import _core, _testing

F32 = np.float32
Array = np.ndarray[Any, Any]


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, F32)


def cached(q: Array, k: Array, v: Array, *, cut: int = 0, dtype: str = "int8", **options: Any) -> Any:
    """Of a cache that got k and v in pieces of ``cut`` tokens, the whole at once where that is 0."""
    batch, heads, keys, size = k.shape
    cache = fa.KVCache(1, batch, heads, size, v_head_dim=v.shape[3], dtype=dtype, max_length=5000)  # type: ignore[arg-type]
    for at in range(0, keys, cut or keys):
        cache.append(0, k[:, :, at : at + (cut or keys)], v[:, :, at : at + (cut or keys)])
    cache.advance(keys)
    return cache.attend(0, q, **{"causal": False, **options})


def fresh(q: Array, k: Array, v: Array, threads: int = 1, **options: Any) -> Array:
    """Of rows that are rounded on the way, as encoders with int8 weights have them."""
    out = np.empty((*q.shape[:3], v.shape[3]), F32)
    rest = {"softcap": 0.0, "causal": False, "window_left": -1, "window_right": -1, "num_threads": threads, **options}
    _core.attend(out, None, None, q, k, v, scale=q.shape[3] ** -0.5, integers=True, **rest)
    return out


def exact(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    """In float64; rows without a key are zeros."""
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x.astype(np.float64), group, axis=1) for x in (k, v))
    s = q.astype(np.float64) @ k.swapaxes(-1, -2) / np.sqrt(q.shape[3])
    s = s if mask is None else np.where(mask, s, -np.inf)
    top = s.max(-1, keepdims=True)
    p = np.exp(s - np.where(np.isfinite(top), top, 0))
    total = p.sum(-1, keepdims=True)
    return np.asarray(p @ v / np.where(total > 0, total, 1))


def cosines(a: Array, b: Array) -> Array:
    return np.asarray((a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))


def kinds(name: str, n: int, d: int) -> tuple[Array, Array, Array]:
    q, k, v = (normal(i, 1, 4, n, d) for i in range(3))
    if name == "scores x 9":
        q *= 9
    elif name == "dominant key":
        k[:, :, n // 3] = 2 * q.mean(2)
        q += 3 * k[:, :, n // 3, None]
    elif name == "outlier channel":
        q[..., 5] *= 20
        k[..., 5] *= 20
    elif name == "outlier value":
        v[..., 5] *= 20
    elif name == "sink key":
        q += 2
        k[:, :, 0] += 1.5
        v[:, :, 0] /= 50
    return q, k, v


# mean and least cosine of rows; without a rotation an outlier channel of q and k gives 0.98, 0.7
@pytest.mark.parametrize(
    ("name", "mean", "least"),
    [
        ("plain", 0.9999, 0.9995),
        ("scores x 9", 0.999, 0.95),
        ("dominant key", 0.9999, 0.999),
        ("outlier channel", 0.999, 0.95),
        ("outlier value", 0.997, 0.96),
        ("sink key", 0.9998, 0.999),
    ],
)
@pytest.mark.parametrize("d", [32, 64, 128])
def test_it_is_as_close_as_eight_bits_allow(name: str, mean: float, least: float, d: int) -> None:
    q, k, v = kinds(name, 512, d)
    found = cosines(cached(q, k, v).astype(np.float64), exact(q, k, v))
    assert found.mean() >= mean and found.min() >= least, (name, d, found.mean(), found.min())


@pytest.mark.parametrize("isa", _testing.isas())
@pytest.mark.parametrize(
    ("heads", "d", "dv", "rows", "keys"), [(4, 64, 64, 2, 1000), (2, 20, 36, 1, 97), (1, 128, 96, 40, 50)]
)
def test_bits_do_not_depend_on_what_computes_them(isa: str, heads: int, d: int, dv: int, rows: int, keys: int) -> None:
    q, k, v = normal(1, 3, heads, rows, d), normal(2, 3, 1, keys, d), normal(3, 3, 1, keys, dv)
    with _testing.use_isa("scalar"):
        expected = cached(q, k, v)
    with _testing.use_isa(isa):
        for which in (None, "tile", "decode"):
            with _testing.force_kernel(which):
                for threads in (1, 2):
                    assert cached(q, k, v, num_threads=threads).tobytes() == expected.tobytes()
        assert cached(q, k, v, cut=7).tobytes() == expected.tobytes()
        assert cached(q[1:2], k[1:2], v[1:2]).tobytes() == expected[1:2].tobytes()
        assert fresh(q, k, v, threads=2).tobytes() == expected.tobytes()
        for i in range(0, rows, 3):
            assert cached(q[:, :, i : i + 3], k, v).tobytes() == expected[:, :, i : i + 3].tobytes()


FORMS: list[dict[str, Any]] = [
    {"softcap": 2.0}, {"alibi_slopes": np.float32([0.5, 0.1, 0.02, 0.3])}, {"sinks": np.float32([0.3, 2, -1, 0])},
    {"relative_bias": (normal(8, 4, 32), False, 100)}, {"window": (30, 5)}, {"sink_tokens": 3, "window": (9, 0)},
    {"scale": -0.1}, {"scale": 0.0},
]  # fmt: skip


@pytest.mark.parametrize("options", FORMS, ids=lambda each: "_".join(each))
def test_forms_of_scores_are_those_of_the_float_form(options: dict[str, Any]) -> None:
    q, k, v = normal(1, 1, 4, 3, 64), normal(2, 1, 2, 150, 64), normal(3, 1, 2, 150, 64)
    offset = [140]
    got = cached(q, k, v, q_offset=offset, return_lse=True, return_weights=True, **options)
    expected = cached(q, k, v, dtype="float32", q_offset=offset, return_lse=True, return_weights=True, **options)
    assert cosines(got.out, expected.out).min() > 0.999
    assert np.abs(got.lse - expected.lse).max() < 0.05
    assert np.abs(got.weights - expected.weights).max() < 0.05 * expected.weights.max()
    assert np.array_equal(got.weights == 0, expected.weights == 0)


def test_masks_of_floats_and_the_smallest_number() -> None:
    q, k, v = normal(1, 1, 2, 3, 64), normal(2, 1, 1, 100, 64), normal(3, 1, 1, 100, 64)
    mask = np.zeros((1, 1, 3, 100), F32)
    mask[0, 0, 0, :60] = -np.inf
    mask[0, 0, 1] = np.finfo(F32).min  # an ordinary number: all keys alike
    mask[0, 0, 2, 50] = np.inf
    got, expected = cached(q, k, v, mask=mask), cached(q, k, v, dtype="float32", mask=mask)
    assert np.isnan(got[:, :, 2]).all() and np.isnan(expected[:, :, 2]).all()
    assert cosines(got[:, :, :2], expected[:, :, :2]).min() > 0.999
    assert np.allclose(got[:, :, 1], v.mean(2, keepdims=True)[:, :, 0], atol=0.02)


@pytest.mark.parametrize("which", ["tile", "decode"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", "qkv")
def test_what_int8_cannot_hold_is_nan_where_it_is_seen_alone(what: str, bad: float, which: str) -> None:
    q, k, v = normal(1, 1, 2, 3, 32), normal(2, 1, 1, 120, 32), normal(3, 1, 1, 120, 32)
    mask = np.ones((1, 2, 3, 120), np.bool_)
    mask[:, :, 0, 70] = False
    mask[:, :, 2] = False
    with _testing.force_kernel(which):
        clean = cached(q, k, v, mask=mask, return_lse=True)
        {"q": q, "k": k, "v": v}[what][0, 0, {"q": 1, "k": 70, "v": 70}[what], 7] = bad
        got = cached(q, k, v, mask=mask, return_lse=True)
    heads = 1 if what == "q" else 2
    assert np.isnan(got.out[0, :heads, 1]).all()
    assert got.out[0, :, 0].tobytes() == clean.out[0, :, 0].tobytes()
    assert not got.out[0, :, 2].any() and (got.lse[0, :, 2] == -np.inf).all()
    assert got.out[0, heads:].tobytes() == clean.out[0, heads:].tobytes()


@pytest.mark.parametrize("d", [16, 128, 4096])
@pytest.mark.parametrize("keys", [1, 48, 1000])
def test_the_largest_integers(d: int, keys: int) -> None:
    """One element becomes 127 everywhere, of both signs: the largest sums of products there are, and of weights."""
    keys = keys if d < 4096 else min(keys, 48)
    q, k = np.zeros((1, 1, 1, d), F32), np.zeros((1, 1, keys, d), F32)
    v = np.full((1, 1, keys, d), 3e38 if d == 16 else 5, F32)
    q[..., 0], k[..., 0] = 2.0, 3.0
    with np.errstate(over="ignore"):
        assert np.allclose(cached(q, k, v), v[:, :, :1], rtol=1e-5)
    k[:, :, 1::2, 0] = -3.0
    v[:, :, 1::2] *= -1
    got, expected = cached(q, k, v, return_lse=True), exact(q, k, v)
    assert np.abs(got.out - expected).max() <= 2e-3 * float(v.max())  # weights are rounded to 8 bits
    assert fresh(q, k, v).tobytes() == got.out.tobytes()


def test_values_of_all_sizes() -> None:
    """A row of zeros counts among its neighbours, and rows of other sizes beside it; tiny ones are no zeros."""
    q, k, v = normal(1, 1, 1, 8, 32), normal(2, 1, 1, 150, 32), normal(3, 1, 1, 150, 32)
    v[:, :, ::3] = 0
    assert cosines(cached(q, k, v), exact(q, k, v)).min() > 0.999
    for factor in (1e-12, 1e12):
        assert cosines(cached(q, k, v * F32(factor)) / factor, exact(q, k, v)).min() > 0.999
    full = normal(4, 1, 1, 150, 32)
    for factor in (1e-25, 1e25):
        assert cosines(cached(q, k, full * F32(factor)) / factor, exact(q, k, full)).min() > 0.999
    mixed = v * np.float32(10.0) ** np.random.default_rng(5).integers(-6, 7, (1, 1, 150, 1))
    assert cosines(cached(q, k, mixed.astype(F32)), exact(q, k, mixed)).min() > 0.999
    zeros = np.zeros_like(v)
    assert not cached(q, k, zeros).any() and not cached(np.zeros_like(q), zeros, zeros).any()


def test_queries_and_keys_of_all_sizes() -> None:
    q, k, v = normal(1, 1, 1, 8, 32), normal(2, 1, 1, 150, 32), normal(3, 1, 1, 150, 32)
    expected = exact(q, k, v)
    for factor in (2.0**-100, 2.0**-70, 2.0**70, 2.0**90):
        got = cached(q * F32(factor), k * F32(1 / factor), v)
        assert cosines(got, expected).min() > 0.999


def test_calls_on_arrays_of_the_caller_have_the_float_form() -> None:
    q, k, v = normal(1, 1, 2, 5, 32), normal(2, 1, 2, 60, 32), normal(3, 1, 2, 60, 32)
    scales = [np.abs(x).max(-1) / F32(127) for x in (k, v)]
    k8, v8 = (np.rint(x / s[..., None]).astype(np.int8) for x, s in zip((k, v), scales, strict=True))
    got = fa.attention(q, k8, v8, k_scale=scales[0], v_scale=scales[1])
    assert np.allclose(got, exact(q, k8 * scales[0][..., None], v8 * scales[1][..., None]), atol=1e-5)
