# SPDX-License-Identifier: MIT
"""Writes GGUF files, and files that only claim to be: every number in them can be made to lie.

    gguf_bytes({"general.architecture": "llama", "llama.block_count": 2}, {"w": np.zeros((2, 32), np.float32)})

Values of fields by their Python type: bool, int (u32, or i32 below zero), float (f32), str or bytes, a list of one of
them (ints i32), a NumPy array (its dtype); ``U8(1)``, ``F64(0.5)`` and their like set the type, ``Array`` that of the
elements, and ``Raw`` writes any bytes behind any type. Both arguments may also be pairs in place of a mapping, for
duplicates. Shapes are in NumPy's order, the reverse of the file's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

# name -> (id, elements of a block, bytes of a block)
TENSOR_TYPES: dict[str, tuple[int, int, int]] = {
    "F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34), "Q8_1": (9, 32, 36), "Q2_K": (10, 256, 84), "Q3_K": (11, 256, 110),
    "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176), "Q6_K": (14, 256, 210), "Q8_K": (15, 256, 292),
    "IQ2_XXS": (16, 256, 66), "IQ2_XS": (17, 256, 74), "IQ3_XXS": (18, 256, 98), "IQ1_S": (19, 256, 50),
    "IQ4_NL": (20, 32, 18), "IQ3_S": (21, 256, 110), "IQ2_S": (22, 256, 82), "IQ4_XS": (23, 256, 136),
    "I8": (24, 1, 1), "I16": (25, 1, 2), "I32": (26, 1, 4), "I64": (27, 1, 8), "F64": (28, 1, 8),
    "IQ1_M": (29, 256, 56), "BF16": (30, 1, 2), "TQ1_0": (34, 256, 54), "TQ2_0": (35, 256, 66), "MXFP4": (39, 32, 17),
    "NVFP4": (40, 64, 36), "Q1_0": (41, 128, 18),
}  # fmt: skip

_OF_DTYPE = {"f4": "F32", "f2": "F16", "f8": "F64", "i1": "I8", "i2": "I16", "i4": "I32", "i8": "I64"}
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_FIELD_OF_DTYPE = {
    "u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "b1": 7, "u8": 10, "i8": 11, "f8": 12,
}  # fmt: skip
STRING, ARRAY = 8, 9


class Typed(NamedTuple):
    """A value of the field type ``type_id``."""

    type_id: int
    value: Any


class Array(NamedTuple):
    """An array whose elements have the field type ``type_id``; ``count`` is what the file says of their number."""

    type_id: int
    values: Iterable[Any]
    count: int | None = None


class Raw(NamedTuple):
    """The type number ``type_id`` and ``payload`` behind it, whatever they mean."""

    type_id: int
    payload: bytes


U8, I8, U16, I16, U32, I32, F32, BOOL, STR, U64, I64, F64 = (
    partial(Typed, type_id) for type_id in (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12)
)


class Tensor(NamedTuple):
    """A tensor as it is written; ``offset``, ``n_dims`` and ``name_length`` are told as they should be where None."""

    type: str | int
    shape: tuple[int, ...]
    data: bytes
    offset: int | None = None
    n_dims: int | None = None
    name_length: int | None = None


def string(text: str | bytes, length: int | None = None) -> bytes:
    """A string of the format, its ``length`` a lie if given."""
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data) if length is None else length) + data


def _scalar(type_id: int, value: Any) -> bytes:
    return string(value) if type_id == STRING else struct.pack(_SCALARS[type_id], value)


def _type_of(value: Any, whole: int) -> int:
    if isinstance(value, bool):
        return 7
    if isinstance(value, int):
        return 5 if value < 0 else whole
    if isinstance(value, float):
        return 6
    if isinstance(value, (str, bytes)):
        return STRING
    raise TypeError(f"no type of GGUF for {value!r}")


def value_bytes(value: Any) -> bytes:
    """Type and value of one field."""
    if isinstance(value, Raw):
        return struct.pack("<I", value.type_id) + value.payload
    if isinstance(value, Typed):
        return struct.pack("<I", value.type_id) + _scalar(*value)
    if isinstance(value, np.ndarray):
        type_id = _FIELD_OF_DTYPE[value.dtype.str[1:]]
        body = value.astype(value.dtype.newbyteorder("<")).tobytes()
        return struct.pack("<IIQ", ARRAY, type_id, value.size) + body
    if isinstance(value, (list, tuple)) and not isinstance(value, Array):
        value = Array(_type_of(value[0], 5) if value else 5, value)
    if isinstance(value, Array):
        values = list(value.values)
        count = len(values) if value.count is None else value.count
        return struct.pack("<IIQ", ARRAY, value.type_id, count) + b"".join(_scalar(value.type_id, v) for v in values)
    type_id = _type_of(value, 4)
    return struct.pack("<I", type_id) + _scalar(type_id, value)


def _pairs(items: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    return list(items.items() if isinstance(items, Mapping) else items)


def as_tensor(value: Any) -> Tensor:
    """A NumPy array of a type GGUF has, or (type name, shape, bytes), as a ``Tensor``."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value.astype(value.dtype.newbyteorder("<"), copy=False)).tobytes()
        return Tensor(_OF_DTYPE[value.dtype.str[1:]], value.shape, data)
    return Tensor(*value)


