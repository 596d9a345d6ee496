# SPDX-License-Identifier: MIT
"""Copies between storage types, and rows into the slots of a cache: against the kernels one row at a time, by ==."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from support.compare import assert_same_bits
from support.inputs import generator, normal

import fastattn as fa
from fastattn import _core, _testing

F32 = np.float32
ISAS = _testing.isas()
STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


def stored(x: np.ndarray, name: str) -> np.ndarray:
    return _testing.narrow(x.reshape(-1), name, "scalar").reshape(x.shape)


def wide(x: np.ndarray, name: str) -> np.ndarray:
    return _testing.widen(np.ascontiguousarray(x).reshape(-1), name, "scalar").reshape(x.shape)


# ---- convert ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("source", "target"), list(itertools.product(STORED, STORED)))
def test_convert(isa: str, source: str, target: str) -> None:
    rng = generator("convert", source, target)
    with _testing.use_isa(isa):
        for shape in [(), (0,), (1,), (5, 0, 3), (3, 4, 5, 7), (2, 3, 1, 33), (1, 2, 3, 1), (4, 1, 1, 1), (9, 70_001)]:
            values = normal(rng, *shape)
            if values.size > 4:
                values.reshape(-1)[:4] = [np.nan, np.inf, -np.inf, -0.0]
            x = stored(values, source)
            expected = stored(wide(x, source), target)
            for threads in (1, 3):
                out = np.empty(shape, STORED[target])
                _core.convert(out, x, threads)
                assert_same_bits(out, expected, f"{source} to {target}, {shape}")


@pytest.mark.parametrize("isa", ISAS)
def test_convert_of_any_strides(isa: str) -> None:
    rng = generator("strides")
    x = normal(rng, 6, 5, 4, 20)
    expected = stored(x, "float16")
    layouts: list[Any] = [
        lambda a: np.ascontiguousarray(a.transpose(2, 0, 1, 3)).transpose(1, 2, 0, 3),
        lambda a: np.ascontiguousarray(a[::-1, :, ::-1])[::-1, :, ::-1],
        lambda a: np.pad(a, [(0, 0), (1, 2), (0, 0), (0, 5)])[:, 1:6, :, :20],
        lambda a: np.repeat(a, 2, axis=0)[::2],
    ]
    with _testing.use_isa(isa):
        for one, other in itertools.product(layouts, layouts):
            source, out = one(x), other(np.zeros(x.shape, np.float16))
            _core.convert(out, source)
            assert_same_bits(out, expected)
        _core.convert(out, np.broadcast_to(x[:, :1, :, :], x.shape))
        assert_same_bits(out, np.ascontiguousarray(np.broadcast_to(expected[:, :1], x.shape)))
        column = np.zeros((6, 5), np.float16)
        _core.convert(column[:, 2:3], x[:, 0, 0, :1])
        assert_same_bits(column[:, 2], expected[:, 0, 0, 0])
        again = x.copy()
        _core.convert(again, again)
        assert_same_bits(again, x)


def test_convert_refuses() -> None:
    x = np.ones((2, 3), F32)
    with pytest.raises(ValueError, match=r"out: shape \(3, 2\), expected \(2, 3\) as x has"):
        _core.convert(np.empty((3, 2), np.float16), x)
    with pytest.raises(TypeError, match=r"x: dtype float64, expected float32, float16 or bfloat16 \(as uint16\)"):
        _core.convert(np.empty((2, 3), np.float16), np.ones((2, 3)))
    with pytest.raises(TypeError, match="x: dtype >f4"):
        _core.convert(np.empty((2, 3), np.float16), np.ones((2, 3), ">f4"))
    with pytest.raises(ValueError, match="out: shares memory with x"):
        _core.convert(x.view(np.float16)[:, ::2][:, :3].reshape(2, 3, 1)[..., 0:1], x.reshape(2, 3, 1))
    frozen = np.empty((2, 3), np.float16)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="out: read-only"):
        _core.convert(frozen, x)
    with pytest.raises(ValueError, match="make elements share memory"):
        _core.convert(np.lib.stride_tricks.as_strided(np.empty(8, np.float16), (2, 3), (2, 2)), x)
    with pytest.raises(ValueError, match="out: rank 5, expected 0 to 4"):
        _core.convert(np.empty((1, 1, 1, 1, 1), F32), np.empty((1, 1, 1, 1, 1), F32))
    with pytest.raises(ValueError, match="x: last stride 8 bytes, expected 4"):
        _core.convert(np.empty((2, 3), F32), np.ones((2, 6), F32)[:, ::2])


# ---- rows into slots -------------------------------------------------------------------------------------------------

B, H, S, D, N, P = 3, 2, 7, 24, 5, 16


def cache(kind: str, layout: str) -> tuple[np.ndarray, np.ndarray | None]:
    """An empty (N, H, P, D) cache full of a pattern, and its scales."""
    dtype = np.int8 if kind == "int8" else STORED[kind]
    dst = np.full((N, P, H, D) if layout == "PHD" else (N, H, P, D), 77, dtype)
    dst = dst.swapaxes(1, 2) if layout == "PHD" else dst
    return dst, np.full((N, H, P), 77, F32) if kind == "int8" else None


def some_slots(rng: np.random.Generator, *, ascending: bool = False) -> np.ndarray:
    picked = rng.choice(N * P, B * S, replace=False)
    slots = np.sort(picked) if ascending else picked
    slots[[0, 5, 11]] = -1
    return slots.reshape(B, S).astype(np.int64)


def by_hand(dst: np.ndarray, scale: np.ndarray | None, src: np.ndarray, names: tuple[str, str], slots: np.ndarray,
            angles: tuple[np.ndarray, np.ndarray, np.ndarray] | None, interleaved: bool) -> None:  # fmt: skip
    for b, h, s in np.ndindex(B, H, S):
        n, p = divmod(int(slots[b, s]), P)
        if slots[b, s] < 0:
            continue
        row = src[b, h, s]
        if angles is None and names[0] == names[1]:
            dst[n, h, p] = row
            continue
        row = wide(row, names[0])
        if angles is not None:
            cos, sin, at = angles
            row = fa.rope(row[None], cos, sin, position_ids=at[b, s : s + 1], interleaved=interleaved)[0]
        if scale is not None:
            dst[n, h, p], scale[n, h, p] = _testing.quantize(row, "scalar")
        else:
            dst[n, h, p] = stored(row, names[1])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rotated", [None, False, True])
@pytest.mark.parametrize("target", [*STORED, "int8"])
@pytest.mark.parametrize("source", STORED)
def test_rows_arrive(isa: str, source: str, target: str, rotated: bool | None) -> None:
    rng = generator("store", source, target, rotated)
    src = stored(normal(rng, B, H, S, D), source)
    angles = None if rotated is None else (*fa.rope_table(40, 20), rng.integers(0, 40, (B, S)))
    for layout, ascending, threads in [("HPD", False, 1), ("PHD", True, 3), ("HPD", True, 2)]:
        slots = some_slots(rng, ascending=ascending)
        dst, scale = cache(target, layout)
        expected, expected_scale = cache(target, "HPD")
        options: dict[str, Any] = {"scale": scale, "num_threads": threads}
        if angles is not None:
            options |= {"cos": angles[0], "sin": angles[1], "position_ids": angles[2], "interleaved": rotated}
        given = src if layout == "HPD" else np.ascontiguousarray(src.swapaxes(1, 2)).swapaxes(1, 2)
        with _testing.use_isa(isa):
            _core.kv_store(dst, given, slots, **options)
            by_hand(expected, expected_scale, src, (source, target), slots, angles, bool(rotated))
        assert_same_bits(np.ascontiguousarray(dst), expected, f"{source} to {target}, {layout}")
        if scale is not None:
            assert_same_bits(scale, expected_scale)


def test_many_rows_on_many_threads() -> None:
    rng = generator("large")
    src = normal(rng, 2, 4, 900, 64)
    slots = rng.permutation(2000)[:1800].reshape(2, 900)
    cos, sin = fa.rope_table(1000, 64)
    at = rng.integers(0, 1000, (2, 900))
    results = []
    for isa in ISAS:
        for threads in (1, 2, 5):
            dst, scale = np.zeros((20, 4, 100, 64), np.int8), np.zeros((20, 4, 100), F32)
            with _testing.use_isa(isa):
                _core.kv_store(dst, src, slots, scale=scale, cos=cos, sin=sin, position_ids=at, num_threads=threads)
            results.append((dst, scale))
    for dst, scale in results[1:]:
        assert_same_bits(dst, results[0][0])
        assert_same_bits(scale, results[0][1])
    rotated = fa.rope(src, cos, sin, position_ids=at)
    expected = np.zeros((20, 4, 100, 64), F32)
    for b in range(2):
        expected[slots[b] // 100, :, slots[b] % 100] = rotated[b].swapaxes(0, 1)
    plain = np.zeros_like(expected)
    _core.kv_store(plain, src, slots, cos=cos, sin=sin, position_ids=at)
    assert_same_bits(plain, expected)


def test_a_row_that_cannot_be_quantised_shows() -> None:
    src = np.ones((1, 1, 3, 4), F32)
    src[0, 0, 1, 2] = np.inf
    dst, scale = np.zeros((1, 1, 16, 4), np.int8), np.zeros((1, 1, 16), F32)
    _core.kv_store(dst, src, np.arange(3).reshape(1, 3), scale=scale)
    assert np.isnan(scale[0, 0, 1]) and not dst[0, 0, 1].any()
    assert scale[0, 0, 0] == F32(1) / F32(127) and (dst[0, 0, 0] == 127).all()


def test_nothing_to_store() -> None:
    dst = np.full((2, 2, 16, 8), 7, F32)
    _core.kv_store(dst, np.ones((0, 2, 3, 8), F32), np.zeros((0, 3), np.int64))
    _core.kv_store(dst, np.ones((3, 2, 0, 8), F32), np.zeros((3, 0), np.int64))
    _core.kv_store(dst, np.ones((2, 2, 3, 8), F32), np.full((2, 3), -1))
    _core.kv_store(np.empty((0, 2, 16, 8), F32), np.ones((2, 2, 3, 8), F32), np.full((2, 3), -1))
    assert (dst == 7).all()


def test_bad_input() -> None:
    src, slots = np.ones((B, H, S, D), F32), np.arange(B * S).reshape(B, S)
    cos, sin = fa.rope_table(40, D)
    at = np.zeros((B, S), np.int64)

    def refused(kind: type[Exception], match: str, **changed: Any) -> None:
        dst, _ = cache("float32", "HPD")
        args: dict[str, Any] = {"dst": dst, "src": src, "slots": slots} | changed
        before = args["dst"].copy()
        with pytest.raises(kind, match=match):
            _core.kv_store(**args)
        assert args["dst"].tobytes() == before.tobytes()

    def slots_with(value: int, b: int = 1, s: int = 2) -> np.ndarray:
        changed = slots.copy()
        changed[b, s] = value
        return changed

    eight = np.zeros((N, H, P, D), np.int8)
    scale = np.zeros((N, H, P), F32)
    rope: dict[str, Any] = {"cos": cos, "sin": sin, "position_ids": at}
    refused(ValueError, rf"slots: {N * P} at \(1, 2\), expected 0 to {N * P - 1}", slots=slots_with(N * P))
    refused(ValueError, r"slots: -2 at \(1, 2\)", slots=slots_with(-2))
    refused(ValueError, rf"slots: {2**62} at", slots=slots_with(2**62))
    refused(ValueError, r"slots: 3 at \(0, 3\) and at \(1, 2\)", slots=slots_with(3))
    refused(ValueError, r"slots: shape \(3, 6\), expected \(3, 7\)", slots=slots[:, :6])
    refused(TypeError, "slots: dtype int32, expected int64", slots=slots.astype(np.int32))
    refused(TypeError, "slots: list, expected a NumPy array", slots=slots.tolist())
    refused(ValueError, "src: shape", src=src[:, :1])
    refused(ValueError, "src: shape", src=src[..., :8])
    refused(TypeError, "src: dtype int8", src=src.astype(np.int8))
    refused(ValueError, "src: rank 3, expected 4", src=src[0])
    refused(ValueError, "src: last stride 8 bytes", src=np.ones((B, H, S, 2 * D), F32)[..., ::2])
    refused(ValueError, "scale: None, expected an array", dst=eight)
    refused(ValueError, "scale: an array, expected None for dst of float32", scale=scale)
    refused(ValueError, "scale: shape", dst=eight, scale=scale[:, :1])
    refused(ValueError, "scale: shares memory with dst", dst=eight, scale=eight.view(F32)[..., 0])
    refused(ValueError, "some are None", cos=cos, sin=sin)
    refused(ValueError, r"position_ids: 40 at \(1, 2\), expected 0 to 39", **rope | {"position_ids": slots_with(40)})
    refused(ValueError, r"position_ids: -1 at \(1, 2\)", **rope | {"position_ids": slots_with(-1)})
    refused(ValueError, r"sin: shape \(39, 12\)", **rope | {"sin": sin[:39]})
    refused(ValueError, r"cos: shape \(40, 13\), expected a last dimension of 1 to 12",
            **rope | {"cos": np.ones((40, 13), F32), "sin": np.ones((40, 13), F32)})  # fmt: skip
    whole = np.zeros((N, H, P, D), F32)
    refused(ValueError, "dst: shares memory with src", dst=whole, src=whole[:B, :, :S])
    shared = np.lib.stride_tricks.as_strided(whole, whole.shape, (0, *whole.strides[1:]))
    refused(ValueError, "make elements share memory", dst=shared)
    frozen = whole.copy()
    frozen.flags.writeable = False
    refused(ValueError, "dst: read-only", dst=frozen)
    refused(ValueError, "dst: rank 3, expected 4", dst=whole[0])
    with pytest.raises(ValueError, match="num_threads"):
        _core.kv_store(whole, src, slots, num_threads=0)
