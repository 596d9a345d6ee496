# SPDX-License-Identifier: MIT
"""Quantised blocks to float32: each type from its layout by NumPy, on every instruction set, with any threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.gguf_files import TENSOR_TYPES, random_blocks
from support.variants import THREADS

from fastattn import _core, _testing
from fastattn.loaders.weightfile import BLOCK_DTYPES

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float32]]
f32 = np.float32

IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
FP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12])


def half(b: Bytes, at: int) -> Floats:
    return np.ascontiguousarray(b[:, at : at + 2]).view("<f2").astype(f32)


def bits(b: Bytes) -> Any:
    """(blocks, n) bytes -> (blocks, 8 n) bits, from the lowest on."""
    return np.unpackbits(b, axis=1, bitorder="little").astype(int)


def nibbles(b: Bytes, run: int) -> Any:
    """Runs of ``run`` bytes: the low nibbles of all, then the high ones."""
    parts = b.reshape(len(b), -1, run)
    return np.concatenate([parts & 15, parts >> 4], axis=2).reshape(len(b), -1).astype(int)


def pairs(b: Bytes) -> Any:
    """Runs of 32 bytes: the lowest two bits of all, then the next two."""
    parts = b.reshape(len(b), -1, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8).reshape(4, 1)
    return (parts & 3).reshape(len(b), -1).astype(int)


def planes(b: Bytes) -> Any:
    """32 bytes: bit 0 of all, then bit 1."""
    return (b[:, None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1).reshape(len(b), -1).astype(int)


def spread(part: Any, run: int) -> Any:
    return np.repeat(part, run, axis=1)


def product(a: Any, b: Any) -> Floats:
    return np.asarray(a, f32) * np.asarray(b, f32)


def six_bits(b: Bytes) -> tuple[Any, Any]:
    """Scales and minima of Q4_K and Q5_K: a stream of bits would be too simple."""
    low, mins, mixed = b[:, 4:8].astype(int), b[:, 8:12].astype(int), b[:, 12:16].astype(int)
    scales = np.concatenate([low % 64, mixed % 16 + low // 64 * 16], axis=1)
    return scales, np.concatenate([mins % 64, mixed // 16 + mins // 64 * 16], axis=1)


def with_minimum(b: Bytes, q: Any) -> Floats:
    scales, mins = six_bits(b)
    least = spread(product(half(b, 2), mins), 32)
    return product(spread(product(half(b, 0), scales), 32), q) - least


def q3_k(b: Bytes) -> Floats:
    low = nibbles(b[:, 96:104], 8)
    high = (b[:, None, 104:108] >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3).reshape(len(b), 16).astype(int)
    scales = spread(product(half(b, 108), low + 16 * high - 32), 16)
    return product(scales, pairs(b[:, 32:96]) - 4 + 4 * planes(b[:, :32]))


def q6_k(b: Bytes) -> Floats:
    q = nibbles(b[:, :128], 64) + 16 * pairs(b[:, 128:192]) - 32
    return product(spread(product(half(b, 208), b[:, 192:208].view(np.int8)), 16), q)


def iq4_xs(b: Bytes) -> Floats:
    low = np.stack([b[:, 4:8] & 15, b[:, 4:8] >> 4], axis=2).reshape(len(b), 8).astype(int)
    high = bits(b[:, 2:4])
    scales = low + 16 * high[:, 0::2] + 32 * high[:, 1::2] - 32
    return product(spread(product(half(b, 0), scales), 32), IQ4[nibbles(b[:, 8:], 16)])


def mxfp4(b: Bytes) -> Floats:
    scale = np.ldexp(1.0, b[:, :1].astype(int) - 128).astype(f32)  # the values are doubled
    return product(scale, FP4[nibbles(b[:, 1:], 16)])


LAYOUTS: dict[str, Callable[[Bytes], Floats]] = {
    "Q4_0": lambda b: product(half(b, 0), nibbles(b[:, 2:], 16) - 8),
    "Q4_1": lambda b: product(half(b, 0), nibbles(b[:, 4:], 16)) + half(b, 2),
    "Q5_0": lambda b: product(half(b, 0), nibbles(b[:, 6:], 16) + 16 * bits(b[:, 2:6]) - 16),
    "Q5_1": lambda b: product(half(b, 0), nibbles(b[:, 8:], 16) + 16 * bits(b[:, 4:8])) + half(b, 2),
    "Q8_0": lambda b: product(half(b, 0), b[:, 2:].view(np.int8)),
    "Q2_K": lambda b: (
        product(spread(product(half(b, 80), b[:, :16] & 15), 16), pairs(b[:, 16:80]))
        - spread(product(half(b, 82), b[:, :16] >> 4), 16)
    ),
    "Q3_K": q3_k,
    "Q4_K": lambda b: with_minimum(b, nibbles(b[:, 16:], 32)),
    "Q5_K": lambda b: with_minimum(b, nibbles(b[:, 48:], 32) + 16 * planes(b[:, 16:48])),
    "Q6_K": q6_k,
    "IQ4_NL": lambda b: product(half(b, 0), IQ4[nibbles(b[:, 2:], 16)]),
    "IQ4_XS": iq4_xs,
    "MXFP4": mxfp4,
}


def dequantized(name: str, data: bytes, shape: tuple[int, int], num_threads: int | None = None) -> Floats:
    out = np.full(shape, 7, f32)
    _core.dequantize(out, data, BLOCK_DTYPES[name].code, num_threads)
    return out


def expected(name: str, data: bytes) -> Floats:
    with np.errstate(all="ignore"):
        values = LAYOUTS[name](np.frombuffer(data, np.uint8).reshape(-1, BLOCK_DTYPES[name].nbytes)).reshape(-1)
    assert values.dtype == f32
    return np.where(np.isnan(values), f32(np.nan), values)  # the canonical one


def test_every_type_has_its_layout_here() -> None:
    assert set(LAYOUTS) == set(BLOCK_DTYPES)
    assert all(TENSOR_TYPES[name] == tuple(block) for name, block in BLOCK_DTYPES.items())


@pytest.mark.parametrize("name", LAYOUTS)
def test_random_bytes_on_every_instruction_set(name: str) -> None:
    """All patterns of scales are among them: denormal, negative, infinite, NaN."""
    data = random_blocks(name, (37, 1024), np.random.default_rng(7))
    wanted = expected(name, data)
    assert name == "MXFP4" or np.isnan(wanted).any()
    for isa in _testing.isas():
        with _testing.use_isa(isa):
            got = dequantized(name, data, (37, 1024), 1).reshape(-1)
        np.testing.assert_array_equal(got.view(np.uint32), wanted.view(np.uint32), err_msg=isa)


@pytest.mark.parametrize("name", LAYOUTS)
def test_scales_at_their_ends(name: str) -> None:
    """Zero of either sign, the smallest denormal, the largest number, infinities and NaN in each place of a scale."""
    block = BLOCK_DTYPES[name]
    rng = np.random.default_rng(8)
    places = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}.get(
        name, (0, 2) if name[-1] == "1" or name in ("Q4_K", "Q5_K") else (0,)
    )
    if name == "MXFP4":
        blocks = np.frombuffer(rng.bytes(256 * 17), np.uint8).reshape(256, 17).copy()
        blocks[:, 0] = np.arange(256)
    else:
        ends = np.array(
            [0, 0x8000, 1, 0x8001, 0x3FF, 0x400, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7C01, 0xFE00], "<u2"
        )
        grid = np.stack(np.meshgrid(*[ends] * len(places)), axis=-1).reshape(-1, len(places))
        blocks = np.frombuffer(rng.bytes(len(grid) * block.nbytes), np.uint8).reshape(len(grid), -1).copy()
        for i, at in enumerate(places):
            blocks[:, at : at + 2] = np.ascontiguousarray(grid[:, i : i + 1]).view(np.uint8)
    data = blocks.tobytes()
    got = dequantized(name, data, (len(blocks), block.elements)).reshape(-1)
    np.testing.assert_array_equal(got.view(np.uint32), expected(name, data).view(np.uint32))


@pytest.mark.parametrize("name", ["Q4_1", "Q6_K", "MXFP4"])
@pytest.mark.parametrize("shape", [(1, 256), (700, 512), (3, 65536 + 256), (1, 3 * 65536), (2, 0), (0, 256)])
def test_threads_and_strides_change_nothing(name: str, shape: tuple[int, int]) -> None:
    data = random_blocks(name, (*shape,), np.random.default_rng(9))
    wanted = expected(name, data).reshape(shape).tobytes() if data else b""
    for threads in THREADS:
        assert dequantized(name, data, shape, threads).tobytes() == wanted
    wide = np.full((shape[0], shape[1] + 9), 7, f32)
    inner = wide[:, 4 : 4 + shape[1]]
    _core.dequantize(inner, data, BLOCK_DTYPES[name].code)
    assert inner.tobytes() == wanted and (wide[:, :4] == 7).all() and (wide[:, -5:] == 7).all()
    back = np.full(shape, 7, f32)[::-1]
    _core.dequantize(back, data, BLOCK_DTYPES[name].code)
    assert back.tobytes() == wanted


def test_any_address() -> None:
    data = random_blocks("Q5_K", (2, 512), np.random.default_rng(10))
    wanted = expected("Q5_K", data).tobytes()
    for shift in range(17):
        memory = np.frombuffer(bytes(shift) + data, np.uint8)[shift:]
        out = np.empty((2, 512), f32)
        _core.dequantize(out, memory, BLOCK_DTYPES["Q5_K"].code)
        assert out.tobytes() == wanted


@pytest.mark.parametrize("short", [-1, 1, -18, 18, -72])
def test_the_length_is_checked(short: int) -> None:
    with pytest.raises(ValueError, match=r"blocks: \d+ bytes, expected those of shape \(2, 64\) in blocks of 32"):
        _core.dequantize(np.empty((2, 64), f32), bytes(72 + short), 2)


def test_arguments_of_another_kind() -> None:
    out = np.empty((2, 64), f32)
    for kind in (-1, 0, 1, 9, 16, 24, 30, 40, 2**31 - 1):
        with pytest.raises(ValueError, match="type: .* is no type of blocks"):
            _core.dequantize(out, bytes(72), kind)
    with pytest.raises(ValueError, match=r"blocks: 72 bytes, expected those of shape \(2, 63\)"):
        _core.dequantize(np.empty((2, 63), f32), bytes(72), 2)
    for blocks in (np.zeros(72, np.int16), np.zeros(144, np.uint8)[::2], "x" * 72, None, np.zeros(72, np.int8)):
        with pytest.raises(TypeError):
            _core.dequantize(out, blocks, 2)
    for bad, error in ((np.empty((2, 64)), TypeError), (np.empty(128, f32), ValueError), (out[:, ::2], ValueError)):
        with pytest.raises(error, match="out: "):
            _core.dequantize(bad, bytes(72), 2)
    with pytest.raises(ValueError, match="shares memory"):
        _core.dequantize(out, out.reshape(-1).view(np.uint8)[:72], 2)


def test_strings_are_walked_within_the_data() -> None:
    """The bounds of the walk itself, whatever loaders check before it."""
    data = (3).to_bytes(8, "little") + b"abc" + (0).to_bytes(8, "little") + (2**64 - 1).to_bytes(8, "little")
    ends = np.zeros(4, np.int64)
    assert _core.string_ends(data, 0, ends[:3]) == -1 and ends[:3].tolist() == [0, 11, 19]
    assert _core.string_ends(data, 0, ends) == 2 and _core.string_ends(data, 20, ends) == 0
    assert _core.string_ends(data, len(data), ends) == 0 and _core.string_ends(b"", 0, ends[:1]) == -1
    assert _core.strings_at(data, ends[:3], 0, 2) == ["abc", ""] and _core.strings_at(data, ends[:3], 1, 1) == []
    for start in (-1, len(data) + 1):
        with pytest.raises(ValueError, match="start"):
            _core.string_ends(data, start, ends)
    with pytest.raises(ValueError, match="start"):
        _core.string_ends(data, 0, ends[:0])
    for first, stop in ((-1, 1), (0, 3)):
        with pytest.raises(ValueError, match="first, stop"):
            _core.strings_at(data, ends[:3], first, stop)
    for wrong in ([0, 2**40], [-9, 11], [11, 0], [2**62, -(2**62)], [-(2**63), 2**63 - 1]):
        with pytest.raises(ValueError, match="not those of these data"):
            _core.strings_at(data, np.array(wrong, np.int64), 0, 1)
    for bad in (np.zeros(4, np.int32), np.zeros(8, np.int64)[::2], [0, 0, 0], np.zeros(4)):
        with pytest.raises(TypeError):
            _core.string_ends(data, 0, bad)