def gguf_bytes(
    fields: Mapping[Any, Any] | Iterable[tuple[Any, Any]],
    tensors: Mapping[Any, Any] | Iterable[tuple[Any, Any]],
    version: int = 3,
    alignment: int = 32,
    *,
    magic: bytes = b"GGUF",
    n_fields: int | None = None,
    n_tensors: int | None = None,
) -> bytes:
    """A whole file.

    An ``alignment`` other than 32 is also written as ``general.alignment``, unless ``fields`` says it. The last tensor
    is padded like all others, as llama.cpp's writer does.
    """
    pairs, entries = _pairs(fields), [(name, as_tensor(value)) for name, value in _pairs(tensors)]
    if alignment != 32 and all(key != "general.alignment" for key, _ in pairs):
        pairs.append(("general.alignment", alignment))
    count = len(entries) if n_tensors is None else n_tensors
    head = magic + struct.pack("<IQQ", version, count, len(pairs) if n_fields is None else n_fields)
    head += b"".join(string(key) + value_bytes(value) for key, value in pairs)
    data = b""
    for name, tensor in entries:
        type_id = TENSOR_TYPES[tensor.type][0] if isinstance(tensor.type, str) else tensor.type
        head += string(name, tensor.name_length)
        head += struct.pack("<I", len(tensor.shape) if tensor.n_dims is None else tensor.n_dims)
        head += b"".join(struct.pack("<Q", n % 2**64) for n in reversed(tensor.shape))
        head += struct.pack("<IQ", type_id % 2**32, (len(data) if tensor.offset is None else tensor.offset) % 2**64)
        data += tensor.data
        data += bytes(-len(data) % alignment)
    return head + bytes(-len(head) % alignment) + data if entries else head


def random_blocks(type_name: str, shape: tuple[int, ...], rng: np.random.Generator) -> bytes:
    """Random bytes of a tensor of ``shape``: every pattern of scales too, NaN and infinity among them."""
    _, elements, size = TENSOR_TYPES[type_name]
    assert shape[-1] % elements == 0
    return rng.bytes(int(np.prod(shape[:-1], dtype=np.int64)) * shape[-1] // elements * size)


def finite_blocks(type_name: str, shape: tuple[int, ...], rng: np.random.Generator, size: float = 0.02) -> np.ndarray:
    """Random blocks of a tensor of ``shape``, uint8 (..., bytes of a row), whose weights are about ``size`` at most."""
    _, elements, nbytes = TENSOR_TYPES[type_name]
    count = int(np.prod(shape, dtype=np.int64)) // elements
    blocks = rng.integers(0, 256, (count, nbytes)).astype(np.uint8)
    largest = {"Q4_0": 8, "Q4_1": 15, "Q5_0": 16, "Q5_1": 31, "Q8_0": 128, "Q2_K": 45, "Q3_K": 128, "Q4_K": 945,
               "Q5_K": 1953, "Q6_K": 4096, "IQ4_NL": 127, "IQ4_XS": 4064}  # fmt: skip
    if type_name == "MXFP4":
        blocks[:, 0] = rng.integers(116, 121, count)
    else:
        scale = (size / largest[type_name] * rng.uniform(0.5, 1, count)).astype(np.float16)
        at = {"Q6_K": 208, "Q2_K": 80, "Q3_K": 108}.get(type_name, 0)
        blocks[:, at : at + 2] = scale.view(np.uint8).reshape(-1, 2)
    if type_name in ("Q4_1", "Q5_1"):
        blocks[:, 2:4] = rng.uniform(-size, 0, count).astype(np.float16).view(np.uint8).reshape(-1, 2)
    if type_name in ("Q2_K", "Q4_K", "Q5_K"):
        at = 82 if type_name == "Q2_K" else 2
        least = rng.uniform(0, size / (15 if type_name == "Q2_K" else 63), count).astype(np.float16)
        blocks[:, at : at + 2] = least.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(*shape[:-1], -1)
